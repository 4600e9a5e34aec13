//! Segment descriptors: reading them, and loading segment registers from them (SDM vol 3A 3.4.5, "Segment Descriptors", and
//! 5.6 to 5.8 for the privilege checks; APM vol 2 4.7 and 4.8).

use super::Res;
use super::exec::Exec;
use super::segment::Use;
use super::{AccessKind, EmuCx, EmuFault, Kind, Mode};
use crate::event::vector;
use crate::regs::{SegAttr, SegReg, Segment};

/// A descriptor's type: a 32-bit or 64-bit TSS that is not busy.
const TSS_AVAILABLE: u16 = 9;
/// A descriptor's type: a 16-bit TSS that is not busy.
const TSS16_AVAILABLE: u16 = 1;
/// A descriptor's type: an LDT.
pub(super) const LDT: u16 = 2;
/// A descriptor's type bit that makes a TSS busy.
pub(super) const BUSY: u64 = 1 << 41;
/// A code or data descriptor's accessed bit.
const ACCESSED: u64 = 1 << 40;

/// The eight bytes of a descriptor and where they are.
#[derive(Clone, Copy)]
pub(super) struct Descriptor {
    pub raw: u64,
    pub linear: u64,
}

impl Descriptor {
    pub fn attr(self) -> SegAttr {
        SegAttr::from_bits_retain((self.raw >> 40 & 0xff | self.raw >> 44 & 0xf00) as u16)
    }

    /// The type field of a system descriptor, if it is one.
    pub fn system_type(self) -> Option<u16> {
        let attr = self.attr();
        (!attr.contains(SegAttr::S)).then_some(attr.bits() & 0xf)
    }

    pub fn limit(self) -> u32 {
        let limit = (self.raw & 0xffff | self.raw >> 32 & 0xf_0000) as u32;
        if self.attr().contains(SegAttr::G) {
            limit << 12 | 0xfff
        } else {
            limit
        }
    }

    /// The segment register that `selector` makes of it.
    pub fn segment(self, selector: u16) -> Segment {
        let base = self.raw >> 16 & 0xff_ffff | self.raw >> 32 & 0xff00_0000;
        Segment {
            selector,
            attr: self.attr(),
            limit: self.limit(),
            base,
        }
    }
}

/// How control reaches a code segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Transfer {
    /// JMP or CALL.
    Jump,
    /// RETF or IRET, to the privilege level that the selector asks for.
    Return,
}

