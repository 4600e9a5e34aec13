//! Umbra's own page tables: all memory at its own address, in 2 MiB pages, and in 4 KiB pages where the image lies. SDM vol 3A 4.5, "4-Level
//! Paging and 5-Level Paging".
//!
//! Rule: a page is writable or executable, never both. [`walk`] shows what there is, so that the rule can be checked on the tables that the CPU
//! has.

use crate::{PAGE, Range};

/// What may be done with a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rights {
    /// Nothing: an access faults.
    Guard,
    /// It is read and executed.
    Code,
    /// It is read.
    ReadOnly,
    /// It is read and written.
    Data,
    /// It is read and written, and not cached: registers of devices.
    Device,
}

const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const PCD: u64 = 1 << 4;
const PS: u64 = 1 << 7;
const NX: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
const LARGE: u64 = 2 << 20;

/// The memory that tables are in.
pub trait Tables {
    /// A new table, zeroed. None: there is no memory for it.
    fn table(&mut self) -> Option<u64>;
    /// Reads the entry at an address.
    fn read(&self, at: u64) -> u64;
    /// Writes the entry at an address.
    fn write(&mut self, at: u64, entry: u64);
    /// Whether entries may have the bit that forbids execution (EFER.NXE).
    fn has_nx(&self) -> bool;
}

fn flags(t: &impl Tables, rights: Rights) -> u64 {
    let nx = if t.has_nx() { NX } else { 0 };
    match rights {
        Rights::Guard => 0,
        Rights::Code => P,
        Rights::ReadOnly => P | nx,
        Rights::Data => P | RW | nx,
        Rights::Device => P | RW | PCD | nx,
    }
}

/// Where the entry for `address` is in the table of `level` (4 to 1).
const fn entry(table: u64, level: u32, address: u64) -> u64 {
    table + 8 * (address >> (12 + 9 * (level - 1)) & 0x1ff)
}

/// The table below the entry at `at`, made if there is none.
fn descend(t: &mut impl Tables, at: u64) -> Option<u64> {
    let old = t.read(at);
    if old & P != 0 {
        return Some(old & ADDRESS);
    }
    let table = t.table()?;
    // What is forbidden is forbidden below.
    t.write(at, table | P | RW);
    Some(table)
}

/// The entry of the page directory for `address`.
fn directory_entry(t: &mut impl Tables, root: u64, address: u64) -> Option<u64> {
    let third = descend(t, entry(root, 4, address))?;
    let second = descend(t, entry(third, 3, address))?;
    Some(entry(second, 2, address))
}

/// Maps the 2 MiB pages that `range` touches and that are not mapped yet. False: there is no memory for tables.
pub fn fill(t: &mut impl Tables, root: u64, range: Range, rights: Rights) -> bool {
    let mut at = range.start & !(LARGE - 1);
    while at < range.end {
        let Some(place) = directory_entry(t, root, at) else {
            return false;
        };
        if t.read(place) & P == 0 {
            let flags = flags(t, rights);
            t.write(place, at | flags | PS);
        }
        at += LARGE;
    }
    true
}

/// Gives the pages of `range`, which begins and ends with a page, these rights. False: there is no memory for tables.
pub fn protect(t: &mut impl Tables, root: u64, range: Range, rights: Rights) -> bool {
    let flags = flags(t, rights);
    let mut at = range.start;
    while at < range.end {
        let Some(place) = directory_entry(t, root, at) else {
            return false;
        };
        let old = t.read(place);
        if at & (LARGE - 1) == 0 && range.end - at >= LARGE && (old & P == 0 || old & PS != 0) {
            t.write(place, if flags == 0 { 0 } else { at | flags | PS });
            at += LARGE;
            continue;
        }
        let table = if old & P != 0 && old & PS == 0 {
            old & ADDRESS
        } else {
            let Some(table) = t.table() else { return false };
            if old & P != 0 {
                for n in 0..512 {
                    t.write(table + 8 * n, (old & !PS) + n * PAGE);
                }
            }
            t.write(place, table | P | RW);
            table
        };
        let page = if flags == 0 { 0 } else { at | flags };
        t.write(entry(table, 1, at), page);
        at += PAGE;
    }
    true
}

/// A page that is mapped, as the CPU sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mapping {
    /// Where it is.
    pub range: Range,
    /// The physical address of its beginning.
    pub to: u64,
    /// It can be written.
    pub write: bool,
    /// It can be executed.
    pub execute: bool,
}

/// Calls `f` for each page that is mapped.
pub fn walk(t: &impl Tables, root: u64, f: &mut dyn FnMut(Mapping)) {
    walk_table(t, root, 4, 0, (true, true), f);
}

