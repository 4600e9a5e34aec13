//! The monitor's EDID: what bochs-drm, SeaVGABIOS and OVMF read to choose a mode.
//!
//! VESA Enhanced EDID Standard, Release A, Revision 2, section 3, "Extended Display Identification Data" (EDID 1.4). One block,
//! no extensions.

/// The length of a block.
pub const LEN: usize = 128;

/// The preferred mode in pixels.
pub const PREFERRED: (u16, u16) = (1024, 768);

/// The base block: a digital monitor that prefers 1024x768 at 60 Hz (VESA DMT: 65 MHz, 1344x806 in all).
#[must_use]
pub const fn block() -> [u8; LEN] {
    let mut e = [0; LEN];
    put(&mut e, 0, &[0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x00]);
    // Manufacturer "UMB" in five-bit letters, product 1, serial 1, made in week 1 of 2025; version 1.4.
    let id = (b'U' as u16 - 64) << 10 | (b'M' as u16 - 64) << 5 | (b'B' as u16 - 64);
    put(
        &mut e,
        8,
        &[(id >> 8) as u8, id as u8, 1, 0, 1, 0, 0, 0, 1, 35, 1, 4],
    );
    // Digital, 8 bits a colour; 27x20 cm (4:3 at about 96 dots an inch); gamma 2.2; RGB 4:4:4, sRGB, preferred timing native.
    put(&mut e, 20, &[0xa5, 27, 20, 120, 0x06]);
    // The chromaticity of sRGB.
    put(
        &mut e,
        25,
        &[0xee, 0x91, 0xa3, 0x54, 0x4c, 0x99, 0x26, 0x0f, 0x50, 0x54],
    );
    // Established timings: 720x400 at 70 Hz; 640x480, 800x600 and 1024x768 at 60 Hz.
    put(&mut e, 35, &[0xa1, 0x08, 0x00]);
    // Standard timings at 60 Hz: width / 8 - 31, then the ratio (0 is 16:10, 1 is 4:3, 2 is 5:4, 3 is 16:9) in bits 7:6.
    let standard: [(u16, u8); 8] = [
        (1280, 0),
        (1280, 2),
        (1280, 3),
        (1440, 0),
        (1600, 1),
        (1680, 0),
        (1920, 3),
        (1920, 0),
    ];
    let mut i = 0;
    while i < standard.len() {
        let (width, ratio) = standard[i];
        put(&mut e, 38 + 2 * i, &[(width / 8 - 31) as u8, ratio << 6]);
        i += 1;
    }
    // The preferred timing: clock in 10 kHz; width and blanking 320; height and blanking 38; sync 24+136 and 3+6; 270x203 mm.
    put(
        &mut e,
        54,
        &[
            0x64, 0x19, 0x00, 0x40, 0x41, 0x00, 0x26, 0x30, 0x18, 0x88, 0x36, 0x00, 0x0e, 0xcb,
            0x10, 0, 0, 0x18,
        ],
    );
    // Monitor name; range limits (50 to 75 Hz, 30 to 100 kHz, 270 MHz, no secondary formula); an unused descriptor.
    put(&mut e, 72, b"\0\0\0\xfc\0Umbra\n       ");
    put(&mut e, 90, b"\0\0\0\xfd\0\x32\x4b\x1e\x64\x1b\x01\n      ");
    put(&mut e, 108, &[0, 0, 0, 0x10]);
    let mut sum = 0u8;
    i = 0;
    while i < LEN - 1 {
        sum = sum.wrapping_add(e[i]);
        i += 1;
    }
    e[LEN - 1] = sum.wrapping_neg();
    e
}

const fn put(e: &mut [u8; LEN], at: usize, bytes: &[u8]) {
    let mut i = 0;
    while i < bytes.len() {
        e[at + i] = bytes[i];
        i += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_checksum_are_right() {
        let e = block();
        assert_eq!(e[..8], [0, 255, 255, 255, 255, 255, 255, 0]);
        assert_eq!(e.iter().fold(0u8, |a, b| a.wrapping_add(*b)), 0);
        assert_eq!(e[126], 0, "no extensions");
    }

    #[test]
    fn first_detailed_timing_is_the_preferred_mode() {
        let d = &block()[54..72];
        let width = u16::from(d[2]) | u16::from(d[4] >> 4) << 8;
        let height = u16::from(d[5]) | u16::from(d[7] >> 4) << 8;
        assert_eq!((width, height), PREFERRED);
        let total = |lo: u8, blank: u8, hi: u8| {
            (u32::from(lo) | u32::from(hi >> 4) << 8) + (u32::from(blank) | u32::from(hi & 15) << 8)
        };
        let clock = u32::from(u16::from_le_bytes([d[0], d[1]])) * 10_000;
        let hz = clock / (total(d[2], d[3], d[4]) * total(d[5], d[6], d[7]));
        assert_eq!(hz, 60);
    }
}
