//! See `tests::fuzz::ide`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::ide(data));
