//! `cargo xtask bench disk`: the guest's disk measured by fio, bare in QEMU and in Umbra, in the same guest with the same image.
//!
//! fio works on the disk itself with direct I/O, one request at a time. One run tells the speed of each kind of access; another in
//! Umbra for each kind, and one that measures nothing, tell the exits that it costs.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use protocol::options::DiskBus;
use serde::Serialize;
use serde_json::Value;

use super::crash::FAILED;
use super::{options, ram_disk};
use crate::cli::DiskArgs;
use crate::compare::{Exits, Runs, Words, chosen, rows, write_json};
use crate::kernel;
use crate::media;
use crate::rig::{self, Bus, Drive, Network};
use crate::run::Options;

/// The kinds of access, as the guest's script names them.
const WORK: [&str; 4] = [
    "random-read",
    "random-write",
    "sequential-read",
    "sequential-write",
];
/// fio is linked with the libraries of everything it can talk to.
const PROGRAMS: [(&str, &str); 1] = [("fio", "usr/bin/fio")];
const LIBRARIES: [&str; 52] = [
    "libaio1",
    "libargon2-1",
    "libblkid1",
    "libboost-iostreams1.74.0",
    "libboost-thread1.74.0",
    "libbz2-1.0",
    "libc6",
    "libcryptsetup12",
    "libdaxctl1",
    "libdevmapper1.02.1",
    "libffi8",
    "libfmt9",
    "libgcc-s1",
    "libgfapi0",
    "libgfrpc0",
    "libgfxdr0",
    "libglusterfs0",
    "libgmp10",
    "libgnutls30",
    "libgssapi-krb5-2",
    "libhogweed6",
    "libibverbs1",
    "libicu72",
    "libidn2-0",
    "libjson-c5",
    "libk5crypto3",
    "libkeyutils1",
    "libkmod2",
    "libkrb5-3",
    "libkrb5support0",
    "liblzma5",
    "libnbd0",
    "libndctl6",
    "libnettle8",
    "libnl-3-200",
    "libnl-route-3-200",
    "libnuma1",
    "libp11-kit0",
    "libpcre2-8-0",
    "libpmem1",
    "libpmemblk1",
    "librados2",
    "librbd1",
    "librdmacm1",
    "libselinux1",
    "libssl3",
    "libstdc++6",
    "libtasn1-6",
    "libtirpc3",
    "libudev1",
    "libunistring2",
    "libuuid1",
];
const MORE_LIBRARIES: [&str; 5] = ["libacl1", "libcom-err2", "libxml2", "libzstd1", "zlib1g"];
/// The disk's size in bytes.
const DISK: u64 = 256 << 20;
const MIB: f64 = (1 << 20) as f64;

/// All figures.
#[derive(Debug, Serialize)]
struct Comparison {
    seconds: u32,
    rows: Vec<Row>,
}

/// One kind of access.
#[derive(Debug, Serialize)]
struct Row {
    bus: &'static str,
    work: &'static str,
    native: Speed,
    umbra: Speed,
    /// Umbra's bytes a second by the native ones.
    share: f64,
    /// Exits, beyond those of a run that measures nothing, and what they cost.
    #[serde(flatten)]
    exits: Exits,
    exits_per_mib: f64,
}

/// What fio has measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Speed {
    mib: f64,
    mib_per_second: f64,
    requests_per_second: f64,
}

/// The command.
///
/// # Errors
///
/// A run fails.
pub fn disk(args: &DiskArgs) -> Result<()> {
    let work = chosen("access", &WORK, &args.work)?;
    rig::require_for_tests()?;
    let umbra = kernel::build()?;
    let mut rows = Vec::new();
    for bus in DiskBus::ALL {
        if args.disk_bus.is_none_or(|only| only == bus) {
            rows.extend(Bench::new(args.seconds, umbra.clone(), bus)?.rows(&work)?);
        }
    }
    let comparison = Comparison {
        seconds: args.seconds,
        rows,
    };
    print!("{}", table(&comparison));
    write_json(args.json.as_deref(), &comparison)
}

/// What is measured.
struct Bench {
    seconds: u32,
    umbra: PathBuf,
    scratch: tempfile::TempDir,
    initrd: PathBuf,
    disk: PathBuf,
    bus: DiskBus,
}

impl Bench {
    fn new(seconds: u32, umbra: PathBuf, bus: DiskBus) -> Result<Bench> {
        let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
        let libraries = [&LIBRARIES[..], &MORE_LIBRARIES].concat();
        let initrd = ram_disk(scratch.path(), bus, &PROGRAMS, &libraries)?;
        let disk = scratch.path().join("disk.img");
        // Written once, so that nobody measures holes.
        let bytes: Vec<u8> = (0..DISK / 8)
            .flat_map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
            .collect();
        fs::write(&disk, bytes)?;
        Ok(Bench {
            seconds,
            umbra,
            scratch,
            initrd,
            disk: media::open_disk(&disk)?.path,
            bus,
        })
    }

