//! Random inputs, against the invariants that every run keeps.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (bits ^ (bits >> 31)) % bound
    }
}

/// A home that carries acts out, and what must hold there.
struct Home {
    machine: Machine,
    /// What the store has.
    stored: Snapshot,
    saving: Option<Snapshot>,
    /// Slots: asked for, and here.
    asked: bool,
    slot: bool,
    /// The step that runs, and whether it stands still.
    step: Option<bool>,
    waits: bool,
    over: bool,
    /// Who has asked for what, and the answer.
    requests: BTreeMap<u64, (&'static str, Option<ControlAnswer>)>,
    /// How the process came from state to state.
    changes: BTreeSet<(ProcessState, ProcessState)>,
    log: Vec<String>,
}

impl Home {
    fn new() -> Self {
        let machine = Machine::new(Snapshot::created());
        let stored = machine.stored().clone();
        let mut home = Home {
            machine,
            stored,
            saving: None,
            asked: false,
            slot: false,
            step: None,
            waits: false,
            over: false,
            requests: BTreeMap::new(),
            changes: BTreeSet::new(),
            log: Vec::new(),
        };
        home.handle(Input::Begin);
        home
    }

    fn fail(&self, why: &str) -> ! {
        panic!("{why}\n{}", self.log.join("\n"));
    }

    fn check(&self, holds: bool, why: &str) {
        if !holds {
            self.fail(why);
        }
    }

    fn handle(&mut self, input: Input) {
        self.log.push(format!("{input:?}"));
        match &input {
            Input::Saved => {
                let Some(next) = self.saving.take() else { self.fail("nothing is being stored") };
                self.check(
                    next.state == self.stored.state || is_allowed(self.stored.state, next.state),
                    "P1: this change is not allowed",
                );
                self.check(next.step >= self.stored.step, "a step comes back");
                self.stored = next;
            }
            Input::NotSaved(_) | Input::Gone => self.saving = None,
            Input::StepEnded { .. } => self.step = None,
            Input::StepHeld => self.step = Some(true),
            Input::WaitEnded(_) => self.waits = false,
            Input::SlotGiven => self.slot = true,
            Input::Control(id, message) => {
                let name = match message {
                    ControlMessage::Status(_) => "status",
                    ControlMessage::Pause(_) => "pause",
                    ControlMessage::Play(_) => "play",
                    ControlMessage::Kill(_) => "kill",
                };
                self.requests.insert(id.0, (name, None));
            }
            Input::Resume(id, _) => drop(self.requests.insert(id.0, ("resume", None))),
            _ => {}
        }
        let acts = self.machine.handle(input, now());
        self.log.push(format!("    {}", words(&acts)));
        for act in acts {
            self.carry_out(act);
        }
        self.settled();
    }

    fn carry_out(&mut self, act: Act) {
        match act {
            Act::Answer(..) => {}
            _ => self.check(!self.over, "P3: it acts after it has ended or left"),
        }
        match act {
            Act::WantSlot => {
                self.check(!self.asked && !self.slot, "it wants two slots");
                self.asked = true;
            }
            Act::FreeSlot => (self.asked, self.slot) = (false, false),
            Act::RunStep { step, .. } => {
                self.check(self.step.is_none() && self.slot, "P3, P6: two steps, or one without a slot");
                self.check(
                    self.saving.is_none()
                        && self.stored.state == ProcessState::Running
                        && self.stored.paused.is_none()
                        && self.stored.step == step,
                    "P2: this step is not in the store",
                );
                self.step = Some(false);
            }
            Act::AbortStep => self.step = None,
            // The step may have ended, with the input put aside.
            Act::Want(_) => {}
            Act::GoOn => {
                self.check(self.slot, "P6: it goes on without a slot");
                self.step = self.step.map(|_| false);
            }
            Act::StartWait(wait) => {
                self.check(
                    !self.waits && self.stored.wait.as_ref() == Some(&wait),
                    "P2: this wait is not in the store",
                );
                self.waits = true;
            }
            Act::StopWait => self.waits = false,
            Act::Save(next, _) => {
                self.check(self.saving.is_none(), "two changes at once");
                self.saving = Some(*next);
            }
            Act::Announce { from, to } => {
                self.check(self.stored.state == to, "P2: what is announced is not in the store");
                self.check(is_allowed(from, to), "P1: this change is not allowed");
                self.changes.insert((from, to));
            }
            Act::Answer(id, answer) => self.answered(id.0, answer),
            Act::End(outcome) => {
                self.check(self.stored.outcome.as_ref() == Some(&*outcome), "P2: its end is not in the store");
                self.over = true;
            }
            Act::Left => self.over = true,
        }
    }

