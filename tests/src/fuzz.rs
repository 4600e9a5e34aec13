//! One function for each part that a guest feeds. None of them may panic, whatever the bytes; none may take long.

mod ata;
mod medium;
mod protocol;
mod vm;

pub use self::protocol::{messages, requests, screens};
pub use ata::ata;
use medium::SlowDisk;
pub use vm::vm;

use crate::feed::Feed;
use crate::pc::Pc;
use console::{COLUMNS, Command, Editor, Event, Keyboard, ROWS, Screen, SerialLine};
use core::fmt::Write;
use device_model::a20::A20;
use device_model::dma::Dma;
use device_model::fdc::Fdc;
use device_model::fwcfg::FwCfg;
use device_model::i8042::I8042;
use device_model::ide::{Drive, Ide};
use device_model::ne2k::Ne2k;
use device_model::vga::{self, Picture, TextScreen, Vga};
use hv_core::backend::NetBackend;
use hv_core::device::{AccessSize, Device, WindowId};
use hv_core::emulate::testing::{FakeCpu, RegionKind, pretend};
use hv_core::emulate::{Intercepted, StringIo, length, mov_system, step, string_io};
use hv_core::irq::IrqLine;
use hv_core::machine::{FloppyDrive, IdeDrive, MachineDesc};
use hv_core::mem::GuestMemory;
use hv_core::mmu::{Access, PagingState};
use hv_core::regs::{Cr0, Cr4, Efer, Rflags, SegAttr, SegReg, Segment};
use hv_core::testing::{Bench, RamDisk, RecordingIrqs, VecDeviceRam, VecMemory};
use hv_core::{Gpa, Gva, VmTime};
use hvmloader_fw::bios::BiosPlacement;
use hvmloader_fw::linux;
use npt_shadow::Algorithm;
use spin::Mutex;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use switch::{FRAME, Queue, Switch};

/// A part that a guest, a medium or the network feeds.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, which is its function's.
    pub name: &'static str,
    /// What it does with a string of bytes.
    pub body: fn(&[u8]),
    /// The longest string that is of use, in bytes.
    pub longest: usize,
}

/// A target.
#[must_use]
pub const fn target(name: &'static str, body: fn(&[u8]), longest: usize) -> Target {
    Target {
        name,
        body,
        longest,
    }
}

/// All of them.
pub const TARGETS: &[Target] = &[
    target("ata", ata, 1_024),
    target("bios", bios, 4_096),
    target("bus", bus, 4_096),
    target("console", console, 1_024),
    target("emulator", emulator, 512),
    target("fdc", fdc, 4_096),
    target("fw_cfg", fw_cfg, 2_048),
    target("i8042", i8042, 1_024),
    target("ide", ide, 4_096),
    target("ide_slow", ide_slow, 4_096),
    target("linux", linux, 2_048),
    target("messages", messages, 4_096),
    target("ne2k", ne2k, 4_096),
    target("requests", requests, 1_024),
    target("screens", screens, 4_096),
    target("shadow", shadow, 2_048),
    target("switch", switch, 4_096),
    target("vga", vga, 4_096),
    target("vm", vm, 4_096),
    target("walker", walker, 4_096),
];

/// The targets of the host tool, which has functions of its own for them (`xtask::parsers`).
pub const OF_THE_TOOL: [&str; 2] = ["media", "words"];

/// The target of that name.
#[must_use]
pub fn named(name: &str) -> Option<Target> {
    TARGETS.iter().copied().find(|target| target.name == name)
}

