//! Bochs as the outer machine: its configuration, and the byte streams to Umbra in it.
//!
//! Bochs starts everything from a CD, with GRUB. It paces serial ports by their baud rate in virtual time, so that screens and
//! pictures would take minutes: Umbra's frames come over port E9h instead, which is Bochs's standard output, and only the
//! tool's go over COM2, a TCP connection on the loopback interface, from which Bochs takes a byte when there is room for it. The tool
//! admits Bochs's own process there, and no other.
//!
//! Without a window Bochs is a VNC server, for the whole network and without a password, which serves one viewer at a time. The tool is that
//! one, and is silent, before Umbra starts: nobody else sees the screen or has the keyboard.
//!
//! Written for Bochs 2.7 as Debian 12 has it: with its debugger, which has to be told to go on.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::machine::{Boot, Display, MIB, Machine};
use super::{Part, models, sockets};
use crate::emulator::{
    self, Channel, Emulator, Process, Sender, temporary_directory, window_system, with_words,
};
use crate::image;
use crate::monitor::Monitor;
use crate::package::{Package, package};

/// The emulator.
pub const BOCHS: &str = "bochs";
/// Names a program to take instead of the installed one.
const OVERRIDE: &str = "UMBRA_BOCHS";
/// The most memory that its machine can have here.
pub const MOST_MEMORY: u64 = 2048 * MIB;
/// The most CPUs that it can have: Bochs counts further, but its own BIOS starts no more.
pub const MOST_CPUS: u32 = 8;
/// Its packages, and those with which the CD is made from which it starts.
const PACKAGES: &[Package] = &[
    package("bochs", "/usr/bin/bochs"),
    package("bochsbios", "/usr/share/bochs/BIOS-bochs-latest"),
    package("grub-common", "/usr/bin/grub-mkimage"),
    package("grub-pc-bin", "/usr/lib/grub/i386-pc/multiboot2.mod"),
    package("xorriso", "/usr/bin/xorriso"),
];
/// Its window's.
const WINDOW: &[Package] = &[package(
    "bochs-x",
    "/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_x_gui.so",
)];

/// Where the machine's drives can be; the first is its own CD's.
const CD: &str = "ata0-master";
const DRIVES: [&str; 3] = ["ata0-slave", "ata1-master", "ata1-slave"];

/// What the debugger is told when the time at a Linux kernel's entry is wanted: to stop there once. GRUB loads the kernel where
/// it likes best to be, at 16 MiB, and enters it at its start.
const STOP_AT_ENTRY: &str = "pbreak 0x1000000\nc\ndelete 1\nc\n";

/// With what a VNC server begins: this, and its version (RFC 6143, 7.1.1, "ProtocolVersion Handshake").
const GREETING: &[u8] = b"RFB ";
/// The length of both.
const GREETING_LENGTH: usize = 12;
/// How long the server has for that.
const GREETED: Duration = Duration::from_secs(10);

/// How the tool is reached from the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// By Umbra: its frames come over port E9h, the tool's go over COM2.
    Umbra,
    /// By a system without Umbra: over COM1.
    Native,
    /// By a system that has Umbra in a machine within: over COM2, and COM1 is the log.
    Within,
}

/// A running Bochs.
#[derive(Debug)]
pub struct Bochs {
    process: Process,
    com: TcpListener,
    reach: Reach,
    /// Whether it is a VNC server.
    serves_screen: bool,
    /// The connection to that.
    viewer: Option<TcpStream>,
}

impl Bochs {
    /// Starts Bochs with Umbra's log going to `log`.
    ///
    /// # Errors
    ///
    /// It, the CD, or the temporary files it needs, cannot be had.
    pub fn start(machine: &Machine, log: &Path) -> Result<Bochs> {
        let reach = match machine.boot {
            Boot::Native { .. } => Reach::Native,
            Boot::Multiboot { .. } | Boot::Cd { .. } => Reach::Umbra,
        };
        Bochs::start_with(machine, reach, log)
    }

