//! Sentences that are told while a guest runs: of bounded length, and where there is no memory for one, none.

use alloc::string::String;
use core::fmt::{self, Write};

/// Bytes of the longest sentence; what is longer is cut off.
pub const LONGEST: usize = 400;

/// A string that takes no more memory than it has.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = self.0.capacity() - self.0.len();
        self.0.push_str(&text[..text.floor_char_boundary(room)]);
        Ok(())
    }
}

/// The text in a string of at most [`LONGEST`] bytes; an empty one if there is no memory for it.
#[must_use]
pub fn sentence(text: fmt::Arguments<'_>) -> String {
    let mut bounded = Bounded(String::new());
    if bounded.0.try_reserve_exact(LONGEST).is_ok() {
        // What is told may be a type whose own formatting fails: what it has written until then is told.
        let _ = bounded.write_fmt(text);
    }
    bounded.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_sentence_is_cut_off_at_a_character() {
        assert_eq!(sentence(format_args!("{} of {}", 2, 3)), "2 of 3");
        let long = sentence(format_args!("x{}", "\u{e9}".repeat(LONGEST)));
        assert!(long.len() <= LONGEST && long.len() > LONGEST - 2);
        assert!(long.ends_with('\u{e9}'));
    }
}
