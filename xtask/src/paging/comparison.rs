//! What the runs of the comparison gave, in the form in which it is written as JSON.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

/// The name of the native column.
pub const NATIVE: &str = "native";
/// The name of the first job: the way to the first program, and the machine's end.
pub const BOOT: &str = "boot";
/// What second-stage faults are called among the faults of nested paging.
const NESTED: &str = "nested";

/// All figures.
#[derive(Debug, Serialize)]
pub struct Comparison {
    /// The outer machine.
    pub rig: &'static str,
    /// Its CPU.
    pub cpu_model: String,
    /// The guest.
    pub guest: &'static str,
    /// One for each way of virtualizing memory, the native one first.
    pub columns: Vec<Column>,
}

/// One way of virtualizing memory.
#[derive(Debug, Default, Serialize)]
pub struct Column {
    /// `native`, `nested`, or the shadow's algorithm.
    pub name: &'static str,
    /// Why there are no further figures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// The figures of each job that was done.
    pub jobs: Vec<Job>,
    /// The most memory that was in use during any of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
}

/// One piece of work, under one way of virtualizing memory.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Job {
    /// `boot`, or the name of the work.
    pub name: &'static str,
    /// How long it took by the clock.
    pub wall_seconds: f64,
    /// Instructions that the processor executed, the guest's and Umbra's.
    pub instructions: u64,
    /// The checksum of the memory that the work touched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checksum: Option<u32>,
    /// What Umbra did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
}

/// What Umbra did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Exits by reason.
    pub exits: BTreeMap<String, u64>,
    /// Instructions spent outside the guest.
    pub hypervisor_instructions: u64,
    /// Page faults that Umbra saw, by what it had to do about them.
    pub faults: BTreeMap<String, u64>,
    /// Flushes of the TLB.
    pub flushes: u64,
    /// Shadow pages given up because the guest's tables have changed.
    pub zapped: u64,
    /// Shadow pages given up because the pool was full.
    pub reclaimed: u64,
}

/// Memory that Umbra uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// All but the guest's.
    pub umbra_bytes: u64,
    /// Of this, frames of second-stage tables.
    pub table_frames: u64,
    /// The most pages of shadow tables in use at once.
    pub shadow_pages_most: u64,
    /// The pages that the pool of shadow tables can have.
    pub shadow_pages_capacity: u64,
}

impl Comparison {
    /// The figures of a job in a column.
    pub fn job(&self, column: &Column, job: &str) -> Option<Job> {
        column.jobs.iter().find(|one| one.name == job).cloned()
    }

    /// The names of the jobs, in their order.
    pub fn job_names(&self) -> Vec<&'static str> {
        let longest = self.columns.iter().max_by_key(|column| column.jobs.len());
        let jobs = longest.map(|column| column.jobs.iter().map(|job| job.name).collect());
        jobs.unwrap_or_default()
    }

    /// The columns that ran in Umbra, as far as they have figures.
    pub fn inside(&self) -> impl Iterator<Item = &Column> {
        self.columns
            .iter()
            .filter(|column| column.name != NATIVE && !column.jobs.is_empty())
    }

    /// The work whose memory had other contents in some column than in another.
    pub fn differing(&self) -> Vec<String> {
        let mut seen: BTreeMap<&str, (u32, &str)> = BTreeMap::new();
        let mut differing = Vec::new();
        for column in &self.columns {
            for job in &column.jobs {
                let Some(checksum) = job.checksum else {
                    continue;
                };
                let (first, by) = *seen.entry(job.name).or_insert((checksum, column.name));
                if first != checksum {
                    differing.push(format!(
                        "{}: {first:08x} {by}, {checksum:08x} {}",
                        job.name, column.name
                    ));
                }
            }
        }
        differing
    }
}

impl Column {
    /// What Umbra did in all jobs together.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        for counts in self.jobs.iter().filter_map(|job| job.counts.as_ref()) {
            total.combine(counts, u64::saturating_add);
        }
        total
    }
}

impl Counts {
    /// Reads them in Umbra's report.
    ///
    /// # Errors
    ///
    /// The report lacks one.
    pub fn of(report: &Value) -> Result<Counts> {
        let number = |pointer: &str| {
            report
                .pointer(pointer)
                .and_then(Value::as_u64)
                .with_context(|| format!("the report lacks {pointer}"))
        };
        let table = |pointer: &str| {
            let entries = report.pointer(pointer).and_then(Value::as_object);
            entries.into_iter().flatten()
        };
        let exits: BTreeMap<String, u64> = table("/exits/by_reason")
            .filter_map(|(reason, entry)| Some((reason.clone(), entry.get("count")?.as_u64()?)))
            .collect();
        let mut faults: BTreeMap<String, u64> = table("/shadow/faults")
            .filter_map(|(kind, count)| Some((kind.replace('_', " "), count.as_u64()?)))
            .collect();
        if let Some(&count) = exits.get("nested fault") {
            faults.insert(NESTED.to_owned(), count);
        }
        Ok(Counts {
            exits,
            hypervisor_instructions: number("/ticks/hypervisor")?,
            faults,
            flushes: number("/tlb_flushes")?,
            zapped: number("/shadow/zapped").unwrap_or(0),
            reclaimed: number("/shadow/reclaimed").unwrap_or(0),
        })
    }

    /// What was done since `before`.
    pub fn since(&self, before: &Counts) -> Counts {
        let mut counts = self.clone();
        counts.combine(before, u64::saturating_sub);
        counts
    }

    /// The number of exits for any reason.
    pub fn all_exits(&self) -> u64 {
        self.exits.values().sum()
    }

    /// The number of faults of any kind.
    pub fn all_faults(&self) -> u64 {
        self.faults.values().sum()
    }

