use super::Fdc;
use super::drive::Geometry;
use crate::dma::Dma;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use hv_core::backend::BlockBackend;
use hv_core::device::AccessSize::{Byte, Dword, Word};
use hv_core::device::Device;
use hv_core::irq::IrqLine;
use hv_core::lock::{Lock, Rank};
use hv_core::machine::FloppyDrive;
use hv_core::testing::{Bench, RamDisk, Random, RecordingIrqs};
use hv_core::{Gpa, VmTime};

/// Where the DMA buffer is.
const BUFFER: u64 = 0x2_0000;

struct Rig {
    fdc: Fdc,
    dma: Arc<Lock<Dma>>,
    bench: Bench,
    irqs: Arc<RecordingIrqs>,
}

fn image(sectors: usize) -> RamDisk {
    let sector = |n: usize| (0..512).map(move |i| (n * 7 + i * 3 + n / 256) as u8);
    RamDisk {
        data: (0..sectors).flat_map(sector).collect(),
        read_only: false,
        fail: false,
    }
}

fn boxed(disk: RamDisk) -> Option<Box<dyn BlockBackend>> {
    Some(Box::new(disk))
}

impl Rig {
    fn new(kind: FloppyDrive, medium: Option<Box<dyn BlockBackend>>) -> Self {
        let irqs = RecordingIrqs::new();
        let dma = Arc::new(Lock::new(Rank::Part, Dma::new()));
        let fdc = Fdc::new(IrqLine::new(irqs.clone(), 6), dma.clone(), kind, medium);
        Self {
            fdc,
            dma,
            bench: Bench::new(),
            irqs,
        }
    }

    /// A drive with a 1.44 MB disk, switched on, reset, and at 500 kbps.
    fn ready() -> Self {
        Self::with(image(2880))
    }

    fn with(disk: RamDisk) -> Self {
        let mut r = Self::new(FloppyDrive::M2880, boxed(disk));
        r.reset();
        r.recalibrate();
        r
    }

    fn out(&mut self, port: u16, value: u8) {
        self.fdc
            .port_write(&mut self.bench.cx(), port, Byte, value.into());
    }

    fn inb(&mut self, port: u16) -> u8 {
        self.fdc.port_read(&mut self.bench.cx(), port, Byte) as u8
    }

    /// Lets the controller come to its next deadline.
    fn wait(&mut self) {
        if let Some(next) = self.fdc.poll(&mut self.bench.cx()) {
            self.bench.now = self.bench.now.max(next);
            self.fdc.poll(&mut self.bench.cx());
        }
    }

    /// Waits for the interrupt, as a driver does.
    fn interrupt(&mut self) {
        assert!(!self.irqs.level(6), "not inside the command's last byte");
        self.wait();
        assert!(self.irqs.level(6));
    }

    fn send(&mut self, bytes: &[u8]) {
        for (i, &byte) in bytes.iter().enumerate() {
            let busy = if i == 0 { 0 } else { 0x10 };
            assert_eq!(self.inb(0x3f4) & 0xd0, 0x80 | busy, "before byte {i}");
            self.out(0x3f5, byte);
        }
    }

    fn results(&mut self) -> Vec<u8> {
        let mut results = Vec::new();
        while self.inb(0x3f4) & 0x40 != 0 {
            results.push(self.inb(0x3f5));
            assert!(results.len() <= 10);
        }
        assert!(!self.irqs.level(6));
        assert_eq!(self.inb(0x3f4) & 0xf0, 0x80);
        results
    }

    /// A command whose results come at once.
    fn ask(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        self.results()
    }

    /// A command with an interrupt before its results.
    fn run(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.send(bytes);
        self.interrupt();
        self.results()
    }

    /// Reset by DOR, with the four SENSE INTERRUPT STATUS of SeaBIOS and Linux; drive 0's motor on, 500 kbps, DMA.
    fn reset(&mut self) {
        self.out(0x3f2, 0x18);
        assert_eq!(self.inb(0x3f4), 0);
        self.out(0x3f2, 0x1c);
        self.interrupt();
        for drive in 0..4 {
            assert_eq!(self.ask(&[8]), [0xc0 | drive, 0]);
        }
        self.out(0x3f7, 0);
        self.send(&[3, 0xaf, 2]);
    }

    fn recalibrate(&mut self) {
        self.send(&[7, 0]);
        self.interrupt();
        assert_eq!(self.ask(&[8]), [0x20, 0]);
    }

