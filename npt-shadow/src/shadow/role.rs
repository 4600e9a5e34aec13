//! What a shadow page is the shadow of, and what an entry of a guest table asks for.
//!
//! A shadow page is found by its [`Key`]: the guest frame of the table and a [`Role`], which has everything that changes what the
//! table's entries mean. So a change of CR0.WP, CR4 or EFER.NXE invalidates nothing: other shadow pages are looked up.

use super::mutants::{Mutant, mutant};
use hv_core::mmu::PagingState;
use hv_core::regs::{Cr0, Cr4, Efer};

pub const P: u64 = 1 << 0;
pub const RW: u64 = 1 << 1;
pub const US: u64 = 1 << 2;
pub const A: u64 = 1 << 5;
pub const D: u64 = 1 << 6;
pub const PS: u64 = 1 << 7;
/// A bit that the hardware ignores: the entry maps a table that is out of sync. Of these entries the hardware sets the dirty
/// flag, which tells whether the table has been written.
pub const TRACKED: u64 = 1 << 9;
pub const NX: u64 = 1 << 63;
/// Bits 51:12.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// What accesses a mapping allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rights {
    pub rw: bool,
    pub us: bool,
    pub nx: bool,
}

impl Rights {
    pub const ALL: Rights = Rights {
        rw: true,
        us: true,
        nx: false,
    };
}

/// How guest entries are read: the same for all tables that are reached from one CR3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reading {
    /// Entries of 8 bytes, not 4.
    pub wide: bool,
    /// Long mode: level 3 has entries like the others, and bits 62:52 mean nothing.
    pub long: bool,
    /// CR4.PSE; without meaning for wide entries, and then false.
    pub pse: bool,
    /// EFER.NXE, where there is a bit 63.
    pub nxe: bool,
    /// CR0.WP.
    pub wp: bool,
    /// CR4.SMEP and CR4.SMAP, if CR0.WP is clear: then supervisor entries may map user pages.
    pub smep: bool,
    pub smap: bool,
}

impl Reading {
    pub fn of(state: &PagingState) -> Reading {
        let wide = state.cr4.contains(Cr4::PAE);
        let wp = state.cr0.contains(Cr0::WP);
        Reading {
            wide,
            long: state.efer.contains(Efer::LMA),
            pse: !wide && state.cr4.contains(Cr4::PSE),
            nxe: wide && state.efer.contains(Efer::NXE),
            wp,
            smep: !wp && state.cr4.contains(Cr4::SMEP) && !mutant(Mutant::SmepNotInRole),
            smap: !wp && state.cr4.contains(Cr4::SMAP) && !mutant(Mutant::SmapNotInRole),
        }
    }

    /// How the "tables" of a guest without paging are read: they do not exist.
    pub const NONE: Reading = Reading {
        wide: true,
        long: false,
        pse: false,
        nxe: false,
        wp: true,
        smep: false,
        smap: false,
    };
}

/// What a shadow page is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Role {
    /// 1: its entries map 4 KiB pages.
    pub level: u8,
    /// It shadows no table, but maps pages one behind the other from its frame on: a part of a large page, or memory
    /// without paging.
    pub direct: bool,
    /// Shadow pages have 512 entries, tables of 4-byte entries 1,024, of which a shadow page has this part: one of two at level 1, of
    /// four at level 2 (whose entries map 4 MiB, and those of the shadow 2).
    pub quadrant: u8,
    /// What the levels above allow. The entries of the levels above allow everything: what is left counts at the leaf.
    pub rights: Rights,
    pub reading: Reading,
}

/// What a shadow page is the shadow of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key {
    /// The guest frame of the table, or the first that a direct page maps.
    pub gfn: u64,
    pub role: Role,
}

/// A page that a guest entry maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// Its first guest frame; for a large page the first below the shadow entry.
    pub gfn: u64,
    pub rights: Rights,
    /// Whether its dirty flag is set.
    pub dirty: bool,
}

/// What an entry of a shadow page is to lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// Nowhere: not present, not accessed yet, or malformed.
    Nothing,
    Table(Key),
    Page(Leaf),
}

/// Pages of 4 KiB that one entry at `level` maps.
pub const fn pages_below(level: u8) -> u64 {
    1 << (9 * (level as u32 - 1))
}

