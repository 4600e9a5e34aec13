//! The configuration space of one function: 256 bytes with write masks, base address registers and their decoding.
//!
//! Base address registers are sized and moved as the PCI Local Bus Specification 3.0 6.2.5, "Base Addresses", says, with the
//! windows following every write, as on hardware: a base that is 0 or reaches past the end of its space decodes nothing.
//! Not implemented: memory below 1 MiB.
//!
//! Invariant: the machine has been told of each window what its base address register and the command register say.

use super::register;
use core::ops::Range;
use hv_core::device::{AccessSize, Requests, WindowId};

bitflags::bitflags! {
    /// The command register (PCI Local Bus Specification 3.0 6.2.2, "Device Control").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Command: u16 {
        /// Responds to port accesses.
        const IO = 1 << 0;
        /// Responds to memory accesses.
        const MEMORY = 1 << 1;
        /// May act as bus master.
        const MASTER = 1 << 2;
        /// Reports parity errors.
        const PARITY = 1 << 6;
        /// Drives SERR#.
        const SERR = 1 << 8;
        /// Does not assert INTx#.
        const INTX_DISABLE = 1 << 10;
    }
}

/// Bits of the status register that are cleared by writing 1.
const STATUS_W1C: u16 = 0xf900;
/// Bit 3 of the status register: the function asks for an interrupt on its pin.
const STATUS_INTERRUPT: u8 = 1 << 3;
/// Bit 4 of the status register: there is a list of capabilities.
const STATUS_CAPABILITIES: u8 = 1 << 4;
/// Where the device-specific part begins, and with it the first capability.
const DEVICE_SPECIFIC: u8 = 0x40;
/// Bit 0 of a base address register: ports.
const BAR_IO: u32 = 1 << 0;
/// Bit 3 of a base address register: prefetchable memory.
const BAR_PREFETCHABLE: u32 = 1 << 3;
/// Bits 2:1 of a base address register for memory: it is 64 bits wide, with the next register as its upper half.
const BAR_64: u32 = 2 << 1;
/// Where the addresses of 32 bits end, short of their last byte.
const END_32: u64 = 0xffff_ffff;
/// Where physical addresses end (SDM vol 3A 4.1.4, "Enumeration of Paging Features by CPUID": 52 bits at most).
const END_64: u64 = 1 << 52;
/// Bit 0 of the expansion ROM base address register.
const ROM_ENABLE: u32 = 1 << 0;

/// Who a function is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class, subclass and programming interface, from bit 23 down.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// Subsystem vendor ID and subsystem ID.
    pub subsystem: (u16, u16),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Space {
    Io,
    Memory,
    Memory64,
    Rom,
}

#[derive(Clone, Copy, Debug)]
struct Bar {
    register: u8,
    space: Space,
    len: u64,
    window: WindowId,
    /// Where the machine believes the window to be.
    base: Option<u64>,
}

/// The configuration space of one function.
pub struct ConfigSpace {
    bytes: [u8; 256],
    reset: [u8; 256],
    /// The bytes that are kept over S3.
    kept: Range<usize>,
    /// Bits that a write stores.
    writable: [u8; 256],
    /// Bits that a write of 1 clears.
    clearable: [u8; 256],
    /// Six base address registers and the expansion ROM's.
    bars: [Option<Bar>; 7],
    /// Where the last capability is, and the first byte behind it.
    capabilities: (u8, u8),
}

impl ConfigSpace {
    /// The header of a single-function device with no base address registers: command, cache line size, latency timer and
    /// interrupt line are writable, all else is read-only.
    #[must_use]
    pub fn new(identity: &Identity) -> Self {
        let mut config = Self {
            bytes: [0; 256],
            reset: [0; 256],
            kept: 0..0,
            writable: [0; 256],
            clearable: [0; 256],
            bars: [None; 7],
            capabilities: (register::CAPABILITIES - 1, DEVICE_SPECIFIC),
        };
        let [class_low, class_mid, class_high, _] = identity.class.to_le_bytes();
        store(
            &mut config.clearable,
            register::STATUS,
            &STATUS_W1C.to_le_bytes(),
        );
        store(
            &mut config.writable,
            register::COMMAND,
            &Command::all().bits().to_le_bytes(),
        );
        config
            .preset(register::VENDOR, &identity.vendor.to_le_bytes())
            .preset(register::DEVICE, &identity.device.to_le_bytes())
            .preset(register::REVISION, &[identity.revision])
            .preset(register::CLASS, &[class_low, class_mid, class_high])
            .preset(
                register::SUBSYSTEM_VENDOR,
                &identity.subsystem.0.to_le_bytes(),
            )
            .preset(register::SUBSYSTEM, &identity.subsystem.1.to_le_bytes())
            .writable(register::CACHE_LINE, register::LATENCY, 0xff)
            .writable(register::INTERRUPT_LINE, register::INTERRUPT_LINE, 0xff)
    }

