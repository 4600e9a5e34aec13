//! Table frames for tests in which several parts take them from one place.

use alloc::sync::Arc;
use hv_core::Hpa;
use hv_core::mmu::Frames;
use std::sync::Mutex;

/// Frames that several users share.
#[derive(Clone, Default)]
pub(crate) struct SharedFrames(Arc<Mutex<Vec<[u64; 512]>>>);

impl Frames for SharedFrames {
    fn allocate(&mut self) -> Option<Hpa> {
        let mut frames = self.0.lock().unwrap();
        frames.push([0; 512]);
        Some(Hpa((frames.len() as u64) << 12))
    }
    fn free(&mut self, _frame: Hpa) {}
    fn read(&self, frame: Hpa, index: usize) -> u64 {
        self.0.lock().unwrap()[(frame.0 >> 12) as usize - 1][index]
    }
    fn write(&mut self, frame: Hpa, index: usize, value: u64) {
        self.0.lock().unwrap()[(frame.0 >> 12) as usize - 1][index] = value;
    }
}
