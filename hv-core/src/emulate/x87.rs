//! The x87 instructions that look for an FPU and start it, as boot loaders and kernels do before anything else, and FXSAVE and FXRSTOR.
//! FSTENV and its kin are in `x87_state`; arithmetic is left to the CPU (`native`).

use super::Res;
use super::cx::AccessKind;
use super::exec::Exec;
use super::segment::Use;
use super::{EmuCx, EmuFault};
use crate::fx::FxState;
use crate::regs::{Cr0, SysReg};

/// The status word's exception flags, stack fault, summary and busy bits, which FNCLEX clears.
const EXCEPTIONS: u16 = 0x80ff;

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// #NM if the FPU is emulated or belongs to another task (SDM vol 3A 2.5, "Control Registers": CR0.EM, CR0.TS).
    pub fn check_x87(&self) -> Res<()> {
        if self.cx.sysreg(SysReg::Cr0) & (Cr0::EM | Cr0::TS).bits() != 0 {
            return Err(EmuFault::NM);
        }
        Ok(())
    }

    /// FNINIT.
    pub fn fninit(&mut self) -> Res<()> {
        self.check_x87()?;
        self.cx.fx_mut().init_x87();
        Ok(())
    }

    /// FNCLEX.
    pub fn fnclex(&mut self) -> Res<()> {
        self.check_x87()?;
        let status = self.cx.fx().status() & !EXCEPTIONS;
        self.cx.fx_mut().set_status(status);
        Ok(())
    }

    /// FNSTCW.
    pub fn fnstcw(&mut self) -> Res<()> {
        self.check_x87()?;
        let control = self.cx.fx().control();
        self.set_value(0, control.into())
    }

    /// FLDCW.
    pub fn fldcw(&mut self) -> Res<()> {
        self.check_x87()?;
        self.check_pending()?;
        let control = self.value(0)? as u16;
        self.cx.fx_mut().set_control(control);
        Ok(())
    }

    /// FNSTSW to AX or memory.
    pub fn fnstsw(&mut self) -> Res<()> {
        self.check_x87()?;
        let status = self.cx.fx().status();
        self.set_value(0, status.into())
    }

    /// WAIT: #NM if it monitors CR0.TS, #MF if an exception is pending.
    pub fn wait(&mut self) -> Res<()> {
        let monitored = (Cr0::MP | Cr0::TS).bits();
        if self.cx.sysreg(SysReg::Cr0) & monitored == monitored {
            return Err(EmuFault::NM);
        }
        self.check_pending()
    }

    /// Where FXSAVE and FXRSTOR have their operand (SDM vol 2A, "FXSAVE"): #NM as for all of x87, #GP if it is not aligned.
    fn fx_area(&mut self, usage: Use) -> Res<u64> {
        self.check_x87()?;
        let linear = self.memory_at(0, FxState::SIZE, usage)?;
        self.check_alignment(true, linear)?;
        Ok(linear)
    }

    /// How much of the area has registers: XMM8 to XMM15 are there in 64-bit mode only.
    fn fx_len(&self) -> usize {
        if self.mode.is_64() {
            FxState::SAVED
        } else {
            FxState::SAVED_32
        }
    }

    /// FXSAVE and FXSAVE64 (`wide`).
    pub fn fxsave(&mut self, wide: bool) -> Res<()> {
        let linear = self.fx_area(Use::Write)?;
        let len = self.fx_len();
        let bytes = self.cx.fx().saved(wide);
        self.write_bytes(linear, &bytes[..len], AccessKind::Data)
    }

    /// FXRSTOR and FXRSTOR64 (`wide`): #GP if a bit of MXCSR is set that there is none of.
    pub fn fxrstor(&mut self, wide: bool) -> Res<()> {
        let linear = self.fx_area(Use::Read)?;
        let len = self.fx_len();
        let mut bytes = self.cx.fx().saved(true);
        self.read_bytes(linear, &mut bytes[..len], AccessKind::Data)?;
        if self.cx.fx_mut().restore(&bytes, wide) {
            Ok(())
        } else {
            Err(self.gp())
        }
    }
}
