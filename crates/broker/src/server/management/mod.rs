//! RabbitMQ's management API beside a [`Server`](super::Server), as far as operators' tools use it, and metrics for Prometheus.
//!
//! It has a thread of its own, which asks the server's thread through [`Admin`]: what is shown is copied there and becomes text
//! here, so that clients of the broker wait for the copy only. What it changes it changes as its caller, whose permissions count.
//!
//! `routes` is the table of paths; `rows` is what there is, `json` its form; `operate` does things; `access` lets callers in.

mod access;
mod answer;
mod definitions;
mod json;
mod messages;
mod metrics;
mod operate;
mod query;
mod rates;
mod routes;
mod rows;

use super::{admin::Admin, builder::StartError, connection::Origin, listen::is_loopback};
use access::Denied;
use answer::Refused;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::AUTHORIZATION;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use query::Query;
use rates::Sampler;
use routes::{Asked, Service};
use serde_json::Value as Json;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout};

/// So many callers are served at a time; others wait.
const CALLERS: usize = 64;
/// The most bytes of a request's body: definitions are the largest.
const BODY: usize = 32 << 20;
/// How long a caller has for the head of a request, and how long a connection without one stays.
const HEAD: Duration = Duration::from_secs(30);
/// How long a request may take in all.
const REQUEST: Duration = Duration::from_secs(60);
/// How long nobody is let in after the system refused to.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a wrong password takes at least, so that they are not tried fast.
const WRONG: Duration = Duration::from_millis(500);

/// RabbitMQ's management API of a server, by HTTP, on a thread of its own. Dropping it ends it at once.
///
/// Callers log in as the broker's users do, by HTTP's basic authentication, and need one of RabbitMQ's tags `administrator`,
/// `monitoring`, `policymaker` or `management`. There is no TLS: on other addresses than those of this machine passwords can be read
/// on their way.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use homing_broker::server::{Management, Server};
///
/// let server = Server::builder().listen("127.0.0.1:5672".parse()?).start()?;
/// let management = Management::start(&server.admin(), &["127.0.0.1:15672".parse()?])?;
/// println!("http://{}/api/overview", management.addresses()[0]);
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Management {
    addresses: Vec<SocketAddr>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Management {
    /// Starts it. Port 0 is a free one.
    ///
    /// # Errors
    /// An address cannot be listened on, or the system gives no thread.
    pub fn start(admin: &Admin, addresses: &[SocketAddr]) -> Result<Self, StartError> {
        let mut listeners = Vec::new();
        let mut bound = Vec::new();
        for address in addresses {
            let failed = |error| StartError::new(format!("{address} cannot be listened on"), error);
            let listener = std::net::TcpListener::bind(address).map_err(failed)?;
            listener.set_nonblocking(true).map_err(failed)?;
            bound.push(listener.local_addr().map_err(failed)?);
            listeners.push(listener);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| StartError::new("the runtime of the management API cannot be made", error))?;
        let (stop, stopping) = oneshot::channel();
        let admin = admin.clone();
        let thread = std::thread::Builder::new()
            .name("homing-http".to_owned())
            .spawn(move || LocalSet::new().block_on(&runtime, run(listeners, admin, stopping)))
            .map_err(|error| StartError::new("the thread of the management API cannot be started", error))?;
        Ok(Self { addresses: bound, stop: Some(stop), thread: Some(thread) })
    }

    /// The addresses that it listens on, with the ports that the system chose.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

impl Drop for Management {
    fn drop(&mut self) {
        // It may have ended by itself, after the server.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}

async fn run(listeners: Vec<std::net::TcpListener>, admin: Admin, stopping: oneshot::Receiver<()>) {
    let sampler = Rc::new(Sampler::default());
    spawn_local(sampler.clone().run(admin.clone()));
    let service = Rc::new(Service { admin, sampler });
    let turns = Arc::new(Semaphore::new(CALLERS));
    for listener in listeners {
        match TcpListener::from_std(listener) {
            Ok(listener) => _ = spawn_local(accept(listener, service.clone(), turns.clone())),
            Err(error) => tracing::error!(%error, "the management API cannot use one of its listeners"),
        }
    }
    // Dropping the handle ends it: the sender is gone then.
    _ = stopping.await;
}

async fn accept(listener: TcpListener, service: Rc<Service>, turns: Arc<Semaphore>) {
    loop {
        // Guards: whoever opens more connections than are served costs nothing but the system's queue.
        let Ok(turn) = turns.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, address)) => {
                let service = service.clone();
                spawn_local(async move {
                    serve(stream, address, service).await;
                    drop(turn);
                });
            }
            Err(error) => {
                tracing::error!(%error, "a caller of the management API could not be let in");
                sleep(PAUSE).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, address: SocketAddr, service: Rc<Service>) {
    let origin = if is_loopback(address.ip()) { Origin::Local } else { Origin::Remote };
    let answering = service_fn(move |request| {
        let service = service.clone();
        async move { Ok::<_, Infallible>(respond(&service, request, origin).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .serve_connection(TokioIo::new(stream), answering);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a caller of the management API has gone, or made no sense");
    }
}

async fn respond(service: &Service, request: Request<Incoming>, origin: Origin) -> Response<Full<Bytes>> {
    let begun = (request.method().clone(), request.uri().path().to_owned());
    match timeout(REQUEST, answer(service, request, origin)).await {
        Ok(Ok(answer)) => answer.into_response(),
        Ok(Err(refused)) => refused.into_response(),
        Err(_) => {
            tracing::warn!(method = %begun.0, path = begun.1, "a request to the management API took too long");
            Refused::stopped().into_response()
        }
    }
}

async fn answer(service: &Service, request: Request<Incoming>, origin: Origin) -> answer::Result<answer::Answer> {
    let (head, body) = request.into_parts();
    let authorization = head.headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let caller = access::log_in(&service.admin, authorization, origin).await;
    let caller = match caller {
        Ok(caller) => caller,
        Err(Denied::NoTag) => {
            return Err(Refused::not_authorised("the user needs the tag management, monitoring or administrator"));
        }
        Err(Denied::Stopped) => return Err(Refused::stopped()),
        Err(Denied::LogIn) => {
            if authorization.is_some() {
                tracing::warn!("login refused by the management API");
                sleep(WRONG).await;
            }
            return Err(Refused::not_authorised("Login failed"));
        }
    };
    let path = head.uri.path().trim_matches('/');
    let part = |part: &str| percent_decode_str(part).decode_utf8().map(std::borrow::Cow::into_owned);
    let path: Vec<String> =
        path.split('/').map(part).collect::<Result<_, _>>().map_err(|_| Refused::bad("the path is no UTF-8"))?;
    let body = match head.method {
        Method::GET | Method::HEAD | Method::DELETE => Json::Null,
        _ => read(body).await?,
    };
    let query = Query::read(head.uri.query().unwrap_or_default());
    service.answer(&Asked { caller, method: &head.method, path: &path, query, body }).await
}

async fn read(body: Incoming) -> answer::Result<Json> {
    let bytes = Limited::new(body, BODY).collect().await.map_err(|_| Refused::too_large(BODY))?.to_bytes();
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Json::Object(serde_json::Map::new()));
    }
    serde_json::from_slice(&bytes).map_err(|error| Refused::bad(format!("the body is no JSON: {error}")))
}