    /// Sets the power-on value of the bytes from `offset` on.
    #[must_use]
    pub fn preset(mut self, offset: u8, value: &[u8]) -> Self {
        store(&mut self.reset, offset, value);
        store(&mut self.bytes, offset, value);
        self
    }

    /// Makes the bits of `mask` writable in each byte from `first` to `last`.
    #[must_use]
    pub fn writable(mut self, first: u8, last: u8, mask: u8) -> Self {
        if let Some(bytes) = self
            .writable
            .get_mut(usize::from(first)..=usize::from(last))
        {
            bytes.fill(mask);
        }
        self
    }

    /// Keeps the bytes from `first` to `last` over S3.
    #[must_use]
    pub fn kept(mut self, first: u8, last: u8) -> Self {
        self.kept = usize::from(first)..usize::from(last) + 1;
        self
    }

    /// Says which interrupt pin the function uses, 0 for INTA.
    #[must_use]
    pub fn interrupt_pin(self, pin: u8) -> Self {
        self.preset(register::INTERRUPT_PIN, &[pin + 1])
    }

    /// Adds a base address register `index` (0 to 5) for `len` ports (a power of two, 4 to 256).
    ///
    /// # Panics
    /// There is no such register or length.
    #[must_use]
    pub fn io_bar(self, index: u8, len: u32, window: WindowId) -> Self {
        assert!(
            index < 6 && (4..=256).contains(&len),
            "a base address register for ports"
        );
        self.bar(
            usize::from(index),
            register::BAR0 + 4 * index,
            Space::Io,
            len.into(),
            BAR_IO,
            window,
        )
    }

    /// Adds a base address register `index` (0 to 5) for `len` bytes (a power of two, at least 16) of memory.
    ///
    /// # Panics
    /// There is no such register or length.
    #[must_use]
    pub fn memory_bar(self, index: u8, len: u32, prefetchable: bool, window: WindowId) -> Self {
        assert!(index < 6 && len >= 16, "a base address register for memory");
        let kind = if prefetchable { BAR_PREFETCHABLE } else { 0 };
        self.bar(
            usize::from(index),
            register::BAR0 + 4 * index,
            Space::Memory,
            len.into(),
            kind,
            window,
        )
    }

    /// Adds a base address register `index` (0 to 4) of 64 bits for `len` bytes (a power of two, at least 16) of memory. The next register
    /// is its upper half.
    ///
    /// # Panics
    /// There is no such register or length.
    #[must_use]
    pub fn memory_bar_64(
        mut self,
        index: u8,
        len: u64,
        prefetchable: bool,
        window: WindowId,
    ) -> Self {
        assert!(index < 5 && len >= 16, "a base address register for memory");
        let kind = if prefetchable { BAR_PREFETCHABLE } else { 0 };
        let register = register::BAR0 + 4 * index;
        let [.., a, b, c, d] = (!(len - 1)).to_le_bytes();
        store(&mut self.writable, register + 4, &[a, b, c, d]);
        self.bar(
            usize::from(index),
            register,
            Space::Memory64,
            len,
            kind | BAR_64,
            window,
        )
    }

    /// Adds an expansion ROM of `len` bytes (a power of two, at least 2 KiB).
    ///
    /// # Panics
    /// There is no such length.
    #[must_use]
    pub fn rom_bar(self, len: u32, window: WindowId) -> Self {
        assert!(len >= 2048, "an expansion ROM");
        let mut config = self.bar(6, register::ROM, Space::Rom, len.into(), 0, window);
        if let Some(low) = config.writable.get_mut(usize::from(register::ROM)) {
            *low |= ROM_ENABLE as u8;
        }
        config
    }

    fn bar(
        mut self,
        index: usize,
        register: u8,
        space: Space,
        len: u64,
        kind: u32,
        window: WindowId,
    ) -> Self {
        assert!(
            len.is_power_of_two(),
            "base address registers decode powers of two"
        );
        if let Some(bar) = self.bars.get_mut(index) {
            *bar = Some(Bar {
                register,
                space,
                len,
                window,
                base: None,
            });
        }
        let sized = !(len - 1) as u32;
        store(&mut self.writable, register, &sized.to_le_bytes());
        self.preset(register, &kind.to_le_bytes())
    }

