//! What a second virtual CPU gains on a second CPU of the host: the same work once, and twice at the same time, in Umbra and without it, by the clock.
//!
//! The emulator runs each CPU of the outer machine on a processor of this computer, which has to have as many that nobody else wants. So the
//! figures are ratios of one run, and say nothing where it is busy.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bench::{CMDLINE, MEMORY};
use crate::compare::{self, Words};
use crate::guests::Guest;
use crate::initrd;
use crate::media;
use crate::rig::Network;
use crate::run::Options;
use crate::vm::Vm;
use crate::work;

const WORDS: Words = Words {
    done: "GUEST-END",
    failed: "Kernel panic",
};
/// The CPUs of the guest, and those of the host that it runs on.
const CPUS: u32 = 2;
const TIMEOUT: Duration = Duration::from_secs(600);
/// How much of the bare machine's gain is to be left, by the kind of work.
const AIMS: [(&str, f64); 4] = [("walk", 0.95), ("fork", 0.8), ("mmap", 0.8), ("pipe", 0.8)];

/// Measures, and gives the table.
///
/// # Errors
///
/// A run fails.
pub fn measure(umbra: &Path) -> Result<String> {
    let directory = tempfile::tempdir()?;
    let initrd = directory.path().join("initrd.img");
    let mut archive = fs::read(Guest::CloudInitrd.provide()?)?;
    let jobs: Vec<String> = AIMS
        .iter()
        .flat_map(|(job, _)| [(*job).to_owned(), format!("{job}+{job}")])
        .collect();
    let jobs: Vec<&str> = jobs.iter().map(String::as_str).collect();
    archive.extend(initrd::jobs(&jobs));
    fs::write(&initrd, archive)?;
    let options = || -> Result<Options> {
        Ok(Options {
            host_cpus: CPUS,
            timeout: Some(TIMEOUT),
            report: Some(directory.path().join("report.json")),
            ..Options::headless(Vm {
                initrd: Some(media::open_initrd(&initrd)?),
                cmdline: CMDLINE.to_owned(),
                memory: MEMORY,
                cpus: CPUS,
                max_cpus: CPUS,
                ..Vm::of(&Guest::CloudKernel.provide()?)?
            })
        })
    };
    let (bare, inside) = (options()?, options()?);
    let bare = compare::measure("Two at the same time, bare", || {
        WORDS.native(bare, Vec::new(), Network::default())
    })?;
    let (inside, _) = compare::measure("Two at the same time, in Umbra", || {
        WORDS.inside(&inside, umbra, "speedup")
    })?;
    table(&bare, &inside)
}

/// How much faster two do a job at the same time than one after the other, as the guest has said.
fn gain(job: &str, console: &str) -> Result<f64> {
    let missing = || format!("the guest did not say how its work went: {job}: {console:?}");
    let part = |name: &str| {
        let (_, behind) = console.split_once(&format!("GUEST-JOB {name}\r"))?;
        let part = behind.split("GUEST-JOB ").next()?;
        work::span(job, part)
    };
    let (one, _) = part(job).with_context(missing)?;
    let (two, done) = part(&format!("{job}+{job}")).with_context(missing)?;
    anyhow::ensure!(done == 2 && two > 0, missing());
    Ok(2.0 * one as f64 / two as f64)
}

fn table(bare: &str, inside: &str) -> Result<String> {
    let mut text = format!(
        "{:44} {:>8} {:>8} {:>8} {:>8}\n",
        "two CPUs on two of the host's, to one", "bare", "Umbra", "left", "aim"
    );
    for (job, aim) in AIMS {
        let (bare, inside) = (gain(job, bare)?, gain(job, inside)?);
        let what = work::JOBS.iter().find(|(name, _)| *name == job);
        let what = what.map_or(job, |(_, what)| what);
        text.push_str(&format!(
            "{what:44} {bare:6.2} x {inside:6.2} x {:8.2} {aim:8.2}\n",
            inside / bare
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_that_take_as_long_as_one_gain_all() {
        let said = |job: &str, end: u64| {
            format!(
                "GUEST-JOB {job}\r\nGUEST-WORK {job} 12 100 200\r\nGUEST-JOB {job}+{job}\r\n\
                 GUEST-WORK {job} 12 310 400\r\nGUEST-WORK {job} 12 300 {end}\r\n"
            )
        };
        let console = |end| AIMS.map(|(job, _)| said(job, end)).concat();
        assert_eq!(gain("fork", &console(400)).unwrap(), 2.0);
        let text = table(&console(400), &console(500)).unwrap();
        assert!(text.contains("2.00 x   1.00 x     0.50     0.95"), "{text}");
        let broken = console(400).replace("310", "x");
        assert!(gain("pipe", &broken).is_err());
    }
}
