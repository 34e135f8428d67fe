//! The checks of an inspection, each once and in the order in which a connection is made.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::declared::specs;
use super::report::{Finding, Report, Verdict};
use super::version::{DeliveryTimeout, delivery_timeout};
use crate::CommunicatorBuilder;
use crate::broker::rabbitmq::RabbitMq;
use crate::broker::rabbitmq::endpoint::{Endpoint, Transport};
use crate::broker::rabbitmq::errors::quoted;
use crate::broker::rabbitmq::inspect::{Depth, Object, look_up, tcp, tls};
use crate::broker::url::LocalPlace;
use crate::broker::{Body, Broker, BrokerEvent, Durability, Message, Origin, Properties, PublishId, Routing};
use crate::codec::Value;
use crate::error::{Detail, Difference, Error, ErrorKind, Limit, Result};

/// How long a publish may take to be confirmed before it counts as held up.
const CONFIRM: Duration = Duration::from_secs(2);
/// How long after a confirm the broker may report that it blocks publishers.
const BLOCK: Duration = Duration::from_millis(300);
/// A round trip that takes longer is reported: kiwipy's `task_send` waits for three of them.
const SLOW: Duration = Duration::from_millis(250);
/// Fewer channels than this are used up by a few task queues.
const FEW_CHANNELS: u16 = 16;

pub(super) async fn run(endpoint: &Endpoint, options: &CommunicatorBuilder) -> Report {
    let mut report = Report::default();
    let limit = endpoint.connect_timeout.unwrap_or(options.connect.connect_timeout);
    if transport(&mut report, endpoint, limit).await.is_ok() {
        amqp(&mut report, endpoint, options).await;
    }
    report
}

/// The broker of `local:`, where somebody hosts it.
#[cfg(all(unix, feature = "local"))]
pub(super) async fn local(place: &LocalPlace, options: &CommunicatorBuilder) -> Report {
    const CHECK: &str = "local broker";
    let mut report = Report::default();
    let seen = match crate::broker::rabbitmq::local::look(place).await {
        Ok(seen) => seen,
        Err(error) => {
            report.push(failed(CHECK, &error));
            return report;
        }
    };
    let shown = seen.directory.display().to_string();
    match seen.host {
        None => {
            report.idle = true;
            let text = format!(
                "no process hosts it at the moment, so nothing was checked; the next program that connects will host it, in {shown}"
            );
            report.push(Finding::new(CHECK, Verdict::Ok, text).fact("directory", shown).fact("hosted", false));
        }
        Some((endpoint, process)) => {
            let host = process.map_or_else(|| "a process".to_owned(), |process| format!("process {process}"));
            let finding = Finding::new(CHECK, Verdict::Ok, format!("{host} hosts it, in {shown}"));
            let finding = finding.fact("directory", shown).fact("hosted", true);
            report.push(finding.fact("process", process.map_or(Value::Null, |process| i64::from(process).into())));
            amqp(&mut report, &endpoint, options).await;
        }
    }
    report
}

#[cfg(not(all(unix, feature = "local")))]
#[expect(clippy::unused_async, reason = "as the other one")]
pub(super) async fn local(_: &LocalPlace, _: &CommunicatorBuilder) -> Report {
    let mut report = Report::default();
    let text = "this program was built without the feature `local`, or for a system that has no sockets with names";
    report.push(Finding::new("local broker", Verdict::Problem, text));
    report
}

/// What a connection shows.
async fn amqp(report: &mut Report, endpoint: &Endpoint, options: &CommunicatorBuilder) {
    let (events, mut heard) = mpsc::unbounded_channel();
    let broker = match RabbitMq::connect_to(endpoint, &options.connect, events).await {
        Ok(broker) => broker,
        Err(error) => {
            refused(report, endpoint, &error);
            return;
        }
    };
    report.connected = true;
    // Who may open the socket of a local broker may use it, and it reports the version of a RabbitMQ that it is like.
    if endpoint.socket.is_none() {
        let user = format!("user {:?}", endpoint.username);
        let finding = Finding::new("credentials", Verdict::Ok, format!("{user} may log in"));
        report.push(finding.fact("user", &*endpoint.username));
        let vhost = &*endpoint.vhost;
        let text = format!("{vhost:?}, and {user} may enter it");
        report.push(Finding::new("virtual host", Verdict::Ok, text).fact("virtual_host", vhost));
        let text = "two can be opened, one to publish and one to consume";
        report.push(Finding::new("connections", Verdict::Ok, text).fact("connections", 2_i64));
        server(report, &broker.server_properties());
    }
    handshake(report, &broker);
    round_trip(report, &broker).await;
    topology(report, &broker, options).await;
    // Last, since a connection that the broker blocks answers nothing more.
    if publishing(report, &broker, &mut heard).await == Publishes::Yes {
        routing_keys(report, &broker, options, &mut heard).await;
    }
    if let Err(error) = broker.close(super::FAREWELL).await {
        report.push(Finding::new("closing", Verdict::Note, error.to_string()));
    }
}

