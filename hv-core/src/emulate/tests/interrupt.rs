//! Delivery of interrupts and exceptions through gates.

use super::*;
use crate::emulate::deliver;
use crate::emulate::testing::RegionKind;
use crate::event::{Event, EventKind};
use crate::regs::gpr::RSP;
use crate::regs::{Rflags, SegAttr, SegReg, Segment};

const GDT: u64 = 0x3000;
const IDT: u64 = 0x4000;
const TSS: u64 = 0x5000;
/// The handlers' offset.
const HANDLER: u32 = 0x2345;

const CODE0: u16 = 0x08;
const DATA0: u16 = 0x10;
const CODE3: u16 = 0x1b;
const DATA3: u16 = 0x23;
const CODE0_64: u16 = 0x28;

fn descriptor(access: u8, flags: u8) -> [u8; 8] {
    [0xff, 0xff, 0, 0, 0, access, 0x0f | flags, 0]
}

/// A gate of `kind` (the access byte) to `selector`.
fn gate(selector: u16, kind: u8) -> [u8; 8] {
    let (s, o) = (selector.to_le_bytes(), HANDLER.to_le_bytes());
    [o[0], o[1], s[0], s[1], 0, kind, o[2], o[3]]
}

fn table(base: u64, limit: u32) -> Segment {
    Segment {
        base,
        limit,
        ..Segment::default()
    }
}

/// Code at level `cpl` with tables; vector 0x30 is `gate`.
fn cpu(mut cpu: FakeCpu, cpl: u8, gate: &[u8]) -> FakeCpu {
    cpu = cpu.region(0, 0x1_0000, RegionKind::Ram);
    for (i, d) in [
        descriptor(0x9b, 0xc0),
        descriptor(0x93, 0xc0),
        descriptor(0xfb, 0xc0),
        descriptor(0xf3, 0xc0),
        descriptor(0x9b, 0xa0),
    ]
    .into_iter()
    .enumerate()
    {
        cpu.poke(GDT + 8 + 8 * i as u64, &d);
    }
    cpu.poke(IDT + 0x30 * gate.len() as u64, gate);
    // SS0:ESP0 of a 32-bit TSS; RSP0 and IST1 of a 64-bit one.
    cpu.poke(TSS + 4, &0x6000u32.to_le_bytes());
    cpu.poke(TSS + 8, &DATA0.to_le_bytes());
    cpu.poke(TSS + 36, &0x7004u64.to_le_bytes());
    cpu.segments[SegReg::Gdtr as usize] = table(GDT, 0x7f);
    cpu.segments[SegReg::Idtr as usize] = table(IDT, 0x31 * gate.len() as u32 - 1);
    cpu.segments[SegReg::Tr as usize] = Segment {
        selector: 0x50,
        attr: SegAttr::from_bits_retain(0x8b),
        ..table(TSS, 0x67)
    };
    if cpl == 3 {
        cpu.segments[SegReg::Cs as usize].selector = CODE3;
        cpu.segments[SegReg::Ss as usize].selector = DATA3;
        cpu.segments[SegReg::Ss as usize].attr |= SegAttr::DPL0 | SegAttr::DPL1;
    } else {
        cpu.segments[SegReg::Cs as usize].selector = CODE0;
        cpu.segments[SegReg::Ss as usize].selector = DATA0;
    }
    (cpu.cpl, cpu.rip, cpu.gprs.regs[RSP]) = (cpl, 0x1000, 0x8008);
    cpu.rflags = Rflags::ONE | Rflags::IF | Rflags::TF | Rflags::NT;
    cpu
}

const INT30: Event = Event {
    kind: EventKind::SoftwareInterrupt,
    vector: 0x30,
    error: None,
    insn_len: 2,
};

fn words(cpu: &mut FakeCpu, at: u64, n: usize) -> Vec<u32> {
    cpu.peek(at, 4 * n)
        .chunks(4)
        .map(|c| u32::from_le_bytes(c.try_into().unwrap()))
        .collect()
}

