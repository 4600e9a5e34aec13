//! Scan codes: those of the guest, those of the console, and the keys that lead from one to the other.

use crate::{Event, Key};
use pc_keyboard::{DecodedKey, HandleControl, KeyCode, ScancodeSet1, layouts};

const ESCAPE: u8 = 0x01;
const CTRL: u8 = 0x1d;
const ALT: u8 = 0x38;
/// Prefixes (IBM PC/AT Technical Reference, "Keyboard"): one byte follows, and two.
const EXTENDED: u8 = 0xe0;
const PAUSE: u8 = 0xe1;
const BREAK: u8 = 0x80;
/// In the number of a key: it has the prefix E0h.
const EXTENDED_KEY: u8 = 0x80;

/// A set of keys by number: the make code, and [`EXTENDED_KEY`].
#[derive(Default)]
struct Keys([u64; 4]);

impl Keys {
    fn has(&self, key: u8) -> bool {
        self.0[usize::from(key >> 6)] >> (key & 63) & 1 != 0
    }

    /// Puts a key in or takes it out, and tells whether it was in.
    fn set(&mut self, key: u8, there: bool) -> bool {
        let was = self.has(key);
        let bit = 1 << (key & 63);
        let word = &mut self.0[usize::from(key >> 6)];
        *word = if there { *word | bit } else { *word & !bit };
        was
    }
}

/// The host's keyboard, which the guest and the console share: scan codes of set 1 come in.
///
/// Ctrl+Alt+Esc, with either of the two Ctrl and Alt keys, goes from one to the other. The guest never sees that Escape, and sees all keys
/// released that were held down: nothing sticks.
pub struct Keyboard {
    open: bool,
    /// The prefix E0h has come.
    extended: bool,
    /// Bytes of the Pause key that are still to come.
    pause: u8,
    /// Keys that are down.
    held: Keys,
    /// Of these, those that the guest knows of.
    sent: Keys,
    decoder: pc_keyboard::Keyboard<layouts::Us104Key, ScancodeSet1>,
}

impl Default for Keyboard {
    fn default() -> Self {
        Self {
            open: false,
            extended: false,
            pause: 0,
            held: Keys::default(),
            sent: Keys::default(),
            decoder: pc_keyboard::Keyboard::new(
                ScancodeSet1::new(),
                layouts::Us104Key,
                HandleControl::MapLettersToUnicode,
            ),
        }
    }
}

impl Keyboard {
    /// Whether the console has the keyboard.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// The guest has the keyboard from now on.
    pub fn close(&mut self) {
        self.open = false;
    }

    /// Takes one byte. What is the guest's goes to `guest`.
    pub fn feed(&mut self, code: u8, guest: &mut impl FnMut(u8)) -> Option<Event> {
        let typed = self.decode(code);
        if self.pause > 0 || code == PAUSE {
            self.pause = if code == PAUSE { 2 } else { self.pause - 1 };
            if !self.open {
                guest(code);
            }
            return None;
        }
        if code == EXTENDED {
            self.extended = true;
            return None;
        }
        let extended = core::mem::take(&mut self.extended);
        let key = code & !BREAK | if extended { EXTENDED_KEY } else { 0 };
        let make = code & BREAK == 0;
        self.held.set(key, make);
        if make && key == ESCAPE && self.either(CTRL) && self.either(ALT) {
            self.open = !self.open;
            self.release(guest);
            return Some(if self.open {
                Event::Opened
            } else {
                Event::Closed
            });
        }
        if self.open {
            return typed.map(Event::Typed);
        }
        // The guest is told of the release of keys only whose pressing it was told of.
        if self.sent.set(key, make) || make {
            if extended {
                guest(EXTENDED);
            }
            guest(code);
        }
        None
    }

    /// Whether the key with this code, or its twin on the other side of the keyboard, is down.
    fn either(&self, code: u8) -> bool {
        self.held.has(code) || self.held.has(code | EXTENDED_KEY)
    }

    /// Tells the guest that all keys are released.
    fn release(&mut self, guest: &mut impl FnMut(u8)) {
        for key in 0..=u8::MAX {
            if self.sent.set(key, false) {
                if key & EXTENDED_KEY != 0 {
                    guest(EXTENDED);
                }
                guest(key | BREAK);
            }
        }
    }

