//! The x87 FPU's environment and whole state in memory: FSTENV, FLDENV, FSAVE, FRSTOR (SDM vol 1 8.1.10, "Saving the x87 FPU's State with
//! FSTENV/FNSTENV and FSAVE/FNSAVE").
//!
//! Their formats depend on operand size and on whether the mode has selectors, so that the CPU cannot be asked in another mode. The
//! selectors of the last instruction and operand are stored as 0: CPUs do not keep them any more (SDM vol 1 8.1.8, "x87 FPU Instruction
//! and Data (Operand) Pointers").

use super::Res;
use super::exec::Exec;
use super::segment::Use;
use super::{AccessKind, EmuCx};
use crate::fx::FxState;
use iced_x86::Code;

/// Bytes of a register.
const ST: usize = 10;
/// Bytes of the longest environment, and of it with the registers.
const ENV: usize = 28;
const WHOLE: usize = ENV + 8 * ST;
/// The exception masks in the control word.
const MASKS: u16 = 0x3f;

/// Tags of the registers (SDM vol 1 8.1.7, "x87 FPU Tag Word").
mod tag {
    pub const VALID: u16 = 0;
    pub const ZERO: u16 = 1;
    pub const SPECIAL: u16 = 2;
    pub const EMPTY: u16 = 3;
}

/// The tag of a register that is not empty.
fn classify(value: [u8; ST]) -> u16 {
    let [a, b, c, d, e, f, g, h, low, high] = value;
    let significand = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    let exponent = u16::from_le_bytes([low, high]) & 0x7fff;
    match (exponent, significand) {
        (0, 0) => tag::ZERO,
        (1..=0x7ffe, s) if s >> 63 != 0 => tag::VALID,
        _ => tag::SPECIAL,
    }
}

/// The tag word: two bits a register of the FPU, by its number.
fn tag_word(fx: &FxState) -> u16 {
    (0..8usize).fold(0, |word, n| {
        let tag = match fx.tags() >> n & 1 {
            0 => tag::EMPTY,
            _ => classify(fx.st(n.wrapping_sub(fx.top()))),
        };
        word | tag << (2 * n)
    })
}

/// The other way: only which registers are empty is kept.
fn abridged(word: u16) -> u8 {
    (0..8).fold(0, |tags, n| {
        let used = word >> (2 * n) & 3 != tag::EMPTY;
        tags | u8::from(used) << n
    })
}

/// How an environment is laid out.
#[derive(Clone, Copy)]
struct Layout {
    /// Bytes of a field: 2 or 4.
    field: usize,
    /// Protected mode: addresses are offsets with selectors. Otherwise they are linear, and split around the opcode.
    selectors: bool,
}

impl Layout {
    /// Bytes of the environment: seven fields.
    const fn len(self) -> usize {
        7 * self.field
    }

    fn encode(self, fx: &FxState) -> [u32; 7] {
        let (ip, dp) = (fx.instruction_pointer() as u32, fx.data_pointer() as u32);
        let opcode = u32::from(fx.opcode());
        let [control, status, tags] = [fx.control(), fx.status(), tag_word(fx)].map(u32::from);
        let last = match (self.selectors, self.field) {
            (true, 2) => [ip, 0, dp, 0],
            (true, _) => [ip, opcode << 16, dp, 0],
            (false, 2) => [ip, ip >> 4 & 0xf000 | opcode, dp, dp >> 4 & 0xf000],
            (false, _) => [
                ip & 0xffff,
                ip >> 4 & 0x0fff_f000 | opcode,
                dp & 0xffff,
                dp >> 4 & 0x0fff_f000,
            ],
        };
        // The unused halves of the wide format are all ones.
        let ones = if self.field == 4 { 0xffff_0000 } else { 0 };
        let [a, b, c, d] = last;
        let selector_ones = if self.selectors { ones } else { 0 };
        let offset_ones = if self.selectors { 0 } else { ones };
        [
            control | ones,
            status | ones,
            tags | ones,
            a | offset_ones,
            b,
            c | offset_ones,
            d | selector_ones,
        ]
    }

