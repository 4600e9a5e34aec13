//! The virtual CPU as the run loop sees it.

use super::*;

impl VcpuBackend for SvmVcpu {
    const NAME: &'static str = "svm";

    fn gprs(&self) -> &Gprs {
        &self.context.gprs
    }
    fn gprs_mut(&mut self) -> &mut Gprs {
        &mut self.context.gprs
    }
    fn rip(&self) -> u64 {
        self.context.vmcb.rip
    }
    fn set_rip(&mut self, rip: u64) {
        self.context.vmcb.rip = rip;
    }
    fn rflags(&self) -> u64 {
        self.context.vmcb.rflags
    }
    fn set_rflags(&mut self, rflags: u64) {
        self.context.vmcb.rflags = rflags | 2;
    }
    fn cpl(&self) -> u8 {
        self.context.vmcb.cpl & 3
    }

    fn sysreg(&self, reg: SysReg) -> u64 {
        let v = &*self.context.vmcb;
        if let Some(guest) = &self.guest {
            match reg {
                // A CPU that switches tasks without an exit sets TS.
                SysReg::Cr0 => return guest.cr0 | v.cr0 & Cr0::TS.bits(),
                SysReg::Cr3 => return guest.cr3,
                SysReg::Cr4 => return guest.cr4,
                SysReg::Efer => return guest.efer & !Efer::SVME.bits(),
                SysReg::Pat => return guest.pat,
                _ => {}
            }
        }
        match reg {
            SysReg::Cr0 => v.cr0,
            SysReg::Cr2 => v.cr2,
            SysReg::Cr3 => v.cr3,
            SysReg::Cr4 => v.cr4,
            SysReg::Efer => v.efer & !Efer::SVME.bits(),
            SysReg::Dr0 => hw::debug_address(0),
            SysReg::Dr1 => hw::debug_address(1),
            SysReg::Dr2 => hw::debug_address(2),
            SysReg::Dr3 => hw::debug_address(3),
            SysReg::Dr6 => v.dr6,
            SysReg::Dr7 => v.dr7,
            SysReg::Pat => v.g_pat,
            SysReg::Star => v.star,
            SysReg::Lstar => v.lstar,
            SysReg::Cstar => v.cstar,
            SysReg::Sfmask => v.sfmask,
            SysReg::KernelGsBase => v.kernel_gs_base,
            SysReg::SysenterCs => v.sysenter_cs,
            SysReg::SysenterEsp => v.sysenter_esp,
            SysReg::SysenterEip => v.sysenter_eip,
            SysReg::TscOffset => v.tsc_offset,
            SysReg::SpecCtrl => v.spec_ctrl | self.context.spec_ctrl,
        }
    }

    fn prediction_barrier(&mut self) {
        hw::prediction_barrier();
    }

    fn set_sysreg(&mut self, reg: SysReg, value: u64) {
        if let Some(guest) = &mut self.guest {
            guest.cr0 |= self.context.vmcb.cr0 & Cr0::TS.bits();
            let register = match reg {
                SysReg::Cr0 => Some(&mut guest.cr0),
                SysReg::Cr3 => Some(&mut guest.cr3),
                SysReg::Cr4 => Some(&mut guest.cr4),
                SysReg::Efer => Some(&mut guest.efer),
                SysReg::Pat => Some(&mut guest.pat),
                _ => None,
            };
            if let Some(register) = register {
                *register = value;
                if reg == SysReg::Efer {
                    *register |= Efer::SVME.bits();
                }
                self.encode_guest_control();
                return self.leave_or_take_identity_map();
            }
        }
        let v = &mut *self.context.vmcb;
        match reg {
            SysReg::Cr0 => {
                v.cr0 = value;
                self.leave_or_take_identity_map();
            }
            SysReg::Cr2 => {
                v.cr2 = value;
                hw::write_cr2(value);
            }
            SysReg::Cr3 => v.cr3 = value,
            SysReg::Cr4 => v.cr4 = value,
            // VMRUN refuses a guest without SVME (APM vol 2 15.5.1); the guest never sees the bit.
            SysReg::Efer => v.efer = value | Efer::SVME.bits(),
            SysReg::Dr0 => hw::set_debug_address(0, value),
            SysReg::Dr1 => hw::set_debug_address(1, value),
            SysReg::Dr2 => hw::set_debug_address(2, value),
            SysReg::Dr3 => hw::set_debug_address(3, value),
            SysReg::Dr6 => v.dr6 = value,
            SysReg::Dr7 => v.dr7 = value,
            SysReg::Pat => v.g_pat = value,
            SysReg::Star => v.star = value,
            SysReg::Lstar => v.lstar = value,
            SysReg::Cstar => v.cstar = value,
            SysReg::Sfmask => v.sfmask = value,
            SysReg::KernelGsBase => v.kernel_gs_base = value,
            SysReg::SysenterCs => v.sysenter_cs = value,
            SysReg::SysenterEsp => v.sysenter_esp = value,
            SysReg::SysenterEip => v.sysenter_eip = value,
            SysReg::TscOffset => v.tsc_offset = value,
            SysReg::SpecCtrl if self.features.v_spec_ctrl => v.spec_ctrl = value,
            SysReg::SpecCtrl => self.context.spec_ctrl = value,
        }
    }

