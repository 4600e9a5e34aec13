//! Protected mode: segment loads, their faults, privilege.

use super::*;
use crate::emulate::testing::{Event, RegionKind};
use crate::emulate::{SoftInt, StepKind};
use crate::regs::gpr::*;
use crate::regs::{Cr4, Rflags, SegAttr, SegReg, Segment};

const GDT: u64 = 0x3000;

/// A flat descriptor of 4 GiB with an access byte and the L and D bits.
fn flat(access: u8, size: u8) -> [u8; 8] {
    [0xff, 0xff, 0, 0, 0, access, 0x8f | size, 0]
}

fn cpu32(code: &[u8]) -> FakeCpu {
    let mut cpu = FakeCpu::protected32()
        .region(0, 0x1_0000, RegionKind::Ram)
        .code(0x1000, code);
    cpu.gprs.regs[RSP] = 0x8000;
    cpu.segments[SegReg::Gdtr as usize] = Segment {
        base: GDT,
        limit: 0x7f,
        ..Segment::default()
    };
    cpu.segments[SegReg::Ldtr as usize] = Segment::default();
    for (i, d) in [
        flat(0x9b, 0x40),                  // 08: code, level 0
        flat(0x93, 0x40),                  // 10: data, level 0
        flat(0xfb, 0x40),                  // 18: code, level 3
        flat(0xf3, 0x40),                  // 20: data, level 3
        flat(0x91, 0x40),                  // 28: read-only data, level 0
        flat(0x13, 0x40),                  // 30: data, not present
        flat(0x99, 0x40),                  // 38: execute-only code
        flat(0x9f, 0x40),                  // 40: conforming code, level 0
        flat(0x92, 0x40),                  // 48: data, not accessed
        [0x67, 0, 0, 0x50, 0, 0x89, 0, 0], // 50: TSS
        flat(0x9b, 0x20),                  // 58: 64-bit code
        flat(0x8c, 0),                     // 60: call gate
    ]
    .into_iter()
    .enumerate()
    {
        cpu.poke(GDT + 8 + 8 * i as u64, &d);
    }
    cpu
}

/// mov <segment>, ax with a selector at a privilege level.
fn load(seg: u8, selector: u16, cpl: u8) -> FakeCpu {
    let mut cpu = cpu32(&[0x8e, 0xc0 | seg << 3]);
    cpu.gprs.regs[RAX] = selector.into();
    cpu.cpl = cpl;
    cpu
}

const SS: u8 = 2;
const DS: u8 = 3;

#[test]
fn data_segment_loads_by_type_and_privilege() {
    // Segment, selector, CPL; the fault, if any.
    let gp = |s| Some((vector::GP, Some(s)));
    let cases = [
        (DS, 0x10, 0, None),
        (DS, 0x13, 0, gp(0x10)),
        (DS, 0x10, 3, gp(0x10)),
        (DS, 0x23, 3, None),
        (DS, 0x23, 0, None),
        (DS, 0x28, 0, None),
        (DS, 0x38, 0, gp(0x38)),
        (DS, 0x43, 3, None),
        (DS, 0x50, 0, gp(0x50)),
        (DS, 0x30, 0, Some((vector::NP, Some(0x30)))),
        (DS, 0x80, 0, gp(0x80)),
        (DS, 0x14, 0, gp(0x14)),
        (DS, 0x03, 3, None),
        (SS, 0x10, 0, None),
        (SS, 0x00, 0, gp(0)),
        (SS, 0x20, 0, gp(0x20)),
        (SS, 0x11, 0, gp(0x10)),
        (SS, 0x28, 0, gp(0x28)),
        (SS, 0x08, 0, gp(0x08)),
        (SS, 0x30, 0, Some((vector::SS, Some(0x30)))),
        (SS, 0x23, 3, None),
    ];
    for (seg, selector, cpl, fault) in cases {
        let mut cpu = load(seg, selector, cpl);
        // Table address 30h is not present as a stack only after its other checks.
        cpu.poke(GDT + 0x30 + 5, &[0x13]);
        match fault {
            Some(fault) => assert_eq!(faults(&mut cpu), fault, "{seg} {selector:x} {cpl}"),
            None => {
                run(&mut cpu);
                let s = cpu.segments[seg as usize];
                assert_eq!(
                    (s.selector, s.attr.contains(SegAttr::P)),
                    (selector, selector & !3 != 0)
                );
            }
        }
    }
}

