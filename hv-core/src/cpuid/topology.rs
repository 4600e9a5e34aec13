//! The leaves that tell of cores and of who shares caches, from the virtual machine's [`Topology`]: nothing in them is the
//! host's but the sizes of its caches. Leaves 1, 4 and 0Bh (SDM vol 2A, "CPUID—CPU Identification"; SDM vol 3A 9.9.1, "Hierarchical
//! Mapping of Shared Resources"), 8000_0008h, 8000_001Dh and 8000_001Eh (APM vol 3 E.4.7, "Function 8000_0008h", E.4.15,
//! "Function 8000_001Dh—Cache Topology Information" and E.4.16, "Function 8000_001Eh—Processor Topology Information").
//!
//! Each vendor has its own leaves, and the other's are reserved with it: leaf 4 is Intel's, those from 8000_001Dh on are AMD's.
//! Not here: leaves 1Fh and 8000_0026h, for dies and tiles; leaf 0Bh says all there is.

use super::CpuidResult;
use crate::machine::Topology;
use alloc::vec::Vec;

/// Leaf 1 EDX: EBX\[23:16\] counts more than one logical processor.
const HTT: u32 = 1 << 28;
/// Leaf 8000_0001 ECX: the logical processors of the package are cores, not threads of one.
const CMP_LEGACY: u32 = 1 << 1;
/// Leaf 8000_0001 ECX: leaves 8000_001D and 8000_001E exist.
pub(super) const TOPOEXT: u32 = 1 << 22;

/// Cache descriptors that are asked for: real processors have four.
const MAX_CACHES: u32 = 8;

/// Whether the answer to leaf 0 is AMD's, or that of Hygon's derivative.
pub(super) fn is_amd(leaf0: CpuidResult) -> bool {
    leaf0.ebx == u32::from_le_bytes(*b"Auth") || leaf0.ebx == u32::from_le_bytes(*b"Hygo")
}

/// Leaf 1 EBX\[23:16\], logical processors of the package, and EDX's HTT.
pub(super) fn leaf1(topology: Topology) -> (u32, u32) {
    let several = topology.cores() > 1;
    (topology.cores() << 16, if several { HTT } else { 0 })
}

/// Leaf 1 EBX\[31:24\], the initial APIC ID.
pub(super) const fn initial_apic_id(apic_id: u32) -> u32 {
    apic_id << 24
}

/// Leaf 8000_0001 ECX of an AMD processor.
pub(super) fn extended1(topology: Topology, topoext: bool) -> u32 {
    let several = topology.cores() > 1;
    (if several { CMP_LEGACY } else { 0 }) | (if topoext { TOPOEXT } else { 0 })
}

/// Leaf 8000_0008 ECX of an AMD processor: NC, the number of threads less 1, and ApicIdSize.
pub(super) fn extended8(topology: Topology) -> u32 {
    (topology.cores() - 1) | topology.core_bits() << 12
}

/// Leaf 0Bh, "Extended Topology Enumeration Leaf". Linux takes it for absent unless sub-leaf 0 is an SMT level with a processor
/// in it. EDX is the x2APIC ID in every sub-leaf.
pub(super) const fn levels(subleaf: u32, topology: Topology, apic_id: u32) -> CpuidResult {
    const SMT: u32 = 1 << 8;
    const CORE: u32 = 2 << 8;
    let (level, eax, ebx) = match subleaf {
        0 => (SMT, 0, 1),
        1 => (CORE, topology.core_bits(), topology.cores()),
        _ => (0, 0, 0),
    };
    CpuidResult {
        eax,
        ebx,
        ecx: level | subleaf & 0xff,
        edx: apic_id,
    }
}

/// Leaf 8000_001E of CPU 0: one node, one thread a core.
pub(super) const fn processor(apic_id: u32) -> CpuidResult {
    CpuidResult {
        eax: apic_id,
        ebx: apic_id & 0xff,
        ecx: 0,
        edx: 0,
    }
}

