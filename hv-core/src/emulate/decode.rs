//! Fetching and decoding one instruction. Its bytes are read once: what was decoded is what is executed, even if another CPU
//! rewrites it meanwhile.

use super::Res;
use super::segment::{Use, canonical, check_segment, usable};
use super::{EmuCx, EmuFault, Kind, Mode};
use crate::Gva;
use crate::event::vector;
use crate::regs::SegReg;
use iced_x86::{Decoder, DecoderError, DecoderOptions, Instruction};

/// The longest instruction, in bytes (SDM vol 2A 2.3.11, "AVX Instruction Length").
pub(super) const MAX_LEN: usize = 15;

/// The bytes at RIP as far as they are known.
pub(super) struct Bytes {
    /// Bytes that are not known are 0; the last is never used.
    buf: [u8; MAX_LEN + 1],
    len: usize,
    /// How many the code segment's limit or the canonical addresses leave, at most 15.
    room: usize,
    linear: u64,
    rip: u64,
}

impl Bytes {
    /// Fetches the instruction at RIP.
    pub fn fetch<C: EmuCx + ?Sized>(cx: &mut C, mode: Mode) -> Res<Self> {
        let rip = mode.next_rip(cx.rip(), 0);
        let cs = cx.segment(SegReg::Cs);
        let linear = check_segment(&*cx, mode, SegReg::Cs, cs, rip, 1, Use::Fetch)
            .ok_or_else(|| gp(mode))?;
        let room = if mode.is_64() {
            canonical_room(&*cx, linear)
        } else {
            let limit = u64::from(cs.limit).saturating_sub(rip).saturating_add(1);
            limit.min((1 << 32) - linear).min(MAX_LEN as u64) as usize
        };
        let mut bytes = Self {
            buf: [0; MAX_LEN + 1],
            len: 0,
            room,
            linear,
            rip,
        };
        bytes.more(cx, mode)?;
        Ok(bytes)
    }

    /// Fetches what is missing after the first page.
    fn more<C: EmuCx + ?Sized>(&mut self, cx: &mut C, mode: Mode) -> Res<()> {
        let at = Gva(self.linear.wrapping_add(self.len as u64));
        let rest = self
            .buf
            .get_mut(self.len..self.room)
            .filter(|r| !r.is_empty())
            .ok_or_else(|| gp(mode))?;
        let wanted = rest.len();
        match cx.fetch(at, rest)? {
            0 => Err(EmuFault::Unsupported("instruction fetch")),
            n => {
                self.len += n.min(wanted);
                Ok(())
            }
        }
    }

    /// What has been fetched.
    pub fn known(&self) -> &[u8] {
        self.buf.get(..self.len).unwrap_or(&[])
    }

    /// Decodes, fetching from the next page only if the instruction reaches into it.
    pub fn decode<C: EmuCx + ?Sized>(
        &mut self,
        cx: &mut C,
        mode: Mode,
        options: u32,
    ) -> Res<Instruction> {
        loop {
            let mut decoder = Decoder::with_ip(mode.bits, self.known(), self.rip, options);
            let insn = decoder.decode();
            match decoder.last_error() {
                DecoderError::None => return Ok(insn),
                DecoderError::NoMoreBytes => self.more(cx, mode)?,
                // Too long: the decoder stopped where the 15 bytes ended.
                _ if decoder.position() >= MAX_LEN => return Err(gp(mode)),
                _ => return Err(EmuFault::UD),
            }
        }
    }
}

/// Fetches and decodes the instruction at RIP. Nearly always it is one that was decoded before, away from the end of its page
/// and segment: then its bytes are compared, and that is all.
#[inline]
pub(super) fn instruction<C: EmuCx + ?Sized>(
    cx: &mut C,
    mode: Mode,
    insn: &mut Instruction,
) -> Res<()> {
    let rip = cx.rip();
    if let Some(linear) = block(&*cx, mode, rip)
        && let Some(bytes) = cx.fetch_block(Gva(linear))
        && let Some(found) = cx.decoded().and_then(|c| c.find(rip, mode.bits, bytes))
    {
        *insn = *found;
        return Ok(());
    }
    decode_anew(cx, mode, insn)
}

/// The linear address of RIP, if 16 bytes from there on lie in its page and in the code segment.
#[inline]
fn block<C: EmuCx + ?Sized>(cx: &C, mode: Mode, rip: u64) -> Option<u64> {
    let linear = if mode.is_64() {
        rip
    } else {
        let cs = cx.segment(SegReg::Cs);
        if rip.checked_add(MAX_LEN as u64)? > u64::from(cs.limit) || !usable(mode, cs) {
            return None;
        }
        cs.base.wrapping_add(rip) & 0xffff_ffff
    };
    let canonical = !mode.is_64() || canonical(cx, linear);
    (canonical && linear & 0xfff <= 0xff0).then_some(linear)
}

#[inline(never)]
fn decode_anew<C: EmuCx + ?Sized>(cx: &mut C, mode: Mode, insn: &mut Instruction) -> Res<()> {
    let mut bytes = Bytes::fetch(cx, mode)?;
    *insn = bytes.decode(cx, mode, DecoderOptions::NONE)?;
    if let Some(cache) = cx.decoded() {
        cache.insert(bytes.rip, mode.bits, u128::from_le_bytes(bytes.buf), insn);
    }
    Ok(())
}

/// How many bytes from `linear` on, at most 15, have canonical addresses.
fn canonical_room<C: EmuCx + ?Sized>(cx: &C, linear: u64) -> usize {
    let fits = |n: usize| {
        linear
            .checked_add(n as u64 - 1)
            .is_some_and(|last| canonical(cx, last))
    };
    if fits(MAX_LEN) {
        MAX_LEN
    } else {
        (1..MAX_LEN).take_while(|n| fits(*n)).count()
    }
}

fn gp(mode: Mode) -> EmuFault {
    let error = if mode.kind == Kind::Real {
        None
    } else {
        Some(0)
    };
    EmuFault::Exception {
        vector: vector::GP,
        error,
        cr2: None,
    }
}
