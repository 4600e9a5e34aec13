//! Reports, a piece at a time.

use core::fmt;

use crate::limits::MAX_PAYLOAD;
use crate::message::Message;

/// Makes messages of what is written. It needs no memory but `buffer`.
pub struct Report<'a, 's> {
    buffer: &'a mut [u8; MAX_PAYLOAD],
    len: usize,
    send: &'s mut dyn FnMut(Message<'_>),
}

impl<'a, 's> Report<'a, 's> {
    /// A report begins.
    pub fn begin(buffer: &'a mut [u8; MAX_PAYLOAD], send: &'s mut dyn FnMut(Message<'_>)) -> Self {
        Self {
            buffer,
            len: 0,
            send,
        }
    }

    /// The report is complete.
    pub fn end(mut self) {
        self.flush(true);
    }

    fn flush(&mut self, last: bool) {
        let piece = self.buffer.get(..self.len).unwrap_or_default();
        (self.send)(Message::Report { last, piece });
        self.len = 0;
    }
}

impl fmt::Write for Report<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            // One byte of the frame says whether it is the last.
            if self.len == MAX_PAYLOAD - 1 {
                self.flush(false);
            }
            if let Some(place) = self.buffer.get_mut(self.len) {
                *place = byte;
                self.len += 1;
            }
        }
        Ok(())
    }
}
