//! Ports, the registers in memory, reset.

use super::{MODE_03, MODE_12, Rig};
use crate::vga::{Vga, edid};
use hv_core::device::{AccessSize, Device, WindowId};
use hv_core::mem::DeviceRam;

#[test]
fn crtc_is_only_where_the_miscellaneous_output_register_says() {
    let mut r = Rig::new(1 << 20);
    r.out8(0x3c2, 0x67);
    r.index(0x3d4, 0x0e, 0x12);
    assert_eq!(
        (r.read_index(0x3d4, 0x0e), r.in8(0x3b5), r.in8(0x3ba)),
        (0x12, 0xff, 0xff)
    );
    r.out8(0x3c2, 0x66);
    assert_eq!(
        (r.read_index(0x3b4, 0x0e), r.in8(0x3d5), r.in8(0x3da)),
        (0x12, 0xff, 0xff)
    );
    assert_eq!(r.in8(0x3cc), 0x66);
}

#[test]
fn reading_input_status_1_resets_the_attribute_flip_flop() {
    let mut r = Rig::with_mode(&MODE_03);
    r.in8(0x3da);
    r.out8(0x3c0, 0x10);
    assert_eq!(r.read_index(0x3d4, 0x24), 0x80);
    r.in8(0x3da);
    assert_eq!(r.read_index(0x3d4, 0x24), 0x00);
    assert_eq!(r.in8(0x3c1), 0x0c);
}

#[test]
fn latch_can_be_read_through_cr22() {
    let mut r = Rig::with_mode(&MODE_12);
    r.ram.write(0, &[1, 2, 3, 4]);
    r.peek(0xa_0000, 1);
    r.index(0x3ce, 4, 2);
    assert_eq!(r.read_index(0x3d4, 0x22), 3);
}

#[test]
fn word_access_to_an_index_port_is_index_and_data() {
    let mut r = Rig::new(1 << 20);
    r.index(0x3ce, 8, 0xa5);
    assert_eq!(r.in16(0x3ce), 0xa508);
}

#[test]
fn dispi_answers_at_both_data_ports_and_to_dwords() {
    let mut r = Rig::new(1 << 20);
    r.out16(0x1ce, 0);
    assert_eq!((r.in16(0x1cf), r.in16(0x1d0)), (0xb0c5, 0xb0c5));
    let mut cx = r.bench.cx();
    r.vga
        .port_write(&mut cx, 0x1ce, AccessSize::Dword, 800 << 16 | 1);
    assert_eq!(
        r.vga.port_read(&mut cx, 0x1ce, AccessSize::Dword),
        800 << 16 | 1
    );
    assert_eq!(r.read_dispi(1), 800);
}

#[test]
fn bochs_drm_sets_a_mode_through_the_registers_in_memory() {
    let mut r = Rig::new(16 << 20);
    assert_eq!(r.mmio_read(0x600, 4), 8);
    r.mmio_write(0x604, 4, 0x1e1e_1e1e);
    assert_eq!(r.mmio_read(0x604, 4), 0x1e1e_1e1e);
    assert_eq!(r.mmio_read(0x500, 2) & 0xfff0, 0xb0c0);
    assert_eq!(r.mmio_read(0x514, 2), 256);
    r.mmio_write(0x400 + 0x02, 1, 0x01);
    r.mmio_read(0x400 + 0x1a, 1);
    r.mmio_write(0x400, 1, 0x20);
    for (i, v) in [
        (4, 0),
        (3, 32),
        (1, 1024),
        (2, 768),
        (5, 0),
        (6, 1024),
        (7, 768),
        (8, 0),
        (9, 0),
        (4, 0x41),
    ] {
        r.mmio_write(0x500 + 2 * i, 2, v);
    }
    let s = r.vga.screen();
    assert_eq!(
        (s.kind, s.width, s.height),
        (crate::vga::ScreenKind::Vbe { bpp: 32 }, 1024, 768)
    );
    assert!(r.vga.is_lfb_mode());
}

#[test]
fn edid_is_at_the_beginning_of_the_registers_in_memory() {
    let mut r = Rig::new(1 << 20);
    let bytes: Vec<u8> = (0..256).map(|o| r.mmio_read(o, 1) as u8).collect();
    assert_eq!(bytes[..128], edid::block());
    assert_eq!(bytes[128..], [0; 128]);
    assert_eq!(r.mmio_read(0, 8), 0x00ff_ffff_ffff_ff00);
}

