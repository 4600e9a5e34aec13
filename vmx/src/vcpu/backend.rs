//! The virtual CPU as the run loop sees it.

use super::*;
use hv_core::sentence::sentence;

impl<H: Hardware> VcpuBackend for VmxVcpu<H> {
    const NAME: &'static str = "vmx";

    fn gprs(&self) -> &Gprs {
        self.hw.gprs()
    }
    fn gprs_mut(&mut self) -> &mut Gprs {
        self.hw.gprs_mut()
    }
    fn rip(&self) -> u64 {
        self.cache.get(&self.hw, cache::RIP)
    }
    fn set_rip(&mut self, rip: u64) {
        self.cache.set(cache::RIP, rip);
    }
    fn rflags(&self) -> u64 {
        self.cache.get(&self.hw, cache::RFLAGS)
    }
    fn set_rflags(&mut self, rflags: u64) {
        if (rflags ^ self.rflags()) & Rflags::VM.bits() != 0 {
            self.fits.set(None);
        }
        self.cache.set(cache::RFLAGS, rflags | Rflags::ONE.bits());
    }
    fn cpl(&self) -> u8 {
        let ss = self.cache.get(&self.hw, cache::segment(SegReg::Ss) + 3);
        attributes(ss as u32).dpl()
    }

    fn sysreg(&self, reg: SysReg) -> u64 {
        match reg {
            SysReg::Cr0 => self.guest_cr0().bits(),
            SysReg::Cr2 => self.hw.register(CpuRegister::Cr2),
            SysReg::Cr3 => self.guest_cr3(),
            SysReg::Cr4 => self.guest_cr4().bits(),
            SysReg::Efer => self.efer.bits(),
            SysReg::Dr0 => self.hw.register(CpuRegister::Dr0),
            SysReg::Dr1 => self.hw.register(CpuRegister::Dr1),
            SysReg::Dr2 => self.hw.register(CpuRegister::Dr2),
            SysReg::Dr3 => self.hw.register(CpuRegister::Dr3),
            SysReg::Dr6 => self.hw.register(CpuRegister::Dr6),
            SysReg::Dr7 => self.hw.read(Field::GUEST_DR7),
            SysReg::Pat => self.pat,
            SysReg::Star => self.hw.register(CpuRegister::Star),
            SysReg::Lstar => self.hw.register(CpuRegister::Lstar),
            SysReg::Cstar => self.hw.register(CpuRegister::Cstar),
            SysReg::Sfmask => self.hw.register(CpuRegister::Sfmask),
            SysReg::KernelGsBase => self.hw.register(CpuRegister::KernelGsBase),
            SysReg::SysenterCs => self.hw.read(Field::GUEST_SYSENTER_CS),
            SysReg::SysenterEsp => self.hw.read(Field::GUEST_SYSENTER_ESP),
            SysReg::SysenterEip => self.hw.read(Field::GUEST_SYSENTER_EIP),
            SysReg::TscOffset => self.tsc_offset,
            SysReg::SpecCtrl => self.spec_ctrl,
        }
    }

    fn set_sysreg(&mut self, reg: SysReg, value: u64) {
        match reg {
            SysReg::Cr0 => self.set_control_register(|c| c.cr0 = Cr0::from_bits_retain(value)),
            SysReg::Cr2 => self.hw.set_register(CpuRegister::Cr2, value),
            SysReg::Cr3 => self.set_control_register(|c| c.cr3 = value),
            SysReg::Cr4 => self.set_control_register(|c| c.cr4 = Cr4::from_bits_retain(value)),
            SysReg::Efer => self.set_control_register(|c| c.efer = Efer::from_bits_retain(value)),
            SysReg::Dr0 => self.hw.set_register(CpuRegister::Dr0, value),
            SysReg::Dr1 => self.hw.set_register(CpuRegister::Dr1, value),
            SysReg::Dr2 => self.hw.set_register(CpuRegister::Dr2, value),
            SysReg::Dr3 => self.hw.set_register(CpuRegister::Dr3, value),
            SysReg::Dr6 => self.hw.set_register(CpuRegister::Dr6, value),
            SysReg::Dr7 => self.hw.write(Field::GUEST_DR7, value & 0xffff_ffff),
            SysReg::Pat => self.set_pat(value),
            SysReg::Star => self.hw.set_register(CpuRegister::Star, value),
            SysReg::Lstar => self.hw.set_register(CpuRegister::Lstar, value),
            SysReg::Cstar => self.hw.set_register(CpuRegister::Cstar, value),
            SysReg::Sfmask => self.hw.set_register(CpuRegister::Sfmask, value),
            SysReg::KernelGsBase => self.hw.set_register(CpuRegister::KernelGsBase, value),
            SysReg::SysenterCs => self.hw.write(Field::GUEST_SYSENTER_CS, value & 0xffff_ffff),
            SysReg::SysenterEsp => self.hw.write(Field::GUEST_SYSENTER_ESP, value),
            SysReg::SysenterEip => self.hw.write(Field::GUEST_SYSENTER_EIP, value),
            SysReg::TscOffset => {
                self.tsc_offset = value;
                self.hw.write(Field::TSC_OFFSET, value);
            }
            SysReg::SpecCtrl => self.set_spec_ctrl(value),
        }
    }

