//! Events on their way in: what was interrupted, what is raised, what waits.

use hv_core::Gpa;
use hv_core::cpu::VcpuBackend;
use hv_core::event::{Event, EventKind};
use hv_core::exit::ExitReason::{self, ExternalInterrupt, InterruptWindow, Iret, Shutdown};
use hv_core::exit::{NestedFault, VmExit};
use hv_core::mem::GuestMemory;
use hv_core::pveoi;
use hv_core::regs::SysReg;
use hv_core::regs::gpr::{RAX, RCX, RDX, RSP};
use hv_core::vcpu::Stop;
use tests::rig::{CODE, Rig};

const PF: Event = Event::exception(14, Some(2));
const GP: Event = Event::exception(13, Some(0));
const DF: Event = Event::exception(8, Some(0));

fn raised(vector: u8, error: u32) -> ExitReason {
    ExitReason::exception(vector, error, 0)
}

#[test]
fn interrupted_delivery_is_repeated() {
    let int80 = Event {
        kind: EventKind::SoftwareInterrupt,
        vector: 0x80,
        error: None,
        insn_len: 2,
    };
    for event in [Event::interrupt(0x31), PF, Event::nmi(), int80] {
        let mut r = Rig::new();
        r.interrupted(ExternalInterrupt, event);
        r.run();
        assert_eq!(r.injected(), [Some(event)], "and only once");
        assert_eq!(r.injected(), [None]);
    }
}

#[test]
fn event_that_is_told_as_interrupted_where_int_n_is_was_delivered_before() {
    const INT_80: [u8; 2] = [0xcd, 0x80];
    for event in [Event::interrupt(0x31), GP, Event::nmi()] {
        let mut r = Rig::new().code_at(CODE, &INT_80);
        r.vcpu.cpu.stale_vectoring = true;
        r.interrupted(ExternalInterrupt, event);
        assert_eq!(r.injected(), [None], "the script's only entry");
        assert_eq!(r.injected(), [None], "INT 80h runs again");
        assert_eq!(r.irqs.lock().given_back, []);
        // Elsewhere, on other CPUs, and where it has been injected, it is what it says.
        for (stale, code) in [(true, &[0x90][..]), (false, &INT_80)] {
            let mut r = Rig::new().code_at(CODE, code);
            r.vcpu.cpu.stale_vectoring = stale;
            r.interrupted(ExternalInterrupt, event);
            r.run();
            assert_eq!(r.injected(), [Some(event)]);
        }
        let mut r = Rig::new().code_at(CODE, &INT_80);
        r.vcpu.cpu.stale_vectoring = true;
        r.vcpu.cpu.rflags = 0x202;
        match event.kind {
            EventKind::ExternalInterrupt => r.irqs.lock().waiting.push_back(0x31),
            EventKind::Nmi => r.irqs.lock().nmi = true,
            _ => r.bare(raised(13, 0)),
        }
        r.interrupted(ExternalInterrupt, event);
        r.run();
        assert_eq!(r.injected(), [Some(event)]);
    }
}

#[test]
fn fault_of_int_n_that_meets_a_task_gate_goes_through_it() {
    // There is no gate here: the fault meets another.
    let mut r = Rig::new().code_at(CODE, &[0xcd, 0x80]);
    r.vcpu.cpu.stale_vectoring = true;
    r.interrupted(ExitReason::TaskSwitch, GP);
    assert_eq!(r.injected(), [None, Some(DF)]);
}

#[test]
fn interrupt_or_nmi_whose_delivery_faults_is_lost_as_on_a_cpu() {
    const STACK: u64 = 0x5000;
    for event in [Event::interrupt(0x31), Event::nmi()] {
        let mut r = Rig::new();
        {
            let mut mmu = r.vcpu.vm.mmu();
            mmu.shadow = true;
            mmu.flushes.require();
        }
        r.vcpu.vm.mmu().missing.push(STACK >> 12);
        r.vcpu.cpu.rflags = 0x202;
        match event.kind {
            EventKind::Nmi => r.irqs.lock().nmi = true,
            _ => r.irqs.lock().waiting.push_back(0x31),
        }
        r.interrupted(ExitReason::exception(14, 2, STACK), event);
        assert_eq!(r.injected(), [Some(event), Some(PF)]);
        assert_eq!(r.irqs.lock().waiting, [], "in service");
        // An NMI waits for the IRET of the fault's handler.
        r.irqs.lock().nmi = true;
        let waits = event.kind == EventKind::Nmi;
        assert_eq!(r.injected(), [(!waits).then(Event::nmi)]);
    }
}

