//! A guest under a debugger: nothing of it is to be seen in the guest.

use hv_core::cpu::VcpuBackend;
use hv_core::debug::{DebugStop, Point, PointKind};
use hv_core::event::EventKind;
use hv_core::exit::{ExitReason, NestedFault, VmExit};
use hv_core::mem::GuestMemory;
use hv_core::mmu::View;
use hv_core::regs::gpr::{RAX, RBX, RCX, RDI, RDX, RSP};
use hv_core::regs::{SegReg, SysReg};
use hv_core::testing::Random;
use hv_core::vcpu::{Activity, Stop};
use hv_core::{Gpa, Gva, VmTime};
use tests::rig::{CODE, PORT, Rig};

const IF: u64 = 1 << 9;
const TF: u64 = 1 << 8;
/// The stack of the tests.
const STACK: u64 = 0x8000;
const NOP: u8 = 0x90;

/// A machine with `code`, and a stack.
fn machine(code: &[u8]) -> Rig {
    let mut r = Rig::new().code(code);
    r.set(&[(RSP, STACK)]);
    r
}

/// One step, after which the guest's TF is what it was unless the instruction has changed it.
fn step(r: &mut Rig) {
    r.vcpu.debug(true, &[]);
    assert_eq!(r.run(), Stop::Debug(DebugStop::Step));
    r.vcpu.stop_debugging();
    assert!(r.entries().is_empty(), "the hardware was left alone");
}

fn point(kind: PointKind, at: u64) -> Point {
    Point {
        kind,
        at: Gva(at),
        len: 4,
    }
}

/// The guest is left for an instruction fetch, or a write, at `gpa`.
fn fault(r: &mut Rig, gpa: u64, write: bool) {
    r.bare(ExitReason::NestedFault(NestedFault {
        gpa: Gpa(gpa),
        write,
        fetch: !write,
        present: true,
        table_walk: false,
    }));
}

#[test]
fn a_step_is_one_instruction_and_pushf_shows_no_trap_flag() {
    // pushf; pop rax; push rax; popf
    let mut r = machine(&[0x9c, 0x58, 0x50, 0x9d]);
    for n in 1..=4 {
        step(&mut r);
        assert_eq!(r.vcpu.cpu.rip, CODE + n);
        assert_eq!(r.vcpu.cpu.rflags(), IF | 2);
    }
    assert_eq!(r.reg(RAX), IF | 2);
}

#[test]
fn a_step_over_syscall_enters_the_handler_with_the_flags_that_the_mask_leaves() {
    let mut r = machine(&[0x0f, 0x05]);
    let efer = r.vcpu.cpu.sysreg(SysReg::Efer);
    r.vcpu.cpu.set_sysreg(SysReg::Efer, efer | 1);
    r.vcpu.cpu.set_sysreg(SysReg::Lstar, 0x3000);
    r.vcpu.cpu.set_sysreg(SysReg::Sfmask, IF);
    step(&mut r);
    assert_eq!(r.vcpu.cpu.rip, 0x3000);
    assert_eq!(r.vcpu.cpu.rflags(), 2);
    assert_eq!(r.reg(RCX), CODE + 2);
    assert_eq!(r.reg(hv_core::regs::gpr::R8 + 3), IF | 2, "R11");
}

#[test]
fn each_step_under_a_shadow_is_one_instruction() {
    // mov ss, eax; nop; sti; nop
    let mut r = machine(&[0x8e, 0xd0, NOP, 0xfb, NOP]);
    r.vcpu.cpu.set_rflags(2);
    r.irqs.lock().waiting.push_back(0x31);
    for (rip, shadow) in [(2, true), (3, false), (4, true), (5, false)] {
        step(&mut r);
        assert_eq!(r.vcpu.cpu.rip, CODE + rip);
        assert_eq!(r.vcpu.cpu.interrupt_shadow(), shadow, "{rip}");
    }
}

