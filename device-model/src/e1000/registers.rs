//! The registers by their offsets (317453, "Register Descriptions"), and those that only keep what is written.

bitflags::bitflags! {
    /// CTRL, "Device Control Register".
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Control: u32 {
        /// Full duplex.
        const FD = 1 << 0;
        /// The link may come up.
        const SLU = 1 << 6;
        /// 1000 Mbit/s, if software says so.
        const SPEED_1000 = 2 << 8;
        /// Reset.
        const RST = 1 << 26;
        /// Virtual LANs: tags are taken from what arrives and put into what is sent.
        const VME = 1 << 30;
        /// Reset of the PHY.
        const PHY_RST = 1 << 31;
        const _ = !0;
    }

    /// RCTL, "Receive Control Register".
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct ReceiveControl: u32 {
        /// The receiver is on.
        const EN = 1 << 1;
        /// All unicasts; all multicasts.
        const UPE = 1 << 3;
        const MPE = 1 << 4;
        /// Long frames.
        const LPE = 1 << 5;
        /// What is sent comes back.
        const LBM = 1 << 6;
        /// Broadcasts.
        const BAM = 1 << 15;
        /// Only certain virtual LANs.
        const VFE = 1 << 18;
        /// Pauses are not handed on.
        const DPF = 1 << 22;
        /// Buffer sizes are sixteen times as large.
        const BSEX = 1 << 25;
        /// The frame check sequence is not handed on.
        const SECRC = 1 << 26;
        const _ = !0;
    }

    /// TCTL, "Transmit Control Register".
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct TransmitControl: u32 {
        /// The transmitter is on.
        const EN = 1 << 1;
        /// Short frames are padded.
        const PSP = 1 << 3;
        const _ = !0;
    }

    /// RXCSUM, "Receive Checksum Control": the packet checksum's start is in bits 7:0.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct ReceiveChecksum: u32 {
        /// IP and TCP or UDP.
        const IPOFL = 1 << 8;
        const TUOFL = 1 << 9;
        const _ = !0;
    }
}

impl ReceiveControl {
    /// How few descriptors are left when software is told: a half, a quarter or an eighth of the ring, as a shift.
    pub(super) fn threshold(self) -> u32 {
        1 + (self.bits() >> 8 & 3).min(2)
    }

    /// Which bits of a group's address are hashed.
    pub(super) fn offset(self) -> u32 {
        self.bits() >> 12 & 3
    }

    /// Bytes of a buffer. 16 times 2048 is reserved, and taken for 2048.
    pub(super) fn buffer(self) -> usize {
        let size = (self.bits() >> 16 & 3) as usize;
        if self.contains(Self::BSEX) && size != 0 {
            32_768 >> size
        } else {
            2048 >> size
        }
    }
}

/// STATUS, "Device Status Register": full duplex, link, 1000 Mbit/s as the link and as the PHY say.
pub(super) mod status {
    pub const FD: u32 = 1 << 0;
    pub const LU: u32 = 1 << 1;
    pub const SPEED_1000: u32 = 2 << 6;
    pub const ASDV_1000: u32 = 2 << 8;
}

/// Offsets.
pub(super) mod offset {
    pub const CTRL: u32 = 0x0000;
    /// CTRL once more.
    pub const CTRL_DUP: u32 = 0x0004;
    pub const STATUS: u32 = 0x0008;
    pub const EECD: u32 = 0x0010;
    pub const EERD: u32 = 0x0014;
    pub const MDIC: u32 = 0x0020;
    pub const VET: u32 = 0x0038;
    pub const ICR: u32 = 0x00c0;
    pub const ITR: u32 = 0x00c4;
    pub const ICS: u32 = 0x00c8;
    pub const IMS: u32 = 0x00d0;
    pub const IMC: u32 = 0x00d8;
    pub const RCTL: u32 = 0x0100;
    pub const TCTL: u32 = 0x0400;
    pub const RING_RECEIVE: u32 = 0x2800;
    pub const RING_RECEIVE_END: u32 = 0x281c;
    pub const RDTR: u32 = 0x2820;
    pub const RADV: u32 = 0x282c;
    pub const RING_TRANSMIT: u32 = 0x3800;
    pub const RING_TRANSMIT_END: u32 = 0x381c;
    pub const TIDV: u32 = 0x3820;
    pub const TADV: u32 = 0x382c;
    pub const STATISTICS: u32 = 0x4000;
    pub const STATISTICS_END: u32 = 0x4100;
    pub const RXCSUM: u32 = 0x5000;
    pub const MTA: u32 = 0x5200;
    pub const MTA_END: u32 = 0x5400;
    pub const RA: u32 = 0x5400;
    pub const RA_END: u32 = 0x5480;
    pub const VFTA: u32 = 0x5600;
    pub const VFTA_END: u32 = 0x5800;
}

