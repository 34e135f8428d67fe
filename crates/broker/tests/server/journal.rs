//! What a journal is told, and what of it clients see: confirms that wait for the disk, publishers that are stopped.

use crate::management::Beside;
use crate::raw::{Got, Raw, declare, message_of};
use crate::start;
use homing_broker::engine::{Effect, Engine, Message};
use homing_broker::protocol::{
    Properties, Table, TableWriter, Value,
    methods::{self, basic, confirm, connection, queue, tx},
};
use homing_broker::server::{Change, Content, Journal, Mark, Opened, Progress, Server, Storage};
use serde_json::{Value as Json, json};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A disk that is as fast as a test likes.
#[derive(Clone, Default)]
struct Disk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    recorded: Vec<String>,
    events: VecDeque<Progress>,
    waker: Option<Waker>,
    /// Why it takes nothing.
    failure: Option<String>,
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    fn recorded(&self) -> Vec<String> {
        self.state().recorded.clone()
    }

    fn report(&self, event: Progress) {
        let mut state = self.state();
        state.events.push_back(event);
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
    }

    /// It takes nothing from now on.
    fn fail(&self, reason: &str) {
        self.state().failure = Some(reason.to_owned());
    }

    /// All that was recorded is safe.
    fn sync(&self) {
        let mark = self.state().recorded.len() as u64;
        self.report(Progress::Durable(Mark(mark)));
    }
}

impl Storage for Disk {
    fn open(&mut self, virtual_host: &str, now: Instant) -> io::Result<Opened> {
        assert_eq!(virtual_host, "/");
        Ok(Opened::new(Engine::new(now), self.clone()))
    }
}

/// A disk for `/`, and one for every other virtual host.
struct Disks(Disk, Disk);

impl Storage for Disks {
    fn open(&mut self, virtual_host: &str, now: Instant) -> io::Result<Opened> {
        let disk = if virtual_host == "/" { &self.0 } else { &self.1 };
        Ok(Opened::new(Engine::new(now), disk.clone()))
    }
}

impl Journal for Disk {
    fn record(&mut self, effect: Effect<Content>) -> Mark {
        let text = match effect {
            Effect::Store { queue, message, .. } => {
                format!("store in {queue}: {}", String::from_utf8_lossy(message.body()))
            }
            Effect::Forget { .. } => "forget".to_owned(),
            Effect::Defined(_) => "defined".to_owned(),
            Effect::Undefined(_) => "undefined".to_owned(),
            other => panic!("{other:?} is not to be kept"),
        };
        let mut state = self.state();
        state.recorded.push(text);
        Mark(state.recorded.len() as u64)
    }

    fn submit(&mut self) {}

    fn failure(&self) -> Option<String> {
        self.state().failure.clone()
    }

    fn close(&mut self) -> Result<(), String> {
        self.failure().map_or(Ok(()), Err)
    }

