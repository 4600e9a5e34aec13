//! Traces of exits in a file: what `run --trace` writes, and `cargo xtask trace` reads.
//!
//! A file is [`MAGIC`] and then pieces: the number of a virtual machine, the length of a chunk in 16 bits (little-endian), and the chunk as Umbra
//! has sent it ([`hv_core::trace::chunk`]). Each can be understood alone, so that a file is good as far as it goes.

mod perfetto;
mod plot;
mod show;
#[cfg(test)]
mod tests;

use std::fs;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use hv_core::trace::chunk::{Head, Reader};
use hv_core::trace::{Filter, Traced};

pub use self::plot::draw;
pub use self::show::{Counted, trace};
use crate::outcome::refuse;

/// How a file begins; the last byte is the format's version.
pub const MAGIC: [u8; 8] = *b"UMBRATR\x01";
/// Bytes of a piece before its chunk.
const HEADER: usize = 3;

/// A trace that is wanted of a run.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Where it goes.
    pub file: PathBuf,
    words: String,
    filter: Filter,
}

impl Wanted {
    /// Checks what the command line says.
    ///
    /// # Errors
    ///
    /// A [`Refused`](crate::outcome::Refused): a word of the filter is wrong.
    pub fn check(file: &Path, words: Option<&str>) -> Result<Wanted> {
        let words = words.unwrap_or("all");
        Ok(Wanted {
            file: file.to_owned(),
            words: words.to_owned(),
            filter: filter("--trace-filter", words)?,
        })
    }

    /// The words for virtual machine `number`, if it is traced.
    pub fn filter_for(&self, number: u8) -> Option<&str> {
        self.filter.takes_vm(number).then_some(&*self.words)
    }
}

/// Understands the filter behind `option`.
fn filter(option: &str, words: &str) -> Result<Filter> {
    if words.contains(char::is_whitespace) {
        refuse!("{option} {words:?}: write commas between the words, and no blanks");
    }
    match Filter::parse(words) {
        Ok(filter) => Ok(filter),
        Err(wrong) => refuse!("{option} {words}: {wrong}"),
    }
}

/// A file that is written.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    to: BufWriter<fs::File>,
}

impl File {
    /// Makes it.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn create(path: &Path) -> Result<File> {
        let file = fs::File::create(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        let mut file = File {
            path: path.to_owned(),
            to: BufWriter::new(file),
        };
        file.put(&MAGIC)?;
        Ok(file)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        let put = self.to.write_all(bytes);
        put.with_context(|| format!("cannot write {}", self.path.display()))
    }

    /// Adds a chunk of virtual machine `vm`'s (from 1).
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&mut self, vm: u8, chunk: &[u8]) -> Result<()> {
        let [low, high] = u16::try_from(chunk.len())?.to_le_bytes();
        self.put(&[vm, low, high])?;
        self.put(chunk)
    }

    /// Nothing more comes.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn end(mut self) -> Result<()> {
        let flushed = self.to.flush();
        flushed.with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Reads a trace: gives each chunk's head to `head`, and each event to `event`, with the number of its machine and its CPU.
///
/// # Errors
///
/// It is no trace, or damaged.
pub fn read(
    bytes: &[u8],
    head: &mut dyn FnMut(u8, &Head),
    event: &mut dyn FnMut(u8, u8, &Traced) -> Result<()>,
) -> Result<()> {
    let Some(mut rest) = bytes.strip_prefix(&MAGIC) else {
        bail!("this is no trace of this version of Umbra");
    };
    while !rest.is_empty() {
        let at = bytes.len() - rest.len();
        let cut = || format!("the trace ends in the middle of a chunk, at byte {at}");
        let ([vm, low, high], behind) = rest.split_first_chunk::<HEADER>().with_context(cut)?;
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (chunk, behind) = behind.split_at_checked(length).with_context(cut)?;
        rest = behind;
        let wrong = |what: &str| format!("the chunk at byte {at} is damaged: {what}");
        ensure!(*vm != 0, wrong("it is about no virtual machine"));
        let (its, events) = Reader::begin(chunk).map_err(|e| anyhow::anyhow!(wrong(e.0)))?;
        head(*vm, &its);
        for one in events {
            let one = one.map_err(|e| anyhow::anyhow!(wrong(e.0)))?;
            event(*vm, its.cpu, &one)?;
        }
    }
    Ok(())
}
