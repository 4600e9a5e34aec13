//! VMCSs that keep all rules, and tables of what breaks them.

use super::{Rule, Violation};
use crate::capabilities::Capabilities;
use crate::capabilities::tests::skylake;
use crate::controls::{Entry, Pin, Primary, Secondary};
use crate::formats::{AccessRights, activity};
use crate::vmcs::{Field as F, segment_fields};
use hv_core::regs::{Cr0, Cr4, Efer, Rflags, SegReg};
use std::collections::BTreeMap;

/// Flat code and data segments of a 64-bit and a 32-bit program, by their access rights.
pub const CODE_64: u64 = 0xa09b;
pub const CODE_32: u64 = 0xc09b;
pub const DATA_32: u64 = 0xc093;
pub const CODE_16: u64 = 0x9b;
pub const DATA_16: u64 = 0x93;
pub const TSS_32: u64 = 0x8b;
pub const TSS_16: u64 = 0x83;
pub const LDT: u64 = 0x82;
pub const UNUSABLE: u64 = AccessRights::UNUSABLE.bits() as u64;

/// Power-on value of IA32_PAT.
const PAT: u64 = 0x0007_0406_0007_0406;

/// A VMCS on a CPU. It has only the fields that have been set: reading another one panics.
#[derive(Clone)]
pub struct Case {
    pub fields: BTreeMap<F, u64>,
    pub capabilities: Capabilities,
}

impl Case {
    pub fn set(&mut self, field: F, value: u64) {
        self.fields.insert(field, value);
    }

    pub fn raise(&mut self, field: F, bits: impl Into<u64>) {
        *self.fields.entry(field).or_default() |= bits.into();
    }

    pub fn clear(&mut self, field: F, bits: impl Into<u64>) {
        *self.fields.entry(field).or_default() &= !bits.into();
    }

    pub fn raise_secondary(&mut self, bits: Secondary) {
        self.raise(F::SECONDARY_CONTROLS, bits.bits());
    }

    pub fn clear_secondary(&mut self, bits: Secondary) {
        self.clear(F::SECONDARY_CONTROLS, bits.bits());
    }

    pub fn set_segment(&mut self, name: SegReg, values: [u64; 4]) {
        for (field, value) in segment_fields(name as usize).into_iter().zip(values) {
            self.set(field, value);
        }
    }

    pub fn check(&self) -> Result<(), Violation> {
        super::check(&|field| self.read(field), &self.capabilities)
    }

    pub fn read(&self, field: F) -> u64 {
        match self.fields.get(&field) {
            Some(&value) => value,
            None => panic!("{field:?} is read, but the controls do not use it"),
        }
    }
}

/// Every control that has a name can be set.
fn capabilities() -> Capabilities {
    let mut c = Capabilities::read(skylake, 39);
    c.pin.may |= Pin::POSTED_INTERRUPTS.bits();
    c.primary.may |= Primary::MONITOR_TRAP_FLAG.bits();
    c.secondary.may |= Secondary::MODE_BASED_EXECUTE.bits();
    c
}

