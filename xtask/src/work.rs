//! Work for the test guests: `work.S`, a program of a few instructions without any library, for 64-bit and 32-bit systems.
//!
//! It touches memory in ways that tell paging algorithms apart and says a checksum of what it found there, so that two runs under
//! two algorithms can be compared.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command;

/// The program.
pub const SOURCE: &str = include_str!("work.S");
/// The kinds of work, by the program's argument, and what each is in a few words.
pub const JOBS: [(&str, &str); 4] = [
    ("fork", "fork, exec, exit"),
    ("mmap", "map, touch, unmap"),
    ("pipe", "two processes taking turns"),
    ("walk", "64 MiB walked through"),
];
/// What it says before the name of its work.
const SAID: &str = "GUEST-WORK ";

/// The width of a program's registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Width {
    /// IA-32.
    Bits32,
    /// x86-64.
    Bits64,
}

/// Assembles the program.
///
/// # Errors
///
/// The compiler fails.
pub fn program(width: Width) -> Result<Vec<u8>> {
    let scratch = tempfile::tempdir()?;
    let (source, program) = (scratch.path().join("work.S"), scratch.path().join("work"));
    fs::write(&source, SOURCE)?;
    command::run(
        Command::new("cc")
            .arg(match width {
                Width::Bits32 => "-m32",
                Width::Bits64 => "-m64",
            })
            .args(["-nostdlib", "-static", "-no-pie", "-s"])
            .args(["-Wl,--build-id=none", "-o"])
            .args([&program, &source]),
    )?;
    fs::read(&program).context("the assembled program is not there")
}

/// What the program said of one kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The checksum of the memory it touched.
    pub checksum: u32,
    /// What the time stamp counter counted meanwhile.
    pub ticks: u64,
}

impl Done {
    /// Finds what was said of `job`, once its line is whole.
    pub fn of(job: &str, console: &str) -> Option<Done> {
        let (checksum, start, end) = said(job, console).next()?;
        Some(Done {
            checksum,
            ticks: end.checked_sub(start)?,
        })
    }
}

/// The checksum of each whole line about `job`, and when that began and ended by the time stamp counter.
fn said<'a>(job: &'a str, console: &'a str) -> impl Iterator<Item = (u32, u64, u64)> + 'a {
    console.split(SAID).skip(1).filter_map(move |said| {
        let (line, _) = said.split_once(['\r', '\n'])?;
        let mut words = line.strip_prefix(job)?.split_whitespace();
        let checksum = u32::from_str_radix(words.next()?, 16).ok()?;
        let mut ticks = words.map(str::parse::<u64>);
        Some((checksum, ticks.next()?.ok()?, ticks.next()?.ok()?))
    })
}

/// How long all together took that have done `job`, by the time stamp counter, and how many these were. Nothing: nobody has.
pub fn span(job: &str, console: &str) -> Option<(u64, usize)> {
    let start = said(job, console).map(|(_, start, _)| start).min()?;
    let end = said(job, console).map(|(_, _, end)| end).max()?;
    Some((end.checked_sub(start)?, said(job, console).count()))
}

/// What the program says of `job` on this machine, without any virtualization of ours. It is built in `directory` when it is first
/// needed. Nothing: this system cannot run programs of this width.
///
/// # Errors
///
/// The program cannot be built, or fails.
pub fn said_here(width: Width, directory: &Path, job: &str) -> Result<Option<String>> {
    let path = directory.join(format!("work-{width:?}"));
    if !path.exists() {
        fs::write(&path, program(width)?)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    let output = loop {
        match Command::new(&path).arg(job).output() {
            Ok(output) => break output,
            // Another thread has started a process while the program was written: that has the file open for a moment (execve(2), ETXTBSY).
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => {
                sleep(Duration::from_millis(10));
            }
            Err(_) => return Ok(None),
        }
    };
    ensure!(output.status.success(), "work {job} fails on this machine");
    Ok(Some(String::from_utf8(output.stdout)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(width: Width, directory: &Path, job: &str) -> Option<String> {
        said_here(width, directory, job).unwrap()
    }

    #[test]
    fn the_time_stamp_counter_grows() {
        let directory = tempfile::tempdir().unwrap();
        let read = || -> u64 {
            let text = said(Width::Bits64, directory.path(), "tsc").unwrap();
            text.trim().parse().unwrap()
        };
        let first = read();
        assert!(read() > first);
    }

    #[test]
    fn checksums_repeat_and_are_the_same_in_64_and_32_bits() {
        let directory = tempfile::tempdir().unwrap();
        let done = |width, job| {
            let text = said(width, directory.path(), job)?;
            Some(Done::of(job, &text).expect(&text))
        };
        for (job, _) in JOBS {
            let first = done(Width::Bits64, job).unwrap();
            assert_ne!(first.ticks, 0);
            let again = done(Width::Bits64, job).unwrap();
            assert_eq!(again.checksum, first.checksum, "{job}");
            // A system may be without support for 32-bit programs.
            if let Some(narrow) = done(Width::Bits32, job) {
                assert_eq!(narrow.checksum, first.checksum, "{job}");
            }
        }
    }

    #[test]
    fn what_it_says_is_read_once_its_line_is_whole() {
        let console = "GUEST-JOB fork\r\nGUEST-WORK fork 00c0ffee 1000 1700\r\nGUEST-WORK mmap 1 2";
        let fork = Done {
            checksum: 0x00c0_ffee,
            ticks: 700,
        };
        assert_eq!(Done::of("fork", console), Some(fork));
        assert_eq!(Done::of("mmap", console), None);
        assert_eq!(Done::of("walk", console), None);
    }
}
