//! Address-space identifiers (APM vol 2 15.16, "TLB Control"): what keeps the translations of virtual CPUs apart.
//!
//! There may be fewer of them than virtual CPUs. Those that share one flush it when it changes hands.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

/// The identifiers of this CPU. 0 is the host's.
pub struct Asids {
    /// For each identifier from 1 on, which virtual CPU has used it last.
    users: Vec<Arc<AtomicU32>>,
    /// How many virtual CPUs there are.
    given: u32,
}

/// More than this are not kept books of.
const MOST: u32 = 1024;

/// Nobody has used it yet.
const NOBODY: u32 = u32::MAX;

impl Asids {
    /// So many, with the host's. At least 2.
    #[must_use]
    pub fn new(count: u32) -> Self {
        let count = count.clamp(2, MOST);
        let unused = |_| Arc::new(AtomicU32::new(NOBODY));
        Self {
            users: (1..count).map(unused).collect(),
            given: 0,
        }
    }

    /// One for the next virtual CPU.
    pub fn give(&mut self) -> Asid {
        let user = self.given;
        self.given += 1;
        let at = user as usize % self.users.len();
        Asid {
            number: at as u32 + 1,
            user,
            last: self.users[at].clone(),
        }
    }
}

/// The identifier of a virtual CPU.
#[derive(Debug)]
pub struct Asid {
    number: u32,
    user: u32,
    last: Arc<AtomicU32>,
}

impl Asid {
    /// Its number, as in the control block.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }

    /// The virtual CPU is about to use it. Whether another one has since it did.
    #[must_use]
    pub fn claim(&self) -> bool {
        self.last.swap(self.user, Ordering::Relaxed) != self.user
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_shares_one_flushes_when_it_changes_hands() {
        let mut asids = Asids::new(3);
        let [a, b, c] = [asids.give(), asids.give(), asids.give()];
        assert_eq!([a.number(), b.number(), c.number()], [1, 2, 1]);
        assert_eq!(
            [&a, &a, &b, &b].map(Asid::claim),
            [true, false, true, false]
        );
        assert_eq!(
            [&c, &b, &a, &a].map(Asid::claim),
            [true, false, true, false]
        );
    }
}
