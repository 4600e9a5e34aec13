//! What this CPU's AMD-V does otherwise than the manual says and does not tell: found out by running guests of two instructions.
//!
//! Two guests are the hypervisor itself, in its own page tables, in [`hw`]: at `umbra_svm_probe` it reads CR3 and halts, at
//! `umbra_svm_probe_cr3` it writes reserved bits of it. The others are in protected mode without paging, in `TASKS`: one jumps to
//! another task, which halts, one executes INT n without an IDT, and one steps over a NOP. Their own interrupt flag, which is
//! clear, holds host interrupts back: one may be waiting, and nobody takes it meanwhile.

use crate::exit::code;
use crate::hw::{self, Context};
use crate::permission::{IoPermissionMap, MsrPermissionMap};
use crate::vmcb::{Intercept3, Intercept4, NP_ENABLE, Vmcb, VmcbSegment};
use alloc::boxed::Box;
use core::sync::atomic::{AtomicU64, Ordering};
use hv_core::event::vector;
use hv_core::regs::{Efer, Rflags};

/// How often the guest is entered again after an NMI or an SMI has ended it before its first instruction.
const ATTEMPTS: u32 = 10;

/// Whether reads of control registers leave the guest as the register's own (APM vol 2 appendix C, "SVM Intercept Exit Codes"). AMD-V is
/// enabled, and interrupts are off.
#[must_use]
pub fn cr_reads_as_cr0() -> bool {
    let exit = first_exit(|v| {
        prepare(v, hw::own_control());
        v.rip = hw::probe_code();
    });
    exit.is_some_and(is_quirk)
}

/// Whether a MOV that sets reserved bits of CR3 leaves a guest as one that cannot be entered, in place of #GP. As above.
#[must_use]
pub fn invalid_cr3_fails_entry() -> bool {
    let exit = first_exit(|v| {
        prepare(v, hw::own_control());
        v.rip = hw::probe_cr3_code();
    });
    exit.is_some_and(|exit| exit as u32 == code::INVALID_LOW)
}

/// Whether EXITINTINFO may tell something else than the INT n whose delivery an exit has interrupted. As above.
#[must_use]
pub fn vectoring_may_be_stale() -> bool {
    let exit = first_state(|v| {
        prepare_task(v, hw::address(&TASKS).0);
        v.rip = hw::address(&TASKS).0 + SOFTWARE;
    });
    exit.is_none_or(|v| !tells_int_n(&v))
}

/// Whether the guest with INT n has left as the manual says (APM vol 2 15.7.2, "Intercepts During IDT Interrupt Delivery").
fn tells_int_n(v: &Vmcb) -> bool {
    const VALID_SOFTWARE: u64 = 1 << 31 | 4 << 8;
    v.exit_code == code::EXCP0 + u64::from(vector::GP)
        && v.exit_int_info & 0xffff_ffff == VALID_SOFTWARE | u64::from(INT_N)
}

/// Whether DR6 does not tell yet of a #DB for which the guest has left. As above.
#[must_use]
pub fn dr6_may_be_stale() -> bool {
    let exit = first_state(|v| {
        prepare_task(v, hw::address(&TASKS).0);
        v.rip = hw::address(&TASKS).0 + STEPPED;
        v.rflags |= Rflags::TF.bits();
    });
    exit.is_some_and(|v| lacks_step(&v))
}

/// Whether the guest that steps has left with a DR6 that does not say so (APM vol 2 15.12.2, "#DB (Debug)": it is written before the intercept).
fn lacks_step(v: &Vmcb) -> bool {
    v.exit_code == code::EXCP0 + u64::from(vector::DB) && v.dr6 & BS == 0
}

/// Whether a guest is left for hardware task switches, as [`Intercept3::TASK_SWITCH`] says. Not in doubt. As above.
#[must_use]
pub fn task_switches_exit() -> bool {
    first_exit(|v| prepare_task(v, hw::address(&TASKS).0)) == Some(code::TASK_SWITCH)
}

