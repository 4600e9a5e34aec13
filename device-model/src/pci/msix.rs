//! MSI-X (PCI Local Bus Specification 3.0 6.8.2, "MSI-X Capability and Table Structures").
//!
//! The table is at the beginning of a memory window of the function's, the pending bits are in its upper half. Software accesses both by
//! aligned doublewords and quadwords; writes of other sizes are dropped, reads give the bytes.
//!
//! Invariant: a vector is pending only while it, or the function as a whole, is masked.

use super::{ConfigSpace, capability};
use alloc::boxed::Box;
use alloc::vec;
use hv_core::device::AccessSize;
use hv_core::irq::MsiLine;

// Offsets in the capability.
const CONTROL: u8 = 2;

/// Control: all vectors are masked.
const FUNCTION_MASK: u16 = 1 << 14;
/// Control: the function interrupts by these messages, not at its pin.
const ENABLE: u16 = 1 << 15;

/// Bytes of a table entry: address, upper address, data, vector control.
const ENTRY: u64 = 16;
/// Vector control: the vector is masked.
const MASKED: u32 = 1 << 0;
/// Most vectors: a pending word has so many.
const VECTORS: u16 = 64;

/// The length in bytes of the window with the table and the pending bits.
pub const WINDOW: u64 = 0x1000;
/// Where the pending bits are in it.
const PENDING: u64 = WINDOW / 2;

#[derive(Clone, Copy)]
struct Entry {
    address: u64,
    data: u32,
    control: u32,
}

impl Entry {
    /// Software finds all vectors masked (6.8.2.9, "Vector Control for MSI-X Table Entries").
    const RESET: Self = Self {
        address: 0,
        data: 0,
        control: MASKED,
    };

    fn dword(&self, index: u64) -> u32 {
        match index {
            0 => self.address as u32,
            1 => (self.address >> 32) as u32,
            2 => self.data,
            _ => self.control,
        }
    }

    fn set_dword(&mut self, index: u64, value: u32) {
        let wide = u64::from(value);
        match index {
            0 => self.address = self.address >> 32 << 32 | wide & !3,
            1 => self.address = self.address & 0xffff_ffff | wide << 32,
            2 => self.data = value,
            // The other bits are reserved, and read zero.
            _ => self.control = value & MASKED,
        }
    }
}

/// The table, and the way of its messages.
pub struct MsiX {
    /// Where the capability is.
    at: u8,
    table: Box<[Entry]>,
    pending: u64,
    /// As the control register has it.
    enabled: bool,
    masked: bool,
    line: MsiLine,
}

impl MsiX {
    /// Adds the capability to `config`: `vectors` (1 to 64) in the window of [`WINDOW`] bytes behind base address register `bar`.
    ///
    /// # Panics
    /// There are no so many vectors.
    #[must_use]
    pub fn new(config: &mut ConfigSpace, vectors: u16, bar: u8, line: MsiLine) -> Self {
        assert!((1..=VECTORS).contains(&vectors), "vectors of MSI-X");
        let mut body = [0; 10];
        let places = [u32::from(bar), PENDING as u32 | u32::from(bar)];
        let bytes = (vectors - 1).to_le_bytes().into_iter();
        let bytes = bytes.chain(places.into_iter().flat_map(u32::to_le_bytes));
        body.iter_mut().zip(bytes).for_each(|(b, v)| *b = v);
        let at = config.add_capability(capability::MSI_X, &body);
        config.set_writable(at + CONTROL, &(FUNCTION_MASK | ENABLE).to_le_bytes());
        Self {
            at,
            table: vec![Entry::RESET; usize::from(vectors)].into_boxed_slice(),
            pending: 0,
            enabled: false,
            masked: false,
            line,
        }
    }

    /// Back to the power-on state, as configuration space is already.
    pub fn reset(&mut self) {
        self.table.fill(Entry::RESET);
        (self.pending, self.enabled, self.masked) = (0, false, false);
    }

