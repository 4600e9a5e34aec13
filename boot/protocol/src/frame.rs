//! Frames, the channel's bytes: two bytes that begin each, its kind, the number of the virtual machine that it is about (0: none), the
//! payload's length in 16 bits (little-endian), a check of these four bytes; then the payload.
//!
//! The channel loses nothing by itself. The beginning and the check are for what stands *between* frames: words of the outer machine's
//! firmware, of an emulator, or the end of a frame that a panic has cut off.

use crate::limits::MAX_PAYLOAD;
use crate::skipped::Skipped;

/// How a frame begins: bytes that text does not have, neither ASCII nor UTF-8.
pub const BEGIN: [u8; 2] = [0xfe, 0xd5];
/// Bytes of a frame before its payload.
pub const HEADER: usize = 7;
// A header's length has 16 bits.
const _: () = assert!(MAX_PAYLOAD <= u16::MAX as usize && HEADER == 7);

/// Kinds of frames: small letters from Umbra to the tool, capital letters from the tool to Umbra.
pub(crate) mod kind {
    pub const HELLO: u8 = b'h';
    pub const CONSOLE: u8 = b'c';
    pub const TEXT: u8 = b't';
    pub const PICTURE: u8 = b'p';
    pub const BAND: u8 = b'b';
    pub const REPORT: u8 = b'r';
    pub const EVENT: u8 = b'e';
    pub const DEBUG: u8 = b'g';
    pub const TRACE: u8 = b'x';

    pub const ASK_HELLO: u8 = b'H';
    pub const KEYS: u8 = b'K';
    pub const MOUSE: u8 = b'M';
    pub const POINT: u8 = b'P';
    pub const INPUT: u8 = b'I';
    pub const FOCUS: u8 = b'F';
    pub const ASK_SCREENSHOT: u8 = b'S';
    pub const ASK_REPORT: u8 = b'R';
    pub const ATTACH: u8 = b'A';
    pub const DEBUGGER: u8 = b'G';
    pub const DETACH: u8 = b'D';
    pub const QUIT: u8 = b'Q';
}

/// One frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame<'a> {
    /// What it is.
    pub kind: u8,
    /// The virtual machine that it is about, from 1; 0 for none.
    pub vm: u8,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: &'a [u8],
}

/// What a [`Decoder`] has found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Item<'a> {
    /// A whole frame.
    Frame(Frame<'a>),
    /// Something that is none.
    Skipped(Skipped),
}

const fn check(kind: u8, vm: u8, [low, high]: [u8; 2]) -> u8 {
    0xa5 ^ kind ^ vm.rotate_left(1) ^ low.rotate_left(2) ^ high.rotate_left(3)
}

/// Gives the bytes of a frame to `out`; its payload is what `parts` have together, which the caller keeps within [`MAX_PAYLOAD`].
pub fn encode(kind: u8, vm: u8, parts: &[&[u8]], out: &mut dyn FnMut(&[u8])) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    debug_assert!(len <= MAX_PAYLOAD, "a frame '{kind}' of {len} bytes");
    let len = (len as u16).to_le_bytes();
    let ([begin, begins], [low, high]) = (BEGIN, len);
    out(&[begin, begins, kind, vm, low, high, check(kind, vm, len)]);
    parts.iter().for_each(|part| out(part));
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Header,
    /// A payload of `len` bytes; those beyond [`MAX_PAYLOAD`] are not kept.
    Payload {
        kind: u8,
        vm: u8,
        len: u16,
    },
}

/// Takes bytes as they come and finds the frames in them. It holds one payload and allocates nothing.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    header: [u8; HEADER],
    /// Bytes of the header, or of the payload, that are there.
    have: usize,
    payload: [u8; MAX_PAYLOAD],
    /// Bytes passed over since the last frame.
    noise: u64,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// Before the first byte.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: State::Header,
            header: [0; HEADER],
            have: 0,
            payload: [0; MAX_PAYLOAD],
            noise: 0,
        }
    }

    /// Whether the bytes that came last, since the last frame, are none: what they are is told when the next frame begins.
    #[must_use]
    pub const fn is_passing_over(&self) -> bool {
        self.noise != 0
    }

    /// Takes bytes from the front of `bytes` up to the next item. `None`: all are taken, and more have to come.
    pub fn next<'a>(&'a mut self, bytes: &mut &[u8]) -> Option<Item<'a>> {
        loop {
            match self.state {
                State::Header => {
                    let (&byte, rest) = bytes.split_first()?;
                    *bytes = rest;
                    if !self.take_header(byte) {
                        continue;
                    }
                    let noise = core::mem::take(&mut self.noise);
                    if noise != 0 {
                        return Some(Item::Skipped(Skipped::Noise(noise)));
                    }
                }
                State::Payload { kind, vm, len } => {
                    let (part, rest) =
                        bytes.split_at((usize::from(len) - self.have).min(bytes.len()));
                    *bytes = rest;
                    let kept = self.payload.get_mut(self.have..).unwrap_or_default();
                    for (to, from) in kept.iter_mut().zip(part) {
                        *to = *from;
                    }
                    self.have += part.len();
                    if self.have < usize::from(len) {
                        return None;
                    }
                    self.state = State::Header;
                    self.have = 0;
                    return Some(match self.payload.get(..len.into()) {
                        Some(payload) => Item::Frame(Frame { kind, vm, payload }),
                        None => Item::Skipped(Skipped::TooLong { kind, len }),
                    });
                }
            }
        }
    }

    /// Takes one byte of a header. True: it is complete, and the payload is next.
    fn take_header(&mut self, byte: u8) -> bool {
        if let Some(place) = self.header.get_mut(self.have) {
            *place = byte;
            self.have += 1;
        }
        while self.have > 0 && !self.may_be_header() {
            self.header.copy_within(1.., 0);
            self.have -= 1;
            self.noise = self.noise.saturating_add(1);
        }
        if self.have < HEADER {
            return false;
        }
        let [_, _, kind, vm, low, high, _] = self.header;
        let len = u16::from_le_bytes([low, high]);
        self.state = State::Payload { kind, vm, len };
        self.have = 0;
        true
    }

    /// Whether the bytes that are there can be the beginning of a header, or a whole one.
    fn may_be_header(&self) -> bool {
        let begins = BEGIN.iter().zip(&self.header).take(self.have);
        let [_, _, kind, vm, low, high, sum] = self.header;
        begins.into_iter().all(|(wanted, is)| wanted == is)
            && (self.have < HEADER || sum == check(kind, vm, [low, high]))
    }
}
