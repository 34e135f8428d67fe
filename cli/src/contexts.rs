//! `homing context`: brokers and names under a name of their own, kept in a file.
//!
//! The file can be written by hand: TOML, one table `[contexts.NAME]` each, and `use = "NAME"`. A password is best kept
//! outside of it (`password_file`, `password_command`); the file is readable by its owner only, and no password of it is
//! printed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use homing::Value;
use homing::codec::Map;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::args::{BrokerOptions, Context, ContextOptions, Format, Global};
use crate::failure::Failure;
use crate::groups::{self, Place};
use crate::output::quoted;
use crate::stop::Stop;
use crate::{note, out, places, values, warning};

/// The broker of a context that names none, in a file that was written by hand: RabbitMQ's own default.
const OF_A_CONTEXT: &str = "amqp://guest:guest@127.0.0.1:5672/";

#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// The context in use.
    #[serde(rename = "use", skip_serializing_if = "Option::is_none")]
    in_use: Option<String>,
    #[serde(default)]
    contexts: BTreeMap<String, Saved>,
}

/// One context.
#[derive(Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Saved {
    broker: Option<String>,
    pub prefix: Option<String>,
    pub message_exchange: Option<String>,
    pub task_exchange: Option<String>,
    pub task_queue: Option<String>,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    password_file: Option<PathBuf>,
    password_command: Option<String>,
}

impl std::fmt::Debug for Saved {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The URL may hold a password.
        f.debug_struct("Saved").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

impl Saved {
    /// The broker's URL, with the password and the TLS files in it.
    ///
    /// # Errors
    /// `Other` when the password cannot be had, `TimedOut` when it does not come by the deadline, `Interrupted` when a signal comes
    /// before it; `Usage` for a file name that is no UTF-8.
    pub(crate) fn url(&self, deadline: Option<Instant>, stop: &Stop) -> Result<String, Failure> {
        let password = self.password(deadline, stop)?;
        let mut files = Vec::new();
        for (name, file) in [("cacertfile", &self.ca_file), ("certfile", &self.cert_file), ("keyfile", &self.key_file)]
        {
            if let Some(file) = file {
                let file = file
                    .to_str()
                    .ok_or_else(|| Failure::Usage(format!("the file name {} is not UTF-8", file.display())))?;
                files.push(format!("{name}={}", percent(file)));
            }
        }
        let url = self.broker.as_deref().unwrap_or(OF_A_CONTEXT);
        if password.is_none() && files.is_empty() {
            return Ok(url.to_owned());
        }
        completed(url, password.as_deref(), &files)
    }

    fn password(&self, deadline: Option<Instant>, stop: &Stop) -> Result<Option<String>, Failure> {
        let text = if let Some(file) = &self.password_file {
            fs::read_to_string(file).map_err(|error| {
                Failure::Other(format!("the password file {} cannot be read: {error}", file.display()))
            })?
        } else if let Some(command) = &self.password_command {
            printed(command, deadline, stop.clone())?
        } else {
            return Ok(None);
        };
        match text.lines().next() {
            Some(password) if !password.is_empty() => Ok(Some(password.to_owned())),
            _ => Err(Failure::Other("the password of the context is empty".to_owned())),
        }
    }

    /// The URL as it may be shown; of several brokers each.
    fn shown(&self) -> String {
        shown_urls(self.broker.as_deref().unwrap_or(OF_A_CONTEXT))
    }

