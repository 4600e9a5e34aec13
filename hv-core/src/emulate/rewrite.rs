//! An instruction of the guest, rewritten for another place: 64-bit code, with its memory operand, if it has one, at
//! [`NativeInsn::OPERAND`].
//!
//! Only instructions without branches, stack, privilege and string operands come here: x87, MMX, SSE, AVX, and a few on general registers.
//! Their opcodes mean the same in every mode. What is rewritten is the addressing (ModRM, SIB and displacement become an absolute address;
//! the prefixes for address size and segments go) and what 16- and 32-bit code cannot say (REX.W, VEX.W and the upper half of VEX.vvvv).
//! The result is decoded again, and is good only if it is the same instruction on the same registers.

use super::native_insn::NativeInsn;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction, Mnemonic, OpKind, Register};

/// The group that an opcode belongs to (SDM vol 2A 2.1.2, "Opcodes").
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Map {
    /// One byte: D8 to DF, the x87 instructions.
    Escape,
    /// 0F.
    Of,
    /// 0F 38.
    Of38,
    /// 0F 3A.
    Of3a,
}

/// An instruction's bytes, taken apart.
pub(super) struct Parts<'a> {
    operand_size: bool,
    repeat: Option<u8>,
    rex: u8,
    /// The VEX prefix as three bytes, C4 first.
    vex: Option<[u8; 3]>,
    pub map: Map,
    pub opcode: u8,
    /// ModRM and what follows.
    rest: &'a [u8],
}

impl<'a> Parts<'a> {
    /// Takes `bytes` of 64-bit (`long`) or other code apart. None: the encoding is not one of those that are rewritten.
    pub fn of(bytes: &'a [u8], long: bool) -> Option<Self> {
        let mut p = Parts {
            operand_size: false,
            repeat: None,
            rex: 0,
            vex: None,
            map: Map::Escape,
            opcode: 0,
            rest: bytes,
        };
        loop {
            let (&first, rest) = p.rest.split_first()?;
            match first {
                0x66 => p.operand_size = true,
                0xf2 | 0xf3 => p.repeat = Some(first),
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x67 => {}
                0x40..=0x4f if long => {
                    // It counts only right before the opcode.
                    p.rex = first;
                    p.rest = rest;
                    continue;
                }
                _ => break,
            }
            p.rex = 0;
            p.rest = rest;
        }
        p.take_opcode(long)?;
        Some(p)
    }

    fn take_opcode(&mut self, long: bool) -> Option<()> {
        let is_vex = |b: Option<&u8>| long || b.is_some_and(|b| b & 0xc0 == 0xc0);
        match *self.rest {
            [0xc5, b, opcode, ref rest @ ..] if is_vex(Some(&b)) => {
                // The two-byte form has R, vvvv, L and pp; X, B, W and the map are their defaults.
                self.vex = Some([0xc4, b & 0x80 | 0x61, b & 0x7f]);
                (self.map, self.opcode, self.rest) = (Map::Of, opcode, rest);
            }
            [0xc4, b, c, opcode, ref rest @ ..] if is_vex(Some(&b)) => {
                self.vex = Some([0xc4, b, c]);
                self.map = match b & 0x1f {
                    1 => Map::Of,
                    2 => Map::Of38,
                    3 => Map::Of3a,
                    _ => return None,
                };
                (self.opcode, self.rest) = (opcode, rest);
            }
            [0x0f, 0x38, opcode, ref rest @ ..] => {
                (self.map, self.opcode, self.rest) = (Map::Of38, opcode, rest);
            }
            [0x0f, 0x3a, opcode, ref rest @ ..] => {
                (self.map, self.opcode, self.rest) = (Map::Of3a, opcode, rest);
            }
            // 0F 0F is 3DNow!, whose opcode comes last.
            [0x0f, opcode, ref rest @ ..] if opcode != 0x0f => {
                (self.map, self.opcode, self.rest) = (Map::Of, opcode, rest);
            }
            [opcode @ 0xd8..=0xdf, ref rest @ ..] => {
                (self.map, self.opcode, self.rest) = (Map::Escape, opcode, rest);
            }
            _ => return None,
        }
        Some(())
    }

    /// Whether it is VEX-encoded.
    pub fn is_vex(&self) -> bool {
        self.vex.is_some()
    }

    /// The ModRM byte; EMMS and VZEROUPPER have none.
    pub fn modrm(&self) -> Option<u8> {
        let none = self.map == Map::Of && self.opcode == 0x77;
        self.rest.first().copied().filter(|_| !none)
    }

    /// How many immediate bytes end an instruction with a memory operand.
    fn immediate(&self) -> usize {
        match (self.map, self.opcode) {
            (Map::Of3a, _) | (Map::Of, 0x70..=0x73 | 0xc2 | 0xc4..=0xc6) => 1,
            _ => 0,
        }
    }