#[test]
fn what_is_due_comes_first_and_is_a_step_of_its_own() {
    let mut r = machine(&[NOP]);
    // A gate for vector 31h: code selector 8, offset 4000h, interrupt gate.
    let idt = 0x6000;
    let mut gate = [0; 16];
    (gate[1], gate[2], gate[5]) = (0x40, 8, 0x8e);
    r.memory.write(Gpa(idt + 16 * 0x31), &gate).unwrap();
    let gdt = 0x5000;
    r.memory
        .write(Gpa(gdt + 8), &0x0020_9b00_0000_0000u64.to_le_bytes())
        .unwrap();
    for (table, base) in [(SegReg::Idtr, idt), (SegReg::Gdtr, gdt)] {
        let mut segment = r.vcpu.cpu.segment(table);
        (segment.base, segment.limit) = (base, 0xfff);
        r.vcpu.cpu.set_segment(table, segment);
    }
    // IRET takes a null SS at CPL 0.
    let mut ss = r.vcpu.cpu.segment(SegReg::Ss);
    ss.selector = 0;
    r.vcpu.cpu.set_segment(SegReg::Ss, ss);
    r.irqs.lock().waiting.push_back(0x31);
    step(&mut r);
    assert_eq!(r.vcpu.cpu.rip, 0x4000);
    assert_eq!(r.vcpu.cpu.rflags() & (IF | TF), 0);
    let frame = r.reg(RSP);
    assert_eq!(r.memory.read_u64(Gpa(frame)), Ok(CODE), "RIP");
    assert_eq!(r.memory.read_u64(Gpa(frame + 16)), Ok(IF | 2), "RFLAGS");
    // IRET leads back.
    r.memory.write(Gpa(0x4000), &[0x48, 0xcf]).unwrap();
    step(&mut r);
    assert_eq!((r.vcpu.cpu.rip, r.vcpu.cpu.rflags()), (CODE, IF | 2));
}

#[test]
fn instructions_that_leave_the_guest_are_steps_like_others() {
    let [low, high] = PORT.to_le_bytes();
    // mov dx, PORT; out dx, eax; cpuid; vmmcall; pause; hlt
    let code = [
        0x66, 0xba, low, high, 0xef, 0x0f, 0xa2, 0x0f, 0x01, 0xd9, 0xf3, 0x90, 0xf4,
    ];
    let mut r = machine(&code);
    for rip in [4, 5, 7, 10, 12, 13] {
        step(&mut r);
        assert_eq!(r.vcpu.cpu.rip, CODE + rip);
    }
    assert_eq!(r.vcpu.activity(), Activity::Halted);
    assert_eq!(r.log().len(), 1);
    // Nothing is done until something wakes it.
    r.vcpu.debug(true, &[]);
    assert_eq!(r.run(), Stop::Idle(VmTime::NEVER));
}

#[test]
fn a_breakpoint_is_no_byte_and_what_lies_before_it_in_its_page_is_done() {
    // mov al, [rdi]; inc ebx; inc ebx
    let mut r = machine(&[0x8a, 0x07, 0xff, 0xc3, 0xff, 0xc3]);
    r.set(&[(RDI, CODE + 4)]);
    r.vcpu.debug(false, &[point(PointKind::Execute, CODE + 4)]);
    fault(&mut r, CODE, false);
    assert_eq!(r.run(), Stop::Debug(DebugStop::Breakpoint));
    let watched = r.vcpu.vm.mmu().watched.clone();
    assert_eq!(watched, [(Gpa(CODE), View::Nothing)]);
    assert_eq!(r.vcpu.cpu.rip, CODE + 4);
    assert_eq!(r.reg(RAX), 0xff, "the guest's own byte");
    assert_eq!(r.reg(RBX), 1);
    // It is still there: the guest does not pass it without a step.
    assert_eq!(r.entries().len(), 1);
    fault(&mut r, CODE, false);
    assert_eq!(r.run(), Stop::Debug(DebugStop::Breakpoint));
    step_over(&mut r);
    assert_eq!((r.vcpu.cpu.rip, r.reg(RBX)), (CODE + 6, 2));
}

