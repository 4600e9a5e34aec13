//! The outer machine's screen, keyboard and mouse, by QEMU's monitor protocol (QEMU documentation, "QEMU Machine Protocol").
//!
//! A run needs them only where Umbra itself is to show the guest's screen and to take the keys.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::control::{Mouse, Picture};

/// How long the emulator has to answer.
const ANSWER: Duration = Duration::from_secs(20);
const EXTENDED: u8 = 0xe0;
const BREAK: u8 = 0x80;
/// Before the codes of Pause, and what QEMU calls that key.
const EXTENDED_TWICE: u8 = 0xe1;
const PAUSE: u8 = 0xc6;
/// The Shift that Print Screen brings along, behind an E0.
const SHIFT: u8 = 0x2a;

/// A connection to the monitor.
#[derive(Debug)]
pub struct Monitor {
    stream: BufReader<UnixStream>,
    /// The mouse's buttons that are held.
    held: u8,
}

impl Monitor {
    /// Connects to the monitor at `socket`.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn connect(socket: &Path) -> Result<Monitor> {
        let stream =
            UnixStream::connect(socket).context("cannot connect to the emulator's monitor")?;
        stream.set_read_timeout(Some(ANSWER))?;
        let mut monitor = Monitor {
            stream: BufReader::new(stream),
            held: 0,
        };
        monitor.answer("QMP")?;
        monitor.command("qmp_capabilities", json!({}))?;
        Ok(monitor)
    }

    /// The next message with `key`, or the error.
    fn answer(&mut self, key: &str) -> Result<Value> {
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the emulator's monitor has ended");
            }
            let message: Value = serde_json::from_str(&line)
                .context("the emulator's monitor cannot be understood")?;
            if let Some(error) = message.get("error") {
                bail!("the emulator's monitor refused: {error}");
            }
            if let Some(value) = message.get(key) {
                return Ok(value.clone());
            }
        }
    }

    fn command(&mut self, name: &str, arguments: Value) -> Result<Value> {
        let mut line = json!({"execute": name, "arguments": arguments}).to_string();
        line.push('\n');
        self.stream.get_mut().write_all(line.as_bytes())?;
        self.answer("return")
    }

    /// The machine's screen.
    ///
    /// # Errors
    ///
    /// The emulator does not give it.
    pub fn screen(&mut self) -> Result<Picture> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("screen.ppm");
        self.command("screendump", json!({"filename": path}))?;
        portable_pixmap(&std::fs::read(&path)?).context("the emulator's picture is malformed")
    }

    /// The machine's memory from `address` on.
    ///
    /// # Errors
    ///
    /// The emulator does not give it.
    pub fn memory(&mut self, address: u64, length: usize) -> Result<Vec<u8>> {
        let directory = tempfile::tempdir()?;
        let path = directory.path().join("memory");
        self.command(
            "pmemsave",
            json!({"val": address, "size": length, "filename": path}),
        )?;
        Ok(std::fs::read(&path)?)
    }

    /// Presses and releases the key of these set 1 scan codes, which are the codes to press it and then those to release it.
    ///
    /// # Errors
    ///
    /// The emulator does not take it.
    pub fn press(&mut self, scancodes: &[u8]) -> Result<()> {
        let keys: Vec<Value> = pressed(scancodes)
            .into_iter()
            .map(|code| json!({"type": "number", "data": code}))
            .collect();
        self.command("send-key", json!({"keys": keys, "hold-time": 20}))?;
        Ok(())
    }

    /// Moves the mouse, turns its wheel, and presses and releases buttons.
    ///
    /// # Errors
    ///
    /// The emulator does not take it.
    pub fn mouse(&mut self, mouse: Mouse) -> Result<()> {
        let events = events(mouse, self.held);
        self.held = mouse.buttons;
        if !events.is_empty() {
            self.command("input-send-event", json!({"events": events}))?;
        }
        Ok(())
    }
}

