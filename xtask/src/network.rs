//! `cargo xtask bench net`: the guest's network, bare in QEMU and in Umbra with the same card, in the same guest.
//!
//! The guest receives from a [`Peer`], sends to it, and pings. One run tells the speed of each; another in Umbra for each, and one that does
//! nothing, tell the exits that it costs.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use protocol::options::{Nic, Profile};
use serde::Serialize;
use serde_json::Value;

use crate::cli::NetArgs;
use crate::compare::{Exits, Runs, Words, chosen, rows, write_json};
use crate::cpio::Archive;
use crate::guests::Guest;
use crate::kernel;
use crate::media;
use crate::peer::Peer;
use crate::rig::{self, MIB, Net, Network};
use crate::run::Options;
use crate::vm::Vm;

/// The kinds of traffic, as the guest's script names them.
const WORK: [&str; 3] = ["download", "upload", "ping"];
/// What the guest does.
const SCRIPT: &str = include_str!("network.sh");
/// What the script uses of busybox besides what every test guest has.
const APPLETS: [&str; 1] = ["nc"];
const WORDS: Words = Words {
    done: "NETWORK-MEASURED",
    failed: "NETWORK-FAILED",
};
/// A guest that gets nowhere is given up.
const TIMEOUT: Duration = Duration::from_secs(1200);

/// All figures.
#[derive(Debug, Serialize)]
struct Comparison {
    mib: u32,
    requests: u32,
    rows: Vec<Row>,
}

/// One kind of traffic.
#[derive(Debug, Serialize)]
struct Row {
    nic: &'static str,
    work: &'static str,
    native: Traffic,
    umbra: Traffic,
    /// Umbra's speed by the native one.
    share: f64,
    /// Exits, beyond those of a run that does nothing, and what they cost.
    #[serde(flatten)]
    exits: Exits,
    /// Of what was to be moved; not of pings.
    exits_per_mib: Option<f64>,
    exits_per_frame: f64,
}

/// What the guest has measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Traffic {
    seconds: f64,
    /// MiB, or answered requests.
    per_second: f64,
    /// Received and sent.
    frames: u64,
    /// Receive errors that the driver has counted.
    errors: u64,
}

/// The command.
///
/// # Errors
///
/// A run fails.
pub fn net(args: &NetArgs) -> Result<()> {
    let work = chosen("traffic", &WORK, &args.work)?;
    rig::require_for_tests()?;
    let mut bench = Bench::new(args)?;
    let mut rows = Vec::new();
    for nic in [Nic::Ne2k, Nic::E1000, Nic::Virtio] {
        if args.nic.is_none_or(|only| only == nic) {
            bench.nic = nic;
            rows.extend(bench.rows(&work)?);
        }
    }
    let comparison = Comparison {
        mib: args.mib,
        requests: args.requests,
        rows,
    };
    print!("{}", table(&comparison));
    write_json(args.json.as_deref(), &comparison)
}

/// What is measured.
struct Bench<'a> {
    args: &'a NetArgs,
    umbra: PathBuf,
    scratch: tempfile::TempDir,
    initrd: PathBuf,
    peer: Peer,
    nic: Nic,
}

impl Bench<'_> {
    fn new(args: &NetArgs) -> Result<Bench<'_>> {
        let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
        let mut archive = Archive::default();
        archive.program("network.sh", SCRIPT.as_bytes());
        for applet in APPLETS {
            archive.link(&format!("bin/{applet}"), "busybox");
        }
        let initrd = Guest::I386Initrd.with_more(archive, scratch.path())?;
        Ok(Bench {
            args,
            umbra: kernel::build()?,
            scratch,
            initrd,
            peer: Peer::start(u64::from(args.mib) * MIB)?,
            nic: Nic::Ne2k,
        })
    }

    /// Measures one card.
    fn rows(&self, work: &[&'static str]) -> Result<Vec<Row>> {
        let nic = self.nic.name();
        let row = |name, runs: Runs<'_>| {
            let traffic = |console| Traffic::of(name, self.amount(name), console);
            Ok(Row::new(
                (nic, name),
                self.mib(name),
                [
                    traffic(runs.native)?,
                    traffic(runs.inside)?,
                    traffic(runs.counted)?,
                ],
                runs.exits,
            ))
        };
        rows(
            nic,
            work,
            |work| self.native(work),
            |work| self.inside(work),
            row,
        )
    }

    /// The MiB that are moved, if it is about these.
    fn mib(&self, work: &str) -> Option<f64> {
        (work != "ping").then_some(self.args.mib.into())
    }

    /// The MiB that are moved, or the requests.
    fn amount(&self, work: &str) -> f64 {
        self.mib(work).unwrap_or(self.args.requests.into())
    }

    fn network(&self) -> Network {
        Network {
            net: Net::User,
            native_card: self.nic,
            ..Network::default()
        }
    }

    fn options(&self, work: &[&str]) -> Result<Options> {
        let cmdline = format!(
            "console=ttyS0 quiet umbra.then=network umbra.jobs={} umbra.bytes={} umbra.requests={} umbra.source={} umbra.sink={}",
            work.join(","),
            u64::from(self.args.mib) * MIB,
            self.args.requests,
            self.peer.source,
            self.peer.sink
        );
        Ok(Options {
            network: self.network(),
            report: Some(self.scratch.path().join("report.json")),
            timeout: Some(TIMEOUT),
            ..Options::headless(Vm {
                initrd: Some(media::open_initrd(&self.initrd)?),
                cmdline,
                memory: 256 * MIB,
                profile: Profile {
                    nics: self.nic.into(),
                    ..Profile::default()
                },
                ..Vm::of(&Guest::I386Kernel.provide()?)?
            })
        })
    }

    /// A run in Umbra: what the guest said, and the report.
    fn inside(&self, work: &[&str]) -> Result<(String, Value)> {
        self.sent(work, || {
            WORDS.inside(&self.options(work)?, &self.umbra, "bench-net")
        })
    }

    /// A run without Umbra.
    fn native(&self, work: &[&str]) -> Result<String> {
        self.sent(work, || {
            WORDS.native(self.options(work)?, Vec::new(), self.network())
        })
    }

    /// Does `run` and sees that the guest has sent what it should.
    fn sent<T>(&self, work: &[&str], run: impl FnOnce() -> Result<T>) -> Result<T> {
        let before = self.peer.taken();
        let result = run()?;
        let expected = if work.contains(&"upload") {
            u64::from(self.args.mib) * MIB
        } else {
            0
        };
        let sent = self.peer.taken() - before;
        ensure!(sent == expected, "{sent} of {expected} bytes have arrived");
        Ok(result)
    }
}

