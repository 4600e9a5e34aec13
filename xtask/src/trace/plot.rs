//! A trace as a picture: how many exits of each reason there were, over the guest's time.

use anyhow::{Result, ensure};
use hv_core::exit::ExitReason;
use hv_core::trace::Filter;
use plotters::prelude::*;

use super::read;
use crate::paging::plot::{COLOURS, grouped};

const SIZE: (u32, u32) = (1120, 480);
const FONT: &str = "sans-serif";
/// Columns of the picture, each for the same time.
const COLUMNS: usize = 160;
/// What further reasons are called together.
const OTHERS: &str = "others";

/// Exits over time.
#[derive(Debug, PartialEq)]
pub(super) struct Counts {
    /// When the first and the last were, in nanoseconds of the guest's time.
    pub first: u64,
    pub last: u64,
    /// The most frequent reasons by their names, and the number of exits in each column.
    pub reasons: Vec<(String, Vec<u64>)>,
}

impl Counts {
    /// Counts what `filter` takes of a trace.
    ///
    /// # Errors
    ///
    /// It is no trace, damaged, or nothing of it is left.
    pub(super) fn of(bytes: &[u8], filter: &Filter) -> Result<Self> {
        let mut exits = Vec::new();
        read(bytes, &mut |_, _| {}, &mut |vm, cpu, event| {
            if filter.takes_vm(vm) && filter.takes(cpu, &event.seen) {
                exits.push((event.seen.at.0, event.seen.exit.reason.index()));
            }
            Ok(())
        })?;
        ensure!(!exits.is_empty(), "there is no exit to be drawn");
        let (first, last) = exits
            .iter()
            .fold((u64::MAX, 0), |(a, b), &(at, _)| (a.min(at), b.max(at)));
        let span = u128::from(last - first) + 1;
        let mut all = vec![vec![0u64; COLUMNS]; ExitReason::KINDS];
        for (at, reason) in exits {
            let column = u128::from(at - first) * COLUMNS as u128 / span;
            all[reason][column as usize] += 1;
        }
        let mut rows: Vec<_> = all.into_iter().enumerate().collect();
        rows.retain(|(_, columns)| columns.iter().any(|&n| n != 0));
        let sum = |columns: &[u64]| columns.iter().sum::<u64>();
        rows.sort_by_key(|(index, columns)| (std::cmp::Reverse(sum(columns)), *index));
        let mut reasons: Vec<(String, Vec<u64>)> = Vec::new();
        for (index, columns) in rows {
            if reasons.len() < COLOURS.len() {
                reasons.push((ExitReason::word(index).to_string(), columns));
            } else if let Some((name, others)) = reasons.last_mut() {
                OTHERS.clone_into(name);
                others.iter_mut().zip(columns).for_each(|(to, n)| *to += n);
            }
        }
        Ok(Self {
            first,
            last,
            reasons,
        })
    }
}

/// The trace `bytes` as an SVG picture, as far as `filter` takes it.
///
/// # Errors
///
/// It is no trace, damaged, or nothing of it is left.
pub fn draw(bytes: &[u8], filter: &Filter) -> Result<String> {
    let counts = Counts::of(bytes, filter)?;
    let mut svg = String::new();
    match paint(&counts, &mut svg) {
        Ok(()) => Ok(svg),
        Err(error) => anyhow::bail!("the picture cannot be drawn: {error}"),
    }
}

fn paint(counts: &Counts, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let seconds = |ns: u64| ns as f64 / 1e9;
    let width = seconds((counts.last - counts.first).saturating_add(1)) / COLUMNS as f64;
    let total = |column: usize| counts.reasons.iter().map(|(_, n)| n[column]).sum::<u64>();
    let highest = (0..COLUMNS).map(total).max().unwrap_or(0) as f64;
    let mut chart = ChartBuilder::on(&root)
        .caption("Exits by reason", (FONT, 20))
        .margin(12)
        .x_label_area_size(44)
        .y_label_area_size(76)
        .build_cartesian_2d(0.0..width * COLUMNS as f64, 0.0..(highest * 1.05).max(1.0))?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_desc(format!(
            "the guest's time in seconds, from {:.6} on",
            seconds(counts.first)
        ))
        .y_desc(format!("exits in {:.3} ms", width * 1e3))
        .y_label_formatter(&|value| grouped(*value))
        .light_line_style(TRANSPARENT)
        .label_style((FONT, 12))
        .draw()?;
    let mut below = [0u64; COLUMNS];
    for ((name, columns), colour) in counts.reasons.iter().zip(COLOURS) {
        let mut bars = Vec::new();
        for (n, (count, below)) in columns.iter().zip(&mut below).enumerate() {
            if *count != 0 {
                let left = width * n as f64;
                let low = *below as f64;
                *below += count;
                bars.push(Rectangle::new(
                    [(left, low), (left + width, *below as f64)],
                    colour.filled(),
                ));
            }
        }
        let sum: u64 = columns.iter().sum();
        chart
            .draw_series(bars)?
            .label(format!("{name}, {}", grouped(sum as f64)))
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour.filled()));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.8))
        .border_style(TRANSPARENT)
        .label_font((FONT, 12))
        .draw()?;
    root.present()?;
    Ok(())
}
