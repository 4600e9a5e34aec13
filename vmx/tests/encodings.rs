//! Field encodings and control bits, against tables that do not come from this crate: the `x86` crate's constants, and the
//! field indices in SDM vol 3D appendix B, "Field Encoding in VMCS", counted by hand.

use std::collections::BTreeMap;
use vmx::controls::{Entry, Exit, Pin, Primary, Secondary};
use vmx::vmcs::{Area, Field as F, Width, segment_fields};
use x86::vmx::vmcs::{control, guest, host, ro};

/// The fields as the `x86` crate has them.
const ORACLE: &[(F, u32)] = &[
    (F::VPID, control::VPID),
    (
        F::POSTED_INTERRUPT_VECTOR,
        control::POSTED_INTERRUPT_NOTIFICATION_VECTOR,
    ),
    (F::GUEST_ES_SELECTOR, guest::ES_SELECTOR),
    (F::GUEST_CS_SELECTOR, guest::CS_SELECTOR),
    (F::GUEST_SS_SELECTOR, guest::SS_SELECTOR),
    (F::GUEST_DS_SELECTOR, guest::DS_SELECTOR),
    (F::GUEST_FS_SELECTOR, guest::FS_SELECTOR),
    (F::GUEST_GS_SELECTOR, guest::GS_SELECTOR),
    (F::GUEST_LDTR_SELECTOR, guest::LDTR_SELECTOR),
    (F::GUEST_TR_SELECTOR, guest::TR_SELECTOR),
    (F::HOST_ES_SELECTOR, host::ES_SELECTOR),
    (F::HOST_CS_SELECTOR, host::CS_SELECTOR),
    (F::HOST_SS_SELECTOR, host::SS_SELECTOR),
    (F::HOST_DS_SELECTOR, host::DS_SELECTOR),
    (F::HOST_FS_SELECTOR, host::FS_SELECTOR),
    (F::HOST_GS_SELECTOR, host::GS_SELECTOR),
    (F::HOST_TR_SELECTOR, host::TR_SELECTOR),
    (F::IO_BITMAP_A, control::IO_BITMAP_A_ADDR_FULL),
    (F::IO_BITMAP_B, control::IO_BITMAP_B_ADDR_FULL),
    (F::MSR_BITMAP, control::MSR_BITMAPS_ADDR_FULL),
    (F::VM_EXIT_MSR_STORE, control::VMEXIT_MSR_STORE_ADDR_FULL),
    (F::VM_EXIT_MSR_LOAD, control::VMEXIT_MSR_LOAD_ADDR_FULL),
    (F::VM_ENTRY_MSR_LOAD, control::VMENTRY_MSR_LOAD_ADDR_FULL),
    (F::PML_ADDRESS, control::PML_ADDR_FULL),
    (F::TSC_OFFSET, control::TSC_OFFSET_FULL),
    (F::VIRTUAL_APIC, control::VIRT_APIC_ADDR_FULL),
    (F::APIC_ACCESS, control::APIC_ACCESS_ADDR_FULL),
    (
        F::POSTED_INTERRUPT_DESCRIPTOR,
        control::POSTED_INTERRUPT_DESC_ADDR_FULL,
    ),
    (F::VM_FUNCTION_CONTROLS, control::VM_FUNCTION_CONTROLS_FULL),
    (F::EPT_POINTER, control::EPTP_FULL),
    (F::EPT_POINTER_LIST, control::EPTP_LIST_ADDR_FULL),
    (F::VMREAD_BITMAP, control::VMREAD_BITMAP_ADDR_FULL),
    (F::VMWRITE_BITMAP, control::VMWRITE_BITMAP_ADDR_FULL),
    (
        F::VIRTUALIZATION_EXCEPTION,
        control::VIRT_EXCEPTION_INFO_ADDR_FULL,
    ),
    (F::TSC_MULTIPLIER, control::TSC_MULTIPLIER_FULL),
    (F::GUEST_PHYSICAL_ADDRESS, ro::GUEST_PHYSICAL_ADDR_FULL),
    (F::VMCS_LINK_POINTER, guest::LINK_PTR_FULL),
    (F::GUEST_DEBUGCTL, guest::IA32_DEBUGCTL_FULL),
    (F::GUEST_PAT, guest::IA32_PAT_FULL),
    (F::GUEST_EFER, guest::IA32_EFER_FULL),
    (F::GUEST_PDPTE0, guest::PDPTE0_FULL),
    (F::GUEST_PDPTE1, guest::PDPTE1_FULL),
    (F::GUEST_PDPTE2, guest::PDPTE2_FULL),
    (F::GUEST_PDPTE3, guest::PDPTE3_FULL),
    (F::HOST_PAT, host::IA32_PAT_FULL),
    (F::HOST_EFER, host::IA32_EFER_FULL),
    (F::PIN_CONTROLS, control::PINBASED_EXEC_CONTROLS),
    (
        F::PRIMARY_CONTROLS,
        control::PRIMARY_PROCBASED_EXEC_CONTROLS,
    ),
    (F::EXCEPTION_BITMAP, control::EXCEPTION_BITMAP),
    (F::PAGE_FAULT_ERROR_MASK, control::PAGE_FAULT_ERR_CODE_MASK),
    (
        F::PAGE_FAULT_ERROR_MATCH,
        control::PAGE_FAULT_ERR_CODE_MATCH,
    ),
    (F::CR3_TARGET_COUNT, control::CR3_TARGET_COUNT),
    (F::EXIT_CONTROLS, control::VMEXIT_CONTROLS),
    (F::VM_EXIT_MSR_STORE_COUNT, control::VMEXIT_MSR_STORE_COUNT),
    (F::VM_EXIT_MSR_LOAD_COUNT, control::VMEXIT_MSR_LOAD_COUNT),
    (F::ENTRY_CONTROLS, control::VMENTRY_CONTROLS),
    (F::VM_ENTRY_MSR_LOAD_COUNT, control::VMENTRY_MSR_LOAD_COUNT),
    (
        F::ENTRY_INTERRUPTION_INFO,
        control::VMENTRY_INTERRUPTION_INFO_FIELD,
    ),
    (
        F::ENTRY_EXCEPTION_ERROR,
        control::VMENTRY_EXCEPTION_ERR_CODE,
    ),
    (
        F::ENTRY_INSTRUCTION_LENGTH,
        control::VMENTRY_INSTRUCTION_LEN,
    ),
    (F::TPR_THRESHOLD, control::TPR_THRESHOLD),
    (
        F::SECONDARY_CONTROLS,
        control::SECONDARY_PROCBASED_EXEC_CONTROLS,
    ),
    (F::INSTRUCTION_ERROR, ro::VM_INSTRUCTION_ERROR),
    (F::EXIT_REASON, ro::EXIT_REASON),
    (F::EXIT_INTERRUPTION_INFO, ro::VMEXIT_INTERRUPTION_INFO),
    (F::EXIT_INTERRUPTION_ERROR, ro::VMEXIT_INTERRUPTION_ERR_CODE),
    (F::IDT_VECTORING_INFO, ro::IDT_VECTORING_INFO),
    (F::IDT_VECTORING_ERROR, ro::IDT_VECTORING_ERR_CODE),
    (F::EXIT_INSTRUCTION_LENGTH, ro::VMEXIT_INSTRUCTION_LEN),
    (F::EXIT_INSTRUCTION_INFO, ro::VMEXIT_INSTRUCTION_INFO),
    (F::GUEST_ES_LIMIT, guest::ES_LIMIT),
    (F::GUEST_CS_LIMIT, guest::CS_LIMIT),
    (F::GUEST_SS_LIMIT, guest::SS_LIMIT),
    (F::GUEST_DS_LIMIT, guest::DS_LIMIT),
    (F::GUEST_FS_LIMIT, guest::FS_LIMIT),
    (F::GUEST_GS_LIMIT, guest::GS_LIMIT),
    (F::GUEST_LDTR_LIMIT, guest::LDTR_LIMIT),
    (F::GUEST_TR_LIMIT, guest::TR_LIMIT),
    (F::GUEST_GDTR_LIMIT, guest::GDTR_LIMIT),
    (F::GUEST_IDTR_LIMIT, guest::IDTR_LIMIT),
    (F::GUEST_ES_ACCESS_RIGHTS, guest::ES_ACCESS_RIGHTS),
    (F::GUEST_CS_ACCESS_RIGHTS, guest::CS_ACCESS_RIGHTS),
    (F::GUEST_SS_ACCESS_RIGHTS, guest::SS_ACCESS_RIGHTS),
    (F::GUEST_DS_ACCESS_RIGHTS, guest::DS_ACCESS_RIGHTS),
    (F::GUEST_FS_ACCESS_RIGHTS, guest::FS_ACCESS_RIGHTS),
    (F::GUEST_GS_ACCESS_RIGHTS, guest::GS_ACCESS_RIGHTS),
    (F::GUEST_LDTR_ACCESS_RIGHTS, guest::LDTR_ACCESS_RIGHTS),
    (F::GUEST_TR_ACCESS_RIGHTS, guest::TR_ACCESS_RIGHTS),
    (F::GUEST_INTERRUPTIBILITY, guest::INTERRUPTIBILITY_STATE),
    (F::GUEST_ACTIVITY, guest::ACTIVITY_STATE),
    (F::GUEST_SYSENTER_CS, guest::IA32_SYSENTER_CS),
    (F::PREEMPTION_TIMER, guest::VMX_PREEMPTION_TIMER_VALUE),
    (F::HOST_SYSENTER_CS, host::IA32_SYSENTER_CS),
    (F::CR0_MASK, control::CR0_GUEST_HOST_MASK),
    (F::CR4_MASK, control::CR4_GUEST_HOST_MASK),
    (F::CR0_READ_SHADOW, control::CR0_READ_SHADOW),
    (F::CR4_READ_SHADOW, control::CR4_READ_SHADOW),
    (F::EXIT_QUALIFICATION, ro::EXIT_QUALIFICATION),
    (F::GUEST_LINEAR_ADDRESS, ro::GUEST_LINEAR_ADDR),
    (F::GUEST_CR0, guest::CR0),
    (F::GUEST_CR3, guest::CR3),
    (F::GUEST_CR4, guest::CR4),
    (F::GUEST_ES_BASE, guest::ES_BASE),
    (F::GUEST_CS_BASE, guest::CS_BASE),
    (F::GUEST_SS_BASE, guest::SS_BASE),
    (F::GUEST_DS_BASE, guest::DS_BASE),
    (F::GUEST_FS_BASE, guest::FS_BASE),
    (F::GUEST_GS_BASE, guest::GS_BASE),
    (F::GUEST_LDTR_BASE, guest::LDTR_BASE),
    (F::GUEST_TR_BASE, guest::TR_BASE),
    (F::GUEST_GDTR_BASE, guest::GDTR_BASE),
    (F::GUEST_IDTR_BASE, guest::IDTR_BASE),
    (F::GUEST_DR7, guest::DR7),
    (F::GUEST_RSP, guest::RSP),
    (F::GUEST_RIP, guest::RIP),
    (F::GUEST_RFLAGS, guest::RFLAGS),
    (F::GUEST_PENDING_DEBUG, guest::PENDING_DBG_EXCEPTIONS),
    (F::GUEST_SYSENTER_ESP, guest::IA32_SYSENTER_ESP),
    (F::GUEST_SYSENTER_EIP, guest::IA32_SYSENTER_EIP),
    (F::HOST_CR0, host::CR0),
    (F::HOST_CR3, host::CR3),
    (F::HOST_CR4, host::CR4),
    (F::HOST_FS_BASE, host::FS_BASE),
    (F::HOST_GS_BASE, host::GS_BASE),
    (F::HOST_TR_BASE, host::TR_BASE),
    (F::HOST_GDTR_BASE, host::GDTR_BASE),
    (F::HOST_IDTR_BASE, host::IDTR_BASE),
    (F::HOST_SYSENTER_ESP, host::IA32_SYSENTER_ESP),
    (F::HOST_SYSENTER_EIP, host::IA32_SYSENTER_EIP),
    (F::HOST_RSP, host::RSP),
    (F::HOST_RIP, host::RIP),
];

