//! The options of a run, checked.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;
use protocol::MAX_VMS;
use protocol::options::SelfTest;

use super::images;
use crate::cli::{OnPanic, RunArgs, VmArgs};
use crate::debugger;
use crate::keys;
use crate::media::Keep;
use crate::mouse::{self, Hand};
use crate::outcome::refuse;
use crate::rig::{
    Bus, Counting, Net, Network, Part, QEMU_SVM, Rig, Vnc, host_cpus, parse_cpus, parse_memory,
};
use crate::script::Step;
use crate::trace::Wanted;
use crate::vm::{self, Vm};

/// When a run gives up if nothing else is said.
pub(super) const TIMEOUT: Duration = Duration::from_secs(120);

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
    /// Whether the outer machine's screen shows the guest: in a window, if nothing else is said.
    pub window: bool,
    /// The VNC server that shows it instead of a window.
    pub vnc: Option<Vnc>,
    /// Where the picture goes.
    pub screenshot: Option<PathBuf>,
    /// Where the report goes.
    pub report: Option<PathBuf>,
    /// How many exits of each guest are recorded into it.
    pub record: u32,
    /// What is traced, and where to.
    pub trace: Option<Wanted>,
    /// Whether exits are counted by port and by MSR.
    pub count: bool,
    /// Whether the clock counts instructions.
    pub icount: bool,
    /// Whether nothing is kept of what is written to disks.
    pub snapshot: bool,
    /// How Umbra itself is to fail, if it is.
    pub selftest: Option<SelfTest<'static>>,
    /// The outer machine's memory in bytes, if it is not to be what the guests need.
    pub outer_memory: Option<u64>,
    /// What the guests' media are attached to in the outer machine.
    pub bus: Bus,
    /// Whether a guest that says that its system has crashed ends the run.
    pub ends_on_panic: bool,
    /// Whether a guest that has come to an event of its breaks ends the run.
    pub break_ends: bool,
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
                // A debugger takes its time.
                (args.headless && args.vm.gdb.is_none() || waits).then_some(TIMEOUT)
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
        if let (true, Some(reason)) = (args.snapshot, rig.lacks(Part::Snapshot)) {
            refuse!("--snapshot cannot go with --rig {}: {reason}", rig.name());
        }
        if let (Some(_), Some(reason)) = (args.vnc, rig.lacks(Part::Vnc)) {
            refuse!("--vnc cannot go with --rig {}: {reason}", rig.name());
        }
        let network = network(args, rig)?;
        for path in [&args.screenshot, &args.report, &args.trace]
            .into_iter()
            .flatten()
        {
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
        let keep = match args.snapshot {
            true => Keep::Nothing,
            false => Keep::Written,
        };
        let mut vm = Vm::check(&args.vm, rig, keep)?;
        let others = further.iter().map(|args| Vm::check(args, rig, keep));
        let mut others = others.collect::<Result<Vec<_>>>()?;
        let headless = args.headless;
        // A window's pointer is where the hand is.
        let default = |args: &VmArgs| args.tablet.is_none() && !headless;
        vm.tablet |= default(&args.vm);
        for (vm, args) in others.iter_mut().zip(&further) {
            vm.tablet |= default(args);
        }
        let guests_cpus: u32 = others.iter().map(|vm| vm.max_cpus).sum();
        let guests_cpus = guests_cpus + vm.max_cpus;
        let host_cpus = match &args.host_cpus {
            Some(text) => parse_cpus("--host-cpus", text, rig.most_cpus())?,
            // Instructions are counted in one order only.
            None if args.icount => 1,
            None => host_cpus(rig, guests_cpus),
        };
        for port in others.iter().chain([&vm]).filter_map(|vm| vm.gdb) {
            if let Err(error) = debugger::open(port) {
                refuse!("--gdb {port}: {error:#}");
            }
        }
        let all = [(&args.vm, &vm)].into_iter();
        let all: Vec<_> = all.chain(further.iter().zip(&others)).collect();
        images::check(args, &all)?;
        vm.add_disk(&args.vm, keep)?;
        for (vm, args) in others.iter_mut().zip(&further) {
            vm.add_disk(args, keep)?;
        }
        Ok(Options {
            rig,
            cpu_model,
            host_cpus,
            vm,
            others,
            network,
            ends_on_panic: args.on_panic == OnPanic::End,
            break_ends: args.on_break == OnPanic::End,
            interactive: script.is_empty(),
            script,
            timeout,
            window: !args.headless,
            vnc: args.vnc,
            screenshot: args.screenshot.clone(),
            report: args.report.clone(),
            record: args.record,
            trace: match &args.trace {
                Some(file) => Some(Wanted::check(file, args.trace_filter.as_deref())?),
                None => None,
            },
            count: args.report.is_some(),
            icount: args.icount,
            snapshot: args.snapshot,
            selftest: None,
            outer_memory: args
                .outer_memory
                .as_deref()
                .map(|text| parse_memory("--outer-memory", text))
                .transpose()?,
            bus: Bus::Virtio,
        })
    }

    /// Options for a headless run of `vm` on one CPU of the host, as the tests and the benchmarks use them.
    pub fn headless(vm: Vm) -> Options {
        Options {
            rig: QEMU_SVM,
            cpu_model: QEMU_SVM.usual_model().to_owned(),
            host_cpus: 1,
            vm,
            others: Vec::new(),
            network: Network::default(),
            script: Vec::new(),
            timeout: Some(TIMEOUT),
            window: false,
            vnc: None,
            screenshot: None,
            report: None,
            record: 0,
            trace: None,
            count: false,
            icount: false,
            snapshot: false,
            outer_memory: None,
            selftest: None,
            bus: Bus::Virtio,
            ends_on_panic: true,
            break_ends: false,
            interactive: false,
        }
    }

    /// All virtual machines.
    pub fn vms(&self) -> impl Iterator<Item = &Vm> {
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
            if let Err(error) = mouse::movements(words, &mut Hand::default()) {
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
        ..Network::default()
    })
}
