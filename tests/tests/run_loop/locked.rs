//! LOCKed instructions that are executed in software, by several virtual CPUs at the same time.

use hv_core::bus::Bus;
use hv_core::cpuid::Cpuid;
use hv_core::device::{DevCx, Device, WindowId};
use hv_core::exit::{ExitReason, VmExit};
use hv_core::lock::Lock;
use hv_core::machine::Topology;
use hv_core::mem::GuestMemory;
use hv_core::pvclock::PvClock;
use hv_core::regs::gpr;
use hv_core::testing::{FakeInterrupts, FlatMmu, ManualClock, ScriptedCpu, VecMemory};
use hv_core::vcpu::{self, Stop, Vcpu};
use hv_core::vm::{self, Vm};
use hv_core::{Gpa, VmTime};
use std::sync::Arc;
use tests::rig::{CODE, RAM, host};

const CPUS: u8 = 4;
const ROUNDS: u64 = 20_000;
/// What they count in.
const COUNTER: u64 = 0x8000;
/// Registers of a device, where they count too.
const DEVICE: u64 = 0xd000_0000;

/// A device whose registers keep what is written.
struct Registers([u8; 0x2000]);

impl Device for Registers {
    fn name(&self) -> &'static str {
        "registers"
    }
    fn mmio_read(&mut self, _: &mut DevCx<'_>, _: WindowId, offset: u64, size: usize) -> u64 {
        let mut value = [0; 8];
        value[..size].copy_from_slice(&self.0[offset as usize..][..size]);
        u64::from_le_bytes(value)
    }
    fn mmio_write(&mut self, _: &mut DevCx<'_>, _: WindowId, offset: u64, size: usize, v: u64) {
        self.0[offset as usize..][..size].copy_from_slice(&v.to_le_bytes()[..size]);
    }
}

type Cpu = Vcpu<ScriptedCpu, FlatMmu, ManualClock>;

/// Has several CPUs execute `code` in software, with RSI at `counter`, after `prepare` has set the other registers, until each has [`ROUNDS`]
/// times been `done`. Returns the 16 bytes at `counter`.
fn count(code: &[u8], counter: u64, prepare: fn(&mut Cpu, u128), done: fn(&Cpu) -> bool) -> u128 {
    let memory = Arc::new(VecMemory::new(RAM));
    memory.write(Gpa(CODE), code).unwrap();
    let mut bus = Bus::new(memory.clone());
    let device = bus.add(Arc::new(Lock::device(Registers([0; 0x2000]))));
    bus.add_mmio(device, 0x2000, Some(DEVICE));
    let vm = Arc::new(Vm::new(vm::Parts {
        number: 1,
        mmu: FlatMmu::default(),
        bus,
        memory: memory.clone(),
        cpuid: Cpuid::new(host, Topology::new(CPUS.into())),
        wakeups: Arc::default(),
        scratch: None,
    }));
    let look = |vm: &Vm<FlatMmu>| {
        memory.read_u128(Gpa(counter)).unwrap_or_else(|_| {
            let mut bus = vm.bus();
            let mut half = |at| u128::from(bus.mmio_read(VmTime(0), Gpa(at), 8));
            half(counter + 8) << 64 | half(counter)
        })
    };
    // Each takes itself for the bootstrap processor, so that nobody has to start it.
    let cpu = || {
        let mut vcpu = Vcpu::new(
            vm.clone(),
            0,
            vcpu::Parts {
                cpu: ScriptedCpu::default(),
                clock: ManualClock::default(),
                pvclock: PvClock::new(1_000_000_000, 0),
                irqs: Box::new(FakeInterrupts::default()),
            },
        );
        vcpu.cpu.long_mode();
        vcpu.cpu.rflags = 2;
        vcpu
    };
    let work = |mut vcpu: Cpu| {
        let mut left = ROUNDS;
        while left > 0 {
            vcpu.cpu.rip = CODE;
            vcpu.cpu.gprs.regs[gpr::RSI] = counter;
            let now = look(&vcpu.vm);
            prepare(&mut vcpu, now);
            vcpu.cpu.exit(VmExit::bare(ExitReason::Cr0Misc));
            assert_eq!(vcpu.run(), Stop::HostInterrupt);
            left -= u64::from(vcpu.cpu.rip != CODE && done(&vcpu));
        }
    };
    std::thread::scope(|s| {
        for _ in 0..CPUS {
            let vcpu = cpu();
            s.spawn(|| work(vcpu));
        }
    });
    look(&vm)
}

