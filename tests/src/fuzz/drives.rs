//! The controllers of disks, CDs and floppies.

use super::device::{device, device_on, disk, line};
use super::medium::SlowDisk;
use crate::feed::Feed;
use device_model::ata::Drive;
use device_model::dma::Dma;
use device_model::fdc::Fdc;
use device_model::ide::Ide;
use hv_core::device::{AccessSize, Device};
use hv_core::lock::{Lock, Rank};
use hv_core::machine::FloppyDrive;
use hv_core::testing::Bench;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The IDE controller with a disk, a drive with a disc, one without, and an empty disk.
pub fn ide(data: &[u8]) {
    let drives = [
        Some(Drive::disk(disk(500))),
        Some(Drive::cdrom(Some(disk(401)))),
        Some(Drive::cdrom(None)),
        Some(Drive::disk(disk(0))),
    ];
    controller(Bench::new(), data, drives, |_| {});
}

/// The same with media that take their time and have bad sectors.
pub fn ide_slow(data: &[u8]) {
    let bench = Bench::new();
    let (disk, first) = SlowDisk::new(500, &bench.mem);
    let (disc, second) = SlowDisk::new(400, &bench.mem);
    let drives = [
        Some(Drive::disk(disk)),
        None,
        Some(Drive::cdrom(Some(disc))),
        None,
    ];
    controller(bench, data, drives, |f| {
        let patience = f.pick(&[&first, &second]);
        patience.store(f.pick(&[0, 1, 2, 20]), Ordering::Relaxed);
    });
}

