//! A serial line that the guest and the console share.

use crate::{Event, Key};

/// Ctrl-A.
const SWITCH: u8 = 0x01;
/// How many in a row lead from one to the other.
const TIMES: u8 = 3;

/// What of an escape sequence of a terminal has come (ECMA-48, 5.4, "Control sequences").
#[derive(Clone, Copy, PartialEq, Eq, Default)]
enum Sequence {
    #[default]
    None,
    Escape,
    Control,
}

/// The bytes that come on a serial line. Three Ctrl-A in a row go from the guest to the console and back; fewer are the guest's, which gets
/// them with the byte that follows.
#[derive(Default)]
pub struct SerialLine {
    open: bool,
    switches: u8,
    sequence: Sequence,
}

impl SerialLine {
    /// Whether the console has the line.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The guest has the line from now on.
    pub fn close(&mut self) {
        self.open = false;
    }

    /// Takes one byte. What is the guest's goes to `guest`.
    pub fn feed(&mut self, byte: u8, guest: &mut impl FnMut(u8)) -> Option<Event> {
        if byte == SWITCH {
            self.switches += 1;
            if self.switches < TIMES {
                return None;
            }
            self.switches = 0;
            self.open = !self.open;
            self.sequence = Sequence::None;
            return Some(if self.open {
                Event::Opened
            } else {
                Event::Closed
            });
        }
        let held = core::mem::take(&mut self.switches);
        if self.open {
            return self.typed(byte).map(Event::Typed);
        }
        (0..held).for_each(|_| guest(SWITCH));
        guest(byte);
        None
    }

    fn typed(&mut self, byte: u8) -> Option<Key> {
        let (sequence, key) = match (self.sequence, byte) {
            (_, 0x1b) => (Sequence::Escape, None),
            (Sequence::Escape, b'[') => (Sequence::Control, None),
            (Sequence::Control, b'A') => (Sequence::None, Some(Key::Up)),
            (Sequence::Control, b'B') => (Sequence::None, Some(Key::Down)),
            // Parameters; the byte that ends a sequence is of another range.
            (Sequence::Control, 0x20..=0x3f) => (Sequence::Control, None),
            (Sequence::Control, _) => (Sequence::None, None),
            (_, byte) => (Sequence::None, Key::of(char::from(byte))),
        };
        self.sequence = sequence;
        key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(line: &mut SerialLine, bytes: &[u8]) -> (Vec<u8>, Vec<Event>) {
        let (mut guest, mut events) = (Vec::new(), Vec::new());
        for &byte in bytes {
            events.extend(line.feed(byte, &mut |byte| guest.push(byte)));
        }
        (guest, events)
    }

    #[test]
    fn fewer_than_three_are_the_guests() {
        let mut line = SerialLine::default();
        let (guest, events) = feed(&mut line, b"a\x01b\x01\x01c");
        assert_eq!(guest, b"a\x01b\x01\x01c");
        assert!(events.is_empty());
    }

    #[test]
    fn three_open_and_three_close() {
        let mut line = SerialLine::default();
        let (guest, events) = feed(
            &mut line,
            b"a\x01\x01\x01ls\r\x1b[A\x1b[5~\x1b[B\x01\x01\x01b",
        );
        assert_eq!(guest, b"ab");
        let typed = [
            Key::Char('l'),
            Key::Char('s'),
            Key::Enter,
            Key::Up,
            Key::Down,
        ]
        .map(Event::Typed);
        assert_eq!(events[0], Event::Opened);
        assert_eq!(events[1..6], typed);
        assert_eq!(events[6..], [Event::Closed]);
    }
}
