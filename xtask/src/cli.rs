//! The command line.

use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};

use protocol::MAX_RECORD;
pub use protocol::options::BootFrom;
use protocol::options::{DiskBus, MAX_CAP, MAX_WARP, MAX_WEIGHT, Nic, WEIGHT};

use crate::firmware::Firmware;
use crate::media::DiskArg;
use crate::profile::{ProfileArgs, Switch};
use crate::rig::{self, Choice, Forward, Net, Paging, Rig, Shadow, Vnc};

/// Builds, runs and tests Umbra.
#[derive(Debug, Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    disable_help_subcommand = true
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Boots a guest in Umbra, in an emulated machine.
    Run(Box<RunArgs>),
    /// Installs a system in Umbra onto a new disk image, without a question.
    Install(InstallArgs),
    /// Runs every test: lints, unit tests and whole guests.
    Test(TestArgs),
    /// Makes target/umbra.iso, which boots Umbra with a guest on BIOS and UEFI machines.
    Image(ImageArgs),
    /// Measures Umbra against the bare machine.
    Bench(BenchArgs),
    /// Runs the fuzz targets: random inputs for whatever a guest, a medium or the network feeds, guided by the code that they reach.
    Fuzz(FuzzArgs),
    /// Prints a trace that `run --trace` has written, counts it, or explains one of its exits.
    Trace(TraceArgs),
    /// Writes a file for gdb with the symbols that a Linux kernel has of itself, and with how its stack is unwound.
    Symbols(SymbolsArgs),
    /// Fetches and builds the guests that the tests use.
    Guests(GuestsArgs),
    /// Installs the system packages that the tool needs.
    Setup,
}

/// The fuzz targets and how long they run.
#[derive(Debug, Args)]
pub struct FuzzArgs {
    /// The targets; all of them if none is named
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// How long each runs
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    pub seconds: u32,
    /// Run this input once instead, as one that has failed before
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Afterwards choose new seeds for tests/fuzz/seeds from what was found
    #[arg(long)]
    pub keep: bool,
    /// List the targets
    #[arg(long)]
    pub list: bool,
}