    /// Whether the immediate names a register: VBLENDVPS, VBLENDVPD, VPBLENDVB.
    fn names_register(&self) -> bool {
        self.is_vex() && self.map == Map::Of3a && matches!(self.opcode, 0x4a..=0x4c)
    }

    /// Puts it together again. `reg` replaces the opcode extension in ModRM.
    fn assemble(&self, long: bool, narrow: bool, reg: Option<u8>) -> Option<([u8; 16], usize)> {
        let mut out = Out::default();
        if self.operand_size {
            out.push(0x66);
        }
        self.repeat.into_iter().for_each(|b| out.push(b));
        let modrm = self.modrm();
        let memory = modrm.is_some_and(|m| m < 0xc0);
        match self.vex {
            Some([a, mut b, mut c]) => {
                if memory {
                    // No index, no base: X and B, inverted.
                    b |= 0x60;
                }
                if !long {
                    b |= 0xe0;
                    c |= 0x40;
                    if narrow {
                        c &= 0x7f;
                    }
                }
                [a, b, c].into_iter().for_each(|b| out.push(b));
            }
            None => {
                let rex = if memory { self.rex & 0x4c } else { self.rex };
                if rex != 0 {
                    out.push(rex);
                }
                match self.map {
                    Map::Escape => {}
                    Map::Of => out.push(0x0f),
                    Map::Of38 => [0x0f, 0x38].into_iter().for_each(|b| out.push(b)),
                    Map::Of3a => [0x0f, 0x3a].into_iter().for_each(|b| out.push(b)),
                }
            }
        }
        out.push(self.opcode);
        match modrm.filter(|_| memory) {
            Some(m) => {
                let reg = reg.map_or(m & 0x38, |reg| reg << 3);
                // A SIB byte without base and index: the displacement is the address.
                out.push(reg | 4);
                out.push(0x25);
                let address = (NativeInsn::OPERAND as u32).to_le_bytes();
                address.into_iter().for_each(|b| out.push(b));
                let tail = self.rest.len().checked_sub(self.immediate())?;
                self.rest.get(tail..)?.iter().for_each(|b| out.push(*b));
            }
            None => self.rest.iter().for_each(|b| out.push(*b)),
        }
        // The top bit of a register that the last byte names does not count outside 64-bit mode.
        if !long && self.names_register() {
            out.clear_top_bit();
        }
        out.done()
    }
}

/// Bytes of code, at most 15.
#[derive(Default)]
struct Out {
    bytes: [u8; 16],
    len: usize,
}

impl Out {
    fn push(&mut self, byte: u8) {
        if let Some(b) = self.bytes.get_mut(self.len) {
            *b = byte;
        }
        self.len += 1;
    }

    fn clear_top_bit(&mut self) {
        if let Some(b) = self.bytes.get_mut(self.len.wrapping_sub(1)) {
            *b &= 0x7f;
        }
    }

    fn done(self) -> Option<([u8; 16], usize)> {
        (self.len < self.bytes.len()).then_some((self.bytes, self.len))
    }
}

/// Rewrites `insn`, which consists of `parts`. `narrow`: its general-purpose register or memory operand has 32 bits. `reg` replaces the
/// opcode extension in ModRM. None: that cannot be.
pub(super) fn rewrite(
    parts: &Parts<'_>,
    insn: &Instruction,
    long: bool,
    narrow: bool,
    reg: Option<u8>,
) -> Option<([u8; 16], usize)> {
    use Mnemonic::{Xrstor, Xrstor64, Xsave, Xsave64};
    let (code, len) = parts.assemble(long, narrow, reg)?;
    let bytes = code.get(..len)?;
    let mut decoder = Decoder::with_ip(64, bytes, NativeInsn::CODE, DecoderOptions::NONE);
    let new = decoder.decode();
    let whole = decoder.last_error() == DecoderError::None && new.len() == len;
    let same = match reg {
        Some(_) => matches!(new.mnemonic(), Xsave | Xsave64 | Xrstor | Xrstor64),
        None => new.code() == insn.code() && same_operands(&new, insn),
    };
    (whole && same && safe_memory(&new)).then_some((code, len))
}

fn same_operands(new: &Instruction, old: &Instruction) -> bool {
    new.op_count() == old.op_count()
        && (0..new.op_count()).all(|i| {
            new.op_kind(i) == old.op_kind(i)
                && (new.op_kind(i) != OpKind::Register || new.op_register(i) == old.op_register(i))
        })
}

/// Whether the memory operand, if there is one, is where it is to be.
fn safe_memory(insn: &Instruction) -> bool {
    (0..insn.op_count()).all(|i| match insn.op_kind(i) {
        OpKind::Memory => {
            insn.memory_base() == Register::None
                && insn.memory_index() == Register::None
                && insn.memory_displacement64() == NativeInsn::OPERAND
        }
        OpKind::Register | OpKind::Immediate8 => true,
        OpKind::Immediate8_2nd => true,
        _ => false,
    })
}
