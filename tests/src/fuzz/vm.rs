//! A whole virtual machine: the run loops of its CPUs with the whole virtual PC around them, under nested and shadow paging in turn. Its guest is
//! whatever the bytes say: registers, code, page tables, and what the hardware of either vendor tells of each exit.

use crate::feed::Feed;
use crate::firmware::VecFrames;
use crate::pc::{self, Pc};
use crate::rig::host;
use device_model::irq::{CpuInterrupts, MessageSink};
use hv_core::cpu::VcpuBackend;
use hv_core::cpuid::Cpuid;
use hv_core::device::PowerAction;
use hv_core::exit::{ExitReason, VmExit};
use hv_core::interface::Interfaces;
use hv_core::irq::MsiSink;
use hv_core::machine::Topology;
use hv_core::mem::GuestMemory;
use hv_core::mmu::{Backing, Mmu};
use hv_core::pvclock::PvClock;
use hv_core::regs::{SegAttr, SegReg, Segment, SysReg};
use hv_core::testing::{ManualClock, ScriptedCpu, VecMemory};
use hv_core::time::Clock;
use hv_core::vcpu::{self, Stop, Vcpu};
use hv_core::vm::{self, Vm};
use hv_core::{Gpa, Hpa, VmTime};
use npt_shadow::paging::Kind;
use npt_shadow::{Algorithm, Format, NestedMmu, Paging, ShadowMmu, WatchedMemory, shadow};
use std::sync::Arc;

/// Where the host has the guest's RAM.
const RAM: Hpa = Hpa(0x4000_0000);
/// Code and tables are here: both are small, so that the bytes meet them often.
const CODE: u64 = 0x8000;
const TABLES: u64 = 0x1_0000;
/// How many CPUs it has. The second waits for a start-up message, which the first or a device may send.
const CPUS: u8 = 2;
/// What one string of bytes may do at most.
const STEPS: usize = 400;

type Cpu = Vcpu<ScriptedCpu, Paging<VecFrames>, ManualClock>;

/// The machine and what the bytes do to it.
struct Machine {
    cpus: Vec<Cpu>,
    /// The way of interrupt messages.
    messages: MessageSink,
    ram: Arc<VecMemory>,
    clock: ManualClock,
}

/// A life of the machine.
///
/// # Panics
/// The machine cannot be built, or what it does breaks a rule.
pub fn vm(data: &[u8]) {
    let f = &mut Feed::new(data);
    let algorithm = f.pick(&[Algorithm::Vtlb, Algorithm::Cached, Algorithm::Unsync]);
    let mut machine = Machine::new(algorithm, f.bool());
    for _ in 0..STEPS {
        if f.is_empty() {
            break;
        }
        machine.step(f);
    }
}

impl Machine {
    fn new(algorithm: Algorithm, start_with_shadow: bool) -> Self {
        let frames = (pc::RAM >> 12) as u64;
        let mut watched = None;
        let Pc {
            bus,
            machine,
            memory,
            ..
        } = Pc::with(CPUS.into(), |ram| {
            let memory = WatchedMemory::new(ram, frames).expect("there is memory for a test");
            watched.insert(memory).clone()
        });
        let watched = watched.expect("the bus has been given its memory");
        let config = shadow::Config {
            algorithm,
            cpus: CPUS.into(),
            pages: shadow::MIN_PAGES,
            frames,
            physical_bits: 40,
        };
        let nested = NestedMmu::new(VecFrames::default(), Format::LongMode, 2);
        let shadow = ShadowMmu::new(VecFrames::default(), watched.clone(), config);
        let nested = Kind::Nested(nested.expect("frames do not run out"));
        let shadow = Kind::Shadow(Box::new(shadow.expect("frames do not run out")));
        let (used, other) = if start_with_shadow {
            (shadow, nested)
        } else {
            (nested, shadow)
        };
        let mut mmu = Paging::new(used);
        assert!(mmu.add(other), "frames do not run out");
        mmu.remap(
            Gpa(0),
            pc::RAM as u64,
            Backing::Ram {
                hpa: RAM,
                writable: true,
            },
        );
        let clock = ManualClock::default();
        let wakeups = machine.chips.lock().wakeups();
        let vm = Arc::new(Vm::new(vm::Parts {
            number: 1,
            mmu,
            bus,
            memory: watched,
            cpuid: Cpuid::new(host, Topology::new(CPUS.into())).offering(Interfaces::all()),
            wakeups,
            scratch: None,
        }));
        let cpu = |n: u8| {
            let irqs = CpuInterrupts::new(&machine.chips, n.into());
            let parts = vcpu::Parts {
                cpu: ScriptedCpu::default(),
                clock: clock.clone(),
                pvclock: PvClock::new(1_000_000_000, 0),
                irqs: Box::new(irqs.expect("the machine has this CPU")),
            };
            Vcpu::new(vm.clone(), n, parts)
        };
        Self {
            cpus: (0..CPUS).map(cpu).collect(),
            messages: MessageSink::new(&machine.chips),
            ram: memory,
            clock,
        }
    }