/// An error that a check ran into, as its finding.
fn failed(check: impl Into<String>, error: &Error) -> Finding {
    Finding::new(check, Verdict::Problem, error.to_string())
}

fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

/// Name, TCP and TLS, on a connection of their own without AMQP.
async fn transport(report: &mut Report, endpoint: &Endpoint, limit: Duration) -> Result<(), ()> {
    let since = Instant::now();
    match look_up(endpoint, limit).await {
        Err(error) => {
            report.push(failed("name", &error));
            return Err(());
        }
        Ok(_) if endpoint.host.parse::<IpAddr>().is_ok() => {}
        Ok(addresses) => {
            let took = millis(since.elapsed());
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let text = format!("{} is {}, looked up in {took} ms", endpoint.host, addresses.join(", "));
            let addresses: Vec<Value> = addresses.into_iter().map(Value::from).collect();
            report.push(Finding::new("name", Verdict::Ok, text).fact("addresses", addresses).fact("ms", took));
        }
    }
    let since = Instant::now();
    let (stream, peer) = match tcp(endpoint, limit).await {
        Ok(connected) => connected,
        Err(error) => {
            report.push(failed("tcp", &error).fact("address", endpoint.address()));
            return Err(());
        }
    };
    let took = millis(since.elapsed());
    let text = format!("{peer} accepted in {took} ms");
    report.push(Finding::new("tcp", Verdict::Ok, text).fact("address", peer.to_string()).fact("ms", took));
    if endpoint.transport == Transport::Plain {
        let finding = if peer.ip().is_loopback() {
            Finding::new("tls", Verdict::Ok, "not asked for, on this machine")
        } else {
            Finding::new("tls", Verdict::Note, "not used: the password and all bodies can be read on the network")
                .advice("use amqps://, if the broker has a port for it")
        };
        report.push(finding.fact("protocol", Value::Null));
        return Ok(());
    }
    let since = Instant::now();
    match tls(endpoint, stream, limit).await {
        Ok(protocol) => {
            let took = millis(since.elapsed());
            let name = endpoint.server_name.as_ref().unwrap_or(&endpoint.host);
            let shown = protocol.as_deref().unwrap_or("TLS").replace('_', ".");
            let text = format!("{shown}; the certificate is for {name}, by an authority that is trusted; in {took} ms");
            let finding = Finding::new("tls", Verdict::Ok, text).fact("ms", took);
            report.push(finding.fact("protocol", protocol.map_or(Value::Null, Value::from)));
            Ok(())
        }
        Err(error) => {
            let (why, advice) = tls_failure(&error.to_string());
            report.push(failed("tls", &error).fact("why", why).advice(advice));
            Err(())
        }
    }
}

/// The error of rustls, in short, and what to do.
fn tls_failure(text: &str) -> (&'static str, &'static str) {
    for (said, why, advice) in [
        (
            "UnknownIssuer",
            "unknown authority",
            "if it is your own authority, give its certificate by ?cacertfile=FILE in the URL; if not, somebody else may be \
             answering there",
        ),
        (
            "not valid for name",
            "another name",
            "use the host name that the certificate has, or give it by ?server_name_indication=NAME",
        ),
        ("certificate expired", "expired", "renew the server's certificate"),
        ("certificate not valid yet", "not valid yet", "check the clocks of both machines"),
        (
            "CertificateRequired",
            "a client certificate is wanted",
            "give yours by ?certfile=FILE&keyfile=FILE in the URL",
        ),
        ("InvalidContentType", "no TLS there", "use the port that speaks TLS (5671 by habit), or amqp://"),
        ("did not answer", "silence", "check that this is the port that speaks TLS (5671 by habit)"),
    ] {
        if text.contains(said) {
            return (why, advice);
        }
    }
    ("the handshake failed", "use the port that speaks TLS (5671 by habit), or amqp:// for one that does not")
}

