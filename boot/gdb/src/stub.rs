//! A conversation with a debugger.

use crate::target::{Output, Target, tid};
use crate::{Debuggee, registers::X64};
use alloc::vec::Vec;
use gdbstub::arch::Arch;
use gdbstub::common::Signal;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{GdbStub, MultiThreadStopReason};
use gdbstub::target::ext::breakpoints::WatchKind;
use hv_core::debug::{DebugStop, PointKind};

/// Bytes of a packet at most, which gdb is told.
const PACKET: usize = 4096;

/// How the conversation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// The machine stands still, and the debugger may ask.
    Stopped,
    /// The machine runs.
    Running,
    /// The debugger has let go of the machine, or has said something that is no packet.
    Gone,
}

type Machine<D> = GdbStubStateMachine<'static, Target<D>, Output>;
type Reason = MultiThreadStopReason<<X64 as Arch>::Usize>;

/// A debugger at a machine.
pub struct Debugger<D: Debuggee> {
    /// None: it has gone.
    machine: Option<Machine<D>>,
    target: Target<D>,
}

impl<D: Debuggee> Debugger<D> {
    /// A debugger that has just come to a machine that stands still. None: there is no memory for its packets.
    #[must_use]
    pub fn new() -> Option<Self> {
        let mut target = Target::default();
        let stub = GdbStub::builder(Output(Vec::new()))
            .packet_buffer_size(PACKET)
            .build()
            .ok()?;
        let machine = stub.run_state_machine(&mut target).ok()?;
        Some(Self {
            machine: Some(machine),
            target,
        })
    }

    /// How the conversation stands.
    #[must_use]
    pub fn state(&self) -> State {
        match &self.machine {
            Some(Machine::Idle(_)) => State::Stopped,
            Some(Machine::Running(_) | Machine::CtrlCInterrupt(_)) => State::Running,
            Some(Machine::Disconnected(_)) | None => State::Gone,
        }
    }

    /// The debugger has said `bytes`; the answers go to `send`. Nothing of the machine runs meanwhile.
    pub fn hear(&mut self, debuggee: D, bytes: &[u8], send: &mut dyn FnMut(&[u8])) -> D {
        self.lend(debuggee, |debugger| {
            for &byte in bytes {
                debugger.feed(byte);
                debugger.flush(send);
            }
        })
    }

    /// CPU `cpu` of the machine has stopped, and with it all others.
    pub fn stopped(
        &mut self,
        debuggee: D,
        cpu: usize,
        stop: DebugStop,
        send: &mut dyn FnMut(&[u8]),
    ) -> D {
        let tid = tid(cpu);
        let reason = match stop {
            DebugStop::Step | DebugStop::Event => Reason::SignalWithThread {
                tid,
                signal: Signal::SIGTRAP,
            },
            DebugStop::Breakpoint => Reason::SwBreak(tid),
            DebugStop::Watchpoint(point) => Reason::Watch {
                tid,
                kind: match point.kind {
                    PointKind::Execute | PointKind::Write => WatchKind::Write,
                    PointKind::Read => WatchKind::Read,
                    PointKind::Access => WatchKind::ReadWrite,
                },
                addr: point.at.0,
            },
        };
        self.report(debuggee, cpu, reason, send)
    }

    /// The machine has stopped, or been reset, though the debugger has not waited for that: it is told that as a signal.
    pub fn interrupted(&mut self, debuggee: D, cpu: usize, send: &mut dyn FnMut(&[u8])) -> D {
        let reason = Reason::SignalWithThread {
            tid: tid(cpu),
            signal: Signal::SIGINT,
        };
        self.report(debuggee, cpu, reason, send)
    }

    fn report(
        &mut self,
        debuggee: D,
        cpu: usize,
        reason: Reason,
        send: &mut dyn FnMut(&[u8]),
    ) -> D {
        self.lend(debuggee, |debugger| {
            debugger.target.cpu = cpu;
            debugger.machine = match debugger.machine.take() {
                Some(Machine::Running(stub)) => stub.report_stop(&mut debugger.target, reason).ok(),
                other => other,
            };
            debugger.flush(send);
        })
    }

    fn feed(&mut self, byte: u8) {
        let target = &mut self.target;
        let fed = match self.machine.take() {
            Some(Machine::Idle(stub)) => stub.incoming_data(target, byte),
            Some(Machine::Running(stub)) => stub.incoming_data(target, byte),
            other => {
                self.machine = other;
                return;
            }
        };
        // Whatever is wrong with a packet, the debugger has not understood its own protocol.
        self.machine = match fed {
            Ok(Machine::CtrlCInterrupt(stub)) => {
                let reason = Reason::SignalWithThread {
                    tid: tid(target.cpu),
                    signal: Signal::SIGINT,
                };
                stub.interrupt_handled(target, Some(reason)).ok()
            }
            other => other.ok(),
        };
    }

    /// Sends what has been written.
    fn flush(&mut self, send: &mut dyn FnMut(&[u8])) {
        let output = match &mut self.machine {
            Some(Machine::Idle(stub)) => stub.borrow_conn(),
            Some(Machine::Running(stub)) => stub.borrow_conn(),
            Some(Machine::CtrlCInterrupt(stub)) => stub.borrow_conn(),
            Some(Machine::Disconnected(stub)) => stub.borrow_conn(),
            None => return,
        };
        if !output.0.is_empty() {
            send(&output.0);
            output.0.clear();
        }
    }

    /// Does something while the target has the machine.
    fn lend(&mut self, debuggee: D, f: impl FnOnce(&mut Self)) -> D {
        self.target.debuggee = Some(debuggee);
        f(self);
        let back = self.target.debuggee.take();
        back.expect("the machine is only lent")
    }
}
