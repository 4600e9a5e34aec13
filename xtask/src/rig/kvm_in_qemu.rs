//! `kvm-in-qemu`: QEMU with Linux KVM in QEMU's emulation of AMD-V, which is how `kvm` can be tried without the hardware.

use std::path::Path;

use anyhow::Result;

use super::Rig;
use super::machine::{Boot, Bus, Drive, MIB, Machine};
use super::qemu::{self, Qemu};
use super::within::{self, Outer};
use super::within_rig::WithinRig;
use crate::emulator::{Emulator, temporary_directory};

/// The rig.
pub const KVM_IN_QEMU: &dyn Rig = &RIG;

static RIG: WithinRig = WithinRig {
    name: "kvm-in-qemu",
    about: "QEMU with Linux KVM, all in QEMU's own emulation of AMD-V: what kvm does, without the hardware",
    packages: || qemu::packages(false),
    outer_lacks: None,
    most_memory: None,
    slowness: 4,
    start,
};

/// The emulated machine's drivers.
const DRIVERS: [&str; 3] = ["virtio_pci", "virtio_blk", "kvm_amd"];

/// Starts the emulated machine with `machine` within it.
fn start(machine: &Machine, log: &Path) -> Result<Box<dyn Emulator>> {
    let directory = temporary_directory()?;
    let outer = Outer {
        drivers: &DRIVERS,
        drives: ('a'..='z')
            .map(|letter| format!("vd{letter}"))
            .take(machine.drives.len())
            .collect(),
        compressed: false,
    };
    let boot = within::boot(machine, &outer, directory.path())?;
    let arguments = arguments(machine, &boot, log, directory.path())?;
    Ok(Box::new(Qemu::launch(arguments, directory)?))
}

/// The arguments of the outer QEMU.
fn arguments(machine: &Machine, boot: &Boot, log: &Path, directory: &Path) -> Result<Vec<String>> {
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |parts: &[&str]| arguments.extend(parts.iter().map(|&part| part.to_owned()));
    add(&["-name", "Umbra", "-no-user-config", "-nodefaults"]);
    add(&["-M", "q35", "-accel", "tcg", "-cpu", "max,+svm"]);
    add(&["-m", &format!("{}M", within::memory(machine) / MIB)]);
    if machine.cpus > 1 {
        add(&["-smp", &machine.cpus.to_string()]);
    }
    add(&["-display", "none", "-no-reboot"]);
    if let Boot::Native {
        kernel,
        initrd,
        cmdline,
    } = boot
    {
        add(&["-kernel", qemu::utf8(kernel)?, "-append", cmdline]);
        if let Some(initrd) = initrd {
            add(&["-initrd", qemu::utf8(initrd)?]);
        }
    }
    for (number, one) in machine.drives.iter().enumerate() {
        let one = Drive {
            bus: Bus::Virtio,
            ..one.clone()
        };
        let [backend, device] = qemu::drive(number, &one)?;
        add(&["-drive", &backend, "-device", &device]);
    }
    add(&["-chardev", &qemu::log_file(log)?]);
    add(&["-chardev", &qemu::socket(&qemu::control_socket(directory))?]);
    add(&["-serial", "chardev:log", "-serial", "chardev:control"]);
    Ok(arguments)
}
