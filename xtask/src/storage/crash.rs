//! Kills in the middle of writing: `cargo xtask bench crash`, and a short form of it for the tests.
//!
//! The guest writes records, one after the other, and says each on COM1 when fsync(2) has ended; beside that it writes and renames
//! files without a flush. The emulator gets SIGKILL at a random moment, which for the guest is a power failure. Then, on a copy of the
//! disk, the journal is replayed, `e2fsck -fn` must find nothing, and each record that was said must be there. The next boot goes on
//! with the same file system.
//!
//! What is shown is that a FLUSH CACHE has brought the data out of Umbra before it ends. That they then are on this machine's
//! medium, and not only in its page cache, no kill of a process can show: it follows from QEMU's fdatasync(2).

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow, bail, ensure};
use protocol::options::DiskBus;

use super::{file_system_ram_disk, options};
use crate::cli::CrashArgs;
use crate::command;
use crate::outcome::{Interrupted, interrupted};
use crate::rig;
use crate::run;
use crate::session::{Plan, Session};
use crate::{kernel, media, paths};

/// The disk's size in bytes: small, so that its copies are quick.
pub const DISK: u64 = 128 << 20;
/// Where the guest has put the partition, in bytes.
const PARTITION: u64 = 1 << 20;
/// Bytes of a record.
const RECORD: usize = 512;
/// What the guest says when its work has begun, and for each record.
pub const READY: &str = "STORAGE-READY";
const SAID: &str = "STORAGE-RECORD ";
/// What it says when something does not work.
pub const FAILED: &str = "STORAGE-FAILED";
/// How long the guest has to begin.
const START: Duration = Duration::from_secs(180);
/// The longest time from the beginning of the work to the kill.
const LONGEST: Duration = Duration::from_millis(4000);

/// The command.
///
/// # Errors
///
/// Something was lost, or a run failed.
pub fn crash(args: &CrashArgs) -> Result<()> {
    rig::require_for_tests()?;
    let umbra = kernel::build()?;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let seed = args.seed.unwrap_or_else(|| {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        now.as_nanos() as u64
    });
    println!("seed {seed}");
    let mut test = Crash::new(&umbra, scratch.path(), args.disk_bus, seed)?;
    for kill in 1..=args.kills {
        let after = test
            .kill()
            .with_context(|| format!("kill {kill}, seed {seed}"))?;
        println!(
            "kill {kill}: after {:.3} s, {} records said and found, e2fsck finds nothing",
            after.as_secs_f64(),
            test.next
        );
    }
    println!("{} kills, {} records, nothing lost", args.kills, test.next);
    Ok(())
}

/// A guest that is killed while it writes.
pub struct Crash<'a> {
    umbra: &'a Path,
    scratch: &'a Path,
    initrd: PathBuf,
    disk: PathBuf,
    bus: DiskBus,
    random: u64,
    /// The number of the next record: all before it were said.
    pub next: u64,
}

