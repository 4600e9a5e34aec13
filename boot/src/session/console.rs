//! The console as the session has it: its screen, its line on the serial port, and what it watches.

use super::statistics::Watch;
use crate::control;
use console::{Command, Editor, Event, Keyboard, Screen, SerialLine};
use core::fmt::{self, Write};

const PROMPT: &str = "umbra> ";
const HINT: &str = "(`help` lists the commands; `close` or three Ctrl-A lead back to the guest)\n";

/// The console.
#[derive(Default)]
pub(super) struct Console {
    pub screen: Screen,
    keyboard: Keyboard,
    serial: SerialLine,
    editor: Editor,
    pub watch: Option<Watch>,
    /// The VM that the commands are about.
    vm: u8,
}

impl Console {
    /// Whether the screen shows it.
    pub fn on_screen(&self) -> bool {
        self.keyboard.is_open()
    }

    /// A byte from the keyboard, and the command that it completes, which is about VM `vm`. What is the guest's goes to `guest`.
    pub fn key(&mut self, vm: u8, code: u8, guest: &mut impl FnMut(u8)) -> Option<Command> {
        self.vm = vm;
        match self.keyboard.feed(code, guest)? {
            Event::Typed(key) => return self.typed(key),
            Event::Opened => self.opened(),
            Event::Closed => self.closed(),
        }
        None
    }

    /// A byte from the serial line, likewise.
    pub fn byte(&mut self, vm: u8, byte: u8, guest: &mut impl FnMut(u8)) -> Option<Command> {
        self.vm = vm;
        match self.serial.feed(byte, guest)? {
            Event::Typed(key) => return self.typed(key),
            Event::Opened => {
                serial(vm, "\n");
                self.opened();
            }
            Event::Closed => {
                serial(vm, "\n(three Ctrl-A lead to Umbra's console)\n");
                self.closed();
            }
        }
        None
    }

    fn opened(&mut self) {
        self.screen.clear();
        self.say(HINT);
        self.prompt();
    }

    /// Nobody watches any more.
    fn closed(&mut self) {
        if !self.keyboard.is_open() && !self.serial.is_open() {
            self.watch = None;
        }
    }

    /// The guest has keyboard, screen and serial line again.
    pub fn close(&mut self) {
        self.keyboard.close();
        self.serial.close();
        self.closed();
    }

    fn typed(&mut self, key: console::Key) -> Option<Command> {
        if self.watch.take().is_some() {
            self.say("\n");
            self.prompt();
            return None;
        }
        let (screen, vm, on_serial) = (&mut self.screen, self.vm, self.serial.is_open());
        let line = self.editor.feed(key, &mut |text| {
            let _ = screen.write_str(text);
            if on_serial {
                serial(vm, text);
            }
        });
        match Command::parse(&line?) {
            Ok(command) => Some(command),
            Err(why) => {
                let _ = writeln!(self, "{why}");
                self.prompt();
                None
            }
        }
    }

    /// Asks for the next command.
    pub fn prompt(&mut self) {
        self.say(PROMPT);
    }

    fn say(&mut self, text: &str) {
        let _ = self.write_str(text);
    }

    /// The commands are about VM `vm` from now on, on whose line the console is.
    pub fn turn_to(&mut self, vm: u8) {
        self.vm = vm;
        self.watch = None;
    }
}

/// Writes to the screen, and to the serial line if the console has it.
impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.serial.is_open() {
            serial(self.vm, text);
        }
        self.screen.write_str(text)
    }
}

/// Writes to the line that the COM1 of VM `vm` is on.
fn serial(vm: u8, text: &str) {
    for byte in text.bytes() {
        if byte == b'\n' {
            control::console(vm, b'\r');
        }
        control::console(vm, byte);
    }
}
