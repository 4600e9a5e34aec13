//! Umbra's options: the words on its command line, which the host tool and boot menus write and Umbra reads.
//!
//! `control=com2 window memory=512M paging=nested vm=2 memory=1024M paging=shadow shadow=cached -- quiet`: words of the whole run, then
//! those of the first virtual machine; behind `vm=2` those of the second, and so on. What stands behind `--` is the command line of the
//! first one's guest.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use crate::{MAX_RECORD, MAX_VMS};

/// Mebibyte.
const MIB: u64 = 1 << 20;

/// The least memory of a guest in bytes: with less no supported system gets through its firmware and loader.
pub const MIN_MEMORY: u64 = 32 * MIB;

/// The most memory of a guest in bytes: physical addresses of 40 bits, which every processor with nested paging has, less what devices
/// and a host take.
pub const MAX_MEMORY: u64 = 512 << 30;

/// The most virtual CPUs of a guest.
pub const MAX_CPUS: u32 = 32;

/// Media of one kind that a guest can have at most: more than there are drives for, since further ones wait to be inserted.
pub const MAX_MEDIA: usize = 16;

/// The longest time, in milliseconds, that one way of paging is used before the other.
pub const MAX_ALTERNATION: u32 = 1_000_000;

/// How Umbra speaks to the host tool.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// By COM2.
    Com2,
    /// To the tool by port E9h of Bochs, from it by COM2.
    E9,
}

impl Transport {
    const ALL: [Transport; 2] = [Transport::Com2, Transport::E9];

    const fn name(self) -> &'static str {
        match self {
            Transport::Com2 => "com2",
            Transport::E9 => "e9",
        }
    }
}

/// How a guest's memory is virtualized.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Paging {
    /// The processor walks a second set of tables.
    #[default]
    Nested,
    /// Umbra keeps shadows of the guest's tables.
    Shadow,
    /// One and the other in turn, for so many milliseconds each.
    Alternate(u32),
}

impl Paging {
    /// Whether the processor has to have nested paging.
    #[must_use]
    pub fn needs_nested(self) -> bool {
        self != Paging::Shadow
    }

    /// Whether there will be shadow paging.
    #[must_use]
    pub fn needs_shadow(self) -> bool {
        self != Self::Nested
    }

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Paging::Nested => "nested",
            Paging::Shadow => "shadow",
            Paging::Alternate(_) => "alternate",
        }
    }
}

impl fmt::Display for Paging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Paging::Alternate(time) => write!(f, ":{time}ms"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Paging {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Paging, Self::Err> {
        match text {
            "nested" => Ok(Paging::Nested),
            "shadow" => Ok(Paging::Shadow),
            _ => text
                .strip_prefix("alternate:")
                .and_then(|time| time.strip_suffix("ms")?.parse().ok())
                .filter(|time| (1..=MAX_ALTERNATION).contains(time))
                .map(Paging::Alternate)
                .ok_or(
                    "use nested, shadow, or a time of up to 1000 seconds such as alternate:100ms",
                ),
        }
    }
}

/// How Umbra keeps its shadows of a guest's tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shadow {
    /// They are thrown away at every load of CR3, as a TLB is.
    Vtlb,
    /// They are kept, and the guest's tables write-protected.
    Cached,
    /// They are kept, and leaf tables may be out of step until the guest flushes.
    Unsync,
}

impl Shadow {
    /// All of them, from the simplest to the most refined.
    pub const ALL: [Shadow; 3] = [Shadow::Vtlb, Shadow::Cached, Shadow::Unsync];
    /// Their names.
    pub const NAMES: [&'static str; 3] = ["vtlb", "cached", "unsync"];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for Shadow {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Shadow, Self::Err> {
        let mut all = Shadow::ALL.into_iter();
        all.find(|shadow| shadow.name() == text)
            .ok_or("use vtlb, cached or unsync")
    }
}

/// Where one of the host's ATA drives is: `ata1.0` is drive 0 (the master) of channel 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// The channel: 0 and 1 are the legacy ones, those of PCI controllers in native mode follow.
    pub channel: u8,
    /// The drive, 0 or 1.
    pub position: u8,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ata{}.{}", self.channel, self.position)
    }
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let place = || {
            let (channel, position) = text.strip_prefix("ata")?.split_once('.')?;
            Some(Self {
                channel: number(channel)?,
                position: number(position).filter(|&position| position < 2)?,
            })
        };
        place().ok_or("a drive is named as in ata0.1")
    }
}

