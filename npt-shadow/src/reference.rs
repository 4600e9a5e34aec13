//! What the manual says of a walk, written a second time and in another way: the oracle for [`crate::walk`] and for the shadow MMU.
//!
//! Nothing here is shared with either. The modes are tables of constants (SDM vol 3A figures 4-4 to 4-12 and tables 4-3 to 4-20), the
//! rights are the list of 4.6.1, "Determination of Access Rights", and memory is only read: what a walk would write is in the answer.

use alloc::string::String;
use alloc::vec::Vec;
use hv_core::mmu::{Access, PagingState, PfError};
use hv_core::regs::{Cr0, Cr4, Efer};
use hv_core::trail::{self, End, Trail};

/// One entry that a walk read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// 5 to 1; 1 is a page table.
    pub level: u32,
    /// Its guest-physical address.
    pub place: u64,
    /// The entry, with the flags that the walk sets.
    pub entry: u64,
    /// The flags among them that were clear.
    pub set: u64,
}

/// What comes of an access.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The entries on the way, from the top; in a fault, those that were good.
    pub steps: Vec<Step>,
    /// The guest-physical address, or the error code of the page fault.
    pub result: Result<u64, PfError>,
}

impl Outcome {
    /// `found` tells the same, entry by entry, and ends for the same reason.
    pub(crate) fn assert_told(&self, found: &Trail, case: &dyn Fn() -> String) {
        let told = found.steps();
        for (n, step) in self.steps.iter().enumerate() {
            let as_read = trail::Step {
                level: step.level,
                place: step.place,
                entry: step.entry & !step.set,
            };
            assert_eq!(told.get(n), Some(&as_read), "step {n}: {}", case());
        }
        // In a fault there is the entry that is to blame, unless there is no memory.
        let more = told.len() - self.steps.len();
        let blamed = told.last().map_or(0, |step| step.entry);
        match (found.end, self.result) {
            (End::Mapped { to, .. }, Ok(gpa)) => assert_eq!((to, more), (gpa, 0), "{}", case()),
            (End::NotPresent, Err(error)) => {
                assert!(!error.contains(PfError::P), "{}", case());
                assert_eq!((more, blamed & 1), (1, 0), "{}", case());
            }
            (End::Reserved, Err(error)) => {
                assert!(error.contains(PfError::P | PfError::RSVD), "{}", case());
                assert_eq!((more, blamed & 1), (1, 1), "{}", case());
            }
            (End::NotRam, Err(error)) => {
                assert!(error.contains(PfError::P | PfError::RSVD), "{}", case());
                assert_eq!(more, 0, "{}", case());
            }
            (End::Rights, Err(error)) => {
                assert!(error.contains(PfError::P), "{}", case());
                assert!(!error.contains(PfError::RSVD), "{}", case());
                assert_eq!((more, blamed & 1), (1, 1), "{}", case());
            }
            (end, result) => panic!("{end:?}, and the tables say {result:?}: {}", case()),
        }
    }
}

/// One level of a paging mode.
struct Level {
    level: u32,
    /// The lowest bit of the linear address that selects the entry, and how many bits do.
    shift: u32,
    bits: u32,
    /// Bits that must be 0 in an entry that leads to a table.
    reserved: u64,
    /// Likewise in an entry that maps a page; None: no entry here does.
    page: Option<u64>,
    /// Whether the entries have rights and an accessed flag.
    rights: bool,
}

/// Bits `high` to `low`.
const fn field(high: u32, low: u32) -> u64 {
    if high < low {
        return 0;
    }
    (u64::MAX >> (63 - high)) & (u64::MAX << low)
}

/// The levels of the mode, from the top, and the bytes of an entry.
fn mode(s: &PagingState) -> (Vec<Level>, u64) {
    let m = u32::from(s.physical_bits);
    let level = |level, shift, bits, reserved, page| Level {
        level,
        shift,
        bits,
        reserved,
        page,
        rights: true,
    };
    if !s.cr4.contains(Cr4::PAE) {
        // Table 4-4: bit 21 and what is beyond the physical width, of address bits 39:32 in bits 20:13.
        let wide = m.min(40);
        let large = field(21, wide - 19);
        let pse = s.cr4.contains(Cr4::PSE).then_some(large);
        let levels = [level(2, 22, 10, 0, pse), level(1, 12, 10, 0, Some(0))];
        return (levels.into(), 4);
    }
    let nx = if s.efer.contains(Efer::NXE) {
        0
    } else {
        1 << 63
    };
    if !s.efer.contains(Efer::LMA) {
        let high = field(62, m) | nx;
        let mut pointers = level(3, 30, 2, field(2, 1) | field(8, 6) | field(63, m), None);
        pointers.rights = false;
        let levels = [
            pointers,
            level(2, 21, 9, high, Some(high | field(20, 13))),
            level(1, 12, 9, high, Some(high)),
        ];
        return (levels.into(), 8);
    }
    let high = field(51, m) | nx;
    let mut levels = Vec::new();
    if s.cr4.contains(Cr4::LA57) {
        levels.push(level(5, 48, 9, high | 1 << 7, None));
    }
    levels.extend([
        level(4, 39, 9, high | 1 << 7, None),
        level(3, 30, 9, high, Some(high | field(29, 13))),
        level(2, 21, 9, high, Some(high | field(20, 13))),
        level(1, 12, 9, high, Some(high)),
    ]);
    (levels, 8)
}

