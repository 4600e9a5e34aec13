//! What the emulator needs of its surroundings, and how it says that something went wrong.

use super::{DecodeCache, Executed, NativeInsn};
use crate::Gva;
use crate::device::AccessSize;
use crate::event::vector;
use crate::fx::FxState;
use crate::regs::{Gprs, Rflags, SegReg, Segment, SysReg};

/// Why an instruction was not carried out. The guest's registers and RIP are as before it (or, for a repeated string
/// instruction, as after its last finished iteration).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EmuFault {
    /// The instruction raises an exception. `cr2` is to be written before it is delivered.
    Exception {
        /// The vector, 0 to 31.
        vector: u8,
        /// The error code, for vectors that have one and modes that push it.
        error: Option<u32>,
        /// The faulting linear address of a page fault.
        cr2: Option<u64>,
    },
    /// Nothing is wrong: let the guest execute the instruction again (another CPU won a race, a page had to be made).
    Retry,
    /// The emulator does not know how to do this.
    Unsupported(&'static str),
}

/// Something failed; see [`EmuFault`].
pub(super) type Res<T> = Result<T, EmuFault>;

impl EmuFault {
    /// #UD.
    pub const UD: Self = Self::Exception {
        vector: vector::UD,
        error: None,
        cr2: None,
    };
    /// #DE.
    pub const DE: Self = Self::Exception {
        vector: vector::DE,
        error: None,
        cr2: None,
    };
    /// #NM.
    pub const NM: Self = Self::Exception {
        vector: vector::NM,
        error: None,
        cr2: None,
    };
    /// #GP(0) as delivered outside real mode.
    pub const GP0: Self = Self::Exception {
        vector: vector::GP,
        error: Some(0),
        cr2: None,
    };
}

/// What a memory access is for, which decides the rights it needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AccessKind {
    /// An instruction's own access, with the rights of the current privilege level.
    Data,
    /// A read, with the rights of the current privilege level, of what the same instruction will write: a page that may not
    /// be written faults already here, as a write.
    Update,
    /// An access to a descriptor table or task state, with supervisor rights at any privilege level (SDM vol 3A 4.6, "Access
    /// Rights": implicit supervisor-mode accesses).
    System,
    /// Likewise a read of what will be written: a page that may not be written faults already here, as a write.
    SystemUpdate,
}

/// The CPU and the machine as the emulator sees them. The run loop implements it over the vendor's backend.
///
/// Memory is addressed by linear address: segmentation has been done, paging has not. Every access is one contiguous range
/// that does not wrap and has 1 to 1,024 bytes, or more where [`ram_run`](EmuCx::ram_run) has said that it is RAM; it may cross a
/// page. Whether it ends in RAM or at a device, and how a device that takes at most 8 bytes gets more, is the implementor's
/// business. An access that returns an error must have had no effect.
#[allow(unused_variables)]
pub trait EmuCx {
    /// The general-purpose registers.
    fn gprs(&self) -> &Gprs;
    /// The general-purpose registers, to be changed.
    fn gprs_mut(&mut self) -> &mut Gprs;
    /// RIP.
    fn rip(&self) -> u64;
    /// Writes RIP.
    fn set_rip(&mut self, rip: u64);
    /// RFLAGS.
    fn rflags(&self) -> Rflags;
    /// Writes RFLAGS.
    fn set_rflags(&mut self, rflags: Rflags);
    /// A segment register with its hidden part. An unusable segment has no [`SegAttr::P`](crate::regs::SegAttr::P).
    fn segment(&self, seg: SegReg) -> Segment;
    /// Writes a segment register with its hidden part.
    fn set_segment(&mut self, seg: SegReg, value: Segment);
    /// A system register.
    fn sysreg(&self, reg: SysReg) -> u64;
    /// The current privilege level, 0 to 3: 0 in real mode, 3 in virtual-8086 mode.
    fn cpl(&self) -> u8;
    /// Changes the current privilege level (a far return or IRET did). Nothing to do where it follows from SS.
    fn set_cpl(&mut self, cpl: u8);

    /// Reads memory.
    ///
    /// # Errors
    /// The page fault or other reason why nothing was read.
    fn read(&mut self, linear: Gva, buf: &mut [u8], kind: AccessKind) -> Result<(), EmuFault>;

    /// Writes memory.
    ///
    /// # Errors
    /// The page fault or other reason why nothing was written.
    fn write(&mut self, linear: Gva, buf: &[u8], kind: AccessKind) -> Result<(), EmuFault>;

