//! What holds for the checker as a whole.

use super::testing::{
    BASELINES, Case, long_mode, pae, real_mode, restricted, unpaged, virtual_8086,
};
use super::*;
use crate::capabilities::tests::penryn;
use crate::controls::{Entry, Exit};
use alloc::string::ToString;
use hv_core::testing::Random;

/// The rules of every section.
fn all_rules() -> Vec<&'static Rule> {
    [
        execution_controls::RULES,
        exit_controls::RULES,
        entry_controls::RULES,
        host::RULES,
        guest::registers::RULES,
        guest::segments::RULES,
        guest::system_segments::RULES,
        guest::descriptor_tables::RULES,
        guest::rip_rflags::RULES,
        guest::non_register::RULES,
        guest::pdptes::RULES,
    ]
    .concat()
}

#[test]
fn a_vmcs_in_each_mode_keeps_all_rules() {
    for baseline in BASELINES {
        baseline().check().unwrap_or_else(|v| panic!("{v}"));
    }
}

#[test]
fn each_rule_is_a_sentence_of_its_own() {
    let rules = all_rules();
    for (i, rule) in rules.iter().enumerate() {
        assert!(rule.text.ends_with('.'), "{}", rule.text);
        assert!(
            !rules[..i].iter().any(|r| r.text == rule.text),
            "{}",
            rule.text
        );
    }
}

#[test]
fn a_violation_prints_rule_section_and_fields() {
    let mut case = long_mode();
    case.set(Field::GUEST_IDTR_LIMIT, 0x1_0000);
    assert_eq!(
        case.check().unwrap_err().to_string(),
        "The limits of GDTR and IDTR must have 16 bits. (SDM vol 3C 27.3.1.3, \"Checks on Guest Descriptor-Table \
         Registers\"): GUEST_IDTR_LIMIT = 0x10000"
    );
}

#[test]
fn guest_checks_are_those_of_the_guest_state() {
    let mut case = long_mode();
    case.set(Field::HOST_CR0, 0);
    let read = |field| case.read(field);
    assert!(check(&read, &case.capabilities).is_err());
    assert_eq!(check_guest(&read, &case.capabilities), Ok(()));
}

#[test]
fn only_fields_of_this_cpu_are_read() {
    // A CPU with neither EPT, VPIDs, nor PAT and EFER loading; a field that is not set panics when read.
    let mut case = restricted();
    case.capabilities = Capabilities::read(penryn, 36);
    case.set(Field::PIN_CONTROLS, 0x3f);
    case.set(
        Field::PRIMARY_CONTROLS,
        u64::from(case.capabilities.primary.must | Primary::CR8_LOAD_EXITING.bits()),
    );
    case.set(
        Field::EXIT_CONTROLS,
        u64::from(case.capabilities.exit.must | Exit::HOST_ADDRESS_SPACE_SIZE.bits()),
    );
    case.set(
        Field::ENTRY_CONTROLS,
        u64::from(case.capabilities.entry.must | Entry::LOAD_DEBUG_CONTROLS.bits()),
    );
    for field in [
        Field::SECONDARY_CONTROLS,
        Field::VPID,
        Field::EPT_POINTER,
        Field::GUEST_PAT,
        Field::GUEST_EFER,
        Field::HOST_PAT,
        Field::HOST_EFER,
        Field::GUEST_PDPTE0,
        Field::GUEST_PDPTE1,
        Field::GUEST_PDPTE2,
        Field::GUEST_PDPTE3,
        Field::VIRTUAL_APIC,
        Field::TPR_THRESHOLD,
        Field::IO_BITMAP_A,
        Field::IO_BITMAP_B,
        Field::MSR_BITMAP,
    ] {
        case.fields.remove(&field);
    }
    case.check().unwrap_or_else(|v| panic!("{v}"));
}

#[test]
fn hardware_without_unrestricted_guest_runs_protected_paged_and_virtual_8086_mode() {
    let fits = |case: Case| segments_fit(&|field| case.read(field));
    for baseline in [long_mode, pae, restricted, virtual_8086] {
        assert!(fits(baseline()));
    }
    for baseline in [real_mode, unpaged] {
        assert!(!fits(baseline()));
    }
    // Linux before its first far jump with paging: selectors are still real mode's.
    let mut case = unpaged();
    case.raise(Field::GUEST_CR0, hv_core::regs::Cr0::PG.bits());
    assert!(!fits(case.clone()));
    // What is to be injected, and with what controls, does not matter.
    let mut case = pae();
    case.fields.retain(|field, _| {
        field.area() == crate::vmcs::Area::Guest || *field == Field::ENTRY_CONTROLS
    });
    assert!(fits(case));
}

#[test]
fn fixed_bits_are_compared_both_ways() {
    let fixed = (0b0011, 0b0111);
    for (value, exempt, kept) in [
        (0b0011, 0, true),
        (0b0111, 0, true),
        (0b0001, 0, false),
        (0b1011, 0, false),
        (0b0001, 0b0010, true),
        (0b1011, 0b1000, true),
    ] {
        assert_eq!(keeps_fixed(value, fixed, exempt), kept, "{value:#b}");
    }
}

#[test]
fn canonical_addresses_have_the_cpus_linear_width() {
    let mut capabilities = Capabilities::default();
    for (la57, canonical) in [(0, false), (1 << 12, true)] {
        capabilities.cr4_fixed.1 = la57;
        let vmcs = Vmcs::without_controls(&|_| 0, &capabilities);
        assert_eq!(vmcs.canonical(1 << 47), canonical);
        assert!(vmcs.canonical((1 << 47) - 1));
        assert!(vmcs.canonical(!0 << 47));
        assert!(!vmcs.canonical(1 << 56));
        assert!(!vmcs.canonical(1 << 63));
    }
}

#[test]
fn any_values_are_judged_without_a_panic() {
    let mut random = Random::from_env("CHECK_SEED", 1);
    for _ in 0..2_000 {
        let mut case = random.pick(&BASELINES)();
        for &field in Field::ALL {
            case.fields.entry(field).or_insert(0);
        }
        // A few fields with any value, or with one bit turned.
        for _ in 0..random.below(4) {
            let field = random.pick(Field::ALL);
            let value = random.next();
            case.set(field, value);
        }
        for _ in 0..random.below(4) {
            let field = random.pick(Field::ALL);
            *case.fields.entry(field).or_default() ^= 1 << random.below(64);
        }
        let read = |field| case.read(field);
        if let Err(v) = check(&read, &case.capabilities) {
            assert!(all_rules().iter().any(|r| r.text == v.rule));
            for (field, value) in v.fields {
                assert_eq!(value, field.truncate(case.read(field)));
            }
        }
        let _ = segments_fit(&read);
        // And all fields at once.
        let noise = core::cell::RefCell::new(random.clone());
        let read = |_| noise.borrow_mut().next();
        let _ = check(&read, &case.capabilities);
        let _ = check_guest(&read, &case.capabilities);
    }
}
