//! What survives: a restart in order, and SIGKILL under load.

use crate::Directory;
use futures_util::StreamExt;
use homing_broker::server::{Change, DiskStorage, Permissions, Server};
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(60);

/// By this a copy of this program is a server, in the directory that it names.
const CHILD: &str = "HOMING_BROKER_TEST_DIRECTORY";

fn serve(directory: &Path) -> (Server, SocketAddr) {
    crate::start(Server::builder().storage(DiskStorage::new(directory)))
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(PATIENCE * 4, test).await.expect("in time") })
}

async fn connect(address: SocketAddr) -> (Connection, Channel) {
    let url = format!("amqp://guest:guest@{address}/%2f");
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.expect("connected");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    (connection, channel)
}

fn durable() -> QueueDeclareOptions {
    QueueDeclareOptions { durable: true, ..Default::default() }
}

async fn declare(channel: &Channel, name: &str, options: QueueDeclareOptions) {
    channel.queue_declare(name.into(), options, FieldTable::default()).await.expect("declared");
}

fn persistent() -> BasicProperties {
    BasicProperties::default().with_delivery_mode(2)
}

async fn publish(channel: &Channel, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) {
    let options = BasicPublishOptions { mandatory: true, ..Default::default() };
    let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await.expect("written");
    let confirmation = confirm.await.expect("confirmed");
    assert!(confirmation.is_ack() && confirmation.take_message().is_none(), "taken");
}

async fn take(channel: &Channel, queue: &str) -> Option<lapin::message::Delivery> {
    let got = channel.basic_get(queue.into(), BasicGetOptions { no_ack: false }).await.expect("got");
    got.map(|got| got.delivery)
}

async fn count(channel: &Channel, queue: &str) -> u32 {
    let options = QueueDeclareOptions { passive: true, ..Default::default() };
    channel.queue_declare(queue.into(), options, FieldTable::default()).await.expect("there").message_count()
}

