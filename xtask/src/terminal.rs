//! The terminal that the tool was started on, when what is typed there goes to the guest key by key.

use std::io::{IsTerminal, Stdin, stdin};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};

/// The terminal without line editing and echo, which are the guest's; Ctrl-C still interrupts the tool. As before when it is dropped.
#[derive(Debug)]
pub struct KeyByKey {
    terminal: Stdin,
    before: Termios,
}

impl KeyByKey {
    /// Takes the terminal. None: standard input is none.
    pub fn take() -> Option<KeyByKey> {
        let terminal = stdin();
        if !terminal.is_terminal() {
            return None;
        }
        let before = tcgetattr(&terminal).ok()?;
        let mut modes = before.clone();
        modes.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        tcsetattr(&terminal, OptionalActions::Now, &modes).ok()?;
        Some(KeyByKey { terminal, before })
    }
}

impl Drop for KeyByKey {
    fn drop(&mut self) {
        // A terminal that has gone needs nothing.
        let _ = tcsetattr(&self.terminal, OptionalActions::Now, &self.before);
    }
}