fn walk_table(
    t: &impl Tables,
    table: u64,
    level: u32,
    base: u64,
    (write, execute): (bool, bool),
    f: &mut dyn FnMut(Mapping),
) {
    let span = PAGE << (9 * (level - 1));
    for n in 0..512 {
        let entry = t.read(table + 8 * n);
        if entry & P == 0 {
            continue;
        }
        let (write, execute) = (write && entry & RW != 0, execute && entry & NX == 0);
        let (start, to) = (base + n * span, entry & ADDRESS);
        if level == 1 || level < 4 && entry & PS != 0 {
            f(Mapping {
                range: Range {
                    start,
                    end: start + span,
                },
                to: to & !(span - 1),
                write,
                execute,
            });
        } else {
            walk_table(t, to, level - 1, start, (write, execute), f);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Tables in a map: the root is at 0x1000.
    #[derive(Default)]
    struct Fake {
        entries: BTreeMap<u64, u64>,
        tables: u64,
        most: u64,
    }

    const ROOT: u64 = 0x1000;

    impl Tables for Fake {
        fn table(&mut self) -> Option<u64> {
            self.tables += 1;
            (self.tables <= self.most).then_some(ROOT + self.tables * PAGE)
        }
        fn read(&self, at: u64) -> u64 {
            self.entries.get(&at).copied().unwrap_or(0)
        }
        fn write(&mut self, at: u64, entry: u64) {
            self.entries.insert(at, entry);
        }
        fn has_nx(&self) -> bool {
            true
        }
    }

    fn fake() -> Fake {
        Fake {
            most: 100,
            ..Fake::default()
        }
    }

    fn range(start: u64, end: u64) -> Range {
        Range { start, end }
    }

    /// As the start code leaves them: 4 GiB that can be written and executed.
    fn start(t: &mut Fake) {
        fill(t, ROOT, range(0, 1 << 32), Rights::Data);
        for entry in t.entries.values_mut() {
            *entry &= !NX;
        }
    }

    const IMAGE: [(Range, Rights); 4] = [
        (
            Range {
                start: 0x10_0000,
                end: 0x10_1000,
            },
            Rights::ReadOnly,
        ),
        (
            Range {
                start: 0x10_1000,
                end: 0x25_3000,
            },
            Rights::Code,
        ),
        (
            Range {
                start: 0x25_3000,
                end: 0x2a_0000,
            },
            Rights::ReadOnly,
        ),
        (
            Range {
                start: 0x2c_0000,
                end: 0x2c_1000,
            },
            Rights::Guard,
        ),
    ];

    #[test]
    fn no_page_is_writable_and_executable_once_the_image_is_protected() {
        let mut t = fake();
        start(&mut t);
        let mut both = 0;
        walk(&t, ROOT, &mut |m| both += u64::from(m.write && m.execute));
        assert_eq!(both, 2048, "the start code's tables break the rule");
        assert!(protect(&mut t, ROOT, range(0, 1 << 32), Rights::Data));
        for (range, rights) in IMAGE {
            assert!(protect(&mut t, ROOT, range, rights));
        }
        assert!(fill(&mut t, ROOT, range(1 << 32, 5 << 30), Rights::Data));
        assert!(fill(
            &mut t,
            ROOT,
            range(0x380_1234_5678, 0x380_1235_0000),
            Rights::Device
        ));
        let (mut executable, mut mapped, mut read_only) = (0, 0, 0);
        walk(&t, ROOT, &mut |m| {
            assert_eq!(m.to, m.range.start, "everything is at its own address");
            assert!(!(m.write && m.execute), "{m:x?}");
            let bytes = m.range.end - m.range.start;
            mapped += bytes;
            executable += if m.execute { bytes } else { 0 };
            read_only += if m.write { 0 } else { bytes };
            for (range, rights) in IMAGE {
                if m.range.start < range.end && range.start < m.range.end {
                    assert_ne!(rights, Rights::Guard, "a guard page is mapped");
                    assert_eq!((m.write, m.execute), (false, rights == Rights::Code));
                }
            }
        });
        assert_eq!(executable, 0x25_3000 - 0x10_1000);
        assert_eq!(read_only, 0x2a_0000 - 0x10_0000);
        assert_eq!(mapped, (5 << 30) - PAGE + LARGE);
    }

    #[test]
    fn a_page_that_is_protected_twice_has_the_later_rights() {
        let mut t = fake();
        for rights in [Rights::Code, Rights::Guard, Rights::Data] {
            assert!(protect(&mut t, ROOT, range(0x40_0000, 0x80_0000), rights));
            assert!(protect(&mut t, ROOT, range(0x60_1000, 0x60_2000), rights));
        }
        let mut all = Vec::new();
        walk(&t, ROOT, &mut |m| all.push((m.write, m.execute)));
        assert!(all.iter().all(|&rights| rights == (true, false)));
    }

    #[test]
    fn without_memory_for_tables_nothing_is_promised() {
        for most in 0..3 {
            let mut t = Fake {
                most,
                ..Fake::default()
            };
            let page = range(0x60_1000, 0x60_2000);
            assert!(!protect(&mut t, ROOT, page, Rights::Code));
        }
    }
}
