//! The host's virtio devices: finding them, the memory that they share with Umbra, and their interrupts.

use crate::interrupts::{self, Handler};
use crate::pci::Ports;
use crate::{memory, msix, paging};
use alloc::vec::Vec;
use core::ptr::NonNull;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, PciRoot,
};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::transport::{DeviceStatus, DeviceType, InterruptStatus, Transport};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Memory for virtio devices.
pub struct HostHal;

// SAFETY: memory is mapped at its physical address and never moves; allocations are zeroed, aligned, and not given out twice.
unsafe impl Hal for HostHal {
    fn dma_alloc(pages: usize, _direction: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let at = memory::take_own((pages * PAGE_SIZE) as u64, PAGE_SIZE as u64).unwrap_or(0);
        (
            at,
            NonNull::new(at as *mut u8).unwrap_or(NonNull::dangling()),
        )
    }
    unsafe fn dma_dealloc(_paddr: PhysAddr, _vaddr: NonNull<u8>, _pages: usize) -> i32 {
        // Queues live as long as Umbra.
        0
    }
    unsafe fn mmio_phys_to_virt(paddr: PhysAddr, size: usize) -> NonNull<u8> {
        if paddr >> 32 != 0 {
            paging::map(paddr, paddr + size as u64, true);
        }
        NonNull::new(paddr as *mut u8).expect("device registers are not at address 0")
    }
    unsafe fn share(buffer: NonNull<[u8]>, _direction: BufferDirection) -> PhysAddr {
        buffer.as_ptr().cast::<u8>() as u64
    }
    unsafe fn unshare(_paddr: PhysAddr, _buffer: NonNull<[u8]>, _direction: BufferDirection) {}
}

/// The buses of the host that are looked at.
const BUSES: u8 = 8;
/// The interrupt line in configuration space (PCI Local Bus Specification 3.0, 6.2.4, "Miscellaneous Registers").
const INTERRUPT_LINE: u8 = 0x3c;

/// Capabilities of virtio over PCI (VIRTIO 1.2, 4.1.4, "Virtio Structure PCI Capabilities"): vendor-specific, with a type in bits 31:24,
/// an index of a base address register at offset 4 and an offset at 8.
const VENDOR_SPECIFIC: u8 = 9;
const COMMON_CONFIGURATION: u32 = 1;
/// The common configuration structure (4.1.4.3): offsets of the queue that the others are about, and of that queue's entry in the MSI-X
/// table.
const QUEUE_SELECT: u64 = 0x16;
const QUEUE_MSIX_VECTOR: u64 = 0x1a;

/// The feature VIRTIO_F_EVENT_IDX (VIRTIO 1.2, 6, "Reserved Feature Bits"). It is not used: virtio-drivers 0.13 compares the index of the
/// last buffer with the device's wish as if they never wrapped, and would leave a queue untold after 65,536 buffers.
const EVENT_IDX: u64 = 1 << 29;

/// How a device interrupts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Interrupt {
    /// By a message of its own.
    Message,
    /// On a line of the interrupt controllers, which it shares with others.
    Line,
}

/// A virtio device, ready for a driver.
pub struct Found {
    /// Where it is.
    pub function: DeviceFunction,
    /// Its registers.
    pub transport: HostTransport,
}

impl Found {
    /// Lets the device interrupt from now on, for which `handler` is called. It has to be done before a driver sets the device up. None: it
    /// can do so neither by MSI-X nor on a line that the firmware has put it on, and stays silent.
    pub fn enable_interrupt(&mut self, handler: Handler) -> Option<Interrupt> {
        if self.transport.common != 0
            && let Some(vector) = interrupts::vector(handler)
            && msix::route(self.function, vector)
        {
            self.transport.message = true;
            return Some(Interrupt::Message);
        }
        let line = Ports.read_word(self.function, INTERRUPT_LINE) as u8;
        if !(3..16).contains(&line) {
            return None;
        }
        PciRoot::new(Ports).set_command(self.function, ENABLE);
        interrupts::unmask(line, handler);
        Some(Interrupt::Line)
    }
}

/// The registers of a device: those of virtio over PCI, and where its queues interrupt by messages, the choice of the message.
pub struct HostTransport {
    pci: PciTransport,
    /// Address of the common configuration structure, or 0.
    common: u64,
    /// Queues interrupt by entry 0 of the device's MSI-X table.
    message: bool,
}

