//! A virtual CPU on AMD-V: the registers in the control block, what is intercepted, and how an [`Entry`] is encoded.

mod backend;
mod shadow;
#[cfg(test)]
mod tests;

use self::shadow::{GuestControl, Tables};
use crate::Features;
use crate::asid::Asid;
use crate::exit::{decode, event_injection};
use crate::hw::{self, Context, X87Environment};
use crate::permission::{IoPermissionMap, MsrPermissionMap};

use crate::vmcb::{
    INTERRUPT_SHADOW, Intercept3, Intercept4, Intercept5, NP_ENABLE, V_INTR_VECTOR,
    VirtualInterrupt, Vmcb, VmcbSegment, tlb_control,
};
use alloc::boxed::Box;
use hv_core::Hpa;
use hv_core::cpu::{Entry, VcpuBackend};
use hv_core::emulate::Shadow;
use hv_core::event::{Event, EventKind, Injection, vector};
use hv_core::exit::VmExit;
use hv_core::fx::FxState;
use hv_core::mmu::TlbFlush;
use hv_core::msr::{PASS_THROUGH, PAT_RESET};
#[cfg(test)]
use hv_core::regs::gpr;
use hv_core::regs::{Cr0, Efer, Gprs, Rflags, SegAttr, SegReg, Segment, SysReg};

/// Always left for: everything that reaches outside the guest or that it does not have. HLT for idling; INTR and NMI are the
/// host's; SHUTDOWN is the guest's triple fault. A task switch loads CR3, which is not the guest's under shadow paging.
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
    .union(Intercept3::TASK_SWITCH)
    .union(Intercept3::SHUTDOWN);

/// VMRUN must be intercepted (APM vol 2 15.5.1, "Basic Operation"); the other SVM instructions are #UD in the guest. RDTSCP is not offered.
const INTERCEPT4: Intercept4 = Intercept4::all();

/// Instructions that CPUID hides: #UD in the guest.
const INTERCEPT5: Intercept5 = Intercept5::all();

/// #DB and #AC can be raised endlessly inside the CPU while they are delivered (CVE-2015-8104, CVE-2015-5307), unless they leave
/// the guest; #DF is delivered in software; #MC is the host's.
const INTERCEPT_EXCEPTIONS: u32 =
    1 << vector::DB | 1 << vector::DF | 1 << vector::AC | 1 << vector::MC;

/// Those of them that are intercepted on this CPU.
const fn intercepted_exceptions(features: &Features) -> u32 {
    match features.quirks.stale_dr6 {
        true => INTERCEPT_EXCEPTIONS & !(1 << vector::DB),
        false => INTERCEPT_EXCEPTIONS,
    }
}

/// The guest reads and writes V_TPR as its CR8. Writes leave it only while the task priority holds an interrupt back, and where they may not
/// meet a virtual interrupt.
const INTERCEPT_CR8: u16 = 1 << 8;

/// Writes of CR4 leave the guest, because it must not set the bits of what CPUID hides, and AMD-V has no mask of bits. Some of them reach
/// registers that nobody switches, as PKE does PKRU.
const INTERCEPT_CR4: u16 = 1 << 4;

/// Writes of CR0 and CR3, which leave the guest while somebody has to know of its tables.
const PAGING_WRITES: u16 = 1 << 0 | 1 << 3;

/// What of RFLAGS shows that the rest is wrong: bits that no CPU sets, and VM, which few guests do (APM vol 2 3.1.6, "RFLAGS Register").
const SUSPICIOUS_FLAGS: u32 = !(Rflags::DEFINED.bits() as u32) | Rflags::VM.bits() as u32;

/// The registers of a guest that is unloaded which neither the control block nor FXSAVE has.
struct Unloaded {
    /// Debug registers 0 to 3.
    debug: [u64; 4],
    x87: X87Environment,
}

