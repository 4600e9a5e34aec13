//! The processor without a hypervisor.

use super::{Chip, Insn, Tiny};
use crate::emulate::Shadow;
use crate::irq::InterruptController;
use crate::testing::VecMemory;
use alloc::vec::Vec;

/// The processor, and the chip that interrupts it.
pub struct Bare {
    /// The registers.
    pub cpu: Tiny,
    /// Memory.
    pub memory: VecMemory,
    /// The chip. Its NMI is pending until it is taken.
    pub chip: Chip,
    /// HLT has been executed, and nothing has come since.
    pub halted: bool,
    /// An NMI has been taken, and IRET not been executed since.
    pub nmi_blocked: bool,
    /// For each handler that has not returned, the IF to which it returns.
    pub frames: Vec<bool>,
}

impl Bare {
    /// One step: an event is taken, or else the instruction at IP executed unless the processor has halted.
    pub fn step(&mut self) {
        if self.chip.nmi && !self.nmi_blocked && self.cpu.shadow == Shadow::None {
            self.chip.nmi = false;
            self.nmi_blocked = true;
            return self.take(2);
        }
        if self.cpu.interruptible()
            && let Some(vector) = self.chip.acknowledge()
        {
            return self.take(vector);
        }
        if self.halted {
            return;
        }
        let insn = self.cpu.fetch(&self.memory);
        if insn.raises().is_some() {
            self.frames.push(self.cpu.interrupts_enabled());
        }
        self.cpu.execute(&self.memory, insn);
        match insn {
            Insn::Hlt => self.halted = true,
            Insn::OutMask => self.chip.out(Chip::MASK),
            Insn::OutMove => self.chip.out(Chip::MOVE),
            Insn::Iret => {
                self.frames.pop();
                self.nmi_blocked = false;
            }
            _ => {}
        }
    }

    fn take(&mut self, vector: u8) {
        self.halted = false;
        self.frames.push(self.cpu.interrupts_enabled());
        let back = self.cpu.ip;
        self.cpu.deliver(&self.memory, vector, back);
    }
}
