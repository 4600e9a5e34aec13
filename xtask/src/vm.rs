//! One virtual machine of a run: what boots in it, and what it is made of in the outer machine.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::Parser;
use hv_core::debug::Breaks;
use protocol::options::{CdBus, DiskBus, MAX_CPUS, Profile, Share, prefix};

use crate::cli::{BootFrom, VmArgs, When};
use crate::firmware::{self, Firmware};
use crate::guests::Guest;
use crate::media::{self, Disk, DiskArg, Floppy, Format, Keep, Kind, Medium};
use crate::outcome::{Refused, refuse};
use crate::profile::Switch;
use crate::rig::{Bus, Drive, MIB, Module, Paging, Part, Rig, Shadow, parse_cpus, parse_memory};

/// A Linux kernel's command line if nothing else is said.
const CMDLINE: &str = "console=tty0 console=ttyS0";

/// A virtual machine, with everything checked.
#[derive(Debug, Clone)]
pub struct Vm {
    /// What boots; nothing stands for the default guest, which is made when it is needed.
    pub guest: Option<Medium>,
    /// The RAM disk of a Linux kernel, and its length in bytes.
    pub initrd: Option<(PathBuf, u64)>,
    /// The command line of a Linux kernel.
    pub cmdline: String,
    /// The guest's memory in bytes.
    pub memory: u64,
    /// The virtual CPUs that the guest starts with.
    pub cpus: u32,
    /// The virtual CPUs that it can have in all.
    pub max_cpus: u32,
    /// What of the CPU it is to get.
    pub share: Share,
    /// How the guest's memory is virtualized.
    pub paging: Paging,
    /// How shadow tables are kept, if that is not left to Umbra.
    pub shadow: Option<Shadow>,
    /// What kind of PC it is.
    pub profile: Profile,
    /// Further hard disks.
    pub disks: Vec<Disk>,
    /// Further media for the CD-ROM drive.
    pub cdroms: Vec<PathBuf>,
    /// Further media for the floppy drive.
    pub floppies: Vec<Floppy>,
    /// What is booted first.
    pub boot: Option<BootFrom>,
    /// Whether there is a tablet.
    pub tablet: bool,
    /// What boots it.
    pub firmware: Firmware,
    /// The port where a debugger comes to it.
    pub gdb: Option<u16>,
    /// Whether it waits for the debugger.
    pub gdb_wait: bool,
    /// Whether it starts when it is asked for.
    pub later: bool,
    /// The events at which it is stopped.
    pub breaks: Option<String>,
}

/// The words of `--vm`.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Words {
    #[command(flatten)]
    vm: VmArgs,
}

/// Reads the words of `--vm`, as a shell would.
///
/// # Errors
///
/// A [`Refused`] that says what is wrong with them.
pub fn parse(line: &str) -> Result<VmArgs> {
    let Some(words) = shlex::split(line) else {
        refuse!("--vm {line:?}: a quotation mark is missing");
    };
    let words = Words::try_parse_from(words);
    words.map(|words| words.vm).map_err(|error| {
        let text = error.to_string();
        let first = text.lines().next().unwrap_or_default();
        Refused(format!(
            "--vm {line:?}: {}",
            first.trim_start_matches("error: ")
        ))
        .into()
    })
}

/// The events of `--break`, as Umbra is told them.
fn breaks(events: &[String]) -> Result<Option<String>> {
    if events.is_empty() {
        return Ok(None);
    }
    let list = events.join(",");
    if list.contains(char::is_whitespace) {
        refuse!("--break {list:?}: an event has no blanks");
    }
    if let Err(wrong) = Breaks::parse(&list) {
        refuse!("--break {list}: {wrong}");
    }
    Ok(Some(list))
}

