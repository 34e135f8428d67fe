//! Who a service is for: its subscribers, whoever waits for its queue, whoever pulls a task.

use std::collections::BTreeMap;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::super::command::{PullWait, QueueName, RpcDelivery, SubscriberName, Subscription, TaskDelivery, Turn};
use super::super::outbox::Stream;
use super::super::port::MailboxSender;
use super::super::tasks::SubscriberId;
use super::Key;
use crate::error::{Error, ErrorKind, Result};
use crate::wire::names::{Exchange, Identifier};

pub(super) enum Wanted<D> {
    Replies(Replies),
    Rpc(Option<Rpc<D>>),
    Broadcasts(BTreeMap<Identifier, Listener<D>>),
    Tasks(Tasks<D>),
    Pull(Pull),
    Control,
}

pub(super) struct Replies {
    pub(super) exchange: Exchange,
    /// New requests of this connection are answered there.
    pub(super) current: bool,
    /// Older requests are answered there.
    pub(super) needed: bool,
    /// Streams that wait for it.
    pub(super) streams: Vec<Stream>,
}

pub(super) struct Rpc<D> {
    member: Member<D>,
    sink: mpsc::UnboundedSender<RpcDelivery>,
}

/// A subscriber to broadcasts.
pub(super) struct Listener<D> {
    member: Member<D>,
    /// Its mailbox closes with this.
    _mailbox: MailboxSender,
}

pub(super) struct Tasks<D> {
    prefetch: u16,
    /// In the order in which they were added.
    subscribers: Vec<TaskSubscriber<D>>,
    /// How many tasks are in hand of which the consumer does not know.
    pub(super) taken: usize,
}

pub(super) struct TaskSubscriber<D> {
    identifier: Identifier,
    member: Member<D>,
    sink: mpsc::UnboundedSender<TaskDelivery>,
}

pub(super) struct Pull {
    pub(super) queue: QueueName,
    pub(super) wait: PullWait,
    /// Until when there may be no connection.
    pub(super) until: Instant,
    /// Somebody waits.
    pub(super) wanted: bool,
}

/// A subscriber of a service.
pub(super) struct Member<D> {
    id: SubscriberId,
    /// Whoever added it, until it stands.
    adding: Option<Adding<D>>,
}

pub(super) struct Adding<D> {
    pub(super) done: D,
    /// Until when there may be no connection.
    pub(super) until: Instant,
    /// A set-up after this turn is made for it too.
    pub(super) after_turn: Turn,
}

impl<D> Tasks<D> {
    /// How many tasks its consumer may have out; 0 for no limit, `None` where none is left.
    pub(super) fn places(&self) -> Option<u16> {
        match self.prefetch {
            0 => Some(0),
            prefetch => match usize::from(prefetch).saturating_sub(self.taken) {
                0 => None,
                left => u16::try_from(left).ok(),
            },
        }
    }

    fn check(&self, queue: &QueueName, identifier: &Identifier, prefetch: u16) -> Result<()> {
        if self.subscribers.iter().any(|known| known.identifier == *identifier) {
            return Err(duplicate(&SubscriberName::Tasks(queue.clone(), identifier.clone())));
        }
        if !self.subscribers.is_empty() && self.prefetch != prefetch {
            return Err(Error::new(
                ErrorKind::InvalidArgument,
                format!(
                    "the task queue {queue:?} has a subscriber on this communicator with a prefetch of {}; another one with \
                     {prefetch} cannot join it, for they share a consumer. Use the same prefetch",
                    self.prefetch
                ),
            ));
        }
        Ok(())
    }
}

impl<D> Wanted<D> {
    /// A service for subscribers of this kind, of which there is none yet.
    pub(super) fn nobody(subscription: &Subscription) -> Self {
        match subscription {
            Subscription::Rpc { .. } => Wanted::Rpc(None),
            Subscription::Broadcasts { .. } => Wanted::Broadcasts(BTreeMap::new()),
            Subscription::Tasks { prefetch, .. } => {
                Wanted::Tasks(Tasks { prefetch: *prefetch, subscribers: Vec::new(), taken: 0 })
            }
        }
    }

