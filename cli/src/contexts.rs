//! `homing context`: brokers and names under a name of their own, kept in a file.
//!
//! The file can be written by hand: TOML, one table `[contexts.NAME]` each, and `use = "NAME"`. A password is best kept
//! outside of it (`password_file`, `password_command`); the file is readable by its owner only, and no password of it is
//! printed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use homing::Value;
use homing::codec::Map;
use serde::{Deserialize, Serialize};

use crate::args::{BrokerOptions, Context, ContextOptions, Format, Global};
use crate::failure::Failure;
use crate::{DEFAULT_BROKER, note, out, values};

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
    /// `Other` when the password cannot be had; `Usage` for a file name that is no UTF-8.
    pub(crate) fn url(&self) -> Result<Option<String>, Failure> {
        let password = self.password()?;
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
        if password.is_none() && files.is_empty() {
            return Ok(self.broker.clone());
        }
        let url = self.broker.as_deref().unwrap_or(DEFAULT_BROKER);
        Ok(Some(completed(url, password.as_deref(), &files)?))
    }

    fn password(&self) -> Result<Option<String>, Failure> {
        let text = if let Some(file) = &self.password_file {
            fs::read_to_string(file).map_err(|error| {
                Failure::Other(format!("the password file {} cannot be read: {error}", file.display()))
            })?
        } else if let Some(command) = &self.password_command {
            let printed = Command::new("/bin/sh")
                .args(["-c", command])
                .stdin(Stdio::null())
                .stderr(Stdio::inherit())
                .output()
                .map_err(|error| Failure::Other(format!("the password command cannot be started: {error}")))?;
            if !printed.status.success() {
                return Err(Failure::Other(format!("the password command ended with {}", printed.status)));
            }
            String::from_utf8(printed.stdout)
                .map_err(|_| Failure::Other("the output of the password command is not UTF-8".to_owned()))?
        } else {
            return Ok(None);
        };
        match text.lines().next() {
            Some(password) if !password.is_empty() => Ok(Some(password.to_owned())),
            _ => Err(Failure::Other("the password of the context is empty".to_owned())),
        }
    }

    /// The URL as it may be shown.
    fn shown(&self) -> String {
        let url = self.broker.as_deref().unwrap_or(DEFAULT_BROKER);
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

/// Puts a password and options into a URL.
fn completed(url: &str, password: Option<&str>, options: &[String]) -> Result<String, Failure> {
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
    for option in options {
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
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(path) = options.config.clone().or_else(|| set("HOMING_CONFIG")) {
        return Ok(path);
    }
    let folder = set("XDG_CONFIG_HOME").filter(|folder| folder.is_absolute());
    folder
        .or_else(|| set("HOME").map(|home| home.join(".config")))
        .map(|folder| folder.join("homing").join("config.toml"))
        .ok_or_else(|| Failure::Usage("neither HOME nor XDG_CONFIG_HOME is set; give the file by --config".to_owned()))
}

fn read(path: &Path) -> Result<File, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(File::default()),
        Err(error) => return Err(Failure::Other(format!("{} cannot be read: {error}", path.display()))),
    };
    toml::from_str(&text).map_err(|error| {
        // The whole error shows the line, which may hold a password.
        let line = error.span().map(|span| text[..span.start.min(text.len())].lines().count().max(1));
        let line = line.map_or(String::new(), |line| format!(", line {line}"));
        Failure::Usage(format!("{}{line}: {}", path.display(), error.message()))
    })
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

/// The context of this name.
///
/// # Errors
/// `Usage` when there is none.
pub(crate) fn named(options: &BrokerOptions, name: &str) -> Result<Saved, Failure> {
    let path = path(options)?;
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
            let saved = saved(global, options)?;
            saved.broker.as_deref().map(check_url).transpose()?;
            let old = file.contexts.insert(name.clone(), saved);
            write(&path, &file)?;
            note!("{} the context {name:?} in {}", if old.is_some() { "replaced" } else { "added" }, path.display());
        }
        Context::Use { name } => {
            if !file.contexts.contains_key(&name) {
                return Err(no_such(&file, &name));
            }
            file.in_use = Some(name);
            write(&path, &file)?;
        }
        Context::Remove { name } => {
            if file.contexts.remove(&name).is_none() {
                return Err(no_such(&file, &name));
            }
            file.in_use = file.in_use.filter(|in_use| *in_use != name);
            write(&path, &file)?;
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
fn check_url(url: &str) -> Result<(), Failure> {
    if url.starts_with("amqp://") || url.starts_with("amqps://") {
        return Ok(());
    }
    Err(Failure::Usage("the broker of a context begins with amqp:// or amqps://".to_owned()))
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
        ] {
            let options: Vec<String> = options.into_iter().map(str::to_owned).collect();
            assert_eq!(completed(url, password, &options).ok().as_deref(), Some(expected));
        }
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
