//! The table of symbols that a Linux kernel has of itself (its scripts/kallsyms.c). Nothing says where it is; it is found by its shape:
//! 256 tokens, of which names are made, with the index of where each begins; before them the names, how many there are, and the markers of every
//! 256th. The addresses are before all of it, or behind it since Linux 6.4.

/// A name and its address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// The address.
    pub at: u64,
    /// What it is, as nm has it.
    pub kind: u8,
    /// The name.
    pub name: String,
}

/// Symbols of a kernel at most.
const MOST: usize = 1 << 22;
/// How far before the tokens the names begin at most.
const FARTHEST: usize = 64 << 20;
/// Bytes of a token at most.
const LONGEST_TOKEN: usize = 128;

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*bytes) as usize)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

/// The 256 tokens, and where they and their index begin and end.
struct Tokens<'a> {
    list: Vec<&'a [u8]>,
    start: usize,
    end: usize,
}

/// The names, as they are packed, and the place of their number.
struct Names {
    count: usize,
    start: usize,
}

/// The symbols in `kernel`, in the order of their addresses.
pub fn find(kernel: &[u8]) -> Option<Vec<Symbol>> {
    let digits: Vec<u8> = (b'0'..=b'9').flat_map(|digit| [digit, 0]).collect();
    let mut from = 0;
    loop {
        // Every digit is a token of its own.
        let rest = kernel.get(from..)?;
        let place = rest.windows(digits.len()).position(|w| w == digits)? + from;
        from = place + 1;
        let found = tokens(kernel, place).and_then(|tokens| {
            let names = names(kernel, &tokens)?;
            symbols(kernel, &tokens, &names)
        });
        if found.is_some() {
            return found;
        }
    }
}

/// The tokens of which that of '0' is at `place`.
fn tokens(kernel: &[u8], place: usize) -> Option<Tokens<'_>> {
    // The index follows the last token, aligned.
    let mut at = place;
    for _ in usize::from(b'0')..256 {
        let rest = kernel.get(at..at.checked_add(LONGEST_TOKEN)?)?;
        at += rest.iter().position(|&byte| byte == 0)? + 1;
    }
    let index_at = at.next_multiple_of(8);
    let index = kernel.get(index_at..index_at + 512)?;
    let index: Vec<usize> = index
        .chunks_exact(2)
        .map(|entry| usize::from(entry[0]) | usize::from(entry[1]) << 8)
        .collect();
    let start = place.checked_sub(*index.get(usize::from(b'0'))?)?;
    let token = |&offset: &usize| {
        let rest = kernel.get(start + offset..index_at)?;
        Some(&rest[..rest.iter().position(|&byte| byte == 0)?])
    };
    let list = index.iter().map(token).collect::<Option<Vec<_>>>()?;
    // Each begins where the one before has ended.
    let next = index
        .iter()
        .zip(&list)
        .map(|(at, token)| at + token.len() + 1);
    let whole = index.first() == Some(&0) && index.iter().skip(1).copied().eq(next.take(255));
    whole.then_some(Tokens {
        list,
        start,
        end: index_at + 512,
    })
}

/// One packed name: its length and its tokens, and where the next begins.
fn name_at(kernel: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let first = usize::from(*kernel.get(at)?);
    let (length, start) = match first & 0x80 {
        0 => (first, at + 1),
        _ => {
            let second = usize::from(*kernel.get(at + 1)?);
            (first & 0x7f | second << 7, at + 2)
        }
    };
    let name = kernel.get(start..start + length)?;
    (length > 0).then_some((name, start + length))
}

/// The names before `tokens`. Between their markers and the tokens may be their order by name.
fn names(kernel: &[u8], tokens: &Tokens<'_>) -> Option<Names> {
    let starts = (1..tokens.start / 8).rev().map(|eighth| 8 * eighth);
    let starts = starts.take_while(|start| tokens.start - start <= FARTHEST);
    starts
        .filter_map(|start| {
            let count = usize::try_from(u64_at(kernel, start - 8)?).ok()?;
            // A name takes two bytes or more, and 64 at most on average.
            let distance = tokens.start - start;
            let fits = (1..=MOST.min(distance / 2)).contains(&count);
            (fits && distance <= 64 * count + 64).then_some(Names { count, start })
        })
        .find(|names| are_marked(kernel, names) == Some(true))
}

/// Whether behind these names are their markers.
fn are_marked(kernel: &[u8], names: &Names) -> Option<bool> {
    let mut marks = Vec::new();
    let mut at = names.start;
    for n in 0..names.count {
        if n % 256 == 0 {
            marks.push(at - names.start);
        }
        at = name_at(kernel, at)?.1;
    }
    let first = at.next_multiple_of(8);
    let mut marked = marks.iter().zip((first..).step_by(4));
    Some(marked.all(|(&mark, at)| u32_at(kernel, at) == Some(mark)))
}

