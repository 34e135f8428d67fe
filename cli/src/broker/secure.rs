//! The TLS of `homing broker run`, and which addresses may do without.

use std::fs::File;

use homing_broker::server::{ServerBuilder, Tls, TlsFiles};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{AbortHandle, spawn_blocking};

use super::config::Settings;
use crate::args::{Listen, Security};
use crate::failure::Failure;
use crate::{note, warning};

/// Reads certificate and key, if there are some.
///
/// # Errors
/// `Usage` where one option is there without the others that it needs; `Other` for files that cannot be used.
pub(super) fn load(options: &Settings) -> Result<Option<Tls>, Failure> {
    let first = options.listen.iter().find(|listen| listen.security == Security::Tls);
    match (&options.tls_cert, &options.tls_key, first) {
        (Some(certificate), Some(key), Some(_)) => {
            let files = TlsFiles::new(certificate, key);
            let files = match &options.tls_ca {
                None => files,
                Some(authorities) => files.client_ca(authorities),
            };
            Tls::load(files)
                .map(Some)
                .map_err(|error| Failure::Other(format!("there is no TLS with these files: {error}")))
        }
        (None, _, Some(listen)) | (_, None, Some(listen)) => {
            Err(Failure::Usage(format!("--listen {listen} needs a certificate: give --tls-cert and --tls-key")))
        }
        // Options for it are refused where nothing listens for it: `config`.
        (_, _, None) => Ok(None),
    }
}

/// Has the server listen there. Passwords go over a connection without TLS as they are, so that is for this machine alone.
pub(super) fn listen(builder: ServerBuilder, listen: Listen, tls: Option<&Tls>) -> Result<ServerBuilder, Failure> {
    match (listen.security, tls) {
        (Security::Tls, Some(tls)) => Ok(builder.allow_other_machines().listen_tls(listen.address, tls)),
        _ if !listen.address.ip().to_canonical().is_loopback() => Err(Failure::Other(format!(
            "--listen {listen}: other machines can reach this address, and passwords can be read on their way; use \
             amqps://{} with --tls-cert, or an address of this machine",
            listen.address
        ))),
        _ => Ok(builder.listen(listen.address)),
    }
}

/// Reads certificate and key again at each SIGHUP, for as long as this is kept. Where the broker has a terminal, that is how the
/// terminal's end arrives, and it ends the broker.
pub(super) fn reload_at_hang_up(tls: Tls) -> Result<Option<Reloading>, Failure> {
    if File::open("/dev/tty").is_ok() {
        return Ok(None);
    }
    let mut hang_up = signal(SignalKind::hangup())?;
    let reloading = tokio::spawn(async move {
        while hang_up.recv().await.is_some() {
            let tls = tls.clone();
            match spawn_blocking(move || tls.reload()).await {
                Ok(Ok(())) => note!("certificate and key were read again; who connects from now on gets them"),
                Ok(Err(error)) => warning!("the certificate stays as it was: {error}"),
                Err(error) => warning!("the certificate stays as it was: {error}"),
            }
        }
    });
    Ok(Some(Reloading(reloading.abort_handle())))
}

/// Ends the reading when it is dropped.
pub(super) struct Reloading(AbortHandle);

impl Drop for Reloading {
    fn drop(&mut self) {
        self.0.abort();
    }
}
