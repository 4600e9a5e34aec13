//! The PHY, and the register MDIC that leads to it: an M88E1011 with a gigabit partner that agrees to everything (317453, "PHY Functionality and
//! Features"; IEEE 802.3 22.2.4, "Management functions").
//!
//! Negotiation takes a while, during which there is no link. Whatever speed software forces, the link is one of 1000 Mbit/s.

use hv_core::VmTime;

/// Its address at the management interface.
const ADDRESS: u32 = 1;
/// How long a negotiation takes.
const NEGOTIATION: VmTime = VmTime::from_millis(100);

/// The registers.
mod register {
    pub const CONTROL: usize = 0;
    pub const STATUS: usize = 1;
    pub const ID_1: usize = 2;
    pub const ID_2: usize = 3;
    pub const ADVERTISEMENT: usize = 4;
    pub const PARTNER: usize = 5;
    pub const EXPANSION: usize = 6;
    pub const NEXT_PAGE: usize = 7;
    pub const GIGABIT_CONTROL: usize = 9;
    pub const GIGABIT_STATUS: usize = 10;
    pub const EXTENDED_STATUS: usize = 15;
    pub const SPECIFIC_CONTROL: usize = 16;
    pub const SPECIFIC_STATUS: usize = 17;
    pub const INTERRUPT_ENABLE: usize = 18;
    pub const EXTENDED_CONTROL: usize = 20;
    /// Registers of the analog part, whose values mean nothing here.
    pub const ANALOG: core::ops::RangeInclusive<usize> = 24..=31;
}

bitflags::bitflags! {
    /// The control register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Control: u16 {
        const RESTART = 1 << 9;
        const POWER_DOWN = 1 << 11;
        const NEGOTIATE = 1 << 12;
        const LOOPBACK = 1 << 14;
        const RESET = 1 << 15;
    }
}

/// Control at power-on: negotiation, full duplex, 1000 Mbit/s.
const CONTROL: u16 = 0x1140;
/// Status: every mode of 10 and 100 Mbit/s, extended status, preamble suppression, negotiation, extended registers.
const STATUS: u16 = 0x7949;
const STATUS_LINK: u16 = 1 << 2;
const STATUS_NEGOTIATED: u16 = 1 << 5;
/// What the partner can do: both kinds of pause, 10 and 100 Mbit/s, and that it has understood.
const PARTNER: u16 = 0x4de1;
/// The partner has understood that this side negotiates.
const EXPANSION: u16 = 1;
/// The partner does 1000 Mbit/s, and both receivers work.
const GIGABIT_STATUS: u16 = 0x3c00;
/// Specific status: 1000 Mbit/s, full duplex, resolved, link.
const RESOLVED: u16 = 0xac00;

bitflags::bitflags! {
    /// The register MDIC, "MDI Control": data in bits 15:0, register in 20:16, PHY in 25:21, operation in 27:26.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Mdic: u32 {
        const WRITE = 1 << 26;
        const READ = 1 << 27;
        const READY = 1 << 28;
        const INTERRUPT = 1 << 29;
        const ERROR = 1 << 30;
        const _ = !0;
    }
}

/// The PHY and MDIC.
pub(super) struct Phy {
    registers: [u16; 32],
    mdic: u32,
    /// When the negotiation that goes on will be over.
    negotiates: Option<VmTime>,
}

impl Phy {
    /// In power-on state, with a link.
    pub(super) fn new() -> Self {
        let mut phy = Self {
            registers: [0; 32],
            mdic: Mdic::READY.bits(),
            negotiates: None,
        };
        phy.preset();
        phy
    }

    fn preset(&mut self) {
        self.registers = [0; 32];
        for (at, value) in [
            (register::CONTROL, CONTROL),
            (register::ID_1, 0x0141),
            (register::ID_2, 0x0c20),
            (register::ADVERTISEMENT, 0x0de1),
            (register::NEXT_PAGE, 0x2001),
            (register::GIGABIT_CONTROL, 0x0e00),
            (register::EXTENDED_STATUS, 0x3000),
            (register::SPECIFIC_CONTROL, 0x0068),
            (register::EXTENDED_CONTROL, 0x0d60),
        ] {
            self.registers[at] = value;
        }
    }

    /// Its reset pin: power-on state, and a negotiation.
    pub(super) fn reset(&mut self, now: VmTime) {
        self.preset();
        self.negotiates = Some(now + NEGOTIATION);
    }

    fn control(&self) -> Control {
        Control::from_bits_retain(self.registers[register::CONTROL])
    }

    /// Whether there is a link.
    pub(super) fn link(&self) -> bool {
        self.negotiates.is_none() && !self.control().contains(Control::POWER_DOWN)
    }

