//! Second-stage paging: nested tables and the shadow MMU.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]
extern crate alloc;
