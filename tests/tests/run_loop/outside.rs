//! What reaches out of the run loop: window moves, power, time, service, fatal ends.

use hv_core::device::AccessSize::Byte;
use hv_core::device::PowerAction;
use hv_core::exit::{ExitReason, PortIo, VmExit};
use hv_core::mmu::{Backing, TlbFlush};
use hv_core::vcpu::Stop;
use hv_core::{Gpa, VmTime};
use tests::rig::{CODE, PORT, Rig, WINDOW_HPA, WINDOW_LEN};

const OUT: ExitReason = ExitReason::PortIo(PortIo::plain(PORT, Byte, true));

#[test]
fn moved_window_reaches_memory_virtualization_before_the_next_entry() {
    let mut r = Rig::new();
    r.probe.lock().move_to = Some(Some(0xe000_0000));
    r.exit(OUT, 1);
    r.run();
    let ram = Backing::Ram {
        hpa: WINDOW_HPA,
        writable: true,
    };
    assert_eq!(
        r.vcpu.vm.mmu().remapped,
        [(Gpa(0xe000_0000), WINDOW_LEN, ram)]
    );
    r.vcpu.vm.mmu().remapped.clear();
    r.probe.lock().move_to = Some(Some(0xf000_0000));
    r.exit(OUT, 1);
    r.run();
    let want = [
        (Gpa(0xe000_0000), WINDOW_LEN, Backing::Mmio),
        (Gpa(0xf000_0000), WINDOW_LEN, ram),
    ];
    assert_eq!(
        r.vcpu.vm.mmu().remapped,
        want,
        "the old place is given up first"
    );
}

#[test]
fn flush_is_asked_for_once_and_counted() {
    let mut r = Rig::new();
    r.exit(ExitReason::Wbinvd, 2);
    r.run();
    r.vcpu.vm.mmu().flushes.require();
    r.exit(ExitReason::Wbinvd, 2);
    r.run();
    let flushes: Vec<_> = r.entries().iter().map(|e| e.flush).collect();
    // The first one of all, and the one that was asked for.
    assert_eq!(
        flushes,
        [
            TlbFlush::Guest,
            TlbFlush::None,
            TlbFlush::Guest,
            TlbFlush::None
        ]
    );
    assert_eq!(r.vcpu.stats.flushes, 2);
}

#[test]
fn power_action_stops_before_the_next_entry() {
    for action in [
        PowerAction::Reset,
        PowerAction::PowerOff,
        PowerAction::Suspend,
    ] {
        let mut r = Rig::new();
        r.probe.lock().power = Some(action);
        r.exit(OUT, 1);
        r.exit(OUT, 1);
        assert_eq!(r.run(), Stop::Power(action));
        assert_eq!((r.entries().len(), r.vcpu.cpu.rip), (1, CODE + 1));
    }
}

#[test]
fn unknown_exit_and_refused_entry_are_fatal_and_named() {
    for reason in [ExitReason::Unknown(0x1234), ExitReason::EntryFailed] {
        let mut r = Rig::new();
        r.bare(reason);
        let Stop::Fatal(why) = r.run() else {
            panic!("{reason:?}")
        };
        assert!(why.contains(&format!("{reason:?}")), "{why}");
    }
}

#[test]
fn host_interrupt_lets_the_host_in_each_time() {
    let mut r = Rig::new();
    for n in 1..=3 {
        assert_eq!(r.run(), Stop::HostInterrupt);
        assert_eq!(r.entries().len(), n);
    }
}

#[test]
fn caller_is_called_back_when_service_is_due() {
    let mut r = Rig::new();
    r.vcpu.service_at = VmTime(1_000);
    r.run();
    assert_eq!(r.clock.armed(), VmTime(1_000));
    let clock = r.clock.clone();
    r.vcpu.cpu.play(move |_| {
        clock.pass(1_000);
        VmExit::bare(ExitReason::Nmi)
    });
    assert_eq!(r.run(), Stop::Service);
    assert_eq!(r.entries().len(), 2, "not entered again before");
    r.vcpu.service_at = VmTime(2_000);
    assert_eq!(r.run(), Stop::HostInterrupt);
}

