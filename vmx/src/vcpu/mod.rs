//! A virtual CPU on VT-x: the guest's registers, what leaves the guest, and how an [`Entry`] is encoded.

mod backend;
mod control_registers;
#[cfg(test)]
mod tests;

use crate::bitmap::{IoBitmaps, MsrBitmap};
use crate::cache::{self, Cache};
use crate::capabilities::{Capabilities, Plan};
use crate::check;
use crate::controls::{self, Pin, Primary, Secondary};
use crate::event;
use crate::exit::decode;
use crate::formats::{Interruptibility, Interruption, PendingDebug};
use crate::hw::{self, CpuRegister, EntryError, Hardware, Processor};
use crate::instruction_error;
use crate::msr_area::{self, MsrArea};
use crate::reason;
use crate::segment::{access_rights, attributes};
use crate::virtual_apic::VirtualApic;
use crate::vmcs::Field;
use alloc::boxed::Box;
use alloc::string::String;
use core::cell::Cell;
use hv_core::cpu::{Entry, VcpuBackend};
use hv_core::emulate::Shadow;
use hv_core::event::{EventKind, vector};
use hv_core::exit::{ExitReason, VmExit};
use hv_core::fx::FxState;
use hv_core::mmu::TlbFlush;
use hv_core::msr::{PASS_THROUGH, PAT_RESET};
use hv_core::regs::{Cr0, Cr4, Efer, Gprs, Rflags, SegAttr, SegReg, Segment, SysReg, gpr};
use hv_core::sentence::sentence;
use hv_core::{Gpa, Hpa};

/// #DB and #AC can be raised endlessly inside the CPU while they are delivered (CVE-2015-8104, CVE-2015-5307), unless they leave
/// the guest; #MC is the host's.
const INTERCEPT_EXCEPTIONS: u32 = 1 << vector::DB | 1 << vector::AC | 1 << vector::MC;

/// Blocking for one instruction.
const SHADOW: u64 = blocking(Interruptibility::STI) | blocking(Interruptibility::MOV_SS);

/// DR6 bits that a debug exception reports: B0 to B3, BD, BS.
const DR6_REPORTED: u64 = 0x600f;
/// Of those, the ones that it clears when it does not report them.
const DR6_BREAKPOINTS: u64 = 0xf;
/// DR7.GD, which the delivery of a debug exception clears.
const DR7_GD: u64 = 1 << 13;

/// EPT pointer: write-back tables, walk length minus one (SDM vol 3C table 25-9).
const EPTP_WRITE_BACK: u64 = 6;
const EPTP_FOUR_LEVELS: u64 = 3 << 3;

/// Bits of the interruptibility state as the cache has them.
const fn blocking(bits: Interruptibility) -> u64 {
    bits.bits() as u64
}

/// One virtual CPU.
pub struct VmxVcpu<H: Hardware = Processor> {
    hw: H,
    capabilities: Capabilities,
    plan: Plan,
    vpid: u16,
    fx: Box<FxState>,
    cache: Cache,
    /// CR0, CR3, CR4 and EFER as the guest sees them; in CR0 and CR4 the bits that the guest owns are the VMCS's, and so is CR3
    /// where the guest loads it itself.
    cr0: Cr0,
    cr3: u64,
    cr4: Cr4,
    efer: Efer,
    pat: u64,
    xcr0: u64,
    tsc_offset: u64,
    /// Whether the hardware walks shadow tables, with CR3 at `root`.
    shadow: bool,
    /// The primary controls without windows.
    primary: Primary,
    /// What the VMCS holds.
    primary_written: Primary,
    root: Hpa,
    /// RSP as the VMCS holds it.
    rsp: u64,
    flush_linear: bool,
    /// The registers that the hardware holds otherwise, while the guest is unloaded.
    unloaded: [u64; CpuRegister::ALL.len()],
    /// CR8 as it was set last, and the threshold that the VMCS holds.
    task_priority: (u8, u8),
    virtual_apic: Box<VirtualApic>,
    /// Where the identity page table for unpaged guests is, on CPUs without unrestricted guest.
    identity_map: Gpa,
    /// Whether every entry is checked before it is tried.
    pub check_entries: bool,
    /// Whether a CPU without unrestricted guest can run the guest as it is. Unknown after a change in software; what the hardware
    /// itself has run, it can go on with.
    fits: Cell<Option<bool>>,
    /// The CPU has refused a real-mode guest for its code selector.
    wants_rpl_0: bool,
    /// Why the last entry failed.
    failure: Option<String>,
    /// The guest's IA32_SPEC_CTRL.
    spec_ctrl: u64,
    entry_msrs: Box<MsrArea>,
    exit_msrs: Box<MsrArea>,
    // The bitmaps are referred to by address from the VMCS.
    _io: Box<IoBitmaps>,
    msrs: Box<MsrBitmap>,
}

