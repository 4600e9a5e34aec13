//! A world so small that everything in it can be tried: two tables with two entries each.
//!
//! The directory (frame 1) and the table (frame 2) have two entries that may be anything of a handful (the second, at first, of every
//! other one); the table may be mapped by itself, the directory too. For every such world: an access, then a change of one entry, then INVLPG or not, then accesses of all
//! kinds to all pages. The checks are those of the random programs.

use super::judge::Judge;
use super::machine::{Machine, backing};
use super::*;

const DIRECTORY: u64 = 1;
const TABLE: u64 = 2;
const PAGE: u64 = 3;
/// Read-write for the user.
const ALL: u64 = P | RW | US;

const fn to(frame: u64, flags: u64) -> u64 {
    frame << 12 | flags
}

/// What an entry of the directory may be.
const OF_DIRECTORY: [u64; 5] = [
    0,
    to(TABLE, ALL),
    to(TABLE, P | US),
    to(TABLE, P | RW),
    to(DIRECTORY, ALL),
];

/// What an entry of the table may be.
const OF_TABLE: [u64; 6] = [
    0,
    to(PAGE, ALL),
    to(PAGE, P | US | A | D),
    to(PAGE, P | RW),
    to(TABLE, ALL),
    to(DIRECTORY, ALL),
];

/// The addresses of the four pages that there are.
const ADDRESSES: [u64; 4] = [0, 1 << 12, 1 << 22, 1 << 22 | 1 << 12];

fn access(write: bool, user: bool) -> Access {
    Access {
        write,
        user,
        ..Access::default()
    }
}

/// The world, with paging of two levels.
fn machine(algorithm: Algorithm) -> Machine {
    let mut machine = Machine::new(algorithm, 1, 1);
    machine.forgetful = false;
    machine.cpu.state.cr0 |= Cr0::PG | Cr0::WP;
    machine.cpu.state.cr3 = DIRECTORY << 12;
    assert!(matches!(backing(PAGE), Backing::Ram { writable: true, .. }));
    machine
}

/// Where the four entries are, and what they may be.
const ENTRIES: [(u64, &[u64]); 4] = [
    (DIRECTORY << 12, &OF_DIRECTORY),
    (DIRECTORY << 12 | 4, &OF_DIRECTORY),
    (TABLE << 12, &OF_TABLE),
    (TABLE << 12 | 4, &OF_TABLE),
];

/// One life of a world: its first entries, an access, a change, INVLPG or not, and all accesses.
fn live(m: &mut Machine, world: [u64; 4], first: usize, change: (u64, u64), invlpg: bool) {
    m.log.clear();
    m.world().judge = Judge::default();
    m.mmu.empty();
    for ((place, _), entry) in ENTRIES.iter().zip(world) {
        m.note(format!("{place:x} is {entry:x}"));
        m.memory
            .write(Gpa(*place), &(entry as u32).to_le_bytes())
            .unwrap();
    }
    m.leave();
    m.mmu.load(0, &m.cpu.state);
    m.flush_all();
    let (va, user) = (ADDRESSES[first % 4], first & 4 != 0);
    m.cpu.cpl = if user { 3 } else { 0 };
    // Where this writes a table, it makes its first entry this one.
    m.access_as(va, access(first / 8 != 0, user), false, Some(to(PAGE, ALL)));
    m.dma(change.0, 4, change.1);
    if invlpg {
        m.invlpg(va);
    }
    for user in [true, false] {
        m.cpu.cpl = if user { 3 } else { 0 };
        for va in ADDRESSES {
            m.access_as(va, access(false, user), false, None);
            m.access_as(va, access(true, user), false, Some(to(TABLE, ALL)));
        }
    }
    settle(m);
}

fn everything(algorithm: Algorithm) {
    let mut m = machine(algorithm);
    let mut lives = 0;
    for n in 0..5 * 3 * 6 * 3 {
        let world = [
            OF_DIRECTORY[n % 5],
            OF_DIRECTORY[n / 5 % 3 * 2],
            OF_TABLE[n / 15 % 6],
            OF_TABLE[n / 90 * 2],
        ];
        for first in 0..16 {
            for (place, values) in ENTRIES {
                for &value in values {
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                        live(&mut m, world, first, (place, value), lives % 2 != 0);
                    }));
                    if let Err(panic) = result {
                        m.log.iter().for_each(|line| println!("{line}"));
                        std::panic::resume_unwind(panic);
                    }
                    lives += 1;
                }
            }
        }
    }
    assert_eq!(lives, 270 * 16 * 22);
}

#[test]
fn everything_in_a_small_world_on_a_virtual_tlb() {
    everything(Algorithm::Vtlb);
}

#[test]
fn everything_in_a_small_world_on_cached_shadows() {
    everything(Algorithm::Cached);
}

#[test]
fn everything_in_a_small_world_on_shadows_out_of_sync() {
    everything(Algorithm::Unsync);
}
