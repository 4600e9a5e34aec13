//! The kick: how a virtual CPU is made to look around, wherever it is.
//!
//! Each CPU of a VM has a word that says whether it is in the guest, on which of the host's CPUs, and what others *request* of it. It enters only
//! while nothing is requested. Whoever has something for it first puts that where it looks, then sets a request, and, if it is in the guest,
//! interrupts the host's CPU. So either it finds the request on its way into the guest, and looks around again, or it is interrupted there:
//!
//! ```text
//! CPU     take requests ─► look around ─► enter (fails if there is a request) ─► (in the guest) ─► leave ─► take requests …
//! others  put something there ─► request ─► interrupt, if it was in the guest
//! ```
//!
//! An interrupt that comes too late leaves the next guest of that CPU of the host's, which does no harm. Every change of the word is one
//! locked instruction, so that all CPUs see them in one order; whoever finds a 0 there changes nothing. None takes a lock of the VM.

use crate::flush::{CpuSet, Kick, MAX_CPUS};
use alloc::sync::Arc;
use core::sync::atomic::{AtomicU32, Ordering};
use spin::Once;

/// It is to look around.
const LOOK: u32 = 1 << 0;
/// It is to ask for its root too.
const ROOT: u32 = 1 << 1;
/// It is in the guest, or about to enter; the number of the host's CPU is in bits 31:8.
const INSIDE: u32 = 1 << 7;
const HOST_SHIFT: u32 = 8;

/// What others request of a virtual CPU.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requests(u32);

impl Requests {
    /// Whether it has to ask for its root ([`Mmu::root`](crate::mmu::Mmu::root)) before it enters.
    #[must_use]
    pub const fn root(self) -> bool {
        self.0 & ROOT != 0
    }
}

/// Where a virtual CPU is, and what is requested of it. It has a cache line for itself.
#[derive(Default)]
#[repr(align(64))]
pub struct Presence(AtomicU32);

impl Presence {
    /// The word of a CPU that is in the guest on CPU `host` of the host's.
    #[must_use]
    pub const fn inside(host: usize) -> u32 {
        INSIDE | (host as u32) << HOST_SHIFT
    }

    /// The CPU takes what is requested of it, and looks around after that.
    #[inline]
    pub fn take(&self) -> Option<Requests> {
        if self.0.load(Ordering::Acquire) == 0 {
            return None;
        }
        Some(Requests(self.0.swap(0, Ordering::SeqCst)))
    }

    /// Whether something is requested of the CPU.
    #[must_use]
    pub fn is_requested(&self) -> bool {
        self.0.load(Ordering::SeqCst) & (LOOK | ROOT) != 0
    }

    /// The CPU is in the guest from now on, as [`inside`](Self::inside) has it. False: something is requested of it, and it must not enter.
    #[inline]
    #[must_use]
    pub fn enter(&self, inside: u32) -> bool {
        self.0
            .compare_exchange(0, inside, Ordering::SeqCst, Ordering::Relaxed)
            .is_ok()
    }

    /// The CPU has left the guest.
    #[inline]
    pub fn leave(&self) {
        self.0.fetch_and(LOOK | ROOT, Ordering::SeqCst);
    }
}

/// All CPUs of a VM.
#[derive(Default)]
pub struct Kicks {
    cpus: [Arc<Presence>; MAX_CPUS],
    interrupt: Once<fn(usize)>,
}

/// How often a CPU that was interrupted is looked at before it is interrupted once more. QEMU before 8.1 changes the word of a CPU's pending interrupts
/// at VMRUN and #VMEXIT without its lock, and loses one now and then.
pub const PATIENCE: u32 = 1 << 16;

impl Kicks {
    /// From now on CPUs may be in the guest while others do something. `interrupt` makes a CPU of the host's, by its number, leave the guest that it
    /// runs.
    pub fn interrupt_by(&self, interrupt: fn(usize)) {
        self.interrupt.call_once(|| interrupt);
    }

    fn interrupt(&self, word: u32) {
        if let Some(interrupt) = self.interrupt.get() {
            interrupt((word >> HOST_SHIFT) as usize);
        }
    }

    /// CPU `cpu` itself.
    #[must_use]
    pub fn presence(&self, cpu: usize) -> Arc<Presence> {
        self.cpus[cpu % MAX_CPUS].clone()
    }

    fn word(&self, cpu: usize) -> &AtomicU32 {
        &self.cpus[cpu % MAX_CPUS].0
    }

