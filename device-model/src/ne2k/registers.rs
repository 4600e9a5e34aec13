//! The registers in their four pages. DP8390D 10.0, "Internal Registers"; RTL8029AS data sheet.

use bitflags::bitflags;

bitflags! {
    /// The command register, without page and remote DMA fields.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Command: u8 {
        /// Stop.
        const STP = 1 << 0;
        /// Start.
        const STA = 1 << 1;
        /// Transmit; reads as one until the frame is sent, which takes no time here.
        const TXP = 1 << 2;
        /// Remote DMA.
        const RD = 7 << 3;
        /// Page.
        const PS = 3 << 6;
    }

    /// The interrupt status register, and the mask.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct Interrupts: u8 {
        /// A frame was received.
        const PRX = 1 << 0;
        /// A frame was sent.
        const PTX = 1 << 1;
        /// A bad frame was received.
        const RXE = 1 << 2;
        /// A frame could not be sent.
        const TXE = 1 << 3;
        /// The ring has overflowed.
        const OVW = 1 << 4;
        /// A counter is half full.
        const CNT = 1 << 5;
        /// The remote DMA is complete.
        const RDC = 1 << 6;
        /// Stopped; a status, not an interrupt.
        const RST = 1 << 7;
    }

    /// The receive configuration register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct ReceiveConfig: u8 {
        /// Save frames with errors.
        const SEP = 1 << 0;
        /// Accept runts.
        const AR = 1 << 1;
        /// Accept broadcasts.
        const AB = 1 << 2;
        /// Accept multicasts that the hash filter passes.
        const AM = 1 << 3;
        /// Accept everything.
        const PRO = 1 << 4;
        /// Monitor: check frames, do not store them.
        const MON = 1 << 5;
    }

    /// The receive status register, also the first byte of a received frame's header.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub(super) struct ReceiveStatus: u8 {
        /// Received intact.
        const PRX = 1 << 0;
        /// Group address.
        const PHY = 1 << 5;
        /// Receiver disabled: monitor mode.
        const DIS = 1 << 6;
    }
}

/// Remote DMA commands, the field [`Command::RD`]. Every value from 4 on aborts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Remote {
    /// No command: not allowed, taken as abort.
    None,
    /// The host reads.
    Read,
    /// The host writes.
    Write,
    /// The host reads the next received frame.
    SendPacket,
}

/// Data configuration: word transfers.
const DCR_WTS: u8 = 1;
/// Data configuration at power-on.
const DCR_POWER_ON: u8 = 0x49;
/// Transmit configuration: loopback control.
const TCR_LOOPBACK: u8 = 6;
/// Transmit status: sent.
const TSR_PTX: u8 = 1;
/// 8029ID0 and 8029ID1: "PC".
const CHIP_ID: [u8; 2] = [0x50, 0x43];
/// CONFIG2: 10BaseT, link.
const CONFIG2: u8 = 0x40;
/// CONFIG3: full duplex.
const CONFIG3: u8 = 0x40;
/// 9346CR: operating mode.
const EEPROM_MODE: u8 = 0xc0;
/// 8029ASID0 and 8029ASID1.
const AS_ID: [u8; 2] = [0x29, 0x80];

/// Writes one byte of a 16-bit register.
fn set_half(reg: &mut u16, high: bool, value: u8) {
    let mut v = reg.to_le_bytes();
    v[usize::from(high)] = value;
    *reg = u16::from_le_bytes(v);
}

/// What has to be done after a register was written.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Effect {
    /// Send a frame.
    pub(super) transmit: bool,
    /// A remote DMA command was given.
    pub(super) remote: bool,
    /// There may be more frames that can be received.
    pub(super) receive: bool,
    /// The driver has taken note of received frames.
    pub(super) acknowledged: bool,
    /// The driver has read frames.
    pub(super) boundary: bool,
}

/// The registers.
pub(super) struct Registers {
    command: Command,
    isr: Interrupts,
    imr: Interrupts,
    pub(super) page_start: u8,
    pub(super) page_stop: u8,
    pub(super) boundary: u8,
    pub(super) current: u8,
    pub(super) transmit_page: u8,
    pub(super) transmit_count: u16,
    tsr: u8,
    pub(super) rsr: ReceiveStatus,
    /// Remote DMA: the address of the next byte.
    pub(super) remote_address: u16,
    /// Remote DMA: bytes left.
    pub(super) remote_count: u16,
    /// Where the boundary goes when the send packet command is complete.
    pub(super) remote_next: Option<u8>,
    pub(super) rcr: ReceiveConfig,
    tcr: u8,
    dcr: u8,
    pub(super) station: [u8; 6],
    pub(super) multicast: [u8; 8],
    eeprom: u8,
}

