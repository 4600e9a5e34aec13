//! A trace in Chrome's trace format, which Perfetto shows over time: a process for each virtual machine, a thread for each virtual CPU, and a slice for the
//! time that each exit took.

use anyhow::Result;
use hv_core::exit::ExitReason;
use hv_core::trace::Filter;
use serde_json::{Value, json};

use super::read;

/// A time in microseconds, as the format has it.
fn micros(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

/// The trace `bytes` as JSON, as far as `filter` takes it.
///
/// # Errors
///
/// It is no trace, or damaged.
pub fn export(bytes: &[u8], filter: &Filter) -> Result<String> {
    let mut events = Vec::new();
    let mut known = std::collections::BTreeSet::new();
    read(bytes, &mut |_, _| {}, &mut |vm, cpu, event| {
        if !filter.takes_vm(vm) || !filter.takes(cpu, &event.seen) {
            return Ok(());
        }
        if known.insert((vm, cpu)) {
            let name = |what: &str, name: String| json!({"name": what, "ph": "M", "pid": vm, "tid": cpu, "args": {"name": name}});
            events.push(name("process_name", format!("VM {vm}")));
            events.push(name("thread_name", format!("CPU {cpu}")));
        }
        let seen = &event.seen;
        let mut text = String::new();
        event.json(vm, cpu, &mut text)?;
        let args: Value = serde_json::from_str(&text)?;
        let took = seen.came.at - seen.at;
        events.push(json!({
            "name": ExitReason::word(seen.exit.reason.index()).to_string(),
            "cat": "exit", "ph": "X", "pid": vm, "tid": cpu,
            "ts": micros(seen.at.0), "dur": micros(took.0), "args": args,
        }));
        Ok(())
    })?;
    let all = json!({"displayTimeUnit": "ns", "traceEvents": events});
    Ok(all.to_string() + "\n")
}
