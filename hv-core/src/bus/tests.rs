//! The rules of the buses.

use super::*;
use crate::device::{AccessSize, WindowId};
use crate::mmu::Backing;
use crate::testing::VecMemory;
use crate::{Gpa, Hpa};

/// Reads back the port number's low byte, remembers writes.
#[derive(Default)]
struct Probe {
    writes: Vec<(u16, AccessSize, u32)>,
    mmio_writes: Vec<(u64, usize, u64)>,
    move_to: Option<(WindowId, Option<u64>)>,
}

impl Device for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }
    fn port_read(&mut self, _cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        match size {
            AccessSize::Byte => port.into(),
            _ => 0x1234_5678,
        }
    }
    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, value: u32) {
        self.writes.push((port, size, value));
        if let Some((window, base)) = self.move_to.take() {
            cx.requests.move_window(window, base);
        }
    }
    fn mmio_read(&mut self, _cx: &mut DevCx<'_>, _w: WindowId, offset: u64, _size: usize) -> u64 {
        offset
    }
    fn mmio_write(&mut self, _: &mut DevCx<'_>, _: WindowId, offset: u64, size: usize, v: u64) {
        self.mmio_writes.push((offset, size, v));
    }
}

fn bus() -> (Bus, Arc<Lock<Probe>>, DeviceId) {
    let mut bus = Bus::new(Arc::new(VecMemory::new(4096)));
    let probe = Arc::new(Lock::device(Probe::default()));
    let id = bus.add(probe.clone());
    (bus, probe, id)
}

const NOW: VmTime = VmTime(0);

#[test]
fn nobody_reads_all_ones_of_the_width_and_drops_writes() {
    let (mut bus, _, _) = bus();
    assert_eq!(bus.port_read(NOW, 0x80, AccessSize::Byte), 0xff);
    assert_eq!(bus.port_read(NOW, 0xffff, AccessSize::Dword), 0xffff_ffff);
    bus.port_write(NOW, 0xffff, AccessSize::Dword, 1);
    assert_eq!(bus.mmio_read(NOW, Gpa(0xfee0_0000), 4), 0xffff_ffff);
    assert_eq!(bus.mmio_read(NOW, Gpa(u64::MAX), 8), u64::MAX);
}

#[test]
fn wide_access_to_a_byte_device_is_split_low_address_first() {
    let (mut bus, probe, id) = bus();
    bus.add_ports(id, 0x3c4, 2, Width::Byte);
    bus.port_write(NOW, 0x3c4, AccessSize::Word, 0x0f02);
    assert_eq!(
        probe.lock().writes,
        [
            (0x3c4, AccessSize::Byte, 2),
            (0x3c5, AccessSize::Byte, 0x0f)
        ]
    );
    assert_eq!(
        bus.port_read(NOW, 0x3c5, AccessSize::Word),
        0xffc5,
        "the second byte is nobody's"
    );
}

#[test]
fn wide_access_to_a_native_device_stays_whole_unless_it_sticks_out() {
    let (mut bus, _, id) = bus();
    bus.add_ports(id, 0xcfc, 4, Width::Native);
    assert_eq!(bus.port_read(NOW, 0xcfc, AccessSize::Dword), 0x1234_5678);
    assert_eq!(bus.port_read(NOW, 0xcfe, AccessSize::Dword), 0xffff_fffe);
}

#[test]
fn moved_port_window_leaves_fixed_ports_alone() {
    let (mut bus, probe, id) = bus();
    bus.add_ports(id, 0x64, 1, Width::Byte);
    let other = bus.add(Arc::new(Lock::device(Probe::default())));
    let w = bus.add_port_window(other, 32, Width::Native);
    probe.lock().move_to = Some((w, Some(0x60)));
    bus.port_write(NOW, 0x64, AccessSize::Byte, 0);
    assert!(bus.unsettled());
    assert_eq!(bus.settle(|_| panic!("ports do not change memory")), None);
    assert_eq!(bus.port_read(NOW, 0x60, AccessSize::Byte), 0x60);
    bus.port_write(NOW, 0x64, AccessSize::Byte, 7);
    assert_eq!(probe.lock().writes.len(), 2, "still the fixed device");
    probe.lock().move_to = Some((w, None));
    bus.port_write(NOW, 0x64, AccessSize::Byte, 0);
    let _ = bus.settle(|_| ());
    assert_eq!(bus.port_read(NOW, 0x60, AccessSize::Byte), 0xff);
}

#[test]
fn ram_window_is_reached_through_its_device_wherever_it_is() {
    let (mut bus, probe, id) = bus();
    let w = bus.add_ram_window(id, 0x1000, Hpa(0x8000));
    bus.add_ports(id, 0x100, 1, Width::Byte);
    for (place, at) in [(Some(0x10_0000), 0x10_0010), (Some(0x20_0000), 0x20_0010)] {
        probe.lock().move_to = Some((w, place));
        bus.port_write(NOW, 0x100, AccessSize::Byte, 0);
        bus.settle(|_| ());
        assert_eq!(bus.mmio_read(NOW, Gpa(at), 4), 0x10);
    }
    assert_eq!(bus.mmio_read(NOW, Gpa(0x10_0010), 4), 0xffff_ffff);
}

