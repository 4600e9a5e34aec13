//! What boots, and its modules.

use std::path::PathBuf;

/// A file that the boot loader hands to Umbra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Module {
    /// What it is to Umbra: `bios`, `vgabios`, `kernel`, `initrd`, `cmdline` or `cdrom`.
    pub role: String,
    /// Where it is on this machine.
    pub path: PathBuf,
}

/// What the outer machine starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// Umbra's image and its modules: by QEMU's own multiboot loader, or from a CD that is made of them.
    Multiboot {
        /// The ELF file.
        umbra: PathBuf,
        /// Umbra's options.
        options: String,
        /// The modules.
        modules: Vec<Module>,
    },
    /// A CD with GRUB and Umbra on it, as [`image`](crate::image) makes it.
    Cd {
        /// The image.
        path: PathBuf,
        /// UEFI firmware, or the BIOS when there is none.
        firmware: Option<PathBuf>,
    },
    /// A Linux kernel without Umbra, for comparison.
    Native {
        /// The kernel.
        kernel: PathBuf,
        /// Its initial RAM disk.
        initrd: Option<PathBuf>,
        /// Its command line.
        cmdline: String,
    },
}