    fn poll_progress(&mut self, context: &mut Context<'_>) -> Poll<Progress> {
        let mut state = self.state();
        match state.events.pop_front() {
            Some(event) => Poll::Ready(event),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

fn server() -> (Server, SocketAddr, Disk) {
    let disk = Disk::default();
    let (server, address) = start(Server::builder().storage(disk.clone()));
    (server, address, disk)
}

fn persistent() -> Properties<'static> {
    let mut properties = Properties::default();
    properties.delivery_mode = Some(2);
    properties
}

/// A channel with a durable queue `q`.
fn channel(address: SocketAddr) -> Raw {
    let mut raw = Raw::channel(address);
    raw.send(
        1,
        queue::Declare {
            queue: "q",
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            no_wait: false,
            arguments: Table::EMPTY,
        },
    );
    raw.expect("QueueDeclareOk");
    raw
}

fn confirming(address: SocketAddr) -> Raw {
    let mut raw = channel(address);
    raw.send(1, confirm::Select { no_wait: false });
    raw.expect("ConfirmSelectOk");
    raw
}

const SHORT: Duration = Duration::from_millis(200);

#[test]
fn a_confirm_waits_until_its_message_is_on_the_disk() {
    let (_server, address, disk) = server();
    let mut raw = confirming(address);
    for body in [b"1", b"2", b"3"] {
        raw.publish(1, "", "q", true, persistent(), body);
    }
    assert!(raw.is_silent(SHORT));
    assert_eq!(disk.recorded(), ["defined", "store in q: 1", "store in q: 2", "store in q: 3"]);
    disk.report(Progress::Durable(Mark(3)));
    assert_eq!(raw.expect("BasicAck"), "BasicAck(Ack { delivery_tag: 2, multiple: true })", "one for both");
    assert!(raw.is_silent(SHORT));
    disk.sync();
    assert_eq!(raw.expect("BasicAck"), "BasicAck(Ack { delivery_tag: 3, multiple: false })");
    // What is not to be kept is confirmed at once.
    raw.publish(1, "", "q", true, Properties::default(), b"4");
    assert_eq!(raw.expect("BasicAck"), "BasicAck(Ack { delivery_tag: 4, multiple: false })");
}

#[test]
fn a_returned_message_does_not_wait_for_those_before_it() {
    let (_server, address, disk) = server();
    let mut raw = confirming(address);
    raw.publish(1, "", "q", true, persistent(), b"1");
    raw.publish(1, "", "nowhere", true, persistent(), b"2");
    raw.expect("BasicReturn(");
    assert!(matches!(raw.next(), Got::Header(..)) && matches!(raw.next(), Got::Body(..)));
    assert_eq!(raw.expect("BasicAck"), "BasicAck(Ack { delivery_tag: 2, multiple: false })");
    raw.publish(1, "", "q", true, persistent(), b"3");
    assert!(raw.is_silent(SHORT));
    disk.sync();
    // The second is not confirmed again: a client that did not wait for it any more would take that for an error.
    assert_eq!(raw.expect("BasicAck"), "BasicAck(Ack { delivery_tag: 1, multiple: false })");
    assert_eq!(raw.expect("BasicAck"), "BasicAck(Ack { delivery_tag: 3, multiple: false })");
}

#[test]
fn a_commit_waits_for_the_disk_too() {
    let (_server, address, disk) = server();
    let mut raw = channel(address);
    raw.send(1, tx::Select {});
    raw.expect("TxSelectOk");
    raw.publish(1, "", "q", true, persistent(), b"1");
    raw.send(1, tx::Commit {});
    assert!(raw.is_silent(SHORT));
    disk.sync();
    raw.expect("TxCommitOk");
    raw.send(1, tx::Commit {});
    raw.expect("TxCommitOk");
}

#[test]
fn an_acknowledged_message_is_forgotten() {
    let (_server, address, disk) = server();
    let mut raw = acknowledged(address);
    raw.send(1, queue::Delete { queue: "q", if_unused: false, if_empty: false, no_wait: false });
    raw.expect("QueueDeleteOk");
    assert_eq!(disk.recorded(), ["defined", "store in q: 1", "forget", "undefined"]);
}

/// Gets a message of `q`.
fn get(raw: &mut Raw) {
    raw.send(1, basic::Get { queue: "q", no_ack: false });
    raw.expect("BasicGetOk");
    assert!(matches!(raw.next(), Got::Header(..)) && matches!(raw.next(), Got::Body(..)));
}

/// A channel that has acknowledged a message of `q`, of which the disk does not know yet.
fn acknowledged(address: SocketAddr) -> Raw {
    let mut raw = channel(address);
    raw.publish(1, "", "q", true, persistent(), b"1");
    get(&mut raw);
    raw.send(1, basic::Ack { delivery_tag: 1, multiple: false });
    raw
}

const CLOSE_CHANNEL: methods::channel::Close<'static> =
    methods::channel::Close { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };
const CLOSE: connection::Close<'static> =
    connection::Close { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 };

#[test]
fn the_end_of_a_channel_is_answered_when_its_acknowledgements_are_on_the_disk() {
    let (_server, address, disk) = server();
    let mut raw = acknowledged(address);
    raw.send(1, CLOSE_CHANNEL);
    // What comes behind it is done behind it.
    raw.send(1, methods::channel::Open {});
    assert!(raw.is_silent(SHORT));
    assert_eq!(disk.recorded(), ["defined", "store in q: 1", "forget"]);
    disk.report(Progress::Durable(Mark(2)));
    assert!(raw.is_silent(SHORT));
    disk.sync();
    raw.expect("ChannelCloseOk");
    raw.expect("ChannelOpenOk");
    // Nothing is left to wait for.
    raw.send(1, CLOSE_CHANNEL);
    raw.expect("ChannelCloseOk");
}

#[test]
fn the_end_of_a_connection_is_answered_when_its_acknowledgements_are_on_the_disk() {
    let (_server, address, disk) = server();
    let mut raw = acknowledged(address);
    raw.send(0, CLOSE);
    assert!(raw.is_silent(SHORT));
    // Whoever has changed nothing does not wait for what others did.
    let mut other = Raw::channel(address);
    other.send(0, CLOSE);
    other.expect("ConnectionCloseOk");
    disk.sync();
    raw.expect("ConnectionCloseOk");
}

/// Consumes from `q`.
fn consume(raw: &mut Raw, no_ack: bool) {
    let (consumer_tag, arguments) = ("c", Table::default());
    raw.send(
        1,
        basic::Consume {
            queue: "q",
            consumer_tag,
            no_local: false,
            no_ack,
            exclusive: false,
            no_wait: false,
            arguments,
        },
    );
    raw.expect("BasicConsumeOk");
}

#[test]
fn what_is_settled_by_being_sent_is_on_the_disk_when_its_receiver_has_ended_whoever_had_it_sent() {
    for close_channel in [true, false] {
        let (_server, address, disk) = server();
        let mut other = channel(address);
        other.publish(1, "", "q", true, persistent(), b"1");
        get(&mut other);
        let mut raw = channel(address);
        consume(&mut raw, true);
        // All that was before is safe. The message comes back since the other one ends.
        disk.sync();
        other.send(1, CLOSE_CHANNEL);
        other.expect("ChannelCloseOk");
        raw.expect("BasicDeliver");
        assert!(matches!(raw.next(), Got::Header(..)) && matches!(raw.next(), Got::Body(..)));
        if close_channel {
            raw.send(1, CLOSE_CHANNEL);
        } else {
            raw.send(0, CLOSE);
        }
        assert!(raw.is_silent(SHORT));
        disk.sync();
        raw.expect(if close_channel { "ChannelCloseOk" } else { "ConnectionCloseOk" });
    }
}

#[test]
fn a_channel_whose_end_waits_for_the_disk_is_handed_nothing_more() {
    let (_server, address, disk) = server();
    let mut raw = acknowledged(address);
    consume(&mut raw, true);
    raw.send(1, CLOSE_CHANNEL);
    assert!(raw.is_silent(SHORT));
    let mut other = channel(address);
    other.publish(1, "", "q", true, persistent(), b"2");
    assert!(raw.is_silent(SHORT));
    consume(&mut other, true);
    other.expect("BasicDeliver");
    disk.sync();
    raw.expect("ChannelCloseOk");
}

#[test]
fn nobody_waits_for_the_disk_of_a_virtual_host_that_is_removed() {
    let beside = Beside::with(Server::builder().storage(Disks(Disk::default(), Disk::default())));
    assert_eq!(beside.ask("PUT", "/api/vhosts/v", Json::Null).0, 201);
    let rights = json!({"configure": ".*", "write": ".*", "read": ".*"});
    assert_eq!(beside.ask("PUT", "/api/permissions/v/guest", rights).0, 201);
    let durable = json!({"durable": true});
    assert_eq!(beside.ask("PUT", "/api/queues/v/q", durable).0, 201);
    let message =
        json!({"properties": {"delivery_mode": 2}, "routing_key": "q", "payload": "1", "payload_encoding": "string"});
    std::thread::scope(|scope| {
        let asked = Instant::now();
        let waiting = scope.spawn(|| beside.ask("POST", "/api/exchanges/v/amq.default/publish", message));
        while beside.ask("GET", "/api/queues/v/q", Json::Null).1["messages"] != 1 {
            assert!(asked.elapsed() < Duration::from_secs(30), "it is not published");
        }
        assert!(!waiting.is_finished(), "it waits for the disk");
        assert_eq!(beside.ask("DELETE", "/api/vhosts/v", Json::Null).0, 204);
        assert_eq!(waiting.join().expect("no panic").0, 200, "there is nothing to wait for");
    });
}

#[test]
fn a_purge_is_answered_when_it_is_on_the_disk_and_what_follows_it_is_done_then() {
    let (_server, address, disk) = server();
    let mut raw = channel(address);
    raw.publish(1, "", "q", true, persistent(), b"1");
    raw.send(1, queue::Purge { queue: "q", no_wait: false });
    raw.send(1, declare("other"));
    assert!(raw.is_silent(SHORT));
    disk.sync();
    assert_eq!(raw.expect("QueuePurgeOk"), "QueuePurgeOk(PurgeOk { message_count: 1 })");
    raw.expect("QueueDeclareOk");
}

#[test]
fn the_acknowledgements_of_a_transaction_are_on_the_disk_when_it_is_committed_and_those_of_others_too() {
    let (_server, address, disk) = server();
    let mut raw = channel(address);
    raw.publish(1, "", "q", true, persistent(), b"1");
    disk.sync();
    raw.send(1, tx::Select {});
    raw.expect("TxSelectOk");
    get(&mut raw);
    raw.send(1, basic::Ack { delivery_tag: 1, multiple: false });
    raw.send(1, tx::Commit {});
    // One that has done nothing asks for all.
    let mut other = Raw::channel(address);
    other.send(1, tx::Select {});
    other.expect("TxSelectOk");
    while disk.recorded().len() < 3 {
        std::thread::sleep(Duration::from_millis(10));
    }
    other.send(1, tx::Commit {});
    assert!(raw.is_silent(SHORT) && other.is_silent(SHORT));
    assert_eq!(disk.recorded(), ["defined", "store in q: 1", "forget"]);
    disk.sync();
    raw.expect("TxCommitOk");
    other.expect("TxCommitOk");
}

#[test]
fn a_purge_and_a_publish_by_http_are_answered_when_they_are_on_the_disk() {
    let disk = Disk::default();
    let beside = Beside::with(Server::builder().storage(disk.clone()));
    drop(channel(beside.amqp));
    disk.fail("no space left on device");
    let publish =
        json!({"properties": {"delivery_mode": 2}, "routing_key": "q", "payload": "1", "payload_encoding": "string"});
    let publish = || beside.ask("POST", "/api/exchanges/%2f/amq.default/publish", publish.clone());
    let purge = || beside.ask("DELETE", "/api/queues/%2f/q/contents", Json::Null);
    for (status, answer) in [publish(), purge()] {
        assert!(
            status == 500 && answer["reason"].as_str().is_some_and(|why| why.contains("no space left")),
            "{answer}"
        );
    }
    // A disk of which all is safe as soon as it is recorded.
    let (recovered, stop) = (disk.clone(), Arc::new(AtomicBool::new(false)));
    let stopped = Arc::clone(&stop);
    let syncing = std::thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            recovered.sync();
            std::thread::sleep(Duration::from_millis(10));
        }
    });
    let answers = [publish(), purge()];
    stop.store(true, Ordering::Relaxed);
    syncing.join().expect("no panic");
    assert_eq!(answers.map(|(status, _)| status), [200, 204]);
}

