//! Nested or shadow paging, of which a VM uses one at a time.

use crate::map::Map;
use crate::views::{Views, seen, whole};
use crate::walk;
use crate::{NestedMmu, ShadowMmu};
use alloc::boxed::Box;
use alloc::sync::Arc;
use hv_core::flush::Kick;
use hv_core::mem::GuestMemory;
use hv_core::mmu::{
    Access, Backing, Frames, Mmu, PageFault, PagingState, Resolve, ShadowFault, ShadowReport,
    TlbFlush, View,
};
use hv_core::trail::Trail;
use hv_core::{Gpa, Gva, Hpa};

/// Bytes of a page.
const PAGE: u64 = 0x1000;

/// One way of virtualizing memory. Exits under nested paging reach it without another pointer.
#[allow(clippy::large_enum_variant)]
pub enum Kind<F: Frames> {
    /// The hardware walks a second set of tables.
    Nested(NestedMmu<F>),
    /// The hardware walks shadows of the guest's tables.
    Shadow(Box<ShadowMmu<F>>),
}

/// Calls a method of whichever it is.
macro_rules! either {
    ($kind:expr, $mmu:ident => $call:expr) => {
        match $kind {
            Kind::Nested($mmu) => $call,
            Kind::Shadow($mmu) => $call,
        }
    };
}

impl<F: Frames> Kind<F> {
    fn set_kick(&mut self, kick: Arc<dyn Kick>) {
        either!(self, mmu => mmu.set_kick(kick));
    }

    fn is_shadow(&self) -> bool {
        matches!(self, Kind::Shadow(_))
    }

    fn exhausted(&self) -> bool {
        either!(self, mmu => mmu.exhausted())
    }

    fn remap(&mut self, start: Gpa, len: u64, backing: Backing) {
        either!(self, mmu => mmu.remap(start, len, backing));
    }

    fn withdraw(&mut self, start: Gpa, len: u64) {
        either!(self, mmu => mmu.withdraw(start, len));
    }

    fn reserve(&mut self, ranges: usize) -> bool {
        match self {
            Kind::Nested(_) => true,
            Kind::Shadow(shadow) => shadow.reserve(ranges),
        }
    }
}

/// How a VM's memory is virtualized: the way that is used, and perhaps the other, to which it can be switched.
pub struct Paging<F: Frames> {
    used: Kind<F>,
    /// Nested tables are always up to date; shadow tables are empty while they are not used.
    other: Option<Kind<F>>,
    /// What has been mapped so far.
    map: Map,
    /// The pages of which the hardware has less.
    views: Views,
    kick: Option<Arc<dyn Kick>>,
    /// How many pieces of the map there is room for at least.
    room: usize,
}

impl<F: Frames> Paging<F> {
    /// Only this way, with nothing mapped.
    #[must_use]
    pub fn new(used: Kind<F>) -> Self {
        Self {
            used,
            other: None,
            map: Map::default(),
            views: Views::default(),
            kick: None,
            room: 0,
        }
    }

    /// From now on there is room for so many pieces of the map, whatever becomes of the host's memory. False: there is none for them.
    #[must_use]
    pub fn reserve(&mut self, pieces: usize) -> bool {
        self.room = pieces;
        let other = self.other.as_mut();
        self.map.reserve(pieces)
            && self.used.reserve(pieces)
            && other.is_none_or(|other| other.reserve(pieces))
    }

    /// The bytes that so many pieces of the map take.
    #[must_use]
    pub const fn bytes(pieces: usize) -> u64 {
        2 * Map::bytes(pieces)
    }

    /// From now on CPUs may be in the guest while the MMU is at work, and `kick` makes them leave it.
    pub fn set_kick(&mut self, kick: Arc<dyn Kick>) {
        self.used.set_kick(kick.clone());
        if let Some(other) = &mut self.other {
            other.set_kick(kick.clone());
        }
        self.kick = Some(kick);
    }

