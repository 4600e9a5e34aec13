//! The fields of the virtual-machine control structure (SDM vol 3D appendix B, "Field Encoding in VMCS").
//!
//! A field's encoding tells its width and what it is part of (SDM vol 3C 25.11.2, "VMREAD, VMWRITE, and Encodings of VMCS
//! Fields"). 64-bit fields are accessed whole: the encodings of their high halves are not used.

use core::fmt;

/// The width of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Width {
    /// 16 bits.
    Word,
    /// 64 bits.
    Quad,
    /// 32 bits.
    Long,
    /// As wide as the processor: 64 bits.
    Natural,
}

/// What a field is part of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Area {
    /// Controls, which the hypervisor writes.
    Control,
    /// VM-exit information, which it can only read.
    ExitInformation,
    /// Guest state.
    Guest,
    /// Host state.
    Host,
}

/// A field, by its encoding.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Field(u16);

impl Field {
    /// The encoding that VMREAD and VMWRITE take.
    #[must_use]
    pub const fn encoding(self) -> u64 {
        self.0 as u64
    }

    /// Its width: bits 14:13 of the encoding.
    #[must_use]
    pub const fn width(self) -> Width {
        match self.0 >> 13 & 3 {
            0 => Width::Word,
            1 => Width::Quad,
            2 => Width::Long,
            _ => Width::Natural,
        }
    }

    /// What it is part of: bits 11:10 of the encoding.
    #[must_use]
    pub const fn area(self) -> Area {
        match self.0 >> 10 & 3 {
            0 => Area::Control,
            1 => Area::ExitInformation,
            2 => Area::Guest,
            _ => Area::Host,
        }
    }

    /// `value` as far as the field holds it.
    #[must_use]
    pub const fn truncate(self, value: u64) -> u64 {
        match self.width() {
            Width::Word => value as u16 as u64,
            Width::Long => value as u32 as u64,
            Width::Quad | Width::Natural => value,
        }
    }
}

macro_rules! fields {
    ($($name:ident = $encoding:expr),* $(,)?) => {
        #[allow(missing_docs)]
        impl Field {
            $(pub const $name: Field = Field($encoding);)*

            /// All fields that this crate knows.
            pub const ALL: &[Field] = &[$(Field::$name),*];

            /// The manual's name, in capitals.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Field::$name => stringify!($name),)*
                    _ => "unknown field",
                }
            }
        }
    };
}

