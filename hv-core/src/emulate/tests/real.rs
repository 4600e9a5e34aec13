//! Real mode and 16-bit code, as firmware and boot loaders use it.

use super::*;
use crate::emulate::testing::{Event, RegionKind};
use crate::emulate::{Shadow, deliver};
use crate::regs::gpr::*;
use crate::regs::{Cr0, Rflags, SegReg};

fn cpu16(code: &[u8]) -> FakeCpu {
    let mut cpu = FakeCpu::real()
        .region(0, 0x11_0000, RegionKind::Ram)
        .code(0x1000, code);
    cpu.gprs.regs[RSP] = 0x8000;
    cpu
}

fn segment(cpu: &FakeCpu, seg: SegReg) -> crate::regs::Segment {
    cpu.segments[seg as usize]
}

#[test]
fn segment_load_sets_the_base_and_keeps_an_unreal_limit() {
    let mut cpu = cpu16(&[0x8e, 0xd8]);
    cpu.segments[SegReg::Ds as usize].limit = 0xffff_ffff;
    cpu.gprs.regs[RAX] = 0x1234;
    run(&mut cpu);
    let ds = segment(&cpu, SegReg::Ds);
    assert_eq!(
        (ds.selector, ds.base, ds.limit),
        (0x1234, 0x1_2340, 0xffff_ffff)
    );
}

#[test]
fn big_real_mode_reaches_high_memory_through_67h() {
    // SeaBIOS: addr32 movl (%esi), %eax with a 4 GiB limit.
    let mut cpu = cpu16(&[0x67, 0x66, 0x8b, 0x06]);
    cpu.gprs.regs[RSI] = 0x10_0010;
    assert_eq!(faults(&mut cpu), (vector::GP, None));
    cpu.segments[SegReg::Ds as usize].limit = 0xffff_ffff;
    cpu.poke(0x10_0010, &[0x78, 0x56, 0x34, 0x12]);
    run(&mut cpu);
    assert_eq!(cpu.gprs.regs[RAX], 0x1234_5678);
}

#[test]
fn word_at_the_end_of_a_64_kib_segment_faults() {
    let mut cpu = cpu16(&[0xa1, 0xff, 0xff]);
    assert_eq!(faults(&mut cpu), (vector::GP, None));
    let mut cpu = cpu16(&[0x8b, 0x46, 0x00]);
    cpu.gprs.regs[RBP] = 0xffff;
    assert_eq!(faults(&mut cpu), (vector::SS, None));
}

#[test]
fn sixteen_bit_effective_addresses_wrap_at_64_kib() {
    // mov al, [bx + si + 2]
    let mut cpu = cpu16(&[0x8a, 0x40, 0x02]);
    (cpu.gprs.regs[RBX], cpu.gprs.regs[RSI]) = (0xffff_8000, 0x7fff);
    cpu.poke(1, &[0x42]);
    run(&mut cpu);
    assert_eq!(cpu.gprs.regs[RAX], 0x42);
}

#[test]
fn effective_addresses_of_all_sixteen_bit_forms() {
    let regs = [(RBX, 0x100), (RBP, 0x200), (RSI, 0x30), (RDI, 0x40)];
    let sums = [0x130, 0x140, 0x230, 0x240, 0x30, 0x40, 0x200, 0x100];
    for (rm, sum) in sums.into_iter().enumerate() {
        // lea ax, [.. - 1]
        let mut cpu = cpu16(&[0x8d, 0x40 | rm as u8, 0xff]);
        for (n, value) in regs {
            cpu.gprs.regs[n] = value;
        }
        run(&mut cpu);
        assert_eq!(cpu.gprs.regs[RAX], sum - 1, "rm {rm}");
    }
}

#[test]
fn push_pop_and_pusha_use_sp_and_wrap() {
    let mut cpu = cpu16(&[0x60]);
    cpu.gprs.regs = core::array::from_fn(|i| 0x1111 * i as u64);
    cpu.gprs.regs[RSP] = 0xabcd_8000;
    run(&mut cpu);
    assert_eq!(cpu.gprs.regs[RSP], 0xabcd_7ff0);
    assert_eq!(cpu.peek(0x7ff6, 2), [0, 0x80]);
    cpu.poke(0x1000, &[0x61]);
    cpu.rip = 0x1000;
    cpu.gprs.regs[RDX] = 0;
    run(&mut cpu);
    assert_eq!(
        (cpu.gprs.regs[RDX], cpu.gprs.regs[RSP]),
        (0x2222, 0xabcd_8000)
    );
}

