//! Segment attributes: the manuals' 12 bits against the VMCS's access rights (SDM vol 3C table 25-2, "Format of Access Rights").

use hv_core::regs::SegAttr;

/// The segment cannot be used.
pub const UNUSABLE: u32 = 1 << 16;
/// Type, S, DPL and P, which stand in the same place in both.
const LOW: u32 = 0xff;

/// Access rights of a segment with these attributes. Not present means unusable; the privilege level stays, since SS's is the
/// CPU's even when SS is unusable.
#[must_use]
pub fn access_rights(attr: SegAttr) -> u32 {
    let bits = u32::from(attr.bits());
    let rights = bits & LOW | (bits & 0xf00) << 4;
    if attr.contains(SegAttr::P) {
        rights
    } else {
        rights | UNUSABLE
    }
}

/// Attributes of a segment with these access rights. Unusable means not present.
#[must_use]
pub fn attributes(rights: u32) -> SegAttr {
    let attr = SegAttr::from_bits_truncate((rights & LOW | rights >> 4 & 0xf00) as u16);
    if rights & UNUSABLE != 0 {
        attr - SegAttr::P
    } else {
        attr
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn present_segments_survive_both_ways() {
        for bits in 0..1 << 12 {
            let attr = SegAttr::from_bits_retain(bits) | SegAttr::P;
            assert_eq!(attributes(access_rights(attr)), attr);
        }
    }

    #[test]
    fn a_null_segment_is_unusable_and_keeps_its_level() {
        let null = SegAttr::DPL0 | SegAttr::DPL1;
        assert_eq!(access_rights(null), UNUSABLE | 0x60);
        assert_eq!(attributes(UNUSABLE | 0x60), null);
        assert_eq!(attributes(UNUSABLE | 0x93), SegAttr::from_bits_retain(0x13));
    }

    #[test]
    fn flat_64_bit_code_has_the_manuals_bits() {
        let code = SegAttr::from_bits_retain(0xa9b);
        assert_eq!(access_rights(code), 0xa09b);
    }
}
