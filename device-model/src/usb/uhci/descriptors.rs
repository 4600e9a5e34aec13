//! The structures of the schedule in memory (UHCI Design Guide 3, "Data Structures").

use bitflags::bitflags;
use hv_core::Gpa;
use hv_core::mem::{GuestMemory, NotRam};

/// Link pointer: there is nothing behind it.
const TERMINATE: u32 = 1 << 0;
/// Link pointer: it points to a queue head.
const QUEUE: u32 = 1 << 1;
/// Link pointer of a transfer descriptor: the one behind it comes next, before other queues.
const DEPTH_FIRST: u32 = 1 << 2;

/// A link pointer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Link(pub u32);

impl Link {
    pub(super) const fn is_end(self) -> bool {
        self.0 & TERMINATE != 0
    }

    pub(super) const fn is_queue(self) -> bool {
        self.0 & QUEUE != 0
    }

    pub(super) const fn is_depth_first(self) -> bool {
        self.0 & DEPTH_FIRST != 0
    }

    /// What it points to, which lies on 16 bytes.
    pub(super) const fn target(self) -> Gpa {
        Gpa((self.0 & !0xf) as u64)
    }
}

/// A queue head (3.3, "Queue Head (QH)").
pub(super) struct QueueHead {
    pub link: Link,
    pub element: Link,
}

impl QueueHead {
    /// Where the element link is in it.
    pub(super) const ELEMENT: u64 = 4;

    pub(super) fn read(dma: &dyn GuestMemory, at: Gpa) -> Result<Self, NotRam> {
        let value = dma.read_u64(at)?;
        Ok(Self {
            link: Link(value as u32),
            element: Link((value >> 32) as u32),
        })
    }
}

bitflags! {
    /// The control and status double word of a transfer descriptor (3.2.2, "TD Control and Status (DWORD 1: 04-07h)"), but for the
    /// fields [`ERRORS`] and [`ACTUAL`].
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Control: u32 {
        /// Short packet detect.
        const SHORT_PACKET = 1 << 29;
        /// Low-speed device.
        const LOW_SPEED = 1 << 26;
        /// Isochronous.
        const ISOCHRONOUS = 1 << 25;
        /// Interrupt on complete.
        const INTERRUPT = 1 << 24;
        /// To be executed.
        const ACTIVE = 1 << 23;
        /// The endpoint is halted, or has failed too often.
        const STALLED = 1 << 22;
        /// Data buffer error.
        const BUFFER = 1 << 21;
        /// More came than was asked for.
        const BABBLE = 1 << 20;
        /// NAK received.
        const NAK = 1 << 19;
        /// CRC or time-out error.
        const TIMEOUT = 1 << 18;
        /// Bitstuff error.
        const BITSTUFF = 1 << 17;
    }
}

/// Control: how many errors are still allowed, in bits 28:27; 0: any number.
pub(super) const ERRORS: u32 = 3 << 27;
pub(super) const ERRORS_SHIFT: u32 = 27;
/// Control: the actual length less 1.
pub(super) const ACTUAL: u32 = 0x7ff;

/// What a transaction is (3.2.3, "TD Token (DWORD 2: 08-0Bh)").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Pid {
    In,
    Out,
    Setup,
}

/// The longest transfer that is legal.
const MAX_LENGTH: usize = 0x500;

/// A transfer descriptor (3.2, "Transfer Descriptor (TD)").
pub(super) struct Transfer {
    pub link: Link,
    pub control: u32,
    token: u32,
    pub buffer: Gpa,
}

impl Transfer {
    /// Where the control double word is in it.
    pub(super) const CONTROL: u64 = 4;

    pub(super) fn read(dma: &dyn GuestMemory, at: Gpa) -> Result<Self, NotRam> {
        let value = dma.read_u128(at)?;
        let word = |n: u32| (value >> (32 * n)) as u32;
        Ok(Self {
            link: Link(word(0)),
            control: word(1),
            token: word(2),
            buffer: Gpa(word(3).into()),
        })
    }

    /// The flags of the control double word.
    pub(super) const fn flags(&self) -> Control {
        Control::from_bits_truncate(self.control)
    }

    /// None: there is no such PID.
    pub(super) const fn pid(&self) -> Option<Pid> {
        match self.token & 0xff {
            0x69 => Some(Pid::In),
            0xe1 => Some(Pid::Out),
            0x2d => Some(Pid::Setup),
            _ => None,
        }
    }

    pub(super) const fn address(&self) -> u8 {
        (self.token >> 8) as u8 & 0x7f
    }

    pub(super) const fn endpoint(&self) -> u8 {
        (self.token >> 15) as u8 & 0xf
    }

    /// Its length at most. None: it is not legal.
    pub(super) fn length(&self) -> Option<usize> {
        let length = (self.token >> 21).wrapping_add(1) & 0x7ff;
        Some(length as usize).filter(|&length| length <= MAX_LENGTH)
    }
}
