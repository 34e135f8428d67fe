//! Bodies to bytes and back, beside serde_json, on one body as AiiDA sends them and on a large one.

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use homing::Value;
use homing::codec::{Codec, Json, Map, Yaml};

/// `{intent: …, message: …}`, and a list of a thousand of them.
fn bodies() -> [(&'static str, Value, serde_json::Value); 2] {
    let mut small = Map::new();
    small.insert("intent", "status");
    small.insert("message", Value::Null);
    let small = Value::Map(small);
    let json = serde_json::json!({"intent": "status", "message": null});
    let large = Value::List(vec![small.clone(); 1000]);
    [("small", small, json.clone()), ("1000 of them", large, serde_json::Value::Array(vec![json; 1000]))]
}

pub fn codecs(criterion: &mut Criterion) {
    for (name, value, json) in bodies() {
        let mut group = criterion.benchmark_group(format!("codec, {name}"));
        let bytes = serde_json::to_vec(&json).expect("JSON");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("encode, serde_json", |bencher| bencher.iter(|| serde_json::to_vec(black_box(&json))));
        group.bench_function("decode, serde_json", |bencher| {
            bencher.iter(|| serde_json::from_slice::<serde_json::Value>(black_box(&bytes)));
        });
        let codecs: [(&str, Box<dyn Codec>); 2] =
            [("JSON", Box::new(Json::default())), ("YAML", Box::new(Yaml::default()))];
        for (format, codec) in codecs {
            let bytes = codec.encode(&value).expect("encoded");
            group.bench_function(format!("encode, {format}"), |bencher| {
                bencher.iter(|| codec.encode(black_box(&value)));
            });
            group.bench_function(format!("decode, {format}"), |bencher| {
                bencher.iter(|| codec.decode(black_box(&bytes)));
            });
        }
        group.finish();
    }
}
