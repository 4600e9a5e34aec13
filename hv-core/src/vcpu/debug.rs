//! The guest's debug registers where software has to know them (SDM vol 3B 18.2, "Debug Registers"): those that an emulated instruction moves, and the
//! breakpoints that it meets.
//!
//! What the hardware executes is compared by the hardware. Not here: accesses while an event is delivered or a task switched; a data breakpoint of an
//! instruction that loads SS, which a CPU would hold back. Behind STI, as behind a load of SS, an instruction breakpoint does not count.

use super::{Stop, Vcpu};
use crate::cpu::VcpuBackend;
use crate::debug::DebugStop;
use crate::device::AccessSize;
use crate::emulate::{self, EmuFault, MAX_WATCHES, Shadow, Step, Touch, Watch};
use crate::event::{Event, vector};
use crate::mmu::Mmu;
use crate::regs::{Cr4, Rflags, SysReg};
use crate::time::Clock;

/// DR7's enable bits, local and global ones.
const ENABLED: u64 = 0xff;
/// DR6.B0 to B3: a breakpoint has been met.
const MET: u64 = 0xf;
/// The registers with the addresses.
const ADDRESSES: [SysReg; 4] = [SysReg::Dr0, SysReg::Dr1, SysReg::Dr2, SysReg::Dr3];

/// The bits of DR6 that are always set, and those that can be written: B3 to B0, BD, BS, BT.
const DR6_ONES: u64 = 0xffff_0ff0;
const DR6_BITS: u64 = 0xe00f;
/// DR6.BD: an instruction was about to access a debug register.
const BD: u64 = 1 << 13;
/// The bits of DR7 that are always set, and those that can be written: all but 15, 14, 12 and 11.
const DR7_ONES: u64 = 0x400;
const DR7_BITS: u64 = 0xffff_27ff;
/// DR7.GD: accesses to debug registers fault.
const GD: u64 = 1 << 13;