/// One instruction in any state: a fault must leave the registers as they were.
pub fn emulator(data: &[u8]) {
    let f = &mut Feed::new(data);
    let mut cpu = match f.below(4) {
        0 => FakeCpu::real(),
        1 => FakeCpu::protected16(),
        2 => FakeCpu::protected32(),
        _ => FakeCpu::long64(),
    };
    cpu = cpu
        .region(0x1000, 0x3000, RegionKind::Ram)
        .region(0x4000, 0x1000, RegionKind::Device);
    cpu.rflags = Rflags::from_bits_retain(u64::from(f.u32()) & 0x3f_7fd5 | 2);
    cpu.cpl = f.u8() & 3;
    cpu.cr4 = f.u32().into();
    cpu.native = pretend;
    let code = f.bytes(15);
    for n in 0..16 {
        let near = 0x1000 + u64::from(f.u16() & 0x3fff);
        cpu.gprs.regs[n] = if f.below(4) == 0 { f.u64() } else { near };
    }
    for n in 0..10 {
        if f.below(8) == 1 {
            let attr = SegAttr::from_bits_retain(f.u16() & 0xfff);
            let (selector, limit, base) = (f.u16(), f.u32(), f.scaled());
            cpu.segments[n] = Segment {
                selector,
                attr,
                limit,
                base,
            };
        }
    }
    let io = StringIo {
        port: f.u16(),
        size: f.size(),
        write: f.bool(),
        rep: f.bool(),
        address_size: f.u8(),
        segment: f.bool().then_some(SegReg::Fs),
        next_rip: f.bool().then(|| f.u64()),
    };
    let ram = f.rest();
    let n = ram.len().min(0x2000);
    cpu.poke(0x1000, &ram[..n]);
    let mut cpu = cpu.code(0x1800 + 0x800 * u64::from(f.u8() & 1), code);
    let before = cpu.clone();
    let result = step(&mut cpu);
    if result.is_err() && !code.iter().any(|b| matches!(b, 0xf2 | 0xf3)) {
        let state = |c: &FakeCpu| (c.gprs, c.rip, c.rflags, c.segments, c.cpl, c.fx);
        assert_eq!(
            state(&cpu),
            state(&before),
            "{code:02x?}: a fault changes nothing"
        );
    }
    let mut cpu = before.clone();
    let _ = length(&mut cpu, Intercepted::Invlpg);
    let _ = length(&mut cpu, Intercepted::Cpuid);
    let _ = mov_system(&mut cpu);
    let _ = string_io(&mut cpu, &io);
}

/// Walks through tables of any contents.
pub fn walker(data: &[u8]) {
    let f = &mut Feed::new(data);
    let state = PagingState {
        cr0: Cr0::from_bits_retain(u64::from(f.u32()) | f.pick(&[1 << 31, 1 << 31, 0])),
        cr3: if f.bool() {
            f.u64()
        } else {
            u64::from(f.u8() & 7) << 12
        },
        cr4: Cr4::from_bits_retain(f.u32().into()),
        efer: Efer::from_bits_retain(u64::from(f.u16())),
        ac: f.bool(),
        physical_bits: 40,
    };
    let flags = f.u8();
    let addresses: Vec<u64> = (0..8).map(|_| f.scaled()).collect();
    // Eight tables, any of which may be any other's entry.
    let memory = VecMemory::new(0x8000);
    let entries: Vec<u8> = f.rest().to_vec();
    for table in 0..8u64 {
        for (i, chunk) in entries.chunks(8).take(512).enumerate() {
            let mut entry = [0; 8];
            entry[..chunk.len()].copy_from_slice(chunk);
            // Mostly entries that lead on.
            if flags & 0x80 != 0 {
                entry[0] |= 7;
                entry[1] &= 0x70;
                entry[2..].fill(0);
            }
            let at = table << 12 | (i as u64 * 8 + table * 64) & 0xff8;
            let _ = memory.write(Gpa(at), &entry);
        }
    }
    for gva in addresses {
        let access = Access {
            write: flags & 1 != 0,
            fetch: flags & 3 == 2,
            user: flags & 4 != 0,
            implicit: flags & 8 != 0,
        };
        let first = npt_shadow::walk::translate(&memory, &state, Gva(gva), access);
        if let Ok(gpa) = first {
            assert_eq!(gpa.page_offset(), gva & 0xfff);
            // It may fault now: where a table is its own entry, an accessed bit can be a reserved one.
            let again = npt_shadow::walk::translate(&memory, &state, Gva(gva), access);
            assert!(
                again.is_err() || again == first,
                "{again:?}, but before {first:?}"
            );
        }
    }
}

