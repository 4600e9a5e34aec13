//! JMP and CALL through call gates.

use super::*;
use crate::emulate::testing::RegionKind;
use crate::regs::gpr::RSP;
use crate::regs::{SegAttr, SegReg, Segment};

const GDT: u64 = 0x3000;
const TSS: u64 = 0x5000;
const STACK: u64 = 0x8000;
const INNER_STACK: u64 = 0x6000;
const TARGET: u32 = 0x2345;

const CODE0: u16 = 0x08;
const DATA0: u16 = 0x10;
const CODE3: u16 = 0x1b;
const DATA3: u16 = 0x23;
const CODE0_64: u16 = 0x28;
const CONFORMING: u16 = 0x30;
const TSS_SELECTOR: u16 = 0x38;
/// Two descriptors long in long mode.
const GATE: u16 = 0x40;

/// A call gate of `kind` (the access byte) to `selector`, with `parameters`.
fn gate(selector: u16, kind: u8, parameters: u8) -> [u8; 8] {
    let (s, o) = (selector.to_le_bytes(), TARGET.to_le_bytes());
    [o[0], o[1], s[0], s[1], parameters, kind, o[2], o[3]]
}

/// At level `cpl` in front of a JMP or CALL to the gate.
fn cpu(mut cpu: FakeCpu, cpl: u8, call: bool, gate: [u8; 8]) -> FakeCpu {
    let descriptor = |access: u8, flags: u8| [0xff, 0xff, 0, 0, 0, access, 0x0f | flags, 0];
    // FF /3 and FF /5 with an address behind RIP in 64-bit mode, an absolute one elsewhere.
    let modrm = if call { 0x1d } else { 0x2d };
    let long = cpu.efer & 0x400 != 0;
    let pointer = 0x1100u32;
    let displacement = if long { pointer - 0x1006 } else { pointer };
    let mut code = vec![0xff, modrm];
    code.extend(displacement.to_le_bytes());
    cpu = cpu.region(0, 0x1_0000, RegionKind::Ram).code(0x1000, &code);
    let [low, high] = GATE.to_le_bytes();
    cpu.poke(pointer.into(), &[0xde, 0xad, 0xbe, 0xef, low, high]);
    let descriptors = [
        descriptor(0x9b, 0xc0),
        descriptor(0x93, 0xc0),
        descriptor(0xfb, 0xc0),
        descriptor(0xf3, 0xc0),
        descriptor(0x9b, 0xa0),
        descriptor(0x9f, if long { 0xa0 } else { 0xc0 }),
        [0; 8],
        gate,
        [0; 8],
    ];
    for (at, d) in (GDT + 8..).step_by(8).zip(descriptors) {
        cpu.poke(at, &d);
    }
    cpu.poke(TSS + 4, &(INNER_STACK as u32).to_le_bytes());
    cpu.poke(
        TSS + 8,
        &u32::from(if long { 0 } else { DATA0 }).to_le_bytes(),
    );
    cpu.segments[SegReg::Gdtr as usize] = Segment {
        base: GDT,
        limit: 0x4f,
        ..Segment::default()
    };
    cpu.segments[SegReg::Ldtr as usize] = Segment::default();
    cpu.segments[SegReg::Tr as usize] = Segment {
        selector: TSS_SELECTOR,
        attr: SegAttr::from_bits_retain(0x8b),
        base: TSS,
        limit: 0x67,
    };
    let (cs, ss) = if cpl == 3 {
        (CODE3, DATA3)
    } else {
        (CODE0, DATA0)
    };
    cpu.segments[SegReg::Cs as usize].selector = cs;
    cpu.segments[SegReg::Ss as usize].selector = ss;
    if cpl == 3 {
        cpu.segments[SegReg::Ss as usize].attr |= SegAttr::DPL0 | SegAttr::DPL1;
    }
    (cpu.cpl, cpu.gprs.regs[RSP]) = (cpl, STACK);
    cpu
}

fn cpu32(cpl: u8, call: bool, gate: [u8; 8]) -> FakeCpu {
    cpu(FakeCpu::protected32(), cpl, call, gate)
}

fn cpu64(cpl: u8, call: bool, gate: [u8; 8]) -> FakeCpu {
    cpu(FakeCpu::long64(), cpl, call, gate)
}

/// `n` values of `size` bytes.
fn values(cpu: &mut FakeCpu, at: u64, size: usize, n: usize) -> Vec<u64> {
    let value = |bytes: &[u8]| bytes.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b));
    cpu.peek(at, size * n).chunks(size).map(value).collect()
}

fn place(cpu: &FakeCpu) -> (u16, u64, u8, u64) {
    let cs = cpu.segments[SegReg::Cs as usize].selector;
    (cs, cpu.rip, cpu.cpl, cpu.gprs.regs[RSP])
}

