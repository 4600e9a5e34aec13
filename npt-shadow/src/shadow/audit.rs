//! The invariants, to be checked at any moment: for tests.

use super::role::Target;
use super::*;
use alloc::format;
use alloc::string::String;

/// An invariant that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation(pub String);

macro_rules! require {
    ($condition:expr, $($what:tt)*) => {
        if !$condition {
            return Err(Violation(format!($($what)*)));
        }
    };
}

impl<F: Frames> ShadowMmu<F> {
    /// Checks everything that must hold between two calls. Takes time for every entry of every shadow page.
    ///
    /// # Errors
    /// The first invariant found not to hold.
    pub fn audit(&self) -> Result<(), Violation> {
        for cpu in 0..self.cpus.len() {
            self.audit_cpu(cpu)?;
        }
        let mut in_use = 0;
        for id in self.pool.ids() {
            let page = self.pool.page(id);
            let Some(key) = page.key else {
                if !self.pool.is_root(id) {
                    require!(page.present == 0, "page {id} is free and has entries");
                    continue;
                }
                for index in 0..4 {
                    self.audit_entry(id, index, None)?;
                }
                continue;
            };
            in_use += 1;
            require!(
                self.pool.find(&key).is_some(),
                "page {id} cannot be found by its key"
            );
            require!(
                self.algorithm == Algorithm::Vtlb || self.pool.find(&key) == Some(id),
                "page {id} is not the only one with its key"
            );
            require!(
                page.unsync == self.unsync.contains(&id),
                "page {id}: out of sync is {}, the list says otherwise",
                page.unsync
            );
            require!(
                !page.unsync || !key.role.direct,
                "direct page {id} is out of sync"
            );
            let mut present = 0;
            for index in 0..512 {
                present += u16::from(self.entry(id, index) & P != 0);
                self.audit_entry(id, index, Some(&key))?;
            }
            require!(
                present == page.present,
                "page {id} has {present} entries and counts {}",
                page.present
            );
            if self.algorithm != Algorithm::Vtlb && !key.role.direct {
                require!(
                    self.is_table(key.gfn) || key.gfn >= self.tables.len() as u64,
                    "page {id} shadows a table that is not counted"
                );
            }
        }
        require!(
            in_use == self.pool.in_use() && in_use <= self.pool.capacity(),
            "{in_use} pages are in use, {} counted, of {}",
            self.pool.in_use(),
            self.pool.capacity()
        );
        require!(
            self.unsync.len() <= self.limits.unsync,
            "{} tables are out of sync",
            self.unsync.len()
        );
        for (gfn, &count) in self.tables.iter().enumerate() {
            let shadows = match self.algorithm {
                Algorithm::Vtlb => 0,
                _ if count == 0 => 0,
                _ => self.shadows(gfn as u64).count(),
            };
            require!(
                shadows == usize::from(count),
                "frame {gfn:x} has {shadows} shadows and counts {count}"
            );
            let mut slot = self.lists.first(Owner::Frame(gfn as u32));
            while let Some(s) = slot {
                let entry = self.entry(s / 512, s as usize % 512);
                require!(
                    entry & (P | RW) == P | RW
                        && self.map.get(gfn as u64).map(|p| p.hpa.0) == Some(entry & ADDRESS),
                    "frame {gfn:x} lists entry {entry:x}"
                );
                slot = self.lists.next(s);
            }
        }
        Ok(())
    }

    /// A CPU is on a root that is in use and is the one that its registers ask for; other CPUs' PAE roots are none of its business, and a
    /// virtual TLB is its own.
    fn audit_cpu(&self, n: usize) -> Result<(), Violation> {
        let cpu = &self.cpus[n];
        let Some(root) = cpu.root else {
            return Ok(());
        };
        if !cpu.reading.long {
            require!(root == pae_root(n), "CPU {n} is on root {root}");
            for index in 0..4 {
                let below = self.child(root, index);
                let role = below.and_then(|id| self.pool.page(id).key).map(|k| k.role);
                require!(
                    role.is_none_or(|role| role.level == 2 && role.reading == cpu.reading),
                    "CPU {n} reads its tables otherwise than {role:?}"
                );
            }
            return Ok(());
        }
        let key = self.pool.page(root).key;
        require!(
            key == Some(self.long_root(n)),
            "CPU {n} is on root {root}, which shadows {key:x?}"
        );
        let on_it = self.cpus.iter().filter(|cpu| cpu.root == Some(root));
        require!(
            self.algorithm != Algorithm::Vtlb || on_it.count() == 1,
            "CPU {n} shares a virtual TLB"
        );
        Ok(())
    }

