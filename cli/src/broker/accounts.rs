//! `homing broker user`, `vhost` and `permission`: on a broker that runs, and on the store of one that does not.

use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use homing_broker::server::{AccountStore, PasswordHash};
use homing_broker::store;
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use tokio::task::spawn_blocking;

use super::control::{self, Listing, Request, Response, TopicEntry};
use crate::args::{Format, Global, NewPassword, Permission, User, Vhost};
use crate::failure::Failure;
use crate::output::quoted;
use crate::stop::{Stop, or_interrupted};
use crate::{note, out, output};

/// How long a broker that starts or ends may take to answer, or to let go of its store.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is tried.
const AGAIN: Duration = Duration::from_millis(50);

/// The longest password that is read, in bytes, with its line end.
const LONGEST_PASSWORD: u64 = 4 << 10;

pub(super) async fn user(command: User, global: &Global, stop: Stop) -> Result<(), Failure> {
    match command {
        User::Add { name, tags, password, data } => {
            let given = data.data.as_ref().map(|data| format!(" --data {}", quoted(&data.display().to_string())));
            let data = super::data(data.data)?;
            let password = if password.no_password { None } else { Some(hashed(&password, stop.clone()).await?) };
            let request = Request::AddUser { name: name.clone(), password, tags };
            change(&data, request, stop).await?;
            let name = quoted(&name);
            note!(
                "the user may do nothing yet: `homing broker permission set {name} '.*' '.*' '.*'{}` lets it do everything in /",
                given.unwrap_or_default()
            );
            Ok(())
        }
        User::Remove { name, data } => change(&super::data(data.data)?, Request::RemoveUser { name }, stop).await,
        User::Password { name, password, data } => {
            let data = super::data(data.data)?;
            let password = if password.no_password { None } else { Some(hashed(&password, stop.clone()).await?) };
            change(&data, Request::SetPassword { name, password }, stop).await
        }
        User::Tags { name, tags, data } => {
            change(&super::data(data.data)?, Request::SetTags { name, tags }, stop).await
        }
        User::List { data } => {
            let listing = list(&super::data(data.data)?, stop).await?;
            match global.output.format {
                Format::Json => listing.users.iter().try_for_each(|user| out!("{}", json(user))),
                Format::Text => {
                    let mut rows = vec![["user", "tags", "password"].map(str::to_owned)];
                    rows.extend(listing.users.into_iter().map(|user| {
                        let password = if user.has_password { "yes" } else { "none" };
                        [user.name, user.tags.join(" "), password.to_owned()]
                    }));
                    output::table(rows)
                }
            }
        }
    }
}

pub(super) async fn vhost(command: Vhost, global: &Global, stop: Stop) -> Result<(), Failure> {
    match command {
        Vhost::Add { name, data } => change(&super::data(data.data)?, Request::AddVhost { name }, stop).await,
        Vhost::Remove { name, data } => change(&super::data(data.data)?, Request::RemoveVhost { name }, stop).await,
        Vhost::List { data } => {
            let listing = list(&super::data(data.data)?, stop).await?;
            listing.vhosts.iter().try_for_each(|name| match global.output.format {
                Format::Json => out!("{}", serde_json::json!({ "name": name })),
                Format::Text => out!("{}", output::without_controls(name)),
            })
        }
    }
}

pub(super) async fn permission(command: Permission, global: &Global, stop: Stop) -> Result<(), Failure> {
    match command {
        Permission::Set { user, configure, write, read, vhost, data } => {
            let request = Request::SetPermissions { user, vhost, configure, write, read };
            change(&super::data(data.data)?, request, stop).await
        }
        Permission::Clear { user, vhost, data } => {
            change(&super::data(data.data)?, Request::ClearPermissions { user, vhost }, stop).await
        }
        Permission::SetTopic { user, exchange, write, read, vhost, data } => {
            let request = Request::SetTopicPermissions { user, vhost, exchange, write, read };
            change(&super::data(data.data)?, request, stop).await
        }
        Permission::ClearTopic { user, exchange, vhost, data } => {
            change(&super::data(data.data)?, Request::ClearTopicPermissions { user, vhost, exchange }, stop).await
        }
        Permission::ListTopic { data } => list_topics(&super::data(data.data)?, global, stop).await,
        Permission::List { data } => {
            let listing = list(&super::data(data.data)?, stop).await?;
            match global.output.format {
                Format::Json => listing.permissions.iter().try_for_each(|entry| out!("{}", json(entry))),
                Format::Text => {
                    let mut rows = vec![["user", "vhost", "configure", "write", "read"].map(str::to_owned)];
                    rows.extend(
                        listing
                            .permissions
                            .into_iter()
                            .map(|entry| [entry.user, entry.vhost, entry.configure, entry.write, entry.read]),
                    );
                    output::table(rows)
                }
            }
        }
    }
}

async fn list_topics(data: &Path, global: &Global, stop: Stop) -> Result<(), Failure> {
    let listing = list(data, stop).await?;
    match global.output.format {
        Format::Json => listing.topics.iter().try_for_each(|entry| out!("{}", json(entry))),
        Format::Text => {
            let mut rows = vec![["user", "vhost", "exchange", "write", "read"].map(str::to_owned)];
            let row = |entry: TopicEntry| [entry.user, entry.vhost, entry.exchange, entry.write, entry.read];
            rows.extend(listing.topics.into_iter().map(row));
            output::table(rows)
        }
    }
}

