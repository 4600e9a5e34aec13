//! Instructions whose memory operand is a device.

use super::*;
use crate::emulate::StepKind;
use crate::emulate::testing::{Event, RegionKind};
use crate::regs::gpr::*;
use crate::regs::{Cr0, Rflags};
use iced_x86::code_asm::*;

/// Where the device is: the local APIC's place.
const DEVICE: u64 = 0xfee0_0000;

/// A CPU in 64-bit mode with code, a device and some RAM for a stack.
fn cpu64(write: impl FnOnce(&mut CodeAssembler)) -> FakeCpu {
    let code = assemble(64, 0x1000, write);
    let mut cpu = FakeCpu::long64()
        .region(DEVICE, 0x1000, RegionKind::Device)
        .region(0x8000, 0x1000, RegionKind::Ram)
        .code(0x1000, &code);
    cpu.gprs.regs[RSP] = 0x8800;
    cpu.gprs.regs[RBX] = DEVICE;
    cpu
}

#[test]
fn mov_store_writes_the_device_once_with_the_operand_size() {
    for (size, value) in [
        (1, 0x88),
        (2, 0x7788),
        (4, 0x5566_7788),
        (8, 0x1122_3344_5566_7788),
    ] {
        let mut cpu = cpu64(|a| {
            match size {
                1 => a.mov(byte_ptr(rbx + 0xb0), al),
                2 => a.mov(word_ptr(rbx + 0xb0), ax),
                4 => a.mov(dword_ptr(rbx + 0xb0), eax),
                _ => a.mov(qword_ptr(rbx + 0xb0), rax),
            }
            .unwrap();
        });
        cpu.gprs.regs[RAX] = 0x1122_3344_5566_7788;
        run(&mut cpu);
        assert_eq!(
            cpu.take(),
            [Event::Write {
                at: DEVICE + 0xb0,
                size,
                value
            }]
        );
        assert_eq!(cpu.rip, 0x1000 + cpu.regions[2].data.len() as u64);
    }
}

#[test]
fn linux_apic_read_loads_32_bits_and_clears_the_upper_half() {
    // native_apic_mem_read: mov eax, [rip-relative or absolute].
    let mut cpu = cpu64(|a| a.mov(eax, dword_ptr(rbx + 0x20)).unwrap());
    cpu.poke(DEVICE + 0x20, &[1, 2, 3, 0x84]);
    cpu.gprs.regs[RAX] = u64::MAX;
    run(&mut cpu);
    assert_eq!(cpu.gprs.regs[RAX], 0x8403_0201);
    assert_eq!(
        cpu.take(),
        [Event::Read {
            at: DEVICE + 0x20,
            size: 4
        }]
    );
}

#[test]
fn byte_load_into_ah_changes_only_bits_15_to_8() {
    let mut cpu = cpu64(|a| a.mov(ah, byte_ptr(rbx)).unwrap());
    cpu.poke(DEVICE, &[0x5a]);
    cpu.gprs.regs[RAX] = u64::MAX;
    run(&mut cpu);
    assert_eq!(cpu.gprs.regs[RAX], 0xffff_ffff_ffff_5aff);
}

#[test]
fn store_of_immediate_extends_its_sign_to_64_bits() {
    let mut cpu = cpu64(|a| a.mov(qword_ptr(rbx), -2).unwrap());
    run(&mut cpu);
    assert_eq!(
        cpu.take(),
        [Event::Write {
            at: DEVICE,
            size: 8,
            value: -2i64 as u64
        }]
    );
}

#[test]
fn moffs_with_67h_takes_a_32_bit_address() {
    // a1 with a 4-byte address under 67h, in 64-bit mode.
    let mut cpu = cpu64(|a| a.db(&[0x67, 0xa1, 0x30, 0x00, 0xe0, 0xfe]).unwrap());
    cpu.poke(DEVICE + 0x30, &[9, 0, 0, 0]);
    run(&mut cpu);
    assert_eq!(cpu.gprs.regs[RAX], 9);
}

