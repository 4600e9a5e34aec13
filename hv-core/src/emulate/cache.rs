//! Instructions as they were last decoded, by RIP.
//!
//! What is remembered is only what a decoder makes of bytes: the bytes themselves are fetched each time and compared, so that
//! nothing has to be invalidated when code changes, moves or is mapped elsewhere.

use alloc::boxed::Box;
use alloc::vec;
use iced_x86::Instruction;

/// How many instructions are remembered: a loop of a firmware fits. A power of two.
const ENTRIES: usize = 1024;

#[derive(Clone, Copy)]
struct Entry {
    /// The instruction's bytes, the rest 0.
    bytes: u128,
    /// The bits of `bytes` that count; 0 for an empty entry.
    mask: u128,
    rip: u64,
    /// The size of code: 16, 32 or 64.
    bits: u32,
    insn: Instruction,
}

/// The instructions of one virtual CPU.
pub struct DecodeCache(Box<[Entry]>);

impl Default for DecodeCache {
    fn default() -> Self {
        let empty = Entry {
            bytes: 0,
            mask: 0,
            rip: 0,
            bits: 0,
            insn: Instruction::default(),
        };
        Self(vec![empty; ENTRIES].into_boxed_slice())
    }
}

impl DecodeCache {
    const fn slot(rip: u64) -> usize {
        rip as usize & (ENTRIES - 1)
    }

    /// The instruction at `rip` in code of `bits`, if it was decoded there from what `bytes` (of which the last are 0 where they
    /// are not known) begins with.
    pub(super) fn find(&self, rip: u64, bits: u32, bytes: u128) -> Option<&Instruction> {
        let e = self.0.get(Self::slot(rip))?;
        let same = e.rip == rip && e.bits == bits && bytes & e.mask == e.bytes && e.mask != 0;
        same.then_some(&e.insn)
    }

    /// Remembers what `bytes` at `rip` in code of `bits` begins with.
    pub(super) fn insert(&mut self, rip: u64, bits: u32, bytes: u128, insn: &Instruction) {
        // An instruction has 15 bytes at most.
        let mask = (1 << (8 * insn.len())) - 1;
        if let Some(e) = self.0.get_mut(Self::slot(rip)) {
            *e = Entry {
                bytes: bytes & mask,
                mask,
                rip,
                bits,
                insn: *insn,
            };
        }
    }
}
