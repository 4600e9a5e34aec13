//! `cargo xtask trace`: a trace as lines, as JSON, as counts, and one exit explained.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufWriter, ErrorKind, Write};

use anyhow::{Context, Result, bail};
use hv_core::exit::ExitReason;
use hv_core::trace::{Filter, Totals, Traced};

use super::{filter, perfetto, plot, read};
use crate::cli::TraceArgs;
use crate::outcome::refuse;

/// A virtual CPU: its machine's number, and its own.
type Cpu = (u8, u8);

/// What a trace says about a virtual CPU besides its events.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Whole {
    /// The last totals that there are.
    pub totals: Totals,
    /// They are the final ones.
    pub ended: bool,
}

/// How many exits there are in a trace.
#[derive(Debug, Default)]
pub struct Counted {
    /// By their reason's index.
    pub by_reason: [u64; ExitReason::KINDS],
    /// What the trace says itself.
    pub cpus: BTreeMap<Cpu, Whole>,
}

impl Counted {
    /// Counts what `filter` takes.
    ///
    /// # Errors
    ///
    /// It is no trace, or damaged.
    pub fn of(bytes: &[u8], filter: &Filter) -> Result<Counted> {
        let mut counted = Counted::default();
        let Counted { by_reason, cpus } = &mut counted;
        read(
            bytes,
            &mut |vm, head| {
                let whole = Whole {
                    totals: head.totals,
                    ended: head.last,
                };
                cpus.insert((vm, head.cpu), whole);
            },
            &mut |vm, cpu, event| {
                if filter.takes_vm(vm) && filter.takes(cpu, &event.seen) {
                    by_reason[event.seen.exit.reason.index()] += 1;
                }
                Ok(())
            },
        )?;
        Ok(counted)
    }

    /// The counts, the most frequent first, and what the trace lacks.
    fn text(&self) -> String {
        let mut rows: Vec<_> = self.by_reason.iter().enumerate().collect();
        rows.retain(|&(_, &count)| count != 0);
        rows.sort_by_key(|&(index, &count)| (std::cmp::Reverse(count), index));
        let mut text = String::new();
        for (index, count) in rows {
            text.push_str(&format!("{count:12}  {}\n", ExitReason::word(index)));
        }
        let all: u64 = self.by_reason.iter().sum();
        text + &format!("{all:12}  in all\n")
    }

    /// A sentence for each virtual CPU of which the trace lacks something.
    fn lacks(&self) -> Vec<String> {
        let mut lacks = Vec::new();
        for ((vm, cpu), whole) in &self.cpus {
            let Totals { kept, lost, .. } = whole.totals;
            if lost != 0 {
                lacks.push(format!(
                    "VM {vm}, CPU {cpu}: {lost} of {kept} exits found no room, or later ones have taken it"
                ));
            }
            if !whole.ended {
                lacks.push(format!(
                    "VM {vm}, CPU {cpu}: the trace was cut off: what came after these exits is not in it"
                ));
            }
        }
        lacks
    }
}

/// The command.
///
/// # Errors
///
/// It is no trace, damaged, or lacks the exit that is asked for.
pub fn trace(args: &TraceArgs) -> Result<()> {
    let path = args.file.display();
    let bytes = fs::read(&args.file).with_context(|| format!("cannot read {path}"))?;
    let filter = filter("--filter", args.filter.as_deref().unwrap_or("all"))?;
    if filter.is_around() {
        refuse!("--filter: around: is a word of --trace-filter, while the trace is recorded");
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    let shown = show(args, &bytes, &filter, &mut out).and_then(|()| Ok(out.flush()?));
    match shown {
        // Whoever reads it, `head` say, has seen enough.
        Err(error) if is_closed(&error) => return Ok(()),
        other => other.with_context(|| format!("{path}"))?,
    }
    for lack in Counted::of(&bytes, &filter)?.lacks() {
        eprintln!("umbra: {lack}");
    }
    Ok(())
}

fn is_closed(error: &anyhow::Error) -> bool {
    let cause = error.downcast_ref::<std::io::Error>();
    cause.is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}

/// Writes what is asked for of the trace `bytes`.
pub(super) fn show(
    args: &TraceArgs,
    bytes: &[u8],
    filter: &Filter,
    out: &mut dyn Write,
) -> Result<()> {
    if args.count {
        return Ok(write!(out, "{}", Counted::of(bytes, filter)?.text())?);
    }
    if let Some(path) = &args.perfetto {
        let json = perfetto::export(bytes, filter)?;
        return fs::write(path, json).with_context(|| format!("cannot write {}", path.display()));
    }
    if let Some(path) = &args.plot {
        let svg = plot::draw(bytes, filter)?;
        return fs::write(path, svg).with_context(|| format!("cannot write {}", path.display()));
    }
    let mut found = None;
    read(bytes, &mut |_, _| {}, &mut |vm, cpu, event| {
        if !filter.takes_vm(vm) || !filter.takes(cpu, &event.seen) {
            return Ok(());
        }
        match args.why {
            Some(number) if number != event.number => Ok(()),
            Some(number) => {
                if let Some((vm, cpu, _)) = found.replace((vm, cpu, *event)) {
                    bail!(
                        "there are several exits {number}: choose one with --filter vm:{vm},cpu:{cpu}"
                    );
                }
                Ok(())
            }
            None => one(args.json, vm, cpu, event, out),
        }
    })?;
    match (args.why, found) {
        (None, _) => Ok(()),
        (Some(number), None) => bail!("there is no exit {number} in it"),
        (Some(_), Some((vm, cpu, event))) if args.json => {
            let mut text = String::new();
            event.why_json(vm, cpu, &mut text)?;
            Ok(writeln!(out, "{text}")?)
        }
        (Some(_), Some((.., event))) => Ok(write!(out, "{}", event.seen)?),
    }
}

/// One exit, as a line or an object.
fn one(json: bool, vm: u8, cpu: u8, event: &Traced, out: &mut dyn Write) -> Result<()> {
    let mut text = String::new();
    match json {
        true => event.json(vm, cpu, &mut text)?,
        false => event.line(vm, cpu, &mut text)?,
    }
    Ok(writeln!(out, "{text}")?)
}
