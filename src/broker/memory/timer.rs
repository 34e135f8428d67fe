//! Sees to what is over when nobody asks the broker anything: each session has a timer on its own runtime, and the one of the
//! oldest session is on duty. So there is no thread, and nothing is left when the last session has gone.

use std::sync::{Arc, Weak};

use homing_broker::engine::SessionId;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::node::Node;

/// The timer of a session. Ends when this is dropped.
pub(super) struct Timer(AbortHandle);

impl Timer {
    /// Starts on the current runtime.
    pub(super) fn start(node: &Arc<Node>, session: SessionId) -> Self {
        let wake = Arc::new(Notify::new());
        let duty = Duty { node: Arc::downgrade(node), session };
        node.add_timer(session, &wake);
        Timer(tokio::spawn(run(duty, wake)).abort_handle())
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Hands the duty on when the task ends, whatever ends it.
struct Duty {
    /// Weak: a broker must not be kept by its own timer.
    node: Weak<Node>,
    session: SessionId,
}

impl Drop for Duty {
    fn drop(&mut self) {
        if let Some(node) = self.node.upgrade() {
            node.timer_gone(self.session);
        }
    }
}

async fn run(duty: Duty, wake: Arc<Notify>) {
    loop {
        let Some(next) = duty.node.upgrade().map(|node| node.next_ring(duty.session)) else { return };
        match next {
            None => wake.notified().await,
            Some(at) => tokio::select! {
                biased;
                () = wake.notified() => {}
                () = tokio::time::sleep_until(at) => {}
            },
        }
    }
}
