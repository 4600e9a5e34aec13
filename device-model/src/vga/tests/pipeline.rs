//! The memory pipeline against an independent model of separate planes, one bit at a time, and against drivers' habits.

use super::{MODE_03, MODE_12, MODE_13, Rig};
use hv_core::mem::DeviceRam;
use hv_core::testing::Random;

/// Four planes of 64 KiB and the registers as written.
struct Model {
    planes: [Vec<u8>; 4],
    latch: [u8; 4],
    sr2: u8,
    sr4: u8,
    gr: [u8; 9],
}

impl Model {
    fn new() -> Self {
        Self {
            planes: core::array::from_fn(|_| vec![0; 0x1_0000]),
            latch: [0; 4],
            sr2: 0,
            sr4: 0,
            gr: [0; 9],
        }
    }

    /// The address within the decoded window.
    fn decode(&self, offset: usize) -> Option<usize> {
        let (first, last) = match (self.gr[6] >> 2) & 3 {
            0 => (0x0_0000, 0x1_ffff),
            1 => (0x0_0000, 0x0_ffff),
            2 => (0x1_0000, 0x1_7fff),
            _ => (0x1_8000, 0x1_ffff),
        };
        (first..=last).contains(&offset).then(|| offset - first)
    }

    fn read(&mut self, offset: usize) -> u8 {
        let Some(a) = self.decode(offset) else {
            return 0xff;
        };
        let (at, plane) = if self.sr4 & 8 != 0 {
            (a / 4, a % 4)
        } else if self.gr[5] & 0x10 != 0 {
            (a / 2, usize::from(self.gr[4] & 2) + a % 2)
        } else {
            (a, usize::from(self.gr[4] & 3))
        };
        for p in 0..4 {
            self.latch[p] = self.planes[p][at & 0xffff];
        }
        if self.gr[5] & 8 == 0 {
            return self.latch[plane];
        }
        let mut result = 0;
        for bit in 0..8 {
            let matches = (0..4).all(|p| {
                let cares = self.gr[7] >> p & 1 != 0;
                !cares || self.latch[p] >> bit & 1 == self.gr[2] >> p & 1
            });
            result |= u8::from(matches) << bit;
        }
        result
    }

    fn write(&mut self, offset: usize, value: u8) {
        let Some(a) = self.decode(offset) else { return };
        for p in 0..4 {
            let (at, reached) = if self.sr4 & 8 != 0 {
                (a / 4, a % 4 == p)
            } else if self.sr4 & 4 == 0 {
                (a / 2, a % 2 == p % 2)
            } else {
                (a, true)
            };
            if reached && self.sr2 >> p & 1 != 0 {
                self.planes[p][at & 0xffff] = self.plane_byte(p, value);
            }
        }
    }

    fn plane_byte(&self, p: usize, value: u8) -> u8 {
        let old = self.latch[p];
        let set = self.gr[0] >> p & 1 != 0;
        let mut rotated = value;
        for _ in 0..self.gr[3] & 7 {
            rotated = rotated.rotate_right(1);
        }
        let full = |on: bool| if on { 0xff } else { 0x00 };
        let (new, mask) = match self.gr[5] & 3 {
            0 if self.gr[1] >> p & 1 != 0 => (full(set), self.gr[8]),
            0 => (rotated, self.gr[8]),
            1 => return old,
            2 => (full(value >> p & 1 != 0), self.gr[8]),
            _ => (full(set), self.gr[8] & rotated),
        };
        let mut result = 0;
        for bit in 0..8 {
            let (n, o) = (new >> bit & 1, old >> bit & 1);
            let combined = match self.gr[3] >> 3 & 3 {
                0 => n,
                1 => n & o,
                2 => n | o,
                _ => n ^ o,
            };
            result |= if mask >> bit & 1 != 0 { combined } else { o } << bit;
        }
        result
    }
}

#[test]
fn random_accesses_in_random_register_states_match_the_model() {
    let mut rng = Random::new(0x9e37_79b9_7f4a_7c15);
    let (mut rig, mut model) = (Rig::new(1 << 20), Model::new());
    for round in 0..400 {
        let plain = rng.below(3) == 0;
        model.sr2 = [rng.below(16) as u8, 0x03, 0x0f][rng.below(3) as usize];
        model.sr4 = (rng.next() & 0x0e) as u8;
        for i in 0..9 {
            model.gr[i] =
                (rng.next() & [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff][i]) as u8;
        }
        if plain {
            (model.gr[1], model.gr[3], model.gr[8]) = (0, 0, 0xff);
            model.gr[5] &= !0x03;
        }
        rig.index(0x3c4, 2, model.sr2);
        rig.index(0x3c4, 4, model.sr4);
        (0..9).for_each(|i| rig.index(0x3ce, i, model.gr[usize::from(i)]));
        for step in 0..60 {
            let size = 1usize << rng.below(4);
            // Near the edges of windows and planes, or anywhere; often the same place again.
            let near = [0x0, 0xfff8, 0x1_0000, 0x1_7ff8, 0x1_8000, 0x1_fff8][rng.below(6) as usize];
            let spread = if rng.below(4) == 0 { 0x8000 } else { 24 };
            let offset = (near + rng.below(spread)).saturating_sub(8);
            if rng.below(2) == 0 {
                let value = rng.next() & (u64::MAX >> (64 - 8 * size));
                rig.poke(0xa_0000 + offset, size, value);
                for i in 0..size {
                    model.write(offset as usize + i, value.to_le_bytes()[i]);
                }
            } else {
                let bytes: Vec<u8> = (0..size).map(|i| model.read(offset as usize + i)).collect();
                let got = rig.peek(0xa_0000 + offset, size).to_le_bytes();
                assert_eq!(
                    got[..size],
                    bytes,
                    "round {round}, step {step}, {size} bytes at {offset:#x}"
                );
            }
        }
    }
    let mut vram = vec![0; 256 << 10];
    rig.ram.read(0, &mut vram);
    for p in 0..4 {
        let plane: Vec<u8> = vram.iter().skip(p).step_by(4).copied().collect();
        assert!(plane == model.planes[p], "plane {p} differs");
    }
}

