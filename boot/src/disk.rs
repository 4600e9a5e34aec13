//! The host's virtio disks: where the guest's media come from when they are not boot-loader modules.

use crate::pci::Ports;
use crate::{memory, paging};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::ptr::NonNull;
use hv_core::backend::{BlockBackend, BlockError};
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::bus::{BarInfo, Command, PciRoot};
use virtio_drivers::transport::pci::{PciTransport, virtio_device_type};
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

struct HostHal;

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

/// A virtio disk.
pub struct VirtioDisk {
    blk: VirtIOBlk<HostHal, PciTransport>,
}

// SAFETY: the transport holds pointers to device registers and queues that belong to this object alone.
unsafe impl Send for VirtioDisk {}

impl BlockBackend for VirtioDisk {
    fn sectors(&self) -> u64 {
        self.blk.capacity()
    }
    fn read_only(&self) -> bool {
        self.blk.readonly()
    }
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.blk
            .read_blocks(sector as usize, buf)
            .map_err(|_| BlockError)
    }
    fn write(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.blk
            .write_blocks(sector as usize, buf)
            .map_err(|_| BlockError)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        self.blk.flush().map_err(|_| BlockError)
    }
}

/// A medium in memory: a boot-loader module.
pub struct ModuleDisk(pub &'static [u8]);

impl BlockBackend for ModuleDisk {
    fn sectors(&self) -> u64 {
        (self.0.len() / 512) as u64
    }
    fn read_only(&self) -> bool {
        true
    }
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let start = usize::try_from(sector)
            .ok()
            .and_then(|s| s.checked_mul(512))
            .ok_or(BlockError)?;
        buf.copy_from_slice(self.0.get(start..start + buf.len()).ok_or(BlockError)?);
        Ok(())
    }
    fn write(&mut self, _sector: u64, _buf: &[u8]) -> Result<(), BlockError> {
        Err(BlockError)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        Ok(())
    }
}

/// All virtio disks of the host with their serial numbers.
pub fn find() -> Vec<(String, Box<dyn BlockBackend>)> {
    let mut root = PciRoot::new(Ports);
    let mut disks: Vec<(String, Box<dyn BlockBackend>)> = Vec::new();
    for bus in 0..8 {
        let found: Vec<_> = root.enumerate_bus(bus).collect();
        for (function, info) in found {
            if virtio_device_type(&info) != Some(DeviceType::Block) {
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
            root.set_command(
                function,
                Command::MEMORY_SPACE | Command::BUS_MASTER | Command::IO_SPACE,
            );
            let disk = PciTransport::new::<HostHal, _>(&mut root, function)
                .ok()
                .and_then(|t| VirtIOBlk::new(t).ok());
            let Some(mut blk) = disk else {
                log::warn!("virtio disk at {function} cannot be used");
                continue;
            };
            blk.disable_interrupts();
            let mut id = [0; 20];
            let n = blk.device_id(&mut id).unwrap_or(0).min(20);
            let serial = String::from_utf8_lossy(&id[..n])
                .trim_end_matches('\0')
                .into();
            log::info!(
                "disk {serial:?}: {} MiB{}",
                blk.capacity() / 2048,
                if blk.readonly() { ", read-only" } else { "" }
            );
            disks.push((serial, Box::new(VirtioDisk { blk })));
        }
    }
    disks
}
