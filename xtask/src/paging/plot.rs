//! The comparison as pictures: bars, side by side for each job, in stacks where there are kinds.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::comparison::{Column, Comparison, Counts, Job};
use super::table::kinds;

const SIZE: (u32, u32) = (1120, 480);
/// The width of the legend.
const LEGEND: u32 = 150;
const FONT: &str = "sans-serif";
/// The colours of kinds; the last is for all further ones.
pub const COLOURS: [RGBColor; 9] = [
    RGBColor(0x1f, 0x4e, 0x8c),
    RGBColor(0xe0, 0x7b, 0x1a),
    RGBColor(0x3c, 0x93, 0x4b),
    RGBColor(0xb5, 0x34, 0x3a),
    RGBColor(0x7a, 0x57, 0xa8),
    RGBColor(0x8a, 0x6a, 0x4a),
    RGBColor(0xd1, 0x6b, 0xae),
    RGBColor(0x2a, 0xa0, 0xb0),
    RGBColor(0x8c, 0x8c, 0x8c),
];
/// What further kinds are called together.
const OTHERS: &str = "others";
/// Space between two groups, in bars.
const GAP: f64 = 0.8;

/// A bar: its name, and its height by kind.
struct Bar {
    name: String,
    parts: Vec<f64>,
}

/// A picture.
struct Picture {
    title: &'static str,
    kinds: Vec<String>,
    /// Named groups of bars.
    groups: Vec<(String, Vec<Bar>)>,
}

/// Draws all pictures into `directory`.
///
/// # Errors
///
/// One cannot be written.
pub fn all(comparison: &Comparison, directory: &Path) -> Result<()> {
    let pictures = [
        (
            "exits",
            by_kind(comparison, "Exits", |counts| &counts.exits),
        ),
        (
            "instructions",
            by_job(
                comparison,
                "Instructions that Umbra spent, millions",
                |job| {
                    let counts = job.counts.as_ref()?;
                    Some(counts.hypervisor_instructions as f64 / 1e6)
                },
            ),
        ),
        (
            "faults",
            by_kind(comparison, "Page faults that Umbra saw", |counts| {
                &counts.faults
            }),
        ),
        (
            "flushes",
            by_job(comparison, "TLB flushes", |job| {
                Some(job.counts.as_ref()?.flushes as f64)
            }),
        ),
        ("memory", memory(comparison)),
    ];
    for (name, picture) in pictures {
        let path = directory.join(name).with_extension("svg");
        draw(&picture, &path)
            .map_err(|error| anyhow!("cannot write {}: {error}", path.display()))?;
    }
    Ok(())
}

/// A picture with a group for each job, a bar for each column, and a part for each kind.
fn by_kind(
    comparison: &Comparison,
    title: &'static str,
    of: impl Fn(&Counts) -> &BTreeMap<String, u64>,
) -> Picture {
    let mut all = kinds(comparison, &of);
    let own = all.len().min(COLOURS.len() - 1);
    let further = all.split_off(own);
    let groups = groups(comparison, |job| {
        let counts = of(job.counts.as_ref()?);
        let number = |kind: &String| counts.get(kind).copied().unwrap_or(0) as f64;
        let mut parts: Vec<f64> = all.iter().map(number).collect();
        if !further.is_empty() {
            parts.push(further.iter().map(number).sum());
        }
        Some(parts)
    });
    if !further.is_empty() {
        all.push(OTHERS.to_owned());
    }
    Picture {
        title,
        kinds: all,
        groups,
    }
}

/// A picture with a group for each job and a plain bar for each column.
fn by_job(
    comparison: &Comparison,
    title: &'static str,
    of: impl Fn(&Job) -> Option<f64>,
) -> Picture {
    Picture {
        title,
        kinds: Vec::new(),
        groups: groups(comparison, |job| of(job).map(|height| vec![height])),
    }
}

fn groups(
    comparison: &Comparison,
    of: impl Fn(&Job) -> Option<Vec<f64>>,
) -> Vec<(String, Vec<Bar>)> {
    let names = comparison.job_names();
    let group = |name: &str| {
        let bar = |column: &Column| {
            let parts = of(&comparison.job(column, name)?)?;
            Some(Bar {
                name: column.name.to_owned(),
                parts,
            })
        };
        (
            name.to_owned(),
            comparison.inside().filter_map(bar).collect(),
        )
    };
    names.into_iter().map(group).collect()
}

/// The memory in use: the pages of shadow tables, and the rest of Umbra's.
fn memory(comparison: &Comparison) -> Picture {
    let bar = |column: &Column| {
        let memory = column.memory?;
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let tables = (memory.shadow_pages_most + memory.table_frames) << 12;
        let rest = memory.umbra_bytes.saturating_sub(tables);
        Some(Bar {
            name: column.name.to_owned(),
            parts: vec![mib(rest), mib(tables)],
        })
    };
    Picture {
        title: "Umbra's own memory, MiB",
        kinds: vec!["all else".to_owned(), "tables for the guest".to_owned()],
        groups: vec![(String::new(), comparison.inside().filter_map(bar).collect())],
    }
}

