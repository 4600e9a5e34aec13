//! The guest's memory and registers as the instruction emulator sees them: linear addresses are walked, RAM is copied, the rest
//! goes to the bus.

use super::Vcpu;
use super::pieces::{self, WIDEST};
use crate::bus;
use crate::cpu::VcpuBackend;
use crate::device::AccessSize;
use crate::emulate::{AccessKind, DecodeCache, EmuCx, EmuFault, Executed, NativeInsn};
use crate::event::vector;
use crate::fx::FxState;
use crate::mmu::{Access, Mmu, PagingState};
use crate::msr::{MsrFault, nr};
use crate::regs::{Cr0, Cr4, Efer, Gprs, Rflags, SegReg, Segment, SysReg};
use crate::time::Clock;
use crate::{Gpa, Gva, VmTime};

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    pub(super) fn paging_state(&self) -> PagingState {
        PagingState {
            cr0: Cr0::from_bits_retain(self.cpu.sysreg(SysReg::Cr0)),
            cr3: self.cpu.sysreg(SysReg::Cr3),
            cr4: Cr4::from_bits_retain(self.cpu.sysreg(SysReg::Cr4)),
            efer: Efer::from_bits_retain(self.cpu.sysreg(SysReg::Efer)),
            ac: self.cpu.rflags() & Rflags::AC.bits() != 0,
            physical_bits: self.vm.cpuid.physical_bits(),
        }
    }

    #[inline]
    fn translate(&mut self, gva: Gva, access: Access) -> Result<Gpa, EmuFault> {
        // Without paging there is nothing to walk: firmware in software is here for every access.
        let gpa = if self.cpu.sysreg(SysReg::Cr0) & Cr0::PG.bits() == 0 {
            Gpa(gva.0 & 0xffff_ffff)
        } else {
            self.walk(gva, access)?
        };
        Ok(self.decode(gpa))
    }

    fn walk(&mut self, gva: Gva, access: Access) -> Result<Gpa, EmuFault> {
        let state = self.paging_state();
        let memory = &*self.vm.memory;
        let own = match self.shadow {
            true => None,
            false => M::walk(memory, &state, gva, access),
        };
        own.unwrap_or_else(|| self.vm.mmu().translate(memory, &state, gva, access))
            .map_err(|f| EmuFault::Exception {
                vector: vector::PF,
                error: Some(f.error.bits()),
                cr2: Some(f.gva.0),
            })
    }

    fn access(&self, kind: AccessKind, write: bool) -> Access {
        Access {
            write: write || matches!(kind, AccessKind::Update | AccessKind::SystemUpdate),
            fetch: false,
            user: self.cpu.cpl() == 3,
            implicit: matches!(kind, AccessKind::System | AccessKind::SystemUpdate),
        }
    }

    /// The physical places of `[linear, linear + len)`: one, or two if it crosses a page.
    fn places(
        &mut self,
        linear: Gva,
        len: usize,
        access: Access,
    ) -> Result<[(Gpa, usize); 2], EmuFault> {
        let first = len.min(0x1000 - linear.page_offset() as usize);
        let a = self.translate(linear, access)?;
        let b = if first < len {
            self.translate(linear.add(first as u64), access)?
        } else {
            Gpa(0)
        };
        Ok([(a, first), (b, len - first)])
    }

    /// The time for what an instruction does to a device.
    pub(super) fn device_time(&mut self) -> VmTime {
        if self.now_is_old {
            self.resume();
        }
        self.now
    }

    pub(super) fn device_read(&mut self, gpa: Gpa, buf: &mut [u8]) {
        let now = self.device_time();
        let Some(own) = bus::own_register(gpa) else {
            return pieces::read(&mut self.vm.bus(), now, gpa, buf);
        };
        pieces::fill(own, buf, |at, _| self.irqs.mmio_read(now, at));
    }

    pub(super) fn device_write(&mut self, gpa: Gpa, buf: &[u8]) {
        let now = self.device_time();
        let Some(own) = bus::own_register(gpa) else {
            return pieces::write(&mut self.vm.bus(), now, gpa, buf);
        };
        pieces::spend(own, buf, |at, size, value| {
            self.irqs.mmio_write(now, at, size, value);
            self.apic_written(at);
        });
    }
}

/// Whether `[linear, linear + len)` lies within one page.
const fn within_page(linear: Gva, len: usize) -> bool {
    linear.page_offset() as usize + len <= 0x1000
}

/// The segment whose base a model-specific register is, which the hardware lets through: only in software it comes here.
const fn base_register(msr: u32) -> Option<SegReg> {
    match msr {
        nr::FS_BASE => Some(SegReg::Fs),
        nr::GS_BASE => Some(SegReg::Gs),
        _ => None,
    }
}

/// Whether `address` is canonical with four levels of tables (SDM vol 1 3.3.7.1, "Canonical Addressing").
pub(super) const fn is_canonical(address: u64) -> bool {
    matches!(address.cast_signed() >> 47, 0 | -1)
}

