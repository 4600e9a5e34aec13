//! A virtual CPU's registers as gdb has them, and how it is told of them.
//!
//! The first are those of gdb's own descriptions of x86-64 (its features/i386/64bit-core.xml and 64bit-sse.xml), as the crate gdbstub_arch has
//! them. Behind them are the bases of FS and GS and the system registers, eight bytes each, in a feature of our own.
//!
//! `rip` is the linear address of the next instruction, so that breakpoints and the disassembler work where CS has a base. The offset in CS
//! is `ip`.

use alloc::vec::Vec;
use gdbstub::arch::Arch;
use gdbstub_arch::x86::reg::X86_64CoreRegs;
use hv_core::debug::{Registers, SYSTEM};
use hv_core::regs::SegReg;

/// What gdb's first registers take.
const CORE: usize = 0x218;
/// gdb's order of the general registers, by their numbers in encoding.
const ORDER: [usize; 16] = [0, 3, 1, 2, 6, 7, 5, 4, 8, 9, 10, 11, 12, 13, 14, 15];
/// Registers behind [`SYSTEM`], and those before it.
const FIRST: usize = 2;
const LAST: usize = 2 + 2 * TABLES.len() + HIDDEN.len();
/// How many there are of eight bytes.
const EXTRA: usize = FIRST + SYSTEM.len() + LAST;
/// Tables with a base and a limit.
const TABLES: [SegReg; 2] = [SegReg::Gdtr, SegReg::Idtr];
/// Segments whose hidden base is shown.
const HIDDEN: [SegReg; 4] = [SegReg::Cs, SegReg::Ss, SegReg::Tr, SegReg::Ldtr];

/// Names a feature's registers of eight bytes.
macro_rules! quads {
    ($($name:literal),*) => {
        concat!($("<reg name=\"", $name, "\" bitsize=\"64\" type=\"uint64\" group=\"system\"/>",)*)
    };
}

/// Names registers of gdb's core.
macro_rules! core {
    ($type:literal, $bits:literal, $($name:literal),*) => {
        concat!($("<reg name=\"", $name, "\" bitsize=\"", $bits, "\" type=\"", $type, "\"/>",)*)
    };
}

/// What gdb is told of the registers.
const DESCRIPTION: &str = concat!(
    "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target version=\"1.0\">",
    "<architecture>i386:x86-64</architecture>",
    "<feature name=\"org.gnu.gdb.i386.core\">",
    "<flags id=\"x64_eflags\" size=\"4\">",
    "<field name=\"\" start=\"22\" end=\"31\"/><field name=\"ID\" start=\"21\" end=\"21\"/>",
    "<field name=\"VIP\" start=\"20\" end=\"20\"/><field name=\"VIF\" start=\"19\" end=\"19\"/>",
    "<field name=\"AC\" start=\"18\" end=\"18\"/><field name=\"VM\" start=\"17\" end=\"17\"/>",
    "<field name=\"RF\" start=\"16\" end=\"16\"/><field name=\"NT\" start=\"14\" end=\"14\"/>",
    "<field name=\"IOPL\" start=\"12\" end=\"13\"/><field name=\"OF\" start=\"11\" end=\"11\"/>",
    "<field name=\"DF\" start=\"10\" end=\"10\"/><field name=\"IF\" start=\"9\" end=\"9\"/>",
    "<field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"SF\" start=\"7\" end=\"7\"/>",
    "<field name=\"ZF\" start=\"6\" end=\"6\"/><field name=\"AF\" start=\"4\" end=\"4\"/>",
    "<field name=\"PF\" start=\"2\" end=\"2\"/><field name=\"\" start=\"1\" end=\"1\"/>",
    "<field name=\"CF\" start=\"0\" end=\"0\"/></flags>",
    core!("int64", "64", "rax", "rbx", "rcx", "rdx", "rsi", "rdi"),
    core!("data_ptr", "64", "rbp", "rsp"),
    core!(
        "int64", "64", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"
    ),
    core!("code_ptr", "64", "rip"),
    core!("x64_eflags", "32", "eflags"),
    core!("int32", "32", "cs", "ss", "ds", "es", "fs", "gs"),
    core!(
        "i387_ext", "80", "st0", "st1", "st2", "st3", "st4", "st5", "st6", "st7"
    ),
    core!(
        "int", "32", "fctrl", "fstat", "ftag", "fiseg", "fioff", "foseg", "fooff", "fop"
    ),
    "</feature><feature name=\"org.gnu.gdb.i386.sse\">",
    "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/>",
    "<vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>",
    "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/>",
    "<vector id=\"v8i16\" type=\"int16\" count=\"8\"/>",
    "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/>",
    "<vector id=\"v2i64\" type=\"int64\" count=\"2\"/>",
    "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>",
    "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>",
    "<field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>",
    "<field name=\"uint128\" type=\"uint128\"/></union>",
    core!(
        "vec128", "128", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8",
        "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15"
    ),
    core!("int", "32", "mxcsr"),
    "</feature><feature name=\"org.gnu.gdb.i386.segments\">",
    core!("int", "64", "fs_base", "gs_base"),
    "</feature><feature name=\"org.umbra.system\">",
    quads!(
        "cr0",
        "cr2",
        "cr3",
        "cr4",
        "efer",
        "dr0",
        "dr1",
        "dr2",
        "dr3",
        "dr6",
        "dr7",
        "pat",
        "star",
        "lstar",
        "cstar",
        "sfmask",
        "k_gs_base",
        "sysenter_esp",
        "sysenter_eip",
        "cr8",
        "ip",
        "gdtr_base",
        "gdtr_limit",
        "idtr_base",
        "idtr_limit",
        "cs_base",
        "ss_base",
        "tr_base",
        "ldtr_base"
    ),
    "</feature></target>"
);

