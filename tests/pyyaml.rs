//! PyYAML as a referee (`tests/peers/pyyaml_peer.py`): it reads what homing writes as the equal value, homing reads what it
//! writes, and both read any other text the same or not at all. By generation: some thousand values, 100,000 with
//! `tests/run --full`.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use homing::Value;
use homing::codec::{Codec, Map, Tagged, Yaml};
use num_bigint::BigInt;
use serde_json::{Value as Json, json};

use support::suite::Need;
use support::{Suite, TestResult};

/// Values in one question, so that the pipe costs nothing.
const BATCH: usize = 100;

fn main() -> ExitCode {
    let mut suite = Suite::new();
    suite
        .deadline(Duration::from_secs(if support::full() { 3500 } else { 300 }))
        .with("pyyaml::reads_what_homing_writes", &[Need::Python], values_that_homing_writes)
        .with("pyyaml::writes_what_homing_reads", &[Need::Python], values_that_pyyaml_writes)
        .with("pyyaml::reads_the_same_from_odd_scalars", &[Need::Python], odd_scalars)
        .with("pyyaml::reads_the_same_from_odd_documents", &[Need::Python], odd_documents)
        .with("pyyaml::reads_the_same_from_changed_bodies", &[Need::Python], changed_bodies)
        .with("pyyaml::constructs_every_special_value", &[Need::Python], special_values)
        .with("pyyaml::reads_special_spellings_the_same", &[Need::Python], special_spellings);
    suite.run()
}

/// How many rounds a generating test has.
fn rounds(few: usize, many: usize) -> usize {
    if support::full() { many } else { few }
}

struct Referee {
    child: Child,
    out: BufReader<std::process::ChildStdout>,
    /// Not yet asked: body, what homing reads, whether homing has written it.
    open: Vec<(Vec<u8>, Option<Value>, bool)>,
    asked: usize,
    read: usize,
}

impl Referee {
    fn start() -> std::io::Result<Self> {
        let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/pyyaml_peer.py");
        let python = support::python().unwrap_or_default();
        let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = BufReader::new(child.stdout.take().ok_or_else(|| std::io::Error::other("no pipe"))?);
        Ok(Referee { child, out, open: Vec::new(), asked: 0, read: 0 })
    }

    fn ask(&mut self, question: &Json) -> Result<Vec<Json>, Box<dyn std::error::Error>> {
        let stdin = self.child.stdin.as_mut().ok_or("no pipe")?;
        writeln!(stdin, "{question}")?;
        stdin.flush()?;
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        Ok(serde_json::from_str(&line)?)
    }

    /// Random values, as PyYAML writes them.
    fn dumps(&mut self, first: u64) -> Result<Vec<Vec<u8>>, Box<dyn std::error::Error>> {
        let seeds: Vec<u64> = (first..).take(BATCH).collect();
        let bodies = self.ask(&json!({"dump": seeds}))?;
        Ok(bodies.iter().map(|body| BASE64.decode(body.as_str().unwrap_or(""))).collect::<Result<_, _>>()?)
    }

