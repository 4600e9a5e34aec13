//! The first exits of a virtual CPU, as text that tests can replay: what the hardware told, and what the run loop made of it.
//!
//! One line an exit: the VM's time in nanoseconds, the exit, RIP and RAX, RBX, RCX, RDX as the guest was left, and RIP and RAX
//! afterwards; hexadecimal but for time. Exits that need guest memory or tell more than fits are there by name only.

use crate::counts::Counts;
use crate::device::AccessSize;
use crate::exit::{ExitReason, VmExit};
use crate::regs::{Gprs, gpr};
use crate::time::VmTime;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt::Write;

/// The registers that go into a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Before {
    rip: u64,
    regs: [u64; 4],
}

impl Before {
    /// RIP, RAX, RBX, RCX and RDX.
    #[must_use]
    pub fn new(rip: u64, gprs: &Gprs) -> Self {
        let regs = [gpr::RAX, gpr::RBX, gpr::RCX, gpr::RDX].map(|n| gprs.regs[n]);
        Self { rip, regs }
    }
}

/// The lines, up to a limit; and how many exits there were by port and by MSR, all of them.
#[derive(Clone, Debug)]
pub struct Recorder {
    limit: usize,
    lines: Vec<String>,
    /// Exits by IN, OUT, INS and OUTS, by port: all of those below 400h have a place.
    pub ports: Counts<1024>,
    /// Exits by RDMSR and WRMSR, by register.
    pub msrs: Counts<256>,
    /// The line of the exit that is being dealt with.
    open: Option<String>,
}

impl Recorder {
    /// Records the next `limit` exits.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            lines: Vec::new(),
            ports: Counts::default(),
            msrs: Counts::default(),
            open: None,
        }
    }

    /// Adds what another CPU of the VM has counted. The lines stay this one's.
    pub fn add_counts(&mut self, other: &Self) {
        self.ports.add_all(&other.ports);
        self.msrs.add_all(&other.msrs);
    }

    /// The guest has been left.
    #[cold]
    #[inline(never)]
    pub fn begin(&mut self, now: VmTime, exit: &VmExit, before: &Before) {
        let [a, b, c, d] = before.regs;
        match exit.reason {
            ExitReason::PortIo(io) | ExitReason::StringIo(io) => self.ports.add(io.port.into()),
            ExitReason::Rdmsr | ExitReason::Wrmsr => self.msrs.add(c as u32),
            _ => {}
        }
        if self.lines.len() < self.limit {
            let (exit, rip) = (name(exit), before.rip);
            self.open = Some(alloc::format!(
                "{} {exit} {rip:x} {a:x} {b:x} {c:x} {d:x}",
                now.0
            ));
        }
    }

    /// The exit has been dealt with.
    #[cold]
    #[inline(never)]
    pub fn end(&mut self, rip: u64, gprs: &Gprs) {
        if let Some(mut line) = self.open.take() {
            // Writing to a string does not fail.
            let _ = write!(line, " {rip:x} {:x}", gprs.regs[gpr::RAX]);
            self.lines.push(line);
        }
    }

    /// The lines.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.lines
    }
}

/// The exit in one word: `cpuid`, `rdmsr`, `wrmsr`, `in:SIZE:PORT` and `out:SIZE:PORT` (bytes, hexadecimal), or the name of its reason
/// without blanks.
fn name(exit: &VmExit) -> String {
    match exit.reason {
        ExitReason::PortIo(io) => {
            let direction = if io.write { "out" } else { "in" };
            alloc::format!("{direction}:{}:{:x}", io.size.bytes(), io.port)
        }
        reason => ExitReason::NAMES[reason.index()].replace(' ', "-"),
    }
}

/// The width that a line of so many bytes names.
#[must_use]
pub fn width(bytes: &str) -> Option<AccessSize> {
    Some(match bytes {
        "1" => AccessSize::Byte,
        "2" => AccessSize::Word,
        "4" => AccessSize::Dword,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::PortIo;

    #[test]
    fn a_line_has_the_exit_and_the_registers() {
        let mut r = Recorder::new(1);
        let mut gprs = Gprs::default();
        gprs.regs[gpr::RAX] = 0xff;
        gprs.regs[gpr::RDX] = 0x71;
        let exit = VmExit::bare(ExitReason::PortIo(PortIo::plain(
            0x71,
            AccessSize::Byte,
            false,
        )));
        let before = Before::new(0x10, &gprs);
        r.begin(VmTime(7), &exit, &before);
        gprs.regs[gpr::RAX] = 0x26;
        r.end(0x12, &gprs);
        assert_eq!(r.lines(), ["7 in:1:71 10 ff 0 0 71 12 26"]);
        r.begin(VmTime(8), &exit, &before);
        r.end(0x12, &gprs);
        assert_eq!(r.lines().len(), 1, "no more than asked for");
    }
}
