//! Locks with a rank. Whoever holds one takes only such of a higher rank, so that no two CPUs wait for each other.
//!
//! In tests each thread remembers what it holds, and a lock that is taken in a wrong order panics. In the ring-0 image a [`Lock`] is a
//! [`spin::Mutex`] and nothing else.

use core::ops::{Deref, DerefMut};

/// The order in which locks are taken. The chips' and those behind are taken last: nothing is called out of them that takes another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rank {
    /// The buses of a VM.
    Bus,
    /// A device on them.
    Device,
    /// What a device reaches in another: the DMA controller, a function of the PCI bus.
    Part,
    /// The interrupt chips.
    Chips,
    /// Memory virtualization.
    Mmu,
    /// What lies over guest memory.
    Overlays,
    /// What was written to shadowed tables.
    Watch,
    /// What executes instructions for the emulator.
    Scratch,
}

/// A lock with a rank.
pub struct Lock<T: ?Sized> {
    #[cfg(any(test, feature = "testing"))]
    rank: Rank,
    inner: spin::Mutex<T>,
}

impl<T> Lock<T> {
    /// A lock around `value`.
    pub const fn new(rank: Rank, value: T) -> Self {
        #[cfg(not(any(test, feature = "testing")))]
        let _ = rank;
        Self {
            #[cfg(any(test, feature = "testing"))]
            rank,
            inner: spin::Mutex::new(value),
        }
    }

    /// A lock around a device.
    pub const fn device(device: T) -> Self {
        Self::new(Rank::Device, device)
    }
}

impl<T: ?Sized> Lock<T> {
    /// Takes the lock.
    ///
    /// # Panics
    /// In tests: a lock of this rank or a higher one is held.
    #[inline]
    pub fn lock(&self) -> Guard<'_, T> {
        Guard {
            #[cfg(any(test, feature = "testing"))]
            _held: held::Held::new(self.rank),
            inner: self.inner.lock(),
        }
    }
}

/// A lock that is held.
pub struct Guard<'a, T: ?Sized> {
    inner: spin::MutexGuard<'a, T>,
    #[cfg(any(test, feature = "testing"))]
    _held: held::Held,
}

impl<T: ?Sized> Deref for Guard<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.inner
    }
}

impl<T: ?Sized> DerefMut for Guard<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inner
    }
}

#[cfg(any(test, feature = "testing"))]
mod held {
    use super::Rank;
    use core::cell::Cell;

    std::thread_local! {
        /// The ranks of the locks that this thread holds: one bit each.
        static HELD: Cell<u32> = const { Cell::new(0) };
    }

    /// Says, as long as it lives, that a lock of this rank is held.
    pub(super) struct Held(Rank);

    impl Held {
        pub(super) fn new(rank: Rank) -> Self {
            let held = HELD.get();
            let bit = 1 << rank as u32;
            assert!(
                held < bit,
                "a lock of rank {rank:?} is taken while others are held (ranks {held:#b})"
            );
            HELD.set(held | bit);
            Self(rank)
        }
    }

    impl Drop for Held {
        fn drop(&mut self) {
            HELD.set(HELD.get() & !(1 << self.0 as u32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_taken_in_the_order_of_their_ranks() {
        let (bus, mmu) = (Lock::new(Rank::Bus, 1), Lock::new(Rank::Mmu, 2));
        let first = bus.lock();
        assert_eq!(*first + *mmu.lock(), 3);
        drop(first);
        drop((mmu.lock(), ()));
        assert_eq!(*bus.lock(), 1, "nothing is held any more");
    }

    #[test]
    #[should_panic(expected = "a lock of rank Bus is taken while others are held")]
    fn a_wrong_order_panics() {
        let (bus, mmu) = (Lock::new(Rank::Bus, ()), Lock::new(Rank::Mmu, ()));
        let _mmu = mmu.lock();
        drop(bus.lock());
    }

    #[test]
    #[should_panic(expected = "a lock of rank Device is taken while others are held")]
    fn of_two_locks_of_one_rank_only_one_is_held() {
        let (one, other) = (Lock::device(()), Lock::device(()));
        let _one = one.lock();
        drop(other.lock());
    }
}
