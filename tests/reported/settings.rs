//! What a URL and a builder are told is what the broker has: read back from the lists of `rabbitmqctl`.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::time::Duration;

use homing::{
    Broadcast, BroadcastFilter, BroadcastSubscriber, Communicator, CommunicatorBuilder, LongTasks, RpcRequest,
    RpcSubscriber, TaskRequest, TaskSubscriber, TestingMode,
};

use crate::run;
use crate::support::{Broker, Node, Suite, TestResult, Tls};

pub(crate) fn add(suite: &mut Suite) {
    suite.node("every_setting_is_what_the_broker_has", settings);
}

/// A list of `rabbitmqctl`, a map a line.
fn list(node: &Node, what: &str, columns: &[&str]) -> Result<Vec<BTreeMap<String, String>>, libtest_mimic::Failed> {
    let mut arguments = vec!["-q", what, "--no-table-headers"];
    arguments.extend(columns);
    let text = node.ctl(&arguments)?;
    Ok(text
        .lines()
        .map(|line| columns.iter().map(|name| (*name).to_owned()).zip(line.split('\t').map(str::to_owned)).collect())
        .collect())
}

/// Subscribes to everything, so that everything is declared.
async fn subscribe(communicator: &Communicator, prefetch: Option<NonZeroU16>) -> homing::Result<()> {
    communicator.add_rpc_subscriber("name", RpcSubscriber::closure(|_: RpcRequest| 1)).await?;
    let mut work = TaskSubscriber::closure(|_: TaskRequest| 1);
    if let Some(prefetch) = prefetch {
        work = work.with_prefetch(prefetch);
    }
    communicator.add_task_subscriber(work).await?;
    communicator
        .add_broadcast_subscriber(BroadcastFilter::new(), BroadcastSubscriber::closure(|_: Broadcast| ()))
        .await?;
    communicator.rpc_send("name", 1).await?;
    communicator.task_send(1).await.map(drop)
}

fn settings() -> TestResult {
    silence()?;
    let node = Node::start(Tls::No)?;
    let broker = Broker::at(node.url());
    run(async {
        connections(&node).await?;
        queues(&node, &broker).await?;
        consumers(&node, &broker).await
    })
}

/// How long connecting takes that cannot end, and what a program has set counts, whatever the URL says.
fn silence() -> TestResult {
    let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
    let address = silent.local_addr()?;
    let (short, long) = (Duration::from_millis(300), Duration::from_secs(60));
    for (query, own) in [
        ("connection_timeout=300", None),
        ("timeout=0.3", None),
        ("timeout=60", Some(short)),
        ("connection_timeout=0", Some(short)),
        ("", Some(short)),
    ] {
        let builder = Communicator::builder(&format!("amqp://{address}/?{query}"));
        let builder = own.map_or(builder.clone(), |own| builder.connect_timeout(own));
        let begin = std::time::Instant::now();
        let error = run(builder.connect()).err().ok_or("nobody answers there")?;
        assert_eq!(error.kind(), homing::ErrorKind::Connection, "{query}: {error}");
        assert!(begin.elapsed() >= short && begin.elapsed() < long / 2, "{query}: {:?}", begin.elapsed());
    }
    // Without a limit it goes on for longer than by default.
    let builder = Communicator::builder(&format!("amqp://{address}/?connection_timeout=0"));
    let waited = run(async { tokio::time::timeout(Duration::from_secs(12), builder.connect()).await });
    assert!(waited.is_err(), "it gave up");
    Ok(())
}

