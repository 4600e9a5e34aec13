//! Umbra's options: the words on its command line, which the host tool and boot menus write and Umbra reads.
//!
//! `control=com2 window memory=512M paging=nested vm=2 memory=1024M paging=shadow shadow=cached -- quiet`: words of the whole run, then
//! those of the first virtual machine; behind `vm=2` those of the second, and so on. What stands behind `--` is the command line of the
//! first one's guest.

mod nics;
mod profile;
mod selftest;
mod share;
#[cfg(test)]
mod tests;
mod value;

pub use self::nics::{Card, MAX_NICS, Mac, Nics};
pub use self::profile::{Decided, MAX_OFFSET, Os, Profile, Rtc, UnknownMsrs};
pub use self::selftest::{Failure, SelfTest};
pub use self::share::{MAX_CAP, MAX_WARP, MAX_WEIGHT, Share, WEIGHT};
pub use self::value::{
    BootFrom, CdBus, Console, DiskBus, Enlighten, FIRMWARE_STEP, HostDrive, MAX_ALTERNATION,
    MAX_CPUS, MAX_FIRMWARE, MAX_MEDIA, MAX_MEMORY, MIN_MEMORY, Nic, Paging, Place, Shadow,
    Transport, memory as size,
};

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use self::value::{MIB, memory, number};
use crate::limits::{MAX_RECORD, MAX_VMS};

/// What is asked for of one virtual machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Vm<'a> {
    /// The guest's RAM in bytes, if that is said: whole MiB from [`MIN_MEMORY`] to [`MAX_MEMORY`].
    pub memory: Option<u64>,
    /// The virtual CPUs that it starts with, if that is said: 1 to [`MAX_CPUS`].
    pub cpus: Option<u32>,
    /// The virtual CPUs that it can have in all, if that is said: [`Vm::cpus`] to [`MAX_CPUS`].
    pub max_cpus: Option<u32>,
    /// What of the CPU it is to get.
    pub share: Share,
    /// How its memory is virtualized.
    pub paging: Paging,
    /// How shadow tables are kept, if that is said.
    pub shadow: Option<Shadow>,
    /// What kind of PC it is.
    pub profile: Profile,
    /// How many exits are recorded into the report: up to [`MAX_RECORD`].
    pub record: u32,
    /// Which exits are traced, if any are: a filter (`hv_core::trace::Filter`), as in `all`.
    pub trace: Option<&'a str>,
    /// Whether exits are counted by port and by MSR for the report.
    pub count: bool,
    /// The ATA drives of the host that are the guest's CD-ROMs: the first is in its drive. At most [`MAX_MEDIA`], as of the next two.
    pub cdroms: Vec<HostDrive>,
    /// The ATA drives that are the guest's hard disks.
    pub disks: Vec<HostDrive>,
    /// The ATA drives that are the guest's floppies: the first is in its drive.
    pub floppies: Vec<HostDrive>,
    /// What the firmware boots first, if that is said.
    pub boot: Option<BootFrom>,
    /// Whether there is a USB controller with a tablet.
    pub tablet: bool,
    /// The events at which it is stopped, if there are any: a list (`hv_core::debug::Breaks`), as in `cr3-write,page-fault`.
    pub breaks: Option<&'a str>,
    /// Whether it stays stopped at the first of them.
    pub break_ends: bool,
    /// Whether it waits for a debugger before it runs.
    pub gdb_wait: bool,
    /// Whether it is off until it is started at the console, and has no RAM before.
    pub later: bool,
    /// The command line of the first virtual machine's guest, if it comes from a boot menu.
    pub cmdline: Option<&'a str>,
}

/// All that is asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Options<'a> {
    /// How to speak to the host tool, if there is one.
    pub control: Option<Transport>,
    /// Whether the guest's screen is drawn on the host's, and the host's keyboard is taken.
    pub window: bool,
    /// Whether every VM entry is checked by the manual's rules before it is tried (VT-x).
    pub check: bool,
    /// How many of the host's CPUs are to be used at most, if that is said: 1 to [`MAX_CPUS`]. One is, if nothing is said.
    pub host_cpus: Option<u32>,
    /// How Umbra itself is to fail, if it is.
    pub selftest: Option<SelfTest<'a>>,
    /// The virtual machines: 1 to [`MAX_VMS`].
    pub vms: Vec<Vm<'a>>,
}

