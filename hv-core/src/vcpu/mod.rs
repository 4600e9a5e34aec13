//! The run loop of a virtual CPU.
//!
//! [`Vcpu::run`] enters the guest again and again until something outside the VM wants attention. Between two entries: put back
//! the event whose delivery was interrupted, act on the exit (the `match` in `Vcpu::dispatch` is the table of contents of the
//! hypervisor), let devices do what is due, decide what to inject.

mod access;
mod control;
mod cpuid;
mod debug;
mod debugger;
mod entry;
mod events;
mod hypercall;
mod hyperv;
mod instruction;
mod kvm;
mod lacking;
mod locked;
mod msr_access;
mod native;
mod observe;
mod paging;
mod pieces;
mod pio;
mod software;
mod speculation;
mod start_up;
mod turns;

use self::entry::Next;
use crate::bus::{self, MapChange};
use crate::cpu::VcpuBackend;
use crate::debug::DebugStop;
use crate::device::PowerAction;
use crate::emulate::{
    self, DecodeCache, EmuFault, Intercepted, Mode, Shadow, SoftInt, Step, StepKind, SystemRegister,
};
use crate::event::{Event, EventKind, EventQueue, Injection, vector};
use crate::exit::{ExitReason, VmExit};
use crate::hyperv::{Processor, Reference};
use crate::irq::{Attention, InterruptController};
use crate::kick::Presence;
use crate::mmu::Mmu;
use crate::msr::MsrStore;
use crate::pvclock::PvClock;
use crate::pveoi::PvEoi;
use crate::pvsteal::StealTime;
use crate::record::Recorder;
use crate::regs::{Efer, Rflags, SysReg};
use crate::sentence::sentence;
use crate::stats::Stats;
use crate::time::{Clock, VmTime};
use crate::trace::Tracer;
use crate::vm::Vm;
use crate::{Gpa, Gva, Hpa};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;

/// Why [`Vcpu::run`] returned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stop {
    /// A host interrupt waits to be let in.
    HostInterrupt,
    /// The guest has halted and nothing is due before this moment, when the caller has to run it again.
    Idle(VmTime),
    /// The guest asked for a reset or to be switched off, or its CPU shut down.
    Power(PowerAction),
    /// The guest's CPU shut down: a triple fault.
    TripleFault,
    /// The guest says that its system has crashed ([`Crash`](crate::hyperv::Crash)), and can go on.
    Crashed,
    /// The VM cannot go on; the sentence says why.
    Fatal(String),
    /// The service interval that the caller set is over.
    Service,
    /// Another CPU of this VM has halted, and now has something to do ([`Vm::wakeups`]).
    Wakeup,
    /// The guest asks that this CPU of its runs next.
    YieldTo(usize),
    /// A [debugger](Vcpu::debug) has been waiting for this.
    Debug(DebugStop),
    /// The ring of its [trace](Vcpu::trace) is filling: somebody has to take the events.
    Trace,
    /// The guest has executed PAUSE, which was [to leave it](VcpuBackend::set_pause_exiting).
    Yield,
}

/// The faults that end an instruction or the VM.
pub(crate) enum Trouble {
    /// An exception for the guest.
    Exception(Event),
    /// The VM cannot go on.
    Fatal(String),
    /// Nothing is wrong: the guest executes the instruction again.
    Again,
}

/// What a virtual CPU does (SDM vol 3C 25.4.2, "Guest Non-Register State": the activity state).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activity {
    /// It executes instructions.
    Active,
    /// It has executed HLT.
    Halted,
    /// It is idle by Microsoft's interface: an interrupt wakes it that it does not take, too.
    Idle,
    /// It waits for a start-up message (SDM vol 3A 10.4.3, "MP Initialization Protocol Algorithm for MP Systems").
    WaitForSipi,
}

impl Activity {
    /// In a word or two, as reports show it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Activity::Active => "active",
            Activity::Halted => "halted",
            Activity::Idle => "idle",
            Activity::WaitForSipi => "not started",
        }
    }
}

/// No exit is being dealt with.
const NO_EXIT: (usize, u64) = (ExitReason::KINDS, 0);

/// What a virtual CPU is made of.
pub struct Parts<B: VcpuBackend, C: Clock> {
    /// The hardware's part.
    pub cpu: B,
    /// The host's clock.
    pub clock: C,
    /// The paravirtual clock.
    pub pvclock: PvClock,
    /// What it sees of the interrupt chips.
    pub irqs: Box<dyn InterruptController>,
}

