//! HLT: the guest rests until something can wake it.

use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;
use hv_core::device::AccessSize::Byte;
use hv_core::event::Event;
use hv_core::exit::{ExitReason, PortIo};
use hv_core::regs::SysReg;
use hv_core::time::Clock;
use hv_core::vcpu::Stop;
use tests::rig::{CODE, PORT, Rig};

/// A guest that has just executed HLT with these flags.
fn halted(rflags: u64) -> Rig {
    let mut r = Rig::new().code(&[0xf4]);
    r.vcpu.cpu.rflags = rflags;
    r.bare(ExitReason::Hlt);
    assert!(matches!(r.run(), Stop::Idle(_)));
    assert_eq!(r.entries().len(), 1);
    r
}

const IF: u64 = 0x202;

#[test]
fn halted_guest_is_idle_until_the_next_deadline() {
    let mut r = Rig::new().code(&[0xf4]);
    r.run();
    r.probe.lock().wake = Some(VmTime(0));
    r.probe.lock().deadline = Some(VmTime(5_000));
    r.exit(ExitReason::PortIo(PortIo::plain(PORT, Byte, true)), 0);
    r.vcpu.service_at = VmTime(9_000);
    r.bare(ExitReason::Hlt);
    assert_eq!(r.run(), Stop::Idle(VmTime(5_000)));
    assert_eq!(r.clock.armed(), VmTime(5_000), "the host is woken then");
    assert_eq!(r.vcpu.cpu.rip, CODE + 1, "RIP is after the HLT");
}

#[test]
fn halted_guest_is_idle_until_service_if_that_is_earlier() {
    let mut r = Rig::new().code(&[0xf4]);
    r.vcpu.service_at = VmTime(3_000);
    r.bare(ExitReason::Hlt);
    assert_eq!(r.run(), Stop::Idle(VmTime(3_000)));
}

#[test]
fn halted_guest_stays_so_until_something_wakes_it() {
    let mut r = halted(IF);
    for _ in 0..3 {
        r.clock.pass(100);
        r.vcpu.resume();
        assert_eq!(r.run(), Stop::Idle(VmTime::NEVER));
    }
    assert_eq!(r.entries().len(), 1);
}

#[test]
fn interrupt_wakes() {
    let mut r = halted(IF);
    r.irqs.lock().waiting.push_back(0x30);
    assert_eq!(r.injected(), [Some(Event::interrupt(0x30))]);
    assert_eq!(r.vcpu.cpu.rip, CODE + 1);
}

#[test]
fn interrupt_does_not_wake_with_interrupts_disabled_but_nmi_does() {
    let mut r = halted(2);
    r.irqs.lock().waiting.push_back(0x30);
    assert_eq!(r.run(), Stop::Idle(VmTime::NEVER));
    r.irqs.lock().nmi = true;
    assert_eq!(r.injected(), [Some(Event::nmi())]);
    assert_eq!(r.irqs.lock().acknowledged, []);
}

#[test]
fn devices_are_polled_while_the_guest_rests_and_may_wake_it() {
    let mut r = halted(IF);
    r.vcpu.vm.bus().wake_at(VmTime(700));
    assert_eq!(r.run(), Stop::Idle(VmTime(700)));
    r.clock.pass(700);
    r.vcpu.resume();
    r.irqs.lock().waiting.push_back(0x20);
    assert_eq!(r.injected(), [Some(Event::interrupt(0x20))]);
    assert_eq!(r.probe.lock().polls.last(), Some(&VmTime(700)));
}

#[test]
fn interrupt_that_waits_already_keeps_the_guest_running() {
    let mut r = Rig::new().code(&[0xf4]);
    r.vcpu.cpu.shadow = true;
    r.irqs.lock().waiting.push_back(0x31);
    r.bare(ExitReason::Hlt);
    let injected = r.injected();
    assert_eq!(injected, [None, Some(Event::interrupt(0x31))], "STI; HLT");
    assert_eq!(r.vcpu.cpu.rip, CODE + 1);
}

#[test]
fn single_step_trap_after_hlt_wakes() {
    let mut r = Rig::new().code(&[0xf4]);
    r.vcpu.cpu.rflags = 0x102;
    r.bare(ExitReason::Hlt);
    assert_eq!(r.injected(), [None, Some(Event::exception(1, None))]);
}

#[test]
fn reset_ends_the_rest() {
    let mut r = halted(2);
    r.reset();
    assert_eq!(r.injected(), [None]);
}

#[test]
fn paused_guest_sees_neither_time_nor_its_time_stamp_counter_go_on() {
    let mut r = halted(IF);
    r.clock.pass(700);
    r.vcpu.resume();
    let look = |r: &Rig| {
        let offset = r.vcpu.cpu.sysreg(SysReg::TscOffset);
        (r.vcpu.now(), r.clock.ticks().wrapping_add(offset))
    };
    let before = look(&r);
    r.clock.pass(1_000_000);
    r.vcpu.skip(1_000_000);
    r.vcpu.resume();
    assert_eq!(look(&r), before);
    r.clock.pass(30);
    r.vcpu.resume();
    assert_eq!(look(&r), (before.0 + VmTime(30), before.1 + 30));
}