/// Registers that keep what is written and do nothing, with the bits that can be written and their reset values: flow control, LEDs, the split
/// of the packet buffer, gaps and thresholds, waking, management.
const KEPT: &[(u32, u32, u32)] = &[
    (0x0018, 0xffff_ffff, 0), // CTRL_EXT
    (0x0028, 0xffff_ffff, 0), // FCAL
    (0x002c, 0x0000_ffff, 0), // FCAH
    (0x0030, 0x0000_ffff, 0), // FCT
    (offset::VET, 0x0000_ffff, 0x8100),
    (0x0170, 0x0000_ffff, 0),           // FCTTV
    (0x0178, 0xffff_ffff, 0),           // TXCW
    (0x0410, 0x3fff_ffff, 0x0060_2008), // TIPG
    (0x0458, 0x0000_ffff, 0),           // AIFS
    (0x0e00, 0xffff_ffff, 0x0706_8302), // LEDCTL
    (0x1000, 0x0000_007f, 0x0010_0030), // PBA: 48 KiB to receive, 16 KiB to send
    (0x2160, 0x8000_fff8, 0),           // FCRTL
    (0x2168, 0x0000_fff8, 0),           // FCRTH
    (0x2828, 0xffff_ffff, 0x0001_0000), // RXDCTL
    (0x3828, 0xffff_ffff, 0),           // TXDCTL
    (0x3830, 0xffff_ffff, 0x0100_0400), // TSPMT
    (offset::RXCSUM, 0x0000_03ff, 0),
    (0x5800, 0x0000_000f, 0), // WUC
    (0x5808, 0x000f_80ff, 0), // WUFC
    (0x5820, 0xffff_ffff, 0), // MANC
    (0x5838, 0x0001_000f, 0), // IPAV
];

/// The kept registers.
pub(super) struct Kept([u32; KEPT.len()]);

impl Kept {
    /// In power-on state.
    pub(super) fn new() -> Self {
        let mut values = [0; KEPT.len()];
        for (value, (_, _, reset)) in values.iter_mut().zip(KEPT) {
            *value = *reset;
        }
        Self(values)
    }

    /// The register at this offset; 0 if there is none.
    pub(super) fn read(&self, at: u32) -> u32 {
        let mut all = KEPT.iter().zip(self.0);
        all.find(|((offset, ..), _)| *offset == at)
            .map_or(0, |(_, value)| value)
    }

    pub(super) fn write(&mut self, at: u32, value: u32) {
        let mut all = KEPT.iter().zip(&mut self.0);
        if let Some(((_, mask, _), kept)) = all.find(|((offset, ..), _)| *offset == at) {
            *kept = *kept & !mask | value & mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_of_seven_sizes() {
        let size = |bits: u32| ReceiveControl::from_bits_retain(bits).buffer();
        let plain = [0, 1, 2, 3].map(|n| size(n << 16));
        assert_eq!(plain, [2048, 1024, 512, 256]);
        let extended = [0, 1, 2, 3].map(|n| size(1 << 25 | n << 16));
        assert_eq!(extended, [2048, 16_384, 8192, 4096]);
    }

    #[test]
    fn registers_keep_the_bits_that_they_have() {
        let mut kept = Kept::new();
        assert_eq!(kept.read(0x1000), 0x0010_0030);
        kept.write(0x1000, !0);
        assert_eq!(kept.read(0x1000), 0x0010_007f);
        kept.write(0x1004, !0);
        assert_eq!(kept.read(0x1004), 0);
    }
}
