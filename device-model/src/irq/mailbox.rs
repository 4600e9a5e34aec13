//! What others have for a virtual CPU, and where they put it: no lock, so that whoever sends an interrupt waits for nobody.
//!
//! A sender first puts the vector in, then sets a flag, and then looks whether the owner has halted and has to be woken. The owner takes
//! the flag before the vectors; and it says that it has halted before it looks at the flags for the last time. So either the owner sees
//! the flag, or the sender sees that the owner has halted; and a vector that the owner does not take has its flag still to come.
//! The tests go through all interleavings of these steps.

use super::lapic::Address;
use super::{DeliveryMode, Message};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use hv_core::irq::{Attention, Wakeups};

/// All of this file is one protocol over several words: every access is part of one order.
const SEQ: Ordering = Ordering::SeqCst;

bitflags::bitflags! {
    /// What there is. The vector of a start-up message is in bits 15:8.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub(super) struct Flags: u32 {
        const NMI = Attention::NMI.bits() as u32;
        const INIT = Attention::INIT.bits() as u32;
        const START_UP = Attention::START_UP.bits() as u32;
        const KICK = Attention::KICK.bits() as u32;
        const FLUSH = Attention::FLUSH.bits() as u32;
        const START_UP_VECTOR = 0xff << Self::START_UP_SHIFT;
        /// Vectors of edge-triggered interrupts have been put in.
        const VECTORS = 1 << 16;
        /// A message with an illegal vector came.
        const ILLEGAL = 1 << 17;
        /// The PIC's output has risen.
        const LINT0 = 1 << 18;
        /// Somebody pulls the NMI pin.
        const LINT1 = 1 << 19;
        /// LINT0 is to be as firmware leaves it.
        const VIRTUAL_WIRE = 1 << 20;
        /// Vectors of level-triggered interrupts have been put in.
        const LEVEL_VECTORS = 1 << 21;
        /// The PIC's output is up.
        const PIC = 1 << 24;
        /// The I/O APIC passes it on to this CPU.
        const PIC_BY_IOAPIC = 1 << 25;
        /// The owner does not know what waits. Never in the mailbox.
        const UNKNOWN = 1 << 31;

        /// What the owner's local APIC sees to.
        const MAIL = Self::VECTORS.bits()
            | Self::LEVEL_VECTORS.bits()
            | Self::ILLEGAL.bits()
            | Self::LINT0.bits()
            | Self::LINT1.bits()
            | Self::VIRTUAL_WIRE.bits();
        /// What stays as long as it lasts.
        const LEVELS = Self::PIC.bits() | Self::PIC_BY_IOAPIC.bits();
        /// What the run loop takes.
        const EVENTS = Self::NMI.bits()
            | Self::INIT.bits()
            | Self::START_UP.bits()
            | Self::KICK.bits()
            | Self::FLUSH.bits();
    }
}

impl Flags {
    const START_UP_SHIFT: u32 = 8;

    /// The vector of the start-up message, if there is one.
    pub fn start_up(self) -> Option<u8> {
        self.contains(Self::START_UP)
            .then_some((self.bits() >> Self::START_UP_SHIFT) as u8)
    }
}

/// A set of vectors.
#[derive(Default)]
struct Posted([AtomicU64; 4]);

impl Posted {
    fn put(&self, vector: u8) {
        if let Some(word) = self.0.get(usize::from(vector >> 6)) {
            word.fetch_or(1 << (vector & 63), SEQ);
        }
    }

    /// Takes all vectors, and hands each to `f`.
    fn take(&self, mut f: impl FnMut(u8)) {
        for (i, word) in self.0.iter().enumerate() {
            if word.load(SEQ) == 0 {
                continue;
            }
            let mut bits = word.swap(0, SEQ);
            while bits != 0 {
                f((i as u32 * 64 + bits.trailing_zeros()) as u8);
                bits &= bits - 1;
            }
        }
    }
}

/// The mailbox of one virtual CPU.
pub(super) struct Mailbox {
    flags: AtomicU32,
    edge: Posted,
    level: Posted,
    /// Whether the CPU is plugged in: messages do not reach one that is not.
    present: AtomicBool,
    /// What the owner has published last: an [`Address`], and its processor priority's class.
    address: AtomicU64,
    class: AtomicU8,
    /// The CPU has halted: it is to be woken when there is something for it.
    halted: AtomicBool,
    cpu: usize,
    wakeups: Arc<Wakeups>,
}

impl Mailbox {
    /// That of CPU `cpu`, empty.
    pub fn new(cpu: usize, address: Address, wakeups: Arc<Wakeups>) -> Self {
        Self {
            flags: AtomicU32::default(),
            edge: Posted::default(),
            level: Posted::default(),
            present: AtomicBool::new(true),
            address: AtomicU64::new(address.0),
            class: AtomicU8::default(),
            halted: AtomicBool::default(),
            cpu,
            wakeups,
        }
    }

    // What senders do.

    /// What there is.
    #[inline]
    pub fn flags(&self) -> Flags {
        Flags::from_bits_retain(self.flags.load(SEQ))
    }

    /// Whom it belongs to, as messages have it.
    pub fn address(&self) -> Address {
        Address(self.address.load(SEQ))
    }

