//! The Intel 8042 keyboard controller at ports 60h and 64h, with a PS/2 keyboard and mouse.
//!
//! Sources: IBM PS/2 Hardware Interface Technical Reference, "Keyboard and Auxiliary Device Controller"; the commands A4h to A9h
//! and D3h, D4h are those of the PS/2.
//!
//! One byte at a time stands in the output buffer; it is never overwritten. While it stands there, its interrupt line is
//! high if the command byte enables it; reading port 60h lowers the line, so each byte is a new edge. The controller's own
//! answers come at once, with either interface disabled or not. Bytes of the devices come `BYTE_TIME` after the byte before
//! was read or a command was written: drivers of Windows NT, 2000 and XP lose bytes that come within the same interrupt.
//!
//! Not implemented: the time that the input buffer is full, timeouts and parity errors, and the password (none is set).

mod keyboard;
mod mouse;
mod queue;
mod scancodes;

use crate::a20::A20;
use bitflags::bitflags;
use hv_core::VmTime;
use hv_core::device::{AccessSize, DevCx, Device, PowerAction};
use hv_core::irq::IrqLine;
use keyboard::Keyboard;
use mouse::Mouse;

/// Data port.
const DATA: u16 = 0x60;
/// Status (read) and command (write) port.
const COMMAND: u16 = 0x64;

/// A byte takes about so long on the wire, and an interrupt handler to return.
const BYTE_TIME: VmTime = VmTime::from_micros(200);

bitflags! {
    /// The status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Status: u8 {
        /// Output buffer full.
        const OBF = 1 << 0;
        /// Input buffer full.
        const IBF = 1 << 1;
        /// The self test passed.
        const SYS = 1 << 2;
        /// The last write was to the command port.
        const CMD = 1 << 3;
        /// The keyboard is not locked.
        const UNLOCKED = 1 << 4;
        /// What is in the output buffer came from the mouse.
        const AUX = 1 << 5;
    }
}

bitflags! {
    /// The command byte, byte 0 of the controller's memory.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Mode: u8 {
        /// Keyboard interrupt enable.
        const KEYBOARD_INT = 1 << 0;
        /// Mouse interrupt enable.
        const MOUSE_INT = 1 << 1;
        /// System flag.
        const SYS = 1 << 2;
        /// The keyboard's clock is held.
        const KEYBOARD_OFF = 1 << 4;
        /// The mouse's clock is held.
        const MOUSE_OFF = 1 << 5;
        /// Scan codes are translated to set 1.
        const TRANSLATE = 1 << 6;
    }
}

/// Output port: the CPU's reset line, active low.
const OUT_RESET: u8 = 1 << 0;
/// Output port: A20.
const OUT_A20: u8 = 1 << 1;
/// Output port: the keyboard interrupt line.
const OUT_IRQ1: u8 = 1 << 4;
/// Output port: the mouse interrupt line.
const OUT_IRQ12: u8 = 1 << 5;
/// Output port: bits that are always set: the clock and data lines.
const OUT_ONES: u8 = 0xcc;

/// The keyboard controller with its devices.
pub struct I8042 {
    irq1: IrqLine,
    irq12: IrqLine,
    status: Status,
    mode: Mode,
    /// The controller's memory; byte 0 is in `mode`.
    memory: [u8; 32],
    /// The line that the output port's bit 1 drives.
    a20: A20,
    /// The output buffer.
    data: u8,
    /// The command that waits for its data byte.
    command: Option<u8>,
    /// The controller's own answer that waits for the output buffer, and whether it is marked as the mouse's.
    answer: Option<(u8, bool)>,
    /// No byte of a device is presented earlier.
    quiet_until: VmTime,
    keyboard: Keyboard,
    mouse: Mouse,
}

