//! What a trace tells of exits, and of what came of them.

use hv_core::cpu::VcpuBackend;
use hv_core::debug::{Breaks, DebugStop};
use hv_core::device::AccessSize;
use hv_core::event::{Event, EventKind};
use hv_core::exit::{ExitReason, PortIo, RegAccess};
use hv_core::regs::SysReg;
use hv_core::regs::gpr::{RAX, RCX};
use hv_core::trace::{Filter, Full, RING, Traced, Tracer};
use hv_core::vcpu::Stop;
use tests::rig::{CODE, PORT, Rig};

fn traced(words: &str, full: Full) -> Rig {
    let mut r = Rig::new();
    let filter = Filter::parse(words).unwrap();
    r.vcpu.trace(Tracer::new(filter, full).map(Box::new));
    r
}

fn events(r: &Rig) -> Vec<Traced> {
    r.vcpu.tracer().unwrap().events().copied().collect()
}

#[test]
fn each_exit_is_there_with_its_values_and_what_came_of_it() {
    let mut r = traced("all", Full::Overwrite);
    r.set(&[(RAX, 0x41), (RCX, 0xdead)]);
    r.exit(
        ExitReason::PortIo(PortIo::plain(PORT, AccessSize::Byte, true)),
        1,
    );
    // There is no such register.
    r.exit(ExitReason::Rdmsr, 2);
    assert_eq!(r.run(), Stop::HostInterrupt);
    let all = events(&r);
    assert_eq!(all.len() as u64, r.vcpu.stats.exits.iter().sum::<u64>());
    let (out, rdmsr) = (&all[0].seen, &all[1].seen);
    assert_eq!((out.pc, out.rax, out.came.pc), (CODE, 0x41, CODE + 1));
    assert_eq!((rdmsr.rcx, rdmsr.came.pc), (0xdead, CODE + 1));
    assert_eq!(rdmsr.came.event, Some(Event::exception(13, Some(0))));
    assert_eq!(all[2].seen.exit.reason, ExitReason::ExternalInterrupt);
    assert_eq!(all[2].number, 2);
}

#[test]
fn a_filter_keeps_exits_out_and_they_are_counted_all_the_same() {
    let mut r = traced("reason:cpuid", Full::Lose);
    for _ in 0..3 {
        r.exit(ExitReason::Cpuid, 2);
        r.exit(ExitReason::Invd, 2);
    }
    assert_eq!(r.run(), Stop::HostInterrupt);
    let numbers: Vec<_> = events(&r).iter().map(|event| event.number).collect();
    assert_eq!(numbers, [0, 2, 4]);
    assert_eq!(r.vcpu.tracer().unwrap().totals().exits, 7);
}

#[test]
fn a_ring_that_fills_stops_the_cpu_before_anything_is_lost() {
    let mut r = traced("all", Full::Lose);
    let exits = 3 * RING;
    for _ in 0..exits {
        r.exit(ExitReason::Cpuid, 0);
    }
    let (mut taken, mut stops) = (0, 0);
    let mut buffer = [0; 8192];
    loop {
        let stop = r.run();
        let tracer = r.vcpu.tracer_mut().unwrap();
        while let Some(chunk) = tracer.take(0, stop == Stop::HostInterrupt, &mut buffer) {
            let (head, events) = hv_core::trace::chunk::Reader::begin(chunk).unwrap();
            assert_eq!(head.totals.lost, 0);
            for event in events {
                assert_eq!(event.unwrap().number, taken);
                taken += 1;
            }
        }
        match stop {
            Stop::Trace => stops += 1,
            Stop::HostInterrupt => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(taken, exits as u64 + 1);
    assert!(stops >= 3, "{stops}");
}

#[test]
fn nothing_is_traced_any_more_once_it_is_switched_off() {
    let mut r = traced("all", Full::Overwrite);
    r.vcpu.trace(None);
    r.exit(ExitReason::Cpuid, 2);
    assert_eq!(r.run(), Stop::HostInterrupt);
    assert!(r.vcpu.tracer().is_none());
}

/// A guest that is stopped at `events`.
fn broken(events: &str) -> Rig {
    let mut r = Rig::new();
    r.vcpu.break_at(&Breaks::parse(events).unwrap(), false);
    r
}

#[test]
fn a_guest_is_stopped_at_its_events_once_they_have_been_dealt_with() {
    let stop = Stop::Debug(DebugStop::Event);
    let mut r = broken("msr:c0000080");
    r.set(&[(RCX, 0x10)]);
    r.exit(ExitReason::Rdmsr, 2);
    assert_eq!(r.run(), Stop::HostInterrupt, "another register");
    let mut r = broken("msr:c0000080");
    r.set(&[(RCX, 0xc000_0080)]);
    r.exit(ExitReason::Rdmsr, 2);
    assert_eq!(r.run(), stop);
    assert_eq!(r.vcpu.cpu.rip, CODE + 2);
    assert_eq!(r.vcpu.why().unwrap().seen.exit.reason, ExitReason::Rdmsr);
    let mut r = broken("cr3-write");
    r.exit(
        ExitReason::CrAccess(RegAccess {
            number: 3,
            write: true,
            gpr: Some(RAX as u8),
        }),
        3,
    );
    assert_eq!(r.run(), stop);
}

#[test]
fn a_page_fault_that_is_waited_for_reaches_the_guest_with_its_address() {
    let mut r = broken("page-fault");
    r.bare(ExitReason::Exception {
        kind: EventKind::Exception,
        vector: 14,
        error: 2,
        payload: 0x1234_5000,
        insn_len: 0,
    });
    assert_eq!(r.run(), Stop::Debug(DebugStop::Event));
    assert_eq!(r.vcpu.cpu.sysreg(SysReg::Cr2), 0x1234_5000);
    let why = r.vcpu.why().unwrap();
    assert_eq!(why.seen.came.event, Some(Event::exception(14, Some(2))));
}
