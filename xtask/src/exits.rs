//! `cargo xtask bench exits`: what single exits cost, in instructions, as the guest sees it: exit, handling and entry together.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::attack;
use crate::cli::ExitsArgs;
use crate::count;
use crate::kernel;
use crate::progress::Step;
use crate::rig::{self, QEMU_SVM};
use crate::run::Options;
use crate::trace::Wanted;

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
pub fn exits(args: &ExitsArgs) -> Result<()> {
    rig::require(QEMU_SVM, false)?;
    let umbra = kernel::build()?;
    let directory = tempfile::tempdir()?;
    let image = directory.path().join("exits.img");
    attack::assemble(SOURCE, CODE, &image)?;
    let step = Step::start("Counting instructions");
    if args.trace {
        // The last exits only, so that none is sent meanwhile.
        let trace = Wanted::check(&directory.path().join("trace"), Some("last"))?;
        let options = Options {
            trace: Some(trace),
            ..count::options(&image, 1, TIMEOUT)?
        };
        let plain = count::run("exits", &image, 1, TIMEOUT, &umbra)?;
        let traced = count::listen("exits", &options, &umbra)?;
        step.done();
        print!("{}", added(&plain, &traced)?);
        return Ok(());
    }
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

/// What a trace adds to the instructions of one exit.
fn added(plain: &str, traced: &str) -> Result<String> {
    let mut text = format!(
        "{:24} {:>12} {:>12} {:>12}\n",
        "exit and entry", "untraced", "traced", "more"
    );
    for (letter, what, _) in MEASURES {
        let each = |console| anyhow::Ok(count::measure(console, letter)? / REPEATED);
        let (plain, traced) = (each(plain)?, each(traced)?);
        let more = traced.saturating_sub(plain);
        text.push_str(&format!("{what:24} {plain:12} {traced:12} {more:12}\n"));
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

    #[test]
    fn a_trace_is_measured_by_what_it_adds() {
        let said = |each: u64| {
            let measures = MEASURES.map(|(letter, ..)| format!("{letter}{:08x}", each * REPEATED));
            measures.join(" ") + " ."
        };
        let text = added(&said(300), &said(420)).unwrap();
        assert!(text.contains("300          420          120"), "{text}");
        assert!(added(&said(300), "").is_err());
    }
}
