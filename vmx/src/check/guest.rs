//! The guest state.

use super::host::{EFER_BITS, EFER_LMA, EFER_LME};
use super::{Checked, Checker, canonical, is_pat};
use crate::capabilities::Capabilities;
use crate::controls::{Entry, Pin, Secondary};
use crate::event::{VALID, kind, type_of};
use crate::segment::UNUSABLE;
use crate::vmcs::{Field, segment_fields};
use hv_core::regs::{Cr0, Cr4, Rflags};

const REGISTERS: &str =
    "SDM vol 3C 27.3.1.1, \"Checks on Guest Control Registers, Debug Registers, and MSRs\"";
const SEGMENTS: &str = "SDM vol 3C 27.3.1.2, \"Checks on Guest Segment Registers\"";
const TABLES: &str = "SDM vol 3C 27.3.1.3, \"Checks on Guest Descriptor-Table Registers\"";
const FLAGS: &str = "SDM vol 3C 27.3.1.4, \"Checks on Guest RIP, RFLAGS, and SSP\"";
const OTHER: &str = "SDM vol 3C 27.3.1.5, \"Checks on Guest Non-Register State\"";
const PDPTES: &str =
    "SDM vol 3C 27.3.1.6, \"Checks on Guest Page-Directory-Pointer-Table Entries\"";

/// Access-rights bits.
const S: u64 = 1 << 4;
const P: u64 = 1 << 7;
const L: u64 = 1 << 13;
const DB: u64 = 1 << 14;
const G: u64 = 1 << 15;
/// Bits 11:8 and 31:17.
const RESERVED: u64 = 0xfffe_0f00;

/// Places in the manual's order of segment registers.
const ES: usize = 0;
const CS: usize = 1;
const SS: usize = 2;
const LDTR: usize = 6;
const TR: usize = 7;

pub fn check(c: &Checker<'_>) -> Checked {
    registers(c)?;
    segments(c)?;
    system_segments(c)?;
    tables(c)?;
    flags(c)?;
    other(c)?;
    pdptes(c)
}

/// Whether a CPU without unrestricted guest can run a guest with these segment registers and flags, in protected mode with
/// paging.
#[must_use]
pub fn segments_fit(read: &dyn Fn(Field) -> u64, capabilities: &Capabilities) -> bool {
    let mut c = Checker::new(read, capabilities);
    c.secondary -= Secondary::UNRESTRICTED_GUEST;
    segments(&c).is_ok() && system_segments(&c).is_ok() && flags(&c).is_ok()
}

struct SegmentFields {
    selector: u64,
    base: u64,
    limit: u64,
    rights: u64,
    names: [Field; 4],
}

impl SegmentFields {
    fn of(c: &Checker<'_>, index: usize) -> Self {
        let names = segment_fields(index);
        let [selector, base, limit, rights] = names.map(|f| c.get(f));
        Self {
            selector,
            base,
            limit,
            rights,
            names,
        }
    }

    fn usable(&self) -> bool {
        self.rights & u64::from(UNUSABLE) == 0
    }

    fn kind(&self) -> u64 {
        self.rights & 15
    }

    fn dpl(&self) -> u64 {
        self.rights >> 5 & 3
    }

    fn rpl(&self) -> u64 {
        self.selector & 3
    }

    /// A limit whose low bits are not all ones is in bytes; one above 1 MiB is in pages.
    fn granularity_fits(&self) -> bool {
        let pages = self.rights & G != 0;
        (self.limit & 0xfff == 0xfff || !pages) && (self.limit >> 20 == 0 || pages)
    }
}