    fn answered(&mut self, id: u64, answer: ControlAnswer) {
        let Some((name, slot)) = self.requests.get(&id).copied() else { self.fail("nobody asked that") };
        self.check(slot.is_none(), "P4: it is answered twice");
        let stored = &self.stored;
        let is_so = match (name, &answer) {
            ("status", ControlAnswer::Status { state, paused }) => {
                (*state, *paused) == (stored.state, stored.paused.is_some())
            }
            ("pause", ControlAnswer::Done) => stored.paused.is_some(),
            ("play", ControlAnswer::Done) => true,
            ("kill", ControlAnswer::Done) => stored.state == ProcessState::Killed,
            ("kill", ControlAnswer::Refused) => {
                stored.state.is_terminal() && stored.state != ProcessState::Killed || self.over || self.saving.is_none()
            }
            ("pause" | "kill", ControlAnswer::Cancelled) => !stored.state.is_terminal(),
            ("resume", ControlAnswer::Done) => stored.state == ProcessState::Running,
            (_, ControlAnswer::Refused | ControlAnswer::Moved) => true,
            _ => false,
        };
        self.check(is_so, "P2: the answer is not what the store has");
        self.requests.insert(id, (name, Some(answer)));
    }

    /// What holds whenever nothing is being stored.
    fn settled(&self) {
        if self.saving.is_some() {
            return;
        }
        let pending = self.requests.values().filter(|(_, answer)| answer.is_none()).count();
        if self.over {
            self.check(self.step.is_none() && !self.waits && !self.slot && !self.asked, "something is left behind");
            self.check(pending == 0, "P4: somebody waits for ever");
            return;
        }
        self.check(!self.stored.state.is_terminal(), "it has ended, and goes on");
        let stands = self.stored.paused.is_some() || self.stored.state == ProcessState::Waiting;
        self.check(!(stands && (self.slot || self.asked)), "P6: it has a slot, and stands still");
        self.check(pending == 0 || self.step.is_some(), "P4: a request is put off, and no step runs");
        let goes_on = self.step.is_some() || self.waits || self.asked || self.stored.paused.is_some();
        self.check(goes_on, "nothing ever goes on");
    }

    /// One of what may come now.
    fn next(&mut self, random: &mut Random, id: u64) -> Option<Input> {
        Some(match random.below(24) {
            0..4 if self.saving.is_some() => Input::Saved,
            4 if self.saving.is_some() && random.below(10) == 0 => lease_lost(),
            4 if self.saving.is_some() && random.below(5) == 0 => unstorable(),
            5..7 if self.asked && !self.slot => Input::SlotGiven,
            7 if self.step == Some(false) => step(),
            8 if self.step == Some(false) => wait(),
            9 if self.step == Some(false) => until(),
            10 if self.step.is_some() && random.below(4) == 0 => finish(),
            10 if self.step.is_some() && random.below(4) == 0 => failed(),
            11 if self.step == Some(false) => Input::StepHeld,
            12 if self.waits => Input::WaitEnded(random.below(2).into()),
            13 if self.step.is_some() => Input::StatusText(random.below(3).to_string()),
            14..16 => pause(id),
            16..18 => play(id),
            18 => kill(id),
            19 if random.below(4) == 0 => force(id),
            20 => resume(id),
            21 => status(id),
            22 if random.below(40) == 0 => Input::Leave,
            22 if random.below(40) == 0 => Input::Gone,
            _ => return None,
        })
    }
}

fn run(seed: u64) -> Home {
    let mut random = Random(seed);
    let mut home = Home::new();
    home.log.push(format!("seed {seed}"));
    for id in 0..80 {
        if let Some(input) = home.next(&mut random, id) {
            home.handle(input);
        }
    }
    // Whatever is under way comes to its end.
    while !home.over {
        let input = match () {
            () if home.saving.is_some() => Input::Saved,
            () if home.step.is_some() => finish(),
            () => force(1_000),
        };
        home.handle(input);
    }
    home
}

/// P1, P2, P4, P6, and that something always goes on.
#[test]
fn whatever_comes_the_invariants_hold() {
    let mut changes = BTreeSet::new();
    for seed in 0..5_000 {
        changes.extend(run(seed).changes);
    }
    // Every change that can come about does: `waiting -> waiting` and `waiting -> finished` are allowed, and take a step here.
    let all = ProcessState::ALL.into_iter().flat_map(|from| ProcessState::ALL.map(|to| (from, to)));
    let expected = all.filter(|(from, to)| {
        let by_a_step = *from == ProcessState::Waiting && matches!(to, ProcessState::Waiting | ProcessState::Finished);
        is_allowed(*from, *to) && !by_a_step
    });
    assert_eq!(changes, expected.collect());
}
