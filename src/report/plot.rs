//! Plots as SVG: lines or bars, with labelled axes and a legend beside them.

use std::ops::Range;
use std::path::Path;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::{Error, Result};

/// The form of a plot: for a desk and for a phone. Both have text of a size to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Wide,
    Narrow,
}

impl Layout {
    /// Width and height in pixels.
    const fn size(self) -> (u32, u32) {
        match self {
            Layout::Wide => (760, 420),
            Layout::Narrow => (330, 300),
        }
    }

    /// The sizes of the title, of the axes' names, and of labels, in plotters' measure: a pixel is 1.24.
    const fn fonts(self) -> [u32; 3] {
        match self {
            Layout::Wide => [24, 19, 17],
            Layout::Narrow => [20, 16, 15],
        }
    }

    /// The most labels of an axis of numbers.
    const fn labels(self) -> usize {
        match self {
            Layout::Wide => 10,
            Layout::Narrow => 5,
        }
    }
}

/// Colours that are distinct in all kinds of colour vision (Okabe and Ito).
const COLORS: [RGBColor; 4] =
    [RGBColor(0, 114, 178), RGBColor(213, 94, 0), RGBColor(0, 158, 115), RGBColor(204, 121, 167)];

/// The smallest letters.
const SMALLEST: u32 = 12;

const FONT: &str = "sans-serif";

/// Title and axes of a plot.
#[derive(Clone, Copy, Default)]
pub struct Axes<'a> {
    pub title: &'a str,
    pub x: &'a str,
    pub y: &'a str,
    /// The names of x = 0, 1, ..; empty: x is a number.
    pub names: &'a [String],
    /// Values of x and their labels; empty: round numbers.
    pub x_labels: &'a [(f64, String)],
    /// The upper end of the y axis; `None`: derived from the data.
    pub top: Option<f64>,
    /// Whether y counts, so that only whole numbers have labels.
    pub counts: bool,
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

/// The plot as SVG, for a desk. Values of y must not be negative.
///
/// Errors: a value that is not finite.
pub fn draw(axes: &Axes, kind: PlotKind, series: &[Series]) -> Result<String> {
    draw_as(Layout::Wide, axes, kind, series)
}

/// [`draw`] in any layout.
pub fn draw_as(layout: Layout, axes: &Axes, kind: PlotKind, series: &[Series]) -> Result<String> {
    let failed =
        |problem: String| Error::file(Path::new(axes.title), format!("the plot cannot be drawn: {problem}"));
    if series.iter().flat_map(|s| &s.points).any(|(x, y)| !(x.is_finite() && y.is_finite())) {
        return Err(failed("a value is not finite".into()));
    }
    let mut svg = String::new();
    plot(&mut svg, layout, axes, kind, series).map_err(|error| failed(error.to_string()))?;
    Ok(svg)
}

/// The smallest and the largest value; infinity and its negative if there is none.
pub fn range(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
}

/// Round numbers from `from` to `to` and their labels, at most about `most`; whole ones where `whole`.
fn round_labels(from: f64, to: f64, most: usize, whole: bool) -> Vec<(f64, String)> {
    let raw = (to - from) / most as f64;
    let power = 10f64.powi(raw.log10().floor() as i32);
    let step = [1.0, 2.0, 5.0].into_iter().map(|digit| digit * power).find(|step| *step >= raw);
    let step = step.unwrap_or(10.0 * power).max(if whole { 1.0 } else { 0.0 });
    let digits = (-(step.log10() + 1e-9).floor()).max(0.0) as usize;
    // From whole multiples, so that 0 is 0 and not -0.
    let multiples = (from / step).ceil() as i64..=(to / step).floor() as i64;
    let label = |i: i64| (i as f64 * step, format!("{:.digits$}", i as f64 * step));
    multiples.map(label).collect()
}

/// The labels that do not overlap the one before on an axis of this length.
fn apart(labels: Vec<(f64, String)>, (from, to): (f64, f64), length: u32, font: u32) -> Vec<(f64, String)> {
    let mut end = f64::NEG_INFINITY;
    let fits = |(at, label): &(f64, String)| {
        let (place, width) = ((at - from) / (to - from) * f64::from(length), text_width(label, font));
        let fits = place - f64::from(width) / 2.0 > end;
        if fits {
            end = place + f64::from(width) / 2.0 + 6.0;
        }
        fits
    };
    labels.into_iter().filter(fits).collect()
}

/// An axis with labels at given values.
struct LabelledAxis {
    from: f64,
    to: f64,
    labels: Vec<(f64, String)>,
}

impl Ranged for LabelledAxis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (low, high): (i32, i32)) -> i32 {
        let part = (value - self.from) / (self.to - self.from);
        low + (part * f64::from(high - low)).round() as i32
    }

    fn key_points<H: KeyPointHint>(&self, _: H) -> Vec<f64> {
        self.labels.iter().map(|(at, _)| *at).collect()
    }

    fn range(&self) -> Range<f64> {
        self.from..self.to
    }
}

