//! The decoder of replies.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| homing::fuzzing::reply(data));
