//! Message Signalled Interrupts (PCI Local Bus Specification 3.0 6.8.1, "MSI Capability Structure"), with 64-bit addresses and masking of
//! each vector.
//!
//! Its registers are the configuration space's bytes. Invariant: a vector is pending only while it is masked or messages are disabled.

use super::{ConfigSpace, capability};
use hv_core::device::AccessSize;
use hv_core::irq::MsiLine;

// Offsets in the capability.
const CONTROL: u8 = 2;
const ADDRESS: u8 = 4;
const UPPER_ADDRESS: u8 = 8;
const DATA: u8 = 0x0c;
const MASK: u8 = 0x10;
const PENDING: u8 = 0x14;
const LENGTH: usize = 0x18;

/// Control: the function interrupts by messages, not at its pin.
const ENABLE: u16 = 1 << 0;
/// Control: log2 of the vectors that it can have, from bit 1 on, and of those that it may use, from bit 4 on.
const CAPABLE_SHIFT: u16 = 1;
const ENABLED_SHIFT: u16 = 4;
/// Control: addresses have 64 bits, and vectors can be masked.
const WIDE: u16 = 1 << 7;
const MASKABLE: u16 = 1 << 8;

/// The capability and the way of its messages.
pub struct Msi {
    /// Where the capability is.
    at: u8,
    /// log2 of its vectors.
    order: u16,
    line: MsiLine,
}

impl Msi {
    /// Adds the capability to `config`, for `1 << order` vectors (`order` up to 5).
    ///
    /// # Panics
    /// There are no so many vectors.
    #[must_use]
    pub fn new(config: &mut ConfigSpace, order: u8, line: MsiLine) -> Self {
        assert!(order <= 5, "MSI has 32 vectors at most");
        let order = u16::from(order);
        let control = WIDE | MASKABLE | order << CAPABLE_SHIFT;
        let mut body = [0; LENGTH - CONTROL as usize];
        let [low, high] = control.to_le_bytes();
        (body[0], body[1]) = (low, high);
        let at = config.add_capability(capability::MSI, &body);
        let control = ENABLE | 7 << ENABLED_SHIFT;
        let vectors = u32::MAX >> (32 - (1u32 << order));
        config.set_writable(at + CONTROL, &control.to_le_bytes());
        config.set_writable(at + ADDRESS, &(!3u32).to_le_bytes());
        config.set_writable(at + UPPER_ADDRESS, &u32::MAX.to_le_bytes());
        config.set_writable(at + DATA, &u16::MAX.to_le_bytes());
        config.set_writable(at + MASK, &vectors.to_le_bytes());
        Self { at, order, line }
    }

    fn dword(&self, config: &ConfigSpace, offset: u8) -> u32 {
        config.read(self.at + offset, AccessSize::Dword)
    }

    fn control(&self, config: &ConfigSpace) -> u16 {
        config.read(self.at + CONTROL, AccessSize::Word) as u16
    }

    fn set_pending(&self, config: &mut ConfigSpace, pending: u32) {
        for (offset, byte) in (self.at + PENDING..).zip(pending.to_le_bytes()) {
            config.set_byte(offset, byte);
        }
    }

    /// Whether the function interrupts by these messages, and no longer at its pin.
    #[must_use]
    pub fn enabled(&self, config: &ConfigSpace) -> bool {
        self.control(config) & ENABLE != 0
    }

    /// log2 of the vectors that the function may use: what software asks for, but no more than there are (6.8.1.3, "Message Control for
    /// MSI").
    fn used(&self, config: &ConfigSpace) -> u16 {
        (self.control(config) >> ENABLED_SHIFT & 7).min(self.order)
    }

    /// The function interrupts by `vector`: without effect unless messages are enabled. Where fewer vectors may be used than there are, it
    /// shares one.
    pub fn raise(&self, config: &mut ConfigSpace, vector: u8) {
        if !self.enabled(config) {
            return;
        }
        let vector = u32::from(vector) & ((1 << self.used(config)) - 1);
        let bit = 1 << vector;
        if self.dword(config, MASK) & bit != 0 {
            let pending = self.dword(config, PENDING) | bit;
            self.set_pending(config, pending);
        } else {
            self.send(config, vector);
        }
    }

