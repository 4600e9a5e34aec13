//! A virtual CPU's own part of the interrupt chips: its local APIC, which nobody else touches.
//!
//! What others have for it is in its mailbox, which is opened before every entry to the guest and before every access to the registers. The
//! chips' lock is taken only where the chips are concerned: the PIC's interrupts, the end of a level-triggered one, and changes of how
//! the local APIC is addressed.

use super::SharedChips;
use super::apics::Apics;
use super::lapic::{Accept, Address, Effect, Lapic, Shorthand, x2apic};
use super::mailbox::{Flags, Mailbox};
use super::{DeliveryMode, Message};
use alloc::sync::Arc;
use hv_core::VmTime;
use hv_core::irq::{Attention, InterruptController};

/// What one virtual CPU has of the interrupt chips.
pub struct CpuInterrupts {
    cpu: usize,
    lapic: Lapic,
    mailbox: Arc<Mailbox>,
    apics: Arc<Apics>,
    chips: SharedChips,
    /// The mailbox's flags as of the last look, or that the local APIC has changed since; and what follows from both.
    seen: Flags,
    attention: Attention,
    deliverable: Option<u8>,
    /// What was published last.
    published: Address,
    /// Whether the PIC, and not the local APIC, gave the vector that was acknowledged last.
    from_pic: bool,
    /// Interprocessor interrupts that it has sent.
    ipis: u64,
}

impl CpuInterrupts {
    /// That of CPU `cpu`, in power-on state; none if there is no such CPU.
    #[must_use]
    pub fn new(chips: &SharedChips, cpu: usize) -> Option<Self> {
        let apics = chips.lock().apics();
        let mailbox = apics.all().get(cpu)?.clone();
        let lapic = Lapic::new(cpu as u8);
        let mut new = Self {
            cpu,
            published: lapic.address(),
            lapic,
            seen: Flags::empty(),
            attention: Attention::NONE,
            deliverable: None,
            mailbox,
            apics,
            chips: chips.clone(),
            from_pic: false,
            ipis: 0,
        };
        new.publish();
        new.changed();
        new.look();
        Some(new)
    }

    /// What is known of what waits is out of date. It is found out anew when it is needed, once for all changes until then.
    #[inline]
    fn changed(&mut self) {
        self.seen = Flags::UNKNOWN;
    }

    /// Looks into the mailbox, and at what waits, if there is anything new.
    #[inline(always)]
    fn look(&mut self) {
        if self.mailbox.flags() != self.seen {
            self.look_again();
        }
    }

    #[inline(never)]
    fn look_again(&mut self) {
        self.look_for_mail();
        self.update();
    }

    /// Lets the local APIC have its mail.
    #[inline]
    fn look_for_mail(&mut self) {
        if self.mailbox.flags().intersects(Flags::MAIL) {
            self.open();
        }
    }

    #[cold]
    #[inline(never)]
    fn open(&mut self) {
        let mail = self.mailbox.take(Flags::MAIL);
        if mail.contains(Flags::VIRTUAL_WIRE) {
            self.lapic.preset_virtual_wire();
            self.publish();
        }
        self.take_vectors(mail);
        if mail.contains(Flags::ILLEGAL) {
            self.lapic.receive(fixed(0, false));
        }
        for (pin, rises) in [
            (Flags::LINT0, Lapic::lint0_rises as fn(&mut Lapic) -> Accept),
            (Flags::LINT1, Lapic::lint1_rises),
        ] {
            if mail.contains(pin) && rises(&mut self.lapic) == Accept::Nmi {
                self.mailbox.tell(Flags::NMI);
            }
        }
        self.changed();
    }

    fn take_vectors(&mut self, mail: Flags) {
        let Self {
            mailbox,
            lapic,
            chips,
            ..
        } = self;
        mailbox.take_vectors(mail, |vector, level| {
            // It has been disabled since: for whoever waits for its end, the interrupt has ended.
            if lapic.receive(fixed(vector, level)) == Accept::Refused && level {
                chips.lock().end_of_interrupt(vector);
            }
        });
    }

    /// Finds out anew what waits.
    #[inline]
    fn update(&mut self) {
        let (flags, lapic) = (self.mailbox.flags(), &self.lapic);
        // Mail that has not been opened is new to the next look.
        self.seen = flags.difference(Flags::MAIL);
        let waiting = lapic.waiting();
        let mut attention = Attention::priority(lapic.tpr() >> 4, waiting.held_back_by_tpr);
        attention |= Attention::from_bits_retain((flags & Flags::EVENTS).bits() as u16);
        let interrupt = waiting.deliverable.is_some() || self.takes_pic();
        attention.set(Attention::INTERRUPT, interrupt);
        self.attention = attention;
        self.deliverable = waiting.deliverable;
        self.mailbox.publish_class(waiting.ppr >> 4);
    }