/// What a virtual machine is made of.
#[derive(Debug, Clone, Args)]
pub struct VmArgs {
    /// An ISO, a disk image (as --disk has it, with the same words behind its name), the raw image of a 3.5" floppy, a Linux kernel, or the name of a test guest [default: the Debian
    /// installer]
    pub guest: Option<PathBuf>,
    /// The initial RAM disk of a Linux kernel; a test guest brings its own
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// The command line of a Linux kernel
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    /// The machine's firmware: bios (SeaBIOS), uefi (OVMF, from the package ovmf), or the file of an image of either kind, up to 16 MiB.
    /// UEFI keeps its variables in a file beside the first hard disk (disk.img.vars); without a disk they last until power-off
    /// [default: uefi where the guest boots by UEFI only, otherwise bios]
    #[arg(long, value_name = "bios|uefi|FILE")]
    pub firmware: Option<Firmware>,
    /// The guest's memory
    #[arg(
        long,
        value_name = "SIZE",
        default_value = "1G",
        allow_hyphen_values = true
    )]
    pub memory: String,
    /// The guest's virtual CPUs, 1 to 32. They are cores of one processor, which is what every system takes without a licence for more.
    /// More of them than this computer has share what there is
    #[arg(
        long,
        value_name = "N",
        default_value = "1",
        allow_hyphen_values = true
    )]
    pub cpus: String,
    /// The virtual CPUs that the guest can have in all, when more are plugged in at Umbra's console (`cpus N`) while it runs: up to 32
    /// [default: those of --cpus]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub max_cpus: Option<String>,
    /// The machine's share of the processor beside the others, when they want more than there is: one of 300 gets three times as much as
    /// one of 100. What one leaves over goes to the others by their weights
    #[arg(long, value_name = "N", default_value_t = WEIGHT, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_WEIGHT)))]
    pub weight: u32,
    /// The most of the processor that the machine gets, even if nobody else wants it: in percent of one CPU, so that 150 is one and a
    /// half [default: all that is there]
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_CAP)))]
    pub cap: Option<u32>,
    /// How many milliseconds of its time the machine may use before its turn, which it gives back afterwards: for one whose bursts of
    /// work are long and have to be done soon. One that uses less than its share needs none, for it is let in as soon as it wakes
    #[arg(long, value_name = "MS", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_WARP)))]
    pub warp: u32,
    /// How the guest's memory is virtualized: nested (the processor walks a second set of tables), shadow (Umbra keeps shadows of
    /// the guest's tables), or one and the other in turn, as in alternate:100ms
    #[arg(long, value_name = "PAGING", default_value = "nested")]
    pub paging: Paging,
    /// How shadow tables are kept up to date [default: unsync]
    #[arg(long, value_parser = PossibleValuesParser::new(Shadow::NAMES).try_map(|name| name.parse::<Shadow>()))]
    pub shadow: Option<Shadow>,
    /// What kind of PC it is.
    #[command(flatten)]
    pub profile: ProfileArgs,
    /// A hard disk for the guest, made if there is none; what the guest writes stays. It is a block device or an image: raw, or of the format that its name ends in: qcow2,
    /// vmdk, vhdx or vdi, which QEMU's machines open. A content that does not go with the name is refused; ,format=qcow2 or ,format=raw behind the name says what it is. With ,readonly behind its name the guest only reads
    /// it, and so does Umbra: the file needs no permission to be written. A virtio disk says so to the guest, while one on IDE or AHCI has no way to, and its writes fail.
    /// The guest boots from the disk if that is bootable, and otherwise from the CD. May be repeated: there is room for four drives on IDE with that of the CD, and for eight disks
    /// on virtio
    #[arg(long, value_name = "FILE[,readonly][,format=F]")]
    pub disk: Vec<DiskArg>,
    /// The size of a disk that is made [default: 16G]
    #[arg(
        long,
        value_name = "SIZE",
        requires = "disk",
        allow_hyphen_values = true
    )]
    pub disk_size: Option<String>,
    /// A further medium for the guest's CD-ROM drive, to be inserted at Umbra's console (Ctrl+Alt+Esc); may be repeated. Where the guest
    /// is no ISO itself, the first is in the drive
    #[arg(long, value_name = "FILE")]
    pub cdrom: Vec<PathBuf>,
    /// The raw image of a 3.5" floppy for the guest's drive, of 720, 1440 or 2880 KiB; what the guest writes stays, and a file that
    /// cannot be written is write-protected. May be repeated: the first is in the drive, the others can be inserted at Umbra's console
    #[arg(long, value_name = "FILE")]
    pub floppy: Vec<PathBuf>,
    /// What the guest boots from first [default: the hard disk if that is bootable, then the CD, then the floppy]
    #[arg(long, value_parser = PossibleValuesParser::new(BootFrom::NAMES).try_map(|name| name.parse::<BootFrom>()))]
    pub boot: Option<BootFrom>,
    /// A tablet at a USB controller, so that the guest's pointer is where the hand is and the window grabs no mouse. Guests without a
    /// driver for it have the mouse all the same [default: on with a window, off without]
    #[arg(long, value_enum, value_name = "on|off")]
    pub tablet: Option<Switch>,
    /// A debugger comes to the machine at this TCP port of this computer: gdb -ex 'target remote localhost:PORT'. Whoever is on this computer
    /// can do so
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub gdb: Option<u16>,
    /// The machine waits for the debugger before its first instruction
    #[arg(long, requires = "gdb")]
    pub gdb_wait: bool,
    /// When the machine starts: now, or later, at Umbra's console (`start NUMBER`), which takes its memory then; until then others can have it
    #[arg(long, value_enum, default_value = "now")]
    pub start: When,
    /// Stop the guest at an event, and say what it did: cr3-write, page-fault, triple-fault, msr:c0000082, exec:0x7c00 (a linear address), write:0x1000+64; may be
    /// repeated
    #[arg(long = "break", value_name = "EVENT", conflicts_with = "gdb")]
    pub breaks: Vec<String>,
}

/// When a machine starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum When {
    /// With Umbra.
    Now,
    /// When it is asked for.
    Later,
}

