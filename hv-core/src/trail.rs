//! A translation step by step: each entry that a walk has read, and how the walk has ended.
//!
//! A trail is written down by the walk itself ([`Mmu::trail`](crate::mmu::Mmu::trail)), so that it tells what that has decided by.

use core::fmt;

/// Levels of any tables at most.
const LEVELS: usize = 5;

/// Whose tables these are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tables {
    /// The guest's own. Places are guest-physical.
    Guest,
    /// Umbra's, below the guest's. Places are host-physical.
    Nested,
    /// Umbra's, in place of the guest's. Places are host-physical.
    Shadow,
}

/// An entry that a walk has read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// 5 to 1; 1 is a page table.
    pub level: u32,
    /// Its physical address.
    pub place: u64,
    /// The entry as it was read.
    pub entry: u64,
}

/// How a walk has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// At this physical address.
    Mapped {
        /// The address.
        to: u64,
        /// All entries together allow writes.
        writable: bool,
        /// And accesses of user mode.
        user: bool,
        /// And no fetches of instructions.
        no_execute: bool,
    },
    /// The last entry is not present.
    NotPresent,
    /// The last entry has a reserved bit set.
    Reserved,
    /// The entries together do not allow the access.
    Rights,
    /// There is no memory where the next entry would be.
    NotRam,
    /// There are no tables.
    NoTables,
}

impl End {
    /// A word for programs.
    const fn word(self) -> &'static str {
        match self {
            End::Mapped { .. } => "mapped",
            End::NotPresent => "not-present",
            End::Reserved => "reserved",
            End::Rights => "rights",
            End::NotRam => "not-ram",
            End::NoTables => "no-tables",
        }
    }
}

/// A translation step by step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trail {
    /// Whose tables.
    pub tables: Tables,
    /// The address that was translated: linear, or guest-physical in nested tables.
    pub from: u64,
    steps: [Step; LEVELS],
    len: usize,
    /// How it has ended.
    pub end: End,
}

impl Trail {
    /// One without steps.
    #[must_use]
    pub fn new(tables: Tables, from: u64) -> Self {
        Self {
            tables,
            from,
            steps: [Step::default(); LEVELS],
            len: 0,
            end: End::NoTables,
        }
    }

    /// An entry has been read. One of the same level as the last has been read again, and takes its place.
    pub fn read(&mut self, step: Step) {
        let again = self.steps().last().is_some_and(|s| s.level == step.level);
        let at = self.len.saturating_sub(usize::from(again));
        if let Some(place) = self.steps.get_mut(at) {
            *place = step;
            self.len = at + 1;
        }
    }

    /// The entries, from the top.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        self.steps.get(..self.len).unwrap_or_default()
    }

    /// As a JSON object.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let tables = match self.tables {
            Tables::Guest => "guest",
            Tables::Nested => "nested",
            Tables::Shadow => "shadow",
        };
        write!(
            out,
            "{{\"tables\": \"{tables}\", \"from\": \"{:#x}\", \"steps\": [",
            self.from
        )?;
        for (n, step) in self.steps().iter().enumerate() {
            let Step {
                level,
                place,
                entry,
            } = step;
            let comma = if n == 0 { "" } else { ", " };
            write!(
                out,
                "{comma}{{\"level\": {level}, \"place\": \"{place:#x}\", \"entry\": \"{entry:#x}\"}}"
            )?;
        }
        write!(out, "], \"end\": \"{}\"", self.end.word())?;
        if let End::Mapped { to, .. } = self.end {
            write!(out, ", \"to\": \"{to:#x}\"")?;
        }
        out.write_str("}")
    }
}

/// The flags of an entry by the manual's names.
const FLAGS: [(u64, &str); 8] = [
    (1 << 0, "P"),
    (1 << 1, "R/W"),
    (1 << 2, "U/S"),
    (1 << 5, "A"),
    (1 << 6, "D"),
    (1 << 7, "PS"),
    (1 << 8, "G"),
    (1 << 63, "XD"),
];

impl fmt::Display for Trail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tables, from, .. } = self;
        let name = match tables {
            Tables::Guest => "the guest's tables",
            Tables::Nested => "Umbra's nested tables",
            Tables::Shadow => "Umbra's shadow tables",
        };
        writeln!(f, "{name}, on the way to {from:#x}:")?;
        for Step {
            level,
            place,
            entry,
        } in self.steps()
        {
            write!(f, "  level {level}: {place:#x} has {entry:#x}")?;
            // Nested tables have another format on VT-x.
            let names = FLAGS.iter().filter(|_| *tables != Tables::Nested);
            for (_, name) in names.filter(|(bit, _)| entry & bit != 0) {
                write!(f, " {name}")?;
            }
            writeln!(f)?;
        }
        match self.end {
            End::Mapped {
                to,
                writable,
                user,
                no_execute,
            } => {
                let whose = match tables {
                    Tables::Guest => "physical",
                    Tables::Nested | Tables::Shadow => "the host's",
                };
                write!(f, "  {from:#x} is {whose} {to:#x}")?;
                f.write_str(if writable {
                    ", writable"
                } else {
                    ", read-only"
                })?;
                if *tables != Tables::Nested {
                    f.write_str(if user { ", user" } else { "" })?;
                    f.write_str(if no_execute { ", not executable" } else { "" })?;
                }
                writeln!(f)
            }
            End::NotPresent => writeln!(
                f,
                "  {}",
                match tables {
                    Tables::Guest => "the last entry is not present: a page fault",
                    Tables::Nested => "nothing is mapped: the guest is left for the bus",
                    Tables::Shadow => "no entry: the guest's tables decide",
                }
            ),
            End::Reserved => writeln!(f, "  the last entry has a reserved bit set: a page fault"),
            End::Rights => writeln!(
                f,
                "  the entries together do not allow the access: a page fault"
            ),
            End::NotRam => writeln!(f, "  the next entry would not be in RAM: a page fault"),
            End::NoTables => writeln!(f, "  there are none"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_that_is_read_again_takes_its_own_place_and_no_guest_makes_it_longer() {
        let mut trail = Trail::new(Tables::Guest, 0x1000);
        for level in (0..9).rev() {
            for entry in [0, 0x23] {
                trail.read(Step {
                    level,
                    place: u64::from(level) << 12,
                    entry,
                });
            }
        }
        assert_eq!(trail.steps().len(), LEVELS);
        assert!(trail.steps()[..4].iter().all(|step| step.entry == 0x23));
        let text = alloc::format!("{trail}");
        assert!(
            text.contains("level 8: 0x8000 has 0x23 P R/W A\n"),
            "{text}"
        );
    }
}
