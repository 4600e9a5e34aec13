//! Linux with KVM in an emulated machine, and within it QEMU with the machine that Umbra runs on: what `kvm-in-qemu` and `kvm-in-bochs`
//! have in common.
//!
//! The kernel is Debian's for virtual machines, and its RAM disk has the drivers, QEMU with its libraries and firmware, Umbra and its
//! modules. Drives are those of the emulated machine. Its COM1 is the Linux console and Umbra's log together, its COM2 the control channel.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use super::machine::{Boot, MIB, Machine};
use super::qemu::{self, Wires};
use crate::cpio::Archive;
use crate::guests::{self, Guest};
use crate::media::Format;
use crate::programs;
use crate::{deb, initrd};

const INIT: &str = include_str!("within.sh");
/// The kernel's command line.
const CMDLINE: &str = "console=ttyS0 quiet panic=-1";
/// What the emulated machine needs besides the memory of the one within.
pub const OWN_MEMORY: u64 = 768 * MIB;

/// QEMU, and the packages with its libraries.
const PROGRAM: (&str, &str) = ("qemu-system-x86", "usr/bin/qemu-system-x86_64");
const LIBRARIES: [&str; 45] = [
    "libaio1",
    "libblkid1",
    "libbpf1",
    "libc6",
    "libcapstone4",
    "libdaxctl1",
    "libelf1",
    "libfdt1",
    "libffi8",
    "libfuse3-3",
    "libgcc-s1",
    "libglib2.0-0",
    "libgmp10",
    "libgnutls30",
    "libhogweed6",
    "libibverbs1",
    "libidn2-0",
    "libjpeg62-turbo",
    "libkmod2",
    "liblzma5",
    "libmount1",
    "libndctl6",
    "libnettle8",
    "libnl-3-200",
    "libnl-route-3-200",
    "libnuma1",
    "libp11-kit0",
    "libpcre2-8-0",
    "libpixman-1-0",
    "libpmem1",
    "libpng16-16",
    "librdmacm1",
    "libsasl2-2",
    "libseccomp2",
    "libselinux1",
    "libslirp0",
    "libssl3",
    "libtasn1-6",
    "libudev1",
    "libunistring2",
    "liburing2",
    "libuuid1",
    "libvdeplug2",
    "libzstd1",
    "zlib1g",
];
/// The files that QEMU reads, by package.
const FIRMWARE: [(&str, &str); 6] = [
    ("qemu-system-data", "usr/share/qemu/multiboot.bin"),
    ("qemu-system-data", "usr/share/qemu/multiboot_dma.bin"),
    ("qemu-system-data", "usr/share/qemu/linuxboot_dma.bin"),
    ("qemu-system-data", "usr/share/qemu/kvmvapic.bin"),
    ("seabios", "usr/share/seabios/bios-256k.bin"),
    ("seabios", "usr/share/seabios/vgabios-stdvga.bin"),
];
/// Where QEMU finds them.
const DATA: &str = "share/qemu";
/// Where the files of the machine within are.
const WITHIN: &str = "within";

/// What an emulator adds.
#[derive(Debug)]
pub struct Outer<'a> {
    /// The drivers of KVM and of the emulated machine's drives.
    pub drivers: &'a [&'a str],
    /// What Linux calls the drives of the machine, in their order.
    pub drives: Vec<String>,
    /// Whether the RAM disk is compressed, where it takes time to load.
    pub compressed: bool,
}

/// Fetches the packages.
///
/// # Errors
///
/// One cannot be had.
pub fn prepare() -> Result<()> {
    Guest::CloudKernel.provide()?;
    Guest::CloudInitrd.provide()?;
    let firmware = FIRMWARE.map(|(package, _)| package);
    for package in [PROGRAM.0].iter().chain(&LIBRARIES).chain(&firmware) {
        deb::unpacked(package)?;
    }
    Ok(())
}

/// The memory of the emulated machine in bytes.
pub fn memory(machine: &Machine) -> u64 {
    machine.memory + OWN_MEMORY
}