    /// Adds the other way, new and empty, so that [`Mmu::set_shadow`] can switch to it. False: it is of the kind that is used, or the host has
    /// no memory for what is mapped. It is then dropped.
    #[must_use]
    pub fn add(&mut self, mut kind: Kind<F>) -> bool {
        if kind.is_shadow() == self.used.is_shadow() {
            return false;
        }
        if let Some(kick) = &self.kick {
            kind.set_kick(kick.clone());
        }
        if !kind.reserve(self.room) {
            return false;
        }
        for (start, len, backing) in self.map.ranges() {
            kind.remap(start, len, backing);
        }
        for (gfn, view) in self.views.within(Gpa(0), u64::MAX) {
            kind.remap(Gpa(gfn << 12), PAGE, seen(&self.map, gfn, view));
        }
        let whole = !kind.exhausted();
        if whole {
            self.other = Some(kind);
        }
        whole
    }

    /// The hardware has this behind `[start, start + len)` from now on.
    fn show(&mut self, start: Gpa, len: u64, backing: Backing) {
        self.used.remap(start, len, backing);
        if let Some(other) = &mut self.other {
            other.remap(start, len, backing);
        }
    }

    /// Whether the host ran out of memory while the guest's was mapped.
    #[must_use]
    pub fn exhausted(&self) -> bool {
        self.map.exhausted()
            || self.used.exhausted()
            || self.other.as_ref().is_some_and(Kind::exhausted)
    }
}

impl<F: Frames> Mmu for Paging<F> {
    #[inline(always)]
    fn root(&mut self, cpu: usize) -> (Hpa, TlbFlush) {
        either!(&mut self.used, mmu => mmu.root(cpu))
    }

    #[inline]
    fn generation(&self) -> u64 {
        // A switch changes that of the way that is used from then on.
        let generation = |kind: &Kind<F>| either!(kind, mmu => mmu.generation());
        generation(&self.used) + self.other.as_ref().map_or(0, generation)
    }

    #[inline]
    fn is_shadow(&self) -> bool {
        self.used.is_shadow()
    }

    fn set_shadow(&mut self, on: bool) -> bool {
        if on == self.is_shadow() {
            return true;
        }
        let Some(other) = &mut self.other else {
            return false;
        };
        core::mem::swap(&mut self.used, other);
        // What shadow tables have would be out of date when they are used again; and whatever a CPU remembers is from the other tables.
        for kind in [&mut self.used, other] {
            match kind {
                Kind::Nested(nested) => nested.forget(),
                Kind::Shadow(shadow) => shadow.empty(),
            }
        }
        true
    }

    fn fence(&mut self, cpu: usize) -> Option<Hpa> {
        either!(&mut self.used, mmu => mmu.fence(cpu))
    }

    fn page_fault(&mut self, cpu: usize, fault: &ShadowFault) -> Resolve {
        either!(&mut self.used, mmu => mmu.page_fault(cpu, fault))
    }

    fn cannot_emulate(&mut self, cpu: usize, fault: &ShadowFault) -> bool {
        either!(&mut self.used, mmu => mmu.cannot_emulate(cpu, fault))
    }

    fn load(&mut self, cpu: usize, state: &PagingState) {
        either!(&mut self.used, mmu => mmu.load(cpu, state));
    }

    fn invalidate_page(&mut self, cpu: usize, state: &PagingState, gva: Gva) {
        either!(&mut self.used, mmu => mmu.invalidate_page(cpu, state, gva));
    }

    fn translate(
        &mut self,
        mem: &dyn GuestMemory,
        state: &PagingState,
        gva: Gva,
        access: Access,
    ) -> Result<Gpa, PageFault> {
        either!(&mut self.used, mmu => mmu.translate(mem, state, gva, access))
    }

    fn remap(&mut self, start: Gpa, len: u64, backing: Backing) {
        self.map.set(start, len, backing);
        self.show(start, len, backing);
        for (gfn, view) in self.views.within(start, len) {
            self.show(Gpa(gfn << 12), PAGE, seen(&self.map, gfn, view));
        }
    }

    fn withdraw(&mut self, start: Gpa, len: u64) {
        self.map.set(start, len, Backing::Mmio);
        self.used.withdraw(start, len);
        if let Some(other) = &mut self.other {
            other.withdraw(start, len);
        }
    }

