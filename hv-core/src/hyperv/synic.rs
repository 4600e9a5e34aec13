//! The synthetic interrupt controller of one virtual CPU (TLFS, "SynIC MSRs"): 16 sources of interrupts, and
//! a page with a message for each. Messages come only from the CPU's own timers. There is a page for event flags, in which nothing is ever set.

use super::msr;
use crate::msr::MsrFault;

/// How many sources there are.
pub const SOURCES: usize = 16;

/// HV_X64_MSR_SCONTROL bit 0.
const ENABLE: u64 = 1 << 0;

/// A source's register, HV_X64_MSR_SINT0 and those that follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Source(u64);

impl Source {
    const MASKED: u64 = 1 << 16;
    const AUTO_EOI: u64 = 1 << 17;
    const POLLING: u64 = 1 << 18;

    fn vector(self) -> u8 {
        self.0 as u8
    }

    fn is_masked(self) -> bool {
        self.0 & Self::MASKED != 0
    }
}

/// The registers.
#[derive(Clone, Copy, Debug)]
pub struct Synic {
    control: u64,
    siefp: u64,
    simp: u64,
    sources: [Source; SOURCES],
}

impl Default for Synic {
    fn default() -> Self {
        Self {
            control: 0,
            siefp: 0,
            simp: 0,
            sources: [Source(Source::MASKED); SOURCES],
        }
    }
}

impl Synic {
    /// RDMSR.
    #[must_use]
    pub fn read(&self, msr: u32) -> Option<u64> {
        Some(match msr {
            msr::SCONTROL => self.control,
            msr::SVERSION => 1,
            msr::SIEFP => self.siefp,
            msr::SIMP => self.simp,
            msr::EOM => 0,
            _ => self.sources.get(msr.checked_sub(msr::SINT0)? as usize)?.0,
        })
    }

    /// WRMSR of what is only kept.
    ///
    /// # Errors
    /// [`MsrFault`]: it is read-only, or not there, or a source that is not masked has one of the vectors that are exceptions'.
    pub fn write(&mut self, msr: u32, value: u64) -> Result<(), MsrFault> {
        match msr {
            msr::SCONTROL => self.control = value,
            msr::SIEFP => self.siefp = value,
            msr::SIMP => self.simp = value,
            _ => {
                let index = msr.checked_sub(msr::SINT0).ok_or(MsrFault)?;
                let own = self.sources.get_mut(index as usize).ok_or(MsrFault)?;
                let source = Source(value);
                if source.vector() < 16 && !source.is_masked() {
                    return Err(MsrFault);
                }
                *own = source;
            }
        }
        Ok(())
    }

    /// Whether messages can be given: controller and page are on.
    #[must_use]
    pub fn takes_messages(&self) -> bool {
        self.control & self.simp & ENABLE != 0
    }

    /// The vector with which the CPU is told of a message for `source`, if it is told.
    #[must_use]
    pub fn vector(&self, source: usize) -> Option<u8> {
        let source = self.sources.get(source)?;
        let told = source.0 & (Source::MASKED | Source::POLLING) == 0;
        told.then_some(source.vector())
    }

    /// Whether an interrupt with this vector ends when it is delivered.
    #[must_use]
    pub fn ends_by_itself(&self, vector: u8) -> bool {
        self.control & ENABLE != 0
            && self.sources.iter().any(|s| {
                s.0 & (Source::MASKED | Source::AUTO_EOI) == Source::AUTO_EOI
                    && s.vector() == vector
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_masked_at_first_and_have_no_vector_of_an_exception() {
        let mut s = Synic::default();
        for n in 0..16 {
            assert_eq!(s.read(msr::SINT0 + n), Some(0x1_0000));
        }
        assert_eq!(s.write(msr::SINT0 + 2, 0x0f), Err(MsrFault));
        assert_eq!(s.write(msr::SINT0 + 2, 0x1_000f), Ok(()));
        assert_eq!(s.write(msr::SINT0 + 2, 0x41), Ok(()));
        assert_eq!(s.vector(2), Some(0x41));
        assert_eq!(s.write(msr::SINT0 + 16, 0x41), Err(MsrFault));
        assert_eq!(s.write(msr::SVERSION, 1), Err(MsrFault));
        assert_eq!((s.read(msr::SVERSION), s.vector(16)), (Some(1), None));
    }

    #[test]
    fn who_is_told_and_whose_interrupt_ends_by_itself() {
        let mut s = Synic::default();
        s.write(msr::SINT0, 0x41 | Source::AUTO_EOI).unwrap();
        assert!(!s.ends_by_itself(0x41), "the controller is off");
        s.write(msr::SCONTROL, 1).unwrap();
        assert!(s.ends_by_itself(0x41) && !s.ends_by_itself(0x42));
        assert!(!s.takes_messages());
        s.write(msr::SIMP, 0x5001).unwrap();
        assert!(s.takes_messages());
        s.write(msr::SINT0, 0x41 | Source::POLLING).unwrap();
        assert_eq!(s.vector(0), None);
        s.write(msr::SINT0, 0x41 | Source::MASKED | Source::AUTO_EOI)
            .unwrap();
        assert!(!s.ends_by_itself(0x41));
    }
}