    fn flush_linear(&mut self) {
        self.flush_linear = true;
    }

    fn set_shadow_paging(&mut self, on: bool) {
        self.use_shadow(on);
    }

    fn set_fence(&mut self, root: Option<Hpa>) {
        self.fence = root;
        let v = &mut *self.context.vmcb;
        v.np_enable = if root.is_some() { NP_ENABLE } else { 0 };
        v.n_cr3 = root.map_or(0, |root| root.0);
        self.flush_linear = true;
    }

    fn switched_tasks(&self) -> Option<u64> {
        let cr3 = self.context.vmcb.cr3;
        (self.fence.is_some() && cr3 != self.root.0).then_some(cr3)
    }

    fn segment(&self, reg: SegReg) -> Segment {
        let s = self.segment_ref(reg);
        Segment {
            selector: s.selector,
            attr: SegAttr::from_bits_truncate(s.attrib),
            limit: s.limit,
            base: s.base,
        }
    }

    fn set_segment(&mut self, reg: SegReg, value: Segment) {
        let s = VmcbSegment {
            selector: value.selector,
            attrib: value.attr.bits(),
            limit: value.limit,
            base: value.base,
        };
        let v = &mut *self.context.vmcb;
        match reg {
            SegReg::Es => v.es = s,
            SegReg::Cs => v.cs = s,
            SegReg::Ss => {
                v.ss = s;
                v.cpl = value.attr.dpl();
            }
            SegReg::Ds => v.ds = s,
            SegReg::Fs => v.fs = s,
            SegReg::Gs => v.gs = s,
            SegReg::Ldtr => v.ldtr = s,
            SegReg::Tr => v.tr = s,
            SegReg::Gdtr => v.gdtr = s,
            SegReg::Idtr => v.idtr = s,
        }
    }

    fn fx(&self) -> &FxState {
        &self.context.fx
    }
    fn fx_mut(&mut self) -> &mut FxState {
        &mut self.context.fx
    }

    fn interrupt_shadow(&self) -> bool {
        self.context.vmcb.interrupt_shadow & INTERRUPT_SHADOW != 0
    }
    fn set_interrupt_shadow(&mut self, shadow: Shadow) {
        self.context.vmcb.interrupt_shadow &= !INTERRUPT_SHADOW;
        if shadow != Shadow::None {
            self.context.vmcb.interrupt_shadow |= INTERRUPT_SHADOW;
        }
    }
    fn xcr0(&self) -> u64 {
        // QEMU lets the guest set it without an exit: the CPU's own is the guest's.
        if self.features.xsave && self.unloaded.is_none() {
            hw::xcr0()
        } else {
            self.xcr0
        }
    }
    fn set_xcr0(&mut self, value: u64) {
        if self.features.xsave {
            hw::write_xcr0(value);
            self.xcr0 = value;
        }
    }

    fn reset(&mut self) {
        self.reset_registers();
        (0..4).for_each(|n| hw::set_debug_address(n, 0));
        hw::load_x87_environment(&X87Environment::default());
        if self.features.xsave {
            hw::write_xcr0(1);
        }
    }

    fn unload(&mut self) {
        // Everything else is in the control block, the context and the FPU state.
        self.xcr0 = self.xcr0();
        self.unloaded = Some(Unloaded {
            debug: [0, 1, 2, 3].map(hw::debug_address),
            x87: hw::save_x87_environment(),
        });
    }

