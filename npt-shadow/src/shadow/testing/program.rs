//! What guests do, at random.

use super::judge::Judge;
use super::machine::{Machine, Mode};
use super::*;

impl Machine {
    /// An address among those that the tables are filled for.
    pub(super) fn address(&mut self) -> u64 {
        let wide = self.wide();
        let r = &mut self.choices;
        let offset = r.below(0x200) * 8;
        let page = r.below(4);
        if !self.state.cr0.contains(Cr0::PG) {
            return (r.below(FRAMES + 4) << 12) + offset;
        }
        if self.state.efer.contains(Efer::LMA) {
            (r.below(2) << 39 | r.below(2) << 30 | r.below(3) << 21 | page << 12) + offset
        } else if wide {
            (r.below(4) << 30 | r.below(3) << 21 | page << 12) + offset
        } else {
            let table = r.pick(&[0, 1, 256, 1023]);
            let page = r.pick(&[0, 1, 2, 512, 513]);
            (table << 22 | page << 12) + offset
        }
    }

    /// A plausible entry.
    pub(super) fn some_entry(&mut self) -> u64 {
        let r = &mut self.choices;
        let frame = if r.one_in(2) {
            r.pick(&TABLES)
        } else if r.one_in(2) {
            r.below(64)
        } else {
            r.below(FRAMES)
        };
        let mut entry = frame << 12 | r.next() & 0xe7;
        if !r.one_in(6) {
            entry |= P;
        }
        if !r.one_in(4) {
            entry |= RW | US;
        }
        if !r.one_in(3) {
            entry |= A;
        }
        // Large pages: the first, or one of those without a table, mostly.
        if entry & PS != 0 {
            if r.one_in(3) {
                entry = entry & 0xfff | r.below(3) << 21;
            } else {
                entry &= !PS;
            }
        }
        if r.one_in(6) {
            entry |= NX;
        }
        if r.one_in(100) {
            entry |= 1 << r.below(64);
        }
        entry
    }

    /// Where an entry that the addresses use may be.
    pub(super) fn some_entry_place(&mut self) -> (u64, usize) {
        let wide = self.wide();
        let r = &mut self.choices;
        let frame = r.pick(&TABLES) << 12;
        if wide {
            (frame + r.below(4) * 8, 8)
        } else {
            let index = r.pick(&[0, 1, 2, 256, 512, 513, 1023]);
            (frame + index * 4, 4)
        }
    }

    /// Other programs in memory, another mode.
    pub(super) fn restart(&mut self) {
        let r = &mut self.choices;
        let mode = r.pick(&[
            Mode::Long,
            Mode::Long,
            Mode::Pae,
            Mode::TwoLevel,
            Mode::Unpaged,
        ]);
        let wp = !r.one_in(3);
        self.state.cr0 = Cr0::PE;
        self.state.cr0.set(Cr0::PG, mode != Mode::Unpaged);
        self.state.cr0.set(Cr0::WP, wp);
        self.state.cr4 = Cr4::empty();
        self.state.efer = Efer::empty();
        if matches!(mode, Mode::Pae | Mode::Long) {
            self.state.cr4 |= Cr4::PAE;
        }
        if mode == Mode::Long {
            self.state.efer |= Efer::LME | Efer::LMA;
        }
        self.some_rights();
        for _ in 0..120 {
            let ((gpa, len), entry) = (self.some_entry_place(), self.some_entry());
            self.memory
                .write(Gpa(gpa), &entry.to_le_bytes()[..len])
                .unwrap();
        }
        self.map_all();
        self.roots = (0..3).map(|_| self.choices.pick(&TABLES) << 12).collect();
        if mode == Mode::Pae {
            // Where no other entries are: these have no accessed flags, and a load of CR3 checks them.
            for root in &mut self.roots {
                *root += PDPT;
                for i in 0..4 {
                    let entry =
                        self.choices.pick(&TABLES) << 12 | u64::from(!self.choices.one_in(8));
                    self.memory
                        .write(Gpa(*root + 8 * i), &entry.to_le_bytes())
                        .unwrap();
                }
            }
        }
        self.judge = Judge::default();
        // What was written behind the MMU's back is not the guest's doing.
        self.mmu.empty();
        self.load_cr3();
    }

    pub(super) fn some_rights(&mut self) {
        let r = &mut self.choices;
        self.state.efer.set(Efer::NXE, !r.one_in(3));
        let wide = self.state.cr4.contains(Cr4::PAE);
        self.state.cr4.set(Cr4::PSE, wide || !r.one_in(4));
        self.state.cr4.set(Cr4::SMEP, r.one_in(2));
        self.state.cr4.set(Cr4::SMAP, r.one_in(2));
    }

    pub(super) fn load_cr3(&mut self) {
        self.state.cr3 = self.choices.pick(&self.roots.clone());
        self.note(format!("load {:x?}", self.state));
        self.mmu.load(0, &self.state);
        self.judge.flush_all();
    }

