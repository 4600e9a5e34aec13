//! Small screens made by hand, and what they must look like.

use super::{MODE_03, MODE_04, MODE_12, MODE_13, Rig};
use crate::vga::{Painter, Picture, ScreenKind};
use hv_core::mem::DeviceRam;
use hv_core::time::VmTime;

/// A moment when everything that blinks is shown.
const SHOWN: VmTime = VmTime(0);
/// A moment when cursors are dark and characters shown (frame 16).
const CURSOR_DARK: VmTime = VmTime::from_millis(240);
/// A moment when characters that blink are dark (frame 32).
const TEXT_DARK: VmTime = VmTime::from_millis(470);

/// Grey of DAC entry `i`, as the rig programs the DAC.
fn grey(i: u32) -> u32 {
    let v = ((i & 0x3f) << 2) | ((i & 1) * 3);
    v * 0x01_0101
}

fn row(p: &Picture, x: usize, y: usize, n: usize) -> Vec<u32> {
    p.pixels[y * p.width as usize + x..][..n].to_vec()
}

/// Row `y` from `x` on as digits: 1 where the pixel is `on`.
/// As [`row`], of a mode that shows each pixel twice and each line twice; the second ones must be the same.
fn wide_row(p: &Picture, x: usize, y: usize, n: usize) -> Vec<u32> {
    let dots = row(p, 2 * x, 2 * y, 2 * n);
    assert_eq!(dots, row(p, 2 * x, 2 * y + 1, 2 * n));
    let pairs = dots.as_chunks::<2>().0.iter();
    pairs
        .map(|[one, other]| {
            assert_eq!(one, other);
            *one
        })
        .collect()
}

fn bits(p: &Picture, x: usize, y: usize, n: usize, on: u32) -> String {
    row(p, x, y, n)
        .iter()
        .map(|v| if *v == on { '1' } else { '0' })
        .collect()
}

/// Text mode with glyphs whose every line is the character's code.
fn text_rig() -> Rig {
    let r = Rig::with_mode(&MODE_03);
    for c in 0..=255u8 {
        for line in 0..16 {
            r.ram.write((usize::from(c) * 32 + line) * 4 + 2, &[c]);
        }
    }
    r
}

#[test]
fn text_screen_has_the_characters_of_the_page_shown() {
    let mut r = text_rig();
    r.print(0, "A:\\>");
    r.print(81, "dir");
    r.index(0x3d4, 0x0f, 84);
    let t = r.text().unwrap();
    assert_eq!((t.cols, t.rows, t.chars.len()), (80, 25, 2000));
    assert_eq!(&t.chars[..4], b"A:\\>");
    assert_eq!(&t.chars[81..84], b"dir");
    r.index(0x3d4, 0x0d, 80);
    let t = r.text().unwrap();
    assert_eq!(&t.chars[1..4], b"dir");
}

#[test]
fn text_below_the_line_compared_comes_from_address_zero() {
    let mut r = text_rig();
    r.print(0, "status");
    r.print(1000, "body");
    r.print(1000 + 23 * 80, "b");
    r.index(0x3d4, 0x0c, (1000 >> 8) as u8);
    r.index(0x3d4, 0x0d, (1000 & 0xff) as u8);
    r.index(0x3d4, 0x11, 0x0e);
    r.index(0x3d4, 0x18, (24 * 16 - 1) as u8);
    r.index(0x3d4, 0x09, 0x0f);
    let t = r.text().unwrap();
    assert_eq!(
        (t.rows, &t.chars[..4], &t.chars[24 * 80..24 * 80 + 6]),
        (25, &b"body"[..], &b"status"[..])
    );
    let p = r.picture(CURSOR_DARK);
    assert_eq!(bits(&p, 0, 383, 9, grey(7)), "011000100", "'b' above");
    assert_eq!(bits(&p, 0, 384, 9, grey(7)), "011100110", "'s' below");
}

#[test]
fn graphics_and_blank_screens_are_not_text() {
    assert!(Rig::with_mode(&MODE_12).text().is_none());
    let mut r = text_rig();
    r.index(0x3c4, 1, 0x20);
    assert!(r.text().is_none());
    assert!(r.picture(SHOWN).pixels.iter().all(|p| *p == 0));
    assert_eq!(r.vga.screen().kind, ScreenKind::Blank);
}

#[test]
fn ninth_dot_repeats_the_eighth_of_line_characters_only() {
    let mut r = text_rig();
    r.poke(0xb_8000, 4, 0x07df_07bf);
    let p = r.picture(CURSOR_DARK);
    assert_eq!((p.width, p.height), (720, 400));
    assert_eq!(bits(&p, 0, 0, 18, grey(7)), "101111110110111111");
}