/// What a guest's firmware boots first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BootFrom {
    /// The CD in its drive.
    Cd,
    /// The hard disks.
    Disk,
    /// The floppy drive.
    Floppy,
    /// The network.
    Net,
}

impl BootFrom {
    /// All of them.
    pub const ALL: [BootFrom; 4] = [
        BootFrom::Cd,
        BootFrom::Disk,
        BootFrom::Floppy,
        BootFrom::Net,
    ];
    /// Their names.
    pub const NAMES: [&'static str; 4] = ["cd", "disk", "floppy", "net"];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for BootFrom {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<BootFrom, Self::Err> {
        let mut all = BootFrom::ALL.into_iter();
        all.find(|boot| boot.name() == text)
            .ok_or("use cd, disk, floppy or net")
    }
}

/// A number in decimal digits, as it is written: one text for each number.
fn number<T: FromStr>(text: &str) -> Option<T> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = plain && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

/// What is asked for of one virtual machine.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Vm<'a> {
    /// The guest's RAM in bytes, if that is said: whole MiB from [`MIN_MEMORY`] to [`MAX_MEMORY`].
    pub memory: Option<u64>,
    /// The virtual CPUs that it starts with, if that is said: 1 to [`MAX_CPUS`].
    pub cpus: Option<u32>,
    /// The virtual CPUs that it can have in all, if that is said: [`Vm::cpus`] to [`MAX_CPUS`].
    pub max_cpus: Option<u32>,
    /// How its memory is virtualized.
    pub paging: Paging,
    /// How shadow tables are kept, if that is said.
    pub shadow: Option<Shadow>,
    /// How many exits are recorded into the report: up to [`MAX_RECORD`].
    pub record: u32,
    /// Whether exits are counted by port and by MSR for the report.
    pub count: bool,
    /// The ATA drives of the host that are the guest's CD-ROMs: the first is in its drive. At most [`MAX_MEDIA`], as of the next two.
    pub cdroms: Vec<Place>,
    /// The ATA drives that are the guest's hard disks.
    pub disks: Vec<Place>,
    /// The ATA drives that are the guest's floppies: the first is in its drive.
    pub floppies: Vec<Place>,
    /// What the firmware boots first, if that is said.
    pub boot: Option<BootFrom>,
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
    /// The stack of Umbra's that is to overflow, to see that this is noticed: a test of Umbra itself.
    pub overflow: Option<&'a str>,
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
    words.find_map(|word| transport(word.strip_prefix("control=")?))
}

fn transport(name: &str) -> Option<Transport> {
    let mut all = Transport::ALL.into_iter();
    all.find(|transport| transport.name() == name)
}

/// Bytes of memory in `text`: a number, with K, M or G behind it or of bytes.
fn memory(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'k', 'm', 'g']);
    let shift = match text.get(digits.len()..)? {
        "" => 0,
        "K" | "k" => 10,
        "M" | "m" => 20,
        "G" | "g" => 30,
        _ => return None,
    };
    let bytes = number::<u64>(digits)?.checked_mul(1 << shift)?;
    ((MIN_MEMORY..=MAX_MEMORY).contains(&bytes) && bytes % MIB == 0).then_some(bytes)
}

/// Adds the drive that `text` names.
fn add(places: &mut Vec<Place>, text: &str) -> Result<(), &'static str> {
    if places.len() == MAX_MEDIA {
        return Err("there are too many of its kind");
    }
    places.push(text.parse()?);
    Ok(())
}

/// A number of virtual CPUs.
fn cpus(text: &str) -> Result<u32, &'static str> {
    number(text)
        .filter(|cpus| (1..=MAX_CPUS).contains(cpus))
        .ok_or("write a number of virtual CPUs from 1 to 32, as in 4")
}

