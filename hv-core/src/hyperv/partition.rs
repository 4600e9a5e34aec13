//! What the CPUs of a virtual machine share of the interface.

use super::{Crash, Overlays, Reference, Slot};
use crate::Gpa;
use crate::lock::{Lock, Rank};
use crate::mem::GuestMemory;
use crate::msr::MsrFault;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Bit 0 of a register that places a page: the page is there.
const ENABLE: u64 = 1 << 0;
/// HV_X64_MSR_HYPERCALL bit 1: the register stays as it is until the machine is reset.
const LOCKED: u64 = 1 << 1;

/// Where a register that places a page places it.
#[must_use]
pub fn placed(value: u64) -> Option<Gpa> {
    (value & ENABLE != 0).then_some(Gpa(value).page())
}

/// What the CPUs of a virtual machine share. Registers that only say something are read without the lock.
pub struct Partition {
    guest_os_id: AtomicU64,
    hypercall: AtomicU64,
    reference_tsc: AtomicU64,
    /// The CPUs, bit n is CPU n, whose assist page is hidden by another page.
    covered: AtomicU32,
    crash: Crash,
    /// The code of the hypercall page.
    code: [u8; 4],
    shared: Lock<Shared>,
}

struct Shared {
    overlays: Overlays,
    /// How far each CPU's time-stamp counter is from the host's.
    tsc_offsets: Vec<u64>,
    /// That of the reference TSC page, never 0.
    sequence: u32,
}

/// A moment as one CPU sees it.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// How ticks become reference time: the same for all CPUs.
    pub reference: Reference,
    /// Ticks of the time-stamp counter since the virtual machine was created, less those in which it was paused.
    pub ticks: u64,
    /// The CPU's own time-stamp counter.
    pub tsc: u64,
}

impl Partition {
    /// A partition of `cpus` CPUs, which make a hypercall as AMD's (VMMCALL) or Intel's (VMCALL) do.
    #[must_use]
    pub fn new(cpus: usize, amd: bool) -> Self {
        const VMMCALL_RET: [u8; 4] = [0x0f, 0x01, 0xd9, 0xc3];
        const VMCALL_RET: [u8; 4] = [0x0f, 0x01, 0xc1, 0xc3];
        Self {
            guest_os_id: AtomicU64::new(0),
            hypercall: AtomicU64::new(0),
            reference_tsc: AtomicU64::new(0),
            covered: AtomicU32::new(0),
            crash: Crash::default(),
            code: if amd { VMMCALL_RET } else { VMCALL_RET },
            shared: Lock::new(
                Rank::Overlays,
                Shared {
                    overlays: Overlays::new(cpus),
                    tsc_offsets: alloc::vec![0; cpus],
                    sequence: 0,
                },
            ),
        }
    }

    /// Back to the power-on state: what lies over memory is taken away.
    pub fn reset(&self, mem: &dyn GuestMemory) {
        let mut shared = self.shared.lock();
        for register in [&self.guest_os_id, &self.hypercall, &self.reference_tsc] {
            register.store(0, Ordering::Release);
        }
        for slot in [Slot::ReferenceTsc, Slot::Hypercall] {
            shared.overlays.clear(mem, slot);
        }
        self.see_covered(&shared);
        self.crash.reset();
    }

    /// Back to the power-on state with what is CPU `cpu`'s.
    pub fn reset_cpu(&self, mem: &dyn GuestMemory, cpu: usize) {
        let mut shared = self.shared.lock();
        for slot in [Slot::Assist(cpu), Slot::Messages(cpu), Slot::Events(cpu)] {
            shared.overlays.clear(mem, slot);
        }
        self.see_covered(&shared);
    }

    /// What the guest says of its crash.
    #[must_use]
    pub fn crash(&self) -> &Crash {
        &self.crash
    }

    /// Places the VP assist page of CPU `cpu`. False: it is not in RAM.
    #[must_use]
    pub fn place_assist(&self, mem: &dyn GuestMemory, cpu: usize, at: Option<Gpa>) -> bool {
        self.place(&mut self.shared.lock(), mem, Slot::Assist(cpu), at)
    }

    /// Places a page of a synthetic interrupt controller. One outside RAM is not there for the guest.
    pub fn place_synic(&self, mem: &dyn GuestMemory, slot: Slot, at: Option<Gpa>) {
        let at = at.filter(|&at| Overlays::can_lie(mem, at));
        let _ = self.place(&mut self.shared.lock(), mem, slot, at);
    }