    /// Reads a value of `size` (1, 2, 4 or 8) bytes.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    fn read_value(&mut self, linear: Gva, size: usize, kind: AccessKind) -> Result<u64, EmuFault> {
        let mut b = [0; 8];
        self.read(linear, b.get_mut(..size).unwrap_or_default(), kind)?;
        Ok(u64::from_le_bytes(b))
    }

    /// Writes a value of `size` (1, 2, 4 or 8) bytes.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn write_value(
        &mut self,
        linear: Gva,
        size: usize,
        value: u64,
        kind: AccessKind,
    ) -> Result<(), EmuFault> {
        let b = value.to_le_bytes();
        self.write(linear, b.get(..size).unwrap_or_default(), kind)
    }

    /// Checks that a [`write`](Self::write) of `len` bytes with [`AccessKind::Data`] would not fault, without doing it. Called
    /// before something with side effects (a port or device is read) whose result goes there.
    ///
    /// # Errors
    /// The fault that the write would raise.
    fn check_write(&mut self, linear: Gva, len: usize) -> Result<(), EmuFault>;

    /// Reads up to `buf.len()` instruction bytes and returns how many: at least 1, fewer than asked for if the next page
    /// cannot be fetched from.
    ///
    /// # Errors
    /// The page fault at the first byte.
    fn fetch(&mut self, linear: Gva, buf: &mut [u8]) -> Result<usize, EmuFault>;

    /// The 16 bytes at `linear`, which do not cross a page, if they are certainly plain RAM that can be fetched without a fault.
    fn fetch_block(&mut self, linear: Gva) -> Option<u128> {
        None
    }

    /// Where decoded instructions are remembered, if anywhere.
    fn decoded(&mut self) -> Option<&mut DecodeCache> {
        None
    }

    /// Replaces `size` (1, 2, 4, 8 or 16) bytes by what `change` makes of them, as a LOCKed instruction does: no other CPU reaches them in between. A device is
    /// read once and written once. For RAM `change` may be called again.
    ///
    /// # Errors
    /// As [`write`](Self::write); or [`EmuFault::Retry`], if other CPUs were faster again and again.
    fn update(
        &mut self,
        linear: Gva,
        size: usize,
        kind: AccessKind,
        change: &mut dyn FnMut(u128) -> u128,
    ) -> Result<(), EmuFault>;

    /// How many of the `len` bytes from `linear` on are certainly plain RAM that can be read (or written) without a fault;
    /// 0 if unknown. String instructions move such a run in one access.
    fn ram_run(&mut self, linear: Gva, len: usize, write: bool) -> usize {
        0
    }

    /// Reads `buf.len() / size` consecutive elements of `size` bytes within one page, low address first, each as one access.
    ///
    /// # Errors
    /// As [`read`](Self::read); no element has been read then.
    fn read_block(&mut self, linear: Gva, size: usize, buf: &mut [u8]) -> Result<(), EmuFault> {
        let mut at = linear;
        for chunk in buf.chunks_mut(size.max(1)) {
            self.read(at, chunk, AccessKind::Data)?;
            at = at.add(chunk.len() as u64);
        }
        Ok(())
    }

    /// Writes `buf.len() / size` consecutive elements of `size` bytes within one page, low address first, each as one access.
    ///
    /// # Errors
    /// As [`write`](Self::write); no element has been written then.
    fn write_block(&mut self, linear: Gva, size: usize, buf: &[u8]) -> Result<(), EmuFault> {
        let mut at = linear;
        for chunk in buf.chunks(size.max(1)) {
            self.write(at, chunk, AccessKind::Data)?;
            at = at.add(chunk.len() as u64);
        }
        Ok(())
    }

    /// Whether a repeated string instruction is to do its iterations one by one.
    fn iterates_singly(&self) -> bool {
        false
    }

    /// Whether it is to end behind this iteration.
    fn ends_repetition(&self) -> bool {
        false
    }

    /// The x87 and SSE state.
    fn fx(&self) -> &FxState;
    /// The x87 and SSE state, to be changed.
    fn fx_mut(&mut self) -> &mut FxState;

    /// Reads a port. The guest's right to do so has been checked.
    fn port_in(&mut self, port: u16, size: AccessSize) -> u32;
    /// Writes a port.
    fn port_out(&mut self, port: u16, size: AccessSize, value: u32);
    /// Reads a port `buf.len() / size` times in a row.
    fn port_in_block(&mut self, port: u16, size: AccessSize, buf: &mut [u8]) {
        for chunk in buf.chunks_mut(size.bytes()) {
            let value = self.port_in(port, size).to_le_bytes();
            chunk
                .iter_mut()
                .zip(value)
                .for_each(|(to, from)| *to = from);
        }
    }
    /// Writes a port `buf.len() / size` times in a row.
    fn port_out_block(&mut self, port: u16, size: AccessSize, buf: &[u8]) {
        for chunk in buf.chunks(size.bytes()) {
            let mut value = [0; 4];
            value
                .iter_mut()
                .zip(chunk)
                .for_each(|(to, from)| *to = *from);
            self.port_out(port, size, u32::from_le_bytes(value));
        }
    }

    /// Has the CPU execute one instruction on registers and memory of its own; what it changes there is the outcome. Only with
    /// [`Executed::Done`], and for SSE exceptions, does it count.
    fn execute(&mut self, insn: &mut NativeInsn) -> Executed {
        Executed::Impossible
    }
    /// XCR0, the extended-state enable mask.
    fn xcr0(&self) -> u64 {
        1
    }
    /// XSETBV; privilege checked, the value not.
    ///
    /// # Errors
    /// The exception to raise, or not implemented.
    fn set_xcr0(&mut self, value: u64) -> Result<(), EmuFault> {
        Err(EmuFault::Unsupported("XSETBV"))
    }

    /// CPUID: EAX, EBX, ECX, EDX for `leaf` and `subleaf`.
    ///
    /// # Errors
    /// The exception to raise, or not implemented.
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], EmuFault> {
        Err(EmuFault::Unsupported("CPUID"))
    }
    /// RDMSR, privilege checked.
    ///
    /// # Errors
    /// The exception to raise, or not implemented.
    fn read_msr(&mut self, msr: u32) -> Result<u64, EmuFault> {
        Err(EmuFault::Unsupported("RDMSR"))
    }
    /// WRMSR, privilege checked.
    ///
    /// # Errors
    /// The exception to raise, or not implemented.
    fn write_msr(&mut self, msr: u32, value: u64) -> Result<(), EmuFault> {
        Err(EmuFault::Unsupported("WRMSR"))
    }
    /// MOV from control register `cr` (0 to 15), SMSW; privilege checked.
    ///
    /// # Errors
    /// The exception to raise, or not implemented.
    fn read_cr(&mut self, cr: u8) -> Result<u64, EmuFault> {
        match cr {
            0 => Ok(self.sysreg(SysReg::Cr0)),
            2 => Ok(self.sysreg(SysReg::Cr2)),
            3 => Ok(self.sysreg(SysReg::Cr3)),
            4 => Ok(self.sysreg(SysReg::Cr4)),
            _ => Err(EmuFault::Unsupported("MOV from CR")),
        }
    }
    /// MOV to control register `cr` (0 to 15), LMSW, CLTS; privilege checked, the value not.
    ///
    /// # Errors
    /// The exception to raise, or not implemented.
    fn write_cr(&mut self, cr: u8, value: u64) -> Result<(), EmuFault> {
        Err(EmuFault::Unsupported("MOV to CR"))
    }
    /// MOV from debug register `dr` (0 to 3, 6, 7); privilege and CR4.DE checked, DR7.GD not.
    ///
    /// # Errors
    /// The exception to raise, or not implemented.
    fn read_dr(&mut self, dr: u8) -> Result<u64, EmuFault> {
        Err(EmuFault::Unsupported("MOV from DR"))
    }
    /// MOV to debug register `dr` (0 to 3, 6, 7); privilege and CR4.DE checked, DR7.GD not.
    ///
    /// # Errors
    /// The exception to raise, or not implemented.
    fn write_dr(&mut self, dr: u8, value: u64) -> Result<(), EmuFault> {
        Err(EmuFault::Unsupported("MOV to DR"))
    }
    /// RDTSC (CR4.TSD checked): the guest's time-stamp counter.
    ///
    /// # Errors
    /// Not implemented.
    fn rdtsc(&mut self) -> Result<u64, EmuFault> {
        Err(EmuFault::Unsupported("RDTSC"))
    }
    /// Checks what a task switch is about to load into CR3.
    ///
    /// # Errors
    /// The exception that loading it raises.
    fn check_cr3(&mut self, cr3: u64) -> Result<(), EmuFault> {
        Ok(())
    }
    /// What a task switch does to the system registers: CR3 is loaded, if it is given (and has been checked), CR0.TS set, and
    /// DR7's local breakpoints are disabled (SDM vol 3A 8.3, "Task Switching").
    fn enter_task(&mut self, cr3: Option<u64>) {}
    /// INVLPG; privilege checked.
    ///
    /// # Errors
    /// Not implemented.
    fn invlpg(&mut self, linear: Gva) -> Result<(), EmuFault> {
        Err(EmuFault::Unsupported("INVLPG"))
    }
    /// WBINVD or INVD; privilege checked. There is nothing to do unless a device is passed through.
    fn wbinvd(&mut self) {}
}
