//! Virtio over PCI (VIRTIO 1.2 4.1, "Virtio Over PCI Bus"): the function, its windows, and how it interrupts.
//!
//! Base address register 0 has the ports of older drivers, 1 the MSI-X table, 4 (of 64 bits) the structures of version 1, a page each.
//! The queues are notified at a port, which costs a hypervisor less than memory does: it is the register that older drivers use for that.
//! Drivers that can do with memory only find a second place for it.
//!
//! Invariant: no queue is looked at unless the driver is ready, the function may be bus master, and the guest has broken no rule.

use super::queue::{Agreed, Fault, LARGEST, Place, Queue};
use super::registers::{Common, Registers};
use super::{CONFIG, DeviceType, Features, Kind, Status};
use crate::pci::{Command, ConfigSpace, Identity, Intx, MsiX, PciFunction, capability};
use alloc::boxed::Box;
use alloc::vec::Vec;
use hv_core::device::{AccessSize, DevCx, Device, WindowId};
use hv_core::irq::{IrqLine, MsiLine};
use hv_core::time::VmTime;

/// Red Hat, whose device IDs virtio has.
const VENDOR: u16 = 0x1af4;

/// The base address registers, and how much is behind each.
const PORTS_BAR: u8 = 0;
const MSI_X_BAR: u8 = 1;
const MEMORY_BAR: u8 = 4;
/// Ports: the registers of older drivers, and the device's configuration.
pub const PORTS_LEN: u16 = 128;
/// Bytes with the MSI-X table.
pub const MSI_X_LEN: u64 = crate::pci::MSI_X_WINDOW;
/// Bytes of memory with the structures.
pub const MEMORY_LEN: u64 = 0x4000;

/// The structures (4.1.4, "Virtio Structure PCI Capabilities"), and where each is in memory.
const COMMON: u8 = 1;
const NOTIFY: u8 = 2;
const ISR: u8 = 3;
const DEVICE: u8 = 4;
const PCI_CONFIG: u8 = 5;
const PAGE: u32 = 0x1000;

/// The registers of older drivers (4.1.4.10, "Legacy Interfaces: A Note on PCI Device Layout").
mod legacy {
    pub const DEVICE_FEATURES: u16 = 0x00;
    pub const DRIVER_FEATURES: u16 = 0x04;
    pub const QUEUE_ADDRESS: u16 = 0x08;
    pub const QUEUE_SIZE: u16 = 0x0c;
    pub const QUEUE_SELECT: u16 = 0x0e;
    pub const QUEUE_NOTIFY: u16 = 0x10;
    pub const STATUS: u16 = 0x12;
    pub const ISR: u16 = 0x13;
    /// Only where messages are enabled: the device's configuration follows.
    pub const CONFIG_VECTOR: u16 = 0x14;
    pub const QUEUE_VECTOR: u16 = 0x16;
}

/// The ISR status (4.1.4.5, "ISR status capability"): a queue was used, the configuration has changed.
const ISR_QUEUE: u8 = 1;
const ISR_CONFIG: u8 = 2;

/// What a function is given from outside.
pub struct Parts {
    /// The wire at its interrupt pin.
    pub line: IrqLine,
    /// The way of its messages.
    pub messages: MsiLine,
    /// Its windows.
    pub windows: Windows,
}

/// The windows of a function, as the bus has numbered them.
#[derive(Clone, Copy, Debug)]
pub struct Windows {
    /// [`PORTS_LEN`] ports.
    pub ports: WindowId,
    /// [`MSI_X_LEN`] bytes of memory.
    pub msi_x: WindowId,
    /// [`MEMORY_LEN`] bytes of memory.
    pub memory: WindowId,
}

/// A virtio device on the PCI bus.
pub struct VirtioPci {
    config: ConfigSpace,
    /// Where the window to the structures is in configuration space.
    pci_config: u8,
    intx: Intx,
    msix: MsiX,
    windows: Windows,
    kind: Kind,
    registers: Registers,
    /// The queues that are in use.
    queues: Vec<Option<Queue>>,
    isr: u8,
    device: Box<dyn DeviceType>,
}

