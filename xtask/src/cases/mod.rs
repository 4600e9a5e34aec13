//! The whole-guest tests: which guest, with which options, and what must be seen.
//!
//! [`list`] has those that boot one guest and follow a script; what takes more has a module of its own.

mod balloon;
mod breakpoints;
mod checks;
mod clock;
mod console;
mod cpus;
mod debugger;
mod defence;
mod docs;
mod events;
mod fresh;
mod interfaces;
mod list;
mod machines;
mod network;
mod pointer;
mod refusal;
mod rigs;
mod screens;
mod storage;
mod suspend;
mod traces;
mod uefi;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use protocol::options::{Profile, Transport};
use serde_json::Value;

use self::checks::Check;
use self::refusal::Bad;
use crate::attack::Program;
use crate::control::Picture;
use crate::firmware;
use crate::guests::Guest;
use crate::image::{self, Contents, Entry};
use crate::media::{self, Medium};
use crate::paths;
use crate::rig::{Boot, Bus, MIB, Machine, Network, Paging, QEMU_SVM, Rig, Shadow, outer_memory};
use crate::run::{self, Options};
use crate::screen::write_png;
use crate::script::Step::{self, Type, Until};
use crate::session::Plan;
use crate::vm::Vm;

/// The outer machine's firmware.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outer {
    Bios,
    Uefi,
}

/// A whole-guest test.
#[derive(Clone)]
pub struct Case {
    /// Its name.
    pub name: &'static str,
    what: What,
    /// Virtual CPUs, and how many there can be later.
    cpus: u32,
    max_cpus: u32,
    /// CPUs of the outer machine.
    host_cpus: u32,
    memory: u64,
    script: Vec<Step>,
    timeout: u64,
    /// The outer machine, and its CPU if not the usual one.
    rig: &'static dyn Rig,
    cpu_model: Option<&'static str>,
    /// What its media are attached to in the outer machine.
    bus: Bus,
    /// How the guest's memory is virtualized.
    paging: Paging,
    shadow: Option<Shadow>,
    /// What kind of PC the guest has.
    profile: Profile,
    /// What must hold besides the script.
    checks: Vec<Check>,
    /// It runs only when it is named: it takes too long for every day.
    pub by_hand: bool,
}

/// How a test goes: the test, the Umbra image, and a directory for its files.
type Procedure = fn(&Case, &Path, &Path) -> Result<()>;

/// What a run leaves.
struct Seen {
    /// The path of Umbra's log.
    log: PathBuf,
    /// The pictures that the script asked for.
    pictures: Vec<Picture>,
    /// Umbra's report.
    report: Value,
}

