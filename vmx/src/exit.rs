//! From exit reasons to [`VmExit`] (SDM vol 3C 28.2, "Recording VM-Exit Information and Updating VM-Entry Control Fields").
//!
//! Decoding reads no more fields than the reason needs: each VMREAD costs, most of all under another hypervisor.

use crate::event;
use crate::formats::{Interruption, event_type};
use crate::reason;
use crate::vmcs::Field;
use hv_core::device::AccessSize;
use hv_core::event::{EventKind, vector};
use hv_core::exit::{ExitReason, NestedFault, PortIo, RegAccess, VmExit};
use hv_core::regs::SegReg;
use hv_core::{Gpa, Gva};

/// In the exit reason: the entry itself failed.
pub const ENTRY_FAILURE: u32 = 1 << 31;

/// Bits of the exit qualification of an EPT violation (SDM vol 3C table 28-7).
mod violation {
    pub const WRITE: u64 = 1 << 1;
    pub const FETCH: u64 = 1 << 2;
    /// The entry allowed a read, a write or a fetch: the address was mapped.
    pub const MAPPED: u64 = 7 << 3;
    pub const LINEAR_VALID: u64 = 1 << 7;
    /// The access was to the translated address, not to a paging structure.
    pub const TRANSLATED: u64 = 1 << 8;
}

/// What an exit says beyond [`VmExit`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decoded {
    /// The exit in vendor-free terms.
    pub exit: VmExit,
    /// An IRET had ended the blocking of NMIs and then faulted: they are blocked again (SDM vol 3C 28.2.3, "Information About
    /// NMI Unblocking Due to IRET").
    pub block_nmis: bool,
    /// The delivery of an NMI was interrupted: it will be injected again, for which NMIs must not be blocked.
    pub unblock_nmis: bool,
}

