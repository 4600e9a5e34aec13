//! Where each 2 MiB of a guest's RAM is on the host, for guests whose RAM comes and goes.
//!
//! A chunk is with the guest or away. While a device of the host has a request for its memory under way, it is *pinned*, and stays.
//!
//! Whoever takes a chunk away is alone with the guest's memory: none of its CPUs runs, and no code of Umbra's is within an access. The entries are
//! atomic so that everybody can read them, not to order anything.

use crate::MIB;
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use hv_core::backend::{BlockBackend, BlockDone, BlockError, BlockMemory, BlockRequest};

/// Bytes of a chunk.
pub const CHUNK: u64 = 2 * MIB;

/// An access of so many bytes is in one piece wherever its memory is contiguous, across chunks too.
const SHORT: u64 = 64;

/// Not a chunk: what is there does not come and go.
const OTHER: u64 = 1;
/// Away.
const AWAY: u64 = 0;

struct Entry {
    /// Where it is on the host, [`OTHER`] or [`AWAY`].
    hpa: AtomicU64,
    /// How many pieces of requests lie in it.
    pins: AtomicU32,
}

/// What is at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Not a chunk.
    Other,
    /// A chunk that is away.
    Away,
    /// The host's address, and how many bytes from there on are contiguous.
    At(u64, u64),
}

/// The chunks of a guest, by guest-physical address.
pub struct Chunks(Box<[Entry]>);

impl Chunks {
    /// Books for guest-physical memory up to `end`, in which there is no chunk. None: there is no memory for them.
    #[must_use]
    pub fn new(end: u64) -> Option<Self> {
        let mut list = Vec::new();
        let count = end.div_ceil(CHUNK) as usize;
        list.try_reserve_exact(count).ok()?;
        list.resize_with(count, || Entry {
            hpa: AtomicU64::new(OTHER),
            pins: AtomicU32::new(0),
        });
        Some(Self(list.into()))
    }

    /// The bytes that books up to `end` take.
    #[must_use]
    pub const fn bytes(end: u64) -> u64 {
        end.div_ceil(CHUNK) * size_of::<Entry>() as u64
    }

    /// How many there are up to the end, chunks or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// What is at `gpa`.
    #[inline]
    #[must_use]
    pub fn find(&self, gpa: u64) -> Found {
        let Some(entry) = self.0.get((gpa / CHUNK) as usize) else {
            return Found::Other;
        };
        match entry.hpa.load(Ordering::Relaxed) {
            OTHER => Found::Other,
            AWAY => Found::Away,
            hpa => {
                let offset = gpa % CHUNK;
                let mut room = CHUNK - offset;
                if room < SHORT && self.at(gpa / CHUNK + 1) == Some(hpa + CHUNK) {
                    room += CHUNK;
                }
                Found::At(hpa + offset, room)
            }
        }
    }

    fn at(&self, chunk: u64) -> Option<u64> {
        let entry = self.0.get(chunk as usize)?;
        Some(entry.hpa.load(Ordering::Relaxed)).filter(|&hpa| hpa != OTHER && hpa != AWAY)
    }

    /// Whether this is a chunk, here or away.
    #[must_use]
    pub fn is_chunk(&self, chunk: usize) -> bool {
        let entry = self.0.get(chunk);
        entry.is_some_and(|entry| entry.hpa.load(Ordering::Relaxed) != OTHER)
    }

    /// A chunk is away from the beginning.
    pub fn lacks(&self, chunk: usize) {
        if let Some(entry) = self.0.get(chunk) {
            entry.hpa.store(AWAY, Ordering::Relaxed);
        }
    }

    /// A chunk is at `hpa` from now on, which is aligned to it.
    pub fn put(&self, chunk: usize, hpa: u64) {
        assert!(hpa != AWAY && hpa.is_multiple_of(CHUNK));
        if let Some(entry) = self.0.get(chunk) {
            entry.hpa.store(hpa, Ordering::Relaxed);
        }
    }

    /// Takes a chunk away, and says where it was; None: it is pinned, or not here. Nobody is within an access to it.
    #[must_use]
    pub fn take(&self, chunk: usize) -> Option<u64> {
        let hpa = self.at(chunk as u64)?;
        let entry = self.0.get(chunk)?;
        if entry.pins.load(Ordering::Acquire) != 0 {
            return None;
        }
        entry.hpa.store(AWAY, Ordering::Relaxed);
        Some(hpa)
    }

