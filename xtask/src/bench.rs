//! `cargo xtask bench`: Umbra against the bare machine, from one run.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::guests::Guest;
use crate::kernel;
use crate::outcome::{Interrupted, interrupted};
use crate::paths;
use crate::progress::Step;
use crate::qemu::Qemu;
use crate::rig::{Boot, MIB, Machine};
use crate::run::{self, Options};
use crate::script::Step as ScriptStep;
use crate::setup::{self, Purpose};

/// What the RAM disk's script says right after its first word, followed by the time stamp counter.
const MARKER: &str = "GUEST-TSC ";
const CMDLINE: &str = "console=ttyS0 quiet";
const MEMORY: u64 = 512 * MIB;
const TIMEOUT: Duration = Duration::from_secs(300);

/// One way to the marker.
#[derive(Debug)]
struct Way {
    /// Seconds from the emulator's start.
    wall: f64,
    /// The emulator's CPU seconds.
    cpu: f64,
    /// The guest's time stamp counter at the marker, which counts instructions where the emulator does.
    ticks: u64,
    /// Umbra's report.
    report: Value,
}

/// A Linux kernel's way to its first program, native and in Umbra.
///
/// # Errors
///
/// A run fails.
pub fn boot() -> Result<()> {
    setup::require(Purpose::Run { window: false })?;
    let umbra = kernel::build()?;
    let kernel = Guest::CloudKernel.provide()?;
    let initrd = Guest::CloudInitrd.provide()?;

    let measure = |what: &str, one: &dyn Fn() -> Result<Way>| {
        let step = Step::start(what);
        let way = one()?;
        step.done();
        anyhow::Ok(way)
    };
    let native_wall = measure("Native, by the clock", &|| native(&kernel, &initrd, false))?;
    let native_count = measure("Native, counting instructions", &|| {
        native(&kernel, &initrd, true)
    })?;
    let inside_wall = measure("Umbra, by the clock", &|| {
        inside(&kernel, &initrd, &umbra, false)
    })?;
    let inside_count = measure("Umbra, counting instructions", &|| {
        inside(&kernel, &initrd, &umbra, true)
    })?;
    print!(
        "{}",
        table([&native_wall, &native_count], [&inside_wall, &inside_count])
    );
    Ok(())
}

/// Runs the kernel natively to the marker.
fn native(kernel: &Path, initrd: &Path, icount: bool) -> Result<Way> {
    let machine = Machine {
        memory: MEMORY,
        boot: Boot::Native {
            kernel: kernel.to_owned(),
            initrd: Some(initrd.to_owned()),
            cmdline: CMDLINE.to_owned(),
        },
        drives: Vec::new(),
        icount,
        display: None,
    };
    let log = paths::new_log("native")?;
    let mut qemu = Qemu::start(&machine, &log)?;
    let mut stream = qemu.connect()?;
    stream.set_read_timeout(Some(Duration::from_millis(100)))?;
    let start = Instant::now();
    let mut console = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => bail!("the native run ended before {MARKER}: {}", qemu.errors()),
            Ok(count) => console.extend_from_slice(buffer.get(..count).unwrap_or_default()),
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(error) => return Err(error.into()),
        }
        let text = String::from_utf8_lossy(&console);
        if let Some(ticks) = ticks(&text) {
            let cpu = qemu
                .cpu_seconds()
                .context("the emulator's CPU time cannot be read")?;
            return Ok(Way {
                wall: start.elapsed().as_secs_f64(),
                cpu,
                ticks,
                report: Value::Null,
            });
        }
        if interrupted() {
            return Err(Interrupted.into());
        }
        if start.elapsed() > TIMEOUT {
            bail!(
                "the native run did not reach {MARKER} within {} seconds",
                TIMEOUT.as_secs()
            );
        }
    }
}

