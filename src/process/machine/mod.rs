//! The state machine of a process, as a value: inputs in, acts out. It knows no clock, no store, no task and no wire.
//!
//! A change is first *saved*: the act [`Act::Save`] goes out, and what announces the change, answers for it or builds on it
//! waits for [`Input::Saved`]. Inputs that come meanwhile are put aside and handled in their order afterwards, so that each is
//! handled against what is in the store. Only a status is answered at once, from what was stored last.
//!
//! What requests do is plumpy's: a pause in a step is put off until the step has ended (or until the step reports that it stands
//! still), play cancels a pause that was put off, and a later kill takes the place of an earlier one. Two things differ. A kill
//! stands: plumpy lets a later pause cancel it. And a pause that was put off is answered `false` when the step ends the process:
//! plumpy answers `true`, though nothing is paused.

mod acts;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::time::SystemTime;

pub(super) use acts::{Act, Body, ControlAnswer, Input, NotSaved, RequestId, Snapshot, StepEnd, Wish};

use super::next::Next;
use super::store::{Outcome, PauseNote, Wait};
use super::{ControlMessage, Kill, ProcessState};
use crate::Value;

/// Whether a process may come from one state into another. The first state is [`ProcessState::Created`].
pub(super) fn is_allowed(from: ProcessState, to: ProcessState) -> bool {
    use ProcessState::{Created, Excepted, Finished, Killed, Running, Waiting};
    match from {
        Created => matches!(to, Running | Killed | Excepted),
        Running | Waiting => matches!(to, Running | Waiting | Finished | Killed | Excepted),
        Finished | Excepted | Killed => false,
    }
}

/// One process at its home.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// What the store has. Nobody is told of anything else.
    stored: Snapshot,
    /// A change on its way into the store.
    saving: Option<Saving>,
    /// What came while a change was being stored.
    deferred: VecDeque<Input>,
    slot: Slot,
    step: Step,
    /// Whether the wait of the stored state is watched.
    waits: bool,
    /// What is wanted of the step that runs, and who is to be answered when it is done.
    wanted: Option<Wanted>,
    /// [`Input::Begin`] has come.
    begun: bool,
    /// No further step begins here.
    leaves: bool,
    home: AtHome,
    now: SystemTime,
    acts: Vec<Act>,
}

/// Whether the process still lives here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum AtHome {
    Here,
    Ended,
    /// Another worker runs it, or may run it.
    Left,
}

/// The right to run a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Slot {
    None,
    Wanted,
    Held,
}

/// Where the step of the stored state is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Step {
    /// It has not begun, or has ended.
    None,
    Runs,
    /// It reported that it stands still.
    Held,
}

/// A request that waits for the step that runs.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    Pause { message: Option<String>, requests: Vec<RequestId> },
    Kill { message: Option<String>, request: RequestId },
}

#[derive(Clone, Debug)]
struct Saving {
    next: Snapshot,
    /// Who is answered when it is stored.
    answers: Vec<(RequestId, ControlAnswer)>,
    kind: Change,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// Into a state: it is announced.
    State,
    /// Of what goes with a state: paused, played, a line of status.
    Note,
    /// Into excepted, since the change that was wanted cannot be stored.
    Fallback,
}

impl Machine {
    /// The machine of a process that is in the store like this.
    pub(super) fn new(stored: Snapshot) -> Self {
        Machine {
            stored,
            saving: None,
            deferred: VecDeque::new(),
            slot: Slot::None,
            step: Step::None,
            waits: false,
            wanted: None,
            begun: false,
            leaves: false,
            home: AtHome::Here,
            now: SystemTime::UNIX_EPOCH,
            acts: Vec::new(),
        }
    }

    #[cfg(test)]
    fn stored(&self) -> &Snapshot {
        &self.stored
    }

    /// True once it has ended, or left this home.
    pub(super) fn has_ended(&self) -> bool {
        self.home != AtHome::Here
    }

    /// Handles an input that comes at this time. The acts are to be carried out in their order.
    pub(super) fn handle(&mut self, input: Input, now: SystemTime) -> Vec<Act> {
        self.now = now;
        self.input(input);
        while self.saving.is_none() {
            let Some(input) = self.deferred.pop_front() else {
                // Last, so that what was asked for meanwhile comes before the next step.
                self.proceed();
                break;
            };
            self.input(input);
        }
        std::mem::take(&mut self.acts)
    }

