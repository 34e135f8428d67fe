//! What each path is: one table, and what is behind it.

use super::access::Caller;
use super::answer::{Answer, Refused, Result};
use super::definitions::{self, Declared};
use super::json::{self, NODE};
use super::messages;
use super::metrics;
use super::operate::{Acting, Actor, Afterwards};
use super::query::Query;
use super::rates::Sampler;
use super::rows::{self, Hosts};
use crate::engine::{DeleteExchange, DeleteQueue, Destination};
use crate::server::{
    accounts::{Accounts, Change, GrantedTopics},
    admin::Admin,
    exception,
    held::not_safe,
    shared::{Alarm, Shared},
};
use hyper::Method;
use serde_json::{Value as Json, json};
use std::rc::Rc;
use std::sync::Arc;

/// The version that clients are told, so that tools know what they may ask for.
const VERSION: &str = "3.8.14";

/// The most messages that one request shows, and the most bytes of them.
const SHOWN: usize = 10_000;
const SHOWN_BYTES: usize = 16 << 20;

/// What answers need.
pub(super) struct Service {
    pub(super) admin: Admin,
    pub(super) sampler: Rc<Sampler>,
}

/// A request that was read and whose caller is known.
pub(super) struct Asked<'r> {
    pub(super) caller: Caller,
    pub(super) method: &'r Method,
    /// The parts of the path, decoded.
    pub(super) path: &'r [String],
    pub(super) query: Query,
    /// Null where there is none.
    pub(super) body: Json,
}

impl Asked<'_> {
    fn is_changing(&self) -> bool {
        self.method != Method::GET && self.method != Method::HEAD
    }

    /// # Errors
    /// The caller is no administrator.
    fn administrator(&self) -> Result<()> {
        if self.caller.is_administrator() {
            Ok(())
        } else {
            Err(Refused::not_authorised("this is for users with the tag administrator"))
        }
    }

    /// # Errors
    /// The caller sees their own virtual hosts only.
    fn sees_all(&self) -> Result<()> {
        if self.caller.sees_all() {
            Ok(())
        } else {
            Err(Refused::not_authorised("this is for users with the tag monitoring or administrator"))
        }
    }

    fn actor(&self, host: &str) -> Actor {
        Actor { user: self.caller.name.clone(), host: host.to_owned() }
    }
}

fn condition(query: &Query, name: &str) -> bool {
    query.is_set(name)
}

/// Wherever nothing was there before, RabbitMQ answers 201, and 204 otherwise.
fn made(is_new: bool) -> Answer {
    if is_new { Answer::Created } else { Answer::Done }
}

impl Service {
    /// Answers a request.
    pub(super) async fn answer(&self, asked: &Asked<'_>) -> Result<Answer> {
        let path: Vec<&str> = asked.path.iter().map(String::as_str).collect();
        let answer = match path.as_slice() {
            ["metrics"] => self.metrics(asked).await?,
            ["metrics", "per-object"] => self.metrics_of_each(asked).await?,
            ["api", rest @ ..] if asked.is_changing() => self.change(asked, rest).await?,
            ["api", rest @ ..] => self.look(asked, rest).await?,
            _ => return Err(Refused::not_found()),
        };
        asked.query.apply(answer)
    }

