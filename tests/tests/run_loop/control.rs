//! Control registers written in software.

use hv_core::Gpa;
use hv_core::cpu::VcpuBackend;
use hv_core::event::Event;
use hv_core::exit::{ExitReason, RegAccess};
use hv_core::mem::GuestMemory;
use hv_core::regs::gpr::{RAX, RCX};
use hv_core::regs::{SegAttr, SegReg, SysReg};
use hv_core::vcpu::Stop;
use tests::rig::{CODE, Rig};

const GP: Event = Event::exception(13, Some(0));
const PE: u64 = 1;
const NW: u64 = 1 << 29;
const CD: u64 = 1 << 30;
const PG: u64 = 1 << 31;
/// Bits 6 to 15, 17 and 19 to 28 of CR0.
const RESERVED: u64 = 0x1ffa_ffc0;
const PAE: u64 = 1 << 5;
const LME: u64 = 1 << 8;
const LMA: u64 = 1 << 10;
const MOV: RegAccess = RegAccess {
    number: 0,
    write: true,
    gpr: Some(RCX as u8),
};

/// MOV to a control register with the hardware's help; false for #GP(0).
fn write(r: &mut Rig, number: u8, value: u64) -> bool {
    r.vcpu.cpu.rip = CODE;
    r.set(&[(RCX, value)]);
    r.exit(ExitReason::CrAccess(RegAccess { number, ..MOV }), 3);
    match r.injected().pop().flatten() {
        None => {
            assert_eq!(r.vcpu.cpu.rip, CODE + 3);
            true
        }
        Some(GP) => {
            assert_eq!(r.vcpu.cpu.rip, CODE);
            false
        }
        Some(e) => panic!("{e:?}"),
    }
}

/// 32-bit protected mode without paging.
fn protected() -> Rig {
    let mut r = Rig::new();
    r.vcpu.cpu.set_sysreg(SysReg::Cr0, PE | 0x10);
    r.vcpu.cpu.set_sysreg(SysReg::Efer, 0);
    let mut cs = r.vcpu.cpu.segment(SegReg::Cs);
    cs.attr = (cs.attr - SegAttr::L) | SegAttr::DB;
    r.vcpu.cpu.set_segment(SegReg::Cs, cs);
    r
}

#[test]
fn cr0_combinations_that_do_not_exist_are_general_protection() {
    for (value, valid) in [
        (PE, true),
        (0, true),
        (PG, false),
        (PE | NW, false),
        (PE | NW | CD, true),
        (PE | CD, true),
        (PE | PG, true),
    ] {
        assert_eq!(write(&mut protected(), 0, value), valid, "{value:#x}");
    }
    let mut long = Rig::new();
    assert!(!write(&mut long, 0, 1 << 32 | PG | PE | 0x10));
}

#[test]
fn extension_type_is_always_set_and_other_reserved_bits_are_ignored() {
    let mut r = protected();
    assert!(write(&mut r, 0, PE | RESERVED));
    assert_eq!(r.vcpu.cpu.sysreg(SysReg::Cr0), PE | 0x10);
}

#[test]
fn paging_with_lme_makes_long_mode_active_and_without_ends_it() {
    let mut r = protected();
    r.vcpu.cpu.set_sysreg(SysReg::Efer, LME);
    assert!(!write(&mut r, 0, PE | PG), "without PAE");
    r.vcpu.cpu.set_sysreg(SysReg::Cr4, PAE);
    assert!(write(&mut r, 0, PE | PG));
    assert_eq!(r.vcpu.cpu.sysreg(SysReg::Efer), LME | LMA);
    assert!(r.vcpu.cpu.flushes > 0);
    assert!(write(&mut r, 0, PE));
    assert_eq!(r.vcpu.cpu.sysreg(SysReg::Efer), LME);
}

#[test]
fn paging_cannot_be_switched_off_in_64_bit_code() {
    assert!(!write(&mut Rig::new(), 0, PE));
}