#[test]
fn a_null_data_segment_faults_when_used() {
    let mut cpu = load(DS, 0, 0);
    run(&mut cpu);
    cpu.poke(0x1002, &[0xa0, 0, 0, 0, 0]);
    assert_eq!(faults(&mut cpu), GP0);
}

#[test]
fn loading_sets_the_accessed_bit() {
    let mut cpu = load(DS, 0x48, 0);
    run(&mut cpu);
    assert_eq!(cpu.peek(GDT + 0x48 + 5, 1), [0x93]);
    assert!(
        cpu.segments[SegReg::Ds as usize]
            .attr
            .contains(SegAttr::ACCESSED)
    );
}

#[test]
fn writes_through_code_and_read_only_segments_fault() {
    let mut cpu = cpu32(&[0x2e, 0xa2, 0, 0, 0, 0]);
    assert_eq!(faults(&mut cpu), GP0);
    let mut cpu = load(DS, 0x28, 0);
    run(&mut cpu);
    cpu.poke(0x1002, &[0xa2, 0, 0, 0, 0]);
    assert_eq!(faults(&mut cpu), GP0);
}

#[test]
fn expand_down_segment_is_valid_above_its_limit() {
    let mut cpu = cpu32(&[0xa0, 0x00, 0x20, 0, 0]);
    let ds = &mut cpu.segments[SegReg::Ds as usize];
    ds.attr |= SegAttr::DC;
    ds.limit = 0x1fff;
    run(&mut cpu);
    cpu.rip = 0x1000;
    cpu.segments[SegReg::Ds as usize].limit = 0x2000;
    assert_eq!(faults(&mut cpu), GP0);
}

#[test]
fn far_jump_checks_the_code_segment() {
    let jump = |selector: u8| cpu32(&[0xea, 0, 0x20, 0, 0, selector, 0]);
    let mut cpu = jump(0x08);
    run(&mut cpu);
    assert_eq!(
        (cpu.rip, cpu.segments[SegReg::Cs as usize].selector),
        (0x2000, 8)
    );
    assert_eq!(faults(&mut jump(0x10)), (vector::GP, Some(0x10)));
    assert_eq!(faults(&mut jump(0x18)), (vector::GP, Some(0x18)));
    assert_eq!(faults(&mut jump(0x00)), GP0);
    assert_eq!(faults(&mut jump(0x60)), GP0, "a call gate to null");
    let mut cpu = jump(0x40);
    cpu.cpl = 3;
    run(&mut cpu);
    assert_eq!(cpu.segments[SegReg::Cs as usize].selector, 0x43);
}

#[test]
fn far_jump_to_long_mode_code() {
    let mut cpu = cpu32(&[0xea, 0, 0x20, 0, 0, 0x58, 0]);
    cpu.efer = 0x500;
    run(&mut cpu);
    assert_eq!(crate::emulate::Mode::of(&cpu).bits, 64);
}

#[test]
fn iret_to_user_mode_switches_stacks_and_clears_privileged_segments() {
    let mut cpu = cpu32(&[0xcf]);
    let frame: [u32; 5] = [0x2000, 0x1b, 0x3202, 0x7000, 0x23];
    cpu.poke(0x8000, frame.map(u32::to_le_bytes).as_flattened());
    cpu.segments[SegReg::Es as usize].attr |= SegAttr::DPL0 | SegAttr::DPL1;
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.cpl, cpu.gprs.regs[RSP]), (0x2000, 3, 0x7000));
    assert_eq!(cpu.segments[SegReg::Ss as usize].selector, 0x23);
    assert!(!cpu.segments[SegReg::Ds as usize].attr.contains(SegAttr::P));
    assert!(cpu.segments[SegReg::Es as usize].attr.contains(SegAttr::P));
    assert_eq!(cpu.rflags.bits(), 0x3202);
}

#[test]
fn iret_to_a_higher_privilege_is_gp() {
    let mut cpu = cpu32(&[0xcf]);
    cpu.cpl = 3;
    cpu.poke(
        0x8000,
        [0x2000u32, 0x08, 0x202]
            .map(u32::to_le_bytes)
            .as_flattened(),
    );
    assert_eq!(faults(&mut cpu), (vector::GP, Some(0x08)));
}

