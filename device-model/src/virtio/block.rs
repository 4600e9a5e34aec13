//! Virtio block devices (VIRTIO 1.2 5.2, "Block Device") on a [`BlockBackend`].
//!
//! Requests are given to the medium as they come, many at a time, with the guest's own memory where the medium takes that; they are over in
//! any order. Where it does not, or a buffer is no RAM that it may be given, one buffer of the hypervisor's stands between: requests then
//! go through it one after the other. A flush covers what was over before it was begun, as the medium's does. If the driver does not flush by
//! itself, each write is over when it is on stable storage (5.2.6.2, "Device Requirements: Device Operation", on writeback and writethrough).
//!
//! A driver that has one request at a time waits for it: it goes idle, sets its timer anew, is interrupted, and sets its timer again. A medium
//! that is fast enough is waited for in the driver's place, within its notification; `Patience` says when.
//!
//! Not there: discard, writing zeroes, lifetime, secure erase, zones.
//!
//! Invariant: requests that the medium has are `SLOTS` at most, and each knows its slot by its tag.

use super::queue::chain::{self, Buffer};
use super::queue::{Chain, Fault};
use super::{CONFIG, DeviceType, Kind, Queues};
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use hv_core::backend::{BlockBackend, BlockDone, BlockMemory, BlockOp, BlockRequest};
use hv_core::device::DevCx;
use hv_core::mem::{GuestMemory, Piece};
use hv_core::time::VmTime;

bitflags::bitflags! {
    /// Features of block devices (5.2.3).
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Features: u64 {
        const SEG_MAX = 1 << 2;
        const RO = 1 << 5;
        const BLK_SIZE = 1 << 6;
        const FLUSH = 1 << 9;
        const CONFIG_WCE = 1 << 11;
        const MQ = 1 << 12;
    }
}

// Offsets in the configuration (5.2.4, "Device configuration layout").
const CAPACITY: usize = 0;
const SEG_MAX: usize = 12;
const BLK_SIZE: usize = 20;
const WRITEBACK: usize = 32;
const NUM_QUEUES: usize = 34;

/// Types of requests (5.2.6, "Device Operation").
const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
/// How a request ended.
const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

/// Bytes of a request's header: type, reserved, sector.
const HEADER: usize = 16;
const SECTOR: usize = 512;
/// Bytes of a disk's name.
pub const NAME: usize = 20;

/// Requests that the device has at most.
const SLOTS: usize = u64::BITS as usize;
/// Most buffers of data of a request: the header and the status have a descriptor each.
const MOST_BUFFERS: usize = super::queue::LONGEST - 2;
/// Most bytes moved at once between a medium and the guest's memory.
const DIRECT: usize = 2 << 20;
/// The buffer for what cannot be moved so.
const BUFFER: usize = 128 << 10;
/// Bytes that are moved during one call, at most, by a medium that does not let the guest run meanwhile.
const BUDGET: usize = 1 << 20;
/// What a request costs of that, besides its data.
const REQUEST: usize = 1 << 10;
/// The most memory that a device takes: its slots with the longest chains and as many pieces, and its buffer.
pub const MEMORY: usize =
    SLOTS * MOST_BUFFERS * 2 * (size_of::<Buffer>() + size_of::<Piece>()) + BUFFER;

/// What is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asked {
    Transfer(BlockOp),
    Name,
    /// It ends so.
    Nothing(u8),
}

/// A request of the guest.
struct Slot {
    chain: Chain,
    /// For the medium.
    pieces: Vec<Piece>,
    queue: usize,
    asked: Asked,
    sector: u64,
    /// Where its data begin in the buffers that are read or written, how long they are, and how far they have been moved.
    start: usize,
    len: usize,
    done: usize,
    /// The medium failed.
    failed: bool,
    /// Its data go through the buffer.
    buffered: bool,
    /// A flush is over, or needs not be.
    flushed: bool,
}

impl Slot {
    fn new() -> Self {
        Self {
            chain: Chain::default(),
            pieces: Vec::new(),
            queue: 0,
            asked: Asked::Nothing(IOERR),
            sector: 0,
            start: 0,
            len: 0,
            done: 0,
            failed: false,
            buffered: false,
            flushed: true,
        }
    }

