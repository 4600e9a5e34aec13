//! The I/O and MSR bitmaps (SDM vol 3C 25.6.4, "I/O-Bitmap Addresses"; 25.6.9, "MSR-Bitmap Address").

use alloc::boxed::Box;

/// One bit a port, set to leave the guest: bitmap A for ports 0 to 7FFFh, B for the rest.
#[repr(C, align(4096))]
pub struct IoBitmaps(pub [[u8; 4096]; 2]);

impl IoBitmaps {
    /// Every port leaves the guest.
    #[must_use]
    pub fn all() -> Box<Self> {
        Box::new(Self([[0xff; 4096]; 2]))
    }
}

/// One bit an MSR and direction, set to leave the guest: reads of the low and of the high range, then writes. Registers outside
/// both ranges always leave it.
#[repr(C, align(4096))]
pub struct MsrBitmap(pub [u8; 4096]);

impl MsrBitmap {
    /// All registers but those in `pass` leave the guest.
    #[must_use]
    pub fn all_but(pass: &[u32]) -> Box<Self> {
        let mut map = Box::new(Self([0xff; 4096]));
        for &msr in pass {
            if let Some((byte, bit)) = position(msr) {
                for half in [0, 2048] {
                    map.0[half + byte] &= !(1 << bit);
                }
            }
        }
        map
    }

    /// A register leaves the guest.
    pub fn intercept(&mut self, msr: u32) {
        if let Some((byte, bit)) = position(msr) {
            for half in [0, 2048] {
                self.0[half + byte] |= 1 << bit;
            }
        }
    }
}

/// Byte and bit of a register's reads; its writes are 2 KiB on.
const fn position(msr: u32) -> Option<(usize, u32)> {
    let base = match msr {
        0..=0x1fff => 0,
        0xc000_0000..=0xc000_1fff => 1024,
        _ => return None,
    };
    let n = msr & 0x1fff;
    Some((base + (n / 8) as usize, n % 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msr_positions_are_the_manuals() {
        assert_eq!(position(0), Some((0, 0)));
        assert_eq!(position(0x1fff), Some((1023, 7)));
        assert_eq!(position(0xc000_0080), Some((1024 + 16, 0)));
        assert_eq!(position(0xc001_0000), None);
        assert_eq!(position(0x2000), None);
    }

    #[test]
    fn only_the_named_registers_pass() {
        let mut map = MsrBitmap::all_but(&[0xc000_0102, 0xc001_0010]);
        assert_eq!(map.0.iter().map(|b| b.count_zeros()).sum::<u32>(), 2);
        assert_eq!(map.0[1024 + 32], !(1 << 2));
        assert_eq!(map.0[2048 + 1024 + 32], !(1 << 2));
        map.intercept(0xc000_0102);
        assert!(map.0.iter().all(|&byte| byte == 0xff));
    }
}