    fn input(&mut self, input: Input) {
        match input {
            Input::Saved => self.saved(),
            Input::NotSaved(why) => self.not_saved(why),
            Input::Gone => self.gone(),
            Input::Control(id, ControlMessage::Status(_)) => {
                let status = ControlAnswer::Status { state: self.stored.state, paused: self.stored.paused.is_some() };
                self.act(Act::Answer(id, status));
            }
            input if self.saving.is_some() => self.defer(input),
            Input::Control(id, message) => self.control(id, message),
            Input::Resume(id, value) => self.resume(id, value),
            _ if self.has_ended() => {}
            Input::Begin => self.begun = true,
            Input::SlotGiven => self.slot_given(),
            Input::StepEnded { end, status } => self.step_ended(end, status),
            Input::StepHeld => self.step_held(),
            Input::WaitEnded(value) => self.wait_ended(value),
            Input::StatusText(text) => self.status_text(text),
            Input::Leave => self.leaves = true,
            Input::Fail(outcome) => self.transition(self.stored.ended(outcome), Body::Kept, Vec::new()),
        }
    }

    fn act(&mut self, act: Act) {
        self.acts.push(act);
    }

    fn answer(&mut self, id: RequestId, answer: ControlAnswer) {
        self.act(Act::Answer(id, answer));
    }

    /// Puts an input aside. Of several lines of status the last counts.
    fn defer(&mut self, input: Input) {
        if let Input::StatusText(text) = &input
            && let Some(Input::StatusText(before)) =
                self.deferred.iter_mut().find(|input| matches!(input, Input::StatusText(_)))
        {
            before.clone_from(text);
            return;
        }
        self.deferred.push_back(input);
    }

    // The store.

    /// Has a change stored: into another state, or into the same anew.
    fn transition(&mut self, next: Snapshot, body: Body, answers: Vec<(RequestId, ControlAnswer)>) {
        if !is_allowed(self.stored.state, next.state) {
            // Guards: a fault of this machine. The process stays what it is in the store.
            crate::log::error!(from = %self.stored.state, to = %next.state, "a change of state that is not allowed was refused");
            for (id, _) in answers {
                self.answer(id, ControlAnswer::Refused);
            }
            return;
        }
        self.save(next, body, answers, Change::State);
    }

    fn save(&mut self, next: Snapshot, body: Body, answers: Vec<(RequestId, ControlAnswer)>, kind: Change) {
        debug_assert!(self.saving.is_none(), "one change after the other");
        self.act(Act::Save(Box::new(next.clone()), body));
        self.saving = Some(Saving { next, answers, kind });
    }

    fn saved(&mut self) {
        let Some(Saving { next, answers, kind }) = self.saving.take() else { return };
        let from = std::mem::replace(&mut self.stored, next).state;
        if kind != Change::Note {
            self.act(Act::Announce { from, to: self.stored.state });
        }
        for (id, answer) in answers {
            self.answer(id, answer);
        }
    }

    fn not_saved(&mut self, why: NotSaved) {
        let Some(Saving { next, answers, kind }) = self.saving.take() else { return };
        let asked: Vec<RequestId> = answers.into_iter().map(|(id, _)| id).chain(self.take_wanted()).collect();
        match why {
            NotSaved::LeaseLost => self.leave(asked, ControlAnswer::Moved),
            NotSaved::Unstorable(reason) if kind == Change::Fallback || next.state == ProcessState::Excepted => {
                crate::log::error!(%reason, "not even the end of a process can be stored: it stays as it is in the store");
                self.leave(asked, ControlAnswer::Refused);
            }
            NotSaved::Unstorable(reason) => {
                let outcome = Outcome::Excepted {
                    type_name: "CheckpointError".to_owned(),
                    message: format!("the checkpoint of the process cannot be stored: {reason}"),
                    chain: Vec::new(),
                };
                let answers = asked.into_iter().map(|id| (id, ControlAnswer::Refused)).collect();
                self.save(self.stored.ended(outcome), Body::Kept, answers, Change::Fallback);
            }
        }
    }

    fn gone(&mut self) {
        if !self.has_ended() {
            let saving = self.saving.take().map(|saving| saving.answers).unwrap_or_default();
            let asked = saving.into_iter().map(|(id, _)| id).chain(self.take_wanted()).collect();
            self.leave(asked, ControlAnswer::Moved);
        }
    }

    /// Ends here without having ended: whoever has the lease runs it on.
    fn leave(&mut self, asked: Vec<RequestId>, answer: ControlAnswer) {
        for id in asked {
            self.answer(id, answer);
        }
        self.stop();
        self.home = AtHome::Left;
        self.act(Act::Left);
    }

    /// Stops whatever is under way here.
    fn stop(&mut self) {
        if std::mem::replace(&mut self.step, Step::None) != Step::None {
            self.act(Act::AbortStep);
        }
        self.stop_wait();
        self.free_slot();
    }

    /// Who waits for the step that runs.
    fn take_wanted(&mut self) -> Vec<RequestId> {
        match self.wanted.take() {
            Some(Wanted::Pause { requests, .. }) => requests,
            Some(Wanted::Kill { request, .. }) => vec![request],
            None => Vec::new(),
        }
    }

