//! What goes wrong around the communicators.

use std::rc::Rc;
use std::time::Duration;

use super::users::actor;
use super::{KEYS, TASK_QUEUE, World, key_text};
use crate::simulation::broker::server;
use crate::simulation::executor::{Process, WORLD, choose, note, one_in, sleep_ms};
use crate::simulation::ledger::KEY_TIME;
use crate::wire::unique::UniqueKey;

/// The queue of a key.
fn marker(key: u32) -> String {
    let key = UniqueKey::new(key_text(key).into(), KEY_TIME, TASK_QUEUE);
    key.map(|key| key.marker.to_string()).unwrap_or_default()
}

/// Now this goes wrong, now that.
pub(super) async fn adversity(world: Rc<World>) {
    let (server, plan, simulation, ledger) = (server(), world.plan, Rc::clone(&world.simulation), &world.ledger);
    for _ in 0..14 {
        sleep_ms(20 + choose(900)).await;
        if world.stopping.get() {
            return;
        }
        let n = choose(world.len() as u32) as usize;
        match choose(16) {
            1 if plan.losses => server.lose_one(),
            2 if plan.home_deaths => {
                let home = world.workers(n);
                note(|| format!("the workers' home of c{n} ends"));
                simulation.kill(home);
                ledger.home_ended(home);
                let fresh = world.new_home("workers", n);
                world.programs.borrow_mut()[n].workers = fresh;
            }
            3 if plan.lanes => server.close_some_lane(),
            4 if plan.consumers => server.cancel_some_consumer(),
            5 if plan.down => {
                server.set_down(true);
                server.lose_all();
                sleep_ms(choose(if plan.gives_up { 9000 } else { 1500 })).await;
                server.set_down(false);
            }
            6 if plan.blocked => {
                server.set_blocked(true);
                sleep_ms(choose(1500)).await;
                server.set_blocked(false);
            }
            7 if plan.crashes => {
                note(|| format!("the process of c{n} dies"));
                for group in simulation.groups_of(Process(n as u32)) {
                    simulation.kill(group);
                }
                ledger.process_died(n);
                let users = world.new_home("users", n);
                let workers = world.new_home("workers", n);
                {
                    let program = &mut world.programs.borrow_mut()[n];
                    program.users = users;
                    program.workers = workers;
                }
                world.renew(n).await;
                for again in 0..2 {
                    let name = format!("c{n} actor {again} reborn");
                    drop(world.at(users, &name, actor(Rc::clone(&world), n, 4)));
                }
            }
            8 if plan.stalls => {
                let groups = simulation.groups_of(Process(n as u32));
                if groups.is_empty() {
                    continue;
                }
                let group = groups[choose(groups.len() as u32) as usize];
                let ms = choose(4000);
                note(|| format!("{} stalls for {ms} ms", simulation.name(group)));
                ledger.stalls(Duration::from_millis(u64::from(ms)));
                simulation.stall(group);
                let resumed = Rc::clone(&simulation);
                simulation.spawn_as(WORLD, "resume", async move {
                    sleep_ms(ms).await;
                    resumed.resume(group);
                });
            }
            9 if plan.broker_stalls => {
                server.set_stalled(true);
                sleep_ms(choose(if one_in(4) { 9000 } else { 1500 })).await;
                server.set_stalled(false);
            }
            10 if plan.restarts => {
                server.set_down(true);
                server.restart();
                sleep_ms(choose(1000)).await;
                server.set_down(false);
            }
            11 if plan.deletions => {
                let any = one_in(4);
                let deleted = server.delete_some_queue(|queue| queue.exclusive || any);
                let Some((name, _)) = deleted else { continue };
                if name.contains(TASK_QUEUE) || name.contains("lease") {
                    ledger.excuse_open_tasks();
                }
                if let Some(key) = (0..KEYS).find(|key| name == marker(*key)) {
                    ledger.key_is_deleted(key);
                }
            }
            12 if plan.closes => {
                let drain = if plan.drains { Duration::from_millis(u64::from(choose(4000))) } else { Duration::ZERO };
                world.close(n, drain).await;
                world.renew(n).await;
            }
            13 if plan.closes => {
                // The last handles go, sooner or later; nobody closes it.
                let name = world.programs.borrow()[n].name.clone();
                note(|| format!("the handle of {name} is dropped"));
                ledger.communicator_ended(n);
                world.renew(n).await;
                if world.name(n) != name {
                    world.let_go.borrow_mut().push(name);
                }
            }
            _ => {}
        }
    }
}
