//! The tool's end: whole screens, pictures and reports out of their parts.

use alloc::string::String;
use alloc::vec::Vec;

use crate::limits::MAX_REPORT;
use crate::message::{Event, Message};
use crate::picture::{Band, Size};
use crate::skipped::Skipped;
use crate::text::TextRows;

/// A whole message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whole {
    /// See [`Message::Hello`].
    Hello(u16),
    /// See [`Message::Console`].
    Console(Vec<u8>),
    /// The guest's text screen has changed; a screen of no cells means that it shows graphics now.
    Text(TextScreen),
    /// The picture that was asked for.
    Screenshot(Picture),
    /// The report that was asked for, as JSON.
    Report(String),
    /// See [`Message::Debug`].
    Debug(Vec<u8>),
    /// See [`Message::Trace`].
    Trace(Vec<u8>),
    /// See [`Message::Event`].
    Event(Event<String>),
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

/// Puts parts together.
#[derive(Debug, Default)]
pub struct Assembler {
    /// The virtual machine that the parts are about.
    vm: u8,
    text: Option<TextScreen>,
    /// A picture, and the rows that it has.
    picture: Option<(Size, u16, Vec<u8>)>,
    report: Vec<u8>,
    /// The rest of the report is passed over.
    too_long: bool,
}

impl Assembler {
    /// Bytes of parts that wait for the rest.
    #[must_use]
    pub fn held(&self) -> usize {
        let text = self.text.as_ref().map_or(0, |text| text.cells.len());
        let picture = self.picture.as_ref().map_or(0, |(.., rgb)| rgb.len());
        text + picture + self.report.len()
    }

    /// Takes a message about the virtual machine `vm`, and gives what is whole with it.
    ///
    /// # Errors
    /// The part does not continue what came before, which is forgotten.
    pub fn take(&mut self, vm: u8, message: Message<'_>) -> Result<Option<Whole>, Skipped> {
        if vm != self.vm {
            // Umbra ends what it has begun before it turns to another.
            *self = Self {
                vm,
                ..Self::default()
            };
        }
        Ok(match message {
            Message::Hello(version) => Some(Whole::Hello(version)),
            Message::Console(bytes) => Some(Whole::Console(bytes.to_vec())),
            Message::Text(rows) => self.text(rows)?.map(Whole::Text),
            Message::Picture(size) => {
                self.begin(size)?;
                None
            }
            Message::Band(band) => self.band(band)?.map(Whole::Screenshot),
            Message::Report { last, piece } => self.report(last, piece)?.map(Whole::Report),
            Message::Debug(bytes) => Some(Whole::Debug(bytes.to_vec())),
            Message::Trace(chunk) => Some(Whole::Trace(chunk.to_vec())),
            Message::Event(event) => Some(Whole::Event(event.map(String::from))),
        })
    }

    fn text(&mut self, part: TextRows<'_>) -> Result<Option<TextScreen>, Skipped> {
        let (cols, rows) = (usize::from(part.columns()), usize::from(part.rows()));
        let before = self.text.take();
        let mut screen = match before.filter(|_| part.first() > 0) {
            Some(screen) => screen,
            None => TextScreen {
                cols,
                rows,
                cells: Vec::new(),
            },
        };
        if (screen.cols, screen.rows) != (cols, rows)
            || screen.cells.len() != cols * usize::from(part.first())
        {
            return Err(Skipped::Incomplete("a text screen with rows missing"));
        }
        screen.cells.extend_from_slice(part.cells());
        if screen.cells.len() == cols * rows {
            return Ok(Some(screen));
        }
        self.text = Some(screen);
        Ok(None)
    }

    fn begin(&mut self, size: Size) -> Result<(), Skipped> {
        let mut rgb = Vec::new();
        let bytes = 3 * usize::from(size.width()) * usize::from(size.height());
        self.picture = None;
        if rgb.try_reserve_exact(bytes).is_err() {
            return Err(Skipped::Incomplete("no memory for a picture"));
        }
        self.picture = Some((size, 0, rgb));
        Ok(())
    }

    fn band(&mut self, band: Band<'_>) -> Result<Option<Picture>, Skipped> {
        let Some((size, next, mut rgb)) = self.picture.take() else {
            return Err(Skipped::Incomplete("rows of no picture"));
        };
        let end = band.y().saturating_add(band.rows());
        if band.y() != next || end > size.height() {
            return Err(Skipped::Incomplete("a picture with rows missing"));
        }
        let unpacked = band.unpack(size.width(), &mut |times, pixels| {
            for _ in 0..times {
                rgb.extend_from_slice(pixels);
            }
        });
        if unpacked.is_none() {
            return Err(Skipped::Incomplete("a picture whose rows are damaged"));
        }
        if end < size.height() {
            self.picture = Some((size, end, rgb));
            return Ok(None);
        }
        Ok(Some(Picture {
            width: size.width().into(),
            height: size.height().into(),
            rgb,
        }))
    }

    fn report(&mut self, last: bool, piece: &[u8]) -> Result<Option<String>, Skipped> {
        self.too_long |= self.report.len() + piece.len() > MAX_REPORT;
        if !self.too_long {
            self.report.extend_from_slice(piece);
        }
        if !last {
            return Ok(None);
        }
        let report = core::mem::take(&mut self.report);
        if core::mem::take(&mut self.too_long) {
            return Err(Skipped::Incomplete("a report that is too long"));
        }
        match String::from_utf8(report) {
            Ok(report) => Ok(Some(report)),
            Err(_) => Err(Skipped::Incomplete("a report that is not UTF-8")),
        }
    }
}
