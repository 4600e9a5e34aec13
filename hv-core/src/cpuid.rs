//! What CPUID tells the guest: the host's answers, cut down to what the virtual CPU really has.
//!
//! The answers are collected once, when the VM is made; an exit only looks them up and patches the few bits that follow the
//! guest's own state (SDM vol 2A, "CPUID—CPU Identification"; APM vol 3 appendix D and E). One table serves all virtual CPUs of
//! a VM: what differs between them is their APIC ID.

mod topology;

use crate::interface::Interfaces;
use crate::machine::Topology;
use crate::speculation::Speculation;
use crate::{hypercall, hyperv, pvclock, pveoi, pvsteal};
use alloc::vec::Vec;

/// EAX, EBX, ECX, EDX.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct CpuidResult {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// The state of the virtual CPU that shows in CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CpuidState {
    /// The APIC ID that it was born with, [`Topology::apic_id`].
    pub apic_id: u32,
    /// CR4.OSXSAVE.
    pub osxsave: bool,
    /// IA32_APIC_BASE.EN.
    pub apic_enabled: bool,
    /// XCR0.
    pub xcr0: u64,
}

/// What KVM's interface has for the CPUs of one guest among each other.
const SEVERAL_CPUS: u32 = pvsteal::FEATURE
    | pvsteal::FEATURE_TLB_FLUSH
    | hypercall::FEATURE_UNHALT
    | hypercall::FEATURE_SEND_IPI
    | hypercall::FEATURE_YIELD;
/// Highest basic leaf that is offered.
const MAX_BASIC: u32 = 0x0d;
/// Highest extended leaf that is offered.
const MAX_EXTENDED: u32 = 0x8000_0008;
/// Highest extended leaf that is offered where AMD's topology extensions are.
const MAX_TOPOEXT: u32 = 0x8000_001e;
/// Leaves of the hypervisor range that are answered.
const HYPERVISOR: u32 = 0x4000_0000;
/// Where KVM's begin if Microsoft's are there too. Windows looks only at the first leaves; Linux takes what comes last.
const SECOND: u32 = 0x4000_0100;

/// XCR0 components that guests may use: x87, SSE, AVX.
pub const XCR0_ALLOWED: u64 = XCR0_X87_SSE | XCR0_AVX;
/// Without these there is no XSAVE.
const XCR0_X87_SSE: u64 = 0b011;
const XCR0_AVX: u64 = 0b100;

/// Leaf 1 ECX bits that pass: SSE3, PCLMULQDQ, SSSE3, FMA, CMPXCHG16B, SSE4.1, SSE4.2, MOVBE, POPCNT, AES, XSAVE, AVX, F16C,
/// RDRAND. What is not here (MONITOR, VMX, PCID, PDCM, ...) the virtual CPU does not have.
const LEAF1_ECX: u32 = 1
    | 1 << 1
    | 1 << 9
    | 1 << 12
    | 1 << 13
    | 1 << 19
    | 1 << 20
    | 1 << 22
    | 1 << 23
    | 1 << 25
    | 1 << 26
    | 1 << 28
    | 1 << 29
    | 1 << 30;
/// Leaf 1 ECX: XSAVE.
const LEAF1_ECX_XSAVE: u32 = 1 << 26;
/// Leaf 1 ECX: AVX.
const LEAF1_ECX_AVX: u32 = 1 << 28;
/// Leaf 1 ECX: what is encoded as AVX is: FMA, F16C.
const LEAF1_ECX_VEX: u32 = 1 << 12 | 1 << 29;
/// Leaf 7.0 EBX and ECX likewise: AVX2; VAES, VPCLMULQDQ.
const LEAF7_EBX_VEX: u32 = 1 << 5;
const LEAF7_ECX_VEX: u32 = 1 << 9 | 1 << 10;
/// Leaf 1 ECX: x2APIC, and the local APIC's timer in TSC-deadline mode, which are emulated whatever the host has.
const LEAF1_ECX_APIC: u32 = 1 << 21 | 1 << 24;
/// Leaf 1 ECX: there is a hypervisor.
const LEAF1_ECX_HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 ECX: OSXSAVE.
const LEAF1_ECX_OSXSAVE: u32 = 1 << 27;
/// Leaf 1 EDX: APIC.
const LEAF1_EDX_APIC: u32 = 1 << 9;
/// Leaf 1 EDX bits that pass: FPU VME DE PSE TSC MSR PAE MCE CX8 APIC SEP MTRR PGE MCA CMOV PAT PSE36 CLFSH MMX FXSR SSE SSE2.
const LEAF1_EDX: u32 = 0x078b_fbff;
/// Leaf 7.0 EBX bits that pass: FSGSBASE, BMI1, AVX2, SMEP, BMI2, ERMS, RDSEED, ADX, SMAP, CLFLUSHOPT, CLWB, SHA.
const LEAF7_EBX: u32 = 1
    | 1 << 3
    | 1 << 5
    | 1 << 7
    | 1 << 8
    | 1 << 9
    | 1 << 18
    | 1 << 19
    | 1 << 20
    | 1 << 23
    | 1 << 24
    | 1 << 29;
