//! The host's virtio disks: where the guest's media come from when they are not boot-loader modules. VIRTIO 1.2, 5.2, "Block Device".
//!
//! Requests are given to the disk, many at a time, and the guest runs on; the disk's interrupt says that some are over. The memory of a request may be the
//! guest's own: its pieces are the buffers that the disk works on, so that nobody copies.

mod queue;

use crate::clock;
use crate::interrupts::Concerns;
use crate::virtio::{self, HostTransport, Interrupt};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use bitflags::bitflags;
use core::slice;
use core::sync::atomic::{AtomicU8, Ordering, fence};
use hv_core::backend::{BlockBackend, BlockDone, BlockError, BlockMemory, BlockOp, BlockRequest};
use hv_core::mem::Piece;
use protocol::{MAX_VMS, options};
use spin::Mutex;
use virtio_drivers::device::common::Feature;
use virtio_drivers::transport::{DeviceType, Transport};

bitflags! {
    /// Feature bits of block devices (5.2.3), and those of all devices that are used here.
    #[derive(Clone, Copy, Debug)]
    /// Indirect descriptors are not among them: `virtio-drivers` allocates memory for those with each request, and the queue has room for the
    /// largest request as it is.
    struct Features: u64 {
        /// The number of buffers of a request is limited by `seg_max`.
        const SEG_MAX = 1 << 2;
        /// It cannot be written.
        const RO = 1 << 5;
        /// It has a cache, which a command flushes.
        const FLUSH = 1 << 9;
        const VERSION_1 = Feature::VERSION_1.bits();
    }
}

/// For how many microseconds a request that is alone is looked for: about what the exits may cost that a guest has when it waits and is told
/// (docs/measure.md, "The disk").
const SOON: u64 = 100;

/// The only queue.
const QUEUE: u16 = 0;
/// Requests that a disk has at most.
const REQUESTS: usize = 64;

/// Offsets in the configuration (5.2.4, "Device configuration layout").
const CAPACITY: usize = 0;
const SEG_MAX: usize = 12;

/// Types of requests (5.2.6, "Device Operation").
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
/// The status of a request that has succeeded.
const OK: u8 = 0;
/// A status that no device gives.
const NO_STATUS: u8 = 0xff;

/// The header of a request: type, reserved, sector.
type Header = [u8; 16];

fn header(kind: u32, sector: u64) -> Header {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    header
}

/// A request that the disk has.
struct Asked {
    request: BlockRequest,
    frame: Box<Frame>,
}

/// What a request has besides its data.
struct Frame {
    header: Header,
    status: [u8; 1],
}

impl Frame {
    fn new() -> Box<Self> {
        Box::new(Self {
            header: header(IN, 0),
            status: [NO_STATUS],
        })
    }
}

struct Device {
    transport: HostTransport,
    queue: Box<dyn queue::Queue>,
    features: Features,
    sectors: u64,
    /// Most buffers of data of a request.
    data_buffers: usize,
    /// How it says that a request is over. None: it does not.
    interrupt: Option<Interrupt>,
    /// The requests that it has, by their tokens.
    asked: [Option<Asked>; queue::LARGE],
    begun: usize,
    /// The VMs, a bit each, that are told when a request is over.
    vms: u8,
    /// Frames for further requests.
    #[expect(
        clippy::vec_box,
        reason = "the disk has a frame's address: only its box moves"
    )]
    frames: Vec<Box<Frame>>,
}

// SAFETY: the transport holds pointers to device registers and queues that belong to this object alone.
unsafe impl Send for Device {}

/// The disks that interrupt.
static DISKS: Mutex<Vec<Arc<Mutex<Device>>>> = Mutex::new(Vec::new());
/// The VMs, a bit each from bit 0 on, whose disks have interrupted because a request is over.
static ANSWERED: AtomicU8 = AtomicU8::new(0);

/// The buffers of a request, as the queue wants them: those that the disk reads, and those that it writes.
type Buffers<'a> = (Vec<&'a [u8]>, Vec<&'a mut [u8]>);

/// The buffers of a request; None: its memory is not what it should be, or there is no memory for the list.
///
/// # Safety
/// The pieces of guest memory in the request are RAM (or ROM, for a write) of the guest. What the buffers hold may not be accessed.
unsafe fn buffers<'a>(request: &'a mut BlockRequest, frame: &'a mut Frame) -> Option<Buffers<'a>> {
    let (mut read, mut written) = (Vec::<&[u8]>::new(), Vec::<&mut [u8]>::new());
    let pieces = match &request.memory {
        BlockMemory::Guest(pieces) => pieces.len(),
        BlockMemory::Buffer { .. } => 1,
    };
    read.try_reserve_exact(1 + pieces).ok()?;
    written.try_reserve_exact(pieces + 1).ok()?;
    read.push(&frame.header);
    match (request.op, &mut request.memory) {
        (BlockOp::Flush, _) => {}
        (BlockOp::Read, BlockMemory::Buffer { buffer, part }) => {
            written.push(buffer.get_mut(part.clone())?);
        }
        (BlockOp::Write, BlockMemory::Buffer { buffer, part }) => {
            read.push(buffer.get(part.clone())?);
        }
        (BlockOp::Read, BlockMemory::Guest(pieces)) => {
            // SAFETY: host memory is mapped at its physical address, and by the caller's promise this is the guest's. The guest may change
            // it, but the slice only carries its address and length to the queue: nobody looks at what it holds.
            let slice = |p: &Piece| unsafe { slice::from_raw_parts_mut(p.hpa.0 as *mut u8, p.len) };
            written.extend(pieces.iter().map(slice));
        }
        (BlockOp::Write, BlockMemory::Guest(pieces)) => {
            // SAFETY: as above.
            let slice = |p: &Piece| unsafe { slice::from_raw_parts(p.hpa.0 as *const u8, p.len) };
            read.extend(pieces.iter().map(slice));
        }
    }
    written.push(&mut frame.status);
    Some((read, written))
}

