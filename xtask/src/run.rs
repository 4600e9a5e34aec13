//! `cargo xtask run`: boots a guest in Umbra and follows it to the end that the options ask for.
//!
//! Everything that can be said about the options is said before anything is installed, built or booted.

mod images;
mod machine;
mod options;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;

pub use self::machine::machine;
pub use self::options::Options;
use crate::cli::RunArgs;
use crate::emulator::{self, with_words};
use crate::outcome::exit_code;
use crate::rig::{self, Display, Machine};
use crate::screen::write_png;
use crate::script::{self, Step, wait};
use crate::session::{Ending, Plan, Session, Summary};
use crate::setup::{self, Purpose};
use crate::terminal::KeyByKey;
use crate::{kernel, paths};

/// What the host saw of a run.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Host {
    /// Seconds from the emulator's start to the end.
    pub wall_seconds: f64,
    /// The emulator's user and system time to the end, in seconds.
    pub cpu_seconds: Option<f64>,
    /// The exit code of the run.
    pub exit: u8,
}

/// A run that took place.
#[derive(Debug)]
pub struct Run {
    /// What came of it.
    pub summary: Summary,
    /// What the host saw.
    pub host: Host,
    /// When the emulator was started.
    pub started: Instant,
    /// Umbra's log. What the guests have written to COM1 is beside it.
    pub log: PathBuf,
}

/// The file for the COM1 of virtual machine `vm` (from 1), beside Umbra's log.
fn com1_log(log: &Path, vm: usize) -> PathBuf {
    let name = log.file_stem().unwrap_or_default().to_string_lossy();
    let which = match vm {
        1 => String::new(),
        vm => format!("-vm{vm}"),
    };
    log.with_file_name(format!("{name}{which}-com1.log"))
}

/// Keeps what the guests write to COM1, for later.
struct Com1Logs<'a> {
    log: &'a Path,
    files: BTreeMap<usize, Option<File>>,
}

impl Com1Logs<'_> {
    fn keep(&mut self, vm: usize, bytes: &[u8]) {
        let file = self.files.entry(vm);
        let file = file.or_insert_with(|| File::create(com1_log(self.log, vm)).ok());
        if let Some(open) = file
            && open.write_all(bytes).is_err()
        {
            // A full disk is no reason to end the run.
            *file = None;
        }
    }
}

