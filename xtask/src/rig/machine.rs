//! What an outer machine is made of.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Result;
use protocol::options::{MAX_MEMORY, MIN_MEMORY, Nic};
pub use protocol::options::{Paging, Shadow};

use super::Rig;
use crate::media::Format;
pub use crate::module::{Boot, Module};
use crate::outcome::refuse;

/// What the guest's network card is connected to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Net {
    /// Nothing.
    #[default]
    None,
    /// This machine's own network, as a program of this user reaches it: the emulator translates addresses.
    User,
    /// A TAP interface of this machine.
    Tap(String),
}

impl FromStr for Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Net, String> {
        match (text, text.strip_prefix("tap:")) {
            ("none", _) => Ok(Net::None),
            ("user", _) => Ok(Net::User),
            (_, Some(name)) if !name.is_empty() && !name.contains([',', '/', ' ']) => {
                Ok(Net::Tap(name.to_owned()))
            }
            _ => Err("use user, none, or the name of a TAP interface as in tap:tap0".to_owned()),
        }
    }
}

/// A port of this machine that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// The TCP port of this machine, on its loopback interface.
    pub host: u16,
    /// The guest's.
    pub guest: u16,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Forward, String> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|&port| port != 0);
        text.split_once(':')
            .and_then(|(host, guest)| {
                Some(Forward {
                    host: port(host)?,
                    guest: port(guest)?,
                })
            })
            .ok_or_else(|| "use HOSTPORT:GUESTPORT, as in 8080:80".to_owned())
    }
}

/// The network of the outer machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Network {
    /// What its card is connected to.
    pub net: Net,
    /// Ports that lead to the guest, with [`Net::User`].
    pub forwards: Vec<Forward>,
    /// The card of a guest that runs without Umbra.
    pub native_card: Nic,
    /// A directory whose files the guest can have by TFTP, with [`Net::User`].
    pub tftp: Option<PathBuf>,
    /// Where QEMU writes all frames that it exchanges with the machine's card.
    pub capture: Option<PathBuf>,
}

pub use crate::size::{MIB, bytes};

/// Reads the memory size that the option `option` has: a number of MiB, or one with the unit K, M, G or T, in whole MiB. The result is in
/// bytes.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) for what is no size, or a size no guest can have.
pub fn parse_memory(option: &str, text: &str) -> Result<u64> {
    match bytes(text, &[('k', 1 << 10), ('m', MIB)], 'm') {
        None => refuse!("{option} {text} is not a size; write it like 512M or 1G"),
        Some(bytes) if bytes < MIN_MEMORY => refuse!("{option} {text} is too little: 32M at least"),
        Some(bytes) if bytes > MAX_MEMORY => refuse!("{option} {text} is too much: 512G at most"),
        Some(bytes) if bytes % MIB != 0 => refuse!("{option} {text} is not a whole number of MiB"),
        Some(bytes) => Ok(bytes),
    }
}

/// The most CPUs of the outer machine, if its rig has no lower limit.
pub const MAX_HOST_CPUS: u32 = 32;

/// Reads what `option` says of CPUs: a number up to `most`.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused) for any other text.
pub fn parse_cpus(option: &str, text: &str, most: u32) -> Result<u32> {
    match text.parse() {
        Ok(cpus) if (1..=most).contains(&cpus) => Ok(cpus),
        _ => refuse!("{option} {text} is not a number of CPUs from 1 to {most}"),
    }
}

/// The CPUs of an outer machine of `rig` for guests with so many CPUs in all, where nothing is said: what they can use and this computer has.
pub fn host_cpus(rig: &dyn Rig, guests: u32) -> u32 {
    if !rig.runs_in_parallel() {
        return 1;
    }
    let here = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    guests.min(here).min(rig.most_cpus()).max(1)
}

/// What a QEMU machine's disk is attached to. Bochs has only IDE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bus {
    /// A PCI function of its own.
    Virtio,
    /// The IDE controller.
    Ide,
    /// A port of an AHCI controller: for guests without Umbra, which has no driver for it.
    Ahci,
}

/// A disk of the outer machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drive {
    /// What it is to Umbra, as the disk's serial number or model: `umbra-disk`, `umbra-cdrom`, or `umbra-cdrom2` and so on for further
    /// media of the CD-ROM drive.
    pub serial: String,
    /// Where it is on this machine.
    pub path: PathBuf,
    /// Whether the guest may write. On IDE, what it may not write is a CD.
    pub writable: bool,
    /// What QEMU opens it as. Bochs has only raw disks.
    pub format: Format,
    /// What it is attached to.
    pub bus: Bus,
}

/// Where what was left in an outer machine's memory begins.
pub const REMAINS: u64 = 16 * MIB;

