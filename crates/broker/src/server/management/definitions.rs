//! All that is declared, as one document: out, and in again.

use super::access::Caller;
use super::answer::{Refused, Result};
use super::json::{self, read_arguments};
use super::operate::{Acting, Actor};
use super::rows::{BindingRow, ExchangeRow, Hosts, QueueRow, bindings, exchanges, queues};
use crate::engine::{
    Access, AutoDelete, Binding, Destination, Durability, ExchangeKind, ExchangeSpec, Publishers, QueueSpec,
};
use crate::server::{
    accounts::{Change, PasswordHash, Permissions, TopicPermissions},
    admin::Admin,
    aside::aside,
    shared::Shared,
};
use serde_json::{Map, Value as Json, json};
use std::collections::HashSet;
use std::sync::Arc;

/// Names that the server gives: what has one is there anyway.
const RESERVED: &str = "amq.";

/// What is declared in some virtual hosts.
pub(super) struct Declared {
    queues: Vec<QueueRow>,
    exchanges: Vec<ExchangeRow>,
    bindings: Vec<BindingRow>,
}

impl Declared {
    pub(super) fn read(server: &Shared, hosts: &Hosts) -> Self {
        Self { queues: queues(server, hosts), exchanges: exchanges(server, hosts), bindings: bindings(server, hosts) }
    }

    /// The document. Exclusive queues go with their connection and are left out, as RabbitMQ does.
    pub(super) fn to_json(&self) -> Json {
        let kept = || self.queues.iter().filter(|row| row.spec.access == Access::Shared);
        let names: HashSet<_> = kept().map(|row| (&row.host, &row.spec.name)).collect();
        let queues = kept().map(|row| {
            let columns = ["name", "vhost", "durable", "auto_delete", "arguments"];
            pick(&json::queue(row, &super::rates::Rates::default()), &columns)
        });
        let own = |row: &&ExchangeRow| !row.spec.name.is_empty() && !row.spec.name.starts_with(RESERVED);
        let exchanges = self.exchanges.iter().filter(own).map(|row| {
            let columns = ["name", "vhost", "type", "durable", "auto_delete", "internal", "arguments"];
            pick(&json::exchange(row), &columns)
        });
        let leads_on = |row: &&BindingRow| match &row.binding.destination {
            Destination::Queue(name) => names.contains(&(&row.host, name)),
            Destination::Exchange(_) => true,
        };
        let named = self.bindings.iter().filter(|row| !row.binding.source.is_empty());
        let bindings = named.filter(leads_on).map(|row| {
            let columns = ["source", "vhost", "destination", "destination_type", "routing_key", "arguments"];
            pick(&json::binding(row), &columns)
        });
        json!({
            "queues": queues.collect::<Vec<_>>(),
            "exchanges": exchanges.collect::<Vec<_>>(),
            "bindings": bindings.collect::<Vec<_>>(),
            "policies": [],
        })
    }
}

fn pick(row: &Json, columns: &[&str]) -> Json {
    Json::Object(columns.iter().map(|column| ((*column).to_owned(), row[*column].clone())).collect())
}

/// Without the virtual host, which the path of the request has.
pub(super) fn without_host(mut topology: Json) -> Json {
    for list in ["queues", "exchanges", "bindings"] {
        for row in topology[list].as_array_mut().into_iter().flatten() {
            if let Json::Object(row) = row {
                row.remove("vhost");
            }
        }
    }
    topology
}

fn text<'j>(row: &'j Json, name: &str) -> Result<&'j str> {
    row[name].as_str().ok_or_else(|| Refused::bad(format!("{name} has to be a string")))
}

fn is_set(row: &Json, name: &str) -> Result<bool> {
    match &row[name] {
        Json::Null => Ok(false),
        Json::Bool(value) => Ok(*value),
        // rabbitmqadmin sends words.
        Json::String(word) if word == "true" || word == "false" => Ok(word == "true"),
        _ => Err(Refused::bad(format!("{name} has to be true or false"))),
    }
}

fn named(name: &str) -> Result<Arc<str>> {
    if name.len() > 255 { Err(Refused::bad("the name has more than 255 bytes")) } else { Ok(name.into()) }
}