impl Vm {
    /// Checks the options of the command line, for a machine of `rig` whose disks keep what is written or not.
    ///
    /// # Errors
    ///
    /// A [`Refused`] that says what cannot be done.
    pub fn check(args: &VmArgs, rig: &dyn Rig, keep: Keep) -> Result<Vm> {
        if args.shadow.is_some() && args.paging == Paging::Nested {
            refuse!("--shadow goes with --paging shadow or alternate");
        }
        let memory = parse_memory("--memory", &args.memory)?;
        let (cpus, max_cpus) = count_cpus(args)?;
        let initrd = match (&args.initrd, &args.guest) {
            (Some(path), _) => Some(media::open_initrd(path)?),
            (None, Some(kernel)) => {
                let own = named(kernel).and_then(Guest::initrd);
                own.map(|guest| media::open_initrd(&guest.provide()?))
                    .transpose()?
            }
            (None, None) => None,
        };
        for disk in &args.disk {
            disk.check(disk_size(args)?, keep)?;
        }
        let floppies = args.floppy.iter().map(|path| media::open_floppy(path));
        let floppies = floppies.collect::<Result<Vec<_>>>()?;
        let cdroms = args.cdrom.iter().map(|path| media::open_cdrom(path));
        let cdroms = cdroms.collect::<Result<Vec<_>>>()?;
        let guest = args.guest.as_deref().map(open_guest).transpose()?;
        let itself = guest.as_ref().and_then(Medium::disk);
        for disk in args.disk.iter().chain(&itself) {
            let lacks = |part, what: &str| -> Result<()> {
                match rig.lacks(part) {
                    Some(reason) => refuse!("{what} cannot go with --rig {}: {reason}", rig.name()),
                    None => Ok(()),
                }
            };
            if disk.readonly {
                lacks(Part::WriteProtection, "a disk with readonly")?;
            }
            if disk.opened_as()? != Format::Raw {
                lacks(Part::Images, "a disk image that is not raw")?;
            }
        }
        match guest.as_ref().map(|guest| guest.kind) {
            Some(Kind::Kernel { init_size }) => {
                // The kernel unpacks itself at 16 MiB and needs its RAM disk above that, until it has unpacked that too.
                let need =
                    16 * MIB + init_size + 2 * initrd.as_ref().map_or(0, |&(_, length)| length);
                if need > memory {
                    refuse!(
                        "--memory {} is too little for this kernel and initrd, which need {}M",
                        args.memory,
                        need.div_ceil(MIB)
                    );
                }
            }
            kind => {
                match (kind, &guest) {
                    (Some(Kind::Floppy), Some(medium)) => drop(media::open_floppy(&medium.path)?),
                    _ => {
                        itself.map(|disk| disk.open(keep)).transpose()?;
                    }
                }
                for (name, given) in [
                    ("--initrd", initrd.is_some()),
                    ("--cmdline", args.cmdline.is_some()),
                ] {
                    if given {
                        refuse!("{name} needs a Linux kernel as the guest");
                    }
                }
            }
        }
        check_drives(args, guest.as_ref(), rig)?;
        let firmware = Firmware::choose(args.firmware.as_ref(), guest.as_ref())?;
        let boot = match &guest {
            // It is what is to boot, whatever else there is.
            Some(guest) if guest.kind == Kind::Floppy => args.boot.or(Some(BootFrom::Floppy)),
            _ => args.boot,
        };
        Ok(Vm {
            guest,
            initrd,
            cmdline: args.cmdline.clone().unwrap_or_else(|| CMDLINE.to_owned()),
            memory,
            cpus,
            max_cpus,
            share: Share {
                weight: args.weight,
                cap: args.cap.unwrap_or(0),
                warp: args.warp,
            },
            paging: args.paging,
            shadow: args.shadow,
            profile: args.profile.profile()?,
            disks: Vec::new(),
            cdroms,
            floppies,
            boot,
            tablet: args.tablet == Some(Switch::On),
            firmware,
            gdb: args.gdb,
            gdb_wait: args.gdb_wait,
            later: args.start == When::Later,
            breaks: breaks(&args.breaks)?,
        })
    }

    /// Opens the hard disks that the options name, and makes those that are not there. They are the one thing that is made: they come when
    /// nothing else can be wrong any more.
    ///
    /// # Errors
    ///
    /// A disk cannot be made.
    pub fn add_disk(&mut self, args: &VmArgs, keep: Keep) -> Result<()> {
        let size = disk_size(args)?;
        let disks = args.disk.iter().map(|disk| disk.make(size, keep));
        self.disks = disks.collect::<Result<_>>()?;
        Ok(())
    }

    /// A virtual machine with 1 GiB in which `guest` boots, as the tests and the benchmarks use them.
    ///
    /// # Errors
    ///
    /// The guest cannot boot.
    pub fn of(guest: &Path) -> Result<Vm> {
        let guest = Medium::open(guest)?;
        let firmware = Firmware::for_guest(guest.boots);
        Ok(Vm {
            guest: Some(guest),
            initrd: None,
            cmdline: CMDLINE.to_owned(),
            memory: 1024 * MIB,
            cpus: 1,
            max_cpus: 1,
            share: Share::default(),
            paging: Paging::Nested,
            shadow: None,
            profile: Profile::default(),
            disks: Vec::new(),
            cdroms: Vec::new(),
            floppies: Vec::new(),
            boot: None,
            tablet: false,
            firmware,
            gdb: None,
            gdb_wait: false,
            later: false,
            breaks: None,
        })
    }