#[test]
fn nobody_is_told_that_an_acknowledgement_counts_which_the_disk_does_not_take() {
    type End = fn(&mut Raw);
    let ends: [End; 3] = [
        |raw| raw.send(1, CLOSE_CHANNEL),
        |raw| raw.send(0, CLOSE),
        |raw| raw.send(1, queue::Purge { queue: "q", no_wait: false }),
    ];
    for end in ends {
        let (server, address, disk) = server();
        let mut raw = acknowledged(address);
        disk.fail("no space left on device");
        end(&mut raw);
        let closed = raw.closed();
        assert!(closed.contains("reply_code: 506") && closed.contains("no space left on device"), "{closed}");
        assert!(closed.contains("is not on the disk"), "{closed}");
        let failure = server.shutdown(Duration::from_secs(5)).failure.expect("it is not kept");
        assert!(failure.contains("vhost / is not on the disk: no space left on device"), "{failure}");
    }
}

#[test]
fn a_server_that_stops_does_not_answer_for_what_is_not_on_the_disk() {
    let (server, address, _disk) = server();
    let mut raw = acknowledged(address);
    raw.send(0, CLOSE);
    assert!(raw.is_silent(SHORT));
    let stopping = std::thread::spawn(move || server.shutdown(Duration::from_secs(20)));
    assert!(raw.closed().contains("reply_code: 320"));
    raw.send(0, connection::CloseOk {});
    assert_eq!(stopping.join().expect("no panic").abandoned, 0);
}