/// The IDE controller with these drives. `more` is something else that may happen.
fn controller(
    bench: Bench,
    data: &[u8],
    drives: [Option<Drive>; 4],
    mut more: impl FnMut(&mut Feed<'_>),
) {
    const BUS_MASTER: u16 = 0xc000;
    let ports = [
        (0x1f0, 8),
        (0x170, 8),
        (0x3f6, 1),
        (0x376, 1),
        (BUS_MASTER, 16),
    ];
    let controller = Ide::new(line(), line(), drives);
    device_on(bench, data, controller, &ports, &[], |ide, bench, f| {
        more(f);
        let base = f.pick(&[0x1f0, 0x170]);
        let mut out = |port, value: u8| {
            ide.port_write(&mut bench.cx(), port, AccessSize::Byte, value.into());
        };
        let registers = [f.u8(), f.u8() & 7, f.u8(), f.u8() & 3, f.u8() & 3, f.u8()];
        for (port, value) in (base + 1..).zip(registers) {
            out(port, value);
        }
        // A packet as the drive expects it, or one of all commands.
        if f.bool() {
            out(base + 7, 0xa0);
            let mut packet = [0; 12];
            let given = f.bytes(12);
            packet[..given.len()].copy_from_slice(given);
            ide.port_write_block(&mut bench.cx(), base, AccessSize::Word, &packet);
        } else {
            out(base + 7, f.u8());
        }
        if f.below(16) == 0 {
            ide.change_medium(1, f.bool().then(|| disk(64) as _));
        }
    });
}

/// What the 82077AA's data sheet says of its commands (table 5-1, "82077AA Command Set"): bits of the first byte that count, what they are,
/// bytes that follow, bytes of results. All else is invalid, with one byte of results.
const FLOPPY_COMMANDS: [(u8, u8, usize, usize); 18] = [
    (0x1f, 0x06, 8, 7),
    (0x1f, 0x0c, 8, 7),
    (0x3f, 0x05, 8, 7),
    (0x3f, 0x09, 8, 7),
    (0x9f, 0x02, 8, 7),
    (0x1f, 0x16, 8, 7),
    (0xff, 0x10, 0, 1),
    (0xbf, 0x0d, 5, 7),
    (0xff, 0x07, 1, 0),
    (0xff, 0x08, 0, 2),
    (0xff, 0x03, 2, 0),
    (0xff, 0x04, 1, 1),
    (0xff, 0x0f, 2, 0),
    (0xff, 0x13, 3, 0),
    (0xbf, 0x8f, 2, 0),
    (0xff, 0x0e, 0, 10),
    (0xbf, 0x0a, 1, 7),
    (0xff, 0x12, 1, 0),
];

/// The floppy disk controller: every command has the lengths that the data sheet says, whatever is done to the controller between them.
pub fn fdc(data: &[u8]) {
    let dma = Arc::new(Lock::new(Rank::Part, Dma::new()));
    let floppy = |f: &mut Feed<'_>| disk(f.pick(&[1440, 2880, 5760, 9])) as _;
    let mut first = Feed::new(data);
    let medium = first.bool().then(|| floppy(&mut first));
    let controller = Fdc::new(line(), dma.clone(), FloppyDrive::M2880, medium);
    let ports = [(0x3f0, 6), (0x3f7, 1)];
    device(first.rest(), controller, &ports, &[], |fdc, bench, f| {
        if f.below(8) == 0 {
            fdc.change_medium(f.bool().then(|| floppy(f)));
        }
        let programmed = [
            (0x0a, 6),
            (0x0c, 0),
            (0x05, f.u8()),
            (0x05, f.u8() & 0x7f),
            (0x0b, f.pick(&[0x46, 0x4a, 0x42, 0x56])),
            (0x0a, 2),
        ];
        for (port, value) in programmed {
            dma.lock()
                .port_write(&mut bench.cx(), port, AccessSize::Byte, value.into());
        }
        let byte = AccessSize::Byte;
        let out = |fdc: &mut Fdc, bench: &mut Bench, port, value: u8| {
            fdc.port_write(&mut bench.cx(), port, byte, value.into());
        };
        let status =
            |fdc: &mut Fdc, bench: &mut Bench| fdc.port_read(&mut bench.cx(), 0x3f4, byte) as u8;
        // From wherever it is to where it takes a command.
        out(fdc, bench, 0x3f2, 0);
        out(fdc, bench, 0x3f2, 0x1c);
        while let Some(next) = fdc.poll(&mut bench.cx()) {
            bench.now = bench.now.max(next);
        }
        let select = f.u8() & 3;
        out(fdc, bench, 0x3f7, select);
        for _ in 0..4 {
            assert_eq!(status(fdc, bench), 0x80);
            let command = match f.bool() {
                true => f.u8(),
                false => f.pick(&FLOPPY_COMMANDS).1 | 0x40,
            };
            let known = FLOPPY_COMMANDS
                .iter()
                .find(|(mask, value, ..)| command & mask == *value);
            let lock = command & 0x7f == 0x14;
            let lengths = known.map(|&(_, _, parameters, results)| (parameters, results));
            let (parameters, results) = lengths.unwrap_or((0, 1));
            out(fdc, bench, 0x3f5, command);
            for n in 0..parameters {
                assert_eq!(status(fdc, bench), 0x90, "{command:#x}, parameter {n}");
                let small = f.u8() & 3;
                let value = if f.bool() { f.u8() } else { small };
                out(fdc, bench, 0x3f5, value);
            }
            // At most two tracks' sectors go through the data port.
            for _ in 0..=2 * 36 * 512 {
                while let Some(next) = fdc.poll(&mut bench.cx()) {
                    bench.now = bench.now.max(next);
                }
                match status(fdc, bench) & 0x60 {
                    0x20 => out(fdc, bench, 0x3f5, 0x5a),
                    0x60 => {
                        fdc.port_read(&mut bench.cx(), 0x3f5, byte);
                    }
                    _ => break,
                }
            }
            let mut count = 0;
            let mut answer = 0;
            while status(fdc, bench) & 0x50 == 0x50 {
                let next = fdc.port_read(&mut bench.cx(), 0x3f5, byte);
                answer = if count == 0 { next } else { answer };
                count += 1;
                assert!(count <= 10);
            }
            let invalid = answer == 0x80 && count == 1;
            assert!(
                count == results || invalid && command == 8,
                "{command:#x}: {count} results"
            );
            assert!(!invalid || known.is_none() && !lock || command == 8);
        }
    });
}
