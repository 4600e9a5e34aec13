//! Where things are: the project's root and what the tool keeps under `target`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The project's root.
pub fn root() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// The directory of build results.
pub fn target() -> PathBuf {
    root().join("target")
}

/// The cache of guests.
pub fn guests() -> PathBuf {
    target().join("guests")
}

/// The logs of runs.
pub fn logs() -> PathBuf {
    target().join("run")
}

/// Makes `directory` with its parents.
///
/// # Errors
///
/// It cannot be made.
pub fn make(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot make the directory {}", directory.display()))
}

/// How many of the newest logs are kept, those of COM1 too.
const KEPT_LOGS: usize = 80;

/// The path of a new log for a run of `name`, after old logs were thrown away.
///
/// # Errors
///
/// The directory of logs cannot be made or read.
pub fn new_log(name: &str) -> Result<PathBuf> {
    let directory = logs();
    make(&directory)?;
    let mut old: Vec<_> = fs::read_dir(&directory)?
        .flatten()
        .filter(|entry| {
            entry
                .path()
                .extension()
                .is_some_and(|extension| extension == "log")
        })
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    old.sort();
    for (_, path) in old.iter().rev().skip(KEPT_LOGS) {
        // Another run may have thrown it away already.
        let _ = fs::remove_file(path);
    }
    let plain: String = name
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || ".-+".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect();
    Ok(unused(
        &directory,
        &format!("{plain}-{}", std::process::id()),
    ))
}

/// A log of this name in `directory`, with a number behind it if there is one already: a test that runs once more keeps the first run's.
fn unused(directory: &Path, name: &str) -> PathBuf {
    let numbered = (2..).map(|n| directory.join(format!("{name}-{n}.log")));
    let mut paths = std::iter::once(directory.join(format!("{name}.log"))).chain(numbered);
    paths
        .find(|path| !path.exists())
        .expect("there is always a further number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_run_has_a_log_of_its_own() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["case-7.log", "case-7-2.log", "case-7-3.log"] {
            let path = unused(directory.path(), "case-7");
            assert_eq!(path, directory.path().join(name));
            fs::write(path, "").unwrap();
        }
    }
}
