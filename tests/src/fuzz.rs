//! One function for each part that a guest feeds. None of them may panic, whatever the bytes; none may take long.

mod ahci;
mod ata;
mod balloon;
mod device;
mod display;
mod drives;
mod e1000;
mod flash;
mod gdb;
mod hyperv;
mod medium;
mod protocol;
mod virtio;
mod vm;

pub use self::gdb::gdb;
pub use self::protocol::{messages, requests, screens};
pub use ahci::ahci;
pub use ata::ata;
pub use balloon::balloon;
pub use device::{fw_cfg, hpet, i8042, ne2k, pm, uhci};
pub use display::vga;
pub use drives::{fdc, ide, ide_slow};
pub use e1000::e1000;
pub use flash::flash;
pub use hyperv::hyperv;
pub use virtio::virtio;
pub use vm::vm;

use crate::feed::Feed;
use crate::pc::Pc;
use console::{COLUMNS, Command, Editor, Event, Keyboard, ROWS, Screen, SerialLine};
use core::fmt::Write;
use hv_core::emulate::testing::{FakeCpu, RegionKind, pretend};
use hv_core::emulate::{Intercepted, StringIo, length, mov_system, step, string_io};
use hv_core::machine::{FloppyDrive, IdeDrive, MachineDesc, Nic};
use hv_core::mem::GuestMemory;
use hv_core::mmu::{Access, PagingState};
use hv_core::offload::{Checksum, Ip, LONGEST, Offload};
use hv_core::regs::{Cr0, Cr4, Efer, Rflags, SegAttr, SegReg, Segment};
use hv_core::testing::VecMemory;
use hv_core::{Gpa, Gva};
use hvmloader_fw::bios::{BiosPlacement, store_in};
use hvmloader_fw::linux;
use npt_shadow::Algorithm;
use switch::{Queue, Switch};

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
    target("ahci", ahci, 2_048),
    target("ata", ata, 1_024),
    target("balloon", balloon, 1_024),
    target("bios", bios, 4_096),
    target("bus", bus, 4_096),
    target("console", console, 1_024),
    target("e1000", e1000, 2_048),
    target("emulator", emulator, 512),
    target("fdc", fdc, 4_096),
    target("flash", flash, 2_048),
    target("fw_cfg", fw_cfg, 2_048),
    target("gdb", gdb, 2_048),
    target("hpet", hpet, 1_024),
    target("hyperv", hyperv, 2_048),
    target("i8042", i8042, 1_024),
    target("ide", ide, 4_096),
    target("ide_slow", ide_slow, 4_096),
    target("linux", linux, 2_048),
    target("messages", messages, 4_096),
    target("ne2k", ne2k, 4_096),
    target("pm", pm, 1_024),
    target("requests", requests, 1_024),
    target("screens", screens, 4_096),
    target("shadow", shadow, 2_048),
    target("switch", switch, 4_096),
    target("uhci", uhci, 2_048),
    target("vga", vga, 4_096),
    target("virtio", virtio, 2_048),
    target("vm", vm, 4_096),
    target("walker", walker, 4_096),
];

/// The targets of the host tool, which has functions of its own for them (`xtask::parsers`).
pub const OF_THE_TOOL: [&str; 4] = ["media", "words", "trace", "symbols"];

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

fn desc(memory: u64) -> MachineDesc {
    let mac = [0x52, 0x54, 0, 1, 2, 3];
    MachineDesc {
        memory,
        cpus: 1,
        max_cpus: 1,
        nics: MachineDesc::one_nic(Nic::Ne2k, mac),
        uuid: [7; 16],
        drives: [
            Some(IdeDrive::Disk { sectors: 1 << 20 }),
            None,
            Some(IdeDrive::Cdrom),
            None,
        ],
        sata: [None; 6],
        pci_disks: 0,
        floppy: FloppyDrive::M1440,
        boot: None,
        hpet: false,
        tablet: false,
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
    let store = store_in(&image);
    if let Ok(placement) = BiosPlacement::of(&image[store..], store) {
        let (gpa, part) = placement.low_copy();
        assert!(gpa.0 + image[store..][part].len() as u64 == 1 << 20);
        assert!(placement.code().0 + (image.len() - store) as u64 == 1 << 32);
        assert!(placement.store().0 + image.len() as u64 == 1 << 32);
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

/// What a driver leaves to be done of `frame`, which may be nothing.
fn leave(frame: &[u8], feed: &mut Feed<'_>) -> Offload {
    let (start, offset) = (feed.u8().into(), feed.u8().into());
    let left = match feed.u8() & 3 {
        0 => Offload::checksum_of(frame, start, offset),
        1 => Offload::segments_of(frame, Ip::V4, feed.u16(), Checksum { start, offset }),
        2 => Offload::segments_of(frame, Ip::V6, feed.u16(), Checksum { start, offset }),
        _ => None,
    };
    left.unwrap_or_default()
}

/// Frames at the switch's ports, from whoever is there: two guests, whose frames wait in queues, and the network outside.
pub fn switch(data: &[u8]) {
    const GUESTS: [switch::Address; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
    let mut switch = Switch::default();
    let outside = switch.plug(None).unwrap();
    let ports = GUESTS.map(|address| switch.plug(Some(address)).unwrap());
    let mut queues = [(); 2].map(|()| Queue::new(4, 4 * LONGEST));
    let mut feed = Feed::new(data);
    while !feed.is_empty() {
        let from = usize::from(feed.u8() % 4);
        let len = usize::from(feed.u16()) % (LONGEST + 8);
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
        let left = leave(&frame, &mut feed);
        left.finish(&frame, &mut |part| {
            assert!(part.len() <= LONGEST.max(frame.len()));
            assert!(part.get(..12) == frame.get(..12) || left.segments().is_none());
        });
        for (queue, port) in queues.iter_mut().zip(ports) {
            if to.contains(port) {
                queue.put(&frame, left);
            }
        }
        if feed.u8() & 1 != 0 {
            let mut buffer = [0; LONGEST];
            queues[0].take(&mut buffer);
        }
    }
}
