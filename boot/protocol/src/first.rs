//! The first version of the protocol, as far as the tool has to know it to say that it does not speak it. It had no greeting.

/// How an Umbra of that version says that the guests are about to run: the kind, the length in 32 bits, the text.
const READY: &[u8] = b"E\x05\0\0\0ready";

/// Looks for an Umbra of the first version in what is heard before the first frame.
#[derive(Debug, Default)]
pub struct FirstVersion {
    /// Bytes of [`READY`] that have come.
    heard: usize,
}

impl FirstVersion {
    /// Its number.
    pub const NUMBER: u16 = 1;

    /// Takes bytes as they come. True: they are such an Umbra's.
    pub fn hears(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| {
            // Its first byte is not in it again.
            self.heard = match READY.get(self.heard) {
                Some(wanted) if wanted == byte => self.heard + 1,
                _ => usize::from(READY.first() == Some(byte)),
            };
            self.heard == READY.len()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_umbra_of_the_first_version_is_known_by_its_first_event() {
        let firmware = b"\x1b[2JE\x1b[=3hEE\x05\0";
        let stream = [&firmware[..], b"C\x01\0\0\0x", READY].concat();
        for size in [1, 3, stream.len()] {
            let mut first = FirstVersion::default();
            let (last, before) = stream.split_last().unwrap();
            assert!(!before.chunks(size).any(|part| first.hears(part)));
            assert!(first.hears(&[*last]));
        }
    }
}