impl Crash<'_> {
    /// Has a guest make a file system on a new disk on `bus`, and kills it after its sync.
    ///
    /// # Errors
    ///
    /// It does not come that far.
    pub fn new<'a>(
        umbra: &'a Path,
        scratch: &'a Path,
        bus: DiskBus,
        seed: u64,
    ) -> Result<Crash<'a>> {
        let disk = media::make_disk(&scratch.join("disk.img"), DISK)?.path;
        let initrd = file_system_ram_disk(scratch, bus)?;
        let test = Crash {
            umbra,
            scratch,
            initrd,
            disk,
            bus,
            random: seed,
            next: 0,
        };
        test.run("prepare", Duration::ZERO)?;
        Ok(test)
    }

    /// The guest's RAM disk.
    pub fn initrd(&self) -> &Path {
        &self.initrd
    }

    /// Runs the guest, kills it at a random moment, and checks what it left. Gives the time from the beginning of its work.
    ///
    /// # Errors
    ///
    /// Something that was said is not there, or the file system is damaged.
    pub fn kill(&mut self) -> Result<Duration> {
        let after = LONGEST.mul_f64(self.draw());
        let console = self.run(&format!("load umbra.record={}", self.next), after)?;
        self.next = said(&console, self.next)?;
        let records = self.records()?;
        for number in 0..self.next {
            let at = usize::try_from(number)? * RECORD;
            ensure!(
                records.get(at..at + RECORD) == Some(&record(number)[..]),
                "record {number} was said to be flushed and is not there"
            );
        }
        Ok(after)
    }

    /// Runs the guest, waits for it to begin with `work`, and kills the emulator `after` that. Gives what COM1 said.
    ///
    /// # Errors
    ///
    /// It did not begin.
    pub fn run(&self, work: &str, after: Duration) -> Result<String> {
        let options = options(&self.initrd, (&self.disk, self.bus), work)?;
        let machine = run::machine(&options, self.umbra, None, self.scratch)?;
        let mut emulator = machine.rig.start(&machine, &paths::new_log("crash")?)?;
        let session = Session::new(emulator.connect()?, &options.script);
        let (sender, receiver) = mpsc::channel();
        let conversation = thread::spawn(move || {
            session.run(&Plan::default(), &mut |com1| {
                // Who does not listen any more has what it wanted.
                let _ = sender.send(com1.bytes.to_vec());
            })
        });
        let mut console = Vec::new();
        let mut kill_at = Instant::now() + START;
        let mut begun = false;
        loop {
            let left = kill_at.saturating_duration_since(Instant::now());
            if interrupted() {
                return Err(Interrupted.into());
            }
            if left.is_zero() {
                break;
            }
            match receiver.recv_timeout(left.min(Duration::from_millis(100))) {
                Ok(bytes) => console.extend(bytes),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            if !begun && String::from_utf8_lossy(&console).contains(READY) {
                begun = true;
                kill_at = Instant::now() + after;
            }
        }
        // SIGKILL.
        drop(emulator);
        // What was on its way was said before.
        let summary = conversation
            .join()
            .map_err(|_| anyhow!("the session ended by a panic"))?;
        console.extend(receiver.try_iter().flatten());
        let console = String::from_utf8_lossy(&console).into_owned();
        if interrupted() {
            return Err(Interrupted.into());
        }
        if !begun || console.contains(FAILED) {
            bail!(
                "the guest did not do its work ({:?}): {}",
                summary.result,
                tail(&console)
            );
        }
        Ok(console)
    }

    /// Replays the journal on a copy of the disk, has e2fsck look for errors, and gives the file with the records.
    fn records(&self) -> Result<Vec<u8>> {
        // The partition alone: e2fsck forgets an offset when it opens the file again behind the journal.
        let copy = self.scratch.join("partition.img");
        let mut disk = File::open(&self.disk)?;
        disk.seek(SeekFrom::Start(PARTITION))?;
        io::copy(&mut disk, &mut File::create(&copy)?).context("cannot copy the partition")?;
        command::run(
            Command::new("/sbin/e2fsck")
                .args(["-y", "-E", "journal_only"])
                .arg(&copy),
        )?;
        let check = Command::new("/sbin/e2fsck")
            .arg("-fn")
            .arg(&copy)
            .output()?;
        ensure!(
            check.status.success(),
            "e2fsck finds errors: {}",
            String::from_utf8_lossy(&check.stdout)
        );
        let file = self.scratch.join("records");
        let dump = format!("dump /records {}", file.display());
        command::run(Command::new("/sbin/debugfs").args(["-R", &dump]).arg(&copy))?;
        let records = fs::read(&file).unwrap_or_default();
        let _ = fs::remove_file(file);
        Ok(records)
    }

    /// The next random number from 0 to 1: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", SplitMix64.
    fn draw(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// What a record holds: its number in decimal, padded with zeros.
fn record(number: u64) -> Vec<u8> {
    format!("{number:0511}\n").into_bytes()
}

/// The number after the last record that COM1 said. They must follow each other from `next` on; a line that the kill has cut off says
/// nothing.
fn said(console: &str, mut next: u64) -> Result<u64> {
    for line in console
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
    {
        let Some((_, number)) = line.split_once(SAID) else {
            continue;
        };
        let number: u64 = number.trim().parse().context("a record without a number")?;
        ensure!(number == next, "record {number} was said instead of {next}");
        next += 1;
    }
    Ok(next)
}

fn tail(console: &str) -> String {
    let lines: Vec<&str> = console.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_as_far_as_they_were_said_whole() {
        let text = "x\r\nSTORAGE-READY\r\nSTORAGE-RECORD 7\r\nSTORAGE-RECORD 8\r\nSTORAGE-RECORD 9";
        assert_eq!(said(text, 7).unwrap(), 9);
        assert_eq!(said("", 3).unwrap(), 3);
        assert!(said(text, 6).is_err());
    }

    #[test]
    fn a_record_is_a_sector() {
        assert_eq!(record(12).len(), RECORD);
        assert!(record(12).ends_with(b"0012\n"));
    }
}
