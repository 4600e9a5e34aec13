//! From exit codes to [`VmExit`] (APM vol 2 appendix C, "SVM Intercept Exit Codes").

use crate::Features;
use crate::vmcb::Vmcb;
use hv_core::device::AccessSize;
use hv_core::event::{Event, EventKind, vector};
use hv_core::exit::{ExitReason, NestedFault, PortIo, RegAccess, VmExit};
use hv_core::regs::SegReg;
use hv_core::{Gpa, Gva};

/// Exit codes by the manual's names, without the `VMEXIT_`.
#[allow(missing_docs)]
pub mod code {
    pub const CR0_READ: u64 = 0x00;
    pub const CR15_WRITE: u64 = 0x1f;
    pub const DR0_READ: u64 = 0x20;
    pub const DR15_WRITE: u64 = 0x3f;
    pub const EXCP0: u64 = 0x40;
    pub const EXCP31: u64 = 0x5f;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const SMI: u64 = 0x62;
    pub const INIT: u64 = 0x63;
    pub const VINTR: u64 = 0x64;
    pub const CR0_SEL_WRITE: u64 = 0x65;
    pub const IDTR_READ: u64 = 0x66;
    pub const GDTR_READ: u64 = 0x67;
    pub const LDTR_READ: u64 = 0x68;
    pub const TR_READ: u64 = 0x69;
    pub const IDTR_WRITE: u64 = 0x6a;
    pub const GDTR_WRITE: u64 = 0x6b;
    pub const LDTR_WRITE: u64 = 0x6c;
    pub const TR_WRITE: u64 = 0x6d;
    pub const RDTSC: u64 = 0x6e;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const RSM: u64 = 0x73;
    pub const IRET: u64 = 0x74;
    pub const INVD: u64 = 0x76;
    pub const PAUSE: u64 = 0x77;
    pub const HLT: u64 = 0x78;
    pub const INVLPG: u64 = 0x79;
    pub const INVLPGA: u64 = 0x7a;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const TASK_SWITCH: u64 = 0x7d;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const VMLOAD: u64 = 0x82;
    pub const SKINIT: u64 = 0x86;
    pub const RDTSCP: u64 = 0x87;
    pub const ICEBP: u64 = 0x88;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT_CONDITIONAL: u64 = 0x8c;
    pub const XSETBV: u64 = 0x8d;
    pub const RDPRU: u64 = 0x8e;
    pub const INVLPGB: u64 = 0xa0;
    pub const TLBSYNC: u64 = 0xa4;
    pub const NPF: u64 = 0x400;
    /// VMEXIT_INVALID; QEMU stores only the low half, so only that is compared.
    pub const INVALID_LOW: u32 = 0xffff_ffff;
}

/// Bits of EXITINFO1 of a nested page fault (APM vol 2 15.25.6, "Nested versus Guest Page Faults, Fault Ordering").
mod npf {
    pub const PRESENT: u64 = 1 << 0;
    pub const WRITE: u64 = 1 << 1;
    pub const FETCH: u64 = 1 << 4;
    pub const TABLE_WALK: u64 = 1 << 33;
}

/// Bits of EXITINFO1 of an I/O intercept (APM vol 2 15.10.2, "IN and OUT Behavior").
mod ioio {
    pub const IN: u64 = 1 << 0;
    pub const STRING: u64 = 1 << 2;
    pub const REP: u64 = 1 << 3;
    pub const ADDRESS_16: u64 = 1 << 7;
    pub const ADDRESS_32: u64 = 1 << 8;
    pub const ADDRESS_64: u64 = 1 << 9;
    pub const ADDRESS: u64 = 7 << 7;
    pub const SIZE_8: u64 = 1 << 4;
    pub const SIZE_16: u64 = 1 << 5;
}

/// A bit of EXITINFO2 of a task switch: the new task is given an error code (APM vol 2 15.14.1, "Task Switch Intercept").
const TASK_HAS_ERROR_CODE: u64 = 1 << 44;

