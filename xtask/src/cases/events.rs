//! Events reach the guest where the manuals say.

use std::path::Path;

use anyhow::Result;

use super::{Case, on, own, shadowed, until};
use crate::events;
use crate::rig::{BOCHS_SVM, BOCHS_VMX, Shadow};
use crate::run::Options;
use crate::vm::Vm;

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let events = |name| own(name, &[], look, 32, 100);
    vec![
        events("events"),
        shadowed(Shadow::Unsync, events("shadow-events")),
        on(BOCHS_VMX, None, events("bochs-vmx-events")),
        shadowed(
            Shadow::Unsync,
            on(BOCHS_VMX, None, events("bochs-vmx-shadow-events")),
        ),
        on(BOCHS_SVM, None, events("bochs-svm-events")),
    ]
}

fn look(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let disk = scratch.join("events.img");
    events::make(&disk)?;
    let options = Options {
        script: vec![until("EVENTS FINE")],
        ..Options::headless(Vm::of(&disk)?)
    };
    case.run_once(&options, umbra, scratch)
}
