//! The host's PS/2 keyboard: scan codes of set 1, as the controller translates them, go to the guest's keyboard.

use crate::interrupts;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use spin::Mutex;
use x86::io::{inb, outb};

/// Keys that nobody has taken yet.
static KEYS: Mutex<VecDeque<u8>> = Mutex::new(VecDeque::new());
/// More are dropped: somebody leans on the keyboard.
const LIMIT: usize = 256;

/// Its line at the interrupt controllers.
const IRQ: u8 = 1;
const DATA: u16 = 0x60;
const STATUS: u16 = 0x64;
/// Status: a byte waits to be read; one waits to be taken by the controller; the byte to be read is the mouse's.
const OUTPUT_FULL: u8 = 1;
const INPUT_FULL: u8 = 2;
const MOUSE: u8 = 0x20;
/// Command byte: keyboard interrupt, mouse interrupt, keyboard off, mouse off, translation to set 1.
const KEYBOARD_IRQ: u8 = 1;
const MOUSE_IRQ: u8 = 2;
const KEYBOARD_OFF: u8 = 0x10;
const MOUSE_OFF: u8 = 0x20;
const TRANSLATE: u8 = 0x40;
/// How often the controller is asked whether it is ready.
const PATIENCE: usize = 100_000;

/// Sets the controller up, whatever the firmware has left: keys in set 1 with an interrupt, no mouse. UEFI polls it.
pub fn init() {
    // SAFETY: ring 0; the keyboard controller is ours.
    unsafe {
        if inb(STATUS) == 0xff || !send(STATUS, 0xad) {
            return log::info!("keyboard: there is no PS/2 controller");
        }
        discard();
        let config = if send(STATUS, 0x20) && wait(OUTPUT_FULL, OUTPUT_FULL) {
            inb(DATA)
        } else {
            0
        };
        let ours = config & !(MOUSE_IRQ | KEYBOARD_OFF) | KEYBOARD_IRQ | MOUSE_OFF | TRANSLATE;
        let _ = send(STATUS, 0x60) && send(DATA, ours) && send(STATUS, 0xae);
        discard();
    }
    interrupts::unmask(IRQ, interrupt);
}

/// Waits until the bits `mask` of the status are `value`. False: they never were.
///
/// # Safety
/// Ring 0.
unsafe fn wait(mask: u8, value: u8) -> bool {
    // SAFETY: reading the status has no effect.
    (0..PATIENCE).any(|_| unsafe { inb(STATUS) } & mask == value)
}

/// Writes to the controller when it is ready. False: it never was.
///
/// # Safety
/// Ring 0; the keyboard controller is ours.
unsafe fn send(port: u16, byte: u8) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        let ready = wait(INPUT_FULL, 0);
        if ready {
            outb(port, byte);
        }
        ready
    }
}

/// Throws away what waits to be read, which would hold up what comes after it.
///
/// # Safety
/// Ring 0; the keyboard controller is ours.
unsafe fn discard() {
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

/// Takes what the keyboard has sent.
fn interrupt() {
    for _ in 0..LIMIT {
        // SAFETY: ring 0; the keyboard controller is ours.
        let (status, code) = unsafe {
            let status = inb(STATUS);
            if status & OUTPUT_FULL == 0 {
                return;
            }
            (status, inb(DATA))
        };
        let mut keys = KEYS.lock();
        if status & MOUSE == 0 && keys.len() < LIMIT {
            keys.push_back(code);
        }
    }
}

/// Takes the scan codes that wait.
pub fn take() -> Vec<u8> {
    KEYS.lock().drain(..).collect()
}
