//! A guest that draws: `screens.s`, assembled and put on a CD.

use std::path::Path;

use anyhow::Result;

use crate::{attack, cdrom};

const SOURCE: &str = include_str!("screens.s");
/// The code: eight sectors, which the CD's boot record says.
const CODE: usize = 4096;

/// Makes the CD in `path`.
///
/// # Errors
///
/// It cannot be assembled or written.
pub fn make(path: &Path) -> Result<()> {
    let program = path.with_extension("img");
    attack::assemble(SOURCE, CODE, &program)?;
    cdrom::make_of_program(path, &program, CODE / 512)
}
