//! A CPU with memory, a device and ports that remember what was done to them.

use super::{AccessKind, EmuCx, EmuFault, Executed, NativeInsn};
use crate::Gva;
use crate::device::AccessSize;
use crate::event::vector;
use crate::fx::FxState;
use crate::regs::{Cr0, Cr4, Efer, Gprs, Rflags, SegAttr, SegReg, Segment, SysReg};
use alloc::vec;
use alloc::vec::Vec;

/// What memory a region is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RegionKind {
    /// RAM.
    Ram,
    /// RAM that cannot be written: a write page-faults.
    ReadOnly,
    /// A device: its contents are what is read, and every access is recorded.
    Device,
}

/// A piece of the linear address space.
#[derive(Clone, Debug)]
pub struct Region {
    /// Its first linear address.
    pub base: u64,
    /// Its contents.
    pub data: Vec<u8>,
    /// What it is.
    pub kind: RegionKind,
}

/// Something that was done to a device or port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Event {
    Read { at: u64, size: usize },
    Write { at: u64, size: usize, value: u64 },
    In { port: u16, size: usize },
    Out { port: u16, size: usize, value: u32 },
    WriteCr { cr: u8, value: u64 },
    WriteMsr { msr: u32, value: u64 },
    Invlpg { linear: u64 },
    EnterTask { cr3: Option<u64> },
}

/// The fake CPU. Linear addresses outside its regions page-fault.
#[derive(Clone, Debug)]
pub struct FakeCpu {
    /// General-purpose registers.
    pub gprs: Gprs,
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: Rflags,
    /// Segment registers, by [`SegReg`].
    pub segments: [Segment; 10],
    /// CR0.
    pub cr0: u64,
    /// CR4.
    pub cr4: u64,
    /// EFER.
    pub efer: u64,
    /// The privilege level.
    pub cpl: u8,
    /// The x87 and SSE state.
    pub fx: FxState,
    /// Memory.
    pub regions: Vec<Region>,
    /// What was done, in order.
    pub events: Vec<Event>,
    /// How many bytes were fetched.
    pub fetched: usize,
    /// What ports give: consecutive bytes from here on, wrapping.
    pub port_data: u8,
    /// How many more compare-exchanges fail.
    pub lost_races: u32,
    /// What CR3 does not take.
    pub refused_cr3: u64,
    /// XCR0.
    pub xcr0: u64,
    /// What executes instructions that are left to the CPU.
    pub native: fn(&mut NativeInsn) -> Executed,
}

impl FakeCpu {
    fn with(code_attr: SegAttr, cr0: Cr0, efer: Efer, limit: u32) -> Self {
        let data =
            SegAttr::P | SegAttr::S | SegAttr::RW | SegAttr::ACCESSED | (code_attr & SegAttr::DB);
        let segment = |attr| Segment {
            selector: 0,
            attr,
            limit,
            base: 0,
        };
        let mut segments = [segment(data); 10];
        segments[SegReg::Cs as usize] = segment(
            SegAttr::P | SegAttr::S | SegAttr::CODE | SegAttr::RW | SegAttr::ACCESSED | code_attr,
        );
        Self {
            gprs: Gprs::default(),
            rip: 0,
            rflags: Rflags::ONE,
            segments,
            cr0: (cr0 | Cr0::ET).bits(),
            cr4: (Cr4::OSFXSR | Cr4::OSXMMEXCPT | Cr4::OSXSAVE).bits(),
            efer: efer.bits(),
            cpl: 0,
            fx: FxState::reset(),
            regions: Vec::new(),
            events: Vec::new(),
            fetched: 0,
            port_data: 0,
            lost_races: 0,
            refused_cr3: u64::MAX,
            xcr0: 7,
            native: |_| Executed::Impossible,
        }
    }

    /// Real mode.
    #[must_use]
    pub fn real() -> Self {
        Self::with(SegAttr::empty(), Cr0::empty(), Efer::empty(), 0xffff)
    }