#[test]
fn eight_dot_cells_make_640_pixels() {
    let mut r = text_rig();
    r.index(0x3c4, 1, 0x01);
    r.print(0, "\x0f\x71");
    let p = r.picture(CURSOR_DARK);
    assert_eq!(
        (p.width, bits(&p, 0, 0, 16, grey(7))),
        (640, "0000111101110001".into())
    );
}

#[test]
fn forty_columns_are_twice_as_wide() {
    let mut r = text_rig();
    r.index(0x3d4, 0x11, 0);
    r.index(0x3d4, 0x01, 39);
    r.index(0x3c4, 1, 0x09);
    r.print(0, "\x51");
    let p = r.picture(CURSOR_DARK);
    assert_eq!(
        (p.width, bits(&p, 0, 0, 16, grey(7))),
        (640, "0011001100000011".into())
    );
}

#[test]
fn cursor_covers_its_lines_in_the_foreground_colour_while_it_is_lit() {
    let mut r = text_rig();
    r.poke(0xb_8000, 2, 0x1700);
    let lines = |now| -> Vec<usize> {
        let p = r.picture(now);
        (0..16)
            .filter(|y| bits(&p, 0, *y, 9, grey(7)) == "111111111")
            .collect()
    };
    assert_eq!(lines(SHOWN), [13, 14]);
    assert!(lines(CURSOR_DARK).is_empty());
    assert_ne!(r.vga.blink_phase(SHOWN), r.vga.blink_phase(CURSOR_DARK));
}

#[test]
fn attribute_bit_7_blinks_or_brightens_the_background() {
    let mut r = text_rig();
    r.index(0x3d4, 0x0a, 0x20);
    r.poke(0xb_8000, 2, 0x97ff);
    assert_eq!(row(&r.picture(SHOWN), 0, 0, 2), [grey(7); 2]);
    assert_eq!(row(&r.picture(TEXT_DARK), 0, 0, 2), [grey(1); 2]);
    r.in8(0x3da);
    r.out8(0x3c0, 0x30);
    r.out8(0x3c0, 0x04);
    assert_eq!(row(&r.picture(TEXT_DARK), 7, 0, 2), [grey(7), grey(0x39)]);
}

#[test]
fn attribute_bit_3_selects_the_second_font() {
    let mut r = text_rig();
    r.ram.write((0x4000 + 0x41 * 32) * 4 + 2, &[0xff]);
    r.index(0x3c4, 3, 0x04);
    r.poke(0xb_8000, 4, 0x0f41_0741);
    let p = r.picture(CURSOR_DARK);
    assert_eq!(bits(&p, 0, 0, 9, grey(7)), "010000010");
    assert_eq!(bits(&p, 9, 0, 9, grey(0x3f)), "111111110");
}

#[test]
fn underline_is_for_monochrome_attributes() {
    let mut r = text_rig();
    r.index(0x3d4, 0x0a, 0x20);
    r.index(0x3d4, 0x14, 0x0c);
    r.poke(0xb_8000, 4, 0x0700_0100);
    let p = r.picture(SHOWN);
    assert_eq!(
        (row(&p, 8, 12, 2), row(&p, 8, 11, 1)),
        (vec![grey(1), 0], vec![0])
    );
}

#[test]
fn text_pans_by_dots() {
    let mut r = text_rig();
    r.print(0, "\x01\u{2}");
    r.in8(0x3da);
    r.out8(0x3c0, 0x33);
    r.out8(0x3c0, 6);
    let p = r.picture(CURSOR_DARK);
    assert_eq!(bits(&p, 0, 0, 11, grey(7)), "10000000100");
}

#[test]
fn planar_pixels_gather_a_bit_of_each_plane() {
    let r = Rig::with_mode(&MODE_12);
    r.ram.write(0, &[0x80, 0x40, 0x20, 0x11]);
    r.ram.write(320, &[0xff, 0xff, 0xff, 0xff]);
    let p = r.picture(SHOWN);
    assert_eq!((p.width, p.height), (640, 480));
    let seen = [1, 2, 4, 0x38, 0, 0, 0, 0x38].map(grey);
    assert_eq!(row(&p, 0, 0, 8), seen);
    assert_eq!(
        row(&p, 0, 1, 9),
        [[grey(0x3f); 8].to_vec(), vec![grey(0)]].concat()
    );
}

#[test]
fn planar_pan_and_start_address_scroll_smoothly() {
    let mut r = Rig::with_mode(&MODE_12);
    r.ram.write(4, &[0x80, 0, 0, 0, 0x01, 0, 0, 0]);
    r.index(0x3d4, 0x0d, 1);
    assert_eq!(
        bits(&r.picture(SHOWN), 0, 0, 17, grey(1)),
        "10000000000000010"
    );
    r.in8(0x3da);
    r.out8(0x3c0, 0x33);
    r.out8(0x3c0, 3);
    assert_eq!(
        bits(&r.picture(SHOWN), 0, 0, 17, grey(1)),
        "00000000000010000"
    );
}

