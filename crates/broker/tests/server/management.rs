//! The management API: what it shows against what clients of AMQP do, what it does, whom it lets in, and who wants to harm it.

use crate::QUICK;
use crate::raw::Raw;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use homing_broker::protocol::methods;
use homing_broker::server::{Change, Management, PasswordHash, Permissions, Server, ServerBuilder};
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use serde_json::{Value as Json, json};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Beside {
    server: Server,
    pub amqp: SocketAddr,
    management: Management,
}

impl Beside {
    pub fn new() -> Self {
        Self::with(Server::builder())
    }

    pub fn with(builder: ServerBuilder) -> Self {
        let (server, amqp) = crate::start(builder);
        let management = Management::start(&server.admin(), &[SocketAddr::from(([127, 0, 0, 1], 0))]);
        Self { server, amqp, management: management.expect("it starts") }
    }

    fn address(&self) -> SocketAddr {
        self.management.addresses()[0]
    }

    /// Makes a change without the API.
    pub fn change(&self, change: Change) {
        run(self.server.admin().change(change)).expect("the change is made");
    }

    pub fn as_user(&self, user: &str, password: &str, method: &str, path: &str, body: &Json) -> (u16, Json) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.send(user, password, method, path, &body)
    }

    /// Sends this body, whatever it is, as `guest`.
    pub fn raw(&self, method: &str, path: &str, body: &str) -> (u16, Json) {
        self.send("guest", "guest", method, path, body)
    }

    fn send(&self, user: &str, password: &str, method: &str, path: &str, body: &str) -> (u16, Json) {
        let login = BASE64_STANDARD.encode(format!("{user}:{password}"));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let (status, text) = ask(self.address(), format!("{head}{body}").as_bytes());
        (status, serde_json::from_str(&text).unwrap_or(Json::String(text)))
    }

    #[expect(clippy::needless_pass_by_value, reason = "bodies are written where they are given")]
    pub fn ask(&self, method: &str, path: &str, body: Json) -> (u16, Json) {
        self.as_user("guest", "guest", method, path, &body)
    }

    pub fn get(&self, path: &str) -> Json {
        let (status, json) = self.ask("GET", path, Json::Null);
        assert_eq!(status, 200, "{path}: {json}");
        json
    }

    async fn connect(&self) -> Connection {
        let url = format!("amqp://guest:guest@{}/%2f", self.amqp);
        Connection::connect(&url, ConnectionProperties::default()).await.expect("connected")
    }
}

