//! Pictures, some rows at a time.
//!
//! A band's pixels are *tokens*, from the top row's left pixel on. A token's first byte `c` says what follows: below 80h, `c + 1` pixels
//! of red, green and blue; from 80h on, one pixel that stands for `(c & 3Fh) + 1` alike; from C0h on, one more byte `d`, and then one
//! pixel that stands for `((c & 3Fh) << 8 | d) + 1`. No token goes beyond its row.

use crate::limits::{MAX_HEIGHT, MAX_PAYLOAD, MAX_WIDTH};

/// Bytes of a band's payload before the tokens.
pub(crate) const HEAD: usize = 4;
/// Pixels that a token has at most: all different, few alike, many alike.
pub(crate) const LITERAL: usize = 0x80;
pub(crate) const SHORT: usize = 0x40;
pub(crate) const LONG: usize = 0x4000;
pub(crate) const SHORT_RUN: u8 = 0x80;
pub(crate) const LONG_RUN: u8 = 0xc0;
/// Bytes that a row of `width` pixels takes at most: what alike pixels save pays for the byte before the next ones that are not.
pub(crate) const fn longest(width: usize) -> usize {
    3 * width + width.div_ceil(LITERAL)
}

// A row of the widest picture fits.
const _: () = assert!(HEAD + longest(MAX_WIDTH as usize) <= MAX_PAYLOAD);
const _: () = assert!(MAX_WIDTH as usize <= LONG);

/// A picture's size in pixels, within the limits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size {
    width: u16,
    height: u16,
}

impl Size {
    /// `width` by `height` pixels. None: that is nothing, or more than there can be.
    #[must_use]
    pub fn new(width: u32, height: u32) -> Option<Self> {
        let within = |n: u32, most: u16| u16::try_from(n).ok().filter(|n| (1..=most).contains(n));
        Some(Self {
            width: within(width, MAX_WIDTH)?,
            height: within(height, MAX_HEIGHT)?,
        })
    }

    /// Pixels in a row.
    #[must_use]
    pub fn width(self) -> u16 {
        self.width
    }

    /// Rows.
    #[must_use]
    pub fn height(self) -> u16 {
        self.height
    }

    pub(crate) fn encode(self) -> [u8; 4] {
        let ([a, b], [c, d]) = (self.width.to_le_bytes(), self.height.to_le_bytes());
        [a, b, c, d]
    }

    pub(crate) fn decode(payload: &[u8]) -> Result<Self, &'static str> {
        let &[a, b, c, d] = payload else {
            return Err("it is no size");
        };
        let word = |bytes| u32::from(u16::from_le_bytes(bytes));
        Self::new(word([a, b]), word([c, d])).ok_or("a picture outside the limits")
    }
}

/// Rows of a picture.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Band<'a> {
    y: u16,
    rows: u16,
    tokens: &'a [u8],
}

impl<'a> Band<'a> {
    /// `rows` rows from row `y` on. None: they are outside the limits.
    #[must_use]
    pub fn new(y: u16, rows: u16, tokens: &'a [u8]) -> Option<Self> {
        let inside = rows > 0 && u32::from(y) + u32::from(rows) <= MAX_HEIGHT.into();
        (inside && tokens.len() <= MAX_PAYLOAD - HEAD).then_some(Self { y, rows, tokens })
    }

    /// The first of the rows.
    #[must_use]
    pub fn y(&self) -> u16 {
        self.y
    }

    /// How many they are.
    #[must_use]
    pub fn rows(&self) -> u16 {
        self.rows
    }

    /// Their pixels.
    #[must_use]
    pub fn tokens(&self) -> &'a [u8] {
        self.tokens
    }

    pub(crate) fn head(&self) -> [u8; HEAD] {
        let ([a, b], [c, d]) = (self.y.to_le_bytes(), self.rows.to_le_bytes());
        [a, b, c, d]
    }

    pub(crate) fn decode(payload: &'a [u8]) -> Result<Self, &'static str> {
        let (&[a, b, c, d], tokens) = payload.split_first_chunk::<HEAD>().ok_or("it ends early")?;
        Self::new(
            u16::from_le_bytes([a, b]),
            u16::from_le_bytes([c, d]),
            tokens,
        )
        .ok_or("rows outside the limits")
    }

    /// Gives the rows, of `width` pixels each, to `pixels` as a number of pixels and their red, green and blue: once and for so many
    /// alike, or each of them. None: the tokens do not make these rows.
    pub(crate) fn unpack(&self, width: u16, pixels: &mut dyn FnMut(usize, &[u8])) -> Option<()> {
        let mut left = usize::from(self.rows) * usize::from(width);
        let mut rest = self.tokens;
        while let Some((&first, tail)) = rest.split_first() {
            let low = usize::from(first & 0x3f);
            let (count, times, tail) = match first {
                ..SHORT_RUN => (usize::from(first) + 1, 1, tail),
                SHORT_RUN..LONG_RUN => (1, low + 1, tail),
                LONG_RUN.. => {
                    let (&next, tail) = tail.split_first()?;
                    (1, (low << 8 | usize::from(next)) + 1, tail)
                }
            };
            let (these, tail) = tail.split_at_checked(3 * count)?;
            left = left.checked_sub(count * times)?;
            pixels(times, these);
            rest = tail;
        }
        (left == 0).then_some(())
    }
}
