//! Exchanges of each kind, bound to queues and to each other.

use std::sync::Arc;

use super::super::*;
use super::world::*;

fn note(exchange: &str, key: &str, headers: Arguments) -> Note {
    Note::of(Parts { exchange: exchange.to_owned(), key: key.to_owned(), headers, ..Parts::default() })
}

fn to_exchange(source: &str, destination: &str, key: &str) -> Binding {
    Binding { destination: Destination::Exchange(destination.into()), ..Binding::to_queue(source, "", key) }
}

/// A world with these exchanges and a queue `q`, and what a publish reaches.
fn with_exchanges(specs: &[ExchangeSpec]) -> (World, SessionId) {
    let (mut world, one) = World::with_queue(&queue("q"));
    specs.iter().for_each(|spec| world.declare_exchange(one, spec));
    (world, one)
}

fn count(world: &mut World, session: SessionId, exchange: &str, key: &str) -> usize {
    let before = world.waiting("q").len();
    world.publish(session, exchange, key, 1).unwrap();
    world.waiting("q").len() - before
}

#[test]
fn a_fanout_exchange_reads_no_key_and_gives_each_queue_one() {
    let (mut world, one) = with_exchanges(&[]);
    world.bind(one, "q", "amq.fanout", "a").unwrap();
    world.bind(one, "q", "amq.fanout", "b").unwrap();
    assert_eq!(count(&mut world, one, "amq.fanout", "c"), 1);
    world.unbind(one, "q", "amq.fanout", "a").unwrap();
    world.unbind(one, "q", "amq.fanout", "a").unwrap();
    assert_eq!(count(&mut world, one, "amq.fanout", "c"), 1, "one binding is left");
    world.unbind(one, "q", "amq.fanout", "b").unwrap();
    assert_eq!(count(&mut world, one, "amq.fanout", "c"), 0);
}

/// Whether a headers exchange that is bound by these arguments takes a message with these headers.
fn matches(arguments: &[(&str, Field)], headers: &[(&str, Field)]) -> bool {
    let table =
        |fields: &[(&str, Field)]| fields.iter().map(|(name, field)| (Arc::from(*name), field.clone())).collect();
    let (mut world, one) = with_exchanges(&[]);
    let binding = Binding { arguments: table(arguments), ..Binding::to_queue("amq.headers", "q", "") };
    world.engine.bind(one, &binding, world.now).unwrap();
    // Bindings that ask for something else change nothing.
    let other = Binding { arguments: table(&[("other", Field::I32(1))]), ..binding.clone() };
    world.engine.bind(one, &other, world.now).unwrap();
    let taken = world.publish_note(one, note("amq.headers", "", table(headers))).unwrap();
    world.engine.unbind(one, &binding, world.now).unwrap();
    assert!(!world.publish_note(one, note("amq.headers", "", table(headers))).unwrap(), "it is unbound");
    taken
}

#[test]
fn a_headers_exchange_compares_all_headers_or_any() {
    let text = Field::text;
    let all = ("x-match", text("all"));
    let any = ("x-match", text("any"));
    let (a, b) = (("a", text("1")), ("b", Field::I32(2)));
    assert!(matches(&[a.clone(), b.clone()], &[b.clone(), a.clone(), ("c", Field::Void)]), "all is the default");
    assert!(!matches(&[all.clone(), a.clone(), b.clone()], std::slice::from_ref(&a)));
    assert!(matches(&[any.clone(), a.clone(), b.clone()], std::slice::from_ref(&b)));
    assert!(!matches(&[any.clone(), a.clone()], std::slice::from_ref(&b)));
    assert!(matches(std::slice::from_ref(&all), &[]), "there is nothing that has to be met");
    assert!(!matches(std::slice::from_ref(&any), std::slice::from_ref(&a)), "there is nothing that could be met");
    assert!(matches(&[("b", Field::I64(2))], std::slice::from_ref(&b)), "the width of a number does not matter");
    assert!(!matches(&[("b", text("2"))], std::slice::from_ref(&b)), "its kind does");
    assert!(matches(&[("a", Field::Void)], std::slice::from_ref(&a)), "no value is any value");
    assert!(!matches(&[("a", Field::Void)], std::slice::from_ref(&b)));
    assert!(!matches(std::slice::from_ref(&a), &[("a", Field::Void)]));
    // What begins with x- does not count unless that is asked for.
    let x = ("x-a", text("1"));
    assert!(matches(&[all, x.clone(), a.clone()], std::slice::from_ref(&a)));
    assert!(!matches(&[("x-match", text("all-with-x")), x.clone(), a.clone()], std::slice::from_ref(&a)));
    assert!(matches(&[("x-match", text("any-with-x")), x.clone(), a], &[x]));
}

