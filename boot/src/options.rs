//! The command line: `key=value` words.

use crate::control::Transport;
use alloc::string::String;
use alloc::vec::Vec;
use ata::Place;
use hv_core::VmTime;
use hv_core::machine::BootFrom;
use npt_shadow::Algorithm;

/// VMs at most: what the host tool's protocol, the switch and Umbra's memory have room for.
pub const VMS: usize = 8;

/// The most exits that can be recorded: they are kept on Umbra's heap.
const RECORD_LIMIT: usize = 10_000;

/// How the guest's memory is virtualized.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PagingChoice {
    /// The CPU walks a second set of tables.
    Nested,
    /// Umbra makes the tables that the CPU walks from the guest's.
    Shadow,
    /// One and the other in turn, for this long each.
    Alternate(VmTime),
}

impl PagingChoice {
    /// Whether the CPU has to have nested paging.
    pub fn needs_nested(self) -> bool {
        self != PagingChoice::Shadow
    }

    /// Its name on command lines and in reports.
    pub const fn name(self) -> &'static str {
        match self {
            PagingChoice::Nested => "nested",
            PagingChoice::Shadow => "shadow",
            PagingChoice::Alternate(_) => "alternate",
        }
    }
}

/// What the user asked for.
pub struct Options {
    /// How to speak to the host tool, if there is one.
    pub control: Option<Transport>,
    /// Draw the guest's screen on the host's and take its keyboard.
    pub window: bool,
    /// Check every VM entry by the manual's rules before it is tried (VT-x).
    pub check_entries: bool,
    /// The VMs: at least one.
    pub vms: Vec<VmOptions>,
}

/// What the user asked for of one VM.
#[derive(Clone)]
pub struct VmOptions {
    /// The guest's RAM in bytes; 0: the user did not say.
    pub memory: u64,
    /// How many exits are recorded into the report.
    pub record: usize,
    /// The ATA drives that are the guest's CD-ROMs: the first is in its drive.
    pub cdroms: Vec<Place>,
    /// The ATA drives that are the guest's hard disks.
    pub disks: Vec<Place>,
    /// The ATA drives that are the guest's floppies: the first is in its drive.
    pub floppies: Vec<Place>,
    /// What the firmware boots first.
    pub boot: Option<BootFrom>,
    /// How the guest's memory is virtualized.
    pub paging: PagingChoice,
    /// How shadow tables are kept up to date.
    pub shadow: Algorithm,
    /// The guest kernel's command line, when it comes from a boot menu.
    pub cmdline: Option<&'static str>,
}

/// What stands before the names of a VM's modules and media: nothing for the first.
pub fn prefix(vm: usize) -> String {
    match vm {
        1 => String::new(),
        _ => alloc::format!("vm{vm}-"),
    }
}

/// How many VMs the command line asks for, whatever else may be wrong with it.
pub fn vms(line: &str) -> usize {
    let words = line.split_whitespace().take_while(|&word| word != "--");
    1 + words.filter(|word| word.starts_with("vm=")).count()
}

impl VmOptions {
    const fn new() -> Self {
        Self {
            memory: 0,
            record: 0,
            cdroms: Vec::new(),
            disks: Vec::new(),
            floppies: Vec::new(),
            boot: None,
            paging: PagingChoice::Nested,
            shadow: Algorithm::Unsync,
            cmdline: None,
        }
    }