impl Key {
    /// Bytes of a guest entry.
    pub const fn entry_size(&self) -> u64 {
        if self.role.reading.wide { 8 } else { 4 }
    }

    /// The guest entry that belongs to entry `index` of the shadow.
    pub const fn guest_index(&self, index: usize) -> usize {
        let role = &self.role;
        match (role.reading.wide, role.level) {
            (true, _) => index,
            (false, 1) => role.quadrant as usize * 512 + index,
            (false, _) => role.quadrant as usize * 256 + index / 2,
        }
    }

    /// The entries of the shadow that belong to guest entry `guest_index`: the first, and how many. None of them if it is in
    /// another quadrant.
    pub const fn shadow_entries(&self, guest_index: usize) -> (usize, usize) {
        let role = &self.role;
        let (part, first, count) = match (role.reading.wide, role.level) {
            (true, _) => (role.quadrant as usize, guest_index, 1),
            (false, 1) => (guest_index / 512, guest_index % 512, 1),
            (false, _) => (guest_index / 256, guest_index % 256 * 2, 2),
        };
        (
            first,
            if part == role.quadrant as usize {
                count
            } else {
                0
            },
        )
    }

    /// What entry `index` of a direct page leads to.
    pub const fn direct(&self, index: usize) -> Target {
        Target::Page(Leaf {
            gfn: self.gfn + index as u64 * pages_below(self.role.level),
            rights: self.role.rights,
            dirty: true,
        })
    }

    /// What entry `index` leads to if the guest entry that belongs to it is `entry`.
    pub fn target(&self, index: usize, entry: u64, physical_bits: u8) -> Target {
        let role = &self.role;
        let reading = &role.reading;
        let large =
            role.level > 1 && role.level <= 3 && entry & PS != 0 && (reading.wide || reading.pse);
        let accessed = entry & A != 0 || mutant(Mutant::AccessedIgnored);
        if entry & P == 0 || !accessed || self.reserved(entry, large, physical_bits) {
            return Target::Nothing;
        }
        let rights = Rights {
            rw: role.rights.rw && entry & RW != 0,
            us: role.rights.us && entry & US != 0,
            nx: role.rights.nx || reading.nxe && entry & NX != 0,
        };
        let half = (index & 1) as u64;
        if role.level > 1 && !large {
            return Target::Table(Key {
                gfn: (entry & ADDRESS) >> 12,
                role: Role {
                    level: role.level - 1,
                    quadrant: if reading.wide { 0 } else { half as u8 },
                    rights: if mutant(Mutant::RightsNotInRole) {
                        Rights::ALL
                    } else {
                        rights
                    },
                    ..*role
                },
            });
        }
        let gfn = match (large, reading.wide) {
            // PSE-36: bits 20:13 are address bits 39:32.
            (true, false) => {
                ((entry & 0xffc0_0000 | (entry >> 13 & 0xff) << 32) >> 12) + half * 512
            }
            _ => (entry & ADDRESS) >> 12 & !(pages_below(role.level) - 1),
        };
        Target::Page(Leaf {
            gfn,
            rights,
            dirty: entry & D != 0,
        })
    }

    /// Whether a reserved bit is set.
    fn reserved(&self, entry: u64, large: bool, physical_bits: u8) -> bool {
        let beyond = |address: u64| address >> physical_bits.min(52) != 0;
        let reading = &self.role.reading;
        if !reading.wide {
            return large && (entry & 1 << 21 != 0 || beyond((entry >> 13 & 0xff) << 32));
        }
        let size = pages_below(self.role.level) << 12;
        beyond(entry & ADDRESS)
            || entry & NX != 0 && !reading.nxe
            || !reading.long && entry >> 52 & 0x7ff != 0
            || large && entry & (size - 1) & !0x1fff != 0
            || self.role.level > 3 && entry & PS != 0
    }

    /// The direct page one level below, for the part of a large page at `leaf` that an entry of this page maps.
    pub fn below(&self, leaf: &Leaf) -> Key {
        Key {
            gfn: leaf.gfn,
            role: Role {
                level: self.role.level - 1,
                direct: true,
                quadrant: 0,
                rights: Rights {
                    rw: leaf.rights.rw && leaf.dirty,
                    ..leaf.rights
                },
                reading: self.role.reading,
            },
        }
    }
}