    /// The options for Umbra that are this machine's, of whose exits so many are recorded, and all counted if `count`.
    pub fn options(&self, record: u32, count: bool) -> protocol::options::Vm<'_> {
        protocol::options::Vm {
            memory: Some(self.memory),
            cpus: (self.cpus > 1).then_some(self.cpus),
            max_cpus: (self.max_cpus > self.cpus).then_some(self.max_cpus),
            share: self.share,
            paging: self.paging,
            shadow: self.shadow,
            profile: self.profile,
            record,
            count,
            boot: self.boot,
            tablet: self.tablet,
            gdb_wait: self.gdb_wait,
            later: self.later,
            breaks: self.breaks.as_deref(),
            ..Default::default()
        }
    }

    /// What the outer machine gives Umbra for the virtual machine of this number (from 1), in which `guest` boots. `scratch` takes the
    /// files that it needs, and with `snapshot` UEFI's variables, where none are kept yet.
    ///
    /// # Errors
    ///
    /// A file cannot be written.
    pub fn equip(
        &self,
        number: usize,
        guest: &Medium,
        bus: Bus,
        snapshot: bool,
        scratch: &Path,
    ) -> Result<Parts> {
        let prefix = prefix(number);
        let mut parts = Parts::default();
        let module = |role: &str, path: &Path| Module {
            role: format!("{prefix}{role}"),
            path: path.to_owned(),
        };
        // Umbra knows the media by these names: that of the first of a kind has no number.
        let image = |role: &str, number: usize, path: &Path, writable, format| Drive {
            serial: match number {
                1 => format!("umbra-{prefix}{role}"),
                _ => format!("umbra-{prefix}{role}{number}"),
            },
            path: path.to_owned(),
            writable,
            format,
            // What cannot be written is a CD for the outer machine's IDE drives, and Umbra's driver of disks knows no write protection.
            bus: match writable || role == "cdrom" {
                true => bus,
                false => Bus::Virtio,
            },
        };
        let drive = |role: &str, number: usize, path: &Path, writable| {
            image(role, number, path, writable, Format::Raw)
        };
        match guest.kind {
            Kind::Cdrom => parts.drives.push(drive("cdrom", 1, &guest.path, false)),
            Kind::Disk => {
                let writable = !guest.readonly;
                let disk = image("disk", 1, &guest.path, writable, guest.format);
                parts.drives.push(disk);
            }
            Kind::Floppy => {
                let writable = media::open_floppy(&guest.path)?.writable;
                parts.drives.push(drive("floppy", 1, &guest.path, writable));
            }
            Kind::Kernel { .. } => {
                parts.module_bytes += guest.length;
                parts.modules.push(module("kernel", &guest.path));
                if let Some((path, length)) = &self.initrd {
                    parts.module_bytes += length;
                    parts.modules.push(module("initrd", path));
                }
                let cmdline = scratch.join(format!("{prefix}guest-cmdline"));
                fs::write(&cmdline, &self.cmdline)?;
                parts.modules.push(module("cmdline", &cmdline));
            }
        }
        if !matches!(guest.kind, Kind::Kernel { .. }) {
            let mut firmware = self.firmware.modules(&prefix);
            let kept = self.variables(guest).map(|(path, writable)| {
                let for_this_run = snapshot && writable && !path.exists();
                match for_this_run {
                    true => (scratch.join(format!("{prefix}vars")), true),
                    false => (path, writable),
                }
            });
            if let Some((path, writable)) = kept
                && (writable || path.exists())
                && self.firmware.keep_variables(&path)?
            {
                // In place of the empty ones.
                firmware.truncate(1);
                parts.drives.push(drive("vars", 1, &path, writable));
            }
            for module in &firmware {
                parts.module_bytes += fs::metadata(&module.path)?.len();
            }
            parts.modules.extend(firmware);
        }
        // The guest itself is the first of its kind.
        let first = |kind| if guest.kind == kind { 2 } else { 1 };
        let disks = (first(Kind::Disk)..).zip(&self.disks);
        parts.drives.extend(
            disks.map(|(number, disk)| {
                image("disk", number, &disk.path, disk.writable, disk.format)
            }),
        );
        let cdroms = (first(Kind::Cdrom)..).zip(&self.cdroms);
        parts
            .drives
            .extend(cdroms.map(|(number, path)| drive("cdrom", number, path, false)));
        let floppies = (first(Kind::Floppy)..).zip(&self.floppies);
        parts.drives.extend(
            floppies.map(|(number, floppy)| drive("floppy", number, &floppy.path, floppy.writable)),
        );
        Ok(parts)
    }

    /// The file that keeps UEFI's variables, if there is a hard disk beside which it can be, and whether it is written: with a disk that is
    /// only read it is as the disk.
    fn variables(&self, guest: &Medium) -> Option<(PathBuf, bool)> {
        let (disk, writable) = match guest.kind {
            Kind::Disk => (&guest.path, !guest.readonly),
            _ => self.disks.first().map(|disk| (&disk.path, disk.writable))?,
        };
        (self.firmware != Firmware::Bios).then(|| (firmware::variables_beside(disk), writable))
    }

    /// The guest, which is made if it is the default one.
    ///
    /// # Errors
    ///
    /// It cannot be made.
    pub fn medium(&self) -> Result<Medium> {
        match &self.guest {
            Some(guest) => Ok(guest.clone()),
            None => Medium::open(&Guest::usual().provide()?),
        }
    }

    /// The guest's name.
    pub fn name(&self) -> String {
        let name = self.guest.as_ref().and_then(|guest| guest.path.file_name());
        name.map_or("default".into(), |name| name.to_string_lossy())
            .into_owned()
    }
}

