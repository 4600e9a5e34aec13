//! What a VM needs of the host's memory, which is compared with what is left before any of it is taken.

use crate::MIB;
use core::fmt;

/// What a VM needs, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Demand {
    /// The guest's RAM.
    pub ram: u64,
    /// Memory that its video card has.
    pub video: u64,
    /// Its page tables: nested ones, and as many shadow pages as no guest can do without.
    pub tables: u64,
    /// What Umbra keeps of each page of its RAM.
    pub books: u64,
    /// Its devices, and room that Umbra needs to work.
    pub devices: u64,
}

impl Demand {
    /// All of it.
    #[must_use]
    pub fn total(&self) -> u64 {
        let parts = [self.ram, self.video, self.tables, self.books, self.devices];
        parts.into_iter().fold(0, u64::saturating_add)
    }

    /// Whether VM `vm` (from 1) can have it where `left` bytes are free.
    ///
    /// # Errors
    /// What is lacking.
    pub fn check(self, vm: u8, left: u64) -> Result<(), Lack> {
        (self.total() <= left).then_some(()).ok_or(Lack {
            vm,
            demand: self,
            left,
        })
    }
}

/// A VM that does not fit. It is told as a sentence without a full stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lack {
    /// The VM's number, from 1.
    pub vm: u8,
    /// What it needs.
    pub demand: Demand,
    /// What is left of the host's memory.
    pub left: u64,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Demand { ram, .. } = self.demand;
        let total = self.demand.total();
        let (need, left) = (total.div_ceil(MIB), self.left / MIB);
        write!(
            f,
            "this machine has too little memory for VM {}: it needs {need} MiB, {} for the guest and {} for what Umbra keeps for it, and \
             {left} MiB are left, so {} MiB are lacking; give the guest less memory",
            self.vm,
            ram / MIB,
            (total - ram).div_ceil(MIB),
            need - left
        )?;
        // What must remain is 32 MiB: less is no PC.
        match (self.left / MIB).checked_sub((total - ram).div_ceil(MIB)) {
            Some(most) if most >= 32 => write!(f, " ({most}M or less) or the machine more"),
            _ => write!(f, " or the machine more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEMAND: Demand = Demand {
        ram: 16384 * MIB,
        video: 17 * MIB,
        tables: MIB / 2,
        books: 62 * MIB,
        devices: MIB,
    };

    #[test]
    fn what_fits_to_the_byte_is_admitted() {
        assert_eq!(DEMAND.check(1, DEMAND.total()), Ok(()));
        assert!(DEMAND.check(1, DEMAND.total() - 1).is_err());
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_lacks_and_what_helps() {
        assert_eq!(
            DEMAND.check(2, 12000 * MIB).unwrap_err().to_string(),
            "this machine has too little memory for VM 2: it needs 16465 MiB, 16384 for the guest and 81 for what Umbra keeps for it, and \
             12000 MiB are left, so 4465 MiB are lacking; give the guest less memory (11919M or less) or the machine more"
        );
        assert!(
            DEMAND
                .check(1, 100 * MIB)
                .unwrap_err()
                .to_string()
                .ends_with("give the guest less memory or the machine more")
        );
    }

    #[test]
    fn a_demand_beyond_all_numbers_is_refused() {
        let demand = Demand {
            ram: u64::MAX,
            ..DEMAND
        };
        assert!(demand.check(1, u64::MAX - 1).is_err());
    }
}