#[test]
fn jump_goes_to_the_gates_offset_at_the_same_level() {
    let mut c = cpu32(0, false, gate(CODE0, 0x8c, 3));
    run(&mut c);
    assert_eq!(place(&c), (CODE0, TARGET.into(), 0, STACK));
    let mut c = cpu32(3, false, gate(CONFORMING, 0xec, 0));
    run(&mut c);
    assert_eq!(place(&c), (CONFORMING | 3, TARGET.into(), 3, STACK));
    let mut c = cpu32(3, false, gate(CODE0, 0xec, 0));
    assert_eq!(faults(&mut c), (vector::GP, Some(CODE0.into())));
}

#[test]
fn call_at_the_same_level_pushes_the_return_address_in_the_gates_size() {
    let mut c = cpu32(0, true, gate(CODE0, 0x8c, 3));
    run(&mut c);
    assert_eq!(place(&c), (CODE0, TARGET.into(), 0, STACK - 8));
    assert_eq!(values(&mut c, STACK - 8, 4, 2), [0x1006, CODE0.into()]);
    let mut c = cpu32(0, true, gate(CODE0, 0x84, 0));
    c.poke(GDT + u64::from(GATE) + 6, &[0xff, 0xff]);
    run(&mut c);
    assert_eq!(place(&c), (CODE0, TARGET.into(), 0, STACK - 4));
    assert_eq!(values(&mut c, STACK - 4, 2, 2), [0x1006, CODE0.into()]);
    let mut c = cpu64(0, true, gate(CODE0_64, 0x8c, 0));
    run(&mut c);
    assert_eq!(place(&c), (CODE0_64, TARGET.into(), 0, STACK - 16));
    assert_eq!(values(&mut c, STACK - 16, 8, 2), [0x1006, CODE0.into()]);
}

#[test]
fn call_to_an_inner_level_switches_stacks_and_copies_the_parameters() {
    for (kind, size) in [(0xec, 4), (0xe4, 2)] {
        let mut c = cpu32(3, true, gate(CODE0, kind, 2));
        c.poke(STACK, &0x2222_1111u32.to_le_bytes());
        c.poke(STACK + 4, &0x4444_3333u32.to_le_bytes());
        let parameters = values(&mut c, STACK, size, 2);
        run(&mut c);
        let sp = INNER_STACK - 6 * size as u64;
        assert_eq!(place(&c), (CODE0, TARGET.into(), 0, sp));
        assert_eq!(c.segments[SegReg::Ss as usize].selector, DATA0);
        let mut frame = vec![0x1006, CODE3.into()];
        frame.extend(parameters);
        frame.extend([STACK, DATA3.into()]);
        assert_eq!(values(&mut c, sp, size, 6), frame);
        // And back: RETF 2 * size, which takes the parameters from both stacks.
        let release = 2 * size as u8;
        c.poke(TARGET.into(), &[0xca, release, 0]);
        if size == 2 {
            c.poke(TARGET.into(), &[0x66, 0xca, release, 0]);
        }
        run(&mut c);
        assert_eq!(place(&c), (CODE3, 0x1006, 3, STACK + u64::from(release)));
        assert_eq!(c.segments[SegReg::Ss as usize].selector, DATA3);
    }
}

#[test]
fn call_in_long_mode_copies_nothing_and_leaves_a_null_stack_segment() {
    let mut c = cpu64(3, true, gate(CODE0_64, 0xec, 5));
    let gate_top = GDT + u64::from(GATE) + 8;
    c.poke(gate_top, &0x7fffu32.to_le_bytes());
    run(&mut c);
    let target = 0x7fff << 32 | u64::from(TARGET);
    assert_eq!(place(&c), (CODE0_64, target, 0, INNER_STACK - 32));
    let ss = c.segments[SegReg::Ss as usize];
    assert_eq!((ss.selector, ss.attr.contains(SegAttr::P)), (0, false));
    let frame = [0x1006, CODE3.into(), STACK, DATA3.into()];
    assert_eq!(values(&mut c, INNER_STACK - 32, 8, 4), frame);
}

/// What is wrong in a case.
type Prepare = fn(&mut FakeCpu);

fn put(cpu: &mut FakeCpu, at: u64, bytes: &[u8]) {
    cpu.poke(at, bytes);
}

