//! Which of the CPUs that the firmware tells of are started: ACPI 6.5, 5.2.12, "Multiple APIC Description Table (MADT)".

/// The most CPUs of the host that are used.
pub const MAX_HOST_CPUS: usize = 32;

/// A CPU in the MADT.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Local {
    /// Its local APIC's identifier.
    pub apic_id: u32,
    /// Its local APIC flags: table 5.36, "Local APIC Flags".
    pub flags: u32,
}

impl Local {
    const ENABLED: u32 = 1 << 0;

    /// Whether it is there and may be started. One that is only "online capable" is not there yet.
    const fn is_enabled(self) -> bool {
        self.flags & Self::ENABLED != 0
    }
}

/// The CPUs to be started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// How many CPUs there are, with the one that Umbra was started on.
    pub found: usize,
    /// How many of them cannot be named by their local APIC as the firmware has set it up.
    pub unnamed: usize,
    start: [u32; MAX_HOST_CPUS],
    len: usize,
}

impl Plan {
    /// Umbra runs on the CPU `own`, and is to use so many at `most`. `x2apic`: the local APICs are in x2APIC mode, where identifiers have 32
    /// bits (SDM vol 3A 11.12.1, "Detecting and Enabling x2APIC Mode"). In xAPIC mode they have 8, and the last of them means all CPUs.
    ///
    /// Firmware may tell of a CPU twice, and of none at all.
    #[must_use]
    pub fn new(cpus: impl Iterator<Item = Local>, own: u32, x2apic: bool, most: usize) -> Self {
        let mut plan = Self {
            found: 1,
            unnamed: 0,
            start: [0; MAX_HOST_CPUS],
            len: 0,
        };
        let others = cpus.filter(|cpu| cpu.is_enabled() && cpu.apic_id != own);
        for Local { apic_id, .. } in others {
            if plan.start().contains(&apic_id) {
                continue;
            }
            plan.found += 1;
            let broadcast = if x2apic { u32::MAX } else { 0xff };
            if apic_id >= broadcast {
                plan.unnamed += 1;
            } else if plan.len + 1 < most.min(MAX_HOST_CPUS)
                && let Some(place) = plan.start.get_mut(plan.len)
            {
                *place = apic_id;
                plan.len += 1;
            }
        }
        plan
    }

    /// The identifiers of those to be started, in the firmware's order.
    #[must_use]
    pub fn start(&self) -> &[u32] {
        self.start.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(ids: &[u32], own: u32, x2apic: bool, most: usize) -> Plan {
        let cpus = ids.iter().map(|&apic_id| Local { apic_id, flags: 1 });
        Plan::new(cpus, own, x2apic, most)
    }

    #[test]
    fn all_enabled_cpus_but_the_own_one_are_started() {
        let plan = plan(&[0, 1, 2, 3], 1, false, MAX_HOST_CPUS);
        assert_eq!((plan.found, plan.unnamed), (4, 0));
        assert_eq!(plan.start(), [0, 2, 3]);
    }

    #[test]
    fn cpus_that_are_not_there_are_not_started() {
        // Bit 1: online capable.
        let cpus = [(0, 1), (1, 0), (2, 2), (3, 3)];
        let cpus = cpus.map(|(apic_id, flags)| Local { apic_id, flags });
        let plan = Plan::new(cpus.into_iter(), 0, false, MAX_HOST_CPUS);
        assert_eq!(plan.found, 2);
        assert_eq!(plan.start(), [3]);
    }

    #[test]
    fn a_cpu_that_the_firmware_tells_of_twice_is_one() {
        let plan = plan(&[0, 1, 1, 0, 2], 0, false, MAX_HOST_CPUS);
        assert_eq!(plan.found, 3);
        assert_eq!(plan.start(), [1, 2]);
    }

    #[test]
    fn no_more_are_started_than_are_asked_for_and_can_be() {
        let ids: Vec<u32> = (0..100).collect();
        for most in 0..40 {
            let plan = plan(&ids, 0, false, most);
            assert_eq!(plan.found, 100);
            let others = most.min(MAX_HOST_CPUS).saturating_sub(1);
            assert_eq!(plan.start().len(), others);
        }
    }

    #[test]
    fn an_identifier_of_more_than_eight_bits_needs_x2apic_mode() {
        let ids = [0, 0xfe, 0xff, 0x100, 0xffff_ffff];
        let old = plan(&ids, 0, false, MAX_HOST_CPUS);
        assert_eq!((old.found, old.unnamed), (5, 3));
        assert_eq!(old.start(), [0xfe]);
        let new = plan(&ids, 0, true, MAX_HOST_CPUS);
        assert_eq!((new.found, new.unnamed), (5, 1));
        assert_eq!(new.start(), [0xfe, 0xff, 0x100]);
    }

    #[test]
    fn firmware_that_tells_of_no_cpu_leaves_the_one_that_there_is() {
        let plan = plan(&[], 0, false, MAX_HOST_CPUS);
        assert_eq!(plan.found, 1);
        assert_eq!(plan.start(), []);
    }
}