/// The symbols with their addresses, which are 32-bit offsets, and the base that these are from.
fn symbols(kernel: &[u8], tokens: &Tokens<'_>, names: &Names) -> Option<Vec<Symbol>> {
    let length = names.count.checked_mul(4)?.next_multiple_of(8);
    let number = names.start.checked_sub(8)?;
    let before = number.checked_sub(8 + length);
    let behind = Some(tokens.end);
    let tables = [before, behind].into_iter().flatten();
    let kernel_address = |base: u64| base >> 31 == 0x1_ffff_ffff && base.is_multiple_of(0x1000);
    let (offsets, base) = tables
        .filter_map(|at| Some((at, u64_at(kernel, at + length)?)))
        .find(|&(_, base)| kernel_address(base))?;
    let offsets: Vec<i32> = kernel
        .get(offsets..offsets + 4 * names.count)?
        .chunks_exact(4)
        .map(|offset| i32::from_le_bytes([offset[0], offset[1], offset[2], offset[3]]))
        .collect();
    // Where variables of each CPU are absolute, what is relative is negative (CONFIG_KALLSYMS_ABSOLUTE_PERCPU).
    let negative = offsets.iter().filter(|&&offset| offset < 0).count();
    let absolute = negative > names.count / 2;
    let address = |offset: i32| match (absolute, offset) {
        (true, ..0) => base.wrapping_sub(1).wrapping_sub(i64::from(offset) as u64),
        (true, 0..) => u64::from(offset as u32),
        (false, _) => base.wrapping_add(u64::from(offset as u32)),
    };
    let mut symbols = Vec::with_capacity(names.count);
    let mut at = names.start;
    for offset in offsets {
        let (packed, next) = name_at(kernel, at)?;
        at = next;
        let parts = packed
            .iter()
            .map(|&token| tokens.list.get(usize::from(token)).copied());
        let text = parts.collect::<Option<Vec<_>>>()?.concat();
        let (&kind, name) = text.split_first()?;
        symbols.push(Symbol {
            at: address(offset),
            kind,
            name: String::from_utf8(name.to_vec()).ok()?,
        });
    }
    symbols.sort_by_key(|symbol| symbol.at);
    Some(symbols)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    const BASE: u64 = 0xffff_ffff_8100_0000;

    /// A kernel's tables of these symbols, with the addresses before or behind them; each character is a token of its own.
    pub fn tables(symbols: &[(i32, &str)], behind: bool) -> Vec<u8> {
        let mut out = vec![0xcc; 0x1000];
        let align = |out: &mut Vec<u8>| out.resize(out.len().next_multiple_of(8), 0);
        let addresses = |out: &mut Vec<u8>| {
            symbols.iter().for_each(|s| out.extend(s.0.to_le_bytes()));
            align(out);
            out.extend(BASE.to_le_bytes());
        };
        if !behind {
            addresses(&mut out);
        }
        out.extend((symbols.len() as u64).to_le_bytes());
        let start = out.len();
        let mut markers = Vec::new();
        for (n, (_, name)) in symbols.iter().enumerate() {
            if n % 256 == 0 {
                markers.extend(((out.len() - start) as u32).to_le_bytes());
            }
            let length = name.len();
            match length {
                ..0x80 => out.push(length as u8),
                _ => out.extend([length as u8 | 0x80, (length >> 7) as u8]),
            }
            out.extend(name.bytes());
        }
        align(&mut out);
        out.extend(markers);
        align(&mut out);
        let tokens = (0..=255u8).map(|byte| {
            if byte == 0 {
                vec![b'?', b'?']
            } else {
                vec![byte]
            }
        });
        let (mut index, table) = (Vec::new(), out.len());
        for token in tokens {
            index.extend(((out.len() - table) as u16).to_le_bytes());
            out.extend(token);
            out.push(0);
        }
        align(&mut out);
        out.extend(index);
        if behind {
            addresses(&mut out);
        }
        out.extend([0xcc; 0x1000]);
        out
    }

    #[test]
    fn symbols_are_found_where_either_order_puts_them() {
        let long = format!("t{}", "x".repeat(150));
        for behind in [false, true] {
            for count in [1, 256, 700] {
                let mut wanted: Vec<(i32, &str)> = vec![(0x100, "Dper_cpu")];
                wanted.extend((1..count).map(|n| (-1 - n, "Tfunction")));
                wanted.extend([(-0x1001, "Tlast"), (-0x2001, &long), (-0x3001, "b9")]);
                let found = find(&tables(&wanted, behind)).unwrap();
                assert_eq!(found.len(), wanted.len());
                assert_eq!((found[0].at, found[0].name.as_str()), (0x100, "per_cpu"));
                let last = &found[found.len() - 3];
                assert_eq!(
                    (last.at, last.kind, last.name.as_str()),
                    (BASE + 0x1000, b'T', "last")
                );
                assert_eq!(found[found.len() - 2].name, long[1..]);
            }
        }
    }

    #[test]
    fn damaged_tables_have_no_symbols() {
        let whole = tables(&[(-1, "Tone"), (-2, "Ttwo")], true);
        assert!(find(&whole).is_some());
        assert!(find(&[]).is_none() && find(&whole[..whole.len() - 0x1008]).is_none());
    }
}