/// The manual's tables: all fields of a width and an area in the order of their indices, "-" for those that this crate has no
/// name for.
const TABLES: &[(Width, Area, &str)] = &[
    (Width::Word, Area::Control, "VPID POSTED_INTERRUPT_VECTOR"),
    (
        Width::Word,
        Area::Guest,
        "GUEST_ES_SELECTOR GUEST_CS_SELECTOR GUEST_SS_SELECTOR GUEST_DS_SELECTOR GUEST_FS_SELECTOR GUEST_GS_SELECTOR \
         GUEST_LDTR_SELECTOR GUEST_TR_SELECTOR",
    ),
    (
        Width::Word,
        Area::Host,
        "HOST_ES_SELECTOR HOST_CS_SELECTOR HOST_SS_SELECTOR HOST_DS_SELECTOR HOST_FS_SELECTOR HOST_GS_SELECTOR \
         HOST_TR_SELECTOR",
    ),
    // The executive-VMCS pointer, the EOI-exit bitmaps, the XSS and ENCLS bitmaps and the sub-page table have no names.
    (
        Width::Quad,
        Area::Control,
        "IO_BITMAP_A IO_BITMAP_B MSR_BITMAP VM_EXIT_MSR_STORE VM_EXIT_MSR_LOAD VM_ENTRY_MSR_LOAD - PML_ADDRESS TSC_OFFSET \
         VIRTUAL_APIC APIC_ACCESS POSTED_INTERRUPT_DESCRIPTOR VM_FUNCTION_CONTROLS EPT_POINTER - - - - EPT_POINTER_LIST \
         VMREAD_BITMAP VMWRITE_BITMAP VIRTUALIZATION_EXCEPTION - - - TSC_MULTIPLIER",
    ),
    (Width::Quad, Area::ExitInformation, "GUEST_PHYSICAL_ADDRESS"),
    // Without IA32_PERF_GLOBAL_CTRL.
    (
        Width::Quad,
        Area::Guest,
        "VMCS_LINK_POINTER GUEST_DEBUGCTL GUEST_PAT GUEST_EFER - GUEST_PDPTE0 GUEST_PDPTE1 GUEST_PDPTE2 GUEST_PDPTE3",
    ),
    (Width::Quad, Area::Host, "HOST_PAT HOST_EFER"),
    (
        Width::Long,
        Area::Control,
        "PIN_CONTROLS PRIMARY_CONTROLS EXCEPTION_BITMAP PAGE_FAULT_ERROR_MASK PAGE_FAULT_ERROR_MATCH CR3_TARGET_COUNT \
         EXIT_CONTROLS VM_EXIT_MSR_STORE_COUNT VM_EXIT_MSR_LOAD_COUNT ENTRY_CONTROLS VM_ENTRY_MSR_LOAD_COUNT \
         ENTRY_INTERRUPTION_INFO ENTRY_EXCEPTION_ERROR ENTRY_INSTRUCTION_LENGTH TPR_THRESHOLD SECONDARY_CONTROLS",
    ),
    (
        Width::Long,
        Area::ExitInformation,
        "INSTRUCTION_ERROR EXIT_REASON EXIT_INTERRUPTION_INFO EXIT_INTERRUPTION_ERROR IDT_VECTORING_INFO \
         IDT_VECTORING_ERROR EXIT_INSTRUCTION_LENGTH EXIT_INSTRUCTION_INFO",
    ),
    // Without SMBASE, and the index that the manual leaves out.
    (
        Width::Long,
        Area::Guest,
        "GUEST_ES_LIMIT GUEST_CS_LIMIT GUEST_SS_LIMIT GUEST_DS_LIMIT GUEST_FS_LIMIT GUEST_GS_LIMIT GUEST_LDTR_LIMIT \
         GUEST_TR_LIMIT GUEST_GDTR_LIMIT GUEST_IDTR_LIMIT GUEST_ES_ACCESS_RIGHTS GUEST_CS_ACCESS_RIGHTS \
         GUEST_SS_ACCESS_RIGHTS GUEST_DS_ACCESS_RIGHTS GUEST_FS_ACCESS_RIGHTS GUEST_GS_ACCESS_RIGHTS \
         GUEST_LDTR_ACCESS_RIGHTS GUEST_TR_ACCESS_RIGHTS GUEST_INTERRUPTIBILITY GUEST_ACTIVITY - GUEST_SYSENTER_CS - \
         PREEMPTION_TIMER",
    ),
    (Width::Long, Area::Host, "HOST_SYSENTER_CS"),
    (
        Width::Natural,
        Area::Control,
        "CR0_MASK CR4_MASK CR0_READ_SHADOW CR4_READ_SHADOW",
    ),
    // Without the I/O RCX, RSI, RDI and RIP of exits by SMIs.
    (
        Width::Natural,
        Area::ExitInformation,
        "EXIT_QUALIFICATION - - - - GUEST_LINEAR_ADDRESS",
    ),
    (
        Width::Natural,
        Area::Guest,
        "GUEST_CR0 GUEST_CR3 GUEST_CR4 GUEST_ES_BASE GUEST_CS_BASE GUEST_SS_BASE GUEST_DS_BASE GUEST_FS_BASE GUEST_GS_BASE \
         GUEST_LDTR_BASE GUEST_TR_BASE GUEST_GDTR_BASE GUEST_IDTR_BASE GUEST_DR7 GUEST_RSP GUEST_RIP GUEST_RFLAGS \
         GUEST_PENDING_DEBUG GUEST_SYSENTER_ESP GUEST_SYSENTER_EIP",
    ),
    (
        Width::Natural,
        Area::Host,
        "HOST_CR0 HOST_CR3 HOST_CR4 HOST_FS_BASE HOST_GS_BASE HOST_TR_BASE HOST_GDTR_BASE HOST_IDTR_BASE HOST_SYSENTER_ESP \
         HOST_SYSENTER_EIP HOST_RSP HOST_RIP",
    ),
];

