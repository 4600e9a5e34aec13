//! The host's virtio disks: where the guest's media come from when they are not boot-loader modules.

use crate::virtio::{self, HostHal};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use hv_core::backend::{BlockBackend, BlockError};
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::DeviceType;
use virtio_drivers::transport::pci::PciTransport;

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
    let mut disks: Vec<(String, Box<dyn BlockBackend>)> = Vec::new();
    for found in virtio::find(DeviceType::Block) {
        let Ok(mut blk) = VirtIOBlk::new(found.transport) else {
            log::warn!("virtio disk at {} cannot be used", found.function);
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
    disks
}