/// TCP stood, AMQP did not.
fn refused(report: &mut Report, endpoint: &Endpoint, error: &Error) {
    report.refused = error.kind() == ErrorKind::AccessRefused;
    if error.detail() == &Detail::Limit(Limit::Connections) {
        report.push(
            failed("connections", error).advice("homing needs two connections: raise the limit, or close others"),
        );
    } else if error.kind() != ErrorKind::AccessRefused {
        report.push(failed("amqp", error));
    } else if error.detail() == &Detail::VirtualHost {
        let user = &*endpoint.username;
        report.push(Finding::new("credentials", Verdict::Ok, format!("user {user:?} may log in")).fact("user", user));
        report.push(failed("virtual host", error).fact("virtual_host", &*endpoint.vhost));
    } else {
        report.push(failed("credentials", error).fact("user", &*endpoint.username));
    }
}

fn server(report: &mut Report, properties: &[(String, String)]) {
    let of = |wanted: &str| properties.iter().find(|(name, _)| name == wanted).map_or("", |(_, text)| text.as_str());
    let (product, version) = (of("product"), of("version"));
    let known = product == "RabbitMQ";
    let text = match (product, version) {
        ("", _) => "it does not report its product".to_owned(),
        (product, version) => format!("{product} {version}"),
    };
    let mut finding = Finding::new("server", if known { Verdict::Ok } else { Verdict::Note }, text);
    if !known {
        finding = finding.advice("homing is tested with RabbitMQ only");
    }
    finding = finding.fact("product", product).fact("version", version).fact("cluster", of("cluster_name"));
    report.push(finding);
    if known {
        report.push(timeout_of_deliveries(version));
    }
}

fn timeout_of_deliveries(version: &str) -> Finding {
    const CHECK: &str = "delivery timeout";
    const ADVICE: &str = "the limit in force cannot be asked for by AMQP, nor by the management API: rabbitmqctl eval \
                          'application:get_env(rabbit, consumer_timeout).'; a policy consumer-timeout or a queue's argument \
                          x-consumer-timeout, which --management shows, goes before it";
    let fact = |finding: Finding, default: Value| finding.fact("default_minutes", default).fact("known", false);
    match delivery_timeout(version) {
        DeliveryTimeout::None => {
            let text = format!("RabbitMQ {version} has none for classic queues: a task may run as long as it likes");
            Finding::new(CHECK, Verdict::Ok, text).fact("default_minutes", Value::Null).fact("known", true)
        }
        DeliveryTimeout::Minutes(minutes) => {
            let text = format!(
                "by default RabbitMQ {version} closes the channel of a worker whose task runs longer than {minutes} minutes, \
                 and hands the task to the next one"
            );
            fact(Finding::new(CHECK, Verdict::Note, text).advice(ADVICE), i64::from(minutes).into())
        }
        DeliveryTimeout::Unknown => {
            let text = "the version cannot be read: there may be a limit on how long a task may run";
            fact(Finding::new(CHECK, Verdict::Note, text).advice(ADVICE), Value::Null)
        }
    }
}

fn handshake(report: &mut Report, broker: &RabbitMq) {
    let Some(agreed) = broker.negotiated() else { return };
    let seconds = agreed.heartbeat.as_secs();
    let finding = if seconds == 0 {
        Finding::new("heartbeat", Verdict::Note, "none: a connection that has died in silence is not noticed")
            .advice("give ?heartbeat=60 in the URL")
    } else {
        let text = format!("every {seconds} s: a dead connection is noticed after {} s", 2 * seconds);
        Finding::new("heartbeat", Verdict::Ok, text)
    };
    report.push(finding.fact("seconds", seconds));
    let (channels, frame) = (agreed.channel_max, agreed.frame_max);
    let text = format!("{channels} channels a connection, frames of {frame} bytes");
    let finding = if channels < FEW_CHANNELS {
        Finding::new("limits", Verdict::Note, text)
            .advice("raise channel_max: each task queue needs up to two channels")
    } else {
        Finding::new("limits", Verdict::Ok, text)
    };
    report.push(finding.fact("channel_max", i64::from(channels)).fact("frame_max", i64::from(frame)));
}

async fn round_trip(report: &mut Report, broker: &RabbitMq) {
    match broker.round_trip().await {
        Err(error) => report.push(failed("round trip", &error)),
        Ok(time) => {
            let text = format!("{} ms for a question that changes nothing", millis(time));
            let verdict = if time < SLOW { Verdict::Ok } else { Verdict::Note };
            report.push(Finding::new("round trip", verdict, text).fact("ms", millis(time)));
        }
    }
}

