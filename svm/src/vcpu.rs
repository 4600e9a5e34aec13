//! A virtual CPU on AMD-V: the registers in the control block, what is intercepted, and how an [`Entry`] is encoded.

use crate::Features;
use crate::exit::{decode, event_injection};
use crate::hw::{self, Context};
use crate::permission::{IoPermissionMap, MsrPermissionMap};
use crate::shadow::GuestControl;
use crate::vmcb::{
    INTERRUPT_SHADOW, Intercept3, Intercept4, NP_ENABLE, V_INTR_VECTOR, VirtualInterrupt, Vmcb,
    VmcbSegment, tlb_control,
};
use alloc::boxed::Box;
use hv_core::cpu::{Entry, VcpuBackend};
use hv_core::emulate::Shadow;
use hv_core::event::{Event, EventKind, vector};
use hv_core::exit::{ExitReason, VmExit};
use hv_core::fx::FxState;
use hv_core::mmu::TlbFlush;
use hv_core::msr::{PASS_THROUGH, PAT_RESET};
use hv_core::regs::{Efer, Gprs, Rflags, SegAttr, SegReg, Segment, SysReg};

/// Always left for: everything that reaches outside the guest or that it does not have. HLT for idling; INTR and NMI are the
/// host's; SHUTDOWN is the guest's triple fault.
const INTERCEPT3: Intercept3 = Intercept3::INTR
    .union(Intercept3::NMI)
    .union(Intercept3::SMI)
    .union(Intercept3::INIT)
    .union(Intercept3::RDPMC)
    .union(Intercept3::CPUID)
    .union(Intercept3::RSM)
    .union(Intercept3::INVD)
    .union(Intercept3::HLT)
    .union(Intercept3::INVLPGA)
    .union(Intercept3::IOIO)
    .union(Intercept3::MSR)
    .union(Intercept3::SHUTDOWN);

/// VMRUN must be intercepted (APM vol 2 15.5.1, "Basic Operation"); the other SVM instructions are #UD in the guest. RDTSCP is not offered.
const INTERCEPT4: Intercept4 = Intercept4::all();

/// #DB and #AC can be raised endlessly inside the CPU while they are delivered (CVE-2015-8104, CVE-2015-5307), unless they leave
/// the guest; #MC is the host's.
const INTERCEPT_EXCEPTIONS: u32 = 1 << vector::DB | 1 << vector::AC | 1 << vector::MC;

/// Reads and writes of CR8 leave the guest, so that the local APIC's task priority is always exact.
const INTERCEPT_CR8: u16 = 1 << 8;

/// One virtual CPU.
pub struct SvmVcpu {
    features: Features,
    pub(crate) vmcb: Box<Vmcb>,
    /// The guest's control registers, under shadow paging.
    pub(crate) guest: Option<GuestControl>,
    /// What is always left for.
    pub(crate) always: Intercept3,
    host: Box<Vmcb>,
    fx: Box<FxState>,
    context: Box<Context>,
    xcr0: u64,
    /// Debug registers 0 to 3 of a guest that is put aside.
    aside: Option<[u64; 4]>,
    /// The guest has halted past a virtual interrupt that it could have taken: the next one is injected by EVENTINJ.
    overdue: bool,
    /// The next entry flushes this guest's translations.
    pub(crate) flush_linear: bool,
    // The maps are referred to by address from the control block.
    _iopm: Box<IoPermissionMap>,
    _msrpm: Box<MsrPermissionMap>,
}

impl SvmVcpu {
    /// A virtual CPU with address-space identifier `asid` (1 to `features.asids - 1`). AMD-V is enabled on this CPU.
    #[must_use]
    pub fn new(features: Features, asid: u32) -> Self {
        let mut host = Box::new(Vmcb::default());
        hw::save_host(&mut host);
        Self::with_host(features, asid, host)
    }

    fn with_host(features: Features, asid: u32, host: Box<Vmcb>) -> Self {
        let iopm = IoPermissionMap::all();
        let msrpm = MsrPermissionMap::all_but(&PASS_THROUGH);
        let mut vmcb = Box::new(Vmcb::default());
        vmcb.iopm_base = hw::address(&*iopm).0;
        vmcb.msrpm_base = hw::address(&*msrpm).0;
        vmcb.asid = asid;
        vmcb.np_enable = NP_ENABLE;
        vmcb.intercept_cr_read = INTERCEPT_CR8;
        vmcb.intercept_cr_write = INTERCEPT_CR8;
        vmcb.intercept_exceptions = INTERCEPT_EXCEPTIONS;
        vmcb.intercept3 = INTERCEPT3.bits();
        vmcb.intercept4 = INTERCEPT4.bits();
        let fx = Box::new(FxState::reset());
        let context = Box::new(Context::new());
        let mut cpu = Self {
            features,
            vmcb,
            guest: None,
            always: INTERCEPT3,
            host,
            fx,
            context,
            xcr0: 1,
            aside: None,
            overdue: false,
            flush_linear: false,
            _iopm: iopm,
            _msrpm: msrpm,
        };
        cpu.reset_registers();
        cpu
    }