    fn to_value(&self, name: &str, in_use: bool) -> Value {
        let optional = |text: &Option<String>| text.as_deref().map_or(Value::Null, Value::from);
        let path =
            |path: &Option<PathBuf>| path.as_ref().map_or(Value::Null, |path| Value::from(path.display().to_string()));
        let mut map = Map::new();
        map.insert("name", name);
        map.insert("in_use", in_use);
        map.insert("broker", self.shown());
        map.insert("prefix", optional(&self.prefix));
        map.insert("message_exchange", optional(&self.message_exchange));
        map.insert("task_exchange", optional(&self.task_exchange));
        map.insert("task_queue", optional(&self.task_queue));
        map.insert("ca_file", path(&self.ca_file));
        map.insert("cert_file", path(&self.cert_file));
        map.insert("key_file", path(&self.key_file));
        map.insert("password_file", path(&self.password_file));
        // What it runs may hold a secret itself.
        map.insert("password_command", self.password_command.is_some());
        Value::Map(map)
    }
}

/// How long a password command may run before it is reported that it is waited for.
const SILENCE: Duration = Duration::from_secs(3);

/// How long a password command has to end after SIGTERM: one that asks at a terminal makes what is typed visible again. Shorter
/// than the time after which a signal ends this process.
const GRACE: Duration = Duration::from_millis(200);

/// How long a signal may be behind the end of a password command that it has ended, too; ten times that, where it ended by a signal.
const SIGNAL_COMES: Duration = Duration::from_millis(100);

/// What a password command prints. When this returns, the command has ended, whatever the reason.
fn printed(command: &str, deadline: Option<Instant>, stop: Stop) -> Result<String, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let bytes = runtime.block_on(output(command, deadline, stop))?;
    String::from_utf8(bytes).map_err(|_| Failure::Other("the output of the password command is not UTF-8".to_owned()))
}

/// With a terminal it stays in the process group of this command, so that it may ask there. Without one it has its own.
async fn output(command: &str, deadline: Option<Instant>, mut stop: Stop) -> Result<Vec<u8>, Failure> {
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", command]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let place = if fs::File::open("/dev/tty").is_ok() { Place::OurGroup } else { Place::OwnGroup };
    let (mut child, group) = groups::spawn_in(place, &mut shell, "password command of the context".to_owned())
        .map_err(|error| Failure::Other(format!("the password command cannot be started: {error}")))?;
    let waits = async {
        tokio::time::sleep(SILENCE).await;
        note!("waiting for the password command of the context");
        std::future::pending().await
    };
    let out_of_time = async {
        match deadline {
            Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
            None => std::future::pending().await,
        }
    };
    let interrupted =
        |signal| Failure::Interrupted(signal, Some("while the password command of the context ran; nothing was sent"));
    let failure = tokio::select! {
        ended = read_to_its_end(&mut child) => {
            let failed = |error| Failure::Other(format!("the password command failed: {error}"));
            let (bytes, status) = ended.map_err(failed)?;
            if status.success() {
                return Ok(bytes);
            }
            // Guards: Ctrl-C at a terminal, which both get, and the command may be faster.
            let soon = if status.signal().is_some() { 10 * SIGNAL_COMES } else { SIGNAL_COMES };
            return match tokio::time::timeout(soon, stop.wait()).await {
                Ok(signal) => Err(interrupted(signal)),
                Err(_) => Err(Failure::Other(format!("the password command ended with {status}"))),
            };
        }
        signal = stop.wait() => interrupted(signal),
        () = out_of_time => {
            let text = "timed out while the password command of the context ran; nothing was sent";
            Failure::TimedOut(text.to_owned())
        }
        never = waits => never,
    };
    group.end(&mut child, GRACE).await;
    Err(failure)
}

async fn read_to_its_end(child: &mut Child) -> io::Result<(Vec<u8>, ExitStatus)> {
    let mut bytes = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut bytes).await?;
    }
    Ok((bytes, child.wait().await?))
}

/// The URLs of a list of brokers, as the library separates them.
fn each_url(urls: &str) -> Vec<&str> {
    let mut each = Vec::new();
    let mut rest = urls;
    let lower = |text: &str| text.to_ascii_lowercase();
    let begins = |text: &str| ["amqp://", "amqps://"].iter().any(|scheme| lower(text.trim_start()).starts_with(scheme));
    // A comma may stand in a password, too.
    while let Some((end, _)) = rest.match_indices(',').find(|(at, _)| begins(&rest[at + 1..])) {
        each.push(rest[..end].trim());
        rest = &rest[end + 1..];
    }
    each.push(rest.trim());
    each
}

/// URLs as they may be shown, without passwords.
pub(crate) fn shown_urls(urls: &str) -> String {
    each_url(urls).into_iter().map(one_shown).collect::<Vec<_>>().join(",")
}

