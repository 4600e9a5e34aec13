//! How Umbra defends itself: its own page tables, and the pages below its stacks.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};

use super::{Case, own, until};
use crate::guests::Guest;
use crate::run::{self, Options};
use crate::vm::Vm;

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    vec![own(
        "own-memory-is-protected",
        &[Guest::GrubRescue],
        protected,
        64,
        120,
    )]
}

/// Umbra walks its own tables, and finds no page writable and executable; an overflow of each stack is told as such.
fn protected(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let options = Options {
        script: vec![until("GNU GRUB")],
        ..Options::headless(Vm::of(&Guest::GrubRescue.provide()?)?)
    };
    let log = fs::read_to_string(case.look(&options, umbra, scratch)?.log)?;
    let rule = "no page writable and executable, 5 guard pages";
    ensure!(log.contains(rule), "Umbra's log does not say: {rule}");
    for stack in ["main", "double-fault", "machine-check", "page-fault"] {
        let options = Options {
            overflow: Some(stack),
            ..options.clone()
        };
        let run = run::execute(&options, umbra, case.name, &mut |_| ())?;
        let log = fs::read_to_string(run.log)?;
        let told = format!("stack overflow of the {stack} stack");
        ensure!(log.contains(&told), "the log does not say: {told}\n{log}");
    }
    Ok(())
}
