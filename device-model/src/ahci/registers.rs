//! The registers' places and bits. AHCI 1.3.1 3, "HBA Memory Registers".

use bitflags::bitflags;

/// Generic host control (3.1).
pub(super) mod generic {
    pub const CAP: u64 = 0x00;
    pub const GHC: u64 = 0x04;
    pub const IS: u64 = 0x08;
    pub const PI: u64 = 0x0c;
    pub const VS: u64 = 0x10;
}

/// A port's registers (3.3), from its beginning on.
pub(super) mod port {
    pub const CLB: u64 = 0x00;
    pub const CLBU: u64 = 0x04;
    pub const FB: u64 = 0x08;
    pub const FBU: u64 = 0x0c;
    pub const IS: u64 = 0x10;
    pub const IE: u64 = 0x14;
    pub const CMD: u64 = 0x18;
    pub const TFD: u64 = 0x20;
    pub const SIG: u64 = 0x24;
    pub const SSTS: u64 = 0x28;
    pub const SCTL: u64 = 0x2c;
    pub const SERR: u64 = 0x30;
    pub const SACT: u64 = 0x34;
    pub const CI: u64 = 0x38;
}

/// Where the ports' registers begin, and how far one is from the next.
pub(super) const PORTS: u64 = 0x100;
pub(super) const PORT: u64 = 0x80;

/// Version 1.3.
pub(super) const VERSION: u32 = 0x0001_0300;

bitflags! {
    /// HBA capabilities (3.1.1, "Offset 00h: CAP – HBA Capabilities"). The numbers of ports and of slots are beside them.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Cap: u32 {
        /// Several DRQ blocks of PIO.
        const PMD = 1 << 15;
        /// There is no other interface than this.
        const SAM = 1 << 18;
        /// 3 Gb/s.
        const ISS_GEN2 = 2 << 20;
        const SCLO = 1 << 24;
        /// Native command queueing.
        const SNCQ = 1 << 30;
        const S64A = 1 << 31;
    }

    /// Global HBA control (3.1.2, "Offset 04h: GHC – Global HBA Control").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Ghc: u32 {
        const HR = 1 << 0;
        const IE = 1 << 1;
        const AE = 1 << 31;
    }

    /// Port interrupts: status and enable (3.3.5, "Offset 10h: PxIS – Port x Interrupt Status").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Interrupts: u32 {
        /// A register FIS from the drive.
        const DHRS = 1 << 0;
        /// A PIO setup FIS.
        const PSS = 1 << 1;
        /// A DMA setup FIS.
        const DSS = 1 << 2;
        /// A set device bits FIS.
        const SDBS = 1 << 3;
        /// An unknown FIS.
        const UFS = 1 << 4;
        /// A region with the I bit was moved.
        const DPS = 1 << 5;
        /// The connection has changed: as long as PxSERR.DIAG.X is set.
        const PCS = 1 << 6;
        const DMPS = 1 << 7;
        /// PhyRdy has changed: as long as PxSERR.DIAG.N is set.
        const PRCS = 1 << 22;
        const IPMS = 1 << 23;
        /// More data than memory for them.
        const OFS = 1 << 24;
        const INFS = 1 << 26;
        /// A FIS that cannot be sent.
        const IFS = 1 << 27;
        const HBDS = 1 << 28;
        /// Memory did not answer.
        const HBFS = 1 << 29;
        /// The drive reported an error.
        const TFES = 1 << 30;
        const CPDS = 1 << 31;
    }

    /// Port command and status (3.3.7, "Offset 18h: PxCMD – Port x Command and Status"), without the number of the current slot.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct PortCmd: u32 {
        const ST = 1 << 0;
        const SUD = 1 << 1;
        const POD = 1 << 2;
        const CLO = 1 << 3;
        const FRE = 1 << 4;
        const FR = 1 << 14;
        const CR = 1 << 15;
        const ATAPI = 1 << 24;
        const DLAE = 1 << 25;
    }
}

/// Shift of the current command slot in PxCMD.
pub(super) const CCS: u32 = 8;

/// PxSERR: PhyRdy has changed, a device was exchanged (3.3.12, "Offset 30h: PxSERR – Port x Serial ATA Error").
pub(super) const SERR_N: u32 = 1 << 16;
pub(super) const SERR_X: u32 = 1 << 26;

/// PxSCTL.DET: the interface is initialized, or off (3.3.11, "Offset 2Ch: PxSCTL – Port x Serial ATA Control").
pub(super) const DET: u32 = 0xf;
pub(super) const DET_RESET: u32 = 1;
pub(super) const DET_OFFLINE: u32 = 4;
/// What of PxSCTL can be written: DET, and limits of speed and of power management, which have no effect.
pub(super) const SCTL_WRITABLE: u32 = 0xfff;

/// PxSSTS: a drive is there and talks, at 3 Gb/s, the interface is active (3.3.10, "Offset 28h: PxSSTS – Port x Serial ATA Status").
pub(super) const SSTS_UP: u32 = 0x123;
/// PxSSTS: a drive is there and does not talk.
pub(super) const SSTS_DOWN: u32 = 1;
/// PxSSTS: the interface is off.
pub(super) const SSTS_OFFLINE: u32 = 4;

/// PxSIG of a port whose drive has not shown its signature.
pub(super) const NO_SIGNATURE: u32 = u32::MAX;
/// PxTFD.STS of such a port.
pub(super) const NO_STATUS: u8 = 0x7f;
