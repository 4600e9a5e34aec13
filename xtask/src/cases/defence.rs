//! How Umbra defends itself: its own page tables, and the pages below its stacks; that a guest finds nothing of another's in its memory; and how
//! Umbra ends when it has failed.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use protocol::options::{Failure, SelfTest};

use super::{Case, by_hand, on, own, until};
use crate::attack;
use crate::guests::Guest;
use crate::rig::{BOCHS_VMX, REMAINS};
use crate::run::{self, Options};
use crate::session::Plan;
use crate::vm::Vm;

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    vec![
        own(
            "own-memory-is-protected",
            &[Guest::GrubRescue],
            protected,
            64,
            120,
        ),
        own("guest-memory-is-cleared", &[], cleared, 64, 120),
        own("umbra-fails-on-any-cpu", &[], fails, 64, 60),
        by_hand(on(
            BOCHS_VMX,
            None,
            own("bochs-vmx-umbra-fails-on-any-cpu", &[], fails, 64, 200),
        )),
    ]
}

/// What the machine's memory is full of, and what the guest looks for.
const PATTERN: u32 = 0x6d75_7a61;
/// The length of its program.
const LOOKS: usize = 1024;

/// The machine's memory is full when it starts, and the guest, which has nearly half of it, finds its own clear.
fn cleared(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let disk = scratch.join("remains.img");
    let memory = case.memory;
    let program = include_str!("../remains.s");
    let program = format!(".set PATTERN, {PATTERN}\n.set MEMORY, {memory}\n{program}");
    attack::assemble_protected(&program, LOOKS, &disk)?;
    let options = Options {
        vm: Vm {
            memory,
            ..Vm::of(&disk)?
        },
        script: vec![until("looked")],
        timeout: Some(Duration::from_secs(case.timeout)),
        ..Options::headless(Vm::of(&disk)?)
    };
    let mut machine = run::machine(&options, umbra, None, scratch)?;
    let remains = scratch.join("remains");
    let words = (machine.memory - REMAINS) as usize / 4;
    fs::write(&remains, PATTERN.to_le_bytes().repeat(words))?;
    machine.remains = Some(remains);
    let plan = Plan {
        vms: 1,
        script: options.script.clone(),
        timeout: options.timeout,
        ..Plan::default()
    };
    let mut said = Vec::new();
    let run = run::converse(&machine, &plan, case.name, &mut |bytes| {
        said.extend_from_slice(bytes)
    })?;
    run.summary.result?;
    let said = String::from_utf8_lossy(&said);
    ensure!(
        said.contains("clear") && !said.contains("remains"),
        "the guest says of its memory: {said}"
    );
    // What was cleared had been full.
    let log = fs::read_to_string(run.log)?;
    let told = log.lines().find_map(|line| {
        let (_, used) = line
            .split_once("guest RAM: cleared in ")?
            .1
            .split_once(", ")?;
        used.split_once(" KiB")?.0.parse::<u64>().ok()
    });
    ensure!(
        told.is_some_and(|kib| kib << 10 > memory / 2),
        "too little of the guest's memory had been used: {told:?} KiB"
    );
    Ok(())
}

/// Umbra walks its own tables, and finds no page writable and executable; an overflow of each stack is told as such. The stacks of further CPUs
/// of the host have guard pages too.
fn protected(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let options = Options {
        script: vec![until("GNU GRUB")],
        ..Options::headless(Vm::of(&Guest::GrubRescue.provide()?)?)
    };
    let log = fs::read_to_string(case.look(&options, umbra, scratch)?.log)?;
    let rule = "no page writable and executable, 5 guard pages";
    ensure!(log.contains(rule), "Umbra's log does not say: {rule}");
    // One that serves, and two for guests.
    let three = Options {
        host_cpus: 2,
        ..options.clone()
    };
    let log = fs::read_to_string(case.look(&three, umbra, scratch)?.log)?;
    let answers = "host CPUs: 3 found, 3 used; each wakes and answers an IPI";
    for told in ["no page writable and executable, 15 guard pages", answers] {
        ensure!(log.contains(told), "Umbra's log does not say: {told}");
    }
    for stack in ["main", "double-fault", "machine-check", "page-fault"] {
        let failure = Failure::Overflow(stack);
        let options = Options {
            selftest: Some(SelfTest { failure, cpu: 0 }),
            ..options.clone()
        };
        let run = run::execute(&options, umbra, case.name, &mut |_| ())?;
        let log = fs::read_to_string(run.log)?;
        let told = format!("stack overflow of the {stack} stack");
        ensure!(log.contains(&told), "the log does not say: {told}\n{log}");
    }
    Ok(())
}

/// Umbra fails on one of the host's CPUs, while others hold locks or run guests: the log and the tool's sentence say what has failed on which,
/// and all CPUs stop.
fn fails(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let disk = scratch.join("spin.img");
    attack::spin_on(2, &disk)?;
    let options = Options {
        rig: case.rig,
        cpu_model: case.rig.choose_model(case.cpu_model)?,
        host_cpus: 2,
        timeout: Some(Duration::from_secs(case.timeout)),
        // It does not come.
        script: vec![until("the end")],
        ..Options::headless(Vm {
            memory: case.memory,
            cpus: 2,
            max_cpus: 2,
            ..Vm::of(&disk)?
        })
    };
    let tests = [
        (Failure::Panic, 0, "a test of panics"),
        (Failure::Panic, 1, "a test of panics"),
        (
            Failure::PanicTwice,
            1,
            "a test of panics while they are told",
        ),
        (
            Failure::PanicBesideGuest,
            1,
            "a test of panics beside a guest",
        ),
        (
            Failure::Overflow("main"),
            1,
            "stack overflow of the main stack of host CPU 1",
        ),
    ];
    for (failure, cpu, told) in tests {
        let options = Options {
            selftest: Some(SelfTest { failure, cpu }),
            ..options.clone()
        };
        let run = run::execute(&options, umbra, case.name, &mut |_| ())?;
        let log = fs::read_to_string(run.log)?;
        let sentence = run.summary.result.err().map(|error| format!("{error:#}"));
        let sentence = sentence.unwrap_or_default();
        let begins = format!("Umbra itself has failed: host CPU {cpu} panicked at");
        ensure!(
            sentence.starts_with(&begins) && sentence.contains(told),
            "{failure:?} ended with: {sentence}"
        );
        ensure!(
            log.contains(&format!("host CPU {cpu} panicked at")) && log.contains(told),
            "{failure:?}: the log does not say: {told}\n{log}"
        );
        ensure!(
            log.ends_with("Umbra has stopped\r\n") && !log.contains("does not stop"),
            "{failure:?}: Umbra has not stopped:\n{log}"
        );
    }
    Ok(())
}
