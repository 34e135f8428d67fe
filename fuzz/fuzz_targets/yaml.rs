//! The YAML reader, and what is written of what it has read.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| homing::fuzzing::yaml(data));
