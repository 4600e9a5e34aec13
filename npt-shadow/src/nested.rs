//! Nested page tables: in the long-mode format that AMD-V walks (APM vol 2 15.25, "Nested Paging"), or as extended page tables
//! for VT-x (SDM vol 3C 29.3, "The Extended Page Table Mechanism (EPT)").
//!
//! The formats differ less than it seems: in both, bit 0 makes an entry present (readable), bit 1 writable, bit 2 usable by
//! nested walks or executable, and bit 7 marks a large page. Only EPT leaves have a memory type.
//!
//! All of the guest's memory is mapped when it is added to the map, with the largest pages that fit, so that a nested page
//! fault only ever means MMIO, a write to ROM, or nothing there. Invariant: an entry is present exactly where the map has RAM,
//! ROM or device RAM.
//!
//! Memory that is taken away, and tables that are no longer needed, are so only when no virtual CPU in the guest remembers them: those that
//! may are kicked first ([`hv_core::flush`]).

use alloc::sync::Arc;
use hv_core::flush::{Flushes, Kick};
use hv_core::mem::GuestMemory;
use hv_core::mmu::{Access, Backing, Frames, Mmu, PageFault, PagingState, TlbFlush};
use hv_core::trail::{End, Step, Tables, Trail};
use hv_core::{Gpa, Gva, Hpa};

/// Present (long mode), readable (EPT).
const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
/// User access, which nested walks are (APM vol 2 15.25.5, "Nested Table Walk"); executable (EPT).
const US: u64 = 1 << 2;
/// A large page.
const PS: u64 = 1 << 7;
/// EPT leaves: write-back, whatever the guest's PAT says (SDM vol 3C 29.3.7.2, "Memory Type Used for Translated Guest-Physical
/// Addresses"). All that is mapped is the host's RAM, and no device but Umbra's own looks at it.
const EPT_WRITE_BACK: u64 = 6 << 3 | 1 << 6;

/// Who walks the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// AMD-V: long-mode page tables.
    LongMode,
    /// VT-x: extended page tables.
    Ept,
}

impl Format {
    /// What leaves have besides address, permissions and size.
    const fn leaf(self) -> u64 {
        match self {
            Format::LongMode => 0,
            Format::Ept => EPT_WRITE_BACK,
        }
    }
}
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Levels of a long-mode table: 4 down to 1.
const ROOT_LEVEL: u32 = 4;

