//! A guest that keeps an eye on its registers: `registers.s`, assembled and made into a disk image.

use std::path::Path;

use anyhow::Result;

use crate::attack;

const SOURCE: &str = include_str!("registers.s");
/// The code: a boot sector and the four sectors that it loads.
const CODE: usize = 2560;

/// Makes the disk image in `path` of a guest that has its registers from `pattern`.
///
/// # Errors
///
/// It cannot be assembled or written.
pub fn make(path: &Path, pattern: u32) -> Result<()> {
    let source = format!(".set PATTERN, {pattern}\n{SOURCE}");
    attack::assemble_protected(&source, CODE, path)
}
