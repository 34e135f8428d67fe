//! One connection: frames in, and what they mean. No I/O here: what is to be sent is appended to the [`Peer`].

use super::{
    accounts::{Permit, Topic, Verification},
    call::Call,
    channel::{Channel, Expected, Mode},
    confirms::Confirms,
    content::{Facts, Unfinished},
    exception::{Exception, Result},
    handshake::{Capabilities, Mechanism},
    held::{Answer, Held, not_safe},
    host::Host,
    journal::Mark,
    numbers::NumberMap,
    peer::Peer,
    shared::Shared,
    topics,
};
use crate::engine::{ChannelId, SessionId};
use crate::protocol::{
    ContentHeader, Frame, FrameReader, Method, MethodId, PROTOCOL_HEADER, ReplyCode,
    code::{REPLY_SUCCESS, Severity},
    frame::MINIMUM_FRAME_SIZE,
    methods::{basic, channel, connection},
};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Where a client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The same machine.
    Local,
    /// Another one.
    Remote,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The client is to send the protocol header.
    Header,
    /// It is to log in.
    Start,
    /// Its password is checked, which takes a moment. Nothing is read meanwhile.
    Checking,
    /// It is to choose limits.
    Tune,
    /// It is to choose a virtual host.
    Open,
    /// It may do what it likes.
    Running,
    /// It has closed the connection, and the answer waits for the disk.
    Leaving,
    /// It is to agree to the end.
    Closing,
    /// It could not log in and cannot be told so: it waits for a while, so that passwords are not tried fast.
    Refused,
    /// Nothing more is read.
    Over,
}

/// A client's place in a virtual host.
pub(super) struct Link {
    pub(super) host: Rc<Host>,
    pub(super) session: SessionId,
    /// What the user may do there.
    pub(super) permit: Rc<Permit>,
}

/// A connection.
pub(super) struct Connection {
    pub(super) server: Rc<Shared>,
    pub(super) peer: Rc<Peer>,
    pub(super) origin: Origin,
    pub(super) phase: Phase,
    /// When the phase is over at the latest.
    pub(super) phase_ends: Option<Instant>,
    pub(super) reader: FrameReader,
    pub(super) capabilities: Capabilities,
    pub(super) user: Rc<str>,
    /// By which mechanism.
    pub(super) mechanism: Mechanism,
    /// A password that is to be checked by whoever runs the connection.
    pub(super) verification: Option<Verification>,
    pub(super) channel_max: u16,
    /// The longest silence of the client, if there is a limit.
    pub(super) silence: Option<Duration>,
    pub(super) last_read: Instant,
    link: Option<Link>,
    channels: NumberMap<u16, Channel>,
    /// Where frames begin is not known any more: all that comes is dropped.
    is_lost: bool,
    /// What its channels have in memory of what is not finished, in bytes.
    unfinished: usize,
    has_published: bool,
    knows_of_alarm: bool,
    /// Channels with something to confirm.
    confirming: Vec<Rc<Confirms>>,
    /// The mark of the last that this connection has changed.
    changed: Mark,
    /// An answer that waits for the disk, which whoever runs the connection waits for.
    held: Option<Held>,
}

/// An error, and where it happened.
struct Failure {
    exception: Exception,
    channel: u16,
    method: MethodId,
}

impl Connection {
    pub(super) fn new(server: Rc<Shared>, peer: Rc<Peer>, origin: Origin, now: Instant) -> Self {
        let phase_ends = Some(now + server.limits.handshake);
        Self {
            server,
            peer,
            origin,
            phase: Phase::Header,
            phase_ends,
            // Nothing larger than the smallest limit may come before limits are negotiated.
            reader: FrameReader::new(MINIMUM_FRAME_SIZE),
            capabilities: Capabilities::default(),
            user: Rc::from(""),
            mechanism: Mechanism::Plain,
            verification: None,
            channel_max: 0,
            silence: None,
            last_read: now,
            link: None,
            channels: NumberMap::default(),
            is_lost: false,
            unfinished: 0,
            has_published: false,
            knows_of_alarm: false,
            confirming: Vec::new(),
            changed: Mark::default(),
            held: None,
        }
    }

