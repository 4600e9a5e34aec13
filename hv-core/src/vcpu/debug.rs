//! Debug registers that are moved by an emulated instruction (SDM vol 3B 18.2, "Debug Registers"). Breakpoints do not trigger
//! while the guest runs in software.

use super::Vcpu;
use crate::cpu::VcpuBackend;
use crate::emulate::EmuFault;
use crate::event::vector;
use crate::mmu::Mmu;
use crate::regs::{Rflags, SysReg};
use crate::time::Clock;

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

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// #DB if the guest has its debug registers protected, which ends the protection.
    fn check_general_detect(&mut self) -> Result<(), EmuFault> {
        let dr7 = self.cpu.sysreg(SysReg::Dr7);
        if dr7 & GD == 0 {
            return Ok(());
        }
        let dr6 = self.cpu.sysreg(SysReg::Dr6);
        self.cpu.set_sysreg(SysReg::Dr6, dr6 | BD);
        self.cpu.set_sysreg(SysReg::Dr7, dr7 & !GD);
        // It is a fault (SDM vol 3B 18.3.1.3, "General-Detect Exception Condition"), and not one that is known by its vector.
        let rflags = self.cpu.rflags();
        self.cpu.set_rflags(rflags | Rflags::RF.bits());
        Err(EmuFault::Exception {
            vector: vector::DB,
            error: None,
            cr2: None,
        })
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
