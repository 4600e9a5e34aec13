//! A network card: Intel 82540EM on PCI. Source: *PCI/PCI-X Family of Gigabit Ethernet Controllers Software Developer's Manual* (317453), cited by
//! that number; IEEE 802.3 for the PHY.
//!
//! Base address register 0 has 128 KiB of registers in memory, 2 an index and a data port to the same. There are a descriptor ring to receive
//! and one to send, and the driver is told of what was done by the interrupt pin.
//!
//! A frame is sent when the tail of the ring is moved behind it. Checksums and segments (TSO) are made in software. Received frames are taken
//! from the [`NetBackend`] by [`Device::poll`] and when the driver adds descriptors; they wait outside while it has none.
//!
//! Not there: flash and expansion ROM, power management and waking, MSI, the registers at the 82542's addresses, flow control, collisions and
//! errors on the wire, the frame check sequence (zeros stand for it), thresholds of descriptors (all are fetched and written back at once),
//! small packet and low descriptor interrupts, IPv6 checksums on receive, other speeds than 1000 Mbit/s, the packet buffer's diagnostic window,
//! and writes to the EEPROM. Accesses to registers are of 32 bits; narrower writes have no effect.
//!
//! Invariant: memory is touched, and frames are moved, only while the command register lets the function be bus master.

mod eeprom;
mod filter;
mod interrupts;
mod offload;
mod phy;
mod receive;
mod registers;
mod ring;
mod statistics;
mod transmit;

#[cfg(test)]
mod tests;

use crate::pci::{Command, ConfigSpace, Identity, Intx, PciFunction};
use alloc::boxed::Box;
use eeprom::Eeprom;
use filter::Filter;
use hv_core::backend::NetBackend;
use hv_core::device::{AccessSize, DevCx, Device, WindowId};
use hv_core::irq::IrqLine;
use hv_core::time::VmTime;
use interrupts::{Cause, Delay, Interrupts};
use phy::Phy;
use receive::Receiver;
use registers::{Control, Kept, ReceiveControl, TransmitControl, offset, status};
use statistics::Statistics;
use transmit::Transmitter;

/// Intel; 82540EM; the subsystem of its desktop card, "PRO/1000 MT Desktop Adapter".
const VENDOR: u16 = 0x8086;
const DEVICE: u16 = 0x100e;
const SUBSYSTEM: (u16, u16) = (0x8086, 0x001e);
/// Ethernet controller.
const CLASS: u32 = 0x02_0000;
const REVISION: u8 = 2;

/// The base address registers, and how much is behind each.
const REGISTERS_BAR: u8 = 0;
const PORTS_BAR: u8 = 2;
/// Bytes of registers in memory.
pub const REGISTERS_LEN: u64 = 0x2_0000;
/// Ports.
pub const PORTS_LEN: u16 = 64;
/// The ports: which register, and its value (317453, "I/O-Mapped Internal Register, Internal Memory, and Flash").
const IO_ADDRESS: u16 = 0;
const IO_DATA: u16 = 4;
/// RDTR and TIDV: what waits is told at once.
const FLUSH: u32 = 1 << 31;

/// The windows of the function, as the bus has numbered them.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// [`REGISTERS_LEN`] bytes of memory.
    pub registers: WindowId,
    /// [`PORTS_LEN`] ports.
    pub ports: WindowId,
}

/// The network card.
pub struct E1000 {
    config: ConfigSpace,
    intx: Intx,
    net: Box<dyn NetBackend>,
    mac: [u8; 6],
    control: Control,
    control_receive: ReceiveControl,
    control_transmit: TransmitControl,
    kept: Kept,
    io_address: u32,
    eeprom: Eeprom,
    phy: Phy,
    /// Whether the card sees a link.
    link: bool,
    interrupts: Interrupts,
    receive_delay: Delay,
    transmit_delay: Delay,
    filter: Filter,
    receiver: Receiver,
    transmitter: Transmitter,
    statistics: Statistics,
}

impl E1000 {
    /// A card with address `mac` that interrupts by `line` and is connected to `net`, in power-on state.
    #[must_use]
    pub fn new(line: IrqLine, windows: Windows, mac: [u8; 6], net: Box<dyn NetBackend>) -> Self {
        let config = ConfigSpace::new(&Identity {
            vendor: VENDOR,
            device: DEVICE,
            class: CLASS,
            revision: REVISION,
            subsystem: SUBSYSTEM,
        })
        .interrupt_pin(0)
        .memory_bar(
            REGISTERS_BAR,
            REGISTERS_LEN as u32,
            false,
            windows.registers,
        )
        .io_bar(PORTS_BAR, PORTS_LEN.into(), windows.ports);
        Self {
            config,
            intx: Intx::new(line),
            net,
            mac,
            control: Control::FD | Control::SPEED_1000,
            control_receive: ReceiveControl::empty(),
            control_transmit: TransmitControl::empty(),
            kept: Kept::new(),
            io_address: 0,
            eeprom: Eeprom::new(mac),
            phy: Phy::new(),
            link: false,
            interrupts: Interrupts::default(),
            receive_delay: Delay::default(),
            transmit_delay: Delay::default(),
            filter: Filter::new(mac),
            receiver: Receiver::new(),
            transmitter: Transmitter::new(),
            statistics: Statistics::new(),
        }
    }

