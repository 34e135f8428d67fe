//! What a broker is to be: the command line, then the file of `--config`, then what is usual.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::args::parse::{address, duration, size};
use crate::args::{BrokerRun, Listen, Security, listen};
use crate::contexts::line_at;
use crate::failure::Failure;

/// Where a broker listens that is given no place.
const USUAL: Listen =
    Listen { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5672), security: Security::Plain };
/// How long clients have to agree to its end.
const DRAIN: Duration = Duration::from_secs(5);

/// The keys of a file: the options of `homing broker run`, as they are named in `BrokerRun`.
const KEYS: [&str; 10] =
    ["data", "drain", "http", "listen", "memory", "memory_limit", "socket", "tls_ca", "tls_cert", "tls_key"];

/// Those of them that do nothing without an address that clients reach by TLS.
const TLS_KEYS: [&str; 3] = ["tls_ca", "tls_cert", "tls_key"];

/// What a broker is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Settings {
    pub listen: Vec<Listen>,
    pub tls_cert: Option<PathBuf>,
    pub tls_key: Option<PathBuf>,
    pub tls_ca: Option<PathBuf>,
    pub socket: Option<PathBuf>,
    pub http: Vec<SocketAddr>,
    /// Where it keeps what is durable, if that is given.
    pub data: Option<PathBuf>,
    pub storage: Storage,
    /// How many bytes messages may take in memory, if that is given.
    pub memory_limit: Option<usize>,
    pub drain: Duration,
}

/// Whether a broker keeps what is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    Disk,
    Nothing,
}

/// The options of a command, with those of its file.
///
/// # Errors
/// `Usage` for a file that cannot be read or understood: which key, and which line.
pub(super) fn settings(run: BrokerRun) -> Result<Settings, Failure> {
    let file = match &run.config {
        None => Given::default(),
        Some(path) => read(path)?,
    };
    without_tls(&run, &file)?;
    let (data, storage) = match (run.memory, run.data, file.memory) {
        (true, _, _) | (false, None, Some(true)) => (None, Storage::Nothing),
        (false, Some(data), _) => (Some(data), Storage::Disk),
        (false, None, _) => (file.data, Storage::Disk),
    };
    let listen = if run.listen.is_empty() { file.listen.unwrap_or_else(|| vec![USUAL]) } else { run.listen };
    let socket = run.socket.or(file.socket);
    if listen.is_empty() && socket.is_none() {
        return Err(Failure::Usage(
            "the broker listens nowhere: `listen` of the file is empty, and there is no socket".to_owned(),
        ));
    }
    Ok(Settings {
        listen,
        tls_cert: run.tls_cert.or(file.tls_cert),
        tls_key: run.tls_key.or(file.tls_key),
        tls_ca: run.tls_ca.or(file.tls_ca),
        socket,
        http: if run.http.is_empty() { file.http } else { run.http },
        data,
        storage,
        memory_limit: run.memory_limit.or(file.memory_limit),
        drain: run.drain.or(file.drain).unwrap_or(DRAIN),
    })
}

/// Refuses options for TLS where nothing listens for it: they would do nothing, and whoever gave them takes clients to be secure.
fn without_tls(run: &BrokerRun, file: &Given) -> Result<(), Failure> {
    let listen = if run.listen.is_empty() { file.listen.as_deref().unwrap_or_default() } else { &run.listen };
    if listen.iter().any(|listen| listen.security == Security::Tls) {
        return Ok(());
    }
    let typed = [("--tls-cert", &run.tls_cert), ("--tls-key", &run.tls_key), ("--tls-ca", &run.tls_ca)];
    let typed = typed.into_iter().find(|(_, path)| path.is_some()).map(|(option, _)| option.to_owned());
    let in_file = || {
        let (key, line) = file.first_of_tls?;
        // There is a key only where there is a file.
        let path = run.config.as_deref()?;
        Some(format!("{}, line {line}: {key}", path.display()))
    };
    match typed.or_else(in_file) {
        None => Ok(()),
        Some(option) => Err(Failure::Usage(format!(
            "nothing listens for TLS: {option} needs an address such as --listen amqps://127.0.0.1:5671"
        ))),
    }
}

