//! SDM vol 3C 27.2.1.1, "VM-Execution Control Fields".

use super::{Checked, Vmcs, rules, within};
use crate::capabilities::ept;
use crate::controls::{Exit, Pin, Primary, Secondary};
use crate::formats::EptPointer;
use crate::vmcs::Field as F;

rules! { "SDM vol 3C 27.2.1.1, \"VM-Execution Control Fields\"":
    PIN_ALLOWED = "Pin-based controls must have settings that IA32_VMX_(TRUE_)PINBASED_CTLS allows.";
    PRIMARY_ALLOWED = "Primary processor-based controls must have settings that IA32_VMX_(TRUE_)PROCBASED_CTLS allows.";
    SECONDARY_ALLOWED = "Secondary processor-based controls must have settings that IA32_VMX_PROCBASED_CTLS2 allows.";
    CR3_TARGETS = "The CR3-target count must not exceed the CPU's.";
    IO_BITMAPS = "The I/O bitmaps must be pages within the physical-address width.";
    MSR_BITMAP = "The MSR bitmap must be a page within the physical-address width.";
    VIRTUAL_APIC = "The virtual-APIC page must be a page within the physical-address width.";
    TPR_THRESHOLD = "The TPR threshold must have four bits only, without virtual-interrupt delivery.";
    TPR_SHADOW = "The TPR threshold must not exceed the virtual task priority, with neither APIC accesses virtualized nor \
        virtual-interrupt delivery.";
    VIRTUAL_NMIS = "Virtual NMIs need NMI exiting.";
    NMI_WINDOW = "NMI-window exiting needs virtual NMIs.";
    APIC_ACCESS = "The APIC-access page must be a page within the physical-address width.";
    APIC_WITHOUT_TPR_SHADOW = "x2APIC mode, APIC registers and interrupt delivery can only be virtualized with a TPR shadow.";
    X2APIC = "x2APIC mode and APIC accesses cannot both be virtualized.";
    INTERRUPT_DELIVERY = "Virtual-interrupt delivery needs external-interrupt exiting.";
    POSTED_DELIVERY = "Posted interrupts need virtual-interrupt delivery.";
    POSTED_ACKNOWLEDGE = "Posted interrupts need the VM-exit control that acknowledges interrupts.";
    POSTED_VECTOR = "The posted-interrupt notification vector must be 0 to 255.";
    POSTED_DESCRIPTOR = "The posted-interrupt descriptor must be 64-byte aligned within the physical-address width.";
    VPID = "The VPID must not be 0.";
    EPT_MEMORY_TYPE = "The EPT pointer must have a memory type that IA32_VMX_EPT_VPID_CAP reports.";
    EPT_WALK_LENGTH = "The EPT pointer must have a page-walk length that IA32_VMX_EPT_VPID_CAP reports.";
    EPT_ACCESSED_DIRTY = "The EPT pointer may enable accessed and dirty flags only where IA32_VMX_EPT_VPID_CAP reports them.";
    EPT_RESERVED = "The EPT pointer's reserved bits must be 0, and those beyond the physical-address width.";
    NEEDS_EPT = "Unrestricted guest, mode-based execute control and page-modification logging need EPT.";
    PML_ADDRESS = "The page-modification log must be a page within the physical-address width.";
    VM_FUNCTIONS = "VM-function controls must be 0 but for EPTP switching.";
    EPTP_SWITCHING = "EPTP switching needs EPT.";
    EPTP_LIST = "The EPTP list must be a page within the physical-address width.";
    SHADOW_BITMAPS = "The VMREAD and VMWRITE bitmaps must be pages within the physical-address width.";
    VE_INFORMATION = "The virtualization-exception information must be a page within the physical-address width.";
    TSC_MULTIPLIER = "The TSC multiplier must not be 0.";
}

/// Bit 0 of the VM-function controls (SDM vol 3C 25.6.14, "VM-Function Controls").
const EPTP_SWITCHING_FUNCTION: u64 = 1 << 0;

