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
        EventKind::PrivilegedSoftwareException => event_type::PRIVILEGED_SOFTWARE_EXCEPTION,
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

/// The kind of event that a type stands for; none for those that no exit reports.
#[must_use]
pub const fn kind(event_type: u8) -> Option<EventKind> {
    Some(match event_type {
        event_type::EXTERNAL_INTERRUPT => EventKind::ExternalInterrupt,
        event_type::NMI => EventKind::Nmi,
        event_type::HARDWARE_EXCEPTION => EventKind::Exception,
        event_type::SOFTWARE_INTERRUPT => EventKind::SoftwareInterrupt,
        event_type::PRIVILEGED_SOFTWARE_EXCEPTION => EventKind::PrivilegedSoftwareException,
        event_type::SOFTWARE_EXCEPTION => EventKind::SoftwareException,
        _ => return None,
    })
}

/// The event whose delivery an exit interrupted. `length` reads the instruction's length, which counts for software events.
#[must_use]
pub fn decode_vectoring(info: u32, error: u32, length: impl FnOnce() -> u8) -> Option<Event> {
    let info = Interruption::from_bits_retain(info);
    if !info.contains(Interruption::VALID) {
        return None;
    }
    let v = info.vector();
    match kind(info.kind())? {
        EventKind::ExternalInterrupt => Some(Event::interrupt(v)),
        EventKind::Nmi => Some(Event::nmi()),
        EventKind::Exception => Some(Event::exception(
            v & 31,
            info.contains(Interruption::ERROR_CODE).then_some(error),
        )),
        kind => Some(Event {
            kind,
            vector: v,
            error: None,
            insn_len: length(),
        }),
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
            .chain(SOFTWARE)
        {
            let i = encode(&event, true);
            let decoded = |info| decode_vectoring(info, i.error, || i.length as u8);
            assert_eq!(decoded(i.info), Some(event));
            assert_eq!(decoded(i.info & !Interruption::VALID.bits()), None);
        }
    }

    #[test]
    fn events_of_instructions_keep_their_types_and_lengths() {
        for (event, info) in SOFTWARE
            .into_iter()
            .zip([0x8000_0480, 0x8000_0501, 0x8000_0603])
        {
            let want = Injected {
                info,
                error: 0,
                length: event.insn_len.into(),
            };
            assert_eq!(encode(&event, true), want);
            assert_eq!(encode(&event, false), want);
        }
    }

    /// INT 80h, INT1 with a prefix, and INT3.
    const SOFTWARE: [Event; 3] = [
        Event {
            kind: EventKind::SoftwareInterrupt,
            vector: 0x80,
            error: None,
            insn_len: 2,
        },
        Event {
            kind: EventKind::PrivilegedSoftwareException,
            vector: vector::DB,
            error: None,
            insn_len: 2,
        },
        Event {
            kind: EventKind::SoftwareException,
            vector: vector::BP,
            error: None,
            insn_len: 1,
        },
    ];
}
