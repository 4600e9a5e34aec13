//! See `tests::fuzz::shadow`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::shadow(data));
