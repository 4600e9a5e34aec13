//! IN, OUT, INS and OUTS, and the fast path for exits of INS and OUTS.
//!
//! An installer's boot reads tens of millions of words through REP INSW: elements travel a page's worth at a time, through
//! one call of the port's device. Memory is checked before a port is read, so a page fault loses no data.

use super::Res;
use super::decode::Bytes;
use super::exec::Exec;
use super::operand::segreg;
use super::segment::Use;
use super::strings::{Pass, in_page};
use super::{AccessKind, EmuCx, EmuFault, Kind, Mode, Step};
use crate::Gva;
use crate::device::AccessSize;
use crate::regs::gpr::{RAX, RDI, RDX, RSI};
use crate::regs::{Rflags, SegAttr, SegReg};
use iced_x86::{DecoderOptions, Mnemonic, OpKind};

/// The most bytes between a port and memory at once.
const CHUNK: usize = 2048;

/// An exit of INS or OUTS as the hardware describes it. What it does not say is decoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StringIo {
    /// The port.
    pub port: u16,
    /// The size of an element.
    pub size: AccessSize,
    /// OUTS; false is INS.
    pub write: bool,
    /// With a REP prefix.
    pub rep: bool,
    /// The size of addresses in bytes: 2, 4 or 8.
    pub address_size: u8,
    /// The segment that OUTS reads from, if the hardware says (it does with decode assists). Unused for INS.
    pub segment: Option<SegReg>,
    /// The next instruction, if the hardware says.
    pub next_rip: Option<u64>,
}

/// Carries out an intercepted INS or OUTS, whose permission the processor has checked. At most 4,096 iterations.
///
/// # Errors
/// The exception of its memory operand; [`EmuFault::Retry`] if the instruction is not there any more. Finished iterations are
/// in the registers.
pub fn string_io<C: EmuCx + ?Sized>(cx: &mut C, io: &StringIo) -> Result<Step, EmuFault> {
    let mode = Mode::of(cx);
    let mut segment = io.segment.unwrap_or(SegReg::Ds);
    let mut next = io.next_rip;
    if next.is_none() || (io.write && io.segment.is_none()) {
        let insn = Bytes::fetch(cx, mode)?.decode(cx, mode, DecoderOptions::NONE)?;
        if string_port(insn.mnemonic()) != Some((io.write, io.size)) {
            return Err(EmuFault::Retry);
        }
        if io.write && io.segment.is_none() {
            segment = segreg(insn.memory_segment()).unwrap_or(SegReg::Ds);
        }
        next = next.or(Some(mode.next_rip(cx.rip(), insn.len() as u64)));
    }
    let mut exec = Exec::new(cx, mode);
    exec.rip = next.unwrap_or(exec.start);
    let pass = Pass {
        size: io.size.bytes(),
        address: match io.address_size {
            2 => 2,
            4 => 4,
            _ => 8,
        },
        down: exec.flag(Rflags::DF),
        segment,
    };
    exec.string_port(&pass, io.port, io.size, io.write, io.rep)?;
    Ok(exec.commit())
}

