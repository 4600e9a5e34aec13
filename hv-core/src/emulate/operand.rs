//! Operands: registers, immediates, and memory through effective addresses.

use super::Res;
use super::alu::mask;
use super::exec::Exec;
use super::segment::Use;
use super::{AccessKind, EmuCx, EmuFault};
use crate::Gva;
use crate::regs::SegReg;
use iced_x86::{Code, MemorySize, OpKind, Register};

/// Where an operand is: its number as a register, or its linear address; and its size in bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Reg { n: usize, shift: u32, size: usize },
    Mem { linear: u64, size: usize },
}

impl Place {
    pub fn size(self) -> usize {
        match self {
            Place::Reg { size, .. } | Place::Mem { size, .. } => size,
        }
    }
}

/// What the decoder's general-purpose registers are, by their number there: the register's number, the position of its low bit
/// and its size in bytes, which is 0 for others.
const GPRS: [(u8, u8, u8); Register::R15 as usize + 1] = {
    let mut table = [(0, 0, 0); Register::R15 as usize + 1];
    // First register, number of it, how many, low bit, size. SPL to DIL have the encodings of AH to BH.
    let groups = [
        (Register::AL, 0, 4, 0, 1),
        (Register::AH, 0, 4, 8, 1),
        (Register::SPL, 4, 12, 0, 1),
        (Register::AX, 0, 16, 0, 2),
        (Register::EAX, 0, 16, 0, 4),
        (Register::RAX, 0, 16, 0, 8),
    ];
    let mut g = 0;
    while g < groups.len() {
        let (first, number, count, shift, size) = groups[g];
        let mut i = 0;
        while i < count {
            table[first as usize + i as usize] = (number + i, shift, size);
            i += 1;
        }
        g += 1;
    }
    table
};

/// A general-purpose register's number, the position of its low bit (8 for AH to BH) and its size in bytes.
#[inline]
pub(super) fn gpr(reg: Register) -> Option<(usize, u32, usize)> {
    match GPRS.get(reg as usize) {
        Some(&(n, shift, size)) if size != 0 => Some((n.into(), shift.into(), size.into())),
        _ => None,
    }
}

/// A segment register by the decoder's name.
pub(super) fn segreg(reg: Register) -> Option<SegReg> {
    Some(match reg {
        Register::ES => SegReg::Es,
        Register::CS => SegReg::Cs,
        Register::SS => SegReg::Ss,
        Register::DS => SegReg::Ds,
        Register::FS => SegReg::Fs,
        Register::GS => SegReg::Gs,
        _ => return None,
    })
}

/// An XMM register's number, if it is one of the first sixteen.
pub(super) fn xmm(reg: Register) -> Option<usize> {
    (Register::XMM0..=Register::XMM15)
        .contains(&reg)
        .then(|| reg as usize - Register::XMM0 as usize)
}

