//! A debugger that says anything: packets that are none, packets with a right sum and any contents, and stops of the machine between them.

use crate::feed::Feed;
use core::fmt::{self, Write};
use gdb::{Action, Debuggee, Debugger, State};
use hv_core::Gva;
use hv_core::debug::{DebugStop, MAX_POINTS, Point, Registers, WIDEST};

/// Bytes of memory.
const MEMORY: usize = 0x1000;

/// A machine of two CPUs with a little memory.
#[derive(Default)]
struct Machine {
    registers: [Registers; 2],
    memory: Vec<u8>,
}

impl Debuggee for Machine {
    fn cpus(&self) -> usize {
        2
    }
    fn state(&self, _cpu: usize) -> &'static str {
        "active"
    }
    fn registers(&mut self, cpu: usize) -> Registers {
        self.registers[cpu].clone()
    }
    fn set_registers(&mut self, cpu: usize, registers: &Registers) -> Result<(), String> {
        self.registers[cpu] = registers.clone();
        Ok(())
    }
    fn read(&mut self, _cpu: usize, _physical: bool, at: u64, buf: &mut [u8]) -> usize {
        let there = usize::try_from(at)
            .ok()
            .and_then(|at| self.memory.get(at..));
        let there = there.unwrap_or_default();
        let n = there.len().min(buf.len());
        buf[..n].copy_from_slice(&there[..n]);
        n
    }
    fn write(&mut self, _cpu: usize, _physical: bool, at: u64, bytes: &[u8]) -> usize {
        let there = usize::try_from(at)
            .ok()
            .and_then(|at| self.memory.get_mut(at..));
        let there = there.unwrap_or_default();
        let n = there.len().min(bytes.len());
        there[..n].copy_from_slice(&bytes[..n]);
        n
    }
    fn command(&mut self, cpu: usize, line: &str, out: &mut dyn Write) {
        let _ = fmt::Write::write_fmt(out, format_args!("{cpu}: {line}"));
    }
    fn resume(&mut self, points: &[Point], actions: &[Action]) {
        assert!(points.len() <= MAX_POINTS && actions.len() <= self.cpus());
        assert!(points.iter().all(|point| (1..=WIDEST).contains(&point.len)));
    }
}

/// What packets begin with.
const COMMANDS: [&str; 24] = [
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
    let mut machine = Machine {
        memory: vec![0; MEMORY],
        ..Machine::default()
    };
    let mut said = 0;
    let send = &mut |bytes: &[u8]| said += bytes.len();
    for _ in 0..64 {
        let len = usize::from(f.u8());
        machine = match f.below(8) {
            0 => debugger.hear(machine, f.bytes(len), send),
            1 if debugger.state() == State::Running => {
                let stop = f.pick(&[
                    DebugStop::Step,
                    DebugStop::Breakpoint,
                    DebugStop::Event,
                    DebugStop::Watchpoint(Gva(0x100)),
                ]);
                debugger.stopped(machine, usize::from(f.below(2)), stop, send)
            }
            2 if debugger.state() == State::Running => debugger.hear(machine, &[3], send),
            _ => {
                let mut packet = f.pick(&COMMANDS).as_bytes().to_vec();
                packet.extend_from_slice(f.bytes(len % 40));
                let sum = packet.iter().fold(0u8, |sum, byte| sum.wrapping_add(*byte));
                let packet = [b"$", &packet[..], format!("#{sum:02x}+").as_bytes()].concat();
                debugger.hear(machine, &packet, send)
            }
        };
        if debugger.state() == State::Gone {
            break;
        }
    }
    assert_eq!(machine.memory.len(), MEMORY);
}
