//! Intel 82093AA I/O APIC (datasheet 290566): 24 inputs, version 11h, so without an EOI register.
//!
//! The polarity bit is kept and ignored: lines here are asserted or not. A level input delivers while its line is asserted and no EOI
//! is outstanding (remote IRR); what no local APIC accepts stays pending.
//!
//! An edge input keeps an edge that it could not deliver, because it was masked or no local APIC accepted it, for as long as the line
//! stays asserted, and delivers it when it can. A pulse that is over by then is lost. The data sheet (82093AA 3.2.4, "I/O Redirection
//! Table Registers", Interrupt Mask) ignores every edge at a masked input. But then a device that holds its line until it is served
//! is silent for ever, and its driver with it: an NT-like HAL starts the periodic interrupt of the RTC, which is never slower than 1 ms,
//! and unmasks the input later than that if its processor is taken away meanwhile. Others keep such guests going in ways of their own.
//! QEMU's RTC (`rtc_periodic_timer`) raises its line anew each period and its I/O APIC (`ioapic_set_irq`) takes each raise for an edge;
//! Xen's timers (`vpt.c`, `pt_irq_masked`) hold a tick until its input is unmasked; Bochs (`ioapic.cc`) keeps any edge at a masked input,
//! pulses too. KVM (`ioapic_set_irq`) loses it. The 8259A does as is done here: its latch keeps an edge while its level lasts.

use super::{DeliveryMode, Message};
use hv_core::machine::{IOAPIC_ID, IOAPIC_PINS};

/// Offset of the register select register.
const IOREGSEL: u64 = 0x00;
/// Offset of the window register.
const IOWIN: u64 = 0x10;

/// Index of the identification register.
const IOAPICID: u8 = 0x00;
/// Index of the version register.
const IOAPICVER: u8 = 0x01;
/// Index of the arbitration register.
const IOAPICARB: u8 = 0x02;
/// Index of the first redirection table register.
const IOREDTBL: u8 = 0x10;

/// Version 11h, the number of inputs less one in bits 23:16.
const VERSION: u32 = 0x11 | (IOAPIC_PINS as u32 - 1) << 16;

bitflags::bitflags! {
    /// Bits of the low half of a redirection entry.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Redirection: u32 {
        const LOGICAL = 1 << 11;
        const REMOTE_IRR = 1 << 14;
        const LEVEL = 1 << 15;
        const MASKED = 1 << 16;
        const WRITABLE = 0x0001_afff;
    }
}

#[derive(Clone, Copy)]
struct Entry {
    low: Redirection,
    destination: u8,
}

impl Entry {
    const RESET: Self = Self {
        low: Redirection::MASKED,
        destination: 0,
    };

    fn mode(self) -> DeliveryMode {
        DeliveryMode::of(self.low.bits())
    }

    /// Level triggering and remote IRR exist for these delivery modes only.
    fn level(self) -> bool {
        self.low.contains(Redirection::LEVEL)
            && matches!(
                self.mode(),
                DeliveryMode::Fixed | DeliveryMode::LowestPriority
            )
    }

    fn message(self) -> Message {
        Message {
            destination: Message::wide(self.destination),
            logical: self.low.contains(Redirection::LOGICAL),
            mode: self.mode(),
            vector: self.low.bits() as u8,
            level: self.level(),
        }
    }
}

/// The I/O APIC. What it has to send, the caller asks for with [`due`](Self::due).
pub(super) struct IoApic {
    id: u8,
    select: u8,
    entries: [Entry; IOAPIC_PINS as usize],
    lines: u32,
    /// Edge inputs that are asserted, and whose edge has not been delivered.
    edges: u32,
    remote_irr: u32,
}

impl IoApic {
    pub(super) fn new() -> Self {
        Self {
            id: IOAPIC_ID,
            select: 0,
            entries: [Entry::RESET; IOAPIC_PINS as usize],
            lines: 0,
            edges: 0,
            remote_irr: 0,
        }
    }

    /// Power-on; the inputs keep their levels.
    pub(super) fn reset(&mut self) {
        *self = Self {
            lines: self.lines,
            ..Self::new()
        };
    }

    /// Sets input `pin`; a message that must be sent now is returned: an edge, or a level that is due.
    pub(super) fn set(&mut self, pin: u8, level: bool) -> Option<Message> {
        if pin >= IOAPIC_PINS {
            return None;
        }
        let bit = 1 << pin;
        if !level {
            self.lines &= !bit;
            self.edges &= !bit;
            return None;
        }
        self.edges |= bit & !self.lines;
        self.lines |= bit;
        self.due(pin)
    }

