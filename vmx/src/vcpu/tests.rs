//! What the backend writes, judged by the manual's rules, on a processor that is a map of fields.

mod events;

use super::*;
use crate::capabilities::SecondStage;
use crate::capabilities::msr;
use crate::capabilities::tests::skylake;
use crate::testing::FakeHardware;
use hv_core::event::Event;
use hv_core::mmu::TlbFlush;

const ENTRY: Entry = Entry {
    root: Hpa(0x5000),
    flush: TlbFlush::None,
    inject: None,
    irq_window: false,
    nmi_window: false,
    timer: u64::MAX,
};

/// The host's state as `hw` writes it.
fn hardware() -> FakeHardware {
    let mut hw = FakeHardware::default();
    for (field, value) in [
        (Field::HOST_CR0, 0x8001_0033),
        (Field::HOST_CR3, 0x10_0000),
        (Field::HOST_CR4, 0x4_2620),
        (Field::HOST_EFER, 0x500),
        (Field::HOST_PAT, PAT_RESET),
        (Field::HOST_CS_SELECTOR, 8),
        (Field::HOST_SS_SELECTOR, 16),
        (Field::HOST_TR_SELECTOR, 24),
        (Field::HOST_RIP, 0x10_1000),
    ] {
        hw.fields.insert(field, value);
    }
    hw
}

fn cpu_with(capabilities: Capabilities) -> VmxVcpu<FakeHardware> {
    let plan = capabilities.plan(SecondStage::Nested).unwrap();
    let mut cpu = VmxVcpu::with_hardware(hardware(), capabilities, plan, 1, Gpa(0xfeff_c000));
    // Bitmaps and lists lie where the test's heap is.
    cpu.capabilities.physical_bits = 52;
    cpu.check_entries = false;
    cpu
}

fn cpu() -> VmxVcpu<FakeHardware> {
    cpu_with(Capabilities::read(skylake, 40))
}

/// A CPU with EPT and without unrestricted guest, EFER and PAT controls, VPIDs, timer, or TPR shadow.
fn plain_cpu() -> VmxVcpu<FakeHardware> {
    let without = |m, bits: u64| skylake(m) & !(bits << 32);
    cpu_with(Capabilities::read(
        |m| match m {
            msr::PROCBASED2 => without(m, 1 << 5 | 1 << 7),
            msr::TRUE_PINBASED => without(m, 1 << 6),
            msr::TRUE_PROCBASED => without(m, 1 << 21),
            msr::TRUE_EXIT => without(m, 1 << 19 | 1 << 21),
            msr::TRUE_ENTRY => without(m, 1 << 14 | 1 << 15),
            _ => skylake(m),
        },
        40,
    ))
}

fn set<H: Hardware>(c: &mut VmxVcpu<H>, reg: SegReg, bits: u16, limit: u32, selector: u16) {
    c.set_segment(
        reg,
        Segment {
            selector,
            attr: SegAttr::from_bits_retain(bits),
            limit,
            base: 0,
        },
    );
}

/// Flat 32-bit protected mode without paging.
fn protected<H: Hardware>(c: &mut VmxVcpu<H>) {
    c.set_sysreg(SysReg::Cr0, 0x11);
    set(c, SegReg::Cs, 0xc9b, u32::MAX, 8);
    for reg in [SegReg::Ss, SegReg::Ds, SegReg::Es, SegReg::Fs, SegReg::Gs] {
        set(c, reg, 0xc93, u32::MAX, 16);
    }
}

/// 64-bit mode.
fn long<H: Hardware>(c: &mut VmxVcpu<H>) {
    protected(c);
    c.set_sysreg(SysReg::Cr4, 0x20);
    c.set_sysreg(SysReg::Cr3, 0x7000);
    c.set_sysreg(SysReg::Efer, 0x500);
    c.set_sysreg(SysReg::Cr0, 0x8000_0011);
    set(c, SegReg::Cs, 0xa9b, u32::MAX, 8);
}

/// Encodes an entry and checks it.
fn entered(c: &mut VmxVcpu<FakeHardware>, entry: &Entry) {
    c.encode(entry);
    if let Err(violation) = c.check() {
        panic!("{violation}");
    }
}

fn field(c: &VmxVcpu<FakeHardware>, field: Field) -> u64 {
    c.hw.fields.get(&field).copied().unwrap_or(0)
}

