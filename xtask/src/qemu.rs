//! QEMU as the outer machine: its command line, and its process with the sockets and temporary files around it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use tempfile::TempDir;

use crate::monitor::Monitor;
use crate::outcome::{Interrupted, interrupted, refuse};
use crate::rig::{Boot, Machine, Module};

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";
/// How long the emulator has to open its control socket.
const START: Duration = Duration::from_secs(30);

/// A running emulator; it ends when this value goes.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    directory: TempDir,
    start: Instant,
}

impl Qemu {
    /// Starts the emulator with Umbra's log going to `log`.
    ///
    /// # Errors
    ///
    /// It, or the temporary files it needs, cannot be had.
    pub fn start(machine: &Machine, log: &Path) -> Result<Qemu> {
        let directory = temporary_directory()?;
        let arguments = arguments(machine, log, directory.path())?;
        let errors = fs::File::create(directory.path().join("errors"))?;
        let child = tied_to_us()
            .args(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start {QEMU}"))?;
        Ok(Qemu {
            child,
            directory,
            start: Instant::now(),
        })
    }

    /// Connects to the control channel. The outer machine does not run before that.
    ///
    /// # Errors
    ///
    /// The emulator ended first, with its own words for why.
    pub fn connect(&mut self) -> Result<UnixStream> {
        let socket = control_socket(self.directory.path());
        loop {
            if let Ok(stream) = UnixStream::connect(&socket) {
                return Ok(stream);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{QEMU} ended at once ({status}): {}", self.errors());
            }
            if interrupted() {
                return Err(Interrupted.into());
            }
            if self.start.elapsed() > START {
                bail!(
                    "{QEMU} did not open its control socket within {} seconds",
                    START.as_secs()
                );
            }
            sleep(Duration::from_millis(10));
        }
    }

    /// The emulator's monitor, which a machine that starts from a CD has.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn monitor(&self) -> Result<Monitor> {
        let socket = monitor_socket(self.directory.path());
        while !socket.exists() && self.start.elapsed() < START && !interrupted() {
            sleep(Duration::from_millis(10));
        }
        Monitor::connect(&socket)
    }

    /// When the emulator was started.
    pub fn started(&self) -> Instant {
        self.start
    }

    /// What the emulator had to complain about.
    pub fn errors(&self) -> String {
        let text = fs::read_to_string(self.directory.path().join("errors")).unwrap_or_default();
        let noise = [
            "TCG doesn't support requested feature",
            "QEMU waiting for connection",
        ];
        let lines = text
            .lines()
            .filter(|line| !noise.iter().any(|words| line.contains(words)));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// The emulator's CPU time so far, in seconds of user and system time.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // The name in brackets may have spaces; user and system time are fields 14 and 15 (proc(5)), in hundredths of a second.
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks: u64 =
            fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?;
        Some(ticks as f64 / 100.0)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        // An error means that it has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The emulator's command, which the system ends with us where it can do that.
fn tied_to_us() -> Command {
    const SETPRIV: &str = "/usr/bin/setpriv";
    if Path::new(SETPRIV).exists() {
        let mut command = Command::new(SETPRIV);
        command.args(["--pdeathsig", "KILL", QEMU]);
        command
    } else {
        Command::new(QEMU)
    }
}

/// A directory whose path can stand in any of QEMU's options.
fn temporary_directory() -> Result<TempDir> {
    let usual = std::env::temp_dir();
    // The path of a socket may have 107 bytes.
    let plain = |path: &Path| {
        path.to_str()
            .is_some_and(|text| text.len() < 60 && !text.contains([' ', ',']))
    };
    let parent = if plain(&usual) {
        usual
    } else {
        PathBuf::from("/tmp")
    };
    tempfile::Builder::new()
        .prefix("umbra-")
        .tempdir_in(parent)
        .context("cannot make a temporary directory")
}

fn control_socket(directory: &Path) -> PathBuf {
    directory.join("control")
}

fn monitor_socket(directory: &Path) -> PathBuf {
    directory.join("monitor")
}

/// `path` as the value of a QEMU option, where a comma is written twice.
fn escaped(path: &Path) -> Result<String> {
    let Some(text) = path.to_str() else {
        refuse!("the path {} is not UTF-8", path.display())
    };
    Ok(text.replace(',', ",,"))
}

/// The emulator's arguments; links and files that they need are made in `directory`.
fn arguments(machine: &Machine, log: &Path, directory: &Path) -> Result<Vec<OsString>> {
    let mut arguments: Vec<OsString> = Vec::new();
    let mut add = |parts: &[&str]| arguments.extend(parts.iter().map(OsString::from));
    add(&[
        "-name",
        "Umbra",
        "-no-user-config",
        "-nodefaults",
        "-M",
        "pc",
        "-accel",
        "tcg",
        "-cpu",
        "max",
        "-vga",
        "std",
    ]);
    add(&[
        "-m",
        &format!("{}M", machine.memory >> 20),
        "-display",
        machine.display.unwrap_or("none"),
    ]);
    if machine.icount {
        add(&["-icount", "shift=0,sleep=off"]);
    }
    match &machine.boot {
        Boot::Multiboot {
            umbra,
            options,
            modules,
        } => {
            add(&["-kernel", utf8(umbra)?, "-append", options]);
            add(&["-initrd", &module_list(modules, directory)?]);
        }
        Boot::Cd { path, firmware } => {
            if let Some(firmware) = firmware {
                add(&["-bios", utf8(firmware)?]);
            }
            add(&[
                "-drive",
                &format!(
                    "file={},if=ide,index=2,media=cdrom,format=raw,readonly=on",
                    escaped(path)?
                ),
            ]);
            add(&["-boot", "d"]);
        }
        Boot::Native {
            kernel,
            initrd,
            cmdline,
        } => {
            add(&["-kernel", utf8(kernel)?, "-append", cmdline, "-no-reboot"]);
            if let Some(initrd) = initrd {
                add(&["-initrd", &escaped(initrd)?]);
            }
        }
    }
    for (number, drive) in machine.drives.iter().enumerate() {
        let access = if drive.writable {
            "cache=writethrough"
        } else {
            "readonly=on"
        };
        add(&[
            "-drive",
            &format!(
                "file={},if=none,id=drive{number},format=raw,{access}",
                escaped(&drive.path)?
            ),
        ]);
        add(&[
            "-device",
            &format!("virtio-blk-pci,drive=drive{number},serial={}", drive.serial),
        ]);
    }
    let control = format!(
        "socket,id=control,path={},server=on,wait=on",
        escaped(&control_socket(directory))?
    );
    add(&["-chardev", &control]);
    if matches!(machine.boot, Boot::Cd { .. }) {
        add(&[
            "-qmp",
            &format!(
                "unix:{},server=on,wait=off",
                escaped(&monitor_socket(directory))?
            ),
        ]);
    }
    if matches!(machine.boot, Boot::Native { .. }) {
        add(&["-serial", "chardev:control"]);
    } else {
        add(&[
            "-chardev",
            &format!("file,id=log,path={}", escaped(log)?),
            "-serial",
            "chardev:log",
            "-serial",
            "chardev:control",
        ]);
    }
    Ok(arguments)
}

fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| anyhow!("the path {} is not UTF-8", path.display()))
}