    /// Puts a message into the place of `source` on the page of CPU `cpu` (TLFS, "SynIC Message Page"). False: there is one that the guest has
    /// not taken yet; it is told that another waits.
    #[must_use]
    pub fn post(&self, mem: &dyn GuestMemory, cpu: usize, source: usize, message: &[u8]) -> bool {
        const PLACE: usize = 256;
        const TYPE: usize = 4;
        const FLAGS: usize = 5;
        const PENDING: u8 = 1 << 0;
        let mut shared = self.shared.lock();
        let (slot, at) = (Slot::Messages(cpu), source * PLACE);
        let overlays = &mut shared.overlays;
        let mut kind = [0; TYPE];
        if !overlays.read(mem, slot, at, &mut kind) || kind != [0; TYPE] {
            overlays.write(mem, slot, at + FLAGS, &[PENDING]);
            return false;
        }
        // The type comes last: with it, the message is there.
        if let Some((kind, rest)) = message.split_at_checked(TYPE) {
            overlays.write(mem, slot, at + TYPE, rest);
            overlays.write(mem, slot, at, kind);
        }
        true
    }

    /// Whether the VP assist page of CPU `cpu` is hidden by another page.
    #[must_use]
    pub fn is_covered(&self, cpu: usize) -> bool {
        self.covered.load(Ordering::Relaxed) >> (cpu & 31) & 1 != 0
    }

    fn place(
        &self,
        shared: &mut Shared,
        mem: &dyn GuestMemory,
        slot: Slot,
        at: Option<Gpa>,
    ) -> bool {
        let placed = shared.overlays.place(mem, slot, at);
        self.see_covered(shared);
        placed
    }

    fn see_covered(&self, shared: &Shared) {
        let covered = |cpu: &usize| shared.overlays.is_covered(Slot::Assist(*cpu));
        let cpus = (0..shared.tsc_offsets.len()).filter(covered);
        let bits = cpus.fold(0, |bits, cpu| bits | 1 << (cpu & 31));
        self.covered.store(bits, Ordering::Relaxed);
    }

    /// HV_X64_MSR_GUEST_OS_ID. Not 0: hypercalls are made as this interface has it.
    #[must_use]
    pub fn guest_os_id(&self) -> u64 {
        self.guest_os_id.load(Ordering::Acquire)
    }

    /// Writes HV_X64_MSR_GUEST_OS_ID (TLFS, "Establishing the Hypercall Interface"): without an identity there is no hypercall page.
    pub fn set_guest_os_id(&self, mem: &dyn GuestMemory, value: u64) {
        let mut shared = self.shared.lock();
        self.guest_os_id.store(value, Ordering::Release);
        if value == 0 {
            let _ = self.place(&mut shared, mem, Slot::Hypercall, None);
            self.hypercall.fetch_and(!ENABLE, Ordering::AcqRel);
        }
    }

    /// HV_X64_MSR_HYPERCALL.
    #[must_use]
    pub fn hypercall(&self) -> u64 {
        self.hypercall.load(Ordering::Acquire)
    }

    /// Writes HV_X64_MSR_HYPERCALL.
    ///
    /// # Errors
    /// [`MsrFault`]: the page is not in RAM.
    pub fn set_hypercall(&self, mem: &dyn GuestMemory, value: u64) -> Result<(), MsrFault> {
        let mut shared = self.shared.lock();
        if self.hypercall() & LOCKED != 0 {
            return Ok(());
        }
        let value = match self.guest_os_id() {
            0 => value & !ENABLE,
            _ => value,
        };
        shared.overlays.write(mem, Slot::Hypercall, 0, &self.code);
        if !self.place(&mut shared, mem, Slot::Hypercall, placed(value)) {
            return Err(MsrFault);
        }
        self.hypercall.store(value, Ordering::Release);
        Ok(())
    }

    /// HV_X64_MSR_REFERENCE_TSC.
    #[must_use]
    pub fn reference_tsc(&self) -> u64 {
        self.reference_tsc.load(Ordering::Acquire)
    }

    /// Writes HV_X64_MSR_REFERENCE_TSC. A page outside RAM is not there for the guest (TLFS, "Reference TSC MSR").
    pub fn set_reference_tsc(&self, mem: &dyn GuestMemory, value: u64, now: Moment) {
        let mut shared = self.shared.lock();
        let at = placed(value).filter(|&at| Overlays::can_lie(mem, at));
        let _ = self.place(&mut shared, mem, Slot::ReferenceTsc, at);
        self.reference_tsc.store(value, Ordering::Release);
        self.publish(&mut shared, mem, now);
    }

    /// The time-stamp counter of CPU `cpu` is so far from the host's from now on. Paused for a time, each CPU says so: when the last one
    /// has, the page is true again.
    pub fn set_tsc_offset(&self, mem: &dyn GuestMemory, cpu: usize, offset: u64, now: Moment) {
        let mut shared = self.shared.lock();
        if let Some(own) = shared.tsc_offsets.get_mut(cpu) {
            *own = offset;
        }
        self.publish(&mut shared, mem, now);
    }

