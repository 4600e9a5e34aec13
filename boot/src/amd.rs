//! AMD-V on this CPU: whether it can do what Umbra needs, and turning it on.

use crate::host::{self, Confinement, SecondStage, Virtualization, cpuid};
use crate::memory;
use alloc::string::String;
use hv_core::Gpa;
use hv_core::machine::IDENTITY_MAP;
use hv_core::mmu::Backing;
use npt_shadow::Format;
use protocol::options::Paging;
use svm::asid::Asids;
use svm::{Features, Quirks, SvmVcpu};

/// VM_CR, and its bit that locks AMD-V off.
const VM_CR: u32 = 0xc001_0114;
const SVMDIS: u64 = 1 << 4;

/// AMD-V, turned on.
pub struct Amd {
    features: Features,
    second_stage: SecondStage,
    confinement: Confinement,
    asids: Asids,
}

/// Asks the CPU, which has AMD-V, for what Umbra needs, and turns it on.
///
/// # Errors
/// A sentence that says what is missing.
pub fn enable() -> Result<Amd, String> {
    // SAFETY: CPUs with SVM have VM_CR.
    if unsafe { x86::msr::rdmsr(VM_CR) } & SVMDIS != 0 {
        return Err("AMD-V is switched off by the firmware (VM_CR.SVMDIS); switch SVM on in the BIOS set-up".into());
    }
    let leaf = cpuid(0x8000_000a, 0);
    let bit = |n: u32| leaf.edx >> n & 1 != 0;
    let tcg = host::is_qemu_tcg();
    let mut features = Features {
        nested_paging: bit(0),
        next_rip: bit(3),
        flush_by_asid: bit(6),
        v_spec_ctrl: bit(20),
        asids: leaf.ebx,
        xsave: host::set_up_cr4(),
        quirks: Quirks {
            inject_virtual: tcg,
            unchecked_cr0: tcg,
            fatal_cr8: tcg,
            unguarded_xcr0: tcg,
            ..Quirks::default()
        },
    };
    turn_on()?;
    features.quirks.cr_reads_as_cr0 = svm::probe::cr_reads_as_cr0();
    features.quirks.invalid_cr3_fails_entry = svm::probe::invalid_cr3_fails_entry();
    features.quirks.stale_vectoring = svm::probe::vectoring_may_be_stale();
    features.quirks.stale_dr6 = svm::probe::dr6_may_be_stale();
    if features.quirks.cr_reads_as_cr0 {
        log::info!("AMD-V: reads of control registers leave a guest as reads of CR0");
    }
    if features.nested_paging && !svm::probe::nested_tables_hold_without_paging() {
        features.quirks.identity_map = Some(Gpa(IDENTITY_MAP));
        log::info!(
            "AMD-V: nested tables do not confine a guest without paging: it runs on an identity map"
        );
    }
    log::info!("AMD-V: {:?}", features.quirks);
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
    // CPUID 8000_0001h EDX.Page1GB.
    let gigabyte_pages = cpuid(0x8000_0001, 0).edx & 1 << 26 != 0;
    let second_stage = SecondStage {
        format: Format::LongMode,
        largest: if gigabyte_pages { 3 } else { 2 },
        identity_map: None,
    };
    let confinement = if svm::probe::task_switches_exit() {
        Confinement::Hardware
    } else if svm::probe::nested_tables_hold() {
        log::info!(
            "AMD-V: the intercept of task switches does nothing: 32-bit guests under shadow paging are fenced in by nested tables"
        );
        Confinement::Fence(second_stage)
    } else {
        Confinement::None
    };
    Ok(Amd {
        features,
        second_stage,
        confinement,
        asids: Asids::new(features.asids),
    })
}

/// Turns AMD-V on for a further CPU, which has the first one's features.
///
/// # Errors
/// A sentence that says what is missing.
pub fn enable_further() -> Result<(), String> {
    // SAFETY: CPUs with SVM have VM_CR.
    if unsafe { x86::msr::rdmsr(VM_CR) } & SVMDIS != 0 {
        return Err("AMD-V is switched off on it (VM_CR.SVMDIS)".into());
    }
    turn_on()
}

/// Turns AMD-V on for this CPU, which is not locked.
fn turn_on() -> Result<(), String> {
    clear_host_registers();
    let Some(save) = memory::take_own(4096, 4096) else {
        return Err("no memory for the host save area".into());
    };
    // SAFETY: the frame has just been taken for ever.
    svm::hw::enable(unsafe { &mut *(save as *mut [u8; 4096]) });
    Ok(())
}

/// Clears the registers that a guest can read by instructions which AMD-V cannot intercept, and which CPUID hides from it: RDPID reads
/// TSC_AUX, and XSAVES has what IA32_XSS names. The guest cannot write them.
fn clear_host_registers() {
    const IA32_XSS: u32 = 0xda0;
    const TSC_AUX: u32 = 0xc000_0103;
    let rdtscp = cpuid(0x8000_0001, 0).edx & 1 << 27 != 0;
    let rdpid = cpuid(7, 0).ecx & 1 << 22 != 0;
    let xsaves = cpuid(0xd, 1).eax & 1 << 3 != 0;
    for (msr, exists) in [(TSC_AUX, rdtscp || rdpid), (IA32_XSS, xsaves)] {
        if exists {
            // SAFETY: CPUID says that the register exists; Umbra uses neither.
            unsafe { x86::msr::wrmsr(msr, 0) };
        }
    }
}

impl Virtualization for Amd {
    type Cpu = SvmVcpu;

    fn vcpu(&mut self, paging: Paging) -> Result<SvmVcpu, String> {
        if matches!(self.confinement, Confinement::None) && paging.needs_shadow() {
            return Err("this CPU's AMD-V does not leave a guest for task switches and has no nested paging: shadow paging would not \
                        confine a guest"
                .into());
        }
        if !self.features.nested_paging && paging.needs_nested() {
            return Err("this CPU's AMD-V has no nested paging (NPT); use paging=shadow".into());
        }
        Ok(SvmVcpu::new(self.features, self.asids.give()))
    }

    fn second_stage(&mut self, _: Paging) -> Result<Option<SecondStage>, String> {
        if !self.features.nested_paging {
            return Ok(None);
        }
        let mut stage = self.second_stage;
        if self.features.quirks.identity_map.is_some() {
            stage.identity_map = Some(Backing::Ram {
                hpa: memory::identity_table().ok_or("no memory for the identity page table")?,
                // The CPU walks a guest's tables as if it wrote to them: APM vol 2 15.25.5, "Nested Table Walk".
                writable: true,
            });
        }
        Ok(Some(stage))
    }

    fn confinement(&self) -> Confinement {
        self.confinement
    }

    fn unguarded_components(&self) -> u64 {
        if !self.features.quirks.unguarded_xcr0 || !self.features.xsave {
            return 0;
        }
        let leaf = cpuid(0xd, 0);
        u64::from(leaf.edx) << 32 | u64::from(leaf.eax)
    }

    fn spare_vcpu(&mut self) -> Option<SvmVcpu> {
        Some(SvmVcpu::new(self.features, self.asids.give()))
    }
}
