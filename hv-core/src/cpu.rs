//! The virtual CPU as a vendor backend (`svm`, `vmx`) offers it to the run loop.

use crate::Hpa;
use crate::emulate::Shadow;
use crate::event::{Event, Injection};
use crate::exit::VmExit;
use crate::fx::FxState;
use crate::mmu::TlbFlush;
use crate::regs::{Gprs, SegReg, Segment, SysReg};
use core::fmt;

/// What an entry is to do: decided in vendor-free code, only encoded by the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Root of the second-stage tables; under shadow paging of the tables that the hardware's CR3 points to.
    pub root: Hpa,
    /// What to flush first.
    pub flush: TlbFlush,
    /// The event to inject.
    pub inject: Option<Event>,
    /// Leave the guest as soon as it can take an interrupt.
    pub irq_window: bool,
    /// Leave the guest as soon as it can take an NMI.
    pub nmi_window: bool,
    /// Leave the guest after this many ticks of the time-stamp counter, or soon after; only for backends that
    /// [have a timer](VcpuBackend::has_timer).
    pub timer: u64,
}

/// One virtual CPU on vendor hardware. The run loop is generic over it: no indirect call in the exit path.
pub trait VcpuBackend: Send + 'static {
    /// The backend's name in reports: `svm` or `vmx`.
    const NAME: &'static str;

    /// The general registers. RSP included.
    fn gprs(&self) -> &Gprs;
    /// The general registers, to be changed.
    fn gprs_mut(&mut self) -> &mut Gprs;
    /// RIP.
    fn rip(&self) -> u64;
    /// Sets RIP.
    fn set_rip(&mut self, rip: u64);
    /// RFLAGS.
    fn rflags(&self) -> u64;
    /// Sets RFLAGS.
    fn set_rflags(&mut self, rflags: u64);
    /// The current privilege level, 0 to 3.
    fn cpl(&self) -> u8;
    /// A system register.
    fn sysreg(&self, reg: SysReg) -> u64;
    /// Sets a system register.
    fn set_sysreg(&mut self, reg: SysReg, value: u64);
    /// Sets the four page-directory-pointer entries of PAE paging, where the hardware keeps them in registers (SDM vol 3A 4.4.1,
    /// "PDPTE Registers"). AMD CPUs with nested paging read them from memory.
    fn set_pdptes(&mut self, entries: [u64; 4]) {
        let _ = entries;
    }
    /// IA32_PRED_CMD.IBPB: branches that were seen before this decide no guess from now on. The CPU has it.
    fn prediction_barrier(&mut self) {}
    /// Forgets every translation of linear addresses before the guest runs again: control registers have been written for it.
    fn flush_linear(&mut self);
    /// Turns shadow paging on or off. With it, the hardware's CR3 is [`Entry::root`], CR0.PG, CR0.WP, CR4.PAE and EFER.NXE are
    /// set whatever the guest has, and page faults, INVLPG and accesses to CR3 leave the guest, as do writes to CR0 and CR4 and reads
    /// that would see a difference.
    fn set_shadow_paging(&mut self, on: bool) {
        debug_assert!(!on, "this backend has no shadow paging");
    }
    /// Shadow paging: the root of nested tables to be walked below the shadow tables ([`Mmu::fence`](crate::mmu::Mmu::fence)).
    fn set_fence(&mut self, root: Option<Hpa>) {
        debug_assert!(root.is_none(), "this backend needs no fence");
    }
    /// What the CPU has loaded into CR3, if it has switched the guest's tasks although it was to leave the guest for that. It has come to a
    /// fence and done the first half: the segment registers are still to be loaded.
    fn switched_tasks(&self) -> Option<u64> {
        None
    }
    /// A segment register with its hidden part.
    fn segment(&self, reg: SegReg) -> Segment;
    /// Sets a segment register with its hidden part. Setting CS or SS sets the privilege level to SS.DPL.
    fn set_segment(&mut self, reg: SegReg, value: Segment);
    /// The x87 and SSE state.
    fn fx(&self) -> &FxState;
    /// The x87 and SSE state, to be changed.
    fn fx_mut(&mut self) -> &mut FxState;
    /// Whether STI or MOV SS blocks interrupts for one instruction.
    fn interrupt_shadow(&self) -> bool;
    /// Makes that blocking what an instruction completed by us leaves.
    fn set_interrupt_shadow(&mut self, shadow: Shadow);
    /// Ends that blocking.
    #[inline(always)]
    fn clear_interrupt_shadow(&mut self) {
        self.set_interrupt_shadow(Shadow::None);
    }
    /// Whether NMIs are blocked because the guest handles one, where the hardware keeps that.
    fn nmi_blocked(&self) -> Option<bool> {
        None
    }
    /// The guest has been given an NMI, or has executed its IRET, in software.
    fn set_nmi_blocked(&mut self, blocked: bool) {
        let _ = blocked;
    }
    /// The guest's XCR0 (extended-state enable mask).
    fn xcr0(&self) -> u64;
    /// Sets the guest's XCR0; `value` has been checked.
    fn set_xcr0(&mut self, value: u64);
    /// Everything to the power-on state (SDM vol 3A 9.1.1, "Processor State After Reset").
    fn reset(&mut self);
    /// Another virtual CPU is to have the hardware: what it holds of this one is kept elsewhere. Until [`load`](Self::load) this
    /// one is asked for nothing else. XCR0, and the extended state beyond x87 and SSE, are the caller's to switch.
    fn unload(&mut self);
    /// The hardware is this virtual CPU's again.
    fn load(&mut self);
    /// Whether the hardware can run the guest in its present state. If not, the run loop executes it in software until it can.
    fn can_run(&self) -> bool {
        true
    }
    /// Whether an entry can do what is due: inject the event and leave the guest at the very instruction where what waits can be
    /// taken. If not, the run loop does it in software.
    fn can_inject(&self, injection: &Injection) -> bool {
        let _ = injection;
        true
    }
    /// Whether [`VmExit::vectoring`] may be an older event while INT n, INT3 or INTO is delivered, against the manual.
    fn vectoring_may_be_stale(&self) -> bool {
        false
    }
    /// Whether a MOV that sets reserved bits of CR3 leaves the guest as if its entry had failed, against the manual.
    fn invalid_cr3_fails_entry(&self) -> bool {
        false
    }
    /// Whether the hardware keeps the task priority (CR8) while the guest runs. Then the run loop tells it before an entry and asks
    /// for it after an exit; otherwise accesses to CR8 leave the guest.
    fn has_tpr_shadow(&self) -> bool {
        false
    }
    /// Sets the task priority, CR8 (0 to 15), and the class below which it leaves the guest
    /// ([`Attention::threshold`](crate::irq::Attention::threshold)).
    fn set_task_priority(&mut self, cr8: u8, threshold: u8) {
        let _ = (cr8, threshold);
    }
    /// The task priority, CR8, if the guest has changed it.
    fn changed_task_priority(&mut self) -> Option<u8> {
        None
    }
    /// Whether PAUSE leaves the guest. It tells of a loop that waits for another CPU.
    fn set_pause_exiting(&mut self, on: bool) {
        let _ = on;
    }
    /// Whether loads of CR3, and changes of the paging mode, leave the guest. What else makes them leave it stays; with `on`, another change of
    /// control registers may end it, so that it is asked for before each entry.
    fn set_paging_exiting(&mut self, on: bool) {
        let _ = on;
    }
    /// Which exceptions leave the guest (bit n: vector n) besides those that always do.
    fn set_exceptions_exiting(&mut self, which: u32) {
        let _ = which;
    }
    /// Reads and writes of a model-specific register leave the guest from now on.
    fn set_msr_exiting(&mut self, msr: u32) {
        let _ = msr;
    }
    /// Whether the hardware itself leaves the guest at a deadline, so that the host's timer is not needed while it runs.
    fn has_timer(&self) -> bool {
        false
    }
    /// Runs the guest until it exits: the usual way, without an event.
    fn run(&mut self, entry: &Entry) -> VmExit;
    /// [`run`](Self::run) where there mostly is an event.
    #[inline(always)]
    fn run_with_event(&mut self, entry: &Entry) -> VmExit {
        self.run(entry)
    }
    /// How often control-structure fields have been read and written (VMREAD and VMWRITE), where that takes instructions.
    fn accesses(&self) -> Option<(u64, u64)> {
        None
    }
    /// What the hardware told about the last exit, raw, on one line or more, for logs.
    fn dump_exit(&self, out: &mut dyn fmt::Write);

    /// Multi-line state dump for logs.
    fn dump(&self, out: &mut dyn fmt::Write) {
        // Nothing can be done about a writer that refuses.
        let _ = dump_registers(self, out);
        self.dump_exit(out);
    }
}

