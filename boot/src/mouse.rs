//! The host's PS/2 mouse, on the keyboard controller's second port: three buttons and, where it has one, a wheel.
//!
//! Sources: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller" and "Mouse"; Microsoft,
//! "PS/2 Mouse Wheel and 5-Button Support". Its bytes come through [`keyboard`](crate::keyboard), which has the interrupts.

use crate::i8042;
use alloc::collections::VecDeque;
use spin::Mutex;

/// A movement, and the buttons after it.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// Counts to the right.
    pub dx: i32,
    /// Counts downwards.
    pub dy: i32,
    /// Steps of the wheel towards the user.
    pub wheel: i32,
    /// Bit 0 left, 1 right, 2 middle.
    pub buttons: u8,
}

/// The bytes of a packet as they come.
struct Packet {
    bytes: [u8; 4],
    len: usize,
    /// 3, or 4 with a wheel.
    size: usize,
}

static PACKET: Mutex<Packet> = Mutex::new(Packet {
    bytes: [0; 4],
    len: 0,
    size: 3,
});
/// Movements that nobody has taken yet.
static MOVES: Mutex<VecDeque<Move>> = Mutex::new(VecDeque::new());
/// More are dropped.
const LIMIT: usize = 256;

/// Commands: set the sample rate, which byte follows; tell the device's ID; report movement, or do not; power-on settings.
const SET_RATE: u8 = 0xf3;
const IDENTIFY: u8 = 0xf2;
const REPORT: u8 = 0xf4;
const BE_QUIET: u8 = 0xf5;
const SET_DEFAULTS: u8 = 0xf6;
/// The rates that switch a wheel on, and the ID that it then has.
const KNOCK: [u8; 3] = [200, 100, 80];
const WITH_WHEEL: u8 = 3;

/// Byte 0 of a packet: always set; bit 8 of the movement to the right and upwards.
const SYNC: u8 = 1 << 3;
const X_SIGN: u8 = 1 << 4;
const Y_SIGN: u8 = 1 << 5;
const BUTTONS: u8 = 7;

/// Switches the mouse on. False: there is none.
///
/// # Safety
/// Ring 0; the keyboard controller is ours, its second port is on, and the keyboard is off.
pub unsafe fn init() -> bool {
    // SAFETY: the caller's promise.
    let tell = |byte| unsafe { i8042::tell_mouse(byte) };
    // The firmware may have left it talking: then this byte's answer is not the first to come.
    tell(BE_QUIET);
    // SAFETY: the caller's promise.
    unsafe { i8042::discard() };
    if !tell(SET_DEFAULTS) {
        return false;
    }
    let knocked = KNOCK.into_iter().all(|rate| tell(SET_RATE) && tell(rate));
    // SAFETY: the caller's promise.
    let wheel = knocked && tell(IDENTIFY) && unsafe { i8042::answer() } == Some(WITH_WHEEL);
    PACKET.lock().size = if wheel { 4 } else { 3 };
    tell(REPORT)
}

/// Takes a byte of the mouse's.
pub fn byte(byte: u8) {
    let mut packet = PACKET.lock();
    // A packet that has lost a byte ends where the next one can only begin.
    if packet.len == 0 && byte & SYNC == 0 {
        return;
    }
    let at = packet.len;
    packet.bytes[at] = byte;
    packet.len += 1;
    if packet.len < packet.size {
        return;
    }
    packet.len = 0;
    let [head, x, y, z] = packet.bytes;
    let signed = |low: u8, sign: u8| i32::from(low) - if head & sign != 0 { 256 } else { 0 };
    let mut moves = MOVES.lock();
    if moves.len() < LIMIT {
        moves.push_back(Move {
            dx: signed(x, X_SIGN),
            dy: -signed(y, Y_SIGN),
            wheel: if packet.size == 4 {
                i32::from(z as i8)
            } else {
                0
            },
            buttons: head & BUTTONS,
        });
    }
}

/// The oldest movement that waits.
pub fn next() -> Option<Move> {
    MOVES.lock().pop_front()
}
