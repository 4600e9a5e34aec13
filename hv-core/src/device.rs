//! What a device is to the rest of the hypervisor: something that answers port and MMIO accesses, has a deadline, and can
//! be reset.
//!
//! A device gets everything from outside through [`DevCx`]: the time, memory for DMA, and the VM to tell of power actions,
//! of deadlines and of moved address windows. Interrupt lines and back ends it was given when it was built.

use crate::mem::GuestMemory;
use crate::time::VmTime;
use alloc::vec::Vec;

/// The width of one access to a port.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum AccessSize {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Dword,
}

impl AccessSize {
    /// 1, 2 or 4.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            AccessSize::Byte => 1,
            AccessSize::Word => 2,
            AccessSize::Dword => 4,
        }
    }

    /// All ones of this width: what an open bus reads.
    #[must_use]
    pub const fn ones(self) -> u32 {
        match self {
            AccessSize::Byte => 0xff,
            AccessSize::Word => 0xffff,
            AccessSize::Dword => 0xffff_ffff,
        }
    }

    /// The size of `bytes` (1, 2 or 4) bytes.
    #[must_use]
    pub const fn of(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(AccessSize::Byte),
            2 => Some(AccessSize::Word),
            4 => Some(AccessSize::Dword),
            _ => None,
        }
    }
}

/// What a device may ask of the machine it is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PowerAction {
    /// Reset the whole machine (port CF9h, keyboard controller, port 92h, ...).
    Reset,
    /// Switch it off (ACPI S5).
    PowerOff,
    /// Suspend it to RAM (ACPI S3): nothing but memory keeps what it has.
    Suspend,
}

/// A window of a device that the guest can move (a PCI base address register), as numbered by the bus when it was added.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct WindowId(pub u16);

/// What a device access asks of the machine, collected by the bus and carried out after the device has been unlocked.
#[derive(Default, Debug)]
pub struct Requests {
    /// The latest power action asked for.
    pub power: Option<PowerAction>,
    /// Windows that moved, each once: the new base (port number or guest-physical address), or none when decoding is off.
    pub moved: Vec<(WindowId, Option<u64>)>,
    /// The earliest moment at which a device wants [`Device::poll`] called, if it is earlier than what it said before.
    pub wake: Option<VmTime>,
    /// The same for all devices: what a function on the PCI bus asks for while its configuration space is accessed, since the bus knows
    /// it by its ports and windows only.
    pub wake_all: Option<VmTime>,
}

impl Requests {
    /// Asks that [`Device::poll`] be called at `when` or soon after.
    pub fn wake_at(&mut self, when: VmTime) {
        self.wake = Some(self.wake.map_or(when, |w| w.min(when)));
    }

    /// Tells that `window` has moved. Only its last place counts.
    ///
    /// The bus has room for all windows from the start ([`Bus::add_ram_window`](crate::bus::Bus::add_ram_window)), so that a guest that
    /// moves them makes nothing grow.
    pub fn move_window(&mut self, window: WindowId, base: Option<u64>) {
        if let Some((_, place)) = self.moved.iter_mut().find(|(w, _)| *w == window) {
            *place = base;
        } else if self.moved.len() < self.moved.capacity() || self.moved.try_reserve(1).is_ok() {
            self.moved.push((window, base));
        }
    }

    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.wake.is_none()
            && self.wake_all.is_none()
            && self.power.is_none()
            && self.moved.is_empty()
    }
}

/// The world as a device sees it during one call.
pub struct DevCx<'a> {
    /// The VM's time now.
    pub now: VmTime,
    /// Guest memory, for bus masters.
    pub dma: &'a dyn GuestMemory,
    /// What the device asks of the machine.
    pub requests: &'a mut Requests,
}

/// A device of the virtual PC.
///
/// All port methods get the absolute port number, all MMIO methods the offset within the window that was hit. `window`
/// tells which one. Every size must have defined behaviour. The bus splits accesses wider than what the range was
/// registered for into bytes, low address first.
#[allow(unused_variables)]
pub trait Device: Send {
    /// A short name for logs and reports, such as `uart0`.
    fn name(&self) -> &'static str;

    /// Back to the power-on state.
    fn reset(&mut self, cx: &mut DevCx<'_>) {}

    /// The machine wakes from S3: back to the power-on state, but for what has power while it sleeps.
    fn wake(&mut self, cx: &mut DevCx<'_>) {
        self.reset(cx);
    }

    /// Does what has become due by `cx.now` and tells when to call next (at most once a reason; early calls are harmless).
    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        None
    }

    /// A port is read.
    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        size.ones()
    }

    /// A port is written; `value` has no bits above `size`.
    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, value: u32) {}

    /// `buf.len() / size` reads of one port in a row (REP INS): same result as that many single reads.
    fn port_read_block(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, buf: &mut [u8]) {
        for chunk in buf.chunks_exact_mut(size.bytes()) {
            let v = self.port_read(cx, port, size).to_le_bytes();
            chunk.copy_from_slice(&v[..chunk.len()]);
        }
    }

    /// `buf.len() / size` writes of one port in a row (REP OUTS).
    fn port_write_block(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, buf: &[u8]) {
        for chunk in buf.chunks_exact(size.bytes()) {
            let mut v = [0; 4];
            v[..chunk.len()].copy_from_slice(chunk);
            self.port_write(cx, port, size, u32::from_le_bytes(v));
        }
    }

    /// `size` (1, 2, 4 or 8) bytes at `offset` of MMIO window `window` are read. Bits above `size` are ignored.
    fn mmio_read(&mut self, cx: &mut DevCx<'_>, window: WindowId, offset: u64, size: usize) -> u64 {
        u64::MAX
    }

    /// `size` (1, 2, 4 or 8) bytes at `offset` of MMIO window `window` are written; `value` has no bits above `size`.
    fn mmio_write(
        &mut self,
        cx: &mut DevCx<'_>,
        window: WindowId,
        offset: u64,
        size: usize,
        value: u64,
    ) {
    }
}
