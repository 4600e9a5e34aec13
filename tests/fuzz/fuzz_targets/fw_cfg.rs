//! See `tests::fuzz::fw_cfg`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::fw_cfg(data));
