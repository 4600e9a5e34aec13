//! CPUID, model-specific registers and XSETBV.

use hv_core::Gpa;
use hv_core::cpu::VcpuBackend;
use hv_core::event::{Event, vector};
use hv_core::exit::ExitReason;
use hv_core::mem::GuestMemory;
use hv_core::msr::UnknownMsrs;
use hv_core::regs::gpr::{RAX, RBX, RCX, RDX};
use hv_core::regs::{SegReg, SysReg};
use hv_core::vcpu::Stop;
use std::sync::Arc;
use tests::rig::{CODE, Rig};

const GP: Event = Event::exception(13, Some(0));
const EFER: u64 = 0xc000_0080;
const PAT: u64 = 0x277;
const TSC: u64 = 0x10;

/// Executes RDMSR: the value, or none for #GP(0).
fn read(r: &mut Rig, msr: u64) -> Option<u64> {
    r.set(&[(RCX, msr), (RAX, !0), (RDX, !0)]);
    let before = r.vcpu.cpu.rip;
    r.exit(ExitReason::Rdmsr, 2);
    finished(r, before).then(|| r.reg(RDX) << 32 | r.reg(RAX))
}

/// Executes WRMSR; false for #GP(0).
fn write(r: &mut Rig, msr: u64, value: u64) -> bool {
    // What is above bit 31 of the registers does not count.
    let dirt = 0xdead_beef_0000_0000;
    r.set(&[
        (RCX, dirt | msr),
        (RAX, dirt | value & 0xffff_ffff),
        (RDX, dirt | value >> 32),
    ]);
    let before = r.vcpu.cpu.rip;
    r.exit(ExitReason::Wrmsr, 2);
    finished(r, before)
}

fn finished(r: &mut Rig, before: u64) -> bool {
    match r.injected().pop().flatten() {
        None => {
            assert_eq!(r.vcpu.cpu.rip, before + 2);
            true
        }
        Some(GP) => {
            assert_eq!(r.vcpu.cpu.rip, before);
            false
        }
        Some(e) => panic!("{e:?}"),
    }
}

#[test]
fn apic_base_has_as_many_bits_as_physical_addresses() {
    let mut r = Rig::new();
    assert!(write(&mut r, 0x1b, 0xff_fee0_0900));
    assert!(!write(&mut r, 0x1b, 0x100_fee0_0900));
}

#[test]
fn unknown_registers_fault_unless_they_are_ignored() {
    // One that no CPU has, and those of interfaces that the guest is not offered.
    let unknown = [0xc000_0104, 0x4000_0000];
    let mut r = Rig::new();
    for msr in unknown {
        assert_eq!((read(&mut r, msr), write(&mut r, msr, 1)), (None, false));
    }
    let mut r = Rig::new();
    let vm = Arc::get_mut(&mut r.vcpu.vm).expect("it has one CPU");
    vm.unknown_msrs = UnknownMsrs::new(true);
    for msr in unknown {
        assert_eq!((read(&mut r, msr), write(&mut r, msr, 1)), (Some(0), true));
    }
    // What is there keeps its rules: a read-only register, a value that is not valid, a mode that is off.
    assert!(!write(&mut r, 0xfe, 0));
    assert!(!write(&mut r, PAT, 2));
    assert_eq!(read(&mut r, 0x79), None);
    assert_eq!(read(&mut r, 0x802), None);
}

#[test]
fn speculation_controls_have_the_bits_that_cpuid_tells_of() {
    const SPEC_CTRL: u64 = 0x48;
    const PRED_CMD: u64 = 0x49;
    const ARCH_CAPABILITIES: u64 = 0x10a;
    let mut r = Rig::new();
    assert_eq!(r.vcpu.vm.cpuid.speculation().control, 7);
    assert!(write(&mut r, SPEC_CTRL, 5));
    assert_eq!(read(&mut r, SPEC_CTRL), Some(5));
    assert!(!write(&mut r, SPEC_CTRL, 8));
    assert_eq!(read(&mut r, SPEC_CTRL), Some(5));
    assert_eq!(read(&mut r, PRED_CMD), None, "it is write-only");
    assert!(!write(&mut r, PRED_CMD, 2));
    assert!(write(&mut r, PRED_CMD, 0));
    assert_eq!(r.vcpu.cpu.barriers, 0);
    assert!(write(&mut r, PRED_CMD, 1));
    assert_eq!(r.vcpu.cpu.barriers, 1);
    assert_eq!(read(&mut r, ARCH_CAPABILITIES), None, "the host has none");
    r.reset();
    r.vcpu.cpu.long_mode();
    r.vcpu.cpu.rip = CODE;
    assert_eq!(read(&mut r, SPEC_CTRL), Some(0));
}