/// x86-64 with its system registers.
#[derive(Debug)]
pub enum X64 {}

impl Arch for X64 {
    type Usize = u64;
    type Registers = GdbRegisters;
    type RegId = ();
    type BreakpointKind = usize;

    fn target_description_xml() -> Option<&'static str> {
        Some(DESCRIPTION)
    }
}

/// The registers as gdb has them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GdbRegisters {
    core: X86_64CoreRegs,
    extra: [u64; EXTRA],
}

impl gdbstub::arch::Registers for GdbRegisters {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        self.core.rip
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        self.core.gdb_serialize(&mut write_byte);
        let extra = self.extra.iter().flat_map(|value| value.to_le_bytes());
        extra.for_each(|byte| write_byte(Some(byte)));
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let (core, extra) = bytes.split_at_checked(CORE).ok_or(())?;
        if extra.len() != 8 * EXTRA {
            return Err(());
        }
        self.core.gdb_deserialize(core)?;
        for (value, bytes) in self.extra.iter_mut().zip(extra.chunks_exact(8)) {
            *value = u64::from_le_bytes(bytes.try_into().map_err(|_| ())?);
        }
        Ok(())
    }
}

impl GdbRegisters {
    /// `r` as gdb has it.
    #[must_use]
    pub fn of(r: &Registers) -> Self {
        let mut core = X86_64CoreRegs::default();
        for (value, n) in core.regs.iter_mut().zip(ORDER) {
            *value = r.gprs.regs[n];
        }
        core.rip = r.pc();
        core.eflags = r.rflags as u32;
        let selector = |seg| u32::from(r.segment(seg).selector);
        let segments = &mut core.segments;
        (segments.cs, segments.ss, segments.ds) = (
            selector(SegReg::Cs),
            selector(SegReg::Ss),
            selector(SegReg::Ds),
        );
        (segments.es, segments.fs, segments.gs) = (
            selector(SegReg::Es),
            selector(SegReg::Fs),
            selector(SegReg::Gs),
        );
        for (n, st) in core.st.iter_mut().enumerate() {
            *st = r.fx.st(n);
        }
        core.fpu.fctrl = r.fx.control().into();
        core.fpu.fstat = r.fx.status().into();
        core.fpu.ftag = full_tags(r).into();
        core.fpu.fioff = r.fx.instruction_pointer() as u32;
        core.fpu.fooff = r.fx.data_pointer() as u32;
        core.fpu.fop = r.fx.opcode().into();
        for (n, xmm) in core.xmm.iter_mut().enumerate() {
            *xmm = u128::from_le_bytes(r.fx.xmm(n));
        }
        core.mxcsr = r.fx.mxcsr();
        let base = |seg| r.segment(seg).base;
        let mut extra = Vec::with_capacity(EXTRA);
        extra.extend([base(SegReg::Fs), base(SegReg::Gs)]);
        extra.extend(r.system);
        extra.extend([r.cr8, r.rip]);
        for table in TABLES {
            extra.extend([base(table), r.segment(table).limit.into()]);
        }
        extra.extend(HIDDEN.map(base));
        let mut all = Self {
            core,
            extra: [0; EXTRA],
        };
        for (slot, value) in all.extra.iter_mut().zip(extra) {
            *slot = value;
        }
        all
    }

