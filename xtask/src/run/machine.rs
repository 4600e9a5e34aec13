//! The outer machine of a run.

use std::path::Path;

use anyhow::Result;
use protocol::options::{Nic, Profile};

use super::Options;
use crate::cli::BootFrom;
use crate::firmware;
use crate::outcome::refuse;
use crate::rig::{Boot, Display, MIB, Machine, Module, outer_memory};
use crate::vm::Vm;

/// Memory of the outer machine for each guest but the first, besides that guest's RAM: its video memory, and the books of its shadow
/// paging.
const OTHER: u64 = 80 * MIB;

/// The network card's option ROM, with which the firmware boots from the network.
fn nic_rom(nic: Nic) -> Result<Module> {
    let (role, path) = match nic {
        Nic::Ne2k => ("nicrom", "/usr/lib/ipxe/qemu/pxe-ne2k_pci.rom"),
        Nic::E1000 => ("nicrom-e1000", "/usr/lib/ipxe/qemu/pxe-e1000.rom"),
        Nic::Virtio => ("nicrom-virtio", "/usr/lib/ipxe/qemu/pxe-virtio.rom"),
        Nic::None => refuse!("--boot net needs a network card, and --nic none is none"),
    };
    if !Path::new(path).exists() {
        refuse!("--boot net needs {path}, which Debian's package ipxe-qemu has");
    }
    Ok(Module {
        role: role.to_owned(),
        path: path.into(),
    })
}

/// The card that a machine boots from, if it boots from the network: its first.
fn boots_from(profile: &Profile) -> Nic {
    profile.nics().next().map_or(Nic::None, |card| card.nic)
}

/// The outer machine for a run in the Umbra image `umbra`. `scratch` takes the files that it needs.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused): the outer machine cannot be as large as the guests need it.
pub fn machine(
    options: &Options,
    umbra: &Path,
    display: Option<Display>,
    scratch: &Path,
) -> Result<Machine> {
    let mut modules = firmware::common();
    for nic in Nic::ALL {
        let boots = |vm: &Vm| vm.boot == Some(BootFrom::Net) && boots_from(&vm.profile) == nic;
        if options.vms().any(boots) {
            modules.push(nic_rom(nic)?);
        }
    }
    let mut drives = Vec::new();
    let (mut guests, mut modules_length) = (0, MIB);
    for (number, vm) in (1..).zip(options.vms()) {
        let parts = vm.equip(
            number,
            &vm.medium()?,
            options.bus,
            options.snapshot,
            scratch,
        )?;
        modules.extend(parts.modules);
        drives.extend(parts.drives);
        modules_length += parts.module_bytes;
        guests += vm.memory;
    }
    let cpus = match options.host_cpus {
        1 => 1,
        several => several + options.rig.serving_cpus(),
    };
    let umbra_options = protocol::options::Options {
        control: Some(options.rig.control()),
        window: options.window,
        check: false,
        host_cpus: (cpus > 1).then_some(cpus),
        selftest: options.selftest,
        vms: options
            .vms()
            .zip(1..)
            .map(|(vm, number)| protocol::options::Vm {
                break_ends: options.break_ends && vm.breaks.is_some(),
                trace: options
                    .trace
                    .as_ref()
                    .and_then(|trace| trace.filter_for(number)),
                ..vm.options(options.record, options.count)
            })
            .collect(),
    };
    // Each guest has 16 MiB of video memory besides.
    let others = options.others.len() as u64;
    let needed = outer_memory(guests, modules_length + others * OTHER);
    let memory = options.outer_memory.unwrap_or(needed);
    if let Some(most) = options.rig.most_memory()
        && memory > most
    {
        refuse!(
            "guests of {}M need an outer machine of {}M, and that of --rig {} can have {}M",
            guests / MIB,
            memory / MIB,
            options.rig.name(),
            most / MIB
        );
    }
    Ok(Machine {
        rig: options.rig,
        cpu_model: options.cpu_model.clone(),
        cpus,
        memory,
        boot: Boot::Multiboot {
            umbra: umbra.to_owned(),
            options: umbra_options.to_string(),
            modules,
        },
        drives,
        network: options.network.clone(),
        remains: None,
        snapshot: options.snapshot,
        icount: options.icount,
        display,
        tablet: options.window && options.vms().any(|vm| vm.tablet),
    })
}
