//! Microsoft's interface, as a guest uses it: model-specific registers, hypercalls, timers, and pages over its memory.

use super::smp::Machine;
use hv_core::cpu::VcpuBackend;
use hv_core::event::{Event, vector};
use hv_core::exit::{ExitReason, VmExit};
use hv_core::hyperv::msr;
use hv_core::interface::Interfaces;
use hv_core::mem::GuestMemory;
use hv_core::regs::{SegAttr, SegReg, SysReg, gpr};
use hv_core::vcpu::{Activity, Stop};
use hv_core::{Gpa, VmTime};
use std::sync::Arc;

const FAST: u64 = 1 << 16;
const SEND_IPI: u64 = 0xb;
const FLUSH: u64 = 2;
const SPIN: u64 = 8;
const SPURIOUS: u32 = 0x80f;
const SINT2: u32 = msr::SINT0 + 2;
const STIMER0_COUNT: u32 = msr::STIMER0_CONFIG + 1;

/// What one CPU does.
impl Machine {
    fn hyperv(count: u8) -> Self {
        let mut m = Self::offering(count, Interfaces::HYPERV);
        m.wrmsr(0, msr::GUEST_OS_ID, 0x8100_0000_0000_0000);
        m
    }

    fn memory(&self) -> Arc<dyn GuestMemory> {
        self.cpus[0].vm.memory.clone()
    }

    fn rdmsr(&mut self, n: usize, msr: u32) -> u64 {
        let cpu = &mut self.cpus[n];
        cpu.cpu.gprs.regs[gpr::RCX] = msr.into();
        cpu.cpu.exit(VmExit {
            next_rip: Some(cpu.cpu.rip + 2),
            ..VmExit::bare(ExitReason::Rdmsr)
        });
        cpu.run();
        let regs = &cpu.cpu.gprs.regs;
        regs[gpr::RDX] << 32 | regs[gpr::RAX]
    }

    /// CPU `n` makes a hypercall in 64-bit mode.
    fn hypercall(&mut self, n: usize, input: u64, [a, b]: [u64; 2]) -> (Stop, u64) {
        let cpu = &mut self.cpus[n];
        cpu.cpu.long_mode();
        let regs = &mut cpu.cpu.gprs.regs;
        (regs[gpr::RCX], regs[gpr::RDX], regs[gpr::R8]) = (input, a, b);
        cpu.cpu.exit(VmExit {
            next_rip: Some(cpu.cpu.rip + 3),
            ..VmExit::bare(ExitReason::Hypercall)
        });
        let stop = cpu.run();
        (stop, cpu.cpu.gprs.regs[gpr::RAX])
    }

    /// What CPU `n` was given at its last entry.
    fn given(&self, n: usize) -> Option<Event> {
        self.cpus[n].cpu.entries.last()?.inject
    }

    /// Whether CPU `n` is refused this write.
    fn refuses(&mut self, n: usize, msr: u32, value: u64) -> bool {
        self.wrmsr(n, msr, value);
        self.given(n).is_some_and(|e| e.vector == vector::GP)
    }

    /// CPU `n` runs.
    fn start(&mut self, n: usize) {
        const ICR: u32 = 0x830;
        self.x2apic(0);
        self.wrmsr(0, ICR, (n as u64) << 32 | 0x4500);
        self.wrmsr(0, ICR, (n as u64) << 32 | 0x4601);
        self.cpus[n].run();
    }

    /// CPU 0 takes interrupts.
    fn listen(&mut self) {
        self.x2apic(0);
        self.wrmsr(0, SPURIOUS, 0x1ff);
    }
}

#[test]
fn registers_of_an_interface_are_there_with_it_only() {
    const KVM_CLOCK: u32 = 0x4b56_4d01;
    for (interfaces, hyperv, kvm) in [
        (Interfaces::empty(), false, false),
        (Interfaces::KVM, false, true),
        (Interfaces::HYPERV, true, false),
        (Interfaces::all(), true, true),
    ] {
        let mut m = Machine::offering(1, interfaces);
        assert_eq!(!m.refuses(0, msr::GUEST_OS_ID, 1), hyperv, "{interfaces:?}");
        assert_eq!(!m.refuses(0, KVM_CLOCK, 0), kvm, "{interfaces:?}");
    }
}

