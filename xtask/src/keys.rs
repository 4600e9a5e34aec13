//! Text to scan codes: what a US keyboard sends, in scan code set 1, when a person types it.
//!
//! The codes are those of the IBM PC/AT Technical Reference, "Keyboard": a make code, and the same with bit 7 set for the
//! break; the keys which the 84-key board did not have are prefixed by E0. Every key is sent as make and break together, with
//! Shift or Ctrl held around it where the character needs that.

use anyhow::{Result, bail};

const LEFT_CTRL: u8 = 0x1d;
const LEFT_SHIFT: u8 = 0x2a;
const LEFT_ALT: u8 = 0x38;
const EXTENDED: u8 = 0xe0;
const BREAK: u8 = 0x80;

/// The rows of a US keyboard: first make code, then what the keys give plain and with Shift.
const ROWS: [(u8, &str, &str); 5] = [
    (0x02, "1234567890-=", "!@#$%^&*()_+"),
    (0x10, "qwertyuiop[]", "QWERTYUIOP{}"),
    (0x1e, "asdfghjkl;'`", "ASDFGHJKL:\"~"),
    (0x2b, "\\zxcvbnm,./", "|ZXCVBNM<>?"),
    (0x39, " ", " "),
];

/// Keys without a character: the name, whether E0 precedes it, and the make code.
const NAMED: [(&str, bool, u8); 56] = [
    ("esc", false, 0x01),
    ("backspace", false, 0x0e),
    ("tab", false, 0x0f),
    ("enter", false, 0x1c),
    ("space", false, 0x39),
    ("f1", false, 0x3b),
    ("f2", false, 0x3c),
    ("f3", false, 0x3d),
    ("f4", false, 0x3e),
    ("f5", false, 0x3f),
    ("f6", false, 0x40),
    ("f7", false, 0x41),
    ("f8", false, 0x42),
    ("f9", false, 0x43),
    ("f10", false, 0x44),
    ("f11", false, 0x57),
    ("f12", false, 0x58),
    ("home", true, 0x47),
    ("up", true, 0x48),
    ("pageup", true, 0x49),
    ("left", true, 0x4b),
    ("right", true, 0x4d),
    ("end", true, 0x4f),
    ("down", true, 0x50),
    ("pagedown", true, 0x51),
    ("insert", true, 0x52),
    ("delete", true, 0x53),
    ("super", true, 0x5b),
    ("rightsuper", true, 0x5c),
    ("menu", true, 0x5d),
    ("ctrl", false, LEFT_CTRL),
    ("shift", false, LEFT_SHIFT),
    ("alt", false, LEFT_ALT),
    ("rightctrl", true, 0x1d),
    ("rightshift", false, 0x36),
    ("rightalt", true, 0x38),
    ("capslock", false, 0x3a),
    ("numlock", false, 0x45),
    ("scrolllock", false, 0x46),
    ("less", false, 0x56),
    ("kp*", false, 0x37),
    ("kp7", false, 0x47),
    ("kp8", false, 0x48),
    ("kp9", false, 0x49),
    ("kp-", false, 0x4a),
    ("kp4", false, 0x4b),
    ("kp5", false, 0x4c),
    ("kp6", false, 0x4d),
    ("kp+", false, 0x4e),
    ("kp1", false, 0x4f),
    ("kp2", false, 0x50),
    ("kp3", false, 0x51),
    ("kp0", false, 0x52),
    ("kp.", false, 0x53),
    ("kp/", true, 0x35),
    ("kpenter", true, 0x1c),
];

/// Keys that send more: Print Screen has a Shift of its own, and Pause sends its release at once.
const LONG: [(&str, &[u8]); 2] = [
    ("print", &[0xe0, 0x2a, 0xe0, 0x37, 0xe0, 0xb7, 0xe0, 0xaa]),
    ("pause", &[0xe1, 0x1d, 0x45, 0xe1, 0x9d, 0xc5]),
];

/// The scan codes of `text`, one entry a key.
///
/// `\n` is Enter, `\t` Tab, `\e` Escape, `\b` Backspace, `\\` a backslash; `\{name}` is a key by name (`up`, `f10`,
/// `pagedown`, `kp5`, `pause`, ...), with `ctrl-`, `alt-` and `shift-` before it as needed: `\{ctrl-x}`, `\{ctrl-alt-delete}`.
///
/// # Errors
///
/// A character or a name is on no US keyboard.
pub fn scancodes(text: &str) -> Result<Vec<Vec<u8>>> {
    let mut keys = Vec::new();
    let mut chars = text.chars();
    while let Some(character) = chars.next() {
        keys.push(match character {
            '\\' => match chars.next() {
                Some('n') => named("enter")?,
                Some('t') => named("tab")?,
                Some('e') => named("esc")?,
                Some('b') => named("backspace")?,
                Some('{') => {
                    let name: String = chars.by_ref().take_while(|&c| c != '}').collect();
                    chord(&name)?
                }
                Some('\\') | None => typed('\\')?,
                Some(other) => bail!("\\{other} is no key; write \\\\ for a backslash"),
            },
            '\n' => named("enter")?,
            '\t' => named("tab")?,
            other => typed(other)?,
        });
    }
    Ok(keys)
}

