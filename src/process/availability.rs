//! Whether the store of a launcher can be used. All of its processes share the answer: one of them finds out that the store
//! fails, one task asks it again, and all go on when it works.
//!
//! A call that failed says little: it may be the store that fails, or what this one process wants of it. So the store is then
//! [checked](super::store::Persister::check). Where the check fails too, no task is taken until one succeeds.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::home::lock::Mutex;
use tokio::sync::watch;

use crate::error::{Error, Result};

/// How long is waited before a store that failed is checked again: this, and then twice as long each time.
const CHECK_FIRST: Duration = Duration::from_millis(100);
const CHECK_MOST: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// As far as is known.
    Works,
    /// It is being checked, for a call has failed, or none was made for a while.
    Doubted,
    /// The last check has failed.
    Fails,
}

#[derive(Clone, Copy)]
struct State {
    standing: Standing,
    /// How many checks have failed.
    failed: u64,
    /// Nobody checks it any more: the launcher has left, or its home has ended.
    is_over: bool,
}

pub(super) struct Availability {
    state: watch::Sender<State>,
    /// Why the last check failed, if it did.
    failure: Mutex<Option<Error>>,
}

impl Availability {
    pub(super) fn new() -> Self {
        let state = State { standing: Standing::Works, failed: 0, is_over: false };
        Availability { state: watch::Sender::new(state), failure: Mutex::new(None) }
    }

    pub(super) fn standing(&self) -> Standing {
        self.state.borrow().standing
    }

    /// Why the store cannot be used, while it cannot.
    pub(super) fn failure(&self) -> Option<Error> {
        self.failure.lock().clone()
    }

    /// The store is to be checked. Resolves when it is known whether it fails.
    pub(super) async fn doubt(&self) -> Standing {
        self.have_it_checked();
        self.until(|state| state.standing != Standing::Doubted).await.standing
    }

    /// The same without waiting for the outcome.
    pub(super) fn have_it_checked(&self) {
        self.state.send_if_modified(|state| {
            let works = state.standing == Standing::Works;
            if works {
                state.standing = Standing::Doubted;
            }
            works
        });
    }

    /// Nobody checks the store any more.
    pub(super) fn end(&self) {
        self.state.send_modify(|state| state.is_over = true);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state.borrow().is_over
    }

    /// Resolves when nobody checks the store any more: what waits for a check then, waits in vain.
    pub(super) async fn until_ended(&self) {
        self.until(|state| state.is_over).await;
    }

    pub(super) async fn until_works(&self) {
        self.until(|state| state.standing == Standing::Works).await;
    }

    pub(super) async fn until_fails(&self) {
        self.until(|state| state.standing == Standing::Fails).await;
    }

    /// Resolves at once unless the store fails; else when it has been checked once more.
    pub(super) async fn checked_once_more(&self) -> Standing {
        let now = *self.state.borrow();
        if now.standing != Standing::Fails {
            return now.standing;
        }
        self.until(|state| state.standing != Standing::Fails || state.failed > now.failed).await.standing
    }

    async fn until(&self, is_so: impl FnMut(&State) -> bool) -> State {
        let mut receiver = self.state.subscribe();
        let found = receiver.wait_for(is_so).await.map(|state| *state);
        match found {
            Ok(state) => state,
            // The sender is there as long as this is.
            Err(_) => std::future::pending().await,
        }
    }

    fn works(&self) {
        *self.failure.lock() = None;
        self.state.send_modify(|state| state.standing = Standing::Works);
    }

    fn fails(&self, error: Error) {
        *self.failure.lock() = Some(error);
        self.state.send_modify(|state| {
            state.standing = Standing::Fails;
            state.failed += 1;
        });
    }

    /// Checks the store whenever it is in doubt, until it works. Ends when there is no clock any more.
    pub(super) async fn watch<C, S>(&self, check: impl Fn() -> C, sleep: impl Fn(Duration) -> S)
    where
        C: Future<Output = Result<()>>,
        S: Future<Output = Result<()>>,
    {
        loop {
            self.until(|state| state.standing != Standing::Works).await;
            let (begun, mut pause, mut is_told) = (Instant::now(), CHECK_FIRST, false);
            while let Err(error) = check().await {
                if is_told {
                    crate::log::debug!(%error, ?pause, "the store still cannot be used");
                } else {
                    crate::log::error!(
                        %error,
                        "the store of this worker cannot be used: tasks go back to their queue and no other is taken until it \
                         can be; processes that are here wait for it; it is tried again"
                    );
                    is_told = true;
                }
                self.fails(error);
                if sleep(pause).await.is_err() {
                    return;
                }
                pause = (pause * 2).min(CHECK_MOST);
            }
            self.works();
            if is_told {
                crate::log::warn!(after = ?begun.elapsed(), "the store of this worker can be used again; it goes on");
            }
        }
    }
}
