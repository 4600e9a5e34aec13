//! Interrupt lines and messages. A device holds the *wire* ([`IrqLine`]), never a number: which pin it ends at is the wiring's business.
//! A device that interrupts by messages holds their way ([`MsiLine`]); what is in them is the guest's.

use crate::kick::Kicks;
use crate::machine::MAX_CPUS;
use crate::time::VmTime;
use alloc::sync::Arc;
use bitflags::bitflags;
use core::fmt;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// What interrupt lines end at: the interrupt chips, or a router in front of them. Called with a device locked (lock order:
/// [`crate::vm`]).
pub trait IrqSink: Send + Sync {
    /// Sets input `pin` to `level`. Setting the level that it has already is allowed and does nothing.
    fn set(&self, pin: u8, level: bool);
}

/// One end of an interrupt wire, held by the device that drives it.
#[derive(Clone)]
pub struct IrqLine {
    sink: Arc<dyn IrqSink>,
    pin: u8,
}

impl IrqLine {
    /// A wire to input `pin` of `sink`.
    #[must_use]
    pub fn new(sink: Arc<dyn IrqSink>, pin: u8) -> Self {
        Self { sink, pin }
    }

    /// Drives the wire: true is asserted.
    pub fn set(&self, level: bool) {
        self.sink.set(self.pin, level);
    }

    /// Lowers, then raises the wire: a new edge.
    pub fn pulse(&self) {
        self.set(false);
        self.set(true);
    }
}

impl fmt::Debug for IrqLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IrqLine({})", self.pin)
    }
}

/// Where messages of devices go that are interrupts. Called with a device locked.
pub trait MsiSink: Send + Sync {
    /// A device writes the doubleword `data` to `address`. What is no address of an interrupt goes nowhere.
    fn send(&self, address: u64, data: u32);
}

/// The way on which a device sends messages that are interrupts.
#[derive(Clone)]
pub struct MsiLine(Arc<dyn MsiSink>);

impl MsiLine {
    /// A way to `sink`.
    #[must_use]
    pub fn new(sink: Arc<dyn MsiSink>) -> Self {
        Self(sink)
    }

    /// Sends a message.
    pub fn send(&self, address: u64, data: u32) {
        self.0.send(address, data);
    }
}

impl fmt::Debug for MsiLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MsiLine")
    }
}

bitflags! {
    /// What waits at the interrupt chips for a virtual CPU.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Attention: u16 {
        /// An interrupt could be taken now if the CPU's interrupt flag allowed it (priority already considered).
        const INTERRUPT = 1 << 0;
        /// An NMI has been signalled.
        const NMI = 1 << 1;
        /// An INIT has come.
        const INIT = 1 << 3;
        /// A start-up message has come.
        const START_UP = 1 << 4;
        /// Another CPU has kicked this one (KVM_HC_KICK_CPU).
        const KICK = 1 << 5;
        /// Another CPU asks this one to forget its translations of linear addresses. That does not wake it.
        const FLUSH = 1 << 6;
        /// The task priority, CR8.
        const PRIORITY = 0xf << 8;
        /// The class below which it has to fall for a waiting interrupt to become deliverable; 0 if there is none such.
        const THRESHOLD = 0xf << 12;
        /// No controller says this.
        const UNKNOWN = 1 << 2;
    }
}

impl Attention {
    /// Nothing waits.
    pub const NONE: Self = Self::empty();
    /// What the CPU has to act on.
    pub const EVENTS: Self = Self::INTERRUPT
        .union(Self::NMI)
        .union(Self::INIT)
        .union(Self::START_UP)
        .union(Self::KICK);

    /// The task priority, CR8 (0 to 15), and the class (1 to 15) below which it has to fall for a waiting interrupt to become deliverable; 0
    /// if there is none such.
    #[must_use]
    pub const fn priority(cr8: u8, threshold: u8) -> Self {
        Self::from_bits_retain((cr8 as u16 & 0xf) << 8 | (threshold as u16 & 0xf) << 12)
    }

    /// The task priority.
    #[must_use]
    pub const fn cr8(self) -> u8 {
        (self.bits() >> 8) as u8 & 0xf
    }

    /// The threshold.
    #[must_use]
    pub const fn threshold(self) -> u8 {
        (self.bits() >> 12) as u8
    }
}

