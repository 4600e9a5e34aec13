//! A guest under stress: Debian's kernel, and Debian's stress-ng for what several CPUs do together.

use std::path::Path;

use anyhow::Result;

use crate::guests::Guest;
use crate::media;
use crate::run::Options;
use crate::storage;
use crate::vm::Vm;

/// What the guest does.
const SCRIPT: &str = include_str!("stress.sh");
const PROGRAM: (&str, &str) = ("stress-ng", "usr/bin/stress-ng");
/// Packages with its libraries.
const LIBRARIES: [&str; 23] = [
    "libc6",
    "libapparmor1",
    "libbsd0",
    "libcrypt1",
    "libdrm2",
    "libegl1",
    "libexpat1",
    "libffi8",
    "libgbm1",
    "libgles2",
    "libglvnd0",
    "libipsec-mb1",
    "libjpeg62-turbo",
    "libjudydebian1",
    "libkmod2",
    "liblzma5",
    "libmd0",
    "libsctp1",
    "libssl3",
    "libwayland-server0",
    "libxxhash0",
    "libzstd1",
    "zlib1g",
];

/// A run of that guest which works for so many seconds, with its RAM disk in `directory`.
///
/// # Errors
///
/// What it is made of cannot be had.
pub fn options(directory: &Path, seconds: u64) -> Result<Options> {
    let mut archive = storage::archive(std::iter::empty(), &[PROGRAM], &LIBRARIES)?;
    archive.program("stress.sh", SCRIPT.as_bytes());
    let initrd = Guest::CloudInitrd.with_more(archive, directory)?;
    Ok(Options::headless(Vm {
        initrd: Some(media::open_initrd(&initrd)?),
        cmdline: format!("console=ttyS0 quiet umbra.then=stress umbra.stress={seconds}"),
        memory: 1 << 30,
        ..Vm::of(&Guest::CloudKernel.provide()?)?
    }))
}
