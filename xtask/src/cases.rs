//! The whole-guest tests: which guest, with which options, and what must be seen.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::control::Picture;
use crate::guests::Guest;
use crate::image::{self, Contents, Entry};
use crate::media::{self, Medium};
use crate::rig::{Boot, Bus, MIB, Machine, Net, Network, Paging, Rig, Shadow, outer_memory};
use crate::run::{self, Options, Run};
use crate::screen::write_png;
use crate::script::Step::{self, Type, Until};
use crate::serve::Server;
use crate::session::{Ending, Plan};
use crate::work::{self, Done, Width};
use crate::{attack, kernel, models, outcome, paths};

/// UEFI firmware for the outer machine.
const OVMF: &str = "/usr/share/ovmf/OVMF.fd";

/// A whole-guest test.
pub struct Case {
    /// Its name.
    pub name: &'static str,
    what: What,
    memory: u64,
    script: Vec<Step>,
    timeout: u64,
    /// The outer machine, and its CPU if not the usual one.
    rig: Rig,
    cpu_model: Option<&'static str>,
    /// What its media are attached to in the outer machine.
    bus: Bus,
    /// How the guest's memory is virtualized.
    paging: Paging,
    shadow: Option<Shadow>,
    /// What must hold besides the script.
    checks: Vec<Check>,
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
    /// iPXE's CD, on a network where a script is to be had by HTTP.
    Fetch,
    /// The disk of the guest that attacks.
    Attack,
    /// The bootable image with a CD as its guest, under a firmware of the outer machine.
    Image(Guest, Option<&'static str>),
    /// A guest that cannot boot, and what the refusal says.
    Refusal(Bad, &'static str),
}

/// Ways in which a guest or an option can be bad.
#[derive(Clone, Copy)]
enum Bad {
    Missing,
    Truncated,
    NotBootable,
    NotAnIso,
    TooLittleMemory,
    /// A kernel that unpacks to more than the guest's memory.
    BigKernel,
    /// A kernel whose end is missing, which Umbra itself has to see.
    CutKernel,
    NotBuilt,
    /// An outer CPU with neither VT-x nor AMD-V, which Umbra itself has to see.
    NoVirtualization,
    /// An outer CPU with VT-x and without EPT.
    NoEpt,
}

/// What must hold at the end of a run.
#[derive(Clone, Copy)]
enum Check {
    /// The guest powered off.
    PoweredOff,
    /// The guest's machine was reset at least this often.
    Resets(usize),
    /// The picture shows at least this many colours.
    Colours(usize),
    /// The outer machine's screen shows the guest's.
    Shown,
    /// COM1 said each of these.
    Console(&'static [&'static str]),
    /// Umbra's own memory is within its bound: 24 MiB plus 0.5 % of the guest's.
    OwnMemory,
    /// The pool of shadow pages was full, and room was made in it.
    PoolFull,
    /// The guest's work had the checksums that it has without Umbra.
    Work,
    /// The guest went from nested to shadow paging or back at least this often.
    PagingSwitches(u64),
}

/// What a Linux kernel must find in the virtual machine.
const HARDWARE: &[&str] = &[
    "GUEST-CPU 1",
    "GUEST-DISK sda 2048",
    "GUEST-PCI 0000:00:00.0 8086:1237",
    "GUEST-PCI 0000:00:01.0 8086:7000",
    "GUEST-PCI 0000:00:01.1 8086:7010",
    "GUEST-PCI 0000:00:01.3 8086:7113",
    "GUEST-PCI 0000:00:02.0 1234:1111",
    "GUEST-PCI 0000:00:03.0 10ec:8029",
    "GUEST-ACPI APIC",
    "GUEST-ACPI DSDT",
    "GUEST-ACPI FACP",
    "GUEST-ACPI FACS",
    "GUEST-ACPI WAET",
    "GUEST-IRQ 0:",
    "GUEST-IRQ 1:",
    "GUEST-IRQ 4:",
    "GUEST-INPUT \"AT Translated Set 2 keyboard\"",
    "GUEST-SERIAL 0: uart:16550A port:000003F8 irq:4",
];

/// A script for iPXE, which says the address that the network has given it.
const FETCHED: &str = "#!ipxe\necho fetched by ${net0/ip}\n";

fn until(text: &str) -> Step {
    Until(text.to_owned())
}

fn keys(text: &str) -> Step {
    Type(text.to_owned())
}

/// All whole-guest tests; long ones first, so that two lanes end together.
pub fn all() -> Vec<Case> {
    use Check::{
        Colours, Console, OwnMemory, PagingSwitches, PoolFull, PoweredOff, Resets, Shown, Work,
    };
    let up = until("GUEST-UP");
    let case = |name, what, memory, timeout, script: &[Step], checks: &[Check]| Case {
        name,
        what,
        memory: memory * MIB,
        script: script.to_vec(),
        timeout,
        rig: Rig::QemuSvm,
        cpu_model: None,
        bus: Bus::Virtio,
        paging: Paging::Nested,
        shadow: None,
        checks: checks.to_vec(),
    };
    let on_ide = |case| Case {
        bus: Bus::Ide,
        ..case
    };
    let on = |rig, cpu_model, case| Case {
        rig,
        cpu_model,
        ..case
    };
    let shadowed = |shadow, case| Case {
        paging: Paging::Shadow,
        shadow: Some(shadow),
        ..case
    };
    let memtest = [until("Memtest86+"), until("Test #5"), until("Errors: 0")];
    let language = [until("Select a language")];
    let grub_answers = [
        until("GNU GRUB"),
        keys("c"),
        until("grub>"),
        keys("echo a$grub_platform-$grub_cpu\\n"),
        until("apc-i386"),
    ];
    vec![
        on(
            Rig::BochsVmx,
            None,
            case(
                "bochs-vmx-kernel",
                What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
                256,
                900,
                &[],
                &[PoweredOff, Console(HARDWARE), OwnMemory],
            ),
        ),
        on(
            Rig::BochsSvm,
            None,
            case(
                "bochs-svm-kernel",
                What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
                256,
                900,
                &[],
                &[PoweredOff, Console(HARDWARE), OwnMemory],
            ),
        ),
        on(
            Rig::BochsVmx,
            Some("corei5_lynnfield_750"),
            case(
                "bochs-vmx-real-mode-in-software",
                What::DiskTwice,
                512,
                900,
                &[],
                &[PoweredOff],
            ),
        ),
        case(
            "debian-amd64-installer",
            What::Cd(Guest::DebianAmd64),
            1024,
            400,
            &language,
            &[Colours(4), OwnMemory],
        ),
        case(
            "debian-i386-installer",
            What::Cd(Guest::DebianI386),
            512,
            400,
            &language,
            &[Colours(4), OwnMemory],
        ),
        shadowed(
            Shadow::Unsync,
            on(
                Rig::BochsVmx,
                None,
                case(
                    "bochs-vmx-shadow-kernel",
                    What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
                    256,
                    900,
                    &[],
                    &[PoweredOff, Console(HARDWARE)],
                ),
            ),
        ),
        // A CPU with neither EPT nor the controls that load EFER and PAT.
        shadowed(
            Shadow::Unsync,
            on(
                Rig::BochsVmx,
                Some("core2_penryn_t9600"),
                case(
                    "bochs-vmx-shadow-without-ept",
                    What::Cd(Guest::GrubRescue),
                    128,
                    400,
                    &grub_answers,
                    &[],
                ),
            ),
        ),
        shadowed(
            Shadow::Unsync,
            case(
                "shadow-debian-amd64-installer",
                What::Cd(Guest::DebianAmd64),
                1024,
                400,
                &language,
                &[Colours(4)],
            ),
        ),
        shadowed(
            Shadow::Cached,
            case(
                "shadow-cached-kernel-i386",
                What::Kernel(Guest::I386Kernel, "umbra.then=poweroff"),
                512,
                240,
                &[],
                &[PoweredOff],
            ),
        ),
        shadowed(
            Shadow::Unsync,
            case(
                "shadow-memtest-ia32",
                What::Cd(Guest::MemtestIa32),
                32,
                240,
                &memtest,
                &[Colours(3)],
            ),
        ),
        // Without nested paging there is nothing but shadow paging, in real mode too.
        shadowed(
            Shadow::Unsync,
            on(
                Rig::QemuSvm,
                Some("Opteron_G3"),
                case(
                    "shadow-grub-without-nested-paging",
                    What::Cd(Guest::GrubRescue),
                    128,
                    120,
                    &grub_answers,
                    &[],
                ),
            ),
        ),
        shadowed(
            Shadow::Vtlb,
            case(
                "shadow-vtlb-kernel",
                What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
                512,
                240,
                &[],
                &[PoweredOff, Console(HARDWARE)],
            ),
        ),
        Case {
            paging: Paging::Alternate(20),
            ..case(
                "paging-alternates",
                What::Kernel(Guest::PaeKernel, "umbra.then=poweroff"),
                512,
                240,
                &[],
                &[PoweredOff, PagingSwitches(20)],
            )
        },
        Case {
            paging: Paging::Alternate(100),
            ..case(
                "paging-alternates-debian-amd64-installer",
                What::Cd(Guest::DebianAmd64),
                1024,
                600,
                &language,
                &[Colours(4), PagingSwitches(50)],
            )
        },
        Case {
            paging: Paging::Alternate(20),
            ..case(
                "paging-alternates-under-load",
                What::Kernel(Guest::CloudKernel, "umbra.then=load"),
                512,
                400,
                &[until("GUEST-LOAD")],
                &[Work, PagingSwitches(50)],
            )
        },
        shadowed(
            Shadow::Unsync,
            case(
                "shadow-pool-is-bounded",
                What::Kernel(Guest::CloudKernel, "umbra.then=tables"),
                256,
                400,
                &[until("GUEST-TABLES")],
                &[PoolFull],
            ),
        ),
        case(
            "image-bios",
            What::Image(Guest::GrubRescue, None),
            256,
            240,
            &grub_answers,
            &[Shown],
        ),
        case(
            "image-uefi",
            What::Image(Guest::GrubRescue, Some(OVMF)),
            256,
            240,
            &grub_answers,
            &[Shown],
        ),
        case(
            "memtest-x64",
            What::Cd(Guest::MemtestX64),
            32,
            240,
            &memtest,
            &[Colours(3)],
        ),
        case(
            "memtest-ia32",
            What::Cd(Guest::MemtestIa32),
            32,
            240,
            &memtest,
            &[Colours(3)],
        ),
        case(
            "disk-keeps-what-was-written",
            What::DiskTwice,
            512,
            240,
            &[],
            &[PoweredOff],
        ),
        on(
            Rig::BochsSvm,
            None,
            case(
                "bochs-svm-cdrom",
                What::Cd(Guest::GrubRescue),
                128,
                240,
                &grub_answers,
                &[],
            ),
        ),
        case(
            "grub-rescue-shell",
            What::Cd(Guest::GrubRescue),
            128,
            120,
            &grub_answers,
            &[],
        ),
        on_ide(case(
            "ide-disk-keeps-what-was-written",
            What::DiskTwice,
            512,
            240,
            &[],
            &[PoweredOff],
        )),
        on_ide(case(
            "ide-cdrom",
            What::Cd(Guest::GrubRescue),
            128,
            120,
            &grub_answers,
            &[OwnMemory],
        )),
        case(
            "ipxe-finds-its-card",
            What::Cd(Guest::Ipxe),
            128,
            120,
            &[until("iPXE"), until("using rtl8029")],
            &[],
        ),
        case("ipxe-fetches-by-http", What::Fetch, 128, 240, &[], &[]),
        case(
            "kernel-power-off",
            What::Kernel(Guest::CloudKernel, "umbra.then=poweroff"),
            512,
            120,
            &[],
            &[PoweredOff, Console(HARDWARE), OwnMemory],
        ),
        case(
            "kernel-i386",
            What::Kernel(Guest::I386Kernel, "umbra.then=poweroff"),
            256,
            240,
            &[],
            &[PoweredOff, Console(HARDWARE), OwnMemory],
        ),
        case(
            "kernel-i386-pae",
            What::Kernel(Guest::PaeKernel, "umbra.then=poweroff"),
            256,
            240,
            &[],
            &[PoweredOff, Console(HARDWARE), OwnMemory],
        ),
        case(
            "attack-is-survived",
            What::Attack,
            64,
            120,
            &[
                until("ATTACK BEGINS"),
                until("ATTACK SURVIVED"),
                until("ATTACK BEGINS"),
            ],
            &[Resets(1), OwnMemory],
        ),
        case(
            "reboot",
            What::Kernel(Guest::CloudKernel, "umbra.then=reboot"),
            256,
            120,
            &[up.clone(), up.clone()],
            &[Resets(1)],
        ),
        case(
            "reboot-cf9",
            What::Kernel(Guest::CloudKernel, "umbra.then=cf9"),
            256,
            120,
            &[up.clone(), up.clone()],
            &[Resets(1)],
        ),
        case(
            "reboot-i8042",
            What::Kernel(Guest::CloudKernel, "umbra.then=i8042"),
            256,
            120,
            &[up.clone(), up.clone()],
            &[Resets(1)],
        ),
        case(
            "reboot-triple-fault",
            What::Kernel(Guest::CloudKernel, "umbra.then=triple"),
            256,
            120,
            &[up.clone(), up],
            &[Resets(1)],
        ),
        case(
            "refuses-missing",
            What::Refusal(Bad::Missing, "cannot be opened"),
            64,
            1,
            &[],
            &[],
        ),
        case(
            "refuses-truncated",
            What::Refusal(Bad::Truncated, "truncated"),
            64,
            1,
            &[],
            &[],
        ),
        case(
            "refuses-not-bootable",
            What::Refusal(Bad::NotBootable, "no El Torito boot record"),
            64,
            1,
            &[],
            &[],
        ),
        case(
            "refuses-not-an-iso",
            What::Refusal(Bad::NotAnIso, "not an ISO 9660 image"),
            64,
            1,
            &[],
            &[],
        ),
        case(
            "refuses-too-little-memory",
            What::Refusal(Bad::TooLittleMemory, "too little"),
            64,
            1,
            &[],
            &[],
        ),
        case(
            "refuses-a-big-kernel",
            What::Refusal(Bad::BigKernel, "too little for this kernel"),
            64,
            1,
            &[],
            &[],
        ),
        case(
            "refuses-a-cut-kernel",
            What::Refusal(Bad::CutKernel, "cut off"),
            64,
            1,
            &[],
            &[],
        ),
        case(
            "refuses-a-cpu-without-virtualization",
            What::Refusal(
                Bad::NoVirtualization,
                "has neither Intel VT-x (VMX) nor AMD-V (SVM)",
            ),
            64,
            1,
            &[],
            &[],
        ),
        case(
            "refuses-vt-x-without-ept",
            What::Refusal(
                Bad::NoEpt,
                "lacks what Umbra needs: extended page tables (EPT)",
            ),
            64,
            1,
            &[],
            &[],
        ),
        case(
            "refuses-what-is-not-built",
            What::Refusal(Bad::NotBuilt, "not built yet"),
            64,
            1,
            &[],
            &[],
        ),
    ]
}

impl Case {
    /// Fetches and builds what the test boots.
    ///
    /// # Errors
    ///
    /// It cannot be had.
    pub fn prepare(&self) -> Result<()> {
        match self.what {
            What::Cd(guest) | What::Image(guest, _) => drop(guest.provide()?),
            What::Fetch => drop(Guest::Ipxe.provide()?),
            What::Kernel(kernel, _) => {
                kernel.provide()?;
                kernel.initrd().map(Guest::provide).transpose()?;
            }
            What::DiskTwice => drop(Guest::LinuxDisk.provide()?),
            What::Attack => {}
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
            What::Cd(guest) => self.run_once(
                &Options::headless(&guest.provide()?)?,
                umbra,
                scratch.path(),
            ),
            What::Kernel(kernel, cmdline) => {
                let disk = scratch.path().join("data.img");
                fs::write(&disk, vec![0; 1 << 20])?;
                let options = Options {
                    initrd: kernel
                        .initrd()
                        .map(|initrd| media::open_initrd(&initrd.provide()?))
                        .transpose()?,
                    disk: Some(media::open_disk(&disk)?),
                    cmdline: format!("console=tty0 console=ttyS0 quiet {cmdline}"),
                    ..Options::headless(&kernel.provide()?)?
                };
                self.run_once(&options, umbra, scratch.path())
            }
            What::DiskTwice => {
                let disk = scratch.path().join("disk.img");
                fs::copy(Guest::LinuxDisk.provide()?, &disk).context("cannot copy the disk")?;
                for boots in 1..=2 {
                    let script = vec![until(&format!("GUEST-BOOTS {boots}")), until("GUEST-DONE")];
                    let options = Options {
                        script,
                        ..Options::headless(&disk)?
                    };
                    self.run_once(&options, umbra, scratch.path())
                        .with_context(|| format!("boot {boots}"))?;
                }
                Ok(())
            }
            What::Fetch => {
                let served = scratch.path().join("served");
                fs::create_dir(&served)?;
                fs::write(served.join("script"), FETCHED)?;
                let server = Server::start(&served)?;
                let chain = format!("dhcp && chain http://10.0.2.2:{}/script\\n", server.port());
                let options = Options {
                    network: Network {
                        net: Net::User,
                        ..Network::default()
                    },
                    script: vec![
                        until("Ctrl-B"),
                        keys("\\{ctrl-b}"),
                        until("iPXE>"),
                        keys(&chain),
                        until("fetched by 10.0.2.15"),
                    ],
                    ..Options::headless(&Guest::Ipxe.provide()?)?
                };
                self.run_once(&options, umbra, scratch.path())
            }
            What::Attack => {
                let disk = scratch.path().join("attack.img");
                attack::make(&disk)?;
                self.run_once(&Options::headless(&disk)?, umbra, scratch.path())
            }
            What::Image(guest, firmware) => self.run_image(
                &guest.provide()?,
                firmware.map(PathBuf::from),
                umbra,
                scratch.path(),
            ),
            What::Refusal(bad, sentence) => refusal(bad, sentence, umbra, scratch.path()),
        }
    }

