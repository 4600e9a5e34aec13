//! Umbra's own console.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::checks::Check::ExitsPerSecond;
use super::{Case, What, case, keys, own, until};
use crate::guests::Guest;
use crate::media;
use crate::rig::MIB;
use crate::run::Options;
use crate::script::Step;
use crate::vm::Vm;

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let idle = case(
        "idle-guest-leaves-the-cpu-halted",
        What::Kernel(Guest::CloudKernel, "console=tty0"),
        256,
        240,
        &[
            until("/ #"),
            keys("\\{ctrl-alt-esc}"),
            until("umbra>"),
            keys("stats\\n"),
            until("exits/s;"),
        ],
        &[ExitsPerSecond(300)],
    );
    vec![
        idle,
        own(
            "console-commands",
            &[
                Guest::CloudKernel,
                Guest::CloudInitrd,
                Guest::GrubRescue,
                Guest::MemtestX64,
            ],
            commands,
            256,
            300,
        ),
        own(
            "console-refuses-shadow-paging-without-memory",
            &[Guest::GrubRescue],
            without_memory,
            1024,
            120,
        ),
    ]
}

/// Asks for shadow paging on a machine that has no memory for its books. The guest goes on.
fn without_memory(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let script = vec![
        until("GNU GRUB"),
        keys("c"),
        until("grub>"),
        keys("\\{ctrl-alt-esc}"),
        until("umbra>"),
        keys("paging shadow\\npaging shadow\\n"),
        until("too little memory for shadow paging: it needs"),
        keys("list\\n"),
        until("nested"),
        keys("\\{ctrl-alt-esc}"),
        keys("echo a$grub_platform\\n"),
        until("apc"),
    ];
    let options = Options {
        script,
        outer_memory: Some((1024 + 44) * MIB),
        ..Options::headless(Vm::of(&Guest::GrubRescue.provide()?)?)
    };
    case.look(&options, umbra, scratch).map(drop)
}

/// Goes through the console's commands beside a Linux guest with a shell, and looks at what the guest sees of them.
fn commands(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let discs = [Guest::GrubRescue, Guest::MemtestX64].map(Guest::provide);
    let cdroms: Vec<_> = discs.into_iter().collect::<Result<_>>()?;
    // What the guest says of a disc's length, in blocks of 512 bytes. Of a disc whole blocks of 2 KiB count.
    let blocks = |index: usize| -> Result<String> {
        let path = cdroms.get(index).context("there is no such disc")?;
        Ok(format!("size {}", fs::metadata(path)?.len() / 2048 * 4))
    };
    let size = "head -c 1 /dev/sr0 >/dev/null; echo size $(cat /sys/block/sr0/size)\\n";
    let script: Vec<Step> = vec![
        until("GUEST-DONE"),
        until("/ #"),
        keys(size),
        until(&blocks(0)?),
        keys("\\{ctrl-alt-esc}"),
        until("umbra>"),
        keys("fly\\nlist\\n"),
        until("no command fly"),
        until("running"),
        keys("paging shadow\\n"),
        until("shadow paging"),
        keys("pause\\nstats\\n"),
        until("paused: 0 exits/s"),
        // Any key ends the statistics.
        keys(" resume\\n"),
        until("running"),
        keys("paging nested\\n"),
        until("nested paging"),
        keys("eject floppy\\n"),
        until("ejected"),
        keys("insert floppy\\n"),
        until("inserted"),
        keys("eject\\nmedia\\n"),
        until("the drive is empty"),
        keys("insert 2\\nmedia\\n"),
        until("in the drive"),
        keys("power\\nscreenshot\\n"),
        until("base64"),
        keys("\\{ctrl-alt-esc}"),
        keys("clear; cat /sys/firmware/acpi/interrupts/ff_pwr_btn\\n"),
        until("1  EN     enabled"),
        keys(size),
        until(&blocks(1)?),
    ];
    let kernel = Guest::CloudKernel.provide()?;
    let floppy = scratch.join("floppy.img");
    fs::write(&floppy, vec![0; 1440 << 10])?;
    let options = Options {
        script,
        ..Options::headless(Vm {
            initrd: Some(media::open_initrd(&Guest::CloudInitrd.provide()?)?),
            // The last console is the shell's.
            cmdline: "console=ttyS0 console=tty0 quiet".to_owned(),
            cdroms,
            floppies: vec![media::open_floppy(&floppy)?],
            ..Vm::of(&kernel)?
        })
    };
    let log = case.look(&options, umbra, scratch)?.log;
    let log = fs::read_to_string(log)?;
    ensure!(
        log.contains("\niVBORw0KGgo"),
        "there is no PNG's signature in the log"
    );
    Ok(())
}