async fn connections(node: &Node) -> TestResult {
    let columns = ["timeout", "frame_max", "channel_max", "client_properties", "vhost", "user"];
    node.ctl(&["add_vhost", "a/b c"])?;
    node.ctl(&["add_user", "ü:@", "p%:/"])?;
    node.ctl(&["set_permissions", "-p", "a/b c", "ü:@", ".*", ".*", ".*"])?;
    let other = node.url().replace("guest:guest@", "%C3%BC%3A%40:p%25%3A%2F@");
    type Expected<'a> = (&'a str, &'a str, &'a str, &'a str, &'a str, &'a str);
    let (long_vhost, long_name) = ("v".repeat(255), "n".repeat(1000));
    node.ctl(&["add_vhost", &long_vhost])?;
    node.ctl(&["set_permissions", "-p", &long_vhost, "guest", ".*", ".*", ".*"])?;
    let seconds = Duration::from_secs;
    let plain = |url: String| Communicator::builder(&url);
    let at = |query: &str| format!("{}?{query}", node.url());
    let rows: Vec<(CommunicatorBuilder, Expected<'_>)> = vec![
        (plain(at("heartbeat=0")), ("0", "131072", "2047", "homing ", "/", "guest")),
        (plain(at("heartbeat=7")), ("7", "131072", "2047", "homing ", "/", "guest")),
        (plain(at("heartbeat=7")).heartbeat(seconds(9)), ("9", "131072", "2047", "homing ", "/", "guest")),
        (plain(at("heartbeat=7")).heartbeat(Duration::ZERO), ("0", "131072", "2047", "homing ", "/", "guest")),
        (plain(at("")).heartbeat(Duration::MAX), ("65535", "131072", "2047", "homing ", "/", "guest")),
        (plain(at("frame_max=4096")), ("60", "4096", "2047", "homing ", "/", "guest")),
        // A larger one than the server's is refused by the server; it is lowered to the server's.
        (plain(at("frame_max=1000000")), ("60", "131072", "2047", "homing ", "/", "guest")),
        (plain(at("channel_max=9")), ("60", "131072", "9", "homing ", "/", "guest")),
        (plain(at("channel_max=65535")), ("60", "131072", "2047", "homing ", "/", "guest")),
        (plain(at("name=from%20the%20URL")), ("60", "131072", "2047", "from the URL", "/", "guest")),
        (plain(at("")).connection_name("of the program"), ("60", "131072", "2047", "of the program", "/", "guest")),
        (plain(format!("{other}a%2Fb%20c")), ("60", "131072", "2047", "homing ", "a/b c", "ü:@")),
        (plain(at("name=theirs")).connection_name("ours"), ("60", "131072", "2047", "ours", "/", "guest")),
        (plain(format!("{}{long_vhost}", node.url())), ("60", "131072", "2047", "homing ", &long_vhost, "guest")),
        (plain(at("")).connection_name(&long_name), ("60", "131072", "2047", &long_name, "/", "guest")),
        (plain(at(&format!("name={long_name}"))), ("60", "131072", "2047", &long_name, "/", "guest")),
        (plain(at("connection_timeout=5000&timeout=5&auth=plain")), ("60", "131072", "2047", "homing ", "/", "guest")),
    ];
    let (mut communicators, mut expected) = (Vec::new(), Vec::new());
    for (number, (builder, values)) in rows.into_iter().enumerate() {
        communicators.push(builder.connect().await.map_err(|error| format!("row {number}: {error}"))?);
        let (timeout, frame_max, channel_max, name, vhost, user) = values;
        // One that publishes and one that consumes.
        expected
            .extend(std::iter::repeat_n([timeout, frame_max, channel_max, name, vhost, user].map(str::to_owned), 2));
    }
    let mut listed: Vec<[String; 6]> = list(node, "list_connections", &columns)?
        .iter()
        .map(|connection| {
            let mut values = columns.map(|column| connection[column].clone());
            let name = values[3].split("\"connection_name\",\"").nth(1).and_then(|rest| rest.split('"').next());
            let name = name.unwrap_or_default();
            let role = name.strip_suffix(" (publishing)").unwrap_or(name);
            values[3] = if role.starts_with("homing ") { "homing ".to_owned() } else { role.to_owned() };
            values
        })
        .collect();
    listed.sort();
    expected.sort();
    assert_eq!(listed, expected);
    for communicator in communicators {
        communicator.close().await?;
    }
    Ok(())
}

/// The arguments of a queue, as `rabbitmqctl` lists them, without spaces and in order.
fn arguments(queue: &BTreeMap<String, String>) -> Vec<String> {
    let plain: String = queue["arguments"].chars().filter(|c| !"[]{}\" ".contains(*c)).collect();
    let mut pairs: Vec<String> = Vec::new();
    for part in plain.split(',').filter(|part| !part.is_empty()) {
        if part.starts_with("x-") {
            pairs.push(part.to_owned());
        } else if let Some(last) = pairs.last_mut() {
            *last += &format!("={part}");
        }
    }
    pairs.sort();
    pairs
}

