//! A trace of a virtual CPU's exits: one [`Traced`] each, in a ring of bounded memory, until somebody takes them.
//!
//! A [`Tracer`] is one virtual CPU's. It numbers all exits while it is there, keeps those that its [`Filter`] lets through, and counts those that found no room.
//! Nothing is lost silently: where the ring's owner [takes](Tracer::take) events, the tracer [asks](Tracer::is_filling) for that before the ring is full; where
//! nobody does, the newest take the place of the oldest, and each event has its number.
//!
//! What an event tells is a [`Seen`], the values that the run loop has decided by. How events travel is in [`chunk`], how people and
//! programs read them in [`Traced::line`] and [`Traced::json`].

pub mod chunk;
mod fields;
mod filter;
#[cfg(test)]
mod tests;

pub use fields::Value;
pub use filter::{Filter, Wrong};

use crate::debug::Seen;
use crate::event::Event;
use crate::exit::{ExitReason, VmExit};
use crate::time::VmTime;
use alloc::boxed::Box;
use alloc::vec::Vec;

/// Events that a ring holds.
pub const RING: usize = 2048;
/// So many wait before the ring's owner is asked to take them. The rest is for what comes before it does.
const FILLING: usize = RING / 4 * 3;

/// Bytes of memory that the ring of one virtual CPU takes.
pub const BYTES: usize = RING * size_of::<Traced>();

/// An exit in a trace.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Traced {
    /// Its number among the exits of its CPU since the trace was begun, from 0. Those that a filter has kept out have numbers too.
    pub number: u64,
    /// What was seen.
    pub seen: Seen,
}

/// What becomes of an event that finds the ring full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Full {
    /// It takes the oldest one's place.
    Overwrite,
    /// It is lost, and counted. The ring is emptied before that happens.
    Lose,
}

/// How many exits there were.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// All since the trace was begun.
    pub exits: u64,
    /// Those that the filter has let through.
    pub kept: u64,
    /// Of these, those that found no room or have been overwritten.
    pub lost: u64,
}

/// An event of which nothing has been told.
const BLANK: Traced = Traced {
    number: 0,
    seen: Seen {
        exit: VmExit {
            reason: ExitReason::Cpuid,
            next_rip: None,
            vectoring: None,
            untaken: None,
        },
        at: VmTime(0),
        pc: 0,
        cpl: 0,
        cr3: 0,
        rax: 0,
        rcx: 0,
        rdx: 0,
        operand: 0,
        came: Came {
            pc: 0,
            rax: 0,
            rdx: 0,
            cr3: 0,
            event: None,
            at: VmTime(0),
        },
    },
};

/// The trace of one virtual CPU.
#[derive(Debug)]
pub struct Tracer {
    filter: Filter,
    full: Full,
    ring: Box<[Traced; RING]>,
    /// Where the next event goes, and how many there are before it. [`RING`] is a power of two.
    next: usize,
    len: usize,
    totals: Totals,
    /// So many of the newest events are kept only if what the trace is around comes soon.
    waiting: usize,
    /// So many further ones are kept because it has come.
    behind: u64,
    /// More may come of the newest event.
    open: bool,
    /// The last chunk has been taken.
    ended: bool,
}

const _: () = assert!(RING.is_power_of_two());

/// The place that is `n` places on from the ring's first.
const fn wrap(n: usize) -> usize {
    n & (RING - 1)
}

impl Tracer {
    /// An empty trace. None: there is no memory for the ring.
    #[must_use]
    pub fn new(filter: Filter, full: Full) -> Option<Self> {
        let mut ring = Vec::new();
        ring.try_reserve_exact(RING).ok()?;
        ring.resize(RING, BLANK);
        Some(Self {
            filter,
            full,
            ring: ring.into_boxed_slice().try_into().ok()?,
            next: 0,
            len: 0,
            totals: Totals::default(),
            waiting: 0,
            behind: 0,
            open: false,
            ended: false,
        })
    }

    /// The guest has been left by CPU `cpu`: there is this to be seen.
    #[inline(always)]
    pub fn begin(&mut self, cpu: u8, see: impl FnOnce() -> Seen) {
        let number = self.totals.exits;
        self.totals.exits = number.wrapping_add(1);
        (self.open, self.ended) = (false, false);
        if self.filter.is_all() && self.len < RING {
            self.put(number, see());
        } else {
            self.begin_slowly(cpu, number, &see());
        }
    }

