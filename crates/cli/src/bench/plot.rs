//! A sweep as a picture: prefill above, decode below, over the context. Repeats as bars, another sweep in grey.

use super::sweep::{Row, Speed, Sweep};
use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::prelude::*;
use std::path::Path;

const SIZE: (u32, u32) = (900, 640);
const BLUE: RGBColor = RGBColor(0x1f, 0x6f, 0xb4);
const GREY: RGBColor = RGBColor(0x99, 0x99, 0x99);

/// Draws a sweep into an SVG file.
///
/// # Errors
///
/// If there is nothing to draw, or the file cannot be written.
pub fn svg(sweep: &Sweep, path: &Path) -> Result<()> {
    let area = SVGBackend::new(path, SIZE).into_drawing_area();
    let drawn = || -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        area.fill(&WHITE)?;
        let title = format!("{}, {}, {}", sweep.model.name, sweep.run.backend, sweep.machine.cpu);
        let (upper, lower) = area.titled(&title, ("sans-serif", 16))?.split_vertically((SIZE.1 - 30) / 2);
        panel(&upper, "prefill, tokens a second", sweep, |row| row.prefill)?;
        panel(&lower, "decode, tokens a second", sweep, |row| row.decode)?;
        area.present()
    };
    drawn().map_err(|error| anyhow!("drawing {}: {error}", path.display()))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

fn panel(
    area: &Area<'_>,
    name: &str,
    sweep: &Sweep,
    speed: impl Fn(&Row) -> Speed,
) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
    let others = sweep.compared.as_deref().unwrap_or_default();
    let all = || sweep.rows.iter().chain(others);
    let widest = all().map(|row| row.context).max().unwrap_or(1) as f64;
    let highest = all().map(|row| speed(row).max).fold(0.0, f64::max).max(1e-3);
    let mut chart = ChartBuilder::on(area)
        .margin(12)
        .caption(name, ("sans-serif", 14))
        .x_label_area_size(30)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..widest * 1.02, 0.0..highest * 1.1)?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .x_desc("tokens of context")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .draw()?;
    for (rows, color) in [(others, GREY), (&sweep.rows[..], BLUE)] {
        let points = || rows.iter().map(|row| (row.context as f64, speed(row)));
        chart.draw_series(LineSeries::new(points().map(|(x, y)| (x, y.tps)), color.stroke_width(2)))?;
        let spread = |(x, y): (f64, Speed)| PathElement::new(vec![(x, y.min), (x, y.max)], color);
        chart.draw_series(points().map(spread))?;
    }
    Ok(())
}
