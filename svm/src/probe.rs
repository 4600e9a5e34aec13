//! What this CPU's AMD-V does otherwise than the manual says and does not tell: found out by running a guest of two instructions.
//!
//! The guest is the hypervisor itself, in its own page tables, at `umbra_svm_probe` in [`hw`](crate::hw): it reads CR3 and halts. Its own
//! interrupt flag, which is clear, holds host interrupts back: one may be waiting, and nobody takes it meanwhile.

use crate::exit::code;
use crate::hw::{self, Context};
use crate::permission::{IoPermissionMap, MsrPermissionMap};
use crate::vmcb::{Intercept3, Intercept4, Vmcb, VmcbSegment};
use alloc::boxed::Box;
use hv_core::fx::FxState;

/// How often the guest is entered again after an NMI or an SMI has ended it before its first instruction.
const ATTEMPTS: u32 = 10;

/// Whether reads of control registers leave the guest as the register's own (APM vol 2 appendix C, "SVM Intercept Exit Codes"). AMD-V is
/// enabled, and interrupts are off.
#[must_use]
pub fn cr_reads_as_cr0() -> bool {
    let iopm = IoPermissionMap::all();
    let msrpm = MsrPermissionMap::all_but(&[]);
    let mut host = Box::new(Vmcb::default());
    hw::save_host(&mut host);
    let mut guest = Box::new(Vmcb::default());
    for _ in 0..ATTEMPTS {
        guest.clone_from(&host);
        prepare(&mut guest, hw::own_control());
        guest.iopm_base = hw::address(&*iopm).0;
        guest.msrpm_base = hw::address(&*msrpm).0;
        guest.rip = hw::probe_code();
        Context::new().run(&mut guest, &host, &mut FxState::reset());
        match guest.exit_code {
            code::NMI | code::SMI => {}
            exit => return is_quirk(exit),
        }
    }
    false
}

/// What the guest's first exit says. The read of CR3 that is not noticed leads to HLT.
fn is_quirk(exit: u64) -> bool {
    exit == code::HLT
}

/// A 64-bit guest in the hypervisor's tables.
fn prepare(v: &mut Vmcb, control: hw::Control) {
    v.intercept_cr_read = 1 << 3;
    v.intercept_exceptions = u32::MAX;
    v.intercept3 = (Intercept3::NMI
        | Intercept3::SMI
        | Intercept3::INIT
        | Intercept3::HLT
        | Intercept3::IOIO
        | Intercept3::MSR
        | Intercept3::SHUTDOWN)
        .bits();
    v.intercept4 = Intercept4::all().bits();
    v.asid = 1;
    v.tlb_control = crate::vmcb::tlb_control::EVERYTHING;
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
    v.g_pat = hv_core::msr::PAT_RESET;
    v.dr6 = 0xffff_0ff0;
    v.dr7 = 0x400;
    v.rflags = 2;
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
    fn vmrun_takes_the_guest() {
        let mut v = Vmcb::default();
        let control = hw::Control {
            cr0: 0x8005_0033,
            cr3: 0x1000,
            cr4: 0x20,
            efer: 0x1d00,
        };
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
        prepare(&mut v, control);
        let masking = VirtualInterrupt::V_INTR_MASKING.bits();
        assert_eq!(v.virtual_interrupt & masking, 0, "RFLAGS.IF is the guest's");
        assert_eq!(v.rflags, 2);
        assert_eq!(v.intercept3 & Intercept3::INTR.bits(), 0);
    }
}
