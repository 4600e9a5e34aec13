//! `cargo xtask bench paging`: the same guest work, native and under every way of virtualizing memory, in one report.
//!
//! One run by the clock does all jobs. Under QEMU one run more for each job counts instructions, in a machine into which nothing
//! comes from outside, so that its counts repeat exactly; Umbra's counters at its end less those of a run that only boots are
//! what the job cost. All these runs boot the same: the job's name is in a second archive of the RAM disk. Bochs counts always,
//! and its time is that of the counting runs.
//!
//! [`comparison`] has the figures, [`table`] writes them for the terminal, [`plot`] draws them.

mod comparison;
pub mod plot;
mod table;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::bench::{self, CMDLINE, MEMORY};
use crate::cli::PagingArgs;
use crate::guests::Guest;
use crate::outcome::{Interrupted, Refused, interrupted, refuse};
use crate::progress::Step;
use crate::rig::{Counting, Paging, QEMU_SVM, Rig, Shadow};
use crate::run::{self, Options};
use crate::vm::Vm;
use crate::work::{self, Done};
use crate::{initrd, kernel, media};
use comparison::{BOOT, Column, Comparison, Counts, Job, Memory, NATIVE};

/// What the guest says when it has done all its work.
const END: &str = "GUEST-END";
/// What it says before each job.
const JOB: &str = "GUEST-JOB ";

/// One way of virtualizing memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Native,
    Nested,
    Shadow(Shadow),
}

impl Way {
    fn all() -> Vec<Way> {
        let mut all = vec![Way::Native, Way::Nested];
        all.extend(Shadow::ALL.map(Way::Shadow));
        all
    }

    fn name(self) -> &'static str {
        match self {
            Way::Native => NATIVE,
            Way::Nested => "nested",
            Way::Shadow(algorithm) => algorithm.name(),
        }
    }
}

/// What is measured, and where.
struct Bench {
    rig: &'static dyn Rig,
    cpu_model: String,
    umbra: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
    jobs: Vec<&'static str>,
}

/// What one run gave.
#[derive(Debug, Default)]
struct Seen {
    console: String,
    /// When the first program had said the time stamp counter, in seconds from the emulator's start.
    up: Option<f64>,
    /// When each job was begun and done.
    times: Vec<(Option<f64>, Option<f64>)>,
    /// The time stamp counter at the kernel's entry, where the emulator tells.
    entered: u64,
    /// Umbra's report, or nothing.
    report: Value,
}

/// The command.
///
/// # Errors
///
/// It cannot be carried out, a run failed (after the report), or the memory had other contents in some column.
pub fn paging(args: &PagingArgs) -> Result<()> {
    let (guest, initrd) = match Guest::named(&args.guest).map(|guest| (guest, guest.initrd())) {
        Some((guest, Some(initrd))) => (guest, initrd),
        _ => refuse!(
            "--guest {}: work can be done in cloud-kernel, i386-kernel and i386-pae-kernel",
            args.guest
        ),
    };
    let names = work::JOBS.map(|(name, _)| name);
    if let Some(unknown) = args.work.iter().find(|one| !names.contains(&one.as_str())) {
        refuse!("--work {unknown} is none of {}", names.join(", "));
    }
    let wanted = |name: &&str| args.work.is_empty() || args.work.iter().any(|one| one == name);
    let cpu_model = bench::prepare(&args.place)?;
    if let Some(directory) = &args.svg {
        crate::paths::make(directory)?;
    }
    let bench = Bench {
        rig: args.place.rig,
        cpu_model,
        umbra: kernel::build()?,
        kernel: guest.provide()?,
        initrd: initrd.provide()?,
        jobs: names.into_iter().filter(wanted).collect(),
    };
    let mut columns = Vec::new();
    for way in Way::all() {
        columns.push(bench.column(way)?);
    }
    let comparison = Comparison {
        rig: bench.rig.name(),
        cpu_model: bench.cpu_model.clone(),
        guest: guest.name(),
        columns,
    };
    // The aims are for this guest on this emulator.
    let aims = bench.rig == QEMU_SVM && guest == Guest::CloudKernel;
    print!("{}", table::table(&comparison, aims));
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&comparison)? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    if let Some(directory) = &args.svg {
        plot::all(&comparison, directory)?;
    }
    let differing = comparison.differing();
    ensure!(
        differing.is_empty(),
        "the guest's memory had other contents: {}",
        differing.join("; ")
    );
    Ok(())
}