#[test]
fn push_sp_pushes_the_old_value() {
    let mut cpu = cpu16(&[0x54]);
    run(&mut cpu);
    assert_eq!(cpu.peek(0x7ffe, 2), [0, 0x80]);
}

#[test]
fn near_call_and_return_with_release() {
    let mut cpu = cpu16(&[0xe8, 0xfd, 0x0f]);
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.peek(0x7ffe, 2)), (0x2000, vec![0x03, 0x10]));
    cpu.poke(0x2000, &[0xc2, 0x04, 0x00]);
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.gprs.regs[RSP]), (0x1003, 0x8004));
}

#[test]
fn jump_wraps_ip_at_16_bits() {
    let mut cpu = cpu16(&[0xe9, 0x00, 0xf0]);
    run(&mut cpu);
    assert_eq!(cpu.rip, 0x3);
}

#[test]
fn far_call_and_return() {
    let mut cpu = cpu16(&[0x9a, 0x34, 0x12, 0x00, 0xf0]);
    run(&mut cpu);
    assert_eq!(
        (cpu.rip, segment(&cpu, SegReg::Cs).base),
        (0x1234, 0xf_0000)
    );
    assert_eq!(cpu.peek(0x7ffc, 4), [5, 0x10, 0, 0]);
    cpu.poke(0xf_1234, &[0xcb]);
    run(&mut cpu);
    assert_eq!(
        (cpu.rip, segment(&cpu, SegReg::Cs).base, cpu.gprs.regs[RSP]),
        (0x1005, 0, 0x8000)
    );
}

#[test]
fn int_goes_through_the_vector_table_and_iret_comes_back() {
    let mut cpu = cpu16(&[0xcd, 0x13]);
    cpu.poke(0x4c, &[0x00, 0xe0, 0x00, 0xf0]);
    cpu.rflags |= Rflags::IF | Rflags::CF | Rflags::TF;
    let step = run(&mut cpu);
    assert!(!step.single_step);
    assert_eq!(
        (cpu.rip, segment(&cpu, SegReg::Cs).selector),
        (0xe000, 0xf000)
    );
    assert_eq!(
        cpu.rflags & (Rflags::IF | Rflags::TF | Rflags::CF),
        Rflags::CF
    );
    assert_eq!(cpu.peek(0x7ffa, 6), [2, 0x10, 0, 0, 3, 3]);
    cpu.poke(0xf_e000, &[0xcf]);
    assert!(run(&mut cpu).iret);
    assert_eq!((cpu.rip, cpu.gprs.regs[RSP]), (0x1002, 0x8000));
    assert!(cpu.rflags.contains(Rflags::IF | Rflags::CF | Rflags::TF));
}

#[test]
fn interrupt_beyond_the_table_limit_is_gp() {
    let mut cpu = cpu16(&[0xcd, 0x80]);
    cpu.segments[SegReg::Idtr as usize].limit = 0x1ff;
    assert_eq!(faults(&mut cpu), (vector::GP, None));
    cpu.poke(0x20, &[0x50, 0, 0, 0]);
    deliver(&mut cpu, &crate::event::Event::interrupt(8)).unwrap();
    assert_eq!((cpu.rip, cpu.peek(0x7ffa, 2)), (0x50, vec![0, 0x10]));
}

#[test]
fn lss_loads_both_and_mov_ss_leaves_a_shadow() {
    let mut cpu = cpu16(&[0x0f, 0xb2, 0x26, 0x00, 0x20]);
    cpu.poke(0x2000, &[0x10, 0x00, 0x00, 0x30]);
    assert_eq!(run(&mut cpu).shadow, Shadow::None);
    assert_eq!(
        (cpu.gprs.regs[RSP], segment(&cpu, SegReg::Ss).base),
        (0x10, 0x3_0000)
    );
    let mut cpu = cpu16(&[0x8e, 0xd0]);
    assert_eq!(run(&mut cpu).shadow, Shadow::MovSs);
    let mut cpu = cpu16(&[0xfb, 0xfb]);
    assert_eq!(run(&mut cpu).shadow, Shadow::Sti);
    assert_eq!(run(&mut cpu).shadow, Shadow::None);
}

