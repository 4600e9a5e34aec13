//! What kind of PC a virtual machine is: `os=`, and the words that say one part of it each.
//!
//! `os=` is a preset of what a system likes. A part that is said itself takes its place, wherever it stands on the line.

use core::fmt;
use core::str::FromStr;

use super::nics::{Card, Nics};
use super::value::{CdBus, Console, DiskBus, Enlighten, Nic};

/// The system that a machine is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Os {
    /// Linux.
    Linux,
    /// Windows.
    Windows,
    /// Whatever it is.
    #[default]
    Any,
}

impl Os {
    /// All of them.
    pub const ALL: [Os; 3] = [Os::Linux, Os::Windows, Os::Any];
    /// Their names.
    pub const NAMES: [&'static str; 3] = ["linux", "windows", "any"];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The interfaces of hypervisors that it knows.
    #[must_use]
    pub const fn enlighten(self) -> Enlighten {
        let hyperv = matches!(self, Os::Windows);
        Enlighten {
            kvm: !hyperv,
            hyperv,
        }
    }

    /// What hard disks hang at that it has drivers for.
    #[must_use]
    pub const fn disk_bus(self) -> DiskBus {
        match self {
            Os::Linux => DiskBus::Virtio,
            Os::Windows => DiskBus::Ahci,
            Os::Any => DiskBus::Ide,
        }
    }

    /// What a CD-ROM drive hangs at that it has a driver for.
    #[must_use]
    pub const fn cd_bus(self) -> CdBus {
        match self {
            Os::Windows => CdBus::Ahci,
            Os::Linux | Os::Any => CdBus::Ide,
        }
    }

    /// The network card that it has a driver for.
    #[must_use]
    pub const fn nic(self) -> Nic {
        match self {
            Os::Linux => Nic::Virtio,
            Os::Windows | Os::Any => Nic::E1000,
        }
    }

    /// Whether it has a driver for a virtio entropy device.
    #[must_use]
    pub const fn rng(self) -> bool {
        matches!(self, Os::Linux)
    }

    /// Whether it has a driver for a virtio balloon.
    #[must_use]
    pub const fn balloon(self) -> bool {
        matches!(self, Os::Linux)
    }

    /// Whether it takes the machine's clock for one of local time.
    #[must_use]
    pub const fn has_local_time(self) -> bool {
        matches!(self, Os::Windows)
    }
}

impl FromStr for Os {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Os, Self::Err> {
        let mut all = Os::ALL.into_iter();
        all.find(|os| os.name() == text)
            .ok_or("use linux, windows or any")
    }
}

/// The farthest that a local time is from UTC, in minutes.
pub const MAX_OFFSET: i16 = 14 * 60;

/// The time that the machine's clock shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Rtc {
    /// UTC: that of the host's clock.
    #[default]
    Utc,
    /// Local time: that of the host's clock and so many minutes, up to [`MAX_OFFSET`] either way.
    Local(i16),
}

impl Rtc {
    /// How many seconds it is ahead of the host's clock.
    #[must_use]
    pub const fn ahead(self) -> i64 {
        match self {
            Rtc::Utc => 0,
            Rtc::Local(minutes) => minutes as i64 * 60,
        }
    }
}

impl fmt::Display for Rtc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rtc::Utc => f.write_str("utc"),
            Rtc::Local(0) => f.write_str("local"),
            Rtc::Local(minutes) => write!(f, "local:{minutes:+}"),
        }
    }
}

impl FromStr for Rtc {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Rtc, Self::Err> {
        match text {
            "utc" => return Ok(Rtc::Utc),
            "local" => return Ok(Rtc::Local(0)),
            _ => {}
        }
        let minutes = text.strip_prefix("local:").and_then(|text| {
            let signed = text.starts_with(['+', '-']);
            let minutes: i16 = signed.then(|| text.parse().ok()).flatten()?;
            (minutes != 0 && minutes.unsigned_abs() <= MAX_OFFSET.unsigned_abs()).then_some(minutes)
        });
        minutes
            .map(Rtc::Local)
            .ok_or("use utc, local, or local with the minutes from UTC, as in local:+120")
    }
}

/// What becomes of an access to a model-specific register that is not there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum UnknownMsrs {
    /// It raises #GP, as in a CPU.
    #[default]
    Fault,
    /// It reads 0, and a write has no effect.
    Ignore,
}