    fn reset_registers(&mut self) {
        let shadow = self.guest.is_some();
        self.use_shadow(false);
        self.reset_without_shadow();
        self.use_shadow(shadow);
    }

    fn reset_without_shadow(&mut self) {
        let data = VmcbSegment {
            selector: 0,
            attrib: 0x93,
            limit: 0xffff,
            base: 0,
        };
        let table = VmcbSegment {
            limit: 0xffff,
            ..VmcbSegment::default()
        };
        let v = &mut *self.vmcb;
        (v.es, v.ss, v.ds, v.fs, v.gs) = (data, data, data, data, data);
        v.cs = VmcbSegment {
            selector: 0xf000,
            attrib: 0x9b,
            limit: 0xffff,
            base: 0xffff_0000,
        };
        (v.gdtr, v.idtr) = (table, table);
        v.ldtr = VmcbSegment {
            attrib: 0x82,
            limit: 0xffff,
            ..VmcbSegment::default()
        };
        v.tr = VmcbSegment {
            attrib: 0x8b,
            limit: 0xffff,
            ..VmcbSegment::default()
        };
        v.cpl = 0;
        v.efer = Efer::SVME.bits();
        v.cr0 = 0x6000_0010;
        (v.cr2, v.cr3, v.cr4) = (0, 0, 0);
        v.dr6 = 0xffff_0ff0;
        v.dr7 = 0x400;
        v.rflags = 2;
        v.rip = 0xfff0;
        (v.star, v.lstar, v.cstar, v.sfmask, v.kernel_gs_base) = (0, 0, 0, 0, 0);
        (v.sysenter_cs, v.sysenter_esp, v.sysenter_eip) = (0, 0, 0);
        v.g_pat = PAT_RESET;
        v.interrupt_shadow = 0;
        v.event_injection = 0;
        v.exit_int_info = 0;
        *self.fx = FxState::reset();
        self.context.gprs = Gprs::default();
        self.xcr0 = 1;
        self.overdue = false;
    }

    fn segment_ref(&self, reg: SegReg) -> &VmcbSegment {
        let v = &*self.vmcb;
        match reg {
            SegReg::Es => &v.es,
            SegReg::Cs => &v.cs,
            SegReg::Ss => &v.ss,
            SegReg::Ds => &v.ds,
            SegReg::Fs => &v.fs,
            SegReg::Gs => &v.gs,
            SegReg::Ldtr => &v.ldtr,
            SegReg::Tr => &v.tr,
            SegReg::Gdtr => &v.gdtr,
            SegReg::Idtr => &v.idtr,
        }
    }

    /// Encodes what the run loop has decided.
    fn encode(&mut self, entry: &Entry) {
        let v = &mut *self.vmcb;
        match self.guest {
            Some(_) => v.cr3 = entry.root.0,
            None => v.n_cr3 = entry.root.0,
        }
        let flush = core::mem::take(&mut self.flush_linear) || entry.flush == TlbFlush::Guest;
        v.tlb_control = match flush {
            false => tlb_control::NOTHING,
            true if self.features.flush_by_asid => tlb_control::THIS_GUEST,
            true => tlb_control::EVERYTHING,
        };
        const VIRTUAL: VirtualInterrupt = VirtualInterrupt::V_IRQ
            .union(VirtualInterrupt::V_IGN_TPR)
            .union(VirtualInterrupt::V_INTR_PRIO);
        v.event_injection = 0;
        let mut vi = VirtualInterrupt::V_INTR_MASKING.bits();
        let mut i3 = self.always;
        match entry.inject {
            // A window needs the virtual interrupt for itself.
            Some(e)
                if self.features.inject_virtual
                    && !self.overdue
                    && e.kind == EventKind::ExternalInterrupt
                    && !entry.irq_window =>
            {
                vi |= VIRTUAL.bits() | u64::from(e.vector) << V_INTR_VECTOR;
            }
            Some(e) => v.event_injection = event_injection(&e),
            None => {}
        }
        if entry.irq_window {
            // A virtual interrupt that is never delivered: taking it would be the window.
            vi |= VIRTUAL.bits();
            i3 |= Intercept3::VINTR;
        }
        if entry.nmi_window {
            i3 |= Intercept3::IRET;
        }
        v.virtual_interrupt = vi;
        v.intercept3 = i3.bits();
    }
}

