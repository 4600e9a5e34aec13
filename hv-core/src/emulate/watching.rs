//! Addresses that are watched while an instruction is executed: the guest's own data and I/O breakpoints (SDM vol 3B 18.2.4, "Debug Control
//! Register (DR7)"), and what a debugger waits for.
//!
//! An access is what an instruction does to its operands, the stack and the tables of the CPU; not its own fetch, and not the delivery of an event. A repeated
//! string instruction ends behind the iteration that has met a watch.

use super::{AccessKind, EmuCx, EmuFault, Executed, NativeInsn, Step, step};
use crate::Gva;
use crate::device::AccessSize;
use crate::fx::FxState;
use crate::regs::{Gprs, Rflags, SegReg, Segment, SysReg};
use bitflags::bitflags;

bitflags! {
    /// What is done to an address.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Touch: u8 {
        /// Memory is read.
        const READ = 1;
        /// Memory is written.
        const WRITE = 2;
        /// A port is read or written.
        const PORT = 4;
    }
}

/// Linear addresses, or ports, that are watched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watch {
    /// The first.
    pub at: u64,
    /// How many there are.
    pub len: u64,
    /// What is waited for.
    pub on: Touch,
}

impl Watch {
    /// Nothing.
    pub const NONE: Self = Self {
        at: 0,
        len: 0,
        on: Touch::empty(),
    };

    /// Whether `len` bytes from `at` on are touched so.
    #[must_use]
    pub const fn is_met(&self, at: u64, len: u64, how: Touch) -> bool {
        // Either begins within the other.
        let inside = at.wrapping_sub(self.at) < self.len || self.at.wrapping_sub(at) < len;
        self.on.intersects(how) && inside
    }
}

/// Watches at most: one bit each.
pub const MAX_WATCHES: usize = u128::BITS as usize;

/// [`step`], and which of the watches the instruction has met: bit n is watch n. One that has failed has met none, but in its finished iterations.
pub fn step_watching(cx: &mut dyn EmuCx, watches: &[Watch]) -> (Result<Step, EmuFault>, u128) {
    debug_assert!(watches.len() <= MAX_WATCHES);
    let mut watching = Watching {
        cx,
        watches,
        met: 0,
    };
    let result = step(&mut watching);
    let met = if result.is_ok() { watching.met } else { 0 };
    (result, met)
}

/// A CPU and a machine whose accesses are looked at.
struct Watching<'a> {
    cx: &'a mut dyn EmuCx,
    watches: &'a [Watch],
    met: u128,
}

impl Watching<'_> {
    fn note(&mut self, at: u64, len: usize, how: Touch) {
        for (n, watch) in self.watches.iter().take(MAX_WATCHES).enumerate() {
            if watch.is_met(at, len as u64, how) {
                self.met |= 1 << n;
            }
        }
    }
}

