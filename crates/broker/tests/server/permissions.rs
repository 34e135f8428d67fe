//! What each method needs: every combination of rights, with RabbitMQ's words where one is missing.
//!
//! With `HOMING_TEST_RABBITMQ=DIR`, where `tests/tools/rabbitmq-node start DIR` has started a node, the same table is compared with
//! RabbitMQ.

use homing_broker::server::{Change, PasswordHash, Permissions, Server};
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use std::time::Duration;
use tokio::time::timeout;

/// RabbitMQ takes a tenth of a second for each request when much else runs.
const PATIENCE: Duration = Duration::from_secs(900);

/// Of the one node, the user `u` and the virtual host `v` are one test's at a time.
pub static RABBITMQ: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// The rights are in the names: `q-cw` can be configured and written to. Names that other users use have no dash.
const SUBSETS: [&str; 8] = ["", "c", "w", "r", "cw", "cr", "wr", "cwr"];

#[derive(Clone, Debug)]
enum Operation {
    Declare(String),
    DeclareServerNamed,
    DeclareReserved,
    DeclarePassive(String),
    DeclareDead(String, String),
    DeleteQueue(String),
    Purge(String),
    Get(String),
    Consume(String),
    ConsumeReplies,
    Bind(String, String),
    Unbind(String, String),
    DeclareExchange(String),
    DeclareExchangePassive(String),
    DeclareAlternate(String, String),
    DeleteExchange(String),
    BindExchange(String, String),
    UnbindExchange(String, String),
    Publish(String),
}

impl Operation {
    /// What it needs, in the order in which that is checked: kind, name, right.
    fn needs(&self) -> Vec<(&'static str, &str, char)> {
        match self {
            Self::Declare(queue) | Self::DeleteQueue(queue) => vec![("queue", queue, 'c')],
            Self::DeclareDead(queue, exchange) => {
                vec![("queue", queue, 'c'), ("queue", queue, 'r'), ("exchange", exchange, 'w')]
            }
            Self::Purge(queue) | Self::Get(queue) | Self::Consume(queue) => vec![("queue", queue, 'r')],
            Self::Bind(queue, exchange) | Self::Unbind(queue, exchange) => {
                vec![("queue", queue, 'w'), ("exchange", exchange, 'r')]
            }
            Self::DeclareExchange(exchange) | Self::DeleteExchange(exchange) => vec![("exchange", exchange, 'c')],
            Self::DeclareAlternate(exchange, alternate) => {
                vec![("exchange", exchange, 'c'), ("exchange", exchange, 'r'), ("exchange", alternate, 'w')]
            }
            Self::BindExchange(to, from) | Self::UnbindExchange(to, from) => {
                vec![("exchange", to, 'w'), ("exchange", from, 'r')]
            }
            Self::Publish(exchange) => vec![("exchange", exchange, 'w')],
            Self::DeclareServerNamed
            | Self::DeclareReserved
            | Self::DeclarePassive(_)
            | Self::DeclareExchangePassive(_)
            | Self::ConsumeReplies => Vec::new(),
        }
    }

    /// What the error has to contain, if there has to be one.
    fn refusal(&self) -> Option<String> {
        match self {
            Self::DeclareServerNamed => return Some("ACCESS_REFUSED - access to queue 'amq.gen-".to_owned()),
            Self::DeclareReserved => {
                return Some("ACCESS_REFUSED - queue name 'amq.q-c' contains reserved prefix 'amq.*'".to_owned());
            }
            Self::Bind(queue, exchange) if exchange.is_empty() && has(queue, 'w') => return Some(default_exchange()),
            Self::BindExchange(to, from) if from.is_empty() && has(to, 'w') => return Some(default_exchange()),
            Self::DeleteExchange(exchange) if exchange.is_empty() => return Some(default_exchange()),
            Self::DeleteExchange(exchange) if exchange == "amq.direct" => {
                return Some(
                    "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost 'v' not allowed".to_owned(),
                );
            }
            _ => {}
        }
        self.needs().into_iter().find(|(_, name, right)| !has(name, *right)).map(|(kind, name, _)| {
            let name = if name.is_empty() { "amq.default" } else { name };
            format!("ACCESS_REFUSED - access to {kind} '{name}' in vhost 'v' refused for user 'u'")
        })
    }

