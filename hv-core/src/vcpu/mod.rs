//! The run loop of a virtual CPU.
//!
//! [`Vcpu::run`] enters the guest again and again until something outside the VM wants attention. Between two entries: put back
//! the event whose delivery was interrupted, act on the exit (the `match` in `Vcpu::dispatch` is the table of contents of the
//! hypervisor), let devices do what is due, decide what to inject.

mod access;
mod control;
mod cpuid;
mod debug;
mod hypercall;
mod instruction;
mod lacking;
mod msr_access;
mod native;
mod paging;
mod pio;
mod software;
mod start_up;

use crate::bus::{self, MapChange};
use crate::cpu::{Entry, VcpuBackend};
use crate::device::PowerAction;
use crate::emulate::{
    self, DecodeCache, EmuFault, Intercepted, Mode, Shadow, SoftInt, Step, StepKind, SystemRegister,
};
use crate::event::{
    Event, EventKind, EventQueue, Injection, Interruptibility, TripleFault, vector,
};
use crate::exit::{ExitReason, VmExit};
use crate::irq::{Attention, InterruptController};
use crate::mmu::{Mmu, TlbFlush};
use crate::msr::MsrStore;
use crate::pvclock::PvClock;
use crate::pveoi::PvEoi;
use crate::pvsteal::StealTime;
use crate::record::{Before, Recorder};
use crate::regs::{Efer, Rflags, SysReg, gpr};
use crate::sentence::sentence;
use crate::stats::Stats;
use crate::time::{Clock, VmTime};
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
    /// The VM cannot go on; the sentence says why.
    Fatal(String),
    /// The service interval that the caller set is over.
    Service,
    /// Another CPU of this VM has halted, and now has something to do ([`Vm::wakeups`]).
    Wakeup,
    /// The guest asks that this CPU of its runs next.
    YieldTo(usize),
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
            Activity::WaitForSipi => "not started",
        }
    }
}

/// No exit is being dealt with.
const NO_EXIT: (usize, u64) = (ExitReason::KINDS, 0);

