//! The first exits of a VM, as text that tests can replay: what the hardware told, and what the run loop made of it.
//!
//! One line an exit: the VM's time in nanoseconds, the exit, RIP and RAX, RBX, RCX, RDX as the guest was left, and RIP and RAX
//! afterwards; hexadecimal but for time. Exits that need guest memory or tell more than fits are there by name only.

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

/// The lines, up to a limit. Nothing is recorded unless there is one.
#[derive(Clone, Debug, Default)]
pub struct Recorder {
    limit: usize,
    lines: Vec<String>,
}

impl Recorder {
    /// Records the next `limit` exits.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            lines: Vec::new(),
        }
    }

    /// Whether there is room for another exit.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.lines.len() < self.limit
    }

    /// Adds an exit that has been dealt with.
    pub fn add(&mut self, now: VmTime, exit: &VmExit, before: &Before, rip: u64, rax: u64) {
        let mut line = String::new();
        let [a, b, c, d] = before.regs;
        // Writing to a string does not fail.
        let _ = write!(
            line,
            "{} {} {:x} {a:x} {b:x} {c:x} {d:x} {rip:x} {rax:x}",
            now.0,
            name(exit),
            before.rip
        );
        self.lines.push(line);
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
        ExitReason::PortIo(io) if !io.string => {
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
        r.add(VmTime(7), &exit, &Before::new(0x10, &gprs), 0x12, 0x26);
        assert_eq!(r.lines(), ["7 in:1:71 10 ff 0 0 71 12 26"]);
        assert!(!r.is_on());
        assert!(!Recorder::default().is_on());
    }
}
