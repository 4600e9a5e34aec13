//! `cargo xtask bench exits`: what single exits cost, in instructions, as the guest sees it: exit, handling and entry together.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::attack;
use crate::count;
use crate::kernel;
use crate::progress::Step;
use crate::rig::QEMU_SVM;
use crate::setup::{self, Purpose};

const SOURCE: &str = include_str!("exits.s");
/// Bytes of the program: a boot sector.
const CODE: usize = 512;
/// How often each instruction is repeated.
const REPEATED: u64 = 1000;
/// How long a run may take.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Letters of `exits.s`, what they stand for, and what others need on the same emulator.
const MEASURES: [(char, &str, &str); 9] = [
    ('C', "CPUID", "KVM 2979, Xen 6755"),
    ('I', "IN AL, 61h (PIT)", "KVM 1557, Xen 1019"),
    ('O', "OUT 80h, AL", "KVM 1557, Xen 1019"),
    ('R', "RDMSR (MTRRCAP)", "KVM 2950, Xen 6666"),
    ('W', "WRMSR (DEBUGCTL)", ""),
    ('B', "WBINVD", ""),
    ('V', "INVD", ""),
    ('P', "MOV from CR8", ""),
    ('Q', "MOV to CR8", ""),
];

/// Measures and prints the table.
///
/// # Errors
///
/// The run fails, or the guest says something else.
pub fn exits() -> Result<()> {
    setup::require(Purpose::Run {
        rig: QEMU_SVM,
        window: false,
    })?;
    let umbra = kernel::build()?;
    let directory = tempfile::tempdir()?;
    let image = directory.path().join("exits.img");
    attack::assemble(SOURCE, CODE, &image)?;
    let step = Step::start("Counting instructions");
    let console = count::run("exits", &image, 1, TIMEOUT, &umbra)?;
    step.done();
    print!("{}", table(&console)?);
    Ok(())
}

/// The instructions of one exit, the empty loop's taken away.
fn table(console: &str) -> Result<String> {
    let counted = |letter| count::measure(console, letter);
    let empty = counted('N')?;
    let mut text = format!("{:24} {:>12}   others\n", "exit and entry", "instructions");
    for (letter, what, others) in MEASURES {
        let all = counted(letter)?;
        ensure!(all > empty, "{what} took no time");
        text.push_str(&format!(
            "{what:24} {:12}   {others}\n",
            (all - empty) / REPEATED
        ));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_loop_is_taken_away() {
        let text = table("N00000fa0 C0004baf0 I000785cb O00064963 R000612f9 W00061ac9 B00061ac9 V00061ac9 P00001388 Q00001388 .").unwrap();
        assert!(
            text.contains("CPUID                             306   KVM 2979"),
            "{text}"
        );
        assert!(table("N00000fa0 C0004baf0").is_err());
        assert!(table("Nxyz").is_err());
    }
}
