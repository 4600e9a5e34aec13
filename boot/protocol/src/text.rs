//! Text screens, some rows at a time.

use crate::frame;
use crate::message::Message;
use crate::{MAX_COLUMNS, MAX_PAYLOAD, MAX_ROWS};

/// Bytes of a payload before the characters.
const HEAD: usize = 6;

// A row of the widest screen fits.
const _: () = assert!(HEAD + MAX_COLUMNS as usize <= MAX_PAYLOAD);

/// Rows of a text screen, from the top; the screen is whole with its last row. Within the limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TextRows<'a> {
    columns: u16,
    rows: u16,
    first: u16,
    cells: &'a [u8],
}

impl<'a> TextRows<'a> {
    /// No text at all: graphics.
    pub const NONE: TextRows<'static> = TextRows {
        columns: 0,
        rows: 0,
        first: 0,
        cells: &[],
    };

    /// Rows from row `first` on of a screen of `rows` by `columns` characters. `cells` are their characters in code page 437, row by
    /// row. None: they are outside the limits.
    #[must_use]
    pub fn new(columns: u16, rows: u16, first: u16, cells: &'a [u8]) -> Option<Self> {
        if (columns, rows, first, cells.len()) == (0, 0, 0, 0) {
            return Some(Self::NONE);
        }
        let sane = (1..=MAX_COLUMNS).contains(&columns)
            && (1..=MAX_ROWS).contains(&rows)
            && !cells.is_empty()
            && cells.len() <= MAX_PAYLOAD - HEAD;
        let (count, rest) = match usize::from(columns) {
            0 => return None,
            columns => (cells.len() / columns, cells.len() % columns),
        };
        let inside = rest == 0 && usize::from(first) + count <= rows.into();
        (sane && inside).then_some(Self {
            columns,
            rows,
            first,
            cells,
        })
    }

    /// Characters in a row of the screen; 0 if it shows no text.
    #[must_use]
    pub fn columns(&self) -> u16 {
        self.columns
    }

    /// Rows of the screen.
    #[must_use]
    pub fn rows(&self) -> u16 {
        self.rows
    }

    /// The first of these rows.
    #[must_use]
    pub fn first(&self) -> u16 {
        self.first
    }

    /// The characters.
    #[must_use]
    pub fn cells(&self) -> &'a [u8] {
        self.cells
    }

    pub(crate) fn head(&self) -> [u8; HEAD] {
        let ([a, b], [c, d], [e, f]) = (
            self.columns.to_le_bytes(),
            self.rows.to_le_bytes(),
            self.first.to_le_bytes(),
        );
        [a, b, c, d, e, f]
    }

    pub(crate) fn decode(payload: &'a [u8]) -> Result<Self, &'static str> {
        let (&[a, b, c, d, e, f], cells) =
            payload.split_first_chunk::<HEAD>().ok_or("it ends early")?;
        let word = u16::from_le_bytes;
        Self::new(word([a, b]), word([c, d]), word([e, f]), cells)
            .ok_or("a text screen outside the limits")
    }
}

/// Makes messages of a text screen that is given row by row. It needs no memory but `buffer`.
pub struct Rows<'a> {
    columns: u16,
    rows: u16,
    /// The first row in the buffer.
    first: u16,
    buffer: &'a mut [u8; MAX_PAYLOAD],
    len: usize,
}

impl<'a> Rows<'a> {
    /// A screen of `rows` by `columns` characters begins. What is beyond the limits is cut.
    pub fn begin(columns: u16, rows: u16, buffer: &'a mut [u8; MAX_PAYLOAD]) -> Self {
        Self {
            columns: columns.clamp(1, MAX_COLUMNS),
            rows: rows.clamp(1, MAX_ROWS),
            first: 0,
            buffer,
            len: 0,
        }
    }

    /// The next row.
    pub fn row(&mut self, cells: &[u8], send: &mut dyn FnMut(Message<'_>)) {
        let columns = usize::from(self.columns);
        if self.next() >= self.rows {
            return;
        }
        if self.len + columns > MAX_PAYLOAD - HEAD {
            self.flush(send);
        }
        let place = self.buffer.get_mut(self.len..self.len + columns);
        let cells = cells.iter().copied().chain(core::iter::repeat(b' '));
        for (to, cell) in place.unwrap_or_default().iter_mut().zip(cells) {
            *to = cell;
        }
        self.len += columns;
    }

    /// The screen is complete; rows that were not given are blank.
    pub fn end(mut self, send: &mut dyn FnMut(Message<'_>)) {
        while self.next() < self.rows {
            self.row(&[], send);
        }
        self.flush(send);
    }

    /// The row that comes next.
    fn next(&self) -> u16 {
        self.first + (self.len / usize::from(self.columns)) as u16
    }

    fn flush(&mut self, send: &mut dyn FnMut(Message<'_>)) {
        let cells = self.buffer.get(..self.len).unwrap_or_default();
        if let Some(rows) = TextRows::new(self.columns, self.rows, self.first, cells) {
            send(Message::Text(rows));
        }
        self.first = self.next();
        self.len = 0;
    }
}

// A header's length has 16 bits.
const _: () = assert!(MAX_PAYLOAD <= u16::MAX as usize && frame::HEADER == 7);
