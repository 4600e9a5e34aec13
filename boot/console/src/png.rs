//! A picture as lines of text, for a log: PNG (W3C Recommendation, *Portable Network Graphics*, third edition) in base64.

use alloc::boxed::Box;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use miniz_oxide::DataFormat;
use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, TDEFLStatus, compress_to_output};

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Bytes a line of base64, which makes 76 characters.
const LINE: usize = 57;
/// Pixels that are compressed at a time.
const PART: usize = 64;
/// The compression level: pictures of text need no more.
const LEVEL: u8 = 6;
/// 8 bits a sample, red green blue, and the only methods of compression, filtering and interlacing ("IHDR Image header").
const FORMAT: [u8; 5] = [8, 2, 0, 0, 0];

/// Makes lines of what is written.
struct Lines {
    waiting: [u8; LINE],
    len: usize,
}

impl Lines {
    fn write(&mut self, bytes: &[u8], line: &mut dyn FnMut(&str)) {
        for &byte in bytes {
            self.waiting[self.len] = byte;
            self.len += 1;
            if self.len == LINE {
                self.flush(line);
            }
        }
    }

    fn flush(&mut self, line: &mut dyn FnMut(&str)) {
        let mut text = [0; LINE.div_ceil(3) * 4];
        let encoded = STANDARD.encode_slice(&self.waiting[..self.len], &mut text);
        self.len = 0;
        let text = encoded.ok().and_then(|n| text.get(..n));
        if let Some(text) = text.and_then(|text| core::str::from_utf8(text).ok())
            && !text.is_empty()
        {
            line(text);
        }
    }

    fn chunk(&mut self, kind: &[u8; 4], data: &[u8], line: &mut dyn FnMut(&str)) {
        let mut sum = crc32fast::Hasher::new();
        sum.update(kind);
        sum.update(data);
        self.write(&(data.len() as u32).to_be_bytes(), line);
        self.write(kind, line);
        self.write(data, line);
        self.write(&sum.finalize().to_be_bytes(), line);
    }
}

/// Writes pictures, row by row, in lines of at most 76 characters. They are compressed as they go: what it takes does not depend on
/// their size, and is taken once.
pub struct PngWriter {
    compressor: Box<CompressorOxide>,
    lines: Lines,
}

impl Default for PngWriter {
    fn default() -> Self {
        Self {
            compressor: Box::default(),
            lines: Lines {
                waiting: [0; LINE],
                len: 0,
            },
        }
    }
}

impl PngWriter {
    /// A picture of `width` by `height` pixels begins.
    pub fn begin(&mut self, width: u32, height: u32, line: &mut dyn FnMut(&str)) {
        self.compressor.reset();
        self.compressor
            .set_format_and_level(DataFormat::Zlib, LEVEL);
        self.lines.len = 0;
        self.lines.write(SIGNATURE, line);
        let mut header = [0; 13];
        header[..4].copy_from_slice(&width.to_be_bytes());
        header[4..8].copy_from_slice(&height.to_be_bytes());
        header[8..].copy_from_slice(&FORMAT);
        self.lines.chunk(b"IHDR", &header, line);
    }

    /// The next row: `0xRRGGBB` from the left. All have the same width.
    pub fn row(&mut self, pixels: &[u32], line: &mut dyn FnMut(&str)) {
        // No filter.
        self.pass(&[0], TDEFLFlush::None, line);
        for part in pixels.chunks(PART) {
            let mut bytes = [0; 3 * PART];
            for (to, pixel) in bytes.chunks_exact_mut(3).zip(part) {
                to.copy_from_slice(&pixel.to_be_bytes()[1..]);
            }
            self.pass(&bytes[..3 * part.len()], TDEFLFlush::None, line);
        }
    }

    /// The picture is complete.
    pub fn end(&mut self, line: &mut dyn FnMut(&str)) {
        self.pass(&[], TDEFLFlush::Finish, line);
        self.lines.chunk(b"IEND", &[], line);
        self.lines.flush(line);
    }

    fn pass(&mut self, bytes: &[u8], flush: TDEFLFlush, line: &mut dyn FnMut(&str)) {
        let lines = &mut self.lines;
        let (status, _) = compress_to_output(&mut self.compressor, bytes, flush, |out| {
            lines.chunk(b"IDAT", out, line);
            true
        });
        debug_assert!(
            matches!(status, TDEFLStatus::Okay | TDEFLStatus::Done),
            "the compressor takes all there is"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn pictures_come_out_as_they_went_in() {
        let mut writer = PngWriter::default();
        for (width, height) in [(1u32, 1u32), (720, 400), (333, 77)] {
            let mut state = 1u32;
            let pixels: Vec<u32> = (0..width * height)
                .map(|n| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    if n % 7 == 0 {
                        state >> 8
                    } else {
                        n & 0xff_ffff
                    }
                })
                .collect();
            let mut text = String::new();
            let line = &mut |line: &str| {
                assert!(line.len() <= 76);
                text.push_str(line);
            };
            writer.begin(width, height, line);
            for row in pixels.chunks(width as usize) {
                writer.row(row, line);
            }
            writer.end(line);
            let file = STANDARD.decode(text).unwrap();
            let mut reader = png::Decoder::new(Cursor::new(file)).read_info().unwrap();
            let mut out = vec![0; reader.output_buffer_size().unwrap()];
            let info = reader.next_frame(&mut out).unwrap();
            assert_eq!((info.width, info.height), (width, height));
            let back: Vec<u32> = out
                .chunks_exact(3)
                .map(|p| u32::from_be_bytes([0, p[0], p[1], p[2]]))
                .collect();
            assert_eq!(back, pixels);
        }
    }
}
