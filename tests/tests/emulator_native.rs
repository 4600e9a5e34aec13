//! The emulator against the processor this test runs on: random user-mode 64-bit instructions, with random registers, flags
//! and memory, are executed by both, and everything they leave behind is compared, except flags that the manuals leave
//! undefined.
//!
//! `EMULATOR_CASES` and `EMULATOR_SEED` in the environment make it run longer and elsewhere.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod native;

use hv_core::emulate::testing::{FakeCpu, RegionKind};
use hv_core::emulate::{EmuFault, StepKind, step};
use hv_core::event::vector;
use hv_core::regs::Rflags;
use hv_core::regs::gpr::{RBP, RCX, RDI, RSI, RSP};
use hv_core::testing::Random;
use iced_x86::code_asm::*;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use native::FLAGS;

/// The [`native`] context, and behind it the XMM registers.
const CONTEXT: u64 = 0x2000_0000;
/// The generated code.
const CODE: u64 = 0x2001_0000;
/// What memory operands are in.
const DATA: u64 = 0x2010_0000;
const DATA_LEN: usize = 0x4000;
/// Memory operands begin within this distance around the middle of the data.
const SPREAD: u64 = 0x800;

const XMM: u64 = 256;

const CF: u64 = 1;
const PF: u64 = 4;
const AF: u64 = 0x10;
const ZF: u64 = 0x40;
const SF: u64 = 0x80;
const OF: u64 = 0x800;
const DF: u64 = 0x400;
const ARITH: u64 = CF | PF | AF | ZF | SF | OF;

const XMMS: [AsmRegisterXmm; 16] = [
    xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13, xmm14,
    xmm15,
];

/// Everything an instruction can see and change.
#[derive(Clone, PartialEq, Eq)]
struct State {
    gprs: [u64; 16],
    flags: u64,
    xmm: [[u8; 16]; 16],
    data: Vec<u8>,
}

/// The processor.
struct Native {
    prologue: Vec<u8>,
}

impl Native {
    fn new() -> Self {
        for (at, len) in [(CONTEXT, 0x1000), (CODE, 0x1000), (DATA, DATA_LEN)] {
            native::map(at, len);
        }
        let mut a = CodeAssembler::new(64).unwrap();
        native::leave_host(&mut a, CONTEXT);
        for (i, r) in XMMS.into_iter().enumerate() {
            a.movups(r, xmmword_ptr(CONTEXT + XMM + 16 * i as u64))
                .unwrap();
        }
        native::load(&mut a, CONTEXT);
        Self {
            prologue: a.assemble(CODE).unwrap(),
        }
    }

    /// Where the instruction is.
    fn rip(&self) -> u64 {
        CODE + self.prologue.len() as u64
    }

    fn epilogue(rip: u64) -> Vec<u8> {
        let mut a = CodeAssembler::new(64).unwrap();
        native::store(&mut a, CONTEXT);
        for (i, r) in XMMS.into_iter().enumerate() {
            a.movups(xmmword_ptr(CONTEXT + XMM + 16 * i as u64), r)
                .unwrap();
        }
        native::return_to_host(&mut a, CONTEXT);
        a.assemble(rip).unwrap()
    }

    fn run(&self, insn: &[u8], state: &State) -> State {
        let mut code = self.prologue.clone();
        code.extend(insn);
        code.extend(Self::epilogue(CODE + code.len() as u64));
        assert!(code.len() < 0x1000);
        let mut context = [0u8; 512];
        for (i, r) in state.gprs.iter().enumerate() {
            context[8 * i..8 * i + 8].copy_from_slice(&r.to_le_bytes());
        }
        context[FLAGS as usize..FLAGS as usize + 8].copy_from_slice(&state.flags.to_le_bytes());
        context[XMM as usize..].copy_from_slice(state.xmm.as_flattened());
        let mut data = vec![0; DATA_LEN];
        // SAFETY: the three regions are mapped and nobody else's. The code ends with a return and keeps the registers that
        // the calling convention wants kept; the instruction in it touches only registers, flags and the data.
        unsafe {
            (CODE as *mut u8).copy_from(code.as_ptr(), code.len());
            (CONTEXT as *mut u8).copy_from(context.as_ptr(), context.len());
            (DATA as *mut u8).copy_from(state.data.as_ptr(), DATA_LEN);
            let call: extern "C" fn() = std::mem::transmute(CODE as *const u8);
            call();
            context
                .as_mut_ptr()
                .copy_from(CONTEXT as *const u8, context.len());
            data.as_mut_ptr().copy_from(DATA as *const u8, DATA_LEN);
        }
        let qword = |at: usize| u64::from_le_bytes(context[at..at + 8].try_into().unwrap());
        let mut after = state.clone();
        after.gprs = std::array::from_fn(|i| qword(8 * i));
        after.flags = qword(FLAGS as usize);
        after.xmm =
            std::array::from_fn(|i| context[XMM as usize + 16 * i..][..16].try_into().unwrap());
        after.data = data;
        after
    }
}

