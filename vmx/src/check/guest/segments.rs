//! Code and data segments: SDM vol 3C 27.3.1.2, "Checks on Guest Segment Registers".

use crate::check::{Checked, Rule, Vmcs, rules, within};
use crate::formats::AccessRights;
use crate::vmcs::{Field as F, segment_fields};
use hv_core::regs::{Cr0, Rflags, SegReg};

rules! { "SDM vol 3C 27.3.1.2, \"Checks on Guest Segment Registers\"":
    SS_RPL = "Without unrestricted guest, the RPLs of SS and CS must be equal.";
    V86_BASE = "In virtual-8086 mode, a segment's base must be 16 times its selector.";
    V86_LIMIT = "In virtual-8086 mode, a segment's limit must be FFFFH.";
    V86_RIGHTS = "In virtual-8086 mode, a segment's access rights must be F3H.";
    BASE_CANONICAL = "The bases of FS and GS must be canonical.";
    BASE_32 = "The bases of CS and of usable SS, DS and ES must have 32 bits.";
    CS_TYPE = "CS must be an accessed code segment, or with unrestricted guest a read/write accessed expand-up data segment.";
    SS_TYPE = "A usable SS must be a read/write accessed data segment.";
    DATA_TYPE = "A usable DS, ES, FS or GS must be accessed, and readable if it is a code segment.";
    S = "CS and usable data segments must not be system segments.";
    CS_DPL_DATA = "A data segment in CS must have DPL 0.";
    CS_DPL_NONCONFORMING = "The DPL of a non-conforming code segment in CS must equal that of SS.";
    CS_DPL_CONFORMING = "The DPL of a conforming code segment in CS must not be greater than that of SS.";
    SS_DPL_RPL = "Without unrestricted guest, the DPL of SS must equal its RPL.";
    SS_DPL_0 = "The DPL of SS must be 0 in real mode and with a data segment in CS.";
    DATA_DPL = "Without unrestricted guest, the DPL of a usable DS, ES, FS or GS must not be less than its RPL, but for conforming \
        code segments.";
    P = "CS and usable data segments must be present.";
    RESERVED = "Reserved bits of the access rights of CS and usable data segments must be 0.";
    CS_DB_L = "CS must not have both D and L in an IA-32e mode guest.";
    GRANULARITY = "G must be 0 if any of a segment limit's bits 11:0 is 0, and 1 if any of its bits 31:20 is 1.";
}

/// Access rights in virtual-8086 mode: present, read/write accessed data, DPL 3.
const V86: u32 = 0xf3;
/// Types of segments.
const DATA_RW_ACCESSED: u8 = 3;
const DATA_RW_EXPAND_DOWN_ACCESSED: u8 = 7;
const CODE: u8 = 8;

/// A segment register as the VMCS has it.
#[derive(Clone, Copy)]
pub(super) struct Seg {
    name: SegReg,
    selector: u64,
    pub base: u64,
    limit: u32,
    pub rights: AccessRights,
}

impl Seg {
    pub fn read(v: &Vmcs, name: SegReg) -> Self {
        let [selector, base, limit, rights] = segment_fields(name as usize);
        Self {
            name,
            selector: v.get(selector),
            base: v.get(base),
            limit: v.get(limit) as u32,
            rights: AccessRights::from_bits_retain(v.get(rights) as u32),
        }
    }

    fn rpl(&self) -> u8 {
        self.selector as u8 & 3
    }

    pub fn local(&self) -> bool {
        self.selector & 4 != 0
    }

    /// CS is never unusable.
    pub fn usable(&self) -> bool {
        self.name == SegReg::Cs || self.rights.usable()
    }

    pub fn granularity_fits(&self) -> bool {
        if self.rights.contains(AccessRights::G) {
            self.limit & 0xfff == 0xfff
        } else {
            self.limit & 0xfff0_0000 == 0
        }
    }

    pub fn reserved(&self) -> AccessRights {
        const KNOWN: AccessRights = AccessRights::from_bits_retain(0x1_f0ff);
        self.rights.difference(KNOWN)
    }
}

/// The segment fields' roles in [`segment_fields`].
pub(super) const SELECTOR: usize = 0;
pub(super) const BASE: usize = 1;
pub(super) const LIMIT: usize = 2;
pub(super) const RIGHTS: usize = 3;