    /// Whether what is sent comes back.
    pub(super) fn loops_back(&self) -> bool {
        self.control().contains(Control::LOOPBACK)
    }

    /// What is due by `now` happens. Returns when to come again.
    pub(super) fn poll(&mut self, now: VmTime) -> Option<VmTime> {
        self.negotiates = self.negotiates.filter(|&end| now < end);
        self.negotiates
    }

    pub(super) fn mdic(&self) -> u32 {
        self.mdic
    }

    /// MDIC is written. True: software wants an interrupt, since it is done.
    pub(super) fn write_mdic(&mut self, now: VmTime, value: u32) -> bool {
        let command = Mdic::from_bits_retain(value) - Mdic::READY - Mdic::ERROR;
        let at = (value >> 16 & 0x1f) as usize;
        let mut done = command | Mdic::READY;
        if value >> 21 & 0x1f != ADDRESS {
            done |= Mdic::ERROR;
        } else if command.contains(Mdic::READ) {
            let data = u32::from(self.read(at));
            done = Mdic::from_bits_retain(done.bits() & !0xffff | data);
        } else if command.contains(Mdic::WRITE) {
            self.write(now, at, value as u16);
        }
        self.mdic = done.bits();
        command.contains(Mdic::INTERRUPT)
    }

    fn read(&self, at: usize) -> u16 {
        let up = |value| if self.link() { value } else { 0 };
        match at {
            register::STATUS => STATUS | up(STATUS_LINK | STATUS_NEGOTIATED),
            register::PARTNER => up(PARTNER),
            register::EXPANSION => up(EXPANSION),
            register::GIGABIT_STATUS => up(GIGABIT_STATUS),
            register::SPECIFIC_STATUS => up(RESOLVED),
            _ => self.registers[at % 32],
        }
    }

    fn write(&mut self, now: VmTime, at: usize, value: u16) {
        match at {
            register::CONTROL => {
                let new = Control::from_bits_retain(value);
                let before = self.control();
                if new.contains(Control::RESET) {
                    return self.reset(now);
                }
                self.registers[at] = (new - Control::RESTART).bits();
                let wakes =
                    before.contains(Control::POWER_DOWN) && !new.contains(Control::POWER_DOWN);
                if !new.contains(Control::NEGOTIATE) {
                    self.negotiates = None;
                } else if wakes || new.contains(Control::RESTART) {
                    self.negotiates = Some(now + NEGOTIATION);
                }
            }
            register::ADVERTISEMENT
            | register::NEXT_PAGE
            | register::GIGABIT_CONTROL
            | register::SPECIFIC_CONTROL
            | register::INTERRUPT_ENABLE
            | register::EXTENDED_CONTROL => self.registers[at] = value,
            _ if register::ANALOG.contains(&at) => self.registers[at] = value,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(phy: &mut Phy, at: u32) -> u16 {
        phy.write_mdic(VmTime(0), 1 << 27 | 1 << 21 | at << 16);
        assert_eq!(phy.mdic() >> 28 & 5, 1, "ready, no error");
        phy.mdic() as u16
    }

    #[test]
    fn identity_and_link_are_what_linux_looks_for() {
        let mut phy = Phy::new();
        assert_eq!((read(&mut phy, 2), read(&mut phy, 3)), (0x0141, 0x0c20));
        assert_eq!(read(&mut phy, 1) & 0x24, 0x24);
        assert_eq!(read(&mut phy, 17), 0xac00);
    }

    #[test]
    fn link_is_gone_while_it_is_negotiated() {
        for control in [0x1340, 0x9140] {
            let mut phy = Phy::new();
            phy.write_mdic(VmTime(0), 1 << 26 | 1 << 21 | control);
            assert_eq!(read(&mut phy, 0), 0x1140, "both bits clear themselves");
            assert_eq!(read(&mut phy, 1) & 0x24, 0);
            assert_eq!(phy.poll(VmTime(1)), Some(NEGOTIATION));
            assert_eq!(phy.poll(NEGOTIATION), None);
            assert_eq!(read(&mut phy, 1) & 0x24, 0x24);
        }
    }

    #[test]
    fn other_addresses_are_an_error_and_read_only_registers_stay() {
        let mut phy = Phy::new();
        assert!(!phy.write_mdic(VmTime(0), 1 << 27 | 2 << 21));
        assert_eq!(phy.mdic() >> 28 & 5, 5);
        for at in 0..32 {
            assert!(phy.write_mdic(VmTime(0), 1 << 29 | 1 << 26 | 1 << 21 | at << 16 | 0x0fff));
        }
        assert_eq!((read(&mut phy, 2), read(&mut phy, 3)), (0x0141, 0x0c20));
    }
}