impl ValueFormatter<f64> for LabelledAxis {
    fn format_ext(&self, value: &f64) -> String {
        let label = self.labels.iter().find(|(at, _)| at == value);
        label.map(|(_, label)| label.clone()).unwrap_or_default()
    }
}

/// About how many pixels a text is wide, in a sans-serif font of this size.
fn text_width(text: &str, font: u32) -> u32 {
    text.chars().count() as u32 * font * 4 / 9
}

/// The place of each name in a legend of this width, and its number of lines.
fn legend(series: &[Series], width: u32, font: u32) -> (Vec<(i32, i32)>, i32) {
    let (mut places, mut x, mut line) = (Vec::new(), 0, 0);
    for s in series {
        let length = 26 + text_width(&s.name, font) as i32;
        if x > 0 && x + length > width as i32 {
            (x, line) = (0, line + 1);
        }
        places.push((x, line));
        x += length + 12;
    }
    (places, line + 1)
}

fn plot(
    svg: &mut String,
    layout: Layout,
    axes: &Axes,
    kind: PlotKind,
    series: &[Series],
) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'static> as DrawingBackend>::ErrorType>> {
    let ((width, height), [title, name, label]) = (layout.size(), layout.fonts());
    let root = SVGBackend::with_string(svg, (width, height)).into_drawing_area();
    root.fill(&WHITE)?;
    root.draw(&Text::new(axes.title, (12, 10), (FONT, title).into_font()))?;
    let mut below = 16 + title as i32;
    // One series needs no name besides the axis.
    if series.len() > 1 {
        let (places, lines) = legend(series, width - 24, label);
        let row = label as i32 + 6;
        for ((s, (x, line)), color) in series.iter().zip(places).zip(COLORS.iter().cycle()) {
            let (x, y) = (12 + x, below + 4 + line * row);
            root.draw(&Rectangle::new([(x, y), (x + 16, y + 10)], color.filled()))?;
            let style = (FONT, label).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
            root.draw(&Text::new(s.name.clone(), (x + 22, y + 5), style))?;
        }
        below += lines * row + 4;
    }
    let (_, area) = root.split_vertically(below);
    let points = || series.iter().flat_map(|s| &s.points);
    let (from, to) = match axes.names.len() {
        0 => range(points().map(|(x, _)| *x)),
        n => (-0.5, n as f64 - 0.5),
    };
    let (from, to) = if from < to { (from, to) } else { (-0.5, 0.5) };
    let highest = points().map(|(_, y)| *y).fold(0.0, f64::max) * 1.05;
    let top = axes.top.unwrap_or(if highest > 0.0 { highest } else { 1.0 });
    let x_labels: Vec<(f64, String)> = match (axes.names, axes.x_labels) {
        ([], []) => round_labels(from, to, layout.labels(), false),
        ([], labels) => labels.to_vec(),
        (names, _) => names.iter().enumerate().map(|(i, name)| (i as f64, name.clone())).collect(),
    };
    // Labels that would overlap are left out; the last one has half of its width beyond the axis.
    let last = x_labels.last().map_or(0, |(_, label_text)| text_width(label_text, label)) / 2 + 8;
    let length = width.saturating_sub(16 + name + 3 * label + last);
    let x_labels = if axes.names.is_empty() { apart(x_labels, (from, to), length, label) } else { x_labels };
    let y_labels = round_labels(0.0, top, layout.labels().min(8), axes.counts);
    let mut chart = ChartBuilder::on(&area)
        .margin(8)
        .margin_right(last)
        .x_label_area_size(2 * name + 12)
        .y_label_area_size(name + 3 * label)
        .build_cartesian_2d(
            LabelledAxis { from, to, labels: x_labels },
            LabelledAxis { from: 0.0, to: top, labels: y_labels },
        )?;
    // Long names get smaller letters, so that they do not overlap.
    let longest = axes.names.iter().map(|name| text_width(name, label)).max().unwrap_or(0).max(1);
    let room = chart.plotting_area().dim_in_pixel().0 / axes.names.len().max(1) as u32;
    let x_font = (label * room / longest).clamp(SMALLEST, label);
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(axes.x).y_desc(axes.y).axis_desc_style((FONT, name)).label_style((FONT, label));
    mesh.x_label_style((FONT, x_font));
    mesh.light_line_style(TRANSPARENT).bold_line_style(BLACK.mix(0.15));
    if !axes.names.is_empty() {
        mesh.disable_x_mesh();
    }
    mesh.draw()?;
    let width = 0.8 / series.len().max(1) as f64;
    for (i, (s, color)) in series.iter().zip(COLORS.iter().cycle()).enumerate() {
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
        let axes = Axes { names: &names, ..Axes::new("A title", "the x axis", "the y axis") };
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
        let alone = draw(&axes, PlotKind::Lines, &[series(1.0)]).unwrap();
        assert!(!alone.contains("series 1"), "one series needs no legend: {alone}");
        let error = draw(&axes, PlotKind::Lines, &[series(f64::NAN)]).unwrap_err().to_string();
        assert_eq!(error, "A title: the plot cannot be drawn: a value is not finite");
        for points in [vec![], vec![(1.0, 0.0)]] {
            draw(&Axes::default(), PlotKind::Lines, &[Series { name: "nothing".into(), points }]).unwrap();
        }
    }

    /// The texts of a plot, with the font size of each and the right end that it has about.
    fn texts(svg: &str) -> Vec<(String, f64, f64)> {
        let field = |tag: &str, name: &str| -> f64 {
            let value = tag.split(&format!("{name}=\"")).nth(1).unwrap().split('"').next().unwrap();
            value.parse().unwrap()
        };
        let text = |part: &str| {
            let (tag, rest) = part.split_once('>').unwrap();
            let text = rest.split('<').next().unwrap().trim().to_owned();
            let (size, x) = (field(tag, "font-size"), field(tag, "x"));
            let length = text.chars().count() as f64 * size * 0.55;
            let part = if tag.contains("text-anchor=\"middle\"") { 0.5 } else { 1.0 };
            let end = if tag.contains("text-anchor=\"end\"") || tag.contains("rotate") { 0.0 } else { part };
            (text, size, x + end * length)
        };
        svg.split("<text ").skip(1).map(text).collect()
    }

    #[test]
    fn labels_are_round_and_counts_whole() {
        let labels = |from, to, whole| {
            round_labels(from, to, 8, whole).into_iter().map(|(_, label)| label).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(labels(0.0, 3.7, true), "0 1 2 3");
        assert_eq!(labels(0.0, 100.0, false), "0 20 40 60 80 100");
        assert_eq!(labels(-2.6, 2.6, false), "-2 -1 0 1 2");
        assert_eq!(labels(-0.25, 0.1, false), "-0.25 -0.20 -0.15 -0.10 -0.05 0.00 0.05 0.10");
        let points = [(-3.0, 0.0), (0.0, 3.0), (4.0, 1.0)];
        let axes = Axes { counts: true, ..Axes::new("Counts", "margin", "images") };
        let svg = draw(&axes, PlotKind::Lines, &[Series::new("all", points)]).unwrap();
        let numbers: Vec<String> = texts(&svg).into_iter().map(|(text, ..)| text).collect();
        assert_eq!(numbers.iter().filter(|text| text.contains("-0") || text.contains('.')).count(), 0);
        for label in ["0", "1", "2", "3", "-3", "4"] {
            assert!(numbers.iter().any(|text| text == label), "{label} is not in {numbers:?}");
        }
    }

    #[test]
    fn labels_are_as_they_are_given() {
        let labels: Vec<(f64, String)> = (0..3).map(|i| (f64::from(i) / 255.0, format!("{i}/255"))).collect();
        let axes = Axes { x_labels: &labels, ..Axes::percent("Accuracy", "eps", "accuracy (%)") };
        let points = labels.iter().map(|(at, _)| (*at, 50.0));
        let svg = draw(&axes, PlotKind::Lines, &[Series::new("all", points)]).unwrap();
        let texts = texts(&svg);
        for (_, label) in &labels {
            assert!(texts.iter().any(|(text, ..)| text == label), "{label} is not in {texts:?}");
        }
        let kept = |length| {
            let kept = apart(labels.clone(), (0.0, 2.0 / 255.0), length, 15).into_iter();
            kept.map(|(_, label)| label).collect::<Vec<_>>().join(" ")
        };
        assert_eq!((kept(200).as_str(), kept(60).as_str()), ("0/255 1/255 2/255", "0/255 2/255"));
    }

    #[test]
    fn a_plot_for_a_phone_has_text_to_read() {
        let names = ["clean", "apgd-ce", "apgd-t", "fab-t", "square"].map(str::to_owned);
        let axes =
            Axes { names: &names, ..Axes::percent("Attack by attack", "after", "robust accuracy (%)") };
        let bars = |name: &str| Series::new(name, (0..5).map(|i| (f64::from(i), 90.0)));
        let series = ["clean", "a name of some length", "another name of some length"].map(bars);
        for (layout, width) in [(Layout::Narrow, 330.0), (Layout::Wide, 760.0)] {
            let svg = draw_as(layout, &axes, PlotKind::Bars, &series).unwrap();
            assert!(svg.starts_with(&format!("<svg width=\"{width}\"")), "{}", &svg[..60]);
            for (text, size, end) in texts(&svg) {
                assert!(size >= 12.0 && end <= width, "{layout:?}: {text}, {size} px, ends at {end}");
            }
        }
    }
}
