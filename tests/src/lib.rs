//! Whole-VM tests, and what they share with the fuzz targets.
//!
//! [`rig`] is a virtual machine around a scripted CPU, [`pc`] the real virtual PC without a CPU, [`firmware`] the same with
//! firmware that runs in the emulator. [`fuzz`] has one function for each part that a guest feeds: bytes in, no panic out. The
//! tests call these functions with random bytes from a seed; `tests/fuzz` calls them under libFuzzer, which searches for bytes
//! that reach new code:
//!
//! ```text
//! cargo install cargo-fuzz
//! cd tests && RUSTC_BOOTSTRAP=1 cargo fuzz run ide -- -max_len=4096 -max_total_time=600
//! ```
//!
//! The targets are `emulator`, `walker`, `bus`, `ide`, `vga`, `ne2k`, `fw_cfg`, `i8042`, `linux`, `bios`. They need only
//! `RUSTC_BOOTSTRAP=1 cargo build` in `tests/fuzz` to compile, and are no part of the workspace.
//!
//! Random tests print their seed; `UMBRA_SEED` in the environment sets it, and `UMBRA_STEPS` how long they go on.
#![forbid(unsafe_code)]

pub mod feed;
pub mod firmware;
pub mod fuzz;
pub mod pc;
pub mod rig;
