//! The management API and those who may not: each path for whoever has no tag for it, each thing that it does for whoever has no
//! permission for it, and others' queues, connections and names.

use crate::QUICK;
use crate::management::Beside;
use crate::raw::{Raw, declare};
use homing_broker::protocol::methods;
use homing_broker::server::{Change, PasswordHash, Permissions, Server};
use serde_json::{Value as Json, json};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Users with the password `secret`: `eve` has the tag `management` and the virtual host `own`, where each right is for names that
/// have its first letter; `mon` sees everything; `plain` has nothing.
fn world() -> Beside {
    let beside = Beside::new();
    let hash = || Some(PasswordHash::from_phc(QUICK).expect("a hash"));
    for (name, tag) in [("plain", None), ("eve", Some("management")), ("mon", Some("monitoring"))] {
        let tags = tag.map(str::to_owned).into_iter().collect();
        beside.change(Change::AddUser { name: name.to_owned(), password: hash(), tags });
    }
    beside.change(Change::AddVirtualHost { name: "own".to_owned() });
    let some = Permissions { configure: "c".into(), write: "w".into(), read: "r".into() };
    for (user, permissions) in [("eve", some), ("guest", Permissions::all())] {
        let (user, virtual_host) = (user.to_owned(), "own".to_owned());
        beside.change(Change::SetPermissions { user, virtual_host, permissions });
    }
    beside
}

fn eve(beside: &Beside, method: &str, path: &str, body: &Json) -> u16 {
    beside.as_user("eve", "secret", method, path, body).0
}

#[test]
fn what_is_for_administrators_is_refused_to_others() {
    let beside = world();
    for (method, path) in [
        ("GET", "/api/users"),
        ("GET", "/api/users/guest"),
        ("GET", "/api/users/guest/permissions"),
        ("GET", "/api/permissions"),
        ("GET", "/api/permissions/own/eve"),
        ("GET", "/api/vhosts/own/permissions"),
        ("GET", "/api/topic-permissions"),
        ("GET", "/api/topic-permissions/own/eve"),
        ("GET", "/api/users/guest/topic-permissions"),
        ("GET", "/api/vhosts/own/topic-permissions"),
        ("PUT", "/api/topic-permissions/own/eve"),
        ("DELETE", "/api/topic-permissions/own/eve"),
        ("GET", "/api/definitions"),
        ("GET", "/api/definitions/own"),
        ("PUT", "/api/users/new"),
        ("DELETE", "/api/users/plain"),
        ("PUT", "/api/vhosts/new"),
        ("DELETE", "/api/vhosts/own"),
        ("PUT", "/api/permissions/own/eve"),
        ("DELETE", "/api/permissions/own/guest"),
        ("POST", "/api/definitions"),
        ("POST", "/api/definitions/own"),
    ] {
        let body = json!({ "tags": "administrator", "password": "x", "configure": "", "write": "", "read": "" });
        for user in ["eve", "mon", "plain"] {
            let (status, answer) = beside.as_user(user, "secret", method, path, &body);
            assert_eq!((status, &answer["error"]), (401, &json!("not_authorised")), "{user}: {method} {path}");
        }
    }
    for path in ["/metrics", "/metrics/per-object"] {
        assert_eq!(eve(&beside, "GET", path, &Json::Null), 401, "{path}");
        assert_eq!(beside.as_user("mon", "secret", "GET", path, &Json::Null).0, 200, "{path}");
    }
    // All of it is as it was.
    assert_eq!(beside.get("/api/users").as_array().map(Vec::len), Some(4));
    assert_eq!(beside.get("/api/permissions/own/guest")["read"], ".*");
}

#[test]
fn others_virtual_hosts_are_not_seen() {
    let beside = world();
    let connection = Raw::channel(beside.amqp);
    assert_eq!(beside.ask("PUT", "/api/queues/%2F/r", json!({})).0, 201);
    assert_eq!(beside.ask("PUT", "/api/queues/own/r", json!({})).0, 201);
    for path in
        ["queues/%2F", "queues/%2F/r", "exchanges/%2F", "exchanges/%2F/amq.direct", "bindings/%2F", "consumers/%2F"]
    {
        assert_eq!(eve(&beside, "GET", &format!("/api/{path}"), &Json::Null), 404, "{path}");
    }
    for path in ["vhosts/%2F", "vhosts/%2F/connections", "aliveness-test/%2F", "queues/none", "vhosts/none"] {
        assert_eq!(eve(&beside, "GET", &format!("/api/{path}"), &Json::Null), 404, "{path}");
    }
    for list in ["queues", "exchanges", "bindings", "consumers", "connections", "channels"] {
        let (status, rows) = beside.as_user("eve", "secret", "GET", &format!("/api/{list}"), &Json::Null);
        assert_eq!(status, 200, "{list}");
        let others = rows.as_array().into_iter().flatten().find(|row| row["vhost"] != "own");
        assert_eq!(others, None, "{list}");
    }
    assert_eq!(beside.get("/api/connections").as_array().map(Vec::len), Some(1));
    let name = beside.get("/api/connections")[0]["name"].as_str().expect("a name").to_owned();
    let segment = name.replace(' ', "%20").replace('>', "%3E");
    let path = format!("/api/connections/{segment}");
    assert_eq!(eve(&beside, "GET", &path, &Json::Null), 404);
    assert_eq!(eve(&beside, "DELETE", &path, &Json::Null), 401, "another user's connection");
    assert_eq!(beside.ask("DELETE", &path, Json::Null).0, 204);
    drop(connection);
}

