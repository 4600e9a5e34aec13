//! Tests of the emulator by rule. The property test against the processor itself is in the crate `tests`.

mod abuse;
mod call_gate;
mod interrupt;
mod length;
mod mmio;
mod protected;
mod real;
mod strings;
mod task;

use super::testing::FakeCpu;
use super::{EmuFault, Step, step};
use crate::event::vector;
use iced_x86::code_asm::CodeAssembler;

/// Assembles code of `bits` at `rip`.
fn assemble(bits: u32, rip: u64, write: impl FnOnce(&mut CodeAssembler)) -> Vec<u8> {
    let mut a = CodeAssembler::new(bits).unwrap();
    write(&mut a);
    a.assemble(rip).unwrap()
}

/// A step that must complete.
fn run(cpu: &mut FakeCpu) -> Step {
    step(cpu).unwrap_or_else(|e| panic!("{e:?}"))
}

/// The vector and error code of a step that must raise an exception; nothing else may have changed.
fn faults(cpu: &mut FakeCpu) -> (u8, Option<u32>) {
    let before = cpu.clone();
    match step(cpu) {
        Err(EmuFault::Exception { vector, error, .. }) => {
            assert_eq!(
                (cpu.gprs, cpu.rip, cpu.rflags),
                (before.gprs, before.rip, before.rflags)
            );
            assert_eq!((cpu.segments, cpu.cpl), (before.segments, before.cpl));
            (vector, error)
        }
        other => panic!("{other:?}"),
    }
}

const GP0: (u8, Option<u32>) = (vector::GP, Some(0));