async fn queues(node: &Node, broker: &Broker) -> TestResult {
    let columns = ["name", "durable", "auto_delete", "exclusive", "arguments"];
    let long = LongTasks::new().after(Duration::from_millis(100)).lease(Duration::from_secs(33));
    let builder = Communicator::builder(broker.url())
        .prefix("all")
        .queue_expires(Duration::from_millis(12_345))
        .message_ttl(Duration::from_millis(23_456))
        .task_ttl(Duration::from_millis(34_567))
        .long_tasks(long);
    let communicator = builder.connect().await?;
    subscribe(&communicator, None).await?;
    let slow = TaskSubscriber::future(|_: TaskRequest| std::future::pending::<i64>());
    let queue = communicator.task_queue("slow")?;
    queue.add_task_subscriber(slow).await?;
    queue.task_send(1).no_reply().await?;
    let end = std::time::Instant::now() + Duration::from_secs(20);
    let listed = loop {
        let listed = list(node, "list_queues", &columns)?;
        if listed.iter().any(|queue| queue["name"].starts_with("homing-lease-")) {
            break listed;
        }
        assert!(std::time::Instant::now() < end, "no lease in {listed:?}");
    };
    let expected: [(&str, [&str; 3], &[&str]); 7] = [
        ("all.process.queue", ["true", "false", "false"], &["x-message-ttl=34567"]),
        ("slow", ["true", "false", "false"], &["x-message-ttl=34567"]),
        ("rpc-", ["false", "false", "true"], &["x-expires=12345", "x-message-ttl=23456"]),
        ("broadcast-", ["false", "false", "true"], &["x-message-ttl=23456"]),
        ("all.messages-reply-", ["false", "false", "true"], &["x-expires=12345"]),
        ("all.tasks-reply-", ["false", "false", "true"], &["x-expires=12345"]),
        ("homing-lease-", ["true", "false", "false"], &["x-expires=366000", "x-message-ttl=33000"]),
    ];
    for (name, flags, wanted) in expected {
        let queue = listed.iter().find(|queue| queue["name"].starts_with(name)).ok_or(format!("no {name}"))?;
        assert_eq!(["durable", "auto_delete", "exclusive"].map(|flag| queue[flag].as_str()), flags, "{name}");
        let arguments = arguments(queue);
        let described: Vec<String> = arguments
            .iter()
            .filter(|argument| argument.starts_with("x-expires") || argument.starts_with("x-message-ttl"))
            .map(|argument| argument.replace("=signedint=", "=").replace("=long=", "="))
            .collect();
        assert_eq!(described, wanted, "{name}: {queue:?}");
    }
    let exchanges = list(node, "list_exchanges", &["name", "type", "durable", "auto_delete"])?;
    for name in ["all.messages", "all.tasks"] {
        let exchange = exchanges.iter().find(|exchange| exchange["name"] == name).ok_or(name)?;
        assert_eq!(["type", "durable", "auto_delete"].map(|key| exchange[key].as_str()), ["topic", "false", "false"]);
    }
    communicator.close().await?;

    // In testing mode everything vanishes.
    let builder = Communicator::builder(broker.url())
        .message_exchange("m")
        .task_exchange("t")
        .task_queue("q")
        .testing(TestingMode::Yes);
    let communicator = builder.connect().await?;
    subscribe(&communicator, None).await?;
    let listed = list(node, "list_queues", &columns)?;
    let queue = listed.iter().find(|queue| queue["name"] == "q").ok_or("no q")?;
    assert_eq!(queue["durable"], "false");
    assert!(arguments(queue).iter().any(|argument| argument.starts_with("x-expires") && argument.ends_with("=10000")));
    let exchanges = list(node, "list_exchanges", &["name", "auto_delete"])?;
    assert!(exchanges.iter().any(|exchange| exchange["name"] == "m" && exchange["auto_delete"] == "true"));
    communicator.close().await?;
    Ok(())
}

async fn consumers(node: &Node, broker: &Broker) -> TestResult {
    let three = NonZeroU16::new(3).unwrap();
    let options = |prefix: &str| Communicator::builder(broker.url()).prefix(prefix);
    let rows = [
        (options("default"), None, 256),
        (options("builder"), None, 3),
        (options("unlimited"), None, 0),
        (options("subscriber"), Some(NonZeroU16::new(5).unwrap()), 5),
        (options("both"), Some(NonZeroU16::MAX), 65_535),
        (options("one"), Some(NonZeroU16::MIN), 1),
    ];
    let (mut communicators, mut expected) = (Vec::new(), Vec::new());
    for (builder, own, prefetch) in rows {
        let builder = match prefetch {
            3 | 65_535 => builder.task_prefetch(three),
            0 | 1 => builder.unlimited_task_prefetch(),
            _ => builder,
        };
        let communicator = builder.connect().await?;
        subscribe(&communicator, own).await?;
        expected.push((communicator.default_task_queue()?.name().to_owned(), prefetch.to_string()));
        communicators.push(communicator);
    }
    let columns = ["queue_name", "channel_pid", "ack_required", "prefetch_count"];
    let consumers = list(node, "list_consumers", &columns)?;
    let channels = list(node, "list_channels", &["pid", "confirm", "transactional"])?;
    for (queue, prefetch) in expected {
        let consumer = consumers.iter().find(|consumer| consumer["queue_name"] == queue).ok_or("no consumer")?;
        assert_eq!((&consumer["prefetch_count"], consumer["ack_required"].as_str()), (&prefetch, "true"), "{queue}");
        assert!(channels.iter().any(|channel| channel["pid"] == consumer["channel_pid"]), "{queue}: {channels:?}");
    }
    // Those of calls and of broadcasts have a limit too.
    for kind in ["rpc-", "broadcast-"] {
        let of_kind = || consumers.iter().filter(|consumer| consumer["queue_name"].starts_with(kind));
        assert_eq!(of_kind().count(), communicators.len(), "{kind}");
        assert!(of_kind().all(|consumer| consumer["prefetch_count"].parse::<u32>().is_ok_and(|count| count > 0)));
    }
    assert!(channels.iter().any(|channel| channel["confirm"] == "true"), "{channels:?}");
    assert!(channels.iter().all(|channel| channel["transactional"] == "false"), "{channels:?}");
    for communicator in communicators {
        communicator.close().await?;
    }
    Ok(())
}