    fn is_master(&self) -> bool {
        self.config.command().contains(Command::MASTER)
    }

    /// Whether what is sent comes back.
    fn loops_back(&self) -> bool {
        self.control_receive.contains(ReceiveControl::LBM) || self.phy.loops_back()
    }

    /// CTRL.RST: all but the PHY and configuration space (317453, "Software Reset").
    fn reset_card(&mut self) {
        self.control = Control::FD | Control::SPEED_1000;
        self.control_receive = ReceiveControl::empty();
        self.control_transmit = TransmitControl::empty();
        self.kept = Kept::new();
        self.eeprom.reset();
        self.link = false;
        self.interrupts = Interrupts::default();
        self.receive_delay = Delay::default();
        self.transmit_delay = Delay::default();
        self.filter = Filter::new(self.mac);
        self.receiver.reset();
        self.transmitter.reset();
        self.statistics = Statistics::new();
    }

    fn write_control(&mut self, now: VmTime, value: u32) {
        let new = Control::from_bits_retain(value);
        if new.contains(Control::PHY_RST) && !self.control.contains(Control::PHY_RST) {
            self.phy.reset(now);
        }
        if new.contains(Control::RST) {
            self.reset_card();
        } else {
            self.control = new;
        }
    }

    fn status(&self) -> u32 {
        let link = if self.link { status::LU } else { 0 };
        status::FD | status::SPEED_1000 | status::ASDV_1000 | link
    }

    /// The link comes and goes with the PHY's, if software lets it.
    fn watch_link(&mut self) {
        let link = self.phy.link() && self.control.contains(Control::SLU);
        if link != self.link {
            self.link = link;
            self.interrupts.raise(Cause::LSC);
        }
    }

    /// What was put off and is due now is a cause.
    fn take_due(&mut self, now: VmTime) {
        if self.receive_delay.due(now) {
            self.interrupts.raise(Cause::RXT0);
        }
        if self.transmit_delay.due(now) {
            self.interrupts.raise(Cause::TXDW);
        }
    }

    /// Drives the pin by what has happened. Returns when something will be due.
    fn settle(&mut self, now: VmTime) -> Option<VmTime> {
        let phy = self.phy.poll(now);
        self.watch_link();
        self.take_due(now);
        let (level, throttled) = self.interrupts.level(now);
        self.intx.set(&mut self.config, level);
        let delays = [
            self.interrupts
                .matters(Cause::RXT0, self.receive_delay.next()),
            self.interrupts
                .matters(Cause::TXDW, self.transmit_delay.next()),
        ];
        [phy, throttled].into_iter().chain(delays).flatten().min()
    }

    fn read(&mut self, now: VmTime, at: u32) -> u32 {
        match at {
            offset::CTRL | offset::CTRL_DUP => self.control.bits(),
            offset::STATUS => self.status(),
            offset::EECD => self.eeprom.eecd(),
            offset::EERD => self.eeprom.eerd(),
            offset::MDIC => self.phy.mdic(),
            offset::ICR => {
                self.take_due(now);
                self.interrupts.take().bits()
            }
            offset::ITR => self.interrupts.throttle.into(),
            offset::IMS => self.interrupts.mask.bits(),
            offset::RCTL => self.control_receive.bits(),
            offset::TCTL => self.control_transmit.bits(),
            offset::RING_RECEIVE..offset::RING_RECEIVE_END => {
                self.receiver.ring.read(at - offset::RING_RECEIVE)
            }
            offset::RING_TRANSMIT..offset::RING_TRANSMIT_END => {
                self.transmitter.ring.read(at - offset::RING_TRANSMIT)
            }
            offset::RDTR => self.receive_delay.each.into(),
            offset::RADV => self.receive_delay.most.into(),
            offset::TIDV => self.transmit_delay.each.into(),
            offset::TADV => self.transmit_delay.most.into(),
            offset::STATISTICS..offset::STATISTICS_END => {
                self.statistics.take(at - offset::STATISTICS)
            }
            _ => match self.table(at) {
                Some(entry) => *entry,
                None => self.kept.read(at),
            },
        }
    }

    /// An entry of a table of the filter.
    fn table(&mut self, at: u32) -> Option<&mut u32> {
        let (table, first) = match at {
            offset::MTA..offset::MTA_END => (&mut self.filter.groups[..], offset::MTA),
            offset::RA..offset::RA_END => (&mut self.filter.addresses[..], offset::RA),
            offset::VFTA..offset::VFTA_END => (&mut self.filter.lans[..], offset::VFTA),
            _ => return None,
        };
        table.get_mut((at - first) as usize / 4)
    }

