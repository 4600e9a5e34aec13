//! The machine as the crate gdbstub wants it.

use crate::registers::{GdbRegisters, X64};
use crate::{Action, Debuggee};
use alloc::vec;
use alloc::vec::Vec;
use core::convert::Infallible;
use core::fmt::Write;
use gdbstub::common::{Signal, Tid};
use gdbstub::conn::Connection;
use gdbstub::target::ext::base::BaseOps;
use gdbstub::target::ext::base::multithread::{
    MultiThreadBase, MultiThreadResume, MultiThreadResumeOps, MultiThreadSchedulerLocking,
    MultiThreadSchedulerLockingOps, MultiThreadSingleStep, MultiThreadSingleStepOps,
};
use gdbstub::target::ext::breakpoints::{
    Breakpoints, BreakpointsOps, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps,
    SwBreakpoint, SwBreakpointOps, WatchKind,
};
use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd, MonitorCmdOps};
use gdbstub::target::ext::thread_extra_info::{ThreadExtraInfo, ThreadExtraInfoOps};
use gdbstub::target::{self, TargetError, TargetResult};
use hv_core::Gva;
use hv_core::debug::{MAX_POINTS, Point, PointKind, WIDEST};

/// What is to be sent.
pub struct Output(pub Vec<u8>);

impl Connection for Output {
    type Error = Infallible;

    fn write(&mut self, byte: u8) -> Result<(), Infallible> {
        self.0.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

/// CPU `cpu` as a thread.
pub fn tid(cpu: usize) -> Tid {
    Tid::MIN.saturating_add(cpu)
}

fn cpu(tid: Tid) -> usize {
    tid.get() - 1
}

/// The machine while it is lent, and what the debugger has said of it.
pub struct Target<D: Debuggee> {
    pub debuggee: Option<D>,
    /// The CPU that the debugger looks at.
    pub cpu: usize,
    /// Addresses of memory are physical ones.
    physical: bool,
    points: Vec<Point>,
    /// What is said of each CPU for when the machine goes on.
    actions: Vec<Option<Action>>,
    /// A CPU of which nothing is said stays stopped.
    locked: bool,
}

impl<D: Debuggee> Default for Target<D> {
    fn default() -> Self {
        Self {
            debuggee: None,
            cpu: 0,
            physical: false,
            points: Vec::new(),
            actions: Vec::new(),
            locked: false,
        }
    }
}

impl<D: Debuggee> Target<D> {
    /// The machine, with the CPU that `tid` is.
    fn look_at(&mut self, tid: Tid) -> TargetResult<(&mut D, usize), Self> {
        let cpu = cpu(tid);
        let debuggee = self.debuggee.as_mut().filter(|d| cpu < d.cpus());
        self.cpu = cpu;
        Ok((debuggee.ok_or(TargetError::NonFatal)?, cpu))
    }

    fn add(&mut self, point: Point) -> TargetResult<bool, Self> {
        let fits = self.points.len() < MAX_POINTS;
        if fits {
            self.points.push(point);
        }
        Ok(fits)
    }

    fn remove(&mut self, point: Point) -> TargetResult<bool, Self> {
        let at = self.points.iter().position(|&other| other == point);
        if let Some(at) = at {
            self.points.swap_remove(at);
        }
        Ok(at.is_some())
    }

    fn set_action(&mut self, tid: Tid, action: Action) {
        if let Some(slot) = self.actions.get_mut(cpu(tid)) {
            *slot = Some(action);
        }
    }
}

impl<D: Debuggee> target::Target for Target<D> {
    type Arch = X64;
    type Error = Infallible;

    fn base_ops(&mut self) -> BaseOps<'_, X64, Infallible> {
        BaseOps::MultiThread(self)
    }

    fn support_breakpoints(&mut self) -> Option<BreakpointsOps<'_, Self>> {
        Some(self)
    }

    fn support_monitor_cmd(&mut self) -> Option<MonitorCmdOps<'_, Self>> {
        Some(self)
    }
}

impl<D: Debuggee> MultiThreadBase for Target<D> {
    fn read_registers(&mut self, regs: &mut GdbRegisters, tid: Tid) -> TargetResult<(), Self> {
        let (debuggee, cpu) = self.look_at(tid)?;
        *regs = GdbRegisters::of(&debuggee.registers(cpu));
        Ok(())
    }

    fn write_registers(&mut self, regs: &GdbRegisters, tid: Tid) -> TargetResult<(), Self> {
        let (debuggee, cpu) = self.look_at(tid)?;
        let mut registers = debuggee.registers(cpu);
        regs.change(&mut registers);
        let set = debuggee.set_registers(cpu, &registers);
        set.map_err(|_| TargetError::NonFatal)
    }

    fn read_addrs(&mut self, at: u64, data: &mut [u8], tid: Tid) -> TargetResult<usize, Self> {
        let physical = self.physical;
        let (debuggee, cpu) = self.look_at(tid)?;
        match debuggee.read(cpu, physical, at, data) {
            0 if !data.is_empty() => Err(TargetError::NonFatal),
            n => Ok(n),
        }
    }

    fn write_addrs(&mut self, at: u64, data: &[u8], tid: Tid) -> TargetResult<(), Self> {
        let physical = self.physical;
        let (debuggee, cpu) = self.look_at(tid)?;
        let all = debuggee.write(cpu, physical, at, data) == data.len();
        all.then_some(()).ok_or(TargetError::NonFatal)
    }