impl UnknownMsrs {
    const ALL: [UnknownMsrs; 2] = [UnknownMsrs::Fault, UnknownMsrs::Ignore];
    /// Their names.
    pub const NAMES: [&'static str; 2] = ["fault", "ignore"];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl FromStr for UnknownMsrs {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.into_iter();
        all.find(|way| way.name() == text)
            .ok_or("use fault or ignore")
    }
}

/// What kind of PC it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Profile {
    /// The system that it is for, which decides what is not said.
    pub os: Os,
    /// The interfaces of hypervisors that the guest is offered, if that is said.
    pub enlighten: Option<Enlighten>,
    /// The time that its clock shows, if that is said.
    pub rtc: Option<Rtc>,
    /// What becomes of an access to a model-specific register that is not there.
    pub unknown_msrs: UnknownMsrs,
    /// Whether there are high precision event timers.
    pub hpet: bool,
    /// What its hard disks hang at, if that is said.
    pub disk_bus: Option<DiskBus>,
    /// What its CD-ROM drive hangs at, if that is said.
    pub cd_bus: Option<CdBus>,
    /// Its network cards, if they are said.
    pub nics: Nics,
    /// What its terminal is connected to.
    pub console: Console,
    /// Whether it has a virtio entropy device, if that is said.
    pub rng: Option<bool>,
    /// Whether it has a virtio balloon, if that is said.
    pub balloon: Option<bool>,
}

/// Whether something is there.
fn switch(value: &str) -> Result<bool, &'static str> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err("use on or off"),
    }
}

/// The word for whether something is there.
const fn on_or_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

impl Profile {
    /// What its hard disks hang at.
    #[must_use]
    pub fn disk_bus(&self) -> DiskBus {
        self.disk_bus.unwrap_or(self.os.disk_bus())
    }

    /// What its CD-ROM drive hangs at.
    #[must_use]
    pub fn cd_bus(&self) -> CdBus {
        self.cd_bus.unwrap_or(self.os.cd_bus())
    }

    /// Its network cards.
    pub fn nics(&self) -> impl Iterator<Item = Card> {
        self.nics.or(self.os.nic())
    }

    /// Whether it has a virtio entropy device.
    #[must_use]
    pub fn rng(&self) -> bool {
        self.rng.unwrap_or(self.os.rng())
    }

    /// Whether it has a virtio balloon.
    #[must_use]
    pub fn balloon(&self) -> bool {
        self.balloon.unwrap_or(self.os.balloon())
    }

    /// The interfaces of hypervisors that the guest is offered.
    #[must_use]
    pub fn enlighten(&self) -> Enlighten {
        self.enlighten.unwrap_or(self.os.enlighten())
    }

    /// The time that its clock shows.
    #[must_use]
    pub fn rtc(&self) -> Rtc {
        self.rtc.unwrap_or(match self.os.has_local_time() {
            true => Rtc::Local(0),
            false => Rtc::Utc,
        })
    }

    /// Takes one word of these. False: it means nothing here.
    ///
    /// # Errors
    /// A sentence that says what can be written.
    pub fn take(&mut self, key: &str, value: &str) -> Result<bool, &'static str> {
        match key {
            "os" => self.os = value.parse()?,
            "enlighten" => self.enlighten = Some(value.parse()?),
            "rtc" => self.rtc = Some(value.parse()?),
            "unknown-msrs" => self.unknown_msrs = value.parse()?,
            "hpet" => self.hpet = switch(value)?,
            "disk-bus" => self.disk_bus = Some(value.parse()?),
            "cd-bus" => self.cd_bus = Some(value.parse()?),
            "nic" => self.nics.add(value.parse()?)?,
            "console" => self.console = value.parse()?,
            "rng" => self.rng = Some(switch(value)?),
            "balloon" => self.balloon = Some(switch(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// All that is decided, for people.
    #[must_use]
    pub fn decided(&self) -> Decided {
        Decided(*self)
    }
}

/// The words that say it, each with a space behind it.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Profile {
            os,
            enlighten,
            rtc,
            unknown_msrs,
            hpet,
            disk_bus,
            cd_bus,
            nics,
            console,
            rng,
            balloon,
        } = self;
        if *os != Os::default() {
            write!(f, "os={} ", os.name())?;
        }
        if let Some(enlighten) = enlighten {
            write!(f, "enlighten={enlighten} ")?;
        }
        if let Some(rtc) = rtc {
            write!(f, "rtc={rtc} ")?;
        }
        if *unknown_msrs != UnknownMsrs::default() {
            write!(f, "unknown-msrs={} ", unknown_msrs.name())?;
        }
        f.write_str(if *hpet { "hpet=on " } else { "" })?;
        if let Some(disk_bus) = disk_bus {
            write!(f, "disk-bus={} ", disk_bus.name())?;
        }
        if let Some(cd_bus) = cd_bus {
            write!(f, "cd-bus={} ", cd_bus.name())?;
        }
        write!(f, "{nics}")?;
        if *console != Console::default() {
            write!(f, "console={} ", console.name())?;
        }
        if let Some(rng) = rng {
            write!(f, "rng={} ", on_or_off(*rng))?;
        }
        if let Some(balloon) = balloon {
            write!(f, "balloon={} ", on_or_off(*balloon))?;
        }
        Ok(())
    }
}