    fn walk(
        mem: &dyn GuestMemory,
        state: &PagingState,
        gva: Gva,
        access: Access,
    ) -> Option<Result<Gpa, PageFault>> {
        Some(walk::translate(mem, state, gva, access))
    }

    fn peek(
        &self,
        mem: &dyn GuestMemory,
        state: &PagingState,
        gva: Gva,
        access: Access,
    ) -> Option<Gpa> {
        walk::translate(&walk::ReadOnly(mem), state, gva, access).ok()
    }

    fn trail(
        mem: &dyn GuestMemory,
        state: &PagingState,
        gva: Gva,
        access: Access,
    ) -> Option<Trail> {
        Some(walk::trail(mem, state, gva, access))
    }

    fn nested_trail(&self, gpa: Gpa) -> Option<Trail> {
        let kinds = [Some(&self.used), self.other.as_ref()];
        kinds.into_iter().flatten().find_map(|kind| match kind {
            Kind::Nested(nested) => Some(nested.trail(gpa)),
            Kind::Shadow(_) => None,
        })
    }

    fn shadow_trail(&self, cpu: usize, gva: Gva) -> Option<Trail> {
        match &self.used {
            Kind::Shadow(shadow) => shadow.trail(cpu, gva),
            Kind::Nested(_) => None,
        }
    }

    fn watch_page(&mut self, page: Gpa, view: View) {
        if self.views.add(page, view) {
            let gfn = page.0 >> 12;
            self.show(page.page(), PAGE, seen(&self.map, gfn, view));
        }
    }

    fn unwatch_pages(&mut self) {
        for (gfn, _) in self.views.take() {
            self.show(Gpa(gfn << 12), PAGE, whole(&self.map, gfn));
        }
    }

    fn is_watched(&self, gpa: Gpa) -> bool {
        self.views.has(gpa)
    }

    fn while_nobody_runs(&mut self, f: &mut dyn FnMut()) {
        either!(&mut self.used, mmu => mmu.while_nobody_runs(f));
    }

    fn frames_used(&self) -> u64 {
        let frames = |kind: &Kind<F>| either!(kind, mmu => mmu.frames_used());
        frames(&self.used) + self.other.as_ref().map_or(0, frames)
    }

