//! Values whose drop panics, on homes that go on: a panic of user code ends itself alone, wherever its home is with it.
#![cfg(all(homing_loom, not(homing_shuttle)))]

use homing_home::model::OnPurpose;
use loom::thread;
use loom_tests::{Kind, Ledger, Local, Saw, Task, Token, complete, explore, saw};

/// Its drop panics, after the token in it is seen to.
struct Panics(Option<Token>);

impl Drop for Panics {
    fn drop(&mut self) {
        drop(self.0.take());
        std::panic::panic_any(OnPurpose);
    }
}

fn a_late_value_panics_as_it_is_dropped<K: Kind>() {
    explore(|| {
        let mut home = K::new(2);
        let ledger = Ledger::new(home.at());
        let (late, given_up) = home.future::<Panics>().unwrap();
        let (completer, future) = home.future::<Token>().unwrap();
        let tokens = (Panics(Some(ledger.token())), ledger.token());
        let other = thread::spawn(move || {
            assert!(late.complete(tokens.0).is_ok());
            assert!(!complete(completer, tokens.1));
        });
        drop(given_up);
        assert_eq!(saw(home.wait(future)), Saw::Value);
        other.join().unwrap();
        home.end();
        ledger.settle_at_home();
    });
}

fn values_panic_as_their_home_ends<K: Kind>() {
    explore(|| {
        let mut home = K::new(3);
        let ledger = Ledger::new(home.at());
        let mut completers = Vec::new();
        for _ in 0..3 {
            let (late, given_up) = home.future::<Panics>().unwrap();
            drop(given_up);
            completers.push((late, Panics(Some(ledger.token()))));
        }
        let other = thread::spawn(move || {
            for (late, value) in completers {
                if let Err(mut back) = late.complete(value) {
                    // The sender's again, who forgets all but the token: only homes must stand such a value.
                    drop(back.0.0.take());
                    std::mem::forget(back);
                }
            }
        });
        home.turn();
        home.end();
        assert!(home.future::<()>().is_err(), "an ended home has no places");
        other.join().unwrap();
        assert_eq!(ledger.settle().len(), 3);
    });
}

mod task {
    use super::*;

    #[test]
    fn a_late_value_panics_as_it_is_dropped() {
        super::a_late_value_panics_as_it_is_dropped::<Task>();
    }

    #[test]
    fn values_panic_as_their_home_ends() {
        super::values_panic_as_their_home_ends::<Task>();
    }
}

mod local {
    use super::*;

    #[test]
    fn a_late_value_panics_as_it_is_dropped() {
        super::a_late_value_panics_as_it_is_dropped::<Local>();
    }

    #[test]
    fn values_panic_as_their_home_ends() {
        super::values_panic_as_their_home_ends::<Local>();
    }
}
