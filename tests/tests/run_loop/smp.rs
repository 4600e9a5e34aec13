//! Several virtual CPUs of one machine: how they start and stop each other, and who is woken.

use device_model::irq::{CpuInterrupts, InterruptChips, SharedChips};
use hv_core::VmTime;
use hv_core::bus::Bus;
use hv_core::cpu::VcpuBackend;
use hv_core::cpuid::Cpuid;
use hv_core::exit::{ExitReason, VmExit};
use hv_core::flush::Kick;
use hv_core::hypercall::{KICK_CPU, NO_SUCH_CALL, NOT_PERMITTED, SCHED_YIELD, SEND_IPI};
use hv_core::interface::Interfaces;
use hv_core::irq::{Attention, InterruptController};
use hv_core::kick::Kicks;
use hv_core::machine::Topology;
use hv_core::mmu::TlbFlush;
use hv_core::pvclock::PvClock;
use hv_core::regs::{SegAttr, SegReg, SysReg, gpr};
use hv_core::testing::{FakeInterrupts, FlatMmu, ManualClock, ScriptedCpu, VecMemory};
use hv_core::time::Clock;
use hv_core::vcpu::{self, Activity, Stop, Vcpu};
use hv_core::vm::{self, Vm};
use std::sync::Arc;
use tests::rig::{RAM, host};

pub type Cpu = Vcpu<ScriptedCpu, FlatMmu, ManualClock>;

const WRMSR: ExitReason = ExitReason::Wrmsr;
const APIC_BASE: u32 = 0x1b;
const ICR: u32 = 0x830;
const SPURIOUS: u32 = 0x80f;
const INIT: u64 = 0x4500;
const START_UP: u64 = 0x4600;
const IF: u64 = 0x202;

/// A machine with several CPUs, whose local APICs are real.
pub struct Machine {
    /// Its CPUs.
    pub cpus: Vec<Cpu>,
    /// Their clock.
    pub clock: ManualClock,
    _chips: SharedChips,
}

impl Machine {
    fn new(count: u8) -> Self {
        Self::offering(count, Interfaces::default())
    }

    /// One whose guest is offered these interfaces.
    pub fn offering(count: u8, interfaces: Interfaces) -> Self {
        let memory = Arc::new(VecMemory::new(RAM));
        let mut bus = Bus::new(memory.clone());
        let chips = InterruptChips::shared(count);
        for _ in 0..count {
            bus.add_cpu_page(hv_core::Gpa(hv_core::machine::LAPIC));
        }
        let wakeups = chips.lock().wakeups();
        let vm = Arc::new(Vm::new(vm::Parts {
            number: 1,
            mmu: FlatMmu::default(),
            bus,
            memory,
            cpuid: Cpuid::new(host, Topology::new(count.into())).offering(interfaces),
            wakeups,
            scratch: None,
        }));
        let clock = ManualClock::default();
        clock.pass(12_345);
        let cpu = |index: u8| {
            let irqs = CpuInterrupts::new(&chips, index.into()).expect("it is there");
            let parts = vcpu::Parts {
                cpu: ScriptedCpu::default(),
                clock: clock.clone(),
                pvclock: PvClock::new(1_000_000_000, 0),
                irqs: Box::new(irqs),
            };
            Vcpu::new(vm.clone(), index, parts)
        };
        let mut machine = Self {
            cpus: (0..count).map(cpu).collect(),
            clock: clock.clone(),
            _chips: chips,
        };
        let ticks = Clock::ticks(&clock);
        machine.cpus.iter_mut().for_each(|cpu| cpu.reset(ticks));
        machine
    }

    /// CPU `n` writes a register.
    pub fn wrmsr(&mut self, n: usize, msr: u32, value: u64) -> Stop {
        let _ = self.cpus[n].vm.wakeups.take();
        let cpu = &mut self.cpus[n];
        let regs = &mut cpu.cpu.gprs.regs;
        regs[gpr::RCX] = msr.into();
        (regs[gpr::RAX], regs[gpr::RDX]) = (value & 0xffff_ffff, value >> 32);
        cpu.cpu.exit(VmExit {
            next_rip: Some(cpu.cpu.rip + 2),
            ..VmExit::bare(WRMSR)
        });
        cpu.run()
    }