    /// The buffers with its data.
    fn data(&self) -> &[Buffer] {
        match self.asked {
            Asked::Transfer(BlockOp::Write) => self.chain.readable(),
            _ => self.chain.writable(),
        }
    }
}

/// What comes next of a request.
enum Next {
    /// The medium is asked.
    Ask(BlockRequest),
    /// There is no room for it now.
    Wait,
    /// It is over.
    End(u8),
}

/// Whether a request that is alone is waited for. If that was in vain, a number of requests are not, twice as many each time.
#[derive(Clone, Copy, Debug, Default)]
struct Patience {
    /// How often it was in vain since it last was not.
    vain: u8,
    /// Requests that are not waited for.
    skip: u16,
}

impl Patience {
    /// Requests that are not waited for at most, as a power of two: the medium that has become faster is noticed then.
    const MOST: u8 = 10;

    fn waits(&mut self) -> bool {
        let waits = self.skip == 0;
        self.skip = self.skip.saturating_sub(1);
        waits
    }

    fn waited(&mut self, in_vain: bool) {
        self.vain = match in_vain {
            true => (self.vain + 1).min(Self::MOST),
            false => 0,
        };
        self.skip = (1 << self.vain) - 1;
    }
}

/// A block device.
pub struct Block {
    medium: Box<dyn BlockBackend>,
    name: [u8; NAME],
    queues: u16,
    agreed: Features,
    /// The driver flushes by itself.
    writeback: bool,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// The requests that there was no room for, a bit a slot. None is taken before they are begun.
    waiting: u64,
    buffer: Option<Box<[u8]>>,
    /// Requests that the medium has.
    begun: usize,
    /// Bytes that may still be moved during this call.
    budget: usize,
    patience: Patience,
}

impl Block {
    /// A disk with `medium`, which has this name and `queues` queues, of 1 to 32.
    #[must_use]
    pub fn new(medium: Box<dyn BlockBackend>, name: &str, queues: u16) -> Self {
        let mut bytes = [0; NAME];
        bytes.iter_mut().zip(name.bytes()).for_each(|(b, c)| *b = c);
        Self {
            medium,
            name: bytes,
            queues: queues.clamp(1, 32),
            agreed: Features::empty(),
            writeback: true,
            slots: core::iter::repeat_with(Slot::new).take(SLOTS).collect(),
            free: (0..SLOTS).collect(),
            waiting: 0,
            buffer: Some(vec![0; BUFFER].into_boxed_slice()),
            begun: 0,
            budget: 0,
            patience: Patience::default(),
        }
    }

    /// Most buffers of data of a request.
    fn seg_max(&self) -> usize {
        match self.medium.pieces() {
            0 => MOST_BUFFERS,
            pieces => pieces.min(MOST_BUFFERS),
        }
    }

    /// Whether a write has to be on stable storage when it is over.
    fn writes_through(&self) -> bool {
        !(self.writeback && self.agreed.contains(Features::FLUSH))
    }

    /// Reads a request's header, and finds out what its parts are.
    fn open(&mut self, memory: &dyn GuestMemory, slot: usize) -> Result<(), Fault> {
        let read_only = self.medium.read_only();
        let sectors = self.medium.sectors();
        let through = self.writes_through();
        let Some(s) = self.slots.get_mut(slot) else {
            return Err(Fault::Request);
        };
        let mut header = [0; HEADER];
        if chain::read(memory, s.chain.readable(), 0, &mut header)? != HEADER {
            return Err(Fault::Request);
        }
        let header = u128::from_le_bytes(header);
        let (kind, sector) = (header as u32, (header >> 64) as u64);
        let outgoing = chain::len(s.chain.readable()) - HEADER;
        // The last byte that the device writes is the status.
        let incoming = chain::len(s.chain.writable())
            .checked_sub(1)
            .ok_or(Fault::Request)?;
        let (op, start, len) = match kind {
            IN => (BlockOp::Read, 0, incoming),
            OUT => (BlockOp::Write, HEADER, outgoing),
            _ => (BlockOp::Flush, 0, 0),
        };
        let end = sector.checked_add((len / SECTOR) as u64);
        let inside = len.is_multiple_of(SECTOR) && end.is_some_and(|end| end <= sectors);
        s.asked = match kind {
            IN | OUT if !inside || op == BlockOp::Write && read_only => Asked::Nothing(IOERR),
            IN | OUT if len == 0 => Asked::Nothing(OK),
            IN | OUT | FLUSH => Asked::Transfer(op),
            GET_ID => Asked::Name,
            _ => Asked::Nothing(UNSUPP),
        };
        (s.sector, s.start, s.len, s.done) = (sector, start, len, 0);
        (s.failed, s.buffered) = (false, false);
        s.flushed = kind != FLUSH && !(kind == OUT && through);
        Ok(())
    }

