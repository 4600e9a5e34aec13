//! The task register and LDTR: SDM vol 3C 27.3.1.2, "Checks on Guest Segment Registers".

use super::segments::{BASE, LIMIT, RIGHTS, SELECTOR, Seg, require};
use crate::check::{Checked, Vmcs, rules};
use crate::formats::AccessRights;
use hv_core::regs::SegReg;

rules! { "SDM vol 3C 27.3.1.2, \"Checks on Guest Segment Registers\"":
    TR_TI = "TR's selector must refer to the GDT.";
    TR_BASE = "TR's base must be canonical.";
    TR_TYPE = "TR must be a busy 32-bit TSS, or outside IA-32e mode a busy 16-bit TSS.";
    TR_S = "TR must be a system segment.";
    TR_P = "TR must be present.";
    TR_RESERVED = "Reserved bits of TR's access rights must be 0.";
    TR_GRANULARITY = "TR's G must be 0 if any of its limit's bits 11:0 is 0, and 1 if any of its bits 31:20 is 1.";
    TR_USABLE = "TR must be usable.";
    LDTR_TI = "A usable LDTR's selector must refer to the GDT.";
    LDTR_BASE = "A usable LDTR's base must be canonical.";
    LDTR_TYPE = "A usable LDTR must be an LDT.";
    LDTR_S = "A usable LDTR must be a system segment.";
    LDTR_P = "A usable LDTR must be present.";
    LDTR_RESERVED = "Reserved bits of a usable LDTR's access rights must be 0.";
    LDTR_GRANULARITY = "A usable LDTR's G must be 0 if any of its limit's bits 11:0 is 0, and 1 if any of its bits 31:20 is 1.";
}

/// Types of system segments.
const LDT: u8 = 2;
const TSS_16_BUSY: u8 = 3;
const TSS_32_BUSY: u8 = 11;

pub(in crate::check) fn check(v: &Vmcs) -> Checked {
    task(v, &Seg::read(v, SegReg::Tr))?;
    local_table(v, &Seg::read(v, SegReg::Ldtr))
}

fn task(v: &Vmcs, tr: &Seg) -> Checked {
    let require = |holds, rule, roles: &[usize]| require(v, holds, rule, SegReg::Tr, roles);
    require(!tr.local(), TR_TI, &[SELECTOR])?;
    require(v.canonical(tr.base), TR_BASE, &[BASE])?;
    let kind = tr.rights.kind();
    require(
        kind == TSS_32_BUSY || kind == TSS_16_BUSY && !v.ia32e(),
        TR_TYPE,
        &[RIGHTS],
    )?;
    require(!tr.rights.contains(AccessRights::S), TR_S, &[RIGHTS])?;
    require(tr.rights.contains(AccessRights::P), TR_P, &[RIGHTS])?;
    require(tr.reserved().is_empty(), TR_RESERVED, &[RIGHTS])?;
    require(tr.granularity_fits(), TR_GRANULARITY, &[LIMIT, RIGHTS])?;
    require(tr.usable(), TR_USABLE, &[RIGHTS])
}