impl<B: VcpuBackend, M: Mmu, C: Clock> EmuCx for Vcpu<B, M, C> {
    fn gprs(&self) -> &Gprs {
        self.cpu.gprs()
    }
    fn gprs_mut(&mut self) -> &mut Gprs {
        self.cpu.gprs_mut()
    }
    fn rip(&self) -> u64 {
        self.cpu.rip()
    }
    fn set_rip(&mut self, rip: u64) {
        self.cpu.set_rip(rip);
    }
    fn rflags(&self) -> Rflags {
        Rflags::from_bits_retain(self.cpu.rflags())
    }
    fn set_rflags(&mut self, rflags: Rflags) {
        self.cpu.set_rflags(rflags.bits());
    }
    fn segment(&self, seg: SegReg) -> Segment {
        self.cpu.segment(seg)
    }
    fn set_segment(&mut self, seg: SegReg, value: Segment) {
        self.cpu.set_segment(seg, value);
    }
    fn sysreg(&self, reg: SysReg) -> u64 {
        self.cpu.sysreg(reg)
    }
    fn cpl(&self) -> u8 {
        self.cpu.cpl()
    }
    fn set_cpl(&mut self, _cpl: u8) {
        // It follows from SS, which the emulator loads too.
    }

    fn read(&mut self, linear: Gva, buf: &mut [u8], kind: AccessKind) -> Result<(), EmuFault> {
        let access = self.access(kind, false);
        let mut rest = buf;
        for (gpa, n) in self.places(linear, rest.len(), access)? {
            let (now, later) = rest.split_at_mut(n);
            if !now.is_empty() && self.vm.memory.read(gpa, now).is_err() {
                self.device_read(gpa, now);
            }
            rest = later;
        }
        Ok(())
    }

    fn write(&mut self, linear: Gva, buf: &[u8], kind: AccessKind) -> Result<(), EmuFault> {
        let access = self.access(kind, true);
        let mut rest = buf;
        for (gpa, n) in self.places(linear, rest.len(), access)? {
            let (now, later) = rest.split_at(n);
            if !now.is_empty() && self.vm.memory.write(gpa, now).is_err() {
                self.device_write(gpa, now);
            }
            rest = later;
        }
        Ok(())
    }

    #[inline]
    fn read_value(&mut self, linear: Gva, size: usize, kind: AccessKind) -> Result<u64, EmuFault> {
        if within_page(linear, size) {
            let access = self.access(kind, false);
            let gpa = self.translate(linear, access)?;
            if let Ok(value) = self.vm.memory.read_value(gpa, size) {
                return Ok(value);
            }
        }
        let mut b = [0; WIDEST];
        self.read(linear, &mut b[..size], kind)?;
        Ok(u64::from_le_bytes(b))
    }

    #[inline]
    fn write_value(
        &mut self,
        linear: Gva,
        size: usize,
        value: u64,
        kind: AccessKind,
    ) -> Result<(), EmuFault> {
        if within_page(linear, size) {
            let access = self.access(kind, true);
            let gpa = self.translate(linear, access)?;
            if self.vm.memory.write_value(gpa, size, value).is_ok() {
                return Ok(());
            }
        }
        self.write(linear, &value.to_le_bytes()[..size], kind)
    }

    fn check_write(&mut self, linear: Gva, len: usize) -> Result<(), EmuFault> {
        let access = self.access(AccessKind::Data, true);
        self.places(linear, len, access).map(|_| ())
    }

    fn fetch(&mut self, linear: Gva, buf: &mut [u8]) -> Result<usize, EmuFault> {
        let access = Access {
            fetch: true,
            user: self.cpu.cpl() == 3,
            ..Access::default()
        };
        let first = buf.len().min(0x1000 - linear.page_offset() as usize);
        let gpa = self.translate(linear, access)?;
        let (now, later) = buf.split_at_mut(first);
        if self.vm.memory.read(gpa, now).is_err() {
            // A device: it is read in aligned words, and no more of them than the instruction needs.
            let skip = gpa.0 as usize % WIDEST;
            let mut word = [0; WIDEST];
            self.device_read(Gpa(gpa.0 - skip as u64), &mut word);
            let n = now.len().min(WIDEST - skip);
            now[..n].copy_from_slice(&word[skip..skip + n]);
            return Ok(n);
        }
        if later.is_empty() {
            return Ok(first);
        }
        match self.translate(linear.add(first as u64), access) {
            Ok(gpa) if self.vm.memory.read(gpa, later).is_ok() => Ok(buf.len()),
            _ => Ok(first),
        }
    }

    #[inline]
    fn fetch_block(&mut self, linear: Gva) -> Option<u128> {
        let access = Access {
            fetch: true,
            user: self.cpu.cpl() == 3,
            ..Access::default()
        };
        let gpa = self.translate(linear, access).ok()?;
        self.vm.memory.read_u128(gpa).ok()
    }

    #[inline]
    fn decoded(&mut self) -> Option<&mut DecodeCache> {
        Some(&mut self.decoded)
    }

