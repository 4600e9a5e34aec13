//! Nested page faults: instructions on device memory, emulated.

use hv_core::Gpa;
use hv_core::cpu::VcpuBackend;
use hv_core::emulate::{Executed, NativeInsn};
use hv_core::event::Event;
use hv_core::exit::{ExitReason, NestedFault};
use hv_core::lock::{Lock, Rank};
use hv_core::mem::GuestMemory;
use hv_core::regs::gpr::{RAX, RBX, RCX, RDI, RSI};
use hv_core::regs::{Cr4, SysReg};
use hv_core::scratch::Scratch;
use hv_core::vcpu::Stop;
use spin::Mutex;
use std::sync::Arc;
use tests::rig::{Access, CODE, MMIO, RAM, Rig};

fn fault(gpa: u64, write: bool) -> ExitReason {
    let gpa = Gpa(gpa);
    ExitReason::NestedFault(NestedFault {
        gpa,
        write,
        fetch: false,
        present: false,
        table_walk: false,
    })
}

#[test]
fn mmio_read_reaches_device_and_register() {
    // MOV ECX, [RBX]
    let mut r = Rig::new().code(&[0x8b, 0x0b]);
    r.set(&[(RBX, MMIO + 0x10), (RCX, !0)]);
    r.probe.lock().value = 0x1234_5678;
    r.bare(fault(MMIO + 0x10, false));
    r.run();
    assert_eq!(
        r.log(),
        [Access::Read {
            offset: 0x10,
            size: 4
        }]
    );
    assert_eq!((r.reg(RCX), r.vcpu.cpu.rip), (0x1234_5678, CODE + 2));
}

#[test]
fn mmio_write_reaches_the_device_with_its_width() {
    // MOV [RBX], AL / AX / EAX / RAX
    let table: [(&[u8], usize, u64); 4] = [
        (&[0x88, 0x03], 1, 0x88),
        (&[0x66, 0x89, 0x03], 2, 0x7788),
        (&[0x89, 0x03], 4, 0x5566_7788),
        (&[0x48, 0x89, 0x03], 8, 0x1122_3344_5566_7788),
    ];
    for (code, size, value) in table {
        let mut r = Rig::new().code(code);
        r.set(&[(RBX, MMIO + 0x20), (RAX, 0x1122_3344_5566_7788)]);
        r.bare(fault(MMIO + 0x20, true));
        r.run();
        assert_eq!(
            r.log(),
            [Access::Write {
                offset: 0x20,
                size,
                value
            }]
        );
        assert_eq!(r.vcpu.cpu.rip, CODE + code.len() as u64);
    }
}

#[test]
fn read_modify_write_reads_once_and_writes_once() {
    // LOCK OR DWORD [RBX], 1
    let mut r = Rig::new().code(&[0xf0, 0x83, 0x0b, 0x01]);
    r.set(&[(RBX, MMIO)]);
    r.probe.lock().value = 0x80;
    r.bare(fault(MMIO, true));
    r.run();
    let want = [
        Access::Read { offset: 0, size: 4 },
        Access::Write {
            offset: 0,
            size: 4,
            value: 0x81,
        },
    ];
    assert_eq!(r.log(), want);
}

#[test]
fn copy_from_memory_to_device() {
    // REP MOVSB
    let mut r = Rig::new().code(&[0xf3, 0xa4]);
    r.memory.write(Gpa(0x5000), b"abc").unwrap();
    r.set(&[(RSI, 0x5000), (RDI, MMIO + 0x100), (RCX, 3)]);
    r.bare(fault(MMIO + 0x100, true));
    r.run();
    let written: Vec<u8> = r
        .log()
        .iter()
        .flat_map(|a| match a {
            Access::Write { size, value, .. } => value.to_le_bytes()[..*size].to_vec(),
            _ => panic!("{a:?}"),
        })
        .collect();
    assert_eq!(written, b"abc");
    assert_eq!((r.reg(RCX), r.vcpu.cpu.rip), (0, CODE + 2));
}

#[test]
fn access_across_ram_and_device_reaches_both() {
    // The last two bytes of RAM are RAM, what follows is nobody's. MOV EAX, [RBX]
    let mut r = Rig::new().code(&[0x8b, 0x03]);
    r.memory.write(Gpa(RAM as u64 - 2), &[0x11, 0x22]).unwrap();
    r.set(&[(RBX, RAM as u64 - 2)]);
    r.bare(fault(RAM as u64, false));
    r.run();
    assert_eq!(r.reg(RAX), 0xffff_2211);
}

#[test]
fn unaligned_device_access_across_pages_is_split() {
    let mut r = Rig::new().code(&[0x89, 0x03]);
    r.set(&[(RBX, MMIO + 0xffd), (RAX, 0x4433_2211)]);
    r.bare(fault(MMIO + 0xffd, true));
    r.run();
    let want = [
        Access::Write {
            offset: 0xffd,
            size: 2,
            value: 0x2211,
        },
        Access::Write {
            offset: 0xfff,
            size: 1,
            value: 0x33,
        },
        Access::Write {
            offset: 0x1000,
            size: 1,
            value: 0x44,
        },
    ];
    assert_eq!(r.log(), want);
}

#[test]
fn nobodys_memory_reads_ones_and_forgets_writes() {
    let mut r = Rig::new().code(&[0x8b, 0x03, 0x89, 0x03]);
    r.set(&[(RBX, 0xe000_0000)]);
    r.bare(fault(0xe000_0000, false));
    r.bare(fault(0xe000_0000, true));
    r.run();
    assert_eq!((r.reg(RAX), r.vcpu.cpu.rip), (0xffff_ffff, CODE + 4));
}

