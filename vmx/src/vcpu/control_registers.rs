//! Control registers: what the guest sees against what the hardware has (SDM vol 3C 25.6.6, "Guest/Host Masks and Read Shadows for
//! CR0 and CR4"), and what a CPU without unrestricted guest cannot run.

use super::*;

/// Bits of CR0 that the guest changes without an exit: they mean the same to the hardware, and nothing follows from them.
const CR0_GUEST_OWNED: Cr0 = Cr0::TS
    .union(Cr0::MP)
    .union(Cr0::EM)
    .union(Cr0::AM)
    .union(Cr0::WP);
/// Shadow paging: write protection is in the tables, and the hardware's always on.
const CR0_SHADOW_OWNED: Cr0 = CR0_GUEST_OWNED.difference(Cr0::WP);
/// Likewise of CR4. Linux toggles PGE to flush global translations.
const CR4_GUEST_OWNED: Cr4 = Cr4::PGE.union(Cr4::TSD).union(Cr4::DE).union(Cr4::PCE);
/// Shadow paging: a flush is to be noticed.
const CR4_SHADOW_OWNED: Cr4 = CR4_GUEST_OWNED.difference(Cr4::PGE);

impl<H: Hardware> VmxVcpu<H> {
    /// Whether the guest runs on a page table of ours because the CPU cannot do without paging.
    pub(super) fn on_identity_map(&self) -> bool {
        !self.shadow && !self.plan.unrestricted_guest() && !self.cr0.contains(Cr0::PG)
    }

    /// Whether the guest is in real mode with bits set in CS where protected mode has the RPL. Bochs 2.7 does not enter it then, with unrestricted
    /// guest too, of which no manual has a rule (SDM vol 3C 27.3.1.2, "Checks on Guest Segment Registers").
    pub(super) fn has_odd_real_mode_selector(&self) -> bool {
        !self.cr0.contains(Cr0::PE) && self.segment(SegReg::Cs).selector & 3 != 0
    }

    /// An entry has failed: whether it may have been for that, which from then on is known.
    pub(super) fn learns_of_selectors(&mut self) -> bool {
        let learns = !self.wants_rpl_0 && self.unrestricted() && self.has_odd_real_mode_selector();
        self.wants_rpl_0 |= learns;
        learns
    }

    fn cr0_owned(&self) -> Cr0 {
        if self.shadow {
            CR0_SHADOW_OWNED
        } else {
            CR0_GUEST_OWNED
        }
    }

    fn cr4_owned(&self) -> Cr4 {
        if self.shadow {
            CR4_SHADOW_OWNED
        } else {
            CR4_GUEST_OWNED
        }
    }

