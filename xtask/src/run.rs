//! `cargo xtask run`: boots a guest in Umbra and follows it to the end that the options ask for.
//!
//! Everything that can be said about the options is said before anything is installed, built or booted.

use std::fs;
use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde::Serialize;

use crate::bochs::MOST_MEMORY;
use crate::cli::RunArgs;
use crate::emulator::{self, with_words};
use crate::guests::Guest;
use crate::keys;
use crate::media::{self, Kind, Medium};
use crate::mouse;
use crate::outcome::{exit_code, refuse};
use crate::rig::{
    Boot, Bus, Drive, MIB, Machine, Module, Net, Network, Paging, Rig, Shadow, outer_memory,
    parse_memory,
};
use crate::screen::write_png;
use crate::script::{self, Step};
use crate::session::{Ending, Plan, Session, Summary};
use crate::setup::{self, Purpose};
use crate::{image, kernel, models, paths};

/// The virtual machine's firmware, by role.
pub const FIRMWARE: [(&str, &str); 2] = [
    ("bios", "/usr/share/seabios/bios-256k.bin"),
    ("vgabios", "/usr/share/seabios/vgabios-stdvga.bin"),
];
/// What the guest's media are to Umbra, by the serial numbers of the outer machine's disks.
const CDROM: &str = "umbra-cdrom";
const DISK: &str = "umbra-disk";
/// When a run gives up if nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(120);
/// A Linux kernel's command line if nothing else is said.
const CMDLINE: &str = "console=tty0 console=ttyS0";

/// A run, with everything checked.
#[derive(Debug, Clone)]
pub struct Options {
    /// The outer machine; not [`Rig::Auto`].
    pub rig: Rig,
    /// Its CPU, as the emulator calls it.
    pub cpu_model: String,
    /// How the guest's memory is virtualized.
    pub paging: Paging,
    /// How shadow tables are kept, if that is not left to Umbra.
    pub shadow: Option<Shadow>,
    /// What boots; nothing stands for the default guest, which is made when it is needed.
    pub guest: Option<Medium>,
    /// The RAM disk of a Linux kernel, and its length in bytes.
    pub initrd: Option<(PathBuf, u64)>,
    /// The command line of a Linux kernel.
    pub cmdline: String,
    /// The guest's memory in bytes.
    pub memory: u64,
    /// A further hard disk.
    pub disk: Option<PathBuf>,
    /// Further media for the CD-ROM drive.
    pub cdroms: Vec<PathBuf>,
    /// The network.
    pub network: Network,
    /// Texts and keys.
    pub script: Vec<Step>,
    /// When to give up.
    pub timeout: Option<Duration>,
    /// Whether a window shows the guest.
    pub window: bool,
    /// Where the picture goes.
    pub screenshot: Option<PathBuf>,
    /// Where the report goes.
    pub report: Option<PathBuf>,
    /// How many exits are recorded into it.
    pub record: u32,
    /// Whether the clock counts instructions.
    pub icount: bool,
    /// What the guest's media are attached to in the outer machine.
    pub bus: Bus,
    /// Whether what is typed at the terminal goes to the guest's COM1.
    pub interactive: bool,
}