impl<C: EmuCx + ?Sized> Exec<'_, C> {
    /// A fault whose error code names a selector.
    pub fn selector_fault(&self, vector: u8, selector: u16) -> EmuFault {
        self.fault(vector, selector & !3)
    }

    /// Reads the descriptor of a selector that is not null; #GP(selector) beyond the table.
    pub fn descriptor(&mut self, selector: u16) -> Res<Descriptor> {
        let missing = self.selector_fault(vector::GP, selector);
        self.descriptor_or(selector, missing)
    }

    /// Reads the descriptor of a selector that is not null, or raises `missing` beyond the table.
    pub fn descriptor_or(&mut self, selector: u16, missing: EmuFault) -> Res<Descriptor> {
        let table = self.cx.segment(if selector & 4 == 0 {
            SegReg::Gdtr
        } else {
            SegReg::Ldtr
        });
        let no_table = selector & 4 != 0 && !table.attr.contains(SegAttr::P);
        if no_table || u32::from(selector | 7) > table.limit {
            return Err(missing);
        }
        let linear = self.table_address(table.base, u64::from(selector & !7));
        Ok(Descriptor {
            raw: self.read(linear, 8, AccessKind::System)?,
            linear,
        })
    }

    /// An address in a system table.
    pub fn table_address(&self, base: u64, offset: u64) -> u64 {
        let linear = base.wrapping_add(offset);
        if self.lma() {
            linear
        } else {
            linear & 0xffff_ffff
        }
    }

    /// EFER.LMA.
    pub fn lma(&self) -> bool {
        matches!(self.mode.kind, Kind::Long64 | Kind::Protected { lma: true })
    }

    /// Sets the accessed bit of a code or data descriptor.
    pub fn mark_accessed(&mut self, d: Descriptor) -> Res<Descriptor> {
        let raw = d.raw | ACCESSED;
        if raw != d.raw {
            self.update_descriptor_byte(d.linear.wrapping_add(5), ACCESSED >> 40, 0)?;
        }
        Ok(Descriptor { raw, ..d })
    }

    /// Makes the descriptor of a TSS that is not busy busy, for LTR. If another CPU was faster, the instruction begins again, and faults.
    fn mark_busy(&mut self, d: Descriptor) -> Res<Descriptor> {
        let raw = d.raw | BUSY;
        let byte = |raw: u64| u128::from(raw >> 40 & 0xff);
        let (seen, mut found) = (byte(d.raw), 0);
        let at = d.linear.wrapping_add(5);
        self.update_locked(at, 1, AccessKind::System, &mut |there| {
            found = there;
            if there == seen { byte(raw) } else { there }
        })?;
        match found == seen {
            true => Ok(Descriptor { raw, ..d }),
            false => Err(EmuFault::Retry),
        }
    }

    /// The mode that code in a segment with these attributes runs in.
    pub fn code_mode(&self, attr: SegAttr) -> Mode {
        if self.lma() && attr.contains(SegAttr::L) {
            return Mode {
                kind: Kind::Long64,
                bits: 64,
            };
        }
        Mode {
            kind: Kind::Protected { lma: self.lma() },
            bits: if attr.contains(SegAttr::DB) { 32 } else { 16 },
        }
    }

    /// A segment register as a load of `selector` in real or virtual-8086 mode leaves it. In real mode limit and attributes
    /// stay: that is what makes "big real mode" work.
    pub fn segment_by_paragraph(&self, seg: SegReg, selector: u16) -> Segment {
        let base = u64::from(selector) << 4;
        let old = self.cx.segment(seg);
        let data = SegAttr::P | SegAttr::S | SegAttr::RW | SegAttr::ACCESSED;
        if self.mode.kind == Kind::Vm86 {
            return Segment {
                selector,
                attr: data | SegAttr::DPL0 | SegAttr::DPL1,
                limit: 0xffff,
                base,
            };
        }
        if old.attr.contains(SegAttr::P) {
            return Segment {
                selector,
                base,
                ..old
            };
        }
        Segment {
            selector,
            attr: data,
            limit: 0xffff,
            base,
        }
    }

    /// What a load of a data or stack segment register with `selector` makes of it.
    pub fn load_segment(&mut self, seg: SegReg, selector: u16) -> Res<Segment> {
        if !self.mode.has_descriptors() {
            return Ok(self.segment_by_paragraph(seg, selector));
        }
        if seg == SegReg::Ss {
            return self.stack_segment(selector, self.cpl, self.mode.is_64());
        }
        if selector & !3 == 0 {
            return Ok(Segment {
                selector,
                ..Segment::default()
            });
        }
        let d = self.descriptor(selector)?;
        let attr = d.attr();
        let readable = !attr.contains(SegAttr::CODE) || attr.contains(SegAttr::RW);
        let conforming = attr.contains(SegAttr::CODE | SegAttr::DC);
        let reachable = conforming || attr.dpl() >= self.cpl.max(selector as u8 & 3);
        if !attr.contains(SegAttr::S) || !readable || !reachable {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !attr.contains(SegAttr::P) {
            return Err(self.selector_fault(vector::NP, selector));
        }
        Ok(self.mark_accessed(d)?.segment(selector))
    }

    /// What SS becomes at privilege level `cpl`. Code in 64-bit mode below level 3 may have a null SS.
    pub fn stack_segment(&mut self, selector: u16, cpl: u8, to_64: bool) -> Res<Segment> {
        let rpl = selector as u8 & 3;
        if selector & !3 == 0 {
            if !to_64 || cpl == 3 || rpl != cpl {
                return Err(self.gp());
            }
            let attr = SegAttr::from_bits_retain(u16::from(cpl) << 5);
            return Ok(Segment {
                selector,
                attr,
                ..Segment::default()
            });
        }
        let d = self.descriptor(selector)?;
        let attr = d.attr();
        let writable_data =
            attr.contains(SegAttr::S | SegAttr::RW) && !attr.contains(SegAttr::CODE);
        if !writable_data || rpl != cpl || attr.dpl() != cpl {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !attr.contains(SegAttr::P) {
            return Err(self.selector_fault(vector::SS, selector));
        }
        Ok(self.mark_accessed(d)?.segment(selector))
    }

    /// What CS becomes, with the privilege level in its RPL, and the mode that code there runs in.
    pub fn load_code(&mut self, selector: u16, how: Transfer) -> Res<(Segment, Mode)> {
        if !self.mode.has_descriptors() {
            return Ok((self.segment_by_paragraph(SegReg::Cs, selector), self.mode));
        }
        if selector & !3 == 0 {
            return Err(self.gp());
        }
        let d = self.descriptor(selector)?;
        let attr = d.attr();
        let bad = self.selector_fault(vector::GP, selector);
        if d.system_type().is_some() {
            return Err(bad);
        }
        let (rpl, conforming) = (selector as u8 & 3, attr.contains(SegAttr::DC));
        let allowed = match how {
            Transfer::Jump if conforming => attr.dpl() <= self.cpl,
            Transfer::Jump => rpl <= self.cpl && attr.dpl() == self.cpl,
            Transfer::Return if conforming => rpl >= self.cpl && attr.dpl() <= rpl,
            Transfer::Return => rpl >= self.cpl && attr.dpl() == rpl,
        };
        let long = self.lma() && attr.contains(SegAttr::L);
        if !attr.contains(SegAttr::CODE) || !allowed || (long && attr.contains(SegAttr::DB)) {
            return Err(bad);
        }
        if !attr.contains(SegAttr::P) {
            return Err(self.selector_fault(vector::NP, selector));
        }
        let level = if how == Transfer::Jump { self.cpl } else { rpl };
        let segment = self
            .mark_accessed(d)?
            .segment(selector & !3 | u16::from(level));
        Ok((segment, self.code_mode(attr)))
    }

    /// LLDT and LTR.
    pub fn load_system_segment(&mut self, seg: SegReg) -> Res<()> {
        if !self.mode.has_descriptors() {
            return Err(EmuFault::UD);
        }
        self.privileged()?;
        let selector = self.value(0)? as u16;
        if selector & !3 == 0 {
            if seg == SegReg::Tr {
                return Err(self.gp());
            }
            self.cx.set_segment(
                seg,
                Segment {
                    selector,
                    ..Segment::default()
                },
            );
            return Ok(());
        }
        let d = self.descriptor(selector)?;
        let kind = d.system_type();
        let fits = match seg {
            SegReg::Tr => {
                kind == Some(TSS_AVAILABLE) || (!self.lma() && kind == Some(TSS16_AVAILABLE))
            }
            _ => kind == Some(LDT),
        };
        if selector & 4 != 0 || !fits {
            return Err(self.selector_fault(vector::GP, selector));
        }
        if !d.attr().contains(SegAttr::P) {
            return Err(self.selector_fault(vector::NP, selector));
        }
        let mut segment = d.segment(selector);
        if self.lma() {
            // Sixteen bytes: the base's upper half follows.
            if u32::from(selector | 15) > self.cx.segment(SegReg::Gdtr).limit {
                return Err(self.selector_fault(vector::GP, selector));
            }
            let upper = self.read(d.linear.wrapping_add(8), 4, AccessKind::System)?;
            segment.base |= upper << 32;
        }
        if seg == SegReg::Tr {
            segment.attr = self.mark_busy(d)?.attr();
        }
        self.cx.set_segment(seg, segment);
        Ok(())
    }

    /// The descriptor of a selector for LAR, LSL, VERR and VERW: none if the selector is not visible from here.
    fn visible(&mut self, selector: u16) -> Res<Option<Descriptor>> {
        if !self.mode.has_descriptors() {
            return Err(EmuFault::UD);
        }
        let d = match self.descriptor(selector) {
            Err(EmuFault::Exception {
                vector: vector::GP, ..
            }) => return Ok(None),
            d => d?,
        };
        let attr = d.attr();
        let conforming = attr.contains(SegAttr::S | SegAttr::CODE | SegAttr::DC);
        let seen =
            selector & !3 != 0 && (conforming || attr.dpl() >= self.cpl.max(selector as u8 & 3));
        Ok(seen.then_some(d))
    }

    fn set_zf(&mut self, on: bool) {
        self.flags = self.flags & !super::alu::ZF | if on { super::alu::ZF } else { 0 };
    }

    /// LAR and LSL (`limit`).
    pub fn inspect_segment(&mut self, limit: bool) -> Res<()> {
        let selector = match self.is_memory(1) {
            true => {
                let linear = self.memory_at(0, 2, Use::Read)?;
                self.read(linear, 2, AccessKind::Data)?
            }
            false => self.value(1)?,
        } as u16;
        let lma = self.lma();
        let known = self.visible(selector)?.filter(|d| match d.system_type() {
            None | Some(2 | 9 | 11) => true,
            Some(1 | 3) => !lma,
            Some(4 | 5) => !limit && !lma,
            Some(12) => !limit,
            _ => false,
        });
        self.set_zf(known.is_some());
        match known {
            Some(d) if limit => self.set_value(0, d.limit().into()),
            Some(d) => self.set_value(0, d.raw >> 32 & 0x00f0_ff00),
            None => Ok(()),
        }
    }

    /// VERR and VERW (`write`).
    pub fn verify_segment(&mut self, write: bool) -> Res<()> {
        let selector = self.value(0)? as u16;
        let usable = self.visible(selector)?.is_some_and(|d| {
            let attr = d.attr();
            let (code, rw) = (attr.contains(SegAttr::CODE), attr.contains(SegAttr::RW));
            attr.contains(SegAttr::S) && if write { !code && rw } else { !code || rw }
        });
        self.set_zf(usable);
        Ok(())
    }

    /// ARPL.
    pub fn arpl(&mut self) -> Res<()> {
        if !self.mode.has_descriptors() {
            return Err(EmuFault::UD);
        }
        let rpl = self.value(1)? & 3;
        let place = self.place(0, Use::Write)?;
        self.update(place, false, |a, f| match a & 3 < rpl {
            true => (a & !3 | rpl, f | super::alu::ZF),
            false => (a, f & !super::alu::ZF),
        })
    }
}