/// What a virtual machine needs of the outer one.
#[derive(Debug, Default)]
pub struct Parts {
    /// Boot modules.
    pub modules: Vec<Module>,
    /// Their bytes, small ones aside.
    pub module_bytes: u64,
    /// Drives.
    pub drives: Vec<Drive>,
}

/// What the hard disks hang at.
fn disk_bus(args: &VmArgs) -> DiskBus {
    let said = args.profile.disk_bus;
    said.unwrap_or(args.profile.os.disk_bus())
}

/// What the CD-ROM drive hangs at.
fn cd_bus(args: &VmArgs) -> CdBus {
    let said = args.profile.cd_bus;
    said.unwrap_or(args.profile.os.cd_bus())
}

/// Hard disks on the guest's PCI bus.
const PCI_DISKS: usize = 8;
/// Drives on the guest's IDE channels.
const IDE_DRIVES: usize = 4;
/// Ports of the guest's AHCI controller.
const SATA_PORTS: usize = 6;

/// Checks that there is room for all drives, and that there is what is to boot.
fn check_drives(args: &VmArgs, guest: Option<&Medium>, rig: &dyn Rig) -> Result<()> {
    let kind = guest.map(|guest| guest.kind);
    // No guest is the default one, which is a CD.
    let cd = matches!(kind, None | Some(Kind::Cdrom)) || !args.cdrom.is_empty();
    let disks = args.disk.len() + usize::from(kind == Some(Kind::Disk));
    let (places, cd_beside) = match disk_bus(args) {
        DiskBus::Ide => (IDE_DRIVES, cd_bus(args) == CdBus::Ide),
        DiskBus::Ahci => (SATA_PORTS, cd_bus(args) == CdBus::Ahci),
        DiskBus::Virtio => (PCI_DISKS, false),
    };
    let room = places - usize::from(cd && cd_beside);
    if disks > room {
        let beside = match room < places {
            true => " beside the CD-ROM drive",
            false => "",
        };
        refuse!("{disks} hard disks are too many: there is room for {room}{beside}");
    }
    let Some(boot) = args.boot else {
        return Ok(());
    };
    let there = match boot {
        BootFrom::Cd => cd,
        BootFrom::Disk => disks != 0,
        BootFrom::Floppy => kind == Some(Kind::Floppy) || !args.floppy.is_empty(),
        BootFrom::Net => true,
    };
    let name = boot.name();
    if matches!(kind, Some(Kind::Kernel { .. })) {
        refuse!("--boot {name} cannot go with a Linux kernel, which is started without firmware");
    }
    if !there {
        refuse!("--boot {name}: the guest has no {name} to boot from");
    }
    if boot == BootFrom::Net
        && let Some(reason) = rig.lacks(Part::Network)
    {
        refuse!("--boot net cannot go with --rig {}: {reason}", rig.name());
    }
    Ok(())
}

/// The virtual CPUs that the guest starts with, and can have in all.
fn count_cpus(args: &VmArgs) -> Result<(u32, u32)> {
    let cpus = parse_cpus("--cpus", &args.cpus, MAX_CPUS)?;
    let max_cpus = match &args.max_cpus {
        Some(text) => parse_cpus("--max-cpus", text, MAX_CPUS)?,
        None => cpus,
    };
    if max_cpus < cpus {
        refuse!("--max-cpus {max_cpus} is less than --cpus {cpus}, with which the guest starts");
    }
    Ok((cpus, max_cpus))
}

