//! All interleavings of two senders and the owner, one atomic access after the other, on the mailbox itself.

use super::*;
use crate::irq::lapic::Lapic;
use alloc::vec;
use alloc::vec::Vec;
use std::collections::HashSet;

/// What could be done wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mistake {
    None,
    /// The flag is set before the vector is there.
    FlagBeforeVector,
    /// The owner takes the vectors before their flag.
    VectorsBeforeFlag,
    /// The sender looks whether the owner has halted before it sets the flag.
    WakeBeforeFlag,
    /// The owner says that it has halted when it has already looked.
    LookBeforeHalt,
    /// The owner does not look again.
    NoLook,
    /// The sender wakes nobody.
    NoWake,
}

/// A sender: puts its vector in, sets the flag, wakes the owner.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Sending {
    Put,
    Flag,
    Wake,
}

/// The owner: it takes the flag, takes the vectors, and if there was nothing, halts and looks for the last time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Owner {
    TakeFlag,
    /// Those that these flags tell of.
    TakeVectors(u32),
    Halt,
    Look,
    Asleep,
}

const SENDERS: usize = 2;
const SENT: [(u8, bool); SENDERS] = [(0x41, false), (0x91, true)];

/// Where everybody is, and what is in the mailbox.
#[derive(Clone, PartialEq, Eq, Hash)]
struct World {
    flags: u32,
    posted: [[u64; 4]; 2],
    halted: bool,
    woken: bool,
    /// How far each sender is with its steps.
    senders: [usize; SENDERS],
    owner: Owner,
    /// Which vectors have reached the owner.
    arrived: [bool; SENDERS],
}

impl World {
    fn start() -> Self {
        Self {
            flags: 0,
            posted: [[0; 4]; 2],
            halted: false,
            woken: false,
            senders: [0; SENDERS],
            owner: Owner::TakeFlag,
            arrived: [false; SENDERS],
        }
    }

    /// The mailbox in this state.
    fn mailbox(&self) -> (Mailbox, Arc<Wakeups>) {
        let wakeups = Arc::new(Wakeups::default());
        if self.woken {
            wakeups.wake(0);
        }
        let mailbox = Mailbox::new(0, Lapic::new(0).address(), wakeups.clone());
        mailbox.flags.store(self.flags, SEQ);
        for (set, words) in [&mailbox.edge, &mailbox.level].into_iter().zip(self.posted) {
            for (word, bits) in set.0.iter().zip(words) {
                word.store(bits, SEQ);
            }
        }
        mailbox.halted.store(self.halted, SEQ);
        (mailbox, wakeups)
    }

    /// What becomes of it when this is done to the mailbox.
    fn with(&self, f: impl FnOnce(&Mailbox, &mut Self)) -> Self {
        let mut next = self.clone();
        let (mailbox, wakeups) = self.mailbox();
        f(&mailbox, &mut next);
        next.flags = mailbox.flags.load(SEQ);
        next.posted = [&mailbox.edge, &mailbox.level].map(|set| {
            let mut words = [0; 4];
            for (to, word) in words.iter_mut().zip(&set.0) {
                *to = word.load(SEQ);
            }
            words
        });
        next.halted = mailbox.halted.load(SEQ);
        next.woken = wakeups.any(1);
        next
    }