/// Requires `holds`, blaming the fields of `segment` that `roles` tells.
pub(super) fn require(
    v: &Vmcs,
    holds: bool,
    rule: &Rule,
    segment: SegReg,
    roles: &[usize],
) -> Checked {
    if holds {
        return Ok(());
    }
    let fields = segment_fields(segment as usize);
    let blamed: alloc::vec::Vec<F> = roles.iter().map(|&r| fields[r]).collect();
    v.require(false, rule, &blamed)
}

pub(in crate::check) fn check(v: &Vmcs) -> Checked {
    let cs = Seg::read(v, SegReg::Cs);
    let ss = Seg::read(v, SegReg::Ss);
    let data = [SegReg::Ds, SegReg::Es, SegReg::Fs, SegReg::Gs].map(|name| Seg::read(v, name));
    let rflags = Rflags::from_bits_retain(v.get(F::GUEST_RFLAGS));
    if rflags.contains(Rflags::VM) {
        for segment in [cs, ss].iter().chain(&data) {
            virtual_8086(v, segment)?;
        }
    } else {
        code(v, &cs, &ss)?;
        stack(v, &ss, &cs)?;
        for segment in &data {
            data_segment(v, segment)?;
        }
    }
    Ok(())
}

fn virtual_8086(v: &Vmcs, s: &Seg) -> Checked {
    require(
        v,
        s.base == s.selector << 4,
        V86_BASE,
        s.name,
        &[SELECTOR, BASE],
    )?;
    require(v, s.limit == 0xffff, V86_LIMIT, s.name, &[LIMIT])?;
    require(v, s.rights.bits() == V86, V86_RIGHTS, s.name, &[RIGHTS])
}

fn code(v: &Vmcs, cs: &Seg, ss: &Seg) -> Checked {
    let kind = cs.rights.kind();
    let accessed_code = kind & CODE != 0 && cs.rights.contains(AccessRights::ACCESSED);
    require(
        v,
        accessed_code || v.unrestricted() && kind == DATA_RW_ACCESSED,
        CS_TYPE,
        SegReg::Cs,
        &[RIGHTS],
    )?;
    let both = [F::GUEST_CS_ACCESS_RIGHTS, F::GUEST_SS_ACCESS_RIGHTS];
    let (cs_dpl, ss_dpl) = (cs.rights.dpl(), ss.rights.dpl());
    if !accessed_code {
        require(v, cs_dpl == 0, CS_DPL_DATA, SegReg::Cs, &[RIGHTS])?;
    } else if cs.rights.contains(AccessRights::DC) {
        v.require(cs_dpl <= ss_dpl, CS_DPL_CONFORMING, &both)?;
    } else {
        v.require(cs_dpl == ss_dpl, CS_DPL_NONCONFORMING, &both)?;
    }
    require(
        v,
        !v.ia32e() || !cs.rights.contains(AccessRights::L | AccessRights::DB),
        CS_DB_L,
        SegReg::Cs,
        &[RIGHTS],
    )?;
    code_or_data(v, cs)
}

fn stack(v: &Vmcs, ss: &Seg, cs: &Seg) -> Checked {
    if !v.unrestricted() {
        v.require(
            ss.rpl() == cs.rpl(),
            SS_RPL,
            &[F::GUEST_SS_SELECTOR, F::GUEST_CS_SELECTOR],
        )?;
        // Usable or not: it is the CPL.
        require(
            v,
            ss.rights.dpl() == ss.rpl(),
            SS_DPL_RPL,
            SegReg::Ss,
            &[SELECTOR, RIGHTS],
        )?;
    }
    let protected = Cr0::from_bits_retain(v.get(F::GUEST_CR0)).contains(Cr0::PE);
    let data_in_cs = cs.rights.kind() == DATA_RW_ACCESSED;
    v.require(
        ss.rights.dpl() == 0 || protected && !data_in_cs,
        SS_DPL_0,
        &[
            F::GUEST_SS_ACCESS_RIGHTS,
            F::GUEST_CS_ACCESS_RIGHTS,
            F::GUEST_CR0,
        ],
    )?;
    if !ss.usable() {
        return Ok(());
    }
    let kind = ss.rights.kind();
    require(
        v,
        kind == DATA_RW_ACCESSED || kind == DATA_RW_EXPAND_DOWN_ACCESSED,
        SS_TYPE,
        SegReg::Ss,
        &[RIGHTS],
    )?;
    code_or_data(v, ss)
}

