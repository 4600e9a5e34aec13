//! A virtual machine for one instruction: where the CPU executes what the emulator leaves to it
//! ([`EmuCx::execute`](crate::emulate::EmuCx::execute)).
//!
//! It is in 64-bit mode, at privilege level 0, and has three pages: its operand, its code, and a page with descriptor tables, a stack and a
//! HLT for each exception. Page tables map these and nothing else; the hardware walks them as it walks shadow tables, so that
//! there is no second stage, and every CPU can do it. The code is the instruction with a HLT behind. So it leaves at once, by HLT, and where
//! RIP then is says what has happened. A host interrupt may come first: then nothing has been done, or all.
//!
//! x87 and SSE registers are given to it and taken back. What is beyond them, and XCR0, is the CPU's and meanwhile the guest's that had the
//! CPU before: which is the one whose instruction it is. One such machine serves all VMs, one after the other; an execution
//! overwrites what another VM has left, but for the stack, which it cannot reach.

use crate::Hpa;
use crate::cpu::{Entry, VcpuBackend};
use crate::emulate::{Executed, NativeInsn};
use crate::exit::ExitReason;
use crate::mmu::{Frames, TlbFlush};
use crate::regs::{Cr0, Cr4, Efer, Rflags, SegAttr, SegReg, Segment, SysReg};

/// Something that executes one instruction.
pub trait Scratch: Send {
    /// Executes `insn` on the CPU, which no guest has at the moment: it has been unloaded.
    fn execute(&mut self, insn: &mut NativeInsn) -> Executed;
}

/// Entries of page tables: present, writable, accessed, dirty, not executable.
const P: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const AD: u64 = 1 << 5 | 1 << 6;
const NX: u64 = 1 << 63;

/// Linear addresses: the three pages follow each other.
const OPERAND: u64 = NativeInsn::OPERAND;
const CODE: u64 = NativeInsn::CODE;
const SYSTEM: u64 = CODE + 0x1000;

/// Places in the third page: the GDT; the TSS, four bytes off so that its stack pointers are aligned; the IDT; a HLT for each exception.
/// The stack begins at the page's end.
const TSS: u64 = 0x104;
const IDT: u64 = 0x200;
const HANDLERS: u64 = 0x400;
const VECTORS: u64 = 32;