/// What a file gives.
#[derive(Debug, Default)]
struct Given {
    /// The first key that is about TLS, and its line.
    first_of_tls: Option<(&'static str, usize)>,
    listen: Option<Vec<Listen>>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_ca: Option<PathBuf>,
    socket: Option<PathBuf>,
    http: Vec<SocketAddr>,
    data: Option<PathBuf>,
    memory: Option<bool>,
    memory_limit: Option<usize>,
    drain: Option<Duration>,
}

fn read(path: &Path) -> Result<Given, Failure> {
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::Usage(format!("{} cannot be read: {error}", path.display())))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    parse(&text, folder).map_err(|wrong| {
        let line = line_at(&text, wrong.at);
        Failure::Usage(format!("{}, line {line}: {}", path.display(), wrong.text))
    })
}

/// What is wrong, and where in the file.
#[derive(Debug)]
struct Wrong {
    at: usize,
    text: String,
}

fn parse(text: &str, folder: &Path) -> Result<Given, Wrong> {
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        Wrong { at, text: error.message().to_owned() }
    })?;
    let mut given = Given::default();
    let mut places = (None, None);
    for (key, value) in table.get_ref() {
        let option = Entry { key: key.get_ref(), value };
        if let Some(tls) = TLS_KEYS.into_iter().find(|tls| *tls == option.key) {
            let line = line_at(text, key.span().start);
            if given.first_of_tls.is_none_or(|(_, first)| line < first) {
                given.first_of_tls = Some((tls, line));
            }
        }
        match &**key.get_ref() {
            "listen" => given.listen = Some(option.each(listen)?),
            "http" => given.http = option.each(address)?,
            "tls_cert" => given.tls_cert = Some(folder.join(option.string(value)?)),
            "tls_key" => given.tls_key = Some(folder.join(option.string(value)?)),
            "tls_ca" => given.tls_ca = Some(folder.join(option.string(value)?)),
            "socket" => given.socket = Some(folder.join(option.string(value)?)),
            "data" => {
                given.data = Some(folder.join(option.string(value)?));
                places.0 = Some(key.span().start);
            }
            "memory" => {
                given.memory = Some(option.boolean()?);
                places.1 = Some(key.span().start);
            }
            "memory_limit" => given.memory_limit = Some(option.size()?),
            "drain" => given.drain = Some(option.duration()?),
            unknown => {
                let text = format!("there is no option {unknown:?}; there are {}", KEYS.join(", "));
                return Err(Wrong { at: key.span().start, text });
            }
        }
    }
    match places {
        (Some(data), Some(memory)) if given.memory == Some(true) => {
            let text = "data and memory: a broker in memory keeps nothing; leave one out".to_owned();
            Err(Wrong { at: data.max(memory), text })
        }
        _ => Ok(given),
    }
}

