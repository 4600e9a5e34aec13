//! An instruction that the CPU executes for the emulator.

#[cfg(doc)]
use super::EmuCx;
use crate::fx::FxState;
use crate::regs::Gprs;

/// One instruction for [`EmuCx::execute`], with the registers that it sees and changes.
#[derive(Clone, Debug)]
pub struct NativeInsn {
    /// Its bytes, 64-bit code to be executed at [`CODE`](Self::CODE).
    pub code: [u8; 16],
    /// How many bytes it has, 1 to 15.
    pub len: usize,
    /// The general-purpose registers.
    pub gprs: Gprs,
    /// RFLAGS; only the arithmetic flags count.
    pub flags: u64,
    /// x87, MMX and SSE state. What is beyond it (the upper halves of the YMM registers) is in the CPU.
    pub fx: FxState,
    /// The memory operand.
    pub operand: [u8; Self::MOST],
    /// How many bytes it has.
    pub operand_len: usize,
}

impl NativeInsn {
    /// The linear address of the memory operand.
    pub const OPERAND: u64 = 0x3000_0000;
    /// The linear address of the instruction.
    pub const CODE: u64 = 0x3000_1000;
    /// The largest operand: an XSAVE area with AVX has 832 bytes.
    pub const MOST: usize = 1024;
}

/// What [`EmuCx::execute`] came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Executed {
    /// The instruction is done.
    Done,
    /// It raised this exception.
    Raised(u8),
    /// Something else wanted the CPU: nothing has been done.
    Interrupted,
    /// There is nothing that could execute it, or it did what it may not.
    Impossible,
}
