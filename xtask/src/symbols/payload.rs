//! A kernel's ELF file out of its image (Linux, Documentation/arch/x86/boot.rst: `payload_offset`, `payload_length`), which is compressed in one of
//! several ways. LZ4 is unpacked here; for the others there are programs.

use std::io::Write;
use std::process::{Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};

/// The longest that an unpacked kernel may be.
const LONGEST: usize = 1 << 30;

/// What a payload begins with, and the program that unpacks it from its input to its output.
const PROGRAMS: [(&[u8], &[&str]); 5] = [
    (b"\x1f\x8b", &["gzip", "-dc"]),
    (b"\xfd7zXZ\0", &["xz", "-dc", "--single-stream"]),
    (b"BZh", &["bzip2", "-dc"]),
    (b"\x5d\0\0", &["xz", "-dc", "--format=lzma"]),
    (b"\x28\xb5\x2f\xfd", &["zstd", "-dc"]),
];
/// What LZ4's older format begins with (its "Frame Format", "Legacy frame").
const LZ4: &[u8] = b"\x02\x21\x4c\x18";

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes))
}

/// The ELF file in a kernel's image, or the file itself if it is one.
pub fn unpack(image: &[u8]) -> Result<Vec<u8>> {
    if image.starts_with(b"\x7fELF") {
        return Ok(image.to_vec());
    }
    ensure!(
        image.get(0x202..0x206) == Some(b"HdrS"),
        "it is no Linux kernel"
    );
    let payload = || {
        let setup = (usize::from(*image.get(0x1f1)?) + 1) * 512;
        let [offset, length] = [0x248, 0x24c].map(|at| u32_at(image, at));
        let start = setup.checked_add(offset? as usize)?;
        image.get(start..start.checked_add(length? as usize)?)
    };
    let payload = payload().context("its payload is cut off")?;
    // Behind what is compressed is the length of what it is of.
    let (packed, length) = payload
        .split_last_chunk::<4>()
        .context("it has no payload")?;
    let length = u32::from_le_bytes(*length) as usize;
    ensure!(length <= LONGEST, "it is too long");
    if let Some(blocks) = packed.strip_prefix(LZ4) {
        return lz4(blocks, length).context("its payload is damaged");
    }
    let program = PROGRAMS.iter().find(|(magic, _)| packed.starts_with(magic));
    match program {
        Some((_, [program, arguments @ ..])) => by(program, arguments, payload, length),
        _ => bail!("it is compressed in a way that is not known"),
    }
}

/// What a program makes of `payload`. It may complain about what is behind the compressed part.
fn by(program: &str, arguments: &[&str], payload: &[u8], length: usize) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("{program}, which unpacks it, cannot be started"))?;
    let mut input = child.stdin.take().context("no input")?;
    let output = thread::scope(|scope| {
        // It stops reading when it has what it wants.
        scope.spawn(move || drop(input.write_all(payload)));
        child.wait_with_output()
    })?;
    ensure!(output.stdout.len() == length, "{program} cannot unpack it");
    Ok(output.stdout)
}

/// Unpacks LZ4's blocks, each behind its length.
pub fn lz4(mut blocks: &[u8], length: usize) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(length.min(LONGEST));
    while let Some((size, rest)) = blocks.split_first_chunk() {
        let (block, rest) = rest.split_at_checked(u32::from_le_bytes(*size) as usize)?;
        lz4_block(block, &mut out, length)?;
        blocks = rest;
    }
    (out.len() == length).then_some(out)
}

/// Unpacks one block (LZ4's "Block Format"): sequences of literals and a match with what was before.
fn lz4_block(block: &[u8], out: &mut Vec<u8>, most: usize) -> Option<()> {
    let start = out.len();
    let mut bytes = block.iter();
    while let Some(&token) = bytes.next() {
        let literals = lz4_length(token >> 4, &mut bytes)?;
        let (these, rest) = bytes.as_slice().split_at_checked(literals)?;
        out.extend_from_slice(these);
        bytes = rest.iter();
        let Some(&low) = bytes.next() else {
            break;
        };
        let distance = usize::from(u16::from_le_bytes([low, *bytes.next()?]));
        let count = lz4_length(token & 15, &mut bytes)? + 4;
        let from = out
            .len()
            .checked_sub(distance)
            .filter(|&from| from >= start)?;
        if distance == 0 || count > most.checked_sub(out.len())? {
            return None;
        }
        // The match may reach into what it makes itself.
        (from..from + count).for_each(|n| out.push(out[n]));
    }
    (out.len() <= most).then_some(())
}

fn lz4_length(field: u8, bytes: &mut core::slice::Iter<'_, u8>) -> Option<usize> {
    let mut length = usize::from(field);
    if field == 15 {
        loop {
            let more = *bytes.next()?;
            length += usize::from(more);
            if more != 255 {
                break;
            }
        }
    }
    Some(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lz4_literals_and_matches_are_unpacked() {
        // "ab", then six bytes from two before; "xyz" at the end.
        let block = [0x22, b'a', b'b', 2, 0, 0x30, b'x', b'y', b'z'];
        let blocks = [&9u32.to_le_bytes()[..], &block].concat();
        assert_eq!(lz4(&blocks, 11).unwrap(), b"ababababxyz");
        assert_eq!(lz4(&blocks, 10), None, "more than was said");
        assert_eq!(lz4(&blocks[..12], 11), None, "cut off");
        let before_all = [0x12, b'a', 2, 0, 0x10, b'x'];
        let blocks = [&6u32.to_le_bytes()[..], &before_all].concat();
        assert_eq!(lz4(&blocks, 8), None);
    }

    #[test]
    fn a_file_that_is_no_kernel_is_refused() {
        assert!(unpack(b"").is_err() && unpack(&[0; 4096]).is_err());
        let mut image = vec![0; 0x300];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        assert!(unpack(&image).is_err());
        image[0x248..0x250].fill(0xff);
        assert!(unpack(&image).is_err());
    }
}