/// Sends these bytes, and reads the answer to its end.
fn ask(address: SocketAddr, request: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream.write_all(request).expect("sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an answer within its time");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

fn run<F: Future>(test: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(test)
}

#[test]
fn what_clients_do_is_shown() {
    let beside = Beside::new();
    run(async {
        let connection = beside.connect().await;
        let channel = connection.create_channel().await.unwrap();
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare("q".into(), durable, FieldTable::default()).await.unwrap();
        for _ in 0..3 {
            let properties = BasicProperties::default();
            channel
                .basic_publish("".into(), "q".into(), BasicPublishOptions::default(), b"m", properties)
                .await
                .unwrap();
        }
        let got = channel.basic_get("q".into(), BasicGetOptions::default()).await.unwrap().expect("a message");
        got.acker.ack(BasicAckOptions::default()).await.unwrap();
        channel.basic_get("q".into(), BasicGetOptions::default()).await.unwrap().expect("a message");
        let _consumer = channel
            .basic_consume(
                "amq.rabbitmq.reply-to".into(),
                "direct".into(),
                BasicConsumeOptions { no_ack: true, ..Default::default() },
                FieldTable::default(),
            )
            .await
            .unwrap();
        channel.basic_qos(7, lapin::options::BasicQosOptions::default()).await.unwrap();
        let queue = beside.get("/api/queues/%2F/q");
        assert_eq!((&queue["messages_ready"], &queue["messages_unacknowledged"]), (&json!(1), &json!(1)));
        assert_eq!(queue["message_stats"]["publish"], 3);
        assert_eq!(queue["message_stats"]["deliver_get"], 2);
        assert_eq!(queue["message_stats"]["ack"], 1);
        assert_eq!(
            (&queue["durable"], &queue["type"], &queue["arguments"]),
            (&json!(true), &json!("classic"), &json!({}))
        );

        let connections = beside.get("/api/connections");
        let shown = &connections[0];
        assert_eq!(
            (connections.as_array().unwrap().len(), &shown["user"], &shown["channels"]),
            (1, &json!("guest"), &json!(1))
        );
        let name = shown["name"].as_str().unwrap();
        assert!(name.ends_with(&format!("-> {}", beside.amqp)), "{name}");
        let segment = name.replace(' ', "%20").replace('>', "%3E");
        assert_eq!(beside.get(&format!("/api/connections/{segment}"))["client_properties"]["product"], "lapin");
        let channels = beside.get(&format!("/api/connections/{segment}/channels"));
        assert_eq!((&channels[0]["prefetch_count"], &channels[0]["messages_unacknowledged"]), (&json!(7), &json!(1)));
        let by_name = beside.get(&format!("/api/channels/{segment}%20(1)"));
        assert_eq!(by_name, channels[0]);

        let overview = beside.get("/api/overview");
        assert_eq!(overview["object_totals"]["queues"], 1);
        assert_eq!(overview["queue_totals"]["messages"], 2);
        assert_eq!(beside.get("/api/bindings/%2F/e/amq.default/q/q")[0]["routing_key"], "q");
        assert_eq!(beside.get("/api/vhosts")[0]["messages_ready"], 1);

        // Somebody else ends it.
        let (status, _) = beside.ask("DELETE", &format!("/api/connections/{segment}"), Json::Null);
        assert_eq!(status, 204);
        let until = Instant::now() + PATIENCE;
        while beside.get("/api/connections") != json!([]) {
            assert!(Instant::now() < until, "it is still there");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(beside.get("/api/queues/%2F/q")["messages_ready"], 2, "what was out is back");
    });
}

#[test]
fn consumers_are_shown_with_their_channels() {
    let beside = Beside::new();
    run(async {
        let connection = beside.connect().await;
        let channel = connection.create_channel().await.unwrap();
        channel.queue_declare("q".into(), QueueDeclareOptions::default(), FieldTable::default()).await.unwrap();
        let _consumer = channel
            .basic_consume("q".into(), "tag".into(), BasicConsumeOptions::default(), FieldTable::default())
            .await
            .unwrap();
        let consumer = &beside.get("/api/consumers/%2F")[0];
        assert_eq!((&consumer["consumer_tag"], &consumer["queue"]["name"]), (&json!("tag"), &json!("q")));
        let channel = consumer["channel_details"]["name"].as_str().unwrap();
        let channel = channel.replace(' ', "%20").replace('>', "%3E");
        assert_eq!(beside.get(&format!("/api/channels/{channel}"))["consumer_count"], 1);
        assert_eq!(beside.get("/api/queues/%2F/q")["consumer_details"][0]["consumer_tag"], "tag");
    });
}

#[test]
fn channels_show_whether_they_confirm_or_are_transactional() {
    let beside = Beside::new();
    let mut raw = Raw::channel(beside.amqp);
    raw.send(1, methods::confirm::Select { no_wait: false });
    raw.expect("ConfirmSelectOk");
    for channel in [2, 3] {
        raw.send(channel, methods::channel::Open {});
        raw.expect("ChannelOpenOk");
    }
    raw.send(2, methods::tx::Select {});
    raw.expect("TxSelectOk");
    let shown = || {
        let channels = beside.get("/api/channels");
        let of = |row: &Json| ["confirm", "transactional"].map(|name| row[name].as_bool().expect(name));
        channels.as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(shown(), [[true, false], [false, true], [false, false]]);
    // Another channel of the same number begins anew, whoever closed the first.
    raw.send(1, methods::channel::Close { reply_code: 200, reply_text: "bye", class_id: 0, method_id: 0 });
    raw.expect("ChannelCloseOk");
    raw.send(2, methods::confirm::Select { no_wait: false });
    raw.expect("ChannelClose(");
    raw.send(2, methods::channel::CloseOk {});
    for channel in [1, 2] {
        raw.send(channel, methods::channel::Open {});
        raw.expect("ChannelOpenOk");
    }
    assert_eq!(shown(), [[false, false]; 3]);
}

#[test]
fn what_it_declares_and_publishes_is_there() {
    let beside = Beside::new();
    let created = |path: &str, body: Json| assert_eq!(beside.ask("PUT", path, body).0, 201, "{path}");
    created(
        "/api/exchanges/%2F/e",
        json!({ "type": "topic", "durable": true, "arguments": { "alternate-exchange": "amq.fanout" } }),
    );
    created("/api/queues/%2F/q", json!({ "durable": true, "arguments": { "x-max-priority": 5 } }));
    assert_eq!(
        beside.ask("PUT", "/api/queues/%2F/q", json!({ "arguments": { "x-max-priority": 5 } })).0,
        204,
        "it is there"
    );
    let (status, error) = beside.ask("PUT", "/api/queues/%2F/q", json!({}));
    assert_eq!((status, &error["error"]), (400, &json!("bad_request")), "another one");
    assert!(error["reason"].as_str().unwrap().contains("inequivalent arg 'x-max-priority'"), "{error}");
    let binding = json!({ "routing_key": "a.#", "arguments": {} });
    assert_eq!(beside.ask("POST", "/api/bindings/%2F/e/e/q/q", binding).0, 201);

    let message = |key: &str, payload: &str, priority: u8| {
        let properties = json!({ "priority": priority, "headers": { "n": 1 } });
        json!({ "properties": properties, "routing_key": key, "payload": payload, "payload_encoding": "string" })
    };
    let publish = |body| beside.ask("POST", "/api/exchanges/%2F/e/publish", body);
    assert_eq!(publish(message("a.b", "low", 1)), (200, json!({ "routed": true })));
    assert_eq!(publish(message("a.c", "high", 4)), (200, json!({ "routed": true })));
    assert_eq!(publish(message("b", "lost", 1)), (200, json!({ "routed": false })));

    let ask = |ackmode: &str| {
        let body = json!({ "count": 5, "ackmode": ackmode, "encoding": "auto", "truncate": 2 });
        beside.ask("POST", "/api/queues/%2F/q/get", body).1
    };
    let seen = ask("ack_requeue_true");
    assert_eq!((seen[0]["payload"].as_str(), seen[0]["payload_bytes"].as_u64()), (Some("hi"), Some(4)));
    assert_eq!((&seen[0]["properties"]["headers"]["n"], &seen[1]["routing_key"]), (&json!(1), &json!("a.b")));
    let again = ask("ack_requeue_false");
    assert_eq!((again.as_array().unwrap().len(), &again[0]["redelivered"]), (2, &json!(true)));
    assert_eq!(ask("ack_requeue_true"), json!([]));

    publish(message("a", "x", 0));
    assert_eq!(beside.ask("DELETE", "/api/queues/%2F/q?if-empty=true", Json::Null).0, 400, "it is not empty");
    assert_eq!(beside.ask("DELETE", "/api/queues/%2F/q/contents", Json::Null).0, 204);
    assert_eq!(beside.get("/api/queues/%2F/q")["messages"], 0);
    let key = beside.get("/api/bindings/%2F/e/e/q/q")[0]["properties_key"].as_str().unwrap().replace('#', "%23");
    assert_eq!(beside.ask("DELETE", &format!("/api/bindings/%2F/e/e/q/q/{key}"), Json::Null).0, 204);
    assert_eq!(beside.get("/api/exchanges/%2F/e/bindings/source"), json!([]));
    assert_eq!(beside.ask("DELETE", "/api/queues/%2F/q?if-empty=true", Json::Null).0, 204);
    assert_eq!(beside.ask("DELETE", "/api/exchanges/%2F/e", Json::Null).0, 204);
    for gone in
        ["/api/queues/%2F/q", "/api/exchanges/%2F/e", "/api/queues/%2F/q/bindings", "/api/nonesuch", "/nonesuch"]
    {
        assert_eq!(beside.ask("GET", gone, Json::Null).0, 404, "{gone}");
    }
    assert_eq!(beside.ask("DELETE", "/api/queues/%2F/q", Json::Null).0, 404);
}

#[test]
fn users_see_and_do_what_they_may() {
    let beside = Beside::new();
    let admin = beside.server.admin();
    let password = || Some(PasswordHash::from_phc(QUICK).expect("a hash"));
    run(async {
        for (name, tag) in [("plain", None), ("eve", Some("management")), ("mon", Some("monitoring"))] {
            let tags = tag.map(str::to_owned).into_iter().collect();
            admin.change(Change::AddUser { name: name.to_owned(), password: password(), tags }).await.unwrap();
        }
        admin.change(Change::AddVirtualHost { name: "own".to_owned() }).await.unwrap();
        let permissions = Permissions { configure: "^mine".into(), write: "^mine".into(), read: "^mine".into() };
        let (user, virtual_host) = ("eve".to_owned(), "own".to_owned());
        admin.change(Change::SetPermissions { user, virtual_host, permissions }).await.unwrap();
    });
    assert_eq!(beside.ask("PUT", "/api/queues/%2F/secret", json!({})).0, 201);
    let as_eve = |method, path: &str, body: Json| beside.as_user("eve", "secret", method, path, &body);
    assert_eq!(as_eve("PUT", "/api/queues/own/mine", json!({})).0, 201);
    assert_eq!(as_eve("PUT", "/api/queues/own/other", json!({})).0, 401);
    assert_eq!(as_eve("PUT", "/api/queues/%2F/mine", json!({})).0, 401);
    let names = |rows: &Json| rows.as_array().unwrap().iter().map(|row| row["name"].clone()).collect::<Vec<_>>();
    assert_eq!(names(&as_eve("GET", "/api/queues", Json::Null).1), ["mine"], "others' are not seen");
    assert_eq!(names(&as_eve("GET", "/api/vhosts", Json::Null).1), ["own"]);
    assert_eq!(as_eve("GET", "/api/queues/%2F/secret", Json::Null).0, 404);
    assert_eq!(as_eve("GET", "/api/overview", Json::Null).1["object_totals"]["queues"], 0);
    for path in ["/api/users", "/api/permissions", "/api/definitions", "/api/definitions/own", "/metrics"] {
        assert_eq!(as_eve("GET", path, Json::Null).0, 401, "{path}");
    }
    for path in ["/api/users/new", "/api/vhosts/new", "/api/permissions/own/eve"] {
        let body = json!({ "tags": "administrator", "password": "x", "configure": "", "write": "", "read": "" });
        assert_eq!(as_eve("PUT", path, body).0, 401, "{path}");
    }
    let mine = json!({ "properties": {}, "routing_key": "secret", "payload": "x", "payload_encoding": "string" });
    assert_eq!(
        as_eve("POST", "/api/exchanges/own/amq.default/publish", mine).0,
        401,
        "the default exchange is not hers"
    );
    assert_eq!(
        as_eve("POST", "/api/queues/%2F/secret/get", json!({ "count": 1, "ackmode": "ack_requeue_true" })).0,
        401
    );

    assert_eq!(names(&beside.as_user("mon", "secret", "GET", "/api/queues", &Json::Null).1), ["secret", "mine"]);
    assert_eq!(beside.as_user("mon", "secret", "GET", "/metrics", &Json::Null).0, 200);
    assert_eq!(beside.as_user("mon", "secret", "GET", "/api/users", &Json::Null).0, 401);
    assert_eq!(
        beside.as_user("mon", "secret", "PUT", "/api/queues/own/mine", &json!({})).0,
        401,
        "no permission there"
    );
    for (user, password) in [("plain", "secret"), ("eve", "wrong"), ("nobody", "secret"), ("eve", "")] {
        let (status, answer) = beside.as_user(user, password, "GET", "/api/whoami", &Json::Null);
        assert_eq!((status, &answer["error"]), (401, &json!("not_authorised")), "{user}");
    }
    let (status, _) = ask(beside.address(), b"GET /api/overview HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!(status, 401);
}

#[test]
fn users_are_made_and_removed() {
    let beside = Beside::new();
    assert_eq!(beside.ask("PUT", "/api/vhosts/v", Json::Null).0, 201);
    assert_eq!(beside.ask("PUT", "/api/vhosts/v", Json::Null).0, 204);
    assert_eq!(
        beside.ask("PUT", "/api/users/ada", json!({ "password": "pw", "tags": "management,monitoring" })).0,
        201
    );
    let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
    assert_eq!(beside.ask("PUT", "/api/permissions/v/ada", all.clone()).0, 201);
    let (status, who) = beside.as_user("ada", "pw", "GET", "/api/whoami", &Json::Null);
    assert_eq!((status, who), (200, json!({ "name": "ada", "tags": ["management", "monitoring"] })));
    assert_eq!(beside.get("/api/permissions/v/ada")["read"], ".*");
    assert_eq!(beside.get("/api/users/ada/permissions")[0]["vhost"], "v");
    for (path, body) in [
        ("/api/users/x", json!({ "password": "pw" })),
        ("/api/users/x", json!({ "password": "", "tags": "" })),
        ("/api/users/x", json!({ "password_hash": "c2hhMjU2", "tags": "" })),
        ("/api/permissions/v/ada", json!({ "configure": "(", "write": "", "read": "" })),
        ("/api/permissions/v/nobody", all),
    ] {
        let (status, answer) = beside.ask("PUT", path, body.clone());
        assert_eq!(status, 400, "{path} {body}: {answer}");
    }
    assert_eq!(beside.ask("DELETE", "/api/permissions/v/ada", Json::Null).0, 204);
    assert_eq!(beside.ask("DELETE", "/api/users/ada", Json::Null).0, 204);
    assert_eq!(beside.ask("DELETE", "/api/users/ada", Json::Null).0, 404);
    assert_eq!(beside.ask("DELETE", "/api/vhosts/v", Json::Null).0, 204);
    assert_eq!(beside.as_user("ada", "pw", "GET", "/api/whoami", &Json::Null).0, 401);
}

#[test]
fn definitions_go_out_and_in_again() {
    let (one, other) = (Beside::new(), Beside::new());
    for (method, path, body) in [
        ("PUT", "/api/vhosts/v", Json::Null),
        ("PUT", "/api/users/ada", json!({ "password": "pw", "tags": "management" })),
        ("PUT", "/api/permissions/v/ada", json!({ "configure": "a", "write": "b", "read": "c" })),
        ("PUT", "/api/permissions/v/guest", json!({ "configure": ".*", "write": ".*", "read": ".*" })),
        ("PUT", "/api/exchanges/v/e", json!({ "type": "headers", "auto_delete": true, "internal": true })),
        ("PUT", "/api/queues/v/q", json!({ "arguments": { "x-message-ttl": 5000, "x-queue-type": "quorum" } })),
        ("POST", "/api/bindings/v/e/e/q/q", json!({ "arguments": { "x-match": "any", "a": 1 } })),
        ("POST", "/api/bindings/v/e/amq.topic/e/e", json!({ "routing_key": "k.*" })),
    ] {
        let (status, answer) = one.ask(method, path, body);
        assert_eq!(status, 201, "{path}: {answer}");
    }
    let mut out = one.get("/api/definitions");
    assert_eq!(other.ask("POST", "/api/definitions", out.clone()), (204, Json::String(String::new())));
    assert_eq!(other.get("/api/definitions"), out);
    assert_eq!(other.ask("POST", "/api/definitions", out.clone()).0, 204, "all of it is there already");
    assert_eq!(other.as_user("ada", "pw", "GET", "/api/whoami", &Json::Null).0, 200, "passwords go with it");
    let of_host = one.get("/api/definitions/v");
    assert_eq!(
        of_host["queues"],
        json!([{
            "name": "q", "durable": true, "auto_delete": false,
            "arguments": { "x-message-ttl": 5000, "x-queue-type": "quorum" },
        }])
    );
    out["policies"] = json!([{ "name": "p" }]);
    let (status, answer) = other.ask("POST", "/api/definitions", out);
    assert_eq!(status, 400);
    assert!(answer["reason"].as_str().unwrap().contains("policies"), "{answer}");
}

#[test]
fn lists_come_in_pages_and_columns() {
    let beside = Beside::new();
    for name in ["b1", "a1", "b2"] {
        assert_eq!(beside.ask("PUT", &format!("/api/queues/%2F/{name}"), json!({})).0, 201);
    }
    assert_eq!(beside.get("/api/queues?columns=name"), json!([{ "name": "a1" }, { "name": "b1" }, { "name": "b2" }]));
    let page = beside.get("/api/queues?page=1&page_size=1&name=b&sort=name&sort_reverse=true&columns=name");
    assert_eq!((&page["items"], &page["filtered_count"]), (&json!([{ "name": "b2" }]), &json!(2)));
    let metrics = beside.get("/metrics/per-object");
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains("rabbitmq_queue_messages_ready{vhost=\"/\",queue=\"b1\"} 0\n"), "{metrics}");
    assert!(beside.get("/metrics").as_str().unwrap().contains("\nrabbitmq_queues 3\n"));
}

#[test]
fn those_who_make_no_sense_harm_nobody() {
    let beside = Beside::new();
    let login = BASE64_STANDARD.encode("guest:guest");
    let head =
        |rest: &str| format!("{rest} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {login}\r\nConnection: close\r\n");
    // Callers who send nothing, or stop in the middle, and stay.
    let mut idle: Vec<TcpStream> = (0..20).map(|_| TcpStream::connect(beside.address()).unwrap()).collect();
    for stream in &mut idle[10..] {
        stream.write_all(head("PUT /api/queues/%2F/q").as_bytes()).unwrap();
        stream.write_all(b"Content-Length: 1000\r\n\r\n{").unwrap();
    }
    for (request, status) in [
        ("GET /api/overview HTTP/9.9\r\n\r\n".to_owned(), 400),
        ("\u{0}\u{1}\r\n\r\n".to_owned(), 400),
        (format!("{}\r\n", head("GET /api/queues/%FF/q")), 400),
        (format!("{}\r\n", head("GET /api/%2e%2e/%2e%2e/etc/passwd")), 404),
        (format!("{}\r\n", head("BREW /api/overview")), 405),
        (format!("{}\r\n", head("PATCH /api/queues/%2F/q")), 405),
        (format!("{}\r\n", head("GET /api/queues?page=99999999999999999999")), 400),
        (format!("{}Content-Length: 5\r\n\r\n{{nope", head("PUT /api/queues/%2F/q")), 400),
        (format!("{}Content-Length: 6\r\n\r\n[1, 2]", head("POST /api/definitions")), 400),
        (format!("{}X: {}\r\n\r\n", head("GET /api/overview"), "x".repeat(1 << 20)), 431),
    ] {
        let shown: String = request.chars().take(80).collect();
        assert_eq!(ask(beside.address(), request.as_bytes()).0, status, "{shown}");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let (status, _) = ask(
        beside.address(),
        format!("{}Content-Length: {}\r\n\r\n{deep}", head("PUT /api/queues/%2F/q"), deep.len()).as_bytes(),
    );
    assert_eq!(status, 400);
    let long = "n".repeat(300);
    assert_eq!(beside.ask("PUT", &format!("/api/queues/%2F/{long}"), json!({})).0, 400);
    assert_eq!(beside.ask("PUT", "/api/queues/%2F/q", json!({ "arguments": { "x-message-ttl": "soon" } })).0, 400);
    // Everybody else is served all the while.
    run(async {
        let connection = beside.connect().await;
        let channel = connection.create_channel().await.unwrap();
        channel.queue_declare("q".into(), QueueDeclareOptions::default(), FieldTable::default()).await.unwrap();
    });
    assert_eq!(beside.get("/api/health/checks/alarms")["status"], "ok");
    // Those who stay do not hold up its end.
    let begin = Instant::now();
    drop(beside);
    assert!(begin.elapsed() < PATIENCE / 2, "{:?}", begin.elapsed());
    drop(idle);
}

#[test]
fn it_outlives_its_server_without_a_sign_of_life() {
    let Beside { server, management, .. } = Beside::new();
    server.shutdown(Duration::from_secs(5));
    let login = BASE64_STANDARD.encode("guest:guest");
    let request = format!("GET /api/overview HTTP/1.1\r\nAuthorization: Basic {login}\r\nConnection: close\r\n\r\n");
    assert_eq!(ask(management.addresses()[0], request.as_bytes()).0, 503);
    drop(management);
}