#[test]
fn interrupt_that_was_not_delivered_goes_back_to_its_chip() {
    let event = Event::interrupt(0x31);
    let bare = VmExit::bare(ExternalInterrupt);
    let in_delivery = VmExit {
        vectoring: Some(event),
        ..bare
    };
    let not_taken = VmExit {
        untaken: Some(0x31),
        ..bare
    };
    for exit in [in_delivery, not_taken] {
        let mut r = Rig::new();
        r.irqs.lock().waiting.push_back(0x31);
        r.vcpu.cpu.exit(exit);
        r.run();
        assert_eq!(r.irqs.lock().given_back, [0x31]);
        assert_eq!(r.injected(), [Some(event)]);
        assert_eq!(r.irqs.lock().acknowledged, [0x31, 0x31]);
    }
}

#[test]
fn interrupt_that_was_not_delivered_has_no_end_to_be_skipped() {
    const WORD: Gpa = Gpa(0x800);
    let mut r = Rig::new();
    r.set(&[(RCX, pveoi::MSR.into()), (RAX, WORD.0 | 1), (RDX, 0)]);
    r.exit(ExitReason::Wrmsr, 2);
    r.run();
    r.irqs.lock().skipped_eoi.0 = true;
    r.irqs.lock().waiting.push_back(0x31);
    let memory = r.memory.clone();
    r.vcpu.cpu.play(move |_| {
        assert_eq!(memory.read_u32(WORD), Ok(1), "offered with the interrupt");
        VmExit {
            untaken: Some(0x31),
            ..VmExit::bare(ExternalInterrupt)
        }
    });
    r.run();
    assert_eq!(r.memory.read_u32(WORD), Ok(0), "and withdrawn with it");
    assert_eq!(r.irqs.lock().given_back, [0x31]);
    // It comes again, and now the guest skips its end.
    let memory = r.memory.clone();
    r.vcpu.cpu.play(move |_| {
        memory.write(WORD, &[0]).unwrap();
        VmExit::bare(ExternalInterrupt)
    });
    r.run();
    assert_eq!(r.irqs.lock().skipped_eoi.1, 1);
}

#[test]
fn chip_that_the_guest_reprograms_before_it_takes_an_interrupt_gives_the_new_vector() {
    let mut r = Rig::new();
    r.irqs.lock().waiting.push_back(8);
    let irqs = r.irqs.clone();
    r.vcpu.cpu.play(move |_| VmExit {
        untaken: Some(8),
        ..VmExit::bare(ExternalInterrupt)
    });
    r.run();
    // CLI; the PIC's vectors move from 8 to 20h; STI.
    r.vcpu.cpu.rflags = 2;
    irqs.lock().waiting[0] = 0x20;
    assert_eq!(r.injected(), [None]);
    assert!(r.entries()[0].irq_window);
    r.vcpu.cpu.rflags = 0x202;
    assert_eq!(r.injected(), [Some(Event::interrupt(0x20))]);
}

#[test]
fn exception_of_an_instruction_keeps_its_type_and_length() {
    use EventKind::{PrivilegedSoftwareException, SoftwareException};
    for (kind, vector, insn_len) in [
        (PrivilegedSoftwareException, 1, 1),
        (PrivilegedSoftwareException, 1, 2),
        (SoftwareException, 3, 1),
        (SoftwareException, 4, 1),
    ] {
        let mut r = Rig::new();
        r.bare(ExitReason::Exception {
            kind,
            vector,
            error: 0,
            payload: 0,
            insn_len,
        });
        let event = Event {
            kind,
            vector,
            error: None,
            insn_len,
        };
        assert_eq!(r.injected(), [None, Some(event)]);
        assert_eq!(r.vcpu.cpu.rip, CODE, "the hardware returns behind it");
    }
}

#[test]
fn exception_while_an_exception_is_delivered_combines() {
    let table = [
        (PF, 14, DF),
        (PF, 13, DF),
        (GP, 13, DF),
        (GP, 14, Event::exception(14, Some(0))),
    ];
    for (first, second, want) in table {
        let mut r = Rig::new();
        r.interrupted(raised(second, 0), first);
        assert_eq!(r.injected(), [None, Some(want)], "{first:?} then {second}");
    }
}

#[test]
fn exception_while_a_double_fault_is_delivered_is_a_triple_fault() {
    let mut r = Rig::new();
    r.interrupted(raised(14, 0), DF);
    assert_eq!(r.run(), Stop::TripleFault);
    assert_eq!(r.entries().len(), 1);
}

