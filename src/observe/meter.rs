//! Counters and times of messages, through the facade of the crate `metrics`; nothing without the feature of that name.
//!
//! A program's recorder is called at homes, and on the codec thread for what is read off now and then. A recorder that
//! panics costs the figure.

#[cfg(not(feature = "metrics"))]
pub(crate) use off::*;
#[cfg(feature = "metrics")]
pub(crate) use on::*;

#[cfg(feature = "metrics")]
mod on {
    use std::time::Instant;

    use super::super::MessageKind;
    use crate::panics::caught;

    /// When something began.
    #[derive(Clone, Copy)]
    pub(crate) struct Clock(Instant);

    impl Clock {
        pub(crate) fn now() -> Self {
            Clock(Instant::now())
        }

        fn seconds(self) -> f64 {
            self.0.elapsed().as_secs_f64()
        }
    }

    /// A counter, gauge or histogram with the kind of a message; by constants, which cost no allocation.
    macro_rules! of_kind {
        ($kind:expr, $metric:ident, $name:literal) => {
            match $kind {
                MessageKind::Call => metrics::$metric!($name, "kind" => "call"),
                MessageKind::Task => metrics::$metric!($name, "kind" => "task"),
                MessageKind::Broadcast => metrics::$metric!($name, "kind" => "broadcast"),
            }
        };
    }

    pub(crate) fn sent(kind: MessageKind) {
        record(|| {
            of_kind!(kind, counter, "homing_sent_total").increment(1);
            of_kind!(kind, gauge, "homing_open").increment(1.0);
        });
    }

    pub(crate) fn send_ended(kind: MessageKind, outcome: &'static str, begun: Clock) {
        record(|| {
            of_kind!(kind, gauge, "homing_open").decrement(1.0);
            metrics::counter!("homing_outcomes_total", "kind" => kind.as_str(), "outcome" => outcome).increment(1);
            of_kind!(kind, histogram, "homing_outcome_seconds").record(begun.seconds());
        });
    }

    pub(crate) fn received(kind: MessageKind) {
        record(|| {
            of_kind!(kind, counter, "homing_received_total").increment(1);
            of_kind!(kind, gauge, "homing_handling").increment(1.0);
        });
    }

    pub(crate) fn handled(kind: MessageKind, outcome: &'static str, begun: Clock) {
        record(|| {
            of_kind!(kind, gauge, "homing_handling").decrement(1.0);
            metrics::counter!("homing_handled_total", "kind" => kind.as_str(), "outcome" => outcome).increment(1);
            of_kind!(kind, histogram, "homing_handler_seconds").record(begun.seconds());
        });
    }

    /// Calls the program's recorder.
    ///
    /// Guards: a recorder that panics, which would end a caller or a worker for the sake of a figure; in a drop, the process.
    pub(super) fn record(call: impl FnOnce()) {
        if let Err(panic) = caught(call) {
            crate::log::error!(panic, "the recorder of metrics panicked");
        }
    }
}

#[cfg(all(feature = "metrics", not(test)))]
pub(crate) use sample::Sampler;

/// What is read off rather than counted as it happens. Unit tests do without: the clock of the simulation is left alone.
#[cfg(all(feature = "metrics", not(test)))]
mod sample {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::on::record;
    use crate::driver::ConnectionState;
    use crate::driver::port::Port;

    /// Reads a communicator off. Several share the names: each adds what has changed with it.
    pub(crate) struct Sampler {
        port: Arc<Port>,
        last: Sample,
    }

    #[derive(Clone, Copy, Default)]
    struct Sample {
        in_flight: f64,
        waiting: f64,
        connected: f64,
        losses: u64,
        reconnects: u64,
        open: f64,
        queued: f64,
        capacity: f64,
    }

    impl Sampler {
        pub(crate) fn new(port: &Arc<Port>) -> Self {
            Sampler { port: Arc::clone(port), last: Sample::default() }
        }

        pub(crate) fn take(&mut self) {
            let counters = &self.port.counters;
            let (in_flight, waiting) = self.port.held();
            let mut now = Sample {
                in_flight: in_flight as f64,
                waiting: waiting as f64,
                connected: match self.port.state() {
                    ConnectionState::Connected | ConnectionState::Blocked => 1.0,
                    _ => 0.0,
                },
                // Ordering: Relaxed, for counters order nothing.
                losses: counters.losses.load(Ordering::Relaxed),
                reconnects: counters.reconnects.load(Ordering::Relaxed),
                ..Sample::default()
            };
            for occupancy in self.port.homes() {
                now.open += occupancy.open as f64;
                now.queued += occupancy.queued as f64;
                now.capacity += occupancy.capacity as f64;
            }
            self.report(now);
        }

        fn report(&mut self, now: Sample) {
            let last = std::mem::replace(&mut self.last, now);
            record(|| {
                metrics::gauge!("homing_in_flight").increment(now.in_flight - last.in_flight);
                metrics::gauge!("homing_waiting_for_room").increment(now.waiting - last.waiting);
                metrics::gauge!("homing_connections").increment(now.connected - last.connected);
                metrics::gauge!("homing_home_open").increment(now.open - last.open);
                metrics::gauge!("homing_home_queued").increment(now.queued - last.queued);
                metrics::gauge!("homing_home_slots").increment(now.capacity - last.capacity);
                metrics::counter!("homing_connection_losses_total").increment(now.losses - last.losses);
                metrics::counter!("homing_reconnects_total").increment(now.reconnects - last.reconnects);
            });
        }
    }

    impl Drop for Sampler {
        /// A communicator that has ended has nothing open.
        fn drop(&mut self) {
            let Sample { losses, reconnects, .. } = self.last;
            self.report(Sample { losses, reconnects, ..Sample::default() });
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod off {
    use super::super::MessageKind;

    /// Nobody asks for the time.
    #[derive(Clone, Copy)]
    pub(crate) struct Clock;

    impl Clock {
        pub(crate) fn now() -> Self {
            Clock
        }
    }

    pub(crate) fn sent(_: MessageKind) {}
    pub(crate) fn send_ended(_: MessageKind, _: &'static str, _: Clock) {}
    pub(crate) fn received(_: MessageKind) {}
    pub(crate) fn handled(_: MessageKind, _: &'static str, _: Clock) {}
}
