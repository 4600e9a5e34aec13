//! What the tests of this crate share: sample machines, and the tools of the system that check our tables.

use hv_core::machine::{FloppyDrive, IdeDrive, MAX_CPUS, MachineDesc, Nic};
use std::path::PathBuf;
use std::process::{Command, Output};

/// A machine with `memory` bytes and `cpus` CPUs, a disk and a CD-ROM.
pub(crate) fn machine(memory: u64, cpus: u32) -> MachineDesc {
    MachineDesc {
        memory,
        cpus,
        max_cpus: cpus,
        nics: MachineDesc::one_nic(Nic::Ne2k, [0x52, 0x54, 0, 0x12, 0x34, 0x56]),
        uuid: [
            0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee,
            0xff,
        ],
        drives: [
            Some(IdeDrive::Disk { sectors: 1 << 20 }),
            None,
            Some(IdeDrive::Cdrom),
            None,
        ],
        sata: [None; 6],
        pci_disks: 0,
        floppy: FloppyDrive::M1440,
        boot: None,
        hpet: false,
        tablet: false,
    }
}

/// A machine with `cpus` CPUs that can have `max_cpus`.
pub(crate) fn pluggable(cpus: u32, max_cpus: u32) -> MachineDesc {
    MachineDesc {
        max_cpus,
        ..machine(1 << 30, cpus)
    }
}

/// A machine with high precision event timers.
pub(crate) fn with_hpet() -> MachineDesc {
    MachineDesc {
        hpet: true,
        ..machine(1 << 30, 1)
    }
}

/// Sizes of machines that differ in their memory map or in the shape of their tables.
pub(crate) fn machines() -> Vec<MachineDesc> {
    [
        (32 << 20, 1),
        (1 << 30, 2),
        (3 << 30, 4),
        (4 << 30, 8),
        (40 << 30, MAX_CPUS),
    ]
    .map(|(memory, cpus)| machine(memory, cpus))
    .into_iter()
    .chain([pluggable(1, 2), pluggable(3, MAX_CPUS), with_hpet()])
    .collect()
}

/// A fresh directory of this test's own.
pub(crate) fn scratch(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("umbra-fw-{}-{name}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Runs a tool. None, and a word about it, if it is not installed; an error if `UMBRA_REQUIRE_TOOLS=1` wants it to be.
pub(crate) fn tool(command: &mut Command) -> Option<Output> {
    match command.output() {
        Ok(output) => Some(output),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let name = command.get_program().to_string_lossy().into_owned();
            assert!(
                std::env::var("UMBRA_REQUIRE_TOOLS").as_deref() != Ok("1"),
                "{name} is not installed"
            );
            eprintln!("SKIPPED: {name} is not installed");
            None
        }
        Err(e) => panic!("{command:?}: {e}"),
    }
}
