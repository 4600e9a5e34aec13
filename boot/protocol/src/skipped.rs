//! What was not understood.

use core::fmt;

/// What was passed over, and why. It is reported; the channel goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Skipped {
    /// So many bytes that belong to no frame.
    Noise(u64),
    /// A frame whose payload is longer than [`MAX_PAYLOAD`](crate::MAX_PAYLOAD).
    TooLong {
        /// Its kind.
        kind: u8,
        /// Bytes of its payload.
        len: u16,
    },
    /// A frame of a kind that this version does not have.
    Unknown(u8),
    /// A frame whose contents are not what its kind says, or outside the limits.
    Malformed {
        /// Its kind.
        kind: u8,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A part that does not continue the parts before it, or that there is no memory for.
    Incomplete(&'static str),
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Skipped::Noise(bytes) => write!(f, "{bytes} bytes that are no frame"),
            Skipped::TooLong { kind, len } => {
                write!(f, "a frame '{}' of {len} bytes", kind.escape_ascii())
            }
            Skipped::Unknown(kind) => {
                write!(f, "a frame of the unknown kind '{}'", kind.escape_ascii())
            }
            Skipped::Malformed { kind, why } => {
                write!(f, "a frame '{}': {why}", kind.escape_ascii())
            }
            Skipped::Incomplete(why) => write!(f, "{why}"),
        }
    }
}