#[test]
fn one_may_end_a_connection_of_ones_own() {
    let beside = world();
    let mut raw = Raw::started(beside.amqp);
    raw.log_in("eve", "secret");
    raw.expect("ConnectionTune(");
    raw.send(0, methods::connection::TuneOk { channel_max: 0, frame_max: 0, heartbeat: 0 });
    raw.send(0, methods::connection::Open { virtual_host: "own" });
    raw.expect("ConnectionOpenOk");
    let (_, rows) = beside.as_user("eve", "secret", "GET", "/api/connections", &Json::Null);
    let name = rows[0]["name"].as_str().expect("a name").replace(' ', "%20").replace('>', "%3E");
    assert_eq!(eve(&beside, "DELETE", &format!("/api/connections/{name}"), &Json::Null), 204);
    assert!(raw.closed().contains("Closed via management plugin"));
}

#[test]
fn what_it_does_needs_the_rights_that_it_needs_by_amqp() {
    let beside = world();
    let made = |path: &str, body: Json| assert_eq!(beside.ask("PUT", path, body).0, 201, "{path}");
    for name in ["x", "r", "w", "c"] {
        made(&format!("/api/queues/own/{name}"), json!({}));
        made(&format!("/api/exchanges/own/{name}-e"), json!({ "type": "direct" }));
    }
    made("/api/exchanges/own/w-inner", json!({ "internal": true }));
    let get = json!({ "count": 1, "ackmode": "ack_requeue_true" });
    let message = json!({ "properties": {}, "routing_key": "x", "payload": "x", "payload_encoding": "string" });
    let dead_letters = |exchange: &str| json!({ "arguments": { "x-dead-letter-exchange": exchange } });
    let alternate = |exchange: &str| json!({ "arguments": { "alternate-exchange": exchange } });
    let nothing = || json!({});
    for (method, path, body, status) in [
        ("POST", "queues/own/x/get", get.clone(), 401),
        ("POST", "queues/own/r/get", get, 200),
        ("DELETE", "queues/own/x/contents", nothing(), 401),
        ("DELETE", "queues/own/r/contents", nothing(), 204),
        ("POST", "exchanges/own/x-e/publish", message.clone(), 401),
        ("POST", "exchanges/own/amq.default/publish", message.clone(), 401),
        ("POST", "exchanges/own/w-e/publish", message.clone(), 200),
        ("POST", "exchanges/own/w-inner/publish", message, 401),
        ("POST", "bindings/own/e/x-e/q/w", nothing(), 401),
        ("POST", "bindings/own/e/r-e/q/x", nothing(), 401),
        ("POST", "bindings/own/e/r-e/e/x-e", nothing(), 401),
        ("POST", "bindings/own/e/r-e/q/w", nothing(), 201),
        ("POST", "bindings/own/e/r-e/e/w-e", nothing(), 201),
        ("DELETE", "bindings/own/e/r-e/q/w/~", nothing(), 204),
        ("PUT", "queues/own/new", nothing(), 401),
        ("PUT", "queues/own/c-new", dead_letters("w-e"), 401),
        ("PUT", "queues/own/cr-new", dead_letters("x-e"), 401),
        ("PUT", "queues/own/cr-new", dead_letters("w-e"), 201),
        ("PUT", "exchanges/own/new", nothing(), 401),
        ("PUT", "exchanges/own/c-new", alternate("w-e"), 401),
        ("PUT", "exchanges/own/cr-new", alternate("x-e"), 401),
        ("PUT", "exchanges/own/cr-new", alternate("w-e"), 201),
        ("DELETE", "exchanges/own/x-e", nothing(), 401),
        ("DELETE", "exchanges/own/c-e", nothing(), 204),
        ("DELETE", "queues/own/x", nothing(), 401),
        ("DELETE", "queues/own/c", nothing(), 204),
    ] {
        let (found, answer) = beside.as_user("eve", "secret", method, &format!("/api/{path}"), &body);
        assert_eq!(found, status, "{method} {path} {body}: {answer}");
    }
    // Each request was a session of its own, which has gone.
    assert_eq!(beside.get("/api/overview")["object_totals"]["connections"], 0);
}

