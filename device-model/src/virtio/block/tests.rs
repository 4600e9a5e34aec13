//! A disk behind its function, driven as drivers do it.

use super::super::pci::{Parts, VirtioPci, Windows};
use super::super::queue::Agreed;
use super::super::testing::{Driver, Part};
use super::Block;
use crate::pci::PciFunction;
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use hv_core::Gpa;
use hv_core::device::AccessSize::{Byte, Dword, Word};
use hv_core::device::{Device, WindowId};
use hv_core::irq::{IrqLine, MsiLine, MsiSink};
use hv_core::mem::GuestMemory;
use hv_core::testing::{Bench, ManyDisk, Random, RecordingIrqs};
use std::sync::Mutex;

const WINDOWS: Windows = Windows {
    ports: WindowId(1),
    msi_x: WindowId(2),
    memory: WindowId(3),
};
const RING: u64 = 0x8_0000;
/// Where the requests of the tests are: header, status, data.
const HEADERS: u64 = 0x1_0000;
const DATA: u64 = 0x2_0000;
const PIN: u8 = 7;
const SECTORS: usize = 64;

#[derive(Default)]
struct Messages(Mutex<Vec<u32>>);

impl MsiSink for Messages {
    fn send(&self, _address: u64, data: u32) {
        self.0.lock().unwrap().push(data);
    }
}

struct Rig {
    pci: VirtioPci,
    bench: Bench,
    irqs: Arc<RecordingIrqs>,
    messages: Arc<Messages>,
    disk: ManyDisk,
}

impl Rig {
    fn new(depth: usize, direct: bool) -> Self {
        let bench = Bench::new();
        let data = (0..SECTORS * 512)
            .map(|n| (n / 512 + n % 7) as u8)
            .collect();
        let disk = ManyDisk::new(data, depth, direct.then_some((&bench.mem, 3)));
        let (irqs, messages) = (RecordingIrqs::new(), Arc::<Messages>::default());
        let parts = Parts {
            line: IrqLine::new(irqs.clone(), PIN),
            messages: MsiLine::new(messages.clone()),
            windows: WINDOWS,
        };
        let block = Block::new(alloc::boxed::Box::new(disk.clone()), "umbra-disk1", 2);
        let mut rig = Self {
            pci: VirtioPci::new(alloc::boxed::Box::new(block), parts),
            bench,
            irqs,
            messages,
            disk,
        };
        // Ports, memory, bus master.
        rig.command(7);
        rig
    }

    fn command(&mut self, value: u32) {
        self.pci.config_write(&mut self.bench.cx(), 4, Word, value);
    }

    fn write(&mut self, offset: u64, size: usize, value: u64) {
        let cx = &mut self.bench.cx();
        self.pci.mmio_write(cx, WINDOWS.memory, offset, size, value);
    }

    fn read(&mut self, offset: u64, size: usize) -> u64 {
        let cx = &mut self.bench.cx();
        let value = self.pci.mmio_read(cx, WINDOWS.memory, offset, size);
        if size == 8 {
            value
        } else {
            value & ((1 << (8 * size)) - 1)
        }
    }

    fn status(&mut self) -> u64 {
        self.read(0x14, 1)
    }

    /// What a driver of version 1 does (3.1.1, "Driver Requirements: Device Initialization"), up to DRIVER_OK.
    fn start(&mut self, agreed: Agreed, more: u64) -> Driver {
        self.write(0x14, 1, 0);
        self.write(0x14, 1, 1);
        self.write(0x14, 1, 3);
        let mut features = 1 << 32 | more;
        for (bit, yes) in [
            (34, agreed.packed),
            (28, agreed.indirect),
            (29, agreed.event_index),
            (35, agreed.in_order),
        ] {
            features |= u64::from(yes) << bit;
        }
        for half in 0..2 {
            self.write(8, 4, half);
            self.write(0xc, 4, features >> (32 * half) & 0xffff_ffff);
        }
        self.write(0x14, 1, 0xb);
        assert_eq!(self.status(), 0xb);
        let driver = Driver::new(&self.bench.mem, RING, 64, agreed);
        self.queue(0, &driver);
        self.write(0x14, 1, 0xf);
        driver
    }