#[test]
fn moved_ram_window_reports_the_old_and_the_new_place() {
    let (mut bus, probe, id) = bus();
    bus.add_ports(id, 0x10, 1, Width::Byte);
    let w = bus.add_ram_window(id, 0x1000, Hpa(0x8000));
    let mut changes = Vec::new();
    for base in [Some(0xfd00_0000), Some(0xe000_0000), None] {
        probe.lock().move_to = Some((w, base));
        bus.port_write(NOW, 0x10, AccessSize::Byte, 0);
        let _ = bus.settle(|c| changes.push((c.start.0, c.backing != Backing::Mmio)));
    }
    assert_eq!(
        changes,
        [
            (0xfd00_0000, true),
            (0xfd00_0000, false),
            (0xe000_0000, true),
            (0xe000_0000, false)
        ]
    );
}

#[test]
fn a_rom_window_is_read_without_its_device_and_written_through_it() {
    let (mut bus, probe, id) = bus();
    bus.add_ports(id, 0x10, 1, Width::Byte);
    let w = bus.add_rom_window(id, 0x1000, Hpa(0x8000));
    probe.lock().move_to = Some((w, Some(0xffc0_0000)));
    bus.port_write(NOW, 0x10, AccessSize::Byte, 0);
    let mut changes = Vec::new();
    let _ = bus.settle(|c| changes.push((c.start, c.backing)));
    let rom = Backing::Ram {
        hpa: Hpa(0x8000),
        writable: false,
    };
    assert_eq!(changes, [(Gpa(0xffc0_0000), rom)]);
    assert_eq!(bus.backing(Gpa(0xffc0_0000)), rom);
    bus.mmio_write(NOW, Gpa(0xffc0_0010), 1, 0x50);
    assert_eq!(probe.lock().mmio_writes, [(0x10, 1, 0x50)]);
}

#[test]
fn a_cpus_page_lies_above_ram_and_uncovers_it_when_the_last_leaves_it() {
    let mut bus = Bus::new(Arc::new(VecMemory::new(0x40_0000)));
    for _ in 0..2 {
        bus.add_cpu_page(Gpa(0xfee0_0000));
    }
    let mut changes = Vec::new();
    for (cpu, base) in [
        (0, 0x30_0000),
        (0, 0x30_0000),
        (1, 0x30_0000),
        (0, 0x20_0000),
        (0, 0xfee0_0000),
        (1, 0xfee0_0000),
    ] {
        bus.move_cpu_page(cpu, Some(Gpa(base)));
        bus.settle(|c| changes.push((c.start.0, c.len, c.backing != Backing::Mmio)));
        let decoded = decode(Gpa(base + 0x10), Some(Gpa(base)), false);
        assert_eq!(own_register(decoded), Some(0x10));
        assert_eq!(bus.mmio_read(NOW, decoded, 4), 0xffff_ffff, "not the bus's");
        assert!(!bus.memory.contains(decoded, 1, false));
    }
    assert_eq!(
        changes,
        [
            (0x30_0000, 0x1000, false),
            (0x20_0000, 0x1000, false),
            (0x20_0000, 0x1000, true),
            (0x30_0000, 0x1000, true),
        ]
    );
    for cpu in 0..2 {
        bus.move_cpu_page(cpu, None);
    }
    bus.settle(|_| panic!("there is no RAM"));
    assert_eq!(bus.mmio_read(NOW, Gpa(0xfee0_0010), 4), 0xffff_ffff);
}

#[test]
fn windows_that_move_take_no_memory() {
    let mut bus = Bus::new(Arc::new(VecMemory::new(0x10_0000)));
    let windows: Vec<_> = (0..9).map(|_| bus.add_wrap()).collect();
    let room = bus.requests.moved.capacity();
    assert!(room >= windows.len());
    for round in 0..100u64 {
        for &window in &windows {
            let base = (round % 3 != 0).then_some(round << 20);
            bus.requests.move_window(window, base);
        }
        assert_eq!(bus.requests.moved.len(), windows.len());
        if round % 7 == 0 {
            bus.settle(|_| ());
            assert!(bus.requests.is_empty());
        }
    }
    assert_eq!(bus.requests.moved.capacity(), room);
}

#[test]
fn with_a20_off_the_second_mebibyte_is_the_first() {
    let mut bus = Bus::new(Arc::new(VecMemory::new(0x18_0000)));
    let wrap = bus.add_wrap();
    let ram = |start, len, hpa| MapChange {
        start: Gpa(start),
        len,
        backing: Backing::Ram {
            hpa: Hpa(hpa),
            writable: true,
        },
    };
    let mut move_to = |base| {
        let mut changes = Vec::new();
        bus.requests.move_window(wrap, base);
        bus.settle(|c| changes.push(c));
        let decoded = [0xf_ffff, 0x10_0000, 0x1f_ffff, 0x20_0000]
            .map(|at| decode(Gpa(at), None, bus.wraps()).0);
        (changes, decoded)
    };
    let (changes, decoded) = move_to(Some(0x10_0000));
    assert_eq!(changes, [ram(0x10_0000, 0x10_0000, 0)]);
    assert_eq!(decoded, [0xf_ffff, 0, 0xf_ffff, 0x20_0000]);
    let nothing = MapChange {
        start: Gpa(0x18_0000),
        len: 0x8_0000,
        backing: Backing::Mmio,
    };
    let (changes, decoded) = move_to(None);
    assert_eq!(changes, [ram(0x10_0000, 0x8_0000, 0x10_0000), nothing]);
    assert_eq!(decoded, [0xf_ffff, 0x10_0000, 0x1f_ffff, 0x20_0000]);
}
