//! What must hold at the end of a run besides its script.

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use super::{Case, What};
use crate::control::Picture;
use crate::outcome;
use crate::rig::MIB;
use crate::run::{self, Run};
use crate::session::Ending;
use crate::work::{self, Done, Width};

/// What must hold at the end of a run.
#[derive(Clone, Copy)]
pub(super) enum Check {
    /// The guest powered off.
    PoweredOff,
    /// The guest's machine was reset at least this often.
    Resets(usize),
    /// The picture shows at least this many colours.
    Colours(usize),
    /// The outer machine's screen shows the guest's.
    Shown,
    /// COM1 said each of these.
    Console(&'static [&'static str]),
    /// Umbra's own memory is within its bound: 24 MiB plus 0.5 % of the guest's.
    OwnMemory,
    /// The pool of shadow pages was full, and room was made in it.
    PoolFull,
    /// The guest's work had the checksums that it has without Umbra.
    Work,
    /// The console's statistics, which the screen shows, tell of no more exits a second than this.
    ExitsPerSecond(u64),
    /// The guest went from nested to shadow paging or back at least this often.
    PagingSwitches(u64),
}

impl Case {
    /// Compares a run with what was expected.
    pub(super) fn judge(&self, run: Run, console: &str, report: &Value) -> Result<()> {
        let summary = run.summary;
        let ending = match summary.result {
            Ok(ending) => ending,
            Err(error) if outcome::interrupted() => return Err(error),
            Err(error) => {
                let account = run::account(&summary.console, &summary.screen, &run.log);
                return Err(anyhow!("{error:#}; log: {}\n{account}", run.log.display()));
            }
        };
        for check in &self.checks {
            match check {
                Check::PoweredOff => ensure!(
                    ending == Ending::PoweredOff || self.powers_off_later(),
                    "the guest did not power off"
                ),
                Check::Resets(least) => ensure!(
                    summary.resets >= *least,
                    "the machine was reset {} times",
                    summary.resets
                ),
                Check::Colours(least) => {
                    let seen = summary.picture.as_ref().map_or(0, colours);
                    ensure!(seen >= *least, "the picture has {seen} colours");
                }
                Check::Shown => {
                    let outer = summary.outer.as_ref().context("no outer picture")?;
                    let guest = summary.picture.as_ref().context("no picture")?;
                    let off = differing(outer, guest)?;
                    ensure!(
                        off <= 200,
                        "{off} pixels of the outer machine's screen are not the guest's"
                    );
                }
                Check::Console(lines) => {
                    for line in *lines {
                        ensure!(console.contains(line), "the guest did not say: {line}");
                    }
                }
                Check::OwnMemory => own_memory(report, self.memory)?,
                Check::PoolFull => pool_full(report)?,
                Check::Work => same_work(console)?,
                Check::ExitsPerSecond(most) => {
                    let rate = exits_per_second(&summary.screen);
                    let rate = rate.context("the screen shows no statistics")?;
                    ensure!(
                        rate <= *most,
                        "{rate} exits a second, and no more than {most} may be"
                    );
                }
                Check::PagingSwitches(least) => {
                    let switches = report.get("paging_switches").and_then(Value::as_u64);
                    ensure!(
                        switches.is_some_and(|n| n >= *least),
                        "paging was switched {switches:?} times"
                    );
                }
            }
        }
        Ok(())
    }

    /// Whether a text ends the run before the power-off that follows it.
    fn powers_off_later(&self) -> bool {
        matches!(self.what, What::DiskTwice)
    }
}

/// The rate of exits in the console's statistics.
fn exits_per_second(screen: &[String]) -> Option<u64> {
    screen.iter().find_map(|line| {
        let (before, _) = line.split_once(" exits/s;")?;
        before.rsplit(' ').next()?.parse().ok()
    })
}

/// The number of different colours in a picture.
fn colours(picture: &Picture) -> usize {
    picture
        .rgb
        .chunks_exact(3)
        .collect::<std::collections::BTreeSet<_>>()
        .len()
}

