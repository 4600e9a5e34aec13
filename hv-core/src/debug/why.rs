//! Why the guest was left, in words: what it did, which rule made it leave, and what came of it. The words are made of the very values
//! that the run loop has decided by.

use crate::event::{Event, EventKind};
use crate::exit::{ExitReason, VmExit};
use crate::time::VmTime;
use crate::trace::Came;
use crate::trail::Trail;
use core::fmt;

/// An exit, and what came of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seen {
    /// What the hardware told.
    pub exit: VmExit,
    /// When.
    pub at: VmTime,
    /// The linear address of the guest's next instruction then.
    pub pc: u64,
    /// Its privilege level then.
    pub cpl: u8,
    /// CR3 then.
    pub cr3: u64,
    /// RAX, RCX and RDX then.
    pub rax: u64,
    /// See [`rax`](Self::rax).
    pub rcx: u64,
    /// See [`rax`](Self::rax).
    pub rdx: u64,
    /// The general register of a MOV to or from a control or debug register, where the hardware tells which one that is.
    pub operand: u64,
    /// What came of it.
    pub came: Came,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            exit,
            at,
            pc,
            cpl,
            came,
            ..
        } = self;
        writeln!(f, "exit: {}", ExitReason::NAMES[exit.reason.index()])?;
        writeln!(f, "when: {} ns of the guest's time", at.0)?;
        writeln!(f, "where: {pc:#x}, CPL {cpl}")?;
        writeln!(f, "what: {}", What(&exit.reason))?;
        writeln!(f, "rule: {}", rule(&exit.reason))?;
        if let Some(event) = exit.vectoring {
            writeln!(
                f,
                "meanwhile: {} was being delivered; it is delivered again",
                Shown(&event)
            )?;
        }
        if let Some(vector) = exit.untaken {
            writeln!(
                f,
                "meanwhile: interrupt {vector:#x} was to be injected; the guest has not taken it"
            )?;
        }
        if came.pc != *pc {
            writeln!(f, "then: the guest goes on at {:#x}", came.pc)?;
        } else if came.event.is_none() {
            writeln!(f, "then: the guest goes on where it was")?;
        }
        match &came.event {
            Some(event) => writeln!(f, "then: the guest gets {}", Shown(event)),
            None => Ok(()),
        }
    }
}

impl Seen {
    /// What the guest did, which rule made it leave, and what came of it, as members of a JSON object, each with a comma before it.
    pub(crate) fn words_json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        let reason = &self.exit.reason;
        write!(
            out,
            ", \"what\": \"{}\", \"rule\": \"{}\"",
            What(reason),
            rule(reason)
        )?;
        match &self.came.event {
            Some(event) => write!(out, ", \"gets\": \"{}\"", Shown(event)),
            None => Ok(()),
        }
    }

    /// The exit as one JSON object: the [fields](Self::fields) of a trace, and the words.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.json_members(out)?;
        out.write_str("}")
    }

    /// The object without its end.
    fn json_members(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        out.write_str("{\"exit\": \"")?;
        out.write_str(ExitReason::NAMES[self.exit.reason.index()])?;
        out.write_str("\"")?;
        self.json_fields(out)?;
        self.words_json(out)
    }
}

/// An exit with the translations that it is about, as they were before anything was done about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Why {
    /// The exit, and what came of it.
    pub seen: Seen,
    /// By the guest's tables.
    pub guest: Option<Trail>,
    /// By Umbra's.
    pub own: Option<Trail>,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.seen.fmt(f)?;
        let trails = [&self.guest, &self.own];
        trails
            .into_iter()
            .flatten()
            .try_for_each(|trail| trail.fmt(f))
    }
}

