//! Messages that lapin cannot read, and settings read back from the server.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::online::{exclusive_queue, next};
use super::raw::{Raw, long, short};
use super::*;
use crate::broker::samples::message;
use crate::broker::{Acknowledge, ConsumeSpec, HeaderValue, Lane, OddPart, Properties};
use crate::error::Detail;

fn flags(flag: u16, properties: &[u8]) -> Vec<u8> {
    [&flag.to_be_bytes()[..], properties].concat()
}

const HEADERS: u16 = 1 << 13;

/// Tables inside tables.
fn deep(depth: usize) -> Vec<u8> {
    let mut value = b"V".to_vec();
    for _ in 0..depth {
        value = [&b"A"[..], &long(&value)].concat();
    }
    [&short(b"deep")[..], &value].concat()
}

/// Consumes until so many messages have come.
async fn received(broker: &Client, events: &mut Events, queue: &str, count: usize) -> Vec<(String, Properties)> {
    let consume = ConsumeSpec {
        queue: queue.to_owned(),
        tag: "c".to_owned(),
        lane: Lane(1),
        acknowledge: Acknowledge::Manual { prefetch: 0 },
    };
    broker.consume(&consume).await.expect("a consumer");
    let mut received = Vec::new();
    while received.len() < count {
        match next(events, Duration::from_secs(5)).await {
            BrokerEvent::Delivery { delivery, .. } => {
                broker.ack(delivery.receipt);
                let crate::broker::Body::Encoded(body) = &delivery.body else { panic!("bytes only") };
                received.push((String::from_utf8_lossy(body).into_owned(), delivery.properties));
            }
            event => panic!("after {}: {event:?}", received.len()),
        }
    }
    received
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn odd_messages_cost_no_connection_and_what_stands_behind_them_comes() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        let (broker, mut events) = connected(&endpoint).await;
        let queue = exclusive_queue(&broker, "odd").await;
        let bad = short(b"\xff\xfe\x80");
        let odd = [
            (OddPart::ContentType, flags(1 << 15, &bad)),
            (OddPart::ContentEncoding, flags(1 << 14, &bad)),
            (OddPart::CorrelationId, flags(1 << 10, &bad)),
            (OddPart::ReplyTo, flags(1 << 9, &bad)),
            (OddPart::MessageId, flags(1 << 7, &bad)),
            (OddPart::Type, flags(1 << 5, &bad)),
            (OddPart::AppId, flags(1 << 3, &bad)),
            (OddPart::ClusterId, flags(1 << 2, &bad)),
            (OddPart::Header, flags(HEADERS, &long(&[&bad[..], b"t\x01"].concat()))),
            (
                OddPart::Header,
                flags(HEADERS, &long(&[&short(b"x")[..], b"F", &long(&[&bad[..], b"V"].concat())].concat())),
            ),
            (OddPart::Header, flags(HEADERS, &long(&deep(10_000)))),
        ];
        let mut raw = Raw::connect(&endpoint);
        for (number, (_, properties)) in odd.iter().enumerate() {
            raw.publish("", queue.as_bytes(), properties, &format!("odd {number}"));
            raw.publish("", queue.as_bytes(), &flags(1 << 10, &short(b"good")), &format!("good {number}"));
        }
        // Routed by its CC header; its own routing key is not UTF-8.
        let cc = [&short(b"CC")[..], b"A", &long(&[&b"S"[..], &long(queue.as_bytes())].concat())].concat();
        raw.publish("", b"\xff\xfe", &flags(HEADERS, &long(&cc)), "copied");
        raw.publish("", queue.as_bytes(), &flags(0, b""), "last");
        raw.close();
        let received = received(&broker, &mut events, &queue, 2 * odd.len() + 2).await;
        for (number, (part, _)) in odd.iter().enumerate() {
            let (body, properties) = &received[2 * number];
            assert_eq!(*body, format!("odd {number}"));
            assert_eq!(properties.oddities().first().map(|oddity| oddity.part), Some(*part), "{properties:?}");
            let (body, properties) = &received[2 * number + 1];
            assert_eq!(
                (body.as_str(), properties.correlation_id.as_deref()),
                (&*format!("good {number}"), Some("good"))
            );
            assert!(properties.oddities().is_empty());
        }
        assert!(received[4].1.unanswerable().is_some() && received[6].1.unanswerable().is_some());
        assert!(received[8].1.unanswerable().is_none(), "an answer finds its way without a message id");
        assert_eq!(received[2 * odd.len()].0, "copied");
        assert_eq!(received[2 * odd.len() + 1].0, "last");
        // Moved to another queue, a message keeps the bytes that it came with.
        let moved = Message { properties: received[4].1.clone().moved(), ..message("", &queue, "moved") };
        broker.publish(moved).await.expect("a confirm");
        let BrokerEvent::Delivery { delivery, .. } = next(&mut events, Duration::from_secs(5)).await else { panic!() };
        let kept = delivery.properties.header("homing-odd-correlation-id");
        assert_eq!(kept, Some(&HeaderValue::ByteArray(vec![0xff, 0xfe, 0x80])));
        broker.close(Duration::from_secs(1)).await.expect("an end");
    });
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn headers_above_the_frame_size_arrive_and_are_refused_when_they_are_sent() {
    let Some(endpoint) = test_broker() else { return };
    on_communicator_thread(async {
        let small = Endpoint { frame_max: Some(4096), ..endpoint.clone() };
        let (broker, mut events) = connected(&small).await;
        let queue = exclusive_queue(&broker, "large").await;
        let mut raw = Raw::connect(&endpoint);
        let header = [&short(b"large")[..], b"S", &long(&[b'x'; 100_000])].concat();
        for number in 0..20 {
            raw.publish("", queue.as_bytes(), &flags(HEADERS, &long(&header)), &number.to_string());
        }
        raw.publish("", queue.as_bytes(), &flags(0, b""), "last");
        raw.close();
        let received = received(&broker, &mut events, &queue, 21).await;
        for (number, (body, properties)) in received[..20].iter().enumerate() {
            assert_eq!(*body, number.to_string());
            assert_eq!(properties.text("large").map(str::len), Some(100_000));
            assert_eq!(properties.oddities().first().map(|oddity| oddity.part), Some(OddPart::TooLarge));
        }
        assert_eq!(received[20].0, "last");

        // As it is it cannot be sent on, and that costs no connection; made to fit, it can.
        let mut moved = Message { properties: received[0].1.clone().moved(), ..message("", &queue, "moved") };
        let error = broker.publish(moved.clone()).await.expect_err("it is too large");
        assert!(matches!(error.detail(), Detail::TooLarge { most: 4088, .. }), "{error}");
        assert!(moved.properties.fit(broker.properties_limit()));
        broker.publish(moved).await.expect("a confirm");
        // To the byte: what is said to fit is taken by the server.
        let mut exact = message("", &queue, "exact");
        exact.properties.message_id = Some("m".into());
        exact.properties.set_text("x", "");
        exact.properties.set_text("x", "y".repeat(broker.properties_limit() - exact.properties.wire_size()));
        broker.publish(exact.clone()).await.expect("a confirm");
        exact.properties.message_id = Some("mm".into());
        assert_eq!(broker.publish(exact).await.expect_err("a byte too many").kind(), ErrorKind::Encode);
        for _ in 0..2 {
            let event = next(&mut events, Duration::from_secs(5)).await;
            let BrokerEvent::Delivery { delivery, .. } = event else { panic!("{event:?}") };
            assert!(delivery.properties.oddities().is_empty(), "{:?}", delivery.properties);
        }
        broker.close(Duration::from_secs(1)).await.expect("an end");
    });
}

