//! Memory virtualization as the run loop sees it: the guest-physical map, table frames, and the [`Mmu`] trait.

use crate::mem::GuestMemory;
use crate::regs::{Cr0, Cr4, Efer};
use crate::trail::Trail;
use crate::{Gpa, Gva, Hpa};
use bitflags::bitflags;

/// What lies behind a guest-physical page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Backing {
    /// Host memory.
    Ram {
        /// Where it is.
        hpa: Hpa,
        /// Whether the guest may write it (RAM) or not (ROM).
        writable: bool,
    },
    /// Nothing that could be mapped: accesses go to the bus.
    Mmio,
}

/// What the hardware has of a page that is watched.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum View {
    /// It reads and executes what is there.
    ReadOnly,
    /// Every access leaves the guest, and is made in software.
    Nothing,
}

/// Frames for page tables: 4 KiB each, zeroed when allocated.
pub trait Frames: Send {
    /// Allocates one frame. None: the host has no more memory for tables.
    fn allocate(&mut self) -> Option<Hpa>;
    /// Gives a frame back.
    fn free(&mut self, frame: Hpa);
    /// Reads entry `index` (0 to 511) of the table in `frame`.
    fn read(&self, frame: Hpa, index: usize) -> u64;
    /// Writes entry `index` (0 to 511) of the table in `frame`.
    fn write(&mut self, frame: Hpa, index: usize, value: u64);
    /// Writes entry `index` of the table in `frame`, and gives what it was. Where CPUs use the tables meanwhile it is one access: a flag that
    /// one of them sets is in what is given, or is never set.
    fn exchange(&mut self, frame: Hpa, index: usize, value: u64) -> u64 {
        let old = self.read(frame, index);
        self.write(frame, index, value);
        old
    }
}

/// What the TLB needs at the next entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[must_use]
pub enum TlbFlush {
    /// Nothing.
    #[default]
    None,
    /// Everything that belongs to this guest.
    Guest,
}

bitflags! {
    /// The error code of #PF (SDM vol 3A 4.7, "Page-Fault Exceptions").
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct PfError: u32 {
        /// The page was present: the fault is a violation.
        const P = 1 << 0;
        /// A write.
        const W = 1 << 1;
        /// A user access.
        const U = 1 << 2;
        /// A reserved bit was set in an entry.
        const RSVD = 1 << 3;
        /// An instruction fetch.
        const I = 1 << 4;
        /// A protection-key violation.
        const PK = 1 << 5;
    }
}

/// A page fault of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageFault {
    /// The faulting linear address, for CR2.
    pub gva: Gva,
    /// The error code.
    pub error: PfError,
}

/// The registers that decide how the guest's own paging works.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PagingState {
    /// CR0.
    pub cr0: Cr0,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: Cr4,
    /// EFER.
    pub efer: Efer,
    /// RFLAGS.AC, which suspends SMAP for explicit accesses.
    pub ac: bool,
    /// The width of physical addresses, 32 to 52: address bits above it are reserved in entries.
    pub physical_bits: u8,
}

impl PagingState {
    /// Protected mode without paging.
    #[must_use]
    pub const fn unpaged(physical_bits: u8) -> Self {
        Self {
            cr0: Cr0::PE,
            cr3: 0,
            cr4: Cr4::empty(),
            efer: Efer::empty(),
            ac: false,
            physical_bits,
        }
    }
}

/// A memory access to be translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// A write.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// With user privilege (CPL 3).
    pub user: bool,
    /// An access that the CPU makes of its own accord (descriptor tables, TSS), always with supervisor privilege.
    pub implicit: bool,
}

/// What is to be done about a fault at the tables that Umbra has made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolve {
    /// It has been repaired: run the instruction again.
    Retry,
    /// No memory there: emulate the instruction on the bus.
    Mmio,
    /// Shadow paging: the guest's own tables do not allow the access. It gets this page fault.
    Guest(PageFault),
    /// Shadow paging: the instruction is allowed and cannot be run by the hardware. Emulate it.
    Emulate,
}

