//! The calls that subscribers here have in hand, and whether their callers still wait.
//!
//! A call that is given up before its answer leaves a subscriber at work for nobody. So its communicator sends a message
//! after it, to a key that only homing's subscribers bind: `[gone].NAME` with the call's correlation id and the header
//! `homing-control: caller-gone`. Where kiwipy listens the broker drops it, as nobody has bound that key.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::command::{CallId, RpcDelivery};
use super::port::Giver;
use super::tasks::{Channel, Claim, ClosedChannels, DeliveryTag};
use crate::broker::{Body, Delivery};
use crate::wire::headers::TraceHeaders;

/// How many of the callers that went last are remembered, for a notice that overtakes its call.
const REMEMBERED: usize = 1024;

#[derive(Default)]
pub(super) struct Callers {
    in_hand: BTreeMap<CallId, InHand>,
    by_correlation: BTreeSet<(Arc<str>, CallId)>,
    gone: VecDeque<Arc<str>>,
    closed: ClosedChannels,
}

struct InHand {
    reply_to: Option<Arc<str>>,
    correlation: Option<Arc<str>>,
    tag: DeliveryTag,
    /// Whether its subscriber has begun with it.
    claim: Claim,
    caller_gone: Giver,
}

/// What a delivery is.
pub(super) enum Taken {
    New(RpcDelivery),
    /// It is in the hands of a subscriber here, which goes on with it.
    InHand,
    /// The broker has it back, and delivers it again.
    Void,
}

impl Callers {
    /// A call has come for a subscriber here.
    pub(super) fn takes(&mut self, call: CallId, tag: DeliveryTag, delivery: Delivery) -> Taken {
        // Guards: a call that was taken out of its queue by a channel whose end was reported before the call came here.
        if self.closed.contains(tag.channel) {
            return Taken::Void;
        }
        let trace = TraceHeaders::of(&delivery.properties);
        let (reply_to, correlation) = (delivery.properties.reply_to, delivery.properties.correlation_id);
        // Guards: a call that its subscriber had taken, and whose acknowledgement went with its channel.
        let same = |known: &InHand| known.reply_to == reply_to && known.claim.is_taken();
        if delivery.redelivered
            && let Some(correlation) = &correlation
            && self.of(correlation).any(|call| self.in_hand.get(&call).is_some_and(same))
        {
            return Taken::InHand;
        }
        let caller_gone = Giver::default();
        if correlation.as_ref().is_some_and(|correlation| self.gone.contains(correlation)) || reply_to.is_none() {
            // Nobody waits, or nobody can be answered.
            caller_gone.give();
        }
        let claim = Claim::default();
        if let Some(correlation) = &correlation {
            self.by_correlation.insert((Arc::clone(correlation), call));
        }
        let in_hand = InHand {
            reply_to: reply_to.clone(),
            correlation: correlation.clone(),
            tag,
            claim: claim.clone(),
            caller_gone,
        };
        let caller_gone = in_hand.caller_gone.signal();
        self.in_hand.insert(call, in_hand);
        Taken::New(RpcDelivery {
            call,
            tag,
            body: delivery.body,
            reply_to,
            correlation_id: correlation,
            trace,
            claim,
            caller_gone,
        })
    }

    fn of(&self, correlation: &Arc<str>) -> impl Iterator<Item = CallId> + '_ {
        let (first, last) = (CallId(0), CallId(u64::MAX));
        self.by_correlation
            .range((Arc::clone(correlation), first)..=(Arc::clone(correlation), last))
            .map(|(_, call)| *call)
    }

    /// The caller of this is gone.
    pub(super) fn gone(&mut self, correlation: Arc<str>) {
        for call in self.of(&correlation) {
            if let Some(in_hand) = self.in_hand.get(&call) {
                in_hand.caller_gone.give();
            }
        }
        if self.gone.len() == REMEMBERED {
            self.gone.pop_front();
        }
        self.gone.push_back(correlation);
    }

    /// The call has its last answer, or goes back.
    pub(super) fn ended(&mut self, call: CallId) {
        let Some(in_hand) = self.in_hand.remove(&call) else { return };
        if let Some(correlation) = in_hand.correlation {
            self.by_correlation.remove(&(correlation, call));
        }
    }

    /// The broker closed a channel.
    pub(super) fn channel_closed(&mut self, channel: Channel) {
        self.closed.close(channel);
        self.channel_gone(|gone| gone == channel);
    }

    /// Deliveries are gone with their channel. Those that nobody has begun are not begun: they come again.
    pub(super) fn channel_gone(&mut self, is_gone: impl Fn(Channel) -> bool) {
        let back: Vec<CallId> = self
            .in_hand
            .iter()
            .filter(|(_, in_hand)| is_gone(in_hand.tag.channel) && in_hand.claim.withdraw())
            .map(|(call, _)| *call)
            .collect();
        back.into_iter().for_each(|call| self.ended(call));
    }

    pub(super) fn len(&self) -> usize {
        self.in_hand.len()
    }

    /// To be refused, when nobody here can answer any more.
    pub(super) fn refusals(&self) -> Vec<RpcDelivery> {
        let refusal = |(call, in_hand): (&CallId, &InHand)| RpcDelivery {
            call: *call,
            tag: in_hand.tag,
            body: Body::Encoded(bytes::Bytes::new()),
            reply_to: in_hand.reply_to.clone(),
            correlation_id: in_hand.correlation.clone(),
            trace: None,
            claim: in_hand.claim.clone(),
            caller_gone: in_hand.caller_gone.signal(),
        };
        self.in_hand.iter().map(refusal).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Lane, Properties, Receipt};
    use crate::driver::tasks::Generation;

    fn delivery() -> Delivery {
        let properties =
            Properties { correlation_id: Some("one".into()), reply_to: Some("q".into()), ..Properties::default() };
        let receipt = Receipt { lane: Lane(0), opening: 0, tag: 1 };
        Delivery { receipt, redelivered: true, properties, body: Body::Encoded(bytes::Bytes::new()) }
    }

    #[test]
    fn a_call_by_a_channel_that_is_closed_is_not_taken() {
        let channel = |generation, incarnation| Channel { generation: Generation(generation), lane: 0, incarnation };
        let tag = |channel| DeliveryTag { channel, number: 1 };
        let mut callers = Callers::default();
        callers.channel_closed(channel(1, 0));
        assert!(matches!(callers.takes(CallId(1), tag(channel(1, 0)), delivery()), Taken::Void));
        assert!(matches!(callers.takes(CallId(2), tag(channel(1, 1)), delivery()), Taken::New(_)));
        assert!(matches!(callers.takes(CallId(3), tag(channel(2, 0)), delivery()), Taken::New(_)));
        assert_eq!(callers.len(), 2);
    }
}
