//! Whole-VM tests, and what they share with the fuzz targets.
//!
//! [`rig`] is a virtual machine around a scripted CPU, [`pc`] the real virtual PC without a CPU, [`firmware`] the same with
//! firmware that runs in the emulator. [`fuzz`] has one function for each part that a guest feeds: bytes in, no panic out. The
//! tests call these functions with random bytes from a seed; `tests/fuzz` calls them under libFuzzer, which searches for bytes
//! that reach new code:
//!
//! ```text
//! cargo xtask fuzz --list
//! cargo xtask fuzz ide --seconds 600
//! ```
//!
//! A new target is a function and its line in [`fuzz::TARGETS`]. Inputs worth keeping are in `tests/fuzz/seeds`, a line in base64 each:
//! `cargo xtask fuzz NAME --keep` chooses them anew, and one that has failed is added by hand (`base64 -w0 FILE`).
//!
//! Random tests print their seed; `UMBRA_SEED` in the environment sets it, and `UMBRA_STEPS` how long they go on.
#![forbid(unsafe_code)]

pub mod feed;
pub mod firmware;
pub mod fuzz;
pub mod pc;
pub mod rig;