    /// Something that guest or host do, then entries of one CPU until its next stop.
    fn step(&mut self, f: &mut Feed<'_>) {
        let n = usize::from(f.below(CPUS.into()));
        match f.below(16) {
            0..=3 => self.registers(n, f),
            4 | 5 => self.tables(f),
            6..=9 => self.code(n, f),
            10 => self.cpus[n].cpu.shadow = f.bool(),
            11 if f.below(8) == 0 => {
                let on = f.bool();
                assert!(self.cpus[n].vm.mmu().set_shadow(on), "both ways are there");
            }
            12 => self.message(f),
            _ => self.clock.pass(f.scaled() >> 24),
        }
        for _ in 0..1 + f.below(3) {
            let exit = self.exit(n, f);
            self.cpus[n].cpu.exit(exit);
        }
        match self.cpus[n].run() {
            Stop::Idle(_) => self.cpus[n].resume(),
            Stop::Service => self.cpus[n].service_at = VmTime::NEVER,
            // As the session does: what has halted is run again.
            Stop::Wakeup => _ = self.cpus[n].vm.wakeups.take(),
            Stop::HostInterrupt
            | Stop::Yield
            | Stop::YieldTo(_)
            | Stop::Crashed
            | Stop::Trace
            | Stop::Debug(_) => {}
            Stop::Power(PowerAction::Reset) | Stop::TripleFault | Stop::Power(_) => self.reset(),
            Stop::Fatal(why) => panic!("the guest has ended its VM: {why}"),
        }
        self.cpus[n].cpu.entries.clear();
        self.cpus[n].cpu.cut();
    }

    /// A device says something to the local APICs.
    fn message(&mut self, f: &mut Feed<'_>) {
        let address = match f.below(8) {
            0 => f.u64(),
            _ => {
                0xfee0_0000
                    | u64::from(f.below(u16::from(CPUS) + 1)) << 12
                    | u64::from(f.u8() & 0xc)
            }
        };
        self.messages.send(address, f.u32() & 0xc7ff);
    }

    fn reset(&mut self) {
        let now = self.cpus[0].now();
        self.cpus[0].vm.bus().reset(now);
        let ticks = Clock::ticks(&self.clock);
        self.cpus.iter_mut().for_each(|cpu| cpu.reset(ticks));
    }

    /// An address that leads somewhere more often than not.
    fn address(f: &mut Feed<'_>) -> u64 {
        match f.below(8) {
            0 => f.u64(),
            1 if f.bool() => 0xfee0_0000 + u64::from(f.u8()) * 16,
            // The number of a register.
            1 => 0x4000_0000 + u64::from(f.u16() & 0x1ff),
            2 => 0xa_0000 + u64::from(f.u32() & 0x1_ffff),
            3 => pc::RAM as u64 - 8 + u64::from(f.below(16)),
            4 => TABLES + u64::from(f.u16()),
            5 => CODE + u64::from(f.u16() & 0xfff),
            _ => u64::from(f.u32() & 0x1f_ffff),
        }
    }

    fn registers(&mut self, n: usize, f: &mut Feed<'_>) {
        let cpu = &mut self.cpus[n].cpu;
        match f.below(4) {
            0 => {
                cpu.flat_real_mode();
                cpu.set_sysreg(SysReg::Cr0, 0x10);
                cpu.set_sysreg(SysReg::Efer, 0);
            }
            1 => cpu.long_mode(),
            2 => {
                cpu.set_sysreg(SysReg::Cr0, f.u64());
                cpu.set_sysreg(SysReg::Cr4, f.u64() & 0x7f_ffff);
                cpu.set_sysreg(SysReg::Efer, u64::from(f.u16()) & 0xd01);
            }
            _ => {}
        }
        cpu.set_sysreg(SysReg::Cr3, TABLES + (u64::from(f.u8() & 7) << 12));
        for n in 0..16 {
            if f.below(4) == 0 {
                cpu.gprs.regs[n] = Self::address(f);
            }
        }
        cpu.rip = Self::address(f);
        cpu.rflags = u64::from(f.u32()) & 0x3f_7fd5 | 2;
        cpu.xcr0 = f.pick(&[1, 3, 7]);
        for register in SegReg::ALL {
            if f.below(8) == 0 {
                let attr = SegAttr::from_bits_retain(f.u16() & 0xfff);
                let (selector, limit, base) = (f.u16(), f.u32(), Self::address(f));
                cpu.set_segment(
                    register,
                    Segment {
                        selector,
                        attr,
                        limit,
                        base,
                    },
                );
            }
        }
        // The guest has loaded CR3 by its own means.
        let vm = &self.cpus[n].vm;
        let on = vm.mmu().is_shadow();
        let _ = vm.mmu().set_shadow(!on) && vm.mmu().set_shadow(on);
    }