    fn of(&self, request: &BlockRequest, each: impl Fn(&AtomicU32)) {
        let BlockMemory::Guest(pieces) = &request.memory else {
            return;
        };
        for piece in pieces.iter().filter(|piece| piece.len != 0) {
            let last = piece.gpa.0.saturating_add(piece.len as u64 - 1);
            let span: Range<usize> = (piece.gpa.0 / CHUNK) as usize..(last / CHUNK) as usize + 1;
            let entries = self.0.get(span).unwrap_or_default();
            entries.iter().for_each(|entry| each(&entry.pins));
        }
    }

    fn pin(&self, request: &BlockRequest) {
        self.of(request, |pins| {
            pins.fetch_add(1, Ordering::Relaxed);
        });
    }

    fn unpin(&self, request: &BlockRequest) {
        self.of(request, |pins| {
            pins.fetch_sub(1, Ordering::Release);
        });
    }
}

/// A medium of a guest whose RAM comes and goes: what its requests are about stays until they are over.
pub struct Pinning {
    medium: Box<dyn BlockBackend>,
    chunks: Arc<Chunks>,
}

impl Pinning {
    /// `medium` for the guest with these chunks.
    #[must_use]
    pub fn new(medium: Box<dyn BlockBackend>, chunks: Arc<Chunks>) -> Self {
        Self { medium, chunks }
    }

    fn over(&self, done: Option<BlockDone>) -> Option<BlockDone> {
        done.inspect(|(request, _)| self.chunks.unpin(request))
    }
}