fields! {
    // B.1, "16-Bit Fields".
    VPID = 0x0000,
    POSTED_INTERRUPT_VECTOR = 0x0002,
    GUEST_ES_SELECTOR = 0x0800,
    GUEST_CS_SELECTOR = 0x0802,
    GUEST_SS_SELECTOR = 0x0804,
    GUEST_DS_SELECTOR = 0x0806,
    GUEST_FS_SELECTOR = 0x0808,
    GUEST_GS_SELECTOR = 0x080a,
    GUEST_LDTR_SELECTOR = 0x080c,
    GUEST_TR_SELECTOR = 0x080e,
    HOST_ES_SELECTOR = 0x0c00,
    HOST_CS_SELECTOR = 0x0c02,
    HOST_SS_SELECTOR = 0x0c04,
    HOST_DS_SELECTOR = 0x0c06,
    HOST_FS_SELECTOR = 0x0c08,
    HOST_GS_SELECTOR = 0x0c0a,
    HOST_TR_SELECTOR = 0x0c0c,
    // B.2, "64-Bit Fields".
    IO_BITMAP_A = 0x2000,
    IO_BITMAP_B = 0x2002,
    MSR_BITMAP = 0x2004,
    VM_EXIT_MSR_STORE = 0x2006,
    VM_EXIT_MSR_LOAD = 0x2008,
    VM_ENTRY_MSR_LOAD = 0x200a,
    PML_ADDRESS = 0x200e,
    TSC_OFFSET = 0x2010,
    VIRTUAL_APIC = 0x2012,
    APIC_ACCESS = 0x2014,
    POSTED_INTERRUPT_DESCRIPTOR = 0x2016,
    VM_FUNCTION_CONTROLS = 0x2018,
    EPT_POINTER = 0x201a,
    EPT_POINTER_LIST = 0x2024,
    VMREAD_BITMAP = 0x2026,
    VMWRITE_BITMAP = 0x2028,
    VIRTUALIZATION_EXCEPTION = 0x202a,
    TSC_MULTIPLIER = 0x2032,
    GUEST_PHYSICAL_ADDRESS = 0x2400,
    VMCS_LINK_POINTER = 0x2800,
    GUEST_DEBUGCTL = 0x2802,
    GUEST_PAT = 0x2804,
    GUEST_EFER = 0x2806,
    GUEST_PDPTE0 = 0x280a,
    GUEST_PDPTE1 = 0x280c,
    GUEST_PDPTE2 = 0x280e,
    GUEST_PDPTE3 = 0x2810,
    HOST_PAT = 0x2c00,
    HOST_EFER = 0x2c02,
    // B.3, "32-Bit Fields".
    PIN_CONTROLS = 0x4000,
    PRIMARY_CONTROLS = 0x4002,
    EXCEPTION_BITMAP = 0x4004,
    PAGE_FAULT_ERROR_MASK = 0x4006,
    PAGE_FAULT_ERROR_MATCH = 0x4008,
    CR3_TARGET_COUNT = 0x400a,
    EXIT_CONTROLS = 0x400c,
    VM_EXIT_MSR_STORE_COUNT = 0x400e,
    VM_EXIT_MSR_LOAD_COUNT = 0x4010,
    ENTRY_CONTROLS = 0x4012,
    VM_ENTRY_MSR_LOAD_COUNT = 0x4014,
    ENTRY_INTERRUPTION_INFO = 0x4016,
    ENTRY_EXCEPTION_ERROR = 0x4018,
    ENTRY_INSTRUCTION_LENGTH = 0x401a,
    TPR_THRESHOLD = 0x401c,
    SECONDARY_CONTROLS = 0x401e,
    INSTRUCTION_ERROR = 0x4400,
    EXIT_REASON = 0x4402,
    EXIT_INTERRUPTION_INFO = 0x4404,
    EXIT_INTERRUPTION_ERROR = 0x4406,
    IDT_VECTORING_INFO = 0x4408,
    IDT_VECTORING_ERROR = 0x440a,
    EXIT_INSTRUCTION_LENGTH = 0x440c,
    EXIT_INSTRUCTION_INFO = 0x440e,
    GUEST_ES_LIMIT = 0x4800,
    GUEST_CS_LIMIT = 0x4802,
    GUEST_SS_LIMIT = 0x4804,
    GUEST_DS_LIMIT = 0x4806,
    GUEST_FS_LIMIT = 0x4808,
    GUEST_GS_LIMIT = 0x480a,
    GUEST_LDTR_LIMIT = 0x480c,
    GUEST_TR_LIMIT = 0x480e,
    GUEST_GDTR_LIMIT = 0x4810,
    GUEST_IDTR_LIMIT = 0x4812,
    GUEST_ES_ACCESS_RIGHTS = 0x4814,
    GUEST_CS_ACCESS_RIGHTS = 0x4816,
    GUEST_SS_ACCESS_RIGHTS = 0x4818,
    GUEST_DS_ACCESS_RIGHTS = 0x481a,
    GUEST_FS_ACCESS_RIGHTS = 0x481c,
    GUEST_GS_ACCESS_RIGHTS = 0x481e,
    GUEST_LDTR_ACCESS_RIGHTS = 0x4820,
    GUEST_TR_ACCESS_RIGHTS = 0x4822,
    GUEST_INTERRUPTIBILITY = 0x4824,
    GUEST_ACTIVITY = 0x4826,
    GUEST_SYSENTER_CS = 0x482a,
    PREEMPTION_TIMER = 0x482e,
    HOST_SYSENTER_CS = 0x4c00,
    // B.4, "Natural-Width Fields".
    CR0_MASK = 0x6000,
    CR4_MASK = 0x6002,
    CR0_READ_SHADOW = 0x6004,
    CR4_READ_SHADOW = 0x6006,
    EXIT_QUALIFICATION = 0x6400,
    GUEST_LINEAR_ADDRESS = 0x640a,
    GUEST_CR0 = 0x6800,
    GUEST_CR3 = 0x6802,
    GUEST_CR4 = 0x6804,
    GUEST_ES_BASE = 0x6806,
    GUEST_CS_BASE = 0x6808,
    GUEST_SS_BASE = 0x680a,
    GUEST_DS_BASE = 0x680c,
    GUEST_FS_BASE = 0x680e,
    GUEST_GS_BASE = 0x6810,
    GUEST_LDTR_BASE = 0x6812,
    GUEST_TR_BASE = 0x6814,
    GUEST_GDTR_BASE = 0x6816,
    GUEST_IDTR_BASE = 0x6818,
    GUEST_DR7 = 0x681a,
    GUEST_RSP = 0x681c,
    GUEST_RIP = 0x681e,
    GUEST_RFLAGS = 0x6820,
    GUEST_PENDING_DEBUG = 0x6822,
    GUEST_SYSENTER_ESP = 0x6824,
    GUEST_SYSENTER_EIP = 0x6826,
    HOST_CR0 = 0x6c00,
    HOST_CR3 = 0x6c02,
    HOST_CR4 = 0x6c04,
    HOST_FS_BASE = 0x6c06,
    HOST_GS_BASE = 0x6c08,
    HOST_TR_BASE = 0x6c0a,
    HOST_GDTR_BASE = 0x6c0c,
    HOST_IDTR_BASE = 0x6c0e,
    HOST_SYSENTER_ESP = 0x6c10,
    HOST_SYSENTER_EIP = 0x6c12,
    HOST_RSP = 0x6c14,
    HOST_RIP = 0x6c16,
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The guest-state fields of the segment register that the manual's order gives `index` (ES, CS, SS, DS, FS, GS, LDTR, TR): its
/// selector, base, limit and access rights. The encodings count up by two in that order.
#[must_use]
pub const fn segment_fields(index: usize) -> [Field; 4] {
    let n = 2 * index as u16;
    [
        Field(Field::GUEST_ES_SELECTOR.0 + n),
        Field(Field::GUEST_ES_BASE.0 + n),
        Field(Field::GUEST_ES_LIMIT.0 + n),
        Field(Field::GUEST_ES_ACCESS_RIGHTS.0 + n),
    ]
}
