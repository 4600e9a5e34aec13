//! The host's 16550 serial ports: COM1 carries Umbra's log, COM2 the control channel.

use x86::io::{inb, outb};

/// One serial port.
pub struct Serial {
    base: u16,
    /// Bytes that may be written before the line status has to be read again.
    room: u8,
    /// There is no such port.
    absent: bool,
}

/// Bytes in the transmit FIFO of a 16550A.
const FIFO: u8 = 16;

impl Serial {
    /// The port at `base`, not yet set up.
    pub const fn new(base: u16) -> Self {
        Self {
            base,
            room: 0,
            absent: false,
        }
    }

    /// Sets 115,200 baud 8N1 with FIFOs, and an interrupt on received bytes if `interrupts`. False: there is no such port.
    pub fn init(&mut self, interrupts: bool) -> bool {
        // SAFETY: ring 0; nobody else drives this port, and writes to an absent one are dropped.
        unsafe {
            outb(self.base + 7, 0x5a);
            self.absent = inb(self.base + 7) != 0x5a;
            if self.absent {
                return false;
            }
            outb(self.base + 3, 0x80);
            outb(self.base, 1);
            outb(self.base + 1, 0);
            outb(self.base + 3, 0x03);
            outb(self.base + 2, 0x07);
            outb(self.base + 4, 0x0b);
            outb(self.base + 1, u8::from(interrupts));
        }
        true
    }

    /// Interrupts on received bytes from now on.
    pub fn listen(&mut self) {
        if !self.absent {
            // SAFETY: ring 0; as in `init`.
            unsafe { outb(self.base + 1, 1) };
        }
    }

    /// Sends one byte, waiting for room in the FIFO.
    pub fn write(&mut self, byte: u8) {
        if self.absent {
            return;
        }
        // SAFETY: ring 0; as in `init`.
        unsafe {
            if self.room == 0 {
                let mut patience = 10_000_000u32;
                while inb(self.base + 5) & 0x20 == 0 && patience > 0 {
                    core::hint::spin_loop();
                    patience -= 1;
                }
                self.room = FIFO;
            }
            outb(self.base, byte);
        }
        self.room -= 1;
    }

    /// The next received byte.
    pub fn read(&mut self) -> Option<u8> {
        // SAFETY: ring 0; as in `init`.
        unsafe { (inb(self.base + 5) & 1 != 0).then(|| inb(self.base)) }
    }
}
