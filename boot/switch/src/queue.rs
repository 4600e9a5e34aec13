//! Frames that wait for a card.

use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec;
use hv_core::offload::{LARGEST, LONGEST, Offload};

/// Frames in the order of their arrival, a bounded number of them and of bytes. Nothing is allocated for a frame.
pub struct Queue {
    /// The frames' bytes, one frame behind the other, round and round.
    bytes: Box<[u8]>,
    /// Where those of the first begin, and how many there are.
    first: usize,
    used: usize,
    /// Their lengths, and what is left to be done of them.
    frames: VecDeque<(usize, Offload)>,
    most: usize,
}

impl Queue {
    /// An empty queue for so many frames, of together at most so many bytes: those of some of the longest that are to be divided.
    #[must_use]
    pub fn new(frames: usize, bytes: usize) -> Self {
        Self {
            bytes: vec![0; bytes].into_boxed_slice(),
            first: 0,
            used: 0,
            frames: VecDeque::with_capacity(frames),
            most: frames,
        }
    }

    /// Whether no frame waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Whether there is room for so many further frames, of together `bytes`.
    #[must_use]
    pub fn has_room(&self, frames: usize, bytes: usize) -> bool {
        self.most - self.frames.len() >= frames && self.bytes.len() - self.used >= bytes
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.frames.clear();
        (self.first, self.used) = (0, 0);
    }

    /// Puts a frame behind the others. False: there is no room for it, or it is too long.
    pub fn put(&mut self, frame: &[u8], offload: Offload) -> bool {
        let longest = match offload.segments() {
            Some(_) => LARGEST,
            None => LONGEST,
        };
        let room = self.bytes.len() - self.used;
        if self.frames.len() == self.most || frame.len() > longest.min(room) {
            return false;
        }
        let end = wrapped(self.first + self.used, self.bytes.len());
        let (begin, rest) = frame.split_at(frame.len().min(self.bytes.len() - end));
        self.bytes[end..end + begin.len()].copy_from_slice(begin);
        self.bytes[..rest.len()].copy_from_slice(rest);
        self.used += frame.len();
        self.frames.push_back((frame.len(), offload));
        true
    }

    /// Takes the first frame, and returns its length and what is left to be done of it. One that is longer than `to` is lost.
    pub fn take(&mut self, to: &mut [u8]) -> Option<(usize, Offload)> {
        while let Some((len, offload)) = self.frames.pop_front() {
            let at = self.first;
            self.first = wrapped(self.first + len, self.bytes.len());
            self.used -= len;
            if let Some(to) = to.get_mut(..len) {
                let (begin, rest) = to.split_at_mut(len.min(self.bytes.len() - at));
                begin.copy_from_slice(&self.bytes[at..at + begin.len()]);
                rest.copy_from_slice(&self.bytes[..rest.len()]);
                return Some((len, offload));
            }
        }
        None
    }
}

/// A place below `len` for one that is below twice that.
const fn wrapped(at: usize, len: usize) -> usize {
    if at >= len { at - len } else { at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::Random;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut random = Random::new(3);
        let (mut queue, mut model) = (Queue::new(5, 4000), VecDeque::new());
        for _ in 0..10_000 {
            if random.one_in(2) {
                let mut frame = vec![0; 1 + random.below(LONGEST as u64) as usize];
                random.fill(&mut frame);
                let waiting: usize = model.iter().map(|(f, _): &(vec::Vec<u8>, _)| f.len()).sum();
                let fits = model.len() < 5 && waiting + frame.len() <= 4000;
                let offload = Offload::checksum_of(&frame, 0, random.below(9) as u16);
                let offload = offload.unwrap_or_default();
                assert_eq!(queue.put(&frame, offload), fits);
                if fits {
                    model.push_back((frame, offload));
                }
            } else {
                let mut to = [0; LONGEST];
                let got = queue.take(&mut to);
                let got = got.map(|(len, offload)| (to[..len].to_vec(), offload));
                assert_eq!(got, model.pop_front());
            }
            let waiting: usize = model.iter().map(|(f, _)| f.len()).sum();
            let room = model.len() < 5 && 4000 - waiting >= LONGEST;
            assert_eq!(
                (queue.is_empty(), queue.has_room(1, LONGEST)),
                (model.is_empty(), room)
            );
            assert_eq!(queue.has_room(3, 900), model.len() < 3 && waiting <= 3100);
        }
    }

    #[test]
    fn what_does_not_fit_is_lost() {
        let mut queue = Queue::new(2, 4000);
        assert!(!queue.put(&[0; LONGEST + 1], Offload::NONE));
        assert!(queue.put(&[1; 100], Offload::NONE) && queue.put(&[2; 10], Offload::NONE));
        let mut to = [0; 60];
        assert_eq!(queue.take(&mut to), Some((10, Offload::NONE)));
        assert_eq!(to[..10], [2; 10]);
        assert_eq!(Queue::new(0, 4000).take(&mut to), None);
        assert!(!Queue::new(0, 4000).put(&[1], Offload::NONE));
        assert!(!Queue::new(5, 0).put(&[1], Offload::NONE));
    }
}
