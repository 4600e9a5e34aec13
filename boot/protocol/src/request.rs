//! What the tool asks of Umbra.

use alloc::vec::Vec;

use crate::frame::{self, Frame, kind};
use crate::limits::{MAX_PAYLOAD, MAX_VMS};
use crate::skipped::Skipped;

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

/// Where a pointer is put, and what is done there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Point {
    /// The pixel of the guest's picture, from the left.
    pub x: u16,
    /// From the top.
    pub y: u16,
    /// Steps of the wheel towards the user.
    pub wheel: i8,
    /// The buttons that are held from then on: bit 0 left, 1 right, 2 middle.
    pub buttons: u8,
}

/// Something that the tool asks of Umbra. Bytes are a `T`: slices where they are decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<T> {
    /// The tool's version of this protocol: the answer to [`Message::Hello`](crate::Message::Hello).
    Hello(u16),
    /// Scan codes of set 1 for the guest's keyboard.
    Keys(T),
    /// What the guest's mouse does.
    Mouse(Mouse),
    /// Puts the guest's pointer somewhere, by its tablet.
    Point(Point),
    /// Bytes for the guest's COM1 to receive.
    Input(T),
    /// Gives the virtual machine of this number keyboard, mouse, COM1 and screen.
    Focus(u8),
    /// Asks for a [`Message::Picture`](crate::Message::Picture).
    Screenshot,
    /// Asks for a [`Message::Report`](crate::Message::Report) of each virtual machine.
    Report,
    /// A debugger is there for the virtual machine of this number: it stops, and speaks with it.
    Attach(u8),
    /// What the debugger of the virtual machine of this number says.
    Debugger(u8, T),
    /// It has gone: the machine goes on.
    Detach(u8),
    /// Asks Umbra to stop; it answers [`Event::Bye`](crate::Event::Bye).
    Quit,
}

impl<T: AsRef<[u8]>> Request<T> {
    /// Gives the request's bytes to `out`. What is too long for one frame becomes several, which mean the same.
    pub fn encode(&self, out: &mut dyn FnMut(&[u8])) {
        let mut frame = |kind, vm, parts: &[&[u8]]| frame::encode(kind, vm, parts, out);
        let mut long = |kind, vm, bytes: &T| {
            for part in bytes.as_ref().chunks(MAX_PAYLOAD) {
                frame(kind, vm, &[part]);
            }
        };
        match self {
            Request::Keys(codes) => long(kind::KEYS, 0, codes),
            Request::Input(bytes) => long(kind::INPUT, 0, bytes),
            Request::Hello(version) => frame(kind::ASK_HELLO, 0, &[&version.to_le_bytes()]),
            Request::Mouse(Mouse {
                dx,
                dy,
                wheel,
                buttons,
            }) => {
                let rest = [wheel.cast_unsigned(), *buttons];
                frame(
                    kind::MOUSE,
                    0,
                    &[&dx.to_le_bytes(), &dy.to_le_bytes(), &rest],
                );
            }
            Request::Point(Point {
                x,
                y,
                wheel,
                buttons,
            }) => {
                let rest = [wheel.cast_unsigned(), *buttons];
                frame(kind::POINT, 0, &[&x.to_le_bytes(), &y.to_le_bytes(), &rest]);
            }
            Request::Focus(vm) => frame(kind::FOCUS, *vm, &[]),
            Request::Attach(vm) => frame(kind::ATTACH, *vm, &[]),
            Request::Debugger(vm, bytes) => long(kind::DEBUGGER, *vm, bytes),
            Request::Detach(vm) => frame(kind::DETACH, *vm, &[]),
            Request::Screenshot => frame(kind::ASK_SCREENSHOT, 0, &[]),
            Request::Report => frame(kind::ASK_REPORT, 0, &[]),
            Request::Quit => frame(kind::QUIT, 0, &[]),
        }
    }

    /// The request's bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode(&mut |part| bytes.extend_from_slice(part));
        bytes
    }
}

impl<'a> Request<&'a [u8]> {
    /// The request in `frame`.
    ///
    /// # Errors
    /// It is of no known kind, or its contents are not what its kind says.
    pub fn decode(frame: Frame<'a>) -> Result<Self, Skipped> {
        let Frame { kind, vm, payload } = frame;
        let bare = |request| match payload {
            [] => Ok(request),
            _ => Err("it has contents"),
        };
        let request = match kind {
            // Of a later version, more may follow.
            kind::ASK_HELLO => match payload.split_first_chunk() {
                Some((version, _)) => Ok(Request::Hello(u16::from_le_bytes(*version))),
                None => Err("it ends early"),
            },
            kind::KEYS => Ok(Request::Keys(payload)),
            kind::MOUSE => match *payload {
                [x0, x1, y0, y1, wheel, buttons] => Ok(Request::Mouse(Mouse {
                    dx: i16::from_le_bytes([x0, x1]),
                    dy: i16::from_le_bytes([y0, y1]),
                    wheel: wheel.cast_signed(),
                    buttons,
                })),
                _ => Err("it is no movement"),
            },
            kind::POINT => match *payload {
                [x0, x1, y0, y1, wheel, buttons] => Ok(Request::Point(Point {
                    x: u16::from_le_bytes([x0, x1]),
                    y: u16::from_le_bytes([y0, y1]),
                    wheel: wheel.cast_signed(),
                    buttons,
                })),
                _ => Err("it is no point"),
            },
            kind::INPUT => Ok(Request::Input(payload)),
            kind::FOCUS | kind::ATTACH | kind::DEBUGGER | kind::DETACH
                if !(1..=MAX_VMS).contains(&vm) =>
            {
                Err("it names no virtual machine that there can be")
            }
            kind::FOCUS => bare(Request::Focus(vm)),
            kind::ATTACH => bare(Request::Attach(vm)),
            kind::DEBUGGER => Ok(Request::Debugger(vm, payload)),
            kind::DETACH => bare(Request::Detach(vm)),
            kind::ASK_SCREENSHOT => bare(Request::Screenshot),
            kind::ASK_REPORT => bare(Request::Report),
            kind::QUIT => bare(Request::Quit),
            _ => return Err(Skipped::Unknown(kind)),
        };
        request.map_err(|why| Skipped::Malformed { kind, why })
    }
}
