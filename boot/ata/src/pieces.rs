//! A request in 512-byte sectors as the commands that serve it: at most so many blocks each, of the drive's own block length.

/// One command's part of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    /// The first block.
    pub(crate) block: u64,
    /// Blocks, 1 to the most allowed.
    pub(crate) blocks: u32,
    /// Bytes at the beginning of the first block that were not asked for.
    pub(crate) skip: usize,
    /// Where this part's bytes are in the request.
    pub(crate) start: usize,
    /// Past their end.
    pub(crate) end: usize,
}

/// The pieces of a request for `len` bytes from `sector` on. A block has `per_block` sectors, a command at most `most` blocks,
/// neither of them zero.
pub(crate) fn pieces(
    sector: u64,
    len: usize,
    per_block: u32,
    most: u32,
) -> impl Iterator<Item = Piece> {
    let sectors = (len / SECTOR) as u64;
    let mut done = 0;
    core::iter::from_fn(move || {
        let left = sectors.checked_sub(done).filter(|&n| n != 0)?;
        let at = sector.checked_add(done)?;
        let (block, skip) = (at / u64::from(per_block), at % u64::from(per_block));
        let n = left.min(u64::from(most) * u64::from(per_block) - skip);
        let start = done as usize * SECTOR;
        done += n;
        Some(Piece {
            block,
            blocks: (skip + n).div_ceil(u64::from(per_block)) as u32,
            skip: skip as usize * SECTOR,
            start,
            end: done as usize * SECTOR,
        })
    })
}

/// Bytes of a sector.
pub(crate) const SECTOR: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::Random;

    #[test]
    fn aligned_request_is_one_command() {
        let all: Vec<_> = pieces(8, 4096, 4, 64).collect();
        let only = Piece {
            block: 2,
            blocks: 2,
            skip: 0,
            start: 0,
            end: 4096,
        };
        assert_eq!(all, [only]);
    }

    #[test]
    fn unaligned_request_reads_the_blocks_around_it() {
        let all: Vec<_> = pieces(7, 1024, 4, 64).collect();
        let only = Piece {
            block: 1,
            blocks: 2,
            skip: 1536,
            start: 0,
            end: 1024,
        };
        assert_eq!(all, [only]);
    }

    #[test]
    fn nothing_takes_no_command() {
        assert_eq!(pieces(7, 0, 4, 64).count(), 0);
        assert_eq!(pieces(7, 511, 1, 64).count(), 0);
    }

    #[test]
    fn pieces_cover_the_request_and_keep_the_limit() {
        let mut r = Random::from_env("UMBRA_SEED", 0x91ece);
        for _ in 0..5_000 {
            let (sector, len) = (r.below(10_000), r.below(600) as usize * SECTOR);
            let (per_block, most) = (r.pick(&[1, 4]), r.below(70) as u32 + 1);
            let mut done = 0;
            for p in pieces(sector, len, per_block, most) {
                assert!((1..=most).contains(&p.blocks), "{p:?}");
                assert_eq!(p.start, done);
                let first = p.block * u64::from(per_block) + (p.skip / SECTOR) as u64;
                assert_eq!(first, sector + (done / SECTOR) as u64);
                let bytes = p.skip + p.end - p.start;
                let block = per_block as usize * SECTOR;
                assert_eq!(bytes.div_ceil(block), p.blocks as usize);
                assert!(p.skip < block);
                done = p.end;
            }
            assert_eq!(done, len);
        }
    }
}
