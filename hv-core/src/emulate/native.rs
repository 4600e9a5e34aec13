//! Instructions that the CPU itself executes: x87, MMX, SSE, AVX and some that compute on general-purpose registers.
//!
//! There are about two thousand of them, and their results are the processor's own (rounding, denormals, exceptions, transcendental
//! functions). To write them anew would be to write a second FPU, whose every difference a guest could see. So the emulator does what
//! is its own, as for any instruction: checks in the manual's order, segments, paging, and the bus; the operand goes through one buffer, whatever
//! its size; and between reading and writing it, the CPU executes this one instruction on the guest's own registers
//! ([`EmuCx::execute`]).
//!
//! Where it executes it was weighed. In ring 0 (as other hypervisors do, with stubs of code) each instruction that is let through by
//! mistake would be an escape, and a page of code would have to be writable. Here it is executed *in guest mode*
//! ([`scratch`](crate::scratch)), by a virtual machine that has three pages of memory and nothing else: whatever
//! the instruction turns out to be, it can do no more than any guest's. That costs two world switches, as does the exit that led here.
//!
//! What is let through: everything whose opcode is an x87 escape; everything with an operand in an MMX, XMM or YMM register, unless its
//! encoding is EVEX, XOP or 3DNow!, which no virtual CPU has; and the few of [`general`]. Not gathers, which have many operands.
//!
//! A masked store (VMASKMOVPS, VPMASKMOVD) writes only some bytes. It is executed twice, on different buffers: what is then the
//! same in both was written. Likewise a store of the x87 FPU that an unmasked exception may have stopped. The pages of a masked load are
//! all checked, also those of which it reads nothing.

use super::Res;
use super::alu::ARITH;
use super::exec::Exec;
use super::native_insn::{Executed, NativeInsn};
use super::rewrite::{Map, Parts, rewrite};
use super::segment::Use;
use super::{AccessKind, EmuCx, EmuFault};
use crate::event::vector;
use crate::regs::{Cr0, Cr4, SysReg, gpr};
use iced_x86::{Mnemonic, OpKind, Register};

/// Which part of the CPU executes an instruction, which decides what has to be switched on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    X87,
    Mmx,
    /// MMX and XMM registers, as CVTPI2PS has.
    MmxSse,
    Sse,
    Avx,
    /// General-purpose registers, VEX-encoded.
    GeneralVex,
    General,
    Xsave,
}

/// Instructions on general-purpose registers that the CPU executes as well.
const fn general(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(m, Rdrand | Rdseed | Adcx | Adox)
}

/// Likewise with a VEX prefix.
const fn general_vex(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Andn | Bextr | Blsi | Blsmsk | Blsr | Bzhi | Mulx | Pdep | Pext | Rorx | Sarx | Shlx | Shrx
    )
}

/// SSE instructions that may have no XMM register: they convert a number in memory to one in a general-purpose register.
const fn converts(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Cvtss2si
            | Cvtsd2si
            | Cvttss2si
            | Cvttsd2si
            | Vcvtss2si
            | Vcvtsd2si
            | Vcvttss2si
            | Vcvttsd2si
    )
}

/// Instructions whose first operand is memory that they read.
const fn reads_first(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(m, Ldmxcsr | Vldmxcsr)
}

/// x87 instructions that write memory; all others read it.
const fn x87_writes(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(m, Fst | Fstp | Fist | Fistp | Fisttp | Fbstp)
}

/// Instructions with 128-bit memory operands that need not be aligned, of those that have no VEX prefix.
const fn unaligned(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Movups | Movupd | Movdqu | Lddqu | Pcmpestri | Pcmpestrm | Pcmpistri | Pcmpistrm
    )
}

/// VEX-encoded instructions whose memory operand has to be aligned to its size.
const fn aligned_vex(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(
        m,
        Vmovaps | Vmovapd | Vmovdqa | Vmovntps | Vmovntpd | Vmovntdq | Vmovntdqa
    )
}

const fn masked_store(m: Mnemonic) -> bool {
    use Mnemonic::*;
    matches!(m, Vmaskmovps | Vmaskmovpd | Vpmaskmovd | Vpmaskmovq)
}

/// The flags that go with the instruction and come back from it.
const FLAGS: u64 = ARITH;