    /// Whether the function interrupts by these messages, and no longer at its pin.
    #[must_use]
    pub const fn enabled(&self) -> bool {
        self.enabled
    }

    /// How many vectors there are.
    #[must_use]
    pub fn vectors(&self) -> u16 {
        self.table.len() as u16
    }

    /// Configuration space has been written.
    pub fn settle(&mut self, config: &ConfigSpace) {
        let control = config.read(self.at + CONTROL, AccessSize::Word) as u16;
        self.enabled = control & ENABLE != 0;
        self.masked = control & FUNCTION_MASK != 0;
        self.send_due();
    }

    /// The function interrupts by `vector`: without effect unless messages are enabled and there is such a vector.
    pub fn raise(&mut self, vector: u16) {
        let Some(entry) = self.table.get(usize::from(vector)).filter(|_| self.enabled) else {
            return;
        };
        if self.masked || entry.control & MASKED != 0 {
            self.pending |= 1 << vector;
        } else {
            self.line.send(entry.address, entry.data);
        }
    }

    /// Sends what was held back and may go.
    fn send_due(&mut self) {
        if !self.enabled || self.masked {
            return;
        }
        let mut left = self.pending;
        while left != 0 {
            let vector = left.trailing_zeros();
            left &= left - 1;
            if let Some(entry) = self.table.get(vector as usize)
                && entry.control & MASKED == 0
            {
                self.pending &= !(1 << vector);
                self.line.send(entry.address, entry.data);
            }
        }
    }

    fn dword(&self, offset: u64) -> u32 {
        match offset {
            PENDING => self.pending as u32,
            0x804 => (self.pending >> 32) as u32,
            _ => {
                let entry = self.table.get((offset / ENTRY) as usize);
                entry.map_or(0, |entry| entry.dword(offset % ENTRY / 4))
            }
        }
    }

    /// `size` (1, 2, 4 or 8) bytes at `offset` of the window are read.
    #[must_use]
    pub fn read(&self, offset: u64, size: usize) -> u64 {
        let at = offset & !3;
        let low = u64::from(self.dword(at));
        let both = low | u64::from(self.dword(at.saturating_add(4))) << 32;
        let value = both >> (8 * (offset & 3));
        if size >= 8 {
            value
        } else {
            value & ((1 << (8 * size)) - 1)
        }
    }

