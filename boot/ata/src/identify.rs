//! What a drive says of itself. ATA/ATAPI-6 8.15, "IDENTIFY DEVICE", and 8.16, "IDENTIFY PACKET DEVICE".

use crate::command::op;
use alloc::string::String;
use core::fmt;

/// Word 0 of a CompactFlash card, which is a disk. CF+ and CompactFlash Specification, "Identify Drive".
const COMPACT_FLASH: u16 = 0x848a;
/// Packet device type of CD-ROM and DVD drives. ATA/ATAPI-6 8.16.8, "Word 0".
const TYPE_CD: u16 = 5;
/// Low byte of word 255 when its high byte is a checksum.
const CHECKSUM_SIGNATURE: u8 = 0xa5;
/// Most sectors that 48 bits address.
const MOST_SECTORS: u64 = 1 << 48;

/// What a drive is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A disk.
    Disk {
        /// Its 512-byte sectors.
        sectors: u64,
    },
    /// A CD-ROM or DVD drive.
    Cdrom,
    /// A drive that the driver cannot work with; why, as a noun phrase.
    Other(&'static str),
}

/// How far a drive is set up for DMA.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dma {
    /// It cannot.
    None,
    /// The firmware has selected a mode.
    Selected,
    /// No mode is selected; its fastest multiword mode, as SET FEATURES takes it.
    Multiword(u8),
}

/// What a drive says of itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Model, without the padding.
    pub model: String,
    /// Serial number, without the padding.
    pub serial: String,
    /// What it is.
    pub kind: Kind,
    /// It takes commands with 48-bit addresses.
    pub(crate) lba48: bool,
    /// The command that empties its write cache, if it has one.
    pub(crate) flush: Option<u8>,
    /// Its write cache is on.
    pub(crate) write_cache: bool,
    pub(crate) dma: Dma,
    /// Bytes of its packets.
    pub(crate) packet: usize,
    /// It wants to know the direction of a packet command's DMA.
    pub(crate) dmadir: bool,
}

/// The 256 words.
struct Words<'a>(&'a [u8; 512]);

impl Words<'_> {
    fn word(&self, n: usize) -> u16 {
        u16::from_le_bytes([self.0[2 * n], self.0[2 * n + 1]])
    }

    fn bit(&self, word: usize, bit: u32) -> bool {
        self.word(word) >> bit & 1 != 0
    }

    fn wide(&self, word: usize, words: usize) -> u64 {
        (0..words)
            .rev()
            .fold(0, |v, i| v << 16 | u64::from(self.word(word + i)))
    }

    /// Printable characters, the first of a word in its upper byte.
    fn text(&self, word: usize, words: usize) -> String {
        let bytes = self.0[2 * word..2 * (word + words)].chunks_exact(2);
        let text: String = bytes
            .flat_map(|pair| [pair[1], pair[0]])
            .map(char::from)
            .filter(|c| c.is_ascii_graphic() || *c == ' ')
            .collect();
        text.trim().into()
    }

    /// A word of feature bits, whose two upper bits tell whether it is there.
    fn features(&self, word: usize) -> u16 {
        let w = self.word(word);
        if w >> 14 == 1 { w } else { 0 }
    }

    fn checksum_is_wrong(&self) -> bool {
        self.0[510] == CHECKSUM_SIGNATURE
            && self.0.iter().fold(0, |s: u8, b| s.wrapping_add(*b)) != 0
    }

    fn dma(&self) -> Dma {
        let multiword = self.word(63);
        let ultra = if self.bit(53, 2) { self.word(88) } else { 0 };
        if !self.bit(49, 8) {
            Dma::None
        } else if multiword >> 8 & 7 != 0 || ultra >> 8 & 0x7f != 0 {
            Dma::Selected
        } else {
            // In multiword DMA the host makes the strobes, so that the fastest mode is as good as any with a slow host.
            match multiword & 7 {
                0 => Dma::None,
                modes => Dma::Multiword(0x20 | modes.ilog2() as u8),
            }
        }
    }
}

