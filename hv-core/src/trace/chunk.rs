//! How events travel, and how they lie in a file: in chunks, each of which can be understood alone.
//!
//! A chunk is its [`Head`] and then events up to its end. A number is written seven bits to a byte, the low ones first, with the top bit where more follow (LEB128); an
//! address as its difference from another, with the sign in the lowest bit, so that most take a byte or two. What is decoded is checked: a
//! chunk may come from anywhere.

use super::{BLANK, Came, Totals, Traced};
use crate::debug::Seen;
use crate::device::AccessSize;
use crate::event::{Event, EventKind};
use crate::exit::{ExitReason, NestedFault, PortIo, RegAccess, VmExit};
use crate::regs::SegReg;
use crate::time::VmTime;
use crate::{Gpa, Gva};

/// Bytes of an event at most: 27 numbers of ten bytes.
pub const LONGEST: usize = 270;
/// Bytes of a [`Head`] at most.
pub const HEAD: usize = 2 + 3 * 10;

/// What stands at the beginning of a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The virtual CPU.
    pub cpu: u8,
    /// Nothing of this CPU follows: these are the final totals.
    pub last: bool,
    /// How many exits there have been so far.
    pub totals: Totals,
}

/// What is wrong with a chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed(pub &'static str);

/// Writes a chunk.
pub struct Writer<'b> {
    buffer: &'b mut [u8],
    len: usize,
    /// The event before: what the next one's numbers are told by. Those of the first are told by [`BLANK`].
    before: Option<Traced>,
}

impl<'b> Writer<'b> {
    /// A chunk begins. `buffer` has room for a head and at least one event.
    pub fn begin(head: &Head, buffer: &'b mut [u8]) -> Self {
        debug_assert!(buffer.len() >= HEAD + LONGEST);
        let mut writer = Self {
            buffer,
            len: 0,
            before: None,
        };
        writer.byte(head.cpu);
        writer.byte(head.last.into());
        writer.number(head.totals.exits);
        writer.number(head.totals.kept);
        writer.number(head.totals.lost);
        writer
    }

    /// Adds an event. False: there is no room for it.
    pub fn add(&mut self, event: &Traced) -> bool {
        if self.buffer.len() - self.len < LONGEST {
            return false;
        }
        self.event(event);
        self.before = Some(*event);
        true
    }

    /// It is the CPU's last.
    pub fn mark_last(&mut self) {
        if let Some(last) = self.buffer.get_mut(1) {
            *last = 1;
        }
    }

    /// The chunk.
    #[must_use]
    pub fn end(self) -> &'b [u8] {
        self.buffer.get(..self.len).unwrap_or_default()
    }

    fn byte(&mut self, byte: u8) {
        if let Some(place) = self.buffer.get_mut(self.len) {
            *place = byte;
            self.len += 1;
        }
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    /// How `value` differs from `from`.
    fn difference(&mut self, value: u64, from: u64) {
        let difference = value.wrapping_sub(from).cast_signed();
        self.number((difference << 1 ^ difference >> 63).cast_unsigned());
    }

    fn event(&mut self, event: &Traced) {
        let before = self.before.unwrap_or(BLANK);
        let (was, Seen { exit, came, .. }) = (&before.seen, &event.seen);
        let seen = &event.seen;
        self.number(event.number.wrapping_sub(before.number));
        self.number(seen.at.0.wrapping_sub(was.at.0));
        self.number(came.at.0.wrapping_sub(seen.at.0));
        self.byte(
            seen.cpl & 3
                | u8::from(exit.next_rip.is_some()) << 2
                | u8::from(exit.vectoring.is_some()) << 3
                | u8::from(exit.untaken.is_some()) << 4
                | u8::from(came.event.is_some()) << 5,
        );
        self.difference(seen.pc, was.pc);
        self.difference(came.pc, seen.pc);
        if let Some(next) = exit.next_rip {
            self.difference(next, came.pc);
        }
        self.difference(seen.cr3, was.cr3);
        self.difference(came.cr3, seen.cr3);
        for (value, from) in [
            (seen.rax, 0),
            (seen.rcx, 0),
            (seen.rdx, 0),
            (seen.operand, 0),
            (came.rax, seen.rax),
            (came.rdx, seen.rdx),
        ] {
            self.difference(value, from);
        }
        for event in [exit.vectoring, came.event].into_iter().flatten() {
            self.an_event(&event);
        }
        if let Some(vector) = exit.untaken {
            self.byte(vector);
        }
        self.reason(&exit.reason);
    }

    fn an_event(&mut self, event: &Event) {
        let kind = KINDS.iter().position(|&kind| kind == event.kind);
        self.byte(kind.unwrap_or(0) as u8 | u8::from(event.error.is_some()) << 7);
        self.byte(event.vector);
        self.byte(event.insn_len);
        if let Some(error) = event.error {
            self.number(error.into());
        }
    }

    fn reason(&mut self, reason: &ExitReason) {
        self.byte(match reason {
            ExitReason::Cr0Misc => CR0_MISC,
            ExitReason::Unknown(_) => UNKNOWN,
            ExitReason::Invlpg(Some(_)) => INVLPG_AT,
            reason => reason.index() as u8,
        });
        match *reason {
            ExitReason::Exception {
                kind,
                vector,
                error,
                payload,
                insn_len,
            } => {
                self.an_event(&Event {
                    kind,
                    vector,
                    error: Some(error),
                    insn_len,
                });
                self.number(payload);
            }
            ExitReason::Invlpg(Some(address)) => self.number(address.0),
            ExitReason::PortIo(io) | ExitReason::StringIo(io) => {
                self.number(io.port.into());
                self.byte(io.size.bytes() as u8 | u8::from(io.write) << 3 | u8::from(io.rep) << 4);
                self.byte(io.address_size.unwrap_or(0));
                self.byte(io.segment.map_or(0, |segment| 1 + segment as u8));
            }
            ExitReason::CrAccess(access) | ExitReason::DrAccess(access) => {
                self.byte(access.number);
                self.byte(u8::from(access.write) | access.gpr.map_or(0, |gpr| 2 + (gpr << 2)));
            }
            ExitReason::DescriptorTable(table) => self.byte(table as u8),
            ExitReason::NestedFault(fault) => {
                self.number(fault.gpa.0);
                self.byte(
                    u8::from(fault.write)
                        | u8::from(fault.fetch) << 1
                        | u8::from(fault.present) << 2
                        | u8::from(fault.table_walk) << 3,
                );
            }
            ExitReason::Unknown(code) => self.number(code),
            _ => {}
        }
    }
}

