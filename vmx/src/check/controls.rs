//! The controls.

use super::{Checked, Checker};
use crate::capabilities::ept;
use crate::controls::{Entry, Exit, Pin, Primary, Secondary};
use crate::event::{self, ERROR, VALID, has_error_code, kind};
use crate::vmcs::Field;
use hv_core::event::vector;

const EXECUTION: &str = "SDM vol 3C 27.2.1.1, \"VM-Execution Control Fields\"";
const EXIT: &str = "SDM vol 3C 27.2.1.2, \"VM-Exit Control Fields\"";
const ENTRY: &str = "SDM vol 3C 27.2.1.3, \"VM-Entry Control Fields\"";

const PE: u64 = 1;

pub fn check(c: &Checker<'_>) -> Checked {
    execution(c)?;
    paging(c)?;
    exit(c)?;
    entry(c)?;
    injection(c)
}

fn execution(c: &Checker<'_>) -> Checked {
    use Field as F;
    let must = |holds, rule, fields: &[Field]| c.must(EXECUTION, holds, rule, fields);
    let caps = c.capabilities;
    must(
        caps.pin.takes(c.pin.bits()),
        "The pin-based controls must be settings that the CPU allows",
        &[F::PIN_CONTROLS],
    )?;
    must(
        caps.primary.takes(c.primary.bits()),
        "The primary processor-based controls must be settings that the CPU allows",
        &[F::PRIMARY_CONTROLS],
    )?;
    must(
        !c.primary.contains(Primary::ACTIVATE_SECONDARY_CONTROLS)
            || caps.secondary.takes(c.secondary.bits()),
        "The secondary processor-based controls must be settings that the CPU allows",
        &[F::SECONDARY_CONTROLS],
    )?;
    must(
        c.get(F::CR3_TARGET_COUNT) <= 4,
        "There are at most four CR3-target values",
        &[F::CR3_TARGET_COUNT],
    )?;
    let page = |field| c.is_address(c.get(field), 4096);
    must(
        !c.primary.contains(Primary::USE_IO_BITMAPS)
            || page(F::IO_BITMAP_A) && page(F::IO_BITMAP_B),
        "The I/O bitmaps must be pages with physical addresses",
        &[F::IO_BITMAP_A, F::IO_BITMAP_B],
    )?;
    must(
        !c.primary.contains(Primary::USE_MSR_BITMAPS) || page(F::MSR_BITMAP),
        "The MSR bitmap must be a page with a physical address",
        &[F::MSR_BITMAP],
    )?;
    let tpr_shadow = c.primary.contains(Primary::USE_TPR_SHADOW);
    must(
        !tpr_shadow || page(F::VIRTUAL_APIC),
        "The virtual-APIC page must be a page with a physical address",
        &[F::VIRTUAL_APIC],
    )?;
    must(
        !tpr_shadow || c.get(F::TPR_THRESHOLD) < 16,
        "Bits 31:4 of the TPR threshold must be 0",
        &[F::TPR_THRESHOLD],
    )?;
    let apic = Secondary::VIRTUALIZE_X2APIC
        | Secondary::APIC_REGISTER_VIRTUALIZATION
        | Secondary::VIRTUAL_INTERRUPT_DELIVERY;
    must(
        tpr_shadow || !c.secondary.intersects(apic),
        "APIC virtualization needs the TPR shadow",
        &[F::PRIMARY_CONTROLS, F::SECONDARY_CONTROLS],
    )?;
    must(
        c.pin.contains(Pin::NMI_EXITING) || !c.pin.contains(Pin::VIRTUAL_NMIS),
        "Virtual NMIs need NMI exiting",
        &[F::PIN_CONTROLS],
    )?;
    must(
        c.pin.contains(Pin::VIRTUAL_NMIS) || !c.primary.contains(Primary::NMI_WINDOW_EXITING),
        "NMI-window exiting needs virtual NMIs",
        &[F::PIN_CONTROLS, F::PRIMARY_CONTROLS],
    )?;
    must(
        !c.secondary
            .contains(Secondary::VIRTUALIZE_X2APIC | Secondary::VIRTUALIZE_APIC_ACCESSES),
        "The x2APIC mode and APIC accesses cannot be virtualized at once",
        &[F::SECONDARY_CONTROLS],
    )?;
    must(
        c.pin.contains(Pin::EXTERNAL_INTERRUPT_EXITING)
            || !c.secondary.contains(Secondary::VIRTUAL_INTERRUPT_DELIVERY),
        "Virtual-interrupt delivery needs external-interrupt exiting",
        &[F::PIN_CONTROLS, F::SECONDARY_CONTROLS],
    )
}

