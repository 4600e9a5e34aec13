//! Port I/O exits.

use super::{Trouble, Vcpu};
use crate::cpu::VcpuBackend;
use crate::device::AccessSize;
use crate::emulate::{self, StringIo};
use crate::exit::PortIo;
use crate::mmu::Mmu;
use crate::regs::gpr;
use crate::time::Clock;

impl<B: VcpuBackend, M: Mmu, C: Clock> Vcpu<B, M, C> {
    /// IN and OUT.
    pub(super) fn port_io(&mut self, io: PortIo, next_rip: Option<u64>) -> Result<(), Trouble> {
        let Some(next) = next_rip else {
            return self.emulate();
        };
        if io.write {
            let value = self.cpu.gprs().regs[gpr::RAX] as u32;
            self.vm.bus().port_write(self.now, io.port, io.size, value);
        } else {
            let value = u64::from(self.vm.bus().port_read(self.now, io.port, io.size));
            let rax = &mut self.cpu.gprs_mut().regs[gpr::RAX];
            *rax = match io.size {
                AccessSize::Byte => *rax & !0xff | value,
                AccessSize::Word => *rax & !0xffff | value,
                // A 32-bit result clears the upper half, as always.
                AccessSize::Dword => value,
            };
        }
        self.advance(next);
        self.port_breakpoints(io.port, io.size);
        Ok(())
    }

    /// INS and OUTS, with or without REP.
    pub(super) fn string_io(&mut self, io: PortIo, next_rip: Option<u64>) -> Result<(), Trouble> {
        self.stats.emulated += 1;
        let before = self.cpu.rip();
        self.look_at_breakpoints();
        let result = match io.address_size {
            Some(address_size) if !self.breakpoints => {
                let PortIo {
                    port,
                    size,
                    write,
                    rep,
                    segment,
                    ..
                } = io;
                let io = StringIo {
                    port,
                    size,
                    write,
                    rep,
                    address_size,
                    segment,
                    next_rip,
                };
                emulate::string_io(self, &io)
            }
            _ => self.step_again(),
        };
        self.emulated(before, result)
    }
}