/// The host's caches as `host(sub-leaf)` tells them in leaf 4 or 8000_001D: sizes are the host's; levels 1 and 2 belong to a
/// core, all above to the package. `sharing(shared)` is what EAX says of that, and bits 13:0 are alike with both vendors.
fn caches(
    mut host: impl FnMut(u32) -> CpuidResult,
    sharing: impl Fn(bool) -> u32,
) -> Vec<CpuidResult> {
    const TYPE: u32 = 0x1f;
    /// Type, level, self-initializing, fully associative.
    const KIND: u32 = 0x3ff;
    /// WBINVD's reach, inclusiveness, complex indexing.
    const PROPERTIES: u32 = 7;
    (0..MAX_CACHES)
        .map(&mut host)
        .take_while(|cache| cache.eax & TYPE != 0)
        .map(|cache| CpuidResult {
            eax: cache.eax & KIND | sharing(cache.eax >> 5 & 7 > 2),
            edx: cache.edx & PROPERTIES,
            ..cache
        })
        .collect()
}

/// Leaf 4, "Deterministic Cache Parameters Leaf". EAX counts addressable IDs: powers of two.
pub(super) fn intel_caches(
    host: impl FnMut(u32) -> CpuidResult,
    topology: Topology,
) -> Vec<CpuidResult> {
    let others = (1u32 << topology.core_bits()) - 1;
    let shared_by = |shared: bool| if shared { others << 14 } else { 0 };
    caches(host, |shared| shared_by(shared) | others << 26)
}

/// Leaf 8000_001D. EAX counts the logical processors themselves.
pub(super) fn amd_caches(
    host: impl FnMut(u32) -> CpuidResult,
    topology: Topology,
) -> Vec<CpuidResult> {
    let others = topology.cores() - 1;
    caches(host, |shared| if shared { others << 14 } else { 0 })
}

#[cfg(test)]
mod tests {
    use super::super::{Cpuid, CpuidResult, CpuidState};
    use crate::machine::Topology;

    const COUNTS: [u32; 6] = [1, 2, 3, 4, 8, 32];

    /// A host with everything on, many cores, and APIC IDs that must not show through.
    fn host(vendor: [u8; 12], leaf: u32, subleaf: u32) -> CpuidResult {
        let word = |at: usize| u32::from_le_bytes(vendor[at..at + 4].try_into().unwrap());
        let ones = CpuidResult {
            eax: !0,
            ebx: !0,
            ecx: !0,
            edx: !0,
        };
        match (leaf, subleaf) {
            (0, _) => CpuidResult {
                eax: 0x20,
                ebx: word(0),
                ecx: word(8),
                edx: word(4),
            },
            (0x8000_0000, _) => CpuidResult {
                eax: 0x8000_0026,
                ..ones
            },
            // Data, instruction, level 2, level 3; then none.
            (4 | 0x8000_001d, 0..4) => CpuidResult {
                eax: 0xffff_fc00 | [0x121, 0x122, 0x143, 0x163][subleaf as usize],
                ebx: 0x01c0_003f,
                ecx: 0x3f,
                edx: !0,
            },
            (4 | 0x8000_001d, _) => CpuidResult { eax: !0x1f, ..ones },
            _ => ones,
        }
    }

    fn intel(leaf: u32, subleaf: u32) -> CpuidResult {
        host(*b"GenuineIntel", leaf, subleaf)
    }

    fn amd(leaf: u32, subleaf: u32) -> CpuidResult {
        host(*b"AuthenticAMD", leaf, subleaf)
    }

    /// An AMD processor from before the topology extensions, or QEMU's.
    fn old_amd(leaf: u32, subleaf: u32) -> CpuidResult {
        let h = amd(leaf, subleaf);
        match leaf {
            0x8000_0000 => CpuidResult {
                eax: 0x8000_000a,
                ..h
            },
            0x8000_0001 => CpuidResult {
                ecx: h.ecx & !super::TOPOEXT,
                ..h
            },
            _ => h,
        }
    }

    type Host = fn(u32, u32) -> CpuidResult;
    const HOSTS: [Host; 3] = [intel, amd, old_amd];

    /// What CPU `cpu` of a machine of `cpus` sees.
    fn seen(host: Host, cpus: u32, cpu: u32) -> impl Fn(u32, u32) -> CpuidResult {
        let table = Cpuid::new(host, Topology::new(cpus));
        let state = CpuidState {
            apic_id: Topology::apic_id(cpu),
            osxsave: false,
            apic_enabled: true,
            xcr0: 1,
        };
        move |leaf, subleaf| table.get(leaf, subleaf, || state)
    }

