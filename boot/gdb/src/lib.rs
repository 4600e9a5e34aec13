//! A debugger that speaks gdb's remote protocol, at a virtual machine.
//!
//! The protocol is the crate gdbstub's; here is what it is about: registers with the description that gdb is given of them ([`registers`]), and
//! a machine ([`Debuggee`]) whose virtual CPUs are gdb's threads, all of which stop together.
//!
//! What the debugger sends is input from outside: a packet has a limit, and one that is wrong ends the conversation, not the machine. A
//! [`Debugger`] is given the machine for as long as it takes to answer, and gives it back.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod registers;
mod stub;
mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use stub::{Debugger, State};

use alloc::string::String;
use core::fmt;
use hv_core::debug::{Point, Registers};

/// What a virtual CPU does when the machine goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Action {
    /// It runs.
    Run,
    /// It executes one instruction.
    Step,
    /// It stays stopped.
    Hold,
}

/// A virtual machine that stands still.
pub trait Debuggee: 'static {
    /// How many virtual CPUs there are, 1 or more.
    fn cpus(&self) -> usize;
    /// What a CPU does, in a word or two.
    fn state(&self, cpu: usize) -> &'static str;
    /// A CPU's registers.
    fn registers(&mut self, cpu: usize) -> Registers;
    /// Sets those that differ.
    ///
    /// # Errors
    /// A sentence that names one that cannot have its value.
    fn set_registers(&mut self, cpu: usize, registers: &Registers) -> Result<(), String>;
    /// Copies memory at a linear address of a CPU's, or a physical one, as far as there is some; returns how far.
    fn read(&mut self, cpu: usize, physical: bool, at: u64, buf: &mut [u8]) -> usize;
    /// Likewise in the other direction.
    fn write(&mut self, cpu: usize, physical: bool, at: u64, bytes: &[u8]) -> usize;
    /// Does what is asked for with `monitor`, and answers.
    fn command(&mut self, cpu: usize, line: &str, out: &mut dyn fmt::Write);
    /// The machine goes on, with so many points and each CPU with its action, when it is given back.
    fn resume(&mut self, points: &[Point], actions: &[Action]);
}
