//! The VGA's text mode 3 (80 by 25 characters, 720 by 400 dots) for a kernel that is booted without a VGA BIOS: the register
//! values that IBM's BIOS sets, the palette, and where the font comes from.
//!
//! IBM PS/2 Hardware Interface Technical Reference, Video Subsystem, "Mode 3+".

use alloc::vec::Vec;

/// Miscellaneous output.
const MISC: u8 = 0x67;
/// SR0 to SR4.
const SEQUENCER: [u8; 5] = [0x03, 0x00, 0x03, 0x00, 0x02];
/// CR0 to CR18.
const CRTC: [u8; 25] = [
    0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0x00, 0x00, 0x00, 0x00,
    0x9c, 0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
];
/// GR0 to GR8.
const GRAPHICS: [u8; 9] = [0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x0e, 0x00, 0xff];
/// AR0 to AR14.
const ATTRIBUTE: [u8; 21] = [
    0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x14, 0x07, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,
    0x0c, 0x00, 0x0f, 0x08, 0x00,
];
/// Bits of a colour number: 5:3 are the secondary (weak) and 2:0 the primary (strong) red, green and blue.
const STRONG: u8 = 0x2a;
const WEAK: u8 = 0x15;

/// Bytes of a font of 256 characters, 16 lines each.
pub const FONT_LEN: usize = 4096;
/// Lines of a character.
pub const FONT_HEIGHT: usize = 16;

/// The port writes (port, byte) that set the mode.
#[must_use]
pub fn mode3() -> Vec<(u16, u8)> {
    let mut w = Vec::new();
    let mut indexed = |port: u16, values: &[u8]| {
        for (i, &v) in (0u8..).zip(values) {
            w.push((port, i));
            w.push((port + 1, v));
        }
    };
    indexed(0x3c4, &SEQUENCER);
    indexed(0x3ce, &GRAPHICS);
    w.insert(0, (0x3c2, MISC));
    // CR11 bit 7 protects CR0 to CR7.
    w.extend([(0x3d4, 0x11), (0x3d5, 0x0e)]);
    for (i, &v) in (0u8..).zip(&CRTC) {
        w.extend([(0x3d4, i), (0x3d5, v)]);
    }
    w.extend([(0x3c6, 0xff), (0x3c8, 0)]);
    for color in 0..64u8 {
        for bit in [2, 1, 0] {
            w.push((
                0x3c9,
                (color >> bit & 1) * STRONG + (color >> (bit + 3) & 1) * WEAK,
            ));
        }
    }
    for (i, &v) in (0u8..).zip(&ATTRIBUTE) {
        w.extend([(0x3c0, i), (0x3c0, v)]);
    }
    // Bit 5: the screen is on.
    w.push((0x3c0, 0x20));
    w
}

/// The 8x16 font inside a VGA BIOS image, found by its letter A.
#[must_use]
pub fn find_font(vgabios: &[u8]) -> Option<&[u8]> {
    const LETTER_A: [u8; FONT_HEIGHT] = [
        0, 0, 0x10, 0x38, 0x6c, 0xc6, 0xc6, 0xfe, 0xc6, 0xc6, 0xc6, 0xc6, 0, 0, 0, 0,
    ];
    const BEFORE: usize = b'A' as usize * FONT_HEIGHT;
    let at = vgabios
        .windows(FONT_HEIGHT)
        .position(|w| w == LETTER_A)?
        .checked_sub(BEFORE)?;
    vgabios.get(at..at + FONT_LEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn palette_has_the_sixteen_colours_of_text() {
        let w = mode3();
        let dac: Vec<u8> = w
            .iter()
            .filter(|(p, _)| *p == 0x3c9)
            .map(|&(_, v)| v)
            .collect();
        assert_eq!(dac.len(), 192);
        assert_eq!(dac[7 * 3..8 * 3], [0x2a, 0x2a, 0x2a], "light grey");
        assert_eq!(dac[0x14 * 3..0x15 * 3], [0x2a, 0x15, 0x00], "brown");
        assert_eq!(dac[0x3f * 3..], [0x3f, 0x3f, 0x3f], "white");
    }

    #[test]
    fn font_is_found_by_its_letter_a_and_never_cut_off() {
        let mut rom = alloc::vec![0; 10_000];
        assert_eq!(find_font(&rom), None);
        rom[100 + 0x41 * 16..][..16].copy_from_slice(&[
            0, 0, 0x10, 0x38, 0x6c, 0xc6, 0xc6, 0xfe, 0xc6, 0xc6, 0xc6, 0xc6, 0, 0, 0, 0,
        ]);
        assert_eq!(find_font(&rom).map(|f| f.len()), Some(FONT_LEN));
        assert_eq!(find_font(&rom[..2000]), None);
    }
}