    /// Adds a capability to the end of the list (PCI Local Bus Specification 3.0 6.7, "Capabilities List") and returns where it is. `body`
    /// is what follows its identifier and the link, as it is at power-on, read-only.
    ///
    /// # Panics
    /// There is no room for it.
    pub fn add_capability(&mut self, id: u8, body: &[u8]) -> u8 {
        let (last, at) = self.capabilities;
        let end = usize::from(at) + 2 + body.len();
        assert!(end <= 256, "capabilities that fit");
        for bytes in [&mut self.reset, &mut self.bytes] {
            store(bytes, last + 1, &[at]);
            store(bytes, at, &[id, 0]);
            store(bytes, at + 2, body);
            let status = usize::from(register::STATUS);
            if let Some(status) = bytes.get_mut(status) {
                *status |= STATUS_CAPABILITIES;
            }
        }
        // Each begins at a multiple of four.
        self.capabilities = (at, end.next_multiple_of(4).min(0xfc) as u8);
        at
    }

    /// Makes the bits of `mask` writable, whose lowest byte is at `offset`.
    pub fn set_writable(&mut self, offset: u8, mask: &[u8]) {
        store(&mut self.writable, offset, mask);
    }

    /// The function's interrupt pin asks for service, or no longer: the status register says so, whatever becomes of the wire.
    pub fn set_interrupt_status(&mut self, level: bool) {
        let status = self.byte(register::STATUS) & !STATUS_INTERRUPT;
        let level = if level { STATUS_INTERRUPT } else { 0 };
        self.set_byte(register::STATUS, status | level);
    }

    /// Reads `size` bytes at `offset`; bytes past the end are all ones.
    #[must_use]
    pub fn read(&self, offset: u8, size: AccessSize) -> u32 {
        let start = usize::from(offset);
        let mut value = [0xff; 4];
        for (v, b) in value
            .iter_mut()
            .zip(self.bytes.iter().skip(start))
            .take(size.bytes())
        {
            *v = *b;
        }
        u32::from_le_bytes(value) & size.ones()
    }

    /// The guest writes `size` bytes at `offset`; bytes past the end go nowhere. Windows that move by it are reported.
    pub fn write(&mut self, requests: &mut Requests, offset: u8, size: AccessSize, value: u32) {
        let start = usize::from(offset);
        for (i, v) in (start..256).zip(value.to_le_bytes()).take(size.bytes()) {
            let (Some(byte), Some(writable), Some(clearable)) = (
                self.bytes.get_mut(i),
                self.writable.get(i),
                self.clearable.get(i),
            ) else {
                return;
            };
            *byte = (*byte & !writable | v & writable) & !(v & clearable);
        }
        // Only the command register, base address registers and the ROM's move windows.
        if matches!(offset & !3, 0x04 | 0x10..=0x24 | 0x30) {
            self.decode(requests);
        }
    }

    /// Back to the power-on state; all windows vanish.
    pub fn reset(&mut self, requests: &mut Requests) {
        self.bytes = self.reset;
        self.decode(requests);
    }

    /// The same when the machine wakes from S3; what is [kept](Self::kept) stays.
    pub fn wake(&mut self, requests: &mut Requests) {
        let bytes = self.bytes.iter_mut().zip(&self.reset).enumerate();
        for (at, (byte, reset)) in bytes {
            if !self.kept.contains(&at) {
                *byte = *reset;
            }
        }
        self.decode(requests);
    }

    /// The command register.
    #[must_use]
    pub fn command(&self) -> Command {
        let bits = self.read(register::COMMAND, AccessSize::Word);
        Command::from_bits_truncate(bits as u16)
    }

    /// The byte at `offset`.
    #[must_use]
    pub fn byte(&self, offset: u8) -> u8 {
        self.bytes.get(usize::from(offset)).copied().unwrap_or(0xff)
    }

    /// Stores a byte that the device itself changes, whatever the write mask says. Not for the command register and base
    /// address registers.
    pub fn set_byte(&mut self, offset: u8, value: u8) {
        store(&mut self.bytes, offset, &[value]);
    }

