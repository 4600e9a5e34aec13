//! Guests that are offered interfaces of hypervisors: what they make of them.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use protocol::options::{Enlighten, Os, Profile};
use serde_json::Value;

use super::checks::Check::{Console, PoweredOff};
use super::{Case, What, case, own, with_cpus};
use crate::guests::Guest;
use crate::run::{self, Options};
use crate::vm::Vm;

/// Microsoft's alone, as Windows has it.
pub(super) fn windows() -> Profile {
    Profile {
        os: Os::Windows,
        ..Profile::default()
    }
}

/// What a kernel with several CPUs says: its interrupts are sent by hypercalls, and its timers are synthetic ones.
const SEVERAL: &[&str] = &[
    "GUEST-CPU 4",
    "GUEST-HYPERVISOR Microsoft Hyper-V",
    "GUEST-HYPERV Using IPI hypercalls",
    "GUEST-HYPERV Using enlightened APIC",
    "GUEST-CLOCK hyperv_clocksource_tsc_page",
    "GUEST-IRQ HVS:",
];

/// A kernel with these interfaces, which has to say so and to switch the machine off.
fn kernel(
    name: &'static str,
    guest: Guest,
    cpus: u32,
    profile: Profile,
    says: &'static [&'static str],
) -> Case {
    let what = What::Kernel(guest, "umbra.then=poweroff");
    let checks = [PoweredOff, Console(says)];
    Case {
        profile,
        ..with_cpus(cpus, case(name, what, 512, 200, &[], &checks))
    }
}

/// A kernel that finds no root file system says that it has crashed, and the run ends with that.
fn panics(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let report = scratch.join("report.json");
    let kernel = Vm::of(&Guest::CloudKernel.provide()?)?;
    let options = Options {
        timeout: Some(Duration::from_secs(case.timeout)),
        report: Some(report.clone()),
        ..Options::headless(Vm {
            memory: case.memory,
            profile: windows(),
            cmdline: "console=ttyS0 quiet".to_owned(),
            ..kernel
        })
    };
    let run = run::execute(&options, umbra, case.name, &mut |_| ())?;
    let error = run.summary.result.err().context("the run succeeded")?;
    let error = format!("{error:#}");
    ensure!(
        error.contains("the guest says that its system has crashed: 0x"),
        "the run ended otherwise: {error}"
    );
    ensure!(run.host.exit == 1, "the exit code is {}", run.host.exit);
    let report: Value = serde_json::from_str(&fs::read_to_string(&report)?)?;
    let values = report.get("crash").and_then(Value::as_array);
    let values = values.context("the report has no values")?;
    ensure!(values.len() == 5, "the report has {values:?}");
    ensure!(values.iter().any(|v| *v != 0), "all values are 0");
    Ok(())
}

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let both = Profile {
        enlighten: Some(Enlighten {
            kvm: true,
            hyperv: true,
        }),
        ..Profile::default()
    };
    vec![
        kernel(
            "hyperv-kernel",
            Guest::CloudKernel,
            1,
            windows(),
            &[
                "GUEST-HYPERVISOR Microsoft Hyper-V",
                "GUEST-CLOCK hyperv_clocksource_tsc_page",
            ],
        ),
        kernel(
            "hyperv-cpus-4-kernel",
            Guest::CloudKernel,
            4,
            windows(),
            SEVERAL,
        ),
        kernel(
            "hyperv-cpus-4-kernel-of-debian-13",
            Guest::Cloud13Kernel,
            4,
            windows(),
            SEVERAL,
        ),
        kernel(
            "kvm-and-hyperv-kernel",
            Guest::CloudKernel,
            1,
            both,
            &["GUEST-HYPERVISOR KVM"],
        ),
        own("hyperv-panic", &[Guest::CloudKernel], panics, 256, 200),
    ]
}
