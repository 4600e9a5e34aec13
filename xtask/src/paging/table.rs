//! The comparison as a table for the terminal.

use std::collections::{BTreeMap, BTreeSet};

use super::comparison::{BOOT, Column, Comparison, Counts, Job, NATIVE};

/// Characters of the first column, and of the others.
const FIRST: usize = 26;
const WIDTH: usize = 11;

/// What is aimed at for the boot in QEMU with the best algorithm, and what Linux KVM needs for it on the same emulator.
const WALL: &str = "aim 1.70 x; KVM 1.84 x nested, 2.55 x shadow";
const INSTRUCTIONS: &str = "aim 1.08 x; KVM 1.19 x nested, 1.33 x shadow";
const EXITS: &str = "aim 12000; KVM 6813 nested, 37411 shadow";

/// Lines of a column each.
struct Table<'a> {
    comparison: &'a Comparison,
    text: String,
}

/// Writes the table, with the aims where they hold.
pub fn table(comparison: &Comparison, aims: bool) -> String {
    let mut table = Table {
        comparison,
        text: String::new(),
    };
    table.line(
        &format!("{}, {}", comparison.rig, comparison.guest),
        |column| column.name.to_owned(),
        "",
    );
    let aim = |name: &str, aim: &'static str| if aims && name == BOOT { aim } else { "" };
    let jobs = comparison.job_names();

    table.heading("wall time, s");
    for name in &jobs {
        table.ratio(name, 2, |job| job.wall_seconds, aim(name, WALL));
    }
    table.heading("instructions, millions");
    for name in &jobs {
        let millions = |job: &Job| job.instructions as f64 / 1e6;
        table.ratio(name, 0, millions, aim(name, INSTRUCTIONS));
    }
    table.heading("instructions of Umbra, millions");
    for name in &jobs {
        table.count(name, "", |counts| {
            format!("{:.1}", counts.hypervisor_instructions as f64 / 1e6)
        });
    }
    table.heading("exits");
    for name in &jobs {
        table.count(name, aim(name, EXITS), |counts| {
            counts.all_exits().to_string()
        });
    }
    table.total("all together", |counts| counts.all_exits());
    table.kinds("exits by kind, all together", |counts| &counts.exits);
    table.heading("page faults");
    for name in &jobs {
        table.count(name, "", |counts| counts.all_faults().to_string());
    }
    table.kinds("page faults by kind, all together", |counts| &counts.faults);
    table.heading("tables and TLB, all together");
    table.total("flushes", |counts| counts.flushes);
    table.total("shadow pages zapped", |counts| counts.zapped);
    table.total("shadow pages reclaimed", |counts| counts.reclaimed);
    table.heading("memory");
    table.line(
        "Umbra's own, KiB",
        |column| {
            column.memory.map_or(String::new(), |memory| {
                (memory.umbra_bytes >> 10).to_string()
            })
        },
        "",
    );
    table.line(
        "shadow pages, most",
        |column| {
            column
                .memory
                .filter(|memory| memory.shadow_pages_capacity != 0)
                .map_or(String::new(), |memory| {
                    format!(
                        "{}/{}",
                        memory.shadow_pages_most, memory.shadow_pages_capacity
                    )
                })
        },
        "",
    );
    table.heading("checksum of the guest's memory");
    for name in jobs.iter().filter(|&&name| name != BOOT) {
        table.job(name, "", |job| {
            job.checksum
                .map_or(String::new(), |checksum| format!("{checksum:08x}"))
        });
    }
    table.notes(aims);
    table.text
}

