//! Traces of guests' exits: none is lost, and each can be explained.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hv_core::exit::ExitReason;
use hv_core::trace::Filter;
use serde_json::Value;

use super::{Case, own, shadowed, with_cpus};
use crate::guests::Guest;
use crate::media;
use crate::rig::Shadow;
use crate::run::{self, Options};
use crate::session::Ending;
use crate::trace::{Counted, Wanted};
use crate::vm::Vm;

/// What is booted here.
const GUESTS: &[Guest] = &[Guest::CloudKernel, Guest::CloudInitrd];

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let kernel = |name| own(name, GUESTS, every_exit, 256, 120);
    vec![
        kernel("trace-kernel"),
        own("break-msr", GUESTS, at_lstar, 256, 120),
        super::by_hand(with_cpus(
            2,
            shadowed(Shadow::Unsync, kernel("trace-kernel-shadow")),
        )),
    ]
}

/// A kernel's write to the register that passes through otherwise ends the run, and is explained.
fn at_lstar(case: &Case, umbra: &Path, _: &Path) -> Result<()> {
    let options = Options {
        timeout: Some(Duration::from_secs(case.timeout)),
        break_ends: true,
        ..Options::headless(Vm {
            memory: case.memory,
            initrd: Some(media::open_initrd(&Guest::CloudInitrd.provide()?)?),
            breaks: Some("msr:c0000082".to_owned()),
            ..Vm::of(&Guest::CloudKernel.provide()?)?
        })
    };
    let summary = run::execute(&options, umbra, case.name, &mut |_| {})?.summary;
    ensure!(
        summary.result? == Ending::Broke,
        "the guest was not stopped"
    );
    let said = summary.breaks.first();
    ensure!(
        said.is_some_and(|said| said.contains("it executes WRMSR")),
        "{said:?}"
    );
    Ok(())
}

/// A kernel's way to power-off: the trace has as many exits of each reason as Umbra has counted.
fn every_exit(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let file = scratch.join("kernel.trace");
    let options = Options {
        trace: Some(Wanted::check(&file, None)?),
        ..Options::headless(Vm {
            initrd: Some(media::open_initrd(&Guest::CloudInitrd.provide()?)?),
            cmdline: "console=ttyS0 quiet umbra.then=poweroff".to_owned(),
            ..Vm::of(&Guest::CloudKernel.provide()?)?
        })
    };
    let report = case.look(&options, umbra, scratch)?.report;
    let counted = Counted::of(&fs::read(&file)?, &Filter::default())?;
    let reasons = report.pointer("/exits/by_reason");
    let reasons = reasons.and_then(Value::as_object);
    let reasons = reasons.context("the report has no exits")?;
    for (index, &traced) in counted.by_reason.iter().enumerate() {
        let name = ExitReason::NAMES[index];
        let entry = reasons.get(name);
        let count = entry.and_then(|entry| entry.as_u64().or_else(|| entry.get("count")?.as_u64()));
        ensure!(
            traced == count.unwrap_or(0),
            "{name}: {traced} in the trace, {count:?} counted"
        );
    }
    for (cpu, whole) in &counted.cpus {
        ensure!(
            whole.ended && whole.totals.lost == 0 && whole.totals.kept == whole.totals.exits,
            "CPU {cpu:?}: {whole:?}"
        );
    }
    ensure!(counted.cpus.len() == case.cpus as usize, "a CPU lacks");
    Ok(())
}
