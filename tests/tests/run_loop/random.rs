//! Random exits in random states: the run loop neither panics nor hangs, and loses no interrupt that it has acknowledged.

use hv_core::Gpa;
use hv_core::VmTime;
use hv_core::cpu::VcpuBackend;
use hv_core::device::{AccessSize, PowerAction};
use hv_core::event::{Event, EventKind};
use hv_core::exit::{ExitReason, NestedFault, PortIo, RegAccess, VmExit};
use hv_core::lock::Lock;
use hv_core::mem::GuestMemory;
use hv_core::regs::{SegAttr, SegReg, Segment, SysReg};
use hv_core::testing::{FakeInterrupts, Random, ScriptedCpu};
use hv_core::vcpu::Stop;
use spin::Mutex;
use std::sync::Arc;
use tests::rig::{MMIO, PORT, RAM, Rig};

/// Code that exits are about, and some that they are not.
const CODE: [&[u8]; 24] = [
    &[0x0f, 0xa2],
    &[0xf4],
    &[0x0f, 0x32],
    &[0x0f, 0x30],
    &[0xf3, 0x90],
    &[0x0f, 0x09],
    &[0x66, 0x0f, 0xa2],
    &[0x0f, 0x01, 0xd1],
    &[0xf3, 0x6c],
    &[0xf3, 0x66, 0x6d],
    &[0xf3, 0x6e],
    &[0x6f],
    &[0x8b, 0x03],
    &[0x89, 0x03],
    &[0xf3, 0xa5],
    &[0xf0, 0x0f, 0xb1, 0x0b],
    &[0x0f, 0x22, 0xc0],
    &[0x44, 0x0f, 0x22, 0xc0],
    &[0x0f, 0x01, 0x10],
    &[0x0f, 0x31],
    &[0xcf],
    &[0xcd, 0x80],
    &[0x0f, 0x00, 0xd8],
    &[0x8e, 0x13],
];

/// An address that leads somewhere more often than not.
fn address(r: &mut Random) -> u64 {
    match r.below(8) {
        0 => r.next(),
        1 => r.next() | !0xfff,
        2 => MMIO + r.below(0x2010),
        3 => RAM as u64 - 8 + r.below(16),
        4 => 0xffff_fff0 + r.below(32),
        5 => r.below(0x20),
        _ => r.below(RAM as u64),
    }
}

/// A model-specific register, mostly one that there is.
fn msr(r: &mut Random) -> u64 {
    match r.below(7) {
        0 => r.next(),
        5 => 0x4000_0000 + r.below(0x106),
        1 => 0xc000_0080 + r.below(8),
        2 => 0x4b56_4d00 + r.below(4),
        3 => 0x200 + r.below(0x100),
        4 => 0x800 + r.below(0x41),
        _ => r.pick(&[0x10, 0x1b, 0x277, 0x2ff, 0x174, 0x1a0]),
    }
}

fn size(r: &mut Random) -> AccessSize {
    r.pick(&[AccessSize::Byte, AccessSize::Word, AccessSize::Dword])
}

/// What AMD-V's exit fields of any contents come to.
fn decoded(r: &mut Random) -> ExitReason {
    let mut vmcb = svm::vmcb::Vmcb::default();
    let codes = [r.below(0x8f), 0x7b, 0x7b, 0x7c, 0x400];
    vmcb.exit_code = r.pick(&codes);
    (vmcb.exit_info1, vmcb.exit_info2) =
        (r.next(), if r.one_in(2) { address(r) } else { r.next() });
    svm::exit::decode(&vmcb, &svm::Features::default()).reason
}

