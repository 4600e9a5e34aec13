//! A disk that has many requests at a time, and answers when, how and in the order that it is told.

use crate::Gpa;
use crate::backend::{BlockBackend, BlockDone, BlockError, BlockMemory, BlockOp, BlockRequest};
use crate::mem::GuestMemory;
use crate::testing::VecMemory;
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use std::sync::Mutex;

struct State {
    data: Vec<u8>,
    /// What is on stable storage.
    stable: Vec<u8>,
    /// A sector that can be neither read nor written.
    bad: Option<u64>,
    flush_fails: bool,
    read_only: bool,
    /// It is fast: a request that is waited for a while is over then; and how often it was waited for.
    fast: bool,
    looks: usize,
    asked: Vec<BlockRequest>,
    over: Vec<BlockDone>,
    /// Where it accesses the guest's memory by itself, and how many pieces a request may have.
    direct: Option<(VecMemory, usize)>,
    /// Requests at a time, and pieces of the guest's memory in all of them.
    depth: usize,
    room: usize,
}

/// The disk, and what tells it. Clones are the same disk.
#[derive(Clone)]
pub struct ManyDisk(Arc<Mutex<State>>);

impl ManyDisk {
    /// A disk with `data` that takes `depth` requests at a time; with `direct`, it moves the guest's memory itself, so many pieces a request.
    #[must_use]
    pub fn new(data: Vec<u8>, depth: usize, direct: Option<(&VecMemory, usize)>) -> Self {
        Self(Arc::new(Mutex::new(State {
            stable: data.clone(),
            data,
            bad: None,
            flush_fails: false,
            read_only: false,
            fast: false,
            looks: 0,
            asked: Vec::new(),
            over: Vec::new(),
            direct: direct.map(|(memory, pieces)| (memory.clone(), pieces)),
            depth,
            room: usize::MAX,
        })))
    }

    fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.0.lock().unwrap())
    }

    /// Sectors `first` to `first + count` as they are.
    #[must_use]
    pub fn sectors_at(&self, first: usize, count: usize) -> Vec<u8> {
        self.with(|s| s.data[first * 512..(first + count) * 512].to_vec())
    }

    /// Whether all that was written is on stable storage.
    #[must_use]
    pub fn is_stable(&self) -> bool {
        self.with(|s| s.data == s.stable)
    }

    /// Makes one sector bad, or (None) all good.
    pub fn set_bad(&self, sector: Option<u64>) {
        self.with(|s| s.bad = sector);
    }

    /// Lets flushes fail.
    pub fn set_flush_fails(&self, fails: bool) {
        self.with(|s| s.flush_fails = fails);
    }

    /// Refuses writes.
    pub fn set_read_only(&self, read_only: bool) {
        self.with(|s| s.read_only = read_only);
    }

    /// Makes it so fast, or not, that who waits a while for a request has it.
    pub fn set_fast(&self, fast: bool) {
        self.with(|s| s.fast = fast);
    }

    /// How often a request was waited for a while.
    #[must_use]
    pub fn looks(&self) -> usize {
        self.with(|s| s.looks)
    }

    /// Limits the pieces of the guest's memory that it has at a time.
    pub fn set_room(&self, pieces: usize) {
        self.with(|s| s.room = pieces);
    }

    /// How many requests it is at.
    #[must_use]
    pub fn asked(&self) -> usize {
        self.with(|s| s.asked.len())
    }

    /// Carries out one of the requests that it is at: the `n`th, counted round.
    pub fn answer(&self, n: usize) {
        self.with(|s| {
            if !s.asked.is_empty() {
                let at = n % s.asked.len();
                s.carry_out(at);
            }
        });
    }
}

impl State {
    fn bytes(&mut self, sector: u64, len: usize) -> Result<&mut [u8], BlockError> {
        let sectors = sector..sector + len as u64 / 512;
        if self.bad.is_some_and(|bad| sectors.contains(&bad)) {
            return Err(BlockError);
        }
        let start = sector as usize * 512;
        self.data.get_mut(start..start + len).ok_or(BlockError)
    }

