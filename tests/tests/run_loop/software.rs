//! A guest that the hardware cannot run: here in real mode, on a CPU that needs protected mode.

use hv_core::cpu::VcpuBackend;
use hv_core::emulate::Shadow;
use hv_core::event::{Event, vector};
use hv_core::exit::{ExitReason, NestedFault, VmExit};
use hv_core::mem::GuestMemory;
use hv_core::regs::gpr::{RAX, RBX, RCX, RSP};
use hv_core::regs::{SegReg, Segment, SysReg};
use hv_core::vcpu::Stop;
use hv_core::{Gpa, VmTime};
use tests::rig::{Access, CODE, PORT, Rig};

const IF: u64 = 1 << 9;
const TF: u64 = 1 << 8;
const CLI: u8 = 0xfa;
const STI: u8 = 0xfb;
const HLT: u8 = 0xf4;
const NOP: u8 = 0x90;
const IRET: u8 = 0xcf;
const INC_AX: u8 = 0x40;
const INC_BX: u8 = 0x43;
const INC_CX: u8 = 0x41;
/// The stack of the tests.
const STACK: u64 = 0x8000;
/// Where handlers are.
const HANDLER: u64 = 0x2000;

/// A machine in real mode with `code`, in which vectors have handlers.
fn real(code: &[u8], handlers: &[(u8, &[u8])]) -> Rig {
    let mut r = Rig::new();
    r.vcpu.cpu.reset();
    r.vcpu.cpu.flat_real_mode();
    r.vcpu.cpu.can_run = |cpu| cpu.sysreg(SysReg::Cr0) & 1 != 0;
    let mut r = r.code_at(CODE, code);
    r.set(&[(RSP, STACK)]);
    for (vector, code) in handlers {
        let at = HANDLER + 0x100 * u64::from(*vector);
        r.memory.write(Gpa(at), code).unwrap();
        let entry = (at as u32).to_le_bytes();
        r.memory.write(Gpa(4 * u64::from(*vector)), &entry).unwrap();
    }
    r
}

/// Runs until the guest has halted for good.
fn run_to_halt(r: &mut Rig) {
    assert_eq!(r.run(), Stop::Idle(VmTime::NEVER));
    assert!(r.entries().is_empty(), "the hardware was left alone");
}

#[test]
fn event_that_the_hardware_cannot_deliver_is_delivered_in_software() {
    let mut r = real(&[NOP], &[(0x31, &[HLT])]);
    r.vcpu.cpu.can_run = |_| true;
    r.vcpu.cpu.set_rflags(IF | 2);
    let fault = NestedFault {
        gpa: Gpa(0xfee0_0000),
        write: true,
        fetch: false,
        present: false,
        table_walk: false,
    };
    r.vcpu.cpu.exit(VmExit {
        vectoring: Some(Event::interrupt(0x31)),
        ..VmExit::bare(ExitReason::NestedFault(fault))
    });
    assert_eq!(r.run(), Stop::HostInterrupt);
    assert_eq!(r.vcpu.cpu.rip(), HANDLER + 0x3100);
    assert_eq!(r.vcpu.cpu.rflags() & IF, 0);
    assert_eq!(r.vcpu.cpu.gprs().regs[RSP], STACK - 6);
    assert_eq!(r.memory.read_u16(Gpa(STACK - 6)), Ok(CODE as u16));
    let injected: Vec<_> = r.entries().iter().filter_map(|e| e.inject).collect();
    assert_eq!(injected, [], "nothing is left to be injected");
}

#[test]
fn the_guest_runs_in_software_until_it_halts() {
    // mov ax, 0x1234; mov dx, PORT; out dx, ax; hlt
    let [low, high] = PORT.to_le_bytes();
    let mut r = real(&[0xb8, 0x34, 0x12, 0xba, low, high, 0xef, HLT], &[]);
    run_to_halt(&mut r);
    let out = Access::Out {
        port: PORT,
        size: 2,
        value: 0x1234,
    };
    assert_eq!(r.log(), [out]);
    assert_eq!(r.vcpu.cpu.rip, CODE + 8);
    assert_eq!(r.vcpu.stats.software_instructions, 4);
    assert_eq!(r.vcpu.stats.emulated, 0);
}