fn reason(r: &mut Random) -> ExitReason {
    if r.one_in(4) {
        return decoded(r);
    }
    let register = |r: &mut Random| RegAccess {
        number: r.below(16) as u8,
        write: r.one_in(2),
        gpr: r.one_in(2).then(|| r.below(16) as u8),
    };
    match r.below(34) {
        0 => ExitReason::ExternalInterrupt,
        1 => ExitReason::Nmi,
        2 => ExitReason::Init,
        3 => ExitReason::Exception {
            kind: r.pick(&[
                EventKind::Exception,
                EventKind::SoftwareException,
                EventKind::PrivilegedSoftwareException,
            ]),
            vector: r.below(32) as u8,
            error: r.next() as u32,
            payload: r.next(),
            insn_len: r.below(16) as u8,
        },
        4 => ExitReason::Shutdown,
        5 => ExitReason::InterruptWindow,
        6 => ExitReason::Iret,
        7 => ExitReason::Cpuid,
        8 => ExitReason::Hlt,
        9 => ExitReason::Pause,
        10 => ExitReason::Invd,
        11 => ExitReason::Wbinvd,
        12 => ExitReason::Invlpg(None),
        13 => ExitReason::Rdtsc,
        14 => ExitReason::Rdtscp,
        15 => ExitReason::Rdpmc,
        16 => ExitReason::Hypercall,
        17 => ExitReason::Xsetbv,
        18..=20 => r.pick(&[ExitReason::Rdmsr, ExitReason::Wrmsr]),
        21..=25 => {
            let io = PortIo {
                port: if r.one_in(3) {
                    r.next() as u16
                } else {
                    PORT + r.below(18) as u16
                },
                size: size(r),
                write: r.one_in(2),
                rep: r.one_in(2),
                address_size: r.pick(&[None, Some(2), Some(4), Some(8)]),
                segment: r.pick(&[None, Some(SegReg::Ds), Some(SegReg::Fs)]),
            };
            r.pick(&[ExitReason::PortIo(io), ExitReason::StringIo(io)])
        }
        26 => ExitReason::CrAccess(register(r)),
        27 => ExitReason::Cr0Misc,
        28 => ExitReason::DrAccess(register(r)),
        29 => ExitReason::DescriptorTable(r.pick(&SegReg::ALL)),
        30 => ExitReason::TaskSwitch,
        31 if r.one_in(8) => r.pick(&[ExitReason::EntryFailed, ExitReason::Unknown(0x3ff)]),
        _ => ExitReason::NestedFault(NestedFault {
            gpa: Gpa(address(r)),
            write: r.one_in(2),
            fetch: r.one_in(4),
            present: r.one_in(4),
            table_walk: r.one_in(8),
        }),
    }
}

fn registers(r: &mut Random, cpu: &mut ScriptedCpu) {
    if r.one_in(4) {
        cpu.flat_real_mode();
        cpu.set_sysreg(SysReg::Cr0, 0x10);
        cpu.set_sysreg(SysReg::Efer, 0);
    } else if r.one_in(2) {
        cpu.long_mode();
    }
    for n in 0..16 {
        cpu.gprs.regs[n] = address(r);
    }
    if r.one_in(2) {
        // RCX: a register or a small count; RDX: a port.
        cpu.gprs.regs[1] = if r.one_in(2) { msr(r) } else { r.below(600) };
        cpu.gprs.regs[2] = u64::from(PORT) + r.below(18);
    }
    cpu.rip = address(r);
    cpu.rflags = r.next() & 0x3f_7fd5 | 2;
    if !r.one_in(8) {
        cpu.rflags &= !(1 << 17);
    }
    cpu.shadow = r.one_in(4);
    cpu.xcr0 = r.pick(&[1, 3, 7]);
    if r.one_in(4) {
        cpu.set_sysreg(SysReg::Cr0, r.next());
        cpu.set_sysreg(SysReg::Cr3, address(r));
        cpu.set_sysreg(SysReg::Cr4, r.next() & 0x7f_ffff);
        cpu.set_sysreg(SysReg::Efer, r.next() & 0xd01);
        cpu.set_sysreg(SysReg::TscOffset, r.next());
    }
    for s in SegReg::ALL {
        if r.one_in(8) {
            let value = Segment {
                selector: r.next() as u16,
                attr: SegAttr::from_bits_retain(r.next() as u16 & 0xfff),
                limit: r.next() as u32,
                base: address(r),
            };
            cpu.set_segment(s, value);
        }
    }
}

