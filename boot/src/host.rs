//! What both vendors' CPUs have in common, and which vendor's this is.

use crate::memory;
use alloc::string::String;
use core::arch::asm;
use hv_core::cpu::VcpuBackend;
use hv_core::cpuid::CpuidResult;
use hv_core::mmu::Backing;
use hv_core::msr::nr;
use hv_core::speculation::ARCH_CAPABILITIES;
use npt_shadow::Format;
use protocol::options::Paging;
use raw_cpuid::CpuId;
use x86::controlregs::{Cr4, cr4, cr4_write};

/// CPUID on the host.
pub fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    let r = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    CpuidResult {
        eax: r.eax,
        ebx: r.ebx,
        ecx: r.ecx,
        edx: r.edx,
    }
}

/// IA32_ARCH_CAPABILITIES, if the CPU has it.
pub fn arch_capabilities() -> Option<u64> {
    let has = cpuid(0, 0).eax >= 7 && cpuid(7, 0).edx & ARCH_CAPABILITIES != 0;
    // SAFETY: ring 0; the register exists.
    has.then(|| unsafe { x86::msr::rdmsr(nr::ARCH_CAPABILITIES) })
}

/// Sets CR4 up, and says whether the CPU has XSAVE, so that XCR0 exists.
///
/// Its other bits are as a 64-bit system has them: supervisor-mode execution and access prevention (SDM vol 3A 4.6, "Access Rights"), which
/// Umbra keeps because it has no user pages, and global pages. So CR4 is the same on both sides of most world switches, which spares
/// QEMU's emulation two of six TLB flushes an exit: it flushes when one of these bits changes.
pub fn set_up_cr4() -> bool {
    let id = CpuId::new();
    let basic = id.get_feature_info();
    let extended = id.get_extended_feature_info();
    let xsave = basic.as_ref().is_some_and(|f| f.has_xsave());
    let bits = [
        (Cr4::CR4_ENABLE_OS_XSAVE, xsave),
        (
            Cr4::CR4_ENABLE_PSE,
            basic.as_ref().is_some_and(|f| f.has_pse()),
        ),
        (
            Cr4::CR4_ENABLE_GLOBAL_PAGES,
            basic.as_ref().is_some_and(|f| f.has_pge()),
        ),
        (
            Cr4::CR4_ENABLE_SMEP,
            extended.as_ref().is_some_and(|f| f.has_smep()),
        ),
        (
            Cr4::CR4_ENABLE_SMAP,
            extended.as_ref().is_some_and(|f| f.has_smap()),
        ),
    ];
    let present = bits.into_iter().filter(|&(_, has)| has);
    let set: Cr4 = present.map(|(bit, _)| bit).collect();
    // SAFETY: the CPU has these features. Umbra's pages are supervisor pages, none is global, and XSAVE changes nothing until XSETBV.
    unsafe { cr4_write(cr4() | set) };
    xsave
}

/// Whether CR4.OSXSAVE is set, so that guests may have AVX.
pub fn has_osxsave() -> bool {
    // SAFETY: ring 0; reading has no effect.
    unsafe { cr4() }.contains(Cr4::CR4_ENABLE_OS_XSAVE)
}

/// What the CPU asks of second-stage page tables.
#[derive(Clone, Copy)]
pub struct SecondStage {
    /// Their format.
    pub format: Format,
    /// The level of their largest pages.
    pub largest: u32,
    /// Where the identity page table is that unpaged guests need on this CPU, to be mapped at
    /// [`IDENTITY_MAP`](hv_core::machine::IDENTITY_MAP).
    pub identity_map: Option<Backing>,
}

/// What keeps a guest under shadow paging from loading a CR3 of its own by a hardware task switch.
#[derive(Clone, Copy)]
pub enum Confinement {
    /// The CPU leaves the guest for it.
    Hardware,
    /// A [fence](npt_shadow::fence) of such tables.
    Fence(SecondStage),
    /// Nothing does.
    None,
}

/// This CPU's virtualization, turned on.
pub trait Virtualization {
    /// A virtual CPU on it.
    type Cpu: VcpuBackend;

    /// Makes a virtual CPU of a VM whose memory is to be virtualized as `paging` says. It is loaded.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    fn vcpu(&mut self, paging: Paging) -> Result<Self::Cpu, String>;

    /// What this CPU asks of the second-stage page tables of such a VM, if it is set up for them.
    ///
    /// # Errors
    /// A sentence that says what is missing.
    fn second_stage(&mut self, paging: Paging) -> Result<Option<SecondStage>, String>;

    /// What confines guests under shadow paging.
    fn confinement(&self) -> Confinement {
        Confinement::Hardware
    }

    /// XCR0 bits that guests can set although CPUID hides them, because XSETBV does not leave the guest.
    fn unguarded_components(&self) -> u64 {
        0
    }

    /// A virtual CPU besides those of the VMs, on shadow paging, for [`ScratchGuest`](hv_core::scratch::ScratchGuest). None: this CPU does
    /// not give any.
    fn spare_vcpu(&mut self) -> Option<Self::Cpu>;
}

/// The extended state of a guest that is unloaded, beyond x87 and SSE (SDM vol 1 13.4, "XSAVE Area"): AVX and what follows it. While
/// guests run it is in the CPU's registers, which Umbra itself does not touch.
pub struct ExtendedState {
    /// XCR0 bits that guests can set; none where there is no XSAVE.
    components: u64,
    /// Where the area is.
    area: u64,
}