/// Selectors, and their descriptors: 64-bit code, data.
const CS: u16 = 8;
const SS: u16 = 16;
const TR: u16 = 24;
const DESCRIPTORS: [u64; 3] = [0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
/// The first entry of the TSS's interrupt stack table.
const IST1: u64 = 0x24;

const HLT: u8 = 0xf4;

/// The virtual machine.
pub struct ScratchGuest<B: VcpuBackend, F: Frames> {
    cpu: B,
    frames: F,
    operand: Hpa,
    code: Hpa,
    root: Hpa,
    /// Bytes of the operand's page that are in use.
    used: usize,
}

impl<B: VcpuBackend, F: Frames> ScratchGuest<B, F> {
    /// Makes it of a virtual CPU that has an address-space identifier of its own. `xsave`: the CPU has XSAVE, and host mode CR4.OSXSAVE.
    /// None: there are too few frames.
    pub fn new(cpu: B, mut frames: F, xsave: bool) -> Option<Self> {
        let mut table = || frames.allocate();
        let [operand, code, system] = [table()?, table()?, table()?];
        let [root, pointers, directory, pages] = [table()?, table()?, table()?, table()?];
        let index = |level: u32| (OPERAND >> (12 + 9 * level)) as usize & 0x1ff;
        let next = P | RW | AD;
        frames.write(root, index(3), pointers.0 | next);
        frames.write(pointers, index(2), directory.0 | next);
        frames.write(directory, index(1), pages.0 | next);
        frames.write(pages, index(0), operand.0 | P | RW | AD | NX);
        frames.write(pages, index(0) + 1, code.0 | P | AD);
        frames.write(pages, index(0) + 2, system.0 | P | RW | AD);
        let mut put = |at: u64, value: u64| frames.write(system, (at / 8) as usize, value);
        for (n, descriptor) in (0..).zip(DESCRIPTORS) {
            put(8 * n, descriptor);
        }
        put(TSS + IST1, SYSTEM + 0x1000);
        for vector in 0..VECTORS {
            // A 64-bit interrupt gate of level 0, with the first interrupt stack.
            let to = SYSTEM + HANDLERS + vector;
            let gate = to & 0xffff | u64::from(CS) << 16 | 0x8e01 << 32 | (to >> 16 & 0xffff) << 48;
            put(IDT + 16 * vector, gate);
            put(IDT + 16 * vector + 8, to >> 32);
        }
        for at in (HANDLERS..HANDLERS + VECTORS).step_by(8) {
            put(at, u64::from_le_bytes([HLT; 8]));
        }
        let mut guest = Self {
            cpu,
            frames,
            operand,
            code,
            root,
            used: 0,
        };
        guest.set_up(xsave);
        guest.cpu.unload();
        Some(guest)
    }

    /// The registers that stay what they are.
    fn set_up(&mut self, xsave: bool) {
        let cpu = &mut self.cpu;
        cpu.set_shadow_paging(true);
        let mut cr4 = Cr4::PAE | Cr4::OSFXSR | Cr4::OSXMMEXCPT;
        cr4.set(Cr4::OSXSAVE, xsave);
        cpu.set_sysreg(SysReg::Cr4, cr4.bits());
        let efer = Efer::LME | Efer::LMA | Efer::NXE;
        cpu.set_sysreg(SysReg::Efer, efer.bits());
        let cr0 = Cr0::PE | Cr0::MP | Cr0::ET | Cr0::NE | Cr0::WP | Cr0::PG;
        cpu.set_sysreg(SysReg::Cr0, cr0.bits());
        let present = SegAttr::P | SegAttr::S | SegAttr::RW | SegAttr::ACCESSED | SegAttr::G;
        let segment = |selector, attr| Segment {
            selector,
            attr,
            limit: u32::MAX,
            base: 0,
        };
        for data in [SegReg::Es, SegReg::Ss, SegReg::Ds, SegReg::Fs, SegReg::Gs] {
            cpu.set_segment(data, segment(SS, present | SegAttr::DB));
        }
        cpu.set_segment(
            SegReg::Cs,
            segment(CS, present | SegAttr::CODE | SegAttr::L),
        );
        cpu.set_segment(SegReg::Ldtr, Segment::default());
        let table = |base, limit| Segment {
            limit,
            base,
            ..Segment::default()
        };
        // A busy TSS of 64 bits has type 11.
        let busy_tss = SegAttr::P | SegAttr::CODE | SegAttr::RW | SegAttr::ACCESSED;
        let tr = Segment {
            selector: TR,
            attr: busy_tss,
            ..table(SYSTEM + TSS, 0x67)
        };
        cpu.set_segment(SegReg::Tr, tr);
        let gdt = 8 * DESCRIPTORS.len() as u32 - 1;
        cpu.set_segment(SegReg::Gdtr, table(SYSTEM, gdt));
        let idt = 16 * VECTORS as u32 - 1;
        cpu.set_segment(SegReg::Idtr, table(SYSTEM + IDT, idt));
    }

    fn put_words(&mut self, page: Hpa, bytes: &[u8]) {
        for (i, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word.iter_mut()
                .zip(chunk)
                .for_each(|(to, from)| *to = *from);
            self.frames.write(page, i, u64::from_le_bytes(word));
        }
    }

    fn prepare(&mut self, insn: &NativeInsn) {
        let mut code = [HLT; 16];
        for (to, from) in code.iter_mut().zip(insn.code).take(insn.len) {
            *to = from;
        }
        self.put_words(self.code, &code);
        // Nothing is left of the operand before this one, which may have been another VM's.
        let mut operand = [0; NativeInsn::MOST];
        let len = insn.operand_len.min(operand.len());
        operand[..len].copy_from_slice(&insn.operand[..len]);
        self.put_words(self.operand, &operand[..len.max(self.used)]);
        self.used = len;
        let flags = insn.flags & !(Rflags::IF | Rflags::TF | Rflags::VM | Rflags::NT).bits();
        self.cpu.set_rip(CODE);
        self.cpu.set_rflags(flags | Rflags::ONE.bits());
        *self.cpu.gprs_mut() = insn.gprs;
        *self.cpu.fx_mut() = insn.fx;
        self.cpu.clear_interrupt_shadow();
    }

    fn take(&mut self, insn: &mut NativeInsn) {
        insn.gprs = *self.cpu.gprs();
        insn.flags = self.cpu.rflags();
        let len = insn.operand_len;
        for (i, chunk) in (0..).zip(insn.operand.chunks_mut(8).take(len.div_ceil(8))) {
            let word = self.frames.read(self.operand, i).to_le_bytes();
            chunk.iter_mut().zip(word).for_each(|(to, from)| *to = from);
        }
    }
}

impl<B: VcpuBackend, F: Frames> Scratch for ScratchGuest<B, F> {
    fn execute(&mut self, insn: &mut NativeInsn) -> Executed {
        self.cpu.load();
        self.prepare(insn);
        let entry = Entry {
            root: self.root,
            flush: TlbFlush::Guest,
            inject: None,
            irq_window: false,
            nmi_window: false,
            timer: u64::MAX,
        };
        let exit = self.cpu.run(&entry);
        insn.fx = *self.cpu.fx();
        let interrupted = matches!(
            exit.reason,
            ExitReason::ExternalInterrupt | ExitReason::Nmi | ExitReason::Init | ExitReason::Timer
        );
        let rip = self.cpu.rip();
        let raised = rip.wrapping_sub(SYSTEM + HANDLERS);
        let result = if exit.reason != ExitReason::Hlt && !interrupted {
            Executed::Impossible
        } else if rip == CODE + insn.len as u64 {
            self.take(insn);
            Executed::Done
        } else if raised < VECTORS {
            Executed::Raised(raised as u8)
        } else if rip == CODE && interrupted {
            Executed::Interrupted
        } else {
            Executed::Impossible
        };
        self.cpu.unload();
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::VmExit;
    use crate::fx::FxState;
    use crate::regs::Gprs;
    use crate::testing::ScriptedCpu;
    use alloc::collections::BTreeMap;

    #[derive(Default)]
    struct Tables(BTreeMap<(u64, usize), u64>, u64);

    impl Frames for Tables {
        fn allocate(&mut self) -> Option<Hpa> {
            self.1 += 0x1000;
            (self.1 <= 0x7000).then_some(Hpa(self.1))
        }
        fn free(&mut self, _frame: Hpa) {}
        fn read(&self, frame: Hpa, index: usize) -> u64 {
            self.0.get(&(frame.0, index)).copied().unwrap_or(0)
        }
        fn write(&mut self, frame: Hpa, index: usize, value: u64) {
            self.0.insert((frame.0, index), value);
        }
    }

    fn insn() -> NativeInsn {
        NativeInsn {
            code: [0x90; 16],
            len: 3,
            gprs: Gprs::default(),
            flags: 0,
            fx: FxState::reset(),
            operand: [7; NativeInsn::MOST],
            operand_len: 10,
        }
    }

    fn outcome(reason: ExitReason, rip: u64) -> Executed {
        let mut cpu = ScriptedCpu::default();
        cpu.play(move |cpu| {
            assert_eq!(cpu.rip, CODE);
            cpu.rip = rip;
            VmExit::bare(reason)
        });
        let mut guest = ScratchGuest::new(cpu, Tables::default(), true).unwrap();
        guest.execute(&mut insn())
    }

    #[test]
    fn where_it_halts_says_what_has_happened() {
        let interrupt = ExitReason::ExternalInterrupt;
        for (reason, rip, expected) in [
            (ExitReason::Hlt, CODE + 3, Executed::Done),
            (interrupt, CODE + 3, Executed::Done),
            (interrupt, CODE, Executed::Interrupted),
            (
                ExitReason::Hlt,
                SYSTEM + HANDLERS + 19,
                Executed::Raised(19),
            ),
            (ExitReason::Hlt, CODE, Executed::Impossible),
            (ExitReason::Shutdown, CODE, Executed::Impossible),
            (ExitReason::Cpuid, CODE + 3, Executed::Impossible),
        ] {
            assert_eq!(outcome(reason, rip), expected, "{reason:?} {rip:x}");
        }
    }

    #[test]
    fn three_pages_are_mapped_and_nothing_else() {
        let guest = ScratchGuest::new(ScriptedCpu::default(), Tables::default(), true).unwrap();
        let mut leaves = 0;
        for (&(frame, _), value) in &guest.frames.0 {
            if frame == 0x7000 && value & P != 0 {
                leaves += 1;
                let executable = value & NX == 0;
                assert!(!executable || value & RW == 0 || value & !0xfff == 0x3000);
            }
        }
        assert_eq!(leaves, 3);
        let few = Tables(BTreeMap::new(), 0x1000);
        assert!(ScratchGuest::new(ScriptedCpu::default(), few, true).is_none());
    }
}
