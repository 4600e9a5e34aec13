//! The controller as drivers see it.

mod abuse;
mod detection;
mod dma;
mod packet;
mod pio;
mod rig;
mod slow;