/// A value, often an interesting one.
fn value(r: &mut Random) -> u64 {
    match r.below(4) {
        0 => r.pick(&[
            0,
            1,
            0x7f,
            0x80,
            0xff,
            0x7fff,
            0x8000,
            0xffff,
            0x7fff_ffff,
            0x8000_0000,
            0xffff_ffff,
        ]),
        1 => r.pick(&[
            i64::MAX as u64,
            i64::MIN as u64,
            u64::MAX,
            u64::MAX - 1,
            2,
            3,
            0x9a,
            0x1_0000_0000,
        ]),
        _ => r.next(),
    }
}

/// Random bytes.
fn random_bytes<const N: usize>(r: &mut Random) -> [u8; N] {
    let mut all = [0; N];
    r.fill(&mut all);
    all
}

/// An instruction to try: opcode with mandatory prefix, what its ModRM may be and its immediate.
#[derive(Clone)]
struct Template {
    prefix: Option<u8>,
    opcode: Vec<u8>,
    /// Whether there is a ModRM byte, and its reg field if that is part of the opcode.
    modrm: Option<Option<u8>>,
    immediate: Immediate,
    /// With a memory operand only, which is naturally aligned.
    vector: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Immediate {
    None,
    Byte,
    /// 16 or 32 bits, by operand size.
    Operand,
    /// Also 64 bits.
    Full,
    /// ENTER's.
    Enter,
}

fn templates() -> Vec<Template> {
    use Immediate as I;
    let mut all = Vec::new();
    let mut add = |prefix, opcode: &[u8], modrm, immediate, vector| {
        all.push(Template {
            prefix,
            opcode: opcode.to_vec(),
            modrm,
            immediate,
            vector,
        });
    };
    let any = Some(None);
    for k in 0..8u8 {
        for o in 0..4 {
            add(None, &[8 * k + o], any, I::None, false);
        }
        add(None, &[8 * k + 4], None, I::Byte, false);
        add(None, &[8 * k + 5], None, I::Operand, false);
        add(None, &[0x80], Some(Some(k)), I::Byte, false);
        add(None, &[0x81], Some(Some(k)), I::Operand, false);
        add(None, &[0x83], Some(Some(k)), I::Byte, false);
        for o in [0xc0, 0xc1] {
            add(None, &[o], Some(Some(k)), I::Byte, false);
        }
        for o in 0xd0..=0xd3 {
            add(None, &[o], Some(Some(k)), I::None, false);
        }
        for o in [0xf6, 0xf7] {
            let test = if o == 0xf6 { I::Byte } else { I::Operand };
            add(
                None,
                &[o],
                Some(Some(k)),
                if k < 2 { test } else { I::None },
                false,
            );
        }
        for o in [0x50, 0x58, 0x90] {
            add(None, &[o + k], None, I::None, false);
        }
        add(None, &[0xb0 + k], None, I::Byte, false);
        add(None, &[0xb8 + k], None, I::Full, false);
        add(None, &[0x0f, 0xc8 + k], None, I::None, false);
    }
    for o in [0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a, 0x8b, 0x8d, 0x63] {
        add(None, &[o], any, I::None, false);
    }
    for o in [
        0x98, 0x99, 0x9c, 0x9e, 0x9f, 0xf5, 0xf8, 0xf9, 0xfc, 0xfd, 0xc9,
    ] {
        add(None, &[o], None, I::None, false);
    }
    for o in [0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf] {
        for prefix in [None, Some(0xf3), Some(0xf2)] {
            add(prefix, &[o], None, I::None, false);
        }
    }
    add(None, &[0x8f], Some(Some(0)), I::None, false);
    add(None, &[0xa8], None, I::Byte, false);
    add(None, &[0xa9], None, I::Operand, false);
    add(None, &[0xc6], Some(Some(0)), I::Byte, false);
    add(None, &[0xc7], Some(Some(0)), I::Operand, false);
    add(None, &[0xc8], None, I::Enter, false);
    add(None, &[0x68], None, I::Operand, false);
    add(None, &[0x6a], None, I::Byte, false);
    add(None, &[0x69], any, I::Operand, false);
    add(None, &[0x6b], any, I::Byte, false);
    for k in 0..2 {
        add(None, &[0xfe], Some(Some(k)), I::None, false);
        add(None, &[0xff], Some(Some(k)), I::None, false);
    }
    add(None, &[0xff], Some(Some(6)), I::None, false);
    for cc in 0..16 {
        add(None, &[0x0f, 0x40 + cc], any, I::None, false);
        add(None, &[0x0f, 0x90 + cc], any, I::None, false);
    }
    for o in [
        0xa3, 0xab, 0xb3, 0xbb, 0xa5, 0xad, 0xaf, 0xb0, 0xb1, 0xc0, 0xc1, 0xb6, 0xb7, 0xbe, 0xbf,
        0xbc, 0xbd, 0xc3,
    ] {
        add(None, &[0x0f, o], any, I::None, false);
    }
    for o in [0xa4, 0xac] {
        add(None, &[0x0f, o], any, I::Byte, false);
    }
    for k in 4..8 {
        add(None, &[0x0f, 0xba], Some(Some(k)), I::Byte, false);
    }
    add(None, &[0x0f, 0xc7], Some(Some(1)), I::None, true);
    if is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("popcnt")
    {
        for o in [0xbc, 0xbd, 0xb8] {
            add(Some(0xf3), &[0x0f, o], any, I::None, false);
        }
    }
    if is_x86_feature_detected!("movbe") {
        add(None, &[0x0f, 0x38, 0xf0], any, I::None, false);
        add(None, &[0x0f, 0x38, 0xf1], any, I::None, false);
    }
    let sse: [(Option<u8>, &[u8]); 6] = [
        (
            None,
            &[0x10, 0x11, 0x28, 0x29, 0x2b, 0x12, 0x13, 0x16, 0x17],
        ),
        (
            Some(0x66),
            &[0x10, 0x11, 0x28, 0x29, 0x2b, 0x12, 0x13, 0x16, 0x17],
        ),
        (Some(0x66), &[0x6f, 0x7f, 0x6e, 0x7e, 0xd6, 0xe7]),
        (Some(0xf3), &[0x10, 0x11, 0x6f, 0x7f, 0x7e]),
        (Some(0xf2), &[0x10, 0x11]),
        (Some(0xf2), &[0xf0]),
    ];
    for (prefix, opcodes) in sse {
        for o in opcodes {
            add(prefix, &[0x0f, *o], any, I::None, true);
        }
    }
    all
}

impl Template {
    /// One encoding of it, with random operands.
    fn encode(&self, r: &mut Random) -> Vec<u8> {
        let mut b = Vec::new();
        let narrow = !self.vector && self.prefix.is_none_or(|p| p != 0x66) && r.one_in(4);
        let short_addresses = r.one_in(8);
        if narrow {
            b.push(0x66);
        }
        if short_addresses {
            b.push(0x67);
        }
        if r.one_in(8) && self.prefix.is_none() {
            b.push(0xf0);
        }
        if r.one_in(16) {
            b.push(r.pick(&[0x26, 0x2e, 0x36, 0x3e]));
        }
        b.extend(self.prefix);
        let rex = r.one_in(2).then(|| 0x40 | r.below(16) as u8);
        b.extend(rex);
        b.extend(&self.opcode);
        if let Some(reg) = self.modrm {
            let modrm = r.next() as u8;
            let modrm = reg.map_or(modrm, |n| modrm & 0xc7 | n << 3);
            b.push(modrm);
            let (mode, rm) = (modrm >> 6, modrm & 7);
            if mode != 3 && rm == 4 {
                b.push(r.next() as u8);
            }
            match mode {
                1 => b.push(r.next() as u8),
                2 => b.extend(random_bytes::<4>(r)),
                // RIP-relative, or SIB without a base: filled in or dropped later.
                0 if rm == 5 || rm == 4 && b[b.len() - 1] & 7 == 5 => {
                    b.extend(random_bytes::<4>(r))
                }
                _ => {}
            }
        }
        let wide = rex.is_some_and(|x| x & 8 != 0);
        let len = match self.immediate {
            Immediate::None => 0,
            Immediate::Byte => 1,
            Immediate::Full if wide => 8,
            Immediate::Operand | Immediate::Full if narrow && !wide => 2,
            Immediate::Operand | Immediate::Full => 4,
            Immediate::Enter => {
                b.extend([r.next() as u8, 0, r.below(5) as u8]);
                0
            }
        };
        b.extend((0..len).map(|_| r.next() as u8));
        b
    }
}

fn register(reg: Register) -> Option<usize> {
    if (Register::RAX..=Register::R15).contains(&reg) {
        Some(reg as usize - Register::RAX as usize)
    } else if (Register::EAX..=Register::R15D).contains(&reg) {
        Some(reg as usize - Register::EAX as usize)
    } else {
        None
    }
}

/// Makes registers (or a RIP-relative displacement) such that the memory operand lies in the data; false if it cannot be.
fn aim(
    r: &mut Random,
    insn: &Instruction,
    bytes: &mut [u8],
    rip: u64,
    state: &mut State,
    aligned: bool,
) -> bool {
    let mut target = DATA + DATA_LEN as u64 / 2 - SPREAD + r.below(2 * SPREAD);
    if aligned {
        target &= !15;
    }
    let (base, index) = (insn.memory_base(), insn.memory_index());
    if matches!(base, Register::RIP | Register::EIP) {
        let mut decoder = Decoder::with_ip(64, bytes, rip, DecoderOptions::NONE);
        let again = decoder.decode();
        let offsets = decoder.get_constant_offsets(&again);
        let at = offsets.displacement_offset();
        let displacement = (target as i64 - (rip as i64 + bytes.len() as i64)) as i32;
        bytes[at..at + 4].copy_from_slice(&displacement.to_le_bytes());
        return true;
    }
    let Some(base) = register(base) else {
        return false;
    };
    let mut offset = insn.memory_displacement64();
    if let Some(index) = register(index) {
        if index == base {
            return false;
        }
        // A stack pointer far away would be a bad place for a signal's frame.
        if base == RSP {
            state.gprs[index] = r.below(64);
        }
        offset =
            offset.wrapping_add(state.gprs[index].wrapping_mul(insn.memory_index_scale().into()));
    }
    let low = target.wrapping_sub(offset);
    // With 32-bit addresses the upper half does not count.
    state.gprs[base] = if insn.memory_base() < Register::RAX {
        low & 0xffff_ffff | r.next() << 32
    } else {
        low
    };
    base != RSP || (DATA + 0x400..DATA + DATA_LEN as u64 - 0x400).contains(&state.gprs[RSP])
}

/// The flags that the manuals leave undefined after an instruction; None: processors differ in more than flags.
fn undefined(insn: &Instruction, state: &State) -> Option<u64> {
    use Mnemonic::*;
    // Some Intel processors clear the upper halves of a string instruction's pointers and counter when ECX is 0 before the first round.
    let repeats = insn.has_rep_prefix() || insn.has_repne_prefix();
    if repeats && state.gprs[RCX] as u32 == 0 {
        return None;
    }
    let width = operand_bits(insn);
    let count = || {
        let last = insn.op_count() - 1;
        let n = if insn.op_kind(last) == OpKind::Register {
            state.gprs[RCX]
        } else {
            insn.immediate(last)
        };
        n & if width == 64 { 63 } else { 31 }
    };
    Some(match insn.mnemonic() {
        And | Or | Xor | Test => AF,
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr => {
            let rotate = matches!(insn.mnemonic(), Rol | Ror | Rcl | Rcr);
            match count() {
                0 => 0,
                n => {
                    let of = if n == 1 { 0 } else { OF };
                    let cf = if !rotate && n > width { CF } else { 0 };
                    of | cf | if rotate { 0 } else { AF }
                }
            }
        }
        Shld | Shrd => match count() {
            0 => 0,
            // The result is undefined too.
            n if n > width => return None,
            1 => AF,
            _ => AF | OF,
        },
        Mul | Imul => SF | ZF | AF | PF,
        Div | Idiv => ARITH,
        Bt | Bts | Btr | Btc => OF | SF | AF | PF,
        Bsf | Bsr => CF | OF | SF | AF | PF,
        Tzcnt | Lzcnt => OF | SF | AF | PF,
        Bswap if width == 16 => return None,
        _ => 0,
    })
}

fn operand_bits(insn: &Instruction) -> u64 {
    let of = |reg: Register| match reg {
        _ if (Register::AL..=Register::R15L).contains(&reg) => 8,
        _ if (Register::AX..=Register::R15W).contains(&reg) => 16,
        _ if (Register::EAX..=Register::R15D).contains(&reg) => 32,
        _ => 64,
    };
    match insn.op_kind(0) {
        OpKind::Register => of(insn.op_register(0)),
        _ => match insn.memory_size() {
            iced_x86::MemorySize::UInt8 | iced_x86::MemorySize::Int8 => 8,
            iced_x86::MemorySize::UInt16 | iced_x86::MemorySize::Int16 => 16,
            iced_x86::MemorySize::UInt32 | iced_x86::MemorySize::Int32 => 32,
            _ => 64,
        },
    }
}

/// Instructions that use the stack or string pointers without showing it.
fn prepare(r: &mut Random, insn: &Instruction, state: &mut State) {
    use Mnemonic::*;
    let middle = DATA + DATA_LEN as u64 / 2;
    state.gprs[RSP] = middle + r.below(64) * 8;
    match insn.mnemonic() {
        Leave | Enter => state.gprs[RBP] = middle + r.below(64) * 4,
        Bt | Bts | Btr | Btc if insn.op_kind(1) == OpKind::Register => {
            if let Some(n) = bit_offset_register(insn.op_register(1)) {
                state.gprs[n] = (r.below(8000) as i64 - 4000) as u64;
            }
        }
        Movsb | Movsw | Movsd | Movsq | Stosb | Stosw | Stosd | Stosq | Lodsb | Lodsw | Lodsd
        | Lodsq | Scasb | Scasw | Scasd | Scasq | Cmpsb | Cmpsw | Cmpsd | Cmpsq => {
            let wide = |r: &mut Random, v: u64| {
                if short_string(insn) {
                    v | r.next() << 32
                } else {
                    v
                }
            };
            let (from, to, n) = (middle + r.below(256), middle + r.below(256), r.below(40));
            state.gprs[RSI] = wide(r, from);
            state.gprs[RDI] = wide(r, to);
            state.gprs[RCX] = wide(r, n);
            if r.one_in(2) {
                // Something to compare equal.
                let value = state.gprs[0].to_le_bytes();
                let start = DATA_LEN / 2;
                state.data[start - 512..start + 1024]
                    .chunks_mut(8)
                    .for_each(|c| c.copy_from_slice(&value));
            }
        }
        _ => {}
    }
}

fn short_string(insn: &Instruction) -> bool {
    [0, 1]
        .into_iter()
        .any(|i| matches!(insn.op_kind(i), OpKind::MemorySegESI | OpKind::MemoryESEDI))
}

fn bit_offset_register(reg: Register) -> Option<usize> {
    if (Register::AX..=Register::R15W).contains(&reg) {
        Some(reg as usize - Register::AX as usize)
    } else {
        register(reg)
    }
}

fn emulate(insn: &[u8], rip: u64, state: &State) -> Result<State, EmuFault> {
    let mut cpu = FakeCpu::long64()
        .region(DATA, DATA_LEN, RegionKind::Ram)
        .code(rip, insn);
    cpu.regions[0].data.copy_from_slice(&state.data);
    cpu.gprs.regs = state.gprs;
    for (n, value) in state.xmm.into_iter().enumerate() {
        cpu.fx.set_xmm(n, value);
    }
    cpu.rflags = Rflags::from_bits_retain(state.flags);
    cpu.cpl = 3;
    let done = step(&mut cpu)?;
    assert_eq!(done.kind, StepKind::Done);
    assert_eq!(cpu.rip, rip + insn.len() as u64);
    let mut after = state.clone();
    (after.gprs, after.flags) = (cpu.gprs.regs, cpu.rflags.bits());
    after.xmm = std::array::from_fn(|n| cpu.fx.xmm(n));
    after.data.copy_from_slice(&cpu.regions[0].data);
    Ok(after)
}

/// What differs, in words.
fn difference(ours: &State, native: &State, ignored: u64) -> Option<String> {
    let mut out = String::new();
    for n in 0..16 {
        if ours.gprs[n] != native.gprs[n] {
            out += &format!(" gpr{n}: {:x} native {:x};", ours.gprs[n], native.gprs[n]);
        }
        if ours.xmm[n] != native.xmm[n] {
            out += &format!(" xmm{n}: {:x?} native {:x?};", ours.xmm[n], native.xmm[n]);
        }
    }
    let compared = (ARITH | DF) & !ignored;
    if (ours.flags ^ native.flags) & compared != 0 {
        out += &format!(
            " flags: {:x} native {:x};",
            ours.flags & compared,
            native.flags & compared
        );
    }
    if let Some(i) = (0..DATA_LEN).find(|&i| ours.data[i] != native.data[i]) {
        out += &format!(
            " data at {i:x}: {:x} native {:x};",
            ours.data[i], native.data[i]
        );
    }
    (!out.is_empty()).then_some(out)
}

#[test]
fn random_instructions_do_what_the_processor_does() {
    let native = Native::new();
    let templates = templates();
    let number = |name: &str, default| {
        std::env::var(name)
            .ok()
            .and_then(|s| s.parse().ok())
            .unwrap_or(default)
    };
    let mut r = Random::new(0x9e37_79b9_7f4a_7c15 ^ number("EMULATOR_SEED", 0));
    let rip = native.rip();
    let mut data: Vec<u8> = (0..DATA_LEN).map(|_| r.next() as u8).collect();
    let (mut compared, mut faulted) = (0, 0);
    let cases = number("EMULATOR_CASES", 10_000);
    for case in 0..cases {
        let template = r.pick(&(0..templates.len()).collect::<Vec<_>>());
        let template = &templates[template];
        let mut bytes = template.encode(&mut r);
        let mut decoder = Decoder::with_ip(64, &bytes, rip, DecoderOptions::NONE);
        let insn = decoder.decode();
        if insn.is_invalid() || insn.len() != bytes.len() {
            continue;
        }
        let start = r.below(DATA_LEN as u64 - 64) as usize;
        data[start..start + 64].copy_from_slice(&random_bytes::<64>(&mut r));
        let mut state = State {
            gprs: std::array::from_fn(|_| value(&mut r)),
            flags: r.next() & ARITH | if r.one_in(4) { DF } else { 0 } | 0x202,
            xmm: std::array::from_fn(|_| random_bytes(&mut r)),
            data: data.clone(),
        };
        prepare(&mut r, &insn, &mut state);
        let memory = (0..insn.op_count()).any(|i| insn.op_kind(i) == OpKind::Memory);
        if memory && insn.mnemonic() != Mnemonic::Lea {
            if !aim(&mut r, &insn, &mut bytes, rip, &mut state, template.vector) {
                continue;
            }
            // Aiming may have changed the bit offset.
            let far = matches!(
                insn.mnemonic(),
                Mnemonic::Bt | Mnemonic::Bts | Mnemonic::Btr | Mnemonic::Btc
            ) && insn.op_kind(1) == OpKind::Register
                && bit_offset_register(insn.op_register(1))
                    .is_some_and(|n| !(-5000..5000).contains(&(state.gprs[n] as i64)));
            if far {
                continue;
            }
        }
        let Some(mut ignored) = undefined(&insn, &state) else {
            continue;
        };
        if insn.mnemonic() == Mnemonic::Pushfq || insn.mnemonic() == Mnemonic::Pushf {
            ignored = 0;
        }
        let ours = match emulate(&bytes, rip, &state) {
            Ok(ours) => ours,
            Err(EmuFault::Exception {
                vector: vector::DE, ..
            }) => {
                faulted += 1;
                continue;
            }
            // MMX registers and encodings next to the moves: left to the CPU, and compared in `emulator_fpu`.
            Err(EmuFault::Unsupported(_)) if template.vector => continue,
            Err(e) => panic!("case {case}: {bytes:02x?} {:?}: {e:?}", insn.code()),
        };
        let theirs = native.run(&bytes, &state);
        if let Some(what) = difference(&ours, &theirs, ignored) {
            panic!(
                "case {case}: {bytes:02x?} {:?}:{what}\nbefore: flags {:x} gprs {:x?}",
                insn.code(),
                state.flags,
                state.gprs
            );
        }
        compared += 1;
    }
    println!("{compared} compared, {faulted} divide errors");
    assert!(compared > cases / 3);
}
