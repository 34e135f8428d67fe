//! A bare lapin program that does the same work with the same topology, written to win: pipelined publishes with confirms,
//! `Channel::basic_ack`, two connections as homing has, bodies by `serde_json`, nothing else.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use futures_util::stream::{FuturesUnordered, StreamExt};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer, ExchangeKind};
use serde_json::{Value as Json, json};
use tokio::sync::oneshot;

use crate::{Meter, Work, say};

/// The three that were tried; what gains no more is left at that.
#[derive(Clone, Copy)]
pub(crate) enum Variant {
    /// At most so many publishes under way.
    Window(usize),
    /// As many as the work has.
    Full,
}

type Waiting = Arc<Mutex<HashMap<String, oneshot::Sender<Json>>>>;

struct Bare {
    publish: Channel,
    consume: Channel,
    exchange: ShortString,
    tasks: ShortString,
    queue: ShortString,
    replies: ShortString,
    waiting: Waiting,
    connections: [Connection; 2],
}

pub(crate) fn run(url: &str, prefix: &str, seconds: f64, is_server: bool, variant: Variant) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(tokio::task::LocalSet::new().run_until(async {
        let bare = Bare::connect(url, prefix, is_server).await.expect("a broker");
        if is_server {
            bare.serve().await.expect("a server");
            tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new())).await.ok();
        } else {
            let bare = Arc::new(bare);
            for work in crate::works() {
                let measured = match work {
                    // Where it would do nothing of its own, or homing does more.
                    Work::FanOut(_) | Work::Subscribers1000 => continue,
                    Work::FirstAnswer | Work::Close => connections(url, prefix, work, seconds).await,
                    _ => client(&bare, work, seconds, variant).await,
                };
                say(work, &measured);
            }
        }
    }));
    // lapin's threads go with the process.
}

impl Bare {
    async fn connect(url: &str, prefix: &str, is_server: bool) -> lapin::Result<Self> {
        // lapin reads a URL that ends with a slash as one of a virtual host without a name.
        let url = format!("{}/%2f", url.trim_end_matches('/'));
        let one = Connection::connect(&url, ConnectionProperties::default()).await?;
        let other = Connection::connect(&url, ConnectionProperties::default()).await?;
        let (publish, consume) = (one.create_channel().await?, other.create_channel().await?);
        publish.confirm_select(ConfirmSelectOptions::default()).await?;
        let name = |text: String| ShortString::from(text);
        let (exchange, tasks) = (name(format!("{prefix}.messages")), name(format!("{prefix}.tasks")));
        for exchange in [&exchange, &tasks] {
            let options = ExchangeDeclareOptions { auto_delete: true, ..ExchangeDeclareOptions::default() };
            consume.exchange_declare(exchange.clone(), ExchangeKind::Topic, options, FieldTable::default()).await?;
        }
        let queue = name(format!("{prefix}.process.queue"));
        if is_server {
            consume
                .queue_declare(
                    queue.clone(),
                    QueueDeclareOptions { durable: true, ..Default::default() },
                    FieldTable::default(),
                )
                .await?;
            consume
                .queue_bind(
                    queue.clone(),
                    tasks.clone(),
                    queue.clone(),
                    QueueBindOptions::default(),
                    FieldTable::default(),
                )
                .await?;
        }
        let replies = name(format!("{prefix}-reply-{}", uuid::Uuid::new_v4()));
        let waiting = Waiting::default();
        if !is_server {
            let own = QueueDeclareOptions { exclusive: true, ..Default::default() };
            consume.queue_declare(replies.clone(), own, FieldTable::default()).await?;
            for exchange in [&exchange, &tasks] {
                consume
                    .queue_bind(
                        replies.clone(),
                        exchange.clone(),
                        replies.clone(),
                        QueueBindOptions::default(),
                        FieldTable::default(),
                    )
                    .await?;
            }
            let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
            let consumer =
                consume.basic_consume(replies.clone(), "replies".into(), options, FieldTable::default()).await?;
            tokio::task::spawn_local(hear(consumer, Arc::clone(&waiting)));
        }
        Ok(Bare { publish, consume, exchange, tasks, queue, replies, waiting, connections: [one, other] })
    }