    async fn look(&self, asked: &Asked<'_>, path: &[&str]) -> Result<Answer> {
        if let [_, host, ..] = path
            && matches!(path[0], "exchanges" | "queues" | "bindings" | "consumers" | "vhosts" | "aliveness-test")
            && (!asked.caller.sees(host) || !self.has_host(host).await?)
        {
            // Whoever may not see it is not told whether it is there.
            return Err(Refused::not_found());
        }
        Ok(match path {
            ["overview"] => self.overview(asked).await?,
            ["whoami"] => Answer::Json(json!({ "name": &*asked.caller.name, "tags": asked.caller.tags })),
            ["cluster-name"] => Answer::Json(json!({ "name": "homing" })),
            [
                "extensions" | "policies" | "operator-policies" | "parameters" | "global-parameters" | "feature-flags",
            ]
            | ["policies" | "operator-policies" | "parameters", ..]
            | ["vhost-limits" | "user-limits", ..] => Answer::List(Vec::new()),
            ["nodes"] => Answer::List(vec![self.node().await?]),
            ["nodes", NODE] => Answer::Json(self.node().await?),
            ["health", "checks", check, ..] => self.health(check, &path[3..]).await?,
            ["aliveness-test", _] => Answer::Json(json!({ "status": "ok" })),
            ["vhosts"] => {
                let accounts = self.admin.accounts().await?;
                let seen = accounts.virtual_hosts.into_iter().filter(|name| asked.caller.sees(name));
                let mut list = Vec::new();
                for name in seen {
                    list.push(self.virtual_host(&name).await?);
                }
                Answer::List(list)
            }
            ["vhosts", name] => Answer::Json(self.virtual_host(name).await?),
            ["vhosts", name, "permissions"] => {
                asked.administrator()?;
                let accounts = self.admin.accounts().await?;
                Answer::List(granted(&accounts, |_, host| host == *name))
            }
            ["users"] => {
                asked.administrator()?;
                Answer::List(self.users().await?)
            }
            ["users", name] => {
                asked.administrator()?;
                Answer::Json(find(self.users().await?, |user| user["name"] == *name)?)
            }
            ["users", name, "permissions"] => {
                asked.administrator()?;
                Answer::List(granted(&self.admin.accounts().await?, |user, _| user == *name))
            }
            ["permissions"] => {
                asked.administrator()?;
                Answer::List(granted(&self.admin.accounts().await?, |_, _| true))
            }
            ["permissions", host, user] => {
                asked.administrator()?;
                let all = granted(&self.admin.accounts().await?, |known, at| known == *user && at == *host);
                Answer::Json(find(all, |_| true)?)
            }
            ["topic-permissions"] => {
                asked.administrator()?;
                Answer::List(topics(&self.admin.accounts().await?, |_, _| true))
            }
            ["vhosts", name, "topic-permissions"] => {
                asked.administrator()?;
                Answer::List(topics(&self.admin.accounts().await?, |_, host| host == *name))
            }
            ["users", name, "topic-permissions"] => {
                asked.administrator()?;
                Answer::List(topics(&self.admin.accounts().await?, |user, _| user == *name))
            }
            ["topic-permissions", host, user] => {
                asked.administrator()?;
                let all = topics(&self.admin.accounts().await?, |known, at| known == *user && at == *host);
                if all.is_empty() {
                    return Err(Refused::not_found());
                }
                Answer::List(all)
            }
            ["exchanges"] => Answer::List(self.seen(asked, rows::exchanges, json::exchange).await?),
            ["exchanges", host] => Answer::List(self.listed(host, rows::exchanges, json::exchange).await?),
            ["exchanges", host, name] => {
                let all = self.listed(host, rows::exchanges, json::exchange).await?;
                Answer::Json(find(all, |row| row["name"] == unaliased(name))?)
            }
            ["exchanges", host, name, "bindings", end @ ("source" | "destination")] => {
                self.exists(host, "exchanges", name).await?;
                let all = self.bindings(host).await?;
                let name = unaliased(name);
                let meant = |row: &Json| match *end {
                    "source" => row["source"] == name,
                    _ => row["destination"] == name && row["destination_type"] == "exchange",
                };
                Answer::List(all.into_iter().filter(meant).collect())
            }
            ["queues"] => Answer::List(self.queues(asked, Hosts::All).await?),
            ["queues", host] => Answer::List(self.queues(asked, one(host)).await?),
            ["queues", host, name] => {
                let (host, name) = ((*host).to_owned(), (*name).to_owned());
                let found = self.admin.with(move |server| rows::queue(server, &host, &name)).await?;
                let (row, consumers) = found.ok_or_else(Refused::not_found)?;
                let mut shown = json::queue(&row, &self.sampler.of_queue(&row));
                shown["consumer_details"] = consumers.iter().map(json::consumer).collect();
                Answer::Json(shown)
            }
            ["queues", host, name, "bindings"] => {
                self.exists(host, "queues", name).await?;
                let of_it = |row: &Json| row["destination"] == *name && row["destination_type"] == "queue";
                Answer::List(self.bindings(host).await?.into_iter().filter(of_it).collect())
            }
            ["bindings"] => Answer::List(self.seen(asked, rows::bindings, json::binding).await?),
            ["bindings", host] => Answer::List(self.bindings(host).await?),
            ["bindings", host, "e", source, kind @ ("q" | "e"), to] => {
                Answer::List(self.bindings_between(host, source, kind, to).await?)
            }
            ["bindings", host, "e", source, kind @ ("q" | "e"), to, key] => {
                let all = self.bindings_between(host, source, kind, to).await?;
                Answer::Json(find(all, |row| row["properties_key"] == *key)?)
            }
            ["connections"] => Answer::List(self.connections(asked).await?),
            ["connections", name] => Answer::Json(find(self.connections(asked).await?, |row| row["name"] == *name)?),
            ["connections", name, "channels"] => {
                let all = self.channels(asked).await?;
                Answer::List(all.into_iter().filter(|row| row["connection_details"]["name"] == *name).collect())
            }
            ["vhosts", host, "connections"] => {
                Answer::List(self.listed(host, rows::connections, |row| json::connection(row)).await?)
            }
            ["channels"] => Answer::List(self.channels(asked).await?),
            ["channels", name] => Answer::Json(find(self.channels(asked).await?, |row| row["name"] == *name)?),
            ["consumers"] => Answer::List(self.seen(asked, rows::consumers, json::consumer).await?),
            ["consumers", host] => Answer::List(self.listed(host, rows::consumers, json::consumer).await?),
            ["definitions"] => {
                asked.administrator()?;
                Answer::Json(self.definitions().await?)
            }
            ["definitions", host] => {
                asked.administrator()?;
                if !self.has_host(host).await? {
                    return Err(Refused::not_found());
                }
                let declared = self.in_host(host, Declared::read).await?;
                Answer::Json(definitions::without_host(declared.to_json()))
            }
            _ => return Err(Refused::not_found()),
        })
    }