/// How many pixels of `guest` are not in the middle of `outer`. A blinking cursor makes for some.
fn differing(outer: &Picture, guest: &Picture) -> Result<usize> {
    ensure!(
        outer.width >= guest.width && outer.height >= guest.height,
        "the outer screen is smaller than the guest's"
    );
    let (left, top) = (
        (outer.width - guest.width) / 2,
        (outer.height - guest.height) / 2,
    );
    let row = |picture: &Picture, x: u32, y: u32| {
        let start = 3 * (y as usize * picture.width as usize + x as usize);
        let row = picture.rgb.get(start..start + 3 * guest.width as usize);
        row.unwrap_or_default().to_vec()
    };
    Ok((0..guest.height)
        .map(|y| {
            let (inner, shown) = (row(guest, 0, y), row(outer, left, top + y));
            inner
                .chunks_exact(3)
                .zip(shown.chunks_exact(3))
                .filter(|(one, other)| one != other)
                .count()
        })
        .sum())
}

/// Checks the report's `memory.umbra_bytes` against the bound on Umbra's own memory.
fn own_memory(report: &Value, guest: u64) -> Result<()> {
    let own = report
        .pointer("/memory/umbra_bytes")
        .and_then(Value::as_u64)
        .context("the report lacks memory.umbra_bytes")?;
    let bound = 24 * MIB + guest / 200;
    ensure!(
        own <= bound,
        "Umbra itself uses {own} bytes, more than {bound}"
    );
    Ok(())
}

/// Checks that the report tells of a pool of shadow pages that was full, and no larger than it may be.
fn pool_full(report: &Value) -> Result<()> {
    let number = |path: &str| {
        let value = report.pointer(path).and_then(Value::as_u64);
        value.with_context(|| format!("the report lacks {path}"))
    };
    let (most, capacity) = (
        number("/shadow/pages/most")?,
        number("/shadow/pages/capacity")?,
    );
    ensure!(
        most <= capacity,
        "{most} shadow pages, and {capacity} is the bound"
    );
    ensure!(
        number("/shadow/reclaimed")? > 0,
        "the pool was never full: {most} of {capacity}"
    );
    Ok(())
}

/// Checks the checksums that the guest said against those of the same work on this machine.
fn same_work(console: &str) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    for (job, _) in work::JOBS {
        let done = Done::of(job, console);
        let done = done.with_context(|| format!("the guest did not do its work: {job}"))?;
        let said = work::said_here(Width::Bits64, scratch.path(), job)?;
        let here = said.and_then(|said| Done::of(job, &said));
        let here = here.with_context(|| format!("the work cannot be done here: {job}"))?;
        ensure!(
            done.checksum == here.checksum,
            "{job}: the guest's memory had the checksum {:08x}, and not {:08x}",
            done.checksum,
            here.checksum
        );
    }
    ensure!(
        !console.contains("GUEST-DIFFERS"),
        "a file was not what was written"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn umbras_memory_has_a_bound_that_grows_with_the_guests() {
        let report = |bytes: u64| serde_json::json!({"memory": {"umbra_bytes": bytes}});
        assert!(own_memory(&report(24 * MIB), 32 * MIB).is_ok());
        assert!(own_memory(&report(29 * MIB), 1024 * MIB).is_ok());
        assert!(own_memory(&report(30 * MIB), 1024 * MIB).is_err());
        assert!(own_memory(&Value::Null, 1024 * MIB).is_err());
    }

    #[test]
    fn the_guests_picture_is_looked_for_in_the_middle() {
        let guest = Picture {
            width: 1,
            height: 1,
            rgb: vec![1, 2, 3],
        };
        let mut outer = Picture {
            width: 3,
            height: 3,
            rgb: vec![0; 27],
        };
        assert_eq!(differing(&outer, &guest).unwrap(), 1);
        outer.rgb[12..15].copy_from_slice(&[1, 2, 3]);
        assert_eq!(differing(&outer, &guest).unwrap(), 0);
        assert!(differing(&guest, &outer).is_err());
    }

    #[test]
    fn the_rate_of_exits_is_read_from_the_statistics() {
        let line = "VM 1 running: 27 exits/s; hypervisor 0.1 %, halted 99.0 %".to_owned();
        assert_eq!(exits_per_second(&["x".to_owned(), line]), Some(27));
        assert_eq!(exits_per_second(&["  exits/s  reason".to_owned()]), None);
    }

    #[test]
    fn colours_are_counted_once_each() {
        let picture = Picture {
            width: 3,
            height: 1,
            rgb: vec![0, 0, 0, 1, 1, 1, 0, 0, 0],
        };
        assert_eq!(colours(&picture), 2);
    }
}