/// Decodes why the guest was left. `read` reads a field; `rip` is the guest's.
pub fn decode(read: impl Fn(Field) -> u64, rip: u64) -> Decoded {
    let long = |field| read(field) as u32;
    let code = long(Field::EXIT_REASON);
    let mut d = Decoded {
        exit: VmExit {
            reason: ExitReason::Unknown(code.into()),
            next_rip: None,
            vectoring: None,
            untaken: None,
        },
        block_nmis: false,
        unblock_nmis: false,
    };
    if code & ENTRY_FAILURE != 0 {
        d.exit.reason = ExitReason::EntryFailed;
        return d;
    }
    let qualification = || read(Field::EXIT_QUALIFICATION);
    let length = || read(Field::EXIT_INSTRUCTION_LENGTH) as u8;
    // Only what can happen while an event is delivered is asked whether it did.
    let mut delivering = false;
    let mut executed = false;
    d.exit.reason = match code as u16 {
        reason::CPUID => {
            executed = true;
            ExitReason::Cpuid
        }
        reason::IO_INSTRUCTION => {
            executed = true;
            let q = qualification();
            if q & IO_STRING == 0 {
                ExitReason::PortIo(port_io(q))
            } else {
                ExitReason::StringIo(string_io(q, long(Field::EXIT_INSTRUCTION_INFO)))
            }
        }
        reason::EPT_VIOLATION => {
            delivering = true;
            let q = qualification();
            d.block_nmis = q & u64::from(Interruption::NMI_UNBLOCKED.bits()) != 0;
            ExitReason::NestedFault(NestedFault {
                gpa: Gpa(read(Field::GUEST_PHYSICAL_ADDRESS)),
                write: q & violation::WRITE != 0,
                fetch: q & violation::FETCH != 0,
                present: q & violation::MAPPED != 0,
                table_walk: q & violation::LINEAR_VALID != 0 && q & violation::TRANSLATED == 0,
            })
        }
        reason::EXTERNAL_INTERRUPT => ExitReason::ExternalInterrupt,
        reason::HLT => {
            executed = true;
            ExitReason::Hlt
        }
        reason::RDMSR => {
            executed = true;
            ExitReason::Rdmsr
        }
        reason::WRMSR => {
            executed = true;
            ExitReason::Wrmsr
        }
        reason::INTERRUPT_WINDOW => ExitReason::InterruptWindow,
        reason::NMI_WINDOW => ExitReason::NmiWindow,
        reason::PREEMPTION_TIMER => ExitReason::Timer,
        reason::TPR_BELOW_THRESHOLD => ExitReason::TprBelowThreshold,
        reason::EXCEPTION_OR_NMI => {
            delivering = true;
            let info = Interruption::from_bits_retain(long(Field::EXIT_INTERRUPTION_INFO));
            if info.kind() == event_type::NMI {
                ExitReason::Nmi
            } else {
                let v = info.vector() & 31;
                let kind = event::kind(info.kind()).unwrap_or(EventKind::Exception);
                let by_instruction = kind.is_software();
                // With a double fault the bit is undefined.
                d.block_nmis = info.contains(Interruption::NMI_UNBLOCKED) && v != vector::DF;
                ExitReason::Exception {
                    kind,
                    vector: v,
                    error: if info.contains(Interruption::ERROR_CODE) {
                        long(Field::EXIT_INTERRUPTION_ERROR)
                    } else {
                        0
                    },
                    payload: match v {
                        vector::PF | vector::DB if !by_instruction => qualification(),
                        _ => 0,
                    },
                    insn_len: if by_instruction { length() } else { 0 },
                }
            }
        }
        reason::TRIPLE_FAULT => ExitReason::Shutdown,
        reason::INIT_SIGNAL | reason::STARTUP_IPI | reason::IO_SMI | reason::OTHER_SMI => {
            ExitReason::Init
        }
        reason::CONTROL_REGISTER_ACCESS => {
            executed = true;
            control_register(qualification())
        }
        reason::MOV_DR => {
            executed = true;
            let q = qualification();
            ExitReason::DrAccess(RegAccess {
                number: (q & 7) as u8,
                write: q & 1 << 4 == 0,
                gpr: Some((q >> 8 & 15) as u8),
            })
        }
        reason::XSETBV => {
            executed = true;
            ExitReason::Xsetbv
        }
        reason::INVD => {
            executed = true;
            ExitReason::Invd
        }
        reason::WBINVD => {
            executed = true;
            ExitReason::Wbinvd
        }
        reason::INVLPG => {
            executed = true;
            ExitReason::Invlpg(Some(Gva(qualification())))
        }
        reason::RDTSC => {
            executed = true;
            ExitReason::Rdtsc
        }
        reason::RDTSCP => ExitReason::Rdtscp,
        reason::RDPMC => ExitReason::Rdpmc,
        reason::PAUSE => {
            executed = true;
            ExitReason::Pause
        }
        reason::VMCALL => {
            executed = true;
            ExitReason::Hypercall
        }
        reason::TASK_SWITCH => {
            delivering = true;
            ExitReason::TaskSwitch
        }
        // Bit 28 of the instruction information: IDTR, or TR, and not the other one (SDM vol 3C tables 28-12 and 28-13).
        reason::ACCESS_TO_GDTR_OR_IDTR => {
            ExitReason::DescriptorTable(if long(Field::EXIT_INSTRUCTION_INFO) & 1 << 28 != 0 {
                SegReg::Idtr
            } else {
                SegReg::Gdtr
            })
        }
        reason::ACCESS_TO_LDTR_OR_TR => {
            ExitReason::DescriptorTable(if long(Field::EXIT_INSTRUCTION_INFO) & 1 << 28 != 0 {
                SegReg::Tr
            } else {
                SegReg::Ldtr
            })
        }
        reason::GETSEC
        | reason::VMCLEAR..=reason::VMXON
        | reason::MWAIT
        | reason::MONITOR
        | reason::RSM
        | reason::INVEPT
        | reason::INVVPID
        | reason::INVPCID
        | reason::VMFUNC
        | reason::ENCLS
        | reason::XSAVES
        | reason::XRSTORS
        | reason::ENCLV => ExitReason::Undefined,
        _ => ExitReason::Unknown(code.into()),
    };
    if executed {
        d.exit.next_rip = Some(rip.wrapping_add(read(Field::EXIT_INSTRUCTION_LENGTH)));
    }
    if delivering {
        let info = Interruption::from_bits_retain(long(Field::IDT_VECTORING_INFO));
        if info.contains(Interruption::VALID) {
            let error = if info.contains(Interruption::ERROR_CODE) {
                long(Field::IDT_VECTORING_ERROR)
            } else {
                0
            };
            d.exit.vectoring = event::decode_vectoring(info.bits(), error, length);
            d.block_nmis = false;
            d.unblock_nmis = info.kind() == event_type::NMI;
        }
    }
    d
}

/// INS or OUTS, in the exit qualification.
const IO_STRING: u64 = 1 << 4;

/// The exit qualification of an I/O instruction (SDM vol 3C table 28-5).
fn port_io(q: u64) -> PortIo {
    PortIo {
        port: (q >> 16) as u16,
        size: match q & 7 {
            0 => AccessSize::Byte,
            1 => AccessSize::Word,
            _ => AccessSize::Dword,
        },
        write: q & 1 << 3 == 0,
        rep: q & 1 << 5 != 0,
        address_size: None,
        segment: None,
    }
}