/// A page fault of the hardware while it ran a guest on shadow tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShadowFault {
    /// The linear address.
    pub gva: Gva,
    /// The hardware's error code, which describes the shadow entry, not the guest's.
    pub error: PfError,
    /// The guest's paging registers.
    pub state: PagingState,
    /// The guest's privilege level. At 3, a fault with supervisor privilege is an implicit access.
    pub cpl: u8,
    /// Whether it happened while the CPU delivered an event: then there is no instruction that could be emulated.
    pub delivering: bool,
    /// Where the guest is, to notice a fault that comes again and again.
    pub rip: u64,
}

/// What shadow paging has done, for reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShadowReport {
    /// The name of the algorithm.
    pub algorithm: &'static str,
    /// Page faults of the hardware by what came of them.
    pub faults: ShadowFaults,
    /// Shadow pages given up because the guest used the table for something else, or its map changed.
    pub zapped: u64,
    /// Shadow pages given up because the pool was full.
    pub reclaimed: u64,
    /// Shadow pages in use.
    pub pages: u64,
    /// The most that have been in use.
    pub pages_most: u64,
    /// How many there may be.
    pub pages_capacity: u64,
}

/// Counts of page faults on shadow tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShadowFaults {
    /// The guest's own.
    pub guest: u64,
    /// The shadow lacked an entry, or the permission that the guest had given since.
    pub fill: u64,
    /// Likewise, and an accessed flag had to be set for it.
    pub accessed: u64,
    /// A first write, for which the dirty flag had to be set.
    pub dirty: u64,
    /// A write to a page table that was emulated, or for which the table's shadow was given up.
    pub table_write: u64,
    /// A write to a page table that is from then on let through, until the shadow is brought up to date.
    pub resync: u64,
    /// A supervisor write to a read-only page with CR0.WP clear.
    pub write_protect_off: u64,
    /// No memory there.
    pub mmio: u64,
}

/// Memory virtualization of a VM: nested paging or shadow paging, under the same run loop. The VM's virtual CPUs share it; what concerns
/// one of them has its index as `cpu`.
pub trait Mmu: Send {
    /// The root of the second-stage (or shadow) tables for this CPU, and what it has to flush before it uses them. The CPU is outside
    /// the guest, and enters it next; it may leave and enter it again without asking, as long as nobody [requests](crate::kick) that it asks.
    ///
    /// Under shadow paging, where this also brings shadows up to date with what devices have written, it is asked before every entry;
    /// under nested paging, when the [`generation`](Self::generation) is not the one that it was when this CPU last asked.
    fn root(&mut self, cpu: usize) -> (Hpa, TlbFlush);

    /// Changes whenever a CPU's root is another one, or a CPU has to flush. Never 0.
    fn generation(&self) -> u64;

    /// Whether the guest's own tables are shadowed. Then its page faults, INVLPG and accesses to CR3 and the paging bits of CR0
    /// and CR4 leave the guest, and [`Mmu::root`] is what the hardware walks in their place: four-level tables in long mode,
    /// otherwise PAE tables.
    fn is_shadow(&self) -> bool {
        false
    }

    /// Turns shadow paging on or off for all CPUs, which are outside the guest. Returns whether it is now as wished.
    fn set_shadow(&mut self, on: bool) -> bool {
        on == self.is_shadow()
    }

    /// Shadow paging: the root of the nested tables that the hardware is to walk below the shadow tables, on CPUs that switch a guest's tasks
    /// without leaving it. Another one after [`load`](Self::load), or, for the other CPUs too, when [`root`](Self::root) has asked for a flush.
    fn fence(&mut self, cpu: usize) -> Option<Hpa> {
        let _ = cpu;
        None
    }

    /// Shadow paging: the guest has faulted on this CPU.
    fn page_fault(&mut self, cpu: usize, fault: &ShadowFault) -> Resolve {
        let _ = (cpu, fault);
        Resolve::Mmio
    }