    /// CPU `n` makes a hypercall, which returns this.
    fn call(&mut self, n: usize, number: u64, arguments: [u64; 4]) -> (Stop, u64) {
        let _ = self.cpus[n].vm.wakeups.take();
        let cpu = &mut self.cpus[n];
        let registers = [gpr::RBX, gpr::RCX, gpr::RDX, gpr::RSI];
        for (register, value) in registers.into_iter().zip(arguments) {
            cpu.cpu.gprs.regs[register] = value;
        }
        cpu.cpu.gprs.regs[gpr::RAX] = number;
        cpu.cpu.exit(VmExit {
            next_rip: Some(cpu.cpu.rip + 3),
            ..VmExit::bare(ExitReason::Hypercall)
        });
        let stop = cpu.run();
        (stop, cpu.cpu.gprs.regs[gpr::RAX])
    }

    /// CPU `n` is started, in x2APIC mode, software-enabled, and halts with these flags.
    pub fn halt(&mut self, n: usize, rflags: u64) -> Stop {
        if self.cpus[n].activity() == Activity::WaitForSipi {
            self.x2apic(0);
            self.wrmsr(0, ICR, (n as u64) << 32 | INIT);
            self.wrmsr(0, ICR, (n as u64) << 32 | START_UP | 1);
            self.cpus[n].run();
            self.x2apic(n);
            self.wrmsr(n, SPURIOUS, 0x1ff);
        }
        self.cpus[n].cpu.rflags = rflags;
        self.cpus[n].cpu.exit(VmExit {
            next_rip: Some(1),
            ..VmExit::bare(ExitReason::Hlt)
        });
        self.cpus[n].run()
    }

    /// CPU `n` turns x2APIC mode on.
    pub fn x2apic(&mut self, n: usize) {
        let bootstrap = if n == 0 { 0x100 } else { 0 };
        let stop = self.wrmsr(n, APIC_BASE, 0xfee0_0c00 | bootstrap);
        assert_eq!(stop, Stop::HostInterrupt);
    }
}

#[test]
fn the_others_wait_for_a_start_up_message() {
    let mut m = Machine::new(3);
    let waits: Vec<_> = m.cpus.iter().map(Vcpu::activity).collect();
    use Activity::{Active, WaitForSipi};
    assert_eq!(waits, [Active, WaitForSipi, WaitForSipi]);
    assert!(matches!(m.cpus[1].run(), Stop::Idle(_)));
    m.x2apic(0);
    assert_eq!(m.wrmsr(0, ICR, 1 << 32 | INIT), Stop::Wakeup);
    assert_eq!(m.cpus[0].vm.wakeups.take(), 1 << 1);
    assert!(
        matches!(m.cpus[1].run(), Stop::Idle(_)),
        "INIT starts nobody"
    );
    assert_eq!(m.wrmsr(0, ICR, 1 << 32 | START_UP | 0x9a), Stop::Wakeup);
    assert_eq!(m.cpus[0].vm.wakeups.take(), 1 << 1);
    assert_eq!(m.cpus[1].run(), Stop::HostInterrupt, "it runs");
    let cpu = &m.cpus[1].cpu;
    let cs = cpu.segment(SegReg::Cs);
    assert_eq!((cs.selector, cs.base, cpu.rip), (0x9a00, 0x9a000, 0));
    assert_eq!(m.cpus[2].activity(), WaitForSipi);
    // A second start-up message does nothing.
    m.cpus[1].cpu.rip = 0x123;
    m.wrmsr(0, ICR, 1 << 32 | START_UP | 0x77);
    m.cpus[1].run();
    assert_eq!(m.cpus[1].cpu.rip, 0x123);
}

