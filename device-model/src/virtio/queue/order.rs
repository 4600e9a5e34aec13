//! In-order completion (VIRTIO 1.2 2.6.1, "In-order use of descriptors"): what is over early waits for what was begun before it.

use super::{LARGEST, Token};
use alloc::collections::VecDeque;

/// The chains that the device has, in the order in which it took them.
#[derive(Default)]
pub struct Order(VecDeque<(Token, Option<u32>)>);

impl Order {
    /// A chain is taken. None: there are more than any ring has descriptors.
    pub fn begin(&mut self, token: Token) -> Option<()> {
        (self.0.len() < usize::from(LARGEST)).then(|| self.0.push_back((token, None)))
    }

    /// It is over. A guest that makes one available twice has both over in turn.
    pub fn end(&mut self, token: Token, written: u32) {
        let mut all = self.0.iter_mut();
        if let Some((_, end)) = all.find(|(t, end)| *t == token && end.is_none()) {
            *end = Some(written);
        }
    }

    /// The next that can be given back.
    pub fn next(&mut self) -> Option<(Token, u32)> {
        let (token, end) = *self.0.front()?;
        let written = end?;
        self.0.pop_front();
        Some((token, written))
    }
}
