//! What a command prints, read while it runs, up to a limit.

use std::fs::File;
use std::io::{self, ErrorKind, Read};
use std::process::Stdio;

use tokio::net::unix::pipe::{Receiver, pipe};

/// What is done about more than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beyond {
    /// The command has failed.
    Fails,
    /// Only the end is kept.
    KeepsTheEnd,
}

/// The reading end of one pipe.
#[derive(Debug)]
pub(super) struct Capture {
    pipe: Option<Receiver>,
    bytes: Vec<u8>,
    limit: usize,
    beyond: Beyond,
}

impl Capture {
    /// A pipe for a command to write into.
    pub(super) fn new(limit: usize, beyond: Beyond) -> io::Result<(Self, Stdio)> {
        let (sender, receiver) = pipe()?;
        let writer = Stdio::from(sender.into_blocking_fd()?);
        Ok((Capture { pipe: Some(receiver), bytes: Vec::new(), limit, beyond }, writer))
    }

    /// Reads until its end.
    ///
    /// # Cancel safety
    /// Nothing that was read is lost when it is dropped.
    pub(super) async fn fill(&mut self) -> io::Result<()> {
        let mut chunk = [0; 16 << 10];
        while let Some(pipe) = &self.pipe {
            pipe.readable().await?;
            match pipe.try_read(&mut chunk) {
                Ok(0) => break,
                Ok(read) => {
                    if let Err(error) = self.take(&chunk[..read]) {
                        // Nobody reads the rest: whoever writes on gets an error, and does not wait.
                        self.pipe = None;
                        return Err(error);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        self.pipe = None;
        Ok(())
    }

    fn take(&mut self, read: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(read);
        match self.beyond {
            Beyond::Fails if self.bytes.len() > self.limit => {
                Err(io::Error::other(format!("the command printed more than {} MiB", self.limit >> 20)))
            }
            Beyond::KeepsTheEnd if self.bytes.len() > 2 * self.limit => {
                self.bytes.drain(..self.bytes.len() - self.limit);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Everything that the command has written; to be called when it has ended.
    ///
    /// Guards: a grandchild that keeps the pipe open. What is in the pipe by now is read, and its end is not waited for.
    pub(super) fn rest(mut self) -> io::Result<Vec<u8>> {
        if let Some(pipe) = self.pipe.take() {
            let mut pipe = File::from(pipe.into_nonblocking_fd()?);
            let mut chunk = [0; 16 << 10];
            // Such a grandchild may write without end.
            let mut left = self.limit.max(1 << 20);
            while left > 0 {
                match pipe.read(&mut chunk) {
                    Ok(0) => break,
                    Ok(read) => {
                        left = left.saturating_sub(read);
                        self.take(&chunk[..read])?;
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(self.bytes)
    }
}
