//! QEMU as the outer machine: its command line, and the sockets to it.

use std::ffi::OsString;
use std::fs::File;
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use protocol::options::Nic;
use tempfile::TempDir;

use super::machine::{Boot, Bus, Display, Drive, Forward, Machine, Module, Net, Network, REMAINS};
use super::{Rig, models};
use crate::command;
use crate::emulator::{
    self, Channel, Emulator, Process, Sender, temporary_directory, window_system, with_words,
};
use crate::monitor::Monitor;
use crate::outcome::{interrupted, refuse};
use crate::package::{Package, package};

/// The emulator.
const QEMU: &str = "qemu-system-x86_64";
/// Names a program to take instead of the installed one.
pub const OVERRIDE: &str = "UMBRA_QEMU";
/// Its packages.
const PACKAGES: &[Package] = &[package("qemu-system-x86", "/usr/bin/qemu-system-x86_64")];
/// Its window's.
const WINDOW: &[Package] = &[package(
    "qemu-system-gui",
    "/usr/lib/x86_64-linux-gnu/qemu/ui-gtk.so",
)];

/// How long it has to open its monitor.
const MONITOR: Duration = Duration::from_secs(30);

/// The outer machine's network card. It takes frames to all addresses, among them the guest's.
const NETWORK_CARD: &str = "virtio-net-pci,netdev=net,mac=52:54:00:75:6d:62,romfile=";
/// The card that Umbra's guests have, for those that run without it.
const NATIVE_NE2K: &str = "ne2k_pci,netdev=net,romfile=";
const NATIVE_E1000: &str = "e1000,netdev=net,romfile=";
const NATIVE_VIRTIO: &str = "virtio-net-pci,netdev=net,romfile=";

/// A flag of open(2), as Linux has it on x86.
const O_NONBLOCK: i32 = 0o4000;

/// A running QEMU.
#[derive(Debug)]
pub struct Qemu {
    process: Process,
    /// Whether it has a monitor, as machines that start from a CD do.
    monitor: bool,
    /// The pipes to the machine and from it where it counts instructions: with a socket its runs do not repeat exactly.
    pipes: Option<(File, File)>,
}

impl Qemu {
    /// Starts QEMU, which executes the machine's instructions by `accelerator`, with Umbra's log going to `log`. The machine does not run
    /// before [`Emulator::connect`].
    ///
    /// # Errors
    ///
    /// It, or the temporary files it needs, cannot be had.
    pub fn start(machine: &Machine, accelerator: &str, log: &Path) -> Result<Qemu> {
        let directory = temporary_directory()?;
        let control = control_socket(directory.path());
        let at = escaped(&control)?;
        let monitor = matches!(machine.boot, Boot::Cd { .. });
        let wires = Wires {
            control: if machine.icount {
                format!("pipe,id=control,path={at}")
            } else {
                socket(&control)?
            },
            log: log_file(log)?,
            monitor: monitor
                .then(|| escaped(&monitor_socket(directory.path())))
                .transpose()?,
        };
        let linked = linked(machine, directory.path())?;
        let arguments = arguments(&linked, accelerator, &wires)?;
        let pipes = if machine.icount {
            let (to, from) = (control.with_extension("in"), control.with_extension("out"));
            command::run(Command::new("mkfifo").args([&to, &from]))?;
            // Neither may wait for the other end to be opened.
            Some((
                File::options().read(true).write(true).open(to)?,
                File::options()
                    .read(true)
                    .custom_flags(O_NONBLOCK)
                    .open(from)?,
            ))
        } else {
            None
        };
        Ok(Qemu {
            pipes,
            monitor,
            ..Qemu::launch(arguments, directory)?
        })
    }

    /// Starts QEMU with these arguments, among them [`socket`] at [`control_socket`].
    ///
    /// # Errors
    ///
    /// It cannot be had.
    pub fn launch(arguments: Vec<String>, directory: TempDir) -> Result<Qemu> {
        let arguments = arguments.into_iter().map(OsString::from);
        Ok(Qemu {
            process: Process::start(&program(), arguments, directory, false)?,
            monitor: false,
            pipes: None,
        })
    }
}

