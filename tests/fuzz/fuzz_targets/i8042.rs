//! See `tests::fuzz::i8042`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::i8042(data));