/// Reads the answer to IDENTIFY DEVICE or (`packet`) IDENTIFY PACKET DEVICE. None if it is none.
pub(crate) fn parse(data: &[u8; 512], packet: bool) -> Option<Identity> {
    let w = Words(data);
    let general = w.word(0);
    let plausible = match (packet, general >> 14) {
        (true, 2) => true,
        (false, 0 | 1) => data.iter().any(|&b| b != 0),
        (false, _) => general == COMPACT_FLASH,
        _ => false,
    };
    if !plausible || w.checksum_is_wrong() {
        return None;
    }
    let commands = w.features(83);
    let lba48 = commands & 1 << 10 != 0;
    let kind = if packet {
        match general >> 8 & 0x1f {
            TYPE_CD if general & 3 <= 1 => Kind::Cdrom,
            TYPE_CD => Kind::Other("packets of unknown length"),
            _ => Kind::Other("a packet drive that is no CD-ROM"),
        }
    } else if !w.bit(49, 9) {
        Kind::Other("a disk without LBA")
    } else if w.features(106) & 1 << 12 != 0 {
        Kind::Other("a disk whose sectors are not of 512 bytes")
    } else {
        let sectors = match w.wide(100, 4) {
            n if lba48 && n != 0 => n.min(MOST_SECTORS),
            _ => w.wide(60, 2).min(0x0fff_ffff),
        };
        Kind::Disk { sectors }
    };
    Some(Identity {
        model: w.text(27, 20),
        serial: w.text(10, 10),
        kind,
        lba48,
        flush: match (commands >> 13 & 1, commands >> 12 & 1) {
            (1, _) if lba48 => Some(op::FLUSH_CACHE_EXT),
            (_, 1) => Some(op::FLUSH_CACHE),
            _ => None,
        },
        write_cache: w.bit(85, 5),
        dma: w.dma(),
        packet: if general & 3 == 1 { 16 } else { 12 },
        dmadir: w.bit(62, 15),
    })
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Disk { sectors } => write!(f, "disk {:?}, {} MiB", self.model, sectors / 2048),
            Kind::Cdrom => write!(f, "CD-ROM drive {:?}", self.model),
            Kind::Other(what) => write!(f, "{:?}, {what}", self.model),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of 1000h sectors by 28 bits and 1234567890h by 48.
    fn disk() -> [u8; 512] {
        let mut d = [0; 512];
        let mut set = |word: usize, value: u16| {
            d[2 * word..2 * word + 2].copy_from_slice(&value.to_le_bytes());
        };
        set(0, 0x40);
        set(49, 0x0300);
        set(53, 6);
        set(60, 0x1000);
        set(63, 7);
        set(83, 0x7400);
        set(85, 0x20);
        set(88, 0x203f);
        for (i, w) in [0x7890u16, 0x3456, 0x12].into_iter().enumerate() {
            set(100 + i, w);
        }
        text(&mut d, 27, "umbra-disk                              ");
        text(&mut d, 10, "            SERIAL 1");
        d
    }

    fn text(d: &mut [u8; 512], word: usize, text: &str) {
        for (i, b) in text.bytes().enumerate() {
            d[2 * word + (i ^ 1)] = b;
        }
    }

    fn with(changes: &[(usize, u16)]) -> Option<Identity> {
        let mut d = disk();
        for (word, value) in changes {
            d[2 * word..2 * word + 2].copy_from_slice(&value.to_le_bytes());
        }
        parse(&d, false)
    }

    fn sectors(changes: &[(usize, u16)]) -> Option<u64> {
        match with(changes)?.kind {
            Kind::Disk { sectors } => Some(sectors),
            _ => None,
        }
    }

    #[test]
    fn texts_are_trimmed() {
        let id = with(&[]).unwrap();
        assert_eq!((&*id.model, &*id.serial), ("umbra-disk", "SERIAL 1"));
    }

    #[test]
    fn capacity_has_48_bits_where_the_drive_has() {
        assert_eq!(sectors(&[]), Some(0x12_3456_7890));
        assert_eq!(sectors(&[(83, 0x7000)]), Some(0x1000));
        assert_eq!(sectors(&[(100, 0), (101, 0), (102, 0)]), Some(0x1000));
        // Bits 15 and 14 are not 01: the word is not there.
        assert_eq!(sectors(&[(83, 0xffff)]), Some(0x1000));
        assert_eq!(sectors(&[(103, 0xffff)]), Some(1 << 48));
    }

    #[test]
    fn the_flush_command_is_the_one_that_the_drive_has() {
        let flush = |word| with(&[(83, word)]).unwrap().flush;
        assert_eq!(flush(0x7400), Some(0xea));
        assert_eq!(flush(0x5400), Some(0xe7));
        assert_eq!(flush(0x5000), Some(0xe7));
        assert_eq!(flush(0x4000), None);
        assert_eq!(flush(0), None);
    }

    #[test]
    fn dma_is_as_selected_or_the_fastest_multiword_mode() {
        let dma = |changes: &[_]| with(changes).unwrap().dma;
        assert_eq!(dma(&[]), Dma::Selected);
        assert_eq!(dma(&[(88, 0x3f)]), Dma::Multiword(0x22));
        assert_eq!(dma(&[(88, 0x3f), (63, 1)]), Dma::Multiword(0x20));
        assert_eq!(dma(&[(88, 0x3f), (63, 0x0203)]), Dma::Selected);
        assert_eq!(dma(&[(88, 0x3f), (63, 0)]), Dma::None);
        assert_eq!(dma(&[(49, 0x0200)]), Dma::None);
        // Word 88 does not count: bit 2 of word 53.
        assert_eq!(dma(&[(53, 2)]), Dma::Multiword(0x22));
    }

    #[test]
    fn disks_that_cannot_be_used_say_why() {
        let kind = |changes: &[_]| with(changes).unwrap().kind;
        assert!(matches!(kind(&[(49, 0x0100)]), Kind::Other(_)));
        assert!(matches!(kind(&[(106, 0x5000)]), Kind::Other(_)));
        assert!(matches!(kind(&[(106, 0x9000)]), Kind::Disk { .. }));
    }

    #[test]
    fn packet_drives_are_told_by_their_type() {
        let parse = |word: u16| {
            let mut d = disk();
            d[..2].copy_from_slice(&word.to_le_bytes());
            parse(&d, true).map(|id| (id.kind, id.packet))
        };
        assert_eq!(parse(0x85c0), Some((Kind::Cdrom, 12)));
        assert_eq!(parse(0x85c1), Some((Kind::Cdrom, 16)));
        assert!(matches!(parse(0x85c2), Some((Kind::Other(_), _))));
        assert!(matches!(parse(0x81c0), Some((Kind::Other(_), _))));
        assert_eq!(parse(0x05c0), None);
    }

    #[test]
    fn what_is_no_answer_is_no_drive() {
        assert_eq!(parse(&[0; 512], false), None);
        for packet in [false, true] {
            assert_eq!(parse(&[0xff; 512], packet), None);
        }
        assert_eq!(with(&[(0, 0x8000)]), None);
        assert!(with(&[(0, COMPACT_FLASH)]).is_some());
    }

    #[test]
    fn a_checksum_that_is_there_must_be_right() {
        let mut d = disk();
        d[510] = CHECKSUM_SIGNATURE;
        let sum = d.iter().fold(0u8, |s, b| s.wrapping_add(*b));
        assert_eq!(parse(&d, false), None);
        d[511] = sum.wrapping_neg();
        assert!(parse(&d, false).is_some());
    }
}
