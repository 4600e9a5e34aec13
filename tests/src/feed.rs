//! Decisions out of a string of bytes: a fuzzer's, or random ones.

use hv_core::device::AccessSize;

/// The bytes that are left. When there are none, all decisions are 0.
pub struct Feed<'a>(&'a [u8]);

impl<'a> Feed<'a> {
    /// Decisions out of `data`.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    /// Whether all bytes are used up.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// At most `n` bytes.
    pub fn bytes(&mut self, n: usize) -> &'a [u8] {
        let (now, later) = self.0.split_at(n.min(self.0.len()));
        self.0 = later;
        now
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        self.bytes(usize::MAX)
    }

    fn number(&mut self, n: usize) -> u64 {
        self.bytes(n)
            .iter()
            .rev()
            .fold(0, |v, b| v << 8 | u64::from(*b))
    }

    /// 8 bits.
    pub fn u8(&mut self) -> u8 {
        self.number(1) as u8
    }

    /// 16 bits.
    pub fn u16(&mut self) -> u16 {
        self.number(2) as u16
    }

    /// 32 bits.
    pub fn u32(&mut self) -> u32 {
        self.number(4) as u32
    }

    /// 64 bits.
    pub fn u64(&mut self) -> u64 {
        self.number(8)
    }

    /// A number below `n`, from one byte; `n` is 1 to 256.
    pub fn below(&mut self, n: u16) -> u16 {
        u16::from(self.u8()) % n
    }

    /// One of at most 256.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.below(of.len() as u16))]
    }

    /// True or false.
    pub fn bool(&mut self) -> bool {
        self.u8() & 1 != 0
    }

    /// The width of a port access.
    pub fn size(&mut self) -> AccessSize {
        self.pick(&[AccessSize::Byte, AccessSize::Word, AccessSize::Dword])
    }

    /// A number of any magnitude.
    pub fn scaled(&mut self) -> u64 {
        let bytes = usize::from(self.below(9));
        self.number(bytes)
    }

    /// A value for a register: small ones more often, because they are the valid ones.
    pub fn value(&mut self, size: AccessSize) -> u32 {
        let value = if self.bool() {
            u32::from(self.u8())
        } else {
            self.number(size.bytes()) as u32
        };
        value & size.ones()
    }
}