#[test]
fn an_unknown_x_match_is_refused_by_headers_exchanges_alone() {
    let (mut world, one) = with_exchanges(&[]);
    let arguments = Arguments::new().with("x-match", Field::text("some"));
    let bound = |world: &mut World, exchange: &str| {
        let binding = Binding { arguments: arguments.clone(), ..Binding::to_queue(exchange, "q", "k") };
        world.engine.bind(one, &binding, world.now)
    };
    assert!(matches!(bound(&mut world, "amq.match"), Err(Refusal::BadArgument { .. })));
    bound(&mut world, "amq.topic").unwrap();
}

#[test]
fn bindings_that_differ_in_their_arguments_alone_are_two() {
    let (mut world, one) = with_exchanges(&[]);
    let plain = Binding::to_queue("amq.direct", "q", "k");
    let marked = Binding { arguments: Arguments::new().with("a", Field::I32(1)), ..plain.clone() };
    for binding in [&plain, &marked, &plain] {
        world.engine.bind(one, binding, world.now).unwrap();
    }
    assert_eq!(world.engine.bindings().count(), 2);
    assert_eq!(count(&mut world, one, "amq.direct", "k"), 1);
    world.engine.unbind(one, &plain, world.now).unwrap();
    assert_eq!(count(&mut world, one, "amq.direct", "k"), 1);
    world.engine.unbind(one, &marked, world.now).unwrap();
    assert_eq!(count(&mut world, one, "amq.direct", "k"), 0);
}

#[test]
fn exchanges_are_bound_to_each_other_also_in_circles() {
    let kinds = [("a", ExchangeKind::Topic), ("b", ExchangeKind::Direct), ("c", ExchangeKind::Fanout)];
    let (mut world, one) = with_exchanges(&kinds.map(|(name, kind)| exchange(name, kind)));
    for binding in [to_exchange("a", "b", "k.*"), to_exchange("b", "c", "k.1"), to_exchange("c", "a", "")] {
        world.engine.bind(one, &binding, world.now).unwrap();
    }
    world.bind(one, "q", "c", "").unwrap();
    world.bind(one, "q", "b", "k.1").unwrap();
    assert_eq!(count(&mut world, one, "a", "k.1"), 1, "each queue once, by whatever way");
    assert_eq!(count(&mut world, one, "a", "k.2"), 0, "b compares the key again");
    assert_eq!(count(&mut world, one, "c", "k.2"), 1);
    let gone = to_exchange("b", "c", "k.1");
    world.engine.unbind(one, &gone, world.now).unwrap();
    world.unbind(one, "q", "b", "k.1").unwrap();
    assert_eq!(count(&mut world, one, "a", "k.1"), 0);
}

#[test]
fn a_chain_of_exchanges_as_celery_makes_it_for_its_delays() {
    let level = |level: usize| format!("celery_delayed_{level}");
    let specs: Vec<_> = (0..28).map(|at| exchange(&level(at), ExchangeKind::Topic)).collect();
    let (mut world, one) = with_exchanges(&specs);
    for at in 1..28 {
        let pattern = format!("{}#", "*.".repeat(28 - at));
        let binding = to_exchange(&level(at), &level(at - 1), &pattern);
        world.engine.bind(one, &binding, world.now).unwrap();
    }
    world.bind(one, "q", &level(0), "#.q").unwrap();
    let key = format!("{}q", "0.".repeat(28));
    assert_eq!(count(&mut world, one, &level(27), &key), 1);
}