    /// Whether an input may send an NMI, an INIT or a start-up message.
    pub(super) fn can_send_nmi(&self) -> bool {
        use DeliveryMode::{Init, Nmi, StartUp};
        self.entries.iter().any(|entry| {
            !entry.low.contains(Redirection::MASKED) && matches!(entry.mode(), Nmi | Init | StartUp)
        })
    }

    /// The message that input `pin` has to send, if it has.
    pub(super) fn due(&self, pin: u8) -> Option<Message> {
        let entry = self.entries.get(usize::from(pin))?;
        let waits = if entry.level() {
            self.lines & !self.remote_irr
        } else {
            self.edges
        };
        (waits & 1 << pin != 0 && !entry.low.contains(Redirection::MASKED)).then(|| entry.message())
    }

    /// A local APIC has accepted the message of input `pin`.
    pub(super) fn accepted(&mut self, pin: u8) {
        self.edges &= !(1 << pin);
        if self
            .entries
            .get(usize::from(pin))
            .is_some_and(|e| e.level())
        {
            self.remote_irr |= 1 << pin;
        }
    }

    /// A local APIC has broadcast the end of interrupt `vector`: the inputs (as a bit set) that may be due again.
    pub(super) fn eoi(&mut self, vector: u8) -> u32 {
        let mut ended = 0;
        let mut waiting = self.remote_irr;
        while waiting != 0 {
            let pin = waiting.trailing_zeros();
            waiting &= waiting - 1;
            if self
                .entries
                .get(pin as usize)
                .is_some_and(|e| e.low.bits() as u8 == vector)
            {
                ended |= 1 << pin;
            }
        }
        self.remote_irr &= !ended;
        ended & self.lines
    }

    /// The inputs (as a bit set) that are asserted and wait for nothing but acceptance.
    pub(super) fn waiting(&self) -> u32 {
        self.lines & !self.remote_irr
    }

    /// Where input 0 wants the PIC's interrupts to go: destination, logical.
    pub(super) fn ext_int(&self) -> Option<(u32, bool)> {
        let entry = self.entries.first()?;
        let passes =
            entry.mode() == DeliveryMode::ExtInt && !entry.low.contains(Redirection::MASKED);
        let destination = Message::wide(entry.destination);
        passes.then_some((destination, entry.low.contains(Redirection::LOGICAL)))
    }

    /// Reads the register at `offset` of the page.
    pub(super) fn read(&self, offset: u64) -> u32 {
        match offset {
            IOREGSEL => self.select.into(),
            IOWIN => self.register(),
            _ => 0,
        }
    }

    fn register(&self) -> u32 {
        match self.select {
            IOAPICID | IOAPICARB => u32::from(self.id) << 24,
            IOAPICVER => VERSION,
            index @ IOREDTBL.. => {
                let pin = usize::from((index - IOREDTBL) / 2);
                let Some(entry) = self.entries.get(pin) else {
                    return 0;
                };
                if index % 2 != 0 {
                    return u32::from(entry.destination) << 24;
                }
                let mut low = entry.low;
                low.set(Redirection::REMOTE_IRR, self.remote_irr & 1 << pin != 0);
                low.bits()
            }
            _ => 0,
        }
    }

    /// Writes the register at `offset` of the page. Returns the input whose entry was written and may be due now.
    pub(super) fn write(&mut self, offset: u64, value: u32) -> Option<u8> {
        match offset {
            IOREGSEL => {
                self.select = value as u8;
                None
            }
            IOWIN => self.set_register(value),
            _ => None,
        }
    }