impl Why {
    /// As one JSON object: that of [`Seen::json`], with the translations.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn json(&self, out: &mut dyn fmt::Write) -> fmt::Result {
        self.seen.json_members(out)?;
        out.write_str(", \"translations\": [")?;
        let trails = [&self.guest, &self.own];
        for (n, trail) in trails.into_iter().flatten().enumerate() {
            out.write_str(if n == 0 { "" } else { ", " })?;
            trail.json(out)?;
        }
        out.write_str("]}")
    }
}

/// An event as the manuals write it.
struct Shown<'a>(&'a Event);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// Vectors 0 to 21 (SDM vol 3A table 6-1).
        const NAMES: [&str; 22] = [
            "#DE",
            "#DB",
            "NMI",
            "#BP",
            "#OF",
            "#BR",
            "#UD",
            "#NM",
            "#DF",
            "vector 9",
            "#TS",
            "#NP",
            "#SS",
            "#GP",
            "#PF",
            "vector 15",
            "#MF",
            "#AC",
            "#MC",
            "#XM",
            "#VE",
            "#CP",
        ];
        let Event {
            kind,
            vector,
            error,
            ..
        } = self.0;
        match kind {
            EventKind::ExternalInterrupt => write!(f, "interrupt {vector:#x}")?,
            EventKind::SoftwareInterrupt => write!(f, "INT {vector:#x}")?,
            _ => match NAMES.get(usize::from(*vector)) {
                Some(name) => f.write_str(name)?,
                None => write!(f, "exception {vector}")?,
            },
        }
        match error {
            Some(error) => write!(f, "({error:#x})"),
            None => Ok(()),
        }
    }
}

/// What the guest did.
struct What<'a>(&'a ExitReason);

impl fmt::Display for What<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |write| if write { "writes" } else { "reads" };
        match self.0 {
            ExitReason::ExternalInterrupt => {
                f.write_str("nothing: a device of the host's has interrupted it")
            }
            ExitReason::Nmi => f.write_str("nothing: an NMI of the host's has interrupted it"),
            ExitReason::Init => f.write_str("nothing: INIT or an SMI has come to the host's CPU"),
            ExitReason::Exception {
                kind,
                vector,
                error,
                payload,
                ..
            } => {
                let event = Event {
                    kind: *kind,
                    vector: *vector,
                    error: (*error != 0).then_some(*error),
                    insn_len: 0,
                };
                write!(f, "its instruction raises {}", Shown(&event))?;
                match (*vector, *payload) {
                    (_, 0) => Ok(()),
                    (14, address) => write!(f, " at {address:#x}"),
                    (_, bits) => write!(f, ", with {bits:#x} for DR6"),
                }
            }
            ExitReason::Shutdown => f.write_str(
                "an exception could not be delivered, nor could #DF: its CPU shuts down",
            ),
            ExitReason::InterruptWindow => f.write_str("nothing: from here on it takes interrupts"),
            ExitReason::NmiWindow => f.write_str("nothing: from here on it takes NMIs"),
            ExitReason::Timer => f.write_str(
                "nothing: the time has come at which a device or Umbra has something to do",
            ),
            ExitReason::TprBelowThreshold => {
                f.write_str("it has lowered its task priority below a waiting interrupt's")
            }
            ExitReason::Iret => f.write_str("it executes IRET at the end of its NMI handler"),
            ExitReason::Cpuid => f.write_str("it executes CPUID"),
            ExitReason::Hlt => f.write_str("it executes HLT"),
            ExitReason::Pause => f.write_str("it executes PAUSE"),
            ExitReason::Invd => f.write_str("it executes INVD"),
            ExitReason::Wbinvd => f.write_str("it executes WBINVD"),
            ExitReason::Invlpg(Some(address)) => {
                write!(f, "it executes INVLPG for {:#x}", address.0)
            }
            ExitReason::Invlpg(None) => f.write_str("it executes INVLPG"),
            ExitReason::Rdtsc => f.write_str("it executes RDTSC"),
            ExitReason::Rdtscp => f.write_str("it executes RDTSCP"),
            ExitReason::Rdpmc => f.write_str("it executes RDPMC"),
            ExitReason::Hypercall => f.write_str("it executes VMCALL or VMMCALL"),
            ExitReason::Xsetbv => f.write_str("it executes XSETBV"),
            ExitReason::Rdmsr => f.write_str("it executes RDMSR"),
            ExitReason::Wrmsr => f.write_str("it executes WRMSR"),
            ExitReason::PortIo(io) => write!(
                f,
                "it {} {} bytes at I/O port {:#x}",
                of(io.write),
                io.size.bytes(),
                io.port
            ),
            ExitReason::StringIo(io) => write!(
                f,
                "it {} pieces of {} bytes at I/O port {:#x}, by {}",
                of(io.write),
                io.size.bytes(),
                io.port,
                if io.rep {
                    "REP INS or OUTS"
                } else {
                    "INS or OUTS"
                }
            ),
            ExitReason::CrAccess(access) => {
                write!(f, "it {} CR{}", of(access.write), access.number)
            }
            ExitReason::Cr0Misc => f.write_str("it accesses CR0 by LMSW, SMSW or CLTS"),
            ExitReason::DrAccess(access) => {
                write!(f, "it {} DR{}", of(access.write), access.number)
            }
            ExitReason::DescriptorTable(table) => write!(f, "it accesses {table:?}"),
            ExitReason::TaskSwitch => f.write_str("it switches tasks"),
            ExitReason::NestedFault(fault) => write!(
                f,
                "{} physical {:#x}, {}",
                match (fault.table_walk, fault.fetch) {
                    (true, _) => "its CPU walks its page tables and reaches",
                    (_, true) => "it fetches an instruction at",
                    _ if fault.write => "it writes to",
                    _ => "it reads from",
                },
                fault.gpa.0,
                if fault.present {
                    "which is there, but not for that"
                } else {
                    "where the tables map nothing"
                }
            ),
            ExitReason::Undefined => {
                f.write_str("it executes an instruction that its CPU does not have")
            }
            ExitReason::EntryFailed => f.write_str("nothing: the hardware has refused its state"),
            ExitReason::Unknown(code) => {
                write!(f, "nothing that Umbra knows: the code is {code:#x}")
            }
        }
    }
}

