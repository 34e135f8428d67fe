//! A broker that speaks just enough AMQP 0-9-1 to be taken for one, and then does what a real one cannot be made to do.
//!
//! It says yes to every declaration and confirms every publish; it keeps no messages. One thing, given as bytes, is said once,
//! at a stated moment; from the next connection on it behaves. Written by hand from the specification, so that a mistake of
//! lapin's in either direction shows.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const HEARTBEAT: u8 = 8;
pub const FRAME_END: u8 = 0xCE;
/// Seconds, as the handshake offers them. Not too few: the tests run on machines that have other things to do.
const HEARTBEATS: u16 = 4;

/// When it is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Instead of the confirm of the first publish.
    Publish,
    /// After the first consumer has begun.
    Consume,
    /// Instead of the answer to the client's protocol header.
    Greeting,
    /// Instead of the answer to the client's name and password.
    Login,
    /// When the client has agreed to the limits.
    Limits,
    /// Instead of the answer to the choice of a virtual host, which ends the handshake.
    Open,
    /// Instead of the answer to the first declaration of a queue.
    Declare,
}

/// What becomes of the connection then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    GoesOn,
    /// It has closed the channel, and passes over what comes on it until the client agrees, as the specification says.
    ClosesChannel,
    Closes,
    /// Nothing more is said, no heartbeat either.
    IsSilent,
}

/// What it does wrong.
#[derive(Clone, Debug)]
pub struct Mischief {
    pub when: When,
    /// The bytes, for the channel on which it happens.
    pub says: fn(channel: u16) -> Vec<u8>,
    pub then: Then,
}

struct State {
    mischief: Mischief,
    done: AtomicBool,
    ended: AtomicBool,
    accepted: AtomicUsize,
    confirmed: AtomicUsize,
    sockets: Mutex<Vec<TcpStream>>,
}

/// Listens on a free port of the loopback.
pub struct FakeBroker {
    state: Arc<State>,
    address: SocketAddr,
    listener: Option<JoinHandle<()>>,
}

impl FakeBroker {
    pub fn start(mischief: Mischief) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            mischief,
            done: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            accepted: AtomicUsize::new(0),
            confirmed: AtomicUsize::new(0),
            sockets: Mutex::default(),
        });
        let its = Arc::clone(&state);
        let listener = std::thread::spawn(move || {
            let mut talks = Vec::new();
            while let Ok((socket, _)) = listener.accept() {
                if its.ended.load(Ordering::SeqCst) {
                    break;
                }
                its.accepted.fetch_add(1, Ordering::SeqCst);
                let its = Arc::clone(&its);
                talks.push(std::thread::spawn(move || {
                    // However the client ends it.
                    let _ = Talk::new(socket, its).and_then(|mut talk| talk.run());
                }));
            }
            for talk in talks {
                talk.join().unwrap();
            }
        });
        Ok(FakeBroker { state, address, listener: Some(listener) })
    }

    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/", self.address)
    }

    /// Whether it has been wicked.
    pub fn has_misbehaved(&self) -> bool {
        self.state.done.load(Ordering::SeqCst)
    }

    /// Connections, from the first on.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// Publishes that it confirmed.
    pub fn confirmed(&self) -> usize {
        self.state.confirmed.load(Ordering::SeqCst)
    }
}

impl Drop for FakeBroker {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        for socket in self.state.sockets.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(listener) = self.listener.take() {
            listener.join().unwrap();
        }
    }
}

/// One connection.
struct Talk {
    socket: TcpStream,
    state: Arc<State>,
    /// By channel: how many publishes came, and how many bytes of the present one are still to come.
    publishes: HashMap<u16, (u64, Option<u64>)>,
    is_silent: bool,
    closing: Option<u16>,
}

impl Talk {
    fn new(socket: TcpStream, state: Arc<State>) -> std::io::Result<Self> {
        socket.set_nodelay(true)?;
        // Wakes now and then for a heartbeat.
        socket.set_read_timeout(Some(Duration::from_millis(400)))?;
        state.sockets.lock().unwrap_or_else(PoisonError::into_inner).push(socket.try_clone()?);
        Ok(Talk { socket, state, publishes: HashMap::new(), is_silent: false, closing: None })
    }

