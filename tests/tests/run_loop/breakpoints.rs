//! The guest's own breakpoints (DR0 to DR3) where its instructions are executed in software, or completed there.

use hv_core::cpu::VcpuBackend;
use hv_core::debug::{DebugStop, Point, PointKind};
use hv_core::device::AccessSize;
use hv_core::event::Event;
use hv_core::exit::{ExitReason, NestedFault, PortIo};
use hv_core::regs::gpr::{RAX, RCX, RDI, RDX, RSP};
use hv_core::regs::{Cr4, SysReg};
use hv_core::vcpu::Stop;
use hv_core::{Gpa, Gva};
use tests::rig::{CODE, MMIO, PORT, Rig};

const TF: u64 = 1 << 8;
const RF: u64 = 1 << 16;
const DR6: u64 = 0xffff_0ff0;
const BS: u64 = 1 << 14;
/// DR7: breakpoint 0 is enabled, for this and of this length.
const EXECUTE: u64 = 0x401;
const WRITE4: u64 = 0xd_0401;
const IO1: u64 = 0x2_0401;
const ACCESS4: u64 = 0xf_0401;
const DB: Option<Event> = Some(Event::exception(1, None));

/// A machine with `code`, breakpoint 0 at `at`, and DR7.
fn machine(code: &[u8], at: u64, dr7: u64) -> Rig {
    let mut r = Rig::new().code(code);
    r.set(&[(RSP, 0x8000), (RDI, MMIO)]);
    r.vcpu.cpu.set_sysreg(SysReg::Dr6, DR6);
    r.vcpu.cpu.set_sysreg(SysReg::Dr0, at);
    r.vcpu.cpu.set_sysreg(SysReg::Dr7, dr7);
    r
}

/// What has been injected first.
fn injected(r: &Rig) -> Option<Event> {
    r.entries().iter().find_map(|entry| entry.inject)
}

/// The guest is left because nothing is mapped at `gpa`.
fn fault(r: &mut Rig, gpa: u64, fetch: bool) {
    r.bare(ExitReason::NestedFault(NestedFault {
        gpa: Gpa(gpa),
        write: false,
        fetch,
        present: false,
        table_walk: false,
    }));
}

/// What is injected behind an access to the device, and DR6.
fn behind_mmio(code: &[u8], at: u64, dr7: u64) -> (Option<Event>, u64) {
    let mut r = machine(code, at, dr7);
    fault(&mut r, MMIO, false);
    assert_eq!(r.run(), Stop::HostInterrupt);
    let first = injected(&r);
    if first.is_some() {
        assert_eq!(r.vcpu.cpu.rip, CODE + code.len() as u64, "it is a trap");
    }
    (first, r.vcpu.cpu.sysreg(SysReg::Dr6))
}

#[test]
fn an_access_to_a_device_meets_data_breakpoints_by_kind_place_and_length() {
    let (read, write) = ([0x8b, 0x07], [0x89, 0x07]);
    let met = (DB, DR6 | 1);
    let not = (None, DR6);
    assert_eq!(behind_mmio(&write, MMIO, WRITE4), met);
    assert_eq!(behind_mmio(&read, MMIO, WRITE4), not);
    assert_eq!(behind_mmio(&read, MMIO, ACCESS4), met);
    assert_eq!(
        behind_mmio(&write, MMIO + 3, ACCESS4),
        met,
        "the low bits do not count"
    );
    assert_eq!(behind_mmio(&write, MMIO + 4, ACCESS4), not);
    assert_eq!(
        behind_mmio(&write, MMIO, WRITE4 & !3),
        not,
        "it is not enabled"
    );
    assert_eq!(behind_mmio(&write, MMIO, WRITE4 & !1 | 2), met, "globally");
}

#[test]
fn a_data_breakpoint_and_a_single_step_are_one_exception() {
    let mut r = machine(&[0x89, 0x07], MMIO, WRITE4);
    let rflags = r.vcpu.cpu.rflags();
    r.vcpu.cpu.set_rflags(rflags | TF);
    fault(&mut r, MMIO, false);
    assert_eq!(r.run(), Stop::HostInterrupt);
    assert_eq!(
        r.entries()
            .iter()
            .filter_map(|e| e.inject)
            .collect::<Vec<_>>(),
        [DB.unwrap()]
    );
    assert_eq!(r.vcpu.cpu.sysreg(SysReg::Dr6), DR6 | BS | 1);
}

