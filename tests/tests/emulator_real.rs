//! The emulator in real mode against QEMU: single instructions with random operands, whose results `oracle/real_mode.py` has
//! taken from QEMU and written to `oracle/real_mode.txt`. The native test cannot reach this mode.

use hv_core::emulate::testing::{FakeCpu, RegionKind};
use hv_core::emulate::{StepKind, step};
use hv_core::regs::{Rflags, SegReg};
use hv_core::testing::Random;

const MEMORY: usize = 0x11_0000;
const SEGMENTS: [(&str, SegReg); 6] = [
    ("es", SegReg::Es),
    ("cs", SegReg::Cs),
    ("ss", SegReg::Ss),
    ("ds", SegReg::Ds),
    ("fs", SegReg::Fs),
    ("gs", SegReg::Gs),
];
const NAMES: [&str; 8] = ["eax", "ecx", "edx", "ebx", "esp", "ebp", "esi", "edi"];

/// CF, PF, AF, ZF, SF, DF and OF.
const RANDOM_FLAGS: u64 = 0xcd5;

/// The byte at an address before anything is written there.
const fn fill(a: usize) -> u8 {
    (a.wrapping_mul(0x9d) + (a >> 8) * 0x3b + (a >> 16) * 0x11) as u8
}

fn hex(text: &str) -> u64 {
    u64::from_str_radix(text, 16).unwrap_or_else(|_| panic!("{text} is no hexadecimal number"))
}

fn bytes(text: &str) -> Vec<u8> {
    (0..text.len() / 2)
        .map(|i| hex(&text[2 * i..2 * i + 2]) as u8)
        .collect()
}

/// Sets the registers before an instruction: `State` of the generator.
fn prepare(cpu: &mut FakeCpu, seed: u64, code: &[u8]) {
    let mut r = Random::new(seed);
    let prefix = |p: u8| code.iter().take(4).any(|b| *b == p);
    for n in 0..8 {
        let value = r.next() & 0xffff_ffff;
        cpu.gprs.regs[n] = match n {
            1 if prefix(0xf2) || prefix(0xf3) => value & 0x3f,
            4 => value & 0x3ffe | 0x4000,
            3 | 5..=7 if prefix(0x67) => value & 0xfff | 0x200,
            3 | 5..=7 => value & 0xffff_3fff | 0x200,
            _ => value,
        };
    }
    cpu.rflags = Rflags::from_bits_retain(r.next() & RANDOM_FLAGS | 0x202);
    for (name, seg) in SEGMENTS {
        let selector = (r.next() & 0x3fff) as u16;
        let selector = match name {
            "cs" => selector & 0xfff | 0x6000,
            _ => selector,
        };
        let s = &mut cpu.segments[seg as usize];
        (s.selector, s.base) = (selector, u64::from(selector) << 4);
    }
    cpu.rip = r.next() & 0x3fff | 0x100;
}

/// What an instruction has changed, in the generator's words.
fn changes(before: &FakeCpu, after: &FakeCpu, untouched: &[u8]) -> Vec<String> {
    let mut out = vec![format!("ip={:x}", after.rip)];
    for (name, seg) in SEGMENTS {
        let (old, new) = (before.segments[seg as usize], after.segments[seg as usize]);
        assert_eq!(new.base, u64::from(new.selector) << 4);
        if new.selector != old.selector {
            out.push(format!("{name}={:x}", new.selector));
        }
    }
    for (n, name) in NAMES.into_iter().enumerate() {
        if after.gprs.regs[n] != before.gprs.regs[n] {
            out.push(format!("{name}={:x}", after.gprs.regs[n]));
        }
    }
    let memory = &after.regions[0].data;
    let mut at = 0;
    while let Some(found) = (at..MEMORY).find(|&a| memory[a] != untouched[a]) {
        let last = (found..found + 16)
            .rfind(|&a| memory[a] != untouched[a])
            .unwrap_or(found);
        let run: String = memory[found..=last]
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        out.push(format!("{found:x}:{run}"));
        at = last + 1;
    }
    out
}

#[test]
fn real_mode_instructions_do_what_qemu_does() {
    let memory: Vec<u8> = (0..MEMORY).map(fill).collect();
    let mut cpu = FakeCpu::real().region(0, MEMORY, RegionKind::Ram);
    let mut wrong = Vec::new();
    let lines = include_str!("../oracle/real_mode.txt").lines();
    let mut count = 0;
    for line in lines.filter(|l| !l.starts_with('#')) {
        let words: Vec<&str> = line.split(' ').collect();
        let code = bytes(words[1]);
        let (flags, defined) = words[2].split_once('/').expect("flags have a mask");
        prepare(&mut cpu, hex(words[0]), &code);
        let start = (
            (cpu.segments[SegReg::Cs as usize].base + cpu.rip) as usize,
            code.len(),
        );
        cpu.regions[0].data.copy_from_slice(&memory);
        cpu.regions[0].data[start.0..start.0 + start.1].copy_from_slice(&code);
        let before = cpu.clone();
        let done = step(&mut cpu);
        cpu.regions[0].data[start.0..start.0 + start.1]
            .copy_from_slice(&memory[start.0..start.0 + start.1]);
        let ok = done.is_ok_and(|s| s.kind == StepKind::Done);
        let got = changes(&before, &cpu, &memory);
        let flags_differ = (cpu.rflags.bits() ^ hex(flags)) & hex(defined);
        if !ok || got != words[3..] || flags_differ != 0 {
            wrong.push(format!(
                "{line}\n  {done:x?} flags {:x} differ {flags_differ:x} {}",
                cpu.rflags.bits(),
                got.join(" ")
            ));
        }
        count += 1;
    }
    assert!(count > 1000);
    assert!(
        wrong.is_empty(),
        "{} of {count}:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