fn cpuid(r: &mut Rig, leaf: u64) -> [u64; 4] {
    r.set(&[(RAX, leaf), (RCX, 0), (RBX, !0), (RDX, !0)]);
    r.exit(ExitReason::Cpuid, 2);
    r.run();
    [RAX, RBX, RCX, RDX].map(|n| r.reg(n))
}

#[test]
fn cpuid_clears_the_upper_halves() {
    let mut r = Rig::new();
    assert!(
        cpuid(&mut r, 0xffff_ffff_0000_0000)
            .iter()
            .all(|v| v >> 32 == 0)
    );
    assert_eq!(r.vcpu.cpu.rip, CODE + 2);
}

#[test]
fn cpuid_shows_osxsave_as_cr4_has_it() {
    let mut r = Rig::new();
    assert_eq!(cpuid(&mut r, 1)[2] >> 27 & 1, 0);
    r.vcpu.cpu.set_sysreg(SysReg::Cr4, 1 << 18);
    assert_eq!(cpuid(&mut r, 1)[2] >> 27 & 1, 1);
}

#[test]
fn cpuid_shows_the_apic_as_apic_base_has_it() {
    let mut r = Rig::new();
    assert_eq!(cpuid(&mut r, 1)[3] >> 9 & 1, 1);
    assert!(write(&mut r, 0x1b, 0xfee0_0100));
    assert_eq!(read(&mut r, 0x1b), Some(0xfee0_0100));
    assert_eq!(cpuid(&mut r, 1)[3] >> 9 & 1, 0);
}

#[test]
fn cpuid_tells_the_size_of_the_enabled_state() {
    let mut r = Rig::new();
    assert_eq!(cpuid(&mut r, 0x0d)[1], 576);
    r.vcpu.cpu.xcr0 = 7;
    let [_, enabled, all, _] = cpuid(&mut r, 0x0d);
    assert_eq!(enabled, all);
}

#[test]
fn lme_cannot_change_while_paging_is_on() {
    let mut r = Rig::new();
    assert!(!write(&mut r, EFER, 0));
    assert!(write(&mut r, EFER, 0x101), "SCE can");
    r.vcpu.cpu.set_sysreg(SysReg::Cr0, 0x11);
    r.vcpu.cpu.set_sysreg(SysReg::Efer, 0x100);
    assert!(write(&mut r, EFER, 0));
}

#[test]
fn lma_is_the_cpus_own() {
    let mut r = Rig::new();
    assert!(write(&mut r, EFER, 0x900), "writing it as 0 is allowed");
    assert_eq!(read(&mut r, EFER), Some(0xd00), "and changes nothing");
}

#[test]
fn efer_bits_that_the_virtual_cpu_lacks_fault() {
    for bit in (0..64).filter(|b| ![0, 8, 10, 11].contains(b)) {
        assert!(!write(&mut Rig::new(), EFER, 0x500 | 1 << bit), "bit {bit}");
    }
}

#[test]
fn unknown_register_faults() {
    let mut r = Rig::new();
    for msr in [0xdead, 0x4b56_4d02, 0xffff_ffff] {
        assert_eq!(read(&mut r, msr), None);
        assert!(!write(&mut r, msr, 0));
    }
}

#[test]
fn x2apic_register_faults_unless_the_apic_has_it() {
    let mut r = Rig::new();
    assert_eq!(read(&mut r, 0x802), None);
    assert!(!write(&mut r, 0x80b, 0));
}

#[test]
fn pat_takes_valid_memory_types_only() {
    let mut r = Rig::new();
    for bad in [2, 3, 8, 0xff] {
        for byte in 0..8 {
            assert!(!write(&mut r, PAT, bad << (8 * byte)));
        }
    }
    assert!(write(&mut r, PAT, 0x0007_0106_0005_0406));
    assert_eq!(read(&mut r, PAT), Some(0x0007_0106_0005_0406));
}

#[test]
fn write_of_the_tsc_shifts_it() {
    let mut r = Rig::new();
    r.clock.pass(1_000);
    assert_eq!(read(&mut r, TSC), Some(1_000));
    assert!(write(&mut r, TSC, 5_000_000_000));
    r.clock.pass(7);
    assert_eq!(read(&mut r, TSC), Some(5_000_000_007));
    assert!(write(&mut r, TSC, 0));
    r.clock.pass(1);
    assert_eq!(read(&mut r, TSC), Some(1));
}

#[test]
fn reset_starts_the_tsc_at_0() {
    let mut r = Rig::new();
    r.clock.pass(1_000);
    r.reset();
    assert_eq!(read(&mut r, TSC), Some(0));
}