#[test]
fn shutdown_is_a_triple_fault() {
    let mut r = Rig::new();
    r.bare(Shutdown);
    assert_eq!(r.run(), Stop::TripleFault);
}

#[test]
fn exception_while_an_interrupt_is_delivered_goes_first_and_the_interrupt_follows() {
    let mut r = Rig::new();
    r.interrupted(raised(1, 0), Event::interrupt(0x41));
    r.bare(InterruptWindow);
    let want = [
        None,
        Some(Event::exception(1, None)),
        Some(Event::interrupt(0x41)),
    ];
    assert_eq!(r.injected(), want);
    assert!(r.entries()[1].irq_window);
}

#[test]
fn exceptions_get_an_error_code_if_they_have_one() {
    for v in (0..32).filter(|v| ![2, 18].contains(v)) {
        let mut r = Rig::new();
        r.bare(raised(v, 0x18));
        let error = [8, 10, 11, 12, 13, 14, 17, 21].contains(&v).then_some(0x18);
        assert_eq!(r.injected(), [None, Some(Event::exception(v, error))]);
        assert_eq!(r.vcpu.cpu.rip, CODE);
    }
}

#[test]
fn host_machine_check_stops_the_vm() {
    let mut r = Rig::new();
    r.bare(raised(18, 0));
    assert!(matches!(r.run(), Stop::Fatal(_)));
}

#[test]
fn interrupt_waits_for_the_flag_and_is_acknowledged_only_when_injected() {
    let mut r = Rig::new();
    r.vcpu.cpu.rflags = 2;
    r.irqs.lock().waiting.push_back(0x50);
    assert_eq!(r.injected(), [None]);
    assert!(r.entries()[0].irq_window);
    assert_eq!(r.irqs.lock().acknowledged, []);
    r.vcpu.cpu.play(|cpu| {
        cpu.rflags = 0x202;
        hv_core::exit::VmExit::bare(InterruptWindow)
    });
    assert_eq!(r.injected(), [None, Some(Event::interrupt(0x50))]);
    assert_eq!(r.irqs.lock().acknowledged, [0x50]);
    assert!(!r.entries()[1].irq_window);
}

#[test]
fn interrupt_waits_for_the_end_of_a_shadow() {
    let mut r = Rig::new();
    r.vcpu.cpu.shadow = true;
    r.irqs.lock().waiting.push_back(0x50);
    r.vcpu.cpu.play(|cpu| {
        cpu.shadow = false;
        hv_core::exit::VmExit::bare(InterruptWindow)
    });
    assert_eq!(r.injected(), [None, Some(Event::interrupt(0x50))]);
    assert!(r.entries()[0].irq_window);
}

#[test]
fn completed_instruction_ends_the_shadow() {
    let mut r = Rig::new();
    r.vcpu.cpu.shadow = true;
    r.irqs.lock().waiting.push_back(0x50);
    r.exit(ExitReason::Wbinvd, 2);
    assert_eq!(r.injected(), [None, Some(Event::interrupt(0x50))]);
}

#[test]
fn instruction_that_faults_keeps_the_shadow() {
    let mut r = Rig::new();
    r.vcpu.cpu.shadow = true;
    r.bare(ExitReason::Rdpmc);
    assert_eq!(r.injected(), [None, Some(GP)]);
    assert!(r.vcpu.cpu.shadow);
}

#[test]
fn second_interrupt_waits_for_a_window() {
    let mut r = Rig::new();
    r.irqs.lock().waiting.extend([0x50, 0x60]);
    r.interrupted(ExternalInterrupt, Event::interrupt(0x50));
    r.run();
    assert_eq!(
        r.injected(),
        [Some(Event::interrupt(0x50))],
        "the interrupted one goes first"
    );
    assert!(r.entries()[0].irq_window);
    assert_eq!(r.injected(), [Some(Event::interrupt(0x60))]);
}

#[test]
fn nmi_goes_before_an_interrupt() {
    let mut r = Rig::new();
    r.irqs.lock().nmi = true;
    r.irqs.lock().waiting.push_back(0x50);
    assert_eq!(r.injected(), [Some(Event::nmi())]);
    assert!(r.entries()[0].irq_window);
    assert_eq!(r.irqs.lock().acknowledged, []);
}

