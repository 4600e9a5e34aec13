//! The command line: `key=value` words.

use crate::control::Transport;
use ata::Place;
use hv_core::VmTime;
use npt_shadow::Algorithm;

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
    /// The guest's RAM in bytes.
    pub memory: u64,
    /// How to speak to the host tool, if there is one.
    pub control: Option<Transport>,
    /// Draw the guest's screen on the host's and take its keyboard.
    pub window: bool,
    /// How many exits are recorded into the report.
    pub record: usize,
    /// Check every VM entry by the manual's rules before it is tried (VT-x).
    pub check_entries: bool,
    /// The ATA drive that is the guest's CD-ROM.
    pub cdrom: Option<Place>,
    /// The ATA drive that is the guest's hard disk.
    pub disk: Option<Place>,
    /// How the guest's memory is virtualized.
    pub paging: PagingChoice,
    /// How shadow tables are kept up to date.
    pub shadow: Algorithm,
    /// The guest kernel's command line, when it comes from a boot menu.
    pub cmdline: Option<&'static str>,
}

impl Options {
    /// Reads the command line.
    ///
    /// # Errors
    /// A sentence that names the word that is wrong.
    pub fn parse(line: &'static str) -> Result<Self, alloc::string::String> {
        let mut o = Self {
            memory: 0,
            control: control(line),
            window: false,
            record: 0,
            check_entries: false,
            cdrom: None,
            disk: None,
            paging: PagingChoice::Nested,
            shadow: Algorithm::Unsync,
            cmdline: None,
        };
        let (line, cmdline) = match line.split_once(" -- ") {
            Some((ours, guests)) => (ours, Some(guests)),
            None => (line, None),
        };
        o.cmdline = cmdline;
        for word in line.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            match (key, value) {
                ("memory", v) => {
                    o.memory = size(v).ok_or_else(|| {
                        alloc::format!("memory={v} is not a size such as 512M or 2G")
                    })?
                }
                ("report" | "control", _) => {}
                ("window", _) => o.window = true,
                ("record", v) => {
                    o.record = v
                        .parse()
                        .ok()
                        .filter(|&n| n <= RECORD_LIMIT)
                        .ok_or_else(|| {
                            alloc::format!("record={v} is not a number up to {RECORD_LIMIT}")
                        })?
                }
                ("check", _) => o.check_entries = true,
                ("cdrom", v) => o.cdrom = Some(place(key, v)?),
                ("disk", v) => o.disk = Some(place(key, v)?),
                ("paging", "nested") => o.paging = PagingChoice::Nested,
                ("paging", "shadow") => o.paging = PagingChoice::Shadow,
                ("paging", v) => {
                    o.paging = v
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
                    o.shadow = [Algorithm::Vtlb, Algorithm::Cached, Algorithm::Unsync]
                        .into_iter()
                        .find(|algorithm| algorithm.name() == v)
                        .ok_or_else(|| {
                            alloc::format!("shadow={v} is none of vtlb, cached and unsync")
                        })?;
                }
                // What boot loaders and newer host tools add is not ours to refuse.
                _ => log::info!("command line: {word} means nothing here"),
            }
        }
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
fn place(key: &str, text: &str) -> Result<Place, alloc::string::String> {
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