#[test]
fn a_message_names_its_publisher_or_nobody() {
    let beside = world();
    assert_eq!(beside.ask("PUT", "/api/queues/own/q", json!({})).0, 201);
    let publish = |name: &str| {
        let properties = json!({ "user_id": name });
        let body =
            json!({ "properties": properties, "routing_key": "q", "payload": "x", "payload_encoding": "string" });
        beside.ask("POST", "/api/exchanges/own/amq.default/publish", body)
    };
    let (status, answer) = publish("eve");
    let reason = answer["reason"].as_str().unwrap_or_default();
    assert_eq!(status, 400, "{answer}");
    assert!(reason.contains("user_id property set to 'eve' but authenticated user was 'guest'"), "{answer}");
    assert_eq!(publish("guest"), (200, json!({ "routed": true })));
    assert_eq!(beside.get("/api/queues/own/q")["messages"], 1);
    beside.change(Change::SetTags {
        name: "guest".to_owned(),
        tags: vec!["administrator".to_owned(), "impersonator".to_owned()],
    });
    assert_eq!(publish("eve").0, 200);
}

#[test]
fn a_user_that_is_put_again_has_the_new_password_and_the_new_tags() {
    let beside = world();
    let who = |password: &str| beside.as_user("eve", password, "GET", "/api/whoami", &Json::Null);
    let put = |body: Json| assert_eq!(beside.ask("PUT", "/api/users/eve", body).0, 204);
    put(json!({ "password": "other", "tags": "monitoring" }));
    assert_eq!(who("other"), (200, json!({ "name": "eve", "tags": ["monitoring"] })));
    assert_eq!(who("secret").0, 401, "the old password");
    // The same by a document.
    let user = |body: Json| beside.ask("POST", "/api/definitions", json!({ "users": [body] })).0;
    assert_eq!(user(json!({ "name": "eve", "tags": ["management"], "password_hash": QUICK })), 204);
    assert_eq!(who("secret"), (200, json!({ "name": "eve", "tags": ["management"] })));
    assert_eq!(who("other").0, 401);
    assert_eq!(user(json!({ "name": "eve", "tags": ["monitoring"] })), 204);
    assert_eq!(who("secret"), (200, json!({ "name": "eve", "tags": ["monitoring"] })), "the password stays");
    // As in RabbitMQ: without a password nobody logs in.
    put(json!({ "tags": "management" }));
    assert_eq!((who("secret").0, who("").0), (401, 401));
}

#[test]
fn a_document_that_is_refused_in_the_middle_is_an_error_and_a_long_one_is_whole() {
    let beside = world();
    let queue = |number: usize| json!({ "name": format!("q{number}"), "vhost": "/", "durable": true });
    let queues: Vec<Json> = (0..250).map(queue).collect();
    assert_eq!(beside.ask("POST", "/api/definitions", json!({ "queues": queues })).0, 204);
    assert_eq!(beside.get("/api/queues?columns=name").as_array().map(Vec::len), Some(250));
    let mut wrong: Vec<Json> = (250..260).map(queue).collect();
    wrong[5] = json!({ "name": "q0", "vhost": "/", "durable": true, "arguments": { "x-max-length": 1 } });
    let (status, answer) = beside.ask("POST", "/api/definitions", json!({ "queues": wrong }));
    assert_eq!(status, 400, "{answer}");
    assert!(answer["reason"].as_str().is_some_and(|reason| reason.contains("x-max-length")), "{answer}");
    for (document, part) in [
        (json!({ "parameters": [{ "name": "p" }] }), "parameters"),
        (json!({ "topic_permissions": [{ "user": "eve" }] }), "vhost"),
        (json!({ "users": [{ "name": "u" }] }), "tags"),
        (json!({ "users": [{ "name": "u", "tags": "", "password_hash": "aGFzaA==" }] }), "password_hash"),
        (json!({ "permissions": [{ "user": "u", "vhost": "/" }] }), "configure"),
        (json!({ "queues": [{ "name": "q", "vhost": "none" }] }), "none"),
        (
            json!({ "bindings": [{ "vhost": "/", "source": "e", "destination": "q", "destination_type": "x" }] }),
            "destination_type",
        ),
    ] {
        let (status, answer) = beside.ask("POST", "/api/definitions", document.clone());
        assert!((400..500).contains(&status) && answer.to_string().contains(part), "{document}: {status} {answer}");
    }
    // The document of a virtual host has no users.
    let users = json!({ "users": [{ "name": "sneaked", "tags": "administrator", "password": "x" }], "queues": [] });
    assert_eq!(beside.ask("POST", "/api/definitions/own", users).0, 204);
    assert!(!beside.get("/api/users").to_string().contains("sneaked"));
}