/// A structure's capability without its identifier and link (4.1.4): its type, where it is, and how long.
fn structure(kind: u8, bar: u8, offset: u32, len: u32, more: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(14 + more.len());
    body.extend([16 + more.len() as u8, kind, bar, 0, 0, 0]);
    body.extend(offset.to_le_bytes());
    body.extend(len.to_le_bytes());
    body.extend(more);
    body
}

impl VirtioPci {
    /// The function with `device` behind it, in power-on state.
    #[must_use]
    pub fn new(device: Box<dyn DeviceType>, parts: Parts) -> Self {
        let kind = device.kind();
        let queues = device.queues();
        let windows = parts.windows;
        let mut config = ConfigSpace::new(&Identity {
            vendor: VENDOR,
            device: kind.pci_device,
            class: kind.class,
            // That of a transitional device (4.1.2.3).
            revision: 0,
            subsystem: (VENDOR, kind.id),
        })
        .interrupt_pin(0)
        .io_bar(PORTS_BAR, PORTS_LEN.into(), windows.ports)
        .memory_bar(MSI_X_BAR, MSI_X_LEN as u32, false, windows.msi_x)
        .memory_bar_64(MEMORY_BAR, MEMORY_LEN, false, windows.memory);
        // A vector for each queue, and one for changes of the configuration.
        let vectors = queues as u16 + 1;
        let msix = MsiX::new(&mut config, vectors, MSI_X_BAR, parts.messages);
        let mut add = |body: &[u8]| config.add_capability(capability::VENDOR_SPECIFIC, body);
        for (kind, page, len) in [(COMMON, 0, 64), (ISR, 1, 4), (DEVICE, 2, CONFIG as u32)] {
            add(&structure(kind, MEMORY_BAR, page * PAGE, len, &[]));
        }
        // One place for all queues: the value says which.
        let multiplier = [0; 4];
        let notify = u32::from(legacy::QUEUE_NOTIFY);
        add(&structure(NOTIFY, PORTS_BAR, notify, 2, &multiplier));
        add(&structure(NOTIFY, MEMORY_BAR, 3 * PAGE, 4, &multiplier));
        let pci_config = add(&structure(PCI_CONFIG, 0, 0, 0, &[0; 4]));
        // Which structure, where in it, how much, and the bytes themselves.
        config.set_writable(pci_config + 4, &[0xff]);
        config.set_writable(pci_config + 8, &[0xff; 8]);
        Self {
            config,
            pci_config,
            intx: Intx::new(parts.line),
            msix,
            windows,
            kind,
            registers: Registers::new(queues),
            queues: core::iter::repeat_with(|| None).take(queues).collect(),
            isr: 0,
            device,
        }
    }

    /// The device behind it.
    pub fn device(&mut self) -> &mut dyn DeviceType {
        &mut *self.device
    }

    /// All features that a driver may agree to.
    fn offered(&self) -> u64 {
        let all = Features::INDIRECT_DESC | Features::EVENT_IDX | Features::VERSION_1;
        let all = all | Features::RING_PACKED | Features::IN_ORDER | Features::ANY_LAYOUT;
        self.device.features() | all.bits()
    }

    /// Whether the queues may be looked at.
    fn runs(&self) -> bool {
        self.registers.ready()
            && !self.registers.status.contains(Status::NEEDS_RESET)
            && self.config.command().contains(Command::MASTER)
    }

    /// Back to where the driver finds the device.
    fn reset_device(&mut self, cx: &mut DevCx<'_>) {
        self.device.reset(cx.dma);
        self.queues.iter_mut().for_each(|queue| *queue = None);
        self.registers.reset();
        self.isr = 0;
        self.intx.set(&mut self.config, false);
    }

