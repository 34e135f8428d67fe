//! The reader of brokers' URLs.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| homing::fuzzing::url(data));
