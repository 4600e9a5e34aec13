//! What the hypervisor did: counters that cost two loads and two stores an exit, and the report made of them.

use crate::exit::ExitReason;
use crate::hyperv::CRASH_VALUES;
use crate::mmu::{ShadowFaults, ShadowReport};
use crate::record::Recorder;
use crate::sched::Share;
use core::fmt::{self, Write};

/// Counters of one virtual CPU.
#[derive(Clone, Debug)]
pub struct Stats {
    /// Exits by [`ExitReason::index`].
    pub exits: [u64; ExitReason::KINDS],
    /// How often the guest has gone from nested to shadow paging or back.
    pub paging_switches: u64,
    /// Time-stamp-counter ticks spent outside the guest, by the reason of the exit (instructions, where the machine's TSC counts
    /// instructions).
    pub ticks: [u64; ExitReason::KINDS],
    /// Of these, the least that one exit of the reason took from the guest back into it; `u64::MAX` where none has led back. One at which the
    /// CPU has stopped is no whole one.
    pub least: [u64; ExitReason::KINDS],
    /// Control-structure fields read and written (VMREAD, VMWRITE) from one exit to the next entry's end, by the reason of the exit.
    pub reads: [u64; ExitReason::KINDS],
    /// See [`reads`](Self::reads).
    pub writes: [u64; ExitReason::KINDS],
    /// Events injected: exceptions, interrupts, NMIs, software events.
    pub injected: [u64; 4],
    /// Instructions that left the guest and were emulated.
    pub emulated: u64,
    /// Instructions and events that the emulator lacks: #UD for the guest.
    pub lacking: u64,
    /// Instructions that the CPU has executed for the emulator.
    pub native: u64,
    /// Instructions executed in software because the hardware could not run the guest.
    pub software_instructions: u64,
    /// Time-stamp-counter ticks that these took, with the events delivered meanwhile.
    pub software_ticks: u64,
    /// TLB flushes asked of the hardware.
    pub flushes: u64,
    /// Times the guest was reset.
    pub resets: u64,
}

impl Default for Stats {
    fn default() -> Self {
        let zero = [0; ExitReason::KINDS];
        let least = [u64::MAX; ExitReason::KINDS];
        Self {
            exits: zero,
            ticks: zero,
            least,
            reads: zero,
            writes: zero,
            injected: [0; 4],
            emulated: 0,
            lacking: 0,
            native: 0,
            software_instructions: 0,
            software_ticks: 0,
            flushes: 0,
            paging_switches: 0,
            resets: 0,
        }
    }
}

/// What the report says of one virtual CPU. Times are in ticks of the time-stamp counter.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuFacts {
    /// What it does: `active`, `halted`, `not started`.
    pub state: &'static str,
    /// How often it has left the guest.
    pub exits: u64,
    /// How long it has had a CPU of the host.
    pub used: u64,
    /// Of this, how long the hypervisor worked for it.
    pub hypervisor: u64,
    /// How long it had halted, or was not started.
    pub halted: u64,
    /// How long it could have run while another had the host's CPU.
    pub steal: u64,
    /// How often it had to wait so.
    pub waits: u64,
    /// Interprocessor interrupts that it has sent.
    pub ipis: u64,
}

impl CpuFacts {
    fn json(&self, out: &mut impl Write) -> fmt::Result {
        let Self {
            state,
            exits,
            used,
            hypervisor,
            halted,
            steal,
            waits,
            ipis,
        } = self;
        write!(
            out,
            "{{ \"state\": \"{state}\", \"exits\": {exits}, \"ticks\": {{ \"used\": {used}, \"hypervisor\": {hypervisor}, \"halted\": {halted}, \"steal\": {steal} }}, \"waits\": {waits}, \"ipis\": {ipis} }}"
        )
    }
}

