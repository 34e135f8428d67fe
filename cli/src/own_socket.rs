//! A Unix socket that a command listens on: its file, which goes with it, and the clients, of whom so many are served at once.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

/// The file of a socket; it goes when this is dropped, unless another one is in its place by then.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    /// By this it is known again.
    file: (u64, u64),
}

impl SocketFile {
    /// The one that is there now.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        Ok(SocketFile { path: path.to_owned(), file: file_at(path)? })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether clients still find it.
    pub(crate) fn is_there(&self) -> bool {
        file_at(&self.path).is_ok_and(|file| file == self.file)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_there() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn file_at(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Serves whoever connects, `most` at once; others wait to be accepted. After an error nobody is accepted for `pause`.
pub(crate) async fn accept<F, S>(listener: UnixListener, most: usize, pause: Duration, serve: F)
where
    F: Fn(UnixStream) -> S,
    S: Future<Output = ()> + Send + 'static,
{
    let clients = Arc::new(Semaphore::new(most));
    loop {
        let Ok(client) = Arc::clone(&clients).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let served = serve(stream);
                tokio::spawn(async move {
                    served.await;
                    drop(client);
                });
            }
            // No descriptors are left, most likely; others may be closed meanwhile.
            Err(_) => tokio::time::sleep(pause).await,
        }
    }
}
