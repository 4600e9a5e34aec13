//! Guests that measure themselves, in instructions: they say a letter and a hexadecimal number for each measure, and a full stop at the end.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::rig::MIB;
use crate::run::{self, Options};
use crate::script::Step;
use crate::vm::Vm;

/// Runs the guest on this disk image, with so many virtual CPUs and for `timeout` at most, under the name `name`. Gives what it has said.
///
/// # Errors
///
/// The run fails.
pub fn run(name: &str, image: &Path, cpus: u32, timeout: Duration, umbra: &Path) -> Result<String> {
    listen(name, &options(image, cpus, timeout)?, umbra)
}

/// How such a guest is run.
///
/// # Errors
///
/// It cannot boot.
pub fn options(image: &Path, cpus: u32, timeout: Duration) -> Result<Options> {
    Ok(Options {
        script: vec![Step::Until(".".to_owned())],
        timeout: Some(timeout),
        icount: true,
        ..Options::headless(Vm {
            memory: 32 * MIB,
            cpus,
            max_cpus: cpus,
            ..Vm::of(image)?
        })
    })
}

/// Runs it, and gives what it has said.
///
/// # Errors
///
/// The run fails.
pub fn listen(name: &str, options: &Options, umbra: &Path) -> Result<String> {
    let mut console = Vec::new();
    let run = run::execute(options, umbra, name, &mut |bytes| {
        console.extend_from_slice(bytes)
    })?;
    run.summary.result?;
    Ok(String::from_utf8_lossy(&console).into_owned())
}

/// The number behind `letter` in what the guest has said.
///
/// # Errors
///
/// It is not there, or no number.
pub fn measure(console: &str, letter: char) -> Result<u64> {
    let word = console
        .split_whitespace()
        .find_map(|w| w.strip_prefix(letter))
        .with_context(|| format!("the guest has not said {letter}: {console:?}"))?;
    u64::from_str_radix(word, 16).with_context(|| format!("{word:?} is no number"))
}
