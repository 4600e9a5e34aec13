//! Integer arithmetic, logic, shifts, bit tests and the read-modify-write instructions (SDM vol 2, each under its name).

use super::Res;
use super::alu::{self, AF, CF, SF, ZF, mask, sign_extend};
use super::exec::Exec;
use super::operand::Place;
use super::segment::Use;
use super::{AccessKind, EmuCx, EmuFault};
use crate::event::vector;
use crate::regs::gpr::{RAX, RBX, RCX, RDX};
use core::cell::Cell;

/// `(size, a, b, flags) -> (result, flags)`.
pub(super) type Op = fn(usize, u64, u64, u64) -> (u64, u64);

/// An instruction of the BT family.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Bit {
    Test,
    Set,
    Reset,
    Complement,
}

/// ADD.
pub(super) const ADD: Op = |s, a, b, f| alu::add(s, a, b, false, f);
/// ADC.
pub(super) const ADC: Op = |s, a, b, f| alu::add(s, a, b, f & CF != 0, f);
/// SUB, CMP.
pub(super) const SUB: Op = |s, a, b, f| alu::sub(s, a, b, false, f);
/// SBB.
pub(super) const SBB: Op = |s, a, b, f| alu::sub(s, a, b, f & CF != 0, f);
/// AND, TEST.
pub(super) const AND: Op = |s, a, b, f| alu::logic(s, a & b, f);
/// OR.
pub(super) const OR: Op = |s, a, b, f| alu::logic(s, a | b, f);
/// XOR.
pub(super) const XOR: Op = |s, a, b, f| alu::logic(s, a ^ b, f);

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// CRC32: of the CRC-32C polynomial, with bits reflected.
    pub fn crc32(&mut self) -> Res<()> {
        const POLYNOMIAL: u32 = 0x82f6_3b78;
        let size = self.operand_size(1)?;
        let value = self.value(1)?;
        let mut crc = self.value(0)? as u32;
        for byte in value.to_le_bytes().into_iter().take(size) {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                let carry = crc & 1 != 0;
                crc = crc >> 1 ^ if carry { POLYNOMIAL } else { 0 };
            }
        }
        self.set_value(0, crc.into())
    }

    /// An operation on operands 0 and 1 with the result in operand 0.
    pub fn binary(&mut self, op: Op) -> Res<()> {
        let b = self.value(1)?;
        self.update_op0(|size, a, f| op(size, a, b, f))
    }

    /// An operation on operands 0 and 1 of which only the flags are kept.
    pub fn compare(&mut self, op: Op) -> Res<()> {
        let size = self.operand_size(0)?;
        let (a, b) = (self.value(0)?, self.value(1)?);
        self.flags = op(size, a, b, self.flags).1;
        Ok(())
    }

    /// An operation on operand 0 alone.
    pub fn unary(&mut self, op: fn(usize, u64, u64) -> (u64, u64)) -> Res<()> {
        self.update_op0(op)
    }

    /// SHLD and SHRD.
    pub fn double_shift(&mut self, op: fn(usize, u64, u64, u64, u64) -> (u64, u64)) -> Res<()> {
        let (b, count) = (self.value(1)?, self.value(2)?);
        self.update_op0(|size, a, f| op(size, a, b, count, f))
    }

    /// BT, BTS, BTR, BTC. With a register as bit offset, memory is a bit string that extends both ways from its address.
    pub fn bit(&mut self, op: Bit) -> Res<()> {
        let size = self.operand_size(0)?;
        let usage = if op == Bit::Test {
            Use::Read
        } else {
            Use::Write
        };
        let offset = self.value(1)?;
        let width = size as u64 * 8;
        let place = if self.is_memory(0) && self.insn.op_kind(1) == iced_x86::OpKind::Register {
            let element = sign_extend(size, offset) as i64 >> width.trailing_zeros();
            let skip = (element as u64).wrapping_mul(size as u64);
            Place::Mem {
                linear: self.memory_at(skip, size, usage)?,
                size,
            }
        } else {
            self.place(0, usage)?
        };
        let bit = 1 << (offset & (width - 1));
        let carry = |a: u64, f: u64| if a & bit != 0 { f | CF } else { f & !CF };
        if op == Bit::Test {
            let a = self.load(place, AccessKind::Data)?;
            self.flags = carry(a, self.flags);
            return Ok(());
        }
        self.update(place, self.insn.has_lock_prefix(), |a, f| {
            let new = match op {
                Bit::Set => a | bit,
                Bit::Reset => a & !bit,
                _ => a ^ bit,
            };
            (new, carry(a, f))
        })
    }

    /// XADD.
    pub fn xadd(&mut self) -> Res<()> {
        let (place, source) = (self.place(0, Use::Write)?, self.place(1, Use::Read)?);
        let b = self.load(source, AccessKind::Data)?;
        let (size, old) = (place.size(), Cell::new(0));
        if let Place::Reg { .. } = place {
            let a = self.load(place, AccessKind::Data)?;
            let (sum, flags) = ADD(size, a, b, self.flags);
            self.flags = flags;
            // With the same register twice the sum wins.
            self.store(source, a)?;
            return self.store(place, sum);
        }
        self.update(place, self.insn.has_lock_prefix(), |a, f| {
            old.set(a);
            ADD(size, a, b, f)
        })?;
        self.store(source, old.get())
    }

    /// XCHG, which locks memory without being told.
    pub fn xchg(&mut self) -> Res<()> {
        let (place, other) = if self.is_memory(1) { (1, 0) } else { (0, 1) };
        let (place, other) = (
            self.place(place, Use::Write)?,
            self.place(other, Use::Read)?,
        );
        let (new, old) = (self.load(other, AccessKind::Data)?, Cell::new(0));
        self.update(place, true, |a, f| {
            old.set(a);
            (new, f)
        })?;
        self.store(other, old.get())
    }

    /// CMPXCHG. Memory is written in either case; a register only if it was equal, so a 32-bit one keeps its upper half.
    pub fn cmpxchg(&mut self) -> Res<()> {
        let place = self.place(0, Use::Write)?;
        let size = place.size();
        let (acc, new, old) = (self.reg_sized(RAX, size), self.value(1)?, Cell::new(0));
        if let Place::Reg { .. } = place {
            old.set(self.load(place, AccessKind::Data)?);
            self.flags = SUB(size, acc, old.get(), self.flags).1;
            if self.flags & ZF != 0 {
                self.store(place, new)?;
            }
        } else {
            self.update(place, self.insn.has_lock_prefix(), |a, f| {
                old.set(a);
                let (difference, f) = SUB(size, acc, a, f);
                (if difference == 0 { new } else { a }, f)
            })?;
        }
        if self.flags & ZF == 0 {
            self.set_reg(RAX, size, old.get());
        }
        Ok(())
    }

    /// CMPXCHG8B (`half` 4) and CMPXCHG16B (`half` 8).
    pub fn cmpxchg_double(&mut self, half: usize) -> Res<()> {
        let linear = self.memory_at(0, half * 2, Use::Write)?;
        if half == 8 && !linear.is_multiple_of(16) {
            return Err(self.gp());
        }
        let bits = half as u32 * 8;
        let pair = |hi: u64, lo: u64| u128::from(hi) << bits | u128::from(lo);
        let expected = pair(self.reg_sized(RDX, half), self.reg_sized(RAX, half));
        let wanted = pair(self.reg_sized(RCX, half), self.reg_sized(RBX, half));
        let mut old = 0;
        // Without LOCK too: what is exchanged in one go is right for both.
        self.update_locked(linear, half * 2, AccessKind::Update, &mut |found| {
            old = found;
            if found == expected { wanted } else { found }
        })?;
        if old == expected {
            self.flags |= ZF;
        } else {
            self.flags &= !ZF;
            self.set_reg(RAX, half, old as u64);
            self.set_reg(RDX, half, (old >> bits) as u64);
        }
        Ok(())
    }

    /// Writes a double-width result to AX, or to (E/R)DX:(E/R)AX.
    fn set_double(&mut self, size: usize, lo: u64, hi: u64) {
        if size == 1 {
            self.set_reg(RAX, 2, hi << 8 | lo);
        } else {
            self.set_reg(RAX, size, lo);
            self.set_reg(RDX, size, hi);
        }
    }

    /// MUL and one-operand IMUL.
    pub fn multiply(&mut self, signed: bool) -> Res<()> {
        let (size, b) = (self.operand_size(0)?, self.value(0)?);
        let (lo, hi, flags) = alu::mul(size, self.reg_sized(RAX, size), b, signed, self.flags);
        self.flags = flags;
        self.set_double(size, lo, hi);
        Ok(())
    }

    /// IMUL with one, two or three operands.
    pub fn imul(&mut self) -> Res<()> {
        let (a, b) = match self.insn.op_count() {
            1 => return self.multiply(true),
            2 => (0, 1),
            _ => (1, 2),
        };
        let size = self.operand_size(0)?;
        let (lo, _, flags) = alu::mul(size, self.value(a)?, self.value(b)?, true, self.flags);
        self.flags = flags;
        self.set_value(0, lo)
    }

    /// DIV and IDIV.
    pub fn divide(&mut self, signed: bool) -> Res<()> {
        let (size, by) = (self.operand_size(0)?, self.value(0)?);
        let (hi, lo) = match size {
            1 => (self.reg(RAX) >> 8, self.reg(RAX)),
            _ => (self.reg(RDX), self.reg(RAX)),
        };
        let (quotient, remainder) = alu::div(size, hi, lo, by, signed).ok_or(EmuFault::DE)?;
        self.set_double(size, quotient, remainder);
        Ok(())
    }

    /// BSF and BSR, which leave the destination alone if the source is 0; TZCNT and LZCNT, which count.
    pub fn scan(&mut self, reverse: bool, count: bool) -> Res<()> {
        let (size, a) = (self.operand_size(0)?, self.value(1)?);
        let width = size as u64 * 8;
        let leading = u64::from(a.leading_zeros()) - (64 - width);
        let trailing = u64::from(a.trailing_zeros()).min(width);
        if count {
            let n = if reverse { leading } else { trailing };
            self.flags &= !(CF | ZF);
            self.flags |= if n == width { CF } else { 0 } | if n == 0 { ZF } else { 0 };
            return self.set_value(0, n);
        }
        if a == 0 {
            self.flags |= ZF;
            return Ok(());
        }
        self.flags &= !ZF;
        self.set_value(
            0,
            if reverse {
                width - 1 - leading
            } else {
                trailing
            },
        )
    }

    /// POPCNT.
    pub fn popcnt(&mut self) -> Res<()> {
        let a = self.value(1)?;
        self.flags &= !alu::ARITH;
        self.flags |= if a == 0 { ZF } else { 0 };
        self.set_value(0, u64::from(a.count_ones()))
    }

    /// BSWAP. With a 16-bit register the result is undefined: zero, as processors have it.
    pub fn bswap(&mut self) -> Res<()> {
        let (size, a) = (self.operand_size(0)?, self.value(0)?);
        let swapped = match size {
            2 => 0,
            4 => u64::from((a as u32).swap_bytes()),
            _ => a.swap_bytes(),
        };
        self.set_value(0, swapped)
    }

    /// CBW, CWDE, CDQE: the accumulator's lower half of `from` bytes extended to the whole.
    pub fn extend_accumulator(&mut self, from: usize) -> Res<()> {
        let value = sign_extend(from, self.reg_sized(RAX, from));
        self.set_reg(RAX, from * 2, value);
        Ok(())
    }

    /// CWD, CDQ, CQO: the sign of the accumulator throughout (E/R)DX.
    pub fn extend_to_dx(&mut self, size: usize) -> Res<()> {
        let sign = (sign_extend(size, self.reg_sized(RAX, size)) as i64 >> 63) as u64;
        self.set_reg(RDX, size, sign);
        Ok(())
    }

    /// DAA and DAS.
    pub fn decimal_adjust(&mut self, sub: bool) -> Res<()> {
        let (al, flags) = alu::decimal_adjust(self.reg(RAX) as u8, sub, self.flags);
        self.flags = flags;
        self.set_reg(RAX, 1, u64::from(al));
        Ok(())
    }

    /// AAA and AAS.
    pub fn ascii_adjust(&mut self, sub: bool) -> Res<()> {
        let (ax, flags) = alu::ascii_adjust(self.reg(RAX) as u16, sub, self.flags);
        self.flags = flags;
        self.set_reg(RAX, 2, u64::from(ax));
        Ok(())
    }

    /// AAM: AL in base `imm8`, which #DE if 0.
    pub fn aam(&mut self) -> Res<()> {
        let (base, al) = (self.value(0)?, self.reg_sized(RAX, 1));
        let (Some(high), Some(low)) = (al.checked_div(base), al.checked_rem(base)) else {
            return Err(EmuFault::DE);
        };
        self.set_reg(RAX, 2, high << 8 | low);
        self.flags = alu::logic(1, low, self.flags).1;
        Ok(())
    }

    /// AAD: AL = AL + AH * imm8, AH = 0.
    pub fn aad(&mut self) -> Res<()> {
        let (base, ax) = (self.value(0)?, self.reg_sized(RAX, 2));
        let al = (ax & 0xff).wrapping_add((ax >> 8).wrapping_mul(base)) & 0xff;
        self.set_reg(RAX, 2, al);
        self.flags = alu::logic(1, al, self.flags).1;
        Ok(())
    }

    /// LAHF.
    pub fn lahf(&mut self) -> Res<()> {
        let ah = (self.flags & 0xd5) | 2;
        let ax = self.reg(RAX) & 0xff | ah << 8;
        self.set_reg(RAX, 2, ax);
        Ok(())
    }

    /// SAHF.
    pub fn sahf(&mut self) -> Res<()> {
        let loaded = SF | ZF | AF | alu::PF | CF;
        self.flags = self.flags & !loaded | self.reg(RAX) >> 8 & loaded;
        Ok(())
    }

    /// SALC (D6h): AL = CF ? FFh : 0.
    pub fn salc(&mut self) -> Res<()> {
        let al = if self.flags & CF != 0 { 0xff } else { 0 };
        self.set_reg(RAX, 1, al);
        Ok(())
    }

    /// BOUND: #BR unless operand 0 lies within the two bounds in memory, as signed numbers.
    pub fn bound(&mut self) -> Res<()> {
        let index = self.place(0, Use::Read)?;
        let size = index.size();
        let linear = self.memory_at(0, size * 2, Use::Read)?;
        let both = self.read(linear, size * 2, AccessKind::Data)?;
        let signed = |v: u64| sign_extend(size, v & mask(size)) as i64;
        let index = signed(self.load(index, AccessKind::Data)?);
        if index < signed(both) || index > signed(both >> (size * 8)) {
            return Err(EmuFault::Exception {
                vector: vector::BR,
                error: None,
                cr2: None,
            });
        }
        Ok(())
    }

    /// SETcc.
    pub fn set_on(&mut self, cc: u8) -> Res<()> {
        self.set_value(0, u64::from(alu::condition(cc, self.flags)))
    }

    /// CMOVcc: the source is read in any case, and a 32-bit destination's upper half cleared.
    pub fn move_on(&mut self, cc: u8) -> Res<()> {
        let value = self.value(1)?;
        let value = if alu::condition(cc, self.flags) {
            value
        } else {
            self.value(0)?
        };
        self.set_value(0, value)
    }

    /// NEG: CF is set unless the operand was 0.
    pub fn neg(&mut self) -> Res<()> {
        self.unary(|s, a, f| alu::sub(s, 0, a, false, f))
    }

    /// NOT: no flags.
    pub fn not(&mut self) -> Res<()> {
        self.unary(|s, a, f| (!a & mask(s), f))
    }
}