impl Options {
    /// Checks the options of the command line.
    ///
    /// # Errors
    ///
    /// A [`Refused`](crate::outcome::Refused) that says what cannot be done.
    pub fn check(args: &RunArgs, script: Vec<Step>) -> Result<Options> {
        let rig = args.rig.resolve()?;
        let cpu_model = models::choose(rig, args.cpu_model.as_deref())?;
        if args.shadow.is_some() && args.paging == Paging::Nested {
            refuse!("--shadow goes with --paging shadow or alternate");
        }
        match args.cpus.parse::<u32>() {
            Ok(1) => {}
            Ok(cpus) if cpus > 1 => {
                refuse!("--cpus {cpus} is not built yet: a guest has one processor")
            }
            _ => refuse!("--cpus {} is not a number of processors", args.cpus),
        }
        let memory = parse_memory(&args.memory)?;
        let timeout = match args.timeout.as_deref() {
            None => (args.headless || !args.until.is_empty()).then_some(TIMEOUT),
            Some(text) => match text
                .parse::<f64>()
                .ok()
                .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            {
                Some(timeout) if !timeout.is_zero() => Some(timeout),
                _ => refuse!("--timeout {text} is not a number of seconds"),
            },
        };
        for step in &script {
            match step {
                Step::Until(text) if text.is_empty() => refuse!("--until needs a text"),
                Step::Until(_) | Step::Steady(_) | Step::Picture { .. } => {}
                Step::Type(text) => {
                    if let Err(error) = keys::scancodes(text) {
                        refuse!("--type {text:?}: {error}");
                    }
                }
                Step::Mouse(words) => {
                    if let Err(error) = mouse::movements(words, &mut 0) {
                        refuse!("--mouse {words:?}: {error}");
                    }
                }
            }
        }
        let initrd = match (&args.initrd, &args.guest) {
            (Some(path), _) => Some(media::open_initrd(path)?),
            (None, Some(kernel)) => {
                let own = named(kernel).and_then(Guest::initrd);
                own.map(|guest| media::open_initrd(&guest.provide()?))
                    .transpose()?
            }
            (None, None) => None,
        };
        let disk_size = args
            .disk_size
            .as_deref()
            .map(media::parse_size)
            .transpose()?;
        if let Some(path) = &args.disk {
            media::check_disk(path, disk_size)?;
        }
        let cdroms = args.cdrom.iter().map(|path| media::open_cdrom(path));
        let cdroms = cdroms.collect::<Result<Vec<_>>>()?;
        if !cdroms.is_empty() && rig.is_bochs() {
            refuse!("--cdrom goes with QEMU's machines");
        }
        let network = network(args, rig)?;
        for path in [&args.screenshot, &args.report].into_iter().flatten() {
            let directory = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            if !directory.is_dir() {
                refuse!(
                    "{} cannot be written: there is no directory {}",
                    path.display(),
                    directory.display()
                );
            }
        }
        let guest = args.guest.as_deref().map(open_guest).transpose()?;
        match guest.as_ref().map(|guest| guest.kind) {
            Some(Kind::Kernel { init_size }) => {
                // The kernel unpacks itself at 16 MiB and needs its RAM disk above that, until it has unpacked that too.
                let need =
                    16 * MIB + init_size + 2 * initrd.as_ref().map_or(0, |&(_, length)| length);
                if need > memory {
                    refuse!(
                        "--memory {} is too little for this kernel and initrd, which need {}M",
                        args.memory,
                        need.div_ceil(MIB)
                    );
                }
            }
            Some(Kind::Disk) if args.disk.is_some() => {
                refuse!("--disk cannot go with a guest that is a disk image itself")
            }
            kind => {
                if kind == Some(Kind::Disk)
                    && let Some(medium) = &guest
                {
                    media::open_disk(&medium.path)?;
                }
                for (name, given) in [
                    ("--initrd", initrd.is_some()),
                    ("--cmdline", args.cmdline.is_some()),
                ] {
                    if given {
                        refuse!("{name} needs a Linux kernel as the guest");
                    }
                }
            }
        }
        // The one thing that is made here comes when nothing else can be wrong any more.
        let disk = args
            .disk
            .as_deref()
            .map(|path| media::make_disk(path, disk_size))
            .transpose()?;
        Ok(Options {
            rig,
            cpu_model,
            paging: args.paging,
            shadow: args.shadow,
            guest,
            initrd,
            cmdline: args.cmdline.clone().unwrap_or_else(|| CMDLINE.to_owned()),
            memory,
            disk,
            cdroms,
            network,
            script,
            timeout,
            window: !args.headless,
            screenshot: args.screenshot.clone(),
            report: args.report.clone(),
            record: args.record,
            icount: args.icount,
            bus: Bus::Virtio,
            interactive: args.until.is_empty() && args.types.is_empty() && args.mouse.is_empty(),
        })
    }