/// SDM vol 3A 12.5.4.1, "TSC-Deadline Mode": the deadline is a value of the guest's own counter.
#[test]
fn tsc_deadline_is_due_when_the_guests_counter_is_there() {
    const TSC: u32 = 0x10;
    const TSC_DEADLINE: u32 = 0x6e0;
    const LVT_TIMER: u32 = 0x832;
    const MODE: (u32, u64) = (LVT_TIMER, 0x4_00ef);
    // The CPU writes these and halts: until when?
    let idle = |writes: &[(u32, u64)]| {
        let mut m = Machine::new(1);
        m.x2apic(0);
        m.wrmsr(0, SPURIOUS, 0x1ff);
        for &(msr, value) in writes {
            m.wrmsr(0, msr, value);
        }
        m.halt(0, IF)
    };
    let until = |ticks: u64| Stop::Idle(VmTime(12_345 + ticks + 1));
    let set = [MODE, (TSC, 5_000), (TSC_DEADLINE, 105_000)];
    assert_eq!(idle(&set), until(100_000));
    let moved = [&set[..], &[(TSC, 65_000)]].concat();
    assert_eq!(idle(&moved), until(40_000), "the counter has jumped");
    let never = Stop::Idle(VmTime::NEVER);
    assert_eq!(idle(&[(TSC_DEADLINE, 105_000)]), never, "another mode");
    assert_eq!(idle(&[MODE, (TSC_DEADLINE, u64::MAX)]), never, "years");
    let passed = [MODE, (TSC, 5_000), (TSC_DEADLINE, 4_999)];
    assert_eq!(idle(&passed), until(0), "at once");
}

#[test]
fn init_keeps_what_the_manual_keeps() {
    let mut m = Machine::new(2);
    m.x2apic(0);
    m.wrmsr(0, ICR, 1 << 32 | INIT);
    m.wrmsr(0, ICR, 1 << 32 | START_UP | 1);
    m.cpus[1].run();
    let cpu = &mut m.cpus[1].cpu;
    let tsc = cpu.sysreg(SysReg::TscOffset);
    assert_eq!(
        tsc,
        0u64.wrapping_sub(12_345),
        "all count from the same moment"
    );
    cpu.set_sysreg(SysReg::Lstar, 0x1234_5678);
    cpu.set_sysreg(SysReg::Cr0, 0xe000_0011);
    cpu.set_sysreg(SysReg::Cr3, 0x5000);
    cpu.gprs.regs[gpr::RBX] = 7;
    cpu.xcr0 = 3;
    m.wrmsr(0, ICR, 1 << 32 | INIT);
    assert!(matches!(m.cpus[1].run(), Stop::Idle(_)));
    assert_eq!(m.cpus[1].activity(), Activity::WaitForSipi);
    let cpu = &m.cpus[1].cpu;
    assert_eq!(cpu.sysreg(SysReg::TscOffset), tsc);
    assert_eq!(cpu.sysreg(SysReg::Lstar), 0x1234_5678);
    assert_eq!(cpu.sysreg(SysReg::Cr0), 0x6000_0010, "CD and NW stay");
    assert_eq!(cpu.sysreg(SysReg::Cr3), 0);
    assert_eq!((cpu.gprs.regs[gpr::RBX], cpu.xcr0), (0, 3));
}

#[test]
fn an_init_of_the_bootstrap_processor_starts_it_at_the_reset_vector() {
    let mut m = Machine::new(2);
    m.x2apic(0);
    m.cpus[0].cpu.rip = 0x1000;
    assert_eq!(m.wrmsr(0, ICR, INIT), Stop::HostInterrupt);
    let cpu = &m.cpus[0];
    assert_eq!(cpu.activity(), Activity::Active);
    assert_eq!(
        (cpu.cpu.rip, cpu.cpu.segment(SegReg::Cs).base),
        (0xfff0, 0xffff_0000)
    );
}