    /// Protected mode with 16-bit segments of 64 KiB.
    #[must_use]
    pub fn protected16() -> Self {
        Self::with(SegAttr::empty(), Cr0::PE, Efer::empty(), 0xffff)
    }

    /// Protected mode with flat 32-bit segments.
    #[must_use]
    pub fn protected32() -> Self {
        Self::with(
            SegAttr::DB | SegAttr::G,
            Cr0::PE,
            Efer::empty(),
            0xffff_ffff,
        )
    }

    /// 64-bit mode.
    #[must_use]
    pub fn long64() -> Self {
        Self::with(
            SegAttr::L,
            Cr0::PE | Cr0::PG,
            Efer::LME | Efer::LMA,
            0xffff_ffff,
        )
    }

    /// With `len` bytes of memory of a kind at `base`.
    #[must_use]
    pub fn region(mut self, base: u64, len: usize, kind: RegionKind) -> Self {
        self.regions.push(Region {
            base,
            data: vec![0; len],
            kind,
        });
        self
    }

    /// With `code` at `rip`, in RAM of its own.
    #[must_use]
    pub fn code(mut self, rip: u64, code: &[u8]) -> Self {
        self.rip = rip;
        let base = self.segments[SegReg::Cs as usize].base.wrapping_add(rip);
        if !self.poke(base, code) {
            self.regions.push(Region {
                base,
                data: code.to_vec(),
                kind: RegionKind::Ram,
            });
        }
        self
    }

    /// Changes memory behind the CPU's back; false if it is not in one region.
    pub fn poke(&mut self, linear: u64, bytes: &[u8]) -> bool {
        match self.slice(linear, bytes.len()) {
            Some((_, to)) => {
                to.copy_from_slice(bytes);
                true
            }
            None => false,
        }
    }

    /// Looks at `len` bytes of memory; zeroes where there is none.
    pub fn peek(&mut self, linear: u64, len: usize) -> Vec<u8> {
        self.slice(linear, len)
            .map_or_else(|| vec![0; len], |(_, bytes)| bytes.to_vec())
    }

    fn slice(&mut self, linear: u64, len: usize) -> Option<(RegionKind, &mut [u8])> {
        self.regions.iter_mut().find_map(|r| {
            let start = usize::try_from(linear.checked_sub(r.base)?).ok()?;
            Some((r.kind, r.data.get_mut(start..start.checked_add(len)?)?))
        })
    }

    /// Copies to or from memory, byte by byte over the borders of regions; all or nothing.
    fn walk(&mut self, linear: u64, len: usize, write: bool) -> Result<RegionKind, EmuFault> {
        let mut kind = RegionKind::Ram;
        for i in 0..len as u64 {
            let at = linear.wrapping_add(i);
            let present = self.slice(at, 1).map(|s| s.0);
            match present {
                Some(RegionKind::ReadOnly) if write => return Err(self.page_fault(at, 3)),
                Some(k) => kind = k,
                None => return Err(self.page_fault(at, if write { 2 } else { 0 })),
            }
        }
        Ok(kind)
    }

    fn page_fault(&self, at: u64, error: u32) -> EmuFault {
        let user = if self.cpl == 3 { 4 } else { 0 };
        EmuFault::Exception {
            vector: vector::PF,
            error: Some(error | user),
            cr2: Some(at),
        }
    }

    /// Takes the recorded events.
    pub fn take(&mut self) -> Vec<Event> {
        core::mem::take(&mut self.events)
    }
}

fn value_of(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |v, b| v << 8 | u64::from(*b))
}