    fn queue(&mut self, index: u64, driver: &Driver) {
        self.write(0x16, 2, index);
        self.write(0x18, 2, driver.place.size.into());
        self.write(0x20, 8, driver.place.descriptors.0);
        self.write(0x28, 4, driver.place.driver.0);
        self.write(0x2c, 4, 0);
        self.write(0x30, 8, driver.place.device.0);
        self.write(0x1c, 2, 1);
    }

    fn kick(&mut self) {
        // The port.
        self.pci.port_write(&mut self.bench.cx(), 0xc010, Word, 0);
    }

    fn poll(&mut self) {
        self.pci.poll(&mut self.bench.cx());
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.bench.mem.write(Gpa(at), bytes).unwrap();
    }

    fn bytes(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.bench.mem.read(Gpa(at), &mut bytes).unwrap();
        bytes
    }

    /// The parts of request `n`: `sectors` at `sector`, of this type; its data at `DATA + n * 0x2000`.
    fn request(&self, n: u64, kind: u32, sector: u64, sectors: u32) -> Vec<Part> {
        let head = HEADERS + n * 32;
        self.put(head, &kind.to_le_bytes());
        self.put(head + 8, &sector.to_le_bytes());
        self.put(head + 16, &[0xee]);
        let data = (DATA + n * 0x2000, sectors * 512, kind != 1);
        let mut parts = vec![(head, 16, false)];
        if sectors != 0 {
            parts.push(data);
        }
        parts.push((head + 16, 1, true));
        parts
    }

    fn ended(&self, n: u64) -> u8 {
        self.bytes(HEADERS + n * 32 + 16, 1)[0]
    }
}

const PLAIN: Agreed = Agreed {
    packed: false,
    indirect: false,
    event_index: false,
    in_order: false,
};
/// VIRTIO_BLK_F_FLUSH.
const FLUSH: u64 = 1 << 9;

#[test]
fn function_has_the_identity_and_the_structures_of_a_transitional_disk() {
    let mut rig = Rig::new(4, false);
    let mut config = |offset, size| rig.pci.config_read(&mut rig.bench.cx(), offset, size);
    assert_eq!(config(0, Dword), 0x1001_1af4);
    assert_eq!(config(8, Dword), 0x0100_0000);
    assert_eq!(config(0x2c, Dword), 0x0002_1af4);
    let (mut at, mut kinds) = (config(0x34, Byte) as u8, Vec::new());
    while at != 0 {
        let head = config(at, Dword);
        if head as u8 == 9 {
            kinds.push((head >> 24, config(at + 4, Byte), config(at + 8, Dword)));
        }
        at = (head >> 8) as u8;
    }
    let structures = [
        (1, 4, 0),
        (3, 4, 0x1000),
        (4, 4, 0x2000),
        (2, 0, 0x10),
        (2, 4, 0x3000),
    ];
    assert_eq!(kinds[..5], structures);
    assert_eq!(kinds[5].0, 5);
    assert_eq!(rig.read(0x12, 2), 2, "queues");
    assert_eq!(rig.read(0x2000, 8), SECTORS as u64);
    assert_eq!(rig.read(0x2022, 2), 2, "num_queues");
}

#[test]
fn requests_are_many_at_a_time_and_over_in_any_order() {
    for direct in [false, true] {
        let mut rig = Rig::new(8, direct);
        let mut driver = rig.start(PLAIN, FLUSH);
        rig.put(DATA + 0x2000, &[0x5a; 1024]);
        let requests = [(0, 0, 3, 2), (1, 1, 10, 2), (2, 0, 20, 1)];
        let heads = requests.map(|(n, kind, sector, sectors)| {
            driver.add(&rig.request(n, kind, sector, sectors), false)
        });
        rig.kick();
        // Without the guest's memory there is one buffer for all.
        assert_eq!(rig.disk.asked(), if direct { 3 } else { 1 });
        for n in [1, 1, 0] {
            rig.disk.answer(n);
            rig.poll();
        }
        while rig.disk.asked() != 0 {
            rig.disk.answer(0);
            rig.poll();
        }
        let mut over: Vec<_> = core::iter::from_fn(|| driver.take()).collect();
        if direct {
            assert_eq!(
                over.iter().map(|o| o.0).collect::<Vec<_>>(),
                [heads[1], heads[2], heads[0]]
            );
        }
        over.sort_unstable();
        let mut all = [(heads[0], 1025), (heads[1], 1), (heads[2], 513)];
        all.sort_unstable();
        assert_eq!(over, all);
        assert_eq!([0, 1, 2].map(|n| rig.ended(n)), [0; 3]);
        assert_eq!(rig.bytes(DATA, 1024), rig.disk.sectors_at(3, 2));
        assert_eq!(rig.disk.sectors_at(10, 2), [0x5a; 1024]);
        let told = rig.bench.mem.take_written();
        assert_eq!(told.contains(&(DATA, 1024)), direct, "{told:?}");
    }
}