/// One virtual CPU.
pub struct Vcpu<B: VcpuBackend, M: Mmu, C: Clock> {
    /// The virtual machine that it is one of.
    pub vm: Arc<Vm<M>>,
    /// The hardware's part.
    pub cpu: B,
    /// The host's clock.
    pub clock: C,
    /// Counters.
    pub stats: Stats,
    /// The first exits, if they are [recorded](Self::record).
    recorder: Option<Box<Recorder>>,
    /// What traces exits, if somebody wants a trace.
    tracer: Option<Box<Tracer>>,
    /// What a debugger wants.
    debug: Option<Box<debugger::Debug>>,
    /// Somebody looks on: the recorder, a trace or a debugger.
    observed: bool,
    /// An instruction in software may meet a breakpoint.
    breakpoints: bool,
    /// When the caller wants to be called back, as long as the guest runs.
    pub service_at: VmTime,
    /// From when on the caller wants it too, if the guest has been left for its own devices anyway.
    pub service_from: VmTime,
    /// Its number in the VM, from 0. 0 is the bootstrap processor.
    index: u8,
    /// How others make it look around.
    presence: Arc<Presence>,
    /// What says there that it is in the guest, on the host's CPU that it has.
    inside: u32,
    /// The other CPUs of the VM: bit n is CPU n.
    others: u32,
    irqs: Box<dyn InterruptController>,
    /// When its own timer is due, or earlier.
    timer: VmTime,
    msrs: MsrStore,
    pvclock: PvClock,
    pveoi: PvEoi,
    steal: StealTime,
    /// How its ticks become the reference time of Microsoft's interface.
    reference: Reference,
    /// What it has of that interface, and when its timers are due.
    hyperv: Option<Box<Processor>>,
    synthetic_timer: VmTime,
    /// Another CPU has kicked this one: it does not halt the next time.
    kicked: bool,
    events: EventQueue,
    now: VmTime,
    /// The guest has run in software since `now`: whoever needs the time has to look at the clock.
    now_is_old: bool,
    activity: Activity,
    /// What the interrupt chips say as long as no event waits and the CPU has their task priority.
    calm: Attention,
    /// The hardware is set up for shadow paging.
    shadow: bool,
    /// Where the tables are, as of this generation of the MMU's.
    root: Hpa,
    generation: u64,
    /// It has still to flush for that generation.
    owes_flush: bool,
    /// The page with the local APIC's registers, if they are in memory.
    apic_page: Option<Gpa>,
    /// The reason of the exit that is being dealt with and when it happened.
    last: (usize, u64),
    /// Accesses to the control structure that are accounted for.
    accesses: (u64, u64),
    stop: Option<Stop>,
    lengths: instruction::LengthCache,
    decoded: DecodeCache,
    lacking: lacking::Lacking,
}

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// CPU `index` (below [`MAX_CPUS`](crate::machine::MAX_CPUS)) of a virtual machine, in the power-on state.
    pub fn new(vm: Arc<Vm<M>>, index: u8, parts: Parts<B, C>) -> Self {
        let Parts {
            cpu,
            clock,
            pvclock,
            irqs,
        } = parts;
        let ticks = clock.ticks();
        let mut v = Self {
            presence: vm.wakeups.kicks.presence(index.into()),
            inside: Presence::inside(0),
            vm,
            index,
            others: !(1 << (index & 31)),
            reference: Reference::new(pvclock.tsc_hz()),
            msrs: MsrStore::new(pvclock.tsc_hz()),
            hyperv: None,
            synthetic_timer: VmTime::NEVER,
            pvclock,
            pveoi: PvEoi::default(),
            steal: StealTime::default(),
            kicked: false,
            cpu,
            clock,
            stats: Stats::default(),
            recorder: None,
            tracer: None,
            debug: None,
            observed: false,
            breakpoints: false,
            service_at: VmTime::NEVER,
            service_from: VmTime::NEVER,
            irqs,
            timer: VmTime::NEVER,
            events: EventQueue::default(),
            now: VmTime(0),
            now_is_old: false,
            activity: Activity::Active,
            calm: Attention::UNKNOWN,
            shadow: false,
            root: Hpa(0),
            generation: 0,
            owes_flush: false,
            apic_page: None,
            last: NO_EXIT,
            accesses: (0, 0),
            stop: None,
            lengths: instruction::LengthCache::default(),
            decoded: DecodeCache::default(),
            lacking: lacking::Lacking::default(),
        };
        v.reset(ticks);
        v
    }

    /// The VM's time of the last exit.
    #[must_use]
    pub fn now(&self) -> VmTime {
        self.now
    }

    /// Its number in the VM, from 0.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index.into()
    }

    /// What it does.
    #[must_use]
    pub fn activity(&self) -> Activity {
        self.activity
    }

    /// Whether no interrupt wakes it: it has halted with interrupts off, or was not started.
    #[must_use]
    pub fn ignores_interrupts(&self) -> bool {
        match self.activity {
            Activity::Active | Activity::Idle => false,
            Activity::Halted => self.cpu.rflags() & Rflags::IF.bits() == 0,
            Activity::WaitForSipi => true,
        }
    }

    /// How many interprocessor interrupts it has sent.
    #[must_use]
    pub fn ipis(&self) -> u64 {
        self.irqs.ipis()
    }

    fn set_activity(&mut self, activity: Activity) {
        self.activity = activity;
        self.irqs.set_halted(activity != Activity::Active);
    }

    /// Runs the guest until something outside it wants attention.
    pub fn run(&mut self) -> Stop {
        match self.tracer {
            None => self.run_as::<false>(),
            Some(_) => self.run_traced(),
        }
    }

    /// [`run`](Self::run) while exits are traced: the same loop once more, so that without a trace none of it is there.
    #[inline(never)]
    fn run_traced(&mut self) -> Stop {
        self.run_as::<true>()
    }

    /// [`run`](Self::run), with or without a trace.
    #[inline(always)]
    fn run_as<const TRACED: bool>(&mut self) -> Stop {
        self.calm = Attention::UNKNOWN;
        self.vm.wakeups.set_timer(self.index(), VmTime::NEVER);
        let mut armed = VmTime(0);
        loop {
            if let Some(requests) = self.presence.take()
                && requests.root()
            {
                self.generation = 0;
            }
            if self.vm.unsettled() {
                self.settle();
            }
            if self.stop.is_some()
                && let Some(stop) = self.stop.take()
            {
                return self.leave(stop);
            }
            let deadline = self.vm.deadline().min(self.timer).min(self.service_at);
            if self.now >= deadline {
                if self.poll() && self.now < self.service_at.min(self.service_from) {
                    continue;
                }
                return self.leave(Stop::Service);
            }
            if self.vm.wakeups.any(self.others) {
                return self.leave(Stop::Wakeup);
            }
            let attention = self.irqs.attention();
            // Mostly there is nothing to inject, and the CPU has the task priority.
            if attention == self.calm
                && self.events.is_quiet()
                && self.activity == Activity::Active
                && self.cpu.can_run()
            {
                if TRACED {
                    self.trace_entry();
                }
                if let Some(exit) = self.enter::<false>(&Injection::default(), deadline, &mut armed)
                {
                    if TRACED {
                        self.trace_exit(&exit);
                    }
                    self.handle_exit(exit);
                }
                continue;
            }
            match self.prepare(attention) {
                Next::Enter(injection) => self.run_with(&injection, deadline, &mut armed),
                Next::Again => {}
                Next::Idle => {
                    self.vm.wakeups.set_timer(self.index(), self.timer);
                    return self.leave(Stop::Idle(deadline));
                }
            }
        }
    }

    /// Does what is due, but for what the caller of [`run`](Self::run) has to do. Whether there was anything.
    #[cold]
    #[inline(never)]
    fn poll(&mut self) -> bool {
        let own = self.now >= self.timer;
        if own {
            self.irqs.poll(self.now);
            if self.now >= self.synthetic_timer {
                self.poll_synthetic_timers();
            }
            self.set_timer();
        }
        let all = self.now >= self.vm.deadline();
        if all {
            self.vm.poll(self.now);
        }
        own || all
    }

    /// Notes when its timers are due: the local APIC's, and the synthetic ones.
    #[inline]
    fn set_timer(&mut self) {
        self.timer = self.irqs.deadline().min(self.synthetic_timer);
    }

    /// What [`run`](Self::run) returns, once the last exit is accounted for.
    #[cold]
    #[inline(never)]
    fn leave(&mut self, stop: Stop) -> Stop {
        self.finish(self.clock.ticks());
        stop
    }

    /// The guest has been left: acts on it.
    #[inline(always)]
    fn handle_exit(&mut self, exit: VmExit) {
        self.take_back_eoi();
        self.take_task_priority();
        self.act(exit);
    }

    /// Acts on the exit; what the guest has told without an exit has been taken.
    #[inline(always)]
    fn act(&mut self, exit: VmExit) {
        if let Some(e) = exit.vectoring {
            self.put_back(e);
        }
        let result = self.dispatch(exit);
        self.conclude(result);
    }

    /// Sees to what an exit or an instruction has come to.
    #[inline(always)]
    fn conclude(&mut self, result: Result<(), Trouble>) {
        match result {
            Ok(()) | Err(Trouble::Again) => {}
            Err(Trouble::Exception(e)) => self.raise(e),
            Err(Trouble::Fatal(why)) => self.stop = Some(Stop::Fatal(why)),
        }
    }

    /// Acts on one exit: one line a reason. What a line hands on is small, so that the exit stays in registers.
    #[inline(always)]
    fn dispatch(&mut self, exit: VmExit) -> Result<(), Trouble> {
        match exit.reason {
            ExitReason::PortIo(io) => self.port_io(io, exit.next_rip),
            ExitReason::StringIo(io) => self.string_io(io, exit.next_rip),
            ExitReason::NestedFault(fault) if self.shadow => self.at_fence(fault, exit.vectoring),
            // All that can be mapped is: what faults is for the bus, or the CPU's own.
            ExitReason::NestedFault(_) => self.in_software(exit.vectoring.is_some()),
            ExitReason::Exception {
                vector: vector::PF,
                error,
                payload,
                ..
            } if self.shadow => self.shadow_fault(Gva(payload), error, exit.vectoring),
            ExitReason::CrAccess(access) => self.cr_access(access, exit.next_rip),
            ExitReason::Cpuid => self.cpuid_exit(exit.next_rip),
            ExitReason::Rdmsr => self.rdmsr(exit.next_rip),
            ExitReason::Wrmsr => self.wrmsr(exit.next_rip),
            ExitReason::ExternalInterrupt => self.host_interrupt(),
            ExitReason::Hlt => self.hlt(exit.next_rip),
            ExitReason::Pause => self.pause(exit.next_rip),
            // Devices, injection and task priority are looked at before every entry.
            ExitReason::InterruptWindow | ExitReason::Timer | ExitReason::TprBelowThreshold => {
                Ok(())
            }
            ExitReason::NmiWindow => self.nmi_window(),
            ExitReason::Iret => self.iret(),
            ExitReason::Exception {
                kind,
                vector,
                error,
                insn_len,
                ..
            } => self.reflect(kind, vector, error, insn_len),
            ExitReason::Shutdown => self.triple_fault(),
            ExitReason::Xsetbv => self.xsetbv(exit.next_rip),
            ExitReason::Hypercall => self.hypercall(exit.next_rip),
            ExitReason::Undefined | ExitReason::Rdtscp => Err(undefined()),
            ExitReason::Rdpmc => Err(general_protection()),
            ExitReason::Nmi | ExitReason::Init => Ok(()),
            ExitReason::Invlpg(gva) => self.invlpg_exit(gva, exit.next_rip),
            ExitReason::Invd | ExitReason::Wbinvd => self.flush_caches(exit.next_rip),
            ExitReason::Rdtsc
            | ExitReason::Cr0Misc
            | ExitReason::DrAccess(_)
            | ExitReason::DescriptorTable(_) => self.emulate(),
            ExitReason::TaskSwitch => self.in_software(exit.vectoring.is_some()),
            ExitReason::EntryFailed if self.at_invalid_mov_to_cr3() => Err(general_protection()),
            ExitReason::EntryFailed => {
                Err(self.fatal("the CPU refused to enter the guest", exit.reason))
            }
            ExitReason::Unknown(_) => Err(self.fatal(
                "the CPU left the guest for a reason that Umbra does not know",
                exit.reason,
            )),
        }
    }

    /// Whether the next instruction is a MOV that sets reserved bits of CR3, on a CPU that [tells that
    /// as a failed entry](VcpuBackend::invalid_cr3_fails_entry) in place of #GP.
    #[cold]
    #[inline(never)]
    fn at_invalid_mov_to_cr3(&mut self) -> bool {
        if !self.cpu.invalid_cr3_fails_entry() {
            return false;
        }
        let Ok(Some(mov)) = emulate::mov_system(self) else {
            return false;
        };
        let value = self.cpu.gprs().regs[mov.gpr];
        mov.write
            && mov.register == SystemRegister::Control(3)
            && Mode::of(self).is_64()
            && value >> self.vm.cpuid.physical_bits() != 0
    }

    /// What this CPU makes of a physical address on its way to memory and bus.
    #[inline]
    fn decode(&self, gpa: Gpa) -> Gpa {
        bus::decode(gpa, self.apic_page, self.vm.wraps())
    }

    /// Carries out what devices asked for.
    #[cold]
    #[inline(never)]
    fn settle(&mut self) {
        let remap = |c: MapChange| self.vm.mmu().remap(c.start, c.len, c.backing);
        if let Some(action) = self.vm.bus().settle(remap) {
            self.stop = Some(Stop::Power(action));
        }
    }

    #[cold]
    #[inline(never)]
    fn triple_fault(&mut self) -> Result<(), Trouble> {
        self.stop = Some(Stop::TripleFault);
        Ok(())
    }

    fn host_interrupt(&mut self) -> Result<(), Trouble> {
        self.stop = Some(Stop::HostInterrupt);
        Ok(())
    }

    #[cold]
    #[inline(never)]
    fn fatal(&self, why: &str, reason: ExitReason) -> Trouble {
        Trouble::Fatal(sentence(format_args!("{why} ({reason:?})")))
    }

    /// Completes an instruction: RIP moves on, a shadow ends, RF is cleared, single-stepping traps (SDM vol 3B 17.3.1.4, "Single-Step Exception Condition").
    #[inline(always)]
    fn advance(&mut self, rip: u64) {
        self.cpu.set_rip(rip);
        self.cpu.clear_interrupt_shadow();
        let rflags = self.cpu.rflags();
        if rflags & (Rflags::TF | Rflags::RF).bits() != 0 {
            self.cpu.set_rflags(rflags & !Rflags::RF.bits());
            if rflags & Rflags::TF.bits() != 0 {
                self.trap_single_step();
            }
        }
    }

    /// INVD and WBINVD: there is nothing to be done. The guest's devices see its memory through the caches.
    #[cold]
    #[inline(never)]
    fn flush_caches(&mut self, next_rip: Option<u64>) -> Result<(), Trouble> {
        match next_rip.or_else(|| self.cache_flush()) {
            Some(next) => {
                self.advance(next);
                Ok(())
            }
            None => self.emulate(),
        }
    }

    fn hlt(&mut self, next_rip: Option<u64>) -> Result<(), Trouble> {
        let next = self.next_rip(next_rip, Intercepted::Hlt)?;
        self.advance(next);
        if !core::mem::take(&mut self.kicked) {
            self.set_activity(Activity::Halted);
        }
        Ok(())
    }

    /// PAUSE, while another CPU of the VM waits for the host's: it may be the one that this one waits for.
    #[cold]
    #[inline(never)]
    fn pause(&mut self, next_rip: Option<u64>) -> Result<(), Trouble> {
        let next = self.next_rip(next_rip, Intercepted::Pause)?;
        self.advance(next);
        self.stop.get_or_insert(Stop::Yield);
        Ok(())
    }

    /// Executes one instruction in software.
    fn emulate(&mut self) -> Result<(), Trouble> {
        self.stats.emulated += 1;
        let before = self.cpu.rip();
        let result = self.step();
        self.emulated(before, result)
    }

    /// What an emulated instruction comes to.
    fn emulated(&mut self, before: u64, result: Result<Step, EmuFault>) -> Result<(), Trouble> {
        match result {
            Ok(step) => {
                match step.kind {
                    StepKind::Done | StepKind::Again => {}
                    StepKind::Halt => self.set_activity(Activity::Halted),
                    StepKind::SoftwareInterrupt { vector, kind, len } => {
                        let kind = match kind {
                            SoftInt::Int => EventKind::SoftwareInterrupt,
                            SoftInt::Exception => EventKind::SoftwareException,
                            SoftInt::Icebp => EventKind::PrivilegedSoftwareException,
                        };
                        return self.deliver(&Event {
                            kind,
                            vector,
                            error: None,
                            insn_len: len,
                        });
                    }
                }
                if step.iret {
                    self.cpu.set_nmi_blocked(false);
                    self.events.nmi_done();
                }
                if step.shadow != Shadow::None || self.cpu.interrupt_shadow() {
                    self.cpu.set_interrupt_shadow(step.shadow);
                }
                self.trap(&step);
                Ok(())
            }
            Err(fault) => match self.or_undefined(before, fault) {
                EmuFault::Exception { vector, error, cr2 } => {
                    if let Some(cr2) = cr2 {
                        self.cpu.set_sysreg(SysReg::Cr2, cr2);
                    }
                    Err(Trouble::Exception(Event::exception(vector, error)))
                }
                _ => Ok(()),
            },
        }
    }

    /// The emulator's faults as the run loop's.
    fn trouble(&mut self, fault: EmuFault) -> Trouble {
        self.emulated(self.cpu.rip(), Err(fault))
            .err()
            .unwrap_or(Trouble::Again)
    }

    fn efer(&self) -> Efer {
        Efer::from_bits_retain(self.cpu.sysreg(SysReg::Efer))
    }
}

/// #UD.
fn undefined() -> Trouble {
    Trouble::Exception(Event::exception(vector::UD, None))
}

/// #GP(0).
fn general_protection() -> Trouble {
    Trouble::Exception(Event::exception(vector::GP, Some(0)))
}
