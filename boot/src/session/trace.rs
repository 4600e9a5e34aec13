//! Traces of the guests' exits: on their way to the host tool, and at the console.
//!
//! One that was asked for at the start goes to the host tool. A virtual CPU whose ring is filling stops until its events have been sent, so that none is
//! lost; where only the last are wanted, they are sent at the end. One that is switched on at the console stays in the rings, which keep the last events.

use super::Session;
use super::commands::say;
use super::vm::Vm;
use crate::control;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use console::Trace;
use core::fmt::Write;
use hv_core::cpu::VcpuBackend;
use hv_core::trace::{Filter, Full, Totals, Traced, Tracer};
use protocol::{MAX_PAYLOAD, Message};

impl<B: VcpuBackend> Vm<B> {
    /// Traces what `words` say from now on.
    ///
    /// # Errors
    /// A sentence that says why not.
    pub fn begin_trace(&mut self, words: &str) -> Result<(), String> {
        let filter = Filter::parse(words).map_err(|wrong| wrong.to_string())?;
        let full = match control::is_open() {
            true => filter.when_full(),
            false => Full::Overwrite,
        };
        self.trace(&filter, full)
    }

    fn trace(&mut self, filter: &Filter, full: Full) -> Result<(), String> {
        for slot in &mut self.guest.cpus {
            let Some(tracer) = Tracer::new(filter.clone(), full) else {
                self.end_trace();
                return Err("there is no memory for a trace".into());
            };
            slot.cpu.trace(Some(Box::new(tracer)));
        }
        Ok(())
    }

    fn end_trace(&mut self) {
        for slot in &mut self.guest.cpus {
            slot.cpu.trace(None);
        }
    }

    /// What becomes of its events, if it is traced.
    fn traced(&self) -> Option<Full> {
        self.guest.cpus.first()?.cpu.tracer().map(Tracer::when_full)
    }

    /// Sends what has been traced to the host tool, if it goes there. `last`: nothing more is traced.
    pub fn send_trace(&mut self, last: bool, buffer: &mut [u8; MAX_PAYLOAD]) {
        for (cpu, slot) in (0..).zip(&mut self.guest.cpus) {
            let Some(tracer) = slot.cpu.tracer_mut() else {
                continue;
            };
            if last || tracer.when_full() == Full::Lose {
                while let Some(chunk) = tracer.take(cpu, last, buffer) {
                    control::send(self.number, &Message::Trace(chunk));
                }
            }
        }
    }

    /// The events in the rings, with the CPU of each, in the order of time.
    fn traced_events(&self) -> Vec<(u8, Traced)> {
        let cpus = (0..).zip(&self.guest.cpus);
        let mut events = Vec::new();
        for (cpu, slot) in cpus {
            let its = slot.cpu.tracer().into_iter().flat_map(Tracer::events);
            let its = its.map(|event| (cpu, *event));
            if events.try_reserve(its.size_hint().0).is_ok() {
                events.extend(its);
            }
        }
        events.sort_by_key(|(_, event)| event.seen.at);
        events
    }
}

impl<B: VcpuBackend> Session<B> {
    /// Sends what has been traced of all VMs. `last`: nothing more is traced.
    pub(super) fn send_traces(&mut self, last: bool) {
        for vm in &mut self.vms {
            vm.send_trace(last, &mut self.buffer);
        }
    }

    /// Does what the console asks for, with the VM that has the focus. None of its CPUs is loaded.
    pub(super) fn execute_trace(&mut self, what: Trace) {
        let vm = &mut self.vms[self.focus];
        match (what, vm.traced()) {
            (Trace::On, Some(Full::Lose)) => say!(self, "its trace goes to the host tool already"),
            (Trace::On, _) => match vm.trace(&Filter::default(), Full::Overwrite) {
                Ok(()) => say!(self, "on; `trace last` shows what is there"),
                Err(why) => say!(self, "{why}"),
            },
            (_, None) => say!(self, "it is not traced; `trace on` begins"),
            (Trace::Off, Some(full)) => {
                if full == Full::Lose {
                    vm.send_trace(true, &mut self.buffer);
                }
                vm.end_trace();
                say!(self, "off");
            }
            (Trace::Last(count), _) => self.show_trace(count),
            (Trace::Why(number), _) => self.explain(number),
        }
    }

    /// Shows the last events.
    fn show_trace(&mut self, count: usize) {
        let vm = &self.vms[self.focus];
        let number = vm.number;
        let events = vm.traced_events();
        let totals: Vec<Totals> = vm
            .guest
            .cpus
            .iter()
            .filter_map(|slot| slot.cpu.tracer().map(Tracer::totals))
            .collect();
        for (cpu, event) in events.iter().skip(events.len().saturating_sub(count)) {
            let mut line = String::new();
            let _ = event.line(number, *cpu, &mut line);
            say!(self, "{line}");
        }
        let exits: u64 = totals.iter().map(|totals| totals.exits).sum();
        say!(self, "{exits} exits since the trace began");
    }

    /// Explains the last exit, or each of this number.
    fn explain(&mut self, number: Option<u64>) {
        let mut events = self.vms[self.focus].traced_events();
        match number {
            Some(number) => events.retain(|(_, event)| event.number == number),
            None => drop(events.drain(..events.len().saturating_sub(1))),
        }
        for (cpu, event) in &events {
            let mut text = String::new();
            let _ = write!(text, "{}", event.seen);
            say!(self, "exit {} of CPU {cpu}:", event.number);
            say!(self, "{}", text.trim_end());
        }
        if events.is_empty() {
            say!(self, "there is no such exit any more, or none yet");
        }
    }
}
