//! The exit record: what made the CPU leave the guest, in vendor-free terms. Backends decode into it, the run loop acts on it.

use crate::device::AccessSize;
use crate::event::{Event, EventKind};
use crate::regs::SegReg;
use crate::{Gpa, Gva};
use core::fmt::{self, Write};

/// Why the guest was left, and what the hardware told about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VmExit {
    /// Why.
    pub reason: ExitReason,
    /// RIP after the exiting instruction, where the hardware tells.
    pub next_rip: Option<u64>,
    /// The event that was being delivered to the guest when it was left: it has *not* been delivered.
    pub vectoring: Option<Event>,
    /// The vector of the external interrupt that was to be injected and that the guest has not begun to take: nothing has happened to
    /// it.
    pub untaken: Option<u8>,
}

/// An access to I/O ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortIo {
    /// The port.
    pub port: u16,
    /// The width of one access.
    pub size: AccessSize,
    /// OUT or OUTS.
    pub write: bool,
    /// INS or OUTS with a REP prefix.
    pub rep: bool,
    /// INS or OUTS: the size of addresses in bytes (2, 4, 8), where the hardware tells.
    pub address_size: Option<u8>,
    /// The segment that OUTS reads from, where the hardware tells.
    pub segment: Option<SegReg>,
}

/// What kind of access a nested page fault was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NestedFault {
    /// The guest-physical address.
    pub gpa: Gpa,
    /// A write.
    pub write: bool,
    /// An instruction fetch.
    pub fetch: bool,
    /// The address was mapped: the permission was missing.
    pub present: bool,
    /// The access was the CPU's own while walking the guest's page tables.
    pub table_walk: bool,
}

/// A control or debug register in MOV to or from it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RegAccess {
    /// CR or DR number, 0 to 15.
    pub number: u8,
    /// The guest writes the register.
    pub write: bool,
    /// The general register, where the hardware tells.
    pub gpr: Option<u8>,
}

/// Exit reasons of both vendors (CORE of `svm::exit` and `vmx::exit`). One line each in the run loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExitReason {
    /// A host interrupt arrived; it is still pending at the host's interrupt controller.
    ExternalInterrupt,
    /// A host NMI arrived.
    Nmi,
    /// A system-management or INIT signal arrived.
    Init,
    /// The guest raised an exception that we intercept.
    Exception {
        /// What raised it: the CPU ([`EventKind::Exception`]), or an instruction of which RIP is the address.
        kind: EventKind,
        /// Vector, 0 to 31.
        vector: u8,
        /// The error code, for vectors that have one.
        error: u32,
        /// The faulting address of #PF, DR6 bits of #DB.
        payload: u64,
        /// The length in bytes of the instruction that raised it; 0 if none did, or where the hardware does not tell.
        insn_len: u8,
    },
    /// Triple fault or another shutdown.
    Shutdown,
    /// The guest can take an interrupt now.
    InterruptWindow,
    /// The guest can take an NMI now: its NMI handler has ended.
    NmiWindow,
    /// The deadline of [`Entry::timer`](crate::cpu::Entry) is over.
    Timer,
    /// The guest has lowered its task priority so far that a waiting interrupt may be delivered.
    TprBelowThreshold,
    /// The guest executes IRET while we wait for the end of its NMI handler.
    Iret,
    /// CPUID.
    Cpuid,
    /// HLT.
    Hlt,
    /// PAUSE (in a loop).
    Pause,
    /// INVD: caches are never thrown away for a guest.
    Invd,
    /// WBINVD or WBNOINVD.
    Wbinvd,
    /// INVLPG, with the address where the hardware tells.
    Invlpg(Option<Gva>),
    /// RDTSC, which is only intercepted when the hardware cannot offset it.
    Rdtsc,
    /// RDTSCP.
    Rdtscp,
    /// RDPMC.
    Rdpmc,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// XSETBV.
    Xsetbv,
    /// RDMSR.
    Rdmsr,
    /// WRMSR.
    Wrmsr,
    /// IN or OUT.
    PortIo(PortIo),
    /// INS or OUTS.
    StringIo(PortIo),
    /// MOV to or from a control register.
    CrAccess(RegAccess),
    /// LMSW, SMSW, CLTS, or a read of a control register that only the instruction tells: decoded by the emulator.
    Cr0Misc,
    /// MOV to or from a debug register.
    DrAccess(RegAccess),
    /// LGDT, SIDT and the like.
    DescriptorTable(SegReg),
    /// A task switch by JMP, CALL, IRET or a task gate.
    TaskSwitch,
    /// A nested page fault (EPT violation or misconfiguration, #NPF).
    NestedFault(NestedFault),
    /// An instruction that the virtual CPU does not have (VMX, SVM, MONITOR, ...): #UD.
    Undefined,
    /// The hardware refused the guest's state.
    EntryFailed,
    /// A code that we do not know.
    Unknown(u64),
}

