//! An interrupt chip with two edge-triggered inputs and automatic end of interrupt.

use crate::device::{AccessSize, DevCx, Device};
use crate::irq::{Attention, InterruptController};

/// The chip, and the NMI line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Chip {
    /// Inputs that have had an edge.
    pub requested: [bool; 2],
    /// Whether all inputs are masked.
    pub masked: bool,
    /// Whether the vectors begin at 58h, not at 50h.
    pub moved: bool,
    /// An NMI has arrived.
    pub nmi: bool,
}

impl Chip {
    /// The port that masks the inputs, or unmasks them.
    pub const MASK: u16 = 0x60;
    /// The port that moves the vectors.
    pub const MOVE: u16 = 0x61;

    /// A write to one of the ports.
    pub fn out(&mut self, port: u16) {
        match port {
            Self::MASK => self.masked = !self.masked,
            _ => self.moved = !self.moved,
        }
    }

    const fn base(&self) -> u8 {
        if self.moved { 0x58 } else { 0x50 }
    }

    /// Whether an interrupt is requested and not masked.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.masked && self.requested != [false; 2]
    }
}

impl Device for Chip {
    fn name(&self) -> &'static str {
        "chip"
    }
    fn port_write(&mut self, _cx: &mut DevCx<'_>, port: u16, _size: AccessSize, _value: u32) {
        self.out(port);
    }
}

impl InterruptController for Chip {
    fn attention(&mut self) -> Attention {
        let mut a = Attention::NONE;
        a.set(Attention::INTERRUPT, self.waits());
        a.set(Attention::NMI, self.nmi);
        a
    }
    fn acknowledge(&mut self) -> Option<u8> {
        let input = (0..2).find(|&n| self.waits() && self.requested[usize::from(n)])?;
        self.requested[usize::from(input)] = false;
        Some(self.base() + input)
    }
    fn unacknowledge(&mut self, vector: u8) {
        self.requested[usize::from(vector & 1)] = true;
    }
    fn take_nmi(&mut self) -> bool {
        core::mem::take(&mut self.nmi)
    }
    fn cr8(&self) -> u8 {
        0
    }
    fn set_cr8(&mut self, _value: u8) {}
    fn apic_base(&self) -> u64 {
        0xfee0_0900
    }
    fn set_apic_base(&mut self, _value: u64) -> bool {
        true
    }
}