    /// Cancels what was wanted before.
    fn supersede(&mut self) {
        for id in self.take_wanted() {
            self.answer(id, ControlAnswer::Cancelled);
        }
    }

    // What goes on.

    /// Does what the stored state wants, if it is not under way.
    fn proceed(&mut self) {
        if !self.begun || self.has_ended() {
            return;
        }
        if let Some(outcome) = self.stored.outcome.clone() {
            self.stop();
            self.home = AtHome::Ended;
            self.act(Act::End(Box::new(outcome)));
        } else if self.step == Step::Runs {
            // It ends by itself. One that is killed while it stands still ends without a slot.
            if self.stored.paused.is_some() {
                self.free_slot();
            }
        } else if self.leaves {
            let asked = self.take_wanted();
            self.leave(asked, ControlAnswer::Moved);
        } else if self.stored.paused.is_some() {
            self.stop_wait();
            self.free_slot();
        } else if self.stored.state == ProcessState::Waiting {
            self.free_slot();
            if let Some(wait) = self.stored.wait.clone()
                && !std::mem::replace(&mut self.waits, true)
            {
                self.act(Act::StartWait(wait));
            }
        } else if self.slot == Slot::Held {
            self.run();
        } else if self.slot == Slot::None {
            self.slot = Slot::Wanted;
            self.act(Act::WantSlot);
        }
    }

    /// Begins the step, or lets it go on; a process that has not begun comes into its first state before that.
    fn run(&mut self) {
        if self.stored.state == ProcessState::Created {
            let next = Snapshot { state: ProcessState::Running, ..self.stored.clone() };
            return self.transition(next, Body::Kept, Vec::new());
        }
        let act = match std::mem::replace(&mut self.step, Step::Runs) {
            Step::Held => Act::GoOn,
            _ => Act::RunStep { step: self.stored.step, brought: self.stored.brought.clone() },
        };
        self.act(act);
    }

    fn free_slot(&mut self) {
        if std::mem::replace(&mut self.slot, Slot::None) != Slot::None {
            self.act(Act::FreeSlot);
        }
    }

    fn stop_wait(&mut self) {
        if std::mem::replace(&mut self.waits, false) {
            self.act(Act::StopWait);
        }
    }

    fn slot_given(&mut self) {
        if self.slot != Slot::Wanted {
            // Guards: a slot that was on its way while it was given up.
            self.act(Act::FreeSlot);
            return;
        }
        self.slot = Slot::Held;
    }

    fn step_ended(&mut self, end: StepEnd, status: Option<String>) {
        if std::mem::replace(&mut self.step, Step::None) == Step::None {
            return;
        }
        let mut next = self.stored.clone();
        next.brought = Value::Null;
        if status.is_some() {
            next.status = status;
        }
        let wanted = self.wanted.take();
        if let Some(Wanted::Kill { message, request }) = wanted {
            self.free_slot();
            let killed = next.ended(Outcome::Killed { message });
            return self.transition(killed, Body::Kept, vec![(request, ControlAnswer::Done)]);
        }
        let body = if matches!(end, StepEnd::Next(_)) { Body::OfStep } else { Body::Kept };
        let mut next = match end {
            StepEnd::Next(Next::Step) => Snapshot { state: ProcessState::Running, step: next.step + 1, ..next },
            StepEnd::Next(Next::Wait(wait)) => Snapshot { state: ProcessState::Waiting, wait: Some(wait), ..next },
            StepEnd::Next(Next::Finish(finish)) => next.ended(finish.into_outcome()),
            StepEnd::Failed(outcome) => next.ended(outcome),
        };
        let mut answers = Vec::new();
        if let Some(Wanted::Pause { message, requests }) = wanted {
            let answer = if next.state.is_terminal() { ControlAnswer::Refused } else { ControlAnswer::Done };
            answers.extend(requests.into_iter().map(|id| (id, answer)));
            if !next.state.is_terminal() {
                next.paused = Some(PauseNote::new(message, self.now));
            }
        } else if let Some(paused) = next.paused.take()
            && !next.state.is_terminal()
        {
            // It stood still, and ended all the same. It stays paused.
            next.paused = Some(PauseNote::new(paused.message().map(str::to_owned), paused.since()));
        }
        if next.state != ProcessState::Running || next.paused.is_some() {
            self.free_slot();
        }
        self.transition(next, body, answers);
    }

    /// The step reports that it stands still.
    fn step_held(&mut self) {
        match (self.step, &self.wanted) {
            (Step::Runs, Some(Wanted::Pause { .. })) => {
                let Some(Wanted::Pause { message, requests }) = self.wanted.take() else { return };
                self.step = Step::Held;
                let paused = Some(PauseNote::new(message, self.now).in_step());
                let answers = requests.into_iter().map(|id| (id, ControlAnswer::Done)).collect();
                self.save(Snapshot { paused, ..self.stored.clone() }, Body::Kept, answers, Change::Note);
            }
            // The pause was cancelled meanwhile; a kill that came the step is notified of.
            (Step::Runs, None) => self.act(Act::GoOn),
            _ => {}
        }
    }

