//! Confirms.

use crate::protocol::methods::confirm;
use crate::server::{
    call::Call,
    channel::Mode,
    confirms::Confirms,
    exception::{Exception, Result},
    peer::Selected,
};
use std::rc::Rc;

impl Call<'_> {
    pub(in crate::server) fn select_confirms(&mut self, select: &confirm::Select) -> Result<()> {
        match self.channel.mode {
            Mode::Plain => {
                let confirms = Confirms::new(self.number, self.peer.clone());
                self.channel.mode = Mode::Confirm(Rc::new(confirms));
                self.peer.select(self.number, Selected::Confirms);
            }
            Mode::Confirm(_) => {}
            Mode::Transaction(_) => return Err(Exception::precondition("cannot switch from tx to confirm mode")),
        }
        self.answer_unless(select.no_wait, &confirm::SelectOk {});
        Ok(())
    }
}