fn fault(cpu: &mut FakeCpu, event: &Event) -> (u8, Option<u32>) {
    let before = cpu.clone();
    match deliver(cpu, event) {
        Err(EmuFault::Exception { vector, error, .. }) => {
            assert_eq!((cpu.gprs, cpu.rip), (before.gprs, before.rip));
            assert_eq!((cpu.segments, cpu.cpl), (before.segments, before.cpl));
            (vector, error)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn interrupt_gate_at_the_same_level_pushes_three_words_and_clears_if() {
    let mut c = cpu(FakeCpu::protected32(), 0, &gate(CODE0, 0x8e));
    let flags = c.rflags.bits() as u32;
    deliver(&mut c, &Event::interrupt(0x30)).unwrap();
    assert_eq!((c.rip, c.gprs.regs[RSP]), (HANDLER.into(), 0x7ffc));
    assert_eq!(words(&mut c, 0x7ffc, 3), [0x1000, CODE0.into(), flags]);
    assert_eq!(c.rflags, Rflags::ONE);
}

#[test]
fn trap_gate_keeps_if_and_software_interrupts_return_behind_themselves() {
    let mut c = cpu(FakeCpu::protected32(), 0, &gate(CODE0, 0x8f));
    deliver(&mut c, &INT30).unwrap();
    assert_eq!(words(&mut c, 0x7ffc, 1), [0x1002]);
    assert_eq!(c.rflags, Rflags::ONE | Rflags::IF);
}

#[test]
fn gate_to_an_inner_level_changes_stacks_and_pushes_the_error_code_last() {
    let mut c = cpu(FakeCpu::protected32(), 3, &gate(CODE0, 0x8e));
    let flags = (c.rflags | Rflags::RF).bits() as u32;
    let event = Event {
        vector: 0x30,
        ..Event::exception(0, Some(0x1234))
    };
    deliver(&mut c, &event).unwrap();
    assert_eq!((c.cpl, c.gprs.regs[RSP]), (0, 0x6000 - 24));
    let frame = [0x1234, 0x1000, CODE3.into(), flags, 0x8008, DATA3.into()];
    assert_eq!(words(&mut c, 0x6000 - 24, 6), frame);
    let ss = c.segments[SegReg::Ss as usize];
    assert_eq!((ss.selector, ss.attr.dpl()), (DATA0, 0));
}

#[test]
fn sixteen_bit_gate_pushes_words() {
    let mut c = cpu(FakeCpu::protected32(), 0, &gate(CODE0, 0x86));
    deliver(&mut c, &Event::interrupt(0x30)).unwrap();
    assert_eq!(c.gprs.regs[RSP], 0x8002);
    assert_eq!(c.peek(0x8002, 4), [0, 0x10, CODE0 as u8, 0]);
}

#[test]
fn sixty_four_bit_gates_align_the_frame_and_push_the_stack_always() {
    let long_gate = |ist: u8| {
        let mut g = [0; 16];
        g[..8].copy_from_slice(&gate(CODE0_64, 0x8e));
        g[4] = ist;
        g
    };
    let mut c = cpu(FakeCpu::long64(), 0, &long_gate(0));
    deliver(&mut c, &Event::interrupt(0x30)).unwrap();
    assert_eq!(c.gprs.regs[RSP], 0x8000 - 40);
    assert_eq!(words(&mut c, 0x8000 - 16, 3), [0x8008, 0, DATA0.into()]);
    let mut c = cpu(FakeCpu::long64(), 3, &long_gate(1));
    deliver(&mut c, &Event::interrupt(0x30)).unwrap();
    assert_eq!((c.cpl, c.gprs.regs[RSP]), (0, 0x7000 - 40));
    let ss = c.segments[SegReg::Ss as usize];
    assert_eq!((ss.selector, ss.attr), (0, SegAttr::empty()));
}

#[test]
fn gate_errors_name_the_vector_and_whether_the_event_came_from_outside() {
    let idt = 0x30 << 3 | 2;
    let table = [
        (gate(CODE0, 0x0e), 0, vector::NP, idt),
        (gate(CODE0, 0x8c), 0, vector::GP, idt),
        (gate(0, 0x8e), 0, vector::GP, 0),
        (gate(0x78, 0x8e), 0, vector::GP, 0x78),
        (gate(DATA0, 0x8e), 0, vector::GP, DATA0.into()),
        (gate(CODE3, 0x8e), 0, vector::GP, u32::from(CODE3) & !3),
    ];
    for (g, cpl, vector, error) in table {
        let mut c = cpu(FakeCpu::protected32(), cpl, &g);
        assert_eq!(fault(&mut c, &INT30), (vector, Some(error)), "{g:x?}");
        let outside = Event::interrupt(0x30);
        assert_eq!(fault(&mut c, &outside), (vector, Some(error | 1)));
    }
    let mut c = cpu(FakeCpu::protected32(), 0, &gate(CODE0, 0x8e));
    c.segments[SegReg::Idtr as usize].limit -= 1;
    assert_eq!(fault(&mut c, &INT30), (vector::GP, Some(idt)));
}

#[test]
fn gate_privilege_counts_for_software_interrupts_only() {
    let mut c = cpu(FakeCpu::protected32(), 3, &gate(CODE0, 0x8e));
    assert_eq!(
        fault(&mut c, &INT30),
        (vector::GP, Some(0x30 << 3 | 2)),
        "INT n"
    );
    deliver(&mut c, &Event::interrupt(0x30)).unwrap();
    let mut c = cpu(FakeCpu::protected32(), 3, &gate(CODE0, 0xee));
    deliver(&mut c, &INT30).unwrap();
}

#[test]
fn inner_stack_that_does_not_fit_is_an_invalid_tss() {
    let mut c = cpu(FakeCpu::protected32(), 3, &gate(CODE0, 0xee));
    c.poke(TSS + 8, &DATA3.to_le_bytes());
    assert_eq!(
        fault(&mut c, &INT30),
        (vector::TS, Some(u32::from(DATA3) & !3))
    );
    c.segments[SegReg::Tr as usize].limit = 8;
    assert_eq!(fault(&mut c, &INT30), (vector::TS, Some(0x50)));
}

#[test]
fn virtual_8086_mode_is_left_with_all_segments_on_the_stack() {
    let mut c = cpu(FakeCpu::protected32(), 3, &gate(CODE0, 0xee));
    c.rflags |= Rflags::VM | Rflags::IOPL;
    for (i, seg) in [SegReg::Es, SegReg::Ds, SegReg::Fs, SegReg::Gs]
        .into_iter()
        .enumerate()
    {
        c.segments[seg as usize].selector = 0x100 + i as u16;
    }
    deliver(&mut c, &INT30).unwrap();
    assert_eq!(c.gprs.regs[RSP], 0x6000 - 36);
    let frame = [0x8008, DATA3.into(), 0x100, 0x101, 0x102, 0x103];
    assert_eq!(words(&mut c, 0x6000 - 24, 6), frame);
    assert_eq!((c.cpl, c.segments[SegReg::Ds as usize].selector), (0, 0));
    assert!(!c.rflags.contains(Rflags::VM));
}
