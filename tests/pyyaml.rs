//! PyYAML as a referee: what homing writes PyYAML reads as the equal value, and the other way round, for thousands of
//! random values.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use homing::Value;
use homing::codec::{Codec, Yaml};
use serde_json::{Value as Json, json};

use support::suite::Need;
use support::{Suite, TestResult};

const ROUNDS: u64 = 3000;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite.with("pyyaml::reads_what_homing_writes_and_the_other_way_round", &[Need::Python], random_values).with(
        "pyyaml::reads_the_same_from_odd_texts",
        &[Need::Python],
        odd_texts,
    );
    suite.run()
}

struct Referee {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
}

impl Referee {
    fn start() -> std::io::Result<Self> {
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wire/forms.py");
        let python = support::python().unwrap_or_default();
        let mut child =
            Command::new(python).arg(script).arg("peer").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = BufReader::new(child.stdout.take().ok_or_else(|| std::io::Error::other("no pipe"))?);
        Ok(Referee { child, out })
    }

    fn ask(&mut self, question: &Json) -> Result<Json, Box<dyn std::error::Error>> {
        let stdin = self.child.stdin.as_mut().ok_or("no pipe")?;
        writeln!(stdin, "{question}")?;
        stdin.flush()?;
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Referee {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn random_values() -> TestResult {
    let seed = std::env::var("HOMING_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
    println!("HOMING_TEST_SEED={seed}");
    let mut referee = Referee::start()?;
    let yaml = Yaml::default();
    for round in 0..ROUNDS {
        let made = referee.ask(&json!({"random": seed * 1_000_000 + round * 2}))?;
        let body = BASE64.decode(made["yaml"].as_str().unwrap_or(""))?;
        let expected = Value::from_json(&made["value"])?;
        let shown = String::from_utf8_lossy(&body);
        let read = yaml.decode(&body).map_err(|error| format!("round {round}: {error} in {shown}"))?;
        if read != expected {
            return Err(format!("round {round}: PyYAML wrote {expected}, homing read {read} from {shown}").into());
        }
        let written = yaml.encode(&expected)?;
        let answer = referee.ask(&json!({"yaml": BASE64.encode(&written)}))?;
        let shown = String::from_utf8_lossy(&written);
        if answer["error"].is_string() || Value::from_json(&answer["value"])? != expected {
            return Err(format!("round {round}: homing wrote {shown}, PyYAML says {answer}").into());
        }
    }
    Ok(())
}

/// Plain scalars as a peer may write them, each alone, in a list and as a key.
fn odd_texts() -> TestResult {
    let mut referee = Referee::start()?;
    let pieces = [
        "0",
        "1",
        "7",
        "9",
        "_",
        ".",
        "e",
        "E",
        "+",
        "-",
        ":",
        "x",
        "b",
        "o",
        "inf",
        "nan",
        "T",
        " ",
        "Z",
        "2020-01-01",
        "yes",
        "~",
        "60",
    ];
    let mut state = 11_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap_or(0)
    };
    let mut compared = 0;
    for _ in 0..4000 {
        let text: String = (0..=next() % 5).map(|_| pieces[next() % pieces.len()]).collect();
        for body in [text.clone(), format!("- {text}\n"), format!("k: {text}\n")] {
            let answer = referee.ask(&json!({"yaml": BASE64.encode(&body)}))?;
            let ours = Yaml::default().decode(body.as_bytes());
            match (answer["error"].as_str(), ours) {
                (None, Ok(value)) => {
                    let expected = Value::from_json(&answer["value"])?;
                    if value != expected {
                        return Err(format!("{body:?}: PyYAML reads {expected}, homing {value}").into());
                    }
                    compared += 1;
                }
                // What PyYAML cannot read may be read here (it trips over `0b_` and the like), but not the other way round.
                (Some(_), _) => {}
                (None, Err(error)) => {
                    return Err(format!("{body:?}: PyYAML reads {answer}, homing says {error}").into());
                }
            }
        }
    }
    assert!(compared > 6000, "{compared}");
    Ok(())
}