    fn send(&self, config: &ConfigSpace, vector: u32) {
        let high = u64::from(self.dword(config, UPPER_ADDRESS));
        let address = high << 32 | u64::from(self.dword(config, ADDRESS));
        let data = self.dword(config, DATA) & 0xffff;
        let low = (1 << self.used(config)) - 1;
        self.line.send(address, data & !low | vector);
    }

    /// Configuration space has been written: what was held back and may go now goes.
    pub fn settle(&self, config: &mut ConfigSpace) {
        if !self.enabled(config) {
            return;
        }
        let pending = self.dword(config, PENDING);
        let mask = self.dword(config, MASK);
        let due = pending & !mask;
        if due != 0 {
            self.set_pending(config, pending & mask);
            let vectors = (0..32).filter(|vector| due >> vector & 1 != 0);
            vectors.for_each(|vector| self.send(config, vector));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Msi;
    use crate::pci::ConfigSpace;
    use crate::pci::msix::tests::{Sent, function};
    use hv_core::device::AccessSize::{self, Dword, Word};
    use hv_core::device::Requests;

    fn msi(order: u8) -> (Sent, ConfigSpace, Msi) {
        let (sent, line) = Sent::new();
        let mut config = function();
        let msi = Msi::new(&mut config, order, line);
        (sent, config, msi)
    }

    fn write(c: &mut ConfigSpace, m: &Msi, offset: u8, size: AccessSize, value: u32) {
        c.write(&mut Requests::default(), 0x40 + offset, size, value);
        m.settle(c);
    }

    #[test]
    fn message_has_the_address_and_the_data_with_the_vector_in_its_low_bits() {
        let (sent, mut c, m) = msi(2);
        assert_eq!(c.read(0x40, Dword), 0x0184_0005);
        write(&mut c, &m, 4, Dword, 0xfee0_1007);
        write(&mut c, &m, 8, Dword, 0x1);
        write(&mut c, &m, 12, Word, 0x40ff);
        m.raise(&mut c, 1);
        assert_eq!(sent.take(), [], "messages are disabled");
        write(&mut c, &m, 2, Word, 0x21);
        m.raise(&mut c, 2);
        assert_eq!(sent.take(), [(0x1_fee0_1004, 0x40fe)]);
        write(&mut c, &m, 2, Word, 0x01);
        m.raise(&mut c, 2);
        assert_eq!(sent.take(), [(0x1_fee0_1004, 0x40ff)], "all share one");
        write(&mut c, &m, 2, Word, 0x71);
        m.raise(&mut c, 3);
        assert_eq!(
            sent.take(),
            [(0x1_fee0_1004, 0x40ff)],
            "no more than there are"
        );
    }

    #[test]
    fn masked_vector_stays_pending_until_it_is_unmasked() {
        let (sent, mut c, m) = msi(1);
        write(&mut c, &m, 4, Dword, 0xfee0_0000);
        write(&mut c, &m, 12, Word, 0x30);
        write(&mut c, &m, 0x10, Dword, !0);
        assert_eq!(c.read(0x50, Dword), 3, "as many mask bits as vectors");
        write(&mut c, &m, 2, Word, 0x11);
        m.raise(&mut c, 1);
        m.raise(&mut c, 1);
        assert_eq!((sent.take(), c.read(0x54, Dword)), (vec![], 2));
        write(&mut c, &m, 0x14, Dword, 0);
        assert_eq!(c.read(0x54, Dword), 2, "pending bits are read-only");
        write(&mut c, &m, 0x10, Dword, 1);
        assert_eq!(sent.take(), [(0xfee0_0000, 0x31)]);
        assert_eq!(c.read(0x54, Dword), 0);
        m.raise(&mut c, 0);
        c.reset(&mut Requests::default());
        assert_eq!((c.read(0x54, Dword), c.read(0x50, Dword)), (0, 0));
    }
}