#[test]
fn spec_ctrl_is_in_the_lists_once_it_is_not_the_hosts() {
    let mut c = cpu();
    let counts = |c: &VmxVcpu<FakeHardware>| {
        [
            Field::VM_ENTRY_MSR_LOAD_COUNT,
            Field::VM_EXIT_MSR_LOAD_COUNT,
        ]
        .map(|field| c.hw.fields[&field])
    };
    let [entry, exit] = counts(&c);
    c.set_sysreg(SysReg::SpecCtrl, 0);
    assert_eq!(counts(&c), [entry, exit], "there may be no such register");
    c.set_sysreg(SysReg::SpecCtrl, 4);
    assert_eq!(counts(&c), [entry + 1, exit + 1]);
    c.set_sysreg(SysReg::SpecCtrl, 0);
    assert_eq!(counts(&c), [entry + 1, exit + 1], "0 is loaded");
    assert_eq!(c.sysreg(SysReg::SpecCtrl), 0);
    c.set_sysreg(SysReg::SpecCtrl, 1);
    c.reset();
    assert_eq!(c.sysreg(SysReg::SpecCtrl), 0);
}

#[test]
fn it_keeps_the_rules_of_all_backends() {
    hv_core::testing::conformance::check(cpu);
    hv_core::testing::conformance::check(plain_cpu);
}

#[test]
fn reset_state_is_the_manuals_and_enters() {
    let mut c = cpu();
    assert_eq!(
        (
            c.rip(),
            c.segment(SegReg::Cs).base,
            c.segment(SegReg::Cs).selector
        ),
        (0xfff0, 0xffff_0000, 0xf000)
    );
    assert_eq!(c.sysreg(SysReg::Cr0), 0x6000_0010);
    assert!(c.can_run());
    entered(&mut c, &ENTRY);
    assert_eq!(
        field(&c, Field::GUEST_CR0),
        0x30,
        "NE is fixed, CD and NW are never set"
    );
    assert_eq!(field(&c, Field::EPT_POINTER), 0x501e);
}

#[test]
fn every_mode_enters() {
    let mut c = cpu();
    protected(&mut c);
    entered(&mut c, &ENTRY);
    long(&mut c);
    entered(&mut c, &ENTRY);
    assert_ne!(
        field(&c, Field::ENTRY_CONTROLS) as u32 & controls::Entry::IA32E_MODE_GUEST.bits(),
        0
    );
    c.reset();
    entered(&mut c, &ENTRY);
    assert_eq!(
        field(&c, Field::ENTRY_CONTROLS) as u32 & controls::Entry::IA32E_MODE_GUEST.bits(),
        0
    );
}

#[test]
fn the_guest_sees_the_control_registers_that_it_wrote() {
    for mut c in [cpu(), plain_cpu()] {
        protected(&mut c);
        c.set_sysreg(SysReg::Cr3, 0x1234_5000);
        c.set_sysreg(SysReg::Cr0, 0x6000_0011);
        c.set_sysreg(SysReg::Cr4, 0x80);
        assert_eq!(c.sysreg(SysReg::Cr0), 0x6000_0011);
        assert_eq!(c.sysreg(SysReg::Cr3), 0x1234_5000);
        assert_eq!(c.sysreg(SysReg::Cr4), 0x80);
        c.set_sysreg(SysReg::Cr0, 0xe000_0011);
        assert_eq!(c.sysreg(SysReg::Cr3), 0x1234_5000);
        c.encode(&ENTRY);
        assert_eq!(field(&c, Field::GUEST_CR3), 0x1234_5000);
        assert_eq!(field(&c, Field::CR0_READ_SHADOW) & 0x6000_0000, 0x6000_0000);
        assert_eq!(field(&c, Field::CR4_READ_SHADOW), 0x80, "VMXE is hidden");
        assert_ne!(field(&c, Field::GUEST_CR4) & 0x2000, 0, "and set");
    }
}

#[test]
fn what_the_guest_changes_itself_is_seen() {
    let mut c = cpu();
    long(&mut c);
    c.hw.guest = Some(Box::new(|fields| {
        // MOV to CR0 with TS, MOV to CR4 with PGE, MOV to CR3.
        *fields.get_mut(&Field::GUEST_CR0).unwrap() |= 8;
        *fields.get_mut(&Field::GUEST_CR4).unwrap() |= 0x80;
        fields.insert(Field::GUEST_CR3, 0x9000);
        fields.insert(Field::EXIT_REASON, reason::EXTERNAL_INTERRUPT.into());
        Ok(())
    }));
    c.run(&ENTRY);
    assert_eq!(c.sysreg(SysReg::Cr0), 0x8000_0019);
    assert_eq!(c.sysreg(SysReg::Cr4), 0xa0);
    assert_eq!(c.sysreg(SysReg::Cr3), 0x9000);
    // And kept when another bit is written for it.
    c.set_sysreg(SysReg::Cr4, 0xa0 | 0x200);
    assert_eq!(c.sysreg(SysReg::Cr0), 0x8000_0019);
}

