//! A TCP proxy before a broker that can do to a connection what a network does: cut it, stall it, delay it, close one half,
//! change a byte. It counts what it has done, so that a test can show that its fault has happened.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const TICK: Duration = Duration::from_millis(10);

const PASS: u8 = 0;
/// Nothing goes through, and nothing is closed.
const STALL: u8 = 1;
/// New connections are closed at once.
const REFUSE: u8 = 2;

#[derive(Default)]
struct State {
    mode: AtomicU8,
    ended: AtomicBool,
    /// Before each piece, in milliseconds.
    delay: AtomicU64,
    /// How many pieces from the broker are still to be changed.
    corrupt: AtomicU64,
    /// How many connections, pieces and bytes a fault was done to.
    done: AtomicU64,
    pairs: Mutex<Vec<(TcpStream, TcpStream)>>,
}

/// A proxy on a free port of the loopback.
pub struct Proxy {
    state: Arc<State>,
    address: SocketAddr,
    listener: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Before the broker of this URL.
    pub fn before(url: &str) -> std::io::Result<Proxy> {
        let to = url.rsplit('@').next().unwrap_or(url).split('/').next().unwrap_or(url).to_owned();
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::default());
        let its = Arc::clone(&state);
        let listener = std::thread::spawn(move || listen(&listener, &to, &its));
        Ok(Proxy { state, address, listener: Some(listener) })
    }

    /// The broker's URL through this proxy.
    pub fn url(&self, of: &str) -> String {
        let (scheme, rest) = of.split_once("://").unwrap_or(("amqp", of));
        let (user, host) = rest.rsplit_once('@').unwrap_or(("guest:guest", rest));
        let path = host.split_once('/').map_or("", |(_, path)| path);
        format!("{scheme}://{user}@{}/{path}", self.address)
    }

    /// How many connections go through it.
    pub fn connections(&self) -> usize {
        self.pairs().len()
    }

    /// How often it has done something to what goes through.
    pub fn done(&self) -> u64 {
        self.state.done.load(Ordering::SeqCst)
    }

    pub fn pass(&self) {
        self.state.mode.store(PASS, Ordering::SeqCst);
        self.state.delay.store(0, Ordering::SeqCst);
    }

    pub fn stall(&self) {
        self.state.done.fetch_add(self.connections() as u64, Ordering::SeqCst);
        self.state.mode.store(STALL, Ordering::SeqCst);
    }

    pub fn refuse(&self) {
        self.state.mode.store(REFUSE, Ordering::SeqCst);
    }

    pub fn delay(&self, time: Duration) {
        self.state.delay.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    /// Changes a byte of each of the next pieces that come from the broker.
    pub fn corrupt(&self, pieces: u64) {
        self.state.corrupt.store(pieces, Ordering::SeqCst);
    }

    /// Ends every connection, both halves.
    pub fn cut(&self) {
        self.end(Shutdown::Both);
    }

    /// Ends the half from the broker to the client: the client reads an end, the broker none.
    pub fn half_close(&self) {
        self.end(Shutdown::Write);
    }

    fn end(&self, how: Shutdown) {
        for (client, broker) in self.pairs().iter() {
            let _ = client.shutdown(how);
            if how == Shutdown::Both {
                let _ = broker.shutdown(how);
            }
            self.state.done.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn pairs(&self) -> std::sync::MutexGuard<'_, Vec<(TcpStream, TcpStream)>> {
        self.state.pairs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        self.end(Shutdown::Both);
        if let Some(listener) = self.listener.take() {
            let _ = listener.join();
        }
    }
}

fn listen(listener: &TcpListener, to: &str, state: &Arc<State>) {
    let mut pumps = Vec::new();
    while !state.ended.load(Ordering::SeqCst) {
        let Ok((client, _)) = listener.accept() else {
            std::thread::sleep(TICK);
            continue;
        };
        if state.mode.load(Ordering::SeqCst) == REFUSE {
            state.done.fetch_add(1, Ordering::SeqCst);
            continue;
        }
        let Ok(broker) = TcpStream::connect(to) else { continue };
        if let Some(both) = pair(&client, &broker, state) {
            pumps.extend(both);
        }
    }
    for pump in pumps {
        let _ = pump.join();
    }
}

fn pair(client: &TcpStream, broker: &TcpStream, state: &Arc<State>) -> Option<[JoinHandle<()>; 2]> {
    let (client_too, broker_too) = (client.try_clone().ok()?, broker.try_clone().ok()?);
    client.set_nonblocking(false).ok()?;
    client.set_read_timeout(Some(TICK)).ok()?;
    broker.set_read_timeout(Some(TICK)).ok()?;
    let kept = (client.try_clone().ok()?, broker.try_clone().ok()?);
    state.pairs.lock().unwrap_or_else(PoisonError::into_inner).push(kept);
    let (from_client, to_broker) = (client.try_clone().ok()?, broker_too);
    let (from_broker, to_client) = (broker.try_clone().ok()?, client_too);
    let (one, other) = (Arc::clone(state), Arc::clone(state));
    Some([
        std::thread::spawn(move || pump(from_client, to_broker, &one, false)),
        std::thread::spawn(move || pump(from_broker, to_client, &other, true)),
    ])
}

fn pump(mut from: TcpStream, mut to: TcpStream, state: &State, is_from_broker: bool) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if state.ended.load(Ordering::SeqCst) {
            break;
        }
        if state.mode.load(Ordering::SeqCst) == STALL {
            std::thread::sleep(TICK);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => {
                let delay = state.delay.load(Ordering::SeqCst);
                if delay > 0 {
                    state.done.fetch_add(1, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(delay));
                }
                let piece = &mut buffer[..count];
                if is_from_broker && state.corrupt.load(Ordering::SeqCst) > 0 {
                    state.corrupt.fetch_sub(1, Ordering::SeqCst);
                    state.done.fetch_add(1, Ordering::SeqCst);
                    // The type of a frame: no such type is known.
                    piece[0] ^= 0x55;
                }
                // A stall that began while it was being read keeps it here.
                while state.mode.load(Ordering::SeqCst) == STALL && !state.ended.load(Ordering::SeqCst) {
                    std::thread::sleep(TICK);
                }
                if to.write_all(piece).is_err() {
                    break;
                }
            }
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