/// Whether nested tables confine a guest that has paging on, whether CPUID tells of them or not. As above.
#[must_use]
pub fn nested_tables_hold() -> bool {
    nested_fault(|v| {
        prepare(v, hw::own_control());
        v.rip = hw::probe_code();
    })
}

/// Whether nested tables confine a guest that has paging off. As above.
#[must_use]
pub fn nested_tables_hold_without_paging() -> bool {
    nested_fault(|v| prepare_task(v, hw::address(&TASKS).0))
}

/// Whether a guest is left at once for nested tables that have nothing.
fn nested_fault(prepare: impl Fn(&mut Vmcb)) -> bool {
    let exit = first_exit(|v| {
        prepare(v);
        v.np_enable = NP_ENABLE;
        v.n_cr3 = hw::address(&NO_TABLES).0;
    });
    exit == Some(code::NPF)
}

/// Runs a guest and says why it was left first. None: that cannot be had.
fn first_exit(prepare: impl Fn(&mut Vmcb)) -> Option<u64> {
    first_state(prepare).map(|v| v.exit_code)
}

/// Runs a guest and gives its state at the first exit. None: that cannot be had.
fn first_state(prepare: impl Fn(&mut Vmcb)) -> Option<Box<Vmcb>> {
    let iopm = IoPermissionMap::all();
    let msrpm = MsrPermissionMap::all_but(&[]);
    let mut host = Box::new(Vmcb::default());
    hw::save_host(&mut host);
    for _ in 0..ATTEMPTS {
        let mut guest = host.clone();
        intercept_everything(&mut guest);
        guest.iopm_base = hw::address(&*iopm).0;
        guest.msrpm_base = hw::address(&*msrpm).0;
        prepare(&mut guest);
        let mut context = Context::new(guest, host.clone());
        context.run();
        match context.vmcb.exit_code {
            code::NMI | code::SMI => {}
            _ => return Some(context.vmcb),
        }
    }
    None
}

/// What the guests without paging consist of, in 8-byte words. It is in Umbra's image and so below 4 GiB.
#[repr(C, align(4096))]
struct Area([AtomicU64; 64]);

static TASKS: Area = Area([const { AtomicU64::new(0) }; 64]);

/// The root of nested tables that have nothing.
#[repr(C, align(4096))]
struct NoTables([AtomicU64; 512]);

static NO_TABLES: NoTables = NoTables([const { AtomicU64::new(0) }; 512]);

/// Where in [`TASKS`] the first task's state is saved, where the second's is, and the code of both.
const FIRST: u64 = 0x40;
const SECOND: u64 = 0xc0;
const CODE: u64 = 0x140;
/// Where the second task begins.
const HALT: u64 = CODE + 7;
/// Where the guest with INT n begins, and its vector.
const SOFTWARE: u64 = CODE + 8;
const INT_N: u8 = 0x20;
/// The flag of DR6 for a single step (APM vol 2 13.1.1.3, "Debug-Status Register (DR6)").
const BS: u64 = 1 << 14;
/// Where the guest that steps begins.
const STEPPED: u64 = SOFTWARE + 3;

/// The memory of the guest with two tasks, which is at `at`.
fn tasks(at: u64) -> [u64; 64] {
    let mut words = [0; 64];
    let mut put = |offset: u64, bytes: &[u8]| {
        for (at, byte) in (offset..).zip(bytes) {
            if let Some(word) = words.get_mut(at as usize / 8) {
                *word |= u64::from(*byte) << (at % 8 * 8);
            }
        }
    };
    let task =
        |base: u64, kind: u64| 0x67 | (base & 0xff_ffff) << 16 | kind << 40 | base >> 24 << 56;
    let descriptors = [
        0,
        0x00cf_9b00_0000_ffff,
        0x00cf_9300_0000_ffff,
        task(at + FIRST, 0x8b),
        task(at + SECOND, 0x89),
    ];
    for (i, descriptor) in (0..).zip(descriptors) {
        put(8 * i, &descriptor.to_le_bytes());
    }
    // EIP, EFLAGS; ES, CS, SS, DS, FS, GS.
    put(SECOND + 0x20, &((at + HALT) as u32).to_le_bytes());
    put(SECOND + 0x24, &2u32.to_le_bytes());
    for (i, selector) in (0..).zip([16u8, 8, 16, 16, 16, 16]) {
        put(SECOND + 0x48 + 4 * i, &[selector]);
    }
    // jmp 20h:0; hlt
    put(CODE, &[0xea, 0, 0, 0, 0, 0x20, 0, 0xf4]);
    put(SOFTWARE, &[0xcd, INT_N, 0xf4]);
    put(STEPPED, &[0x90, 0xf4]);
    words
}