    /// Takes a new subscriber in.
    pub(super) fn join(&mut self, id: SubscriberId, subscription: Subscription) -> Result<()> {
        let member = Member { id, adding: None };
        match (self, subscription) {
            (Wanted::Rpc(occupant @ None), Subscription::Rpc { sink, .. }) => *occupant = Some(Rpc { member, sink }),
            (Wanted::Broadcasts(members), Subscription::Broadcasts { identifier, mailbox })
                if !members.contains_key(&identifier) =>
            {
                members.insert(identifier, Listener { member, _mailbox: mailbox });
            }
            (Wanted::Tasks(tasks), Subscription::Tasks { queue, prefetch, identifier, sink }) => {
                tasks.check(&queue, &identifier, prefetch)?;
                tasks.prefetch = prefetch;
                tasks.subscribers.push(TaskSubscriber { identifier, member, sink });
            }
            (_, subscription) => return Err(duplicate(&subscription.name())),
        }
        Ok(())
    }

    /// Takes a subscriber out; returns who still adds it.
    pub(super) fn leave(&mut self, name: &SubscriberName, id: SubscriberId) -> Option<Adding<D>> {
        match self {
            Wanted::Rpc(occupant) => occupant.take()?.member.adding,
            Wanted::Broadcasts(members) => members.remove(name.identifier())?.member.adding,
            Wanted::Tasks(tasks) => {
                let at = tasks.subscribers.iter().position(|known| known.member.id == id)?;
                tasks.subscribers.remove(at).member.adding
            }
            Wanted::Replies(_) | Wanted::Pull(_) | Wanted::Control => None,
        }
    }

    /// The way to the one who is called.
    pub(super) fn rpc_sink(&self) -> Option<&mpsc::UnboundedSender<RpcDelivery>> {
        match self {
            Wanted::Rpc(Some(rpc)) => Some(&rpc.sink),
            _ => None,
        }
    }

    /// The way to one of those who work on tasks.
    pub(super) fn task_sink(&self, id: SubscriberId) -> Option<&mpsc::UnboundedSender<TaskDelivery>> {
        match self {
            Wanted::Tasks(tasks) => {
                tasks.subscribers.iter().find(|known| known.member.id == id).map(|known| &known.sink)
            }
            _ => None,
        }
    }

    /// Somebody adds this subscriber, and waits until it stands.
    pub(super) fn await_standing(&mut self, identifier: &Identifier, adding: Adding<D>) {
        if let Some(member) = self.member_mut(identifier) {
            member.adding = Some(adding);
        }
    }

    fn members(&self) -> Vec<&Member<D>> {
        match self {
            Wanted::Rpc(occupant) => occupant.iter().map(|rpc| &rpc.member).collect(),
            Wanted::Broadcasts(members) => members.values().map(|listener| &listener.member).collect(),
            Wanted::Tasks(tasks) => tasks.subscribers.iter().map(|known| &known.member).collect(),
            Wanted::Replies(_) | Wanted::Pull(_) | Wanted::Control => Vec::new(),
        }
    }

    fn members_mut(&mut self) -> Vec<&mut Member<D>> {
        match self {
            Wanted::Rpc(occupant) => occupant.iter_mut().map(|rpc| &mut rpc.member).collect(),
            Wanted::Broadcasts(members) => members.values_mut().map(|listener| &mut listener.member).collect(),
            Wanted::Tasks(tasks) => tasks.subscribers.iter_mut().map(|known| &mut known.member).collect(),
            Wanted::Replies(_) | Wanted::Pull(_) | Wanted::Control => Vec::new(),
        }
    }

