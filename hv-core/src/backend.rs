//! The host side of devices: disks, networks, consoles, keyboards.

use core::fmt;

/// The host could not read or write the medium.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockError;

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the host's disk reported an error")
    }
}

/// A medium of 512-byte sectors.
pub trait BlockBackend: Send {
    /// Its length in 512-byte sectors.
    fn sectors(&self) -> u64;

    /// Whether writes are refused.
    fn read_only(&self) -> bool;

    /// Reads whole sectors from `sector` on. `buf.len()` is a multiple of 512 and the range lies within the medium.
    ///
    /// # Errors
    /// The medium could not be read.
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError>;

    /// Writes whole sectors from `sector` on.
    ///
    /// # Errors
    /// The medium could not be written, or is read-only.
    fn write(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError>;

    /// Returns when everything written is on stable storage.
    ///
    /// # Errors
    /// It could not be made so.
    fn flush(&mut self) -> Result<(), BlockError>;
}

/// Where a network card's frames go and come from. Frames are Ethernet II without FCS.
pub trait NetBackend: Send {
    /// Sends one frame.
    fn send(&mut self, frame: &[u8]);
    /// Takes the next received frame into `buf` (of at least 1,514 bytes) and returns its length.
    fn receive(&mut self, buf: &mut [u8]) -> Option<usize>;
}

/// A network where nobody else is.
#[derive(Default, Debug)]
pub struct NullNet;

impl NetBackend for NullNet {
    fn send(&mut self, _frame: &[u8]) {}
    fn receive(&mut self, _buf: &mut [u8]) -> Option<usize> {
        None
    }
}

/// Where a byte stream of the guest (COM1, the debug ports) goes.
pub trait ConsoleBackend: Send {
    /// The guest has sent `byte`.
    fn write(&mut self, byte: u8);
}

/// A console that nobody reads.
#[derive(Default, Debug)]
pub struct NullConsole;

impl ConsoleBackend for NullConsole {
    fn write(&mut self, _byte: u8) {}
}
