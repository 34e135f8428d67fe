//! What a job is made with.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use homing::process::Inputs;
use homing::{HandlerError, HandlerResult, Value};
use serde::{Deserialize, Serialize};

use crate::args::OnLoss;

/// How long a program has to end after SIGTERM, unless the inputs have another time.
const GRACE: Duration = Duration::from_secs(10);

/// The longest grace that can be asked for: a day.
const LONGEST_GRACE: f64 = 86_400.0;

/// The inputs of the class `shell`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Job {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The directory that it runs in; the worker's, if there is none.
    #[serde(default)]
    pub cwd: Option<PathBuf>,
    /// Added to the worker's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default)]
    pub on_loss: OnLoss,
    /// How long it has to end after SIGTERM, in seconds.
    pub grace: f64,
}

/// The name of the input that marks who launched a job. The class makes no use of it.
pub(crate) const LAUNCHED_AS: &str = "launched_as";

impl Job {
    /// Reads what a process is launched with: keyword arguments, or a mapping of them as `inputs`. Positional arguments are
    /// the command.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn read(inputs: &Inputs) -> HandlerResult<Self> {
        let mut named: Vec<(&str, &Value)> = Vec::new();
        for (name, value) in inputs.kwargs().iter() {
            match (name.as_str(), value) {
                (Some("inputs"), Value::Map(map)) => {
                    for (name, value) in map.iter() {
                        named.push((name.as_str().ok_or_else(|| wrong("a name of its inputs is no string"))?, value));
                    }
                }
                (Some("inputs"), _) => return Err(wrong("its `inputs` are no mapping")),
                (Some(name), value) => named.push((name, value)),
                (None, _) => return Err(wrong("a name of its inputs is no string")),
            }
        }
        let mut job = Job {
            command: words(inputs.args(), "argument")?,
            cwd: None,
            env: BTreeMap::new(),
            on_loss: OnLoss::default(),
            grace: GRACE.as_secs_f64(),
        };
        for (name, value) in named {
            match (name, value) {
                (LAUNCHED_AS, _) | (_, Value::Null) => {}
                ("command", _) if !job.command.is_empty() => return Err(wrong("its command is given twice")),
                ("command", Value::String(text)) => {
                    job.command = vec!["/bin/sh".to_owned(), "-c".to_owned(), text.clone()];
                }
                ("command", value) => {
                    let list = value.as_slice().ok_or_else(|| wrong("its `command` is neither a string nor a list"))?;
                    job.command = words(list, "word of its command")?;
                }
                ("cwd", Value::String(text)) if !text.is_empty() => job.cwd = Some(PathBuf::from(text)),
                ("cwd", _) => return Err(wrong("its `cwd` is no directory's name")),
                ("env", Value::Map(map)) => job.env = environment(map)?,
                ("env", _) => return Err(wrong("its `env` is no mapping")),
                ("on_loss", Value::String(text)) if text == "run-again" => job.on_loss = OnLoss::RunAgain,
                ("on_loss", Value::String(text)) if text == "mark-lost" => job.on_loss = OnLoss::MarkLost,
                ("on_loss", _) => return Err(wrong("its `on_loss` is neither `run-again` nor `mark-lost`")),
                ("grace", value) => {
                    let seconds = value.as_f64().or_else(|| value.as_i64().map(|whole| whole as f64));
                    let seconds = seconds.filter(|seconds| (0.0..=LONGEST_GRACE).contains(seconds));
                    job.grace = seconds.ok_or_else(|| wrong("its `grace` is no number of seconds up to a day"))?;
                }
                (other, _) => {
                    let shown: String = other.chars().take(40).collect();
                    let known = "command, cwd, env, on_loss and grace";
                    return Err(wrong(&format!("it has no input {shown:?}; there are {known}")));
                }
            }
        }
        match job.command.first() {
            None => Err(wrong("it has no `command`: a list of the program and its arguments, or a string for sh -c")),
            Some(program) if program.is_empty() => Err(wrong("the program of its `command` is an empty string")),
            Some(_) => Ok(job),
        }
    }

    /// The same as inputs of a process.
    pub(crate) fn to_inputs(&self) -> Inputs {
        let command: Vec<Value> = self.command.iter().map(|word| Value::from(word.as_str())).collect();
        let mut inputs = Inputs::new().kwarg("command", command);
        if let Some(cwd) = &self.cwd {
            inputs = inputs.kwarg("cwd", cwd.display().to_string());
        }
        if !self.env.is_empty() {
            let env: homing::codec::Map =
                self.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            inputs = inputs.kwarg("env", Value::Map(env));
        }
        if self.on_loss != OnLoss::default() {
            inputs = inputs.kwarg("on_loss", self.on_loss.as_str());
        }
        inputs.kwarg("grace", self.grace)
    }

    /// How long it has to end after SIGTERM.
    pub(crate) fn grace(&self) -> Duration {
        Duration::try_from_secs_f64(self.grace).unwrap_or(GRACE)
    }

    /// The command for people.
    pub(crate) fn shown(&self) -> String {
        const MOST: usize = 120;
        let text = match self.command.as_slice() {
            [shell, option, text] if shell == "/bin/sh" && option == "-c" => text.clone(),
            words => words.join(" "),
        };
        match text.char_indices().nth(MOST) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        }
    }
}

