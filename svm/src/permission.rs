//! The I/O and MSR permission maps (APM vol 2 15.10.1, "I/O Permissions Map"; 15.11, "MSR Intercepts").

use alloc::boxed::Box;

/// One bit a port, set to intercept, and three bytes' worth beyond port FFFFh.
#[repr(C, align(4096))]
pub struct IoPermissionMap([u8; 0x3000]);

impl IoPermissionMap {
    /// Intercepts every port.
    #[must_use]
    pub fn all() -> Box<Self> {
        Box::new(Self([0xff; 0x3000]))
    }
}

/// Two bits an MSR: bit 0 intercepts reads, bit 1 writes.
#[repr(C, align(4096))]
pub struct MsrPermissionMap([u8; 0x2000]);

impl MsrPermissionMap {
    /// Intercepts every register but those in `pass`.
    #[must_use]
    pub fn all_but(pass: &[u32]) -> Box<Self> {
        let mut map = Box::new(Self([0xff; 0x2000]));
        for &msr in pass {
            if let Some((byte, shift)) = position(msr) {
                map.0[byte] &= !(3 << shift);
            }
        }
        map
    }

    /// Intercepts a register.
    pub fn intercept(&mut self, msr: u32) {
        if let Some((byte, shift)) = position(msr) {
            self.0[byte] |= 3 << shift;
        }
    }
}

/// Byte and bit of an MSR's pair of bits; none for those outside the three ranges, which are always intercepted.
const fn position(msr: u32) -> Option<(usize, u32)> {
    let base = match msr {
        0..=0x1fff => 0,
        0xc000_0000..=0xc000_1fff => 0x800,
        0xc001_0000..=0xc001_1fff => 0x1000,
        _ => return None,
    };
    let n = msr & 0x1fff;
    Some((base + (n / 4) as usize, n % 4 * 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn msr_positions_are_the_manuals() {
        assert_eq!(position(0), Some((0, 0)));
        assert_eq!(position(0x1fff), Some((0x7ff, 6)));
        assert_eq!(position(0xc000_0080), Some((0x820, 0)));
        assert_eq!(position(0xc001_0114), Some((0x1045, 0)));
        assert_eq!(position(0x2000), None);
        assert_eq!(position(0x4000_0000), None);
    }

    #[test]
    fn only_the_named_registers_pass() {
        let mut map = MsrPermissionMap::all_but(&[0xc000_0102]);
        assert_eq!(map.0.iter().map(|b| b.count_zeros()).sum::<u32>(), 2);
        assert_eq!(map.0[0x840], !(3 << 4));
        map.intercept(0xc000_0102);
        assert!(map.0.iter().all(|&byte| byte == 0xff));
    }
}
