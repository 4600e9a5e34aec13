//! The control protocol: what the host tool and Umbra say to each other over the outer machine's second serial port.
//!
//! Both directions carry frames of one byte of kind, a little-endian 32-bit length and that many bytes of payload.
//! This file encodes and decodes them and does no input or output. The far side is our own hypervisor, but it may have been
//! confused by a guest: a length or picture size beyond the limits below is an error, never an allocation.

#[cfg(test)]
pub mod far;
#[cfg(test)]
mod tests;

use anyhow::{Context, Result, bail, ensure};

/// Bytes of a frame before its payload.
const HEADER: usize = 5;
/// Longest payload taken: a run-length coded picture of the largest screen fits.
const MAX_PAYLOAD: usize = 64 << 20;
/// Largest width and height of a picture, in pixels.
const MAX_SIDE: u32 = 8192;
/// Largest number of columns or rows of a text screen.
const MAX_TEXT_SIDE: usize = 512;

/// The kinds of frames; a letter means what stands here in its direction only.
mod kind {
    pub const CONSOLE: u8 = b'C';
    pub const TEXT: u8 = b'T';
    pub const SCREENSHOT: u8 = b'S';
    pub const REPORT: u8 = b'R';
    pub const EVENT: u8 = b'E';
    pub const KEYS: u8 = b'K';
    pub const MOUSE: u8 = b'M';
    pub const INPUT: u8 = b'I';
    pub const QUIT: u8 = b'Q';
    pub const VM: u8 = b'V';
}

/// One frame from Umbra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Bytes that the guest wrote to its COM1.
    Console(Vec<u8>),
    /// The guest's text screen has changed; a screen of no cells means that it shows graphics now.
    Text(TextScreen),
    /// The picture that was asked for.
    Screenshot(Picture),
    /// The report that was asked for, as JSON.
    Report(String),
    /// Something happened.
    Event(Event),
    /// The messages behind it are about the virtual machine of this number.
    Vm(u8),
    /// A frame of a kind that this version does not know.
    Unknown(u8),
}

/// What happened to the guest's machine or to Umbra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The guest's machine is about to run for the first time.
    Ready,
    /// The guest switched its machine off.
    PowerOff,
    /// The guest's machine was reset and starts again.
    Reset,
    /// The guest's machine cannot go on, with the reason.
    Fatal(String),
    /// Umbra cannot work on this host or with these options, with the reason.
    Refused(String),
    /// The answer to [`Request::Quit`].
    Bye,
    /// The virtual machine of this number has got keyboard, mouse and screen.
    Focus(usize),
    /// Any other text.
    Other(String),
}

impl Event {
    fn decode(text: &str) -> Event {
        let sentence = |prefix: &str| text.strip_prefix(prefix).map(|rest| rest.trim().to_owned());
        match text.trim() {
            "ready" => Event::Ready,
            "poweroff" => Event::PowerOff,
            "reset" => Event::Reset,
            "bye" => Event::Bye,
            _ => sentence("fatal:")
                .map(Event::Fatal)
                .or_else(|| sentence("refused:").map(Event::Refused))
                .or_else(|| sentence("focus ")?.parse().ok().map(Event::Focus))
                .unwrap_or_else(|| Event::Other(text.to_owned())),
        }
    }
}

/// The characters of a VGA text screen, in code page 437.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextScreen {
    /// Characters in a row.
    pub cols: usize,
    /// Rows.
    pub rows: usize,
    /// `cols * rows` characters, row by row.
    pub cells: Vec<u8>,
}

impl TextScreen {
    fn decode(payload: &[u8]) -> Result<TextScreen> {
        let mut rest = payload;
        let cols = usize::from(take_u16(&mut rest)?);
        let rows = usize::from(take_u16(&mut rest)?);
        ensure!(
            cols <= MAX_TEXT_SIDE && rows <= MAX_TEXT_SIDE,
            "a text screen of {cols} by {rows}"
        );
        ensure!(
            rest.len() == cols * rows,
            "a text screen of {cols} by {rows} in {} bytes",
            rest.len()
        );
        Ok(TextScreen {
            cols,
            rows,
            cells: rest.to_vec(),
        })
    }
}

/// A picture of the guest's screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels in a row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// `width * height` pixels of red, green and blue.
    pub rgb: Vec<u8>,
}

impl Picture {
    fn decode(payload: &[u8]) -> Result<Picture> {
        let mut rest = payload;
        let width = take_u32(&mut rest)?;
        let height = take_u32(&mut rest)?;
        ensure!(
            width > 0 && height > 0 && width <= MAX_SIDE && height <= MAX_SIDE,
            "a picture of {width} by {height}"
        );
        let wanted = width as usize * height as usize * 3;
        let mut rgb = Vec::with_capacity(wanted);
        while let Some((run, tail)) = rest.split_first_chunk::<5>() {
            rest = tail;
            let [low, high, red, green, blue] = *run;
            let count = usize::from(u16::from_le_bytes([low, high]));
            ensure!(
                rgb.len() + count * 3 <= wanted,
                "a picture of {width} by {height} with too many pixels"
            );
            for _ in 0..count {
                rgb.extend_from_slice(&[red, green, blue]);
            }
        }
        ensure!(
            rest.is_empty() && rgb.len() == wanted,
            "a picture of {width} by {height} that ends early"
        );
        Ok(Picture { width, height, rgb })
    }
}

