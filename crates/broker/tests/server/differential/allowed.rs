//! What may differ between the brokers, each by its name: a row of the table in docs/broker.md, by its first cell.

use super::client::Events;
use super::program::{Action, Program};
use std::collections::BTreeSet;

/// How two observations of one step compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// They differ as this row of the table says. What follows cannot be compared any more.
    Allowed(&'static str),
    Different,
}

pub const QUORUM_DELETE: &str = "`if-unused`, `if-empty` of a quorum queue";
pub const QUORUM_EXCLUSIVE: &str = "an exclusive consumer of a quorum queue";
pub const QUORUM_ORDER: &str = "where a message lies that comes back to a quorum queue, or is dead-lettered to one";
pub const BACK_AT_ONCE: &str = "what several consumers of a channel give back at once";
pub const QUORUM_LENGTH: &str = "`x-max-length` of a quorum queue";
pub const QUORUM_EXPIRY: &str = "messages of a quorum queue whose time is over";
pub const GOT_COUNTS: &str = "`basic.qos` with `global` while messages from gets are out";
pub const QUORUM_QOS: &str = "`basic.qos` with `global` and a quorum queue";
pub const PRIORITY_EXPIRY: &str = "a message whose time is over as it comes to the head of a queue with priorities";
/// The client of these tests leaves this count out.
pub const QUORUM_CONSUMERS: &str = "consumers of a quorum queue in `declare-ok`";
/// The client of these tests waits for each commit.
pub const PIPELINED_COMMIT: &str = "methods behind a `tx.commit` that was not answered";

/// All rows that are allowed for here.
pub const ROWS: [&str; 11] = [
    BACK_AT_ONCE,
    PRIORITY_EXPIRY,
    QUORUM_LENGTH,
    QUORUM_EXPIRY,
    QUORUM_DELETE,
    QUORUM_EXCLUSIVE,
    QUORUM_ORDER,
    QUORUM_CONSUMERS,
    QUORUM_QOS,
    GOT_COUNTS,
    PIPELINED_COMMIT,
];

/// Compares what was observed in a step. `may_differ` are the rows that the program has brought into play.
pub fn compare(
    program: &Program,
    action: Option<&Action>,
    may_differ: &BTreeSet<&'static str>,
    there: &Events,
    here: &Events,
) -> Verdict {
    if there == here {
        return Verdict::Same;
    }
    let has = |events: &Events, source: &str, text: &str| {
        events.iter().any(|(from, events)| from.starts_with(source) && events.iter().any(|event| event.contains(text)))
    };
    let is_quorum = |name: &str| program.is_quorum(name) || name.is_empty();
    match action {
        Some(Action::DeleteQueue { name, .. })
            if is_quorum(name) && has(there, "connection", "flag set are not supported by quorum queues") =>
        {
            return Verdict::Allowed(QUORUM_DELETE);
        }
        Some(Action::Consume(consume))
            if is_quorum(&consume.queue)
                && has(there, "channel", "consumes as")
                && has(here, "channel", "in exclusive use") =>
        {
            return Verdict::Allowed(QUORUM_EXCLUSIVE);
        }
        Some(Action::Consume(consume))
            if is_quorum(&consume.queue) && has(there, "connection", "does not support global qos") =>
        {
            return Verdict::Allowed(QUORUM_QOS);
        }
        _ => {}
    }
    if may_differ.contains(QUORUM_ORDER) && without_order(there) == without_order(here) {
        return Verdict::Allowed(QUORUM_ORDER);
    }
    for row in [QUORUM_LENGTH, QUORUM_EXPIRY, QUORUM_QOS] {
        if may_differ.contains(row) && only_quorum_queues_differ(program, action, there, here) {
            return Verdict::Allowed(row);
        }
    }
    if may_differ.contains(BACK_AT_ONCE) && without_consumers(there) == without_consumers(here) {
        return Verdict::Allowed(BACK_AT_ONCE);
    }
    if may_differ.contains(GOT_COUNTS) && has_fewer_deliveries(there, here) {
        return Verdict::Allowed(GOT_COUNTS);
    }
    if may_differ.contains(PRIORITY_EXPIRY) && has_more_that_expires(there, here) {
        return Verdict::Allowed(PRIORITY_EXPIRY);
    }
    Verdict::Different
}

/// Deliveries by what was delivered, and not by the consumer that got it.
fn without_consumers(events: &Events) -> Events {
    let mut all = Events::new();
    for (source, events) in events {
        let source = source.split_once(" consumer ").map_or(&**source, |_| "consumers");
        all.entry(source.to_owned()).or_default().extend(events.iter().cloned());
    }
    all.get_mut("consumers").into_iter().for_each(|events| events.sort());
    all
}

/// Whether all that differs is about quorum queues: their counts, what is in them, what comes from them and whether they took it.
fn only_quorum_queues_differ(program: &Program, action: Option<&Action>, there: &Events, here: &Events) -> bool {
    let sources: BTreeSet<_> =
        there.keys().chain(here.keys()).filter(|source| there.get(*source) != here.get(*source)).collect();
    sources.into_iter().all(|source| {
        let (kind, name) = source.rsplit_once(' ').unwrap_or((source, ""));
        match (kind, action) {
            (kind, _) if kind.contains("queue") => program.is_quorum(name),
            (kind, _) if kind.ends_with("consumer") => program.is_quorum(program.queue_of(name)),
            (_, _) if name == "confirms" => true,
            (_, Some(Action::Get { queue, .. })) => program.is_quorum(queue) || queue.is_empty(),
            _ => false,
        }
    })
}

/// Whether the one has a message with an expiration that the other does not have, or counts more messages.
fn has_more_that_expires(more: &Events, fewer: &Events) -> bool {
    more.iter().any(|(source, events)| {
        let others = fewer.get(source).map_or(&[][..], |events| &events[..]);
        events.iter().any(|event| {
            let count = |event: &str| event.split("messages=").nth(1)?.split(' ').next()?.parse::<u32>().ok();
            let is_more = count(event) > others.first().and_then(|other| count(other));
            (event.contains("expiration=") || is_more) && !others.contains(event)
        })
    })
}

/// Which messages came is left, and not where they lay: of each only whether it came at all.
fn without_order(events: &Events) -> Events {
    let moves =
        |source: &str| source.contains(" consumer ") || source.starts_with("in queue") || source.starts_with("channel");
    events
        .iter()
        .map(|(source, events)| {
            let mut events: Vec<_> = events
                .iter()
                .map(|event| match event.split_once(" exchange=") {
                    Some((kind, _)) if moves(source) => kind.to_owned(),
                    _ => event.clone(),
                })
                .collect();
            events.sort();
            (source.clone(), events)
        })
        .collect()
}

/// Whether the one has the other's events but for deliveries to consumers, and for the counts that follow from those.
fn has_fewer_deliveries(fewer: &Events, more: &Events) -> bool {
    let is_less = |source: &str, of: &Events| {
        let count = |events: &Events| events.get(source).map_or(0, Vec::len);
        source.contains(" consumer ") && count(of) <= count(more)
    };
    let sources: BTreeSet<_> = fewer.keys().chain(more.keys()).collect();
    sources
        .into_iter()
        .all(|source| fewer.get(source) == more.get(source) || is_less(source, fewer) || source.starts_with("queue "))
}
