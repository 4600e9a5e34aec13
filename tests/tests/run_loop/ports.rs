//! IN, OUT, INS and OUTS.

use hv_core::device::AccessSize::{self, Byte, Dword, Word};
use hv_core::exit::{ExitReason, PortIo};
use hv_core::mem::GuestMemory;
use hv_core::record::Recorder;
use hv_core::regs::gpr::{RAX, RCX, RDI, RDX, RSI};
use hv_core::regs::{SegReg, SysReg};
use hv_core::stats::Facts;
use hv_core::vcpu::Stop;
use hv_core::{Gpa, VmTime};
use tests::rig::{Access, CODE, PORT, Rig};

fn io(size: AccessSize, write: bool) -> ExitReason {
    ExitReason::PortIo(PortIo::plain(PORT, size, write))
}

fn string(size: AccessSize, write: bool, rep: bool) -> PortIo {
    PortIo {
        rep,
        ..PortIo::plain(PORT, size, write)
    }
}

#[test]
fn out_reaches_the_device_and_rip_advances() {
    for (size, bytes, value) in [(Byte, 1, 0x88), (Word, 2, 0x7788), (Dword, 4, 0x5566_7788)] {
        let mut r = Rig::new();
        r.set(&[(RAX, 0x1122_3344_5566_7788)]);
        r.exit(io(size, true), 1);
        assert_eq!(r.run(), Stop::HostInterrupt);
        assert_eq!(
            r.log(),
            [Access::Out {
                port: PORT,
                size: bytes,
                value
            }]
        );
        assert_eq!(r.vcpu.cpu.rip, CODE + 1);
        assert_eq!(r.reg(RAX), 0x1122_3344_5566_7788);
    }
}

#[test]
fn exits_are_counted_by_port_and_by_msr() {
    let mut r = Rig::new();
    r.vcpu.record(Recorder::new(0));
    r.exit(io(Byte, true), 1);
    r.exit(io(Word, false), 1);
    r.exit(ExitReason::PortIo(PortIo::plain(0x80, Byte, true)), 1);
    r.set(&[(RCX, 0x10)]);
    r.exit(ExitReason::Rdmsr, 2);
    assert_eq!(r.run(), Stop::HostInterrupt);
    let mut json = String::new();
    r.vcpu
        .stats
        .json(&Facts::default(), r.vcpu.recorder(), &mut json)
        .unwrap();
    let ports = format!("\"by_port\": {{ \"{PORT:#x}\": 2, \"0x80\": 1, \"others\": 0 }}");
    assert!(json.contains(&ports), "{json}");
    assert!(
        json.contains("\"by_msr\": { \"0x10\": 1, \"others\": 0 }"),
        "{json}"
    );
}

#[test]
fn in_merges_by_width() {
    let table = [
        (Byte, 0x1122_3344_5566_77ef),
        (Word, 0x1122_3344_5566_cdef),
        // As every 32-bit result.
        (Dword, 0x89ab_cdef),
    ];
    for (size, want) in table {
        let mut r = Rig::new();
        r.set(&[(RAX, 0x1122_3344_5566_7788)]);
        r.probe.lock().value = 0x89ab_cdef;
        r.exit(io(size, false), 2);
        r.run();
        assert_eq!((r.reg(RAX), r.vcpu.cpu.rip), (want, CODE + 2));
    }
}

#[test]
fn port_without_a_device_reads_ones() {
    let mut r = Rig::new();
    r.exit(ExitReason::PortIo(PortIo::plain(0x9999, Word, false)), 1);
    r.run();
    assert_eq!(r.reg(RAX), 0xffff);
}

#[test]
fn device_is_told_the_time_of_the_exit() {
    let mut r = Rig::new();
    let clock = r.clock.clone();
    r.vcpu.cpu.play(move |cpu| {
        clock.pass(500);
        let next_rip = Some(cpu.rip + 1);
        hv_core::exit::VmExit {
            next_rip,
            ..hv_core::exit::VmExit::bare(io(Byte, true))
        }
    });
    r.run();
    assert_eq!(r.vcpu.now(), VmTime(500));
}