#[test]
fn rip_relative_operand_counts_from_the_next_instruction() {
    let mut cpu = cpu64(|a| a.db(&[0x8b, 0x05, 0xfa, 0x6f, 0x00, 0x00]).unwrap());
    cpu.poke(0x8000, &[0x78, 0x56, 0x34, 0x12]);
    run(&mut cpu);
    assert_eq!(cpu.gprs.regs[RAX], 0x1234_5678);
}

#[test]
fn movzx_movsx_and_movbe_convert() {
    type Case = (fn(&mut CodeAssembler), u64);
    let cases: [Case; 6] = [
        (|a| a.movzx(eax, byte_ptr(rbx)).unwrap(), 0x81),
        (
            |a| a.movsx(rax, byte_ptr(rbx)).unwrap(),
            0xffff_ffff_ffff_ff81,
        ),
        (|a| a.movsx(eax, word_ptr(rbx)).unwrap(), 0xffff_8281),
        (
            |a| a.movsxd(rax, dword_ptr(rbx)).unwrap(),
            0xffff_ffff_8483_8281,
        ),
        (|a| a.movbe(eax, dword_ptr(rbx)).unwrap(), 0x8182_8384),
        (|a| a.movbe(ax, word_ptr(rbx)).unwrap(), 0x8182),
    ];
    for (write, expected) in cases {
        let mut cpu = cpu64(write);
        cpu.poke(DEVICE, &[0x81, 0x82, 0x83, 0x84]);
        run(&mut cpu);
        assert_eq!(cpu.gprs.regs[RAX], expected);
    }
}

#[test]
fn read_modify_write_reads_once_and_writes_once() {
    for lock in [false, true] {
        let mut cpu = cpu64(|a| {
            if lock {
                a.lock().or(dword_ptr(rbx), 0x10).unwrap()
            } else {
                a.or(dword_ptr(rbx), 0x10).unwrap()
            }
        });
        cpu.poke(DEVICE, &[1, 0, 0, 0]);
        run(&mut cpu);
        let read = Event::Read {
            at: DEVICE,
            size: 4,
        };
        assert_eq!(
            cpu.take(),
            [
                read,
                Event::Write {
                    at: DEVICE,
                    size: 4,
                    value: 0x11
                }
            ]
        );
    }
}

#[test]
fn test_and_cmp_do_not_write() {
    let mut cpu = cpu64(|a| a.test(dword_ptr(rbx), 0x1000).unwrap());
    run(&mut cpu);
    assert_eq!(
        cpu.take(),
        [Event::Read {
            at: DEVICE,
            size: 4
        }]
    );
    assert!(cpu.rflags.contains(Rflags::ZF | Rflags::PF));
}

#[test]
fn xchg_with_memory_swaps() {
    let mut cpu = cpu64(|a| a.xchg(dword_ptr(rbx), ecx).unwrap());
    cpu.poke(DEVICE, &[7, 0, 0, 0]);
    cpu.gprs.regs[RCX] = 0xffff_ffff_0000_0009;
    run(&mut cpu);
    assert_eq!(
        (cpu.gprs.regs[RCX], cpu.peek(DEVICE, 4)),
        (7, vec![9, 0, 0, 0])
    );
}

#[test]
fn locked_instruction_that_loses_a_race_reads_again() {
    let mut cpu = cpu64(|a| a.lock().xadd(dword_ptr(rbx), ecx).unwrap());
    cpu.gprs.regs[RCX] = 5;
    cpu.lost_races = 2;
    run(&mut cpu);
    assert_eq!(cpu.take().len(), 4);
    cpu.rip = 0x1000;
    cpu.lost_races = u32::MAX;
    assert_eq!(step(&mut cpu), Err(EmuFault::Retry));
    assert_eq!(cpu.rip, 0x1000);
}

#[test]
fn cmpxchg_writes_memory_even_when_it_differs() {
    let mut cpu = cpu64(|a| a.lock().cmpxchg(dword_ptr(rbx), ecx).unwrap());
    cpu.poke(DEVICE, &[3, 0, 0, 0]);
    cpu.gprs.regs[RAX] = 4;
    run(&mut cpu);
    assert_eq!(
        cpu.take()[1],
        Event::Write {
            at: DEVICE,
            size: 4,
            value: 3
        }
    );
    assert_eq!(cpu.gprs.regs[RAX], 3);
    assert!(!cpu.rflags.contains(Rflags::ZF));
}