/// What a mouse does at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mouse {
    /// Counts to the right.
    pub dx: i16,
    /// Counts downwards.
    pub dy: i16,
    /// Steps of the wheel towards the user.
    pub wheel: i8,
    /// The buttons that are held from then on: bit 0 left, 1 right, 2 middle.
    pub buttons: u8,
}

/// One frame to Umbra.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Scan codes of set 1 for the guest's keyboard.
    Keys(Vec<u8>),
    /// What the guest's mouse does.
    Mouse(Mouse),
    /// Bytes for the guest's COM1 to receive.
    Input(Vec<u8>),
    /// Gives the virtual machine of this number keyboard, mouse, COM1 and screen.
    Focus(u8),
    /// Asks for a [`Message::Screenshot`].
    Screenshot,
    /// Asks for a [`Message::Report`] of each virtual machine.
    Report,
    /// Asks Umbra to stop; it answers [`Event::Bye`].
    Quit,
}

impl Request {
    /// The request as a frame.
    pub fn encode(&self) -> Vec<u8> {
        let (movement, number);
        let (kind, payload): (u8, &[u8]) = match self {
            Request::Keys(codes) => (kind::KEYS, codes),
            Request::Mouse(Mouse {
                dx,
                dy,
                wheel,
                buttons,
            }) => {
                let ([x0, x1], [y0, y1]) = (dx.to_le_bytes(), dy.to_le_bytes());
                movement = [x0, x1, y0, y1, wheel.cast_unsigned(), *buttons];
                (kind::MOUSE, &movement)
            }
            Request::Input(bytes) => (kind::INPUT, bytes),
            Request::Focus(vm) => {
                number = [*vm];
                (kind::VM, &number)
            }
            Request::Screenshot => (kind::SCREENSHOT, &[]),
            Request::Report => (kind::REPORT, &[]),
            Request::Quit => (kind::QUIT, &[]),
        };
        frame(kind, payload)
    }
}

/// Takes bytes as they arrive and gives whole messages.
///
/// Umbra's first frame is an event. What stands before it was written by the outer machine's firmware, which may take any
/// serial port for a console, and is passed over.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
    synchronized: bool,
}

impl Decoder {
    /// Adds bytes from Umbra.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes come.
    ///
    /// # Errors
    ///
    /// The bytes are not frames of this protocol; nothing after them can be understood.
    pub fn next(&mut self) -> Result<Option<Message>> {
        if !self.synchronized {
            self.synchronize();
            if !self.synchronized {
                return Ok(None);
            }
        }
        let Some((header, rest)) = self.pending.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [kind, length @ ..] = *header;
        let length = u32::from_le_bytes(length) as usize;
        ensure!(
            length <= MAX_PAYLOAD,
            "the control channel is out of step: a frame {kind:#04x} of {length} bytes"
        );
        let Some(payload) = rest.get(..length) else {
            return Ok(None);
        };
        let message = decode(kind, payload)
            .with_context(|| format!("a frame '{}' is damaged", char::from(kind)))?;
        self.pending.drain(..HEADER + length);
        Ok(Some(message))
    }

    /// Looks for the first event, and throws away what is before it.
    fn synchronize(&mut self) {
        let mut start = 0;
        while let Some(rest) = self.pending.get(start..).filter(|rest| !rest.is_empty()) {
            match is_first_event(rest) {
                Some(true) => {
                    self.synchronized = true;
                    break;
                }
                Some(false) => start += 1,
                None => break,
            }
        }
        self.pending.drain(..start);
    }
}

/// Whether `bytes` start with the frame of an event with which Umbra starts; `None` if more bytes have to come.
fn is_first_event(bytes: &[u8]) -> Option<bool> {
    let starts = ["ready", "refused:", "fatal:"];
    let header = bytes.split_first_chunk::<HEADER>();
    let Some(([kind, length @ ..], rest)) = header else {
        return if bytes.first() == Some(&kind::EVENT) {
            None
        } else {
            Some(false)
        };
    };
    let length = u32::from_le_bytes(*length) as usize;
    if *kind != kind::EVENT || length == 0 || length > 4096 {
        return Some(false);
    }
    let text = rest.get(..length).unwrap_or(rest);
    let fits = |start: &&&str| {
        text.iter()
            .zip(start.bytes())
            .all(|(&is, wanted)| is == wanted)
    };
    match starts.iter().find(fits) {
        Some(start) if length >= start.len() => (text.len() == length).then_some(true),
        _ => Some(false),
    }
}

fn decode(kind: u8, payload: &[u8]) -> Result<Message> {
    let text = || String::from_utf8_lossy(payload).into_owned();
    Ok(match kind {
        kind::CONSOLE => Message::Console(payload.to_vec()),
        kind::TEXT => Message::Text(TextScreen::decode(payload)?),
        kind::SCREENSHOT => Message::Screenshot(Picture::decode(payload)?),
        kind::REPORT => Message::Report(text()),
        kind::EVENT => Message::Event(Event::decode(&text())),
        kind::VM => match payload {
            &[number] if number != 0 => Message::Vm(number),
            _ => bail!("it names no virtual machine"),
        },
        other => Message::Unknown(other),
    })
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.push(kind);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn take_u16(rest: &mut &[u8]) -> Result<u16> {
    let Some((bytes, tail)) = rest.split_first_chunk() else {
        bail!("it ends early")
    };
    *rest = tail;
    Ok(u16::from_le_bytes(*bytes))
}

fn take_u32(rest: &mut &[u8]) -> Result<u32> {
    let Some((bytes, tail)) = rest.split_first_chunk() else {
        bail!("it ends early")
    };
    *rest = tail;
    Ok(u32::from_le_bytes(*bytes))
}
