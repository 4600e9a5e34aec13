//! The virtual firmware: what hvmloader is in Xen, as a library that the ring-0 core calls before a guest starts.
//!
//! From the one machine description ([`hv_core::machine`]) it builds every table once, as blobs plus a relocation script
//! ([`acpi`], [`smbios`]). Either the guest's firmware applies the script, having read it through fw_cfg ([`fwcfg`]), or we do
//! ([`place`]) when a Linux kernel is booted directly ([`linux`]); then the chores of the firmware are ours too: base
//! addresses and interrupt routing ([`pci_setup`]), memory types ([`mtrr`]), the MP table ([`mptable`]), $PIR ([`pir`]) and the whole memory map
//! ([`e820`]). For stock SeaBIOS and OVMF there are the CMOS contents ([`cmos`]), the boot order ([`bootorder`]) and the places of their
//! images ([`bios`]).
//!
//! Nothing here touches a device: the answers are bytes and addresses, and the caller puts them where they belong.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

pub mod acpi;
pub mod bios;
mod blob;
pub mod bootorder;
pub mod cmos;
pub mod e820;
pub mod fwcfg;
pub mod linux;
pub mod low_memory;
pub mod mptable;
pub mod mtrr;
pub mod pci_setup;
pub mod pir;
pub mod place;
pub mod smbios;
#[cfg(test)]
mod testing;
pub mod vga_text;

/// The maker's name in every table: exactly six characters, as ACPI's OEMID wants it.
pub(crate) const OEM: &[u8; 6] = b"UMBRA ";
