//! String instructions and string I/O.

use super::*;
use crate::device::AccessSize;
use crate::emulate::testing::{Event, RegionKind};
use crate::emulate::{StepKind, StringIo, string_io};
use crate::regs::gpr::*;
use crate::regs::{Rflags, SegReg};

const DEVICE: u64 = 0xa_0000;

fn cpu32(code: &[u8]) -> FakeCpu {
    let mut cpu = FakeCpu::protected32()
        .region(0x10_0000, 0x4000, RegionKind::Ram)
        .region(DEVICE, 0x4000, RegionKind::Device)
        .code(0x1000, code);
    cpu.gprs.regs[RSI] = 0x10_0000;
    cpu.gprs.regs[RDI] = DEVICE;
    for i in 0..0x4000u64 {
        cpu.poke(0x10_0000 + i, &[(i * 7 + (i >> 8)) as u8]);
    }
    cpu
}

fn insw(rep: bool) -> StringIo {
    StringIo {
        port: 0x1f0,
        size: AccessSize::Word,
        write: false,
        rep,
        address_size: 4,
        segment: None,
        next_rip: Some(0x1003),
    }
}

#[test]
fn rep_movsd_to_a_device_is_one_step_of_single_accesses() {
    let mut cpu = cpu32(&[0xf3, 0xa5]);
    cpu.gprs.regs[RCX] = 1000;
    let from = cpu.peek(0x10_0000, 4000);
    assert_eq!(run(&mut cpu).kind, StepKind::Done);
    assert_eq!(cpu.peek(DEVICE, 4000), from);
    assert_eq!(cpu.take().len(), 1000);
    assert_eq!(
        (cpu.gprs.regs[RCX], cpu.gprs.regs[RSI], cpu.gprs.regs[RDI]),
        (0, 0x10_0fa0, DEVICE + 4000)
    );
    assert_eq!(cpu.rip, 0x1002);
}

#[test]
fn rep_movsb_within_a_device_alternates_reads_and_writes() {
    // VGA write mode 1 copies through the latches: each write follows its read.
    let mut cpu = cpu32(&[0xf3, 0xa4]);
    cpu.gprs.regs[RCX] = 3;
    cpu.gprs.regs[RSI] = DEVICE + 0x100;
    run(&mut cpu);
    let kinds: Vec<bool> = cpu
        .take()
        .iter()
        .map(|e| matches!(e, Event::Write { .. }))
        .collect();
    assert_eq!(kinds, [false, true, false, true, false, true]);
}

#[test]
fn overlapping_rep_movsb_repeats_its_pattern() {
    let mut cpu = cpu32(&[0xf3, 0xa4]);
    cpu.gprs.regs[RCX] = 64;
    cpu.gprs.regs[RDI] = 0x10_0003;
    cpu.poke(0x10_0000, &[1, 2, 3]);
    run(&mut cpu);
    assert_eq!(cpu.peek(0x10_0000, 67), [1, 2, 3].repeat(23)[..67]);
}

#[test]
fn descending_movs_ends_below_its_start() {
    let mut cpu = cpu32(&[0xf3, 0xa5]);
    cpu.rflags |= Rflags::DF;
    cpu.gprs.regs[RCX] = 4;
    cpu.gprs.regs[RSI] = 0x10_000c;
    cpu.gprs.regs[RDI] = 0x10_010c;
    let from = cpu.peek(0x10_0000, 16);
    run(&mut cpu);
    assert_eq!(cpu.peek(0x10_0100, 16), from);
    assert_eq!(
        (cpu.gprs.regs[RSI], cpu.gprs.regs[RDI]),
        (0x0f_fffc, 0x10_00fc)
    );
}

#[test]
fn long_repetition_is_bounded_and_resumes() {
    let mut cpu = cpu32(&[0xf3, 0xaa]);
    cpu.gprs.regs[RCX] = 10_000;
    cpu.gprs.regs[RAX] = 0x5a;
    let mut steps = 1;
    while run(&mut cpu).kind == StepKind::Again {
        assert_eq!(cpu.rip, 0x1000);
        steps += 1;
    }
    assert_eq!((steps, cpu.gprs.regs[RCX], cpu.rip), (3, 0, 0x1002));
    assert_eq!(cpu.peek(DEVICE, 10_001)[9_999..], [0x5a, 0]);
}

