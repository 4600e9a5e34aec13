//! A virtual machine: what its virtual CPUs share.
//!
//! A [`Vm`] is `Sync`. Whoever wants the buses or the MMU locks them; what a run loop asks before every entry is mirrored in
//! atomics when such a lock is given back, so that an exit that touches nothing but its own CPU takes no lock of the VM.
//!
//! Locks are taken in the order of their [`Rank`]s.

use crate::bus::Bus;
use crate::cpuid::Cpuid;
use crate::hyperv::Partition;
use crate::interface::Interfaces;
use crate::irq::Wakeups;
use crate::lock::{Guard, Lock, Rank};
use crate::mem::GuestMemory;
use crate::mmu::Mmu;
use crate::msr::UnknownMsrs;
use crate::scratch::Scratch;
use crate::time::VmTime;
use alloc::sync::Arc;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What a virtual machine is made of.
pub struct Parts<M: Mmu> {
    /// Its number, for the log.
    pub number: u8,
    /// Memory virtualization.
    pub mmu: M,
    /// The buses with everything on them.
    pub bus: Bus,
    /// Guest memory.
    pub memory: Arc<dyn GuestMemory>,
    /// The CPUID table.
    pub cpuid: Cpuid,
    /// Which halted CPUs the interrupt chips have something for.
    pub wakeups: Arc<Wakeups>,
    /// What executes instructions for the emulator, if there is such a thing.
    pub scratch: Option<Arc<Lock<dyn Scratch>>>,
}

/// A virtual machine.
pub struct Vm<M: Mmu> {
    /// Its number, for the log.
    pub number: u8,
    /// Guest memory.
    pub memory: Arc<dyn GuestMemory>,
    /// The CPUID table.
    pub cpuid: Cpuid,
    /// Which halted CPUs have something to do.
    pub wakeups: Arc<Wakeups>,
    /// What executes instructions for the emulator, if there is such a thing.
    pub scratch: Option<Arc<Lock<dyn Scratch>>>,
    /// Microsoft's interface, if the guest has it.
    pub hyperv: Option<Partition>,
    /// What becomes of accesses to model-specific registers that are not there.
    pub unknown_msrs: UnknownMsrs,
    bus: Lock<Bus>,
    mmu: Lock<M>,
    mirror: Mirror,
}

/// What run loops ask of the buses and the MMU without their locks.
#[derive(Default)]
pub struct Mirror {
    deadline: AtomicU64,
    unsettled: AtomicBool,
    wraps: AtomicBool,
    generation: AtomicU64,
    is_shadow: AtomicBool,
}

impl<M: Mmu> Vm<M> {
    /// A virtual machine without CPUs.
    pub fn new(parts: Parts<M>) -> Self {
        let Parts {
            number,
            mmu,
            bus,
            memory,
            cpuid,
            wakeups,
            scratch,
        } = parts;
        let hyperv = cpuid.interfaces().contains(Interfaces::HYPERV);
        let cpus = cpuid.topology().cores() as usize;
        let vm = Self {
            number,
            hyperv: hyperv.then(|| Partition::new(cpus, cpuid.is_amd())),
            unknown_msrs: UnknownMsrs::default(),
            memory,
            cpuid,
            wakeups,
            scratch,
            bus: Lock::new(Rank::Bus, bus),
            mmu: Lock::new(Rank::Mmu, mmu),
            mirror: Mirror::default(),
        };
        drop((vm.bus(), vm.mmu()));
        vm
    }

    /// The buses, locked.
    #[inline]
    pub fn bus(&self) -> Shared<'_, Bus> {
        Shared {
            guard: self.bus.lock(),
            mirror: &self.mirror,
        }
    }

    /// Memory virtualization, locked.
    #[inline]
    pub fn mmu(&self) -> Shared<'_, M> {
        Shared {
            guard: self.mmu.lock(),
            mirror: &self.mirror,
        }
    }

    /// When [`poll`](Self::poll) is next due.
    #[inline]
    #[must_use]
    pub fn deadline(&self) -> VmTime {
        self.bus_deadline().min(self.wakeups.deadline())
    }

    fn bus_deadline(&self) -> VmTime {
        VmTime(self.mirror.deadline.load(Ordering::Acquire))
    }

    /// Lets the devices, and the timers of CPUs that have halted, do what is due at `now`.
    pub fn poll(&self, now: VmTime) {
        if now >= self.bus_deadline() {
            self.bus().poll(now);
        }
        if now >= self.wakeups.deadline() {
            self.wakeups.poll(now);
        }
    }

    /// Whether [`Bus::settle`] has anything to do.
    #[inline]
    #[must_use]
    pub fn unsettled(&self) -> bool {
        self.mirror.unsettled.load(Ordering::Acquire)
    }

    /// Whether the second mebibyte is the first: A20 is off.
    #[inline]
    #[must_use]
    pub fn wraps(&self) -> bool {
        self.mirror.wraps.load(Ordering::Acquire)
    }

    /// [`Mmu::generation`].
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.mirror.generation.load(Ordering::Acquire)
    }

    /// [`Mmu::is_shadow`].
    #[inline]
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.mirror.is_shadow.load(Ordering::Relaxed)
    }
}

/// What the CPUs of a VM share under a lock, and ask about without it.
pub trait Mirrored {
    /// Tells all CPUs how it is now.
    fn reflect(&self, mirror: &Mirror);
}

impl Mirrored for Bus {
    #[inline]
    fn reflect(&self, mirror: &Mirror) {
        mirror.deadline.store(self.deadline().0, Ordering::Release);
        mirror.unsettled.store(self.unsettled(), Ordering::Release);
        mirror.wraps.store(self.wraps(), Ordering::Release);
    }
}

impl<M: Mmu> Mirrored for M {
    #[inline]
    fn reflect(&self, mirror: &Mirror) {
        mirror
            .generation
            .store(self.generation(), Ordering::Release);
        mirror.is_shadow.store(self.is_shadow(), Ordering::Relaxed);
    }
}

/// The buses or memory virtualization, locked. When it is dropped, all CPUs see what is due, or whether they have to ask for their roots again.
pub struct Shared<'a, T: Mirrored> {
    guard: Guard<'a, T>,
    mirror: &'a Mirror,
}

impl<T: Mirrored> Deref for Shared<'_, T> {
    type Target = T;
    #[inline]
    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T: Mirrored> DerefMut for Shared<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

impl<T: Mirrored> Drop for Shared<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.guard.reflect(self.mirror);
    }
}
