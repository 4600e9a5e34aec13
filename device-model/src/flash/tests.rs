//! The flash chip as EDK II drives it.

use super::*;
use hv_core::Hpa;
use hv_core::testing::{Bench, SharedDisk, VecDeviceRam};

const AT: Gpa = Gpa(0xffc0_0000);
const LEN: usize = 4 * BLOCK;
const ARRAY: WindowId = WindowId(0);
const REGISTERS: WindowId = WindowId(1);

struct Rig {
    flash: Flash,
    bench: Bench,
    ram: Arc<VecDeviceRam>,
    medium: SharedDisk,
}

impl Rig {
    fn new() -> Self {
        let ram = Arc::new(VecDeviceRam::new(LEN));
        ram.fill(0, LEN, 0xff);
        let medium = SharedDisk::of(vec![0xff; LEN]);
        let memory = Mapped {
            ram: ram.clone(),
            hpa: Hpa(0),
        };
        let parts = Parts {
            at: AT,
            memory,
            medium: Some(medium.boxed()),
        };
        let windows = Windows {
            array: ARRAY,
            registers: REGISTERS,
        };
        let mut rig = Self {
            flash: Flash::new(parts, windows),
            bench: Bench::new(),
            ram,
            medium,
        };
        rig.flash.reset(&mut rig.bench.cx());
        rig
    }

    fn write(&mut self, offset: u64, value: u8) {
        let mut cx = self.bench.cx();
        self.flash
            .mmio_write(&mut cx, ARRAY, offset, 1, value.into());
    }

    fn read(&mut self, offset: u64) -> u8 {
        let mut cx = self.bench.cx();
        self.flash.mmio_read(&mut cx, REGISTERS, offset, 1) as u8
    }

    /// As EDK II's `QemuFlashWrite`.
    fn program(&mut self, offset: u64, bytes: &[u8]) {
        for (at, &byte) in (offset..).zip(bytes) {
            self.write(at, 0x10);
            self.write(at, byte);
        }
        self.write(offset, 0xff);
    }

    /// Where the guest sees the array, and the registers.
    fn shown(&mut self) -> (Option<u64>, Option<u64>) {
        let cx = self.bench.cx();
        let moved = |window| cx.requests.moved.iter().find(|m| m.0 == window).unwrap().1;
        (moved(ARRAY), moved(REGISTERS))
    }

    fn kept(&self, offset: usize, len: usize) -> Vec<u8> {
        self.medium.contents()[offset..][..len].to_vec()
    }
}

#[test]
fn edk2_finds_that_it_is_flash() {
    let mut r = Rig::new();
    // The first byte that is none of the commands, then clear status and read status.
    assert_eq!(r.read(0), 0xff);
    r.write(0, 0x50);
    r.write(0, 0x70);
    assert_eq!(r.read(0), 0, "neither 70h, as RAM, nor the byte, as ROM");
    r.write(0, 0xff);
    assert_eq!(r.read(0), 0xff);
}

#[test]
fn the_array_is_memory_in_array_mode_only() {
    let mut r = Rig::new();
    let (array, registers) = ((Some(AT.0), None), (None, Some(AT.0)));
    assert_eq!(r.shown(), array);
    for (command, shown) in [
        (0x70, registers),
        (0xff, array),
        (0x90, registers),
        (0x50, array),
        (0x20, registers),
        (0xd0, registers),
        (0x77, array),
        (0x40, registers),
    ] {
        r.write(0, command);
        assert_eq!(r.shown(), shown, "{command:02x}");
    }
    r.flash.reset(&mut r.bench.cx());
    assert_eq!(r.shown(), array);
}

#[test]
fn a_program_clears_bits_and_an_erase_sets_a_block() {
    let mut r = Rig::new();
    r.program(BLOCK as u64 + 1, &[0xf0, 0x55]);
    r.program(BLOCK as u64 + 1, &[0x3c, 0xff]);
    assert_eq!(r.read(BLOCK as u64 + 1), 0x30);
    assert_eq!(r.read(BLOCK as u64 + 2), 0x55);
    r.program(0, &[0]);
    r.write(BLOCK as u64 + 7, 0x20);
    r.write(BLOCK as u64 + 7, 0xd0);
    assert_eq!(r.read(0), 0x80, "ready");
    r.write(0, 0xff);
    assert_eq!(r.read(BLOCK as u64 + 1), 0xff);
    assert_eq!(r.read(0), 0, "another block stays");
}