    /// Shadow paging: the instruction that [`Resolve::Emulate`] was the answer for is one that the emulator does not have. Returns
    /// whether the hardware can execute it now.
    fn cannot_emulate(&mut self, cpu: usize, fault: &ShadowFault) -> bool {
        let _ = (cpu, fault);
        false
    }

    /// Shadow paging: the guest has loaded CR3 or changed its paging mode on this CPU, so that all it has done to its tables counts there from
    /// now on (SDM vol 3A 4.10.4.1, "Operations that Invalidate TLBs and Paging-Structure Caches").
    fn load(&mut self, cpu: usize, state: &PagingState) {
        let _ = (cpu, state);
    }

    /// Shadow paging: the guest has executed INVLPG for `gva` on this CPU.
    fn invalidate_page(&mut self, cpu: usize, state: &PagingState, gva: Gva) {
        let _ = (cpu, state, gva);
    }

    /// Walks the guest's own page tables for one access, setting accessed and dirty bits as the CPU would.
    ///
    /// # Errors
    /// The page fault that the access raises.
    fn translate(
        &mut self,
        mem: &dyn GuestMemory,
        state: &PagingState,
        gva: Gva,
        access: Access,
    ) -> Result<Gpa, PageFault>;

    /// [`translate`](Self::translate) while nothing is shadowed: the guest's tables alone say it, as to the hardware, and nobody has to lock the MMU. None: it has
    /// to be asked all the same.
    fn walk(
        mem: &dyn GuestMemory,
        state: &PagingState,
        gva: Gva,
        access: Access,
    ) -> Option<Result<Gpa, PageFault>>
    where
        Self: Sized,
    {
        let _ = (mem, state, gva, access);
        None
    }

    /// [`translate`](Self::translate) for somebody outside, who leaves the flags as they are.
    fn peek(
        &self,
        mem: &dyn GuestMemory,
        state: &PagingState,
        gva: Gva,
        access: Access,
    ) -> Option<Gpa> {
        let _ = (mem, state, gva, access);
        None
    }

    /// What [`walk`](Self::walk) makes of an access, step by step, with the flags left as they are. None: there is nothing to walk.
    fn trail(mem: &dyn GuestMemory, state: &PagingState, gva: Gva, access: Access) -> Option<Trail>
    where
        Self: Sized,
    {
        let _ = (mem, state, gva, access);
        None
    }

    /// What is in the nested tables on the way to `gpa`. None: there are none.
    fn nested_trail(&self, gpa: Gpa) -> Option<Trail> {
        let _ = gpa;
        None
    }

    /// What is in this CPU's shadow tables on the way to `gva`. None: there are none.
    fn shadow_trail(&self, cpu: usize, gva: Gva) -> Option<Trail> {
        let _ = (cpu, gva);
        None
    }

    /// The hardware has no more of this page than `view` from now on, in addition to what it was asked to watch before: what the guest does
    /// there beyond it leaves it.
    fn watch_page(&mut self, page: Gpa, view: View) {
        let _ = (page, view);
    }

    /// No page is watched any more.
    fn unwatch_pages(&mut self) {}

    /// Whether a page is watched.
    fn is_watched(&self, gpa: Gpa) -> bool {
        let _ = gpa;
        false
    }

    /// What is behind `[start, start + len)` has changed to `backing` (whose frames are contiguous). No CPU reaches what was there any more.
    fn remap(&mut self, start: Gpa, len: u64, backing: Backing);

    /// The host takes `[start, start + len)` of the guest's RAM away, which is mapped nowhere else. No CPU reaches it any more.
    fn withdraw(&mut self, start: Gpa, len: u64) {
        self.remap(start, len, Backing::Mmio);
    }

    /// Calls `f` while none of the VM's CPUs is in the guest: those that are there are kicked, and enter again only when the MMU has been
    /// given back.
    fn while_nobody_runs(&mut self, f: &mut dyn FnMut());

    /// How many table frames are in use.
    fn frames_used(&self) -> u64;

    /// Shadow paging: what it has done.
    fn shadow_report(&self) -> Option<ShadowReport> {
        None
    }
}