/// What the report adds to the counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// `svm` or `vmx`.
    pub backend: &'a str,
    /// `nested` or `shadow`.
    pub paging: &'a str,
    /// The guest's RAM in bytes.
    pub guest_ram: u64,
    /// The guest's video memory in bytes.
    pub video_ram: u64,
    /// Umbra's own memory in bytes: image, heap, tables; all but the guest's RAM and video memory.
    pub own_memory: u64,
    /// Of this, frames of second-stage tables.
    pub table_frames: u64,
    /// TSC ticks since the guest was started.
    pub ticks_total: u64,
    /// TSC frequency in hertz.
    pub tsc_hz: u64,
    /// What of the CPU it is to get.
    pub share: Share,
    /// What shadow paging has done, where the guest runs on it.
    pub shadow: Option<ShadowReport>,
    /// What the guest said of its crash, if it said that it has crashed.
    pub crash: Option<[u64; CRASH_VALUES]>,
    /// The virtual CPUs.
    pub cpus: &'a [CpuFacts],
}

fn write_shadow(report: &ShadowReport, out: &mut impl Write) -> fmt::Result {
    let ShadowReport {
        algorithm,
        faults,
        zapped,
        reclaimed,
        pages,
        pages_most,
        pages_capacity,
    } = report;
    let ShadowFaults {
        guest,
        fill,
        accessed,
        dirty,
        table_write,
        resync,
        write_protect_off,
        mmio,
    } = faults;
    write!(
        out,
        ",\n  \"shadow\": {{\n    \"algorithm\": \"{algorithm}\",\n    \"faults\": {{ \"guest\": {guest}, \"fill\": {fill}, \
         \"accessed\": {accessed}, \"dirty\": {dirty}, \"table_write\": {table_write}, \"resync\": {resync}, \
         \"write_protect_off\": {write_protect_off}, \"mmio\": {mmio} }},\n    \"zapped\": {zapped}, \"reclaimed\": {reclaimed},\n    \
         \"pages\": {{ \"used\": {pages}, \"most\": {pages_most}, \"capacity\": {pages_capacity} }}\n  }}"
    )
}

impl Stats {
    /// Notes that fields of the control structure were accessed because of an exit.
    pub fn accesses(&mut self, reason: usize, (reads, writes): (u64, u64)) {
        self.reads[reason] += reads;
        self.writes[reason] += writes;
    }

    /// Adds what another CPU of the VM did.
    pub fn add(&mut self, other: &Self) {
        fn sum<const N: usize>(to: &mut [u64; N], from: &[u64; N]) {
            to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        }
        for (to, from) in self.least.iter_mut().zip(other.least) {
            *to = (*to).min(from);
        }
        sum(&mut self.exits, &other.exits);
        sum(&mut self.ticks, &other.ticks);
        sum(&mut self.reads, &other.reads);
        sum(&mut self.writes, &other.writes);
        sum(&mut self.injected, &other.injected);
        self.emulated += other.emulated;
        self.lacking += other.lacking;
        self.native += other.native;
        self.software_instructions += other.software_instructions;
        self.software_ticks += other.software_ticks;
        self.flushes += other.flushes;
        self.paging_switches += other.paging_switches;
        self.resets += other.resets;
    }

    /// Notes one exit that took `ticks` to handle.
    pub fn exit(&mut self, reason: usize, ticks: u64) {
        self.last_exit(reason, ticks);
        if ticks < self.least[reason] {
            self.least[reason] = ticks;
        }
    }

    /// Notes one exit that took `ticks` until the CPU stopped.
    #[inline(always)]
    pub fn last_exit(&mut self, reason: usize, ticks: u64) {
        // Centuries pass before a count of 64 bits is full, and every exit would pay for the question.
        self.exits[reason] = self.exits[reason].wrapping_add(1);
        self.ticks[reason] = self.ticks[reason].wrapping_add(ticks);
    }

