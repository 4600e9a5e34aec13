//! A guest that looks at where events reach it: `events.s`, assembled and made into a disk image.

use std::path::Path;

use anyhow::Result;

use crate::attack;

const SOURCE: &str = include_str!("events.s");
/// The code: a boot sector and the two sectors that it loads.
const CODE: usize = 1536;

/// Makes the disk image in `path`.
///
/// # Errors
///
/// It cannot be assembled or written.
pub fn make(path: &Path) -> Result<()> {
    attack::assemble_protected(SOURCE, CODE, path)
}
