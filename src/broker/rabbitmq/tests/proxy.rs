//! A proxy in front of the broker, for the faults that a broker cannot be asked for.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};

use crate::broker::rabbitmq::endpoint::Endpoint;

/// Forwards bytes until told otherwise.
#[derive(Clone, Default)]
pub(super) struct Proxy(Rc<State>);

#[derive(Default)]
struct State {
    port: Cell<u16>,
    stalled: Cell<bool>,
    cut: Notify,
    tasks: RefCell<Vec<AbortHandle>>,
    /// Bytes to be put in before what the server says next, on each connection that publishes (the second).
    inject: RefCell<Vec<u8>>,
    accepted: Cell<usize>,
}

impl Proxy {
    pub(super) async fn before(target: &Endpoint) -> (Self, Endpoint) {
        let proxy = Proxy::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        proxy.0.port.set(port);
        let state = Rc::clone(&proxy.0);
        let to = (target.host.clone(), target.port);
        let accepting = spawn_local(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect((to.0.as_str(), to.1)).await.expect("the broker");
                state.accepted.set(state.accepted.get() + 1);
                let number = state.accepted.get();
                let relay = spawn_local(relay(Rc::clone(&state), client, server, number));
                state.tasks.borrow_mut().push(relay.abort_handle());
            }
        });
        proxy.0.tasks.borrow_mut().push(accepting.abort_handle());
        (proxy, Endpoint { host: "127.0.0.1".to_owned(), port, ..target.clone() })
    }

    /// Closes every connection, as a broker does that is killed.
    pub(super) fn cut(&self) {
        for task in self.0.tasks.borrow_mut().drain(..) {
            task.abort();
        }
    }

    /// Forwards nothing more in either direction, as a network does that has gone.
    pub(super) fn stall(&self) {
        self.0.stalled.set(true);
    }

    /// Says this to the publishing connection as if the server did; it must be idle.
    pub(super) fn inject(&self, frame: &[u8]) {
        self.0.inject.borrow_mut().extend_from_slice(frame);
        self.0.cut.notify_waiters();
    }
}

async fn relay(state: Rc<State>, client: TcpStream, server: TcpStream, number: usize) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let (mut up, mut down) = (vec![0; 65536], vec![0; 65536]);
    loop {
        if state.stalled.get() {
            return std::future::pending().await;
        }
        tokio::select! {
            read = from_client.read(&mut up) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) if state.stalled.get() => {}
                Ok(read) => if to_server.write_all(&up[..read]).await.is_err() { return },
            },
            read = from_server.read(&mut down) => match read {
                Ok(0) | Err(_) => return,
                Ok(_) if state.stalled.get() => {}
                Ok(read) => if to_client.write_all(&down[..read]).await.is_err() { return },
            },
            () = state.cut.notified() => if number == 2 {
                let frame = state.inject.take();
                if to_client.write_all(&frame).await.is_err() { return }
            },
        }
    }
}