    /// Writes the report as JSON, with what a [recorder](crate::record) has seen, if there is one.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn json(
        &self,
        facts: &Facts<'_>,
        recorder: Option<&Recorder>,
        out: &mut impl Write,
    ) -> fmt::Result {
        let Facts {
            backend,
            paging,
            guest_ram,
            video_ram,
            own_memory,
            table_frames,
            ticks_total,
            tsc_hz,
            share: Share { weight, cap, warp },
            shadow,
            crash,
            cpus,
        } = facts;
        let ticks_halted: u64 = cpus.iter().map(|cpu| cpu.halted).sum();
        let ticks_run: u64 = cpus.iter().map(|cpu| cpu.used).sum();
        let total: u64 = self.exits.iter().sum();
        let spent: u64 = self.ticks.iter().sum();
        write!(
            out,
            "{{\n  \"backend\": \"{backend}\",\n  \"paging\": \"{paging}\",\n  \"tsc_hz\": {tsc_hz},"
        )?;
        write!(
            out,
            "\n  \"ticks\": {{ \"total\": {ticks_total}, \"hypervisor\": {spent}, \"halted\": {ticks_halted}, \"run\": {ticks_run} }},\n  \"share\": {{ \"weight\": {weight}, \"cap\": {cap}, \"warp\": {warp} }},"
        )?;
        write!(
            out,
            "\n  \"exits\": {{\n    \"total\": {total},\n    \"by_reason\": {{"
        )?;
        let mut first = true;
        for (i, name) in ExitReason::NAMES
            .iter()
            .enumerate()
            .filter(|(i, _)| self.exits[*i] != 0)
        {
            let (n, t, least) = (self.exits[i], self.ticks[i], self.least[i]);
            let comma = if core::mem::take(&mut first) { "" } else { "," };
            let mean = t / n;
            write!(
                out,
                "{comma}\n      \"{name}\": {{ \"count\": {n}, \"ticks\": {t}, \"mean\": {mean}, \"least\": "
            )?;
            match least {
                u64::MAX => out.write_str("null")?,
                least => write!(out, "{least}")?,
            }
            write!(
                out,
                ", \"vmreads\": {}, \"vmwrites\": {} }}",
                self.reads[i], self.writes[i]
            )?;
        }
        let [e, i, n, s] = self.injected;
        out.write_str("\n    }")?;
        if let Some(recorder) = recorder {
            out.write_str(",\n    \"by_port\": ")?;
            recorder.ports.json(out)?;
            out.write_str(",\n    \"by_msr\": ")?;
            recorder.msrs.json(out)?;
        }
        write!(
            out,
            "\n  }},\n  \"injected\": {{ \"exceptions\": {e}, \"interrupts\": {i}, \"nmis\": {n}, \"software\": {s} }},"
        )?;
        write!(
            out,
            "\n  \"emulated_instructions\": {},\n  \"lacking_instructions\": {},\n  \"native_instructions\": {},\n  \"software\": {{ \"instructions\": {}, \"ticks\": {} }},\n  \"tlb_flushes\": {},\n  \"paging_switches\": {},",
            self.emulated,
            self.lacking,
            self.native,
            self.software_instructions,
            self.software_ticks,
            self.flushes,
            self.paging_switches
        )?;
        write!(
            out,
            "\n  \"guest_resets\": {},\n  \"memory\": {{ \"guest_ram\": {guest_ram}, \"video_ram\": {video_ram}, \"umbra_bytes\": {own_memory}, ",
            self.resets
        )?;
        write!(out, "\"table_frames\": {table_frames} }}")?;
        if let Some(shadow) = shadow {
            write_shadow(shadow, out)?;
        }
        if let Some([a, b, c, d, e]) = crash {
            write!(out, ",\n  \"crash\": [{a}, {b}, {c}, {d}, {e}]")?;
        }
        for (i, cpu) in cpus.iter().enumerate() {
            out.write_str(if i == 0 {
                ",\n  \"cpus\": [\n    "
            } else {
                ",\n    "
            })?;
            cpu.json(out)?;
        }
        out.write_str(if cpus.is_empty() { "" } else { "\n  ]" })?;
        let recording = recorder.map_or(&[][..], Recorder::lines);
        for (i, line) in recording.iter().enumerate() {
            let before = if i == 0 { ",\n  \"recording\": [" } else { "," };
            write!(out, "{before}\n    \"{line}\"")?;
        }
        let end = if recording.is_empty() { "" } else { "\n  ]" };
        write!(out, "{end}\n}}\n")
    }
}