    /// Encodes CR0, CR3, CR4, EFER and what depends on them.
    ///
    /// The hardware's CR0 and CR4 have the bits that VMX operation fixes (SDM vol 3D A.7, "VMX-Fixed Bits in CR0", and A.8). CD
    /// and NW are never set: the guest's memory is cached whatever it thinks. Where the CPU insists on paging, an unpaged guest
    /// runs on an identity map, without the CR4 bits that would change its meaning. On shadow tables the hardware has paging, write
    /// protection, PAE and NX, whatever the guest has.
    pub(super) fn write_control_registers(&mut self) {
        let unrestricted = self.unrestricted();
        let identity = self.on_identity_map();
        let (mut fixed0, fixed1) = self.capabilities.cr0_fixed;
        if unrestricted {
            fixed0 &= !(Cr0::PE | Cr0::PG).bits();
        }
        let mut cr0 = (self.cr0 - Cr0::CD - Cr0::NW).bits() | fixed0;
        if self.shadow {
            cr0 |= (Cr0::PG | Cr0::WP).bits();
        }
        self.cache.set(cache::CR0, cr0 & fixed1);
        self.hw.write(Field::CR0_READ_SHADOW, self.cr0.bits());
        let owned = self.cr0_owned().bits() & !self.capabilities.cr0_fixed.0;
        self.hw.write(Field::CR0_MASK, !owned);

        let mut cr4 = self.cr4;
        if identity {
            cr4 -= Cr4::PAE | Cr4::SMEP | Cr4::SMAP | Cr4::PCIDE;
            cr4 |= Cr4::PSE;
        }
        if self.shadow {
            cr4 |= Cr4::PAE;
            if !self.cr0.contains(Cr0::PG) {
                // They protect pages, of which the guest has none.
                cr4 -= Cr4::SMEP | Cr4::SMAP;
            }
        }
        let (fixed0, fixed1) = self.capabilities.cr4_fixed;
        self.cache.set(cache::CR4, (cr4.bits() | fixed0) & fixed1);
        self.hw.write(Field::CR4_READ_SHADOW, self.cr4.bits());
        self.hw
            .write(Field::CR4_MASK, !(self.cr4_owned().bits() & !fixed0));

        let watched = Primary::CR3_LOAD_EXITING | Primary::CR3_STORE_EXITING;
        self.primary
            .set(watched, identity || self.plan.primary.contains(watched));
        if self.shadow {
            self.primary |= controls::PRIMARY_SHADOW;
        } else {
            self.primary -= Primary::INVLPG_EXITING;
            let cr3 = if identity {
                self.identity_map.0
            } else {
                self.cr3
            };
            self.cache.set(cache::CR3, cr3);
        }

        // With paging on, LME must be LMA (SDM vol 3C 27.3.1.1, "Checks on Guest Control Registers, Debug Registers, and MSRs").
        let mut efer = self.efer;
        let long = efer.contains(Efer::LMA);
        if identity || self.shadow {
            efer.set(Efer::LME, long);
        }
        if self.shadow {
            efer |= Efer::NXE;
        }
        let mut entry = self.plan.entry;
        entry.set(controls::Entry::IA32E_MODE_GUEST, long);
        self.hw.write(Field::ENTRY_CONTROLS, entry.bits().into());
        if entry.contains(controls::Entry::LOAD_EFER) {
            self.hw.write(Field::GUEST_EFER, efer.bits());
        } else {
            self.entry_msrs.set(msr_area::EFER, efer.bits());
        }
    }

    /// CR0 as the guest sees it.
    pub(super) fn guest_cr0(&self) -> Cr0 {
        let hardware = Cr0::from_bits_retain(self.cache.get(&self.hw, cache::CR0));
        (self.cr0 - self.cr0_owned()) | (hardware & self.cr0_owned())
    }

    /// CR4 as the guest sees it.
    pub(super) fn guest_cr4(&self) -> Cr4 {
        let hardware = Cr4::from_bits_retain(self.cache.get(&self.hw, cache::CR4));
        (self.cr4 - self.cr4_owned()) | (hardware & self.cr4_owned())
    }

    /// CR3 as the guest sees it.
    pub(super) fn guest_cr3(&self) -> u64 {
        if self.shadow || self.on_identity_map() {
            self.cr3
        } else {
            self.cache.get(&self.hw, cache::CR3)
        }
    }

    pub(super) fn set_control_register(&mut self, change: impl FnOnce(&mut Self)) {
        (self.cr0, self.cr3, self.cr4) = (self.guest_cr0(), self.guest_cr3(), self.guest_cr4());
        change(self);
        self.write_control_registers();
        self.fits.set(None);
    }

    /// Whether a guest in protected mode has segments that a CPU without unrestricted guest accepts. Not so just after a mode
    /// switch: segment registers still hold what real mode left.
    pub(super) fn segments_fit(&self) -> bool {
        if let Some(fits) = self.fits.get() {
            return fits;
        }
        let read = |field| self.cache.read(&self.hw, field);
        let fits = check::segments_fit(&read);
        self.fits.set(Some(fits));
        fits
    }
}