#[test]
fn faulting_repetition_keeps_what_is_done() {
    let mut cpu = cpu32(&[0xf3, 0xab]);
    cpu.gprs.regs[RCX] = 16;
    cpu.gprs.regs[RDI] = 0x10_3ff0;
    let fault = EmuFault::Exception {
        vector: vector::PF,
        error: Some(2),
        cr2: Some(0x10_4000),
    };
    assert_eq!(step(&mut cpu), Err(fault));
    assert_eq!(
        (cpu.gprs.regs[RCX], cpu.gprs.regs[RDI], cpu.rip),
        (12, 0x10_4000, 0x1000)
    );
}

#[test]
fn a_device_is_not_read_for_a_destination_that_faults() {
    let mut cpu = cpu32(&[0xa5]);
    cpu.gprs.regs[RSI] = DEVICE;
    cpu.gprs.regs[RDI] = 0x20_0000;
    assert_eq!(faults(&mut cpu), (vector::PF, Some(2)));
    assert_eq!(cpu.take(), []);
}

#[test]
fn rep_with_zero_count_touches_nothing() {
    let mut cpu = cpu32(&[0xf3, 0xa5]);
    cpu.gprs.regs[RDI] = 0xdead_0000;
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.gprs.regs[RDI]), (0x1002, 0xdead_0000));
}

#[test]
fn repe_cmpsb_stops_at_the_first_difference() {
    let mut cpu = cpu32(&[0xf3, 0xa6]);
    cpu.gprs.regs[RCX] = 10;
    cpu.poke(DEVICE, &[0, 7, 14, 99]);
    run(&mut cpu);
    assert_eq!((cpu.gprs.regs[RCX], cpu.gprs.regs[RSI]), (6, 0x10_0004));
    assert!(!cpu.rflags.contains(Rflags::ZF));
}

#[test]
fn repne_scasb_finds_its_byte() {
    let mut cpu = cpu32(&[0xf2, 0xae]);
    cpu.gprs.regs[RCX] = u64::MAX;
    cpu.gprs.regs[RDI] = 0x10_0000;
    cpu.gprs.regs[RAX] = 21;
    run(&mut cpu);
    assert_eq!(
        (cpu.gprs.regs[RDI], cpu.gprs.regs[RCX]),
        (0x10_0004, 0xffff_fffb)
    );
    assert!(cpu.rflags.contains(Rflags::ZF));
}

#[test]
fn sixteen_bit_addresses_wrap_and_keep_the_upper_halves() {
    let mut cpu = FakeCpu::real()
        .region(0, 0x1_0000, RegionKind::Ram)
        .code(0x1000, &[0xf3, 0xaa]);
    cpu.gprs.regs[RDI] = 0x1234_fffe;
    cpu.gprs.regs[RCX] = 0x5678_0004;
    cpu.gprs.regs[RAX] = 0x77;
    run(&mut cpu);
    assert_eq!(
        (cpu.gprs.regs[RDI], cpu.gprs.regs[RCX]),
        (0x1234_0002, 0x5678_0000)
    );
    assert_eq!(
        (cpu.peek(0, 3), cpu.peek(0xfffe, 2)),
        (vec![0x77, 0x77, 0], vec![0x77, 0x77])
    );
}

#[test]
fn trap_flag_stops_a_repetition_after_each_iteration() {
    let mut cpu = cpu32(&[0xf3, 0xaa]);
    cpu.rflags |= Rflags::TF;
    cpu.gprs.regs[RCX] = 2;
    let step = run(&mut cpu);
    assert!(step.kind == StepKind::Again && step.single_step && cpu.gprs.regs[RCX] == 1);
}

#[test]
fn rep_insw_of_a_sector_over_a_page_border() {
    let mut cpu = cpu32(&[0x66, 0xf3, 0x6d]);
    cpu.gprs.regs[RDI] = 0x10_0f01;
    cpu.gprs.regs[RCX] = 256;
    let step = string_io(&mut cpu, &insw(true)).unwrap();
    assert_eq!(
        (step.kind, cpu.rip, cpu.gprs.regs[RCX], cpu.gprs.regs[RDI]),
        (StepKind::Done, 0x1003, 0, 0x10_1101)
    );
    let expected: Vec<u8> = (0..512).map(|i| i as u8).collect();
    assert_eq!(cpu.peek(0x10_0f01, 512), expected);
    assert_eq!(cpu.fetched, 0);
    assert_eq!(cpu.take().len(), 256);
}

