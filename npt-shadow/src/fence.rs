//! A fence around a guest under shadow paging, for CPUs that load CR3 for it without asking: QEMU's emulation of AMD-V does not leave the
//! guest for hardware task switches, which load CR3 from a task-state segment (SDM vol 3A 8.3, "Task Switching").
//!
//! The hardware walks nested tables below the shadow tables. They hold nothing but the guest's own memory and its shadow tables, at
//! the host's addresses plus 4 GiB (`LIFT`); and the PAE roots of the virtual CPUs, one page each, from [`ROOT`] on. So the entries of shadow
//! tables have lifted addresses, which is done here, on their way to and from their frames: nobody else knows. CR3 in a task-state segment
//! has 32 bits. All that it can name is a shadow root: the CPU's own, on which it is anyway, or that of another CPU of the same VM, whose
//! tables lead to nothing but that VM's memory too. Anywhere else the hardware finds nothing and leaves the guest, which
//! has not executed an instruction or reached any memory through a table of its own. And whatever a guest might do to its shadow
//! tables, it would stay within its own memory.
//!
//! In long mode there are no task switches: when all CPUs of the VM are there, the fence is down, and costs nothing. Until then it is up for all
//! of them, as they share shadow tables. Memory that has once been the guest's stays within the fence: it is its VM's as long as that lives.

use crate::NestedMmu;
use hv_core::mmu::{Backing, Frames, Mmu};
use hv_core::{Gpa, Hpa};

/// What is added to addresses in shadow entries.
const LIFT: u64 = 1 << 32;

/// Where the PAE root of the first CPU is found, and from here on those of the others: the local APIC's address and what is reserved behind
/// it, where no guest has memory.
pub const ROOT: Hpa = Hpa(0xfee0_0000);

const PAGE: u64 = 0x1000;
const PRESENT: u64 = 1;

/// Table frames, perhaps with a fence around them and the guest's memory.
pub(crate) struct Fenced<F: Frames> {
    frames: F,
    fence: Option<NestedMmu<F>>,
    /// [`LIFT`] while the fence is up.
    lift: u64,
}

impl<F: Frames> Fenced<F> {
    pub fn new(frames: F) -> Self {
        Self {
            frames,
            fence: None,
            lift: 0,
        }
    }

    /// The frames themselves.
    #[cfg(test)]
    pub fn inner_mut(&mut self) -> &mut F {
        &mut self.frames
    }

    /// Builds the fence, in `nested`, around the frames that there are already, of which the first `roots` have the CPUs' PAE roots. Returns
    /// whether there was memory for it.
    pub fn build(
        &mut self,
        mut nested: NestedMmu<F>,
        roots: usize,
        frames: impl Iterator<Item = Hpa>,
    ) -> bool {
        for (n, frame) in frames.enumerate() {
            if n < roots {
                nested.remap(Gpa(pae_root(n).0), PAGE, ram(frame, true));
            }
            nested.remap(Gpa(frame.0 + LIFT), PAGE, ram(frame, true));
        }
        let built = !nested.exhausted();
        self.fence = Some(nested);
        built
    }

    /// Whether there is a fence.
    pub fn exists(&self) -> bool {
        self.fence.is_some()
    }

    pub fn is_up(&self) -> bool {
        self.lift != 0
    }

    /// Puts it up or takes it down, which changes what entries mean: there must not be any.
    pub fn put_up(&mut self, up: bool) {
        self.lift = if up && self.exists() { LIFT } else { 0 };
    }

    /// Where the hardware finds the root in `frame`, which is the PAE root of CPU `pae`, or one of long mode.
    pub fn address(&self, frame: Hpa, pae: Option<usize>) -> Hpa {
        match pae {
            Some(cpu) if self.is_up() => pae_root(cpu),
            _ => Hpa(frame.0 + self.lift),
        }
    }

    /// The root of the nested tables, if it is up.
    pub fn root(&mut self) -> Option<Hpa> {
        let up = self.is_up();
        self.fence.as_mut().filter(|_| up).map(|f| f.root(0).0)
    }

    /// Lets the guest's memory in.
    pub fn admit(&mut self, len: u64, backing: Backing) {
        if let (Some(fence), Backing::Ram { hpa, .. }) = (&mut self.fence, backing) {
            fence.remap(Gpa(hpa.0 + LIFT), len, backing);
        }
    }

    /// Lets memory that is no longer the guest's out.
    pub fn dismiss(&mut self, hpa: Hpa, len: u64) {
        if let Some(fence) = &mut self.fence {
            fence.remap(Gpa(hpa.0 + LIFT), len, Backing::Mmio);
        }
    }

