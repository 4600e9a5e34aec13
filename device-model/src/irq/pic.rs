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

/// The master's input that the slave's output is wired to.
const CASCADE: u8 = 2;
/// The input that a spurious interrupt claims to come from.
const SPURIOUS: u8 = 7;
/// Inputs whose ELCR bit exists: not 0, 1 and 2 of the master.
const MASTER_ELCR: u8 = 0xf8;
/// Inputs whose ELCR bit exists: not 8 and 13.
const SLAVE_ELCR: u8 = 0xde;

bitflags::bitflags! {
    /// The first initialization command word, with its place in the command port's encoding.
    #[derive(Clone, Copy)]
    struct Icw1: u8 {
        const IC4 = 1 << 0;
        const SNGL = 1 << 1;
        const INIT = 1 << 4;
    }

    /// The fourth initialization command word.
    #[derive(Clone, Copy)]
    struct Icw4: u8 {
        const AEOI = 1 << 1;
        const SFNM = 1 << 4;
    }

    /// The third operation command word.
    #[derive(Clone, Copy)]
    struct Ocw3: u8 {
        const RIS = 1 << 0;
        const RR = 1 << 1;
        const POLL = 1 << 2;
        const SELECT = 1 << 3;
        const SMM = 1 << 5;
        const ESMM = 1 << 6;
    }
}

/// What the next write to the data port is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Expect {
    #[default]
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// What an acknowledge cycle has changed in one 8259A.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Taken {
    input: u8,
    /// The in-service register before.
    isr: u8,
    /// The input that had the highest priority before.
    highest: u8,
}

/// One 8259A.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Pic {
    /// Interrupt request, in-service and mask registers.
    irr: u8,
    isr: u8,
    imr: u8,
    /// The levels of the inputs.
    lines: u8,
    /// Inputs that are level-triggered.
    elcr: u8,
    /// The vector of input 0.
    base: u8,
    /// The input of highest priority.
    highest: u8,
    expect: Expect,
    single: bool,
    wants_icw4: bool,
    auto_eoi: bool,
    rotate_on_auto_eoi: bool,
    special_mask: bool,
    special_nested: bool,
    read_isr: bool,
    poll: bool,
}

impl Pic {
    fn set(&mut self, input: u8, level: bool) {
        let bit = 1 << input;
        let was = self.lines & bit != 0;
        if level {
            self.lines |= bit;
            if !was {
                self.irr |= bit;
            }
        } else {
            self.lines &= !bit;
            self.irr &= !bit;
        }
    }

    /// The place of the most urgent input of `set` in the order of priority: 0 is the highest, 8 means that it is empty.
    fn rank(&self, set: u8) -> u32 {
        set.rotate_right(self.highest.into()).trailing_zeros()
    }

    /// The input that INT is asserted for. `cascaded` inputs do not block themselves in special fully nested mode.
    fn request(&self, cascaded: u8) -> Option<u8> {
        let wanted = self.rank(self.irr & !self.imr);
        if wanted == 8 {
            return None;
        }
        let mut blocking = self.isr;
        if self.special_mask {
            blocking &= !self.imr;
        }
        if self.special_nested {
            blocking &= !cascaded;
        }
        (wanted < self.rank(blocking)).then_some((wanted as u8).wrapping_add(self.highest) & 7)
    }

    /// The acknowledge cycle for `input`.
    fn take(&mut self, input: u8) -> Taken {
        let (isr, highest) = (self.isr, self.highest);
        let bit = 1 << input;
        if self.elcr & bit == 0 {
            self.irr &= !bit;
        }
        if !self.auto_eoi {
            self.isr |= bit;
        } else if self.rotate_on_auto_eoi {
            self.highest = (input + 1) & 7;
        }
        Taken {
            input,
            isr,
            highest,
        }
    }

    /// Undoes an acknowledge cycle. An edge is still there if its line is.
    fn give_back(&mut self, taken: Taken) {
        let bit = 1 << taken.input;
        self.isr = self.isr & !bit | taken.isr & bit;
        self.irr |= bit & self.lines;
        self.highest = taken.highest;
    }

