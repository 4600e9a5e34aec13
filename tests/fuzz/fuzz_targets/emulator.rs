//! See `tests::fuzz::emulator`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::emulator(data));