/// An encoding put together from its parts (SDM vol 3C 25.11.2, "VMREAD, VMWRITE, and Encodings of VMCS Fields").
fn encode(width: Width, area: Area, index: u64) -> u64 {
    let width = match width {
        Width::Word => 0,
        Width::Quad => 1,
        Width::Long => 2,
        Width::Natural => 3,
    };
    let area = match area {
        Area::Control => 0,
        Area::ExitInformation => 1,
        Area::Guest => 2,
        Area::Host => 3,
    };
    width << 13 | area << 10 | index << 1
}

#[test]
fn fields_have_the_encodings_of_the_x86_crate() {
    for &(field, encoding) in ORACLE {
        assert_eq!(field.encoding(), u64::from(encoding), "{field:?}");
    }
    for field in F::ALL {
        assert!(ORACLE.iter().any(|(f, _)| f == field), "{field:?}");
    }
}

#[test]
fn fields_stand_in_the_manuals_tables() {
    let by_name: BTreeMap<&str, F> = F::ALL.iter().map(|f| (f.name(), *f)).collect();
    assert_eq!(by_name.len(), F::ALL.len(), "a name is there twice");
    let mut found = 0;
    for &(width, area, names) in TABLES {
        for (index, name) in (0..).zip(names.split_whitespace()) {
            if name == "-" {
                continue;
            }
            let field = by_name[name];
            assert_eq!(field.encoding(), encode(width, area, index), "{name}");
            assert_eq!((field.width(), field.area()), (width, area), "{name}");
            found += 1;
        }
    }
    assert_eq!(found, F::ALL.len(), "a field is in no table");
}