fn one_shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest.rfind('@') {
        // A password may have a slash in it that should have been escaped: nothing before the last @ is shown.
        Some(at) if at > end => format!("{scheme}://***@{}", &rest[at + 1..]),
        Some(at) => {
            let user = rest[..at].split(':').next().unwrap_or("");
            let hidden = if rest[..at].contains(':') { ":***" } else { "" };
            format!("{scheme}://{user}{hidden}@{}", &rest[at + 1..])
        }
        None => url.to_owned(),
    }
}

/// Puts a password and options into a URL; of several brokers into each.
fn completed(urls: &str, password: Option<&str>, options: &[String]) -> Result<String, Failure> {
    let completed = each_url(urls).into_iter().map(|url| one_completed(url, password, options));
    Ok(completed.collect::<Result<Vec<_>, _>>()?.join(","))
}

fn one_completed(url: &str, password: Option<&str>, options: &[String]) -> Result<String, Failure> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return Err(Failure::Usage(
            "the broker of the context is not a URL such as amqps://user@host/vhost".to_owned(),
        ));
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let authority = match password {
        None => authority.to_owned(),
        Some(password) => {
            let (user, host) = authority.rsplit_once('@').unwrap_or(("guest", authority));
            let user = user.split(':').next().unwrap_or("guest");
            format!("{user}:{}@{host}", percent(password))
        }
    };
    let mut url = format!("{scheme}://{authority}{tail}");
    // They are about TLS, and another broker of the context may be reached without it.
    for option in options.iter().filter(|_| scheme.eq_ignore_ascii_case("amqps")) {
        url.push(if url.contains('?') { '&' } else { '?' });
        url.push_str(option);
    }
    Ok(url)
}

fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Where the file is.
fn path(options: &BrokerOptions) -> Result<PathBuf, Failure> {
    if let Some(path) = options.config.clone().or_else(|| places::variable("HOMING_CONFIG")) {
        return Ok(path);
    }
    places::own_file("XDG_CONFIG_HOME", ".config", "config.toml", "--config")
}

fn read(path: &Path) -> Result<File, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(File::default()),
        Err(error) => return Err(Failure::Other(format!("{} cannot be read: {error}", path.display()))),
    };
    toml::from_str(&text).map_err(|error| {
        // The whole error shows the line, which may hold a password.
        let line = error.span().map(|span| line_at(&text, span.start));
        let line = line.map_or(String::new(), |line| format!(", line {line}"));
        Failure::Usage(format!("{}{line}: {}", path.display(), error.message()))
    })
}

/// The number of the line at this byte, from 1.
pub(crate) fn line_at(text: &str, byte: usize) -> usize {
    1 + text.bytes().take(byte).filter(|byte| *byte == b'\n').count()
}

/// Writes the whole file beside the old one, and puts it in its place.
fn write(path: &Path, file: &File) -> Result<(), Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::Other(format!("{} cannot be written: {error}", path.display()));
    let text = toml::to_string_pretty(file).map_err(|error| failed(&error))?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    }
    let new = path.with_extension(format!("toml.{}", std::process::id()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut out| out.write_all(text.as_bytes()).and_then(|()| out.sync_all()))
        .and_then(|()| fs::rename(&new, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&new);
        failed(&error)
    })
}

/// Refuses a file that the command line names and that is not there: its broker was to be used, and another one would be.
fn is_there(options: &BrokerOptions) -> Result<(), Failure> {
    match &options.config {
        Some(path) if matches!(path.try_exists(), Ok(false)) => Err(Failure::Usage(format!(
            "there is no file {}, which --config names; `homing --config {} context add NAME --broker URL` makes it",
            path.display(),
            quoted(&path.display().to_string())
        ))),
        _ => Ok(()),
    }
}

/// The context of this name.
///
/// # Errors
/// `Usage` when there is none.
pub(crate) fn named(options: &BrokerOptions, name: &str) -> Result<Saved, Failure> {
    let path = path(options)?;
    is_there(options)?;
    let file = read(&path)?;
    file.contexts.get(name).cloned().ok_or_else(|| no_such(&file, name))
}

