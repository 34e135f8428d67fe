//! AiiDA's own configuration: which broker a profile has, and by which names.
//!
//! What AiiDA 2.9 does is done here: the folder (`AIIDA_PATH`), `config.json`, the URL that a profile's broker has, and the
//! prefix of its exchanges and its queue. No error repeats anything of a profile but its name and its backend's.

use std::fmt;
use std::fs;
use std::io;
use std::net::Ipv6Addr;
use std::path::PathBuf;

use serde_json::{Map, Value};

use crate::args::{BrokerOptions, Command, Process, Worker};
use crate::failure::Failure;

const FOLDER: &str = ".aiida";
const FILE: &str = "config.json";

/// What AiiDA asks for where neither the profile nor its parameters do.
const HEARTBEAT: &str = "600";

/// Where a profile's processes are.
pub(crate) struct Profile {
    /// With the password in it.
    pub url: String,
    pub prefix: String,
    /// A profile for tests has its exchanges and its queue in kiwipy's testing mode.
    pub testing: bool,
}

impl fmt::Debug for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Profile").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// That a command is for AiiDA's processes, if it is given a profile of AiiDA.
///
/// # Errors
/// `Usage` for a command that only homing's own processes have, with what AiiDA has instead.
pub(crate) fn check(command: &Command, options: &BrokerOptions) -> Result<(), Failure> {
    if options.profile.is_none() && !options.aiida {
        return Ok(());
    }
    let store = "reads the store of homing's own workers, and AiiDA keeps its processes in a storage of its own";
    let (name, why, instead) = match command {
        Command::Process(Process::List { .. }) => ("process list", store, "`verdi process list` shows them"),
        Command::Process(Process::Show { .. }) => ("process show", store, "`verdi process show PK` shows one"),
        Command::Process(Process::Report(_)) => ("process report", store, "`verdi process report PK` shows its log"),
        Command::Process(Process::Repair { .. }) => ("process repair", store, "`verdi process repair` repairs them"),
        // Guards: tasks of AiiDA's that such a worker would take, and could do nothing with.
        Command::Worker(Worker { command: None, .. }) => (
            "worker",
            "cannot run AiiDA's processes, and would take their tasks",
            "`verdi daemon start` starts a worker",
        ),
        Command::Run(_) => {
            ("run", "has a worker of homing's own run a program, and AiiDA has none", "leave the profile out")
        }
        _ => return Ok(()),
    };
    Err(Failure::Usage(format!("`homing {name}` {why}; {instead}")))
}

/// The profile of this name, or AiiDA's default profile.
///
/// # Errors
/// `Usage` when there is none, or none that can be reached; `Other` for a file that cannot be read.
pub(crate) fn profile(name: Option<&str>) -> Result<Profile, Failure> {
    let path = folder(|name| std::env::var_os(name).map(PathBuf::from))?.join(FILE);
    let text = fs::read_to_string(&path).map_err(|error| {
        let shown = path.display();
        if error.kind() == io::ErrorKind::NotFound {
            Failure::Usage(format!(
                "there is no configuration of AiiDA in {shown}: set AIIDA_PATH to the folder that has {FOLDER}, or give the \
                 broker and the prefix by --broker and --prefix"
            ))
        } else {
            Failure::Other(format!("AiiDA's configuration {shown} cannot be read: {error}"))
        }
    })?;
    read(&text, name).map_err(|why| Failure::Usage(format!("{}: {why}", path.display())))
}

