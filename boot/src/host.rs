//! What the host's CPU can do, and what it lacks.

use crate::memory;
use alloc::string::String;
use hv_core::cpuid::CpuidResult;
use raw_cpuid::CpuId;
use svm::Features;
use x86::controlregs::{Cr4, cr4, cr4_write};

/// VM_CR, and its bit that locks AMD-V off.
const VM_CR: u32 = 0xc001_0114;
const SVMDIS: u64 = 1 << 4;

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

/// Whether the CPU has 1 GiB pages.
pub fn gigabyte_pages() -> bool {
    cpuid(0x8000_0001, 0).edx & 1 << 26 != 0
}

/// Whether the CPU is QEMU's software emulation, by its hypervisor signature.
fn is_qemu_tcg() -> bool {
    let leaf = cpuid(0x4000_0000, 0);
    cpuid(1, 0).ecx & 1 << 31 != 0
        && [leaf.ebx, leaf.ecx, leaf.edx]
            .map(u32::to_le_bytes)
            .concat()
            == b"TCGTCGTCGTCG"
}

/// Asks the CPU for AMD-V with what Umbra needs, and turns it on.
///
/// # Errors
/// A sentence that says what is missing.
pub fn enable_svm() -> Result<Features, String> {
    let id = CpuId::new();
    let vendor = id
        .get_vendor_info()
        .map_or(String::new(), |v| v.as_str().into());
    let extended = id.get_extended_processor_and_feature_identifiers();
    if !extended.as_ref().is_some_and(|e| e.has_svm()) {
        let intel = id.get_feature_info().is_some_and(|f| f.has_vmx());
        return Err(if intel {
            alloc::format!(
                "this CPU ({vendor}) has Intel VT-x, which Umbra does not support yet; it needs AMD-V"
            )
        } else {
            alloc::format!(
                "this CPU ({vendor}) has no AMD-V (SVM), or the firmware or the outer hypervisor hides it"
            )
        });
    }
    // SAFETY: CPUs with SVM have VM_CR.
    if unsafe { x86::msr::rdmsr(VM_CR) } & SVMDIS != 0 {
        return Err("AMD-V is switched off by the firmware (VM_CR.SVMDIS); switch SVM on in the BIOS set-up".into());
    }
    let leaf = cpuid(0x8000_000a, 0);
    let bit = |n: u32| leaf.edx >> n & 1 != 0;
    let mut features = Features {
        nested_paging: bit(0),
        next_rip: bit(3),
        flush_by_asid: bit(6),
        asids: leaf.ebx,
        xsave: false,
        inject_virtual: is_qemu_tcg(),
    };
    if !features.nested_paging {
        return Err(
            "this CPU's AMD-V has no nested paging (NPT), and shadow paging is not built yet"
                .into(),
        );
    }
    if features.asids < 2 {
        return Err("this CPU's AMD-V offers no address-space identifiers for guests".into());
    }
    if id.get_feature_info().is_some_and(|f| f.has_xsave()) {
        // SAFETY: the CPU has XSAVE; enabling it changes nothing until XSETBV.
        unsafe { cr4_write(cr4() | Cr4::CR4_ENABLE_OS_XSAVE) };
        features.xsave = true;
    }
    let Some(save) = memory::take_own(4096, 4096) else {
        return Err("no memory for the host save area".into());
    };
    // SAFETY: the frame has just been taken for ever.
    svm::hw::enable(unsafe { &mut *(save as *mut [u8; 4096]) });
    log::info!(
        "AMD-V: {} ASIDs, next-RIP {}, flush by ASID {}",
        features.asids,
        if features.next_rip {
            "saved"
        } else {
            "not saved"
        },
        if features.flush_by_asid { "yes" } else { "no" }
    );
    Ok(features)
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