const ALL: u128 = CPUS as u128 * ROUNDS as u128;
const ZF: u64 = 1 << 6;

/// The expected value in (E/R)DX:(E/R)AX, the wanted one in (E/R)CX:(E/R)BX.
fn expect(cpu: &mut Cpu, half: u32, value: u128) {
    let halves = |v: u128| {
        let mask = (1u128 << half) - 1;
        ((v >> half & mask) as u64, (v & mask) as u64)
    };
    let regs = &mut cpu.cpu.gprs.regs;
    (regs[gpr::RDX], regs[gpr::RAX]) = halves(value);
    (regs[gpr::RCX], regs[gpr::RBX]) = halves(value.wrapping_add(STEP));
}

/// Both halves change, so that a torn value shows.
const STEP: u128 = 1 << 64 | 1 << 32 | 1;

#[test]
fn lock_inc_loses_nothing() {
    // LOCK INC QWORD [RSI]
    let sum = count(&[0xf0, 0x48, 0xff, 0x06], COUNTER, |_, _| (), |_| true);
    assert_eq!(sum, ALL);
}

#[test]
fn lock_inc_that_is_not_aligned_loses_nothing() {
    for counter in [COUNTER + 1, COUNTER + 62, COUNTER + 0xffe] {
        // LOCK INC DWORD [RSI]
        let sum = count(&[0xf0, 0xff, 0x06], counter, |_, _| (), |_| true);
        assert_eq!(sum, ALL, "{counter:#x}");
    }
}

/// SDM vol 3A 9.1.2, "Bus Locking": the whole instruction has the bus.
#[test]
fn lock_on_registers_of_a_device_loses_nothing() {
    for counter in [DEVICE, DEVICE + 5, DEVICE + 0xffe] {
        // LOCK INC DWORD [RSI]
        let sum = count(&[0xf0, 0xff, 0x06], counter, |_, _| (), |_| true);
        assert_eq!(sum, ALL, "{counter:#x}");
    }
    // LOCK CMPXCHG16B [RSI]
    let sum = count(
        &[0xf0, 0x48, 0x0f, 0xc7, 0x0e],
        DEVICE + 0x10,
        |cpu, value| expect(cpu, 64, value),
        |cpu| cpu.cpu.rflags & ZF != 0,
    );
    assert_eq!(sum, STEP * ALL);
}

#[test]
fn lock_xadd_loses_nothing() {
    // LOCK XADD [RSI], EAX
    let one = |cpu: &mut Cpu, _| cpu.cpu.gprs.regs[gpr::RAX] = 1;
    let sum = count(&[0xf0, 0x0f, 0xc1, 0x06], COUNTER, one, |_| true);
    assert_eq!(sum, ALL);
}

#[test]
fn cmpxchg8b_and_16b_lose_and_tear_nothing() {
    let equal = |cpu: &Cpu| cpu.cpu.rflags & ZF != 0;
    // LOCK CMPXCHG8B [RSI]
    let sum = count(
        &[0xf0, 0x0f, 0xc7, 0x0e],
        COUNTER,
        |cpu, value| expect(cpu, 32, value),
        equal,
    );
    assert_eq!(sum, ALL << 32 | ALL);
    // LOCK CMPXCHG16B [RSI]
    let sum = count(
        &[0xf0, 0x48, 0x0f, 0xc7, 0x0e],
        COUNTER,
        |cpu, value| expect(cpu, 64, value),
        equal,
    );
    assert_eq!(sum, STEP * ALL);
}

#[test]
fn xchg_with_memory_locks_without_a_prefix() {
    // XCHG [RSI], EAX: what goes in comes out once, and the last stays.
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
    static NEXT: AtomicU64 = AtomicU64::new(1);
    static IN: AtomicU64 = AtomicU64::new(0);
    static OUT: AtomicU64 = AtomicU64::new(0);
    let last = count(
        &[0x87, 0x06],
        COUNTER,
        |cpu, _| {
            let value = NEXT.fetch_add(1, Relaxed);
            let regs = &mut cpu.cpu.gprs.regs;
            (regs[gpr::RAX], regs[gpr::RBX]) = (value, value);
        },
        |cpu| {
            IN.fetch_add(cpu.cpu.gprs.regs[gpr::RBX], Relaxed);
            OUT.fetch_add(cpu.cpu.gprs.regs[gpr::RAX], Relaxed);
            true
        },
    );
    assert_eq!(OUT.load(Relaxed) + last as u64, IN.load(Relaxed));
}
