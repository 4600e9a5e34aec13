//! What of the CPU a virtual machine is to get: `weight=`, `cap=` and `warp=`, at the console the words of the same names.

use core::fmt;

use super::value::{MAX_CPUS, number};

/// The greatest weight. The least is 1.
pub const MAX_WEIGHT: u32 = 10_000;

/// The weight if nothing is said.
pub const WEIGHT: u32 = 100;

/// The greatest cap, in percent of one CPU.
pub const MAX_CAP: u32 = 100 * MAX_CPUS;

/// The greatest warp, in milliseconds.
pub const MAX_WARP: u32 = 1000;

/// What of the CPU a virtual machine is to get, beside the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    /// One of twice the weight gets twice the time, when all want more than there is: 1 to [`MAX_WEIGHT`].
    pub weight: u32,
    /// The most it gets, in percent of one CPU, up to [`MAX_CAP`]. 0: all that is there.
    pub cap: u32,
    /// How much of its time it may use before its turn, in milliseconds: up to [`MAX_WARP`].
    pub warp: u32,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            weight: WEIGHT,
            cap: 0,
            warp: 0,
        }
    }
}

impl Share {
    /// Takes one word of these. False: it means nothing here.
    ///
    /// # Errors
    /// A sentence that says what can be written.
    pub fn take(&mut self, key: &str, value: &str) -> Result<bool, &'static str> {
        let number = |limits: core::ops::RangeInclusive<u32>, why| {
            let number = number(value).filter(|number| limits.contains(number));
            number.ok_or(why)
        };
        match key {
            "weight" => {
                let why =
                    "it is a number from 1 to 10000; 100 is usual, and 200 gets twice as much";
                self.weight = number(1..=MAX_WEIGHT, why)?;
            }
            "cap" if value == "none" => self.cap = 0,
            "cap" => {
                let why = "it is a percentage of one CPU from 1 to 3200, or none";
                self.cap = number(1..=MAX_CAP, why)?;
            }
            "warp" => {
                let why = "it is a number of milliseconds from 0 to 1000";
                self.warp = number(0..=MAX_WARP, why)?;
            }
            _ => return Ok(false),
        }
        Ok(true)
    }
}

// The sentences above say them.
const _: () = assert!(WEIGHT == 100 && MAX_WEIGHT == 10_000 && MAX_CAP == 3200 && MAX_WARP == 1000);

/// What is not as usual, as words with a space behind each.
impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Share { weight, cap, warp } = *self;
        let usual = Self::default();
        for (key, value, usual) in [
            ("weight", weight, usual.weight),
            ("cap", cap, usual.cap),
            ("warp", warp, usual.warp),
        ] {
            if value != usual {
                write!(f, "{key}={value} ")?;
            }
        }
        Ok(())
    }
}