fn paging(c: &Checker<'_>) -> Checked {
    use Field as F;
    let must = |holds, rule, fields: &[Field]| c.must(EXECUTION, holds, rule, fields);
    must(
        !c.secondary.contains(Secondary::ENABLE_VPID) || c.get(F::VPID) != 0,
        "VPID 0 is the host's",
        &[F::VPID, F::SECONDARY_CONTROLS],
    )?;
    let has_ept = c.secondary.contains(Secondary::ENABLE_EPT);
    must(
        has_ept || !c.unrestricted_guest(),
        "An unrestricted guest needs EPT",
        &[F::SECONDARY_CONTROLS],
    )?;
    if !has_ept {
        return Ok(());
    }
    let eptp = c.get(F::EPT_POINTER);
    let supported = |bit| c.capabilities.ept_vpid & bit != 0;
    must(
        match eptp & 7 {
            0 => supported(1 << 8),
            6 => supported(ept::WRITE_BACK),
            _ => false,
        },
        "The EPT memory type must be one that the CPU supports",
        &[F::EPT_POINTER],
    )?;
    must(
        eptp >> 3 & 7 == 3,
        "The EPT walk length must be four levels",
        &[F::EPT_POINTER],
    )?;
    must(
        eptp & 1 << 6 == 0 || supported(1 << 21),
        "Accessed and dirty flags for EPT must be supported",
        &[F::EPT_POINTER],
    )?;
    must(
        eptp & 0xf80 == 0 && c.is_address(eptp & !0xfff, 4096),
        "Reserved bits of the EPT pointer must be 0",
        &[F::EPT_POINTER],
    )
}

fn area(c: &Checker<'_>, count: Field, address: Field) -> bool {
    let (n, at) = (c.get(count), c.get(address));
    n == 0 || c.is_address(at, 16) && c.is_address(at.wrapping_add(16 * n - 1), 1)
}

fn exit(c: &Checker<'_>) -> Checked {
    use Field as F;
    let must = |holds, rule, fields: &[Field]| c.must(EXIT, holds, rule, fields);
    must(
        c.capabilities.exit.takes(c.exit.bits()),
        "The VM-exit controls must be settings that the CPU allows",
        &[F::EXIT_CONTROLS],
    )?;
    must(
        c.pin.contains(Pin::PREEMPTION_TIMER) || !c.exit.contains(Exit::SAVE_PREEMPTION_TIMER),
        "Only an active preemption timer can be saved",
        &[F::PIN_CONTROLS, F::EXIT_CONTROLS],
    )?;
    must(
        area(c, F::VM_EXIT_MSR_STORE_COUNT, F::VM_EXIT_MSR_STORE),
        "The VM-exit MSR-store area must have a physical address, aligned to 16",
        &[F::VM_EXIT_MSR_STORE_COUNT, F::VM_EXIT_MSR_STORE],
    )?;
    must(
        area(c, F::VM_EXIT_MSR_LOAD_COUNT, F::VM_EXIT_MSR_LOAD),
        "The VM-exit MSR-load area must have a physical address, aligned to 16",
        &[F::VM_EXIT_MSR_LOAD_COUNT, F::VM_EXIT_MSR_LOAD],
    )
}

fn entry(c: &Checker<'_>) -> Checked {
    use Field as F;
    let must = |holds, rule, fields: &[Field]| c.must(ENTRY, holds, rule, fields);
    must(
        c.capabilities.entry.takes(c.entry.bits()),
        "The VM-entry controls must be settings that the CPU allows",
        &[F::ENTRY_CONTROLS],
    )?;
    must(
        area(c, F::VM_ENTRY_MSR_LOAD_COUNT, F::VM_ENTRY_MSR_LOAD),
        "The VM-entry MSR-load area must have a physical address, aligned to 16",
        &[F::VM_ENTRY_MSR_LOAD_COUNT, F::VM_ENTRY_MSR_LOAD],
    )?;
    must(
        !c.entry
            .intersects(Entry::ENTRY_TO_SMM | Entry::DEACTIVATE_DUAL_MONITOR),
        "Entries that concern system-management mode are for SMM only",
        &[F::ENTRY_CONTROLS],
    )
}

fn injection(c: &Checker<'_>) -> Checked {
    use Field as F;
    const INFO: Field = Field::ENTRY_INTERRUPTION_INFO;
    let must = |holds, rule, fields: &[Field]| c.must(ENTRY, holds, rule, fields);
    let info = c.get(INFO) as u32;
    if info & VALID == 0 {
        return Ok(());
    }
    let (v, type_) = (info as u8, event::type_of(info));
    must(
        !matches!(type_, 1 | 7),
        "The interruption type must not be a reserved one",
        &[INFO],
    )?;
    must(
        type_ != kind::NMI || v == vector::NMI,
        "An NMI has vector 2",
        &[INFO],
    )?;
    must(
        type_ != kind::HARDWARE_EXCEPTION || v < 32,
        "A hardware exception has a vector below 32",
        &[INFO],
    )?;
    let protected = !c.unrestricted_guest() || c.get(F::GUEST_CR0) & PE != 0;
    let delivers = type_ == kind::HARDWARE_EXCEPTION && protected && has_error_code(v);
    must(
        (info & ERROR != 0) == delivers,
        "An error code goes with those exceptions that have one, in protected mode, and with nothing else",
        &[INFO, F::GUEST_CR0],
    )?;
    must(
        info & 0x7fff_f000 == 0,
        "Reserved bits of the interruption information must be 0",
        &[INFO],
    )?;
    must(
        info & ERROR == 0 || c.get(F::ENTRY_EXCEPTION_ERROR) >> 16 == 0,
        "Bits 31:16 of the exception error code must be 0",
        &[INFO, F::ENTRY_EXCEPTION_ERROR],
    )?;
    let may_be_zero = c.capabilities.misc >> 30 & 1;
    let length = c.get(F::ENTRY_INSTRUCTION_LENGTH);
    must(
        !matches!(type_, 4..=6) || (1 - may_be_zero..=15).contains(&length),
        "A software event has the length of its instruction, 1 to 15",
        &[INFO, F::ENTRY_INSTRUCTION_LENGTH],
    )
}
