//! The rules that every backend keeps, as tests that each runs on its own: what is set is what is there, and reset is reset.

use crate::cpu::VcpuBackend;
use crate::emulate::Shadow;
use crate::regs::{Gprs, SegAttr, SegReg, Segment, SysReg};
use crate::testing::Random;

/// Runs every rule on CPUs that `make` makes.
///
/// # Panics
/// A rule is broken.
pub fn check<B: VcpuBackend>(make: impl Fn() -> B) {
    reset_is_the_manuals(&mut make());
    registers_keep_what_is_set(&mut make());
    control_registers_are_independent(&mut make());
    segments_keep_what_is_set(&mut make());
    privilege_level_is_that_of_ss(&mut make());
    shadow_is_set_and_cleared(&mut make());
    reset_undoes_everything(&mut make(), &make());
    switching_to_shadow_paging_does_not_show(&mut make());
    unloading_does_not_show(&mut make());
}

/// What the guest has in its registers is there again when the hardware is its own again.
fn unloading_does_not_show<B: VcpuBackend>(c: &mut B) {
    const REGISTERS: [SysReg; 13] = [
        SysReg::Cr2,
        SysReg::Cr3,
        SysReg::Star,
        SysReg::Lstar,
        SysReg::Cstar,
        SysReg::Sfmask,
        SysReg::KernelGsBase,
        SysReg::SysenterCs,
        SysReg::SysenterEsp,
        SysReg::SysenterEip,
        SysReg::TscOffset,
        SysReg::Pat,
        SysReg::SpecCtrl,
    ];
    for (value, reg) in (0x1000..).zip(REGISTERS) {
        c.set_sysreg(reg, value);
    }
    c.set_rip(0x1234);
    c.unload();
    c.load();
    for (value, reg) in (0x1000..).zip(REGISTERS) {
        assert_eq!(c.sysreg(reg), value, "{reg:?}");
    }
    assert_eq!(c.rip(), 0x1234);
}

/// Whatever the hardware's registers have to be under shadow paging, the guest's stay what the guest has made them.
fn switching_to_shadow_paging_does_not_show<B: VcpuBackend>(c: &mut B) {
    let mut r = Random::new(0x5ad0);
    let mut expected = [
        (SysReg::Cr0, 0x6000_0010),
        (SysReg::Cr3, 0),
        (SysReg::Cr4, 0),
        (SysReg::Efer, 0),
        (SysReg::Pat, 0x0007_0406_0007_0406),
    ];
    let mut shadow = false;
    for _ in 0..2_000 {
        match r.below(8) {
            0 => {
                shadow = !shadow;
                c.set_shadow_paging(shadow);
            }
            1 => {
                c.reset();
                expected = [
                    (SysReg::Cr0, 0x6000_0010),
                    (SysReg::Cr3, 0),
                    (SysReg::Cr4, 0),
                    (SysReg::Efer, 0),
                    (SysReg::Pat, 0x0007_0406_0007_0406),
                ];
            }
            _ => {
                let which = r.below(5) as usize;
                let value = match expected[which].0 {
                    SysReg::Cr0 => 0x10 | r.pick(&[0, 1, 0x8000_0001, 0x8001_0001, 0x8001_002b]),
                    SysReg::Cr3 => r.next() >> 24 & !0xfff,
                    SysReg::Cr4 => r.pick(&[0, 0x10, 0x20, 0xa0, 0x6a0, 0x10_00a0, 0x30_00a0]),
                    SysReg::Efer => r.pick(&[0, 0x100, 0x500, 0xd01, 0x800]),
                    _ => r.pick(&[0x0007_0406_0007_0406, 0x0407_0506_0007_0106]),
                };
                expected[which].1 = value;
                c.set_sysreg(expected[which].0, value);
            }
        }
        for (reg, value) in expected {
            assert_eq!(c.sysreg(reg), value, "{reg:?}, shadow paging {shadow}");
        }
    }
}

/// SDM vol 3A table 9-1, "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT".
fn reset_is_the_manuals<B: VcpuBackend>(c: &mut B) {
    c.reset();
    assert_eq!((c.rip(), c.rflags(), c.cpl()), (0xfff0, 2, 0));
    let cs = c.segment(SegReg::Cs);
    assert_eq!(
        (cs.selector, cs.base, cs.limit),
        (0xf000, 0xffff_0000, 0xffff)
    );
    for reg in [SegReg::Ds, SegReg::Es, SegReg::Ss, SegReg::Fs, SegReg::Gs] {
        let s = c.segment(reg);
        assert_eq!((s.selector, s.base, s.limit), (0, 0, 0xffff), "{reg:?}");
    }
    for reg in [SegReg::Gdtr, SegReg::Idtr] {
        assert_eq!(
            (c.segment(reg).base, c.segment(reg).limit),
            (0, 0xffff),
            "{reg:?}"
        );
    }
    for (reg, value) in [
        (SysReg::Cr0, 0x6000_0010),
        (SysReg::Cr3, 0),
        (SysReg::Cr4, 0),
        (SysReg::Efer, 0),
        (SysReg::Dr7, 0x400),
        (SysReg::Pat, 0x0007_0406_0007_0406),
    ] {
        assert_eq!(c.sysreg(reg), value, "{reg:?}");
    }
    assert!(!c.interrupt_shadow());
    assert_eq!(c.xcr0(), 1);
}

