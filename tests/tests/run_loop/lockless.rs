//! Exits that touch only their own virtual CPU take no lock of the VM.

use device_model::irq::{CpuInterrupts, InterruptChips};
use hv_core::Gpa;
use hv_core::bus::Bus;
use hv_core::cpuid::Cpuid;
use hv_core::exit::{ExitReason, NestedFault, VmExit};
use hv_core::machine::{LAPIC, Topology};
use hv_core::mem::GuestMemory;
use hv_core::pvclock::PvClock;
use hv_core::regs::gpr;
use hv_core::testing::{LinearMmu, ManualClock, ScriptedCpu, VecMemory};
use hv_core::vcpu::{self, Stop, Vcpu};
use hv_core::vm::{self, Vm};
use std::sync::Arc;
use tests::rig::{CODE, RAM, host};

const TPR: u64 = 0x80;
const EOI: u64 = 0xb0;
const ICR: u64 = 0x300;

#[test]
fn accesses_to_the_own_local_apic_take_no_lock_of_the_vm() {
    let memory = Arc::new(VecMemory::new(RAM));
    let mut bus = Bus::new(memory.clone());
    let chips = InterruptChips::shared(1);
    bus.add_cpu_page(Gpa(LAPIC));
    let wakeups = chips.lock().wakeups();
    let vm = Arc::new(Vm::new(vm::Parts {
        number: 1,
        mmu: LinearMmu,
        bus,
        memory: memory.clone(),
        cpuid: Cpuid::new(host, Topology::new(1)),
        wakeups,
        scratch: None,
    }));
    let irqs = CpuInterrupts::new(&chips, 0).expect("it is there");
    let parts = vcpu::Parts {
        cpu: ScriptedCpu::default(),
        clock: ManualClock::default(),
        pvclock: PvClock::new(1_000_000_000, 0),
        irqs: Box::new(irqs),
    };
    let mut vcpu = Vcpu::new(vm.clone(), 0, parts);
    vcpu.reset(0);
    vcpu.cpu.long_mode();
    // Everything has been polled and looked up.
    assert_eq!(vcpu.run(), Stop::HostInterrupt);
    // MOV [RSI], EAX, and MOV EAX, [RSI]: to the task priority, the end of an interrupt, an interrupt to nobody.
    for (code, offset) in [
        ([0x89, 0x06], TPR),
        ([0x8b, 0x06], TPR),
        ([0x89, 0x06], EOI),
        ([0x89, 0x06], ICR),
        ([0x8b, 0x06], ICR),
    ] {
        memory.write(Gpa(CODE), &code).unwrap();
        vcpu.cpu.rip = CODE;
        vcpu.cpu.gprs.regs[gpr::RSI] = LAPIC + offset;
        vcpu.cpu
            .exit(VmExit::bare(ExitReason::NestedFault(NestedFault {
                gpa: Gpa(LAPIC + offset),
                write: code[0] == 0x89,
                fetch: false,
                present: false,
                table_walk: false,
            })));
        // Whoever takes a lock of the VM while this one is held is found out.
        let held = vm.mmu();
        assert_eq!(vcpu.run(), Stop::HostInterrupt);
        drop(held);
        assert_eq!(vcpu.cpu.rip, CODE + 2, "{code:x?} at {offset:#x}");
    }
}
