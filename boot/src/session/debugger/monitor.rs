//! What gdb's `monitor` asks for.

use super::Debugged;
use core::fmt::{self, Write};
use hv_core::cpu::VcpuBackend;
use hv_core::exit::ExitReason;
use hv_core::mmu::{Access, Mmu, PagingState};
use hv_core::regs::Cr0;
use hv_core::{Gpa, Gva};

/// The commands, and what they do.
const COMMANDS: [(&str, &str); 9] = [
    ("exits", "how often the guest has left the CPU, by reason"),
    ("help", "this list"),
    (
        "inject VECTOR",
        "an exception (0 to 1f) or an interrupt for the guest",
    ),
    (
        "nested ADDRESS",
        "Umbra's nested tables on the way to a physical address",
    ),
    (
        "physical on|off",
        "memory is addressed as the machine has it, or as the CPU's tables do",
    ),
    ("reset", "the machine starts again, and stays stopped"),
    (
        "shadow ADDRESS",
        "Umbra's shadow tables on the way to a linear address",
    ),
    (
        "walk ADDRESS",
        "the guest's page tables on the way to a linear address",
    ),
    (
        "why [json]",
        "the last exit, and what came of it, in words or as an object",
    ),
];

/// A number as people write it: hexadecimal, with or without 0x.
fn number(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    u64::from_str_radix(digits, 16).ok()
}

impl<B: VcpuBackend> Debugged<B> {
    /// Does what `line` says, for CPU `cpu`.
    pub(super) fn monitor(&mut self, cpu: usize, line: &str, out: &mut dyn Write) -> fmt::Result {
        let mut words = line.split_whitespace();
        let command = words.next().unwrap_or("help");
        let argument = words.next();
        if (command, argument) == ("why", Some("json")) {
            return match self.vm.guest.cpus[cpu].while_loaded(|cpu| cpu.why()) {
                Some(seen) => seen.json(out).and_then(|()| writeln!(out)),
                None => writeln!(out, "null"),
            };
        }
        match (command, argument.map(number)) {
            ("exits", None) => self.exits(out),
            ("reset", None) => {
                self.reset = true;
                writeln!(out, "reset")
            }
            ("walk", Some(Some(address))) => self.walk(cpu, Gva(address), out),
            ("nested", Some(Some(address))) => {
                let mmu = self.vm.guest.vm.mmu();
                if mmu.is_watched(Gpa(address)) {
                    writeln!(out, "the page is watched")?;
                }
                match mmu.nested_trail(Gpa(address)) {
                    Some(trail) => write!(out, "{trail}"),
                    None => writeln!(out, "there are no nested tables: paging is shadow"),
                }
            }
            ("shadow", Some(Some(address))) => {
                let mmu = self.vm.guest.vm.mmu();
                match mmu.shadow_trail(cpu, Gva(address)) {
                    Some(trail) => write!(out, "{trail}"),
                    None if mmu.is_shadow() => writeln!(out, "the CPU has no root"),
                    None => writeln!(out, "there are no shadow tables: paging is nested"),
                }
            }
            ("why", None) => match self.vm.guest.cpus[cpu].while_loaded(|cpu| cpu.why()) {
                Some(seen) => write!(out, "{seen}"),
                None => writeln!(
                    out,
                    "CPU {cpu} has not left the guest since the debugger came"
                ),
            },
            ("inject", Some(Some(vector @ 0..=0xff))) => {
                let slot = &mut self.vm.guest.cpus[cpu];
                match slot.while_loaded(|cpu| cpu.inject(vector as u8)) {
                    Ok(()) => writeln!(out, "done"),
                    Err(why) => writeln!(out, "{why}"),
                }
            }
            ("nested" | "shadow" | "inject", _) => {
                writeln!(out, "{command} needs a number, as in {command} 21")
            }
            ("walk", _) => writeln!(out, "walk needs an address, as in walk 0xffffffff81000000"),
            ("help", _) => {
                for (usage, what) in COMMANDS {
                    writeln!(out, "{usage:18} {what}")?;
                }
                Ok(())
            }
            _ => writeln!(out, "there is no such command; `monitor help` lists them"),
        }
    }

    fn exits(&self, out: &mut dyn Write) -> fmt::Result {
        let stats = self.vm.stats();
        let all = ExitReason::NAMES.iter().zip(stats.exits);
        for (name, count) in all.filter(|&(_, count)| count != 0) {
            writeln!(out, "{count:12}  {name}")?;
        }
        Ok(())
    }

    fn walk(&mut self, cpu: usize, at: Gva, out: &mut dyn Write) -> fmt::Result {
        let guest = &mut self.vm.guest;
        let state = guest.cpus[cpu].while_loaded(|cpu| cpu.paging());
        if !state.cr0.contains(Cr0::PG) {
            return writeln!(out, "CR0.PG is clear: linear addresses are physical ones");
        }
        // As a read that SMAP leaves alone.
        let state = PagingState { ac: true, ..state };
        let trail = npt_shadow::walk::trail(&*guest.vm.memory, &state, at, Access::default());
        writeln!(out, "CR3 {:#x}", state.cr3)?;
        write!(out, "{trail}")
    }
}
