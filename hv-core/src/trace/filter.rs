//! Which exits a trace keeps.
//!
//! `reason:cpuid+wrmsr,pc:0x7c00-0x7dff,vm:1,cpu:0+1,first:100`: words with commas between them, all of which have to fit. `all` is none of them, and `last` keeps the last ones that there is room for in
//! place of all. `around:shutdown/100` keeps the 100 exits before each exit of that reason, itself, and the 100 behind it.

use super::Full;
use crate::debug::Seen;
use crate::exit::ExitReason;
use core::fmt;
use core::ops::RangeInclusive;

/// Which exits a trace keeps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filter {
    /// Bit n: those whose [`ExitReason::index`] is n.
    reasons: u32,
    /// Bit n: those of CPU n.
    cpus: u32,
    /// Bit n: those of virtual machine n, from 1.
    vms: u32,
    /// Those whose instruction is here.
    pc: RangeInclusive<u64>,
    /// Those that are [about](Seen::subject) one of these.
    at: RangeInclusive<u64>,
    /// No more than so many.
    pub(super) first: u64,
    /// Only those around an exit of these reasons, bit by bit, and how many on either side.
    pub(super) around: Option<(u32, u64)>,
    /// The last that there is room for, which later ones overwrite.
    last: bool,
    /// Nothing is kept out.
    all: bool,
}

const _: () = assert!(ExitReason::KINDS <= 32);

/// Exits before and after one that a trace is [around](Filter::is_around), at most. They wait in the ring.
const MOST_AROUND: u64 = 1000;

/// A word that is wrong, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wrong<'a> {
    pub(crate) word: &'a str,
    pub(crate) why: &'static str,
}

impl fmt::Display for Wrong<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is wrong: {}", self.word, self.why)
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            reasons: u32::MAX,
            cpus: u32::MAX,
            vms: u32::MAX,
            pc: 0..=u64::MAX,
            at: 0..=u64::MAX,
            first: u64::MAX,
            around: None,
            last: false,
            all: true,
        }
    }
}

/// A number as people write addresses: hexadecimal with 0x, and otherwise decimal.
fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A range, or one number.
fn range(text: &str) -> Option<RangeInclusive<u64>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..=last)
}

/// The numbers with `+` between them, as bits.
fn bits(text: &str, of: impl Fn(&str) -> Option<u32>) -> Option<u32> {
    let mut bits = 0;
    for word in text.split('+') {
        bits |= 1 << of(word).filter(|&bit| bit < 32)?;
    }
    Some(bits)
}

/// Reasons by their names.
fn named(text: &str) -> Option<u32> {
    bits(text, |word| {
        ExitReason::named(word).map(|index| index as u32)
    })
}

/// A small number.
fn small(text: &str) -> Option<u32> {
    text.parse().ok()
}

impl Filter {
    /// Understands a filter.
    ///
    /// # Errors
    /// The word that is wrong.
    pub fn parse(text: &str) -> Result<Self, Wrong<'_>> {
        let mut filter = Self::default();
        for word in text.split(',') {
            let wrong = |why| Wrong { word, why };
            let (key, value) = word.split_once(':').unwrap_or((word, ""));
            match key {
                "all" if value.is_empty() => {}
                "last" if value.is_empty() => filter.last = true,
                "reason" => {
                    filter.reasons = named(value).ok_or(wrong(
                        "use names of reasons, as in reason:cpuid+port-io; `exits` and traces have them",
                    ))?;
                }
                "around" => {
                    let around = value.split_once('/').and_then(|(reasons, count)| {
                        let count = number(count).filter(|count| (1..=MOST_AROUND).contains(count));
                        Some((named(reasons)?, count?))
                    });
                    filter.around = Some(around.ok_or(wrong(
                        "use names of reasons and how many exits on either side, up to 1000, as in around:shutdown/100",
                    ))?);
                }
                "cpu" => {
                    filter.cpus =
                        bits(value, small).ok_or(wrong("use numbers of CPUs, as in cpu:0+1"))?;
                }
                "vm" => {
                    filter.vms = bits(value, small)
                        .ok_or(wrong("use numbers of virtual machines, as in vm:1"))?;
                }
                "pc" | "at" => {
                    let range =
                        range(value).ok_or(wrong("use addresses, as in pc:0x7c00-0x7dff"))?;
                    match key {
                        "pc" => filter.pc = range,
                        _ => filter.at = range,
                    }
                }
                "first" => {
                    filter.first = number(value).ok_or(wrong("use a number, as in first:1000"))?;
                }
                _ => {
                    return Err(wrong(
                        "use reason:, pc:, at:, vm:, cpu:, first: and around:, last, or all",
                    ));
                }
            }
        }
        if filter.last && filter.around.is_some() {
            return Err(Wrong {
                word: text,
                why: "take one of last and around:",
            });
        }
        filter.all = filter
            == Self {
                vms: filter.vms,
                last: filter.last,
                ..Self::default()
            };
        Ok(filter)
    }

    /// Whether it keeps exits of virtual machine `number` (from 1).
    #[must_use]
    pub fn takes_vm(&self, number: u8) -> bool {
        number < 32 && self.vms >> number & 1 != 0
    }

    /// What becomes of events that find a ring full.
    #[must_use]
    pub const fn when_full(&self) -> Full {
        match self.last {
            true => Full::Overwrite,
            false => Full::Lose,
        }
    }

    /// Whether it keeps what comes before and after some exits, which only a trace that is being recorded can know.
    #[must_use]
    pub const fn is_around(&self) -> bool {
        self.around.is_some()
    }

    /// Whether it keeps all exits.
    #[inline]
    pub(super) fn is_all(&self) -> bool {
        self.all
    }

    /// Whether it keeps this exit of CPU `cpu`.
    #[must_use]
    pub fn takes(&self, cpu: u8, seen: &Seen) -> bool {
        self.reasons >> seen.exit.reason.index() & 1 != 0
            && self.cpus >> (cpu & 31) & 1 != 0
            && self.pc.contains(&seen.pc)
            && (self.at == (0..=u64::MAX)
                || seen.subject().is_some_and(|about| self.at.contains(&about)))
    }
}
