//! Events at which a guest is stopped so that somebody can look: `cr3-write,msr:0xc0000082,page-fault,exec:0x7c00,write:0x1000+64,read:0x1000,access:0x1000+8,triple-fault`.

use super::{MAX_POINTS, Point, PointKind, Seen, WIDEST};
use crate::Gva;
use crate::event::{Event, vector};
use crate::exit::ExitReason;
use crate::trace::Wrong;
use alloc::vec::Vec;

/// Registers that can be named at most.
const MAX_MSRS: usize = 16;

/// The events.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Breaks {
    /// It writes CR3.
    pub cr3_write: bool,
    /// It gets #PF.
    pub page_fault: bool,
    /// Its CPU shuts down.
    pub triple_fault: bool,
    /// It reads or writes one of these model-specific registers.
    pub msrs: Vec<u32>,
    /// It executes an instruction at one of these addresses, changes or reads what is there.
    pub points: Vec<Point>,
}

/// A number in hexadecimal, with or without 0x.
fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
}

impl Breaks {
    /// Understands a list of events.
    ///
    /// # Errors
    /// The one that is wrong.
    pub fn parse(text: &str) -> Result<Self, Wrong<'_>> {
        let mut breaks = Self::default();
        for word in text.split(',') {
            let wrong = |why| Wrong { word, why };
            let (key, value) = word.split_once(':').unwrap_or((word, ""));
            match (key, value) {
                ("cr3-write", "") => breaks.cr3_write = true,
                ("page-fault", "") => breaks.page_fault = true,
                ("triple-fault", "") => breaks.triple_fault = true,
                ("msr", value) => {
                    let msr = hex(value).and_then(|msr| u32::try_from(msr).ok());
                    let msr = msr.ok_or(wrong("write a register's number, as in msr:c0000082"))?;
                    if breaks.msrs.len() == MAX_MSRS {
                        return Err(wrong("there are too many registers"));
                    }
                    breaks.msrs.push(msr);
                }
                ("exec" | "write" | "read" | "access", value) => {
                    let (at, len) = value.split_once('+').unwrap_or((value, "1"));
                    let kind = match key {
                        "exec" => PointKind::Execute,
                        "read" => PointKind::Read,
                        "access" => PointKind::Access,
                        _ => PointKind::Write,
                    };
                    let len = len.parse().ok().filter(|len| (1..=WIDEST).contains(len));
                    let at = hex(at).ok_or(wrong("write an address, as in exec:0x7c00"))?;
                    let len = len.ok_or(wrong("watch 1 to 64 bytes, as in write:0x1000+64"))?;
                    if breaks.points.len() == MAX_POINTS {
                        return Err(wrong("there are too many addresses"));
                    }
                    breaks.points.push(Point {
                        kind,
                        at: Gva(at),
                        len,
                    });
                }
                _ => {
                    return Err(wrong(
                        "use cr3-write, msr:NUMBER, page-fault, exec:ADDRESS, write:ADDRESS+BYTES, read:ADDRESS+BYTES, access:ADDRESS+BYTES or triple-fault",
                    ));
                }
            }
        }
        Ok(breaks)
    }

    /// Whether this exit, of which came this exception for the guest, is one of the events.
    #[must_use]
    pub fn meets(&self, seen: &Seen, exception: Option<Event>) -> bool {
        let happened = match seen.exit.reason {
            ExitReason::CrAccess(access) => self.cr3_write && access.number == 3 && access.write,
            ExitReason::Rdmsr | ExitReason::Wrmsr => self.msrs.contains(&(seen.rcx as u32)),
            _ => false,
        };
        let page_fault = |event: Event| event == Event::exception(vector::PF, event.error);
        happened || self.page_fault && exception.is_some_and(page_fault)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_is_understood() {
        let text = "cr3-write,msr:C0000082,msr:0x10,page-fault,exec:0x7c00,write:0x1000+64,read:0x1000,access:0x1000+8,triple-fault";
        let breaks = Breaks::parse(text).unwrap();
        assert!(breaks.cr3_write && breaks.page_fault && breaks.triple_fault);
        assert_eq!(breaks.msrs, [0xc000_0082, 0x10]);
        let points = [
            (PointKind::Execute, 0x7c00, 1),
            (PointKind::Write, 0x1000, 64),
            (PointKind::Read, 0x1000, 1),
            (PointKind::Access, 0x1000, 8),
        ];
        let points = points.map(|(kind, at, len)| Point {
            kind,
            at: Gva(at),
            len,
        });
        assert_eq!(breaks.points, points);
    }

    #[test]
    fn what_is_no_event_is_refused() {
        for wrong in [
            "",
            "cr3-write:1",
            "msr:",
            "msr:100000000",
            "exec:",
            "exec:x",
            "write:0x1000+0",
            "write:0x1000+65",
            "read:0x1000+65",
            "reset",
            "cr3-write,,",
        ] {
            assert!(Breaks::parse(wrong).is_err(), "{wrong}");
        }
        let many = ["exec:1"; MAX_POINTS + 1].join(",");
        assert!(Breaks::parse(&many).is_err());
        let many = ["msr:1"; MAX_MSRS + 1].join(",");
        assert!(Breaks::parse(&many).is_err());
    }
}
