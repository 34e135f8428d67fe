//! The same numbers in Prometheus's text format, by the names that RabbitMQ's plugin has.

use super::rows::{QueueRow, Totals};
use crate::engine::Counts;
use std::fmt::Write;

/// What is the same in both forms.
const KINDS: [(&str, &str, &str); 6] = [
    ("queue_messages_ready", "gauge", "Messages that wait to be delivered"),
    ("queue_messages_unacked", "gauge", "Messages that are delivered and not acknowledged"),
    ("queue_consumers", "gauge", "Consumers of queues"),
    ("queue_messages_published_total", "counter", "Messages that came into queues"),
    ("channel_messages_delivered_total", "counter", "Messages that were delivered or got"),
    ("channel_messages_acked_total", "counter", "Messages that were acknowledged"),
];

fn values(waiting: usize, out: usize, consumers: usize, counts: &Counts) -> [u64; 6] {
    let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
    let sizes = [waiting, out, consumers].map(number);
    [sizes[0], sizes[1], sizes[2], counts.published, counts.delivered, counts.acknowledged]
}

fn head(text: &mut String, name: &str, kind: &str, help: &str) {
    // Writing to a string cannot fail.
    _ = writeln!(text, "# TYPE rabbitmq_{name} {kind}\n# HELP rabbitmq_{name} {help}");
}

/// The server as a whole.
pub(super) fn all(totals: &Totals) -> String {
    let mut text = String::new();
    let gauges = [
        ("connections", totals.connections, "Open connections"),
        ("channels", totals.channels, "Open channels"),
        ("consumers", totals.consumers, "Consumers"),
        ("queues", totals.queues, "Queues"),
        ("exchanges", totals.exchanges, "Exchanges"),
        ("alarms_publishers_blocked", usize::from(totals.alarm.is_some()), "1 while publishers are stopped"),
    ];
    for (name, value, help) in gauges {
        head(&mut text, name, "gauge", help);
        _ = writeln!(text, "rabbitmq_{name} {value}");
    }
    let values = values(totals.waiting, totals.out, totals.consumers, &totals.counts);
    for ((name, kind, help), value) in KINDS.iter().zip(values) {
        head(&mut text, name, kind, help);
        _ = writeln!(text, "rabbitmq_{name} {value}");
    }
    text
}

/// Each queue by itself.
pub(super) fn each(rows: &[QueueRow]) -> String {
    let mut text = String::new();
    for (index, (name, kind, help)) in KINDS.iter().enumerate() {
        head(&mut text, name, kind, help);
        for row in rows {
            let value = values(row.waiting, row.out, row.consumers, &row.counts)[index];
            let (host, queue) = (escaped(&row.host), escaped(&row.spec.name));
            _ = writeln!(text, "rabbitmq_{name}{{vhost=\"{host}\",queue=\"{queue}\"}} {value}");
        }
    }
    text
}

/// A label's value: any text, on one line.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::QueueSpec;

    #[test]
    fn names_cannot_break_the_format() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
        let row = QueueRow {
            host: "v\"h".into(),
            spec: QueueSpec::new("q\\\n"),
            owner: None,
            waiting: 2,
            out: 0,
            waiting_bytes: 0,
            out_bytes: 0,
            consumers: 0,
            counts: Counts::default(),
        };
        let text = each(&[row]);
        let line = "\nrabbitmq_queue_messages_ready{vhost=\"v\\\"h\",queue=\"q\\\\\\n\"} 2\n";
        assert!(text.contains(line), "{text}");
        let text = all(&Totals { waiting: 3, ..Totals::default() });
        assert!(text.contains("\nrabbitmq_queue_messages_ready 3\n"), "{text}");
    }
}