/// What the mouse does as QEMU's input events, of which one wheel step is a button that is pressed and released.
fn events(mouse: Mouse, held: u8) -> Vec<Value> {
    let button = |name: &str, down: bool| {
        let data = json!({"button": name, "down": down});
        json!({"type": "btn", "data": data})
    };
    let mut events = Vec::new();
    for (axis, way) in [("x", mouse.dx), ("y", mouse.dy)] {
        if way != 0 {
            events.push(json!({"type": "rel", "data": {"axis": axis, "value": way}}));
        }
    }
    for (bit, name) in [(1, "left"), (2, "right"), (4, "middle")] {
        let down = mouse.buttons & bit != 0;
        if down != (held & bit != 0) {
            events.push(button(name, down));
        }
    }
    let wheel = if mouse.wheel < 0 {
        "wheel-up"
    } else {
        "wheel-down"
    };
    for _ in 0..mouse.wheel.unsigned_abs() {
        events.extend([button(wheel, true), button(wheel, false)]);
    }
    events
}

/// The keys that are pressed in a sequence, as QEMU numbers them: the make code, with bit 7 for an E0 before it.
fn pressed(scancodes: &[u8]) -> Vec<u8> {
    if scancodes.first() == Some(&EXTENDED_TWICE) {
        return vec![PAUSE];
    }
    let mut keys = Vec::new();
    let mut extended = 0;
    for &code in scancodes {
        match code {
            EXTENDED => extended = BREAK,
            _ => {
                if code & BREAK == 0 && (code, extended) != (SHIFT, BREAK) {
                    keys.push(code | extended);
                }
                extended = 0;
            }
        }
    }
    keys
}

/// Reads a binary PPM with 8 bits a colour: `P6`, width, height, 255, pixels.
fn portable_pixmap(bytes: &[u8]) -> Option<Picture> {
    let mut rest = bytes;
    let mut word = || {
        let start = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
        let from = rest.get(start..)?;
        let end = from.iter().position(u8::is_ascii_whitespace)?;
        rest = from.get(end + 1..)?;
        str::from_utf8(from.get(..end)?).ok()
    };
    (word()? == "P6").then_some(())?;
    let width: u32 = word()?.parse().ok()?;
    let height: u32 = word()?.parse().ok()?;
    (word()? == "255").then_some(())?;
    let length = (width as usize)
        .checked_mul(height as usize)?
        .checked_mul(3)?;
    Some(Picture {
        width,
        height,
        rgb: rest.get(..length)?.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys;

    #[test]
    fn keys_are_named_by_their_make_codes() {
        let press = |text: &str| pressed(&keys::scancodes(text).unwrap().concat());
        assert_eq!(press("a"), [0x1e]);
        assert_eq!(press("A"), [0x2a, 0x1e]);
        assert_eq!(press("\\{up}"), [0xc8]);
        assert_eq!(press("\\{pause}"), [0xc6]);
        assert_eq!(press("\\{print}"), [0xb7]);
        assert_eq!(press("\\{shift-kpenter}"), [0x2a, 0x9c]);
    }

    #[test]
    fn what_the_mouse_does_is_told_piece_by_piece() {
        let mouse = Mouse {
            dx: 3,
            dy: 0,
            wheel: -1,
            buttons: 2,
        };
        let told: Vec<String> = events(mouse, 1).iter().map(Value::to_string).collect();
        let wanted = [
            r#""axis":"x","value":3"#,
            r#""button":"left","down":false"#,
            r#""button":"right","down":true"#,
            r#""button":"wheel-up","down":true"#,
            r#""button":"wheel-up","down":false"#,
        ];
        assert_eq!(told.len(), wanted.len());
        for (told, wanted) in told.iter().zip(wanted) {
            assert!(told.contains(wanted), "{told}");
        }
    }

    #[test]
    fn a_pixmap_gives_its_pixels() {
        let picture = portable_pixmap(b"P6\n2 1\n255\n abcde").unwrap();
        assert_eq!((picture.width, picture.height), (2, 1));
        assert_eq!(picture.rgb, b" abcde");
        assert!(portable_pixmap(b"P6\n2 1\n255\nabc").is_none());
        assert!(portable_pixmap(b"P5\n1 1\n255\nabc").is_none());
    }
}