    fn write(&mut self, cx: &mut DevCx<'_>, at: u32, value: u32) {
        let mut more = false;
        match at {
            offset::CTRL | offset::CTRL_DUP => self.write_control(cx.now, value),
            offset::EECD => self.eeprom.write_eecd(value),
            offset::EERD => self.eeprom.write_eerd(value),
            offset::MDIC => {
                if self.phy.write_mdic(cx.now, value) {
                    self.interrupts.raise(Cause::MDAC);
                }
            }
            offset::ICR => self.interrupts.cause -= Cause::from_bits_truncate(value),
            offset::ITR => self.interrupts.throttle = value as u16,
            offset::ICS => self.interrupts.raise(Cause::from_bits_truncate(value)),
            offset::IMS => self.interrupts.mask |= Cause::from_bits_truncate(value),
            offset::IMC => self.interrupts.mask -= Cause::from_bits_truncate(value),
            offset::RCTL => {
                self.control_receive = ReceiveControl::from_bits_retain(value);
                more = true;
            }
            offset::TCTL => {
                self.control_transmit = TransmitControl::from_bits_retain(value);
                more = self.transmit(cx);
            }
            offset::RING_RECEIVE..offset::RING_RECEIVE_END => {
                self.receiver.ring.write(at - offset::RING_RECEIVE, value);
                more = self.receiver.waits() && self.receive(cx);
            }
            offset::RING_TRANSMIT..offset::RING_TRANSMIT_END => {
                let register = at - offset::RING_TRANSMIT;
                self.transmitter.ring.write(register, value);
                if register == ring::register::TAIL {
                    more = self.transmit(cx);
                } else {
                    self.transmitter.forget_packet();
                }
            }
            offset::RDTR => {
                self.receive_delay.each = value as u16;
                if value & FLUSH != 0 && self.receive_delay.stop() {
                    self.interrupts.raise(Cause::RXT0);
                }
            }
            offset::RADV => self.receive_delay.most = value as u16,
            offset::TIDV => {
                self.transmit_delay.each = value as u16;
                if value & FLUSH != 0 && self.transmit_delay.stop() {
                    self.interrupts.raise(Cause::TXDW);
                }
            }
            offset::TADV => self.transmit_delay.most = value as u16,
            _ => match self.table(at) {
                Some(entry) => *entry = value,
                None => self.kept.write(at, value),
            },
        }
        if more {
            cx.requests.wake_at(cx.now);
        }
    }

    /// After an access by the guest.
    fn after(&mut self, cx: &mut DevCx<'_>) {
        if let Some(next) = self.settle(cx.now) {
            cx.requests.wake_at(next);
        }
    }
}

impl PciFunction for E1000 {
    fn config_read(&mut self, _cx: &mut DevCx<'_>, offset: u8, size: AccessSize) -> u32 {
        self.config.read(offset, size)
    }

    fn config_write(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize, value: u32) {
        let master = self.is_master();
        self.config.write(cx.requests, offset, size, value);
        self.intx.settle(&self.config);
        if self.is_master() && !master {
            cx.requests.wake_at(cx.now);
        }
    }

    fn config_reset(&mut self, cx: &mut DevCx<'_>) {
        self.reset(cx);
    }
}

impl Device for E1000 {
    fn name(&self) -> &'static str {
        "e1000"
    }

    fn reset(&mut self, cx: &mut DevCx<'_>) {
        self.reset_card();
        self.phy = Phy::new();
        self.io_address = 0;
        self.config.reset(cx.requests);
        self.intx.set(&mut self.config, false);
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.phy.poll(cx.now);
        self.watch_link();
        let more = self.transmit(cx) | self.receive(cx);
        let next = self.settle(cx.now);
        if more { Some(cx.now) } else { next }
    }

    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        let value = match (port % PORTS_LEN, size) {
            (IO_ADDRESS, AccessSize::Dword) => self.io_address,
            (IO_DATA, AccessSize::Dword) => self.read(cx.now, self.io_address),
            _ => 0,
        };
        self.after(cx);
        value
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, value: u32) {
        match (port % PORTS_LEN, size) {
            (IO_ADDRESS, AccessSize::Dword) => self.io_address = value & (REGISTERS_LEN as u32 - 4),
            (IO_DATA, AccessSize::Dword) => self.write(cx, self.io_address, value),
            _ => {}
        }
        self.after(cx);
    }

    fn mmio_read(
        &mut self,
        cx: &mut DevCx<'_>,
        _window: WindowId,
        offset: u64,
        size: usize,
    ) -> u64 {
        let at = offset as u32 & !3;
        let low = u64::from(self.read(cx.now, at));
        // What is wider than a register are two.
        let high = match size {
            8 => u64::from(self.read(cx.now, at.wrapping_add(4))),
            _ => 0,
        };
        self.after(cx);
        (high << 32 | low) >> (8 * (offset & 3))
    }

    fn mmio_write(
        &mut self,
        cx: &mut DevCx<'_>,
        _window: WindowId,
        offset: u64,
        size: usize,
        value: u64,
    ) {
        let at = offset as u32;
        if at & 3 == 0 && size >= 4 {
            self.write(cx, at, value as u32);
            if size == 8 {
                self.write(cx, at.wrapping_add(4), (value >> 32) as u32);
            }
        }
        self.after(cx);
    }
}
