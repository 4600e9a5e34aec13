//! `cargo xtask bench`: Umbra against the bare machine, from one run.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::cli::BenchRig;
use crate::guests::Guest;
use crate::outcome::{Interrupted, interrupted};
use crate::progress::Step;
use crate::rig::{
    self, BOCHS_SVM, BOCHS_VMX, Boot, Counting, MIB, Machine, Network, QEMU_SVM, Rig,
};
use crate::run::{self, Options};
use crate::script::Step as ScriptStep;
use crate::vm::Vm;
use crate::{kernel, paths};

/// What the RAM disk's script says right after its first word, followed by the time stamp counter.
const MARKER: &str = "GUEST-TSC ";
/// The kernel's command line. The script switches the machine off right after its second word.
pub const CMDLINE: &str = "console=ttyS0 quiet umbra.bench";
/// The guest's memory in bytes.
pub const MEMORY: u64 = 512 * MIB;
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

/// What is measured, and where.
struct Bench {
    rig: &'static dyn Rig,
    cpu_model: String,
    umbra: PathBuf,
    kernel: PathBuf,
    initrd: PathBuf,
}

/// Checks where to measure and sees that it can be done there. Gives the CPU model.
///
/// # Errors
///
/// The rig does not have the model.
pub fn prepare(args: &BenchRig) -> Result<String> {
    let rig = args.rig;
    let cpu_model = rig.choose_model(args.cpu_model.as_deref())?;
    rig::require(rig, false)?;
    rig.check_installed_model(&cpu_model)?;
    Ok(cpu_model)
}

/// A Linux kernel's way to its first program, native and in Umbra.
///
/// # Errors
///
/// A run fails.
pub fn boot(args: &BenchRig) -> Result<()> {
    let rig = args.rig;
    let cpu_model = prepare(args)?;
    let bench = Bench {
        rig,
        cpu_model,
        umbra: kernel::build()?,
        kernel: Guest::CloudKernel.provide()?,
        initrd: Guest::CloudInitrd.provide()?,
    };
    let measure = |what: &str, one: &dyn Fn() -> Result<Way>| {
        let step = Step::start(what);
        let way = one()?;
        step.done();
        anyhow::Ok(way)
    };
    let (native, inside);
    if rig.counting() == Counting::Always {
        // It always counts instructions: one run tells both.
        native = measure("Native", &|| bench.native(false))?;
        inside = measure("Umbra", &|| bench.inside(false))?;
        print!(
            "{}",
            table(aims(rig), [&native, &native], [&inside, &inside])
        );
        print!("{BOCHS_COUNT}");
    } else {
        native = measure("Native, by the clock", &|| bench.native(false))?;
        let native_count = measure("Native, counting instructions", &|| bench.native(true))?;
        inside = measure("Umbra, by the clock", &|| bench.inside(false))?;
        let inside_count = measure("Umbra, counting instructions", &|| bench.inside(true))?;
        print!(
            "{}",
            table(
                aims(rig),
                [&native, &native_count],
                [&inside, &inside_count]
            )
        );
        print!("{QEMU_COUNT}");
    }
    Ok(())
}

/// What the first line counts.
const QEMU_COUNT: &str = "\
instructions: native from the reset of the machine, with its firmware; Umbra from the reset of the virtual one
";
const BOCHS_COUNT: &str = "\
instructions: native from the kernel's entry, Umbra from the reset of the virtual machine, with the loading of the kernel
times: from the start of Bochs, with the CD's loading on both sides
";

impl Bench {
    /// Runs the kernel natively to the marker.
    fn native(&self, icount: bool) -> Result<Way> {
        let machine = native_machine(
            self.rig,
            &self.cpu_model,
            &self.kernel,
            &self.initrd,
            icount,
        );
        let mut seen = None;
        let heard = listen(&machine, TIMEOUT, &mut |console| {
            seen = ticks(console);
            seen.is_some()
        })?;
        Ok(Way {
            wall: heard.wall,
            cpu: heard.cpu,
            ticks: seen.unwrap_or_default() - heard.entered,
            report: Value::Null,
        })
    }

