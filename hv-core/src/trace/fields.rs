//! An event as people and programs read it: a line of words, and a JSON object. Both are made of the same fields, whose names stay.

use super::{Came, Traced};
use crate::debug::Seen;
use crate::event::{Event, EventKind};
use crate::exit::{ExitReason, PortIo, RegAccess};
use core::fmt::{self, Write};

/// The value of a field.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// An address, a register, a number of a register: hexadecimal.
    Hex(u64),
    /// A count.
    Number(u64),
    /// A word without blanks.
    Word(&'static str),
    /// An exit's reason.
    Reason(usize),
    /// An event that is delivered to the guest.
    Event(Event),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Hex(value) => write!(f, "{value:#x}"),
            Value::Number(value) => write!(f, "{value}"),
            Value::Word(word) => f.write_str(word),
            Value::Reason(index) => write!(f, "{}", ExitReason::word(*index)),
            Value::Event(event) => {
                let Event {
                    kind,
                    vector,
                    error,
                    ..
                } = event;
                let kind = match kind {
                    EventKind::ExternalInterrupt => "interrupt",
                    EventKind::Nmi => "nmi",
                    EventKind::Exception => "exception",
                    EventKind::SoftwareInterrupt => "int",
                    EventKind::SoftwareException => "software-exception",
                    EventKind::PrivilegedSoftwareException => "int1",
                };
                write!(f, "{kind}:{vector:#x}")?;
                match error {
                    Some(error) => write!(f, ":{error:#x}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// EDX:EAX.
const fn pair(rdx: u64, rax: u64) -> u64 {
    rdx << 32 | rax & 0xffff_ffff
}

const fn direction(write: bool) -> Value {
    Value::Word(if write { "write" } else { "read" })
}

impl Seen {
    /// What the exit is about, where that is an address or the number of a register: a physical address, a linear one, an I/O port, an MSR, a leaf of CPUID.
    #[must_use]
    pub fn subject(&self) -> Option<u64> {
        Some(match self.exit.reason {
            ExitReason::NestedFault(fault) => fault.gpa.0,
            ExitReason::Exception {
                vector: crate::event::vector::PF,
                payload,
                ..
            } => payload,
            ExitReason::Invlpg(Some(address)) => address.0,
            ExitReason::PortIo(io) | ExitReason::StringIo(io) => io.port.into(),
            ExitReason::Rdmsr | ExitReason::Wrmsr => self.rcx & 0xffff_ffff,
            ExitReason::Cpuid => self.rax & 0xffff_ffff,
            _ => return None,
        })
    }

    /// Gives the values of the reason to `f`.
    fn reason_fields(&self, f: &mut dyn FnMut(&'static str, Value)) {
        let Came { rax, rdx, .. } = self.came;
        match self.exit.reason {
            ExitReason::Exception {
                vector,
                error,
                payload,
                ..
            } => {
                f("vector", Value::Hex(vector.into()));
                f("error", Value::Hex(error.into()));
                f("payload", Value::Hex(payload));
            }
            ExitReason::Invlpg(Some(address)) => f("address", Value::Hex(address.0)),
            ExitReason::Cpuid => {
                f("leaf", Value::Hex(self.rax & 0xffff_ffff));
                f("subleaf", Value::Hex(self.rcx & 0xffff_ffff));
            }
            ExitReason::Hypercall => f("call", Value::Hex(self.rax)),
            ExitReason::Xsetbv => {
                f("register", Value::Hex(self.rcx & 0xffff_ffff));
                f("value", Value::Hex(pair(self.rdx, self.rax)));
            }
            ExitReason::Rdmsr => {
                f("msr", Value::Hex(self.rcx & 0xffff_ffff));
                if self
                    .came
                    .event
                    .is_none_or(|event| event.kind != EventKind::Exception)
                {
                    f("value", Value::Hex(pair(rdx, rax)));
                }
            }
            ExitReason::Wrmsr => {
                f("msr", Value::Hex(self.rcx & 0xffff_ffff));
                f("value", Value::Hex(pair(self.rdx, self.rax)));
            }
            ExitReason::PortIo(PortIo {
                port, size, write, ..
            }) => {
                f("port", Value::Hex(port.into()));
                f("size", Value::Number(size.bytes() as u64));
                f("access", direction(write));
                let value = if write { self.rax } else { rax };
                f("value", Value::Hex(value & u64::from(size.ones())));
            }
            ExitReason::StringIo(PortIo {
                port,
                size,
                write,
                rep,
                ..
            }) => {
                f("port", Value::Hex(port.into()));
                f("size", Value::Number(size.bytes() as u64));
                f("access", direction(write));
                f("rep", Value::Number(rep.into()));
            }
            ExitReason::CrAccess(access) | ExitReason::DrAccess(access) => {
                let RegAccess {
                    number, write, gpr, ..
                } = access;
                f("register", Value::Number(number.into()));
                f("access", direction(write));
                if write && gpr.is_some() {
                    f("value", Value::Hex(self.operand));
                }
            }
            ExitReason::NestedFault(fault) => {
                f("address", Value::Hex(fault.gpa.0));
                let access = match (fault.fetch, fault.write) {
                    (true, _) => Value::Word("fetch"),
                    (_, write) => direction(write),
                };
                f("access", access);
                f("present", Value::Number(fault.present.into()));
                f("walk", Value::Number(fault.table_walk.into()));
            }
            ExitReason::Unknown(code) => f("code", Value::Hex(code)),
            _ => {}
        }
    }

    /// Gives all fields to `f`, in their order.
    pub fn fields(&self, f: &mut dyn FnMut(&'static str, Value)) {
        f("ns", Value::Number(self.at.0));
        f("reason", Value::Reason(self.exit.reason.index()));
        f("pc", Value::Hex(self.pc));
        f("cpl", Value::Number(self.cpl.into()));
        f("cr3", Value::Hex(self.cr3));
        self.reason_fields(f);
        if let Some(event) = self.exit.vectoring {
            f("vectoring", Value::Event(event));
        }
        if let Some(vector) = self.exit.untaken {
            f("untaken", Value::Hex(vector.into()));
        }
        f("next", Value::Hex(self.came.pc));
        if self.came.cr3 != self.cr3 {
            f("next-cr3", Value::Hex(self.came.cr3));
        }
        if let Some(event) = self.came.event {
            f("injected", Value::Event(event));
        }
        f("took", Value::Number((self.came.at - self.at).0));
    }
}

impl Traced {
    /// One line, without its end: `number vm cpu` and then `name=value` for each field.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn line(&self, vm: u8, cpu: u8, out: &mut dyn Write) -> fmt::Result {
        write!(out, "{} vm={vm} cpu={cpu}", self.number)?;
        let mut result = Ok(());
        self.seen.fields(&mut |name, value| {
            if result.is_ok() {
                result = write!(out, " {name}={value}");
            }
        });
        result
    }

    /// One JSON object, on one line without its end. What is hexadecimal is a string, as JSON's numbers end at 2^53 for many.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn json(&self, vm: u8, cpu: u8, out: &mut dyn Write) -> fmt::Result {
        self.members(vm, cpu, out)?;
        out.write_str("}")
    }

    /// The same with what the guest did, which rule made it leave, and what came of it, in words.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn why_json(&self, vm: u8, cpu: u8, out: &mut dyn Write) -> fmt::Result {
        self.members(vm, cpu, out)?;
        self.seen.words_json(out)?;
        out.write_str("}")
    }

    /// A JSON object of the fields, without its end.
    fn members(&self, vm: u8, cpu: u8, out: &mut dyn Write) -> fmt::Result {
        write!(
            out,
            "{{\"number\": {}, \"vm\": {vm}, \"cpu\": {cpu}",
            self.number
        )?;
        self.seen.json_fields(out)
    }
}

impl Seen {
    /// The fields as members of a JSON object, each with a comma before it.
    pub(crate) fn json_fields(&self, out: &mut dyn Write) -> fmt::Result {
        let mut result = Ok(());
        self.fields(&mut |name, value| {
            if result.is_ok() {
                result = match value {
                    Value::Number(value) => write!(out, ", \"{name}\": {value}"),
                    other => write!(out, ", \"{name}\": \"{other}\""),
                };
            }
        });
        result
    }
}