#[test]
fn read_only_registers_and_reserved_bits_are_refused() {
    let mut m = Machine::hyperv(2);
    m.listen();
    m.start(1);
    for (register, value) in [
        (msr::VP_INDEX, 0),
        (msr::TIME_REF_COUNT, 0),
        (msr::TSC_FREQUENCY, 0),
        (msr::SVERSION, 1),
        (msr::EOI, 1 << 32),
        (msr::TPR, 0x100),
        (msr::HYPERCALL, u64::MAX),
        (msr::VP_ASSIST_PAGE, u64::MAX),
        (SINT2, 0xf),
        (msr::STIMER0_CONFIG, 1 << 63),
        (msr::SINT0 + 16, 0),
        (0x4000_0050, 0),
    ] {
        assert!(m.refuses(0, register, value), "{register:#x}");
    }
    assert_eq!(
        (m.rdmsr(0, msr::VP_INDEX), m.rdmsr(1, msr::VP_INDEX)),
        (0, 1)
    );
    assert_eq!(m.rdmsr(0, msr::TSC_FREQUENCY), 1_000_000_000);
    assert!(!m.refuses(0, msr::TPR, 0x43));
    assert_eq!(m.rdmsr(0, msr::TPR), 0x43);
}

#[test]
fn calls_are_microsofts_from_when_the_guest_has_said_who_it_is() {
    const NO_SUCH_CALL: u32 = -1000i32 as u32;
    let mut m = Machine::offering(1, Interfaces::all());
    assert_eq!(m.hypercall(0, 0x99, [0; 2]).1 as u32, NO_SUCH_CALL, "KVM's");
    m.wrmsr(0, msr::GUEST_OS_ID, 1);
    assert_eq!(m.hypercall(0, 0x99, [0; 2]).1, 2);
    m.wrmsr(0, msr::GUEST_OS_ID, 0);
    assert_eq!(m.hypercall(0, 0x99, [0; 2]).1 as u32, NO_SUCH_CALL);
    let mut m = Machine::offering(1, Interfaces::HYPERV);
    assert_eq!(m.hypercall(0, 5, [0; 2]).1 as u32, NO_SUCH_CALL, "no kick");
}

#[test]
fn a_call_of_user_code_is_no_instruction() {
    let mut m = Machine::hyperv(1);
    m.hypercall(0, 0x99, [0; 2]);
    let mut ss = m.cpus[0].cpu.segment(SegReg::Ss);
    ss.attr |= SegAttr::DPL0 | SegAttr::DPL1;
    let cpu = &mut m.cpus[0];
    cpu.cpu.set_segment(SegReg::Ss, ss);
    cpu.cpu.exit(VmExit {
        next_rip: Some(cpu.cpu.rip + 3),
        ..VmExit::bare(ExitReason::Hypercall)
    });
    cpu.run();
    assert_eq!(m.given(0).map(|e| e.vector), Some(vector::UD));
}

#[test]
fn a_32_bit_guest_has_the_call_in_pairs_of_registers() {
    let mut m = Machine::hyperv(1);
    m.hypercall(0, 0x99, [0; 2]);
    let cpu = &mut m.cpus[0];
    let mut cs = cpu.cpu.segment(SegReg::Cs);
    cs.attr.remove(SegAttr::L);
    cpu.cpu.set_segment(SegReg::Cs, cs);
    let regs = &mut cpu.cpu.gprs.regs;
    // One repetition of a flush list that lies at 1_0000_0001h, which is not aligned.
    (regs[gpr::RDX], regs[gpr::RAX]) = (1, 3);
    (regs[gpr::RBX], regs[gpr::RCX]) = (1, 1);
    cpu.cpu.exit(VmExit {
        next_rip: Some(cpu.cpu.rip + 3),
        ..VmExit::bare(ExitReason::Hypercall)
    });
    cpu.run();
    let regs = &cpu.cpu.gprs.regs;
    assert_eq!((regs[gpr::RDX], regs[gpr::RAX]), (0, 4));
}