#[test]
fn segment_fields_are_those_of_the_segment() {
    for (index, name) in ["ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"]
        .iter()
        .enumerate()
    {
        let parts = ["SELECTOR", "BASE", "LIMIT", "ACCESS_RIGHTS"];
        for (field, part) in segment_fields(index).iter().zip(parts) {
            assert_eq!(field.name(), format!("GUEST_{name}_{part}"));
        }
    }
}

#[test]
fn fields_hold_as_many_bits_as_their_width_says() {
    assert_eq!(F::VPID.truncate(!0), 0xffff);
    assert_eq!(F::EXIT_REASON.truncate(!0), 0xffff_ffff);
    assert_eq!(F::EPT_POINTER.truncate(!0), !0);
    assert_eq!(F::GUEST_RIP.truncate(!0), !0);
}

/// Asserts that each of our control bits is the `x86` crate's of the same meaning, and that none is missing here.
macro_rules! same_bits {
    ($ours:ident, $theirs:ident: $($name:ident = $their_name:ident)*) => {
        $(assert_eq!(
            $ours::$name.bits(),
            control::$theirs::$their_name.bits(),
            concat!(stringify!($ours), "::", stringify!($name))
        );)*
        let listed = [$(stringify!($name)),*];
        for (name, _) in $ours::all().iter_names() {
            assert!(listed.contains(&name), "{name}");
        }
    };
}

