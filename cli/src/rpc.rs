//! `homing rpc call` and `homing rpc serve`.

use homing::{RpcRequest, RpcSubscriber};

use crate::args::{Global, Rpc};
use crate::exec::Responder;
use crate::failure::Failure;
use crate::stop::{Stop, or_interrupted};
use crate::{close, connect, connect_to_stay, values};

pub(crate) async fn run(command: Rpc, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    match command {
        Rpc::Call { recipient, body, timeout } => {
            let body = values::read_body(&body)?;
            let communicator = connect(global).await?;
            let mut call = communicator.rpc_send(recipient, body);
            if let Some(timeout) = timeout {
                call = call.timeout(timeout);
            }
            let answer = or_interrupted(stop, async { Ok(call.await?) }).await;
            let closed = close(&communicator).await;
            values::print(&answer?, global.format)?;
            closed
        }
        Rpc::Serve { identifier, handler } => {
            let communicator = connect_to_stay(global).await?;
            let (responder, all_ended) = Responder::new(handler, &stop);
            let subscriber =
                RpcSubscriber::future(move |request: RpcRequest| responder.clone().answer(request.into_body()));
            let mut events = communicator.events();
            let identifier = communicator.add_rpc_subscriber(identifier, subscriber).await?;
            eprintln!("homing: answering calls to {identifier:?} until Ctrl-C", identifier = identifier.as_str());
            tokio::select! {
                () = stop.wait() => {
                    // A command in hand has been told to end, and its caller hears `cancelled`.
                    communicator.remove_rpc_subscriber(&identifier).await?;
                    all_ended.wait().await;
                    close(&communicator).await
                }
                failure = crate::task::lost(&mut events) => Err(failure),
            }
        }
    }
}
