//! See `tests::fuzz::ne2k`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::ne2k(data));