    /// CPU `cpu` is to look around. Whether it was in the guest, or [waited](crate::vcpu::Vcpu::wait) there.
    pub fn look(&self, cpu: usize) -> bool {
        self.request(cpu, LOOK)
    }

    /// Makes a request. Whether the CPU was in the guest.
    fn request(&self, cpu: usize, what: u32) -> bool {
        let before = self.word(cpu).fetch_or(what, Ordering::SeqCst);
        let inside = before & INSIDE != 0;
        if inside {
            self.interrupt(before);
        }
        inside
    }

    /// Returns when CPU `cpu`, which has been interrupted, is not in the guest as it was then.
    fn await_leave(&self, cpu: usize) {
        let mut looks = 0;
        loop {
            let word = self.word(cpu).load(Ordering::SeqCst);
            // It cannot enter again while there is a request.
            if word & INSIDE == 0 || word & ROOT == 0 {
                return;
            }
            looks = u32::wrapping_add(looks, 1);
            if looks.is_multiple_of(PATIENCE) {
                self.interrupt(word);
            }
            core::hint::spin_loop();
        }
    }
}

impl Kick for Kicks {
    fn kick(&self, cpus: CpuSet) {
        let all = || (0..MAX_CPUS).filter(|cpu| cpus >> cpu & 1 != 0);
        let inside = all().filter(|&cpu| self.request(cpu, ROOT));
        let inside = inside.fold(0, |set: CpuSet, cpu| set | 1 << cpu);
        all()
            .filter(|cpu| inside >> cpu & 1 != 0)
            .for_each(|cpu| self.await_leave(cpu));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::collections::HashSet;

    /// What could be done wrong.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Mistake {
        None,
        /// The request comes before what it is for.
        RequestFirst,
        /// Requests do not keep the CPU from entering.
        EntersAnyway,
        /// It takes requests after it has looked around.
        TakesLate,
        /// It enters without asking for its root.
        RootForgotten,
        /// It is not interrupted.
        NoInterrupt,
        /// Nobody waits until it has left.
        NoWait,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    enum Owner {
        Take,
        Look,
        Ask,
        Enter,
        Inside,
        Leave,
    }

    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    enum Sender {
        Begin,
        Middle,
        Done,
    }

    /// Somebody who gives something up, with the lock of the MMU from the change on.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    enum Changer {
        Begin,
        Changed,
        Waits,
        Freed,
    }

    #[derive(Clone, PartialEq, Eq, Hash, Debug)]
    struct World {
        word: u32,
        /// An interrupt waits at the host's CPU.
        interrupt: bool,
        message: bool,
        owner: Owner,
        must_ask: bool,
        /// It knows of the change.
        knows: bool,
        sender: Sender,
        changer: Changer,
    }

    std::thread_local! {
        static INTERRUPTED: Cell<bool> = const { Cell::new(false) };
    }

    impl World {
        /// Does something with the word.
        fn with<R>(&mut self, f: impl FnOnce(&Kicks, &Presence) -> R) -> R {
            let kicks = Kicks::default();
            kicks.interrupt_by(|host| {
                assert_eq!(host, 3);
                INTERRUPTED.set(true);
            });
            kicks.word(1).store(self.word, Ordering::Relaxed);
            let result = f(&kicks, &kicks.cpus[1]);
            self.word = kicks.word(1).load(Ordering::Relaxed);
            self.interrupt |= INTERRUPTED.take();
            result
        }

        fn owner(&self, mistake: Mistake) -> Option<World> {
            let mut w = self.clone();
            w.owner = match self.owner {
                Owner::Take => {
                    let taken = w.with(|_, cpu| cpu.take());
                    if taken.is_some_and(Requests::root) && mistake != Mistake::RootForgotten {
                        w.must_ask = true;
                    }
                    match mistake {
                        Mistake::TakesLate if w.must_ask => Owner::Ask,
                        Mistake::TakesLate => Owner::Enter,
                        _ => Owner::Look,
                    }
                }
                Owner::Look => {
                    w.message = false;
                    match w.must_ask {
                        _ if mistake == Mistake::TakesLate => Owner::Take,
                        true => Owner::Ask,
                        false => Owner::Enter,
                    }
                }
                Owner::Ask => {
                    if matches!(self.changer, Changer::Changed | Changer::Waits) {
                        return None;
                    }
                    w.knows = self.changer == Changer::Freed;
                    w.must_ask = false;
                    Owner::Enter
                }
                Owner::Enter => match w.with(|_, cpu| cpu.enter(Presence::inside(3))) {
                    true => Owner::Inside,
                    false if mistake == Mistake::EntersAnyway => {
                        w.word |= Presence::inside(3);
                        Owner::Inside
                    }
                    false if mistake == Mistake::TakesLate => Owner::Look,
                    false => Owner::Take,
                },
                // Whatever happens outside comes to an end: it need not leave of its own accord.
                Owner::Inside if self.interrupt => {
                    w.interrupt = false;
                    Owner::Leave
                }
                Owner::Inside => return None,
                Owner::Leave => {
                    w.with(|_, cpu| cpu.leave());
                    match mistake {
                        Mistake::TakesLate => Owner::Look,
                        _ => Owner::Take,
                    }
                }
            };
            Some(w)
        }

