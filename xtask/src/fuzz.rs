//! `cargo xtask fuzz`: the fuzz targets of `tests::fuzz` under libFuzzer, which looks for bytes that reach new code.
//!
//! The compiler's coverage pass is in the stable toolchain, so that nothing but a C++ compiler is needed besides. Each target begins with
//! its seeds (`tests/fuzz/seeds`, a line in base64 each) and with what earlier runs have found (`target/fuzz/corpus`).

use std::fs;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::cli::FuzzArgs;
use crate::outcome::{Interrupted, Told, interrupted, refuse};
use crate::paths;
use crate::setup::{self, Purpose};

/// Which target the program runs; without it, it lists them.
const NAME: &str = "UMBRA_FUZZ";
/// The one target triple; build scripts and macros of the host are then built without the flags below.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// What libFuzzer wants of the compiler: Clang's documentation, "SanitizerCoverage", "Inline 8bit-counters", "PC-Table" and "Tracing
/// data flow".
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0";
/// A single input that takes longer is a failure: no guest may keep Umbra busy. In seconds, on a busy machine.
const SLOWEST: u32 = 20;
/// What the seeds of a target may take in the repository, in bytes.
const MOST_SEEDS: usize = 24 << 10;

/// A target: its name, and the longest input that is of use to it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    name: String,
    longest: usize,
}

/// What libFuzzer says at the end of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Reached {
    runs: u64,
    edges: u64,
    features: u64,
    inputs: u64,
    a_second: u64,
}

/// The command.
///
/// # Errors
///
/// A target fails, or the targets cannot be built.
pub fn fuzz(args: &FuzzArgs) -> Result<()> {
    setup::require(Purpose::Fuzz)?;
    let fuzzer = Fuzzer::build()?;
    if args.list {
        for target in &fuzzer.targets {
            println!("{}", target.name);
        }
        return Ok(());
    }
    let named = |target: &&Target| args.names.is_empty() || args.names.contains(&target.name);
    let chosen: Vec<&Target> = fuzzer.targets.iter().filter(named).collect();
    for name in &args.names {
        if !chosen.iter().any(|target| target.name == *name) {
            refuse!("there is no fuzz target {name}; cargo xtask fuzz --list names them");
        }
    }
    if let Some(input) = &args.input {
        let [target] = chosen[..] else {
            refuse!("--input needs the name of one target");
        };
        return fuzzer.replay(target, input);
    }
    let failed = fuzzer.all(&chosen, args.seconds, |target, result| {
        println!("{}", line(target, result));
    })?;
    if args.keep {
        for target in &chosen {
            fuzzer.keep(target)?;
        }
    }
    match failed {
        0 => Ok(()),
        _ => Err(Told.into()),
    }
}

