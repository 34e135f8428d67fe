//! Ctrl-C and SIGTERM, as something to wait for.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::failure::Failure;

/// Tells many that the command is to end.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Listens from now on. A second signal ends the process at once.
    pub(crate) fn on_signals() -> Result<Self, Failure> {
        let (tell, told) = watch::channel(false);
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::spawn(async move {
            for first in [true, false] {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if !first {
                    std::process::exit(130);
                }
                tracing::info!("ending");
                tell.send_replace(true);
            }
        });
        Ok(Stop(told))
    }

    /// Resolves when the command is to end.
    pub(crate) async fn wait(&mut self) {
        // The sender lives as long as the process.
        if self.0.wait_for(|stop| *stop).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Does something unless a signal comes first.
pub(crate) async fn or_interrupted<T>(
    mut stop: Stop,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        () = stop.wait() => Err(Failure::Other("interrupted".to_owned())),
    }
}