    /// The same, where the tool is reached by `reach`.
    ///
    /// # Errors
    ///
    /// As [`start`](Bochs::start).
    pub fn start_with(machine: &Machine, reach: Reach, log: &Path) -> Result<Bochs> {
        let directory = temporary_directory()?;
        let place = |name: &str| directory.path().join(name);
        match &machine.boot {
            Boot::Cd { path, .. } => symlink(path, place("umbra.iso"))?,
            boot => image::make_for_bios(&place("umbra.iso"), boot, machine.display.is_some())?,
        }
        for drive in &machine.drives {
            symlink(&drive.path, place(&drive.serial))?;
        }
        let com = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .context("cannot listen on the loopback interface")?;
        com.set_nonblocking(true)?;
        let text = configuration(machine, reach, com.local_addr()?.port(), log);
        fs::write(place("bochsrc"), text)?;
        let go = match reach {
            Reach::Native => STOP_AT_ENTRY,
            Reach::Umbra | Reach::Within => "c\n",
        };
        fs::write(place("go"), go)?;
        let arguments = ["-q", "-f", "bochsrc", "-rc", "go"].map(Into::into);
        Ok(Bochs {
            process: Process::start(
                &emulator::program(OVERRIDE, BOCHS),
                arguments,
                directory,
                reach == Reach::Umbra,
            )?,
            com,
            reach,
            serves_screen: machine.display.is_none(),
            viewer: None,
        })
    }
}

/// Becomes the only viewer of the VNC server at `port`, and says nothing.
///
/// # Errors
///
/// Somebody else was first.
fn occupy(port: u16) -> Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(GREETED))?;
    let mut greeting = [0; GREETING_LENGTH];
    let read = stream.read_exact(&mut greeting);
    ensure!(
        read.is_ok() && greeting.starts_with(GREETING),
        "another viewer has connected to Bochs's screen (port {port}) before this tool"
    );
    Ok(stream)
}

impl Emulator for Bochs {
    fn connect(&mut self) -> Result<Channel> {
        let (com, id) = (&self.com, self.process.id());
        let stream = self
            .process
            .await_start(|_| sockets::accept_from(com, id))
            .map_err(|error| with_words(error, &self.complaints()))?;
        if self.serves_screen {
            let port = self.process.await_start(|_| sockets::listening_port(id));
            self.viewer = Some(occupy(port?)?);
        }
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        let clone = stream.try_clone()?;
        match self.process.output() {
            Some(output) if self.reach == Reach::Umbra => Ok(Channel {
                from: Box::new(output),
                to: Sender::new(clone),
            }),
            _ => Ok(Channel::over(stream, clone)),
        }
    }

    fn monitor(&self) -> Result<Option<Monitor>> {
        Ok(None)
    }

    fn entered(&self) -> Result<u64> {
        let log = fs::read_to_string(self.process.directory().join("debugger.log"))?;
        entry_time(&log).context("Bochs did not see the kernel's entry")
    }

    fn complaints(&mut self) -> String {
        if !self.process.has_ended() {
            return String::new();
        }
        let log = fs::read(self.process.directory().join("bochs.log")).unwrap_or_default();
        let words = last_words(&String::from_utf8_lossy(&log));
        if words.is_empty() {
            self.process.errors()
        } else {
            words
        }
    }

    fn process(&self) -> &Process {
        &self.process
    }
}

/// The system packages that it needs, and that its window needs.
pub fn packages(window: bool) -> Vec<&'static [Package]> {
    let mut groups = vec![PACKAGES];
    groups.extend(window.then_some(WINDOW));
    groups
}

/// Why its machine has no such part.
pub fn lacks(part: Part) -> &'static str {
    match part {
        Part::Network => "Umbra has no driver for a network card of Bochs",
        Part::Snapshot => "its disks are written where they are",
        Part::Images => "it has raw disks; make one with qemu-img convert -O raw",
        Part::WriteProtection => "it opens every disk to write it",
        Part::Vnc => "the VNC server of Bochs lets the whole network in",
    }
}

/// Its window.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) when there is none here.
pub fn display() -> Result<&'static str> {
    window_system()?;
    Ok("x")
}

/// Whether the Bochs that is installed has `model`.
///
/// # Errors
///
/// It cannot be asked.
pub fn has_model(model: &str) -> Result<bool> {
    models::has(
        &emulator::program(OVERRIDE, BOCHS),
        &["--help", "cpu"],
        model,
    )
}

/// The last lines of Bochs's log, without the registers that it writes at its end: those are the machine's, not the guest's.
fn last_words(log: &str) -> String {
    const LINES: usize = 6;
    let told: Vec<&str> = log.lines().filter(|line| !line.contains("] |")).collect();
    let tail = told.get(told.len().saturating_sub(LINES)..);
    tail.unwrap_or_default().join("\n")
}

