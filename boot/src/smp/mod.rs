//! The host's CPUs together: how the further ones are started, how all work, and how all are stopped.
//!
//! [`start()`] starts those besides the first, and each makes itself like the first one ([`join`]). Then it waits for an interrupt, and
//! does what it is called for ([`together`]): to run a virtual CPU.

mod join;
mod memory_types;
mod round;
mod start;
mod state;
mod stop;

pub use round::{goes_on, halt, interrupt, is_ending, kick_first, together};
pub use start::{audit, init, start};
pub use state::used;
pub use stop::{running, stop, stop_others};