/// The kinds of events by their codes.
const KINDS: [EventKind; 6] = [
    EventKind::ExternalInterrupt,
    EventKind::Nmi,
    EventKind::Exception,
    EventKind::SoftwareInterrupt,
    EventKind::SoftwareException,
    EventKind::PrivilegedSoftwareException,
];

/// The codes of reasons are those of [`ExitReason::index`], and these for what that does not tell apart.
const CR0_MISC: u8 = 64;
const UNKNOWN: u8 = 65;
const INVLPG_AT: u8 = 66;

/// The reasons without values, by their codes.
const BARE: [ExitReason; 25] = [
    ExitReason::ExternalInterrupt,
    ExitReason::Nmi,
    ExitReason::Init,
    ExitReason::Shutdown,
    ExitReason::InterruptWindow,
    ExitReason::Iret,
    ExitReason::Cpuid,
    ExitReason::Hlt,
    ExitReason::Pause,
    ExitReason::Invd,
    ExitReason::Wbinvd,
    ExitReason::Invlpg(None),
    ExitReason::Rdtsc,
    ExitReason::Rdtscp,
    ExitReason::Rdpmc,
    ExitReason::Hypercall,
    ExitReason::Xsetbv,
    ExitReason::Rdmsr,
    ExitReason::Wrmsr,
    ExitReason::TaskSwitch,
    ExitReason::Undefined,
    ExitReason::EntryFailed,
    ExitReason::NmiWindow,
    ExitReason::Timer,
    ExitReason::TprBelowThreshold,
];

/// Reads a chunk, event by event.
#[derive(Clone, Debug)]
pub struct Reader<'b> {
    rest: &'b [u8],
    before: Traced,
}

const SHORT: Malformed = Malformed("it ends early");
const LONG: Malformed = Malformed("a number is too long");

impl<'b> Reader<'b> {
    /// Reads the head.
    ///
    /// # Errors
    /// It is none.
    pub fn begin(bytes: &'b [u8]) -> Result<(Head, Self), Malformed> {
        let mut reader = Self {
            rest: bytes,
            before: BLANK,
        };
        let cpu = reader.byte()?;
        let last = reader.byte()?;
        if last > 1 {
            return Err(Malformed("it does not say whether it is the last"));
        }
        let head = Head {
            cpu,
            last: last != 0,
            totals: Totals {
                exits: reader.number()?,
                kept: reader.number()?,
                lost: reader.number()?,
            },
        };
        Ok((head, reader))
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        let (&byte, rest) = self.rest.split_first().ok_or(SHORT)?;
        self.rest = rest;
        Ok(byte)
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(LONG);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(LONG)
    }

    fn difference(&mut self, from: u64) -> Result<u64, Malformed> {
        let number = self.number()?;
        let difference = (number >> 1) ^ (number & 1).wrapping_neg();
        Ok(from.wrapping_add(difference))
    }