/// One virtual CPU.
pub struct SvmVcpu {
    pub(crate) features: Features,
    pub(crate) context: Context,
    /// The guest's control registers, where the hardware has others.
    pub(crate) guest: Option<GuestControl>,
    /// Nested tables below the shadow tables.
    pub(crate) fence: Option<Hpa>,
    /// The root of the shadow tables.
    root: Hpa,
    /// What is always left for.
    pub(crate) always: Intercept3,
    xcr0: u64,
    /// What the hardware holds of a guest that is unloaded.
    unloaded: Option<Unloaded>,
    asid: Asid,
    /// CR8 as it was set last.
    task_priority: u8,
    /// The next entry flushes this guest's translations.
    pub(crate) flush_linear: bool,
    // The maps are referred to by address from the control block.
    _iopm: Box<IoPermissionMap>,
    msrpm: Box<MsrPermissionMap>,
    /// In tests: what the guest does from an entry to the next exit.
    #[cfg(test)]
    fake: Option<Fake>,
}

#[cfg(test)]
type Fake = Box<dyn FnMut(&mut Vmcb) + Send>;

impl SvmVcpu {
    /// A virtual CPU. AMD-V is enabled on this CPU.
    #[must_use]
    pub fn new(features: Features, asid: Asid) -> Self {
        let mut host = Box::new(Vmcb::default());
        hw::save_host(&mut host);
        Self::with_host(features, asid, host)
    }

    fn with_host(features: Features, asid: Asid, host: Box<Vmcb>) -> Self {
        let iopm = IoPermissionMap::all();
        let msrpm = MsrPermissionMap::all_but(&PASS_THROUGH);
        let mut vmcb = Box::new(Vmcb::default());
        vmcb.iopm_base = hw::address(&*iopm).0;
        vmcb.msrpm_base = hw::address(&*msrpm).0;
        vmcb.asid = asid.number();
        vmcb.np_enable = NP_ENABLE;
        vmcb.intercept_cr_read = u16::from(features.quirks.cr_reads_as_cr0);
        vmcb.intercept_cr_write = INTERCEPT_CR4;
        vmcb.intercept_exceptions = intercepted_exceptions(&features);
        vmcb.virtual_interrupt = VirtualInterrupt::V_INTR_MASKING.bits();
        let mut always = INTERCEPT3;
        let watched = features.quirks.unchecked_cr0 || features.quirks.identity_map.is_some();
        always.set(Intercept3::CR0_SEL_WRITE, watched);
        vmcb.intercept3 = always.bits();
        vmcb.intercept4 = INTERCEPT4.bits();
        vmcb.intercept5 = INTERCEPT5.bits();
        let mut cpu = Self {
            features,
            context: Context::new(vmcb, host),
            guest: None,
            fence: None,
            root: Hpa(0),
            always,
            xcr0: 1,
            unloaded: None,
            asid,
            task_priority: 0,
            flush_linear: false,
            _iopm: iopm,
            msrpm,
            #[cfg(test)]
            fake: None,
        };
        cpu.reset_registers();
        cpu
    }

    fn reset_registers(&mut self) {
        let shadow = self.on_shadow();
        self.use_tables(None);
        self.reset_own_tables();
        self.use_tables(shadow.then_some(Tables::Shadow));
        self.leave_or_take_identity_map();
    }

    fn reset_own_tables(&mut self) {
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
        let v = &mut *self.context.vmcb;
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
        v.spec_ctrl = 0;
        self.context.spec_ctrl = 0;
        self.context.fx = FxState::reset();
        self.context.gprs = Gprs::default();
        self.xcr0 = 1;
    }

