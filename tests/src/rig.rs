//! A virtual machine whose guest is a script: the real run loop, emulator and buses around [`ScriptedCpu`], with one device.

use hv_core::bus::{Bus, Width};
use hv_core::cpu::Entry;
use hv_core::cpuid::{Cpuid, CpuidResult};
use hv_core::device::{AccessSize, DevCx, Device, PowerAction, WindowId};
use hv_core::event::Event;
use hv_core::exit::{ExitReason, VmExit};
use hv_core::lock::{Lock, Rank};
use hv_core::machine::Topology;
use hv_core::mem::GuestMemory;
use hv_core::pvclock::PvClock;
use hv_core::testing::{FakeInterrupts, FlatMmu, ManualClock, ScriptedCpu, VecMemory};
use hv_core::time::Clock;
use hv_core::vcpu::{self, Stop, Vcpu};
use hv_core::vm::{self, Vm};
use hv_core::{Gpa, Hpa, VmTime};
use std::sync::Arc;

/// RAM in bytes, from address 0.
pub const RAM: usize = 1 << 20;
/// Where code is put unless a test says otherwise.
pub const CODE: u64 = 0x1000;
/// The probe's sixteen ports, of any width.
pub const PORT: u16 = 0x100;
/// The probe's registers in memory.
pub const MMIO: u64 = 0xd000_0000;
/// Length of [`MMIO`] in bytes.
pub const MMIO_LEN: u64 = 0x2000;
/// Where the probe's own memory is.
pub const WINDOW_HPA: Hpa = Hpa(0x80_0000);
/// Length of the probe's own memory in bytes.
pub const WINDOW_LEN: u64 = 0x1_0000;

/// Something that was done to the probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Access {
    In {
        port: u16,
        size: usize,
    },
    Out {
        port: u16,
        size: usize,
        value: u32,
    },
    InBlock {
        port: u16,
        len: usize,
    },
    Read {
        offset: u64,
        size: usize,
    },
    Write {
        offset: u64,
        size: usize,
        value: u64,
    },
}

/// A device that remembers what is done to it and does what it was told beforehand.
#[derive(Default)]
pub struct Probe {
    /// Everything that was done.
    pub log: Vec<Access>,
    /// What reads give.
    pub value: u64,
    /// How long each access takes.
    pub cost: u64,
    /// The power action that the next write asks for.
    pub power: Option<PowerAction>,
    /// Where the next write moves the probe's memory.
    pub move_to: Option<Option<u64>>,
    /// When the next write wants the probe polled.
    pub wake: Option<VmTime>,
    /// What the next poll answers.
    pub deadline: Option<VmTime>,
    /// Every poll answers that the probe is due.
    pub always_due: bool,
    /// When it was polled.
    pub polls: Vec<VmTime>,
    /// What happens at the next poll.
    pub on_poll: Option<Box<dyn FnOnce() + Send>>,
    /// The times of the accesses.
    pub times: Vec<VmTime>,
    window: Option<WindowId>,
    clock: ManualClock,
}

impl Probe {
    fn done(&mut self, cx: &mut DevCx<'_>, access: Access) {
        self.log.push(access);
        self.times.push(cx.now);
        self.clock.pass(self.cost);
        if matches!(access, Access::Out { .. } | Access::Write { .. }) {
            cx.requests.power = self.power.take();
            if let (Some(w), Some(to)) = (self.window, self.move_to.take()) {
                cx.requests.move_window(w, to);
            }
            if let Some(t) = self.wake.take() {
                cx.requests.wake_at(t);
            }
        }
    }
}

impl Device for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }
    fn poll(&mut self, cx: &mut DevCx<'_>) -> Option<VmTime> {
        self.polls.push(cx.now);
        if let Some(happen) = self.on_poll.take() {
            happen();
        }
        assert!(
            self.polls.len() < 1_000_000,
            "the run loop polls devices and does not enter the guest"
        );
        if self.always_due {
            return Some(cx.now);
        }
        self.deadline.take()
    }
    fn port_read(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize) -> u32 {
        let size = size.bytes();
        self.done(cx, Access::In { port, size });
        self.value as u32
    }
    fn port_write(&mut self, cx: &mut DevCx<'_>, port: u16, size: AccessSize, value: u32) {
        let size = size.bytes();
        self.done(cx, Access::Out { port, size, value });
    }
    fn port_read_block(
        &mut self,
        cx: &mut DevCx<'_>,
        port: u16,
        _size: AccessSize,
        buf: &mut [u8],
    ) {
        let len = buf.len();
        self.done(cx, Access::InBlock { port, len });
        for (i, b) in buf.iter_mut().enumerate() {
            *b = i as u8;
        }
    }
    fn mmio_read(&mut self, cx: &mut DevCx<'_>, _w: WindowId, offset: u64, size: usize) -> u64 {
        self.done(cx, Access::Read { offset, size });
        self.value
    }
    fn mmio_write(&mut self, cx: &mut DevCx<'_>, _: WindowId, offset: u64, size: usize, v: u64) {
        let value = v;
        self.done(
            cx,
            Access::Write {
                offset,
                size,
                value,
            },
        );
    }
}

/// The virtual CPU under test.
pub type Cpu = Vcpu<ScriptedCpu, FlatMmu, ManualClock>;