    fn wait_ended(&mut self, value: Value) {
        if !std::mem::replace(&mut self.waits, false) {
            return;
        }
        self.go_on_with(value, Vec::new());
    }

    /// Ends the wait: the next step has what it brought.
    fn go_on_with(&mut self, brought: Value, answers: Vec<(RequestId, ControlAnswer)>) {
        let step = self.stored.step + 1;
        let next = Snapshot { state: ProcessState::Running, step, brought, wait: None, ..self.stored.clone() };
        self.transition(next, Body::Kept, answers);
    }

    fn status_text(&mut self, text: String) {
        if self.step != Step::None && self.stored.status.as_ref() != Some(&text) {
            self.save(Snapshot { status: Some(text), ..self.stored.clone() }, Body::Kept, Vec::new(), Change::Note);
        }
    }

    // Requests.

    fn control(&mut self, id: RequestId, message: ControlMessage) {
        if self.home == AtHome::Left {
            return self.answer(id, ControlAnswer::Moved);
        }
        match message {
            ControlMessage::Pause(pause) => self.pause(id, pause.message().map(str::to_owned)),
            ControlMessage::Play(_) => self.play(id),
            ControlMessage::Kill(kill) => self.kill(id, &kill),
            // Answered before this, for it needs no turn.
            ControlMessage::Status(_) => {}
        }
    }

    fn pause(&mut self, id: RequestId, message: Option<String>) {
        if self.stored.state.is_terminal() {
            return self.answer(id, ControlAnswer::Refused);
        }
        if self.stored.paused.is_some() && !matches!(self.wanted, Some(Wanted::Kill { .. })) {
            return self.answer(id, ControlAnswer::Done);
        }
        match &mut self.wanted {
            Some(Wanted::Pause { requests, .. }) => return requests.push(id),
            Some(Wanted::Kill { .. }) => return self.answer(id, ControlAnswer::Refused),
            None => {}
        }
        if self.step == Step::Runs {
            self.act(Act::Want(Wish::Pause(message.clone())));
            self.wanted = Some(Wanted::Pause { message, requests: vec![id] });
            return;
        }
        let mut paused = PauseNote::new(message, self.now);
        if self.step == Step::Held {
            // It was played, and stands still until it has a slot.
            paused = paused.in_step();
        }
        let next = Snapshot { paused: Some(paused), ..self.stored.clone() };
        self.save(next, Body::Kept, vec![(id, ControlAnswer::Done)], Change::Note);
    }

    fn play(&mut self, id: RequestId) {
        if self.stored.paused.is_some() && !matches!(self.wanted, Some(Wanted::Kill { .. })) && !self.has_ended() {
            let next = Snapshot { paused: None, ..self.stored.clone() };
            return self.save(next, Body::Kept, vec![(id, ControlAnswer::Done)], Change::Note);
        }
        if let Some(Wanted::Pause { .. }) = &self.wanted {
            self.supersede();
            self.act(Act::Want(Wish::Nothing));
        }
        self.answer(id, ControlAnswer::Done);
    }

    fn kill(&mut self, id: RequestId, kill: &Kill) {
        if self.stored.state.is_terminal() {
            let is_killed = self.stored.state == ProcessState::Killed;
            return self.answer(id, if is_killed { ControlAnswer::Done } else { ControlAnswer::Refused });
        }
        self.supersede();
        let message = kill.message().map(str::to_owned);
        if self.step != Step::None && !kill.is_forced() {
            // One that stands still ends by itself now. It needs no slot for that.
            self.step = Step::Runs;
            self.act(Act::Want(Wish::Kill(message.clone())));
            self.wanted = Some(Wanted::Kill { message, request: id });
            return;
        }
        if std::mem::replace(&mut self.step, Step::None) != Step::None {
            self.act(Act::AbortStep);
        }
        self.free_slot();
        let killed = self.stored.ended(Outcome::Killed { message });
        self.transition(killed, Body::Kept, vec![(id, ControlAnswer::Done)]);
    }

    fn resume(&mut self, id: RequestId, value: Value) {
        let resumable = self.stored.state == ProcessState::Waiting
            && self.stored.wait.as_ref().is_some_and(|wait| matches!(wait, Wait::ForResume(_)));
        match self.home {
            AtHome::Left => self.answer(id, ControlAnswer::Moved),
            AtHome::Here if resumable => {
                self.stop_wait();
                self.go_on_with(value, vec![(id, ControlAnswer::Done)]);
            }
            _ => self.answer(id, ControlAnswer::Refused),
        }
    }
}