impl Vm<'_> {
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
    fn take(&mut self, key: &str, value: &str) -> Result<bool, &'static str> {
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
            "count" => self.count = true,
            "boot" => self.boot = Some(value.parse()?),
            "cdrom" => add(&mut self.cdroms, value)?,
            "disk" => add(&mut self.disks, value)?,
            "floppy" => add(&mut self.floppies, value)?,
            _ => return Ok(false),
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
                "selftest" => {
                    let stack = value.strip_prefix("overflow:");
                    options.overflow = Some(stack.ok_or(wrong("use overflow:STACK"))?);
                }
                "control" => {
                    let transport = transport(value).ok_or(wrong("use com2 or e9"))?;
                    options.control = Some(transport);
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
            paging,
            shadow,
            record,
            count,
            cdroms,
            disks,
            floppies,
            boot,
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
        write!(f, "paging={paging}")?;
        if let Some(shadow) = shadow {
            write!(f, " shadow={}", shadow.name())?;
        }
        if *record != 0 {
            write!(f, " record={record}")?;
        }
        f.write_str(if *count { " count" } else { "" })?;
        if let Some(boot) = boot {
            write!(f, " boot={}", boot.name())?;
        }
        for (key, places) in [("cdrom", cdroms), ("disk", disks), ("floppy", floppies)] {
            for place in places {
                write!(f, " {key}={place}")?;
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
            overflow,
            vms,
        } = self;
        if let Some(transport) = control {
            write!(f, "control={} ", transport.name())?;
        }
        for (given, word) in [(window, "window "), (check, "check ")] {
            f.write_str(if *given { word } else { "" })?;
        }
        if let Some(stack) = overflow {
            write!(f, "selftest=overflow:{stack} ")?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use hv_core::testing::Random;
    use std::string::ToString;

    fn random_vm(r: &mut Random) -> Vm<'static> {
        let places = |r: &mut Random| {
            let place = |r: &mut Random| Place {
                channel: r.next() as u8,
                position: r.below(2) as u8,
            };
            (0..r.below(MAX_MEDIA as u64 + 1))
                .map(|_| place(r))
                .collect()
        };
        let cpus = (r.below(2) == 0).then(|| 1 + r.below(32) as u32);
        let least = cpus.unwrap_or(1);
        Vm {
            memory: (r.below(4) != 0).then(|| (32 + r.below(512 * 1024 - 31)) * MIB),
            cpus,
            max_cpus: (r.below(2) == 0).then(|| least + r.below(u64::from(33 - least)) as u32),
            paging: match r.below(3) {
                0 => Paging::Nested,
                1 => Paging::Shadow,
                _ => Paging::Alternate(1 + r.below(1_000_000) as u32),
            },
            shadow: (r.below(2) == 0).then(|| Shadow::ALL[r.below(3) as usize]),
            record: r.below(10_001) as u32,
            count: r.below(2) == 0,
            cdroms: places(r),
            disks: places(r),
            floppies: places(r),
            boot: r.pick(&[None, Some(BootFrom::Cd), Some(BootFrom::Net)]),
            cmdline: None,
        }
    }

    #[test]
    fn what_the_tool_writes_is_what_umbra_reads() {
        let mut r = Random::from_env("UMBRA_SEED", 11);
        for _ in 0..5_000 {
            let vms: Vec<_> = (0..=r.below(8)).map(|_| random_vm(&mut r)).collect();
            let mut options = Options {
                control: r.pick(&[None, Some(Transport::Com2), Some(Transport::E9)]),
                window: r.below(2) == 0,
                check: r.below(2) == 0,
                overflow: r.pick(&[None, Some("main")]),
                vms,
            };
            options.vms[0].cmdline = r.pick(&[None, Some("quiet vm=3 -- memory=1"), Some("")]);
            let line = options.to_string();
            let read = Options::parse(&line, &mut |word| panic!("{word} is not known"));
            assert_eq!(read, Ok(options.clone()), "{line}");
            assert_eq!(count(&line), options.vms.len());
            assert_eq!(control(&line), options.control);
        }
    }

    #[test]
    fn any_line_is_read_or_refused_and_what_was_read_stays_within_the_limits() {
        let mut r = Random::from_env("UMBRA_SEED", 12);
        let pieces = [
            "memory=",
            "cpus=",
            "max-cpus=",
            "paging=",
            "shadow=",
            "record=",
            "cdrom=",
            "disk=",
            "vm=",
            "control=",
            "window",
            "check",
            "alternate:",
            "ms",
            "nested",
            "unsync",
            "ata",
            ".",
            "com2",
            "e9",
            "M",
            "G",
            "0",
            "1",
            "2",
            "32",
            "512",
            "99999999999999999999",
            " ",
            " ",
            " ",
            " -- ",
            "é",
            "=",
            "-",
            "+",
        ];
        for _ in 0..50_000 {
            let line: String = (0..r.below(20)).map(|_| r.pick(&pieces)).collect();
            assert!((1..=8).contains(&count(&line)));
            match Options::parse(&line, &mut |_| {}) {
                Ok(options) => {
                    assert!((1..=8).contains(&options.vms.len()));
                    for vm in &options.vms {
                        let memory = vm.memory.unwrap_or(MIN_MEMORY);
                        assert!((MIN_MEMORY..=MAX_MEMORY).contains(&memory));
                        assert!(vm.record <= MAX_RECORD);
                        assert!((1..=vm.max_cpus()).contains(&vm.cpus()));
                        assert!(vm.max_cpus() <= MAX_CPUS);
                    }
                    let again = options.to_string();
                    assert_eq!(Options::parse(&again, &mut |_| {}), Ok(options));
                }
                Err(wrong) => assert!(line.contains(wrong.word)),
            }
        }
    }

    #[test]
    fn a_wrong_word_is_named() {
        for (line, word) in [
            ("memory=16M", "memory=16M"),
            ("memory=33000K", "memory=33000K"),
            ("memory=1T", "memory=1T"),
            ("cpus=0", "cpus=0"),
            ("cpus=33", "cpus=33"),
            ("cpus=two", "cpus=two"),
            ("cpus=04", "cpus=04"),
            ("max-cpus=33", "max-cpus=33"),
            ("cpus=4 max-cpus=2", "max-cpus=2"),
            ("max-cpus=2 cpus=4", "cpus=4"),
            ("window paging=both", "paging=both"),
            ("paging=alternate:0ms", "paging=alternate:0ms"),
            ("shadow=none", "shadow=none"),
            ("record=10001", "record=10001"),
            ("cdrom=ata0", "cdrom=ata0"),
            ("disk=ata0.2", "disk=ata0.2"),
            ("boot=hd", "boot=hd"),
            ("vm=3", "vm=3"),
            ("vm=2 vm=2", "vm=2"),
            ("control=com1", "control=com1"),
            ("vm=2 vm=3 vm=4 vm=5 vm=6 vm=7 vm=8 vm=9", "vm=9"),
        ] {
            let wrong = Options::parse(line, &mut |_| {}).unwrap_err();
            assert_eq!(wrong.word, word);
            assert!(wrong.to_string().contains(word));
        }
    }

    #[test]
    fn a_guest_can_have_as_many_cpus_as_it_starts_with_unless_more_are_asked_for() {
        for (line, counts) in [
            ("", (1, 1)),
            ("cpus=4", (4, 4)),
            ("max-cpus=8", (1, 8)),
            ("max-cpus=32 cpus=2", (2, 32)),
            ("cpus=3 max-cpus=3", (3, 3)),
        ] {
            let options = Options::parse(line, &mut |_| {}).unwrap();
            let vm = &options.vms[0];
            assert_eq!((vm.cpus(), vm.max_cpus()), counts, "{line}");
        }
        let options = Options::parse("cpus=4 vm=2 max-cpus=2", &mut |_| {}).unwrap();
        assert_eq!(options.vms[1].cpus(), 1, "each has its own");
    }

    #[test]
    fn places_are_channel_and_position() {
        let at = |channel, position| Place { channel, position };
        assert_eq!("ata0.1".parse(), Ok(at(0, 1)));
        assert_eq!("ata12.0".parse(), Ok(at(12, 0)));
        for bad in [
            "", "ata", "ata0", "ata.1", "ata0.2", "ata0.1.", "sda", "ata00.1", "ata+0.1",
            "ata256.0", "ATA0.1",
        ] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_boot_loaders_add_is_passed_over() {
        let mut unknown = Vec::new();
        let line = "BOOT_IMAGE=/umbra window=1 memory=64M root=x -- memory=1M";
        let options = Options::parse(line, &mut |word| unknown.push(word)).unwrap();
        assert_eq!(unknown, ["BOOT_IMAGE=/umbra", "root=x"]);
        assert!(options.window);
        assert_eq!(options.vms[0].memory, Some(64 * MIB));
        assert_eq!(options.vms[0].cmdline, Some("memory=1M"));
    }
}
