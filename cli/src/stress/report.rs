//! What a run says at its end, and whether the numbers are what they must be.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use serde_json::json;

use super::decision::{FutureKind, HomeKind};
use super::ledger::{Ledger, Seen};
use super::watchdog::Stuck;
use super::world::World;
use crate::args::Fault;
use crate::args::Format;
use crate::failure::Failure;
use crate::out;
use crate::output::write_out;

/// How many events the library has looked at.
pub(crate) fn checked() -> u64 {
    homing::home::audit().checked
}

/// What the library counted off home, in its order.
fn off_home() -> [(&'static str, u64); 4] {
    let audit = homing::home::audit();
    [
        ("writes off home", audit.writes_off_home),
        ("wakes off home", audit.wakes_off_home),
        ("callbacks off home", audit.callbacks_off_home),
        ("drops off home", audit.drops_off_home),
    ]
}

/// Does on this thread what only a home may do. True when it was done, or is none of these faults.
pub(crate) fn seed_off_home(world: &World, rng: &mut Rng, fault: Fault) -> bool {
    use homing::home::OffHome;

    let kind = match fault {
        Fault::OffHomeWrite => OffHome::Write,
        Fault::OffHomeWake => OffHome::Wake,
        Fault::OffHomeCallback => OffHome::Callback,
        Fault::OffHomeDrop => OffHome::Drop,
        _ => return true,
    };
    if let Some(record) = world.any_home(rng)
        && let Some(home) = record.home()
    {
        homing::home::seed_off_home(kind, home);
    }
    // The home may have ended just before.
    off_home().iter().any(|(_, count)| *count > 0)
}

pub(crate) struct Report {
    text: String,
    wrong: Vec<String>,
    remarks: Vec<String>,
    /// The numbers for programs.
    counts: Vec<(&'static str, u64)>,
}

impl Ledger {
    /// Entries whose waiter, producer or value is still somewhere.
    pub(crate) fn unsettled(&self) -> u64 {
        of(&self.made).saturating_sub(of(&self.settled))
    }
}

fn of(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::SeqCst)
}

impl Report {
    pub(crate) fn of(world: &World, took: Duration, events: u64) -> Self {
        let ledger = &world.ledger;
        let mut report = Report {
            text: String::new(),
            wrong: Vec::new(),
            remarks: ledger.remarks.lock().clone(),
            counts: Vec::new(),
        };
        let made = of(&ledger.made);
        report.line(&format!(
            "{made} futures in {:.1} s: {:.0} a second",
            took.as_secs_f64(),
            made as f64 / took.as_secs_f64()
        ));
        for kind in HomeKind::ALL {
            report.line(&format!(
                "  {:>28}  {:>9} homes, {:>10} futures",
                kind.name(),
                of(&ledger.homes[kind as usize]),
                of(&ledger.made_by_home[kind as usize])
            ));
        }
        for kind in FutureKind::ALL {
            report.line(&format!("  {:>28}  {:>10}", kind.name(), of(&ledger.made_by_kind[kind as usize])));
        }
        report.line(&format!("  {:>28}  {:>10}", "communicators", of(&ledger.communicators)));
        report.outcomes(ledger, made);
        report.values(ledger);
        report.line(&format!(
            "lost {}, doubled {}, misplaced {}, wrong {}",
            of(&ledger.lost) + ledger.unsettled(),
            of(&ledger.doubled),
            of(&ledger.misplaced),
            of(&ledger.wrong)
        ));
        report.communicators(ledger);
        report.counts.extend([
            ("seed", world.seed),
            ("made", made),
            ("given_up", of(&ledger.given_up)),
            ("gone_with_their_home", of(&ledger.home_ended)),
            ("lost", of(&ledger.lost) + ledger.unsettled()),
            ("doubled", of(&ledger.doubled)),
            ("misplaced", of(&ledger.misplaced)),
            ("wrong", of(&ledger.wrong)),
            ("values", of(&ledger.values)),
            ("communicators", of(&ledger.communicators)),
            ("permits_held", of(&ledger.permits_held)),
            ("subscribers_without_a_server", of(&ledger.unserved)),
            ("late_closes", of(&ledger.late_closes)),
            ("events_checked", checked()),
        ]);
        report.audit(events);
        report
    }

    fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{text}");
    }

    fn demand(&mut self, right: bool, what: &str) {
        if !right {
            self.wrong.push(what.to_owned());
        }
    }

    /// One outcome each.
    fn outcomes(&mut self, ledger: &Ledger, made: u64) {
        let ended: Vec<String> =
            Seen::ALL.iter().map(|(seen, name)| format!("{} {name}", of(&ledger.ended[*seen as usize]))).collect();
        let total: u64 = ledger.ended.iter().map(of).sum();
        let (given_up, home_ended) = (of(&ledger.given_up), of(&ledger.home_ended));
        self.line(&format!("outcomes: {}", ended.join(", ")));
        self.line(&format!("made {made} = ended {total} + given up {given_up} + gone with their home {home_ended}"));
        let (lost, doubled) = (of(&ledger.lost) + ledger.unsettled(), of(&ledger.doubled));
        self.demand(made > 0, "nothing was made");
        self.demand(lost == 0, &format!("lost: {lost}"));
        self.demand(doubled == 0, &format!("doubled: {doubled}"));
        self.demand(made == total + given_up + home_ended, "what was made and what ended are not the same number");
    }

    /// Each dropped once, where it may be.
    fn values(&mut self, ledger: &Ledger) {
        let (made, at_home) = (of(&ledger.values), of(&ledger.dropped_at_home));
        let (sender, after) = (of(&ledger.dropped_by_sender), of(&ledger.dropped_after_home));
        let (misplaced, wrong) = (of(&ledger.misplaced), of(&ledger.wrong));
        self.line(&format!(
            "values {made} = dropped at home {at_home} + by their sender {sender} + after their home {after}"
        ));
        self.demand(misplaced == 0, &format!("misplaced: {misplaced}"));
        self.demand(made == at_home + sender + after, "values made and values dropped are not the same number");
        self.demand(wrong == 0, &format!("wrong: {wrong}"));
    }

    /// What is left at the end of a pair of communicators, as its public API shows it.
    fn communicators(&mut self, ledger: &Ledger) {
        let (held, probed) = (of(&ledger.permits_held), of(&ledger.permits_probed));
        let (unserved, asked) = (of(&ledger.unserved), of(&ledger.subscribers_asked));
        let (late, closes) = (of(&ledger.late_closes), of(&ledger.closes));
        self.line(&format!(
            "permits held {held} of {probed}, subscribers without a server {unserved} of {asked}, late closes {late} of \
             {closes}"
        ));
        self.demand(held == 0, &format!("permits held: {held}"));
        self.demand(unserved == 0, &format!("subscribers without a server: {unserved}"));
        self.demand(late == 0, &format!("late closes: {late}"));
    }

    /// What the library says of itself.
    fn audit(&mut self, events: u64) {
        let checked = checked();
        let counts = off_home();
        let words: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        self.line(&format!("audit: {checked} events checked, {}", words.join(", ")));
        self.demand(checked >= events, &format!("{checked} events checked, and {events} were required"));
        for (name, count) in counts {
            self.demand(count == 0, &format!("{name}: {count}"));
        }
    }

    /// Adds what the watchdog found.
    pub(crate) fn stuck(mut self, stuck: &Stuck) -> Self {
        self.remarks.extend(stuck.words.iter().cloned());
        self.line(&format!("lost {} where it is stuck", stuck.open));
        self
    }

    /// # Errors
    /// As everything that is written to standard output.
    pub(crate) fn print(&self, format: Format) -> Result<(), Failure> {
        if format == Format::Json {
            let counts: serde_json::Map<_, _> =
                self.counts.iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect();
            return out!("{}", json!({"counts": counts, "remarks": self.remarks, "wrong": self.wrong}));
        }
        write_out(self.text.as_bytes())?;
        self.remarks.iter().try_for_each(|remark| out!("{remark}"))
    }

    /// # Errors
    /// What is not as it must be.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        if self.wrong.is_empty() { Ok(()) } else { Err(self.wrong.join("; ")) }
    }
}
