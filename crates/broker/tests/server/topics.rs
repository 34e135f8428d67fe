//! Permissions on topics: by which routing keys who may publish and bind.
//!
//! With `HOMING_TEST_RABBITMQ=DIR`, where `tests/tools/rabbitmq-node start DIR` has started a node, the same table is compared with
//! RabbitMQ.

use crate::management::Beside;
use crate::raw::Raw;
use crate::{Directory, QUICK};
use homing_broker::protocol::{Properties, methods::tx};
use homing_broker::server::{
    AccountStore, Admin, Change, DiskStorage, PasswordHash, Permissions, Server, TopicPermissions,
};
use lapin::options::*;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use serde_json::{Value as Json, json};
use std::time::Duration;
use tokio::time::timeout;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a row does, as the user `u` in the virtual host `v`.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Publish(&'static str, &'static str),
    /// With this in the header `CC` or `BCC`.
    PublishTo(&'static str, &'static str, &'static str),
    /// With an expiration that is none.
    PublishBadly(&'static str, &'static str),
    Bind(&'static str, &'static str),
    /// The queue that was declared last, under its own name.
    BindLast(&'static str, &'static str),
    Unbind(&'static str, &'static str),
    BindExchange(&'static str, &'static str),
    UnbindExchange(&'static str, &'static str),
}
use Operation::*;

/// Expressions for the keys by which may be published and bound.
type May = Option<(&'static str, &'static str)>;

/// An exchange of each kind, and what the user may do there.
const EXCHANGES: [(&str, ExchangeKind, May); 6] = [
    ("t", ExchangeKind::Topic, Some(("^{username}\\.", "^{vhost}\\."))),
    ("empty", ExchangeKind::Topic, Some(("", "^$"))),
    ("internal", ExchangeKind::Topic, Some(("^a$", "^a$"))),
    ("free", ExchangeKind::Topic, None),
    ("direct", ExchangeKind::Direct, Some(("^a$", "^a$"))),
    ("headers", ExchangeKind::Headers, Some(("^a$", "^a$"))),
];

/// What of the answer is looked for; `None` for success.
fn table() -> Vec<(Operation, Option<String>)> {
    let refused = |exchange: &str, key: &str| {
        Some(format!(
            "ACCESS_REFUSED - access to topic '{key}' in exchange '{exchange}' in vhost 'v' refused for user 'u'"
        ))
    };
    let internal = || Some("ACCESS_REFUSED - cannot publish to internal exchange 'internal' in vhost 'v'".to_owned());
    let missing = || Some("NOT_FOUND - no exchange 'none' in vhost 'v'".to_owned());
    vec![
        (Publish("t", "u.a"), None),
        (Publish("t", "ux"), refused("t", "ux")),
        (Publish("t", "x.u."), refused("t", "x.u.")),
        (Publish("t", ""), refused("t", "")),
        (Publish("t", "v.a"), refused("t", "v.a")),
        (Publish("free", "anything"), None),
        (Publish("direct", "anything"), None),
        (Publish("headers", "anything"), None),
        (Publish("", "t"), None),
        (Publish("empty", ""), None),
        (Publish("empty", "a"), refused("empty", "a")),
        (Publish("internal", "b"), internal()),
        (Publish("none", "b"), missing()),
        (PublishBadly("t", "b"), refused("t", "b")),
        (PublishBadly("internal", "b"), internal()),
        (PublishBadly("none", "b"), missing()),
        (PublishBadly("t", "u.b"), Some("PRECONDITION_FAILED - invalid expiration".to_owned())),
        (PublishTo("CC", "u.a", "u.b"), None),
        (PublishTo("BCC", "u.a", "u.b"), None),
        (Bind("t", "v.#"), None),
        (Bind("t", "#"), refused("t", "#")),
        (Bind("t", "u.a"), refused("t", "u.a")),
        (Bind("t", ""), refused("t", "")),
        (Bind("free", "#"), None),
        (Bind("direct", "b"), None),
        (Bind("empty", ""), None),
        (Bind("empty", "a"), refused("empty", "a")),
        (Bind("none", "b"), missing()),
        (BindLast("v.q", "t"), None),
        (BindLast("q", "t"), refused("t", "q")),
        (Unbind("t", "v.#"), None),
        (Unbind("t", "#"), refused("t", "#")),
        (BindExchange("t", "v.a"), None),
        (BindExchange("t", "a"), refused("t", "a")),
        (UnbindExchange("t", "v.a"), None),
        (UnbindExchange("t", "a"), refused("t", "a")),
    ]
}