#[test]
fn without_unrestricted_guest_unpaged_mode_runs_on_the_identity_map() {
    let mut c = plain_cpu();
    assert!(!c.can_run(), "real mode");
    protected(&mut c);
    assert!(c.can_run());
    entered(&mut c, &ENTRY);
    assert_eq!(field(&c, Field::GUEST_CR3), 0xfeff_c000);
    assert_eq!(field(&c, Field::GUEST_CR0) & 0x8000_0001, 0x8000_0001);
    assert_eq!(field(&c, Field::GUEST_CR4) & 0x30, 0x10, "PSE without PAE");
    let watched = Primary::CR3_LOAD_EXITING | Primary::CR3_STORE_EXITING;
    let primary = |c: &VmxVcpu<FakeHardware>| {
        Primary::from_bits_retain(field(c, Field::PRIMARY_CONTROLS) as u32)
    };
    assert!(primary(&c).contains(watched));
    long(&mut c);
    entered(&mut c, &ENTRY);
    assert_eq!(field(&c, Field::GUEST_CR3), 0x7000);
    assert!(!primary(&c).intersects(watched));
}

#[test]
fn without_unrestricted_guest_what_real_mode_left_in_segments_is_emulated() {
    let mut c = plain_cpu();
    c.set_sysreg(SysReg::Cr0, 0x11);
    assert!(c.can_run(), "the reset state's segments happen to fit");
    set(&mut c, SegReg::Ss, 0x93, 0xffff, 0x1235);
    assert!(!c.can_run(), "SS has another RPL than CS");
    set(&mut c, SegReg::Ss, 0xc93, u32::MAX, 16);
    assert!(c.can_run());
}

#[test]
fn registers_without_a_control_are_loaded_from_lists() {
    let mut c = plain_cpu();
    assert_eq!(field(&c, Field::VM_ENTRY_MSR_LOAD_COUNT), 2);
    assert_eq!(field(&c, Field::VM_EXIT_MSR_LOAD_COUNT), 2);
    assert!(!c.has_timer() && !c.has_tpr_shadow());
    long(&mut c);
    entered(&mut c, &ENTRY);
    assert_eq!(field(&c, Field::GUEST_EFER), 0, "there is no such field");
    assert_eq!(c.sysreg(SysReg::Efer), 0x500);
}

#[test]
fn injections_enter() {
    for mut c in [cpu(), plain_cpu()] {
        long(&mut c);
        c.set_rflags(0x202);
        for event in [
            Event::interrupt(0x30),
            Event::nmi(),
            Event::exception(6, None),
            Event::exception(14, Some(2)),
            Event::exception(13, None),
        ] {
            entered(
                &mut c,
                &Entry {
                    inject: Some(event),
                    nmi_window: true,
                    ..ENTRY
                },
            );
        }
    }
}

#[test]
fn a_real_mode_exception_has_no_error_code() {
    let mut c = cpu();
    let inject = Some(Event::exception(13, Some(0)));
    entered(&mut c, &Entry { inject, ..ENTRY });
    assert_eq!(field(&c, Field::ENTRY_INTERRUPTION_INFO), 0x8000_030d);
}

#[test]
fn the_same_nmi_again_finds_nmis_unblocked() {
    let mut c = cpu();
    c.cache
        .set(cache::INTERRUPTIBILITY, blocking(Interruptibility::NMI));
    let inject = Some(Event::nmi());
    entered(&mut c, &Entry { inject, ..ENTRY });
    assert_eq!(field(&c, Field::GUEST_INTERRUPTIBILITY), 0);
}

#[test]
fn a_single_step_in_a_shadow_is_pending() {
    let mut c = cpu();
    c.set_rflags(0x302);
    c.cache
        .set(cache::INTERRUPTIBILITY, blocking(Interruptibility::STI));
    let inject = Some(Event::exception(1, None));
    entered(&mut c, &Entry { inject, ..ENTRY });
    assert_eq!(
        field(&c, Field::GUEST_PENDING_DEBUG),
        PendingDebug::BS.bits()
    );
}