    /// Takes what has come. Returns how much of it is done with; the rest is the start of a frame.
    pub(super) fn input(&mut self, bytes: &[u8], now: Instant) -> usize {
        self.last_read = now;
        let mut taken = 0;
        if self.phase == Phase::Header {
            match self.header(bytes) {
                Some(length) => taken = length,
                None => return 0,
            }
        }
        while self.is_reading() && self.phase != Phase::Checking && self.held.is_none() {
            match self.reader.read(&bytes[taken..]) {
                Ok(None) => break,
                Ok(Some((frame, length))) => {
                    taken += length;
                    if let Err(failure) = self.frame(frame, now) {
                        self.fail(&failure, now);
                    }
                }
                Err(violation) => {
                    self.is_lost = true;
                    self.close(&Exception::from(violation), MethodId::default(), now);
                }
            }
        }
        self.end_batch();
        if self.is_reading() { taken } else { bytes.len() }
    }

    fn is_reading(&self) -> bool {
        !self.is_lost && !matches!(self.phase, Phase::Over | Phase::Refused)
    }

    /// What came of a whole read is sent together.
    fn end_batch(&mut self) {
        if let Some(link) = &self.link {
            for confirms in self.confirming.drain(..) {
                link.host.confirm(&confirms);
            }
            link.host.submit();
        }
    }

    /// How much of the protocol header there is, or `None` while it may still become one.
    fn header(&mut self, bytes: &[u8]) -> Option<usize> {
        let known = bytes.len().min(PROTOCOL_HEADER.len());
        if bytes[..known] != PROTOCOL_HEADER[..known] {
            tracing::debug!(connection = self.peer.id, "not a client of AMQP 0-9-1");
            self.peer.append(|out| out.extend_from_slice(PROTOCOL_HEADER));
            self.over();
            return Some(bytes.len());
        }
        if known < PROTOCOL_HEADER.len() {
            return None;
        }
        self.start();
        Some(known)
    }

    fn frame(&mut self, frame: Frame<'_>, now: Instant) -> Result<(), Failure> {
        let nothing = MethodId::default();
        match frame {
            Frame::Method { channel: 0, payload } => {
                let method =
                    Method::read(payload).map_err(|violation| Failure::of_connection(violation.into(), nothing))?;
                let id = method.id();
                self.connection_method(&method, now).map_err(|exception| Failure::of_connection(exception, id))
            }
            Frame::Heartbeat => Ok(()),
            _ if self.phase == Phase::Closing => Ok(()),
            _ if self.phase != Phase::Running => Err(Failure::of_connection(self.out_of_place(), nothing)),
            Frame::Header { channel: 0, .. } | Frame::Body { channel: 0, .. } => {
                let exception = Exception::new(ReplyCode::UnexpectedFrame, "content on channel 0");
                Err(Failure::of_connection(exception, nothing))
            }
            Frame::Method { channel, payload } => self.channel_method(channel, payload, now),
            Frame::Header { channel, payload } => self.content_header(channel, payload, now),
            Frame::Body { channel, payload } => self.content_body(channel, payload, now),
        }
    }

    pub(super) fn out_of_place(&self) -> Exception {
        let state = match self.phase {
            Phase::Header | Phase::Start | Phase::Checking => "starting",
            Phase::Tune => "tuning",
            Phase::Open => "opening",
            Phase::Running => "running",
            Phase::Leaving | Phase::Closing | Phase::Refused | Phase::Over => "closing",
        };
        Exception::new(ReplyCode::ChannelError, format!("unexpected method in connection state {state}"))
    }