/// What the CPU owes the guest.
struct Model {
    random: Random,
    irqs: Arc<Lock<FakeInterrupts>>,
    /// An acknowledged interrupt whose delivery was interrupted.
    interrupt: Option<u8>,
    /// An NMI whose delivery was interrupted.
    nmi: bool,
    delivered: u64,
}

impl Model {
    /// Checks an entry and makes up the exit that follows it.
    fn entered(&mut self, cpu: &ScriptedCpu) -> VmExit {
        let entry = cpu.entries.last().expect("the guest was entered");
        let mut irqs = self.irqs.lock();
        let acknowledged = std::mem::take(&mut irqs.acknowledged);
        let given_back = std::mem::take(&mut irqs.given_back);
        if let Some(vector) = self.interrupt.take() {
            assert!(
                given_back.contains(&vector),
                "what was not delivered goes back to its chip"
            );
        }
        assert!(
            irqs.waiting.is_empty() || entry.irq_window,
            "what waits has a window"
        );
        drop(irqs);
        match entry.inject {
            Some(e) if e.kind == EventKind::ExternalInterrupt => {
                // Those before were delivered in software.
                assert_eq!(acknowledged.last(), Some(&e.vector));
                assert!(
                    cpu.rflags & 0x200 != 0 && !cpu.shadow,
                    "the guest can take it"
                );
                self.delivered += 1;
            }
            Some(e) if e.kind == EventKind::Nmi => self.nmi = false,
            e => assert!(
                !self.nmi || e.is_some(),
                "an interrupted NMI waits for other events only"
            ),
        }
        let r = &mut self.random;
        let vectoring = match entry.inject {
            Some(e) if r.one_in(3) => Some(e),
            None if r.one_in(8) => Some(match r.below(3) {
                0 => Event::exception(r.pick(&[0, 1, 6, 8, 13, 14]), Some(0)),
                1 => Event {
                    insn_len: 2,
                    kind: EventKind::SoftwareInterrupt,
                    ..Event::interrupt(0x80)
                },
                _ => Event {
                    insn_len: 1,
                    kind: EventKind::SoftwareException,
                    ..Event::interrupt(3)
                },
            }),
            _ => None,
        };
        let reason = reason(r);
        match vectoring.map(|e| (e.kind, e.vector)) {
            Some((EventKind::ExternalInterrupt, v)) => self.interrupt = Some(v),
            // Through device memory and task gates events are delivered in software, at once.
            Some((EventKind::Nmi, _)) => {
                self.nmi = !matches!(reason, ExitReason::NestedFault(_) | ExitReason::TaskSwitch)
            }
            _ => {}
        }
        let next_rip = r.one_in(2).then(|| cpu.rip.wrapping_add(r.below(16)));
        VmExit {
            reason,
            next_rip,
            vectoring,
            untaken: None,
        }
    }
}