async fn topology(report: &mut Report, broker: &RabbitMq, options: &CommunicatorBuilder) {
    let (exchanges, queues) = specs(options);
    for spec in &exchanges {
        let check = format!("exchange {}", spec.name);
        let compared = broker.compare_exchange(spec).await;
        report.push(object(check, "exchange", &compared, |()| "topic, as homing declares it".to_owned()));
    }
    let quarantine = queues.len() - 1;
    for (n, spec) in queues.iter().enumerate() {
        let check = format!("queue {}", spec.name);
        let compared = broker.compare_queue(spec).await;
        let shown = |depth: &Depth| format!("{}, {}", waiting(depth.ready), count(depth.consumers, "consumer"));
        let mut finding = object(check.clone(), "queue", &compared, shown);
        if let Object::Same(depth) | Object::Differs(depth, _) = &compared {
            finding = finding.fact("ready", i64::from(depth.ready)).fact("consumers", i64::from(depth.consumers));
            let waiting = waiting(depth.ready);
            let extra = match (n == quarantine, depth.ready, depth.consumers) {
                (_, 0, _) => None,
                (true, ..) => Some((
                    format!("{waiting} here that no worker could read"),
                    format!("show them: homing task list --queue {} --peek", quoted(&spec.name)),
                )),
                (false, _, 0) => Some((
                    format!("{waiting}, and no worker takes any now: none is connected, or all are busy"),
                    "start a worker, or wait for those that are busy".to_owned(),
                )),
                _ => None,
            };
            report.push(finding);
            if let Some((text, advice)) = extra {
                report.push(Finding::new(check, Verdict::Note, text).advice(advice));
            }
        } else {
            report.push(finding);
        }
    }
}

fn waiting(messages: u32) -> String {
    format!("{} {}", count(messages, "message"), if messages == 1 { "waits" } else { "wait" })
}

fn count(number: u32, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn object<T>(check: String, kind: &str, compared: &Object<T>, shown: impl FnOnce(&T) -> String) -> Finding {
    match compared {
        Object::Absent => Finding::new(
            check,
            Verdict::Note,
            format!("not there yet; the first program that needs this {kind} declares it"),
        )
        .fact("present", false),
        Object::Same(found) => Finding::new(check, Verdict::Ok, shown(found)).fact("present", true).fact("equal", true),
        Object::Differs(_, error) => {
            let finding = match error.detail() {
                Detail::Differs(difference) => {
                    let Difference { argument, have, want, .. } = &**difference;
                    let text = format!("{argument} differs: the server has {have}, homing declares {want}");
                    let finding = Finding::new(check, Verdict::Problem, text);
                    finding.fact("argument", &**argument).fact("current", &**have).fact("wanted", &**want)
                }
                _ => failed(check, error),
            };
            let advice = format!(
                "what exists cannot be changed: use the settings of whoever declared it, or other names, or delete the {kind} \
                 when it is empty and unused (homing doctor --management URL --fix does that)"
            );
            finding.advice(advice).fact("present", true).fact("equal", false)
        }
        Object::Unknown(error) => match error.kind() {
            ErrorKind::PermissionDenied => {
                failed(check, error).advice("rabbitmqctl set_permissions gives the right to configure it")
            }
            _ => failed(check, error),
        },
    }
}

/// Whether the broker takes what is published.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Publishes {
    Yes,
    No,
}

/// Publishes to keys that no queue is bound by: an exchange may be open to a user, and a routing key not.
async fn routing_keys(
    report: &mut Report,
    broker: &RabbitMq,
    options: &CommunicatorBuilder,
    heard: &mut mpsc::UnboundedReceiver<BrokerEvent>,
) {
    let names = &options.names;
    let nobody = name_of_nobody();
    let keys = [(&names.message_exchange, format!("[rpc].{nobody}")), (&names.task_exchange, nobody)];
    for (id, (exchange, key)) in (1..).zip(keys) {
        let message = empty_message(exchange.clone(), &key);
        let outcome = async {
            if let Some(outcome) = broker.publish(PublishId(id), Rc::new(message)) {
                return outcome;
            }
            loop {
                match heard.recv().await {
                    Some(BrokerEvent::Published { id: known, outcome }) if known == PublishId(id) => return outcome,
                    Some(BrokerEvent::Lost { error }) => return Err(error),
                    Some(_) => {}
                    None => std::future::pending().await,
                }
            }
        };
        let check = format!("routing keys of {exchange}");
        match timeout(CONFIRM, outcome).await {
            Ok(Ok(())) => {
                let finding = Finding::new(check, Verdict::Ok, "may be written");
                report.push(finding.fact("key", key).fact("allowed", true));
            }
            // It is not there yet.
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {}
            Err(_) => {
                let text = format!("a message was not confirmed within {CONFIRM:?}");
                report.push(Finding::new(check, Verdict::Note, text).fact("key", key).fact("allowed", Value::Null));
            }
            Ok(Err(error)) => {
                let topic = matches!(error.detail(), Detail::Permission(permission) if permission.object == "topic");
                let advice = if topic {
                    "rabbitmqctl set_topic_permissions gives the right to write routing keys: [rpc].NAME and [broadcast], and \
                     the names of reply and task queues"
                } else {
                    "rabbitmqctl set_permissions gives the right to write to the exchange"
                };
                report.push(failed(check, &error).fact("key", key).fact("allowed", false).advice(advice));
            }
        }
    }
}