#[test]
fn a_call_interrupts_other_cpus() {
    let mut m = Machine::hyperv(3);
    for n in 1..3 {
        assert!(matches!(m.halt(n, 0x202), Stop::Idle(_)));
    }
    let _ = m.cpus[0].vm.wakeups.take();
    let sent = m.hypercall(0, SEND_IPI | FAST, [0x41, 1 << 2 | 1 << 20]);
    assert_eq!(sent, (Stop::Wakeup, 0));
    assert_eq!(m.cpus[0].vm.wakeups.take(), 1 << 2);
    m.cpus[2].cpu.entries.clear();
    m.cpus[2].run();
    assert_eq!(m.given(2), Some(Event::interrupt(0x41)));
    assert_eq!(m.hypercall(0, SEND_IPI | FAST, [0xf, 2]).1, 5);
    assert_eq!(m.hypercall(0, SPIN | FAST, [0; 2]), (Stop::Yield, 0));
}

#[test]
fn a_call_flushes_this_cpu_and_others_that_do_not_wake_for_it() {
    let mut m = Machine::hyperv(3);
    for n in 1..3 {
        m.halt(n, 2);
    }
    let _ = m.cpus[0].vm.wakeups.take();
    let before: Vec<_> = m.cpus.iter().map(|c| c.cpu.flushes).collect();
    let input = [0x7000u64, 0, 0b101];
    for (value, at) in input.into_iter().zip((0x3000..).step_by(8)) {
        m.memory().write_value(Gpa(at), 8, value).unwrap();
    }
    assert_eq!(m.hypercall(0, FLUSH, [0x3000, 0]).1, 0);
    assert_eq!(m.cpus[0].vm.wakeups.take(), 0, "nobody is woken");
    for n in 1..3 {
        assert!(matches!(m.cpus[n].run(), Stop::Idle(_)), "nor by that");
    }
    let after: Vec<_> = m.cpus.iter().map(|c| c.cpu.flushes).collect();
    let flushed: Vec<_> = before.iter().zip(&after).map(|(b, a)| a - b).collect();
    assert_eq!(flushed, [1, 0, 1]);
}

#[test]
fn direct_timer_interrupts_when_it_is_due() {
    let mut m = Machine::hyperv(1);
    m.listen();
    let now = m.rdmsr(0, msr::TIME_REF_COUNT);
    assert_eq!(now, 12_345 / 100);
    m.wrmsr(0, msr::STIMER0_CONFIG, 0x1000 | 0xed << 4 | 1 << 3);
    m.wrmsr(0, STIMER0_COUNT, now + 1_000);
    let Stop::Idle(VmTime(until)) = m.halt(0, 0x202) else {
        panic!("it does not wait");
    };
    let due = (now + 1_000) * 100;
    assert!((due..due + 5).contains(&until), "{until} is not {due}");
    m.clock.pass(until - 12_345);
    m.cpus[0].resume();
    m.cpus[0].run();
    assert_eq!(m.given(0), Some(Event::interrupt(0xed)));
    assert_eq!(m.rdmsr(0, msr::STIMER0_CONFIG) & 1, 0);
}

#[test]
fn timer_sends_a_message_and_another_when_the_first_is_taken() {
    let mut m = Machine::hyperv(1);
    m.listen();
    let memory = m.memory();
    m.wrmsr(0, msr::SIMP, 0x5001);
    m.wrmsr(0, msr::SCONTROL, 1);
    m.wrmsr(0, SINT2, 0x51 | 1 << 17);
    m.wrmsr(0, STIMER0_COUNT, 1_000);
    m.wrmsr(0, msr::STIMER0_CONFIG, 2 << 16 | 0b11);
    let place = Gpa(0x5200);
    let wait = |m: &mut Machine| {
        m.clock.pass(101_000);
        m.cpus[0].resume();
        m.cpus[0].cpu.rflags = 0x202;
        m.cpus[0].run();
        m.cpus[0]
            .cpu
            .entries
            .iter()
            .filter_map(|e| e.inject)
            .count()
    };
    m.cpus[0].cpu.entries.clear();
    assert_eq!(wait(&mut m), 1);
    assert_eq!(memory.read_u64(place), Ok(24 << 32 | 0x8000_0010));
    assert_eq!(memory.read_u64(Gpa(place.0 + 24)), Ok(1_123));
    assert_eq!(wait(&mut m), 1, "it has not been taken");
    assert_eq!(memory.read_u64(place), Ok(0x118 << 32 | 0x8000_0010));
    memory.write(place, &[0; 8]).unwrap();
    m.wrmsr(0, msr::EOM, 0);
    // The source's interrupts end by themselves: nothing holds the next one back.
    assert_eq!(m.given(0), Some(Event::interrupt(0x51)));
    assert_eq!(memory.read_u64(Gpa(place.0 + 24)), Ok(2_123));
}