/// INS and OUTS by mnemonic: whether it writes the port, and the size.
fn string_port(mnemonic: Mnemonic) -> Option<(bool, AccessSize)> {
    Some(match mnemonic {
        Mnemonic::Insb => (false, AccessSize::Byte),
        Mnemonic::Insw => (false, AccessSize::Word),
        Mnemonic::Insd => (false, AccessSize::Dword),
        Mnemonic::Outsb => (true, AccessSize::Byte),
        Mnemonic::Outsw => (true, AccessSize::Word),
        Mnemonic::Outsd => (true, AccessSize::Dword),
        _ => return None,
    })
}

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// Moves elements between a port and memory.
    fn string_port(
        &mut self,
        pass: &Pass,
        port: u16,
        size: AccessSize,
        write: bool,
        rep: bool,
    ) -> Res<()> {
        let mut b = [0; CHUNK];
        self.repeat(pass, rep, |x, left| {
            let (index, segment, usage) = match write {
                true => (RSI, pass.segment, Use::Read),
                false => (RDI, SegReg::Es, Use::Write),
            };
            let (linear, n) = x.port_run(pass, index, segment, left, usage)?;
            let run = b
                .get_mut(..(n as usize * pass.size).min(CHUNK))
                .unwrap_or_default();
            if write {
                x.read_run(pass, linear, run)?;
                x.cx.port_out_block(port, size, run);
            } else {
                x.cx.check_write(Gva(linear), run.len())?;
                x.cx.port_in_block(port, size, run);
                x.write_run(pass, linear, run)?;
            }
            x.bump(index, pass.address, pass.delta(n));
            Ok((n, false))
        })
    }

    /// The linear address of the next run of elements, and their number: 1 when they descend or cross a page.
    fn port_run(
        &self,
        pass: &Pass,
        index: usize,
        segment: SegReg,
        max: u64,
        usage: Use,
    ) -> Res<(u64, u64)> {
        let offset = self.reg_sized(index, pass.address);
        let linear = self.linear(segment, offset, pass.size as u64, usage)?;
        if pass.down {
            return Ok((linear, 1));
        }
        let to_wrap = (super::alu::mask(pass.address) - offset) / pass.size as u64;
        let n = in_page(linear, pass.size, max.min(CHUNK as u64 / pass.size as u64)).min(to_wrap);
        let all = n > 1
            && self
                .linear(segment, offset, n * pass.size as u64, usage)
                .is_ok();
        Ok((linear, if all { n } else { 1 }))
    }

    fn read_run(&mut self, pass: &Pass, linear: u64, run: &mut [u8]) -> Res<()> {
        if run.len() == pass.size {
            self.read_bytes(linear, run, AccessKind::Data)
        } else if self.cx.ram_run(Gva(linear), run.len(), false) >= run.len() {
            self.cx.read(Gva(linear), run, AccessKind::Data)
        } else {
            self.cx.read_block(Gva(linear), pass.size, run)
        }
    }

    fn write_run(&mut self, pass: &Pass, linear: u64, run: &[u8]) -> Res<()> {
        if run.len() == pass.size {
            self.write_bytes(linear, run, AccessKind::Data)
        } else if self.cx.ram_run(Gva(linear), run.len(), true) >= run.len() {
            self.cx.write(Gva(linear), run, AccessKind::Data)
        } else {
            self.cx.write_block(Gva(linear), pass.size, run)
        }
    }

    /// INS and OUTS in [`step`](super::step).
    pub fn ins_outs(&mut self) -> Res<()> {
        let Some((write, size)) = string_port(self.insn.mnemonic()) else {
            return Err(EmuFault::UD);
        };
        let port = self.reg(RDX) as u16;
        self.check_port(port, size)?;
        let pass = Pass {
            size: size.bytes(),
            address: self.string_address_size(),
            down: self.flag(Rflags::DF),
            segment: segreg(self.insn.memory_segment()).unwrap_or(SegReg::Ds),
        };
        let rep = self.insn.has_rep_prefix() || self.insn.has_repne_prefix();
        self.string_port(&pass, port, size, write, rep)
    }

    /// IN and OUT.
    pub fn in_out(&mut self, write: bool) -> Res<()> {
        let (data, port) = if write { (1, 0) } else { (0, 1) };
        let port = match self.insn.op_kind(port) {
            OpKind::Register => self.reg(RDX) as u16,
            _ => self.insn.immediate8().into(),
        };
        let size = AccessSize::of(self.operand_size(data)?).ok_or(EmuFault::UD)?;
        self.check_port(port, size)?;
        if write {
            self.cx
                .port_out(port, size, self.reg(RAX) as u32 & size.ones());
        } else {
            let value = self.cx.port_in(port, size) & size.ones();
            self.set_reg(RAX, size.bytes(), value.into());
        }
        Ok(())
    }

    /// Checks the right to a port: IOPL, then the permission bitmap in the task-state segment (SDM vol 1 19.5, "Protected-Mode
    /// I/O").
    fn check_port(&mut self, port: u16, size: AccessSize) -> Res<()> {
        if self.mode.kind == Kind::Real || (self.mode.kind != Kind::Vm86 && self.cpl <= self.iopl())
        {
            return Ok(());
        }
        let tr = self.cx.segment(SegReg::Tr);
        // Types 9 and 11: a 16-bit TSS has no bitmap.
        if !tr.attr.contains(SegAttr::P) || tr.attr.bits() & 0xd != 9 || tr.limit < 103 {
            return Err(self.gp());
        }
        let width = if self.mode.is_64() {
            u64::MAX
        } else {
            0xffff_ffff
        };
        let at = |offset: u64| tr.base.wrapping_add(offset) & width;
        let (base_at, limit) = (at(102), u64::from(tr.limit));
        let byte = self.read(base_at, 2, AccessKind::System)? + u64::from(port / 8);
        if byte + 1 > limit {
            return Err(self.gp());
        }
        let allowed = self.read(at(byte), 2, AccessKind::System)?;
        let wanted = ((1 << size.bytes()) - 1) << (port % 8);
        if allowed & wanted == 0 {
            Ok(())
        } else {
            Err(self.gp())
        }
    }
}
