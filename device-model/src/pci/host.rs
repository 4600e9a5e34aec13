//! Intel 440FX host bridge (82441FX datasheet 290549), function 0:0.0.
//!
//! The programmable attribute map and SMRAM registers are stored, not acted on: memory below 1 MiB is always RAM, as
//! SeaBIOS accepts. Everything else above the header is plain storage.

use super::{ConfigSpace, Identity, PciFunction, register};
use hv_core::device::{AccessSize, DevCx};

/// PAM0: bits 5:4 are the attributes of F0000h to FFFFFh.
const PAM0: u8 = 0x59;
/// System management RAM control.
const SMRAM: u8 = 0x72;
/// SMRAM after reset: its base segment is A0000h.
const SMRAM_RESET: u8 = 0x02;

/// The host bridge.
pub struct HostBridge(ConfigSpace);

impl HostBridge {
    /// The host bridge in power-on state. `pam0` is the register's power-on value: 0, or 10h when the firmware's image is in
    /// RAM below 1 MiB already, so that SeaBIOS does not copy it.
    #[must_use]
    pub fn new(pam0: u8) -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x1237,
            class: 0x06_0000,
            revision: 2,
            subsystem: (0x1af4, 0x1100),
        };
        let config = ConfigSpace::new(&identity)
            .preset(register::STATUS, &0x0280_u16.to_le_bytes())
            .writable(0x40, 0xff, 0xff)
            .preset(PAM0, &[pam0])
            .preset(SMRAM, &[SMRAM_RESET]);
        Self(config)
    }
}

impl PciFunction for HostBridge {
    fn config_read(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize) -> u32 {
        self.0.config_read(cx, offset, size)
    }

    fn config_write(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize, value: u32) {
        self.0.config_write(cx, offset, size, value);
    }

    fn config_reset(&mut self, cx: &mut DevCx<'_>) {
        self.0.config_reset(cx);
    }
}

#[cfg(test)]
mod tests {
    use super::HostBridge;
    use crate::pci::PciFunction;
    use hv_core::device::AccessSize::{Byte, Dword};
    use hv_core::testing::Bench;

    #[test]
    fn seabios_makes_the_bios_area_writable() {
        let (mut h, mut b) = (HostBridge::new(0), Bench::new());
        assert_eq!(h.config_read(&mut b.cx(), 0x58, Dword), 0);
        h.config_write(&mut b.cx(), 0x59, Byte, 0x30);
        for pam in 0x5a..0x60 {
            h.config_write(&mut b.cx(), pam, Byte, 0x33);
        }
        assert_eq!(h.config_read(&mut b.cx(), 0x58, Dword), 0x3333_3000);
        h.config_reset(&mut b.cx());
        assert_eq!(h.config_read(&mut b.cx(), 0x58, Dword), 0);
    }

    #[test]
    fn preloaded_firmware_shows_in_pam0() {
        let (mut h, mut b) = (HostBridge::new(0x10), Bench::new());
        assert_eq!(h.config_read(&mut b.cx(), 0x59, Byte), 0x10);
        assert_eq!(h.config_read(&mut b.cx(), 0x72, Byte), 2);
    }
}
