//! The x87 instructions that look for an FPU and start it, as boot loaders and kernels do before anything else. There is no
//! arithmetic here.

use super::exec::{Exec, Res};
use super::{EmuCx, EmuFault};
use crate::regs::{Cr0, SysReg};

/// The status word's exception flags, stack fault, summary and busy bits, which FNCLEX clears.
const EXCEPTIONS: u16 = 0x80ff;

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// #NM if the FPU is emulated or belongs to another task (SDM vol 3A 2.5, "Control Registers": CR0.EM, CR0.TS).
    fn check_x87(&self) -> Res<()> {
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

    /// WAIT: #NM if it monitors CR0.TS. Exceptions never wait, as nothing here raises any.
    pub fn wait(&mut self) -> Res<()> {
        let monitored = (Cr0::MP | Cr0::TS).bits();
        if self.cx.sysreg(SysReg::Cr0) & monitored == monitored {
            return Err(EmuFault::NM);
        }
        Ok(())
    }
}
