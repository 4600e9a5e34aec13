//! The length of an intercepted instruction where the CPU does not tell the next RIP.

use hv_core::Gpa;
use hv_core::cpu::VcpuBackend;
use hv_core::event::Event;
use hv_core::exit::ExitReason::{self, Cpuid, Hlt, Invd, Pause, Rdmsr, Wbinvd, Wrmsr, Xsetbv};
use hv_core::mem::GuestMemory;
use hv_core::regs::gpr::{RAX, RCX, RDX};
use hv_core::regs::{SegAttr, SegReg, SysReg};
use hv_core::vcpu::Stop;
use tests::rig::{CODE, Rig};

const CPUID: [u8; 2] = [0x0f, 0xa2];

/// Where RIP is after an exit for `reason` at `code`.
fn rip_after(reason: ExitReason, code: &[u8]) -> u64 {
    let mut r = Rig::new().code(code);
    r.set(&[(RCX, 0x10), (RAX, 1), (RDX, 0)]);
    if reason == Xsetbv {
        r.set(&[(RCX, 0)]);
    }
    r.bare(reason);
    r.run();
    r.vcpu.cpu.rip - CODE
}

#[test]
fn each_intercepted_instruction_is_as_long_as_its_opcode() {
    let table: [(ExitReason, &[u8]); 9] = [
        (Cpuid, &CPUID),
        (Hlt, &[0xf4]),
        (Rdmsr, &[0x0f, 0x32]),
        (Wrmsr, &[0x0f, 0x30]),
        (Pause, &[0xf3, 0x90]),
        (Wbinvd, &[0x0f, 0x09]),
        (Wbinvd, &[0xf3, 0x0f, 0x09]),
        (Invd, &[0x0f, 0x08]),
        (Xsetbv, &[0x0f, 0x01, 0xd1]),
    ];
    for (reason, code) in table {
        assert_eq!(rip_after(reason, code), code.len() as u64, "{reason:?}");
    }
}

#[test]
fn instruction_that_takes_the_place_of_a_shorter_one_has_its_own_length() {
    let mut r = Rig::new().code(&[0xf4]);
    r.bare(Hlt);
    r.run();
    let mut r = r.code(&CPUID);
    r.vcpu.cpu.cut();
    r.irqs.lock().waiting.push_back(0x31);
    r.bare(Cpuid);
    r.run();
    assert_eq!(r.vcpu.cpu.rip, CODE + 2);
}

#[test]
fn prefixes_count() {
    assert_eq!(rip_after(Cpuid, &[0x66, 0x2e, 0x0f, 0xa2]), 4);
    assert_eq!(rip_after(Cpuid, &[0x48, 0x0f, 0xa2]), 3, "REX");
    assert_eq!(rip_after(Hlt, &[0xf2, 0xf4]), 2);
}

#[test]
fn rex_is_a_prefix_in_64_bit_mode_only() {
    let mut r = Rig::new();
    r.vcpu.cpu.flat_real_mode();
    r.vcpu.cpu.set_sysreg(SysReg::Cr0, 0x11);
    r.vcpu.cpu.set_sysreg(SysReg::Efer, 0);
    let mut r = r.code(&[0x48, 0x0f, 0xa2]);
    r.bare(Cpuid);
    r.run();
    assert_eq!(r.vcpu.cpu.rip, CODE, "DEC EAX is there now: it runs again");
}

#[test]
fn instruction_across_pages_is_found() {
    let mut r = Rig::new().code_at(0x1fff, &CPUID);
    r.bare(Cpuid);
    r.run();
    assert_eq!(r.vcpu.cpu.rip, 0x2001);
}

#[test]
fn instruction_whose_second_page_has_vanished_runs_again() {
    let mut r = Rig::new().code_at(0x1fff, &CPUID);
    r.vcpu.vm.mmu().missing.push(2);
    r.bare(Cpuid);
    assert_eq!(r.run(), Stop::HostInterrupt);
    assert_eq!(r.vcpu.cpu.rip, 0x1fff);
}

#[test]
fn code_page_that_has_vanished_faults() {
    let mut r = Rig::new().code(&CPUID);
    r.vcpu.vm.mmu().missing.push(1);
    r.bare(Cpuid);
    let fetch_fault = Event::exception(14, Some(0x10));
    assert_eq!(r.injected(), [None, Some(fetch_fault)]);
    assert_eq!(r.vcpu.cpu.sysreg(SysReg::Cr2), CODE);
}

