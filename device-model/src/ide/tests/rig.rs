//! A controller on a bench, with the accesses that drivers make.

use super::super::Ide;
use crate::ata::Drive;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use hv_core::Gpa;
use hv_core::backend::{BlockBackend, BlockDone, BlockError, BlockMemory, BlockOp, BlockRequest};
use hv_core::device::{AccessSize, Device};
use hv_core::irq::IrqLine;
use hv_core::mem::{GuestMemory, Piece};
pub(super) use hv_core::testing::SharedDisk;
use hv_core::testing::{Bench, RecordingIrqs, VecMemory};
use hv_core::time::VmTime;

/// Base of the bus-master block.
pub(super) const BM: u16 = 0xc000;

/// Task file of the primary channel.
pub(super) const P: u16 = 0x1f0;
/// Task file of the secondary channel.
pub(super) const S: u16 = 0x170;

/// Word `i` of IDENTIFY data.
pub(super) fn word(d: &[u8], i: usize) -> u16 {
    u16::from_le_bytes([d[i * 2], d[i * 2 + 1]])
}

/// The sector number that stands for a disk's write cache.
pub(super) const CACHE: u64 = 1 << 40;

/// A disk that answers when it is told to, with a sector that can be neither read nor written.
pub(super) struct SlowDisk {
    disk: SharedDisk,
    answers: Arc<AtomicBool>,
    bad: u64,
    asked: Option<BlockRequest>,
    /// The guest's memory, if it accesses that by itself.
    memory: Option<VecMemory>,
}

/// Most pieces of the guest's memory that it takes at once.
const PIECES: usize = 3;

impl SlowDisk {
    /// What `disk` has but sector `bad`, and the switch with which it is told to answer. With `memory` it moves data to and from there.
    pub(super) fn boxed(
        disk: &SharedDisk,
        bad: u64,
        memory: Option<&VecMemory>,
    ) -> (Box<dyn BlockBackend>, Arc<AtomicBool>) {
        let answers = Arc::new(AtomicBool::new(false));
        let slow = Self {
            disk: disk.clone(),
            answers: answers.clone(),
            bad,
            asked: None,
            memory: memory.cloned(),
        };
        (Box::new(slow), answers)
    }

    /// Does what is asked with pieces of the guest's memory.
    fn direct(&mut self, request: &BlockRequest, pieces: &[Piece]) -> Result<(), BlockError> {
        let memory = self.memory.clone().ok_or(BlockError)?;
        assert!((1..=PIECES).contains(&pieces.len()));
        let mut data = vec![0; request.memory.len()];
        if request.op == BlockOp::Read {
            self.read(request.sector, &mut data)?;
        }
        let mut rest = &mut data[..];
        for piece in pieces {
            let (part, more) = rest.split_at_mut(piece.len);
            match request.op {
                BlockOp::Read => memory.write(Gpa(piece.hpa.0), part).unwrap(),
                _ => memory.read(Gpa(piece.hpa.0), part).unwrap(),
            }
            rest = more;
        }
        match request.op {
            BlockOp::Write => self.write(request.sector, &data),
            _ => Ok(()),
        }
    }

    fn good(&self, sector: u64, len: usize) -> Result<(), BlockError> {
        assert!(self.asked.is_none(), "asked while it is at something");
        let sectors = sector..sector + len as u64 / 512;
        (!sectors.contains(&self.bad))
            .then_some(())
            .ok_or(BlockError)
    }
}

impl BlockBackend for SlowDisk {
    fn sectors(&self) -> u64 {
        self.disk.sectors()
    }
    fn read_only(&self) -> bool {
        false
    }
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.good(sector, buf.len())?;
        self.disk.read(sector, buf)
    }
    fn write(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.good(sector, buf.len())?;
        self.disk.write(sector, buf)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        self.good(CACHE, 512)?;
        self.disk.flush()
    }
    fn pieces(&self) -> usize {
        self.memory.as_ref().map_or(0, |_| PIECES)
    }
    fn begin(&mut self, request: BlockRequest) -> Option<BlockDone> {
        assert!(self.asked.is_none(), "asked twice");
        self.asked = Some(request);
        None
    }
    fn finish(&mut self, wait: bool) -> Option<BlockDone> {
        if !wait && !self.answers.load(Ordering::Relaxed) {
            return None;
        }
        let mut request = self.asked.take()?;
        let result = match &request.memory {
            BlockMemory::Guest(pieces) if request.op != BlockOp::Flush => {
                self.direct(&request, pieces)
            }
            _ => request.perform(self),
        };
        Some((request, result))
    }
}

pub(super) struct Rig {
    pub(super) ide: Ide,
    pub(super) bench: Bench,
    pub(super) irqs: Arc<RecordingIrqs>,
}

impl Rig {
    pub(super) fn new(drives: [Option<Drive>; 4]) -> Self {
        let irqs = RecordingIrqs::new();
        let line = |pin| IrqLine::new(irqs.clone(), pin);
        Self {
            ide: Ide::new(line(14), line(15), drives),
            bench: Bench::new(),
            irqs,
        }
    }

    /// A disk as primary master, a CD as secondary master.
    pub(super) fn pc(sectors: usize, blocks: usize) -> (Self, SharedDisk, SharedDisk) {
        let (disk, cd) = (SharedDisk::new(sectors), SharedDisk::new(blocks * 4));
        let rig = Self::new([
            Some(Drive::disk(disk.boxed())),
            None,
            Some(Drive::cdrom(Some(cd.boxed()))),
            None,
        ]);
        (rig, disk, cd)
    }

