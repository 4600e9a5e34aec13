//! A picture as lines of text, for a log: PNG (W3C Recommendation, *Portable Network Graphics*, third edition) in base64.

use alloc::boxed::Box;
use alloc::vec::Vec;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use miniz_oxide::DataFormat;
use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, TDEFLStatus, compress_to_output};

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";
/// Bytes a line of base64, which makes 76 characters.
const LINE: usize = 57;
/// The compression level: pictures of text need no more.
const LEVEL: u8 = 6;
/// 8 bits a sample, red green blue, and the only methods of compression, filtering and interlacing ("IHDR Image header").
const FORMAT: [u8; 5] = [8, 2, 0, 0, 0];

/// Makes lines of what is written.
struct Lines<'a> {
    line: &'a mut dyn FnMut(&str),
    waiting: [u8; LINE],
    len: usize,
}

impl Lines<'_> {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.waiting[self.len] = byte;
            self.len += 1;
            if self.len == LINE {
                self.flush();
            }
        }
    }

    fn flush(&mut self) {
        let mut text = [0; LINE.div_ceil(3) * 4];
        let encoded = STANDARD.encode_slice(&self.waiting[..self.len], &mut text);
        self.len = 0;
        let text = encoded.ok().and_then(|n| text.get(..n));
        if let Some(text) = text.and_then(|text| core::str::from_utf8(text).ok())
            && !text.is_empty()
        {
            (self.line)(text);
        }
    }

    fn chunk(&mut self, kind: &[u8; 4], data: &[u8]) {
        let mut sum = crc32fast::Hasher::new();
        sum.update(kind);
        sum.update(data);
        self.write(&(data.len() as u32).to_be_bytes());
        self.write(kind);
        self.write(data);
        self.write(&sum.finalize().to_be_bytes());
    }
}

/// Writes the picture of `width` pixels a row (`0xRRGGBB`, row by row) to `line`, a line of at most 76 characters at a time. The picture
/// is compressed as it goes: what it takes does not depend on its size.
pub fn write_png(width: u32, pixels: &[u32], line: &mut dyn FnMut(&str)) {
    let rows = pixels.chunks_exact(width.max(1) as usize);
    let mut lines = Lines {
        line,
        waiting: [0; LINE],
        len: 0,
    };
    lines.write(SIGNATURE);
    let mut header = Vec::with_capacity(13);
    header.extend(width.to_be_bytes());
    header.extend((rows.len() as u32).to_be_bytes());
    header.extend(FORMAT);
    lines.chunk(b"IHDR", &header);
    let mut compressor = Box::<CompressorOxide>::default();
    compressor.set_format_and_level(DataFormat::Zlib, LEVEL);
    let mut pass = |bytes: &[u8], flush| {
        let (status, _) = compress_to_output(&mut compressor, bytes, flush, |out| {
            lines.chunk(b"IDAT", out);
            true
        });
        matches!(status, TDEFLStatus::Okay | TDEFLStatus::Done)
    };
    let mut bytes = Vec::with_capacity(1 + 3 * width as usize);
    let mut whole = true;
    for row in rows {
        // No filter.
        bytes.clear();
        bytes.push(0);
        for pixel in row {
            bytes.extend_from_slice(&pixel.to_be_bytes()[1..]);
        }
        whole &= pass(&bytes, TDEFLFlush::None);
    }
    whole &= pass(&[], TDEFLFlush::Finish);
    debug_assert!(whole, "the compressor takes all there is");
    lines.chunk(b"IEND", &[]);
    lines.flush();
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    #[test]
    fn pictures_come_out_as_they_went_in() {
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
            write_png(width, &pixels, &mut |line| {
                assert!(line.len() <= 76);
                text.push_str(line);
            });
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