    pub fn class(&self) -> u8 {
        self.class.load(Ordering::Relaxed)
    }

    pub fn is_present(&self) -> bool {
        self.present.load(SEQ)
    }

    /// Puts `message` in; false if the local APIC does not accept it.
    pub fn post(&self, message: Message) -> bool {
        if !self.is_present() {
            return false;
        }
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                // An INIT that has still to be acted on disables it.
                if !self.address().takes_interrupts() || self.flags().contains(Flags::INIT) {
                    return false;
                }
                if message.vector < 16 {
                    self.tell(Flags::ILLEGAL);
                    // A refused vector must not leave the I/O APIC waiting for its end.
                    return !message.level;
                }
                let flag = self.put(message.vector, message.level);
                self.tell(flag);
            }
            DeliveryMode::Nmi => self.tell(Flags::NMI),
            DeliveryMode::Init => self.init(),
            DeliveryMode::StartUp => self.start_up(message.vector),
            _ => return false,
        }
        true
    }

    /// Puts `vector` in; returns the flag that says so.
    fn put(&self, vector: u8, level: bool) -> Flags {
        if level {
            self.level.put(vector);
            Flags::LEVEL_VECTORS
        } else {
            self.edge.put(vector);
            Flags::VECTORS
        }
    }

    /// Sets `flags`, and has the owner see them: it looks around, or is woken if it has halted.
    pub fn tell(&self, flags: Flags) {
        self.set(flags);
        self.wake();
    }

    /// Sets `flags`. Whoever calls sees to it that the owner looks.
    pub fn set(&self, flags: Flags) {
        self.flags.fetch_or(flags.bits(), SEQ);
    }

    fn wake(&self) {
        let looks = self.wakeups.kicks.look(self.cpu);
        if self.halted.load(SEQ) && !looks {
            self.wakeups.wake(self.cpu);
        }
    }

    /// An INIT, which undoes an earlier start-up.
    fn init(&self) {
        let start_up = (Flags::START_UP | Flags::START_UP_VECTOR).bits();
        self.change(|flags| Some(flags & !start_up | Flags::INIT.bits()));
        self.wake();
    }

    /// A start-up message. One that nobody has looked at yet stays.
    fn start_up(&self, vector: u8) {
        let new = Flags::START_UP.bits() | u32::from(vector) << Flags::START_UP_SHIFT;
        self.change(|flags| (flags & Flags::START_UP.bits() == 0).then_some(flags | new));
        self.wake();
    }

    fn change(&self, f: impl FnMut(u32) -> Option<u32>) {
        // There is nothing to be done where there is no change.
        let _ = self.flags.fetch_update(SEQ, SEQ, f);
    }

    /// The PIC's output, directly or by the I/O APIC, has this level. The owner is woken only if it is to `wake` it.
    pub fn set_level(&self, which: Flags, level: bool, wake: bool) {
        // Only the interrupt chips, under their lock, change levels.
        if self.flags().contains(which) == level {
            return;
        }
        if level {
            self.set(which);
            if wake {
                self.wake();
            }
        } else {
            self.flags.fetch_and(!which.bits(), SEQ);
        }
    }

    /// The CPU is plugged in or taken away; nothing waits for it.
    pub fn set_present(&self, present: bool) {
        self.present.store(present, SEQ);
        self.forget();
    }

    // What the owner does.

    /// Drops all but what is still so: the CPU is reset.
    pub fn forget(&self) {
        self.flags.fetch_and(Flags::LEVELS.bits(), SEQ);
        self.drop_vectors();
    }

    /// Drops what an INIT undoes.
    pub fn drop_vectors(&self) {
        self.edge.take(|_| ());
        self.level.take(|_| ());
    }

    /// Takes `flags`, of which those that were set are returned.
    pub fn take(&self, flags: Flags) -> Flags {
        if !self.flags().intersects(flags) {
            return Flags::empty();
        }
        Flags::from_bits_retain(self.flags.fetch_and(!flags.bits(), SEQ)) & flags
    }

    /// Takes the vectors whose flags are in `mail`, which has been taken before: edge-triggered before level-triggered ones, whose end somebody
    /// waits for.
    pub fn take_vectors(&self, mail: Flags, mut f: impl FnMut(u8, bool)) {
        if mail.contains(Flags::VECTORS) {
            self.edge.take(|vector| f(vector, false));
        }
        if mail.contains(Flags::LEVEL_VECTORS) {
            self.level.take(|vector| f(vector, true));
        }
    }

    /// Tells others where the owner is to be found.
    pub fn publish(&self, address: Address) {
        self.address.store(address.0, SEQ);
    }

    /// Tells others the class of the processor priority.
    #[inline]
    pub fn publish_class(&self, class: u8) {
        self.class.store(class, Ordering::Relaxed);
    }

    /// The owner has halted, or no longer. It looks at the flags after that.
    pub fn set_halted(&self, halted: bool) {
        self.halted.store(halted, SEQ);
        if !halted {
            self.wakeups.clear(self.cpu);
        }
    }

    /// What has come meanwhile was not told: the owner is woken.
    pub fn wake_owner(&self) {
        self.wakeups.wake(self.cpu);
    }
}

#[cfg(test)]
mod tests;