    pub(super) fn inb(&mut self, port: u16) -> u8 {
        self.ide
            .port_read(&mut self.bench.cx(), port, AccessSize::Byte) as u8
    }
    pub(super) fn outb(&mut self, port: u16, value: u8) {
        self.ide
            .port_write(&mut self.bench.cx(), port, AccessSize::Byte, value.into());
    }
    pub(super) fn outl(&mut self, port: u16, value: u32) {
        self.ide
            .port_write(&mut self.bench.cx(), port, AccessSize::Dword, value);
    }
    pub(super) fn insw(&mut self, port: u16, bytes: usize) -> Vec<u8> {
        let mut v = vec![0; bytes];
        self.ide
            .port_read_block(&mut self.bench.cx(), port, AccessSize::Word, &mut v);
        v
    }
    pub(super) fn outsw(&mut self, port: u16, data: &[u8]) {
        self.ide
            .port_write_block(&mut self.bench.cx(), port, AccessSize::Word, data);
    }

    /// Time passes, with polls as the machine makes them.
    pub(super) fn wait(&mut self, us: u64) {
        let end = self.bench.now + VmTime::from_micros(us);
        while let Some(at) = self.ide.poll(&mut self.bench.cx()).filter(|&t| t <= end) {
            self.bench.now = self.bench.now.max(at);
        }
        self.bench.now = end;
        self.ide.poll(&mut self.bench.cx());
    }

    /// Polls the status until the drive is not busy.
    pub(super) fn not_busy(&mut self, base: u16) -> u8 {
        for _ in 0..10_000 {
            let s = self.inb(base + 7);
            if s & 0x80 == 0 {
                return s;
            }
        }
        panic!("busy for ever");
    }

    /// Waits for the interrupt and acknowledges it as a handler does; returns the status.
    pub(super) fn interrupt(&mut self, base: u16) -> u8 {
        let pin = if base == 0x1f0 { 14 } else { 15 };
        self.wait(1_000);
        assert!(self.irqs.level(pin), "no interrupt");
        let s = self.inb(base + 7);
        assert!(!self.irqs.level(pin), "interrupt not acknowledged");
        s
    }

    /// Selects and writes the task file, LBA28.
    pub(super) fn command28(&mut self, base: u16, command: u8, lba: u32, count: u8) {
        let [a, b, c, d] = lba.to_le_bytes();
        self.outb(base + 6, 0xe0 | d);
        for (reg, v) in [(2, count), (3, a), (4, b), (5, c), (7, command)] {
            self.outb(base + reg, v);
        }
    }

    /// Selects and writes the task file twice, LBA48.
    pub(super) fn command48(&mut self, base: u16, command: u8, lba: u64, count: u16) {
        let (v, [count_low, count_high]) = (lba.to_le_bytes(), count.to_le_bytes());
        self.outb(base + 6, 0xe0);
        for (reg, v) in [(2, count_high), (3, v[3]), (4, v[4]), (5, v[5])] {
            self.outb(base + reg, v);
        }
        for (reg, v) in [
            (2, count_low),
            (3, v[0]),
            (4, v[1]),
            (5, v[2]),
            (7, command),
        ] {
            self.outb(base + reg, v);
        }
    }

    /// Sends a packet to the selected drive.
    pub(super) fn packet(&mut self, base: u16, features: u8, limit: u16, cdb: &[u8]) {
        let [low, high] = limit.to_le_bytes();
        for (reg, v) in [(1, features), (4, low), (5, high), (7, 0xa0)] {
            self.outb(base + reg, v);
        }
        let s = self.not_busy(base);
        assert_eq!(
            (s, self.inb(base + 2) & 3),
            (0x58, 1),
            "drive does not ask for the packet"
        );
        let mut packet = [0; 12];
        packet[..cdb.len()].copy_from_slice(cdb);
        self.outsw(base, &packet);
    }

    /// Takes the power-on unit attention off the CD.
    pub(super) fn quiet_cd(&mut self, base: u16) {
        self.outb(base + 6, 0xa0);
        self.packet(base, 0, 0, &[3, 0, 0, 0, 0]);
        self.interrupt(base);
    }

    pub(super) fn poke(&mut self, at: u64, bytes: &[u8]) {
        self.bench.mem.write(Gpa(at), bytes).unwrap();
    }
    pub(super) fn peek(&self, at: u64, len: usize) -> Vec<u8> {
        let mut v = vec![0; len];
        self.bench.mem.read(Gpa(at), &mut v).unwrap();
        v
    }

    /// Writes a descriptor table of `(address, length)` at 1000h and points `channel` to it.
    pub(super) fn table(&mut self, channel: u16, regions: &[(u32, u32)]) {
        let mut t = Vec::new();
        for (i, &(at, len)) in regions.iter().enumerate() {
            let last = if i + 1 == regions.len() { 1 << 31 } else { 0 };
            t.extend_from_slice(&at.to_le_bytes());
            t.extend_from_slice(&((len & 0xffff) | last).to_le_bytes());
        }
        self.poke(0x1000, &t);
        self.outl(BM + channel * 8 + 4, 0x1000);
    }
}