#[test]
fn insw_reads_no_port_if_memory_faults_and_resumes_after_it() {
    let mut cpu = cpu32(&[0x66, 0xf3, 0x6d]);
    cpu.gprs.regs[RDI] = 0x10_3ffe;
    cpu.gprs.regs[RCX] = 3;
    let fault = EmuFault::Exception {
        vector: vector::PF,
        error: Some(2),
        cr2: Some(0x10_4000),
    };
    assert_eq!(string_io(&mut cpu, &insw(true)), Err(fault));
    assert_eq!(
        (
            cpu.take().len(),
            cpu.gprs.regs[RCX],
            cpu.gprs.regs[RDI],
            cpu.rip
        ),
        (1, 2, 0x10_4000, 0x1000)
    );
    let mut cpu = cpu.region(0x10_4000, 0x1000, RegionKind::Ram);
    string_io(&mut cpu, &insw(true)).unwrap();
    assert_eq!(cpu.peek(0x10_3ffe, 2), [0, 1]);
    assert_eq!(cpu.peek(0x10_4000, 4), [2, 3, 4, 5]);
}

#[test]
fn descending_insw_fills_downwards() {
    let mut cpu = cpu32(&[0x66, 0xf3, 0x6d]);
    cpu.rflags |= Rflags::DF;
    cpu.gprs.regs[RDI] = 0x10_0004;
    cpu.gprs.regs[RCX] = 3;
    string_io(&mut cpu, &insw(true)).unwrap();
    assert_eq!(cpu.peek(0x10_0000, 6), [4, 5, 2, 3, 0, 1]);
    assert_eq!(cpu.gprs.regs[RDI], 0x0f_fffe);
}

#[test]
fn rep_insd_to_a_device_keeps_the_element_size() {
    let mut cpu = cpu32(&[0xf3, 0x6d]);
    cpu.gprs.regs[RCX] = 2;
    let io = StringIo {
        size: AccessSize::Dword,
        ..insw(true)
    };
    string_io(&mut cpu, &io).unwrap();
    assert_eq!(
        cpu.take()[2..],
        [
            Event::Write {
                at: DEVICE,
                size: 4,
                value: 0x0302_0100
            },
            Event::Write {
                at: DEVICE + 4,
                size: 4,
                value: 0x0706_0504
            },
        ]
    );
}

#[test]
fn outsw_finds_its_segment_and_length_by_decoding() {
    // isolinux on a processor without decode assists: a segment override and REP OUTSW.
    let mut cpu = FakeCpu::real()
        .region(0, 0x1_0000, RegionKind::Ram)
        .code(0x1000, &[0x26, 0xf3, 0x6f]);
    cpu.segments[SegReg::Es as usize].base = 0x2000;
    cpu.gprs.regs[RSI] = 0x10;
    cpu.gprs.regs[RCX] = 2;
    cpu.poke(0x2010, &[1, 2, 3, 4]);
    let io = StringIo {
        write: true,
        address_size: 2,
        next_rip: None,
        ..insw(true)
    };
    string_io(&mut cpu, &io).unwrap();
    let out = |value| Event::Out {
        port: 0x1f0,
        size: 2,
        value,
    };
    assert_eq!(
        (cpu.take(), cpu.rip),
        (vec![out(0x201), out(0x403)], 0x1003)
    );
    cpu.rip = 0x1000;
    assert_eq!(
        string_io(
            &mut cpu,
            &StringIo {
                size: AccessSize::Byte,
                ..io
            }
        ),
        Err(EmuFault::Retry)
    );
}

#[test]
fn single_ins_ignores_the_count() {
    let mut cpu = cpu32(&[0x66, 0x6d]);
    cpu.gprs.regs[RDI] = 0x10_0000;
    string_io(&mut cpu, &insw(false)).unwrap();
    assert_eq!(
        (cpu.gprs.regs[RCX], cpu.gprs.regs[RDI], cpu.take().len()),
        (0, 0x10_0002, 1)
    );
}

#[test]
fn user_code_needs_iopl_or_the_bitmap_for_a_port() {
    let mut cpu = FakeCpu::protected32()
        .region(0x5000, 0x200, RegionKind::Ram)
        .code(0x1000, &[0xec]);
    cpu.cpl = 3;
    cpu.gprs.regs[RDX] = 0x3d5;
    cpu.segments[SegReg::Tr as usize] = crate::regs::Segment {
        selector: 8,
        attr: crate::regs::SegAttr::from_bits_retain(0x8b),
        limit: 0x1ff,
        base: 0x5000,
    };
    cpu.poke(0x5066, &[0x68, 0]);
    run(&mut cpu);
    cpu.rip = 0x1000;
    cpu.poke(0x5068 + 0x3d5 / 8, &[1 << (0x3d5 % 8)]);
    assert_eq!(faults(&mut cpu), GP0);
    cpu.rflags |= Rflags::IOPL;
    run(&mut cpu);
}