fn disk_size(args: &VmArgs) -> Result<Option<u64>> {
    args.disk_size.as_deref().map(media::parse_size).transpose()
}

/// Opens a guest's file, or provides the test guest of that name where there is no such file.
fn open_guest(path: &Path) -> Result<Medium> {
    if let Some(guest) = named(path) {
        return Medium::open(&guest.provide()?);
    }
    // A disk may have the words of --disk behind it.
    let disk = path.to_str().and_then(|text| text.parse::<DiskArg>().ok());
    let Some(disk) = disk.filter(|disk| disk.path != path) else {
        return Ok(Medium::open(path)?.warned());
    };
    let guest = Medium::of(&disk)?.warned();
    if guest.kind != Kind::Disk {
        refuse!(
            "{}: only hard disks have options behind their name, and {} is none",
            path.display(),
            disk.path.display()
        );
    }
    Ok(Medium {
        readonly: disk.readonly,
        ..guest
    })
}

/// The test guest that `path` names, if it names no file.
fn named(path: &Path) -> Option<Guest> {
    path.to_str()
        .and_then(Guest::named)
        .filter(|_| !path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::Boots;

    #[test]
    fn the_words_of_a_further_machine_are_those_of_the_first() {
        let args = parse("'a b.iso' --memory 512M --paging shadow --cmdline 'x y'").unwrap();
        assert_eq!(args.guest.as_deref(), Some(Path::new("a b.iso")));
        assert_eq!(args.memory, "512M");
        assert_eq!(args.paging, Paging::Shadow);
        assert_eq!(args.cmdline.as_deref(), Some("x y"));
        for (line, part) in [
            ("'a", "quotation mark"),
            ("a.iso --rig kvm", "--rig"),
            ("a.iso b.iso", "b.iso"),
            ("--disk-size 1G", "--disk"),
        ] {
            let error = parse(line).unwrap_err();
            assert!(error.is::<Refused>(), "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn the_second_machines_parts_have_its_number() {
        let guest = |kind| Medium {
            path: "/g".into(),
            format: Format::Raw,
            readonly: false,
            kind,
            boots: Boots::Bios,
            length: 100,
            warnings: Vec::new(),
        };
        let vm = Vm {
            guest: None,
            initrd: Some(("/i".into(), 10)),
            cmdline: "quiet".into(),
            memory: 64 * MIB,
            cpus: 1,
            max_cpus: 1,
            share: Share::default(),
            paging: Paging::Nested,
            profile: Profile::default(),
            shadow: None,
            disks: ["/d", "/d2"]
                .map(|path| Disk {
                    format: Format::Raw,
                    path: path.into(),
                    writable: path == "/d",
                })
                .into(),
            cdroms: vec!["/c".into(), "/e".into()],
            floppies: vec![Floppy {
                path: "/f".into(),
                writable: false,
            }],
            boot: None,
            tablet: false,
            firmware: Firmware::Bios,
            gdb: None,
            gdb_wait: false,
            later: false,
            breaks: None,
        };
        let scratch = tempfile::tempdir().unwrap();
        let parts = |number, kind| {
            vm.equip(number, &guest(kind), Bus::Ide, false, scratch.path())
                .unwrap()
        };
        let serials = |parts: &Parts| -> Vec<String> {
            parts.drives.iter().map(|d| d.serial.clone()).collect()
        };
        let first = parts(1, Kind::Cdrom);
        assert_eq!(
            serials(&first),
            [
                "umbra-cdrom",
                "umbra-disk",
                "umbra-disk2",
                "umbra-cdrom2",
                "umbra-cdrom3",
                "umbra-floppy"
            ]
        );
        let buses: Vec<_> = first.drives.iter().map(|d| (d.writable, d.bus)).collect();
        let (cd, disk) = ((false, Bus::Ide), (true, Bus::Ide));
        let protected = (false, Bus::Virtio);
        assert_eq!(buses, [cd, disk, protected, cd, cd, protected]);
        let second = parts(2, Kind::Kernel { init_size: 0 });
        assert_eq!(
            serials(&second),
            [
                "umbra-vm2-disk",
                "umbra-vm2-disk2",
                "umbra-vm2-cdrom",
                "umbra-vm2-cdrom2",
                "umbra-vm2-floppy"
            ]
        );
        let roles: Vec<_> = second.modules.iter().map(|m| m.role.as_str()).collect();
        assert_eq!(roles, ["vm2-kernel", "vm2-initrd", "vm2-cmdline"]);
        assert_eq!(second.module_bytes, 110);
    }
}
