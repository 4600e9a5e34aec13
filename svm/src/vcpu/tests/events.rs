//! All states of events on AMD-V, on a processor that keeps the APM's rules of how a guest is entered and left.

use crate::asid::Asids;
use crate::exit::code;
use crate::vcpu::SvmVcpu;
use crate::vmcb::{
    INTERRUPT_SHADOW, Intercept3, Intercept4, V_INTR_VECTOR, VirtualInterrupt, Vmcb,
};
use crate::{Features, Quirks};
use hv_core::emulate::Shadow;
use hv_core::testing::events::{Guest, Insn, Shared, Tiny, walk};

const VALID: u64 = 1 << 31;
const ERROR_CODE: u64 = 1 << 11;

/// From VMRUN to #VMEXIT.
fn enter(vmcb: &mut Vmcb, guest: &mut Guest) {
    let mut cpu = Tiny {
        ip: vmcb.rip as u16,
        sp: vmcb.rsp as u16,
        flags: vmcb.rflags as u16,
        shadow: match vmcb.interrupt_shadow & INTERRUPT_SHADOW {
            0 => Shadow::None,
            _ => Shadow::MovSs,
        },
    };
    (vmcb.exit_int_info, vmcb.exit_info1, vmcb.exit_info2) = (0, 0, 0);
    vmcb.exit_code = run(vmcb, guest, &mut cpu);
    vmcb.event_injection &= !VALID;
    vmcb.rip = cpu.ip.into();
    vmcb.rsp = cpu.sp.into();
    vmcb.rflags = cpu.flags.into();
    vmcb.interrupt_shadow = u64::from(cpu.shadow != Shadow::None);
}

/// Runs the guest until it is left, and says for what.
fn run(vmcb: &mut Vmcb, guest: &mut Guest, cpu: &mut Tiny) -> u64 {
    let event = vmcb.event_injection;
    if event & VALID != 0 {
        check_injection(event, cpu);
        if guest.disturbed() {
            vmcb.exit_int_info = event;
            return code::NPF;
        }
        let back = cpu.ip;
        cpu.deliver(&guest.memory, event as u8, back);
        guest.done = true;
        return code::INTR;
    }
    let asks = |bit: VirtualInterrupt| vmcb.virtual_interrupt & bit.bits() != 0;
    let intercepts = |bit: Intercept3| vmcb.intercept3 & bit.bits() != 0;
    if asks(VirtualInterrupt::V_IRQ) && cpu.interruptible() {
        if intercepts(Intercept3::VINTR) {
            return code::VINTR;
        }
        if guest.disturbed() {
            // A physical interrupt goes first.
            return code::INTR;
        }
        let vector = (vmcb.virtual_interrupt >> V_INTR_VECTOR) as u8;
        vmcb.virtual_interrupt &= !VirtualInterrupt::V_IRQ.bits();
        let back = cpu.ip;
        cpu.deliver(&guest.memory, vector, back);
        guest.done = true;
        return code::INTR;
    }
    let insn = cpu.fetch(&guest.memory);
    let next = u64::from(cpu.ip + insn.length());
    vmcb.next_rip = next;
    match insn {
        Insn::Hlt => return code::HLT,
        Insn::Cpuid => return code::CPUID,
        Insn::Rdpmc => return code::RDPMC,
        Insn::OutMask | Insn::OutMove => {
            // Byte-sized.
            vmcb.exit_info1 = u64::from(insn.bytes()[1]) << 16 | 1 << 4;
            vmcb.exit_info2 = next;
            return code::IOIO;
        }
        Insn::Iret if intercepts(Intercept3::IRET) => return code::IRET,
        // Not an exception, as far as intercepts are concerned (APM vol 2 15.9, "Instruction Intercepts").
        Insn::Int1 | Insn::LongInt1 if vmcb.intercept4 & Intercept4::ICEBP.bits() != 0 => {
            return code::ICEBP;
        }
        _ => {}
    }
    cpu.execute(&guest.memory, insn);
    guest.done = true;
    code::INTR
}

/// What EVENTINJ may be (APM vol 2 15.20, "Event Injection") in real mode, where no exception has an error code.
fn check_injection(event: u64, cpu: &Tiny) {
    let vector = event as u8;
    assert_eq!(event & ERROR_CODE, 0, "{event:#x}");
    match event >> 8 & 7 {
        0 => assert!(cpu.interruptible(), "{event:#x}"),
        2 => assert_eq!(vector, 2),
        // INT3 and INTO, and INT1, are not exceptions to be injected so.
        3 => assert!(vector < 32 && ![1, 2, 3, 4].contains(&vector), "{event:#x}"),
        _ => panic!("{event:#x}"),
    }
}

#[test]
fn events_keep_the_manuals_rules_in_all_states() {
    for next_rip in [false, true] {
        for inject_virtual in [false, true] {
            let features = Features {
                asids: 16,
                next_rip,
                quirks: Quirks {
                    inject_virtual,
                    ..Quirks::default()
                },
                ..Features::default()
            };
            let (states, steps) = walk(2, |guest: Shared| {
                let mut cpu = SvmVcpu::with_host(features, Asids::new(2).give(), Box::default());
                cpu.fake = Some(Box::new(move |vmcb| enter(vmcb, &mut guest.lock())));
                cpu
            });
            assert!(states > 500, "{states} states, {steps} steps");
        }
    }
}