#[test]
fn iret_to_virtual_8086_mode() {
    let mut cpu = cpu32(&[0xcf]);
    let frame: [u32; 9] = [0x100, 0x1000, 0x2_3202, 0xfff0, 0x2000, 1, 2, 3, 4];
    cpu.poke(0x8000, frame.map(u32::to_le_bytes).as_flattened());
    run(&mut cpu);
    assert!(cpu.rflags.contains(Rflags::VM));
    let cs = cpu.segments[SegReg::Cs as usize];
    assert_eq!(
        (cs.base, cs.limit, cs.attr.bits(), cpu.cpl),
        (0x1_0000, 0xffff, 0xf3, 3)
    );
    assert_eq!(cpu.segments[SegReg::Gs as usize].base, 0x40);
}

#[test]
fn user_popf_changes_neither_iopl_nor_if() {
    let mut cpu = cpu32(&[0x9d]);
    cpu.cpl = 3;
    cpu.poke(0x8000, &[0xff, 0xff, 0xff, 0xff]);
    run(&mut cpu);
    assert_eq!(
        cpu.rflags & (Rflags::IF | Rflags::IOPL | Rflags::VM),
        Rflags::empty()
    );
    assert!(cpu.rflags.contains(Rflags::NT | Rflags::DF | Rflags::ID));
}

#[test]
fn privileged_instructions_fault_in_user_mode() {
    // XSA-105: HLT, LGDT, LIDT, LMSW; and their relatives.
    let all: [&[u8]; 16] = [
        &[0xf4],
        &[0x0f, 0x01, 0x10],
        &[0x0f, 0x01, 0x18],
        &[0x0f, 0x01, 0xf0],
        &[0x0f, 0x06],
        &[0x0f, 0x20, 0xc0],
        &[0x0f, 0x22, 0xc0],
        &[0x0f, 0x21, 0xc0],
        &[0x0f, 0x23, 0xc0],
        &[0x0f, 0x30],
        &[0x0f, 0x32],
        &[0x0f, 0x08],
        &[0x0f, 0x09],
        &[0x0f, 0x01, 0x38],
        &[0x0f, 0x00, 0xd0],
        &[0x0f, 0x00, 0xd8],
    ];
    for code in all {
        let mut cpu = cpu32(code);
        cpu.cpl = 3;
        assert_eq!(faults(&mut cpu), GP0, "{code:x?}");
    }
    for code in [[0xfa], [0xfb]] {
        let mut cpu = cpu32(&code);
        cpu.cpl = 3;
        assert_eq!(faults(&mut cpu), GP0);
    }
}

#[test]
fn umip_guards_the_stores_of_system_registers() {
    for code in [
        &[0x0f, 0x01, 0x00][..],
        &[0x0f, 0x01, 0x08],
        &[0x0f, 0x01, 0xe0],
        &[0x0f, 0x00, 0xc0],
    ] {
        let mut cpu = cpu32(code);
        cpu.cpl = 3;
        run(&mut cpu);
        cpu.rip = 0x1000;
        cpu.cr4 |= Cr4::UMIP.bits();
        assert_eq!(faults(&mut cpu), GP0);
    }
}

#[test]
fn invlpg_checks_neither_segment_nor_address() {
    let invlpg = |cpu: &mut FakeCpu| {
        run(cpu);
        cpu.events.pop()
    };
    // INVLPG [23456h] with DS null, based, and with a limit below.
    let code = [0x0f, 0x01, 0x3d, 0x56, 0x34, 0x02, 0x00];
    for ds in [
        Segment::default(),
        Segment {
            base: 0x10_0000,
            limit: 0xff,
            ..cpu32(&code).segments[SegReg::Ds as usize]
        },
    ] {
        let mut cpu = cpu32(&code);
        cpu.segments[SegReg::Ds as usize] = ds;
        let linear = ds.base + 0x2_3456;
        assert_eq!(invlpg(&mut cpu), Some(Event::Invlpg { linear }), "{ds:x?}");
    }
    // INVLPG [RAX], whose address is not canonical.
    let mut cpu = FakeCpu::long64().code(0x1000, &[0x0f, 0x01, 0x38]);
    cpu.gprs.regs[RAX] = 1 << 60;
    assert_eq!(invlpg(&mut cpu), None);
}