    /// Whether the host ran out of frames for the fence.
    pub fn exhausted(&self) -> bool {
        self.fence.as_ref().is_some_and(NestedMmu::exhausted)
    }

    /// Table frames of the fence itself.
    pub fn used(&self) -> u64 {
        self.fence.as_ref().map_or(0, |f| f.frames_used())
    }

    /// An entry as the hardware has it.
    #[inline]
    const fn lifted(&self, entry: u64) -> u64 {
        match entry & PRESENT {
            0 => entry,
            _ => entry.wrapping_add(self.lift),
        }
    }

    /// An entry of the hardware's, as the shadow MMU knows it.
    #[inline]
    const fn lowered(&self, entry: u64) -> u64 {
        match entry & PRESENT {
            0 => entry,
            _ => entry.wrapping_sub(self.lift),
        }
    }
}

/// Where the PAE root of CPU `cpu` is found.
const fn pae_root(cpu: usize) -> Hpa {
    Hpa(ROOT.0 + cpu as u64 * PAGE)
}

fn ram(hpa: Hpa, writable: bool) -> Backing {
    Backing::Ram { hpa, writable }
}

impl<F: Frames> Frames for Fenced<F> {
    fn allocate(&mut self) -> Option<Hpa> {
        let frame = self.frames.allocate()?;
        if let Some(fence) = &mut self.fence {
            fence.remap(Gpa(frame.0 + LIFT), PAGE, ram(frame, true));
            if fence.lookup(Gpa(frame.0 + LIFT)).is_none() {
                self.frames.free(frame);
                return None;
            }
        }
        Some(frame)
    }

    fn free(&mut self, frame: Hpa) {
        if let Some(fence) = &mut self.fence {
            fence.remap(Gpa(frame.0 + LIFT), PAGE, Backing::Mmio);
        }
        self.frames.free(frame);
    }

    #[inline]
    fn read(&self, frame: Hpa, index: usize) -> u64 {
        self.lowered(self.frames.read(frame, index))
    }

    #[inline]
    fn write(&mut self, frame: Hpa, index: usize, value: u64) {
        let entry = self.lifted(value);
        self.frames.write(frame, index, entry);
    }

