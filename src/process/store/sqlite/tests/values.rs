//! Any value is read back as it was stored.

use num_bigint::BigInt;

use super::*;
use crate::codec::{Map, Tagged};

/// Numbers that look random, from a seed (`SplitMix64`).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn text(&mut self) -> String {
        let odd =
            ["", "$tag", "$map", "value", "\u{0}", "\"\\\n", "null", "1", "\u{feff}", "\u{10FFFF}", "ä€", "\u{2028}"];
        (0..self.below(3)).map(|_| odd[self.below(odd.len() as u64) as usize]).collect()
    }

    fn value(&mut self, depth: u64) -> Value {
        let kinds = if depth == 0 { 9 } else { 14 };
        match self.below(kinds) {
            0 => Value::Null,
            1 => Value::Bool(self.below(2) == 0),
            2 => Value::Int((self.next() >> self.below(64)).cast_signed()),
            3 => {
                let large: BigInt = (BigInt::from(self.next()) + 1) << (64 + self.below(2000));
                Value::from(if self.below(2) == 0 { -large } else { large })
            }
            4 => Value::Float(f64::from_bits(self.next())),
            5 => {
                let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 0.1, 1e22, 1e-320, f64::MAX, 5.0];
                Value::Float(odd[self.below(odd.len() as u64) as usize])
            }
            6 => Value::String(self.text()),
            7 => Value::Bytes((0..self.below(9)).map(|_| self.next().to_le_bytes()[0]).collect()),
            8 => {
                let odd = ["2024-02-29", "2001-12-14t21:59:43.10-05:00", "2024-02-29T12:30:00.5+01:00"];
                Value::Timestamp(odd[self.below(odd.len() as u64) as usize].to_owned())
            }
            9 => Value::List(self.values(depth)),
            10 => Value::Tuple(self.values(depth)),
            11 => Value::Set(self.values(depth).into_iter().map(|value| (value, Value::Null)).collect()),
            12 => Value::Map(self.map(depth)),
            _ => {
                let tags = ["!uuid", "!!python/object:uuid.UUID", "!<tag:x,1:y>", "!a b"];
                let tag = tags[self.below(tags.len() as u64) as usize].to_owned();
                Value::Tagged(Box::new(Tagged { tag, value: self.value(depth - 1) }))
            }
        }
    }

    fn values(&mut self, depth: u64) -> Vec<Value> {
        (0..self.below(4)).map(|_| self.value(depth - 1)).collect()
    }

    fn map(&mut self, depth: u64) -> Map {
        let plain = self.below(2) == 0;
        let key = |random: &mut Self| if plain { random.text().into() } else { random.value(depth - 1) };
        (0..self.below(12)).map(|_| (key(self), self.value(depth - 1))).collect()
    }
}

#[test]
fn any_value_is_read_back_the_same() {
    for seed in 0..20_000 {
        let value = Random(seed).value(seed % 6);
        let text =
            super::super::super::text::encode("a value", &value).unwrap_or_else(|error| panic!("{seed}: {error}"));
        let read = Value::from_json_text(&text).unwrap_or_else(|error| panic!("{seed}: {error}: {text}"));
        // As texts as well: NaN equals itself, and 0.0 equals -0.0.
        assert!(read == value && format!("{read:?}") == format!("{value:?}"), "{seed}: {value:?} is {read:?}");
    }
}

#[tokio::test]
async fn any_value_survives_the_store() {
    let directory = Directory::new();
    let store = SqlitePersister::open(directory.path().join("store")).await.unwrap();
    for seed in 0..200 {
        let mut random = Random(seed);
        let (body, brought, outputs) = (random.value(5), random.value(4), random.value(4));
        let inputs = Inputs::from_parts(
            random.values(4),
            Map::new().into_iter().chain([("k".into(), random.value(3))]).collect(),
        );
        let pid = store.create(NewProcess::new("relax", body.clone()).with_inputs(inputs.clone())).await.unwrap();
        let (lease, checkpoint) = granted(&store, &pid).await;
        assert_eq!(checkpoint.body(), &body, "{seed}");
        let outcome = Outcome::Finished { exit_status: i64::MIN, outputs };
        let end = checkpoint.with_brought(brought).with_outcome(outcome, SystemTime::now());
        assert_eq!(store.save(lease, end.clone()).await.unwrap(), Saved::Stored);
        let record = record(&store, &pid).await;
        assert_eq!((record.checkpoint(), record.inputs()), (&end, &inputs), "{seed}");
    }
}

/// Each kind of nesting, as deep as a value may be. A level may take three of JSON.
#[tokio::test]
async fn the_deepest_values_survive_the_store() {
    let directory = Directory::new();
    let store = SqlitePersister::open(directory.path().join("store")).await.unwrap();
    let kinds: [fn(Value) -> Value; 6] = [
        |value| Value::List(vec![value]),
        |value| Value::Tuple(vec![value]),
        |value| Value::Set(Map::from_iter([(value, Value::Null)])),
        |value| Value::from_iter([("k", value)]),
        |value| Value::from_iter([(value, 1)]),
        |value| Value::Tagged(Box::new(Tagged { tag: "!x".into(), value })),
    ];
    for kind in kinds {
        for inside in [Value::Null, Value::Map(Map::new())] {
            let deepest = (0..200).fold(inside, |value, _| kind(value));
            let pid = store.create(NewProcess::new("relax", deepest.clone())).await.unwrap();
            assert_eq!(record(&store, &pid).await.checkpoint().body(), &deepest);
            let deeper = kind(deepest);
            let error = store.create(NewProcess::new("relax", kind(deeper))).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Encode);
        }
    }
}

#[tokio::test]
async fn times_far_away_are_the_last_that_can_be_stored() {
    let directory = Directory::new();
    let store = SqlitePersister::open(directory.path().join("store")).await.unwrap();
    let pid = store.create(NewProcess::new("relax", 1)).await.unwrap();
    let (lease, checkpoint) = granted(&store, &pid).await;
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(1 << 40);
    let before = SystemTime::UNIX_EPOCH - Duration::from_nanos(1);
    let checkpoint = checkpoint.with_wait(Some(Wait::Until(far))).with_state(ProcessState::Waiting, before);
    assert_eq!(store.save(lease, checkpoint).await.unwrap(), Saved::Stored);
    let stored = record(&store, &pid).await;
    let Some(Wait::Until(until)) = stored.checkpoint().wait() else { panic!() };
    assert!(*until > SystemTime::now() + Duration::from_secs(200 * 365 * 24 * 60 * 60));
    assert_eq!(stored.checkpoint().changed(), before);
}