#[test]
fn an_alternate_exchange_has_what_goes_nowhere_else() {
    let first = {
        let mut spec = exchange("first", ExchangeKind::Direct);
        spec.arguments.insert("alternate-exchange", Field::text("second"));
        spec
    };
    let mut second = exchange("second", ExchangeKind::Direct);
    second.arguments.insert("alternate-exchange", Field::text("third"));
    let (mut world, one) = with_exchanges(&[first, second]);
    assert_eq!(world.publish(one, "first", "k", 1), Ok(false), "one that is missing takes nothing");
    world.declare_exchange(one, &exchange("third", ExchangeKind::Fanout));
    world.bind(one, "q", "third", "").unwrap();
    assert_eq!(count(&mut world, one, "first", "k"), 1);
    world.declare(one, &queue("taken")).unwrap();
    world.bind(one, "taken", "first", "k").unwrap();
    assert_eq!(count(&mut world, one, "first", "k"), 0);
    // An exchange that takes a message and has nowhere to put it is not "nowhere else".
    world.unbind(one, "taken", "first", "k").unwrap();
    world.declare_exchange(one, &exchange("dead end", ExchangeKind::Direct));
    let binding = to_exchange("first", "dead end", "k");
    world.engine.bind(one, &binding, world.now).unwrap();
    assert_eq!(count(&mut world, one, "first", "k"), 0);
}

#[test]
fn clients_do_not_publish_to_an_internal_exchange() {
    let inner = ExchangeSpec { publishers: Publishers::Exchanges, ..exchange("inner", ExchangeKind::Fanout) };
    let (mut world, one) = with_exchanges(&[inner, exchange("outer", ExchangeKind::Fanout)]);
    world.bind(one, "q", "inner", "").unwrap();
    let refused = world.publish(one, "inner", "", 1);
    assert_eq!(refused, Err(Refusal::InternalExchange { name: "inner".into() }));
    let binding = to_exchange("outer", "inner", "");
    world.engine.bind(one, &binding, world.now).unwrap();
    assert_eq!(count(&mut world, one, "outer", ""), 1);
}

#[test]
fn further_keys_reach_further_queues_and_each_once() {
    let (mut world, one) = World::with_queue(&queue("q"));
    for name in ["cc", "bcc"] {
        world.declare(one, &queue(name)).unwrap();
    }
    let parts = Parts {
        key: "q".to_owned(),
        cc: vec!["cc".into(), "q".into(), "none".into()],
        bcc: vec!["bcc".into(), "cc".into()],
        number: 7,
        ..Parts::default()
    };
    assert!(world.publish_note(one, Note::of(parts.clone())).unwrap());
    assert_eq!(["q", "cc", "bcc"].map(|name| world.waiting(name)), [[7], [7], [7]]);
    world.bind(one, "q", "amq.direct", "bcc").unwrap();
    world.publish_note(one, Note::of(Parts { exchange: "amq.direct".to_owned(), ..parts })).unwrap();
    assert_eq!(world.waiting("q"), [7, 7]);
}