/// A virtual interrupt still waits when the guest is left (APM vol 2 15.21.4, "Injecting Virtual (INTR) Interrupts"): the guest has not
/// taken it yet, or its delivery was what was interrupted, which QEMU's emulation then gives as that of an exception.
fn not_delivered(exit: &mut VmExit, interrupt: Option<Event>, interruptible: bool) {
    let in_delivery = |e: Event| exit.vectoring.is_some_and(|v| v.vector == e.vector);
    if interruptible && interrupt.is_some_and(in_delivery) {
        exit.vectoring = interrupt;
    } else {
        exit.untaken = interrupt;
    }
}

impl VcpuBackend for SvmVcpu {
    const NAME: &'static str = "svm";

    fn gprs(&self) -> &Gprs {
        &self.context.gprs
    }
    fn gprs_mut(&mut self) -> &mut Gprs {
        &mut self.context.gprs
    }
    fn rip(&self) -> u64 {
        self.vmcb.rip
    }
    fn set_rip(&mut self, rip: u64) {
        self.vmcb.rip = rip;
    }
    fn rflags(&self) -> u64 {
        self.vmcb.rflags
    }
    fn set_rflags(&mut self, rflags: u64) {
        self.vmcb.rflags = rflags | 2;
    }
    fn cpl(&self) -> u8 {
        self.vmcb.cpl & 3
    }

    fn sysreg(&self, reg: SysReg) -> u64 {
        let v = &*self.vmcb;
        if let Some(guest) = &self.guest {
            match reg {
                SysReg::Cr0 => return guest.cr0,
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
        }
    }

    fn set_sysreg(&mut self, reg: SysReg, value: u64) {
        if let Some(guest) = &mut self.guest {
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
                return self.encode_guest_control();
            }
        }
        let v = &mut *self.vmcb;
        match reg {
            SysReg::Cr0 => v.cr0 = value,
            SysReg::Cr2 => v.cr2 = value,
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
        }
    }

    fn flush_linear(&mut self) {
        self.flush_linear = true;
    }

    fn set_shadow_paging(&mut self, on: bool) {
        self.use_shadow(on);
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
        let v = &mut *self.vmcb;
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
        &self.fx
    }
    fn fx_mut(&mut self) -> &mut FxState {
        &mut self.fx
    }