/// A key of the file, with its value.
struct Entry<'a> {
    key: &'a str,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Entry<'a> {
    fn wrong(&self, value: &Spanned<DeValue<'_>>, text: impl std::fmt::Display) -> Wrong {
        Wrong { at: value.span().start, text: format!("{}: {text}", self.key) }
    }

    fn expected(&self, what: &str, value: &Spanned<DeValue<'_>>) -> Wrong {
        let found = match value.get_ref() {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "an integer",
            DeValue::Float(_) => "a float",
            DeValue::Boolean(_) => "a boolean",
            DeValue::Datetime(_) => "a date",
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
        };
        self.wrong(value, format!("{what} is expected, and not {found}"))
    }

    fn string(&self, value: &'a Spanned<DeValue<'a>>) -> Result<&'a str, Wrong> {
        match value.get_ref() {
            DeValue::String(text) if text.is_empty() => Err(self.wrong(value, "it is empty; leave it out")),
            DeValue::String(text) => Ok(text),
            _ => Err(self.expected("a string", value)),
        }
    }

    /// One, or a list of them.
    fn each<T>(&self, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, Wrong> {
        let one = |value| read(self.string(value)?).map_err(|text| self.wrong(value, text));
        match self.value.get_ref() {
            DeValue::Array(values) => values.iter().map(one).collect(),
            DeValue::String(_) => Ok(vec![one(self.value)?]),
            _ => Err(self.expected("a string or a list of strings", self.value)),
        }
    }

    fn boolean(&self) -> Result<bool, Wrong> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Ok(*value),
            _ => Err(self.expected("true or false", self.value)),
        }
    }

    /// Such as "512MiB"; a bare number counts bytes, as on the command line.
    fn size(&self) -> Result<usize, Wrong> {
        let bytes = match self.value.get_ref() {
            DeValue::String(text) => size(text),
            DeValue::Integer(number) if number.radix() == 10 => size(number.as_str()),
            _ => return Err(self.expected("a number of bytes, or a size such as \"512MiB\",", self.value)),
        };
        bytes.map_err(|text| self.wrong(self.value, text))
    }

    /// Such as "5s"; a bare number counts seconds, as on the command line.
    fn duration(&self) -> Result<Duration, Wrong> {
        let time = match self.value.get_ref() {
            DeValue::String(text) => duration(text),
            DeValue::Integer(number) if number.radix() == 10 => duration(number.as_str()),
            DeValue::Float(number) => duration(number.as_str()),
            _ => return Err(self.expected("a number of seconds, or a time such as \"5s\",", self.value)),
        };
        time.map_err(|text| self.wrong(self.value, text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Args, CommandFactory, FromArgMatches};

    /// The file in the documentation.
    fn example() -> &'static str {
        let (_, rest) = include_str!("../../../docs/broker.md").split_once("```toml\n").expect("an example");
        rest.split_once("```").expect("its end").0
    }

    #[test]
    fn a_file_has_a_key_for_each_option_and_the_example_has_all_of_them() {
        let command = crate::args::Cli::command();
        let run = ["broker", "run"].iter().fold(&command, |at, name| at.find_subcommand(name).expect("a command"));
        let mut options: Vec<_> = run.get_arguments().map(|option| option.get_id().as_str()).collect();
        options.retain(|option| !["config", "help", "version"].contains(option));
        options.sort_unstable();
        assert_eq!(options, KEYS);
        for key in KEYS {
            let is_there = example().lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} =")));
            assert!(is_there, "the example has no {key}");
        }
        let given = parse(example(), Path::new("/etc/homing")).expect("the example is good");
        assert_eq!(given.tls_cert, Some(PathBuf::from("/etc/homing/server.pem")), "beside the file");
        assert_eq!(given.listen.map(|all| all.len()), Some(2));
        assert_eq!(given.http, [SocketAddr::from(([127, 0, 0, 1], 15672))]);
        assert_eq!(given.drain, Some(Duration::from_secs(10)));
        assert_eq!(given.memory_limit, Some(512 << 20));
        assert_eq!(parse("memory_limit = 4096", Path::new("")).expect("good").memory_limit, Some(4096));
        // What is a comment there is an option too.
        let memory = example().replace("data =", "# data =").replace("# memory", "memory");
        assert_eq!(parse(&memory, Path::new("")).expect("good").memory, Some(true));
    }

    #[test]
    fn options_for_tls_are_refused_where_nothing_listens_for_it() {
        let run = |options: &[&str]| {
            let command = crate::args::BrokerRun::augment_args(clap::Command::new("run"));
            let matches = command.get_matches_from([&["run"], options].concat());
            settings(crate::args::BrokerRun::from_arg_matches(&matches).expect("options"))
        };
        for option in ["--tls-cert", "--tls-key", "--tls-ca"] {
            for listen in [&[][..], &["--listen", "127.0.0.1:0"]] {
                let refused = run(&[listen, &[option, "file"]].concat()).map(drop).expect_err(option);
                assert!(refused.code() == 2 && refused.to_string().contains(option), "{refused}");
            }
            assert!(run(&["--listen", "amqps://127.0.0.1:0", option, "file"]).is_ok(), "{option}");
        }
        let file = std::env::temp_dir().join(format!("homing-tls-{}.toml", std::process::id()));
        for (text, part) in [
            ("memory = true\ntls_key = \"k\"\n", "line 2: tls_key"),
            ("tls_ca = \"k\"\n", "line 1: tls_ca"),
            ("listen = \"127.0.0.1:0\"\ntls_key = \"k\"\ntls_cert = \"c\"\n", "line 2: tls_key"),
        ] {
            std::fs::write(&file, text).expect("a file");
            let refused = run(&["--config", &file.display().to_string()]).map(drop).expect_err(text).to_string();
            assert!(refused.contains(part) && refused.contains(&file.display().to_string()), "{refused}");
        }
        // The command line's address counts before the file's.
        std::fs::write(&file, "listen = \"amqps://127.0.0.1:0\"\ntls_cert = \"c\"\n").expect("a file");
        let config = file.display().to_string();
        assert!(run(&["--config", &config]).is_ok());
        assert!(run(&["--config", &config, "--listen", "127.0.0.1:0"]).is_err());
        std::fs::remove_file(file).expect("it is there");
    }

    #[test]
    fn what_is_wrong_in_a_file_is_named_with_its_key_and_its_line() {
        for (text, line, part) in [
            ("lisen = 1\n", 1, "there is no option \"lisen\"; there are data, drain"),
            ("# one\n\ndrain = 5\n[tls]\ncert = 1\n", 4, "there is no option \"tls\""),
            ("drain = 5\ndrain = 6\n", 2, "duplicate"),
            ("drain = \n", 1, "string values"),
            ("\n\nlisten = \"127.0.0.1\"\n", 3, "listen: an IP address and a port are wanted"),
            ("listen = [\n  \"127.0.0.1:0\",\n  \"http://x\",\n]\n", 3, "listen: http:// is neither"),
            ("listen = [\n  \"127.0.0.1:0\",\n  5672,\n]\n", 3, "listen: a string is expected, and not an integer"),
            ("listen = 5672\n", 1, "listen: a string or a list of strings is expected, and not an integer"),
            ("http = \"amqps://127.0.0.1:1\"\n", 1, "http: an IP address and a port are wanted"),
            ("socket = \"\"\n", 1, "socket: it is empty"),
            ("data = true\n", 1, "data: a string is expected, and not a boolean"),
            ("memory = \"yes\"\n", 1, "memory: true or false is expected, and not a string"),
            ("memory = true\n\ndata = \"x\"\n", 3, "data and memory"),
            ("memory_limit = 0\n", 1, "memory_limit: the size is zero"),
            ("memory_limit = \"1 lot\"\n", 1, "memory_limit: \"1 lot\" is not a size"),
            ("\nmemory_limit = true\n", 2, "memory_limit: a number of bytes"),
            ("drain = 0\n", 1, "drain: the time is zero"),
            ("drain = -1\n", 1, "drain: \"-1\" is not a time"),
            ("drain = 2026-01-01\n", 1, "drain: a number of seconds"),
            ("tls_cert = [\"a\"]\n", 1, "tls_cert: a string is expected, and not a list"),
        ] {
            let wrong = parse(text, Path::new("")).map(drop).expect_err(text);
            assert_eq!(line_at(text, wrong.at), line, "{text:?}: {wrong:?}");
            assert!(wrong.text.contains(part), "{text:?}: {}", wrong.text);
        }
    }
}