#[test]
fn several_requests_wait_for_room_and_none_is_forgotten() {
    let mut rig = Rig::new(8, true);
    rig.disk.set_room(4);
    let mut driver = rig.start(PLAIN, FLUSH);
    // The first part of request 0 is one piece, as whole sectors are moved, and the second is three.
    let buffers = [
        [512, 256, 100, 156].as_slice(),
        &[512, 512],
        &[512, 512, 512],
    ];
    for (n, lens) in (0..).zip(buffers) {
        let mut parts = rig.request(n, 0, 8 * n, 1);
        let (head, status) = (parts[0], parts[2]);
        parts = vec![head];
        parts.extend(
            (0..)
                .zip(lens)
                .map(|(i, &len)| (DATA + n * 0x2000 + i * 0x400, len, true)),
        );
        parts.push(status);
        driver.add(&parts, false);
    }
    rig.kick();
    assert_eq!(rig.disk.asked(), 2, "no room for the third");
    // No room for the second part of the first either, while the second is under way.
    for _ in 0..8 {
        rig.disk.answer(0);
        rig.poll();
    }
    assert_eq!([0, 1, 2].map(|n| rig.ended(n)), [0; 3]);
    assert_eq!(core::iter::from_fn(|| driver.take()).count(), 3);
}

#[test]
fn flush_name_errors_and_what_is_not_known_have_their_status() {
    let mut rig = Rig::new(8, true);
    let mut driver = rig.start(PLAIN, FLUSH);
    rig.disk.set_bad(Some(30));
    let mut says = |rig: &mut Rig, kind, sector, sectors| {
        driver.add(&rig.request(0, kind, sector, sectors), false);
        rig.kick();
        while rig.disk.asked() != 0 {
            rig.disk.answer(0);
            rig.poll();
        }
        assert!(driver.take().is_some());
        rig.ended(0)
    };
    assert_eq!(says(&mut rig, 4, 0, 0), 0, "flush");
    assert_eq!(says(&mut rig, 8, 0, 1), 0, "name");
    assert_eq!(&rig.bytes(DATA, 13), b"umbra-disk1\0\0");
    assert_eq!(says(&mut rig, 0, 30, 1), 1, "a bad sector");
    assert_eq!(says(&mut rig, 0, SECTORS as u64, 1), 1, "past the end");
    assert_eq!(says(&mut rig, 0, u64::MAX, 2), 1);
    assert_eq!(says(&mut rig, 11, 0, 1), 2, "discard");
    assert_eq!(says(&mut rig, 0, 5, 0), 0, "nothing");
    rig.disk.set_flush_fails(true);
    assert_eq!(says(&mut rig, 4, 0, 0), 1);
    rig.disk.set_read_only(true);
    assert_eq!(says(&mut rig, 1, 5, 1), 1);
}

#[test]
fn lone_request_is_waited_for_within_its_notification_as_long_as_that_pays() {
    for direct in [false, true] {
        let mut rig = Rig::new(8, direct);
        let mut driver = rig.start(PLAIN, FLUSH);
        let mut ask = |rig: &mut Rig, count: u64| {
            for n in 0..count {
                driver.add(&rig.request(n, 0, n, 2), false);
            }
            rig.kick();
            let over = core::iter::from_fn(|| driver.take()).count();
            while rig.disk.asked() != 0 {
                rig.disk.answer(0);
                rig.poll();
            }
            let _ = core::iter::from_fn(|| driver.take()).count();
            over
        };
        rig.disk.set_fast(true);
        assert_eq!((ask(&mut rig, 1), rig.disk.looks()), (1, 1));
        assert!(rig.irqs.level(PIN));
        if direct {
            assert_eq!(ask(&mut rig, 2), 0, "the second would wait for the first");
        }
        rig.disk.set_fast(false);
        let before = rig.disk.looks();
        let mut waits = Vec::new();
        for n in 0..8 {
            let looks = rig.disk.looks();
            assert_eq!(ask(&mut rig, 1), 0);
            if rig.disk.looks() != looks {
                waits.push(n);
            }
        }
        assert_eq!(waits, [0, 2, 6], "less and less");
        assert_eq!(rig.disk.looks(), before + 3);
        rig.disk.set_fast(true);
        let found = (0..9).map(|_| ask(&mut rig, 1)).collect::<Vec<_>>();
        assert_eq!(found, [0, 0, 0, 0, 0, 0, 1, 1, 1]);
    }
}

