//! What kind of PC a virtual machine is: the preset and its parts, as they are typed.

use std::process::Command;

use anyhow::{Context, Result};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use protocol::options::{
    Card, CdBus, Console, DiskBus, Enlighten, MAX_OFFSET, Nics, Os, Profile, Rtc, UnknownMsrs,
};

/// Whether there is something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// There is.
    On,
    /// There is not.
    Off,
}

/// The options.
#[derive(Debug, Clone, Args)]
pub struct ProfileArgs {
    /// The system that the machine is for: a preset of what it likes, each part of which can be set alone. any: --enlighten kvm
    /// --rtc utc --disk-bus ide --cd-bus ide --nic e1000. linux: the same with --disk-bus virtio --nic virtio --rng on --balloon on. windows: --enlighten hyperv --rtc local
    /// --disk-bus ahci --cd-bus ahci --nic e1000
    #[arg(long, default_value = "any", value_parser = PossibleValuesParser::new(Os::NAMES).try_map(|name| name.parse::<Os>()))]
    pub os: Os,
    /// The interfaces of hypervisors that the guest is offered: kvm, hyperv (Microsoft's, for Windows), both as in kvm,hyperv, or none.
    /// Linux takes KVM's where there are both [default: kvm, with --os windows hyperv]
    #[arg(long, value_name = "NAMES")]
    pub enlighten: Option<Enlighten>,
    /// The time that the machine's clock shows when it starts: utc, or the local time of this computer [default: utc, with --os windows
    /// local]
    #[arg(long, value_enum, value_name = "TIME")]
    pub rtc: Option<Zone>,
    /// What becomes of accesses to model-specific registers that the machine does not have: fault (#GP, as in a CPU), or ignore (they
    /// read 0). Umbra's log names each once
    #[arg(long, default_value = "fault", value_parser = PossibleValuesParser::new(UnknownMsrs::NAMES).try_map(|name| name.parse::<UnknownMsrs>()))]
    pub unknown_msrs: UnknownMsrs,
    /// High precision event timers (HPET): on or off. Systems that find them may use them as their clock, each reading of which is an exit
    /// [default: off]
    #[arg(long, value_enum)]
    pub hpet: Option<Switch>,
    /// What the hard disks hang at: ide, which every system has a driver for, ahci, which every system of the last fifteen years has one for,
    /// with fewer exits, or virtio, which Linux, the BSDs, SeaBIOS and OVMF know, with the fewest [default: ide, with --os linux virtio, with
    /// --os windows ahci]
    #[arg(long, value_name = "BUS", value_parser = PossibleValuesParser::new(DiskBus::NAMES).try_map(|name| name.parse::<DiskBus>()))]
    pub disk_bus: Option<DiskBus>,
    /// What the CD-ROM drive hangs at: ide or ahci [default: ide, with --os windows ahci]
    #[arg(long, value_name = "BUS", value_parser = PossibleValuesParser::new(CdBus::NAMES).try_map(|name| name.parse::<CdBus>()))]
    pub cd_bus: Option<CdBus>,
    /// A network card: ne2k (an NE2000, for systems before 2000 and 32-bit Windows up to XP), e1000 (an Intel 82540EM, which every later system has a driver for), virtio, or
    /// none; with ,mac=ADDRESS behind it, one with this address. May be repeated, up to four [default: e1000, with --os linux virtio]
    #[arg(long, value_name = "CARD")]
    pub nic: Vec<Card>,
    /// What the terminal is connected to: serial (COM1), or virtio, a virtio console (hvc0 in Linux), which costs two exits for a line and not several
    /// for a byte; COM1 works beside it
    #[arg(long, default_value = "serial", value_name = "DEVICE", value_parser = PossibleValuesParser::new(Console::NAMES).try_map(|name| name.parse::<Console>()))]
    pub console: Console,
    /// A virtio entropy device, which gives what the host's RDSEED or RDRAND does: on or off [default: off, with --os linux on]
    #[arg(long, value_enum)]
    pub rng: Option<Switch>,
    /// A virtio balloon: `balloon SIZE` at Umbra's console says how much memory the guest is to have, and the rest is free for other machines. So is all
    /// of it when the guest has switched its machine off: on or off [default: off, with --os linux on]
    #[arg(long, value_enum)]
    pub balloon: Option<Switch>,
}

/// A time that a machine's clock can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Zone {
    /// UTC.
    Utc,
    /// This computer's local time.
    Local,
}

impl ProfileArgs {
    /// What Umbra is told, which does not know where this computer is.
    ///
    /// # Errors
    ///
    /// The local time cannot be found out.
    pub fn profile(&self) -> Result<Profile> {
        let local = match self.rtc {
            Some(zone) => zone == Zone::Local,
            None => self.os.has_local_time(),
        };
        let rtc = match (local, self.rtc) {
            (true, _) => Some(Rtc::Local(minutes_from_utc()?)),
            (false, Some(_)) => Some(Rtc::Utc),
            (false, None) => None,
        };
        let mut nics = Nics::default();
        for card in &self.nic {
            nics.add(*card).map_err(anyhow::Error::msg)?;
        }
        Ok(Profile {
            os: self.os,
            enlighten: self.enlighten,
            rtc,
            unknown_msrs: self.unknown_msrs,
            hpet: self.hpet == Some(Switch::On),
            disk_bus: self.disk_bus,
            cd_bus: self.cd_bus,
            nics,
            console: self.console,
            rng: self.rng.map(|rng| rng == Switch::On),
            balloon: self.balloon.map(|balloon| balloon == Switch::On),
        })
    }
}

/// How far this computer's local time is from UTC now.
fn minutes_from_utc() -> Result<i16> {
    let date = Command::new("date").arg("+%z").output();
    let date = date.context("date(1), which knows the local time")?;
    let text = String::from_utf8_lossy(&date.stdout);
    offset(text.trim()).with_context(|| format!("date +%z says {text:?}"))
}

/// The minutes that `+hhmm` stands for.
fn offset(text: &str) -> Option<i16> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let plain = digits.len() == 4 && digits.bytes().all(|byte| byte.is_ascii_digit());
    let number: i16 = plain.then(|| digits.parse().ok()).flatten()?;
    let minutes = number / 100 * 60 + number % 100;
    (minutes <= MAX_OFFSET).then_some(sign * minutes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_time_is_what_date_says() {
        assert_eq!(offset("+0000"), Some(0));
        assert_eq!(offset("+0545"), Some(345));
        assert_eq!(offset("-0330"), Some(-210));
        for wrong in ["", "0100", "+1", "+01:00", "+9900", "é0100"] {
            assert_eq!(offset(wrong), None, "{wrong}");
        }
        assert!(minutes_from_utc().is_ok());
    }

    #[test]
    fn the_tool_says_the_local_time_where_the_preset_or_the_option_wants_it() {
        let args = |os, rtc| ProfileArgs {
            os,
            enlighten: None,
            rtc,
            unknown_msrs: UnknownMsrs::Fault,
            hpet: None,
            disk_bus: None,
            cd_bus: None,
            nic: Vec::new(),
            console: Console::Serial,
            rng: None,
            balloon: None,
        };
        let rtc = |os, zone| args(os, zone).profile().unwrap().rtc;
        let local = Some(Rtc::Local(minutes_from_utc().unwrap()));
        assert_eq!(rtc(Os::Any, None), None);
        assert_eq!(rtc(Os::Any, Some(Zone::Local)), local);
        assert_eq!(rtc(Os::Windows, None), local);
        assert_eq!(rtc(Os::Windows, Some(Zone::Utc)), Some(Rtc::Utc));
    }
}