#[test]
fn pin_based_controls_have_the_bits_of_the_x86_crate() {
    same_bits! { Pin, PinbasedControls:
        EXTERNAL_INTERRUPT_EXITING = EXTERNAL_INTERRUPT_EXITING
        NMI_EXITING = NMI_EXITING
        VIRTUAL_NMIS = VIRTUAL_NMIS
        PREEMPTION_TIMER = VMX_PREEMPTION_TIMER
        POSTED_INTERRUPTS = POSTED_INTERRUPTS
    }
}

#[test]
fn primary_controls_have_the_bits_of_the_x86_crate() {
    same_bits! { Primary, PrimaryControls:
        INTERRUPT_WINDOW_EXITING = INTERRUPT_WINDOW_EXITING
        USE_TSC_OFFSETTING = USE_TSC_OFFSETTING
        HLT_EXITING = HLT_EXITING
        INVLPG_EXITING = INVLPG_EXITING
        MWAIT_EXITING = MWAIT_EXITING
        RDPMC_EXITING = RDPMC_EXITING
        RDTSC_EXITING = RDTSC_EXITING
        CR3_LOAD_EXITING = CR3_LOAD_EXITING
        CR3_STORE_EXITING = CR3_STORE_EXITING
        CR8_LOAD_EXITING = CR8_LOAD_EXITING
        CR8_STORE_EXITING = CR8_STORE_EXITING
        USE_TPR_SHADOW = USE_TPR_SHADOW
        NMI_WINDOW_EXITING = NMI_WINDOW_EXITING
        MOV_DR_EXITING = MOV_DR_EXITING
        UNCONDITIONAL_IO_EXITING = UNCOND_IO_EXITING
        USE_IO_BITMAPS = USE_IO_BITMAPS
        MONITOR_TRAP_FLAG = MONITOR_TRAP_FLAG
        USE_MSR_BITMAPS = USE_MSR_BITMAPS
        MONITOR_EXITING = MONITOR_EXITING
        PAUSE_EXITING = PAUSE_EXITING
        ACTIVATE_SECONDARY_CONTROLS = SECONDARY_CONTROLS
    }
}