impl Operation {
    async fn run(self, channel: &Channel) -> lapin::Result<()> {
        let none = FieldTable::default;
        let publish = |exchange: &str, key: &str, properties| {
            channel.basic_publish(exchange.into(), key.into(), BasicPublishOptions::default(), b"x", properties)
        };
        let confirmed = async |exchange: &str, key: &str, properties| {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            publish(exchange, key, properties).await?.await.map(drop)
        };
        match self {
            Publish(exchange, key) => confirmed(exchange, key, BasicProperties::default()).await?,
            PublishTo(header, key, further) => {
                let mut headers = none();
                let keys = FieldArray::from(vec![AMQPValue::LongString(further.into())]);
                headers.insert(header.into(), AMQPValue::FieldArray(keys));
                confirmed("t", key, BasicProperties::default().with_headers(headers)).await?;
            }
            PublishBadly(exchange, key) => {
                confirmed(exchange, key, BasicProperties::default().with_expiration("soon".into())).await?;
            }
            Bind(exchange, key) => {
                let options = QueueBindOptions::default();
                channel.queue_bind("q".into(), exchange.into(), key.into(), options, none()).await?;
            }
            BindLast(queue, exchange) => {
                channel.queue_declare(queue.into(), QueueDeclareOptions::default(), none()).await?;
                channel.queue_bind("".into(), exchange.into(), "".into(), QueueBindOptions::default(), none()).await?;
            }
            Unbind(exchange, key) => channel.queue_unbind("q".into(), exchange.into(), key.into(), none()).await?,
            BindExchange(exchange, key) => {
                let options = ExchangeBindOptions::default();
                channel.exchange_bind("free".into(), exchange.into(), key.into(), options, none()).await?;
            }
            UnbindExchange(exchange, key) => {
                let options = ExchangeUnbindOptions::default();
                channel.exchange_unbind("free".into(), exchange.into(), key.into(), options, none()).await?;
            }
        }
        Ok(())
    }
}

async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.expect("connected")
}

/// Runs the rows; what came out otherwise.
async fn differences(address: &str, owner: &str, rows: Vec<(Operation, Option<String>)>) -> Vec<String> {
    let owner = connect(&format!("amqp://{owner}@{address}/v")).await;
    let channel = owner.create_channel().await.expect("a channel");
    for (name, kind, _) in EXCHANGES {
        let options = ExchangeDeclareOptions { internal: name == "internal", ..Default::default() };
        channel.exchange_declare(name.into(), kind, options, FieldTable::default()).await.expect("declared");
    }
    channel.queue_declare("q".into(), QueueDeclareOptions::default(), FieldTable::default()).await.expect("declared");
    let user = connect(&format!("amqp://u:secret@{address}/v")).await;
    let mut differences = Vec::new();
    for (operation, refusal) in rows {
        let channel = user.create_channel().await.expect("a channel");
        let done = operation.run(&channel).await;
        match (&done, &refusal) {
            (Ok(()), None) => channel.close(200, "done".into()).await.expect("closed"),
            (Err(error), Some(refusal)) if error.to_string().contains(refusal) => {}
            _ => differences.push(format!("{operation:?}: {done:?}, and not {refusal:?}")),
        }
    }
    user.close(200, "done".into()).await.expect("closed");
    owner.close(200, "done".into()).await.expect("closed");
    differences
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(PATIENCE, test).await.expect("in time") })
}

