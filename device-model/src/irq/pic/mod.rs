//! Intel 8259A programmable interrupt controllers (datasheet 231468), a master and a slave as the PIIX3 has them, with its
//! edge/level control registers (82371SB datasheet 2.5.3.9, "ELCR1, ELCR2").
//!
//! All operation command words, polling, automatic EOI, rotation, special mask and special fully nested mode work. Not
//! implemented: the LTIM bit of ICW1 (as in the PIIX3, the ELCR decides), 8080 mode, buffered mode.
//!
//! An edge is forgotten when its line falls before the acknowledge cycle: the request input must stay high until then
//! (datasheet, "Edge and Level Triggered Modes"). Firmware relies on it: it polls the keyboard controller with interrupts off,
//! and an interrupt for a byte that it has read already would come late and take the next one. Where the line falls between
//! INT and the acknowledge cycle, a real 8259A answers with a spurious IRQ 7 or 15; here the two happen at once, so none does.
//!
//! Invariant: bit 2 of the master's IRR is the slave's output.

mod chip;
#[cfg(test)]
mod tests;

use self::chip::{Pic, Taken};

/// The master's input that the slave's output is wired to.
const CASCADE: u8 = 2;
/// The input that a spurious interrupt claims to come from.
const SPURIOUS: u8 = 7;
/// Inputs whose ELCR bit exists: not 0, 1 and 2 of the master.
const MASTER_ELCR: u8 = 0xf8;
/// Inputs whose ELCR bit exists: not 8 and 13.
const SLAVE_ELCR: u8 = 0xde;

/// The master and the slave.
#[derive(Default)]
pub(super) struct PicPair {
    master: Pic,
    slave: Pic,
    /// What the last acknowledge cycle has changed in the master and the slave.
    taken: [Option<Taken>; 2],
}

/// Which register of the pair a port is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Register {
    Command,
    Data,
    Elcr,
}

fn decode(port: u16) -> Option<(Register, bool)> {
    Some(match port {
        0x20 => (Register::Command, false),
        0x21 => (Register::Data, false),
        0xa0 => (Register::Command, true),
        0xa1 => (Register::Data, true),
        0x4d0 => (Register::Elcr, false),
        0x4d1 => (Register::Elcr, true),
        _ => return None,
    })
}

impl PicPair {
    /// Power-on; the inputs keep their levels, which are the devices' business.
    pub(super) fn reset(&mut self) {
        self.taken = [None; 2];
        for pic in [&mut self.master, &mut self.slave] {
            *pic = Pic {
                lines: pic.lines,
                ..Pic::default()
            };
        }
    }

    /// Sets input `irq` (0 to 15; 2 is the cascade and not connected).
    pub(super) fn set(&mut self, irq: u8, level: bool) {
        match irq {
            CASCADE => {}
            0..8 => self.master.set(irq, level),
            8..16 => {
                self.slave.set(irq - 8, level);
                self.cascade();
            }
            _ => {}
        }
    }

    /// The master's INT output.
    pub(super) fn output(&self) -> bool {
        self.master.request(1 << CASCADE).is_some()
    }

    /// The interrupt-acknowledge cycle: the vector, which is a spurious one if nothing is requested.
    pub(super) fn acknowledge(&mut self) -> u8 {
        let Some(input) = self.master.request(1 << CASCADE) else {
            self.taken = [None; 2];
            return self.master.base | SPURIOUS;
        };
        let master = self.master.take(input);
        if input != CASCADE {
            self.taken = [Some(master), None];
            return self.master.base | input;
        }
        let input = self.slave.request(0);
        let slave = input.map(|input| self.slave.take(input));
        self.taken = [Some(master), slave];
        self.cascade();
        self.slave.base | input.unwrap_or(SPURIOUS)
    }

    /// Undoes the last acknowledge cycle: what it took is requested again.
    pub(super) fn unacknowledge(&mut self) {
        let [master, slave] = core::mem::take(&mut self.taken);
        if let Some(taken) = slave {
            self.slave.give_back(taken);
        }
        if let Some(taken) = master {
            self.master.give_back(taken);
        }
        self.cascade();
    }

    /// Reads a port of the pair; others read all ones.
    pub(super) fn read(&mut self, port: u16) -> u8 {
        let Some((register, slave)) = decode(port) else {
            return 0xff;
        };
        let (pic, cascaded) = self.chip(slave);
        let value = match register {
            Register::Command => pic.read(false, cascaded),
            Register::Data => pic.read(true, cascaded),
            Register::Elcr => pic.elcr,
        };
        // A poll is an acknowledge cycle.
        self.cascade();
        value
    }

    /// Writes a port of the pair.
    pub(super) fn write(&mut self, port: u16, value: u8) {
        let Some((register, slave)) = decode(port) else {
            return;
        };
        let (pic, _) = self.chip(slave);
        match register {
            Register::Command => pic.command(value),
            Register::Data => pic.data(value),
            Register::Elcr => pic.set_elcr(value & if slave { SLAVE_ELCR } else { MASTER_ELCR }),
        }
        self.cascade();
    }

    fn chip(&mut self, slave: bool) -> (&mut Pic, u8) {
        if slave {
            (&mut self.slave, 0)
        } else {
            (&mut self.master, 1 << CASCADE)
        }
    }

    fn cascade(&mut self) {
        if self.slave.request(0).is_some() {
            self.master.irr |= 1 << CASCADE;
        } else {
            self.master.irr &= !(1 << CASCADE);
        }
    }
}
