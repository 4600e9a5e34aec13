//! The x87 and SSE state as FXSAVE64 stores it (SDM vol 2A, "FXSAVE—Save x87 FPU, MMX Technology, and SSE State", table "Layout of
//! the 64-Bit Mode FXSAVE64 Map").

/// The x87 control word.
const FCW: usize = 0;
/// The x87 status word.
const FSW: usize = 2;
/// The last instruction's address: in the 32-bit format four bytes and a selector, which CPUs do not save any more.
const FIP: usize = 8;
/// Its operand's, likewise.
const FDP: usize = 16;
const MXCSR: usize = 24;
const MXCSR_MASK: usize = 28;
const XMM: usize = 160;

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
        self.0[FSW..MXCSR].fill(0);
    }

    /// The x87 control word.
    #[must_use]
    pub fn control(&self) -> u16 {
        self.word(FCW)
    }

    /// Sets the x87 control word. Bit 6 is always set, and the reserved bits are clear.
    pub fn set_control(&mut self, value: u16) {
        self.set_word(FCW, value & 0x1f3f | 0x40);
    }

    /// The x87 status word.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.word(FSW)
    }

    /// Sets the x87 status word.
    pub fn set_status(&mut self, value: u16) {
        self.set_word(FSW, value);
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
        s.set_status(0x8181);
        s.init_x87();
        assert_eq!((s.control(), s.status()), (0x37f, 0));
        assert_eq!(s.xmm(15), [7; 16]);
        assert_eq!(s.0[24..28], [0x80, 0x1f, 0, 0]);
    }
}