    /// Takes one word. None: it means nothing here.
    fn take(&mut self, key: &str, value: &str) -> Result<Option<()>, String> {
        match (key, value) {
            ("memory", v) => {
                self.memory = size(v)
                    .ok_or_else(|| alloc::format!("memory={v} is not a size such as 512M or 2G"))?;
            }
            ("record", v) => {
                self.record = v
                    .parse()
                    .ok()
                    .filter(|&n| n <= RECORD_LIMIT)
                    .ok_or_else(|| {
                        alloc::format!("record={v} is not a number up to {RECORD_LIMIT}")
                    })?;
            }
            ("cdrom", v) => self.cdroms.push(place(key, v)?),
            ("disk", v) => self.disks.push(place(key, v)?),
            ("floppy", v) => self.floppies.push(place(key, v)?),
            ("boot", v) => {
                self.boot = Some(match v {
                    "cd" => BootFrom::Cdrom,
                    "disk" => BootFrom::Disk,
                    "floppy" => BootFrom::Floppy,
                    "net" => BootFrom::Network,
                    _ => {
                        return Err(alloc::format!(
                            "boot={v} is none of cd, disk, floppy and net"
                        ));
                    }
                });
            }
            ("paging", "nested") => self.paging = PagingChoice::Nested,
            ("paging", "shadow") => self.paging = PagingChoice::Shadow,
            ("paging", v) => {
                self.paging = v
                    .strip_prefix("alternate:")
                    .and_then(|time| time.strip_suffix("ms")?.parse().ok())
                    .filter(|time| (1..=1_000_000).contains(time))
                    .map(|time| PagingChoice::Alternate(VmTime::from_millis(time)))
                    .ok_or_else(|| {
                        alloc::format!(
                            "paging={v} is none of nested, shadow, and a time such as alternate:100ms"
                        )
                    })?;
            }
            ("shadow", v) => {
                self.shadow = [Algorithm::Vtlb, Algorithm::Cached, Algorithm::Unsync]
                    .into_iter()
                    .find(|algorithm| algorithm.name() == v)
                    .ok_or_else(|| {
                        alloc::format!("shadow={v} is none of vtlb, cached and unsync")
                    })?;
            }
            _ => return Ok(None),
        }
        Ok(Some(()))
    }
}

impl Options {
    /// Reads the command line. Words behind `vm=2` are the second VM's, and so on.
    ///
    /// # Errors
    /// A sentence that names the word that is wrong.
    pub fn parse(line: &'static str) -> Result<Self, String> {
        let mut o = Self {
            control: control(line),
            window: false,
            check_entries: false,
            vms: Vec::new(),
        };
        let (line, cmdline) = match line.split_once(" -- ") {
            Some((ours, guests)) => (ours, Some(guests)),
            None => (line, None),
        };
        let mut vm = VmOptions {
            cmdline,
            ..VmOptions::new()
        };
        for word in line.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match (key, value) {
                ("report" | "control", _) => {}
                ("window", _) => o.window = true,
                ("check", _) => o.check_entries = true,
                ("vm", v) => {
                    o.vms.push(core::mem::replace(&mut vm, VmOptions::new()));
                    if v.parse() != Ok(o.vms.len() + 1) || o.vms.len() == VMS {
                        return Err(alloc::format!(
                            "vm={v} is not the next virtual machine's number, of {VMS} at most"
                        ));
                    }
                }
                // What boot loaders and newer host tools add is not ours to refuse.
                _ if vm.take(key, value)?.is_none() => {
                    log::info!("command line: {word} means nothing here");
                }
                _ => {}
            }
        }
        o.vms.push(vm);
        Ok(o)
    }
}

/// The way to the host tool, whatever else may be wrong with the line.
pub fn control(line: &str) -> Option<Transport> {
    let mut words = line.split_whitespace().take_while(|&word| word != "--");
    words.find_map(|word| match word {
        "control=com2" => Some(Transport::Com2),
        "control=e9" => Some(Transport::E9),
        _ => None,
    })
}

/// A drive.
fn place(key: &str, text: &str) -> Result<Place, String> {
    text.parse()
        .map_err(|()| alloc::format!("{key}={text} does not name a drive, as ata0.1 does"))
}

/// A size with an optional K, M or G.
fn size(text: &str) -> Option<u64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'K' | b'k' => (&text[..text.len() - 1], 10),
        b'M' | b'm' => (&text[..text.len() - 1], 20),
        b'G' | b'g' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}