/// A step that is not the first thing that happened.
fn step_over(r: &mut Rig) {
    r.vcpu.debug(true, &[]);
    assert_eq!(r.run(), Stop::Debug(DebugStop::Step));
}

#[test]
fn a_breakpoint_where_no_tables_lead_is_looked_for_before_each_entry() {
    let mut r = machine(&[NOP]);
    r.vcpu.vm.mmu().missing.push(0x9);
    r.vcpu.debug(false, &[point(PointKind::Execute, 0x9000)]);
    assert_eq!(r.run(), Stop::HostInterrupt);
    assert!(r.vcpu.vm.mmu().watched.is_empty());
    r.vcpu.vm.mmu().missing.clear();
    assert_eq!(r.run(), Stop::HostInterrupt);
    assert_eq!(
        r.vcpu.vm.mmu().watched.clone(),
        [(Gpa(0x9000), View::Nothing)]
    );
}

#[test]
fn a_watchpoint_stops_behind_what_has_changed_it() {
    // mov [rdi], eax, with what is there; then with something else.
    let mut r = machine(&[0x89, 0x07, 0x89, 0x1f]);
    r.set(&[(RDI, 0x9000), (RBX, 5)]);
    r.vcpu.debug(false, &[point(PointKind::Write, 0x9000)]);
    fault(&mut r, 0x9000, true);
    assert_eq!(r.run(), Stop::HostInterrupt, "nothing has changed");
    assert_eq!(
        r.vcpu.vm.mmu().watched.clone(),
        [(Gpa(0x9000), View::ReadOnly)]
    );
    fault(&mut r, 0x9000, true);
    let stop = DebugStop::Watchpoint(point(PointKind::Write, 0x9000));
    assert_eq!(r.run(), Stop::Debug(stop));
    assert_eq!(r.vcpu.cpu.rip, CODE + 4);
}

#[test]
fn what_the_emulator_lacks_is_stepped_over_by_the_hardware_with_a_trap_flag_that_goes_again() {
    // fsqrt, for which the rig has no CPU.
    let mut r = machine(&[0xd9, 0xfa, NOP]);
    r.vcpu.cpu.play(|cpu| {
        assert_ne!(cpu.rflags & TF, 0);
        cpu.rip += 2;
        cpu.set_sysreg(SysReg::Dr6, 0xffff_4ff0);
        VmExit::bare(ExitReason::Exception {
            kind: EventKind::Exception,
            vector: 1,
            error: 0,
            payload: 1 << 14,
            insn_len: 0,
        })
    });
    r.vcpu.cpu.set_sysreg(SysReg::Dr6, 0xffff_0ff0);
    step_over(&mut r);
    assert_eq!(r.vcpu.cpu.rip, CODE + 2);
    assert_eq!(r.vcpu.cpu.rflags(), IF | 2);
    assert_eq!(r.vcpu.cpu.sysreg(SysReg::Dr6), 0xffff_0ff0);
    assert_eq!(r.entries().len(), 1);
    step_over(&mut r);
    assert_eq!(r.vcpu.cpu.rip, CODE + 3);
    // A fault in its place is the guest's, and the flag is not in its frame.
    let mut r = machine(&[0xd9, 0xfa]);
    r.bare(ExitReason::Exception {
        kind: EventKind::Exception,
        vector: 14,
        error: 4,
        payload: 0x7000,
        insn_len: 0,
    });
    r.vcpu.debug(true, &[]);
    // There is no gate for it.
    assert_eq!(r.run(), Stop::TripleFault);
    assert_eq!(r.vcpu.cpu.sysreg(SysReg::Cr2), 0x7000);
    assert_eq!(r.vcpu.cpu.rflags() & TF, 0);
}

