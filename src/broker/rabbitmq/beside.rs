//! Questions about queues of which nobody else knows, many at once, on a channel of their own.
//!
//! A server answers the questions of a channel in their order, so that the next one can be asked before the last is answered. A
//! refusal closes the channel, and nobody knows whose it was: all that are under way fail. So this is for questions that are
//! refused to all or to none, and that can be asked again.

use std::fmt;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use lapin::Channel;
use lapin::options::QueueDeleteOptions;
use tokio::sync::{Mutex, Semaphore};
use tokio::time::timeout;

use super::errors;
use super::life::Life;
use super::link::Link;
use super::topology::{name, queue_declaration, settle};
use crate::broker::QueueSpec;
use crate::error::Result;
use crate::log::debug;
use crate::time::Progress;

/// How many are asked at once. A server that takes a millisecond for each answers all of them in good time.
const AT_ONCE: usize = 256;

pub(crate) struct Beside {
    link: Rc<Link>,
    life: Rc<Life>,
    address: Rc<str>,
    limit: Duration,
    channel: Mutex<Option<Channel>>,
    places: Semaphore,
    /// When a question was last answered.
    answered: Progress,
}

impl Beside {
    pub(crate) fn new(link: Rc<Link>, life: Rc<Life>, address: Rc<str>, limit: Duration) -> Self {
        let (channel, places) = (Mutex::new(None), Semaphore::new(AT_ONCE));
        Beside { link, life, address, limit, channel, places, answered: Progress::default() }
    }

    pub(crate) async fn declare_queue(&self, spec: &QueueSpec) -> Result<()> {
        let (name, options, arguments) = queue_declaration(spec)?;
        self.ask(format_args!("declare the queue {:?}", spec.name), async |channel| {
            channel.queue_declare(name, options, arguments).await.map(drop)
        })
        .await
    }

    /// How many messages went with it.
    pub(crate) async fn delete_queue(&self, queue: &str) -> Result<u32> {
        let name = name("queue name", queue)?;
        self.ask(format_args!("delete the queue {queue:?}"), async |channel| {
            channel.queue_delete(name, QueueDeleteOptions::default()).await
        })
        .await
    }

    async fn ask<T>(
        &self,
        what: fmt::Arguments<'_>,
        question: impl AsyncFnOnce(&Channel) -> lapin::Result<T>,
    ) -> Result<T> {
        self.life.check()?;
        let what = what.to_string();
        debug!(%what, "topology");
        let asked = async {
            let Some(_place) = self.answered.wait(self.limit, self.places.acquire()).await else { return Ok(None) };
            let answer = async { question(&self.channel().await?).await };
            let Ok(answer) = timeout(self.limit, answer).await else {
                // What this question still holds up must not hold up the next. Those beside it are asked again.
                if let Ok(mut channel) = self.channel.try_lock() {
                    *channel = None;
                }
                return Ok(None);
            };
            self.answered.note();
            Ok(Some(answer))
        };
        match self.life.until_end(pin!(asked)).await? {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(error)) => Err(settle(&self.life, &what, &error).await),
            None => Err(errors::timed_out(&what, &self.address, self.limit)),
        }
    }

    /// The channel; another one, where the last was closed.
    async fn channel(&self) -> lapin::Result<Channel> {
        let mut channel = self.channel.lock().await;
        if let Some(channel) = channel.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        Ok(channel.insert(self.link.open_channel().await?).clone())
    }
}
