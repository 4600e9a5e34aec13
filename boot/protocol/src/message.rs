//! What Umbra says to the tool.

use crate::frame::{self, Frame, kind};
use crate::limits::{MAX_PAYLOAD, MAX_SENTENCE, MAX_VMS};
use crate::picture::{Band, Size};
use crate::skipped::Skipped;
use crate::text::TextRows;

/// Something that Umbra says about one of its virtual machines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message<'a> {
    /// Umbra's version of this protocol: the first that it says.
    Hello(u16),
    /// Bytes that the guest wrote to its COM1.
    Console(&'a [u8]),
    /// Rows of the guest's text screen, which has changed. A screen of no rows: it shows graphics now.
    Text(TextRows<'a>),
    /// The picture that was asked for begins. Its rows follow.
    Picture(Size),
    /// Rows of the picture.
    Band(Band<'a>),
    /// A piece of the report that was asked for: JSON.
    Report {
        /// Whether the report ends with it.
        last: bool,
        /// The piece.
        piece: &'a [u8],
    },
    /// Bytes for the debugger that is attached to the virtual machine; none: it is let go of.
    Debug(&'a [u8]),
    /// A chunk of the virtual machine's trace (`hv_core::trace::chunk`), at most [`MAX_PAYLOAD`] bytes.
    Trace(&'a [u8]),
    /// Something happened.
    Event(Event<&'a str>),
}

/// What happened to the guest's machine or to Umbra.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event<T> {
    /// The guests' machines are about to run for the first time.
    Ready,
    /// The guest switched its machine off.
    PowerOff,
    /// The guest's machine was reset and starts again.
    Reset,
    /// Umbra has nothing more to say: the answer to a request to quit.
    Bye,
    /// The machine has got keyboard, mouse and screen.
    Focus,
    /// The guest's machine cannot go on, with the reason.
    Fatal(T),
    /// The guest says that its system has crashed, with what it says of it. Its machine goes on.
    Crashed(T),
    /// The guest has suspended its machine to RAM: nothing of it runs until it is woken.
    Suspended,
    /// The guest's machine wakes from that.
    Woken,
    /// The guest has come to one of the events that it is to be stopped at: which, and what is to be said of it.
    Break(T),
    /// Umbra cannot work on this host or with these options, with the reason.
    Refused(T),
    /// Umbra itself has failed and stops, with what has failed on which of the host's CPUs.
    Failed(T),
}

impl<T> Event<T> {
    /// The same with what `f` makes of its sentence.
    pub fn map<U>(self, f: impl FnOnce(T) -> U) -> Event<U> {
        match self {
            Event::Ready => Event::Ready,
            Event::PowerOff => Event::PowerOff,
            Event::Reset => Event::Reset,
            Event::Bye => Event::Bye,
            Event::Focus => Event::Focus,
            Event::Suspended => Event::Suspended,
            Event::Woken => Event::Woken,
            Event::Fatal(why) => Event::Fatal(f(why)),
            Event::Crashed(why) => Event::Crashed(f(why)),
            Event::Break(why) => Event::Break(f(why)),
            Event::Refused(why) => Event::Refused(f(why)),
            Event::Failed(what) => Event::Failed(f(what)),
        }
    }
}

/// Codes of events, the first byte of their payload.
mod code {
    pub const READY: u8 = 1;
    pub const POWER_OFF: u8 = 2;
    pub const RESET: u8 = 3;
    pub const BYE: u8 = 4;
    pub const FOCUS: u8 = 5;
    pub const FATAL: u8 = 6;
    pub const REFUSED: u8 = 7;
    pub const CRASHED: u8 = 8;
    pub const SUSPENDED: u8 = 9;
    pub const WOKEN: u8 = 10;
    pub const BREAK: u8 = 12;
    pub const FAILED: u8 = 11;
}

impl<'a> Event<&'a str> {
    fn encode(self) -> (u8, &'a str) {
        match self {
            Event::Ready => (code::READY, ""),
            Event::PowerOff => (code::POWER_OFF, ""),
            Event::Reset => (code::RESET, ""),
            Event::Bye => (code::BYE, ""),
            Event::Focus => (code::FOCUS, ""),
            Event::Suspended => (code::SUSPENDED, ""),
            Event::Woken => (code::WOKEN, ""),
            Event::Fatal(why) => (code::FATAL, cut(why)),
            Event::Crashed(why) => (code::CRASHED, cut(why)),
            Event::Break(why) => (code::BREAK, cut(why)),
            Event::Refused(why) => (code::REFUSED, cut(why)),
            Event::Failed(what) => (code::FAILED, cut(what)),
        }
    }

    fn decode(payload: &'a [u8]) -> Result<Self, &'static str> {
        let (&code, sentence) = payload.split_first().ok_or("it is empty")?;
        let sentence = || core::str::from_utf8(sentence).map_err(|_| "its sentence is not UTF-8");
        Ok(match code {
            code::READY => Event::Ready,
            code::POWER_OFF => Event::PowerOff,
            code::RESET => Event::Reset,
            code::BYE => Event::Bye,
            code::FOCUS => Event::Focus,
            code::SUSPENDED => Event::Suspended,
            code::WOKEN => Event::Woken,
            code::FATAL => Event::Fatal(sentence()?),
            code::CRASHED => Event::Crashed(sentence()?),
            code::BREAK => Event::Break(sentence()?),
            code::REFUSED => Event::Refused(sentence()?),
            code::FAILED => Event::Failed(sentence()?),
            _ => return Err("an unknown event"),
        })
    }
}

/// The sentence's beginning that may be sent.
fn cut(sentence: &str) -> &str {
    let end = sentence.floor_char_boundary(MAX_SENTENCE);
    sentence.get(..end).unwrap_or_default()
}

impl<'a> Message<'a> {
    /// Gives the bytes of the message about the virtual machine `vm` (from 1) to `out`. What is too long for one frame becomes several,
    /// which mean the same.
    pub fn encode(&self, vm: u8, out: &mut dyn FnMut(&[u8])) {
        let mut frame = |kind, parts: &[&[u8]]| frame::encode(kind, vm, parts, out);
        match self {
            Message::Hello(version) => frame(kind::HELLO, &[&version.to_le_bytes()]),
            Message::Console(bytes) => {
                for part in bytes.chunks(MAX_PAYLOAD) {
                    frame(kind::CONSOLE, &[part]);
                }
            }
            Message::Text(rows) => frame(kind::TEXT, &[&rows.head(), rows.cells()]),
            Message::Picture(size) => frame(kind::PICTURE, &[&size.encode()]),
            Message::Band(band) => frame(kind::BAND, &[&band.head(), band.tokens()]),
            Message::Report { last, piece } => {
                let mut rest = *piece;
                while let Some((part, more)) = rest.split_at_checked(MAX_PAYLOAD - 1) {
                    frame(kind::REPORT, &[&[0], part]);
                    rest = more;
                }
                frame(kind::REPORT, &[&[u8::from(*last)], rest]);
            }
            Message::Debug([]) => frame(kind::DEBUG, &[]),
            Message::Debug(bytes) => {
                for part in bytes.chunks(MAX_PAYLOAD) {
                    frame(kind::DEBUG, &[part]);
                }
            }
            Message::Trace(chunk) => frame(kind::TRACE, &[chunk]),
            Message::Event(event) => {
                let (code, sentence) = event.encode();
                frame(kind::EVENT, &[&[code], sentence.as_bytes()]);
            }
        }
    }

    /// The message in `frame`.
    ///
    /// # Errors
    /// It is of no known kind, or its contents are outside the limits.
    pub fn decode(frame: Frame<'a>) -> Result<Self, Skipped> {
        let Frame { kind, vm, payload } = frame;
        let message = match kind {
            // Of a later version, more may follow.
            kind::HELLO => match payload.split_first_chunk() {
                Some((version, _)) => Ok(Message::Hello(u16::from_le_bytes(*version))),
                None => Err("it ends early"),
            },
            kind::CONSOLE => Ok(Message::Console(payload)),
            kind::TEXT => TextRows::decode(payload).map(Message::Text),
            kind::PICTURE => Size::decode(payload).map(Message::Picture),
            kind::BAND => Band::decode(payload).map(Message::Band),
            kind::REPORT => match payload.split_first() {
                Some((&last @ 0..=1, piece)) => Ok(Message::Report {
                    last: last != 0,
                    piece,
                }),
                _ => Err("it does not say whether it is the last"),
            },
            kind::DEBUG => Ok(Message::Debug(payload)),
            kind::TRACE => Ok(Message::Trace(payload)),
            kind::EVENT => Event::decode(payload).map(Message::Event),
            _ => return Err(Skipped::Unknown(kind)),
        };
        message
            .and_then(|message| match vm {
                1..=MAX_VMS => Ok(message),
                _ => Err("it is about no virtual machine that there can be"),
            })
            .map_err(|why| Skipped::Malformed { kind, why })
    }
}
