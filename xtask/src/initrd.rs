//! The test guest's user space: an initial RAM disk of busybox and one script.
//!
//! The script says `GUEST-UP` as its first deed and `GUEST-TSC` with the time stamp counter as its second. With `umbra.bench` on
//! the kernel's command line it then says `GUEST-BENCH`, sleeps, and switches the machine off; where there are [jobs], it does these
//! instead. Otherwise it says what hardware Linux found, one `GUEST-...` line each, and does what the command line asks with
//! `umbra.then=`: `poweroff`, `suspend` (thrice), `reboot`, `cf9`, `i8042`, `triple` (ways of rebooting), or nothing, which leaves a shell on the
//! console. With `net` it gets an address by DHCP (`GUEST-NET`), fetches the file that `umbra.url=` names by HTTP (`GUEST-FETCHED`, with
//! its MD5 sum and the time), and serves a page on TCP port 80 (`GUEST-SERVES`).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command;
use crate::cpio::Archive;
use crate::work::{self, Width};

/// The first program.
pub const INIT: &str = include_str!("init.sh");

/// What the DHCP client runs when it has an address.
pub const LEASE: &str = include_str!("lease.sh");

/// What the script uses of busybox.
const APPLETS: [&str; 33] = [
    "sh", "mount", "cat", "ls", "echo", "insmod", "poweroff", "reboot", "sync", "dd", "printf",
    "grep", "head", "sed", "wc", "uname", "sleep", "dmesg", "cut", "tr", "mkdir", "setsid", "seq",
    "md5sum", "gzip", "gunzip", "ifconfig", "route", "udhcpc", "wget", "httpd", "ping", "yes",
];

/// The drivers that let the kernel see the virtual machine's disks, its power button, its network card, its virtio console and entropy
/// device, and the sockets that DHCP needs.
pub const DRIVERS: [&str; 14] = [
    "ata_piix",
    "ahci",
    "virtio_pci",
    "virtio_blk",
    "sd_mod",
    "sr_mod",
    "button",
    "ne2k_pci",
    "virtio_net",
    "e1000",
    "virtio_console",
    "virtio_rng",
    "virtio_balloon",
    "af_packet",
];

/// Behind the names of modules that are compressed, as Debian 13's are.
const PACKED: &str = ".xz";

/// Builds the RAM disk from `busybox`, from the drivers below `modules` that this kernel has, and from the program that works.
///
/// # Errors
///
/// A file cannot be read.
pub fn build(busybox: &Path, modules: &Path, width: Width) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in ["bin", "dev", "proc", "sys", "mnt", "modules"] {
        archive.directory(directory);
    }
    archive.device("dev/console", 5, 1);
    archive.program(
        "bin/busybox",
        &fs::read(busybox).with_context(|| format!("cannot read {}", busybox.display()))?,
    );
    archive.program("bin/work", &work::program(width)?);
    for applet in APPLETS {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    let mut order = String::new();
    for (name, content) in drivers(modules, DRIVERS)? {
        archive.program(&format!("modules/{name}.ko"), &content);
        order.push_str(&name);
        order.push('\n');
    }
    archive.program("modules/order", order.as_bytes());
    archive.program("lease", LEASE.as_bytes());
    archive.program("init", INIT.as_bytes());
    Ok(archive.finish())
}

/// A second archive, for the end of the RAM disk, with the work to do under `umbra.bench`; none is work too.
pub fn jobs(jobs: &[&str]) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.program("jobs", format!("{}\n", jobs.join(" ")).as_bytes());
    archive.finish()
}

/// The name of the module in this file, if it is one.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(PACKED).unwrap_or(name);
    Some(name.strip_suffix(".ko")?.replace('-', "_"))
}

/// A module as the kernel takes it.
fn content(path: &Path) -> Result<Vec<u8>> {
    if path.to_string_lossy().ends_with(PACKED) {
        let unpack = command::run(
            Command::new("xz")
                .arg("--decompress")
                .arg("--stdout")
                .arg(path),
        );
        return Ok(unpack?.stdout);
    }
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// All modules below `directory`.
fn find(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(find(&path));
        } else if module_name(&path).is_some() {
            found.push(path);
        }
    }
    found
}

