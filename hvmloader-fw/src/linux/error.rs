//! Why a kernel cannot be booted, in words that say what to do about it.

use core::fmt;

/// The kernel cannot be booted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LinuxError {
    /// The file is something else, and what it looks like.
    NotAKernel(&'static str),
    /// The boot protocol is older than 2.06: its version.
    ProtocolTooOld(u16),
    /// The kernel is no bzImage: it wants to be loaded below 1 MiB.
    NotBzImage,
    /// The file ends early.
    Truncated {
        /// Bytes that its header promises.
        wanted: u64,
        /// Its length.
        len: u64,
    },
    /// The command line is longer than the kernel allows.
    CommandLineTooLong {
        /// Its length in bytes.
        len: usize,
        /// The most the kernel takes.
        max: usize,
    },
    /// The command line contains a NUL.
    CommandLineNul,
    /// The kernel needs more memory below 4 GiB.
    TooLittleMemory {
        /// Bytes of RAM that would do.
        wanted: u64,
        /// Bytes there are.
        have: u64,
    },
    /// The initrd does not fit above the kernel.
    InitrdTooLarge {
        /// Its length in bytes.
        len: u64,
        /// The most that would fit.
        max: u64,
    },
}

impl fmt::Display for LinuxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: u64 = 1 << 20;
        match *self {
            LinuxError::NotAKernel(what) => {
                write!(f, "the file is no x86 Linux kernel (bzImage): {what}")
            }
            LinuxError::ProtocolTooOld(v) => write!(
                f,
                "the kernel's boot protocol {}.{:02} is older than 2.06 (Linux 2.6.22): boot it from a disk or CD image",
                v >> 8,
                v & 0xff
            ),
            LinuxError::NotBzImage => {
                f.write_str("the kernel is a zImage, which must be booted from a disk image")
            }
            LinuxError::Truncated { wanted, len } => {
                write!(
                    f,
                    "the kernel file is cut off: it has {len} bytes of {wanted}"
                )
            }
            LinuxError::CommandLineTooLong { len, max } => {
                write!(
                    f,
                    "the kernel command line has {len} bytes; this kernel takes {max}"
                )
            }
            LinuxError::CommandLineNul => {
                f.write_str("the kernel command line contains a NUL character")
            }
            LinuxError::TooLittleMemory { wanted, have } => write!(
                f,
                "the kernel needs {} MiB of memory; the machine has {} MiB below 4 GiB",
                wanted.div_ceil(MIB),
                have / MIB
            ),
            LinuxError::InitrdTooLarge { len, max } => write!(
                f,
                "the initrd has {} MiB; {} MiB fit behind the kernel: give the machine more memory",
                len.div_ceil(MIB),
                max / MIB
            ),
        }
    }
}

impl core::error::Error for LinuxError {}