    fn audit_entry(&self, id: PageId, index: usize, key: Option<&Key>) -> Result<(), Violation> {
        let entry = self.entry(id, index);
        if entry & P == 0 {
            require!(
                entry == 0,
                "entry {index} of page {id} is {entry:x}: not present must be 0"
            );
            return Ok(());
        }
        let at = || format!("entry {index:x} of page {id} ({key:x?}) is {entry:x}");
        if let Some(child) = self.child(id, index) {
            let below = self.pool.page(child).key;
            require!(below.is_some(), "{}: points to a free page", at());
            let flags = self.table_flags(id);
            // What QEMU's walker sets in a PAE root is taken out at the next entry.
            let set = if self.pool.is_root(id) { A } else { 0 };
            require!(entry & !(ADDRESS | set) == flags, "{}: odd flags", at());
            let mut slot = self.lists.first(Owner::Page(child));
            while slot.is_some_and(|s| s != Self::slot(id, index)) {
                slot = slot.and_then(|s| self.lists.next(s));
            }
            require!(slot.is_some(), "{}: is not among its child's parents", at());
        }
        let Some(key) = key else {
            return Ok(());
        };
        if self.child(id, index).is_none() {
            require!(
                entry & A != 0 && entry & (D | TRACKED) != 0,
                "{}: the hardware would set its flags",
                at()
            );
            let large = if key.role.level > 1 { PS } else { 0 };
            require!(entry & PS == large, "{}: odd size", at());
        }
        // What may be out of date cannot be compared with the guest's tables.
        if self.algorithm == Algorithm::Vtlb || self.pool.page(id).unsync {
            return Ok(());
        }
        let target = if key.role.direct {
            key.direct(index)
        } else {
            let size = key.entry_size();
            let gpa = Gpa((key.gfn << 12) + key.guest_index(index) as u64 * size);
            match self.memory.inner().read_value(gpa, size as usize) {
                Ok(guest) => key.target(index, guest, self.physical_bits),
                Err(_) => Target::Nothing,
            }
        };
        match target {
            Target::Nothing => require!(false, "{}: the guest has nothing there", at()),
            Target::Table(table) => {
                let child = self.child(id, index);
                require!(
                    child.and_then(|id| self.pool.page(id).key) == Some(table),
                    "{}: the guest has a table {table:x?}",
                    at()
                );
            }
            Target::Page(leaf) => {
                if self.child(id, index).is_some() {
                    return Ok(());
                }
                let place = self.map.get(leaf.gfn);
                require!(
                    place.is_some_and(|p| p.hpa.0 == entry & ADDRESS),
                    "{}: the map has {place:x?}",
                    at()
                );
                let lifted = !key.role.reading.wp && entry & (RW | US) == RW;
                if entry & RW != 0 && !lifted {
                    require!(
                        leaf.rights.rw && leaf.dirty,
                        "{}: the guest has {leaf:x?}",
                        at()
                    );
                }
                if entry & RW != 0 {
                    require!(
                        !self.is_protected(leaf.gfn) && place.is_some_and(|p| p.writable),
                        "{}: the frame must not be written",
                        at()
                    );
                }
                require!(
                    leaf.rights.us || entry & US == 0,
                    "{}: the guest has {leaf:x?}",
                    at()
                );
                require!(
                    !leaf.rights.nx || entry & NX != 0,
                    "{}: the guest has {leaf:x?}",
                    at()
                );
            }
        }
        Ok(())
    }
}
