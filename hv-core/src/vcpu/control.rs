//! Control registers that are written in software: by an instruction that leaves the guest, or by one that is emulated.
//!
//! Rules: SDM vol 2B, "MOV—Move to/from Control Registers"; SDM vol 3A 2.5, "Control Registers"; 4.4.1, "PDPTE Registers"; 9.8.5,
//! "Initializing IA-32e Mode". What the virtual CPU does not have (PCIDs, LA57, protection keys, VMX) is reserved in CR4.

use super::{Trouble, Vcpu};
use crate::Gpa;
use crate::cpu::VcpuBackend;
use crate::emulate::{EmuCx, EmuFault, Mode};
use crate::exit::RegAccess;
use crate::mmu::Mmu;
use crate::regs::{Cr0, Cr4, Efer, SegAttr, SegReg, SysReg};
use crate::time::Clock;

/// The bits that CR0 has; ET is always set, and writes of others are ignored.
const CR0_BITS: Cr0 = Cr0::PE
    .union(Cr0::MP)
    .union(Cr0::EM)
    .union(Cr0::TS)
    .union(Cr0::NE)
    .union(Cr0::WP)
    .union(Cr0::AM)
    .union(Cr0::NW)
    .union(Cr0::CD)
    .union(Cr0::PG);

/// The bits that every virtual CPU has in CR4.
const CR4_BITS: Cr4 = Cr4::VME
    .union(Cr4::PVI)
    .union(Cr4::TSD)
    .union(Cr4::DE)
    .union(Cr4::PSE)
    .union(Cr4::PAE)
    .union(Cr4::MCE)
    .union(Cr4::PGE)
    .union(Cr4::PCE)
    .union(Cr4::OSFXSR)
    .union(Cr4::OSXMMEXCPT);

/// Changes of CR4 that end the use of what the CPU remembers of page tables (SDM vol 3A 4.10.4.1, "Operations that Invalidate
/// TLBs and Paging-Structure Caches").
const CR4_PAGING: Cr4 = Cr4::PSE
    .union(Cr4::PAE)
    .union(Cr4::PGE)
    .union(Cr4::SMEP)
    .union(Cr4::SMAP);

