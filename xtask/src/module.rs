//! Boot modules.

use std::path::PathBuf;

/// A file that the boot loader hands to Umbra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// What it is to Umbra: `bios`, `vgabios`, `kernel`, `initrd`, `cmdline` or `cdrom`.
    pub role: String,
    /// Where it is on this machine.
    pub path: PathBuf,
}
