//! Random guest programs on shadow tables, against what the manual lets a CPU do.
//!
//! A program stores to its tables (through its own mappings, by DMA, by emulated instructions), loads CR3, executes INVLPG, changes its
//! paging mode and rights, and accesses memory, on several CPUs in turns. The hardware is simulated: each CPU walks the *shadow* tables and
//! keeps a TLB that is flushed only when the MMU says so; it stays in the guest while it is another one's turn, until it exits or is kicked
//! (`others.rs`). The judge (`judge.rs`) knows all values that each guest entry has had since a CPU's last flush: a translation is right if
//! the CPU could have it from any of them. A page fault must be that of the tables as they are, by `reference.rs`.

mod choices;
mod judge;
mod machine;
mod others;
mod program;
#[cfg(test)]
mod small;
#[cfg(test)]
mod tests;

use super::*;
use choices::Choices;
use hv_core::mmu::PfError;
use hv_core::regs::Efer;
use machine::Machine;

/// Guest frames: six megabytes, so that there are large pages, and which of them are used as tables.
const FRAMES: u64 = 1536;
const TABLES: [u64; 14] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 512, 1026];
const ROM: u64 = 62;
const MMIO: u64 = 63;
/// Where guest frame 0 is on the host.
const RAM: u64 = 0x4000_0000;
/// Where in a frame page-directory-pointer entries are.
const PDPT: u64 = 0xfe0;

/// Flushes what the MMU says, and checks its invariants.
fn settle(machine: &mut Machine) {
    machine.leave();
    if machine.mmu.root(machine.number).1 != TlbFlush::None {
        machine.cpu.forget();
    }
    machine.mmu.audit().unwrap();
    let free = machine.mmu.pool.free_frames();
    for cpu in &machine.world().cpus {
        let tables = cpu.tables.values().map(|&(table, ..)| table);
        for frame in tables.chain(cpu.inside) {
            assert!(
                cpu.inside.is_none() || !free.contains(&frame),
                "a CPU in the guest remembers table {frame:x?}, which is free"
            );
        }
    }
}

/// A program that `data` decides. Its first two bytes are the seed of the tables and the mode that it begins with.
///
/// # Panics
/// If the MMU does what a CPU would not, or an invariant does not hold.
pub fn fuzz(algorithm: Algorithm, data: &[u8]) {
    let (start, bytes) = data.split_at(data.len().min(2));
    let seed = start.iter().fold(1, |n, &byte| n << 8 | u64::from(byte));
    let mut machine = Machine::new(algorithm, seed, 2);
    machine.restart();
    machine.choices = Choices::Bytes {
        bytes: bytes.to_vec(),
        at: 0,
    };
    while !machine.choices.is_exhausted() {
        machine.step();
        settle(&mut machine);
    }
}