#[test]
fn windows_are_armed_and_disarmed() {
    let mut c = cpu();
    let windows = Primary::INTERRUPT_WINDOW_EXITING | Primary::NMI_WINDOW_EXITING;
    let armed = |c: &VmxVcpu<FakeHardware>| {
        Primary::from_bits_retain(field(c, Field::PRIMARY_CONTROLS) as u32) & windows
    };
    let both = Entry {
        irq_window: true,
        nmi_window: true,
        ..ENTRY
    };
    entered(&mut c, &both);
    assert_eq!(armed(&c), windows);
    entered(&mut c, &ENTRY);
    assert_eq!(armed(&c), Primary::empty());
}

#[test]
fn flushes_use_what_the_cpu_has() {
    let mut c = cpu();
    c.encode(&ENTRY);
    c.hw.flushed = Default::default();
    c.encode(&ENTRY);
    assert_eq!(c.hw.flushed, Default::default());
    c.flush_linear();
    let flush = TlbFlush::Guest;
    c.encode(&Entry { flush, ..ENTRY });
    assert_eq!(c.hw.flushed, (vec![0x501e], vec![1]));
    let mut c = plain_cpu();
    c.flush_linear();
    c.encode(&ENTRY);
    assert!(c.hw.flushed.1.is_empty(), "without tags each entry flushes");
}

#[test]
fn the_timer_counts_in_the_cpus_unit_and_never_overflows() {
    let mut c = cpu();
    for (timer, count) in [(0, 0), (1000, 1000), (u64::MAX, 0xffff_ffff)] {
        c.encode(&Entry { timer, ..ENTRY });
        assert_eq!(field(&c, Field::PREEMPTION_TIMER), count);
    }
    c.capabilities.misc |= 5;
    c.encode(&Entry {
        timer: 1000,
        ..ENTRY
    });
    assert_eq!(field(&c, Field::PREEMPTION_TIMER), 31);
}

#[test]
fn a_cpuid_exit_takes_six_reads_and_two_writes() {
    let mut c = cpu();
    long(&mut c);
    c.encode(&ENTRY);
    c.hw.guest = Some(Box::new(|fields| {
        fields.insert(Field::EXIT_REASON, reason::CPUID.into());
        fields.insert(Field::EXIT_INSTRUCTION_LENGTH, 2);
        Ok(())
    }));
    let quiet = Entry {
        timer: u64::MAX,
        ..ENTRY
    };
    c.run(&quiet);
    let before = c.accesses().unwrap();
    let exit = c.run(&quiet);
    assert_eq!(exit.reason, ExitReason::Cpuid);
    // What the run loop does to complete it.
    c.set_rip(exit.next_rip.unwrap());
    c.clear_interrupt_shadow();
    assert_eq!(c.rflags() & 0x100, 0);
    c.encode(&quiet);
    let after = c.accesses().unwrap();
    assert_eq!(after.0 - before.0, 6);
    // RIP, and the timer of this entry and the last.
    assert_eq!(after.1 - before.1, 3);
}

#[test]
fn a_next_rip_beyond_4_gib_wraps_outside_64_bit_mode() {
    let hlt = |c: &mut VmxVcpu<FakeHardware>| {
        c.set_rip(0xffff_ffff);
        c.hw.guest = Some(Box::new(|fields| {
            fields.insert(Field::EXIT_REASON, reason::HLT.into());
            fields.insert(Field::EXIT_INSTRUCTION_LENGTH, 1);
            Ok(())
        }));
        c.run(&ENTRY).next_rip
    };
    let mut c = cpu();
    protected(&mut c);
    assert_eq!(hlt(&mut c), Some(0));
    long(&mut c);
    assert_eq!(hlt(&mut c), Some(0x1_0000_0000));
}

#[test]
fn a_debug_exception_is_in_dr6_and_clears_general_detect() {
    let mut c = cpu();
    c.set_sysreg(SysReg::Dr7, 0x2400);
    c.set_sysreg(SysReg::Dr6, 0xffff_0ff1);
    c.hw.guest = Some(Box::new(|fields| {
        fields.insert(Field::EXIT_REASON, 0);
        fields.insert(Field::EXIT_INTERRUPTION_INFO, 0x8000_0301);
        fields.insert(Field::EXIT_QUALIFICATION, 0x4002);
        Ok(())
    }));
    c.run(&ENTRY);
    assert_eq!(c.sysreg(SysReg::Dr6), 0xffff_4ff2);
    assert_eq!(c.sysreg(SysReg::Dr7), 0x400);
}