    fn ram_run(&mut self, linear: Gva, len: usize, write: bool) -> usize {
        let n = len.min(0x1000 - linear.page_offset() as usize);
        let access = self.access(AccessKind::Data, write);
        match self.translate(linear, access) {
            Ok(gpa) if self.vm.memory.contains(gpa, n, write) => n,
            _ => 0,
        }
    }

    fn update(
        &mut self,
        linear: Gva,
        size: usize,
        kind: AccessKind,
        change: &mut dyn FnMut(u128) -> u128,
    ) -> Result<(), EmuFault> {
        let access = self.access(kind, true);
        let places = self.places(linear, size, access)?;
        self.update_places(places, change)
    }

    fn fx(&self) -> &FxState {
        self.cpu.fx()
    }
    fn fx_mut(&mut self) -> &mut FxState {
        self.cpu.fx_mut()
    }

    fn port_in(&mut self, port: u16, size: AccessSize) -> u32 {
        let now = self.device_time();
        self.vm.bus().port_read(now, port, size)
    }
    fn port_out(&mut self, port: u16, size: AccessSize, value: u32) {
        let now = self.device_time();
        self.vm.bus().port_write(now, port, size, value);
    }
    fn port_in_block(&mut self, port: u16, size: AccessSize, buf: &mut [u8]) {
        let now = self.device_time();
        self.vm.bus().port_read_block(now, port, size, buf);
    }
    fn port_out_block(&mut self, port: u16, size: AccessSize, buf: &[u8]) {
        let now = self.device_time();
        self.vm.bus().port_write_block(now, port, size, buf);
    }

    fn execute(&mut self, insn: &mut NativeInsn) -> Executed {
        self.execute_natively(insn)
    }
    fn xcr0(&self) -> u64 {
        self.cpu.xcr0()
    }
    fn set_xcr0(&mut self, value: u64) -> Result<(), EmuFault> {
        self.write_xcr0(value)
    }

    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], EmuFault> {
        let r = self.vm.cpuid.get(leaf, subleaf, || self.cpuid_state());
        Ok([r.eax, r.ebx, r.ecx, r.edx])
    }
    fn read_msr(&mut self, msr: u32) -> Result<u64, EmuFault> {
        self.device_time();
        if let Some(seg) = base_register(msr) {
            return Ok(self.cpu.segment(seg).base);
        }
        self.msr_read(msr).map_err(|MsrFault| EmuFault::GP0)
    }
    fn write_msr(&mut self, msr: u32, value: u64) -> Result<(), EmuFault> {
        self.device_time();
        if let Some(seg) = base_register(msr) {
            if !is_canonical(value) {
                return Err(EmuFault::GP0);
            }
            let base = Segment {
                base: value,
                ..self.cpu.segment(seg)
            };
            self.cpu.set_segment(seg, base);
            return Ok(());
        }
        self.msr_write(msr, value).map_err(|MsrFault| EmuFault::GP0)
    }
    fn read_cr(&mut self, cr: u8) -> Result<u64, EmuFault> {
        Ok(match cr {
            0 => self.cpu.sysreg(SysReg::Cr0),
            2 => self.cpu.sysreg(SysReg::Cr2),
            3 => self.cpu.sysreg(SysReg::Cr3),
            4 => self.cpu.sysreg(SysReg::Cr4),
            8 => self.irqs.cr8().into(),
            _ => return Err(EmuFault::UD),
        })
    }
    fn write_cr(&mut self, cr: u8, value: u64) -> Result<(), EmuFault> {
        match cr {
            0 => self.write_cr0(value),
            2 => {
                self.cpu.set_sysreg(SysReg::Cr2, value);
                Ok(())
            }
            3 => self.write_cr3(value),
            4 => self.write_cr4(value),
            8 if value > 15 => Err(EmuFault::GP0),
            8 => {
                self.irqs.set_cr8(value as u8);
                Ok(())
            }
            _ => Err(EmuFault::UD),
        }
    }
    fn read_dr(&mut self, dr: u8) -> Result<u64, EmuFault> {
        self.debug_read(dr)
    }
    fn write_dr(&mut self, dr: u8, value: u64) -> Result<(), EmuFault> {
        self.debug_write(dr, value)
    }
    fn check_cr3(&mut self, cr3: u64) -> Result<(), EmuFault> {
        self.check_pdptes(cr3)
    }
    fn enter_task(&mut self, cr3: Option<u64>) {
        self.task_switched(cr3);
    }
    fn invlpg(&mut self, linear: Gva) -> Result<(), EmuFault> {
        if self.shadow {
            let state = self.paging_state();
            self.vm.mmu().invalidate_page(self.index(), &state, linear);
        } else {
            self.cpu.flush_linear();
        }
        Ok(())
    }
    fn rdtsc(&mut self) -> Result<u64, EmuFault> {
        Ok(self
            .clock
            .ticks()
            .wrapping_add(self.cpu.sysreg(SysReg::TscOffset)))
    }
}