/// Bytes that one entry at `level` (1 to 4) maps.
const fn span(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

const fn index(gpa: u64, level: u32) -> usize {
    (gpa >> (12 + 9 * (level - 1)) & 0x1ff) as usize
}

/// The nested tables of one VM.
pub struct NestedMmu<F: Frames> {
    frames: F,
    root: Hpa,
    used: u64,
    flushes: Flushes,
    /// Makes CPUs leave the guest. None: while the MMU is at work no CPU is there.
    kick: Option<Arc<dyn Kick>>,
    format: Format,
    /// Largest leaf level: 3 with 1 GiB pages, 2 with 2 MiB pages, else 1.
    largest: u32,
    /// A table could not be allocated: part of the map is missing.
    exhausted: bool,
}

impl<F: Frames> NestedMmu<F> {
    /// Empty tables, with leaves at level `largest` (3: 1 GiB, 2: 2 MiB, 1: 4 KiB) and below. None: there is no frame for the root.
    pub fn new(mut frames: F, format: Format, largest: u32) -> Option<Self> {
        let root = frames.allocate()?;
        Some(Self {
            frames,
            root,
            used: 1,
            flushes: Flushes::new(),
            kick: None,
            format,
            largest,
            exhausted: false,
        })
    }

    /// The most tables that `bytes` of RAM need, which lies on the host in pieces aligned to 2 MiB, with leaves at level `largest` and below;
    /// for what devices have besides there is room.
    #[must_use]
    pub const fn tables(bytes: u64, largest: u32) -> u64 {
        // Tables of 4 KiB pages where the holes for devices and firmware are, and above them.
        const EDGES: u64 = 64;
        let small = if largest < 2 {
            bytes.div_ceil(span(2))
        } else {
            0
        };
        EDGES + small + bytes.div_ceil(span(3)) + bytes.div_ceil(span(4))
    }

    /// Whether the host ran out of frames while tables were built.
    #[must_use]
    pub fn exhausted(&self) -> bool {
        self.exhausted
    }

    /// From now on CPUs may be in the guest while the MMU is at work, and `kick` makes them leave it.
    pub fn set_kick(&mut self, kick: Arc<dyn Kick>) {
        self.kick = Some(kick);
    }

    /// Returns when no CPU uses what it remembers of the tables: all have to flush.
    pub(crate) fn forget(&mut self) {
        self.flushes.require();
        self.flushes.shoot_down(self.kick.as_deref());
    }

    /// Changes `[start, end)` below the table `table` of `level` to map to `to` (whose address belongs to `start`), or to nothing.
    fn set(&mut self, table: Hpa, level: u32, start: u64, end: u64, to: Option<(u64, u64)>) {
        let mut at = start;
        while at < end {
            let i = index(at, level);
            let entry_start = at & !(span(level) - 1);
            let next = (entry_start + span(level)).min(end);
            let whole = at == entry_start && next == entry_start + span(level);
            let target = to.map(|(hpa, flags)| (hpa + (at - start), flags));
            let old = self.frames.read(table, i);
            let fits =
                target.is_none_or(|(hpa, _)| level <= self.largest && hpa & (span(level) - 1) == 0);
            if whole && fits {
                let large = if level > 1 { PS } else { 0 };
                self.frames.write(
                    table,
                    i,
                    target.map_or(0, |(hpa, flags)| hpa | flags | large),
                );
                if level > 1 && old & (P | PS) == P {
                    self.forget();
                    self.release(Hpa(old & ADDRESS), level - 1);
                }
            } else if let Some(child) = self.child(table, i, level, old, target.is_some()) {
                self.set(child, level - 1, at, next, target);
            } else if target.is_none() && old & P != 0 {
                // There is no table to split it with. What is taken away has to go, and what is around it goes with it.
                self.frames.write(table, i, 0);
            }
            at = next;
        }
    }

    /// The table below entry `i`, made (and filled, where a large page is split) if there is none.
    fn child(&mut self, table: Hpa, i: usize, level: u32, old: u64, wanted: bool) -> Option<Hpa> {
        if old & (P | PS) == P {
            return Some(Hpa(old & ADDRESS));
        }
        if old & P == 0 && !wanted {
            return None;
        }
        let Some(new) = self.frames.allocate() else {
            self.exhausted = true;
            return None;
        };
        self.used += 1;
        if old & P != 0 {
            let step = span(level - 1);
            let flags = old & (P | RW | US) | self.format.leaf() | if level > 2 { PS } else { 0 };
            for n in 0..512 {
                self.frames.write(
                    new,
                    n,
                    ((old & ADDRESS & !(span(level) - 1)) + n as u64 * step) | flags,
                );
            }
        }
        self.frames.write(table, i, new.0 | P | RW | US);
        Some(new)
    }

    fn release(&mut self, table: Hpa, level: u32) {
        if level > 1 {
            for i in 0..512 {
                let e = self.frames.read(table, i);
                if e & (P | PS) == P {
                    self.release(Hpa(e & ADDRESS), level - 1);
                }
            }
        }
        self.frames.free(table);
        self.used -= 1;
    }

    /// The entries on the way to `gpa`, as the hardware reads them.
    #[must_use]
    pub fn trail(&self, gpa: Gpa) -> Trail {
        let mut trail = Trail::new(Tables::Nested, gpa.0);
        let mut table = self.root;
        let mut writable = true;
        for level in (1..=ROOT_LEVEL).rev() {
            let i = index(gpa.0, level);
            let entry = self.frames.read(table, i);
            trail.read(Step {
                level,
                place: table.0 + 8 * i as u64,
                entry,
            });
            if entry & P == 0 {
                trail.end = End::NotPresent;
                break;
            }
            writable &= entry & RW != 0;
            if level == 1 || entry & PS != 0 {
                let offset = gpa.0 & (span(level) - 1);
                trail.end = End::Mapped {
                    to: (entry & ADDRESS & !(span(level) - 1)) + offset,
                    writable,
                    user: true,
                    no_execute: false,
                };
                break;
            }
            table = Hpa(entry & ADDRESS);
        }
        trail
    }

    /// What the hardware would find at `gpa`: host address and whether it may be written. For tests and dumps.
    #[must_use]
    pub fn lookup(&self, gpa: Gpa) -> Option<(Hpa, bool)> {
        match self.trail(gpa).end {
            End::Mapped { to, writable, .. } => Some((Hpa(to), writable)),
            _ => None,
        }
    }
}

impl<F: Frames> Drop for NestedMmu<F> {
    fn drop(&mut self) {
        self.release(self.root, ROOT_LEVEL);
    }
}

impl<F: Frames> Mmu for NestedMmu<F> {
    #[inline]
    fn root(&mut self, cpu: usize) -> (Hpa, TlbFlush) {
        (self.root, self.flushes.acknowledge(cpu))
    }

    #[inline]
    fn generation(&self) -> u64 {
        self.flushes.generation()
    }

    fn translate(
        &mut self,
        mem: &dyn GuestMemory,
        state: &PagingState,
        gva: Gva,
        access: Access,
    ) -> Result<Gpa, PageFault> {
        crate::walk::translate(mem, state, gva, access)
    }

    fn remap(&mut self, start: Gpa, len: u64, backing: Backing) {
        let end = start.0.saturating_add(len).min(1 << 48) & !0xfff;
        let start = start.0 & !0xfff;
        let to = match backing {
            Backing::Ram { hpa, writable } => {
                let permissions = P | US | if writable { RW } else { 0 };
                Some((hpa.0 & ADDRESS, permissions | self.format.leaf()))
            }
            Backing::Mmio => None,
        };
        self.set(self.root, ROOT_LEVEL, start, end, to);
        self.forget();
    }

    fn while_nobody_runs(&mut self, f: &mut dyn FnMut()) {
        self.forget();
        f();
    }

    fn frames_used(&self) -> u64 {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared_frames::SharedFrames;
    use hv_core::flush::CpuSet;
    use hv_core::testing::Random;
    use std::collections::BTreeMap;

    /// Frames in a map, that notices use after free.
    #[derive(Default)]
    struct TestFrames {
        tables: BTreeMap<u64, Vec<u64>>,
        next: u64,
        limit: Option<usize>,
    }

    impl Frames for TestFrames {
        fn allocate(&mut self) -> Option<Hpa> {
            if self.limit == Some(self.tables.len()) {
                return None;
            }
            self.next += 0x1000;
            self.tables.insert(self.next, vec![0; 512]);
            Some(Hpa(self.next))
        }
        fn free(&mut self, frame: Hpa) {
            assert!(self.tables.remove(&frame.0).is_some(), "freed twice");
        }
        fn read(&self, frame: Hpa, index: usize) -> u64 {
            self.tables[&frame.0][index]
        }
        fn write(&mut self, frame: Hpa, index: usize, value: u64) {
            self.tables
                .get_mut(&frame.0)
                .expect("written after it was freed")[index] = value;
        }
    }

    fn mmu() -> NestedMmu<TestFrames> {
        NestedMmu::new(TestFrames::default(), Format::LongMode, 3).unwrap()
    }

    fn ram(hpa: u64) -> Backing {
        Backing::Ram {
            hpa: Hpa(hpa),
            writable: true,
        }
    }

    #[test]
    fn aligned_gigabytes_take_one_entry_each() {
        let mut m = mmu();
        m.remap(Gpa(0), 4 << 30, ram(8 << 30));
        assert_eq!(m.used, 2, "root and one table");
        assert_eq!(
            m.lookup(Gpa(0x1_2345_6789 & 0xffff_ffff)),
            Some((Hpa((8 << 30) + 0x2345_6789), true))
        );
    }

    #[test]
    fn hole_in_a_large_page_splits_it() {
        let mut m = mmu();
        m.remap(Gpa(0), 1 << 30, ram(1 << 30));
        m.remap(Gpa(0xa_0000), 0x2_0000, Backing::Mmio);
        m.remap(
            Gpa(0xe_0000),
            0x1000,
            Backing::Ram {
                hpa: Hpa(0x7000),
                writable: false,
            },
        );
        assert_eq!(
            m.lookup(Gpa(0x9_ffff)),
            Some((Hpa((1 << 30) + 0x9_ffff), true))
        );
        assert_eq!(m.lookup(Gpa(0xa_0000)), None);
        assert_eq!(m.lookup(Gpa(0xb_ffff)), None);
        assert_eq!(m.lookup(Gpa(0xe_0010)), Some((Hpa(0x7010), false)));
        assert_eq!(
            m.lookup(Gpa(0x20_0000)),
            Some((Hpa((1 << 30) + 0x20_0000), true))
        );
    }

    #[test]
    fn random_maps_agree_with_a_page_by_page_model() {
        let mut random = Random::new(0x1234_5678_9abc_def1);
        let mut rnd = move || random.next();
        let mut m = mmu();
        let mut model: BTreeMap<u64, (u64, bool)> = BTreeMap::new();
        const PAGES: u64 = 3 * 512 + 100;
        for round in 0..300 {
            let start = rnd() % PAGES;
            let len = (rnd() % (PAGES - start)).min(rnd() % 1200) + 1;
            let hpa = if rnd() % 2 == 0 {
                (start % 512) + 512 * (rnd() % 64)
            } else {
                rnd() % 100_000
            };
            let backing = if rnd() % 3 == 0 {
                Backing::Mmio
            } else {
                Backing::Ram {
                    hpa: Hpa(hpa << 12),
                    writable: rnd() % 2 == 0,
                }
            };
            m.remap(Gpa(start << 12), len << 12, backing);
            for p in 0..len {
                match backing {
                    Backing::Ram { writable, .. } => model.insert(start + p, (hpa + p, writable)),
                    Backing::Mmio => model.remove(&(start + p)),
                };
            }
            for p in 0..PAGES + 10 {
                let want = model.get(&p).map(|&(h, w)| (Hpa((h << 12) + 5), w));
                assert_eq!(
                    m.lookup(Gpa((p << 12) + 5)),
                    want,
                    "round {round}, page {p}"
                );
            }
        }
        m.remap(Gpa(0), 1 << 40, Backing::Mmio);
        assert_eq!(
            m.used,
            m.frames.tables.len() as u64,
            "every table is accounted for"
        );
        assert!(m.used <= 2);
    }

    #[test]
    fn extended_tables_have_memory_types_in_their_leaves_only() {
        let mut m = NestedMmu::new(TestFrames::default(), Format::Ept, 2).unwrap();
        m.remap(Gpa(0), 4 << 20, ram(1 << 30));
        m.remap(Gpa(0x1000), 0x1000, Backing::Mmio);
        m.remap(
            Gpa(0x2000),
            0x1000,
            Backing::Ram {
                hpa: Hpa(0x7000),
                writable: false,
            },
        );
        let leaves: Vec<u64> = m
            .frames
            .tables
            .values()
            .flatten()
            .copied()
            .filter(|e| e & P != 0 && e & !0xfff >= 1 << 30 || e & ADDRESS == 0x7000)
            .collect();
        let tables = m
            .frames
            .tables
            .values()
            .flatten()
            .filter(|&&e| e != 0)
            .count()
            - leaves.len();
        assert_eq!(
            tables, 3,
            "root, 512 GiB, 1 GiB; and one page directory entry: {leaves:x?}"
        );
        assert_eq!(leaves.len(), 1 + 511);
        for leaf in leaves {
            assert_eq!(leaf & 0x78, 6 << 3 | 1 << 6, "{leaf:#x}");
            assert_eq!(leaf & (P | US), P | US);
        }
        assert_eq!(m.lookup(Gpa(0x2010)), Some((Hpa(0x7010), false)));
    }

    /// Frames, and a kick, that write down in what order they come.
    #[derive(Clone, Default)]
    struct Watched(SharedFrames, Arc<std::sync::Mutex<Vec<Option<Hpa>>>>);

    impl Frames for Watched {
        fn allocate(&mut self) -> Option<Hpa> {
            self.0.allocate()
        }
        fn free(&mut self, frame: Hpa) {
            self.1.lock().unwrap().push(Some(frame));
        }
        fn read(&self, frame: Hpa, index: usize) -> u64 {
            self.0.read(frame, index)
        }
        fn write(&mut self, frame: Hpa, index: usize, value: u64) {
            self.0.write(frame, index, value);
        }
    }

    impl Kick for Watched {
        fn kick(&self, cpus: CpuSet) {
            assert_eq!(cpus, 1 << 2);
            self.1.lock().unwrap().push(None);
        }
    }

    #[test]
    fn a_table_is_freed_only_when_no_cpu_in_the_guest_can_walk_it() {
        let frames = Watched::default();
        let mut m = NestedMmu::new(frames.clone(), Format::LongMode, 2).unwrap();
        m.set_kick(Arc::new(frames.clone()));
        m.remap(Gpa(0x1000), 0x1000, ram(0x5000));
        let _ = m.root(2);
        assert!(m.flushes.is_admitted(2));
        m.remap(Gpa(0), 1 << 21, ram(1 << 21));
        let happened = frames.1.lock().unwrap().clone();
        assert!(
            matches!(happened[..], [None, Some(_)]),
            "kicked, then freed: {happened:?}"
        );
        assert!(!m.flushes.is_admitted(2), "it has to flush first");
    }

    #[test]
    fn every_cpu_flushes_once_for_every_change() {
        let mut m = mmu();
        let mut seen = 0;
        for change in 0..3 {
            assert_ne!(m.generation(), seen);
            for cpu in [1, 0, 31] {
                assert_eq!(m.root(cpu), (m.root, TlbFlush::Guest), "change {change}");
                assert_eq!(m.root(cpu).1, TlbFlush::None);
            }
            seen = m.generation();
            let _ = m.root(0);
            assert_eq!(m.generation(), seen, "nobody has to ask again");
            m.remap(Gpa(change << 12), 0x1000, ram(0x8000));
        }
    }

    #[test]
    fn the_trail_leads_entry_by_entry_to_what_a_plain_list_of_pages_has() {
        const PAGES: usize = 0xa00;
        let mut random = Random::from_env("UMBRA_SEED", 17);
        let mut m = mmu();
        let mut pages = [Backing::Mmio; PAGES];
        for change in 0..400 {
            let start = random.below(PAGES as u64);
            let len = random.pick(&[1, 2, 0x200, 0x400]).min(PAGES as u64 - start);
            let start = if random.one_in(2) {
                start & !0x1ff
            } else {
                start
            };
            let hpa =
                Hpa(0x4000_0000 + (random.below(0x1000) << 12 & random.pick(&[!0, !0x1f_ffff])));
            let backing = match random.below(3) {
                0 => Backing::Mmio,
                kind => Backing::Ram {
                    hpa,
                    writable: kind == 1,
                },
            };
            m.remap(Gpa(start << 12), len << 12, backing);
            for n in 0..len {
                pages[(start + n) as usize] = match backing {
                    Backing::Mmio => backing,
                    Backing::Ram { hpa, writable } => Backing::Ram {
                        hpa: Hpa(hpa.0 + (n << 12)),
                        writable,
                    },
                };
            }
            for _ in 0..20 {
                let gpa = random.below((PAGES as u64) << 12);
                let trail = m.trail(Gpa(gpa));
                let mut table = m.root.0;
                for (n, step) in trail.steps().iter().enumerate() {
                    let index = gpa >> (39 - 9 * n) & 0x1ff;
                    assert_eq!(step.level, 4 - n as u32);
                    assert_eq!(step.place, table + 8 * index);
                    assert_eq!(step.entry, m.frames.read(Hpa(table), index as usize));
                    table = step.entry & ADDRESS;
                }
                let found = match trail.end {
                    End::Mapped { to, writable, .. } => Backing::Ram {
                        hpa: Hpa(to & !0xfff),
                        writable,
                    },
                    End::NotPresent => Backing::Mmio,
                    other => panic!("{other:?}"),
                };
                assert_eq!(
                    found,
                    pages[(gpa >> 12) as usize],
                    "change {change}: {trail:x?}"
                );
            }
        }
    }

    #[test]
    fn running_out_of_frames_is_reported_and_harmless() {
        let mut m = NestedMmu::new(
            TestFrames {
                limit: Some(2),
                ..TestFrames::default()
            },
            Format::LongMode,
            2,
        )
        .unwrap();
        m.remap(Gpa(0), 1 << 30, ram(0));
        assert!(m.exhausted());
        assert_eq!(m.lookup(Gpa(0)), None);
    }

    #[test]
    fn what_is_taken_away_is_gone_even_where_no_table_can_be_had_to_split_a_large_page() {
        let frames = TestFrames {
            limit: Some(2),
            ..TestFrames::default()
        };
        let mut m = NestedMmu::new(frames, Format::LongMode, 3).unwrap();
        m.remap(Gpa(0), 2 << 30, ram(0));
        assert!(!m.exhausted() && m.lookup(Gpa(0x20_0000)).is_some());
        m.withdraw(Gpa(0x20_0000), 0x20_0000);
        assert!(m.exhausted());
        assert_eq!(m.lookup(Gpa(0x20_0000)), None);
        assert!(m.lookup(Gpa(1 << 30)).is_some());
    }
}
