//! Umbra's half of the conversation, for tests of this half.

use protocol::{Bands, Event, Item, MAX_PAYLOAD, Message, Report, Rows, Size, VERSION};
use std::fmt::Write;

use super::{Picture, Request, TextScreen};

/// The bytes of what `tell` says about the virtual machine `vm`.
fn said(vm: u8, tell: impl FnOnce(&mut [u8; MAX_PAYLOAD], &mut dyn FnMut(Message<'_>))) -> Vec<u8> {
    let mut bytes = Vec::new();
    tell(&mut [0; MAX_PAYLOAD], &mut |message| {
        message.encode(vm, &mut |part| bytes.extend_from_slice(part));
    });
    bytes
}

pub fn hello() -> Vec<u8> {
    said(1, |_, send| send(Message::Hello(VERSION)))
}

pub fn console(vm: u8, bytes: &[u8]) -> Vec<u8> {
    said(vm, |_, send| send(Message::Console(bytes)))
}

pub fn event(vm: u8, event: Event<&str>) -> Vec<u8> {
    said(vm, |_, send| send(Message::Event(event)))
}

pub fn report(json: &str) -> Vec<u8> {
    said(1, |buffer, send| {
        let mut report = Report::begin(buffer, send);
        report.write_str(json).unwrap();
        report.end();
    })
}

pub fn text(rows: &[&str]) -> Vec<u8> {
    let screen = screen(rows);
    said(1, |buffer, send| {
        let mut parts = Rows::begin(screen.cols as u16, screen.rows as u16, buffer);
        for row in screen.cells.chunks(screen.cols) {
            parts.row(row, send);
        }
        parts.end(send);
    })
}

pub fn screen(rows: &[&str]) -> TextScreen {
    let cols = rows.iter().map(|row| row.len()).max().unwrap_or(0);
    let cells = rows
        .iter()
        .flat_map(|row| row.bytes().chain(std::iter::repeat(b' ')).take(cols))
        .collect();
    TextScreen {
        cols,
        rows: rows.len(),
        cells,
    }
}

pub fn picture(picture: &Picture) -> Vec<u8> {
    let size = Size::new(picture.width, picture.height).unwrap();
    said(1, |buffer, send| {
        let mut bands = Bands::begin(size, buffer, send);
        for row in picture.rgb.chunks(3 * picture.width as usize) {
            let pixel = |p: &[u8]| u32::from_be_bytes([0, p[0], p[1], p[2]]);
            bands.row(&row.chunks(3).map(pixel).collect::<Vec<_>>(), send);
        }
        bands.end(send);
    })
}

/// The next request in `bytes`.
pub fn request(decoder: &mut protocol::Decoder, bytes: &mut &[u8]) -> Option<Request> {
    let Item::Frame(frame) = decoder.next(bytes)? else {
        panic!("that is no frame");
    };
    use protocol::Request;
    Some(match Request::decode(frame).unwrap() {
        Request::Hello(version) => Request::Hello(version),
        Request::Keys(codes) => Request::Keys(codes.to_vec()),
        Request::Mouse(mouse) => Request::Mouse(mouse),
        Request::Point(point) => Request::Point(point),
        Request::Input(bytes) => Request::Input(bytes.to_vec()),
        Request::Focus(vm) => Request::Focus(vm),
        Request::Attach(vm) => Request::Attach(vm),
        Request::Debugger(vm, bytes) => Request::Debugger(vm, bytes.to_vec()),
        Request::Detach(vm) => Request::Detach(vm),
        Request::Screenshot => Request::Screenshot,
        Request::Report => Request::Report,
        Request::Quit => Request::Quit,
    })
}
