//! The paravirtual clock: the guest is told once how to turn the time-stamp counter into time, instead of measuring it against
//! the PIT for a tenth of a second with thousands of port accesses.
//!
//! The interface is KVM's, because Linux, FreeBSD and SeaBIOS know it (Linux Documentation/virt/kvm/x86: "KVM-specific MSRs" and
//! "KVM CPUID bits"): MSR_KVM_WALL_CLOCK_NEW and MSR_KVM_SYSTEM_TIME_NEW take the physical address of a structure that we fill
//! in. Our TSC never changes its rate, so the structure is written when the guest asks for it and when it writes its TSC.
//!
//! Of KVM's interface there are further [`pveoi`](crate::pveoi), [`pvsteal`](crate::pvsteal) and the calls of [`hypercall`](crate::hypercall); there are
//! no asynchronous page faults.

use crate::mem::GuestMemory;
use crate::{Gpa, VmTime};

/// MSR_KVM_WALL_CLOCK_NEW: the physical address of a wall-clock structure, filled in at once.
pub const MSR_WALL_CLOCK: u32 = 0x4b56_4d00;
/// MSR_KVM_SYSTEM_TIME_NEW: the physical address of the time structure, bit 0 enables it.
pub const MSR_SYSTEM_TIME: u32 = 0x4b56_4d01;

/// KVM_FEATURE_NOP_IO_DELAY: port 80h need not be written to wait.
pub const FEATURE_NOP_IO_DELAY: u32 = 1 << 1;
/// KVM_FEATURE_CLOCKSOURCE2: the two MSRs exist.
pub const FEATURE_CLOCKSOURCE2: u32 = 1 << 3;
/// KVM_FEATURE_CLOCKSOURCE_STABLE_BIT: the flag `TSC_STABLE` is meaningful.
pub const FEATURE_STABLE: u32 = 1 << 24;

/// PVCLOCK_TSC_STABLE_BIT: the time never goes backwards between CPUs.
const TSC_STABLE: u8 = 1;

/// Nanoseconds as `((ticks << shift) * mul) >> 32`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Scale {
    mul: u32,
    shift: i8,
}

impl Scale {
    /// For a counter of `hz` ticks a second.
    fn of(hz: u64) -> Self {
        let mut shift = 0i8;
        let mut scaled = hz.max(1);
        while scaled > 2_000_000_000 {
            scaled >>= 1;
            shift -= 1;
        }
        while scaled <= 1_000_000_000 {
            scaled <<= 1;
            shift += 1;
        }
        let ticks = if shift < 0 {
            hz as u128 >> -shift
        } else {
            (hz as u128) << shift
        };
        Self {
            mul: ((1_000_000_000u128 << 32) / ticks.max(1)) as u32,
            shift,
        }
    }
}

/// The clock of one virtual CPU.
#[derive(Clone, Copy, Debug)]
pub struct PvClock {
    tsc_hz: u64,
    scale: Scale,
    /// Seconds since 1970 at the VM's time 0.
    epoch: u64,
    system_time: u64,
    wall_clock: u64,
    version: u32,
}

impl PvClock {
    /// A clock over a TSC of `tsc_hz`; `epoch` is the wall time, in seconds since 1970 (UTC), at the VM's time 0.
    #[must_use]
    pub fn new(tsc_hz: u64, epoch: u64) -> Self {
        Self {
            tsc_hz,
            scale: Scale::of(tsc_hz),
            epoch,
            system_time: 0,
            wall_clock: 0,
            version: 0,
        }
    }

    /// Ticks of the TSC in a second.
    #[must_use]
    pub fn tsc_hz(&self) -> u64 {
        self.tsc_hz
    }

    /// Off, as after a reset.
    pub fn reset(&mut self) {
        *self = Self {
            system_time: 0,
            wall_clock: 0,
            version: 0,
            ..*self
        };
    }

    /// RDMSR.
    #[must_use]
    pub fn read(&self, msr: u32) -> u64 {
        if msr == MSR_SYSTEM_TIME {
            self.system_time
        } else {
            self.wall_clock
        }
    }

    /// WRMSR, when the guest's TSC is `tsc` at `now`. An address outside RAM is the guest's loss.
    pub fn write(&mut self, mem: &dyn GuestMemory, msr: u32, value: u64, tsc: u64, now: VmTime) {
        if msr == MSR_SYSTEM_TIME {
            self.system_time = value;
            self.publish(mem, tsc, now);
        } else {
            self.wall_clock = value;
            let mut wall = [0; 12];
            wall[..4].copy_from_slice(&2u32.to_le_bytes());
            wall[4..8].copy_from_slice(&(self.epoch as u32).to_le_bytes());
            let _ = mem.write(Gpa(value), &wall);
        }
    }

    /// Writes the structure, if the guest has asked for it: `tsc` and `now` belong together.
    pub fn publish(&mut self, mem: &dyn GuestMemory, tsc: u64, now: VmTime) {
        if self.system_time & 1 == 0 {
            return;
        }
        // The other CPUs of the guest read it too: while the version is odd, it is not complete.
        let at = Gpa(self.system_time & !1);
        let odd = self.version.wrapping_add(1);
        let _ = mem.write_value(at, 4, odd.into());
        self.version = self.version.wrapping_add(2);
        let mut s = [0; 32];
        s[..4].copy_from_slice(&odd.to_le_bytes());
        s[8..16].copy_from_slice(&tsc.to_le_bytes());
        s[16..24].copy_from_slice(&now.0.to_le_bytes());
        s[24..28].copy_from_slice(&self.scale.mul.to_le_bytes());
        s[28] = self.scale.shift as u8;
        s[29] = TSC_STABLE;
        let _ = mem.write(at, &s);
        let _ = mem.write_value(at, 4, self.version.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::VecMemory;

    #[test]
    fn scale_turns_ticks_into_nanoseconds_within_a_millionth() {
        for hz in [
            33_000_000u64,
            999_999_999,
            1_000_000_000,
            1_000_000_001,
            2_597_000_000,
            5_300_000_000,
        ] {
            let s = Scale::of(hz);
            let ticks = hz * 10;
            let shifted = if s.shift < 0 {
                ticks >> -s.shift
            } else {
                ticks << s.shift
            };
            let ns = ((u128::from(shifted) * u128::from(s.mul)) >> 32) as u64;
            assert!(ns.abs_diff(10_000_000_000) < 10_000, "{hz} Hz: {ns}");
        }
    }

    #[test]
    fn structure_is_written_where_the_guest_says_and_only_if_enabled() {
        let m = VecMemory::new(0x1000);
        let mut c = PvClock::new(1_000_000_000, 1_600_000_000);
        c.write(&m, MSR_SYSTEM_TIME, 0x100, 7, VmTime(9));
        assert_eq!(m.read_u64(Gpa(0x108)), Ok(0));
        c.write(&m, MSR_SYSTEM_TIME, 0x101, 7, VmTime(9));
        assert_eq!(
            (
                m.read_u32(Gpa(0x100)),
                m.read_u64(Gpa(0x108)),
                m.read_u64(Gpa(0x110))
            ),
            (Ok(2), Ok(7), Ok(9))
        );
        c.write(&m, MSR_WALL_CLOCK, 0x200, 7, VmTime(9));
        assert_eq!(m.read_u32(Gpa(0x204)), Ok(1_600_000_000));
        c.write(&m, MSR_SYSTEM_TIME, u64::MAX, 7, VmTime(9));
    }
}