    /// Runs the kernel in Umbra to the marker.
    fn inside(&self, icount: bool) -> Result<Way> {
        let directory = tempfile::tempdir()?;
        let report = directory.path().join("report.json");
        let options = Options {
            rig: self.rig,
            cpu_model: self.cpu_model.clone(),
            // The report is asked for as soon as this is seen, while the guest sleeps.
            script: vec![ScriptStep::Until("GUEST-BENCH".to_owned())],
            timeout: Some(TIMEOUT),
            report: Some(report.clone()),
            icount,
            ..Options::headless(Vm {
                initrd: Some(crate::media::open_initrd(&self.initrd)?),
                cmdline: CMDLINE.to_owned(),
                memory: MEMORY,
                ..Vm::of(&self.kernel)?
            })
        };
        let mut console = Vec::new();
        let mut reached = None;
        let run = run::execute(&options, &self.umbra, "bench", &mut |bytes| {
            console.extend_from_slice(bytes);
            if reached.is_none() && ticks(&String::from_utf8_lossy(&console)).is_some() {
                reached = Some(Instant::now());
            }
        })?;
        run.summary.result?;
        let report = serde_json::from_str(&std::fs::read_to_string(report)?)?;
        let ticks = ticks(&String::from_utf8_lossy(&console))
            .context("the guest did not say its time stamp counter")?;
        Ok(Way {
            wall: reached.map_or(run.host.wall_seconds, |at| (at - run.started).as_secs_f64()),
            cpu: run.host.cpu_seconds.unwrap_or_default(),
            ticks,
            report,
        })
    }
}

/// The machine for a Linux kernel without Umbra.
pub fn native_machine(
    rig: &'static dyn Rig,
    cpu_model: &str,
    kernel: &Path,
    initrd: &Path,
    icount: bool,
) -> Machine {
    Machine {
        rig,
        cpu_model: cpu_model.to_owned(),
        cpus: 1,
        memory: MEMORY,
        boot: Boot::Native {
            kernel: kernel.to_owned(),
            initrd: Some(initrd.to_owned()),
            cmdline: format!("{CMDLINE}{}", rig.native_words()),
        },
        drives: Vec::new(),
        network: Network::default(),
        remains: None,
        snapshot: false,
        icount,
        display: None,
        tablet: false,
    }
}

/// A run without Umbra, up to what was waited for.
#[derive(Debug, Clone, Copy)]
pub struct Heard {
    /// Seconds from the emulator's start.
    pub wall: f64,
    /// The emulator's CPU seconds.
    pub cpu: f64,
    /// The time stamp counter at the kernel's entry, where the emulator tells.
    pub entered: u64,
}

/// Runs `machine`, which has no Umbra in it, until all that its COM1 has said is enough for `enough`.
///
/// # Errors
///
/// The machine ended first, or the time was over.
pub fn listen(
    machine: &Machine,
    timeout: Duration,
    enough: &mut dyn FnMut(&str) -> bool,
) -> Result<Heard> {
    let log = paths::new_log("native")?;
    let mut emulator = machine.rig.start(machine, &log)?;
    let start = emulator.process().started();
    let (sender, arrivals) = mpsc::channel();
    let mut from = emulator.connect()?.from;
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            let bytes = buffer.get(..count).unwrap_or_default().to_vec();
            if sender.send(bytes).is_err() {
                break;
            }
        }
    });
    let mut console = Vec::new();
    loop {
        match arrivals.recv_timeout(Duration::from_millis(100)) {
            Ok(bytes) => console.extend_from_slice(&bytes),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => bail!(
                "the native run ended before its time: {}",
                emulator.complaints()
            ),
        }
        if enough(&String::from_utf8_lossy(&console)) {
            let cpu = emulator
                .process()
                .cpu_seconds()
                .context("the emulator's CPU time cannot be read")?;
            return Ok(Heard {
                wall: start.elapsed().as_secs_f64(),
                cpu,
                entered: emulator.entered()?,
            });
        }
        if interrupted() {
            return Err(Interrupted.into());
        }
        if start.elapsed() > timeout {
            bail!(
                "the native run did not come to its end within {} seconds",
                timeout.as_secs()
            );
        }
    }
}

/// The number behind the marker, once its line is whole.
pub fn ticks(console: &str) -> Option<u64> {
    let (number, _) = console.split_once(MARKER)?.1.split_once(['\r', '\n'])?;
    number.trim().parse().ok()
}

/// What Umbra is to reach, and what Linux KVM (and Xen) need for the same boot on the same emulator.
#[derive(Clone, Copy)]
struct Aim {
    what: &'static str,
    aim: &'static str,
    others: &'static str,
}

