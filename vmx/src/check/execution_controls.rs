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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{Case, Table, long_mode, pae, restricted};

    fn secondary(bits: Secondary) -> impl FnOnce(&mut Case) {
        move |c| c.raise_secondary(bits)
    }

    fn settings_that_the_cpu_does_not_allow_are_refused() -> Table {
        Table::default()
            .broken(PIN_ALLOWED, long_mode, |c| {
                c.raise(F::PIN_CONTROLS, 1u64 << 8)
            })
            .broken(PIN_ALLOWED, long_mode, |c| {
                c.clear(F::PIN_CONTROLS, 1u64 << 1)
            })
            .broken(PRIMARY_ALLOWED, long_mode, |c| {
                c.raise(F::PRIMARY_CONTROLS, 1u64 << 0);
            })
            .broken(PRIMARY_ALLOWED, long_mode, |c| {
                c.clear(F::PRIMARY_CONTROLS, 1u64 << 1);
            })
            .broken(SECONDARY_ALLOWED, long_mode, |c| {
                c.raise(F::SECONDARY_CONTROLS, 1u64 << 31);
            })
            .kept(restricted, |c| {
                // Without their activation nobody reads them, nor what they use.
                c.clear(
                    F::PRIMARY_CONTROLS,
                    Primary::ACTIVATE_SECONDARY_CONTROLS.bits(),
                );
                c.set(F::SECONDARY_CONTROLS, !0);
            })
    }

    fn pages_must_be_aligned_and_within_physical_addresses() -> Table {
        let pages = [
            (IO_BITMAPS, F::IO_BITMAP_A, Secondary::empty()),
            (IO_BITMAPS, F::IO_BITMAP_B, Secondary::empty()),
            (MSR_BITMAP, F::MSR_BITMAP, Secondary::empty()),
            (VIRTUAL_APIC, F::VIRTUAL_APIC, Secondary::empty()),
            (
                APIC_ACCESS,
                F::APIC_ACCESS,
                Secondary::VIRTUALIZE_APIC_ACCESSES,
            ),
            (PML_ADDRESS, F::PML_ADDRESS, Secondary::ENABLE_PML),
            (
                EPTP_LIST,
                F::EPT_POINTER_LIST,
                Secondary::ENABLE_VM_FUNCTIONS,
            ),
            (SHADOW_BITMAPS, F::VMREAD_BITMAP, Secondary::VMCS_SHADOWING),
            (SHADOW_BITMAPS, F::VMWRITE_BITMAP, Secondary::VMCS_SHADOWING),
            (
                VE_INFORMATION,
                F::VIRTUALIZATION_EXCEPTION,
                Secondary::EPT_VIOLATION_VE,
            ),
        ];
        let with = |field, control, address| {
            move |c: &mut Case| {
                c.raise_secondary(control);
                c.set(F::VM_FUNCTION_CONTROLS, EPTP_SWITCHING_FUNCTION);
                c.set(F::VMREAD_BITMAP, 0x1000);
                c.set(F::VMWRITE_BITMAP, 0x1000);
                c.set(field, address);
            }
        };
        let mut table = Table::default();
        for (rule, field, control) in pages {
            for address in [1, 0x800, 0x1_0800, 1 << 39, 1 << 63] {
                table = table.broken(rule, long_mode, with(field, control, address));
            }
            table = table.kept(long_mode, with(field, control, (1 << 39) - 0x1000));
        }
        table
    }

    fn pointers_have_32_bits_on_cpus_that_say_so() -> Table {
        let at = |address| {
            move |c: &mut Case| {
                c.capabilities.basic |= 1 << 48;
                c.set(F::MSR_BITMAP, address);
            }
        };
        Table::default()
            .broken(MSR_BITMAP, long_mode, at(1 << 32))
            .kept(long_mode, at(0xffff_f000))
    }

    fn controls_need_those_that_they_build_upon() -> Table {
        Table::default()
            .broken(CR3_TARGETS, long_mode, |c| c.set(F::CR3_TARGET_COUNT, 5))
            .kept(long_mode, |c| c.set(F::CR3_TARGET_COUNT, 4))
            .broken(VIRTUAL_NMIS, long_mode, |c| {
                c.clear(F::PIN_CONTROLS, Pin::NMI_EXITING.bits());
            })
            .broken(NMI_WINDOW, long_mode, |c| {
                c.clear(F::PIN_CONTROLS, Pin::VIRTUAL_NMIS.bits());
                c.raise(F::PRIMARY_CONTROLS, Primary::NMI_WINDOW_EXITING.bits());
            })
            .kept(long_mode, |c| {
                c.raise(F::PRIMARY_CONTROLS, Primary::NMI_WINDOW_EXITING.bits());
            })
            .broken(VPID, long_mode, |c| c.set(F::VPID, 0))
            .broken(TSC_MULTIPLIER, long_mode, |c| {
                c.raise_secondary(Secondary::USE_TSC_SCALING);
                c.set(F::TSC_MULTIPLIER, 0);
            })
            .broken(NEEDS_EPT, long_mode, |c| {
                c.clear_secondary(Secondary::ENABLE_EPT);
            })
            .broken(NEEDS_EPT, restricted, |c| {
                c.clear_secondary(Secondary::ENABLE_EPT);
                c.raise_secondary(Secondary::MODE_BASED_EXECUTE);
            })
            .broken(NEEDS_EPT, restricted, |c| {
                c.clear_secondary(Secondary::ENABLE_EPT);
                c.raise_secondary(Secondary::ENABLE_PML);
            })
            .kept(restricted, |c| c.clear_secondary(Secondary::ENABLE_EPT))
            .broken(VM_FUNCTIONS, long_mode, |c| {
                c.raise_secondary(Secondary::ENABLE_VM_FUNCTIONS);
                c.set(F::VM_FUNCTION_CONTROLS, 2);
            })
            .broken(EPTP_SWITCHING, restricted, |c| {
                c.clear_secondary(Secondary::ENABLE_EPT);
                c.raise_secondary(Secondary::ENABLE_VM_FUNCTIONS);
                c.set(F::VM_FUNCTION_CONTROLS, EPTP_SWITCHING_FUNCTION);
            })
            .kept(long_mode, |c| {
                c.raise_secondary(Secondary::ENABLE_VM_FUNCTIONS);
                c.set(F::VM_FUNCTION_CONTROLS, 0);
            })
    }

    fn the_virtual_apic_needs_its_parts() -> Table {
        let without_shadow = |bits| {
            move |c: &mut Case| {
                c.clear(F::PRIMARY_CONTROLS, Primary::USE_TPR_SHADOW.bits());
                c.raise_secondary(bits);
            }
        };
        Table::default()
            .broken(TPR_THRESHOLD, long_mode, |c| c.set(F::TPR_THRESHOLD, 0x10))
            .kept(long_mode, |c| c.set(F::TPR_THRESHOLD, 0xf))
            .kept(long_mode, |c| {
                c.raise_secondary(Secondary::VIRTUAL_INTERRUPT_DELIVERY);
                c.set(F::TPR_THRESHOLD, 0x10);
            })
            .broken(
                APIC_WITHOUT_TPR_SHADOW,
                long_mode,
                without_shadow(Secondary::VIRTUALIZE_X2APIC),
            )
            .broken(
                APIC_WITHOUT_TPR_SHADOW,
                long_mode,
                without_shadow(Secondary::APIC_REGISTER_VIRTUALIZATION),
            )
            .broken(
                APIC_WITHOUT_TPR_SHADOW,
                long_mode,
                without_shadow(Secondary::VIRTUAL_INTERRUPT_DELIVERY),
            )
            .kept(long_mode, without_shadow(Secondary::empty()))
            .kept(long_mode, secondary(Secondary::VIRTUALIZE_X2APIC))
            .broken(X2APIC, long_mode, |c| {
                c.raise_secondary(
                    Secondary::VIRTUALIZE_X2APIC | Secondary::VIRTUALIZE_APIC_ACCESSES,
                );
                c.set(F::APIC_ACCESS, 0xfee0_0000);
            })
            .broken(INTERRUPT_DELIVERY, long_mode, |c| {
                c.raise_secondary(Secondary::VIRTUAL_INTERRUPT_DELIVERY);
                c.clear(F::PIN_CONTROLS, Pin::EXTERNAL_INTERRUPT_EXITING.bits());
            })
    }

    fn posted(c: &mut Case) {
        c.raise(F::PIN_CONTROLS, Pin::POSTED_INTERRUPTS.bits());
        c.raise_secondary(Secondary::VIRTUAL_INTERRUPT_DELIVERY);
        c.raise(F::EXIT_CONTROLS, Exit::ACKNOWLEDGE_INTERRUPT.bits());
        c.set(F::POSTED_INTERRUPT_VECTOR, 0xff);
        c.set(F::POSTED_INTERRUPT_DESCRIPTOR, 0x1040);
    }

    fn posted_interrupts_need_their_parts() -> Table {
        Table::default()
            .kept(pae, posted)
            .broken(POSTED_DELIVERY, pae, |c| {
                posted(c);
                c.clear_secondary(Secondary::VIRTUAL_INTERRUPT_DELIVERY);
            })
            .broken(POSTED_ACKNOWLEDGE, pae, |c| {
                posted(c);
                c.clear(F::EXIT_CONTROLS, Exit::ACKNOWLEDGE_INTERRUPT.bits());
            })
            .broken(POSTED_VECTOR, pae, |c| {
                posted(c);
                c.set(F::POSTED_INTERRUPT_VECTOR, 0x100);
            })
            .broken(POSTED_DESCRIPTOR, pae, |c| {
                posted(c);
                c.set(F::POSTED_INTERRUPT_DESCRIPTOR, 0x1020);
            })
            .broken(POSTED_DESCRIPTOR, pae, |c| {
                posted(c);
                c.set(F::POSTED_INTERRUPT_DESCRIPTOR, 1 << 39);
            })
    }

    fn the_ept_pointer_must_be_what_the_cpu_reports() -> Table {
        let pointer = |value| move |c: &mut Case| c.set(F::EPT_POINTER, value);
        let on = |value, capabilities| {
            move |c: &mut Case| {
                c.set(F::EPT_POINTER, value);
                c.capabilities.ept_vpid = capabilities;
            }
        };
        let mut table = Table::default()
            // The CPU of the baseline has uncacheable tables too.
            .kept(long_mode, pointer(0x18))
            .broken(EPT_MEMORY_TYPE, long_mode, on(0x18, ept::WALK_LENGTH_4))
            .broken(EPT_MEMORY_TYPE, long_mode, on(0x1e, ept::WALK_LENGTH_4))
            .broken(EPT_WALK_LENGTH, long_mode, on(0x1e, ept::WRITE_BACK))
            .broken(EPT_WALK_LENGTH, long_mode, pointer(0x26))
            .kept(long_mode, on(0x26, ept::WRITE_BACK | ept::WALK_LENGTH_5))
            .kept(long_mode, pointer(0x5e))
            .broken(
                EPT_ACCESSED_DIRTY,
                long_mode,
                on(0x5e, ept::WRITE_BACK | ept::WALK_LENGTH_4),
            )
            .kept(
                long_mode,
                on(
                    0x9e,
                    ept::WRITE_BACK | ept::WALK_LENGTH_4 | ept::SUPERVISOR_SHADOW_STACK,
                ),
            );
        for memory_type in [1, 2, 3, 4, 5, 7] {
            table = table.broken(EPT_MEMORY_TYPE, long_mode, pointer(0x18 | memory_type));
        }
        for levels in [1, 2, 3, 6, 7, 8] {
            table = table.broken(EPT_WALK_LENGTH, long_mode, pointer((levels - 1) << 3 | 6));
        }
        for bit in [7, 8, 11, 39, 63] {
            table = table.broken(EPT_RESERVED, long_mode, pointer(0x1e | 1 << bit));
        }
        table
    }

    fn the_tpr_threshold_must_not_exceed_the_virtual_task_priority() -> Table {
        let judge = |change: &dyn Fn(&mut Case), vtpr| {
            let mut case = long_mode();
            case.set(F::TPR_THRESHOLD, 5);
            change(&mut case);
            crate::check::check_tpr_threshold(&|f| case.read(f), &case.capabilities, vtpr)
        };
        assert_eq!(judge(&|_| {}, 0x50), Ok(()));
        for bits in [
            Secondary::VIRTUALIZE_APIC_ACCESSES,
            Secondary::VIRTUAL_INTERRUPT_DELIVERY,
        ] {
            assert_eq!(judge(&|c| c.raise_secondary(bits), 0), Ok(()));
        }
        let without = |c: &mut Case| c.clear(F::PRIMARY_CONTROLS, Primary::USE_TPR_SHADOW.bits());
        assert_eq!(judge(&without, 0), Ok(()));
        Table::default().found(TPR_SHADOW, judge(&|_| {}, 0x4f))
    }

    #[test]
    fn each_rule_is_found_broken() {
        Table::cover(
            &[
                settings_that_the_cpu_does_not_allow_are_refused,
                pages_must_be_aligned_and_within_physical_addresses,
                pointers_have_32_bits_on_cpus_that_say_so,
                controls_need_those_that_they_build_upon,
                the_virtual_apic_needs_its_parts,
                posted_interrupts_need_their_parts,
                the_ept_pointer_must_be_what_the_cpu_reports,
                the_tpr_threshold_must_not_exceed_the_virtual_task_priority,
            ],
            RULES,
        );
    }
}