    fn decode(&mut self, code: u8) -> Option<Key> {
        let Ok(event) = self.decoder.add_byte(code) else {
            self.decoder.clear();
            return None;
        };
        match self.decoder.process_keyevent(event?)? {
            DecodedKey::Unicode(character) => Key::of(character),
            DecodedKey::RawKey(KeyCode::ArrowUp) => Some(Key::Up),
            DecodedKey::RawKey(KeyCode::ArrowDown) => Some(Key::Down),
            DecodedKey::RawKey(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(keyboard: &mut Keyboard, codes: &[u8]) -> (Vec<u8>, Vec<Event>) {
        let (mut guest, mut events) = (Vec::new(), Vec::new());
        for &code in codes {
            events.extend(keyboard.feed(code, &mut |code| guest.push(code)));
        }
        (guest, events)
    }

    #[test]
    fn what_is_typed_reaches_the_guest_unchanged() {
        let mut keyboard = Keyboard::default();
        // a, Shift+b, right arrow, Pause, Print Screen, Ctrl+Esc.
        let codes = [
            0x1e, 0x9e, 0x2a, 0x30, 0xb0, 0xaa, 0xe0, 0x4d, 0xe0, 0xcd, 0xe1, 0x1d, 0x45, 0xe1,
            0x9d, 0xc5, 0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa, 0x1d, 0x01, 0x81, 0x9d,
        ];
        assert_eq!(feed(&mut keyboard, &codes), (codes.to_vec(), Vec::new()));
    }

    #[test]
    fn ctrl_alt_esc_opens_and_closes_and_no_key_sticks_in_the_guest() {
        let mut keyboard = Keyboard::default();
        let (guest, events) = feed(
            &mut keyboard,
            &[0x1d, 0xe0, 0x38, 0x01, 0x81, 0xe0, 0xb8, 0x9d],
        );
        assert_eq!(events, [Event::Opened]);
        assert_eq!(guest, [0x1d, 0xe0, 0x38, 0x9d, 0xe0, 0xb8]);
        let (guest, events) = feed(
            &mut keyboard,
            &[0x26, 0xa6, 0x2a, 0x02, 0x82, 0xaa, 0x1c, 0x9c],
        );
        assert!(guest.is_empty());
        let typed = [Key::Char('l'), Key::Char('!'), Key::Enter].map(Event::Typed);
        assert_eq!(events, typed);
        // With the other keys, and a letter that is still down when the guest has the keyboard again.
        let (guest, events) = feed(
            &mut keyboard,
            &[
                0xe0, 0x1d, 0x38, 0x1e, 0x01, 0x81, 0x9e, 0xb8, 0xe0, 0x9d, 0x1f, 0x9f,
            ],
        );
        assert_eq!(events.last(), Some(&Event::Closed));
        assert_eq!(guest, [0x1f, 0x9f]);
    }

    #[test]
    fn the_pause_keys_ctrl_is_none() {
        let mut keyboard = Keyboard::default();
        let (_, events) = feed(&mut keyboard, &[0xe1, 0x1d, 0x45, 0x38, 0x01]);
        assert!(events.is_empty());
    }

    #[test]
    fn arrows_and_editing_keys_are_known() {
        let mut keyboard = Keyboard::default();
        feed(&mut keyboard, &[0x1d, 0x38, 0x01, 0x81, 0xb8, 0x9d]);
        let (_, events) = feed(
            &mut keyboard,
            &[
                0xe0, 0x48, 0xe0, 0xc8, 0xe0, 0x50, 0xe0, 0xd0, 0x0e, 0x8e, 0x1d, 0x16, 0x96, 0x9d,
            ],
        );
        let typed = [Key::Up, Key::Down, Key::Backspace, Key::Kill].map(Event::Typed);
        assert_eq!(events, typed);
    }

    #[test]
    fn noise_does_no_harm() {
        let mut keyboard = Keyboard::default();
        let mut state = 0x1234_5678u32;
        for _ in 0..200_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            keyboard.feed((state >> 24) as u8, &mut |_| {});
        }
    }
}