fn add_user(name: &str, tags: &[&str]) -> Change {
    let password = Some(PasswordHash::from_phc(QUICK).expect("a hash"));
    Change::AddUser { name: name.into(), password, tags: tags.iter().map(|tag| (*tag).to_owned()).collect() }
}

fn set(exchange: &str, write: &str, read: &str) -> Change {
    let permissions = TopicPermissions { write: write.into(), read: read.into() };
    Change::SetTopicPermissions { user: "u".into(), virtual_host: "v".into(), exchange: exchange.into(), permissions }
}

fn clear(exchange: Option<&str>) -> Change {
    let exchange = exchange.map(str::to_owned);
    Change::ClearTopicPermissions { user: "u".into(), virtual_host: "v".into(), exchange }
}

/// The user `u`, who may do everything in the virtual host `v`.
fn user() -> [Change; 3] {
    let permissions = Permissions::all();
    [
        add_user("u", &[]),
        Change::AddVirtualHost { name: "v".into() },
        Change::SetPermissions { user: "u".into(), virtual_host: "v".into(), permissions },
    ]
}

async fn make(admin: &Admin, changes: impl IntoIterator<Item = Change>) {
    for change in changes {
        admin.change(change).await.expect("changed");
    }
}

fn restricted() -> impl Iterator<Item = Change> {
    EXCHANGES.into_iter().filter_map(|(name, _, may)| may.map(|(write, read)| set(name, write, read)))
}

#[test]
fn keys_of_topic_exchanges_are_allowed_as_in_rabbitmq() {
    let (server, address) = crate::start(Server::builder().user("owner", "secret"));
    let admin = server.admin();
    run(async {
        make(&admin, user()).await;
        make(&admin, restricted()).await;
        let mut rows = table();
        // RabbitMQ 3.10 passes these over, and 4 does not.
        let text = "ACCESS_REFUSED - access to topic 'x' in exchange 't' in vhost 'v' refused for user 'u'";
        for header in ["CC", "BCC"] {
            rows.push((PublishTo(header, "u.a", "x"), Some(text.to_owned())));
        }
        let differences = differences(&address.to_string(), "owner:secret", rows).await;
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    });
}