/// Runs a guest that was checked, in the Umbra image `umbra`, with the COM1 of the guest that has the focus going to `console`.
///
/// # Errors
///
/// The run could not take place. A guest that did not do what was expected is in the summary.
pub fn execute(
    options: &Options,
    umbra: &Path,
    name: &str,
    console: &mut dyn FnMut(&[u8]),
) -> Result<Run> {
    let display = match options.vnc {
        Some(vnc) => Some(Display::Vnc(vnc)),
        None if options.window => Some(Display::Window(options.rig.display()?)),
        None => None,
    };
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let machine = machine(options, umbra, display, scratch.path())?;
    let plan = Plan {
        vms: 1 + options.others.len(),
        script: options.script.clone(),
        timeout: options.timeout,
        screenshot: options.screenshot.is_some(),
        report: options.report.is_some(),
        trace: options.trace.as_ref().map(|trace| trace.file.clone()),
        window: options.window && options.vnc.is_none(),
        ends_on_panic: options.ends_on_panic,
        ends_on_break: options.break_ends,
        interactive: options.interactive,
        debuggers: (1..)
            .zip(options.vms())
            .filter_map(|(number, vm)| Some((number, vm.gdb?)))
            .collect(),
    };
    let run = converse(&machine, &plan, name, console)?;
    if let (Some(path), Some(picture)) = (&options.screenshot, &run.summary.picture) {
        write_png(path, picture)?;
    }
    if let (Some(path), Some(report)) = (&options.report, &run.summary.report) {
        fs::write(path, with_host(report, run.host)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(run)
}

/// Runs `machine` by `plan`.
///
/// # Errors
///
/// The machine did not start.
pub fn converse(
    machine: &Machine,
    plan: &Plan,
    name: &str,
    console: &mut dyn FnMut(&[u8]),
) -> Result<Run> {
    let log = paths::new_log(name)?;
    let mut emulator = machine.rig.start(machine, &log)?;
    let mut session = Session::new(emulator.connect()?, &plan.script);
    if let Some(monitor) = emulator.monitor()? {
        // Umbra itself shows the guest and takes the keys there.
        session = session.with_monitor(monitor);
    }
    let keys = plan.interactive.then(KeyByKey::take).flatten();
    if keys.is_some() {
        // What is typed here reaches the guest's COM1. The thread ends with the tool, or with its input.
        let mut send = session.input();
        thread::spawn(move || {
            let mut buffer = [0; 256];
            while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
                if !send(buffer.get(..count).unwrap_or_default()) {
                    break;
                }
            }
        });
    }
    let start = emulator.process().started();
    let mut kept = Com1Logs {
        log: &log,
        files: BTreeMap::new(),
    };
    let mut summary = session.run(plan, &mut |com1| {
        kept.keep(com1.vm, com1.bytes);
        if com1.focus {
            console(com1.bytes);
        }
    });
    drop(keys);
    let cpu_seconds = emulator.process().cpu_seconds();
    summary.result = summary
        .result
        .map_err(|error| with_words(error, &emulator.complaints()));
    let exit = summary.result.as_ref().err().map_or(0, exit_code);
    let host = Host {
        wall_seconds: seconds_since(start),
        cpu_seconds,
        exit,
    };
    Ok(Run {
        summary,
        host,
        started: start,
        log,
    })
}

fn seconds_since(start: Instant) -> f64 {
    (start.elapsed().as_secs_f64() * 1000.0).round() / 1000.0
}

/// Umbra's report with what the host saw added to it.
fn with_host(report: &str, host: Host) -> Result<String> {
    let mut report: serde_json::Value =
        serde_json::from_str(report).context("Umbra's report is not JSON")?;
    report
        .as_object_mut()
        .context("Umbra's report is not a JSON object")?
        .insert("host".to_owned(), serde_json::to_value(host)?);
    Ok(serde_json::to_string_pretty(&report)? + "\n")
}

/// The command.
///
/// # Errors
///
/// What the exit code says: see [`crate::outcome`].
pub fn run(args: &RunArgs, places: impl Fn(&str) -> Vec<usize>) -> Result<()> {
    let step = |name, steps: Vec<Step>| places(name).into_iter().zip(steps);
    let texts = |texts: &[String], make: fn(String) -> Step| -> Vec<Step> {
        texts.iter().cloned().map(make).collect()
    };
    let focus = args.focus.iter().map(|&number| Step::Focus(number));
    let pixels = args.until_pixel.iter().map(|text| wait::pixel(text));
    let pixels = pixels.collect::<Result<_>>()?;
    let pictures = args.until_picture.iter().map(|path| wait::picture(path));
    let pictures = pictures.collect::<Result<_>>()?;
    let sleeps = args.sleep.iter().map(|text| wait::sleep(text));
    let sleeps = sleeps.collect::<Result<_>>()?;
    let steps = script::in_order(
        step("until", texts(&args.until, Step::Until))
            .chain(step("types", texts(&args.types, Step::Type)))
            .chain(step("mouse", texts(&args.mouse, Step::Mouse)))
            .chain(step("focus", focus.collect()))
            .chain(step("until_pixel", pixels))
            .chain(step("until_picture", pictures))
            .chain(step("sleep", sleeps)),
    );
    let options = Options::check(args, steps)?;
    let window = options.window && options.vnc.is_none();
    if window {
        emulator::window_system()?;
    }
    rig::require(options.rig, window)?;
    if options.vms().any(|vm| vm.firmware.is_uefi()) {
        setup::require(Purpose::Uefi)?;
    }
    options.rig.check_installed_model(&options.cpu_model)?;
    options.rig.prepare()?;
    let umbra = kernel::build()?;
    let name = options.vm.name();
    let mut shown = |bytes: &[u8]| {
        let mut output = std::io::stdout().lock();
        // A reader that has gone is no reason to end the run.
        let _ = output.write_all(bytes).and_then(|()| output.flush());
    };
    let mut unseen = |_: &[u8]| {};
    let console: &mut dyn FnMut(&[u8]) = if options.window {
        &mut unseen
    } else {
        &mut shown
    };
    let run = execute(&options, &umbra, &name, console)?;
    conclude(run)
}

/// Says how a run ended.
///
/// # Errors
///
/// It failed.
pub fn conclude(run: Run) -> Result<()> {
    let Run {
        summary, host, log, ..
    } = run;
    for what in &summary.skipped {
        eprintln!("umbra: passed over on the control channel: {what}");
    }
    let resets = match summary.resets {
        0 => String::new(),
        1 => ", after 1 reset".to_owned(),
        many => format!(", after {many} resets"),
    };
    match summary.result {
        Ok(ending) => {
            let what = match ending {
                Ending::PoweredOff => "the guest powered off",
                Ending::Broke => "the guest was stopped",
                Ending::ScriptDone => "all was seen",
                Ending::WindowClosed => "the window was closed",
            };
            eprintln!(
                "umbra: {what} after {:.1} s{resets}; log: {}",
                host.wall_seconds,
                log.display()
            );
            Ok(())
        }
        Err(error) => {
            if host.exit == 1 {
                eprint!("{}", account(&summary.console, &summary.screen, &log));
                eprintln!(
                    "umbra: failed after {:.1} s{resets}; log: {}",
                    host.wall_seconds,
                    log.display()
                );
            }
            Err(error)
        }
    }
}

/// What a failed run left to read: the screen, the end of COM1, and the end of Umbra's log.
pub fn account(console: &[String], screen: &[String], log: &Path) -> String {
    let log_text = fs::read(log)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default();
    let log_lines: Vec<&str> = log_text.lines().collect();
    let log_tail: Vec<String> = log_lines
        .iter()
        .skip(log_lines.len().saturating_sub(15))
        .map(|&line| line.to_owned())
        .collect();
    let mut text = String::new();
    for (what, lines) in [
        ("text screen", screen),
        ("COM1", console),
        ("Umbra's log", &log_tail),
    ] {
        if !lines.is_empty() {
            text.push_str(&format!("--- {what} at the end ---\n"));
            for line in lines.iter().skip(lines.len().saturating_sub(30)) {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}