    async fn run(&self, channel: &Channel) -> lapin::Result<()> {
        let none = FieldTable::default;
        let with = |argument: &str, value: &str| {
            let mut table = none();
            table.insert(argument.into(), AMQPValue::LongString(value.into()));
            table
        };
        let queue = |name: &str, options, table| channel.queue_declare(name.into(), options, table);
        let exchange =
            |name: &str, options, table| channel.exchange_declare(name.into(), ExchangeKind::Direct, options, table);
        match self {
            Self::Declare(name) => _ = queue(name, QueueDeclareOptions::default(), none()).await?,
            Self::DeclareServerNamed => _ = queue("", QueueDeclareOptions::default(), none()).await?,
            Self::DeclareReserved => _ = queue("amq.q-c", QueueDeclareOptions::default(), none()).await?,
            Self::DeclarePassive(name) => {
                _ = queue(name, QueueDeclareOptions { passive: true, ..Default::default() }, none()).await?;
            }
            Self::DeclareDead(name, dead) => {
                let table = with("x-dead-letter-exchange", dead);
                _ = queue(name, QueueDeclareOptions { exclusive: true, ..Default::default() }, table).await?;
            }
            Self::DeleteQueue(name) => {
                _ = channel.queue_delete(name.as_str().into(), QueueDeleteOptions::default()).await?;
            }
            Self::Purge(name) => _ = channel.queue_purge(name.as_str().into(), QueuePurgeOptions::default()).await?,
            Self::Get(name) => _ = channel.basic_get(name.as_str().into(), BasicGetOptions::default()).await?,
            Self::Consume(name) => {
                let options = BasicConsumeOptions::default();
                _ = channel.basic_consume(name.as_str().into(), "".into(), options, none()).await?;
            }
            Self::ConsumeReplies => {
                let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
                _ = channel.basic_consume("amq.rabbitmq.reply-to".into(), "".into(), options, none()).await?;
            }
            Self::Bind(to, from) => {
                let (to, from) = (to.as_str().into(), from.as_str().into());
                channel.queue_bind(to, from, "k".into(), QueueBindOptions::default(), none()).await?;
            }
            Self::Unbind(to, from) => {
                channel.queue_unbind(to.as_str().into(), from.as_str().into(), "k".into(), none()).await?;
            }
            Self::DeclareExchange(name) => exchange(name, ExchangeDeclareOptions::default(), none()).await?,
            Self::DeclareExchangePassive(name) => {
                exchange(name, ExchangeDeclareOptions { passive: true, ..Default::default() }, none()).await?;
            }
            Self::DeclareAlternate(name, alternate) => {
                exchange(name, ExchangeDeclareOptions::default(), with("alternate-exchange", alternate)).await?;
            }
            Self::DeleteExchange(name) => {
                channel.exchange_delete(name.as_str().into(), ExchangeDeleteOptions::default()).await?;
            }
            Self::BindExchange(to, from) => {
                let (to, from) = (to.as_str().into(), from.as_str().into());
                channel.exchange_bind(to, from, "k".into(), ExchangeBindOptions::default(), none()).await?;
            }
            Self::UnbindExchange(to, from) => {
                let (to, from) = (to.as_str().into(), from.as_str().into());
                channel.exchange_unbind(to, from, "k".into(), ExchangeUnbindOptions::default(), none()).await?;
            }
            Self::Publish(name) => {
                channel.confirm_select(ConfirmSelectOptions::default()).await?;
                let options = BasicPublishOptions::default();
                let properties = BasicProperties::default();
                channel.basic_publish(name.as_str().into(), "k".into(), options, b"x", properties).await?.await?;
            }
        }
        Ok(())
    }
}

fn default_exchange() -> String {
    "ACCESS_REFUSED - operation not permitted on the default exchange".to_owned()
}

/// The names for which a right is there. Those that a broker makes up have a dot, and a dash in front of any letter.
fn pattern(right: char) -> String {
    format!("^[^.]*-.*{right}")
}

fn has(name: &str, right: char) -> bool {
    name.split_once('-').is_some_and(|(_, rights)| rights.contains(right))
}

fn operations() -> Vec<Operation> {
    use Operation::*;
    let mut all = vec![
        DeclareServerNamed,
        DeclareReserved,
        ConsumeReplies,
        Publish(String::new()),
        DeleteExchange(String::new()),
        DeleteExchange("amq.direct".to_owned()),
        BindExchange(String::new(), "e-cwr".to_owned()),
        BindExchange("e-cwr".to_owned(), String::new()),
        Bind("q-cwr".to_owned(), String::new()),
        Bind("q-c".to_owned(), String::new()),
        DeclareDead("n-cr".to_owned(), String::new()),
    ];
    for rights in SUBSETS {
        let [q, e, new, gone] = ["q", "e", "new", "gone"].map(|kind| format!("{kind}-{rights}"));
        all.extend([Declare(q.clone()), Declare(new.clone()), DeclarePassive(q.clone()), Purge(q.clone())]);
        all.extend([Get(q.clone()), Consume(q.clone()), DeleteQueue(gone.clone()), Publish(e.clone())]);
        all.extend([DeclareExchange(e.clone()), DeclareExchange(new.clone()), DeclareExchangePassive(e.clone())]);
        all.push(DeleteExchange(gone));
        for other in ["", "w", "r", "c", "cwr"] {
            let (source, dead) = (format!("e-{other}"), format!("dead{other}-{rights}"));
            all.extend([Bind(q.clone(), source.clone()), Unbind(q.clone(), source.clone())]);
            all.extend([BindExchange(e.clone(), source.clone()), UnbindExchange(e.clone(), source.clone())]);
            all.extend([DeclareDead(dead.clone(), source.clone()), DeclareAlternate(dead, source)]);
        }
    }
    all
}