#[test]
fn write_is_stable_when_it_is_over_unless_the_driver_flushes_by_itself() {
    for (features, stable) in [(0, true), (FLUSH, false)] {
        let mut rig = Rig::new(8, true);
        let mut driver = rig.start(PLAIN, features);
        rig.put(DATA, &[0x77; 512]);
        driver.add(&rig.request(0, 1, 5, 1), false);
        rig.kick();
        while rig.disk.asked() != 0 {
            rig.disk.answer(0);
            rig.poll();
        }
        assert_eq!((driver.take().is_some(), rig.ended(0)), (true, 0));
        assert_eq!(rig.disk.is_stable(), stable);
    }
}

#[test]
fn reset_waits_for_what_the_host_is_at_and_the_device_works_again() {
    for direct in [false, true] {
        let mut rig = Rig::new(2, direct);
        let mut driver = rig.start(PLAIN, FLUSH);
        for n in 0..5 {
            driver.add(&rig.request(n, 0, n, 1), false);
        }
        rig.kick();
        assert!(rig.disk.asked() != 0);
        rig.write(0x14, 1, 0);
        assert_eq!((rig.disk.asked(), rig.status()), (0, 0));
        assert_eq!(driver.take(), None, "nothing is said any more");
        rig.put(RING + 0x2000, &[0; 0x2000]);
        let mut driver = rig.start(PLAIN, FLUSH);
        driver.add(&rig.request(0, 0, 9, 1), false);
        rig.kick();
        rig.disk.answer(0);
        rig.poll();
        assert!(driver.take().is_some());
        assert_eq!(rig.bytes(DATA, 512), rig.disk.sectors_at(9, 1));
    }
}

#[test]
fn guest_that_breaks_a_rule_gets_needs_reset_and_nothing_else() {
    let mut rig = Rig::new(8, true);
    let mut driver = rig.start(PLAIN, FLUSH);
    let mut parts = rig.request(0, 0, 3, 1);
    parts[1].0 = 1 << 40;
    driver.add(&parts, false);
    driver.add(&rig.request(1, 0, 3, 1), false);
    rig.kick();
    assert_eq!(rig.status(), 0x4f);
    assert!(rig.irqs.level(PIN));
    assert_eq!(rig.read(0x1000, 1), 2, "the configuration has changed");
    rig.kick();
    rig.poll();
    assert_eq!((rig.disk.asked(), driver.take()), (0, None));
    // No status byte, and no header, are no requests.
    for parts in [
        &[(HEADERS, 16, false)][..],
        &[(HEADERS, 15, false), (DATA, 1, true)],
    ] {
        rig.put(RING + 0x2000, &[0; 0x2000]);
        let mut driver = rig.start(PLAIN, FLUSH);
        driver.add(parts, false);
        rig.kick();
        assert_eq!(rig.status(), 0x4f);
    }
    // A queue that cannot be.
    for (size, at) in [(3, RING), (512, RING), (0, RING), (8, RING + 8)] {
        rig.write(0x14, 1, 0);
        let driver = Driver::new(&rig.bench.mem, at, size.max(1), PLAIN);
        rig.queue(0, &driver);
        assert_eq!(rig.status() & 0x40, if size == 0 { 0 } else { 0x40 });
    }
    rig.put(RING + 0x2000, &[0; 0x2000]);
    let mut driver = rig.start(PLAIN, FLUSH);
    driver.add(&rig.request(0, 4, 0, 0), false);
    rig.kick();
    rig.disk.answer(0);
    rig.poll();
    assert!(driver.take().is_some(), "it works again");
}

