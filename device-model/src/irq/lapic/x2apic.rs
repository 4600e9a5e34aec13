//! x2APIC mode: the local APIC's registers as MSRs 800h to 83Fh (SDM vol 3A 12.12, "Extended XAPIC (x2APIC)").
//!
//! Register n of the page is MSR 800h + n / 10h; but the interrupt command register is one of 64 bits, SELF IPI is new, and
//! APR, RRD and DFR are gone. The ID, and with it the logical ID, is the number of the CPU.
//!
//! Invariant: what the manual reserves faults, registers and bits alike. Bits that hardware only shows (delivery status,
//! remote IRR) and the focus check of old processors, which 32-bit Linux sets, are taken and dropped.

use super::address::logical_id;
use super::{
    ApicBase, CURRENT_COUNT, DIVIDE, DeliveryMode, ESR, Effect, ICR_LOW, ICR_WRITABLE, ID,
    INITIAL_COUNT, ISR, LDR, LVT_ERROR, LVT_TIMER, LVT_WRITABLE, Lapic, Message, PPR,
    SEND_ILLEGAL_VECTOR, SVR, SVR_ENABLE, Shorthand, TPR, VERSION_REGISTER, lvt_index,
};
use hv_core::VmTime;
use hv_core::msr::nr::X2APIC;

/// The EOI register.
pub(in crate::irq) const EOI: u32 = X2APIC + (super::EOI >> 4) as u32;

/// SELF IPI, as an offset like those of the registers in the page.
const SELF_IPI: u64 = 0x3f0;

/// Focus processor checking (disabled).
const SVR_FOCUS: u32 = 1 << 9;
const ICR_DELIVERY_STATUS: u32 = 1 << 12;
/// The bits of each LVT entry that only hardware changes: delivery status, remote IRR.
const LVT_READ_ONLY: [u32; 6] = [0x1000, 0x1000, 0x1000, 0x5000, 0x5000, 0x1000];

impl ApicBase {
    /// Whether software may change the register to `new` (SDM vol 3A 12.12.5, "x2APIC State Transitions"): x2APIC mode is
    /// entered from xAPIC mode only and left by disabling only.
    pub(super) fn may_become(self, new: Self) -> bool {
        match (new.contains(Self::EXTD), new.contains(Self::ENABLE)) {
            (true, true) => self.contains(Self::ENABLE),
            (true, false) => false,
            (false, true) => !self.contains(Self::EXTD),
            (false, false) => true,
        }
    }
}

impl Lapic {
    pub(super) fn x2apic(&self) -> bool {
        self.base.contains(ApicBase::EXTD)
    }

    /// What changes when x2APIC mode is entered: an ID that software wrote and the high half of the ICR are not preserved.
    pub(super) fn enter_x2apic(&mut self) {
        self.id = self.cpu;
        self.icr_high = 0;
    }

    /// RDMSR; none means #GP(0). The timer must have been [advanced](Self::advance).
    pub(in crate::irq) fn x2apic_read(&self, now: VmTime, msr: u32) -> Option<u64> {
        if !self.x2apic() {
            return None;
        }
        let offset = offset(msr);
        Some(match offset {
            ID => self.id.into(),
            LDR => logical_id(self.id).into(),
            ICR_LOW => u64::from(self.icr_high) << 32 | u64::from(self.icr_low),
            VERSION_REGISTER
            | TPR
            | PPR
            | SVR
            | ISR..=ESR
            | LVT_TIMER..=LVT_ERROR
            | INITIAL_COUNT
            | CURRENT_COUNT
            | DIVIDE => self.read(now, offset).into(),
            _ => return None,
        })
    }

    /// WRMSR; none means #GP(0). The timer must have been [advanced](Self::advance) but for [`EOI`].
    pub(in crate::irq) fn x2apic_write(
        &mut self,
        now: VmTime,
        msr: u32,
        value: u64,
    ) -> Option<Effect> {
        if !self.x2apic() {
            return None;
        }
        if msr == EOI {
            return (value == 0).then(|| self.end_of_interrupt());
        }
        let offset = offset(msr);
        let (low, high) = (value as u32, (value >> 32) as u32);
        if high != 0 && offset != ICR_LOW || low & !writable(offset)? != 0 {
            return None;
        }
        Some(match offset {
            ICR_LOW => {
                self.icr_high = high;
                self.send(low, high)
            }
            SELF_IPI => self.self_ipi(low as u8),
            _ => self.write(now, offset, low),
        })
    }