    /// SDM vol 2A, "CPUID—CPU Identification", Table 3-8, "Information Returned by CPUID Instruction", and APM vol 3 E.3.2,
    /// "Function 1h".
    #[test]
    fn leaf_1_has_the_initial_apic_id_and_counts_the_packages_processors() {
        for host in HOSTS {
            for cpus in COUNTS {
                for cpu in 0..cpus {
                    let leaf = seen(host, cpus, cpu)(1, 0);
                    assert_eq!(leaf.ebx >> 24, cpu);
                    assert_eq!(leaf.ebx >> 16 & 0xff, cpus);
                    assert_eq!(leaf.edx & super::HTT != 0, cpus > 1);
                }
            }
        }
    }

    /// SDM vol 3A, "Hierarchical Mapping of Shared Resources": shifting an x2APIC ID right by EAX\[4:0\] gives the number at the
    /// next level; EBX counts the processors of this level.
    #[test]
    fn leaf_0bh_is_one_thread_a_core_and_all_cores_in_package_0() {
        for host in HOSTS {
            for cpus in COUNTS {
                for cpu in 0..cpus {
                    let leaf = seen(host, cpus, cpu);
                    let (smt, core) = (leaf(0x0b, 0), leaf(0x0b, 1));
                    assert_eq!((smt.eax, smt.ebx, smt.ecx), (0, 1, 0x100));
                    assert_eq!((core.ebx, core.ecx), (cpus, 0x201));
                    assert_eq!(cpu >> core.eax, 0, "package");
                    assert!(cpus <= 1 << core.eax && cpus > (1 << core.eax) / 2);
                    for (subleaf, ecx) in [(2, 2), (3, 3), (0x100, 0), (u32::MAX, 0xff)] {
                        let none = leaf(0x0b, subleaf);
                        assert_eq!((none.eax, none.ebx, none.ecx), (0, 0, ecx));
                    }
                    for subleaf in [0, 1, 2, u32::MAX] {
                        assert_eq!(leaf(0x0b, subleaf).edx, cpu, "x2APIC ID");
                    }
                }
            }
        }
    }

    #[test]
    fn leaf_4_shares_level_3_in_the_package_and_is_intels_alone() {
        // Addressable IDs less 1, powers of two.
        for (cpus, others) in COUNTS.into_iter().zip([0, 1, 3, 3, 7, 31]) {
            let leaf = seen(intel, cpus, cpus - 1);
            for (subleaf, kind, sharing) in [
                (0, 0x121, 0),
                (1, 0x122, 0),
                (2, 0x143, 0),
                (3, 0x163, others),
            ] {
                let cache = leaf(4, subleaf);
                assert_eq!(cache.eax & 0x3ff, kind);
                assert_eq!(cache.eax >> 10 & 0xf, 0, "reserved");
                assert_eq!(cache.eax >> 14 & 0xfff, sharing, "sharing");
                assert_eq!(cache.eax >> 26, others, "cores");
                assert_eq!((cache.ebx, cache.ecx), (0x01c0_003f, 0x3f), "geometry");
                assert_eq!(cache.edx, 7);
            }
            for subleaf in [4, 5, u32::MAX] {
                assert_eq!(leaf(4, subleaf), CpuidResult::default());
            }
            for host in [amd as Host, old_amd] {
                assert_eq!(seen(host, cpus, 0)(4, 0), CpuidResult::default());
            }
        }
    }

    #[test]
    fn amd_counts_threads_in_8000_0008_and_says_that_they_are_cores() {
        for (cpus, bits) in COUNTS.into_iter().zip([0, 1, 2, 2, 3, 5]) {
            for host in [amd as Host, old_amd] {
                let leaf = seen(host, cpus, 0);
                assert_eq!(leaf(0x8000_0008, 0).ecx, bits << 12 | (cpus - 1));
                let legacy = leaf(0x8000_0001, 0).ecx & super::CMP_LEGACY != 0;
                assert_eq!(legacy, cpus > 1);
            }
            let leaf = seen(intel, cpus, 0);
            assert_eq!(leaf(0x8000_0008, 0).ecx, 0);
            assert_eq!(leaf(0x8000_0001, 0).ecx & super::CMP_LEGACY, 0);
        }
    }