fn registers(c: &Checker<'_>) -> Checked {
    use Field as F;
    let must = |holds, rule, fields: &[Field]| c.must(REGISTERS, holds, rule, fields);
    let cr0 = c.get(F::GUEST_CR0);
    let has = |bit: Cr0| cr0 & bit.bits() != 0;
    let (mut zero, one) = c.capabilities.cr0_fixed;
    if c.unrestricted_guest() {
        zero &= !(Cr0::PE | Cr0::PG).bits();
    }
    must(
        cr0 & zero == zero && cr0 & !one == 0,
        "CR0 must have the bits that VMX operation fixes",
        &[F::GUEST_CR0],
    )?;
    must(
        has(Cr0::PE) || !has(Cr0::PG),
        "Paging needs protected mode",
        &[F::GUEST_CR0],
    )?;
    let cr4 = c.get(F::GUEST_CR4);
    let (zero, one) = c.capabilities.cr4_fixed;
    must(
        cr4 & zero == zero && cr4 & !one == 0,
        "CR4 must have the bits that VMX operation fixes",
        &[F::GUEST_CR4],
    )?;
    let debug_controls = c.entry.contains(Entry::LOAD_DEBUG_CONTROLS);
    must(
        !debug_controls || c.get(F::GUEST_DEBUGCTL) & !0xffc3 == 0,
        "Reserved bits of DEBUGCTL must be 0",
        &[F::GUEST_DEBUGCTL],
    )?;
    let long = c.entry.contains(Entry::IA32E_MODE_GUEST);
    must(
        !long || has(Cr0::PG) && cr4 & Cr4::PAE.bits() != 0,
        "IA-32e mode needs paging and PAE",
        &[F::ENTRY_CONTROLS, F::GUEST_CR0, F::GUEST_CR4],
    )?;
    must(
        long || cr4 & Cr4::PCIDE.bits() == 0,
        "PCIDs are for IA-32e mode",
        &[F::ENTRY_CONTROLS, F::GUEST_CR4],
    )?;
    must(
        c.is_address(c.get(F::GUEST_CR3), 1),
        "CR3 must be a physical address",
        &[F::GUEST_CR3],
    )?;
    must(
        !debug_controls || c.get(F::GUEST_DR7) >> 32 == 0,
        "Bits 63:32 of DR7 must be 0",
        &[F::GUEST_DR7],
    )?;
    must(
        canonical(c.get(F::GUEST_SYSENTER_ESP)) && canonical(c.get(F::GUEST_SYSENTER_EIP)),
        "The SYSENTER addresses must be canonical",
        &[F::GUEST_SYSENTER_ESP, F::GUEST_SYSENTER_EIP],
    )?;
    must(
        !c.entry.contains(Entry::LOAD_PAT) || is_pat(c.get(F::GUEST_PAT)),
        "PAT must hold memory types",
        &[F::GUEST_PAT],
    )?;
    if !c.entry.contains(Entry::LOAD_EFER) {
        return Ok(());
    }
    let efer = c.get(F::GUEST_EFER);
    must(
        efer & !EFER_BITS == 0,
        "Reserved bits of EFER must be 0",
        &[F::GUEST_EFER],
    )?;
    must(
        (efer & EFER_LMA != 0) == long,
        "EFER.LMA must be as the control for IA-32e mode",
        &[F::GUEST_EFER, F::ENTRY_CONTROLS],
    )?;
    must(
        !has(Cr0::PG) || (efer & EFER_LMA != 0) == (efer & EFER_LME != 0),
        "With paging, EFER.LMA must be EFER.LME",
        &[F::GUEST_EFER, F::GUEST_CR0],
    )
}