fn json(entry: &impl serde::Serialize) -> String {
    serde_json::to_string(entry).unwrap_or_default()
}

/// Makes a change, wherever it has to be made.
async fn change(data: &Path, request: Request, stop: Stop) -> Result<(), Failure> {
    let offline = request.clone();
    let work = move |mut store: AccountStore| {
        let refused = |reason: String| Failure::Other(reason);
        let Some(change) = offline.clone().change().map_err(refused)? else { return Ok(Response::Done) };
        store.change(&change).map_err(|error| refused(error.to_string()))?;
        store.close().map_err(|error| refused(error.to_string()))?;
        Ok(Response::Done)
    };
    or_interrupted(stop, either(data, &request, work)).await.map(|_| ())
}

async fn list(data: &Path, stop: Stop) -> Result<Listing, Failure> {
    if !data.is_dir() {
        let hint = "`homing broker run` makes it; --data names another one".to_owned();
        let failure = Failure::Other(format!("there is no broker's directory {}", data.display()));
        return Err(Failure::Advised(Box::new(failure), hint));
    }
    let work = |store: AccountStore| Ok(Response::Accounts(store.accounts().into()));
    match or_interrupted(stop, either(data, &Request::Accounts, work)).await? {
        Response::Accounts(listing) => Ok(listing),
        other => Err(Failure::Other(format!("the broker has answered something else: {other:?}"))),
    }
}

/// Works on the store, or has the broker that has it open do so.
async fn either(
    data: &Path,
    request: &Request,
    work: impl Fn(AccountStore) -> Result<Response, Failure> + Clone + Send + 'static,
) -> Result<Response, Failure> {
    let begun = Instant::now();
    loop {
        let (directory, work) = (data.to_owned(), work.clone());
        // `None` if another process has the store.
        let tried = spawn_blocking(move || match AccountStore::open(&directory) {
            Ok(store) => work(store).map(Some),
            Err(error) if error.kind() == store::ErrorKind::Locked => Ok(None),
            Err(error) => Err(Failure::Other(error.to_string())),
        });
        if let Some(done) = tried.await.map_err(|error| Failure::Other(error.to_string()))?? {
            return Ok(done);
        }
        match control::ask(data, request).await? {
            Some(Response::Refused(reason)) => return Err(Failure::Other(reason)),
            Some(response) => return Ok(response),
            // It starts or ends.
            None if begun.elapsed() < PATIENCE => tokio::time::sleep(AGAIN).await,
            None => {
                return Err(Failure::Other(format!(
                    "another process has the broker's directory {} open, and answers no commands",
                    data.display()
                )));
            }
        }
    }
}

/// The password that the user gives, hashed.
async fn hashed(given: &NewPassword, stop: Stop) -> Result<String, Failure> {
    let password = match &given.password_file {
        Some(path) => from_file(path)?,
        None => from_input(stop).await?,
    };
    let hash = spawn_blocking(move || PasswordHash::new(&password));
    let hash = hash.await.map_err(|error| Failure::Other(error.to_string()))?;
    hash.map(|hash| hash.as_str().to_owned()).map_err(|error| Failure::Usage(error.to_string()))
}

fn from_file(path: &PathBuf) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::Other(format!("{} cannot be read: {error}", path.display()));
    first_line(std::fs::File::open(path).map_err(failed)?).map_err(failed)
}

fn first_line(input: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    input.take(LONGEST_PASSWORD).read_to_string(&mut text)?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

/// From a person, or from what standard input is.
async fn from_input(mut stop: Stop) -> Result<String, Failure> {
    let failed = |error: std::io::Error| Failure::Other(format!("the password cannot be read: {error}"));
    if !std::io::stdin().is_terminal() {
        return spawn_blocking(|| first_line(std::io::stdin().lock()))
            .await
            .map_err(|error| Failure::Other(error.to_string()))?
            .map_err(failed);
    }
    let shown = tcgetattr(std::io::stdin()).map_err(|error| failed(error.into()))?;
    let mut hidden = shown.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    hidden.local_flags.insert(LocalFlags::ECHONL);
    tcsetattr(std::io::stdin(), SetArg::TCSAFLUSH, &hidden).map_err(|error| failed(error.into()))?;
    let asked = async {
        let first = typed("Password: ").await?;
        if typed("The same again: ").await? == first {
            Ok(first)
        } else {
            Err(Failure::Usage("the two passwords are not the same".to_owned()))
        }
    };
    let answered = tokio::select! {
        answered = asked => answered,
        signal = stop.wait() => Err(Failure::Interrupted(signal, None)),
    };
    // Whatever came of it, the terminal shows again what is typed.
    let _ = tcsetattr(std::io::stdin(), SetArg::TCSANOW, &shown);
    answered
}

/// A line that a person types.
async fn typed(question: &'static str) -> Result<String, Failure> {
    output::write_err(question.as_bytes());
    let read = spawn_blocking(|| {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map(|_| line.trim_end_matches(['\r', '\n']).to_owned())
    });
    let read = read.await.map_err(|error| Failure::Other(error.to_string()))?;
    read.map_err(|error| Failure::Other(format!("the password cannot be read: {error}")))
}
