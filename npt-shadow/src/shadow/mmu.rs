//! Shadow paging as the run loop sees it.

use super::*;

impl<F: Frames> Mmu for ShadowMmu<F> {
    // Not among what every exit under nested paging goes through too.
    #[inline(never)]
    fn root(&mut self, cpu: usize) -> (Hpa, TlbFlush) {
        self.flushes.leave(cpu);
        self.catch_up();
        self.release();
        let root = match self.cpus[cpu].root {
            Some(root) => root,
            None => self.make_root(cpu),
        };
        let pae = self.pool.is_root(root);
        if pae {
            self.clean_pae_root(root);
        }
        let frame = self.pool.page(root).frame;
        let address = self.frames.address(frame, pae.then_some(cpu));
        let flush = self.flushes.acknowledge(cpu);
        if flush != TlbFlush::None && mutant(Mutant::OneFlushForAll) {
            for other in 0..self.cpus.len() {
                let _ = self.flushes.acknowledge(other);
            }
        }
        (address, flush)
    }

    fn generation(&self) -> u64 {
        self.flushes.generation()
    }

    fn is_shadow(&self) -> bool {
        true
    }

    fn fence(&mut self, _cpu: usize) -> Option<Hpa> {
        self.frames.root()
    }

    fn page_fault(&mut self, cpu: usize, fault: &ShadowFault) -> Resolve {
        self.flushes.leave(cpu);
        self.catch_up();
        self.resolve(cpu, fault)
    }

    fn cannot_emulate(&mut self, _cpu: usize, fault: &ShadowFault) -> bool {
        self.let_through(fault)
    }

    fn load(&mut self, cpu: usize, state: &PagingState) {
        self.flushes.leave(cpu);
        self.catch_up();
        if self.algorithm == Algorithm::Vtlb && !mutant(Mutant::LoadIgnored) {
            self.empty_tlb(cpu);
        }
        let paging = state.cr0.contains(Cr0::PG);
        self.cpus[cpu].state = *state;
        self.cpus[cpu].reading = if paging {
            Reading::of(state)
        } else {
            Reading::NONE
        };
        self.raise_fence();
        if self.algorithm != Algorithm::Vtlb && !mutant(Mutant::LoadIgnored) {
            self.sync_all();
        }
        // Other tables count for this CPU, and the same addresses lead elsewhere.
        self.flushes.require_of(cpu);
        if self.cpus[cpu].reading.long {
            self.cpus[cpu].root = self.find_root(cpu);
        } else {
            self.load_pae_root(cpu);
        }
    }

    fn invalidate_page(&mut self, cpu: usize, _state: &PagingState, gva: Gva) {
        self.flushes.leave(cpu);
        self.catch_up();
        match self.algorithm {
            _ if mutant(Mutant::InvlpgIgnored) => {}
            Algorithm::Vtlb => self.drop_page(cpu, gva.0),
            Algorithm::Cached | Algorithm::Unsync => self.sync_page_of(cpu, gva.0),
        }
    }

    fn translate(
        &mut self,
        _mem: &dyn GuestMemory,
        state: &PagingState,
        gva: Gva,
        access: Access,
    ) -> Result<Gpa, PageFault> {
        // Setting accessed and dirty flags needs no notice: a shadow entry depends on them only by lacking.
        walk::translate(self.memory.inner(), state, gva, access)
    }

    fn remap(&mut self, start: Gpa, len: u64, backing: Backing) {
        self.map.set(start, len, backing);
        self.frames.admit(len, backing);
        if mutant(Mutant::RemapKeepsEntries) {
            return;
        }
        self.zapped += self.pool.in_use() as u64;
        self.zap_all();
        self.flushes.require();
        // What was there may be somebody else's when this returns.
        if !mutant(Mutant::RemapReturnsEarly) {
            self.shoot_down();
        }
    }

    fn withdraw(&mut self, start: Gpa, len: u64) {
        let (mut page, end) = (start.0 >> 12, start.0.saturating_add(len) >> 12);
        while page < end {
            let there = self.map.get(page);
            let pages = there.map_or(1, |place| place.pages.min(end - page));
            if let Some(place) = there {
                self.frames.dismiss(place.hpa, pages << 12);
            }
            page += pages;
        }
        self.remap(start, len, Backing::Mmio);
    }

    fn while_nobody_runs(&mut self, f: &mut dyn FnMut()) {
        self.flushes.require();
        self.shoot_down();
        f();
    }

    fn frames_used(&self) -> u64 {
        self.pool.frames() as u64 + self.frames.used()
    }

    fn shadow_report(&self) -> Option<ShadowReport> {
        Some(ShadowReport {
            algorithm: self.algorithm.name(),
            faults: self.faults,
            zapped: self.zapped,
            reclaimed: self.reclaimed,
            pages: self.pool.in_use() as u64,
            pages_most: self.pool.most as u64,
            pages_capacity: self.pool.capacity() as u64,
        })
    }
}