    #[test]
    fn topology_extensions_are_there_with_their_leaves_or_not_at_all() {
        let has = |host, (max, bit)| {
            let leaf = seen(host, 4, 3);
            assert_eq!(leaf(0x8000_0000, 0).eax, max);
            assert_eq!(leaf(0x8000_0001, 0).ecx & super::TOPOEXT != 0, bit);
            for l in [0x8000_001d, 0x8000_001e] {
                assert_eq!(leaf(l, 0) != CpuidResult::default(), bit, "{l:x}");
            }
            // What is between is not ours: SVM, IBS, LWP.
            for l in 0x8000_0009..=0x8000_001c {
                assert_eq!(leaf(l, 0), CpuidResult::default(), "{l:x}");
            }
        };
        has(amd as Host, (0x8000_001e, true));
        has(old_amd, (0x8000_0008, false));
        has(intel, (0x8000_0008, false));
        // A host that claims the feature but ends below its leaves.
        let short = |leaf, subleaf| match leaf {
            0x8000_0000 => CpuidResult {
                eax: 0x8000_001a,
                ..amd(leaf, subleaf)
            },
            _ => amd(leaf, subleaf),
        };
        has(short, (0x8000_0008, false));
    }

    #[test]
    fn leaf_8000_001e_is_a_core_of_one_thread_in_node_0() {
        for cpus in COUNTS {
            for cpu in 0..cpus {
                let leaf = seen(amd, cpus, cpu)(0x8000_001e, 0);
                assert_eq!((leaf.eax, leaf.ebx), (cpu, cpu), "APIC ID, core");
                assert_eq!((leaf.ecx, leaf.edx), (0, 0));
            }
        }
    }

    #[test]
    fn leaf_8000_001d_counts_who_shares_a_cache() {
        for cpus in COUNTS {
            let leaf = seen(amd, cpus, 0);
            for (subleaf, kind, others) in [
                (0, 0x121, 0),
                (1, 0x122, 0),
                (2, 0x143, 0),
                (3, 0x163, cpus - 1),
            ] {
                let cache = leaf(0x8000_001d, subleaf);
                assert_eq!(cache.eax, kind | others << 14);
                assert_eq!((cache.ebx, cache.ecx), (0x01c0_003f, 0x3f), "geometry");
            }
            assert_eq!(leaf(0x8000_001d, 4), CpuidResult::default());
        }
    }

    /// Windows stops with 3Eh, MULTIPROCESSOR_CONFIGURATION_NOT_SUPPORTED, when processors differ in more than their place.
    #[test]
    fn cpus_of_a_machine_differ_in_their_apic_id_only() {
        for host in HOSTS {
            let (first, last) = (seen(host, 8, 0), seen(host, 8, 7));
            for leaf in (0..0x20)
                .chain(0x4000_0000..0x4000_0002)
                .chain(0x8000_0000..0x8000_0028)
            {
                for subleaf in 0..6 {
                    let (mut a, mut b) = (first(leaf, subleaf), last(leaf, subleaf));
                    match leaf {
                        1 => (a.ebx, b.ebx) = (a.ebx & 0xff_ffff, b.ebx & 0xff_ffff),
                        0x0b => (a.edx, b.edx) = (0, 0),
                        0x8000_001e => (a.eax, a.ebx, b.eax, b.ebx) = (0, 0, 0, 0),
                        _ => {}
                    }
                    assert_eq!(a, b, "{leaf:x}.{subleaf}");
                }
            }
        }
    }

    #[test]
    fn a_host_whose_caches_never_end_gives_eight() {
        let endless = |leaf, subleaf| match leaf {
            4 => intel(4, 3),
            _ => intel(leaf, subleaf),
        };
        let leaf = seen(endless, 2, 0);
        assert_ne!(leaf(4, 7), CpuidResult::default());
        assert_eq!(leaf(4, 8), CpuidResult::default());
    }
}
