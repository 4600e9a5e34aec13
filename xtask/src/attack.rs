//! Guests that are one small program, assembled and made into a disk image: one that attacks, one that switches tasks, one with
//! operands and code on devices.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::command;

/// Ports, registers, device memory and the instructions of hypervisors at random.
pub const ATTACK: Program = Program {
    start: PROTECTED,
    source: include_str!("attack.s"),
    length: 2560,
};
/// Hardware task switches.
pub const TASKS: Program = Program {
    start: PROTECTED,
    source: include_str!("tasks.s"),
    length: 4096,
};

/// A hardware task switch to page tables of its own.
pub const ESCAPE: Program = Program {
    start: PROTECTED,
    source: include_str!("escape.s"),
    length: 6144,
};

/// Operands and code in video memory.
pub const OPERANDS: Program = Program {
    start: "",
    source: include_str!("operands.s"),
    length: 4096,
};

/// A loop without an end.
pub const SPIN: Program = Program {
    start: "",
    source: include_str!("spin.s"),
    length: 512,
};

/// The same on so many CPUs, in the disk image `path`.
///
/// # Errors
///
/// It cannot be assembled or written.
pub fn spin_on(cpus: u32, path: &Path) -> Result<()> {
    const SOURCE: &str = concat!(include_str!("several.s"), include_str!("spin_all.s"));
    assemble_protected(&format!(".set CPUS, {cpus}\n{SOURCE}"), 2048, path)
}

/// A program.
#[derive(Clone, Copy)]
pub struct Program {
    /// What comes before its source: [`PROTECTED`], or nothing if it begins in real mode.
    start: &'static str,
    source: &'static str,
    /// Its length in bytes: a boot sector, and the sectors that it loads.
    length: usize,
}

/// The beginning of programs in protected mode.
const PROTECTED: &str = include_str!("protected.s");
/// What is before every program.
const START: &str = include_str!("start.s");
/// The image: enough for a BIOS to take it for a disk.
const IMAGE: usize = 1 << 20;

impl Program {
    /// Makes the disk image in `path`.
    ///
    /// # Errors
    ///
    /// It cannot be assembled or written.
    pub fn make(&self, path: &Path) -> Result<()> {
        let (start, source, loaded) = (self.start, self.source, self.length / 512 - 1);
        let whole = format!(".set LOADED, {loaded}\n{start}{source}");
        assemble(&whole, self.length, path)
    }
}

/// As [`assemble`], of a program that begins in protected mode.
///
/// # Errors
///
/// It cannot be assembled or written.
pub fn assemble_protected(program: &str, len: usize, path: &Path) -> Result<()> {
    let loaded = len / 512 - 1;
    let whole = format!(".set LOADED, {loaded}\n{PROTECTED}{program}");
    assemble(&whole, len, path)
}

/// Makes a disk image in `path` whose first `len` bytes are the assembled `program` behind `start.s`: a boot sector and what it loads.
///
/// # Errors
///
/// It cannot be assembled or written.
pub fn assemble(program: &str, len: usize, path: &Path) -> Result<()> {
    let (source, object) = (path.with_extension("s"), path.with_extension("o"));
    fs::write(&source, format!("{START}{program}"))?;
    command::run(
        Command::new("as")
            .args(["--32", "-o"])
            .args([&object, &source]),
    )?;
    command::run(
        Command::new("ld")
            .args([
                "-m",
                "elf_i386",
                "-Ttext",
                "0x7c00",
                "--oformat",
                "binary",
                "-o",
            ])
            .args([path, &object]),
    )?;
    let mut image = fs::read(path).context("the assembled program is not there")?;
    ensure!(
        image.len() == len && image.get(510..512) == Some(&[0x55, 0xaa]),
        "the assembled program is no boot sector with {} bytes behind it",
        len - 512
    );
    image.resize(IMAGE, 0);
    fs::write(path, image).with_context(|| format!("cannot write {}", path.display()))
}