#[test]
fn a_halted_cpu_is_woken_by_an_interrupt_and_only_it() {
    let mut m = Machine::new(3);
    for n in 1..3 {
        assert!(matches!(m.halt(n, 0x202), Stop::Idle(_)));
    }
    assert_eq!(m.wrmsr(0, ICR, 2 << 32 | 0x41), Stop::Wakeup);
    assert_eq!(m.cpus[0].vm.wakeups.take(), 1 << 2);
    m.cpus[2].cpu.entries.clear();
    assert_eq!(m.cpus[2].run(), Stop::HostInterrupt);
    let injected = m.cpus[2].cpu.entries[0].inject.map(|e| e.vector);
    assert_eq!(injected, Some(0x41));
    // It runs: nobody has to be told of the next one.
    assert_eq!(m.wrmsr(0, ICR, 2 << 32 | 0x42), Stop::HostInterrupt);
}

#[test]
fn a_halted_cpu_that_keeps_the_hosts_cpu_is_interrupted_there_and_nobody_else_has_to_wake_it() {
    let mut m = Machine::new(3);
    let Stop::Idle(until) = m.halt(1, 0x202) else {
        panic!("it has halted");
    };
    let mut one = m.cpus.remove(1);
    let sends = |m: &mut Machine| m.wrmsr(0, ICR, 1 << 32 | 0x41);
    // An interrupt of the host's, which is not for it, and then one of another CPU's.
    let mut halts = 0;
    assert!(one.wait(until, || {
        halts += 1;
        if halts == 2 {
            assert_eq!(sends(&mut m), Stop::HostInterrupt);
        }
        true
    }));
    assert_eq!(halts, 2);
    one.cpu.entries.clear();
    assert_eq!(one.run(), Stop::HostInterrupt);
    let injected = one.cpu.entries[0].inject.map(|e| e.vector);
    assert_eq!(injected, Some(0x41));

    // Its time is up; or something has come as it gives up.
    m.cpus.insert(1, one);
    m.halt(1, 0x202);
    let mut one = m.cpus.remove(1);
    let now = one.now();
    assert!(one.wait(now, || true));
    assert!(one.wait(VmTime::NEVER, || {
        sends(&mut m);
        false
    }));
    one.run();

    // Once it has given up, it has to be woken again.
    m.cpus.insert(1, one);
    m.halt(1, 0x202);
    let mut one = m.cpus.remove(1);
    assert!(!one.wait(VmTime::NEVER, || false));
    assert_eq!(sends(&mut m), Stop::Wakeup);
    assert_eq!(m.cpus[0].vm.wakeups.take(), 1 << 1);
}

/// Interrupts, and another CPU that requests something just after one was acknowledged, once.
struct Late(FakeInterrupts, Arc<Kicks>, bool);

impl InterruptController for Late {
    fn attention(&mut self) -> Attention {
        self.0.attention()
    }
    fn acknowledge(&mut self) -> Option<u8> {
        if std::mem::take(&mut self.2) {
            assert!(!self.1.look(0), "it is not in the guest");
        }
        self.0.acknowledge()
    }
    fn unacknowledge(&mut self, vector: u8) {
        self.0.unacknowledge(vector);
    }
    fn take_nmi(&mut self) -> bool {
        self.0.take_nmi()
    }
    fn cr8(&self) -> u8 {
        self.0.cr8()
    }
    fn set_cr8(&mut self, value: u8) {
        self.0.set_cr8(value);
    }
    fn apic_base(&self) -> u64 {
        self.0.apic_base()
    }
    fn set_apic_base(&mut self, value: u64) -> bool {
        self.0.set_apic_base(value)
    }
}

#[test]
fn a_cpu_that_is_to_look_around_does_not_enter_and_loses_neither_interrupt_nor_flush() {
    let m = Machine::new(1);
    let vm = m.cpus[0].vm.clone();
    let interrupts = FakeInterrupts {
        waiting: [0x30].into(),
        ..FakeInterrupts::default()
    };
    let parts = vcpu::Parts {
        cpu: ScriptedCpu::default(),
        clock: m.clock.clone(),
        pvclock: PvClock::new(1_000_000_000, 0),
        irqs: Box::new(Late(interrupts, vm.wakeups.kicks.clone(), true)),
    };
    let mut cpu = Vcpu::new(vm.clone(), 0, parts);
    cpu.cpu.rflags = IF;
    assert_eq!(cpu.run(), Stop::HostInterrupt);
    let entries = &cpu.cpu.entries;
    assert_eq!(entries.len(), 1, "{entries:?}");
    assert_eq!(entries[0].inject.map(|e| e.vector), Some(0x30));
    assert_eq!(entries[0].flush, TlbFlush::Guest, "the first entry flushes");
    // Requested while it is outside, for its root: it asks, and need not flush for that.
    vm.wakeups.kicks.kick(1);
    cpu.run();
    vm.mmu().flushes.require();
    cpu.run();
    let flushes = cpu.cpu.entries.iter().map(|entry| entry.flush);
    let expected = [TlbFlush::Guest, TlbFlush::None, TlbFlush::Guest];
    assert_eq!(flushes.collect::<Vec<_>>(), expected);
}

