//! The flash chip that UEFI keeps its variables in: parallel NOR flash, one byte wide, with Intel's basic command set (Intel, "3 Volt Intel
//! StrataFlash Memory", 4.0, "Command Definitions"; QEMU's `pflash_cfi01`), as EDK II's QemuFlashFvbServicesRuntimeDxe drives it.
//!
//! While the chip shows its array, it is memory that the guest reads and executes without us; a write is a command. In every other mode
//! reads give the status or the identity, and so they come to us. A command programs a byte (bits go from 1 to 0 only) or erases a block (to
//! all ones).
//!
//! What has been changed is written to the medium behind the chip before the next command but a further program, after each erase, and a
//! moment after the last program: so the medium follows the guest in its order, which is what EDK II's fault-tolerant write counts on. A
//! hypervisor that is killed leaves what was there before a program or what is there after it.
//!
//! Not here: buffered writes, block locks, suspension, and the query of the Common Flash Interface, which OVMF does without.

#[cfg(test)]
mod tests;

use crate::mapped::Mapped;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use bitflags::bitflags;
use hv_core::backend::{BlockBackend, BlockError};
use hv_core::device::{DevCx, Device, WindowId};
use hv_core::mem::DeviceRam;
use hv_core::{Gpa, VmTime};

/// Bytes that are erased together.
pub const BLOCK: usize = 0x1000;
const SECTOR: usize = 512;
/// How long after a program everything is on the medium, whatever the guest does.
const SOON: VmTime = VmTime(50_000_000);

/// Commands.
mod command {
    pub const PROGRAM: u8 = 0x40;
    pub const PROGRAM_ALTERNATE: u8 = 0x10;
    pub const ERASE: u8 = 0x20;
    pub const ERASE_CONFIRM: u8 = 0xd0;
    pub const CLEAR_STATUS: u8 = 0x50;
    pub const READ_STATUS: u8 = 0x70;
    pub const READ_IDENTIFIER: u8 = 0x90;
}

bitflags! {
    /// The status register.
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    struct Status: u8 {
        /// A program failed.
        const PROGRAM_ERROR = 1 << 4;
        /// An erase failed; with the one above, the command sequence was wrong.
        const ERASE_ERROR = 1 << 5;
        /// What was begun is done.
        const READY = 1 << 7;
    }
}

/// Maker and device, as QEMU gives them by default: Intel's, of 16 MiB.
const IDENTIFIER: [u8; 2] = [0x89, 0x18];

/// What reads give.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Array,
    Status,
    Identifier,
}

/// What the next write is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expected {
    Command,
    Data,
    EraseConfirm,
}

/// Where the chip is, and what is behind it.
pub struct Parts {
    /// The address of its first byte.
    pub at: Gpa,
    /// Its contents: a multiple of [`BLOCK`].
    pub memory: Mapped,
    /// What keeps them. None: they last as long as the machine.
    pub medium: Option<Box<dyn BlockBackend>>,
}

/// The windows through which the guest sees the chip.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// Its contents, as read-only memory.
    pub array: WindowId,
    /// The other modes, in the same place.
    pub registers: WindowId,
}

/// The chip.
pub struct Flash {
    at: Gpa,
    array: Arc<dyn DeviceRam>,
    medium: Option<Box<dyn BlockBackend>>,
    windows: Windows,
    /// The sectors that the medium does not have yet.
    changed: Vec<bool>,
    any_changed: bool,
    failed: bool,
    mode: Mode,
    expected: Expected,
    status: Status,
}

impl Flash {
    /// A chip. It is seen after a reset.
    #[must_use]
    pub fn new(parts: Parts, windows: Windows) -> Self {
        let array = parts.memory.ram;
        let sectors = array.len() / SECTOR;
        Self {
            at: parts.at,
            array,
            medium: parts.medium,
            windows,
            changed: vec![false; sectors],
            any_changed: false,
            failed: false,
            mode: Mode::Array,
            expected: Expected::Command,
            status: Status::empty(),
        }
    }

    /// Shows what reads give in a mode.
    fn show(&mut self, cx: &mut DevCx<'_>, mode: Mode) {
        self.mode = mode;
        let here = |shown: bool| shown.then_some(self.at.0);
        let is_array = mode == Mode::Array;
        cx.requests.move_window(self.windows.array, here(is_array));
        cx.requests
            .move_window(self.windows.registers, here(!is_array));
    }