/// CS, SS, DS, ES, FS and GS.
fn segments(c: &Checker<'_>) -> Checked {
    use Field as F;
    let all: [SegmentFields; 6] = core::array::from_fn(|i| SegmentFields::of(c, i));
    if c.get(F::GUEST_RFLAGS) & Rflags::VM.bits() != 0 {
        return virtual_8086(c, &all);
    }
    let must = |holds, rule, fields: &[Field]| c.must(SEGMENTS, holds, rule, fields);
    let unrestricted = c.unrestricted_guest();
    let (cs, ss) = (&all[CS], &all[SS]);
    must(
        unrestricted || ss.rpl() == cs.rpl(),
        "SS and CS must have the same RPL",
        &[ss.names[0], cs.names[0]],
    )?;
    for (i, s) in all.iter().enumerate() {
        let [_, base, _, rights] = s.names;
        match i {
            ES | CS | SS | 3 => must(
                s.base >> 32 == 0 || i != CS && !s.usable(),
                "The bases of CS, SS, DS and ES must have bits 63:32 clear",
                &[base, rights],
            )?,
            _ => must(
                canonical(s.base),
                "The bases of FS and GS must be canonical",
                &[base],
            )?,
        }
    }
    let real_mode_cs = unrestricted && cs.kind() == 3;
    must(
        matches!(cs.kind(), 9 | 11 | 13 | 15) || real_mode_cs,
        "CS must be accessed code",
        &[cs.names[3]],
    )?;
    must(
        !ss.usable() || matches!(ss.kind(), 3 | 7),
        "SS must be accessed and writable",
        &[ss.names[3]],
    )?;
    for (i, s) in all.iter().enumerate() {
        let rights = s.names[3];
        if i != CS && !s.usable() {
            continue;
        }
        if i != CS && i != SS {
            must(
                s.kind() & 1 != 0 && (s.kind() & 8 == 0 || s.kind() & 2 != 0),
                "DS, ES, FS and GS must be accessed, and readable if they are code",
                &[rights],
            )?;
            must(
                unrestricted || s.kind() > 11 || s.dpl() >= s.rpl(),
                "DS, ES, FS and GS must have a DPL not below their RPL",
                &[s.names[0], rights],
            )?;
        }
        must(
            s.rights & S != 0,
            "Code and data segments must have S set",
            &[rights],
        )?;
        must(
            s.rights & P != 0,
            "Segments that can be used must be present",
            &[rights],
        )?;
        must(
            s.rights & RESERVED == 0,
            "Reserved bits of access rights must be 0",
            &[rights],
        )?;
        must(
            s.granularity_fits(),
            "The granularity must go with the limit",
            &[s.names[2], rights],
        )?;
    }
    must(
        match cs.kind() {
            3 => cs.dpl() == 0,
            9 | 11 => cs.dpl() == ss.dpl(),
            _ => cs.dpl() <= ss.dpl(),
        },
        "CS's DPL must be SS's, or not above it if it is conforming; 0 in a data segment",
        &[cs.names[3], ss.names[3]],
    )?;
    must(
        unrestricted || ss.dpl() == ss.rpl(),
        "SS's DPL must be its RPL",
        &[ss.names[0], ss.names[3]],
    )?;
    must(
        !(cs.kind() == 3 || c.get(F::GUEST_CR0) & Cr0::PE.bits() == 0) || ss.dpl() == 0,
        "In real mode SS's DPL must be 0",
        &[ss.names[3], cs.names[3], F::GUEST_CR0],
    )?;
    let long = c.entry.contains(Entry::IA32E_MODE_GUEST);
    must(
        !long || cs.rights & (L | DB) != L | DB,
        "64-bit code must not have D set",
        &[cs.names[3]],
    )
}

fn virtual_8086(c: &Checker<'_>, all: &[SegmentFields; 6]) -> Checked {
    let must = |holds, rule, fields: &[Field]| c.must(SEGMENTS, holds, rule, fields);
    for s in all {
        must(
            s.base == s.selector << 4,
            "In virtual-8086 mode a base is sixteen times its selector",
            &s.names[..2],
        )?;
        must(
            s.limit == 0xffff,
            "In virtual-8086 mode limits are FFFFh",
            &[s.names[2]],
        )?;
        must(
            s.rights == 0xf3,
            "In virtual-8086 mode access rights are F3h",
            &[s.names[3]],
        )?;
    }
    Ok(())
}

/// TR and LDTR.
fn system_segments(c: &Checker<'_>) -> Checked {
    let must = |holds, rule, fields: &[Field]| c.must(SEGMENTS, holds, rule, fields);
    let (tr, ldtr) = (SegmentFields::of(c, TR), SegmentFields::of(c, LDTR));
    let long = c.entry.contains(Entry::IA32E_MODE_GUEST);
    must(
        tr.usable() && (tr.kind() == 11 || tr.kind() == 3 && !long),
        "TR must be a busy TSS, of 64 bits in IA-32e mode",
        &[tr.names[3]],
    )?;
    must(
        !ldtr.usable() || ldtr.kind() == 2,
        "LDTR must be an LDT",
        &[ldtr.names[3]],
    )?;
    for s in [&tr, &ldtr] {
        if !s.usable() {
            continue;
        }
        let [selector, base, limit, rights] = s.names;
        must(
            s.selector & 4 == 0,
            "TR and LDTR must be in the GDT",
            &[selector],
        )?;
        must(
            canonical(s.base),
            "The bases of TR and LDTR must be canonical",
            &[base],
        )?;
        must(
            s.rights & S == 0,
            "TR and LDTR must have S clear",
            &[rights],
        )?;
        must(s.rights & P != 0, "TR and LDTR must be present", &[rights])?;
        must(
            s.rights & RESERVED == 0,
            "Reserved bits of the access rights of TR and LDTR must be 0",
            &[rights],
        )?;
        must(
            s.granularity_fits(),
            "The granularity of TR and LDTR must go with the limit",
            &[limit, rights],
        )?;
    }
    Ok(())
}