    /// Changes in `r` what has been changed here since it was made of `r`.
    pub fn change(&self, r: &mut Registers) {
        let old = Self::of(r);
        for (value, n) in self.core.regs.iter().zip(ORDER) {
            r.gprs.regs[n] = *value;
        }
        r.rflags ^= u64::from(old.core.eflags ^ self.core.eflags);
        for (seg, new, was) in [
            (SegReg::Cs, self.core.segments.cs, old.core.segments.cs),
            (SegReg::Ss, self.core.segments.ss, old.core.segments.ss),
            (SegReg::Ds, self.core.segments.ds, old.core.segments.ds),
            (SegReg::Es, self.core.segments.es, old.core.segments.es),
            (SegReg::Fs, self.core.segments.fs, old.core.segments.fs),
            (SegReg::Gs, self.core.segments.gs, old.core.segments.gs),
        ] {
            if new != was {
                r.segments[seg as usize].selector = new as u16;
            }
        }
        let [fs, gs] = [SegReg::Fs, SegReg::Gs].map(|seg| seg as usize);
        let [new_fs, new_gs, ..] = self.extra;
        (r.segments[fs].base, r.segments[gs].base) = (new_fs, new_gs);
        let mut rest = self.extra.iter().skip(FIRST);
        for (value, new) in r.system.iter_mut().zip(&mut rest) {
            *value = *new;
        }
        if let Some(&cr8) = self.extra.get(FIRST + SYSTEM.len()) {
            r.cr8 = cr8;
        }
        let base = r.code_base();
        if self.core.rip != old.core.rip {
            r.rip = self.core.rip.wrapping_sub(base);
        } else if let Some(&ip) = self.extra.get(FIRST + SYSTEM.len() + 1) {
            r.rip = ip;
        }
        if self.core.fpu != old.core.fpu {
            r.fx.set_control(self.core.fpu.fctrl as u16);
            r.fx.set_status(self.core.fpu.fstat as u16);
            r.fx.set_tags(abridged(self.core.fpu.ftag as u16));
        }
        for (n, st) in self.core.st.iter().enumerate() {
            r.fx.set_st(n, *st);
        }
        for (n, xmm) in self.core.xmm.iter().enumerate() {
            r.fx.set_xmm(n, xmm.to_le_bytes());
        }
        r.fx.set_mxcsr(self.core.mxcsr);
    }
}

/// The tag word in full (SDM vol 1 8.1.7, "x87 FPU Tag Word"): two bits for each register of the FPU.
fn full_tags(r: &Registers) -> u16 {
    const VALID: u16 = 0;
    const ZERO: u16 = 1;
    const SPECIAL: u16 = 2;
    const EMPTY: u16 = 3;
    let tag = |n: usize| {
        if r.fx.tags() >> n & 1 == 0 {
            return EMPTY;
        }
        let value = r.fx.st(n.wrapping_sub(r.fx.top()) & 7);
        let [significand @ .., low, high] = value;
        let exponent = u16::from_le_bytes([low, high]) & 0x7fff;
        match (exponent, u64::from_le_bytes(significand)) {
            (0, 0) => ZERO,
            (1..=0x7ffe, 0x8000_0000_0000_0000..) => VALID,
            _ => SPECIAL,
        }
    };
    (0..8).fold(0, |word, n| word | tag(n) << (2 * n))
}

/// A bit for each register that is not empty.
fn abridged(tags: u16) -> u8 {
    (0..8).fold(0, |byte, n| byte | u8::from(tags >> (2 * n) & 3 != 3) << n)
}