    /// Whether the PIC has an interrupt for this CPU, as of the last look.
    #[inline]
    fn takes_pic(&self) -> bool {
        self.seen.intersects(Flags::LEVELS)
            && match self.lapic.enabled() {
                true => {
                    self.seen.contains(Flags::PIC) && self.lapic.ext_int()
                        || self.seen.contains(Flags::PIC_BY_IOAPIC)
                }
                false => self.seen.contains(Flags::PIC) && self.cpu == 0,
            }
    }

    /// Tells others how the local APIC is addressed.
    fn publish(&mut self) {
        self.published = self.lapic.address();
        self.mailbox.publish(self.published);
    }

    fn take(&mut self, flags: Flags) -> Flags {
        let taken = self.mailbox.take(flags);
        if !taken.is_empty() {
            self.look();
        }
        taken
    }

    /// Does what a register write asks for.
    #[inline(always)]
    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::None | Effect::Timer => {}
            Effect::Eoi(vector) => self.end_at_the_chips(vector),
            Effect::Send(message, Shorthand::Itself) => self.send_to_itself(message),
            Effect::Send(message, shorthand) => self.send(message, shorthand),
            Effect::Addressed => self.readdressed(),
        }
        self.changed();
    }

    #[cold]
    #[inline(never)]
    fn end_at_the_chips(&mut self, vector: u8) {
        self.chips.lock().end_of_interrupt(vector);
    }

    #[cold]
    #[inline(never)]
    fn readdressed(&mut self) {
        self.publish();
        self.chips.lock().addresses_changed();
    }

    /// Sends a message to itself. A fixed one has no way to go.
    #[inline]
    fn send_to_itself(&mut self, message: Message) {
        match message.mode {
            DeliveryMode::Fixed => {
                self.ipis += 1;
                self.lapic.receive(message);
            }
            _ => self.send(message, Shorthand::Itself),
        }
    }

    /// Sends an interprocessor interrupt.
    #[inline(never)]
    fn send(&mut self, message: Message, shorthand: Shorthand) {
        self.ipis += 1;
        if message.mode == DeliveryMode::LowestPriority {
            // Its own priority counts too.
            self.look();
        }
        if message.mode != DeliveryMode::Fixed {
            self.apics.send(self.cpu, message, shorthand);
        } else if self.apics.send_to_others(self.cpu, message, shorthand) {
            self.lapic.receive(message);
        }
    }
}

/// A message that was in the mailbox.
const fn fixed(vector: u8, level: bool) -> Message {
    Message {
        destination: 0,
        logical: false,
        mode: DeliveryMode::Fixed,
        vector,
        level,
    }
}

const fn event(mode: DeliveryMode, vector: u8) -> Message {
    Message {
        mode,
        ..fixed(vector, false)
    }
}

/// The bytes of a 32-bit register from `offset` on.
fn narrow(register: u32, offset: u64) -> u64 {
    u64::from(register >> (8 * (offset & 3)))
}

impl InterruptController for CpuInterrupts {
    #[inline]
    fn attention(&mut self) -> Attention {
        self.look();
        self.attention
    }

    fn reset(&mut self) {
        self.lapic.reset();
        self.from_pic = false;
        self.mailbox.forget();
        self.publish();
        self.changed();
    }

    fn acknowledge(&mut self) -> Option<u8> {
        self.look();
        let vector = match self.takes_pic() {
            true => self.chips.lock().acknowledge(),
            false => None,
        };
        self.from_pic = vector.is_some();
        let vector = vector.or_else(|| {
            let vector = self.deliverable?;
            self.lapic.begin_service(vector);
            Some(vector)
        });
        self.changed();
        vector
    }

    fn unacknowledge(&mut self, vector: u8) {
        if core::mem::take(&mut self.from_pic) {
            self.chips.lock().unacknowledge();
        } else {
            self.lapic.unacknowledge(vector);
        }
        self.changed();
    }

    fn eoi_may_be_skipped(&self) -> bool {
        !self.mailbox.flags().intersects(Flags::LEVELS | Flags::MAIL)
            && self.lapic.eoi_may_be_skipped()
    }

    fn end_of_interrupt(&mut self) {
        let effect = self.lapic.end_of_interrupt();
        self.carry_out(effect);
    }

    fn take_nmi(&mut self) -> bool {
        self.look();
        self.take(Flags::NMI).contains(Flags::NMI)
    }

    fn take_init(&mut self) -> bool {
        self.look();
        let init = self.take(Flags::INIT).contains(Flags::INIT);
        if init {
            // Whatever came before is undone; until here, no interrupts came after.
            self.mailbox.drop_vectors();
            self.lapic.receive(event(DeliveryMode::Init, 0));
            self.publish();
            self.changed();
            self.chips.lock().addresses_changed();
        }
        init
    }