/// A word that is wrong, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wrong<'a> {
    word: &'a str,
    why: &'static str,
}

impl fmt::Display for Wrong<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the option {} is wrong: {}", self.word, self.why)
    }
}

/// What stands before the names of a virtual machine's modules and media: nothing for the first (1).
#[must_use]
pub fn prefix(vm: usize) -> String {
    match vm {
        1 => String::new(),
        _ => alloc::format!("vm{vm}-"),
    }
}

/// Umbra's own words in `line`, and the guest's.
fn split(line: &str) -> (&str, Option<&str>) {
    match line.split_once(" -- ") {
        Some((ours, guests)) => (ours, Some(guests)),
        None => (line, None),
    }
}

/// How many virtual machines `line` asks for, whatever else may be wrong with it: at most [`MAX_VMS`].
#[must_use]
pub fn count(line: &str) -> usize {
    let words = split(line).0.split_whitespace();
    let more = words.filter(|word| word.starts_with("vm=")).count();
    (1 + more).min(MAX_VMS.into())
}

/// The way to the host tool that `line` names, whatever else may be wrong with it.
#[must_use]
pub fn control(line: &str) -> Option<Transport> {
    let mut words = split(line).0.split_whitespace();
    words.find_map(|word| word.strip_prefix("control=")?.parse().ok())
}

/// Adds the drive that `text` names.
fn add(drives: &mut Vec<HostDrive>, text: &str) -> Result<(), &'static str> {
    if drives.len() == MAX_MEDIA {
        return Err("there are too many of its kind");
    }
    drives.push(text.parse()?);
    Ok(())
}

/// A number of CPUs.
fn cpus(text: &str) -> Result<u32, &'static str> {
    number(text)
        .filter(|cpus| (1..=MAX_CPUS).contains(cpus))
        .ok_or("write a number of CPUs from 1 to 32, as in 4")
}

impl<'a> Vm<'a> {
    /// The virtual CPUs that it starts with: one if nothing is said.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.cpus.unwrap_or(1)
    }

    /// The virtual CPUs that it can have in all: those that it starts with if nothing is said.
    #[must_use]
    pub fn max_cpus(&self) -> u32 {
        self.max_cpus.unwrap_or(self.cpus())
    }

    /// Takes one word. False: it means nothing here.
    fn take(&mut self, key: &str, value: &'a str) -> Result<bool, &'static str> {
        match key {
            "memory" => {
                let bytes = memory(value);
                let bytes =
                    bytes.ok_or("write a size in whole MiB from 32M to 512G, as in 512M")?;
                self.memory = Some(bytes);
            }
            "cpus" | "max-cpus" => {
                let cpus = cpus(value)?;
                match key {
                    "cpus" => self.cpus = Some(cpus),
                    _ => self.max_cpus = Some(cpus),
                }
                if self.cpus() > self.max_cpus() {
                    return Err("it would start with more virtual CPUs than it can have");
                }
            }
            "paging" => self.paging = value.parse()?,
            "shadow" => self.shadow = Some(value.parse()?),
            "record" => {
                let count = number(value).filter(|&count| count <= MAX_RECORD);
                self.record = count.ok_or("it is a number of exits up to 10000")?;
            }
            "trace" => {
                self.trace = match value {
                    "" => return Err("say what is traced, as in trace=all"),
                    filter => Some(filter),
                }
            }
            "count" => self.count = true,
            "tablet" => self.tablet = true,
            "gdb-wait" => self.gdb_wait = true,
            "start" => {
                self.later = match value {
                    "now" => false,
                    "later" => true,
                    _ => return Err("use now or later"),
                }
            }
            "break" => {
                self.breaks = match value {
                    "" => return Err("say at what, as in break=cr3-write"),
                    events => Some(events),
                }
            }
            "break-ends" => self.break_ends = true,
            "boot" => self.boot = Some(value.parse()?),
            "cdrom" => add(&mut self.cdroms, value)?,
            "disk" => add(&mut self.disks, value)?,
            "floppy" => add(&mut self.floppies, value)?,
            _ => return Ok(self.share.take(key, value)? || self.profile.take(key, value)?),
        }
        Ok(true)
    }
}