    async fn change(&self, asked: &Asked<'_>, path: &[&str]) -> Result<Answer> {
        let (put, post, delete) =
            (asked.method == Method::PUT, asked.method == Method::POST, asked.method == Method::DELETE);
        let body = &asked.body;
        Ok(match path {
            ["vhosts", name] if put || delete => {
                asked.administrator()?;
                let (is_there, name) = (self.has_host(name).await?, (*name).to_owned());
                match (put, is_there) {
                    (true, true) => return Ok(Answer::Done),
                    (true, false) => self.admin.change(Change::AddVirtualHost { name }).await?,
                    (false, true) => self.admin.change(Change::RemoveVirtualHost { name }).await?,
                    (false, false) => return Err(Refused::not_found()),
                }
                made(put)
            }
            ["users", name] if put || delete => {
                asked.administrator()?;
                let known = self.admin.accounts().await?.users;
                let (is_there, name) = (known.iter().any(|user| user.name == *name), (*name).to_owned());
                if !put {
                    if !is_there {
                        return Err(Refused::not_found());
                    }
                    self.admin.change(Change::RemoveUser { name }).await?;
                    return Ok(Answer::Done);
                }
                let (tags, password) = (definitions::tags(body)?, definitions::password(body).await?);
                if is_there {
                    // As in RabbitMQ: without a password nobody logs in as this user any more.
                    self.admin.change(Change::SetPassword { name: name.clone(), password }).await?;
                    self.admin.change(Change::SetTags { name, tags }).await?;
                } else {
                    self.admin.change(Change::AddUser { name, password, tags }).await?;
                }
                made(!is_there)
            }
            ["permissions", host, user] if put || delete => {
                asked.administrator()?;
                let known = self.admin.accounts().await?.permissions;
                let is_there = known.iter().any(|one| one.user == *user && one.virtual_host == *host);
                let (user, virtual_host) = ((*user).to_owned(), (*host).to_owned());
                if put {
                    let permissions = definitions::permissions(body)?;
                    self.admin.change(Change::SetPermissions { user, virtual_host, permissions }).await?;
                    return Ok(made(!is_there));
                }
                if !is_there {
                    return Err(Refused::not_found());
                }
                self.admin.change(Change::ClearPermissions { user, virtual_host }).await?;
                Answer::Done
            }
            ["topic-permissions", host, user] if put || delete => {
                asked.administrator()?;
                let known = self.admin.accounts().await?.topics;
                let is_there = known.iter().any(|one| one.user == *user && one.virtual_host == *host);
                let (user, virtual_host) = ((*user).to_owned(), (*host).to_owned());
                if put {
                    let (exchange, permissions) = definitions::topic_permissions(body)?;
                    let change = Change::SetTopicPermissions { user, virtual_host, exchange, permissions };
                    self.admin.change(change).await?;
                    return Ok(made(!is_there));
                }
                if !is_there {
                    return Err(Refused::not_found());
                }
                self.admin.change(Change::ClearTopicPermissions { user, virtual_host, exchange: None }).await?;
                Answer::Done
            }
            ["queues", host, name] if put => {
                let spec = definitions::queue_spec(name, body)?;
                let is_new = self.exists(host, "queues", name).await.is_err();
                self.act(asked, host, move |acting| acting.declare_queue(&spec)).await?;
                made(is_new)
            }
            ["queues", host, name] if delete => {
                let conditions = DeleteQueue {
                    if_unused: condition(&asked.query, "if-unused"),
                    if_empty: condition(&asked.query, "if-empty"),
                };
                let name = (*name).to_owned();
                self.act(asked, host, move |acting| acting.delete_queue(&name, conditions)).await?;
                Answer::Done
            }
            ["queues", host, name, "contents"] if delete => {
                let name = (*name).to_owned();
                self.act(asked, host, move |acting| acting.purge_queue(&name)).await?;
                self.until_safe(host).await?;
                Answer::Done
            }
            ["queues", host, name, "get"] if post => self.get(asked, host, name).await?,
            ["exchanges", host, name] if put => {
                let spec = definitions::exchange_spec(name, body)?;
                let is_new = self.exists(host, "exchanges", name).await.is_err();
                self.act(asked, host, move |acting| acting.declare_exchange(&spec)).await?;
                made(is_new)
            }
            ["exchanges", host, name] if delete => {
                let if_unused = condition(&asked.query, "if-unused");
                let condition = if if_unused { DeleteExchange::IfUnused } else { DeleteExchange::Always };
                let name = (*name).to_owned();
                self.act(asked, host, move |acting| acting.delete_exchange(&name, condition)).await?;
                Answer::Done
            }
            ["exchanges", host, name, "publish"] if post => {
                let outgoing = messages::outgoing(unaliased(name), body)?;
                let routed = self.act(asked, host, move |acting| acting.publish(outgoing)).await?;
                self.until_safe(host).await?;
                Answer::Json(json!({ "routed": routed }))
            }
            ["bindings", host, "e", source, kind @ ("q" | "e"), to] if post => {
                let binding = definitions::binding(source, destination(kind, to), body)?;
                self.act(asked, host, move |acting| acting.bind(&binding)).await?;
                Answer::Created
            }
            ["bindings", host, "e", source, kind @ ("q" | "e"), to, key] if delete => {
                let binding = self.binding_of_key(host, source, &destination(kind, to), key).await?;
                self.act(asked, host, move |acting| acting.unbind(&binding)).await?;
                Answer::Done
            }
            ["connections", name] if delete => self.end_connection(asked, name).await?,
            ["definitions"] if put || post => {
                asked.administrator()?;
                definitions::import(&self.admin, &asked.caller, None, body.clone()).await?;
                Answer::Done
            }
            ["definitions", host] if put || post => {
                asked.administrator()?;
                definitions::import(&self.admin, &asked.caller, Some(host), body.clone()).await?;
                Answer::Done
            }
            _ => return Err(Refused::no_such_method()),
        })
    }