    fn connection_method(&mut self, method: &Method<'_>, now: Instant) -> Result<()> {
        match (self.phase, method) {
            (Phase::Start, Method::ConnectionStartOk(start)) => self.log_in(start, now),
            (Phase::Tune, Method::ConnectionTuneOk(tune)) => self.tune(tune),
            (Phase::Open, Method::ConnectionOpen(open)) => self.open(open, now),
            (Phase::Running, Method::ConnectionUpdateSecret(_)) => {
                self.peer.send(0, &connection::UpdateSecretOk {});
                Ok(())
            }
            (_, Method::ConnectionClose(close)) => {
                if close.reply_code != REPLY_SUCCESS {
                    tracing::debug!(connection = self.peer.id, code = close.reply_code, "closed by the client");
                }
                let host = self.link.as_ref().map(|link| link.host.clone());
                self.leave(now);
                self.phase = Phase::Leaving;
                match host {
                    Some(host) => self.answer_when_safe(host, Answer::ConnectionClosed, now),
                    None => self.answer(Answer::ConnectionClosed, now),
                }
                Ok(())
            }
            (Phase::Closing, Method::ConnectionCloseOk(_)) => {
                self.over();
                Ok(())
            }
            (Phase::Closing, _) => Ok(()),
            _ => Err(self.out_of_place()),
        }
    }

    /// The connection has a session from now on.
    pub(super) fn linked(&mut self, host: Rc<Host>, permit: Rc<Permit>, now: Instant) {
        let session = host.connect(&self.peer, self.server.limits.unsent, now);
        self.peer.enter(host.clone(), session);
        self.link = Some(Link { host, session, permit });
    }

    fn channel_method(&mut self, number: u16, payload: &[u8], now: Instant) -> Result<(), Failure> {
        if let Some(open) = self.channels.get(&number)
            && open.is_closing
        {
            self.closing_channel_method(number, payload);
            return Ok(());
        }
        let method =
            Method::read(payload).map_err(|violation| Failure::of_connection(violation.into(), MethodId::default()))?;
        let id = method.id();
        let failed = |exception| Failure { exception, channel: number, method: id };
        match method {
            Method::ChannelOpen(_) => return self.open_channel(number, now).map_err(failed),
            Method::ChannelClose(_) if self.channels.contains_key(&number) => {
                if let Some(host) = self.link.as_ref().map(|link| link.host.clone()) {
                    // Guards: messages for consumers of a channel that its client has closed, while the answer waits.
                    self.leave_channel(number, now);
                    self.answer_when_safe(host, Answer::ChannelClosed(number), now);
                }
                return Ok(());
            }
            _ => {}
        }
        let (Some(link), Some(channel)) = (&self.link, self.channels.get_mut(&number)) else {
            return Err(failed(Exception::new(ReplyCode::ChannelError, "expected 'channel.open'")));
        };
        if !matches!(channel.expected, Expected::Method) {
            let method = basic::Publish::ID;
            return Err(Failure { exception: no_header(), channel: number, method });
        }
        let before = link.host.recorded();
        let mut call = Call {
            peer: &self.peer,
            host: &link.host,
            permit: &link.permit,
            session: link.session,
            confirming: &mut self.confirming,
            number,
            channel,
            now,
            held: None,
        };
        let done = call.method(&method);
        let held = call.held.take();
        // A commit answers for all that was there, whoever did it: who has found a queue empty can ask whether it stays so.
        if link.host.recorded() > before || matches!(method, Method::TxCommit(_)) {
            self.changed = link.host.recorded();
        }
        if let Some(frames) = held {
            let host = link.host.clone();
            self.answer_when_safe(host, Answer::Frames(frames), now);
        }
        done.map_err(failed)?;
        if let Method::BasicPublish(_) = method {
            self.has_published = true;
        }
        self.check_unfinished(number, id)
    }

    /// Answers at once, or when everything that this connection has done is on the disk.
    fn answer_when_safe(&mut self, host: Rc<Host>, answer: Answer, now: Instant) {
        let mark = self.changed.max(self.peer.settled.get());
        if host.is_safe(mark) {
            self.answer(answer, now);
        } else {
            self.held = Some(Held { host, mark, answer });
        }
    }

    fn answer(&mut self, answer: Answer, now: Instant) {
        match answer {
            Answer::Frames(frames) => self.peer.append(|out| out.extend_from_slice(&frames)),
            Answer::ChannelClosed(number) => {
                self.close_channel(number, now);
                self.channels.remove(&number);
                self.peer.send(number, &channel::CloseOk {});
            }
            Answer::ConnectionClosed => {
                self.peer.send(0, &connection::CloseOk {});
                self.over();
            }
        }
    }

