//! Guests that boot by UEFI: the firmware's shell, its variables over a kill, and Linux through the signed shim and GRUB.

use std::fs;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};

use super::checks::Check;
use super::{Case, What, case, keys, own, shadowed, until, with_cpus};
use crate::firmware::{Firmware, variables_beside};
use crate::guests::Guest;
use crate::outcome::{Interrupted, interrupted};
use crate::rig::Shadow;
use crate::run::{self, Options};
use crate::script::Step;
use crate::session::{Plan, Session};
use crate::vm::Vm;
use crate::{media, paths};

/// Whose variables the test's are.
const VENDOR: &str = "8c0e5a5e-1d2f-4c3b-9a7e-0123456789ab";
/// The disk's size in bytes. It stays empty.
const DISK: u64 = 16 << 20;
/// How long a run has to come to the shell, and to do its work.
const START: Duration = Duration::from_secs(150);

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let shell = |name| own(name, &[Guest::GrubRescue], shell, 512, 120);
    vec![
        shell("uefi-shell"),
        shadowed(Shadow::Unsync, shell("shadow-uefi-shell")),
        own(
            "uefi-variables-survive-a-kill",
            &[Guest::GrubRescue],
            variables,
            256,
            150,
        ),
        with_cpus(
            4,
            case(
                "uefi-linux-cpus-4",
                What::Cd(Guest::LinuxEfi),
                512,
                180,
                &[],
                &[
                    Check::PoweredOff,
                    Check::Console(&[
                        "GUEST-CPU 4",
                        "GUEST-EFI 64",
                        "GUEST-ACPI APIC",
                        "GUEST-ACPI FACP",
                        "GUEST-ACPI WAET",
                        "GUEST-PCI 0000:00:02.0 1234:1111",
                    ]),
                    Check::OwnMemory,
                ],
            ),
        ),
    ]
}

/// A machine with UEFI and a CD that does not boot by it, so that the shell comes up.
fn machine() -> Result<Vm> {
    Ok(Vm {
        firmware: Firmware::Uefi,
        ..Vm::of(&Guest::GrubRescue.provide()?)?
    })
}

/// Into the shell, without its wait for a script.
fn to_the_shell() -> [Step; 3] {
    [until("Press"), keys("\\e"), until("Shell>")]
}

/// A command typed into the shell answers.
fn shell(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let mut script = to_the_shell().to_vec();
    script.extend([keys("echo a%uefishellversion%b\\n"), until("a2.2b")]);
    let options = Options {
        script,
        ..Options::headless(machine()?)
    };
    case.run_once(&options, umbra, scratch)
}

/// A variable is written and the emulator killed; then another is written again and again, and the emulator killed in the middle of it. The first is there,
/// and of the other one of its values.
fn variables(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let disk = media::make_disk(&scratch.join("disk.img"), DISK)?;
    let vm = Vm {
        disks: vec![disk.clone()],
        memory: case.memory,
        ..machine()?
    };
    let set =
        |name: &str, value: &str| format!("setvar {name} -guid {VENDOR} -bs -rt -nv ={value}\\n");
    let show = |name: &str| format!("setvar {name} -guid {VENDOR}\\n");
    // The end of the script is a kill.
    let mut script = to_the_shell().to_vec();
    script.extend([keys(&set("UmbraFirst", "12345678")), until("Shell>")]);
    script.extend([keys(&set("UmbraOther", "aaaa")), until("Shell>")]);
    let options = |vm: &Vm, script: Vec<Step>| Options {
        script,
        ..Options::headless(vm.clone())
    };
    case.run_once(&options(&vm, script), umbra, scratch)
        .context("the first run")?;
    let file = variables_beside(&disk.path);
    let before = fs::read(&file)?;
    let mut script = to_the_shell().to_vec();
    for value in ["bbbb", "aaaa", "bbbb", "aaaa", "bbbb", "aaaa"] {
        script.extend([keys(&set("UmbraOther", value)), until("Shell>")]);
    }
    script.push(until("never"));
    kill_when_written(&options(&vm, script), umbra, scratch, &file, &before)
        .context("the second run")?;
    let mut script = to_the_shell().to_vec();
    script.extend([keys(&show("UmbraFirst")), until("12 34 56 78")]);
    script.extend([keys(&show("UmbraOther")), until("0002 Bytes")]);
    case.run_once(&options(&vm, script), umbra, scratch)
        .context("the third run")?;
    ensure!(
        fs::read(&file)?.len() == before.len(),
        "the file has another length"
    );
    Ok(())
}

/// Runs the guest and kills the emulator as soon as `file` is not what it was `before`.
fn kill_when_written(
    options: &Options,
    umbra: &Path,
    scratch: &Path,
    file: &Path,
    before: &[u8],
) -> Result<()> {
    let machine = run::machine(options, umbra, None, scratch)?;
    let mut emulator = machine.rig.start(&machine, &paths::new_log("uefi-kill")?)?;
    let session = Session::new(emulator.connect()?, &options.script);
    let (sender, receiver) = mpsc::channel();
    let plan = Plan {
        vms: 1,
        script: options.script.clone(),
        ..Plan::default()
    };
    let conversation = thread::spawn(move || {
        session.run(&plan, &mut |com1| {
            // Who does not listen any more has what it wanted.
            let _ = sender.send(com1.bytes.to_vec());
        })
    });
    let give_up = Instant::now() + START;
    let mut console = Vec::new();
    let mut at_the_shell = None;
    let written = loop {
        if interrupted() {
            return Err(Interrupted.into());
        }
        console.extend(receiver.try_iter().flatten());
        // The firmware writes variables of its own on the way to the shell.
        if at_the_shell.is_none() && String::from_utf8_lossy(&console).contains("Shell>") {
            at_the_shell = Some(fs::read(file)?);
        }
        if let Some(then) = &at_the_shell
            && fs::read(file)? != *then
        {
            break true;
        }
        if Instant::now() > give_up {
            break false;
        }
        thread::sleep(Duration::from_millis(1));
    };
    // SIGKILL.
    drop(emulator);
    let summary = conversation
        .join()
        .map_err(|_| anyhow!("the session ended by a panic"))?;
    if !written {
        bail!("no variable was written: {:?}", summary.result);
    }
    ensure!(fs::read(file)? != before, "the file is as it was");
    Ok(())
}
