//! Frames that wait for a card.

use alloc::boxed::Box;
use alloc::vec::Vec;

/// Bytes of the longest frame that is kept: 1,500 of payload, header and VLAN tag, without the check sequence; rounded up.
pub const FRAME: usize = 1536;

/// Frames in the order of their arrival, a bounded number of them. Nothing is allocated for a frame.
pub struct Queue {
    slots: Vec<(usize, Box<[u8; FRAME]>)>,
    first: usize,
    waiting: usize,
}

impl Queue {
    /// An empty queue for so many frames.
    #[must_use]
    pub fn new(frames: usize) -> Self {
        Self {
            slots: (0..frames).map(|_| (0, Box::new([0; FRAME]))).collect(),
            first: 0,
            waiting: 0,
        }
    }

    /// Whether no frame waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether there is no room for a further frame.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.waiting == self.slots.len()
    }

    /// Puts a frame behind the others. False: there is no room for it, or it is too long.
    pub fn put(&mut self, frame: &[u8]) -> bool {
        if self.is_full() {
            return false;
        }
        let at = (self.first + self.waiting) % self.slots.len();
        let (len, slot) = &mut self.slots[at];
        let Some(to) = slot.get_mut(..frame.len()) else {
            return false;
        };
        to.copy_from_slice(frame);
        *len = frame.len();
        self.waiting += 1;
        true
    }

    /// Takes the first frame, and returns its length. One that is longer than `to` is lost.
    pub fn take(&mut self, to: &mut [u8]) -> Option<usize> {
        while self.waiting != 0 {
            let (len, slot) = &self.slots[self.first];
            self.first = (self.first + 1) % self.slots.len();
            self.waiting -= 1;
            if let (Some(to), Some(frame)) = (to.get_mut(..*len), slot.get(..*len)) {
                to.copy_from_slice(frame);
                return Some(*len);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::VecDeque;
    use hv_core::testing::Random;

    #[test]
    fn frames_come_out_as_they_went_in() {
        let mut random = Random::new(3);
        let (mut queue, mut model) = (Queue::new(5), VecDeque::new());
        for _ in 0..10_000 {
            if random.one_in(2) {
                let mut frame = alloc::vec![0; 1 + random.below(FRAME as u64) as usize];
                random.fill(&mut frame);
                assert_eq!(queue.put(&frame), model.len() < 5);
                if model.len() < 5 {
                    model.push_back(frame);
                }
            } else {
                let mut to = [0; FRAME];
                let got = queue.take(&mut to).map(|len| to[..len].to_vec());
                assert_eq!(got, model.pop_front());
            }
            assert_eq!(
                (queue.is_empty(), queue.is_full()),
                (model.is_empty(), model.len() == 5)
            );
        }
    }

    #[test]
    fn what_does_not_fit_is_lost() {
        let mut queue = Queue::new(2);
        assert!(!queue.put(&[0; FRAME + 1]));
        assert!(queue.put(&[1; 100]) && queue.put(&[2; 10]));
        let mut to = [0; 60];
        assert_eq!(queue.take(&mut to), Some(10));
        assert_eq!(to[..10], [2; 10]);
        assert_eq!(Queue::new(0).take(&mut to), None);
        assert!(!Queue::new(0).put(&[1]));
    }
}