/// Leaf 7.0 ECX bits that pass: UMIP, VAES, VPCLMULQDQ, RDPID is left out (it needs TSC_AUX).
const LEAF7_ECX: u32 = 1 << 2 | 1 << 9 | 1 << 10;
/// Leaf 7.0 EDX bits that pass: FSRM.
const LEAF7_EDX: u32 = 1 << 4;
/// Leaf 8000_0001 ECX bits that pass: LAHF, ABM, SSE4A, misaligned SSE, PREFETCHW.
const EXT1_ECX: u32 = 1 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 8;
/// Leaf 8000_0001 EDX bits that pass: those of leaf 1, SYSCALL, NX, MMXEXT, FFXSR is left out, 1 GiB pages, LM, 3DNow! is left out.
const EXT1_EDX: u32 =
    0x0183_f3ff | 1 << 11 | 1 << 20 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 26 | 1 << 29;

/// The table of one VM.
#[derive(Clone, Debug)]
pub struct Cpuid {
    basic: Vec<CpuidResult>,
    extended: Vec<CpuidResult>,
    interfaces: Interfaces,
    hypervisor: Vec<CpuidResult>,
    /// Leaf 0Dh, sub-leaves 0 to 2.
    xsave: [CpuidResult; 3],
    leaf7: CpuidResult,
    speculation: Speculation,
    topology: Topology,
    /// Leaf 4, by sub-leaf.
    intel_caches: Vec<CpuidResult>,
    /// Leaf 8000_001D, by sub-leaf.
    amd_caches: Vec<CpuidResult>,
}

impl Cpuid {
    /// Builds the table from the host's answers, `host(leaf, sub-leaf)`, for virtual CPUs that are arranged so.
    #[must_use]
    pub fn new(host: impl FnMut(u32, u32) -> CpuidResult, topology: Topology) -> Self {
        Self::with_capabilities(host, topology, None)
    }

