//! The PS/2 mouse: three buttons, and with the usual knocks a wheel (IntelliMouse) and two more buttons (Explorer).
//!
//! Sources: IBM PS/2 Hardware Interface Technical Reference, "Mouse"; Microsoft, "PS/2 Mouse Wheel and 5-Button Support". Not
//! implemented: 2:1 scaling of the counts and the sample rate (packets come as fast as the host moves and the guest reads);
//! both are only remembered for the status.

use super::keyboard::{ACK, RESEND, TEST_PASSED};
use super::queue::Queue;

/// Packet byte 0: always set.
const SYNC: u8 = 1 << 3;
/// Packet byte 0: bit 8 of the movement.
const X_SIGN: u8 = 1 << 4;
const Y_SIGN: u8 = 1 << 5;
/// The most counts that one packet carries in either direction.
const COUNTS_MAX: i32 = 255;
/// Where accumulated movement stops.
const FAR: i32 = 2_048;
/// Moves with different buttons that wait for their packets, at most.
const MOVES: usize = 8;

/// Movement with one state of the buttons.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Move {
    /// Counts to the right.
    dx: i32,
    /// Counts upwards.
    dy: i32,
    /// Wheel counts towards the user.
    dz: i32,
    buttons: u8,
}

impl Move {
    fn add(&mut self, other: Move) {
        let add = |a: i32, b: i32| a.saturating_add(b).clamp(-FAR, FAR);
        *self = Move {
            dx: add(self.dx, other.dx),
            dy: add(self.dy, other.dy),
            dz: add(self.dz, other.dz),
            buttons: other.buttons,
        };
    }
}

/// A mouse.
pub struct Mouse {
    /// Device ID: 0, 3 (wheel) or 4 (wheel and five buttons).
    id: u8,
    rate: u8,
    resolution: u8,
    scaling: bool,
    remote: bool,
    wrap: bool,
    /// Data reporting (F4h, F5h).
    reporting: bool,
    /// The latest sample rates, which are the knock.
    rates: [u8; 3],
    command: Option<u8>,
    answers: Queue<8>,
    packet: Queue<4>,
    last: u8,
    /// Moves to be sent, oldest first: the first `waiting` of `moves`.
    moves: [Move; MOVES],
    waiting: usize,
    /// The buttons now.
    buttons: u8,
}

impl Mouse {
    /// A mouse after power-on: stream mode, not reporting.
    #[must_use]
    pub fn new() -> Self {
        Self {
            id: 0,
            rate: 100,
            resolution: 2,
            scaling: false,
            remote: false,
            wrap: false,
            reporting: false,
            rates: [0; 3],
            command: None,
            answers: Queue::new(),
            packet: Queue::new(),
            last: 0,
            moves: [Move::default(); MOVES],
            waiting: 0,
            buttons: 0,
        }
    }

    /// The host's mouse moved by `dx` counts to the right, `dy` downwards, the wheel by `wheel` steps towards the user;
    /// `buttons` has bits 0 left, 1 right, 2 middle, 3 and 4 the side buttons.
    pub fn moved(&mut self, dx: i32, dy: i32, wheel: i32, buttons: u8) {
        let buttons = buttons & 0x1f;
        if (dx, dy, wheel, buttons) == (0, 0, 0, self.buttons) {
            return;
        }
        let previous = core::mem::replace(&mut self.buttons, buttons);
        if self.remote || !self.reporting {
            // Counted for a later EBh, but no reason for a packet.
            self.waiting = self.waiting.min(1);
        }
        let joins = self.waiting > 0 && (previous == buttons || self.remote || !self.reporting)
            || self.waiting == MOVES;
        if !joins {
            self.waiting += 1;
            if let Some(m) = self.moves.get_mut(self.waiting - 1) {
                *m = Move::default();
            }
        }
        if let Some(m) = self
            .waiting
            .checked_sub(1)
            .and_then(|i| self.moves.get_mut(i))
        {
            m.add(Move {
                dx,
                dy: dy.saturating_neg(),
                dz: wheel,
                buttons,
            });
        }
    }