    /// Nobody is subscribed to it.
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Wanted::Rpc(occupant) => occupant.is_none(),
            Wanted::Broadcasts(members) => members.is_empty(),
            Wanted::Tasks(tasks) => tasks.subscribers.is_empty(),
            Wanted::Pull(pull) => !pull.wanted,
            Wanted::Replies(_) | Wanted::Control => true,
        }
    }

    fn member_mut(&mut self, identifier: &Identifier) -> Option<&mut Member<D>> {
        match self {
            Wanted::Rpc(occupant) => occupant.as_mut().map(|rpc| &mut rpc.member),
            Wanted::Broadcasts(members) => members.get_mut(identifier).map(|listener| &mut listener.member),
            Wanted::Tasks(tasks) => tasks
                .subscribers
                .iter_mut()
                .find(|known| known.identifier == *identifier)
                .map(|known| &mut known.member),
            Wanted::Replies(_) | Wanted::Pull(_) | Wanted::Control => None,
        }
    }

    pub(super) fn is_adding(&mut self, identifier: &Identifier) -> bool {
        self.member_mut(identifier).is_some_and(|member| member.adding.is_some())
    }

    pub(super) fn take_adding(&mut self) -> Vec<D> {
        self.members_mut().into_iter().filter_map(|member| member.adding.take()).map(|adding| adding.done).collect()
    }

    pub(super) fn adding(&self) -> Vec<SubscriberId> {
        self.adding_where(|_| true)
    }

    /// Those for whom a set-up of this turn was made.
    pub(super) fn adding_before(&self, turn: Turn) -> Vec<SubscriberId> {
        self.adding_where(|adding| adding.after_turn < turn)
    }

    /// Those who are still added though they might have gone without a connection for no longer, and until when they might.
    pub(super) fn late(&self, now: Instant) -> Vec<(SubscriberId, Instant)> {
        let until = |member: &Member<D>| member.adding.as_ref().map(|adding| (member.id, adding.until));
        self.members().into_iter().filter_map(until).filter(|(_, until)| *until <= now).collect()
    }

    /// Until when each of those who are still added may go without a connection.
    pub(super) fn added_until(&self) -> impl Iterator<Item = Instant> {
        self.members().into_iter().filter_map(|member| member.adding.as_ref()).map(|adding| adding.until)
    }

    fn adding_where(&self, is_meant: impl Fn(&Adding<D>) -> bool) -> Vec<SubscriberId> {
        let is_meant = |member: &&Member<D>| member.adding.as_ref().is_some_and(&is_meant);
        self.members().into_iter().filter(is_meant).map(|member| member.id).collect()
    }
}

impl Subscription {
    pub(super) fn name(&self) -> SubscriberName {
        match self {
            Subscription::Rpc { identifier, .. } => SubscriberName::Rpc(identifier.clone()),
            Subscription::Tasks { queue, identifier, .. } => SubscriberName::Tasks(queue.clone(), identifier.clone()),
            Subscription::Broadcasts { identifier, .. } => SubscriberName::Broadcasts(identifier.clone()),
        }
    }
}

impl SubscriberName {
    pub(super) fn identifier(&self) -> &Identifier {
        match self {
            SubscriberName::Rpc(identifier)
            | SubscriberName::Tasks(_, identifier)
            | SubscriberName::Broadcasts(identifier) => identifier,
        }
    }

    pub(super) fn kind(&self) -> &'static str {
        match self {
            SubscriberName::Rpc(_) => "RPC subscriber",
            SubscriberName::Tasks(..) => "task subscriber",
            SubscriberName::Broadcasts(_) => "broadcast subscriber",
        }
    }

    pub(super) fn key(&self) -> Key {
        match self {
            SubscriberName::Rpc(identifier) => Key::Rpc(identifier.clone()),
            SubscriberName::Tasks(queue, _) => Key::Tasks(queue.clone()),
            SubscriberName::Broadcasts(_) => Key::Broadcasts,
        }
    }
}

fn duplicate(name: &SubscriberName) -> Error {
    Error::new(
        ErrorKind::DuplicateSubscriberIdentifier,
        format!(
            "this communicator has another {} of the name {:?}; remove it first",
            name.kind(),
            name.identifier().as_str()
        ),
    )
}