/// Which rule makes it leave, and what is made of it.
const fn rule(reason: &ExitReason) -> &'static str {
    match reason {
        ExitReason::ExternalInterrupt | ExitReason::Nmi | ExitReason::Init => {
            "interrupts of the host's are the host's (external-interrupt and NMI exiting; the INTR, NMI, SMI and INIT intercepts)"
        }
        ExitReason::Exception { vector: 14, .. } => {
            "page faults are looked at first under shadow paging, where the shadow may only lack an entry, and where somebody waits for them (exception bitmap)"
        }
        ExitReason::Exception { .. } => {
            "#DB, #AC and #MC leave the guest, so that it cannot keep its CPU in a loop of them; the guest gets its own (exception bitmap)"
        }
        ExitReason::Shutdown => "a triple fault resets the machine",
        ExitReason::InterruptWindow | ExitReason::NmiWindow => {
            "something waits to be injected, and was to be as soon as the guest takes it"
        }
        ExitReason::Timer => "Umbra has set a time",
        ExitReason::TprBelowThreshold => {
            "the interrupt that waits has a higher priority now (TPR threshold, or the CR8 intercept)"
        }
        ExitReason::Iret => "the next NMI may come behind it",
        ExitReason::Cpuid => "CPUID is Umbra's: it shows the virtual CPU",
        ExitReason::Hlt => "another guest may have the CPU (HLT exiting)",
        ExitReason::Pause => {
            "another CPU of the machine waits for one of the host's (PAUSE exiting)"
        }
        ExitReason::Invd | ExitReason::Wbinvd => {
            "caches are never thrown away for a guest: nothing is to be done"
        }
        ExitReason::Invlpg(_) => "under shadow paging, the shadow has to follow",
        ExitReason::Rdtsc => "the hardware cannot offset it",
        ExitReason::Rdtscp | ExitReason::Rdpmc | ExitReason::Undefined => {
            "the virtual CPU does not have it"
        }
        ExitReason::Hypercall => "a call of KVM's or Microsoft's interface",
        ExitReason::Xsetbv => "XCR0 is checked",
        ExitReason::Rdmsr | ExitReason::Wrmsr => {
            "all but ten model-specific registers are emulated (MSR bitmap or permission map)"
        }
        ExitReason::PortIo(_) | ExitReason::StringIo(_) => {
            "all I/O ports are those of emulated devices (I/O bitmap or permission map)"
        }
        ExitReason::CrAccess(_) | ExitReason::Cr0Misc => {
            "the bits that Umbra owns are checked, or the shadow has to follow (guest/host masks, CR intercepts)"
        }
        ExitReason::DrAccess(_) => "accesses to debug registers are watched",
        ExitReason::DescriptorTable(_) => "accesses to descriptor tables are watched",
        ExitReason::TaskSwitch => "task switches are done in software: they load CR3",
        ExitReason::NestedFault(_) => {
            "all memory is mapped from the start: what faults is a device, ROM that is written, a page that is watched, or nothing (nested tables)"
        }
        ExitReason::EntryFailed => "the state breaks a rule of the manual",
        ExitReason::Unknown(_) => "none is known",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::AccessSize;
    use crate::exit::{NestedFault, PortIo, RegAccess};
    use crate::regs::SegReg;
    use crate::trail::{End, Step, Tables};
    use crate::{Gpa, Gva};

    fn seen(reason: ExitReason) -> Seen {
        Seen {
            exit: VmExit::bare(reason),
            at: VmTime(5),
            pc: 0x1000,
            cpl: 3,
            cr3: 0,
            rax: 0,
            rcx: 0,
            rdx: 0,
            operand: 0,
            came: Came {
                pc: 0x1002,
                ..Came::default()
            },
        }
    }

    #[test]
    fn every_reason_has_words_of_its_own() {
        let io = PortIo {
            port: 0x3f8,
            size: AccessSize::Byte,
            write: true,
            rep: false,
            address_size: None,
            segment: None,
        };
        let access = RegAccess {
            number: 3,
            write: true,
            gpr: None,
        };
        let fault = NestedFault {
            gpa: Gpa(0xfee0_00b0),
            write: true,
            fetch: false,
            present: false,
            table_walk: false,
        };
        let exception = ExitReason::Exception {
            kind: EventKind::Exception,
            vector: 14,
            error: 6,
            payload: 0x2000,
            insn_len: 0,
        };
        let mut kinds = [false; ExitReason::KINDS];
        let mut texts = alloc::vec::Vec::new();
        for (reason, part) in [
            (ExitReason::ExternalInterrupt, "device of the host's"),
            (ExitReason::Nmi, "NMI of the host's"),
            (ExitReason::Init, "INIT"),
            (exception, "#PF(0x6) at 0x2000"),
            (ExitReason::Shutdown, "shuts down"),
            (ExitReason::InterruptWindow, "takes interrupts"),
            (ExitReason::NmiWindow, "takes NMIs"),
            (ExitReason::Timer, "time"),
            (ExitReason::TprBelowThreshold, "priority"),
            (ExitReason::Iret, "IRET"),
            (ExitReason::Cpuid, "CPUID"),
            (ExitReason::Hlt, "HLT"),
            (ExitReason::Pause, "PAUSE"),
            (ExitReason::Invd, "INVD"),
            (ExitReason::Wbinvd, "WBINVD"),
            (ExitReason::Invlpg(Some(Gva(0x3000))), "0x3000"),
            (ExitReason::Rdtsc, "RDTSC"),
            (ExitReason::Rdtscp, "RDTSCP"),
            (ExitReason::Rdpmc, "RDPMC"),
            (ExitReason::Hypercall, "VMCALL"),
            (ExitReason::Xsetbv, "XSETBV"),
            (ExitReason::Rdmsr, "RDMSR"),
            (ExitReason::Wrmsr, "WRMSR"),
            (ExitReason::PortIo(io), "writes 1 bytes at I/O port 0x3f8"),
            (ExitReason::StringIo(io), "INS or OUTS"),
            (ExitReason::CrAccess(access), "writes CR3"),
            (ExitReason::Cr0Misc, "LMSW"),
            (ExitReason::DrAccess(access), "writes DR3"),
            (ExitReason::DescriptorTable(SegReg::Idtr), "Idtr"),
            (ExitReason::TaskSwitch, "switches tasks"),
            (
                ExitReason::NestedFault(fault),
                "writes to physical 0xfee000b0",
            ),
            (ExitReason::Undefined, "does not have"),
            (ExitReason::EntryFailed, "refused"),
            (ExitReason::Unknown(0x77), "0x77"),
        ] {
            kinds[reason.index()] = true;
            let text = alloc::format!("{}", seen(reason));
            assert!(text.contains(part), "{text}");
            assert!(text.contains("goes on at 0x1002") && text.contains("CPL 3"));
            assert!(!texts.contains(&text), "{text}");
            texts.push(text);
        }
        assert!(kinds.iter().all(|&seen| seen), "a reason lacks");
    }

    #[test]
    fn what_was_in_delivery_and_what_comes_of_it_are_told() {
        let mut seen = seen(ExitReason::Rdmsr);
        seen.exit.vectoring = Some(Event::interrupt(0x31));
        seen.came.event = Some(Event::exception(13, Some(0)));
        let text = alloc::format!("{seen}");
        assert!(
            text.contains("interrupt 0x31 was being delivered"),
            "{text}"
        );
        assert!(text.contains("the guest gets #GP(0x0)"), "{text}");
        seen.came.event = None;
        seen.came.pc = seen.pc;
        assert!(alloc::format!("{seen}").contains("where it was"));
    }

    #[test]
    fn a_translation_is_told_with_the_exit_in_words_and_as_an_object() {
        let mut guest = Trail::new(Tables::Guest, 0x40_0123);
        for (level, entry) in [(4, 0x2007), (3, 0x3007), (2, 0)] {
            let place = 0x1000 * u64::from(5 - level);
            guest.read(Step {
                level,
                place,
                entry,
            });
        }
        guest.end = End::NotPresent;
        let why = Why {
            seen: seen(ExitReason::Cpuid),
            guest: Some(guest),
            own: Some(Trail::new(Tables::Shadow, 0x40_0123)),
        };
        let text = alloc::format!("{why}");
        let told = "the guest's tables, on the way to 0x400123:
  level 4: 0x1000 has 0x2007 P R/W U/S
  level 3: 0x2000 has 0x3007 P R/W U/S
  level 2: 0x3000 has 0x0
  the last entry is not present: a page fault
Umbra's shadow tables, on the way to 0x400123:
  there are none
";
        assert!(text.ends_with(told), "{text}");
        let mut json = alloc::string::String::new();
        why.json(&mut json).unwrap();
        let told = "\"translations\": [{\"tables\": \"guest\", \"from\": \"0x400123\", \"steps\": [\
            {\"level\": 4, \"place\": \"0x1000\", \"entry\": \"0x2007\"}, \
            {\"level\": 3, \"place\": \"0x2000\", \"entry\": \"0x3007\"}, \
            {\"level\": 2, \"place\": \"0x3000\", \"entry\": \"0x0\"}], \"end\": \"not-present\"}, \
            {\"tables\": \"shadow\", \"from\": \"0x400123\", \"steps\": [], \"end\": \"no-tables\"}]}";
        assert!(json.ends_with(told), "{json}");
    }
}
