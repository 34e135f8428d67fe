//! What the management API knows beside AMQP: every argument that differs, limits set by policy, bindings and alarms; and
//! what could be deleted, so that it can be declared anew.

use std::fmt;

use homing::Value;
use homing::codec::Map;
use homing::inspect::{Declared, Finding, Kind, Report, Target, Verdict};
use serde_json::Value as Json;

use super::http::{Answer, Management, segment};

/// Adds the API's findings to the report, and returns what could be fixed.
pub(super) fn look(report: &mut Report, management: &Management, target: &Target, declared: &[Declared]) -> Vec<Fix> {
    const CHECK: &str = "management";
    match management.get("/api/overview") {
        Err(why) => {
            report.push(
                Finding::new(CHECK, Verdict::Problem, why).advice("is the plugin rabbitmq_management enabled there?"),
            );
            return Vec::new();
        }
        Ok(Answer { status: 200, body }) => {
            let version = body["rabbitmq_version"].as_str().unwrap_or("of a version that it does not tell");
            report.push(Finding::new(CHECK, Verdict::Ok, format!("answers, for RabbitMQ {version}")));
        }
        Ok(Answer { status: 401, .. }) => {
            let text = "refuses this user: wrong name or password, or the user lacks the tag `monitoring`";
            report.push(Finding::new(CHECK, Verdict::Problem, text));
            return Vec::new();
        }
        Ok(Answer { status, .. }) => {
            report.push(Finding::new(
                CHECK,
                Verdict::Problem,
                format!("answers with status {status}, unlike RabbitMQ's"),
            ));
            return Vec::new();
        }
    }
    report.push(alarms(management));
    let vhost = segment(&target.virtual_host);
    let user = segment(&target.user);
    limits(report, management, &vhost, &user);
    report.push(topics(management, &vhost, &user, declared));
    declared.iter().filter_map(|object| compare(report, management, &vhost, object)).collect()
}

fn alarms(management: &Management) -> Finding {
    const CHECK: &str = "alarms";
    match management.get("/api/health/checks/alarms") {
        Ok(Answer { status: 200, .. }) => Finding::new(CHECK, Verdict::Ok, "none on any node"),
        Ok(Answer { status: 503, body }) => {
            let all = body["alarms"].as_array().map(Vec::as_slice).unwrap_or_default();
            let named: Vec<String> = all
                .iter()
                .map(|alarm| {
                    let of = |name: &str| alarm[name].as_str().unwrap_or("?").to_owned();
                    format!("{} on {}", of("resource"), of("node"))
                })
                .collect();
            let text = format!("in force, so that publishers are blocked: {}", named.join(", "));
            Finding::new(CHECK, Verdict::Problem, text).advice("give the broker more memory or disk, or fewer messages")
        }
        Ok(Answer { status: 401 | 403, .. }) => {
            Finding::new(CHECK, Verdict::Note, "not checked: this user lacks the tag `monitoring`")
        }
        Ok(Answer { status, .. }) => Finding::new(CHECK, Verdict::Note, format!("not checked: status {status}")),
        Err(why) => Finding::new(CHECK, Verdict::Problem, why),
    }
}

/// How many connections the communicator has.
const CONNECTIONS: i64 = 2;
/// Fewer channels than this are used up by a few task queues.
const FEW_CHANNELS: i64 = 16;