    /// Reports the windows whose place has changed.
    fn decode(&mut self, requests: &mut Requests) {
        let command = self.command();
        for bar in self.bars.iter_mut().flatten() {
            let at = usize::from(bar.register);
            let mut value = [0; 8];
            let width = if bar.space == Space::Memory64 { 8 } else { 4 };
            if let Some(bytes) = self.bytes.get(at..at + width) {
                value.iter_mut().zip(bytes).for_each(|(v, b)| *v = *b);
            }
            let value = u64::from_le_bytes(value);
            let base = value & !(bar.len - 1);
            let (on, limit) = match bar.space {
                Space::Io => (command.contains(Command::IO), 0x1_0000),
                Space::Memory => (command.contains(Command::MEMORY), END_32),
                Space::Memory64 => (command.contains(Command::MEMORY), END_64),
                Space::Rom => {
                    let enabled = value & u64::from(ROM_ENABLE) != 0;
                    (enabled && command.contains(Command::MEMORY), END_32)
                }
            };
            let inside = base.checked_add(bar.len).is_some_and(|end| end <= limit);
            let now = (on && base != 0 && inside).then_some(base);
            if now != bar.base {
                bar.base = now;
                requests.move_window(bar.window, now);
            }
        }
    }
}

fn store(to: &mut [u8; 256], offset: u8, value: &[u8]) {
    for (t, v) in to.iter_mut().skip(usize::from(offset)).zip(value) {
        *t = *v;
    }
}

#[cfg(test)]
mod tests {
    use super::{ConfigSpace, Identity};
    use hv_core::device::AccessSize::{Byte, Dword, Word};
    use hv_core::device::{Requests, WindowId};

    const IO: WindowId = WindowId(1);
    const MEM: WindowId = WindowId(2);
    const ROM: WindowId = WindowId(3);
    const WIDE: WindowId = WindowId(4);

    fn device() -> ConfigSpace {
        let identity = Identity {
            vendor: 0x10ec,
            device: 0x8029,
            class: 0x02_0000,
            revision: 0,
            subsystem: (0x1af4, 0x1100),
        };
        ConfigSpace::new(&identity)
            .interrupt_pin(0)
            .io_bar(0, 256, IO)
            .memory_bar(2, 0x100_0000, true, MEM)
            .rom_bar(0x1_0000, ROM)
    }

    fn moved(r: &mut Requests) -> Vec<(WindowId, Option<u64>)> {
        core::mem::take(&mut r.moved)
    }

    #[test]
    fn header_reads_at_every_size() {
        let c = device();
        assert_eq!(c.read(0, Dword), 0x8029_10ec);
        assert_eq!(c.read(0x0a, Word), 0x0200);
        assert_eq!(c.read(0x3d, Byte), 1);
        assert_eq!(c.read(0x2c, Dword), 0x1100_1af4);
        assert_eq!(c.read(0xff, Dword), 0xffff_ff00);
    }

    #[test]
    fn identity_is_read_only() {
        let (mut c, mut r) = (device(), Requests::default());
        c.write(&mut r, 0, Dword, 0);
        c.write(&mut r, 8, Dword, !0);
        assert_eq!(c.read(0, Dword), 0x8029_10ec);
        assert_eq!(c.read(8, Dword), 0x0200_0000);
    }

    #[test]
    fn sizing_gives_the_length_and_the_kind() {
        let (mut c, mut r) = (device(), Requests::default());
        for (offset, size) in [(0x10, 0xffff_ff01), (0x18, 0xff00_0008), (0x14, 0)] {
            c.write(&mut r, offset, Dword, !0);
            assert_eq!(c.read(offset, Dword), size, "{offset:#x}");
        }
        c.write(&mut r, 0x30, Dword, 0xffff_f800);
        assert_eq!(c.read(0x30, Dword), 0xffff_0000);
        assert_eq!(moved(&mut r), []);
    }

    #[test]
    fn windows_follow_command_and_base_at_once() {
        let (mut c, mut r) = (device(), Requests::default());
        c.write(&mut r, 0x10, Dword, 0xc000);
        c.write(&mut r, 0x18, Dword, 0xfd00_0000);
        assert_eq!(moved(&mut r), []);
        c.write(&mut r, 4, Word, 0x103);
        assert_eq!(
            moved(&mut r),
            [(IO, Some(0xc000)), (MEM, Some(0xfd00_0000))]
        );
        c.write(&mut r, 0x10, Dword, 0xd000);
        assert_eq!(moved(&mut r), [(IO, Some(0xd000))]);
        c.write(&mut r, 4, Byte, 2);
        assert_eq!(moved(&mut r), [(IO, None)]);
        c.write(&mut r, 0x30, Dword, 0xfeb0_0001);
        assert_eq!(moved(&mut r), [(ROM, Some(0xfeb0_0000))]);
    }