pub(super) fn check(v: &Vmcs) -> Checked {
    allowed(v)?;
    let targets = v.get(F::CR3_TARGET_COUNT);
    v.require(
        targets <= u64::from(v.capabilities.cr3_targets()),
        CR3_TARGETS,
        &[F::CR3_TARGET_COUNT],
    )?;
    if v.primary.contains(Primary::USE_IO_BITMAPS) {
        v.require_page(IO_BITMAPS, &[F::IO_BITMAP_A, F::IO_BITMAP_B])?;
    }
    if v.primary.contains(Primary::USE_MSR_BITMAPS) {
        v.require_page(MSR_BITMAP, &[F::MSR_BITMAP])?;
    }
    apic(v)?;
    v.require(
        v.pin.contains(Pin::NMI_EXITING) || !v.pin.contains(Pin::VIRTUAL_NMIS),
        VIRTUAL_NMIS,
        &[F::PIN_CONTROLS],
    )?;
    v.require(
        v.pin.contains(Pin::VIRTUAL_NMIS) || !v.primary.contains(Primary::NMI_WINDOW_EXITING),
        NMI_WINDOW,
        &[F::PRIMARY_CONTROLS, F::PIN_CONTROLS],
    )?;
    posted_interrupts(v)?;
    if v.secondary.contains(Secondary::ENABLE_VPID) {
        v.require(v.get(F::VPID) != 0, VPID, &[F::VPID])?;
    }
    extended_page_tables(v)?;
    vm_functions(v)?;
    if v.secondary.contains(Secondary::VMCS_SHADOWING) {
        v.require_page(SHADOW_BITMAPS, &[F::VMREAD_BITMAP, F::VMWRITE_BITMAP])?;
    }
    if v.secondary.contains(Secondary::EPT_VIOLATION_VE) {
        v.require_page(VE_INFORMATION, &[F::VIRTUALIZATION_EXCEPTION])?;
    }
    if v.secondary.contains(Secondary::USE_TSC_SCALING) {
        v.require(
            v.get(F::TSC_MULTIPLIER) != 0,
            TSC_MULTIPLIER,
            &[F::TSC_MULTIPLIER],
        )?;
    }
    Ok(())
}

fn allowed(v: &Vmcs) -> Checked {
    let c = v.capabilities;
    v.require(c.pin.takes(v.pin.bits()), PIN_ALLOWED, &[F::PIN_CONTROLS])?;
    v.require(
        c.primary.takes(v.primary.bits()),
        PRIMARY_ALLOWED,
        &[F::PRIMARY_CONTROLS],
    )?;
    if v.primary.contains(Primary::ACTIVATE_SECONDARY_CONTROLS) {
        v.require(
            c.secondary.takes(v.secondary.bits()),
            SECONDARY_ALLOWED,
            &[F::SECONDARY_CONTROLS],
        )?;
    }
    Ok(())
}

fn apic(v: &Vmcs) -> Checked {
    let delivery = v.secondary.contains(Secondary::VIRTUAL_INTERRUPT_DELIVERY);
    if v.primary.contains(Primary::USE_TPR_SHADOW) {
        v.require_page(VIRTUAL_APIC, &[F::VIRTUAL_APIC])?;
        if !delivery {
            v.require(
                within(v.get(F::TPR_THRESHOLD), 4),
                TPR_THRESHOLD,
                &[F::TPR_THRESHOLD],
            )?;
        }
    } else {
        v.require(
            !v.secondary.intersects(
                Secondary::VIRTUALIZE_X2APIC
                    | Secondary::APIC_REGISTER_VIRTUALIZATION
                    | Secondary::VIRTUAL_INTERRUPT_DELIVERY,
            ),
            APIC_WITHOUT_TPR_SHADOW,
            &[F::SECONDARY_CONTROLS, F::PRIMARY_CONTROLS],
        )?;
    }
    if v.secondary.contains(Secondary::VIRTUALIZE_APIC_ACCESSES) {
        v.require_page(APIC_ACCESS, &[F::APIC_ACCESS])?;
        v.require(
            !v.secondary.contains(Secondary::VIRTUALIZE_X2APIC),
            X2APIC,
            &[F::SECONDARY_CONTROLS],
        )?;
    }
    v.require(
        !delivery || v.pin.contains(Pin::EXTERNAL_INTERRUPT_EXITING),
        INTERRUPT_DELIVERY,
        &[F::SECONDARY_CONTROLS, F::PIN_CONTROLS],
    )
}

/// The one rule about the contents of the virtual-APIC page.
pub(super) fn check_tpr_threshold(v: &Vmcs, vtpr: u8) -> Checked {
    let applies = v.primary.contains(Primary::USE_TPR_SHADOW)
        && !v.secondary.intersects(
            Secondary::VIRTUALIZE_APIC_ACCESSES | Secondary::VIRTUAL_INTERRUPT_DELIVERY,
        );
    v.require(
        !applies || v.get(F::TPR_THRESHOLD) & 0xf <= u64::from(vtpr >> 4),
        TPR_SHADOW,
        &[F::TPR_THRESHOLD],
    )
}

