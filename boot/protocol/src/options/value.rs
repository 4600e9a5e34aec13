//! What stands behind the `=` of an option.

use core::fmt;
use core::str::FromStr;

/// Mebibyte.
pub(super) const MIB: u64 = 1 << 20;

/// The least memory of a guest in bytes: with less no supported system gets through its firmware and loader.
pub const MIN_MEMORY: u64 = 32 * MIB;

/// The most memory of a guest in bytes: physical addresses of 40 bits, which every processor with nested paging has, less what devices
/// and a host take.
pub const MAX_MEMORY: u64 = 512 << 30;

/// The most virtual CPUs of a guest.
pub const MAX_CPUS: u32 = 32;
/// What the length of a firmware image with its variable store is a multiple of, in bytes, and the most that it may be.
pub const FIRMWARE_STEP: u64 = 64 << 10;
/// See [`FIRMWARE_STEP`].
pub const MAX_FIRMWARE: u64 = 16 << 20;

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

    pub(super) const fn name(self) -> &'static str {
        match self {
            Transport::Com2 => "com2",
            Transport::E9 => "e9",
        }
    }
}

impl FromStr for Transport {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Transport, Self::Err> {
        let mut all = Transport::ALL.into_iter();
        all.find(|transport| transport.name() == text)
            .ok_or("use com2 or e9")
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
    /// They are kept, and leaf tables may be out of sync until the guest flushes.
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

/// What a guest's hard disks hang at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DiskBus {
    /// IDE channels, which every system has a driver for.
    #[default]
    Ide,
    /// Ports of an AHCI controller, which every system of the last fifteen years has a driver for.
    Ahci,
    /// Virtio functions on the PCI bus.
    Virtio,
}

impl DiskBus {
    /// All of them.
    pub const ALL: [DiskBus; 3] = [DiskBus::Ide, DiskBus::Ahci, DiskBus::Virtio];
    /// Their names.
    pub const NAMES: [&'static str; 3] = ["ide", "ahci", "virtio"];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for DiskBus {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<DiskBus, Self::Err> {
        let mut all = DiskBus::ALL.into_iter();
        all.find(|bus| bus.name() == text)
            .ok_or("use ide, ahci or virtio")
    }
}

/// What a guest's CD-ROM drive hangs at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CdBus {
    /// An IDE channel.
    #[default]
    Ide,
    /// A port of an AHCI controller.
    Ahci,
}

impl CdBus {
    /// All of them.
    pub const ALL: [CdBus; 2] = [CdBus::Ide, CdBus::Ahci];
    /// Their names.
    pub const NAMES: [&'static str; 2] = ["ide", "ahci"];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for CdBus {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<CdBus, Self::Err> {
        let mut all = CdBus::ALL.into_iter();
        all.find(|bus| bus.name() == text).ok_or("use ide or ahci")
    }
}

/// A guest's network card.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Nic {
    /// An NE2000 (RTL8029), which every system but 64-bit Windows has a driver for.
    #[default]
    Ne2k,
    /// An 82540EM, an Intel card of 1000 Mbit/s.
    E1000,
    /// A virtio network device.
    Virtio,
    /// None.
    None,
}

impl Nic {
    /// All of them.
    pub const ALL: [Nic; 4] = [Nic::Ne2k, Nic::E1000, Nic::Virtio, Nic::None];
    /// Their names.
    pub const NAMES: [&'static str; 4] = ["ne2k", "e1000", "virtio", "none"];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for Nic {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Nic, Self::Err> {
        let mut all = Nic::ALL.into_iter();
        all.find(|nic| nic.name() == text)
            .ok_or("use ne2k, e1000, virtio or none")
    }
}

/// What a guest's terminal is connected to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Console {
    /// COM1, which every system knows.
    #[default]
    Serial,
    /// A virtio console, and COM1 as long as nothing drives that.
    Virtio,
}

impl Console {
    /// All of them.
    pub const ALL: [Console; 2] = [Console::Serial, Console::Virtio];
    /// Their names.
    pub const NAMES: [&'static str; 2] = ["serial", "virtio"];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for Console {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Console, Self::Err> {
        let mut all = Console::ALL.into_iter();
        all.find(|console| console.name() == text)
            .ok_or("use serial or virtio")
    }
}

/// The interfaces of hypervisors that a guest is offered, beside what a PC has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Enlighten {
    /// KVM's.
    pub kvm: bool,
    /// Microsoft's.
    pub hyperv: bool,
}

impl Default for Enlighten {
    fn default() -> Self {
        Self {
            kvm: true,
            hyperv: false,
        }
    }
}

impl fmt::Display for Enlighten {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.kvm, self.hyperv) {
            (false, false) => "none",
            (true, false) => "kvm",
            (false, true) => "hyperv",
            (true, true) => "kvm,hyperv",
        })
    }
}

impl FromStr for Enlighten {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Enlighten, Self::Err> {
        let mut all = Enlighten {
            kvm: false,
            hyperv: false,
        };
        if text == "none" {
            return Ok(all);
        }
        for name in text.split(',') {
            match name {
                "kvm" => all.kvm = true,
                "hyperv" => all.hyperv = true,
                _ => return Err("use kvm, hyperv, both as in kvm,hyperv, or none"),
            }
        }
        Ok(all)
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
        place().ok_or("a drive is named as in ata0.1, or ata0.1,readonly")
    }
}

/// A drive of the host that a guest gets, as in `ata0.1` and `ata0.1,readonly`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HostDrive {
    /// Where it is.
    pub place: Place,
    /// Whether nothing is ever written to it.
    pub readonly: bool,
}

/// What stands behind the name of a drive that is only read.
const READONLY: &str = ",readonly";

impl fmt::Display for HostDrive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let readonly = if self.readonly { READONLY } else { "" };
        write!(f, "{}{readonly}", self.place)
    }
}

impl FromStr for HostDrive {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let place = text.strip_suffix(READONLY);
        Ok(Self {
            place: place.unwrap_or(text).parse()?,
            readonly: place.is_some(),
        })
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
pub(super) fn number<T: FromStr>(text: &str) -> Option<T> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = plain && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

/// Bytes of memory in `text`: a number, with K, M or G behind it or of bytes.
#[must_use]
pub fn memory(text: &str) -> Option<u64> {
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
