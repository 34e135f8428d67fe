//! A worker: pulls tasks for its launcher, one whenever a slot is free.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::availability::Standing;
use super::class::Registry;
use super::launcher::{self, LauncherBuilder, ProcessLauncher};
use super::slots::Slot;
use super::store::Persister;
use super::{Pid, StateChange};
use crate::error::{ErrorKind, Result};
use crate::{Communicator, HandlerResult, IncomingTask, TaskQueue};

/// How many processes a worker has at most, unless it allows another number.
const MOST_PROCESSES: usize = 50_000;

/// How long is waited before a queue is asked again that did not answer.
const PULL_AGAIN: Duration = Duration::from_secs(1);

/// Runs processes: takes the tasks that launch and continue them, and runs so many of their steps at once as it has slots.
///
/// It pulls a task when a slot is free, so that the broker hands out only what can run, and other workers get the rest. A process
/// that waits, or is paused, gives its slot back and keeps its task: the task goes back to the queue if the worker dies, and
/// another one goes on with the process from its last checkpoint. So a parent that waits for its children does not keep them
/// from running, though there be a single slot.
///
/// While its store cannot be used, it takes no task and gives those back that it has not begun: see
/// [`ProcessLauncher::store_failure`].
///
/// On RabbitMQ a task may be unacknowledged for 30 minutes, unless the server allows more: connect with
/// [`long_tasks`](crate::CommunicatorBuilder::long_tasks) for processes that take longer.
///
/// Dropped, it pulls no further task, and its processes leave after the step that they are in. See [`drain`](Self::drain).
///
/// # Examples
/// See the [module](super).
#[must_use = "dropped, it takes no further task"]
pub struct ProcessWorker {
    launcher: ProcessLauncher,
    stops: watch::Sender<bool>,
}

/// The options of a worker. See [`ProcessWorker::builder`].
#[must_use = "nothing runs until it is started"]
pub struct WorkerBuilder {
    launcher: LauncherBuilder,
    most_processes: usize,
}

impl WorkerBuilder {
    /// How many steps run at once. Default 1.
    pub fn slots(mut self, slots: usize) -> Self {
        self.launcher = self.launcher.slots(slots);
        self
    }

    /// How many processes it has at most, those included that wait or are paused. Default 50,000. It pulls no task while it has
    /// as many: if all of them wait for children that nobody else runs, nothing goes on.
    pub fn most_processes(mut self, processes: usize) -> Self {
        self.most_processes = processes.max(1);
        self
    }

    /// The queue that it pulls from, and that the tasks of children go to. Default: the communicator's.
    pub fn queue(mut self, queue: TaskQueue) -> Self {
        self.launcher = self.launcher.queue(queue);
        self
    }

    /// Calls this for each change of state of a process here. See [`LauncherBuilder::on_change`].
    pub fn on_change(mut self, listener: impl Fn(&StateChange) + Send + Sync + 'static) -> Self {
        self.launcher = self.launcher.on_change(listener);
        self
    }

    /// Starts it, on the home of the communicator's handle or else the current one.
    ///
    /// # Errors
    /// As [`LauncherBuilder::start`].
    ///
    /// # Cancel safety
    /// Dropped, nothing is started.
    pub async fn start(self) -> Result<ProcessWorker> {
        let launcher = self.launcher.start().await?;
        let stops = watch::Sender::new(false);
        let pulls = pull_all(launcher.clone(), self.most_processes, stops.subscribe());
        launcher.inner.tools.home.spawn_uncounted(pulls);
        Ok(ProcessWorker { launcher, stops })
    }
}

impl ProcessWorker {
    /// One that runs the classes of a registry, and keeps their processes in a store.
    pub fn builder(communicator: &Communicator, store: impl Persister, registry: Registry) -> WorkerBuilder {
        let launcher = ProcessLauncher::builder(communicator, store, registry).slots(1);
        WorkerBuilder { launcher, most_processes: MOST_PROCESSES }
    }

    /// What runs its processes.
    #[must_use]
    pub fn launcher(&self) -> &ProcessLauncher {
        &self.launcher
    }

    /// The processes that are here.
    #[must_use]
    pub fn pids(&self) -> Vec<Pid> {
        self.launcher.pids()
    }

