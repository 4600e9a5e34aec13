//! A debugger that says anything: packets that are none, packets with a right sum and any contents, and stops of the machine between them.

use crate::feed::Feed;
use gdb::testing::Fake;
use gdb::{Debugger, State};
use hv_core::Gva;
use hv_core::debug::{DebugStop, Point, PointKind};

/// What packets begin with.
const COMMANDS: [&str; 28] = [
    "g",
    "G",
    "m",
    "M",
    "X",
    "p",
    "P",
    "c",
    "s",
    "vCont;c",
    "vCont;s:1;c",
    "vCont?",
    "Z0,",
    "Z2,",
    "z0,",
    "z2,",
    "Z3,",
    "Z4,",
    "z3,",
    "z4,",
    "qRcmd,",
    "qXfer:features:read:target.xml:",
    "qSupported:",
    "H",
    "T",
    "?",
    "D",
    "k",
];

/// Any debugger.
///
/// # Panics
///
/// The machine is not given back, or is to stop at more than it can.
pub fn gdb(data: &[u8]) {
    let f = &mut Feed::new(data);
    let mut debugger = Debugger::new().expect("there is memory");
    let mut machine = Fake::default();
    let len = machine.memory.len();
    let mut said = 0;
    let send = &mut |bytes: &[u8]| said += bytes.len();
    for _ in 0..64 {
        let most = usize::from(f.u8());
        machine = match f.below(8) {
            0 => debugger.hear(machine, f.bytes(most), send),
            1 if debugger.state() == State::Running => {
                let kind = f.pick(&[PointKind::Write, PointKind::Read, PointKind::Access]);
                let stop = f.pick(&[
                    DebugStop::Step,
                    DebugStop::Breakpoint,
                    DebugStop::Event,
                    DebugStop::Watchpoint(Point {
                        kind,
                        at: Gva(0x100),
                        len: 1,
                    }),
                ]);
                debugger.stopped(machine, usize::from(f.below(2)), stop, send)
            }
            2 if debugger.state() == State::Running => debugger.hear(machine, &[3], send),
            _ => {
                let mut packet = f.pick(&COMMANDS).as_bytes().to_vec();
                packet.extend_from_slice(f.bytes(most % 40));
                let sum = packet.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                let packet = [b"$", &packet[..], format!("#{sum:02x}+").as_bytes()].concat();
                debugger.hear(machine, &packet, send)
            }
        };
        if debugger.state() == State::Gone {
            break;
        }
    }
    assert_eq!(machine.memory.len(), len);
}
