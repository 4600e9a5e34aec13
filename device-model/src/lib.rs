//! The virtual PC: an Intel 440FX machine with PIIX3/PIIX4 parts, as safe code.
//!
//! One device a module. All of them implement [`hv_core::device::Device`]; where they sit is [`hv_core::machine`]'s business,
//! and [`machine`] puts them there. There are the host and ISA bridges, IDE and AHCI with disks and CD-ROMs, VGA with the Bochs
//! extensions, RTL8029 and 82540EM network cards, both interrupt chips and the local APIC, PIT, RTC, keyboard and mouse, one serial port,
//! power management, HPET, a USB controller with a tablet, fw_cfg, debug ports, the flash chip with UEFI's variables, and virtio devices.
//!
//! Not here: sound. Each module says what of its chip is left out.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod a20;
pub mod ahci;
pub mod ata;
pub mod debug;
pub mod dma;
pub mod e1000;
pub mod fdc;
pub mod flash;
pub mod fwcfg;
pub mod hpet;
pub mod i8042;
pub mod ide;
pub mod irq;
pub mod machine;
pub mod mapped;
pub mod ne2k;
pub mod pci;
pub mod pit;
pub mod pm;
pub mod rtc;
pub mod syscontrol;
pub mod uart;
pub mod usb;
pub mod vga;
pub mod virtio;