#[test]
fn the_hardware_takes_over_as_soon_as_it_can() {
    // mov cr0, eax with PE; the script then leaves for a host interrupt.
    let mut r = real(&[0x0f, 0x22, 0xc0, NOP, NOP], &[]);
    r.set(&[(RAX, 0x11)]);
    assert_eq!(r.run(), Stop::HostInterrupt);
    assert_eq!(r.entries().len(), 1);
    assert_eq!(r.vcpu.cpu.sysreg(SysReg::Cr0), 0x11);
}

#[test]
fn what_the_emulator_cannot_do_is_left_to_hardware_that_can() {
    // mov cr0, eax; fsqrt
    let mut r = real(&[0x0f, 0x22, 0xc0, 0xd9, 0xfa], &[]);
    r.set(&[(RAX, 0x11)]);
    assert_eq!(r.run(), Stop::HostInterrupt);
    assert_eq!(r.vcpu.cpu.rip, CODE + 3);
    let mut r = real(&[0xd9, 0xfa], &[(vector::UD, &[HLT])]);
    run_to_halt(&mut r);
    assert_eq!(r.vcpu.cpu.rip, HANDLER + 0x601);
}

#[test]
fn host_interrupts_are_let_in_while_the_guest_loops() {
    let mut r = real(&[0xeb, 0xfe], &[]);
    assert_eq!(r.run(), Stop::HostInterrupt);
    let first = r.vcpu.stats.software_instructions;
    assert_eq!(r.run(), Stop::HostInterrupt);
    assert_eq!(r.vcpu.stats.software_instructions, 2 * first);
    assert!(r.entries().is_empty());
}

#[test]
fn interrupt_is_delivered_through_the_vector_table() {
    let mut r = real(&[NOP, INC_BX, HLT], &[(0x20, &[INC_AX, IRET])]);
    r.vcpu.cpu.rflags |= IF;
    r.irqs.lock().waiting.push_back(0x20);
    run_to_halt(&mut r);
    assert_eq!((r.reg(RAX), r.reg(RBX)), (1, 1));
    assert_eq!(r.reg(RSP), STACK);
    assert_eq!(r.irqs.lock().acknowledged, [0x20]);
    assert_eq!(r.vcpu.stats.injected, [0, 1, 0, 0]);
}

#[test]
fn interrupt_waits_for_the_instruction_behind_sti() {
    // The handler sees that INC BX has been executed, and INC CX not.
    let handler = [0x93, IRET]; // xchg ax, bx
    let mut r = real(&[NOP, STI, INC_BX, INC_CX, HLT], &[(0x20, &handler)]);
    r.irqs.lock().waiting.push_back(0x20);
    run_to_halt(&mut r);
    assert_eq!((r.reg(RAX), r.reg(RBX), r.reg(RCX)), (1, 0, 1));
    let mut frame = [0; 2];
    r.memory.read(Gpa(STACK - 6), &mut frame).unwrap();
    assert_eq!(u64::from(u16::from_le_bytes(frame)), CODE + 3);
}

#[test]
fn interrupt_waits_for_the_instruction_behind_a_load_of_ss() {
    // mov ss, ax; mov sp, bx: the frame lies on the new stack.
    let mut r = real(&[0x8e, 0xd0, 0x89, 0xdc, HLT], &[(0x20, &[IRET])]);
    r.vcpu.cpu.rflags |= IF;
    r.vcpu.cpu.set_interrupt_shadow(Shadow::MovSs);
    r.set(&[(RBX, 0x7000)]);
    r.irqs.lock().waiting.push_back(0x20);
    run_to_halt(&mut r);
    let mut frame = [0; 2];
    r.memory.read(Gpa(0x7000 - 6), &mut frame).unwrap();
    assert_eq!(u64::from(u16::from_le_bytes(frame)), CODE + 4);
}

