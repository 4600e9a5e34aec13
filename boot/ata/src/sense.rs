//! Sense data: why a packet command failed. MMC-4 annex on errors; SPC-3 4.5, "Sense data".

use core::fmt;

/// Bytes of fixed-format sense data that are asked for.
pub(crate) const LEN: usize = 18;

const NOT_READY: u8 = 2;
const HARDWARE_ERROR: u8 = 4;
const ILLEGAL_REQUEST: u8 = 5;
const UNIT_ATTENTION: u8 = 6;
const ABORTED_COMMAND: u8 = 0xb;
/// Additional sense code: not ready.
const ASC_NOT_READY: u8 = 0x04;
/// Additional sense code: the medium may have changed.
const ASC_CHANGED: u8 = 0x28;
/// Additional sense code: there is no medium.
const ASC_NO_MEDIUM: u8 = 0x3a;
/// Additional sense code qualifier: on its way to being ready.
const ASCQ_BECOMING_READY: u8 = 0x01;
/// Additional sense code qualifiers: a long operation, such as formatting, is in progress.
const ASCQ_OPERATION: core::ops::RangeInclusive<u8> = 0x07..=0x08;

/// Sense key, additional sense code and its qualifier.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sense {
    key: u8,
    asc: u8,
    ascq: u8,
}

/// What can be done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Remedy {
    /// The drive only wanted to tell something: the command can be given again.
    Again,
    /// The same, but the medium may be another one.
    Changed,
    /// The drive will be ready soon.
    Wait,
    /// There is no medium.
    NoMedium,
    /// It is an error.
    None,
}

impl Sense {
    pub(crate) fn parse(data: &[u8; LEN]) -> Self {
        Self {
            key: data[2] & 0xf,
            asc: data[12],
            ascq: data[13],
        }
    }

    /// Whether a DMA transfer that failed so may do better as PIO: the medium is not at fault.
    pub(crate) fn blames_dma(self) -> bool {
        matches!(self.key, HARDWARE_ERROR | ILLEGAL_REQUEST | ABORTED_COMMAND)
    }

    pub(crate) fn remedy(self) -> Remedy {
        match (self.key, self.asc) {
            (UNIT_ATTENTION, ASC_CHANGED) => Remedy::Changed,
            (UNIT_ATTENTION, _) => Remedy::Again,
            (NOT_READY, ASC_NO_MEDIUM) => Remedy::NoMedium,
            (NOT_READY, ASC_NOT_READY)
                if self.ascq == ASCQ_BECOMING_READY || ASCQ_OPERATION.contains(&self.ascq) =>
            {
                Remedy::Wait
            }
            _ => Remedy::None,
        }
    }
}

impl fmt::Display for Sense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sense {:x}/{:02x}/{:02x}", self.key, self.asc, self.ascq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sense_says_what_to_do() {
        for (bytes, remedy) in [
            ([6, 0x29, 0], Remedy::Again),
            ([6, 0x28, 0], Remedy::Changed),
            ([2, 0x04, 1], Remedy::Wait),
            ([2, 0x04, 0], Remedy::None),
            ([2, 0x3a, 1], Remedy::NoMedium),
            ([3, 0x11, 0], Remedy::None),
            ([0, 0, 0], Remedy::None),
        ] {
            let mut data = [0; LEN];
            (data[2], data[12], data[13]) = (0xf0 | bytes[0], bytes[1], bytes[2]);
            assert_eq!(Sense::parse(&data).remedy(), remedy, "{bytes:x?}");
        }
    }
}