    /// Page tables, most of which lead on.
    fn tables(&mut self, f: &mut Feed<'_>) {
        for _ in 0..f.below(16) {
            let at = TABLES + ((u64::from(f.u8() & 7) << 12) | (u64::from(f.u8()) * 8));
            let entry = if f.below(4) == 0 {
                f.u64()
            } else {
                (TABLES + (u64::from(f.u8() & 15) << 12)) | u64::from(f.u8()) | 1
            };
            let _ = self.ram.write(Gpa(at), &entry.to_le_bytes());
        }
    }

    /// An instruction where the guest is.
    fn code(&mut self, n: usize, f: &mut Feed<'_>) {
        let cpu = &self.cpus[n].cpu;
        let at = cpu.segment(SegReg::Cs).base.wrapping_add(cpu.rip);
        let _ = self.ram.write(Gpa(at), f.bytes(15));
    }

    /// What the hardware of either vendor tells, as its own decoder reads it.
    fn exit(&self, n: usize, f: &mut Feed<'_>) -> VmExit {
        let exit = if f.bool() {
            Self::exit_of_svm(f)
        } else {
            self.exit_of_vmx(n, f)
        };
        match exit.reason {
            // The host's own troubles may end a VM, and no guest makes them.
            ExitReason::EntryFailed | ExitReason::Unknown(_) => VmExit::bare(ExitReason::Cpuid),
            ExitReason::Exception { vector: 18, .. } => VmExit::bare(ExitReason::Cpuid),
            // Shadow tables lead to the guest's memory only.
            ExitReason::NestedFault(_) if self.cpus[n].vm.mmu().is_shadow() => {
                VmExit::bare(ExitReason::Cpuid)
            }
            _ => exit,
        }
    }

    fn exit_of_svm(f: &mut Feed<'_>) -> VmExit {
        let mut vmcb = svm::vmcb::Vmcb::default();
        vmcb.exit_code = match f.below(4) {
            0 => 0x400,
            1 => f.pick(&[0x7b, 0x7c, 0x72, 0x78, 0x4e, 0x41, 0x60]),
            _ => u64::from(f.below(0x90)),
        };
        vmcb.exit_info1 = if f.bool() {
            u64::from(f.u32())
        } else {
            f.u64()
        };
        vmcb.exit_info2 = Self::address(f);
        if f.below(4) == 0 {
            vmcb.exit_int_info = f.u64() | 1 << 31;
        }
        svm::exit::decode(&vmcb, &svm::Features::default())
    }

    fn exit_of_vmx(&self, n: usize, f: &mut Feed<'_>) -> VmExit {
        let fields: [u64; 6] = std::array::from_fn(|_| {
            if f.bool() {
                u64::from(f.u32())
            } else {
                Self::address(f)
            }
        });
        let reason = u64::from(f.below(65));
        let vectoring = if f.below(4) == 0 {
            u64::from(f.u16()) | 1 << 31
        } else {
            0
        };
        let read = |field| {
            use vmx::vmcs::Field;
            match field {
                Field::EXIT_REASON => reason,
                Field::EXIT_QUALIFICATION => fields[0],
                Field::GUEST_PHYSICAL_ADDRESS => fields[1],
                Field::IDT_VECTORING_INFO => vectoring,
                Field::EXIT_INSTRUCTION_LENGTH => fields[2] & 15,
                Field::EXIT_INTERRUPTION_INFO => fields[3] & 0xfff | 1 << 31,
                Field::EXIT_INSTRUCTION_INFO => fields[4],
                _ => fields[5],
            }
        };
        vmx::exit::decode(read, self.cpus[n].cpu.rip).exit
    }
}