#[test]
fn device_is_polled_when_it_is_due_and_not_before() {
    let mut r = Rig::new();
    r.run();
    r.probe.lock().polls.clear();
    r.probe.lock().wake = Some(VmTime(300));
    r.exit(OUT, 1);
    r.run();
    assert_eq!(r.clock.armed(), VmTime(300));
    assert!(r.probe.lock().polls.is_empty());
    r.clock.pass(300);
    r.exit(ExitReason::Nmi, 0);
    r.run();
    assert_eq!(r.probe.lock().polls, [VmTime(300)]);
}

#[test]
fn device_that_is_always_due_does_not_keep_the_guest_from_running() {
    let mut r = Rig::new();
    r.probe.lock().always_due = true;
    for _ in 0..10 {
        r.exit(OUT, 1);
        assert_eq!(r.run(), Stop::HostInterrupt);
    }
}

#[test]
fn time_outside_the_guest_is_accounted_to_the_reason_of_the_exit() {
    let mut r = Rig::new();
    r.probe.lock().cost = 40;
    let clock = r.clock.clone();
    r.vcpu.cpu.play(move |cpu| {
        clock.pass(1_000);
        let next_rip = Some(cpu.rip + 1);
        VmExit {
            next_rip,
            ..VmExit::bare(OUT)
        }
    });
    r.exit(OUT, 2);
    r.run();
    let (out, host) = (OUT.index(), ExitReason::ExternalInterrupt.index());
    assert_eq!(
        (
            r.vcpu.stats.exits[out],
            r.vcpu.stats.ticks[out],
            r.vcpu.stats.least[out]
        ),
        (2, 80, 40)
    );
    assert_eq!((r.vcpu.stats.exits[host], r.vcpu.stats.ticks[host]), (1, 0));
    // It has not led back into the guest.
    assert_eq!(r.vcpu.stats.least[host], u64::MAX);
    assert_eq!(r.vcpu.stats.exits.iter().sum::<u64>(), 3);
}

#[test]
fn time_while_the_caller_is_busy_is_nobodys() {
    let mut r = Rig::new();
    r.run();
    r.clock.pass(1_000_000);
    r.run();
    assert_eq!(r.vcpu.stats.ticks.iter().sum::<u64>(), 0);
}

#[test]
fn instructions_without_effect_are_skipped() {
    for (reason, len) in [(ExitReason::Invd, 2), (ExitReason::Wbinvd, 2)] {
        let mut r = Rig::new();
        let before = r.vcpu.cpu.gprs;
        r.exit(reason, len);
        assert_eq!(r.injected(), [None, None]);
        assert_eq!((r.vcpu.cpu.rip, r.vcpu.cpu.gprs), (CODE + len, before));
    }
}

#[test]
fn pause_gives_way_and_the_guest_goes_on_behind_it() {
    let mut r = Rig::new().code(&[0xf3, 0x90]);
    r.bare(ExitReason::Pause);
    assert_eq!(r.run(), Stop::Yield);
    assert_eq!(r.vcpu.cpu.rip, CODE + 2);
    assert_eq!(r.run(), Stop::HostInterrupt);
}

#[test]
fn service_that_is_not_urgent_waits_for_the_guests_own_deadline() {
    let mut r = Rig::new();
    r.run();
    r.probe.lock().wake = Some(VmTime(300));
    r.exit(OUT, 1);
    r.run();
    (r.vcpu.service_from, r.vcpu.service_at) = (VmTime(100), VmTime(1_000));
    r.clock.pass(200);
    r.exit(ExitReason::Nmi, 0);
    assert_eq!(r.run(), Stop::HostInterrupt, "nothing is due");
    assert_eq!(r.clock.armed(), VmTime(300));
    r.probe.lock().polls.clear();
    r.clock.pass(100);
    r.exit(ExitReason::Nmi, 0);
    assert_eq!(r.run(), Stop::Service);
    assert_eq!(r.probe.lock().polls, [VmTime(300)]);
}