/// The bytes of a memory operand. None: AVX-512's, and those of instructions that know their operands' sizes themselves.
fn memory_bytes(size: MemorySize) -> Option<usize> {
    use MemorySize::*;
    // The decoder numbers packed values by their size, from element to element.
    let packed =
        |from: MemorySize, to: MemorySize| (from as usize..=to as usize).contains(&(size as usize));
    Some(match size {
        UInt8 | Int8 => 1,
        UInt16 | Int16 | WordOffset | Float16 => 2,
        UInt32 | Int32 | Float32 | DwordOffset => 4,
        UInt64 | Int64 | Float64 | QwordOffset => 8,
        UInt128 | Int128 | Float128 => 16,
        UInt256 | Int256 => 32,
        Float80 | Bcd => 10,
        _ if packed(Packed16_UInt8, Packed16_Int8) => 2,
        _ if packed(Packed32_UInt8, Packed32_BFloat16) => 4,
        _ if packed(Packed64_UInt8, Packed64_Float32) => 8,
        _ if packed(Packed128_UInt8, Packed128_2xBFloat16) => 16,
        _ if packed(Packed256_UInt8, Packed256_2xBFloat16) => 32,
        _ => return None,
    })
}

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// The size in bytes of the addresses of the memory operand.
    #[inline]
    pub fn address_size(&self) -> usize {
        let mut register = self.insn.memory_base();
        if register == Register::None {
            register = self.insn.memory_index();
        }
        match (register, gpr(register)) {
            (_, Some((_, _, size))) => size,
            (Register::RIP, _) => 8,
            (Register::EIP, _) => 4,
            _ => match self.insn.memory_displ_size() {
                2 => 2,
                8 => 8,
                _ => 4,
            },
        }
    }

    /// The offset of what lies `skip` bytes into the memory operand, within its segment and cut to the address size.
    #[inline]
    pub fn effective(&self, skip: u64) -> u64 {
        let insn = &self.insn;
        let value = |r: Register| gpr(r).map_or(0, |(n, _, size)| self.reg_sized(n, size));
        // For RIP-relative operands the decoder has added RIP to the displacement.
        let index = value(insn.memory_index()).wrapping_mul(u64::from(insn.memory_index_scale()));
        let sum = value(insn.memory_base())
            .wrapping_add(index)
            .wrapping_add(insn.memory_displacement64())
            .wrapping_add(skip);
        sum & mask(self.address_size())
    }

    /// The segment of the memory operand.
    pub fn memory_segment(&self) -> SegReg {
        segreg(self.insn.memory_segment()).unwrap_or(SegReg::Ds)
    }

    /// The linear address of `len` bytes, `skip` bytes into the memory operand.
    pub fn memory_at(&self, skip: u64, len: usize, usage: Use) -> Res<u64> {
        self.linear(
            self.memory_segment(),
            self.effective(skip),
            len as u64,
            usage,
        )
    }

    /// Whether operand `i` is in memory.
    pub fn is_memory(&self, i: u32) -> bool {
        self.insn.op_kind(i) == OpKind::Memory
    }

    /// The size in bytes of the memory operand.
    pub fn memory_size(&self) -> Res<usize> {
        memory_bytes(self.insn.memory_size()).ok_or(EmuFault::Unsupported("memory operand"))
    }

    /// Finds operand `i`, checking its segment for `usage`.
    pub fn place(&self, i: u32, usage: Use) -> Res<Place> {
        if self.is_memory(i) {
            let size = self.memory_size()?;
            return Ok(Place::Mem {
                linear: self.memory_at(0, size, usage)?,
                size,
            });
        }
        let (n, shift, size) =
            gpr(self.insn.op_register(i)).ok_or(EmuFault::Unsupported("operand"))?;
        Ok(Place::Reg { n, shift, size })
    }

    pub fn load(&mut self, place: Place, kind: AccessKind) -> Res<u64> {
        match place {
            Place::Reg { n, shift, size } => Ok(self.reg(n) >> shift & mask(size)),
            Place::Mem { linear, size } => self.read(linear, size, kind),
        }
    }

    pub fn store(&mut self, place: Place, value: u64) -> Res<()> {
        match place {
            Place::Reg { n, shift: 0, size } => {
                self.set_reg(n, size, value);
                Ok(())
            }
            Place::Reg { n, shift, size } => {
                let keep = self.reg(n) & !(mask(size) << shift);
                self.set_reg(n, 8, keep | (value & mask(size)) << shift);
                Ok(())
            }
            Place::Mem { linear, size } => self.write(linear, size, value, AccessKind::Data),
        }
    }

    /// The value of operand `i`, a register, memory or an immediate (extended with its sign as the encoding says).
    #[inline(always)]
    pub fn value(&mut self, i: u32) -> Res<u64> {
        if self.insn.op_kind(i) == OpKind::Register
            && let Some((n, 0, size)) = gpr(self.insn.op_register(i))
        {
            return Ok(self.reg_sized(n, size));
        }
        self.any_value(i)
    }

    fn any_value(&mut self, i: u32) -> Res<u64> {
        match self.insn.op_kind(i) {
            OpKind::Memory => {
                let size = self.memory_size()?;
                let linear = self.memory_at(0, size, Use::Read)?;
                self.read(linear, size, AccessKind::Data)
            }
            OpKind::Register => {
                let place = self.place(i, Use::Read)?;
                self.load(place, AccessKind::Data)
            }
            _ => self
                .insn
                .try_immediate(i)
                .map_err(|_| EmuFault::Unsupported("operand")),
        }
    }

    /// Writes operand `i`.
    #[inline(always)]
    pub fn set_value(&mut self, i: u32, value: u64) -> Res<()> {
        if self.insn.op_kind(i) == OpKind::Register
            && let Some((n, 0, size)) = gpr(self.insn.op_register(i))
        {
            self.set_reg(n, size, value);
            return Ok(());
        }
        self.set_any_value(i, value)
    }

    fn set_any_value(&mut self, i: u32, value: u64) -> Res<()> {
        if self.is_memory(i) {
            let size = self.memory_size()?;
            let linear = self.memory_at(0, size, Use::Write)?;
            return self.write(linear, size, value, AccessKind::Data);
        }
        let place = self.place(i, Use::Write)?;
        self.store(place, value)
    }

    /// The size in bytes of operand `i`: of the register, of memory, or as the encoding of the immediate says.
    pub fn operand_size(&self, i: u32) -> Res<usize> {
        Ok(match self.insn.op_kind(i) {
            OpKind::Memory => self.memory_size()?,
            OpKind::Register => match gpr(self.insn.op_register(i)) {
                Some((_, _, size)) => size,
                None => return Err(EmuFault::Unsupported("operand")),
            },
            OpKind::Immediate8 => 1,
            OpKind::Immediate16 | OpKind::Immediate8to16 | OpKind::NearBranch16 => 2,
            OpKind::Immediate32 | OpKind::Immediate8to32 | OpKind::NearBranch32 => 4,
            _ => 8,
        })
    }

    /// Replaces what is at `place` by what `change` makes of it and RFLAGS: `(old, flags) -> (new, flags)`. Memory is read
    /// and written once; with `lock` in one go, for which `change` may be called again if another CPU was faster.
    pub fn update(
        &mut self,
        place: Place,
        lock: bool,
        change: impl Fn(u64, u64) -> (u64, u64),
    ) -> Res<()> {
        let Place::Mem { linear, size } = place else {
            let old = self.load(place, AccessKind::Data)?;
            let (new, flags) = change(old, self.flags);
            self.flags = flags;
            return self.store(place, new);
        };
        let before = self.flags;
        if lock {
            let mut after = before;
            self.update_locked(linear, size, AccessKind::Update, &mut |old| {
                let (new, flags) = change(old as u64, before);
                after = flags;
                new.into()
            })?;
            self.flags = after;
            return Ok(());
        }
        let old = self.read(linear, size, AccessKind::Update)?;
        let (new, flags) = change(old, before);
        self.write(linear, size, new, AccessKind::Data)?;
        self.flags = flags;
        Ok(())
    }

    /// Replaces `size` (1, 2, 4, 8 or 16) bytes of memory LOCKed by what `change` makes of them. Where linear addresses wrap at 4 GiB, at the end of
    /// the last page, nothing is shared that could be locked.
    pub fn update_locked(
        &mut self,
        linear: u64,
        size: usize,
        kind: AccessKind,
        change: &mut dyn FnMut(u128) -> u128,
    ) -> Res<()> {
        // What has 16 bytes checks its alignment itself.
        if size <= 8 {
            self.check_aligned(linear, size, kind)?;
        }
        if self.wrap(linear, size).is_none() {
            return self.cx.update(Gva(linear), size, kind, change);
        }
        let mut bytes = [0; 16];
        if let Some(part) = bytes.get_mut(..size) {
            self.read_bytes(linear, part, kind)?;
        }
        let new = change(u128::from_le_bytes(bytes)).to_le_bytes();
        self.write_bytes(linear, new.get(..size).unwrap_or_default(), kind)
    }

    /// Sets and clears bits of the byte at `linear`, part of a descriptor, as the CPU does it: LOCKed (SDM vol 3A 9.1.2.1, "Automatic
    /// Locking"). A CPU that writes there again and again in the meantime comes too late.
    pub fn update_descriptor_byte(&mut self, linear: u64, set: u64, clear: u64) -> Res<()> {
        let change = |old: u64| old & !clear | set;
        let mut change_byte = |old: u128| change(old as u64).into();
        match self.update_locked(linear, 1, AccessKind::System, &mut change_byte) {
            Err(EmuFault::Retry) => {
                let old = self.read(linear, 1, AccessKind::System)?;
                self.write(linear, 1, change(old), AccessKind::System)
            }
            done => done,
        }
    }

    /// [`update`](Self::update) of operand 0, which the instruction may LOCK; `change` is told its size first.
    #[inline]
    pub fn update_op0(&mut self, change: impl Fn(usize, u64, u64) -> (u64, u64)) -> Res<()> {
        if self.insn.op0_kind() == OpKind::Register
            && let Some((n, 0, size)) = gpr(self.insn.op0_register())
        {
            let (new, flags) = change(size, self.reg_sized(n, size), self.flags);
            self.flags = flags;
            self.set_reg(n, size, new);
            return Ok(());
        }
        let place = self.place(0, Use::Write)?;
        let size = place.size();
        self.update(place, self.insn.has_lock_prefix(), |a, f| {
            change(size, a, f)
        })
    }

    /// The operand size in bytes of instructions that do not show it in their operands.
    pub fn implied_size(&self) -> usize {
        use Code::*;
        match self.insn.code() {
            Pushw_ES | Pushw_CS | Pushw_SS | Pushw_DS | Pushw_FS | Pushw_GS | Popw_ES | Popw_SS
            | Popw_DS | Popw_FS | Popw_GS | Pushfw | Popfw | Pushaw | Popaw | Enterw_imm16_imm8
            | Leavew | Retnw | Retnw_imm16 | Retfw | Retfw_imm16 | Iretw | Call_ptr1616
            | Jmp_ptr1616 | Call_m1616 | Jmp_m1616 => 2,
            Pushd_ES | Pushd_CS | Pushd_SS | Pushd_DS | Pushd_FS | Pushd_GS | Popd_ES | Popd_SS
            | Popd_DS | Popd_FS | Popd_GS | Pushfd | Popfd | Pushad | Popad | Enterd_imm16_imm8
            | Leaved | Retnd | Retnd_imm16 | Retfd | Retfd_imm16 | Iretd | Call_ptr1632
            | Jmp_ptr1632 | Call_m1632 | Jmp_m1632 => 4,
            _ => 8,
        }
    }
}