    /// Makes the packet of the oldest move; what does not fit into it stays for the next.
    fn next_packet(&mut self) -> ([u8; 4], usize) {
        let first = &mut self.moves[0];
        if self.waiting == 0 {
            *first = Move {
                buttons: self.buttons,
                ..Move::default()
            };
        }
        let wheel_max = if self.id == 4 { 7 } else { 127 };
        let dx = first.dx.clamp(-COUNTS_MAX, COUNTS_MAX);
        let dy = first.dy.clamp(-COUNTS_MAX, COUNTS_MAX);
        let dz = if self.id == 0 {
            first.dz
        } else {
            first.dz.clamp(-wheel_max, wheel_max)
        };
        let buttons = first.buttons;
        *first = Move {
            dx: first.dx - dx,
            dy: first.dy - dy,
            dz: first.dz - dz,
            buttons,
        };
        let done = (first.dx, first.dy, first.dz) == (0, 0, 0);
        if done && self.waiting > 0 {
            self.moves.rotate_left(1);
            self.waiting -= 1;
        }
        let signs = if dx < 0 { X_SIGN } else { 0 } | if dy < 0 { Y_SIGN } else { 0 };
        let byte3 = match self.id {
            4 => dz as u8 & 0x0f | (buttons >> 3 & 3) << 4,
            _ => dz as u8,
        };
        let len = if self.id == 0 { 3 } else { 4 };
        ([SYNC | signs | buttons & 7, dx as u8, dy as u8, byte3], len)
    }

    /// Whether it has a byte to send.
    #[must_use]
    pub fn has_output(&self) -> bool {
        let streams = self.reporting && !self.remote && !self.wrap && self.command.is_none();
        !self.answers.is_empty() || !self.packet.is_empty() || streams && self.waiting > 0
    }

    /// The next byte.
    pub fn output(&mut self) -> Option<u8> {
        if !self.has_output() {
            return None;
        }
        if self.answers.is_empty() && self.packet.is_empty() {
            let (bytes, len) = self.next_packet();
            self.packet.push(bytes.get(..len).unwrap_or(&[]));
        }
        self.last = self.answers.pop().or_else(|| self.packet.pop())?;
        Some(self.last)
    }

    fn answer(&mut self, bytes: &[u8]) {
        self.answers.clear();
        self.answers.push(bytes);
    }

    fn forget_moves(&mut self) {
        self.waiting = 0;
    }

    fn set_defaults(&mut self) {
        self.rate = 100;
        self.resolution = 2;
        self.scaling = false;
        self.remote = false;
        self.reporting = false;
        self.forget_moves();
    }

    /// A byte comes from the system. It ends a packet that is being sent.
    pub fn input(&mut self, byte: u8) {
        self.packet.clear();
        match self.command.take() {
            _ if self.wrap && !matches!(byte, 0xec | 0xff) => self.answer(&[byte]),
            Some(command) if byte < 0xe6 => self.parameter(command, byte),
            _ => self.start(byte),
        }
    }

    fn parameter(&mut self, command: u8, byte: u8) {
        if command == 0xe8 {
            if byte > 3 {
                return self.answer(&[RESEND]);
            }
            self.resolution = byte;
        } else {
            self.rate = byte;
            self.rates = [self.rates[1], self.rates[2], byte];
            match (self.rates, self.id) {
                ([200, 100, 80], 0) => self.id = 3,
                ([200, 200, 80], _) => self.id = 4,
                _ => {}
            }
        }
        self.answer(&[ACK]);
    }

    fn start(&mut self, byte: u8) {
        match byte {
            0xe6 => self.scaling = false,
            0xe7 => self.scaling = true,
            0xe8 | 0xf3 => self.command = Some(byte),
            0xe9 => {
                // Left, middle, right from bit 2 down.
                let b = self.buttons;
                let buttons = (b & 1) << 2 | (b >> 2 & 1) << 1 | b >> 1 & 1;
                let modes = u8::from(self.remote) << 6
                    | u8::from(self.reporting) << 5
                    | u8::from(self.scaling) << 4;
                return self.answer(&[ACK, modes | buttons, self.resolution, self.rate]);
            }
            0xea => self.remote = false,
            0xeb => {
                let ([a, b, c, d], len) = self.next_packet();
                let bytes = [ACK, a, b, c, d];
                return self.answer(bytes.get(..=len).unwrap_or(&bytes));
            }
            0xec => self.wrap = false,
            0xee => self.wrap = true,
            0xf0 => self.remote = true,
            0xf2 => return self.answer(&[ACK, self.id]),
            0xf4 => {
                self.reporting = true;
                self.forget_moves();
            }
            0xf5 => self.reporting = false,
            0xf6 => self.set_defaults(),
            0xfe => return self.answer(&[self.last]),
            0xff => {
                let buttons = self.buttons;
                *self = Self {
                    buttons,
                    ..Self::new()
                };
                return self.answer(&[ACK, TEST_PASSED, 0]);
            }
            _ => return self.answer(&[RESEND]),
        }
        self.answer(&[ACK]);
    }
}