/// A name that nothing at the broker has.
fn name_of_nobody() -> String {
    format!("homing-doctor-{}", uuid::Uuid::new_v4())
}

/// A message that says nothing and is dropped where nobody takes it.
fn empty_message(exchange: Arc<str>, routing_key: &str) -> Message {
    Message {
        exchange,
        routing_key: routing_key.into(),
        properties: Properties::default(),
        body: Body::Encoded(Bytes::new()),
        routing: Routing::Optional,
        durability: Durability::Transient,
        origin: Origin::Sent,
    }
}

/// Publishes one message that no queue takes, since a broker in alarm blocks a connection only when it publishes.
async fn publishing(
    report: &mut Report,
    broker: &RabbitMq,
    heard: &mut mpsc::UnboundedReceiver<BrokerEvent>,
) -> Publishes {
    const CHECK: &str = "publishing";
    enum Outcome {
        Confirmed(Duration),
        Blocked(String),
    }
    // The default exchange routes by the queue's name, and no queue has this one.
    let message = empty_message("".into(), &name_of_nobody());
    let since = Instant::now();
    let confirmed = async {
        if let Some(outcome) = broker.publish(PublishId(0), Rc::new(message)) {
            outcome?;
        }
        let took = loop {
            match heard.recv().await {
                Some(BrokerEvent::Blocked { reason }) => return Ok(Outcome::Blocked(reason)),
                Some(BrokerEvent::Lost { error }) => return Err(error),
                Some(BrokerEvent::Published { outcome, .. }) => break outcome.map(|()| since.elapsed())?,
                Some(_) => {}
                None => std::future::pending().await,
            }
        };
        // Guards: a broker in alarm does both, each by a process of its own, and the confirm may come first. It is the block
        // that counts.
        let blocked = async {
            loop {
                match heard.recv().await {
                    Some(BrokerEvent::Blocked { reason }) => return Ok(Outcome::Blocked(reason)),
                    Some(BrokerEvent::Lost { error }) => return Err(error),
                    Some(_) => {}
                    None => std::future::pending().await,
                }
            }
        };
        timeout(BLOCK, blocked).await.unwrap_or(Ok(Outcome::Confirmed(took)))
    };
    let advice =
        "the broker is short of memory or disk: rabbitmq-diagnostics check_local_alarms; publishers wait until then";
    let outcome = timeout(CONFIRM, confirmed).await;
    let publishes = match &outcome {
        Ok(Ok(Outcome::Confirmed(_))) => Publishes::Yes,
        Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => Publishes::Yes,
        _ => Publishes::No,
    };
    report.push(match outcome {
        Ok(Ok(Outcome::Confirmed(took))) => {
            let took = millis(took);
            let text = format!("not blocked; a message to nobody was confirmed in {took} ms");
            Finding::new(CHECK, Verdict::Ok, text).fact("blocked", false).fact("ms", took)
        }
        Ok(Ok(Outcome::Blocked(reason))) => {
            let text = format!("the broker blocks publishers: {reason}");
            Finding::new(CHECK, Verdict::Problem, text).fact("blocked", true).advice(advice)
        }
        Ok(Err(error)) if error.kind() == ErrorKind::PermissionDenied => {
            let text =
                "not checked: this user may not publish to the default exchange, which homing needs for quarantine";
            Finding::new(CHECK, Verdict::Note, text).fact("blocked", Value::Null)
        }
        Ok(Err(error)) => failed(CHECK, &error).fact("blocked", Value::Null),
        Err(_) => {
            let text = format!("a message was not confirmed within {CONFIRM:?}, and the broker gives no reason");
            Finding::new(CHECK, Verdict::Problem, text).fact("blocked", Value::Null).advice(advice)
        }
    });
    publishes
}