impl Table<'_> {
    fn line(&mut self, what: &str, cell: impl Fn(&Column) -> String, note: &str) {
        let mut line = format!("{what:FIRST$}");
        for column in &self.comparison.columns {
            line.push_str(&format!("{:>WIDTH$}", cell(column)));
        }
        line.push_str("  ");
        line.push_str(note);
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    fn heading(&mut self, what: &str) {
        self.text.push('\n');
        self.text.push_str(what);
        self.text.push('\n');
    }

    /// One figure of a job.
    fn job(&mut self, name: &str, note: &str, cell: impl Fn(&Job) -> String) {
        let comparison = self.comparison;
        self.line(
            &format!("  {name}"),
            |column| {
                let job = comparison.job(column, name);
                job.map_or(String::new(), |job| cell(&job))
            },
            note,
        );
    }

    /// The native figure, and the others as its multiples.
    fn ratio(&mut self, name: &str, digits: usize, of: impl Fn(&Job) -> f64, note: &str) {
        let comparison = self.comparison;
        let native = comparison.columns.iter().find(|one| one.name == NATIVE);
        let native = native
            .and_then(|column| comparison.job(column, name))
            .map(|job| of(&job));
        self.line(
            &format!("  {name}"),
            |column| match (comparison.job(column, name), native) {
                (Some(job), _) if column.name == NATIVE => format!("{:.digits$}", of(&job)),
                (Some(job), Some(native)) => format!("{:.2} x", of(&job) / native),
                _ => String::new(),
            },
            note,
        );
    }

    fn count(&mut self, name: &str, note: &str, cell: impl Fn(&Counts) -> String) {
        self.job(name, note, |job| {
            job.counts.as_ref().map_or(String::new(), &cell)
        });
    }

    fn total(&mut self, what: &str, of: impl Fn(&Counts) -> u64) {
        self.line(
            &format!("  {what}"),
            |column| match column.memory {
                Some(_) => of(&column.total()).to_string(),
                None => String::new(),
            },
            "",
        );
    }

    /// All kinds of something, the most frequent first.
    fn kinds(&mut self, what: &str, of: impl Fn(&Counts) -> &BTreeMap<String, u64>) {
        self.heading(what);
        for kind in kinds(self.comparison, &of) {
            self.total(&kind, |counts| of(counts).get(&kind).copied().unwrap_or(0));
        }
    }

    fn notes(&mut self, aims: bool) {
        let mut notes = String::from("\n");
        for column in &self.comparison.columns {
            if let Some(problem) = &column.problem {
                notes.push_str(&format!("{}: {problem}\n", column.name));
            }
        }
        let exits = |name: &str| {
            let column = self.comparison.inside().find(|one| one.name == name);
            column.map(|column| column.total().all_exits())
        };
        if let (Some(cached), Some(vtlb)) = (exits("cached"), exits("vtlb")) {
            notes.push_str(&format!(
                "exits of cached: {:.2} of those of vtlb{}\n",
                cached as f64 / vtlb as f64,
                if aims { " (aim 0.33)" } else { "" }
            ));
        }
        let differing = self.comparison.differing();
        notes.push_str(if differing.is_empty() {
            "the same work left the same memory everywhere\n"
        } else {
            "THE GUEST'S MEMORY HAD OTHER CONTENTS\n"
        });
        notes.push_str(
            "boot: to the first program by time and instructions; its exits and faults with the power-off. x: times the native figure\n",
        );
        self.text.push_str(&notes);
    }
}

/// All kinds that any column has, the most frequent first.
pub fn kinds(
    comparison: &Comparison,
    of: &impl Fn(&Counts) -> &BTreeMap<String, u64>,
) -> Vec<String> {
    let totals: Vec<Counts> = comparison.inside().map(Column::total).collect();
    let names: BTreeSet<&String> = totals.iter().flat_map(|counts| of(counts).keys()).collect();
    let mut kinds: Vec<(u64, String)> = names
        .into_iter()
        .map(|name| {
            let most = totals
                .iter()
                .filter_map(|counts| of(counts).get(name))
                .max();
            (most.copied().unwrap_or(0), name.clone())
        })
        .filter(|&(most, _)| most != 0)
        .collect();
    kinds.sort_by(|one, other| other.0.cmp(&one.0).then_with(|| one.1.cmp(&other.1)));
    kinds.into_iter().map(|(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::super::comparison::testing::comparison;
    use super::*;

    fn line(text: &str, heading: &str, start: &str) -> String {
        let section = text.split_once(heading).map_or("", |(_, rest)| rest);
        let line = section
            .lines()
            .find(|line| line.trim_start().starts_with(start));
        line.unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn figures_stand_in_their_columns_with_the_aims() {
        let text = table(&comparison(), true);
        assert_eq!(
            line(&text, "", "qemu-svm"),
            "qemu-svm, cloud-kernel native cached unsync"
        );
        assert_eq!(
            line(&text, "wall time", "boot"),
            format!("boot 2.00 1.50 x {WALL}")
        );
        assert_eq!(
            line(&text, "instructions, millions", "fork"),
            "fork 500 1.20 x"
        );
        assert_eq!(line(&text, "exits\n", "fork"), "fork 150");
        assert_eq!(line(&text, "exits\n", "all"), "all together 450");
        assert_eq!(line(&text, "exits by kind", "page"), "page fault 300");
        assert_eq!(line(&text, "page faults by kind", "fill"), "fill 150");
        assert_eq!(line(&text, "memory\n", "Umbra"), "Umbra's own, KiB 13312");
        assert_eq!(line(&text, "checksum", "fork"), "fork 00c0ffee 00c0ffee");
        assert!(!table(&comparison(), false).contains("KVM"));
    }

    #[test]
    fn a_column_without_figures_says_why() {
        let text = table(&comparison(), true);
        assert!(
            text.contains("\nunsync: shadow=unsync is not built yet\n"),
            "{text}"
        );
    }

    #[test]
    fn kinds_that_never_happened_are_left_out() {
        let comparison = comparison();
        assert_eq!(
            kinds(&comparison, &|counts| &counts.faults),
            ["fill", "guest"]
        );
    }
}