/// Decodes why the guest was left. Pure: everything is in the control block.
#[must_use]
#[inline(always)]
pub fn decode(vmcb: &Vmcb, features: &Features) -> VmExit {
    let (code, info1, info2) = (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2);
    let mut next_rip = (features.next_rip && vmcb.next_rip != 0).then_some(vmcb.next_rip);
    let reason = match code {
        _ if code as u32 == code::INVALID_LOW => ExitReason::EntryFailed,
        code::CPUID => ExitReason::Cpuid,
        code::IOIO => {
            // The I/O intercept tells the next RIP on every CPU.
            next_rip = Some(info2);
            let io = port_io(info1);
            if info1 & ioio::STRING != 0 {
                ExitReason::StringIo(io)
            } else {
                ExitReason::PortIo(io)
            }
        }
        code::NPF => ExitReason::NestedFault(NestedFault {
            gpa: Gpa(info2),
            write: info1 & npf::WRITE != 0,
            fetch: info1 & npf::FETCH != 0,
            present: info1 & npf::PRESENT != 0,
            table_walk: info1 & npf::TABLE_WALK != 0,
        }),
        code::INTR => ExitReason::ExternalInterrupt,
        code::HLT => ExitReason::Hlt,
        code::MSR if info1 & 1 != 0 => ExitReason::Wrmsr,
        code::MSR => ExitReason::Rdmsr,
        code::VINTR => ExitReason::InterruptWindow,
        code::CR0_READ..=code::CR15_WRITE => control_register(code, info1, features),
        code::DR0_READ..=code::DR15_WRITE => ExitReason::DrAccess(register(code, info1)),
        code::EXCP0..=code::EXCP31 => {
            let vector = (code - code::EXCP0) as u8;
            let payload = match vector {
                vector::PF => info2,
                vector::DB => vmcb.dr6,
                _ => 0,
            };
            let kind = match vector {
                vector::BP | vector::OF => EventKind::SoftwareException,
                _ => EventKind::Exception,
            };
            exception(kind, vector, info1 as u32, payload)
        }
        code::ICEBP => exception(EventKind::PrivilegedSoftwareException, vector::DB, 0, 0),
        code::NMI => ExitReason::Nmi,
        code::SMI | code::INIT => ExitReason::Init,
        // MOV, whose register is not told, or LMSW.
        code::CR0_SEL_WRITE => ExitReason::CrAccess(RegAccess {
            number: 0,
            write: true,
            gpr: None,
        }),
        code::IDTR_READ | code::IDTR_WRITE => ExitReason::DescriptorTable(SegReg::Idtr),
        code::GDTR_READ | code::GDTR_WRITE => ExitReason::DescriptorTable(SegReg::Gdtr),
        code::LDTR_READ | code::LDTR_WRITE => ExitReason::DescriptorTable(SegReg::Ldtr),
        code::TR_READ | code::TR_WRITE => ExitReason::DescriptorTable(SegReg::Tr),
        code::RDTSC => ExitReason::Rdtsc,
        code::RDTSCP => ExitReason::Rdtscp,
        code::RDPMC => ExitReason::Rdpmc,
        code::IRET => ExitReason::Iret,
        code::INVD => ExitReason::Invd,
        code::WBINVD => ExitReason::Wbinvd,
        code::PAUSE => ExitReason::Pause,
        code::INVLPG => ExitReason::Invlpg(None::<Gva>),
        code::TASK_SWITCH => ExitReason::TaskSwitch,
        code::SHUTDOWN => ExitReason::Shutdown,
        code::VMMCALL => ExitReason::Hypercall,
        code::XSETBV => ExitReason::Xsetbv,
        code::RSM | code::INVLPGA | code::VMRUN => ExitReason::Undefined,
        code::INVLPGB..=code::TLBSYNC => ExitReason::Undefined,
        code::VMLOAD..=code::SKINIT | code::MONITOR..=code::MWAIT_CONDITIONAL | code::RDPRU => {
            ExitReason::Undefined
        }
        _ => ExitReason::Unknown(code),
    };
    VmExit {
        reason,
        next_rip,
        // #DF stands for the event whose delivery was interrupted.
        vectoring: match reason {
            ExitReason::Exception {
                vector: vector::DF, ..
            } => None,
            // Of INT n, Bochs 2.7 tells the event before it; only an exception's own switch has an error code.
            ExitReason::TaskSwitch if info2 & TASK_HAS_ERROR_CODE == 0 => {
                vectoring(vmcb.exit_int_info).filter(|event| event.error.is_none())
            }
            _ => vectoring(vmcb.exit_int_info),
        },
        untaken: None,
    }
}