#[test]
fn planar_screen_wraps_at_the_end_of_the_planes() {
    let mut r = Rig::with_mode(&MODE_12);
    r.ram.write(0, &[0xff, 0, 0, 0]);
    r.index(0x3d4, 0x0c, 0xff);
    r.index(0x3d4, 0x0d, 0xff);
    assert_eq!(
        bits(&r.picture(SHOWN), 0, 0, 24, grey(1)),
        "000000001111111100000000"
    );
}

#[test]
fn cga_lines_alternate_between_two_banks() {
    let mut r = Rig::with_mode(&MODE_04);
    r.poke(0xb_8000, 2, 0xe41b);
    r.poke(0xb_a000, 1, 0xff);
    r.poke(0xb_8050, 1, 0xaa);
    let p = r.picture(SHOWN);
    assert_eq!((p.width, p.height), (640, 400));
    let [a, b, c, d] = [0x00, 0x13, 0x15, 0x17].map(grey);
    assert_eq!(wide_row(&p, 0, 0, 8), [a, b, c, d, d, c, b, a]);
    assert_eq!(wide_row(&p, 0, 1, 5), [d, d, d, d, a]);
    assert_eq!(wide_row(&p, 0, 2, 5), [c, c, c, c, a]);
}

#[test]
fn mode_13h_has_a_byte_a_pixel() {
    let mut r = Rig::with_mode(&MODE_13);
    r.poke(0xa_0000, 4, 0x3f02_0100);
    r.poke(0xa_0000 + 320 * 199 + 319, 1, 0x15);
    let p = r.picture(SHOWN);
    assert_eq!((p.width, p.height), (640, 400));
    assert_eq!(wide_row(&p, 0, 0, 4), [0, 1, 2, 0x3f].map(grey));
    assert_eq!(p.pixels[640 * 400 - 1], grey(0x15));
}

#[test]
fn mode_x_shows_pages_and_240_lines() {
    let mut r = Rig::with_mode(&MODE_13);
    r.index(0x3c4, 4, 6);
    r.out8(0x3c2, 0xe3);
    for (i, v) in [
        (0x11, 0x2c),
        (0x06, 0x0d),
        (0x07, 0x3e),
        (0x10, 0xea),
        (0x12, 0xdf),
        (0x14, 0),
        (0x15, 0xe7),
        (0x17, 0xe3),
    ] {
        r.index(0x3d4, i, v);
    }
    r.index(0x3c4, 2, 4);
    r.poke(0xa_0000 + 19_200, 1, 0x2a);
    r.index(0x3d4, 0x0c, (19_200 >> 8) as u8);
    let p = r.picture(SHOWN);
    assert_eq!((p.width, p.height), (640, 480));
    assert_eq!(wide_row(&p, 0, 0, 4), [0, 0, 0x2a, 0].map(grey));
}

#[test]
fn pixel_mask_applies() {
    let mut r = Rig::with_mode(&MODE_13);
    r.poke(0xa_0000, 1, 0x13);
    r.out8(0x3c6, 0x0f);
    assert_eq!(r.picture(SHOWN).pixels[0], grey(3));
}

#[test]
fn vbe_depths_are_converted() {
    let cases: [(u16, &[u8], u32); 7] = [
        (8, &[0x21], grey(0x21)),
        (15, &[0x1f, 0x00], 0x0000_00ff),
        (15, &[0x00, 0x7c], 0x00ff_0000),
        (16, &[0xe0, 0x07], 0x0000_ff00),
        (16, &[0x10, 0x84], 0x0084_8284),
        (24, &[0x33, 0x22, 0x11], 0x0011_2233),
        (32, &[0x33, 0x22, 0x11, 0xff], 0x0011_2233),
    ];
    for (bpp, bytes, rgb) in cases {
        let mut r = Rig::with_mode(&MODE_03);
        r.vbe_mode(64, 32, bpp);
        let at = (64 * 31 + 63) * bytes.len();
        r.ram.write(at, bytes);
        let p = r.picture(SHOWN);
        assert_eq!((p.width, p.height), (64, 32));
        assert_eq!(p.pixels[64 * 32 - 1], rgb, "{bpp} bits");
        assert_eq!(p.pixels[64 * 32 - 2], grey(0), "{bpp} bits");
    }
}

#[test]
fn vbe_sixteen_colours_are_planar() {
    let mut r = Rig::with_mode(&MODE_12);
    r.vbe_mode(800, 600, 4);
    r.index(0x3c4, 2, 0x05);
    r.poke(0xa_0000 + 100, 1, 0x80);
    let p = r.picture(SHOWN);
    assert_eq!(
        (p.width, p.height, row(&p, 0, 1, 2)),
        (800, 600, vec![grey(5), 0])
    );
}

