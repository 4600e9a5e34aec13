//! SDM vol 3C 27.3.1.2, "Checks on Guest Segment Registers".

use crate::check::{Checked, Rule, Vmcs, rules, within};
use crate::formats::AccessRights;
use crate::vmcs::{Field as F, segment_fields};
use hv_core::regs::{Cr0, Rflags, SegReg};

rules! { "SDM vol 3C 27.3.1.2, \"Checks on Guest Segment Registers\"":
    TR_TI = "TR's selector must refer to the GDT.";
    LDTR_TI = "A usable LDTR's selector must refer to the GDT.";
    SS_RPL = "Without unrestricted guest, the RPLs of SS and CS must be equal.";
    V86_BASE = "In virtual-8086 mode, a segment's base must be 16 times its selector.";
    V86_LIMIT = "In virtual-8086 mode, a segment's limit must be FFFFH.";
    V86_RIGHTS = "In virtual-8086 mode, a segment's access rights must be F3H.";
    BASE_CANONICAL = "The bases of TR, FS, GS and a usable LDTR must be canonical.";
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
    TR_TYPE = "TR must be a busy 32-bit TSS, or outside IA-32e mode a busy 16-bit TSS.";
    TR_S = "TR must be a system segment.";
    TR_P = "TR must be present.";
    TR_RESERVED = "Reserved bits of TR's access rights must be 0.";
    TR_GRANULARITY = "TR's G must be 0 if any of its limit's bits 11:0 is 0, and 1 if any of its bits 31:20 is 1.";
    TR_USABLE = "TR must be usable.";
    LDTR_TYPE = "A usable LDTR must be an LDT.";
    LDTR_S = "A usable LDTR must be a system segment.";
    LDTR_P = "A usable LDTR must be present.";
    LDTR_RESERVED = "Reserved bits of a usable LDTR's access rights must be 0.";
    LDTR_GRANULARITY = "A usable LDTR's G must be 0 if any of its limit's bits 11:0 is 0, and 1 if any of its bits 31:20 is 1.";
}

/// Access rights in virtual-8086 mode: present, read/write accessed data, DPL 3.
const V86: u64 = 0xf3;
/// Types of code and data segments.
const DATA_RW_ACCESSED: u8 = 3;
const DATA_RW_EXPAND_DOWN_ACCESSED: u8 = 7;
const CODE: u8 = 8;
/// Types of system segments.
const LDT: u8 = 2;
const TSS_16_BUSY: u8 = 3;
const TSS_32_BUSY: u8 = 11;

/// A segment register as the VMCS has it.
#[derive(Clone, Copy)]
struct Seg {
    name: SegReg,
    selector: u64,
    base: u64,
    limit: u32,
    rights: AccessRights,
}

impl Seg {
    fn read(v: &Vmcs, name: SegReg) -> Self {
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

    fn local(&self) -> bool {
        self.selector & 4 != 0
    }

    /// CS is never unusable.
    fn usable(&self) -> bool {
        self.name == SegReg::Cs || self.rights.usable()
    }

    fn granularity_fits(&self) -> bool {
        if self.rights.contains(AccessRights::G) {
            self.limit & 0xfff == 0xfff
        } else {
            self.limit & 0xfff0_0000 == 0
        }
    }

    fn reserved(&self) -> AccessRights {
        const KNOWN: AccessRights = AccessRights::from_bits_retain(0x1_f0ff);
        self.rights.difference(KNOWN)
    }
}

/// The segment fields' roles in [`segment_fields`].
const SELECTOR: usize = 0;
const BASE: usize = 1;
const LIMIT: usize = 2;
const RIGHTS: usize = 3;

/// Requires `holds`, blaming the fields of `segment` that `roles` tells.
fn require(v: &Vmcs, holds: bool, rule: &Rule, segment: SegReg, roles: &[usize]) -> Checked {
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
    task(v, &Seg::read(v, SegReg::Tr))?;
    local_table(v, &Seg::read(v, SegReg::Ldtr))
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
    require(
        v,
        u64::from(s.rights.bits()) == V86,
        V86_RIGHTS,
        s.name,
        &[RIGHTS],
    )
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

fn task(v: &Vmcs, tr: &Seg) -> Checked {
    let require = |holds, rule, roles: &[usize]| require(v, holds, rule, SegReg::Tr, roles);
    require(!tr.local(), TR_TI, &[SELECTOR])?;
    require(v.canonical(tr.base), BASE_CANONICAL, &[BASE])?;
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
    require(v.canonical(ldtr.base), BASE_CANONICAL, &[BASE])?;
    require(ldtr.rights.kind() == LDT, LDTR_TYPE, &[RIGHTS])?;
    require(!ldtr.rights.contains(AccessRights::S), LDTR_S, &[RIGHTS])?;
    require(ldtr.rights.contains(AccessRights::P), LDTR_P, &[RIGHTS])?;
    require(ldtr.reserved().is_empty(), LDTR_RESERVED, &[RIGHTS])?;
    require(ldtr.granularity_fits(), LDTR_GRANULARITY, &[LIMIT, RIGHTS])
}
