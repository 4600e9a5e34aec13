//! The test guest that says what its tablet reports: Debian's 32-bit kernel, whose modules include a driver for UHCI.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::cpio::Archive;
use crate::guests::{self, Guest};
use crate::initrd;
use crate::media;
use crate::run::Options;
use crate::storage::add_drivers;
use crate::vm::Vm;

/// The host controller, the class, and what programs see of it.
const DRIVERS: [&str; 4] = ["uhci_hcd", "usbhid", "hid_generic", "evdev"];

/// The guest's RAM disk with `script`, in `directory`.
fn ram_disk(script: &str, directory: &Path) -> Result<PathBuf> {
    let mut archive = Archive::default();
    let drivers = initrd::DRIVERS.into_iter().chain(DRIVERS);
    add_drivers(&mut archive, &guests::i386_modules()?, drivers)?;
    archive.program("storage.sh", script.as_bytes());
    Guest::I386Initrd.with_more(archive, directory)
}

/// A run of the guest, whose RAM disk is made in `directory`.
///
/// # Errors
///
/// The guest cannot be had.
pub fn options(directory: &Path) -> Result<Options> {
    doing(include_str!("tablet.sh"), directory)
}

/// The same guest doing something else with its tablet, as `script` says.
///
/// # Errors
///
/// The guest cannot be had.
pub fn doing(script: &str, directory: &Path) -> Result<Options> {
    Ok(Options::headless(Vm {
        initrd: Some(media::open_initrd(&ram_disk(script, directory)?)?),
        cmdline: "console=ttyS0 quiet umbra.then=storage".to_owned(),
        tablet: true,
        ..Vm::of(&Guest::I386Kernel.provide()?)?
    }))
}