impl I8042 {
    /// The controller after power-on; `irq1` is the keyboard's wire, `irq12` the mouse's.
    #[must_use]
    pub fn new(irq1: IrqLine, irq12: IrqLine, a20: A20) -> Self {
        Self {
            irq1,
            irq12,
            a20,
            status: Status::CMD | Status::UNLOCKED,
            mode: Mode::KEYBOARD_INT | Mode::MOUSE_INT,
            memory: [0; 32],
            data: 0,
            command: None,
            answer: None,
            quiet_until: VmTime(0),
            keyboard: Keyboard::new(),
            mouse: Mouse::new(),
        }
    }

    /// Keys of the host: a stream of set 1 make and break bytes with their E0h and E1h prefixes. Returns how many bytes were
    /// taken: whole key events, as many as the keyboard has room for; none while the guest has the keyboard disabled. A poll
    /// presents them to the guest.
    pub fn key_scancodes(&mut self, set1: &[u8]) -> usize {
        if self.mode.contains(Mode::KEYBOARD_OFF) {
            return 0;
        }
        self.keyboard.press(set1)
    }

    /// The lamps of the keyboard that are lit: bit 0 Scroll Lock, 1 Num Lock, 2 Caps Lock.
    #[must_use]
    pub fn leds(&self) -> u8 {
        self.keyboard.leds()
    }

    /// The host's mouse moved by `dx` counts to the right, `dy` downwards, the wheel by `wheel` steps towards the user;
    /// `buttons` has bits 0 left, 1 right, 2 middle, 3 and 4 the side buttons. A poll presents it to the guest.
    pub fn mouse_move(&mut self, dx: i32, dy: i32, wheel: i32, buttons: u8) {
        self.mouse.moved(dx, dy, wheel, buttons);
    }

    fn drive(&self) {
        let full = self.status.contains(Status::OBF);
        let aux = self.status.contains(Status::AUX);
        self.irq1
            .set(full && !aux && self.mode.contains(Mode::KEYBOARD_INT));
        self.irq12
            .set(full && aux && self.mode.contains(Mode::MOUSE_INT));
    }

    fn fill(&mut self, data: u8, aux: bool) {
        self.data = data;
        self.status.insert(Status::OBF);
        self.status.set(Status::AUX, aux);
        self.drive();
    }

    fn keyboard_ready(&self) -> bool {
        !self.mode.contains(Mode::KEYBOARD_OFF) && self.keyboard.has_output()
    }

    fn mouse_ready(&self) -> bool {
        !self.mode.contains(Mode::MOUSE_OFF) && self.mouse.has_output()
    }

    /// Fills the output buffer if it is empty and there is something for it. Returns when to try again.
    fn present(&mut self, now: VmTime) -> Option<VmTime> {
        if self.status.contains(Status::OBF) {
            return None;
        }
        if let Some((data, aux)) = self.answer.take() {
            self.fill(data, aux);
            return None;
        }
        let (keyboard, mouse) = (self.keyboard_ready(), self.mouse_ready());
        if !keyboard && !mouse {
            return None;
        }
        if now < self.quiet_until {
            return Some(self.quiet_until);
        }
        if keyboard {
            if let Some(byte) = self.keyboard.output(self.mode.contains(Mode::TRANSLATE)) {
                self.fill(byte, false);
            }
        } else if let Some(byte) = self.mouse.output() {
            self.fill(byte, true);
        }
        None
    }

    fn update(&mut self, cx: &mut DevCx<'_>) {
        if let Some(when) = self.present(cx.now) {
            cx.requests.wake_at(when);
        }
    }

    fn output_port(&self) -> u8 {
        let full = self.status.contains(Status::OBF);
        let aux = self.status.contains(Status::AUX);
        let lines = if full && aux {
            OUT_IRQ12
        } else if full {
            OUT_IRQ1
        } else {
            0
        };
        let a20 = if self.a20.is_on() { OUT_A20 } else { 0 };
        OUT_ONES | OUT_RESET | a20 | lines
    }

    fn write_output_port(&mut self, cx: &mut DevCx<'_>, value: u8) {
        if value & OUT_RESET == 0 {
            cx.requests.power = Some(PowerAction::Reset);
        }
        self.a20.set(cx, value & OUT_A20 != 0);
    }

