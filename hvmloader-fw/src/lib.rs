//! The virtual firmware: tables, memory map and boot parameters of the virtual PC.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]
extern crate alloc;