/// Which of a VM's CPUs have halted and now have something to act on: one bit a CPU. Whoever sends them something sets it, whoever shares out
/// the host's CPUs takes it. A CPU that halts leaves here when its own timer wakes it.
pub struct Wakeups {
    /// Who of them is in the guest, and how it is made to look around.
    pub kicks: Arc<Kicks>,
    cpus: AtomicU32,
    /// When the timer of each CPU that has halted is due, and the earliest of these, or something earlier.
    timers: [AtomicU64; MAX_CPUS as usize],
    earliest: AtomicU64,
}

impl Default for Wakeups {
    fn default() -> Self {
        Self {
            kicks: Arc::default(),
            cpus: AtomicU32::new(0),
            timers: [const { AtomicU64::new(VmTime::NEVER.0) }; MAX_CPUS as usize],
            earliest: AtomicU64::new(VmTime::NEVER.0),
        }
    }
}

impl Wakeups {
    /// CPU `cpu` (0 to 31) has something to act on.
    pub fn wake(&self, cpu: usize) {
        self.cpus.fetch_or(1 << (cpu & 31), Ordering::SeqCst);
    }

    /// CPU `cpu` has halted no longer.
    pub fn clear(&self, cpu: usize) {
        if self.cpus.load(Ordering::Relaxed) & 1 << (cpu & 31) != 0 {
            self.cpus.fetch_and(!(1 << (cpu & 31)), Ordering::AcqRel);
        }
    }

    /// CPU `cpu` has halted, and its timer is due at `when`; [`NEVER`](VmTime::NEVER): it has none, or runs again.
    #[inline]
    pub fn set_timer(&self, cpu: usize, when: VmTime) {
        let Some(timer) = self.timers.get(cpu) else {
            return;
        };
        if timer.load(Ordering::Relaxed) != when.0 {
            timer.store(when.0, Ordering::SeqCst);
            self.earliest.fetch_min(when.0, Ordering::SeqCst);
        }
    }

    /// When [`poll`](Self::poll) is next due.
    #[inline]
    #[must_use]
    pub fn deadline(&self) -> VmTime {
        VmTime(self.earliest.load(Ordering::Acquire))
    }

    /// Wakes the CPUs whose timers are due at `now`.
    pub fn poll(&self, now: VmTime) {
        // Whoever halts meanwhile has set its timer, which is seen below, or makes the earliest earlier again.
        self.earliest.store(VmTime::NEVER.0, Ordering::SeqCst);
        let mut earliest = VmTime::NEVER;
        for (cpu, timer) in self.timers.iter().enumerate() {
            let due = VmTime(timer.load(Ordering::SeqCst));
            if due > now {
                earliest = earliest.min(due);
            } else if timer
                .compare_exchange(due.0, VmTime::NEVER.0, Ordering::SeqCst, Ordering::SeqCst)
                .is_ok()
            {
                self.wake(cpu);
            }
        }
        self.earliest.fetch_min(earliest.0, Ordering::SeqCst);
    }

    /// Whether there is any of these CPUs: bit n of `cpus` is CPU n.
    #[inline]
    #[must_use]
    pub fn any(&self, cpus: u32) -> bool {
        self.cpus.load(Ordering::Relaxed) & cpus != 0
    }

    /// Takes all of them: bit n is CPU n.
    #[must_use]
    pub fn take(&self) -> u32 {
        self.cpus.swap(0, Ordering::AcqRel)
    }
}

/// A virtual CPU's own interrupt controller, its local APIC, and its way to those of others and to the interrupt chips.
pub trait InterruptController: Send {
    /// What waits. Asked before every entry, so it must be cheap.
    fn attention(&mut self) -> Attention;

    /// Back to the power-on state.
    fn reset(&mut self) {}

    /// The interrupt-acknowledge cycle: takes the highest pending interrupt and returns its vector. Called only when the vector is
    /// going to be delivered at once; if that fails, [`unacknowledge`](Self::unacknowledge) follows before the guest does anything.
    fn acknowledge(&mut self) -> Option<u8>;

    /// Undoes the acknowledge cycle that gave `vector`: the guest has not taken the interrupt. It is requested again, and what the
    /// guest does to the chips from now on counts for it. An edge whose line has fallen meanwhile is forgotten as ever.
    fn unacknowledge(&mut self, vector: u8);

    /// Whether nobody would notice if the interrupt in service ended without a word: it is the only one in service, it is
    /// edge-triggered, and no other is requested.
    fn eoi_may_be_skipped(&self) -> bool {
        false
    }

    /// Ends the interrupt in service.
    fn end_of_interrupt(&mut self) {}

    /// Whether an NMI has been signalled since the last call (and clears it).
    fn take_nmi(&mut self) -> bool;