#[test]
fn a_full_disk_stops_publishers_and_nobody_else() {
    let (_server, address, disk) = server();
    let mut publisher = confirming(address);
    let mut consumer = channel(address);
    publisher.publish(1, "", "q", true, persistent(), b"1");
    disk.report(Progress::Blocked("low on disk".to_owned()));
    assert_eq!(publisher.expect("ConnectionBlocked"), "ConnectionBlocked(Blocked { reason: \"low on disk\" })");
    // What it sends now stays where it is.
    publisher.publish(1, "", "q", true, persistent(), b"2");
    assert!(publisher.is_silent(SHORT));
    assert_eq!(disk.recorded(), ["defined", "store in q: 1"]);
    // Others go on, as long as they do not publish.
    consumer.send(1, basic::Get { queue: "q", no_ack: true });
    consumer.expect("BasicGetOk");
    assert!(matches!(consumer.next(), Got::Header(..)) && matches!(consumer.next(), Got::Body(..)));
    let mut late = channel(address);
    late.publish(1, "", "q", true, persistent(), b"3");
    late.expect("ConnectionBlocked");
    disk.report(Progress::Unblocked);
    publisher.expect("ConnectionUnblocked");
    late.expect("ConnectionUnblocked");
    let start = Instant::now();
    while disk.recorded().len() < 5 {
        assert!(start.elapsed() < Duration::from_secs(20), "{:?}", disk.recorded());
        std::thread::sleep(Duration::from_millis(10));
    }
    disk.sync();
    assert_eq!(publisher.expect("BasicAck"), "BasicAck(Ack { delivery_tag: 2, multiple: true })");
}

