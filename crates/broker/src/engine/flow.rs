//! Clients that take deliveries more slowly than they come: their consumers are passed over, and nothing else waits for them.

use std::time::Instant;

use super::message::Message;
use super::session::ChannelKey;
use super::{Engine, SessionId};

impl<M: Message> Engine<M> {
    /// The client takes no deliveries for now: its consumers are passed over.
    pub fn pause(&mut self, session: SessionId, now: Instant) {
        self.advance(now);
        self.set_paused(session, true);
    }

    /// The client takes deliveries again, and its [allowance](Self::deliver_at_most) is whole. Costs next to nothing where it was
    /// not paused.
    pub fn resume(&mut self, session: SessionId, now: Instant) {
        self.advance(now);
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.handed = 0;
        for key in self.set_paused(session, false) {
            self.serve_held_up(key);
        }
        self.bury();
    }

    /// The client is paused by itself once it was handed so many bytes, by the [weight](Message::weight) of the messages that are
    /// delivered to it, until it is [resumed](Self::resume). The last delivery may exceed it.
    pub fn deliver_at_most(&mut self, session: SessionId, bytes: usize) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.allowance = Some(bytes);
        for key in state.channels.values() {
            if let Some(channel) = self.channels.get_mut(*key) {
                channel.is_counted = true;
            }
        }
    }

    /// Takes a delivery from a session's allowance.
    pub(super) fn count_delivery(&mut self, session: SessionId, bytes: usize) {
        let Some(state) = self.sessions.get_mut(&session) else { return };
        state.handed += bytes;
        if state.allowance.is_some_and(|most| state.handed >= most) {
            self.set_paused(session, true);
        }
    }

    /// Returns the channels for which that is new.
    fn set_paused(&mut self, session: SessionId, is_paused: bool) -> Vec<ChannelKey> {
        let Some(state) = self.sessions.get_mut(&session) else { return Vec::new() };
        if state.is_paused == is_paused {
            return Vec::new();
        }
        state.is_paused = is_paused;
        let keys: Vec<_> = state.channels.values().copied().collect();
        for key in &keys {
            if let Some(channel) = self.channels.get_mut(*key) {
                channel.is_paused = is_paused;
            }
        }
        keys
    }
}