    /// Does something as the caller, in a virtual host.
    async fn act<T: Send + 'static>(
        &self,
        asked: &Asked<'_>,
        host: &str,
        work: impl FnOnce(&Acting) -> exception::Result<T> + Send + 'static,
    ) -> Result<T> {
        let actor = asked.actor(host);
        Ok(self.admin.with(move |server| Acting::run(server, &actor, work)).await??)
    }

    /// Waits until what was done is on the disk.
    async fn until_safe(&self, host: &str) -> Result<()> {
        self.admin.until_safe(host).await?.map_err(|reason| Refused::internal(not_safe(&reason)))
    }

    /// A list of one virtual host.
    async fn in_host<T: Send + 'static>(
        &self,
        host: &str,
        read: impl FnOnce(&Shared, &Hosts) -> T + Send + 'static,
    ) -> Result<T> {
        let hosts = one(host);
        Ok(self.admin.with(move |server| read(server, &hosts)).await?)
    }

    /// A list of one virtual host. Rows become JSON here, and not on the server's thread.
    async fn listed<R: Send + 'static>(
        &self,
        host: &str,
        read: fn(&Shared, &Hosts) -> Vec<R>,
        json: impl Fn(&R) -> Json,
    ) -> Result<Vec<Json>> {
        Ok(self.in_host(host, read).await?.iter().map(json).collect())
    }

    /// A list of all virtual hosts, without those that the caller does not see.
    async fn seen<R: Send + 'static>(
        &self,
        asked: &Asked<'_>,
        read: fn(&Shared, &Hosts) -> Vec<R>,
        json: impl Fn(&R) -> Json,
    ) -> Result<Vec<Json>> {
        let all = self.admin.with(move |server| read(server, &Hosts::All)).await?;
        let is_seen = |row: &Json| {
            let host = row["vhost"].as_str().or_else(|| row["queue"]["vhost"].as_str());
            host.is_some_and(|host| asked.caller.sees(host))
        };
        Ok(all.iter().map(json).filter(is_seen).collect())
    }

    async fn has_host(&self, host: &str) -> Result<bool> {
        let host = host.to_owned();
        Ok(self.admin.with(move |server| server.host(&host).is_some()).await?)
    }

    /// # Errors
    /// There is no such queue or exchange.
    async fn exists(&self, host: &str, what: &str, name: &str) -> Result<()> {
        let (is_queue, name) = (what == "queues", unaliased(name).to_owned());
        let there = self.in_host(host, move |server, hosts| {
            let Hosts::One(host) = hosts else { return false };
            server.host(host).is_some_and(|host| {
                host.engine(|engine| match is_queue {
                    true => engine.queue(&name).is_some(),
                    false => name.is_empty() || engine.exchange(&name).is_some(),
                })
            })
        });
        if there.await? { Ok(()) } else { Err(Refused::not_found()) }
    }

    async fn queues(&self, asked: &Asked<'_>, hosts: Hosts) -> Result<Vec<Json>> {
        let all = self.admin.with(move |server| rows::queues(server, &hosts)).await?;
        let seen = all.iter().filter(|row| asked.caller.sees(&row.host));
        Ok(seen.map(|row| json::queue(row, &self.sampler.of_queue(row))).collect())
    }

    async fn bindings(&self, host: &str) -> Result<Vec<Json>> {
        self.listed(host, rows::bindings, json::binding).await
    }

    async fn bindings_between(&self, host: &str, source: &str, kind: &str, to: &str) -> Result<Vec<Json>> {
        self.exists(host, "exchanges", source).await?;
        self.exists(host, if kind == "q" { "queues" } else { "exchanges" }, to).await?;
        let kind = if kind == "q" { "queue" } else { "exchange" };
        let meant = |row: &Json| {
            row["source"] == unaliased(source) && row["destination"] == to && row["destination_type"] == kind
        };
        Ok(self.bindings(host).await?.into_iter().filter(meant).collect())
    }

    async fn binding_of_key(
        &self,
        host: &str,
        source: &str,
        destination: &Destination,
        key: &str,
    ) -> Result<crate::engine::Binding> {
        let all = self.in_host(host, rows::bindings).await?;
        let found = all.into_iter().find(|row| {
            *row.binding.source == *source
                && row.binding.destination == *destination
                && json::properties_key(row) == key
        });
        found.map(|row| row.binding).ok_or_else(Refused::not_found)
    }

    async fn connections(&self, asked: &Asked<'_>) -> Result<Vec<Json>> {
        self.seen(asked, rows::connections, |row| json::connection(row)).await
    }

    async fn channels(&self, asked: &Asked<'_>) -> Result<Vec<Json>> {
        self.seen(asked, rows::channels, json::channel).await
    }

    async fn end_connection(&self, asked: &Asked<'_>, name: &str) -> Result<Answer> {
        let (name, is_administrator) = (name.to_owned(), asked.caller.is_administrator());
        let user = asked.caller.name.clone();
        let ended = self.admin.with(move |server| {
            let peers = server.peers();
            let Some(peer) = peers.iter().find(|peer| *peer.facts().name == *name) else {
                return Err(Refused::not_found());
            };
            if !is_administrator && *peer.user() != *user {
                return Err(Refused::not_authorised("another user's connections are ended by an administrator"));
            }
            peer.order(&Rc::from("Closed via management plugin"));
            Ok(())
        });
        ended.await??;
        Ok(Answer::Done)
    }

    async fn get(&self, asked: &Asked<'_>, host: &str, queue: &str) -> Result<Answer> {
        let body = &asked.body;
        let number = |name: &str| match &body[name] {
            Json::Null => Ok(None),
            // rabbitmqadmin sends words.
            Json::String(word) => {
                word.parse().map(Some).map_err(|_| Refused::bad(format!("{name} has to be a number")))
            }
            value => value
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                .map(Some)
                .ok_or_else(|| Refused::bad(format!("{name} has to be a number"))),
        };
        let count = number("count")?.ok_or_else(|| Refused::bad("count is missing"))?.min(SHOWN);
        let truncate = number("truncate")?;
        let afterwards = match body["ackmode"].as_str() {
            Some("ack_requeue_true" | "reject_requeue_true") => Afterwards::Requeue,
            Some("ack_requeue_false") => Afterwards::Acknowledge,
            Some("reject_requeue_false") => Afterwards::Discard,
            _ => {
                return Err(Refused::bad(
                    "ackmode has to be ack_requeue_true, ack_requeue_false, reject_requeue_true or reject_requeue_false",
                ));
            }
        };
        let is_base64 = match body["encoding"].as_str() {
            Some("base64") => true,
            Some("auto") | None => false,
            Some(_) => return Err(Refused::bad("encoding has to be auto or base64")),
        };
        let queue = queue.to_owned();
        let got = self.act(asked, host, move |acting| acting.get(&queue, count, SHOWN_BYTES, afterwards)).await?;
        Ok(Answer::List(got.iter().map(|message| messages::incoming(message, is_base64, truncate)).collect()))
    }

    async fn virtual_host(&self, name: &str) -> Result<Json> {
        let totals = self.in_host(name, rows::totals).await?;
        Ok(json!({
            "name": name,
            "tracing": false,
            "messages": totals.waiting + totals.out,
            "messages_ready": totals.waiting,
            "messages_unacknowledged": totals.out,
            "cluster_state": { NODE: "running" },
        }))
    }

    async fn users(&self) -> Result<Vec<Json>> {
        let accounts = self.admin.accounts().await?;
        let user = |user: crate::server::User| json!({ "name": user.name, "tags": user.tags, "password_hash": "", "hashing_algorithm": "argon2id" });
        Ok(accounts.users.into_iter().map(user).collect())
    }

    async fn overview(&self, asked: &Asked<'_>) -> Result<Answer> {
        // Whoever does not see all sees no sums of what others have.
        let totals = if asked.caller.sees_all() {
            self.admin.with(|server| rows::totals(server, &Hosts::All)).await?
        } else {
            rows::Totals::default()
        };
        let rates = self.sampler.of_all();
        let types = ["direct", "fanout", "headers", "topic"].map(|name| json!({ "name": name, "enabled": true }));
        Ok(Answer::Json(json!({
            "management_version": VERSION,
            "rabbitmq_version": VERSION,
            "product_name": "homing",
            "product_version": env!("CARGO_PKG_VERSION"),
            "cluster_name": "homing",
            "node": NODE,
            "rates_mode": "basic",
            "object_totals": {
                "connections": totals.connections,
                "channels": totals.channels,
                "consumers": totals.consumers,
                "queues": totals.queues,
                "exchanges": totals.exchanges,
            },
            "queue_totals": {
                "messages": totals.waiting + totals.out,
                "messages_details": { "rate": rates.waiting + rates.out },
                "messages_ready": totals.waiting,
                "messages_ready_details": { "rate": rates.waiting },
                "messages_unacknowledged": totals.out,
                "messages_unacknowledged_details": { "rate": rates.out },
            },
            "message_stats": json::stats(&totals.counts, &rates),
            "statistics_db_event_queue": 0,
            "exchange_types": types,
            "listeners": [],
            "contexts": [],
        })))
    }

    async fn node(&self) -> Result<Json> {
        let (memory, disk) = self
            .admin
            .with(|server| (server.has_alarm(|it| *it == Alarm::Memory), server.has_alarm(|it| *it != Alarm::Memory)))
            .await?;
        Ok(json!({
            "name": NODE,
            "type": "disc",
            "running": true,
            "mem_alarm": memory,
            "disk_free_alarm": disk,
            "os_pid": std::process::id().to_string(),
            "applications": [],
            "partitions": [],
        }))
    }

    /// Whether all is well, in one way or another.
    async fn health(&self, check: &str, rest: &[&str]) -> Result<Answer> {
        let status = self.admin.status().await?;
        Ok(match (check, rest) {
            ("alarms" | "local-alarms", []) => match status.blocked {
                None => Answer::Json(json!({ "status": "ok" })),
                Some(reason) => Answer::Unwell(json!({
                    "status": "failed",
                    "reason": "There are alarms in effect in the cluster",
                    "alarms": [{ "node": NODE, "resource": reason }],
                })),
            },
            ("virtual-hosts" | "node-is-mirror-sync-critical" | "node-is-quorum-critical", []) => {
                Answer::Json(json!({ "status": "ok" }))
            }
            _ => return Err(Refused::not_found()),
        })
    }

    async fn definitions(&self) -> Result<Json> {
        let accounts = self.admin.accounts().await?;
        let mut all = self.admin.with(|server| Declared::read(server, &Hosts::All)).await?.to_json();
        let hashes = self.admin.with(|server| server.accounts.hashes()).await?;
        let users: Vec<Json> = accounts
            .users
            .iter()
            .map(|user| {
                json!({
                    "name": user.name,
                    "tags": user.tags,
                    "password_hash": hashes.get(&user.name).map_or("", String::as_str),
                    "hashing_algorithm": "argon2id",
                })
            })
            .collect();
        all["rabbit_version"] = VERSION.into();
        all["rabbitmq_version"] = VERSION.into();
        all["product_name"] = "homing".into();
        all["users"] = users.into();
        all["vhosts"] = accounts.virtual_hosts.iter().map(|name| json!({ "name": name })).collect();
        all["permissions"] = granted(&accounts, |_, _| true).into();
        all["topic_permissions"] = topics(&accounts, |_, _| true).into();
        for none in ["parameters", "global_parameters"] {
            all[none] = json!([]);
        }
        Ok(all)
    }

    async fn metrics(&self, asked: &Asked<'_>) -> Result<Answer> {
        asked.sees_all()?;
        let totals = self.admin.with(|server| rows::totals(server, &Hosts::All)).await?;
        Ok(Answer::Metrics(metrics::all(&totals)))
    }

    async fn metrics_of_each(&self, asked: &Asked<'_>) -> Result<Answer> {
        asked.sees_all()?;
        let queues = self.admin.with(|server| rows::queues(server, &Hosts::All)).await?;
        Ok(Answer::Metrics(metrics::each(&queues)))
    }
}