    /// Lets the device do what there is to be done.
    fn run(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        if !self.runs() {
            return None;
        }
        if self.device.config_changed() {
            self.registers.generation = self.registers.generation.wrapping_add(1);
            self.interrupt(self.registers.config_vector, ISR_CONFIG);
        }
        let result = self.device.run(cx, &mut self.queues);
        let result = result.and_then(|next| self.tell(cx).map(|()| next));
        match result {
            Ok(next) => next,
            Err(fault) => {
                self.give_up(fault);
                None
            }
        }
    }

    /// Tells the driver of what was used.
    fn tell(&mut self, cx: &mut DevCx<'_>) -> Result<(), Fault> {
        for index in 0..self.queues.len() {
            if let Some(Some(queue)) = self.queues.get_mut(index)
                && queue.take_interrupt(cx.dma)?
            {
                let vector = self.registers.vector(index);
                self.interrupt(vector, ISR_QUEUE);
            }
        }
        Ok(())
    }

    fn interrupt(&mut self, vector: u16, why: u8) {
        if self.msix.enabled() {
            self.msix.raise(vector);
        } else {
            self.isr |= why;
            self.intx.set(&mut self.config, true);
        }
    }

    /// The guest broke a rule: nothing more is done until it resets the device (2.1.2, "Device Requirements: Device Status Field").
    fn give_up(&mut self, fault: Fault) {
        log::warn!(
            "{}: the guest broke a rule of its queues: {fault:?}",
            self.kind.name
        );
        let ready = self.registers.status.contains(Status::DRIVER_OK);
        self.registers.status |= Status::NEEDS_RESET;
        if ready {
            self.interrupt(self.registers.config_vector, ISR_CONFIG);
        }
    }

    fn take_isr(&mut self) -> u8 {
        self.intx.set(&mut self.config, false);
        core::mem::take(&mut self.isr)
    }

    fn write_status(&mut self, cx: &mut DevCx<'_>, value: u8) {
        if value == 0 {
            return self.reset_device(cx);
        }
        let driver = Status::all() - Status::NEEDS_RESET;
        let new = Status::from_bits_truncate(value) & driver;
        let came = new - self.registers.status;
        self.registers.status |= new;
        let agreed = self.registers.features;
        if came.contains(Status::FEATURES_OK) {
            let version_1 = agreed & Features::VERSION_1.bits() != 0;
            if version_1 && agreed & !self.offered() == 0 {
                self.device.agree(agreed);
            } else {
                self.registers.status -= Status::FEATURES_OK;
            }
        }
        if came.contains(Status::DRIVER_OK) {
            if self.registers.is_legacy() {
                self.device.agree(agreed);
            }
            self.look_soon(cx);
        }
    }

    /// Has the queues looked at soon.
    fn look_soon(&self, cx: &mut DevCx<'_>) {
        cx.requests.wake_at(cx.now);
    }

    fn kick(&mut self, cx: &mut DevCx<'_>) {
        if let Some(next) = self.run(cx) {
            cx.requests.wake_at(next);
        }
    }

    /// The selected queue is put into use.
    fn enable(&mut self, place: Place) {
        let features = Features::from_bits_truncate(self.registers.features);
        let agreed = Agreed {
            packed: features.contains(Features::RING_PACKED),
            indirect: features.contains(Features::INDIRECT_DESC),
            event_index: features.contains(Features::EVENT_IDX),
            in_order: features.contains(Features::IN_ORDER),
        };
        let aligned = |gpa: hv_core::Gpa, to: u64| gpa.0.is_multiple_of(to);
        let (driver, device) = if agreed.packed { (4, 4) } else { (2, 4) };
        let good = (1..=LARGEST).contains(&place.size)
            && (agreed.packed || place.size.is_power_of_two())
            && aligned(place.descriptors, 16)
            && aligned(place.driver, driver)
            && aligned(place.device, device);
        if !good {
            return self.give_up(Fault::Place);
        }
        let selected = usize::from(self.registers.selected);
        if let Some(queue) = self.queues.get_mut(selected) {
            *queue = Some(Queue::new(place, agreed));
        }
    }

