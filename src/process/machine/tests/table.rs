use super::*;

/// Makes a machine in a situation; a request that is pending there has the number 9.
pub(super) fn situation(name: &str) -> Option<Machine> {
    let mut machine = Machine::new(Snapshot::created());
    let inputs: Vec<Input> = match name {
        "new" => vec![],
        "created" => vec![Input::Begin],
        "created, paused" => vec![Input::Begin, pause(8)],
        "in step" => vec![Input::Begin, Input::SlotGiven],
        "pausing" => vec![Input::Begin, Input::SlotGiven, pause(9)],
        "killing" => vec![Input::Begin, Input::SlotGiven, kill(9)],
        "held" => vec![Input::Begin, Input::SlotGiven, pause(8), Input::StepHeld],
        "held, killing" => vec![Input::Begin, Input::SlotGiven, pause(8), Input::StepHeld, kill(9)],
        "held, played" => vec![Input::Begin, Input::SlotGiven, pause(8), Input::StepHeld, play(8)],
        "paused" => vec![Input::Begin, Input::SlotGiven, pause(8), step()],
        "ready" => vec![Input::Begin, Input::SlotGiven, pause(8), step(), play(8)],
        "waiting" => vec![Input::Begin, Input::SlotGiven, wait()],
        "sleeping" => vec![Input::Begin, Input::SlotGiven, until()],
        "waiting, paused" => vec![Input::Begin, Input::SlotGiven, wait(), pause(8)],
        "in step, leaving" => vec![Input::Begin, Input::SlotGiven, Input::Leave],
        "finished" => vec![Input::Begin, Input::SlotGiven, finish()],
        "excepted" => vec![Input::Begin, Input::SlotGiven, failed()],
        "killed" => vec![Input::Begin, kill(8)],
        "left" => vec![Input::Begin, Input::Leave],
        _ => return None,
    };
    for input in inputs {
        drive(&mut machine, input);
    }
    Some(machine)
}

const SITUATIONS: [&str; 19] = [
    "new",
    "created",
    "created, paused",
    "in step",
    "pausing",
    "killing",
    "held",
    "held, killing",
    "held, played",
    "paused",
    "ready",
    "waiting",
    "sleeping",
    "waiting, paused",
    "in step, leaving",
    "finished",
    "excepted",
    "killed",
    "left",
];

fn inputs() -> Vec<(&'static str, Input)> {
    vec![
        ("begin", Input::Begin),
        ("slot", Input::SlotGiven),
        ("step", step()),
        ("wait", wait()),
        ("finish", finish()),
        ("fail", failed()),
        ("held", Input::StepHeld),
        ("wait ended", Input::WaitEnded(7.into())),
        ("pause", pause(1)),
        ("play", play(1)),
        ("kill", kill(1)),
        ("force", force(1)),
        ("resume", resume(1)),
        ("status", status(1)),
        ("leave", Input::Leave),
        ("gone", Input::Gone),
    ]
}

/// What each input does in each situation, all changes being stored at once. What is not here does nothing.
const TABLE: &str = "
new              | begin      | want-slot
new              | slot       | free-slot
new              | pause      | save(created.0+paused) 1=true
new              | play       | 1=true
new              | kill       | save(killed.0) announce(created.killed) 1=true
new              | force      | save(killed.0) announce(created.killed) 1=true
new              | resume     | 1=false
new              | status     | 1=created
new              | gone       | left

created          | slot       | save(running.0) announce(created.running) run-0
created          | pause      | save(created.0+paused) 1=true free-slot
created          | play       | 1=true
created          | kill       | free-slot save(killed.0) announce(created.killed) 1=true end(killed)
created          | force      | free-slot save(killed.0) announce(created.killed) 1=true end(killed)
created          | resume     | 1=false
created          | status     | 1=created
created          | leave      | free-slot left
created          | gone       | free-slot left

created, paused  | slot       | free-slot
created, paused  | pause      | 1=true
created, paused  | play       | save(created.0) 1=true want-slot
created, paused  | kill       | save(killed.0) announce(created.killed) 1=true end(killed)
created, paused  | force      | save(killed.0) announce(created.killed) 1=true end(killed)
created, paused  | resume     | 1=false
created, paused  | status     | 1=created+paused
created, paused  | leave      | left
created, paused  | gone       | left

in step          | slot       | free-slot
in step          | step       | save(running.1+body) announce(running.running) run-1
in step          | wait       | free-slot save(waiting.0+body) announce(running.waiting) wait
in step          | finish     | free-slot save(finished.0+body) announce(running.finished) end(finished)
in step          | fail       | free-slot save(excepted.0) announce(running.excepted) end(excepted)
in step          | held       | go-on
in step          | pause      | wish-pause
in step          | play       | 1=true
in step          | kill       | wish-kill
in step          | force      | abort free-slot save(killed.0) announce(running.killed) 1=true end(killed)
in step          | resume     | 1=false
in step          | status     | 1=running
in step          | gone       | abort free-slot left

