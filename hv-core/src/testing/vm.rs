//! What surrounds a virtual CPU: memory virtualization, a clock and interrupt chips, each doing as little as it can.

use crate::flush::Flushes;
use crate::irq::{Attention, InterruptController};
use crate::lock::Lock;
use crate::mem::GuestMemory;
use crate::mmu::{
    Access, Backing, Mmu, PageFault, PagingState, PfError, Resolve, ShadowFault, TlbFlush, View,
};
use crate::time::Clock;
use crate::{Gpa, Gva, Hpa, VmTime};
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

/// Nested paging that nobody has to ask: linear addresses are guest-physical ones.
pub struct LinearMmu;

impl Mmu for LinearMmu {
    fn root(&mut self, _cpu: usize) -> (Hpa, TlbFlush) {
        (Hpa(0x1000), TlbFlush::None)
    }
    fn generation(&self) -> u64 {
        1
    }
    fn translate(
        &mut self,
        _mem: &dyn GuestMemory,
        _state: &PagingState,
        gva: Gva,
        _access: Access,
    ) -> Result<Gpa, PageFault> {
        Ok(Gpa(gva.0))
    }
    fn walk(
        _mem: &dyn GuestMemory,
        _state: &PagingState,
        gva: Gva,
        _access: Access,
    ) -> Option<Result<Gpa, PageFault>> {
        Some(Ok(Gpa(gva.0)))
    }
    fn remap(&mut self, _start: Gpa, _len: u64, _backing: Backing) {}
    fn while_nobody_runs(&mut self, f: &mut dyn FnMut()) {
        f();
    }
    fn frames_used(&self) -> u64 {
        1
    }
}

/// Linear addresses are guest-physical ones, but for some pages that are missing.
#[derive(Default)]
pub struct FlatMmu {
    /// Pages whose access faults, as linear addresses divided by 4,096.
    pub missing: Vec<u64>,
    /// What was changed in the map.
    pub remapped: Vec<(Gpa, u64, Backing)>,
    /// Whether the next entry flushes.
    pub flushes: Flushes,
    /// Whether it is shadow paging: what is not missing is a device.
    pub shadow: bool,
    /// The pages that are watched.
    pub watched: Vec<(Gpa, View)>,
}

impl Mmu for FlatMmu {
    fn root(&mut self, cpu: usize) -> (Hpa, TlbFlush) {
        (Hpa(0x1000), self.flushes.acknowledge(cpu))
    }
    fn generation(&self) -> u64 {
        self.flushes.generation()
    }
    fn is_shadow(&self) -> bool {
        self.shadow
    }
    fn page_fault(&mut self, _cpu: usize, fault: &ShadowFault) -> Resolve {
        let ShadowFault { gva, error, .. } = *fault;
        match self.missing.contains(&(gva.0 >> 12)) {
            true => Resolve::Guest(PageFault { gva, error }),
            false => Resolve::Emulate,
        }
    }
    fn translate(
        &mut self,
        _mem: &dyn GuestMemory,
        _state: &PagingState,
        gva: Gva,
        access: Access,
    ) -> Result<Gpa, PageFault> {
        if self.missing.contains(&(gva.0 >> 12)) {
            let mut error = PfError::empty();
            error.set(PfError::W, access.write);
            error.set(PfError::U, access.user && !access.implicit);
            error.set(PfError::I, access.fetch);
            return Err(PageFault { gva, error });
        }
        Ok(Gpa(gva.0))
    }
    fn peek(
        &self,
        _mem: &dyn GuestMemory,
        _state: &PagingState,
        gva: Gva,
        _access: Access,
    ) -> Option<Gpa> {
        let there = !self.missing.contains(&(gva.0 >> 12));
        there.then_some(Gpa(gva.0))
    }
    fn watch_page(&mut self, page: Gpa, view: View) {
        self.watched.push((page, view));
        self.flushes.require();
    }
    fn unwatch_pages(&mut self) {
        self.watched.clear();
    }
    fn is_watched(&self, gpa: Gpa) -> bool {
        self.watched.iter().any(|&(page, _)| page == gpa.page())
    }
    fn remap(&mut self, start: Gpa, len: u64, backing: Backing) {
        self.remapped.push((start, len, backing));
    }
    fn while_nobody_runs(&mut self, f: &mut dyn FnMut()) {
        f();
    }
    fn frames_used(&self) -> u64 {
        1
    }
}

