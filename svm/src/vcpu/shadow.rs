//! Control registers where the hardware needs other tables than the guest has: what the guest sees against what the hardware has.
//!
//! Under shadow paging the hardware always has paging, write protection, PAE and NX; what the guest wants of them is in the shadow tables.
//! A guest in real mode runs with paging on, which a guest may (APM vol 2 15.19, "Paged Real Mode"). Under nested paging an unpaged guest
//! does likewise where [`Quirks::identity_map`](crate::Quirks::identity_map) says so.

use super::SvmVcpu;
use crate::vmcb::{Intercept3, NP_ENABLE};
use hv_core::cpu::VcpuBackend;
use hv_core::event::vector;
use hv_core::msr::PAT_RESET;
use hv_core::regs::{Cr0, Cr4, Efer, SysReg};

/// The tables that the hardware has instead of the guest's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tables {
    Shadow,
    IdentityMap,
}

/// The guest's registers of which the control block has something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GuestControl {
    pub tables: Tables,
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub pat: u64,
}

/// CR3 is not the guest's. Writes to CR0 may change the paging mode, as may those to CR4, which always leave the guest.
const READS: u16 = 1 << 3;
const WRITES: u16 = 1 << 0 | 1 << 3;

impl SvmVcpu {
    pub(crate) fn on_shadow(&self) -> bool {
        self.guest
            .is_some_and(|guest| guest.tables == Tables::Shadow)
    }

    /// Turns shadow paging on or off. The guest does not notice.
    pub(crate) fn use_shadow(&mut self, on: bool) {
        if on != self.on_shadow() {
            self.use_tables(on.then_some(Tables::Shadow));
            self.leave_or_take_identity_map();
        }
    }

    /// Puts a guest that has turned paging off on the identity map, where there is one, and takes a guest that has turned it on off it.
    pub(crate) fn leave_or_take_identity_map(&mut self) {
        if self.features.quirks.identity_map.is_none() || self.on_shadow() {
            return;
        }
        let paged = self.sysreg(SysReg::Cr0) & Cr0::PG.bits() != 0;
        if paged == self.guest.is_some() {
            self.use_tables((!paged).then_some(Tables::IdentityMap));
        }
    }

    /// Gives the hardware these tables, or the guest's own.
    pub(crate) fn use_tables(&mut self, tables: Option<Tables>) {
        let v = &mut *self.context.vmcb;
        let page_faults = 1 << vector::PF;
        if let Some(guest) = self.guest.take() {
            self.fence = None;
            v.cr0 = guest.cr0 | v.cr0 & Cr0::TS.bits();
            (v.cr3, v.cr4) = (guest.cr3, guest.cr4);
            (v.efer, v.g_pat) = (guest.efer, guest.pat);
            v.np_enable = NP_ENABLE;
            v.intercept_exceptions &= !page_faults;
            v.intercept_cr_read &= !(READS | 1 << 0 | 1 << 4);
            v.intercept_cr_read |= u16::from(self.features.quirks.cr_reads_as_cr0);
            v.intercept_cr_write &= !WRITES;
            self.always -= Intercept3::INVLPG;
        }
        if let Some(tables) = tables {
            self.guest = Some(GuestControl {
                tables,
                cr0: v.cr0,
                cr3: v.cr3,
                cr4: v.cr4,
                efer: v.efer,
                pat: v.g_pat,
            });
            v.intercept_cr_read |= READS;
            v.intercept_cr_write |= WRITES;
            if tables == Tables::Shadow {
                v.np_enable = 0;
                v.intercept_exceptions |= page_faults;
                self.always |= Intercept3::INVLPG;
            }
            self.encode_guest_control();
        }
        self.context.vmcb.intercept3 = self.always.bits();
        self.flush_linear = true;
    }

    /// Encodes the hardware's control registers for the guest's.
    pub(crate) fn encode_guest_control(&mut self) {
        let Some(guest) = &self.guest else {
            return;
        };
        let v = &mut *self.context.vmcb;
        let cr0 = Cr0::from_bits_retain(guest.cr0) | Cr0::PG;
        let mut cr4 = Cr4::from_bits_retain(guest.cr4);
        if guest.cr0 & Cr0::PG.bits() == 0 {
            // They protect pages, of which the guest has none.
            cr4 -= Cr4::SMEP | Cr4::SMAP;
        }
        let mut efer = Efer::from_bits_retain(guest.efer);
        // With paging on, LME without LMA cannot be.
        efer.set(Efer::LME, efer.contains(Efer::LMA));
        match guest.tables {
            Tables::Shadow => {
                v.cr0 = ((cr0 | Cr0::WP) - Cr0::CD - Cr0::NW).bits();
                cr4 |= Cr4::PAE;
                efer |= Efer::NXE;
                v.g_pat = PAT_RESET;
            }
            Tables::IdentityMap => {
                v.cr0 = cr0.bits();
                // Two levels, whose pages have 4 MiB.
                cr4 = (cr4 | Cr4::PSE) - Cr4::PAE;
                v.cr3 = self.features.quirks.identity_map.map_or(0, |map| map.0);
                v.g_pat = guest.pat;
            }
        }
        (v.cr4, v.efer) = (cr4.bits(), efer.bits());
        // Reads that would see the difference leave the guest.
        let all = self.features.quirks.cr_reads_as_cr0;
        let differ = u16::from(all || v.cr0 != guest.cr0) | u16::from(v.cr4 != guest.cr4) << 4;
        v.intercept_cr_read = v.intercept_cr_read & !(1 << 0 | 1 << 4) | differ;
    }
}
