//! What both vendors' CPUs have in common, and which vendor's this is.

use alloc::string::String;
use hv_core::cpuid::CpuidResult;
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

/// Turns XSAVE on for Umbra, so that XCR0 exists. False: the CPU does not have it.
pub fn enable_xsave() -> bool {
    let has = CpuId::new()
        .get_feature_info()
        .is_some_and(|f| f.has_xsave());
    if has {
        // SAFETY: the CPU has XSAVE; enabling it changes nothing until XSETBV.
        unsafe { cr4_write(cr4() | Cr4::CR4_ENABLE_OS_XSAVE) };
    }
    has
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