/// AiiDA's folder: of those that `AIIDA_PATH` names the first that is there, else the last; without it the one in the home.
fn folder(variable: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, Failure> {
    let home = || {
        let home = variable("HOME").filter(|home| !home.as_os_str().is_empty());
        home.ok_or_else(|| {
            Failure::Usage("neither AIIDA_PATH nor HOME is set; set AIIDA_PATH to AiiDA's folder".to_owned())
        })
    };
    let mut last = None;
    for named in std::env::split_paths(&variable("AIIDA_PATH").unwrap_or_default()) {
        if named.as_os_str().is_empty() {
            continue;
        }
        let named = match named.strip_prefix("~") {
            Ok(rest) => home()?.join(rest),
            Err(_) => named,
        };
        let folder = if named.file_name().is_some_and(|name| name == FOLDER) { named } else { named.join(FOLDER) };
        if folder.is_dir() {
            return Ok(folder);
        }
        last = Some(folder);
    }
    last.map_or_else(|| Ok(home()?.join(FOLDER)), Ok)
}

/// The profile in a configuration.
///
/// # Errors
/// What is wrong with it, and what to do.
fn read(text: &str, name: Option<&str>) -> Result<Profile, String> {
    // Errors of the syntax name the place, and repeat nothing.
    let config: Value = serde_json::from_str(text).map_err(|error| format!("it is not JSON: {error}"))?;
    let profiles = match config.get("profiles") {
        Some(Value::Object(profiles)) if !profiles.is_empty() => profiles,
        None | Some(Value::Object(_)) => return Err("there are no profiles; `verdi presto` makes one".to_owned()),
        Some(_) => return Err("its profiles are no JSON object; it is no configuration of AiiDA".to_owned()),
    };
    let known = profiles.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    let name = match (name, config.get("default_profile")) {
        (Some(name), _) => name,
        (None, Some(Value::String(name))) => name,
        (None, _) => {
            return Err(format!(
                "no profile is the default one; give one by --profile NAME, or `verdi profile set-default NAME`; there are \
                 {known}"
            ));
        }
    };
    let profile = profiles.get(name).ok_or_else(|| format!("there is no profile {name:?}; there are {known}"))?;
    located(name, profile).map_err(|why| format!("the profile {name:?} {why}"))
}

fn located(name: &str, profile: &Value) -> Result<Profile, String> {
    const TO_DO: &str = "`verdi -p NAME profile configure-broker core.rabbitmq` (in older versions `configure-rabbitmq`) gives \
                         it one";
    let to_do = TO_DO.replace("NAME", name);
    let uuid = match profile.get("PROFILE_UUID").and_then(Value::as_str) {
        Some(uuid) if !uuid.is_empty() => uuid,
        _ => {
            return Err(
                "has no PROFILE_UUID, by which its queues are named; run `verdi status` with it once".to_owned()
            );
        }
    };
    let control = profile.get("process_control");
    match control.and_then(|control| control.get("backend")) {
        Some(Value::String(backend)) if backend == "core.rabbitmq" || backend == "rabbitmq" => {}
        Some(Value::String(backend)) => {
            return Err(format!(
                "has its processes on {backend}, which homing cannot reach, for it is no AMQP broker; use verdi, or a profile \
                 with RabbitMQ: {to_do}"
            ));
        }
        None | Some(Value::Null) => {
            return Err(format!("has no broker, and so no processes that can be reached; {to_do}"));
        }
        Some(_) => return Err("has a process_control.backend that is no string".to_owned()),
    }
    let nothing = Map::new();
    let config = match control.and_then(|control| control.get("config")) {
        None | Some(Value::Null) => &nothing,
        Some(Value::Object(config)) => config,
        Some(_) => return Err("has a process_control.config that is no JSON object".to_owned()),
    };
    Ok(Profile {
        url: url(config)?,
        prefix: format!("aiida-{uuid}"),
        testing: profile.get("test_profile") == Some(&Value::Bool(true)),
    })
}

/// The URL as AiiDA makes it, with escapes where its own would come apart.
fn url(config: &Map<String, Value>) -> Result<String, String> {
    let part = |name: &str, default: &str| match config.get(&format!("broker_{name}")) {
        None | Some(Value::Null) => Ok(default.to_owned()),
        Some(Value::String(text)) if text.is_empty() => Ok(default.to_owned()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        Some(_) => Err(format!("has a broker_{name} that is neither a string nor a number")),
    };
    let (scheme, port) = (part("protocol", "amqp")?, part("port", "5672")?);
    if !matches!(scheme.as_str(), "amqp" | "amqps") {
        return Err("has a broker_protocol that is neither amqp nor amqps".to_owned());
    }
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err("has a broker_port that is no number from 1 to 65535".to_owned());
    }
    let host = part("host", "127.0.0.1")?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(&host);
    let host = if bare.parse::<Ipv6Addr>().is_ok() {
        format!("[{bare}]")
    } else if host.chars().all(|c| c.is_alphanumeric() || "-._".contains(c)) {
        host
    } else {
        return Err(
            "has a broker_host that is neither a name nor an address; its port belongs into broker_port".to_owned()
        );
    };
    let vhost = part("virtual_host", "")?;
    let vhost = escaped(vhost.strip_prefix('/').unwrap_or(&vhost));
    // They are what the broker is to get, letter by letter; AiiDA too escapes all of them.
    let (user, password) = (escaped_whole(&part("username", "guest")?), escaped_whole(&part("password", "guest")?));
    let mut query = String::new();
    let mut add = |name: &str, value: &str| {
        query.push(if query.is_empty() { '?' } else { '&' });
        query.push_str(&format!("{}={}", escaped(name), escaped(value)));
    };
    let nothing = Map::new();
    let parameters = match config.get("broker_parameters") {
        None | Some(Value::Null) => &nothing,
        Some(Value::Object(parameters)) => parameters,
        Some(_) => return Err("has broker_parameters that are no JSON object".to_owned()),
    };
    if !parameters.contains_key("heartbeat") {
        add("heartbeat", HEARTBEAT);
    }
    for (name, value) in parameters {
        match value {
            Value::String(text) => add(name, text),
            Value::Number(_) | Value::Bool(_) => add(name, &value.to_string()),
            _ => return Err(format!("has a broker_parameters.{name} that is neither a string nor a number")),
        }
    }
    Ok(format!("{scheme}://{user}:{password}@{host}:{port}/{vhost}{query}"))
}

/// Escapes all that may have a meaning in a URL.
fn escaped_whole(text: &str) -> String {
    escaped(&text.replace('%', "%25"))
}

/// Escapes what has a meaning in a URL, and leaves escapes that are there: AiiDA puts a virtual host into the URL as it is.
fn escaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    for (at, byte) in bytes.iter().enumerate() {
        let is_escape =
            *byte == b'%' && bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) || is_escape {
            out.push(char::from(*byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::Parser;

    use serde_json::json;

    use super::*;

    fn folder_of(variables: &[(&str, &Path)]) -> Option<PathBuf> {
        folder(|wanted| variables.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_path_buf())).ok()
    }

    fn with(control: &Value) -> String {
        json!({"default_profile": "main", "profiles": {"main": {"PROFILE_UUID": "0f-AB", "process_control": control}}})
            .to_string()
    }

    fn rabbitmq(config: &Value) -> Result<Profile, String> {
        read(&with(&json!({"backend": "core.rabbitmq", "config": config})), None)
    }

    #[test]
    fn the_url_is_the_one_that_aiida_makes() {
        for (config, expected) in [
            (json!({}), "amqp://guest:guest@127.0.0.1:5672/?heartbeat=600"),
            (json!(null), "amqp://guest:guest@127.0.0.1:5672/?heartbeat=600"),
            (
                json!({"broker_protocol": "amqps", "broker_username": "ada", "broker_password": "p%40s/s@", "broker_host": "h",
                    "broker_port": "5671", "broker_virtual_host": "/a/b", "broker_parameters": {"heartbeat": 30, "cafile": "/c a"}}),
                "amqps://ada:p%2540s%2Fs%40@h:5671/a%2Fb?heartbeat=30&cafile=%2Fc%20a",
            ),
            (
                json!({"broker_host": "::1", "broker_port": 5673, "broker_virtual_host": "", "broker_parameters": {}}),
                "amqp://guest:guest@[::1]:5673/?heartbeat=600",
            ),
            (
                json!({"broker_virtual_host": "%2Fx", "broker_username": "%41", "broker_password": "100%"}),
                "amqp://%2541:100%25@127.0.0.1:5672/%2Fx?heartbeat=600",
            ),
        ] {
            let sorted = |url: &str| {
                let (address, query) = url.split_once('?').unwrap();
                let mut query: Vec<String> = query.split('&').map(str::to_owned).collect();
                query.sort();
                (address.to_owned(), query)
            };
            let profile = rabbitmq(&config).unwrap();
            assert_eq!(sorted(&profile.url), sorted(expected), "{config}");
            assert_eq!((profile.prefix.as_str(), profile.testing), ("aiida-0f-AB", false));
        }
    }

    #[test]
    fn what_only_homings_own_processes_have_is_refused_for_aiidas() {
        for (command, instead) in [
            ("process list", "verdi process list"),
            ("process show 1", "verdi process show"),
            ("process report 1", "verdi process report"),
            ("process repair", "verdi process repair"),
            ("worker", "verdi daemon start"),
            ("run -- true", "leave the profile out"),
            ("worker ping", ""),
            ("process status 1", ""),
            ("process watch", ""),
            ("task list", ""),
        ] {
            for (profile, is_refused) in
                [("--aiida", !instead.is_empty()), ("--profile=x", !instead.is_empty()), ("-v", false)]
            {
                let arguments = ["homing", profile].into_iter().chain(command.split(' '));
                let cli = crate::args::Cli::try_parse_from(arguments).unwrap();
                match check(&cli.command, &cli.global.broker) {
                    Ok(()) => assert!(!is_refused, "{profile} {command}"),
                    Err(failure) => {
                        assert!(is_refused && failure.code() == 2, "{profile} {command}: {failure}");
                        assert!(failure.to_string().contains(instead), "{profile} {command}: {failure}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_profile_for_tests_declares_what_vanishes() {
        let config = json!({"profiles": {"t": {"PROFILE_UUID": "u", "test_profile": true, "process_control": {"backend": "core.rabbitmq"}}}});
        assert!(read(&config.to_string(), Some("t")).unwrap().testing);
    }

    #[test]
    fn what_is_wrong_is_named_with_what_to_do_and_no_secret() {
        let profile = |profile: &Value| json!({"default_profile": "main", "profiles": {"main": profile}}).to_string();
        for (text, name, parts) in [
            (
                with(&json!({"backend": "core.zeromq", "config": {"k": "sEcret"}})),
                None,
                &["core.zeromq", "configure-broker"][..],
            ),
            (with(&json!({"backend": null, "config": {}})), None, &["no broker", "verdi -p main"]),
            (with(&json!({})), None, &["no broker"]),
            (with(&json!(null)), None, &["no broker"]),
            (with(&json!({"backend": 5})), None, &["process_control.backend"]),
            (with(&json!({"backend": "core.rabbitmq", "config": ["sEcret"]})), None, &["process_control.config"]),
            (
                with(&json!({"backend": "core.rabbitmq", "config": {"broker_password": ["sEcret"]}})),
                None,
                &["broker_password"],
            ),
            (with(&json!({"backend": "core.rabbitmq", "config": {"broker_port": "sEcret"}})), None, &["broker_port"]),
            (
                with(&json!({"backend": "core.rabbitmq", "config": {"broker_host": "sEcret:5672"}})),
                None,
                &["broker_host", "broker_port"],
            ),
            (
                with(&json!({"backend": "core.rabbitmq", "config": {"broker_protocol": "sEcret"}})),
                None,
                &["broker_protocol"],
            ),
            (
                with(&json!({"backend": "core.rabbitmq", "config": {"broker_parameters": "sEcret"}})),
                None,
                &["broker_parameters"],
            ),
            (
                with(&json!({"backend": "core.rabbitmq", "config": {"broker_parameters": {"x": ["sEcret"]}}})),
                None,
                &["broker_parameters.x"],
            ),
            (with(&json!({"backend": "core.rabbitmq"})), Some("other"), &["\"other\"", "main"]),
            (profile(&json!({"process_control": {"backend": "core.rabbitmq"}})), None, &["PROFILE_UUID"]),
            (profile(&json!("sEcret")), None, &["PROFILE_UUID"]),
            (json!({"profiles": {"a": {}, "b": {}}}).to_string(), None, &["--profile", "a, b"]),
            (json!({"profiles": {"a": {}}, "default_profile": null}).to_string(), None, &["--profile"]),
            (json!({"profiles": {"a": {}}, "default_profile": "gone"}).to_string(), None, &["\"gone\""]),
            (json!({"profiles": {}}).to_string(), None, &["verdi presto"]),
            (json!({}).to_string(), None, &["verdi presto"]),
            (json!([]).to_string(), None, &["verdi presto"]),
            (json!({"profiles": ["sEcret"]}).to_string(), None, &["no configuration of AiiDA"]),
            ("{\"sEcret".to_owned(), None, &["not JSON"]),
            (String::new(), None, &["not JSON"]),
        ] {
            let why = read(&text, name).unwrap_err();
            assert!(parts.iter().all(|part| why.contains(part)) && !why.contains("sEcret"), "{text}: {why}");
        }
    }

    #[test]
    fn the_folder_is_the_first_that_is_there() {
        let base = std::env::temp_dir().join(format!("homing-aiida-{}", std::process::id()));
        let there = base.join("there").join(FOLDER);
        fs::create_dir_all(&there).unwrap();
        let paths = |names: &[&str]| PathBuf::from(names.join(":"));
        let (there_text, base_text) = (base.join("there"), base.clone());
        let (there_text, base_text) = (there_text.to_str().unwrap(), base_text.to_str().unwrap());
        let home = Path::new("/home/ada");
        for (path, expected) in [
            (None, home.join(FOLDER)),
            (Some(paths(&[""])), home.join(FOLDER)),
            (Some(paths(&[there_text])), there.clone()),
            (Some(paths(&["/nowhere", there_text, base_text])), there.clone()),
            (Some(there.clone()), there.clone()),
            (Some(paths(&["/nowhere", base_text])), base.join(FOLDER)),
            (Some(paths(&["~/data"])), home.join("data").join(FOLDER)),
        ] {
            let variables: Vec<(&str, &Path)> =
                path.iter().map(|path| ("AIIDA_PATH", path.as_path())).chain([("HOME", home)]).collect();
            assert_eq!(folder_of(&variables), Some(expected), "{path:?}");
        }
        assert_eq!(folder_of(&[]), None);
        fs::remove_dir_all(&base).unwrap();
    }
}
