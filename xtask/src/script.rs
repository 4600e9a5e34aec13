//! The script of a run: texts to wait for, keys to type and movements of the mouse, and the watch over what the guest shows.

pub mod wait;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use self::wait::{Goal, Pixel};
use crate::control::TextScreen;
use crate::screen::lines;

/// One step of a run's script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Wait until the text has appeared on the guest's COM1 or on its text screen.
    Until(String),
    /// Wait until a pixel of the guest's picture has this colour.
    UntilPixel(Pixel),
    /// Wait until the guest's picture is this one.
    UntilPicture(Goal),
    /// Let so much time pass.
    Sleep(Duration),
    /// Type the text into the guest's keyboard.
    Type(String),
    /// Do this with the guest's mouse.
    Mouse(String),
    /// Turn to the virtual machine of this number: what follows is about it.
    Focus(usize),
    /// Wait until the picture has not changed for so long.
    Steady(Duration),
    /// Take a picture, after a moment in which the guest can finish drawing.
    Picture {
        /// Whether something blinks: then a second picture with the other phase is taken.
        blinks: bool,
    },
}

impl Step {
    /// What it waits for, as an account of a failure has it: `before ...`. Nothing, if it does something.
    pub fn waits_for(&self) -> Option<String> {
        match self {
            Step::Until(text) => Some(format!("\"{text}\" appeared")),
            Step::UntilPixel(pixel) => Some(pixel.words()),
            Step::UntilPicture(goal) => {
                Some(format!("the picture was that of {}", goal.path.display()))
            }
            Step::Sleep(time) => Some(format!("{} seconds were over", time.as_secs_f64())),
            _ => None,
        }
    }
}

/// Joins steps into one script, by where each stood on the command line.
pub fn in_order(steps: impl IntoIterator<Item = (usize, Step)>) -> Vec<Step> {
    let steps: BTreeMap<usize, Step> = steps.into_iter().collect();
    steps.into_values().collect()
}

/// Bytes of a stream that are kept behind the last match, for the account of a failure.
const KEPT: usize = 64 << 10;

/// Bytes as they come, with a cursor behind the last match.
#[derive(Debug, Default)]
struct Stream {
    data: Vec<u8>,
    cursor: usize,
    scanned: usize,
}

impl Stream {
    fn feed(&mut self, bytes: &[u8]) {
        self.data.extend_from_slice(bytes);
        if self.data.len() > 16 * KEPT {
            let surplus = (self.data.len() - KEPT).min(self.scanned.max(self.cursor));
            self.data.drain(..surplus);
            self.cursor = self.cursor.saturating_sub(surplus);
            self.scanned = self.scanned.saturating_sub(surplus);
        }
    }

    /// Finds `text` behind the cursor and moves the cursor behind it.
    fn take(&mut self, text: &[u8]) -> bool {
        let from = self.cursor.max(self.scanned);
        let found = self.data.get(from..).and_then(|rest| {
            rest.windows(text.len().max(1))
                .position(|window| window == text)
        });
        match found {
            Some(at) => {
                self.cursor = from + at + text.len();
                self.scanned = self.cursor;
            }
            None => self.scanned = (self.data.len() + 1).saturating_sub(text.len()).max(from),
        }
        found.is_some()
    }

    /// Forgets which part was searched, for another text.
    fn rewind(&mut self) {
        self.scanned = self.cursor;
    }
}

/// Takes ANSI escape sequences out of a stream.
#[derive(Debug, Default)]
struct Stripper {
    state: Escape,
}

#[derive(Debug, Default, Clone, Copy)]
enum Escape {
    #[default]
    None,
    /// After ESC.
    Started,
    /// After ESC and a character that announces one more.
    OneMore,
    /// In a control sequence, up to its final byte.
    Control,
    /// In an operating system command, up to BEL or ESC \.
    Command,
}

impl Stripper {
    fn strip(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::with_capacity(bytes.len());
        for &byte in bytes {
            self.state = match (self.state, byte) {
                (_, 0x1b) => Escape::Started,
                (Escape::None, b'\r') => Escape::None,
                (Escape::None, byte) => {
                    plain.push(byte);
                    Escape::None
                }
                (Escape::Started, b'[') => Escape::Control,
                (Escape::Started, b']') => Escape::Command,
                (Escape::Started, b'(' | b')' | b'%' | b'#') => Escape::OneMore,
                (Escape::Started | Escape::OneMore, _) => Escape::None,
                (Escape::Control, 0x40..=0x7e) => Escape::None,
                (Escape::Control, _) => Escape::Control,
                (Escape::Command, 0x07) => Escape::None,
                (Escape::Command, _) => Escape::Command,
            };
        }
        plain
    }
}

/// How often a text has come up on the screen, and whether it is there now.
#[derive(Debug, Default, Clone, Copy)]
struct OnScreen {
    visible: bool,
    times: usize,
}

/// Everything that the guest has shown, searched for the texts of a script.
///
/// On COM1 each text is looked for behind the one before. On the screen a text counts whenever it is there; a text that is
/// waited for a second time must have gone and come back.
#[derive(Debug, Default)]
pub struct Watch {
    raw: Stream,
    plain: Stream,
    stripper: Stripper,
    screen: TextScreen,
    on_screen: HashMap<String, OnScreen>,
    passed: HashMap<String, usize>,
}

impl Watch {
    /// A watch for the texts of `script`.
    pub fn new(script: &[Step]) -> Watch {
        let texts = script.iter().filter_map(|step| match step {
            Step::Until(text) => Some((text.clone(), OnScreen::default())),
            _ => None,
        });
        Watch {
            on_screen: texts.collect(),
            ..Watch::default()
        }
    }