/// Whether the rights of all levels together (`user`: all say user-mode; `writable`: all say R/W; `no_execute`: one says XD) allow the
/// access.
fn allowed(s: &PagingState, access: Access, user: bool, writable: bool, no_execute: bool) -> bool {
    let supervisor_access = !access.user || access.implicit;
    let explicit = !access.implicit;
    match (supervisor_access, access.fetch, access.write) {
        // "For user-mode accesses": nothing at supervisor-mode addresses.
        (false, ..) if !user => false,
        (false, true, _) => !no_execute,
        (false, _, true) => writable,
        (false, _, false) => true,
        // "For supervisor-mode accesses".
        (true, true, _) if user && s.cr4.contains(Cr4::SMEP) => false,
        (true, true, _) => !no_execute,
        (true, ..) if user && s.cr4.contains(Cr4::SMAP) && !(s.ac && explicit) => false,
        (true, _, true) => writable || !s.cr0.contains(Cr0::WP),
        (true, _, false) => true,
    }
}

/// An access of the CPU to linear address `va`. `read` reads an entry of so many bytes; None: there is no memory.
pub fn walk(
    read: impl Fn(u64, u64) -> Option<u64>,
    s: &PagingState,
    va: u64,
    access: Access,
) -> Outcome {
    let mut steps: Vec<Step> = Vec::new();
    if !s.cr0.contains(Cr0::PG) {
        let result = Ok(va % (1 << 32));
        return Outcome { steps, result };
    }
    // 4.7: what of the error code is known from the access.
    let mut error = PfError::empty();
    error.set(PfError::W, access.write);
    error.set(PfError::U, access.user && !access.implicit);
    let tells_fetches =
        s.cr4.contains(Cr4::SMEP) || s.cr4.contains(Cr4::PAE) && s.efer.contains(Efer::NXE);
    error.set(PfError::I, access.fetch && tells_fetches);

    let (levels, size) = mode(s);
    let mut table = match (size, levels.len()) {
        (8, 3) => s.cr3 & field(31, 5),
        _ => s.cr3 & field(51, 12),
    };
    let (mut user, mut writable, mut no_execute) = (true, true, false);
    for level in &levels {
        let place = table + (va >> level.shift) % (1 << level.bits) * size;
        let Some(entry) = read(place, size) else {
            let result = Err(error | PfError::P | PfError::RSVD);
            return Outcome { steps, result };
        };
        if entry & 1 == 0 {
            let result = Err(error);
            return Outcome { steps, result };
        }
        let is_page = level.level == 1 || entry & 1 << 7 != 0 && level.page.is_some();
        let reserved = match level.page {
            Some(page) if is_page => page,
            _ => level.reserved,
        };
        if entry & reserved != 0 {
            let result = Err(error | PfError::P | PfError::RSVD);
            return Outcome { steps, result };
        }
        if level.rights {
            writable &= entry & 1 << 1 != 0;
            user &= entry & 1 << 2 != 0;
            no_execute |= size == 8 && entry & 1 << 63 != 0;
        }
        if is_page && !allowed(s, access, user, writable, no_execute) {
            let result = Err(error | PfError::P);
            return Outcome { steps, result };
        }
        let mut flags = 0;
        if level.rights {
            flags |= 1 << 5;
        }
        if is_page && access.write {
            flags |= 1 << 6;
        }
        steps.push(Step {
            level: level.level,
            place,
            entry: entry | flags,
            set: flags & !entry,
        });
        if !is_page {
            table = entry & field(51, 12);
            continue;
        }
        let mut frame = entry & field(51, level.shift);
        if size == 4 && level.level == 2 {
            // PSE-36: address bits 39:32 in bits 20:13.
            frame = entry & field(31, 22) | (entry & field(20, 13)) << 19;
        }
        let result = Ok(frame + va % (1 << level.shift));
        return Outcome { steps, result };
    }
    unreachable!("the last level maps pages")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::mem::GuestMemory;
    use hv_core::testing::{Random, VecMemory};
    use hv_core::{Gpa, Gva};

    /// Eight tables that lead to each other and to themselves, with any flags.
    fn some_tables(memory: &VecMemory, random: &mut Random) {
        for _ in 0..400 {
            let place = random.below(8) << 12 | random.pick(&[0, 8, 16, 0xff8, 4, 0xffc]);
            let mut entry = random.below(8) << 12 | random.next() & 0xfff;
            for (bits, often) in [(0x23, 2), (4, 2), (1 << 63, 6)] {
                if random.one_in(often) {
                    entry |= bits;
                }
            }
            if random.one_in(2) {
                entry &= !0x80;
            }
            if random.one_in(6) {
                entry |= 1 << random.below(64);
            }
            let bytes = entry.to_le_bytes();
            memory.write(Gpa(place & !7), &bytes).unwrap();
        }
    }

    fn some_state(random: &mut Random) -> PagingState {
        let flag = |random: &mut Random| random.one_in(2);
        let mut cr4 = Cr4::empty();
        for bit in [Cr4::PAE, Cr4::PSE, Cr4::SMEP, Cr4::SMAP, Cr4::LA57] {
            cr4.set(bit, flag(random));
        }
        let mut efer = Efer::empty();
        efer.set(Efer::NXE, flag(random));
        efer.set(Efer::LMA, cr4.contains(Cr4::PAE) && !random.one_in(3));
        let mut cr0 = Cr0::PE | Cr0::PG;
        cr0.set(Cr0::WP, flag(random));
        PagingState {
            cr0,
            cr3: random.below(8) << 12,
            cr4,
            efer,
            ac: flag(random),
            physical_bits: random.pick(&[32, 36, 39, 40, 46, 52]),
        }
    }

    /// Two walkers, two authors' readings of the manual: result, CR2, error code, and every byte of memory.
    #[test]
    fn the_walker_agrees_in_every_mode() {
        let mut random = Random::from_env("UMBRA_SEED", 4);
        let (mut successes, mut faults) = (0, 0);
        for round in 0..120_000 {
            let memory = VecMemory::new(0x8000);
            some_tables(&memory, &mut random);
            let s = some_state(&mut random);
            for _ in 0..4 {
                let top = random.pick(&[0, 0, 1 << 48, 0x1ff << 39, 1 << 39]);
                let va =
                    top | random.below(4) << 30 | random.below(3) << 21 | random.below(3) << 12;
                let va = if random.one_in(4) { !0xfff } else { va } | random.below(0x1000);
                let access = Access {
                    write: random.one_in(2),
                    fetch: random.one_in(3),
                    user: random.one_in(2),
                    implicit: random.one_in(6),
                };
                let access = Access {
                    fetch: access.fetch && !access.write,
                    ..access
                };
                let expected = walk(
                    |gpa, size| memory.read_value(Gpa(gpa), size as usize).ok(),
                    &s,
                    va,
                    access,
                );
                let after = VecMemory::new(0x8000);
                let mut bytes = vec![0; 0x8000];
                memory.read(Gpa(0), &mut bytes).unwrap();
                after.write(Gpa(0), &bytes).unwrap();
                for step in &expected.steps {
                    let now = after.read_u32(Gpa(step.place)).unwrap() | step.set as u32;
                    after.write(Gpa(step.place), &now.to_le_bytes()).unwrap();
                }
                let case = || format!("round {round}: {va:x} {access:?} {s:x?} {expected:x?}");
                let trail = crate::walk::trail(&memory, &s, Gva(va), access);
                expected.assert_told(&trail, &case);
                match crate::walk::walk(&memory, &s, Gva(va), access) {
                    Ok(walk) => {
                        successes += 1;
                        assert_eq!(Ok(walk.gpa.0), expected.result, "{}", case());
                    }
                    Err(fault) => {
                        faults += 1;
                        assert_eq!(Err(fault.error), expected.result, "{}", case());
                        assert_eq!(fault.gva.0, va);
                    }
                }
                let mut found = vec![0; 0x8000];
                memory.read(Gpa(0), &mut found).unwrap();
                after.read(Gpa(0), &mut bytes).unwrap();
                assert!(found == bytes, "flags: {}", case());
            }
        }
        assert!(
            successes > 10_000 && faults > 10_000,
            "{successes} {faults}"
        );
    }
}