/// The same, and the instruction information of INS and OUTS (table 28-8).
fn string_io(q: u64, info: u32) -> PortIo {
    let io = port_io(q);
    PortIo {
        address_size: match info >> 7 & 7 {
            0 => Some(2),
            1 => Some(4),
            2 => Some(8),
            _ => None,
        },
        // INS always writes to ES.
        segment: match info >> 15 & 7 {
            0 if io.write => Some(SegReg::Es),
            1 if io.write => Some(SegReg::Cs),
            2 if io.write => Some(SegReg::Ss),
            3 if io.write => Some(SegReg::Ds),
            4 if io.write => Some(SegReg::Fs),
            5 if io.write => Some(SegReg::Gs),
            _ => None,
        },
        ..io
    }
}

/// The exit qualification of a control-register access (SDM vol 3C table 28-3).
fn control_register(q: u64) -> ExitReason {
    let access = |write| {
        ExitReason::CrAccess(RegAccess {
            number: (q & 15) as u8,
            write,
            gpr: Some((q >> 8 & 15) as u8),
        })
    };
    match q >> 4 & 3 {
        0 => access(true),
        1 => access(false),
        _ => ExitReason::Cr0Misc,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::event::{Event, EventKind};
    use hv_core::testing::Random;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    const RIP: u64 = 0x1000;

    /// Decodes an exit with these fields, and says which fields were read.
    fn decoded(fields: &[(Field, u64)]) -> (Decoded, Vec<Field>) {
        let fields: BTreeMap<Field, u64> = fields.iter().copied().collect();
        let seen = RefCell::new(Vec::new());
        let d = decode(
            |f| {
                seen.borrow_mut().push(f);
                fields.get(&f).copied().unwrap_or(0)
            },
            RIP,
        );
        (d, seen.into_inner())
    }

    fn with(reason: u16, more: &[(Field, u64)]) -> Decoded {
        let mut fields = vec![
            (Field::EXIT_REASON, reason.into()),
            (Field::EXIT_INSTRUCTION_LENGTH, 2),
        ];
        fields.extend_from_slice(more);
        decoded(&fields).0
    }

    #[test]
    fn cpuid_reads_two_fields() {
        let (d, seen) = decoded(&[
            (Field::EXIT_REASON, reason::CPUID.into()),
            (Field::EXIT_INSTRUCTION_LENGTH, 2),
        ]);
        assert_eq!(
            (d.exit.reason, d.exit.next_rip),
            (ExitReason::Cpuid, Some(RIP + 2))
        );
        assert_eq!(seen, [Field::EXIT_REASON, Field::EXIT_INSTRUCTION_LENGTH]);
    }

    #[test]
    fn out_dx_al_tells_port_width_direction_and_next_rip() {
        let d = with(
            reason::IO_INSTRUCTION,
            &[(Field::EXIT_QUALIFICATION, 0x03f8_0000)],
        );
        assert_eq!(
            d.exit.reason,
            ExitReason::PortIo(PortIo::plain(0x3f8, AccessSize::Byte, true))
        );
        assert_eq!(d.exit.next_rip, Some(RIP + 2));
        let d = with(
            reason::IO_INSTRUCTION,
            &[(Field::EXIT_QUALIFICATION, 0x0cfc_000b)],
        );
        assert_eq!(
            d.exit.reason,
            ExitReason::PortIo(PortIo::plain(0xcfc, AccessSize::Dword, false))
        );
    }

    #[test]
    fn string_io_tells_address_size_and_segment() {
        let rep_outsw = [
            (Field::EXIT_QUALIFICATION, 0x01f0_0031),
            (Field::EXIT_INSTRUCTION_INFO, 1 << 7 | 4 << 15),
        ];
        let want = PortIo {
            rep: true,
            address_size: Some(4),
            segment: Some(SegReg::Fs),
            ..PortIo::plain(0x1f0, AccessSize::Word, true)
        };
        assert_eq!(
            with(reason::IO_INSTRUCTION, &rep_outsw).exit.reason,
            ExitReason::StringIo(want)
        );
        let rep_insw = [
            (Field::EXIT_QUALIFICATION, 0x01f0_0039),
            (Field::EXIT_INSTRUCTION_INFO, 2 << 7 | 3 << 15),
        ];
        let want = PortIo {
            write: false,
            address_size: Some(8),
            segment: None,
            ..want
        };
        assert_eq!(
            with(reason::IO_INSTRUCTION, &rep_insw).exit.reason,
            ExitReason::StringIo(want)
        );
    }

    #[test]
    fn nested_fault_bits() {
        let fault = |q| match with(
            reason::EPT_VIOLATION,
            &[
                (Field::EXIT_QUALIFICATION, q),
                (Field::GUEST_PHYSICAL_ADDRESS, 0xfee0_00b0),
            ],
        )
        .exit
        .reason
        {
            ExitReason::NestedFault(f) => f,
            other => panic!("{other:?}"),
        };
        let plain = NestedFault {
            gpa: Gpa(0xfee0_00b0),
            write: false,
            fetch: false,
            present: false,
            table_walk: false,
        };
        assert_eq!(fault(0x181), plain);
        assert_eq!(
            fault(0x182),
            NestedFault {
                write: true,
                ..plain
            }
        );
        assert_eq!(
            fault(0x18c),
            NestedFault {
                fetch: true,
                present: true,
                ..plain
            }
        );
        assert_eq!(
            fault(0x081),
            NestedFault {
                table_walk: true,
                ..plain
            }
        );
        assert_eq!(
            fault(0x001),
            plain,
            "no linear address: an event of the CPU's own"
        );
    }

    #[test]
    fn an_interrupted_delivery_is_told() {
        let d = with(
            reason::EPT_VIOLATION,
            &[
                (Field::EXIT_QUALIFICATION, 0x181),
                (Field::IDT_VECTORING_INFO, 0x8000_0b0e),
                (Field::IDT_VECTORING_ERROR, 2),
            ],
        );
        assert_eq!(d.exit.vectoring, Some(Event::exception(14, Some(2))));
        let d = with(
            reason::EPT_VIOLATION,
            &[(Field::IDT_VECTORING_INFO, 0x8000_0202)],
        );
        assert_eq!(d.exit.vectoring, Some(Event::nmi()));
        assert!(d.unblock_nmis, "it will be injected again");
    }

    #[test]
    fn a_faulting_iret_blocks_nmis_again() {
        let unblocked = u64::from(Interruption::NMI_UNBLOCKED.bits());
        let page_fault = 0x8000_0b0e | unblocked;
        assert!(
            with(
                reason::EXCEPTION_OR_NMI,
                &[(Field::EXIT_INTERRUPTION_INFO, page_fault)]
            )
            .block_nmis
        );
        let double_fault = 0x8000_0b08 | unblocked;
        assert!(
            !with(
                reason::EXCEPTION_OR_NMI,
                &[(Field::EXIT_INTERRUPTION_INFO, double_fault)]
            )
            .block_nmis
        );
        let q = (Field::EXIT_QUALIFICATION, unblocked | 0x181);
        assert!(with(reason::EPT_VIOLATION, &[q]).block_nmis);
        let delivering = (Field::IDT_VECTORING_INFO, 0x8000_0020);
        assert!(!with(reason::EPT_VIOLATION, &[q, delivering]).block_nmis);
    }

    #[test]
    fn a_host_nmi_is_not_an_exception() {
        let d = with(
            reason::EXCEPTION_OR_NMI,
            &[(Field::EXIT_INTERRUPTION_INFO, 0x8000_0202)],
        );
        assert_eq!(d.exit.reason, ExitReason::Nmi);
    }

    #[test]
    fn control_register_accesses() {
        let of = |q| {
            with(
                reason::CONTROL_REGISTER_ACCESS,
                &[(Field::EXIT_QUALIFICATION, q)],
            )
            .exit
            .reason
        };
        let mov = |number, write, gpr| {
            ExitReason::CrAccess(RegAccess {
                number,
                write,
                gpr: Some(gpr),
            })
        };
        assert_eq!(of(0x304), mov(4, true, 3));
        assert_eq!(of(0xf18), mov(8, false, 15));
        assert_eq!(of(0x020), ExitReason::Cr0Misc, "CLTS");
        assert_eq!(of(0x030), ExitReason::Cr0Misc, "LMSW");
    }

    #[test]
    fn a_failed_entry_is_seen_whatever_its_reason() {
        let failed = u64::from(ENTRY_FAILURE);
        for code in [33, 34, 41] {
            let d = decoded(&[(Field::EXIT_REASON, failed | code)]).0;
            assert_eq!(d.exit.reason, ExitReason::EntryFailed);
        }
    }

    #[test]
    fn any_bits_in_the_exit_fields_are_decoded() {
        let mut r = Random::from_env("UMBRA_SEED", 0x5eed_0514);
        for n in 0..100_000u64 {
            let values: BTreeMap<Field, u64> = Field::ALL
                .iter()
                .map(|&f| (f, f.truncate(r.next())))
                .collect();
            let code = if n % 8 == 0 {
                r.next() & 0xffff
            } else {
                n % 80
            };
            let d = decode(
                |f| {
                    if f == Field::EXIT_REASON {
                        code
                    } else {
                        values[&f]
                    }
                },
                r.next(),
            );
            assert!(d.exit.reason.index() < ExitReason::KINDS);
            if let Some(e) = d.exit.vectoring {
                assert!(e.kind != EventKind::Exception || e.vector < 32);
            }
            assert!(!(d.block_nmis && d.unblock_nmis));
        }
    }
}