    /// The answer that waits for the disk, if there is one.
    pub(super) fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// What the answer waited for is on the disk, or why it is not. Then the connection ends with an error instead.
    pub(super) fn settled(&mut self, safe: std::result::Result<(), String>, now: Instant) {
        let Some(Held { answer, .. }) = self.held.take() else { return };
        match safe {
            Ok(()) => self.answer(answer, now),
            Err(reason) => {
                self.close(&Exception::new(ReplyCode::ResourceError, not_safe(&reason)), MethodId::default(), now);
            }
        }
    }

    /// A channel that was closed by an error: only its end counts.
    fn closing_channel_method(&mut self, number: u16, payload: &[u8]) {
        match Method::read(payload) {
            Ok(Method::ChannelCloseOk(_)) => {
                self.channels.remove(&number);
            }
            Ok(Method::ChannelClose(_)) => self.peer.send(number, &channel::CloseOk {}),
            _ => {}
        }
    }

    fn open_channel(&mut self, number: u16, now: Instant) -> Result<()> {
        if self.channels.contains_key(&number) {
            return Err(Exception::new(ReplyCode::ChannelError, "second 'channel.open' seen"));
        }
        let open = self.channels.len();
        if open >= usize::from(self.channel_max) {
            let text = format!("number of channels opened ({open}) has reached the negotiated channel_max ({open})");
            return Err(Exception::new(ReplyCode::NotAllowed, text));
        }
        let Some(link) = &self.link else { return Err(self.out_of_place()) };
        link.host
            .request(|engine| engine.open_channel(link.session, ChannelId(number.into()), now))
            .map_err(|refusal| Exception::refused(&refusal, &link.host.name))?;
        self.channels.insert(number, Channel::new());
        self.peer.send(number, &channel::OpenOk {});
        Ok(())
    }

    /// Ends what the channel has in the engine.
    fn close_channel(&mut self, number: u16, now: Instant) {
        if let (Some(link), Some(channel)) = (&self.link, self.channels.get_mut(&number)) {
            // What was published before is confirmed as far as it can be.
            if let Mode::Confirm(confirms) = &channel.mode {
                link.host.confirm(confirms);
            }
            channel.close();
            self.peer.unselect(number);
            self.unfinished -= std::mem::take(&mut channel.counted);
            self.leave_channel(number, now);
        }
    }

    /// Its consumers end, and what it has not settled goes back.
    fn leave_channel(&self, number: u16, now: Instant) {
        if let Some(link) = &self.link {
            link.host.request(|engine| engine.close_channel(link.session, ChannelId(number.into()), now));
        }
    }

    fn content_header(&mut self, number: u16, payload: &[u8], now: Instant) -> Result<(), Failure> {
        let Some(channel) = self.channels.get_mut(&number) else { return Err(no_method(number)) };
        if channel.is_closing {
            return Ok(());
        }
        let publish = match std::mem::replace(&mut channel.expected, Expected::Method) {
            Expected::Header(publish) => publish,
            Expected::Method => return Err(no_method(number)),
            Expected::Body(..) => {
                let text = "expected content body, got non content body frame instead";
                let exception = Exception::new(ReplyCode::UnexpectedFrame, text);
                return Err(Failure { exception, channel: number, method: basic::Publish::ID });
            }
        };
        let failed = |exception| Failure { exception, channel: number, method: basic::Publish::ID };
        if let Some(&[high, low]) = payload.first_chunk::<2>()
            && u16::from_be_bytes([high, low]) != basic::Publish::ID.class
        {
            let class = u16::from_be_bytes([high, low]);
            let text = format!("expected content header for class 60, got one for class {class} instead");
            return Err(failed(Exception::new(ReplyCode::UnexpectedFrame, text)));
        }
        let header = ContentHeader::read(payload).map_err(|violation| failed(violation.into()))?;
        let limit = self.server.limits.message_size;
        if header.body_size > limit {
            let text = format!("message size {} is larger than configured max size {limit}", header.body_size);
            return Err(failed(Exception::precondition(text)));
        }
        let Some(link) = &self.link else { return Err(no_method(number)) };
        let checked = check_user(&header, &self.user, &link.permit)
            .and_then(|()| Facts::read(&header.properties))
            .and_then(|facts| channel.readdressed(&header).map(|readdressed| (facts, readdressed)));
        // Errors of the exchange, and of its topics, come before those of the message, as RabbitMQ has it.
        let of_exchange = || {
            link.host.check_exchange(&publish.exchange)?;
            topics::check(&link.permit, &link.host, Topic::Write, &publish.exchange, [&*publish.key])
        };
        let (facts, readdressed) = checked.map_err(|exception| failed(of_exchange().err().unwrap_or(exception)))?;
        let payload = readdressed.as_deref().unwrap_or(payload);
        channel.expected = Expected::Body(publish, Unfinished::new(payload, facts, header.body_size));
        if header.body_size == 0 { self.publish(number, now) } else { Ok(()) }
    }

