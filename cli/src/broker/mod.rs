//! `homing broker`: a broker of our own, for every client of AMQP 0-9-1 on this machine.

mod accounts;
mod background;
mod config;
mod control;
mod definitions;
mod relocate;
mod secure;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use homing_broker::server::{AccountStore, DiskStorage, Limits, Management, Server};
use homing_broker::store::ErrorKind;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use self::config::{Settings, Storage};
use self::control::{Control, Request, Response, Served, Status};
use crate::args::{Broker, BrokerStop, Data, Format, Global};
use crate::failure::Failure;
use crate::places::{own_file, variable};
use crate::stop::{Stop, or_interrupted};
use crate::supervise::lifeline::Lifeline;
use crate::{note, out, output};

/// How often it is looked whether the broker still runs.
const LOOK: Duration = Duration::from_millis(200);

pub(crate) async fn run(command: Broker, global: &Global, stop: Stop) -> Result<(), Failure> {
    match command {
        Broker::Run(options) => serve(config::settings(options)?, None, global, stop).await,
        Broker::Start(options) => background::start(options, global, stop).await,
        Broker::Unit(options) => background::unit(&options),
        Broker::Status(options) => or_interrupted(stop, status(options, global)).await,
        Broker::Stop(options) => or_interrupted(stop, end(options)).await,
        Broker::Move(options) => relocate::run(options, global, stop).await,
        Broker::User(command) => accounts::user(command, global, stop).await,
        Broker::Vhost(command) => accounts::vhost(command, global, stop).await,
        Broker::Permission(command) => accounts::permission(command, global, stop).await,
    }
}

async fn serve(options: Settings, starter: Option<Lifeline>, global: &Global, mut stop: Stop) -> Result<(), Failure> {
    let mut builder = Server::builder();
    let tls = secure::load(&options)?;
    for listen in &options.listen {
        builder = secure::listen(builder, *listen, tls.as_ref())?;
    }
    if let Some(path) = &options.socket {
        builder = builder.listen_unix(path);
    }
    if let Some(bytes) = options.memory_limit {
        let mut limits = Limits::default();
        limits.memory = bytes;
        builder = builder.limits(limits);
    }
    let data = match options.storage {
        Storage::Nothing => None,
        Storage::Disk => Some(self::data(options.data)?),
    };
    if let Some(data) = &data {
        builder = builder.storage(DiskStorage::new(data));
    }
    // The store is read on the server's own thread, and this one waits for it.
    let server = tokio::task::spawn_blocking(move || builder.start());
    let server = server
        .await
        .map_err(|error| Failure::Other(error.to_string()))?
        .map_err(|error| Failure::Other(format!("the broker cannot start: {error}")))?;
    // Ends before the server does.
    let management = management(&server, &options.http)?;
    let (ask, mut asked) = mpsc::channel(1);
    // Before others learn that it is there: what they do next may be to ask it.
    let control = match &data {
        Some(data) => {
            let listening = addresses(&server).chain(http_places(management.as_ref()));
            let sockets = options.socket.iter().map(|path| path.display().to_string());
            let status = Status {
                pid: std::process::id(),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                since: output::now(),
                data: std::fs::canonicalize(data).unwrap_or_else(|_| data.clone()),
                listening: listening.chain(sockets).collect(),
                ..Status::default()
            };
            Some(Control::open(data, &Served { admin: server.admin(), status, stop: ask.clone() })?)
        }
        None => None,
    };
    for address in addresses(&server) {
        listening(&address, global.output.format)?;
    }
    if let Some(path) = &options.socket {
        listening(&path.display().to_string(), global.output.format)?;
    }
    for place in http_places(management.as_ref()) {
        listening(&place, global.output.format)?;
    }
    match &data {
        Some(data) => note!("what is durable is kept in {}", data.display()),
        None => note!("nothing is kept: everything goes with this broker"),
    }
    let _reloading = tls.map(secure::reload_at_hang_up).transpose()?;
    if let Some(mut starter) = starter {
        starter.up().await;
    }
    let is_asked = tokio::select! {
        _ = stop.wait() => true,
        // This end is kept open by the one above.
        _ = asked.recv() => true,
        () = stopped_by_itself(&server) => false,
    };
    if is_asked {
        note!("stopping: clients have {} s to agree; Ctrl-C again ends it at once", options.drain.as_secs());
    }
    drop(management);
    let drain = options.drain;
    let stopped = tokio::task::spawn_blocking(move || server.shutdown(drain));
    let stopped = stopped.await.map_err(|error| Failure::Other(error.to_string()))?;
    let how = stopped.failure.map_or(Ok(()), |failure| Err(format!("the broker stopped: {failure}")));
    if let Some(control) = control {
        control.ended(how.clone()).await;
    }
    how.map_err(Failure::Other)
}

