//! Events in the VMCS: what is injected, and what was being delivered when the guest was left (SDM vol 3C 25.8.3, "VM-Entry
//! Controls for Event Injection"; 25.9.3, "Information for VM Exits That Occur During Event Delivery").

use crate::formats::{Interruption, event_type};
use hv_core::event::{Event, EventKind, vector};

/// What an entry is to inject.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Injected {
    /// VM-entry interruption-information field.
    pub info: u32,
    /// VM-entry exception error code.
    pub error: u32,
    /// VM-entry instruction length, for software events.
    pub length: u32,
}

/// Whether the exception pushes an error code (SDM vol 3A table 6-1, "Protected-Mode Exceptions and Interrupts"), as the checks
/// on entry count them: control protection (21) only where the CPU says so, which is not asked for.
#[must_use]
pub const fn has_error_code(v: u8) -> bool {
    matches!(v, vector::DF | vector::TS..=vector::PF | vector::AC)
}

/// Encodes an injection. In real mode (`protected` false) exceptions have no error code.
#[must_use]
pub fn encode(event: &Event, protected: bool) -> Injected {
    let kind = match event.kind {
        EventKind::ExternalInterrupt => event_type::EXTERNAL_INTERRUPT,
        EventKind::Nmi => event_type::NMI,
        EventKind::Exception => event_type::HARDWARE_EXCEPTION,
        EventKind::SoftwareInterrupt => event_type::SOFTWARE_INTERRUPT,
        EventKind::SoftwareException => event_type::SOFTWARE_EXCEPTION,
    };
    let mut info = u32::from(event.vector) | u32::from(kind) << 8 | Interruption::VALID.bits();
    let mut error = 0;
    if event.kind == EventKind::Exception && protected && has_error_code(event.vector) {
        info |= Interruption::ERROR_CODE.bits();
        // Bits 31:16 must be zero (SDM vol 3C 27.2.1.3, "VM-Entry Control Fields").
        error = event.error.unwrap_or(0) & 0xffff;
    }
    Injected {
        info,
        error,
        length: event.insn_len.into(),
    }
}

/// The event whose delivery an exit interrupted.
///
/// Software events are left out: RIP still points at the instruction, which simply runs again.
#[must_use]
pub fn decode_vectoring(info: u32, error: u32) -> Option<Event> {
    let info = Interruption::from_bits_retain(info);
    if !info.contains(Interruption::VALID) {
        return None;
    }
    let v = info.vector();
    match info.kind() {
        event_type::EXTERNAL_INTERRUPT => Some(Event::interrupt(v)),
        event_type::NMI => Some(Event::nmi()),
        event_type::HARDWARE_EXCEPTION => Some(Event::exception(
            v & 31,
            info.contains(Interruption::ERROR_CODE).then_some(error),
        )),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn injection_is_encoded_as_the_manual_says() {
        let plain = |info| Injected {
            info,
            error: 0,
            length: 0,
        };
        assert_eq!(encode(&Event::interrupt(0x30), true), plain(0x8000_0030));
        assert_eq!(encode(&Event::nmi(), true), plain(0x8000_0202));
        assert_eq!(encode(&Event::exception(6, None), true), plain(0x8000_0306));
        let fault = Event::exception(14, Some(7));
        assert_eq!(
            encode(&fault, true),
            Injected {
                error: 7,
                ..plain(0x8000_0b0e)
            }
        );
        let int = Event {
            kind: EventKind::SoftwareInterrupt,
            insn_len: 2,
            ..Event::interrupt(0x80)
        };
        assert_eq!(
            encode(&int, true),
            Injected {
                length: 2,
                ..plain(0x8000_0480)
            }
        );
    }

    #[test]
    fn real_mode_has_no_error_codes_and_protected_mode_always_where_there_is_one() {
        let fault = Event::exception(13, Some(0x50));
        assert_eq!(encode(&fault, false).info, 0x8000_030d);
        assert_eq!(encode(&Event::exception(13, None), true).info, 0x8000_0b0d);
        assert_eq!(
            encode(&Event::exception(6, Some(3)), true).info,
            0x8000_0306
        );
    }

    #[test]
    fn injected_event_comes_back_as_it_was_when_its_delivery_is_interrupted() {
        let exceptions = (0..32)
            .filter(|&v| v != vector::NMI)
            .map(|v| Event::exception(v, has_error_code(v).then_some(u32::from(v))));
        for event in exceptions
            .chain((0..=255).map(Event::interrupt))
            .chain([Event::nmi()])
        {
            let i = encode(&event, true);
            assert_eq!(decode_vectoring(i.info, i.error), Some(event));
            assert_eq!(
                decode_vectoring(i.info & !Interruption::VALID.bits(), i.error),
                None
            );
        }
    }

    #[test]
    fn software_events_do_not_come_back_because_the_instruction_runs_again() {
        for kind in 4..7 {
            assert_eq!(
                decode_vectoring(Interruption::VALID.bits() | kind << 8 | 3, 0),
                None
            );
        }
    }
}
