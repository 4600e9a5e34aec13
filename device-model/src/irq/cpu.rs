//! What a virtual CPU sees of the interrupt chips, and the signals through which it sees most of it without their lock.

use super::SharedChips;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};
use hv_core::VmTime;
use hv_core::device::Requests;
use hv_core::irq::{Attention, InterruptController, Wakeups};

/// Events of a CPU that stay until taken.
mod event {
    use hv_core::irq::Attention;

    // Where an attention has them.
    pub(super) const NMI: u32 = Attention::NMI.bits() as u32;
    pub(super) const INIT: u32 = Attention::INIT.bits() as u32;
    pub(super) const START_UP: u32 = Attention::START_UP.bits() as u32;
    pub(super) const KICK: u32 = Attention::KICK.bits() as u32;
    pub(super) const ALL: u32 = NMI | INIT | START_UP | KICK;
    pub(super) const START_UP_VECTOR: u32 = 0xff << START_UP_SHIFT;
    pub(super) const START_UP_SHIFT: u32 = 8;
}

/// What one CPU's run loop asks in every turn, readable without the lock.
pub(super) struct Signals {
    /// An [`Attention`], but for what is in `events`.
    attention: AtomicU16,
    events: AtomicU32,
    /// The CPU has halted: it is to be woken when there is something for it.
    halted: AtomicBool,
    cpu: usize,
    wakeups: Arc<Wakeups>,
}

impl Signals {
    /// Those of CPU `cpu`.
    pub(super) fn new(cpu: usize, wakeups: Arc<Wakeups>) -> Self {
        Self {
            attention: AtomicU16::default(),
            events: AtomicU32::default(),
            halted: AtomicBool::default(),
            cpu,
            wakeups,
        }
    }

    /// There is something for the CPU.
    fn wake(&self) {
        if self.halted.load(Ordering::SeqCst) {
            self.wakeups.wake(self.cpu);
        }
    }

    /// What waits.
    fn attention(&self) -> Attention {
        let events = self.events.load(Ordering::SeqCst) & event::ALL;
        Attention::from_bits_retain(self.attention.load(Ordering::SeqCst) | events as u16)
    }

    /// Tells whether an interrupt can be taken, the task priority, and the class of an interrupt that only that holds back.
    pub(super) fn publish(&self, interrupt: bool, tpr: u8, held_back: u8) {
        let mut attention = Attention::priority(tpr >> 4, held_back);
        attention.set(Attention::INTERRUPT, interrupt);
        self.attention.store(attention.bits(), Ordering::SeqCst);
        if interrupt {
            self.wake();
        }
    }

    pub(super) fn nmi(&self) {
        self.events.fetch_or(event::NMI, Ordering::SeqCst);
        self.wake();
    }

    /// Another CPU's kick.
    pub(super) fn kick(&self) {
        self.events.fetch_or(event::KICK, Ordering::SeqCst);
        self.wake();
    }

    /// An INIT, which undoes an earlier start-up.
    pub(super) fn init(&self) {
        let start_up = event::START_UP | event::START_UP_VECTOR;
        self.events.fetch_and(!start_up, Ordering::SeqCst);
        self.events.fetch_or(event::INIT, Ordering::SeqCst);
        self.wake();
    }

    pub(super) fn start_up(&self, vector: u8) {
        let events = event::START_UP | u32::from(vector) << event::START_UP_SHIFT;
        self.events.fetch_or(events, Ordering::SeqCst);
        self.wake();
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
}

impl InterruptController for CpuInterrupts {
    fn attention(&self) -> Attention {
        self.signals.attention()
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

    fn take_init(&mut self) -> bool {
        self.signals.take(event::INIT) & event::INIT != 0
    }

    fn take_start_up(&mut self) -> Option<u8> {
        let events = self.signals.take(event::START_UP | event::START_UP_VECTOR);
        (events & event::START_UP != 0).then_some((events >> event::START_UP_SHIFT) as u8)
    }

    fn take_kick(&mut self) -> bool {
        self.signals.take(event::KICK) & event::KICK != 0
    }

    fn kick(&mut self, apic_id: u32) {
        self.chips.lock().kick(apic_id);
    }

    fn send_ipi(&mut self, apic_id: u32, icr: u32) -> bool {
        self.chips.lock().send_ipi(self.cpu, apic_id, icr)
    }

    fn set_halted(&mut self, halted: bool) {
        let signals = &*self.signals;
        signals.halted.store(halted, Ordering::SeqCst);
        if !halted {
            signals.wakeups.clear(signals.cpu);
        } else if signals.attention().intersects(Attention::EVENTS) {
            // What has come meanwhile was not told.
            signals.wake();
        }
    }

    fn ipis(&self) -> u64 {
        self.chips.lock().ipis(self.cpu)
    }

    fn cr8(&self) -> u8 {
        self.attention().cr8()
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

    fn tsc_deadline(&mut self, now: VmTime) -> u64 {
        self.chips.lock().tsc_deadline(self.cpu, now)
    }

    fn set_tsc_deadline(&mut self, value: u64, at: VmTime, now: VmTime, requests: &mut Requests) {
        let deadline = self.chips.lock().set_tsc_deadline(self.cpu, now, value, at);
        if let Some(deadline) = deadline {
            requests.wake_at(deadline);
        }
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