    #[inline]
    fn exchange(&mut self, frame: Hpa, index: usize, value: u64) -> u64 {
        let entry = self.lifted(value);
        let old = self.frames.exchange(frame, index, entry);
        self.lowered(old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shadow::Config;
    use crate::shared_frames::SharedFrames;
    use crate::{Algorithm, Format, ShadowMmu, WatchedMemory};
    use alloc::sync::Arc;
    use hv_core::Gva;
    use hv_core::mmu::{PagingState, PfError, Resolve, ShadowFault, TlbFlush};
    use hv_core::regs::{Cr0, Cr4, Efer};
    use hv_core::testing::VecMemory;

    const SIZE: u64 = 1 << 20;
    const RAM: u64 = 0x4000_0000;
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

    const CPUS: usize = 3;

    fn fenced(frames: &SharedFrames) -> ShadowMmu<SharedFrames> {
        let inner = Arc::new(VecMemory::new(SIZE as usize));
        let memory = WatchedMemory::new(inner, SIZE >> 12).unwrap();
        let config = Config {
            algorithm: Algorithm::Unsync,
            cpus: CPUS,
            pages: 500,
            frames: SIZE >> 12,
            physical_bits: 36,
        };
        let mut mmu = ShadowMmu::new(frames.clone(), memory, config).unwrap();
        let tables = NestedMmu::new(frames.clone(), Format::LongMode, 1).unwrap();
        assert!(mmu.enclose(tables));
        mmu.remap(Gpa(0), SIZE, ram(Hpa(RAM), true));
        for cpu in 0..CPUS {
            mmu.load(cpu, &PagingState::unpaged(36));
        }
        mmu
    }

    fn touch(mmu: &mut ShadowMmu<SharedFrames>, gva: u64) -> Resolve {
        mmu.page_fault(
            0,
            &ShadowFault {
                gva: Gva(gva),
                error: PfError::empty(),
                state: PagingState::unpaged(36),
                cpl: 0,
                delivering: false,
                rip: gva,
            },
        )
    }

    /// All that nested tables map: addresses, and where they lead.
    fn mapped(frames: &SharedFrames, table: Hpa, shift: u32, at: u64) -> Vec<(u64, u64)> {
        let entries = (0..512).map(|i| (at | i << shift, frames.read(table, i as usize)));
        let present: Vec<_> = entries.filter(|(_, e)| e & PRESENT != 0).collect();
        if shift == 12 {
            return present.iter().map(|&(a, e)| (a, e & ADDRESS)).collect();
        }
        let below = |(a, e)| mapped(frames, Hpa(e & ADDRESS), shift - 9, a);
        present.into_iter().flat_map(below).collect()
    }

    #[test]
    fn there_is_nothing_within_the_fence_but_the_guests_memory_and_its_shadows() {
        let frames = SharedFrames::default();
        let mut mmu = fenced(&frames);
        for page in 0..SIZE >> 12 {
            assert_eq!(touch(&mut mmu, page << 12), Resolve::Retry);
        }
        let fence = mmu.fence(0).unwrap();
        let shadows = mmu.table_frames();
        let (root, _) = mmu.root(0);
        assert_eq!(root, ROOT);
        let all = mapped(&frames, fence, 39, 0);
        let low: Vec<_> = all.iter().filter(|&&(a, _)| a < 1 << 32).collect();
        let roots: Vec<_> = (0..CPUS).map(|n| (pae_root(n).0, shadows[n].0)).collect();
        assert!(low.into_iter().eq(&roots), "all that CR3 can name");
        for (at, to) in all {
            let own = (RAM..RAM + SIZE).contains(&to) || shadows.contains(&Hpa(to));
            assert!(own, "{at:#x} leads to {to:#x}");
            assert!(roots.contains(&(at, to)) || at == to + LIFT);
        }
    }

    #[test]
    fn what_is_withdrawn_from_the_guest_is_outside_the_fence() {
        let frames = SharedFrames::default();
        let mut mmu = fenced(&frames);
        mmu.withdraw(Gpa(0x4000), 0x2000);
        let fence = mmu.fence(0).unwrap();
        let all = mapped(&frames, fence, 39, 0);
        let has = |hpa: u64| all.iter().any(|&(_, to)| to == hpa);
        assert!(has(RAM + 0x3000) && has(RAM + 0x6000));
        assert!(!has(RAM + 0x4000) && !has(RAM + 0x5000));
        assert_eq!(touch(&mut mmu, 0x4000), Resolve::Mmio);
    }

    #[test]
    fn the_hardware_finds_the_guests_memory_through_the_fence() {
        let frames = SharedFrames::default();
        let mut mmu = fenced(&frames);
        for gva in [0, 0x3008, SIZE - 1] {
            assert_eq!(touch(&mut mmu, gva), Resolve::Retry);
            let fence = mmu.fence(0).unwrap();
            let all = mapped(&frames, fence, 39, 0);
            let host = |at: u64| {
                let found = all.iter().find(|(a, _)| *a == at & !0xfff);
                Hpa(found.expect("within the fence").1)
            };
            let mut table = host(mmu.root(0).0.0);
            for shift in [30, 21, 12] {
                let entry = frames.read(table, (gva >> shift & 0x1ff) as usize);
                assert_eq!(entry & PRESENT, PRESENT);
                table = host(entry & ADDRESS);
            }
            assert_eq!(table.0, RAM + (gva & !0xfff));
        }
        assert_eq!(touch(&mut mmu, SIZE), Resolve::Mmio);
    }

    #[test]
    fn the_fence_is_down_while_all_cpus_are_in_long_mode() {
        let frames = SharedFrames::default();
        let mut mmu = fenced(&frames);
        assert_eq!(touch(&mut mmu, 0), Resolve::Retry);
        let long = PagingState {
            cr0: Cr0::PE | Cr0::PG,
            cr4: Cr4::PAE,
            efer: Efer::LME | Efer::LMA,
            ..PagingState::unpaged(36)
        };
        for cpu in 0..CPUS {
            assert_eq!(mmu.root(cpu).0, pae_root(cpu));
            mmu.load(cpu, &long);
            let up = cpu != CPUS - 1;
            assert_eq!(mmu.fence(cpu).is_some(), up);
            let root = mmu.root(cpu).0;
            assert_eq!(root.0 >= LIFT, up, "out of the reach of a CR3 of 32 bits");
        }
        for cpu in 0..CPUS {
            assert_eq!(mmu.root(cpu).1 != TlbFlush::None, cpu != CPUS - 1);
            assert_eq!(mmu.fence(cpu), None);
        }
        mmu.load(1, &PagingState::unpaged(36));
        assert!((0..CPUS).all(|cpu| mmu.fence(cpu).is_some()));
        assert_eq!(mmu.root(1).0, pae_root(1));
        assert!(mmu.root(0).0.0 >= LIFT);
        let root = mmu.table_frames()[1];
        assert!(
            (0..512).all(|i| frames.read(root, i) == 0),
            "nothing is left of what had other addresses"
        );
    }
}