    fn write_command(&mut self, cx: &mut DevCx<'_>, command: u8) {
        self.command = None;
        match command {
            0x20 => self.answer = Some((self.mode.bits(), false)),
            0x21..=0x3f => {
                let byte = self
                    .memory
                    .get(usize::from(command & 0x1f))
                    .copied()
                    .unwrap_or(0);
                self.answer = Some((byte, false));
            }
            // Write memory, output port, loop back to keyboard or mouse, write to mouse: a data byte follows.
            0x60..=0x7f | 0xd1..=0xd4 => self.command = Some(command),
            // Is a password installed? No.
            0xa4 => self.answer = Some((0xf1, false)),
            0xa7 => self.mode.insert(Mode::MOUSE_OFF),
            0xa8 => self.mode.remove(Mode::MOUSE_OFF),
            // Interface tests.
            0xa9 | 0xab => self.answer = Some((0, false)),
            0xaa => {
                self.status.insert(Status::SYS);
                self.answer = Some((0x55, false));
            }
            0xad => self.mode.insert(Mode::KEYBOARD_OFF),
            0xae => self.mode.remove(Mode::KEYBOARD_OFF),
            // Input port: the keyboard is not locked.
            0xc0 => self.answer = Some((0x80, false)),
            0xd0 => self.answer = Some((self.output_port(), false)),
            0xdd => self.a20.set(cx, false),
            0xdf => self.a20.set(cx, true),
            // Test inputs.
            0xe0 => self.answer = Some((0, false)),
            // Pulse output port bits low.
            0xf0..=0xff if command & OUT_RESET == 0 => cx.requests.power = Some(PowerAction::Reset),
            _ => {}
        }
    }

    fn write_data(&mut self, cx: &mut DevCx<'_>, value: u8) {
        match self.command.take() {
            None => {
                // A byte to a device enables its interface.
                self.mode.remove(Mode::KEYBOARD_OFF);
                self.keyboard.input(value);
                self.quiet_until = cx.now + BYTE_TIME;
            }
            Some(0x60) => {
                self.mode = Mode::from_bits_retain(value);
                self.drive();
            }
            Some(0xd1) => self.write_output_port(cx, value),
            Some(0xd2) => self.answer = Some((value, false)),
            Some(0xd3) => self.answer = Some((value, true)),
            Some(0xd4) => {
                self.mode.remove(Mode::MOUSE_OFF);
                self.mouse.input(value);
                self.quiet_until = cx.now + BYTE_TIME;
            }
            Some(command) => {
                if let Some(byte) = self.memory.get_mut(usize::from(command & 0x1f)) {
                    *byte = value;
                }
            }
        }
    }
}

impl Device for I8042 {
    fn name(&self) -> &'static str {
        "i8042"
    }

    fn reset(&mut self, cx: &mut DevCx<'_>) {
        self.a20.set(cx, true);
        *self = Self::new(self.irq1.clone(), self.irq12.clone(), self.a20.clone());
        self.drive();
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.present(cx.now)
    }

    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        let byte = match port {
            DATA => {
                let data = self.data;
                if self.status.contains(Status::OBF) {
                    self.status.remove(Status::OBF | Status::AUX);
                    self.quiet_until = cx.now + BYTE_TIME;
                    self.drive();
                    self.update(cx);
                }
                data
            }
            COMMAND => {
                self.update(cx);
                let system = if self.mode.contains(Mode::SYS) {
                    Status::SYS
                } else {
                    Status::empty()
                };
                (self.status | system).bits()
            }
            _ => 0xff,
        };
        size.ones() & !0xff | u32::from(byte)
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, _size: AccessSize, value: u32) {
        let value = value as u8;
        match port {
            DATA => {
                self.status.remove(Status::CMD);
                self.write_data(cx, value);
            }
            COMMAND => {
                self.status.insert(Status::CMD);
                self.write_command(cx, value);
            }
            _ => return,
        }
        self.update(cx);
    }
}

#[cfg(test)]
mod tests;