    fn content_body(&mut self, number: u16, payload: &[u8], now: Instant) -> Result<(), Failure> {
        let Some(channel) = self.channels.get_mut(&number) else { return Err(no_method(number)) };
        if channel.is_closing {
            return Ok(());
        }
        match &mut channel.expected {
            Expected::Body(_, unfinished) => {
                if !unfinished.push(payload) {
                    let exception =
                        Exception::new(ReplyCode::FrameError, "the body is larger than its header announced");
                    return Err(Failure { exception, channel: number, method: basic::Publish::ID });
                }
                if unfinished.is_finished() {
                    self.publish(number, now)
                } else {
                    self.check_unfinished(number, basic::Publish::ID)
                }
            }
            Expected::Header(_) => Err(Failure { exception: no_header(), channel: number, method: basic::Publish::ID }),
            Expected::Method => Err(no_method(number)),
        }
    }

    /// A message is complete.
    fn publish(&mut self, number: u16, now: Instant) -> Result<(), Failure> {
        let (Some(link), Some(channel)) = (&self.link, self.channels.get_mut(&number)) else { return Ok(()) };
        let Expected::Body(publish, unfinished) = std::mem::replace(&mut channel.expected, Expected::Method) else {
            return Ok(());
        };
        let before = link.host.recorded();
        let mut call = Call {
            peer: &self.peer,
            host: &link.host,
            permit: &link.permit,
            session: link.session,
            confirming: &mut self.confirming,
            number,
            channel,
            now,
            held: None,
        };
        let done = call.publish(publish, unfinished);
        if link.host.recorded() > before {
            self.changed = link.host.recorded();
        }
        done.map_err(|exception| Failure { exception, channel: number, method: basic::Publish::ID })?;
        self.check_unfinished(number, basic::Publish::ID)
    }

    /// What is not finished costs memory that only this client can give back.
    fn check_unfinished(&mut self, number: u16, method: MethodId) -> Result<(), Failure> {
        if let Some(channel) = self.channels.get_mut(&number) {
            let now = channel.unfinished();
            self.unfinished = self.unfinished - std::mem::replace(&mut channel.counted, now) + now;
        }
        let limit = self.server.limits.unfinished;
        if self.unfinished <= limit {
            return Ok(());
        }
        let text = format!("unfinished messages and transactions take more than {limit} bytes");
        Err(Failure::of_connection(Exception::new(ReplyCode::ResourceError, text), method))
    }

    fn fail(&mut self, failure: &Failure, now: Instant) {
        let Failure { exception, channel: number, method } = failure;
        if exception.code.severity() == Severity::Connection || *number == 0 {
            return self.close(exception, *method, now);
        }
        tracing::debug!(connection = self.peer.id, channel = number, code = exception.code.number(), "channel closed");
        self.close_channel(*number, now);
        if let Some(channel) = self.channels.get_mut(number) {
            channel.is_closing = true;
        }
        let text = exception.reply_text();
        let close = channel::Close {
            reply_code: exception.code.number(),
            reply_text: &text,
            class_id: method.class,
            method_id: method.method,
        };
        self.peer.send(*number, &close);
    }

