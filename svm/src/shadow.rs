//! Control registers under shadow paging: what the guest sees against what the hardware has.
//!
//! The hardware always has paging, write protection, PAE and NX; what the guest wants of them is in the shadow tables. A guest in real
//! mode runs with paging on, which a guest may (APM vol 2 15.19, "Paged Real Mode").

use crate::vcpu::SvmVcpu;
use crate::vmcb::{Intercept3, NP_ENABLE};
use hv_core::event::vector;
use hv_core::msr::PAT_RESET;
use hv_core::regs::{Cr0, Cr4, Efer};

/// The guest's registers of which the control block has something else.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct GuestControl {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    pub pat: u64,
}

/// CR3 is the shadow's. Writes to CR0 may change the paging mode, as may those to CR4, which always leave the guest.
const READS: u16 = 1 << 3;
const WRITES: u16 = 1 << 0 | 1 << 3;

impl SvmVcpu {
    /// Turns shadow paging on or off. The guest does not notice.
    pub(crate) fn use_shadow(&mut self, on: bool) {
        if on == self.guest.is_some() {
            return;
        }
        let v = &mut *self.vmcb;
        let page_faults = 1 << vector::PF;
        match self.guest.take() {
            None => {
                self.guest = Some(GuestControl {
                    cr0: v.cr0,
                    cr3: v.cr3,
                    cr4: v.cr4,
                    efer: v.efer,
                    pat: v.g_pat,
                });
                v.np_enable = 0;
                v.intercept_exceptions |= page_faults;
                v.intercept_cr_read |= READS;
                v.intercept_cr_write |= WRITES;
                self.always |= Intercept3::INVLPG;
                self.encode_guest_control();
            }
            Some(guest) => {
                self.fence = None;
                v.cr0 = guest.cr0 | v.cr0 & Cr0::TS.bits();
                (v.cr3, v.cr4) = (guest.cr3, guest.cr4);
                (v.efer, v.g_pat) = (guest.efer, guest.pat);
                v.np_enable = NP_ENABLE;
                v.intercept_exceptions &= !page_faults;
                v.intercept_cr_read &= !(READS | 1 << 0 | 1 << 4);
                v.intercept_cr_read |= u16::from(self.features.cr_reads_as_cr0);
                v.intercept_cr_write &= !WRITES;
                self.always -= Intercept3::INVLPG;
            }
        }
        self.flush_linear = true;
    }

    /// Encodes the hardware's control registers for the guest's.
    pub(crate) fn encode_guest_control(&mut self) {
        let Some(guest) = &self.guest else {
            return;
        };
        let v = &mut *self.vmcb;
        let cr0 = Cr0::from_bits_retain(guest.cr0);
        let paging = cr0.contains(Cr0::PG);
        v.cr0 = ((cr0 | Cr0::PG | Cr0::WP) - Cr0::CD - Cr0::NW).bits();
        let mut cr4 = Cr4::from_bits_retain(guest.cr4) | Cr4::PAE;
        if !paging {
            // They protect pages, of which the guest has none.
            cr4 -= Cr4::SMEP | Cr4::SMAP;
        }
        v.cr4 = cr4.bits();
        // With paging on, LME without LMA cannot be.
        let mut efer = Efer::from_bits_retain(guest.efer) | Efer::NXE;
        efer.set(Efer::LME, efer.contains(Efer::LMA));
        v.efer = efer.bits();
        v.g_pat = PAT_RESET;
        // Reads that would see the difference leave the guest.
        let all = self.features.cr_reads_as_cr0;
        let differ = u16::from(all || v.cr0 != guest.cr0) | u16::from(v.cr4 != guest.cr4) << 4;
        v.intercept_cr_read = v.intercept_cr_read & !(1 << 0 | 1 << 4) | differ;
    }
}
