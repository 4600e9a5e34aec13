//! The local APIC in xAPIC and x2APIC mode (SDM vol 3A chapter 12, "Advanced Programmable Interrupt Controller (APIC)"; APM vol 2
//! chapter 16, "Advanced Programmable Interrupt Controller (APIC)"), version 14h with six local vector table entries.
//!
//! Implemented: all registers, the timer in all its modes, all delivery modes but SMI and remote read. Not implemented:
//! thermal and performance interrupts (their entries are plain registers), suppression of EOI broadcasts, errors for accesses to
//! reserved registers.
//!
//! This file has the register page of xAPIC mode, [`x2apic`] the MSRs of x2APIC mode.
//!
//! Accesses to the page other than aligned 32-bit ones are undefined; here reads give the bytes asked for and narrow writes
//! count for TPR and EOI only.

mod address;
#[cfg(test)]
mod tests;
mod timer;
mod vectors;
pub(super) mod x2apic;

pub(super) use address::Address;

use super::{DeliveryMode, Message};
use hv_core::VmTime;
use hv_core::machine::LAPIC;
use timer::Timer;
use vectors::Vectors;

/// Version 14h, six LVT entries.
const VERSION: u32 = 0x0005_0014;

const ID: u64 = 0x020;
const VERSION_REGISTER: u64 = 0x030;
const TPR: u64 = 0x080;
const APR: u64 = 0x090;
const PPR: u64 = 0x0a0;
const EOI: u64 = 0x0b0;
const LDR: u64 = 0x0d0;
const DFR: u64 = 0x0e0;
const SVR: u64 = 0x0f0;
const ISR: u64 = 0x100;
const TMR: u64 = 0x180;
const IRR: u64 = 0x200;
const ESR: u64 = 0x280;
const ICR_LOW: u64 = 0x300;
const ICR_HIGH: u64 = 0x310;
const LVT_TIMER: u64 = 0x320;
const LVT_ERROR: u64 = 0x370;
const INITIAL_COUNT: u64 = 0x380;
const CURRENT_COUNT: u64 = 0x390;
const DIVIDE: u64 = 0x3e0;

/// Places in the local vector table, in the order of the registers from [`LVT_TIMER`] on.
mod lvt {
    pub(super) const TIMER: usize = 0;
    pub(super) const LINT0: usize = 3;
    pub(super) const LINT1: usize = 4;
    pub(super) const ERROR: usize = 5;
}

/// The bits of each LVT entry that exist: vector, delivery mode, polarity, trigger mode, mask, timer mode.
const LVT_WRITABLE: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
const LVT_MASKED: u32 = 1 << 16;
const LVT_LEVEL: u32 = 1 << 15;
/// The timer's mode: 0 is one-shot, 3 reserved (here one-shot).
const TIMER_MODE: u32 = 3 << 17;
const TIMER_PERIODIC: u32 = 1 << 17;
const TIMER_TSC_DEADLINE: u32 = 2 << 17;
/// LINT0 as firmware leaves it in virtual-wire mode: ExtINT, unmasked.
const LVT_EXT_INT: u32 = 0x700;

/// Software enable.
const SVR_ENABLE: u32 = 1 << 8;

const ICR_WRITABLE: u32 = 0x000c_cfff;
const ICR_LOGICAL: u32 = 1 << 11;
const ICR_ASSERT: u32 = 1 << 14;
const ICR_LEVEL: u32 = 1 << 15;

/// ESR: an illegal vector in a message sent, or received.
const SEND_ILLEGAL_VECTOR: u8 = 1 << 5;
const RECEIVE_ILLEGAL_VECTOR: u8 = 1 << 6;

bitflags::bitflags! {
    /// IA32_APIC_BASE (SDM vol 3A 12.4.4, "Local APIC Status and Location").
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct ApicBase: u64 {
        const BSP = 1 << 8;
        const EXTD = 1 << 10;
        const ENABLE = 1 << 11;
        const ADDRESS = 0x000f_ffff_ffff_f000;
    }
}

/// Which local APICs an interprocessor interrupt goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shorthand {
    Destination,
    Itself,
    All,
    Others,
}