    /// Ends the connection with an error.
    pub(super) fn close(&mut self, exception: &Exception, method: MethodId, now: Instant) {
        if matches!(self.phase, Phase::Closing | Phase::Refused | Phase::Over) {
            return;
        }
        let text = exception.reply_text();
        tracing::info!(connection = self.peer.id, code = exception.code.number(), text, "connection closed");
        self.held = None;
        self.leave(now);
        let close = connection::Close {
            reply_code: exception.code.number(),
            reply_text: &text,
            class_id: method.class,
            method_id: method.method,
        };
        self.peer.send(0, &close);
        self.phase = Phase::Closing;
        self.phase_ends = Some(now + self.server.limits.close);
    }

    /// The server or an operator ends the connection.
    pub(super) fn force(&mut self, text: &str, now: Instant) {
        if matches!(self.phase, Phase::Running | Phase::Leaving) {
            self.close(&Exception::new(ReplyCode::ConnectionForced, text), MethodId::default(), now);
        } else if self.phase != Phase::Closing {
            self.over();
        }
    }

    /// Nothing more is read; what waits is written.
    pub(super) fn over(&mut self) {
        self.phase = Phase::Over;
        self.peer.finish();
    }

    /// Leaves the virtual host: consumers end, what is out goes back, exclusive queues go.
    fn leave(&mut self, now: Instant) {
        self.end_batch();
        self.channels.values_mut().for_each(Channel::close);
        self.channels.clear();
        if let Some(Link { host, session, .. }) = self.link.take() {
            self.peer.leave();
            host.disconnect(session, now);
            host.submit();
        }
    }

    /// Stops or continues a publisher while there is an alarm. Whether it is stopped.
    pub(super) fn heed_alarm(&mut self) -> bool {
        if self.phase != Phase::Running || !self.has_published {
            return false;
        }
        let alarm = self.server.alarm();
        if self.capabilities.blocked && alarm.is_some() != self.knows_of_alarm {
            match &alarm {
                Some(reason) => self.peer.send(0, &connection::Blocked { reason }),
                None => self.peer.send(0, &connection::Unblocked {}),
            }
            self.knows_of_alarm = alarm.is_some();
        }
        alarm.is_some()
    }

    /// When the client has taken too long, if nothing comes.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let silence = self.silence.map(|silence| self.last_read + silence);
        match (self.phase_ends, silence) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        }
    }

    /// The client has taken too long.
    pub(super) fn timed_out(&mut self) {
        match self.phase {
            Phase::Running | Phase::Leaving => {
                tracing::warn!(connection = self.peer.id, user = &*self.user, "missed heartbeats from client");
            }
            Phase::Closing | Phase::Refused | Phase::Over => {}
            phase => {
                tracing::info!(connection = self.peer.id, ?phase, "the handshake took too long");
            }
        }
        self.phase = Phase::Over;
        self.peer.fail();
    }
}

impl Drop for Connection {
    // Guards: a connection that ends in any other way than in order leaves its virtual host all the same.
    fn drop(&mut self) {
        self.leave(Instant::now());
        self.peer.finish();
        self.server.leave(&self.peer);
    }
}

impl Failure {
    fn of_connection(exception: Exception, method: MethodId) -> Self {
        Self { exception, channel: 0, method }
    }
}

/// A frame of content without a method that has content.
fn no_method(channel: u16) -> Failure {
    let text = "expected method frame, got non method frame instead";
    let exception = Exception::new(ReplyCode::UnexpectedFrame, text);
    Failure { exception, channel, method: MethodId::default() }
}

/// Something else than the content header that was due.
fn no_header() -> Exception {
    let text = "expected content header for class 60, got non content header frame instead";
    Exception::new(ReplyCode::UnexpectedFrame, text)
}

/// A message can name the user who published it, and only that one, unless that user may publish for others.
pub(super) fn check_user(header: &ContentHeader<'_>, user: &str, permit: &Permit) -> Result<()> {
    match header.properties.user_id {
        Some(named) if named != user.as_bytes() && !permit.is_impersonator() => Err(Exception::precondition(format!(
            "user_id property set to '{}' but authenticated user was '{user}'",
            String::from_utf8_lossy(named)
        ))),
        _ => Ok(()),
    }
}