/// The aims on one emulator.
struct Aims {
    instructions: Aim,
    wall: Aim,
    cpu: Aim,
    /// Exits: all, and what one costs by its reason in the report.
    exits: &'static [Aim],
}

const ALL_EXITS: &str = "all exits";
/// A line without a figure to compare with.
const NOTHING: Aim = Aim {
    what: "",
    aim: "",
    others: "",
};
const NO_AIMS: Aims = Aims {
    instructions: NOTHING,
    wall: NOTHING,
    cpu: NOTHING,
    exits: &[],
};
const ON_QEMU: Aims = Aims {
    instructions: Aim {
        aim: "1.03 x",
        others: "KVM 1.19 x",
        ..NOTHING
    },
    wall: Aim {
        aim: "1.40 x",
        others: "KVM 1.84 x",
        ..NOTHING
    },
    cpu: NOTHING,
    exits: &[
        Aim {
            what: ALL_EXITS,
            aim: "4000",
            others: "KVM 6813",
        },
        Aim {
            what: "cpuid",
            aim: "300",
            others: "KVM 2979",
        },
        Aim {
            what: "port i/o",
            aim: "350",
            others: "KVM 1557, Xen 1019",
        },
    ],
};
const ON_BOCHS_VMX: Aims = Aims {
    instructions: NOTHING,
    wall: Aim {
        aim: "1.08 x",
        ..NOTHING
    },
    cpu: Aim {
        others: "KVM 1.15 x",
        ..NOTHING
    },
    exits: &[Aim {
        what: "cpuid",
        aim: "300",
        ..NOTHING
    }],
};
const ON_BOCHS_SVM: Aims = Aims {
    cpu: NOTHING,
    ..ON_BOCHS_VMX
};