/// How to run guests.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The virtual machine; the first, if there are more.
    #[command(flatten)]
    pub vm: VmArgs,
    /// A further virtual machine beside this one: its guest and its options up to --cdrom, in quotation marks, as in
    /// --vm "other.iso --memory 512M"; may be repeated. The machines share the processor and see each other's network cards
    #[arg(
        long = "vm",
        value_name = "GUEST AND OPTIONS",
        allow_hyphen_values = true
    )]
    pub vms: Vec<String>,
    /// The machine that Umbra runs on
    #[arg(long, value_parser = rig::any(), default_value = "auto")]
    pub rig: Choice,
    /// Another CPU for that machine: one that `bochs --help cpu` lists, with VT-x for bochs-vmx [default: corei7_skylake_x] and
    /// AMD-V for bochs-svm [default: ryzen], or one of `qemu-system-x86_64 -cpu help` [default: max, for kvm host]
    #[arg(long, value_name = "NAME")]
    pub cpu_model: Option<String>,
    /// What the guest's network card is connected to: user (this machine's network, by address translation; not in Bochs), none, or
    /// a TAP interface, as in tap:tap0 [default: user; none with --icount]
    #[arg(long, value_name = "NET")]
    pub net: Option<Net>,
    /// A TCP port of this machine that leads to one of the guest, as in 8080:80; may be repeated
    #[arg(long, value_name = "HOSTPORT:GUESTPORT")]
    pub forward: Vec<Forward>,
    /// Serve the files of a directory to the guest by TFTP, at 10.0.2.2
    #[arg(long, value_name = "DIR")]
    pub tftp: Option<PathBuf>,
    /// No window: the COM1 of the guest that has the focus on standard output, Umbra's own log in a file
    #[arg(long)]
    pub headless: bool,
    /// No window: the screen is shown by a VNC server at this port, from 5900 on, of this computer, or at an address of its that other
    /// computers reach, as in 192.168.1.2:5900. It asks for no password
    #[arg(long, value_name = "[ADDRESS:]PORT", conflicts_with = "headless")]
    pub vnc: Option<Vnc>,
    /// Succeed when TEXT has appeared on the guest's COM1 or text screen; may be repeated, then in that order
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub until: Vec<String>,
    /// Succeed when a pixel of the guest's screen has this colour, as in 320,200=ff8000: 320 from the left, 200 from the top, and
    /// red, green and blue in hexadecimal. May be repeated, in order with --until and the others
    #[arg(long, value_name = "X,Y=RRGGBB", allow_hyphen_values = true)]
    pub until_pixel: Vec<String>,
    /// Succeed when the guest's screen is the picture in this file, pixel by pixel, as --screenshot has written one. May be repeated,
    /// in order with --until and the others
    #[arg(long, value_name = "FILE.png")]
    pub until_picture: Vec<PathBuf>,
    /// Let so much time pass before the next of --until, --type and the others; at the end of a script, before it succeeds
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub sleep: Vec<String>,
    /// Keys for the guest's keyboard after the --until before it: \n is Enter, \t Tab, \e Escape, \{f10} or \{ctrl-x} by name
    #[arg(long = "type", value_name = "TEXT", allow_hyphen_values = true)]
    pub types: Vec<String>,
    /// Turn to the virtual machine of this number: it gets keyboard, mouse and screen, and --until looks at it
    #[arg(long, value_name = "NUMBER")]
    pub focus: Vec<usize>,
    /// What the guest's mouse does after the --until before it: 10,-5 moves by so many counts to the right and downwards, left,
    /// middle and right click, +left presses and -left lets go, wheel,1 turns the wheel; to,320,200 puts the pointer onto that pixel, if the guest
    /// drives the tablet
    #[arg(long, value_name = "WORDS", allow_hyphen_values = true)]
    pub mouse: Vec<String>,
    /// When a guest says that its system has crashed, which those do that use Microsoft's interface (--enlighten hyperv): the run ends, and
    /// has failed, or it goes on
    #[arg(long, value_enum, value_name = "WHAT", default_value = "end")]
    pub on_panic: OnPanic,
    /// What becomes of the run when a guest has come to an event of --break: it goes on, or ends
    #[arg(long, value_enum, value_name = "WHAT", default_value = "continue")]
    pub on_break: OnPanic,
    /// Give up after this time [default: 120; none in a window without --until]
    #[arg(long, value_name = "SECONDS", allow_hyphen_values = true)]
    pub timeout: Option<String>,
    /// Write the guest's screen at the end
    #[arg(long, value_name = "FILE.png")]
    pub screenshot: Option<PathBuf>,
    /// Write what the hypervisor did: exits by reason, port and MSR, instructions, events, memory
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Put the first N exits into the report, one line each, as tests can replay them
    #[arg(
        long,
        value_name = "N",
        requires = "report",
        default_value_t = 0,
        hide_default_value = true,
        value_parser = clap::value_parser!(u32).range(..=i64::from(MAX_RECORD))
    )]
    pub record: u32,
    /// Write a trace of the guests' exits: each with its reason and values, in the order of each virtual CPU. `cargo xtask trace FILE` reads it
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Trace only what fits all of these words, with commas between them: reason:cpuid+wrmsr, pc:0x7c00-0x7dff (where the instruction is), at:0x3f8 (the
    /// address, I/O port, MSR or leaf that it is about), vm:1, cpu:0+1, first:1000; and `last`: the last 2,048 of each virtual CPU in place of all, which are sent at the end
    #[arg(long, value_name = "WORDS", requires = "trace")]
    pub trace_filter: Option<String>,
    /// Keep nothing of what the guests write to their disks, floppies and UEFI variables: the next run finds them as this one did
    #[arg(long)]
    pub snapshot: bool,
    /// Let the machine's clock count instructions, so that runs repeat exactly
    #[arg(long)]
    pub icount: bool,
    /// On how many CPUs of the outer machine guests run: 1 to 32, in Bochs to 8. In QEMU's emulation there is one more, which only serves them [default: as many as they have and this computer has; 1 in Bochs and with --icount]
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub host_cpus: Option<String>,
    /// The memory of the outer machine [default: what the guests and Umbra need]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub outer_memory: Option<String>,
}