#[test]
fn an_erase_that_is_not_confirmed_is_an_error_that_stays_until_it_is_cleared() {
    let mut r = Rig::new();
    r.program(0, &[0]);
    r.write(0, 0x20);
    r.write(0, 0x20);
    assert_eq!(r.read(0), 0xb0);
    r.write(0, 0xff);
    assert_eq!(r.read(0), 0);
    r.write(0, 0x70);
    assert_eq!(r.read(0), 0xb0);
    r.write(0, 0x50);
    r.write(0, 0x70);
    assert_eq!(r.read(0), 0);
}

#[test]
fn the_identity_is_read_in_its_mode() {
    let mut r = Rig::new();
    r.write(0, 0x90);
    assert_eq!((r.read(0), r.read(1), r.read(2)), (0x89, 0x18, 0));
}

#[test]
fn wide_accesses_are_bytes_side_by_side() {
    let mut r = Rig::new();
    r.write(0, 0x40);
    let mut cx = r.bench.cx();
    r.flash
        .mmio_write(&mut cx, REGISTERS, LEN as u64 - 4, 4, 0x4433_2211);
    assert_eq!(
        r.flash.mmio_read(&mut cx, REGISTERS, 8, 8),
        0x8080_8080_8080_8080
    );
    r.write(0, 0xff);
    let mut cx = r.bench.cx();
    assert_eq!(
        r.flash.mmio_read(&mut cx, ARRAY, LEN as u64 - 4, 4),
        0x4433_2211
    );
}

#[test]
fn what_is_programmed_is_kept_when_the_command_is_over() {
    let mut r = Rig::new();
    for (at, byte) in [(510, 1), (511, 2), (512, 3)] {
        r.write(at, 0x10);
        r.write(at, byte);
    }
    assert_eq!(r.kept(510, 3), [0xff; 3]);
    r.write(0, 0xff);
    assert_eq!(r.kept(510, 3), [1, 2, 3]);
    assert_eq!(r.medium.flushes(), 1, "flushed once");
    // Nothing has changed.
    r.write(0, 0xff);
    assert_eq!(r.medium.flushes(), 1);
}

#[test]
fn an_erase_is_kept_at_once() {
    let mut r = Rig::new();
    r.program(5, &[0]);
    assert_eq!(r.kept(5, 1), [0]);
    r.write(0, 0x20);
    r.write(0, 0xd0);
    assert_eq!(r.kept(5, 1), [0xff]);
}

#[test]
fn a_program_without_a_command_after_it_is_kept_soon() {
    let mut r = Rig::new();
    r.write(9, 0x10);
    r.write(9, 7);
    assert!(r.bench.cx().requests.wake.is_some());
    r.flash.poll(&mut r.bench.cx());
    assert_eq!(r.kept(9, 1), [7]);
}

#[test]
fn what_the_medium_refuses_is_tried_again() {
    let mut r = Rig::new();
    r.medium.set_fail(true);
    r.program(9, &[7]);
    r.write(0, 0x70);
    assert_eq!(r.read(0) & 0x10, 0x10, "the program has failed");
    r.medium.set_fail(false);
    r.program(3000, &[8]);
    assert_eq!((r.kept(9, 1), r.kept(3000, 1)), (vec![7], vec![8]));
}

#[test]
fn a_reset_keeps_the_contents() {
    let mut r = Rig::new();
    r.write(9, 0x10);
    r.write(9, 7);
    r.flash.reset(&mut r.bench.cx());
    assert_eq!((r.read(9), r.kept(9, 1)), (7, vec![7]));
    let mut byte = [0];
    r.ram.read(9, &mut byte);
    assert_eq!(byte, [7]);
}