#[test]
fn interrupt_ends_hlt_and_returns_behind_it() {
    let mut r = real(&[STI, HLT, INC_BX, CLI, HLT], &[(0x20, &[INC_AX, IRET])]);
    assert_eq!(r.run(), Stop::Idle(VmTime::NEVER));
    assert_eq!(r.reg(RBX), 0);
    r.irqs.lock().waiting.push_back(0x20);
    run_to_halt(&mut r);
    assert_eq!((r.reg(RAX), r.reg(RBX)), (1, 1));
}

#[test]
fn interrupt_that_a_device_access_raises_comes_at_the_next_instruction() {
    let mut r = real(
        &[0xee, INC_BX, NOP, HLT], // out dx, al
        &[(0x20, &[0x93, IRET])],  // xchg ax, bx
    );
    r.vcpu.cpu.rflags |= IF;
    r.set(&[(2, PORT.into())]);
    r.probe.lock().wake = Some(VmTime(0));
    let irqs = r.irqs.clone();
    r.probe.lock().on_poll = Some(Box::new(move || irqs.lock().waiting.push_back(0x20)));
    run_to_halt(&mut r);
    assert_eq!((r.reg(RAX), r.reg(RBX)), (0, 1));
}

#[test]
fn device_is_told_the_time_of_the_access() {
    // in al, dx; in al, dx; hlt: the first access takes 300 ns.
    let mut r = real(&[0xec, 0xec, HLT], &[]);
    r.set(&[(2, PORT.into())]);
    r.probe.lock().cost = 300;
    r.clock.pass(50);
    r.vcpu.resume();
    r.clock.pass(50);
    r.probe.lock().times.clear();
    run_to_halt(&mut r);
    assert_eq!(r.probe.lock().times, [VmTime(100), VmTime(400)]);
}

#[test]
fn exception_goes_through_the_vector_table_with_rip_on_the_instruction() {
    // ud2; the handler skips it.
    let skip = [0x89, 0xe5, 0x83, 0x46, 0x00, 0x02, IRET]; // mov bp, sp; add word [bp], 2; iret
    let mut r = real(&[0x0f, 0x0b, INC_BX, HLT], &[(vector::UD, &skip)]);
    run_to_halt(&mut r);
    assert_eq!((r.reg(RBX), r.reg(RSP)), (1, STACK));
    assert_eq!(r.vcpu.stats.injected, [1, 0, 0, 0]);
}

#[test]
fn vector_beyond_the_table_is_gp_and_gp_beyond_it_a_double_fault() {
    let table = |r: &mut Rig, limit| {
        let idtr = Segment {
            limit,
            ..Segment::default()
        };
        r.vcpu.cpu.set_segment(SegReg::Idtr, idtr);
    };
    // INT 80h with a table of 14 vectors, then of 9, then of none.
    let handlers: [(u8, &[u8]); 2] = [(vector::GP, &[INC_AX, HLT]), (vector::DF, &[INC_BX, HLT])];
    let mut r = real(&[0xcd, 0x80], &handlers);
    table(&mut r, 4 * 14 - 1);
    run_to_halt(&mut r);
    assert_eq!((r.reg(RAX), r.reg(RBX)), (1, 0));
    let mut r = real(&[0xcd, 0x80], &handlers);
    table(&mut r, 4 * 9 - 1);
    run_to_halt(&mut r);
    assert_eq!((r.reg(RAX), r.reg(RBX)), (0, 1));
    let mut r = real(&[0xcd, 0x80], &handlers);
    table(&mut r, 0);
    assert_eq!(r.run(), Stop::TripleFault);
}