/// What an administrator has set for the virtual host and for the user.
fn limits(report: &mut Report, management: &Management, vhost: &str, user: &str) {
    let asked = [("virtual host", format!("/api/vhost-limits/{vhost}")), ("user", format!("/api/user-limits/{user}"))];
    let mut known = Vec::new();
    for (whose, path) in asked {
        let body = match management.get(&path) {
            Ok(Answer { status: 200, body }) => body,
            Ok(Answer { status: 404, .. }) => Json::Null,
            Ok(Answer { status, .. }) => {
                let text = format!("those of the {whose} were not looked at: status {status}");
                report.push(Finding::new("limits set", Verdict::Note, text));
                continue;
            }
            Err(why) => {
                report.push(Finding::new("limits set", Verdict::Problem, why));
                continue;
            }
        };
        for limits in body.as_array().map(Vec::as_slice).unwrap_or_default() {
            for name in ["max-connections", "max-channels", "max-queues"] {
                // Below zero is none.
                if let Some(limit) = limits["value"][name].as_i64().filter(|limit| *limit >= 0) {
                    known.push((whose, name, limit));
                }
            }
        }
    }
    if known.is_empty() {
        report.push(Finding::new("limits set", Verdict::Ok, "none on connections, channels or queues"));
    }
    for (whose, name, limit) in known {
        let text = format!("{name} of the {whose} is {limit}");
        let finding = match name {
            "max-connections" if limit < CONNECTIONS => Finding::new("limits set", Verdict::Problem, text)
                .advice("each communicator has two connections, one to publish and one to consume: raise the limit"),
            "max-connections" => Finding::new("limits set", Verdict::Note, text)
                .advice("each communicator has two connections, one to publish and one to consume"),
            "max-channels" if limit < FEW_CHANNELS => Finding::new("limits set", Verdict::Problem, text)
                .advice("each task queue needs up to two channels, and all connections of the user share them"),
            "max-queues" => Finding::new("limits set", Verdict::Note, text)
                .advice("each communicator has queues of its own for replies, calls and broadcasts"),
            _ => Finding::new("limits set", Verdict::Note, text),
        };
        report.push(finding.fact("limit", name).fact("of", whose).fact("value", limit));
    }
}

/// What routing keys the user may use. That they suffice is tried over AMQP.
fn topics(management: &Management, vhost: &str, user: &str, declared: &[Declared]) -> Finding {
    const CHECK: &str = "topic permissions";
    let body = match management.get(&format!("/api/topic-permissions/{vhost}/{user}")) {
        Ok(Answer { status: 200, body }) => body,
        Ok(Answer { status: 404, .. }) => Json::Null,
        Ok(Answer { status: 401 | 403, .. }) => {
            return Finding::new(CHECK, Verdict::Note, "not looked at: this user lacks the tag `administrator`");
        }
        Ok(Answer { status, .. }) => {
            return Finding::new(CHECK, Verdict::Note, format!("not looked at: status {status}"));
        }
        Err(why) => return Finding::new(CHECK, Verdict::Problem, why),
    };
    let all = body.as_array().map(Vec::as_slice).unwrap_or_default();
    let concerns = |one: &&Json| declared.iter().any(|object| one["exchange"] == object.name.as_str());
    let set: Vec<String> = all
        .iter()
        .filter(concerns)
        .map(|one| format!("{}: write {}, read {}", one["exchange"], one["write"], one["read"]))
        .collect();
    if set.is_empty() {
        return Finding::new(CHECK, Verdict::Ok, "none set: every routing key may be used");
    }
    let facts: Vec<Value> = set.iter().map(|one| Value::from(one.as_str())).collect();
    Finding::new(CHECK, Verdict::Note, format!("routing keys are restricted: {}", set.join("; ")))
        .fact("set", facts)
        .advice("homing writes and binds [rpc].NAME, [broadcast] and the names of reply and task queues")
}

