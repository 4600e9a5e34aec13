//! The registers of a virtual CPU, by the manuals' names.
// The manuals' bit names are their own documentation.
#![allow(missing_docs)]

use bitflags::bitflags;

/// The sixteen general-purpose registers in encoding order (RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct Gprs {
    /// The registers, by their number in ModRM with REX.
    pub regs: [u64; 16],
}

/// Register numbers within [`Gprs`].
pub mod gpr {
    pub const RAX: usize = 0;
    pub const RCX: usize = 1;
    pub const RDX: usize = 2;
    pub const RBX: usize = 3;
    pub const RSP: usize = 4;
    pub const RBP: usize = 5;
    pub const RSI: usize = 6;
    pub const RDI: usize = 7;
    pub const R8: usize = 8;
}

/// A segment register, in encoding order, and the four system segments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SegReg {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
    Ldtr = 6,
    Tr = 7,
    Gdtr = 8,
    Idtr = 9,
}

impl SegReg {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Es,
        Self::Cs,
        Self::Ss,
        Self::Ds,
        Self::Fs,
        Self::Gs,
        Self::Ldtr,
        Self::Tr,
        Self::Gdtr,
        Self::Idtr,
    ];
    /// Those that have a selector: the segment registers, LDTR and TR.
    pub const WITH_SELECTOR: [Self; 8] = [
        Self::Es,
        Self::Cs,
        Self::Ss,
        Self::Ds,
        Self::Fs,
        Self::Gs,
        Self::Ldtr,
        Self::Tr,
    ];
}

/// A segment register with its hidden part. For GDTR and IDTR only `base` and `limit` mean anything.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Segment {
    /// The visible selector.
    pub selector: u16,
    /// The hidden attributes.
    pub attr: SegAttr,
    /// The hidden limit, in bytes, granularity already applied.
    pub limit: u32,
    /// The hidden base.
    pub base: u64,
}

bitflags! {
    /// Segment attributes as in bits 55:52 and 47:40 of a descriptor, put together to 12 bits (APM vol 2 15.5, "VMRUN
    /// Instruction": the VMCB's format). `TYPE` is the low four bits.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SegAttr: u16 {
        /// Type bit 0: accessed.
        const ACCESSED = 1 << 0;
        /// Type bit 1: writable (data), readable (code).
        const RW = 1 << 1;
        /// Type bit 2: expand-down (data), conforming (code).
        const DC = 1 << 2;
        /// Type bit 3: code.
        const CODE = 1 << 3;
        /// S: code or data (not system).
        const S = 1 << 4;
        /// DPL, low bit.
        const DPL0 = 1 << 5;
        /// DPL, high bit.
        const DPL1 = 1 << 6;
        /// Present.
        const P = 1 << 7;
        /// Available to software.
        const AVL = 1 << 8;
        /// 64-bit code.
        const L = 1 << 9;
        /// Default operand size 32 (code), big (stack).
        const DB = 1 << 10;
        /// Granularity 4 KiB.
        const G = 1 << 11;
    }
}

impl SegAttr {
    /// The descriptor privilege level, 0 to 3.
    #[must_use]
    pub const fn dpl(self) -> u8 {
        ((self.bits() >> 5) & 3) as u8
    }
}

bitflags! {
    /// RFLAGS.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Rflags: u64 {
        const CF = 1 << 0;
        const ONE = 1 << 1;
        const PF = 1 << 2;
        const AF = 1 << 4;
        const ZF = 1 << 6;
        const SF = 1 << 7;
        const TF = 1 << 8;
        const IF = 1 << 9;
        const DF = 1 << 10;
        const OF = 1 << 11;
        const IOPL = 3 << 12;
        const NT = 1 << 14;
        const RF = 1 << 16;
        const VM = 1 << 17;
        const AC = 1 << 18;
        const VIF = 1 << 19;
        const VIP = 1 << 20;
        const ID = 1 << 21;
        const _ = !0;
    }

    /// CR0.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Cr0: u64 {
        const PE = 1 << 0;
        const MP = 1 << 1;
        const EM = 1 << 2;
        const TS = 1 << 3;
        const ET = 1 << 4;
        const NE = 1 << 5;
        const WP = 1 << 16;
        const AM = 1 << 18;
        const NW = 1 << 29;
        const CD = 1 << 30;
        const PG = 1 << 31;
        const _ = !0;
    }

    /// CR4.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Cr4: u64 {
        const VME = 1 << 0;
        const PVI = 1 << 1;
        const TSD = 1 << 2;
        const DE = 1 << 3;
        const PSE = 1 << 4;
        const PAE = 1 << 5;
        const MCE = 1 << 6;
        const PGE = 1 << 7;
        const PCE = 1 << 8;
        const OSFXSR = 1 << 9;
        const OSXMMEXCPT = 1 << 10;
        const UMIP = 1 << 11;
        const LA57 = 1 << 12;
        const VMXE = 1 << 13;
        const FSGSBASE = 1 << 16;
        const PCIDE = 1 << 17;
        const OSXSAVE = 1 << 18;
        const SMEP = 1 << 20;
        const SMAP = 1 << 21;
        const PKE = 1 << 22;
        const _ = !0;
    }

    /// EFER (MSR C000_0080h).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Efer: u64 {
        const SCE = 1 << 0;
        const LME = 1 << 8;
        const LMA = 1 << 10;
        const NXE = 1 << 11;
        const SVME = 1 << 12;
        const FFXSR = 1 << 14;
        const _ = !0;
    }
}

impl Rflags {
    /// The results of arithmetic (SDM vol 1 3.4.3.1, "Status Flags").
    pub const STATUS: Self = Self::CF
        .union(Self::PF)
        .union(Self::AF)
        .union(Self::ZF)
        .union(Self::SF)
        .union(Self::OF);
    /// All that a CPU can have set (SDM vol 1 3.4.3, "EFLAGS Register").
    pub const DEFINED: Self = Self::from_bits_retain(0x003f_7fd7);
}

/// A system register that a backend keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SysReg {
    Cr0,
    Cr2,
    Cr3,
    Cr4,
    Efer,
    Dr0,
    Dr1,
    Dr2,
    Dr3,
    Dr6,
    Dr7,
    Pat,
    Star,
    Lstar,
    Cstar,
    Sfmask,
    KernelGsBase,
    SysenterCs,
    SysenterEsp,
    SysenterEip,
    TscOffset,
    /// IA32_SPEC_CTRL.
    SpecCtrl,
}

impl SysReg {
    /// How many there are.
    pub const COUNT: usize = Self::SpecCtrl as usize + 1;
}