    /// Measures a disk on one bus.
    fn rows(&self, work: &[&'static str]) -> Result<Vec<Row>> {
        let bus = self.bus.name();
        let row = |name, runs: Runs<'_>| Row::new((bus, name), runs);
        rows(
            bus,
            work,
            |work| self.native(work),
            |work| self.inside(work),
            row,
        )
    }

    fn options(&self, work: &[&str]) -> Result<Options> {
        let work = format!(
            "measure umbra.jobs={} umbra.seconds={}",
            work.join(","),
            self.seconds
        );
        let mut options = Options {
            report: Some(self.scratch.path().join("report.json")),
            timeout: Some(Duration::from_secs(300)),
            ..options(&self.initrd, (&self.disk, self.bus), &work)?
        };
        options.vm.memory = 768 << 20;
        Ok(options)
    }

    /// A run in Umbra: what the guest said, and the report.
    fn inside(&self, work: &[&str]) -> Result<(String, Value)> {
        WORDS.inside(&self.options(work)?, &self.umbra, "bench-disk")
    }

    /// A run without Umbra.
    fn native(&self, work: &[&str]) -> Result<String> {
        let disk = Drive {
            serial: "umbra-disk".to_owned(),
            format: crate::media::Format::Raw,
            path: self.disk.clone(),
            writable: true,
            bus: match self.bus {
                DiskBus::Ide => Bus::Ide,
                DiskBus::Ahci => Bus::Ahci,
                DiskBus::Virtio => Bus::Virtio,
            },
        };
        WORDS.native(self.options(work)?, vec![disk], Network::default())
    }
}

/// What the guest says at its end.
const WORDS: Words = Words {
    done: "STORAGE-MEASURED",
    failed: FAILED,
};

impl Row {
    fn new((bus, name): (&'static str, &'static str), runs: Runs<'_>) -> Result<Row> {
        let native = Speed::of(name, runs.native)?;
        let umbra = Speed::of(name, runs.inside)?;
        let measured = Speed::of(name, runs.counted)?;
        let exits = runs.exits;
        ensure!(
            measured.mib > 0.0 && native.mib_per_second > 0.0,
            "{name}: nothing was moved"
        );
        Ok(Row {
            bus,
            work: name,
            native,
            umbra,
            share: umbra.mib_per_second / native.mib_per_second,
            exits_per_mib: exits.all as f64 / measured.mib,
            exits,
        })
    }
}

impl Speed {
    /// Reads fio's line for `job`. fio's documentation, "Terse output", version 3: fields 6 to 8 are what was read in KiB, KiB a second
    /// and requests a second, 47 to 49 the same of what was written.
    fn of(job: &str, console: &str) -> Result<Speed> {
        let line = console
            .lines()
            .find(|line| line.starts_with("3;") && line.split(';').nth(2) == Some(job));
        let line = line.with_context(|| format!("fio has not told about {job}"))?;
        let field = |number: usize| -> Result<f64> {
            let text = line
                .split(';')
                .nth(number - 1)
                .context("fio's line is too short")?;
            Ok(text.parse()?)
        };
        ensure!(field(5)? == 0.0, "fio failed with error {}", field(5)?);
        let first = if job.ends_with("write") { 47 } else { 6 };
        Ok(Speed {
            mib: field(first)? * 1024.0 / MIB,
            mib_per_second: field(first + 1)? * 1024.0 / MIB,
            requests_per_second: field(first + 2)?,
        })
    }
}

fn table(comparison: &Comparison) -> String {
    let mut text = format!(
        "{:25} {:>9} {:>9} {:>11} {:>11} {:>8} {:>11}  most of them\n",
        "disk, fio", "native", "Umbra", "native", "Umbra", "share", "exits/MiB"
    );
    text += &format!(
        "{:25} {:>9} {:>9} {:>11} {:>11}\n",
        "", "MiB/s", "MiB/s", "requests/s", "requests/s"
    );
    for row in &comparison.rows {
        text += &format!(
            "{:25} {:9.1} {:9.1} {:11.0} {:11.0} {:8.2} {:11.1}  {}\n",
            format!("{}, {}", row.bus, row.work),
            row.native.mib_per_second,
            row.umbra.mib_per_second,
            row.native.requests_per_second,
            row.umbra.requests_per_second,
            row.share,
            row.exits_per_mib,
            row.exits.most()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fios_terse_lines_are_read_by_direction() {
        let mut fields = vec!["0".to_owned(); 130];
        for (at, value) in [
            (1, "3"),
            (2, "fio-3.33"),
            (3, "random-write"),
            (47, "2048"),
            (48, "512"),
            (49, "128"),
        ] {
            fields[at - 1] = value.to_owned();
        }
        let line = format!("x\n{}\r\n", fields.join(";"));
        let speed = Speed::of("random-write", &line).unwrap();
        assert_eq!(
            (speed.mib, speed.mib_per_second, speed.requests_per_second),
            (2.0, 0.5, 128.0)
        );
        assert!(Speed::of("random-read", &line).is_err());
    }
}