    fn perform(&mut self, request: &mut BlockRequest) -> Result<(), BlockError> {
        assert!(request.memory.len().is_multiple_of(512), "whole sectors");
        let (sector, len) = (request.sector, request.memory.len());
        match (request.op, &mut request.memory) {
            (BlockOp::Flush, _) if self.flush_fails => return Err(BlockError),
            (BlockOp::Flush, _) => self.stable = self.data.clone(),
            (BlockOp::Read, BlockMemory::Buffer { buffer, part }) => {
                buffer[part.clone()].copy_from_slice(self.bytes(sector, len)?);
            }
            (BlockOp::Write, BlockMemory::Buffer { buffer, part }) => {
                self.bytes(sector, len)?
                    .copy_from_slice(&buffer[part.clone()]);
            }
            (op, BlockMemory::Guest(pieces)) => {
                let (memory, most) = self.direct.clone().expect("memory that was offered");
                assert!((1..=most).contains(&pieces.len()));
                let mut at = 0;
                let mut data = match op {
                    BlockOp::Read => self.bytes(sector, len)?.to_vec(),
                    _ => vec![0; len],
                };
                for piece in pieces {
                    let part = &mut data[at..at + piece.len];
                    match op {
                        BlockOp::Read => memory.write(Gpa(piece.hpa.0), part).unwrap(),
                        _ => memory.read(Gpa(piece.hpa.0), part).unwrap(),
                    }
                    at += piece.len;
                }
                if op == BlockOp::Write {
                    self.bytes(sector, len)?.copy_from_slice(&data);
                }
            }
        }
        Ok(())
    }

    fn carry_out(&mut self, at: usize) {
        let mut request = self.asked.remove(at);
        let result = self.perform(&mut request);
        self.over.push((request, result));
    }
}

fn pieces_of(memory: &BlockMemory) -> usize {
    match memory {
        BlockMemory::Guest(pieces) => pieces.len(),
        BlockMemory::Buffer { .. } => 1,
    }
}

impl BlockBackend for ManyDisk {
    fn sectors(&self) -> u64 {
        self.with(|s| s.data.len() as u64 / 512)
    }
    fn read_only(&self) -> bool {
        self.with(|s| s.read_only)
    }
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        assert_eq!(self.asked(), 0, "read while it is at something");
        self.with(|s| {
            s.bytes(sector, buf.len())
                .map(|from| buf.copy_from_slice(from))
        })
    }
    fn write(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError> {
        assert_eq!(self.asked(), 0, "written while it is at something");
        self.with(|s| s.bytes(sector, buf.len()).map(|to| to.copy_from_slice(buf)))
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        self.with(|s| s.stable = s.data.clone());
        Ok(())
    }
    fn pieces(&self) -> usize {
        self.with(|s| s.direct.as_ref().map_or(0, |d| d.1))
    }
    fn has_room(&self, pieces: usize) -> bool {
        self.with(|s| {
            let all = || {
                s.asked
                    .iter()
                    .chain(s.over.iter().map(|(request, _)| request))
            };
            let taken: usize = all().map(|request| pieces_of(&request.memory)).sum();
            all().count() < s.depth && taken.saturating_add(pieces) <= s.room
        })
    }
    fn begin(&mut self, request: BlockRequest) -> Option<BlockDone> {
        assert!(self.has_room(pieces_of(&request.memory)), "asked too much");
        self.with(|s| s.asked.push(request));
        None
    }
    fn finish(&mut self, wait: bool) -> Option<BlockDone> {
        self.with(|s| {
            if s.over.is_empty() && wait && !s.asked.is_empty() {
                s.carry_out(0);
            }
            (!s.over.is_empty()).then(|| s.over.remove(0))
        })
    }
    fn finish_soon(&mut self) -> Option<BlockDone> {
        let fast = self.with(|s| {
            s.looks += 1;
            s.fast
        });
        self.finish(fast)
    }
}
