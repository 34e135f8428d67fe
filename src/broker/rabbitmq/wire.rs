//! The socket as lapin sees it: a tokio stream, TLS around it where asked for, and the [`Tap`] on what comes in.
//!
//! lapin's own wrapper for tokio sockets is not used: dropped on lapin's I/O thread, which has no tokio runtime, it would
//! start a global runtime with a thread that never ends.

use std::future::Future;
use std::io::{self, IoSlice, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use async_rs::Tokio;
use async_rs::traits::Reactor;
use async_rs::util::RuntimeParts;
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::Stream;
use lapin::AsyncTcpStream;
use tokio::io::ReadBuf;
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use super::tap::Tap;

/// What lapin runs on: tasks and timers of the current tokio runtime, and sockets that are ours.
pub(crate) type Kit = RuntimeParts<Tokio, WireReactor>;

/// The kit of the runtime in which this is called.
pub(crate) fn kit() -> async_rs::Runtime<Kit> {
    async_rs::Runtime::new(RuntimeParts::new(Tokio::current(), WireReactor(Tokio::current())))
}

/// A tokio socket under the traits that lapin knows.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(TcpStream),
    /// A broker on this machine, by a name in its file system.
    #[cfg(unix)]
    Unix(UnixStream),
}

/// The duplicate of a socket, by which the connection is cut whatever its other user is waiting for.
#[derive(Debug)]
pub(crate) enum Spare {
    Tcp(std::net::TcpStream),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

impl Spare {
    /// Cuts the connection in both directions.
    pub(crate) fn cut(&self) {
        // An error means that it is cut already.
        let _ = match self {
            Spare::Tcp(stream) => stream.shutdown(Shutdown::Both),
            #[cfg(unix)]
            Spare::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }
}

/// What both kinds of socket can do.
trait Bytes: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}

impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> Bytes for T {}

impl Socket {
    /// The socket with a duplicate. tokio gives none; the standard library does. Both are non-blocking and share one
    /// connection.
    pub(crate) fn with_spare(self) -> io::Result<(Self, Spare)> {
        match self {
            Socket::Tcp(stream) => {
                let stream = stream.into_std()?;
                let spare = Spare::Tcp(stream.try_clone()?);
                Ok((Socket::Tcp(TcpStream::from_std(stream)?), spare))
            }
            #[cfg(unix)]
            Socket::Unix(stream) => {
                let stream = stream.into_std()?;
                let spare = Spare::Unix(stream.try_clone()?);
                Ok((Socket::Unix(UnixStream::from_std(stream)?), spare))
            }
        }
    }

    fn bytes(self: Pin<&mut Self>) -> Pin<&mut dyn Bytes> {
        match self.get_mut() {
            Socket::Tcp(stream) => Pin::new(stream),
            #[cfg(unix)]
            Socket::Unix(stream) => Pin::new(stream),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(buffer);
        ready!(self.bytes().poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.bytes().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.bytes().poll_write_vectored(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes().poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.bytes().poll_shutdown(cx)
    }
}

/// What lapin is given: the bytes of AMQP, after TLS.
#[derive(Debug)]
pub(crate) struct Wire {
    stream: AsyncTcpStream<Socket>,
    tap: Tap,
    /// What the tap has put in the place of bytes that came, and how much of it lapin has.
    instead: Vec<u8>,
    taken: usize,
}

impl Wire {
    pub(crate) fn new(stream: AsyncTcpStream<Socket>, tap: Tap) -> Self {
        Wire { stream, tap, instead: Vec::new(), taken: 0 }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if buffer.is_empty() {
            return Poll::Ready(Ok(0));
        }
        loop {
            let left = &this.instead[this.taken..];
            if !left.is_empty() {
                let count = left.len().min(buffer.len());
                buffer[..count].copy_from_slice(&left[..count]);
                this.taken += count;
                return Poll::Ready(Ok(count));
            }
            this.instead.clear();
            this.taken = 0;
            let read = ready!(Pin::new(&mut this.stream).poll_read(cx, buffer))?;
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            match this.tap.filter(&mut buffer[..read], &mut this.instead) {
                // All of it is held, or stands elsewhere.
                Ok(0) => {}
                Ok(passed) => return Poll::Ready(Ok(passed)),
                Err(refused) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refused))),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}

/// Timers of tokio; sockets come ready made, through the connector, so it opens none.
#[derive(Clone, Debug)]
pub(crate) struct WireReactor(Tokio);

fn unsupported() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "homing opens its sockets itself")
}

impl Reactor for WireReactor {
    type TcpStream = Wire;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: Read + Write + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<Wire, _>(unsupported())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        self.0.sleep(duration)
    }

    fn interval(&self, period: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(period)
    }

    fn tcp_connect_addr(
        &self,
        _address: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        std::future::ready(Err(unsupported()))
    }
}