/// What all guests have in common: the controls that Umbra plans, the host, and guest state that no mode cares for.
fn common() -> Case {
    let capabilities = capabilities();
    let plan = capabilities
        .plan(crate::capabilities::SecondStage::Nested)
        .unwrap();
    let mut case = Case {
        fields: BTreeMap::new(),
        capabilities,
    };
    let page = |n: u64| n << 12;
    for (field, value) in [
        (F::PIN_CONTROLS, u64::from(plan.pin.bits())),
        (F::PRIMARY_CONTROLS, u64::from(plan.primary.bits())),
        (F::SECONDARY_CONTROLS, u64::from(plan.secondary.bits())),
        (F::EXIT_CONTROLS, u64::from(plan.exit.bits())),
        (F::ENTRY_CONTROLS, u64::from(plan.entry.bits())),
        (F::CR3_TARGET_COUNT, 0),
        (F::IO_BITMAP_A, page(1)),
        (F::IO_BITMAP_B, page(2)),
        (F::MSR_BITMAP, page(3)),
        (F::VIRTUAL_APIC, page(4)),
        (F::TPR_THRESHOLD, 0),
        (F::VPID, 1),
        // Four levels, write-back.
        (F::EPT_POINTER, page(5) | 3 << 3 | 6),
        (F::VM_EXIT_MSR_STORE_COUNT, 0),
        (F::VM_EXIT_MSR_LOAD_COUNT, 0),
        (F::VM_ENTRY_MSR_LOAD_COUNT, 0),
        (F::ENTRY_INTERRUPTION_INFO, 0),
        (F::HOST_CR0, 0x8001_0033),
        (F::HOST_CR3, page(6)),
        (F::HOST_CR4, (Cr4::PAE | Cr4::VMXE).bits()),
        (F::HOST_EFER, (Efer::LME | Efer::LMA | Efer::NXE).bits()),
        (F::HOST_PAT, PAT),
        (F::HOST_ES_SELECTOR, 0),
        (F::HOST_CS_SELECTOR, 0x8),
        (F::HOST_SS_SELECTOR, 0),
        (F::HOST_DS_SELECTOR, 0),
        (F::HOST_FS_SELECTOR, 0),
        (F::HOST_GS_SELECTOR, 0),
        (F::HOST_TR_SELECTOR, 0x10),
        (F::HOST_FS_BASE, 0),
        (F::HOST_GS_BASE, 0xffff_8000_0000_0000),
        (F::HOST_TR_BASE, page(7)),
        (F::HOST_GDTR_BASE, page(8)),
        (F::HOST_IDTR_BASE, page(9)),
        (F::HOST_SYSENTER_ESP, 0),
        (F::HOST_SYSENTER_EIP, 0),
        (F::HOST_RIP, 0x10_0000),
        (F::GUEST_CR3, page(10)),
        (F::GUEST_DR7, 0x400),
        (F::GUEST_DEBUGCTL, 0),
        (F::GUEST_PAT, PAT),
        (F::GUEST_SYSENTER_ESP, 0),
        (F::GUEST_SYSENTER_EIP, 0),
        (F::GUEST_GDTR_BASE, page(11)),
        (F::GUEST_GDTR_LIMIT, 0x7f),
        (F::GUEST_IDTR_BASE, page(12)),
        (F::GUEST_IDTR_LIMIT, 0xfff),
        (F::GUEST_ACTIVITY, u64::from(activity::ACTIVE)),
        (F::GUEST_INTERRUPTIBILITY, 0),
        (F::GUEST_PENDING_DEBUG, 0),
        (F::VMCS_LINK_POINTER, u64::MAX),
    ] {
        case.set(field, value);
    }
    case.set_segment(SegReg::Ldtr, [0, 0, 0, UNUSABLE]);
    case.set_segment(SegReg::Tr, [0x18, page(13), 0x67, TSS_32]);
    case
}

fn flat(case: &mut Case, code: u64, privilege: u64) {
    let dpl = privilege << 5;
    case.set_segment(SegReg::Cs, [0x20 | privilege, 0, 0xffff_ffff, code | dpl]);
    for name in [SegReg::Ss, SegReg::Ds, SegReg::Es, SegReg::Fs, SegReg::Gs] {
        case.set_segment(name, [0x28 | privilege, 0, 0xffff_ffff, DATA_32 | dpl]);
    }
}

/// A 64-bit program of privilege 3, without DS and ES.
pub fn long_mode() -> Case {
    let mut case = common();
    case.raise(F::ENTRY_CONTROLS, Entry::IA32E_MODE_GUEST.bits());
    case.set(F::GUEST_CR0, 0x8001_0033);
    case.set(
        F::GUEST_CR4,
        (Cr4::PAE | Cr4::VMXE | Cr4::PCIDE | Cr4::OSFXSR).bits(),
    );
    case.set(F::GUEST_EFER, 0xd01);
    flat(&mut case, CODE_64, 3);
    case.set_segment(SegReg::Ds, [0, 0, 0, UNUSABLE]);
    case.set_segment(SegReg::Es, [0, 0, 0, UNUSABLE]);
    case.set(F::GUEST_FS_BASE, 0x7fff_0000_1000);
    case.set_segment(SegReg::Ldtr, [0x38, 0xffff_8000_0000_0000, 0xf, LDT]);
    case.set(F::GUEST_TR_BASE, 0xffff_ffff_8000_0000);
    case.set(F::GUEST_RIP, 0x7fff_ffff_f000);
    case.set(F::GUEST_RFLAGS, 0x202);
    case
}

/// The kernel of a 32-bit system with PAE paging.
pub fn pae() -> Case {
    let mut case = common();
    case.set(F::GUEST_CR0, 0x8001_0033);
    case.set(F::GUEST_CR4, (Cr4::PAE | Cr4::VMXE).bits());
    case.set(F::GUEST_EFER, Efer::NXE.bits());
    flat(&mut case, CODE_32, 0);
    case.set(F::GUEST_RIP, 0xc010_0000);
    case.set(F::GUEST_RFLAGS, 0x202);
    for (field, value) in [
        (F::GUEST_PDPTE0, 0x1001),
        (F::GUEST_PDPTE1, 0x7f_ffff_f001),
        // Not present: any bits.
        (F::GUEST_PDPTE2, !1),
        (F::GUEST_PDPTE3, 0x2019),
    ] {
        case.set(field, value);
    }
    case
}

