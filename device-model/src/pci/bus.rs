//! Configuration mechanism #1 (PCI Local Bus Specification 3.0 3.2.2.3.2, "Software Generation of Configuration
//! Transactions") and the PIIX3's reset control register, which lies in the middle of its address port.

use super::PciFunction;
use alloc::boxed::Box;
use alloc::vec::Vec;
use hv_core::device::{AccessSize, DevCx, Device, PowerAction};
use hv_core::machine::Slot;

/// The address port: 32-bit accesses only.
const CONFIG_ADDRESS: u16 = 0xcf8;
/// The reset control register (82371SB datasheet 2.5.4.3, "RC"): 8-bit accesses only.
const RESET_CONTROL: u16 = 0xcf9;
/// The data port, four bytes.
const CONFIG_DATA: u16 = 0xcfc;

/// Address register: forward accesses to the data port.
const ENABLE: u32 = 1 << 31;
/// Address register bits that can be stored.
const ADDRESS_WRITABLE: u32 = 0x80ff_fffc;

/// Reset control: the reset is a hard one. Kept.
const SYSTEM_RESET: u8 = 1 << 1;
/// Reset control: reset now.
const RESET_CPU: u8 = 1 << 2;

/// PCI bus 0, behind ports CF8h to CFFh.
pub struct PciBus {
    address: u32,
    reset_control: u8,
    /// By device and function number.
    functions: Vec<Option<Box<dyn PciFunction>>>,
}

impl PciBus {
    /// A bus without functions.
    #[must_use]
    pub fn new() -> Self {
        let functions = core::iter::repeat_with(|| None).take(256).collect();
        Self {
            address: 0,
            reset_control: 0,
            functions,
        }
    }

    /// Puts `function` at `slot`, in place of what was there.
    pub fn add(&mut self, slot: Slot, function: Box<dyn PciFunction>) {
        if let Some(place) = self.functions.get_mut(usize::from(slot.devfn())) {
            *place = Some(function);
        }
    }

    /// The addressed function and the register, if `size` bytes at `port` lie within the data port.
    fn target(&mut self, port: u16, size: AccessSize) -> Option<(&mut Box<dyn PciFunction>, u8)> {
        let byte = port.checked_sub(CONFIG_DATA)?;
        let bus = self.address >> 16 & 0xff;
        if usize::from(byte) + size.bytes() > 4 || self.address & ENABLE == 0 || bus != 0 {
            return None;
        }
        let devfn = (self.address >> 8 & 0xff) as usize;
        let function = self.functions.get_mut(devfn)?.as_mut()?;
        Some((function, self.address as u8 & 0xfc | byte as u8))
    }
}

impl PciBus {
    fn restart(&mut self, f: impl FnMut(&mut Box<dyn PciFunction>)) {
        self.address = 0;
        self.reset_control = 0;
        self.functions.iter_mut().flatten().for_each(f);
    }
}

impl Default for PciBus {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for PciBus {
    fn name(&self) -> &'static str {
        "pci"
    }

    fn reset(&mut self, cx: &mut DevCx<'_>) {
        self.restart(|function| function.config_reset(cx));
    }

