//! What the tool reads that others have written, for the fuzz targets.

use std::fs;

use hv_core::debug::Breaks;
use hv_core::trace::{Filter, Totals, chunk};

use crate::media::{self, Medium};
use crate::{deb, symbols, trace, vm};

/// Whatever a guest's file, a disk, a CD or an initrd may have in it: it is taken or refused in a sentence.
///
/// # Panics
///
/// The host has no room for the file.
pub fn media(data: &[u8]) {
    let (&choice, content) = data.split_first().unwrap_or((&0, &[]));
    let directory = tempfile::tempdir().expect("there is room for a directory");
    let name = ["guest.iso", "guest.img", "vmlinuz", "x"][usize::from(choice & 3)];
    let path = directory.path().join(name);
    // The volume descriptors of a CD begin at 32 KiB, which no fuzzer writes by itself.
    let before = if choice & 4 != 0 { 16 << 11 } else { 0 };
    let file = [&vec![0; before], content].concat();
    fs::write(&path, file).expect("there is room for a file");
    let told = |result: anyhow::Result<()>| {
        if let Err(error) = result {
            assert!(!error.to_string().contains('\n'), "one sentence: {error}");
        }
    };
    told(Medium::open(&path).map(drop));
    told(media::open_disk(&path).map(drop));
    told(media::open_cdrom(&path).map(drop));
    told(media::open_initrd(&path).map(drop));
}

/// What apt prints, and what a person writes behind `--vm`, `--disk-size`, `--trace-filter` and `--break`.
pub fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    deb::parse(&text);
    let _ = vm::parse(&text);
    let _ = media::parse_size(&text);
    let _ = text.parse::<media::DiskArg>();
    let _ = Filter::parse(&text).map_err(|wrong| wrong.to_string());
    let _ = Breaks::parse(&text).map_err(|wrong| wrong.to_string());
}

/// A kernel's tables of symbols, its stack's, or what is compressed of it.
pub fn symbols(data: &[u8]) {
    symbols::parse(data);
}

/// A trace that somebody has sent: each event is shown and explained, or the trace is refused in a sentence.
///
/// # Panics
///
/// An event is written otherwise than it was read.
pub fn trace(data: &[u8]) {
    let file = [&trace::MAGIC, data].concat();
    let (mut text, mut buffer) = (String::new(), [0; 512]);
    let read = trace::read(&file, &mut |_, _| {}, &mut |vm, cpu, event| {
        text.clear();
        event.line(vm, cpu, &mut text)?;
        text.clear();
        event.why_json(vm, cpu, &mut text)?;
        serde_json::from_str::<serde_json::Value>(&text).expect("it is JSON");
        let head = chunk::Head {
            cpu,
            last: false,
            totals: Totals::default(),
        };
        let mut writer = chunk::Writer::begin(&head, &mut buffer);
        assert!(writer.add(event), "it fits");
        let (_, mut again) = chunk::Reader::begin(writer.end()).expect("it was written so");
        assert_eq!(again.next(), Some(Ok(*event)));
        Ok(())
    });
    // What can be read can be drawn, unless there is nothing.
    let drawn = trace::draw(&file, &Filter::default());
    for error in [read.err(), drawn.err()].into_iter().flatten() {
        assert!(!error.to_string().contains('\n'), "one sentence: {error}");
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;

    #[test]
    fn seeds_pass() {
        for (name, body) in [
            ("media", super::media as fn(&[u8])),
            ("words", super::words),
            ("trace", super::trace),
        ] {
            let path = crate::paths::root().join(format!("tests/fuzz/seeds/{name}.txt"));
            for line in std::fs::read_to_string(path).unwrap().lines() {
                body(&STANDARD.decode(line).unwrap());
            }
        }
    }
}
