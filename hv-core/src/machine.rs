//! The one description of the virtual PC: every port, interrupt, slot and address, in one place.
//!
//! `device-model` builds the hardware from it and `hvmloader-fw` the tables, so they cannot disagree. The machine is an
//! Intel 440FX with PIIX3 and PIIX4 parts as QEMU's `pc` machine has them, which stock SeaBIOS drives.

mod topology;

pub use topology::{MAX_CPUS, Topology};

/// A PCI function's place on bus 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl Slot {
    /// Device and function as one byte, as in configuration address bits 15:8.
    #[must_use]
    pub const fn devfn(self) -> u8 {
        self.device << 3 | self.function
    }
}

/// Host bridge (i440FX).
pub const HOST_BRIDGE: Slot = Slot {
    device: 0,
    function: 0,
};
/// ISA bridge (PIIX3).
pub const ISA_BRIDGE: Slot = Slot {
    device: 1,
    function: 0,
};
/// IDE controller (PIIX3).
pub const IDE: Slot = Slot {
    device: 1,
    function: 1,
};
/// USB host controller (PIIX3), in machines with a tablet.
pub const USB: Slot = Slot {
    device: 1,
    function: 2,
};
/// Power management (PIIX4).
pub const PM: Slot = Slot {
    device: 1,
    function: 3,
};
/// VGA.
pub const VGA: Slot = Slot {
    device: 2,
    function: 0,
};
/// Network cards at most.
pub const NICS: usize = 4;

/// The place of network card `n` (0 to 3).
#[must_use]
pub const fn nic(n: usize) -> Slot {
    Slot {
        device: 3 + n as u8 % NICS as u8,
        function: 0,
    }
}

/// The first network card.
pub const NIC: Slot = nic(0);

/// The virtio entropy device.
pub const RNG: Slot = Slot {
    device: 16,
    function: 0,
};
/// The virtio console.
pub const CONSOLE: Slot = Slot {
    device: 17,
    function: 0,
};

/// The virtio memory balloon.
pub const BALLOON: Slot = Slot {
    device: 18,
    function: 0,
};

/// Hard disks on the PCI bus at most.
pub const PCI_DISKS: usize = 8;

/// The place of hard disk `n` on the PCI bus (0 to 7), where hard disks are no IDE drives.
#[must_use]
pub const fn pci_disk(n: usize) -> Slot {
    Slot {
        device: 8 + n as u8 % PCI_DISKS as u8,
        function: 0,
    }
}

/// The AHCI controller, in machines that have something at it. On an ICH9 it is function 2 of this device, behind others.
pub const AHCI: Slot = Slot {
    device: 31,
    function: 0,
};
/// Ports of the AHCI controller.
pub const SATA_PORTS: usize = 6;
/// The port of a CD-ROM drive: the last.
pub const SATA_CDROM: usize = SATA_PORTS - 1;

/// Where RAM below 4 GiB ends at the latest: what is above it is the PCI window.
pub const LOW_RAM_MAX: u64 = 0xc000_0000;
/// Where RAM above 4 GiB begins.
pub const HIGH_RAM: u64 = 0x1_0000_0000;
/// The legacy VGA window.
pub const VGA_WINDOW: core::ops::Range<u64> = 0xa_0000..0xc_0000;
/// I/O APIC registers.
pub const IOAPIC: u64 = 0xfec0_0000;
/// The high precision event timers' registers.
pub const HPET: u64 = 0xfed0_0000;
/// Their identity, as in the ACPI table: revision 1, three timers, a counter of 64 bits, legacy replacement, Intel.
pub const HPET_ID: u32 = 0x8086_a201;
/// Local APIC registers.
pub const LAPIC: u64 = 0xfee0_0000;
/// Where the first mebibyte is shown once more while A20 is off.
pub const A20_WRAP: u64 = 0x10_0000;
/// A read-only page, where no device is, with the identity page table that unpaged guests run on where the CPU insists on paging.
pub const IDENTITY_MAP: u64 = 0xfeff_c000;
/// End of the PCI memory window (exclusive).
pub const PCI_WINDOW_END: u64 = 0xfec0_0000;

/// I/O APIC identity, as in the MADT.
pub const IOAPIC_ID: u8 = 0;
/// Inputs of the I/O APIC.
pub const IOAPIC_PINS: u8 = 24;