pausing          | slot       | free-slot
pausing          | step       | free-slot save(running.1+paused+body) announce(running.running) 9=true
pausing          | wait       | free-slot save(waiting.0+paused+body) announce(running.waiting) 9=true
pausing          | finish     | free-slot save(finished.0+body) announce(running.finished) 9=false end(finished)
pausing          | fail       | free-slot save(excepted.0) announce(running.excepted) 9=false end(excepted)
pausing          | held       | save(running.0+held) 9=true free-slot
pausing          | play       | 9=cancelled wish-nothing 1=true
pausing          | kill       | 9=cancelled wish-kill
pausing          | force      | 9=cancelled abort free-slot save(killed.0) announce(running.killed) 1=true end(killed)
pausing          | resume     | 1=false
pausing          | status     | 1=running
pausing          | gone       | 9=moved abort free-slot left

killing          | slot       | free-slot
killing          | step       | free-slot save(killed.0) announce(running.killed) 9=true end(killed)
killing          | wait       | free-slot save(killed.0) announce(running.killed) 9=true end(killed)
killing          | finish     | free-slot save(killed.0) announce(running.killed) 9=true end(killed)
killing          | fail       | free-slot save(killed.0) announce(running.killed) 9=true end(killed)
killing          | pause      | 1=false
killing          | play       | 1=true
killing          | kill       | 9=cancelled wish-kill
killing          | force      | 9=cancelled abort free-slot save(killed.0) announce(running.killed) 1=true end(killed)
killing          | resume     | 1=false
killing          | status     | 1=running
killing          | gone       | 9=moved abort free-slot left

held             | slot       | free-slot
held             | step       | save(running.1+paused+body) announce(running.running)
held             | wait       | save(waiting.0+paused+body) announce(running.waiting)
held             | finish     | save(finished.0+body) announce(running.finished) end(finished)
held             | fail       | save(excepted.0) announce(running.excepted) end(excepted)
held             | pause      | 1=true
held             | play       | save(running.0) 1=true want-slot
held             | kill       | wish-kill
held             | force      | abort save(killed.0) announce(running.killed) 1=true end(killed)
held             | resume     | 1=false
held             | status     | 1=running+paused
held             | leave      | abort left
held             | gone       | abort left

held, killing    | slot       | free-slot
held, killing    | step       | save(killed.0) announce(running.killed) 9=true end(killed)
held, killing    | wait       | save(killed.0) announce(running.killed) 9=true end(killed)
held, killing    | finish     | save(killed.0) announce(running.killed) 9=true end(killed)
held, killing    | fail       | save(killed.0) announce(running.killed) 9=true end(killed)
held, killing    | pause      | 1=false
held, killing    | play       | 1=true
held, killing    | kill       | 9=cancelled wish-kill
held, killing    | force      | 9=cancelled abort save(killed.0) announce(running.killed) 1=true end(killed)
held, killing    | resume     | 1=false
held, killing    | status     | 1=running+paused
held, killing    | gone       | 9=moved abort left

held, played     | slot       | go-on
held, played     | step       | save(running.1+body) announce(running.running)
held, played     | wait       | free-slot save(waiting.0+body) announce(running.waiting) wait
held, played     | finish     | free-slot save(finished.0+body) announce(running.finished) end(finished)
held, played     | fail       | free-slot save(excepted.0) announce(running.excepted) end(excepted)
held, played     | pause      | save(running.0+held) 1=true free-slot
held, played     | play       | 1=true
held, played     | kill       | wish-kill
held, played     | force      | abort free-slot save(killed.0) announce(running.killed) 1=true end(killed)
held, played     | resume     | 1=false
held, played     | status     | 1=running
held, played     | leave      | abort free-slot left
held, played     | gone       | abort free-slot left

paused           | slot       | free-slot
paused           | pause      | 1=true
paused           | play       | save(running.1) 1=true want-slot
paused           | kill       | save(killed.1) announce(running.killed) 1=true end(killed)
paused           | force      | save(killed.1) announce(running.killed) 1=true end(killed)
paused           | resume     | 1=false
paused           | status     | 1=running+paused
paused           | leave      | left
paused           | gone       | left