    fn list_active_threads(&mut self, there_is: &mut dyn FnMut(Tid)) -> Result<(), Infallible> {
        let cpus = self.debuggee.as_ref().map_or(0, D::cpus);
        (0..cpus).map(tid).for_each(there_is);
        Ok(())
    }

    fn support_resume(&mut self) -> Option<MultiThreadResumeOps<'_, Self>> {
        Some(self)
    }

    fn support_thread_extra_info(&mut self) -> Option<ThreadExtraInfoOps<'_, Self>> {
        Some(self)
    }
}

impl<D: Debuggee> ThreadExtraInfo for Target<D> {
    fn thread_extra_info(&self, tid: Tid, buf: &mut [u8]) -> Result<usize, Infallible> {
        let cpu = cpu(tid);
        let state = self.debuggee.as_ref().map_or("", |d| d.state(cpu));
        let info = alloc::format!("CPU {cpu}, {state}");
        let bytes = info.as_bytes();
        let len = bytes.len().min(buf.len());
        for (to, from) in buf.iter_mut().zip(bytes) {
            *to = *from;
        }
        Ok(len)
    }
}

impl<D: Debuggee> MultiThreadResume for Target<D> {
    fn clear_resume_actions(&mut self) -> Result<(), Infallible> {
        self.locked = false;
        self.actions = vec![None; self.debuggee.as_ref().map_or(0, D::cpus)];
        Ok(())
    }

    fn set_resume_action_continue(
        &mut self,
        tid: Tid,
        _signal: Option<Signal>,
    ) -> Result<(), Infallible> {
        self.set_action(tid, Action::Run);
        Ok(())
    }

    fn resume(&mut self) -> Result<(), Infallible> {
        let rest = match self.locked {
            true => Action::Hold,
            false => Action::Run,
        };
        let actions = self.actions.iter().map(|action| action.unwrap_or(rest));
        let actions: Vec<Action> = actions.collect();
        if let Some(debuggee) = &mut self.debuggee {
            debuggee.resume(&self.points, &actions);
        }
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl<D: Debuggee> MultiThreadSingleStep for Target<D> {
    fn set_resume_action_step(
        &mut self,
        tid: Tid,
        _signal: Option<Signal>,
    ) -> Result<(), Infallible> {
        self.set_action(tid, Action::Step);
        Ok(())
    }
}

impl<D: Debuggee> MultiThreadSchedulerLocking for Target<D> {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), Infallible> {
        self.locked = true;
        Ok(())
    }
}

impl<D: Debuggee> Breakpoints for Target<D> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

/// A breakpoint. Neither kind is a byte in the guest's memory or one of its debug registers.
const fn breakpoint(at: u64) -> Point {
    Point {
        kind: PointKind::Execute,
        at: Gva(at),
        len: 1,
    }
}

/// A watchpoint, if there can be one.
fn watchpoint(at: u64, len: u64, kind: WatchKind) -> Option<Point> {
    let len = usize::try_from(len)
        .ok()
        .filter(|len| (1..=WIDEST).contains(len))?;
    let kind = match kind {
        WatchKind::Write => PointKind::Write,
        WatchKind::Read => PointKind::Read,
        WatchKind::ReadWrite => PointKind::Access,
    };
    Some(Point {
        kind,
        at: Gva(at),
        len,
    })
}

impl<D: Debuggee> SwBreakpoint for Target<D> {
    fn add_sw_breakpoint(&mut self, at: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.add(breakpoint(at))
    }

    fn remove_sw_breakpoint(&mut self, at: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.remove(breakpoint(at))
    }
}

impl<D: Debuggee> HwBreakpoint for Target<D> {
    fn add_hw_breakpoint(&mut self, at: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.add(breakpoint(at))
    }

    fn remove_hw_breakpoint(&mut self, at: u64, _kind: usize) -> TargetResult<bool, Self> {
        self.remove(breakpoint(at))
    }
}

impl<D: Debuggee> HwWatchpoint for Target<D> {
    fn add_hw_watchpoint(
        &mut self,
        at: u64,
        len: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        match watchpoint(at, len, kind) {
            Some(point) => self.add(point),
            None => Ok(false),
        }
    }

    fn remove_hw_watchpoint(
        &mut self,
        at: u64,
        len: u64,
        kind: WatchKind,
    ) -> TargetResult<bool, Self> {
        match watchpoint(at, len, kind) {
            Some(point) => self.remove(point),
            None => Ok(false),
        }
    }
}

impl<D: Debuggee> MonitorCmd for Target<D> {
    fn handle_monitor_cmd(
        &mut self,
        line: &[u8],
        mut out: ConsoleOutput<'_>,
    ) -> Result<(), Infallible> {
        let line = core::str::from_utf8(line).unwrap_or_default().trim();
        // Nothing can be done about a debugger that does not listen.
        let _ = match line {
            "physical on" | "physical off" => {
                self.physical = line.ends_with("on");
                let what = if self.physical { "physical" } else { "linear" };
                writeln!(out, "addresses of memory are {what} ones")
            }
            _ => {
                let cpu = self.cpu;
                if let Some(debuggee) = self.debuggee.as_mut().filter(|d| cpu < d.cpus()) {
                    debuggee.command(cpu, line, &mut out);
                }
                Ok(())
            }
        };
        Ok(())
    }
}