/// The ACPI power-management block: PIIX4's PMBASE as SeaBIOS programs it when we publish ACPI tables. The same block is
/// decoded at [`PM_BASE_ALT`] too, where OVMF puts it.
pub const PM_BASE: u16 = 0x600;
/// The other place of the power-management block.
pub const PM_BASE_ALT: u16 = 0xb000;
/// Length of the power-management block.
pub const PM_LEN: u16 = 0x40;
/// The general-purpose event block (two status and two enable bytes).
pub const GPE0_BASE: u16 = 0xafe0;
/// The general-purpose event that tells of virtual CPUs which come or are to go.
pub const GPE_CPU_HOTPLUG: u8 = 2;
/// The registers of CPU hotplug, in machines that can have more than one CPU.
pub const CPU_HOTPLUG_BASE: u16 = 0xaf00;
/// Length of the registers of CPU hotplug.
pub const CPU_HOTPLUG_LEN: u16 = 12;
/// The interrupt of ACPI events.
pub const SCI_IRQ: u8 = 9;
/// The PM timer's frequency in hertz.
pub const PM_TIMER_HZ: u64 = 3_579_545;
/// The PIT's input clock in hertz.
pub const PIT_HZ: u64 = 1_193_182;
/// The local APIC timer's input clock in hertz, before its divider.
pub const LAPIC_HZ: u64 = 1_000_000_000;

/// ISA interrupts of the devices.
#[allow(missing_docs)]
pub mod irq {
    pub const PIT: u8 = 0;
    pub const KEYBOARD: u8 = 1;
    pub const COM1: u8 = 4;
    pub const FLOPPY: u8 = 6;
    pub const RTC: u8 = 8;
    pub const MOUSE: u8 = 12;
    pub const FERR: u8 = 13;
    pub const IDE0: u8 = 14;
    pub const IDE1: u8 = 15;
    /// The ISA interrupts that firmware gives to PIRQA to PIRQD.
    pub const PIRQ: [u8; 4] = [10, 10, 11, 11];
}

/// The PIRQ (0 = A to 3 = D) that interrupt pin `pin` (0 = INTA) of PCI device `device` is wired to: the PIIX swizzle. ACPI's
/// `_PRT`, the interrupt-line registers, the $PIR table and the wiring itself all come from here.
#[must_use]
pub const fn pirq(device: u8, pin: u8) -> u8 {
    (pin + device + 3) & 3
}

/// A drive on an IDE channel, or at a port of the AHCI controller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdeDrive {
    /// A hard disk.
    Disk {
        /// Its length in sectors of 512 bytes.
        sectors: u64,
    },
    /// A CD-ROM drive.
    Cdrom,
}

impl IdeDrive {
    /// Heads of a hard disk, as IDENTIFY DEVICE and CMOS tell them.
    pub const HEADS: u8 = 16;
    /// Sectors a track of a hard disk, likewise.
    pub const SECTORS_PER_TRACK: u8 = 63;
    /// Most cylinders of a hard disk, likewise: software takes it as "use LBA" (ATA/ATAPI-6 6.2, "Sector addressing").
    pub const CYLINDERS_MAX: u16 = 16_383;

    /// Cylinders of a hard disk of so many sectors.
    #[must_use]
    pub const fn cylinders(sectors: u64) -> u16 {
        let cylinders = sectors / (Self::HEADS as u64 * Self::SECTORS_PER_TRACK as u64);
        if cylinders > Self::CYLINDERS_MAX as u64 {
            Self::CYLINDERS_MAX
        } else {
            cylinders as u16
        }
    }
}

/// Positions of drives on the IDE channels: primary master, primary slave, secondary master, secondary slave.
pub const IDE_DRIVES: usize = 4;
/// Where the CD-ROM drive is: secondary master.
pub const CDROM: usize = 2;

/// What kind of network card it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Nic {
    /// An NE2000 (RTL8029).
    #[default]
    Ne2k,
    /// A virtio network device.
    Virtio,
    /// An 82540EM.
    E1000,
}

/// A network card.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NetworkCard {
    /// Its kind.
    pub nic: Nic,
    /// Its address.
    pub mac: [u8; 6],
}