fn local_table(v: &Vmcs, ldtr: &Seg) -> Checked {
    if !ldtr.usable() {
        return Ok(());
    }
    let require = |holds, rule, roles: &[usize]| require(v, holds, rule, SegReg::Ldtr, roles);
    require(!ldtr.local(), LDTR_TI, &[SELECTOR])?;
    require(v.canonical(ldtr.base), LDTR_BASE, &[BASE])?;
    require(ldtr.rights.kind() == LDT, LDTR_TYPE, &[RIGHTS])?;
    require(!ldtr.rights.contains(AccessRights::S), LDTR_S, &[RIGHTS])?;
    require(ldtr.rights.contains(AccessRights::P), LDTR_P, &[RIGHTS])?;
    require(ldtr.reserved().is_empty(), LDTR_RESERVED, &[RIGHTS])?;
    require(ldtr.granularity_fits(), LDTR_GRANULARITY, &[LIMIT, RIGHTS])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::testing::{
        Case, LDT as LDT_RIGHTS, TSS_16, TSS_32, Table, UNUSABLE, clear_segment as clear,
        long_mode, pae, raise_segment as raise, real_mode, set_segment as set,
    };

    fn task_register() -> Table {
        let mut table = Table::default();
        for kind in 0..16 {
            let change = set(SegReg::Tr, RIGHTS, 0x80 | kind);
            table = match kind {
                11 => table.kept(pae, &change).kept(long_mode, &change),
                3 => table.kept(pae, &change).broken(TR_TYPE, long_mode, &change),
                _ => table
                    .broken(TR_TYPE, pae, &change)
                    .broken(TR_TYPE, real_mode, &change),
            };
        }
        for bit in (8..12).chain(17..32) {
            table = table.broken(TR_RESERVED, pae, raise(SegReg::Tr, RIGHTS, 1 << bit));
        }
        table
            .kept(real_mode, set(SegReg::Tr, RIGHTS, TSS_16))
            .broken(TR_S, pae, raise(SegReg::Tr, RIGHTS, 1 << 4))
            .broken(TR_P, pae, clear(SegReg::Tr, RIGHTS, AccessRights::P))
            .broken(TR_USABLE, real_mode, raise(SegReg::Tr, RIGHTS, UNUSABLE))
    }

    fn local_descriptor_table_register() -> Table {
        let mut table = Table::default();
        for kind in (0..16).filter(|&kind| kind != 2) {
            table = table.broken(LDTR_TYPE, long_mode, set(SegReg::Ldtr, RIGHTS, 0x80 | kind));
        }
        for bit in (8..12).chain(17..32) {
            table = table.broken(
                LDTR_RESERVED,
                long_mode,
                raise(SegReg::Ldtr, RIGHTS, 1 << bit),
            );
        }
        table
            .broken(LDTR_S, long_mode, raise(SegReg::Ldtr, RIGHTS, 1 << 4))
            .broken(
                LDTR_P,
                long_mode,
                clear(SegReg::Ldtr, RIGHTS, AccessRights::P),
            )
            .kept(long_mode, set(SegReg::Ldtr, RIGHTS, UNUSABLE | 0xfff))
    }

    fn selectors_and_bases() -> Table {
        Table::default()
            .broken(TR_TI, pae, raise(SegReg::Tr, SELECTOR, 4))
            .broken(TR_BASE, long_mode, set(SegReg::Tr, BASE, 1 << 47))
            .kept(long_mode, set(SegReg::Tr, BASE, !0 << 47))
            .broken(LDTR_TI, long_mode, raise(SegReg::Ldtr, SELECTOR, 4))
            .broken(LDTR_BASE, long_mode, set(SegReg::Ldtr, BASE, 1 << 47))
            .kept(long_mode, set(SegReg::Ldtr, BASE, !0 << 47))
            .kept(long_mode, |c| {
                c.set_segment(SegReg::Ldtr, [4, 1 << 47, 0, UNUSABLE]);
            })
    }

    fn granularity() -> Table {
        const G: u64 = 1 << 15;
        let with = |name, limit: u64, rights: u64| {
            move |c: &mut Case| {
                set(name, LIMIT, limit)(c);
                set(name, RIGHTS, rights)(c);
            }
        };
        let mut table = Table::default();
        for (name, rule, rights) in [
            (SegReg::Tr, TR_GRANULARITY, TSS_32),
            (SegReg::Ldtr, LDTR_GRANULARITY, LDT_RIGHTS),
        ] {
            table = table
                .kept(pae, with(name, 0xf_ffff, rights))
                .kept(pae, with(name, 0xffff_ffff, rights | G))
                .broken(rule, pae, with(name, 0xf_f7ff, rights | G))
                .broken(rule, pae, with(name, 0x10_0000, rights));
        }
        table
    }

    #[test]
    fn each_rule_is_found_broken() {
        Table::cover(
            &[
                task_register,
                local_descriptor_table_register,
                selectors_and_bases,
                granularity,
            ],
            RULES,
        );
    }
}