    /// Whether an INIT has come since the last call (and forgets it).
    fn take_init(&mut self) -> bool {
        false
    }

    /// The vector of a start-up message that has come since the last call, if any (and forgets it).
    fn take_start_up(&mut self) -> Option<u8> {
        None
    }

    /// Whether another CPU has kicked this one since the last call (and forgets it).
    fn take_kick(&mut self) -> bool {
        false
    }

    /// Kicks the CPU with this APIC ID, if there is one.
    fn kick(&mut self, apic_id: u32) {
        let _ = apic_id;
    }

    /// Asks the CPU with this APIC ID, if there is one, to forget its translations of linear addresses before it enters the guest next.
    fn ask_to_flush(&mut self, apic_id: u32) {
        let _ = apic_id;
    }

    /// Whether another CPU has asked this one for that since the last call (and forgets it).
    fn take_flush(&mut self) -> bool {
        false
    }

    /// Requests an edge-triggered interrupt of its own local APIC.
    fn request(&mut self, vector: u8) {
        let _ = vector;
    }

    /// Sends an interprocessor interrupt, as bits 10:0 of the interrupt command register have it, to the CPU with this APIC ID. Whether there
    /// is one.
    fn send_ipi(&mut self, apic_id: u32, icr: u32) -> bool {
        let _ = (apic_id, icr);
        false
    }

    /// The CPU has halted, or no longer: whether [`Wakeups`] are to be told when it has something to act on.
    fn set_halted(&mut self, halted: bool) {
        let _ = halted;
    }

    /// How many interprocessor interrupts the CPU has sent.
    fn ipis(&self) -> u64 {
        0
    }

    /// CR8: the local APIC's task priority, bits 7:4 (0 to 15).
    fn cr8(&self) -> u8;

    /// Writes CR8 (0 to 15).
    fn set_cr8(&mut self, value: u8);

    /// Reads IA32_APIC_BASE (MSR 1Bh).
    fn apic_base(&self) -> u64;

    /// Writes IA32_APIC_BASE. False: the value is invalid and the guest gets #GP(0).
    fn set_apic_base(&mut self, value: u64) -> bool;

    /// Reads IA32_TSC_DEADLINE (MSR 6E0h).
    fn tsc_deadline(&mut self, now: VmTime) -> u64 {
        let _ = now;
        0
    }

    /// Writes IA32_TSC_DEADLINE; the time-stamp counter has that value at `at`.
    fn set_tsc_deadline(&mut self, value: u64, at: VmTime, now: VmTime) {
        let _ = (value, at, now);
    }

    /// When [`poll`](Self::poll) is next due: the local APIC's timer.
    fn deadline(&self) -> VmTime {
        VmTime::NEVER
    }

    /// Does what is due at `now`.
    fn poll(&mut self, now: VmTime) {
        let _ = now;
    }

    /// Reads at `offset` of the local APIC's page; bits above the size of the access are ignored.
    fn mmio_read(&mut self, now: VmTime, offset: u64) -> u64 {
        let _ = (now, offset);
        u64::MAX
    }

    /// Writes `size` bytes at `offset` of the local APIC's page.
    fn mmio_write(&mut self, now: VmTime, offset: u64, size: usize, value: u64) {
        let _ = (now, offset, size, value);
    }

    /// Reads the local APIC's register `msr` (800h to 83Fh) in x2APIC mode. None: the guest gets #GP(0).
    fn x2apic_read(&mut self, msr: u32, now: VmTime) -> Option<u64> {
        let _ = (msr, now);
        None
    }

    /// Writes the local APIC's register `msr` (800h to 83Fh) in x2APIC mode. False: the guest gets #GP(0).
    fn x2apic_write(&mut self, msr: u32, value: u64, now: VmTime) -> bool {
        let _ = (msr, value, now);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_of_halted_cpus_wake_them_once_and_only_when_due() {
        let w = Wakeups::default();
        assert_eq!(w.deadline(), VmTime::NEVER);
        w.set_timer(3, VmTime(300));
        w.set_timer(1, VmTime(100));
        assert_eq!(w.deadline(), VmTime(100));
        w.poll(VmTime(100));
        assert_eq!((w.take(), w.deadline()), (1 << 1, VmTime(300)));
        // It runs again: at worst, somebody looks too early.
        w.set_timer(3, VmTime::NEVER);
        w.poll(VmTime(300));
        assert_eq!((w.take(), w.deadline()), (0, VmTime::NEVER));
    }
}