/// The context in use, if there is one.
///
/// # Errors
/// `Usage` for a file that cannot be understood.
pub(crate) fn in_use(options: &BrokerOptions) -> Result<Option<Saved>, Failure> {
    // Without a home there is no file.
    let Ok(path) = path(options) else { return Ok(None) };
    is_there(options)?;
    let file = read(&path)?;
    match &file.in_use {
        None => Ok(None),
        Some(name) => file.contexts.get(name).cloned().map(Some).ok_or_else(|| no_such(&file, name)),
    }
}

fn no_such(file: &File, name: &str) -> Failure {
    let names: Vec<&str> = file.contexts.keys().map(String::as_str).collect();
    let there = if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) };
    Failure::Usage(format!("there is no context {name:?}; {there} (`homing context list`)"))
}

pub(crate) fn run(command: Context, global: &Global) -> Result<(), Failure> {
    let path = path(&global.broker)?;
    let mut file = read(&path)?;
    match command {
        Context::Add { name, options } => {
            check(&name)?;
            if global.broker.profile.is_some() || global.broker.aiida {
                return Err(Failure::Usage(
                    "a context holds a broker and names; a profile of AiiDA needs none: --profile or --aiida reads AiiDA's \
                     own configuration each time"
                        .to_owned(),
                ));
            }
            if global.broker.reconnect.is_some() || global.broker.context.is_some() {
                return Err(Failure::Usage(
                    "a context holds a broker and names; give --reconnect to the command that connects, and the broker by \
                     --broker"
                        .to_owned(),
                ));
            }
            let Some(url) = &global.broker.broker else {
                return Err(Failure::Usage(
                    "the broker of the context is missing; give it by --broker URL (HOMING_BROKER is not read here)"
                        .to_owned(),
                ));
            };
            check_url(url, &options)?;
            let saved = saved(global, options)?;
            let old = file.contexts.insert(name.clone(), saved);
            write(&path, &file)?;
            note!("{} the context {name:?} in {}", if old.is_some() { "replaced" } else { "added" }, path.display());
        }
        Context::Use { name } => {
            if !file.contexts.contains_key(&name) {
                return Err(no_such(&file, &name));
            }
            note!("the context {name:?} is the default from now on");
            file.in_use = Some(name);
            write(&path, &file)?;
            // In the order in which they are read.
            let set = |name: &&str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
            if let Some(variable) = ["HOMING_BROKER", "HOMING_CONTEXT"].into_iter().find(set) {
                warning!("{variable} is set here, and is used before it");
            }
        }
        Context::Remove { name } => {
            if file.contexts.remove(&name).is_none() {
                return Err(no_such(&file, &name));
            }
            file.in_use = file.in_use.filter(|in_use| *in_use != name);
            write(&path, &file)?;
            note!("removed the context {name:?}");
        }
        Context::List => list(&file, global.output.format)?,
    }
    Ok(())
}

fn check(name: &str) -> Result<(), Failure> {
    let plain = |c: char| c.is_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        return Err(Failure::Usage(format!(
            "{name:?} cannot be the name of a context: letters, digits and - _ . make one"
        )));
    }
    Ok(())
}

/// No part of it is repeated, for it may hold a password.
fn check_url(urls: &str, options: &ContextOptions) -> Result<(), Failure> {
    let password_elsewhere = options.password_file.is_some() || options.password_command.is_some();
    let with_tls = options.ca_file.is_some() || options.cert_file.is_some() || options.key_file.is_some();
    if urls.starts_with("local:") {
        // What else is wrong with it is found here, and not by each command that uses it.
        homing::inspect::target(&homing::Communicator::builder(urls))?;
        if password_elsewhere || with_tls {
            return Err(Failure::Usage(
                "local: has neither a password nor TLS: whoever is this user on this machine may use it; leave these options out"
                    .to_owned(),
            ));
        }
        return Ok(());
    }
    if with_tls && !each_url(urls).iter().any(|url| url.starts_with("amqps://")) {
        return Err(Failure::Usage(
            "amqp:// is not TLS: give the broker as amqps://, or leave out --ca-file, --cert-file and --key-file"
                .to_owned(),
        ));
    }
    for url in each_url(urls) {
        let Some(rest) = url.strip_prefix("amqp://").or_else(|| url.strip_prefix("amqps://")) else {
            return Err(Failure::Usage("the broker of a context begins with amqp://, amqps:// or local:".to_owned()));
        };
        let has_password = rest.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
        if password_elsewhere && has_password {
            return Err(Failure::Usage(
                "the broker's URL has a password, and --password-file or --password-command gives another; leave one out"
                    .to_owned(),
            ));
        }
    }
    Ok(())
}