/// A whole outer machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// Where it comes from.
    pub rig: &'static dyn Rig,
    /// Its CPU, as the emulator calls it.
    pub cpu_model: String,
    /// How many of these it has.
    pub cpus: u32,
    /// Its memory in bytes.
    pub memory: u64,
    /// What it starts.
    pub boot: Boot,
    /// Its disks.
    pub drives: Vec<Drive>,
    /// Its network.
    pub network: Network,
    /// What is in its memory when it starts, from [`REMAINS`] on. QEMU only.
    pub remains: Option<PathBuf>,
    /// Whether nothing is kept of what is written to its disks. QEMU only.
    pub snapshot: bool,
    /// Whether it counts instructions instead of measuring time.
    pub icount: bool,
    /// What shows its screen, if anything does.
    pub display: Option<Display>,
    /// Whether its pointing device is a tablet, too. QEMU only.
    pub tablet: bool,
}

/// What shows an outer machine's screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Display {
    /// A window, by this window system of the emulator.
    Window(&'static str),
    /// A VNC server at this address.
    Vnc(Vnc),
}

/// Where a VNC server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vnc(SocketAddr);

/// The port of a VNC server's display 0 (RFC 6143, 3, "Initial Connection").
const VNC_PORT: u16 = 5900;

impl Vnc {
    /// Its address.
    pub fn ip(self) -> IpAddr {
        self.0.ip()
    }

    /// Its display: its port, from [`VNC_PORT`].
    pub fn display(self) -> u16 {
        self.0.port() - VNC_PORT
    }
}

impl FromStr for Vnc {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Vnc, Self::Err> {
        let address = match text.parse::<u16>() {
            Ok(port) => SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
            Err(_) => text
                .parse()
                .map_err(|_| "use a port, or an address and a port as in 192.168.1.2:5900")?,
        };
        if address.port() < VNC_PORT {
            return Err("ports of VNC servers are 5900 and above");
        }
        Ok(Vnc(address))
    }
}

/// The memory that the outer machine needs for a guest of `guest` bytes and modules of `modules` bytes.
pub fn outer_memory(guest: u64, modules: u64) -> u64 {
    (guest + guest / 64 + modules + 64 * MIB).next_multiple_of(16 * MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_cpus_are_what_guests_rig_and_computer_have() {
        for rig in crate::rig::ALL {
            assert_eq!(host_cpus(rig, 0), 1);
            assert_eq!(host_cpus(rig, 1), 1);
            let most = host_cpus(rig, u32::MAX);
            assert!((1..=rig.most_cpus()).contains(&most));
            assert!(most == 1 || rig.runs_in_parallel(), "{}", rig.name());
            assert!(host_cpus(rig, 2) <= 2);
        }
    }

    #[test]
    fn cpus_are_a_number_within_the_limit() {
        for (text, cpus) in [("1", 1), ("32", 32)] {
            assert_eq!(parse_cpus("--cpus", text, 32).unwrap(), cpus);
        }
        for text in ["0", "33", "-1", "", "x", "1.5", "99999999999"] {
            let error = parse_cpus("--cpus", text, 32).unwrap_err().to_string();
            assert!(
                error.contains("--cpus") && error.contains("from 1 to 32"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_vnc_server_listens_here_unless_an_address_is_given() {
        let at = |text: &str| {
            text.parse::<Vnc>()
                .map(|vnc| (vnc.ip().to_string(), vnc.display()))
        };
        assert_eq!(at("5900"), Ok(("127.0.0.1".to_owned(), 0)));
        assert_eq!(at("0.0.0.0:5907"), Ok(("0.0.0.0".to_owned(), 7)));
        assert_eq!(at("[::1]:6000"), Ok(("::1".to_owned(), 100)));
        for wrong in ["", "5899", "99999", "host:5900", "::1:5900", "1.2.3.4"] {
            assert!(at(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn memory_is_mib_or_has_a_unit() {
        for (text, mib) in [
            ("1G", 1024),
            ("512M", 512),
            ("512", 512),
            ("65536k", 64),
            ("2GiB", 2048),
        ] {
            assert_eq!(parse_memory("--memory", text).unwrap(), mib * MIB, "{text}");
        }
    }

    #[test]
    fn memory_that_is_no_size_or_too_little_or_too_much_is_refused() {
        for text in [
            "",
            "G",
            "lots",
            "-1G",
            "1.5G",
            "1X",
            "16M",
            "0",
            "99999999999999999999G",
            "1T",
            "32769K",
        ] {
            let error = parse_memory("--outer-memory", text).unwrap_err();
            assert!(error.is::<crate::outcome::Refused>(), "{text}");
            let named = format!("--outer-memory {text} is ");
            assert!(error.to_string().starts_with(&named), "{error}");
        }
    }

    #[test]
    fn networks_and_forwards_are_read_and_what_is_neither_is_not() {
        assert_eq!("user".parse(), Ok(Net::User));
        assert_eq!("tap:tap0".parse(), Ok(Net::Tap("tap0".to_owned())));
        for text in ["", "tap", "tap:", "tap:a,b", "bridge"] {
            assert!(text.parse::<Net>().is_err(), "{text}");
        }
        let forward = Forward {
            host: 8080,
            guest: 80,
        };
        assert_eq!("8080:80".parse(), Ok(forward));
        for text in ["", "80", "80:", "0:80", "80:65536", "a:b"] {
            assert!(text.parse::<Forward>().is_err(), "{text}");
        }
    }
}
