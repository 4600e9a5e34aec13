//! Guests that suspend their machine to RAM (S3): the clock's alarm wakes them twice, then a key. Each of the ways in which a machine wakes is
//! tried: by SeaBIOS, by OVMF, and by Umbra in the place of firmware.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use protocol::options::{CdBus, DiskBus, Nic, Nics, Profile};

use super::checks::Check;
use super::{Case, What, by_hand, case, keys, on, on_host_cpus, own, shadowed, until, with_cpus};
use crate::boot_entry::Entry;
use crate::cdrom;
use crate::firmware::Firmware;
use crate::guests::Guest;
use crate::media::{self, Boots};
use crate::rig::{BOCHS_VMX, Net, Shadow};
use crate::run::Options;
use crate::script::Step;
use crate::tablet;
use crate::vm::Vm;

const CMDLINE: &str = "umbra.then=suspend";
const NEEDS: &[Guest] = &[Guest::CloudKernel, Guest::CloudInitrd];
const DEVICES_NEED: &[Guest] = &[Guest::I386Kernel, Guest::I386Initrd];
/// The guest's disk in bytes.
const DISK: u64 = 1 << 20;

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let direct = |name, timeout| {
        let says: &[&str] = &["GUEST-READ 262144"];
        let checks = [Check::Console(says)];
        let what = What::Kernel(Guest::CloudKernel, CMDLINE);
        case(name, what, 256, timeout, &script(), &checks)
    };
    let devices = |name, procedure| Case {
        script: used(),
        profile: Profile {
            hpet: true,
            disk_bus: Some(DiskBus::Virtio),
            nics: both_cards(),
            ..Profile::default()
        },
        ..own(name, DEVICES_NEED, procedure, 256, 120)
    };
    vec![
        with_cpus(2, own("suspend-bios", NEEDS, by_bios, 256, 120)),
        shadowed(Shadow::Unsync, direct("suspend-shadow", 120)),
        devices("suspend-devices", |case, umbra, scratch| {
            with_devices(false, case, umbra, scratch)
        }),
        by_hand(devices("suspend-devices-bios", |case, umbra, scratch| {
            with_devices(true, case, umbra, scratch)
        })),
        by_hand(on_ahci(devices(
            "suspend-devices-ahci",
            |case, umbra, scratch| with_devices(true, case, umbra, scratch),
        ))),
        by_hand(on_host_cpus(
            2,
            with_cpus(2, direct("suspend-host-cpus-2", 120)),
        )),
        by_hand(with_cpus(2, own("suspend-uefi", NEEDS, by_uefi, 512, 180))),
        by_hand(on(BOCHS_VMX, None, direct("suspend-bochs-vmx", 900))),
    ]
}

/// The same with the disk, and the CD that it boots from, on AHCI.
fn on_ahci(mut case: Case) -> Case {
    case.profile.disk_bus = Some(DiskBus::Ahci);
    case.profile.cd_bus = Some(CdBus::Ahci);
    case
}

/// The cards whose drivers keep rings in memory, of which a card that was suspended knows nothing.
fn both_cards() -> Nics {
    let mut nics = Nics::from(Nic::Virtio);
    nics.add(Nic::E1000.into())
        .expect("there is room for a second card");
    nics
}

/// What is seen, and the key: more than once, since one that comes before the machine sleeps wakes nobody.
fn script() -> Vec<Step> {
    let mut script = vec![
        until("[deep]"),
        until("GUEST-WOKE 1"),
        until("GUEST-WOKE 2"),
    ];
    for _ in 0..3 {
        script.extend([Step::Sleep(Duration::from_secs(1)), keys(" ")]);
    }
    script.extend([until("GUEST-WOKE key"), until("GUEST-SLEPT")]);
    script
}

/// The tablet points to another pixel after each time.
fn used() -> Vec<Step> {
    let mut script = vec![until("GUEST-CLOCKED hpet")];
    for (round, x) in [(1, 10), (2, 200), (3, 400)] {
        script.extend([
            until(&format!("GUEST-WORKS {round}")),
            Step::Mouse(format!("to,{x},0")),
            // A text screen's 720 columns are the tablet's 32,768 steps.
            until(&format!("GUEST-EVENT 3 0 {}", (2 * x + 1) * 32768 / 1440)),
        ]);
    }
    script.push(until("GUEST-SLEPT"));
    script
}

/// A guest whose every device has a driver, which works before and after. Either SeaBIOS starts and wakes it, or Umbra.
fn with_devices(bios: bool, case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let mut options = tablet::doing(include_str!("../suspend.sh"), scratch)?;
    options.network.net = Net::User;
    options.vm.disks = vec![media::make_disk(&scratch.join("disk.img"), DISK)?];
    options.vm.cmdline.push_str(" clocksource=hpet");
    if bios && let Some((initrd, _)) = options.vm.initrd.take() {
        let path = scratch.join("suspend.iso");
        let entry = Entry {
            label: "suspend",
            cmdline: &std::mem::take(&mut options.vm.cmdline),
        };
        let kernel = Guest::I386Kernel.provide()?;
        cdrom::make_with(
            &path,
            "SUSPEND",
            &kernel,
            &initrd,
            &[entry],
            Boots::Bios,
            &[],
        )?;
        options.vm = Vm {
            tablet: true,
            disks: options.vm.disks,
            ..Vm::of(&path)?
        };
    }
    case.run_once(&options, umbra, scratch)
}

fn by_bios(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    by(Firmware::Bios, case, umbra, scratch)
}

fn by_uefi(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    by(Firmware::Uefi, case, umbra, scratch)
}

/// A CD that boots by this firmware, with the kernel whose command line has it suspended.
fn by(firmware: Firmware, case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let path = scratch.join("suspend.iso");
    let entry = Entry {
        label: "suspend",
        cmdline: &format!("console=tty0 console=ttyS0 {CMDLINE}"),
    };
    let boots = match firmware {
        Firmware::Uefi => Boots::Uefi,
        _ => Boots::Bios,
    };
    let (kernel, initrd) = (Guest::CloudKernel.provide()?, Guest::CloudInitrd.provide()?);
    cdrom::make_with(&path, "SUSPEND", &kernel, &initrd, &[entry], boots, &[])?;
    let disk = media::make_disk(&scratch.join("disk.img"), DISK)?;
    let options = Options {
        script: script(),
        ..Options::headless(Vm {
            firmware,
            disks: vec![disk],
            ..Vm::of(&path)?
        })
    };
    case.run_once(&options, umbra, scratch)
}