/// The end of the interrupt, by the local APIC's page or its register, does what HV_X64_MSR_EOM does.
#[test]
fn the_end_of_an_interrupt_lets_the_next_message_come() {
    const X2APIC_EOI: u32 = 0x80b;
    for register in [msr::EOI, X2APIC_EOI] {
        let mut m = Machine::hyperv(1);
        m.listen();
        let memory = m.memory();
        for (register, value) in [
            (msr::SIMP, 0x5001),
            (msr::SCONTROL, 1),
            (SINT2, 0x51),
            (STIMER0_COUNT, 1_000),
            (msr::STIMER0_CONFIG, 2 << 16 | 0b11),
        ] {
            m.wrmsr(0, register, value);
        }
        for _ in 0..2 {
            m.clock.pass(101_000);
            m.cpus[0].resume();
            m.cpus[0].cpu.rflags = 0x202;
            m.cpus[0].run();
        }
        memory.write(Gpa(0x5200), &[0; 8]).unwrap();
        m.wrmsr(0, register, 0);
        assert_eq!(m.given(0), Some(Event::interrupt(0x51)), "{register:#x}");
        assert_eq!(memory.read_u64(Gpa(0x5200 + 24)), Ok(2_123));
    }
}

#[test]
fn an_idle_cpu_is_woken_by_an_interrupt_that_it_does_not_take() {
    let mut m = Machine::hyperv(2);
    m.listen();
    m.start(1);
    m.x2apic(1);
    m.wrmsr(1, SPURIOUS, 0x1ff);
    m.cpus[1].cpu.rflags = 2;
    m.rdmsr(1, msr::GUEST_IDLE);
    assert_eq!(m.cpus[1].activity(), Activity::Idle);
    assert!(!m.cpus[1].ignores_interrupts());
    assert!(matches!(m.cpus[1].run(), Stop::Idle(_)));
    let entries = m.cpus[1].cpu.entries.len();
    m.hypercall(0, FAST | SEND_IPI, [0xf2, 0b10]);
    m.cpus[1].run();
    assert_eq!(m.cpus[1].activity(), Activity::Active);
    assert!(m.cpus[1].cpu.entries.len() > entries);
    assert_eq!(m.given(1), None, "its interrupt flag is clear");
}

#[test]
fn reference_page_is_written_anew_after_a_pause_and_goes_on_where_it_was() {
    let mut m = Machine::hyperv(2);
    m.start(1);
    m.wrmsr(0, msr::REFERENCE_TSC, 0x6001);
    let memory = m.memory();
    let sequence = || memory.read_u32(Gpa(0x6000)).unwrap();
    let time = |m: &Machine| {
        let offset = m.cpus[1].cpu.sysreg(SysReg::TscOffset);
        let tsc = hv_core::time::Clock::ticks(&m.clock).wrapping_add(offset);
        let scale = memory.read_u64(Gpa(0x6008)).unwrap();
        let by_page = ((u128::from(tsc) * u128::from(scale)) >> 64) as u64;
        by_page.wrapping_add(memory.read_u64(Gpa(0x6010)).unwrap())
    };
    let first = sequence();
    assert_ne!(first, 0);
    let before = time(&m);
    assert!(before.abs_diff(m.rdmsr(1, msr::TIME_REF_COUNT)) <= 1);
    m.clock.pass(1_000_000_000);
    m.cpus[0].skip(1_000_000_000);
    assert_eq!(sequence(), 0, "the counters differ");
    m.cpus[1].skip(0);
    // The clock is one in this machine, and has been stopped for both.
    assert_eq!(sequence(), 0);
    let offset = m.cpus[0].cpu.sysreg(SysReg::TscOffset);
    m.cpus[1].cpu.set_sysreg(SysReg::TscOffset, offset);
    m.cpus[1].skip(0);
    assert!(sequence() != 0 && sequence() != first);
    assert!(time(&m).abs_diff(before) <= 1);
    assert!(before.abs_diff(m.rdmsr(1, msr::TIME_REF_COUNT)) <= 1);
}