    fn segment_ref(&self, reg: SegReg) -> &VmcbSegment {
        let v = &*self.context.vmcb;
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

    /// Runs the guest until it exits.
    #[inline(always)]
    fn enter(&mut self) {
        let before = self.context.vmcb.rflags;
        self.execute();
        if self.context.vmcb.rflags as u32 & SUSPICIOUS_FLAGS != 0 {
            self.mend_flags(before);
        }
    }

    /// QEMU before 8.0 takes CMPXCHG8B's flags, but ZF, from where none are, and an exit right behind it tells them: see the crate's
    /// documentation. The guest goes on with those that it was entered with.
    #[cold]
    #[inline(never)]
    fn mend_flags(&mut self, before: u64) {
        let v = &mut *self.context.vmcb;
        let virtual_8086 = v.efer & Efer::LMA.bits() == 0 && v.cpl == 3;
        if v.rflags & !Rflags::DEFINED.bits() != 0
            || v.rflags & Rflags::VM.bits() != 0 && !virtual_8086
        {
            // An interrupt flag that is clear is true: bits have only been added.
            let enabled = v.rflags | !Rflags::IF.bits();
            let status = Rflags::STATUS.bits();
            v.rflags = v.rflags & status | before & enabled & !status;
        }
    }

    /// The world switch.
    #[inline(always)]
    fn execute(&mut self) {
        #[cfg(test)]
        if let Some(fake) = &mut self.fake {
            self.context.vmcb.rsp = self.context.gprs.regs[gpr::RSP];
            fake(&mut self.context.vmcb);
            self.context.gprs.regs[gpr::RSP] = self.context.vmcb.rsp;
            return;
        }
        self.context.run();
    }

    /// [`run_encoded`](Self::run_encoded) in a function of its own.
    #[cold]
    #[inline(never)]
    fn run_apart(&mut self, entry: Entry) -> VmExit {
        self.run_encoded(&entry)
    }

    /// Runs the guest with something to flush, to inject or to wait for. Between two entries the control block has nothing of that.
    #[inline(always)]
    fn run_encoded(&mut self, entry: &Entry) -> VmExit {
        let writes = self.context.vmcb.intercept_cr_write;
        self.encode(entry);
        self.enter();
        let mut exit = decode(&self.context.vmcb, &self.features);
        let waiting = self.context.vmcb.virtual_interrupt & VirtualInterrupt::V_IRQ.bits() != 0;
        if waiting
            && self.features.quirks.inject_virtual
            && let Some(e) = entry.inject
            && e.kind == EventKind::ExternalInterrupt
        {
            let interruptible = self.rflags() & Rflags::IF.bits() != 0;
            (exit.vectoring, exit.untaken) = not_delivered(exit.vectoring, e.vector, interruptible);
        }
        let v = &mut *self.context.vmcb;
        v.tlb_control = tlb_control::NOTHING;
        v.event_injection = 0;
        v.virtual_interrupt &= VirtualInterrupt::V_TPR
            .union(VirtualInterrupt::V_INTR_MASKING)
            .bits();
        v.intercept3 = self.always.bits();
        v.intercept_cr_write = writes;
        exit
    }

    /// Encodes the root of the tables.
    #[inline(always)]
    fn encode_root(&mut self, root: Hpa) {
        let shadow = self.on_shadow();
        let v = &mut *self.context.vmcb;
        if shadow {
            v.cr3 = root.0;
            self.root = root;
        } else {
            v.n_cr3 = root.0;
        }
    }

    /// Encodes what the run loop has decided.
    fn encode(&mut self, entry: &Entry) {
        self.encode_root(entry.root);
        let v = &mut *self.context.vmcb;
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
        let mut vi = VirtualInterrupt::V_INTR_MASKING.bits() | u64::from(self.task_priority);
        let mut i3 = self.always;
        match entry.inject {
            Some(e)
                if e.kind == EventKind::ExternalInterrupt
                    && self.features.quirks.inject_virtual =>
            {
                vi |= VIRTUAL.bits() | u64::from(e.vector) << V_INTR_VECTOR;
            }
            Some(e) => {
                let protected = v.cr0 & Cr0::PE.bits() != 0;
                v.event_injection = event_injection(&e, protected);
                // Delivery ends a shadow.
                v.interrupt_shadow &= !INTERRUPT_SHADOW;
            }
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
        if self.features.quirks.fatal_cr8 && vi & VirtualInterrupt::V_IRQ.bits() != 0 {
            v.intercept_cr_write |= INTERCEPT_CR8;
        }
        v.virtual_interrupt = vi;
        v.intercept3 = i3.bits();
    }
}

/// The virtual interrupt of this vector still waits when the guest is left (APM vol 2 15.21.4, "Injecting Virtual (INTR) Interrupts"):
/// the guest has not taken it yet, or its delivery was what was interrupted, which QEMU's emulation then gives as that of an exception.
/// Gives the event whose delivery was interrupted, and the interrupt that was not taken.
fn not_delivered(
    vectoring: Option<Event>,
    interrupt: u8,
    interruptible: bool,
) -> (Option<Event>, Option<u8>) {
    let in_delivery = vectoring.is_some_and(|v| v.vector == interrupt);
    if interruptible && in_delivery {
        (Some(Event::interrupt(interrupt)), None)
    } else {
        (vectoring, Some(interrupt))
    }
}