/// The time of the debugger's second stop, after the one before the first instruction: in instructions, as the TSC counts.
fn entry_time(log: &str) -> Option<u64> {
    let mut stops = log
        .lines()
        .filter_map(|line| line.strip_prefix("Next at t="));
    stops.nth(1)?.trim().parse().ok()
}

/// The geometry of a disk: what does not fill a cylinder of the usual one, Bochs leaves off, so that floppies have their own.
fn geometry(path: &Path) -> String {
    let length = fs::metadata(path).map_or(0, |metadata| metadata.len());
    match length {
        0x0b_4000 | 0x16_8000 | 0x2d_0000 => {
            format!("cylinders=80, heads=2, spt={}", length / (80 * 2 * 512))
        }
        // UEFI's variables.
        1..MIB if length.is_multiple_of(8 * 512) => {
            format!("cylinders={}, heads=8, spt=1", length / (8 * 512))
        }
        _ => "cylinders=0, heads=16, spt=63".to_owned(),
    }
}

/// The configuration file (bochsrc(5)); names are relative to the directory in which Bochs runs.
fn configuration(machine: &Machine, reach: Reach, port: u16, log: &Path) -> String {
    let display = match machine.display {
        Some(Display::Window(library)) => library.to_owned(),
        // A VNC server is all there is without a window system. It does not wait for a viewer.
        Some(Display::Vnc(_)) | None => "rfb, options=\"timeout=0\"".to_owned(),
    };
    // Where a person watches, virtual time must not run away while the machine is idle.
    let sync = if machine.display.is_some() {
        "slowdown"
    } else {
        "none"
    };
    let memory = machine.memory / MIB;
    let (model, cpus) = (&machine.cpu_model, machine.cpus);
    let tool = format!("mode=socket-client, dev=127.0.0.1:{port}");
    let (com1, com2) = match reach {
        Reach::Native => (tool, "mode=null".to_owned()),
        Reach::Umbra | Reach::Within => (format!("mode=file, dev=\"{}\"", log.display()), tool),
    };
    // Bochs's own VGA BIOS makes GRUB overwrite its heap when it is asked for graphics modes; SeaBIOS's does not.
    let mut text = format!(
        "\
config_interface: textconfig
display_library: {display}
plugin_ctrl: unmapped=true, biosdev=true, extfpuirq=true, serial=true, speaker=false, parallel=false, e1000=false
cpu: model={model}, count={cpus}, ips=200000000, reset_on_triple_fault=0, ignore_bad_msrs=1
memory: guest={memory}, host={memory}
romimage: file=/usr/share/bochs/BIOS-bochs-latest, options=fastboot
vgaromimage: file=/usr/share/seabios/vgabios-stdvga.bin
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata1: enabled=1, ioaddr1=0x170, ioaddr2=0x370, irq=15
{CD}: type=cdrom, path=umbra.iso, status=inserted
boot: cdrom
com1: enabled=1, {com1}
com2: enabled=1, {com2}
port_e9_hack: enabled=1
clock: sync={sync}, time0=utc
log: bochs.log
debugger_log: debugger.log
panic: action=fatal
error: action=report
info: action=report
debug: action=ignore
mouse: enabled=0
sound: driver=dummy
"
    );
    for (place, drive) in DRIVES.iter().zip(&machine.drives) {
        let kind = match drive.writable {
            true => format!("type=disk, mode=flat, {}", geometry(&drive.path)),
            false => "type=cdrom, status=inserted".to_owned(),
        };
        let name = &drive.serial;
        // Umbra knows its guest's drives by the model that they call themselves.
        text.push_str(&format!("{place}: {kind}, path={name}, model=\"{name}\"\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::{BOCHS_SVM, BOCHS_VMX, Bus, Drive, Network};
    use std::io::Write;

    fn machine(boot: Boot) -> Machine {
        Machine {
            rig: BOCHS_SVM,
            cpu_model: "ryzen".to_owned(),
            cpus: 2,
            memory: 384 * MIB,
            boot,
            drives: vec![
                Drive {
                    serial: "umbra-cdrom".to_owned(),
                    format: crate::media::Format::Raw,
                    path: "/a b.iso".into(),
                    writable: false,
                    bus: Bus::Ide,
                },
                Drive {
                    serial: "umbra-disk".to_owned(),
                    format: crate::media::Format::Raw,
                    path: "/d.img".into(),
                    writable: true,
                    bus: Bus::Ide,
                },
            ],
            network: Network::default(),
            remains: None,
            snapshot: false,
            icount: false,
            display: None,
            tablet: false,
        }
    }

    #[test]
    fn a_model_of_the_other_vendor_is_refused_with_those_that_fit() {
        let error = BOCHS_SVM
            .choose_model(Some("corei7_haswell_4770"))
            .unwrap_err();
        let text = error.to_string();
        assert!(text.contains("is for --rig bochs-vmx"), "{text}");
        assert!(
            text.contains("turion64_tyler") && !text.contains('\n'),
            "{text}"
        );
        assert!(BOCHS_VMX.choose_model(Some("ryzen")).is_err());
    }

    #[test]
    fn umbra_logs_on_com1_and_hears_on_com2() {
        let boot = Boot::Multiboot {
            umbra: "/u".into(),
            options: String::new(),
            modules: Vec::new(),
        };
        let text = configuration(&machine(boot), Reach::Umbra, 4711, Path::new("/logs/a.log"));
        assert!(text.contains("com1: enabled=1, mode=file, dev=\"/logs/a.log\"\n"));
        assert!(text.contains("com2: enabled=1, mode=socket-client, dev=127.0.0.1:4711\n"));
        assert!(text.contains("memory: guest=384, host=384\n"));
        assert!(text.contains("cpu: model=ryzen, count=2, "));
    }

    #[test]
    fn a_system_without_umbra_has_the_tool_on_com1() {
        let boot = Boot::Native {
            kernel: "/k".into(),
            initrd: None,
            cmdline: String::new(),
        };
        let text = configuration(
            &machine(boot),
            Reach::Native,
            4711,
            Path::new("/logs/a.log"),
        );
        assert!(text.contains("com1: enabled=1, mode=socket-client, dev=127.0.0.1:4711\n"));
    }

    #[test]
    fn drives_are_known_by_their_models() {
        let boot = Boot::Cd {
            path: "/u.iso".into(),
            firmware: None,
        };
        let text = configuration(&machine(boot), Reach::Umbra, 1, Path::new("/l"));
        assert!(text.contains(
            "ata0-slave: type=cdrom, status=inserted, path=umbra-cdrom, model=\"umbra-cdrom\"\n"
        ));
        assert!(text.contains("ata1-master: type=disk, mode=flat, cylinders=0, heads=16, spt=63, path=umbra-disk, model=\"umbra-disk\"\n"));
    }

    /// A server as Bochs's is: it serves one viewer, up to its end, and the others wait.
    #[test]
    fn the_tool_is_the_only_viewer_or_says_that_it_is_not() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let serve = std::thread::spawn(move || {
            for _ in 0..2 {
                let (mut stream, _) = server.accept().unwrap();
                stream.write_all(b"RFB 003.003\n").unwrap();
                assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the tool is silent");
            }
        });
        let viewer = occupy(port).unwrap();
        let mut late = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        late.set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        assert!(late.read(&mut [0]).is_err());
        drop(viewer);
        late.set_read_timeout(None).unwrap();
        late.read_exact(&mut [0; GREETING_LENGTH]).unwrap();
        drop(late);
        serve.join().unwrap();
        assert!(occupy(port).is_err());
    }

    #[test]
    fn the_entry_is_the_debuggers_second_stop() {
        let log =
            "Next at t=0\n(0) [...]\n(0) Breakpoint 1, 0x01000000 in ?? ()\nNext at t=271828\n";
        assert_eq!(entry_time(log), Some(271_828));
        assert_eq!(entry_time("Next at t=0\n"), None);
    }

    #[test]
    fn the_last_words_are_not_the_registers() {
        let log = "1i[CPU0  ] CS.mode = 32 bit\n1i[CPU0  ] | EAX=1\n1p[CPU0  ] >>PANIC<< 3rd\n1i[SIM   ] quit\n";
        assert_eq!(
            last_words(log),
            "1i[CPU0  ] CS.mode = 32 bit\n1p[CPU0  ] >>PANIC<< 3rd\n1i[SIM   ] quit"
        );
        assert_eq!(last_words(""), "");
    }
}