#[test]
fn a_kick_ends_a_halt_with_interrupts_off_also_one_that_comes_later() {
    let mut m = Machine::new(2);
    assert!(matches!(m.halt(1, 2), Stop::Idle(_)));
    assert!(m.cpus[1].ignores_interrupts());
    assert_eq!(m.call(0, KICK_CPU, [0, 1, 0, 0]), (Stop::Wakeup, 0));
    assert_eq!(m.cpus[1].run(), Stop::HostInterrupt);
    assert_eq!(m.call(0, KICK_CPU, [0, 1, 0, 0]), (Stop::HostInterrupt, 0));
    assert_eq!(m.cpus[1].run(), Stop::HostInterrupt);
    assert_eq!(m.halt(1, 2), Stop::HostInterrupt, "it goes on");
    assert!(matches!(m.halt(1, 2), Stop::Idle(_)), "only once");
    assert_eq!(
        m.call(0, KICK_CPU, [0, 77, 0, 0]).1,
        0,
        "there is none such"
    );
}

#[test]
fn one_call_sends_an_interrupt_to_many() {
    let mut m = Machine::new(4);
    for n in 1..4 {
        m.halt(n, 0x202);
    }
    let (stop, sent) = m.call(0, SEND_IPI, [0b101, 0, 1, 0x41]);
    assert_eq!((stop, sent), (Stop::Wakeup, 2));
    assert_eq!(m.cpus[0].vm.wakeups.take(), 1 << 1 | 1 << 3);
    assert_eq!(
        m.cpus[0].ipis(),
        2 * 3 + 2,
        "those that have started them, too"
    );
    for (n, vector) in [(1, Some(0x41)), (3, Some(0x41))] {
        m.cpus[n].cpu.entries.clear();
        m.cpus[n].run();
        let injected = m.cpus[n].cpu.entries[0].inject.map(|e| e.vector);
        assert_eq!(injected, vector);
    }
    // Out of range, and an INIT.
    assert_eq!(m.call(0, SEND_IPI, [u64::MAX, u64::MAX, 4, 0x41]).1, 0);
    assert_eq!(
        m.call(0, SEND_IPI, [1, 0, 1, 0x500]).1 as u32,
        NO_SUCH_CALL as u32
    );
}

#[test]
fn a_call_may_give_the_turn_to_another_cpu() {
    let mut m = Machine::new(3);
    assert_eq!(m.call(0, SCHED_YIELD, [2, 0, 0, 0]).0, Stop::YieldTo(2));
    for nobody in [0, 3, 32, u64::MAX] {
        let (stop, _) = m.call(0, SCHED_YIELD, [nobody, 0, 0, 0]);
        assert_eq!(stop, Stop::HostInterrupt);
    }
}

#[test]
fn unknown_calls_and_calls_of_user_code_are_refused() {
    let mut m = Machine::new(1);
    assert_eq!(m.call(0, 99, [0; 4]).1 as u32, NO_SUCH_CALL as u32);
    let mut ss = m.cpus[0].cpu.segment(SegReg::Ss);
    ss.attr |= SegAttr::DPL0 | SegAttr::DPL1;
    m.cpus[0].cpu.set_segment(SegReg::Ss, ss);
    assert_eq!(m.call(0, KICK_CPU, [0; 4]).1 as u32, NOT_PERMITTED as u32);
}