    fn seek(&mut self, track: u8) {
        self.send(&[0x0f, 0, track]);
        self.interrupt();
        assert_eq!(self.ask(&[8]), [0x20, track]);
    }

    /// Programs DMA channel 2; mode 44h: to memory, 48h: from memory.
    fn program(&mut self, mode: u8, len: u16) {
        let [a, b, c, _] = (BUFFER as u32).to_le_bytes();
        let [l, h] = (len - 1).to_le_bytes();
        let dma = &mut *self.dma.lock();
        for (port, value) in [
            (0x0a, 6),
            (0x0c, 0),
            (0x04, a),
            (0x04, b),
            (0x05, l),
            (0x05, h),
            (0x0b, mode | 2),
            (0x81, c),
            (0x0a, 2),
        ] {
            dma.port_write(&mut self.bench.cx(), port, Byte, u32::from(value));
        }
    }

    fn memory(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.bench.cx().dma.read(Gpa(BUFFER), &mut bytes).unwrap();
        bytes
    }

    fn poke(&mut self, bytes: &[u8]) {
        self.bench.cx().dma.write(Gpa(BUFFER), bytes).unwrap();
    }

    /// The sectors of the disk.
    fn disk(&mut self, sector: u64, sectors: usize) -> Vec<u8> {
        let mut bytes = vec![0; sectors * 512];
        let medium = self.fdc.drives[0].medium().unwrap();
        medium.read(sector, &mut bytes).unwrap();
        bytes
    }
}

#[test]
fn a_reset_interrupts_once_and_has_four_drives_to_tell_of() {
    let mut r = Rig::new(FloppyDrive::M1440, None);
    r.reset();
    assert_eq!(r.ask(&[8]), [0x80], "and no more");
    assert_eq!(r.irqs.take(), [(6, true), (6, false)]);
}

#[test]
fn a_reset_by_dsr_releases_itself() {
    let mut r = Rig::ready();
    r.out(0x3f4, 0x80);
    r.interrupt();
    assert_eq!(r.ask(&[8]), [0xc0, 0]);
}

#[test]
fn nothing_leaves_the_chip_through_a_closed_gate() {
    let mut r = Rig::new(FloppyDrive::M1440, None);
    r.out(0x3f2, 0x04);
    r.wait();
    assert_eq!(r.irqs.take(), []);
    r.out(0x3f2, 0x0c);
    assert!(r.irqs.level(6));
}

#[test]
fn linux_finds_a_post_1991_82077() {
    let mut r = Rig::ready();
    assert_eq!(r.ask(&[0x10]), [0x90]);
    // get_fdc_version(): DUMPREGS, CONFIGURE, PERPENDICULAR MODE, UNLOCK, PART ID.
    assert_eq!(r.ask(&[0x0e]), [0, 0, 0, 0, 0xaf, 2, 0, 0, 0x20, 0]);
    r.send(&[0x13, 0, 0x1a, 5]);
    r.send(&[0x12, 0x80]);
    assert_eq!(r.ask(&[0x14]), [0]);
    assert_eq!(r.ask(&[0x18]), [0x80]);
    assert_eq!(r.ask(&[0x94]), [0x10]);
    assert_eq!(r.ask(&[0x0e])[7..], [0x80, 0x1a, 5]);
    r.reset();
    let after = r.ask(&[0x0e]);
    assert_eq!(
        after[7..],
        [0x80, 0x0a, 5],
        "polling again, the rest locked"
    );
}

#[test]
fn seabios_reads_a_sector_by_dma() {
    let mut r = Rig::ready();
    r.program(0x44, 512);
    r.seek(5);
    let results = r.run(&[0xe6, 4, 5, 1, 7, 2, 7, 0x1b, 0xff]);
    // With MT, head 1's last sector leads to the next cylinder's first.
    assert_eq!(results, [4, 0, 0, 6, 0, 1, 2]);
    let sector = (5 * 2 + 1) * 18 + 6;
    assert_eq!(r.memory(512), r.disk(sector, 1));
}

#[test]
fn a_whole_cylinder_is_read_with_multi_track() {
    let mut r = Rig::ready();
    r.seek(79);
    r.program(0x44, 36 * 512);
    let results = r.run(&[0xe6, 0, 79, 0, 1, 2, 18, 0x1b, 0xff]);
    assert_eq!(results, [4, 0, 0, 80, 0, 1, 2]);
    assert_eq!(r.memory(36 * 512), r.disk(79 * 36, 36));
}