    fn sends(mistake: Mistake) -> &'static [Sending] {
        use Sending::{Flag, Put, Wake};
        match mistake {
            Mistake::FlagBeforeVector => &[Flag, Put, Wake],
            Mistake::WakeBeforeFlag => &[Put, Wake, Flag],
            Mistake::NoWake => &[Put, Flag],
            _ => &[Put, Flag, Wake],
        }
    }

    /// Everything that can happen next.
    fn next(&self, mistake: Mistake) -> Vec<World> {
        let mut all = Vec::new();
        for (sender, (vector, level)) in SENT.into_iter().enumerate() {
            if let Some(step) = Self::sends(mistake).get(self.senders[sender]) {
                all.push(self.with(|mailbox, w| {
                    w.senders[sender] += 1;
                    match step {
                        Sending::Put => _ = mailbox.put(vector, level),
                        Sending::Flag if level => mailbox.set(Flags::LEVEL_VECTORS),
                        Sending::Flag => mailbox.set(Flags::VECTORS),
                        Sending::Wake => mailbox.wake(),
                    }
                }));
            }
        }
        all.extend(self.owner_next(mistake));
        all
    }

    fn owner_next(&self, mistake: Mistake) -> Option<World> {
        const VECTORS: Flags = Flags::VECTORS.union(Flags::LEVEL_VECTORS);
        let take = |mailbox: &Mailbox, w: &mut World, mail| {
            mailbox.take_vectors(mail, |vector, level| {
                let sender = SENT.iter().position(|&v| v == (vector, level));
                w.arrived[sender.expect("it was sent")] = true;
            });
        };
        let next = match self.owner {
            Owner::TakeFlag => self.with(|mailbox, w| {
                if mistake == Mistake::VectorsBeforeFlag {
                    let mail = mailbox.flags() & VECTORS;
                    if !mail.is_empty() {
                        take(mailbox, w, mail);
                        w.owner = Owner::TakeVectors(0);
                    } else {
                        w.owner = Owner::Halt;
                    }
                    return;
                }
                let mail = mailbox.take(Flags::MAIL);
                w.owner = match mail.intersects(VECTORS) {
                    true => Owner::TakeVectors(mail.bits()),
                    false if mistake == Mistake::LookBeforeHalt => Owner::Look,
                    false => Owner::Halt,
                };
            }),
            Owner::TakeVectors(mail) => self.with(|mailbox, w| {
                if mistake == Mistake::VectorsBeforeFlag {
                    mailbox.take(Flags::MAIL);
                } else {
                    take(mailbox, w, Flags::from_bits_retain(mail));
                }
                w.owner = Owner::TakeFlag;
            }),
            Owner::Halt => self.with(|mailbox, w| {
                mailbox.set_halted(true);
                w.owner = match mistake {
                    Mistake::LookBeforeHalt | Mistake::NoLook => Owner::Asleep,
                    _ => Owner::Look,
                };
            }),
            Owner::Look => self.with(|mailbox, w| {
                let news = mailbox.flags().intersects(Flags::MAIL);
                w.owner = match mistake {
                    Mistake::LookBeforeHalt if news => Owner::TakeFlag,
                    Mistake::LookBeforeHalt => Owner::Halt,
                    _ => {
                        if news {
                            mailbox.wake_owner();
                        }
                        Owner::Asleep
                    }
                };
            }),
            Owner::Asleep if self.woken => self.with(|mailbox, w| {
                mailbox.set_halted(false);
                w.owner = Owner::TakeFlag;
            }),
            Owner::Asleep => return None,
        };
        Some(next)
    }
}

/// Walks through all that can happen. How many states there are; None: in one of them the owner sleeps for ever though something was sent.
fn walk(mistake: Mistake) -> Option<usize> {
    let mut seen = HashSet::from([World::start()]);
    let mut open = vec![World::start()];
    while let Some(world) = open.pop() {
        let next = world.next(mistake);
        if next.is_empty() && !world.arrived.iter().all(|&a| a) {
            return None;
        }
        for next in next {
            if seen.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    Some(seen.len())
}

#[test]
fn in_no_interleaving_does_the_owner_sleep_on_what_was_sent() {
    let states = walk(Mistake::None);
    assert!(states.is_some_and(|n| n > 100), "{states:?}");
}

#[test]
fn every_mistake_loses_a_wake_up_in_some_interleaving() {
    for mistake in [
        Mistake::FlagBeforeVector,
        Mistake::VectorsBeforeFlag,
        Mistake::WakeBeforeFlag,
        Mistake::LookBeforeHalt,
        Mistake::NoLook,
        Mistake::NoWake,
    ] {
        assert_eq!(walk(mistake), None, "{mistake:?}");
    }
}

#[test]
fn a_start_up_message_that_waits_is_not_mixed_with_another() {
    let (m, _) = World::start().mailbox();
    let message = |mode, vector| Message {
        destination: 0,
        logical: false,
        mode,
        vector,
        level: false,
    };
    assert!(m.post(message(DeliveryMode::StartUp, 0x81)));
    assert!(m.post(message(DeliveryMode::StartUp, 0x12)));
    assert_eq!(m.flags().start_up(), Some(0x81));
    m.post(message(DeliveryMode::Init, 0));
    assert_eq!(m.flags(), Flags::INIT, "INIT undoes it");
    m.post(message(DeliveryMode::StartUp, 0x12));
    assert_eq!(m.flags().start_up(), Some(0x12));
}