    fn wake(&mut self, cx: &mut DevCx<'_>) {
        self.restart(|function| function.config_wake(cx));
    }

    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        match (port, size) {
            (CONFIG_ADDRESS, AccessSize::Dword) => self.address,
            (RESET_CONTROL, AccessSize::Byte) => self.reset_control.into(),
            _ => self
                .target(port, size)
                .map_or(size.ones(), |(function, offset)| {
                    function.config_read(cx, offset, size)
                }),
        }
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, value: u32) {
        match (port, size) {
            (CONFIG_ADDRESS, AccessSize::Dword) => self.address = value & ADDRESS_WRITABLE,
            (RESET_CONTROL, AccessSize::Byte) => {
                self.reset_control = value as u8 & SYSTEM_RESET;
                if value as u8 & RESET_CPU != 0 {
                    cx.requests.power = Some(PowerAction::Reset);
                }
            }
            _ => {
                if let Some((function, offset)) = self.target(port, size) {
                    function.config_write(cx, offset, size, value);
                    // It is the function that is to be polled, not this bus.
                    cx.requests.wake_all = cx.requests.wake.take();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::PciBus;
    use crate::irq::InterruptChips;
    use crate::pci::{ConfigSpace, HostBridge, Identity, IsaBridge};
    use hv_core::device::AccessSize::{self, Byte, Dword, Word};
    use hv_core::device::{Device, PowerAction, WindowId};
    use hv_core::machine::{HOST_BRIDGE, ISA_BRIDGE, NIC};
    use hv_core::testing::{Bench, Random};

    fn machine() -> (PciBus, Bench) {
        let mut bus = PciBus::new();
        bus.add(HOST_BRIDGE, Box::new(HostBridge::new(0)));
        bus.add(
            ISA_BRIDGE,
            Box::new(IsaBridge::new(InterruptChips::shared(1))),
        );
        let identity = Identity {
            vendor: 0x10ec,
            device: 0x8029,
            class: 0x02_0000,
            revision: 0,
            subsystem: (0x1af4, 0x1100),
        };
        bus.add(
            NIC,
            Box::new(ConfigSpace::new(&identity).io_bar(0, 256, WindowId(7))),
        );
        (bus, Bench::new())
    }

    fn read(m: &mut (PciBus, Bench), port: u16, size: AccessSize) -> u32 {
        m.0.port_read(&mut m.1.cx(), port, size)
    }

    fn write(m: &mut (PciBus, Bench), port: u16, size: AccessSize, value: u32) {
        m.0.port_write(&mut m.1.cx(), port, size, value);
    }

    #[test]
    fn address_reads_back_as_seabios_and_linux_probe() {
        let mut m = machine();
        write(&mut m, 0xcf8, Dword, 0x8000_0000);
        assert_eq!(read(&mut m, 0xcf8, Dword), 0x8000_0000);
        assert_eq!(read(&mut m, 0xcfc, Dword), 0x1237_8086);
        assert_eq!(read(&mut m, 0xcfe, Word), 0x1237);
        assert_eq!(read(&mut m, 0xcfd, Byte), 0x80);
    }

    #[test]
    fn narrow_accesses_leave_the_address_alone() {
        let mut m = machine();
        write(&mut m, 0xcf8, Dword, 0x8000_0800);
        write(&mut m, 0xcfb, Byte, 0);
        write(&mut m, 0xcf8, Byte, 0);
        write(&mut m, 0xcf8, Word, 0);
        assert_eq!(read(&mut m, 0xcf8, Dword), 0x8000_0800);
        assert_ne!(
            read(&mut m, 0xcf8, Byte),
            0,
            "Linux's probe of mechanism #2 must fail"
        );
    }

    #[test]
    fn byte_at_cf9_resets_and_a_doubleword_at_cf8_does_not() {
        let mut m = machine();
        write(&mut m, 0xcf8, Dword, 0x8000_0600);
        assert_eq!(m.1.requests.power, None);
        write(&mut m, 0xcf9, Byte, 2);
        assert_eq!(m.1.requests.power, None);
        assert_eq!(read(&mut m, 0xcf9, Byte), 2);
        write(&mut m, 0xcf9, Byte, 6);
        assert_eq!(m.1.requests.power, Some(PowerAction::Reset));
        assert_eq!(read(&mut m, 0xcf8, Dword), 0x8000_0600);
    }

    #[test]
    fn absent_functions_read_all_ones_at_every_size() {
        let mut m = machine();
        for address in [
            0x8000_0900,
            0x8000_f800,
            0x8001_0000,
            0x8000_1900,
            0x0000_0000,
        ] {
            write(&mut m, 0xcf8, Dword, address);
            write(&mut m, 0xcfc, Dword, 0);
            for size in [Byte, Word, Dword] {
                assert_eq!(read(&mut m, 0xcfc, size), size.ones(), "{address:#x}");
            }
        }
    }

    #[test]
    fn accesses_that_leave_the_data_port_reach_nothing() {
        let mut m = machine();
        write(&mut m, 0xcf8, Dword, 0x8000_0000);
        assert_eq!(read(&mut m, 0xcfd, Dword), !0);
        assert_eq!(read(&mut m, 0xcff, Word), 0xffff);
    }

    #[test]
    fn reset_clears_windows_and_address() {
        let mut m = machine();
        write(&mut m, 0xcf8, Dword, 0x8000_1810);
        write(&mut m, 0xcfc, Dword, 0xc000);
        write(&mut m, 0xcf8, Dword, 0x8000_1804);
        write(&mut m, 0xcfc, Word, 1);
        assert_eq!(m.1.requests.moved, [(WindowId(7), Some(0xc000))]);
        m.1.requests.moved.clear();
        m.0.reset(&mut m.1.cx());
        assert_eq!(m.1.requests.moved, [(WindowId(7), None)]);
        assert_eq!(read(&mut m, 0xcf8, Dword), 0);
    }

    #[test]
    fn random_abuse_never_panics() {
        let mut m = machine();
        let mut random = Random::new(0x2545_f491_4f6c_dd1d);
        for _ in 0..200_000 {
            let x = random.next();
            let port = 0xcf0 + (x >> 8 & 0x1f) as u16;
            let size = [Byte, Word, Dword, Dword][(x >> 16 & 3) as usize];
            let value = (x >> 32) as u32 & size.ones();
            match x & 3 {
                0 => {
                    let devfn = [0, 8, 9, 0x18][(x >> 20 & 3) as usize];
                    let address = 0x8000_0000 | devfn << 8 | (value & 0xff);
                    write(&mut m, 0xcf8, Dword, address);
                }
                1 | 2 => write(&mut m, port, size, value),
                _ => assert_eq!(read(&mut m, port, size) & !size.ones(), 0),
            }
            m.1.requests.moved.clear();
        }
    }
}