    /// Compares how both read a body, now or with others.
    fn compare(&mut self, body: Vec<u8>, written: bool) -> TestResult {
        let value = Yaml::default().decode(&body);
        self.open.push((body, value.ok(), written));
        if self.open.len() < BATCH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> TestResult {
        let open = std::mem::take(&mut self.open);
        // By hand, for serde_json would sort the keys and round the numbers.
        let mut question = String::from(r#"{"check":["#);
        for (n, (body, value, written)) in open.iter().enumerate() {
            let form = value.as_ref().map_or_else(|| "null".to_owned(), Value::to_json_text);
            // A value of null is told from an error by the list around it.
            let form = if value.is_some() { format!("[{form}]") } else { form };
            question.push_str(if n == 0 { "" } else { "," });
            question.push_str(&format!(r#"["{}",{form},{written}]"#, BASE64.encode(body)));
        }
        question.push_str("]}");
        let stdin = self.child.stdin.as_mut().ok_or("no pipe")?;
        writeln!(stdin, "{question}")?;
        stdin.flush()?;
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        let verdicts: Vec<Option<String>> = serde_json::from_str(&line)?;
        assert_eq!(verdicts.len(), open.len());
        for (verdict, (body, value, _)) in verdicts.into_iter().zip(open) {
            self.asked += 1;
            self.read += usize::from(value.is_some());
            if let Some(verdict) = verdict {
                let ours =
                    Yaml::default().decode(&body).map_or_else(|error| error.to_string(), |value| value.to_string());
                return Err(format!("{:?}\nhoming: {ours}\n{verdict}", String::from_utf8_lossy(&body)).into());
            }
        }
        Ok(())
    }
}

impl Drop for Referee {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A source of chance whose seed is printed.
struct Chance(u64);

impl Chance {
    fn new() -> Self {
        let seed = std::env::var("HOMING_TEST_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1_u64);
        println!("HOMING_TEST_SEED={seed}");
        Chance(seed)
    }

    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap_or(0) % most
    }

    fn bits(&mut self) -> u64 {
        (self.below(1 << 31) as u64) << 33 ^ (self.below(1 << 31) as u64) << 16 ^ self.below(1 << 31) as u64
    }

    fn one_of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    fn string(&mut self) -> String {
        const ODD: [&str; 22] = [
            "",
            "~",
            "null",
            "yes",
            "1e5",
            "0o17",
            "017",
            "1:30",
            "2024-02-30",
            "<<",
            "=",
            "---",
            "a: b",
            "- x",
            "#",
            "\n---\n",
            "\u{85}",
            "\u{2028}",
            "\u{feff}",
            "'\"\\",
            " \t ",
            "\r\n",
        ];
        match self.below(4) {
            0 => self.one_of(&ODD).to_owned(),
            1 => format!("{}{}", self.one_of(&ODD), self.one_of(&ODD)),
            2 if self.below(20) == 0 => "long ".repeat(self.below(500)),
            _ => {
                let length = self.below(12);
                (0..length)
                    .filter_map(|_| {
                        let most = [0x80, 0x100, 0x3000, 0x1_0000, 0x11_0000][self.below(5)];
                        char::from_u32(u32::try_from(self.below(most)).unwrap_or(0))
                    })
                    .collect()
            }
        }
    }

    fn scalar(&mut self) -> Value {
        match self.below(12) {
            0 => Value::Null,
            1 => Value::from(self.below(2) == 0),
            2 => Value::from(i64::try_from(self.bits() >> self.below(63)).unwrap_or(0)),
            3 => Value::from(BigInt::from(self.bits()).pow(1 + u32::try_from(self.below(20)).unwrap_or(0)) * -1),
            4 => Value::from(f64::from_bits(self.bits())),
            5 => Value::from(self.below(100_000) as f64 / 8.0),
            6 => Value::Bytes((0..self.below(40)).map(|n| n.to_le_bytes()[0].wrapping_mul(37)).collect()),
            7 => {
                let (year, month, day) = (self.below(10_000), self.below(14), self.below(33));
                let date = format!("{year:04}-{month:02}-{day:02}");
                let zone = self.one_of(&["", "Z", "+01:00", " -5", "-23:59", "+24:00"]);
                let (hour, minute, fraction) =
                    (self.below(25), self.below(60), self.one_of(&["", ".", ".5", ".123456789"]));
                Value::Timestamp(match self.below(3) {
                    0 => date,
                    _ => format!("{date}T{hour:02}:{minute:02}:59{fraction}{zone}"),
                })
            }
            _ => Value::from(self.string()),
        }
    }

    fn key(&mut self, depth: usize) -> Value {
        match self.below(10) {
            0 => self.scalar(),
            1 if depth < 3 => Value::Tuple((0..self.below(3)).map(|_| self.key(depth + 1)).collect()),
            _ => Value::from(self.string()),
        }
    }

    fn value(&mut self, depth: usize) -> Value {
        let kind = if depth > 4 { 0 } else { self.below(12) };
        match kind {
            5 | 6 => Value::List((0..self.below(4)).map(|_| self.value(depth + 1)).collect()),
            7 => Value::Tuple((0..self.below(4)).map(|_| self.value(depth + 1)).collect()),
            8 => Value::Set((0..self.below(4)).map(|_| (self.key(depth), Value::Null)).collect()),
            9 | 10 => Value::Map((0..self.below(5)).map(|_| (self.key(depth), self.value(depth + 1))).collect()),
            11 => {
                let tags = [
                    "!uuid",
                    "!x/é y",
                    "!<tag:a,1:b>",
                    "!!python/complex",
                    "!!python/object:a.b",
                    "!!python/name:a",
                    "!!int",
                    "!!set",
                    "!!float",
                    "!!nope",
                    "!",
                    "!!",
                    "!aiida_node",
                ];
                let tag = self.one_of(&tags).to_owned();
                let value = if tag == "!!python/complex" { Value::from("1+2j") } else { self.value(depth + 1) };
                Value::Tagged(Box::new(Tagged { tag, value }))
            }
            _ => self.scalar(),
        }
    }
}

fn values_that_homing_writes() -> TestResult {
    let mut chance = Chance::new();
    let mut referee = Referee::start()?;
    let yaml = Yaml::default();
    let (mut written, mut refused) = (0, 0);
    let rounds = rounds(2500, 50_000);
    while written < rounds {
        let value = chance.value(0);
        match yaml.encode(&value) {
            Ok(body) => {
                written += 1;
                referee.compare(body, true)?;
            }
            Err(error) => {
                assert_eq!(error.kind(), homing::ErrorKind::Encode, "{error}");
                assert!(yaml.check(&value).is_err());
                refused += 1;
            }
        }
    }
    referee.flush()?;
    println!("{written} were written, {refused} refused");
    assert!(refused > 0 && refused < written);
    Ok(())
}

fn values_that_pyyaml_writes() -> TestResult {
    let seed = Chance::new().0;
    let mut referee = Referee::start()?;
    for first in (0..rounds(2500, 50_000)).step_by(BATCH) {
        for body in referee.dumps(seed * 10_000_000 + first as u64)? {
            referee.compare(body, false)?;
        }
    }
    referee.flush()?;
    // A string with a lone surrogate is the exception; these have none.
    assert_eq!(referee.read, referee.asked);
    Ok(())
}

/// Plain scalars as a peer may write them, each alone, in a list and as a key.
fn odd_scalars() -> TestResult {
    let mut chance = Chance::new();
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
        "2024-02-30",
        "12:30:00",
        "yes",
        "~",
        "60",
        "=",
        "<<",
        "!",
        "?",
        "é",
        "\u{85}",
        "\t",
        "#",
    ];
    for _ in 0..rounds(2000, 20_000) {
        let text: String = (0..=chance.below(5)).map(|_| chance.one_of(&pieces)).collect();
        for body in
            [text.clone(), format!("- {text}\n"), format!("k: {text}\n"), format!("[{text}, {{{text}: {text}}}]")]
        {
            referee.compare(body.into_bytes(), false)?;
        }
    }
    referee.flush()?;
    assert!(referee.read * 3 > referee.asked, "{} of {}", referee.read, referee.asked);
    Ok(())
}

/// Documents made of the pieces of YAML, most of them broken.
fn odd_documents() -> TestResult {
    let mut chance = Chance::new();
    let mut referee = Referee::start()?;
    let pieces = [
        "a",
        "b",
        "\"c\"",
        "'d'",
        "1",
        "~",
        ": ",
        ":",
        "- ",
        "-",
        "? ",
        "?",
        "\n",
        "\n  ",
        "\n ",
        "\n    ",
        " ",
        "  ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        ",",
        "&a ",
        "&b ",
        "*a",
        "*b ",
        "!x ",
        "!!str ",
        "!!python/tuple ",
        "!!set ",
        "! ",
        "!",
        "|\n",
        ">\n",
        "|2-\n",
        ">+\n",
        "--- ",
        "---\n",
        "...\n",
        "\n...",
        "%YAML 1.1\n",
        "%TAG !e! tag:e:\n",
        "!e!x ",
        "#",
        " # c\n",
        "\t",
        "<<: ",
        "=",
        "\"\\\n ",
        "'\n\n",
        "\"\\u00e9\"",
        "\"",
        "'",
        "\u{feff}",
        "\u{85}",
        "\u{2028}",
        "\r\n",
        "\r",
        "\\",
        "`",
        "@",
        "!!omap ",
        "!!binary ",
        "é",
        "\u{7f}",
        "a: 1\n",
        "- x\n",
        "  - y\n",
        "*a : ",
        "!<tag:x> ",
        "!%21 ",
    ];
    for _ in 0..rounds(6000, 60_000) {
        let text: String = (0..=chance.below(9)).map(|_| chance.one_of(&pieces)).collect();
        referee.compare(text.into_bytes(), false)?;
    }
    referee.flush()?;
    assert!(referee.read * 10 > referee.asked, "{} of {}", referee.read, referee.asked);
    Ok(())
}

/// Bodies of PyYAML with a few changes.
fn changed_bodies() -> TestResult {
    let mut chance = Chance::new();
    let mut referee = Referee::start()?;
    let odd = b"{}[]:,-?*&!|>'\"%@`#~\n \t<=01e.\\\xc3\xff";
    for first in (0..rounds(1500, 20_000)).step_by(BATCH) {
        for mut body in referee.dumps(77_000_000 + first as u64)? {
            for _ in 0..=chance.below(3) {
                let at = chance.below(body.len() + 1);
                match chance.below(4) {
                    0 if at < body.len() => body[at] = odd[chance.below(odd.len())],
                    1 => body.insert(at, odd[chance.below(odd.len())]),
                    2 if at < body.len() => drop(body.remove(at)),
                    _ => drop(body.splice(at..at, (0..chance.below(4)).map(|_| b' '))),
                }
            }
            referee.compare(body, false)?;
        }
    }
    referee.flush()
}

fn tagged(tag: &str, value: impl Into<Value>) -> Value {
    Value::Tagged(Box::new(Tagged { tag: tag.to_owned(), value: value.into() }))
}

/// One of each kind that was once written so that PyYAML could not construct it: written right, or refused.
fn special_values() -> TestResult {
    let time = |text: &str| Value::Timestamp(text.to_owned());
    let list = |items: &[Value]| Value::List(items.to_vec());
    let map = |pairs: &[(Value, Value)]| Value::Map(pairs.iter().cloned().collect::<Map>());
    let set = |members: &[Value]| Value::Set(members.iter().map(|member| (member.clone(), Value::Null)).collect());
    let written = [
        time("2024-02-29"),
        time("2024-2-9"),
        time("0001-01-01"),
        time("9999-12-31T23:59:59.999999999-23:59"),
        Value::from(BigInt::from(10).pow(4300) - 1),
        Value::from(BigInt::from(10).pow(4300)),
        Value::from(-BigInt::from(10).pow(9000)),
        tagged("!!python/complex", "1+2j"),
        tagged("!!python/complex", "-j"),
        tagged("!!python/name:a.b", ""),
        tagged("!!python/object:uuid.UUID", map(&[("int".into(), 5.into())])),
        tagged("!!python/object/apply:a.B", list(&["x".into()])),
        tagged("!é [x]", "y"),
        tagged("!a!b", "y"),
        tagged("!<tag:a,b!c#d>", list(&[])),
        map(&[("x".repeat(2000).into(), 1.into()), ("é".repeat(1100).into(), 2.into())]),
        map(&[(Value::Tuple(vec![1.into(), Value::Bytes(vec![1])]), 1.into())]),
        map(&[(1.into(), 1.into()), (1.5.into(), 2.into()), (true.to_string().into(), 3.into())]),
        map(&[(tagged("!k", list(&[1.into()])), 1.into())]),
        map(&[("<<".into(), 1.into()), ("=".into(), 2.into()), ("$x".into(), "=".into())]),
        set(&["a".into(), Value::Null, 2.into()]),
        Value::Set([(Value::from("a"), Value::from(1))].into_iter().collect()),
        Value::from((0..0x300).filter_map(char::from_u32).collect::<String>()),
        Value::from(-0.0),
        (0..99).fold(Value::Null, |value, _| Value::Tuple(vec![value])),
    ];
    let mut referee = Referee::start()?;
    for value in &written {
        let body = Yaml::default().encode(value).map_err(|error| format!("{value}: {error}"))?;
        referee.compare(body, true)?;
    }
    referee.flush()?;
    assert_eq!(referee.read, written.len());

    let refused = [
        time("2024-02-30"),
        time("2023-02-29T10:00:00Z"),
        time("0000-01-01"),
        time("2024-01-01T24:00:00"),
        time("2024-01-01T10:00:00+24:00"),
        time("2024-01-01\n"),
        time(""),
        time("tomorrow"),
        tagged("!!int", "x"),
        tagged("!!int", 5),
        tagged("!!float", "x"),
        tagged("!!bool", "x"),
        tagged("!!binary", "x"),
        tagged("!!timestamp", "x"),
        tagged("!!null", "x"),
        tagged("!!set", list(&[])),
        tagged("!!omap", list(&[1.into()])),
        tagged("!!pairs", "x"),
        tagged("!!str", list(&[])),
        tagged("!!seq", "x"),
        tagged("!!map", "x"),
        tagged("!<tag:yaml.org,2002:int>", "x"),
        tagged("!!value", "="),
        tagged("!!merge", "<<"),
        tagged("!!nope", "x"),
        tagged("!!python/tuple", "x"),
        tagged("!!python/int", "x"),
        tagged("!!python/nope", "x"),
        tagged("!!python/complex", "x"),
        tagged("!!python/complex", 1),
        tagged("!!python/name:a.b", "x"),
        tagged("!!python/name:", ""),
        tagged("!!python/module:a", list(&[])),
        tagged("!!python/object:a.b", "x"),
        tagged("!!python/object:a.b", list(&[])),
        tagged("!!python/object/new:a.b", "x"),
        tagged("!", "x"),
        tagged("!!", "x"),
        tagged("", "x"),
        tagged("x", "x"),
        tagged("!<>", "x"),
        tagged("!x", time("2024-01-01")),
        map(&[(list(&[]), 1.into())]),
        map(&[(map(&[]), 1.into())]),
        map(&[(Value::Tuple(vec![set(&[])]), 1.into())]),
        map(&[(1.into(), 1.into()), (1.0.into(), 2.into())]),
        set(&[1.into(), true.into()]),
        set(&[list(&[])]),
    ];
    for bad in refused {
        for (value, place) in [
            (bad.clone(), ""),
            (
                Value::from_iter([("args", list(&[0.into(), Value::from_iter([("a/b", bad.clone())])]))]),
                " (at /args/1/a~1b)",
            ),
        ] {
            let error = Yaml::default().encode(&value).expect_err(&format!("{value:?}"));
            assert_eq!(error.kind(), homing::ErrorKind::Encode, "{error}");
            assert!(error.to_string().ends_with(place), "{error}");
        }
    }
    Ok(())
}

fn utf_16(text: &str, order: fn(u16) -> [u8; 2]) -> Vec<u8> {
    text.encode_utf16().flat_map(order).collect()
}

/// Spellings that a YAML 1.2 reader, or an earlier one of ours, takes otherwise.
fn special_spellings() -> TestResult {
    let long = "k".repeat(1025);
    let read: Vec<Vec<u8>> = [
        // An alias as a key, with and without the space before its colon.
        "? &id001 !!python/tuple [1, 2]\n: x\ny:\n  *id001 : 1\n  z: *id001\n",
        "- &id001 a\n- *id001: 2\n",
        "[&a k, {*a: 1, *a : 2}, {? *a : 3}]",
        "{1: a, true: b, 1.0: c, 2: d}",
        "{2001-12-14t21:59:43.10-05:00: a, 2001-12-15T02:59:43.1Z: b}",
        "!!set {1, true, ? a}",
        "{a: 1, b: 2, a: 3}",
        "&m {a: 1, b: 2}",
        "[&m {a: 1, b: 2}, {<<: *m, b: 3, c: 4}, {b: 3, <<: [*m, {d: 5, a: 6}]}]",
        "{=: 1, '=': 2}",
        "!!omap [{[1]: 2}, a: 1]",
        "!!pairs [a: 1, a: 2]",
        "! 12",
        "! \"12\"",
        "! [1]",
        "--- ! {a: 1}\n...\n",
        "!!float 1e5",
        "!!float 017",
        "!!float 1:30",
        "!!float 5",
        "!!bool TrUe",
        "!!int 0b101",
        "!!str 12",
        "!!null x",
        "!!binary AP9=",
        "%TAG !e! tag:yaml.org,2002:\n%FOO bar\n%YAML 1.2\n--- !e!str 12\n...\n...\n",
        "\u{feff}a: 1\n",
        "\u{feff}# c\n[1]",
        "a\u{feff}b",
        "a: b\u{85}c: d\u{2028}e: f",
        "\"a\u{2028}b\u{85}c\u{2029} d\"",
        "- |1\n x\n\n  y\n \n- >-\n a\n b\n\n c\n",
        "a: >\n  x\n   y\n  z\n\n\n",
        "'it''s\n\n two\n  lines'",
        "\"a\\\n   b \\x41\\u00e9\\U0001F600\\N\\_\\L\\P\\e\\/\"",
        "\"\\ud83d\\ude00\"",
        "a:\n- 1\n- 2\nb:\n  - 3\n",
        "? a\n? b\n: c\n",
        "[a: 1, ? b, ? c : d]",
        "{a, b: , ? c}",
        "{\"a\":1, 'b':2, c:3}",
        "[1, 2, ]",
        "- - - a\n    - b\n  - c\n- d",
        "a: !x\nb: &y\nc: !!str\n",
        "",
        "\n# nothing\n",
        "---\n",
        "--- |\n x\n...\n",
        "plain text\n over  lines\n\n and paragraphs",
        "http://x.y:80/a?b#c",
        "0o17",
        "1_000",
        "1:30:00",
        "-.INF",
        "0x_1F",
        "0_",
        "190:20:30.15",
        "2001-12-14 21:59:43.10 -5",
        "!!python/complex 1+2j",
        "!!python/tuple [!!python/unicode x, !!python/long 5, !!python/none ~, !!python/dict {}]",
        "!!python/bytes AP8=",
        "!%21x%C3%A9 y",
        "!<tag:x,y> z",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into_iter()
    .chain([
        utf_16("\u{feff}{a: [1, \"é😀\"]}", u16::to_le_bytes),
        utf_16("\u{feff}{a: [1, \"é😀\"]}", u16::to_be_bytes),
        utf_16("\u{feff}", u16::to_le_bytes),
        format!("? {long}\n: 1\n").into_bytes(),
        format!("{{? {long} : 1}}").into_bytes(),
        format!("{}: 1\n", "é".repeat(1023)).into_bytes(),
        format!("0x{}", "f".repeat(10_000)).into_bytes(),
        "7".repeat(4300).into_bytes(),
    ])
    .collect();
    let mut referee = Referee::start()?;
    for body in &read {
        referee.compare(body.clone(), false)?;
        referee.flush()?;
    }
    for body in &read {
        let value = Yaml::default().decode(body);
        assert!(value.is_ok(), "{:?}: {value:?}", String::from_utf8_lossy(body));
    }

    let errors: Vec<Vec<u8>> = [
        // PyYAML fails on these.
        "[<<]",
        "=",
        "[=]",
        "<<: 1",
        "{<<: [1]}",
        "!!value x",
        "!!nope x",
        "2024-02-30",
        "{when: 2023-02-29 10:00:00}",
        "0b_",
        "{[1]: 2}",
        "? !!python/tuple [[1]]\n",
        "&a 1\n--- &a 2\n",
        "[&a 1, &a 2]",
        "*a",
        "--- 1\n--- 2\n",
        "1\n...\n2\n",
        "...\n",
        "a: b: c",
        "a: - b",
        "a:\tb\t: c",
        "\tx",
        "- a\n b: c",
        "[a\n]: b: c",
        "%YAML 2.0\n---\n",
        "%TAG ! !x\n%TAG ! !y\n---\n",
        "!e!x 1",
        "!!set [a]",
        "!!omap [a]",
        "!!omap {a: 1}",
        "!!omap [{a: 1, b: 2}]",
        "!!omap [!!python/tuple [1, 2]]",
        "!!pairs [<<: 1]",
        "!!seq ''",
        "!!map ''",
        "!!set ''",
        "!!python/tuple ''",
        "!!float ''",
        "!!float 0x10",
        "!!int ''",
        "!!bool ''",
        "!!binary AP8",
        "!!python/complex x",
        "\"\\q\"",
        "\"\\xg0\"",
        "\"a\n--- \"",
        "'a",
        "\"a\u{7f}\"",
        "a\u{0}b",
        "\u{fffe}",
        "!<x 1",
        "!%gg 1",
        "!%ff 1",
        "&é 1",
        "@x",
        "`x",
        "[",
        "]",
        "{a: 1]",
        "[\"1\" 2]",
        "[: e]",
        "[a?, b]",
        "|0\n x",
        "|x\n x",
        // These are for values that a `Value` cannot hold.
        "\"\\ud800\"",
        "\"\\ude00\\ud83d\"",
        "\"\\ud83dx\"",
        "&a [*a]",
        "&a {k: *a}",
        "&a !!python/tuple [[*a]]",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into_iter()
    .chain([
        vec![0xFF, 0xFE, b'a'],
        vec![0xFF, 0xFE, 0x00, 0xD8],
        vec![0xFF, 0xFE, 0x00, 0x00],
        format!("{long}: 1\n").into_bytes(),
        format!("{{\"{long}\": 1}}").into_bytes(),
        "7".repeat(4301).into_bytes(),
    ])
    .collect();
    for body in errors {
        let error = Yaml::default().decode(&body);
        assert!(error.is_err(), "{:?}: {error:?}", String::from_utf8_lossy(&body));
        referee.compare(body, false)?;
        referee.flush()?;
    }
    Ok(())
}