#[test]
fn what_is_durable_is_there_after_a_restart() {
    let directory = Directory::new("restart");
    let (server, address) = serve(&directory.0);
    run(async {
        let (connection, channel) = connect(address).await;
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        for name in ["first", "second"] {
            channel.exchange_declare(name.into(), ExchangeKind::Topic, options, FieldTable::default()).await.unwrap();
        }
        let to = ("second".into(), "first".into(), "a.#".into());
        channel.exchange_bind(to.0, to.1, to.2, ExchangeBindOptions::default(), FieldTable::default()).await.unwrap();
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-priority".into(), AMQPValue::LongInt(9));
        channel.queue_declare("urgent".into(), durable(), arguments).await.unwrap();
        declare(&channel, "plain", durable()).await;
        declare(&channel, "gone", QueueDeclareOptions::default()).await;
        declare(&channel, "deleted", durable()).await;
        for queue in ["urgent", "plain", "gone"] {
            let bound = channel.queue_bind(
                queue.into(),
                "second".into(),
                "a.*".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            bound.await.unwrap();
        }
        for number in 0..10_u8 {
            let properties = persistent().with_priority(number).with_message_id(format!("m{number}").into());
            publish(&channel, "first", "a.b", &[number], properties).await;
        }
        publish(&channel, "", "plain", b"transient", BasicProperties::default()).await;
        publish(&channel, "", "deleted", b"goes with its queue", persistent()).await;
        let out = take(&channel, "deleted").await.expect("a message");
        channel.queue_delete("deleted".into(), QueueDeleteOptions::default()).await.unwrap();
        drop(out);
        for _ in 0..3 {
            take(&channel, "plain").await.unwrap().ack(BasicAckOptions::default()).await.unwrap();
        }
        // An answer shows that what came before has been read.
        assert_eq!(count(&channel, "plain").await, 8);
        connection.close(200, "done".into()).await.unwrap();
    });
    server.shutdown(Duration::from_secs(5));

    let (server, address) = serve(&directory.0);
    run(async {
        let (connection, channel) = connect(address).await;
        assert_eq!((count(&channel, "plain").await, count(&channel, "urgent").await), (7, 10));
        for number in 3..10_u8 {
            let delivery = take(&channel, "plain").await.expect("a message");
            assert_eq!((&delivery.data[..], delivery.redelivered), (&[number][..], true));
            assert_eq!(
                delivery.properties.message_id().as_ref().map(lapin::types::ShortString::as_str),
                Some(&*format!("m{number}"))
            );
            assert_eq!(delivery.exchange.as_str(), "first");
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        }
        let urgent = take(&channel, "urgent").await.expect("a message");
        assert_eq!(urgent.data, [9], "the most urgent is the first");
        // The bindings stand, and a queue of the old name is a new one.
        publish(&channel, "first", "a.c", b"again", persistent()).await;
        assert_eq!((count(&channel, "plain").await, count(&channel, "urgent").await), (1, 10));
        declare(&channel, "deleted", durable()).await;
        assert_eq!(count(&channel, "deleted").await, 0);
        let passive = QueueDeclareOptions { passive: true, ..Default::default() };
        let gone = channel.queue_declare("gone".into(), passive, FieldTable::default()).await;
        assert!(gone.unwrap_err().to_string().contains("NOT_FOUND - no queue 'gone'"));
        connection.close(200, "done".into()).await.unwrap();
    });
    server.shutdown(Duration::from_secs(5));
}

#[test]
fn a_virtual_host_with_the_longest_name_keeps_what_it_has() {
    let directory = Directory::new("longest");
    let name = "v".repeat(255);
    for visit in 0..2 {
        let (server, address) = serve(&directory.0);
        run(async {
            if visit == 0 {
                let (user, virtual_host) = ("guest".to_owned(), name.clone());
                server.admin().change(Change::AddVirtualHost { name: name.clone() }).await.expect("added");
                let permissions = Permissions::all();
                server.admin().change(Change::SetPermissions { user, virtual_host, permissions }).await.expect("set");
            }
            let url = format!("amqp://guest:guest@{address}/{name}");
            let connection = Connection::connect(&url, ConnectionProperties::default()).await.expect("connected");
            let channel = connection.create_channel().await.expect("a channel");
            channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
            declare(&channel, "q", durable()).await;
            assert_eq!(count(&channel, "q").await, visit);
            publish(&channel, "", "q", b"kept", persistent()).await;
            connection.close(200, "done".into()).await.expect("closed");
        });
        drop(server);
    }
}

#[test]
fn what_waits_long_is_on_the_disk_and_comes_back_whole() {
    const MESSAGES: u32 = 3000;
    let directory = Directory::new("away");
    let body = |number: u32| [&number.to_be_bytes()[..], &vec![number as u8; 2000]].concat();
    let (server, address) = serve(&directory.0);
    run(async {
        let (connection, channel) = connect(address).await;
        declare(&channel, "q", durable()).await;
        let mut confirms = Vec::new();
        for number in 0..MESSAGES {
            let options = BasicPublishOptions::default();
            let body = body(number);
            confirms.push(channel.basic_publish("".into(), "q".into(), options, &body, persistent()).await.unwrap());
        }
        for confirm in confirms {
            assert!(confirm.await.unwrap().is_ack());
        }
        // Half of them now, half after a restart; the last of the half is given back.
        for number in 0..MESSAGES / 2 {
            let delivery = take(&channel, "q").await.expect("a message");
            assert!(delivery.data == body(number), "{number}");
            if number + 1 == MESSAGES / 2 {
                delivery.nack(BasicNackOptions { requeue: true, ..Default::default() }).await.unwrap();
            } else {
                delivery.ack(BasicAckOptions::default()).await.unwrap();
            }
        }
        assert_eq!(count(&channel, "q").await, MESSAGES / 2 + 1);
        connection.close(200, "done".into()).await.unwrap();
    });
    server.shutdown(Duration::from_secs(5));
    let (server, address) = serve(&directory.0);
    run(async {
        let (connection, channel) = connect(address).await;
        let mut consumer = channel
            .basic_consume("q".into(), "c".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .unwrap();
        for number in MESSAGES / 2 - 1..MESSAGES {
            let delivery = timeout(PATIENCE, consumer.next()).await.expect("in time").unwrap().unwrap();
            assert!(delivery.data == body(number), "{number}");
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        }
        assert_eq!(count(&channel, "q").await, 0);
        connection.close(200, "done".into()).await.unwrap();
    });
    server.shutdown(Duration::from_secs(5));
}

#[test]
fn one_store_has_one_server() {
    let directory = Directory::new("one");
    let (server, _) = serve(&directory.0);
    let second = Server::builder().storage(DiskStorage::new(&directory.0)).start();
    let error = second.expect_err("it is in use");
    let cause = std::error::Error::source(&error).expect("a cause").to_string();
    assert!(cause.contains("has it open"), "{error}: {cause}");
    server.shutdown(Duration::from_secs(5));
    let (server, _) = serve(&directory.0);
    drop(server);
}

/// A server in a process of its own, which can be killed.
struct Process {
    child: Child,
    address: SocketAddr,
}

impl Process {
    fn start(directory: &Path) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "durable::a_server_for_others", "--nocapture"])
            .env(CHILD, directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
        let address = lines
            .find_map(|line| line.ok()?.split_once("listening on ").map(|(_, address)| address.to_owned()))
            .expect("it listens");
        Self { child, address: address.parse().expect("an address") }
    }
}