/// A clock of one nanosecond a tick that stands still until it is moved. Clones are the same clock.
#[derive(Clone, Default)]
pub struct ManualClock {
    ticks: Arc<AtomicU64>,
    armed: Arc<AtomicU64>,
    skipped: Arc<AtomicU64>,
}

impl ManualClock {
    /// Lets `ticks` pass.
    pub fn pass(&self, ticks: u64) {
        self.ticks.fetch_add(ticks, Ordering::Relaxed);
    }
    /// The deadline that was armed last.
    #[must_use]
    pub fn armed(&self) -> VmTime {
        VmTime(self.armed.load(Ordering::Relaxed))
    }
}

impl Clock for ManualClock {
    fn ticks(&self) -> u64 {
        self.ticks.load(Ordering::Relaxed)
    }
    fn origin(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed)
    }
    fn time(&self, ticks: u64) -> VmTime {
        VmTime(ticks - self.skipped.load(Ordering::Relaxed))
    }
    fn skip(&mut self, ticks: u64) {
        self.skipped.fetch_add(ticks, Ordering::Relaxed);
    }
    fn ticks_until(&self, deadline: VmTime, now: VmTime) -> u64 {
        (deadline - now).0
    }
    fn arm(&mut self, deadline: VmTime, _now: VmTime) {
        self.armed.store(deadline.0, Ordering::Relaxed);
    }
}

/// Interrupt chips that are a list of vectors.
pub struct FakeInterrupts {
    /// Vectors that wait, the next one first.
    pub waiting: VecDeque<u8>,
    /// Vectors that were acknowledged.
    pub acknowledged: Vec<u8>,
    /// Vectors that were given back.
    pub given_back: Vec<u8>,
    /// Whether the end of an interrupt may be skipped, and how often one was reported.
    pub skipped_eoi: (bool, u32),
    /// Whether an NMI waits.
    pub nmi: bool,
    /// CR8.
    pub cr8: u8,
    /// IA32_APIC_BASE.
    pub apic_base: u64,
}

impl Default for FakeInterrupts {
    fn default() -> Self {
        Self {
            waiting: VecDeque::new(),
            acknowledged: Vec::new(),
            given_back: Vec::new(),
            skipped_eoi: (false, 0),
            nmi: false,
            cr8: 0,
            apic_base: 0xfee0_0900,
        }
    }
}

impl InterruptController for FakeInterrupts {
    fn attention(&mut self) -> Attention {
        let mut a = Attention::priority(self.cr8, 0);
        a.set(Attention::INTERRUPT, !self.waiting.is_empty());
        a.set(Attention::NMI, self.nmi);
        a
    }
    fn acknowledge(&mut self) -> Option<u8> {
        let v = self.waiting.pop_front();
        self.acknowledged.extend(v);
        v
    }
    fn unacknowledge(&mut self, vector: u8) {
        self.waiting.push_front(vector);
        self.given_back.push(vector);
    }
    fn eoi_may_be_skipped(&self) -> bool {
        self.skipped_eoi.0
    }
    fn end_of_interrupt(&mut self) {
        self.skipped_eoi.1 += 1;
    }
    fn take_nmi(&mut self) -> bool {
        core::mem::take(&mut self.nmi)
    }
    fn cr8(&self) -> u8 {
        self.cr8
    }
    fn set_cr8(&mut self, value: u8) {
        self.cr8 = value;
    }
    fn apic_base(&self) -> u64 {
        self.apic_base
    }
    fn set_apic_base(&mut self, value: u64) -> bool {
        self.apic_base = value;
        true
    }
}

/// A controller that a test keeps a hand on.
impl<T: InterruptController> InterruptController for Arc<Lock<T>> {
    fn attention(&mut self) -> Attention {
        self.lock().attention()
    }
    fn acknowledge(&mut self) -> Option<u8> {
        self.lock().acknowledge()
    }
    fn unacknowledge(&mut self, vector: u8) {
        self.lock().unacknowledge(vector);
    }
    fn eoi_may_be_skipped(&self) -> bool {
        self.lock().eoi_may_be_skipped()
    }
    fn end_of_interrupt(&mut self) {
        self.lock().end_of_interrupt();
    }
    fn take_nmi(&mut self) -> bool {
        self.lock().take_nmi()
    }
    fn cr8(&self) -> u8 {
        self.lock().cr8()
    }
    fn set_cr8(&mut self, value: u8) {
        self.lock().set_cr8(value);
    }
    fn apic_base(&self) -> u64 {
        self.lock().apic_base()
    }
    fn set_apic_base(&mut self, value: u64) -> bool {
        self.lock().set_apic_base(value)
    }
}