    fn combine(&mut self, other: &Counts, with: fn(u64, u64) -> u64) {
        for (own, others) in [
            (&mut self.exits, &other.exits),
            (&mut self.faults, &other.faults),
        ] {
            for (name, &count) in others {
                let entry = own.entry(name.clone()).or_default();
                *entry = with(*entry, count);
            }
        }
        for (own, others) in [
            (
                &mut self.hypervisor_instructions,
                other.hypervisor_instructions,
            ),
            (&mut self.flushes, other.flushes),
            (&mut self.zapped, other.zapped),
            (&mut self.reclaimed, other.reclaimed),
        ] {
            *own = with(*own, others);
        }
    }
}

impl Memory {
    /// Reads it in Umbra's report.
    pub fn of(report: &Value) -> Memory {
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        Memory {
            umbra_bytes: number("/memory/umbra_bytes"),
            table_frames: number("/memory/table_frames"),
            shadow_pages_most: number("/shadow/pages/most"),
            shadow_pages_capacity: number("/shadow/pages/capacity"),
        }
    }

    /// The larger of each.
    pub fn most(self, other: Memory) -> Memory {
        Memory {
            umbra_bytes: self.umbra_bytes.max(other.umbra_bytes),
            table_frames: self.table_frames.max(other.table_frames),
            shadow_pages_most: self.shadow_pages_most.max(other.shadow_pages_most),
            shadow_pages_capacity: self.shadow_pages_capacity.max(other.shadow_pages_capacity),
        }
    }
}

/// Comparisons for tests.
#[cfg(test)]
pub mod testing {
    use super::*;

    /// A report as Umbra writes it, with `n` of most things.
    pub fn report(n: u64) -> Value {
        serde_json::json!({
            "backend": "svm", "paging": "shadow",
            "ticks": {"total": 100 * n, "hypervisor": 10 * n, "halted": 0},
            "exits": {"total": 3 * n, "by_reason": {
                "page fault": {"count": 2 * n, "ticks": 8 * n, "least": 2},
                "cr access": {"count": n, "ticks": 2 * n, "least": 1}
            }},
            "tlb_flushes": n,
            "memory": {"guest_ram": 1, "video_ram": 1, "umbra_bytes": 13 << 20, "table_frames": 4},
            "shadow": {"algorithm": "cached", "faults": {"guest": n, "fill": n, "table_write": 0},
                "zapped": n, "reclaimed": 0, "pages": {"used": 1, "most": n, "capacity": 1000}}
        })
    }

    /// A comparison with a native column, one with figures, and one that was refused.
    pub fn comparison() -> Comparison {
        let job = |name, wall_seconds, instructions, checksum, counts| Job {
            name,
            wall_seconds,
            instructions,
            checksum,
            counts,
        };
        let boot = Counts::of(&report(100)).unwrap();
        let fork = Counts::of(&report(150)).unwrap().since(&boot);
        Comparison {
            rig: "qemu-svm",
            cpu_model: "max".to_owned(),
            guest: "cloud-kernel",
            columns: vec![
                Column {
                    name: NATIVE,
                    jobs: vec![
                        job(BOOT, 2.0, 1_000_000_000, None, None),
                        job("fork", 1.0, 500_000_000, Some(0xc0ffee), None),
                    ],
                    ..Column::default()
                },
                Column {
                    name: "cached",
                    jobs: vec![
                        job(BOOT, 3.0, 1_100_000_000, None, Some(boot)),
                        job("fork", 1.5, 600_000_000, Some(0xc0ffee), Some(fork)),
                    ],
                    memory: Some(Memory::of(&report(7))),
                    ..Column::default()
                },
                Column {
                    name: "unsync",
                    problem: Some("shadow=unsync is not built yet".to_owned()),
                    ..Column::default()
                },
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{comparison, report};
    use super::*;

    #[test]
    fn counts_are_read_in_umbras_report() {
        let counts = Counts::of(&report(5)).unwrap();
        assert_eq!((counts.all_exits(), counts.exits["cr access"]), (15, 5));
        assert_eq!((counts.all_faults(), counts.faults["table write"]), (10, 0));
        assert_eq!((counts.hypervisor_instructions, counts.flushes), (50, 5));
        assert!(Counts::of(&Value::Null).is_err());
        let memory = Memory::of(&report(5));
        assert_eq!(
            (memory.shadow_pages_most, memory.shadow_pages_capacity),
            (5, 1000)
        );
    }

    #[test]
    fn second_stage_faults_are_the_faults_of_nested_paging() {
        let mut nested = report(1);
        nested["shadow"] = Value::Null;
        nested["exits"]["by_reason"]["nested fault"] = serde_json::json!({"count": 9});
        let counts = Counts::of(&nested).unwrap();
        assert_eq!(
            counts.faults.into_iter().collect::<Vec<_>>(),
            [("nested".to_owned(), 9)]
        );
    }

    #[test]
    fn the_boot_is_taken_away_from_what_a_job_did() {
        let comparison = comparison();
        let column = &comparison.columns[1];
        let fork = comparison.job(column, "fork").unwrap().counts.unwrap();
        assert_eq!((fork.exits["page fault"], fork.flushes), (100, 50));
        assert_eq!(column.total(), Counts::of(&report(150)).unwrap());
    }

    #[test]
    fn another_checksum_is_named_with_both_columns() {
        let mut comparison = comparison();
        assert!(comparison.differing().is_empty());
        comparison.columns[1].jobs[1].checksum = Some(0xbad);
        assert_eq!(
            comparison.differing(),
            ["fork: 00c0ffee native, 00000bad cached"]
        );
    }
}