/// The kind of the floppy drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FloppyDrive {
    /// 3.5", 1.44 MB: reads 720 KB, too.
    #[default]
    M1440,
    /// 3.5", 2.88 MB: reads all three.
    M2880,
}

/// What a machine can boot from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootFrom {
    /// The hard disks.
    Disk,
    /// The CD-ROM drive.
    Cdrom,
    /// The floppy drive.
    Floppy,
    /// The network.
    Network,
}

/// The variable part of a machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MachineDesc {
    /// RAM in bytes, a multiple of 1 MiB.
    pub memory: u64,
    /// Virtual CPUs that are there from the start, at least 1.
    pub cpus: u32,
    /// Virtual CPUs that can be there in all: `cpus` to [`MAX_CPUS`].
    pub max_cpus: u32,
    /// The network cards, from the first [place](nic) on.
    pub nics: [Option<NetworkCard>; NICS],
    /// The SMBIOS system UUID.
    pub uuid: [u8; 16],
    /// The drives on the IDE channels.
    pub drives: [Option<IdeDrive>; IDE_DRIVES],
    /// The drives at the ports of the AHCI controller. Without any there is none.
    pub sata: [Option<IdeDrive>; SATA_PORTS],
    /// Hard disks on the PCI bus: up to [`PCI_DISKS`].
    pub pci_disks: usize,
    /// The floppy drive, perhaps without a disk in it.
    pub floppy: FloppyDrive,
    /// What is booted first. None: the usual order.
    pub boot: Option<BootFrom>,
    /// Whether there are high precision event timers.
    pub hpet: bool,
    /// Whether there is a USB controller with a tablet.
    pub tablet: bool,
}

impl MachineDesc {
    /// The network card that is booted from: the first.
    #[must_use]
    pub fn boot_nic(&self) -> Option<NetworkCard> {
        self.nics.iter().flatten().next().copied()
    }

    /// A single network card, for [`MachineDesc::nics`].
    #[must_use]
    pub const fn one_nic(nic: Nic, mac: [u8; 6]) -> [Option<NetworkCard>; NICS] {
        let mut nics = [None; NICS];
        nics[0] = Some(NetworkCard { nic, mac });
        nics
    }

    /// All ATA drives.
    pub fn ata_drives(&self) -> impl Iterator<Item = IdeDrive> {
        self.drives.iter().chain(&self.sata).copied().flatten()
    }

    /// Whether there is an AHCI controller.
    #[must_use]
    pub fn has_ahci(&self) -> bool {
        self.sata.iter().any(Option::is_some)
    }

    /// How the virtual CPUs are arranged.
    #[must_use]
    pub const fn topology(&self) -> Topology {
        Topology::new(self.max_cpus)
    }

    /// RAM below 4 GiB, in bytes.
    #[must_use]
    pub const fn low_ram(&self) -> u64 {
        low_ram(self.memory)
    }

    /// Where RAM ends.
    #[must_use]
    pub const fn top_of_ram(&self) -> u64 {
        top_of_ram(self.memory)
    }

    /// RAM above 4 GiB, in bytes.
    #[must_use]
    pub const fn high_ram(&self) -> u64 {
        self.memory - self.low_ram()
    }
}

/// How much of so many bytes of RAM is below 4 GiB.
const fn low_ram(memory: u64) -> u64 {
    if memory > LOW_RAM_MAX {
        LOW_RAM_MAX
    } else {
        memory
    }
}

/// Where so many bytes of RAM end.
#[must_use]
pub const fn top_of_ram(memory: u64) -> u64 {
    match memory - low_ram(memory) {
        0 => low_ram(memory),
        high => HIGH_RAM + high,
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn cylinders_are_whole_and_at_most_16383() {
        use super::IdeDrive;
        assert_eq!(IdeDrive::cylinders(16 * 63 * 100 + 5), 100);
        assert_eq!(IdeDrive::cylinders(1 << 40), 16_383);
    }

    #[test]
    fn pirq_swizzle_is_pin_plus_slot_minus_one() {
        assert_eq!(super::pirq(1, 0), 0);
        assert_eq!(super::pirq(3, 0), 2);
        assert_eq!(super::pirq(0, 0), 3);
    }
}