    fn run_once(&self, options: &Options, umbra: &Path, scratch: &Path) -> Result<()> {
        let script = if options.script.is_empty() {
            self.script.clone()
        } else {
            options.script.clone()
        };
        let report = scratch.join("report.json");
        let options = Options {
            rig: self.rig,
            cpu_model: models::choose(self.rig, self.cpu_model)?,
            memory: self.memory,
            script,
            timeout: Some(Duration::from_secs(self.timeout)),
            screenshot: Some(paths::logs().join(format!("{}.png", self.name))),
            report: Some(report.clone()),
            bus: self.bus,
            paging: self.paging,
            shadow: self.shadow,
            ..options.clone()
        };
        let mut console = Vec::new();
        let run = run::execute(&options, umbra, self.name, &mut |bytes| {
            console.extend_from_slice(bytes)
        })?;
        let report = fs::read_to_string(report)
            .ok()
            .and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or(Value::Null);
        self.judge(run, &String::from_utf8_lossy(&console), &report)
    }

    /// Boots the bootable image, which carries the guest as a module.
    fn run_image(
        &self,
        guest: &Path,
        firmware: Option<PathBuf>,
        umbra: &Path,
        scratch: &Path,
    ) -> Result<()> {
        let path = scratch.join("umbra.iso");
        let medium = Medium::open(guest)?;
        let length = medium.length;
        let entry = Entry::cdrom(&medium, self.memory, "control=com2 report=1");
        image::make(
            &path,
            umbra,
            &Contents {
                entries: vec![entry],
                timeout: 0,
            },
        )?;
        let machine = Machine {
            rig: Rig::QemuSvm,
            cpu_model: models::usual(Rig::QemuSvm).to_owned(),
            memory: outer_memory(self.memory, length).max(512 * MIB),
            boot: Boot::Cd { path, firmware },
            drives: Vec::new(),
            network: Network::default(),
            icount: false,
            display: None,
        };
        let plan = Plan {
            script: self.script.clone(),
            timeout: Some(Duration::from_secs(self.timeout)),
            screenshot: true,
            report: true,
            window: false,
            interactive: false,
        };
        let mut console = Vec::new();
        let run = run::converse(&machine, &plan, self.name, &mut |bytes| {
            console.extend_from_slice(bytes)
        })?;
        if let Some(outer) = &run.summary.outer {
            write_png(&paths::logs().join(format!("{}.png", self.name)), outer)?;
        }
        let report = run
            .summary
            .report
            .as_deref()
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or(Value::Null);
        self.judge(run, &String::from_utf8_lossy(&console), &report)
    }

