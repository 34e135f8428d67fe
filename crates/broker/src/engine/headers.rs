//! The bindings of a headers exchange. They are found by the headers that a message has, so that its cost does not grow with the
//! number of bindings that ask for something else.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::exchange::Target;
use super::field::{Arguments, Field};
use super::refusal::Problem;
use super::table::{Key, Table};

/// All rules of an exchange.
#[derive(Default)]
pub(super) struct Rules {
    rules: Table<Rule>,
    /// Under one of its conditions where all have to be met, under each where any will do. Only looked up.
    by_condition: HashMap<(Arc<str>, Value), BTreeSet<Key<Rule>>>,
    /// Those without a condition that has to be met.
    unconditional: BTreeSet<Key<Rule>>,
    /// To find the rule of a binding that goes.
    by_target: HashMap<(Target, Box<str>), Key<Rule>>,
}

struct Rule {
    target: Target,
    /// How many bindings of this target have these arguments; they differ in their keys.
    bindings: usize,
    mode: Mode,
    conditions: Vec<(Arc<str>, Value)>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    All,
    Any,
}

/// A value as it is compared: RabbitMQ distinguishes neither the widths of numbers nor strings from bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
enum Value {
    /// Of a rule: the header is there, whatever its value.
    Present,
    Bool(bool),
    Integer(i64),
    Float(u64),
    Decimal(u8, u32),
    Bytes(Bytes),
    /// What cannot be hashed is compared as it was written.
    Written(String),
}

impl Value {
    fn of(field: &Field) -> Self {
        match field {
            Field::Void => Value::Present,
            Field::Bool(value) => Value::Bool(*value),
            Field::F32(value) => Value::float(f64::from(*value)),
            Field::F64(value) => Value::float(*value),
            Field::Decimal { scale, value } => Value::Decimal(*scale, *value),
            Field::Text(bytes) | Field::Bytes(bytes) => Value::Bytes(bytes.clone()),
            Field::Timestamp(value) => Value::Integer(i64::try_from(*value).unwrap_or(i64::MAX)),
            Field::Array(_) | Field::Table(_) => Value::Written(format!("{field:?}")),
            Field::I8(_)
            | Field::U8(_)
            | Field::I16(_)
            | Field::U16(_)
            | Field::I32(_)
            | Field::U32(_)
            | Field::I64(_) => Value::Integer(field.as_integer().unwrap_or_default()),
        }
    }

    fn float(value: f64) -> Self {
        // Both zeros are the same.
        Value::Float(if value == 0.0 { 0 } else { value.to_bits() })
    }
}

/// The headers of a message, looked at once for all exchanges that it passes.
#[derive(Default)]
pub(super) struct Headers(HashMap<Arc<str>, Value>);

impl Headers {
    pub(super) fn insert(&mut self, name: &str, field: &Field) {
        self.0.entry(name.into()).or_insert_with(|| Value::of(field));
    }

    fn meets(&self, (name, value): &(Arc<str>, Value)) -> bool {
        self.0.get(name).is_some_and(|known| *value == Value::Present || value == known)
    }
}

/// What `x-match` can be.
const MATCHES: [(&str, Mode, bool); 4] = [
    ("all", Mode::All, false),
    ("any", Mode::Any, false),
    ("all-with-x", Mode::All, true),
    ("any-with-x", Mode::Any, true),
];

fn mode(arguments: &Arguments) -> Result<(Mode, bool), Problem> {
    let Some(field) = arguments.get("x-match") else { return Ok((Mode::All, false)) };
    let known = MATCHES.into_iter().find(|(name, ..)| field.as_text() == Some(*name));
    known.map(|(_, mode, with_x)| (mode, with_x)).ok_or_else(|| Problem::UnknownMatch(field.clone()))
}

/// Whether a headers exchange can be bound by these arguments.
pub(super) fn check(arguments: &Arguments) -> Result<(), Problem> {
    mode(arguments).map(drop)
}

impl Rules {
    /// Arguments that do not pass [`check`] are taken as RabbitMQ takes them, as `all`.
    pub(super) fn bind(&mut self, target: Target, arguments: &Arguments) {
        let at = (target, arguments.written());
        if let Some(rule) = self.by_target.get(&at).and_then(|key| self.rules.get_mut(*key)) {
            rule.bindings += 1;
            return;
        }
        let (mode, with_x) = mode(arguments).unwrap_or((Mode::All, false));
        let counts = |name: &str| name != "x-match" && (with_x || !name.starts_with("x-"));
        let conditions: Vec<_> = arguments
            .iter()
            .filter(|(name, _)| counts(name))
            .map(|(name, field)| (Arc::clone(name), Value::of(field)))
            .collect();
        let rule = Rule { target, bindings: 1, mode, conditions };
        let indexed: Vec<_> = rule.indexed().cloned().collect();
        let unconditional = rule.conditions.is_empty() && mode == Mode::All;
        let key = self.rules.insert(rule);
        for condition in indexed {
            self.by_condition.entry(condition).or_default().insert(key);
        }
        if unconditional {
            self.unconditional.insert(key);
        }
        self.by_target.insert(at, key);
    }

    pub(super) fn unbind(&mut self, target: Target, arguments: &Arguments) {
        let at = (target, arguments.written());
        let Some(key) = self.by_target.get(&at).copied() else { return };
        let Some(rule) = self.rules.get_mut(key) else { return };
        rule.bindings -= 1;
        if rule.bindings > 0 {
            return;
        }
        let Some(rule) = self.rules.remove(key) else { return };
        for condition in rule.indexed() {
            remove_from(&mut self.by_condition, condition, key);
        }
        self.unconditional.remove(&key);
        self.by_target.remove(&at);
    }

    /// Adds where a message of these headers goes; one may be added more than once.
    pub(super) fn route(&self, headers: &Headers, targets: &mut Vec<Target>) {
        let mut reach = |keys: &BTreeSet<Key<Rule>>| {
            for rule in keys.iter().filter_map(|key| self.rules.get(*key)) {
                // What any condition of is met is met already.
                if rule.mode == Mode::Any || rule.conditions.iter().all(|condition| headers.meets(condition)) {
                    targets.push(rule.target);
                }
            }
        };
        reach(&self.unconditional);
        if self.by_condition.is_empty() {
            return;
        }
        for (name, value) in &headers.0 {
            for value in [value, &Value::Present] {
                if let Some(keys) = self.by_condition.get(&(Arc::clone(name), value.clone())) {
                    reach(keys);
                }
            }
        }
    }
}

impl Rule {
    /// The conditions that it is found by.
    fn indexed(&self) -> impl Iterator<Item = &(Arc<str>, Value)> {
        let many = match self.mode {
            Mode::All => 1,
            Mode::Any => usize::MAX,
        };
        self.conditions.iter().take(many)
    }
}

fn remove_from<K: Eq + std::hash::Hash>(map: &mut HashMap<K, BTreeSet<Key<Rule>>>, at: &K, key: Key<Rule>) {
    if let Some(keys) = map.get_mut(at) {
        keys.remove(&key);
        if keys.is_empty() {
            map.remove(at);
        }
    }
}