impl VmxVcpu<Processor> {
    /// A virtual CPU with virtual-processor identifier `vpid` (not 0). This CPU is in VMX operation. `identity_map` is the
    /// guest-physical address of a page table that maps 4 GiB at their own addresses in 4 MiB pages, which only CPUs without
    /// unrestricted guest need. None: the CPU does not take a VMCS.
    #[must_use]
    pub fn new(
        capabilities: Capabilities,
        plan: Plan,
        vpid: u16,
        identity_map: Gpa,
    ) -> Option<Self> {
        let hw = Processor::new(&capabilities)?;
        Some(Self::with_hardware(
            hw,
            capabilities,
            plan,
            vpid,
            identity_map,
        ))
    }
}

impl<H: Hardware> VmxVcpu<H> {
    fn with_hardware(
        hw: H,
        capabilities: Capabilities,
        plan: Plan,
        vpid: u16,
        identity_map: Gpa,
    ) -> Self {
        let mut cpu = Self {
            hw,
            capabilities,
            plan,
            vpid,
            fx: Box::new(FxState::reset()),
            cache: Cache::default(),
            cr0: Cr0::ET,
            cr3: 0,
            cr4: Cr4::empty(),
            efer: Efer::empty(),
            pat: PAT_RESET,
            xcr0: 1,
            tsc_offset: 0,
            shadow: false,
            primary: plan.primary,
            primary_written: plan.primary,
            root: Hpa(u64::MAX),
            rsp: 0,
            flush_linear: true,
            unloaded: [0; CpuRegister::ALL.len()],
            task_priority: (0, 0),
            virtual_apic: VirtualApic::new(),
            identity_map,
            check_entries: cfg!(debug_assertions),
            fits: Cell::new(None),
            wants_rpl_0: false,
            failure: None,
            spec_ctrl: 0,
            entry_msrs: MsrArea::new(),
            exit_msrs: MsrArea::new(),
            _io: IoBitmaps::all(),
            msrs: MsrBitmap::all_but(&PASS_THROUGH),
        };
        cpu.write_controls();
        cpu.reset_registers();
        cpu
    }

    fn write_controls(&mut self) {
        let p = self.plan;
        // CPUs without these controls load the registers from memory. The host's values do not change.
        let by_list = |list: &mut MsrArea, index: u32, value: u64, control: bool| {
            if !control {
                list.set(index, value);
            }
        };
        let (host_efer, host_pat) = self.hw.host_efer_and_pat();
        let exit = p.exit;
        by_list(
            &mut self.exit_msrs,
            msr_area::EFER,
            host_efer,
            exit.contains(controls::Exit::LOAD_EFER),
        );
        by_list(
            &mut self.exit_msrs,
            msr_area::PAT,
            host_pat,
            exit.contains(controls::Exit::LOAD_PAT),
        );
        let entry = p.entry;
        by_list(
            &mut self.entry_msrs,
            msr_area::EFER,
            0,
            entry.contains(controls::Entry::LOAD_EFER),
        );
        by_list(
            &mut self.entry_msrs,
            msr_area::PAT,
            PAT_RESET,
            entry.contains(controls::Entry::LOAD_PAT),
        );
        let io = hw::address(&*self._io).0;
        let values = [
            (Field::PIN_CONTROLS, p.pin.bits().into()),
            (Field::PRIMARY_CONTROLS, self.primary.bits().into()),
            (Field::SECONDARY_CONTROLS, p.secondary.bits().into()),
            (Field::EXIT_CONTROLS, p.exit.bits().into()),
            (Field::ENTRY_CONTROLS, p.entry.bits().into()),
            (Field::EXCEPTION_BITMAP, INTERCEPT_EXCEPTIONS.into()),
            (Field::PAGE_FAULT_ERROR_MASK, 0),
            (Field::PAGE_FAULT_ERROR_MATCH, 0),
            (Field::CR3_TARGET_COUNT, 0),
            (Field::IO_BITMAP_A, io),
            (Field::IO_BITMAP_B, io + 4096),
            (Field::MSR_BITMAP, hw::address(&*self.msrs).0),
            (Field::VM_EXIT_MSR_STORE_COUNT, 0),
            (Field::VM_EXIT_MSR_LOAD, hw::address(&*self.exit_msrs).0),
            (Field::VM_EXIT_MSR_LOAD_COUNT, self.exit_msrs.count()),
            (Field::VM_ENTRY_MSR_LOAD, hw::address(&*self.entry_msrs).0),
            (Field::VM_ENTRY_MSR_LOAD_COUNT, self.entry_msrs.count()),
            (Field::ENTRY_INTERRUPTION_INFO, 0),
            (Field::VMCS_LINK_POINTER, u64::MAX),
        ];
        for (field, value) in values {
            self.hw.write(field, value);
        }
        if self.has_tpr_shadow() {
            let page = hw::address(&*self.virtual_apic).0;
            self.hw.write(Field::VIRTUAL_APIC, page);
            self.hw.write(Field::TPR_THRESHOLD, 0);
        }
        if p.secondary.contains(Secondary::ENABLE_VPID) {
            self.hw.write(Field::VPID, self.vpid.into());
        }
    }