impl Default for Registers {
    fn default() -> Self {
        Self {
            command: Command::STP | Command::from_bits_retain(4 << 3),
            isr: Interrupts::RST,
            imr: Interrupts::empty(),
            page_start: 0,
            page_stop: 0,
            boundary: 0,
            current: 0,
            transmit_page: 0,
            transmit_count: 0,
            tsr: 0,
            rsr: ReceiveStatus::empty(),
            remote_address: 0,
            remote_count: 0,
            remote_next: None,
            rcr: ReceiveConfig::empty(),
            tcr: 0,
            dcr: DCR_POWER_ON,
            station: [0; 6],
            multicast: [0; 8],
            eeprom: 0,
        }
    }
}

impl Registers {
    /// The reset port: stops the card. What the guest has configured stays.
    pub(super) fn soft_reset(&mut self) {
        let fresh = Self::default();
        (self.command, self.isr, self.imr) = (fresh.command, fresh.isr, fresh.imr);
        self.tcr &= !TCR_LOOPBACK;
    }

    /// The level of the interrupt line.
    pub(super) fn interrupt(&self) -> bool {
        (self.isr & (self.imr - Interrupts::RST)).bits() != 0
    }

    pub(super) fn signal(&mut self, what: Interrupts) {
        self.isr |= what;
    }

    /// Whether the driver has still to be told of frames in the ring, or has been told and has not said that it knows.
    pub(super) fn receipt_is_pending(&self) -> bool {
        self.isr.contains(Interrupts::PRX)
    }

    /// A frame found no room.
    pub(super) fn overflow(&mut self) {
        self.signal(Interrupts::OVW);
    }

    /// A frame was sent.
    pub(super) fn transmitted(&mut self) {
        self.tsr = TSR_PTX;
        self.signal(Interrupts::PTX);
    }

    /// Whether frames on the wire concern the card. STA starts it and STP stops it; a command with neither, as iPXE writes them, leaves
    /// it as it is (DP8390D 10.3, "Register Descriptions": command register, bits 1:0; interrupt status register, bit 7).
    pub(super) fn running(&self) -> bool {
        !self.isr.contains(Interrupts::RST)
    }

    /// Whether what is sent comes back and does not go out.
    pub(super) fn loopback(&self) -> bool {
        self.tcr & TCR_LOOPBACK != 0
    }

    /// Whether the remote DMA moves words.
    pub(super) fn words(&self) -> bool {
        self.dcr & DCR_WTS != 0
    }

    /// The remote DMA command in force.
    pub(super) fn remote(&self) -> Remote {
        match (self.command & Command::RD).bits() >> 3 {
            1 => Remote::Read,
            2 => Remote::Write,
            3 => Remote::SendPacket,
            _ => Remote::None,
        }
    }

    fn page(&self) -> u8 {
        self.command.bits() >> 6
    }

    /// Reads register 0 to 15 of the current page.
    pub(super) fn read(&self, reg: u8) -> u8 {
        let [remote_low, remote_high] = self.remote_address.to_le_bytes();
        match (self.page(), reg) {
            (_, 0) => self.command.bits(),
            (0, 1) => 0, // CLDA0: the local DMA stands at the beginning of a page
            (0, 2) => self.current,
            (0, 3) => self.boundary,
            (0, 4) => self.tsr,
            (0, 7) => self.isr.bits(),
            (0, 8) => remote_low,
            (0, 9) => remote_high,
            (0, 0x0a) => CHIP_ID[0],
            (0, 0x0b) => CHIP_ID[1],
            (0, 0x0c) => self.rsr.bits(),
            (1, 1..=6) => self.station[usize::from(reg - 1)],
            (1, 7) => self.current,
            (1, 8..=15) => self.multicast[usize::from(reg - 8)],
            (2, 1) => self.page_start,
            (2, 2) => self.page_stop,
            (2, 4) => self.transmit_page,
            (2, 0x0c) => self.rcr.bits() | 0xc0,
            (2, 0x0d) => self.tcr | 0xe0,
            (2, 0x0e) => self.dcr | 0x80,
            (2, 0x0f) => self.imr.bits() | 0x80,
            (3, 1) => self.eeprom,
            (3, 5) => CONFIG2,
            (3, 6) => CONFIG3,
            (3, 0x0e) => AS_ID[0],
            (3, 0x0f) => AS_ID[1],
            _ => 0,
        }
    }

