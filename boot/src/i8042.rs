//! The host's keyboard controller, as its keyboard and its mouse are asked for something by polling.
//!
//! Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller".

use x86::io::{inb, outb};

/// Its ports.
pub const DATA: u16 = 0x60;
pub const STATUS: u16 = 0x64;
/// Status: a byte waits to be read; one waits to be taken by the controller.
pub const OUTPUT_FULL: u8 = 1;
const INPUT_FULL: u8 = 2;
/// What keyboard and mouse answer to each byte.
pub const ACK: u8 = 0xfa;
/// The command whose byte is for the mouse.
const TO_MOUSE: u8 = 0xd4;
/// How often the controller is asked whether it is ready.
const PATIENCE: usize = 100_000;
/// Bytes thrown away at most.
const LIMIT: usize = 256;

/// Waits until the bits `mask` of the status are `value`. False: they never were.
///
/// # Safety
/// Ring 0.
pub unsafe fn wait(mask: u8, value: u8) -> bool {
    // SAFETY: reading the status has no effect.
    (0..PATIENCE).any(|_| unsafe { inb(STATUS) } & mask == value)
}

/// Writes to the controller when it is ready. False: it never was.
///
/// # Safety
/// Ring 0; the keyboard controller is ours.
pub unsafe fn send(port: u16, byte: u8) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let ready = wait(INPUT_FULL, 0);
        if ready {
            outb(port, byte);
        }
        ready
    }
}

/// Sends `byte` to the mouse and waits for its acknowledgement. False: none came.
///
/// # Safety
/// Ring 0; the keyboard controller is ours, and sends no interrupts.
pub unsafe fn tell_mouse(byte: u8) -> bool {
    // SAFETY: the caller's promise.
    unsafe { send(STATUS, TO_MOUSE) && send(DATA, byte) && answer() == Some(ACK) }
}

/// The next byte that a device sends, if one comes.
///
/// # Safety
/// Ring 0; the keyboard controller is ours, and sends no interrupts.
pub unsafe fn answer() -> Option<u8> {
    // SAFETY: the caller's promise.
    unsafe { wait(OUTPUT_FULL, OUTPUT_FULL).then(|| inb(DATA)) }
}

/// Throws away what waits to be read, which would hold up what comes after it.
///
/// # Safety
/// Ring 0; the keyboard controller is ours.
pub unsafe fn discard() {
    for _ in 0..LIMIT {
        // SAFETY: the caller's promise.
        unsafe {
            if inb(STATUS) & OUTPUT_FULL == 0 {
                return;
            }
            inb(DATA);
        }
    }
}