impl Bench {
    /// All runs of one way. What stands in the way of figures is told in the column, but for an interruption.
    fn column(&self, way: Way) -> Result<Column> {
        let mut column = Column {
            name: way.name(),
            ..Column::default()
        };
        match self.fill(way, &mut column) {
            Ok(()) => {}
            Err(error) if interrupted() || error.is::<Interrupted>() => return Err(error),
            // The native run is what all others are compared with.
            Err(error) if way == Way::Native => return Err(error),
            Err(error) => {
                let what = if error.is::<Refused>() {
                    "refused"
                } else {
                    "failed"
                };
                eprintln!("{}: {what}: {error:#}", way.name());
                column.problem = Some(format!("{error:#}"));
            }
        }
        Ok(column)
    }

    fn fill(&self, way: Way, column: &mut Column) -> Result<()> {
        let jobs = &self.jobs;
        let exact = self.rig.counting() == Counting::Always;
        let step = |what: &str| Step::start(format!("{}, {what}", way.name()));
        let clock = if exact && way != Way::Native {
            None
        } else {
            let step = step("by the clock");
            let seen = self.run(way, jobs, false)?;
            step.done();
            Some(seen)
        };
        if way == Way::Native {
            // Umbra has no counters to tell one job from another: one run counts them all.
            let clock = clock.context("no run by the clock")?;
            let counted = if exact {
                None
            } else {
                let step = step("counting instructions");
                let seen = self.run(way, jobs, true)?;
                step.done();
                Some(seen)
            };
            let counted = counted.as_ref().unwrap_or(&clock);
            column.jobs.push(boot(&clock, counted)?);
            for (number, name) in jobs.iter().enumerate() {
                column.jobs.push(job(name, number, &clock, counted)?);
            }
            return Ok(());
        }
        let mut base = Counts::default();
        for (number, name) in [BOOT].iter().chain(jobs).enumerate() {
            let only: &[&str] = if number == 0 { &[] } else { &[name] };
            let step = step(&format!("counting instructions: {name}"));
            let counted = self.run(way, only, !exact)?;
            step.done();
            let counts = Counts::of(&counted.report)?;
            let memory = Memory::of(&counted.report);
            column.memory = Some(column.memory.unwrap_or_default().most(memory));
            let mut done = match (number.checked_sub(1), &clock) {
                (None, clock) => boot(clock.as_ref().unwrap_or(&counted), &counted)?,
                (Some(before), Some(clock)) => job(name, before, clock, &counted)?,
                (Some(_), None) => job(name, 0, &counted, &counted)?,
            };
            done.counts = Some(counts.since(&base));
            if number == 0 {
                base = counts;
            }
            column.jobs.push(done);
        }
        Ok(())
    }

