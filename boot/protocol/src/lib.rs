//! What Umbra and its host tool say to each other: both ends use this crate, so that they cannot disagree.
//!
//! The control channel carries *frames* ([`frame`]) in both directions: [`Message`]s from Umbra to the tool, [`Request`]s from the tool
//! to Umbra. What is too large for one frame comes in parts that fit: a text screen and a picture in rows, a report in pieces. The tool
//! puts them together with an [`Assembler`].
//!
//! * The first message is [`Message::Hello`] with Umbra's [`VERSION`]. A tool of another version answers with its own in [`Request::Hello`], so
//!   that Umbra says it too; nothing else is understood then. These two frames look the same in every version but the first, which had no
//!   greeting and other frames: [`FirstVersion`] knows it. A tool of the same version says nothing before it wants something: what comes from
//!   outside comes at any moment, and where the machine counts instructions runs are to repeat exactly.
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
mod bands;
mod first;
pub mod frame;
mod limits;
mod message;
pub mod options;
mod picture;
mod report;
mod request;
mod rows;
mod skipped;
#[cfg(test)]
mod tests;
mod text;

pub use assemble::{Assembler, Picture, TextScreen, Whole};
pub use bands::Bands;
pub use first::FirstVersion;
pub use frame::{Decoder, Frame, Item};
pub use limits::*;
pub use message::{Event, Message};
pub use picture::{Band, Size};
pub use report::Report;
pub use request::{Mouse, Point, Request};
pub use rows::Rows;
pub use skipped::Skipped;
pub use text::TextRows;

/// The version of what is said here. It changes with every change that the other end has to know of.
pub const VERSION: u16 = 5;