    fn reset_registers(&mut self) {
        let data = Segment {
            selector: 0,
            attr: SegAttr::from_bits_retain(0x93),
            limit: 0xffff,
            base: 0,
        };
        for reg in [SegReg::Es, SegReg::Ss, SegReg::Ds, SegReg::Fs, SegReg::Gs] {
            self.set_segment(reg, data);
        }
        let with = |bits| Segment {
            attr: SegAttr::from_bits_retain(bits),
            ..data
        };
        self.set_segment(
            SegReg::Cs,
            Segment {
                selector: 0xf000,
                base: 0xffff_0000,
                ..with(0x9b)
            },
        );
        self.set_segment(SegReg::Ldtr, with(0x82));
        self.set_segment(SegReg::Tr, with(0x8b));
        self.set_segment(SegReg::Gdtr, data);
        self.set_segment(SegReg::Idtr, data);
        self.cache.set(cache::RIP, 0xfff0);
        self.cache.set(cache::RFLAGS, Rflags::ONE.bits());
        self.cache.set(cache::INTERRUPTIBILITY, 0);
        for (field, value) in [
            (Field::GUEST_ACTIVITY, 0),
            (Field::GUEST_PENDING_DEBUG, 0),
            (Field::GUEST_DEBUGCTL, 0),
            (Field::GUEST_DR7, 0x400),
            (Field::GUEST_SYSENTER_CS, 0),
            (Field::GUEST_SYSENTER_ESP, 0),
            (Field::GUEST_SYSENTER_EIP, 0),
        ] {
            self.hw.write(field, value);
        }
        for register in CpuRegister::ALL {
            self.hw.set_register(register, 0);
        }
        self.hw.set_register(CpuRegister::Dr6, 0xffff_0ff0);
        self.set_pat(PAT_RESET);
        self.set_spec_ctrl(0);
        self.efer = Efer::empty();
        self.cr3 = 0;
        self.cr4 = Cr4::empty();
        self.cr0 = Cr0::from_bits_retain(0x6000_0010);
        self.write_control_registers();
        *self.fx = FxState::reset();
        *self.hw.gprs_mut() = Gprs::default();
        self.rsp = u64::MAX;
        self.xcr0 = 1;
        self.flush_linear = true;
    }

    /// IA32_SPEC_CTRL is in the lists from the first value on that is not the host's, which is 0: what has no such register loads none.
    fn set_spec_ctrl(&mut self, value: u64) {
        if value == self.spec_ctrl {
            return;
        }
        self.spec_ctrl = value;
        self.entry_msrs.set(msr_area::SPEC_CTRL, value);
        self.exit_msrs.set(msr_area::SPEC_CTRL, 0);
        let counts = [
            (Field::VM_ENTRY_MSR_LOAD_COUNT, self.entry_msrs.count()),
            (Field::VM_EXIT_MSR_LOAD_COUNT, self.exit_msrs.count()),
        ];
        for (field, count) in counts {
            self.hw.write(field, count);
        }
    }