#[test]
fn what_came_in_before_a_refused_message_is_confirmed_and_what_is_refused_is_not() {
    let (_server, address, _disk) = server();
    let mut raw = confirming(address);
    let mut arguments = Vec::new();
    let mut table = TableWriter::new(&mut arguments);
    table.field(b"x-max-length", &Value::I32(2));
    table.field(b"x-overflow", &Value::String(b"reject-publish"));
    raw.send(1, queue::Declare { arguments: Table::unchecked(&arguments), ..declare("full") });
    raw.expect("QueueDeclareOk");
    // All of them come at once, and the third finds no room.
    let all: Vec<u8> = (0..4).flat_map(|_| message_of(1, "", "full", false, Properties::default(), b"x")).collect();
    raw.bytes(&all);
    assert_eq!(raw.expect("BasicAck"), "BasicAck(Ack { delivery_tag: 2, multiple: true })");
    for tag in [3, 4] {
        let nack = format!("BasicNack(Nack {{ delivery_tag: {tag}, multiple: false, requeue: true }})");
        assert_eq!(raw.expect("BasicNack"), nack);
    }
}

#[test]
fn a_full_disk_stops_nobody_any_more_when_its_virtual_host_is_removed() {
    let (own, other) = (Disk::default(), Disk::default());
    let (server, address) = start(Server::builder().storage(Disks(own, other.clone())));
    let change = |change| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(server.admin().change(change)).expect("the change is made");
    };
    change(Change::AddVirtualHost { name: "v".to_owned() });
    let mut publisher = Raw::channel(address);
    publisher.publish(1, "", "nowhere", false, Properties::default(), b"1");
    other.report(Progress::Blocked("low on disk".to_owned()));
    publisher.expect("ConnectionBlocked");
    change(Change::RemoveVirtualHost { name: "v".to_owned() });
    publisher.expect("ConnectionUnblocked");
}