#[test]
fn cr4_bits_that_the_virtual_cpu_does_not_have_are_general_protection() {
    for bit in 0..64 {
        let mut r = Rig::new();
        r.vcpu.cpu.set_sysreg(SysReg::Cr4, PAE);
        let known = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16, 18, 20, 21].contains(&bit);
        assert_eq!(write(&mut r, 4, PAE | 1 << bit), known, "bit {bit}");
    }
}

#[test]
fn physical_address_extension_cannot_be_cleared_in_long_mode() {
    let mut r = Rig::new();
    r.vcpu.cpu.set_sysreg(SysReg::Cr4, PAE);
    assert!(!write(&mut r, 4, 0));
}

#[test]
fn cr3_above_the_physical_addresses_is_general_protection_in_long_mode() {
    assert!(write(&mut Rig::new(), 3, 0x7000));
    assert!(!write(&mut Rig::new(), 3, 1 << 40));
    assert!(!write(&mut Rig::new(), 3, 1 << 63));
    assert!(write(&mut protected(), 3, 1 << 40), "32 bits are moved");
}

/// QEMU's AMD-V ends the guest there, as if the entry had failed.
#[test]
fn cr3_above_the_physical_addresses_is_general_protection_where_the_entry_fails_of_it() {
    let at_mov = |value, fails| {
        let mut r = Rig::new().code(&[0x0f, 0x22, 0xd9]); // MOV CR3, RCX.
        r.vcpu.cpu.invalid_cr3_fails_entry = fails;
        r.set(&[(RCX, value)]);
        r.bare(ExitReason::EntryFailed);
        r
    };
    assert_eq!(at_mov(1 << 40, true).injected(), [None, Some(GP)]);
    assert!(matches!(at_mov(0x7000, true).run(), Stop::Fatal(_)));
    assert!(matches!(at_mov(1 << 40, false).run(), Stop::Fatal(_)));
}

#[test]
fn pae_paging_loads_its_pointer_table() {
    let mut r = protected();
    r.vcpu.cpu.set_sysreg(SysReg::Cr4, PAE);
    let table: Vec<u8> = [0x4001u64, 0, 0x5001, 0xffff_ffff_ffff_fffe]
        .iter()
        .flat_map(|e| e.to_le_bytes())
        .collect();
    r.memory.write(Gpa(0x2020), &table).unwrap();
    assert!(write(&mut r, 3, 0x2020));
    assert_eq!(r.vcpu.cpu.pdptes, [0; 4], "not before paging is on");
    assert!(write(&mut r, 0, PE | PG));
    assert_eq!(
        r.vcpu.cpu.pdptes,
        [0x4001, 0, 0x5001, 0xffff_ffff_ffff_fffe]
    );
    r.memory.write(Gpa(0x3000), &0x41u64.to_le_bytes()).unwrap();
    assert!(
        !write(&mut r, 3, 0x3000),
        "a present entry with a reserved bit"
    );
    assert_eq!(r.vcpu.cpu.sysreg(SysReg::Cr3), 0x2020);
}

#[test]
fn reading_clears_the_upper_half_outside_64_bit_mode() {
    for (mut r, kept) in [(protected(), 0), (Rig::new(), 0x1_0000_0000)] {
        r.set(&[(RAX, !0)]);
        r.vcpu.cpu.set_sysreg(SysReg::Cr3, 0x1_0000_7000);
        let access = RegAccess {
            number: 3,
            write: false,
            gpr: Some(RAX as u8),
        };
        r.exit(ExitReason::CrAccess(access), 3);
        r.run();
        assert_eq!(r.reg(RAX), 0x7000 | kept);
    }
}

#[test]
fn without_help_of_the_hardware_the_instruction_is_decoded() {
    // MOV CR4, RCX.
    let mut r = Rig::new().code(&[0x0f, 0x22, 0xe1]);
    r.set(&[(RCX, PAE | 1 << 7)]);
    r.bare(ExitReason::CrAccess(RegAccess {
        number: 4,
        gpr: None,
        ..MOV
    }));
    r.run();
    assert_eq!(r.vcpu.cpu.sysreg(SysReg::Cr4), PAE | 1 << 7);
    assert_eq!(r.vcpu.cpu.rip, CODE + 3);
}