fn result(status: [u8; 1]) -> Result<(), BlockError> {
    (status == [OK]).then_some(()).ok_or(BlockError)
}

impl Device {
    /// Sets the device up.
    fn new(
        mut transport: HostTransport,
        interrupt: Option<Interrupt>,
    ) -> virtio_drivers::Result<Self> {
        let features = transport.begin_init(Features::all());
        let word = |offset| transport.read_config_space::<u32>(offset);
        let sectors = transport.read_consistent(|| {
            Ok(u64::from(word(CAPACITY)?) | u64::from(word(CAPACITY + 4)?) << 32)
        })?;
        let data_buffers = if features.contains(Features::SEG_MAX) {
            word(SEG_MAX)? as usize
        } else {
            1
        };
        let queue = queue::open(&mut transport)?;
        // The header and the status have a descriptor each.
        let data_buffers = data_buffers.min(queue.size() - 2);
        transport.finish_init();
        Ok(Self {
            transport,
            queue,
            features,
            sectors,
            data_buffers,
            interrupt,
            asked: [const { None }; queue::LARGE],
            begun: 0,
            vms: u8::MAX,
            frames: (0..REQUESTS).map(|_| Frame::new()).collect(),
        })
    }

    /// Has a request carried out and waits for it. The disk reads `out` and writes `data`.
    fn wait(
        &mut self,
        header: Header,
        out: Option<&[u8]>,
        data: Option<&mut [u8]>,
    ) -> Result<(), BlockError> {
        let mut status = [NO_STATUS];
        let head: &[u8] = &header;
        let read: Vec<&[u8]> = [head].into_iter().chain(out).collect();
        let mut written: Vec<&mut [u8]> = data.into_iter().chain([&mut status[..]]).collect();
        self.queue
            .wait(&read, &mut written, &mut self.transport)
            .map_err(|_| BlockError)?;
        result(status)
    }

    /// The disk's serial number (5.2.6): up to 20 characters.
    fn serial(&mut self) -> String {
        let mut id = [0; 20];
        let asked = self.wait(header(GET_ID, 0), None, Some(&mut id));
        let text = if asked.is_ok() { &id[..] } else { &[] };
        String::from_utf8_lossy(text).trim_end_matches('\0').into()
    }

    fn flush(&mut self) -> Result<(), BlockError> {
        if !self.features.contains(Features::FLUSH) {
            return Ok(());
        }
        self.wait(header(FLUSH, 0), None, None)
    }

    /// Whether the disk will interrupt when a request is over.
    fn answers(&self, request: &BlockRequest) -> bool {
        let understands = request.op != BlockOp::Flush || self.features.contains(Features::FLUSH);
        self.interrupt.is_some() && understands
    }

    /// Gives the disk a request. What it refuses is returned.
    fn ask(&mut self, mut request: BlockRequest) -> Result<(), BlockRequest> {
        let kind = match request.op {
            BlockOp::Read => IN,
            BlockOp::Write => OUT,
            BlockOp::Flush => FLUSH,
        };
        let Some(mut frame) = self.frames.pop() else {
            return Err(request);
        };
        (frame.header, frame.status) = (header(kind, request.sector), [NO_STATUS]);
        // SAFETY: a device model makes pieces only of what guest memory has answered for RAM. All buffers stay where they are and are not
        // looked at before the request is over: they lie in boxes, which are kept until then, or are the guest's memory, which is given to
        // nobody else as long as the guest has this disk.
        let token = unsafe {
            buffers(&mut request, &mut frame)
                .and_then(|(read, mut written)| self.queue.add(&read, &mut written).ok())
        };
        let slot = token.and_then(|token| self.asked.get_mut(usize::from(token)));
        let Some(slot) = slot else {
            self.frames.push(frame);
            return Err(request);
        };
        *slot = Some(Asked { request, frame });
        self.begun += 1;
        self.queue.set_interrupts(true);
        if self.queue.should_notify() {
            self.transport.notify(QUEUE);
        }
        Ok(())
    }