#[test]
fn without_terminal_count_the_end_of_the_cylinder_is_an_error() {
    let mut r = Rig::ready();
    r.program(0x44, 36 * 512);
    let results = r.run(&[0x46, 0, 0, 0, 17, 2, 18, 0x1b, 0xff]);
    assert_eq!(results, [0x40, 0x80, 0, 1, 0, 1, 2]);
    assert_eq!(r.memory(1024), r.disk(16, 2));
}

#[test]
fn sectors_are_written_by_dma_and_flushed() {
    let mut r = Rig::ready();
    let data: Vec<u8> = (0..1024).map(|n| (n / 3) as u8).collect();
    r.poke(&data);
    r.seek(1);
    r.program(0x48, 1024);
    let results = r.run(&[0xc5, 0, 1, 0, 3, 2, 4, 0x1b, 0xff]);
    assert_eq!(results, [4, 0, 0, 1, 1, 1, 2]);
    assert_eq!(r.disk(36 + 2, 2), data);
}

#[test]
fn a_write_that_ends_within_a_sector_fills_it_with_zeroes() {
    let mut r = Rig::ready();
    r.poke(&[0x55; 512]);
    r.program(0x48, 100);
    assert_eq!(
        r.run(&[0x45, 0, 0, 0, 1, 2, 18, 0x1b, 0xff])[..3],
        [0, 0, 0]
    );
    let sector = r.disk(0, 1);
    assert_eq!(sector[..100], [0x55; 100]);
    assert_eq!(sector[100..], [0; 412]);
}

#[test]
fn a_protected_disk_is_not_written() {
    let mut r = Rig::with(RamDisk {
        read_only: true,
        ..image(2880)
    });
    assert_eq!(r.ask(&[4, 0]), [0x78], "ST3: protected, track 0");
    r.program(0x48, 512);
    let write = [0xc5, 0, 0, 0, 1, 2, 18, 0x1b, 0xff];
    assert_eq!(r.run(&write), [0x40, 2, 0, 0, 0, 1, 2]);
    assert_eq!(r.run(&[0x4d, 0, 2, 18, 0x6c, 0xf6])[..2], [0x40, 2]);
}

#[test]
fn each_format_is_found_at_its_own_data_rate_only() {
    for (sectors, wanted) in [(1440, 2), (2880, 0), (5760, 3)] {
        let mut r = Rig::with(image(sectors));
        for rate in 0..4 {
            r.out(0x3f7, rate);
            let found = r.run(&[0x4a, 0]);
            let expected = match rate == wanted {
                true => vec![0, 0, 0, 0, 0, 1, 2],
                false => vec![0x40, 1, 0, 0, 0, 0, 0],
            };
            assert_eq!(found, expected, "{sectors} sectors at rate {rate}");
        }
    }
    let mut r = Rig::new(FloppyDrive::M1440, boxed(image(5760)));
    r.reset();
    r.out(0x3f7, 3);
    assert_eq!(r.run(&[0x4a, 0])[1], 1, "a 1.44 MB drive");
}

#[test]
fn what_is_not_there_is_not_found() {
    let mut r = Rig::ready();
    r.program(0x44, 512);
    for (command, results) in [
        ([0x46, 0, 3, 0, 1, 2, 18, 0, 0xff], [0x40, 4, 0x10]),
        ([0x46, 0, 0xff, 0, 1, 2, 18, 0, 0xff], [0x40, 4, 2]),
        ([0x46, 0, 0, 1, 1, 2, 18, 0, 0xff], [0x40, 4, 0]),
        ([0x46, 0, 0, 0, 19, 2, 18, 0, 0xff], [0x40, 4, 0]),
        ([0x46, 0, 0, 0, 0, 2, 18, 0, 0xff], [0x40, 4, 0]),
        ([0x46, 0, 0, 0, 1, 3, 18, 0, 0xff], [0x40, 4, 0]),
        ([0x46, 1, 0, 0, 1, 2, 18, 0, 0xff], [0x41, 1, 0]),
    ] {
        assert_eq!(r.run(&command)[..3], results, "{command:x?}");
    }
}

#[test]
fn a_channel_that_takes_nothing_is_an_overrun() {
    let mut r = Rig::ready();
    assert_eq!(
        r.run(&[0xe6, 0, 0, 0, 1, 2, 1, 0x1b, 0xff])[..3],
        [0x40, 0x10, 0]
    );
    assert_eq!(
        r.run(&[0xc5, 0, 0, 0, 1, 2, 1, 0x1b, 0xff])[..3],
        [0x40, 0x10, 0]
    );
}

