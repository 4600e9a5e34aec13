//! A virtual machine: what its virtual CPUs share.
//!
//! A [`Vm`] is `Sync`. Whoever wants the buses or the MMU locks them; what a run loop asks before every entry is mirrored in
//! atomics when such a lock is given back, so that an exit that touches nothing but its own CPU takes no lock of the VM.
//!
//! Lock order: buses, a device, the interrupt chips. The MMU comes after the buses and before none.

use crate::bus::Bus;
use crate::cpuid::Cpuid;
use crate::irq::Wakeups;
use crate::mem::GuestMemory;
use crate::mmu::Mmu;
use crate::scratch::Scratch;
use crate::time::VmTime;
use alloc::sync::Arc;
use core::ops::{Deref, DerefMut};
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use spin::{Mutex, MutexGuard};

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
    pub scratch: Option<Arc<Mutex<dyn Scratch>>>,
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
    pub scratch: Option<Arc<Mutex<dyn Scratch>>>,
    bus: Mutex<Bus>,
    mmu: Mutex<M>,
    /// What [`BusGuard`] mirrors.
    deadline: AtomicU64,
    unsettled: AtomicBool,
    wraps: AtomicBool,
    /// What [`MmuGuard`] mirrors.
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
        let vm = Self {
            number,
            memory,
            cpuid,
            wakeups,
            scratch,
            bus: Mutex::new(bus),
            mmu: Mutex::new(mmu),
            deadline: AtomicU64::new(0),
            unsettled: AtomicBool::new(false),
            wraps: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            is_shadow: AtomicBool::new(false),
        };
        drop((vm.bus(), vm.mmu()));
        vm
    }

    /// The buses, locked.
    #[inline]
    pub fn bus(&self) -> BusGuard<'_, M> {
        BusGuard {
            bus: self.bus.lock(),
            vm: self,
        }
    }

    /// Memory virtualization, locked.
    #[inline]
    pub fn mmu(&self) -> MmuGuard<'_, M> {
        MmuGuard {
            mmu: self.mmu.lock(),
            vm: self,
        }
    }

    /// When [`poll`](Self::poll) is next due.
    #[inline]
    #[must_use]
    pub fn deadline(&self) -> VmTime {
        self.bus_deadline().min(self.wakeups.deadline())
    }

    fn bus_deadline(&self) -> VmTime {
        VmTime(self.deadline.load(Ordering::Acquire))
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
        self.unsettled.load(Ordering::Acquire)
    }

    /// Whether the second mebibyte is the first: A20 is off.
    #[inline]
    #[must_use]
    pub fn wraps(&self) -> bool {
        self.wraps.load(Ordering::Acquire)
    }

    /// [`Mmu::generation`].
    #[inline]
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// [`Mmu::is_shadow`].
    #[inline]
    #[must_use]
    pub fn is_shadow(&self) -> bool {
        self.is_shadow.load(Ordering::Relaxed)
    }
}

/// The buses, locked. When it is dropped, all CPUs see what is due.
pub struct BusGuard<'a, M: Mmu> {
    bus: MutexGuard<'a, Bus>,
    vm: &'a Vm<M>,
}

impl<M: Mmu> Deref for BusGuard<'_, M> {
    type Target = Bus;
    #[inline]
    fn deref(&self) -> &Bus {
        &self.bus
    }
}

impl<M: Mmu> DerefMut for BusGuard<'_, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Bus {
        &mut self.bus
    }
}

impl<M: Mmu> Drop for BusGuard<'_, M> {
    #[inline]
    fn drop(&mut self) {
        let Self { bus, vm } = self;
        vm.deadline.store(bus.deadline().0, Ordering::Release);
        vm.unsettled.store(bus.unsettled(), Ordering::Release);
        vm.wraps.store(bus.wraps(), Ordering::Release);
    }
}

/// Memory virtualization, locked. When it is dropped, all CPUs see whether they have to ask for their roots again.
pub struct MmuGuard<'a, M: Mmu> {
    mmu: MutexGuard<'a, M>,
    vm: &'a Vm<M>,
}

impl<M: Mmu> Deref for MmuGuard<'_, M> {
    type Target = M;
    #[inline]
    fn deref(&self) -> &M {
        &self.mmu
    }
}

impl<M: Mmu> DerefMut for MmuGuard<'_, M> {
    #[inline]
    fn deref_mut(&mut self) -> &mut M {
        &mut self.mmu
    }
}

impl<M: Mmu> Drop for MmuGuard<'_, M> {
    #[inline]
    fn drop(&mut self) {
        let Self { mmu, vm } = self;
        vm.generation.store(mmu.generation(), Ordering::Release);
        vm.is_shadow.store(mmu.is_shadow(), Ordering::Relaxed);
    }
}
