//! The PS/2 keyboard: an IBM enhanced keyboard with scan code sets 2 (power-on) and 1.
//!
//! Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard (101/102-Key)". Not implemented: set 3 (selecting it is
//! refused), typematic repeat (the host repeats).

use super::queue::Queue;
use super::scancodes::{BREAK, EXTENDED, EXTENDED_TWICE, RELEASED, to_set1, to_set2};

/// The command was understood.
pub const ACK: u8 = 0xfa;
/// Send it again: the command was not understood.
pub const RESEND: u8 = 0xfe;
/// The self test passed.
pub const TEST_PASSED: u8 = 0xaa;
/// Lowest command code; parameters are below.
const FIRST_COMMAND: u8 = 0xed;

/// The lamps that there are.
const LEDS: u8 = 7;

/// The longest key event: three bytes in set 1, twice as many in set 2.
const EVENT_MAX: usize = 6;

/// A keyboard.
pub struct Keyboard {
    /// The scan code set that it sends, 1 or 2.
    set: u8,
    /// Whether keys are scanned (F4h, F5h).
    scanning: bool,
    /// The command that waits for its parameter.
    command: Option<u8>,
    answers: Queue<4>,
    keys: Queue<16>,
    /// The byte sent last, for FEh.
    last: u8,
    /// The lamps that are lit: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    leds: u8,
    /// The bytes of a key that the host has not sent completely.
    partial: ([u8; 3], usize),
}

