//! `homing stress`: many homes of every kind, producers that complete, cancel, drop and panic, homes and communicators that
//! end in the middle of it; and a ledger that demands that every future ended exactly once, at home.
//!
//! The ledger is kept without the library's help, and the library's audit is printed beside it. `--seed-fault` puts one
//! fault in, to show that the run finds it.

mod calls;
mod decision;
mod homes;
mod ledger;
mod life;
mod producer;
mod race;
mod report;
mod watchdog;
mod world;

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::args::{Fault, Format, Global, Stress};
use crate::failure::Failure;
use crate::out;
use decision::{HomeKind, generator};
use report::Report;
use watchdog::{Pulse, watch};
use world::World;

/// How many workers make pairs of communicators.
const CALLERS: usize = 2;

pub(crate) fn run(options: &Stress, global: &Global) -> Result<(), Failure> {
    if global.broker.broker.is_some() {
        return Err(Failure::Usage("stress runs inside this process and takes no --broker".to_owned()));
    }
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    if global.output.format == Format::Text {
        out!(
            "homing stress: seed {seed}, {:.0} s, {} homes of each kind, {} producers",
            options.seconds.as_secs_f64(),
            options.homes,
            options.producers
        )?;
    }
    #[cfg(feature = "seeded-race")]
    if options.seed_fault == Some(Fault::Race) {
        race::ask_for();
    }
    let per_kind = usize::from(options.homes);
    let world = World::new(seed, options.stuck_after, per_kind * HomeKind::ALL.len(), options.seed_fault);
    let mut pulses = Vec::new();
    let mut start = |name: String, work: Box<dyn FnOnce(&Pulse) + Send>| -> std::io::Result<()> {
        let pulse = Arc::new(Pulse::new(name.clone()));
        pulses.push(Arc::clone(&pulse));
        thread::Builder::new().name(name).spawn(move || work(&pulse)).map(drop)
    };
    let begun = Instant::now();
    let mut producers = Vec::new();
    for n in 0..options.producers {
        let world = Arc::clone(&world);
        let thread = thread::Builder::new().name(format!("producer-{n}"));
        producers.push(thread.spawn(move || producer::produce(&world))?);
    }
    for slot in 0..per_kind {
        for kind in HomeKind::ALL {
            let world = Arc::clone(&world);
            let number = slot * HomeKind::ALL.len() + kind as usize;
            let work = move |pulse: &Pulse| homes::stand(&world, pulse, kind, number, slot);
            start(format!("{} {slot}", kind.name()), Box::new(work))?;
        }
    }
    for number in 0..CALLERS {
        let world = Arc::clone(&world);
        start(format!("calls {number}"), Box::new(move |pulse| calls::call(&world, pulse, number)))?;
    }
    let (control, seconds, events, fault) = (Arc::clone(&world), options.seconds, options.events, options.seed_fault);
    let conductor = thread::Builder::new()
        .name("conductor".to_owned())
        .spawn(move || conduct(&control, begun, seconds, events, fault))?;

    let watched = watch(&pulses, options.stuck_after);
    let took = begun.elapsed();
    if let Err(stuck) = watched {
        Report::of(&world, took, events).stuck(&stuck).print(global.output.format)?;
        return Err(Failure::Other(format!("seed {seed}: something is stuck")));
    }
    world.jobs.close();
    let mut panicked = usize::from(conductor.join().is_err());
    panicked += producers.into_iter().filter_map(|producer| producer.join().err()).count();
    if panicked > 0 {
        world.ledger.is_wrong(|| format!("wrong: {panicked} threads of the run panicked"));
    }
    settle(&world);
    let report = Report::of(&world, took, events);
    report.print(global.output.format)?;
    report.verdict().map_err(|wrong| Failure::Other(format!("seed {seed}: {wrong}")))
}

/// Lets the run last its time, and stops it; does meanwhile what was asked for away from home.
fn conduct(world: &World, begun: Instant, seconds: Duration, events: u64, fault: Option<Fault>) {
    let mut rng = generator(world.seed, "conductor", 0);
    let mut seeded = false;
    loop {
        thread::sleep(Duration::from_millis(20));
        if !seeded && let Some(fault) = fault {
            seeded = report::seed_off_home(world, &mut rng, fault);
        }
        let taken = begun.elapsed();
        let enough = report::checked() >= events;
        if taken >= seconds && (enough || taken >= seconds * 10) {
            world.stop();
            return;
        }
    }
}

/// Waits for what a runtime that ends in the background still holds.
fn settle(world: &World) {
    let until = Instant::now() + world.patience;
    while world.ledger.unsettled() > 0 && Instant::now() < until {
        thread::sleep(Duration::from_millis(5));
    }
}