#[test]
fn vbe_offsets_pan_a_larger_picture() {
    let mut r = Rig::with_mode(&MODE_03);
    r.vbe_mode(64, 32, 32);
    r.dispi(6, 128);
    r.dispi(8, 10);
    r.dispi(9, 5);
    r.ram.write((128 * 5 + 10) * 4, &[1, 0, 0, 0]);
    r.ram.write((128 * 6 + 11) * 4, &[2, 0, 0, 0]);
    let p = r.picture(SHOWN);
    assert_eq!((p.pixels[0], p.pixels[65]), (1, 2));
}

#[test]
fn vbe_may_use_an_eight_bit_dac() {
    let mut r = Rig::with_mode(&MODE_03);
    r.vbe_mode(64, 32, 8);
    r.dispi(4, 0x61);
    r.out8(0x3c8, 1);
    [0x81, 0x82, 0x83]
        .into_iter()
        .for_each(|v| r.out8(0x3c9, v));
    r.ram.write(0, &[1]);
    assert_eq!(r.picture(SHOWN).pixels[0], 0x0081_8283);
}

#[test]
fn the_largest_screen_is_drawn_in_the_memory_of_one_row() {
    let mut r = Rig::new(16 << 20);
    r.set_mode(&MODE_03);
    r.vbe_mode(2560, 1600, 32);
    r.ram.write((2560 * 1599 + 2559) * 4, &[1, 2, 3, 0]);
    let mut painter = Painter::default();
    let mut rows = 0;
    r.vga.paint(SHOWN, &mut painter, &mut |y, row| {
        assert_eq!((y, row.len()), (rows, 2560));
        assert_eq!(row[2559], if y == 1599 { 0x0003_0201 } else { 0 });
        rows += 1;
    });
    assert_eq!(rows, 1600);
}

#[test]
fn a_whole_picture_between_two_leaves_what_was_painted_as_it_was() {
    let mut r = text_rig();
    let mut painter = Painter::default();
    let paint = |r: &Rig, painter: &mut Painter| {
        let mut rows = Vec::new();
        r.vga.paint(SHOWN, painter, &mut |y, _| rows.push(y));
        rows
    };
    assert_eq!(paint(&r, &mut painter).len(), 400);
    r.print(80, "x");
    let mut all = 0;
    r.vga.draw(SHOWN, &mut painter, &mut |_, _| all += 1);
    assert_eq!(all, 400);
    let rows = paint(&r, &mut painter);
    assert!(
        !rows.is_empty() && rows.iter().all(|y| (16..32).contains(y)),
        "{rows:?}"
    );
    painter.forget();
    assert_eq!(paint(&r, &mut painter).len(), 400);
}

#[test]
fn nothing_is_drawn_when_nothing_has_changed() {
    let mut r = text_rig();
    r.print(0, "abc");
    let mut p = Picture::default();
    assert!(r.vga.picture(SHOWN, &mut p));
    assert!(!r.vga.picture(SHOWN, &mut p));
    r.print(3, "x");
    assert!(r.vga.picture(SHOWN, &mut p));
    assert!(r.vga.picture(CURSOR_DARK, &mut p), "the cursor blinks");
    r.set_mode(&MODE_12);
    assert!(r.vga.picture(CURSOR_DARK, &mut p));
    assert!(
        !r.vga.picture(TEXT_DARK, &mut p),
        "nothing blinks in graphics"
    );
    r.poke(0xa_0000, 1, 0xff);
    assert!(r.vga.picture(TEXT_DARK, &mut p));
}

#[test]
fn rows_of_a_linear_frame_buffer_are_drawn_when_their_memory_has_changed() {
    let mut r = Rig::with_mode(&MODE_03);
    r.vbe_mode(64, 32, 32);
    let mut p = Picture::default();
    assert!(r.vga.picture(SHOWN, &mut p));
    assert!(!r.vga.picture(SHOWN, &mut p));
    r.ram.write((64 * 7 + 63) * 4, &[1, 2, 3, 0]);
    assert!(r.vga.picture(SHOWN, &mut p));
    assert_eq!(p.pixels[64 * 7 + 63], 0x0003_0201);
    assert_eq!(p.changed, [7]);
    // The same bytes in other colours.
    r.vbe_mode(64, 32, 8);
    r.ram.write(0, &[1; 64]);
    r.vga.picture(SHOWN, &mut p);
    r.out8(0x3c8, 1);
    (0..3).for_each(|_| r.out8(0x3c9, 0x15));
    assert!(r.vga.picture(SHOWN, &mut p));
    assert_eq!(p.pixels[0], grey(0x15));
    assert!(p.changed.contains(&0));
}
