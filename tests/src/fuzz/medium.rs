//! A medium that takes its time, in which sectors are bad, and which moves data from or to the guest's memory by itself.

use hv_core::backend::{BlockBackend, BlockDone, BlockError, BlockMemory, BlockOp, BlockRequest};
use hv_core::mem::GuestMemory;
use hv_core::testing::{RamDisk, VecMemory};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// One sector in so many is bad.
const BAD: u64 = 37;

/// The medium. Requests are answered after as many questions as the other end says.
pub struct SlowDisk {
    disk: RamDisk,
    memory: VecMemory,
    patience: Arc<AtomicU8>,
    under_way: Option<(BlockRequest, u8)>,
}

impl SlowDisk {
    /// A medium of `sectors`, and how often it is to be asked before it answers: with 0 it answers at once.
    #[must_use]
    pub fn new(sectors: usize, memory: &VecMemory) -> (Box<Self>, Arc<AtomicU8>) {
        let patience = Arc::new(AtomicU8::new(2));
        let disk = Self {
            disk: RamDisk {
                data: vec![0x5a; sectors * 512],
                read_only: false,
                fail: false,
            },
            memory: memory.clone(),
            patience: patience.clone(),
            under_way: None,
        };
        (Box::new(disk), patience)
    }

    fn is_bad(sector: u64, len: usize) -> bool {
        (sector..sector + len as u64 / 512).any(|sector| sector % BAD == BAD - 1)
    }

    fn perform(&mut self, request: &mut BlockRequest) -> Result<(), BlockError> {
        assert!(
            request.op == BlockOp::Flush || !request.memory.is_empty(),
            "a transfer has memory"
        );
        assert_eq!(request.memory.len() % 512, 0, "sectors are whole");
        let end = request.sector + request.memory.len() as u64 / 512;
        assert!(end <= self.sectors(), "it ends in the medium");
        if request.op != BlockOp::Flush && Self::is_bad(request.sector, request.memory.len()) {
            return Err(BlockError);
        }
        let BlockMemory::Guest(pieces) = &request.memory else {
            return request.perform(&mut self.disk);
        };
        assert!(pieces.len() <= self.pieces());
        let mut at = request.sector as usize * 512;
        for piece in pieces {
            let data = &mut self.disk.data[at..at + piece.len];
            at += piece.len;
            let moved = match request.op {
                BlockOp::Read => self.memory.write(piece.gpa, data),
                _ => self.memory.read(piece.gpa, data),
            };
            moved.expect("pieces lie in the guest's RAM");
        }
        Ok(())
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
        assert!(self.under_way.is_none(), "one request at a time");
        if Self::is_bad(sector, buf.len()) {
            return Err(BlockError);
        }
        self.disk.read(sector, buf)
    }
    fn write(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError> {
        assert!(self.under_way.is_none(), "one request at a time");
        if Self::is_bad(sector, buf.len()) {
            return Err(BlockError);
        }
        self.disk.write(sector, buf)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        assert!(self.under_way.is_none(), "one request at a time");
        Ok(())
    }
    fn pieces(&self) -> usize {
        8
    }
    fn begin(&mut self, mut request: BlockRequest) -> Option<BlockDone> {
        assert!(self.under_way.is_none(), "one request at a time");
        match self.patience.load(Ordering::Relaxed) {
            0 => {
                let result = self.perform(&mut request);
                Some((request, result))
            }
            patience => {
                self.under_way = Some((request, patience));
                None
            }
        }
    }
    fn finish(&mut self, wait: bool) -> Option<BlockDone> {
        let (mut request, patience) = self.under_way.take()?;
        if patience > 1 && !wait {
            self.under_way = Some((request, patience - 1));
            return None;
        }
        let result = self.perform(&mut request);
        Some((request, result))
    }
}