fn compare(report: &mut Report, management: &Management, vhost: &str, object: &Declared) -> Option<Fix> {
    let (kind, plural) = match object.kind {
        Kind::Exchange => ("exchange", "exchanges"),
        Kind::Queue => ("queue", "queues"),
    };
    let check = format!("{kind} {}", object.name);
    let path = format!("/api/{plural}/{vhost}/{}", segment(&object.name));
    let found = match management.get(&path) {
        Ok(Answer { status: 200, body }) => body,
        Ok(Answer { status: 404, .. }) => return None,
        Ok(Answer { status, .. }) => {
            let text = format!("the management API answers with status {status}");
            report.push(Finding::new(check, Verdict::Problem, text));
            return None;
        }
        Err(why) => {
            report.push(Finding::new(check, Verdict::Problem, why));
            return None;
        }
    };
    if object.kind == Kind::Queue {
        report.push(delivery_limit(&check, &found));
    }
    if let Some(exchange) = &object.bound_to {
        report.push(binding(&check, management, vhost, exchange, &object.name));
    }
    let differences = differences(object, &found);
    if differences.is_empty() {
        return None;
    }
    let all: Vec<Value> = differences.iter().map(|difference| Value::from(difference.as_str())).collect();
    let differences = differences.join("; ");
    let of_this = || report.findings().iter().filter(|finding| finding.check() == check);
    if of_this().any(|finding| finding.facts().get("equal") == Some(&Value::Bool(true))) {
        // The broker itself takes our declaration, as one does whose default type of queue is another.
        let text = format!("differs, and the broker does not mind: {differences}");
        report.push(Finding::new(check, Verdict::Note, text).fact("differences", all));
        return None;
    }
    // AMQP names the first one only; it is one problem all the same.
    let known = of_this().any(|finding| finding.verdict() == Verdict::Problem);
    let verdict = if known { Verdict::Note } else { Verdict::Problem };
    let text = format!("all that differs: {differences}");
    report.push(Finding::new(check, verdict, text).fact("differences", all));
    Some(Fix::of(management, object.kind, &object.name, &path, &found))
}

/// What the API shows of how long a delivery of this queue may stay unacknowledged.
fn delivery_limit(check: &str, found: &Json) -> Finding {
    let argument = found["arguments"]["x-consumer-timeout"].as_i64();
    let policy = found["effective_policy_definition"]["consumer-timeout"].as_i64();
    let (text, limit) = match (argument, policy) {
        (None, None) => ("no limit on deliveries by argument or policy: the broker's own holds".to_owned(), None),
        // The lower one counts.
        (argument, policy) => {
            let limit = argument.into_iter().chain(policy).min();
            let shown = limit.unwrap_or(0);
            (format!("a task may run {shown} ms, then its channel is closed (x-consumer-timeout, or a policy)"), limit)
        }
    };
    let verdict = if limit.is_some() { Verdict::Note } else { Verdict::Ok };
    Finding::new(check, verdict, text).fact("consumer_timeout_ms", limit.map_or(Value::Null, Value::from))
}

fn binding(check: &str, management: &Management, vhost: &str, exchange: &str, queue: &str) -> Finding {
    let path = format!("/api/bindings/{vhost}/e/{}/q/{}", segment(exchange), segment(queue));
    let bound = match management.get(&path) {
        Ok(Answer { status: 200, body }) => {
            body.as_array().is_some_and(|all| all.iter().any(|binding| binding["routing_key"] == queue))
        }
        Ok(Answer { status: 404, .. }) => false,
        Ok(Answer { status, .. }) => {
            return Finding::new(check, Verdict::Note, format!("its binding was not checked: status {status}"));
        }
        Err(why) => return Finding::new(check, Verdict::Problem, why),
    };
    let finding = if bound {
        Finding::new(check, Verdict::Ok, format!("bound to {exchange} by its name"))
    } else {
        let text = format!("not bound to {exchange} by its name; the first program that needs it binds it");
        Finding::new(check, Verdict::Note, text)
    };
    finding.fact("bound", bound)
}

/// What the server has otherwise than we declare it.
fn differences(object: &Declared, found: &Json) -> Vec<String> {
    let mut differences = Vec::new();
    let json = |value: &Value| serde_json::from_str::<Json>(&value.to_json_text()).unwrap_or(Json::Null);
    for (name, ours) in object.properties.iter() {
        let Some(name) = name.as_str() else { continue };
        let (ours, theirs) = (json(ours), &found[name]);
        if *theirs != ours {
            differences.push(format!("{name} is {theirs}, not {ours}"));
        }
    }
    let ours: Vec<(&str, Json)> =
        object.arguments.iter().filter_map(|(name, value)| Some((name.as_str()?, json(value)))).collect();
    let nothing = serde_json::Map::new();
    let theirs = found["arguments"].as_object().unwrap_or(&nothing);
    for (name, wanted) in &ours {
        match theirs.get(*name) {
            Some(has) if has == wanted => {}
            Some(has) => differences.push(format!("{name} is {has}, not {wanted}")),
            None => differences.push(format!("{name} is not set, and should be {wanted}")),
        }
    }
    for (name, has) in theirs {
        let classic = name == "x-queue-type" && has == "classic";
        if !classic && !ours.iter().any(|(own, _)| own == name) {
            differences.push(format!("{name} is {has}, and should not be set"));
        }
    }
    differences
}

