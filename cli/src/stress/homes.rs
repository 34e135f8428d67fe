//! One worker for each place where homes stand: it puts a home up, lets it live, ends it (with or without waiting for what
//! is open there), and puts up the next.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, mpsc};
use std::thread;

use homing::home::{EventLoop, ForeignLoop, Home, LocalHome};

use super::decision::{HomeKind, generator};
use super::ledger::{At, HomeRecord};
use super::life::{Plan, on_a_runtime, on_a_thread};
use super::watchdog::Pulse;
use super::world::World;

type Stood = Result<(), String>;

/// Has homes of this kind stand here, one after the other, until the run stops.
///
/// `number` is the worker's among all, `slot` among those of its kind.
pub(crate) fn stand(world: &Arc<World>, pulse: &Pulse, kind: HomeKind, number: usize, slot: usize) {
    let mut generation = 0;
    while !world.is_stopping() {
        let record = HomeRecord::new(&world.ledger, kind, slot, generation);
        let number_of_draws = ((slot as u64) << 32) | generation;
        let plan = Plan::draw(generator(world.seed, kind.name(), number_of_draws));
        record.will_drain(plan.drains);
        pulse.is_at("living", Some(&record));
        let site = Site { world, pulse, record: &record, number };
        let stood = match kind {
            HomeKind::MultiThread => multi_thread(&site, plan),
            HomeKind::CurrentThread => current_thread(&site, plan),
            HomeKind::EventLoop => event_loop(&site, plan),
            HomeKind::ForeignLoop => foreign_loop(&site, plan),
            HomeKind::PlainThread => plain_thread(&site, plan),
        };
        if let Err(error) = stood {
            world.ledger.is_wrong(|| format!("wrong: {} could not stand: {error}", record.name()));
            break;
        }
        generation += 1;
    }
    pulse.is_at("done", None);
}

struct Site<'a> {
    world: &'a Arc<World>,
    pulse: &'a Pulse,
    record: &'a Arc<HomeRecord>,
    number: usize,
}

impl Site<'_> {
    /// The home is there.
    fn open(&self, at: At, home: Home) {
        self.record.stands(at, home);
        self.world.put_up(self.number, self.record);
    }

    /// Its life is over, and it will be ended now.
    fn over(&self) {
        self.world.take_down(self.number);
        self.record.will_end();
        self.pulse.is_at("ending", Some(self.record));
    }
}

fn multi_thread(site: &Site<'_>, mut plan: Plan) -> Stood {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .map_err(|error| error.to_string())?;
    let way = plan.rng.u8(0..3);
    site.open(At::Runtime(runtime.handle().id()), Home::of_runtime(runtime.handle()));
    let life = runtime.spawn(on_a_runtime(Arc::clone(site.world), Arc::clone(site.record), plan));
    let lived = runtime.block_on(life);
    site.over();
    match way {
        0 => runtime.shutdown_background(),
        1 => runtime.shutdown_timeout(site.world.patience),
        _ => drop(runtime),
    }
    lived.map_err(|error| error.to_string())
}

fn current_thread(site: &Site<'_>, plan: Plan) -> Stood {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(|error| error.to_string())?;
    site.open(At::Runtime(runtime.handle().id()), Home::of_runtime(runtime.handle()));
    runtime.block_on(on_a_runtime(Arc::clone(site.world), Arc::clone(site.record), plan));
    site.over();
    drop(runtime);
    Ok(())
}

fn event_loop(site: &Site<'_>, plan: Plan) -> Stood {
    let event_loop = EventLoop::start("stress-loop").map_err(|error| error.to_string())?;
    let (tell, told) = mpsc::channel();
    let (tell_here, here) = mpsc::channel();
    let (world, record) = (Arc::clone(site.world), Arc::clone(site.record));
    event_loop
        .run(move |home| {
            record.stands(At::this_thread(), Home::current());
            let _ = tell_here.send(());
            let life = on_a_thread(home.clone(), world, record, plan);
            drop(home.spawn(async move {
                life.await;
                let _ = tell.send(());
            }));
        })
        .map_err(|error| error.to_string())?;
    here.recv().map_err(|_| "the loop did not call".to_owned())?;
    site.world.put_up(site.number, site.record);
    let lived = told.recv().map_err(|_| "its life was dropped".to_owned());
    site.over();
    event_loop.stop();
    lived
}

fn foreign_loop(site: &Site<'_>, mut plan: Plan) -> Stood {
    let (ring, rung) = mpsc::channel();
    let home = ForeignLoop::sending(ring, ());
    let limit = plan.rng.usize(1..64);
    site.open(At::this_thread(), home.home());
    let done = Rc::new(Cell::new(false));
    let life = on_a_thread(home.local().clone(), Arc::clone(site.world), Arc::clone(site.record), plan);
    let is_done = Rc::clone(&done);
    drop(home.local().spawn(async move {
        life.await;
        is_done.set(true);
    }));
    // Rung by the hook only: a ring that is lost is a home that is stuck.
    while !done.get() {
        rung.recv().map_err(|_| "its hook was dropped".to_owned())?;
        home.run_pending(limit);
    }
    site.over();
    drop(home);
    Ok(())
}

fn plain_thread(site: &Site<'_>, plan: Plan) -> Stood {
    thread::scope(|scope| {
        let lived = scope.spawn(|| {
            let home = LocalHome::of_this_thread();
            site.open(At::this_thread(), Home::current());
            let lived = home.block_on(on_a_thread(home.clone(), Arc::clone(site.world), Arc::clone(site.record), plan));
            site.over();
            // The home ends with its thread.
            lived.map_err(|refused| refused.to_string())
        });
        lived.join().unwrap_or_else(|_| Err("its thread panicked".to_owned()))
    })
}