    fn prediction_barrier(&mut self) {
        self.hw.prediction_barrier();
    }

    fn set_pdptes(&mut self, entries: [u64; 4]) {
        let fields = [
            Field::GUEST_PDPTE0,
            Field::GUEST_PDPTE1,
            Field::GUEST_PDPTE2,
            Field::GUEST_PDPTE3,
        ];
        for (field, value) in fields.into_iter().zip(entries) {
            self.hw.write(field, value);
        }
    }

    fn flush_linear(&mut self) {
        self.flush_linear = true;
    }

    fn set_shadow_paging(&mut self, on: bool) {
        self.use_shadow(on);
    }

    fn segment(&self, reg: SegReg) -> Segment {
        let get = |slot| self.cache.get(&self.hw, slot);
        if matches!(reg, SegReg::Gdtr | SegReg::Idtr) {
            let at = cache::table(reg);
            return Segment {
                base: get(at),
                limit: get(at + 1) as u32,
                ..Segment::default()
            };
        }
        let at = cache::segment(reg);
        Segment {
            selector: get(at) as u16,
            base: get(at + 1),
            limit: get(at + 2) as u32,
            attr: attributes(get(at + 3) as u32),
        }
    }

    fn set_segment(&mut self, reg: SegReg, value: Segment) {
        self.fits.set(None);
        if matches!(reg, SegReg::Gdtr | SegReg::Idtr) {
            let at = cache::table(reg);
            self.cache.set(at, value.base);
            self.cache.set(at + 1, u64::from(value.limit & 0xffff));
            return;
        }
        let at = cache::segment(reg);
        self.cache.set(at, value.selector.into());
        self.cache.set(at + 1, value.base);
        self.cache.set(at + 2, value.limit.into());
        self.cache.set(at + 3, access_rights(value.attr).into());
    }

    fn fx(&self) -> &FxState {
        &self.fx
    }
    fn fx_mut(&mut self) -> &mut FxState {
        &mut self.fx
    }

    fn interrupt_shadow(&self) -> bool {
        self.cache.get(&self.hw, cache::INTERRUPTIBILITY) & SHADOW != 0
    }
    fn set_interrupt_shadow(&mut self, shadow: Shadow) {
        let old = self.cache.get(&self.hw, cache::INTERRUPTIBILITY);
        let bits = match shadow {
            Shadow::None => 0,
            Shadow::Sti => blocking(Interruptibility::STI),
            Shadow::MovSs => blocking(Interruptibility::MOV_SS),
        };
        let new = old & !SHADOW | bits;
        if new != old {
            self.cache.set(cache::INTERRUPTIBILITY, new);
        }
    }
    fn nmi_blocked(&self) -> Option<bool> {
        let state = self.cache.get(&self.hw, cache::INTERRUPTIBILITY);
        Some(state & blocking(Interruptibility::NMI) != 0)
    }
    fn set_nmi_blocked(&mut self, blocked: bool) {
        let old = self.cache.get(&self.hw, cache::INTERRUPTIBILITY);
        let bits = if blocked {
            blocking(Interruptibility::NMI)
        } else {
            0
        };
        let new = old & !blocking(Interruptibility::NMI) | bits;
        if new != old {
            self.cache.set(cache::INTERRUPTIBILITY, new);
        }
    }
    fn xcr0(&self) -> u64 {
        self.xcr0
    }
    fn set_xcr0(&mut self, value: u64) {
        self.hw.set_xcr0(value);
        self.xcr0 = value;
    }

    fn reset(&mut self) {
        // XCR0 exists only where the guest can have changed it.
        if self.xcr0 != 1 {
            self.hw.set_xcr0(1);
        }
        self.reset_registers();
    }

    fn unload(&mut self) {
        self.unloaded = CpuRegister::ALL.map(|register| self.hw.register(register));
        self.hw.clear();
    }

    fn load(&mut self) {
        self.flush_linear |= self.hw.make_current();
        for (register, value) in CpuRegister::ALL.into_iter().zip(self.unloaded) {
            self.hw.set_register(register, value);
        }
    }