#[test]
fn page_fault_of_an_emulated_instruction_sets_cr2() {
    let mut r = Rig::new().code(&[0x8b, 0x03]);
    r.set(&[(RBX, MMIO)]);
    r.vcpu.vm.mmu().missing.push(MMIO >> 12);
    r.bare(fault(MMIO, false));
    assert_eq!(r.injected(), [None, Some(Event::exception(14, Some(0)))]);
    assert_eq!(
        (r.vcpu.cpu.sysreg(SysReg::Cr2), r.vcpu.cpu.rip),
        (MMIO, CODE)
    );
    assert_eq!(r.log(), []);
}

#[test]
fn instruction_that_cannot_be_emulated_is_undefined() {
    // PFADD MM0, [RBX] of 3DNow!.
    let mut r = Rig::new().code(&[0x0f, 0x0f, 0x03, 0x9e]);
    r.set(&[(RBX, MMIO)]);
    for _ in 0..3 {
        r.bare(fault(MMIO, true));
    }
    let undefined = Some(Event::exception(6, None));
    assert_eq!(r.injected(), [None, undefined, undefined, undefined]);
    assert_eq!((r.vcpu.cpu.rip, r.vcpu.stats.lacking), (CODE, 3));
}

/// Executes as it was told, and remembers with what operand.
struct FakeScratch(Executed, Arc<Mutex<Vec<u8>>>);

impl Scratch for FakeScratch {
    fn execute(&mut self, insn: &mut NativeInsn) -> Executed {
        *self.1.lock() = insn.operand[..insn.operand_len].to_vec();
        insn.fx.set_xmm(0, [9; 16]);
        self.0
    }
}

#[test]
fn sse_on_device_memory_is_executed_by_the_cpu_unless_the_host_is_interrupted() {
    for (executed, done) in [(Executed::Done, true), (Executed::Interrupted, false)] {
        // PADDB XMM0, [RBX]
        let mut r = Rig::new().code(&[0x66, 0x0f, 0xfc, 0x03]);
        let operand = Arc::default();
        let scratch = FakeScratch(executed, Arc::clone(&operand));
        let vm = Arc::get_mut(&mut r.vcpu.vm).expect("nobody else has it");
        vm.scratch = Some(Arc::new(Lock::new(Rank::Scratch, scratch)));
        r.vcpu.cpu.set_sysreg(SysReg::Cr4, Cr4::OSFXSR.bits());
        r.set(&[(RBX, MMIO)]);
        r.probe.lock().value = 0x0807_0605_0403_0201;
        r.bare(fault(MMIO, false));
        assert_eq!(r.run(), Stop::HostInterrupt);
        assert_eq!(r.entries().len(), if done { 2 } else { 1 });
        assert_eq!(
            *operand.lock(),
            [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8]
        );
        assert_eq!(r.vcpu.cpu.fx().xmm(0) == [9; 16], done);
        assert_eq!(r.vcpu.cpu.rip, if done { CODE + 4 } else { CODE });
        assert_eq!(r.vcpu.stats.native, 1);
    }
}

#[test]
fn code_in_device_memory_is_executed() {
    // INC RAX; ADD RCX, 12345678h, which the next eight bytes end; from the middle of it on they are the same bytes again.
    let mut r = Rig::new();
    r.vcpu.cpu.rip = MMIO;
    r.probe.lock().value = u64::from_le_bytes([0x48, 0xff, 0xc0, 0x48, 0x81, 0xc1, 0x78, 0x56]);
    let fetch = NestedFault {
        gpa: Gpa(MMIO),
        write: false,
        fetch: true,
        present: false,
        table_walk: false,
    };
    r.set(&[(RAX, 1), (RCX, 0)]);
    r.bare(ExitReason::NestedFault(fetch));
    r.bare(ExitReason::NestedFault(fetch));
    assert_eq!(r.injected(), [None, None, None]);
    assert_eq!((r.reg(RAX), r.reg(RCX)), (2, 0xffff_ffff_ff48_5678));
    assert_eq!(r.vcpu.cpu.rip, MMIO + 10);
    let words = [0, 0, 8].map(|offset| Access::Read { offset, size: 8 });
    assert_eq!(r.log(), words);
}

#[test]
fn task_priority_is_moved_by_mov_cr8() {
    // MOV CR8, RAX; MOV RCX, CR8
    let mut r = Rig::new().code(&[0x44, 0x0f, 0x22, 0xc0, 0x44, 0x0f, 0x20, 0xc1]);
    r.set(&[(RAX, 9)]);
    for write in [true, false] {
        let access = hv_core::exit::RegAccess {
            number: 8,
            write,
            gpr: None,
        };
        r.bare(ExitReason::CrAccess(access));
    }
    r.run();
    assert_eq!(
        (r.irqs.lock().cr8, r.reg(RCX), r.vcpu.cpu.rip),
        (9, 9, CODE + 8)
    );
}

#[test]
fn cr8_above_15_is_a_general_protection_fault() {
    let mut r = Rig::new().code(&[0x44, 0x0f, 0x22, 0xc0]);
    r.set(&[(RAX, 16)]);
    let access = hv_core::exit::RegAccess {
        number: 8,
        write: true,
        gpr: None,
    };
    r.bare(ExitReason::CrAccess(access));
    assert_eq!(r.injected(), [None, Some(Event::exception(13, Some(0)))]);
}