/// Runs the kernel in Umbra to the marker.
fn inside(kernel: &Path, initrd: &Path, umbra: &Path, icount: bool) -> Result<Way> {
    let directory = tempfile::tempdir()?;
    let report = directory.path().join("report.json");
    let options = Options {
        initrd: Some(crate::media::open_initrd(initrd)?),
        cmdline: CMDLINE.to_owned(),
        memory: MEMORY,
        script: vec![
            ScriptStep::Until(MARKER.to_owned()),
            ScriptStep::Until("GUEST-KERNEL".to_owned()),
        ],
        timeout: Some(TIMEOUT),
        report: Some(report.clone()),
        icount,
        ..Options::headless(kernel)?
    };
    let mut console = Vec::new();
    let run = run::execute(&options, umbra, "bench", &mut |bytes| {
        console.extend_from_slice(bytes)
    })?;
    run.summary.result?;
    let report = serde_json::from_str(&std::fs::read_to_string(report)?)?;
    let ticks = ticks(&String::from_utf8_lossy(&console))
        .context("the guest did not say its time stamp counter")?;
    Ok(Way {
        wall: run.host.wall_seconds,
        cpu: run.host.cpu_seconds.unwrap_or_default(),
        ticks,
        report,
    })
}

/// The number behind the marker, once its line is whole.
fn ticks(console: &str) -> Option<u64> {
    let (number, _) = console.split_once(MARKER)?.1.split_once(['\r', '\n'])?;
    number.trim().parse().ok()
}

/// The comparison; each side is a run by the clock and a run that counts instructions.
fn table([native, native_count]: [&Way; 2], [inside, inside_count]: [&Way; 2]) -> String {
    let mut text = format!(
        "{:28} {:>12} {:>12} {:>8}\n",
        "boot to the first program", "native", "Umbra", "ratio"
    );
    let mut row = |what: &str, native: f64, inside: f64, digits: usize| {
        text.push_str(&format!(
            "{what:28} {native:12.digits$} {inside:12.digits$} {:8.2}\n",
            inside / native
        ));
    };
    row(
        "instructions, millions",
        native_count.ticks as f64 / 1e6,
        inside_count.ticks as f64 / 1e6,
        0,
    );
    row("wall time, s", native.wall, inside.wall, 2);
    row("CPU time, s", native.cpu, inside.cpu, 2);
    text.push_str("\nexits by reason, with the instructions that Umbra spent on one\n");
    for (reason, count, each) in exits(&inside_count.report) {
        text.push_str(&format!(
            "{reason:28} {count:12} {:>12}\n",
            each.map_or("-".to_owned(), |each| each.to_string())
        ));
    }
    text
}

/// The exits of a report, most frequent first: reason, count, and the mean of TSC ticks, which are instructions when the
/// emulator counts them.
fn exits(report: &Value) -> Vec<(String, u64, Option<u64>)> {
    let entries = report
        .pointer("/exits/by_reason")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let mut rows: Vec<_> = entries
        .filter_map(|(reason, entry)| {
            let count = entry.as_u64().or_else(|| entry.get("count")?.as_u64())?;
            let ticks = entry.get("ticks").and_then(Value::as_u64);
            Some((
                reason.clone(),
                count,
                ticks.and_then(|sum| sum.checked_div(count)),
            ))
        })
        .collect();
    rows.sort_by_key(|&(_, count, _)| std::cmp::Reverse(count));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_read_once_its_line_is_whole() {
        assert_eq!(ticks("GUEST-UP\r\nGUEST-TSC 16130"), None);
        assert_eq!(ticks("GUEST-UP\r\nGUEST-TSC 1613000\r\n"), Some(1_613_000));
    }

    #[test]
    fn exits_are_listed_by_count() {
        let report = serde_json::json!({"exits": {"total": 13, "by_reason": {"cpuid": {"count": 4, "ticks": 1200}, "port": 9, "odd": "x"}}});
        let rows = exits(&report);
        assert_eq!(
            rows,
            [
                ("port".to_owned(), 9, None),
                ("cpuid".to_owned(), 4, Some(300))
            ]
        );
    }
}