/// What is to be done next.
enum Next {
    /// Enter the guest.
    Enter(Injection),
    /// The guest has been run in software: look again.
    Again,
    /// Nothing: the guest has halted.
    Idle,
}

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
    /// The first exits, if they are recorded.
    pub recorder: Option<Box<Recorder>>,
    /// When the caller wants to be called back, as long as the guest runs.
    pub service_at: VmTime,
    /// From when on the caller wants it too, if the guest has been left for its own devices anyway.
    pub service_from: VmTime,
    /// Its number in the VM, from 0. 0 is the bootstrap processor.
    index: u8,
    /// The other CPUs of the VM: bit n is CPU n.
    others: u32,
    irqs: Box<dyn InterruptController>,
    msrs: MsrStore,
    pvclock: PvClock,
    pveoi: PvEoi,
    steal: StealTime,
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
            vm,
            index,
            others: !(1 << (index & 31)),
            pvclock,
            pveoi: PvEoi::default(),
            steal: StealTime::default(),
            kicked: false,
            cpu,
            clock,
            stats: Stats::default(),
            recorder: None,
            service_at: VmTime::NEVER,
            service_from: VmTime::NEVER,
            irqs,
            msrs: MsrStore::default(),
            events: EventQueue::default(),
            now: VmTime(0),
            now_is_old: false,
            activity: Activity::Active,
            calm: Attention::UNKNOWN,
            shadow: false,
            root: Hpa(0),
            generation: 0,
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

    /// Back to the power-on state. The time-stamp counter starts at 0 when the host's has the value `ticks`: the same for all CPUs of a VM.
    pub fn reset(&mut self, ticks: u64) {
        self.set_power_on_state();
        self.cpu
            .set_sysreg(SysReg::TscOffset, 0u64.wrapping_sub(ticks));
        self.msrs = MsrStore::default();
        self.pvclock.reset();
        self.pveoi = PvEoi::default();
        self.steal = StealTime::default();
        self.kicked = false;
        self.stop = None;
        self.set_activity(match self.index {
            0 => Activity::Active,
            _ => Activity::WaitForSipi,
        });
        self.place_local_apic();
    }

    /// What a reset and an INIT have in common.
    fn set_power_on_state(&mut self) {
        self.shadow = self.vm.is_shadow();
        self.cpu.set_shadow_paging(self.shadow);
        self.cpu.reset();
        let leaf1 = self.vm.cpuid.leaf1();
        self.cpu.gprs_mut().regs[gpr::RDX] = u64::from(leaf1.eax);
        self.events = EventQueue::default();
        self.reload_paging();
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
            Activity::Active => false,
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
        self.calm = Attention::UNKNOWN;
        let mut armed = VmTime(0);
        loop {
            if self.vm.unsettled() {
                self.settle();
            }
            if self.stop.is_some()
                && let Some(stop) = self.stop.take()
            {
                return self.leave(stop);
            }
            let deadline = self.vm.deadline().min(self.service_at);
            if self.now >= deadline {
                if self.now >= self.vm.deadline() {
                    self.vm.bus().poll(self.now);
                    if self.now < self.service_at.min(self.service_from) {
                        continue;
                    }
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
                let exit = self.enter(&Injection::default(), deadline, &mut armed);
                self.left(exit);
                continue;
            }
            match self.prepare(attention) {
                Next::Enter(injection) => self.run_with(&injection, deadline, &mut armed),
                Next::Again => {}
                Next::Idle => return self.leave(Stop::Idle(deadline)),
            }
        }
    }

    /// What [`run`](Self::run) returns, once the last exit is accounted for.
    #[cold]
    #[inline(never)]
    fn leave(&mut self, stop: Stop) -> Stop {
        self.finish(self.clock.ticks());
        stop
    }

    /// Decides about events, and tells the CPU the task priority.
    #[cold]
    #[inline(never)]
    fn prepare(&mut self, attention: Attention) -> Next {
        let waits = self.activity != Activity::Active
            || attention.intersects(Attention::EVENTS)
            || !self.events.is_quiet();
        let injection = if waits {
            match self.injection(attention) {
                Some(i) if !self.cpu.can_inject(&i) && self.run_in_software(&i) => {
                    return Next::Again;
                }
                Some(i) => i,
                None => return Next::Idle,
            }
        } else {
            Injection::default()
        };
        if !self.cpu.can_run() && self.run_in_software(&injection) {
            return Next::Again;
        }
        let attention = self.irqs.attention();
        if self.cpu.has_tpr_shadow() {
            self.cpu
                .set_task_priority(attention.cr8(), attention.threshold());
        }
        self.calm = if self.recorder.is_some() || attention.intersects(Attention::EVENTS) {
            Attention::UNKNOWN
        } else {
            attention
        };
        Next::Enter(injection)
    }

    /// Runs the guest until it exits, and notes when that was.
    #[inline(always)]
    fn enter(&mut self, injection: &Injection, deadline: VmTime, armed: &mut VmTime) -> VmExit {
        let timer = if self.cpu.has_timer() {
            self.clock.ticks_until(deadline, self.now)
        } else {
            if deadline != *armed {
                self.clock.arm(deadline, self.now);
                *armed = deadline;
            }
            u64::MAX
        };
        let mut flush = TlbFlush::None;
        if self.shadow || self.generation != self.vm.generation() {
            flush = self.look_up_root();
        }
        let entry = Entry {
            root: self.root,
            flush,
            inject: injection.event,
            irq_window: injection.irq_window,
            nmi_window: injection.nmi_window,
            timer,
        };
        self.account(self.clock.ticks());
        let injected = injection.event.map(|event| (event, self.cpu.rip()));
        let mut exit = self.cpu.run(&entry);
        let ticks = self.clock.ticks();
        if exit.vectoring.is_some() {
            self.drop_stale_vectoring(&mut exit, injected);
        }
        self.last = (exit.reason.index(), ticks);
        self.now = self.clock.time(ticks);
        exit
    }

    /// Runs the guest until it exits, with an event or with a [`Recorder`], and acts on the exit. A function of its own, so that the usual way
    /// has the exit in registers.
    #[cold]
    #[inline(never)]
    fn run_with(&mut self, injection: &Injection, deadline: VmTime, armed: &mut VmTime) {
        self.end_record();
        let exit = self.enter(injection, deadline, armed);
        self.take_back_eoi();
        self.take_task_priority();
        if let Some(vector) = exit.untaken {
            self.irqs.unacknowledge(vector);
        }
        if let Some(recorder) = &mut self.recorder {
            let before = Before::new(self.cpu.rip(), self.cpu.gprs());
            recorder.begin(self.now, &exit, &before);
        }
        self.left(exit);
    }

    /// What to inject at the next entry. None: the guest has halted and nothing wakes it.
    fn injection(&mut self, attention: Attention) -> Option<Injection> {
        if attention.intersects(Attention::INIT.union(Attention::START_UP)) {
            self.start_or_stop();
        }
        if attention.contains(Attention::KICK) && self.irqs.take_kick() {
            self.kicked();
        }
        if self.activity == Activity::WaitForSipi {
            return None;
        }
        if attention.contains(Attention::NMI) && self.irqs.take_nmi() {
            self.events.signal_nmi();
        }
        if self.events.nmi_blocked() && self.cpu.nmi_blocked() == Some(false) {
            self.events.nmi_done();
        }
        let pending = attention.contains(Attention::INTERRUPT);
        let state = self.interruptibility();
        if self.activity == Activity::Halted {
            if !(self.events.busy()
                || self.events.nmi_waiting()
                || (pending && state.interrupts_enabled))
            {
                return None;
            }
            self.set_activity(Activity::Active);
        }
        let mut acknowledged = false;
        let injection = self.events.next(state, pending, || {
            acknowledged = true;
            let vector = self.irqs.acknowledge();
            // Another one, from the other chip or with automatic end of interrupt, does not wait for the end of this one.
            (vector, self.irqs.attention().contains(Attention::INTERRUPT))
        });
        if acknowledged && self.pveoi.enabled() && self.irqs.eoi_may_be_skipped() {
            self.pveoi.offer(&*self.vm.memory);
        }
        if let Some(e) = &injection.event {
            self.stats.injected[match e.kind {
                EventKind::Exception => 0,
                EventKind::ExternalInterrupt => 1,
                EventKind::Nmi => 2,
                _ => 3,
            }] += 1;
            if e.is_fault() {
                let rflags = self.cpu.rflags();
                self.cpu.set_rflags(rflags | Rflags::RF.bits());
            }
        }
        Some(injection)
    }

    /// Where INT n is at RIP, its own event is what was being delivered, unless another was `injected` there, or a fault of it has met a
    /// task gate. Bochs 2.7 tells the event before it instead (`interrupt` in `cpu/exception.cc` records none for INT n). The
    /// instruction runs again, and a fault of it comes again.
    #[cold]
    #[inline(never)]
    fn drop_stale_vectoring(&mut self, exit: &mut VmExit, injected: Option<(Event, u64)>) {
        let Some(event) = exit.vectoring else { return };
        let at_task_gate = exit.reason == ExitReason::TaskSwitch && event.error.is_some();
        if event.kind.is_software() || at_task_gate || Some((event, self.cpu.rip())) == injected {
            return;
        }
        if let Ok(Some(_)) = emulate::length(self, Intercepted::SoftwareInterrupt) {
            exit.vectoring = None;
        }
    }

    /// The guest has been left: acts on it.
    #[inline(always)]
    fn left(&mut self, exit: VmExit) {
        self.take_back_eoi();
        self.take_task_priority();
        if let Some(e) = exit.vectoring {
            self.put_back(e);
        }
        let result = self.dispatch(exit);
        self.come_to(result);
    }

    /// Tells the interrupt chips of the task priority that the guest has set.
    #[inline(always)]
    fn take_task_priority(&mut self) {
        if let Some(cr8) = self.cpu.changed_task_priority() {
            self.irqs.set_cr8(cr8);
            self.calm = Attention::UNKNOWN;
        }
    }

    /// Sees to what an exit or an instruction has come to.
    #[inline(always)]
    fn come_to(&mut self, result: Result<(), Trouble>) {
        match result {
            Ok(()) | Err(Trouble::Again) => {}
            Err(Trouble::Exception(e)) => self.raise(e),
            Err(Trouble::Fatal(why)) => self.stop = Some(Stop::Fatal(why)),
        }
    }

    /// The event has not been delivered: it waits where it came from.
    #[cold]
    #[inline(never)]
    fn put_back(&mut self, event: Event) {
        match event.kind {
            EventKind::ExternalInterrupt => self.irqs.unacknowledge(event.vector),
            _ => self.events.put_back(event),
        }
    }

    /// The event that has been put back has met a fault of the guest's on its way in. It counts as taken, as on a CPU: an interrupt
    /// stays in service, and NMIs stay blocked until the next IRET.
    #[cold]
    #[inline(never)]
    fn lose(&mut self, event: Event) {
        match event.kind {
            EventKind::ExternalInterrupt => {
                let _ = self.irqs.acknowledge();
            }
            EventKind::Nmi => {
                self.events.lose_nmi();
                self.cpu.set_nmi_blocked(true);
            }
            // What two exceptions come to, the queue knows; a software event's instruction runs again.
            _ => {}
        }
    }

    /// Notices that the guest has skipped an EOI that it did not need to write.
    #[inline(always)]
    fn take_back_eoi(&mut self) {
        if self.pveoi.offered() && self.pveoi.take_back(&*self.vm.memory) {
            self.irqs.end_of_interrupt();
        }
    }

    /// After a pause in which the guest did not run: brings the time up to date.
    pub fn resume(&mut self) {
        self.now = self.clock.time(self.clock.ticks());
        self.now_is_old = false;
    }

    /// The host's CPU is its from now on; in all, others have had it for `steal` nanoseconds while this one could have run.
    pub fn begin_turn(&mut self, steal: u64) {
        if self.steal.begin(&*self.vm.memory, steal) {
            self.reload_paging();
        }
    }

    /// The host's CPU is its no longer.
    pub fn end_turn(&mut self) {
        self.steal.end(&*self.vm.memory);
    }

    /// Takes `ticks` ticks of the time-stamp counter, during which the guest was paused and which have just passed, out of its time: it
    /// sees neither its clocks nor its time-stamp counter jump.
    pub fn skip(&mut self, ticks: u64) {
        self.clock.skip(ticks);
        let offset = self.cpu.sysreg(SysReg::TscOffset);
        self.cpu
            .set_sysreg(SysReg::TscOffset, offset.wrapping_sub(ticks));
    }

    /// Acts on one exit: one line a reason. What a line hands on is small, so that the exit stays in registers.
    #[inline(always)]
    fn dispatch(&mut self, exit: VmExit) -> Result<(), Trouble> {
        match exit.reason {
            ExitReason::PortIo(io) => self.port_io(io, exit.next_rip),
            ExitReason::StringIo(io) => self.string_io(io, exit.next_rip),
            ExitReason::NestedFault(fault) if self.shadow => self.at_fence(fault, exit.vectoring),
            ExitReason::NestedFault(fault) => {
                let resolve = self.vm.mmu().fault(&fault);
                self.resolve(resolve, exit.vectoring)
            }
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

    /// Whether the next instruction is a MOV that sets reserved bits of CR3, where a CPU raises #GP. QEMU's AMD-V ends the guest instead, as
    /// if the entry had failed.
    #[cold]
    #[inline(never)]
    fn at_invalid_mov_to_cr3(&mut self) -> bool {
        let Ok(Some(mov)) = emulate::mov_system(self) else {
            return false;
        };
        let value = self.cpu.gprs().regs[mov.gpr];
        mov.write
            && mov.register == SystemRegister::Control(3)
            && Mode::of(self).is_64()
            && value >> self.vm.cpuid.physical_bits() != 0
    }

    /// Adds the time since the last exit to its reason. Another exit follows.
    #[inline(always)]
    fn account(&mut self, ticks: u64) {
        let (reason, since) = self.last;
        if reason < ExitReason::KINDS {
            self.stats.exit(reason, ticks.wrapping_sub(since));
            if let Some(now) = self.cpu.accesses() {
                let since = core::mem::replace(&mut self.accesses, now);
                self.stats
                    .accesses(reason, (now.0 - since.0, now.1 - since.1));
            }
        }
    }

    /// The last exit has been dealt with, and no entry follows.
    fn finish(&mut self, ticks: u64) {
        self.end_record();
        self.account(ticks);
        self.last = NO_EXIT;
    }

    fn end_record(&mut self) {
        if let Some(recorder) = &mut self.recorder {
            recorder.end(self.cpu.rip(), self.cpu.gprs());
        }
    }

    fn interruptibility(&self) -> Interruptibility {
        Interruptibility {
            interrupts_enabled: self.cpu.rflags() & Rflags::IF.bits() != 0,
            shadow: self.cpu.interrupt_shadow(),
        }
    }

    /// The root of the tables has changed, or may have, or this CPU has to forget what it remembers of them.
    #[inline(never)]
    fn look_up_root(&mut self) -> TlbFlush {
        if self.shadow != self.vm.is_shadow() {
            self.follow_paging();
        }
        let mut mmu = self.vm.mmu();
        let (root, flush) = mmu.root(self.index());
        (self.root, self.generation) = (root, mmu.generation());
        if flush != TlbFlush::None {
            self.stats.flushes += 1;
            if self.shadow {
                // Another CPU may have put the fence up or taken it down.
                self.cpu.set_fence(mmu.fence(self.index()));
            }
        }
        flush
    }

    /// What this CPU makes of a physical address on its way to memory and bus.
    #[inline]
    fn decode(&self, gpa: Gpa) -> Gpa {
        bus::decode(gpa, self.index, self.apic_page, self.vm.wraps())
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

    /// Raises an exception in the guest.
    fn raise(&mut self, event: Event) {
        if self.events.raise(event) == Err(TripleFault) {
            self.stop = Some(Stop::TripleFault);
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

    /// An exception that was intercepted only to keep the CPU from looping goes to the guest as it is. Where the instruction's length
    /// is not known, one that an instruction raised is executed in software.
    #[cold]
    #[inline(never)]
    fn reflect(&mut self, kind: EventKind, v: u8, error: u32, insn_len: u8) -> Result<(), Trouble> {
        if kind.is_software() {
            return match insn_len {
                0 => self.emulate(),
                insn_len => Err(Trouble::Exception(Event {
                    kind,
                    vector: v,
                    error: None,
                    insn_len,
                })),
            };
        }
        let error = matches!(v, 8 | 10..=14 | 17 | 21).then_some(error);
        if v == vector::MC {
            return Err(Trouble::Fatal(sentence(format_args!(
                "the host reported a machine check while the guest ran"
            ))));
        }
        Err(Trouble::Exception(Event::exception(v, error)))
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

    #[cold]
    #[inline(never)]
    fn trap_single_step(&mut self) {
        const BS: u64 = 1 << 14;
        self.debug_trap(BS);
    }

    /// Raises the debug exception that an instruction or event in software leaves to be raised, if any.
    fn trap(&mut self, step: &Step) {
        const BT: u64 = 1 << 15;
        if step.single_step {
            self.trap_single_step();
        }
        if step.task_trap {
            self.debug_trap(BT);
        }
    }

    fn debug_trap(&mut self, why: u64) {
        let dr6 = self.cpu.sysreg(SysReg::Dr6);
        self.cpu.set_sysreg(SysReg::Dr6, dr6 | why);
        self.raise(Event::exception(vector::DB, None));
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

    /// The NMI handler is about to end. Its IRET is executed here, so that the next NMI comes right behind it. A fault of the IRET
    /// ends the blocking too (SDM vol 3A 6.7.1, "Handling Multiple NMIs").
    #[cold]
    #[inline(never)]
    fn iret(&mut self) -> Result<(), Trouble> {
        self.events.nmi_done();
        self.emulate()
    }

    /// The NMI handler has ended: the next NMI may come.
    #[cold]
    #[inline(never)]
    fn nmi_window(&mut self) -> Result<(), Trouble> {
        self.events.nmi_done();
        Ok(())
    }

    /// Executes one instruction in software.
    fn emulate(&mut self) -> Result<(), Trouble> {
        self.stats.emulated += 1;
        let before = self.cpu.rip();
        let result = emulate::step(self);
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