    /// The same on a host that has IA32_ARCH_CAPABILITIES with such a value.
    #[must_use]
    pub fn with_capabilities(
        mut host: impl FnMut(u32, u32) -> CpuidResult,
        topology: Topology,
        capabilities: Option<u64>,
    ) -> Self {
        let host_max = host(0, 0).eax;
        let amd = topology::is_amd(host(0, 0));
        let (package, htt) = topology::leaf1(topology);
        let xcr0 = xcr0_of(&mut host, host_max);
        let hidden = Hidden::without(xcr0);
        let mut basic = Vec::new();
        for leaf in 0..=MAX_BASIC.min(host_max) {
            let h = host(leaf, 0);
            basic.push(match leaf {
                0 => CpuidResult {
                    eax: MAX_BASIC.min(host_max),
                    ..h
                },
                1 => CpuidResult {
                    eax: h.eax,
                    // The CLFLUSH line size is the host's.
                    ebx: h.ebx & 0xff00 | package,
                    ecx: h.ecx & LEAF1_ECX & !hidden.leaf1_ecx
                        | LEAF1_ECX_APIC
                        | LEAF1_ECX_HYPERVISOR,
                    edx: h.edx & LEAF1_EDX | htt,
                },
                2 => h,
                6 => CpuidResult {
                    eax: 1 << 2,
                    ..CpuidResult::default()
                },
                _ => CpuidResult::default(),
            });
        }
        let h7 = if host_max >= 7 {
            host(7, 0)
        } else {
            CpuidResult::default()
        };
        let host_ext = host(0x8000_0000, 0).eax;
        let ext8 = if host_ext >= 0x8000_0008 {
            host(0x8000_0008, 0)
        } else {
            CpuidResult::default()
        };
        let speculation = Speculation::of(h7, ext8, capabilities);
        let leaf7 = CpuidResult {
            eax: 0,
            ebx: h7.ebx & LEAF7_EBX & !hidden.leaf7_ebx,
            ecx: h7.ecx & LEAF7_ECX & !hidden.leaf7_ecx,
            edx: h7.edx & (LEAF7_EDX | speculation.leaf7_edx()),
        };
        let mut xsave = [CpuidResult::default(); 3];
        if xcr0 != 0 {
            let (h1, h2) = (host(0x0d, 1), host(0x0d, 2));
            let avx = xcr0 & XCR0_AVX != 0;
            let max = if avx {
                h2.ebx.saturating_add(h2.eax)
            } else {
                576
            };
            xsave[0] = CpuidResult {
                eax: xcr0 as u32,
                ebx: 576,
                ecx: max,
                edx: 0,
            };
            // XSAVEOPT only: XSAVEC and XSAVES need state that is not switched.
            xsave[1] = CpuidResult {
                eax: h1.eax & 1,
                ..CpuidResult::default()
            };
            xsave[2] = if avx { h2 } else { CpuidResult::default() };
        }
        let topoext =
            amd && host_ext >= MAX_TOPOEXT && host(0x8000_0001, 0).ecx & topology::TOPOEXT != 0;
        let max_extended = if topoext { MAX_TOPOEXT } else { MAX_EXTENDED };
        let mut extended = Vec::new();
        if host_ext >= 0x8000_0001 {
            for leaf in 0x8000_0000..=max_extended.min(host_ext) {
                let h = host(leaf, 0);
                extended.push(match leaf {
                    0x8000_0000 => CpuidResult {
                        eax: max_extended.min(host_ext),
                        ..h
                    },
                    0x8000_0001 => CpuidResult {
                        ecx: h.ecx & EXT1_ECX
                            | if amd {
                                topology::extended1(topology, topoext)
                            } else {
                                0
                            },
                        edx: h.edx & EXT1_EDX,
                        ..h
                    },
                    // Advanced power management: the TSC runs at a constant rate in all states.
                    0x8000_0007 => CpuidResult {
                        edx: 1 << 8,
                        ..CpuidResult::default()
                    },
                    0x8000_0008 => {
                        // Guests get at most 40 physical address bits and 48 linear ones: second-stage tables have four levels.
                        let phys = (h.eax & 0xff).clamp(32, 40);
                        CpuidResult {
                            eax: phys | 48 << 8,
                            ebx: h.ebx & Speculation::extended8_ebx(),
                            ecx: if amd {
                                topology::extended8(topology)
                            } else {
                                0
                            },
                            ..CpuidResult::default()
                        }
                    }
                    0x8000_0002..0x8000_0007 => h,
                    _ => CpuidResult::default(),
                });
            }
        }
        let intel_caches = if !amd && host_max >= 4 {
            topology::intel_caches(|subleaf| host(4, subleaf), topology)
        } else {
            Vec::new()
        };
        let amd_caches = if topoext {
            topology::amd_caches(|subleaf| host(0x8000_001d, subleaf), topology)
        } else {
            Vec::new()
        };
        Self {
            basic,
            extended,
            interfaces: Interfaces::default(),
            hypervisor: hypervisor(Interfaces::default(), topology),
            xsave,
            leaf7,
            speculation,
            topology,
            intel_caches,
            amd_caches,
        }
    }

    /// The same for a guest that is offered these interfaces of hypervisors, in place of the usual one.
    #[must_use]
    pub fn offering(self, interfaces: Interfaces) -> Self {
        Self {
            interfaces,
            hypervisor: hypervisor(interfaces, self.topology),
            ..self
        }
    }

    /// The interfaces of hypervisors that the guest is offered.
    #[must_use]
    pub fn interfaces(&self) -> Interfaces {
        self.interfaces
    }

    /// Whether it is AMD's processor, or a derivative.
    #[must_use]
    pub fn is_amd(&self) -> bool {
        topology::is_amd(self.basic.first().copied().unwrap_or_default())
    }

    /// How the virtual CPUs are arranged.
    #[must_use]
    pub fn topology(&self) -> Topology {
        self.topology
    }

    /// The guest's physical address width in bits.
    #[must_use]
    pub fn physical_bits(&self) -> u8 {
        self.extended.get(8).map_or(36, |l| (l.eax & 0xff) as u8)
    }

    /// The XCR0 bits that the guest may set; 0 without XSAVE.
    #[must_use]
    pub fn xcr0_allowed(&self) -> u64 {
        self.xsave[0].eax.into()
    }

    /// Leaf 7.0, as the guest sees it.
    #[must_use]
    pub fn leaf7(&self) -> CpuidResult {
        self.leaf7
    }