fn registers_keep_what_is_set<B: VcpuBackend>(c: &mut B) {
    let mut r = Random::new(0x5eed_c0de);
    for _ in 0..100 {
        let gprs = Gprs {
            regs: core::array::from_fn(|_| r.next()),
        };
        *c.gprs_mut() = gprs;
        let (rip, x) = (r.next(), r.next().to_le_bytes());
        c.set_rip(rip);
        c.set_rflags(0x246);
        let mut xmm = [0; 16];
        xmm[..8].copy_from_slice(&x);
        let index = r.below(16) as usize;
        c.fx_mut().set_xmm(index, xmm);
        assert_eq!(*c.gprs(), gprs);
        assert_eq!((c.rip(), c.rflags()), (rip, 0x246));
        assert_eq!(c.fx().xmm(index), xmm);
        for (reg, value) in [
            (SysReg::SysenterCs, r.next() & 0xffff_ffff),
            (SysReg::SysenterEsp, r.next() >> 17),
            (SysReg::SysenterEip, r.next() >> 17),
            (SysReg::Star, r.next()),
            (SysReg::Lstar, r.next() >> 17),
            (SysReg::Cstar, r.next() >> 17),
            (SysReg::Sfmask, r.next() & 0xffff_ffff),
            (SysReg::KernelGsBase, r.next() >> 17),
            (SysReg::TscOffset, r.next()),
            (SysReg::Dr7, 0x400 | r.next() & 0xff),
            (SysReg::Dr6, 0xffff_0ff0 | r.next() & 0xf),
            (SysReg::Cr2, r.next()),
        ] {
            c.set_sysreg(reg, value);
            assert_eq!(c.sysreg(reg), value, "{reg:?}");
        }
    }
    c.set_rflags(0);
    assert_eq!(c.rflags(), 2, "bit 1 is always set");
}

/// Writing one does not change another, in any order of the way to long mode and back.
fn control_registers_are_independent<B: VcpuBackend>(c: &mut B) {
    let steps = [
        (SysReg::Cr0, 0x11),
        (SysReg::Cr3, 0x1234_5000),
        (SysReg::Cr4, 0x6a0),
        (SysReg::Efer, 0x900),
        (SysReg::Cr0, 0x8005_0033),
        (SysReg::Efer, 0xd01),
        (SysReg::Cr3, 0x7000),
        (SysReg::Cr0, 0x8005_003b),
        (SysReg::Cr4, 0x620),
        (SysReg::Cr0, 0x6000_0011),
        (SysReg::Efer, 0x900),
        (SysReg::Cr0, 0x10),
    ];
    let registers = [SysReg::Cr0, SysReg::Cr3, SysReg::Cr4, SysReg::Efer];
    let mut want = registers.map(|reg| c.sysreg(reg));
    for (reg, value) in steps {
        c.set_sysreg(reg, value);
        for (want, known) in want.iter_mut().zip(registers) {
            if known == reg {
                *want = value;
            }
            assert_eq!(
                c.sysreg(known),
                *want,
                "{known:?} after {reg:?} = {value:#x}"
            );
        }
    }
}

fn segments_keep_what_is_set<B: VcpuBackend>(c: &mut B) {
    let mut r = Random::new(0x5e9_5e95);
    for _ in 0..200 {
        for reg in SegReg::WITH_SELECTOR {
            let present = Segment {
                selector: r.next() as u16,
                attr: SegAttr::from_bits_truncate(r.next() as u16) | SegAttr::P,
                limit: r.next() as u32,
                base: r.next() >> 17,
            };
            c.set_segment(reg, present);
            assert_eq!(c.segment(reg), present, "{reg:?}");
        }
        for reg in [SegReg::Gdtr, SegReg::Idtr] {
            let table = Segment {
                limit: (r.next() & 0xffff) as u32,
                base: r.next() >> 17,
                ..Segment::default()
            };
            c.set_segment(reg, table);
            let got = c.segment(reg);
            assert_eq!((got.base, got.limit), (table.base, table.limit), "{reg:?}");
        }
    }
    let null = Segment::default();
    c.set_segment(SegReg::Ds, null);
    assert!(!c.segment(SegReg::Ds).attr.contains(SegAttr::P));
}

fn privilege_level_is_that_of_ss<B: VcpuBackend>(c: &mut B) {
    for level in 0..4u16 {
        for present in [SegAttr::P, SegAttr::empty()] {
            let attr = SegAttr::from_bits_retain(0xc13 | level << 5) | present;
            c.set_segment(
                SegReg::Ss,
                Segment {
                    attr,
                    ..Segment::default()
                },
            );
            assert_eq!(u16::from(c.cpl()), level, "{attr:?}");
        }
    }
}

fn shadow_is_set_and_cleared<B: VcpuBackend>(c: &mut B) {
    for shadow in [Shadow::Sti, Shadow::MovSs] {
        c.set_interrupt_shadow(shadow);
        assert!(c.interrupt_shadow(), "{shadow:?}");
        c.clear_interrupt_shadow();
        assert!(!c.interrupt_shadow());
    }
}

fn reset_undoes_everything<B: VcpuBackend>(c: &mut B, fresh: &B) {
    registers_keep_what_is_set(c);
    control_registers_are_independent(c);
    segments_keep_what_is_set(c);
    c.set_interrupt_shadow(Shadow::Sti);
    c.reset();
    reset_is_the_manuals(c);
    assert_eq!(c.gprs(), fresh.gprs());
    for reg in SegReg::WITH_SELECTOR {
        assert_eq!(c.segment(reg), fresh.segment(reg), "{reg:?}");
    }
    for index in 0..16 {
        assert_eq!(c.fx().xmm(index), fresh.fx().xmm(index));
    }
}
