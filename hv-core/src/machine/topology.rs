//! How the virtual CPUs are arranged: one package, in it a core for each CPU, in each core one thread.
//!
//! One package, because Windows' home editions use no second one; one thread a core, because virtual CPUs that were shown as
//! siblings would be scheduled as if they shared a core, and they do not. CPUs that can be plugged in later count as cores of
//! the package from the start, as QEMU counts them: the width of the core number never changes while the guest runs.
//!
//! CPU n has APIC ID n (xAPIC and x2APIC), ACPI processor identifier n and `_UID` n. CPUID, MADT, DSDT, MP table, SMBIOS and
//! fw_cfg all come from here.

/// The most virtual CPUs of a machine. All their APIC IDs fit the xAPIC, far below its broadcast ID.
pub const MAX_CPUS: u32 = 32;
const _: () = assert!(MAX_CPUS < 0xff, "the xAPIC's broadcast ID");

/// The arrangement of a machine's virtual CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Topology {
    cores: u32,
}

impl Topology {
    /// That of a machine that can have `cpus` virtual CPUs, plugged in or not: at least 1, at most [`MAX_CPUS`].
    #[must_use]
    pub const fn new(cpus: u32) -> Self {
        let cores = match cpus {
            0 => 1,
            1..=MAX_CPUS => cpus,
            _ => MAX_CPUS,
        };
        Self { cores }
    }

    /// Cores of the package, and its logical processors.
    #[must_use]
    pub const fn cores(self) -> u32 {
        self.cores
    }

    /// Width in bits of the core number in an APIC ID: what is above it is the package's number, 0.
    #[must_use]
    pub const fn core_bits(self) -> u32 {
        self.cores.next_power_of_two().trailing_zeros()
    }

    /// The APIC ID of virtual CPU `cpu`.
    #[must_use]
    pub const fn apic_id(cpu: u32) -> u32 {
        cpu
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn core_numbers_are_as_wide_as_the_largest_needs() {
        for (cpus, bits) in [
            (1, 0),
            (2, 1),
            (3, 2),
            (4, 2),
            (5, 3),
            (8, 3),
            (31, 5),
            (32, 5),
        ] {
            let topology = Topology::new(cpus);
            assert_eq!(topology.core_bits(), bits, "{cpus}");
            assert_eq!(topology.cores(), cpus);
            assert_eq!(Topology::apic_id(cpus - 1) >> bits, 0, "one package");
        }
    }

    #[test]
    fn a_machine_has_1_to_32_cpus_whatever_is_asked_for() {
        assert_eq!(Topology::new(0), Topology::new(1));
        assert_eq!(Topology::new(u32::MAX), Topology::new(MAX_CPUS));
    }
}