type Drawn = std::result::Result<(), Box<dyn std::error::Error>>;

fn draw(picture: &Picture, path: &Path) -> Drawn {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let bars = || picture.groups.iter().flat_map(|(_, bars)| bars);
    let height = |bar: &Bar| bar.parts.iter().sum::<f64>();
    let highest = bars().map(height).fold(0.0, f64::max);
    let width = bars().count() as f64 + GAP * (picture.groups.len() + 1) as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption(picture.title, (FONT, 20))
        .margin(12)
        .margin_right(if picture.kinds.is_empty() { 12 } else { LEGEND })
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..width, 0.0..(highest * 1.05).max(1.0))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .y_label_formatter(&|value| grouped(*value))
        .light_line_style(TRANSPARENT)
        .label_style((FONT, 12))
        .draw()?;
    for number in 0..picture.kinds.len().max(1) {
        let colour = COLOURS.get(number).copied().unwrap_or(BLACK);
        let rectangles = placed(picture).filter_map(|(at, bar)| {
            let from: f64 = bar.parts.iter().take(number).sum();
            let part = bar.parts.get(number).copied().filter(|&part| part > 0.0)?;
            let corners = [(at - 0.4, from), (at + 0.4, from + part)];
            Some(Rectangle::new(corners, colour.filled()))
        });
        chart.draw_series(rectangles)?;
        // The legend stands beside the bars, in the order of the stacks.
        if let Some(kind) = picture.kinds.get(number) {
            let x = (SIZE.0 - LEGEND) as i32 + 16;
            let y = SIZE.1 as i32 - 64 - 18 * number as i32;
            root.draw(&Rectangle::new(
                [(x, y - 5), (x + 10, y + 5)],
                colour.filled(),
            ))?;
            let text = TextStyle::from((FONT, 12).into_font());
            let beside = text.pos(Pos::new(HPos::Left, VPos::Center));
            root.draw(&Text::new(kind.clone(), (x + 16, y), beside))?;
        }
    }
    let label = |size: i32| {
        let centred = Pos::new(HPos::Center, VPos::Top);
        TextStyle::from((FONT, size).into_font()).pos(centred)
    };
    for (at, bar) in placed(picture) {
        let (x, y) = chart.backend_coord(&(at, 0.0));
        root.draw(&Text::new(bar.name.clone(), (x, y + 5), label(11)))?;
    }
    let mut left = GAP;
    for (name, bars) in &picture.groups {
        let (x, y) = chart.backend_coord(&(left + bars.len() as f64 / 2.0, 0.0));
        root.draw(&Text::new(name.clone(), (x, y + 24), label(14)))?;
        left += bars.len() as f64 + GAP;
    }
    root.present()?;
    Ok(())
}

/// The bars with their middles.
fn placed(picture: &Picture) -> impl Iterator<Item = (f64, &Bar)> {
    let mut left = 0.0;
    let mut all = Vec::new();
    for (_, bars) in &picture.groups {
        left += GAP;
        for bar in bars {
            all.push((left + 0.5, bar));
            left += 1.0;
        }
    }
    all.into_iter()
}

/// A number with blanks between thousands, or with a decimal where it is small.
pub fn grouped(value: f64) -> String {
    if value < 10.0 && value.fract() != 0.0 {
        return format!("{value:.1}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at != 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::comparison::testing::comparison;
    use super::*;

    #[test]
    fn every_picture_is_drawn_with_its_columns_jobs_and_kinds() {
        let directory = tempfile::tempdir().unwrap();
        all(&comparison(), directory.path()).unwrap();
        let read = |name: &str| std::fs::read_to_string(directory.path().join(name)).unwrap();
        for name in ["exits", "instructions", "faults", "flushes"] {
            let text = read(&format!("{name}.svg"));
            for word in ["cached", "boot", "fork"] {
                assert!(text.contains(word), "{name}: {word}");
            }
            assert!(!text.contains("unsync"), "{name}");
        }
        assert!(read("exits.svg").contains("cr access"));
        assert!(read("memory.svg").contains("tables for the guest"));
    }

    #[test]
    fn kinds_beyond_the_colours_are_drawn_as_one() {
        let mut comparison = comparison();
        let counts = comparison.columns[1].jobs[0].counts.as_mut().unwrap();
        counts.exits = (1..20).map(|n| (format!("kind {n}"), n)).collect();
        let picture = by_kind(&comparison, "", |counts| &counts.exits);
        assert_eq!(picture.kinds.len(), COLOURS.len());
        let parts = &picture.groups[0].1[0].parts;
        assert_eq!(parts.len(), COLOURS.len());
        assert_eq!(parts.iter().sum::<f64>(), f64::from(19 * 20 / 2));
    }

    #[test]
    fn numbers_are_grouped_by_thousands() {
        assert_eq!(grouped(1_234_567.0), "1 234 567");
        assert_eq!(grouped(999.0), "999");
        assert_eq!(grouped(2.5), "2.5");
        assert_eq!(grouped(0.0), "0");
    }
}