    fn load(&mut self) {
        hw::write_cr2(self.context.vmcb.cr2);
        // What another CPU remembers of the guest may be out of date. (Its ASIDs are the same numbers.)
        self.flush_linear |= hw::renew_host(&mut self.context.host);
        self.flush_linear |= self.asid.claim();
        if let Some(unloaded) = self.unloaded.take() {
            for (n, value) in (0..).zip(unloaded.debug) {
                hw::set_debug_address(n, value);
            }
            hw::load_x87_environment(&unloaded.x87);
        }
    }

    fn set_pause_exiting(&mut self, on: bool) {
        self.always.set(Intercept3::PAUSE, on);
        self.context.vmcb.intercept3 = self.always.bits();
    }

    fn set_paging_exiting(&mut self, on: bool) {
        let v = &mut *self.context.vmcb;
        match on {
            true => v.intercept_cr_write |= PAGING_WRITES,
            false if self.guest.is_none() => v.intercept_cr_write &= !PAGING_WRITES,
            false => {}
        }
    }

    fn set_exceptions_exiting(&mut self, which: u32) {
        let page_faults = if self.on_shadow() { 1 << vector::PF } else { 0 };
        let always = intercepted_exceptions(&self.features);
        self.context.vmcb.intercept_exceptions = always | page_faults | which;
    }

    fn set_msr_exiting(&mut self, msr: u32) {
        self.msrpm.intercept(msr);
    }

    fn can_inject(&self, i: &Injection) -> bool {
        let event = match i.event {
            Some(e) if e.kind.is_software() => false,
            // Bochs 2.7 does not look at the intercept of a shutdown: a triple fault of the guest would end Bochs.
            Some(e) if e.is_double_fault() => false,
            // A window needs the virtual interrupt for itself.
            Some(e) if e.kind == EventKind::ExternalInterrupt => {
                !(self.features.quirks.inject_virtual && i.irq_window)
            }
            _ => true,
        };
        // The only window for NMIs is the intercept of the IRET that ends a handler.
        event && (i.nmi_blocked || !i.nmi_window)
    }

    fn vectoring_may_be_stale(&self) -> bool {
        self.features.quirks.stale_vectoring
    }

    fn invalid_cr3_fails_entry(&self) -> bool {
        self.features.quirks.invalid_cr3_fails_entry
    }

    #[inline(always)]
    fn has_tpr_shadow(&self) -> bool {
        true
    }

    #[inline(always)]
    fn set_task_priority(&mut self, cr8: u8, threshold: u8) {
        self.task_priority = cr8;
        let v = &mut self.context.vmcb.virtual_interrupt;
        *v = *v & !VirtualInterrupt::V_TPR.bits() | u64::from(cr8);
        self.context.vmcb.intercept_cr_write = if threshold == 0 {
            self.context.vmcb.intercept_cr_write & !INTERCEPT_CR8
        } else {
            self.context.vmcb.intercept_cr_write | INTERCEPT_CR8
        };
    }

    #[inline(always)]
    fn changed_task_priority(&mut self) -> Option<u8> {
        let cr8 = (self.context.vmcb.virtual_interrupt & VirtualInterrupt::V_TPR.bits()) as u8;
        (cr8 != self.task_priority).then_some(cr8)
    }

    // The second caller, the scratch guest, must not make a call of it for the run loop.
    #[inline(always)]
    fn run(&mut self, entry: &Entry) -> VmExit {
        self.encode_root(entry.root);
        let plain = entry.flush == TlbFlush::None
            && entry.inject.is_none()
            && !entry.irq_window
            && !entry.nmi_window;
        if self.flush_linear || !plain {
            return self.run_apart(*entry);
        }
        self.enter();
        decode(&self.context.vmcb, &self.features)
    }

    #[inline(always)]
    fn run_with_event(&mut self, entry: &Entry) -> VmExit {
        self.run_encoded(entry)
    }

    fn dump_exit(&self, out: &mut dyn core::fmt::Write) {
        let v = &*self.context.vmcb;
        let _ = writeln!(
            out,
            " exit={:x} info1={:x} info2={:x} intinfo={:x}",
            v.exit_code, v.exit_info1, v.exit_info2, v.exit_int_info
        );
    }
}