impl BlockBackend for Pinning {
    fn sectors(&self) -> u64 {
        self.medium.sectors()
    }
    fn read_only(&self) -> bool {
        self.medium.read_only()
    }
    fn read(&mut self, sector: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.medium.read(sector, buf)
    }
    fn write(&mut self, sector: u64, buf: &[u8]) -> Result<(), BlockError> {
        self.medium.write(sector, buf)
    }
    fn flush(&mut self) -> Result<(), BlockError> {
        self.medium.flush()
    }
    fn pieces(&self) -> usize {
        self.medium.pieces()
    }
    fn has_room(&self, pieces: usize) -> bool {
        self.medium.has_room(pieces)
    }
    fn begin(&mut self, request: BlockRequest) -> Option<BlockDone> {
        self.chunks.pin(&request);
        let done = self.medium.begin(request);
        self.over(done)
    }
    fn finish(&mut self, wait: bool) -> Option<BlockDone> {
        let done = self.medium.finish(wait);
        self.over(done)
    }
    fn finish_soon(&mut self) -> Option<BlockDone> {
        let done = self.medium.finish_soon();
        self.over(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use hv_core::backend::BlockOp;
    use hv_core::mem::Piece;
    use hv_core::{Gpa, Hpa};

    fn chunks() -> Chunks {
        let chunks = Chunks::new(5 * CHUNK + MIB).unwrap();
        chunks.put(1, 8 * CHUNK);
        chunks.put(2, 9 * CHUNK);
        chunks.put(3, 4 * CHUNK);
        chunks.lacks(4);
        chunks
    }

    #[test]
    fn an_address_is_found_in_its_chunk() {
        let c = chunks();
        assert_eq!(c.count(), 6);
        assert_eq!(c.find(5), Found::Other);
        assert_eq!(c.find(CHUNK), Found::At(8 * CHUNK, CHUNK));
        assert_eq!(
            c.find(3 * CHUNK + 0x1234),
            Found::At(4 * CHUNK + 0x1234, CHUNK - 0x1234)
        );
        assert_eq!(c.find(4 * CHUNK), Found::Away);
        assert_eq!(c.find(5 * CHUNK), Found::Other);
        assert_eq!(c.find(u64::MAX), Found::Other);
    }

    #[test]
    fn a_short_access_may_cross_to_the_next_chunk_where_the_host_has_them_together() {
        let c = chunks();
        assert_eq!(c.find(2 * CHUNK - 4), Found::At(9 * CHUNK - 4, CHUNK + 4));
        assert_eq!(c.find(3 * CHUNK - 4), Found::At(10 * CHUNK - 4, 4));
        assert_eq!(c.find(4 * CHUNK - 4), Found::At(5 * CHUNK - 4, 4));
    }

    #[test]
    fn a_chunk_goes_and_comes_to_another_place() {
        let c = chunks();
        assert_eq!(c.take(2), Some(9 * CHUNK));
        assert_eq!((c.take(2), c.find(2 * CHUNK + 7)), (None, Found::Away));
        assert_eq!(c.find(2 * CHUNK - 4), Found::At(9 * CHUNK - 4, 4));
        c.put(2, 30 * CHUNK);
        assert_eq!(c.find(2 * CHUNK + 7), Found::At(30 * CHUNK + 7, CHUNK - 7));
        assert_eq!((c.take(0), c.take(5), c.take(99)), (None, None, None));
        let is_chunk: Vec<bool> = (0..7).map(|n| c.is_chunk(n)).collect();
        assert_eq!(is_chunk, [false, true, true, true, true, false, false]);
    }

    /// A disk whose requests are over when they are asked for, and which refuses those of sector 99.
    #[derive(Default)]
    struct Slow(Vec<BlockRequest>);

    impl BlockBackend for Slow {
        fn sectors(&self) -> u64 {
            1 << 20
        }
        fn read_only(&self) -> bool {
            false
        }
        fn read(&mut self, _sector: u64, _buf: &mut [u8]) -> Result<(), BlockError> {
            Ok(())
        }
        fn write(&mut self, _sector: u64, _buf: &[u8]) -> Result<(), BlockError> {
            Ok(())
        }
        fn flush(&mut self) -> Result<(), BlockError> {
            Ok(())
        }
        fn pieces(&self) -> usize {
            8
        }
        fn begin(&mut self, request: BlockRequest) -> Option<BlockDone> {
            if request.sector == 99 {
                return Some((request, Err(BlockError)));
            }
            self.0.push(request);
            None
        }
        fn finish(&mut self, _wait: bool) -> Option<BlockDone> {
            self.0.pop().map(|request| (request, Ok(())))
        }
    }

    fn read(sector: u64, places: &[(u64, usize)]) -> BlockRequest {
        let piece = |&(gpa, len)| Piece {
            gpa: Gpa(gpa),
            hpa: Hpa(gpa),
            len,
        };
        BlockRequest {
            op: BlockOp::Read,
            sector,
            memory: BlockMemory::Guest(places.iter().map(piece).collect()),
            tag: 0,
        }
    }

    #[test]
    fn memory_with_a_read_in_flight_to_it_stays_until_the_read_is_over() {
        let chunks = Arc::new(chunks());
        let mut disk = Pinning::new(Box::new(Slow::default()), chunks.clone());
        let across = [(2 * CHUNK - 512, 1024)];
        assert!(disk.begin(read(0, &across)).is_none());
        assert!(disk.begin(read(1, &[(CHUNK, 512)])).is_none());
        assert_eq!((chunks.take(1), chunks.take(2)), (None, None));
        assert_eq!(chunks.take(3), Some(4 * CHUNK), "nobody reads to it");
        assert!(disk.finish(false).is_some());
        assert_eq!(chunks.take(1), None, "the other reaches into it still");
        assert!(disk.finish_soon().is_some());
        assert_eq!(chunks.take(1), Some(8 * CHUNK));
        assert_eq!(chunks.take(2), Some(9 * CHUNK));
    }

    #[test]
    fn a_request_that_is_over_at_once_pins_nothing() {
        let chunks = Arc::new(chunks());
        let mut disk = Pinning::new(Box::new(Slow::default()), chunks.clone());
        assert!(
            disk.begin(read(99, &[(CHUNK, 512), (u64::MAX, 0)]))
                .is_some()
        );
        let flush = BlockRequest {
            memory: BlockMemory::Buffer {
                buffer: vec![0; 512].into(),
                part: 0..512,
            },
            ..read(0, &[])
        };
        assert!(disk.begin(flush).is_none());
        assert!(chunks.take(1).is_some());
    }
}