fn tables(c: &Checker<'_>) -> Checked {
    use Field as F;
    for (base, limit) in [
        (F::GUEST_GDTR_BASE, F::GUEST_GDTR_LIMIT),
        (F::GUEST_IDTR_BASE, F::GUEST_IDTR_LIMIT),
    ] {
        c.must(
            TABLES,
            canonical(c.get(base)),
            "The bases of GDTR and IDTR must be canonical",
            &[base],
        )?;
        c.must(
            TABLES,
            c.get(limit) >> 16 == 0,
            "The limits of GDTR and IDTR must have bits 31:16 clear",
            &[limit],
        )?;
    }
    Ok(())
}

/// The event that the entry injects: its interruption type, if there is one.
fn injected(c: &Checker<'_>) -> Option<u32> {
    let info = c.get(Field::ENTRY_INTERRUPTION_INFO) as u32;
    (info & VALID != 0).then(|| type_of(info))
}

fn flags(c: &Checker<'_>) -> Checked {
    use Field as F;
    let must = |holds, rule, fields: &[Field]| c.must(FLAGS, holds, rule, fields);
    let long = c.entry.contains(Entry::IA32E_MODE_GUEST);
    let cs = SegmentFields::of(c, CS);
    let rip = c.get(F::GUEST_RIP);
    must(
        if long && cs.rights & L != 0 {
            canonical(rip)
        } else {
            rip >> 32 == 0
        },
        "RIP must be canonical in 64-bit code, and have bits 63:32 clear elsewhere",
        &[F::GUEST_RIP, cs.names[3]],
    )?;
    let rflags = c.get(F::GUEST_RFLAGS);
    must(
        rflags & !0x3f_7fd7 == 0 && rflags & Rflags::ONE.bits() != 0,
        "Reserved bits of RFLAGS must be 0, and bit 1 must be 1",
        &[F::GUEST_RFLAGS],
    )?;
    let protected = c.get(F::GUEST_CR0) & Cr0::PE.bits() != 0;
    must(
        rflags & Rflags::VM.bits() == 0 || protected && !long,
        "Virtual-8086 mode is in protected mode, and not in IA-32e mode",
        &[F::GUEST_RFLAGS, F::GUEST_CR0, F::ENTRY_CONTROLS],
    )?;
    must(
        injected(c) != Some(kind::EXTERNAL_INTERRUPT) || rflags & Rflags::IF.bits() != 0,
        "An external interrupt needs RFLAGS.IF",
        &[F::ENTRY_INTERRUPTION_INFO, F::GUEST_RFLAGS],
    )
}