    #[inline(always)]
    fn put(&mut self, number: u64, seen: Seen) {
        let place = &mut self.ring[wrap(self.next)];
        (place.number, place.seen) = (number, seen);
        self.next = wrap(self.next.wrapping_add(1));
        self.len = self.len.wrapping_add(1);
        self.totals.kept = self.totals.kept.wrapping_add(1);
        self.open = true;
    }

    #[inline(never)]
    fn begin_slowly(&mut self, cpu: u8, number: u64, seen: &Seen) {
        if !self.filter.takes(cpu, seen) || self.totals.kept >= self.filter.first {
            return;
        }
        let waits = match self.filter.around {
            Some((reasons, count)) => self.waits(reasons, count, seen),
            None => false,
        };
        if self.len >= RING {
            self.totals.lost += 1;
            if self.full == Full::Lose {
                self.totals.kept += 1;
                return;
            }
            self.len -= 1;
        }
        self.put(number, *seen);
        if waits {
            self.totals.kept -= 1;
            self.waiting += 1;
        }
    }

    /// Whether `seen`, in a trace around exits of these reasons, has to wait for one.
    fn waits(&mut self, reasons: u32, count: u64, seen: &Seen) -> bool {
        if reasons >> seen.exit.reason.index() & 1 != 0 {
            self.trim(count as usize);
            self.totals.kept += self.waiting as u64;
            self.waiting = 0;
            self.behind = count;
            return false;
        }
        if self.behind != 0 {
            self.behind -= 1;
            return false;
        }
        if self.waiting == self.len || self.len >= RING {
            // Those that have waited in vain, and the place of this one.
            self.trim(count as usize - 1);
        }
        true
    }

    /// Only the newest `count` go on waiting.
    fn trim(&mut self, count: usize) {
        let extra = self.waiting.saturating_sub(count);
        if extra == 0 {
            return;
        }
        if self.waiting != self.len {
            // Others are before them.
            for n in (1..=count).rev() {
                let from = wrap(self.next.wrapping_sub(n));
                self.ring[wrap(from.wrapping_sub(extra))] = self.ring[from];
            }
            self.next = wrap(self.next.wrapping_sub(extra));
        }
        self.waiting -= extra;
        self.len -= extra;
    }

    /// Where the oldest event is.
    fn oldest(&self) -> usize {
        wrap(self.next.wrapping_sub(self.len))
    }

    /// What has come of the newest event so far.
    #[inline]
    pub fn tell(&mut self, came: &Came) {
        if self.open {
            self.ring[wrap(self.next.wrapping_sub(1))].seen.came = *came;
        }
    }

    /// Whether more may come of the newest event.
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Nothing more comes of the newest event.
    #[inline]
    pub fn close(&mut self) {
        self.open = false;
    }

    /// Whether the events should be [taken](Self::take) soon.
    #[inline]
    #[must_use]
    pub fn is_filling(&self) -> bool {
        self.len >= FILLING && self.full == Full::Lose
    }

    /// What becomes of events that find the ring full.
    #[must_use]
    pub fn when_full(&self) -> Full {
        self.full
    }

    /// How many exits there were.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// The events in the ring, from the oldest on.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Traced> + ExactSizeIterator {
        let oldest = self.oldest();
        (0..self.len).map(move |n| &self.ring[wrap(oldest + n)])
    }

    /// Takes the oldest events, in a [chunk] for CPU `cpu` that is written into `buffer`. None: there are none. The newest stays as long as more may
    /// come of it, unless this is the end (`last`): then all are taken, with the final totals in the last chunk.
    pub fn take<'b>(&mut self, cpu: u8, last: bool, buffer: &'b mut [u8]) -> Option<&'b [u8]> {
        if let Some((_, count)) = self.filter.around {
            self.trim(count as usize);
        }
        let kept = self.waiting.max(usize::from(self.open && !last));
        if self.len <= kept && (self.ended || !last) {
            return None;
        }
        let head = chunk::Head {
            cpu,
            last: false,
            totals: self.totals,
        };
        let mut writer = chunk::Writer::begin(&head, buffer);
        while self.len > kept && writer.add(&self.ring[self.oldest()]) {
            self.len -= 1;
        }
        if last && self.len <= kept {
            writer.mark_last();
            self.ended = true;
        }
        Some(writer.end())
    }
}

/// What came of an exit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Came {
    /// The linear address of the guest's next instruction.
    pub pc: u64,
    /// RAX and RDX.
    pub rax: u64,
    /// See [`rax`](Self::rax).
    pub rdx: u64,
    /// CR3.
    pub cr3: u64,
    /// The event that the guest gets with the next entry.
    pub event: Option<Event>,
    /// When.
    pub at: VmTime,
}
