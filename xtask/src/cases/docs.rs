//! The documentation's commands: each is one that the tool knows, and those that boot something are run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::{Case, own};
use crate::guests::Guest;
use crate::{kernel, paths};

/// How long a command may take, in seconds. Bochs needs a minute for what takes QEMU five seconds.
const TIMEOUT: &str = "400";

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let guests = &[
        Guest::GrubRescue,
        Guest::CloudKernel,
        Guest::CloudInitrd,
        Guest::LinuxDisk,
    ];
    vec![own("docs-commands", guests, run_all, 64, 900)]
}

/// The pages that have commands.
fn pages() -> Result<Vec<PathBuf>> {
    let mut pages = vec![paths::root().join("README.md")];
    for entry in fs::read_dir(paths::root().join("docs"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            pages.push(path);
        }
    }
    pages.sort();
    Ok(pages)
}

/// The commands of a page: lines of its code blocks, and what stands between backquotes.
fn commands(text: &str) -> Vec<String> {
    const START: &str = "cargo xtask ";
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(block) = line.strip_prefix("    ").map(str::trim_start) {
            if block.starts_with(START) {
                let command = block.split(" # ").next().unwrap_or(block);
                found.push(command.trim_end().to_owned());
            }
            continue;
        }
        let quoted = line.split('`').skip(1).step_by(2);
        found.extend(quoted.filter(|q| q.starts_with(START)).map(str::to_owned));
    }
    found
}

/// What is added to a command of a code block so that it ends by itself and shows that its guest is there. None: what boots has a test of its
/// own, or takes too long for every day.
fn added(words: &[String]) -> Option<Vec<&'static str>> {
    let word = |at: usize| words.get(at).map(String::as_str);
    let has = |word: &str| words.iter().any(|w| w == word);
    match (word(0)?, word(1)) {
        ("image", _) => Some(Vec::new()),
        // It waits for a debugger.
        _ if has("--gdb-wait") => None,
        // `debian-amd64-installer` is the case of the default guest.
        ("run", Some(guest)) => {
            let mut more = Vec::new();
            if !has("--headless") {
                more.push("--headless");
            }
            if !has("--timeout") {
                more.extend(["--timeout", TIMEOUT]);
            }
            if !has("--until") {
                let seen = match guest {
                    "vmlinuz" => "GUEST-UP",
                    "disk.img" => "GUEST-GRUB",
                    _ => "GNU GRUB",
                };
                more.extend(["--until", seen]);
            }
            Some(more)
        }
        _ => None,
    }
}

/// Runs the commands of all code blocks, each in a directory of its own.
fn run_all(_: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let mut done = Vec::new();
    for page in pages()? {
        let text = fs::read_to_string(&page)?;
        let blocks = text.lines().filter(|line| line.starts_with("    "));
        for command in commands(&blocks.collect::<Vec<_>>().join("\n")) {
            let words = shlex::split(&command).context("a quotation mark is missing")?;
            let words = words.get(2..).unwrap_or_default();
            let Some(more) = added(words).filter(|_| !done.contains(&command)) else {
                continue;
            };
            let directory = scratch.join(done.len().to_string());
            fs::create_dir(&directory)?;
            lay_out(&directory, words)?;
            run(&directory, words, &more, umbra)
                .with_context(|| format!("{}: {command}", page.display()))?;
            done.push(command);
        }
    }
    ensure!(done.len() > 8, "the documentation has only {done:?}");
    Ok(())
}

/// Puts the files there of which the documentation speaks.
fn lay_out(directory: &Path, words: &[String]) -> Result<()> {
    let grub = Guest::GrubRescue.provide()?;
    for (name, file) in [
        ("my.iso", grub.clone()),
        ("other.iso", grub),
        ("vmlinuz", Guest::CloudKernel.provide()?),
        ("initrd.gz", Guest::CloudInitrd.provide()?),
    ] {
        std::os::unix::fs::symlink(file, directory.join(name))?;
    }
    if words.get(1).is_some_and(|guest| guest == "disk.img") {
        fs::copy(Guest::LinuxDisk.provide()?, directory.join("disk.img"))?;
    }
    Ok(())
}

fn run(directory: &Path, words: &[String], more: &[&str], umbra: &Path) -> Result<()> {
    let output = Command::new(std::env::current_exe()?)
        .args(words)
        .args(more)
        .current_dir(directory)
        .env(kernel::OVERRIDE, umbra)
        .stdin(Stdio::null())
        .output()?;
    ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    #[test]
    fn every_command_of_the_documentation_is_one_that_the_tool_knows() {
        let mut count = 0;
        for page in pages().unwrap() {
            for command in commands(&fs::read_to_string(&page).unwrap()) {
                let words = shlex::split(&command).expect("quotation marks come in pairs");
                // `cargo xtask bench disk ...` and the like stand for the command itself.
                let words = words.into_iter().skip(1).filter(|word| word != "...");
                match Cli::try_parse_from(words) {
                    Ok(_) => {}
                    Err(error) if !error.use_stderr() => {}
                    Err(error) => panic!("{}: {command}: {error}", page.display()),
                }
                count += 1;
            }
        }
        assert!(count > 40, "{count}");
    }

    #[test]
    fn every_link_of_the_documentation_leads_somewhere() {
        let anchor = |heading: &str| -> String {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            text.chars()
                .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
                .map(|c| if c == ' ' { '-' } else { c })
                .collect()
        };
        for page in pages().unwrap() {
            let text = fs::read_to_string(&page).unwrap();
            for link in text.split("](").skip(1).filter_map(|l| l.split(')').next()) {
                if link.starts_with("http") {
                    continue;
                }
                let (file, place) = link.split_once('#').unwrap_or((link, ""));
                let path = match file {
                    "" => page.clone(),
                    file => page.parent().unwrap().join(file),
                };
                assert!(path.exists(), "{}: {link}", page.display());
                if !place.is_empty() {
                    let there = fs::read_to_string(&path).unwrap();
                    let found = there
                        .lines()
                        .any(|line| line.starts_with('#') && anchor(line) == place);
                    assert!(found, "{}: {link}", page.display());
                }
            }
        }
    }
}