#[test]
fn a_stopped_publisher_is_not_taken_for_dead() {
    let (_server, address, disk) = server();
    let mut raw = Raw::open_with(address, 0, 0, 1);
    raw.send(1, homing_broker::protocol::methods::channel::Open {});
    raw.expect("ChannelOpenOk");
    raw.publish(1, "", "nowhere", false, Properties::default(), b"1");
    disk.report(Progress::Blocked("low on disk".to_owned()));
    raw.expect("ConnectionBlocked");
    // Its heartbeats are not read, for longer than it may be silent otherwise.
    for _ in 0..8 {
        raw.bytes(b"\x08\0\0\0\0\0\0\xce");
        std::thread::sleep(Duration::from_millis(400));
    }
    disk.report(Progress::Unblocked);
    raw.expect("ConnectionUnblocked");
    raw.send(0, connection::Close { reply_code: 200, reply_text: "", class_id: 0, method_id: 0 });
    raw.expect("ConnectionCloseOk");
}

#[test]
fn a_server_that_can_keep_nothing_any_more_stops() {
    let (server, address, disk) = server();
    let mut raw = confirming(address);
    raw.publish(1, "", "q", true, persistent(), b"1");
    disk.report(Progress::Failed("the disk is gone".to_owned()));
    // No confirm comes for what was not kept.
    assert!(raw.closed().contains("reply_code: 320"));
    assert_eq!(server.wait().failure.as_deref(), Some("the disk is gone"));
}

#[test]
fn what_was_kept_and_cannot_be_read_is_named() {
    struct Broken;
    impl Storage for Broken {
        fn open(&mut self, _virtual_host: &str, _now: Instant) -> io::Result<Opened> {
            Err(io::Error::other("it is of a newer version"))
        }
    }
    let error = Server::builder().storage(Broken).start().expect_err("it cannot start");
    assert_eq!(error.to_string(), "what was kept of vhost / cannot be read: it is of a newer version");
}

/// A message is what it was after it was stored and read again.
#[test]
fn a_content_is_restored() {
    let mut header = Vec::new();
    let mut properties = persistent();
    properties.priority = Some(3);
    properties.expiration = Some(b"50");
    homing_broker::protocol::ContentHeader { body_size: 2, properties }.write(&mut header);
    let content = Content::restore("x", "k", &header, b"hi", &[]).expect("it is well formed");
    assert_eq!((content.exchange(), content.routing_key(), content.body()), ("x", "k", &b"hi"[..]));
    assert_eq!((content.priority(), content.time_to_live()), (3, Some(Duration::from_millis(50))));
    assert!(content.is_persistent());
    assert!(Content::restore("x", "k", b"\0", b"hi", &[]).is_none());
}