    async fn serve(&self) -> lapin::Result<()> {
        let calls = ShortString::from(format!("calls-{}", uuid::Uuid::new_v4()));
        let own = QueueDeclareOptions { exclusive: true, ..Default::default() };
        self.consume.queue_declare(calls.clone(), own, FieldTable::default()).await?;
        self.consume
            .queue_bind(
                calls.clone(),
                self.exchange.clone(),
                "[rpc].bench".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
        self.consume.basic_qos(1000, BasicQosOptions::default()).await?;
        for (queue, exchange) in [(calls, &self.exchange), (self.queue.clone(), &self.tasks)] {
            let consumer = self
                .consume
                .basic_consume(queue.clone(), queue, BasicConsumeOptions::default(), FieldTable::default())
                .await?;
            tokio::task::spawn_local(answer(consumer, self.consume.clone(), self.publish.clone(), exchange.clone()));
        }
        println!("ready");
        Ok(())
    }

    /// Publishes and waits for the confirm.
    async fn send(
        &self,
        exchange: &ShortString,
        key: &ShortString,
        correlation: Option<&str>,
        durable: bool,
        body: &Json,
    ) {
        let body = serde_json::to_vec(body).expect("JSON");
        let mut properties = BasicProperties::default()
            .with_message_id(uuid::Uuid::new_v4().simple().to_string().into())
            .with_delivery_mode(if durable { 2 } else { 1 });
        if let Some(correlation) = correlation {
            properties = properties.with_correlation_id(correlation.into()).with_reply_to(self.replies.clone());
        }
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = self.publish.basic_publish(exchange.clone(), key.clone(), options, &body, properties).await;
        confirm.expect("written").await.expect("confirmed");
    }

    async fn ask(&self, exchange: &ShortString, key: &ShortString, durable: bool, body: &Json) {
        let correlation = uuid::Uuid::new_v4().to_string();
        let (done, reply) = oneshot::channel();
        self.waiting.lock().expect("no panic").insert(correlation.clone(), done);
        self.send(exchange, key, Some(&correlation), durable, body).await;
        let _ = reply.await;
    }
}

async fn hear(mut consumer: Consumer, waiting: Waiting) {
    while let Some(Ok(delivery)) = consumer.next().await {
        let id = delivery.properties.correlation_id().as_ref().map(|id| id.as_str().to_owned());
        let done = id.and_then(|id| waiting.lock().expect("no panic").remove(&id));
        if let Some(done) = done {
            let _ = done.send(serde_json::from_slice(&delivery.data).expect("JSON"));
        }
    }
}

async fn answer(mut consumer: Consumer, consume: Channel, publish: Channel, exchange: ShortString) {
    while let Some(Ok(delivery)) = consumer.next().await {
        let body: Json = serde_json::from_slice(&delivery.data).expect("JSON");
        let (Some(key), Some(id)) =
            (delivery.properties.reply_to().clone(), delivery.properties.correlation_id().clone())
        else {
            let _ = consume.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await;
            continue;
        };
        let _ = consume.basic_ack(delivery.delivery_tag, BasicAckOptions::default()).await;
        let (publish, exchange) = (publish.clone(), exchange.clone());
        tokio::task::spawn_local(async move {
            let body = serde_json::to_vec(&json!({"state": "result", "result": body})).expect("JSON");
            let properties = BasicProperties::default().with_correlation_id(id);
            let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
            if let Ok(confirm) = publish.basic_publish(exchange, key, options, &body, properties).await {
                let _ = confirm.await;
            }
        });
    }
}

fn small() -> Json {
    json!({"intent": "status", "message": null})
}

/// Connects, asks once and closes, again and again.
async fn connections(url: &str, prefix: &str, work: Work, seconds: f64) -> crate::Measured {
    let mut meter = Meter::new(seconds);
    while meter.goes_on() {
        let begun = Instant::now();
        let bare = Bare::connect(url, prefix, false).await.expect("a broker");
        bare.ask(&bare.exchange, &"[rpc].bench".into(), false, &small()).await;
        let answered = Instant::now();
        for connection in &bare.connections {
            connection.close(200, "done".into()).await.expect("a close");
        }
        meter.done(if work == Work::Close { answered.elapsed() } else { answered - begun });
    }
    meter.end()
}

async fn client(bare: &Arc<Bare>, work: Work, seconds: f64, variant: Variant) -> crate::Measured {
    let window = match variant {
        Variant::Window(most) => work.window().min(most),
        Variant::Full => work.window(),
    };
    let idle = ShortString::from(format!("idle-{}", uuid::Uuid::new_v4()));
    if work == Work::TaskPublish {
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        bare.consume.queue_declare(idle.clone(), durable, FieldTable::default()).await.expect("a queue");
        bare.consume
            .queue_bind(
                idle.clone(),
                bare.tasks.clone(),
                idle.clone(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .expect("a binding");
    }
    let body = match work {
        Work::Body(size) => Json::from("x".repeat(size)),
        _ => small(),
    };
    let one = || {
        let (bare, idle, body) = (Arc::clone(bare), idle.clone(), &body);
        async move {
            let begun = Instant::now();
            match work {
                Work::TaskPublish => bare.send(&bare.tasks, &idle, None, true, body).await,
                Work::TaskRoundTrip => bare.ask(&bare.tasks, &bare.queue, true, body).await,
                Work::Broadcast => bare.send(&bare.exchange, &"broadcast.bench".into(), None, false, body).await,
                _ => bare.ask(&bare.exchange, &"[rpc].bench".into(), false, body).await,
            }
            begun.elapsed()
        }
    };
    let mut meter = Meter::new(seconds);
    let mut under_way = FuturesUnordered::new();
    for _ in 0..window {
        under_way.push(one());
    }
    while let Some(took) = under_way.next().await {
        meter.done(took);
        if meter.goes_on() {
            under_way.push(one());
        }
    }
    meter.end()
}