fn dump_registers<B: VcpuBackend + ?Sized>(cpu: &B, out: &mut dyn fmt::Write) -> fmt::Result {
    const GPRS: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ];
    const SEGMENTS: [(&str, SegReg); 10] = [
        ("cs", SegReg::Cs),
        ("ss", SegReg::Ss),
        ("ds", SegReg::Ds),
        ("es", SegReg::Es),
        ("fs", SegReg::Fs),
        ("gs", SegReg::Gs),
        ("ldtr", SegReg::Ldtr),
        ("tr", SegReg::Tr),
        ("gdtr", SegReg::Gdtr),
        ("idtr", SegReg::Idtr),
    ];
    for (i, (name, value)) in GPRS.iter().zip(cpu.gprs().regs).enumerate() {
        let end = if i % 4 == 3 { "\n" } else { " " };
        write!(out, "{name:>4}={value:016x}{end}")?;
    }
    writeln!(
        out,
        " rip={:016x} rflags={:x} cpl={} shadow={}",
        cpu.rip(),
        cpu.rflags(),
        cpu.cpl(),
        u8::from(cpu.interrupt_shadow())
    )?;
    let r = |reg| cpu.sysreg(reg);
    writeln!(
        out,
        " cr0={:x} cr2={:x} cr3={:x} cr4={:x} efer={:x}",
        r(SysReg::Cr0),
        r(SysReg::Cr2),
        r(SysReg::Cr3),
        r(SysReg::Cr4),
        r(SysReg::Efer)
    )?;
    for (name, reg) in SEGMENTS {
        let s = cpu.segment(reg);
        writeln!(
            out,
            " {name:>4}={:04x} base={:x} limit={:x} attr={:x}",
            s.selector,
            s.base,
            s.limit,
            s.attr.bits()
        )?;
    }
    Ok(())
}
