//! Guests that look at their own CPU: `registers.s` keeps an eye on its registers, `corners.s` tries corners of the architecture.

use std::path::Path;

use anyhow::Result;

use crate::attack;

const REGISTERS: &str = include_str!("registers.s");
/// Its code: a boot sector and the four sectors that it loads.
const REGISTERS_CODE: usize = 2560;
const CORNERS: &str = include_str!("corners.s");
/// Its code: a boot sector and the two sectors that it loads.
const CORNERS_CODE: usize = 1536;

/// Makes the disk image in `path` of a guest that has its registers from `pattern`.
///
/// # Errors
///
/// It cannot be assembled or written.
pub fn make(path: &Path, pattern: u32) -> Result<()> {
    let source = format!(".set PATTERN, {pattern}\n{REGISTERS}");
    attack::assemble_protected(&source, REGISTERS_CODE, path)
}

/// Makes the disk image in `path` of the guest that tries corners.
///
/// # Errors
///
/// It cannot be assembled or written.
pub fn make_corners(path: &Path) -> Result<()> {
    attack::assemble_protected(CORNERS, CORNERS_CODE, path)
}