    /// SDM vol 3A 12.12.11, "SELF IPI Register": the ICR does not change.
    fn self_ipi(&mut self, vector: u8) -> Effect {
        if vector < 16 {
            self.error(SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        let message = Message {
            destination: self.id.into(),
            logical: false,
            mode: DeliveryMode::Fixed,
            vector,
            level: false,
        };
        Effect::Send(message, Shorthand::Itself)
    }
}

/// The place of `msr` in the page.
fn offset(msr: u32) -> u64 {
    u64::from(msr.wrapping_sub(X2APIC)) << 4
}

/// The bits 31:0 of a register that do not fault when they are written as 1; none if all writes fault (SDM vol 3A 12.12.1.3,
/// "Reserved Bit Checking").
fn writable(offset: u64) -> Option<u32> {
    Some(match offset {
        TPR | SELF_IPI => 0xff,
        ESR => 0,
        SVR => SVR_ENABLE | SVR_FOCUS | 0xff,
        ICR_LOW => ICR_WRITABLE | ICR_DELIVERY_STATUS,
        LVT_TIMER..=LVT_ERROR => {
            let index = lvt_index(offset);
            LVT_WRITABLE.get(index)? | LVT_READ_ONLY.get(index)?
        }
        INITIAL_COUNT => u32::MAX,
        DIVIDE => 0xb,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{T0, acknowledge, fixed};
    use super::{Effect, Lapic, Message, Shorthand};

    const DISABLED: u64 = 0xfee0_0000;
    const XAPIC: u64 = 0xfee0_0800;
    const X2APIC: u64 = 0xfee0_0c00;
    const INVALID: u64 = 0xfee0_0400;

    fn x2apic(cpu: u8) -> Lapic {
        let mut a = Lapic::new(cpu);
        assert!(a.set_apic_base(X2APIC));
        assert_eq!(write(&mut a, 0x80f, 0x1ff), Some(Effect::Addressed));
        a
    }

    fn read(a: &Lapic, msr: u32) -> Option<u64> {
        a.x2apic_read(T0, msr)
    }

    fn write(a: &mut Lapic, msr: u32, value: u64) -> Option<Effect> {
        a.x2apic_write(T0, msr, value)
    }

    #[test]
    fn modes_change_only_as_the_manual_allows() {
        for (path, new, allowed) in [
            (&[][..], XAPIC, true),
            (&[], DISABLED, true),
            (&[], X2APIC, true),
            (&[], INVALID, false),
            (&[X2APIC], X2APIC, true),
            (&[X2APIC], XAPIC, false),
            (&[X2APIC], DISABLED, true),
            (&[X2APIC], INVALID, false),
            (&[DISABLED], X2APIC, false),
            (&[DISABLED], XAPIC, true),
            (&[DISABLED], INVALID, false),
            (&[X2APIC, DISABLED], XAPIC, true),
        ] {
            let mut a = Lapic::new(1);
            assert!(path.iter().all(|&base| a.set_apic_base(base)));
            let before = a.apic_base();
            assert_eq!(a.set_apic_base(new), allowed, "{path:x?} {new:#x}");
            assert_eq!(a.apic_base(), if allowed { new } else { before });
        }
    }

    #[test]
    fn entering_keeps_the_state_but_for_id_and_icr_high() {
        let mut a = Lapic::new(3);
        for (offset, value) in [(0xf0, 0x1ff), (0x20, 0x0900_0000), (0x310, 0x0900_0000)] {
            a.write(T0, offset, value);
        }
        a.write(T0, 0x370, 0xfe);
        a.receive(fixed(0x41, false));
        assert!(a.set_apic_base(X2APIC));
        assert_eq!(read(&a, 0x802), Some(3));
        assert_eq!(read(&a, 0x830), Some(0));
        assert_eq!(read(&a, 0x80f), Some(0x1ff));
        assert_eq!(read(&a, 0x837), Some(0xfe));
        assert_eq!(read(&a, 0x822), Some(2));
        assert_eq!(acknowledge(&mut a), Some(0x41));
    }

    #[test]
    fn init_keeps_x2apic_mode_and_disabling_forgets_the_state() {
        let mut a = x2apic(2);
        a.receive(Message {
            mode: super::DeliveryMode::Init,
            ..fixed(0, false)
        });
        assert_eq!(read(&a, 0x802), Some(2));
        assert_eq!(read(&a, 0x80f), Some(0xff));
        write(&mut a, 0x808, 0x20);
        assert!(a.set_apic_base(DISABLED));
        assert_eq!(read(&a, 0x808), None);
        assert!(a.set_apic_base(XAPIC));
        assert_eq!(a.read(T0, 0x80), 0);
        assert_eq!(a.read(T0, 0x20), 2 << 24);
    }

    #[test]
    fn registers_are_those_of_the_manuals_table() {
        let mut a = x2apic(0);
        for msr in 0x7f0..0x910 {
            let readable = matches!(msr, 0x802 | 0x803 | 0x808 | 0x80a | 0x80d | 0x80f..=0x828
                | 0x830 | 0x832..=0x839 | 0x83e);
            let writable = matches!(
                msr,
                0x808 | 0x80b | 0x80f | 0x828 | 0x830 | 0x832..=0x838 | 0x83e | 0x83f
            );
            assert_eq!(read(&a, msr).is_some(), readable, "{msr:#x}");
            assert_eq!(write(&mut a, msr, 0).is_some(), writable, "{msr:#x}");
        }
    }

    #[test]
    fn reserved_bits_fault() {
        let mut a = x2apic(0);
        for (msr, allowed) in [
            (0x808, 0xff_u64),
            (0x80b, 0),
            (0x80f, 0x3ff),
            (0x828, 0),
            (0x830, 0xffff_ffff_000c_dfff),
            (0x832, 0x7_10ff),
            (0x833, 0x1_17ff),
            (0x834, 0x1_17ff),
            (0x835, 0x1_f7ff),
            (0x836, 0x1_f7ff),
            (0x837, 0x1_10ff),
            (0x838, 0xffff_ffff),
            (0x83e, 0xb),
            (0x83f, 0xff),
        ] {
            for bit in 0..64 {
                let took = write(&mut a, msr, 1 << bit).is_some();
                assert_eq!(took, allowed >> bit & 1 != 0, "{msr:#x} bit {bit}");
            }
        }
        assert_eq!(write(&mut a, 0x80b, 1), None);
    }

    #[test]
    fn logical_id_is_derived_and_addresses_by_cluster() {
        for (cpu, ldr) in [
            (0, 1),
            (5, 1 << 5),
            (0x1f, 1 << 16 | 1 << 15),
            (0x23, 2 << 16 | 8),
        ] {
            assert_eq!(read(&x2apic(cpu), 0x80d), Some(ldr));
        }
        let a = x2apic(0x23);
        assert!(a.address().is_destination(0x0002_0008, true));
        assert!(a.address().is_destination(0x0002_ffff, true));
        assert!(!a.address().is_destination(0x0002_0004, true));
        assert!(!a.address().is_destination(0x0003_0008, true));
        assert!(!a.address().is_destination(8, true));
        assert!(a.address().is_destination(u32::MAX, true));
        assert!(a.address().is_destination(0x23, false));
        assert!(a.address().is_destination(u32::MAX, false));
        assert!(!a.address().is_destination(0xff, false), "FFh is one CPU");
        assert!(!a.address().is_destination(0x0100_0023, false));
    }

    #[test]
    fn icr_is_one_register_of_64_bits() {
        let mut a = x2apic(0);
        let sent = |destination, vector| {
            let message = Message {
                destination,
                ..fixed(vector, false)
            };
            Some(Effect::Send(message, Shorthand::Destination))
        };
        assert_eq!(
            write(&mut a, 0x830, 0x1234_5678_0000_10fd),
            sent(0x1234_5678, 0xfd)
        );
        assert_eq!(read(&a, 0x830), Some(0x1234_5678_0000_00fd), "idle");
        assert_eq!(write(&mut a, 0x831, 0), None);
    }

    #[test]
    fn self_ipi_leaves_the_icr_alone() {
        let mut a = x2apic(7);
        write(&mut a, 0x830, 1 << 32 | 0x41);
        let Some(Effect::Send(message, Shorthand::Itself)) = write(&mut a, 0x83f, 0xf6) else {
            panic!("nothing is sent");
        };
        assert_eq!((message.vector, message.level), (0xf6, false));
        assert_eq!(read(&a, 0x830), Some(1 << 32 | 0x41));
        assert_eq!(write(&mut a, 0x83f, 5), Some(Effect::None));
        write(&mut a, 0x828, 0);
        assert_eq!(read(&a, 0x828), Some(0x20), "illegal vector sent");
    }

    #[test]
    fn linux_brings_the_local_apic_up_without_a_fault() {
        let mut a = Lapic::new(0);
        a.preset_virtual_wire();
        assert!(a.set_apic_base(a.apic_base() | 1 << 10));
        for msr in [0x803, 0x802, 0x80f, 0x835, 0x836, 0x828, 0x83e] {
            assert!(read(&a, msr).is_some(), "{msr:#x}");
        }
        for (msr, value) in [
            (0x808, 0x10), // no vectors below 20h
            (0x80f, 0x1ff),
            (0x80f, 0x3ff), // 32 bits
            (0x835, 0x700),
            (0x835, 0x1_0700),
            (0x836, 0x400),
            (0x837, 0xfe),
            (0x828, 0),
            (0x83e, 3),
            (0x832, 0x2_00ec),
            (0x838, 62_500),
            (0x832, 0x1_00ec),
            (0x838, 0),
            (0x830, 0xc_08fd),
            (0x80b, 0),
        ] {
            assert!(write(&mut a, msr, value).is_some(), "{msr:#x} {value:#x}");
        }
    }
}