    /// Takes bytes of the guest's COM1.
    pub fn console(&mut self, bytes: &[u8]) {
        self.raw.feed(bytes);
        let plain = self.stripper.strip(bytes);
        self.plain.feed(&plain);
    }

    /// Takes a new text screen.
    pub fn screen(&mut self, screen: TextScreen) {
        let lines = lines(&screen);
        for (text, state) in &mut self.on_screen {
            let visible = lines.iter().any(|line| line.contains(text.as_str()));
            if visible && !state.visible {
                state.times += 1;
            }
            state.visible = visible;
        }
        self.screen = screen;
    }

    /// Whether `text`, the script's next, has appeared; when it has, it is used up.
    pub fn take(&mut self, text: &str) -> bool {
        let before = self.passed.get(text).copied().unwrap_or(0);
        let shown = self
            .on_screen
            .get(text)
            .is_some_and(|state| state.visible && state.times > before);
        let raw = self.raw.take(text.as_bytes());
        let plain = self.plain.take(text.as_bytes());
        let seen = shown || raw || plain;
        if seen {
            self.passed.insert(text.to_owned(), before + 1);
            self.raw.rewind();
            self.plain.rewind();
        }
        seen
    }

    /// The last lines of COM1, without escape sequences.
    pub fn console_tail(&self, lines: usize) -> Vec<String> {
        let start = self.plain.data.len().saturating_sub(KEPT);
        let text =
            String::from_utf8_lossy(self.plain.data.get(start..).unwrap_or_default()).into_owned();
        let all: Vec<&str> = text.lines().collect();
        all.iter()
            .skip(all.len().saturating_sub(lines))
            .map(|&line| line.to_owned())
            .collect()
    }

    /// The rows of the text screen as last shown, without blank rows at the end.
    pub fn screen_rows(&self) -> Vec<String> {
        let mut rows = lines(&self.screen);
        while rows.last().is_some_and(String::is_empty) {
            rows.pop();
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::far;

    fn watch(texts: &[&str]) -> Watch {
        Watch::new(
            &texts
                .iter()
                .map(|text| Step::Until((*text).to_owned()))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn a_script_is_in_the_order_of_the_command_line() {
        let steps = in_order([
            (3, Step::Until("a".into())),
            (9, Step::Until("b".into())),
            (5, Step::Type("x".into())),
            (7, Step::Mouse("left".into())),
        ]);
        assert_eq!(
            steps,
            [
                Step::Until("a".into()),
                Step::Type("x".into()),
                Step::Mouse("left".into()),
                Step::Until("b".into())
            ]
        );
    }

    #[test]
    fn a_text_on_com1_is_found_across_chunks() {
        let mut watch = watch(&["login:"]);
        watch.console(b"debian lo");
        assert!(!watch.take("login:"));
        watch.console(b"gin: ");
        assert!(watch.take("login:"));
    }

    #[test]
    fn texts_on_com1_are_consumed_in_order() {
        let mut watch = watch(&["UP", "A"]);
        watch.console(b"A UP");
        assert!(watch.take("UP"));
        assert!(!watch.take("A"), "it came before");
        assert!(!watch.take("UP"), "it was used up");
        watch.console(b" UP");
        assert!(watch.take("UP"));
    }

    #[test]
    fn a_search_for_one_text_does_not_hide_the_next_texts_bytes() {
        let mut watch = watch(&["abc", "bc"]);
        watch.console(b"xxbc");
        assert!(!watch.take("abc"));
        watch.console(b" abc bc");
        assert!(watch.take("abc"));
        assert!(watch.take("bc"));
    }

    #[test]
    fn escape_sequences_do_not_hide_a_text() {
        let mut watch = watch(&["Select a language"]);
        watch.console(b"\x1b[1;1HSelect \x1b[0;37;44ma \x1b(Blanguage");
        assert!(watch.take("Select a language"));
    }

    #[test]
    fn a_text_with_escape_sequences_is_found_as_it_is() {
        let mut watch = watch(&["\x1b[2J"]);
        watch.console(b"..\x1b[2J..");
        assert!(watch.take("\x1b[2J"));
    }

    #[test]
    fn a_text_is_found_in_a_row_of_the_screen() {
        let mut watch = watch(&["grub>", "> x"]);
        watch.screen(far::screen(&["GNU GRUB", "", "grub> "]));
        assert!(watch.take("grub>"));
        assert!(!watch.take("> x"));
    }

    #[test]
    fn the_same_text_again_must_come_back_to_the_screen() {
        let mut watch = watch(&["UP", "UP"]);
        watch.screen(far::screen(&["UP"]));
        assert!(watch.take("UP"));
        watch.screen(far::screen(&["UP", "more"]));
        assert!(!watch.take("UP"));
        watch.screen(far::screen(&["BIOS"]));
        watch.screen(far::screen(&["UP"]));
        assert!(watch.take("UP"));
    }

    #[test]
    fn a_text_seen_on_com1_does_not_count_again_when_the_screen_shows_it() {
        let mut watch = watch(&["UP", "UP"]);
        watch.console(b"UP\n");
        assert!(watch.take("UP"));
        watch.screen(far::screen(&["UP"]));
        assert!(!watch.take("UP"));
    }

    #[test]
    fn a_flood_on_com1_is_not_kept() {
        let mut watch = watch(&["never", "end"]);
        for _ in 0..1000 {
            watch.console(&[b'x'; 4096]);
            assert!(!watch.take("never"));
        }
        assert!(watch.raw.data.len() <= 17 * KEPT);
        watch.console(b"never");
        assert!(watch.take("never"));
    }

    #[test]
    fn the_tail_is_the_last_lines() {
        let mut watch = watch(&[]);
        watch.console(b"1\r\n2\r\n\x1b[1m3\r\n");
        assert_eq!(watch.console_tail(2), ["2", "3"]);
    }
}