/// Starts the management API, if there are addresses for it. Passwords go over it as they are, so it is for this machine alone.
fn management(server: &Server, addresses: &[SocketAddr]) -> Result<Option<Management>, Failure> {
    if let Some(address) = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback()) {
        return Err(Failure::Usage(format!(
            "--http {address}: other machines can reach this address, and passwords can be read on their way; use one of this machine"
        )));
    }
    if addresses.is_empty() {
        return Ok(None);
    }
    let started = Management::start(&server.admin(), addresses);
    started.map(Some).map_err(|error| Failure::Other(format!("the management API cannot start: {error}")))
}

/// Where clients of AMQP connect.
fn addresses(server: &Server) -> impl Iterator<Item = String> {
    let plain = server.addresses().iter().map(ToString::to_string);
    plain.chain(server.tls_addresses().iter().map(|address| format!("amqps://{address}")))
}

/// Where the management API is.
fn http_places(management: Option<&Management>) -> impl Iterator<Item = String> {
    management
        .into_iter()
        .flat_map(|management| management.addresses().iter().map(|address| format!("http://{address}")))
}

/// It cannot keep what it should.
async fn stopped_by_itself(server: &Server) {
    while !server.has_stopped() {
        tokio::time::sleep(LOOK).await;
    }
}

fn listening(place: &str, format: Format) -> Result<(), Failure> {
    match format {
        Format::Text => out!("listening on {place}"),
        Format::Json => out!("{}", serde_json::json!({ "listening": place })),
    }
}

/// The broker's directory: where it keeps what is durable.
fn data(given: Option<PathBuf>) -> Result<PathBuf, Failure> {
    match given.or_else(|| variable("HOMING_BROKER_DATA")) {
        Some(path) => Ok(path),
        None => own_file("XDG_DATA_HOME", ".local/share", "broker", "--data"),
    }
}

async fn status(options: Data, global: &Global) -> Result<(), Failure> {
    let data = data(options.data)?;
    match control::ask(&data, &Request::Status).await? {
        None => Err(nobody(&data)),
        Some(Response::Status(status)) => show(&status, global.output.format),
        Some(Response::Refused(reason)) => Err(Failure::Other(reason)),
        Some(other) => Err(Failure::Other(format!("the broker has answered something else: {other:?}"))),
    }
}

fn nobody(data: &Path) -> Failure {
    Failure::Nobody(format!("no broker runs on {}", data.display()))
}

fn show(status: &Status, format: Format) -> Result<(), Failure> {
    if format == Format::Json {
        return out!("{}", serde_json::to_string(status).unwrap_or_default());
    }
    out!("broker {} of version {}, since {}", status.pid, status.version, status.since)?;
    out!("kept in {}", output::without_controls(&status.data.display().to_string()))?;
    for place in &status.listening {
        out!("listening on {}", output::without_controls(place))?;
    }
    out!("{} connections", status.connections)?;
    if let Some(reason) = &status.blocked {
        out!("publishers are stopped: {}", output::without_controls(reason))?;
    }
    let mut rows = vec![["vhost", "queues", "messages"].map(str::to_owned)];
    rows.extend(
        status.vhosts.iter().map(|host| [host.name.clone(), host.queues.to_string(), host.messages.to_string()]),
    );
    output::table(rows)
}

/// Asks the broker to end, and waits until it has let go of its directory.
async fn end(options: BrokerStop) -> Result<(), Failure> {
    let data = data(options.data.data)?;
    let begun = Instant::now();
    match control::ask_within(&data, &Request::Stop, options.timeout).await {
        Ok(None) => return Err(nobody(&data)),
        Ok(Some(Response::Refused(reason))) => return Err(Failure::Other(reason)),
        Ok(Some(_)) => {}
        Err(Failure::TimedOut(_)) => return Err(not_ended()),
        Err(error) => return Err(error),
    }
    while begun.elapsed() < options.timeout {
        let data = data.clone();
        let opened = spawn_blocking(move || AccountStore::open(&data).map(drop));
        match opened.await.map_err(|error| Failure::Other(error.to_string()))? {
            Err(error) if error.kind() == ErrorKind::Locked => tokio::time::sleep(LOOK / 4).await,
            _ => return Ok(()),
        }
    }
    Err(not_ended())
}

fn not_ended() -> Failure {
    Failure::TimedOut("the broker was asked to end, and has not ended yet".to_owned())
}
