//! Events on their way into the guest: exceptions, software interrupts, NMIs and external interrupts, and what becomes of two
//! exceptions at once.
//!
//! One vendor-free queue. A backend reports the event whose delivery an exit interrupted ([`VmExit::vectoring`]); the run loop
//! puts it back here, adds what the exit itself caused, and asks for the one event to inject at the next entry.
//!
//! External interrupts are not kept here. One that was acknowledged and then not delivered goes back to its interrupt chip, which
//! the guest may reprogram before it is acknowledged again.
//!
//! [`VmExit::vectoring`]: crate::exit::VmExit::vectoring

/// The kind of an event, with the manuals' names (SDM vol 3C 25.8.3, "VM-Entry Controls for Event Injection").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventKind {
    /// An interrupt from the interrupt controller.
    ExternalInterrupt,
    /// A non-maskable interrupt.
    Nmi,
    /// A hardware exception.
    Exception,
    /// INT n.
    SoftwareInterrupt,
    /// INT3 or INTO.
    SoftwareException,
    /// INT1: #DB by an instruction, which asks for no privilege.
    PrivilegedSoftwareException,
}

impl EventKind {
    /// Whether an instruction asks for the event: its delivery returns behind that instruction.
    #[must_use]
    pub const fn is_software(self) -> bool {
        matches!(
            self,
            EventKind::SoftwareInterrupt
                | EventKind::SoftwareException
                | EventKind::PrivilegedSoftwareException
        )
    }
}

/// One event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Its kind.
    pub kind: EventKind,
    /// Its vector.
    pub vector: u8,
    /// The error code that is pushed, if any.
    pub error: Option<u32>,
    /// Length in bytes of the instruction that caused a software event, else 0.
    pub insn_len: u8,
}

/// Exception vectors by the manuals' mnemonics.
#[allow(missing_docs)]
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const MC: u8 = 18;
    pub const XM: u8 = 19;
    pub const VE: u8 = 20;
    pub const CP: u8 = 21;
}

impl Event {
    /// A hardware exception.
    #[must_use]
    pub const fn exception(vector: u8, error: Option<u32>) -> Self {
        Self {
            kind: EventKind::Exception,
            vector,
            error,
            insn_len: 0,
        }
    }

    /// Whether it is #DF.
    #[must_use]
    pub const fn is_double_fault(&self) -> bool {
        matches!((self.kind, self.vector), (EventKind::Exception, vector::DF))
    }

    /// Whether it is a fault: RF is set in the flags that its delivery pushes, so that an instruction breakpoint on the instruction does
    /// not come again (SDM vol 3B 18.3.1.1, "Instruction-Breakpoint Exception Condition"). Of debug exceptions, which may be either, the
    /// vector does not tell.
    #[must_use]
    pub const fn is_fault(&self) -> bool {
        matches!(self.kind, EventKind::Exception)
            && !matches!(
                self.vector,
                vector::DB | vector::BP | vector::OF | vector::DF | vector::MC
            )
    }

    /// An external interrupt.
    #[must_use]
    pub const fn interrupt(vector: u8) -> Self {
        Self {
            kind: EventKind::ExternalInterrupt,
            vector,
            error: None,
            insn_len: 0,
        }
    }

    /// An NMI.
    #[must_use]
    pub const fn nmi() -> Self {
        Self {
            kind: EventKind::Nmi,
            vector: vector::NMI,
            error: None,
            insn_len: 0,
        }
    }
}

/// The classes of exceptions that decide about double faults (SDM vol 3A 6.15, "Exception and Interrupt Reference",
/// Interrupt 8: table "Interrupt and Exception Classes").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Class {
    Benign,
    Contributory,
    PageFault,
    DoubleFault,
}

const fn class(v: u8) -> Class {
    match v {
        vector::DE | vector::TS | vector::NP | vector::SS | vector::GP | vector::CP => {
            Class::Contributory
        }
        vector::PF | vector::VE => Class::PageFault,
        vector::DF => Class::DoubleFault,
        _ => Class::Benign,
    }
}

/// What two exceptions come to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Combined {
    /// Deliver this one.
    Deliver(Event),
    /// The guest's CPU shuts down (triple fault).
    Shutdown,
}