#[cfg(test)]
mod tests {
    use super::Mouse;
    use std::vec::Vec;

    fn drain(m: &mut Mouse) -> Vec<u8> {
        core::iter::from_fn(|| m.output()).collect()
    }

    fn ask(m: &mut Mouse, bytes: &[u8]) -> Vec<u8> {
        bytes
            .iter()
            .flat_map(|&b| {
                m.input(b);
                drain(m)
            })
            .collect()
    }

    fn streaming(knock: &[u8]) -> Mouse {
        let mut m = Mouse::new();
        for &rate in knock {
            ask(&mut m, &[0xf3, rate]);
        }
        ask(&mut m, &[0xf4]);
        m
    }

    #[test]
    fn commands_and_their_answers() {
        let table: [(&[u8], &[u8]); 10] = [
            (&[0xff], &[0xfa, 0xaa, 0x00]),
            (&[0xf2], &[0xfa, 0x00]),
            (&[0xe9], &[0xfa, 0x00, 2, 100]),
            (
                &[0xe8, 3, 0xf3, 40, 0xe7, 0xf4, 0xe9],
                &[0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0x30, 3, 40],
            ),
            // The Logitech probe of Windows and Linux.
            (
                &[0xe8, 0, 0xe6, 0xe6, 0xe6, 0xe9],
                &[0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0xfa, 0, 0, 100],
            ),
            (&[0xe8, 9], &[0xfa, 0xfe]),
            (
                &[0xee, 0xf2, 0x12, 0xec, 0xf2],
                &[0xfa, 0xf2, 0x12, 0xfa, 0xfa, 0],
            ),
            (&[0xeb], &[0xfa, 0x08, 0, 0]),
            (&[0xe1], &[0xfe]),
            (&[0xff, 0xfe], &[0xfa, 0xaa, 0x00, 0x00]),
        ];
        for (input, output) in table {
            assert_eq!(ask(&mut Mouse::new(), input), output, "{input:x?}");
        }
    }

    #[test]
    fn knocks_give_wheel_and_five_buttons_and_reset_takes_them_away() {
        let mut m = streaming(&[200, 100, 80]);
        assert_eq!(ask(&mut m, &[0xf2]), [0xfa, 3]);
        for rate in [200, 200, 80] {
            ask(&mut m, &[0xf3, rate]);
        }
        assert_eq!(ask(&mut m, &[0xf2]), [0xfa, 4]);
        ask(&mut m, &[0xff]);
        assert_eq!(ask(&mut m, &[0xf2]), [0xfa, 0]);
    }

    #[test]
    fn packets_have_the_layout_of_their_kind() {
        for (knock, packet) in [
            (&[][..], &[0x39, 0xfb, 0xfd][..]),
            (&[200, 100, 80], &[0x39, 0xfb, 0xfd, 0xff]),
            (&[200, 200, 80], &[0x39, 0xfb, 0xfd, 0x1f]),
        ] {
            let mut m = streaming(knock);
            m.moved(-5, 3, -1, 0b01001);
            assert_eq!(drain(&mut m), packet);
        }
    }

    #[test]
    fn long_moves_take_more_packets() {
        let mut m = streaming(&[]);
        m.moved(300, -300, 0, 0);
        assert_eq!(drain(&mut m), [0x08, 255, 255, 0x08, 45, 45]);
    }

    #[test]
    fn a_click_between_two_packets_is_not_lost() {
        let mut m = streaming(&[]);
        m.moved(1, 0, 0, 0);
        m.moved(1, 0, 0, 0);
        m.moved(0, 0, 0, 1);
        m.moved(0, 0, 0, 0);
        assert_eq!(drain(&mut m), [0x08, 2, 0, 0x09, 0, 0, 0x08, 0, 0]);
    }

    #[test]
    fn nothing_is_reported_before_f4_or_in_remote_mode() {
        let mut m = Mouse::new();
        m.moved(1, 1, 1, 1);
        assert_eq!(m.output(), None);
        ask(&mut m, &[0xf4, 0xf0]);
        m.moved(2, -2, 0, 1);
        m.moved(2, -2, 0, 2);
        assert_eq!(m.output(), None);
        assert_eq!(ask(&mut m, &[0xeb]), [0xfa, 0x0a, 4, 4]);
    }

    #[test]
    fn a_move_of_nothing_is_no_packet() {
        let mut m = streaming(&[]);
        m.moved(0, 0, 0, 0);
        assert!(!m.has_output());
    }
}