fn wrong(why: &str) -> HandlerError {
    HandlerError::exception(format!("a job cannot be made of this: {why}")).with_type("InvalidInputs")
}

/// The parts of a command. A number is what it is written as.
fn words(values: &[Value], what: &str) -> HandlerResult<Vec<String>> {
    let word = |value: &Value| {
        let text = match value {
            Value::String(text) => text.clone(),
            value => match (value.as_i64(), value.as_f64()) {
                (Some(number), _) => number.to_string(),
                (None, Some(number)) => number.to_string(),
                (None, None) if value.as_bool().is_some() => {
                    let text =
                        format!("a {what} is a boolean, which `true`, `yes` and `on` are unless they stand in quotes");
                    return Err(wrong(&text));
                }
                _ => return Err(wrong(&format!("a {what} is neither a string nor a number"))),
            },
        };
        if text.contains('\0') { Err(wrong(&format!("a {what} has a NUL in it"))) } else { Ok(text) }
    };
    values.iter().map(word).collect()
}

fn environment(map: &homing::codec::Map) -> HandlerResult<BTreeMap<String, String>> {
    let pair = |(name, value): (&Value, &Value)| {
        let name = name.as_str().unwrap_or_default();
        if name.is_empty() || name.contains(['=', '\0']) {
            return Err(wrong("a name of its `env` is no name of a variable"));
        }
        let value = words(std::slice::from_ref(value), "value of its `env`")?.pop().unwrap_or_default();
        Ok((name.to_owned(), value))
    };
    map.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(yaml: &str) -> Result<Job, String> {
        let value = homing::codec::parse_text(yaml.as_bytes()).unwrap();
        let Value::Map(map) = value else { panic!("{yaml}") };
        Job::read(&Inputs::from_parts(Vec::new(), map)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_job_is_read_from_its_inputs_and_written_as_such() {
        let job = read("{command: [sleep, 5], cwd: /tmp, env: {A: 1, B: x}, on_loss: mark-lost, grace: 2}").unwrap();
        assert_eq!((job.command.join(" ").as_str(), job.env["A"].as_str(), job.grace), ("sleep 5", "1", 2.0));
        assert_eq!(job.on_loss, OnLoss::MarkLost);
        assert_eq!(Job::read(&job.to_inputs()).unwrap(), job);
        assert_eq!(read("{inputs: {command: [sleep, 5]}}").unwrap().command, ["sleep", "5"]);
        assert_eq!(read("{command: 'a | b'}").unwrap().command, ["/bin/sh", "-c", "a | b"]);
        assert_eq!(Job::read(&Inputs::new().arg("sleep").arg(0.5)).unwrap().command, ["sleep", "0.5"]);
        assert_eq!(read("{command: 'a | b'}").unwrap().shown(), "a | b");
    }

    #[test]
    fn what_is_wrong_with_inputs_is_named() {
        for (yaml, part) in [
            ("{}", "no `command`"),
            ("{command: []}", "no `command`"),
            ("{command: ['']}", "empty string"),
            ("{command: 5}", "neither a string nor a list"),
            ("{command: [[a]]}", "word of its command"),
            ("{command: [true]}", "in quotes"),
            ("{command: [\"a\\0b\"]}", "NUL"),
            ("{command: a, cwd: 5}", "cwd"),
            ("{command: a, cwd: ''}", "cwd"),
            ("{command: a, env: [a]}", "env"),
            ("{command: a, env: {'x=y': 1}}", "name of a variable"),
            ("{command: a, env: {x: [1]}}", "value of its `env`"),
            ("{command: a, on_loss: never}", "run-again"),
            ("{command: a, grace: -1}", "grace"),
            ("{command: a, grace: .inf}", "grace"),
            ("{command: a, Grace: 1}", "\"Grace\""),
            ("{inputs: 5}", "mapping"),
            ("{command: a, inputs: {command: b}}", "twice"),
        ] {
            let error = read(yaml).unwrap_err();
            assert!(error.contains(part), "{yaml}: {error}");
        }
    }
}