    /// Options for a headless run of `guest`, as the tests and the benchmarks use them.
    ///
    /// # Errors
    ///
    /// The guest cannot boot.
    pub fn headless(guest: &Path) -> Result<Options> {
        Ok(Options {
            rig: Rig::QemuSvm,
            cpu_model: models::usual(Rig::QemuSvm).to_owned(),
            paging: Paging::Nested,
            shadow: None,
            guest: Some(Medium::open(guest)?),
            initrd: None,
            cmdline: CMDLINE.to_owned(),
            memory: 1024 * MIB,
            disk: None,
            cdroms: Vec::new(),
            network: Network::default(),
            script: Vec::new(),
            timeout: Some(TIMEOUT),
            window: false,
            screenshot: None,
            report: None,
            record: 0,
            icount: false,
            bus: Bus::Virtio,
            interactive: false,
        })
    }
}

/// The network that the command line asks for.
fn network(args: &RunArgs, rig: Rig) -> Result<Network> {
    let net = match &args.net {
        // Nothing may come from outside where runs are to repeat.
        None if rig.is_bochs() || args.icount => Net::None,
        None => Net::User,
        Some(net) if *net != Net::None && rig.is_bochs() => {
            refuse!("--net goes with QEMU: Umbra has no driver for a network card of Bochs")
        }
        Some(net) => net.clone(),
    };
    if net != Net::User && (args.tftp.is_some() || !args.forward.is_empty()) {
        refuse!("--forward and --tftp go with --net user");
    }
    if let Some(directory) = args.tftp.as_ref().filter(|path| !path.is_dir()) {
        refuse!("--tftp {} is no directory", directory.display());
    }
    let tftp = args.tftp.as_deref().map(fs::canonicalize).transpose()?;
    Ok(Network {
        net,
        forwards: args.forward.clone(),
        tftp,
    })
}

/// Opens a guest's file, or provides the test guest of that name where there is no such file.
fn open_guest(path: &Path) -> Result<Medium> {
    match named(path) {
        Some(guest) => Medium::open(&guest.provide()?),
        None => Medium::open(path),
    }
}

/// The test guest that `path` names, if it names no file.
fn named(path: &Path) -> Option<Guest> {
    path.to_str()
        .and_then(Guest::named)
        .filter(|_| !path.exists())
}

/// The outer machine for a run of `guest` in the Umbra image `umbra`. `scratch` takes the files that it needs.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused): the outer machine cannot be as large as the guest needs it.
pub fn machine(
    options: &Options,
    guest: &Medium,
    umbra: &Path,
    display: Option<&'static str>,
    scratch: &Path,
) -> Result<Machine> {
    let mut modules = image::firmware();
    let mut drives = Vec::new();
    let mut modules_length = MIB;
    match guest.kind {
        Kind::Cdrom => drives.push(Drive {
            serial: CDROM.to_owned(),
            path: guest.path.clone(),
            writable: false,
            bus: options.bus,
        }),
        Kind::Disk => drives.push(Drive {
            serial: DISK.to_owned(),
            path: guest.path.clone(),
            writable: true,
            bus: options.bus,
        }),
        Kind::Kernel { .. } => {
            modules_length += guest.length;
            modules.push(Module {
                role: "kernel",
                path: guest.path.clone(),
            });
            if let Some((path, length)) = &options.initrd {
                modules_length += length;
                modules.push(Module {
                    role: "initrd",
                    path: path.clone(),
                });
            }
            let cmdline = scratch.join("guest-cmdline");
            fs::write(&cmdline, &options.cmdline)?;
            modules.push(Module {
                role: "cmdline",
                path: cmdline,
            });
        }
    }
    drives.extend(options.disk.iter().map(|path| Drive {
        serial: DISK.to_owned(),
        path: path.clone(),
        writable: true,
        bus: options.bus,
    }));
    let first = if guest.kind == Kind::Cdrom { 2 } else { 1 };
    drives.extend((first..).zip(&options.cdroms).map(|(number, path)| Drive {
        serial: match number {
            1 => CDROM.to_owned(),
            _ => format!("{CDROM}{number}"),
        },
        path: path.clone(),
        writable: false,
        // Umbra knows a disc by its serial number, which virtio gives it in full.
        bus: Bus::Virtio,
    }));
    let umbra_options = format!(
        "memory={}M {} control={} report=1{}{}",
        options.memory / MIB,
        options.paging.option(options.shadow),
        options.rig.control(),
        if options.window { " window=1" } else { "" },
        match options.record {
            0 => String::new(),
            count => format!(" record={count}"),
        }
    );
    let memory = outer_memory(options.memory, modules_length);
    if options.rig.is_bochs() && memory > MOST_MEMORY {
        refuse!(
            "a guest of {}M needs an outer machine of {}M, and Bochs's can have {}M",
            options.memory / MIB,
            memory / MIB,
            MOST_MEMORY / MIB
        );
    }
    Ok(Machine {
        rig: options.rig,
        cpu_model: options.cpu_model.clone(),
        memory,
        boot: Boot::Multiboot {
            umbra: umbra.to_owned(),
            options: umbra_options,
            modules,
        },
        drives,
        network: options.network.clone(),
        icount: options.icount,
        display,
    })
}