fn saved(global: &Global, options: ContextOptions) -> Result<Saved, Failure> {
    let absolute = |file: Option<PathBuf>| -> Result<Option<PathBuf>, Failure> {
        // A context is used from other folders than the one it is made in.
        file.map(|file| std::path::absolute(file).map_err(Failure::from)).transpose()
    };
    let names = &global.names;
    Ok(Saved {
        broker: global.broker.broker.clone(),
        prefix: names.prefix.clone(),
        message_exchange: names.message_exchange.clone(),
        task_exchange: names.task_exchange.clone(),
        task_queue: names.task_queue.clone(),
        ca_file: absolute(options.ca_file)?,
        cert_file: absolute(options.cert_file)?,
        key_file: absolute(options.key_file)?,
        password_file: absolute(options.password_file)?,
        password_command: options.password_command,
    })
}

fn list(file: &File, format: Format) -> Result<(), Failure> {
    if file.contexts.is_empty() {
        note!("there are no contexts; `homing context add NAME --broker URL` makes one");
    }
    for (name, saved) in &file.contexts {
        let in_use = file.in_use.as_deref() == Some(name);
        match format {
            Format::Json => values::print(&saved.to_value(name, in_use), format)?,
            Format::Text => {
                let mark = if in_use { "*" } else { " " };
                let prefix = saved.prefix.as_ref().map_or(String::new(), |prefix| format!("  prefix {prefix}"));
                out!("{mark} {name}  {}{prefix}", saved.shown())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_and_files_are_put_into_the_url() {
        for (url, password, options, expected) in [
            ("amqp://u@h/v", Some("a b/@"), vec![], "amqp://u:a%20b%2F%40@h/v"),
            ("amqp://u:old@h:1", Some("new"), vec![], "amqp://u:new@h:1"),
            ("amqps://h?heartbeat=5", Some("p"), vec!["cacertfile=x"], "amqps://guest:p@h?heartbeat=5&cacertfile=x"),
            ("amqps://u:p@h/v", None, vec!["certfile=c", "keyfile=k"], "amqps://u:p@h/v?certfile=c&keyfile=k"),
            ("amqp://a,amqps://b", None, vec!["cacertfile=c"], "amqp://a,amqps://b?cacertfile=c"),
        ] {
            let options: Vec<String> = options.into_iter().map(str::to_owned).collect();
            assert_eq!(completed(url, password, &options).ok().as_deref(), Some(expected));
        }
    }

    #[test]
    fn each_of_several_brokers_is_shown_and_gets_the_password() {
        let urls = "amqp://u@a:1/v,amqps://w:sEcret@b";
        let shown = Saved { broker: Some(urls.to_owned()), ..Saved::default() }.shown();
        assert_eq!(shown, "amqp://u@a:1/v,amqps://w:***@b");
        assert_eq!(completed(urls, Some("p"), &[]).ok().as_deref(), Some("amqp://u:p@a:1/v,amqps://w:p@b"));
    }

    #[test]
    fn a_password_in_a_url_is_not_shown() {
        for url in [
            "amqp://u:sEcret@h/v",
            "amqp://u:sE/cret@h",
            "amqp://u:s:Ecret@h",
            "amqp://u:sEcr@et@h",
            "amqp://u:x?sEcret@h",
        ] {
            let shown = Saved { broker: Some(url.to_owned()), ..Saved::default() }.shown();
            assert!(!shown.contains("cret") && shown.ends_with("h") || shown.ends_with("h/v"), "{shown}");
            assert!(!shown.contains("cret") && !shown.contains("sE"), "{shown}");
        }
    }
}
