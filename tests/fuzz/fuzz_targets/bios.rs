//! See `tests::fuzz::bios`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::bios(data));
