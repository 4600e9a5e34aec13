//! Messages of a picture that is drawn row by row.

use crate::limits::MAX_PAYLOAD;
use crate::message::Message;
use crate::picture::{Band, HEAD, LITERAL, LONG, LONG_RUN, SHORT, SHORT_RUN, Size, longest};

/// Makes messages of a picture that is given row by row. It needs no memory but `buffer`.
pub struct Bands<'a> {
    size: Size,
    /// The first row in the buffer, and how many are there.
    y: u16,
    rows: u16,
    buffer: &'a mut [u8; MAX_PAYLOAD],
    len: usize,
}

impl<'a> Bands<'a> {
    /// A picture begins.
    pub fn begin(
        size: Size,
        buffer: &'a mut [u8; MAX_PAYLOAD],
        send: &mut dyn FnMut(Message<'_>),
    ) -> Self {
        send(Message::Picture(size));
        Self {
            size,
            y: 0,
            rows: 0,
            buffer,
            len: 0,
        }
    }

    /// The next row: `0x00RRGGBB` from the left. What is missing is black.
    pub fn row(&mut self, pixels: &[u32], send: &mut dyn FnMut(Message<'_>)) {
        if self.y + self.rows >= self.size.height() {
            return;
        }
        let width = usize::from(self.size.width());
        if self.len + longest(width) > MAX_PAYLOAD - HEAD {
            self.flush(send);
        }
        let pixels = pixels.get(..width).unwrap_or(pixels);
        self.pack(pixels);
        let mut missing = width - pixels.len();
        while missing > 0 {
            let count = missing.min(LONG);
            self.run(count, 0);
            missing -= count;
        }
        self.rows += 1;
    }

    /// The picture is complete; rows that were not given are black.
    pub fn end(mut self, send: &mut dyn FnMut(Message<'_>)) {
        while self.y + self.rows < self.size.height() {
            self.row(&[], send);
        }
        self.flush(send);
    }

    fn flush(&mut self, send: &mut dyn FnMut(Message<'_>)) {
        let tokens = self.buffer.get(..self.len).unwrap_or_default();
        if let Some(band) = Band::new(self.y, self.rows, tokens) {
            send(Message::Band(band));
        }
        self.y += self.rows;
        self.rows = 0;
        self.len = 0;
    }

    fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.buffer.get_mut(self.len..self.len + bytes.len()) {
            place.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn pixel(&mut self, pixel: u32) {
        let [b, g, r, _] = pixel.to_le_bytes();
        self.put(&[r, g, b]);
    }

    /// Up to [`LONG`] pixels that are alike.
    fn run(&mut self, count: usize, pixel: u32) {
        let [low, high, ..] = (count - 1).to_le_bytes();
        if count <= SHORT {
            self.put(&[SHORT_RUN | low]);
        } else {
            self.put(&[LONG_RUN | high, low]);
        }
        self.pixel(pixel);
    }

    /// Pixels of which no two neighbours are alike.
    fn literals(&mut self, pixels: &[u32]) {
        for part in pixels.chunks(LITERAL) {
            self.put(&[(part.len() - 1) as u8]);
            part.iter().for_each(|&pixel| self.pixel(pixel));
        }
    }

    fn pack(&mut self, pixels: &[u32]) {
        // Where the pixels begin that have not been put, and of which no two neighbours are alike.
        let (mut start, mut at) = (0, 0);
        for run in pixels.chunk_by(|a, b| a == b) {
            if let [first, _, ..] = run {
                self.literals(pixels.get(start..at).unwrap_or_default());
                self.run(run.len(), *first);
                start = at + run.len();
            }
            at += run.len();
        }
        self.literals(pixels.get(start..).unwrap_or_default());
    }
}