    /// `size` (1, 2, 4 or 8) bytes at `offset` of the window are written.
    pub fn write(&mut self, offset: u64, size: usize, value: u64) {
        if !matches!(size, 4 | 8) || !offset.is_multiple_of(size as u64) {
            return;
        }
        let dwords = (0..size as u64 / 4).map(|i| (offset + 4 * i, (value >> (32 * i)) as u32));
        for (offset, value) in dwords {
            if let Some(entry) = self.table.get_mut((offset / ENTRY) as usize) {
                entry.set_dword(offset % ENTRY / 4, value);
            }
        }
        self.send_due();
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::{MsiX, WINDOW};
    use crate::pci::{ConfigSpace, Identity};
    use alloc::sync::Arc;
    use hv_core::device::AccessSize::{Dword, Word};
    use hv_core::device::Requests;
    use hv_core::irq::{MsiLine, MsiSink};
    use std::sync::Mutex;

    /// Remembers messages.
    #[derive(Clone, Default)]
    pub struct Sent(Arc<Mutex<Vec<(u64, u32)>>>);

    impl Sent {
        pub fn new() -> (Self, MsiLine) {
            let sent = Self::default();
            (sent.clone(), MsiLine::new(Arc::new(sent)))
        }

        pub fn take(&self) -> Vec<(u64, u32)> {
            core::mem::take(&mut self.0.lock().unwrap())
        }
    }

    impl MsiSink for Sent {
        fn send(&self, address: u64, data: u32) {
            self.0.lock().unwrap().push((address, data));
        }
    }

    pub fn function() -> ConfigSpace {
        ConfigSpace::new(&Identity {
            vendor: 0x1af4,
            device: 0x1001,
            class: 0x01_0000,
            revision: 0,
            subsystem: (0x1af4, 2),
        })
    }

    fn msix(vectors: u16) -> (Sent, ConfigSpace, MsiX) {
        let (sent, line) = Sent::new();
        let mut config = function();
        let msix = MsiX::new(&mut config, vectors, 1, line);
        (sent, config, msix)
    }

    fn control(c: &mut ConfigSpace, m: &mut MsiX, value: u32) {
        c.write(&mut Requests::default(), 0x42, Word, value);
        m.settle(c);
    }

    #[test]
    fn capability_says_how_many_vectors_and_where() {
        let (_, c, _) = msix(5);
        assert_eq!(c.read(0x40, Dword), 0x0004_0011);
        assert_eq!(c.read(0x44, Dword), 1);
        assert_eq!(c.read(0x48, Dword), 0x801);
    }

    #[test]
    fn vector_sends_its_entry_once_it_is_unmasked_and_messages_are_enabled() {
        let (sent, mut c, mut m) = msix(2);
        assert_eq!(m.read(0x1c, 4), 1, "masked after reset");
        m.write(0x10, 8, 0x1_fee0_1003);
        m.write(0x18, 8, 0x4041);
        m.raise(1);
        assert_eq!(sent.take(), [], "messages are disabled");
        control(&mut c, &mut m, 0x8000);
        assert_eq!(
            (m.enabled(), sent.take()),
            (true, vec![]),
            "and nothing was kept"
        );
        m.raise(1);
        m.raise(2);
        assert_eq!(sent.take(), [(0x1_fee0_1000, 0x4041)]);
    }

    #[test]
    fn masked_vectors_are_pending_and_go_once_when_unmasked() {
        let (sent, mut c, mut m) = msix(3);
        control(&mut c, &mut m, 0xc000);
        for vector in 0..3 {
            m.write(vector * 16, 8, 0xfee0_0000);
            m.write(vector * 16 + 8, 8, 0x30 + vector);
        }
        m.raise(0);
        m.raise(2);
        m.raise(2);
        assert_eq!((sent.take(), m.read(0x800, 8)), (vec![], 5));
        m.write(0x2c, 4, !0);
        assert_eq!(m.read(0x2c, 4), 1, "other bits are reserved");
        control(&mut c, &mut m, 0x8000);
        assert_eq!(
            (sent.take(), m.read(0x800, 4)),
            (vec![(0xfee0_0000, 0x30)], 4)
        );
        m.write(0x800, 8, 0);
        assert_eq!(m.read(0x800, 8), 4, "pending bits are read-only");
        m.write(0x28, 4, 0x77);
        m.write(0x2c, 4, 0);
        assert_eq!(
            (sent.take(), m.read(0x800, 8)),
            (vec![(0xfee0_0000, 0x77)], 0)
        );
        m.reset();
        assert_eq!((m.read(0, 8), m.read(8, 8)), (0, 1 << 32));
    }

    #[test]
    fn odd_accesses_read_the_bytes_and_write_nothing() {
        let (_, _, mut m) = msix(1);
        m.write(0, 8, 0x1122_3344_5566_7788);
        m.write(1, 4, 0);
        m.write(0, 2, 0);
        m.write(4, 8, 0);
        assert_eq!(m.read(0, 8), 0x1122_3344_5566_7788);
        assert_eq!(
            (m.read(1, 1), m.read(2, 4), m.read(7, 1)),
            (0x77, 0x3344_5566, 0x11)
        );
        for offset in 0..WINDOW {
            for size in [1, 2, 4, 8] {
                m.write(offset, size, u64::MAX);
                let _ = m.read(offset, size);
            }
        }
    }
}