/// Bytes of an XSAVE area: the legacy region with the header, and with the AVX state behind it (SDM vol 1 13.4, "XSAVE Area").
const XSAVE_LEGACY: usize = 576;
const XSAVE_AVX: usize = 832;

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// Has the CPU execute the instruction.
    #[cold]
    #[inline(never)]
    pub fn natively(&mut self) -> Res<()> {
        const LACKING: EmuFault = EmuFault::Unsupported("instruction");
        // Its bytes, and what they are: decoded from what will be executed.
        let decoded = self.insn;
        let mut bytes = super::decode::Bytes::fetch(self.cx, self.mode)?;
        self.insn = bytes.decode(self.cx, self.mode, iced_x86::DecoderOptions::NONE)?;
        if self.insn != decoded || self.insn.len() != decoded.len() {
            return Err(EmuFault::Retry);
        }
        let long = self.mode.is_64();
        let known = bytes.known().get(..self.insn.len()).ok_or(LACKING)?;
        let parts = Parts::of(known, long).ok_or(LACKING)?;
        let unit = self.unit(&parts).ok_or(LACKING)?;
        self.check_unit(unit)?;
        if unit == Unit::Xsave {
            return self.xsave(&parts);
        }
        let memory = (0..self.insn.op_count()).find(|&i| self.is_memory(i));
        let size = match memory {
            Some(_) => self.memory_size()?,
            None => 0,
        };
        let narrow = size == 4 || (0..self.insn.op_count()).any(|i| self.is_dword_register(i));
        let (code, len) = rewrite(&parts, &self.insn, long, narrow, None).ok_or(LACKING)?;
        let mut job = self.job(code, len, size);
        let write = memory == Some(0) && self.writes_first(unit);
        let linear = match memory {
            Some(_) => {
                let usage = if write { Use::Write } else { Use::Read };
                let linear = self.memory_at(0, size, usage)?;
                if self.must_be_aligned(&parts, size) && !linear.is_multiple_of(size as u64) {
                    return Err(self.gp());
                }
                // 80 bits are aligned to 64; what is longer has rules of its own.
                if size <= 10 {
                    let to = if size == 10 { 8 } else { size };
                    self.check_aligned(linear, to, AccessKind::Data)?;
                }
                linear
            }
            None => 0,
        };
        if memory.is_some() && !write {
            let operand = job.operand.get_mut(..size).ok_or(LACKING)?;
            self.read_bytes(linear, operand, AccessKind::Data)?;
        }
        let blank = job.clone();
        self.run_native(&mut job)?;
        if write {
            self.store_native(linear, blank, &job)?;
        }
        self.take_native(&job, unit == Unit::X87);
        Ok(())
    }

    fn job(&self, code: [u8; 16], len: usize, operand_len: usize) -> NativeInsn {
        NativeInsn {
            code,
            len,
            gprs: self.regs,
            flags: self.flags & FLAGS,
            fx: *self.cx.fx(),
            operand: [0; NativeInsn::MOST],
            operand_len,
        }
    }

    /// Executes `job`, or says what comes instead.
    fn run_native(&mut self, job: &mut NativeInsn) -> Res<()> {
        match self.cx.execute(job) {
            Executed::Done => Ok(()),
            Executed::Interrupted => Err(EmuFault::Retry),
            Executed::Impossible => Err(EmuFault::Unsupported("instruction")),
            Executed::Raised(vector::GP) => Err(self.gp()),
            Executed::Raised(vector::XM) => {
                // MXCSR says which exception it is.
                *self.cx.fx_mut() = job.fx;
                let told = self.cx.sysreg(SysReg::Cr4) & Cr4::OSXMMEXCPT.bits() != 0;
                Err(if told {
                    exception(vector::XM)
                } else {
                    EmuFault::UD
                })
            }
            Executed::Raised(vector) => Err(exception(vector)),
        }
    }

    /// Writes the memory operand of a store, or what was written of it.
    fn store_native(&mut self, linear: u64, mut blank: NativeInsn, job: &NativeInsn) -> Res<()> {
        const LACKING: EmuFault = EmuFault::Unsupported("store");
        let len = job.operand_len;
        let bytes = job.operand.get(..len).ok_or(LACKING)?;
        let partly = masked_store(self.insn.mnemonic()) || job.fx.exception_pending();
        if !partly {
            return self.write_bytes(linear, bytes, AccessKind::Data);
        }
        blank.operand = [0xff; NativeInsn::MOST];
        self.run_native(&mut blank)?;
        let again = blank.operand.get(..len).ok_or(LACKING)?;
        let written = |i: usize| bytes.get(i) == again.get(i);
        // All is checked before anything is written.
        for checking in [true, false] {
            let mut at = 0;
            while at < len {
                let run = (at..len).take_while(|&i| written(i)).count();
                if run > 0 {
                    let to = linear.wrapping_add(at as u64);
                    match bytes.get(at..at + run) {
                        Some(_) if checking => self.cx.check_write(crate::Gva(to), run)?,
                        Some(part) => self.write_bytes(to, part, AccessKind::Data)?,
                        None => {}
                    }
                }
                at += run.max(1);
            }
        }
        Ok(())
    }

    /// The registers after the instruction.
    fn take_native(&mut self, job: &NativeInsn, x87: bool) {
        self.regs = job.gprs;
        self.flags = self.flags & !FLAGS | job.flags & FLAGS;
        let mut fx = job.fx;
        if x87 {
            // Where the instruction and its operand were for the guest.
            if fx.instruction_pointer() == NativeInsn::CODE {
                fx.set_instruction_pointer(self.start);
            }
            if fx.data_pointer() == NativeInsn::OPERAND {
                fx.set_data_pointer(self.effective(0));
            }
        }
        *self.cx.fx_mut() = fx;
    }

    /// Which part of the CPU executes it. None: it is not one that is let through.
    fn unit(&self, parts: &Parts<'_>) -> Option<Unit> {
        let insn = &self.insn;
        let vector_index = (Register::XMM0..=Register::ZMM31).contains(&insn.memory_index());
        if insn.has_lock_prefix() || vector_index {
            return None;
        }
        if parts.map == Map::Escape {
            return Some(Unit::X87);
        }
        let has = |from: Register, to: Register| {
            (0..insn.op_count()).any(|i| {
                insn.op_kind(i) == OpKind::Register && (from..=to).contains(&insn.op_register(i))
            })
        };
        let xmm = has(Register::XMM0, Register::XMM15)
            || has(Register::YMM0, Register::YMM15)
            || converts(insn.mnemonic());
        let mmx = has(Register::MM0, Register::MM7);
        use Mnemonic::*;
        Some(match insn.mnemonic() {
            m if parts.is_vex() && general_vex(m) => Unit::GeneralVex,
            Vzeroupper | Vzeroall | Vldmxcsr | Vstmxcsr => Unit::Avx,
            _ if parts.is_vex() => return xmm.then_some(Unit::Avx),
            Emms => Unit::Mmx,
            Ldmxcsr | Stmxcsr => Unit::Sse,
            Xsave | Xsave64 | Xsaveopt | Xsaveopt64 | Xrstor | Xrstor64 => Unit::Xsave,
            m if general(m) => Unit::General,
            _ if mmx && xmm => Unit::MmxSse,
            _ if mmx => Unit::Mmx,
            _ if xmm => Unit::Sse,
            _ => return None,
        })
    }

    /// The exception that comes before the instruction is looked at further (SDM vol 2A 2.4, "AVX and SSE Instruction Exception
    /// Classification"; SDM vol 3A table 2-2, "Action Taken By x87 FPU Instructions for Different Combinations of EM, MP, and TS").
    fn check_unit(&mut self, unit: Unit) -> Res<()> {
        let cr0 = Cr0::from_bits_retain(self.cx.sysreg(SysReg::Cr0));
        let cr4 = Cr4::from_bits_retain(self.cx.sysreg(SysReg::Cr4));
        let protected = self.mode.has_descriptors();
        let on = match unit {
            Unit::X87 | Unit::General => true,
            Unit::Mmx => !cr0.contains(Cr0::EM),
            Unit::MmxSse | Unit::Sse => !cr0.contains(Cr0::EM) && cr4.contains(Cr4::OSFXSR),
            Unit::Avx => {
                const AVX: u64 = 0b110;
                protected && cr4.contains(Cr4::OSXSAVE) && self.cx.xcr0() & AVX == AVX
            }
            Unit::GeneralVex => protected,
            Unit::Xsave => cr4.contains(Cr4::OSXSAVE),
        };
        if !on {
            return Err(EmuFault::UD);
        }
        let waits = cr0.contains(Cr0::TS) || unit == Unit::X87 && cr0.contains(Cr0::EM);
        if waits && !matches!(unit, Unit::General | Unit::GeneralVex) {
            return Err(EmuFault::NM);
        }
        if matches!(unit, Unit::X87 | Unit::Mmx | Unit::MmxSse) {
            self.check_pending()?;
        }
        Ok(())
    }

    /// #MF if an x87 exception waits (SDM vol 1 8.6, "x87 FPU Exception Handling in Software"). CR0.NE does not count: there is nothing
    /// behind FERR#, as on CPUs in VMX operation.
    pub fn check_pending(&self) -> Res<()> {
        if self.cx.fx().exception_pending() {
            return Err(exception(vector::MF));
        }
        Ok(())
    }

    fn writes_first(&self, unit: Unit) -> bool {
        let m = self.insn.mnemonic();
        if unit == Unit::X87 {
            x87_writes(m)
        } else {
            !reads_first(m)
        }
    }

    fn must_be_aligned(&self, parts: &Parts<'_>, size: usize) -> bool {
        let m = self.insn.mnemonic();
        if parts.is_vex() {
            aligned_vex(m)
        } else {
            size == 16 && !unaligned(m)
        }
    }

    fn is_dword_register(&self, i: u32) -> bool {
        self.insn.op_kind(i) == OpKind::Register
            && (Register::EAX..=Register::R15D).contains(&self.insn.op_register(i))
    }

    /// MASKMOVQ, MASKMOVDQU and VMASKMOVDQU: the bytes of a register whose masks' top bits are set go to DS:(E/R)DI.
    #[inline(never)]
    pub fn maskmov(&mut self) -> Res<()> {
        let (data, mask) = (self.insn.op_register(1), self.insn.op_register(2));
        let number = |reg: Register, first: Register| (reg as usize).wrapping_sub(first as usize);
        let mmx = self.insn.mnemonic() == Mnemonic::Maskmovq;
        self.check_unit(match self.insn.mnemonic() {
            Mnemonic::Maskmovq => Unit::Mmx,
            Mnemonic::Maskmovdqu => Unit::Sse,
            _ => Unit::Avx,
        })?;
        let fx = self.cx.fx();
        let (data, mask, len) = if mmx {
            let value = |reg| u64::from_le_bytes(fx.mmx(number(reg, Register::MM0)));
            let wide = |reg| u128::from(value(reg)).to_le_bytes();
            (wide(data), wide(mask), 8)
        } else {
            let value = |reg| fx.xmm(number(reg, Register::XMM0));
            (value(data), value(mask), 16)
        };
        let address = match self.insn.op_kind(0) {
            OpKind::MemorySegDI => 2,
            OpKind::MemorySegEDI => 4,
            _ => 8,
        };
        let offset = self.reg_sized(gpr::RDI, address);
        let linear = self.linear(self.memory_segment(), offset, len as u64, Use::Write)?;
        let bytes = data.into_iter().zip(mask).take(len);
        for checking in [true, false] {
            for (i, (byte, _)) in bytes
                .clone()
                .enumerate()
                .filter(|(_, (_, m))| m & 0x80 != 0)
            {
                let to = linear.wrapping_add(i as u64);
                match checking {
                    true => self.cx.check_write(crate::Gva(to), 1)?,
                    false => self.write_bytes(to, &[byte], AccessKind::Data)?,
                }
            }
        }
        if mmx {
            self.cx.fx_mut().enter_mmx();
        }
        Ok(())
    }

    /// XSAVE, XSAVEOPT and XRSTOR. XSAVEOPT, which may leave out what has not changed since an XRSTOR from the same address, saves all.
    #[inline(never)]
    fn xsave(&mut self, parts: &Parts<'_>) -> Res<()> {
        const SAVE: u8 = 4;
        const RESTORE: u8 = 5;
        const LACKING: EmuFault = EmuFault::Unsupported("XSAVE");
        use Mnemonic::{Xrstor, Xrstor64};
        let restore = matches!(self.insn.mnemonic(), Xrstor | Xrstor64);
        let long = self.mode.is_64();
        let wanted = self.reg_sized(gpr::RDX, 4) << 32 | self.reg_sized(gpr::RAX, 4);
        let size = match wanted & self.cx.xcr0() & 4 {
            0 => XSAVE_LEGACY,
            _ => XSAVE_AVX,
        };
        let usage = if restore { Use::Read } else { Use::Write };
        let linear = self.memory_at(0, size, usage)?;
        if !linear.is_multiple_of(64) {
            return Err(self.gp());
        }
        let rewritten = |reg| rewrite(parts, &self.insn, long, false, Some(reg)).ok_or(LACKING);
        let (code, len) = rewritten(if restore { RESTORE } else { SAVE })?;
        let mut job = self.job(code, len, size);
        if !restore {
            self.cx.check_write(crate::Gva(linear), size)?;
        }
        let area = job.operand.get_mut(..size).ok_or(LACKING)?;
        self.read_bytes(linear, area, AccessKind::Data)?;
        let before = job.operand;
        if restore && !long {
            // Registers 8 to 15 are not there in 32-bit code and stay what they are.
            let (code, len) = rewrite(parts, &self.insn, long, false, Some(SAVE)).ok_or(LACKING)?;
            let mut now = self.job(code, len, size);
            self.run_native(&mut now)?;
            keep_upper(&mut job.operand, &now.operand);
        }
        self.run_native(&mut job)?;
        if !restore {
            if !long {
                keep_upper(&mut job.operand, &before);
            }
            let area = job.operand.get(..size).ok_or(LACKING)?;
            self.write_bytes(linear, area, AccessKind::Data)?;
        }
        *self.cx.fx_mut() = job.fx;
        Ok(())
    }
}

/// Makes registers 8 to 15 in an XSAVE area those of `other`: XMM from 288, upper halves of YMM from 704 on.
fn keep_upper(area: &mut [u8; NativeInsn::MOST], other: &[u8; NativeInsn::MOST]) {
    for at in [288..416, 704..832] {
        area[at.clone()].copy_from_slice(&other[at]);
    }
}

fn exception(vector: u8) -> EmuFault {
    EmuFault::Exception {
        vector,
        error: None,
        cr2: None,
    }
}
