//! `cargo xtask run`: boots a guest in Umbra and follows it to the end that the options ask for.
//!
//! Everything that can be said about the options is said before anything is installed, built or booted.

mod images;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use protocol::MAX_VMS;
use serde::Serialize;

use crate::cli::{BootFrom, RunArgs, VmArgs};
use crate::emulator::{self, with_words};
use crate::keys;
use crate::mouse;
use crate::outcome::{exit_code, refuse};
use crate::rig::{
    Boot, Bus, Counting, MIB, Machine, Module, Net, Network, Part, QEMU_SVM, Rig, host_cpus,
    outer_memory, parse_cpus, parse_memory,
};
use crate::screen::write_png;
use crate::script::{self, Step, wait};
use crate::session::{Ending, Plan, Session, Summary};
use crate::setup::{self, Purpose};
use crate::terminal::KeyByKey;
use crate::vm::{self, Vm};
use crate::{image, kernel, paths};

/// The virtual machine's firmware, by role.
pub const FIRMWARE: [(&str, &str); 2] = [
    ("bios", "/usr/share/seabios/bios-256k.bin"),
    ("vgabios", "/usr/share/seabios/vgabios-stdvga.bin"),
];
/// Memory of the outer machine for each guest but the first, besides that guest's RAM: its video memory, and the books of its shadow
/// paging.
const OTHER: u64 = 80 * MIB;
/// When a run gives up if nothing else is said.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A run, with everything checked.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the outer machine comes from.
    pub rig: &'static dyn Rig,
    /// Its CPU, as the emulator calls it.
    pub cpu_model: String,
    /// How many of these it has.
    pub host_cpus: u32,
    /// The virtual machine; the first, if there are more.
    pub vm: Vm,
    /// The others.
    pub others: Vec<Vm>,
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
    /// How many exits of each guest are recorded into it.
    pub record: u32,
    /// Whether exits are counted by port and by MSR.
    pub count: bool,
    /// Whether the clock counts instructions.
    pub icount: bool,
    /// The stack of Umbra's that is to overflow: a test of Umbra itself.
    pub overflow: Option<&'static str>,
    /// The outer machine's memory in bytes, if it is not to be what the guests need.
    pub outer_memory: Option<u64>,
    /// What the guests' media are attached to in the outer machine.
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
        let cpu_model = rig.choose_model(args.cpu_model.as_deref())?;
        if args.icount && rig.counting() == Counting::Never {
            refuse!("--icount cannot go with --rig {}", rig.name());
        }
        if args.vms.len() >= MAX_VMS.into() {
            refuse!("there can be {MAX_VMS} virtual machines");
        }
        let further = args.vms.iter().map(|line| vm::parse(line));
        let further = further.collect::<Result<Vec<VmArgs>>>()?;
        let timeout = match args.timeout.as_deref() {
            None => {
                let waits = script.iter().any(|step| step.waits_for().is_some());
                (args.headless || waits).then_some(TIMEOUT)
            }
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
            check_step(step, 1 + further.len())?;
        }
        let network = network(args, rig)?;
        for path in [&args.screenshot, &args.report].into_iter().flatten() {
            let directory = path
                .parent()
                .filter(|parent| !parent.as_os_str().is_empty())
                .unwrap_or(Path::new("."));
            if path.is_dir() {
                refuse!("{} is a directory: name a file in it", path.display());
            }
            if !directory.is_dir() {
                refuse!(
                    "{} cannot be written: there is no directory {}",
                    path.display(),
                    directory.display()
                );
            }
        }
        let mut vm = Vm::check(&args.vm, rig)?;
        let others = further.iter().map(|args| Vm::check(args, rig));
        let mut others = others.collect::<Result<Vec<_>>>()?;
        let guests_cpus: u32 = others.iter().map(|vm| vm.max_cpus).sum();
        let guests_cpus = guests_cpus + vm.max_cpus;
        let host_cpus = match &args.host_cpus {
            Some(text) => parse_cpus("--host-cpus", text, rig.most_cpus())?,
            None => host_cpus(rig, guests_cpus),
        };
        let all = [(&args.vm, &vm)].into_iter();
        let all: Vec<_> = all.chain(further.iter().zip(&others)).collect();
        images::check(args, &all)?;
        vm.add_disk(&args.vm)?;
        for (vm, args) in others.iter_mut().zip(&further) {
            vm.add_disk(args)?;
        }
        Ok(Options {
            rig,
            cpu_model,
            host_cpus,
            vm,
            others,
            network,
            interactive: script.is_empty(),
            script,
            timeout,
            window: !args.headless,
            screenshot: args.screenshot.clone(),
            report: args.report.clone(),
            record: args.record,
            count: args.report.is_some(),
            icount: args.icount,
            overflow: None,
            outer_memory: args
                .outer_memory
                .as_deref()
                .map(|text| parse_memory("--outer-memory", text))
                .transpose()?,
            bus: Bus::Virtio,
        })
    }

    /// Options for a headless run of `vm`, as the tests and the benchmarks use them.
    pub fn headless(vm: Vm) -> Options {
        Options {
            rig: QEMU_SVM,
            cpu_model: QEMU_SVM.usual_model().to_owned(),
            host_cpus: host_cpus(QEMU_SVM, vm.max_cpus),
            vm,
            others: Vec::new(),
            network: Network::default(),
            script: Vec::new(),
            timeout: Some(TIMEOUT),
            window: false,
            screenshot: None,
            report: None,
            record: 0,
            count: false,
            icount: false,
            outer_memory: None,
            overflow: None,
            bus: Bus::Virtio,
            interactive: false,
        }
    }

    /// All virtual machines.
    fn vms(&self) -> impl Iterator<Item = &Vm> {
        [&self.vm].into_iter().chain(&self.others)
    }
}