impl EmuCx for Watching<'_> {
    fn gprs(&self) -> &Gprs {
        self.cx.gprs()
    }
    fn gprs_mut(&mut self) -> &mut Gprs {
        self.cx.gprs_mut()
    }
    fn rip(&self) -> u64 {
        self.cx.rip()
    }
    fn set_rip(&mut self, rip: u64) {
        self.cx.set_rip(rip);
    }
    fn rflags(&self) -> Rflags {
        self.cx.rflags()
    }
    fn set_rflags(&mut self, rflags: Rflags) {
        self.cx.set_rflags(rflags);
    }
    fn segment(&self, seg: SegReg) -> Segment {
        self.cx.segment(seg)
    }
    fn set_segment(&mut self, seg: SegReg, value: Segment) {
        self.cx.set_segment(seg, value);
    }
    fn sysreg(&self, reg: SysReg) -> u64 {
        self.cx.sysreg(reg)
    }
    fn cpl(&self) -> u8 {
        self.cx.cpl()
    }
    fn set_cpl(&mut self, cpl: u8) {
        self.cx.set_cpl(cpl);
    }
    fn read(&mut self, linear: Gva, buf: &mut [u8], kind: AccessKind) -> Result<(), EmuFault> {
        self.cx.read(linear, buf, kind)?;
        self.note(linear.0, buf.len(), Touch::READ);
        Ok(())
    }
    fn write(&mut self, linear: Gva, buf: &[u8], kind: AccessKind) -> Result<(), EmuFault> {
        self.cx.write(linear, buf, kind)?;
        self.note(linear.0, buf.len(), Touch::WRITE);
        Ok(())
    }
    fn check_write(&mut self, linear: Gva, len: usize) -> Result<(), EmuFault> {
        self.cx.check_write(linear, len)
    }
    fn fetch(&mut self, linear: Gva, buf: &mut [u8]) -> Result<usize, EmuFault> {
        self.cx.fetch(linear, buf)
    }
    fn update(
        &mut self,
        linear: Gva,
        size: usize,
        kind: AccessKind,
        change: &mut dyn FnMut(u128) -> u128,
    ) -> Result<(), EmuFault> {
        self.cx.update(linear, size, kind, change)?;
        self.note(linear.0, size, Touch::READ | Touch::WRITE);
        Ok(())
    }
    fn iterates_singly(&self) -> bool {
        true
    }
    fn ends_repetition(&self) -> bool {
        self.met != 0
    }
    fn fx(&self) -> &FxState {
        self.cx.fx()
    }
    fn fx_mut(&mut self) -> &mut FxState {
        self.cx.fx_mut()
    }
    fn port_in(&mut self, port: u16, size: AccessSize) -> u32 {
        self.note(port.into(), size.bytes(), Touch::PORT);
        self.cx.port_in(port, size)
    }
    fn port_out(&mut self, port: u16, size: AccessSize, value: u32) {
        self.note(port.into(), size.bytes(), Touch::PORT);
        self.cx.port_out(port, size, value);
    }
    fn execute(&mut self, insn: &mut NativeInsn) -> Executed {
        self.cx.execute(insn)
    }
    fn xcr0(&self) -> u64 {
        self.cx.xcr0()
    }
    fn set_xcr0(&mut self, value: u64) -> Result<(), EmuFault> {
        self.cx.set_xcr0(value)
    }
    fn cpuid(&mut self, leaf: u32, subleaf: u32) -> Result<[u32; 4], EmuFault> {
        self.cx.cpuid(leaf, subleaf)
    }
    fn read_msr(&mut self, msr: u32) -> Result<u64, EmuFault> {
        self.cx.read_msr(msr)
    }
    fn write_msr(&mut self, msr: u32, value: u64) -> Result<(), EmuFault> {
        self.cx.write_msr(msr, value)
    }
    fn read_cr(&mut self, cr: u8) -> Result<u64, EmuFault> {
        self.cx.read_cr(cr)
    }
    fn write_cr(&mut self, cr: u8, value: u64) -> Result<(), EmuFault> {
        self.cx.write_cr(cr, value)
    }
    fn read_dr(&mut self, dr: u8) -> Result<u64, EmuFault> {
        self.cx.read_dr(dr)
    }
    fn write_dr(&mut self, dr: u8, value: u64) -> Result<(), EmuFault> {
        self.cx.write_dr(dr, value)
    }
    fn rdtsc(&mut self) -> Result<u64, EmuFault> {
        self.cx.rdtsc()
    }
    fn check_cr3(&mut self, cr3: u64) -> Result<(), EmuFault> {
        self.cx.check_cr3(cr3)
    }
    fn enter_task(&mut self, cr3: Option<u64>) {
        self.cx.enter_task(cr3);
    }
    fn invlpg(&mut self, linear: Gva) -> Result<(), EmuFault> {
        self.cx.invlpg(linear)
    }
    fn wbinvd(&mut self) {
        self.cx.wbinvd();
    }
}

#[cfg(test)]
mod tests {
    use super::super::StepKind;
    use super::super::testing::{FakeCpu, RegionKind};
    use super::*;
    use crate::regs::gpr::{RAX, RCX, RDI, RDX, RSI, RSP};

    const DATA: u64 = 0x2000;

    fn watch(at: u64, len: u64, on: Touch) -> Watch {
        Watch { at, len, on }
    }

    /// What an instruction meets.
    fn met(cpu: &mut FakeCpu, code: &[u8], watches: &[Watch]) -> u128 {
        cpu.rip = 0x1000;
        cpu.poke(0x1000, code);
        let (result, met) = step_watching(cpu, watches);
        result.unwrap();
        met
    }