    /// What comes next of the request in `slot`.
    fn next(&mut self, memory: &dyn GuestMemory, slot: usize) -> Result<Next, Fault> {
        let most = self.medium.pieces();
        let Some(s) = self.slots.get_mut(slot) else {
            return Ok(Next::End(IOERR));
        };
        let op = match s.asked {
            Asked::Nothing(status) => return Ok(Next::End(status)),
            Asked::Name => {
                let room = chain::len(s.chain.writable()) - 1;
                let name = self.name.get(..room.min(NAME)).unwrap_or_default();
                chain::write(memory, s.chain.writable(), 0, name)?;
                return Ok(Next::End(OK));
            }
            Asked::Transfer(op) => op,
        };
        if s.failed {
            return Ok(Next::End(IOERR));
        }
        let tag = slot as u16;
        if s.done == s.len {
            if s.flushed {
                return Ok(Next::End(OK));
            }
            if !self.medium.has_room(0) {
                return Ok(Next::Wait);
            }
            return Ok(Next::Ask(BlockRequest {
                op: BlockOp::Flush,
                sector: 0,
                memory: BlockMemory::none(),
                tag,
            }));
        }
        if self.budget == 0 {
            return Ok(Next::Wait);
        }
        let sector = s.sector + (s.done / SECTOR) as u64;
        let at = s.start + s.done;
        if most != 0 && !s.buffered {
            let mut pieces = core::mem::take(&mut s.pieces);
            let want = (s.len - s.done).min(DIRECT);
            let len = gather(
                memory,
                s.data(),
                (at, want),
                op == BlockOp::Read,
                most,
                &mut pieces,
            );
            if len != 0 && self.medium.has_room(pieces.len()) {
                let memory = BlockMemory::Guest(pieces);
                return Ok(Next::Ask(BlockRequest {
                    op,
                    sector,
                    memory,
                    tag,
                }));
            }
            s.pieces = pieces;
            if len != 0 {
                return Ok(Next::Wait);
            }
            s.buffered = true;
        }
        if !self.medium.has_room(1) {
            return Ok(Next::Wait);
        }
        let Some(mut buffer) = self.buffer.take() else {
            return Ok(Next::Wait);
        };
        let part = 0..(s.len - s.done).min(BUFFER);
        if op == BlockOp::Write {
            let to = buffer.get_mut(part.clone()).unwrap_or_default();
            if let Err(fault) = chain::read(memory, s.data(), at, to) {
                self.buffer = Some(buffer);
                return Err(fault);
            }
        }
        Ok(Next::Ask(BlockRequest {
            op,
            sector,
            memory: BlockMemory::Buffer { buffer, part },
            tag,
        }))
    }

    /// The medium has answered. Returns the slot of the request.
    fn answered(&mut self, memory: &dyn GuestMemory, done: BlockDone) -> Result<usize, Fault> {
        let (request, result) = done;
        let len = request.memory.len();
        let slot = usize::from(request.tag);
        let s = self.slots.get_mut(slot).ok_or(Fault::Request)?;
        s.failed = result.is_err();
        if request.op == BlockOp::Flush {
            s.flushed = true;
            return Ok(slot);
        }
        let at = s.start + s.done;
        match request.memory {
            BlockMemory::Guest(pieces) => {
                if request.op == BlockOp::Read {
                    pieces.iter().for_each(|p| memory.written(p.gpa, p.len));
                }
                s.pieces = pieces;
            }
            BlockMemory::Buffer { buffer, part } => {
                let mut copied = Ok(0);
                if request.op == BlockOp::Read && result.is_ok() {
                    let from = buffer.get(part).unwrap_or_default();
                    copied = chain::write(memory, s.data(), at, from);
                }
                self.buffer = Some(buffer);
                self.budget = self.budget.saturating_sub(len);
                copied?;
            }
        }
        if let Some(s) = self.slots.get_mut(slot) {
            s.done += len;
        }
        Ok(slot)
    }