    fn command(&mut self, value: u8) {
        if value & Icw1::INIT.bits() != 0 {
            let icw1 = Icw1::from_bits_truncate(value);
            *self = Self {
                irr: self.lines & self.elcr,
                lines: self.lines,
                elcr: self.elcr,
                base: self.base,
                expect: Expect::Icw2,
                single: icw1.contains(Icw1::SNGL),
                wants_icw4: icw1.contains(Icw1::IC4),
                ..Self::default()
            };
        } else if value & Ocw3::SELECT.bits() != 0 {
            let ocw3 = Ocw3::from_bits_truncate(value);
            self.poll = ocw3.contains(Ocw3::POLL);
            if ocw3.contains(Ocw3::RR) {
                self.read_isr = ocw3.contains(Ocw3::RIS);
            }
            if ocw3.contains(Ocw3::ESMM) {
                self.special_mask = ocw3.contains(Ocw3::SMM);
            }
        } else {
            self.end_of_interrupt(value >> 5, value & 7);
        }
    }

    /// The second operation command word: `command` is R, SL and EOI, `input` L2 to L0.
    fn end_of_interrupt(&mut self, command: u8, input: u8) {
        match command {
            0b000 => self.rotate_on_auto_eoi = false,
            0b100 => self.rotate_on_auto_eoi = true,
            0b001 | 0b101 => {
                let candidates = if self.special_mask {
                    self.isr & !self.imr
                } else {
                    self.isr
                };
                let rank = self.rank(candidates);
                if rank < 8 {
                    let served = (rank as u8 + self.highest) & 7;
                    self.isr &= !(1 << served);
                    if command == 0b101 {
                        self.highest = (served + 1) & 7;
                    }
                }
            }
            0b011 => self.isr &= !(1 << input),
            0b111 => {
                self.isr &= !(1 << input);
                self.highest = (input + 1) & 7;
            }
            0b110 => self.highest = (input + 1) & 7,
            _ => {}
        }
    }

    fn data(&mut self, value: u8) {
        match self.expect {
            Expect::Mask => self.imr = value,
            Expect::Icw2 => {
                self.base = value & 0xf8;
                self.expect = if !self.single {
                    Expect::Icw3
                } else if self.wants_icw4 {
                    Expect::Icw4
                } else {
                    Expect::Mask
                };
            }
            // The wiring of the cascade is fixed.
            Expect::Icw3 => {
                self.expect = if self.wants_icw4 {
                    Expect::Icw4
                } else {
                    Expect::Mask
                };
            }
            Expect::Icw4 => {
                let icw4 = Icw4::from_bits_truncate(value);
                self.auto_eoi = icw4.contains(Icw4::AEOI);
                self.special_nested = icw4.contains(Icw4::SFNM);
                self.expect = Expect::Mask;
            }
        }
    }

    fn read(&mut self, data: bool, cascaded: u8) -> u8 {
        if self.poll {
            self.poll = false;
            return match self.request(cascaded) {
                Some(input) => {
                    self.take(input);
                    0x80 | input
                }
                None => 0,
            };
        }
        match (data, self.read_isr) {
            (true, _) => self.imr,
            (false, true) => self.isr,
            (false, false) => self.irr,
        }
    }

    fn set_elcr(&mut self, value: u8) {
        self.elcr = value;
        self.irr = self.irr & !value | self.lines & value;
    }
}

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

#[cfg(test)]
mod tests {
    use super::{MASTER_ELCR, Pic, PicPair, SLAVE_ELCR};
    use hv_core::testing::Random;

