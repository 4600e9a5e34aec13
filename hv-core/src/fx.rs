//! The x87 and SSE state as FXSAVE64 stores it (SDM vol 2A, "FXSAVE—Save x87 FPU, MMX Technology, and SSE State", table "Layout of
//! the 64-Bit Mode FXSAVE64 Map").

/// The x87 control word.
const FCW: usize = 0;
/// The x87 status word.
const FSW: usize = 2;
/// The abridged tag word: a bit for each register of the FPU that is not empty.
const FTW: usize = 4;
/// The last instruction's opcode: the low three bits of its first byte, and its second.
const FOP: usize = 6;
/// The last instruction's address: in the 32-bit format four bytes and a selector, which CPUs do not save any more.
const FIP: usize = 8;
/// Its operand's, likewise.
const FDP: usize = 16;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
/// ST(0) to ST(7), 80 bits each, 16 bytes apart.
const ST: usize = 32;
const XMM: usize = 160;

/// Status word: the exception flags, the summary of those that are not masked, and its twin.
const FLAGS: u16 = 0x3f;
const ES: u16 = 1 << 7;
const BUSY: u16 = 1 << 15;
/// Status word: the number of the register that is ST(0).
const TOP: u16 = 7 << 11;

/// The state, in the format and with the alignment that FXSAVE64 and FXRSTOR64 want.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C, align(16))]
pub struct FxState([u8; 512]);

impl Default for FxState {
    fn default() -> Self {
        Self::reset()
    }
}

impl FxState {
    /// Bytes of the area.
    pub const SIZE: usize = 512;
    /// Bytes of it that have registers.
    pub const SAVED: usize = XMM + 16 * 16;
    /// Likewise without XMM8 to XMM15.
    pub const SAVED_32: usize = XMM + 16 * 8;

    /// The state as FXSAVE64 stores it, or (not `wide`) FXSAVE.
    #[must_use]
    pub fn saved(&self, wide: bool) -> [u8; Self::SAVED] {
        let mut bytes = [0; Self::SAVED];
        bytes.copy_from_slice(&self.0[..Self::SAVED]);
        if !wide {
            bytes[FIP + 4..FDP].fill(0);
            bytes[FDP + 4..MXCSR].fill(0);
        }
        bytes
    }

    /// Takes the state from where FXSAVE64 or (not `wide`) FXSAVE has stored it. False: MXCSR has a bit that does not exist, and nothing
    /// is taken.
    #[must_use]
    pub fn restore(&mut self, bytes: &[u8; Self::SAVED], wide: bool) -> bool {
        let mask = self.word(MXCSR_MASK);
        let mxcsr = u16::from_le_bytes([bytes[MXCSR], bytes[MXCSR + 1]]);
        if mxcsr & !mask != 0 || bytes[MXCSR + 2] != 0 || bytes[MXCSR + 3] != 0 {
            return false;
        }
        self.0[..MXCSR_MASK].copy_from_slice(&bytes[..MXCSR_MASK]);
        self.0[MXCSR_MASK + 4..Self::SAVED].copy_from_slice(&bytes[MXCSR_MASK + 4..]);
        let control = self.control();
        self.set_control(control);
        if !wide {
            self.0[FIP + 4..FDP].fill(0);
            self.0[FDP + 4..MXCSR].fill(0);
        }
        true
    }