async fn connect(url: &str) -> Connection {
    Connection::connect(url, ConnectionProperties::default()).await.expect("connected")
}

/// Runs the table; what came out otherwise.
async fn differences(address: &str, owner: &str) -> Vec<String> {
    let owner = connect(&format!("amqp://{owner}@{address}/v")).await;
    let channel = owner.create_channel().await.expect("a channel");
    for rights in SUBSETS {
        for kind in ["q", "gone"] {
            Operation::Declare(format!("{kind}-{rights}")).run(&channel).await.expect("declared");
        }
        for kind in ["e", "gone"] {
            Operation::DeclareExchange(format!("{kind}-{rights}")).run(&channel).await.expect("declared");
        }
    }
    let user = connect(&format!("amqp://u:secret@{address}/v")).await;
    let mut differences = Vec::new();
    for operation in operations() {
        let channel = user.create_channel().await.expect("a channel");
        let done = operation.run(&channel).await;
        match (&done, operation.refusal()) {
            (Ok(()), None) => channel.close(200, "done".into()).await.expect("closed"),
            (Err(error), Some(refusal)) if error.to_string().contains(&refusal) => {}
            (done, refusal) => differences.push(format!("{operation:?}: {done:?}, and not {refusal:?}")),
        }
    }
    user.close(200, "done".into()).await.expect("closed");
    for rights in SUBSETS {
        // What is left of it, for a server that others use.
        for kind in ["q", "new", "gone"] {
            Operation::DeleteQueue(format!("{kind}-{rights}")).run(&channel).await.expect("deleted");
        }
    }
    owner.close(200, "done".into()).await.expect("closed");
    differences
}

fn run<F: Future>(test: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async { timeout(PATIENCE, test).await.expect("in time") })
}

#[test]
fn every_method_needs_the_rights_that_it_needs_in_rabbitmq() {
    let (server, address) = crate::start(Server::builder().user("owner", "secret"));
    let admin = server.admin();
    run(async {
        let password = Some(PasswordHash::new("secret").expect("a hash"));
        let permissions = Permissions { configure: pattern('c'), write: pattern('w'), read: pattern('r') };
        for change in [
            Change::AddUser { name: "u".into(), password, tags: vec![] },
            Change::AddVirtualHost { name: "v".into() },
            Change::SetPermissions { user: "u".into(), virtual_host: "v".into(), permissions },
        ] {
            admin.change(change).await.expect("changed");
        }
        let differences = differences(&address.to_string(), "owner:secret").await;
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    });
}

/// What the tool for a node of RabbitMQ answers.
pub(crate) fn asked(node: &std::ffi::OsStr, arguments: &[&str]) -> String {
    let tool = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/tools/rabbitmq-node");
    let mut command = std::process::Command::new(tool);
    let output = command.arg(arguments[0]).arg(node).args(&arguments[1..]).output().expect("it runs");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

#[test]
fn rabbitmq_has_the_same_table() {
    let Some(node) = std::env::var_os("HOMING_TEST_RABBITMQ") else { return };
    let _alone = RABBITMQ.lock();
    let ask = |arguments: &[&str]| asked(&node, arguments);
    for arguments in [
        &["add_user", "u", "secret"][..],
        &["add_vhost", "v"],
        &["set_permissions", "-p", "v", "guest", ".*", ".*", ".*"],
        &["set_permissions", "-p", "v", "u", &pattern('c'), &pattern('w'), &pattern('r')],
    ] {
        ask(&[&["ctl"], arguments].concat());
    }
    let url = ask(&["url"]);
    let address = url.trim_start_matches("amqp://guest:guest@").trim_end_matches('/').to_owned();
    let differences = run(differences(&address, "guest:guest"));
    ask(&["ctl", "delete_vhost", "v"]);
    ask(&["ctl", "delete_user", "u"]);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
