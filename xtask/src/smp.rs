//! `cargo xtask bench smp`: what a guest's CPUs cost each other on one CPU of the host, in instructions, as the guest sees it; and what two gain on
//! two (`speedup.rs`).

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::attack;
use crate::cli::SmpArgs;
use crate::count::{self, measure};
use crate::kernel;
use crate::progress::Step;
use crate::rig::{self, QEMU_SVM};
use crate::speedup;

const SOURCE: &str = concat!(include_str!("several.s"), include_str!("smp.s"));
/// Bytes of the program: a boot sector and the three sectors that it loads.
const CODE: usize = 2048;
/// How often each interrupt is sent.
const REPEATED: u64 = 1000;
/// How long a run may take.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Virtual CPUs that share the work.
const SEVERAL: u32 = 4;

/// Measures and prints the table.
///
/// # Errors
///
/// A run fails, or the guest says something else.
pub fn smp(args: &SmpArgs) -> Result<()> {
    rig::require(QEMU_SVM, false)?;
    let umbra = kernel::build()?;
    let directory = tempfile::tempdir()?;
    let mut said = Vec::new();
    for cpus in [1, SEVERAL] {
        let image = directory.path().join(format!("smp{cpus}.img"));
        let source = format!(".set CPUS, {cpus}\n.set REPEATED, {REPEATED}\n{SOURCE}");
        attack::assemble_protected(&source, CODE, &image)?;
        let step = Step::start(format!("Counting instructions, {cpus} virtual CPUs"));
        said.push(count::run("smp", &image, cpus, TIMEOUT, &umbra)?);
        step.done();
    }
    if let [one, several] = &said[..] {
        print!("{}", table(one, several)?);
    }
    if !args.counts {
        print!("\n{}", speedup::measure(&umbra)?);
    }
    Ok(())
}

/// What `one` CPU has said, and what `several` have.
fn table(one: &str, several: &str) -> Result<String> {
    let (alone, together) = (measure(one, 'L')?, measure(several, 'L')?);
    ensure!(alone > 0, "the work took no time");
    let page = measure(one, 'M')? / REPEATED;
    let to_itself = measure(one, 'S')? / REPEATED;
    let as_linux = measure(one, 'P')? / REPEATED;
    let round_trip = measure(several, 'R')? / REPEATED;
    let mut text = format!(
        "{:44} {:>12} {:>8}   others\n",
        "on one CPU of the host", "instructions", "aim"
    );
    text.push_str(&format!(
        "{:44} {page:12} {:>8}\n",
        "write to the local APIC's page", ""
    ));
    text.push_str(&format!(
        "{:44} {to_itself:12} {:>8}   KVM 9671\n",
        "interrupt to itself, ended by EOI", ""
    ));
    text.push_str(&format!(
        "{:44} {as_linux:12} {:>8}\n",
        "interrupt to itself, ended as Linux does", "1500"
    ));
    text.push_str(&format!(
        "{:44} {round_trip:12} {:>8}\n",
        "interrupt to another CPU, and one back", ""
    ));
    text.push_str(&format!(
        "{:44} {:10.2} x {:>8}\n",
        format!("work under a lock, {SEVERAL} CPUs to 1"),
        together as f64 / alone as f64,
        "1.50 x"
    ));
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_cpus_are_compared_with_one() {
        let text = table(
            "M001e8480 S000f4240 P0007a120 L00010000 .",
            "S000f4240 R001e8480 L00014000 .",
        )
        .unwrap();
        assert!(text.contains("1000            KVM 9671"), "{text}");
        assert!(text.contains("500     1500"), "{text}");
        assert!(text.contains("2000"), "{text}");
        assert!(text.contains("1.25 x   1.50 x"), "{text}");
        assert!(table("S000f4240 .", "").is_err());
    }
}
