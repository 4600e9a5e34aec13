//! The table-loader script: commands that firmware executes to place blobs, turn offsets into addresses and compute checksums.
//! The format is QEMU's (`etc/table-loader`): entries of 128 bytes, a 32-bit command and its operands, little-endian.
//!
//! [`Script`] writes it, [`decode`] reads it back for [`place`](crate::place). WRITE_POINTER is not used and not decoded.

use crate::blob::Blob;
use alloc::vec::Vec;

/// Length of one entry in bytes.
pub const ENTRY_LEN: usize = 128;
const NAME_LEN: usize = 56;

const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;

const FILE: usize = 4;
/// The second file name, or the first operand after one name.
const SECOND: usize = FILE + NAME_LEN;
/// The first operand after two names.
const THIRD: usize = SECOND + NAME_LEN;

/// Where a blob may be placed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Zone {
    /// Anywhere below 4 GiB.
    High,
    /// In 0xF0000 to 0xFFFFF, where operating systems search.
    FSegment,
}

impl Zone {
    const fn code(self) -> u8 {
        match self {
            Zone::High => 1,
            Zone::FSegment => 2,
        }
    }
}

/// One command. File names are fw_cfg's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// Place `file` at a multiple of `align` (a power of two) in `zone`.
    Allocate {
        /// The blob.
        file: &'a str,
        /// Alignment in bytes.
        align: u32,
        /// Where.
        zone: Zone,
    },
    /// Add the address of `target` to the `size`-byte value at `offset` of `file`.
    AddPointer {
        /// The blob that holds the pointer.
        file: &'a str,
        /// The blob pointed to.
        target: &'a str,
        /// Where in `file`.
        offset: u32,
        /// 1, 2, 4 or 8.
        size: u8,
    },
    /// Subtract the sum of `len` bytes from `start` on from the byte at `offset`.
    AddChecksum {
        /// The blob.
        file: &'a str,
        /// The checksum's offset.
        offset: u32,
        /// First byte summed.
        start: u32,
        /// Bytes summed.
        len: u32,
    },
}

/// A script under construction.
#[derive(Default, Debug)]
pub struct Script(Vec<u8>);

impl Script {
    /// Appends [`Command::Allocate`].
    pub fn allocate(&mut self, file: &str, align: u32, zone: Zone) {
        let mut e = entry(ALLOCATE, file);
        e.set32(SECOND, align).set8(SECOND + 4, zone.code());
        self.0.append(&mut e.0);
    }

    /// Appends [`Command::AddPointer`].
    pub fn add_pointer(&mut self, file: &str, offset: u32, size: u8, target: &str) {
        let mut e = entry(ADD_POINTER, file);
        e.set(SECOND, target.as_bytes())
            .set32(THIRD, offset)
            .set8(THIRD + 4, size);
        self.0.append(&mut e.0);
    }

    /// Appends [`Command::AddChecksum`].
    pub fn add_checksum(&mut self, file: &str, offset: u32, start: u32, len: u32) {
        let mut e = entry(ADD_CHECKSUM, file);
        e.set32(SECOND, offset)
            .set32(SECOND + 4, start)
            .set32(SECOND + 8, len);
        self.0.append(&mut e.0);
    }

    /// The script's bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0
    }
}

fn entry(command: u32, file: &str) -> Blob {
    let mut e = Blob::zeroed(ENTRY_LEN);
    e.set32(0, command).set(FILE, file.as_bytes());
    e
}

/// The commands of a script; none in place of an entry that is not one of ours.
pub fn decode(script: &[u8]) -> impl Iterator<Item = Option<Command<'_>>> {
    script.chunks(ENTRY_LEN).map(decode_entry)
}

fn decode_entry(e: &[u8]) -> Option<Command<'_>> {
    let number = |at: usize| Some(u32::from_le_bytes(e.get(at..at + 4)?.try_into().ok()?));
    let name = |at: usize| {
        let field = e.get(at..at + NAME_LEN)?;
        let len = field.iter().position(|b| *b == 0)?;
        core::str::from_utf8(&field[..len]).ok()
    };
    let file = name(FILE)?;
    match number(0)? {
        ALLOCATE => {
            let zone = match e.get(SECOND + 4)? {
                1 => Zone::High,
                2 => Zone::FSegment,
                _ => return None,
            };
            Some(Command::Allocate {
                file,
                align: number(SECOND)?,
                zone,
            })
        }
        ADD_POINTER => Some(Command::AddPointer {
            file,
            target: name(SECOND)?,
            offset: number(THIRD)?,
            size: *e.get(THIRD + 4)?,
        }),
        ADD_CHECKSUM => Some(Command::AddChecksum {
            file,
            offset: number(SECOND)?,
            start: number(SECOND + 4)?,
            len: number(SECOND + 8)?,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut s = Script::default();
        s.allocate("a", 64, Zone::FSegment);
        s.add_pointer("a", 0x1234, 8, "b");
        s.add_checksum("b", 9, 1, 2);
        let bytes = s.finish();
        let commands: Vec<_> = decode(&bytes).collect();
        assert_eq!(
            commands[0],
            Some(Command::Allocate {
                file: "a",
                align: 64,
                zone: Zone::FSegment
            })
        );
        assert_eq!(
            commands[1],
            Some(Command::AddPointer {
                file: "a",
                target: "b",
                offset: 0x1234,
                size: 8
            })
        );
        assert_eq!(
            commands[2],
            Some(Command::AddChecksum {
                file: "b",
                offset: 9,
                start: 1,
                len: 2
            })
        );
    }

    #[test]
    fn operands_are_where_seabios_reads_them() {
        let mut s = Script::default();
        s.add_pointer("etc/x", 0x11223344, 4, "etc/y");
        let bytes = s.finish();
        assert_eq!(&bytes[..10], b"\x02\0\0\0etc/x\0");
        assert_eq!(&bytes[60..66], b"etc/y\0");
        assert_eq!(&bytes[116..121], [0x44, 0x33, 0x22, 0x11, 4]);
    }

    #[test]
    fn a_foreign_or_torn_entry_is_no_command() {
        assert_eq!(decode(&[9; ENTRY_LEN]).next(), Some(None));
        assert_eq!(decode(&[1, 0, 0, 0, 0]).next(), Some(None));
    }
}