ready            | slot       | run-1
ready            | pause      | save(running.1+paused) 1=true free-slot
ready            | play       | 1=true
ready            | kill       | free-slot save(killed.1) announce(running.killed) 1=true end(killed)
ready            | force      | free-slot save(killed.1) announce(running.killed) 1=true end(killed)
ready            | resume     | 1=false
ready            | status     | 1=running
ready            | leave      | free-slot left
ready            | gone       | free-slot left

waiting          | slot       | free-slot
waiting          | wait ended | save(running.1+brought) announce(waiting.running) want-slot
waiting          | pause      | save(waiting.0+paused) 1=true stop-wait
waiting          | play       | 1=true
waiting          | kill       | save(killed.0) announce(waiting.killed) 1=true stop-wait end(killed)
waiting          | force      | save(killed.0) announce(waiting.killed) 1=true stop-wait end(killed)
waiting          | resume     | stop-wait save(running.1+brought) announce(waiting.running) 1=true want-slot
waiting          | status     | 1=waiting
waiting          | leave      | stop-wait left
waiting          | gone       | stop-wait left

sleeping         | slot       | free-slot
sleeping         | wait ended | save(running.1+brought) announce(waiting.running) want-slot
sleeping         | pause      | save(waiting.0+paused) 1=true stop-wait
sleeping         | play       | 1=true
sleeping         | kill       | save(killed.0) announce(waiting.killed) 1=true stop-wait end(killed)
sleeping         | force      | save(killed.0) announce(waiting.killed) 1=true stop-wait end(killed)
sleeping         | resume     | 1=false
sleeping         | status     | 1=waiting
sleeping         | leave      | stop-wait left
sleeping         | gone       | stop-wait left

waiting, paused  | slot       | free-slot
waiting, paused  | pause      | 1=true
waiting, paused  | play       | save(waiting.0) 1=true wait
waiting, paused  | kill       | save(killed.0) announce(waiting.killed) 1=true end(killed)
waiting, paused  | force      | save(killed.0) announce(waiting.killed) 1=true end(killed)
waiting, paused  | resume     | save(running.1+paused+brought) announce(waiting.running) 1=true
waiting, paused  | status     | 1=waiting+paused
waiting, paused  | leave      | left
waiting, paused  | gone       | left

in step, leaving | slot       | free-slot
in step, leaving | step       | save(running.1+body) announce(running.running) free-slot left
in step, leaving | wait       | free-slot save(waiting.0+body) announce(running.waiting) left
in step, leaving | finish     | free-slot save(finished.0+body) announce(running.finished) end(finished)
in step, leaving | fail       | free-slot save(excepted.0) announce(running.excepted) end(excepted)
in step, leaving | held       | go-on
in step, leaving | pause      | wish-pause
in step, leaving | play       | 1=true
in step, leaving | kill       | wish-kill
in step, leaving | force      | abort free-slot save(killed.0) announce(running.killed) 1=true end(killed)
in step, leaving | resume     | 1=false
in step, leaving | status     | 1=running
in step, leaving | gone       | abort free-slot left

finished         | pause      | 1=false
finished         | play       | 1=true
finished         | kill       | 1=false
finished         | force      | 1=false
finished         | resume     | 1=false
finished         | status     | 1=finished

excepted         | pause      | 1=false
excepted         | play       | 1=true
excepted         | kill       | 1=false
excepted         | force      | 1=false
excepted         | resume     | 1=false
excepted         | status     | 1=excepted

killed           | pause      | 1=false
killed           | play       | 1=true
killed           | kill       | 1=true
killed           | force      | 1=true
killed           | resume     | 1=false
killed           | status     | 1=killed

left             | pause      | 1=moved
left             | play       | 1=moved
left             | kill       | 1=moved
left             | force      | 1=moved
left             | resume     | 1=moved
left             | status     | 1=created
";

#[test]
fn each_input_does_in_each_situation_what_the_table_has() {
    let mut table: std::collections::BTreeMap<(&str, &str), &str> = std::collections::BTreeMap::new();
    for row in TABLE.lines().filter(|row| !row.is_empty()) {
        let mut cells = row.splitn(3, '|').map(str::trim);
        let (Some(situation), Some(input), Some(acts)) = (cells.next(), cells.next(), cells.next()) else {
            panic!("{row:?} has no three cells");
        };
        assert!(table.insert((situation, input), acts).is_none(), "{row:?} is there twice");
    }
    for name in SITUATIONS {
        for (input_name, input) in inputs() {
            let acts = words(&drive(&mut situation(name).unwrap(), input));
            let expected = table.remove(&(name, input_name)).unwrap_or_default();
            assert_eq!(acts, expected, "{input_name} in the situation {name:?}");
        }
    }
    assert!(table.is_empty(), "rows of no situation: {table:?}");
}