#[test]
fn rabbitmq_allows_the_same_keys() {
    let Some(node) = std::env::var_os("HOMING_TEST_RABBITMQ") else { return };
    let _alone = crate::permissions::RABBITMQ.lock();
    let ask = |arguments: &[&str]| crate::permissions::asked(&node, arguments);
    for arguments in [
        &["add_user", "u", "secret"][..],
        &["add_vhost", "v"],
        &["set_permissions", "-p", "v", "guest", ".*", ".*", ".*"],
        &["set_permissions", "-p", "v", "u", ".*", ".*", ".*"],
    ] {
        ask(&[&["ctl"], arguments].concat());
    }
    for (name, _, may) in EXCHANGES {
        if let Some((write, read)) = may {
            ask(&["ctl", "set_topic_permissions", "-p", "v", "u", name, write, read]);
        }
    }
    let url = ask(&["url"]);
    let address = url.trim_start_matches("amqp://guest:guest@").trim_end_matches('/').to_owned();
    let differences = run(differences(&address, "guest:guest", table()));
    ask(&["ctl", "delete_vhost", "v"]);
    ask(&["ctl", "delete_user", "u"]);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn they_count_at_once_on_connections_that_are_open() {
    let (server, address) = crate::start(Server::builder().user("owner", "secret"));
    let admin = server.admin();
    run(async {
        make(&admin, user()).await;
        make(&admin, [set("amq.topic", "^a$", "^a$")]).await;
        let connection = connect(&format!("amqp://u:secret@{address}/v")).await;
        let may = async |operation: Operation| {
            let channel = connection.create_channel().await.expect("a channel");
            let queue = channel.queue_declare("q".into(), QueueDeclareOptions::default(), FieldTable::default());
            queue.await.expect("declared");
            operation.run(&channel).await.is_ok()
        };
        let both = async || (may(Publish("amq.topic", "b")).await, may(Bind("amq.topic", "b")).await);
        assert_eq!(both().await, (false, false));
        make(&admin, [set("amq.topic", "b", "^a$")]).await;
        assert_eq!(both().await, (true, false));
        make(&admin, [set("amq.topic", "^a$", "b"), set("other", "^a$", "^a$")]).await;
        assert_eq!(both().await, (false, true));
        make(&admin, [clear(Some("other"))]).await;
        assert_eq!(both().await, (false, true), "of another exchange");
        make(&admin, [clear(None)]).await;
        assert_eq!(both().await, (true, true));
        // Of one of the same name nothing is left.
        make(&admin, [set("amq.topic", "^a$", "^a$"), Change::RemoveUser { name: "u".into() }]).await;
        let [add, _, permit] = user();
        make(&admin, [add, permit]).await;
        let again = connect(&format!("amqp://u:secret@{address}/v")).await;
        let channel = again.create_channel().await.expect("a channel");
        Publish("amq.topic", "b").run(&channel).await.expect("allowed");
    });
}

#[test]
fn a_publish_in_a_transaction_is_refused_before_the_commit() {
    let (server, address) = crate::start(Server::builder());
    let permissions = TopicPermissions { write: "^a$".into(), read: String::new() };
    let (user, virtual_host, exchange) = ("guest".into(), "/".into(), "amq.topic".into());
    let change = Change::SetTopicPermissions { user, virtual_host, exchange, permissions };
    run(async { server.admin().change(change).await.expect("changed") });
    let mut raw = Raw::channel(address);
    raw.send(1, tx::Select {});
    raw.expect("TxSelectOk");
    raw.publish(1, "amq.topic", "a", false, Properties::default(), b"x");
    raw.send(1, tx::Commit {});
    raw.expect("TxCommitOk");
    raw.publish(1, "amq.topic", "b", false, Properties::default(), b"x");
    let close = raw.closed();
    assert!(close.contains("reply_code: 403") && close.contains("access to topic 'b'"), "{close}");
}

#[test]
fn they_are_there_after_a_restart() {
    let directory = Directory::new("topics");
    let mut store = AccountStore::open(&directory.0).expect("a new one");
    let changes = [set("amq.topic", "^a$", "^a$"), set("gone", ".*", ".*"), clear(Some("gone"))];
    for change in user().into_iter().chain(changes) {
        store.change(&change).expect("changed");
    }
    let before = store.accounts();
    assert_eq!(before.topics.len(), 1);
    store.close().expect("closed");
    for _ in 0..2 {
        let (server, address) = crate::start(Server::builder().storage(DiskStorage::new(&directory.0)));
        run(async {
            assert_eq!(server.admin().accounts().await.expect("it runs"), before);
            let connection = connect(&format!("amqp://u:secret@{address}/v")).await;
            let channel = connection.create_channel().await.expect("a channel");
            Publish("amq.topic", "a").run(&channel).await.expect("allowed");
            Publish("amq.topic", "b").run(&channel).await.expect_err("refused");
        });
    }
    let mut store = AccountStore::open(&directory.0).expect("it is there");
    store.change(&Change::RemoveVirtualHost { name: "v".into() }).expect("removed");
    store.close().expect("closed");
    assert!(AccountStore::open(&directory.0).expect("it is there").accounts().topics.is_empty());
}

#[test]
fn the_management_api_shows_them_changes_them_and_obeys_them() {
    let beside = Beside::new();
    beside.change(add_user("u", &["management"]));
    beside.change(Change::AddVirtualHost { name: "v".into() });
    for user in ["u", "guest"] {
        let (user, virtual_host, permissions) = (user.into(), "v".into(), Permissions::all());
        beside.change(Change::SetPermissions { user, virtual_host, permissions });
    }
    let path = "/api/topic-permissions/v/u";
    assert_eq!(beside.ask("GET", path, Json::Null).0, 404);
    assert_eq!(beside.ask("DELETE", path, Json::Null).0, 404);
    assert_eq!(beside.get("/api/topic-permissions"), json!([]));
    let body = |exchange: &str| json!({ "exchange": exchange, "write": "^a$", "read": "^b$" });
    assert_eq!(beside.ask("PUT", path, body("amq.topic")).0, 201);
    assert_eq!(beside.ask("PUT", path, body("other")).0, 204);
    let row = |exchange: &str| {
        let mut row = body(exchange);
        (row["user"], row["vhost"]) = (json!("u"), json!("v"));
        row
    };
    let both = json!([row("amq.topic"), row("other")]);
    for list in
        ["topic-permissions", "topic-permissions/v/u", "users/u/topic-permissions", "vhosts/v/topic-permissions"]
    {
        assert_eq!(beside.get(&format!("/api/{list}")), both, "{list}");
    }
    for list in ["users/guest/topic-permissions", "vhosts/%2F/topic-permissions"] {
        assert_eq!(beside.get(&format!("/api/{list}")), json!([]), "{list}");
    }
    for (path, body, part) in [
        (path, json!({ "exchange": "e", "write": "" }), "read"),
        (path, json!({ "write": "", "read": "" }), "exchange"),
        (path, json!({ "exchange": "e", "write": "(", "read": "" }), "unclosed group"),
        ("/api/topic-permissions/v/nobody", body("e"), "no user 'nobody'"),
        ("/api/topic-permissions/none/u", body("e"), "no virtual host 'none'"),
    ] {
        let (status, answer) = beside.ask("PUT", path, body);
        assert!(status == 400 && answer.to_string().contains(part), "{path}: {status} {answer}");
    }
    // What is done by the API needs them as well.
    assert_eq!(beside.ask("PUT", "/api/queues/v/q", json!({})).0, 201);
    let publish = |user: &str, password: &str, key: &str, cc: &[&str]| {
        let headers = if cc.is_empty() { json!({}) } else { json!({ "CC": cc }) };
        let message = json!({ "properties": { "headers": headers }, "routing_key": key, "payload": "x", "payload_encoding": "string" });
        beside.as_user(user, password, "POST", "/api/exchanges/v/amq.topic/publish", &message).0
    };
    assert_eq!((publish("u", "secret", "a", &[]), publish("u", "secret", "a", &["a"])), (200, 200));
    assert_ne!(publish("u", "secret", "b", &[]), 200);
    assert_ne!(publish("u", "secret", "a", &["b"]), 200);
    assert_eq!(publish("guest", "guest", "b", &[]), 200);
    let bind = |key: &str| {
        let body = json!({ "routing_key": key });
        beside.as_user("u", "secret", "POST", "/api/bindings/v/e/amq.topic/q/q", &body).0
    };
    assert_eq!(bind("b"), 201);
    assert_ne!(bind("a"), 201);
    assert_eq!(beside.get("/api/exchanges/v/amq.topic/bindings/source").as_array().map(Vec::len), Some(1));
    // They go out with everything else, and come in again.
    let document = beside.get("/api/definitions");
    assert_eq!(document["topic_permissions"], both);
    assert_eq!(beside.ask("DELETE", path, Json::Null).0, 204);
    assert_eq!(beside.get("/api/topic-permissions"), json!([]));
    assert_eq!(beside.ask("POST", "/api/definitions", json!({ "topic_permissions": both })).0, 204);
    assert_eq!(beside.get("/api/topic-permissions"), both);
}