    fn can_run(&self) -> bool {
        match self.unrestricted() {
            true => !(self.wants_rpl_0 && self.has_odd_real_mode_selector()),
            false => self.cr0.contains(Cr0::PE) && self.segments_fit(),
        }
    }

    fn has_tpr_shadow(&self) -> bool {
        self.plan.primary.contains(Primary::USE_TPR_SHADOW)
    }

    fn set_task_priority(&mut self, cr8: u8, threshold: u8) {
        let old = self.task_priority;
        if old == (cr8, threshold) {
            return;
        }
        self.task_priority = (cr8, threshold);
        self.virtual_apic.set_cr8(cr8);
        if old.1 != threshold {
            self.hw.write(Field::TPR_THRESHOLD, threshold.into());
        }
    }

    fn changed_task_priority(&mut self) -> Option<u8> {
        let cr8 = self.virtual_apic.cr8();
        let changed = cr8 != self.task_priority.0;
        self.task_priority.0 = cr8;
        changed.then_some(cr8)
    }

    fn set_pause_exiting(&mut self, on: bool) {
        let allowed = self.capabilities.primary.may & Primary::PAUSE_EXITING.bits() != 0;
        self.primary.set(Primary::PAUSE_EXITING, on && allowed);
    }

    fn set_paging_exiting(&mut self, on: bool) {
        match on {
            true => self.primary |= Primary::CR3_LOAD_EXITING,
            false => self.set_control_register(|_| {}),
        }
    }

    fn set_exceptions_exiting(&mut self, which: u32) {
        let page_faults = if self.shadow { 1 << vector::PF } else { 0 };
        let which = INTERCEPT_EXCEPTIONS | page_faults | which;
        self.hw.write(Field::EXCEPTION_BITMAP, which.into());
    }

    fn set_msr_exiting(&mut self, msr: u32) {
        self.msrs.intercept(msr);
    }

    fn has_timer(&self) -> bool {
        self.plan.pin.contains(Pin::PREEMPTION_TIMER)
    }

    fn run(&mut self, entry: &Entry) -> VmExit {
        self.encode(entry);
        if self.check_entries
            && let Err(violation) = self.check()
        {
            return self.fail(sentence(format_args!("not tried: {violation}")));
        }
        if let Err(error) = self.hw.enter(&mut self.fx) {
            return self.failed(Some(error));
        }
        self.cache.forget();
        self.rsp = self.hw.read(Field::GUEST_RSP);
        self.hw.gprs_mut().regs[gpr::RSP] = self.rsp;
        let rip = self.cache.get(&self.hw, cache::RIP);
        let hw = &self.hw;
        let mut d = decode(|field| hw.read(field), rip);
        self.settle(d.block_nmis, d.unblock_nmis);
        match d.exit.reason {
            ExitReason::EntryFailed if self.learns_of_selectors() => {
                // The guest has not been entered: the event waits, and the instruction is executed in software. The VMCS may not have been
                // launched.
                self.hw.clear();
                self.hw.make_current();
                d.exit.reason = ExitReason::InterruptWindow;
                d.exit.vectoring = entry.inject;
            }
            ExitReason::EntryFailed => return self.failed(None),
            ExitReason::Nmi => self.hw.host_nmi(),
            // INT1 says nothing about debug conditions.
            ExitReason::Exception {
                kind: EventKind::Exception,
                vector: vector::DB,
                payload,
                ..
            } => self.report_debug_exception(payload),
            _ => {}
        }
        // Only an instruction that ends at 4 GiB needs to know the mode for its next RIP.
        if let Some(next) = d.exit.next_rip
            && (rip ^ next) >> 32 != 0
            && !(self.efer.contains(Efer::LMA)
                && self.segment(SegReg::Cs).attr.contains(SegAttr::L))
        {
            d.exit.next_rip = Some(next & 0xffff_ffff);
        }
        d.exit
    }

    fn accesses(&self) -> Option<(u64, u64)> {
        Some(self.hw.accesses())
    }

    fn dump_exit(&self, out: &mut dyn core::fmt::Write) {
        if let Some(why) = &self.failure {
            let _ = writeln!(out, " entry failed: {why}");
        }
        let read = |field| self.hw.read(field);
        let _ = writeln!(
            out,
            " exit={:x} qualification={:x} interruption={:x} vectoring={:x} gpa={:x}",
            read(Field::EXIT_REASON),
            read(Field::EXIT_QUALIFICATION),
            read(Field::EXIT_INTERRUPTION_INFO),
            read(Field::IDT_VECTORING_INFO),
            read(Field::GUEST_PHYSICAL_ADDRESS)
        );
    }
}