/// In place of a CPU, for instructions of all kinds: checks that `insn` is one instruction whose memory operand, if there is one, is in its
/// place, and makes an outcome of its bytes.
///
/// # Panics
/// It is not.
pub fn pretend(insn: &mut NativeInsn) -> Executed {
    use iced_x86::{Decoder, DecoderOptions, OpKind, Register};
    let code = &insn.code[..insn.len];
    let decoded = Decoder::with_ip(64, code, NativeInsn::CODE, DecoderOptions::NONE).decode();
    assert_eq!(decoded.len(), insn.len, "{code:02x?}");
    assert!(!decoded.is_invalid() && insn.operand_len <= NativeInsn::MOST);
    for i in 0..decoded.op_count() {
        match decoded.op_kind(i) {
            OpKind::Register | OpKind::Immediate8 | OpKind::Immediate8_2nd => {}
            OpKind::Memory => {
                let free = [decoded.memory_base(), decoded.memory_index()];
                assert_eq!(free, [Register::None; 2], "{code:02x?}");
                assert_eq!(decoded.memory_displacement64(), NativeInsn::OPERAND);
            }
            kind => panic!("{code:02x?}: {kind:?}"),
        }
    }
    let sum = code.iter().fold(0u8, |sum, b| sum.wrapping_mul(7) ^ b);
    match sum & 15 {
        0 => return Executed::Interrupted,
        1 => return Executed::Impossible,
        2 => return Executed::Raised(vector::GP),
        3 => return Executed::Raised(vector::XM),
        _ => {}
    }
    insn.operand[..insn.operand_len].fill(sum);
    insn.flags ^= u64::from(sum);
    insn.gprs.regs[usize::from(sum & 7)] ^= u64::from(sum);
    insn.fx.set_xmm(usize::from(sum & 15), [sum; 16]);
    Executed::Done
}