/// The guest with two tasks, whose memory is at `at`.
fn prepare_task(v: &mut Vmcb, at: u64) {
    for (word, value) in TASKS.0.iter().zip(tasks(at)) {
        word.store(value, Ordering::Relaxed);
    }
    let segment = |selector, attrib| VmcbSegment {
        selector,
        attrib,
        limit: u32::MAX,
        base: 0,
    };
    v.cs = segment(8, 0xc9b);
    (v.ss, v.ds, v.es) = (segment(16, 0xc93), segment(16, 0xc93), segment(16, 0xc93));
    (v.fs, v.gs) = (v.ds, v.ds);
    let table = |base, limit| VmcbSegment {
        base,
        limit,
        ..VmcbSegment::default()
    };
    v.gdtr = table(at, 0x27);
    v.ldtr = table(0, 0);
    v.idtr = table(0, 0);
    v.tr = VmcbSegment {
        selector: 0x18,
        attrib: 0x8b,
        ..table(at + FIRST, 0x67)
    };
    // Protected mode: PE and ET.
    (v.cr0, v.cr3, v.cr4) = (0x11, 0, 0);
    v.efer = Efer::SVME.bits();
    v.rip = at + CODE;
}

/// What the guest's first exit says. The read of CR3 that is not noticed leads to HLT.
fn is_quirk(exit: u64) -> bool {
    exit == code::HLT
}

/// What all these guests have in common.
fn intercept_everything(v: &mut Vmcb) {
    v.intercept_exceptions = u32::MAX;
    v.intercept3 = (Intercept3::NMI
        | Intercept3::SMI
        | Intercept3::INIT
        | Intercept3::HLT
        | Intercept3::IOIO
        | Intercept3::MSR
        | Intercept3::TASK_SWITCH
        | Intercept3::SHUTDOWN)
        .bits();
    v.intercept4 = Intercept4::all().bits();
    v.asid = 1;
    v.tlb_control = crate::vmcb::tlb_control::EVERYTHING;
    v.g_pat = hv_core::msr::PAT_RESET;
    v.dr6 = 0xffff_0ff0;
    v.dr7 = 0x400;
    v.rflags = 2;
}