/// What a register write asks of the rest of the interrupt chips.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// Nothing but to look again at what is deliverable here.
    None,
    /// Broadcast the end of a level-triggered interrupt.
    Eoi(u8),
    /// Send a message.
    Send(Message, Shorthand),
    /// This local APIC is addressed otherwise, or may accept what it refused before.
    Addressed,
    /// The timer's deadline has changed.
    Timer,
}

/// What became of a message that was addressed to this local APIC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Accept {
    Refused,
    Interrupt,
    Nmi,
    Init,
    StartUp(u8),
}

/// What waits in a local APIC.
pub(super) struct Waiting {
    /// The processor priority.
    pub(super) ppr: u8,
    /// The requested interrupt whose priority is above the processor's.
    pub(super) deliverable: Option<u8>,
    /// The priority class of the requested interrupt that only the task priority holds back, or 0: it can be delivered as soon as
    /// the task priority's class is below.
    pub(super) held_back_by_tpr: u8,
}

/// SDM vol 3A 12.8.3.1, "Task and Processor Priorities", where `served` is the highest interrupt in service, or 0.
const fn processor_priority(tpr: u8, served: u8) -> u8 {
    if tpr >> 4 >= served >> 4 {
        tpr
    } else {
        served & 0xf0
    }
}

/// One local APIC.
pub(super) struct Lapic {
    /// The number of its CPU, which is its ID after power-on.
    cpu: u8,
    base: ApicBase,
    id: u8,
    tpr: u8,
    ldr: u8,
    dfr: u32,
    svr: u32,
    irr: Vectors,
    isr: Vectors,
    tmr: Vectors,
    esr: u8,
    /// Errors since ESR was written last.
    errors: u8,
    icr_low: u32,
    /// The destination: in bits 31:24, or in all bits in x2APIC mode.
    icr_high: u32,
    lvt: [u32; 6],
    timer: Timer,
    waits_for_startup: bool,
}

impl Lapic {
    pub(super) fn new(cpu: u8) -> Self {
        let mut base = ApicBase::from_bits_retain(LAPIC) | ApicBase::ENABLE;
        base.set(ApicBase::BSP, cpu == 0);
        Self {
            cpu,
            base,
            id: cpu,
            tpr: 0,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            irr: Vectors::default(),
            isr: Vectors::default(),
            tmr: Vectors::default(),
            esr: 0,
            errors: 0,
            icr_low: 0,
            icr_high: 0,
            lvt: [LVT_MASKED; 6],
            timer: Timer::default(),
            waits_for_startup: cpu != 0,
        }
    }

