//! Guests with several virtual CPUs.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::checks::Check::{Console, PoweredOff, Resets};
use super::{Case, What, by_hand, case, keys, on, on_host_cpus, own, shadowed, until, with_cpus};
use crate::guests::Guest;
use crate::kexec;
use crate::litmus;
use crate::media;
use crate::rig::{BOCHS_SVM, BOCHS_VMX, Paging, Shadow};
use crate::run::Options;
use crate::stress;
use crate::vm::Vm;

/// What is booted here.
const GUEST: &[Guest] = &[Guest::CloudKernel, Guest::CloudInitrd];

/// The cloud kernel, which has to find so many and to switch the machine off.
fn kernel(name: &'static str, cpus: u32, timeout: u64, says: &'static [&'static str]) -> Case {
    let what = What::Kernel(Guest::CloudKernel, "umbra.then=poweroff");
    let checks = [PoweredOff, Console(says)];
    with_cpus(cpus, case(name, what, 512, timeout, &[], &checks))
}

/// Two CPUs are plugged in at the console; the guest uses them, and lets go of them when it is asked to.
fn hotplug() -> Case {
    let online = "sleep 2; for n in 2 3; do echo 1 > /sys/devices/system/cpu/cpu$n/online; done; echo HAS $(nproc)\\n";
    let script = [
        until("/ #"),
        keys("\\{ctrl-alt-esc}"),
        until("umbra>"),
        keys("cpus\\n"),
        until("2 of 4"),
        keys("cpus 4\\n"),
        until("the guest is told"),
        keys("\\{ctrl-alt-esc}"),
        keys(online),
        until("HAS 4"),
        keys("\\{ctrl-alt-esc}"),
        until("umbra>"),
        keys("list\\n"),
        until("IPIs"),
        keys("cpus 2\\n"),
        until("the guest is asked"),
        keys("\\{ctrl-alt-esc}"),
        keys("sleep 3; echo NOW $(nproc)\\n"),
        until("NOW 2"),
    ];
    let what = What::Kernel(Guest::CloudKernel, "console=tty0");
    case("cpus-come-and-go", what, 512, 240, &script, &[])
}

/// The CPUs of a guest try each other.
fn litmus(name: &'static str, cpus: u32, timeout: u64) -> Case {
    let short = |case: &Case, umbra: &Path, scratch: &Path| rounds(300, case, umbra, scratch);
    with_cpus(cpus, own(name, &[], short, 32, timeout))
}

/// The same for hours.
fn long_litmus(name: &'static str) -> Case {
    let long = |case: &Case, umbra: &Path, scratch: &Path| rounds(1_000_000, case, umbra, scratch);
    by_hand(with_cpus(4, own(name, &[], long, 32, 100_000)))
}

/// Linux starts itself in its own place, without a reset: the new one finds and starts all CPUs again.
fn kexec(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let options = Options {
        script: vec![
            until("GUEST-CPU 4"),
            until("GUEST-DONE"),
            until("GUEST-CPU 4"),
            until("GUEST-DONE"),
        ],
        ..kexec::options(scratch)?
    };
    case.run_once(&options, umbra, scratch)
}

/// Ten minutes of what stresses several CPUs together: nothing of it fails, and the kernel complains of nothing.
fn stressed(name: &'static str) -> Case {
    const SECONDS: u64 = 600;
    fn work(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
        let options = Options {
            script: vec![until("STRESS-FINE")],
            ..stress::options(scratch, SECONDS)?
        };
        case.run_once(&options, umbra, scratch)
    }
    by_hand(with_cpus(4, own(name, GUEST, work, 1024, 3 * SECONDS)))
}

fn rounds(rounds: u32, case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let disk = scratch.join("litmus.img");
    litmus::make(&disk, case.cpus, rounds)?;
    let says = format!("LITMUS OK {:08X}", case.cpus * rounds);
    let options = Options {
        script: vec![until(&says)],
        ..Options::headless(Vm::of(&disk)?)
    };
    case.run_once(&options, umbra, scratch)
}

/// Where the emulator counts instructions, two runs leave the guest equally often, for the same reasons and at the same cost, however many
/// CPUs it has.
fn repeat(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let guest = Guest::CloudKernel;
    let initrd = guest.initrd().context("it has a RAM disk")?.provide()?;
    let options = Options {
        icount: true,
        ..Options::headless(Vm {
            initrd: Some(media::open_initrd(&initrd)?),
            cmdline: "console=ttyS0 quiet umbra.then=poweroff".into(),
            ..Vm::of(&guest.provide()?)?
        })
    };
    let exits = || {
        let mut report = case.look(&options, umbra, scratch)?.report;
        let exits = report.get_mut("exits").map(Value::take);
        exits.context("the report has no exits")
    };
    let (first, second) = (exits()?, exits()?);
    ensure!(
        first == second,
        "the second run was another one: {first}, then {second}"
    );
    Ok(())
}

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    // The kernel has sent interrupts between CPUs, and each has a timer of its own.
    const FOUR: &[&str] = &["GUEST-CPU 4", "GUEST-IRQ LOC:", "GUEST-IRQ CAL:"];
    let twice = [until("GUEST-UP"), until("GUEST-UP")];
    let reboot = What::Kernel(Guest::CloudKernel, "umbra.then=reboot");
    let installer = What::Cd(Guest::DebianAmd64);
    let language = [until("Select a language")];
    let shadow = |name, shadow| shadowed(shadow, kernel(name, 4, 300, FOUR));
    vec![
        on(
            BOCHS_VMX,
            None,
            kernel("bochs-vmx-cpus-2-kernel", 2, 900, &["GUEST-CPU 2"]),
        ),
        by_hand(on(
            BOCHS_SVM,
            None,
            kernel("bochs-svm-cpus-2-kernel", 2, 900, &["GUEST-CPU 2"]),
        )),
        // Through SeaBIOS, which starts all of them too.
        with_cpus(
            4,
            case(
                "cpus-4-debian-amd64-installer",
                installer,
                1024,
                400,
                &language,
                &[],
            ),
        ),
        kernel("cpus-4-kernel", 4, 200, FOUR),
        shadow("shadow-cpus-4-kernel", Shadow::Unsync),
        shadow("shadow-cached-cpus-4-kernel", Shadow::Cached),
        shadow("shadow-vtlb-cpus-4-kernel", Shadow::Vtlb),
        Case {
            paging: Paging::Alternate(100),
            ..kernel("paging-alternates-cpus-4-kernel", 4, 300, FOUR)
        },
        with_cpus(
            4,
            case("cpus-4-reboot", reboot, 512, 200, &twice, &[Resets(1)]),
        ),
        Case {
            max_cpus: 4,
            ..with_cpus(2, hotplug())
        },
        kernel("cpus-8-kernel", 8, 300, &["GUEST-CPU 8"]),
        by_hand(kernel("cpus-32-kernel", 32, 900, &["GUEST-CPU 32"])),
        litmus("litmus", 4, 200),
        shadowed(Shadow::Unsync, litmus("shadow-litmus", 4, 200)),
        shadowed(Shadow::Cached, litmus("shadow-cached-litmus", 4, 200)),
        shadowed(Shadow::Vtlb, litmus("shadow-vtlb-litmus", 4, 200)),
        on(BOCHS_VMX, None, litmus("bochs-vmx-litmus", 2, 400)),
        on_host_cpus(2, litmus("host-cpus-2-litmus", 4, 400)),
        on_host_cpus(
            2,
            shadowed(Shadow::Unsync, litmus("host-cpus-2-shadow-litmus", 4, 400)),
        ),
        // By hand: several CPUs in QEMU need as many here, which have nothing else to do.
        by_hand(on_host_cpus(
            2,
            kernel("host-cpus-2-cpus-4-kernel", 4, 300, FOUR),
        )),
        by_hand(on_host_cpus(
            2,
            shadow("host-cpus-2-shadow-cpus-4-kernel", Shadow::Unsync),
        )),
        on_host_cpus(
            2,
            on(
                BOCHS_VMX,
                None,
                litmus("bochs-vmx-host-cpus-2-litmus", 2, 400),
            ),
        ),
        Case {
            checks: vec![PoweredOff],
            ..with_cpus(4, own("cpus-4-repeat", GUEST, repeat, 256, 200))
        },
        with_cpus(4, own("cpus-4-kexec", GUEST, kexec, 512, 200)),
        shadowed(
            Shadow::Unsync,
            with_cpus(4, own("shadow-cpus-4-kexec", GUEST, kexec, 512, 300)),
        ),
        stressed("stress-ng"),
        shadowed(Shadow::Unsync, stressed("shadow-stress-ng")),
        on_host_cpus(2, stressed("host-cpus-2-stress-ng")),
        on_host_cpus(
            2,
            shadowed(Shadow::Unsync, stressed("host-cpus-2-shadow-stress-ng")),
        ),
        long_litmus("litmus-million"),
        shadowed(Shadow::Unsync, long_litmus("shadow-litmus-million")),
    ]
}
