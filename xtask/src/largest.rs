//! A guest with the largest screen that there can be: `largest.s`, assembled and made into a disk image.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::attack;
use crate::control::Picture;

const SOURCE: &str = include_str!("largest.s");
/// The code: a boot sector and the sector that it loads.
const CODE: usize = 1024;
/// The picture's size.
const SIZE: (u32, u32) = (2560, 1600);
/// The size of the text screen in pixels, and its rows that have colours.
const TEXT: (u32, u32) = (720, 1024);
const COLOURED: usize = 200;

/// The guest's screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Largest {
    /// Text of 1,024 rows.
    Text,
    /// A picture of 2560 by 1600 pixels.
    Picture,
}

impl Largest {
    /// Makes the disk image in `path` of a guest with this screen.
    ///
    /// # Errors
    ///
    /// It cannot be assembled or written.
    pub fn make(self, path: &Path) -> Result<()> {
        let picture = u8::from(self == Largest::Picture);
        let source = format!(".set PICTURE, {picture}\n{SOURCE}");
        attack::assemble_protected(&source, CODE, path)
    }

    /// Whether `picture` is this screen.
    ///
    /// # Errors
    ///
    /// It is not: what differs.
    pub fn check(self, picture: &Picture) -> Result<()> {
        let size = (picture.width, picture.height);
        let wanted = match self {
            Largest::Text => TEXT,
            Largest::Picture => SIZE,
        };
        ensure!(size == wanted, "the picture is of {size:?}, not {wanted:?}");
        let rows = picture.rgb.chunks_exact(3 * size.0 as usize);
        match self {
            Largest::Text => {
                let rows: Vec<&[u8]> = rows.take(COLOURED).collect();
                for (y, row) in rows.iter().enumerate() {
                    let one = row.chunks(3).all(|pixel| Some(pixel) == row.get(..3));
                    ensure!(one, "row {y} has several colours");
                    let (next, again) = (rows.get(y + 1), rows.get(y + 15));
                    ensure!(next != Some(row), "row {y} is as the next");
                    ensure!(
                        again.is_none_or(|again| again == row),
                        "row {y} does not come again"
                    );
                }
            }
            Largest::Picture => {
                for (y, row) in (0u32..).zip(rows) {
                    for (x, pixel) in (0u32..).zip(row.chunks(3)) {
                        let wanted = (x >> 4).wrapping_mul(40503) ^ y.wrapping_mul(69069);
                        ensure!(
                            wanted.to_be_bytes().get(1..) == Some(pixel),
                            "pixel {x},{y} is {pixel:02x?}, not {:06x}",
                            wanted & 0xff_ffff
                        );
                    }
                }
            }
        }
        Ok(())
    }
}