#[test]
fn what_a_connection_has_for_itself_is_not_in_a_document_and_arguments_of_bindings_are() {
    let beside = world();
    let mut raw = Raw::channel(beside.amqp);
    raw.send(1, methods::queue::Declare { exclusive: true, ..declare("mine") });
    raw.expect("QueueDeclareOk");
    raw.send(
        1,
        methods::queue::Bind {
            queue: "mine",
            exchange: "amq.fanout",
            routing_key: "",
            no_wait: false,
            arguments: homing_broker::protocol::Table::EMPTY,
        },
    );
    raw.expect("QueueBindOk");
    assert_eq!(beside.ask("PUT", "/api/queues/%2F/q", json!({})).0, 201);
    let binding = json!({ "routing_key": "k", "arguments": { "x-match": "any", "a": 1 } });
    assert_eq!(beside.ask("POST", "/api/bindings/%2F/e/amq.headers/q/q", binding.clone()).0, 201);
    let document = beside.get("/api/definitions");
    assert!(!document.to_string().contains("mine"), "{document}");
    assert_eq!(document["bindings"][0]["arguments"], binding["arguments"]);
    assert_eq!(document["bindings"].as_array().map(Vec::len), Some(1));
    assert_eq!(beside.get("/api/queues/%2F/mine")["exclusive"], true);
    assert!(beside.get("/api/queues/%2F/mine")["owner_pid_details"]["name"].is_string());
}

#[test]
fn messages_that_are_refused_go_where_refused_messages_go() {
    let beside = world();
    let dead = json!({ "arguments": { "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead" } });
    assert_eq!(beside.ask("PUT", "/api/queues/%2F/q", dead).0, 201);
    assert_eq!(beside.ask("PUT", "/api/queues/%2F/dead", json!({})).0, 201);
    let message = json!({ "properties": {}, "routing_key": "q", "payload": "x", "payload_encoding": "string" });
    assert_eq!(beside.ask("POST", "/api/exchanges/%2F/amq.default/publish", message).0, 200);
    let get = |ackmode: &str| beside.ask("POST", "/api/queues/%2F/q/get", json!({ "count": 1, "ackmode": ackmode })).0;
    let messages = || ["q", "dead"].map(|name| beside.get(&format!("/api/queues/%2F/{name}"))["messages"].clone());
    assert_eq!((get("reject_requeue_true"), messages()), (200, [json!(1), json!(0)]));
    assert_eq!((get("reject_requeue_false"), messages()), (200, [json!(0), json!(1)]));
}

#[test]
fn callers_are_slowed_down_and_limited_and_none_of_them_takes_a_place_for_ever() {
    let beside = world();
    let begun = Instant::now();
    assert_eq!(beside.as_user("eve", "wrong", "GET", "/api/whoami", &Json::Null).0, 401);
    assert!(begun.elapsed() >= Duration::from_millis(450), "passwords can be tried fast: {:?}", begun.elapsed());
    // More than are served at a time.
    for _ in 0..70 {
        assert_eq!(beside.ask("GET", "/api/whoami", Json::Null).0, 200);
    }
    // One byte more than a body may have; what is in it does not matter.
    let body = " ".repeat((32 << 20) + 1);
    assert_eq!(beside.raw("PUT", "/api/queues/%2F/q", &body).0, 413);
}

/// The server answers each who logs in like this.
fn is_answered(address: SocketAddr, expected: [(&str, &str, &str); 2]) {
    for (user, password, expected) in expected {
        let mut raw = Raw::started(address);
        raw.log_in(user, password);
        let (_, text) = raw.method();
        assert!(text.starts_with(expected), "{user}: {text}");
    }
}

#[test]
fn a_user_that_the_program_gives_without_a_password_is_let_in_by_nobody() {
    let (_server, address) = crate::start(Server::builder().user("own", "").user("other", "x"));
    is_answered(address, [("own", "", "ConnectionClose("), ("other", "x", "ConnectionTune(")]);
}

#[test]
fn a_user_of_the_program_takes_the_place_of_guest() {
    let (_server, address) = crate::start(Server::builder().user("own", "x"));
    is_answered(address, [("guest", "guest", "ConnectionClose("), ("own", "x", "ConnectionTune(")]);
}

#[test]
fn others_stay_connected_when_a_user_or_a_virtual_host_is_removed() {
    let beside = world();
    let mut stays = Raw::channel(beside.amqp);
    beside.change(Change::RemoveUser { name: "eve".to_owned() });
    beside.change(Change::RemoveVirtualHost { name: "own".to_owned() });
    stays.send(1, declare("q"));
    stays.expect("QueueDeclareOk");
}
