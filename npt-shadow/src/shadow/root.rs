//! What each virtual CPU is on: its root, which is the page that shadows its top table, or, without long mode, a PAE root of its own.

use super::*;

/// What one virtual CPU has for itself.
#[derive(Clone, Copy)]
pub(super) struct Cpu {
    /// Its paging registers as of the last load.
    pub(super) state: PagingState,
    pub(super) reading: Reading,
    /// What its CR3 points to; None: it has to be made.
    pub(super) root: Option<PageId>,
    /// Its last fault and how often it has come again since.
    pub(super) last: Option<(ShadowFault, u32)>,
}

impl<F: Frames> ShadowMmu<F> {
    /// The PAE root of CPU `cpu`.
    pub(super) fn pae_root(&self, cpu: usize) -> PageId {
        pae_root(if mutant(Mutant::PaeRootShared) {
            0
        } else {
            cpu
        })
    }

    /// Whether some CPU's CR3 points to the page.
    pub(super) fn is_root(&self, id: PageId) -> bool {
        self.cpus.iter().any(|cpu| cpu.root == Some(id))
    }

    /// What entry `index` of the PAE root of CPU `cpu` leads to; `pdpte` is the guest's entry, where it has any.
    pub(super) fn pae_child(&self, cpu: usize, index: usize, pdpte: u64) -> Option<Key> {
        let Cpu { state, reading, .. } = self.cpus[cpu];
        let mut role = Role {
            level: 2,
            direct: false,
            quadrant: 0,
            rights: Rights::ALL,
            reading,
        };
        let gfn = if !state.cr0.contains(Cr0::PG) {
            role.direct = true;
            (index as u64) << 18
        } else if reading.wide {
            if pdpte & P == 0 {
                return None;
            }
            (pdpte & ADDRESS) >> 12
        } else {
            role.quadrant = index as u8;
            (state.cr3 & 0xffff_f000) >> 12
        };
        Some(Key { gfn, role })
    }

    /// What the root of CPU `cpu` shadows, with four or five levels.
    pub(super) fn long_root(&self, cpu: usize) -> Key {
        let Cpu { state, reading, .. } = self.cpus[cpu];
        Key {
            gfn: (state.cr3 & ADDRESS) >> 12,
            role: Role {
                level: if state.cr4.contains(Cr4::LA57) { 5 } else { 4 },
                direct: false,
                quadrant: 0,
                rights: Rights::ALL,
                reading,
            },
        }
    }

    /// The page for the root of CPU `cpu`, if there is one.
    pub(super) fn find_root(&mut self, cpu: usize) -> Option<PageId> {
        // A virtual TLB is one CPU's. What another CPU of that root remembers, this one has been told to forget.
        if self.algorithm == Algorithm::Vtlb && !mutant(Mutant::VtlbShared) {
            return None;
        }
        let id = self.pool.find(&self.long_root(cpu))?;
        self.pool.page_mut(id).used = true;
        Some(id)
    }

    /// Makes the root of CPU `cpu`, or finds that another CPU has made it since this one loaded CR3: then it is as new as that.
    pub(super) fn make_root(&mut self, cpu: usize) -> PageId {
        let key = self.long_root(cpu);
        loop {
            if let Some(id) = self.find_root(cpu).or_else(|| self.create(key)) {
                self.cpus[cpu].root = Some(id);
                return id;
            }
            // There are at least MIN_PAGES pages for each CPU, and few of them are kept.
            self.reclaim(1);
            self.release();
        }
    }

    /// The page that is given up next for room. What the CPUs are on stays: the root of each, and the directories of its PAE root.
    pub(super) fn oldest(&mut self) -> Option<PageId> {
        if mutant(Mutant::RootsReclaimed) {
            return self.pool.oldest(|_| false);
        }
        let (mut kept, mut count) = ([0; 5 * MAX_CPUS], 0);
        for cpu in &self.cpus {
            let Some(root) = cpu.root else { continue };
            let directories = if self.pool.is_root(root) { 0..4 } else { 0..0 };
            let directories = directories.filter_map(|index| self.child(root, index));
            for id in [root].into_iter().chain(directories) {
                if let Some(place) = kept.get_mut(count) {
                    *place = id;
                    count += 1;
                }
            }
        }
        let kept = &kept[..count];
        self.pool.oldest(|id| kept.contains(&id))
    }

    /// Puts the fence up where a CPU could switch tasks, and takes it down when none can.
    pub(super) fn raise_fence(&mut self) {
        let up = self.frames.exists() && !self.cpus.iter().all(|cpu| cpu.reading.long);
        if self.frames.is_up() != up {
            // The entries of all CPUs get other addresses, and the hardware finds them elsewhere.
            self.zap_all();
            self.flushes.require();
            self.shoot_down();
            self.frames.put_up(up);
        }
    }

    /// CPU `cpu` forgets its virtual TLB.
    pub(super) fn empty_tlb(&mut self, cpu: usize) {
        if let Some(root) = self.cpus[cpu].root {
            self.zap(root);
        }
        for index in 0..4 {
            self.unlink(self.pae_root(cpu), index);
        }
    }

    /// Takes out of a PAE root what the hardware's walker has set there.
    pub(super) fn clean_pae_root(&mut self, root: PageId) {
        let frame = self.pool.page(root).frame;
        for index in 0..4 {
            let entry = self.frames.read(frame, index);
            if entry & A != 0 {
                self.frames.write(frame, index, entry & !A);
            }
        }
    }

    /// CPU `cpu` is on its PAE root, whose entries that lead elsewhere than the guest's are cleared.
    pub(super) fn load_pae_root(&mut self, cpu: usize) {
        let root = self.pae_root(cpu);
        self.cpus[cpu].root = Some(root);
        let table = Gpa(self.cpus[cpu].state.cr3 & 0xffff_ffe0);
        for index in 0..4 {
            let pdpte = self.memory.inner().read_u64(table.add(8 * index as u64));
            let wanted = self.pae_child(cpu, index, pdpte.unwrap_or(0));
            let child = self.child(root, index);
            if child.and_then(|id| self.pool.page(id).key) != wanted {
                self.unlink(root, index);
            }
        }
    }
}
