//! A machine that stands still, for tests: it has a little memory, and remembers with what it was to go on.

use crate::{Action, Debuggee};
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use hv_core::debug::{MAX_POINTS, Point, Registers, WIDEST};

/// What a linear address and the physical one differ in.
pub const PAGED: u64 = 0x1000;
/// Bytes of memory.
const MEMORY: usize = 0x2000;

/// A machine of two CPUs.
#[derive(Debug)]
pub struct Fake {
    /// Their registers.
    pub registers: [Registers; 2],
    /// Memory, by physical addresses.
    pub memory: Vec<u8>,
    /// With what it has gone on.
    pub resumed: Vec<(Vec<Point>, Vec<Action>)>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            registers: Default::default(),
            memory: (0..MEMORY).map(|n| n as u8).collect(),
            resumed: Vec::new(),
        }
    }
}

impl Fake {
    fn at(&mut self, physical: bool, at: u64) -> &mut [u8] {
        let at = if physical { at } else { at ^ PAGED };
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        self.memory.get_mut(at..).unwrap_or_default()
    }
}

impl Debuggee for Fake {
    fn cpus(&self) -> usize {
        self.registers.len()
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
    fn read(&mut self, _cpu: usize, physical: bool, at: u64, buf: &mut [u8]) -> usize {
        let there = self.at(physical, at);
        let n = there.len().min(buf.len());
        buf[..n].copy_from_slice(&there[..n]);
        n
    }
    fn write(&mut self, _cpu: usize, physical: bool, at: u64, bytes: &[u8]) -> usize {
        let there = self.at(physical, at);
        let n = there.len().min(bytes.len());
        there[..n].copy_from_slice(&bytes[..n]);
        n
    }
    fn command(&mut self, cpu: usize, line: &str, out: &mut dyn fmt::Write) {
        let _ = write!(out, "{cpu}: {line}");
    }
    /// # Panics
    ///
    /// It is to stop at more than it can.
    fn resume(&mut self, points: &[Point], actions: &[Action]) {
        assert!(points.len() <= MAX_POINTS && actions.len() <= self.cpus());
        assert!(points.iter().all(|point| (1..=WIDEST).contains(&point.len)));
        self.resumed.push((points.into(), actions.into()));
    }
}