        fn sender(&self, mistake: Mistake) -> Option<World> {
            let mut w = self.clone();
            let first = matches!(self.sender, Sender::Begin);
            w.sender = match self.sender {
                Sender::Begin => Sender::Middle,
                Sender::Middle => Sender::Done,
                Sender::Done => return None,
            };
            if first == (mistake != Mistake::RequestFirst) {
                w.message = true;
            } else {
                w.with(|kicks, _| kicks.look(1));
            }
            Some(w)
        }

        fn changer(&self, mistake: Mistake) -> Option<World> {
            let mut w = self.clone();
            w.changer = match self.changer {
                Changer::Begin => Changer::Changed,
                Changer::Changed => match w.with(|kicks, _| kicks.request(1, ROOT)) {
                    true if mistake != Mistake::NoWait => Changer::Waits,
                    _ => Changer::Freed,
                },
                Changer::Waits if w.word & INSIDE == 0 || w.word & ROOT == 0 => Changer::Freed,
                Changer::Waits | Changer::Freed => return None,
            };
            Some(w)
        }

        /// Nothing is used that was given up, and no message lies there unread for ever.
        fn is_sound(&self) -> bool {
            let inside = self.owner == Owner::Inside;
            let unread = self.sender == Sender::Done && self.message;
            let stale = self.changer == Changer::Freed && !self.knows;
            !(inside && (stale || unread && !self.interrupt))
        }
    }

    /// Walks through all that can happen. Returns how many states there are, or None: one of them is wrong.
    fn walk(mistake: Mistake) -> Option<usize> {
        let start = World {
            word: 0,
            interrupt: false,
            message: false,
            owner: Owner::Take,
            must_ask: false,
            knows: false,
            sender: Sender::Begin,
            changer: Changer::Begin,
        };
        let mut seen = HashSet::from([start.clone()]);
        let mut open = vec![start];
        while let Some(world) = open.pop() {
            let next = [
                world.owner(mistake),
                world.sender(mistake),
                world.changer(mistake),
            ];
            for mut next in next.into_iter().flatten() {
                next.interrupt &= mistake != Mistake::NoInterrupt;
                if !next.is_sound() {
                    return None;
                }
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        Some(seen.len())
    }

    #[test]
    fn in_no_interleaving_is_a_message_missed_or_anything_used_that_was_given_up() {
        let states = walk(Mistake::None);
        assert!(states.is_some_and(|n| n > 100), "{states:?}");
    }

    #[test]
    fn every_mistake_shows_in_some_interleaving() {
        for mistake in [
            Mistake::RequestFirst,
            Mistake::EntersAnyway,
            Mistake::TakesLate,
            Mistake::RootForgotten,
            Mistake::NoInterrupt,
            Mistake::NoWait,
        ] {
            assert_eq!(walk(mistake), None, "{mistake:?}");
        }
    }

    #[test]
    fn whoever_is_kicked_is_out_and_asks_again() {
        let kicks = Kicks::default();
        kicks.interrupt_by(|_| INTERRUPTED.set(true));
        let (cpu, other) = (kicks.presence(31), kicks.presence(0));
        let inside = Presence::inside(0);
        assert!(cpu.enter(inside));
        cpu.leave();
        assert!(cpu.enter(inside));
        kicks.look(31);
        assert!(INTERRUPTED.take());
        cpu.leave();
        assert!(!cpu.enter(inside));
        kicks.kick(1 << 31 | 1);
        assert!(!INTERRUPTED.take(), "nobody is in the guest");
        assert!(cpu.take().is_some_and(Requests::root));
        assert_eq!(cpu.take(), None);
        assert!(cpu.enter(inside));
        assert!(!other.enter(inside));
    }
}
