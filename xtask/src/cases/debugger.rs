//! gdb at guests: it steps, breaks and watches, lets go, and the guest goes on to its end.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{Case, by_hand, on, own, shadowed, until};
use crate::guests::Guest;
use crate::media;
use crate::rig::{BOCHS_VMX, Shadow};
use crate::run::{self, Options};
use crate::session::Ending;
use crate::symbols;
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

/// From the kernel's first function to its programs, with its own symbols: functions, a program's system call step by step, a variable that an interrupt
/// handler changes, and the handler of an interrupt.
const KERNEL: &str = "
tbreak start_kernel
continue
printf \"start_kernel %d\\n\", $pc == (unsigned long)&start_kernel
backtrace
tbreak __x64_sys_write
continue
backtrace
info threads
set $back = *(unsigned long *)($rdi + 16 * 8)
set $entry = (unsigned long)&entry_SYSCALL_64
set $tries = 0
while $pc != $entry && $tries < 20
  tbreak *($back - 2)
  continue
  stepi
  set $tries = $tries + 1
end
printf \"entered %d\\n\", $pc == $entry && $rcx == $back
stepi
stepi
printf \"handler %d\\n\", $pc > $entry && $pc < $entry + 64
tbreak *$back
continue
printf \"returned %d\\n\", $pc == $back
set $r11 = 0x1234
printf \"r11 %#lx\\n\", $r11
tbreak __x64_sys_write
continue
watch *(unsigned long *)&jiffies_64
set $before = *(unsigned long *)&jiffies_64
continue
printf \"jiffies %d\\n\", *(unsigned long *)&jiffies_64 > $before
backtrace
delete
tbreak asm_sysvec_apic_timer_interrupt
continue
printf \"interrupt %d\\n\", ($eflags & 0x200) == 0
set $from = *(unsigned long *)$rsp
stepi
stepi
printf \"steps %d\\n\", $pc > (unsigned long)&asm_sysvec_apic_timer_interrupt
tbreak native_irq_return_iret
continue
set $from = *(unsigned long *)$rsp
stepi
printf \"iret %d\\n\", $pc == $from
eval \"monitor walk %#lx\", $pc
detach
";

/// These tests.
pub(super) fn cases() -> Vec<Case> {
    let kernel = |name| {
        let guests = &[Guest::CloudKernel, Guest::CloudInitrd];
        own(name, guests, at_kernel, 256, 400)
    };
    let firmware = |name| own(name, &[Guest::GrubRescue], at_firmware, 64, 200);
    vec![
        firmware("gdb-firmware"),
        by_hand(shadowed(Shadow::Unsync, firmware("gdb-firmware-shadow"))),
        by_hand(on(BOCHS_VMX, None, firmware("bochs-vmx-gdb-firmware"))),
        kernel("gdb-kernel"),
        by_hand(shadowed(Shadow::Unsync, kernel("gdb-kernel-shadow"))),
        by_hand(Case {
            timeout: 900,
            ..on(BOCHS_VMX, None, kernel("bochs-vmx-gdb-kernel"))
        }),
    ]
}

/// A port that nobody uses.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// What gdb says to `script`, at `port`, where it may have to wait for the port.
fn debug(port: u16, symbols: Option<&Path>, script: &str, scratch: &Path) -> Result<String> {
    let path = scratch.join("script.gdb");
    let connect = format!(
        "set pagination off\nset confirm off\nset tcp connect-timeout 120\nset remotetimeout 60\nset architecture i386:x86-64\ntarget remote localhost:{port}\n"
    );
    fs::write(&path, connect + script)?;
    let output = Command::new("timeout")
        .args([PATIENCE, "gdb", "-batch", "-nx", "-x"])
        .arg(&path)
        .args(symbols)
        .output()
        .context("gdb cannot be started")?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wrong = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "gdb failed: {said}{wrong}");
    // What `monitor` has printed is among the errors.
    Ok(said + &wrong)
}

/// Runs `options` with gdb at it; every part must be in what gdb says. Gives what the guest says on COM1, and how it ends.
fn with_gdb(
    case: &Case,
    options: &Options,
    umbra: &Path,
    scratch: &Path,
    symbols: Option<PathBuf>,
    script: &'static str,
    parts: &[&str],
) -> Result<(String, Ending)> {
    let port = options.vm.gdb.context("no port")?;
    let directory = scratch.to_owned();
    let gdb = thread::spawn(move || debug(port, symbols.as_deref(), script, &directory));
    let mut heard = String::new();
    let mut listen = |bytes: &[u8]| heard.push_str(&String::from_utf8_lossy(bytes));
    let run = run::execute(options, umbra, case.name, &mut listen);
    let Ok(told) = gdb.join() else {
        bail!("the thread with gdb has panicked");
    };
    let told = told?;
    for part in parts {
        ensure!(told.contains(part), "gdb did not say {part:?}, but {told}");
    }
    Ok((heard, run?.summary.result?))
}

fn at_firmware(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let options = Options {
        timeout: Some(Duration::from_secs(case.timeout)),
        script: vec![until("GNU GRUB")],
        rig: case.rig,
        cpu_model: case.rig.usual_model().to_owned(),
        ..Options::headless(Vm {
            memory: case.memory,
            paging: case.paging,
            shadow: case.shadow,
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
    with_gdb(case, &options, umbra, scratch, None, FIRMWARE, &parts)?;
    Ok(())
}

fn at_kernel(case: &Case, umbra: &Path, scratch: &Path) -> Result<()> {
    let kernel = Guest::CloudKernel.provide()?;
    let symbols = scratch.join("kernel.symbols");
    fs::write(&symbols, symbols::make(&fs::read(&kernel)?)?)?;
    let options = Options {
        rig: case.rig,
        cpu_model: case.rig.usual_model().to_owned(),
        timeout: Some(Duration::from_secs(case.timeout)),
        ..Options::headless(Vm {
            memory: case.memory,
            paging: case.paging,
            shadow: case.shadow,
            cpus: 2,
            initrd: Some(media::open_initrd(&Guest::CloudInitrd.provide()?)?),
            cmdline: "console=ttyS0 quiet nokaslr umbra.then=load".to_owned(),
            gdb: Some(free_port()?),
            gdb_wait: true,
            ..Vm::of(&kernel)?
        })
    };
    let parts = [
        "start_kernel 1",
        "in secondary_startup_64",
        "in do_syscall_64 ()",
        "2    Thread 1.2 (CPU 1",
        "entered 1",
        "handler 1",
        "returned 1",
        "r11 0x1234",
        "jiffies 1",
        "in tick_do_update_jiffies64 ()",
        "interrupt 1",
        "steps 1",
        "iret 1",
        "is physical",
    ];
    let symbols = Some(symbols);
    let (said, ending) = with_gdb(case, &options, umbra, scratch, symbols, KERNEL, &parts)?;
    ensure!(ending == Ending::PoweredOff, "the guest did not end");
    // Each of its files has been compressed and unpacked again.
    ensure!(
        said.contains("GUEST-LOAD") && !said.contains("GUEST-DIFFERS"),
        "a checksum is wrong: {said}"
    );
    Ok(())
}