/// A queue as a request describes it.
pub(super) fn queue_spec(name: &str, body: &Json) -> Result<QueueSpec> {
    if name.is_empty() {
        return Err(Refused::bad("a queue needs a name"));
    }
    let mut arguments = read_arguments(body.get("arguments")).map_err(Refused::bad)?;
    if let Some(kind) = body["type"].as_str() {
        arguments.insert("x-queue-type", crate::engine::Field::text(kind));
    }
    Ok(QueueSpec {
        durability: if body["durable"].is_null() || is_set(body, "durable")? {
            Durability::Durable
        } else {
            Durability::Transient
        },
        auto_delete: if is_set(body, "auto_delete")? { AutoDelete::Yes } else { AutoDelete::No },
        arguments,
        ..QueueSpec::new(&named(name)?)
    })
}

/// An exchange as a request describes it.
pub(super) fn exchange_spec(name: &str, body: &Json) -> Result<ExchangeSpec> {
    let kind = match body["type"].as_str() {
        None => ExchangeKind::Direct,
        Some(kind) => {
            ExchangeKind::from_name(kind).ok_or_else(|| Refused::bad(format!("unknown exchange type '{kind}'")))?
        }
    };
    Ok(ExchangeSpec {
        durability: if body["durable"].is_null() || is_set(body, "durable")? {
            Durability::Durable
        } else {
            Durability::Transient
        },
        auto_delete: if is_set(body, "auto_delete")? { AutoDelete::Yes } else { AutoDelete::No },
        publishers: if is_set(body, "internal")? { Publishers::Exchanges } else { Publishers::Anybody },
        arguments: read_arguments(body.get("arguments")).map_err(Refused::bad)?,
        ..ExchangeSpec::new(&named(name)?, kind)
    })
}

/// A binding as a request describes it.
pub(super) fn binding(source: &str, destination: Destination, body: &Json) -> Result<Binding> {
    let key = match &body["routing_key"] {
        Json::Null => "",
        Json::String(key) => key,
        _ => return Err(Refused::bad("routing_key has to be a string")),
    };
    Ok(Binding {
        source: named(source)?,
        destination,
        key: named(key)?,
        arguments: read_arguments(body.get("arguments")).map_err(Refused::bad)?,
    })
}

/// The tags in a request: a list, or one text with commas.
pub(super) fn tags(body: &Json) -> Result<Vec<String>> {
    let split = |text: &str| text.split(',').map(str::trim).filter(|tag| !tag.is_empty()).map(str::to_owned).collect();
    match &body["tags"] {
        Json::String(text) => Ok(split(text)),
        Json::Array(list) => {
            let tag =
                |tag: &Json| tag.as_str().map(str::to_owned).ok_or_else(|| Refused::bad("a tag has to be a string"));
            list.iter().map(tag).collect()
        }
        _ => Err(Refused::bad("tags are missing: a text with commas, or a list; it may be empty")),
    }
}

/// The password in a request. Hashing takes its time, so it is done on another thread.
pub(super) async fn password(body: &Json) -> Result<Option<PasswordHash>> {
    let hash = body["password_hash"].as_str().filter(|hash| !hash.is_empty());
    match (&body["password"], hash) {
        (Json::String(password), _) => {
            let password = password.clone();
            let hashed = aside(move || PasswordHash::new(&password)).await.ok_or_else(Refused::stopped)?;
            Ok(Some(hashed.map_err(|error| Refused::bad(error.to_string()))?))
        }
        (_, Some(hash)) => {
            let wrong = |error: crate::server::accounts::PasswordError| {
                Refused::bad(format!("password_hash: {error}; give the password instead"))
            };
            PasswordHash::from_phc(hash).map(Some).map_err(wrong)
        }
        _ => Ok(None),
    }
}

/// Permissions as a request gives them.
pub(super) fn permissions(body: &Json) -> Result<Permissions> {
    let of = |name| text(body, name).map(str::to_owned);
    Ok(Permissions { configure: of("configure")?, write: of("write")?, read: of("read")? })
}