impl Keyboard {
    /// A keyboard after power-on: it scans, in set 2.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            set: 2,
            scanning: true,
            command: None,
            answers: Queue::new(),
            keys: Queue::new(),
            last: 0,
            leds: 0,
            partial: ([0; 3], 0),
        }
    }

    /// The lamps that are lit: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    #[must_use]
    pub fn leds(&self) -> u8 {
        self.leds
    }

    /// Whether it has a byte to send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        !self.answers.is_empty() || !self.keys.is_empty()
    }

    /// The next byte, translated to set 1 by the controller if `translate`.
    pub fn output(&mut self, translate: bool) -> Option<u8> {
        if let Some(byte) = self.answers.pop() {
            self.last = byte;
            return Some(if translate { to_set1(byte) } else { byte });
        }
        let byte = self.keys.pop()?;
        self.last = byte;
        if !translate {
            return Some(byte);
        }
        if byte == BREAK && self.set == 2 {
            // The translation swallows the prefix of a release.
            let code = self.keys.pop().unwrap_or(0);
            self.last = code;
            return Some(to_set1(code) | RELEASED);
        }
        Some(to_set1(byte))
    }

    /// Takes set 1 bytes of the host's keyboard and tells how many: whole key events only, none while nothing is scanned.
    pub fn press(&mut self, set1: &[u8]) -> usize {
        if !self.scanning {
            return 0;
        }
        let mut start = (0, self.partial);
        for (i, &byte) in set1.iter().enumerate() {
            let (mut bytes, mut len) = self.partial;
            if byte == EXTENDED || byte == EXTENDED_TWICE {
                len = 0;
            }
            if let Some(slot) = bytes.get_mut(len) {
                *slot = byte;
                len += 1;
            }
            let wanted = match bytes[0] {
                EXTENDED => 2,
                EXTENDED_TWICE => 3,
                _ => 1,
            };
            self.partial = (bytes, len);
            if len < wanted {
                continue;
            }
            if !self.queue_event(bytes.get(..len).unwrap_or(&[])) {
                self.partial = start.1;
                return start.0;
            }
            self.partial.1 = 0;
            start = (i + 1, self.partial);
        }
        set1.len()
    }

    /// Queues one key event in the selected set; false if it does not fit.
    fn queue_event(&mut self, set1: &[u8]) -> bool {
        if self.set == 1 {
            return self.keys.push(set1);
        }
        let mut event = Queue::<EVENT_MAX>::new();
        for &byte in set1 {
            let code = to_set2(byte & !RELEASED);
            match byte {
                EXTENDED | EXTENDED_TWICE => _ = event.push(&[byte]),
                // No key has code 0.
                _ if code == 0 => return true,
                RELEASED.. => _ = event.push(&[BREAK, code]),
                _ => _ = event.push(&[code]),
            }
        }
        let mut bytes = [0; EVENT_MAX];
        let mut len = 0;
        while let (Some(byte), Some(slot)) = (event.pop(), bytes.get_mut(len)) {
            *slot = byte;
            len += 1;
        }
        self.keys.push(bytes.get(..len).unwrap_or(&[]))
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.answers.clear();
        self.answers.push(bytes);
    }

    fn set_defaults(&mut self) {
        self.set = 2;
        self.command = None;
        self.leds = 0;
        self.keys.clear();
    }

    /// A byte comes from the system.
    pub fn input(&mut self, byte: u8) {
        match self.command.take() {
            Some(command) if byte < FIRST_COMMAND => self.parameter(command, byte),
            _ => self.start(byte),
        }
    }

    fn parameter(&mut self, command: u8, byte: u8) {
        match (command, byte) {
            (0xed, _) => {
                self.leds = byte & LEDS;
                self.answer(&[ACK]);
            }
            (0xf0, 0) => self.answer(&[ACK, self.set]),
            (0xf0, 1 | 2) => {
                self.set = byte;
                self.keys.clear();
                self.answer(&[ACK]);
            }
            (0xf0, _) => self.answer(&[RESEND]),
            _ => self.answer(&[ACK]),
        }
    }

    fn start(&mut self, byte: u8) {
        match byte {
            // LEDs, scan code set, typematic rate: a parameter follows.
            0xed | 0xf0 | 0xf3 => {
                self.command = Some(byte);
                self.answer(&[ACK]);
            }
            // Echo.
            0xee => self.answer(&[0xee]),
            // Identify: an MF2 keyboard.
            0xf2 => self.answer(&[ACK, 0xab, 0x83]),
            0xf4 => {
                self.scanning = true;
                self.answer(&[ACK]);
            }
            0xf5 => {
                self.set_defaults();
                self.scanning = false;
                self.answer(&[ACK]);
            }
            0xf6 => {
                self.set_defaults();
                self.answer(&[ACK]);
            }
            // Key types, which only matter in set 3.
            0xf7..=0xfa => self.answer(&[ACK]),
            0xfe => self.answer(&[self.last]),
            0xff => {
                self.set_defaults();
                self.scanning = true;
                self.answer(&[ACK, TEST_PASSED]);
            }
            _ => self.answer(&[RESEND]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Keyboard;
    use std::vec::Vec;

    fn drain(k: &mut Keyboard, translate: bool) -> Vec<u8> {
        core::iter::from_fn(|| k.output(translate)).collect()
    }

    fn ask(k: &mut Keyboard, bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .flat_map(|&b| {
                k.input(b);
                drain(k, false)
            })
            .collect()
    }

    #[test]
    fn commands_and_their_answers() {
        let table: [(&[u8], &[u8]); 13] = [
            (&[0xff], &[0xfa, 0xaa]),
            (&[0xf2], &[0xfa, 0xab, 0x83]),
            (&[0xed, 0x07], &[0xfa, 0xfa]),
            (&[0xee], &[0xee]),
            (&[0xf0, 0], &[0xfa, 0xfa, 2]),
            (&[0xf0, 1, 0xf0, 0], &[0xfa, 0xfa, 0xfa, 0xfa, 1]),
            (&[0xf0, 3], &[0xfa, 0xfe]),
            (&[0xf3, 0x20], &[0xfa, 0xfa]),
            (&[0xf4], &[0xfa]),
            (&[0xf5], &[0xfa]),
            (&[0xf6], &[0xfa]),
            (&[0x00], &[0xfe]),
            (&[0xf2, 0xfe], &[0xfa, 0xab, 0x83, 0x83]),
        ];
        for (input, output) in table {
            assert_eq!(ask(&mut Keyboard::new(), input), output, "{input:x?}");
        }
    }

    #[test]
    fn a_command_in_place_of_a_parameter_is_a_command() {
        assert_eq!(ask(&mut Keyboard::new(), &[0xed, 0xff]), [0xfa, 0xfa, 0xaa]);
    }

    #[test]
    fn lamps_are_lit_by_edh_and_dark_after_a_reset() {
        for (input, leds) in [
            (&[0xed, 0x02][..], 2),
            (&[0xed, 0xff], 0),
            (&[0xed, 0x07, 0xf4], 7),
            (&[0xed, 0x07, 0xf6], 0),
            (&[0xed, 0x07, 0xff], 0),
        ] {
            let mut k = Keyboard::new();
            ask(&mut k, input);
            assert_eq!(k.leds(), leds, "{input:x?}");
        }
    }

    #[test]
    fn keys_come_in_set_2_and_translate_back_to_what_the_host_sent() {
        let host: [&[u8]; 5] = [
            &[0x1e, 0x9e],
            &[0xe0, 0x48, 0xe0, 0xc8],
            &[0xe0, 0x2a, 0xe0, 0x37],
            &[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5],
            &[0x41],
        ];
        let set2: [&[u8]; 5] = [
            &[0x1c, 0xf0, 0x1c],
            &[0xe0, 0x75, 0xe0, 0xf0, 0x75],
            &[0xe0, 0x12, 0xe0, 0x7c],
            &[0xe1, 0x14, 0x77, 0xe1, 0xf0, 0x14, 0xf0, 0x77],
            &[0x83],
        ];
        for (h, s) in host.into_iter().zip(set2) {
            let mut k = Keyboard::new();
            assert_eq!(k.press(h), h.len());
            assert_eq!(drain(&mut k, false), s);
            assert_eq!(k.press(h), h.len());
            assert_eq!(drain(&mut k, true), h);
        }
    }

    #[test]
    fn set_1_is_sent_as_it_came() {
        let mut k = Keyboard::new();
        ask(&mut k, &[0xf0, 1]);
        assert_eq!(k.press(&[0xe0, 0x48, 0xe0, 0xc8]), 4);
        assert_eq!(drain(&mut k, false), [0xe0, 0x48, 0xe0, 0xc8]);
    }

    #[test]
    fn only_whole_key_events_are_accepted_and_the_rest_later() {
        let mut k = Keyboard::new();
        let typed: Vec<u8> = (0..6).flat_map(|_| [0xe0, 0x48, 0xe0, 0xc8]).collect();
        let n = k.press(&typed);
        // Two and three bytes an event: three pairs fill 15 of 16 bytes.
        assert_eq!(n, 12);
        assert_eq!(k.press(&typed[n..]), 0);
        let mut seen = drain(&mut k, true);
        assert_eq!(k.press(&typed[n..]), 12);
        seen.extend(drain(&mut k, true));
        assert_eq!(seen, typed);
    }

    #[test]
    fn a_key_may_arrive_in_pieces() {
        let mut k = Keyboard::new();
        assert_eq!(k.press(&[0x1e, 0xe0]), 2);
        assert_eq!(k.press(&[0x48]), 1);
        assert_eq!(drain(&mut k, true), [0x1e, 0xe0, 0x48]);
    }

    #[test]
    fn nothing_is_accepted_while_not_scanning() {
        let mut k = Keyboard::new();
        ask(&mut k, &[0xf5]);
        assert_eq!(k.press(&[0x1e]), 0);
        ask(&mut k, &[0xf4]);
        assert_eq!(k.press(&[0x1e]), 1);
    }
}