/// The aims on `rig`; there are none where no other hypervisor was measured.
fn aims(rig: &'static dyn Rig) -> &'static Aims {
    const BY_RIG: [(&dyn Rig, &Aims); 3] = [
        (QEMU_SVM, &ON_QEMU),
        (BOCHS_VMX, &ON_BOCHS_VMX),
        (BOCHS_SVM, &ON_BOCHS_SVM),
    ];
    let own = BY_RIG.iter().find(|(its, _)| *its == rig);
    own.map_or(&NO_AIMS, |(_, aims)| aims)
}

/// The comparison; each side is a run by the clock and a run that counts instructions.
fn table(
    aims: &Aims,
    [native, native_count]: [&Way; 2],
    [inside, inside_count]: [&Way; 2],
) -> String {
    let mut text = format!(
        "{:26} {:>10} {:>10} {:>9} {:>8}  {}\n",
        "boot to the first program", "native", "Umbra", "ratio", "aim", "others"
    );
    for (what, aim, native, inside, digits) in [
        (
            "instructions, millions",
            aims.instructions,
            native_count.ticks as f64 / 1e6,
            inside_count.ticks as f64 / 1e6,
            0,
        ),
        ("wall time, s", aims.wall, native.wall, inside.wall, 2),
        ("CPU time, s", aims.cpu, native.cpu, inside.cpu, 2),
    ] {
        let line = format!(
            "{what:26} {native:10.digits$} {inside:10.digits$} {:7.2} x {:>8}  {}",
            inside / native,
            aim.aim,
            aim.others
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str(&exit_table(aims.exits, exits(&inside_count.report)));
    text
}

/// What each reason's exits cost; two more columns where the CPU has a VMCS to be read and written.
fn exit_table(aims: &[Aim], mut rows: Vec<Exits>) -> String {
    let sum = |field: fn(&Exits) -> u64| rows.iter().map(field).sum();
    let all = Exits {
        reason: ALL_EXITS.to_owned(),
        count: sum(|row| row.count),
        mean: None,
        least: None,
        vmreads: sum(|row| row.vmreads),
        vmwrites: sum(|row| row.vmwrites),
    };
    let has_vmcs = all.vmreads != 0;
    rows.insert(0, all);
    let number = |number: Option<u64>| number.map(|n| n.to_string()).unwrap_or_default();
    let mut lines = vec![[
        "exits, to that point".to_owned(),
        "count".to_owned(),
        "mean".to_owned(),
        "least".to_owned(),
        "VMREADs".to_owned(),
        "VMWRITEs".to_owned(),
        "aim".to_owned(),
        "others".to_owned(),
    ]];
    lines.extend(rows.iter().map(|row| {
        let aim = aims.iter().find(|aim| aim.what == row.reason);
        let each = |accesses: u64| format!("{:.1}", accesses as f64 / row.count.max(1) as f64);
        [
            row.reason.clone(),
            row.count.to_string(),
            number(row.mean),
            number(row.least),
            each(row.vmreads),
            each(row.vmwrites),
            aim.map_or("", |aim| aim.aim).to_owned(),
            aim.map_or("", |aim| aim.others).to_owned(),
        ]
    }));
    let mut text = String::from("\n");
    for [reason, count, mean, least, vmreads, vmwrites, aim, others] in lines {
        let mut line = format!("{reason:26} {count:>10} {mean:>10} {least:>9}");
        if has_vmcs {
            line.push_str(&format!(" {vmreads:>8} {vmwrites:>9}"));
        }
        line.push_str(&format!(" {aim:>8}  {others}"));
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push_str("mean and least: instructions that Umbra spent on one exit");
    text.push_str(if has_vmcs {
        "; VMREADs and VMWRITEs: their mean number\n"
    } else {
        "\n"
    });
    text
}

/// One reason's exits; the mean and the least are TSC ticks, which are instructions when the emulator counts them.
#[derive(Debug, PartialEq, Eq)]
struct Exits {
    reason: String,
    count: u64,
    mean: Option<u64>,
    least: Option<u64>,
    /// Accesses to the VMCS, of all these exits together; 0 on AMD.
    vmreads: u64,
    vmwrites: u64,
}

/// The exits of a report, most frequent first.
fn exits(report: &Value) -> Vec<Exits> {
    let entries = report
        .pointer("/exits/by_reason")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    let mut rows: Vec<_> = entries
        .filter_map(|(reason, entry)| {
            let count = entry.as_u64().or_else(|| entry.get("count")?.as_u64())?;
            let field = |name: &str| entry.get(name).and_then(Value::as_u64);
            Some(Exits {
                reason: reason.clone(),
                count,
                mean: field("ticks").and_then(|sum| sum.checked_div(count)),
                least: field("least"),
                vmreads: field("vmreads").unwrap_or(0),
                vmwrites: field("vmwrites").unwrap_or(0),
            })
        })
        .collect();
    rows.sort_by_key(|row| std::cmp::Reverse(row.count));
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

    fn report() -> Value {
        serde_json::json!({"exits": {"total": 13, "by_reason": {
            "cpuid": {"count": 4, "ticks": 1200, "least": 250}, "port i/o": 9, "odd": "x"
        }}})
    }

    #[test]
    fn exits_are_listed_by_count() {
        let rows = exits(&report());
        assert_eq!(
            rows.iter()
                .map(|row| row.reason.as_str())
                .collect::<Vec<_>>(),
            ["port i/o", "cpuid"]
        );
        assert_eq!((rows[1].mean, rows[1].least), (Some(300), Some(250)));
    }

    #[test]
    fn the_table_has_all_exits_and_the_aims() {
        let way = |ticks, report| Way {
            wall: 2.0,
            cpu: 1.5,
            ticks,
            report,
        };
        let (native, inside) = (
            way(1_000_000_000, Value::Null),
            way(1_100_000_000, report()),
        );
        let text = table(&ON_QEMU, [&native, &native], [&inside, &inside]);
        let line = |what: &str| {
            let line = text.lines().find(|line| line.starts_with(what));
            line.unwrap_or_default()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            line("instructions"),
            "instructions, millions 1000 1100 1.10 x 1.03 x KVM 1.19 x"
        );
        assert_eq!(line("all exits"), "all exits 13 4000 KVM 6813");
        assert_eq!(line("cpuid"), "cpuid 4 300 250 300 KVM 2979");
    }

    #[test]
    fn accesses_to_the_vmcs_are_listed_where_there_are_any() {
        let report = serde_json::json!({"exits": {"by_reason": {
            "cpuid": {"count": 4, "ticks": 1200, "least": 250, "vmreads": 25, "vmwrites": 8}
        }}});
        let text = exit_table(ON_BOCHS_VMX.exits, exits(&report));
        let words = |start: &str| {
            let line = text.lines().find(|line| line.starts_with(start));
            line.unwrap_or_default()
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            words("exits"),
            "exits, to that point count mean least VMREADs VMWRITEs aim others"
        );
        assert_eq!(words("cpuid"), "cpuid 4 300 250 6.2 2.0 300");
    }
}
