//! What a virtual CPU sees of the interrupt chips, and the signals through which it sees most of it without their lock.

use super::SharedChips;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use hv_core::VmTime;
use hv_core::device::Requests;
use hv_core::irq::{Attention, InterruptController};

/// Events of a CPU that stay until taken.
mod event {
    pub(super) const INIT: u32 = 1 << 0;
    /// Where [`Attention`](hv_core::irq::Attention) has it.
    pub(super) const NMI: u32 = hv_core::irq::Attention::NMI.bits() as u32;
    pub(super) const STARTUP: u32 = 1 << 2;
    pub(super) const STARTUP_VECTOR: u32 = 0xff << 8;
    pub(super) const STARTUP_SHIFT: u32 = 8;
}

/// What one CPU's run loop asks in every turn, readable without the lock.
#[derive(Default)]
pub(super) struct Signals {
    /// An [`Attention`], but for NMIs.
    attention: AtomicU8,
    tpr: AtomicU8,
    held_back: AtomicU8,
    events: AtomicU32,
}

impl Signals {
    /// Tells whether an interrupt can be taken, the task priority, and the class of an interrupt that only that holds back.
    pub(super) fn publish(&self, interrupt: bool, tpr: u8, held_back: u8) {
        self.tpr.store(tpr, Ordering::Release);
        self.held_back.store(held_back, Ordering::Release);
        let mut attention = Attention::NONE;
        attention.set(Attention::INTERRUPT, interrupt);
        // It holds no interrupt back without being there.
        attention.set(Attention::PRIORITY, tpr != 0);
        self.attention.store(attention.bits(), Ordering::Release);
    }

    pub(super) fn nmi(&self) {
        self.events.fetch_or(event::NMI, Ordering::AcqRel);
    }

    /// An INIT, which undoes an earlier start-up.
    pub(super) fn init(&self) {
        let startup = event::STARTUP | event::STARTUP_VECTOR;
        self.events.fetch_and(!startup, Ordering::AcqRel);
        self.events.fetch_or(event::INIT, Ordering::AcqRel);
    }

    pub(super) fn start_up(&self, vector: u8) {
        let events = event::STARTUP | u32::from(vector) << event::STARTUP_SHIFT;
        self.events.fetch_or(events, Ordering::AcqRel);
    }

    /// Drops all events: the CPU is reset.
    pub(super) fn forget(&self) {
        self.events.store(0, Ordering::Release);
    }

    fn take(&self, events: u32) -> u32 {
        if self.events.load(Ordering::Relaxed) & events == 0 {
            return 0;
        }
        self.events.fetch_and(!events, Ordering::AcqRel)
    }
}

/// What one virtual CPU sees of the interrupt chips.
pub struct CpuInterrupts {
    chips: SharedChips,
    signals: Arc<Signals>,
    cpu: usize,
}

impl CpuInterrupts {
    /// The view of CPU `cpu`; none if there is no such CPU.
    #[must_use]
    pub fn new(chips: &SharedChips, cpu: usize) -> Option<Self> {
        let signals = chips.lock().signals(cpu)?;
        Some(Self {
            chips: chips.clone(),
            signals,
            cpu,
        })
    }

    /// Whether this CPU has received an INIT since the last call (and forgets it).
    pub fn take_init(&mut self) -> bool {
        self.signals.take(event::INIT) & event::INIT != 0
    }

    /// The vector of a start-up message received since the last call, if any (and forgets it).
    pub fn take_startup(&mut self) -> Option<u8> {
        let events = self.signals.take(event::STARTUP | event::STARTUP_VECTOR);
        (events & event::STARTUP != 0).then_some((events >> event::STARTUP_SHIFT) as u8)
    }
}

impl InterruptController for CpuInterrupts {
    fn attention(&self) -> Attention {
        let nmi = self.signals.events.load(Ordering::Relaxed) & event::NMI;
        Attention::from_bits_retain(self.signals.attention.load(Ordering::Acquire) | nmi as u8)
    }

    fn acknowledge(&mut self) -> Option<u8> {
        self.chips.lock().acknowledge(self.cpu)
    }

    fn unacknowledge(&mut self, vector: u8) {
        self.chips.lock().unacknowledge(self.cpu, vector);
    }

    fn eoi_may_be_skipped(&self) -> bool {
        self.chips.lock().eoi_may_be_skipped(self.cpu)
    }

    fn end_of_interrupt(&mut self) {
        self.chips.lock().end_of_interrupt(self.cpu);
    }

    fn take_nmi(&mut self) -> bool {
        self.signals.take(event::NMI) & event::NMI != 0
    }

    fn cr8(&self) -> u8 {
        self.signals.tpr.load(Ordering::Acquire) >> 4
    }

    fn tpr_threshold(&self) -> u8 {
        self.signals.held_back.load(Ordering::Acquire)
    }

    fn set_cr8(&mut self, value: u8) {
        if value & 0xf != self.cr8() {
            self.chips.lock().set_tpr(self.cpu, value << 4);
        }
    }

    fn apic_base(&self) -> u64 {
        self.chips.lock().apic_base(self.cpu)
    }

    fn set_apic_base(&mut self, value: u64) -> bool {
        self.chips.lock().set_apic_base(self.cpu, value)
    }

    fn x2apic_read(&mut self, msr: u32, now: VmTime) -> Option<u64> {
        self.chips.lock().x2apic_read(self.cpu, now, msr)
    }

    fn x2apic_write(&mut self, msr: u32, value: u64, now: VmTime, requests: &mut Requests) -> bool {
        let written = self.chips.lock().x2apic_write(self.cpu, now, msr, value);
        if let Some(Some(deadline)) = written {
            requests.wake_at(deadline);
        }
        written.is_some()
    }
}