#[test]
fn an_instruction_breakpoint_is_a_fault_that_rf_lets_by() {
    // Two instructions in a page that a debugger watches: both are done in software.
    let mut r = machine(&[0xff, 0xc0, 0xff, 0xc0], CODE + 2, EXECUTE);
    let elsewhere = Point {
        kind: PointKind::Execute,
        at: Gva(CODE + 0x800),
        len: 1,
    };
    r.vcpu.debug(false, &[elsewhere]);
    fault(&mut r, CODE, true);
    r.run();
    assert_eq!((r.vcpu.cpu.rip, r.reg(RAX)), (CODE + 2, 1), "before it");
    assert_eq!(injected(&r), DB);
    assert_eq!(r.vcpu.cpu.sysreg(SysReg::Dr6), DR6 | 1);
    assert_ne!(
        r.vcpu.cpu.rflags() & RF,
        0,
        "the handler comes back past it"
    );
    // Its handler has come back.
    r.vcpu.debug(true, &[]);
    assert_eq!(r.run(), Stop::Debug(DebugStop::Step));
    assert_eq!((r.vcpu.cpu.rip, r.reg(RAX)), (CODE + 4, 2));
    assert_eq!(r.vcpu.cpu.rflags() & RF, 0, "for one instruction only");
}

#[test]
fn a_port_meets_its_breakpoint_where_cr4_de_is_set() {
    for (de, rw, at, wanted) in [
        (true, IO1, PORT, DB),
        (false, IO1, PORT, None),
        (true, IO1, PORT + 1, None),
        (true, WRITE4, PORT, None),
    ] {
        for direct in [true, false] {
            let mut r = machine(&[0xee], at.into(), rw);
            r.set(&[(RDX, PORT.into())]);
            let cr4 = r.vcpu.cpu.sysreg(SysReg::Cr4);
            let with = if de { Cr4::DE.bits() } else { 0 };
            r.vcpu.cpu.set_sysreg(SysReg::Cr4, cr4 | with);
            let io = ExitReason::PortIo(PortIo::plain(PORT, AccessSize::Byte, true));
            match direct {
                true => r.exit(io, 1),
                false => r.bare(io),
            }
            assert_eq!(r.run(), Stop::HostInterrupt);
            assert_eq!(injected(&r), wanted, "{de} {rw:x} {at:x}");
            let b0 = u64::from(wanted.is_some());
            assert_eq!(r.vcpu.cpu.sysreg(SysReg::Dr6), DR6 | b0);
            assert_eq!(r.log().len(), 1);
        }
    }
}

#[test]
fn a_repeated_store_traps_behind_the_iteration() {
    let mut r = machine(&[0xf3, 0xab], MMIO + 8, WRITE4);
    r.set(&[(RCX, 6)]);
    fault(&mut r, MMIO, false);
    assert_eq!(r.run(), Stop::HostInterrupt);
    assert_eq!(injected(&r), DB);
    assert_eq!((r.reg(RCX), r.reg(RDI)), (3, MMIO + 12));
    assert_eq!(r.vcpu.cpu.rip, CODE, "it goes on afterwards");
}

#[test]
fn a_debugger_sees_reads_and_accesses_that_change_nothing() {
    let place = 0x9000;
    for (kind, code, meets) in [
        (PointKind::Read, [0x8b, 0x07], true),
        (PointKind::Read, [0x89, 0x07], false),
        (PointKind::Access, [0x8b, 0x07], true),
        (PointKind::Access, [0x89, 0x07], true),
    ] {
        let mut r = machine(&code, 0, 0);
        r.set(&[(RDI, place)]);
        let point = Point {
            kind,
            at: Gva(place + 2),
            len: 2,
        };
        r.vcpu.debug(false, &[point]);
        fault(&mut r, place, false);
        let stop = match meets {
            true => Stop::Debug(DebugStop::Watchpoint(point)),
            false => Stop::HostInterrupt,
        };
        assert_eq!(r.run(), stop, "{kind:?} {code:x?}");
        assert_eq!(r.vcpu.cpu.rip, CODE + 2);
        assert_eq!(injected(&r), None);
    }
}
