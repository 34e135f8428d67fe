//! The socket of a supervisor: a file that its owner alone can use, in a directory that its owner alone can enter.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::identity::{self, Identity};
use super::protocol::{self, Request, Response};
use crate::failure::Failure;
use crate::own_socket::{self, SocketFile};

/// How many clients are served at once; others wait to be accepted.
const CLIENTS: usize = 64;

/// How long the last answers may take.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// A request, and where its answer goes.
pub(super) type Asked = (Request, oneshot::Sender<Response>);

/// The socket; its file goes when this is dropped.
#[derive(Debug)]
pub(super) struct Socket {
    // Dropped behind the end of `accepting`.
    file: SocketFile,
    accepting: JoinHandle<()>,
    /// How many requests are read and not answered.
    unanswered: Arc<watch::Sender<usize>>,
}

/// A request that is not answered yet.
struct Unanswered(Arc<watch::Sender<usize>>);

impl Unanswered {
    fn one_of(all: &Arc<watch::Sender<usize>>) -> Self {
        all.send_modify(|count| *count += 1);
        Unanswered(Arc::clone(all))
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Socket {
    /// Opens the socket of the supervisor that has the lock; requests go to `requests`.
    ///
    /// # Errors
    /// When it can be opened in none of the directories for it.
    pub(super) fn open(identity: &Identity, requests: &mpsc::Sender<Asked>) -> Result<Self, Failure> {
        let mut why = Vec::new();
        for folder in identity::socket_directories() {
            match Socket::open_in(&folder, identity, requests) {
                Ok(socket) => return Ok(socket),
                Err(error) => why.push(format!("{}: {error}", folder.display())),
            }
        }
        Err(Failure::Other(format!("there is no place for the socket of the supervisor: {}", why.join("; "))))
    }

    fn open_in(folder: &Path, identity: &Identity, requests: &mpsc::Sender<Asked>) -> io::Result<Self> {
        identity::own_directory(folder)?;
        let path = folder.join(identity.socket_name());
        if path.to_str().is_none() {
            return Err(io::Error::other("its name is no UTF-8"));
        }
        // Only the holder of the lock comes here: what is there was left behind.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        let file = SocketFile::at(&path)?;
        let (requests, unanswered) = (requests.clone(), Arc::new(watch::Sender::new(0)));
        let all = Arc::clone(&unanswered);
        let serving = move |stream| serve(stream, requests.clone(), Arc::clone(&all));
        let accepting = tokio::spawn(own_socket::accept(listener, CLIENTS, protocol::PATIENCE / 10, serving));
        Ok(Socket { file, accepting, unanswered })
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Closes it when the answers under way have been written.
    ///
    /// Guards: a supervisor that ends by a request, before whoever sent it has its answer.
    pub(super) async fn finish(self) {
        let mut unanswered = self.unanswered.subscribe();
        let _ = tokio::time::timeout(LAST_ANSWERS, unanswered.wait_for(|count| *count == 0)).await;
    }

    /// Whether clients still find it. The runtime directory of a user is removed when the user logs out.
    pub(super) fn is_there(&self) -> bool {
        self.file.is_there() && !self.accepting.is_finished()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// One request, one answer.
async fn serve(mut stream: UnixStream, requests: mpsc::Sender<Asked>, unanswered: Arc<watch::Sender<usize>>) {
    let mut _until_written = None;
    let response = match protocol::read_request(&mut stream).await {
        // It sent nothing in its time.
        None => return,
        Some(Err(why)) => Response::Refused(why),
        Some(Ok(request)) => {
            let (sender, answer) = oneshot::channel();
            _until_written = Some(Unanswered::one_of(&unanswered));
            if requests.send((request, sender)).await.is_err() {
                return;
            }
            match answer.await {
                Ok(response) => response,
                Err(_) => Response::Refused("the supervisor ends".to_owned()),
            }
        }
    };
    // A client that has gone does not need it.
    let _ = protocol::write_line(&mut stream, &response).await;
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::path::PathBuf;
    use std::time::Instant;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::args::Names;
    use crate::supervise::protocol::Reply;

    /// A socket that answers with the number of requests before, in a folder that is removed by whoever calls this.
    fn open() -> (PathBuf, Socket) {
        let folder = std::env::temp_dir().join(format!("homing-socket-{}", &crate::mark::draw()[..8]));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("p.db"), "").unwrap();
        let identity = Identity::new(&folder.join("p.db"), &Names::default(), None).unwrap();
        let (sender, mut requests) = mpsc::channel::<Asked>(4);
        let socket = Socket::open_in(&folder.join("own"), &identity, &sender).unwrap();
        tokio::spawn(async move {
            let mut count = 0;
            while let Some((_, answer)) = requests.recv().await {
                let _ = answer.send(Response::Done(Box::new(Reply { workers: vec![count], ..Reply::default() })));
                count += 1;
            }
        });
        (folder, socket)
    }

    async fn ask(socket: &Socket, bytes: &[u8]) -> Option<Response> {
        let mut stream = UnixStream::connect(socket.path()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        protocol::read_response(&mut stream).await.ok()
    }

    #[tokio::test]
    async fn only_its_owner_can_use_it_and_it_goes_with_its_supervisor() {
        let (folder, socket) = open();
        let path = socket.path().to_owned();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(folder.join("own")).unwrap().mode() & 0o777, 0o700);
        assert!(socket.is_there());
        fs::remove_file(&path).unwrap();
        assert!(!socket.is_there());
        // Another one's in its place is left alone.
        fs::write(&path, "").unwrap();
        assert!(!socket.is_there());
        drop(socket);
        assert!(path.exists());
        let (other, socket) = open();
        let path = socket.path().to_owned();
        drop(socket);
        assert!(!path.exists());
        for folder in [folder, other] {
            fs::remove_dir_all(folder).unwrap();
        }
    }

    #[tokio::test]
    async fn what_is_no_request_is_refused_and_harms_nobody() {
        let (folder, socket) = open();
        let long = [vec![b'x'; 10_000], vec![b'\n']].concat();
        for wrong in [
            &b"\n"[..],
            b"hello\n",
            b"{\"request\": \"fly\"}\n",
            b"{\"request\": \"add\", \"count\": -1}\n",
            b"{\"request\": \"add\", \"count\": 70000}\n",
            b"{\"request\": \"remove\"}\n",
            &long,
        ] {
            let answer = ask(&socket, wrong).await;
            assert!(matches!(answer, Some(Response::Refused(_)) | None), "{answer:?}");
        }
        let answer = ask(&socket, b"{\"request\": \"status\"}\n").await;
        assert!(matches!(&answer, Some(Response::Done(reply)) if reply.workers == [0]), "{answer:?}");
        drop(socket);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn whoever_has_asked_gets_the_answer_before_the_supervisor_ends() {
        let folder = std::env::temp_dir().join(format!("homing-socket-{}", &crate::mark::draw()[..8]));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("p.db"), "").unwrap();
        let identity = Identity::new(&folder.join("p.db"), &Names::default(), None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let client = runtime.block_on(async {
            let (sender, mut requests) = mpsc::channel::<Asked>(4);
            let socket = Socket::open_in(&folder.join("own"), &identity, &sender).unwrap();
            let path = socket.path().to_owned();
            let client = std::thread::spawn(move || {
                let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
                io::Write::write_all(&mut stream, b"{\"request\": \"stop\"}\n").unwrap();
                io::read_to_string(stream)
            });
            let (_, answer) = requests.recv().await.unwrap();
            // More than the system takes at once.
            let reply = Reply { workers: vec![1; 400_000], ..Reply::default() };
            drop(answer.send(Response::Done(Box::new(reply))));
            socket.finish().await;
            client
        });
        // As at the end of the program.
        drop(runtime);
        let answer = client.join().unwrap().unwrap();
        assert!(answer.ends_with('\n'), "{} bytes", answer.len());
        fs::remove_dir_all(folder).unwrap();
    }

    #[tokio::test]
    async fn clients_that_send_nothing_are_closed_and_cost_the_others_nothing() {
        let (folder, socket) = open();
        let mut silent = Vec::new();
        for n in 0..CLIENTS - 1 {
            let mut stream = UnixStream::connect(socket.path()).await.unwrap();
            // Some send a part of a line.
            stream.write_all(&b"{\"requ"[..n % 7]).await.unwrap();
            silent.push(stream);
        }
        let begun = Instant::now();
        assert!(matches!(ask(&socket, b"{\"request\": \"status\"}\n").await, Some(Response::Done(_))));
        assert!(begun.elapsed() < protocol::PATIENCE, "it waited for the silent ones");
        let closed = async {
            for stream in &mut silent {
                let mut byte = [0];
                let _ = stream.read(&mut byte).await;
            }
        };
        tokio::time::timeout(protocol::PATIENCE + Duration::from_secs(20), closed).await.expect("they are closed");
        drop(socket);
        fs::remove_dir_all(folder).unwrap();
    }
}