#[test]
fn changed_bytes_run_again_without_effect() {
    let mut r = Rig::new().code(&[0x90, 0x90]);
    r.set(&[(RAX, 1)]);
    r.bare(Cpuid);
    assert_eq!(r.injected(), [None, None]);
    assert_eq!((r.vcpu.cpu.rip, r.reg(RAX)), (CODE, 1));
}

#[test]
fn remembered_code_page_is_checked() {
    let mut r = Rig::new().code(&CPUID);
    r.bare(Cpuid);
    r.run();
    // The same page now holds something else.
    r.memory.write(Gpa(CODE), &[0x66, 0x0f, 0xa2]).unwrap();
    r.vcpu.cpu.rip = CODE;
    r.bare(Cpuid);
    r.run();
    assert_eq!(r.vcpu.cpu.rip, CODE + 3);
}

#[test]
fn code_page_is_looked_up_again_after_another_cr3() {
    let mut r = Rig::new().code(&CPUID);
    r.bare(Cpuid);
    r.run();
    r.vcpu.cpu.set_sysreg(SysReg::Cr3, 0x7000);
    r.vcpu.vm.mmu().missing.push(1);
    r.vcpu.cpu.rip = CODE;
    r.bare(Cpuid);
    assert!(r.injected()[1].is_some());
}

#[test]
fn rip_wraps_at_4_gib_outside_64_bit_mode() {
    let mut r = Rig::new();
    r.vcpu.cpu.set_sysreg(SysReg::Efer, 0);
    let attr = SegAttr::P | SegAttr::S | SegAttr::CODE | SegAttr::RW | SegAttr::DB;
    let mut cs = r.vcpu.cpu.segment(SegReg::Cs);
    (cs.attr, cs.base) = (attr, 0x2000);
    r.vcpu.cpu.set_segment(SegReg::Cs, cs);
    r.memory.write(Gpa(0x1ffe), &CPUID).unwrap();
    r.vcpu.cpu.rip = 0xffff_fffe;
    r.bare(Cpuid);
    r.run();
    assert_eq!(r.vcpu.cpu.rip, 0);
}

#[test]
fn next_rip_of_the_hardware_is_believed() {
    let mut r = Rig::new();
    r.exit(Cpuid, 7);
    r.run();
    assert_eq!(r.vcpu.cpu.rip, CODE + 7);
}

#[test]
fn code_is_found_through_the_base_of_cs() {
    let mut r = Rig::new();
    r.vcpu.cpu.set_sysreg(SysReg::Efer, 0);
    r.vcpu.cpu.set_sysreg(SysReg::Cr0, 0x10);
    let mut cs = r.vcpu.cpu.segment(SegReg::Cs);
    (cs.attr, cs.base) = (cs.attr - SegAttr::L, 0x3_0000);
    r.vcpu.cpu.set_segment(SegReg::Cs, cs);
    r.memory.write(Gpa(0x3_0100), &CPUID).unwrap();
    r.vcpu.cpu.rip = 0x100;
    r.bare(Cpuid);
    r.run();
    assert_eq!(r.vcpu.cpu.rip, 0x102);
}

#[test]
fn the_same_rip_in_another_segment_is_another_instruction() {
    let mut r = Rig::new();
    r.vcpu.cpu.set_sysreg(SysReg::Efer, 0);
    r.vcpu.cpu.set_sysreg(SysReg::Cr0, 0x10);
    r.memory.write(Gpa(0x3_0100), &CPUID).unwrap();
    r.memory.write(Gpa(0x4_0100), &[0x66, 0x0f, 0xa2]).unwrap();
    for (base, next) in [(0x3_0000, 0x102), (0x4_0000, 0x103)] {
        let mut cs = r.vcpu.cpu.segment(SegReg::Cs);
        (cs.attr, cs.base) = (cs.attr - SegAttr::L, base);
        r.vcpu.cpu.set_segment(SegReg::Cs, cs);
        r.vcpu.cpu.rip = 0x100;
        r.bare(Cpuid);
        r.run();
        assert_eq!(r.vcpu.cpu.rip, next, "CS at {base:#x}");
    }
}