#[test]
fn random_exits_never_panic_nor_hang_nor_lose_an_interrupt() {
    let steps: u64 = std::env::var("UMBRA_STEPS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(100_000);
    let mut r = Random::from_env("UMBRA_SEED", 0x1b0d_5eed);
    let mut rig = Rig::new();
    let mut noise = vec![0; RAM];
    r.fill(&mut noise);
    rig.memory.write(Gpa(0), &noise).unwrap();
    let model = Arc::new(Mutex::new(Model {
        random: Random::new(r.next()),
        irqs: rig.irqs.clone(),
        interrupt: None,
        nmi: false,
        delivered: 0,
    }));
    let mut stops = [0u64; 7];
    for _ in 0..steps {
        if r.one_in(3) {
            registers(&mut r, &mut rig.vcpu.cpu);
        }
        let linear = rig
            .vcpu
            .cpu
            .segment(SegReg::Cs)
            .base
            .wrapping_add(rig.vcpu.cpu.rip);
        let _ = rig.memory.write(Gpa(linear), r.pick(&CODE));
        if r.one_in(16) {
            rig.vcpu.vm.mmu().missing = (0..4).map(|_| address(&mut r) >> 12).collect();
        }
        surprise(&mut r, &mut rig);
        for _ in 0..r.below(4) {
            let model = model.clone();
            rig.vcpu.cpu.play(move |cpu| model.lock().entered(cpu));
        }
        // The end of the script is an exit like the others.
        let last = model.clone();
        rig.vcpu.cpu.play(move |cpu| {
            let reason = ExitReason::ExternalInterrupt;
            VmExit {
                reason,
                ..last.lock().entered(cpu)
            }
        });
        let stop = rig.run();
        stops[match &stop {
            Stop::HostInterrupt => 0,
            Stop::Idle(_) => 1,
            Stop::Power(_) => 2,
            Stop::TripleFault => 3,
            Stop::Fatal(_) => 4,
            Stop::Service => 5,
            Stop::Yield => 6,
            Stop::Wakeup | Stop::YieldTo(_) => unreachable!("it is alone in its VM"),
            Stop::Crashed | Stop::Debug(_) | Stop::Trace => unreachable!("it cannot say so"),
        }] += 1;
        match stop {
            Stop::Service => rig.vcpu.service_at = VmTime::NEVER,
            Stop::Idle(_) => rig.vcpu.resume(),
            Stop::Power(_) | Stop::TripleFault | Stop::Fatal(_) => {
                rig.reset();
                model.lock().nmi = false;
            }
            Stop::HostInterrupt
            | Stop::Wakeup
            | Stop::Yield
            | Stop::Trace
            | Stop::YieldTo(_)
            | Stop::Crashed
            | Stop::Debug(_) => {}
        }
        forget(&mut rig);
    }
    println!(
        "stops: {stops:?}; exits by reason: {:?}",
        rig.vcpu.stats.exits
    );
    let m = model.lock();
    assert!(
        m.delivered > steps / 100 && stops.iter().all(|n| *n > 0),
        "the test reaches all this"
    );
}

/// Things that happen outside the CPU.
fn surprise(r: &mut Random, rig: &mut Rig) {
    rig.clock.pass(if r.one_in(100) {
        r.below(1 << 40)
    } else {
        r.below(1_000)
    });
    if r.one_in(4) && rig.irqs.lock().waiting.len() < 8 {
        rig.irqs
            .lock()
            .waiting
            .push_back(0x20 + r.below(0xe0) as u8);
    }
    rig.irqs.lock().nmi |= r.one_in(10);
    rig.irqs.lock().apic_base = if r.one_in(2) {
        0xfee0_0900
    } else {
        0xfee0_0100
    };
    let now = rig.vcpu.now();
    if r.one_in(50) {
        rig.vcpu.service_at = now + VmTime(r.below(2_000));
    }
    let mut probe = rig.probe.lock();
    probe.value = r.next();
    probe.cost = r.below(100);
    probe.wake = r
        .one_in(4)
        .then(|| VmTime((now.0 + r.below(1_000)).saturating_sub(500)));
    probe.deadline = r
        .one_in(2)
        .then(|| VmTime((now.0 + r.below(1_000)).saturating_sub(500)));
    probe.always_due = r.one_in(10);
    probe.move_to = r.one_in(4).then(|| r.one_in(4).then(|| address(r)));
    probe.power = r
        .one_in(20)
        .then(|| r.pick(&[PowerAction::Reset, PowerAction::PowerOff]));
}

/// Empties what remembers.
fn forget(rig: &mut Rig) {
    rig.vcpu.cpu.entries.clear();
    rig.vcpu.cpu.cut();
    rig.vcpu.vm.mmu().remapped.clear();
    let mut probe = rig.probe.lock();
    probe.log.clear();
    assert!(
        probe.polls.len() < 100,
        "polled again and again without an entry"
    );
    probe.polls.clear();
}
