//! A guest whose CPUs try each other: `litmus.s`, assembled and made into a disk image.

use std::path::Path;

use anyhow::Result;

use crate::attack;

const SOURCE: &str = concat!(include_str!("several.s"), include_str!("litmus.s"));
/// The code: a boot sector and the three sectors that it loads.
const CODE: usize = 2048;

/// Makes the disk image in `path` for a guest with so many CPUs, a power of two, which go through so many rounds.
///
/// # Errors
///
/// It cannot be assembled or written.
pub fn make(path: &Path, cpus: u32, rounds: u32) -> Result<()> {
    let source = format!(".set CPUS, {cpus}\n.set ROUNDS, {rounds}\n{SOURCE}");
    attack::assemble_protected(&source, CODE, path)
}