    fn cpu() -> FakeCpu {
        let mut cpu = FakeCpu::long64().region(0x1000, 0x3000, RegionKind::Ram);
        cpu.gprs.regs[RDI] = DATA;
        cpu.gprs.regs[RSP] = 0x3000;
        cpu
    }

    #[test]
    fn an_access_meets_what_it_overlaps_and_is_waited_for() {
        let all = [
            watch(DATA, 4, Touch::READ),
            watch(DATA, 4, Touch::WRITE),
            watch(DATA + 3, 1, Touch::READ | Touch::WRITE),
            watch(DATA + 4, 8, Touch::READ | Touch::WRITE),
            watch(DATA - 1, 1, Touch::READ | Touch::WRITE),
            watch(0x2ff8, 8, Touch::WRITE),
            watch(0x1000, 16, Touch::READ | Touch::WRITE),
        ];
        let cpu = &mut cpu();
        // mov eax, [rdi]; mov [rdi], eax; add [rdi], eax; lock add [rdi], eax; push rax; mov [rdi], rax; nop
        for (code, wanted) in [
            (&[0x8b, 0x07][..], 0b101),
            (&[0x89, 0x07], 0b110),
            (&[0x01, 0x07], 0b111),
            (&[0xf0, 0x01, 0x07], 0b111),
            (&[0x50], 0b10_0000),
            (&[0x48, 0x89, 0x07], 0b1110),
            (&[0x90], 0),
        ] {
            assert_eq!(met(cpu, code, &all), wanted, "{code:x?}");
        }
    }

    #[test]
    fn ports_are_met_by_in_and_out_only() {
        let all = [watch(0x3f8, 1, Touch::PORT), watch(0x3f8, 1, Touch::READ)];
        let cpu = &mut cpu();
        cpu.gprs.regs[RDX] = 0x3f6;
        // out dx, al; out dx, eax; in eax, dx
        assert_eq!(met(cpu, &[0xee], &all), 0);
        assert_eq!(met(cpu, &[0xef], &all), 1);
        assert_eq!(met(cpu, &[0xed], &all), 1);
    }

    #[test]
    fn a_repeated_instruction_ends_behind_the_iteration_that_has_met_it() {
        // rep stosd, of which the third is watched; then the rest.
        let cpu = &mut cpu();
        cpu.gprs.regs[RCX] = 100;
        cpu.gprs.regs[RAX] = 5;
        cpu.poke(0x1000, &[0xf3, 0xab]);
        cpu.rip = 0x1000;
        let all = [watch(DATA + 8, 4, Touch::WRITE)];
        let (result, met) = step_watching(cpu, &all);
        assert_eq!((result.unwrap().kind, met), (StepKind::Again, 1));
        assert_eq!((cpu.gprs.regs[RCX], cpu.gprs.regs[RDI]), (97, DATA + 12));
        assert_eq!(cpu.rip, 0x1000);
        let (result, met) = step_watching(cpu, &all);
        assert_eq!((result.unwrap().kind, met), (StepKind::Done, 0));
        assert_eq!(cpu.gprs.regs[RCX], 0);
    }

    #[test]
    fn what_fails_has_met_nothing() {
        // movsd from a watched place to nowhere.
        let cpu = &mut cpu();
        (cpu.gprs.regs[RSI], cpu.gprs.regs[RDI]) = (DATA, 0x9000);
        cpu.rip = 0x1000;
        cpu.poke(0x1000, &[0xa5]);
        let (result, met) = step_watching(cpu, &[watch(DATA, 4, Touch::READ)]);
        assert!(result.is_err());
        assert_eq!(met, 0);
    }

    #[test]
    fn the_end_of_the_address_space_is_not_its_beginning() {
        let last = watch(u64::MAX, 1, Touch::READ);
        assert!(last.is_met(u64::MAX - 3, 4, Touch::READ));
        assert!(!last.is_met(0, 4, Touch::READ));
        assert!(!watch(0, 4, Touch::READ).is_met(u64::MAX - 3, 4, Touch::READ));
    }
}
