//! The pictures of RESULTS.md.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use crate::gateway::{ALL, Policy};
use crate::measure::{first_tokens, loads, read_again};
use crate::{FOLDER, Runs};

const SIZE: (u32, u32) = (760, 380);
const FONT: &str = "sans-serif";

/// Draws them all.
pub fn draw(runs: &Runs) -> Result<()> {
    let times = |scene, policy, from: usize| {
        first_tokens(runs.of(scene, policy), |fate| fate.request.user >= from)
    };
    curves("light", "light clients beside a greedy one", &|policy| times("beset", policy, 1))?;
    curves("eighty", "conversations, 80 % load", &|policy| times("eighty", policy, 0))?;
    columns("loads", "cold loads per 1000 requests", &|policy| {
        let world = runs.of("mixed", policy);
        1000.0 * loads(world) as f64 / world.fates.len() as f64
    })?;
    columns("chats", "prompt tokens read again, in thousands", &|policy| {
        read_again(runs.of("chats", policy)) as f64 / 1000.0
    })
}

fn colour(policy: Policy) -> RGBColor {
    match policy {
        Policy::Usher => RGBColor(0, 114, 178),
        Policy::LeastConn => RGBColor(213, 94, 0),
        Policy::Random => RGBColor(0, 158, 115),
        Policy::RoundRobin => RGBColor(204, 121, 167),
    }
}

fn path(name: &str) -> String {
    format!("{FOLDER}/{name}.svg")
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("drawing failed: {error}")
}

/// The share of requests that had their first token within a time, on a logarithmic scale.
fn curves(name: &str, title: &str, times: &dyn Fn(Policy) -> Vec<f64>) -> Result<()> {
    let file = path(name);
    let area = SVGBackend::new(&file, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let all: Vec<_> = ALL.into_iter().map(|policy| (policy, times(policy))).collect();
    let most = all.iter().filter_map(|(_, times)| times.last()).fold(1.0, |a: f64, b| a.max(*b));
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(48)
        .build_cartesian_2d((0.05..most).log_scale(), 0.0..100.0)
        .map_err(failed)?;
    chart
        .configure_mesh()
        .x_desc("seconds to the first token")
        .y_desc("% of requests")
        .draw()
        .map_err(failed)?;
    for (policy, times) in all {
        let step = (times.len() / 400).max(1);
        let share = |at: usize| 100.0 * (at + 1) as f64 / times.len() as f64;
        let points = times
            .iter()
            .enumerate()
            .filter(|(at, _)| at.is_multiple_of(step) || at + 1 == times.len());
        let points: Vec<_> = points.map(|(at, time)| (time.max(0.05), share(at))).collect();
        let style = colour(policy).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points, style))
            .map_err(failed)?
            .label(policy.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()
        .map_err(failed)?;
    area.present().map_err(failed)
}

/// A column for everybody who chooses.
fn columns(name: &str, title: &str, value: &dyn Fn(Policy) -> f64) -> Result<()> {
    let file = path(name);
    let area = SVGBackend::new(&file, SIZE).into_drawing_area();
    area.fill(&WHITE).map_err(failed)?;
    let values: Vec<_> = ALL.into_iter().map(|policy| (policy, value(policy))).collect();
    let most = values.iter().map(|(_, value)| *value).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .caption(title, (FONT, 18))
        .margin(12)
        .x_label_area_size(30)
        .y_label_area_size(48)
        .build_cartesian_2d(-0.5..values.len() as f64 - 0.5, 0.0..most * 1.1)
        .map_err(failed)?;
    let name_of = |at: &f64| {
        let near = at.round();
        let is_whole = (at - near).abs() < 0.01 && near >= 0.0;
        let policy = ALL.get(near as usize).filter(|_| is_whole);
        policy.map_or(String::new(), |policy| policy.name().to_owned())
    };
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(9)
        .x_label_formatter(&name_of)
        .draw()
        .map_err(failed)?;
    let columns = values.iter().enumerate().map(|(at, (policy, value))| {
        let at = at as f64;
        Rectangle::new([(at - 0.3, 0.0), (at + 0.3, *value)], colour(*policy).filled())
    });
    chart.draw_series(columns).map_err(failed)?;
    area.present().map_err(failed)
}