#[test]
fn interrupt_beyond_the_table_is_lost_and_gp_comes_instead() {
    let mut r = real(&[NOP, HLT], &[(vector::GP, &[INC_AX, IRET])]);
    let idtr = Segment {
        limit: 4 * 14 - 1,
        ..Segment::default()
    };
    r.vcpu.cpu.set_segment(SegReg::Idtr, idtr);
    r.vcpu.cpu.rflags |= IF;
    r.irqs.lock().waiting.push_back(0x20);
    run_to_halt(&mut r);
    assert_eq!((r.reg(RAX), r.reg(RSP)), (1, STACK));
}

#[test]
fn nmi_is_blocked_until_iret() {
    // out dx, al: the device raises another NMI, once; inc ax; iret
    let mut r = real(&[NOP, INC_BX, HLT], &[(2, &[0xee, INC_AX, IRET])]);
    r.set(&[(2, PORT.into())]);
    r.irqs.lock().nmi = true;
    r.vcpu.vm.bus().poll(VmTime(0));
    r.probe.lock().wake = Some(VmTime(0));
    let irqs = r.irqs.clone();
    r.probe.lock().on_poll = Some(Box::new(move || irqs.lock().nmi = true));
    run_to_halt(&mut r);
    assert_eq!((r.reg(RAX), r.reg(RBX), r.reg(RSP)), (2, 1, STACK));
    let mut nested = [0; 6];
    r.memory.read(Gpa(STACK - 12), &mut nested).unwrap();
    assert_eq!(
        nested, [0; 6],
        "the second came when the first had returned"
    );
}

#[test]
fn single_step_traps_after_each_instruction() {
    // The handler counts and returns; POPF with TF starts it: nop; nop; popf without TF ends it.
    let code = [NOP, NOP, 0x9d, NOP, HLT];
    let mut r = real(&code, &[(vector::DB, &[INC_AX, IRET])]);
    r.vcpu.cpu.rflags |= TF;
    r.memory.write(Gpa(STACK), &[2, 0]).unwrap();
    run_to_halt(&mut r);
    assert_eq!(r.reg(RAX), 3, "after NOP, NOP and POPF");
    assert_ne!(r.vcpu.cpu.sysreg(SysReg::Dr6) & 1 << 14, 0);
}

#[test]
fn emulated_sti_shadows_the_next_instruction_on_hardware_too() {
    let mut r = Rig::new().code(&[STI, NOP]);
    r.vcpu.cpu.rflags = 2;
    r.bare(ExitReason::DescriptorTable(SegReg::Gdtr));
    r.irqs.lock().waiting.push_back(0x20);
    let entries = r.injected();
    assert_eq!(entries, [None, None], "no interrupt in the shadow");
    assert!(r.vcpu.cpu.shadow && r.entries()[1].irq_window);
}

#[test]
fn code_that_changes_is_decoded_again() {
    // inc ax; mov byte [CODE], "inc bx"; loop CODE; hlt
    let code = [INC_AX, 0xc6, 0x06, 0x00, 0x10, INC_BX, 0xe2, 0xf8, HLT];
    let mut r = real(&code, &[]);
    r.set(&[(RCX, 3)]);
    run_to_halt(&mut r);
    assert_eq!((r.reg(RAX), r.reg(RBX)), (1, 2));
}

#[test]
fn instruction_across_two_pages_is_whole_when_the_second_changes() {
    // 0x0ffe: mov ax, imm16, whose last byte lies on the next page; mov byte [0x1000], 2; loop; hlt
    let code = [
        0xb8, 0x34, 0x01, 0xc6, 0x06, 0x00, 0x10, 0x02, 0xe2, 0xf6, HLT,
    ];
    let mut r = real(&[], &[]).code_at(0xffe, &code);
    r.set(&[(RCX, 2)]);
    run_to_halt(&mut r);
    assert_eq!(r.reg(RAX), 0x234);
}