    fn take_start_up(&mut self) -> Option<u8> {
        let flags = self.take(Flags::START_UP | Flags::START_UP_VECTOR);
        match self
            .lapic
            .receive(event(DeliveryMode::StartUp, flags.start_up()?))
        {
            Accept::StartUp(vector) => Some(vector),
            _ => None,
        }
    }

    fn take_kick(&mut self) -> bool {
        self.take(Flags::KICK).contains(Flags::KICK)
    }

    fn kick(&mut self, apic_id: u32) {
        if let Some(mailbox) = self.apics.with_id(apic_id) {
            mailbox.tell(Flags::KICK);
        }
    }

    fn ask_to_flush(&mut self, apic_id: u32) {
        if let Some(mailbox) = self.apics.with_id(apic_id) {
            mailbox.set(Flags::FLUSH);
        }
    }

    fn take_flush(&mut self) -> bool {
        self.take(Flags::FLUSH).contains(Flags::FLUSH)
    }

    fn request(&mut self, vector: u8) {
        self.look_for_mail();
        self.lapic.receive(fixed(vector, false));
        self.changed();
    }

    fn send_ipi(&mut self, apic_id: u32, icr: u32) -> bool {
        let there = self.apics.with_id(apic_id).is_some();
        if there {
            let message = Message {
                destination: apic_id,
                ..event(DeliveryMode::of(icr), icr as u8)
            };
            self.carry_out(Effect::Send(message, Shorthand::Destination));
        }
        there
    }

    fn set_halted(&mut self, halted: bool) {
        self.mailbox.set_halted(halted);
        if halted && self.attention().intersects(Attention::EVENTS) {
            // What has come meanwhile was not told.
            self.mailbox.wake_owner();
        }
    }

    fn ipis(&self) -> u64 {
        self.ipis
    }

    fn cr8(&self) -> u8 {
        self.lapic.tpr() >> 4
    }

    fn set_cr8(&mut self, value: u8) {
        if value & 0xf != self.cr8() {
            self.lapic.set_tpr(value << 4);
            self.changed();
        }
    }

    fn apic_base(&self) -> u64 {
        self.lapic.apic_base()
    }

    fn set_apic_base(&mut self, value: u64) -> bool {
        self.look_for_mail();
        let valid = self.lapic.set_apic_base(value);
        if valid {
            self.carry_out(Effect::Addressed);
        }
        valid
    }

    fn deadline(&self) -> VmTime {
        self.lapic.deadline().unwrap_or(VmTime::NEVER)
    }

    fn poll(&mut self, now: VmTime) {
        if self.lapic.advance(now) {
            self.changed();
        }
    }

    fn mmio_read(&mut self, now: VmTime, offset: u64) -> u64 {
        self.look_for_mail();
        if !self.lapic.has_page() {
            return u64::MAX;
        }
        self.poll(now);
        // Registers are 32 bits wide and 16 bytes apart.
        match offset & 0xc {
            0 => narrow(self.lapic.read(now, offset & !0xf), offset),
            _ => 0,
        }
    }

    fn mmio_write(&mut self, now: VmTime, offset: u64, size: usize, value: u64) {
        const TPR: u64 = 0x80;
        const EOI: u64 = 0xb0;
        let narrow = size < 4 && !matches!(offset, TPR | EOI);
        if offset & 0xf != 0 || narrow || !self.lapic.has_page() {
            return;
        }
        self.look_for_mail();
        self.lapic.advance(now);
        let effect = self.lapic.write(now, offset, value as u32);
        self.carry_out(effect);
    }

    fn tsc_deadline(&mut self, now: VmTime) -> u64 {
        self.look_for_mail();
        self.poll(now);
        self.lapic.tsc_deadline()
    }

    fn set_tsc_deadline(&mut self, value: u64, at: VmTime, now: VmTime) {
        self.look_for_mail();
        self.lapic.advance(now);
        let effect = self.lapic.set_tsc_deadline(value, at);
        self.carry_out(effect);
    }

    fn x2apic_read(&mut self, msr: u32, now: VmTime) -> Option<u64> {
        self.look_for_mail();
        self.poll(now);
        self.lapic.x2apic_read(now, msr)
    }

    fn x2apic_write(&mut self, msr: u32, value: u64, now: VmTime) -> bool {
        self.look_for_mail();
        // The end of an interrupt, once an interrupt, does not care for the timer.
        let fired = msr != x2apic::EOI && self.lapic.advance(now);
        let effect = self.lapic.x2apic_write(now, msr, value);
        if let Some(effect) = effect {
            self.carry_out(effect);
        } else if fired {
            self.changed();
        }
        effect.is_some()
    }
}