#[test]
fn nothing_is_done_without_bus_mastering_and_a_ready_driver() {
    let mut rig = Rig::new(8, true);
    let mut driver = rig.start(PLAIN, FLUSH);
    rig.command(3);
    driver.add(&rig.request(0, 0, 3, 1), false);
    rig.kick();
    rig.poll();
    assert_eq!(rig.disk.asked(), 0);
    rig.command(7);
    assert!(rig.bench.requests.wake.is_some(), "it looks around then");
    rig.poll();
    assert_eq!(rig.disk.asked(), 1);
    // Features that were not offered, and version 1 not agreed to.
    for features in [1u64 << 32 | 1 << 50, 0] {
        rig.write(0x14, 1, 0);
        for half in 0..2 {
            rig.write(8, 4, half);
            rig.write(0xc, 4, features >> (32 * half) & 0xffff_ffff);
        }
        rig.write(0x14, 1, 0xb);
        assert_eq!(rig.status(), 3);
    }
}

#[test]
fn interrupts_are_the_pins_until_messages_are_enabled() {
    let mut rig = Rig::new(8, true);
    let mut driver = rig.start(PLAIN, FLUSH);
    let mut flush = |rig: &mut Rig| {
        driver.add(&rig.request(0, 4, 0, 0), false);
        rig.kick();
        rig.disk.answer(0);
        rig.poll();
        assert!(driver.take().is_some());
    };
    flush(&mut rig);
    assert!(rig.irqs.level(PIN));
    assert_eq!((rig.read(0x1000, 1), rig.read(0x1000, 1)), (1, 0));
    assert!(!rig.irqs.level(PIN), "reading lowers it");
    // Vector 2 for queue 0; a vector that is not there reads back as none.
    rig.write(0x16, 2, 0);
    rig.write(0x1a, 2, 3);
    assert_eq!(rig.read(0x1a, 2), 0xffff);
    rig.write(0x1a, 2, 2);
    for (offset, value) in [(0x20, 0xfee0_0000), (0x28, 0x4e)] {
        let cx = &mut rig.bench.cx();
        rig.pci.mmio_write(cx, WINDOWS.msi_x, offset, 8, value);
    }
    rig.pci
        .config_write(&mut rig.bench.cx(), 0x42, Word, 0x8000);
    flush(&mut rig);
    assert!(!rig.irqs.level(PIN));
    assert_eq!(*rig.messages.0.lock().unwrap(), [0x4e]);
}

#[test]
fn older_driver_reads_a_sector_through_the_ports() {
    // What SeaBIOS does (virtio-pci.c, vp_init_simple and vp_find_vq) and iPXE.
    let mut rig = Rig::new(8, true);
    let out = |rig: &mut Rig, port: u16, size, value| {
        rig.pci
            .port_write(&mut rig.bench.cx(), 0xc000 + port, size, value);
    };
    let read = |rig: &mut Rig, port: u16, size| {
        rig.pci.port_read(&mut rig.bench.cx(), 0xc000 + port, size)
    };
    for status in [0, 1, 3] {
        out(&mut rig, 0x12, Byte, status);
    }
    let offered = read(&mut rig, 0, Dword);
    assert_eq!(offered & 1 << 9, 1 << 9);
    out(&mut rig, 4, Dword, offered & 1 << 6);
    out(&mut rig, 0xe, Word, 0);
    assert_eq!(
        (read(&mut rig, 0xc, Word), read(&mut rig, 8, Dword)),
        (256, 0)
    );
    out(&mut rig, 8, Dword, RING as u32 >> 12);
    out(&mut rig, 0x12, Byte, 7);
    let mut driver = Driver::new(&rig.bench.mem, RING, 256, PLAIN);
    driver.place.driver = Gpa(RING + 256 * 16);
    driver.place.device = Gpa(RING + 0x2000);
    assert_eq!(read(&mut rig, 0x14, Dword), SECTORS as u32, "the capacity");
    driver.add(&rig.request(0, 0, 11, 1), false);
    out(&mut rig, 0x10, Word, 0);
    rig.disk.answer(0);
    rig.poll();
    assert_eq!(read(&mut rig, 0x13, Byte), 1);
    assert!(driver.take().is_some());
    assert_eq!(rig.bytes(DATA, 512), rig.disk.sectors_at(11, 1));
    out(&mut rig, 0x12, Byte, 0);
    assert_eq!(read(&mut rig, 8, Dword), 0);
}