    fn read_common(&self, offset: u64, size: usize) -> u64 {
        let image = self.registers.image(self.offered());
        bytes(&image, offset as usize, size)
    }

    fn write_common(&mut self, cx: &mut DevCx<'_>, offset: u64, size: usize, value: u64) {
        match self
            .registers
            .write(offset, size, value, self.msix.vectors())
        {
            Common::Done => {}
            Common::Status(value) => self.write_status(cx, value),
            Common::Enable(place) => self.enable(place),
        }
    }

    /// A register in memory is read.
    fn read_memory(&mut self, offset: u64, size: usize) -> u64 {
        let within = offset % u64::from(PAGE);
        match offset / u64::from(PAGE) {
            0 => self.read_common(within, size),
            1 if within == 0 => self.take_isr().into(),
            2 => bytes(&self.device.config(), within as usize, size),
            _ => 0,
        }
    }

    /// A register in memory is written.
    fn write_memory(&mut self, cx: &mut DevCx<'_>, offset: u64, size: usize, value: u64) {
        let within = offset % u64::from(PAGE);
        match offset / u64::from(PAGE) {
            0 => self.write_common(cx, within, size, value),
            2 => self.write_config(within as usize, size, value),
            3 => self.kick(cx),
            _ => {}
        }
    }

    fn write_config(&mut self, offset: usize, size: usize, value: u64) {
        for (offset, value) in (offset..).zip(value.to_le_bytes()).take(size) {
            self.device.write_config(offset, value);
        }
    }

    /// Where the device's configuration begins among the ports of older drivers.
    fn legacy_config(&self) -> u16 {
        if self.msix.enabled() { 0x18 } else { 0x14 }
    }

    fn read_port(&mut self, offset: u16, size: AccessSize) -> u32 {
        let n = size.bytes();
        if let Some(at) = offset.checked_sub(self.legacy_config()) {
            return bytes(&self.device.config(), at.into(), n) as u32;
        }
        let registers = &self.registers;
        match offset {
            legacy::DEVICE_FEATURES => self.offered() as u32,
            legacy::DRIVER_FEATURES => registers.features as u32,
            legacy::QUEUE_ADDRESS => registers.legacy_page(),
            legacy::QUEUE_SIZE => registers.legacy_size().into(),
            legacy::QUEUE_SELECT => registers.selected.into(),
            legacy::STATUS => registers.status.bits().into(),
            legacy::ISR => self.take_isr().into(),
            legacy::CONFIG_VECTOR => registers.config_vector.into(),
            legacy::QUEUE_VECTOR => registers.vector(registers.selected.into()).into(),
            _ => 0,
        }
    }

    fn write_port(&mut self, cx: &mut DevCx<'_>, offset: u16, size: AccessSize, value: u32) {
        if let Some(at) = offset.checked_sub(self.legacy_config()) {
            return self.write_config(at.into(), size.bytes(), value.into());
        }
        let vectors = self.msix.vectors();
        match offset {
            legacy::DRIVER_FEATURES => {
                let low = self.offered() & u64::from(u32::MAX);
                self.registers.set_legacy_features(u64::from(value) & low);
            }
            legacy::QUEUE_ADDRESS => match self.registers.set_legacy_page(value) {
                Some(place) => self.enable(place),
                None => {
                    // Older drivers take a queue out of use so; what it has is forgotten.
                    self.device.reset(cx.dma);
                    let selected = usize::from(self.registers.selected);
                    if let Some(queue) = self.queues.get_mut(selected) {
                        *queue = None;
                    }
                }
            },
            legacy::QUEUE_SELECT => self.registers.selected = value as u16,
            legacy::QUEUE_NOTIFY => self.kick(cx),
            legacy::STATUS => self.write_status(cx, value as u8),
            legacy::CONFIG_VECTOR => self.registers.set_config_vector(value as u16, vectors),
            legacy::QUEUE_VECTOR => self.registers.set_vector(value as u16, vectors),
            _ => {}
        }
    }