#[test]
fn ltr_makes_the_task_busy_once() {
    let mut cpu = cpu32(&[0x0f, 0x00, 0xd8]);
    cpu.gprs.regs[RAX] = 0x50;
    run(&mut cpu);
    assert_eq!(
        (
            cpu.segments[SegReg::Tr as usize].base,
            cpu.peek(GDT + 0x55, 1)
        ),
        (0x5000, vec![0x8b])
    );
    cpu.rip = 0x1000;
    assert_eq!(faults(&mut cpu), (vector::GP, Some(0x50)));
}

#[test]
fn lar_lsl_verr_verw_report_visibility() {
    // lar ecx, ax; lsl ecx, ax; verr ax; verw ax
    let run_with = |code: &[u8], selector: u64, cpl| {
        let mut cpu = cpu32(code);
        cpu.gprs.regs[RAX] = selector;
        cpu.cpl = cpl;
        run(&mut cpu);
        (cpu.rflags.contains(Rflags::ZF), cpu.gprs.regs[RCX])
    };
    assert_eq!(run_with(&[0x0f, 0x02, 0xc8], 0x08, 0), (true, 0x00c0_9b00));
    assert_eq!(run_with(&[0x0f, 0x03, 0xc8], 0x10, 0), (true, 0xffff_ffff));
    assert_eq!(run_with(&[0x0f, 0x02, 0xc8], 0x08, 3), (false, 0));
    assert_eq!(run_with(&[0x0f, 0x02, 0xc8], 0, 0), (false, 0));
    assert_eq!(run_with(&[0x0f, 0x00, 0xe0], 0x38, 0), (false, 0));
    assert_eq!(run_with(&[0x0f, 0x00, 0xe8], 0x10, 0), (true, 0));
    assert_eq!(run_with(&[0x0f, 0x00, 0xe8], 0x28, 0), (false, 0));
}

#[test]
fn software_interrupts_are_left_to_the_caller() {
    let mut cpu = cpu32(&[0xcd, 0x80]);
    cpu.rflags |= Rflags::TF;
    let step = run(&mut cpu);
    assert_eq!(
        step.kind,
        StepKind::SoftwareInterrupt {
            vector: 0x80,
            kind: SoftInt::Int,
            len: 2
        }
    );
    assert!(!step.single_step && cpu.rip == 0x1000);
    let mut cpu = cpu32(&[0xf1]);
    assert_eq!(
        run(&mut cpu).kind,
        StepKind::SoftwareInterrupt {
            vector: 1,
            kind: SoftInt::Icebp,
            len: 1
        }
    );
}

#[test]
fn lmsw_sets_pe_but_cannot_clear_it() {
    let mut cpu = cpu32(&[0x0f, 0x01, 0xf0]);
    cpu.gprs.regs[RAX] = 8;
    run(&mut cpu);
    assert_eq!(cpu.cr0, 0x19);
}

#[test]
fn hooks_for_cpuid_msrs_and_tsc() {
    let mut cpu = cpu32(&[0x0f, 0xa2, 0x0f, 0x32, 0x0f, 0x31]);
    cpu.gprs.regs[RAX] = 7;
    cpu.gprs.regs[RCX] = 0xffff_ffff_0000_0001;
    run(&mut cpu);
    assert_eq!(cpu.gprs.regs[..4], [7, 3, 4, 1]);
    run(&mut cpu);
    assert_eq!((cpu.gprs.regs[RAX], cpu.gprs.regs[RDX]), (3, 0x1234_5678));
    run(&mut cpu);
    assert_eq!(
        (cpu.gprs.regs[RAX], cpu.gprs.regs[RDX]),
        (0x2233_4455, 0x11)
    );
    let mut cpu = cpu32(&[0x0f, 0x31]);
    cpu.cpl = 3;
    cpu.cr4 |= Cr4::TSD.bits();
    assert_eq!(faults(&mut cpu), GP0);
}

#[test]
fn linear_addresses_wrap_at_4_gib() {
    let mut cpu = cpu32(&[0xa1, 0x00, 0x10, 0, 0]);
    cpu.segments[SegReg::Ds as usize].base = 0xffff_fffe - 0x1000;
    let mut cpu = cpu.region(0xffff_fff0, 16, RegionKind::Ram);
    cpu.poke(0xffff_fffe, &[1, 2]);
    cpu.poke(0, &[3, 4]);
    run(&mut cpu);
    assert_eq!(cpu.gprs.regs[RAX], 0x0403_0201);
}