    fn set_pat(&mut self, value: u64) {
        self.pat = value;
        // Shadow entries mean the memory types of the default.
        let value = if self.shadow { PAT_RESET } else { value };
        if self.plan.entry.contains(controls::Entry::LOAD_PAT) {
            self.hw.write(Field::GUEST_PAT, value);
        } else {
            self.entry_msrs.set(msr_area::PAT, value);
        }
    }

    /// Whether the hardware runs real mode and unpaged mode: not without a second stage.
    fn unrestricted(&self) -> bool {
        !self.shadow && self.plan.unrestricted_guest()
    }

    /// Turns shadow paging on or off.
    fn use_shadow(&mut self, on: bool) {
        if on == self.shadow {
            return;
        }
        self.set_control_register(|c| c.shadow = on);
        let mut secondary = self.plan.secondary;
        if on {
            secondary -= controls::SECONDARY_NESTED | controls::SECONDARY_NESTED_OPTIONAL;
        }
        self.hw
            .write(Field::SECONDARY_CONTROLS, secondary.bits().into());
        let page_faults = if on { 1 << vector::PF } else { 0 };
        self.hw.write(
            Field::EXCEPTION_BITMAP,
            (INTERCEPT_EXCEPTIONS | page_faults).into(),
        );
        self.set_pat(self.pat);
        self.root = Hpa(u64::MAX);
        self.flush_linear = true;
    }

    /// Encodes what the run loop has decided.
    #[inline(always)]
    fn encode(&mut self, entry: &Entry) {
        if entry.root != self.root || entry.flush != TlbFlush::None {
            self.set_root(entry);
        }
        if self.flush_linear {
            self.flush_linear = false;
            if self.plan.secondary.contains(Secondary::ENABLE_VPID) {
                self.hw.flush_vpid(self.vpid);
            }
        }
        let mut primary = self.primary;
        primary.set(Primary::INTERRUPT_WINDOW_EXITING, entry.irq_window);
        primary.set(Primary::NMI_WINDOW_EXITING, entry.nmi_window);
        if primary != self.primary_written {
            self.primary_written = primary;
            self.hw
                .write(Field::PRIMARY_CONTROLS, primary.bits().into());
        }
        if entry.nmi_window {
            self.keep_nmi_window_shut();
        }
        if self.has_timer() {
            let shift = self.capabilities.preemption_timer_shift();
            let count = (entry.timer >> shift).min(u32::MAX.into());
            self.hw.write(Field::PREEMPTION_TIMER, count);
        }
        if let Some(e) = &entry.inject {
            self.inject(e);
        }
        self.cache.write_back(&mut self.hw);
        let rsp = self.hw.gprs().regs[gpr::RSP];
        if rsp != self.rsp {
            self.hw.write(Field::GUEST_RSP, rsp);
        }
    }

    /// The window for NMIs may open while STI blocks interrupts (SDM vol 3C 26.2, "Other Causes of VM Exits"), where no NMI is injected:
    /// blocking by MOV SS holds both.
    fn keep_nmi_window_shut(&mut self) {
        let state = self.cache.get(&self.hw, cache::INTERRUPTIBILITY);
        if state & blocking(Interruptibility::STI) != 0 {
            let other = state & !blocking(Interruptibility::STI);
            let both = other | blocking(Interruptibility::MOV_SS);
            self.cache.set(cache::INTERRUPTIBILITY, both);
        }
    }

    fn eptp(&self) -> u64 {
        self.root.0 | EPTP_FOUR_LEVELS | EPTP_WRITE_BACK
    }

    fn set_root(&mut self, entry: &Entry) {
        let changed = self.root != entry.root;
        self.root = entry.root;
        if self.shadow {
            self.cache.set(cache::CR3, self.root.0);
            self.flush_linear |= entry.flush == TlbFlush::Guest;
            return;
        }
        if changed {
            self.hw.write(Field::EPT_POINTER, self.eptp());
        }
        if entry.flush == TlbFlush::Guest {
            self.hw.flush_ept(self.eptp());
        }
    }