#[test]
fn cmpxchg16b_needs_alignment() {
    let mut cpu = cpu64(|a| a.lock().cmpxchg16b(xmmword_ptr(rsp + 8)).unwrap());
    assert_eq!(faults(&mut cpu), GP0);
    cpu.gprs.regs[RSP] += 8;
    cpu.gprs.regs[RCX] = 2;
    run(&mut cpu);
    assert!(cpu.rflags.contains(Rflags::ZF));
}

#[test]
fn bts_with_a_register_offset_addresses_a_bit_string_both_ways() {
    let mut cpu = cpu64(|a| a.bts(dword_ptr(rsp), eax).unwrap());
    cpu.gprs.regs[RAX] = -1i64 as u64;
    run(&mut cpu);
    assert_eq!(cpu.peek(0x8800 - 4, 4), [0, 0, 0, 0x80]);
    cpu.rip = 0x1000;
    cpu.gprs.regs[RAX] = 33;
    run(&mut cpu);
    assert_eq!(cpu.peek(0x8804, 4), [2, 0, 0, 0]);
}

#[test]
fn push_and_pop_of_device_memory() {
    let mut cpu = cpu64(|a| a.push(qword_ptr(rbx)).unwrap());
    cpu.poke(DEVICE, &[1, 2, 3, 4, 5, 6, 7, 8]);
    run(&mut cpu);
    assert_eq!(
        (cpu.gprs.regs[RSP], cpu.peek(0x87f8, 8)),
        (0x87f8, vec![1, 2, 3, 4, 5, 6, 7, 8])
    );

    // POP's address uses RSP after the increment.
    let mut cpu = cpu64(|a| a.pop(qword_ptr(rsp + 8)).unwrap());
    cpu.poke(0x8800, &[9]);
    run(&mut cpu);
    assert_eq!(cpu.peek(0x8810, 1), [9]);
}

#[test]
fn call_through_memory_pushes_the_next_rip() {
    let mut cpu = cpu64(|a| a.call(qword_ptr(rsp + 8)).unwrap());
    cpu.poke(0x8808, &[0, 0x20]);
    run(&mut cpu);
    assert_eq!((cpu.rip, cpu.peek(0x87f8, 2)), (0x2000, vec![4, 0x10]));
}

#[test]
fn call_to_a_noncanonical_address_faults_before_the_push() {
    let mut cpu = cpu64(|a| a.call(rax).unwrap());
    cpu.gprs.regs[RAX] = 1 << 47;
    assert_eq!(faults(&mut cpu), GP0);
    assert_eq!(cpu.peek(0x87f8, 8), [0; 8]);
}

#[test]
fn sse_store_needs_its_alignment_and_its_permission() {
    let mut cpu = cpu64(|a| a.movntdq(xmmword_ptr(rbx), xmm3).unwrap());
    cpu.fx.set_xmm(3, [0xa5; 16]);
    cpu.cr0 |= Cr0::TS.bits();
    assert_eq!(faults(&mut cpu), (vector::NM, None));
    cpu.cr0 = (Cr0::PE | Cr0::EM).bits();
    assert_eq!(faults(&mut cpu), (vector::UD, None));
    cpu.cr0 = Cr0::PE.bits();
    cpu.gprs.regs[RBX] += 8;
    assert_eq!(faults(&mut cpu), GP0);
    cpu.gprs.regs[RBX] -= 8;
    run(&mut cpu);
    assert_eq!(cpu.peek(DEVICE, 16), [0xa5; 16]);
}