#[test]
fn every_width_works_on_the_registers_in_memory() {
    let mut r = Rig::new(1 << 20);
    r.mmio_write(0x502, 8, 0x0000_0010_0258_0320);
    assert_eq!(
        (r.read_dispi(1), r.read_dispi(2), r.read_dispi(3)),
        (800, 600, 16)
    );
    r.mmio_write(0x503, 1, 0x04);
    r.mmio_write(0x502, 1, 0x00);
    assert_eq!(
        (r.mmio_read(0x502, 4), r.mmio_read(0x503, 1)),
        (0x0258_0400, 4)
    );
    r.mmio_write(0x404, 2, 0x0f02);
    assert_eq!(r.mmio_read(0x404, 4) & 0xffff, 0x0f02);
    assert_eq!(r.mmio_read(0x700, 8), u64::MAX);
    assert_eq!(r.mmio_read(0x420, 4), 0xffff_ffff);
}

#[test]
fn an_unknown_window_is_open_bus() {
    let mut r = Rig::new(1 << 20);
    r.vga.mmio_write(&mut r.bench.cx(), WindowId(9), 0, 4, 0);
    assert_eq!(
        r.vga.mmio_read(&mut r.bench.cx(), WindowId(9), 0, 8),
        u64::MAX
    );
}

#[test]
fn enabling_a_vbe_mode_clears_the_screen_unless_told_not_to() {
    let mut r = Rig::new(1 << 20);
    r.ram.fill(0, 1 << 20, 0xff);
    r.dispi(4, 0xc1);
    assert_eq!(r.vram::<2>(0), [0xff, 0xff]);
    r.dispi(4, 0);
    r.dispi(4, 0x41);
    assert_eq!(r.vram::<2>(640 * 480 - 1), [0, 0xff]);
}

#[test]
fn banked_writes_are_plain_after_enabling_whatever_the_registers_were() {
    let mut r = Rig::with_mode(&MODE_12);
    for (i, v) in [(1, 0x0f), (3, 0x18), (5, 2), (8, 1)] {
        r.index(0x3ce, i, v);
    }
    r.index(0x3c4, 2, 1);
    r.vbe_mode(640, 480, 8);
    r.poke(0xa_0000, 4, 0x4433_2211);
    assert_eq!(r.vram::<4>(0), [0x11, 0x22, 0x33, 0x44]);
}

#[test]
fn generation_changes_with_what_is_visible_only() {
    let mut r = Rig::with_mode(&MODE_03);
    let g = r.vga.generation();
    r.in8(0x3da);
    r.out8(0x3d4, 0x0e);
    r.out8(0x3d5, 0x00);
    r.out8(0x3c8, 7);
    r.peek(0xb_8000, 2);
    assert_eq!(r.vga.generation(), g);
    let mut last = g;
    for (port, index, value) in [(0x3d4, 0x0f, 1), (0x3c4, 3, 1), (0x3ce, 7, 1)] {
        r.index(port, index, value);
        assert_ne!(r.vga.generation(), last, "{port:#x}");
        last = r.vga.generation();
    }
    r.print(0, "x");
    assert_ne!(r.vga.generation(), last);
}

#[test]
fn reset_is_power_on() {
    let mut r = Rig::with_mode(&MODE_03);
    r.print(0, "x");
    r.vbe_mode(1024, 768, 32);
    let g = r.vga.generation();
    r.vga.reset(&mut r.bench.cx());
    assert!(!r.vga.is_lfb_mode());
    assert_eq!(
        (r.in8(0x3cc), r.read_index(0x3ce, 6), r.vram::<4>(0)),
        (0, 0, [0; 4])
    );
    assert_ne!(r.vga.generation(), g);
}

#[test]
fn a_machine_that_wakes_shows_what_it_showed() {
    let mut r = Rig::with_mode(&MODE_03);
    r.print(0, "x");
    let shown = (r.in8(0x3cc), r.read_index(0x3ce, 6), r.vram::<4>(0));
    r.vga.wake(&mut r.bench.cx());
    let now = (r.in8(0x3cc), r.read_index(0x3ce, 6), r.vram::<4>(0));
    assert_eq!(now, shown);
    r.vbe_mode(1024, 768, 32);
    r.vga.wake(&mut r.bench.cx());
    assert!(r.vga.is_lfb_mode());
}

#[test]
fn frame_buffer_is_video_memory_for_emulated_instructions() {
    const WINDOW: WindowId = WindowId(77);
    let mut b = hv_core::testing::Bench::new();
    let vram = std::sync::Arc::new(hv_core::testing::VecDeviceRam::new(1 << 20));
    let mut vga = Vga::new(vram, WindowId(0), WindowId(1)).with_frame_buffer(WINDOW);
    let before = vga.generation();
    vga.mmio_write(&mut b.cx(), WINDOW, 0x1234, 4, 0x1122_3344);
    assert_ne!(vga.generation(), before);
    assert_eq!(vga.mmio_read(&mut b.cx(), WINDOW, 0x1235, 2), 0x2233);
    let end = (1 << 20) - 2;
    assert_eq!(vga.mmio_read(&mut b.cx(), WINDOW, end, 4), u64::MAX);
    vga.mmio_write(&mut b.cx(), WINDOW, u64::MAX, 8, 0);
}