#[test]
fn a_bad_disk_is_a_data_error() {
    let mut r = Rig::with(RamDisk {
        fail: true,
        ..image(2880)
    });
    r.program(0x44, 512);
    assert_eq!(
        r.run(&[0xe6, 0, 0, 0, 1, 2, 1, 0x1b, 0xff])[..3],
        [0x40, 0x20, 0x20]
    );
}

#[test]
fn without_dma_bytes_go_through_the_data_port() {
    let mut r = Rig::ready();
    r.send(&[3, 0xaf, 3]);
    r.send(&[0x46, 0, 0, 0, 18, 2, 18, 0x1b, 0xff]);
    r.interrupt();
    let mut sector = Vec::new();
    while r.inb(0x3f4) & 0x20 != 0 {
        assert_eq!(r.inb(0x3f4), 0xf0);
        sector.push(r.inb(0x3f5));
    }
    assert_eq!(sector, r.disk(17, 1));
    assert!(r.irqs.level(6));
    assert_eq!(r.results(), [0x40, 0x80, 0, 1, 0, 1, 2]);
    r.send(&[0x45, 0, 0, 0, 18, 2, 18, 0x1b, 0xff]);
    r.interrupt();
    for n in 0..512u32 {
        assert_eq!(r.inb(0x3f4), 0xb0);
        r.out(0x3f5, n as u8);
    }
    assert_eq!(r.results()[..2], [0x40, 0x80]);
    let written: Vec<u8> = (0..512u32).map(|n| n as u8).collect();
    assert_eq!(r.disk(17, 1), written);
}

#[test]
fn a_track_is_formatted_with_the_images_sectors_only() {
    let mut r = Rig::ready();
    r.seek(2);
    let ids: Vec<u8> = (1..=18).flat_map(|n| [2, 1, n, 2]).collect();
    r.poke(&ids);
    r.program(0x48, 18 * 4);
    let results = r.run(&[0x4d, 4, 2, 18, 0x6c, 0xf6]);
    assert_eq!(results, [4, 0, 0, 2, 1, 18, 2]);
    assert_eq!(r.disk(5 * 18, 18), [0xf6; 18 * 512]);
    r.program(0x48, 36 * 4);
    r.poke(&[2, 1, 19, 2]);
    assert_eq!(r.run(&[0x4d, 4, 2, 36, 0x6c, 0xf6])[..2], [0x44, 4]);
}

#[test]
fn verify_reads_and_moves_nothing() {
    let mut r = Rig::ready();
    assert_eq!(
        r.run(&[0x56, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]),
        [0, 0, 0, 1, 0, 1, 2]
    );
    assert_eq!(
        r.run(&[0x56, 0x80, 0, 0, 1, 2, 18, 0x1b, 4]),
        [0, 0, 0, 0, 0, 5, 2]
    );
}

#[test]
fn the_head_steps_from_where_it_is() {
    let mut r = Rig::ready();
    r.seek(40);
    assert_eq!(r.fdc.drives[0].track, 40);
    r.reset();
    // The controller has forgotten where the head is.
    r.seek(3);
    assert_eq!(r.fdc.drives[0].track, 43);
    r.recalibrate();
    assert_eq!(r.fdc.drives[0].track, 0);
    r.send(&[0xcf, 0, 7]);
    r.interrupt();
    assert_eq!(r.ask(&[8]), [0x20, 7]);
    r.send(&[7, 1]);
    r.interrupt();
    assert_eq!(r.ask(&[8]), [0x71, 0], "no drive 1: no track 0");
}

#[test]
fn implied_seeks_are_made_if_they_are_configured() {
    let mut r = Rig::ready();
    r.program(0x44, 512);
    let read = [0x46, 0, 9, 0, 1, 2, 18, 0x1b, 0xff];
    assert_eq!(r.run(&read)[..3], [0x40, 4, 0x10]);
    r.send(&[0x13, 0, 0x57, 0]);
    assert_eq!(r.run(&read)[..3], [0x20, 0, 0]);
    assert_eq!(r.memory(512), r.disk(9 * 36, 1));
}

#[test]
fn a_seek_is_a_new_edge_though_a_reset_is_only_half_acknowledged() {
    let mut r = Rig::ready();
    r.out(0x3f2, 0x18);
    r.out(0x3f2, 0x1c);
    r.interrupt();
    assert_eq!(r.ask(&[8]), [0xc0, 0]);
    r.recalibrate();
    assert_eq!(r.ask(&[8]), [0x80]);
}