#[test]
fn loop_counts_cx_or_ecx_by_address_size() {
    let mut cpu = cpu16(&[0xe2, 0xfe]);
    cpu.gprs.regs[RCX] = 0x1_0000;
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.gprs.regs[RCX]), (0x1000, 0x1_ffff));
    let mut cpu = cpu16(&[0x67, 0xe2, 0xfd]);
    cpu.gprs.regs[RCX] = 1;
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.gprs.regs[RCX]), (0x1003, 0));
}

#[test]
fn decimal_instructions() {
    // AL, AH, flags before; opcode; AX after.
    let cases: [(u64, Rflags, &[u8], u64); 7] = [
        (0x0f, Rflags::empty(), &[0x37], 0x0105),
        (0x0205, Rflags::AF, &[0x3f], 0x000f),
        (0x79, Rflags::AF, &[0x27], 0x7f),
        (0xee, Rflags::AF | Rflags::CF, &[0x2f], 0x88),
        (0x3f, Rflags::empty(), &[0xd4, 0x0a], 0x0603),
        (0x0703, Rflags::empty(), &[0xd5, 0x0a], 0x0049),
        (0x1200, Rflags::CF, &[0xd6], 0x12ff),
    ];
    for (ax, flags, code, expected) in cases {
        let mut cpu = cpu16(code);
        cpu.gprs.regs[RAX] = ax;
        cpu.rflags |= flags;
        run(&mut cpu);
        assert_eq!(cpu.gprs.regs[RAX], expected, "{code:x?}");
    }
    assert_eq!(faults(&mut cpu16(&[0xd4, 0])), (vector::DE, None));
}

#[test]
fn bound_outside_is_br() {
    let mut cpu = cpu16(&[0x62, 0x06, 0x00, 0x20]);
    cpu.poke(0x2000, &[0xff, 0xff, 5, 0]);
    cpu.gprs.regs[RAX] = 0xffff;
    run(&mut cpu);
    cpu.rip = 0x1000;
    cpu.gprs.regs[RAX] = 6;
    assert_eq!(faults(&mut cpu), (vector::BR, None));
}

#[test]
fn enter_with_levels_copies_frame_pointers() {
    let mut cpu = cpu16(&[0xc8, 0x10, 0x00, 0x02]);
    cpu.gprs.regs[RBP] = 0x9000;
    cpu.poke(0x8ffe, &[0xcd, 0xab]);
    run(&mut cpu);
    assert_eq!((cpu.gprs.regs[RBP], cpu.gprs.regs[RSP]), (0x7ffe, 0x7fea));
    assert_eq!(cpu.peek(0x7ffa, 6), [0xfe, 0x7f, 0xcd, 0xab, 0x00, 0x90]);
}

#[test]
fn seabios_enters_protected_mode() {
    // transition32: lidtw, lgdtw, mov cr0, ljmpl.
    let mut cpu = cpu16(&[
        0x0f, 0x01, 0x16, 0x00, 0x20, // lgdt [2000h]
        0x0f, 0x20, 0xc1, // mov ecx, cr0
        0x66, 0x83, 0xc9, 0x01, // or ecx, 1
        0x0f, 0x22, 0xc1, // mov cr0, ecx
        0x66, 0xea, 0x00, 0x30, 0x00, 0x00, 0x08, 0x00, // jmp 8:3000h
    ]);
    cpu.poke(0x2000, &[0x2f, 0, 0x00, 0x21, 0, 0xff]);
    cpu.poke(0x2108, &[0xff, 0xff, 0, 0, 0, 0x9b, 0xcf, 0]);
    cpu.poke(0x2110, &[0xff, 0xff, 0, 0, 0, 0x93, 0xcf, 0]);
    for _ in 0..5 {
        run(&mut cpu);
    }
    // With a 16-bit operand LGDT takes 24 bits of the base.
    assert_eq!(segment(&cpu, SegReg::Gdtr).base, 0x2100);
    assert_eq!(
        cpu.take(),
        [Event::WriteCr {
            cr: 0,
            value: (Cr0::PE | Cr0::ET).bits()
        }]
    );
    let cs = segment(&cpu, SegReg::Cs);
    assert_eq!((cs.selector, cs.limit, cpu.rip), (8, 0xffff_ffff, 0x3000));
    // mov ss, ax
    cpu.poke(0x3000, &[0x8e, 0xd0]);
    cpu.gprs.regs[RAX] = 0x10;
    run(&mut cpu);
    assert_eq!(segment(&cpu, SegReg::Ss).limit, 0xffff_ffff);
}

