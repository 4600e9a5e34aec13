//! What LOCKed instructions do to memory, RAM or not, so that no other CPU comes in between their read and their write (SDM vol 3A 9.1.2, "Bus
//! Locking").
//!
//! RAM is compared and exchanged; over the boundary of pages that do not follow each other nobody else runs the guest meanwhile. Where there is anything
//! but RAM, the lock of the buses is held from the read to the write. A CPU's own registers are nobody else's.

use super::{Vcpu, pieces};
use crate::Gpa;
use crate::bus;
use crate::cpu::VcpuBackend;
use crate::emulate::EmuFault;
use crate::mem::GuestMemory;
use crate::mmu::Mmu;
use crate::time::Clock;

/// How often it is tried before the guest itself tries again.
const TRIES: u32 = 16;

/// Where an operand is: one piece, or two if it crosses a page.
type Places = [(Gpa, usize); 2];

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// Replaces what is at `places`, 1 to 16 bytes, by what `change` makes of it.
    pub(super) fn update_places(
        &mut self,
        places: Places,
        change: &mut dyn FnMut(u128) -> u128,
    ) -> Result<(), EmuFault> {
        let [(first, n), (second, m)] = places;
        let memory = &*self.vm.memory;
        let one = m == 0 || first.add(n as u64) == second;
        if let Some(done) = one
            .then(|| update_ram(memory, first, n + m, change))
            .flatten()
        {
            return done;
        }
        if m != 0 && memory.contains(first, n, true) && memory.contains(second, m, true) {
            self.vm.mmu().while_nobody_runs(&mut || {
                let mut bytes = [0; 16];
                each_mut(places, &mut bytes, |gpa, part| {
                    let _ = memory.read(gpa, part);
                });
                let new = change(u128::from_le_bytes(bytes)).to_le_bytes();
                each(places, &new, |gpa, part| {
                    let _ = memory.write(gpa, part);
                });
            });
            return Ok(());
        }
        if places
            .iter()
            .any(|&(gpa, _)| bus::own_register(gpa).is_some())
        {
            self.update_own(places, change);
        } else {
            self.update_devices(places, change);
        }
        Ok(())
    }

    /// [`Self::update_places`] where own registers are.
    fn update_own(&mut self, places: Places, change: &mut dyn FnMut(u128) -> u128) {
        let mut bytes = [0; 16];
        each_mut(places, &mut bytes, |gpa, part| {
            if self.vm.memory.read(gpa, part).is_err() {
                self.device_read(gpa, part);
            }
        });
        let new = change(u128::from_le_bytes(bytes)).to_le_bytes();
        each(places, &new, |gpa, part| {
            if self.vm.memory.write(gpa, part).is_err() {
                self.device_write(gpa, part);
            }
        });
    }

    /// [`Self::update_places`] where devices are.
    fn update_devices(&mut self, places: Places, change: &mut dyn FnMut(u128) -> u128) {
        let now = self.device_time();
        let memory = &*self.vm.memory;
        let mut bus = self.vm.bus();
        let mut bytes = [0; 16];
        each_mut(places, &mut bytes, |gpa, part| {
            if memory.read(gpa, part).is_err() {
                pieces::read(&mut bus, now, gpa, part);
            }
        });
        let new = change(u128::from_le_bytes(bytes)).to_le_bytes();
        each(places, &new, |gpa, part| {
            if memory.write(gpa, part).is_err() {
                pieces::write(&mut bus, now, gpa, part);
            }
        });
    }
}

/// Replaces `size` bytes of RAM. None: they are not in one piece of it.
fn update_ram(
    memory: &dyn GuestMemory,
    gpa: Gpa,
    size: usize,
    change: &mut dyn FnMut(u128) -> u128,
) -> Option<Result<(), EmuFault>> {
    for _ in 0..TRIES {
        let mut bytes = [0; 16];
        memory.read(gpa, &mut bytes[..size]).ok()?;
        let old = u128::from_le_bytes(bytes);
        if memory.compare_exchange(gpa, size, old, change(old)).ok()? {
            return Some(Ok(()));
        }
    }
    Some(Err(EmuFault::Retry))
}

/// Calls `f` with each place that there is and its part of `bytes`.
fn each_mut(places: Places, bytes: &mut [u8; 16], mut f: impl FnMut(Gpa, &mut [u8])) {
    let mut rest = &mut bytes[..];
    for (gpa, n) in places {
        let (part, later) = rest.split_at_mut(n);
        if n != 0 {
            f(gpa, part);
        }
        rest = later;
    }
}

/// Likewise, to read them.
fn each(places: Places, bytes: &[u8; 16], mut f: impl FnMut(Gpa, &[u8])) {
    let mut rest = &bytes[..];
    for (gpa, n) in places {
        let (part, later) = rest.split_at(n);
        if n != 0 {
            f(gpa, part);
        }
        rest = later;
    }
}
