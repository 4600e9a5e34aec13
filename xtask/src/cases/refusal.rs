//! Guests and options that are refused.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::{Case, What, case};
use crate::guests::Guest;
use crate::{command, kernel};

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let refused = [
        ("refuses-missing", Bad::Missing, "cannot be opened"),
        ("refuses-truncated", Bad::Truncated, "which is cut off"),
        ("refuses-a-fifo", Bad::Fifo, "neither a regular file nor"),
        (
            "refuses-a-qcow2-disk",
            Bad::Qcow2Disk,
            "begins like a QCOW2 image",
        ),
        (
            "refuses-not-bootable",
            Bad::NotBootable,
            "no El Torito boot record",
        ),
        ("refuses-not-an-iso", Bad::NotAnIso, "not an ISO 9660 image"),
        (
            "refuses-too-little-memory",
            Bad::TooLittleMemory,
            "too little",
        ),
        (
            "refuses-a-big-kernel",
            Bad::BigKernel,
            "too little for this kernel",
        ),
        ("refuses-a-cut-kernel", Bad::CutKernel, "cut off"),
        (
            "refuses-a-cpu-without-virtualization",
            Bad::NoVirtualization,
            "has neither Intel VT-x (VMX) nor AMD-V (SVM)",
        ),
        (
            "refuses-vt-x-without-ept",
            Bad::NoEpt,
            "lacks what Umbra needs: extended page tables (EPT)",
        ),
        (
            "refuses-a-guest-that-does-not-fit",
            Bad::TooLittleOuterMemory,
            "too little memory for VM 1: it needs",
        ),
    ];
    let cases = refused
        .map(|(name, bad, sentence)| case(name, What::Refusal(bad, sentence), 64, 1, &[], &[]));
    cases.into()
}

/// Ways in which a guest or an option can be bad.
#[derive(Clone, Copy)]
pub(super) enum Bad {
    Missing,
    Truncated,
    /// A FIFO, which nobody writes.
    Fifo,
    /// A good CD, and a disk whose format Umbra would destroy.
    Qcow2Disk,
    NotBootable,
    NotAnIso,
    TooLittleMemory,
    /// A kernel that unpacks to more than the guest's memory.
    BigKernel,
    /// A kernel whose end is missing, which Umbra itself has to see.
    CutKernel,
    /// A machine with less memory than the books of a guest under shadow paging need, which Umbra itself has to see.
    TooLittleOuterMemory,
    /// An outer CPU with neither VT-x nor AMD-V, which Umbra itself has to see.
    NoVirtualization,
    /// An outer CPU with VT-x and without EPT.
    NoEpt,
}

/// Runs the tool itself on something bad: one sentence and exit code 2.
pub(super) fn run(bad: Bad, sentence: &str, umbra: &Path, scratch: &Path) -> Result<()> {
    let good = fs::read(Guest::GrubRescue.provide()?)?;
    let guest = scratch.join(match bad {
        Bad::BigKernel | Bad::CutKernel => "vmlinuz",
        _ => "guest.iso",
    });
    let disk = scratch.join("disk.img");
    let mut arguments = vec!["run", "--headless"];
    match bad {
        Bad::Missing => {}
        // Before its boot catalogue or its boot image: what is cut behind them is worth a warning only.
        Bad::Truncated => fs::write(&guest, good.get(..20 * 2048).unwrap_or_default())?,
        Bad::Fifo => drop(command::run(
            std::process::Command::new("mkfifo").arg(&guest),
        )?),
        Bad::Qcow2Disk => {
            fs::write(&guest, good)?;
            let mut image = vec![0; 1 << 20];
            image
                .get_mut(..4)
                .context("the image is short")?
                .copy_from_slice(b"QFI\xfb");
            fs::write(&disk, image)?;
            arguments.extend(["--disk", disk.to_str().context("the path is no text")?]);
        }
        Bad::NotBootable => {
            // The boot record's identifier, in the second volume descriptor.
            let mut image = good;
            image
                .get_mut(17 * 2048 + 7..17 * 2048 + 30)
                .context("the image is short")?
                .fill(0);
            fs::write(&guest, image)?;
        }
        Bad::NotAnIso => fs::write(&guest, vec![0; 1 << 20])?,
        Bad::TooLittleMemory => {
            fs::write(&guest, good)?;
            arguments.extend(["--memory", "8M"]);
        }
        Bad::BigKernel => {
            fs::copy(Guest::CloudKernel.provide()?, &guest)?;
            arguments.extend(["--memory", "48M"]);
        }
        Bad::CutKernel => {
            let kernel = fs::read(Guest::CloudKernel.provide()?)?;
            let half = kernel.get(..kernel.len() / 2).unwrap_or_default();
            fs::write(&guest, half)?;
        }
        Bad::TooLittleOuterMemory => {
            fs::write(&guest, good)?;
            // The RAM alone would fit.
            let size = ["--memory", "4G", "--outer-memory", "4140M"];
            arguments.extend(size.into_iter().chain(["--paging", "shadow"]));
        }
        Bad::NoVirtualization => {
            fs::write(&guest, good)?;
            arguments.extend(["--rig", "qemu-svm", "--cpu-model", "max,-svm"]);
        }
        Bad::NoEpt => {
            fs::write(&guest, good)?;
            arguments.extend(["--rig", "bochs-vmx", "--cpu-model", "core2_penryn_t9600"]);
        }
    }
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(arguments)
        .arg(&guest)
        .env(kernel::OVERRIDE, umbra)
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(2),
        "{} instead of exit code 2: {text}",
        output.status
    );
    ensure!(
        text.contains(sentence) && text.trim_end().lines().count() == 1,
        "instead of one sentence: {text}"
    );
    Ok(())
}
