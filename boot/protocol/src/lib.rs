//! What Umbra and its host tool say to each other: both ends use this crate, so that they cannot disagree.
//!
//! The control channel carries *frames* ([`frame`]) in both directions: [`Message`]s from Umbra to the tool, [`Request`]s from the tool
//! to Umbra. What is too large for one frame comes in parts that fit: a text screen and a picture in rows, a report in pieces. The tool
//! puts them together with an [`Assembler`].
//!
//! * The first message is [`Message::Hello`] with Umbra's [`VERSION`], and the tool answers with its own in [`Request::Hello`]. These two
//!   frames look the same in every version but the first, which had no greeting and other frames: [`FirstVersion`] knows it. Whoever hears of
//!   another version says so at once; nothing else is understood then.
//! * A well-framed message never ends a run. What one end does not know, or finds outside the limits below, is a [`Skipped`]: it is
//!   reported, and the next frame is read.
//! * Bytes that are no frame are passed over up to the next header. The outer machine's firmware may have written there before Umbra.
//!
//! Nothing here panics on what it decodes. A [`Decoder`] allocates nothing. An [`Assembler`] holds at most one picture
//! ([`MAX_WIDTH`] by [`MAX_HEIGHT`] pixels of 3 bytes), one text screen ([`MAX_COLUMNS`] by [`MAX_ROWS`]) and one report ([`MAX_REPORT`]):
//! 20 MiB.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

mod assemble;
mod first;
pub mod frame;
mod message;
pub mod options;
mod picture;
mod report;
mod request;
mod skipped;
#[cfg(test)]
mod tests;
mod text;

pub use assemble::{Assembler, Picture, TextScreen, Whole};
pub use first::FirstVersion;
pub use frame::{Decoder, Frame, Item};
pub use message::{Event, Message};
pub use picture::{Band, Bands, Size};
pub use report::Report;
pub use request::{Mouse, Point, Request};
pub use skipped::Skipped;
pub use text::{Rows, TextRows};

/// The version of what is said here. It changes with every change that the other end has to know of.
pub const VERSION: u16 = 5;

/// Virtual machines at most: Umbra's memory, its network switch and the serial numbers of drives have room for as many.
pub const MAX_VMS: u8 = 8;

/// Bytes of a frame behind its header at most. Two rows of the widest picture would not fit, but one does even if each pixel is another
/// ([`picture`](Bands)); and Umbra keeps such a buffer for each direction.
pub const MAX_PAYLOAD: usize = 8192;

/// Pixels of a picture's row at most: the widest mode of the display interface that Umbra gives to guests.
pub const MAX_WIDTH: u16 = 2560;

/// Rows of a picture at most: the highest mode of that interface. The VGA's own modes have 1,024 lines at most.
pub const MAX_HEIGHT: u16 = 1600;

/// Characters of a text screen's row at most: the CRT controller's "horizontal display enable end" has 8 bits.
pub const MAX_COLUMNS: u16 = 256;

/// Rows of a text screen at most: "vertical display enable end" has 10 bits, and a row may be one line high.
pub const MAX_ROWS: u16 = 1024;

/// Bytes of a report at most: the counters take some 20 KiB, each of [`MAX_RECORD`] recorded exits a line of less than 800.
pub const MAX_REPORT: usize = 8 << 20;

/// Exits that can be recorded at most: Umbra keeps them on its heap.
pub const MAX_RECORD: u32 = 10_000;

/// Bytes of an event's sentence at most; longer ones are cut.
pub const MAX_SENTENCE: usize = 1024;
