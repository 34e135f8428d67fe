//! How a process here is reached: its subscriber to calls, which is added and removed in the background.

use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::sync::{mpsc, oneshot, watch};

use super::super::run::{Message, moved};
use super::super::tools::RETRY_MOST;
use super::super::{ControlMessage, Pid};
use crate::{Answer, Communicator, ErrorKind, HandlerResult, RpcRequest, RpcSubscriber};

/// How long is waited before adding the subscriber is tried again: this, and then twice as long each time.
const RETRY_FIRST: Duration = Duration::from_millis(50);

/// How long the subscriber of a process that has ended is waited for, so that it can be removed in order.
const ADD_LIMIT: Duration = Duration::from_secs(1);

fn subscriber(pid: Pid, to_run: mpsc::UnboundedSender<Message>) -> RpcSubscriber {
    RpcSubscriber::future(move |request: RpcRequest| {
        let (pid, to_run) = (pid.clone(), to_run.clone());
        async move {
            let message = ControlMessage::try_from(request.body())?;
            let is_status = matches!(message, ControlMessage::Status(_));
            let (asker, answer) = oneshot::channel();
            to_run.send(Message::Control(message, Some(asker))).map_err(|_| moved(&pid))?;
            let answer = async move { answer.await.unwrap_or_else(|_| Err(moved(&pid))) };
            // plumpy's coroutine controller wants a status at once, and everything else later: by one `pending`, no more.
            if is_status { answer.await.map(Into::into) } else { HandlerResult::Ok(Answer::later(answer)) }
        }
    })
}

/// Keeps a process reachable until it ends: adds its subscriber, as often as it takes, and removes it in the end.
///
/// `reachable` turns true when it is there; `removed` resolves, by its drop, when no request comes any more.
pub(super) async fn keep_reachable(
    communicator: Communicator,
    pid: Pid,
    to_run: mpsc::UnboundedSender<Message>,
    reachable: watch::Sender<bool>,
    ends: oneshot::Receiver<()>,
    removed: oneshot::Sender<()>,
) {
    let _removed = removed;
    let mut ends = std::pin::pin!(ends);
    let mut is_over = false;
    {
        let mut adding = std::pin::pin!(add(&communicator, &pid, &to_run));
        let added = tokio::select! {
            biased;
            added = &mut adding => added,
            _ = &mut ends => {
                is_over = true;
                // Guards: a process that ends while its subscriber is being added. Given up at that moment, the subscriber would
                // be reported as one whose home has ended.
                let limit = std::pin::pin!(communicator.sleep(ADD_LIMIT));
                match select(adding, limit).await {
                    Either::Left((added, _)) => added,
                    // Dropped before it is there, the subscriber is taken out again.
                    Either::Right(_) => return,
                }
            }
        };
        if !added {
            return;
        }
    }
    drop(to_run);
    reachable.send_replace(true);
    if !is_over {
        let _ = ends.await;
    }
    if let Err(error) = communicator.remove_rpc_subscriber(&pid).await {
        crate::log::debug!(%error, %pid, "the subscriber of a process is gone already");
    }
}

/// False where it never can be.
async fn add(communicator: &Communicator, pid: &Pid, to_run: &mpsc::UnboundedSender<Message>) -> bool {
    let mut pause = RETRY_FIRST;
    loop {
        let subscriber = subscriber(pid.clone(), to_run.clone());
        let Err(error) = communicator.add_rpc_subscriber(pid, subscriber).await else { return true };
        let for_good =
            matches!(error.kind(), ErrorKind::CommunicatorClosed | ErrorKind::HomeEnded | ErrorKind::InvalidArgument);
        if for_good {
            crate::log::warn!(%error, %pid, "a process cannot be called");
            return false;
        }
        crate::log::warn!(%error, %pid, ?pause, "a process cannot be called yet; it is tried again");
        if communicator.sleep(pause).await.is_err() {
            return false;
        }
        pause = (pause * 2).min(RETRY_MOST);
    }
}
