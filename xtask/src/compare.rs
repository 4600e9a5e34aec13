//! A guest that measures something itself, bare in QEMU and in Umbra, and the exits that its work costs.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde::Serialize;
use serde_json::Value;

use crate::bench::listen;
use crate::outcome::refuse;
use crate::progress::Step;
use crate::rig::{Boot, Drive, Machine, Network};
use crate::run::{self, Options};
use crate::session::Ending;

/// What the guest says at its end.
pub struct Words {
    /// It has measured.
    pub done: &'static str,
    /// Something does not work.
    pub failed: &'static str,
}

/// Does `one` and says so.
///
/// # Errors
///
/// Those of `one`.
pub fn measure<T>(what: &str, one: impl FnOnce() -> Result<T>) -> Result<T> {
    let step = Step::start(what);
    let result = one()?;
    step.done();
    Ok(result)
}

/// What the guest has said of a piece of work, and the exits that it costs.
pub struct Runs<'a> {
    /// Without Umbra, with all the work.
    pub native: &'a str,
    /// In Umbra, with all the work.
    pub inside: &'a str,
    /// In Umbra, with this piece alone, where the exits were counted.
    pub counted: &'a str,
    pub exits: Exits,
}

/// Measures `work` on the device `device`: all of it natively and in Umbra, then each piece alone in Umbra, and none, for the exits. Makes a `row` of each piece.
///
/// # Errors
///
/// A run fails, or a row cannot be made.
pub fn rows<R>(
    device: &str,
    work: &[&'static str],
    native: impl FnOnce(&[&str]) -> Result<String>,
    inside: impl Fn(&[&str]) -> Result<(String, Value)>,
    row: impl Fn(&'static str, Runs<'_>) -> Result<R>,
) -> Result<Vec<R>> {
    let say = |what: &str| format!("{device}: {what}");
    let native = measure(&say("native"), || native(work))?;
    let (all, _) = measure(&say("Umbra"), || inside(work))?;
    let (_, idle) = measure(&say("Umbra, without work"), || inside(&[]))?;
    let one = |&name: &&'static str| {
        let what = say(&format!("Umbra, exits of {name}"));
        let (counted, report) = measure(&what, || inside(&[name]))?;
        let runs = Runs {
            native: &native,
            inside: &all,
            counted: &counted,
            exits: Exits::beyond(&idle, &report)?,
        };
        row(name, runs)
    };
    work.iter().map(one).collect()
}

impl Words {
    /// A run in Umbra: what the guest said, and the report.
    ///
    /// # Errors
    ///
    /// The guest has not measured.
    pub fn inside(&self, options: &Options, umbra: &Path, name: &str) -> Result<(String, Value)> {
        let mut console = Vec::new();
        let run = run::execute(options, umbra, name, &mut |bytes| {
            console.extend_from_slice(bytes)
        })?;
        let report = run
            .summary
            .report
            .as_deref()
            .map(serde_json::from_str)
            .transpose()?;
        let console = String::from_utf8_lossy(&console).into_owned();
        match run.summary.result? {
            Ending::PoweredOff if console.contains(self.done) => {
                Ok((console, report.context("Umbra sent no report")?))
            }
            _ => bail!("the guest did not measure: {console}"),
        }
    }

    /// A run of the same kernel without Umbra, with `drives` and `network`: what the guest said.
    ///
    /// # Errors
    ///
    /// The guest has not measured.
    pub fn native(&self, options: Options, drives: Vec<Drive>, network: Network) -> Result<String> {
        let vm = options.vm;
        let machine = Machine {
            rig: options.rig,
            cpu_model: options.cpu_model,
            cpus: options.host_cpus,
            memory: vm.memory,
            boot: Boot::Native {
                kernel: vm.medium()?.path,
                initrd: vm.initrd.map(|(path, _)| path),
                cmdline: vm.cmdline,
            },
            drives,
            network,
            remains: None,
            snapshot: false,
            icount: false,
            display: None,
            tablet: false,
        };
        let mut console = String::new();
        let timeout = options.timeout.unwrap_or(Duration::MAX);
        listen(&machine, timeout, &mut |said| {
            console = said.to_owned();
            said.contains(self.done) || said.contains(self.failed)
        })?;
        ensure!(
            console.contains(self.done),
            "the guest did not measure: {console}"
        );
        Ok(console)
    }
}

/// Those of `all` kinds of `what` that were `wanted`, in their order; all, if none was named.
///
/// # Errors
///
/// A [`Refused`](crate::outcome::Refused): there is no such kind.
pub fn chosen(what: &str, all: &[&'static str], wanted: &[String]) -> Result<Vec<&'static str>> {
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(&name.as_str())) {
        refuse!(
            "there is no kind of {what} named {unknown}: {}",
            all.join(", ")
        );
    }
    let is_wanted = |name: &&'static str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    Ok(all.iter().copied().filter(is_wanted).collect())
}

/// The exits of a piece of work.
#[derive(Debug, Serialize)]
pub struct Exits {
    /// All of them.
    #[serde(rename = "exits")]
    pub all: u64,
    /// By reason, most frequent first.
    pub reasons: Vec<(String, u64)>,
}

impl Exits {
    /// The exits in `report` beyond those in `idle`, the report of a run without the work.
    ///
    /// # Errors
    ///
    /// The report has no exits.
    pub fn beyond(idle: &Value, report: &Value) -> Result<Exits> {
        let by_reason = |report: &Value| {
            let all = report.pointer("/exits/by_reason");
            all.and_then(Value::as_object).cloned()
        };
        let count = |of: Option<&Value>| {
            of.and_then(|of| of.get("count"))
                .and_then(Value::as_u64)
                .unwrap_or(0)
        };
        let idle = by_reason(idle).unwrap_or_default();
        let mut reasons: Vec<(String, u64)> = by_reason(report)
            .context("the report has no exits")?
            .iter()
            .map(|(reason, of)| {
                let more = count(Some(of)).saturating_sub(count(idle.get(reason)));
                (reason.clone(), more)
            })
            .filter(|(_, count)| *count > 0)
            .collect();
        reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        Ok(Exits {
            all: reasons.iter().map(|(_, count)| count).sum(),
            reasons,
        })
    }

    /// The most frequent reasons with their shares.
    pub fn most(&self) -> String {
        let most: Vec<String> = self
            .reasons
            .iter()
            .take(3)
            .map(|(reason, count)| {
                let share = 100.0 * *count as f64 / self.all.max(1) as f64;
                format!("{reason} {share:.0} %")
            })
            .collect();
        most.join(", ")
    }
}

/// Writes all figures, if that is asked for.
///
/// # Errors
///
/// The file cannot be written.
pub fn write_json(path: Option<&Path>, figures: &impl Serialize) -> Result<()> {
    match path {
        Some(path) => fs::write(path, serde_json::to_string_pretty(figures)? + "\n")
            .with_context(|| format!("cannot write {}", path.display())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exits_are_those_beyond_the_idle_run_by_count() {
        let report = |hlt, port| {
            serde_json::json!({"exits": {"by_reason": {
                "hlt": {"count": hlt}, "port i/o": {"count": port}, "cpuid": {"count": 7}
            }}})
        };
        let exits = Exits::beyond(&report(5, 10), &report(15, 40)).unwrap();
        assert_eq!(exits.all, 40);
        let reasons = [("port i/o".to_owned(), 30), ("hlt".to_owned(), 10)];
        assert_eq!(exits.reasons, reasons);
        assert_eq!(exits.most(), "port i/o 75 %, hlt 25 %");
        assert!(Exits::beyond(&Value::Null, &Value::Null).is_err());
    }
}