/// What Linux' libata and SeaBIOS do to read a sector.
#[test]
fn rep_insw_travels_in_bulk() {
    // REP INSW, of which QEMU tells neither address size nor segment.
    let mut r = Rig::new().code(&[0xf3, 0x66, 0x6d]);
    r.set(&[(RDI, 0x5000), (RCX, 256), (RDX, PORT.into())]);
    r.exit(ExitReason::StringIo(string(Word, false, true)), 3);
    r.run();
    assert_eq!(
        r.log(),
        [Access::InBlock {
            port: PORT,
            len: 512
        }]
    );
    assert_eq!(
        (r.reg(RDI), r.reg(RCX), r.vcpu.cpu.rip),
        (0x5200, 0, CODE + 3)
    );
    let mut sector = [0; 512];
    r.memory.read(Gpa(0x5000), &mut sector).unwrap();
    assert!(sector.iter().enumerate().all(|(i, b)| *b == i as u8));
}

#[test]
fn string_io_that_the_hardware_describes_is_not_decoded() {
    // What is at RIP is no INS.
    let mut r = Rig::new().code(&[0x0f, 0x0b]);
    r.set(&[(RDI, 0x5000), (RCX, 4)]);
    let io = PortIo {
        address_size: Some(8),
        ..string(Word, false, true)
    };
    r.exit(ExitReason::StringIo(io), 3);
    r.run();
    assert_eq!(
        (r.reg(RDI), r.reg(RCX), r.vcpu.cpu.rip),
        (0x5008, 0, CODE + 3)
    );
}

#[test]
fn outs_reads_memory_by_segment_and_rsi() {
    let mut r = Rig::new().code(&[0x65, 0x6e]);
    r.memory.write(Gpa(0x6010), b"U").unwrap();
    let mut gs = hv_core::cpu::VcpuBackend::segment(&r.vcpu.cpu, SegReg::Gs);
    gs.base = 0x6000;
    hv_core::cpu::VcpuBackend::set_segment(&mut r.vcpu.cpu, SegReg::Gs, gs);
    r.set(&[(RSI, 0x10), (RDX, PORT.into())]);
    r.exit(ExitReason::StringIo(string(Byte, true, false)), 2);
    r.run();
    assert_eq!(
        r.log(),
        [Access::Out {
            port: PORT,
            size: 1,
            value: 0x55
        }]
    );
    assert_eq!((r.reg(RSI), r.vcpu.cpu.rip), (0x11, CODE + 2));
}

#[test]
fn ins_into_a_missing_page_faults_before_the_port_is_read() {
    let mut r = Rig::new().code(&[0xf3, 0x66, 0x6d]);
    r.set(&[(RDI, 0x5000), (RCX, 4)]);
    r.vcpu.vm.mmu().missing.push(5);
    r.exit(ExitReason::StringIo(string(Word, false, true)), 3);
    let injected = r.injected();
    assert_eq!(
        injected[1],
        Some(hv_core::event::Event::exception(14, Some(2)))
    );
    assert_eq!(
        hv_core::cpu::VcpuBackend::sysreg(&r.vcpu.cpu, SysReg::Cr2),
        0x5000
    );
    assert_eq!((r.log(), r.reg(RCX), r.vcpu.cpu.rip), (vec![], 4, CODE));
}

#[test]
fn long_string_io_lets_the_guest_be_interrupted() {
    let mut r = Rig::new().code(&[0xf3, 0x6c]);
    r.set(&[(RDI, 0x2000), (RCX, 20_000), (RDX, PORT.into())]);
    r.exit(ExitReason::StringIo(string(Byte, false, true)), 2);
    r.run();
    assert!(r.reg(RCX) >= 20_000 - 4096, "one exit does a bounded part");
    assert_eq!(
        r.vcpu.cpu.rip, CODE,
        "and the instruction goes on afterwards"
    );
}
