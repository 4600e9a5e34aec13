//! The host's virtio disks: where the guest's media come from when they are not boot-loader modules.
//!
//! A request is given to the disk and the guest runs on; the disk's interrupt says that it is over. Only flushes are waited for.

use crate::virtio::{self, HostHal, HostTransport, Interrupt};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use hv_core::backend::{BlockBackend, BlockDone, BlockError, BlockOp, BlockRequest};
use spin::Mutex;
use virtio_drivers::device::blk::{BlkReq, BlkResp, VirtIOBlk};
use virtio_drivers::transport::DeviceType;

/// A request that the disk has.
struct Asked {
    token: u16,
    request: BlockRequest,
    header: Box<BlkReq>,
    answer: Box<BlkResp>,
}

struct Device {
    blk: VirtIOBlk<HostHal, HostTransport>,
    /// How it says that a request is over. None: it does not.
    interrupt: Option<Interrupt>,
    asked: Option<Asked>,
}

// SAFETY: the transport holds pointers to device registers and queues that belong to this object alone.
unsafe impl Send for Device {}

/// The disks that interrupt.
static DISKS: Mutex<Vec<Arc<Mutex<Device>>>> = Mutex::new(Vec::new());
/// A disk has interrupted because a request is over.
static ANSWERED: AtomicBool = AtomicBool::new(false);

impl Device {
    /// Gives the disk a request. What it refuses is returned.
    fn ask(&mut self, mut request: BlockRequest) -> Result<(), BlockRequest> {
        let (mut header, mut answer) = (Box::<BlkReq>::default(), Box::<BlkResp>::default());
        let sector = request.sector as usize;
        let Some(part) = request.buffer.get_mut(request.part.clone()) else {
            return Err(request);
        };
        // SAFETY: the three lie in boxes, which stay where they are and are not looked at before the request is over.
        let token = unsafe {
            match request.op {
                BlockOp::Read => self
                    .blk
                    .read_blocks_nb(sector, &mut header, part, &mut answer),
                BlockOp::Write => self
                    .blk
                    .write_blocks_nb(sector, &mut header, part, &mut answer),
            }
        };
        match token {
            Ok(token) => {
                self.asked = Some(Asked {
                    token,
                    request,
                    header,
                    answer,
                });
                Ok(())
            }
            Err(_) => Err(request),
        }
    }

    /// The request, if it is over.
    fn answer(&mut self) -> Option<BlockDone> {
        let token = self.asked.as_ref()?.token;
        if self.blk.peek_used() != Some(token) {
            return None;
        }
        let Asked {
            mut request,
            header,
            mut answer,
            ..
        } = self.asked.take()?;
        let part = request.buffer.get_mut(request.part.clone())?;
        // SAFETY: these are the buffers of the request.
        let result = unsafe {
            match request.op {
                BlockOp::Read => self
                    .blk
                    .complete_read_blocks(token, &header, part, &mut answer),
                BlockOp::Write => self
                    .blk
                    .complete_write_blocks(token, &header, part, &mut answer),
            }
        };
        Some((request, result.map_err(|_| BlockError)))
    }
}

/// A virtio disk.
pub struct VirtioDisk(Arc<Mutex<Device>>);

impl BlockBackend for VirtioDisk {
    fn sectors(&self) -> u64 {
        self.0.lock().blk.capacity()
    }
    fn read_only(&self) -> bool {
        self.0.lock().blk.readonly()
    }
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        let blk = &mut self.0.lock().blk;
        blk.read_blocks(sector as usize, buf)
            .map_err(|_| BlockError)
    }
    fn write(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError> {
        let blk = &mut self.0.lock().blk;
        blk.write_blocks(sector as usize, buf)
            .map_err(|_| BlockError)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        self.0.lock().blk.flush().map_err(|_| BlockError)
    }
    fn begin(&mut self, mut request: BlockRequest) -> Option<BlockDone> {
        let silent = self.0.lock().interrupt.is_none();
        if silent {
            let result = request.perform(self);
            return Some((request, result));
        }
        let refused = self.0.lock().ask(request).err()?;
        Some((refused, Err(BlockError)))
    }
    fn finish(&mut self, wait: bool) -> Option<BlockDone> {
        let mut device = self.0.lock();
        device.asked.as_ref()?;
        loop {
            let done = device.answer();
            if done.is_some() || !wait {
                return done;
            }
            core::hint::spin_loop();
        }
    }
}

/// A disk interrupts: a request is over.
fn interrupt() {
    for disk in &*DISKS.lock() {
        let mut disk = disk.lock();
        if disk.interrupt == Some(Interrupt::Message) || !disk.blk.ack_interrupt().is_empty() {
            ANSWERED.store(true, Ordering::Relaxed);
        }
    }
}

/// Whether requests have come to an end since this was last asked.
pub fn answered() -> bool {
    ANSWERED.swap(false, Ordering::Relaxed)
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
    for mut found in virtio::find(DeviceType::Block) {
        let interrupt = found.enable_interrupt(interrupt);
        let Ok(mut blk) = VirtIOBlk::new(found.transport) else {
            log::warn!("virtio disk at {} cannot be used", found.function);
            continue;
        };
        // What is asked here is waited for.
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
        let device = Arc::new(Mutex::new(Device {
            blk,
            interrupt,
            asked: None,
        }));
        if interrupt.is_some() {
            device.lock().blk.enable_interrupts();
            DISKS.lock().push(device.clone());
        }
        disks.push((serial, Box::new(VirtioDisk(device))));
    }
    disks
}