    /// Takes no further task, and ends when all processes have left: each after the step that it is in, and after `limit` in the
    /// middle of it, or as soon as the communicator has closed. What has not ended stays in the store, and its task goes back to the
    /// queue for another worker. A store that does not answer is left behind 15 seconds later.
    ///
    /// # Cancel safety
    /// Dropped, processes leave all the same; no step is aborted.
    pub async fn drain(self, limit: Duration) {
        self.stops.send_replace(true);
        self.launcher.drain(limit).await;
    }
}

impl Drop for ProcessWorker {
    fn drop(&mut self) {
        self.stops.send_replace(true);
    }
}

impl fmt::Debug for ProcessWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessWorker").field("launcher", &self.launcher).finish_non_exhaustive()
    }
}

/// Pulls tasks until the worker stops, or the communicator has closed.
async fn pull_all(launcher: ProcessLauncher, most: usize, mut stops: watch::Receiver<bool>) {
    let inner = Arc::clone(&launcher.inner);
    let tools = &inner.tools;
    let pull = async {
        loop {
            inner.until_fewer(most).await;
            tools.slots.until_free().await;
            // Guards: a task that is taken from a worker that could do it, by one that cannot store anything.
            tools.availability.until_works().await;
            let task = tokio::select! {
                task = tools.queue.next_task(Duration::MAX) => task,
                // Guards: a process that goes on with the last slot, and a task that would wait here while another worker has
                // time for it. What comes all the same goes back.
                () = tools.slots.until_busy() => continue,
                () = tools.availability.until_fails() => continue,
            };
            match task {
                // Where the slot or the store has gone in between, the task goes back.
                Ok(task) => match tools.slots.try_take() {
                    Some(slot) if tools.availability.standing() != Standing::Fails => perform(&launcher, task, slot),
                    _ => task.requeue(),
                },
                Err(error) if error.kind() == ErrorKind::QueueEmpty => {}
                Err(error) => {
                    crate::log::warn!(%error, "no task could be pulled");
                    if tools.communicator.sleep(PULL_AGAIN).await.is_err() {
                        return;
                    }
                }
            }
        }
    };
    tokio::select! {
        // Guards: a worker that was stopped before its communicator was closed, and warns that nothing can be pulled.
        biased;
        _ = stops.wait_for(|stops| *stops) => {}
        () = pull => {}
    }
}

/// Performs a task in the background, and answers it in the end.
fn perform(launcher: &ProcessLauncher, task: IncomingTask, slot: Slot) {
    let sender = launcher::Sender::of(task.request());
    match launcher::read_task(task.body()) {
        Ok(read) => task.finish(launcher::later(launcher.inner.perform(read, sender, Some(slot)))),
        Err(error) => task.finish(HandlerResult::<crate::Answer>::Err(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    use super::super::store::MemoryPersister;
    use super::*;

    /// Counts the warnings of this module.
    #[derive(Clone, Default)]
    struct Warnings(Arc<AtomicUsize>);

    impl<S: tracing::Subscriber> Layer<S> for Warnings {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            let from_here = event.metadata().target().starts_with(module_path!().trim_end_matches("::tests"));
            let is_warning = *event.metadata().level() == tracing::Level::WARN;
            self.0.fetch_add((from_here && is_warning).into(), Ordering::Relaxed);
        }
    }

    /// Guards: a warning that nothing can be pulled, where nothing is to be.
    #[tokio::test]
    async fn a_worker_that_was_stopped_does_not_warn_of_the_end_of_its_communicator() {
        let communicator = Communicator::connect("memory:").await.expect("it connects");
        let builder = ProcessLauncher::builder(&communicator, MemoryPersister::new(), Registry::new());
        let launcher = builder.start().await.expect("it starts");
        communicator.close().await.expect("it closes");
        let warnings = Warnings::default();
        let _log = tracing::subscriber::set_default(tracing_subscriber::registry().with(warnings.clone()));
        for _ in 0..64 {
            // As a thread finds it that comes late to its task.
            let stops = watch::Sender::new(true);
            pull_all(launcher.clone(), 1, stops.subscribe()).await;
        }
        assert_eq!(warnings.0.load(Ordering::Relaxed), 0);
        let goes_on = watch::Sender::new(false);
        pull_all(launcher, 1, goes_on.subscribe()).await;
        assert_eq!(warnings.0.load(Ordering::Relaxed), 1, "one that was not stopped does");
    }
}
