//! The decoder of tasks.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| homing::fuzzing::task(data));
