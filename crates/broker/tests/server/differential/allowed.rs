//! What may differ between the brokers, each by its name: a row of the table in docs/broker.md, by its first cell.

use super::client::Events;
use super::program::{Action, Field, PLACES, Program, Step};
use std::collections::BTreeSet;

/// How two observations of one step compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Same,
    /// They differ as this row of the table says. What follows cannot be compared any more.
    Allowed(&'static str),
    /// It has short times to live, and was so slow that they were over too early.
    TooSlow,
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
pub const NEXT_ACTIVE: &str = "the next single active consumer";
pub const SETTLED_COUNTS: &str = "`basic.qos` with `global` while what was settled waits for `tx.commit`";
pub const LAST_WORDS: &str = "what a channel has in hand whose error ends the connection";
pub const DEAD_LETTER_ORDER: &str = "a dead letter, and what is published to the same queue at about that time";
pub const ROUTED_AT_COMMIT: &str = "exchanges and bindings that change before the commit of what was published";
pub const SHARED_LIMIT: &str = "whose turn it is where consumers share a channel's limit";
/// The client of these tests leaves this count out.
pub const QUORUM_CONSUMERS: &str = "consumers of a quorum queue in `declare-ok`";
/// The client of these tests waits for each commit.
pub const PIPELINED_COMMIT: &str = "methods behind a `tx.commit` that was not answered";

/// All rows that are allowed for here.
pub const ROWS: [&str; 17] = [
    ROUTED_AT_COMMIT,
    SHARED_LIMIT,
    BACK_AT_ONCE,
    NEXT_ACTIVE,
    SETTLED_COUNTS,
    LAST_WORDS,
    DEAD_LETTER_ORDER,
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

/// What differs from RabbitMQ 4 alone, by the rows of its table.
pub const EXCHANGE_TYPE: &str = "an unknown type of exchange";
pub const QUORUM_TYPE: &str = "a quorum queue that is declared again without its type";
pub const LOCATOR: &str = "`x-queue-leader-locator` that there is not, for a classic queue";
/// The client of these tests leaves these out.
pub const LAST_DEATH: &str = "dead letters";
pub const FIRST_GET: &str = "the first get of a message from a quorum queue";
pub const DEAD_LETTER_KEYS: &str = "the header `CC` of a dead letter that has a key of its own";
pub const COMMIT_TO_GONE: &str = "a commit of what was published to a queue that has gone since";
pub const QUORUM_PRIORITY: &str = "priorities of messages in a quorum queue";
pub const PLUS: &str = "an `expiration` with a sign";
pub const FOUR_ROWS: [&str; 9] = [
    PLUS,
    QUORUM_PRIORITY,
    COMMIT_TO_GONE,
    EXCHANGE_TYPE,
    QUORUM_TYPE,
    LOCATOR,
    LAST_DEATH,
    FIRST_GET,
    DEAD_LETTER_KEYS,
];

/// A text without what RabbitMQ 4 has besides, or leaves out.
pub fn as_beside_four(mut text: String) -> String {
    // LAST_DEATH
    while let Some(at) = text.find(", x-last-death-") {
        let ends: Vec<_> = text[at..].match_indices('"').map(|(end, _)| at + end).take(2).collect();
        let [_, end] = ends[..] else { break };
        text.replace_range(at..=end, "");
    }
    // DEAD_LETTER_KEYS
    if let Some(at) = text.find("CC: [").filter(|_| text.contains("x-death: "))
        && let Some(end) = text[at..].find("], ")
    {
        text.replace_range(at..at + end + 3, "");
    }
    // PLUS
    text = text.replacen("expiration=\"+", "expiration=\"", 1);
    // FIRST_GET
    if text.starts_with("got ") {
        for count in ["x-delivery-count: I64(0), ", ", x-delivery-count: I64(0)"] {
            text = text.replacen(count, "", 1);
        }
        text = text.replacen(" headers={x-delivery-count: I64(0)}", "", 1);
        text = text.replacen(" headers={}", "", 1);
        text.truncate(text.trim_end().len());
    }
    text
}

/// What differs from RabbitMQ 4 alone.
fn compare_with_four(action: &Action, there: &Events, here: &Events) -> Option<&'static str> {
    let text = |events: &Events| events.values().flatten().cloned().collect::<Vec<_>>().join(" ");
    let (there, here) = (text(there), text(here));
    match action {
        Action::DeclareExchange(_) if there.starts_with("closed 406 ") && here.starts_with("closed 503 ") => {
            Some(EXCHANGE_TYPE)
        }
        Action::TxCommit if there.contains("partial tx completion") && here.contains("CommitOk") => {
            Some(COMMIT_TO_GONE)
        }
        Action::DeclareQueue(_) if there.starts_with("closed 406 ") && here.starts_with("closed 406 ") => {
            let both = |text: &str| there.contains(text) && here.contains(text);
            if both("inequivalent arg 'x-queue-type'") {
                Some(QUORUM_TYPE)
            } else if both("x-queue-leader-locator") || both("queue_locator") {
                Some(LOCATOR)
            } else {
                None
            }
        }
        _ => None,
    }
}

/// Compares what was observed in a step. `may_differ` are the rows that the program has brought into play.
pub fn compare(
    program: &Program,
    step: Option<&Step>,
    beside_four: bool,
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
    let action = step.map(|step| &step.action);
    let is_urgent = |action: &Action| matches!(action, Action::Publish(publish) if publish.priority > Some(4));
    if beside_four
        && program.steps.iter().any(|step| is_urgent(&step.action))
        && only_quorum_queues_differ(program, action, there, here)
        && without_order(there) == without_order(here)
    {
        return Verdict::Allowed(QUORUM_PRIORITY);
    }
    if beside_four && let Some(row) = action.and_then(|action| compare_with_four(action, there, here)) {
        return Verdict::Allowed(row);
    }
    match action {
        Some(Action::Cancel { .. }) if only_waiting_actives_differ(program, there, here) => {
            return Verdict::Allowed(NEXT_ACTIVE);
        }
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
    if may_differ.contains(BACK_AT_ONCE)
        && (without_consumers(there) == without_consumers(here) || has_fewer_since_too_long(program, there, here))
    {
        return Verdict::Allowed(BACK_AT_ONCE);
    }
    if may_differ.contains(GOT_COUNTS) && limited_have_fewer(program, there, here) {
        return Verdict::Allowed(GOT_COUNTS);
    }
    if may_differ.contains(SETTLED_COUNTS) && limited_have_fewer(program, here, there) {
        return Verdict::Allowed(SETTLED_COUNTS);
    }
    if may_differ.contains(ROUTED_AT_COMMIT) && only_routes_differ(there, here) {
        return Verdict::Allowed(ROUTED_AT_COMMIT);
    }
    if only_turns_differ(program, there, here) {
        return Verdict::Allowed(SHARED_LIMIT);
    }
    if step.is_some_and(|step| only_last_words_differ(step, there, here)) {
        return Verdict::Allowed(LAST_WORDS);
    }
    if program.has_argument("x-dead-letter") && only_places_of_dead_letters_differ(there, here) {
        return Verdict::Allowed(DEAD_LETTER_ORDER);
    }
    if may_differ.contains(PRIORITY_EXPIRY) && (has_more_that_expires(there, here) || has_expired(here, there)) {
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
    different(there, here).into_iter().all(|(source, there, here)| {
        let (kind, name) = source.rsplit_once(' ').unwrap_or((source, ""));
        match (kind, action) {
            (kind, _) if kind.contains("queue") => program.is_quorum(name),
            (kind, _) if kind.ends_with("consumer") => program.is_quorum(program.queue_of(name)),
            (_, _) if name == "confirms" => true,
            (_, Some(Action::Get { queue, .. })) => program.is_quorum(queue) || queue.is_empty(),
            ("channel", Some(Action::DeclareQueue(declare))) => {
                let is_count =
                    |events: &[String]| !events.is_empty() && events.iter().all(|event| event.starts_with("declared "));
                program.is_quorum(&declare.name) && is_count(there) && is_count(here)
            }
            _ => false,
        }
    })
}

/// Whether the one has a message with an expiration that the other does not have, or counts more messages.
fn has_more_that_expires(more: &Events, fewer: &Events) -> bool {
    let count = |event: &str| event.split("messages=").nth(1)?.split(' ').next()?.parse::<u32>().ok();
    has_besides(more, fewer, |event, others| {
        event.contains("expiration=") || count(event) > others.first().and_then(|other| count(other))
    })
}

/// Whether the one has a dead letter by expiry that the other does not have.
fn has_expired(one: &Events, other: &Events) -> bool {
    has_besides(one, other, |event, _| event.contains("reason: \"expired\""))
}

/// Whether the one has such an event that the other does not have. It is looked at with what the other has from there.
fn has_besides(one: &Events, other: &Events, is_such: impl Fn(&str, &[String]) -> bool) -> bool {
    different(one, other)
        .into_iter()
        .any(|(_, events, others)| events.iter().any(|event| !others.contains(event) && is_such(event, others)))
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

/// The sources of which not the same came, each with what came there and here.
fn different<'a>(there: &'a Events, here: &'a Events) -> Vec<(&'a str, &'a [String], &'a [String])> {
    let of = |events: &'a Events, source: &str| events.get(source).map_or(&[][..], |events| &events[..]);
    let sources: BTreeSet<_> = there.keys().chain(here.keys()).collect();
    let all = sources.into_iter().map(|source| (&**source, of(there, source), of(here, source)));
    all.filter(|(_, there, here)| there != here).collect()
}

/// The place and the tag of the consumer that a source is.
fn consumer(source: &str) -> Option<(usize, &str)> {
    let (place, tag) = source.strip_prefix("channel ")?.split_once(" consumer ")?;
    Some((place.parse().ok()?, tag))
}

/// Whether a channel has a limit of its own at some time.
fn is_limited(program: &Program, place: usize) -> bool {
    let limits = |action: &Action| matches!(action, Action::Qos { count: 1.., global: true });
    program.steps.iter().any(|step| step.place == place && limits(&step.action))
}

fn is_count(source: &str) -> bool {
    source.starts_with("queue ")
}

/// Whether all of the first is in the second, in its order.
fn is_part<'a>(part: impl IntoIterator<Item = &'a String>, whole: &[String]) -> bool {
    let mut whole = whole.iter();
    part.into_iter().all(|event| whole.any(|other| other == event))
}

/// Whether all of the first is in the second, in any order.
fn is_among<'a>(part: impl IntoIterator<Item = &'a String>, whole: impl IntoIterator<Item = &'a String>) -> bool {
    let mut whole: Vec<_> = whole.into_iter().collect();
    part.into_iter().all(|event| {
        let at = whole.iter().position(|other| *other == event);
        at.is_some_and(|at| whole.swap_remove(at) == event)
    })
}

/// Whether all that differs is where messages went that were published to an exchange with a name.
fn only_routes_differ(there: &Events, here: &Events) -> bool {
    different(there, here).into_iter().all(|(source, there, here)| {
        let was_routed = |event: &String| event.contains(" exchange=\"") && !event.contains(" exchange=\"\"");
        let is_part_of_both = |event: &&String| there.contains(event) && here.contains(event);
        // What is there to be got, counted, purged or deleted follows.
        let follows = |event: &String| {
            ["BasicGetEmpty", "declared ", "QueuePurgeOk", "QueueDeleteOk"].iter().any(|start| event.starts_with(start))
        };
        is_count(source)
            || source.starts_with("queue at last ")
            || !source.contains(" consumer ")
                && source.starts_with("channel ")
                && there.iter().chain(here).all(|event| event.starts_with("got ") || follows(event))
            || (consumer(source).is_some() || source.starts_with("in queue ") || source.ends_with(" returns"))
                && there.iter().chain(here).filter(|event| !is_part_of_both(event)).all(was_routed)
    })
}

/// Whether a channel with a limit of its own had as many deliveries, but others of its consumers had them.
fn only_turns_differ(program: &Program, there: &Events, here: &Events) -> bool {
    let sources = different(there, here);
    let consumers: Vec<_> =
        sources.iter().filter_map(|(source, there, here)| Some((consumer(source)?, *there, *here))).collect();
    let of_place = |place: usize| {
        let of = consumers.iter().filter(|((of, _), ..)| *of == place);
        of.fold((0, 0), |(more, fewer), (_, there, here)| (more + there.len(), fewer + here.len()))
    };
    let is_shared = |place: usize| is_limited(program, place) && of_place(place).0 == of_place(place).1;
    consumers.len() > 1
        && consumers.iter().all(|((place, _), ..)| is_shared(*place))
        && sources.iter().all(|(source, ..)| consumer(source).is_some() || is_count(source))
}

/// Whether consumers on channels with a limit of their own have fewer deliveries in the one, and others what those have not.
fn limited_have_fewer(program: &Program, fewer: &Events, more: &Events) -> bool {
    let sources = different(fewer, more);
    let limited = |(place, _)| is_limited(program, place);
    sources.iter().any(|(source, fewer, more)| consumer(source).is_some_and(limited) && fewer.len() < more.len())
        && sources.iter().all(|(source, fewer, more)| match consumer(source) {
            Some((place, _)) if is_limited(program, place) => fewer.len() <= more.len(),
            Some(_) => is_part(*more, fewer),
            None => is_count(source),
        })
        && is_among(
            sources.iter().filter(|(source, ..)| consumer(source).is_some()).flat_map(|(_, fewer, _)| *fewer),
            sources.iter().filter(|(source, ..)| consumer(source).is_some()).flat_map(|(.., more)| *more),
        )
}

/// Whether all that differs is that the next active consumer of a queue is not served yet.
fn only_waiting_actives_differ(program: &Program, there: &Events, here: &Events) -> bool {
    let is_single = |name: &str| {
        let is_it =
            |argument: &str, value: &Field| argument == "x-single-active-consumer" && *value == Field::Bool(true);
        program.is_declared_with(name, is_it)
    };
    let sources = different(there, here);
    sources.iter().any(|(source, ..)| consumer(source).is_some())
        && sources.iter().all(|(source, there, here)| match consumer(source) {
            Some((_, tag)) => is_single(program.queue_of(tag)) && there.is_empty() && !here.is_empty(),
            None => is_count(source) && source.split_once(' ').is_some_and(|(_, name)| is_single(name)),
        })
}

/// Whether a connection ends, and other channels of it had what had come back before it was at its end.
fn only_last_words_differ(step: &Step, there: &Events, here: &Events) -> bool {
    let (link, _) = PLACES[step.place];
    let end = format!("connection {link}");
    let sources = different(there, here);
    there.contains_key(&end)
        && sources.iter().all(|(source, there, here)| {
            let is_other = consumer(source).is_some_and(|(place, _)| place != step.place && PLACES[place].0 == link);
            // What came back and was over has been dead-lettered.
            let came_back = |event: &&String| event.contains(" redelivered=true ") || event.contains("x-death: ");
            is_count(source)
                || is_other
                    && is_part(*here, there)
                    && there.iter().filter(|event| !here.contains(event)).all(|event| came_back(&event))
        })
}

/// Whether all that differs is where dead letters came between others.
fn only_places_of_dead_letters_differ(there: &Events, here: &Events) -> bool {
    different(there, here).into_iter().all(|(source, there, here)| {
        let of = |events: &[String], is_dead: bool| -> Vec<String> {
            events.iter().filter(|event| event.contains("x-death:") == is_dead).cloned().collect()
        };
        (consumer(source).is_some() || source.starts_with("in queue "))
            && [false, true].into_iter().all(|is_dead| of(there, is_dead) == of(here, is_dead))
    })
}

/// Whether a queue was too long for a moment since all of it came back at once, so that it dropped what consumers would have had.
fn has_fewer_since_too_long(program: &Program, there: &Events, here: &Events) -> bool {
    let sources = different(there, here);
    let deliveries = |side: usize| {
        sources
            .iter()
            .filter(|(source, ..)| consumer(source).is_some())
            .flat_map(|(_, there, here)| [*there, *here][side])
            .filter(|event| !event.contains("x-death:"))
            .collect::<Vec<_>>()
    };
    let (there, here) = (deliveries(0), deliveries(1));
    let is_limited = |name: &str| program.is_declared_with(name, |argument, _| argument.starts_with("x-max-length"));
    sources
        .iter()
        .all(|(source, ..)| consumer(source).map_or(is_count(source), |(_, tag)| is_limited(program.queue_of(tag))))
        && here.len() < there.len()
        && is_among(here, there)
}
