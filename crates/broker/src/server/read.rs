//! The task that reads from one client.

use super::{
    accounts::{Verification, Verified},
    aside::aside,
    connection::{Connection, Origin, Phase},
    shared::Shared,
    write,
};
use bytes::{Buf, BytesMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::Semaphore;
use tokio::task::{spawn_local, yield_now};
use tokio::time::{sleep_until, timeout};

/// What a client that sends little has for its input, in bytes.
const SMALL: usize = 2 << 10;
/// What one that sends much has.
const LARGE: usize = 64 << 10;

/// How long what a client still sends after the end is read and dropped.
const LINGER: Duration = Duration::from_secs(1);

/// How long a connection waits when nothing limits that: an order or its end wakes it before.
const LONG: Duration = Duration::from_secs(3600);

/// The addresses of the client and of the server, if they have some.
pub(super) type Ends = Option<(SocketAddr, SocketAddr)>;

/// Serves one client until it has gone.
pub(super) async fn serve<R, W>(reader: R, writer: W, origin: Origin, ends: Ends, server: Rc<Shared>)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + 'static,
{
    if let Some(connection) = enter(origin, ends, server) {
        converse(connection, reader, writer).await;
    }
}

/// Serves one client, which begins TLS, until it has gone.
#[cfg(feature = "tls")]
pub(super) async fn serve_tls(
    stream: tokio::net::TcpStream,
    tls: super::tls::Tls,
    origin: Origin,
    ends: Ends,
    server: Rc<Shared>,
) {
    // Guards: who never finishes the handshake counts among the connections, and has one time for TLS and AMQP together.
    let Some(mut connection) = enter(origin, ends, server) else { return };
    let peer = connection.peer.clone();
    let until = connection.phase_ends.unwrap_or_else(Instant::now);
    let accepted = tokio::select! {
        biased;
        () = is_told_to_end(&peer) => return,
        accepted = tokio::time::timeout_at(until.into(), tls.acceptor().accept(stream)) => accepted,
    };
    match accepted {
        Ok(Ok(stream)) => {
            peer.note(|facts| facts.tls = stream.get_ref().1.protocol_version().and_then(|version| version.as_str()));
            let (reader, writer) = tokio::io::split(stream);
            converse(connection, reader, writer).await;
        }
        Ok(Err(error)) => {
            tracing::info!(connection = peer.id, %error, "a client did not begin TLS, or refused the certificate");
        }
        Err(_) => connection.timed_out(),
    }
}

/// Waits until the connection has to end, whatever its client does.
#[cfg(feature = "tls")]
async fn is_told_to_end(peer: &super::peer::Peer) {
    while peer.take_order().is_none() && !peer.is_gone() {
        peer.to_read.wait().await;
    }
}

/// Counts a client among the connections, unless there are too many.
fn enter(origin: Origin, ends: Ends, server: Rc<Shared>) -> Option<Connection> {
    let now = Instant::now();
    let Some(peer) = server.enter(now) else {
        tracing::warn!(connections = server.connections(), "too many connections, or the server stops: one is refused");
        return None;
    };
    if let Some((client, address)) = ends {
        peer.note(|facts| {
            facts.name = format!("{client} -> {address}").into();
            facts.ends = ends;
        });
    }
    Some(Connection::new(server, peer, origin, now))
}

/// Reads from a client, and writes to it, until it has gone.
async fn converse<R, W>(connection: Connection, mut reader: R, writer: W)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin + 'static,
{
    let peer = connection.peer.clone();
    let close = connection.server.limits.close;
    let mut writing = spawn_local(write::run(peer.clone(), writer, connection.server.clone()));
    read(connection, &mut reader).await;
    // What waits is written, as far as the client takes it.
    if timeout(close, &mut writing).await.is_err() {
        peer.fail();
        writing.abort();
    }
    // Guards: a socket that is closed with unread input drops what the client has not read yet, the reason of the end for example.
    if !peer.is_gone() {
        _ = timeout(LINGER, drop_all(&mut reader)).await;
    }
}

/// Reads until the client closes.
async fn drop_all<R: AsyncRead + Unpin>(reader: &mut R) {
    let mut dropped = [0; 1024];
    while matches!(reader.read(&mut dropped).await, Ok(1..)) {}
}

async fn read<R: AsyncRead + Unpin>(mut connection: Connection, socket: &mut R) {
    let peer = connection.peer.clone();
    let server = connection.server.clone();
    let mut buffer = BytesMut::with_capacity(SMALL);
    let first = Instant::now() + LONG;
    let sleep = sleep_until(first.into());
    tokio::pin!(sleep);
    let mut armed = first;
    // Dropped with all else if the client takes too long: then another one's turn comes.
    let mut checking: Option<Checking> = None;
    // Dropped with the answer that waits for it.
    let mut writing: Option<Writing> = None;
    loop {
        if let Some(text) = peer.take_order() {
            connection.force(&text, Instant::now());
        }
        if peer.is_gone() || connection.phase == Phase::Over {
            return;
        }
        if let Some(verification) = connection.verification.take() {
            checking = Some(Box::pin(verify(verification, server.accounts.hashing.clone())));
        }
        match connection.held() {
            None => writing = None,
            Some(held) if writing.is_none() => {
                let (host, mark) = (held.host.clone(), held.mark);
                writing = Some(Box::pin(async move { host.until_safe(mark).await }));
            }
            Some(_) => {}
        }
        let is_full = peer.is_full(&server.limits);
        peer.is_held.set(is_full);
        let is_stopped = connection.heed_alarm();
        // A client that is not read from cannot show that it lives; one that does not read may take a while.
        let deadline = match (is_full, is_stopped || writing.is_some()) {
            (true, _) => Some(peer.stalls_at(&server.limits)),
            (false, true) => connection.phase_ends,
            (false, false) => connection.deadline(),
        };
        let until = deadline.unwrap_or_else(|| Instant::now() + LONG);
        // The timer is not moved with everything that comes: when it rings too early it is set again.
        if until < armed || sleep.is_elapsed() {
            armed = until;
            sleep.as_mut().reset(until.into());
        }
        tokio::select! {
            biased;
            read = socket.read_buf(&mut buffer), if !is_full && !is_stopped && checking.is_none() && writing.is_none() => match read {
                Ok(1..) => take(&mut connection, &mut buffer).await,
                Ok(0) | Err(_) => {
                    if connection.phase == Phase::Running {
                        tracing::info!(connection = peer.id, "the client closed the socket without closing the connection");
                    }
                    return;
                }
            },
            verified = async { checking.as_mut()?.await }, if checking.is_some() => {
                checking = None;
                connection.verified(verified.as_ref(), Instant::now());
                // What it has sent behind its password.
                take(&mut connection, &mut buffer).await;
            }
            safe = async { Some(writing.as_mut()?.await) }, if writing.is_some() => {
                writing = None;
                if let Some(safe) = safe {
                    connection.settled(safe, Instant::now());
                    // What it has sent behind its question.
                    take(&mut connection, &mut buffer).await;
                }
            }
            () = peer.to_read.wait() => {}
            () = &mut sleep => {
                if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                    connection.timed_out();
                    return;
                }
            }
        }
        if is_full || is_stopped || connection.held().is_some() {
            // What was not read is no silence of the client.
            connection.last_read = Instant::now();
        }
    }
}

/// A password that is checked.
type Checking = Pin<Box<dyn Future<Output = Option<Verified>>>>;

/// An answer's wait for the disk.
type Writing = Pin<Box<dyn Future<Output = Result<(), String>>>>;

/// Checks a password on another thread, when it is its turn.
async fn verify(verification: Verification, turns: Arc<Semaphore>) -> Option<Verified> {
    let turn = turns.acquire_owned().await.ok()?;
    // Its turn lasts as long as the thread works, even if nobody waits for it any more.
    let work = move || {
        let verified = verification.run();
        drop(turn);
        verified
    };
    aside(work).await
}

/// Gives what has come to the connection, and makes room for more.
async fn take(connection: &mut Connection, buffer: &mut BytesMut) {
    let was_full = buffer.len() == buffer.capacity();
    let taken = connection.input(buffer, Instant::now());
    buffer.advance(taken);
    if was_full {
        buffer.reserve(LARGE);
        // One that sends without end leaves room for the others.
        yield_now().await;
    } else if buffer.is_empty() && buffer.capacity() < SMALL / 2 {
        // The block was used up to its end: this takes it from its beginning again.
        buffer.reserve(SMALL);
    } else if buffer.capacity() == buffer.len() {
        buffer.reserve(SMALL);
    }
}