/// What breakpoint `n` waits for, if DR7 enables it, and how many bytes it is of. Nothing: an instruction. With `io` (CR4.DE) there are ports.
fn enabled(dr7: u64, n: usize, io: bool) -> Option<(Touch, u64)> {
    if dr7 >> (2 * n) & 3 == 0 {
        return None;
    }
    let on = match (dr7 >> (16 + 4 * n) & 3, io) {
        (0, _) => Touch::empty(),
        (1, _) => Touch::WRITE,
        (2, true) => Touch::PORT,
        (2, false) => return None,
        _ => Touch::READ | Touch::WRITE,
    };
    let len = match dr7 >> (18 + 4 * n) & 3 {
        0 => 1,
        1 => 2,
        2 => 8,
        _ => 4,
    };
    Some((on, len))
}

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// #DB if the guest has its debug registers protected, which ends the protection.
    fn check_general_detect(&mut self) -> Result<(), EmuFault> {
        let dr7 = self.cpu.sysreg(SysReg::Dr7);
        if dr7 & GD == 0 {
            return Ok(());
        }
        // SDM vol 3B 18.3.1.3, "General-Detect Exception Condition".
        Err(self.debug_fault(BD))
    }

    /// A debug exception is due for this.
    fn report(&mut self, why: u64) {
        let dr6 = self.cpu.sysreg(SysReg::Dr6);
        let kept = if why & MET != 0 { dr6 & !MET } else { dr6 };
        self.cpu.set_sysreg(SysReg::Dr6, kept | why);
        let dr7 = self.cpu.sysreg(SysReg::Dr7);
        if dr7 & GD != 0 {
            self.cpu.set_sysreg(SysReg::Dr7, dr7 & !GD);
        }
    }

    /// #DB in place of an instruction. It is a fault, and not one that is known by its vector: RF says it, which is in its frame.
    fn debug_fault(&mut self, why: u64) -> EmuFault {
        self.report(why);
        let rflags = self.cpu.rflags();
        self.cpu.set_rflags(rflags | Rflags::RF.bits());
        EmuFault::Exception {
            vector: vector::DB,
            error: None,
            cr2: None,
        }
    }

    /// #DB behind an instruction, or behind the delivery of an event.
    pub(super) fn debug_trap(&mut self, why: u64) {
        self.report(why);
        self.raise(Event::exception(vector::DB, None));
    }

    /// Looks whether breakpoints, or a debugger, want to know what an instruction in software does.
    #[inline]
    pub(super) fn look_at_breakpoints(&mut self) {
        let enabled = self.cpu.sysreg(SysReg::Dr7) & ENABLED != 0;
        self.breakpoints = enabled || self.debug.is_some();
    }

    /// Executes one instruction in software, with what has to be known of it.
    #[inline]
    pub(super) fn step(&mut self) -> Result<Step, EmuFault> {
        self.look_at_breakpoints();
        self.step_again()
    }

    /// [`step`](Self::step), behind another one.
    #[inline]
    pub(super) fn step_again(&mut self) -> Result<Step, EmuFault> {
        match self.breakpoints {
            false => emulate::step(self),
            true => self.step_watching(),
        }
    }

    #[cold]
    #[inline(never)]
    fn step_watching(&mut self) -> Result<Step, EmuFault> {
        let dr7 = self.cpu.sysreg(SysReg::Dr7);
        let io = self.cpu.sysreg(SysReg::Cr4) & Cr4::DE.bits() != 0;
        let mut watches = [Watch::NONE; MAX_WATCHES];
        let (own, others) = watches.split_at_mut(ADDRESSES.len());
        let (pc, mut here) = (self.linear_pc(), 0);
        for (n, (watch, reg)) in own.iter_mut().zip(ADDRESSES).enumerate() {
            let Some((on, len)) = enabled(dr7, n, io) else {
                continue;
            };
            let address = self.cpu.sysreg(reg);
            here |= u64::from(on.is_empty() && address == pc) << n;
            let at = address & !(len - 1);
            *watch = Watch { at, len, on };
        }
        let resumes = self.cpu.rflags() & Rflags::RF.bits() != 0;
        if here != 0 && !resumes && !self.cpu.interrupt_shadow() {
            return Err(self.debug_fault(here));
        }
        let points = self.access_points();
        for (watch, (_, point)) in others.iter_mut().zip(&points) {
            *watch = *point;
        }
        if watches.iter().all(|watch| watch.on.is_empty()) {
            return emulate::step(self);
        }
        let (result, met) = emulate::step_watching(self, &watches);
        let mut met_points = (ADDRESSES.len()..).zip(&points);
        if let Some((_, (point, _))) = met_points.find(|(n, _)| met >> n & 1 != 0) {
            self.stop = Some(Stop::Debug(DebugStop::Watchpoint(*point)));
        }
        let mut step = result?;
        if step.shadow != Shadow::MovSs {
            step.breakpoints = met as u8 & MET as u8;
        }
        Ok(step)
    }

    /// An IN or OUT that has left the guest is done: it may have met a breakpoint.
    #[inline]
    pub(super) fn port_breakpoints(&mut self, port: u16, size: AccessSize) {
        let dr7 = self.cpu.sysreg(SysReg::Dr7);
        if dr7 & ENABLED != 0 {
            self.meet_port(dr7, port, size);
        }
    }

    #[cold]
    #[inline(never)]
    fn meet_port(&mut self, dr7: u64, port: u16, size: AccessSize) {
        if self.cpu.sysreg(SysReg::Cr4) & Cr4::DE.bits() == 0 {
            return;
        }
        let met = ADDRESSES.iter().enumerate().fold(0, |met, (n, &reg)| {
            let is_met = enabled(dr7, n, true).is_some_and(|(on, len)| {
                let at = self.cpu.sysreg(reg) & !(len - 1);
                Watch { at, len, on }.is_met(port.into(), size.bytes() as u64, Touch::PORT)
            });
            met | u64::from(is_met) << n
        });
        // A single step may have trapped behind the same instruction: it is one exception.
        let trap = Event::exception(vector::DB, None);
        match met {
            0 => {}
            _ if self.events.exception() == Some(trap) => self.report(met),
            _ => self.debug_trap(met),
        }
    }

    /// MOV from a debug register: 0 to 3, 6 or 7.
    pub(super) fn debug_read(&mut self, dr: u8) -> Result<u64, EmuFault> {
        let reg = register(dr)?;
        self.check_general_detect()?;
        Ok(self.cpu.sysreg(reg))
    }

    /// MOV to a debug register: 0 to 3, 6 or 7.
    pub(super) fn debug_write(&mut self, dr: u8, value: u64) -> Result<(), EmuFault> {
        let reg = register(dr)?;
        self.check_general_detect()?;
        self.set_debug_register(reg, value);
        Ok(())
    }

    /// Sets a debug register: the bits of it that are there.
    pub(super) fn set_debug_register(&mut self, reg: SysReg, value: u64) {
        let value = match reg {
            SysReg::Dr6 => value & DR6_BITS | DR6_ONES,
            SysReg::Dr7 => value & DR7_BITS | DR7_ONES,
            _ => value,
        };
        self.cpu.set_sysreg(reg, value);
        self.look_at_breakpoints();
    }
}

fn register(dr: u8) -> Result<SysReg, EmuFault> {
    Ok(match dr {
        0 => SysReg::Dr0,
        1 => SysReg::Dr1,
        2 => SysReg::Dr2,
        3 => SysReg::Dr3,
        6 => SysReg::Dr6,
        7 => SysReg::Dr7,
        _ => return Err(EmuFault::UD),
    })
}