    fn set_register(&mut self, value: u32) -> Option<u8> {
        match self.select {
            IOAPICID => {
                self.id = (value >> 24 & 0xf) as u8;
                None
            }
            index @ IOREDTBL.. => {
                let pin = (index - IOREDTBL) / 2;
                let entry = self.entries.get_mut(usize::from(pin))?;
                if index % 2 != 0 {
                    entry.destination = (value >> 24) as u8;
                } else {
                    entry.low = Redirection::from_bits_retain(value & Redirection::WRITABLE.bits());
                    // Linux ends an interrupt on chips without EOI register by making it edge-triggered for a moment.
                    if !entry.level() {
                        self.remote_irr &= !(1 << pin);
                    }
                }
                Some(pin)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DeliveryMode, IoApic, Message};

    fn program(a: &mut IoApic, pin: u8, low: u32, high: u32) {
        a.write(0, (0x11 + 2 * pin).into());
        a.write(0x10, high);
        a.write(0, (0x10 + 2 * pin).into());
        a.write(0x10, low);
    }

    fn low(a: &mut IoApic, pin: u8) -> u32 {
        a.write(0, (0x10 + 2 * pin).into());
        a.read(0x10)
    }

    #[test]
    fn identity_is_version_11_with_24_inputs() {
        let mut a = IoApic::new();
        a.write(0, 1);
        assert_eq!(a.read(0x10), 0x0017_0011);
        a.write(0, 0);
        a.write(0x10, 0xff00_0000);
        assert_eq!(a.read(0x10), 0x0f00_0000);
        assert_eq!(low(&mut a, 23), 0x1_0000);
        a.write(0, 0xff);
        assert_eq!(a.read(0x10), 0);
    }

    #[test]
    fn unmasked_edge_is_sent_once() {
        let mut a = IoApic::new();
        program(&mut a, 2, 0x0000_0830, 0x0100_0000);
        let sent = Message {
            destination: 1,
            logical: true,
            mode: DeliveryMode::Fixed,
            vector: 0x30,
            level: false,
        };
        assert_eq!(a.set(2, true), Some(sent));
        a.accepted(2);
        assert_eq!(a.set(2, true), None);
        assert_eq!(a.set(2, false), None);
        assert_eq!(a.set(2, true), Some(sent));
    }

    #[test]
    fn a_pulse_at_a_masked_input_is_lost() {
        let mut a = IoApic::new();
        assert_eq!(a.set(4, true), None);
        a.set(4, false);
        program(&mut a, 4, 0x31, 0);
        assert_eq!(a.due(4), None);
    }

    #[test]
    fn an_edge_at_a_masked_input_is_due_when_it_is_unmasked_while_the_line_lasts() {
        let mut a = IoApic::new();
        assert_eq!(a.set(8, true), None);
        program(&mut a, 8, 0x1_00d1, 0);
        assert_eq!(a.due(8), None);
        program(&mut a, 8, 0xd1, 0);
        assert!(a.due(8).is_some());
        a.accepted(8);
        assert_eq!(a.due(8), None);
    }

    #[test]
    fn a_delivered_edge_is_not_due_again_after_masking() {
        let mut a = IoApic::new();
        program(&mut a, 8, 0xd1, 0);
        assert!(a.set(8, true).is_some());
        a.accepted(8);
        program(&mut a, 8, 0x1_00d1, 0);
        program(&mut a, 8, 0xd1, 0);
        assert_eq!(a.due(8), None);
    }

    #[test]
    fn an_edge_that_nobody_accepts_waits() {
        let mut a = IoApic::new();
        program(&mut a, 8, 0xd1, 0);
        assert!(a.set(8, true).is_some());
        assert_ne!(a.waiting() & 1 << 8, 0);
        assert!(a.due(8).is_some());
        a.set(8, false);
        assert_eq!(a.due(8), None);
    }

    #[test]
    fn remote_irr_blocks_until_eoi_and_the_line_is_sampled_again() {
        let mut a = IoApic::new();
        program(&mut a, 11, 0xa041, 0);
        assert!(a.set(11, true).is_some());
        a.accepted(11);
        assert_eq!(low(&mut a, 11), 0xe041);
        a.set(11, false);
        assert_eq!(a.set(11, true), None);
        assert_eq!(a.eoi(0x42), 0);
        assert_eq!(a.eoi(0x41), 1 << 11);
        assert!(a.due(11).is_some());
        assert_eq!(low(&mut a, 11), 0xa041);
    }

    #[test]
    fn unmasking_an_asserted_level_input_makes_it_due() {
        let mut a = IoApic::new();
        program(&mut a, 10, 0x1_8041, 0);
        assert_eq!(a.set(10, true), None);
        program(&mut a, 10, 0x8041, 0);
        assert!(a.due(10).is_some());
    }

    #[test]
    fn edge_trigger_written_clears_remote_irr() {
        let mut a = IoApic::new();
        program(&mut a, 10, 0x8041, 0);
        a.set(10, true);
        a.accepted(10);
        program(&mut a, 10, 0x1_0041, 0);
        program(&mut a, 10, 0x8041, 0);
        assert!(a.due(10).is_some());
    }
}