#[test]
fn reset_gives_the_guest_its_memory_back() {
    let mut m = Machine::hyperv(1);
    let memory: Arc<dyn GuestMemory> = m.memory();
    let pages = [
        (msr::HYPERCALL, 0x1000),
        (msr::REFERENCE_TSC, 0x2000),
        (msr::VP_ASSIST_PAGE, 0x2000),
        (msr::SIMP, 0x3000),
        (msr::SIEFP, 0x4000),
    ];
    for (_, at) in pages {
        memory.write(Gpa(at), &[0x77; 0x1000]).unwrap();
    }
    for (register, at) in pages {
        m.wrmsr(0, register, at | 1);
        assert_eq!(m.rdmsr(0, register), at | 1);
        assert_ne!(memory.read_u64(Gpa(at)), Ok(0x7777_7777_7777_7777));
    }
    m.cpus[0].reset(0);
    for (register, at) in pages {
        assert_eq!(m.rdmsr(0, register), 0, "{register:#x}");
        let mut page = [0; 0x1000];
        memory.read(Gpa(at), &mut page).unwrap();
        assert!(page.iter().all(|&b| b == 0x77), "{at:#x}");
    }
}

#[test]
fn the_end_of_an_interrupt_is_offered_on_the_assist_page_while_it_can_be_seen() {
    let mut m = Machine::hyperv(1);
    m.listen();
    let memory = m.memory();
    m.wrmsr(0, msr::VP_ASSIST_PAGE, 0x5001);
    let take = |m: &mut Machine, skip: bool| {
        // It interrupts itself.
        m.wrmsr(0, 0x830, 0x4_0041);
        let memory = m.memory();
        let seen = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let tell = seen.clone();
        m.cpus[0].cpu.rflags = 0x202;
        m.cpus[0].cpu.play(move |_| {
            let word = memory.read_u32(Gpa(0x5000)).unwrap();
            tell.store(word.into(), std::sync::atomic::Ordering::Relaxed);
            if skip {
                memory.write(Gpa(0x5000), &[0]).unwrap();
            }
            VmExit::bare(ExitReason::ExternalInterrupt)
        });
        m.cpus[0].run();
        seen.load(std::sync::atomic::Ordering::Relaxed)
    };
    m.cpus[0].cpu.rflags = 2;
    assert_eq!(take(&mut m, true), 1);
    m.cpus[0].cpu.rflags = 2;
    assert_eq!(take(&mut m, false), 1, "the first has ended");
    m.wrmsr(0, msr::EOI, 0);
    m.wrmsr(0, msr::SIEFP, 0x5001);
    m.cpus[0].cpu.rflags = 2;
    assert_eq!(
        take(&mut m, false),
        0,
        "it would be written to another page"
    );
    assert_eq!(memory.read_u32(Gpa(0x5000)), Ok(0));
}

#[test]
fn a_crash_stops_the_cpu_once() {
    let mut m = Machine::hyperv(1);
    m.wrmsr(0, msr::CRASH_P0 + 4, 99);
    assert_eq!(m.wrmsr(0, msr::CRASH_CTL, 1 << 63), Stop::Crashed);
    assert_eq!(m.wrmsr(0, msr::CRASH_CTL, 1 << 63), Stop::HostInterrupt);
    let partition = m.cpus[0].vm.hyperv.as_ref().unwrap();
    assert_eq!(partition.crash().values(), Some([0, 0, 0, 0, 99]));
}
