//! `cargo xtask test`: lints, unit tests, the red-zone gate, and whole guests, with one line for each test.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::cases::{self, Case};
use crate::cli::TestArgs;
use crate::guests::Guest;
use crate::outcome::{Interrupted, Told, interrupted};
use crate::rig;
use crate::{fuzz, kernel, paths};

/// The name of the unit tests.
const UNIT: &str = "unit";

/// How long each fuzz target runs.
const FUZZ_SECONDS: u32 = 20;

/// A test: its name and what it does.
struct Test {
    name: String,
    kind: Kind,
}

impl Test {
    /// Whether it runs only when it is named.
    fn by_hand(&self) -> bool {
        matches!(&self.kind, Kind::Guest(case) if case.by_hand)
    }
}

enum Kind {
    /// A cargo command, with its arguments.
    Cargo(&'static [&'static str]),
    /// The red-zone gate.
    RedZone,
    /// The fuzz targets, for a while each.
    Fuzz,
    /// A whole guest.
    Guest(Box<Case>),
}

/// What the tests share.
struct Shared {
    umbra: PathBuf,
}

/// Whether `word` of the command line means the test of this name: the one that is called so among `all`, or else each whose name contains it.
fn means(word: &str, name: &str, all: &[&str]) -> bool {
    match all.contains(&word) {
        true => name == word,
        false => name.contains(word),
    }
}

/// The command.
///
/// # Errors
///
/// A test fails, or the tests cannot be prepared.
pub fn test(args: &TestArgs) -> Result<()> {
    let tests = all();
    let names: Vec<&str> = tests.iter().map(|test| test.name.as_str()).collect();
    let chosen: Vec<bool> = tests
        .iter()
        .map(|test| match args.only.is_empty() {
            true => args.list || !test.by_hand(),
            false => args.only.iter().any(|word| means(word, &test.name, &names)),
        })
        .collect();
    let tests: Vec<Test> = tests
        .into_iter()
        .zip(chosen)
        .filter_map(|(test, chosen)| chosen.then_some(test))
        .collect();
    if args.list {
        for test in &tests {
            let when = if test.by_hand() {
                "  (only when it is named)"
            } else {
                ""
            };
            println!("{}{when}", test.name);
        }
        return Ok(());
    }
    if tests.is_empty() {
        crate::outcome::refuse!("no test has such a name; cargo xtask test --list names them");
    }
    rig::require_for_tests()?;
    let (host, guests): (Vec<_>, Vec<_>) = tests
        .into_iter()
        .partition(|test| matches!(test.kind, Kind::Cargo(_) | Kind::Fuzz));
    let start = Instant::now();
    let tally = Tally::default();
    let nowhere = Shared {
        umbra: PathBuf::new(),
    };
    if host.iter().any(|test| test.name == UNIT) {
        // A unit test boots it in the emulator.
        Guest::GrubRescue
            .provide()
            .context("the guest for unit cannot be had")?;
    }
    for test in &host {
        tally.run(test, &nowhere)?;
    }
    if !guests.is_empty() {
        let shared = Shared {
            umbra: kernel::build()?,
        };
        // Guests are fetched one after the other, before any runs: two tests may want the same one.
        for test in &guests {
            if let Kind::Guest(case) = &test.kind {
                case.prepare()
                    .with_context(|| format!("the guest for {} cannot be had", test.name))?;
            }
        }
        let next = AtomicUsize::new(0);
        let stop = Mutex::new(None);
        thread::scope(|scope| {
            for _ in 0..args.jobs.clamp(1, 16) {
                scope.spawn(|| {
                    while let Some(test) = guests.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = tally.run(test, &shared) {
                            stop.lock()
                                .unwrap_or_else(std::sync::PoisonError::into_inner)
                                .get_or_insert(error);
                            break;
                        }
                    }
                });
            }
        });
        if let Some(error) = stop
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
        {
            return Err(error);
        }
    }
    let (passed, failed) = (tally.passed.into_inner(), tally.failed.into_inner());
    let again = tally.again.into_inner();
    eprintln!("all tests took {:.0} s", start.elapsed().as_secs_f64());
    println!("{passed} passed, {failed} failed");
    if again > 0 {
        println!("{again} of those that passed did so the second time only: see AGAIN above");
    }
    match failed {
        0 => Ok(()),
        _ => Err(Told.into()),
    }
}

/// All tests, in the order in which they start.
fn all() -> Vec<Test> {
    let host = [
        (
            "clippy",
            // The ring-0 image has the next one to itself: the fakes of the others' tests need std.
            &[
                "clippy",
                "--workspace",
                "--exclude",
                "boot",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ][..],
        ),
        (
            "clippy-image",
            &[
                "clippy",
                "--release",
                "--package",
                "boot",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ][..],
        ),
        (UNIT, &["test", "--workspace", "--quiet"][..]),
        ("doc", &["doc", "--workspace", "--no-deps", "--quiet"][..]),
    ];
    let mut tests: Vec<Test> = host
        .into_iter()
        .map(|(name, words)| Test {
            name: name.to_owned(),
            kind: Kind::Cargo(words),
        })
        .collect();
    tests.push(Test {
        name: "fuzz".to_owned(),
        kind: Kind::Fuzz,
    });
    tests.push(Test {
        name: "red-zone".to_owned(),
        kind: Kind::RedZone,
    });
    tests.extend(cases::all().into_iter().map(|case| Test {
        name: case.name.to_owned(),
        kind: Kind::Guest(Box::new(case)),
    }));
    tests
}