impl Transport for HostTransport {
    fn device_type(&self) -> DeviceType {
        self.pci.device_type()
    }
    fn read_device_features(&mut self) -> u64 {
        self.pci.read_device_features() & !EVENT_IDX
    }
    fn write_driver_features(&mut self, driver_features: u64) {
        self.pci.write_driver_features(driver_features);
    }
    fn max_queue_size(&mut self, queue: u16) -> u32 {
        self.pci.max_queue_size(queue)
    }
    fn notify(&mut self, queue: u16) {
        self.pci.notify(queue);
    }
    fn get_status(&self) -> DeviceStatus {
        self.pci.get_status()
    }
    fn set_status(&mut self, status: DeviceStatus) {
        self.pci.set_status(status);
    }
    fn set_guest_page_size(&mut self, guest_page_size: u32) {
        self.pci.set_guest_page_size(guest_page_size);
    }
    fn requires_legacy_layout(&self) -> bool {
        self.pci.requires_legacy_layout()
    }
    fn queue_set(
        &mut self,
        queue: u16,
        size: u32,
        descriptors: PhysAddr,
        driver_area: PhysAddr,
        device_area: PhysAddr,
    ) {
        if self.message {
            // SAFETY: the structure is mapped, and the device's driver is this object.
            unsafe {
                ((self.common + QUEUE_SELECT) as *mut u16).write_volatile(queue);
                ((self.common + QUEUE_MSIX_VECTOR) as *mut u16).write_volatile(0);
            }
        }
        self.pci
            .queue_set(queue, size, descriptors, driver_area, device_area);
    }
    fn queue_unset(&mut self, queue: u16) {
        self.pci.queue_unset(queue);
    }
    fn queue_used(&mut self, queue: u16) -> bool {
        self.pci.queue_used(queue)
    }
    fn ack_interrupt(&mut self) -> InterruptStatus {
        self.pci.ack_interrupt()
    }
    fn read_config_generation(&self) -> u32 {
        self.pci.read_config_generation()
    }
    fn read_config_space<T: FromBytes + IntoBytes>(
        &self,
        offset: usize,
    ) -> virtio_drivers::Result<T> {
        self.pci.read_config_space(offset)
    }
    fn write_config_space<T: IntoBytes + Immutable>(
        &mut self,
        offset: usize,
        value: T,
    ) -> virtio_drivers::Result<()> {
        self.pci.write_config_space(offset, value)
    }
}

/// The address of a device's common configuration structure; 0: it has none in memory.
fn common_configuration(root: &mut PciRoot<Ports>, function: DeviceFunction) -> u64 {
    let place = root
        .capabilities(function)
        .filter(|capability| capability.id == VENDOR_SPECIFIC)
        .find(|c| Ports.read_word(function, c.offset) >> 24 == COMMON_CONFIGURATION)
        .map(|c| {
            let word = |at| Ports.read_word(function, c.offset + at);
            (word(4) as u8, u64::from(word(8)))
        });
    let Some((bar, offset)) = place else { return 0 };
    match root.bar_info(function, bar) {
        Ok(Some(BarInfo::Memory { address, .. })) if address != 0 => address + offset,
        _ => 0,
    }
}

const ENABLE: Command = Command::MEMORY_SPACE
    .union(Command::BUS_MASTER)
    .union(Command::IO_SPACE);

/// All devices of one type. They do not interrupt.
pub fn find(device: DeviceType) -> Vec<Found> {
    let mut root = PciRoot::new(Ports);
    let mut devices = Vec::new();
    for bus in 0..BUSES {
        let found: Vec<_> = root.enumerate_bus(bus).collect();
        for (function, info) in found {
            if virtio_device_type(&info) != Some(device) {
                continue;
            }
            // Registers above 4 GiB are not mapped yet.
            for bar in 0..6 {
                if let Ok(Some(BarInfo::Memory { address, size, .. })) =
                    root.bar_info(function, bar)
                    && address >> 32 != 0
                {
                    paging::map(address, address + size, true);
                }
            }
            root.set_command(function, ENABLE | Command::INTERRUPT_DISABLE);
            let common = common_configuration(&mut root, function);
            match PciTransport::new::<HostHal, _>(&mut root, function) {
                Ok(pci) => devices.push(Found {
                    function,
                    transport: HostTransport {
                        pci,
                        common,
                        message: false,
                    },
                }),
                Err(error) => log::warn!("the virtio device at {function} cannot be used: {error}"),
            }
        }
    }
    devices
}