/// A node of this test's own, to ask it what it has agreed on and to set limits.
struct Node {
    script: std::path::PathBuf,
    directory: std::path::PathBuf,
}

impl Node {
    fn start() -> Option<(Self, Endpoint)> {
        let Ok(tools) = std::env::var("HOMING_TEST_NODE") else {
            let required = std::env::var("HOMING_TEST_REQUIRE").is_ok_and(|required| required == "1");
            assert!(!required, "needs a node of its own: HOMING_TEST_NODE is not set");
            println!("needs a node of its own: run tests/run");
            return None;
        };
        let directory = std::env::temp_dir().join(unique("node"));
        let node = Node { script: std::path::Path::new(&tools).join("rabbitmq-node"), directory };
        node.run("start", &[]);
        let url = node.run("url", &[]);
        let port = url.trim().trim_end_matches('/').rsplit(':').next().and_then(|port| port.parse().ok());
        Some((node, endpoint(port.expect("a port"))))
    }

    fn ctl(&self, arguments: &[&str]) -> String {
        self.run("ctl", arguments)
    }

    fn run(&self, command: &str, arguments: &[&str]) -> String {
        let mut program = Command::new(&self.script);
        program.arg(command).arg(&self.directory).args(arguments).stdin(Stdio::null());
        let output = program.output().expect("the script");
        assert!(output.status.success(), "{command} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = Command::new(&self.script).arg("remove").arg(&self.directory).stdin(Stdio::null()).output();
    }
}

#[test]
#[ignore = "needs RabbitMQ: run tests/run"]
fn what_the_url_says_is_what_the_server_has_and_its_limits_are_named() {
    let Some((node, endpoint)) = Node::start() else { return };
    on_communicator_thread(async {
        for (parameters, name, heartbeat, frame_max, channel_max) in [
            ("heartbeat=0&frame_max=4096&channel_max=8&name=mine", "mine", 0, 4096, 8),
            ("heartbeat=600&frame_max=100000&channel_max=100", "homing test", 600, 100_000, 100),
            ("heartbeat=65535", "homing test", 65_535, 131_072, 2047),
            ("heartbeat=30&frame_max=0&channel_max=0", "homing test", 30, 131_072, 2047),
            ("", "homing test", 60, 131_072, 2047),
        ] {
            let url = format!("amqp://guest:guest@127.0.0.1:{}/?{parameters}", endpoint.port);
            let url = crate::broker::url::BrokerUrl::parse(&url).expect("a URL");
            let said = Endpoint::from_url(&url).expect("an endpoint");
            let (broker, _events) = connected(&said).await;
            let columns = ["list_connections", "-q", "timeout", "frame_max", "channel_max", "client_properties"];
            let listed = node.ctl(&columns);
            let expected = format!("{heartbeat}\t{frame_max}\t{channel_max}\t");
            let lines: Vec<&str> = listed.lines().filter(|line| line.starts_with(&expected)).collect();
            assert_eq!(lines.len(), 2, "{parameters}: {listed}");
            assert!(lines.iter().all(|line| line.contains(&format!("\"{name}"))), "{parameters}: {listed}");
            broker.close(Duration::from_secs(1)).await.expect("an end");
        }
        // A server that allows small frames only. RabbitMQ refuses who asks for larger ones.
        for (allowed, asked, frame_max) in [(4096, "", 4096), (8191, "?frame_max=100000", 8191), (8192, "", 8192)] {
            node.ctl(&["eval", &format!("application:set_env(rabbit, frame_max, {allowed}).")]);
            let url = format!("amqp://guest:guest@127.0.0.1:{}/{asked}", endpoint.port);
            let url = crate::broker::url::BrokerUrl::parse(&url).expect("a URL");
            let (broker, _events) = connected(&Endpoint::from_url(&url).expect("an endpoint")).await;
            let listed = node.ctl(&["list_connections", "-q", "--no-table-headers", "frame_max"]);
            let lines: Vec<&str> = listed.lines().map(str::trim).collect();
            assert_eq!(lines, [frame_max.to_string(), frame_max.to_string()], "{allowed}, {asked}");
            // Nobody wants it, which the server says when it has read all of its frames.
            let several_frames = broker.publish(message("amq.topic", "k", &"x".repeat(50_000))).await;
            assert_eq!(several_frames.map_err(|error| error.kind()), Err(ErrorKind::Unroutable), "{allowed}, {asked}");
            broker.close(Duration::from_secs(1)).await.expect("an end");
        }
        node.ctl(&["eval", "application:set_env(rabbit, frame_max, 131072)."]);
        // One connection is too few.
        node.ctl(&["set_vhost_limits", "-p", "/", r#"{"max-connections": 1}"#]);
        let error = connect(&endpoint, &options()).await.err().expect("a limit");
        assert!(error.to_string().contains("homing needs two"), "{error}");
        node.ctl(&["clear_vhost_limits", "-p", "/"]);
        node.ctl(&["set_user_limits", "guest", r#"{"max-connections": 1}"#]);
        let error = connect(&endpoint, &options()).await.err().expect("a limit");
        assert!(error.to_string().contains("homing needs two"), "{error}");
        node.ctl(&["clear_user_limits", "guest", "all"]);

        // What a user may not do is named by right and object, and costs nothing else.
        node.ctl(&["add_user", "few", "few"]);
        node.ctl(&["set_permissions", "-p", "/", "few", "^mine", "^mine", "^mine"]);
        let few = Endpoint { username: "few".to_owned(), password: "few".to_owned(), ..endpoint.clone() };
        let (broker, _events) = connected(&few).await;
        let refused = |error: &Error| match error.detail() {
            Detail::Permission(lacks) => (lacks.right, lacks.object.clone(), lacks.name.clone()),
            _ => panic!("{error:?}"),
        };
        let queue = crate::broker::QueueSpec {
            name: "mine".to_owned(),
            durability: crate::broker::Durability::Transient,
            access: crate::broker::Access::Shared,
            auto_delete: crate::broker::AutoDelete::No,
            message_ttl: None,
            expires: None,
            dead_letter_to: None,
            priorities: None,
            max_length: None,
        };
        broker.declare_queue(&queue).await.expect("it may");
        let other = crate::broker::QueueSpec { name: "other".to_owned(), ..queue };
        let error = broker.declare_queue(&other).await.expect_err("it may not");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(refused(&error), (Some("configure"), "queue".to_owned(), "other".to_owned()));
        let error = broker.bind("mine", "amq.topic", "k").await.expect_err("it may not");
        assert_eq!(refused(&error), (Some("read"), "exchange".to_owned(), "amq.topic".to_owned()));
        let error = broker.publish(message("amq.topic", "k", "x")).await.expect_err("it may not");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(refused(&error), (Some("write"), "exchange".to_owned(), "amq.topic".to_owned()));
        broker.close(Duration::from_secs(1)).await.expect("an end");
    });
}
