//! The x87 and SSE state as FXSAVE64 stores it (SDM vol 2A, "FXSAVE—Save x87 FPU, MMX Technology, and SSE State", table "Layout of
//! the 64-Bit Mode FXSAVE64 Map").

/// The x87 control word.
const FCW: usize = 0;
/// The x87 status word.
const FSW: usize = 2;
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
