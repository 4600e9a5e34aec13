//! The host's random numbers: RDSEED, and RDRAND where that has nothing just now or is not there.
//!
//! SDM vol 1 7.3.17, "Random Number Generator Instructions": both may fail for a moment, RDRAND hardly ever more than ten times in a
//! row, RDSEED whenever it is asked faster than its source gives. A machine with neither has no random numbers, and its guests no entropy
//! device.

use alloc::boxed::Box;
use core::arch::x86_64::{_rdrand64_step, _rdseed64_step};
use hv_core::backend::EntropyBackend;
use raw_cpuid::CpuId;

/// How often an instruction is tried (7.3.17.1, "RDRAND").
const TRIES: usize = 10;

/// What this machine has.
pub struct Entropy {
    seed: bool,
    rand: bool,
}

impl Entropy {
    /// This machine's. None: it has no random numbers.
    pub fn find() -> Option<Box<dyn EntropyBackend>> {
        let id = CpuId::new();
        let seed = id
            .get_extended_feature_info()
            .is_some_and(|f| f.has_rdseed());
        let rand = id.get_feature_info().is_some_and(|f| f.has_rdrand());
        (seed || rand).then(|| Box::new(Self { seed, rand }) as Box<_>)
    }

    fn next(&self) -> Option<u64> {
        let mut value = 0;
        // SAFETY: the CPU has the instruction.
        let seed = |value: &mut u64| self.seed && unsafe { _rdseed64_step(value) } != 0;
        // SAFETY: as before.
        let rand = |value: &mut u64| self.rand && unsafe { _rdrand64_step(value) } != 0;
        // Some AMD CPUs that firmware has not set up succeed with nothing but ones.
        let good = |value| value != u64::MAX;
        let found = (0..TRIES).any(|_| seed(&mut value) && good(value))
            || (0..TRIES).any(|_| rand(&mut value) && good(value));
        found.then_some(value)
    }
}

impl EntropyBackend for Entropy {
    fn fill(&mut self, buf: &mut [u8]) -> usize {
        let mut done = 0;
        for part in buf.chunks_mut(8) {
            let Some(value) = self.next() else { break };
            part.iter_mut()
                .zip(value.to_le_bytes())
                .for_each(|(to, from)| *to = from);
            done += part.len();
        }
        done
    }
}