// The sentences above say them.
const _: () = assert!(MIN_MEMORY == 32 * MIB && MAX_MEMORY == 512 << 30 && MAX_RECORD == 10_000);
const _: () = assert!(MAX_CPUS == 32);

impl<'a> Options<'a> {
    /// Reads a command line. Words that mean nothing here go to `unknown`: what boot loaders and newer host tools add is not ours to
    /// refuse.
    ///
    /// # Errors
    /// A word that is wrong.
    pub fn parse(line: &'a str, unknown: &mut dyn FnMut(&'a str)) -> Result<Self, Wrong<'a>> {
        let (line, cmdline) = split(line);
        let mut options = Options::default();
        let mut vm = Vm {
            cmdline,
            ..Vm::default()
        };
        for word in line.split_whitespace() {
            let wrong = |why| Wrong { word, why };
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match key {
                "window" => options.window = true,
                "check" => options.check = true,
                "host-cpus" => options.host_cpus = Some(cpus(value).map_err(wrong)?),
                "selftest" => options.selftest = Some(SelfTest::parse(value).map_err(wrong)?),
                "control" => {
                    options.control = Some(value.parse().map_err(wrong)?);
                }
                "vm" => {
                    options.vms.push(core::mem::take(&mut vm));
                    let next = options.vms.len() + 1;
                    if number(value) != Some(next) || next > MAX_VMS.into() {
                        return Err(wrong(
                            "it is not the next virtual machine's number, of 8 at most",
                        ));
                    }
                }
                _ => {
                    if !vm.take(key, value).map_err(wrong)? {
                        unknown(word);
                    }
                }
            }
        }
        options.vms.push(vm);
        Ok(options)
    }
}

// A sentence above says it.
const _: () = assert!(MAX_VMS == 8);

impl fmt::Display for Vm<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What is not the first virtual machine's is not written here.
        let Vm {
            memory,
            cpus,
            max_cpus,
            share,
            paging,
            shadow,
            profile,
            record,
            trace,
            count,
            cdroms,
            disks,
            floppies,
            boot,
            tablet,
            breaks,
            break_ends,
            gdb_wait,
            later,
            cmdline: _,
        } = self;
        if let Some(bytes) = memory {
            write!(f, "memory={}M ", bytes / MIB)?;
        }
        for (key, cpus) in [("cpus", cpus), ("max-cpus", max_cpus)] {
            if let Some(cpus) = cpus {
                write!(f, "{key}={cpus} ")?;
            }
        }
        write!(f, "{share}{profile}paging={paging}")?;
        if let Some(shadow) = shadow {
            write!(f, " shadow={}", shadow.name())?;
        }
        if *record != 0 {
            write!(f, " record={record}")?;
        }
        if let Some(filter) = trace {
            write!(f, " trace={filter}")?;
        }
        f.write_str(if *count { " count" } else { "" })?;
        if let Some(boot) = boot {
            write!(f, " boot={}", boot.name())?;
        }
        f.write_str(if *tablet { " tablet" } else { "" })?;
        if let Some(events) = breaks {
            write!(f, " break={events}")?;
        }
        f.write_str(if *break_ends { " break-ends" } else { "" })?;
        f.write_str(if *gdb_wait { " gdb-wait" } else { "" })?;
        f.write_str(if *later { " start=later" } else { "" })?;
        for (key, drives) in [("cdrom", cdroms), ("disk", disks), ("floppy", floppies)] {
            for drive in drives {
                write!(f, " {key}={drive}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Options<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Options {
            control,
            window,
            check,
            host_cpus,
            selftest,
            vms,
        } = self;
        if let Some(transport) = control {
            write!(f, "control={} ", transport.name())?;
        }
        for (given, word) in [(window, "window "), (check, "check ")] {
            f.write_str(if *given { word } else { "" })?;
        }
        if let Some(cpus) = host_cpus {
            write!(f, "host-cpus={cpus} ")?;
        }
        if let Some(selftest) = selftest {
            write!(f, "selftest={selftest} ")?;
        }
        for (number, vm) in (1..).zip(vms) {
            if number > 1 {
                write!(f, " vm={number} ")?;
            }
            vm.fmt(f)?;
        }
        match vms.first().and_then(|vm| vm.cmdline) {
            Some(cmdline) => write!(f, " -- {cmdline}"),
            None => Ok(()),
        }
    }
}
