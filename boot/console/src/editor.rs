//! The line that is typed.

use crate::Key;
use crate::screen::COLUMNS;
use alloc::collections::VecDeque;
use alloc::string::String;

/// Longest line: it fits on the screen behind the prompt.
const LONGEST: usize = COLUMNS - 12;
/// Lines that are remembered.
const REMEMBERED: usize = 16;
/// Takes one character off a terminal.
const RUB_OUT: &str = "\x08 \x08";

/// Makes lines of keys.
#[derive(Default)]
pub struct Editor {
    line: String,
    /// Lines before, the latest first.
    history: VecDeque<String>,
    /// How far back in the history the line is; 0: it is a new one.
    back: usize,
}

impl Editor {
    /// Takes a key, and returns the line that it completes. What a terminal has to do goes to `echo`.
    pub fn feed(&mut self, key: Key, echo: &mut impl FnMut(&str)) -> Option<String> {
        match key {
            Key::Char(character) => {
                if self.line.len() < LONGEST {
                    self.line.push(character);
                    echo(character.encode_utf8(&mut [0; 4]));
                }
            }
            Key::Backspace => {
                if self.line.pop().is_some() {
                    echo(RUB_OUT);
                }
            }
            Key::Kill => self.replace(String::new(), echo),
            Key::Up => self.recall(self.back + 1, echo),
            Key::Down => self.recall(self.back.saturating_sub(1), echo),
            Key::Enter => {
                echo("\n");
                self.back = 0;
                let line = core::mem::take(&mut self.line);
                if !line.is_empty() && self.history.front() != Some(&line) {
                    self.history.truncate(REMEMBERED - 1);
                    self.history.push_front(line.clone());
                }
                return Some(line);
            }
        }
        None
    }

    fn recall(&mut self, back: usize, echo: &mut impl FnMut(&str)) {
        let line = match back.checked_sub(1) {
            None => String::new(),
            Some(index) => match self.history.get(index) {
                Some(line) => line.clone(),
                None => return,
            },
        };
        self.back = back;
        self.replace(line, echo);
    }

    fn replace(&mut self, line: String, echo: &mut impl FnMut(&str)) {
        for _ in 0..self.line.len() {
            echo(RUB_OUT);
        }
        echo(&line);
        self.line = line;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(editor: &mut Editor, keys: &[Key]) -> (Vec<String>, String) {
        let (mut lines, mut echoed) = (Vec::new(), String::new());
        for &key in keys {
            lines.extend(editor.feed(key, &mut |text| echoed.push_str(text)));
        }
        (lines, echoed)
    }

    fn word(text: &str) -> Vec<Key> {
        text.chars().map(Key::Char).chain([Key::Enter]).collect()
    }

    #[test]
    fn lines_are_edited_and_echoed() {
        let keys = [
            Key::Char('a'),
            Key::Char('b'),
            Key::Backspace,
            Key::Char('c'),
            Key::Enter,
        ];
        let (lines, echoed) = typed(&mut Editor::default(), &keys);
        assert_eq!(lines, ["ac"]);
        assert_eq!(echoed, "ab\x08 \x08c\n");
        let keys = [Key::Backspace, Key::Char('a'), Key::Kill, Key::Enter];
        assert_eq!(typed(&mut Editor::default(), &keys).0, [""]);
    }

    #[test]
    fn the_history_goes_back_and_forth() {
        let mut editor = Editor::default();
        for text in ["one", "two", "two", ""] {
            typed(&mut editor, &word(text));
        }
        let (lines, _) = typed(&mut editor, &[Key::Up, Key::Up, Key::Up, Key::Enter]);
        assert_eq!(lines, ["one"]);
        let (lines, _) = typed(&mut editor, &[Key::Up, Key::Up, Key::Down, Key::Enter]);
        assert_eq!(lines, ["one"]);
        let (lines, _) = typed(&mut editor, &[Key::Up, Key::Down, Key::Down, Key::Enter]);
        assert_eq!(lines, [""]);
    }

    #[test]
    fn neither_lines_nor_the_history_grow_without_bound() {
        let mut editor = Editor::default();
        let (lines, _) = typed(&mut editor, &word(&"x".repeat(1000)));
        assert_eq!(lines[0].len(), LONGEST);
        for n in 0..100 {
            typed(&mut editor, &word(&n.to_string()));
        }
        assert_eq!(editor.history.len(), REMEMBERED);
    }
}
