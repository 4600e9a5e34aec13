//! gdb at guests: it steps, breaks and watches, lets go, and the guest goes on to its end.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Case, by_hand, on, own, shadowed, until};
use crate::guests::Guest;
use crate::media;
use crate::rig::{BOCHS_VMX, Shadow};
use crate::run::{self, Options};
use crate::session::Ending;
use crate::vm::Vm;

/// How long gdb may take.
const PATIENCE: &str = "300";

/// From the reset vector to GRUB's boot sector, in real mode.
const FIRMWARE: &str = "
printf \"reset %#lx\\n\", $pc
stepi
printf \"jumped %#lx\\n\", $pc
break *0x7c00
continue
printf \"boot sector %#lx, ip %#lx\\n\", $pc, $ip
stepi
monitor why
delete
detach
";

/// A system call of the first program's, step by step, and what it pushes next.
const KERNEL: &str = "
set $entry = $lstar
tbreak *$entry
continue
set $back = $rcx
tbreak *($back - 2)
continue
stepi
printf \"entered %d\\n\", $pc == $entry
stepi
stepi
tbreak *$back
continue
printf \"returned %d\\n\", $pc == $back
set $stack = $rsp - 8
watch *(unsigned long *)$stack
continue
printf \"watched\\n\"
delete
eval \"monitor walk %#lx\", $pc
set $r11 = 0x1234
printf \"r11 %#lx\\n\", $r11
detach
";

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let kernel = |name| {
        let guests = &[Guest::CloudKernel, Guest::CloudInitrd];
        own(name, guests, at_kernel, 256, 400)
    };
    vec![
        own("gdb-firmware", &[Guest::GrubRescue], at_firmware, 64, 200),
        by_hand(kernel("gdb-kernel")),
        by_hand(shadowed(Shadow::Unsync, kernel("gdb-kernel-shadow"))),
        by_hand(on(BOCHS_VMX, None, kernel("bochs-vmx-gdb-kernel"))),
    ]
}

/// A port that nobody uses.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// What gdb says to `script`, at `port`, where it may have to wait for the port.
fn debug(port: u16, script: &str, scratch: &Path) -> Result<String> {
    let path = scratch.join("script.gdb");
    let connect = format!(
        "set pagination off\nset confirm off\nset tcp connect-timeout 120\nset remotetimeout 60\nset architecture i386:x86-64\ntarget remote localhost:{port}\n"
    );
    fs::write(&path, connect + script)?;
    let output = Command::new("timeout")
        .args([PATIENCE, "gdb", "-batch", "-nx", "-x"])
        .arg(&path)
        .output()
        .context("gdb cannot be started")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "gdb failed: {said}{wrong}");
    // What `monitor` has printed is among the errors.
    Ok(said + &wrong)
}

/// Runs `options` with gdb at it, once the guest has said `word`; every part must be in what gdb says.
fn with_gdb(
    case: &Case,
    options: &Options,
    umbra: &Path,
    scratch: &Path,
    word: &str,
    script: &'static str,
    parts: &[&str],
) -> Result<Ending> {
    let port = options.vm.gdb.context("no port")?;
    let (said, waits) = mpsc::channel::<()>();
    let directory = scratch.to_owned();
    let gdb = thread::spawn(move || {
        if waits.recv().is_err() {
            bail!("the guest did not come so far");
        }
        debug(port, script, &directory)
    });
    let mut heard = String::new();
    let mut said = Some(said);
    let mut listen = |bytes: &[u8]| {
        heard.push_str(&String::from_utf8_lossy(bytes));
        if heard.contains(word)
            && let Some(said) = said.take()
        {
            let _ = said.send(());
        }
    };
    listen(&[]);
    let run = run::execute(options, umbra, case.name, &mut listen);
    drop(said);
    let told = gdb.join();
    let Ok(told) = told else {
        bail!("the thread with gdb has panicked");
    };
    let told = told?;
    for part in parts {
        ensure!(told.contains(part), "gdb did not say {part:?}, but {told}");
    }
    run?.summary.result
}

fn at_firmware(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let options = Options {
        timeout: Some(Duration::from_secs(case.timeout)),
        script: vec![until("GNU GRUB")],
        ..Options::headless(Vm {
            memory: case.memory,
            gdb: Some(free_port()?),
            gdb_wait: true,
            ..Vm::of(&Guest::GrubRescue.provide()?)?
        })
    };
    let parts = [
        "reset 0xfffffff0",
        "jumped 0xf",
        "boot sector 0x7c00",
        "exit: ",
    ];
    with_gdb(case, &options, umbra, scratch, "", FIRMWARE, &parts)?;
    Ok(())
}

fn at_kernel(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let options = Options {
        rig: case.rig,
        cpu_model: case.rig.usual_model().to_owned(),
        timeout: Some(Duration::from_secs(case.timeout)),
        ..Options::headless(Vm {
            memory: case.memory,
            paging: case.paging,
            shadow: case.shadow,
            initrd: Some(media::open_initrd(&Guest::CloudInitrd.provide()?)?),
            cmdline: "console=ttyS0 quiet nokaslr umbra.then=poweroff".to_owned(),
            gdb: Some(free_port()?),
            ..Vm::of(&Guest::CloudKernel.provide()?)?
        })
    };
    let parts = [
        "entered 1",
        "returned 1",
        "watched",
        "is physical",
        "r11 0x1234",
    ];
    let ending = with_gdb(case, &options, umbra, scratch, "GUEST-UP", KERNEL, &parts)?;
    ensure!(ending == Ending::PoweredOff, "the guest did not end");
    Ok(())
}
