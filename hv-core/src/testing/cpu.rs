//! A virtual CPU without a processor: its guest is a list of exits.

use crate::cpu::{Entry, VcpuBackend};
use crate::device::AccessSize;
use crate::emulate::Shadow;
use crate::event::EventKind;
use crate::exit::{ExitReason, PortIo, VmExit};
use crate::fx::FxState;
use crate::regs::{Efer, Gprs, SegAttr, SegReg, Segment, SysReg};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// What the guest does between one entry and the next exit.
type Scene = Box<dyn FnMut(&mut ScriptedCpu) -> VmExit + Send>;

/// Plain registers and a script. When the script is over, the guest is left for a host interrupt.
pub struct ScriptedCpu {
    /// General-purpose registers.
    pub gprs: Gprs,
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// Whether an interrupt shadow is there.
    pub shadow: bool,
    /// XCR0.
    pub xcr0: u64,
    /// The page-directory-pointer entries that were set last.
    pub pdptes: [u64; 4],
    /// How often there was a prediction barrier.
    pub barriers: u32,
    /// Whether shadow paging is on.
    pub shadow_paging: bool,
    /// How often translations of linear addresses were flushed.
    pub flushes: u32,
    /// Whether the hardware could run the guest as it is; what it cannot, the run loop executes in software.
    pub can_run: fn(&ScriptedCpu) -> bool,
    /// [`VcpuBackend::vectoring_may_be_stale`].
    pub stale_vectoring: bool,
    /// [`VcpuBackend::invalid_cr3_fails_entry`].
    pub invalid_cr3_fails_entry: bool,
    /// The entries there have been, oldest first.
    pub entries: Vec<Entry>,
    sysregs: [u64; SysReg::COUNT],
    segments: [Segment; 10],
    fx: FxState,
    script: VecDeque<Scene>,
}

impl Default for ScriptedCpu {
    fn default() -> Self {
        let mut cpu = Self {
            gprs: Gprs::default(),
            rip: 0,
            rflags: 0,
            shadow: false,
            xcr0: 1,
            pdptes: [0; 4],
            flushes: 0,
            barriers: 0,
            shadow_paging: false,
            can_run: |_| true,
            stale_vectoring: false,
            invalid_cr3_fails_entry: false,
            entries: Vec::new(),
            sysregs: [0; SysReg::COUNT],
            segments: [Segment::default(); 10],
            fx: FxState::reset(),
            script: VecDeque::new(),
        };
        cpu.reset();
        cpu
    }
}

impl ScriptedCpu {
    /// Adds an exit to the script.
    pub fn exit(&mut self, exit: VmExit) {
        self.play(move |_| exit);
    }

    /// Adds to the script what the guest does until it exits.
    pub fn play(&mut self, scene: impl FnMut(&mut ScriptedCpu) -> VmExit + Send + 'static) {
        self.script.push_back(Box::new(scene));
    }

    /// Throws away what is left of the script.
    pub fn cut(&mut self) {
        self.script.clear();
    }

    /// How much of the script is left.
    #[must_use]
    pub fn scenes_left(&self) -> usize {
        self.script.len()
    }

    /// 64-bit mode without paging to speak of: segments have base 0, and memory virtualization gets no CR3.
    pub fn long_mode(&mut self) {
        self.set_sysreg(SysReg::Cr0, 0x8000_0011);
        self.set_sysreg(SysReg::Efer, (Efer::LME | Efer::LMA).bits());
        let attr = SegAttr::P | SegAttr::S | SegAttr::RW;
        for s in self.segments.iter_mut().take(6) {
            *s = Segment {
                selector: 8,
                attr,
                limit: u32::MAX,
                base: 0,
            };
        }
        self.segments[SegReg::Cs as usize].attr |= SegAttr::CODE | SegAttr::L;
    }

    /// Real mode with all bases 0.
    pub fn flat_real_mode(&mut self) {
        self.segments.iter_mut().for_each(|s| s.base = 0);
        self.segments[SegReg::Cs as usize].selector = 0;
    }
}

impl VmExit {
    /// An exit of which the hardware tells nothing else.
    #[must_use]
    pub const fn bare(reason: ExitReason) -> Self {
        Self {
            reason,
            next_rip: None,
            vectoring: None,
            untaken: None,
        }
    }
}