/// A character's key, with Shift held when it needs that.
fn typed(character: char) -> Result<Vec<u8>> {
    for (first, plain, shifted) in ROWS {
        let place = |row: &str| {
            row.chars()
                .position(|c| c == character)
                .and_then(|at| u8::try_from(at).ok())
        };
        if let Some(at) = place(plain) {
            return Ok(press(false, first + at));
        }
        if let Some(at) = place(shifted) {
            return Ok(held(LEFT_SHIFT, press(false, first + at)));
        }
    }
    bail!("the character '{character}' is not on a US keyboard")
}

fn named(name: &str) -> Result<Vec<u8>> {
    if let Some((_, codes)) = LONG
        .iter()
        .find(|(long, _)| name.eq_ignore_ascii_case(long))
    {
        return Ok(codes.to_vec());
    }
    match NAMED
        .iter()
        .find(|(known, ..)| name.eq_ignore_ascii_case(known))
    {
        Some(&(_, extended, code)) => Ok(press(extended, code)),
        None => bail!("there is no key named '{name}'"),
    }
}

/// A key by name or character, with any of Ctrl, Alt and Shift held.
fn chord(name: &str) -> Result<Vec<u8>> {
    for (prefix, modifier) in [
        ("ctrl-", LEFT_CTRL),
        ("alt-", LEFT_ALT),
        ("shift-", LEFT_SHIFT),
    ] {
        if let Some(rest) = name.strip_prefix(prefix) {
            return Ok(held(modifier, chord(rest)?));
        }
    }
    let mut chars = name.chars();
    match (chars.next(), chars.next()) {
        (Some(character), None) => typed(character),
        _ => named(name),
    }
}

fn press(extended: bool, code: u8) -> Vec<u8> {
    if extended {
        vec![EXTENDED, code, EXTENDED, code | BREAK]
    } else {
        vec![code, code | BREAK]
    }
}

fn held(modifier: u8, key: Vec<u8>) -> Vec<u8> {
    [vec![modifier], key, vec![modifier | BREAK]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<u8> {
        scancodes(text).unwrap().concat()
    }

    #[test]
    fn a_key_is_make_and_break() {
        assert_eq!(codes("a"), [0x1e, 0x9e]);
        assert_eq!(codes("1"), [0x02, 0x82]);
        assert_eq!(codes("/"), [0x35, 0xb5]);
        assert_eq!(codes("m"), [0x32, 0xb2]);
        assert_eq!(codes("'"), [0x28, 0xa8]);
        assert_eq!(codes("`"), [0x29, 0xa9]);
        assert_eq!(codes(" "), [0x39, 0xb9]);
    }

    #[test]
    fn capitals_and_signs_hold_shift() {
        assert_eq!(codes("A"), [0x2a, 0x1e, 0x9e, 0xaa]);
        assert_eq!(codes("("), [0x2a, 0x0a, 0x8a, 0xaa]);
        assert_eq!(codes("|"), [0x2a, 0x2b, 0xab, 0xaa]);
    }

    #[test]
    fn escapes_are_enter_tab_escape_and_backslash() {
        assert_eq!(codes("\\n"), [0x1c, 0x9c]);
        assert_eq!(codes("\n"), codes("\\n"));
        assert_eq!(codes("\\t"), [0x0f, 0x8f]);
        assert_eq!(codes("\\e"), [0x01, 0x81]);
        assert_eq!(codes("\\\\"), [0x2b, 0xab]);
    }

    #[test]
    fn every_key_has_a_name_of_its_own() {
        let mut codes: Vec<_> = NAMED.iter().map(|&(_, e0, code)| (e0, code)).collect();
        let mut names: Vec<_> = NAMED.iter().map(|&(name, ..)| name).collect();
        codes.sort_unstable();
        codes.dedup();
        names.sort_unstable();
        names.dedup();
        assert_eq!((codes.len(), names.len()), (NAMED.len(), NAMED.len()));
    }

    #[test]
    fn arrows_are_extended_keys() {
        assert_eq!(codes("\\{down}"), [0xe0, 0x50, 0xe0, 0xd0]);
    }

    #[test]
    fn chords_hold_their_modifiers_in_order() {
        assert_eq!(codes("\\{ctrl-x}"), [0x1d, 0x2d, 0xad, 0x9d]);
        assert_eq!(
            codes("\\{ctrl-alt-delete}"),
            [0x1d, 0x38, 0xe0, 0x53, 0xe0, 0xd3, 0xb8, 0x9d]
        );
    }

    #[test]
    fn every_printable_ascii_character_can_be_typed() {
        for character in ' '..='~' {
            assert!(typed(character).is_ok(), "{character}");
        }
    }

    #[test]
    fn what_is_on_no_key_is_an_error() {
        assert!(scancodes("é").is_err());
        assert!(scancodes("\\q").is_err());
        assert!(scancodes("\\{hyper}").is_err());
    }
}
