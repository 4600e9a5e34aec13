//! A function's interrupt pin (PCI Local Bus Specification 3.0 2.2.6, "Interrupt Pins", and 6.2.2 to 6.2.3).
//!
//! Invariant: the wire is asserted exactly while the function asks for service and the command register lets it.

use super::{Command, ConfigSpace};
use hv_core::irq::IrqLine;

/// The pin and the wire at it.
pub struct Intx {
    line: IrqLine,
    asks: bool,
}

impl Intx {
    /// A pin with the wire `line`.
    #[must_use]
    pub fn new(line: IrqLine) -> Self {
        Self { line, asks: false }
    }

    /// The function asks for service, or no longer.
    pub fn set(&mut self, config: &mut ConfigSpace, asks: bool) {
        if asks != self.asks {
            self.asks = asks;
            config.set_interrupt_status(asks);
            self.settle(config);
        }
    }

    /// The command register may have changed.
    pub fn settle(&self, config: &ConfigSpace) {
        let disabled = config.command().contains(Command::INTX_DISABLE);
        self.line.set(self.asks && !disabled);
    }
}

#[cfg(test)]
mod tests {
    use super::Intx;
    use crate::pci::{ConfigSpace, Identity};
    use hv_core::device::AccessSize::Word;
    use hv_core::device::Requests;
    use hv_core::irq::IrqLine;
    use hv_core::testing::RecordingIrqs;

    #[test]
    fn disabled_pin_is_silent_and_the_status_register_tells_all_the_same() {
        let irqs = RecordingIrqs::new();
        let mut pin = Intx::new(IrqLine::new(irqs.clone(), 5));
        let mut config = ConfigSpace::new(&Identity {
            vendor: 0x1af4,
            device: 0x1001,
            class: 0x01_0000,
            revision: 0,
            subsystem: (0x1af4, 2),
        });
        let mut r = Requests::default();
        pin.set(&mut config, true);
        assert!(irqs.level(5) && config.read(6, Word) & 8 != 0);
        config.write(&mut r, 4, Word, 0x400);
        pin.settle(&config);
        assert!(!irqs.level(5) && config.read(6, Word) & 8 != 0);
        config.write(&mut r, 4, Word, 0);
        pin.settle(&config);
        assert!(irqs.level(5));
        pin.set(&mut config, false);
        assert!(!irqs.level(5) && config.read(6, Word) & 8 == 0);
    }
}
