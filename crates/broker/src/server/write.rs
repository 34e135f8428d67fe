//! The task that writes to one client. It waits for nobody but the socket, and nobody waits for it.

use super::{limits::Limits, peer::Peer, shared::Shared};
use crate::protocol::frame;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::{sleep_until, timeout};

/// A buffer that was larger than this is given back when all of it is written, in bytes.
const KEPT: usize = 64 << 10;

/// A silence that never ends.
const NEVER: Duration = Duration::from_secs(1 << 30);

/// Writes until the connection is finished or its socket fails.
pub(super) async fn run<W: AsyncWrite + Unpin>(peer: Rc<Peer>, mut socket: W, server: Rc<Shared>) {
    if until_finished(&peer, &mut socket, &server).await.is_err() {
        peer.fail();
    } else {
        // What the client has not read yet is the system's now.
        _ = timeout(server.limits.close, socket.shutdown()).await;
    }
}

async fn until_finished<W: AsyncWrite + Unpin>(peer: &Peer, socket: &mut W, server: &Shared) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    let mut last = Instant::now();
    let silence = sleep_until((last + NEVER).into());
    tokio::pin!(silence);
    let mut armed = NEVER;
    loop {
        tokio::select! {
            biased;
            () = peer.to_write.wait() => {}
            () = &mut silence => {}
        }
        if peer.is_gone() {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
        loop {
            peer.take(&mut buffer);
            if buffer.is_empty() {
                break;
            }
            write_all(peer, socket, &buffer, &server.limits).await?;
            buffer.clear();
            if buffer.capacity() > KEPT {
                buffer = Vec::new();
            }
            last = Instant::now();
            peer.drained(last);
        }
        if peer.is_finished() {
            return Ok(());
        }
        // A heartbeat is due after half of what was negotiated without anything else. The timer is not moved with every
        // write: when it rings too early it is set again.
        let interval = peer.heartbeat.get().map_or(NEVER, |heartbeat| heartbeat / 2);
        if interval != armed {
            armed = interval;
            silence.as_mut().reset((last + interval).into());
        } else if silence.is_elapsed() {
            if last.elapsed() >= interval {
                peer.append(frame::write_heartbeat);
                silence.as_mut().reset((Instant::now() + interval).into());
            } else {
                silence.as_mut().reset((last + interval).into());
            }
        }
    }
}

async fn write_all<W: AsyncWrite + Unpin>(
    peer: &Peer,
    socket: &mut W,
    mut bytes: &[u8],
    limits: &Limits,
) -> std::io::Result<()> {
    while !bytes.is_empty() {
        let Some(written) = step(peer, limits, socket.write(bytes)).await? else { continue };
        if written == 0 {
            return Err(std::io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        peer.wrote(bytes.len(), Instant::now());
        if peer.is_gone() {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
    }
    // TLS takes what the socket does not take yet.
    while step(peer, limits, socket.flush()).await?.is_none() {
        if peer.is_gone() {
            return Err(std::io::ErrorKind::ConnectionAborted.into());
        }
    }
    Ok(())
}

/// Waits for the socket; `None` if something has happened to the connection meanwhile.
async fn step<T>(
    peer: &Peer,
    limits: &Limits,
    work: impl Future<Output = std::io::Result<T>>,
) -> std::io::Result<Option<T>> {
    // A client that reads nothing is the reader's to end, by its heartbeats or because too much waits for it. Once
    // nobody reads from it, this is the only one who can.
    if peer.is_finished() {
        return timeout(limits.close, work).await.unwrap_or(Err(std::io::ErrorKind::TimedOut.into())).map(Some);
    }
    tokio::select! {
        biased;
        done = work => done.map(Some),
        // Guards: the connection has ended while this write waits for a client that does not read.
        () = peer.to_write.wait() => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::accounts::AccountStore;
    use tokio::io::{AsyncReadExt, BufWriter, duplex};
    use tokio::sync::mpsc;
    use tokio::task::{LocalSet, spawn_local};

    #[test]
    fn what_a_socket_keeps_back_leaves_it_without_more_behind_it() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let table = AccountStore::in_memory().table().clone();
        let server = Rc::new(Shared::new(Limits::default(), table, mpsc::channel(1).0));
        let peer = server.enter(Instant::now()).expect("there is room");
        let (near, mut far) = duplex(64);
        LocalSet::new().block_on(&runtime, async {
            // As TLS does with what the system does not take at once.
            spawn_local(run(peer.clone(), BufWriter::new(near), server.clone()));
            peer.append(|out| out.extend_from_slice(b"all of it"));
            let mut got = [0; 9];
            let read = timeout(Duration::from_secs(60), far.read_exact(&mut got)).await;
            read.expect("it is flushed").expect("it is open");
            assert_eq!(&got, b"all of it");
        });
    }
}
