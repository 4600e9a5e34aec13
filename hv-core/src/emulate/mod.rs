//! The instruction emulator.
//!
//! It executes one instruction of the guest at a time ([`step`]) where the processor cannot: when memory is a device, when a
//! page is write-protected because a shadow page table was made from it, in real mode without unrestricted guest. It has a
//! fast path for string I/O ([`string_io`](fn@string_io)), delivers interrupts and exceptions ([`deliver`]), and answers the two questions that processors without next-RIP saving or decode
//! assists leave open: how long an intercepted instruction is ([`length`](fn@length)) and what a MOV to or from CR or DR moves
//! ([`mov_system`]).
//!
//! Decoding is iced-x86's, execution is ours. The CPU and memory are behind [`EmuCx`]; paging and the split between RAM and
//! devices are the implementor's.
//!
//! Promises:
//! * An instruction's bytes are fetched once.
//! * An instruction that does not complete leaves the guest's registers as they were; a repeated string instruction leaves
//!   them as after its last finished iteration, with RIP still on the instruction.
//! * A memory operand is read once and written once.
//! * Segmentation uses the hidden bases, limits and types, in every mode: "unreal" limits work.
//! * Privilege is checked here, by instruction; what a system register accepts is checked by the hooks of [`EmuCx`].
//!
//! What computes on x87, MMX, SSE and AVX registers is executed by the CPU itself: see `native`.
//!
//! Not implemented: gathers, 3DNow!, XOP (#UD, and a line in the log); VME's virtual-8086
//! interrupt redirection; the 66h prefix on 64-bit near branches as AMD has it.

mod alu;
mod arith;
mod cache;
mod call_gate;
mod control;
mod cx;
mod decode;
mod descriptor;
mod dispatch;
mod exec;
mod far;
mod fast_calls;
mod interrupt;
mod length;
mod mode;
mod moves;
mod native;
mod native_insn;
mod operand;
mod rewrite;
mod segment;
mod string_io;
mod strings;
mod system;
mod task;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod watching;
mod x87;
mod x87_state;

pub use cache::DecodeCache;
pub use cx::{AccessKind, EmuCx, EmuFault};
pub use interrupt::deliver;
pub use length::{Intercepted, MovSystem, SystemRegister, length, mov_system};
pub use mode::{Kind, Mode};
pub use native_insn::{Executed, NativeInsn};
pub use string_io::{StringIo, string_io};
pub use task::complete_task_switch;
pub use watching::{MAX_WATCHES, Touch, Watch, step_watching};

use cx::Res;
use exec::Exec;
use iced_x86::{Decoder, DecoderOptions};

/// What a completed [`step`] asks of the run loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StepKind {
    /// The instruction is done.
    Done,
    /// A repeated string instruction has done a bounded number of iterations and has more to do: RIP is still on it. Events
    /// may be delivered before it goes on.
    Again,
    /// HLT is done: the CPU is halted.
    Halt,
    /// INT n, INT3, INTO or INT1 in protected mode: nothing has been changed, RIP is on the instruction. [`deliver`] the event
    /// with the instruction's length.
    SoftwareInterrupt {
        /// The vector.
        vector: u8,
        /// Which instruction it was.
        kind: SoftInt,
        /// The instruction's length in bytes, 1 to 15.
        len: u8,
    },
}

/// The instructions that raise events, which differ in the checks of the gate's privilege level (SDM vol 3A 6.12.1.2,
/// "Protection of Exception- and Interrupt-Handler Procedures").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SoftInt {
    /// INT n.
    Int,
    /// INT3 or INTO: software exceptions.
    Exception,
    /// INT1 (ICEBP): a privileged software exception.
    Icebp,
}

/// The interrupt shadow that an instruction leaves (SDM vol 3A 6.8, "Enabling and Disabling Interrupts").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shadow {
    /// None: one that was there is over.
    None,
    /// STI set IF.
    Sti,
    /// SS was loaded by MOV or POP.
    MovSs,
}

/// The outcome of a [`step`] that did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// What is to be done next.
    pub kind: StepKind,
    /// The interrupt shadow from now on.
    pub shadow: Shadow,
    /// RFLAGS.TF was set when the instruction began: a single-step #DB (DR6.BS) is due after it.
    pub single_step: bool,
    /// It was an IRET: NMIs are no longer blocked.
    pub iret: bool,
    /// A task has been entered whose TSS has the debug trap flag: a #DB (DR6.BT) is due.
    pub task_trap: bool,
    /// The guest's own data and I/O breakpoints that it has met (DR6.B0 to B3), if somebody has [looked](step_watching): a #DB is due.
    pub breakpoints: u8,
}

impl Step {
    /// An ordinary instruction is done.
    pub const DONE: Self = Self {
        kind: StepKind::Done,
        shadow: Shadow::None,
        single_step: false,
        iret: false,
        task_trap: false,
        breakpoints: 0,
    };
}

/// Executes the instruction at RIP. A repeated string instruction does at most 4,096 iterations.
///
/// # Errors
/// The exception to deliver, [`EmuFault::Retry`] to enter the guest again, or [`EmuFault::Unsupported`]. The guest's state is
/// unchanged but for finished iterations.
pub fn step<C: EmuCx + ?Sized>(cx: &mut C) -> Result<Step, EmuFault> {
    let mode = Mode::of(cx);
    let mut exec = Exec::new(cx, mode);
    exec.decode()?;
    exec.execute()?;
    Ok(exec.commit())
}

/// Makes the decoder build its tables (about 340 KiB of heap), which it does at its first use: to be called once at start-up,
/// so that no exit has to wait or allocate for it.
pub fn warm_up() {
    let nop = [0x90];
    let _ = Decoder::new(64, &nop, DecoderOptions::NONE).decode();
}
