//! The host's virtio devices: finding them, and the memory that they share with Umbra.

use crate::pci::Ports;
use crate::{memory, paging};
use alloc::vec::Vec;
use core::ptr::NonNull;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{
    BarInfo, Command, ConfigurationAccess, DeviceFunction, PciRoot,
};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

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

/// A virtio device, ready for a driver.
pub struct Found {
    /// Where it is.
    pub function: DeviceFunction,
    /// Its registers.
    pub transport: PciTransport,
}

impl Found {
    /// Lets the device interrupt, and returns the line of the interrupt controllers that the firmware has put it on. None: there is
    /// none, and it stays silent.
    pub fn enable_interrupt(&self) -> Option<u8> {
        let line = Ports.read_word(self.function, INTERRUPT_LINE) as u8;
        if !(3..16).contains(&line) {
            return None;
        }
        PciRoot::new(Ports).set_command(self.function, ENABLE);
        Some(line)
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
            match PciTransport::new::<HostHal, _>(&mut root, function) {
                Ok(transport) => devices.push(Found {
                    function,
                    transport,
                }),
                Err(error) => log::warn!("the virtio device at {function} cannot be used: {error}"),
            }
        }
    }
    devices
}
