//! Memory that goes from one guest to another.

use std::path::Path;

use anyhow::Result;
use protocol::options::{Os, Profile};

use super::{Case, by_hand, keys, on_host_cpus, own, until};
use crate::guests::Guest;
use crate::media;
use crate::rig::{MIB, Paging};
use crate::run::Options;
use crate::script::Step;
use crate::vm::Vm;

/// What is booted here.
const GUEST: &[Guest] = &[Guest::CloudKernel, Guest::CloudInitrd];

/// The first guest has so much memory that there is none for the second, until it gives some; when the second has switched its machine off,
/// the first takes it again.
fn give(paging: Paging, case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let profile = Profile {
        os: Os::Linux,
        ..Profile::default()
    };
    let case = &Case {
        profile,
        paging,
        ..case.clone()
    };
    let initrd = media::open_initrd(&Guest::CloudInitrd.provide()?)?;
    let vm = |memory: u64, then: &str| -> Result<Vm> {
        Ok(Vm {
            initrd: Some(initrd.clone()),
            cmdline: format!("console=tty0 quiet {then}"),
            memory: memory * MIB,
            paging,
            profile,
            ..Vm::of(&Guest::CloudKernel.provide()?)?
        })
    };
    let console = || [keys("\\{ctrl-alt-esc}"), until("umbra>")];
    let mut script = vec![until("GUEST-DONE"), until("/ #")];
    script.extend(console());
    script.extend([
        keys("start 2\\n"),
        until("VM 2 starts when its"),
        keys("balloon 320M\\n"),
        until("the guest is asked"),
        Step::Focus(2),
        // It has been cleared, and holds what is put there.
        until("GUEST-UP"),
        until("GUEST-LOAD"),
        Step::Focus(1),
        keys("list\\n"),
        until("M of 768M"),
        keys("balloon 768M\\n"),
        keys("\\{ctrl-alt-esc}"),
        keys("sleep 8; work mmap; echo HAS-IT-$((6*7))\\n"),
        until("HAS-IT-42"),
    ]);
    script.extend(console());
    script.extend([keys("list\\n"), until("768 MiB")]);
    let options = Options {
        host_cpus: case.host_cpus,
        outer_memory: Some(1024 * MIB),
        others: vec![Vm {
            later: true,
            // It is seen on COM1 while the console is on the screen.
            ..vm(384, "console=ttyS0 umbra.then=load")?
        }],
        script,
        ..Options::headless(vm(768, "")?)
    };
    case.run_once(&options, umbra, scratch)
}

fn nested(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    give(Paging::Nested, case, umbra, scratch)
}

fn shadow(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    give(Paging::Shadow, case, umbra, scratch)
}

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    vec![
        own("balloon-memory-is-anothers", GUEST, nested, 768, 300),
        by_hand(own(
            "shadow-balloon-memory-is-anothers",
            GUEST,
            shadow,
            768,
            600,
        )),
        by_hand(on_host_cpus(
            2,
            own(
                "host-cpus-2-balloon-memory-is-anothers",
                GUEST,
                nested,
                768,
                600,
            ),
        )),
    ]
}
