//! The way of messages to local APICs: who is addressed, and who takes it. Senders are CPUs and the I/O APIC; none of them takes a lock.

use super::lapic::{Lapic, Shorthand};
use super::mailbox::{Flags, Mailbox};
use super::{DeliveryMode, Message};
use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::{AtomicUsize, Ordering};
use hv_core::irq::Wakeups;

/// The mailboxes of all virtual CPUs of a VM.
pub(super) struct Apics {
    boxes: Box<[Arc<Mailbox>]>,
    /// Where the search for a lowest-priority receiver begins.
    turn: AtomicUsize,
}

impl Apics {
    /// Those of `cpus` CPUs in power-on state.
    pub fn new(cpus: u8, wakeups: &Arc<Wakeups>) -> Self {
        let mailbox = |cpu: u8| {
            let address = Lapic::new(cpu).address();
            Arc::new(Mailbox::new(cpu.into(), address, wakeups.clone()))
        };
        Self {
            boxes: (0..cpus.max(1)).map(mailbox).collect(),
            turn: AtomicUsize::new(0),
        }
    }

    /// All mailboxes, by CPU.
    pub fn all(&self) -> &[Arc<Mailbox>] {
        &self.boxes
    }

    /// Hands `message` to the local APICs that it is addressed to; false if none accepts it.
    pub fn deliver(&self, message: Message) -> bool {
        if message.mode == DeliveryMode::LowestPriority {
            return self.arbitrate(message);
        }
        let mut accepted = false;
        for mailbox in &self.boxes {
            let address = mailbox.address();
            accepted |= address.is_destination(message.destination, message.logical)
                && mailbox.post(message);
        }
        accepted
    }

    /// Lowest-priority delivery: among the addressed the one with the lowest processor priority, in turns.
    fn arbitrate(&self, message: Message) -> bool {
        let turn = self.turn.load(Ordering::Relaxed);
        let count = self.boxes.len();
        let mut best: Option<(u8, usize)> = None;
        for i in 0..count {
            let cpu = (turn + i) % count;
            let Some(mailbox) = self.boxes.get(cpu) else {
                continue;
            };
            let address = mailbox.address();
            if !mailbox.is_present()
                || !address.is_destination(message.destination, message.logical)
                || !address.takes_interrupts()
            {
                continue;
            }
            let class = mailbox.class();
            if best.is_none_or(|(lowest, _)| class < lowest) {
                best = Some((class, cpu));
            }
        }
        let Some((_, cpu)) = best else { return false };
        self.turn.store((cpu + 1) % count, Ordering::Relaxed);
        self.boxes.get(cpu).is_some_and(|m| m.post(message))
    }

    /// Sends an interprocessor interrupt of `cpu`.
    pub fn send(&self, cpu: usize, message: Message, shorthand: Shorthand) {
        if message.mode == DeliveryMode::LowestPriority && shorthand == Shorthand::Destination {
            self.arbitrate(message);
        } else if self.send_to_others(cpu, message, shorthand)
            && let Some(own) = self.boxes.get(cpu)
        {
            own.post(message);
        }
    }

    /// The same, not in lowest-priority mode, to all but itself. Whether it goes to itself too.
    pub fn send_to_others(&self, cpu: usize, message: Message, shorthand: Shorthand) -> bool {
        if shorthand == Shorthand::Itself {
            return true;
        }
        let mut to_itself = false;
        for (other, mailbox) in self.boxes.iter().enumerate() {
            let address = mailbox.address();
            let addressed = match shorthand {
                Shorthand::Destination => {
                    address.is_destination(message.destination, message.logical)
                }
                _ => address.enabled(),
            };
            if !addressed {
                continue;
            }
            match other == cpu {
                true => to_itself = shorthand != Shorthand::Others,
                false => _ = mailbox.post(message),
            }
        }
        to_itself
    }

    /// The mailbox of the CPU with this APIC ID.
    pub fn with_id(&self, apic_id: u32) -> Option<&Mailbox> {
        let is = |m: &&Arc<Mailbox>| m.address().is_destination(apic_id, false);
        self.boxes.iter().find(is).map(|m| &**m)
    }

    /// The PIC's output is `level`.
    pub fn pic(&self, level: bool) {
        for (cpu, mailbox) in self.boxes.iter().enumerate() {
            let address = mailbox.address();
            // Where there is no local APIC, the pin is the boot CPU's.
            let takes = address.takes_ext_int() || cpu == 0 && !address.enabled();
            mailbox.set_level(Flags::PIC, level, takes);
        }
    }

    /// The PIC's output has risen at the LINT0 of all.
    pub fn lint0_rises(&self) {
        let takes = |m: &&Arc<Mailbox>| m.address().takes_edge_at_lint0();
        for mailbox in self.boxes.iter().filter(takes) {
            mailbox.tell(Flags::LINT0);
        }
    }

    /// The I/O APIC passes the PIC's output on to whom `to` names, and to nobody else.
    pub fn pic_by_ioapic(&self, to: Option<(u32, bool)>) {
        for mailbox in &self.boxes {
            let address = mailbox.address();
            let level = to.is_some_and(|(to, logical)| address.is_destination(to, logical));
            mailbox.set_level(Flags::PIC_BY_IOAPIC, level, true);
        }
    }

    /// Pulls the NMI pin: LINT1 of all local APICs, or the pin itself where there is none.
    pub fn pull_nmi(&self) {
        for mailbox in &self.boxes {
            let enabled = mailbox.address().enabled();
            mailbox.tell(if enabled { Flags::LINT1 } else { Flags::NMI });
        }
    }

    /// Whether the PIC's output is an NMI at some LINT0.
    pub fn has_nmi_at_lint0(&self) -> bool {
        self.boxes.iter().any(|m| m.address().lint0_is_nmi())
    }
}