    /// A request that is over.
    fn answer(&mut self) -> Option<BlockDone> {
        let token = self.queue.peek()?;
        let slot = self.asked.get_mut(usize::from(token))?;
        let Asked {
            mut request,
            mut frame,
        } = slot.take()?;
        self.begun -= 1;
        // SAFETY: these are the buffers of the request.
        let popped = unsafe {
            buffers(&mut request, &mut frame)
                .map(|(read, mut written)| self.queue.pop(token, &read, &mut written))
        };
        let result = match popped {
            Some(Ok(_)) => result(frame.status),
            _ => Err(BlockError),
        };
        self.frames.push(frame);
        Some((request, result))
    }

    /// The only request that was begun, if it is over soon. The disk does not interrupt for it then.
    fn finish_soon(&mut self) -> Option<BlockDone> {
        if self.begun != 1 {
            return self.answer();
        }
        self.queue.set_interrupts(false);
        let end = clock::ticks() + SOON * (clock::tsc_hz() / 1_000_000);
        while clock::ticks() < end {
            let done = self.answer();
            if done.is_some() {
                return done;
            }
            core::hint::spin_loop();
        }
        self.queue.set_interrupts(true);
        // It may have come to an end before the disk has seen that (2.7.7.1, "Driver Requirements: Used Buffer Notification Suppression").
        fence(Ordering::SeqCst);
        self.answer()
    }

    /// A request that was begun and is over; with `wait`, one is waited for.
    fn finish(&mut self, wait: bool) -> Option<BlockDone> {
        loop {
            let done = self.answer();
            if done.is_some() || !wait || self.begun == 0 {
                return done;
            }
            core::hint::spin_loop();
        }
    }
}

/// A virtio disk.
pub struct VirtioDisk(Arc<Mutex<Device>>);

impl BlockBackend for VirtioDisk {
    fn sectors(&self) -> u64 {
        self.0.lock().sectors
    }
    fn read_only(&self) -> bool {
        self.0.lock().features.contains(Features::RO)
    }
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.0.lock().wait(header(IN, sector), None, Some(buf))
    }
    fn write(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.0.lock().wait(header(OUT, sector), Some(buf), None)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        self.0.lock().flush()
    }
    fn pieces(&self) -> usize {
        let device = self.0.lock();
        device.interrupt.map_or(0, |_| device.data_buffers)
    }
    fn has_room(&self, pieces: usize) -> bool {
        let device = self.0.lock();
        // The header and the status have a descriptor each.
        !device.frames.is_empty() && device.queue.free() >= pieces + 2
    }
    fn begin(&mut self, mut request: BlockRequest) -> Option<BlockDone> {
        if !self.0.lock().answers(&request) {
            let result = request.perform(self);
            return Some((request, result));
        }
        let refused = self.0.lock().ask(request).err()?;
        Some((refused, Err(BlockError)))
    }
    fn finish(&mut self, wait: bool) -> Option<BlockDone> {
        self.0.lock().finish(wait)
    }
    fn finish_soon(&mut self) -> Option<BlockDone> {
        self.0.lock().finish_soon()
    }
}

impl Drop for VirtioDisk {
    fn drop(&mut self) {
        while self.finish(true).is_some() {}
    }
}

/// A disk interrupts: a request is over.
fn interrupt() -> Concerns {
    for disk in &*DISKS.lock() {
        let mut disk = disk.lock();
        if disk.interrupt == Some(Interrupt::Message) || !disk.transport.ack_interrupt().is_empty()
        {
            ANSWERED.fetch_or(disk.vms, Ordering::Relaxed);
        }
    }
    Concerns::Devices
}

/// The VMs, a bit each from bit 0 on, whose requests have come to an end since this was last asked.
pub fn answered() -> u8 {
    ANSWERED.swap(0, Ordering::Relaxed)
}

/// The VMs, a bit each, that a disk with this serial number can be of: the one that it names (`choose` takes it for no other), or any.
fn owners(serial: &str) -> u8 {
    const ANY: u8 = u8::MAX;
    const _: () = assert!(MAX_VMS as u32 <= u8::BITS);
    let named = (1..=usize::from(MAX_VMS)).rev().find(|&vm| {
        let prefix = options::prefix(vm);
        serial
            .strip_prefix("umbra-")
            .is_some_and(|rest| rest.starts_with(prefix.as_str()))
    });
    named.map_or(ANY, |vm| 1 << (vm - 1))
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
        let Ok(mut device) = Device::new(found.transport, interrupt) else {
            log::warn!("virtio disk at {} cannot be used", found.function);
            continue;
        };
        // What is asked here is waited for.
        device.queue.set_interrupts(false);
        let serial = device.serial();
        device.vms = owners(&serial);
        log::info!(
            "disk {serial:?}: {} MiB{}",
            device.sectors / 2048,
            if device.features.contains(Features::RO) {
                ", read-only"
            } else {
                ""
            }
        );
        if interrupt.is_some() {
            device.queue.set_interrupts(true);
        }
        let device = Arc::new(Mutex::new(device));
        if interrupt.is_some() {
            DISKS.lock().push(device.clone());
        }
        disks.push((serial, Box::new(VirtioDisk(device))));
    }
    disks
}
