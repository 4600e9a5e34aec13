//! What a CPU must have in common with the first one: a guest's CPU moves between them, and Umbra's own tables are one for all.

use hv_core::cpuid::CpuidResult;

/// The leaves and sub-leaves of CPUID that are compared, and which bits of EAX, EBX, ECX and EDX. What tells of a CPU's place among the others, of its
/// caches or of its state stays out.
const LEAVES: [(u32, u32, [u32; 4]); 11] = [
    // Family, model and stepping may differ; ECX.OSXSAVE (bit 27) and EDX.APIC (bit 9) are states.
    (1, 0, [0, 0, !(1 << 27), !(1 << 9)]),
    // ECX.OSPKE (bit 4) is a state, and EDX.HYBRID (bit 15) no feature.
    (7, 0, [!0, !0, !(1 << 4), !(1 << 15)]),
    (7, 1, [!0, !0, !0, !0]),
    // The components of extended state, and how large they can be all together; EBX goes by XCR0.
    (0xd, 0, [!0, 0, !0, !0]),
    (0xd, 1, [!0, 0, !0, !0]),
    (0x15, 0, [!0, !0, !0, 0]),
    (0x8000_0001, 0, [0, 0, !0, !0]),
    (0x8000_0007, 0, [0, 0, 0, !0]),
    // Sizes of addresses.
    (0x8000_0008, 0, [!0, !0, 0, 0]),
    // AMD-V.
    (0x8000_000a, 0, [!0, !0, 0, !0]),
    // Memory encryption.
    (0x8000_001f, 0, [!0, 0, 0, 0]),
];

/// What a CPU says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Features([[u32; 4]; LEAVES.len()]);

impl Features {
    /// Asks a CPU. `cpuid` is its CPUID, by leaf and sub-leaf; leaves that it does not have are answered with zeros.
    #[must_use]
    pub fn of(cpuid: impl Fn(u32, u32) -> CpuidResult) -> Self {
        Self(LEAVES.map(|(leaf, subleaf, masks)| {
            let highest = cpuid(leaf & 0x8000_0000, 0).eax;
            if leaf > highest {
                return [0; 4];
            }
            let r = cpuid(leaf, subleaf);
            let [a, b, c, d] = masks;
            [r.eax & a, r.ebx & b, r.ecx & c, r.edx & d]
        }))
    }

    /// The first leaf and sub-leaf in which another CPU is not like this one. None: it is.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Option<(u32, u32)> {
        let pairs = self.0.iter().zip(&other.0);
        let at = LEAVES.iter().zip(pairs).find(|(_, (own, its))| own != its);
        at.map(|(&(leaf, subleaf, _), _)| (leaf, subleaf))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A CPU that has all leaves up to 1Fh and 8000_001Fh, with all bits set.
    fn all(leaf: u32, _: u32) -> CpuidResult {
        match leaf {
            0 => registers([0x1f, 0, 0, 0]),
            0x8000_0000 => registers([0x8000_001f, 0, 0, 0]),
            _ => registers([!0; 4]),
        }
    }

    fn registers([eax, ebx, ecx, edx]: [u32; 4]) -> CpuidResult {
        CpuidResult { eax, ebx, ecx, edx }
    }

    #[test]
    fn a_cpu_that_lacks_a_feature_is_told_by_its_leaf() {
        let first = Features::of(all);
        assert_eq!(first.difference(&Features::of(all)), None);
        for (leaf, subleaf, masks) in LEAVES {
            for (register, mask) in masks.into_iter().enumerate() {
                for bit in (0..32).filter(|bit| mask >> bit & 1 != 0) {
                    let other = Features::of(|l, s| {
                        let mut r = [!0; 4];
                        r[register] = !(1 << bit);
                        if (l, s) == (leaf, subleaf) {
                            registers(r)
                        } else {
                            all(l, s)
                        }
                    });
                    assert_eq!(first.difference(&other), Some((leaf, subleaf)));
                }
            }
        }
    }

    #[test]
    fn the_place_of_a_cpu_and_its_state_are_no_difference() {
        let first = Features::of(all);
        // CPUID 1 EBX has the APIC identifier; ECX.OSXSAVE and EDX.APIC follow control registers.
        let other = Features::of(|leaf, subleaf| match leaf {
            1 => registers([0x906ea, 3 << 24, !(1 << 27), !(1 << 9)]),
            _ => all(leaf, subleaf),
        });
        assert_eq!(first.difference(&other), None);
    }

    #[test]
    fn leaves_that_a_cpu_does_not_have_are_not_asked_for() {
        let old = |leaf, _| match leaf {
            0 => registers([1, 0, 0, 0]),
            0x8000_0000 => registers([0x8000_0008, 0, 0, 0]),
            1 | 0x8000_0001 | 0x8000_0007 | 0x8000_0008 => registers([1; 4]),
            _ => panic!("leaf {leaf:#x}"),
        };
        let old = Features::of(old);
        assert_eq!(Features::of(all).difference(&old), Some((1, 0)));
    }
}