    fn shadow_report(&self) -> Option<ShadowReport> {
        let report = |kind: &Kind<F>| either!(kind, mmu => mmu.shadow_report());
        report(&self.used).or_else(|| self.other.as_ref().and_then(report))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shadow::Config;
    use crate::shared_frames::SharedFrames;
    use crate::{Algorithm, Format, WatchedMemory};
    use hv_core::mmu::PagingState;
    use hv_core::testing::VecMemory;

    const SIZE: u64 = 1 << 20;

    fn nested(frames: &SharedFrames) -> Kind<SharedFrames> {
        Kind::Nested(NestedMmu::new(frames.clone(), Format::LongMode, 1).unwrap())
    }

    fn shadow(frames: &SharedFrames, memory: &Arc<WatchedMemory>) -> Kind<SharedFrames> {
        let config = Config {
            algorithm: Algorithm::Unsync,
            cpus: 1,
            pages: 128,
            frames: SIZE >> 12,
            physical_bits: 36,
        };
        Kind::Shadow(Box::new(
            ShadowMmu::new(frames.clone(), memory.clone(), config).unwrap(),
        ))
    }

    /// Makes a way, shadow paging or not, with these frames.
    fn ways() -> (impl Fn(bool) -> Kind<SharedFrames>, SharedFrames) {
        let frames = SharedFrames::default();
        let memory = WatchedMemory::new(Arc::new(VecMemory::new(SIZE as usize)), SIZE >> 12);
        let (memory, its) = (memory.unwrap(), frames.clone());
        let way = move |shadowing| match shadowing {
            true => shadow(&its, &memory),
            false => nested(&its),
        };
        (way, frames)
    }

    const fn ram(hpa: u64) -> Backing {
        Backing::Ram {
            hpa: Hpa(hpa),
            writable: true,
        }
    }

    /// Where the hardware finds `gpa` by the root's tables. Shadow tables of an unpaged guest are PAE's: three levels.
    fn walk(paging: &mut Paging<SharedFrames>, frames: &SharedFrames, gpa: u64) -> Option<u64> {
        let levels: &[u32] = if paging.is_shadow() {
            &[30, 21, 12]
        } else {
            &[39, 30, 21, 12]
        };
        let mut table = paging.root(0).0;
        for &shift in levels {
            let index = (gpa >> shift & 0x1ff) as usize;
            let entry = frames.read(table, if shift == levels[0] { index & 3 } else { index });
            if entry & 1 == 0 {
                return None;
            }
            table = Hpa(entry & 0x000f_ffff_ffff_f000);
        }
        Some(table.0 | gpa & 0xfff)
    }

    /// What the hardware has of a page: its address and whether it writes there. Under shadow paging after the fault that an access is.
    fn has(
        paging: &mut Paging<SharedFrames>,
        frames: &SharedFrames,
        gpa: u64,
        write: bool,
    ) -> (Option<u64>, Option<Resolve>) {
        let mut resolve = None;
        if paging.is_shadow() {
            let mut error = hv_core::mmu::PfError::empty();
            error.set(hv_core::mmu::PfError::W, write);
            resolve = Some(paging.page_fault(
                0,
                &ShadowFault {
                    gva: Gva(gpa),
                    error,
                    state: PagingState::unpaged(36),
                    cpl: 0,
                    delivering: false,
                    rip: gpa,
                },
            ));
        }
        (walk(paging, frames, gpa), resolve)
    }

    #[test]
    fn a_way_that_is_added_has_what_was_mapped_before_and_what_is_mapped_after() {
        for start_with_shadow in [false, true] {
            let (ways, frames) = ways();
            let mut paging = Paging::new(ways(start_with_shadow));
            paging.remap(Gpa(0), SIZE, ram(0x4000_0000));
            paging.remap(Gpa(0x3000), 0x1000, Backing::Mmio);
            assert!(
                !paging.set_shadow(!start_with_shadow),
                "there is no other way yet"
            );
            assert!(paging.add(ways(!start_with_shadow)));
            paging.remap(Gpa(0x5000), 0x1000, ram(0x7000_0000));
            for _ in 0..2 {
                let on = !paging.is_shadow();
                assert!(paging.set_shadow(on));
                paging.load(0, &PagingState::unpaged(36));
                for (gpa, want) in [
                    (0x2008, Some(0x4000_2008)),
                    (0x3000, None),
                    (0x5010, Some(0x7000_0010)),
                    (SIZE, None),
                ] {
                    let (page, _) = has(&mut paging, &frames, gpa, false);
                    assert_eq!(page, want, "{gpa:#x}, shadow {on}");
                }
            }
        }
    }

    #[test]
    fn what_is_withdrawn_is_reached_by_neither_way_and_comes_back_elsewhere() {
        for start_with_shadow in [false, true] {
            let (ways, frames) = ways();
            let mut paging = Paging::new(ways(start_with_shadow));
            assert!(paging.reserve(8));
            paging.remap(Gpa(0), SIZE, ram(0x4000_0000));
            assert!(paging.add(ways(!start_with_shadow)));
            paging.watch_page(Gpa(0x3000), View::ReadOnly);
            let expect = |paging: &mut Paging<_>, want: Option<u64>| {
                for _ in 0..2 {
                    let on = !paging.is_shadow();
                    assert!(paging.set_shadow(on));
                    paging.load(0, &PagingState::unpaged(36));
                    for (gpa, want) in [(0x1000, Some(0x4000_1000)), (0x2000, want)] {
                        let (page, _) = has(paging, &frames, gpa, false);
                        assert_eq!(page, want, "{gpa:#x}, shadow {on}");
                    }
                    let watched = has(paging, &frames, 0x3000, false).0;
                    assert_eq!(watched, want.map(|hpa| hpa + 0x1000));
                    assert!(has(paging, &frames, 0x4000, false).0.is_some());
                }
            };
            expect(&mut paging, Some(0x4000_2000));
            let generation = paging.generation();
            paging.withdraw(Gpa(0x2000), 0x2000);
            assert_ne!(paging.generation(), generation, "all have to flush");
            expect(&mut paging, None);
            paging.remap(Gpa(0x2000), 0x2000, ram(0x9000_0000));
            expect(&mut paging, Some(0x9000_0000));
        }
    }

    #[test]
    fn a_watched_page_is_taken_from_both_ways_and_comes_back_as_it_is_then() {
        for start_with_shadow in [false, true] {
            let (ways, frames) = ways();
            let mut paging = Paging::new(ways(start_with_shadow));
            paging.remap(Gpa(0), SIZE, ram(0x4000_0000));
            paging.watch_page(Gpa(0x2000), View::Nothing);
            paging.watch_page(Gpa(0x3000), View::ReadOnly);
            let generation = paging.generation();
            paging.watch_page(Gpa(0x2000), View::ReadOnly);
            assert_eq!(paging.generation(), generation, "it has less already");
            assert!(paging.add(ways(!start_with_shadow)));
            // A device moves while pages are watched.
            paging.remap(Gpa(0x2000), 0x2000, ram(0x7000_0000));
            for _ in 0..2 {
                let on = !paging.is_shadow();
                assert!(paging.set_shadow(on));
                paging.load(0, &PagingState::unpaged(36));
                let mut has = |gpa, write| has(&mut paging, &frames, gpa, write);
                assert_eq!(has(0x1000, false).0, Some(0x4000_1000));
                let (page, resolve) = has(0x2000, false);
                assert_eq!(page, None);
                assert!(resolve.is_none_or(|r| r == Resolve::Mmio));
                assert_eq!(has(0x3000, false).0, Some(0x7000_1000));
                assert!(has(0x3000, true).1.is_none_or(|r| r == Resolve::Mmio));
            }
            for gpa in [0x2000, 0x2fff, 0x3000] {
                assert!(paging.is_watched(Gpa(gpa)));
            }
            paging.unwatch_pages();
            assert!(!paging.is_watched(Gpa(0x2000)));
            for _ in 0..2 {
                let on = !paging.is_shadow();
                assert!(paging.set_shadow(on));
                paging.load(0, &PagingState::unpaged(36));
                for (gpa, hpa) in [(0x2000, 0x7000_0000), (0x3000, 0x7000_1000)] {
                    let (page, resolve) = has(&mut paging, &frames, gpa, true);
                    assert_eq!(page, Some(hpa));
                    assert!(resolve.is_none_or(|r| r == Resolve::Retry));
                }
            }
        }
    }

    #[test]
    fn somebody_outside_looks_at_tables_and_sets_no_flag() {
        let frames = SharedFrames::default();
        let memory = VecMemory::new(SIZE as usize);
        // A directory at 1000h, a table at 2000h, the page at 5000h, none of them accessed.
        for (at, entry) in [(0x1000, 0x2003u32), (0x2000 + 4 * 7, 0x5001)] {
            memory.write(Gpa(at), &entry.to_le_bytes()).unwrap();
        }
        let state = PagingState {
            cr0: hv_core::regs::Cr0::PG | hv_core::regs::Cr0::PE,
            cr3: 0x1000,
            ..PagingState::unpaged(36)
        };
        let paging = Paging::new(nested(&frames));
        let peek = |gva| paging.peek(&memory, &state, Gva(gva), Access::default());
        assert_eq!(peek(0x7123), Some(Gpa(0x5123)));
        assert_eq!(peek(0x8000), None);
        assert_eq!(memory.read_u32(Gpa(0x1000)), Ok(0x2003));
        assert_eq!(memory.read_u32(Gpa(0x2000 + 4 * 7)), Ok(0x5001));
        let text = alloc::format!(
            "{}",
            walk::trail(&memory, &state, Gva(0x7123), Access::default())
        );
        for part in [
            "level 2: 0x1000 has 0x2003 P R/W",
            "level 1: 0x201c has 0x5001 P",
            "0x7123 is physical 0x5123",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }
}