/// A 64-bit guest in the hypervisor's tables.
fn prepare(v: &mut Vmcb, control: hw::Control) {
    v.intercept_cr_read = 1 << 3;
    let segment = |attrib| VmcbSegment {
        selector: 8,
        attrib,
        limit: u32::MAX,
        base: 0,
    };
    // Code with L and without D; data.
    v.cs = segment(0xa9b);
    (v.ss, v.ds, v.es) = (segment(0xc93), segment(0xc93), segment(0xc93));
    (v.cr0, v.cr3, v.cr4, v.efer) = (control.cr0, control.cr3, control.cr4, control.efer);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vmcb::VirtualInterrupt;

    #[test]
    fn a_read_that_is_not_noticed_is_the_quirk() {
        assert!(!is_quirk(code::CR0_READ + 3));
        assert!(is_quirk(code::HLT));
        assert!(!is_quirk(code::SHUTDOWN), "and nothing is known then");
    }

    #[test]
    fn int_n_is_told_as_such() {
        let mut v = Vmcb::default();
        (v.exit_code, v.exit_int_info) = (0x4d, 0x102 << 32 | 0x8000_0420);
        assert!(tells_int_n(&v));
        for stale in [0, 0x8000_0b0e, 0x8000_0421, 0x420] {
            v.exit_int_info = stale;
            assert!(!tells_int_n(&v), "{stale:x}");
        }
    }

    #[test]
    fn a_step_of_which_dr6_does_not_tell_is_the_quirk() {
        let mut v = Vmcb::default();
        (v.exit_code, v.dr6) = (0x41, 0xffff_0ff0);
        assert!(lacks_step(&v));
        v.dr6 |= 1 << 14;
        assert!(!lacks_step(&v));
        (v.exit_code, v.dr6) = (code::HLT, 0xffff_0ff0);
        assert!(!lacks_step(&v), "and nothing is known then");
    }

    /// The guest with INT n executes that, in the emulator; its IDT is empty.
    #[test]
    fn the_guest_with_int_n_executes_it() {
        use hv_core::emulate::testing::{FakeCpu, RegionKind};
        use hv_core::emulate::{StepKind, step};
        const AT: u64 = 0x12_3000;
        let mut cpu = FakeCpu::protected32().region(AT, 0x200, RegionKind::Ram);
        let bytes: Vec<u8> = tasks(AT).iter().flat_map(|w| w.to_le_bytes()).collect();
        cpu.poke(AT, &bytes);
        cpu.rip = AT + SOFTWARE;
        let kind = step(&mut cpu).map(|s| s.kind);
        assert!(
            matches!(kind, Ok(StepKind::SoftwareInterrupt { vector: INT_N, .. })),
            "{kind:?}"
        );
    }

    #[test]
    fn vmrun_takes_the_guest() {
        let mut v = Vmcb::default();
        let control = hw::Control {
            cr0: 0x8005_0033,
            cr3: 0x1000,
            cr4: 0x20,
            efer: 0x1d00,
        };
        intercept_everything(&mut v);
        prepare(&mut v, control);
        assert_ne!(v.intercept4 & Intercept4::VMRUN.bits(), 0);
        assert_ne!(v.asid, 0);
        assert_eq!((v.cr3, v.cs.attrib), (0x1000, 0xa9b));
        assert_eq!(v.intercept_cr_read, 8, "and not CR0's");
    }

    #[test]
    fn a_host_interrupt_that_waits_does_not_end_the_guest() {
        let mut v = Vmcb::default();
        let control = hw::Control {
            cr0: 0,
            cr3: 0,
            cr4: 0,
            efer: 0,
        };
        intercept_everything(&mut v);
        prepare(&mut v, control);
        let masking = VirtualInterrupt::V_INTR_MASKING.bits();
        assert_eq!(v.virtual_interrupt & masking, 0, "RFLAGS.IF is the guest's");
        assert_eq!(v.rflags, 2);
        assert_eq!(v.intercept3 & Intercept3::INTR.bits(), 0);
    }

    /// The guest with two tasks does what it is to do, in the emulator.
    #[test]
    fn the_second_task_halts() {
        use hv_core::emulate::testing::{FakeCpu, RegionKind};
        use hv_core::emulate::{StepKind, step};
        use hv_core::regs::{SegAttr, SegReg, Segment};
        const AT: u64 = 0x12_3000;
        let mut v = Vmcb::default();
        prepare_task(&mut v, AT);
        let mut cpu = FakeCpu::protected32().region(AT, 0x200, RegionKind::Ram);
        let bytes: Vec<u8> = tasks(AT).iter().flat_map(|w| w.to_le_bytes()).collect();
        cpu.poke(AT, &bytes);
        cpu.rip = v.rip;
        for (seg, s) in [(SegReg::Gdtr, v.gdtr), (SegReg::Tr, v.tr)] {
            cpu.segments[seg as usize] = Segment {
                selector: s.selector,
                attr: SegAttr::from_bits_retain(s.attrib),
                limit: s.limit,
                base: s.base,
            };
        }
        assert_eq!(step(&mut cpu).map(|s| s.kind), Ok(StepKind::Done));
        assert_eq!(cpu.rip, AT + HALT);
        assert_eq!(step(&mut cpu).map(|s| s.kind), Ok(StepKind::Halt));
    }
}
