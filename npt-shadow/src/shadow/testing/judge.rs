//! What a CPU may make of tables that have changed since it was last told to forget them.

use super::machine::{Cached, Machine, hardware_allows};
use super::*;
use hv_core::testing::VecMemory;
use std::collections::HashMap;

/// Every value that guest entries have had, with the time since when.
#[derive(Default)]
pub(super) struct Judge {
    /// By guest-physical address of an aligned 4-byte word.
    pub(super) history: HashMap<u64, Vec<(u64, u32)>>,
    pub(super) now: u64,
}

impl Judge {
    /// Another moment.
    pub(super) fn tick(&mut self) -> u64 {
        self.now += 1;
        self.now
    }

    /// Memory at `gpa` is about to be stored to.
    pub(super) fn before_store(&mut self, memory: &VecMemory, gpa: u64, len: usize) {
        for at in (gpa & !3..gpa + len as u64).step_by(4) {
            let value = memory.read_u32(Gpa(at)).unwrap_or(0);
            self.history.entry(at).or_insert_with(|| vec![(0, value)]);
            // A walk that ended in a fault may have set an accessed flag.
            self.observe(memory, at);
        }
    }

    /// Memory at `gpa` has been stored to.
    pub(super) fn stored(&mut self, memory: &VecMemory, gpa: u64, len: usize) {
        self.now += 1;
        for at in (gpa & !3..gpa + len as u64).step_by(4) {
            let value = memory.read_u32(Gpa(at)).unwrap_or(0);
            self.history.entry(at).or_default().push((self.now, value));
        }
    }

    /// A word may have been changed by the shadow MMU, which sets flags.
    pub(super) fn observe(&mut self, memory: &VecMemory, at: u64) {
        let value = memory.read_u32(Gpa(at)).unwrap_or(0);
        if let Some(history) = self.history.get_mut(&at)
            && history.last().is_some_and(|&(_, last)| last != value)
        {
            self.now += 1;
            history.push((self.now, value));
        }
    }

    /// The values of a word since `from`, the one that it had then among them; without accessed and dirty flags' changes these are
    /// few.
    /// Each with the time since when.
    pub(super) fn words(&self, memory: &VecMemory, gpa: u64, from: u64) -> Vec<(u64, u32)> {
        let now = memory.read_u32(Gpa(gpa)).unwrap_or(0);
        let Some(history) = self.history.get(&gpa) else {
            return vec![(from, now)];
        };
        let first = history.partition_point(|&(at, _)| at <= from);
        // The value at `from` is that of the store before, or what was there at first.
        let mut values: Vec<_> = history[first.saturating_sub(1)..]
            .iter()
            .map(|&(at, value)| (at.max(from), value))
            .collect();
        values.push((self.now.max(from), now));
        values
    }
}

impl Machine {
    /// An access has reached `gpa`: some entries since the last flush must lead there.
    pub(super) fn judge_success(&self, va: u64, access: Access, gpa: u64) {
        if !self.cpu.state.cr0.contains(Cr0::PG) {
            return assert_eq!(gpa, va & 0xffff_ffff);
        }
        // What other CPUs have flushed does not matter to this one.
        let page = self.cpu.pages.get(&(va >> 12)).copied().unwrap_or(0);
        let from = self.cpu.flushed.max(page);
        let wide = self.wide();
        let long = self.cpu.state.efer.contains(Efer::LMA);
        let top = match (wide, long) {
            (true, true) => 4,
            (true, false) => 3,
            _ => 2,
        };
        let cr3 = self.cpu.state.cr3 & if top == 3 { !0x1f } else { ADDRESS };
        let start = (cr3, true, true, false);
        let judge = &self.world().judge;
        let (rights, ok) = self.leads(judge, va, access, gpa, from, top, start);
        assert!(
            ok,
            "CPU {}: {va:x} {access:?} reached {gpa:x}, which no entries since the last flush allow ({rights})",
            self.number
        );
    }

    /// Whether some values of the entries from `level` on lead to `gpa` with the rights for the access.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn leads(
        &self,
        judge: &Judge,
        va: u64,
        access: Access,
        gpa: u64,
        from: u64,
        level: u64,
        (table, rw, us, nx): (u64, bool, bool, bool),
    ) -> (u32, bool) {
        let wide = self.wide();
        let (bits, size) = if wide { (9, 8) } else { (10, 4) };
        let long = self.cpu.state.efer.contains(Efer::LMA);
        let shift = 12 + bits * (level - 1);
        let at = table + (va >> shift & ((1 << bits) - 1)) * size;
        let pdpte = level == 3 && !long;
        // These are read when CR3 is loaded, and only then (SDM vol 3A 4.4.1, "PDPTE Registers").
        let read = if pdpte { self.cpu.flushed } else { from };
        let low = judge.words(&self.memory, at, read);
        let high = if wide {
            judge.words(&self.memory, at + 4, read)
        } else {
            vec![(0, 0)]
        };
        let mut tried = 0;
        // A walk reads the upper levels first, or remembers them from before: what is below was read when they were there, or later.
        for (since, entry) in low.iter().flat_map(|&(a, l)| {
            high.iter()
                .map(move |&(b, h)| (a.max(b), u64::from(h) << 32 | u64::from(l)))
        }) {
            tried += 1;
            if entry & P == 0 || entry & A == 0 && !pdpte {
                continue;
            }
            let (rw, us, nx) = if pdpte {
                (rw, us, nx)
            } else {
                (
                    rw && entry & RW != 0,
                    us && entry & US != 0,
                    nx || wide && entry & NX != 0,
                )
            };
            let large = level > 1
                && level <= 3
                && !pdpte
                && entry & PS != 0
                && (wide || self.cpu.state.cr4.contains(Cr4::PSE));
            if level > 1 && !large {
                let next = (entry & ADDRESS & 0xff_ffff_ffff, rw, us, nx);
                let (n, ok) = self.leads(judge, va, access, gpa, since.max(from), level - 1, next);
                tried += n;
                if ok {
                    return (tried, true);
                }
                continue;
            }
            let mask = (1 << shift) - 1;
            let frame = if large && !wide {
                entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32
            } else {
                entry & ADDRESS & !mask
            };
            let user = access.user && !access.implicit;
            let cached = Cached {
                hpa: 0,
                rw: rw || !user && !self.cpu.state.cr0.contains(Cr0::WP),
                us,
                nx,
                dirty: true,
            };
            let flagged = !access.write || entry & D != 0;
            if frame | va & mask == gpa
                && flagged
                && hardware_allows(&self.cpu.state, &cached, access)
            {
                return (tried, true);
            }
        }
        (tried, false)
    }
}
