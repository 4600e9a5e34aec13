//! Where a guest's characters go.

use crate::control;
use alloc::string::String;
use hv_core::backend::ConsoleBackend;

/// The COM1 or virtio console of the VM of this number: both go to its terminal.
pub(super) struct Screen(pub(super) u8);

impl ConsoleBackend for Screen {
    fn write(&mut self, byte: u8) {
        control::console(self.0, byte);
    }
}

/// Characters of a line of the firmware's at most.
const FIRMWARE_LINE: usize = 160;

/// The firmware's debug output, in lines.
pub(super) struct FirmwareLog {
    vm: u8,
    line: String,
}

impl FirmwareLog {
    /// That of VM `vm`.
    pub(super) fn new(vm: u8) -> Self {
        Self {
            vm,
            line: String::with_capacity(FIRMWARE_LINE),
        }
    }
}

impl ConsoleBackend for FirmwareLog {
    fn write(&mut self, byte: u8) {
        if byte == b'\n' || self.line.len() >= FIRMWARE_LINE {
            log::info!("VM {}, firmware: {}", self.vm, self.line);
            self.line.clear();
        } else if byte >= b' ' {
            self.line.push(char::from(byte & 0x7f));
        }
    }
}
