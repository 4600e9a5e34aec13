//! What CPUID tells the guest: the host's answers, cut down to what the virtual CPU really has.
//!
//! The answers are collected once, when the VM is made; an exit only looks them up and patches the few bits that follow the
//! guest's own state (SDM vol 2A, "CPUID—CPU Identification"; APM vol 3 appendix D and E). One table serves all virtual CPUs of
//! a VM: what differs between them is their APIC ID.

mod features;
mod hypervisor;
mod topology;

pub use self::features::XCR0_ALLOWED;
pub(crate) use self::hypervisor::signature;

use self::features::*;
use self::hypervisor::{HYPERVISOR, hypervisor};

use crate::interface::Interfaces;
use crate::machine::Topology;
use crate::speculation::Speculation;
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

/// Highest basic leaf that is offered.
const MAX_BASIC: u32 = 0x0d;
/// Highest extended leaf that is offered.
const MAX_EXTENDED: u32 = 0x8000_0008;
/// Highest extended leaf that is offered where AMD's topology extensions are.
const MAX_TOPOEXT: u32 = 0x8000_001e;

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

#[cfg(test)]
mod tests;