/// What the emulated machine starts, so that `machine` runs within it. The RAM disk is made in `directory`.
///
/// # Errors
///
/// A file of it cannot be had or written.
pub fn boot(machine: &Machine, outer: &Outer<'_>, directory: &Path) -> Result<Boot> {
    let mut archive = Archive::default();
    let mut order = String::new();
    let wanted = outer.drivers.iter().copied();
    for (name, content) in initrd::drivers(&guests::cloud_modules()?, wanted)? {
        archive.program(&format!("modules/{name}.ko"), &content);
        order.push_str(&name);
        order.push('\n');
    }
    archive.program("modules/order", order.as_bytes());
    programs::add(&mut archive, &[PROGRAM], &LIBRARIES)?;
    for place in ["share", DATA, WITHIN] {
        archive.directory(place);
    }
    for (package, path) in FIRMWARE {
        let path = deb::unpacked(package)?.join(path);
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        put(&mut archive, &path, &format!("{DATA}/{name}"))?;
    }
    let machine = moved(machine, outer, &mut archive)?;
    archive.program(&format!("{WITHIN}/run"), script(&machine)?.as_bytes());
    archive.program("init", INIT.as_bytes());
    let mut path = Guest::CloudInitrd.with_more(archive, directory)?;
    if outer.compressed {
        let packed = path.with_extension("gz");
        let status = Command::new("gzip")
            .args(["-1", "-c"])
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&packed)?)
            .status()
            .context("cannot start gzip")?;
        ensure!(status.success(), "gzip failed ({status})");
        path = packed;
    }
    Ok(Boot::Native {
        kernel: Guest::CloudKernel.provide()?,
        initrd: Some(path),
        cmdline: CMDLINE.to_owned(),
    })
}

fn put(archive: &mut Archive, path: &Path, name: &str) -> Result<()> {
    let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    archive.program(name, &content);
    Ok(())
}

/// The machine as the Linux between has it: its files in `archive`, its drives by their names.
fn moved(machine: &Machine, outer: &Outer<'_>, archive: &mut Archive) -> Result<Machine> {
    let mut machine = machine.clone();
    let mut take = |path: &mut PathBuf, name: &str| -> Result<()> {
        let place = format!("{WITHIN}/{name}");
        put(archive, path, &place)?;
        *path = Path::new("/").join(place);
        Ok(())
    };
    match &mut machine.boot {
        Boot::Multiboot { umbra, modules, .. } => {
            take(umbra, "umbra")?;
            for module in modules {
                take(&mut module.path, &module.role)?;
            }
        }
        Boot::Cd { path, firmware } => {
            take(path, "cd.iso")?;
            if let Some(firmware) = firmware {
                take(firmware, "firmware.fd")?;
            }
        }
        Boot::Native { kernel, initrd, .. } => {
            take(kernel, "kernel")?;
            if let Some(initrd) = initrd {
                take(initrd, "initrd")?;
            }
        }
    }
    for (drive, name) in machine.drives.iter_mut().zip(&outer.drives) {
        drive.path = Path::new("/dev").join(name);
        drive.format = Format::Raw;
    }
    Ok(machine)
}

/// The line of the shell that runs the machine.
fn script(machine: &Machine) -> Result<String> {
    let wires = Wires {
        control: "serial,id=control,path=/dev/ttyS1".to_owned(),
        log: "serial,id=log,path=/dev/ttyS0".to_owned(),
        monitor: None,
    };
    let mut words = vec!["qemu-system-x86_64".to_owned()];
    words.extend(["-L".to_owned(), format!("/{DATA}")]);
    words.extend(qemu::arguments(machine, "kvm", &wires)?);
    let line = shlex::try_join(words.iter().map(String::as_str))?;
    Ok(line + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rig::{Bus, Drive, KVM, Module, Network};

    #[test]
    fn the_machine_within_has_its_files_in_the_ram_disk_and_its_drives_by_their_names() {
        let scratch = tempfile::tempdir().unwrap();
        let file = scratch.path().join("it's a file");
        fs::write(&file, "x").unwrap();
        let machine = Machine {
            rig: KVM,
            cpu_model: "host".to_owned(),
            cpus: 1,
            memory: 128 * MIB,
            boot: Boot::Multiboot {
                umbra: file.clone(),
                options: "memory=64M 'x'".to_owned(),
                modules: vec![Module {
                    role: "bios".to_owned(),
                    path: file,
                }],
            },
            drives: vec![Drive {
                serial: "umbra-disk".to_owned(),
                path: "/d.img".into(),
                format: Format::Qcow2,
                writable: true,
                bus: Bus::Virtio,
            }],
            network: Network::default(),
            remains: None,
            snapshot: false,
            icount: false,
            display: None,
            tablet: false,
        };
        let outer = Outer {
            drivers: &[],
            drives: vec!["vda".to_owned()],
            compressed: false,
        };
        let mut archive = Archive::default();
        let line = script(&moved(&machine, &outer, &mut archive).unwrap()).unwrap();
        let words = shlex::split(&line).unwrap().join(" ");
        for part in [
            "-accel kvm -cpu host",
            "-kernel /within/umbra -append memory=64M 'x'",
            "-initrd /within/bios bios",
            "file=/dev/vda,if=none,id=drive0,format=raw",
        ] {
            assert!(words.contains(part), "{part}: {line}");
        }
        let archive = archive.finish();
        assert!(archive.windows(11).any(|name| name == b"within/bios"));
    }
}
