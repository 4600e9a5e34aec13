//! Other programs, whose words are the errors when they fail.

use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, bail};

use crate::outcome::{Interrupted, interrupted};

/// Runs `command` quietly; its words are the error when it fails.
///
/// # Errors
///
/// It cannot be started or fails.
pub fn run(command: &mut Command) -> Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {name}"))?;
    check(&name, &output)?;
    Ok(output)
}

/// That a program called `name` has succeeded with this `output`.
///
/// # Errors
///
/// It has not.
pub fn check(name: &str, output: &Output) -> Result<()> {
    if output.status.success() {
        return Ok(());
    }
    if interrupted() {
        return Err(Interrupted.into());
    }
    bail!(
        "{name} failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    )
}