/// What the host saw of a run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Host {
    /// Seconds from the emulator's start to the end.
    pub wall_seconds: f64,
    /// The emulator's user and system time to the end, in seconds.
    pub cpu_seconds: Option<f64>,
    /// The exit code of the run.
    pub exit: u8,
}

/// A run that took place.
#[derive(Debug)]
pub struct Run {
    /// What came of it.
    pub summary: Summary,
    /// What the host saw.
    pub host: Host,
    /// When the emulator was started.
    pub started: Instant,
    /// Umbra's log.
    pub log: PathBuf,
}

/// Runs a guest that was checked, in the Umbra image `umbra`, with the guest's COM1 going to `console`.
///
/// # Errors
///
/// The run could not take place. A guest that did not do what was expected is in the summary.
pub fn execute(
    options: &Options,
    umbra: &Path,
    name: &str,
    console: &mut dyn FnMut(&[u8]),
) -> Result<Run> {
    let display = options
        .window
        .then(|| emulator::display(options.rig))
        .transpose()?;
    let guest = match &options.guest {
        Some(guest) => guest.clone(),
        None => Medium::open(&Guest::DebianAmd64.provide()?)?,
    };
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let machine = machine(options, &guest, umbra, display, scratch.path())?;
    let plan = Plan {
        script: options.script.clone(),
        timeout: options.timeout,
        screenshot: options.screenshot.is_some(),
        report: options.report.is_some(),
        window: options.window,
        interactive: options.interactive,
    };
    let run = converse(&machine, &plan, name, console)?;
    if let (Some(path), Some(picture)) = (&options.screenshot, &run.summary.picture) {
        write_png(path, picture)?;
    }
    if let (Some(path), Some(report)) = (&options.report, &run.summary.report) {
        fs::write(path, with_host(report, run.host)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(run)
}

/// Runs `machine` by `plan`.
///
/// # Errors
///
/// The machine did not start.
pub fn converse(
    machine: &Machine,
    plan: &Plan,
    name: &str,
    console: &mut dyn FnMut(&[u8]),
) -> Result<Run> {
    let log = paths::new_log(name)?;
    let mut emulator = emulator::start(machine, &log)?;
    let mut session = Session::new(emulator.connect()?, &plan.script);
    if let Some(monitor) = emulator.monitor()? {
        // Umbra itself shows the guest and takes the keys there.
        session = session.with_monitor(monitor);
    }
    if plan.interactive && std::io::stdin().is_terminal() {
        // Lines typed here reach the guest's COM1. The thread ends with the tool, or with its input.
        let mut send = session.input();
        thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
                if !send(buffer.get(..count).unwrap_or_default()) {
                    break;
                }
            }
        });
    }
    let start = emulator.process().started();
    let mut summary = session.run(plan, console);
    let cpu_seconds = emulator.process().cpu_seconds();
    summary.result = summary
        .result
        .map_err(|error| with_words(error, &emulator.complaints()));
    let exit = summary.result.as_ref().err().map_or(0, exit_code);
    let host = Host {
        wall_seconds: seconds_since(start),
        cpu_seconds,
        exit,
    };
    Ok(Run {
        summary,
        host,
        started: start,
        log,
    })
}