    pub(super) fn note(&mut self, what: String) {
        if self.log.len() > 60 {
            self.log.remove(0);
        }
        self.log.push(what);
    }

    /// One step of a program.
    pub(super) fn step(&mut self) {
        match self.choices.below(100) {
            0..50 => self.access(),
            50..58 => self.change_mapping(),
            58..62 => self.share_table(),
            // Stores by devices and emulated instructions.
            62..76 => {
                let ((gpa, len), entry) = (self.some_entry_place(), self.some_entry());
                self.dma(gpa, len, entry);
            }
            76..84 => {
                let va = self.address();
                self.invlpg(va);
            }
            84..93 => self.load_cr3(),
            93..95 => {
                let va = self.address();
                self.access_at(va, None);
                self.some_rights();
                if self.choices.one_in(2) {
                    self.state.cr0.toggle(Cr0::WP);
                }
                self.load_cr3();
                self.access_at(va, None);
            }
            95 => {
                self.mmu.reclaim(3);
            }
            96 => {
                let gfn = 12 + self.choices.below(52);
                let ram = Backing::Ram {
                    hpa: Hpa(RAM + (gfn << 12)),
                    writable: self.choices.one_in(2),
                };
                let to = self.choices.pick(&[Backing::Mmio, ram, ram]);
                self.note(format!("remap {gfn:x} {to:x?}"));
                self.map(gfn, to);
            }
            _ => {
                self.cpl = if self.choices.one_in(2) { 3 } else { 0 };
                self.state.ac = self.choices.one_in(2);
            }
        }
    }

    pub(super) fn access(&mut self) {
        let va = self.address();
        self.access_at(va, None);
    }

    /// The guest changes the entry that maps an address, as it does: through a mapping of the table if it has one. Then it flushes, or
    /// not, and accesses the address, or not.
    pub(super) fn change_mapping(&mut self) {
        let va = self.address();
        let walk = self.reference(va, Access::default());
        if walk.result.is_err() || walk.steps.is_empty() {
            return;
        }
        self.access_at(va, None);
        let last = walk.steps.len() - 1;
        let above = usize::from(self.choices.one_in(4));
        let step = walk.steps[last.saturating_sub(above)];
        let entry = if self.choices.one_in(3) {
            step.entry ^ self.choices.pick(&[P, RW, US, A, D, 1 << 12])
        } else {
            self.some_entry()
        };
        self.store_entry(step.place, entry);
        if self.choices.one_in(2) {
            self.invlpg(va);
        }
        if self.choices.one_in(2) {
            self.access_at(va, None);
        }
    }

    /// The guest changes an entry and then lets another entry of the table above lead to the same table: what is reached by that is new,
    /// and needs no flush.
    pub(super) fn share_table(&mut self) {
        let va = self.address();
        let walk = self.reference(va, Access::default());
        let (Ok(_), [.., above, last]) = (walk.result, walk.steps.as_slice()) else {
            return;
        };
        if last.level != 1 {
            return;
        }
        let (bits, size) = if self.wide() { (9, 8) } else { (10, 4) };
        let bit = 1 << (12 + bits);
        let other = va ^ bit;
        let beside = if va & bit == 0 {
            above.place + size
        } else {
            above.place - size
        };
        self.access_at(va, None);
        let entry = self.some_entry();
        self.store_entry(last.place, entry);
        self.store_entry(beside, above.entry);
        self.access_at(other ^ 0x1000, None);
        self.access_at(other, None);
    }

    /// Changes an entry through a mapping of the table, if there is one that is soon found.
    pub(super) fn store_entry(&mut self, place: u64, entry: u64) {
        if place & 0xfff >= PDPT {
            return;
        }
        let write = Access {
            write: true,
            user: self.cpl == 3,
            ..Access::default()
        };
        let mapping = (0..40).find_map(|_| {
            let at = self.address() & !0xfff;
            let gpa = self.reference(at, write).result.ok()?;
            (gpa >> 12 == place >> 12).then_some(at + (place & 0xfff))
        });
        match mapping {
            Some(at) => self.access_at(at, Some(entry)),
            None => self.dma(place, if self.wide() { 8 } else { 4 }, entry),
        }
    }

    pub(super) fn dma(&mut self, gpa: u64, len: usize, entry: u64) {
        self.note(format!("DMA {gpa:x} {entry:x} {len}"));
        self.judge.before_store(&self.memory, gpa, len);
        self.watched
            .write(Gpa(gpa), &entry.to_le_bytes()[..len])
            .unwrap();
        self.judge.stored(&self.memory, gpa, len);
    }

    pub(super) fn invlpg(&mut self, va: u64) {
        self.note(format!("invlpg {va:x}"));
        self.mmu.invalidate_page(0, &self.state, Gva(va));
        self.judge.flush_page(va);
    }
}
