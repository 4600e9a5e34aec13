//! Umbra's own console, as far as it does not touch the machine: who gets what is typed, the line that is edited, the commands, and
//! the screen.
//!
//! There are two ways to it. On the keyboard, Ctrl+Alt+Esc goes from the guest to the console and back ([`Keyboard`]); on a serial line, three
//! Ctrl-A in a row ([`SerialLine`]). Both give [`Event`]s; an [`Editor`] makes lines of what is typed, [`Command::parse`] understands
//! them, and the answers go to a [`Screen`] and to the serial line.
//!
//! Nothing here grows with what is typed.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod command;
mod editor;
mod keyboard;
mod png;
mod screen;
mod serial;

pub use command::{COMMANDS, Command, Drive, PagingMode, Trace};
pub use editor::Editor;
pub use keyboard::Keyboard;
pub use png::PngWriter;
pub use screen::{COLUMNS, FONT_HEIGHT, ROWS, Screen};
pub use serial::SerialLine;

/// What has come of a byte from a keyboard or a serial line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// What is typed from now on is the console's.
    Opened,
    /// What is typed from now on is the guest's.
    Closed,
    /// Something was typed for the console.
    Typed(Key),
}

/// A key that means something to the console.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key {
    /// A printable character of ASCII.
    Char(char),
    /// The line is complete.
    Enter,
    /// The last character goes.
    Backspace,
    /// The whole line goes: Ctrl-U, Ctrl-C.
    Kill,
    /// The line before, in the history.
    Up,
    /// The line after.
    Down,
}

impl Key {
    /// The key of a character as keyboards and terminals give it.
    fn of(character: char) -> Option<Key> {
        match character {
            '\r' | '\n' => Some(Key::Enter),
            '\x08' | '\x7f' => Some(Key::Backspace),
            '\x03' | '\x15' => Some(Key::Kill),
            ' '..='~' => Some(Key::Char(character)),
            _ => None,
        }
    }
}
