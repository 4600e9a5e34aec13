//! Random bytes in random states: nothing may panic, and what fails must leave the registers alone.

use super::*;
use crate::device::AccessSize;
use crate::emulate::testing::{RegionKind, pretend};
use crate::emulate::{Intercepted, StringIo, length, mov_system, string_io};
use crate::regs::{Rflags, SegAttr, SegReg, Segment};
use crate::testing::Random;

/// An address: anywhere, near the memory, or at an end of the address space.
fn address(r: &mut Random) -> u64 {
    let low = r.next();
    match r.next() >> 20 & 7 {
        0 => low,
        1 => low | !0xfff,
        2 => (low & 0xf) + 0xffff_fff8,
        3 => (low & 0xf) + 0xfff8,
        4 => (1 << 47) - (low & 0x1f),
        _ => 0x1000 + (low & 0x3fff),
    }
}

fn random_cpu(r: &mut Random) -> FakeCpu {
    let mut cpu = match r.next() >> 13 & 3 {
        0 => FakeCpu::real(),
        1 => FakeCpu::protected16(),
        2 => FakeCpu::protected32(),
        _ => FakeCpu::long64(),
    };
    cpu = cpu
        .region(0x1000, 0x3000, RegionKind::Ram)
        .region(0x4000, 0x1000, RegionKind::Device);
    for b in &mut cpu.regions[0].data {
        *b = r.next() as u8;
    }
    for n in 0..16 {
        cpu.gprs.regs[n] = address(r);
    }
    cpu.rflags = Rflags::from_bits_retain(r.next() & 0x3f_7fd5 | 2);
    if r.next() >> 33 & 7 != 0 {
        cpu.rflags -= Rflags::VM;
    }
    cpu.cpl = (r.next() >> 9) as u8 & 3;
    cpu.cr4 = r.next() & 0x3f_ffff;
    for n in 0..10 {
        if r.next() >> 17 & 7 == 0 {
            let attr = SegAttr::from_bits_retain(r.next() as u16 & 0xfff);
            cpu.segments[n] = Segment {
                selector: r.next() as u16,
                attr,
                limit: r.next() as u32,
                base: address(r),
            };
        }
    }
    cpu.segments[SegReg::Gdtr as usize] = Segment {
        base: 0x1000,
        limit: 0xfff,
        ..Segment::default()
    };
    cpu.rip = address(r);
    cpu.native = pretend;
    cpu
}

fn check(before: &FakeCpu, after: &FakeCpu, result: Result<Step, EmuFault>, repeated: bool) {
    if result.is_err() && !repeated {
        assert_eq!(
            (after.gprs, after.rip, after.rflags),
            (before.gprs, before.rip, before.rflags)
        );
        assert_eq!(
            (after.segments, after.cpl, after.fx),
            (before.segments, before.cpl, before.fx)
        );
    }
}

#[test]
fn random_bytes_never_panic_and_faults_change_nothing() {
    let mut r = Random::new(0x1234_5678_9abc_def1);
    for _ in 0..30_000 {
        let mut cpu = random_cpu(&mut r);
        let mut code = [0u8; 15];
        code.iter_mut().for_each(|b| *b = r.next() as u8);
        // Half of the time an opcode of the second map, a third with a prefix.
        if r.next() >> 11 & 1 == 0 {
            code[0] = 0x0f;
        }
        if (r.next() >> 7).is_multiple_of(3) {
            let prefixes = [0x66, 0x67, 0xf0, 0xf2, 0xf3, 0x26, 0x36, 0x48];
            code.rotate_right(1);
            code[0] = prefixes[r.next() as usize & 7];
        }
        let linear = cpu.rip.wrapping_add(cpu.segments[SegReg::Cs as usize].base);
        if !cpu.poke(linear, &code) {
            cpu = cpu.code(0x1800, &code);
        }
        let before = cpu.clone();
        let result = step(&mut cpu);
        let repeated = code.iter().any(|b| matches!(b, 0xf2 | 0xf3));
        check(&before, &cpu, result, repeated);
        let mut cpu = before.clone();
        let _ = length(&mut cpu, Intercepted::Invlpg);
        let _ = length(&mut cpu, Intercepted::Cpuid);
        let _ = mov_system(&mut cpu);
        check(&before, &cpu, Err(EmuFault::Retry), false);
    }
}

#[test]
fn string_io_with_random_descriptions_is_bounded() {
    let mut r = Random::new(0xfeed_5678_9abc_def1);
    for _ in 0..3_000 {
        let mut cpu = random_cpu(&mut r);
        let io = StringIo {
            port: r.next() as u16,
            size: [AccessSize::Byte, AccessSize::Word, AccessSize::Dword]
                [(r.next() >> 40) as usize % 3],
            write: r.next() & 1 == 0,
            rep: r.next() & 2 == 0,
            address_size: [2, 4, 8, 0][(r.next() >> 40) as usize % 4],
            segment: (r.next() & 1 == 0).then_some(SegReg::Fs),
            next_rip: (r.next() & 4 == 0).then(|| r.next()),
        };
        let _ = string_io(&mut cpu, &io);
        assert!(cpu.events.len() <= 4096 * 2);
    }
}
