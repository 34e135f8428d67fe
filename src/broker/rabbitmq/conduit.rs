//! The stream that lapin is given: a TCP or TLS connection that we have made ourselves, and can cut.
//!
//! lapin's own connecting has no time limit and leaves a thread behind when a peer stays silent. Here the connection is made
//! first, under our limit, and a duplicate of its socket is kept, by which it can be shut down whatever lapin waits for.
//! On its way in, the first frame is read along: it holds the server's properties, which lapin does not keep.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream as StdTcpStream};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::Task;
use futures_io::{AsyncRead, AsyncWrite};
use lapin::AsyncTcpStream;
use parking_lot::Mutex;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;

use super::start;

/// tokio, with our stream in the place of its own.
#[derive(Clone, Debug)]
pub(super) struct Kit(pub(super) Tokio);

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        self.0.block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, future: F) -> Task<Self::Task<T>> {
        self.0.spawn(future)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(&self, call: F) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(call)
    }
}

impl Reactor for Kit {
    type TcpStream = Conduit;
    type Sleep = <Tokio as Reactor>::Sleep;

    // lapin registers no sockets of its own; with fewer bounds than the trait's, one of which has no public name.
    fn register<H: Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Conduit, _>(io::Error::other("sockets are not registered here"))
    }

    fn sleep(&self, time: Duration) -> Self::Sleep {
        self.0.sleep(time)
    }

    fn interval(&self, time: Duration) -> impl futures_util::Stream<Item = Instant> + Send + 'static {
        self.0.interval(time)
    }

    fn tcp_connect_addr(&self, _address: SocketAddr) -> impl Future<Output = io::Result<Conduit>> + Send + 'static {
        // Connections are made before lapin is asked.
        std::future::ready(Err(io::Error::other("lapin does not connect by itself here")))
    }
}

/// A TCP connection, as futures-io has streams.
pub(super) struct Wire(TcpStream);

impl Wire {
    /// Wraps a connection; the second half cuts it.
    pub(super) fn new(stream: TcpStream) -> io::Result<(Self, Scissors)> {
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let duplicate = stream.try_clone()?;
        Ok((Wire(TcpStream::from_std(stream)?), Scissors(duplicate)))
    }
}

/// Cuts a connection.
pub(super) struct Scissors(StdTcpStream);

impl Scissors {
    /// Both directions end; whoever reads or writes hears so.
    pub(super) fn cut(&self) {
        // It may have ended by itself.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        match tokio::io::AsyncRead::poll_read(Pin::new(&mut self.0), context, &mut buffer) {
            Poll::Ready(Ok(())) => Poll::Ready(Ok(buffer.filled().len())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        tokio::io::AsyncWrite::poll_write(Pin::new(&mut self.0), context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        tokio::io::AsyncWrite::poll_write_vectored(Pin::new(&mut self.0), context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.0), context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.0), context)
    }
}

/// The properties that the server told.
pub(super) type Told = Arc<Mutex<Vec<(String, String)>>>;

/// The connection, in plain or in TLS, with the first frame read along.
pub(super) struct Conduit {
    stream: AsyncTcpStream<Wire>,
    tap: Option<(Vec<u8>, Told)>,
}

impl Conduit {
    pub(super) fn new(stream: AsyncTcpStream<Wire>, told: Told) -> Self {
        Conduit { stream, tap: Some((Vec::new(), told)) }
    }

    /// Looks at what came in, until the first frame is complete or is none.
    fn look(&mut self, bytes: &[u8]) {
        let Some((seen, told)) = &mut self.tap else { return };
        seen.extend_from_slice(bytes);
        match start::server_properties(seen) {
            start::Read::More => {}
            start::Read::Properties(properties) => {
                *told.lock() = properties;
                self.tap = None;
            }
            start::Read::None => self.tap = None,
        }
    }
}

impl fmt::Debug for Conduit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conduit").finish_non_exhaustive()
    }
}

impl AsyncRead for Conduit {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Poll::Ready(Ok(count)) = &read {
            self.look(&buffer[..*count]);
        }
        read
    }
}

impl AsyncWrite for Conduit {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(context)
    }
}