    /// The offset of an access to the array.
    fn within(&self, offset: u64, size: usize) -> Option<usize> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset.checked_add(size)?;
        (end <= self.array.len()).then_some(offset)
    }

    /// A write while the chip waits for a command.
    fn command(&mut self, cx: &mut DevCx<'_>, command: u8) {
        let (expected, mode) = match command {
            command::PROGRAM | command::PROGRAM_ALTERNATE => (Expected::Data, Mode::Status),
            command::ERASE => (Expected::EraseConfirm, Mode::Status),
            command::READ_STATUS => (Expected::Command, Mode::Status),
            command::READ_IDENTIFIER => (Expected::Command, Mode::Identifier),
            command::CLEAR_STATUS => {
                self.status = Status::empty();
                (Expected::Command, Mode::Array)
            }
            // Also what the chip does not know.
            _ => (Expected::Command, Mode::Array),
        };
        if expected != Expected::Data {
            self.write_through();
        }
        self.expected = expected;
        self.show(cx, mode);
    }

    /// Programs a byte: its zeros.
    fn program(&mut self, offset: usize, value: u8) {
        let mut byte = [0];
        self.array.read(offset, &mut byte);
        self.array.write(offset, &[byte[0] & value]);
        self.change(offset, 1);
    }

    /// Erases the block that has `offset` in it.
    fn erase(&mut self, offset: usize) {
        let start = offset / BLOCK * BLOCK;
        self.array.fill(start, BLOCK, 0xff);
        self.change(start, BLOCK);
        self.write_through();
    }

    fn change(&mut self, offset: usize, len: usize) {
        let sectors = offset / SECTOR..(offset + len).div_ceil(SECTOR);
        if self.medium.is_some()
            && let Some(changed) = self.changed.get_mut(sectors)
        {
            changed.fill(true);
            self.any_changed = true;
        }
    }

    /// Writes what has been changed to the medium, and waits until it is there for good.
    fn write_through(&mut self) {
        if !self.any_changed {
            return;
        }
        let Some(medium) = &mut self.medium else {
            return;
        };
        let mut written = Ok(());
        let mut bytes = [0; BLOCK];
        let mut sector = 0;
        while let Some(next) = self
            .changed
            .iter()
            .skip(sector)
            .position(|&changed| changed)
        {
            sector += next;
            let run = self.changed.iter().skip(sector).take(BLOCK / SECTOR);
            let run = run.take_while(|&&changed| changed).count();
            let bytes = &mut bytes[..run * SECTOR];
            self.array.read(sector * SECTOR, bytes);
            written = written.and(medium.write(sector as u64, bytes));
            if written.is_err() {
                break;
            }
            self.changed[sector..sector + run].fill(false);
            sector += run;
        }
        let written: Result<(), BlockError> = written.and_then(|()| medium.flush());
        match written {
            Ok(()) => self.any_changed = false,
            Err(error) => {
                // What is left is tried again with the next change.
                self.status |= Status::PROGRAM_ERROR;
                if !core::mem::replace(&mut self.failed, true) {
                    log::warn!("UEFI's variables are not kept: {error}");
                }
            }
        }
    }
}

impl Drop for Flash {
    fn drop(&mut self) {
        self.write_through();
    }
}

impl Device for Flash {
    fn name(&self) -> &'static str {
        "flash"
    }

    /// The contents stay.
    fn reset(&mut self, cx: &mut DevCx<'_>) {
        self.write_through();
        self.expected = Expected::Command;
        self.status = Status::empty();
        self.show(cx, Mode::Array);
    }

    fn poll(&mut self, _cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.write_through();
        None
    }

    fn mmio_read(&mut self, _: &mut DevCx<'_>, _: WindowId, offset: u64, size: usize) -> u64 {
        let Some(offset) = self.within(offset, size) else {
            return u64::MAX;
        };
        let mut value = [0; 8];
        let value_bytes = value.get_mut(..size).unwrap_or_default();
        match self.mode {
            Mode::Array => self.array.read(offset, value_bytes),
            Mode::Status => value_bytes.fill(self.status.bits()),
            Mode::Identifier => {
                for (byte, at) in value_bytes.iter_mut().zip(offset..) {
                    *byte = IDENTIFIER.get(at % BLOCK).copied().unwrap_or(0);
                }
            }
        }
        u64::from_le_bytes(value)
    }

    fn mmio_write(
        &mut self,
        cx: &mut DevCx<'_>,
        _: WindowId,
        offset: u64,
        size: usize,
        value: u64,
    ) {
        let Some(offset) = self.within(offset, size) else {
            return;
        };
        let low = value as u8;
        match self.expected {
            Expected::Command => self.command(cx, low),
            Expected::Data => {
                for (at, byte) in (offset..).zip(value.to_le_bytes()).take(size) {
                    self.program(at, byte);
                }
                self.expected = Expected::Command;
                self.status |= Status::READY;
                if self.any_changed {
                    cx.requests.wake_at(cx.now + SOON);
                }
            }
            Expected::EraseConfirm => {
                self.expected = Expected::Command;
                self.status |= Status::READY;
                if low == command::ERASE_CONFIRM {
                    self.erase(offset);
                } else {
                    self.status |= Status::PROGRAM_ERROR | Status::ERASE_ERROR;
                }
            }
        }
    }
}
