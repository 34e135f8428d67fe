//! Where clients connect, and letting them in.

#[cfg(feature = "tls")]
use super::tls::Tls;
use super::{connection::Origin, read, shared::Shared};
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::task::spawn_local;
use tokio::time::sleep;

/// How long nobody is let in after the system refused to, because there are too many open files for example.
const PAUSE: Duration = Duration::from_millis(100);

/// How often a client that is silent is asked by the system whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A socket that clients connect to.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(std::net::TcpListener),
    #[cfg(feature = "tls")]
    Tls(std::net::TcpListener, Tls),
    Unix(StdUnixListener, SocketFile),
}

impl Listener {
    /// Its address, if it has one and no TLS.
    pub(super) fn address(&self) -> Option<io::Result<SocketAddr>> {
        match self {
            Self::Tcp(listener) => Some(listener.local_addr()),
            _ => None,
        }
    }

    /// Its address, if it has TLS.
    #[cfg(feature = "tls")]
    pub(super) fn tls_address(&self) -> Option<io::Result<SocketAddr>> {
        match self {
            Self::Tls(listener, _) => Some(listener.local_addr()),
            _ => None,
        }
    }
}

/// The file of a Unix socket. It goes with the server.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Guards: the socket of another server, which has taken this place.
        if fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode)) {
            _ = fs::remove_file(&self.path);
        }
    }
}

/// Listens on an address.
pub(super) fn tcp(address: SocketAddr) -> io::Result<Listener> {
    Ok(Listener::Tcp(bind(address)?))
}

/// Listens on an address for clients that begin TLS.
#[cfg(feature = "tls")]
pub(super) fn tls(address: SocketAddr, tls: Tls) -> io::Result<Listener> {
    Ok(Listener::Tls(bind(address)?, tls))
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Listens on a file that only its owner can open.
///
/// # Errors
/// Besides those of the system: somebody listens there already, or the file is something else than a socket.
pub(super) fn unix(path: &Path) -> io::Result<Listener> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(metadata) => {
            use std::os::unix::fs::FileTypeExt;
            if !metadata.file_type().is_socket() {
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file that is no socket"));
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "another server listens there"));
            }
        }
    }
    // Under another name until its rights are set: nobody else can connect in between. The name takes the place of a socket
    // that a killed server left behind.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(temporary);
    _ = fs::remove_file(&temporary);
    let listener = StdUnixListener::bind(&temporary)?;
    let placed = fs::set_permissions(&temporary, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&temporary, path))
        .and_then(|()| listener.set_nonblocking(true));
    if let Err(error) = placed {
        _ = fs::remove_file(&temporary);
        return Err(error);
    }
    Ok(Listener::Unix(listener, SocketFile::new(path)?))
}

/// Whether an address can be reached from this machine only.
pub(super) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

/// Lets clients in for as long as the server runs.
pub(super) async fn run(listener: Listener, server: Rc<Shared>) -> io::Result<()> {
    match listener {
        Listener::Tcp(listener) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, address)) => {
                        let (origin, ends) = prepare(&stream, address);
                        let (reader, writer) = stream.into_split();
                        spawn_local(read::serve(reader, writer, origin, ends, server.clone()));
                    }
                    Err(error) => pause(&error).await,
                }
            }
        }
        #[cfg(feature = "tls")]
        Listener::Tls(listener, tls) => {
            let listener = TcpListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, address)) => {
                        let (origin, ends) = prepare(&stream, address);
                        spawn_local(read::serve_tls(stream, tls.clone(), origin, ends, server.clone()));
                    }
                    Err(error) => pause(&error).await,
                }
            }
        }
        Listener::Unix(listener, _file) => {
            let listener = UnixListener::from_std(listener)?;
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let (reader, writer) = stream.into_split();
                        spawn_local(read::serve(reader, writer, Origin::Local, None, server.clone()));
                    }
                    Err(error) => pause(&error).await,
                }
            }
        }
    }
}

/// Small messages leave at once, and a client whose machine is gone is noticed also without heartbeats. Where it comes from.
fn prepare(stream: &tokio::net::TcpStream, client: SocketAddr) -> (Origin, read::Ends) {
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
    let set = stream.set_nodelay(true).and_then(|()| socket2::SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = set {
        tracing::debug!(%error, "a socket option could not be set");
    }
    let origin = if is_loopback(client.ip()) { Origin::Local } else { Origin::Remote };
    (origin, stream.local_addr().ok().map(|server| (client, server)))
}

async fn pause(error: &io::Error) {
    tracing::error!(%error, "a client could not be let in");
    sleep(PAUSE).await;
}
