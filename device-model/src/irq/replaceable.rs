//! An ISA interrupt that has a chip of its own, and that a timer of the HPET may take over.

use alloc::sync::Arc;
use hv_core::irq::{IrqLine, IrqSink};
use hv_core::lock::{Lock, Rank};

/// The input of the chip to which the interrupt belongs.
const OWN: u8 = 0;
/// The input of the timer.
const TIMER: u8 = 1;

/// Two inputs, of which one at a time reaches the wire.
pub struct Replaceable {
    wire: IrqLine,
    state: Lock<State>,
}

struct State {
    /// The levels of both inputs.
    levels: [bool; 2],
    /// The input that reaches the wire.
    connected: u8,
}

impl Replaceable {
    /// A switch before `wire`, which belongs to the interrupt's own chip.
    #[must_use]
    pub fn new(wire: IrqLine) -> Arc<Self> {
        let state = State {
            levels: [false; 2],
            connected: OWN,
        };
        Arc::new(Self {
            wire,
            state: Lock::new(Rank::Part, state),
        })
    }

    /// The wire that the interrupt's own chip gets.
    #[must_use]
    pub fn own(self: &Arc<Self>) -> IrqLine {
        IrqLine::new(self.clone(), OWN)
    }

    /// The wire that the timer gets.
    #[must_use]
    pub fn timer(self: &Arc<Self>) -> IrqLine {
        IrqLine::new(self.clone(), TIMER)
    }

    /// From now on the interrupt is the timer's, or its own chip's.
    pub fn replace(&self, by_timer: bool) {
        let mut state = self.state.lock();
        state.connected = if by_timer { TIMER } else { OWN };
        self.drive(&state);
    }

    fn drive(&self, state: &State) {
        let [own, timer] = state.levels;
        self.wire.set(match state.connected {
            OWN => own,
            _ => timer,
        });
    }
}

impl IrqSink for Replaceable {
    fn set(&self, pin: u8, level: bool) {
        let mut state = self.state.lock();
        if let Some(input) = state.levels.get_mut(usize::from(pin)) {
            *input = level;
        }
        if state.connected == pin {
            self.drive(&state);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::RecordingIrqs;

    #[test]
    fn one_of_two_inputs_reaches_the_wire() {
        let irqs = RecordingIrqs::new();
        let line = Replaceable::new(IrqLine::new(irqs.clone(), 3));
        let (own, timer) = (line.own(), line.timer());
        timer.pulse();
        assert_eq!(irqs.take(), []);
        own.pulse();
        assert_eq!(irqs.take(), [(3, true)]);
        timer.set(false);
        line.replace(true);
        assert_eq!(irqs.take(), [(3, false)]);
        own.pulse();
        assert_eq!(irqs.take(), []);
        timer.pulse();
        assert_eq!(irqs.take(), [(3, true)]);
        timer.pulse();
        assert_eq!(irqs.take(), [(3, false), (3, true)]);
        line.replace(false);
        assert!(irqs.level(3));
    }
}