#[test]
fn the_bases_of_fs_and_gs_are_registers_in_software_too() {
    // wrmsr; rdmsr
    for (msr, seg) in [(0xc000_0100, SegReg::Fs), (0xc000_0101, SegReg::Gs)] {
        let mut r = machine(&[0x0f, 0x30, 0x0f, 0x32]);
        let high = 0xffff_8880;
        r.set(&[(RCX, msr), (RAX, 0x1234), (RDX, high)]);
        step(&mut r);
        assert_eq!(r.vcpu.cpu.rip, CODE + 2);
        assert_eq!(r.vcpu.cpu.segment(seg).base, high << 32 | 0x1234);
        r.set(&[(RAX, 0), (RDX, 0)]);
        step(&mut r);
        assert_eq!((r.reg(RAX), r.reg(RDX)), (0x1234, high));
        // No canonical address: #GP, for which there is no gate.
        r.set(&[(RDX, 0x80_0000)]);
        r.vcpu.cpu.rip = CODE;
        r.vcpu.debug(true, &[]);
        assert_eq!(r.run(), Stop::TripleFault);
    }
}

#[test]
fn a_page_that_nobody_watches_is_the_bus_s_as_ever() {
    // mov eax, [rdi] from the probe.
    let mut r = machine(&[0x8b, 0x07]);
    r.set(&[(RDI, tests::rig::MMIO)]);
    r.vcpu.debug(false, &[point(PointKind::Execute, 0x9000)]);
    fault(&mut r, tests::rig::MMIO, false);
    assert_eq!(r.run(), Stop::HostInterrupt);
    assert_eq!(r.log().len(), 1);
}

#[test]
fn registers_that_a_debugger_sets_are_those_that_a_guest_could_have() {
    let mut r = machine(&[NOP]);
    let mut try_system = |n: usize, value| {
        let mut registers = r.vcpu.registers();
        registers.system[n] = value;
        r.vcpu.set_registers(&registers)
    };
    let at = |reg| {
        hv_core::debug::SYSTEM
            .iter()
            .position(|&r| r == reg)
            .unwrap()
    };
    assert!(try_system(at(SysReg::Cr0), 1 << 31).is_err());
    assert!(try_system(at(SysReg::Lstar), 1 << 60).is_err());
    assert!(try_system(at(SysReg::Cr2), 5).is_ok());
    assert!(try_system(at(SysReg::Dr7), 5).is_ok());
    let mut registers = r.vcpu.registers();
    assert_eq!(registers.system[at(SysReg::Dr7)], 0x405);
    registers.rip = 1 << 50;
    assert!(r.vcpu.set_registers(&registers).is_err());
    registers.rip = 0x2000;
    registers.gprs.regs[RAX] = 7;
    registers.segments[SegReg::Gs as usize].base = 0x1234;
    assert!(r.vcpu.set_registers(&registers).is_ok());
    assert_eq!((r.vcpu.cpu.rip, r.reg(RAX)), (0x2000, 7));
    assert_eq!(r.vcpu.cpu.segment(SegReg::Gs).base, 0x1234);
    registers.segments[SegReg::Cs as usize].selector ^= 8;
    assert!(r.vcpu.set_registers(&registers).is_err());
}

#[test]
fn any_registers_are_set_or_refused() {
    let mut random = Random::from_env("UMBRA_SEED", 3);
    let mut r = machine(&[NOP]);
    for _ in 0..2000 {
        let mut registers = r.vcpu.registers();
        registers.system.iter_mut().for_each(|reg| {
            if random.below(8) == 0 {
                *reg = random.next() >> random.below(64);
            }
        });
        registers.rip = random.next() >> random.below(64);
        registers.rflags = random.next();
        registers.cr8 = random.below(20);
        for segment in &mut registers.segments {
            if random.below(8) == 0 {
                segment.base = random.next();
            }
        }
        let _ = r.vcpu.set_registers(&registers);
        let mut bytes = [0; 300];
        let at = Gva(random.next() >> random.below(64));
        let n = r.vcpu.read_linear(at, &mut bytes);
        assert!(n <= bytes.len());
    }
}