fn other(c: &Checker<'_>) -> Checked {
    use Field as F;
    const STI: u64 = 1 << 0;
    const MOV_SS: u64 = 1 << 1;
    const SMI: u64 = 1 << 2;
    const NMI: u64 = 1 << 3;
    const HLT: u64 = 1;
    const BTF: u64 = 1 << 1;
    let must = |holds, rule, fields: &[Field]| c.must(OTHER, holds, rule, fields);
    let activity = c.get(F::GUEST_ACTIVITY);
    let state = c.get(F::GUEST_INTERRUPTIBILITY);
    let rflags = c.get(F::GUEST_RFLAGS);
    must(
        activity == 0 || activity < 4 && c.capabilities.misc >> (5 + activity) & 1 != 0,
        "The activity state must be one that the CPU supports",
        &[F::GUEST_ACTIVITY],
    )?;
    let ss = SegmentFields::of(c, SS);
    must(
        activity != HLT || ss.dpl() == 0,
        "Only privilege level 0 can have halted",
        &[F::GUEST_ACTIVITY, ss.names[3]],
    )?;
    must(
        activity == 0 || state & (STI | MOV_SS) == 0,
        "An inactive CPU is not in an interrupt shadow",
        &[F::GUEST_ACTIVITY, F::GUEST_INTERRUPTIBILITY],
    )?;
    must(
        state & !0xf == 0,
        "Reserved bits of the interruptibility state must be 0",
        &[F::GUEST_INTERRUPTIBILITY],
    )?;
    must(
        state & (STI | MOV_SS) != STI | MOV_SS,
        "STI and MOV SS cannot both block interrupts",
        &[F::GUEST_INTERRUPTIBILITY],
    )?;
    must(
        state & STI == 0 || rflags & Rflags::IF.bits() != 0,
        "STI blocks interrupts only with RFLAGS.IF",
        &[F::GUEST_INTERRUPTIBILITY, F::GUEST_RFLAGS],
    )?;
    let event = injected(c);
    must(
        event != Some(kind::EXTERNAL_INTERRUPT) || state & (STI | MOV_SS) == 0,
        "An external interrupt is not delivered in an interrupt shadow",
        &[F::ENTRY_INTERRUPTION_INFO, F::GUEST_INTERRUPTIBILITY],
    )?;
    // Some CPUs refuse STI's shadow too: so do we.
    must(
        event != Some(kind::NMI) || state & (STI | MOV_SS) == 0,
        "An NMI is not delivered in an interrupt shadow",
        &[F::ENTRY_INTERRUPTION_INFO, F::GUEST_INTERRUPTIBILITY],
    )?;
    must(
        state & SMI == 0,
        "SMIs are blocked in SMM only",
        &[F::GUEST_INTERRUPTIBILITY],
    )?;
    must(
        event != Some(kind::NMI) || !c.pin.contains(Pin::VIRTUAL_NMIS) || state & NMI == 0,
        "A virtual NMI is not delivered while NMIs are blocked",
        &[F::ENTRY_INTERRUPTION_INFO, F::GUEST_INTERRUPTIBILITY],
    )?;
    let pending = c.get(F::GUEST_PENDING_DEBUG);
    must(
        pending & !0x1_500f == 0,
        "Reserved bits of the pending debug exceptions must be 0",
        &[F::GUEST_PENDING_DEBUG],
    )?;
    let steps = rflags & Rflags::TF.bits() != 0 && c.get(F::GUEST_DEBUGCTL) & BTF == 0;
    must(
        state & (STI | MOV_SS) == 0 && activity != HLT || (pending & 1 << 14 != 0) == steps,
        "In an interrupt shadow a single step is pending if and only if RFLAGS.TF steps by instruction",
        &[
            F::GUEST_PENDING_DEBUG,
            F::GUEST_RFLAGS,
            F::GUEST_DEBUGCTL,
            F::GUEST_INTERRUPTIBILITY,
        ],
    )?;
    must(
        c.get(F::VMCS_LINK_POINTER) == u64::MAX,
        "The VMCS link pointer must be all ones",
        &[F::VMCS_LINK_POINTER],
    )
}

fn pdptes(c: &Checker<'_>) -> Checked {
    use Field as F;
    let cr0 = Cr0::from_bits_retain(c.get(F::GUEST_CR0));
    let cr4 = Cr4::from_bits_retain(c.get(F::GUEST_CR4));
    let pae = cr0.contains(Cr0::PG)
        && cr4.contains(Cr4::PAE)
        && !c.entry.contains(Entry::IA32E_MODE_GUEST);
    if !pae || !c.secondary.contains(Secondary::ENABLE_EPT) {
        return Ok(());
    }
    let reserved = 0x1e6 | u64::MAX << c.capabilities.physical_bits;
    for field in [
        F::GUEST_PDPTE0,
        F::GUEST_PDPTE1,
        F::GUEST_PDPTE2,
        F::GUEST_PDPTE3,
    ] {
        let entry = c.get(field);
        c.must(
            PDPTES,
            entry & 1 == 0 || entry & reserved == 0,
            "Reserved bits of present page-directory-pointer entries must be 0",
            &[field],
        )?;
    }
    Ok(())
}
