//! Intel PIIX3 PCI-to-ISA bridge (82371SB datasheet 290550), function 0:1.0.
//!
//! The PIRQ route control registers work; everything else above the header is plain storage. The reset control register is
//! the bus's, the ELCRs are the interrupt chips', ports 92h and B2h are system control's.

use super::{ConfigSpace, Identity, PciFunction, register};
use crate::irq::SharedChips;
use hv_core::device::{AccessSize, DevCx};

/// PIRQRCA to PIRQRCD (82371SB datasheet 2.2.8, "PIRQRC\[A,B,C,D\]").
const PIRQRC: core::ops::RangeInclusive<u8> = 0x60..=0x63;
/// Route control: not routed.
const ROUTING_DISABLED: u8 = 1 << 7;
/// Interrupts that a PIRQ can be routed to: 3 to 7, 9 to 12, 14, 15.
const ROUTABLE: u16 = 0xdef8;

/// Power-on values that are not zero.
const RESET: [(u8, &[u8]); 9] = [
    (register::COMMAND, &[0x07, 0x00]),
    (register::STATUS, &[0x00, 0x02]),
    (0x4c, &[0x4d]),
    (0x4e, &[0x03]),
    (0x60, &[0x80; 4]),
    (0x69, &[0x02]),
    (0x70, &[0x80]),
    (0x76, &[0x0c, 0x0c, 0x02]),
    (0xa0, &[0x08, 0, 0, 0, 0, 0, 0, 0, 0x0f]),
];

/// The ISA bridge.
pub struct IsaBridge {
    config: ConfigSpace,
    chips: SharedChips,
}

impl IsaBridge {
    /// The ISA bridge in power-on state, routing PIRQs into `chips`.
    #[must_use]
    pub fn new(chips: SharedChips) -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x7000,
            class: 0x06_0100,
            revision: 0,
            subsystem: (0x1af4, 0x1100),
        };
        let mut config = ConfigSpace::new(&identity)
            .preset(register::HEADER_TYPE, &[0x80])
            .writable(0x40, 0xff, 0xff)
            .writable(*PIRQRC.start(), *PIRQRC.end(), 0x8f);
        for (offset, value) in RESET {
            config = config.preset(offset, value);
        }
        Self { config, chips }
    }

    fn route(&self) {
        let mut chips = self.chips.lock();
        for (line, offset) in (0..).zip(PIRQRC) {
            let value = self.config.byte(offset);
            let irq = value & 0xf;
            let routed = value & ROUTING_DISABLED == 0 && ROUTABLE >> irq & 1 != 0;
            chips.set_pirq_route(line, routed.then_some(irq));
        }
    }
}

impl PciFunction for IsaBridge {
    fn config_read(&mut self, _cx: &mut DevCx<'_>, offset: u8, size: AccessSize) -> u32 {
        self.config.read(offset, size)
    }

    fn config_write(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize, value: u32) {
        self.config.write(cx.requests, offset, size, value);
        if offset & !3 == *PIRQRC.start() {
            self.route();
        }
    }

    fn config_reset(&mut self, cx: &mut DevCx<'_>) {
        self.config.reset(cx.requests);
        self.route();
    }
}

#[cfg(test)]
mod tests {
    use super::IsaBridge;
    use crate::irq::{CpuInterrupts, InterruptChips, PciSink};
    use crate::pci::PciFunction;
    use hv_core::device::AccessSize::{Byte, Dword, Word};
    use hv_core::irq::{InterruptController, IrqSink};
    use hv_core::testing::Bench;

    #[test]
    fn power_on_values_are_the_piix3s() {
        let (mut i, mut b) = (IsaBridge::new(InterruptChips::shared(1)), Bench::new());
        for (offset, value) in [
            (0x00, 0x7000_8086),
            (0x04, 0x0200_0007),
            (0x08, 0x0601_0000),
            (0x0c, 0x0080_0000),
            (0x4c, 0x0003_004d),
            (0x60, 0x8080_8080),
            (0x68, 0x0000_0200),
            (0x70, 0x0000_0080),
            (0x74, 0x0c0c_0000),
            (0x78, 0x0000_0002),
            (0xa0, 0x0000_0008),
            (0xa8, 0x0000_000f),
        ] {
            assert_eq!(
                i.config_read(&mut b.cx(), offset, Dword),
                value,
                "{offset:#x}"
            );
        }
    }

    #[test]
    fn route_control_routes_and_reset_stops_it() {
        let chips = InterruptChips::shared(1);
        let mut cpu = CpuInterrupts::new(&chips, 0).unwrap();
        cpu.set_apic_base(0xfee0_0100);
        let (mut i, mut b) = (IsaBridge::new(chips.clone()), Bench::new());
        PciSink(chips).set(PciSink::input(3, 0), true);
        for (line, irq) in [(0x60, 10), (0x61, 10), (0x62, 11), (0x63, 11)] {
            assert!(
                !cpu.attention().contains(hv_core::irq::Attention::INTERRUPT),
                "PIRQC is not routed yet"
            );
            i.config_write(&mut b.cx(), line, Byte, irq);
            if line == 0x62 {
                break;
            }
        }
        assert!(cpu.attention().contains(hv_core::irq::Attention::INTERRUPT));
        assert_eq!(cpu.acknowledge(), Some(3), "slave input 3");
        i.config_reset(&mut b.cx());
        assert_eq!(i.config_read(&mut b.cx(), 0x62, Word), 0x8080);
    }

    #[test]
    fn interrupts_that_cannot_be_routed_to_are_none() {
        let chips = InterruptChips::shared(1);
        let mut cpu = CpuInterrupts::new(&chips, 0).unwrap();
        cpu.set_apic_base(0xfee0_0100);
        let (mut i, mut b) = (IsaBridge::new(chips.clone()), Bench::new());
        PciSink(chips).set(PciSink::input(1, 0), true);
        for irq in [0, 1, 2, 8, 13, 0x8a] {
            i.config_write(&mut b.cx(), 0x60, Byte, irq);
            assert!(
                !cpu.attention().contains(hv_core::irq::Attention::INTERRUPT),
                "{irq}"
            );
        }
    }
}