/// An object to be deleted, so that it can be declared anew; or why not.
pub(super) struct Fix {
    what: String,
    /// What is asked of the API. The server itself checks the conditions in it.
    request: String,
    state: State,
}

enum State {
    Possible,
    Refused(String),
    Done,
    Failed(String),
}

impl Fix {
    fn of(management: &Management, kind: Kind, name: &str, path: &str, found: &Json) -> Self {
        let (what, condition, in_use) = match kind {
            Kind::Queue => (format!("the queue {name:?}"), "if-empty=true&if-unused=true", queue_in_use(found)),
            Kind::Exchange => (format!("the exchange {name:?}"), "if-unused=true", exchange_in_use(management, path)),
        };
        let state = match in_use {
            None => State::Possible,
            Some(why) => State::Refused(why),
        };
        Fix { what, request: format!("{path}?{condition}"), state }
    }

    pub(super) fn is_possible(&self) -> bool {
        matches!(self.state, State::Possible)
    }

    pub(super) fn carry_out(mut self, management: &Management) -> Self {
        if self.is_possible() {
            self.state = match management.delete(&self.request) {
                Ok(Answer { status: 200..=299, .. }) => State::Done,
                Ok(Answer { status, body }) => {
                    let said = body["reason"].as_str().unwrap_or("no reason given");
                    State::Failed(format!("status {status}, {said}"))
                }
                Err(why) => State::Failed(why),
            };
        }
        self
    }

    pub(super) fn to_value(&self) -> Value {
        let (state, why) = match &self.state {
            State::Possible => ("possible", None),
            State::Refused(why) => ("refused", Some(why)),
            State::Done => ("done", None),
            State::Failed(why) => ("failed", Some(why)),
        };
        let mut map = Map::new();
        map.insert("delete", self.what.as_str());
        map.insert("request", format!("DELETE {}", self.request));
        map.insert("state", state);
        map.insert("why", why.map_or(Value::Null, |why| Value::from(why.as_str())));
        Value::Map(map)
    }
}

impl fmt::Display for Fix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Fix { what, request, state } = self;
        match state {
            State::Possible => write!(
                f,
                "would delete {what}, so that the next who needs it declares it anew (DELETE {request}); do it with --yes"
            ),
            State::Refused(why) => write!(f, "would not delete {what}: {why}"),
            State::Done => write!(f, "deleted {what}; the next who needs it declares it anew"),
            State::Failed(why) => write!(f, "could not delete {what}: {why}"),
        }
    }
}

fn queue_in_use(found: &Json) -> Option<String> {
    // These numbers lag some seconds behind, and a new queue has none: the server checks again as it deletes.
    let of = |name: &str| found[name].as_u64().unwrap_or(0);
    match (of("messages"), of("consumers")) {
        (0, 0) => None,
        (messages, consumers) => Some(format!("it has {messages} messages and {consumers} consumers")),
    }
}

fn exchange_in_use(management: &Management, path: &str) -> Option<String> {
    match management.get(&format!("{path}/bindings/source")) {
        Ok(Answer { status: 200, body: Json::Array(bindings) }) if bindings.is_empty() => None,
        Ok(Answer { status: 200, body: Json::Array(bindings) }) => Some(format!("it has {} bindings", bindings.len())),
        Ok(Answer { status, .. }) => Some(format!("its bindings cannot be seen, status {status}")),
        Err(why) => Some(why),
    }
}