/// Checks a step of a script for so many virtual machines.
fn check_step(step: &Step, vms: usize) -> Result<()> {
    match step {
        Step::Until(text) if text.is_empty() => refuse!("--until needs a text"),
        Step::Until(_) | Step::UntilPixel(_) | Step::UntilPicture(_) => {}
        Step::Sleep(_) | Step::Steady(_) | Step::Picture { .. } => {}
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
        Step::Focus(number) if (1..=vms).contains(number) => {}
        Step::Focus(number) => refuse!("--focus {number}: there is no such virtual machine"),
    }
    Ok(())
}

/// The network that the command line asks for.
fn network(args: &RunArgs, rig: &dyn Rig) -> Result<Network> {
    let net = match (&args.net, rig.lacks(Part::Network)) {
        // Nothing may come from outside where runs are to repeat.
        (None, _) if args.icount => Net::None,
        (None, Some(_)) => Net::None,
        (None, None) => Net::User,
        (Some(net), Some(reason)) if *net != Net::None => {
            refuse!("--net cannot go with --rig {}: {reason}", rig.name())
        }
        (Some(net), _) => net.clone(),
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

/// The network card's option ROM, with which the firmware boots from the network.
fn nic_rom() -> Result<Module> {
    const PATH: &str = "/usr/lib/ipxe/qemu/pxe-ne2k_pci.rom";
    if !Path::new(PATH).exists() {
        refuse!("--boot net needs {PATH}, which Debian's package ipxe-qemu has");
    }
    Ok(Module {
        role: "nicrom".to_owned(),
        path: PATH.into(),
    })
}

/// The outer machine for a run in the Umbra image `umbra`. `scratch` takes the files that it needs.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused): the outer machine cannot be as large as the guests need it.
pub fn machine(
    options: &Options,
    umbra: &Path,
    display: Option<&'static str>,
    scratch: &Path,
) -> Result<Machine> {
    let mut modules = image::firmware();
    if options.vms().any(|vm| vm.boot == Some(BootFrom::Net)) {
        modules.push(nic_rom()?);
    }
    let mut drives = Vec::new();
    let (mut guests, mut modules_length) = (0, MIB);
    for (number, vm) in (1..).zip(options.vms()) {
        let parts = vm.equip(number, &vm.medium()?, options.bus, scratch)?;
        modules.extend(parts.modules);
        drives.extend(parts.drives);
        modules_length += parts.module_bytes;
        guests += vm.memory;
    }
    let umbra_options = protocol::options::Options {
        control: Some(options.rig.control()),
        window: options.window,
        check: false,
        overflow: options.overflow,
        vms: options
            .vms()
            .map(|vm| vm.options(options.record, options.count))
            .collect(),
    };
    // Each guest has 16 MiB of video memory besides.
    let others = options.others.len() as u64;
    let needed = outer_memory(guests, modules_length + others * OTHER);
    let memory = options.outer_memory.unwrap_or(needed);
    if let Some(most) = options.rig.most_memory()
        && memory > most
    {
        refuse!(
            "guests of {}M need an outer machine of {}M, and that of --rig {} can have {}M",
            guests / MIB,
            memory / MIB,
            options.rig.name(),
            most / MIB
        );
    }
    Ok(Machine {
        rig: options.rig,
        cpu_model: options.cpu_model.clone(),
        cpus: options.host_cpus,
        memory,
        boot: Boot::Multiboot {
            umbra: umbra.to_owned(),
            options: umbra_options.to_string(),
            modules,
        },
        drives,
        network: options.network.clone(),
        remains: None,
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
    /// Umbra's log. What the guests have written to COM1 is beside it.
    pub log: PathBuf,
}

/// The file for the COM1 of virtual machine `vm` (from 1), beside Umbra's log.
fn com1_log(log: &Path, vm: usize) -> PathBuf {
    let name = log.file_stem().unwrap_or_default().to_string_lossy();
    let which = match vm {
        1 => String::new(),
        vm => format!("-vm{vm}"),
    };
    log.with_file_name(format!("{name}{which}-com1.log"))
}

/// Keeps what the guests write to COM1, for later.
struct Com1Logs<'a> {
    log: &'a Path,
    files: BTreeMap<usize, Option<File>>,
}

impl Com1Logs<'_> {
    fn keep(&mut self, vm: usize, bytes: &[u8]) {
        let file = self.files.entry(vm);
        let file = file.or_insert_with(|| File::create(com1_log(self.log, vm)).ok());
        if let Some(open) = file
            && open.write_all(bytes).is_err()
        {
            // A full disk is no reason to end the run.
            *file = None;
        }
    }
}

/// Runs a guest that was checked, in the Umbra image `umbra`, with the COM1 of the guest that has the focus going to `console`.
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
    let display = options.window.then(|| options.rig.display()).transpose()?;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let machine = machine(options, umbra, display, scratch.path())?;
    let plan = Plan {
        vms: 1 + options.others.len(),
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
    let mut emulator = machine.rig.start(machine, &log)?;
    let mut session = Session::new(emulator.connect()?, &plan.script);
    if let Some(monitor) = emulator.monitor()? {
        // Umbra itself shows the guest and takes the keys there.
        session = session.with_monitor(monitor);
    }
    let keys = plan.interactive.then(KeyByKey::take).flatten();
    if keys.is_some() {
        // What is typed here reaches the guest's COM1. The thread ends with the tool, or with its input.
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
    let mut kept = Com1Logs {
        log: &log,
        files: BTreeMap::new(),
    };
    let mut summary = session.run(plan, &mut |com1| {
        kept.keep(com1.vm, com1.bytes);
        if com1.focus {
            console(com1.bytes);
        }
    });
    drop(keys);
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
pub fn run(args: &RunArgs, places: impl Fn(&str) -> Vec<usize>) -> Result<()> {
    let step = |name, steps: Vec<Step>| places(name).into_iter().zip(steps);
    let texts = |texts: &[String], make: fn(String) -> Step| -> Vec<Step> {
        texts.iter().cloned().map(make).collect()
    };
    let focus = args.focus.iter().map(|&number| Step::Focus(number));
    let pixels = args.until_pixel.iter().map(|text| wait::pixel(text));
    let pixels = pixels.collect::<Result<_>>()?;
    let pictures = args.until_picture.iter().map(|path| wait::picture(path));
    let pictures = pictures.collect::<Result<_>>()?;
    let sleeps = args.sleep.iter().map(|text| wait::sleep(text));
    let sleeps = sleeps.collect::<Result<_>>()?;
    let steps = script::in_order(
        step("until", texts(&args.until, Step::Until))
            .chain(step("types", texts(&args.types, Step::Type)))
            .chain(step("mouse", texts(&args.mouse, Step::Mouse)))
            .chain(step("focus", focus.collect()))
            .chain(step("until_pixel", pixels))
            .chain(step("until_picture", pictures))
            .chain(step("sleep", sleeps)),
    );
    let options = Options::check(args, steps)?;
    if options.window {
        emulator::window_system()?;
    }
    setup::require(Purpose::Run {
        rig: options.rig,
        window: options.window,
    })?;
    options.rig.check_installed_model(&options.cpu_model)?;
    options.rig.prepare()?;
    let umbra = kernel::build()?;
    let name = options.vm.name();
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
    for what in &summary.skipped {
        eprintln!("umbra: passed over on the control channel: {what}");
    }
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
