//! $PIR: which interrupt link each PCI slot's pins are wired to, for systems that use neither ACPI nor an I/O APIC (Microsoft,
//! "PCI IRQ Routing Table Specification" 1.0).

use crate::blob::Blob;
use alloc::vec::Vec;
use hv_core::machine::{ISA_BRIDGE, pirq};

const HEADER_LEN: usize = 32;
const VERSION_1_0: u16 = 0x100;
/// The router that the PIIX3 is compatible with: the PIIX, 8086:122E.
const COMPATIBLE_ROUTER: u32 = 0x122e_8086;
/// What a link value is: the configuration register of the PIIX3 that routes it (PIRQRC\[A\]).
const FIRST_LINK: u8 = 0x60;
/// Interrupts that a PIRQRC register can route to: 3 to 7, 9 to 12, 14, 15.
const ROUTABLE: u16 = 0xdef8;
/// The slots that are told: those with devices and some free ones.
const SLOTS: core::ops::RangeInclusive<u8> = 1..=6;

/// The table, to be placed 16-byte aligned in 0xF0000 to 0xFFFFF.
#[must_use]
pub fn build() -> Vec<u8> {
    let mut b = Blob::zeroed(HEADER_LEN);
    b.set(0, b"$PIR")
        .set16(4, VERSION_1_0)
        .set8(9, ISA_BRIDGE.devfn())
        .set32(12, COMPATIBLE_ROUTER);
    for device in SLOTS {
        let [low, high] = ROUTABLE.to_le_bytes();
        b.push(&[0, device << 3]);
        for pin in 0..4 {
            b.push(&[FIRST_LINK + pirq(device, pin), low, high]);
        }
        b.push(&[device, 0]);
    }
    let len = b.0.len();
    b.set16(6, len as u16).fix_sum(31, 0..len);
    b.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blob::sum;

    #[test]
    fn header_and_length_agree_and_bytes_add_up() {
        let b = build();
        assert_eq!(sum(&b), 0);
        assert_eq!(usize::from(u16::from_le_bytes([b[6], b[7]])), b.len());
        assert_eq!(b.len(), 32 + 6 * 16);
        assert_eq!((b[8], b[9]), (0, 0x08));
    }

    #[test]
    fn links_form_the_piix_barber_pole() {
        let b = build();
        let links = |slot: usize| [1, 2, 3, 4].map(|n| b[32 + (slot - 1) * 16 + 2 + (n - 1) * 3]);
        assert_eq!(links(1), [0x60, 0x61, 0x62, 0x63]);
        assert_eq!(links(3), [0x62, 0x63, 0x60, 0x61]);
    }
}