/// The machine, and a hand on each of its parts.
pub struct Rig {
    /// The run loop with everything in it.
    pub vcpu: Cpu,
    /// Its clock.
    pub clock: ManualClock,
    /// Its interrupt chips.
    pub irqs: Arc<Lock<FakeInterrupts>>,
    /// Its RAM.
    pub memory: Arc<VecMemory>,
    /// Its device.
    pub probe: Arc<Lock<Probe>>,
}

/// CPUID of a host that has everything.
#[must_use]
pub fn host(leaf: u32, _subleaf: u32) -> CpuidResult {
    match leaf {
        0 => CpuidResult {
            eax: 0x20,
            ..CpuidResult::default()
        },
        0x0d => CpuidResult {
            eax: 0xff,
            ebx: 576,
            ecx: 2000,
            edx: 0,
        },
        0x8000_0000 => CpuidResult {
            eax: 0x8000_0020,
            ..CpuidResult::default()
        },
        _ => CpuidResult {
            eax: !0,
            ebx: !0,
            ecx: !0,
            edx: !0,
        },
    }
}

impl Default for Rig {
    fn default() -> Self {
        Self::new()
    }
}

impl Rig {
    /// A machine in 64-bit mode, RIP at [`CODE`], interrupts enabled, no script.
    #[must_use]
    pub fn new() -> Self {
        let clock = ManualClock::default();
        let memory = Arc::new(VecMemory::new(RAM));
        let mut bus = Bus::new(memory.clone());
        let probe = Arc::new(Lock::device(Probe {
            clock: clock.clone(),
            ..Probe::default()
        }));
        let id = bus.add(probe.clone());
        bus.add_ports(id, PORT, 16, Width::Native);
        bus.add_mmio(id, MMIO_LEN, Some(MMIO));
        probe.lock().window = Some(bus.add_ram_window(id, WINDOW_LEN, WINDOW_HPA));
        let irqs = Arc::new(Lock::new(Rank::Chips, FakeInterrupts::default()));
        let vm = Vm::new(vm::Parts {
            number: 1,
            mmu: FlatMmu::default(),
            bus,
            memory: memory.clone(),
            cpuid: Cpuid::new(host, Topology::new(1)),
            wakeups: Arc::default(),
            scratch: None,
        });
        let parts = vcpu::Parts {
            cpu: ScriptedCpu::default(),
            clock: clock.clone(),
            pvclock: PvClock::new(1_000_000_000, 0),
            irqs: Box::new(irqs.clone()),
        };
        let mut vcpu = Vcpu::new(Arc::new(vm), 0, parts);
        vcpu.cpu.long_mode();
        vcpu.cpu.rip = CODE;
        vcpu.cpu.rflags = 0x202;
        Self {
            vcpu,
            clock,
            irqs,
            memory,
            probe,
        }
    }

    /// Puts `code` at RIP.
    #[must_use]
    pub fn code(self, code: &[u8]) -> Self {
        self.code_at(CODE, code)
    }

    /// Puts `code` at `rip`, and RIP there.
    #[must_use]
    pub fn code_at(mut self, rip: u64, code: &[u8]) -> Self {
        self.memory.write(Gpa(rip), code).expect("code lies in RAM");
        self.vcpu.cpu.rip = rip;
        self
    }

    /// Adds an exit to the script, with the next RIP `len` bytes on.
    pub fn exit(&mut self, reason: ExitReason, len: u64) {
        let next_rip = Some(self.vcpu.cpu.rip + len);
        self.vcpu.cpu.exit(VmExit {
            next_rip,
            ..VmExit::bare(reason)
        });
    }

    /// Adds an exit to the script of which the hardware tells nothing but the reason.
    pub fn bare(&mut self, reason: ExitReason) {
        self.vcpu.cpu.exit(VmExit::bare(reason));
    }

    /// Adds an exit to the script that interrupts the delivery of `event`.
    pub fn interrupted(&mut self, reason: ExitReason, event: Event) {
        self.vcpu.cpu.exit(VmExit {
            vectoring: Some(event),
            ..VmExit::bare(reason)
        });
    }

    /// Resets the CPU.
    pub fn reset(&mut self) {
        self.vcpu.reset(Clock::ticks(&self.clock));
    }

    /// Plays the script to its end, or to what stops it before.
    pub fn run(&mut self) -> Stop {
        self.vcpu.run()
    }

    /// Plays the script to its end and answers the events that were injected at each entry.
    ///
    /// # Panics
    /// If something stops it before.
    pub fn injected(&mut self) -> Vec<Option<Event>> {
        self.vcpu.cpu.entries.clear();
        assert_eq!(
            self.run(),
            Stop::HostInterrupt,
            "the script is played to its end"
        );
        assert_eq!(self.vcpu.cpu.scenes_left(), 0);
        self.entries().iter().map(|e| e.inject).collect()
    }

    /// The entries there have been.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.vcpu.cpu.entries
    }

    /// The value of a general-purpose register.
    #[must_use]
    pub fn reg(&self, gpr: usize) -> u64 {
        self.vcpu.cpu.gprs.regs[gpr]
    }

    /// Sets general-purpose registers.
    pub fn set(&mut self, values: &[(usize, u64)]) {
        for &(gpr, value) in values {
            self.vcpu.cpu.gprs.regs[gpr] = value;
        }
    }

    /// Takes what was done to the probe.
    #[must_use]
    pub fn log(&self) -> Vec<Access> {
        std::mem::take(&mut self.probe.lock().log)
    }
}