fn one(host: &str) -> Hosts {
    Hosts::One(host.to_owned())
}

fn find(rows: Vec<Json>, is_meant: impl Fn(&Json) -> bool) -> Result<Json> {
    rows.into_iter().find(is_meant).ok_or_else(Refused::not_found)
}

/// The default exchange has a name in paths.
fn unaliased(name: &str) -> &str {
    if name == "amq.default" { "" } else { name }
}

fn destination(kind: &str, name: &str) -> Destination {
    let name: Arc<str> = name.into();
    if kind == "q" { Destination::Queue(name) } else { Destination::Exchange(name) }
}

fn topics(accounts: &Accounts, is_meant: impl Fn(&str, &str) -> bool) -> Vec<Json> {
    let row = |one: &GrantedTopics| {
        json!({
            "user": one.user,
            "vhost": one.virtual_host,
            "exchange": one.exchange,
            "write": one.permissions.write,
            "read": one.permissions.read,
        })
    };
    accounts.topics.iter().filter(|one| is_meant(&one.user, &one.virtual_host)).map(row).collect()
}

fn granted(accounts: &Accounts, is_meant: impl Fn(&str, &str) -> bool) -> Vec<Json> {
    accounts
        .permissions
        .iter()
        .filter(|one| is_meant(&one.user, &one.virtual_host))
        .map(|one| {
            let permissions = &one.permissions;
            json!({
                "user": one.user,
                "vhost": one.virtual_host,
                "configure": permissions.configure,
                "write": permissions.write,
                "read": permissions.read,
            })
        })
        .collect()
}
