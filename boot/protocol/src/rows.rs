//! Messages of a text screen that is drawn row by row.

use crate::limits::{MAX_COLUMNS, MAX_PAYLOAD, MAX_ROWS};
use crate::message::Message;
use crate::text::{HEAD, TextRows};

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