    /// The power-on state: FCW 0040h, MXCSR 1F80h (SDM vol 3A table 9-1).
    #[must_use]
    pub const fn reset() -> Self {
        let mut s = Self([0; 512]);
        s.0[FCW] = 0x40;
        [s.0[MXCSR], s.0[MXCSR + 1]] = [0x80, 0x1f];
        [s.0[MXCSR_MASK], s.0[MXCSR_MASK + 1]] = [0xff, 0xff];
        s
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.0[at], self.0[at + 1]])
    }

    fn set_word(&mut self, at: usize, value: u16) {
        self.0[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }

    /// FNINIT: control word 037Fh, all else of the x87 FPU empty; its registers' contents stay.
    pub fn init_x87(&mut self) {
        self.set_word(FCW, 0x37f);
        self.set_status(0);
        self.0[FTW..MXCSR].fill(0);
    }

    /// The x87 control word.
    #[must_use]
    pub fn control(&self) -> u16 {
        self.word(FCW)
    }

    /// Sets the x87 control word. Bit 6 is always set, and the reserved bits are clear. An exception that it unmasks is pending.
    pub fn set_control(&mut self, value: u16) {
        self.set_word(FCW, value & 0x1f3f | 0x40);
        self.set_status(self.status());
    }

    /// The x87 status word.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.word(FSW)
    }

    /// Sets the x87 status word. Its error summary and busy bits follow from flags and masks (SDM vol 1 8.1.3, "x87 FPU Status
    /// Register"). The FPU's registers keep their contents: with another top of the stack they are other ST(n).
    pub fn set_status(&mut self, value: u16) {
        let down = ((value & TOP).wrapping_sub(self.status() & TOP) & TOP) >> 11;
        self.0[ST..XMM].rotate_left(16 * usize::from(down));
        let pending = value & FLAGS & !self.control() != 0;
        let summary = if pending { ES | BUSY } else { 0 };
        self.set_word(FSW, value & !(ES | BUSY) | summary);
    }

    /// MXCSR.
    #[must_use]
    pub fn mxcsr(&self) -> u32 {
        u32::from(self.word(MXCSR)) | u32::from(self.word(MXCSR + 2)) << 16
    }

    /// Sets MXCSR. False: it would have a bit that does not exist, and stays.
    pub fn set_mxcsr(&mut self, value: u32) -> bool {
        let fits = value & !u32::from(self.word(MXCSR_MASK)) == 0;
        if fits {
            self.set_word(MXCSR, value as u16);
        }
        fits
    }

    /// Whether an x87 exception waits to be raised.
    #[must_use]
    pub fn exception_pending(&self) -> bool {
        self.status() & ES != 0
    }

    /// The number of the FPU's register that is ST(0).
    #[must_use]
    pub fn top(&self) -> usize {
        usize::from((self.status() & TOP) >> 11)
    }

    /// The abridged tag word: bit n is set if register n of the FPU is not empty.
    #[must_use]
    pub fn tags(&self) -> u8 {
        self.0[FTW]
    }

    /// Sets the abridged tag word.
    pub fn set_tags(&mut self, value: u8) {
        self.0[FTW] = value;
    }

    /// ST(`n`): 64 bits of significand, then sign and exponent.
    #[must_use]
    pub fn st(&self, n: usize) -> [u8; 10] {
        let at = ST + 16 * (n & 7);
        let mut value = [0; 10];
        value.copy_from_slice(&self.0[at..at + 10]);
        value
    }

    /// Sets ST(`n`).
    pub fn set_st(&mut self, n: usize, value: [u8; 10]) {
        let at = ST + 16 * (n & 7);
        self.0[at..at + 10].copy_from_slice(&value);
    }

    /// MMX register `n`: the significand of register `n` of the FPU.
    #[must_use]
    pub fn mmx(&self, n: usize) -> [u8; 8] {
        let at = ST + 16 * (n.wrapping_sub(self.top()) & 7);
        let mut value = [0; 8];
        value.copy_from_slice(&self.0[at..at + 8]);
        value
    }

    /// The x87 FPU's registers become those of MMX: all in use, with the stack at its beginning.
    pub fn enter_mmx(&mut self) {
        self.set_status(self.status() & !TOP);
        self.set_tags(0xff);
    }

    /// The opcode of the last x87 instruction, 11 bits.
    #[must_use]
    pub fn opcode(&self) -> u16 {
        self.word(FOP) & 0x7ff
    }

    /// Sets the opcode of the last x87 instruction.
    pub fn set_opcode(&mut self, value: u16) {
        self.set_word(FOP, value & 0x7ff);
    }

    fn quad(&self, at: usize) -> u64 {
        let mut value = [0; 8];
        value.copy_from_slice(&self.0[at..at + 8]);
        u64::from_le_bytes(value)
    }

    /// The address of the last x87 instruction.
    #[must_use]
    pub fn instruction_pointer(&self) -> u64 {
        self.quad(FIP)
    }

    /// Sets the address of the last x87 instruction.
    pub fn set_instruction_pointer(&mut self, value: u64) {
        self.0[FIP..FIP + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// The address of its memory operand.
    #[must_use]
    pub fn data_pointer(&self) -> u64 {
        self.quad(FDP)
    }

    /// Sets the address of its memory operand.
    pub fn set_data_pointer(&mut self, value: u64) {
        self.0[FDP..FDP + 8].copy_from_slice(&value.to_le_bytes());
    }

    /// XMM register `n` (0 to 15).
    #[must_use]
    pub fn xmm(&self, n: usize) -> [u8; 16] {
        let at = XMM + 16 * (n & 15);
        let mut x = [0; 16];
        x.copy_from_slice(&self.0[at..at + 16]);
        x
    }

    /// Sets XMM register `n` (0 to 15).
    pub fn set_xmm(&mut self, n: usize, value: [u8; 16]) {
        let at = XMM + 16 * (n & 15);
        self.0[at..at + 16].copy_from_slice(&value);
    }
}

#[cfg(test)]
mod tests {
    use super::FxState;

    #[test]
    fn what_was_saved_is_restored_unless_mxcsr_is_bad() {
        let mut s = FxState::reset();
        s.set_xmm(15, [7; 16]);
        s.set_control(0x27f);
        s.0[12] = 5;
        let mut saved = s.saved(true);
        let mut t = FxState::reset();
        assert!(t.restore(&saved, true));
        assert_eq!(t, s);
        assert!(t.restore(&saved, false));
        assert_eq!(t.0[12], 0, "a selector, in the 32-bit format");
        saved[26] = 1;
        assert!(!t.restore(&saved, true));
        assert_eq!(s.saved(false)[12], 0);
    }

    #[test]
    fn fninit_leaves_the_registers_and_mxcsr() {
        let mut s = FxState::reset();
        s.set_xmm(15, [7; 16]);
        s.set_status(0x3181);
        s.set_st(0, [6; 10]);
        s.init_x87();
        assert_eq!(s.st(6), [6; 10], "register 6 of the FPU is what it was");
        assert_eq!((s.control(), s.status()), (0x37f, 0));
        assert_eq!(s.xmm(15), [7; 16]);
        assert_eq!(s.0[24..28], [0x80, 0x1f, 0, 0]);
    }
}