fn posted_interrupts(v: &Vmcs) -> Checked {
    if !v.pin.contains(Pin::POSTED_INTERRUPTS) {
        return Ok(());
    }
    v.require(
        v.secondary.contains(Secondary::VIRTUAL_INTERRUPT_DELIVERY),
        POSTED_DELIVERY,
        &[F::PIN_CONTROLS, F::SECONDARY_CONTROLS],
    )?;
    v.require(
        v.exit.contains(Exit::ACKNOWLEDGE_INTERRUPT),
        POSTED_ACKNOWLEDGE,
        &[F::PIN_CONTROLS, F::EXIT_CONTROLS],
    )?;
    v.require(
        within(v.get(F::POSTED_INTERRUPT_VECTOR), 8),
        POSTED_VECTOR,
        &[F::POSTED_INTERRUPT_VECTOR],
    )?;
    let descriptor = v.get(F::POSTED_INTERRUPT_DESCRIPTOR);
    v.require(
        descriptor & 0x3f == 0 && v.pointer(descriptor),
        POSTED_DESCRIPTOR,
        &[F::POSTED_INTERRUPT_DESCRIPTOR],
    )
}

fn extended_page_tables(v: &Vmcs) -> Checked {
    if v.secondary.contains(Secondary::ENABLE_EPT) {
        ept_pointer(v)?;
    } else {
        v.require(
            !v.secondary.intersects(
                Secondary::UNRESTRICTED_GUEST
                    | Secondary::MODE_BASED_EXECUTE
                    | Secondary::ENABLE_PML,
            ),
            NEEDS_EPT,
            &[F::SECONDARY_CONTROLS],
        )?;
    }
    if v.secondary.contains(Secondary::ENABLE_PML) {
        v.require_page(PML_ADDRESS, &[F::PML_ADDRESS])?;
    }
    Ok(())
}

fn ept_pointer(v: &Vmcs) -> Checked {
    const UNCACHEABLE: u64 = 0;
    const WRITE_BACK: u64 = 6;
    let field = [F::EPT_POINTER];
    let pointer = EptPointer::from_bits_retain(v.get(F::EPT_POINTER));
    let has = |capability| v.capabilities.ept_vpid & capability != 0;
    let memory_type = match (pointer & EptPointer::MEMORY_TYPE).bits() {
        UNCACHEABLE => has(ept::UNCACHEABLE),
        WRITE_BACK => has(ept::WRITE_BACK),
        _ => false,
    };
    v.require(memory_type, EPT_MEMORY_TYPE, &field)?;
    let walk = match ((pointer & EptPointer::WALK_LENGTH).bits() >> 3) + 1 {
        4 => has(ept::WALK_LENGTH_4),
        5 => has(ept::WALK_LENGTH_5),
        _ => false,
    };
    v.require(walk, EPT_WALK_LENGTH, &field)?;
    v.require(
        !pointer.contains(EptPointer::ACCESSED_DIRTY) || has(ept::ACCESSED_DIRTY),
        EPT_ACCESSED_DIRTY,
        &field,
    )?;
    let mut known = EptPointer::MEMORY_TYPE | EptPointer::WALK_LENGTH | EptPointer::ACCESSED_DIRTY;
    if has(ept::SUPERVISOR_SHADOW_STACK) {
        known |= EptPointer::SUPERVISOR_SHADOW_STACK;
    }
    let reserved = pointer.bits() & 0xfff & !known.bits();
    v.require(
        reserved == 0 && v.physical(pointer.bits()),
        EPT_RESERVED,
        &field,
    )
}

fn vm_functions(v: &Vmcs) -> Checked {
    if !v.secondary.contains(Secondary::ENABLE_VM_FUNCTIONS) {
        return Ok(());
    }
    let functions = v.get(F::VM_FUNCTION_CONTROLS);
    v.require(
        functions & !EPTP_SWITCHING_FUNCTION == 0,
        VM_FUNCTIONS,
        &[F::VM_FUNCTION_CONTROLS],
    )?;
    if functions & EPTP_SWITCHING_FUNCTION != 0 {
        v.require(
            v.secondary.contains(Secondary::ENABLE_EPT),
            EPTP_SWITCHING,
            &[F::VM_FUNCTION_CONTROLS, F::SECONDARY_CONTROLS],
        )?;
        v.require_page(EPTP_LIST, &[F::EPT_POINTER_LIST])?;
    }
    Ok(())
}