#[test]
fn secondary_controls_have_the_bits_of_the_x86_crate() {
    same_bits! { Secondary, SecondaryControls:
        VIRTUALIZE_APIC_ACCESSES = VIRTUALIZE_APIC
        ENABLE_EPT = ENABLE_EPT
        DESCRIPTOR_TABLE_EXITING = DTABLE_EXITING
        ENABLE_RDTSCP = ENABLE_RDTSCP
        VIRTUALIZE_X2APIC = VIRTUALIZE_X2APIC
        ENABLE_VPID = ENABLE_VPID
        WBINVD_EXITING = WBINVD_EXITING
        UNRESTRICTED_GUEST = UNRESTRICTED_GUEST
        APIC_REGISTER_VIRTUALIZATION = VIRTUALIZE_APIC_REGISTER
        VIRTUAL_INTERRUPT_DELIVERY = VIRTUAL_INTERRUPT_DELIVERY
        PAUSE_LOOP_EXITING = PAUSE_LOOP_EXITING
        RDRAND_EXITING = RDRAND_EXITING
        ENABLE_INVPCID = ENABLE_INVPCID
        ENABLE_VM_FUNCTIONS = ENABLE_VM_FUNCTIONS
        VMCS_SHADOWING = VMCS_SHADOWING
        ENCLS_EXITING = ENCLS_EXITING
        RDSEED_EXITING = RDSEED_EXITING
        ENABLE_PML = ENABLE_PML
        EPT_VIOLATION_VE = EPT_VIOLATION_VE
        ENABLE_XSAVES = ENABLE_XSAVES_XRSTORS
        MODE_BASED_EXECUTE = MODE_BASED_EPT
        USE_TSC_SCALING = USE_TSC_SCALING
    }
}

#[test]
fn exit_controls_have_the_bits_of_the_x86_crate() {
    same_bits! { Exit, ExitControls:
        SAVE_DEBUG_CONTROLS = SAVE_DEBUG_CONTROLS
        HOST_ADDRESS_SPACE_SIZE = HOST_ADDRESS_SPACE_SIZE
        LOAD_PERF_GLOBAL_CTRL = LOAD_IA32_PERF_GLOBAL_CTRL
        ACKNOWLEDGE_INTERRUPT = ACK_INTERRUPT_ON_EXIT
        SAVE_PAT = SAVE_IA32_PAT
        LOAD_PAT = LOAD_IA32_PAT
        SAVE_EFER = SAVE_IA32_EFER
        LOAD_EFER = LOAD_IA32_EFER
        SAVE_PREEMPTION_TIMER = SAVE_VMX_PREEMPTION_TIMER
    }
}

#[test]
fn entry_controls_have_the_bits_of_the_x86_crate() {
    same_bits! { Entry, EntryControls:
        LOAD_DEBUG_CONTROLS = LOAD_DEBUG_CONTROLS
        IA32E_MODE_GUEST = IA32E_MODE_GUEST
        ENTRY_TO_SMM = ENTRY_TO_SMM
        DEACTIVATE_DUAL_MONITOR = DEACTIVATE_DUAL_MONITOR
        LOAD_PERF_GLOBAL_CTRL = LOAD_IA32_PERF_GLOBAL_CTRL
        LOAD_PAT = LOAD_IA32_PAT
        LOAD_EFER = LOAD_IA32_EFER
    }
}