#[test]
fn movd_and_movq_loads_clear_the_rest_of_the_register() {
    let mut cpu = cpu64(|a| a.movq(xmm1, qword_ptr(rbx)).unwrap());
    cpu.fx.set_xmm(1, [0xff; 16]);
    cpu.poke(DEVICE, &[1, 2, 3, 4, 5, 6, 7, 8]);
    run(&mut cpu);
    assert_eq!(
        cpu.fx.xmm(1),
        [1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    let mut cpu = cpu64(|a| a.movss(xmm1, xmm2).unwrap());
    cpu.fx.set_xmm(1, [1; 16]);
    cpu.fx.set_xmm(2, [2; 16]);
    run(&mut cpu);
    assert_eq!(
        cpu.fx.xmm(1),
        [2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]
    );
}

#[test]
fn faulting_store_changes_nothing() {
    let mut cpu = cpu64(|a| a.xadd(qword_ptr(rdi), rax).unwrap());
    cpu.gprs.regs[RDI] = 0x8ffc;
    assert_eq!(
        step(&mut cpu),
        Err(EmuFault::Exception {
            vector: vector::PF,
            error: Some(2),
            cr2: Some(0x9000)
        })
    );
    assert_eq!((cpu.rip, cpu.gprs.regs[RAX]), (0x1000, 0));
}

#[test]
fn noncanonical_operand_is_gp_and_ss_for_the_stack() {
    let mut cpu = cpu64(|a| a.mov(eax, dword_ptr(rdi)).unwrap());
    cpu.gprs.regs[RDI] = 1 << 47;
    assert_eq!(faults(&mut cpu), GP0);
    cpu.gprs.regs[RDI] = (1 << 47) - 1;
    assert_eq!(faults(&mut cpu), GP0);
    let mut cpu = cpu64(|a| a.mov(eax, dword_ptr(rsp)).unwrap());
    cpu.gprs.regs[RSP] = 1 << 47;
    assert_eq!(faults(&mut cpu), (vector::SS, Some(0)));
}

#[test]
fn fs_and_gs_have_bases_in_64_bit_mode_and_ds_has_none() {
    let mut cpu = cpu64(|a| a.mov(eax, dword_ptr(0x10).gs()).unwrap());
    cpu.segments[crate::regs::SegReg::Gs as usize].base = 0x8000;
    cpu.poke(0x8010, &[5]);
    run(&mut cpu);
    assert_eq!(cpu.gprs.regs[RAX], 5);
    let mut cpu = cpu64(|a| a.mov(eax, dword_ptr(rbx)).unwrap());
    cpu.segments[crate::regs::SegReg::Ds as usize].base = 0x1234_5678;
    run(&mut cpu);
    assert_eq!(
        cpu.take(),
        [Event::Read {
            at: DEVICE,
            size: 4
        }]
    );
}

#[test]
fn instruction_bytes_are_fetched_once_even_over_a_page_border() {
    let code = assemble(64, 0x1ffe, |a| a.mov(dword_ptr(rbx), 0x1234_5678).unwrap());
    let mut cpu = FakeCpu::long64()
        .region(DEVICE, 16, RegionKind::Device)
        .code(0x1ffe, &code);
    cpu.gprs.regs[RBX] = DEVICE;
    run(&mut cpu);
    assert_eq!(cpu.fetched, code.len());
}

#[test]
fn fetch_beyond_the_mapped_page_faults_there() {
    let mut cpu = FakeCpu::long64().code(0x1ffe, &[0xc7, 0x03]);
    let fault = EmuFault::Exception {
        vector: vector::PF,
        error: Some(0x10),
        cr2: Some(0x2000),
    };
    assert_eq!(step(&mut cpu), Err(fault));
}

#[test]
fn instruction_of_more_than_15_bytes_is_gp() {
    let mut code = [0x66; 20];
    code[19] = 0x90;
    assert_eq!(faults(&mut FakeCpu::long64().code(0x1000, &code)), GP0);
}

/// Whether an instruction may have LOCK with its destination in memory (SDM vol 2A, "LOCK—Assert LOCK# Signal Prefix"); `reg` is ModRM's.
fn takes_lock(two_bytes: bool, opcode: u8, reg: u8) -> bool {
    match (two_bytes, opcode) {
        // ADD, OR, ADC, SBB, AND, SUB, XOR, and CMP, which writes nothing.
        (false, 0x00..=0x37) => opcode & 7 < 2,
        (false, 0x80 | 0x81 | 0x83) => reg != 7,
        (false, 0x86 | 0x87) => true,
        // NOT and NEG; INC and DEC.
        (false, 0xf6 | 0xf7) => matches!(reg, 2 | 3),
        (false, 0xfe | 0xff) => reg < 2,
        // BTS, BTR, BTC; CMPXCHG, XADD; CMPXCHG8B.
        (true, 0xab | 0xb3 | 0xbb | 0xb0 | 0xb1 | 0xc0 | 0xc1) => true,
        (true, 0xba) => reg > 4,
        (true, 0xc7) => reg == 1,
        _ => false,
    }
}

#[test]
fn lock_is_undefined_but_where_the_manual_allows_it() {
    let ud = Err(EmuFault::UD);
    // Prefixes, and bytes of other encodings: VEX, EVEX, XOP and 3DNow!.
    let other = |opcode| matches!(opcode, 0x0f | 0x26 | 0x2e | 0x36 | 0x3e | 0x40..=0x4f | 0x62 | 0x64..=0x67 | 0xc4 | 0xc5 | 0xf0 | 0xf2 | 0xf3);
    for two_bytes in [false, true] {
        for opcode in (0..=0xff).filter(|&opcode| two_bytes || !other(opcode)) {
            for (reg, memory) in (0..8).flat_map(|reg| [(reg, false), (reg, true)]) {
                // [RBX], or RBX itself.
                let modrm = if memory { 0x03 } else { 0xc3 } | reg << 3;
                let mut code = vec![0xf0];
                code.extend(two_bytes.then_some(0x0f));
                code.extend([opcode, modrm, 0, 0, 0, 0, 0, 0, 0, 0]);
                let mut cpu = FakeCpu::long64().code(0x1000, &code);
                cpu.gprs.regs[RBX] = DEVICE;
                let allowed = memory && takes_lock(two_bytes, opcode, reg);
                let done = step(&mut cpu);
                assert_eq!(done == ud, !allowed, "{code:02x?}: {done:?}");
            }
        }
    }
}

#[test]
fn hlt_is_privileged_and_halts() {
    let mut cpu = FakeCpu::long64().code(0x1000, &[0xf4]);
    cpu.cpl = 3;
    assert_eq!(faults(&mut cpu), GP0);
    cpu.cpl = 0;
    assert_eq!(run(&mut cpu).kind, StepKind::Halt);
    assert_eq!(cpu.rip, 0x1001);
}

#[test]
fn single_step_is_reported_and_rf_cleared() {
    let mut cpu = FakeCpu::long64().code(0x1000, &[0x90]);
    cpu.rflags |= Rflags::TF | Rflags::RF;
    assert!(run(&mut cpu).single_step);
    assert!(!cpu.rflags.contains(Rflags::RF));
}

#[test]
fn code_that_runs_into_the_non_canonical_hole_is_gp() {
    let top = 1 << 47;
    let mut cpu = FakeCpu::long64().code(top - 1, &[0x90]);
    run(&mut cpu);
    assert_eq!(faults(&mut cpu), GP0);
    assert_eq!(
        faults(&mut FakeCpu::long64().code(top - 2, &[0xc7, 0x03])),
        GP0
    );
    let mut cpu = FakeCpu::long64().code(u64::MAX, &[0xc7]);
    assert_eq!(faults(&mut cpu), GP0);
}

#[test]
fn unaligned_data_at_level_3_is_an_alignment_check() {
    let unaligned: [fn(&mut CodeAssembler); 5] = [
        |a| a.mov(ax, word_ptr(rbx + 1)).unwrap(),
        |a| a.add(dword_ptr(rbx + 2), eax).unwrap(),
        |a| a.xchg(qword_ptr(rbx + 4), rax).unwrap(),
        |a| a.fld(tword_ptr(rbx + 4)).unwrap(),
        |a| a.movq(mm0, qword_ptr(rbx + 4)).unwrap(),
    ];
    for write in unaligned {
        let mut cpu = cpu64(write);
        cpu.cpl = 3;
        cpu.cr0 |= Cr0::AM.bits();
        cpu.rflags |= Rflags::AC;
        assert_eq!(faults(&mut cpu), (vector::AC, Some(0)));
        assert_eq!(cpu.take(), []);
        // Each of the three is needed.
        cpu.native = |_| crate::emulate::Executed::Done;
        for n in 0..3 {
            let mut cpu = cpu.clone();
            match n {
                0 => cpu.cpl = 0,
                1 => cpu.cr0 &= !Cr0::AM.bits(),
                _ => cpu.rflags -= Rflags::AC,
            }
            run(&mut cpu);
        }
    }
}

#[test]
fn operand_across_two_pages_is_checked_whole_before_the_device_is_touched() {
    // The last bytes of the device, and nothing behind it.
    let mut cpu = cpu64(|a| a.movups(xmmword_ptr(rbx + 0xff8), xmm0).unwrap());
    assert_eq!(faults(&mut cpu), (vector::PF, Some(2)));
    let mut cpu = cpu64(|a| a.vmovdqu(ymm0, ymmword_ptr(rbx + 0xff0)).unwrap());
    cpu.native = |_| panic!("there is no operand");
    assert_eq!(faults(&mut cpu), (vector::PF, Some(0)));
    assert_eq!(cpu.take(), []);
}

#[test]
fn fpu_faults_come_in_the_manuals_order() {
    type Set = fn(&mut FakeCpu);
    let addps: fn(&mut CodeAssembler) = |a| a.addps(xmm0, xmmword_ptr(rbx + 8)).unwrap();
    let fadd: fn(&mut CodeAssembler) = |a| a.fadd(dword_ptr(rbx)).unwrap();
    let paddb: fn(&mut CodeAssembler) = |a| a.paddb(mm0, qword_ptr(rbx)).unwrap();
    let vaddps: fn(&mut CodeAssembler) = |a| a.vaddps(xmm0, xmm1, xmmword_ptr(rbx)).unwrap();
    let ts: Set = |cpu| cpu.cr0 |= Cr0::TS.bits();
    let em: Set = |cpu| cpu.cr0 |= Cr0::EM.bits();
    let no_osfxsr: Set = |cpu| cpu.cr4 &= !crate::regs::Cr4::OSFXSR.bits();
    let no_avx: Set = |cpu| cpu.xcr0 = 3;
    let pending: Set = |cpu| {
        cpu.fx.set_control(0x37b);
        cpu.fx.set_status(4);
    };
    let nothing: Set = |_| {};
    const UD: (u8, Option<u32>) = (vector::UD, None);
    const NM: (u8, Option<u32>) = (vector::NM, None);
    const MF: (u8, Option<u32>) = (vector::MF, None);
    for (code, set, expected) in [
        (addps, nothing, GP0), // not aligned
        (addps, ts, NM),
        (addps, em, UD),
        (addps, no_osfxsr, UD),
        (fadd, ts, NM),
        (fadd, em, NM),
        (fadd, pending, MF),
        (paddb, em, UD),
        (paddb, ts, NM),
        (paddb, pending, MF),
        (vaddps, no_avx, UD),
        (vaddps, ts, NM),
    ] {
        let mut cpu = cpu64(code);
        set(&mut cpu);
        assert_eq!(faults(&mut cpu), expected);
        assert_eq!(cpu.take(), []);
    }
}

#[test]
fn masked_store_writes_only_what_the_mask_selects() {
    let mut cpu = cpu64(|a| {
        a.vmaskmovps(xmmword_ptr(rbx), xmm1, xmm2).unwrap();
    });
    // The second and fourth element.
    cpu.native = |insn| {
        insn.operand[4..8].fill(1);
        insn.operand[12..16].fill(2);
        crate::emulate::Executed::Done
    };
    run(&mut cpu);
    let write = |at, value| Event::Write { at, size: 4, value };
    let expected = [
        write(DEVICE + 4, 0x0101_0101),
        write(DEVICE + 12, 0x0202_0202),
    ];
    assert_eq!(cpu.take(), expected);
}