    /// As Linux's `init_8259A` (vectors 30h and 38h), everything unmasked.
    fn linux(auto_eoi: bool) -> PicPair {
        let mut p = PicPair::default();
        let icw4 = if auto_eoi { 3 } else { 1 };
        for (port, value) in [
            (0x21, 0xff),
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 0x04),
            (0x21, icw4),
            (0xa0, 0x11),
            (0xa1, 0x38),
            (0xa1, 0x02),
            (0xa1, 1),
            (0x21, 0),
            (0xa1, 0),
        ] {
            p.write(port, value);
        }
        p
    }

    #[test]
    fn acknowledge_cycle_can_be_undone_in_every_mode() {
        let mut r = Random::new(0x8259);
        let (mut undone, mut cascaded) = (0, 0);
        for _ in 0..200_000 {
            let mut pic = |slave: bool| {
                let elcr = r.next() as u8 & if slave { SLAVE_ELCR } else { MASTER_ELCR };
                let lines = r.next() as u8;
                let auto_eoi = r.one_in(3);
                Pic {
                    irr: lines & (elcr | r.next() as u8),
                    isr: if auto_eoi {
                        0
                    } else {
                        (r.next() & r.next()) as u8
                    },
                    imr: (r.next() & r.next()) as u8,
                    lines,
                    elcr,
                    base: r.next() as u8 & 0xf8,
                    highest: r.below(8) as u8,
                    auto_eoi,
                    rotate_on_auto_eoi: r.one_in(2),
                    special_mask: r.one_in(4),
                    special_nested: r.one_in(2) && !slave,
                    ..Pic::default()
                }
            };
            let mut p = PicPair {
                master: pic(false),
                slave: pic(true),
                ..PicPair::default()
            };
            p.cascade();
            if !p.output() {
                continue;
            }
            let before = [p.master, p.slave];
            let vector = p.acknowledge();
            p.unacknowledge();
            assert_eq!([p.master, p.slave], before);
            assert_eq!(p.acknowledge(), vector);
            undone += 1;
            cascaded += u32::from(vector & 0xf8 == p.slave.base);
        }
        assert!(undone > 10_000 && cascaded > 1_000);
    }

    #[test]
    fn edge_whose_line_fell_is_forgotten_when_the_cycle_is_undone() {
        let mut p = linux(false);
        p.set(0, true);
        assert_eq!(p.acknowledge(), 0x30);
        p.set(0, false);
        p.unacknowledge();
        assert!(!p.output());
        assert_eq!(p.master.isr, 0);
    }

    #[test]
    fn edge_is_latched_and_taken_once() {
        let mut p = linux(false);
        p.set(0, true);
        assert!(p.output());
        assert_eq!(p.acknowledge(), 0x30);
        assert!(!p.output());
        p.write(0x20, 0x20);
        assert!(!p.output(), "a line that stays high is no new edge");
        p.set(0, false);
        p.set(0, true);
        assert!(p.output());
    }

    #[test]
    fn edge_is_forgotten_when_its_line_falls() {
        let mut p = linux(false);
        for irq in [1, 12] {
            p.set(irq, true);
            assert!(p.output());
            p.set(irq, false);
            assert!(!p.output(), "{irq}");
        }
    }

    #[test]
    fn masked_edge_is_kept_until_unmasked() {
        let mut p = linux(false);
        p.write(0x21, 0xff);
        p.set(1, true);
        assert!(!p.output());
        p.write(0x21, 0xfd);
        assert_eq!(p.acknowledge(), 0x31);
    }

    #[test]
    fn lower_priority_waits_for_the_specific_eoi() {
        let mut p = linux(false);
        p.set(1, true);
        assert_eq!(p.acknowledge(), 0x31);
        p.set(4, true);
        assert!(!p.output());
        p.set(0, true);
        assert_eq!(p.acknowledge(), 0x30, "higher priority nests");
        p.write(0x20, 0x60);
        assert!(!p.output());
        p.write(0x20, 0x61);
        assert_eq!(p.acknowledge(), 0x34);
    }

    #[test]
    fn slave_needs_eoi_at_both() {
        let mut p = linux(false);
        p.set(14, true);
        p.set(12, true);
        assert_eq!(p.acknowledge(), 0x3c);
        p.write(0xa0, 0x64);
        assert!(!p.output(), "the master's input 2 is in service");
        p.write(0x20, 0x62);
        assert_eq!(p.acknowledge(), 0x3e);
    }

    #[test]
    fn special_fully_nested_mode_lets_the_slave_nest() {
        let mut p = linux(false);
        for (port, value) in [
            (0x20, 0x11),
            (0x21, 0x30),
            (0x21, 4),
            (0x21, 0x11),
            (0x21, 0),
        ] {
            p.write(port, value);
        }
        p.set(12, true);
        assert_eq!(p.acknowledge(), 0x3c);
        p.set(8, true);
        assert_eq!(p.acknowledge(), 0x38);
    }

    #[test]
    fn level_input_follows_its_line() {
        let mut p = linux(false);
        p.write(0x4d1, 0xff);
        assert_eq!(p.read(0x4d1), 0xde);
        p.write(0x4d0, 0xff);
        assert_eq!(p.read(0x4d0), 0xf8);
        p.set(11, true);
        assert_eq!(p.acknowledge(), 0x3b);
        p.write(0xa0, 0x20);
        p.write(0x20, 0x20);
        assert!(p.output(), "still asserted");
        p.set(11, false);
        assert!(!p.output());
    }

    #[test]
    fn elcr_written_while_a_line_is_high_requests() {
        let mut p = linux(false);
        p.set(10, true);
        assert_eq!(p.acknowledge(), 0x3a);
        p.write(0xa0, 0x20);
        p.write(0x20, 0x20);
        assert!(!p.output());
        p.write(0x4d1, 0x0c);
        assert!(p.output());
    }

    #[test]
    fn acknowledge_without_request_is_spurious() {
        let mut p = linux(false);
        assert_eq!(p.acknowledge(), 0x37);
        p.write(0x20, 0x0b);
        assert_eq!(p.read(0x20), 0, "no in-service bit");
    }

    #[test]
    fn auto_eoi_leaves_nothing_in_service() {
        let mut p = linux(true);
        p.set(0, true);
        p.acknowledge();
        p.write(0x20, 0x0b);
        assert_eq!(p.read(0x20), 0);
    }

    #[test]
    fn rotation_makes_the_served_input_the_lowest() {
        let mut p = linux(false);
        p.set(3, true);
        assert_eq!(p.acknowledge(), 0x33);
        p.write(0x20, 0xa0);
        p.set(3, false);
        p.set(3, true);
        p.set(5, true);
        assert_eq!(p.acknowledge(), 0x35);
    }

    #[test]
    fn set_priority_is_the_lowest_input() {
        let mut p = linux(false);
        p.write(0x20, 0xc0 | 4);
        p.set(4, true);
        p.set(7, true);
        assert_eq!(p.acknowledge(), 0x37);
    }

    #[test]
    fn poll_acknowledges() {
        let mut p = linux(false);
        p.set(9, true);
        p.write(0x20, 0x0c);
        assert_eq!(p.read(0x20), 0x82);
        p.write(0xa0, 0x0c);
        assert_eq!(p.read(0xa0), 0x81);
        p.write(0xa0, 0x0c);
        assert_eq!(p.read(0xa0), 0);
    }

    #[test]
    fn special_mask_mode_unblocks_lower_inputs() {
        let mut p = linux(false);
        p.set(1, true);
        p.acknowledge();
        p.write(0x21, 0x02);
        p.set(6, true);
        assert!(!p.output());
        p.write(0x20, 0x68);
        assert_eq!(p.acknowledge(), 0x36);
    }

    #[test]
    fn icw1_clears_mask_service_and_edges_but_keeps_level_requests() {
        let mut p = linux(false);
        p.write(0x4d0, 0x20);
        p.set(5, true);
        p.set(4, true);
        p.write(0x21, 0xff);
        p.write(0x20, 0x13);
        assert_eq!(p.read(0x21), 0);
        assert_eq!(p.read(0x20), 0x20);
        p.write(0x21, 0x48);
        p.write(0x21, 1);
        assert_eq!(p.acknowledge(), 0x4d);
    }
}