/// An exception. The length of an instruction that raised it is left to the emulator, which delivers such events: EVENTINJ has them
/// with next-RIP saving only, and INT1 not at all.
const fn exception(kind: EventKind, vector: u8, error: u32, payload: u64) -> ExitReason {
    ExitReason::Exception {
        kind,
        vector,
        error,
        payload,
        insn_len: 0,
    }
}

fn port_io(info1: u64) -> PortIo {
    let size = if info1 & ioio::SIZE_8 != 0 {
        AccessSize::Byte
    } else if info1 & ioio::SIZE_16 != 0 {
        AccessSize::Word
    } else {
        AccessSize::Dword
    };
    // QEMU leaves address size and segment out; then the instruction is decoded.
    let address_size = match info1 & ioio::ADDRESS {
        ioio::ADDRESS_16 => Some(2),
        ioio::ADDRESS_32 => Some(4),
        ioio::ADDRESS_64 => Some(8),
        _ => None,
    };
    PortIo {
        port: (info1 >> 16) as u16,
        size,
        write: info1 & ioio::IN == 0,
        rep: info1 & ioio::REP != 0,
        address_size,
        segment: None,
    }
}

/// CR intercepts; see [`Quirks::cr_reads_as_cr0`](crate::Quirks::cr_reads_as_cr0).
fn control_register(code: u64, info1: u64, features: &Features) -> ExitReason {
    if code == code::CR0_READ && features.quirks.cr_reads_as_cr0 {
        return ExitReason::Cr0Misc;
    }
    ExitReason::CrAccess(register(code, info1))
}

/// CR and DR intercepts: the code counts sixteen reads, then sixteen writes. Bit 63 of EXITINFO1: decode assists tell the register.
fn register(code: u64, info1: u64) -> RegAccess {
    let gpr = (info1 >> 63 != 0).then_some((info1 & 0xf) as u8);
    RegAccess {
        number: (code & 0xf) as u8,
        write: code & 0x10 != 0,
        gpr,
    }
}

/// Decodes EXITINTINFO (APM vol 2 15.7.2, "Intercepts During IDT Interrupt Delivery").
///
/// Software interrupts and INT3/INTO are left out: they are never injected, so that RIP points at the instruction, which simply runs
/// again. QEMU's
/// emulation gives type "exception" to everything, so the vector decides between exception, NMI and interrupt.
fn vectoring(info: u64) -> Option<Event> {
    if info >> 31 & 1 == 0 {
        return None;
    }
    let vector = info as u8;
    let error = (info >> 11 & 1 != 0).then_some((info >> 32) as u32);
    match info >> 8 & 7 {
        0 => Some(Event::interrupt(vector)),
        2 => Some(Event::nmi()),
        3 => match vector {
            vector::NMI => Some(Event::nmi()),
            vector::BP | vector::OF => None,
            0..=31 => Some(Event::exception(vector, error)),
            _ => Some(Event::interrupt(vector)),
        },
        _ => None,
    }
}