impl Emulator for Qemu {
    fn connect(&mut self) -> Result<Channel> {
        if let Some((to, from)) = self.pipes.take() {
            return Ok(Channel {
                from: Box::new(self.process.tail(from)),
                to: Sender::new(to),
            });
        }
        let stream = self
            .process
            .await_start(|directory| UnixStream::connect(control_socket(directory)).ok())
            .map_err(|error| with_words(error, &self.complaints()))?;
        let clone = stream.try_clone()?;
        Ok(Channel::over(stream, clone))
    }

    fn monitor(&self) -> Result<Option<Monitor>> {
        if !self.monitor {
            return Ok(None);
        }
        let socket = monitor_socket(self.process.directory());
        let since = Instant::now();
        while !socket.exists() && since.elapsed() < MONITOR && !interrupted() {
            sleep(Duration::from_millis(10));
        }
        Monitor::connect(&socket).map(Some)
    }

    fn entered(&self) -> Result<u64> {
        Ok(0)
    }

    fn complaints(&mut self) -> String {
        let text = self.process.errors();
        let noise = [
            "TCG doesn't support requested feature",
            "QEMU waiting for connection",
        ];
        let lines = text
            .lines()
            .filter(|line| !noise.iter().any(|words| line.contains(words)));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn process(&self) -> &Process {
        &self.process
    }
}

/// Its program: the installed one, or what [`OVERRIDE`] names.
pub fn program() -> String {
    emulator::program(OVERRIDE, QEMU)
}

/// What connects a machine's serial ports and monitor: values of QEMU's options.
#[derive(Debug)]
pub struct Wires {
    /// The character device of the control channel, named `control`.
    pub control: String,
    /// The character device of Umbra's log, named `log`.
    pub log: String,
    /// The monitor's socket.
    pub monitor: Option<String>,
}

/// The control channel over a socket at `path`, for which QEMU waits.
///
/// # Errors
///
/// The path is not UTF-8.
pub fn socket(path: &Path) -> Result<String> {
    Ok(format!(
        "socket,id=control,path={},server=on,wait=on",
        escaped(path)?
    ))
}

/// The log in the file `path`.
///
/// # Errors
///
/// The path is not UTF-8.
pub fn log_file(path: &Path) -> Result<String> {
    Ok(format!("file,id=log,path={}", escaped(path)?))
}

/// Where the socket of the control channel is.
pub fn control_socket(directory: &Path) -> PathBuf {
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

/// The emulator's arguments.
///
/// # Errors
///
/// A path is not UTF-8.
pub fn arguments(machine: &Machine, accelerator: &str, wires: &Wires) -> Result<Vec<String>> {
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |parts: &[&str]| arguments.extend(parts.iter().map(|&part| part.to_owned()));
    add(&[
        "-name",
        "Umbra",
        "-no-user-config",
        "-nodefaults",
        "-M",
        "pc",
        "-accel",
        accelerator,
        "-cpu",
        &machine.cpu_model,
        "-vga",
        "std",
    ]);
    add(&[
        "-m",
        &format!("{}M", machine.memory >> 20),
        "-display",
        &shown(machine.display),
    ]);
    if machine.tablet {
        add(&["-device", "virtio-tablet-pci"]);
    }
    if machine.cpus > 1 {
        add(&["-smp", &machine.cpus.to_string()]);
    }
    if machine.icount {
        // Nothing may come from outside: the time of day and what RDRAND gives are always the same.
        add(&["-icount", "shift=0,sleep=off", "-seed", "1"]);
        add(&["-rtc", "base=2026-01-01T00:00:00,clock=vm"]);
    }
    match &machine.boot {
        Boot::Multiboot {
            umbra,
            options,
            modules,
        } => {
            add(&["-kernel", utf8(umbra)?, "-append", options]);
            add(&["-initrd", &module_list(modules)?]);
        }
        Boot::Cd { path, firmware } => {
            match firmware {
                Some(firmware) => add(&["-bios", utf8(firmware)?]),
                // A monitor that prefers what the guest's does.
                None => add(&["-global", "VGA.xres=1024", "-global", "VGA.yres=768"]),
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
    if machine.snapshot {
        add(&["-snapshot"]);
    }
    if machine.drives.iter().any(|one| one.bus == Bus::Ahci) {
        add(&["-device", "ahci,id=sata"]);
    }
    for (number, one) in machine.drives.iter().enumerate() {
        let [backend, device] = drive(number, one)?;
        add(&["-drive", &backend, "-device", &device]);
    }
    if let Some(path) = &machine.remains {
        let path = escaped(path)?;
        let remains = format!("loader,file={path},addr={REMAINS:#x},force-raw=on");
        add(&["-device", &remains]);
    }
    if let Some(network) = network(&machine.network)? {
        let card = match machine.boot {
            Boot::Native { .. } => match machine.network.native_card {
                Nic::Virtio => NATIVE_VIRTIO,
                Nic::E1000 => NATIVE_E1000,
                Nic::Ne2k | Nic::None => NATIVE_NE2K,
            },
            Boot::Multiboot { .. } | Boot::Cd { .. } => NETWORK_CARD,
        };
        add(&["-netdev", &network, "-device", card]);
        if let Some(path) = &machine.network.capture {
            let path = escaped(path)?;
            let dump = format!("filter-dump,id=dump,netdev=net,file={path}");
            add(&["-object", &dump]);
        }
    }
    add(&["-chardev", &wires.control]);
    if let Some(monitor) = &wires.monitor {
        add(&["-qmp", &format!("unix:{monitor},server=on,wait=off")]);
    }
    if matches!(machine.boot, Boot::Native { .. }) {
        add(&["-serial", "chardev:control"]);
    } else {
        add(&["-chardev", &wires.log, "-serial", "chardev:log"]);
        add(&["-serial", "chardev:control"]);
    }
    Ok(arguments)
}

/// What shows the screen, as the value of `-display`.
fn shown(display: Option<Display>) -> String {
    match display {
        None => "none".to_owned(),
        Some(Display::Window(system)) => system.to_owned(),
        Some(Display::Vnc(vnc)) => match vnc.ip() {
            IpAddr::V4(address) => format!("vnc={address}:{}", vnc.display()),
            IpAddr::V6(address) => format!("vnc=[{address}]:{}", vnc.display()),
        },
    }
}

/// A drive as the values of `-drive` and `-device`.
///
/// # Errors
///
/// Its path is not UTF-8.
pub fn drive(number: usize, drive: &Drive) -> Result<[String; 2]> {
    let access = if drive.writable {
        "cache=writeback"
    } else {
        "readonly=on"
    };
    let path = escaped(&drive.path)?;
    let format = drive.format.name();
    let device = match (drive.bus, drive.writable) {
        (Bus::Virtio, _) => "virtio-blk-pci".to_owned(),
        (Bus::Ide, false) => "ide-cd".to_owned(),
        (Bus::Ide, true) => "ide-hd".to_owned(),
        (Bus::Ahci, false) => format!("ide-cd,bus=sata.{number}"),
        (Bus::Ahci, true) => format!("ide-hd,bus=sata.{number}"),
    };
    Ok([
        format!("file={path},if=none,id=drive{number},format={format},{access}"),
        format!("{device},drive=drive{number},serial={}", drive.serial),
    ])
}

/// The network as the value of `-netdev`; nothing, if there is none.
fn network(network: &Network) -> Result<Option<String>> {
    let mut value = match &network.net {
        Net::None => return Ok(None),
        Net::User => "user,id=net".to_owned(),
        Net::Tap(name) => format!("tap,id=net,ifname={name},script=no,downscript=no"),
    };
    for Forward { host, guest } in &network.forwards {
        value += &format!(",hostfwd=tcp:127.0.0.1:{host}-:{guest}");
    }
    if let Some(directory) = &network.tftp {
        value += &format!(",tftp={}", escaped(directory)?);
    }
    Ok(Some(value))
}

/// `path` as text.
///
/// # Errors
///
/// It is not UTF-8.
pub fn utf8(path: &Path) -> Result<&str> {
    path.to_str()
        .ok_or_else(|| anyhow!("the path {} is not UTF-8", path.display()))
}

/// The machine with links in `directory` for its modules: QEMU's multiboot loader ends a file's name at the first blank.
fn linked(machine: &Machine, directory: &Path) -> Result<Machine> {
    let mut machine = machine.clone();
    if let Boot::Multiboot { modules, .. } = &mut machine.boot {
        for module in modules {
            let link = directory.join(&module.role);
            symlink(&module.path, &link)
                .with_context(|| format!("cannot make the link {}", link.display()))?;
            module.path = link;
        }
    }
    Ok(machine)
}

/// The modules as QEMU's multiboot loader takes them: file and role, separated by commas.
fn module_list(modules: &[Module]) -> Result<String> {
    let list = modules
        .iter()
        .map(|module| Ok(format!("{} {}", escaped(&module.path)?, module.role)));
    Ok(list.collect::<Result<Vec<_>>>()?.join(","))
}

/// The system packages that it needs, and that its window needs.
pub fn packages(window: bool) -> Vec<&'static [Package]> {
    let mut groups = vec![PACKAGES];
    groups.extend(window.then_some(WINDOW));
    groups
}

/// Checks that it has `model`, behind whose name it takes features.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) when it has not.
pub fn check_model(rig: &dyn Rig, model: &str) -> Result<()> {
    let name = model.split(',').next().unwrap_or_default();
    if model == rig.usual_model() || models::has(&program(), &["-cpu", "help"], name)? {
        return Ok(());
    }
    refuse!("{QEMU} has no CPU model {name}; {QEMU} -cpu help lists them")
}

/// The window system that the emulator can use here.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) when there is none.
pub fn display() -> Result<&'static str> {
    window_system()?;
    let output = Command::new(program())
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
    use crate::rig::{MIB, QEMU_SVM};

    fn line(machine: &Machine) -> String {
        let directory = tempfile::tempdir().unwrap();
        let wires = Wires {
            control: "null,id=control".to_owned(),
            log: log_file(Path::new("/logs/a,b.log")).unwrap(),
            monitor: None,
        };
        let machine = linked(machine, directory.path()).unwrap();
        arguments(&machine, "tcg", &wires)
            .unwrap()
            .join(" ")
            .replace(directory.path().to_str().unwrap(), "DIR")
    }

    fn machine() -> Machine {
        let modules = vec![
            Module {
                role: "bios".to_owned(),
                path: "/usr/share/seabios/bios-256k.bin".into(),
            },
            Module {
                role: "cmdline".to_owned(),
                path: "/a path/with, comma".into(),
            },
        ];
        Machine {
            rig: QEMU_SVM,
            cpu_model: "max".to_owned(),
            cpus: 1,
            memory: 128 * MIB,
            boot: Boot::Multiboot {
                umbra: "/u".into(),
                options: "memory=64M".into(),
                modules,
            },
            drives: vec![Drive {
                serial: "umbra-cdrom".to_owned(),
                format: crate::media::Format::Raw,
                path: "/x,y.iso".into(),
                writable: false,
                bus: Bus::Virtio,
            }],
            network: Network::default(),
            remains: None,
            snapshot: false,
            icount: true,
            display: None,
            tablet: false,
        }
    }

    #[test]
    fn disks_forget_what_is_written_where_that_is_asked_for() {
        assert!(!line(&machine()).contains("-snapshot"));
        let line = line(&Machine {
            snapshot: true,
            ..machine()
        });
        assert!(line.contains("-snapshot"));
    }

    #[test]
    fn a_network_card_is_there_only_with_a_network() {
        assert!(!line(&machine()).contains("virtio-net"));
        let network = Network {
            native_card: Nic::default(),
            net: Net::User,
            forwards: vec![Forward {
                host: 8080,
                guest: 80,
            }],
            tftp: Some("/a,b".into()),
            capture: Some("/c".into()),
        };
        let line = line(&Machine {
            network,
            ..machine()
        });
        let user = "-netdev user,id=net,hostfwd=tcp:127.0.0.1:8080-:80,tftp=/a,,b -device virtio-net-pci,netdev=net";
        assert!(line.contains(user), "{line}");
        assert!(line.contains("-object filter-dump,id=dump,netdev=net,file=/c"));
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
    fn a_disk_that_the_guest_writes_has_a_cache_that_it_flushes() {
        let drive = Drive {
            serial: "umbra-disk".to_owned(),
            format: crate::media::Format::Raw,
            path: "/d.img".into(),
            writable: true,
            bus: Bus::Virtio,
        };
        let line = line(&Machine {
            drives: vec![drive],
            ..machine()
        });
        assert!(line.contains("format=raw,cache=writeback"), "{line}");
        assert!(
            line.contains("virtio-blk-pci,drive=drive0,serial=umbra-disk"),
            "{line}"
        );
    }
}
