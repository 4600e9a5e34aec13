//! What a debugger sees of a virtual CPU and asks of it. The run loop's part is in `vcpu::debugger`.

mod breaks;
mod why;

pub use breaks::Breaks;
pub use why::{Seen, Why};

use crate::fx::FxState;
use crate::regs::{Gprs, SegReg, Segment, SysReg};
use crate::{Gva, sentence};
use alloc::string::String;

/// The system registers that a debugger sees.
pub const SYSTEM: [SysReg; 19] = [
    SysReg::Cr0,
    SysReg::Cr2,
    SysReg::Cr3,
    SysReg::Cr4,
    SysReg::Efer,
    SysReg::Dr0,
    SysReg::Dr1,
    SysReg::Dr2,
    SysReg::Dr3,
    SysReg::Dr6,
    SysReg::Dr7,
    SysReg::Pat,
    SysReg::Star,
    SysReg::Lstar,
    SysReg::Cstar,
    SysReg::Sfmask,
    SysReg::KernelGsBase,
    SysReg::SysenterEsp,
    SysReg::SysenterEip,
];

/// All registers of a virtual CPU that a debugger sees.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Registers {
    /// The general registers, RSP included.
    pub gprs: Gprs,
    /// RIP: the offset in CS.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// The segment registers with their hidden parts, by [`SegReg`].
    pub segments: [Segment; SegReg::ALL.len()],
    /// Those of [`SYSTEM`].
    pub system: [u64; SYSTEM.len()],
    /// CR8, the task priority.
    pub cr8: u64,
    /// x87 and SSE.
    pub fx: FxState,
    /// Whether the CPU is in 64-bit mode, where CS has no base.
    pub is_64: bool,
}

impl Registers {
    /// A segment register.
    #[must_use]
    pub fn segment(&self, seg: SegReg) -> Segment {
        self.segments.get(seg as usize).copied().unwrap_or_default()
    }

    /// What CS adds to RIP.
    #[must_use]
    pub fn code_base(&self) -> u64 {
        match self.is_64 {
            true => 0,
            false => self.segment(SegReg::Cs).base,
        }
    }

    /// The linear address of the next instruction.
    #[must_use]
    pub fn pc(&self) -> u64 {
        let pc = self.code_base().wrapping_add(self.rip);
        match self.is_64 {
            true => pc,
            false => pc & 0xffff_ffff,
        }
    }
}

/// What a debugger waits for at an address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PointKind {
    /// An instruction there is about to be executed.
    Execute,
    /// An instruction has changed what is there.
    Write,
    /// An instruction has read something there.
    Read,
    /// An instruction has read or written something there, whether that has changed it or not.
    Access,
}

/// A breakpoint or a watchpoint at a linear address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Point {
    /// What is waited for.
    pub kind: PointKind,
    /// Where.
    pub at: Gva,
    /// The number of bytes, 1 to [`WIDEST`].
    pub len: usize,
}

/// Breakpoints and watchpoints of a virtual machine at most: each page that they lie in is taken from the guest's map.
pub const MAX_POINTS: usize = 64;

/// Bytes of a watchpoint at most.
pub const WIDEST: usize = 64;

/// Why a virtual CPU stopped for a debugger.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DebugStop {
    /// The instruction that was to be stepped over is done, or an event has been delivered in its place.
    Step,
    /// It is at a breakpoint.
    Breakpoint,
    /// It has done what this watchpoint waits for.
    Watchpoint(Point),
    /// One of its [`Breaks`] that is no address has come.
    Event,
}

/// A register that a debugger may not set so, in words.
pub fn refused(what: &str) -> String {
    sentence::sentence(format_args!("{what} cannot have this value"))
}