/// What becomes of a run whose guest has crashed, or come to a break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum OnPanic {
    /// It ends, and has failed.
    End,
    /// It goes on.
    Continue,
}

/// What to install, and where.
#[derive(Debug, Args)]
pub struct InstallArgs {
    /// The system
    #[arg(value_enum)]
    pub system: System,
    /// The disk image, which is made
    #[arg(long, value_name = "FILE")]
    pub disk: PathBuf,
    /// The machine's firmware: bios, uefi, or the file of an image of either kind. With UEFI the disk has a GPT and an EFI system
    /// partition, and UEFI's variables, with the system's boot entry, are in a file beside it
    #[arg(long, value_name = "FIRMWARE", default_value = "bios")]
    pub firmware: Firmware,
    /// Its size [default: 16G]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub disk_size: Option<String>,
    /// The guest's memory
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub memory: String,
    /// The guest's virtual CPUs
    #[arg(long, value_name = "N", default_value = "1")]
    pub cpus: String,
    /// Write the guest's screen at the end
    #[arg(long, value_name = "FILE.png")]
    pub screenshot: Option<PathBuf>,
}

/// A system that can be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// Debian 12, 64-bit: the base system.
    Debian,
}

/// Which tests to run.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// Only the tests of these names; a part of a name means all that contain it
    pub only: Vec<String>,
    /// Say which tests there are and run none
    #[arg(long)]
    pub list: bool,
    /// How many guests run at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub jobs: usize,
}

/// What goes into the bootable image.
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// The guests' ISO images, one menu entry each, and one for all of them side by side [default: the Debian installer]
    pub guests: Vec<PathBuf>,
    /// Each guest's memory
    #[arg(long, value_name = "SIZE", default_value = "1G")]
    pub memory: String,
    /// Where to write the image [default: target/umbra.iso]
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

/// What to measure.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// The measurement
    #[command(subcommand)]
    pub what: Bench,
}

/// A measurement.
#[derive(Debug, Subcommand)]
pub enum Bench {
    /// A Linux kernel's way to its first program: native against Umbra.
    Boot(BenchRig),
    /// Boot and work of a Linux guest: native, and under nested and each kind of shadow paging.
    Paging(PagingArgs),
    /// Single exits, counted in instructions from the guest's side.
    Exits(ExitsArgs),
    /// A guest's CPUs: interrupts between them, and a lock, counted in instructions.
    Smp(SmpArgs),
    /// The guest's disk with fio: native against Umbra.
    Disk(DiskArgs),
    /// The guest's network: native against Umbra.
    ///
    /// A 32-bit Debian kernel with its driver for the card receives and sends bytes by TCP, and sends requests whose answers it waits for
    /// (ping), to and from this machine: once bare in QEMU with the same card, and once in Umbra. Further runs in Umbra, one for each kind
    /// of traffic, count the exits. Frames are the guest's own count, of both directions. With the NE2000 the bare guest may be the slower one: QEMU's card
    /// drops frames when its ring is full, which Umbra's lets wait outside.
    Net(NetArgs),
    /// Kills the emulator again and again while the guest writes, and checks that what was flushed is there.
    Crash(CrashArgs),
}

/// How to measure single exits.
#[derive(Debug, Args)]
pub struct ExitsArgs {
    /// What a trace adds to them, apart from its way to the file
    #[arg(long)]
    pub trace: bool,
}

/// What to measure of several CPUs.
#[derive(Debug, Args)]
pub struct SmpArgs {
    /// Only the instructions, which repeat exactly, and nothing by the clock
    #[arg(long)]
    pub counts: bool,
}