    /// Writes the reference TSC page, if there is one: under another sequence, so that whoever is reading it reads again. While the CPUs'
    /// counters differ, it says that the register has to be asked.
    fn publish(&self, shared: &mut Shared, mem: &dyn GuestMemory, now: Moment) {
        if self.reference_tsc() & ENABLE == 0 {
            return;
        }
        let Shared {
            overlays,
            tsc_offsets,
            sequence,
        } = shared;
        let mut write =
            |at: usize, bytes: &[u8]| overlays.write(mem, Slot::ReferenceTsc, at, bytes);
        write(0, &0u32.to_le_bytes());
        let mut offsets = tsc_offsets.iter();
        let first = offsets.next();
        if !offsets.all(|offset| Some(offset) == first) {
            return;
        }
        *sequence = match *sequence {
            u32::MAX => 1,
            last => last + 1,
        };
        let page = now.reference.page(*sequence, now.tsc, now.ticks);
        let (head, rest) = page.split_at(8);
        write(8, rest);
        write(0, head);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::VecMemory;

    /// The counter began with the machine.
    fn now() -> Moment {
        Moment {
            reference: Reference::new(1_000_000_000),
            ticks: 5_000,
            tsc: 5_000,
        }
    }

    fn new(cpus: usize) -> (VecMemory, Partition) {
        (VecMemory::new(0x10_0000), Partition::new(cpus, true))
    }

    #[test]
    fn hypercall_page_needs_an_identity_and_goes_with_it() {
        let (m, p) = new(1);
        p.set_hypercall(&m, 0x5001).unwrap();
        assert_eq!((p.hypercall(), m.read_u32(Gpa(0x5000))), (0x5000, Ok(0)));
        p.set_guest_os_id(&m, 0x8100_0000_0000_0000);
        p.set_hypercall(&m, 0x5001).unwrap();
        assert_eq!(p.hypercall(), 0x5001);
        assert_eq!(m.read_u32(Gpa(0x5000)), Ok(0xc3d9_010f));
        assert_eq!(p.set_hypercall(&m, 0xffff_f001), Err(MsrFault));
        assert_eq!(p.hypercall(), 0x5001);
        p.set_guest_os_id(&m, 0);
        assert_eq!((p.hypercall(), m.read_u32(Gpa(0x5000))), (0x5000, Ok(0)));
    }

    #[test]
    fn locked_hypercall_page_stays_until_reset() {
        let (m, p) = new(1);
        p.set_guest_os_id(&m, 1);
        p.set_hypercall(&m, 0x5003).unwrap();
        p.set_hypercall(&m, 0x6001).unwrap();
        assert_eq!(p.hypercall(), 0x5003);
        p.reset(&m);
        assert_eq!((p.hypercall(), p.guest_os_id()), (0, 0));
        assert_eq!(m.read_u32(Gpa(0x5000)), Ok(0));
    }

    #[test]
    fn message_is_put_where_there_is_none_and_is_kept_while_the_page_is_away() {
        let (m, p) = new(2);
        let at = Gpa(0x5200);
        p.place_synic(&m, Slot::Messages(1), Some(Gpa(0x5000)));
        let message = [0x10, 0, 0, 0x80, 24, 0, 0, 0, 9, 9];
        assert!(p.post(&m, 1, 2, &message));
        assert_eq!(m.read_u64(at), Ok(24 << 32 | 0x8000_0010));
        assert!(!p.post(&m, 1, 2, &message));
        assert_eq!(
            m.read_u64(at),
            Ok(0x118 << 32 | 0x8000_0010),
            "another waits"
        );
        p.place_synic(&m, Slot::Messages(1), None);
        assert_eq!(m.read_u64(at), Ok(0));
        p.place_synic(&m, Slot::Messages(1), Some(Gpa(0x5000)));
        assert_eq!(m.read_u32(at), Ok(0x8000_0010));
        m.write(at, &[0; 4]).unwrap();
        assert!(p.post(&m, 1, 2, &message));
        // Nowhere is no place.
        p.place_synic(&m, Slot::Messages(0), Some(Gpa(1 << 30)));
        assert!(p.post(&m, 0, 15, &message));
        p.reset_cpu(&m, 1);
        assert_eq!(m.read_u64(at), Ok(0));
    }

    #[test]
    fn reference_page_is_true_only_while_all_counters_agree() {
        let (m, p) = new(2);
        let sequence = || m.read_u32(Gpa(0x7000)).unwrap();
        p.set_reference_tsc(&m, 0x7001, now());
        assert_eq!(sequence(), 1);
        assert_eq!(m.read_u64(Gpa(0x7010)), Ok(0));
        p.set_tsc_offset(&m, 0, 100, now());
        assert_eq!(sequence(), 0);
        let later = Moment {
            tsc: 5_100,
            ..now()
        };
        p.set_tsc_offset(&m, 1, 100, later);
        assert_eq!(sequence(), 2);
        assert_eq!(m.read_u64(Gpa(0x7010)), Ok(-1i64 as u64));
        p.set_reference_tsc(&m, 0x7000, now());
        assert_eq!(sequence(), 0, "the page is gone");
        p.set_reference_tsc(&m, u64::MAX, now());
        assert_eq!(p.reference_tsc(), u64::MAX);
    }
}