    /// Power-on.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.cpu);
    }

    /// The state after an INIT (SDM vol 3A 12.4.7.3, "Local APIC State After an INIT Reset"): ID and base are kept.
    fn init(&mut self) {
        *self = Self {
            base: self.base,
            id: self.id,
            ..Self::new(self.cpu)
        };
    }

    /// Lets the PIC's interrupts through at LINT0, as firmware does.
    pub(super) fn preset_virtual_wire(&mut self) {
        if let Some(l) = self.lvt.get_mut(lvt::LINT0) {
            *l = LVT_EXT_INT;
        }
    }

    pub(super) fn apic_base(&self) -> u64 {
        self.base.bits()
    }

    /// Writes IA32_APIC_BASE; false means #GP(0). Whoever has the bus moves the register page.
    pub(super) fn set_apic_base(&mut self, value: u64) -> bool {
        let Some(mut new) = ApicBase::from_bits(value) else {
            return false;
        };
        if !self.base.may_become(new) {
            return false;
        }
        new.set(ApicBase::BSP, self.cpu == 0);
        if new.contains(ApicBase::EXTD) && !self.x2apic() {
            self.enter_x2apic();
        }
        if self.enabled() && !new.contains(ApicBase::ENABLE) {
            // A disabled local APIC may lose its state (SDM vol 3A 12.4.3, "Enabling or Disabling the Local APIC").
            let waits_for_startup = self.waits_for_startup;
            self.init();
            self.waits_for_startup = waits_for_startup;
        }
        self.base = new;
        true
    }

    /// Whether the CPU has its local APIC (IA32_APIC_BASE bit 11).
    pub(super) fn enabled(&self) -> bool {
        self.base.contains(ApicBase::ENABLE)
    }

    /// Whether the register page answers: enabled and not in x2APIC mode.
    pub(super) fn has_page(&self) -> bool {
        self.enabled() && !self.x2apic()
    }

    fn software_enabled(&self) -> bool {
        self.svr & SVR_ENABLE != 0
    }

    pub(super) fn tpr(&self) -> u8 {
        self.tpr
    }

    pub(super) fn set_tpr(&mut self, value: u8) {
        self.tpr = value;
    }

    fn ppr(&self) -> u8 {
        processor_priority(self.tpr, self.isr.highest().unwrap_or(0))
    }

    /// SDM vol 3A 12.6.2.4, "Lowest Priority Delivery Mode": the arbitration priority register.
    fn apr(&self) -> u8 {
        let requested = self.irr.highest().unwrap_or(0) & 0xf0;
        let served = self.isr.highest().unwrap_or(0) & 0xf0;
        let task = self.tpr & 0xf0;
        if task >= requested && task > served {
            self.tpr
        } else {
            (task & served).max(requested)
        }
    }

    /// What waits, and what for.
    #[inline]
    pub(super) fn waiting(&self) -> Waiting {
        let requested = self.irr.highest().unwrap_or(0);
        let served = self.isr.highest().unwrap_or(0);
        let ppr = processor_priority(self.tpr, served);
        let class = requested >> 4;
        let held_back = class > served >> 4 && class <= self.tpr >> 4;
        Waiting {
            ppr,
            deliverable: (class > ppr >> 4 && self.enabled()).then_some(requested),
            held_back_by_tpr: if held_back && self.enabled() {
                class
            } else {
                0
            },
        }
    }

    /// Takes the [deliverable](Waiting::deliverable) interrupt into service.
    #[inline]
    pub(super) fn begin_service(&mut self, vector: u8) {
        self.irr.clear(vector);
        self.isr.set(vector);
    }

    /// Undoes [`begin_service`](Self::begin_service): it is requested and not in service.
    pub(super) fn unacknowledge(&mut self, vector: u8) {
        if self.isr.clear(vector) {
            self.irr.set(vector);
        }
    }

    /// Whether LINT0 passes the PIC's interrupts on.
    pub(super) fn ext_int(&self) -> bool {
        self.lint0() & (LVT_MASKED | LVT_EXT_INT) == LVT_EXT_INT
    }

    fn lint0(&self) -> u32 {
        self.lvt.get(lvt::LINT0).copied().unwrap_or(LVT_MASKED)
    }

    /// The PIC's output has risen at LINT0, which may be programmed for more than ExtINT.
    pub(super) fn lint0_rises(&mut self) -> Accept {
        self.local(lvt::LINT0)
    }

    /// Someone has pulled LINT1, where PCs have their NMI.
    pub(super) fn lint1_rises(&mut self) -> Accept {
        self.local(lvt::LINT1)
    }

    fn local(&mut self, entry: usize) -> Accept {
        let register = self.lvt.get(entry).copied().unwrap_or(LVT_MASKED);
        if register & LVT_MASKED != 0 || !self.enabled() {
            return Accept::Refused;
        }
        match DeliveryMode::of(register) {
            DeliveryMode::Fixed => {
                let level = entry == lvt::LINT0 && register & LVT_LEVEL != 0;
                self.request(register as u8, level);
                Accept::Interrupt
            }
            DeliveryMode::Nmi => Accept::Nmi,
            _ => Accept::Refused,
        }
    }

    /// Receives a message that is addressed to this local APIC.
    pub(super) fn receive(&mut self, message: Message) -> Accept {
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                if !self.software_enabled() {
                    return Accept::Refused;
                }
                self.request(message.vector, message.level);
                // A refused vector must not leave the I/O APIC waiting for its end.
                if message.vector < 16 && message.level {
                    return Accept::Refused;
                }
                Accept::Interrupt
            }
            DeliveryMode::Nmi => Accept::Nmi,
            DeliveryMode::Init => {
                self.init();
                Accept::Init
            }
            DeliveryMode::StartUp if self.waits_for_startup => {
                self.waits_for_startup = false;
                Accept::StartUp(message.vector)
            }
            _ => Accept::Refused,
        }
    }

    fn request(&mut self, vector: u8, level: bool) {
        if vector < 16 {
            self.error(RECEIVE_ILLEGAL_VECTOR);
            return;
        }
        self.irr.set(vector);
        if level {
            self.tmr.set(vector);
        } else {
            self.tmr.clear(vector);
        }
    }

    /// SDM vol 3A 12.5.3, "Error Handling".
    fn error(&mut self, bit: u8) {
        let news = self.errors & bit == 0;
        self.errors |= bit;
        let register = self.lvt.get(lvt::ERROR).copied().unwrap_or(LVT_MASKED);
        // An error entry with an illegal vector of its own must not recurse.
        if news && register & LVT_MASKED == 0 && register as u8 >= 16 {
            self.request(register as u8, false);
        }
    }

    /// Whether the interrupt in service is edge-triggered and no other is in service or requested.
    pub(super) fn eoi_may_be_skipped(&self) -> bool {
        self.irr.highest().is_none() && self.isr.only().is_some_and(|v| !self.tmr.contains(v))
    }

    /// Ends the highest interrupt in service; the vector if the I/O APIC must hear of it.
    pub(super) fn end_of_interrupt(&mut self) -> Effect {
        let Some(vector) = self.isr.highest() else {
            return Effect::None;
        };
        self.isr.clear(vector);
        if self.tmr.clear(vector) {
            Effect::Eoi(vector)
        } else {
            Effect::None
        }
    }

    /// Reads the register at `offset`, a multiple of 16. The timer must have been [advanced](Self::advance).
    pub(super) fn read(&self, now: VmTime, offset: u64) -> u32 {
        match offset {
            ID => u32::from(self.id) << 24,
            VERSION_REGISTER => VERSION,
            TPR => self.tpr.into(),
            APR => self.apr().into(),
            PPR => self.ppr().into(),
            LDR => u32::from(self.ldr) << 24,
            DFR => self.dfr,
            SVR => self.svr,
            ISR..TMR => self.isr.word(offset),
            TMR..IRR => self.tmr.word(offset),
            IRR..ESR => self.irr.word(offset),
            ESR => self.esr.into(),
            ICR_LOW => self.icr_low,
            ICR_HIGH => self.icr_high,
            LVT_TIMER..=LVT_ERROR => self
                .lvt
                .get(lvt_index(offset))
                .copied()
                .unwrap_or(LVT_MASKED),
            INITIAL_COUNT => self.timer.initial_count(),
            CURRENT_COUNT => self.timer.current_count(now),
            DIVIDE => self.timer.divide().into(),
            _ => 0,
        }
    }

    /// Writes the register at `offset`, a multiple of 16. The timer must have been [advanced](Self::advance).
    pub(super) fn write(&mut self, now: VmTime, offset: u64, value: u32) -> Effect {
        match offset {
            EOI => return self.end_of_interrupt(),
            TPR => self.tpr = value as u8,
            ICR_LOW => {
                let destination = Message::wide((self.icr_high >> 24) as u8);
                return self.send(value, destination);
            }
            ICR_HIGH => self.icr_high = value & 0xff00_0000,
            INITIAL_COUNT if self.timer_mode() == TIMER_TSC_DEADLINE => {}
            INITIAL_COUNT => {
                self.timer.set_initial_count(now, value);
                return Effect::Timer;
            }
            LVT_TIMER..=LVT_ERROR => {
                let index = lvt_index(offset);
                let mode = self.timer_mode();
                let forced = if self.software_enabled() {
                    0
                } else {
                    LVT_MASKED
                };
                if let (Some(entry), Some(writable)) =
                    (self.lvt.get_mut(index), LVT_WRITABLE.get(index))
                {
                    *entry = value & writable | forced;
                }
                match index {
                    lvt::TIMER => {
                        let changed = mode ^ self.timer_mode();
                        if changed & TIMER_TSC_DEADLINE != 0 {
                            self.timer.disarm();
                        }
                        return Effect::Timer;
                    }
                    lvt::LINT0 => return Effect::Addressed,
                    _ => {}
                }
            }
            ID => {
                self.id = (value >> 24) as u8;
                return Effect::Addressed;
            }
            LDR => {
                self.ldr = (value >> 24) as u8;
                return Effect::Addressed;
            }
            DFR => {
                self.dfr = value | 0x0fff_ffff;
                return Effect::Addressed;
            }
            SVR => {
                self.svr = value & (SVR_ENABLE | 0xff);
                if !self.software_enabled() {
                    for entry in &mut self.lvt {
                        *entry |= LVT_MASKED;
                    }
                }
                return Effect::Addressed;
            }
            ESR => {
                self.esr = self.errors;
                self.errors = 0;
            }
            DIVIDE => {
                self.timer.set_divide(now, value as u8);
                return Effect::Timer;
            }
            _ => {}
        }
        Effect::None
    }

    /// A write to the low half of the interrupt command register.
    fn send(&mut self, value: u32, destination: u32) -> Effect {
        self.icr_low = value & ICR_WRITABLE;
        let mode = DeliveryMode::of(value);
        let vector = value as u8;
        match mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority if vector < 16 => {
                self.error(SEND_ILLEGAL_VECTOR);
                return Effect::None;
            }
            // INIT level de-assert only synchronized arbitration IDs, and only long ago.
            DeliveryMode::Init if value & ICR_LEVEL != 0 && value & ICR_ASSERT == 0 => {
                return Effect::None;
            }
            DeliveryMode::ExtInt | DeliveryMode::Reserved | DeliveryMode::Smi => {
                return Effect::None;
            }
            _ => {}
        }
        let message = Message {
            destination,
            logical: value & ICR_LOGICAL != 0,
            mode,
            vector,
            // Interprocessor interrupts are edge-triggered whatever bit 15 says, except INIT.
            level: false,
        };
        let shorthand = match value >> 18 & 3 {
            0 => Shorthand::Destination,
            1 => Shorthand::Itself,
            2 => Shorthand::All,
            _ => Shorthand::Others,
        };
        Effect::Send(message, shorthand)
    }

    /// Lets the timer run up to `now`; true if that raised its interrupt. Missed periods raise it once.
    pub(super) fn advance(&mut self, now: VmTime) -> bool {
        let register = self.timer_entry();
        if !self
            .timer
            .advance(now, register & TIMER_MODE == TIMER_PERIODIC)
        {
            return false;
        }
        if register & LVT_MASKED != 0 || !self.enabled() {
            return false;
        }
        self.request(register as u8, false);
        true
    }

    /// When the timer's interrupt is due next.
    pub(super) fn deadline(&self) -> Option<VmTime> {
        let masked = self.timer_entry() & LVT_MASKED != 0;
        self.timer.deadline().filter(|_| !masked)
    }

    /// IA32_TSC_DEADLINE. The timer must have been [advanced](Self::advance).
    pub(super) fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline()
    }

    /// Writes IA32_TSC_DEADLINE, whose moment is `at` (SDM vol 3A 12.5.4.1, "TSC-Deadline Mode"). In other modes it is ignored. The timer
    /// must have been [advanced](Self::advance).
    pub(super) fn set_tsc_deadline(&mut self, value: u64, at: VmTime) -> Effect {
        if self.timer_mode() != TIMER_TSC_DEADLINE {
            return Effect::None;
        }
        self.timer.set_tsc_deadline(value, at);
        Effect::Timer
    }

    fn timer_entry(&self) -> u32 {
        self.lvt.get(lvt::TIMER).copied().unwrap_or(LVT_MASKED)
    }

    fn timer_mode(&self) -> u32 {
        self.timer_entry() & TIMER_MODE
    }
}

fn lvt_index(offset: u64) -> usize {
    (offset.saturating_sub(LVT_TIMER) >> 4) as usize
}
