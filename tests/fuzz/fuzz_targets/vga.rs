//! See `tests::fuzz::vga`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| tests::fuzz::vga(data));
