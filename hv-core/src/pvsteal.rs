//! Steal time: the guest is told how long its virtual CPUs could have run and did not, and which of them have no CPU of the host.
//!
//! The interface is KVM's (Linux Documentation/virt/kvm/x86, "KVM-specific MSRs", MSR_KVM_STEAL_TIME, and "KVM CPUID bits",
//! KVM_FEATURE_PV_TLB_FLUSH): the guest names a structure of 64 bytes for each CPU. A CPU that is to make another forget its translations
//! looks there first: one that does not run needs no interrupt, it flushes when its turn comes.

use crate::Gpa;
use crate::mem::GuestMemory;

/// MSR_KVM_STEAL_TIME: the physical address of the structure, bit 0 enables it.
pub const MSR: u32 = 0x4b56_4d03;
/// KVM_FEATURE_STEAL_TIME.
pub const FEATURE: u32 = 1 << 5;
/// KVM_FEATURE_PV_TLB_FLUSH.
pub const FEATURE_TLB_FLUSH: u32 = 1 << 9;

/// Bits of the register that have to be 0: the structure is aligned to its size.
const RESERVED: u64 = 0x3e;
/// Where the structure has the stolen nanoseconds, the version, which is odd while they change, and what the CPU is.
const STEAL: u64 = 0;
const VERSION: u64 = 8;
const PREEMPTED: u64 = 16;
/// KVM_VCPU_PREEMPTED: the CPU does not run.
const IS_PREEMPTED: u64 = 1 << 0;
/// KVM_VCPU_FLUSH_TLB: it has to flush before it runs.
const FLUSH: u64 = 1 << 1;

/// The structure of one virtual CPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct StealTime {
    value: u64,
}

impl StealTime {
    /// RDMSR.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.value
    }

    /// WRMSR. False: reserved bits are set.
    pub fn write(&mut self, value: u64) -> bool {
        let valid = value & RESERVED == 0;
        if valid {
            self.value = value;
        }
        valid
    }

    fn field(&self, offset: u64) -> Option<Gpa> {
        (self.value & 1 != 0).then(|| Gpa(self.value & !63).add(offset))
    }

    /// Exchanges the byte that says what the CPU is, which other CPUs of the guest change too.
    fn exchange(&self, mem: &dyn GuestMemory, new: u64) -> u64 {
        let Some(at) = self.field(PREEMPTED) else {
            return 0;
        };
        // Another CPU that writes again and again does not keep this one from its turn.
        for _ in 0..16 {
            let Ok(old) = mem.read_value(at, 1) else {
                return 0;
            };
            match mem.compare_exchange(at, 1, old.into(), new.into()) {
                Ok(true) => return old,
                Ok(false) => {}
                Err(_) => return 0,
            }
        }
        FLUSH
    }

    /// The CPU's turn begins; in all, `steal` nanoseconds have been stolen from it. True: it has to flush first.
    #[must_use]
    pub fn begin(&self, mem: &dyn GuestMemory, steal: u64) -> bool {
        let (Some(to), Some(version_at)) = (self.field(STEAL), self.field(VERSION)) else {
            return false;
        };
        let was = self.exchange(mem, 0);
        let version = mem.read_value(version_at, 4).unwrap_or(0);
        let odd = (version | 1) as u32;
        // Memory that is not there is the guest's loss.
        let _ = mem.write_value(version_at, 4, odd.into());
        let _ = mem.write_value(to, 8, steal);
        let _ = mem.write_value(version_at, 4, odd.wrapping_add(1).into());
        was & FLUSH != 0
    }

    /// The CPU's turn has ended.
    pub fn end(&self, mem: &dyn GuestMemory) {
        self.exchange(mem, IS_PREEMPTED);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::VecMemory;

    #[test]
    fn the_guest_sees_who_runs_and_what_was_stolen() {
        let m = VecMemory::new(0x1000);
        let mut s = StealTime::default();
        s.end(&m);
        assert!(!s.begin(&m, 5), "the guest does not take part");
        assert_eq!(m.read_u64(Gpa(0)), Ok(0));
        assert!(!s.write(0x103));
        assert!(s.write(0x101));
        let preempted = Gpa(0x100 + PREEMPTED);
        s.end(&m);
        assert_eq!(m.read_value(preempted, 1), Ok(IS_PREEMPTED));
        assert!(!s.begin(&m, 77));
        assert_eq!(m.read_value(preempted, 1), Ok(0));
        assert_eq!(m.read_u64(Gpa(0x100)), Ok(77));
        assert_eq!(m.read_u32(Gpa(0x108)), Ok(2), "even again, and another one");
    }

    #[test]
    fn a_flush_that_was_asked_for_meanwhile_is_due_once() {
        let m = VecMemory::new(0x1000);
        let mut s = StealTime::default();
        assert!(s.write(0x41));
        s.end(&m);
        m.write_value(Gpa(0x40 + PREEMPTED), 1, IS_PREEMPTED | FLUSH)
            .unwrap();
        assert!(s.begin(&m, 0));
        s.end(&m);
        assert!(!s.begin(&m, 0));
    }

    #[test]
    fn a_structure_outside_ram_harms_nobody() {
        let m = VecMemory::new(16);
        let mut s = StealTime::default();
        assert!(s.write(!RESERVED));
        s.end(&m);
        assert!(!s.begin(&m, 1));
    }
}