/// A [`Profile`] with each part as it is, said or not.
pub struct Decided(Profile);

impl fmt::Display for Decided {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.0;
        write!(
            f,
            "os {}: enlighten {}, rtc {}, unknown-msrs {}, hpet {}, disk-bus {}, cd-bus {}, nic ",
            all.os.name(),
            all.enlighten(),
            all.rtc(),
            all.unknown_msrs.name(),
            on_or_off(all.hpet),
            all.disk_bus().name(),
            all.cd_bus().name(),
        )?;
        for (n, card) in all.nics().enumerate() {
            write!(f, "{}{card}", if n == 0 { "" } else { " and " })?;
        }
        if all.nics().next().is_none() {
            f.write_str(Nic::None.name())?;
        }
        let (console, rng) = (all.console.name(), on_or_off(all.rng()));
        let balloon = on_or_off(all.balloon());
        write!(f, ", console {console}, rng {rng}, balloon {balloon}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::string::ToString;

    fn read(line: &str) -> Profile {
        let mut profile = Profile::default();
        for word in line.split_whitespace() {
            let (key, value) = word.split_once('=').expect("it is a word with a value");
            assert_eq!(profile.take(key, value), Ok(true), "{word}");
        }
        profile
    }

    #[test]
    fn each_part_of_a_preset_is_settable_alone_wherever_it_stands() {
        assert_eq!(
            read("").decided().to_string(),
            "os any: enlighten kvm, rtc utc, unknown-msrs fault, hpet off, disk-bus ide, cd-bus ide, nic e1000, console serial, rng off, balloon off"
        );
        assert_eq!(
            read("os=windows").decided().to_string(),
            "os windows: enlighten hyperv, rtc local, unknown-msrs fault, hpet off, disk-bus ahci, cd-bus ahci, nic e1000, console serial, rng off, balloon off"
        );
        let windows = "os windows: enlighten none, rtc local:-330, unknown-msrs ignore, hpet on, disk-bus virtio, cd-bus ide, nic none, console virtio, rng on, balloon on";
        let words = [
            "enlighten=none",
            "rtc=local:-330",
            "unknown-msrs=ignore",
            "hpet=on",
            "disk-bus=virtio",
            "cd-bus=ide",
            "nic=none",
            "console=virtio",
            "rng=on",
            "balloon=on",
            "os=windows",
        ];
        for turn in 0..words.len() {
            let mut line = words;
            line.rotate_left(turn);
            assert_eq!(read(&line.join(" ")).decided().to_string(), windows);
        }
        assert_eq!(read("os=windows rtc=utc").rtc(), Rtc::Utc);
        let linux = read("os=linux");
        assert_eq!(linux.enlighten(), Enlighten::default());
        assert_eq!(
            (linux.disk_bus(), linux.nics().next()),
            (DiskBus::Virtio, Some(Nic::Virtio.into()))
        );
        assert!(linux.rng() && linux.balloon());
    }

    #[test]
    fn local_time_is_at_most_fourteen_hours_away() {
        assert_eq!("local:+840".parse(), Ok(Rtc::Local(840)));
        assert_eq!("local:-840".parse(), Ok(Rtc::Local(-840)));
        assert_eq!(Rtc::Local(-90).ahead(), -5400);
        for wrong in [
            "local:+841",
            "local:840",
            "local:+0",
            "local:",
            "Local",
            "local:-32768",
            "local:+99999",
        ] {
            assert!(wrong.parse::<Rtc>().is_err(), "{wrong}");
        }
    }
}
