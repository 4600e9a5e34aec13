//! Debian's own programs for a RAM disk: each with the shared libraries that it and they name, from Debian's packages.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use goblin::elf::Elf;

use crate::cpio::Archive;
use crate::deb;

/// Where a Debian system's loader looks for libraries.
const LIBRARIES: &str = "lib/x86_64-linux-gnu";
/// The loader, which a program names by its absolute path.
const LOADER: &str = "lib64/ld-linux-x86-64.so.2";

/// Puts programs of `packages` (a package, and the program's path in it) into `archive` as `bin/...`, with all libraries that they
/// need, which are to be found in these packages and in those of `libraries`.
///
/// # Errors
///
/// A package cannot be had, or none has a library that is needed.
pub fn add(archive: &mut Archive, packages: &[(&str, &str)], libraries: &[&str]) -> Result<()> {
    let mut files = Vec::new();
    for package in libraries {
        files.extend(shared_objects(&deb::unpacked(package)?));
    }
    for directory in ["lib", LIBRARIES, "lib64"] {
        archive.directory(directory);
    }
    let find = |name: &str| {
        let found = files
            .iter()
            .find(|path| path.file_name().is_some_and(|file| file == name));
        found.with_context(|| format!("no package has the library {name}"))
    };
    let mut seen = BTreeSet::new();
    let mut todo = Vec::new();
    for (package, program) in packages {
        let content = read(&deb::unpacked(package)?.join(program))?;
        let name = Path::new(program)
            .file_name()
            .context("a program has no name")?;
        archive.program(&format!("bin/{}", name.to_string_lossy()), &content);
        todo.extend(needed(&content)?);
    }
    while let Some(name) = todo.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let content = read(find(&name)?)?;
        todo.extend(needed(&content)?);
        let place = if LOADER.ends_with(&name) {
            LOADER.to_owned()
        } else {
            format!("{LIBRARIES}/{name}")
        };
        archive.program(&place, &content);
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The libraries that an ELF file names, its loader among them: System V ABI, "Dynamic Section", `DT_NEEDED`, and "Program
/// Interpreter".
fn needed(content: &[u8]) -> Result<Vec<String>> {
    let elf = Elf::parse(content).context("not an ELF file")?;
    let loader = elf.interpreter.and_then(|path| path.rsplit('/').next());
    Ok(elf
        .libraries
        .into_iter()
        .chain(loader)
        .map(str::to_owned)
        .collect())
}

/// The files below `directory` that are named like shared objects, links to them included.
fn shared_objects(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(shared_objects(&path));
        } else if entry.file_name().to_string_lossy().contains(".so") {
            found.push(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_itself_needs_libc_and_a_loader() {
        let own = fs::read(std::env::current_exe().unwrap()).unwrap();
        let names = needed(&own).unwrap();
        assert!(names.iter().any(|name| name == "libc.so.6"), "{names:?}");
        assert!(
            names.iter().any(|name| LOADER.ends_with(name.as_str())),
            "{names:?}"
        );
        assert!(needed(b"#!/bin/sh").is_err());
    }
}