    /// Reads all of it, with heartbeats meanwhile.
    fn read(&mut self, mut buffer: &mut [u8]) -> std::io::Result<()> {
        while !buffer.is_empty() {
            match self.socket.read(buffer) {
                Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => buffer = &mut buffer[read..],
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                    self.say(&frame(HEARTBEAT, 0, &[]))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.is_silent { Ok(()) } else { self.socket.write_all(bytes) }
    }

    fn answer(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) -> std::io::Result<()> {
        self.say(&self::method(channel, class, method, arguments))
    }

    /// Does it, if this is the moment and it has not been done; says whether.
    fn misbehaves(&mut self, when: When, channel: u16) -> std::io::Result<bool> {
        if self.state.mischief.when != when || self.state.done.swap(true, Ordering::SeqCst) {
            return Ok(false);
        }
        let Mischief { says, then, .. } = self.state.mischief.clone();
        self.say(&says(channel))?;
        match then {
            Then::GoesOn => {}
            Then::ClosesChannel => self.closing = Some(channel),
            Then::IsSilent => self.is_silent = true,
            Then::Closes => {
                self.socket.shutdown(Shutdown::Both)?;
                return Err(std::io::ErrorKind::ConnectionAborted.into());
            }
        }
        Ok(true)
    }

    fn run(&mut self) -> std::io::Result<()> {
        let mut header = [0; 8];
        // Here a heartbeat would be out of place.
        self.socket.set_read_timeout(None)?;
        self.read(&mut header)?;
        if self.misbehaves(When::Greeting, 0)? && self.state.mischief.then == Then::GoesOn {
            return Ok(());
        }
        let start = [&[0, 9][..], &long_text(b""), &long_text(b"PLAIN"), &long_text(b"en_US")].concat();
        self.answer(0, 10, 10, &start)?;
        loop {
            let mut prefix = [0; 7];
            self.read(&mut prefix)?;
            let (kind, channel) = (prefix[0], u16::from_be_bytes([prefix[1], prefix[2]]));
            let size = u32::from_be_bytes([prefix[3], prefix[4], prefix[5], prefix[6]]) as usize;
            let mut payload = vec![0; size + 1];
            self.read(&mut payload)?;
            assert_eq!(payload.pop(), Some(FRAME_END), "the client's frames end as they should");
            if self.closing == Some(channel) {
                if kind == METHOD && payload.starts_with(&[0, 20, 0, 41]) {
                    self.closing = None;
                }
                continue;
            }
            match kind {
                METHOD => self.on_method(channel, &payload)?,
                HEADER => self.on_body(channel, |_| u64::from_be_bytes(payload[4..12].try_into().unwrap()))?,
                BODY => self.on_body(channel, |left| left - size as u64)?,
                _ => {}
            }
        }
    }

    fn on_method(&mut self, channel: u16, payload: &[u8]) -> std::io::Result<()> {
        let number = |at: usize| u16::from_be_bytes([payload[at], payload[at + 1]]);
        // After the four bytes of the method, most begin with two that are reserved, and a name.
        let name = |at: usize| payload[at..=at + usize::from(payload[at])].to_vec();
        match (number(0), number(2)) {
            (10, 11) => {
                if self.misbehaves(When::Login, channel)? {
                    return Ok(());
                }
                let tune = [&64u16.to_be_bytes()[..], &131_072u32.to_be_bytes(), &HEARTBEATS.to_be_bytes()].concat();
                self.answer(0, 10, 30, &tune)
            }
            (10, 31) => self.misbehaves(When::Limits, channel).map(drop),
            (10, 40) => {
                if self.misbehaves(When::Open, channel)? {
                    return Ok(());
                }
                self.socket.set_read_timeout(Some(Duration::from_millis(400)))?;
                self.answer(0, 10, 41, &[0])
            }
            (10, 50) => self.answer(0, 10, 51, &[]),
            (20, 10) => {
                // Tags begin anew with every channel, and a number is used again.
                self.publishes.remove(&channel);
                self.answer(channel, 20, 11, &long_text(b""))
            }
            (20, 40) => self.answer(channel, 20, 41, &[]),
            (40, 10) => self.answer(channel, 40, 11, &[]),
            (50, 10) => {
                if self.misbehaves(When::Declare, channel)? {
                    return Ok(());
                }
                let answer = [name(6), vec![0; 8]].concat();
                self.answer(channel, 50, 11, &answer)
            }
            (50, 20) => self.answer(channel, 50, 21, &[]),
            (50, 40) => self.answer(channel, 50, 41, &[0; 4]),
            (50, 50) => self.answer(channel, 50, 51, &[]),
            (60, 10) => self.answer(channel, 60, 11, &[]),
            (60, 20) => {
                let tag = name(6 + name(6).len());
                self.answer(channel, 60, 21, &tag)?;
                self.misbehaves(When::Consume, channel).map(drop)
            }
            (60, 30) => self.answer(channel, 60, 31, &name(4)),
            (60, 70) => self.answer(channel, 60, 72, &[0]),
            (85, 10) => self.answer(channel, 85, 11, &[]),
            _ => Ok(()),
        }
    }

    fn on_body(&mut self, channel: u16, left: impl FnOnce(u64) -> u64) -> std::io::Result<()> {
        let (tag, body) = self.publishes.entry(channel).or_default();
        let left = left(body.unwrap_or(0));
        *body = Some(left);
        if left > 0 {
            return Ok(());
        }
        *body = None;
        *tag += 1;
        let tag = *tag;
        if self.misbehaves(When::Publish, channel)? {
            return Ok(());
        }
        self.state.confirmed.fetch_add(1, Ordering::SeqCst);
        self.say(&ack(channel, tag))
    }
}

/// A frame of any kind.
pub fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind][..], &channel.to_be_bytes(), &size, payload, &[FRAME_END]].concat()
}

pub fn method(channel: u16, class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
    frame(METHOD, channel, &[&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat())
}

pub fn ack(channel: u16, tag: u64) -> Vec<u8> {
    method(channel, 60, 80, &[&tag.to_be_bytes()[..], &[0]].concat())
}

/// The content header of a message of this size, without properties.
pub fn header(channel: u16, size: u64) -> Vec<u8> {
    frame(HEADER, channel, &[&60u16.to_be_bytes()[..], &[0, 0], &size.to_be_bytes(), &[0, 0]].concat())
}

pub fn body(channel: u16, bytes: &[u8]) -> Vec<u8> {
    frame(BODY, channel, bytes)
}

/// A delivery to a consumer of this tag.
pub fn deliver(channel: u16, consumer: &str) -> Vec<u8> {
    let arguments = [short_text(consumer), 1u64.to_be_bytes().to_vec(), vec![0], short_text("x"), short_text("k")];
    method(channel, 60, 60, &arguments.concat())
}

pub fn short_text(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()][..], text.as_bytes()].concat()
}

pub fn long_text(text: &[u8]) -> Vec<u8> {
    [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text].concat()
}