    fn event(&mut self) -> Result<Traced, Malformed> {
        let before = self.before;
        let was = &before.seen;
        let number = before.number.wrapping_add(self.number()?);
        let at = was.at.0.wrapping_add(self.number()?);
        let came_at = at.wrapping_add(self.number()?);
        let flags = self.byte()?;
        if flags >> 6 != 0 {
            return Err(Malformed("an event has unknown flags"));
        }
        let has = |bit: u8| flags >> bit & 1 != 0;
        let pc = self.difference(was.pc)?;
        let came_pc = self.difference(pc)?;
        let next_rip = match has(2) {
            true => Some(self.difference(came_pc)?),
            false => None,
        };
        let cr3 = self.difference(was.cr3)?;
        let came_cr3 = self.difference(cr3)?;
        let rax = self.difference(0)?;
        let rcx = self.difference(0)?;
        let rdx = self.difference(0)?;
        let operand = self.difference(0)?;
        let came_rax = self.difference(rax)?;
        let came_rdx = self.difference(rdx)?;
        let vectoring = has(3).then(|| self.an_event()).transpose()?;
        let event = has(5).then(|| self.an_event()).transpose()?;
        let untaken = has(4).then(|| self.byte()).transpose()?;
        let reason = self.reason()?;
        Ok(Traced {
            number,
            seen: Seen {
                exit: VmExit {
                    reason,
                    next_rip,
                    vectoring,
                    untaken,
                },
                at: VmTime(at),
                pc,
                cpl: flags & 3,
                cr3,
                rax,
                rcx,
                rdx,
                operand,
                came: Came {
                    pc: came_pc,
                    rax: came_rax,
                    rdx: came_rdx,
                    cr3: came_cr3,
                    event,
                    at: VmTime(came_at),
                },
            },
        })
    }

    fn an_event(&mut self) -> Result<Event, Malformed> {
        let kind = self.byte()?;
        let vector = self.byte()?;
        let insn_len = self.byte()?;
        let error = match kind & 0x80 != 0 {
            true => Some(u32::try_from(self.number()?).map_err(|_| LONG)?),
            false => None,
        };
        let kind = KINDS.get(usize::from(kind & 0x7f)).copied();
        Ok(Event {
            kind: kind.ok_or(Malformed("an event of no known kind"))?,
            vector,
            error,
            insn_len,
        })
    }

    fn reason(&mut self) -> Result<ExitReason, Malformed> {
        /// The codes of the reasons that have values.
        const EXCEPTION: u8 = 3;
        const PORT_IO: u8 = 20;
        const STRING_IO: u8 = 21;
        const CR_ACCESS: u8 = 22;
        const DR_ACCESS: u8 = 23;
        const DESCRIPTOR_TABLE: u8 = 24;
        const NESTED_FAULT: u8 = 26;
        Ok(match self.byte()? {
            EXCEPTION => {
                let Event {
                    kind,
                    vector,
                    error,
                    insn_len,
                } = self.an_event()?;
                ExitReason::Exception {
                    kind,
                    vector,
                    error: error.ok_or(Malformed("an exception without its error code"))?,
                    payload: self.number()?,
                    insn_len,
                }
            }
            INVLPG_AT => ExitReason::Invlpg(Some(Gva(self.number()?))),
            code @ (PORT_IO | STRING_IO) => {
                let port = u16::try_from(self.number()?).map_err(|_| LONG)?;
                let flags = self.byte()?;
                let size = AccessSize::of(usize::from(flags & 7));
                let address_size = self.byte()?;
                let segment = match self.byte()? {
                    0 => None,
                    n => Some(segment(n - 1)?),
                };
                let io = PortIo {
                    port,
                    size: size.ok_or(Malformed("an access of no known width"))?,
                    write: flags & 8 != 0,
                    rep: flags & 16 != 0,
                    address_size: (address_size != 0).then_some(address_size),
                    segment,
                };
                match code {
                    PORT_IO => ExitReason::PortIo(io),
                    _ => ExitReason::StringIo(io),
                }
            }
            code @ (CR_ACCESS | DR_ACCESS) => {
                let number = self.byte()?;
                let flags = self.byte()?;
                let access = RegAccess {
                    number,
                    write: flags & 1 != 0,
                    gpr: (flags & 2 != 0).then_some(flags >> 2),
                };
                match code {
                    CR_ACCESS => ExitReason::CrAccess(access),
                    _ => ExitReason::DrAccess(access),
                }
            }
            DESCRIPTOR_TABLE => ExitReason::DescriptorTable(segment(self.byte()?)?),
            NESTED_FAULT => {
                let gpa = Gpa(self.number()?);
                let flags = self.byte()?;
                ExitReason::NestedFault(NestedFault {
                    gpa,
                    write: flags & 1 != 0,
                    fetch: flags & 2 != 0,
                    present: flags & 4 != 0,
                    table_walk: flags & 8 != 0,
                })
            }
            UNKNOWN => ExitReason::Unknown(self.number()?),
            CR0_MISC => ExitReason::Cr0Misc,
            code => {
                let mut bare = BARE.into_iter();
                let known = bare.find(|reason| reason.index() == usize::from(code));
                known.ok_or(Malformed("an exit for no known reason"))?
            }
        })
    }
}

/// The segment register of this number.
fn segment(number: u8) -> Result<SegReg, Malformed> {
    let known = SegReg::ALL.get(usize::from(number)).copied();
    known.ok_or(Malformed("no segment register has this number"))
}

impl Iterator for Reader<'_> {
    type Item = Result<Traced, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let event = self.event();
        match &event {
            Ok(event) => self.before = *event,
            // What follows it cannot be found.
            Err(_) => self.rest = &[],
        }
        Some(event)
    }
}
