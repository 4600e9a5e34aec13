//! A guest that starts another Linux in its place without a reset: Debian's kernel with kexec, and itself once more in its RAM disk.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::guests::Guest;
use crate::media;
use crate::run::Options;
use crate::storage;
use crate::vm::Vm;

const PROGRAM: (&str, &str) = ("kexec-tools", "sbin/kexec");
/// Packages with its libraries.
const LIBRARIES: [&str; 9] = [
    "libc6",
    "libxenmisc4.17",
    "libxencall1",
    "libxendevicemodel1",
    "libxenevtchn1",
    "libxenforeignmemory1",
    "libxengnttab1",
    "libxentoolcore1",
    "libxentoollog1",
];

/// A run of that guest, with its RAM disk in `directory`.
///
/// # Errors
///
/// What it is made of cannot be had.
pub fn options(directory: &Path) -> Result<Options> {
    let mut archive = storage::archive(std::iter::empty(), &[PROGRAM], &LIBRARIES)?;
    for (name, guest) in [
        ("kernel", Guest::CloudKernel),
        ("ramdisk", Guest::CloudInitrd),
    ] {
        let content = fs::read(guest.provide()?).with_context(|| format!("cannot read {name}"))?;
        archive.program(name, &content);
    }
    let initrd = Guest::CloudInitrd.with_more(archive, directory)?;
    Ok(Options::headless(Vm {
        initrd: Some(media::open_initrd(&initrd)?),
        cmdline: "console=ttyS0 quiet umbra.then=kexec".to_owned(),
        ..Vm::of(&Guest::CloudKernel.provide()?)?
    }))
}