/// x87 and SSE, which each world switch saves.
const LEGACY: u64 = 0b11;
/// Where MXCSR is in the area, and its value after reset.
const MXCSR: (u64, u32) = (24, 0x1f80);
/// Where XSTATE_BV is: the components that are not in their initial state.
const XSTATE_BV: u64 = 512;

impl ExtendedState {
    /// The state after reset. `components` are the XCR0 bits that the guest can set. None: there is no memory for it.
    pub fn new(components: u64) -> Option<Self> {
        let mut state = Self {
            components,
            area: 0,
        };
        if components & !LEGACY != 0 {
            set_xcr0(components);
            // CPUID 0Dh.0: EBX is the size of the area for what XCR0 has on.
            state.area = memory::take_own(cpuid(0xd, 0).ebx.into(), 4096)?;
            set_xcr0(1);
            // SAFETY: the area has just been taken for ever.
            unsafe { ((state.area + MXCSR.0) as *mut u32).write(MXCSR.1) };
        }
        Some(state)
    }

    /// The guest, which has the CPU, is reset: every component is in its initial state (SDM vol 3A table 9-1, "IA-32 and Intel 64 Processor
    /// States Following Power-up, Reset, or INIT").
    pub fn reset(&mut self) {
        if self.area != 0 {
            // SAFETY: the field is in this object's area.
            unsafe { ((self.area + XSTATE_BV) as *mut u64).write(0) };
        }
        self.restore(1);
    }

    /// Takes it out of the CPU.
    pub fn save(&mut self) {
        if self.area != 0 {
            set_xcr0(self.components);
            let wanted = self.components & !LEGACY;
            // SAFETY: XCR0 has these components on; the area is this object's, aligned, and as large as CPUID says.
            unsafe {
                asm!("xsave64 [{}]", in(reg) self.area, in("eax") wanted as u32, in("edx") (wanted >> 32) as u32,
                    options(nostack));
            }
        }
    }

    /// Puts it into the CPU, with XCR0 as the guest has it.
    pub fn restore(&mut self, xcr0: u64) {
        if self.area != 0 {
            set_xcr0(self.components);
            let wanted = self.components & !LEGACY;
            // SAFETY: as in `save`; what is there was saved, or is the state after reset.
            unsafe {
                asm!("xrstor64 [{}]", in(reg) self.area, in("eax") wanted as u32, in("edx") (wanted >> 32) as u32,
                    options(nostack));
            }
        }
        if self.components != 0 {
            set_xcr0(xcr0);
        }
    }
}

/// Loads XCR0 on a CPU that has it, with a value that it takes.
fn set_xcr0(value: u64) {
    // SAFETY: ring 0 with CR4.OSXSAVE set; a valid value changes no register contents.
    unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack));
    }
}

/// The virtualization that this CPU has, by its vendor's name for it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    /// AMD-V.
    Svm,
    /// Intel VT-x.
    Vmx,
}

/// Finds out which of the two this CPU has.
///
/// # Errors
/// A sentence that says that it has neither.
pub fn vendor() -> Result<Vendor, String> {
    let id = CpuId::new();
    if id
        .get_extended_processor_and_feature_identifiers()
        .is_some_and(|e| e.has_svm())
    {
        return Ok(Vendor::Svm);
    }
    if id.get_feature_info().is_some_and(|f| f.has_vmx()) {
        return Ok(Vendor::Vmx);
    }
    let vendor = id
        .get_vendor_info()
        .map_or(String::new(), |v| v.as_str().into());
    Err(alloc::format!(
        "this CPU ({vendor}) has neither Intel VT-x (VMX) nor AMD-V (SVM), or the firmware or the outer hypervisor hides it"
    ))
}

/// Seconds since 1970 by the host's real-time clock (UTC).
pub fn unix_time() -> u64 {
    let read = |index: u8| {
        // SAFETY: ring 0; the CMOS ports are nobody else's.
        unsafe {
            x86::io::outb(0x70, index);
            x86::io::inb(0x71)
        }
    };
    let mut patience = 100_000;
    while read(0x0a) & 0x80 != 0 && patience > 0 {
        patience -= 1;
    }
    let b = read(0x0b);
    let number = |v: u8| {
        u64::from(if b & 4 != 0 {
            v
        } else {
            (v >> 4) * 10 + (v & 15)
        })
    };
    let [second, minute, hour, day, month, year] = [0, 2, 4, 7, 8, 9].map(|i| number(read(i)));
    let (month, day) = (month.clamp(1, 12), day.clamp(1, 31));
    // Days since 1970-03-01 by counting years from March, so that the leap day comes last.
    let y = 2000 + year - u64::from(month < 3);
    let m = (month + 9) % 12;
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    ((days * 24 + hour.min(23)) * 60 + minute.min(59)) * 60 + second.min(59)
}

/// Whether the first CPU is to run no guests if there are others: in QEMU's software emulation, FXRSTOR on any CPU writes to the first one's flags,
/// without a lock (`cpu_clear_ignne` in `target/i386/tcg/sysemu/fpu_helper.c`). Where that meets a #VMEXIT of the first CPU, nested paging stays on in
/// the host, and the machine resets.
pub fn first_only_serves() -> bool {
    is_qemu_tcg()
}

/// Whether the CPU is QEMU's software emulation, by its hypervisor signature.
pub fn is_qemu_tcg() -> bool {
    let leaf = cpuid(0x4000_0000, 0);
    cpuid(1, 0).ecx & 1 << 31 != 0
        && [leaf.ebx, leaf.ecx, leaf.edx]
            .map(u32::to_le_bytes)
            .concat()
            == b"TCGTCGTCGTCG"
}
