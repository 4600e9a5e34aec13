//! Symbols for a debugger, from a Linux kernel's own image: an ELF file without code, with the names that the kernel keeps of its functions
//! and variables (kallsyms), and with how its stack is unwound (ORC), as DWARF. Distributions keep these in packages of gigabytes.
//!
//! The addresses are those of the file: the guest runs with `nokaslr`.

mod elf;
mod kallsyms;
mod payload;
mod unwind;

use std::fs;

use anyhow::{Context, Result};
use goblin::elf::Elf;

use crate::cli::SymbolsArgs;

/// Writes the symbols of a kernel.
///
/// # Errors
///
/// It is no kernel, or has no symbols.
pub fn symbols(args: &SymbolsArgs) -> Result<()> {
    let file = &args.kernel;
    let kernel = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let made = make(&kernel).with_context(|| format!("{}", file.display()))?;
    let to = &args.file;
    fs::write(to, made).with_context(|| format!("cannot write {}", to.display()))?;
    println!("{}: for gdb, of a guest that has nokaslr", to.display());
    Ok(())
}

/// The file of symbols for the kernel in `image`.
///
/// # Errors
///
/// It is no kernel, or has no symbols.
pub fn make(image: &[u8]) -> Result<Vec<u8>> {
    of_elf(&payload::unpack(image)?)
}

/// The same for a kernel that has been unpacked.
///
/// # Errors
///
/// It has no symbols.
pub fn of_elf(kernel: &[u8]) -> Result<Vec<u8>> {
    let elf = Elf::parse(kernel).context("there is no ELF file in it")?;
    let symbols =
        kallsyms::find(kernel).context("there are no symbols in it that could be read")?;
    let frames = unwind::frames(kernel, &elf).unwrap_or_default();
    Ok(elf::write(&elf, &symbols, &frames))
}

/// Reads what a kernel may have in it; the first byte says which of it.
pub fn parse(data: &[u8]) {
    const MOST: usize = 1 << 16;
    let (&choice, content) = data.split_first().unwrap_or((&0, &[]));
    match choice & 3 {
        0 => drop(kallsyms::find(content)),
        1 => drop(payload::lz4(content, content.len().min(MOST))),
        2 => drop(Elf::parse(content).map(|elf| unwind::frames(content, &elf))),
        _ => drop(of_elf(content)),
    }
}