/// What happens when `second` is raised while `first` is being delivered (SDM vol 3A 6.15, table "Conditions for Generating a
/// Double Fault").
#[must_use]
pub fn combine(first: &Event, second: &Event) -> Combined {
    if first.kind != EventKind::Exception {
        return Combined::Deliver(*second);
    }
    let double = Combined::Deliver(Event::exception(vector::DF, Some(0)));
    match (class(first.vector), class(second.vector)) {
        (Class::DoubleFault, _) => Combined::Shutdown,
        (Class::Contributory, Class::Contributory) => double,
        (Class::PageFault, Class::Contributory | Class::PageFault) => double,
        _ => Combined::Deliver(*second),
    }
}

/// Two faults, the second during the delivery of a double fault: the CPU shuts down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub struct TripleFault;

/// The events that wait for the next entry.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventQueue {
    /// A hardware exception, new or to be delivered again.
    exception: Option<Event>,
    /// A software interrupt or exception whose delivery was interrupted.
    software: Option<Event>,
    /// An NMI whose delivery was interrupted.
    nmi_again: bool,
    /// An NMI has been signalled and not yet injected.
    nmi_pending: bool,
    /// An NMI is being handled by the guest: the next one waits for its IRET.
    nmi_blocked: bool,
    /// Any of these: what is asked before every entry. Each method that changes one ends with [`EventQueue::note`].
    something: bool,
}

/// What the CPU can take at the next entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Interruptibility {
    /// RFLAGS.IF.
    pub interrupts_enabled: bool,
    /// Blocking by STI or MOV SS.
    pub shadow: bool,
}

/// What to do at the next entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Injection {
    /// Inject this.
    pub event: Option<Event>,
    /// Leave the guest as soon as it can take an interrupt.
    pub irq_window: bool,
    /// Leave the guest as soon as it can take an NMI.
    pub nmi_window: bool,
    /// The guest handles an NMI: it can take the next one when the handler has ended. Otherwise only this event, or a shadow, is in
    /// the way.
    pub nmi_blocked: bool,
}

impl EventQueue {
    /// Puts back the event whose delivery an exit interrupted. An external interrupt is not for this queue: it goes back to the
    /// interrupt chip ([`InterruptController::unacknowledge`](crate::irq::InterruptController::unacknowledge)).
    pub fn put_back(&mut self, event: Event) {
        match event.kind {
            EventKind::Exception => self.exception = Some(event),
            EventKind::SoftwareInterrupt
            | EventKind::SoftwareException
            | EventKind::PrivilegedSoftwareException => self.software = Some(event),
            EventKind::Nmi => (self.nmi_again, self.nmi_blocked) = (true, false),
            EventKind::ExternalInterrupt => {}
        }
        self.note();
    }

    fn note(&mut self) {
        self.something = self.busy() || self.nmi_pending || self.nmi_blocked;
    }

    /// The exception that waits to be delivered.
    #[must_use]
    pub fn exception(&self) -> Option<Event> {
        self.exception
    }

    /// Raises an exception, combining it with one already waiting.
    ///
    /// # Errors
    /// [`TripleFault`]: the guest's CPU shuts down.
    pub fn raise(&mut self, event: Event) -> Result<(), TripleFault> {
        // An instruction that faults has not been executed: a software event being delivered is repeated by re-executing it.
        self.software = None;
        let combined = match self.exception {
            None => Combined::Deliver(event),
            Some(first) => combine(&first, &event),
        };
        if let Combined::Deliver(e) = combined {
            self.exception = Some(e);
        }
        self.note();
        match combined {
            Combined::Deliver(_) => Ok(()),
            Combined::Shutdown => Err(TripleFault),
        }
    }

    /// An NMI has arrived for the guest.
    pub fn signal_nmi(&mut self) {
        self.nmi_pending = true;
        self.note();
    }

    /// The NMI that has been put back counts as taken: a fault of the guest's has come in its place.
    pub fn lose_nmi(&mut self) {
        (self.nmi_again, self.nmi_blocked) = (false, true);
    }

    /// The guest has executed the IRET that ends its NMI handler.
    pub fn nmi_done(&mut self) {
        self.nmi_blocked = false;
        self.note();
    }

    /// Whether the guest handles an NMI, as far as this queue has been told.
    #[must_use]
    pub fn nmi_blocked(&self) -> bool {
        self.nmi_blocked
    }