fn data_segment(v: &Vmcs, s: &Seg) -> Checked {
    if matches!(s.name, SegReg::Fs | SegReg::Gs) {
        require(v, v.canonical(s.base), BASE_CANONICAL, s.name, &[BASE])?;
    }
    if !s.usable() {
        return Ok(());
    }
    let readable = s.rights.contains(AccessRights::RW) || !s.rights.contains(AccessRights::CODE);
    require(
        v,
        s.rights.contains(AccessRights::ACCESSED) && readable,
        DATA_TYPE,
        s.name,
        &[RIGHTS],
    )?;
    let conforming = s.rights.contains(AccessRights::CODE | AccessRights::DC);
    require(
        v,
        v.unrestricted() || conforming || s.rights.dpl() >= s.rpl(),
        DATA_DPL,
        s.name,
        &[SELECTOR, RIGHTS],
    )?;
    code_or_data(v, s)
}

/// What CS and usable data segments have in common.
fn code_or_data(v: &Vmcs, s: &Seg) -> Checked {
    if !matches!(s.name, SegReg::Fs | SegReg::Gs) {
        require(v, within(s.base, 32), BASE_32, s.name, &[BASE])?;
    }
    require(v, s.rights.contains(AccessRights::S), S, s.name, &[RIGHTS])?;
    require(v, s.rights.contains(AccessRights::P), P, s.name, &[RIGHTS])?;
    require(v, s.reserved().is_empty(), RESERVED, s.name, &[RIGHTS])?;
    require(
        v,
        s.granularity_fits(),
        GRANULARITY,
        s.name,
        &[LIMIT, RIGHTS],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::segments_fit;
    use crate::check::testing::{
        BASELINES, CODE_16, CODE_32, CODE_64, Case, DATA_16, DATA_32, Table, UNUSABLE,
        clear_segment as clear, long_mode, pae, raise_segment as raise, real_mode, restricted,
        set_segment as set, unpaged, virtual_8086,
    };

    const ALL: [SegReg; 6] = [
        SegReg::Es,
        SegReg::Cs,
        SegReg::Ss,
        SegReg::Ds,
        SegReg::Fs,
        SegReg::Gs,
    ];
    const DATA: [SegReg; 4] = [SegReg::Ds, SegReg::Es, SegReg::Fs, SegReg::Gs];

    /// Gives CS and SS these types and privilege levels.
    fn code_and_stack(cs: u64, ss: u64) -> impl Fn(&mut Case) {
        move |c| {
            set(SegReg::Cs, RIGHTS, cs)(c);
            set(SegReg::Ss, RIGHTS, ss)(c);
        }
    }

    fn dpl(level: u64) -> u64 {
        level << 5
    }

    fn selectors() -> Table {
        Table::default()
            .broken(SS_RPL, restricted, raise(SegReg::Ss, SELECTOR, 1))
            .kept(pae, raise(SegReg::Ss, SELECTOR, 1))
            .kept(virtual_8086, |c| {
                c.clear_secondary(crate::controls::Secondary::UNRESTRICTED_GUEST);
            })
    }

    fn virtual_8086_segments() -> Table {
        let mut table = Table::default();
        for name in ALL {
            table = table
                .broken(V86_BASE, virtual_8086, raise(name, BASE, 1))
                .broken(V86_BASE, virtual_8086, raise(name, BASE, 1 << 32))
                .broken(V86_LIMIT, virtual_8086, set(name, LIMIT, 0xfffe))
                .broken(V86_LIMIT, virtual_8086, set(name, LIMIT, 0xffff_ffff))
                .broken(V86_RIGHTS, virtual_8086, set(name, RIGHTS, 0x93))
                .broken(V86_RIGHTS, virtual_8086, set(name, RIGHTS, 0xfb))
                .broken(V86_RIGHTS, virtual_8086, raise(name, RIGHTS, UNUSABLE));
        }
        table
    }

    fn bases() -> Table {
        let mut table = Table::default();
        for name in [SegReg::Fs, SegReg::Gs] {
            table = table
                .broken(BASE_CANONICAL, long_mode, set(name, BASE, 1 << 47))
                .kept(long_mode, set(name, BASE, !0 << 47));
        }
        // FS and GS keep their base when unusable.
        let unusable = |name, base: u64| {
            move |c: &mut Case| {
                set(name, RIGHTS, UNUSABLE)(c);
                set(name, BASE, base)(c);
            }
        };
        for name in [SegReg::Fs, SegReg::Gs] {
            table = table
                .broken(BASE_CANONICAL, long_mode, unusable(name, 1 << 47))
                .kept(long_mode, unusable(name, 0x7fff_ffff_ffff));
        }
        for name in [SegReg::Cs, SegReg::Ss, SegReg::Ds, SegReg::Es] {
            table = table
                .broken(BASE_32, pae, set(name, BASE, 1 << 32))
                .broken(BASE_32, real_mode, set(name, BASE, !0))
                .kept(pae, set(name, BASE, 0xffff_ffff));
        }
        for name in [SegReg::Ss, SegReg::Ds, SegReg::Es] {
            table = table.kept(pae, unusable(name, !0));
        }
        table
    }

    fn types() -> Table {
        let mut table = Table::default();
        for kind in 0..16u64 {
            let data = |name| set(name, RIGHTS, 0xc090 | kind);
            // CS: accessed code; without unrestricted guest no data.
            for (baseline, unrestricted) in [
                (pae as fn() -> Case, true),
                (restricted as fn() -> Case, false),
            ] {
                table = if matches!(kind, 9 | 11 | 13 | 15) || kind == 3 && unrestricted {
                    table.kept(baseline, data(SegReg::Cs))
                } else {
                    table.broken(CS_TYPE, baseline, data(SegReg::Cs))
                };
            }
            table = if matches!(kind, 3 | 7) {
                table.kept(pae, data(SegReg::Ss))
            } else {
                table.broken(SS_TYPE, pae, data(SegReg::Ss))
            };
            for name in DATA {
                let unusable = set(name, RIGHTS, UNUSABLE | kind);
                table = table.kept(pae, unusable);
                table = if matches!(kind, 1 | 3 | 5 | 7 | 11 | 15) {
                    table.kept(pae, data(name))
                } else {
                    table.broken(DATA_TYPE, pae, data(name))
                };
            }
        }
        table
    }

    fn privilege_of_code_and_stack() -> Table {
        let conforming = CODE_32 | 4;
        let selectors = |rpl: u64| {
            move |c: &mut Case| {
                set(SegReg::Cs, SELECTOR, 0x20 | rpl)(c);
                set(SegReg::Ss, SELECTOR, 0x28 | rpl)(c);
                for name in DATA {
                    set(name, RIGHTS, UNUSABLE)(c);
                }
            }
        };
        let mut table = Table::default();
        for cs in 0..4 {
            for ss in 0..4 {
                let with = |code: u64| {
                    move |c: &mut Case| {
                        selectors(ss)(c);
                        code_and_stack(code | dpl(cs), DATA_32 | dpl(ss))(c);
                    }
                };
                table = if cs == ss {
                    table.kept(restricted, with(CODE_32))
                } else {
                    table.broken(CS_DPL_NONCONFORMING, restricted, with(CODE_32))
                };
                table = if cs <= ss {
                    table.kept(restricted, with(conforming))
                } else {
                    table.broken(CS_DPL_CONFORMING, restricted, with(conforming))
                };
            }
        }
        table
            .broken(SS_DPL_RPL, restricted, selectors(1))
            // It is the CPL even where SS is unusable.
            .broken(SS_DPL_RPL, restricted, |c| {
                selectors(0)(c);
                code_and_stack(CODE_32 | dpl(3), UNUSABLE | dpl(3))(c);
            })
            .kept(restricted, |c| {
                selectors(3)(c);
                code_and_stack(CODE_32 | dpl(3), UNUSABLE | dpl(3))(c);
            })
            .kept(pae, selectors(1))
            .broken(CS_DPL_DATA, pae, code_and_stack(DATA_32 | dpl(1), DATA_32))
            .kept(unpaged, code_and_stack(DATA_16, DATA_16))
            .broken(SS_DPL_0, unpaged, code_and_stack(DATA_16, DATA_16 | dpl(1)))
            .broken(
                SS_DPL_0,
                real_mode,
                code_and_stack(CODE_16 | dpl(3), DATA_16 | dpl(3)),
            )
            .kept(unpaged, code_and_stack(CODE_16 | dpl(3), DATA_16 | dpl(3)))
    }

    fn privilege_of_data() -> Table {
        let mut table = Table::default();
        for name in DATA {
            for rpl in 0..4 {
                for level in 0..4 {
                    let with = |kind: u64| {
                        move |c: &mut Case| {
                            set(name, SELECTOR, 0x28 | rpl)(c);
                            set(name, RIGHTS, kind | dpl(level))(c);
                        }
                    };
                    for kind in [DATA_32, CODE_32] {
                        table = if level >= rpl {
                            table.kept(restricted, with(kind))
                        } else {
                            table.broken(DATA_DPL, restricted, with(kind))
                        };
                        table = table.kept(pae, with(kind));
                    }
                    // Conforming code, and unusable registers.
                    table = table
                        .kept(restricted, with(CODE_32 | 4))
                        .kept(restricted, with(DATA_32 | UNUSABLE));
                }
            }
        }
        table
    }

    fn other_access_rights() -> Table {
        let mut table = Table::default()
            .broken(CS_DB_L, long_mode, set(SegReg::Cs, RIGHTS, 0xe0fb))
            .kept(pae, set(SegReg::Cs, RIGHTS, CODE_32 | 1 << 13))
            .kept(long_mode, set(SegReg::Cs, RIGHTS, CODE_64 | dpl(3)))
            .kept(
                long_mode,
                set(SegReg::Cs, RIGHTS, CODE_64 | dpl(3) | 1 << 12),
            );
        for name in ALL {
            table = table
                .broken(S, pae, clear(name, RIGHTS, AccessRights::S))
                .broken(P, pae, clear(name, RIGHTS, AccessRights::P));
            for bit in (8..12).chain(17..32) {
                table = table.broken(RESERVED, pae, raise(name, RIGHTS, 1 << bit));
            }
            if name != SegReg::Cs {
                table = table.kept(pae, set(name, RIGHTS, UNUSABLE | 1 << 8 | 1 << 31));
            }
        }
        table
    }

    fn granularity() -> Table {
        let with = |name, limit: u64, rights: u64| {
            move |c: &mut Case| {
                set(name, LIMIT, limit)(c);
                set(name, RIGHTS, rights)(c);
            }
        };
        const G: u64 = 1 << 15;
        let mut table = Table::default();
        for (name, rights) in [
            (SegReg::Cs, CODE_16),
            (SegReg::Ss, DATA_16),
            (SegReg::Ds, DATA_16),
            (SegReg::Es, DATA_16),
            (SegReg::Fs, DATA_16),
            (SegReg::Gs, DATA_16),
        ] {
            table = table
                .kept(pae, with(name, 0xf_ffff, rights))
                .kept(pae, with(name, 0xf_ffff, rights | G))
                .kept(pae, with(name, 0xffff_ffff, rights | G))
                .kept(pae, with(name, 0, rights))
                .broken(GRANULARITY, pae, with(name, 0xf_fffe, rights | G))
                .broken(GRANULARITY, pae, with(name, 0xf_f7ff, rights | G))
                .broken(GRANULARITY, pae, with(name, 0x10_0000, rights))
                .broken(GRANULARITY, pae, with(name, 0xffff_ffff, rights));
        }
        // Big real mode.
        table.kept(real_mode, with(SegReg::Ds, 0xffff_ffff, DATA_16 | G))
    }

    #[test]
    fn each_rule_is_found_broken() {
        Table::cover(
            &[
                selectors,
                virtual_8086_segments,
                bases,
                types,
                privilege_of_code_and_stack,
                privilege_of_data,
                other_access_rights,
                granularity,
            ],
            RULES,
        );
    }

    #[test]
    fn what_needs_unrestricted_guest_does_not_fit_hardware_without() {
        let fits = |baseline: fn() -> Case, change: &dyn Fn(&mut Case)| {
            let mut case = baseline();
            change(&mut case);
            segments_fit(&|field| case.read(field))
        };
        assert!(!fits(pae, &raise(SegReg::Ss, SELECTOR, 1)));
        assert!(!fits(pae, &set(SegReg::Cs, RIGHTS, DATA_32)));
        assert!(!fits(pae, &raise(SegReg::Ds, SELECTOR, 3)));
        assert!(!fits(virtual_8086, &set(SegReg::Fs, LIMIT, 0xffff_ffff)));
        // All the same as check, for what does not.
        for baseline in BASELINES {
            let case = baseline();
            let restricted = {
                let mut case = case.clone();
                case.clear_secondary(crate::controls::Secondary::UNRESTRICTED_GUEST);
                case.check().is_ok()
            };
            assert_eq!(segments_fit(&|field| case.read(field)), restricted);
        }
    }
}