    /// Boots, does `jobs` and switches off.
    fn run(&self, way: Way, jobs: &[&str], icount: bool) -> Result<Seen> {
        let scratch = tempfile::tempdir()?;
        let initrd = scratch.path().join("initrd.img");
        let mut archive = fs::read(&self.initrd)?;
        archive.extend(initrd::jobs(jobs));
        fs::write(&initrd, archive)?;
        let mut seen = Seen {
            times: vec![(None, None); jobs.len()],
            ..Seen::default()
        };
        let timeout = Duration::from_secs(900) * self.rig.slowness();
        match way {
            Way::Native => {
                let machine =
                    bench::native_machine(self.rig, &self.cpu_model, &self.kernel, &initrd, icount);
                let start = Instant::now();
                let heard = bench::listen(&machine, timeout, &mut |console| {
                    seen.note(console, jobs, start);
                    console.contains(END)
                })?;
                seen.entered = heard.entered;
            }
            Way::Nested => self.inside(&mut seen, jobs, None, &initrd, icount, timeout)?,
            Way::Shadow(algorithm) => {
                self.inside(&mut seen, jobs, Some(algorithm), &initrd, icount, timeout)?
            }
        }
        if !seen.console.contains(END) {
            bail!("the guest did not come to its end");
        }
        Ok(seen)
    }

    /// The same in Umbra.
    fn inside(
        &self,
        seen: &mut Seen,
        jobs: &[&str],
        shadow: Option<Shadow>,
        initrd: &Path,
        icount: bool,
        timeout: Duration,
    ) -> Result<()> {
        let directory = tempfile::tempdir()?;
        let report = directory.path().join("report.json");
        let options = Options {
            rig: self.rig,
            cpu_model: self.cpu_model.clone(),
            timeout: Some(timeout),
            report: Some(report.clone()),
            icount,
            ..Options::headless(Vm {
                paging: if shadow.is_some() {
                    Paging::Shadow
                } else {
                    Paging::Nested
                },
                shadow,
                initrd: Some(media::open_initrd(initrd)?),
                cmdline: CMDLINE.to_owned(),
                memory: MEMORY,
                ..Vm::of(&self.kernel)?
            })
        };
        let start = Instant::now();
        let mut console = Vec::new();
        let run = run::execute(&options, &self.umbra, "paging", &mut |bytes| {
            console.extend_from_slice(bytes);
            seen.note(&String::from_utf8_lossy(&console), jobs, start);
        })?;
        run.summary.result?;
        seen.report = serde_json::from_str(&fs::read_to_string(report)?)?;
        Ok(())
    }
}

impl Seen {
    /// Takes all that COM1 has said so far, and notes what is new in it.
    fn note(&mut self, console: &str, jobs: &[&str], start: Instant) {
        let now = start.elapsed().as_secs_f64();
        if self.up.is_none() && bench::ticks(console).is_some() {
            self.up = Some(now);
        }
        for (name, (begun, done)) in jobs.iter().zip(&mut self.times) {
            if begun.is_none() && console.contains(&format!("{JOB}{name}")) {
                *begun = Some(now);
            }
            if done.is_none() && Done::of(name, console).is_some() {
                *done = Some(now);
            }
        }
        console.clone_into(&mut self.console);
    }
}

/// The figures of the boot.
fn boot(clock: &Seen, counted: &Seen) -> Result<Job> {
    let ticks =
        bench::ticks(&counted.console).context("the guest did not say its time stamp counter")?;
    Ok(Job {
        name: BOOT,
        wall_seconds: clock.up.context("the guest did not come up")?,
        instructions: ticks.saturating_sub(counted.entered),
        ..Job::default()
    })
}

/// The figures of the work `name`, which was the `number`th by the clock.
fn job(name: &'static str, number: usize, clock: &Seen, counted: &Seen) -> Result<Job> {
    let missing = || format!("the guest did not say how its work went: {name}");
    let done = Done::of(name, &counted.console).with_context(missing)?;
    let by_the_clock = Done::of(name, &clock.console).with_context(missing)?;
    ensure!(
        done.checksum == by_the_clock.checksum,
        "two runs of {name} had other contents in the guest's memory: {:08x} and {:08x}",
        done.checksum,
        by_the_clock.checksum
    );
    let times = clock.times.get(number).copied().unwrap_or_default();
    let (Some(begun), Some(end)) = times else {
        bail!(missing());
    };
    Ok(Job {
        name,
        wall_seconds: end - begun,
        instructions: done.ticks,
        checksum: Some(done.checksum),
        counts: None,
    })
}
