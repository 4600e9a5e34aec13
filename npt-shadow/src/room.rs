//! Vectors whose memory is taken whole, or refused: the books of a VM are as large as its guest, and a host may have too little for them.

use alloc::vec::Vec;

/// An empty vector with room for `len` elements. None: there is no memory for it.
pub(crate) fn for_up_to<T>(len: usize) -> Option<Vec<T>> {
    let mut room = Vec::new();
    room.try_reserve_exact(len).ok()?;
    Some(room)
}

/// A vector of `len` times `value`, likewise.
pub(crate) fn filled<T: Clone>(value: T, len: usize) -> Option<Vec<T>> {
    let mut room = for_up_to(len)?;
    room.resize(len, value);
    Some(room)
}

/// The bytes that a vector of `len` elements takes.
pub(crate) const fn bytes<T>(len: usize) -> u64 {
    (len as u64).saturating_mul(size_of::<T>() as u64)
}