#[test]
fn a_failed_entry_names_the_rule() {
    let mut c = cpu();
    long(&mut c);
    c.set_rflags(0x2_0202);
    c.hw.guest = Some(Box::new(|fields| {
        fields.insert(Field::EXIT_REASON, 0x8000_0021);
        Ok(())
    }));
    assert_eq!(c.run(&ENTRY).reason, ExitReason::EntryFailed);
    let mut text = String::new();
    c.dump_exit(&mut text);
    assert!(text.contains("invalid guest state"), "{text}");
    assert!(text.contains("In virtual-8086 mode"), "{text}");
    c.check_entries = true;
    c.hw.guest = Some(Box::new(|_| panic!("it must not be tried")));
    assert_eq!(c.run(&ENTRY).reason, ExitReason::EntryFailed);
}

/// Bochs 2.7.
#[test]
fn real_mode_with_an_odd_selector_is_run_in_software_once_the_cpu_has_refused_it() {
    let mut c = cpu();
    set(&mut c, SegReg::Cs, 0x9b, 0xffff, 0x991f);
    assert!(c.can_run());
    c.hw.guest = Some(Box::new(|fields| {
        fields.insert(Field::EXIT_REASON, 0x8000_0021);
        Ok(())
    }));
    let inject = Some(Event::interrupt(0x30));
    let exit = c.run(&Entry { inject, ..ENTRY });
    assert_eq!(exit.reason, ExitReason::InterruptWindow);
    assert_eq!(exit.vectoring, inject, "it is put back");
    assert!(!c.can_run());
    assert!(c.hw.cleared > 0, "the next entry launches it");
    set(&mut c, SegReg::Cs, 0x9b, 0xffff, 0x9900);
    assert!(c.can_run());
    assert_eq!(c.run(&ENTRY).reason, ExitReason::EntryFailed);
}

#[test]
fn an_instruction_that_fails_gives_its_number() {
    let mut c = cpu();
    c.hw.guest = Some(Box::new(|fields| {
        fields.insert(Field::INSTRUCTION_ERROR, 7);
        Err(EntryError::Instruction)
    }));
    assert_eq!(c.run(&ENTRY).reason, ExitReason::EntryFailed);
    let mut text = String::new();
    c.dump_exit(&mut text);
    assert!(text.contains("error 7"), "{text}");
}

#[test]
fn task_priority_is_told_and_asked_for() {
    let mut c = cpu();
    c.set_task_priority(5, 3);
    c.encode(&ENTRY);
    assert_eq!(field(&c, Field::TPR_THRESHOLD), 3);
    assert_eq!(c.changed_task_priority(), None);
    // The guest writes CR8.
    c.virtual_apic.set_cr8(2);
    assert_eq!(c.changed_task_priority(), Some(2));
    assert_eq!(c.changed_task_priority(), None);
}

#[test]
fn segments_are_kept_as_they_were_set() {
    let mut c = cpu();
    let null = Segment {
        selector: 3,
        attr: SegAttr::DPL0 | SegAttr::DPL1,
        ..Segment::default()
    };
    c.set_segment(SegReg::Ss, null);
    assert_eq!(c.segment(SegReg::Ss), null);
    assert_eq!(c.cpl(), 3, "an unusable SS tells the privilege level too");
}

#[test]
fn a_cpu_that_moves_is_written_to_memory_and_flushes_on_the_other_processor() {
    let mut c = cpu();
    c.flush_linear = false;
    c.unload();
    assert_eq!(c.hw.cleared, 1);
    c.load();
    assert!(!c.flush_linear, "it has come back to where it was");
    c.unload();
    c.hw.moved = true;
    c.load();
    assert!(c.flush_linear);
    assert_eq!((c.hw.cleared, c.hw.made_current), (2, 2));
}

#[test]
fn another_guest_may_use_the_registers_while_this_one_is_unloaded() {
    let mut c = cpu();
    c.set_sysreg(SysReg::Cr2, 0x1111);
    c.set_sysreg(SysReg::Lstar, 0x2222);
    c.set_sysreg(SysReg::Dr3, 0x3333);
    c.unload();
    c.hw.registers
        .values_mut()
        .for_each(|value| *value = 0xdead);
    c.load();
    assert_eq!(c.hw.made_current, 1);
    assert_eq!(c.sysreg(SysReg::Cr2), 0x1111);
    assert_eq!(c.sysreg(SysReg::Lstar), 0x2222);
    assert_eq!(c.sysreg(SysReg::Dr3), 0x3333);
    assert_eq!(c.sysreg(SysReg::Dr6), 0xffff_0ff0);
    assert_eq!(c.sysreg(SysReg::Star), 0);
}