    /// Writes register 0 to 15 of the current page.
    pub(super) fn write(&mut self, reg: u8, value: u8) -> Effect {
        let mut effect = Effect::default();
        match (self.page(), reg) {
            (_, 0) => return self.write_command(value),
            (0, 1) => self.page_start = value,
            (0, 2) => self.page_stop = value,
            (0, 3) => {
                self.boundary = value;
                effect.boundary = true;
                effect.receive = true;
            }
            (0, 4) => self.transmit_page = value,
            (0, 5) => set_half(&mut self.transmit_count, false, value),
            (0, 6) => set_half(&mut self.transmit_count, true, value),
            (0, 7) => {
                let done = Interrupts::from_bits_truncate(value) - Interrupts::RST;
                effect.acknowledged = self.isr.intersection(done).contains(Interrupts::PRX);
                effect.receive = effect.acknowledged;
                self.isr.remove(done);
            }
            (0, 8) => set_half(&mut self.remote_address, false, value),
            (0, 9) => set_half(&mut self.remote_address, true, value),
            (0, 0x0a) => set_half(&mut self.remote_count, false, value),
            (0, 0x0b) => set_half(&mut self.remote_count, true, value),
            (0, 0x0c) => {
                self.rcr = ReceiveConfig::from_bits_truncate(value);
                effect.receive = true;
            }
            (0, 0x0d) => self.tcr = value & 0x1f,
            (0, 0x0e) => self.dcr = value & 0x7f,
            (0, 0x0f) => self.imr = Interrupts::from_bits_truncate(value) - Interrupts::RST,
            (1, 1..=6) => self.station[usize::from(reg - 1)] = value,
            (1, 7) => {
                self.current = value;
                effect.receive = true;
            }
            (1, 8..=15) => self.multicast[usize::from(reg - 8)] = value,
            (3, 1) => self.eeprom = value & EEPROM_MODE,
            _ => {}
        }
        effect
    }

    fn write_command(&mut self, value: u8) -> Effect {
        let new = Command::from_bits_retain(value);
        self.command = new - Command::TXP;
        if new.contains(Command::STP) {
            self.isr |= Interrupts::RST;
        } else if new.contains(Command::STA) {
            self.isr -= Interrupts::RST;
        }
        Effect {
            transmit: new.contains(Command::TXP) && self.running(),
            remote: self.remote() != Remote::None,
            receive: self.running(),
            ..Effect::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reset_status_follows_start_and_stop_and_cannot_be_acknowledged() {
        let mut r = Registers::default();
        r.write(7, 0xff);
        assert_eq!(r.read(7), 0x80);
        r.write(0, 0x22);
        assert_eq!(r.read(7), 0);
        r.write(0, 0x21);
        assert_eq!(r.read(7), 0x80);
    }

    #[test]
    fn a_command_without_start_and_stop_changes_neither() {
        let mut r = Registers::default();
        r.write(0, 0x40);
        assert!(!r.running());
        r.write(0, 0x22);
        r.write(0, 0x40);
        r.write(0, 0x00);
        assert!(r.running());
        r.write(0, 0x21);
        r.write(0, 0x20);
        assert!(!r.running());
    }

    #[test]
    fn reset_status_is_no_interrupt() {
        let mut r = Registers::default();
        r.write(0x0f, 0xff);
        assert!(!r.interrupt());
        r.signal(Interrupts::PRX);
        assert!(r.interrupt());
    }

    #[test]
    fn page_2_reads_what_page_0_wrote() {
        let mut r = Registers::default();
        for (reg, v) in [
            (1, 0x46),
            (2, 0x80),
            (4, 0x40),
            (0x0c, 4),
            (0x0d, 2),
            (0x0e, 0x49),
            (0x0f, 0x11),
        ] {
            r.write(reg, v);
        }
        r.write(0, 0xa1);
        assert_eq!([1, 2, 4].map(|i| r.read(i)), [0x46, 0x80, 0x40]);
        assert_eq!(
            [0x0c, 0x0d, 0x0e, 0x0f].map(|i| r.read(i)),
            [0xc4, 0xe2, 0xc9, 0x91]
        );
    }

    #[test]
    fn chip_says_pc() {
        assert_eq!([0x0a, 0x0b].map(|i| Registers::default().read(i)), *b"PC");
    }
}
