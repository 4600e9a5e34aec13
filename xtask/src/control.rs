//! The control channel on this side: what Umbra says, put together, and what it is asked. Frames, limits and all that both ends must
//! agree on are in [`protocol`].

#[cfg(test)]
pub mod far;
#[cfg(test)]
mod tests;

pub use protocol::{Mouse, Picture, Point, TextScreen};

use protocol::{Assembler, FirstVersion, Item};

/// What Umbra says.
pub type Message = protocol::Whole;
/// What has happened to a guest's machine or to Umbra.
pub type Event = protocol::Event<String>;
/// What Umbra is asked.
pub type Request = protocol::Request<Vec<u8>>;

/// Something that Umbra has said.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Something about the virtual machine of this index.
    About(usize, Message),
    /// Something that was not understood, in words.
    Skipped(String),
}

/// Takes bytes as they arrive and gives whole messages.
#[derive(Default)]
pub struct Decoder {
    frames: Box<protocol::Decoder>,
    assembler: Assembler,
    first: FirstVersion,
    /// A frame was found: what is none from now on is not the firmware's.
    started: bool,
}

impl Decoder {
    /// Takes bytes from the front of `bytes` up to the end of the next message. `None`: all are taken, and more have to come.
    pub fn next(&mut self, bytes: &mut &[u8]) -> Option<Said> {
        loop {
            let before = *bytes;
            let item = self.frames.next(bytes);
            if !self.started {
                let (taken, _) = before.split_at(before.len() - bytes.len());
                if self.first.hears(taken) {
                    let hello = Message::Hello(FirstVersion::NUMBER);
                    return Some(Said::About(0, hello));
                }
            }
            let said = match item? {
                Item::Skipped(_) if !self.started => continue,
                Item::Skipped(skipped) => Err(skipped),
                Item::Frame(frame) => {
                    self.started = true;
                    let message = protocol::Message::decode(frame);
                    message.and_then(|message| {
                        let index = usize::from(frame.vm) - 1;
                        let whole = self.assembler.take(frame.vm, message)?;
                        Ok(whole.map(|whole| (index, whole)))
                    })
                }
            };
            return Some(match said {
                Ok(None) => continue,
                Ok(Some((index, whole))) => Said::About(index, whole),
                Err(skipped) => Said::Skipped(skipped.to_string()),
            });
        }
    }
}