fn seconds_since(start: Instant) -> f64 {
    (start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}

/// Umbra's report with what the host saw added to it.
fn with_host(report: &str, host: Host) -> Result<String> {
    let mut report: serde_json::Value =
        serde_json::from_str(report).context("Umbra's report is not JSON")?;
    report
        .as_object_mut()
        .context("Umbra's report is not a JSON object")?
        .insert("host".to_owned(), serde_json::to_value(host)?);
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}

/// The command.
///
/// # Errors
///
/// What the exit code says: see [`crate::outcome`].
pub fn run(args: &RunArgs, [untils, types, mice]: [Vec<usize>; 3]) -> Result<()> {
    let steps = script::in_order(
        untils.into_iter().zip(args.until.iter().cloned()),
        types.into_iter().zip(args.types.iter().cloned()),
        mice.into_iter().zip(args.mouse.iter().cloned()),
    );
    let options = Options::check(args, steps)?;
    if options.window {
        emulator::window_system()?;
    }
    setup::require(Purpose::Run {
        rig: options.rig,
        window: options.window,
    })?;
    models::check_listed(options.rig, &options.cpu_model)?;
    let umbra = kernel::build()?;
    let name = options
        .guest
        .as_ref()
        .and_then(|guest| guest.path.file_name())
        .map_or("default".into(), |name| name.to_string_lossy());
    let mut shown = |bytes: &[u8]| {
        let mut output = std::io::stdout().lock();
        // A reader that has gone is no reason to end the run.
        let _ = output.write_all(bytes).and_then(|()| output.flush());
    };
    let mut unseen = |_: &[u8]| {};
    let console: &mut dyn FnMut(&[u8]) = if options.window {
        &mut unseen
    } else {
        &mut shown
    };
    let run = execute(&options, &umbra, &name, console)?;
    conclude(run)
}

/// Says how a run ended.
///
/// # Errors
///
/// It failed.
pub fn conclude(run: Run) -> Result<()> {
    let Run {
        summary, host, log, ..
    } = run;
    let resets = match summary.resets {
        0 => String::new(),
        1 => ", after 1 reset".to_owned(),
        many => format!(", after {many} resets"),
    };
    match summary.result {
        Ok(ending) => {
            let what = match ending {
                Ending::PoweredOff => "the guest powered off",
                Ending::ScriptDone => "all was seen",
                Ending::WindowClosed => "the window was closed",
            };
            eprintln!(
                "umbra: {what} after {:.1} s{resets}; log: {}",
                host.wall_seconds,
                log.display()
            );
            Ok(())
        }
        Err(error) => {
            if host.exit == 1 {
                eprint!("{}", account(&summary.console, &summary.screen, &log));
                eprintln!(
                    "umbra: failed after {:.1} s{resets}; log: {}",
                    host.wall_seconds,
                    log.display()
                );
            }
            Err(error)
        }
    }
}

/// What a failed run left to read: the screen, the end of COM1, and the end of Umbra's log.
pub fn account(console: &[String], screen: &[String], log: &Path) -> String {
    let log_text = fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let log_lines: Vec<&str> = log_text.lines().collect();
    let log_tail: Vec<String> = log_lines
        .iter()
        .skip(log_lines.len().saturating_sub(15))
        .map(|&line| line.to_owned())
        .collect();
    let mut text = String::new();
    for (what, lines) in [
        ("text screen", screen),
        ("COM1", console),
        ("Umbra's log", &log_tail),
    ] {
        if !lines.is_empty() {
            text.push_str(&format!("--- {what} at the end ---\n"));
            for line in lines.iter().skip(lines.len().saturating_sub(30)) {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::outcome::Refused;
    use clap::Parser;

    fn check(line: &str) -> Result<Options> {
        let cli = Cli::try_parse_from(format!("xtask run {line}").split_whitespace())?;
        let Command::Run(args) = cli.command else {
            panic!("not run")
        };
        let steps = args
            .types
            .iter()
            .map(|text| Step::Type(text.clone()))
            .chain(args.mouse.iter().map(|words| Step::Mouse(words.clone())))
            .collect();
        Options::check(&args, steps)
    }

    fn refusal(line: &str) -> String {
        let error = check(line).expect_err(line);
        assert!(error.is::<Refused>(), "{line}: {error}");
        error.to_string()
    }

    #[test]
    fn what_is_not_built_says_so() {
        assert!(refusal("--cpus 2").contains("not built yet"));
    }

    #[test]
    fn paging_is_nested_shadow_or_both_in_turn() {
        let option = |line| {
            let options = check(line).unwrap();
            options.paging.option(options.shadow)
        };
        assert_eq!(option(""), "paging=nested");
        assert_eq!(option("--paging shadow"), "paging=shadow");
        assert_eq!(
            option("--paging alternate:100ms --shadow vtlb"),
            "paging=alternate:100ms shadow=vtlb"
        );
        assert!(refusal("--shadow vtlb").contains("--paging shadow"));
        for wrong in ["both", "alternate", "alternate:0ms", "alternate:5s"] {
            assert!(wrong.parse::<Paging>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rig_brings_its_cpu_and_takes_only_such_as_fit() {
        let options = check("--rig bochs-vmx").unwrap();
        assert_eq!(
            (options.rig, options.cpu_model.as_str()),
            (Rig::BochsVmx, "corei7_skylake_x")
        );
        let options = check("--rig bochs-svm --cpu-model zambezi").unwrap();
        assert_eq!(options.cpu_model, "zambezi");
        assert!(refusal("--rig bochs-vmx --cpu-model ryzen").contains("is for --rig bochs-svm"));
    }

    #[test]
    fn a_guest_that_is_too_large_for_bochs_is_refused() {
        let guest = Medium {
            path: "/g.iso".into(),
            kind: Kind::Cdrom,
            length: 100 * MIB,
        };
        let outer = |memory: &str| {
            let options = check(&format!("--rig bochs-svm --memory {memory}")).unwrap();
            machine(&options, &guest, Path::new("/u"), None, Path::new("/"))
        };
        assert!(outer("1900M").is_ok());
        let error = outer("2G").unwrap_err();
        assert!(error.is::<Refused>());
        assert!(
            error.to_string().contains("Bochs's can have 2048M"),
            "{error}"
        );
    }

    #[test]
    fn numbers_that_are_none_are_refused() {
        for line in [
            "--cpus 0",
            "--cpus x",
            "--memory 16M",
            "--memory lots",
            "--timeout 0",
            "--timeout -1",
            "--timeout x",
        ] {
            refusal(line);
        }
    }

    #[test]
    fn files_that_are_not_there_are_refused() {
        for line in [
            "/nonexistent.iso",
            "--disk /nonexistent/d.img",
            "--screenshot /nonexistent/a.png",
        ] {
            assert!(refusal(line).contains("nonexistent"), "{line}");
        }
    }

    #[test]
    fn a_kernels_options_need_a_kernel() {
        assert!(refusal("--cmdline quiet").contains("needs a Linux kernel"));
    }

    #[test]
    fn keys_that_cannot_be_typed_are_refused() {
        assert!(refusal("--type ü").contains("US keyboard"));
        assert!(refusal("--mouse jump").contains("nothing a mouse does"));
    }

    #[test]
    fn the_timeout_is_120_seconds_but_not_for_a_person_at_a_window() {
        assert_eq!(check("--headless").unwrap().timeout, Some(TIMEOUT));
        assert_eq!(check("--until x").unwrap().timeout, Some(TIMEOUT));
        assert_eq!(check("").unwrap().timeout, None);
        assert_eq!(
            check("--timeout 0.5").unwrap().timeout,
            Some(Duration::from_millis(500))
        );
    }

    #[test]
    fn a_kernel_that_does_not_fit_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vmlinuz");
        let mut kernel = vec![0; 4096];
        kernel[510..512].copy_from_slice(&[0x55, 0xaa]);
        kernel[0x202..0x206].copy_from_slice(b"HdrS");
        kernel[0x260..0x264].copy_from_slice(&(64_u32 << 20).to_le_bytes());
        fs::write(&path, &kernel).unwrap();
        assert!(refusal(&format!("{} --memory 64M", path.display())).contains("need 80M"));
        assert!(check(&format!("{} --memory 128M", path.display())).is_ok());
    }

    #[test]
    fn the_report_gets_a_host_section() {
        let host = Host {
            wall_seconds: 1.5,
            cpu_seconds: Some(2.0),
            exit: 0,
        };
        let text = with_host("{\"exits\": {\"cpuid\": 7}}", host).unwrap();
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["host"]["wall_seconds"], 1.5);
        assert_eq!(report["exits"]["cpuid"], 7);
        assert!(with_host("[]", host).is_err());
    }
}
