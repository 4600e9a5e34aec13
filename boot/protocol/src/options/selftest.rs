//! Failures of Umbra itself that can be asked for, so that a test sees how they end.

use super::value::number;
use core::fmt;

/// A failure, and on which of the host's CPUs it is to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SelfTest<'a> {
    /// What is to happen.
    pub failure: Failure<'a>,
    /// The CPU's number, from 0.
    pub cpu: usize,
}

/// How Umbra can be told to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure<'a> {
    /// The stack of this name overflows.
    Overflow(&'a str),
    /// A panic, while another CPU has the locks that everybody needs, and is in the middle of a frame to the host tool.
    Panic,
    /// A panic that panics while it is told.
    PanicTwice,
    /// A panic while another CPU runs a guest.
    PanicBesideGuest,
}

impl<'a> SelfTest<'a> {
    /// Reads `FAILURE` or `FAILURE@CPU`.
    pub(super) fn parse(text: &'a str) -> Result<Self, &'static str> {
        let (what, cpu) = text.split_once('@').unwrap_or((text, "0"));
        let failure = match what {
            "panic" => Some(Failure::Panic),
            "panic-twice" => Some(Failure::PanicTwice),
            "panic-beside-guest" => Some(Failure::PanicBesideGuest),
            _ => what.strip_prefix("overflow:").map(Failure::Overflow),
        };
        let failure = failure
            .ok_or("use overflow:STACK, panic, panic-twice or panic-beside-guest, and @CPU")?;
        let cpu = number(cpu).ok_or("what is behind @ is no number of a CPU")?;
        Ok(Self { failure, cpu })
    }
}

impl fmt::Display for SelfTest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.failure {
            Failure::Overflow(stack) => write!(f, "overflow:{stack}")?,
            Failure::Panic => f.write_str("panic")?,
            Failure::PanicTwice => f.write_str("panic-twice")?,
            Failure::PanicBesideGuest => f.write_str("panic-beside-guest")?,
        }
        write!(f, "@{}", self.cpu)
    }
}