    /// Goes on with the request in `slot` as far as that goes.
    fn advance(
        &mut self,
        memory: &dyn GuestMemory,
        queues: &mut Queues,
        slot: usize,
    ) -> Result<(), Fault> {
        loop {
            match self.next(memory, slot)? {
                Next::Ask(request) => match self.medium.begin(request) {
                    Some(done) => {
                        self.answered(memory, done)?;
                    }
                    None => {
                        self.begun += 1;
                        return Ok(());
                    }
                },
                Next::Wait => {
                    self.waiting |= 1 << slot;
                    return Ok(());
                }
                Next::End(status) => return self.end(memory, queues, slot, status),
            }
        }
    }

    /// The request in `slot` is over.
    fn end(
        &mut self,
        memory: &dyn GuestMemory,
        queues: &mut Queues,
        slot: usize,
        status: u8,
    ) -> Result<(), Fault> {
        let Some(s) = self.slots.get(slot) else {
            return Ok(());
        };
        self.free.push(slot);
        let written = chain::len(s.chain.writable());
        chain::write(memory, s.chain.writable(), written - 1, &[status])?;
        match queues.get_mut(s.queue) {
            Some(Some(queue)) => queue.push(memory, &s.chain, written as u32),
            _ => Ok(()),
        }
    }

    /// Takes what the medium has finished.
    fn collect(&mut self, memory: &dyn GuestMemory, queues: &mut Queues) -> Result<(), Fault> {
        while self.begun != 0
            && let Some(done) = self.medium.finish(false)
        {
            self.begun -= 1;
            let slot = self.answered(memory, done)?;
            self.advance(memory, queues, slot)?;
        }
        Ok(())
    }

    /// Waits a while for the only request, if that is likely to be enough.
    fn wait(&mut self, memory: &dyn GuestMemory, queues: &mut Queues) -> Result<(), Fault> {
        while self.begun == 1 && self.patience.waits() {
            let done = self.medium.finish_soon();
            self.patience.waited(done.is_none());
            let Some(done) = done else { break };
            self.begun -= 1;
            let slot = self.answered(memory, done)?;
            // A further part of it may follow.
            self.advance(memory, queues, slot)?;
        }
        Ok(())
    }

    /// Begins what is in the queue of this number, as long as there is room.
    fn take(
        &mut self,
        memory: &dyn GuestMemory,
        queues: &mut Queues,
        index: usize,
    ) -> Result<(), Fault> {
        while self.waiting == 0
            && self.budget != 0
            && let Some(slot) = self.free.pop()
        {
            let (Some(Some(queue)), Some(s)) = (queues.get_mut(index), self.slots.get_mut(slot))
            else {
                self.free.push(slot);
                return Ok(());
            };
            s.queue = index;
            if !queue.pop(memory, &mut s.chain)? && !queue.ask_for_kicks(memory, true)? {
                self.free.push(slot);
                return Ok(());
            }
            if s.chain.is_empty() {
                // Some came while the driver was asked to tell of them.
                self.free.push(slot);
                continue;
            }
            self.budget = self.budget.saturating_sub(REQUEST);
            self.open(memory, slot)?;
            self.advance(memory, queues, slot)?;
        }
        // What follows is looked at when something is over, without being told.
        if let Some(Some(queue)) = queues.get_mut(index) {
            queue.ask_for_kicks(memory, false)?;
        }
        Ok(())
    }
}