    fn decode(self, fields: [u32; 7], fx: &mut FxState) {
        let [control, status, tags, a, b, c, d] = fields;
        fx.set_control(control as u16);
        fx.set_status(status as u16);
        fx.set_tags(abridged(tags as u16));
        let (ip, dp, opcode) = match (self.selectors, self.field) {
            (true, 2) => (a, c, 0),
            (true, _) => (a, c, b >> 16),
            (false, _) => (
                a & 0xffff | (b & 0x0fff_f000) << 4,
                c & 0xffff | (d & 0x0fff_f000) << 4,
                b,
            ),
        };
        fx.set_instruction_pointer(ip.into());
        fx.set_data_pointer(dp.into());
        fx.set_opcode(opcode as u16);
    }
}

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    fn layout(&self) -> Layout {
        use Code::{Fldenv_m14byte, Fnsave_m94byte, Fnstenv_m14byte, Frstor_m94byte};
        let narrow = matches!(
            self.insn.code(),
            Fldenv_m14byte | Fnsave_m94byte | Fnstenv_m14byte | Frstor_m94byte
        );
        Layout {
            field: if narrow { 2 } else { 4 },
            selectors: self.mode.has_descriptors(),
        }
    }

    /// FNSTENV, and FNSAVE with the registers (`whole`). They do not look at pending exceptions.
    pub fn fnstenv(&mut self, whole: bool) -> Res<()> {
        self.check_x87()?;
        let layout = self.layout();
        let mut fx = *self.cx.fx();
        let mut bytes = [0; WHOLE];
        for (to, value) in bytes.chunks_exact_mut(layout.field).zip(layout.encode(&fx)) {
            let value = value.to_le_bytes();
            to.iter_mut().zip(value).for_each(|(to, from)| *to = from);
        }
        let mut len = layout.len();
        if whole {
            for n in 0..8 {
                bytes[len..len + ST].copy_from_slice(&fx.st(n));
                len += ST;
            }
        }
        let linear = self.memory_at(0, len, Use::Write)?;
        self.write_bytes(linear, &bytes[..len], AccessKind::Data)?;
        if whole {
            fx.init_x87();
        } else {
            fx.set_control(fx.control() | MASKS);
        }
        *self.cx.fx_mut() = fx;
        Ok(())
    }

    /// FLDENV, and FRSTOR with the registers (`whole`).
    pub fn fldenv(&mut self, whole: bool) -> Res<()> {
        self.check_x87()?;
        self.check_pending()?;
        let layout = self.layout();
        let env = layout.len();
        let len = if whole { env + 8 * ST } else { env };
        let linear = self.memory_at(0, len, Use::Read)?;
        let mut bytes = [0; WHOLE];
        self.read_bytes(linear, &mut bytes[..len], AccessKind::Data)?;
        let mut fields = [0; 7];
        for (field, from) in fields.iter_mut().zip(bytes.chunks_exact(layout.field)) {
            *field = from.iter().rev().fold(0, |v, b| v << 8 | u32::from(*b));
        }
        let mut fx = *self.cx.fx();
        layout.decode(fields, &mut fx);
        if whole {
            for n in 0..8 {
                let at = env + n * ST;
                let mut value = [0; ST];
                value.copy_from_slice(&bytes[at..at + ST]);
                fx.set_st(n, value);
            }
        }
        *self.cx.fx_mut() = fx;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: [u8; 10] = [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f];

    #[test]
    fn tags_tell_valid_zero_special_and_empty() {
        let mut fx = FxState::reset();
        // The stack begins at register 6.
        fx.set_status(6 << 11);
        fx.set_tags(0b1100_0001);
        fx.set_st(0, ONE);
        fx.set_st(1, [0; 10]);
        fx.set_st(2, [0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x7f]);
        assert_eq!(tag_word(&fx), 0b01_00_11_11_11_11_11_10);
        assert_eq!(abridged(tag_word(&fx)), fx.tags());
    }

    #[test]
    fn each_layout_gives_back_what_it_took() {
        for (field, selectors) in [(2, false), (2, true), (4, false), (4, true)] {
            let layout = Layout { field, selectors };
            let mut fx = FxState::reset();
            fx.set_control(0x27f);
            fx.set_tags(0x81);
            fx.set_st(0, ONE);
            let wide = if field == 4 { 0x12_0000 } else { 0 };
            fx.set_instruction_pointer(0x3456 | wide);
            fx.set_data_pointer(0x789a | wide);
            if (field, selectors) != (2, true) {
                fx.set_opcode(0x5d9);
            }
            let mut other = FxState::reset();
            other.set_st(0, ONE);
            layout.decode(layout.encode(&fx), &mut other);
            assert_eq!(other, fx, "{field} {selectors}");
        }
    }
}