    /// Whether nothing waits at all, and no NMI handler's end has to be watched for.
    #[inline(always)]
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        !self.something
    }

    /// Whether an event waits that has to be delivered before anything else happens.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.exception.is_some() || self.software.is_some() || self.nmi_again
    }

    /// Whether an NMI waits and is not blocked (it ends HLT).
    #[must_use]
    pub fn nmi_waiting(&self) -> bool {
        self.nmi_pending && !self.nmi_blocked
    }

    /// Decides about the next entry: events to deliver again first, then exceptions, NMI and external interrupts (SDM vol 3A
    /// 6.9, "Priority Among Simultaneous Exceptions and Interrupts"). `pending` tells whether the interrupt controller has an
    /// interrupt; `acknowledge` takes it and tells whether it has another, and is called only if the first will be injected.
    pub fn next(
        &mut self,
        cpu: Interruptibility,
        pending: bool,
        acknowledge: impl FnOnce() -> (Option<u8>, bool),
    ) -> Injection {
        let mut irq_window = pending;
        let event = if let Some(e) = self.exception.take() {
            Some(e)
        } else if let Some(e) = self.software.take() {
            Some(e)
        } else if self.nmi_again {
            self.nmi_again = false;
            self.nmi_blocked = true;
            Some(Event::nmi())
        } else if self.nmi_waiting() && !cpu.shadow {
            self.nmi_pending = false;
            self.nmi_blocked = true;
            Some(Event::nmi())
        } else if pending && cpu.interrupts_enabled && !cpu.shadow {
            let (vector, another) = acknowledge();
            irq_window = another;
            vector.map(Event::interrupt)
        } else {
            None
        };
        self.note();
        Injection {
            event,
            irq_window,
            // The end of the handler is always watched for: an NMI that comes later must find the guest ready, even halted.
            nmi_window: self.nmi_again || self.nmi_pending || self.nmi_blocked,
            nmi_blocked: self.nmi_blocked,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Interruptibility = Interruptibility {
        interrupts_enabled: true,
        shadow: false,
    };
    const IF_CLEAR: Interruptibility = Interruptibility {
        interrupts_enabled: false,
        shadow: false,
    };
    const SHADOW: Interruptibility = Interruptibility {
        interrupts_enabled: true,
        shadow: true,
    };

    fn exc(v: u8) -> Event {
        Event::exception(
            v,
            if class(v) == Class::Benign || v == vector::DE {
                None
            } else {
                Some(v as u32)
            },
        )
    }

    #[test]
    fn exceptions_combine_as_the_manuals_table_says_for_all_pairs() {
        for first in 0..32u8 {
            for second in 0..32u8 {
                let got = combine(&exc(first), &exc(second));
                let contributory = |v| [0, 10, 11, 12, 13, 21].contains(&v);
                let page = |v| [14, 20].contains(&v);
                let want = if first == 8 {
                    Combined::Shutdown
                } else if (contributory(first) && contributory(second))
                    || (page(first) && (contributory(second) || page(second)))
                {
                    Combined::Deliver(Event::exception(8, Some(0)))
                } else {
                    Combined::Deliver(exc(second))
                };
                assert_eq!(got, want, "{first} then {second}");
            }
        }
    }

    #[test]
    fn nmi_whose_delivery_faults_is_taken_and_blocks_the_next() {
        let mut q = EventQueue::default();
        q.put_back(Event::nmi());
        q.lose_nmi();
        q.raise(exc(14)).unwrap();
        q.signal_nmi();
        let mut next = || q.next(OPEN, false, || unreachable!());
        assert_eq!(next().event, Some(exc(14)));
        assert_eq!((next().event, next().nmi_window), (None, true));
        q.nmi_done();
        let again = q.next(OPEN, false, || unreachable!());
        assert_eq!(again.event, Some(Event::nmi()));
    }

    #[test]
    fn page_fault_during_page_fault_is_a_double_fault_then_shutdown() {
        let mut q = EventQueue::default();
        q.put_back(exc(14));
        q.raise(exc(14)).unwrap();
        let df = q.next(OPEN, false, || (None, false)).event.unwrap();
        assert_eq!(df, Event::exception(8, Some(0)));
        q.put_back(df);
        assert_eq!(q.raise(exc(14)), Err(TripleFault));
    }

    #[test]
    fn interrupt_is_acknowledged_only_when_it_is_injected() {
        let mut q = EventQueue::default();
        for closed in [IF_CLEAR, SHADOW] {
            let i = q.next(closed, true, || {
                panic!("acknowledged though the guest cannot take it")
            });
            assert_eq!(
                i,
                Injection {
                    irq_window: true,
                    ..Injection::default()
                }
            );
        }
        let i = q.next(OPEN, true, || (Some(0x20), false));
        assert_eq!(
            i,
            Injection {
                event: Some(Event::interrupt(0x20)),
                ..Injection::default()
            }
        );
    }

    #[test]
    fn second_interrupt_that_can_be_taken_gets_a_window() {
        let mut q = EventQueue::default();
        for another in [false, true] {
            let i = q.next(OPEN, true, || (Some(0x20), another));
            assert_eq!(i.event, Some(Event::interrupt(0x20)));
            assert_eq!(i.irq_window, another);
        }
    }

    #[test]
    fn exception_goes_before_interrupt_and_arms_the_window() {
        let mut q = EventQueue::default();
        q.raise(exc(6)).unwrap();
        let i = q.next(OPEN, true, || panic!("not now"));
        assert_eq!(i.event, Some(exc(6)));
        assert!(i.irq_window);
    }

    #[test]
    fn nmi_goes_before_interrupt_and_blocks_the_next_nmi_until_iret() {
        let mut q = EventQueue::default();
        q.signal_nmi();
        let i = q.next(IF_CLEAR, true, || panic!("IF is clear"));
        assert_eq!(i.event, Some(Event::nmi()));
        q.signal_nmi();
        let i = q.next(IF_CLEAR, false, || (None, false));
        assert_eq!(i.event, None);
        assert!(i.nmi_window);
        q.nmi_done();
        assert_eq!(
            q.next(IF_CLEAR, false, || (None, false)).event,
            Some(Event::nmi())
        );
    }

    #[test]
    fn nmi_waits_for_the_end_of_a_shadow() {
        let mut q = EventQueue::default();
        q.signal_nmi();
        let i = q.next(SHADOW, false, || (None, false));
        assert_eq!(
            i,
            Injection {
                nmi_window: true,
                ..Injection::default()
            }
        );
    }

    #[test]
    fn software_interrupt_is_repeated_unless_its_delivery_faulted() {
        let int80 = Event {
            kind: EventKind::SoftwareInterrupt,
            vector: 0x80,
            error: None,
            insn_len: 2,
        };
        let mut q = EventQueue::default();
        q.put_back(int80);
        assert_eq!(q.next(OPEN, false, || (None, false)).event, Some(int80));
        q.put_back(int80);
        q.raise(exc(11)).unwrap();
        assert_eq!(q.next(OPEN, false, || (None, false)).event, Some(exc(11)));
        assert!(!q.busy());
    }

    #[test]
    fn no_event_is_lost_or_doubled_in_any_order_of_arrivals() {
        // All subsets of {exception again, NMI again, new exception, new NMI, new interrupt}.
        for set in 0u32..32 {
            let mut q = EventQueue::default();
            if set & 1 != 0 {
                q.put_back(exc(6));
            }
            if set & 2 != 0 {
                q.put_back(Event::nmi());
            }
            if set & 4 != 0 {
                q.raise(exc(14)).unwrap();
            }
            if set & 8 != 0 {
                q.signal_nmi();
            }
            let mut pending = set & 16 != 0;
            let (mut exceptions, mut nmis, mut irqs) = (0, 0, 0);
            for _ in 0..8 {
                let mut ack = false;
                let i = q.next(OPEN, pending, || {
                    ack = true;
                    (Some(0x41), false)
                });
                pending &= !ack;
                match i.event.map(|e| e.kind) {
                    Some(EventKind::Exception) => exceptions += 1,
                    Some(EventKind::Nmi) => {
                        nmis += 1;
                        q.nmi_done();
                    }
                    Some(EventKind::ExternalInterrupt) => irqs += 1,
                    _ => {}
                }
            }
            assert_eq!(exceptions, u32::from(set & 5 != 0), "{set:#b}");
            assert_eq!(nmis, (set >> 1 & 1) + (set >> 3 & 1), "{set:#b}");
            assert_eq!(irqs, set >> 4 & 1, "{set:#b}");
        }
    }
}