#[test]
fn stored_registers_keep_their_values_until_reset() {
    let mut r = Rig::new();
    assert!(write(&mut r, 0x2ff, 0xc06));
    assert_eq!(read(&mut r, 0x2ff), Some(0xc06));
    r.reset();
    assert_eq!(read(&mut r, 0x2ff), Some(0));
}

/// Executes XSETBV; false for #GP(0).
fn xsetbv(r: &mut Rig, index: u64, value: u64) -> bool {
    r.set(&[(RCX, index), (RAX, value & 0xffff_ffff), (RDX, value >> 32)]);
    let before = r.vcpu.cpu.rip;
    r.exit(ExitReason::Xsetbv, 3);
    match r.injected().pop().flatten() {
        None => r.vcpu.cpu.rip == before + 3,
        Some(e) => e != GP,
    }
}

#[test]
fn xsetbv_takes_combinations_that_exist() {
    for value in [1, 3, 7] {
        let mut r = Rig::new();
        assert!(xsetbv(&mut r, 0, value));
        assert_eq!(r.vcpu.cpu.xcr0, value);
    }
    // Without x87; AVX without SSE; what is not offered; another register.
    for (index, value) in [(0, 0), (0, 2), (0, 5), (0, 9), (0, 1 << 63 | 1), (1, 1)] {
        let mut r = Rig::new();
        assert!(!xsetbv(&mut r, index, value), "XCR{index} = {value:#x}");
        assert_eq!((r.vcpu.cpu.xcr0, r.vcpu.cpu.rip), (1, CODE));
    }
}

#[test]
fn xsetbv_is_for_ring_0() {
    use hv_core::regs::{SegAttr, SegReg};
    let mut r = Rig::new();
    let mut ss = r.vcpu.cpu.segment(SegReg::Ss);
    ss.attr |= SegAttr::DPL0 | SegAttr::DPL1;
    r.vcpu.cpu.set_segment(SegReg::Ss, ss);
    assert!(!xsetbv(&mut r, 0, 1));
}

#[test]
fn rdpmc_faults() {
    let mut r = Rig::new();
    r.bare(ExitReason::Rdpmc);
    assert_eq!(r.injected(), [None, Some(GP)]);
}

#[test]
fn rdtsc_is_emulated_with_the_offset() {
    let mut r = Rig::new().code(&[0x0f, 0x31]);
    r.clock.pass(0x1_0000_0002);
    r.bare(ExitReason::Rdtsc);
    assert_eq!(r.run(), Stop::HostInterrupt);
    assert_eq!((r.reg(RDX), r.reg(RAX), r.vcpu.cpu.rip), (1, 2, CODE + 2));
}

#[test]
fn reset_state_names_the_processor_in_rdx() {
    let r = Rig::new();
    assert_eq!(
        (r.reg(RDX), r.reg(RAX)),
        (0xffff_ffff, 0),
        "CPUID leaf 1 EAX of the host"
    );
}

/// Emulates MOV to DR `dr` from EAX (`0f 23`) or from it to EAX (`0f 21`), in 64-bit mode.
fn mov_dr(r: &mut Rig, opcode: u8, dr: u8, value: u64) -> Option<Event> {
    r.memory
        .write(Gpa(CODE), &[0x0f, opcode, 0xc0 | dr << 3])
        .unwrap();
    r.vcpu.cpu.rip = CODE;
    r.set(&[(RAX, value)]);
    r.bare(ExitReason::DescriptorTable(SegReg::Gdtr));
    r.injected().pop().flatten()
}

#[test]
fn debug_registers_keep_their_fixed_bits() {
    let mut r = Rig::new();
    let table = [
        (3, 0x1234_5678_9abc, 0x1234_5678_9abc),
        (6, 0, 0xffff_0ff0),
        (6, 0xffff_ffff, 0xffff_efff),
        (7, 0, 0x400),
        (7, 0xffff_dfff, 0xffff_07ff),
    ];
    for (dr, written, read) in table {
        assert_eq!(mov_dr(&mut r, 0x23, dr, written), None);
        assert_eq!(mov_dr(&mut r, 0x21, dr, 0), None);
        assert_eq!(r.reg(RAX), read, "DR{dr}");
    }
    assert_eq!(mov_dr(&mut r, 0x23, 7, 1 << 32), Some(GP));
}

#[test]
fn general_detect_faults_once() {
    let mut r = Rig::new();
    mov_dr(&mut r, 0x23, 7, 1 << 13);
    let db = Event::exception(vector::DB, None);
    assert_eq!(mov_dr(&mut r, 0x21, 0, 0), Some(db));
    assert_ne!(r.vcpu.cpu.sysreg(SysReg::Dr6) & 1 << 13, 0);
    assert_eq!(mov_dr(&mut r, 0x21, 0, 0), None);
}