/// The local breakpoint enables of DR7, and LE.
const DR7_LOCAL: u64 = 1 << 0 | 1 << 2 | 1 << 4 | 1 << 6 | 1 << 8;

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// MOV to or from a control register. Without the register's number or the next RIP it is decoded.
    pub(super) fn cr_access(
        &mut self,
        access: RegAccess,
        next_rip: Option<u64>,
    ) -> Result<(), Trouble> {
        let told = access.gpr.zip(next_rip);
        let Some((gpr, next)) = told.or_else(|| self.mov_to_from_cr(access)) else {
            return self.emulate();
        };
        let width = if Mode::of(self).is_64() {
            u64::MAX
        } else {
            u32::MAX.into()
        };
        let gpr = usize::from(gpr & 15);
        let done = if access.write {
            let value = self.cpu.gprs().regs[gpr] & width;
            self.write_cr(access.number, value)
        } else {
            self.read_cr(access.number)
                .map(|value| self.cpu.gprs_mut().regs[gpr] = value & width)
        };
        match done {
            Ok(()) => {
                self.advance(next);
                Ok(())
            }
            Err(fault) => Err(self.trouble(fault)),
        }
    }

    /// Writes CR0, with EFER.LMA following CR0.PG.
    pub(super) fn write_cr0(&mut self, value: u64) -> Result<(), EmuFault> {
        if value >> 32 != 0 {
            return Err(EmuFault::GP0);
        }
        let old = Cr0::from_bits_retain(self.cpu.sysreg(SysReg::Cr0));
        let new = Cr0::from_bits_retain(value) & CR0_BITS | Cr0::ET;
        let paging_without_protection = new & (Cr0::PG | Cr0::PE) == Cr0::PG;
        let write_through_without_cache = new & (Cr0::NW | Cr0::CD) == Cr0::NW;
        if paging_without_protection || write_through_without_cache {
            return Err(EmuFault::GP0);
        }
        let cr4 = Cr4::from_bits_retain(self.cpu.sysreg(SysReg::Cr4));
        let mut efer = self.efer();
        let cs64 = self.cpu.segment(SegReg::Cs).attr.contains(SegAttr::L);
        let changed = old ^ new;
        if changed.contains(Cr0::PG) {
            if !new.contains(Cr0::PG) {
                if efer.contains(Efer::LMA) && cs64 {
                    return Err(EmuFault::GP0);
                }
                efer -= Efer::LMA;
            } else if efer.contains(Efer::LME) {
                // A 16-bit TSS has type 1 or 3.
                let tss16 = self.cpu.segment(SegReg::Tr).attr.bits() & 0xd == 1;
                if !cr4.contains(Cr4::PAE) || cs64 || tss16 {
                    return Err(EmuFault::GP0);
                }
                efer |= Efer::LMA;
            }
        }
        if changed.intersects(Cr0::PG | Cr0::CD | Cr0::NW) {
            self.load_pdptes(new, cr4, efer, self.cpu.sysreg(SysReg::Cr3))?;
        }
        self.cpu.set_sysreg(SysReg::Cr0, new.bits());
        if efer != self.efer() {
            self.cpu.set_sysreg(SysReg::Efer, efer.bits());
        }
        if changed.intersects(Cr0::PG | Cr0::WP) {
            self.reload_paging();
        }
        Ok(())
    }

    /// Writes CR3.
    pub(super) fn write_cr3(&mut self, value: u64) -> Result<(), EmuFault> {
        let efer = self.efer();
        if efer.contains(Efer::LMA) && value >> self.vm.cpuid.physical_bits() != 0 {
            return Err(EmuFault::GP0);
        }
        let cr0 = Cr0::from_bits_retain(self.cpu.sysreg(SysReg::Cr0));
        let cr4 = Cr4::from_bits_retain(self.cpu.sysreg(SysReg::Cr4));
        self.load_pdptes(cr0, cr4, efer, value)?;
        self.cpu.set_sysreg(SysReg::Cr3, value);
        self.reload_paging();
        Ok(())
    }

    /// Writes CR4.
    pub(super) fn write_cr4(&mut self, value: u64) -> Result<(), EmuFault> {
        let old = Cr4::from_bits_retain(self.cpu.sysreg(SysReg::Cr4));
        let new = Cr4::from_bits_retain(value);
        let efer = self.efer();
        let unpaged_long_mode = efer.contains(Efer::LMA) && !new.contains(Cr4::PAE);
        if !self.cr4_allowed().contains(new) || unpaged_long_mode {
            return Err(EmuFault::GP0);
        }
        let changed = old ^ new;
        if changed.intersects(CR4_PAGING) {
            let cr0 = Cr0::from_bits_retain(self.cpu.sysreg(SysReg::Cr0));
            self.load_pdptes(cr0, new, efer, self.cpu.sysreg(SysReg::Cr3))?;
        }
        self.cpu.set_sysreg(SysReg::Cr4, new.bits());
        if changed.intersects(CR4_PAGING) {
            self.reload_paging();
        }
        Ok(())
    }

    /// The bits of CR4 that go with what CPUID offers.
    fn cr4_allowed(&self) -> Cr4 {
        let leaf1 = self.vm.cpuid.leaf1();
        let leaf7 = self.vm.cpuid.leaf7();
        let mut bits = CR4_BITS;
        bits.set(Cr4::OSXSAVE, leaf1.ecx & 1 << 26 != 0);
        bits.set(Cr4::FSGSBASE, leaf7.ebx & 1 << 0 != 0);
        bits.set(Cr4::SMEP, leaf7.ebx & 1 << 7 != 0);
        bits.set(Cr4::SMAP, leaf7.ebx & 1 << 20 != 0);
        bits.set(Cr4::UMIP, leaf7.ecx & 1 << 2 != 0);
        bits
    }

    /// With PAE paging: brings the registers with the page-directory-pointer entries up to date. Entries that a load of CR3 would not
    /// have taken stay what they are.
    pub(super) fn reload_pdptes(&mut self) {
        let cr0 = Cr0::from_bits_retain(self.cpu.sysreg(SysReg::Cr0));
        let cr4 = Cr4::from_bits_retain(self.cpu.sysreg(SysReg::Cr4));
        let _ = self.load_pdptes(cr0, cr4, self.efer(), self.cpu.sysreg(SysReg::Cr3));
    }

    /// What a load of CR3 would raise in the guest's present mode.
    pub(super) fn check_pdptes(&self, cr3: u64) -> Result<(), EmuFault> {
        let cr0 = Cr0::from_bits_retain(self.cpu.sysreg(SysReg::Cr0));
        let cr4 = Cr4::from_bits_retain(self.cpu.sysreg(SysReg::Cr4));
        self.pdptes(cr0, cr4, self.efer(), cr3).map(drop)
    }

    /// The guest has switched tasks: CR3 is loaded, if the new task has one, CR0.TS set, and the local breakpoints are disabled.
    pub(super) fn task_switched(&mut self, cr3: Option<u64>) {
        if let Some(cr3) = cr3 {
            self.cpu.set_sysreg(SysReg::Cr3, cr3);
            self.reload_pdptes();
            self.reload_paging();
        }
        let cr0 = self.cpu.sysreg(SysReg::Cr0);
        self.cpu.set_sysreg(SysReg::Cr0, cr0 | Cr0::TS.bits());
        let dr7 = self.cpu.sysreg(SysReg::Dr7);
        self.cpu.set_sysreg(SysReg::Dr7, dr7 & !DR7_LOCAL);
    }

    /// With PAE paging: loads the four page-directory-pointer entries, which the CPU keeps in registers. #GP(0) if a present
    /// one has reserved bits set.
    fn load_pdptes(&mut self, cr0: Cr0, cr4: Cr4, efer: Efer, cr3: u64) -> Result<(), EmuFault> {
        if let Some(entries) = self.pdptes(cr0, cr4, efer, cr3)? {
            self.cpu.set_pdptes(entries);
        }
        Ok(())
    }

    /// With PAE paging: reads and checks the four page-directory-pointer entries.
    fn pdptes(
        &self,
        cr0: Cr0,
        cr4: Cr4,
        efer: Efer,
        cr3: u64,
    ) -> Result<Option<[u64; 4]>, EmuFault> {
        const P: u64 = 1;
        if !cr0.contains(Cr0::PG) || !cr4.contains(Cr4::PAE) || efer.contains(Efer::LMA) {
            return Ok(None);
        }
        // Bit 5 is reserved too, but QEMU's emulation of nested paging sets it in the guest's tables.
        let reserved = 0x1c6 | u64::MAX << self.vm.cpuid.physical_bits();
        let table = Gpa(cr3 & 0xffff_ffe0);
        let mut entries = [0; 4];
        for (i, entry) in entries.iter_mut().enumerate() {
            let mut bytes = [0; 8];
            // Outside RAM the bus reads all ones.
            *entry = match self.vm.memory.read(table.add(8 * i as u64), &mut bytes) {
                Ok(()) => u64::from_le_bytes(bytes),
                Err(_) => u64::MAX,
            };
            if *entry & P != 0 && *entry & reserved != 0 {
                return Err(EmuFault::GP0);
            }
        }
        Ok(Some(entries))
    }
}