    /// The speculation controls that the guest has.
    #[must_use]
    pub fn speculation(&self) -> Speculation {
        self.speculation
    }

    /// Leaf 1, as the guest sees it but for the bits that change.
    #[must_use]
    pub fn leaf1(&self) -> CpuidResult {
        self.basic.get(1).copied().unwrap_or_default()
    }

    /// Leaf 8000_0001, as the guest sees it.
    #[must_use]
    pub fn extended1(&self) -> CpuidResult {
        self.extended.get(1).copied().unwrap_or_default()
    }

    /// The answer for `leaf` and `subleaf`.
    #[must_use]
    pub fn get(&self, leaf: u32, subleaf: u32, state: impl FnOnce() -> CpuidState) -> CpuidResult {
        let at =
            |table: &[CpuidResult], base: u32| table.get(leaf.wrapping_sub(base) as usize).copied();
        let cache = |table: &[CpuidResult]| table.get(subleaf as usize).copied();
        match leaf {
            1 => {
                let state = state();
                let mut r = self.leaf1();
                r.ebx |= topology::initial_apic_id(state.apic_id);
                if state.osxsave {
                    r.ecx |= LEAF1_ECX_OSXSAVE;
                }
                if !state.apic_enabled {
                    r.edx &= !LEAF1_EDX_APIC;
                }
                r
            }
            7 => {
                if subleaf == 0 {
                    self.leaf7
                } else {
                    CpuidResult::default()
                }
            }
            4 => cache(&self.intel_caches).unwrap_or_default(),
            0x0b if self.basic.len() > 0x0b => {
                topology::levels(subleaf, self.topology, state().apic_id)
            }
            0x0d => {
                let mut r = self
                    .xsave
                    .get(subleaf as usize)
                    .copied()
                    .unwrap_or_default();
                if subleaf == 0 && state().xcr0 & XCR0_AVX != 0 {
                    r.ebx = r.ecx;
                }
                r
            }
            0x8000_001d => cache(&self.amd_caches).unwrap_or_default(),
            0x8000_001e if self.extended.len() > 0x1e => topology::processor(state().apic_id),
            0..=0x3fff_ffff => at(&self.basic, 0).unwrap_or_default(),
            0x4000_0000..=0x7fff_ffff => at(&self.hypervisor, HYPERVISOR).unwrap_or_default(),
            _ => at(&self.extended, 0x8000_0000).unwrap_or_default(),
        }
    }
}

/// The XCR0 bits that the guest may set, on a host with such answers: those that leaf 0Dh and the feature bits agree on.
fn xcr0_of(host: &mut impl FnMut(u32, u32) -> CpuidResult, host_max: u32) -> u64 {
    let features = host(1, 0).ecx;
    if host_max < 0x0d || features & LEAF1_ECX_XSAVE == 0 {
        return 0;
    }
    let allowed = u64::from(host(0x0d, 0).eax) & XCR0_ALLOWED;
    match (allowed & XCR0_X87_SSE, features & LEAF1_ECX_AVX) {
        (XCR0_X87_SSE, 0) => XCR0_X87_SSE,
        (XCR0_X87_SSE, _) => allowed,
        _ => 0,
    }
}

/// Features that cannot be used where XCR0 lacks their component (SDM vol 1 13.2, "Enumeration of CPU Support for XSAVE Instructions
/// and XSAVE-Supported Features").
#[derive(Default)]
struct Hidden {
    leaf1_ecx: u32,
    leaf7_ebx: u32,
    leaf7_ecx: u32,
}

impl Hidden {
    fn without(xcr0: u64) -> Self {
        let mut hidden = Self::default();
        if xcr0 & XCR0_AVX == 0 {
            hidden.leaf1_ecx = LEAF1_ECX_AVX | LEAF1_ECX_VEX;
            hidden.leaf7_ebx = LEAF7_EBX_VEX;
            hidden.leaf7_ecx = LEAF7_ECX_VEX;
        }
        if xcr0 == 0 {
            hidden.leaf1_ecx |= LEAF1_ECX_XSAVE;
        }
        hidden
    }
}

