//! What the tool reads that others have written, for the fuzz targets.

use std::fs;

use crate::media::{self, Medium};
use crate::{deb, vm};

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

/// What apt prints, and what a person writes behind `--vm` and `--disk-size`.
pub fn words(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    deb::parse(&text);
    let _ = vm::parse(&text);
    let _ = media::parse_size(&text);
    let _ = text.parse::<media::DiskArg>();
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
        ] {
            let path = crate::paths::root().join(format!("tests/fuzz/seeds/{name}.txt"));
            for line in std::fs::read_to_string(path).unwrap().lines() {
                body(&STANDARD.decode(line).unwrap());
            }
        }
    }
}
