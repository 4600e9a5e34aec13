//! See `tests::fuzz::bus`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::bus(data));
