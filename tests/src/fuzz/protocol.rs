//! The control channel: what each end makes of any bytes, and what becomes of a guest's screen on its way to the tool.

use super::device::device;
use super::display::{VGA_PORTS, VGA_WINDOWS, adapter, program};
use device_model::vga::{MAX_HEIGHT, MAX_WIDTH, Painter, Picture as Shown};
use protocol::{
    Assembler, Bands, Decoder, Item, MAX_PAYLOAD, MAX_REPORT, Message, Picture, Request, Rows,
    Size, TextScreen, Whole,
};

/// What an [`Assembler`] may hold at most, as its crate says.
const HELD: usize = 3 * MAX_WIDTH as usize * MAX_HEIGHT as usize + 256 * 1024 + MAX_REPORT;

/// Gives `data` to a decoder in pieces of the size that the first byte says, with whole headers before some of it: whatever comes of it
/// goes to `item`.
fn decode(data: &[u8], mut item: impl FnMut(Item<'_>)) {
    let Some((&first, data)) = data.split_first() else {
        return;
    };
    let mut decoder = Decoder::new();
    let mut feed = |mut bytes: &[u8]| {
        while let Some(found) = decoder.next(&mut bytes) {
            item(found);
        }
    };
    if first & 1 == 0 {
        return data.chunks(usize::from(first) + 1).for_each(feed);
    }
    // Kind, machine, length and so much payload: the rest of the header is made.
    let mut rest = data;
    while let Some((&[kind, vm, low, high], tail)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([low, high])) % 600;
        let (payload, tail) = tail.split_at(len.min(tail.len()));
        protocol::frame::encode(kind, vm, &[payload], &mut feed);
        rest = tail;
    }
}

/// Umbra's end: any bytes as requests.
pub fn requests(data: &[u8]) {
    decode(data, |item| {
        if let Item::Frame(frame) = item
            && let Ok(request) = Request::decode(frame)
        {
            // What was understood is said the same way again.
            let again = request.to_bytes();
            let mut bytes = &again[..];
            let mut decoder = Decoder::new();
            if let Some(Item::Frame(frame)) = decoder.next(&mut bytes) {
                assert_eq!(Request::decode(frame), Ok(request));
            }
        }
    });
}

/// The tool's end: any bytes as messages.
pub fn messages(data: &[u8]) {
    let mut assembler = Assembler::default();
    decode(data, |item| {
        let Item::Frame(frame) = item else {
            return;
        };
        let Ok(message) = Message::decode(frame) else {
            return;
        };
        match assembler.take(frame.vm, message) {
            Ok(Some(Whole::Screenshot(Picture { width, height, rgb }))) => {
                assert!((1..=MAX_WIDTH).contains(&width) && (1..=MAX_HEIGHT).contains(&height));
                assert_eq!(rgb.len(), 3 * (width * height) as usize);
            }
            Ok(Some(Whole::Text(TextScreen { cols, rows, cells }))) => {
                assert_eq!(cells.len(), cols * rows);
            }
            Ok(_) => {}
            Err(why) => assert!(!why.to_string().is_empty()),
        }
        assert!(assembler.held() <= HELD);
    });
}

/// The tool, as far as it listens.
struct Tool {
    decoder: Decoder,
    assembler: Assembler,
    whole: Vec<Whole>,
}

impl Tool {
    fn hear(&mut self, message: Message<'_>) {
        let Self {
            decoder,
            assembler,
            whole,
        } = self;
        message.encode(1, &mut |mut bytes| {
            while let Some(item) = decoder.next(&mut bytes) {
                let Item::Frame(frame) = item else {
                    panic!("{item:?}");
                };
                let message = Message::decode(frame).expect("Umbra says nothing else");
                whole.extend(assembler.take(frame.vm, message).expect("it is in order"));
            }
        });
    }
}

/// A guest does anything to its display adapter; Umbra sends its screen; the tool must have the same pixels and characters.
pub fn screens(data: &[u8]) {
    let mut shown = Shown::default();
    let mut painter = Painter::default();
    let mut buffer = [0; MAX_PAYLOAD];
    device(
        data,
        adapter(),
        &VGA_PORTS,
        &VGA_WINDOWS,
        |card, bench, f| {
            if f.below(48) != 0 {
                return program(card, bench, f);
            }
            let mut tool = Tool {
                decoder: Decoder::new(),
                assembler: Assembler::default(),
                whole: Vec::new(),
            };
            let screen = card.screen();
            let size = Size::new(screen.width, screen.height).expect("each screen can be sent");
            let (mut rgb, mut pixels) = (Vec::new(), Vec::new());
            let mut bands = Bands::begin(size, &mut buffer, &mut |m| tool.hear(m));
            card.draw(bench.now, &mut painter, &mut |_, row| {
                pixels.extend_from_slice(row);
                rgb.extend(
                    row.iter()
                        .flat_map(|p| [(p >> 16) as u8, (p >> 8) as u8, *p as u8]),
                );
                bands.row(row, &mut |m| tool.hear(m));
            });
            bands.end(&mut |m| tool.hear(m));
            // The host's screen gets only what has changed.
            card.picture(bench.now, &mut shown);
            assert!(shown.pixels == pixels, "nothing was forgotten");
            let picture = Picture {
                width: screen.width,
                height: screen.height,
                rgb,
            };
            assert!(
                tool.whole == [Whole::Screenshot(picture)],
                "the same pixels"
            );
            tool.whole.clear();
            let (mut cells, mut rows) = (Vec::new(), 0);
            let Some(cols) = card.text_rows(&mut |row| {
                cells.extend_from_slice(row);
                rows += 1;
            }) else {
                return;
            };
            let mut parts = Rows::begin(cols as u16, rows, &mut buffer);
            card.text_rows(&mut |row| parts.row(row, &mut |m| tool.hear(m)));
            parts.end(&mut |m| tool.hear(m));
            let text = TextScreen {
                cols: cols as usize,
                rows: rows.into(),
                cells,
            };
            assert!(tool.whole == [Whole::Text(text)], "the same characters");
        },
    );
}