    /// Compares a run with what was expected.
    fn judge(&self, run: Run, console: &str, report: &Value) -> Result<()> {
        let summary = run.summary;
        let ending = match summary.result {
            Ok(ending) => ending,
            Err(error) if outcome::interrupted() => return Err(error),
            Err(error) => {
                let account = run::account(&summary.console, &summary.screen, &run.log);
                return Err(anyhow!("{error:#}; log: {}\n{account}", run.log.display()));
            }
        };
        for check in &self.checks {
            match check {
                Check::PoweredOff => ensure!(
                    ending == Ending::PoweredOff || self.powers_off_later(),
                    "the guest did not power off"
                ),
                Check::Resets(least) => ensure!(
                    summary.resets >= *least,
                    "the machine was reset {} times",
                    summary.resets
                ),
                Check::Colours(least) => {
                    let seen = summary.picture.as_ref().map_or(0, colours);
                    ensure!(seen >= *least, "the picture has {seen} colours");
                }
                Check::Shown => {
                    let outer = summary.outer.as_ref().context("no outer picture")?;
                    let guest = summary.picture.as_ref().context("no picture")?;
                    let off = differing(outer, guest)?;
                    ensure!(
                        off <= 200,
                        "{off} pixels of the outer machine's screen are not the guest's"
                    );
                }
                Check::Console(lines) => {
                    for line in *lines {
                        ensure!(console.contains(line), "the guest did not say: {line}");
                    }
                }
                Check::OwnMemory => own_memory(report, self.memory)?,
                Check::PoolFull => pool_full(report)?,
                Check::Work => same_work(console)?,
                Check::PagingSwitches(least) => {
                    let switches = report.get("paging_switches").and_then(Value::as_u64);
                    ensure!(
                        switches.is_some_and(|n| n >= *least),
                        "paging was switched {switches:?} times"
                    );
                }
            }
        }
        Ok(())
    }