/// The `wanted` drivers below `modules` and what they depend on, by name and content, each behind its dependencies. A driver that is
/// not there is part of the kernel.
///
/// # Errors
///
/// A file cannot be read.
pub fn drivers<'a>(
    modules: &Path,
    wanted: impl IntoIterator<Item = &'a str>,
) -> Result<Vec<(String, Vec<u8>)>> {
    let available = find(modules);
    let mut loaded = Vec::new();
    let mut seen = BTreeSet::new();
    for driver in wanted {
        load(driver, &available, &mut seen, &mut loaded)?;
    }
    Ok(loaded)
}

fn load(
    name: &str,
    available: &[PathBuf],
    seen: &mut BTreeSet<String>,
    loaded: &mut Vec<(String, Vec<u8>)>,
) -> Result<()> {
    let plain = name.replace('-', "_");
    let is_it = |path: &&PathBuf| module_name(path).is_some_and(|name| name == plain);
    // What is not there as a module is part of the kernel, or the kernel has no such driver.
    let Some(path) = available
        .iter()
        .find(is_it)
        .filter(|_| seen.insert(plain.clone()))
    else {
        return Ok(());
    };
    let content = content(path)?;
    for dependency in dependencies(&content) {
        load(&dependency, available, seen, loaded)?;
    }
    loaded.push((plain, content));
    Ok(())
}

/// The modules that a module says it depends on, in its `.modinfo` strings.
fn dependencies(module: &[u8]) -> Vec<String> {
    let entry = module
        .split(|&byte| byte == 0)
        .find_map(|string| string.strip_prefix(b"depends="));
    let list = String::from_utf8_lossy(entry.unwrap_or_default()).into_owned();
    list.split(',')
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_come_behind_what_they_depend_on() {
        let directory = tempfile::tempdir().unwrap();
        for (name, depends) in [
            ("ata_piix", "libata"),
            ("libata", "scsi_mod"),
            ("scsi_mod", ""),
            ("sd_mod", "scsi_mod"),
            ("x", ""),
        ] {
            fs::write(
                directory.path().join(name).with_extension("ko"),
                format!("\x7fELF\0depends={depends}\0name={name}\0"),
            )
            .unwrap();
        }
        let order: Vec<String> = drivers(directory.path(), DRIVERS)
            .unwrap()
            .into_iter()
            .map(|(name, _)| name)
            .collect();
        assert_eq!(order, ["scsi_mod", "libata", "ata_piix", "sd_mod"]);
    }

    #[test]
    fn modules_have_their_names_packed_or_not() {
        let name = |path: &str| module_name(Path::new(path));
        assert_eq!(name("a/ne2k-pci.ko"), Some("ne2k_pci".to_owned()));
        assert_eq!(name("a/ne2k-pci.ko.xz"), Some("ne2k_pci".to_owned()));
        assert_eq!(name("a/modules.dep"), None);
        assert_eq!(name("a/x.xz"), None);
    }

    #[test]
    fn modules_that_depend_on_each_other_do_not_hang() {
        let directory = tempfile::tempdir().unwrap();
        for (name, depends) in [("ata_piix", "libata"), ("libata", "ata_piix")] {
            fs::write(
                directory.path().join(name).with_extension("ko"),
                format!("\0depends={depends}\0"),
            )
            .unwrap();
        }
        assert_eq!(drivers(directory.path(), DRIVERS).unwrap().len(), 2);
    }

    #[test]
    fn the_script_has_every_applet_it_uses() {
        for line in INIT.lines().map(str::trim) {
            let word = line.split([' ', ';']).next().unwrap_or_default();
            if word.len() > 2 && word.chars().all(|c| c.is_ascii_lowercase()) {
                let shell = [
                    "case", "esac", "then", "else", "done", "for", "while", "read", "exec", "if",
                    "fi", "set", "do", "export", "work", "wait", "until", "kill",
                ];
                assert!(APPLETS.contains(&word) || shell.contains(&word), "{word}");
            }
        }
    }
}
