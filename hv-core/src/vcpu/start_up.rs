//! INIT and start-up messages: how one CPU stops and starts another (SDM vol 3A 10.4.4, "MP Initialization Example").

use super::{Activity, Vcpu};
use crate::cpu::VcpuBackend;
use crate::mmu::Mmu;
use crate::regs::{Cr0, SegReg, SysReg};
use crate::time::Clock;

/// What an INIT leaves alone (SDM vol 3A table 10-1, "IA-32 and Intel 64 Processor States Following Power-up, Reset, or INIT").
const KEPT: [SysReg; 11] = [
    SysReg::Pat,
    SysReg::Star,
    SysReg::Lstar,
    SysReg::Cstar,
    SysReg::Sfmask,
    SysReg::KernelGsBase,
    SysReg::SysenterCs,
    SysReg::SysenterEsp,
    SysReg::SysenterEip,
    SysReg::TscOffset,
    SysReg::SpecCtrl,
];

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// Acts on what has come: INIT before a start-up message.
    #[cold]
    #[inline(never)]
    pub(super) fn start_or_stop(&mut self) {
        if self.irqs.take_init() {
            self.init();
            self.set_timer();
        }
        if let Some(vector) = self.irqs.take_start_up()
            && self.activity == Activity::WaitForSipi
        {
            self.start_up(vector);
        }
    }

    /// INIT: the power-on state but for caches, x87 and SSE, XCR0 and most model-specific registers. The bootstrap processor goes on at
    /// the reset vector, the others wait for a start-up message.
    fn init(&mut self) {
        const CACHES: u64 = Cr0::CD.union(Cr0::NW).bits();
        let kept = KEPT.map(|reg| self.cpu.sysreg(reg));
        let caches = self.cpu.sysreg(SysReg::Cr0) & CACHES;
        let (fx, xcr0) = (*self.cpu.fx(), self.cpu.xcr0());
        self.set_power_on_state();
        for (reg, value) in KEPT.into_iter().zip(kept) {
            self.cpu.set_sysreg(reg, value);
        }
        let cr0 = self.cpu.sysreg(SysReg::Cr0);
        self.cpu.set_sysreg(SysReg::Cr0, cr0 & !CACHES | caches);
        *self.cpu.fx_mut() = fx;
        self.cpu.set_xcr0(xcr0);
        self.set_activity(match self.index {
            0 => Activity::Active,
            _ => Activity::WaitForSipi,
        });
    }

    /// A start-up message: real mode, at the start of the page that it names.
    fn start_up(&mut self, vector: u8) {
        let mut cs = self.cpu.segment(SegReg::Cs);
        (cs.selector, cs.base) = (u16::from(vector) << 8, u64::from(vector) << 12);
        self.cpu.set_segment(SegReg::Cs, cs);
        self.cpu.set_rip(0);
        self.set_activity(Activity::Active);
    }
}
