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
        if !self.cpu.state.cr0.contains(Cr0::PG) {
            return (r.below(FRAMES + 4) << 12) + offset;
        }
        if self.cpu.state.efer.contains(Efer::LMA) {
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

    /// Other programs in memory, other modes.
    pub(super) fn restart(&mut self) {
        for cpu in 0..self.cpus() {
            self.turn(cpu);
            self.leave();
            self.some_mode();
            for _ in 0..120 {
                let ((gpa, len), entry) = (self.some_entry_place(), self.some_entry());
                self.memory
                    .write(Gpa(gpa), &entry.to_le_bytes()[..len])
                    .unwrap();
            }
        }
        self.map_all();
        self.world().judge = Judge::default();
        // What was written behind the MMU's back is not the guest's doing.
        self.mmu.empty();
        // With the usual limits a program of this size hardly ever reaches them.
        self.mmu.limits = match self.choices.one_in(2) {
            true => Limits::USUAL,
            false => Limits {
                // A table may be on the way to itself at each of five levels.
                unsync: 5 + self.choices.below(4) as usize,
                idle: self.choices.below(3) as u8,
            },
        };
        for cpu in 0..self.cpus() {
            self.turn(cpu);
            self.load_cr3();
        }
    }

    /// A mode for this CPU: that of the first, in half of all cases.
    fn some_mode(&mut self) {
        if self.number != 0 && self.choices.one_in(2) {
            let world = self.world();
            let (state, roots) = (world.cpus[0].state, world.cpus[0].roots.clone());
            drop(world);
            (self.cpu.state, self.cpu.roots) = (state, roots);
            if self.choices.one_in(2) {
                self.some_rights();
            }
            return;
        }
        let r = &mut self.choices;
        let mode = r.pick(&[
            Mode::Long,
            Mode::Long,
            Mode::Pae,
            Mode::TwoLevel,
            Mode::Unpaged,
        ]);
        let wp = !r.one_in(3);
        let state = &mut self.cpu.state;
        state.cr0 = Cr0::PE;
        state.cr0.set(Cr0::PG, mode != Mode::Unpaged);
        state.cr0.set(Cr0::WP, wp);
        state.cr4 = Cr4::empty();
        state.efer = Efer::empty();
        if matches!(mode, Mode::Pae | Mode::Long) {
            state.cr4 |= Cr4::PAE;
        }
        if mode == Mode::Long {
            state.efer |= Efer::LME | Efer::LMA;
        }
        self.some_rights();
        let first = self.world().cpus[0].roots.clone();
        let roots = (0..3).map(|n| match first.get(n) {
            // The tables of the first CPU, read in another way.
            Some(root) if self.choices.one_in(2) => root & !0xfff,
            _ => self.choices.pick(&TABLES) << 12,
        });
        self.cpu.roots = roots.collect();
        if mode == Mode::Pae {
            // Where no other entries are: these have no accessed flags, and a load of CR3 checks them.
            for root in &mut self.cpu.roots {
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
    }

    pub(super) fn some_rights(&mut self) {
        let r = &mut self.choices;
        self.cpu.state.efer.set(Efer::NXE, !r.one_in(3));
        let wide = self.cpu.state.cr4.contains(Cr4::PAE);
        self.cpu.state.cr4.set(Cr4::PSE, wide || !r.one_in(4));
        self.cpu.state.cr4.set(Cr4::SMEP, r.one_in(2));
        self.cpu.state.cr4.set(Cr4::SMAP, r.one_in(2));
    }

    pub(super) fn load_cr3(&mut self) {
        self.cpu.state.cr3 = self.choices.pick(&self.cpu.roots);
        self.reload();
    }

    /// The guest loads CR3 with what it has, or has changed how its tables are read.
    fn reload(&mut self) {
        self.leave();
        self.note(format!("CPU {}: load {:x?}", self.number, self.cpu.state));
        self.mmu.load(self.number, &self.cpu.state);
        self.flush_all();
    }

    pub(super) fn note(&mut self, what: String) {
        if self.log.len() > 60 {
            self.log.remove(0);
        }
        self.log.push(what);
    }

    /// One step of a program.
    pub(super) fn step(&mut self) {
        let cpus = self.cpus() as u64;
        if cpus > 1 && self.choices.one_in(3) {
            let next = self.choices.below(cpus) as usize;
            self.turn(next);
        }
        if cpus > 1 && self.choices.one_in(3) {
            self.world().go_on();
        }
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
                if self.choices.one_in(2) {
                    self.some_rights();
                    if self.choices.one_in(2) {
                        self.cpu.state.cr0.toggle(Cr0::WP);
                    }
                    self.load_cr3();
                } else {
                    let right = self.choices.pick(&[Cr4::SMAP, Cr4::SMEP]);
                    self.cpu.state.cr4.toggle(right);
                    self.reload();
                }
                self.access_at(va, None);
            }
            95 => {
                self.reclaim();
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
                self.cpu.cpl = if self.choices.one_in(2) { 3 } else { 0 };
                self.cpu.state.ac = self.choices.one_in(2);
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
            user: self.cpu.cpl == 3,
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
        self.world().judge.before_store(&self.memory, gpa, len);
        self.watched
            .write(Gpa(gpa), &entry.to_le_bytes()[..len])
            .unwrap();
        self.world().judge.stored(&self.memory, gpa, len);
    }

    /// Room is made. What CPUs are on stays.
    fn reclaim(&mut self) {
        self.leave();
        self.note("reclaim".into());
        let on = |mmu: &ShadowMmu<_>| -> Vec<_> {
            let root = |cpu: &Cpu| {
                let root = cpu.root?;
                let below = if mmu.pool.is_root(root) { 0..4 } else { 0..0 };
                let below: Vec<_> = below.map(|index| mmu.child(root, index)).collect();
                Some((root, below))
            };
            mmu.cpus.iter().map(root).collect()
        };
        let before = on(&self.mmu);
        self.mmu.reclaim(3);
        assert_eq!(on(&self.mmu), before, "a CPU's root was given up for room");
    }

    pub(super) fn invlpg(&mut self, va: u64) {
        self.leave();
        self.note(format!("CPU {}: invlpg {va:x}", self.number));
        self.mmu
            .invalidate_page(self.number, &self.cpu.state, Gva(va));
        self.flush_page(va);
    }
}
