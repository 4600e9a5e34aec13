//! Umbra's half of the protocol, for tests of the host's half.

use super::{Decoder, HEADER, Mouse, Picture, Request, TextScreen, frame, kind};

pub fn console(bytes: &[u8]) -> Vec<u8> {
    frame(kind::CONSOLE, bytes)
}

pub fn vm(number: u8) -> Vec<u8> {
    frame(kind::VM, &[number])
}

pub fn event(text: &str) -> Vec<u8> {
    frame(kind::EVENT, text.as_bytes())
}

pub fn report(json: &str) -> Vec<u8> {
    frame(kind::REPORT, json.as_bytes())
}

pub fn text(rows: &[&str]) -> Vec<u8> {
    frame(kind::TEXT, &text_payload(&screen(rows)))
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

pub fn text_payload(screen: &TextScreen) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend_from_slice(&(screen.cols as u16).to_le_bytes());
    payload.extend_from_slice(&(screen.rows as u16).to_le_bytes());
    payload.extend_from_slice(&screen.cells);
    payload
}

pub fn picture(picture: &Picture) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.extend_from_slice(&picture.width.to_le_bytes());
    payload.extend_from_slice(&picture.height.to_le_bytes());
    for pixel in picture.rgb.chunks(3) {
        payload.extend_from_slice(&[1, 0]);
        payload.extend_from_slice(pixel);
    }
    frame(kind::SCREENSHOT, &payload)
}

pub fn request(decoder: &mut Decoder) -> Option<Request> {
    let length = u32::from_le_bytes(decoder.pending.get(1..HEADER)?.try_into().ok()?) as usize;
    let payload = decoder.pending.get(HEADER..HEADER + length)?.to_vec();
    let request = match decoder.pending.first()? {
        &kind::KEYS => Request::Keys(payload),
        &kind::MOUSE => {
            let [x0, x1, y0, y1, wheel, buttons] = payload.try_into().ok()?;
            Request::Mouse(Mouse {
                dx: i16::from_le_bytes([x0, x1]),
                dy: i16::from_le_bytes([y0, y1]),
                wheel: wheel.cast_signed(),
                buttons,
            })
        }
        &kind::INPUT => Request::Input(payload),
        &kind::VM => Request::Focus(payload[0]),
        &kind::SCREENSHOT => Request::Screenshot,
        &kind::REPORT => Request::Report,
        &kind::QUIT => Request::Quit,
        other => panic!("request {other:#x}"),
    };
    decoder.pending.drain(..HEADER + length);
    Some(request)
}