/// Every target for `seconds`, for the tests; what each reached goes to standard error.
///
/// # Errors
///
/// A target has failed.
pub fn test(seconds: u32) -> Result<()> {
    let fuzzer = Fuzzer::build()?;
    let targets: Vec<&Target> = fuzzer.targets.iter().collect();
    let failures = Mutex::new(Vec::new());
    fuzzer.all(&targets, seconds, |target, result| {
        let line = line(target, result);
        match result {
            Ok(_) => eprintln!("{line}"),
            Err(_) => lock(&failures).push(line),
        }
    })?;
    let failures = failures
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn line(target: &Target, result: &Result<Reached>) -> String {
    match result {
        Ok(r) => format!(
            "ok    {:12} {:>9} runs, {:>6} a second, {:>6} edges, {:>6} features, {:>5} inputs kept",
            target.name, r.runs, r.a_second, r.edges, r.features, r.inputs
        ),
        Err(error) => format!("FAIL  {:12} {error:#}", target.name),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The program with all targets in it.
struct Fuzzer {
    program: PathBuf,
    targets: Vec<Target>,
}

impl Fuzzer {
    /// Builds it.
    fn build() -> Result<Fuzzer> {
        let directory = paths::target().join("fuzz");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let status = Command::new(cargo)
            .current_dir(paths::root())
            .args(["build", "--release", "--locked", "--target", TRIPLE])
            .args(["--manifest-path", "tests/fuzz/Cargo.toml", "--target-dir"])
            .arg(&directory)
            .env("RUSTFLAGS", COVERAGE)
            .stdin(Stdio::null())
            .status()
            .context("cannot start cargo")?;
        ensure!(status.success(), "the fuzz targets do not build");
        let program = directory.join(TRIPLE).join("release/umbra-fuzz");
        let output = Command::new(&program).env_remove(NAME).output();
        let output = output.with_context(|| format!("cannot start {}", program.display()))?;
        let targets = targets(&String::from_utf8_lossy(&output.stdout));
        ensure!(!targets.is_empty(), "the fuzz program names no target");
        Ok(Fuzzer { program, targets })
    }

    /// Runs targets side by side, one for each of this computer's processors, and counts those that fail.
    fn all(
        &self,
        targets: &[&Target],
        seconds: u32,
        say: impl Fn(&Target, &Result<Reached>) + Sync,
    ) -> Result<usize> {
        let (next, failed) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let lanes = thread::available_parallelism().map_or(1, usize::from);
        thread::scope(|scope| {
            for _ in 0..lanes.min(targets.len()) {
                scope.spawn(|| {
                    while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if interrupted() {
                            break;
                        }
                        let result = self.run(target, seconds);
                        failed.fetch_add(result.is_err().into(), Ordering::Relaxed);
                        say(target, &result);
                    }
                });
            }
        });
        if interrupted() {
            return Err(Interrupted.into());
        }
        Ok(failed.into_inner())
    }

    fn run(&self, target: &Target, seconds: u32) -> Result<Reached> {
        let corpus = place("corpus", &target.name)?;
        let seeds = place("seeds", &target.name)?;
        unpack(&target.name, &seeds)?;
        let found = place("found", &target.name)?;
        let log = paths::target()
            .join("fuzz")
            .join(format!("{}.log", target.name));
        let mut child = Command::new(&self.program)
            .env(NAME, &target.name)
            // Long inputs from the beginning: short ones do not get past a device's set-up.
            .args(["-len_control=0", "-print_final_stats=1", "-reload=0"])
            .arg(format!("-max_len={}", target.longest))
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={SLOWEST}"))
            .arg(format!("-artifact_prefix={}/", found.display()))
            .args([&corpus, &seeds])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start the fuzz program")?;
        let mut text = String::new();
        if let Some(stderr) = child.stderr.take() {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                text.push_str(&line);
                text.push('\n');
                if interrupted() {
                    // It may have ended by itself: Ctrl-C goes to both.
                    let _ = child.kill();
                }
            }
        }
        let status = child.wait()?;
        fs::write(&log, &text).with_context(|| format!("cannot write {}", log.display()))?;
        if status.success() {
            return reached(&text).context("libFuzzer does not say what it has reached");
        }
        Err(failure(target, &text, &log))
    }

    /// Runs one input, with what the target says about it on the terminal.
    fn replay(&self, target: &Target, input: &Path) -> Result<()> {
        if !input.is_file() {
            refuse!("there is no file {}", input.display());
        }
        let status = Command::new(&self.program)
            .env(NAME, &target.name)
            .env("RUST_BACKTRACE", "1")
            .arg(input)
            .stdin(Stdio::null())
            .status()
            .context("cannot start the fuzz program")?;
        ensure!(status.success(), "{} fails with this input", target.name);
        Ok(())
    }

    /// Chooses new seeds out of what was found: few and short ones that reach as much as possible.
    fn keep(&self, target: &Target) -> Result<()> {
        let chosen = tempfile::tempdir()?;
        let status = Command::new(&self.program)
            .env(NAME, &target.name)
            .arg("-set_cover_merge=1")
            .arg(format!("-max_len={}", target.longest))
            .arg(chosen.path())
            .args([
                place("seeds", &target.name)?,
                place("corpus", &target.name)?,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("cannot start the fuzz program")?;
        ensure!(status.success(), "{}: seeds cannot be chosen", target.name);
        let mut inputs = fs::read_dir(chosen.path())?
            .map(|entry| Ok(fs::read(entry?.path())?))
            .collect::<Result<Vec<Vec<u8>>>>()?;
        inputs.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
        let mut text = String::new();
        for input in inputs {
            let line = STANDARD.encode(input);
            if text.len() + line.len() < MOST_SEEDS {
                text.push_str(&line);
                text.push('\n');
            }
        }
        fs::write(packed(&target.name), text).context("cannot write the seeds")
    }
}

/// The target's file of seeds in the repository.
fn packed(name: &str) -> PathBuf {
    paths::root()
        .join("tests/fuzz/seeds")
        .join(format!("{name}.txt"))
}

/// A directory for what a target uses.
fn place(kind: &str, name: &str) -> Result<PathBuf> {
    let directory = paths::target().join("fuzz").join(kind).join(name);
    paths::make(&directory)?;
    Ok(directory)
}

/// Writes the target's seeds as files, as libFuzzer reads them.
fn unpack(name: &str, directory: &Path) -> Result<()> {
    let text = fs::read_to_string(packed(name)).unwrap_or_default();
    for line in text.lines() {
        let seed = STANDARD
            .decode(line)
            .with_context(|| format!("{} is damaged", packed(name).display()))?;
        let mut hasher = DefaultHasher::new();
        hasher.write(&seed);
        fs::write(directory.join(format!("{:016x}", hasher.finish())), seed)?;
    }
    Ok(())
}

/// Reads the program's list: a name and a length a line.
fn targets(text: &str) -> Vec<Target> {
    let target = |line: &str| {
        let (name, longest) = line.split_once(' ')?;
        Some(Target {
            name: name.to_owned(),
            longest: longest.parse().ok()?,
        })
    };
    text.lines().filter_map(target).collect()
}

/// Reads libFuzzer's last lines, as in `#3476 DONE cov: 3038 ft: 6550 corp: 663/91Kb lim: 4096 exec/s: 316 rss: 52Mb`.
fn reached(text: &str) -> Option<Reached> {
    let line = text.lines().rev().find(|line| line.contains("DONE"))?;
    let after = |key: &str| {
        let (_, rest) = line.split_once(key)?;
        let digits = rest.trim_start();
        let end = digits
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(digits.len());
        digits.get(..end)?.parse().ok()
    };
    Some(Reached {
        runs: after("#")?,
        edges: after("cov:")?,
        features: after("ft:")?,
        inputs: after("corp:")?,
        a_second: after("exec/s:")?,
    })
}

/// What went wrong in a run with this log: the panic's or libFuzzer's sentence, and how to see it again.
fn failure(target: &Target, text: &str, log: &Path) -> anyhow::Error {
    let lines: Vec<&str> = text.lines().collect();
    let panic = lines.iter().position(|line| line.contains("panicked at"));
    let sentence = match panic {
        Some(at) => lines
            .get(at..=at + 1)
            .unwrap_or_default()
            .join(" ")
            .trim()
            .to_owned(),
        None => lines
            .iter()
            .find(|line| line.contains("ERROR: libFuzzer") || line.contains("memory allocation of"))
            .map_or("it ended without a word".to_owned(), |line| {
                (*line).to_owned()
            }),
    };
    let input = lines
        .iter()
        .find_map(|line| Some(line.split_once("Test unit written to ")?.1));
    let again = input.map_or(String::new(), |input| {
        format!(
            "\n      again: cargo xtask fuzz {} --input {input}",
            target.name
        )
    });
    anyhow::anyhow!("{sentence}\n      log: {}{again}", log.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libfuzzers_last_line_is_read() {
        let text = "INFO: x\n#2\tINITED cov: 3\n#3476\tDONE   cov: 3038 ft: 6550 corp: 663/91Kb lim: 4096 exec/s: 316 rss: 52Mb\nstat::x";
        let expected = Reached {
            runs: 3476,
            edges: 3038,
            features: 6550,
            inputs: 663,
            a_second: 316,
        };
        assert_eq!(reached(text), Some(expected));
        assert_eq!(reached("Killed"), None);
    }

    #[test]
    fn a_failure_is_told_with_what_repeats_it() {
        let target = Target {
            name: "ide".into(),
            longest: 10,
        };
        let text = "thread '<unnamed>' panicked at a.rs:1:2:\nno such sector\n==1== ERROR: libFuzzer: deadly signal\n\
                    artifact_prefix='/f/'; Test unit written to /f/crash-1\n";
        let told = failure(&target, text, Path::new("/l")).to_string();
        assert!(told.starts_with("thread '<unnamed>' panicked at a.rs:1:2: no such sector"));
        assert!(told.contains("cargo xtask fuzz ide --input /f/crash-1"));
        let told = failure(
            &target,
            "==1== ERROR: libFuzzer: timeout\n",
            Path::new("/l"),
        );
        assert!(told.to_string().contains("libFuzzer: timeout"));
    }

    #[test]
    fn the_list_of_targets_is_read() {
        let targets = targets("bus 4096\nvm 100\n\n");
        assert_eq!(targets.len(), 2);
        assert_eq!((targets[1].name.as_str(), targets[1].longest), ("vm", 100));
    }
}
