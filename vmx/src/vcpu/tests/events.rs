//! All states of events on VT-x, on a processor that keeps the SDM's rules of how a guest is entered and left.

use super::cpu;
use crate::controls::Primary;
use crate::formats::{Interruptibility, Interruption, event_type};
use crate::reason;
use crate::vmcs::Field;
use hv_core::emulate::Shadow;
use hv_core::testing::events::{Guest, Insn, Shared, Tiny, walk};
use std::collections::BTreeMap;

type Fields = BTreeMap<Field, u64>;

/// The VMCS while the guest runs.
struct Vmcs<'a>(&'a mut Fields);

impl Vmcs<'_> {
    fn get(&self, field: Field) -> u32 {
        self.0.get(&field).copied().unwrap_or(0) as u32
    }
    fn set(&mut self, field: Field, value: u32) {
        self.0.insert(field, value.into());
    }
    fn blocked(&self, by: Interruptibility) -> bool {
        self.get(Field::GUEST_INTERRUPTIBILITY) & by.bits() != 0
    }
    fn block(&mut self, by: Interruptibility, on: bool) {
        let mut state = Interruptibility::from_bits_retain(self.get(Field::GUEST_INTERRUPTIBILITY));
        state.set(by, on);
        self.set(Field::GUEST_INTERRUPTIBILITY, state.bits());
    }
    fn asks(&self, control: Primary) -> bool {
        self.get(Field::PRIMARY_CONTROLS) & control.bits() != 0
    }
}

/// From VMRESUME to the exit.
fn enter(fields: &mut Fields, guest: &mut Guest) {
    let mut vmcs = Vmcs(fields);
    let sti = vmcs.blocked(Interruptibility::STI);
    let mut cpu = Tiny {
        ip: vmcs.get(Field::GUEST_RIP) as u16,
        sp: vmcs.get(Field::GUEST_RSP) as u16,
        flags: vmcs.get(Field::GUEST_RFLAGS) as u16,
        shadow: match vmcs.blocked(Interruptibility::MOV_SS) {
            true => Shadow::MovSs,
            false if sti => Shadow::Sti,
            false => Shadow::None,
        },
    };
    vmcs.set(Field::IDT_VECTORING_INFO, 0);
    vmcs.set(Field::EXIT_QUALIFICATION, 0);
    let exit = run(&mut vmcs, guest, &mut cpu);
    vmcs.set(Field::EXIT_REASON, exit.into());
    let info = vmcs.get(Field::ENTRY_INTERRUPTION_INFO);
    vmcs.set(
        Field::ENTRY_INTERRUPTION_INFO,
        info & !Interruption::VALID.bits(),
    );
    vmcs.set(Field::GUEST_RIP, cpu.ip.into());
    vmcs.set(Field::GUEST_RSP, cpu.sp.into());
    vmcs.set(Field::GUEST_RFLAGS, cpu.flags.into());
    vmcs.block(Interruptibility::STI, cpu.shadow == Shadow::Sti);
    vmcs.block(Interruptibility::MOV_SS, cpu.shadow == Shadow::MovSs);
}

/// Runs the guest until it is left, and says for what.
fn run(vmcs: &mut Vmcs<'_>, guest: &mut Guest, cpu: &mut Tiny) -> u16 {
    let info = Interruption::from_bits_retain(vmcs.get(Field::ENTRY_INTERRUPTION_INFO));
    if info.contains(Interruption::VALID) {
        return inject(vmcs, guest, cpu, info);
    }
    // STI keeps this window from opening on some processors only (SDM vol 3C 26.2, "Other Causes of VM Exits").
    let nmi = !vmcs.blocked(Interruptibility::NMI) && cpu.shadow != Shadow::MovSs;
    if vmcs.asks(Primary::NMI_WINDOW_EXITING) && nmi {
        return reason::NMI_WINDOW;
    }
    if vmcs.asks(Primary::INTERRUPT_WINDOW_EXITING) && cpu.interruptible() {
        return reason::INTERRUPT_WINDOW;
    }
    let insn = cpu.fetch(&guest.memory);
    vmcs.set(Field::EXIT_INSTRUCTION_LENGTH, insn.length().into());
    match insn {
        Insn::Hlt => return reason::HLT,
        Insn::Cpuid => return reason::CPUID,
        Insn::Rdpmc => return reason::RDPMC,
        Insn::OutMask | Insn::OutMove => {
            let port = u32::from(insn.bytes()[1]);
            vmcs.set(Field::EXIT_QUALIFICATION, port << 16);
            return reason::IO_INSTRUCTION;
        }
        Insn::Int1 | Insn::LongInt1 if vmcs.get(Field::EXCEPTION_BITMAP) & 1 << 1 != 0 => {
            let kind = u32::from(event_type::PRIVILEGED_SOFTWARE_EXCEPTION);
            let info = Interruption::VALID.bits() | kind << 8 | 1;
            vmcs.set(Field::EXIT_INTERRUPTION_INFO, info);
            return reason::EXCEPTION_OR_NMI;
        }
        Insn::Iret => vmcs.block(Interruptibility::NMI, false),
        _ => {}
    }
    cpu.execute(&guest.memory, insn);
    guest.done = true;
    reason::EXTERNAL_INTERRUPT
}

/// SDM vol 3C 27.6.1, "Vectored-Event Injection". That the fields are allowed the backend checks itself.
fn inject(vmcs: &mut Vmcs<'_>, guest: &mut Guest, cpu: &mut Tiny, info: Interruption) -> u16 {
    let length = match info.kind() {
        event_type::SOFTWARE_INTERRUPT
        | event_type::PRIVILEGED_SOFTWARE_EXCEPTION
        | event_type::SOFTWARE_EXCEPTION => vmcs.get(Field::ENTRY_INSTRUCTION_LENGTH),
        _ => 0,
    };
    if info.kind() == event_type::HARDWARE_EXCEPTION {
        // An instruction has raised it, not the processor.
        assert!(![1, 3, 4].contains(&info.vector()));
    }
    if info.kind() == event_type::NMI {
        assert_eq!(cpu.shadow, Shadow::None);
        vmcs.block(Interruptibility::NMI, true);
    }
    if guest.disturbed() {
        vmcs.set(Field::IDT_VECTORING_INFO, info.bits());
        vmcs.set(Field::EXIT_INSTRUCTION_LENGTH, length);
        return reason::EPT_VIOLATION;
    }
    let back = cpu.ip + length as u16;
    cpu.deliver(&guest.memory, info.vector(), back);
    guest.done = true;
    reason::EXTERNAL_INTERRUPT
}

#[test]
fn events_keep_the_manuals_rules_in_all_states() {
    let (states, steps) = walk(2, |guest: Shared| {
        let mut cpu = cpu();
        cpu.check_entries = true;
        cpu.hw.guest = Some(Box::new(move |fields| {
            enter(fields, &mut guest.lock());
            Ok(())
        }));
        cpu
    });
    assert!(states > 500, "{states} states, {steps} steps");
}
