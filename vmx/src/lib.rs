//! The Intel VT-x backend. Nothing of it is built yet: this crate is empty and holds the place.
//!
//! It will be to VMX what `svm` is to AMD-V, with files of the same names: the VMCS and its controls, the world switch, the
//! checks on entry, exit decoding. Until then Umbra says on an Intel CPU that it needs AMD-V.
#![cfg_attr(not(test), no_std)]
#![deny(unsafe_code)]
extern crate alloc;