/// Makes pieces of the `len` bytes at `at` of `buffers`: whole sectors, and no more pieces than `most`. Returns how many bytes there are in
/// them.
fn gather(
    memory: &dyn GuestMemory,
    buffers: &[Buffer],
    (at, len): (usize, usize),
    write: bool,
    most: usize,
    pieces: &mut Vec<Piece>,
) -> usize {
    pieces.clear();
    let mut total = 0;
    'all: for buffer in chain::part(buffers, at, len) {
        let (mut gpa, mut left) = (buffer.address, buffer.len as usize);
        while left != 0 {
            let Some(piece) = memory.piece(gpa, left, write) else {
                break 'all;
            };
            let follows = |last: &Piece| {
                let end = last.len as u64;
                last.hpa.add(end) == piece.hpa && last.gpa.add(end) == piece.gpa
            };
            let full = pieces.len() == most || pieces.try_reserve(1).is_err();
            match pieces.last_mut().filter(|last| follows(last)) {
                Some(last) => last.len += piece.len,
                None if full => break 'all,
                None => pieces.push(piece),
            }
            total += piece.len;
            gpa = gpa.add(piece.len as u64);
            left -= piece.len;
        }
    }
    let mut surplus = total % SECTOR;
    total -= surplus;
    while surplus != 0
        && let Some(last) = pieces.last_mut()
    {
        let cut = surplus.min(last.len);
        last.len -= cut;
        surplus -= cut;
        if last.len == 0 {
            pieces.pop();
        }
    }
    total
}

impl DeviceType for Block {
    fn kind(&self) -> Kind {
        Kind {
            name: "virtio-blk",
            id: 2,
            pci_device: 0x1001,
            // Mass storage, SCSI: what QEMU's has.
            class: 0x01_0000,
        }
    }

    fn features(&self) -> u64 {
        let mut all = Features::SEG_MAX | Features::BLK_SIZE | Features::FLUSH;
        all |= Features::CONFIG_WCE | Features::MQ;
        all.set(Features::RO, self.medium.read_only());
        all.bits()
    }

    fn queues(&self) -> usize {
        self.queues.into()
    }

    fn config(&self) -> [u8; CONFIG] {
        let mut config = [0; CONFIG];
        let mut put = |offset: usize, value: &[u8]| {
            let bytes = config.iter_mut().skip(offset);
            bytes.zip(value).for_each(|(b, v)| *b = *v);
        };
        put(CAPACITY, &self.medium.sectors().to_le_bytes());
        put(SEG_MAX, &(self.seg_max() as u32).to_le_bytes());
        put(BLK_SIZE, &(SECTOR as u32).to_le_bytes());
        put(WRITEBACK, &[self.writeback.into()]);
        put(NUM_QUEUES, &self.queues.to_le_bytes());
        config
    }

    fn write_config(&mut self, offset: usize, value: u8) {
        if offset == WRITEBACK && self.agreed.contains(Features::CONFIG_WCE) {
            self.writeback = value & 1 != 0;
        }
    }

    fn agree(&mut self, features: u64) {
        self.agreed = Features::from_bits_truncate(features);
    }

    fn run(&mut self, cx: &mut DevCx<'_>, queues: &mut Queues) -> Result<Option<VmTime>, Fault> {
        self.budget = BUDGET;
        let begun = self.begun;
        self.collect(cx.dma, queues)?;
        let mut waiting = core::mem::take(&mut self.waiting);
        while waiting != 0 {
            let slot = waiting.trailing_zeros() as usize;
            waiting &= waiting - 1;
            self.advance(cx.dma, queues, slot)?;
        }
        for index in 0..queues.len() {
            self.take(cx.dma, queues, index)?;
        }
        if begun == 0 && self.budget != 0 {
            self.wait(cx.dma, queues)?;
        }
        // Nobody tells that the budget is there again.
        Ok((self.budget == 0).then_some(cx.now))
    }

    fn reset(&mut self, memory: &dyn GuestMemory) {
        while self.begun != 0
            && let Some(done) = self.medium.finish(true)
        {
            self.begun -= 1;
            // The driver asks for nothing any more; the memory has been written all the same.
            let _ = self.answered(memory, done);
        }
        (self.waiting, self.agreed, self.writeback) = (0, Features::empty(), true);
        self.free.clear();
        self.free.extend(0..SLOTS);
    }
}

#[cfg(test)]
mod tests;