    /// Whether a text ends the run before the power-off that follows it.
    fn powers_off_later(&self) -> bool {
        matches!(self.what, What::DiskTwice)
    }
}

/// The number of different colours in a picture.
fn colours(picture: &Picture) -> usize {
    picture
        .rgb
        .chunks_exact(3)
        .collect::<std::collections::BTreeSet<_>>()
        .len()
}

/// How many pixels of `guest` are not in the middle of `outer`. A blinking cursor makes for some.
fn differing(outer: &Picture, guest: &Picture) -> Result<usize> {
    ensure!(
        outer.width >= guest.width && outer.height >= guest.height,
        "the outer screen is smaller than the guest's"
    );
    let (left, top) = (
        (outer.width - guest.width) / 2,
        (outer.height - guest.height) / 2,
    );
    let row = |picture: &Picture, x: u32, y: u32| {
        let start = 3 * (y as usize * picture.width as usize + x as usize);
        let row = picture.rgb.get(start..start + 3 * guest.width as usize);
        row.unwrap_or_default().to_vec()
    };
    Ok((0..guest.height)
        .map(|y| {
            let (inner, shown) = (row(guest, 0, y), row(outer, left, top + y));
            inner
                .chunks_exact(3)
                .zip(shown.chunks_exact(3))
                .filter(|(one, other)| one != other)
                .count()
        })
        .sum())
}

/// Checks the report's `memory.umbra_bytes` against the bound on Umbra's own memory.
fn own_memory(report: &Value, guest: u64) -> Result<()> {
    let own = report
        .pointer("/memory/umbra_bytes")
        .and_then(Value::as_u64)
        .context("the report lacks memory.umbra_bytes")?;
    let bound = 24 * MIB + guest / 200;
    ensure!(
        own <= bound,
        "Umbra itself uses {own} bytes, more than {bound}"
    );
    Ok(())
}

/// Checks that the report tells of a pool of shadow pages that was full, and no larger than it may be.
fn pool_full(report: &Value) -> Result<()> {
    let number = |path: &str| {
        let value = report.pointer(path).and_then(Value::as_u64);
        value.with_context(|| format!("the report lacks {path}"))
    };
    let (most, capacity) = (
        number("/shadow/pages/most")?,
        number("/shadow/pages/capacity")?,
    );
    ensure!(
        most <= capacity,
        "{most} shadow pages, and {capacity} is the bound"
    );
    ensure!(
        number("/shadow/reclaimed")? > 0,
        "the pool was never full: {most} of {capacity}"
    );
    Ok(())
}

/// Checks the checksums that the guest said against those of the same work on this machine.
fn same_work(console: &str) -> Result<()> {
    let scratch = tempfile::tempdir()?;
    for (job, _) in work::JOBS {
        let done = Done::of(job, console);
        let done = done.with_context(|| format!("the guest did not do its work: {job}"))?;
        let said = work::said_here(Width::Bits64, scratch.path(), job)?;
        let here = said.and_then(|said| Done::of(job, &said));
        let here = here.with_context(|| format!("the work cannot be done here: {job}"))?;
        ensure!(
            done.checksum == here.checksum,
            "{job}: the guest's memory had the checksum {:08x}, and not {:08x}",
            done.checksum,
            here.checksum
        );
    }
    ensure!(
        !console.contains("GUEST-DIFFERS"),
        "a file was not what was written"
    );
    Ok(())
}

/// Runs the tool itself on something bad: one sentence and exit code 2.
fn refusal(bad: Bad, sentence: &str, umbra: &Path, scratch: &Path) -> Result<()> {
    let good = fs::read(Guest::GrubRescue.provide()?)?;
    let guest = scratch.join(match bad {
        Bad::BigKernel | Bad::CutKernel => "vmlinuz",
        _ => "guest.iso",
    });
    let mut arguments = vec!["run", "--headless"];
    match bad {
        Bad::Missing => {}
        Bad::Truncated => fs::write(&guest, good.get(..good.len() / 2).unwrap_or_default())?,
        Bad::NotBootable => {
            // The boot record's identifier, in the second volume descriptor.
            let mut image = good;
            image
                .get_mut(17 * 2048 + 7..17 * 2048 + 30)
                .context("the image is short")?
                .fill(0);
            fs::write(&guest, image)?;
        }
        Bad::NotAnIso => fs::write(&guest, vec![0; 1 << 20])?,
        Bad::TooLittleMemory => {
            fs::write(&guest, good)?;
            arguments.extend(["--memory", "8M"]);
        }
        Bad::BigKernel => {
            fs::copy(Guest::CloudKernel.provide()?, &guest)?;
            arguments.extend(["--memory", "48M"]);
        }
        Bad::CutKernel => {
            let kernel = fs::read(Guest::CloudKernel.provide()?)?;
            let half = kernel.get(..kernel.len() / 2).unwrap_or_default();
            fs::write(&guest, half)?;
        }
        Bad::NotBuilt => {
            fs::write(&guest, good)?;
            arguments.extend(["--cpus", "2"]);
        }
        Bad::NoVirtualization => {
            fs::write(&guest, good)?;
            arguments.extend(["--rig", "qemu-svm", "--cpu-model", "max,-svm"]);
        }
        Bad::NoEpt => {
            fs::write(&guest, good)?;
            arguments.extend(["--rig", "bochs-vmx", "--cpu-model", "core2_penryn_t9600"]);
        }
    }
    let output = std::process::Command::new(std::env::current_exe()?)
        .args(arguments)
        .arg(&guest)
        .env(kernel::OVERRIDE, umbra)
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(
        output.status.code() == Some(2),
        "{} instead of exit code 2: {text}",
        output.status
    );
    ensure!(
        text.contains(sentence) && text.trim_end().lines().count() == 1,
        "instead of one sentence: {text}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn umbras_memory_has_a_bound_that_grows_with_the_guests() {
        let report = |bytes: u64| serde_json::json!({"memory": {"umbra_bytes": bytes}});
        assert!(own_memory(&report(24 * MIB), 32 * MIB).is_ok());
        assert!(own_memory(&report(29 * MIB), 1024 * MIB).is_ok());
        assert!(own_memory(&report(30 * MIB), 1024 * MIB).is_err());
        assert!(own_memory(&Value::Null, 1024 * MIB).is_err());
    }

    #[test]
    fn the_guests_picture_is_looked_for_in_the_middle() {
        let guest = Picture {
            width: 1,
            height: 1,
            rgb: vec![1, 2, 3],
        };
        let mut outer = Picture {
            width: 3,
            height: 3,
            rgb: vec![0; 27],
        };
        assert_eq!(differing(&outer, &guest).unwrap(), 1);
        outer.rgb[12..15].copy_from_slice(&[1, 2, 3]);
        assert_eq!(differing(&outer, &guest).unwrap(), 0);
        assert!(differing(&guest, &outer).is_err());
    }

    #[test]
    fn colours_are_counted_once_each() {
        let picture = Picture {
            width: 3,
            height: 1,
            rgb: vec![0, 0, 0, 1, 1, 1, 0, 0, 0],
        };
        assert_eq!(colours(&picture), 2);
    }
}
