//! System instructions. Each checks its privilege before anything else; what values mean is up to the hooks of [`EmuCx`].

use super::Res;
use super::alu::mask;
use super::exec::Exec;
use super::operand::{gpr, segreg};
use super::segment::{Use, canonical};
use super::{AccessKind, EmuCx, EmuFault, Shadow, SystemRegister};
use crate::Gva;
use crate::regs::gpr::{RAX, RBX, RCX, RDX};
use crate::regs::{Cr0, Cr4, Rflags, SegReg, Segment, SysReg};
use iced_x86::{Code, OpKind, Register};

/// The control or debug register that `reg` is.
pub(super) fn system_register(reg: Register) -> Option<SystemRegister> {
    let from = |first: Register| (reg as usize - first as usize) as u8;
    if (Register::CR0..=Register::CR15).contains(&reg) {
        Some(SystemRegister::Control(from(Register::CR0)))
    } else if (Register::DR0..=Register::DR15).contains(&reg) {
        Some(SystemRegister::Debug(from(Register::DR0)))
    } else {
        None
    }
}

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    fn register(&self, i: u32) -> Register {
        if self.insn.op_kind(i) == OpKind::Register {
            self.insn.op_register(i)
        } else {
            Register::None
        }
    }

    /// MOV in all its forms.
    pub fn any_mov(&mut self) -> Res<()> {
        use Code::*;
        let special = matches!(
            self.insn.code(),
            Mov_rm16_Sreg
                | Mov_r32m16_Sreg
                | Mov_r64m16_Sreg
                | Mov_Sreg_rm16
                | Mov_Sreg_r32m16
                | Mov_Sreg_r64m16
                | Mov_r32_cr
                | Mov_r64_cr
                | Mov_r32_dr
                | Mov_r64_dr
                | Mov_cr_r32
                | Mov_cr_r64
                | Mov_dr_r32
                | Mov_dr_r64
                | Mov_r32_tr
                | Mov_tr_r32
        );
        if !special {
            return self.mov();
        }
        let (to, from) = (self.register(0), self.register(1));
        if segreg(from).is_some() {
            return self.mov_from_segment();
        }
        if let Some(seg) = segreg(to) {
            return self.mov_to_segment(seg);
        }
        match (system_register(to), system_register(from)) {
            (Some(s), _) => self.mov_system(s, true),
            (_, Some(s)) => self.mov_system(s, false),
            _ => self.mov(),
        }
    }

    fn mov_to_segment(&mut self, seg: SegReg) -> Res<()> {
        if seg == SegReg::Cs {
            return Err(EmuFault::UD);
        }
        let selector = if self.is_memory(1) {
            let linear = self.memory_at(0, 2, Use::Read)?;
            self.read(linear, 2, AccessKind::Data)?
        } else {
            self.value(1)?
        };
        let value = self.load_segment(seg, selector as u16)?;
        self.put_segment(seg, value);
        Ok(())
    }

    /// POP to a segment register.
    pub fn pop_segment(&mut self, seg: SegReg) -> Res<()> {
        let selector = self.pop(self.implied_size())?;
        let value = self.load_segment(seg, selector as u16)?;
        self.put_segment(seg, value);
        Ok(())
    }

    fn put_segment(&mut self, seg: SegReg, value: Segment) {
        self.cx.set_segment(seg, value);
        if seg == SegReg::Ss {
            self.shadow = Shadow::MovSs;
        }
    }

    /// MOV to (`write`) and from control and debug registers.
    fn mov_system(&mut self, register: SystemRegister, write: bool) -> Res<()> {
        self.privileged()?;
        let size = if self.mode.is_64() { 8 } else { 4 };
        let (n, ..) = gpr(self.register(if write { 1 } else { 0 })).ok_or(EmuFault::UD)?;
        let value = self.reg_sized(n, size);
        let read = match (register, write) {
            (SystemRegister::Control(cr @ (0 | 2 | 3 | 4 | 8)), true) => {
                return self.cx.write_cr(cr, value);
            }
            (SystemRegister::Control(cr @ (0 | 2 | 3 | 4 | 8)), false) => self.cx.read_cr(cr)?,
            (SystemRegister::Control(_), _) => return Err(EmuFault::UD),
            (SystemRegister::Debug(dr), write) => {
                let dr = self.debug_register(dr)?;
                // Bits 63:32 of DR6 and DR7 must be zero.
                if write && dr >= 6 && value >> 32 != 0 {
                    return Err(self.gp());
                }
                if write {
                    return self.cx.write_dr(dr, value);
                }
                self.cx.read_dr(dr)?
            }
        };
        self.set_reg(n, size, read);
        Ok(())
    }

    /// DR4 and DR5 are other names of DR6 and DR7 unless CR4.DE is set (SDM vol 3B 18.2.2, "Debug Registers DR4 and DR5").
    fn debug_register(&self, dr: u8) -> Res<u8> {
        match dr {
            4 | 5 if self.cx.sysreg(SysReg::Cr4) & Cr4::DE.bits() == 0 => Ok(dr + 2),
            0..=3 | 6 | 7 => Ok(dr),
            _ => Err(EmuFault::UD),
        }
    }

    /// CPUID.
    pub fn cpuid(&mut self) -> Res<()> {
        let values = self.cx.cpuid(self.reg(RAX) as u32, self.reg(RCX) as u32)?;
        for (n, value) in [RAX, RBX, RCX, RDX].into_iter().zip(values) {
            self.set_reg(n, 4, value.into());
        }
        Ok(())
    }

    fn set_edx_eax(&mut self, value: u64) {
        self.set_reg(RAX, 4, value);
        self.set_reg(RDX, 4, value >> 32);
    }

    /// RDMSR.
    pub fn rdmsr(&mut self) -> Res<()> {
        self.privileged()?;
        let value = self.cx.read_msr(self.reg(RCX) as u32)?;
        self.set_edx_eax(value);
        Ok(())
    }

    /// WRMSR.
    pub fn wrmsr(&mut self) -> Res<()> {
        self.privileged()?;
        let value = self.reg(RDX) << 32 | self.reg_sized(RAX, 4);
        self.cx.write_msr(self.reg(RCX) as u32, value)
    }

    /// RDTSC.
    pub fn rdtsc(&mut self) -> Res<()> {
        if self.cx.sysreg(SysReg::Cr4) & Cr4::TSD.bits() != 0 {
            self.privileged()?;
        }
        let value = self.cx.rdtsc()?;
        self.set_edx_eax(value);
        Ok(())
    }

    /// RDPMC: there are no counters.
    pub fn rdpmc(&mut self) -> Res<()> {
        Err(self.gp())
    }

    /// #UD unless XSAVE is on.
    fn check_osxsave(&self) -> Res<()> {
        if self.cx.sysreg(SysReg::Cr4) & Cr4::OSXSAVE.bits() == 0 {
            return Err(EmuFault::UD);
        }
        Ok(())
    }

    /// XGETBV.
    pub fn xgetbv(&mut self) -> Res<()> {
        self.check_osxsave()?;
        if self.reg(RCX) as u32 != 0 {
            return Err(self.gp());
        }
        let value = self.cx.xcr0();
        self.set_edx_eax(value);
        Ok(())
    }

    /// XSETBV.
    pub fn xsetbv(&mut self) -> Res<()> {
        self.check_osxsave()?;
        self.privileged()?;
        if self.reg(RCX) as u32 != 0 {
            return Err(self.gp());
        }
        let value = self.reg(RDX) << 32 | self.reg_sized(RAX, 4);
        self.cx.set_xcr0(value)
    }

    /// CLAC and STAC, which go with SMAP.
    pub fn change_ac(&mut self, set: bool) -> Res<()> {
        const SMAP: u32 = 1 << 20;
        let [_, features, ..] = self.cx.cpuid(7, 0)?;
        if features & SMAP == 0 || self.cpl != 0 {
            return Err(EmuFault::UD);
        }
        if set {
            self.flags |= Rflags::AC.bits();
        } else {
            self.flags &= !Rflags::AC.bits();
        }
        Ok(())
    }

    /// CLTS.
    pub fn clts(&mut self) -> Res<()> {
        self.privileged()?;
        let cr0 = self.cx.read_cr(0)?;
        self.cx.write_cr(0, cr0 & !Cr0::TS.bits())
    }

    /// LMSW: the low four bits of CR0; PE can be set but not cleared.
    pub fn lmsw(&mut self) -> Res<()> {
        self.privileged()?;
        let (value, cr0) = (self.value(0)?, self.cx.read_cr(0)?);
        self.cx.write_cr(0, cr0 & !0xe | value & 0xf)
    }

    /// UMIP: the stores of system registers fault above privilege level 0.
    fn check_umip(&self) -> Res<()> {
        if self.cx.sysreg(SysReg::Cr4) & Cr4::UMIP.bits() != 0 {
            self.privileged()
        } else {
            Ok(())
        }
    }

    /// SMSW.
    pub fn smsw(&mut self) -> Res<()> {
        self.check_umip()?;
        let cr0 = self.cx.read_cr(0)?;
        self.store_word(cr0)
    }

    /// SLDT and STR.
    pub fn store_selector(&mut self, seg: SegReg) -> Res<()> {
        if !self.mode.has_descriptors() {
            return Err(EmuFault::UD);
        }
        self.check_umip()?;
        let selector = self.cx.segment(seg).selector;
        self.store_word(selector.into())
    }

    /// Stores to a register of any size, or 16 bits to memory.
    fn store_word(&mut self, value: u64) -> Res<()> {
        if self.is_memory(0) {
            let linear = self.memory_at(0, 2, Use::Write)?;
            return self.write(linear, 2, value, AccessKind::Data);
        }
        self.set_value(0, value)
    }

    /// LGDT and LIDT.
    pub fn load_table(&mut self, seg: SegReg) -> Res<()> {
        self.privileged()?;
        let size = if self.mode.is_64() { 8 } else { 4 };
        let linear = self.memory_at(0, 2 + size, Use::Read)?;
        let limit = self.read(linear, 2, AccessKind::Data)? as u32;
        let at = self.memory_at(2, size, Use::Read)?;
        let mut base = self.read(at, size, AccessKind::Data)?;
        if matches!(self.insn.code(), Code::Lgdt_m1632_16 | Code::Lidt_m1632_16) {
            base &= 0xff_ffff;
        }
        if self.mode.is_64() && !canonical(&*self.cx, base) {
            return Err(self.gp());
        }
        self.cx.set_segment(
            seg,
            Segment {
                limit,
                base,
                ..Segment::default()
            },
        );
        Ok(())
    }

    /// SGDT and SIDT. With 16-bit operands too all of the base is stored, as processors since the 386 do.
    pub fn store_table(&mut self, seg: SegReg) -> Res<()> {
        self.check_umip()?;
        let size = if self.mode.is_64() { 8 } else { 4 };
        let linear = self.memory_at(0, 2 + size, Use::Write)?;
        let table = self.cx.segment(seg);
        let image = u128::from(table.base & mask(size)) << 16 | u128::from(table.limit & 0xffff);
        match image.to_le_bytes().get(..2 + size) {
            Some(b) => self.write_bytes(linear, b, AccessKind::Data),
            None => Ok(()),
        }
    }

    /// INVLPG (SDM vol 2A, "INVLPG—Invalidate TLB Entries"). It accesses no memory: neither the segment's limit and type nor whether the
    /// address is canonical is checked.
    pub fn invlpg(&mut self) -> Res<()> {
        self.privileged()?;
        let seg = self.memory_segment();
        let has_base = !self.mode.is_64() || matches!(seg, SegReg::Fs | SegReg::Gs);
        let base = if has_base {
            self.cx.segment(seg).base
        } else {
            0
        };
        let linear = base.wrapping_add(self.effective(0));
        if !self.mode.is_64() {
            return self.cx.invlpg(Gva(linear & 0xffff_ffff));
        }
        if !canonical(&*self.cx, linear) {
            return Ok(());
        }
        self.cx.invlpg(Gva(linear))
    }

    /// INVD and WBINVD.
    pub fn wbinvd(&mut self) -> Res<()> {
        self.privileged()?;
        self.cx.wbinvd();
        Ok(())
    }
}
