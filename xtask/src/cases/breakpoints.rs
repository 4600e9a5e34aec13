//! The guest's own breakpoints, by the hardware and in software: there it is when somebody waits for instructions in the same pages.

use std::path::Path;

use anyhow::{Result, ensure};

use super::{Case, on, own, shadowed, until};
use crate::attack;
use crate::rig::{BOCHS_SVM, BOCHS_VMX, Shadow};
use crate::run::{self, Options};
use crate::vm::Vm;

const SOURCE: &str = include_str!("../breakpoints.s");
/// The code: a boot sector and what it loads.
const CODE: usize = 2048;
/// Its beginning, and its last instructions: one in each of its pages.
const POINTS: [&str; 2] = ["exec:0x7c00", "exec:0x83e0"];

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let software = |name| own(name, &[], in_software, 32, 100);
    let hardware = |name| own(name, &[], by_hardware, 32, 100);
    vec![
        software("breakpoints"),
        shadowed(Shadow::Unsync, software("shadow-breakpoints")),
        on(BOCHS_VMX, None, software("bochs-vmx-breakpoints")),
        on(BOCHS_SVM, None, software("bochs-svm-breakpoints")),
        on(BOCHS_VMX, None, hardware("bochs-vmx-own-breakpoints")),
        on(BOCHS_SVM, None, hardware("bochs-svm-own-breakpoints")),
    ]
}

fn by_hardware(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    look(case, umbra, scratch, None)
}

fn in_software(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    look(case, umbra, scratch, Some(POINTS.join(",")))
}

fn look(case: &Case, umbra: &Path, scratch: &Path, breaks: Option<String>) -> Result<()> {
    let disk = scratch.join("breakpoints.img");
    attack::assemble_protected(SOURCE, CODE, &disk)?;
    let waited = breaks.is_some();
    let options = Options {
        rig: case.rig,
        cpu_model: case.rig.usual_model().to_owned(),
        script: vec![until("BREAKPOINTS FINE")],
        ..Options::headless(Vm {
            memory: case.memory,
            paging: case.paging,
            shadow: case.shadow,
            breaks,
            ..Vm::of(&disk)?
        })
    };
    let run = run::execute(&options, umbra, case.name, &mut |_| {})?;
    let said = run.summary.breaks.concat();
    run.summary.result?;
    for point in POINTS {
        let stopped = said.contains(&point.replace("exec:", "it is about to execute "));
        ensure!(stopped == waited, "at {point}: {said}");
    }
    Ok(())
}