/// What a test boots.
#[derive(Clone, Copy)]
enum What {
    /// A CD.
    Cd(Guest),
    /// A Linux kernel and its RAM disk, with this on the command line.
    Kernel(Guest, &'static str),
    /// A copy of the Linux disk, twice.
    DiskTwice,
    /// What takes more than one guest and one script: the guests that it needs, and how it goes.
    Own(&'static [Guest], Procedure),
    /// The disk of a small program.
    Program(Program),
    /// The bootable image with a CD as its guest, under a firmware of the outer machine.
    Image(Guest, Outer),
    /// A guest that cannot boot, and what the refusal says.
    Refusal(Bad, &'static str),
}

/// All whole-guest tests.
pub fn all() -> Vec<Case> {
    let mut all = list::cases();
    all.extend(refusal::cases());
    all.extend(balloon::cases());
    all.extend(network::cases());
    all.extend(storage::cases());
    all.extend(console::cases());
    all.extend(defence::cases());
    all.extend(docs::cases());
    all.extend(breakpoints::cases());
    all.extend(debugger::cases());
    all.extend(traces::cases());
    all.extend(cpus::cases());
    all.extend(machines::cases());
    all.extend(screens::cases());
    all.extend(pointer::cases());
    all.extend(rigs::cases());
    all.extend(fresh::cases());
    all.extend(events::cases());
    all.extend(interfaces::cases());
    all.extend(uefi::cases());
    all.extend(suspend::cases());
    all.extend(clock::cases());
    all
}

/// A test on the usual machine. Memory is in MiB, and the time in seconds.
fn case(
    name: &'static str,
    what: What,
    memory: u64,
    timeout: u64,
    script: &[Step],
    checks: &[Check],
) -> Case {
    Case {
        name,
        what,
        cpus: 1,
        max_cpus: 1,
        host_cpus: 1,
        memory: memory * MIB,
        script: script.to_vec(),
        timeout,
        rig: QEMU_SVM,
        cpu_model: None,
        bus: Bus::Virtio,
        paging: Paging::Nested,
        shadow: None,
        profile: Profile::default(),
        checks: checks.to_vec(),
        by_hand: false,
    }
}

/// A test that goes its own way on the usual machine, likewise.
fn own(
    name: &'static str,
    guests: &'static [Guest],
    procedure: Procedure,
    memory: u64,
    timeout: u64,
) -> Case {
    case(
        name,
        What::Own(guests, procedure),
        memory,
        timeout,
        &[],
        &[],
    )
}

/// The same, to be run only when it is named.
fn by_hand(case: Case) -> Case {
    Case {
        by_hand: true,
        ..case
    }
}

/// The same with its media on the outer machine's IDE.
fn on_ide(case: Case) -> Case {
    Case {
        bus: Bus::Ide,
        ..case
    }
}

/// The same on another machine.
fn on(rig: &'static dyn Rig, cpu_model: Option<&'static str>, case: Case) -> Case {
    Case {
        rig,
        cpu_model,
        ..case
    }
}

/// The same with several virtual CPUs.
fn with_cpus(cpus: u32, case: Case) -> Case {
    Case { cpus, ..case }
}

/// The same on an outer machine with so many CPUs, all of which are used.
fn on_host_cpus(host_cpus: u32, case: Case) -> Case {
    Case { host_cpus, ..case }
}

/// The same under shadow paging.
fn shadowed(shadow: Shadow, case: Case) -> Case {
    Case {
        paging: Paging::Shadow,
        shadow: Some(shadow),
        ..case
    }
}

fn until(text: &str) -> Step {
    Until(text.to_owned())
}

fn keys(text: &str) -> Step {
    Type(text.to_owned())
}

impl Case {
    /// Fetches and builds what the test boots.
    ///
    /// # Errors
    ///
    /// It cannot be had.
    pub fn prepare(&self) -> Result<()> {
        self.rig.prepare()?;
        match self.what {
            What::Cd(guest) | What::Image(guest, _) => drop(guest.provide()?),
            What::Own(guests, _) => {
                for guest in guests {
                    guest.provide()?;
                }
            }
            What::Kernel(kernel, _) => {
                kernel.provide()?;
                kernel.initrd().map(Guest::provide).transpose()?;
            }
            What::DiskTwice => drop(Guest::LinuxDisk.provide()?),
            What::Program(_) => {}
            What::Refusal(..) => {
                Guest::GrubRescue.provide()?;
                Guest::CloudKernel.provide()?;
            }
        }
        Ok(())
    }

    /// Runs the test in the Umbra image `umbra`.
    ///
    /// # Errors
    ///
    /// What was expected did not happen.
    pub fn run(&self, umbra: &Path) -> Result<()> {
        let scratch = tempfile::tempdir()?;
        match self.what {
            What::Cd(guest) => {
                let options = Options::headless(Vm::of(&guest.provide()?)?);
                self.run_once(&options, umbra, scratch.path())
            }
            What::Kernel(kernel, cmdline) => {
                let disk = scratch.path().join("data.img");
                fs::write(&disk, vec![0; 1 << 20])?;
                let options = Options::headless(Vm {
                    initrd: kernel
                        .initrd()
                        .map(|initrd| media::open_initrd(&initrd.provide()?))
                        .transpose()?,
                    disks: vec![media::open_disk(&disk)?],
                    cmdline: format!("console=tty0 console=ttyS0 quiet {cmdline}"),
                    ..Vm::of(&kernel.provide()?)?
                });
                self.run_once(&options, umbra, scratch.path())
            }
            What::DiskTwice => {
                let disk = scratch.path().join("disk.img");
                fs::copy(Guest::LinuxDisk.provide()?, &disk).context("cannot copy the disk")?;
                for boots in 1..=2 {
                    let script = vec![until(&format!("GUEST-BOOTS {boots}")), until("GUEST-DONE")];
                    let options = Options {
                        script,
                        ..Options::headless(Vm::of(&disk)?)
                    };
                    self.run_once(&options, umbra, scratch.path())
                        .with_context(|| format!("boot {boots}"))?;
                }
                Ok(())
            }
            What::Own(_, procedure) => procedure(self, umbra, scratch.path()),
            What::Program(program) => {
                let disk = scratch.path().join("program.img");
                program.make(&disk)?;
                self.run_once(&Options::headless(Vm::of(&disk)?), umbra, scratch.path())
            }
            What::Image(guest, outer) => {
                let firmware = scratch.path().join("ovmf.fd");
                let firmware = match outer {
                    Outer::Bios => None,
                    Outer::Uefi => {
                        firmware::join_ovmf(&firmware)?;
                        Some(firmware)
                    }
                };
                self.run_image(&guest.provide()?, firmware, umbra, scratch.path())
                    .map(drop)
            }
            What::Refusal(bad, sentence) => refusal::run(bad, sentence, umbra, scratch.path()),
        }
    }

    fn run_once(&self, options: &Options, umbra: &Path, scratch: &Path) -> Result<()> {
        self.look(options, umbra, scratch).map(drop)
    }

    /// Runs the guest and gives what it left.
    fn look(&self, options: &Options, umbra: &Path, scratch: &Path) -> Result<Seen> {
        let script = if options.script.is_empty() {
            self.script.clone()
        } else {
            options.script.clone()
        };
        let report = scratch.join("report.json");
        let options = Options {
            rig: self.rig,
            cpu_model: self.rig.choose_model(self.cpu_model)?,
            vm: Vm {
                memory: self.memory,
                cpus: self.cpus,
                max_cpus: self.max_cpus.max(self.cpus),
                paging: self.paging,
                shadow: self.shadow,
                profile: self.profile,
                ..options.vm.clone()
            },
            script,
            timeout: Some(Duration::from_secs(self.timeout)),
            screenshot: Some(paths::logs().join(format!("{}.png", self.name))),
            report: Some(report.clone()),
            bus: self.bus,
            host_cpus: self.host_cpus.max(options.host_cpus),
            ..options.clone()
        };
        let mut console = Vec::new();
        let mut run = run::execute(&options, umbra, self.name, &mut |bytes| {
            console.extend_from_slice(bytes)
        })?;
        let pictures = std::mem::take(&mut run.summary.pictures);
        let report = fs::read_to_string(report)
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or(Value::Null);
        let log = run.log.clone();
        self.judge(run, &String::from_utf8_lossy(&console), &report)?;
        if let used @ 2.. = options.host_cpus {
            let used = used + self.rig.serving_cpus();
            let says = format!("host CPUs: {used} found, {used} used");
            let text = fs::read_to_string(&log)?;
            ensure!(text.contains(&says), "Umbra's log does not say: {says}");
        }
        Ok(Seen {
            log,
            pictures,
            report,
        })
    }

    /// Boots the bootable image, which carries the guest as a module, and gives the pictures that the script asks for.
    fn run_image(
        &self,
        guest: &Path,
        firmware: Option<PathBuf>,
        umbra: &Path,
        scratch: &Path,
    ) -> Result<Vec<Picture>> {
        let path = scratch.join("umbra.iso");
        let medium = Medium::open(guest)?;
        let length = medium.length;
        let entry = Entry::cdroms(&[medium], self.memory, Some(Transport::Com2));
        image::make(
            &path,
            umbra,
            &Contents {
                entries: vec![entry],
                timeout: 0,
            },
        )?;
        let machine = Machine {
            rig: QEMU_SVM,
            cpu_model: QEMU_SVM.usual_model().to_owned(),
            cpus: 1,
            memory: outer_memory(self.memory, length).max(512 * MIB),
            boot: Boot::Cd { path, firmware },
            drives: Vec::new(),
            network: Network::default(),
            remains: None,
            snapshot: false,
            icount: false,
            display: None,
            tablet: false,
        };
        let plan = Plan {
            vms: 1,
            script: self.script.clone(),
            timeout: Some(Duration::from_secs(self.timeout)),
            screenshot: true,
            report: true,
            window: false,
            ends_on_panic: true,
            ends_on_break: false,
            interactive: false,
            debuggers: Vec::new(),
            trace: None,
        };
        let mut console = Vec::new();
        let mut run = run::converse(&machine, &plan, self.name, &mut |bytes| {
            console.extend_from_slice(bytes)
        })?;
        let pictures = std::mem::take(&mut run.summary.pictures);
        if let Some(outer) = &run.summary.outer {
            write_png(&paths::logs().join(format!("{}.png", self.name)), outer)?;
        }
        let report = run
            .summary
            .report
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or(Value::Null);
        self.judge(run, &String::from_utf8_lossy(&console), &report)?;
        Ok(pictures)
    }
}