#[test]
fn exchanges_that_delete_themselves_go_one_after_the_other() {
    let auto = |name: &str| ExchangeSpec { auto_delete: AutoDelete::Yes, ..exchange(name, ExchangeKind::Fanout) };
    let (mut world, one) = with_exchanges(&[auto("a"), auto("b"), exchange("c", ExchangeKind::Fanout)]);
    for binding in [to_exchange("c", "a", ""), to_exchange("a", "b", ""), to_exchange("b", "a", "")] {
        world.engine.bind(one, &binding, world.now).unwrap();
    }
    world.bind(one, "q", "b", "").unwrap();
    world.delete(one, "q").unwrap();
    assert!(world.engine.exchange("b").is_some(), "it is bound to a");
    world.engine.unbind(one, &to_exchange("b", "a", ""), world.now).unwrap();
    // b has gone, so a has no binding left and goes, and with it the binding of c.
    let left: Vec<_> = world.engine.exchanges().map(|spec| &*spec.name).filter(|name| name.len() == 1).collect();
    assert_eq!((left, world.engine.bindings().count()), (vec!["c"], 0));
}

#[test]
fn an_exchange_is_deleted_unless_it_is_used_where_that_was_asked() {
    let (mut world, one) = with_exchanges(&[exchange("e", ExchangeKind::Direct), exchange("f", ExchangeKind::Direct)]);
    world.bind(one, "q", "e", "k").unwrap();
    let binding = to_exchange("f", "e", "k");
    world.engine.bind(one, &binding, world.now).unwrap();
    let now = world.now;
    let in_use = Refusal::InUse { object: Object::Exchange, name: "e".into() };
    assert_eq!(world.engine.delete_exchange(one, "e", DeleteExchange::IfUnused, now), Err(in_use));
    world.unbind(one, "q", "e", "k").unwrap();
    world.engine.delete_exchange(one, "e", DeleteExchange::IfUnused, now).unwrap();
    assert_eq!(world.engine.bindings().count(), 0, "what leads to it does not use it, and goes");
    world.engine.delete_exchange(one, "e", DeleteExchange::Always, now).unwrap();
    assert!(world.engine.check_exchange(one, "e", now).is_err());
    world.engine.check_exchange(one, "f", now).unwrap();
    // A new one of the same name has none of the old bindings.
    world.declare_exchange(one, &exchange("e", ExchangeKind::Direct));
    assert_eq!(world.publish(one, "e", "k", 1), Ok(false));
}

#[test]
fn exchanges_that_differ_are_refused_with_what_differs() {
    let (mut world, one) = with_exchanges(&[exchange("e", ExchangeKind::Direct)]);
    let plain = exchange("e", ExchangeKind::Direct);
    let mut alternate = plain.clone();
    alternate.arguments.insert("alternate-exchange", Field::text("a"));
    let none_but = |want: Field| (None, Some(want));
    for (argument, other, (have, want)) in [
        ("type", exchange("e", ExchangeKind::Topic), (Some(Field::text("direct")), Some(Field::text("topic")))),
        (
            "durable",
            ExchangeSpec { durability: Durability::Transient, ..plain.clone() },
            (Some(Field::Bool(true)), Some(Field::Bool(false))),
        ),
        (
            "auto_delete",
            ExchangeSpec { auto_delete: AutoDelete::Yes, ..plain.clone() },
            (Some(Field::Bool(false)), Some(Field::Bool(true))),
        ),
        (
            "internal",
            ExchangeSpec { publishers: Publishers::Exchanges, ..plain.clone() },
            (Some(Field::Bool(false)), Some(Field::Bool(true))),
        ),
        ("alternate-exchange", alternate, none_but(Field::text("a"))),
    ] {
        let refused = world.engine.declare_exchange(one, &other, world.now).unwrap_err();
        let expected =
            Refusal::Differs { object: Object::Exchange, name: "e".into(), argument: argument.into(), have, want };
        assert_eq!(refused, expected);
    }
    let mut unknown = plain;
    unknown.arguments.insert("x-unknown", Field::I32(1));
    world.engine.declare_exchange(one, &unknown, world.now).unwrap();
    let mut bad = exchange("bad", ExchangeKind::Direct);
    bad.arguments.insert("alternate-exchange", Field::I32(1));
    assert!(matches!(world.engine.declare_exchange(one, &bad, world.now), Err(Refusal::BadArgument { .. })));
}
