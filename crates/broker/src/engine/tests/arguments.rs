//! Arguments of queues: which cannot be, and which are the same.

use super::super::*;
use super::world::*;

fn refused(spec: &QueueSpec) -> Refusal {
    let mut world = World::new();
    let one = world.connect();
    let refusal = world.declare(one, spec).unwrap_err();
    assert!(world.engine.queue(&spec.name).is_none());
    refusal
}

fn quorum() -> QueueSpec {
    with(queue("q"), "x-queue-type", Field::text("quorum"))
}

#[test]
fn arguments_that_cannot_be_are_refused_with_what_is_wrong() {
    let text = Field::text;
    let plain = || queue("q");
    for (spec, argument, field, problem) in [
        (plain(), "x-expires", Field::I32(0), Problem::Zero),
        (plain(), "x-expires", Field::I32(-1), Problem::Negative(-1)),
        (plain(), "x-expires", text("5"), Problem::NotAnInteger("longstr")),
        (plain(), "x-message-ttl", Field::I64(-5), Problem::Negative(-5)),
        (plain(), "x-message-ttl", Field::I64(315_360_000_001), Problem::TooLarge(315_360_000_001)),
        (plain(), "x-message-ttl", Field::F64(5.0), Problem::NotAnInteger("double")),
        (plain(), "x-dead-letter-exchange", Field::I32(1), Problem::UnacceptableType("signedint")),
        (plain(), "x-dead-letter-routing-key", text("k"), Problem::KeyWithoutExchange),
        (plain(), "x-max-length", Field::I32(-1), Problem::Negative(-1)),
        (plain(), "x-max-length-bytes", Field::Bool(true), Problem::NotAnInteger("bool")),
        (plain(), "x-overflow", text("sometimes"), Problem::UnknownValue(text("sometimes"))),
        (plain(), "x-overflow", Field::I32(1), Problem::UnacceptableType("signedint")),
        (plain(), "x-max-priority", Field::I32(256), Problem::TooLarge(256)),
        (plain(), "x-max-priority", Field::I32(-1), Problem::Negative(-1)),
        (plain(), "x-single-active-consumer", text("true"), Problem::UnacceptableType("longstr")),
        (plain(), "x-queue-type", text("stream"), Problem::UnsupportedQueueType(text("stream"))),
        (plain(), "x-queue-type", Field::I32(1), Problem::UnacceptableType("signedint")),
        (plain(), "x-queue-mode", text("eager"), Problem::UnknownValue(text("eager"))),
        (plain(), "x-delivery-limit", Field::I32(1), Problem::NotForThisType("classic")),
        (quorum(), "x-max-priority", Field::I32(1), Problem::NotForThisType("quorum")),
        (plain(), "x-max-age", text("1h"), Problem::NotForThisType("classic")),
        (plain(), "x-queue-leader-locator", text("far"), Problem::NotForThisType("classic")),
        // Unread where the type does not know it.
        (quorum(), "x-queue-mode", Field::I32(3), Problem::NotForThisType("quorum")),
        (quorum(), "x-queue-leader-locator", text("far"), Problem::UnknownValue(text("far"))),
        (plain(), "x-queue-version", Field::I32(9), Problem::UnknownValue(Field::I64(9))),
    ] {
        let refusal = refused(&with(spec, argument, field.clone()));
        let expected =
            Refusal::BadArgument { object: Object::Queue, name: "q".into(), argument: argument.into(), problem };
        assert_eq!(refusal, expected, "{argument} {field:?}");
    }
}

#[test]
fn a_quorum_queue_is_durable_shared_and_stays() {
    for (property, spec) in [
        ("auto-delete", QueueSpec { auto_delete: AutoDelete::Yes, ..quorum() }),
        ("exclusive", QueueSpec { access: Access::Exclusive, ..quorum() }),
        ("non-durable", QueueSpec { durability: Durability::Transient, ..quorum() }),
    ] {
        assert_eq!(refused(&spec), Refusal::BadProperty { queue: "q".into(), property });
    }
}

#[test]
fn what_the_broker_does_not_know_is_kept_and_not_compared() {
    let spec = with(queue("q"), "x-unknown", Field::Array(vec![Field::Void]));
    let (mut world, one) = World::with_queue(&spec);
    assert_eq!(*world.engine.queue("q").unwrap().spec, spec);
    world.declare(one, &queue("q")).unwrap();
}

#[test]
fn the_width_of_a_number_and_the_default_type_do_not_matter() {
    let spec = |ttl| with(queue("q"), "x-message-ttl", ttl);
    let (mut world, one) = World::with_queue(&spec(Field::I32(100)));
    world.declare(one, &spec(Field::I64(100))).unwrap();
    world.declare(one, &with(spec(Field::U8(100)), "x-queue-type", Field::text("classic"))).unwrap();
    let refusal = world.declare(one, &spec(Field::I16(99))).unwrap_err();
    let differs = |argument: &str, have, want| Refusal::Differs {
        object: Object::Queue,
        name: "q".into(),
        argument: argument.into(),
        have,
        want,
    };
    assert_eq!(refusal, differs("x-message-ttl", Some(Field::I32(100)), Some(Field::I16(99))));
    let refusal = world.declare(one, &queue("q")).unwrap_err();
    assert_eq!(refusal, differs("x-message-ttl", Some(Field::I32(100)), None));
    let refusal = world.declare(one, &with(spec(Field::I32(100)), "x-queue-type", Field::text("quorum"))).unwrap_err();
    assert_eq!(refusal, differs("x-queue-type", None, Some(Field::text("quorum"))));
}

#[test]
fn a_value_that_cannot_be_is_refused_before_a_name_that_is_unknown() {
    let spec = with(with(queue("q"), "x-delivery-limit", Field::I32(1)), "x-message-ttl", Field::I32(-1));
    let problem = Problem::Negative(-1);
    let argument = "x-message-ttl".into();
    assert_eq!(refused(&spec), Refusal::BadArgument { object: Object::Queue, name: "q".into(), argument, problem });
}
