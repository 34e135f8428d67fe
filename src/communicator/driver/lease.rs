//! Tasks that run for longer than the broker lets a delivery wait.
//!
//! Before that time is up, the task goes on lease: a copy, confirmed, into a durable queue of its own whose messages go back to
//! the task queue when their time is over; then the original is acknowledged. While the task runs, each third of that time
//! another copy goes into another such queue, and then the one before is deleted. Wherever the worker dies in between, at
//! least one copy goes back; two of them at most, and both say that they may have run before.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Driver;
use super::link::Link;
use super::subscribe::QueueName;
use super::supervise::is_lost;
use crate::broker::Broker;
use crate::communicator::builder::LongTasks;
use crate::communicator::command::TaskId;
use crate::communicator::events::Event;
use crate::communicator::shared::Transfer;
use crate::error::Result;

/// Counts how often a task has gone on lease. What says so may have run before.
pub(super) const LEASE: &str = "homing-lease";

/// What stands for a task at the broker while it is on lease.
#[derive(Default)]
pub(super) struct Lease {
    /// Its queues: the last is the one that counts, those before it are to be deleted.
    pub queues: Vec<String>,
    pub times: u32,
    /// When the broker began to count.
    since: Option<Instant>,
}

impl Lease {
    pub(super) fn stands(&self) -> bool {
        !self.queues.is_empty()
    }
}

impl<B: Broker> Driver<B> {
    /// Looks after a task for as long as it is in hand.
    pub(super) fn look_after(self: &Rc<Self>, task: TaskId) {
        let Some(long) = self.limits.long_tasks.filter(|_| self.shared.transfer == Transfer::Encoded) else { return };
        self.spawn(move |driver| async move {
            let mut pause = long.after;
            loop {
                tokio::time::sleep(pause).await;
                let Some(stands) = driver.tasks.borrow().lease_stands(task) else { return };
                pause = match driver.lease(task, long).await {
                    Ok(true) => long.lease / 3,
                    // Away, and not on lease: it may come again.
                    Ok(false) => long.after.min(Duration::from_secs(5)),
                    Err(error) => {
                        tracing::warn!(%error, "a task could not be put on lease yet");
                        Duration::from_secs(1).min(long.lease / 6)
                    }
                };
                if stands {
                    driver.lease_is_over(task, long);
                }
            }
        });
    }

    /// Puts a task on lease, or renews that. False when there is nothing of it at the broker to be replaced.
    async fn lease(self: &Rc<Self>, task: TaskId, long: LongTasks) -> Result<bool> {
        let Some(link) = self.supply.now() else { return Ok(self.tasks.borrow().lease_stands(task) == Some(true)) };
        let Some((queue, copy, ticket, mut lease)) = self.tasks.borrow_mut().begin_lease(task) else {
            return Ok(false);
        };
        if ticket.is_none() && !lease.stands() {
            return Ok(false);
        }
        let began = Instant::now();
        let done = async {
            let spec = self.shared.names.lease_queue(&queue, long.lease);
            link.broker.declare_queue(&spec).await?;
            let marks = [(LEASE, (lease.times + 1).to_string())];
            self.publish_to_queue(&link, spec.name.clone(), &copy.0, &marks, copy.1).await?;
            Ok(spec.name)
        };
        let name = match done.await {
            Ok(name) => name,
            Err(error) => {
                self.keep_lease(task, lease).await;
                return if is_lost(&error) { Ok(true) } else { Err(error) };
            }
        };
        lease.times += 1;
        lease.since = Some(began);
        let old = std::mem::take(&mut lease.queues);
        lease.queues = vec![name];
        if ticket.is_some() {
            // The place of the original is not to be filled with another task: this one still runs.
            self.fit_consumer(&link, &queue).await;
        }
        let left = self.delete_leases(&link, old).await;
        lease.queues.splice(0..0, left);
        if !self.keep_lease(task, lease).await {
            return Ok(true);
        }
        if let Some(ticket) = ticket {
            self.tasks.borrow_mut().drop_ticket(task, ticket);
            self.ack(ticket);
        }
        tracing::debug!(%queue, "a task is on lease");
        Ok(true)
    }

    /// False when the task has ended while its lease was made, which ends too.
    async fn keep_lease(&self, task: TaskId, lease: Lease) -> bool {
        let of_none = self.tasks.borrow_mut().keep_lease(task, lease);
        match of_none {
            Some(lease) => {
                self.end_leases(&lease.queues).await;
                false
            }
            None => true,
        }
    }

    /// The lease has run out unrenewed: the broker has put the task back.
    fn lease_is_over(&self, task: TaskId, long: LongTasks) {
        let told = self
            .tasks
            .borrow_mut()
            .lease_over(task, |lease| lease.since.is_some_and(|since| since.elapsed() >= long.lease));
        if let Some((queue, message_id)) = told {
            tracing::warn!(queue, "the lease of a task has run out");
            self.say(Event::OwnershipLost { queue, message_id });
        }
    }

    /// Deletes what stands for a task that has ended; returns those that could not be.
    async fn delete_leases(&self, link: &Link<B>, queues: Vec<String>) -> Vec<String> {
        let mut left = Vec::new();
        for queue in queues {
            if let Err(error) = link.broker.delete_queue(&queue).await {
                tracing::debug!(queue, %error, "a lease could not be ended yet");
                left.push(queue);
            }
        }
        left
    }

    /// The task has ended, or has gone another way: its leases end too, on this connection or the next.
    pub(super) async fn end_leases(&self, queues: &[String]) {
        let deleted = self.on_a_link(async |link| {
            for queue in queues {
                link.broker.delete_queue(queue).await?;
            }
            Ok(())
        });
        if let Err(error) = deleted.await {
            tracing::warn!(%error, "a lease could not be ended: its task comes again");
        }
    }

    /// Before a close: tasks on lease go back at once, as others do.
    pub(super) async fn return_leases(&self) {
        let Some(link) = self.supply.now() else { return };
        let leased = self.tasks.borrow_mut().take_leased();
        for (queue, (properties, body), lease) in leased {
            let marks = [(LEASE, (lease.times + 1).to_string())];
            if self.publish_to_queue(&link, queue.to_string(), &properties, &marks, body).await.is_ok() {
                let _ = self.delete_leases(&link, lease.queues).await;
            }
        }
    }

    /// The consumer of a queue gets as many places as the prefetch leaves beside what is in hand.
    pub(super) async fn fit_consumer(&self, link: &Rc<Link<B>>, queue: &QueueName) {
        if let Err(error) = self.start_again(link, queue).await {
            tracing::debug!(%queue, %error, "a consumer could not be fitted");
        }
    }
}