impl Row {
    fn new(
        (nic, work): (&'static str, &'static str),
        mib: Option<f64>,
        [native, umbra, counted]: [Traffic; 3],
        exits: Exits,
    ) -> Row {
        Row {
            nic,
            work,
            native,
            umbra,
            share: umbra.per_second / native.per_second,
            exits_per_mib: mib.map(|mib| exits.all as f64 / mib),
            exits_per_frame: exits.all as f64 / counted.frames.max(1) as f64,
            exits,
        }
    }
}

impl Traffic {
    /// Reads the guest's line about `job`, which has moved or asked for `amount`: milliseconds, then the card's counters before and after.
    fn of(job: &str, amount: f64, console: &str) -> Result<Traffic> {
        let line = console.lines().find_map(|line| {
            let (_, rest) = line.split_once("NETWORK-JOB ")?;
            rest.strip_prefix(job)?.strip_prefix(' ')
        });
        let line = line.with_context(|| format!("the guest has not told about {job}"))?;
        let numbers = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<Vec<u64>, _>>()?;
        let &[
            milliseconds,
            received,
            errors,
            sent,
            received_after,
            errors_after,
            sent_after,
        ] = numbers.as_slice()
        else {
            anyhow::bail!("the guest says {line:?} about {job}");
        };
        ensure!(milliseconds > 0, "{job} took no time: give it more to do");
        let seconds = milliseconds as f64 / 1000.0;
        Ok(Traffic {
            seconds,
            per_second: amount / seconds,
            frames: (received_after + sent_after).saturating_sub(received + sent),
            errors: errors_after.saturating_sub(errors),
        })
    }
}

fn table(comparison: &Comparison) -> String {
    let mut text = format!(
        "{:26} {:>9} {:>9} {:>7} {:>9} {:>10} {:>12}  most of them\n",
        "network", "native", "Umbra", "share", "errors", "exits/MiB", "exits/frame"
    );
    for row in &comparison.rows {
        let (unit, per_mib) = match row.exits_per_mib {
            Some(exits) => ("MiB/s", format!("{exits:.0}")),
            None => ("requests/s", String::new()),
        };
        text += &format!(
            "{:26} {:9.2} {:9.2} {:7.2} {:>9} {per_mib:>10} {:12.2}  {}\n",
            format!("{}, {}, {unit}", row.nic, row.work),
            row.native.per_second,
            row.umbra.per_second,
            row.share,
            format!("{}, {}", row.native.errors, row.umbra.errors),
            row.exits_per_frame,
            row.exits.most()
        );
    }
    text.push_str("errors: received frames that the driver calls bad, native and in Umbra\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "GUEST-UP\r\nNETWORK-JOB download 2000 10 0 5 1010 2 505\r\nNETWORK-JOB ping 500 1010 2 505 1210 2 705\r\n";

    #[test]
    fn traffic_is_what_came_between_the_two_looks_at_the_card() {
        let download = Traffic::of("download", 4.0, SAID).unwrap();
        let ping = Traffic::of("ping", 200.0, SAID).unwrap();
        let expected = |seconds, per_second, frames, errors| Traffic {
            seconds,
            per_second,
            frames,
            errors,
        };
        assert_eq!(download, expected(2.0, 2.0, 1500, 2));
        assert_eq!(ping, expected(0.5, 400.0, 400, 0));
        assert!(Traffic::of("upload", 4.0, SAID).is_err());
        assert!(Traffic::of("down", 4.0, SAID).is_err());
    }

    #[test]
    fn the_table_has_a_row_for_each_kind_with_its_unit() {
        let traffic = Traffic::of("download", 4.0, SAID).unwrap();
        let exits = Exits {
            all: 3000,
            reasons: vec![("port i/o".to_owned(), 3000)],
        };
        let comparison = Comparison {
            mib: 4,
            requests: 200,
            rows: vec![Row::new(
                ("ne2k", "download"),
                Some(4.0),
                [traffic; 3],
                exits,
            )],
        };
        let row = table(&comparison);
        let row = row.lines().nth(1).unwrap_or_default();
        let words: Vec<_> = row.split_whitespace().collect();
        let line = "ne2k, download, MiB/s 2.00 2.00 1.00 2, 2 750 2.00 port i/o 100 %";
        assert_eq!(words.join(" "), line);
    }
}