impl EmuCx for FakeCpu {
    fn gprs(&self) -> &Gprs {
        &self.gprs
    }
    fn gprs_mut(&mut self) -> &mut Gprs {
        &mut self.gprs
    }
    fn rip(&self) -> u64 {
        self.rip
    }
    fn set_rip(&mut self, rip: u64) {
        self.rip = rip;
    }
    fn rflags(&self) -> Rflags {
        self.rflags
    }
    fn set_rflags(&mut self, rflags: Rflags) {
        self.rflags = rflags;
    }
    fn segment(&self, seg: SegReg) -> Segment {
        self.segments[seg as usize]
    }
    fn set_segment(&mut self, seg: SegReg, value: Segment) {
        self.segments[seg as usize] = value;
    }
    fn sysreg(&self, reg: SysReg) -> u64 {
        match reg {
            SysReg::Cr0 => self.cr0,
            SysReg::Cr4 => self.cr4,
            SysReg::Efer => self.efer,
            _ => 0,
        }
    }
    fn cpl(&self) -> u8 {
        self.cpl
    }
    fn set_cpl(&mut self, cpl: u8) {
        self.cpl = cpl;
    }
    fn read(&mut self, linear: Gva, buf: &mut [u8], kind: AccessKind) -> Result<(), EmuFault> {
        if self.walk(
            linear.0,
            buf.len(),
            matches!(kind, AccessKind::Update | AccessKind::SystemUpdate),
        )? == RegionKind::Device
        {
            self.events.push(Event::Read {
                at: linear.0,
                size: buf.len(),
            });
        }
        for (i, b) in buf.iter_mut().enumerate() {
            *b = self
                .slice(linear.0.wrapping_add(i as u64), 1)
                .map_or(0, |(_, s)| s[0]);
        }
        Ok(())
    }
    fn write(&mut self, linear: Gva, buf: &[u8], _kind: AccessKind) -> Result<(), EmuFault> {
        if self.walk(linear.0, buf.len(), true)? == RegionKind::Device {
            self.events.push(Event::Write {
                at: linear.0,
                size: buf.len(),
                value: value_of(buf),
            });
        }
        for (i, b) in buf.iter().enumerate() {
            self.poke(linear.0.wrapping_add(i as u64), &[*b]);
        }
        Ok(())
    }
    fn check_write(&mut self, linear: Gva, len: usize) -> Result<(), EmuFault> {
        self.walk(linear.0, len, true).map(drop)
    }
    fn fetch(&mut self, linear: Gva, buf: &mut [u8]) -> Result<usize, EmuFault> {
        let mut n = 0;
        for b in buf.iter_mut() {
            let Some((_, s)) = self.slice(linear.0.wrapping_add(n as u64), 1) else {
                break;
            };
            *b = s[0];
            n += 1;
        }
        self.fetched += n;
        if n == 0 {
            Err(self.page_fault(linear.0, 0x10))
        } else {
            Ok(n)
        }
    }
    fn update(
        &mut self,
        linear: Gva,
        size: usize,
        kind: AccessKind,
        change: &mut dyn FnMut(u128) -> u128,
    ) -> Result<(), EmuFault> {
        for _ in 0..16 {
            let mut old = [0; 16];
            self.walk(linear.0, size, true)?;
            self.read(linear, &mut old[..size], kind)?;
            let new = change(u128::from_le_bytes(old));
            assert!(size == 16 || new >> (8 * size) == 0);
            if self.lost_races == 0 {
                return self.write(linear, &new.to_le_bytes()[..size], kind);
            }
            self.lost_races -= 1;
        }
        Err(EmuFault::Retry)
    }
    fn ram_run(&mut self, linear: Gva, len: usize, write: bool) -> usize {
        match self.slice(linear.0, len) {
            Some((RegionKind::Ram, _)) => len,
            Some((RegionKind::ReadOnly, _)) if !write => len,
            _ => 0,
        }
    }
    fn fx(&self) -> &FxState {
        &self.fx
    }
    fn fx_mut(&mut self) -> &mut FxState {
        &mut self.fx
    }
    fn port_in(&mut self, port: u16, size: AccessSize) -> u32 {
        self.events.push(Event::In {
            port,
            size: size.bytes(),
        });
        let mut value = 0;
        for i in 0..size.bytes() {
            value |= u32::from(self.port_data) << (8 * i);
            self.port_data = self.port_data.wrapping_add(1);
        }
        value
    }
    fn port_out(&mut self, port: u16, size: AccessSize, value: u32) {
        self.events.push(Event::Out {
            port,
            size: size.bytes(),
            value,
        });
    }
    fn execute(&mut self, insn: &mut NativeInsn) -> Executed {
        (self.native)(insn)
    }
    fn xcr0(&self) -> u64 {
        self.xcr0
    }
    fn set_xcr0(&mut self, value: u64) -> Result<(), EmuFault> {
        self.xcr0 = value;
        Ok(())
    }
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], EmuFault> {
        Ok([leaf, subleaf, 3, 4])
    }
    fn read_msr(&mut self, msr: u32) -> Result<u64, EmuFault> {
        Ok(0x1234_5678_0000_0000 | u64::from(msr))
    }
    fn write_msr(&mut self, msr: u32, value: u64) -> Result<(), EmuFault> {
        self.events.push(Event::WriteMsr { msr, value });
        Ok(())
    }
    fn write_cr(&mut self, cr: u8, value: u64) -> Result<(), EmuFault> {
        self.events.push(Event::WriteCr { cr, value });
        match cr {
            0 => self.cr0 = value,
            4 => self.cr4 = value,
            _ => {}
        }
        Ok(())
    }
    fn rdtsc(&mut self) -> Result<u64, EmuFault> {
        Ok(0x11_2233_4455)
    }
    fn check_cr3(&mut self, cr3: u64) -> Result<(), EmuFault> {
        if cr3 == self.refused_cr3 {
            return Err(EmuFault::GP0);
        }
        Ok(())
    }
    fn enter_task(&mut self, cr3: Option<u64>) {
        self.cr0 |= Cr0::TS.bits();
        self.events.push(Event::EnterTask { cr3 });
    }
    fn invlpg(&mut self, linear: Gva) -> Result<(), EmuFault> {
        self.events.push(Event::Invlpg { linear: linear.0 });
        Ok(())
    }
}