#[test]
fn the_change_line_goes_low_when_a_step_is_made_with_a_disk_in_the_drive() {
    let mut r = Rig::new(FloppyDrive::M1440, boxed(image(2880)));
    r.reset();
    assert_eq!(r.inb(0x3f7), 0x80, "at power-on");
    r.seek(1);
    r.recalibrate();
    assert_eq!(r.inb(0x3f7), 0);
    let disk = r.fdc.change_medium(None);
    assert!(disk.is_some() && !r.fdc.floppy().loaded);
    assert_eq!(r.inb(0x3f7), 0x80);
    r.seek(1);
    assert_eq!(r.inb(0x3f7), 0x80, "no disk");
    r.fdc.change_medium(disk);
    r.recalibrate();
    assert_eq!(r.inb(0x3f7), 0);
    r.out(0x3f2, 0x1d);
    assert_eq!(r.inb(0x3f7), 0, "drive 1 is not there");
}

#[test]
fn an_empty_drive_has_no_sectors() {
    let mut r = Rig::new(FloppyDrive::M1440, None);
    r.reset();
    r.recalibrate();
    assert_eq!(r.run(&[0x4a, 0]), [0x40, 1, 0, 0, 0, 0, 0]);
    r.program(0x44, 512);
    assert_eq!(
        r.run(&[0xe6, 0, 0, 0, 1, 2, 1, 0x1b, 0xff])[..3],
        [0x40, 1, 0]
    );
}

#[test]
fn deleted_data_are_never_found() {
    let mut r = Rig::ready();
    r.program(0x44, 1024);
    assert_eq!(
        r.run(&[0x4c, 0, 0, 0, 1, 2, 18, 0x1b, 0xff]),
        [0, 0, 0x40, 0, 0, 1, 2]
    );
    assert_eq!(
        r.run(&[0x6c, 0, 0, 0, 1, 2, 18, 0x1b, 0xff])[..3],
        [0x40, 0x80, 0]
    );
}

#[test]
fn a_reset_ends_whatever_is_under_way() {
    let mut r = Rig::ready();
    for bytes in [
        &[0xe6u8, 0, 0][..],
        &[0xe6, 0, 0, 0, 1, 2, 1, 0x1b, 0xff],
        &[0x0e],
        &[7, 0],
    ] {
        r.send(bytes);
        r.reset();
        assert_eq!(r.ask(&[8]), [0x80]);
    }
    r.fdc.reset(&mut r.bench.cx());
    assert_eq!((r.inb(0x3f2), r.inb(0x3f4)), (0, 0));
    assert_eq!(r.fdc.poll(&mut r.bench.cx()), None);
}

#[test]
fn other_images_have_no_geometry() {
    for sectors in [0, 1, 720, 2400, 2879, 2881, u64::MAX] {
        assert_eq!(Geometry::of(sectors), None);
    }
    let mut r = Rig::with(image(100));
    assert_eq!(r.run(&[0x4a, 0])[1], 1);
}

#[test]
fn random_abuse_never_panics() {
    let mut random = Random::new(0x3f5_2077_1d0c);
    for round in 0..40 {
        let disk = boxed(image([1440, 2880, 5760, 7][round % 4]));
        let mut r = Rig::new(FloppyDrive::M2880, disk);
        r.reset();
        for _ in 0..2_000 {
            let x = random.next();
            let size = [Byte, Word, Dword][(x >> 16) as usize % 3];
            match x & 15 {
                0..10 => r.out(0x3f5, (x >> 32) as u8 & (x >> 40) as u8),
                10 => r.wait(),
                11 => r.program(
                    [0x44, 0x48, 0x54][(x >> 20) as usize % 3],
                    (x >> 32) as u16 | 1,
                ),
                12 => {
                    let port = 0x3f0 + (x >> 24 & 7) as u16;
                    let value = (x >> 32) as u32 & size.ones();
                    r.fdc.port_write(&mut r.bench.cx(), port, size, value);
                }
                13 => r.out(0x3f2, 0x1c),
                _ => {
                    let port = 0x3f0 + (x >> 24 & 7) as u16;
                    r.fdc.port_read(&mut r.bench.cx(), port, size);
                }
            }
            r.bench.now = r.bench.now + VmTime(x >> 50);
        }
    }
}