/// The modules as QEMU's multiboot loader takes them: file and role, separated by commas. The loader ends a file's name at the
/// first blank, so that the names are those of links in `directory`.
fn module_list(modules: &[Module], directory: &Path) -> Result<String> {
    let mut list = Vec::new();
    for module in modules {
        let link = directory.join(module.role);
        symlink(&module.path, &link)
            .with_context(|| format!("cannot make the link {}", link.display()))?;
        list.push(format!("{} {}", escaped(&link)?, module.role));
    }
    Ok(list.join(","))
}

/// Checks that windows can be shown here.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) when they cannot.
pub fn window_system() -> Result<()> {
    let has = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if !has("DISPLAY") && !has("WAYLAND_DISPLAY") {
        refuse!(
            "there is no window system here (neither DISPLAY nor WAYLAND_DISPLAY is set); use --headless"
        );
    }
    Ok(())
}

/// The window system that the emulator can use here.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) when there is none.
pub fn display() -> Result<&'static str> {
    window_system()?;
    let output = Command::new(QEMU)
        .args(["-display", "help"])
        .output()
        .with_context(|| format!("cannot start {QEMU}"))?;
    let known = String::from_utf8_lossy(&output.stdout).into_owned();
    match ["gtk", "sdl"]
        .into_iter()
        .find(|name| known.lines().any(|line| line.trim() == *name))
    {
        Some(name) => Ok(name),
        None => refuse!(
            "{QEMU} has no window here; install the package qemu-system-gui or use --headless"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::{Drive, MIB};

    fn line(machine: &Machine) -> String {
        let directory = tempfile::tempdir().unwrap();
        let arguments = arguments(machine, Path::new("/logs/a,b.log"), directory.path()).unwrap();
        let words: Vec<String> = arguments
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect();
        words
            .join(" ")
            .replace(directory.path().to_str().unwrap(), "DIR")
    }

    fn machine() -> Machine {
        let modules = vec![
            Module {
                role: "bios",
                path: "/usr/share/seabios/bios-256k.bin".into(),
            },
            Module {
                role: "cmdline",
                path: "/a path/with, comma".into(),
            },
        ];
        Machine {
            memory: 128 * MIB,
            boot: Boot::Multiboot {
                umbra: "/u".into(),
                options: "memory=64M".into(),
                modules,
            },
            drives: vec![Drive {
                serial: "umbra-cdrom",
                path: "/x,y.iso".into(),
                writable: false,
            }],
            icount: true,
            display: None,
        }
    }

    #[test]
    fn modules_are_links_whose_names_need_no_quoting() {
        assert!(line(&machine()).contains("-initrd DIR/bios bios,DIR/cmdline cmdline "));
    }

    #[test]
    fn commas_in_file_names_are_doubled() {
        let line = line(&machine());
        assert!(
            line.contains("file=/x,,y.iso,if=none,id=drive0,format=raw,readonly=on"),
            "{line}"
        );
        assert!(line.contains("file,id=log,path=/logs/a,,b.log"), "{line}");
    }

    #[test]
    fn the_log_is_com1_and_the_control_channel_com2() {
        let line = line(&machine());
        assert!(
            line.ends_with("-serial chardev:log -serial chardev:control"),
            "{line}"
        );
        assert!(line.contains("-icount shift=0,sleep=off"));
    }

    #[test]
    fn a_disk_that_the_guest_writes_is_written_through() {
        let drive = Drive {
            serial: "umbra-disk",
            path: "/d.img".into(),
            writable: true,
        };
        let line = line(&Machine {
            drives: vec![drive],
            ..machine()
        });
        assert!(line.contains("format=raw,cache=writethrough"), "{line}");
        assert!(
            line.contains("virtio-blk-pci,drive=drive0,serial=umbra-disk"),
            "{line}"
        );
    }
}
