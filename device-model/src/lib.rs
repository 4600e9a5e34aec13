//! The virtual PC: an Intel 440FX machine with PIIX3/PIIX4 parts, as safe code.
//!
//! One device a module. All of them implement [`hv_core::device::Device`]; where they sit is [`hv_core::machine`]'s business.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod debug;
pub mod dma;
pub mod fwcfg;
pub mod i8042;
pub mod ide;
pub mod irq;
pub mod machine;
pub mod ne2k;
pub mod pci;
pub mod pit;
pub mod pm;
pub mod rtc;
pub mod syscontrol;
pub mod uart;
pub mod vga;