/// How to measure the disk.
#[derive(Debug, Args)]
pub struct DiskArgs {
    /// How long each kind of access is measured
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub seconds: u32,
    /// Only this: random-read, random-write, sequential-read or sequential-write; may be repeated
    #[arg(long, value_name = "NAME")]
    pub work: Vec<String>,
    /// Only a disk on this bus [default: all of them, beside the same bare in QEMU]
    #[arg(long, value_name = "BUS", value_parser = PossibleValuesParser::new(DiskBus::NAMES).try_map(|name| name.parse::<DiskBus>()))]
    pub disk_bus: Option<DiskBus>,
    /// Write all figures
    #[arg(long, value_name = "FILE.json")]
    pub json: Option<PathBuf>,
}

/// How to measure the network.
#[derive(Debug, Args)]
pub struct NetArgs {
    /// How much is received, and how much is sent
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub mib: u32,
    /// How many requests are answered
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub requests: u32,
    /// Only this: download, upload or ping; may be repeated
    #[arg(long, value_name = "NAME")]
    pub work: Vec<String>,
    /// Only this card: ne2k, e1000 or virtio [default: all of them, beside the same bare in QEMU]
    #[arg(long, value_name = "CARD", value_parser = PossibleValuesParser::new(["ne2k", "e1000", "virtio"]).try_map(|name| name.parse::<Nic>()))]
    pub nic: Option<Nic>,
    /// Write all figures
    #[arg(long, value_name = "FILE.json")]
    pub json: Option<PathBuf>,
}

/// How often to kill, and when.
#[derive(Debug, Args)]
pub struct CrashArgs {
    /// How often
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub kills: u32,
    /// What the guest's disk hangs at
    #[arg(long, value_name = "BUS", default_value = "ide", value_parser = PossibleValuesParser::new(DiskBus::NAMES).try_map(|name| name.parse::<DiskBus>()))]
    pub disk_bus: DiskBus,
    /// What the moments are drawn from [default: the time of day]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
}

/// Where to measure.
#[derive(Debug, Args)]
pub struct BenchRig {
    /// The machine
    #[arg(long, value_parser = rig::that_counts(), default_value = "qemu-svm")]
    pub rig: &'static dyn Rig,
    /// Another CPU for that machine, as for `run`
    #[arg(long, value_name = "NAME")]
    pub cpu_model: Option<String>,
}

/// What work to compare, and where.
#[derive(Debug, Args)]
pub struct PagingArgs {
    /// Where to measure.
    #[command(flatten)]
    pub place: BenchRig,
    /// The guest: cloud-kernel, i386-kernel or i386-pae-kernel
    #[arg(long, value_name = "NAME", default_value = "cloud-kernel")]
    pub guest: String,
    /// Only this work besides the boot: fork, mmap, pipe or walk; may be repeated
    #[arg(long, value_name = "NAME")]
    pub work: Vec<String>,
    /// Write all figures
    #[arg(long, value_name = "FILE.json")]
    pub json: Option<PathBuf>,
    /// Draw the figures, one SVG file each, into this directory
    #[arg(long, value_name = "DIR")]
    pub svg: Option<PathBuf>,
}

/// What to make of a trace.
#[derive(Debug, Args)]
pub struct TraceArgs {
    /// The trace
    pub file: PathBuf,
    /// Only what fits these words, as for `run --trace-filter`
    #[arg(long, value_name = "WORDS")]
    pub filter: Option<String>,
    /// A JSON object for each exit, one on a line
    #[arg(long)]
    pub json: bool,
    /// How many there are of each reason, in place of each exit
    #[arg(long, conflicts_with = "why")]
    pub count: bool,
    /// Explain the exit of this number, in words; with --json as an object. Of several machines or virtual CPUs, --filter chooses one
    #[arg(long, value_name = "NUMBER")]
    pub why: Option<u64>,
    /// Write it in Chrome's trace format, which Perfetto (ui.perfetto.dev) and chrome://tracing show over time
    #[arg(long, value_name = "FILE.json", conflicts_with_all = ["json", "count", "why"])]
    pub perfetto: Option<PathBuf>,
    /// Draw how many exits of each reason there were over the guest's time, as an SVG picture
    #[arg(long, value_name = "FILE.svg", conflicts_with_all = ["json", "count", "why", "perfetto"])]
    pub plot: Option<PathBuf>,
}

/// A kernel and a file.
#[derive(Debug, Args)]
pub struct SymbolsArgs {
    /// The Linux kernel, as it is booted or unpacked
    pub kernel: PathBuf,
    /// Where to write to
    pub file: PathBuf,
}

/// Which guests to fetch.
#[derive(Debug, Args)]
pub struct GuestsArgs {
    /// The guests' names [default: all]
    pub names: Vec<String>,
    /// Say which guests there are and fetch none
    #[arg(long)]
    pub list: bool,
}