impl Drop for Process {
    /// SIGKILL, whatever it is doing.
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Not a test: a server until its input ends, where another test has started this program for it.
#[test]
fn a_server_for_others() {
    let Some(directory) = std::env::var_os(CHILD) else { return };
    let (_server, address) = serve(Path::new(&directory));
    println!("\nlistening on {address}");
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).expect("its input");
}

/// What the clients know about the messages, outside of the broker.
#[derive(Default)]
struct Ledger {
    /// Sent, and whether the broker has confirmed it.
    sent: BTreeMap<u32, bool>,
    /// Received, how often marked and how often not.
    received: BTreeMap<u32, (u32, u32)>,
}

#[test]
fn a_server_that_is_killed_under_load_has_lost_nothing_that_it_confirmed() {
    const ROUNDS: u32 = 6;
    let directory = Directory::new("kill");
    let mut random = fastrand::Rng::with_seed(7);
    let mut ledger = Ledger::default();
    let mut next = 0;
    for round in 0..ROUNDS {
        let server = Process::start(&directory.0);
        let until = Duration::from_millis(random.u64(20..700));
        run(load(server.address, &mut ledger, &mut next, until, server));
        assert!(ledger.sent.values().any(|confirmed| *confirmed) || round < ROUNDS - 1, "something was sent");
    }
    let server = Process::start(&directory.0);
    run(async {
        let (connection, channel) = connect(server.address).await;
        declare(&channel, "q", durable()).await;
        while let Some(delivery) = take(&channel, "q").await {
            receive(&mut ledger, &delivery);
            delivery.ack(BasicAckOptions::default()).await.unwrap();
        }
        assert_eq!(count(&channel, "q").await, 0);
        connection.close(200, "done".into()).await.unwrap();
    });
    drop(server);
    for (number, confirmed) in &ledger.sent {
        let received = ledger.received.get(number);
        assert!(!confirmed || received.is_some(), "{number} was confirmed and is lost");
        assert!(
            received.is_none_or(|(unmarked, _)| *unmarked <= 1),
            "{number} came twice without a mark: {received:?}"
        );
    }
    let strangers = ledger.received.keys().filter(|number| !ledger.sent.contains_key(number)).count();
    assert_eq!(strangers, 0, "nobody sent these");
}

fn receive(ledger: &mut Ledger, delivery: &lapin::message::Delivery) {
    let (number, rest) = delivery.data.split_first_chunk().expect("a number");
    let number = u32::from_be_bytes(*number);
    assert!(rest.iter().all(|byte| *byte == number as u8), "whole: {number}");
    let (unmarked, marked) = ledger.received.entry(number).or_default();
    *if delivery.redelivered { marked } else { unmarked } += 1;
}

/// Publishes and consumes until the time is up and the server is killed, with requests under way.
async fn load(address: SocketAddr, ledger: &mut Ledger, next: &mut u32, time: Duration, server: Process) {
    let (_connection, channel) = connect(address).await;
    declare(&channel, "q", durable()).await;
    let (_other, consuming) = connect(address).await;
    consuming.basic_qos(20, BasicQosOptions::default()).await.unwrap();
    let mut consumer = consuming
        .basic_consume("q".into(), "c".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await
        .unwrap();
    let mut confirms = futures_util::stream::FuturesUnordered::new();
    let end = tokio::time::sleep(time);
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => break,
            Some((number, confirm)) = confirms.next(), if !confirms.is_empty() => {
                let confirm: lapin::Result<lapin::Confirmation> = confirm;
                if confirm.is_ok_and(|confirm| confirm.is_ack()) {
                    ledger.sent.insert(number, true);
                }
            }
            Some(Ok(delivery)) = consumer.next() => {
                receive(ledger, &delivery);
                // Every third is left unacknowledged for the next round.
                if !delivery.delivery_tag.is_multiple_of(3) {
                    delivery.ack(BasicAckOptions::default()).await.unwrap();
                }
            }
            () = tokio::task::yield_now(), if confirms.len() < 200 => {
                let number = *next;
                *next += 1;
                let body = [&number.to_be_bytes()[..], &vec![number as u8; 300 + number as usize % 5000]].concat();
                ledger.sent.insert(number, false);
                let options = BasicPublishOptions::default();
                let confirm = channel.basic_publish("".into(), "q".into(), options, &body, persistent()).await.unwrap();
                confirms.push(async move { (number, confirm.await) });
            }
        }
    }
    drop(server);
    // What was confirmed before the end and not read yet.
    while let Ok(Some((number, confirm))) = timeout(Duration::from_secs(10), confirms.next()).await {
        if confirm.is_ok_and(|confirm| confirm.is_ack()) {
            ledger.sent.insert(number, true);
        }
    }
}
