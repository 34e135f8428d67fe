//! Requests cost the same however much there is.

use std::time::Duration;

use super::super::*;
use super::world::*;

/// The shortest time that some requests take in an engine that has so many other queues, bindings, consumers and messages.
fn cost_beside(many: usize) -> Duration {
    let (mut world, one) = World::with_queue(&queue("q"));
    for other in 0..many {
        let name = format!("other.{other}");
        world.declare(one, &expiring(lasting(queue(&name), SECOND), SECOND)).unwrap();
        world.bind(one, &name, "amq.topic", &format!("{name}.*")).unwrap();
        world.bind(one, "q", "amq.topic", &format!("q.{other}.*")).unwrap();
        let arguments = Arguments::new().with("number", Field::I64(other.try_into().unwrap()));
        let asks = Binding { arguments, ..Binding::to_queue("amq.headers", "q", "") };
        world.engine.bind(one, &asks, world.now).unwrap();
        world.send(one, &name, 0);
        world.consume(one, &name, &name, 1).unwrap();
        world.send(one, "q", 0);
    }
    world.engine.effects().count();
    let rounds = (0..5).map(|_| {
        let begun = cpu_time();
        for body in 0..100 {
            world.publish(one, "amq.topic", "q.7.x", body).unwrap();
            let headers = Arguments::new().with("number", Field::I32(7));
            let parts = Parts { exchange: "amq.headers".to_owned(), headers, ..Parts::default() };
            assert!(world.publish_note(one, Note::of(parts)).unwrap());
            world.get(one, "q").unwrap();
            let got = world.get(one, "q").unwrap();
            world.nack(one, got.tag, Nack::Requeue);
            let got = world.get(one, "q").unwrap();
            world.ack(one, got.tag);
            let two = world.connect();
            let own = QueueSpec { access: Access::Exclusive, ..queue("own") };
            world.declare(two, &own).unwrap();
            world.bind(two, "own", "amq.topic", "own.#").unwrap();
            world.consume(two, "own", "c", 1).unwrap();
            world.publish(one, "amq.topic", "own.x", body).unwrap();
            world.cancel(two, "c");
            world.disconnect(two);
            world.engine.effects().count();
        }
        cpu_time().saturating_sub(begun)
    });
    rounds.min().unwrap()
}

/// How long this thread has run: others may have the processor meanwhile. Exact to the moment of the call, which what the system
/// shows as a file is not.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.try_into().expect("it does not run backwards")
}

#[test]
fn requests_cost_the_same_however_much_there_is() {
    // A walk through any of it would cost a hundred times as much.
    let (few, many) = (cost_beside(100), cost_beside(10_000));
    println!("beside 100: {few:?}, beside 10,000: {many:?}");
    assert!(many < 10 * few, "beside 100: {few:?}, beside 10,000: {many:?}");
}