#[derive(Default)]
struct Tally {
    passed: AtomicUsize,
    failed: AtomicUsize,
    /// Of those that passed: whole guests that failed first.
    again: AtomicUsize,
}

impl Tally {
    /// Runs `test` and says how it went.
    ///
    /// # Errors
    ///
    /// The tool was interrupted.
    fn run(&self, test: &Test, shared: &Shared) -> Result<()> {
        if interrupted() {
            return Err(Interrupted.into());
        }
        let start = Instant::now();
        let result = match &test.kind {
            Kind::Cargo(words) => cargo(words),
            Kind::RedZone => red_zone(&shared.umbra),
            Kind::Fuzz => fuzz::test(FUZZ_SECONDS),
            Kind::Guest(case) => self.run_guest(case, &shared.umbra),
        };
        if interrupted() {
            return Err(Interrupted.into());
        }
        let seconds = start.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                self.passed.fetch_add(1, Ordering::Relaxed);
                println!("ok    {:28} {seconds:6.1} s", test.name);
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                println!("FAIL  {:28} {seconds:6.1} s: {error:#}", test.name);
            }
        }
        Ok(())
    }
}

impl Tally {
    /// Runs a whole guest. One that fails is run once more, and both is said: QEMU's emulation (before 8.1) changes a CPU's pending interrupts
    /// without its lock, and may lose one, for which a guest may wait for ever.
    ///
    /// # Errors
    ///
    /// It has failed twice.
    fn run_guest(&self, case: &Case, umbra: &Path) -> Result<()> {
        let Err(error) = case.run(umbra) else {
            return Ok(());
        };
        if interrupted() {
            return Err(error);
        }
        println!("AGAIN {:28} {error:#}", case.name);
        case.run(umbra)?;
        self.again.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

/// Runs cargo with `words`; its words are the error when it fails.
fn cargo(words: &[&str]) -> Result<()> {
    eprintln!("cargo {} ...", words.join(" "));
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(paths::root())
        .args(words)
        .env("RUSTDOCFLAGS", "-D warnings")
        // The set-up has installed the tools that unit tests ask about our tables.
        .env("UMBRA_REQUIRE_TOOLS", "1")
        .stdin(Stdio::null())
        .output()
        .context("cannot start cargo")?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    bail!(
        "cargo {} failed\n{}",
        words.join(" "),
        String::from_utf8_lossy(&text).trim_end()
    )
}

/// Proves that Umbra's image never uses memory below its stack pointer, which an interrupt would overwrite: System V ABI,
/// x86-64 supplement, 3.2.2, "The Stack Frame".
fn red_zone(umbra: &Path) -> Result<()> {
    let output = Command::new("objdump")
        .args(["-d", "--no-show-raw-insn"])
        .arg(umbra)
        .stdin(Stdio::null())
        .output()
        .context("cannot start objdump")?;
    ensure!(
        output.status.success(),
        "objdump failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        text.contains("(%rsp)"),
        "objdump shows no code in {}",
        umbra.display()
    );
    match text.lines().find(|line| below_stack(line)) {
        None => Ok(()),
        Some(line) => Err(anyhow!("code uses the red zone: {}", line.trim())),
    }
}

/// Whether a line of objdump accesses memory below RSP. An address that is only computed (LEA) is no access, and with an index
/// register the sum may lie above.
fn below_stack(line: &str) -> bool {
    let Some((_, instruction)) = line.split_once(":\t") else {
        return false;
    };
    let below = instruction.split_once("(%rsp)").is_some_and(|(before, _)| {
        let displacement = before
            .rsplit([' ', ',', '\t', ':'])
            .next()
            .unwrap_or_default();
        displacement.starts_with("-0x")
    });
    below && !instruction.starts_with("lea")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_name_means_one_test_and_a_part_all_that_have_it() {
        let all = ["litmus", "litmus-million", "shadow-litmus"];
        let meant = |word| all.map(|name| means(word, name, &all));
        assert_eq!(meant("litmus"), [true, false, false]);
        assert_eq!(meant("litmus-m"), [false, true, false]);
        assert_eq!(meant("tmus"), [true, true, true]);
        assert_eq!(meant("unit"), [false, false, false]);
    }

    #[test]
    fn accesses_below_the_stack_pointer_are_found() {
        assert!(below_stack("  10045b:\tmov    %rax,-0x8(%rsp)"));
        assert!(below_stack("  10045b:\tmovaps -0x18(%rsp),%xmm0"));
        assert!(!below_stack("  10045b:\tmov    %dil,-0x1(%rsp,%rdx,1)"));
        assert!(!below_stack("  10045b:\tmov    %rax,0x8(%rsp)"));
        assert!(!below_stack("  10045b:\tlea    -0x40(%rsp),%rsp"));
        assert!(!below_stack("  10045b:\tmov    -0x8(%rbp),%rax"));
        assert!(!below_stack("  10045b:\tret"));
    }

    #[test]
    fn tests_have_different_names() {
        let mut names: Vec<String> = all().into_iter().map(|test| test.name).collect();
        names.sort();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