impl ExitReason {
    /// An exception that the CPU raised.
    #[must_use]
    pub const fn exception(vector: u8, error: u32, payload: u64) -> Self {
        Self::Exception {
            kind: EventKind::Exception,
            vector,
            error,
            payload,
            insn_len: 0,
        }
    }
}

impl PortIo {
    /// IN, or OUT with `write`.
    #[must_use]
    pub const fn plain(port: u16, size: AccessSize, write: bool) -> Self {
        Self {
            port,
            size,
            write,
            rep: false,
            address_size: None,
            segment: None,
        }
    }
}

impl VcpuBackend for ScriptedCpu {
    const NAME: &'static str = "script";

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
    fn rflags(&self) -> u64 {
        self.rflags
    }
    fn set_rflags(&mut self, rflags: u64) {
        self.rflags = rflags | 2;
    }
    fn vectoring_may_be_stale(&self) -> bool {
        self.stale_vectoring
    }
    fn invalid_cr3_fails_entry(&self) -> bool {
        self.invalid_cr3_fails_entry
    }
    fn cpl(&self) -> u8 {
        self.segments[SegReg::Ss as usize].attr.dpl()
    }
    fn sysreg(&self, reg: SysReg) -> u64 {
        self.sysregs[reg as usize]
    }
    fn set_sysreg(&mut self, reg: SysReg, value: u64) {
        self.sysregs[reg as usize] = value;
    }
    fn set_pdptes(&mut self, entries: [u64; 4]) {
        self.pdptes = entries;
    }
    fn flush_linear(&mut self) {
        self.flushes += 1;
    }
    fn set_shadow_paging(&mut self, on: bool) {
        self.shadow_paging = on;
    }
    fn segment(&self, reg: SegReg) -> Segment {
        self.segments[reg as usize]
    }
    fn set_segment(&mut self, reg: SegReg, value: Segment) {
        self.segments[reg as usize] = value;
    }
    fn fx(&self) -> &FxState {
        &self.fx
    }
    fn fx_mut(&mut self) -> &mut FxState {
        &mut self.fx
    }
    fn interrupt_shadow(&self) -> bool {
        self.shadow
    }
    fn set_interrupt_shadow(&mut self, shadow: Shadow) {
        self.shadow = shadow != Shadow::None;
    }
    fn xcr0(&self) -> u64 {
        self.xcr0
    }
    fn prediction_barrier(&mut self) {
        self.barriers += 1;
    }
    fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
    }

    fn reset(&mut self) {
        self.gprs = Gprs::default();
        self.fx = FxState::reset();
        (self.rip, self.rflags, self.shadow, self.xcr0) = (0xfff0, 2, false, 1);
        self.sysregs = [0; SysReg::COUNT];
        self.set_sysreg(SysReg::Cr0, 0x6000_0010);
        self.set_sysreg(SysReg::Pat, crate::msr::PAT_RESET);
        self.set_sysreg(SysReg::Dr6, 0xffff_0ff0);
        self.set_sysreg(SysReg::Dr7, 0x400);
        let attr = SegAttr::P | SegAttr::S | SegAttr::RW | SegAttr::ACCESSED;
        self.segments = [Segment {
            selector: 0,
            attr,
            limit: 0xffff,
            base: 0,
        }; 10];
        // A busy 32-bit TSS.
        self.segments[SegReg::Tr as usize].attr = SegAttr::from_bits_retain(0x8b);
        self.segments[SegReg::Cs as usize] = Segment {
            selector: 0xf000,
            attr: attr | SegAttr::CODE,
            limit: 0xffff,
            base: 0xffff_0000,
        };
    }

    fn can_run(&self) -> bool {
        (self.can_run)(self)
    }

    fn unload(&mut self) {}
    fn load(&mut self) {}
    fn run(&mut self, entry: &Entry) -> VmExit {
        self.entries.push(*entry);
        match self.script.pop_front() {
            Some(mut scene) => scene(self),
            None => VmExit::bare(ExitReason::ExternalInterrupt),
        }
    }

    fn dump_exit(&self, _out: &mut dyn core::fmt::Write) {}
}

#[cfg(test)]
mod tests {
    use super::ScriptedCpu;

    #[test]
    fn it_keeps_the_rules_of_all_backends() {
        crate::testing::conformance::check(ScriptedCpu::default);
    }
}
