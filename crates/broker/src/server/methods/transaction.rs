//! Transactions: what a channel does all at once, or not at all.

use super::publish::Routed;
use crate::engine::{Refusal, Tags};
use crate::protocol::{ReplyCode, methods::tx};
use crate::server::{
    call::Call,
    channel::Mode,
    confirms::Outcome,
    exception::{Exception, Result},
    peer::Selected,
    transaction::{Settled, Transaction},
};

impl Call<'_> {
    pub(in crate::server) fn select_transaction(&mut self) -> Result<()> {
        match self.channel.mode {
            Mode::Plain => {
                self.channel.mode = Mode::Transaction(Transaction::new());
                self.peer.select(self.number, Selected::Transactions);
            }
            Mode::Transaction(_) => {}
            Mode::Confirm(_) => return Err(Exception::precondition("cannot switch from confirm to tx mode")),
        }
        self.answer(&tx::SelectOk {});
        Ok(())
    }

    /// Publishes come first, then acknowledgements, as RabbitMQ has it. A message that a full queue refuses fails the commit; what
    /// else is in it is done.
    pub(in crate::server) fn commit(&mut self) -> Result<()> {
        let (publishes, settled) = self.transaction()?.take();
        let mut is_refused = false;
        for (message, is_mandatory) in publishes {
            match self.route(message) {
                Ok(Routed::To(Outcome::Refused)) => is_refused = true,
                Ok(Routed::Nowhere(message)) if is_mandatory => self.give_back(&message),
                Ok(_) => {}
                // The exchange has gone since the publish. It is as if nothing were bound to it.
                Err(exception) if exception.code == ReplyCode::NotFound => {}
                Err(exception) => return Err(exception),
            }
        }
        for settled in settled {
            self.settle_now(settled)?;
        }
        if is_refused {
            return Err(Exception::precondition("partial tx completion"));
        }
        self.answer_when_safe(false, &tx::CommitOk {});
        Ok(())
    }

    pub(in crate::server) fn roll_back(&mut self) -> Result<()> {
        self.transaction()?.take();
        self.answer(&tx::RollbackOk {});
        Ok(())
    }

    /// Keeps an acknowledgement until the commit. Whether there is anything to acknowledge is said now.
    pub(super) fn settle_at_commit(&mut self, settled: Settled) -> Result<()> {
        let (session, id) = (self.session, self.id());
        let Mode::Transaction(transaction) = &mut self.channel.mode else { return Ok(()) };
        let unknown = |tag| Exception::refused(&Refusal::UnknownDeliveryTag(tag), &self.host.name);
        match settled.tags {
            Tags::One(tag) => {
                let is_out = self.host.engine(|engine| engine.is_outstanding(session, id, tag));
                if !is_out || transaction.has_settled(tag) {
                    return Err(unknown(tag));
                }
                transaction.settle(settled, [tag]);
            }
            Tags::UpTo(last) => {
                let is_meant = |tag: &u64| (last == 0 || *tag <= last) && !transaction.has_settled(*tag);
                let tags: Vec<u64> =
                    self.host.engine(|engine| engine.outstanding(session, id).filter(is_meant).collect());
                match tags.last() {
                    // What comes until the commit is not meant.
                    Some(&last) => transaction.settle(Settled { tags: Tags::UpTo(last), ..settled }, tags),
                    None if last == 0 => {}
                    None => return Err(unknown(last)),
                }
            }
        }
        Ok(())
    }

    fn transaction(&mut self) -> Result<&mut Transaction> {
        match &mut self.channel.mode {
            Mode::Transaction(transaction) => Ok(transaction),
            _ => Err(Exception::precondition("channel is not transactional")),
        }
    }
}
