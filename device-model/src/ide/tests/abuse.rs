//! Random accesses: nothing may panic, hang or grow.

use super::rig::{BM, Rig, SharedDisk, SlowDisk};
use crate::ata::Drive;
use core::sync::atomic::Ordering;
use hv_core::device::{AccessSize, Device};
use hv_core::testing::{Random, VecMemory};
use hv_core::time::VmTime;

const COMMANDS: [u8; 26] = [
    0x08, 0x20, 0x24, 0x25, 0x29, 0x30, 0x34, 0x35, 0x39, 0x42, 0x90, 0x91, 0xa0, 0xa0, 0xa0, 0xa1,
    0xc4, 0xc5, 0xc6, 0xc8, 0xca, 0xe7, 0xea, 0xec, 0xef, 0xf8,
];
const OPCODES: [u8; 22] = [
    0x00, 0x03, 0x12, 0x1a, 0x1b, 0x1e, 0x25, 0x28, 0x28, 0x2b, 0x42, 0x43, 0x46, 0x4a, 0x51, 0x52,
    0x5a, 0xa8, 0xad, 0xbd, 0xbe, 0xff,
];

/// Nothing is ever asked of a medium that is at something.
#[test]
fn random_accesses_to_slow_media_do_not_panic() {
    for seed in 1..=20u64 {
        // Every other time they access the guest's memory by themselves.
        let memory = VecMemory::new(1 << 20);
        let given = (seed % 2 == 0).then_some(&memory);
        let (disk, answers) = SlowDisk::boxed(&SharedDisk::new(500), 77, given);
        let (cd, cd_answers) = SlowDisk::boxed(&SharedDisk::new(401), 99, given);
        let mut rig = Rig::new([
            Some(Drive::disk(disk)),
            Some(Drive::cdrom(Some(cd))),
            None,
            None,
        ]);
        rig.bench.mem = memory;
        let mut r = Random::new(seed);
        abuse(rig, seed, 4_000, &mut || {
            answers.store(r.below(4) == 0, Ordering::Relaxed);
            cd_answers.store(r.below(4) == 0, Ordering::Relaxed);
        });
    }
}

fn rig() -> Rig {
    Rig::new([
        Some(Drive::disk(SharedDisk::new(500).boxed())),
        Some(Drive::cdrom(Some(SharedDisk::new(401).boxed()))),
        Some(Drive::cdrom(None)),
        Some(Drive::disk(SharedDisk::new(0).boxed())),
    ])
}

fn abuse(mut rig: Rig, seed: u64, rounds: u32, each: &mut dyn FnMut()) {
    let mut r = Random::new(seed);
    let mut block = [0; 4096];
    for _ in 0..rounds {
        each();
        let base = r.pick(&[0x1f0, 0x170]);
        let size = r.pick(&[AccessSize::Byte, AccessSize::Word, AccessSize::Dword]);
        // Small numbers more often: they are the valid ones.
        let value = if r.below(2) == 0 {
            r.below(8) as u32
        } else {
            r.next() as u32
        } & size.ones();
        let port = match r.below(8) {
            0..=3 => base + r.below(8) as u16,
            4 => base + 0x206,
            5 | 6 => BM + r.below(16) as u16,
            _ => base,
        };
        let len = r.below(1024) as usize * 4;
        match r.below(16) {
            0 => rig.bench.now = rig.bench.now + VmTime(r.below(5_000)),
            1 => drop(rig.ide.poll(&mut rig.bench.cx())),
            2 => rig
                .ide
                .port_read_block(&mut rig.bench.cx(), port, size, &mut block[..len]),
            3 => {
                block[0] = r.pick(&OPCODES);
                rig.ide
                    .port_write_block(&mut rig.bench.cx(), port, size, &block[..len]);
            }
            4..=6 => rig.outb(base + 7, r.pick(&COMMANDS)),
            7 => {
                // A whole packet, as the drive expects it.
                rig.outb(base + 6, r.pick(&[0xa0, 0xb0]));
                rig.outb(base + 7, 0xa0);
                let mut cdb = [0; 12];
                for b in &mut cdb[1..] {
                    *b = if r.below(3) == 0 {
                        r.next() as u8
                    } else {
                        r.below(3) as u8
                    };
                }
                cdb[0] = r.pick(&OPCODES);
                rig.outsw(base, &cdb);
            }
            8 => {
                let entry = [r.next() as u32 & 0x81_ffff, r.next() as u32 & 0x8000_0fff];
                let at = 0x1000 + r.below(8) * 8;
                rig.poke(
                    at,
                    &[entry[0].to_le_bytes(), entry[1].to_le_bytes()].concat(),
                );
                rig.outl(BM + 4 + r.pick(&[0, 8]), 0x1000);
            }
            9 => drop(rig.ide.port_read(&mut rig.bench.cx(), port, size)),
            10 if r.below(64) == 0 => rig.ide.reset(&mut rig.bench.cx()),
            11 if r.below(64) == 0 => drop(
                rig.ide
                    .change_medium(1, Some(SharedDisk::new(r.below(900) as usize).boxed())),
            ),
            _ => rig.ide.port_write(&mut rig.bench.cx(), port, size, value),
        }
        rig.bench.requests = Default::default();
    }
}

#[test]
fn random_accesses_do_not_panic() {
    for seed in 1..=20 {
        let seed = 0x9e37_79b9_7f4a_7c15u64.wrapping_mul(seed);
        abuse(rig(), seed, 4_000, &mut || {});
    }
}

/// Every command on every kind of drive, with the data port hit from both sides in whatever state that leaves.
#[test]
fn every_command_on_every_drive_survives_any_data_access() {
    for base in [0x1f0, 0x170] {
        for select in [0xa0, 0xb0, 0xe0, 0xf0] {
            for command in 0..=255 {
                let mut rig = rig();
                for reg in 1..6 {
                    rig.outb(base + reg, 1);
                }
                rig.outb(base + 6, select);
                rig.outb(base + 7, command);
                rig.insw(base, 514);
                rig.outsw(base, &[0; 1030]);
                rig.wait(10);
                rig.insw(base, 4096);
                rig.outsw(base, &[0xff; 1030]);
                rig.inb(base + 7);
            }
        }
    }
}