impl ExitReason {
    /// The number of names that [`ExitReason::index`] can return.
    pub const KINDS: usize = 32;

    /// A small number for statistics. (Constants, of which the compiler makes a table.)
    #[must_use]
    pub const fn index(&self) -> usize {
        match self {
            ExitReason::ExternalInterrupt => 0,
            ExitReason::Nmi => 1,
            ExitReason::Init => 2,
            ExitReason::Exception { .. } => 3,
            ExitReason::Shutdown => 4,
            ExitReason::InterruptWindow => 5,
            ExitReason::Iret => 6,
            ExitReason::Cpuid => 7,
            ExitReason::Hlt => 8,
            ExitReason::Pause => 9,
            ExitReason::Invd => 10,
            ExitReason::Wbinvd => 11,
            ExitReason::Invlpg(_) => 12,
            ExitReason::Rdtsc => 13,
            ExitReason::Rdtscp => 14,
            ExitReason::Rdpmc => 15,
            ExitReason::Hypercall => 16,
            ExitReason::Xsetbv => 17,
            ExitReason::Rdmsr => 18,
            ExitReason::Wrmsr => 19,
            ExitReason::PortIo(_) => 20,
            ExitReason::StringIo(_) => 21,
            ExitReason::CrAccess(_) | ExitReason::Cr0Misc => 22,
            ExitReason::DrAccess(_) => 23,
            ExitReason::DescriptorTable(_) => 24,
            ExitReason::TaskSwitch => 25,
            ExitReason::NestedFault(_) => 26,
            ExitReason::Undefined => 27,
            ExitReason::EntryFailed | ExitReason::Unknown(_) => 28,
            ExitReason::NmiWindow => 29,
            ExitReason::Timer => 30,
            ExitReason::TprBelowThreshold => 31,
        }
    }

    /// The names that go with [`ExitReason::index`], as reports show them.
    pub const NAMES: [&'static str; Self::KINDS] = [
        "external interrupt",
        "nmi",
        "init",
        "exception",
        "shutdown",
        "interrupt window",
        "iret",
        "cpuid",
        "hlt",
        "pause",
        "invd",
        "wbinvd",
        "invlpg",
        "rdtsc",
        "rdtscp",
        "rdpmc",
        "hypercall",
        "xsetbv",
        "rdmsr",
        "wrmsr",
        "port i/o",
        "string i/o",
        "cr access",
        "dr access",
        "descriptor table",
        "task switch",
        "nested fault",
        "undefined instruction",
        "entry failed",
        "nmi window",
        "timer",
        "tpr below threshold",
    ];

    /// The name of the kind `index` as one word, as traces have it: `port-io`.
    #[must_use]
    pub const fn word(index: usize) -> Word {
        Word(Self::NAMES[index])
    }

    /// The kind that has this [word](Self::word).
    #[must_use]
    pub fn named(word: &str) -> Option<usize> {
        (0..Self::KINDS).find(|&index| Self::word(index).letters().eq(word.chars()))
    }
}

/// A name with dashes for its blanks.
#[derive(Clone, Copy, Debug)]
pub struct Word(&'static str);

impl Word {
    fn letters(self) -> impl Iterator<Item = char> {
        let letters = self.0.chars().filter(|&letter| letter != '/');
        letters.map(|letter| if letter == ' ' { '-' } else { letter })
    }
}

impl fmt::Display for Word {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.letters().try_for_each(|letter| f.write_char(letter))
    }
}