    #[test]
    fn what_is_kept_outlasts_sleep_and_no_reset() {
        let (mut c, mut r) = (
            device().writable(0x40, 0x47, 0xff).kept(0x40, 0x43),
            Requests::default(),
        );
        for (offset, value) in [(0x40, 0x8000_8000), (0x44, 7), (4, 3), (0x10, 0xc000)] {
            c.write(&mut r, offset, Dword, value);
        }
        moved(&mut r);
        c.wake(&mut r);
        assert_eq!(moved(&mut r), [(IO, None)]);
        assert_eq!((c.read(0x40, Dword), c.read(0x44, Dword)), (0x8000_8000, 0));
        assert!(c.command().is_empty());
        c.reset(&mut r);
        assert_eq!(c.read(0x40, Dword), 0);
    }

    #[test]
    fn sizing_while_decoding_leaves_no_window_at_the_top() {
        let (mut c, mut r) = (device(), Requests::default());
        c.write(&mut r, 4, Word, 3);
        c.write(&mut r, 0x10, Dword, 0xc000);
        moved(&mut r);
        c.write(&mut r, 0x10, Dword, !0);
        assert_eq!(moved(&mut r), [(IO, None)]);
        c.write(&mut r, 0x18, Dword, !0);
        assert_eq!(moved(&mut r), []);
        c.write(&mut r, 0x10, Dword, 0xc000);
        assert_eq!(moved(&mut r), [(IO, Some(0xc000))]);
    }

    #[test]
    fn byte_writes_move_a_base_piece_by_piece() {
        let (mut c, mut r) = (device(), Requests::default());
        c.write(&mut r, 4, Word, 1);
        c.write(&mut r, 0x11, Byte, 0xc1);
        assert_eq!(moved(&mut r), [(IO, Some(0xc100))]);
    }

    #[test]
    fn reset_takes_the_windows_away() {
        let (mut c, mut r) = (device(), Requests::default());
        c.write(&mut r, 4, Word, 1);
        c.write(&mut r, 0x10, Dword, 0xc000);
        moved(&mut r);
        c.reset(&mut r);
        assert_eq!(moved(&mut r), [(IO, None)]);
        assert_eq!(c.read(4, Word), 0);
    }

    #[test]
    fn status_bits_are_cleared_by_ones() {
        let (mut c, mut r) = (device(), Requests::default());
        c.set_byte(7, 0x22);
        c.write(&mut r, 6, Word, 0x2000);
        assert_eq!(c.read(6, Word), 0x0200);
    }

    #[test]
    fn base_of_64_bits_is_sized_and_moved_in_halves() {
        let mut c = device().memory_bar_64(4, 0x4000, false, WIDE);
        let mut r = Requests::default();
        c.write(&mut r, 0x20, Dword, !0);
        c.write(&mut r, 0x24, Dword, !0);
        assert_eq!(
            (c.read(0x20, Dword), c.read(0x24, Dword)),
            (0xffff_c004, !0)
        );
        c.write(&mut r, 4, Word, 2);
        assert_eq!(moved(&mut r), [], "it would reach past the end");
        c.write(&mut r, 0x20, Dword, 0xfe00_0000);
        c.write(&mut r, 0x24, Dword, 0);
        assert_eq!(moved(&mut r), [(WIDE, Some(0xfe00_0000))]);
        c.write(&mut r, 0x24, Dword, 0x80);
        assert_eq!(moved(&mut r), [(WIDE, Some(0x80_fe00_0000))]);
        c.write(&mut r, 0x24, Dword, 0xffff_ffff);
        assert_eq!(moved(&mut r), [(WIDE, None)]);
    }

    #[test]
    fn capabilities_are_a_list_that_the_status_register_announces() {
        let mut c = device();
        assert_eq!((c.read(6, Word) & 0x10, c.read(0x34, Byte)), (0, 0));
        let first = c.add_capability(0x11, &[1, 2, 3, 4, 5]);
        let second = c.add_capability(0x09, &[6]);
        assert_eq!(
            (c.read(6, Word) & 0x10, c.read(0x34, Byte)),
            (0x10, first.into())
        );
        assert_eq!((first, second), (0x40, 0x48));
        assert_eq!(c.read(first, Dword), 0x0201_4811);
        assert_eq!(c.read(second, Dword), 0x0006_0009);
        let mut r = Requests::default();
        c.write(&mut r, first, Dword, !0);
        c.write(&mut r, 0x34, Byte, 0xff);
        c.reset(&mut r);
        assert_eq!(
            c.read(first, Dword),
            0x0201_4811,
            "read-only, and of the power-on state"
        );
        assert_eq!(c.read(0x34, Byte), 0x40);
    }
}
