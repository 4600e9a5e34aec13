//! Text screens, some rows at a time.

use crate::limits::{MAX_COLUMNS, MAX_PAYLOAD, MAX_ROWS};

/// Bytes of a payload before the characters.
pub(crate) const HEAD: usize = 6;

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