/// Encodes EVENTINJ (APM vol 2 15.20, "Event Injection"). Events of instructions are for
/// [CPUs that can inject them](hv_core::cpu::VcpuBackend::can_inject). In real mode (`protected` false) exceptions have no error code.
#[must_use]
pub fn event_injection(event: &Event, protected: bool) -> u64 {
    let kind = match event.kind {
        EventKind::ExternalInterrupt => 0,
        EventKind::Nmi => 2,
        EventKind::Exception
        | EventKind::SoftwareException
        | EventKind::PrivilegedSoftwareException => 3,
        EventKind::SoftwareInterrupt => 4,
    };
    let error = event.error.filter(|_| protected);
    let error = error.map_or(0, |e| 1 << 11 | u64::from(e) << 32);
    u64::from(event.vector) | kind << 8 | 1 << 31 | error
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::Random;

    fn exit(code: u64, info1: u64, info2: u64) -> VmExit {
        let mut vmcb = Vmcb::default();
        (vmcb.exit_code, vmcb.exit_info1, vmcb.exit_info2) = (code, info1, info2);
        decode(&vmcb, &Features::default())
    }

    #[test]
    fn out_dx_al_tells_port_width_direction_and_next_rip() {
        let e = exit(code::IOIO, 0x03f8_0010, 0x1234);
        let plain = PortIo {
            port: 0x3f8,
            size: AccessSize::Byte,
            write: true,
            rep: false,
            address_size: None,
            segment: None,
        };
        let want = plain;
        assert_eq!(
            (e.reason, e.next_rip),
            (ExitReason::PortIo(want), Some(0x1234))
        );
        let e = exit(code::IOIO, 0x0170_002d, 0);
        let want = PortIo {
            port: 0x170,
            size: AccessSize::Word,
            write: false,
            rep: true,
            ..plain
        };
        assert_eq!(e.reason, ExitReason::StringIo(want));
    }

    #[test]
    fn nested_fault_bits() {
        let e = exit(code::NPF, 1 << 32 | 0x2, 0xfee0_00b0);
        let want = NestedFault {
            gpa: Gpa(0xfee0_00b0),
            write: true,
            fetch: false,
            present: false,
            table_walk: false,
        };
        assert_eq!(e.reason, ExitReason::NestedFault(want));
        assert!(
            matches!(exit(code::NPF, 1 << 33 | 1, 0).reason, ExitReason::NestedFault(f) if f.table_walk && f.present)
        );
    }

    #[test]
    fn a_double_fault_replaces_what_was_being_delivered() {
        let mut vmcb = Vmcb::default();
        vmcb.exit_int_info = 0x8000_0b0d;
        vmcb.exit_code = code::EXCP0 + u64::from(vector::DF);
        assert_eq!(decode(&vmcb, &Features::default()).vectoring, None);
        vmcb.exit_code = code::EXCP0 + u64::from(vector::PF);
        assert!(decode(&vmcb, &Features::default()).vectoring.is_some());
    }

    #[test]
    fn exception_before_an_int_n_through_a_task_gate_is_not_what_switches_tasks() {
        let mut vmcb = Vmcb::default();
        (vmcb.exit_code, vmcb.exit_int_info) = (code::TASK_SWITCH, 0x8000_0b0e);
        let vectoring = |vmcb: &Vmcb| decode(vmcb, &Features::default()).vectoring;
        assert_eq!(vectoring(&vmcb), None);
        vmcb.exit_info2 = TASK_HAS_ERROR_CODE;
        assert_eq!(vectoring(&vmcb), Some(Event::exception(14, Some(0))));
        (vmcb.exit_info2, vmcb.exit_int_info) = (0, 0x8000_0300);
        assert_eq!(vectoring(&vmcb), Some(Event::exception(0, None)));
    }

    #[test]
    fn instructions_that_cpuid_hides_are_undefined() {
        // INVLPGB, illegal INVLPGB, INVPCID, MCOMMIT, TLBSYNC; MONITOR, MWAIT, RDPRU.
        for c in [0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0x8a, 0x8b, 0x8e] {
            assert_eq!(exit(c, 0, 0).reason, ExitReason::Undefined, "{c:#x}");
        }
    }

    #[test]
    fn invalid_is_seen_in_both_widths() {
        assert_eq!(exit(u64::MAX, 0, 0).reason, ExitReason::EntryFailed);
        assert_eq!(exit(0xffff_ffff, 0, 0).reason, ExitReason::EntryFailed);
    }

    #[test]
    fn a_read_of_cr0_may_be_one_of_any_register_where_the_cpu_has_that_quirk() {
        let vmcb = Vmcb::default();
        let mut features = Features::default();
        let of = |features: &Features| decode(&vmcb, features).reason;
        let plain = RegAccess {
            number: 0,
            write: false,
            gpr: None,
        };
        assert_eq!(of(&features), ExitReason::CrAccess(plain));
        features.quirks.cr_reads_as_cr0 = true;
        assert_eq!(of(&features), ExitReason::Cr0Misc, "the emulator looks");
    }

    #[test]
    fn every_exit_code_has_a_reason_or_is_unknown() {
        for c in 0..0x500 {
            let e = exit(c, 0, 0);
            assert!(e.reason.index() < ExitReason::KINDS);
        }
        assert_eq!(exit(0x3ff, 0, 0).reason, ExitReason::Unknown(0x3ff));
    }

    #[test]
    fn interrupted_deliveries_are_put_back_as_what_they_were() {
        assert_eq!(vectoring(0x0000_0331), None, "not valid");
        assert_eq!(vectoring(0x8000_0031), Some(Event::interrupt(0x31)));
        assert_eq!(
            vectoring(0x8000_0331),
            Some(Event::interrupt(0x31)),
            "QEMU calls everything an exception"
        );
        assert_eq!(vectoring(0x8000_0302), Some(Event::nmi()));
        assert_eq!(
            vectoring(7 << 32 | 0x8000_0b0e),
            Some(Event::exception(14, Some(7)))
        );
        assert_eq!(vectoring(0x8000_0480), None, "INT n runs again");
    }

    #[test]
    fn injection_is_encoded_as_the_manual_says() {
        assert_eq!(event_injection(&Event::interrupt(0x30), true), 0x8000_0030);
        assert_eq!(
            event_injection(&Event::exception(14, Some(2)), true),
            2 << 32 | 0x8000_0b0e
        );
        assert_eq!(event_injection(&Event::nmi(), true), 0x8000_0202);
        let in_real_mode = event_injection(&Event::exception(13, Some(0x50)), false);
        assert_eq!(in_real_mode, 0x8000_030d);
    }

    #[test]
    fn any_bytes_in_the_exit_fields_are_decoded() {
        let mut r = Random::from_env("UMBRA_SEED", 0x5eed_0513);
        for _ in 0..100_000 {
            let mut vmcb = Vmcb::default();
            let small = r.below(0x500);
            vmcb.exit_code = if r.one_in(4) { r.next() } else { small };
            (vmcb.exit_info1, vmcb.exit_info2, vmcb.exit_int_info) = (r.next(), r.next(), r.next());
            (vmcb.next_rip, vmcb.dr6) = (r.next(), r.next());
            let features = Features {
                next_rip: r.one_in(2),
                ..Features::default()
            };
            let e = decode(&vmcb, &features);
            assert!(e.reason.index() < ExitReason::KINDS);
            if let Some(event) = e.vectoring {
                // Only what VMRUN takes may come back (APM vol 2 15.20, "Event Injection").
                assert!(
                    event.kind != EventKind::Exception
                        || event.vector < 32 && event.vector != vector::NMI
                );
                assert!(event.kind != EventKind::Nmi || event.vector == vector::NMI);
            }
        }
    }

    #[test]
    fn injected_event_comes_back_as_it_was_when_its_delivery_is_interrupted() {
        let exceptions = (0..32).filter(|v| ![vector::NMI, vector::BP, vector::OF].contains(v));
        let without = exceptions.clone().map(|v| Event::exception(v, None));
        let with =
            exceptions.flat_map(|v| [0, 7, u32::MAX].map(|error| Event::exception(v, Some(error))));
        for event in without
            .chain(with)
            .chain((0..=255).map(Event::interrupt))
            .chain([Event::nmi()])
        {
            assert_eq!(vectoring(event_injection(&event, true)), Some(event));
        }
    }

    #[test]
    fn software_events_do_not_come_back_because_the_instruction_runs_again() {
        for v in 0..=255 {
            let event = Event {
                kind: EventKind::SoftwareInterrupt,
                insn_len: 2,
                ..Event::interrupt(v)
            };
            assert_eq!(vectoring(event_injection(&event, true)), None);
        }
        for v in [vector::BP, vector::OF] {
            let event = Event {
                kind: EventKind::SoftwareException,
                insn_len: 1,
                ..Event::interrupt(v)
            };
            assert_eq!(vectoring(event_injection(&event, true)), None);
        }
    }
}
