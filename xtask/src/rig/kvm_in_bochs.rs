//! `kvm-in-bochs`: QEMU with Linux KVM in Bochs's emulation of Intel VT-x. Slow: for trying what `kvm` does on such a processor.

use std::path::Path;

use anyhow::Result;

use super::Rig;
use super::bochs::{self, Bochs, Reach};
use super::machine::{Bus, Machine, Network};
use super::within::{self, Outer};
use super::within_rig::WithinRig;
use crate::emulator::{Emulator, temporary_directory};

/// The rig.
pub const KVM_IN_BOCHS: &dyn Rig = &RIG;

static RIG: WithinRig = WithinRig {
    name: "kvm-in-bochs",
    about: "QEMU with Linux KVM, all in Bochs with Intel VT-x: takes minutes",
    packages: || bochs::packages(false),
    outer_lacks: Some(bochs::lacks),
    most_memory: Some(bochs::MOST_MEMORY - within::OWN_MEMORY),
    slowness: 20,
    start,
};

/// The emulated processor, which has EPT and unrestricted guests.
const OUTER_MODEL: &str = "corei7_skylake_x";
/// The emulated machine's drivers.
const DRIVERS: [&str; 4] = ["ata_piix", "sd_mod", "sr_mod", "kvm_intel"];

/// Starts the emulated machine with `machine` within it.
fn start(machine: &Machine, log: &Path) -> Result<Box<dyn Emulator>> {
    let scratch = temporary_directory()?;
    let outer = Outer {
        drivers: &DRIVERS,
        drives: names(machine),
        compressed: true,
    };
    let boot = within::boot(machine, &outer, scratch.path())?;
    let mut drives = machine.drives.clone();
    for drive in &mut drives {
        drive.bus = Bus::Ide;
    }
    let machine = Machine {
        cpu_model: OUTER_MODEL.to_owned(),
        memory: within::memory(machine),
        boot,
        drives,
        network: Network::default(),
        ..machine.clone()
    };
    Ok(Box::new(Bochs::start_with(&machine, Reach::Within, log)?))
}

/// What Linux calls the drives. The first CD is the one that it was started from.
fn names(machine: &Machine) -> Vec<String> {
    let (mut disks, mut cds) = ('a'..='z', 1..);
    let drives = machine.drives.iter();
    let names = drives.map(|drive| match drive.writable {
        true => disks.next().map(|letter| format!("sd{letter}")),
        false => cds.next().map(|number| format!("sr{number}")),
    });
    names.flatten().collect()
}
