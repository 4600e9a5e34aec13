//! The host's PS/2 keyboard: scan codes of set 1, as the controller translates them, go to the guest's
//! keyboard, and the guest's lamps to ours.
//!
//! Source: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller" and "Keyboard". The mouse's
//! bytes go to [`mouse`].

use crate::i8042::{ACK, DATA, OUTPUT_FULL, STATUS, discard, send, wait};
use crate::interrupts::{self, Concerns};
use crate::mouse;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use spin::Mutex;
use x86::io::inb;

/// Keys that nobody has taken yet.
static KEYS: Mutex<VecDeque<u8>> = Mutex::new(VecDeque::new());
/// More are dropped: somebody leans on the keyboard.
const LIMIT: usize = 256;

/// Its line at the interrupt controllers.
const IRQ: u8 = 1;
/// Status: the byte to be read is the mouse's.
const MOUSE: u8 = 0x20;
/// Command byte: keyboard interrupt, mouse interrupt, keyboard off, mouse off, translation to set 1.
const KEYBOARD_IRQ: u8 = 1;
const MOUSE_IRQ: u8 = 2;
const KEYBOARD_OFF: u8 = 0x10;
const MOUSE_OFF: u8 = 0x20;
const TRANSLATE: u8 = 0x40;
/// The mouse's interrupt line.
const IRQ_MOUSE: u8 = 12;
/// Command of the controller: the mouse's port on.
const ENABLE_MOUSE: u8 = 0xa8;
/// The keyboard's command for the lamps, which byte follows; what it answers where it cannot.
const SET_LEDS: u8 = 0xed;
const RESEND: u8 = 0xfe;

/// How far the keyboard is with its lamps.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Exchange {
    /// There is no keyboard.
    None,
    Idle,
    /// The command waits for its acknowledgement.
    Command,
    /// So do the lamps.
    Leds,
}

/// The keyboard's lamps.
struct Lamps {
    wanted: u8,
    lit: u8,
    exchange: Exchange,
}

static LAMPS: Mutex<Lamps> = Mutex::new(Lamps {
    wanted: 0,
    lit: 0,
    exchange: Exchange::None,
});

impl Lamps {
    /// Begins to set the lamps if they are not as wanted.
    fn begin(&mut self) {
        if self.exchange == Exchange::Idle && self.wanted != self.lit {
            // SAFETY: ring 0; the keyboard controller is ours.
            if unsafe { send(DATA, SET_LEDS) } {
                self.exchange = Exchange::Command;
            }
        }
    }

    /// Takes a byte if it is the keyboard's answer.
    fn answered(&mut self, byte: u8) -> bool {
        match (self.exchange, byte) {
            (Exchange::Command, ACK) => {
                self.lit = self.wanted;
                // SAFETY: ring 0; the keyboard controller is ours.
                unsafe { send(DATA, self.lit) };
                self.exchange = Exchange::Leds;
            }
            (Exchange::Leds, ACK) => {
                self.exchange = Exchange::Idle;
                self.begin();
            }
            // It cannot: it is not asked again for the same.
            (Exchange::Command | Exchange::Leds, RESEND) => {
                self.lit = self.wanted;
                self.exchange = Exchange::Idle;
            }
            _ => return false,
        }
        true
    }
}

/// Lights the keyboard's lamps: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
pub fn set_leds(leds: u8) {
    let mut lamps = LAMPS.lock();
    lamps.wanted = leds;
    lamps.begin();
}

/// Sets the controller up, whatever the firmware has left: keys in set 1 and the mouse, with interrupts. UEFI polls it.
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
        let quiet = config & !(KEYBOARD_IRQ | MOUSE_IRQ) | KEYBOARD_OFF;
        let _ = send(STATUS, 0x60) && send(DATA, quiet) && send(STATUS, ENABLE_MOUSE);
        let ours = config & !(MOUSE_IRQ | KEYBOARD_OFF | MOUSE_OFF) | KEYBOARD_IRQ | TRANSLATE;
        let mouse = mouse::init();
        let ours = ours | if mouse { MOUSE_IRQ } else { MOUSE_OFF };
        let _ = send(STATUS, 0x60) && send(DATA, ours) && send(STATUS, 0xae);
        discard();
        if mouse {
            interrupts::unmask(IRQ_MOUSE, interrupt);
        }
        LAMPS.lock().exchange = Exchange::Idle;
        log::info!(
            "keyboard: ready, {} mouse",
            if mouse { "with a" } else { "no" }
        );
    }
    interrupts::unmask(IRQ, interrupt);
}

/// Takes what the keyboard and the mouse have sent.
fn interrupt() -> Concerns {
    for _ in 0..LIMIT {
        // SAFETY: ring 0; the keyboard controller is ours.
        let (status, code) = unsafe {
            let status = inb(STATUS);
            if status & OUTPUT_FULL == 0 {
                break;
            }
            (status, inb(DATA))
        };
        if status & MOUSE != 0 {
            mouse::byte(code);
            continue;
        }
        if LAMPS.lock().answered(code) {
            continue;
        }
        let mut keys = KEYS.lock();
        if keys.len() < LIMIT {
            keys.push_back(code);
        }
    }
    Concerns::Session
}

/// Takes the scan codes that wait.
pub fn take() -> Vec<u8> {
    KEYS.lock().drain(..).collect()
}