/// The leaves from [`HYPERVISOR`] on.
fn hypervisor(interfaces: Interfaces, topology: Topology) -> Vec<CpuidResult> {
    let mut leaves = match interfaces.contains(Interfaces::HYPERV) {
        true => hyperv::leaves(topology),
        false => Vec::new(),
    };
    if interfaces.contains(Interfaces::KVM) {
        let base = match leaves.is_empty() {
            true => HYPERVISOR,
            false => SECOND,
        };
        leaves.resize((base - HYPERVISOR) as usize, CpuidResult::default());
        leaves.extend(kvm(base, topology));
    }
    if leaves.is_empty() {
        // No more than that this is a virtual machine, and whose.
        leaves.push(signature(HYPERVISOR, *b"UmbraUmbraUm"));
    }
    leaves
}

/// The first leaf of an interface whose last one is `last`.
pub(crate) fn signature(last: u32, name: [u8; 12]) -> CpuidResult {
    let [b, c, d] = [0, 4, 8].map(|at| {
        let mut word = [0; 4];
        word.copy_from_slice(&name[at..at + 4]);
        u32::from_le_bytes(word)
    });
    CpuidResult {
        eax: last,
        ebx: b,
        ecx: c,
        edx: d,
    }
}

/// The leaves of KVM's interface, the first of which is `base`.
fn kvm(base: u32, topology: Topology) -> [CpuidResult; 2] {
    let several = match topology.cores() {
        0 | 1 => 0,
        _ => SEVERAL_CPUS,
    };
    [
        // KVM's signature goes with the paravirtual clock: guests look for it under this name only.
        signature(base + 1, *b"KVMKVMKVM\0\0\0"),
        CpuidResult {
            eax: pvclock::FEATURE_NOP_IO_DELAY
                | pvclock::FEATURE_CLOCKSOURCE2
                | pveoi::FEATURE
                | pvclock::FEATURE_STABLE
                | several,
            ..CpuidResult::default()
        },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_ones(leaf: u32, _sub: u32) -> CpuidResult {
        match leaf {
            0 => CpuidResult {
                eax: 0x20,
                ebx: 1,
                ecx: 2,
                edx: 3,
            },
            0x8000_0000 => CpuidResult {
                eax: 0x8000_0020,
                ebx: 1,
                ecx: 2,
                edx: 3,
            },
            0x0d => CpuidResult {
                eax: 0xff,
                ebx: 576,
                ecx: 2000,
                edx: 0,
            },
            _ => CpuidResult {
                eax: !0,
                ebx: !0,
                ecx: !0,
                edx: !0,
            },
        }
    }

    const ONE: Topology = Topology::new(1);

    const STATE: CpuidState = CpuidState {
        apic_id: 0,
        osxsave: false,
        apic_enabled: true,
        xcr0: 1,
    };

    #[test]
    fn features_that_are_not_virtualized_are_hidden() {
        let c = Cpuid::new(all_ones, ONE);
        let l1 = c.get(1, 0, || STATE);
        for (bit, name) in [
            (3, "MONITOR"),
            (5, "VMX"),
            (15, "PDCM"),
            (17, "PCID"),
            (27, "OSXSAVE"),
        ] {
            assert_eq!(l1.ecx >> bit & 1, 0, "{name}");
        }
        assert_eq!(c.get(0x8000_0001, 0, || STATE).ecx >> 2 & 1, 0, "SVM");
        assert_eq!(c.get(0x8000_0001, 0, || STATE).edx >> 27 & 1, 0, "RDTSCP");
        assert_eq!(c.get(7, 0, || STATE).ecx >> 16 & 1, 0, "LA57");
        assert_eq!(c.get(0, 0, || STATE).eax, MAX_BASIC);
        assert_eq!(c.get(0x8000_0000, 0, || STATE).eax, MAX_EXTENDED);
        assert_eq!(c.get(0x0d, 0, || STATE).eax, 7);
    }

    /// A guest that found a feature without its state, or state without the feature, would enable what XSETBV refuses.
    #[test]
    fn features_and_sizes_are_those_of_the_state_that_xcr0_allows() {
        // What leaf 0Dh of the host says of XCR0, whether leaf 1 has AVX, and what the guest may set.
        for (state, avx, allowed) in [
            (0xff, true, 7),
            (0xff, false, 3),
            (3, true, 3),
            (1, true, 0),
            (0, true, 0),
        ] {
            let host = |leaf, sub| {
                let mut all = all_ones(leaf, sub);
                match (leaf, sub) {
                    (1, _) if !avx => all.ecx &= !LEAF1_ECX_AVX,
                    (0x0d, 0) => all.eax = state,
                    (0x0d, 2) => (all.eax, all.ebx) = (256, 576),
                    _ => {}
                }
                all
            };
            let c = Cpuid::new(host, ONE);
            assert_eq!(c.xcr0_allowed(), allowed, "{state:#x} {avx}");
            let has_avx = allowed & XCR0_AVX != 0;
            let vex = c.leaf1().ecx & (LEAF1_ECX_AVX | LEAF1_ECX_VEX) != 0
                || c.leaf7().ebx & LEAF7_EBX_VEX != 0
                || c.leaf7().ecx & LEAF7_ECX_VEX != 0;
            assert_eq!(vex, has_avx, "{state:#x} {avx}");
            assert_eq!(c.leaf1().ecx & LEAF1_ECX_XSAVE != 0, allowed != 0);
            let leaf = |sub, xcr0| c.get(0x0d, sub, || CpuidState { xcr0, ..STATE });
            assert_eq!(leaf(2, 1).eax != 0, has_avx);
            let most = match allowed {
                7 => 576 + 256,
                3 => 576,
                _ => 0,
            };
            assert_eq!((leaf(0, allowed).ecx, leaf(0, allowed).ebx), (most, most));
            assert_eq!(leaf(0, 1).ebx, most.min(576));
        }
    }

    #[test]
    fn x2apic_and_tsc_deadline_are_offered_whatever_the_host_has() {
        let bare = |leaf, _| CpuidResult {
            eax: if leaf == 0 { 1 } else { 0 },
            ..CpuidResult::default()
        };
        assert_eq!(
            Cpuid::new(bare, ONE).get(1, 0, || STATE).ecx & LEAF1_ECX_APIC,
            LEAF1_ECX_APIC
        );
        assert_eq!(
            Cpuid::new(bare, ONE).get(0x0b, 0, || STATE),
            CpuidResult::default()
        );
    }

    #[test]
    fn bits_follow_the_guests_state() {
        let c = Cpuid::new(all_ones, ONE);
        assert_ne!(
            c.get(1, 0, || CpuidState {
                osxsave: true,
                ..STATE
            })
            .ecx & LEAF1_ECX_OSXSAVE,
            0
        );
        assert_eq!(
            c.get(1, 0, || CpuidState {
                apic_enabled: false,
                ..STATE
            })
            .edx & LEAF1_EDX_APIC,
            0
        );
    }

    #[test]
    fn any_leaf_has_an_answer() {
        let c = Cpuid::new(all_ones, ONE);
        for leaf in [
            2,
            0x0c,
            0x0e,
            0x1f,
            0x3fff_ffff,
            0x4000_0001,
            0x7fff_ffff,
            0x8000_0009,
            u32::MAX,
        ] {
            for sub in [0, 1, 2, 3, u32::MAX] {
                let _ = c.get(leaf, sub, || STATE);
            }
        }
        assert_eq!(c.get(0x4000_0000, 0, || STATE).ebx.to_le_bytes(), *b"KVMK");
    }

    /// Windows looks at the first leaves only, Linux goes through the bases and takes the last interface that it knows.
    #[test]
    fn interfaces_are_where_systems_look_for_them() {
        let name = |interfaces, leaf| {
            let r = Cpuid::new(all_ones, ONE)
                .offering(interfaces)
                .get(leaf, 0, || STATE);
            let bytes: Vec<u8> = [r.ebx, r.ecx, r.edx]
                .iter()
                .flat_map(|word| word.to_le_bytes())
                .collect();
            (r.eax, alloc::string::String::from_utf8(bytes).unwrap())
        };
        let (kvm, hyperv) = ("KVMKVMKVM\0\0\0", "Microsoft Hv");
        let nothing = "\0\0\0\0\0\0\0\0\0\0\0\0";
        for (interfaces, first, second) in [
            (
                Interfaces::empty(),
                (0x4000_0000, "UmbraUmbraUm"),
                (0, nothing),
            ),
            (Interfaces::KVM, (0x4000_0001, kvm), (0, nothing)),
            (Interfaces::HYPERV, (0x4000_0005, hyperv), (0, nothing)),
            (Interfaces::all(), (0x4000_0005, hyperv), (0x4000_0101, kvm)),
        ] {
            for (leaf, (last, said)) in [(HYPERVISOR, first), (SECOND, second)] {
                assert_eq!(
                    name(interfaces, leaf),
                    (last, said.into()),
                    "{interfaces:?}"
                );
            }
        }
        let both = Cpuid::new(all_ones, ONE).offering(Interfaces::all());
        assert_eq!(both.get(0x4000_0006, 0, || STATE), CpuidResult::default());
        assert_ne!(both.get(0x4000_0101, 0, || STATE).eax, 0);
    }
}