#[test]
fn single_step_of_firmware_does_not_run_past_the_segment() {
    let mut cpu = cpu16(&[0x90]);
    cpu.poke(0xffff, &[0x90]);
    cpu.rip = 0xffff;
    run(&mut cpu);
    assert_eq!(cpu.rip, 0x1_0000);
    assert_eq!(faults(&mut cpu), (vector::GP, None));
}

#[test]
fn fpu_is_found_and_started() {
    // Linux's arch/x86/boot/cpuflags.c: fninit; fnstsw [0x2000]; fnstcw [0x2002]
    let code = [
        0xdb, 0xe3, 0xdd, 0x3e, 0x00, 0x20, 0xd9, 0x3e, 0x02, 0x20, 0x9b,
    ];
    let mut cpu = cpu16(&code);
    cpu.poke(0x2000, &[0xff; 4]);
    for _ in 0..4 {
        run(&mut cpu);
    }
    assert_eq!(cpu.peek(0x2000, 4), [0, 0, 0x7f, 0x03]);
    let mut cpu = cpu16(&code);
    cpu.cr0 |= Cr0::EM.bits();
    assert_eq!(faults(&mut cpu), (vector::NM, None));
}

#[test]
fn fpu_state_is_saved_and_restored() {
    // fxsave [0x2000]; fninit; fxrstor [0x2000]; fxsave [0x2001]
    let code = [
        0x0f, 0xae, 0x06, 0x00, 0x20, 0xdb, 0xe3, 0x0f, 0xae, 0x0e, 0x00, 0x20, 0x0f, 0xae, 0x06,
        0x01, 0x20,
    ];
    let mut cpu = cpu16(&code);
    cpu.fx.set_control(0x27f);
    cpu.fx.set_xmm(7, [7; 16]);
    cpu.fx.set_xmm(8, [8; 16]);
    cpu.poke(0x2000, &[0xee; 512]);
    run(&mut cpu);
    assert_eq!(cpu.peek(0x2000, 2), [0x7f, 0x02]);
    assert_eq!(
        cpu.peek(0x2000 + 160 + 16 * 7, 17),
        [&[7; 16][..], &[0xee]].concat()
    );
    run(&mut cpu);
    cpu.fx.set_xmm(7, [0; 16]);
    run(&mut cpu);
    assert_eq!(
        (cpu.fx.control(), cpu.fx.xmm(7), cpu.fx.xmm(8)),
        (0x27f, [7; 16], [8; 16])
    );
    assert_eq!(faults(&mut cpu), (vector::GP, None), "not aligned");
    let mut cpu = cpu16(&code[7..]);
    cpu.poke(0x2000 + 26, &[1]);
    assert_eq!(faults(&mut cpu), (vector::GP, None), "MXCSR");
}

#[test]
fn enter_sets_bp_by_the_size_of_the_stack() {
    // SDM vol 2A, "ENTER—Make Stack Frame for Procedure Parameters": 66h is for what is pushed.
    let mut cpu = cpu16(&[0x66, 0xc8, 0x10, 0x00, 0x00]);
    cpu.gprs.regs[RBP] = 0x1234_5678;
    run(&mut cpu);
    assert_eq!(cpu.peek(0x7ffc, 4), [0x78, 0x56, 0x34, 0x12]);
    assert_eq!(
        (cpu.gprs.regs[RBP], cpu.gprs.regs[RSP]),
        (0x1234_7ffc, 0x7fec)
    );
}