#[test]
fn structures_are_reached_through_configuration_space() {
    // 4.1.4.9: what SeaBIOS does where it cannot reach the window.
    let mut rig = Rig::new(8, true);
    let find = |rig: &mut Rig| {
        let mut at = rig.pci.config_read(&mut rig.bench.cx(), 0x34, Byte) as u8;
        loop {
            let head = rig.pci.config_read(&mut rig.bench.cx(), at, Dword);
            if head >> 24 == 5 && head as u8 == 9 {
                return at;
            }
            at = (head >> 8) as u8;
            assert_ne!(at, 0);
        }
    };
    let at = find(&mut rig);
    let put = |rig: &mut Rig, offset, value| {
        rig.pci
            .config_write(&mut rig.bench.cx(), at + offset, Dword, value);
    };
    for (offset, value) in [(4, 4), (8, 0x14), (12, 1), (16, 3)] {
        put(&mut rig, offset, value);
    }
    assert_eq!(rig.status(), 3);
    for (offset, value) in [(8, 0x2000), (12, 4)] {
        put(&mut rig, offset, value);
    }
    let value = rig.pci.config_read(&mut rig.bench.cx(), at + 16, Dword);
    assert_eq!(value, SECTORS as u32);
    // What points nowhere reads what was read last.
    put(&mut rig, 8, 0x4000);
    put(&mut rig, 12, 3);
    let _ = rig.pci.config_read(&mut rig.bench.cx(), at + 16, Dword);
}

/// Any requests, in any shape, with a host that answers when it likes: the disk has what a model of it has.
#[test]
fn disk_has_what_was_written_and_reads_give_what_it_had() {
    let mut r = Random::from_env("UMBRA_SEED", 3);
    for round in 0..64 {
        let agreed = Agreed {
            packed: round & 1 != 0,
            indirect: round & 2 != 0,
            event_index: round & 4 != 0,
            in_order: round & 8 != 0,
        };
        let mut rig = Rig::new(1 + r.below(6) as usize, round & 16 != 0);
        let mut driver = rig.start(agreed, if round & 32 != 0 { FLUSH } else { 0 });
        let mut model = rig.disk.sectors_at(0, SECTORS);
        // Requests under way, with the sectors of each: no two have the same, so that their order does not matter.
        let mut under_way: BTreeMap<u16, (u64, u32, usize, usize)> = BTreeMap::new();
        for _ in 0..200 {
            if r.below(3) != 0 {
                let n = r.below(16);
                let (first, count) = (r.below(60) as usize, 1 + r.below(4) as usize);
                let busy = |&(m, _, f, c): &(u64, u32, usize, usize)| {
                    m == n || first < f + c && f < first + count
                };
                if under_way.values().any(busy) || !driver.has_room(8) {
                    continue;
                }
                let kind = r.below(2) as u32;
                let mut parts = rig.request(n, kind, first as u64, count as u32);
                if kind == 1 {
                    let bytes: Vec<u8> = (0..count * 512).map(|_| r.below(256) as u8).collect();
                    rig.put(parts[1].0, &bytes);
                    model[first * 512..(first + count) * 512].copy_from_slice(&bytes);
                }
                // The data are in pieces of any length.
                let (at, len, write) = parts[1];
                let cut = 1 + r.below(u64::from(len) - 1) as u32;
                parts[1] = (at, cut, write);
                parts.insert(2, (at + u64::from(cut), len - cut, write));
                let indirect = agreed.indirect && r.below(2) == 0;
                let id = driver.add(&parts, indirect);
                under_way.insert(id, (n, kind, first, count));
                if driver.must_kick() {
                    rig.kick();
                }
            } else {
                rig.disk.answer(r.below(8) as usize);
                rig.poll();
            }
            while let Some((id, _)) = driver.take() {
                let (n, kind, first, count) = under_way.remove(&id).expect("a request");
                assert_eq!(rig.ended(n), 0);
                if kind == 0 {
                    let is = rig.bytes(DATA + n * 0x2000, count * 512);
                    assert!(is == model[first * 512..(first + count) * 512]);
                }
            }
        }
        while rig.disk.asked() != 0 {
            rig.disk.answer(0);
            rig.poll();
            while let Some((id, _)) = driver.take() {
                under_way.remove(&id);
            }
        }
        assert!(under_way.is_empty(), "{agreed:?}: {under_way:?}");
        assert!(rig.disk.sectors_at(0, SECTORS) == model);
        assert!(round & 32 != 0 || rig.disk.is_stable());
    }
}