    fn inject(&mut self, e: &hv_core::event::Event) {
        let protected = self.cr0.contains(Cr0::PE) || !self.unrestricted();
        let i = event::encode(e, protected);
        self.hw.write(Field::ENTRY_INTERRUPTION_INFO, i.info.into());
        if i.info & Interruption::ERROR_CODE.bits() != 0 {
            self.hw.write(Field::ENTRY_EXCEPTION_ERROR, i.error.into());
        }
        if i.length != 0 {
            self.hw
                .write(Field::ENTRY_INSTRUCTION_LENGTH, i.length.into());
        }
        let state = self.cache.get(&self.hw, cache::INTERRUPTIBILITY);
        if e.kind == EventKind::Nmi && state & blocking(Interruptibility::NMI) != 0 {
            // It is the same NMI again, whose delivery was interrupted.
            self.cache.set(
                cache::INTERRUPTIBILITY,
                state & !blocking(Interruptibility::NMI),
            );
        } else if e.vector == vector::DB && state & SHADOW != 0 {
            // A single step and a shadow: the entry insists that the step is pending (SDM vol 3C 27.3.1.5, "Checks on Guest
            // Non-Register State").
            let rflags = Rflags::from_bits_retain(self.cache.get(&self.hw, cache::RFLAGS));
            if rflags.contains(Rflags::TF) {
                let pending = self.hw.read(Field::GUEST_PENDING_DEBUG);
                self.hw.write(
                    Field::GUEST_PENDING_DEBUG,
                    pending | PendingDebug::BS.bits(),
                );
            }
        }
    }

    /// What the hardware does not do itself when the guest is left.
    fn settle(&mut self, block_nmis: bool, unblock_nmis: bool) {
        if block_nmis || unblock_nmis {
            let state = self.cache.get(&self.hw, cache::INTERRUPTIBILITY);
            let bits = if block_nmis {
                blocking(Interruptibility::NMI)
            } else {
                0
            };
            self.cache.set(
                cache::INTERRUPTIBILITY,
                state & !blocking(Interruptibility::NMI) | bits,
            );
        }
    }

    /// A debug exception has left the guest before it changed any register (SDM vol 3C 28.1, "Architectural State Before a VM
    /// Exit"): DR6 and DR7 become what its delivery makes of them.
    fn report_debug_exception(&mut self, qualification: u64) {
        let dr6 = self.hw.register(CpuRegister::Dr6) & !DR6_BREAKPOINTS;
        self.hw
            .set_register(CpuRegister::Dr6, dr6 | qualification & DR6_REPORTED);
        let dr7 = self.hw.read(Field::GUEST_DR7);
        if dr7 & DR7_GD != 0 {
            self.hw.write(Field::GUEST_DR7, dr7 & !DR7_GD);
        }
    }

    /// An entry that did not happen: says why.
    #[cold]
    fn failed(&mut self, error: Option<EntryError>) -> VmExit {
        let how = match error {
            Some(EntryError::NoVmcs) => sentence(format_args!("there is no current VMCS")),
            Some(EntryError::Instruction) => {
                let number = self.hw.read(Field::INSTRUCTION_ERROR) as u32;
                sentence(format_args!(
                    "VM-instruction error {number}: {}",
                    instruction_error::meaning(number).unwrap_or("not one that the manual knows")
                ))
            }
            None => {
                let reason = self.hw.read(Field::EXIT_REASON) as u16;
                sentence(format_args!(
                    "{} (qualification {:#x})",
                    reason::name(reason).unwrap_or("an unknown exit reason"),
                    self.hw.read(Field::EXIT_QUALIFICATION)
                ))
            }
        };
        let rule = match self.check() {
            Ok(()) => sentence(format_args!("no rule is known to be broken")),
            Err(violation) => sentence(format_args!("{violation}")),
        };
        self.fail(sentence(format_args!("{how}; {rule}")))
    }

    fn fail(&mut self, why: String) -> VmExit {
        self.failure = Some(why);
        VmExit {
            reason: ExitReason::EntryFailed,
            next_rip: None,
            vectoring: None,
            untaken: None,
        }
    }

    /// Checks the VMCS by the SDM's rules.
    fn check(&self) -> Result<(), check::Violation> {
        check::check(&|field| self.hw.read(field), &self.capabilities)
    }
}
