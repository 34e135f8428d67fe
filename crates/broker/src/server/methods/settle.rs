//! What clients are done with, and what they give back.

use crate::engine::{Nack, Tags};
use crate::protocol::{ReplyCode, methods::basic};
use crate::server::{
    call::Call,
    channel::Mode,
    exception::{Exception, Result},
    transaction::Settled,
};

impl Call<'_> {
    #[inline]
    pub(in crate::server) fn ack(&mut self, ack: &basic::Ack) -> Result<()> {
        self.settle(Settled { tags: tags(ack.delivery_tag, ack.multiple), nack: None })
    }

    pub(in crate::server) fn nack(&mut self, nack: &basic::Nack) -> Result<()> {
        self.settle(Settled { tags: tags(nack.delivery_tag, nack.multiple), nack: Some(then(nack.requeue)) })
    }

    pub(in crate::server) fn reject(&mut self, reject: &basic::Reject) -> Result<()> {
        self.settle(Settled { tags: Tags::One(reject.delivery_tag), nack: Some(then(reject.requeue)) })
    }

    fn settle(&mut self, settled: Settled) -> Result<()> {
        if let Mode::Transaction(_) = self.channel.mode {
            self.settle_at_commit(settled)
        } else {
            self.settle_now(settled)
        }
    }

    #[inline]
    pub(super) fn settle_now(&self, Settled { tags, nack }: Settled) -> Result<()> {
        self.request(|engine| match nack {
            None => engine.ack(self.session, self.id(), tags, self.now),
            Some(then) => engine.nack(self.session, self.id(), tags, then, self.now),
        })
    }

    pub(in crate::server) fn recover(&mut self, recover: &basic::Recover) -> Result<()> {
        self.requeue_all(recover.requeue, true)
    }

    pub(in crate::server) fn recover_async(&mut self, recover: &basic::RecoverAsync) -> Result<()> {
        self.requeue_all(recover.requeue, false)
    }

    fn requeue_all(&self, requeue: bool, answer: bool) -> Result<()> {
        if !requeue {
            return Err(Exception::new(ReplyCode::NotImplemented, "requeue=false"));
        }
        match &self.channel.mode {
            // What is done with at the commit does not come back, even if that has not come yet.
            Mode::Transaction(transaction) => {
                let stay = transaction.tags();
                self.ask(|engine| engine.recover_others(self.session, self.id(), stay, self.now))?;
            }
            _ => self.ask(|engine| engine.recover(self.session, self.id(), self.now))?,
        }
        self.answer_unless(!answer, &basic::RecoverOk {});
        self.host.settle();
        Ok(())
    }
}

fn tags(tag: u64, multiple: bool) -> Tags {
    if multiple { Tags::UpTo(tag) } else { Tags::One(tag) }
}

fn then(requeue: bool) -> Nack {
    if requeue { Nack::Requeue } else { Nack::Discard }
}