    fn interrupt_shadow(&self) -> bool {
        self.vmcb.interrupt_shadow & INTERRUPT_SHADOW != 0
    }
    fn set_interrupt_shadow(&mut self, shadow: Shadow) {
        self.vmcb.interrupt_shadow &= !INTERRUPT_SHADOW;
        if shadow != Shadow::None {
            self.vmcb.interrupt_shadow |= INTERRUPT_SHADOW;
        }
    }
    fn xcr0(&self) -> u64 {
        // QEMU lets the guest set it without an exit: the CPU's own is the guest's.
        if self.features.xsave && self.aside.is_none() {
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
        if self.features.xsave {
            hw::write_xcr0(1);
        }
    }

    fn put_aside(&mut self) {
        // Everything else is in the control block, the context and the FPU state.
        self.xcr0 = self.xcr0();
        self.aside = Some([0, 1, 2, 3].map(hw::debug_address));
    }

    fn take_up(&mut self) {
        for (n, value) in (0..).zip(self.aside.take().unwrap_or_default()) {
            hw::set_debug_address(n, value);
        }
    }

    fn run(&mut self, entry: &Entry) -> VmExit {
        self.encode(entry);
        self.context.run(&mut self.vmcb, &self.host, &mut self.fx);
        let mut exit = decode(&self.vmcb, &self.features);
        self.overdue = false;
        let waiting = self.vmcb.virtual_interrupt & VirtualInterrupt::V_IRQ.bits() != 0;
        if waiting && self.features.inject_virtual && !entry.irq_window {
            let interruptible = self.rflags() & Rflags::IF.bits() != 0;
            not_delivered(&mut exit, entry.inject, interruptible);
            // QEMU lets the first instruction after VMRUN go before a virtual interrupt. Firmware that waits in a loop of STI, HLT
            // and CLI would never take one.
            let halted = matches!(exit.reason, ExitReason::Hlt);
            self.overdue = halted && exit.untaken.is_some();
        }
        exit
    }

    fn dump_exit(&self, out: &mut dyn core::fmt::Write) {
        let v = &*self.vmcb;
        let _ = writeln!(
            out,
            " exit={:x} info1={:x} info2={:x} intinfo={:x}",
            v.exit_code, v.exit_info1, v.exit_info2, v.exit_int_info
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::Hpa;

    const ENTRY: Entry = Entry {
        root: Hpa(0x5000),
        flush: TlbFlush::None,
        inject: None,
        irq_window: false,
        nmi_window: false,
        timer: u64::MAX,
    };

    fn cpu() -> SvmVcpu {
        SvmVcpu::with_host(
            Features {
                asids: 16,
                ..Features::default()
            },
            1,
            Box::default(),
        )
    }

    #[test]
    fn it_keeps_the_rules_of_all_backends() {
        hv_core::testing::conformance::check(cpu);
    }

    #[test]
    fn reset_state_is_the_manuals() {
        let c = cpu();
        assert_eq!(
            (
                c.rip(),
                c.segment(SegReg::Cs).base,
                c.segment(SegReg::Cs).selector
            ),
            (0xfff0, 0xffff_0000, 0xf000)
        );
        assert_eq!(c.sysreg(SysReg::Cr0), 0x6000_0010);
        assert_eq!(c.sysreg(SysReg::Efer), 0, "SVME is hidden");
        assert_eq!(c.vmcb.efer, 1 << 12, "and set");
    }

    #[test]
    fn an_interrupt_that_is_not_delivered_comes_back_once() {
        let left = |vectoring, interruptible| {
            let mut exit = VmExit {
                reason: ExitReason::Shutdown,
                next_rip: None,
                vectoring,
                untaken: None,
            };
            not_delivered(&mut exit, Some(Event::interrupt(8)), interruptible);
            (exit.vectoring, exit.untaken)
        };
        let interrupt = Some(Event::interrupt(8));
        assert_eq!(left(None, true), (None, interrupt), "not taken");
        let as_qemu_tells = Some(Event::exception(8, None));
        assert_eq!(left(as_qemu_tells, true), (interrupt, None), "in delivery");
        let other = Some(Event::exception(13, None));
        assert_eq!(left(other, true), (other, interrupt));
        let double_fault = Some(Event::exception(8, Some(0)));
        assert_eq!(
            left(double_fault, false),
            (double_fault, interrupt),
            "with interrupts off"
        );
    }

    #[test]
    fn what_vmrun_insists_on_is_always_encoded() {
        let mut c = cpu();
        c.encode(&Entry {
            irq_window: true,
            inject: Some(Event::interrupt(0x20)),
            ..ENTRY
        });
        assert_ne!(c.vmcb.intercept4 & Intercept4::VMRUN.bits(), 0);
        assert_ne!(c.vmcb.asid, 0);
        assert_ne!(
            c.vmcb.virtual_interrupt & VirtualInterrupt::V_INTR_MASKING.bits(),
            0
        );
        assert_ne!(c.vmcb.intercept3 & Intercept3::VINTR.bits(), 0);
        c.encode(&ENTRY);
        assert_eq!(
            c.vmcb.intercept3 & Intercept3::VINTR.bits(),
            0,
            "the window is disarmed"
        );
        assert_eq!(c.vmcb.event_injection, 0);
    }

    #[test]
    fn an_interrupt_is_a_virtual_one_where_that_is_needed_and_free() {
        let mut c = cpu();
        c.encode(&Entry {
            inject: Some(Event::interrupt(0x20)),
            ..ENTRY
        });
        assert_eq!(c.vmcb.event_injection, 0x8000_0020);
        c.features.inject_virtual = true;
        let irq = Entry {
            inject: Some(Event::interrupt(0x20)),
            ..ENTRY
        };
        c.encode(&irq);
        assert_eq!(
            (c.vmcb.virtual_interrupt, c.vmcb.event_injection),
            (0x20 << 32 | 0x11f_0100, 0)
        );
        assert_eq!(c.vmcb.intercept3 & Intercept3::VINTR.bits(), 0);
        c.encode(&Entry {
            irq_window: true,
            ..irq
        });
        assert_eq!(c.vmcb.event_injection, 0x8000_0020);
        c.overdue = true;
        c.encode(&irq);
        assert_eq!(c.vmcb.event_injection, 0x8000_0020);
        c.overdue = false;
        c.encode(&Entry {
            inject: Some(Event::exception(6, None)),
            ..ENTRY
        });
        assert_eq!(
            (c.vmcb.virtual_interrupt, c.vmcb.event_injection),
            (0x100_0000, 0x8000_0306)
        );
    }

    #[test]
    fn flush_uses_what_the_cpu_has() {
        let mut c = cpu();
        c.encode(&Entry {
            flush: TlbFlush::Guest,
            ..ENTRY
        });
        assert_eq!(c.vmcb.tlb_control, tlb_control::EVERYTHING);
        c.encode(&ENTRY);
        assert_eq!(c.vmcb.tlb_control, tlb_control::NOTHING);
        c.flush_linear();
        c.encode(&ENTRY);
        assert_eq!(c.vmcb.tlb_control, tlb_control::EVERYTHING);
        c.encode(&ENTRY);
        assert_eq!(c.vmcb.tlb_control, tlb_control::NOTHING, "once");
        c.features.flush_by_asid = true;
        c.encode(&Entry {
            flush: TlbFlush::Guest,
            ..ENTRY
        });
        assert_eq!(c.vmcb.tlb_control, tlb_control::THIS_GUEST);
    }
}
