//! Plots as SVG: lines or bars, with labelled axes and a legend beside them.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result};

/// Width and height in pixels.
const SIZE: (u32, u32) = (760, 420);
/// The part of the width that the legend takes.
const LEGEND: u32 = 190;

/// Colours that are distinct in all kinds of colour vision (Okabe and Ito).
const COLORS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

const FONT: &str = "sans-serif";

/// Title and axes of a plot.
#[derive(Clone, Copy, Default)]
pub struct Axes<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    /// The names of x = 0, 1, ..; empty: x is a number.
    pub names: &'a [String],
    /// The upper end of the y axis; `None`: derived from the data.
    pub top: Option<f64>,
}

impl<'a> Axes<'a> {
    /// Axes for numbers, fitted to the data.
    pub fn new(title: &'a str, x: &'a str, y: &'a str) -> Axes<'a> {
        Axes { title, x, y, ..Axes::default() }
    }

    /// Axes on which y goes up to 100 %.
    pub fn percent(title: &'a str, x: &'a str, y: &'a str) -> Axes<'a> {
        Axes { top: Some(100.0), ..Axes::new(title, x, y) }
    }
}

/// How values are drawn.
#[derive(Clone, Copy, PartialEq)]
pub enum PlotKind {
    /// One line per series, through its points.
    Lines,
    /// Bars from 0; those of all series at the same x are side by side.
    Bars,
}

/// Points, and their name in the legend.
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

impl Series {
    pub fn new(name: impl Into<String>, points: impl IntoIterator<Item = (f64, f64)>) -> Series {
        Series { name: name.into(), points: points.into_iter().collect() }
    }
}

/// The plot as SVG. Values of y must not be negative.
///
/// Errors: a value that is not finite.
pub fn draw(axes: &Axes, kind: PlotKind, series: &[Series]) -> Result<String> {
    let failed =
        |problem: String| Error::file(Path::new(axes.title), format!("the plot cannot be drawn: {problem}"));
    if series.iter().flat_map(|s| &s.points).any(|(x, y)| !(x.is_finite() && y.is_finite())) {
        return Err(failed("a value is not finite".into()));
    }
    let mut svg = String::new();
    plot(&mut svg, axes, kind, series).map_err(|error| failed(error.to_string()))?;
    Ok(svg)
}

/// The smallest and the largest value; infinity and its negative if there is none.
pub fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

/// The label of a number on an axis.
fn tick(value: f64) -> String {
    ((value * 1e6).round() / 1e6).to_string()
}

fn plot(
    svg: &mut String,
    axes: &Axes,
    kind: PlotKind,
    series: &[Series],
) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>> {
    let root = SVGBackend::with_string(svg, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(SIZE.0 - LEGEND);
    let points = || series.iter().flat_map(|s| &s.points);
    let (from, to) = match axes.names.len() {
        0 => range(points().map(|(x, _)| *x)),
        n => (-0.5, n as f64 - 0.5),
    };
    let highest = points().map(|(_, y)| *y).fold(0.0, f64::max) * 1.05;
    let top = axes.top.unwrap_or(if highest > 0.0 { highest } else { 1.0 });
    let mut chart = ChartBuilder::on(&left)
        .caption(axes.title, (FONT, 20))
        .margin(12)
        .x_label_area_size(46)
        .y_label_area_size(64)
        .build_cartesian_2d(if from < to { from..to } else { -0.5..0.5 }, 0.0..top)?;
    let name = |x: &f64| match axes.names {
        [] => tick(*x),
        names if x.fract() == 0.0 => names.get(*x as usize).cloned().unwrap_or_default(),
        _ => String::new(),
    };
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(axes.x).y_desc(axes.y).axis_desc_style((FONT, 16)).label_style((FONT, 14));
    mesh.light_line_style(TRANSPARENT).bold_line_style(BLACK.mix(0.15));
    mesh.x_labels(if axes.names.is_empty() { 11 } else { 2 * axes.names.len() }).x_label_formatter(&name);
    let value = |y: &f64| tick(*y);
    mesh.y_label_formatter(&value);
    if !axes.names.is_empty() {
        mesh.disable_x_mesh();
    }
    mesh.draw()?;
    let width = 0.8 / series.len().max(1) as f64;
    for (i, s) in series.iter().enumerate() {
        let color = COLORS[i % COLORS.len()];
        let shift = -0.4 + i as f64 * width;
        match kind {
            PlotKind::Lines => {
                chart.draw_series(LineSeries::new(s.points.iter().copied(), color.stroke_width(2)))?
            }
            PlotKind::Bars => {
                chart.draw_series(s.points.iter().map(|(x, y)| {
                    Rectangle::new([(x + shift, 0.0), (x + shift + width, *y)], color.filled())
                }))?
            }
        };
        let y = 50 + 22 * i as i32;
        right.draw(&Rectangle::new([(4, y), (20, y + 10)], color.filled()))?;
        let style = (FONT, 15).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        right.draw(&Text::new(s.name.clone(), (26, y + 5), style))?;
    }
    root.present()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_names_axes_and_series() {
        let names = ["first & last".to_owned(), "other".to_owned()];
        let series = |y: f64| Series { name: format!("series {y}"), points: vec![(0.0, y), (1.0, 2.0)] };
        let axes = Axes { title: "A title", x: "the x axis", y: "the y axis", names: &names, top: None };
        for kind in [PlotKind::Lines, PlotKind::Bars] {
            let svg = draw(&axes, kind, &[series(1.0), series(3.0)]).unwrap();
            for part in
                ["A title", "the x axis", "the y axis", "first &amp; last", "other", "series 1", "series 3"]
            {
                assert!(svg.contains(part), "{part} is not in {svg}");
            }
            assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
            // The two series differ in colour; a line is one polyline, a bar one rectangle, and the legend
            // has a rectangle each.
            for color in ["#0072B2", "#D55E00"] {
                let shapes = |tag: &str| {
                    svg.lines().filter(|line| line.starts_with(tag) && line.contains(color)).count()
                };
                let expected = if kind == PlotKind::Lines { (1, 1) } else { (0, 3) };
                assert_eq!((shapes("<polyline"), shapes("<rect")), expected, "{svg}");
            }
        }
        let error = draw(&axes, PlotKind::Lines, &[series(f64::NAN)]).unwrap_err().to_string();
        assert_eq!(error, "A title: the plot cannot be drawn: a value is not finite");
        for points in [vec![], vec![(1.0, 0.0)]] {
            draw(&Axes::default(), PlotKind::Lines, &[Series { name: "nothing".into(), points }]).unwrap();
        }
    }
}