#[test]
fn next_nmi_comes_right_behind_the_iret() {
    // IRET in real mode, and its frame.
    let mut r = Rig::new();
    r.vcpu.cpu.reset();
    r.vcpu.cpu.flat_real_mode();
    let mut r = r.code(&[0xcf]);
    r.memory
        .write(Gpa(0x2000), &[0x77, 0x77, 0, 0, 2, 2])
        .unwrap();
    r.set(&[(RSP, 0x2000)]);
    r.irqs.lock().nmi = true;
    assert_eq!(r.injected(), [Some(Event::nmi())]);
    r.irqs.lock().nmi = true;
    assert_eq!(r.injected(), [None]);
    assert!(r.entries()[0].nmi_window, "its IRET is waited for");
    // The handler comes to its end. The IRET itself still belongs to it, and is executed at its intercept.
    r.bare(Iret);
    assert_eq!(r.injected(), [None, Some(Event::nmi())]);
    assert_eq!(r.vcpu.cpu.rip, 0x7777);
}

#[test]
fn single_step_traps_after_a_completed_instruction() {
    let mut r = Rig::new();
    r.vcpu.cpu.rflags |= 0x100;
    r.exit(ExitReason::Cpuid, 2);
    assert_eq!(r.injected(), [None, Some(Event::exception(1, None))]);
    assert_eq!(
        (r.vcpu.cpu.rip, r.vcpu.cpu.sysreg(SysReg::Dr6) & 0x4000),
        (CODE + 2, 0x4000)
    );
}

#[test]
fn single_step_traps_after_an_emulated_instruction() {
    // MOV EAX, [RBX]
    let mut r = Rig::new().code(&[0x8b, 0x03]);
    r.set(&[(hv_core::regs::gpr::RBX, tests::rig::MMIO)]);
    r.vcpu.cpu.rflags |= 0x100;
    r.bare(ExitReason::TaskSwitch);
    assert_eq!(r.injected(), [None, Some(Event::exception(1, None))]);
    assert_eq!(
        (r.vcpu.cpu.rip, r.vcpu.cpu.sysreg(SysReg::Dr6) & 0x4000),
        (CODE + 2, 0x4000)
    );
}

#[test]
fn instructions_that_the_virtual_cpu_lacks_are_undefined() {
    for reason in [ExitReason::Undefined, ExitReason::Rdtscp] {
        let mut r = Rig::new();
        r.bare(reason);
        assert_eq!(r.injected(), [None, Some(Event::exception(6, None))]);
        assert_eq!(r.vcpu.cpu.rip, CODE);
    }
}

#[test]
fn injected_events_are_counted_by_kind() {
    let mut r = Rig::new();
    r.irqs.lock().waiting.push_back(0x50);
    r.bare(ExitReason::Undefined);
    r.run();
    assert_eq!(r.vcpu.stats.injected, [1, 1, 0, 0]);
}

#[test]
fn interrupt_that_the_guest_did_not_take_waits_while_the_instruction_is_emulated() {
    let mut r = Rig::new();
    let fault = NestedFault {
        gpa: Gpa(0xfee0_0000),
        write: false,
        fetch: false,
        present: false,
        table_walk: false,
    };
    r.vcpu.cpu.exit(VmExit {
        untaken: Some(0x31),
        ..VmExit::bare(ExitReason::NestedFault(fault))
    });
    r.run();
    let injected: Vec<_> = r.entries().iter().filter_map(|e| e.inject).collect();
    assert!(injected.contains(&Event::interrupt(0x31)), "{injected:?}");
}

/// SDM vol 3B 18.3.1.1, "Instruction-Breakpoint Exception Condition".
#[test]
fn faults_are_delivered_with_the_resume_flag_and_interrupts_without() {
    const RF: u64 = 1 << 16;
    let mut r = Rig::new();
    // An unknown register: #GP.
    r.set(&[(RCX, 0x1234_5678)]);
    r.exit(ExitReason::Rdmsr, 2);
    assert_eq!(r.injected(), [None, Some(Event::exception(13, Some(0)))]);
    assert_ne!(r.vcpu.cpu.rflags & RF, 0);
    // An instruction that is completed ends it.
    r.exit(ExitReason::Cpuid, 2);
    assert_eq!(r.injected(), [None, None]);
    assert_eq!(r.vcpu.cpu.rflags & RF, 0);
    r.irqs.lock().waiting.push_back(0x40);
    assert_eq!(r.injected(), [Some(Event::interrupt(0x40))]);
    assert_eq!(r.vcpu.cpu.rflags & RF, 0);
}
