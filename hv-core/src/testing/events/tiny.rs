//! A processor in real mode with a dozen instructions, all segments at 0.

use crate::Gpa;
use crate::emulate::Shadow;
use crate::mem::GuestMemory;
use crate::testing::VecMemory;

/// RFLAGS.IF.
const IF: u16 = 1 << 9;

/// An instruction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Insn {
    Nop,
    Sti,
    Cli,
    /// MOV SS, AX with 0 in AX.
    MovSs,
    Hlt,
    Iret,
    Int1,
    /// INT1 with a prefix.
    LongInt1,
    Int3,
    /// INT 40h.
    IntN,
    Ud2,
    /// Raises #GP: the virtual CPU has no counters.
    Rdpmc,
    Cpuid,
    /// OUT to [`Chip::MASK`](super::Chip::MASK).
    OutMask,
    /// OUT to [`Chip::MOVE`](super::Chip::MOVE).
    OutMove,
}

impl Insn {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Nop,
        Self::Sti,
        Self::Cli,
        Self::MovSs,
        Self::Hlt,
        Self::Iret,
        Self::Int1,
        Self::LongInt1,
        Self::Int3,
        Self::IntN,
        Self::Ud2,
        Self::Rdpmc,
        Self::Cpuid,
        Self::OutMask,
        Self::OutMove,
    ];

    /// Its encoding.
    #[must_use]
    pub const fn bytes(self) -> &'static [u8] {
        match self {
            Self::Nop => &[0x90],
            Self::Sti => &[0xfb],
            Self::Cli => &[0xfa],
            Self::MovSs => &[0x8e, 0xd0],
            Self::Hlt => &[0xf4],
            Self::Iret => &[0xcf],
            Self::Int1 => &[0xf1],
            Self::LongInt1 => &[0x66, 0xf1],
            Self::Int3 => &[0xcc],
            Self::IntN => &[0xcd, 0x40],
            Self::Ud2 => &[0x0f, 0x0b],
            Self::Rdpmc => &[0x0f, 0x33],
            Self::Cpuid => &[0x0f, 0xa2],
            Self::OutMask => &[0xe6, super::Chip::MASK as u8],
            Self::OutMove => &[0xe6, super::Chip::MOVE as u8],
        }
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn length(self) -> u16 {
        self.bytes().len() as u16
    }

    /// The vector that it raises and whether that returns behind it, if it raises one.
    #[must_use]
    pub const fn raises(self) -> Option<(u8, bool)> {
        Some(match self {
            Self::Int1 | Self::LongInt1 => (1, true),
            Self::Int3 => (3, true),
            Self::IntN => (0x40, true),
            Self::Ud2 => (6, false),
            Self::Rdpmc => (13, false),
            _ => return None,
        })
    }
}

/// The registers that events have to do with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tiny {
    /// IP.
    pub ip: u16,
    /// SP.
    pub sp: u16,
    /// FLAGS.
    pub flags: u16,
    /// What the last instruction left.
    pub shadow: Shadow,
}

impl Tiny {
    /// FLAGS.IF.
    #[must_use]
    pub const fn interrupts_enabled(&self) -> bool {
        self.flags & IF != 0
    }

    /// Whether an interrupt can be taken before the next instruction.
    #[must_use]
    pub fn interruptible(&self) -> bool {
        self.interrupts_enabled() && self.shadow == Shadow::None
    }

    /// Delivers `vector` through the vector table. The handler returns to `back`.
    pub fn deliver(&mut self, memory: &VecMemory, vector: u8, back: u16) {
        for value in [self.flags, 0, back] {
            self.sp -= 2;
            let bytes = value.to_le_bytes();
            memory.write(Gpa(self.sp.into()), &bytes).expect("a stack");
        }
        self.flags &= !IF;
        self.ip = memory
            .read_u16(Gpa(4 * u64::from(vector)))
            .expect("a vector table");
        self.shadow = Shadow::None;
    }

    /// The instruction at IP.
    #[must_use]
    pub fn fetch(&self, memory: &VecMemory) -> Insn {
        let mut bytes = [0; 2];
        memory
            .read(Gpa(self.ip.into()), &mut bytes)
            .expect("code lies in RAM");
        *Insn::ALL
            .iter()
            .find(|i| bytes.starts_with(i.bytes()))
            .expect("an instruction of ours")
    }

    /// Executes `insn`, which is at IP. HLT and OUT do no more than end.
    pub fn execute(&mut self, memory: &VecMemory, insn: Insn) {
        let next = self.ip + insn.length();
        if let Some((vector, behind)) = insn.raises() {
            let back = if behind { next } else { self.ip };
            return self.deliver(memory, vector, back);
        }
        self.ip = next;
        self.shadow = Shadow::None;
        match insn {
            Insn::Sti => {
                if !self.interrupts_enabled() {
                    self.shadow = Shadow::Sti;
                }
                self.flags |= IF;
            }
            Insn::Cli => self.flags &= !IF,
            Insn::MovSs => self.shadow = Shadow::MovSs,
            Insn::Iret => {
                let mut pop = || {
                    let value = memory.read_u16(Gpa(self.sp.into())).expect("a stack");
                    self.sp += 2;
                    value
                };
                self.ip = pop();
                pop();
                self.flags = pop() | 2;
            }
            _ => {}
        }
    }
}
