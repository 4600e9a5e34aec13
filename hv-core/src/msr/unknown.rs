//! Registers that are not there: what becomes of an access, and that it is told once.

use core::sync::atomic::{AtomicU64, Ordering};

/// Registers of a VM that are told of at most.
const NAMED: usize = 64;
/// Set in a place that a register's number is in.
const TAKEN: u64 = 1 << 32;

/// What a VM does with accesses to registers that it does not have.
#[derive(Debug)]
pub struct UnknownMsrs {
    /// RDMSR reads 0 and WRMSR does nothing, where #GP(0) is the rule: for systems that touch a register before they can take a fault.
    pub ignored: bool,
    named: [AtomicU64; NAMED],
}

impl Default for UnknownMsrs {
    fn default() -> Self {
        Self::new(false)
    }
}

impl UnknownMsrs {
    /// They fault, or they are ignored.
    #[must_use]
    pub const fn new(ignored: bool) -> Self {
        Self {
            ignored,
            named: [const { AtomicU64::new(0) }; NAMED],
        }
    }

    /// The guest of VM `vm` has accessed `msr`, and `write` if it was WRMSR: says so if it is the first time.
    #[cold]
    pub fn tell(&self, vm: u8, msr: u32, write: bool) {
        let Some(place) = self.place(msr) else {
            return;
        };
        let verb = if write { "writes" } else { "reads" };
        let then = match (self.ignored, write) {
            (false, _) => "raises #GP",
            (true, false) => "reads 0",
            (true, true) => "has no effect",
        };
        log::info!("VM {vm}: the guest {verb} MSR {msr:#x}, which is not there: this {then}");
        if place == NAMED - 1 {
            log::info!("VM {vm}: further registers that are not there are not told of");
        }
    }

    /// The place that `msr` gets, if it has none yet and there is one.
    fn place(&self, msr: u32) -> Option<usize> {
        let taken = TAKEN | u64::from(msr);
        for (at, place) in self.named.iter().enumerate() {
            match place.compare_exchange(0, taken, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Some(at),
                Err(there) if there == taken => return None,
                Err(_) => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_register_is_told_of_once_and_not_more_than_there_are_places() {
        let unknown = UnknownMsrs::default();
        assert_eq!(unknown.place(0), Some(0));
        assert_eq!(unknown.place(0), None);
        for msr in 1..NAMED as u32 {
            assert_eq!(unknown.place(u32::MAX - msr), Some(msr as usize));
        }
        assert_eq!(unknown.place(7), None);
    }
}