/// Permissions on topics as a request gives them, and the exchange that they are for.
pub(super) fn topic_permissions(body: &Json) -> Result<(String, TopicPermissions)> {
    let of = |name| text(body, name).map(str::to_owned);
    Ok((of("exchange")?, TopicPermissions { write: of("write")?, read: of("read")? }))
}

/// Takes a document in. What is there already and is the same is no error; what differs is one, and what came before it stays.
pub(super) async fn import(admin: &Admin, caller: &Caller, host: Option<&str>, document: Json) -> Result<()> {
    let Json::Object(document) = document else { return Err(Refused::bad("definitions have to be an object")) };
    for unknown in ["policies", "parameters"] {
        if document.get(unknown).and_then(Json::as_array).is_some_and(|list| !list.is_empty()) {
            return Err(Refused::bad(format!("this broker has no {unknown}; take them out of the definitions")));
        }
    }
    if host.is_none() {
        import_accounts(admin, &document).await?;
    }
    let rows = |name: &str| document.get(name).and_then(Json::as_array).cloned().unwrap_or_default();
    let host_of = |row: &Json| match host {
        Some(host) => Ok(host.to_owned()),
        None => text(row, "vhost").map(str::to_owned),
    };
    let mut work: Vec<(String, Work)> = Vec::new();
    for row in rows("exchanges") {
        work.push((host_of(&row)?, Work::Exchange(exchange_spec(text(&row, "name")?, &row)?)));
    }
    for row in rows("queues") {
        work.push((host_of(&row)?, Work::Queue(queue_spec(text(&row, "name")?, &row)?)));
    }
    for row in rows("bindings") {
        let to = named(text(&row, "destination")?)?;
        let destination = match text(&row, "destination_type")? {
            "queue" => Destination::Queue(to),
            "exchange" => Destination::Exchange(to),
            _ => return Err(Refused::bad("destination_type has to be queue or exchange")),
        };
        work.push((host_of(&row)?, Work::Binding(binding(text(&row, "source")?, destination, &row)?)));
    }
    let user = caller.name.clone();
    for piece in work.chunks(PIECE).map(<[(String, Work)]>::to_vec) {
        let user = user.clone();
        admin
            .with(move |server| {
                piece.into_iter().try_for_each(|(host, work)| {
                    let actor = Actor { user: user.clone(), host };
                    Acting::run(server, &actor, |acting| match &work {
                        Work::Exchange(spec) => acting.declare_exchange(spec),
                        Work::Queue(spec) => acting.declare_queue(spec),
                        Work::Binding(binding) => acting.bind(binding),
                    })
                })
            })
            .await??;
    }
    Ok(())
}

/// So much is declared at a time: clients wait meanwhile.
const PIECE: usize = 100;

#[derive(Clone)]
enum Work {
    Exchange(ExchangeSpec),
    Queue(QueueSpec),
    Binding(Binding),
}

async fn import_accounts(admin: &Admin, document: &Map<String, Json>) -> Result<()> {
    let rows = |name: &str| document.get(name).and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let known = admin.accounts().await?;
    for row in rows("vhosts") {
        let name = text(row, "name")?.to_owned();
        if !known.virtual_hosts.contains(&name) {
            admin.change(Change::AddVirtualHost { name }).await?;
        }
    }
    for row in rows("users") {
        let (name, password, tags) = (text(row, "name")?.to_owned(), password(row).await?, tags(row)?);
        if known.users.iter().any(|user| user.name == name) {
            if password.is_some() {
                admin.change(Change::SetPassword { name: name.clone(), password }).await?;
            }
            admin.change(Change::SetTags { name, tags }).await?;
        } else {
            admin.change(Change::AddUser { name, password, tags }).await?;
        }
    }
    for row in rows("permissions") {
        let (user, virtual_host) = (text(row, "user")?.to_owned(), text(row, "vhost")?.to_owned());
        admin.change(Change::SetPermissions { user, virtual_host, permissions: permissions(row)? }).await?;
    }
    for row in rows("topic_permissions") {
        let (user, virtual_host) = (text(row, "user")?.to_owned(), text(row, "vhost")?.to_owned());
        let (exchange, permissions) = topic_permissions(row)?;
        admin.change(Change::SetTopicPermissions { user, virtual_host, exchange, permissions }).await?;
    }
    Ok(())
}