#[test]
fn what_is_wrong_with_a_gate_its_code_or_its_stack_faults() {
    use vector::{GP, NP, SS, TS};
    const ACCESS: u64 = GDT + GATE as u64 + 5;
    const CODE: u64 = GDT + CODE0 as u64 + 5;
    const DATA: u64 = GDT + DATA0 as u64 + 5;
    let cases: [(&str, Prepare, u8, u16); 16] = [
        ("the gate's DPL", |c| put(c, ACCESS, &[0x8c]), GP, GATE),
        (
            "RPL",
            |c| {
                put(c, ACCESS, &[0xcc]);
                put(c, 0x1104, &[GATE as u8 | 3]);
            },
            GP,
            GATE,
        ),
        (
            "the gate is not present",
            |c| put(c, ACCESS, &[0x6c]),
            NP,
            GATE,
        ),
        ("null code", |c| put(c, ACCESS - 3, &[3, 0]), GP, 0),
        (
            "code beyond the table",
            |c| put(c, ACCESS - 3, &[0x98, 0]),
            GP,
            0x98,
        ),
        (
            "code is data",
            |c| put(c, ACCESS - 3, &[DATA0 as u8, 0]),
            GP,
            DATA0,
        ),
        (
            "code is at an outer level",
            |c| {
                c.cpl = 2;
                put(c, ACCESS - 3, &[CODE3 as u8, 0]);
            },
            GP,
            CODE3 & !3,
        ),
        ("code is not present", |c| put(c, CODE, &[0x1b]), NP, CODE0),
        (
            "the TSS is too small",
            |c| {
                c.segments[SegReg::Tr as usize].limit = 8;
            },
            TS,
            TSS_SELECTOR,
        ),
        ("null stack", |c| put(c, TSS + 8, &[0, 0]), TS, 0),
        (
            "stack beyond the table",
            |c| put(c, TSS + 8, &[0x98, 0]),
            TS,
            0x98,
        ),
        (
            "the stack's RPL",
            |c| put(c, TSS + 8, &[DATA0 as u8 | 3, 0]),
            TS,
            DATA0,
        ),
        (
            "the stack cannot be written",
            |c| put(c, DATA, &[0x91]),
            TS,
            DATA0,
        ),
        (
            "the stack is not present",
            |c| put(c, DATA, &[0x13]),
            SS,
            DATA0,
        ),
        (
            "no room on the stack",
            |c| {
                put(c, DATA - 5, &[0xff, 0x1f, 0, 0, 0, 0x93, 0x40, 0]);
            },
            SS,
            DATA0,
        ),
        (
            "the offset",
            |c| {
                put(c, CODE - 5, &[0xff, 0x1f, 0, 0, 0, 0x9b, 0x40, 0]);
            },
            GP,
            0,
        ),
    ];
    for (what, prepare, vector, error) in cases {
        let mut c = cpu32(3, true, gate(CODE0, 0xec, 1));
        prepare(&mut c);
        assert_eq!(faults(&mut c), (vector, Some(error.into())), "{what}");
    }
    // Parameters outside the old stack, and no room for the return address on it.
    let small = |c: &mut FakeCpu| c.segments[SegReg::Ss as usize].limit = STACK as u32 - 1;
    let mut c = cpu32(3, true, gate(CODE0, 0xec, 1));
    small(&mut c);
    assert_eq!(faults(&mut c), (SS, Some(0)));
    let mut c = cpu32(0, true, gate(CODE0, 0x8c, 0));
    c.gprs.regs[RSP] = STACK + 4;
    small(&mut c);
    assert_eq!(faults(&mut c), (SS, Some(0)));
}

#[test]
fn gates_of_long_mode_are_two_descriptors_long_and_lead_to_64_bit_code() {
    use vector::{GP, SS, TS};
    const ACCESS: u64 = GDT + GATE as u64 + 5;
    let cases: [(&str, Prepare, u8, u16); 7] = [
        ("a 16-bit gate", |c| put(c, ACCESS, &[0xe4]), GP, GATE),
        (
            "32-bit code",
            |c| put(c, ACCESS - 3, &[CODE0 as u8, 0]),
            GP,
            CODE0,
        ),
        (
            "the second half has a type",
            |c| put(c, ACCESS + 8, &[1]),
            GP,
            GATE,
        ),
        (
            "the table ends in it",
            |c| {
                c.segments[SegReg::Gdtr as usize].limit = 0x4e;
            },
            GP,
            GATE,
        ),
        (
            "the offset is not canonical",
            |c| put(c, ACCESS + 4, &[0xff]),
            GP,
            0,
        ),
        (
            "the TSS is too small",
            |c| {
                c.segments[SegReg::Tr as usize].limit = 10;
            },
            TS,
            TSS_SELECTOR,
        ),
        (
            "the stack is not canonical",
            |c| put(c, TSS + 10, &[0x10]),
            SS,
            0,
        ),
    ];
    for (what, prepare, vector, error) in cases {
        let mut c = cpu64(3, true, gate(CODE0_64, 0xec, 0));
        prepare(&mut c);
        assert_eq!(faults(&mut c), (vector, Some(error.into())), "{what}");
    }
}
