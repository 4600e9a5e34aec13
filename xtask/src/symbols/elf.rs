//! An ELF file (System V ABI, "Object Files") without content: the kernel's sections as addresses, symbols, and DWARF's frames.

use goblin::elf::Elf;
use goblin::elf::section_header::{SHF_ALLOC, SHT_NOBITS, SHT_PROGBITS, SHT_STRTAB, SHT_SYMTAB};

use super::kallsyms::Symbol;

/// Bytes of the file's header, a section's header and a symbol.
const HEADER: u64 = 64;
const SECTION: usize = 64;
const SYMBOL: u64 = 24;
/// The section of what is in none: an absolute address.
const ABSOLUTE: u16 = 0xfff1;

/// A section of the new file.
struct Section<'a> {
    name: &'a str,
    kind: u32,
    flags: u64,
    at: u64,
    offset: u64,
    size: u64,
    /// `sh_link`, `sh_info`, `sh_addralign`, `sh_entsize`.
    rest: (u32, u32, u64, u64),
}

/// The file for a kernel.
pub fn write(kernel: &Elf<'_>, symbols: &[Symbol], frames: &[u8]) -> Vec<u8> {
    let mut sections: Vec<Section<'_>> = Vec::new();
    for header in &kernel.section_headers {
        if header.sh_flags & u64::from(SHF_ALLOC) != 0 && header.sh_addr != 0 {
            sections.push(Section {
                name: kernel.shdr_strtab.get_at(header.sh_name).unwrap_or(""),
                kind: SHT_NOBITS,
                flags: header.sh_flags,
                at: header.sh_addr,
                offset: HEADER,
                size: header.sh_size,
                rest: (0, 0, header.sh_addralign, 0),
            });
        }
    }
    let (mut names, mut table) = (vec![0], vec![0; SYMBOL as usize]);
    // Symbols of one file come before those of all (sh_info).
    let (own, others): (Vec<_>, Vec<_>) = symbols
        .iter()
        .zip(1..)
        .partition(|(symbol, _)| symbol.kind.is_ascii_lowercase());
    let first_global = 1 + own.len() as u32;
    for (symbol, next) in own.into_iter().chain(others) {
        let mut inside = sections.iter().zip(1..);
        let inside = inside.find(|(s, _)| symbol.at.wrapping_sub(s.at) < s.size);
        let end = symbols.get(next).map_or(symbol.at, |next| next.at);
        let (section, size) = match inside {
            Some((s, n)) => (
                n,
                end.min(s.at.saturating_add(s.size))
                    .saturating_sub(symbol.at),
            ),
            None => (ABSOLUTE, 0),
        };
        let binding = u8::from(!symbol.kind.is_ascii_lowercase());
        let function = matches!(symbol.kind, b't' | b'T' | b'w' | b'W');
        table.extend((names.len() as u32).to_le_bytes());
        table.extend([binding << 4 | if function { 2 } else { 1 }, 0]);
        table.extend(section.to_le_bytes());
        table.extend(symbol.at.to_le_bytes());
        table.extend(size.to_le_bytes());
        names.extend(symbol.name.bytes());
        names.push(0);
    }
    let symtab = sections.len() as u32 + 1;
    let parts: [(&str, u32, &[u8], _); 3] = [
        (
            ".symtab",
            SHT_SYMTAB,
            &table,
            (symtab + 1, first_global, 8, SYMBOL),
        ),
        (".strtab", SHT_STRTAB, &names, (0, 0, 1, 0)),
        (".debug_frame", SHT_PROGBITS, frames, (0, 0, 8, 0)),
    ];
    let mut out = vec![0; HEADER as usize];
    for (name, kind, content, rest) in parts {
        out.resize(out.len().next_multiple_of(8), 0);
        sections.push(Section {
            name,
            kind,
            flags: 0,
            at: 0,
            offset: out.len() as u64,
            size: content.len() as u64,
            rest,
        });
        out.extend(content);
    }
    let mut headers = vec![0; SECTION];
    let mut strings = vec![0];
    let offset = out.len() as u64;
    sections.push(Section {
        name: ".shstrtab",
        kind: SHT_STRTAB,
        flags: 0,
        at: 0,
        offset,
        size: 1
            + sections
                .iter()
                .map(|s| s.name.len() as u64 + 1)
                .sum::<u64>()
            + ".shstrtab\0".len() as u64,
        rest: (0, 0, 1, 0),
    });
    for section in &sections {
        let (link, info, align, each) = section.rest;
        headers.extend((strings.len() as u32).to_le_bytes());
        headers.extend(section.kind.to_le_bytes());
        for value in [section.flags, section.at, section.offset, section.size] {
            headers.extend(value.to_le_bytes());
        }
        headers.extend(link.to_le_bytes());
        headers.extend(info.to_le_bytes());
        headers.extend(align.to_le_bytes());
        headers.extend(each.to_le_bytes());
        strings.extend(section.name.bytes());
        strings.push(0);
    }
    out.extend(strings);
    out.resize(out.len().next_multiple_of(8), 0);
    let table_at = out.len() as u64;
    out.extend(headers);
    let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable for x86-64, without an entry and without segments.
    header.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    header.extend([0; 16]);
    header.extend(table_at.to_le_bytes());
    header.extend([0; 4]);
    let counts = [
        HEADER as u16,
        56,
        0,
        SECTION as u16,
        sections.len() as u16 + 1,
        sections.len() as u16,
    ];
    header.extend(counts.iter().flat_map(|count| count.to_le_bytes()));
    for (to, from) in out.iter_mut().zip(header) {
        *to = from;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbols_and_frames_are_in_a_file_that_is_read_back() {
        let symbol = |at, kind, name: &str| Symbol {
            at,
            kind,
            name: name.into(),
        };
        let symbols = [symbol(0x10, b'T', "start"), symbol(0x20, b'd', "jiffies")];
        let kernel = write(&Elf::parse(&empty()).unwrap(), &symbols, b"frames");
        let elf = Elf::parse(&kernel).unwrap();
        let read: Vec<_> = elf.syms.iter().skip(1).collect();
        let name = |n: usize| elf.strtab.get_at(read[n].st_name).unwrap();
        assert_eq!((name(0), read[0].st_value), ("jiffies", 0x20));
        assert_eq!((name(1), read[1].st_value), ("start", 0x10));
        assert!(read[1].is_function() && !read[0].is_function());
        let frames = elf
            .section_headers
            .iter()
            .find(|header| elf.shdr_strtab.get_at(header.sh_name) == Some(".debug_frame"));
        assert_eq!(&kernel[frames.unwrap().file_range().unwrap()], b"frames");
    }

    /// A file without anything.
    fn empty() -> Vec<u8> {
        let mut header = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0\x01\0\0\0".to_vec();
        header.resize(HEADER as usize, 0);
        header[52] = HEADER as u8;
        header
    }
}