/// A guest program on shadow tables, with the algorithm that the first byte chooses: the checks are those of the random programs.
pub fn shadow(data: &[u8]) {
    let Some((&first, program)) = data.split_first() else {
        return;
    };
    let algorithm = [Algorithm::Vtlb, Algorithm::Cached, Algorithm::Unsync][usize::from(first) % 3];
    npt_shadow::shadow::testing::fuzz(algorithm, program);
}

/// The whole virtual PC.
pub fn bus(data: &[u8]) {
    let mut pc = Pc::new();
    let mut feed = Feed::new(data);
    while !feed.is_empty() {
        pc.step(&mut feed);
    }
}

/// Accesses to one device. `other` does what only this device knows.
fn device<D: Device>(
    data: &[u8],
    device: D,
    ports: &[(u16, u16)],
    windows: &[(WindowId, u64)],
    other: impl FnMut(&mut D, &mut Bench, &mut Feed<'_>),
) {
    device_on(Bench::new(), data, device, ports, windows, other);
}

/// The same on a bench that is there already.
fn device_on<D: Device>(
    mut bench: Bench,
    data: &[u8],
    mut device: D,
    ports: &[(u16, u16)],
    windows: &[(WindowId, u64)],
    mut other: impl FnMut(&mut D, &mut Bench, &mut Feed<'_>),
) {
    let mut f = Feed::new(data);
    let mut block = [0; 2048];
    while !f.is_empty() {
        let port = match f.below(16) {
            0 => f.u16(),
            _ if ports.is_empty() => 0,
            _ => {
                let (base, len) = f.pick(ports);
                base + f.below(len)
            }
        };
        match f.below(16) {
            0..=5 => {
                let size = f.size();
                device.port_write(&mut bench.cx(), port, size, f.value(size));
            }
            6..=8 => drop(device.port_read(&mut bench.cx(), port, f.size())),
            9 => {
                let (size, len) = (f.size(), usize::from(f.u16() & 0x7fc));
                device.port_read_block(&mut bench.cx(), port, size, &mut block[..len]);
            }
            10 => {
                let (size, len) = (f.size(), usize::from(f.u16() & 0x7fc));
                let some = f.bytes(16);
                block[..some.len()].copy_from_slice(some);
                device.port_write_block(&mut bench.cx(), port, size, &block[..len]);
            }
            11 if !windows.is_empty() => {
                let (window, len) = f.pick(windows);
                let offset = if f.below(8) == 0 {
                    f.u64()
                } else {
                    f.scaled() % len
                };
                let size = 1 << f.below(4);
                if f.bool() {
                    let value = f.u64() & (u64::MAX >> (64 - 8 * size));
                    device.mmio_write(&mut bench.cx(), window, offset, size, value);
                } else {
                    device.mmio_read(&mut bench.cx(), window, offset, size);
                }
            }
            12 => {
                let span = if f.below(8) == 0 {
                    f.scaled() >> 8
                } else {
                    f.u16().into()
                };
                bench.now = VmTime((bench.now + VmTime(span)).0.min(u64::MAX / 4));
                let next = device.poll(&mut bench.cx());
                assert!(next.is_none_or(|t| t > bench.now), "due again at once");
            }
            13 => {
                let at = u64::from(f.u8()) * 16;
                bench.mem.write(Gpa(at), f.bytes(16)).expect("it is RAM");
            }
            14 if f.below(32) == 0 => device.reset(&mut bench.cx()),
            _ => other(&mut device, &mut bench, &mut f),
        }
        bench.requests = Default::default();
    }
}

fn line() -> IrqLine {
    IrqLine::new(RecordingIrqs::new(), 1)
}

fn disk(sectors: usize) -> Box<RamDisk> {
    Box::new(RamDisk {
        data: vec![0x5a; sectors * 512],
        read_only: false,
        fail: false,
    })
}

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
    let dma = Arc::new(Mutex::new(Dma::new()));
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

/// The VGA, and whoever looks at it.
pub fn vga(data: &[u8]) {
    let (mut picture, mut text) = (Picture::default(), TextScreen::default());
    device(
        data,
        adapter(),
        &VGA_PORTS,
        &VGA_WINDOWS,
        |card, bench, f| {
            if f.below(64) != 0 {
                return program(card, bench, f);
            }
            card.picture(bench.now, &mut picture);
            card.text_screen(&mut text);
            assert!(picture.width <= vga::MAX_WIDTH && picture.height <= vga::MAX_HEIGHT);
        },
    );
}

const VGA_LEGACY: WindowId = WindowId(0);
const VGA_REGISTERS: WindowId = WindowId(1);
const VGA_PORTS: [(u16, u16); 4] = [(0x3b0, 0x30), (0x3c0, 16), (0x3d4, 2), (0x1ce, 4)];
const VGA_WINDOWS: [(WindowId, u64); 2] = [(VGA_LEGACY, 0x2_0000), (VGA_REGISTERS, 0x1000)];

/// A display adapter.
fn adapter() -> Vga {
    let ram = |len| Arc::new(VecDeviceRam::new(len));
    let card = Vga::new(ram(1 << 20), VGA_LEGACY, VGA_REGISTERS);
    card.with_text_map(ram(vga::TEXT_RAM), WindowId(2))
}

/// Writes one of an adapter's many registers.
fn program(card: &mut Vga, bench: &mut Bench, f: &mut Feed<'_>) {
    match f.below(8) {
        // A register of the display interface.
        1..=3 => {
            let (index, value) = (f.below(12), f.u16() & 0xfff);
            card.port_write(&mut bench.cx(), 0x1ce, AccessSize::Word, index.into());
            card.port_write(&mut bench.cx(), 0x1cf, AccessSize::Word, value.into());
        }
        // The screen is on.
        0 => {
            card.port_read(&mut bench.cx(), 0x3ba, AccessSize::Byte);
            card.port_read(&mut bench.cx(), 0x3da, AccessSize::Byte);
            card.port_write(&mut bench.cx(), 0x3c0, AccessSize::Byte, 0x20);
        }
        _ => {
            let port = f.pick(&[0x3c4, 0x3ce, 0x3d4]);
            let (index, value) = (f.u8() & 0x1f, f.u8());
            card.port_write(&mut bench.cx(), port, AccessSize::Byte, index.into());
            card.port_write(&mut bench.cx(), port + 1, AccessSize::Byte, value.into());
        }
    }
}

/// Frames of any length, one for each byte that the list had.
struct Frames(Vec<u8>);

impl NetBackend for Frames {
    fn send(&mut self, frame: &[u8]) {
        assert!(frame.len() <= 0x1_0000);
    }
    fn receive(&mut self, buf: &mut [u8]) -> Option<usize> {
        let n = self.0.pop()?;
        let len = (usize::from(n) * 6).min(buf.len());
        buf[..len].fill(n);
        if n & 1 != 0 {
            buf[..len.min(6)].fill(0xff);
        }
        Some(len)
    }
}

/// The NE2000.
pub fn ne2k(data: &[u8]) {
    const BASE: u16 = 0xc000;
    let frames = Frames(data.iter().copied().step_by(7).collect());
    let card = Ne2k::new(line(), [0x52, 0x54, 0, 1, 2, 3], Box::new(frames));
    device(
        data,
        card,
        &[(BASE, 0x20), (BASE, 8), (BASE + 0x10, 1)],
        &[],
        |card, bench, f| {
            // The ring's limits, then the start command.
            let mut out = |port: u16, v: u8| {
                card.port_write(&mut bench.cx(), BASE + port, AccessSize::Byte, v.into())
            };
            out(0, 0x21);
            for port in [1, 2, 3, 4, 5, 6, 12] {
                out(port, f.u8());
            }
            out(0, 0x61);
            out(7, f.u8());
            out(0, f.pick(&[0x22, 0x26, 0x0a, 0x12, 0x1a]));
        },
    );
}

/// The firmware's configuration device.
pub fn fw_cfg(data: &[u8]) {
    let mut card = FwCfg::new();
    card.add_key(5, vec![1, 2]);
    card.add_file("etc/table-loader", vec![7; 300]);
    card.add_file("empty", Vec::new());
    device(data, card, &[(0x510, 0x0c)], &[], |card, bench, f| {
        // A DMA descriptor: control, length, address.
        let at = u32::from(f.u8()) * 16;
        let select = f.pick(&[0u16, 5, 0x19, 0x20, 0x21, 0x4000, 0x8000]);
        let control = u32::from(select) << 16 | u32::from(f.u8() & 0x1f);
        let (len, address) = (f.scaled() as u32, f.scaled());
        let descriptor = [
            &control.to_be_bytes()[..],
            &len.to_be_bytes(),
            &address.to_be_bytes(),
        ]
        .concat();
        bench
            .mem
            .write(Gpa(at.into()), &descriptor)
            .expect("it is RAM");
        card.port_write(
            &mut bench.cx(),
            0x514,
            AccessSize::Dword,
            u32::from(f.below(2)).swap_bytes(),
        );
        card.port_write(&mut bench.cx(), 0x518, AccessSize::Dword, at.swap_bytes());
    });
}

/// The keyboard controller with keyboard and mouse.
pub fn i8042(data: &[u8]) {
    let card = I8042::new(line(), line(), A20::new(WindowId(0)));
    device(data, card, &[(0x60, 1), (0x64, 1)], &[], |card, _, f| {
        if f.bool() {
            let given = f.bytes(6);
            assert!(card.key_scancodes(given) <= given.len());
        } else {
            card.mouse_move(f.u32() as i32, f.u32() as i32, f.u32() as i32, f.u8());
        }
    });
}

fn desc(memory: u64) -> MachineDesc {
    let mac = [0x52, 0x54, 0, 1, 2, 3];
    MachineDesc {
        memory,
        cpus: 1,
        mac,
        uuid: [7; 16],
        drives: [
            Some(IdeDrive::Disk { sectors: 1 << 20 }),
            None,
            Some(IdeDrive::Cdrom),
            None,
        ],
        floppy: FloppyDrive::M1440,
        boot: None,
    }
}

/// The header of a kernel: what is planned must lie in the file and in RAM.
pub fn linux(data: &[u8]) {
    let f = &mut Feed::new(data);
    let desc = desc((u64::from(f.u16()) + 1) << 20);
    let (kernel_len, initrd_len) = (f.scaled(), if f.bool() { f.scaled() } else { 0 });
    let mut line = String::from_utf8_lossy(f.bytes(24)).into_owned();
    if f.below(8) == 0 {
        line = line.repeat(200);
    }
    let patches: Vec<(u16, u32)> = (0..f.below(8))
        .map(|_| (f.u16() & 0x3ff, f.u32()))
        .collect();
    let mut header = f.rest().to_vec();
    if header.first().is_some_and(|b| b & 3 != 0) {
        // Mostly a kernel.
        header.resize(header.len().max(0x400), 0);
        header[0x1fe..0x206].copy_from_slice(&[0x55, 0xaa, 0xeb, 0x66, b'H', b'd', b'r', b'S']);
        header[0x206..0x208].copy_from_slice(&[0x0f, 0x02]);
        header[0x211] |= 1;
        for (at, value) in patches {
            let at = usize::from(at);
            if let Some(place) = header
                .get_mut(at..at + 4)
                .filter(|_| !(0x1fe..0x208).contains(&at))
            {
                place.copy_from_slice(&value.to_le_bytes());
            }
        }
    }
    let Ok(boot) = linux::plan(&header, kernel_len, initrd_len, &line, &desc) else {
        return;
    };
    let ram = desc.low_ram();
    for c in &boot.copies {
        let len = match c.source {
            linux::Source::Kernel => kernel_len,
            linux::Source::Initrd => initrd_len,
        };
        assert!(
            c.range.start <= c.range.end && c.range.end <= len,
            "{c:x?} is in the file"
        );
        let end = c.to.0.checked_add(c.range.end - c.range.start);
        assert!(end.is_some_and(|e| e <= ram), "{c:x?} is in RAM");
    }
    for w in [&boot.boot_params, &boot.command_line, &boot.gdt] {
        assert!(
            w.to.0 + w.bytes.len() as u64 <= ram,
            "{:x?} is in RAM",
            w.to
        );
    }
}

/// A BIOS image.
pub fn bios(data: &[u8]) {
    let f = &mut Feed::new(data);
    let mut image = vec![0; usize::from(f.u16()) << f.below(8)];
    let byte = f.u8();
    let given = f.rest();
    let n = given.len().min(image.len());
    let at = image.len() - n;
    image[at..].copy_from_slice(&given[..n]);
    if let Some(at) = image.len().checked_sub(16).filter(|_| byte & 1 != 0) {
        image[at] = 0xea;
    }
    if let Ok(placement) = BiosPlacement::of(&image) {
        let (gpa, part) = placement.low_copy();
        assert!(gpa.0 + image[part].len() as u64 == 1 << 20);
        assert!(placement.flash().0 + image.len() as u64 == 1 << 32);
        let (gpa, part) = placement.shadow();
        assert!(gpa.0 + image[part].len() as u64 == 1 << 20);
    }
}

/// What is typed at the console, on a keyboard and on a serial line.
pub fn console(data: &[u8]) {
    let (mut keyboard, mut serial) = (Keyboard::default(), SerialLine::default());
    let (mut editor, mut screen) = (Editor::default(), Screen::default());
    for (n, &byte) in data.iter().enumerate() {
        let mut guest = 0;
        let event = if n % 2 == 0 {
            keyboard.feed(byte, &mut |_| guest += 1)
        } else {
            serial.feed(byte, &mut |_| guest += 1)
        };
        // Opening the console releases the keys that are down.
        assert!(guest <= 512);
        if let Some(Event::Typed(key)) = event {
            let line = editor.feed(key, &mut |text| screen.write_str(text).unwrap());
            if let Some(Err(why)) = line.map(|line| Command::parse(&line)) {
                writeln!(screen, "{why}").unwrap();
            }
        }
    }
    assert_eq!(screen.cells().len(), COLUMNS * ROWS);
}

/// Frames at the switch's ports, from whoever is there: two guests, whose frames wait in queues, and the network outside.
pub fn switch(data: &[u8]) {
    const GUESTS: [switch::Address; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
    let mut switch = Switch::default();
    let outside = switch.plug(None).unwrap();
    let ports = GUESTS.map(|address| switch.plug(Some(address)).unwrap());
    let mut queues = [(); 2].map(|()| Queue::new(4));
    let mut feed = Feed::new(data);
    while !feed.is_empty() {
        let from = usize::from(feed.u8() % 4);
        let len = usize::from(feed.u16()) % (FRAME + 8);
        let mut frame = feed.bytes(len).to_vec();
        // Mostly frames of somebody's.
        let somebody = usize::from(feed.u8());
        if let (Some(source), Some(own)) = (frame.get_mut(6..12), GUESTS.get(somebody & 3)) {
            source.copy_from_slice(own);
        }
        if let (Some(to), Some(own)) = (frame.get_mut(..6), GUESTS.get(somebody >> 2 & 3)) {
            to.copy_from_slice(own);
        }
        let refused = switch.refused(from);
        let to = switch.forward(from, &frame);
        assert!(!to.contains(from));
        // Who it is that sends is known from the source address alone: a guest at its port, anybody else outside, a group nowhere.
        let owner = |address: &[u8]| (0..2).find(|&n| address == GUESTS[n]).map(|n| ports[n]);
        let whole = frame.len() >= 14 && from <= 2;
        let own = whole
            && match owner(&frame[6..12]) {
                Some(port) => port == from,
                None => from == outside && frame[6] & 1 == 0,
            };
        assert_eq!(switch.refused(from) - refused, u64::from(whole && !own));
        assert!(own || to == switch::Ports::NONE);
        if own && frame[0] & 1 == 0 {
            let port = owner(&frame[..6]).unwrap_or(outside);
            assert_eq!(to, switch::Ports::one(port).without(from));
        }
        for (queue, port) in queues.iter_mut().zip(ports) {
            if to.contains(port) {
                queue.put(&frame);
            }
        }
        if feed.u8() & 1 != 0 {
            let mut buffer = [0; FRAME];
            queues[0].take(&mut buffer);
        }
    }
}