/// The same system without unrestricted guest, by the controls.
pub fn restricted() -> Case {
    let mut case = pae();
    case.clear_secondary(Secondary::UNRESTRICTED_GUEST);
    case
}

/// Real mode after reset: CS is at the end of the first 4 GiB.
pub fn real_mode() -> Case {
    let mut case = common();
    case.set(F::GUEST_CR0, (Cr0::NE | Cr0::ET | Cr0::CD | Cr0::NW).bits());
    case.set(F::GUEST_CR4, Cr4::VMXE.bits());
    case.set(F::GUEST_EFER, 0);
    case.set_segment(SegReg::Cs, [0xf000, 0xffff_0000, 0xffff, CODE_16]);
    for name in [SegReg::Ss, SegReg::Ds, SegReg::Es, SegReg::Fs, SegReg::Gs] {
        case.set_segment(name, [0, 0, 0xffff, DATA_16]);
    }
    case.set(F::GUEST_RIP, 0xfff0);
    case.set(F::GUEST_RFLAGS, Rflags::ONE.bits());
    case
}

/// Protected mode without paging just after CR0.PE was set: selectors are real mode's.
pub fn unpaged() -> Case {
    let mut case = real_mode();
    case.raise(F::GUEST_CR0, Cr0::PE.bits());
    case.set_segment(SegReg::Cs, [0x1f3, 0x1f30, 0xffff, DATA_16]);
    case.set_segment(SegReg::Ss, [0x1f2, 0x1f20, 0xffff, DATA_16]);
    case
}

/// A virtual-8086 task.
pub fn virtual_8086() -> Case {
    let mut case = pae();
    case.raise(F::GUEST_RFLAGS, Rflags::VM.bits());
    for (name, selector) in [
        (SegReg::Cs, 0xf000),
        (SegReg::Ss, 0x9000),
        (SegReg::Ds, 0x40),
        (SegReg::Es, 0),
        (SegReg::Fs, 0xffff),
        (SegReg::Gs, 7),
    ] {
        case.set_segment(name, [selector, selector << 4, 0xffff, 0xf3]);
    }
    case.set(F::GUEST_RIP, 0x1234);
    case
}

pub const BASELINES: [fn() -> Case; 6] =
    [long_mode, pae, restricted, real_mode, unpaged, virtual_8086];

/// Sets the field of the segment `name` that `role` is the place of in [`segment_fields`].
pub fn set_segment(name: SegReg, role: usize, value: u64) -> impl Fn(&mut Case) {
    move |c| c.set(segment_fields(name as usize)[role], value)
}

/// Sets bits of such a field.
pub fn raise_segment(name: SegReg, role: usize, bits: u64) -> impl Fn(&mut Case) {
    move |c| c.raise(segment_fields(name as usize)[role], bits)
}

/// Clears bits of such a field.
pub fn clear_segment(name: SegReg, role: usize, bits: AccessRights) -> impl Fn(&mut Case) {
    move |c| c.clear(segment_fields(name as usize)[role], bits.bits())
}

/// A table of broken rules.
#[derive(Default)]
pub struct Table(Vec<&'static str>);

impl Table {
    /// `change` to a VMCS that keeps all rules breaks `rule` and no earlier one.
    #[track_caller]
    pub fn broken(
        self,
        rule: &'static Rule,
        baseline: fn() -> Case,
        change: impl FnOnce(&mut Case),
    ) -> Self {
        let mut case = baseline();
        change(&mut case);
        self.found(rule, case.check())
    }

    /// `result` is that `rule` is broken.
    #[track_caller]
    pub fn found(mut self, rule: &'static Rule, result: Result<(), Violation>) -> Self {
        match result {
            Err(v) => {
                assert_eq!((v.rule, v.section), (rule.text, rule.section), "{v}");
                assert!(!v.fields.is_empty());
            }
            Ok(()) => panic!("not found broken: {}", rule.text),
        }
        self.0.push(rule.text);
        self
    }

    /// `change` to a VMCS that keeps all rules breaks none.
    #[track_caller]
    pub fn kept(self, baseline: fn() -> Case, change: impl FnOnce(&mut Case)) -> Self {
        let mut case = baseline();
        change(&mut case);
        if let Err(v) = case.check() {
            panic!("{v}");
        }
        self
    }

    /// Every one of `rules` has been found broken, in one of the tables that `parts` make: no rule is dead.
    #[track_caller]
    pub fn cover(parts: &[fn() -> Table], rules: &[&Rule]) {
        let found: Vec<_> = parts.iter().flat_map(|part| part().0).collect();
        for rule in rules {
            assert!(found.contains(&rule.text), "no case for: {}", rule.text);
        }
    }
}