#[test]
fn text_cells_lie_in_planes_0_and_1() {
    let mut r = Rig::with_mode(&MODE_03);
    r.poke(0xb_8000, 2, 0x0741);
    r.poke(0xb_8002, 4, 0x1f43_1e42);
    assert_eq!(
        r.vram::<12>(0),
        [0x41, 0x07, 0, 0, 0x42, 0x1e, 0, 0, 0x43, 0x1f, 0, 0]
    );
    assert_eq!(r.peek(0xb_8000, 4), 0x1e42_0741);
    assert_eq!(r.peek(0xb_8003, 1), 0x1e);
}

#[test]
fn only_the_window_chosen_is_decoded() {
    let mut r = Rig::with_mode(&MODE_03);
    let before = r.vga.generation();
    r.poke(0xa_0000, 1, 0x55);
    r.poke(0xb_0000, 1, 0x55);
    assert_eq!(r.vga.generation(), before);
    assert_eq!((r.peek(0xa_0000, 2), r.peek(0xb_7fff, 2)), (0xffff, 0x00ff));
}

#[test]
fn seavgabios_loads_a_font_into_plane_2() {
    let mut r = Rig::with_mode(&MODE_03);
    for (i, v) in [(0, 1), (2, 4), (4, 7), (0, 3)] {
        r.index(0x3c4, i, v);
    }
    for (i, v) in [(4, 2), (5, 0), (6, 4)] {
        r.index(0x3ce, i, v);
    }
    r.poke(0xa_0000 + 0x41 * 32, 1, 0x18);
    assert_eq!(r.vram::<4>(0x41 * 32 * 4), [0, 0, 0x18, 0]);
}

#[test]
fn write_mode_1_copies_all_planes_at_once() {
    let mut r = Rig::with_mode(&MODE_12);
    r.ram.write(0, &[1, 2, 3, 4]);
    r.index(0x3ce, 5, 1);
    assert_eq!(r.peek(0xa_0000, 1), 1);
    r.poke(0xa_0064, 1, 0xee);
    assert_eq!(r.vram::<4>(400), [1, 2, 3, 4]);
}

#[test]
fn windows_boot_screen_sets_one_pixel_with_the_bit_mask() {
    let mut r = Rig::with_mode(&MODE_12);
    r.ram.write(0, &[0xff, 0, 0xff, 0]);
    r.index(0x3ce, 5, 2);
    r.index(0x3ce, 8, 0x80);
    r.peek(0xa_0000, 1);
    r.poke(0xa_0000, 1, 0x0a);
    assert_eq!(r.vram::<4>(0), [0x7f, 0x80, 0x7f, 0x80]);
}

#[test]
fn mode_13h_is_linear_and_mode_x_splits_it() {
    let mut r = Rig::with_mode(&MODE_13);
    r.poke(0xa_0000, 8, 0x0807_0605_0403_0201);
    assert_eq!(r.vram::<8>(0), [1, 2, 3, 4, 5, 6, 7, 8]);
    assert_eq!(r.peek(0xa_0003, 4), 0x0706_0504);
    r.index(0x3c4, 4, 6);
    r.index(0x3c4, 2, 2);
    r.poke(0xa_0001, 1, 0xaa);
    assert_eq!(r.vram::<8>(0), [1, 2, 3, 4, 5, 0xaa, 7, 8]);
}

#[test]
fn planes_wrap_at_64_kib_without_vbe() {
    let mut r = Rig::with_mode(&MODE_12);
    r.index(0x3ce, 6, 0x01);
    r.poke(0xb_0000, 1, 0x5a);
    assert_eq!(r.vram::<4>(0), [0x5a; 4]);
}

#[test]
fn bank_register_moves_the_window_through_video_memory() {
    let mut r = Rig::new(1 << 20);
    r.out8(0x3c2, 1);
    r.vbe_mode(640, 480, 8);
    r.dispi(5, 3);
    r.poke(0xa_0010, 4, 0x4433_2211);
    assert_eq!(r.vram::<4>(0x3_0010), [0x11, 0x22, 0x33, 0x44]);
    assert_eq!(r.peek(0xa_0010, 2), 0x2211);
    r.poke(0xa_fffe, 4, 0x4433_2211);
    assert_eq!(
        r.vram::<4>(0x3_fffe),
        [0x11, 0x22, 0, 0],
        "what is beyond the window is not decoded"
    );
}