    /// The window in configuration space (4.1.4.9, "PCI configuration access capability"), if it points to registers: the base address
    /// register, the offset, and the length.
    fn pointed(&self, offset: u8) -> Option<(u8, u64, AccessSize)> {
        if offset & !3 != self.pci_config + 16 {
            return None;
        }
        let dword = |at| self.config.read(self.pci_config + at, AccessSize::Dword);
        let size = AccessSize::of(dword(12) as usize)?;
        let at = u64::from(dword(8));
        let bar = self.config.byte(self.pci_config + 4);
        let len = match bar {
            PORTS_BAR => PORTS_LEN.into(),
            MEMORY_BAR => MEMORY_LEN,
            _ => return None,
        };
        (at.is_multiple_of(size.bytes() as u64) && at < len).then_some((bar, at, size))
    }
}

/// `size` bytes at `offset` of `image`; there are zeros behind it.
fn bytes(image: &[u8; CONFIG], offset: usize, size: usize) -> u64 {
    let mut value = [0; 8];
    let there = image.iter().skip(offset).take(size);
    value.iter_mut().zip(there).for_each(|(v, b)| *v = *b);
    u64::from_le_bytes(value)
}

impl PciFunction for VirtioPci {
    fn config_read(&mut self, _cx: &mut DevCx<'_>, offset: u8, size: AccessSize) -> u32 {
        if let Some((bar, at, len)) = self.pointed(offset) {
            let value = match bar {
                PORTS_BAR => self.read_port(at as u16, len),
                _ => self.read_memory(at, len.bytes()) as u32,
            };
            for (at, byte) in (self.pci_config + 16..).zip(value.to_le_bytes()) {
                self.config.set_byte(at, byte);
            }
        }
        self.config.read(offset, size)
    }

    fn config_write(&mut self, cx: &mut DevCx<'_>, offset: u8, size: AccessSize, value: u32) {
        let master = self.runs();
        self.config.write(cx.requests, offset, size, value);
        self.intx.settle(&self.config);
        self.msix.settle(&self.config);
        if self.runs() && !master {
            self.look_soon(cx);
        }
        if let Some((bar, at, len)) = self.pointed(offset) {
            match bar {
                PORTS_BAR => self.write_port(cx, at as u16, len, value & len.ones()),
                _ => self.write_memory(cx, at, len.bytes(), (value & len.ones()).into()),
            }
        }
    }

    fn config_reset(&mut self, cx: &mut DevCx<'_>) {
        self.reset(cx);
    }
}

impl Device for VirtioPci {
    fn name(&self) -> &'static str {
        self.kind.name
    }

    fn reset(&mut self, cx: &mut DevCx<'_>) {
        self.reset_device(cx);
        self.config.reset(cx.requests);
        self.msix.reset();
    }

    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.run(cx)
    }

    fn port_read(&mut self, _cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        self.read_port(port % PORTS_LEN, size)
    }

    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, value: u32) {
        self.write_port(cx, port % PORTS_LEN, size, value);
    }

    fn mmio_read(
        &mut self,
        _cx: &mut DevCx<'_>,
        window: WindowId,
        offset: u64,
        size: usize,
    ) -> u64 {
        if window == self.windows.msi_x {
            self.msix.read(offset, size)
        } else {
            self.read_memory(offset, size)
        }
    }

    fn mmio_write(
        &mut self,
        cx: &mut DevCx<'_>,
        window: WindowId,
        offset: u64,
        size: usize,
        value: u64,
    ) {
        if window == self.windows.msi_x {
            self.msix.write(offset, size, value);
        } else {
            self.write_memory(cx, offset, size, value);
        }
    }
}
