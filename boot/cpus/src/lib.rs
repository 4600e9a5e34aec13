//! The host's CPUs, as values: which of them are to be started ([`Plan`]), and whether one of them is like the first ([`Features`]).
//!
//! Nothing here touches the machine; `boot` does. So all of it is tested on any machine.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod features;
mod plan;

pub use features::Features;
pub use plan::{Local, MAX_HOST_CPUS, Plan};
