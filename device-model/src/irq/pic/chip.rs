//! One 8259A: its registers, command words, priorities and acknowledge cycle.

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
pub(super) enum Expect {
    #[default]
    Mask,
    Icw2,
    Icw3,
    Icw4,
}

/// What an acknowledge cycle has changed in one 8259A.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Taken {
    pub(super) input: u8,
    /// The in-service register before.
    pub(super) isr: u8,
    /// The input that had the highest priority before.
    pub(super) highest: u8,
}

/// One 8259A.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Pic {
    /// Interrupt request, in-service and mask registers.
    pub(super) irr: u8,
    pub(super) isr: u8,
    pub(super) imr: u8,
    /// The levels of the inputs.
    pub(super) lines: u8,
    /// Inputs that are level-triggered.
    pub(super) elcr: u8,
    /// The vector of input 0.
    pub(super) base: u8,
    /// The input of highest priority.
    pub(super) highest: u8,
    pub(super) expect: Expect,
    pub(super) single: bool,
    pub(super) wants_icw4: bool,
    pub(super) auto_eoi: bool,
    pub(super) rotate_on_auto_eoi: bool,
    pub(super) special_mask: bool,
    pub(super) special_nested: bool,
    pub(super) read_isr: bool,
    pub(super) poll: bool,
}

impl Pic {
    pub(super) fn set(&mut self, input: u8, level: bool) {
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
    pub(super) fn request(&self, cascaded: u8) -> Option<u8> {
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
    pub(super) fn take(&mut self, input: u8) -> Taken {
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
    pub(super) fn give_back(&mut self, taken: Taken) {
        let bit = 1 << taken.input;
        self.isr = self.isr & !bit | taken.isr & bit;
        self.irr |= bit & self.lines;
        self.highest = taken.highest;
    }

    pub(super) fn command(&mut self, value: u8) {
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

    pub(super) fn data(&mut self, value: u8) {
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

    pub(super) fn read(&mut self, data: bool, cascaded: u8) -> u8 {
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

    pub(super) fn set_elcr(&mut self, value: u8) {
        self.elcr = value;
        self.irr = self.irr & !value | self.lines & value;
    }
}
