//! Results for readers: plots, and the page of an evaluation. Data goes in, text comes out; nothing here runs
//! a network.

pub mod histogram;
pub mod picture;
pub mod plot;

use std::path::Path;

use minijinja::value::{Serde, Value};
use minijinja::{Environment, context};
use serde::Serialize;

use crate::error::{Error, Result};
use histogram::{draw_margins, histograms};
use picture::Picture;
use plot::{Axes, Layout, PlotKind, Series, draw_as};

/// The distance from grey of the most perturbed pixel in the pictures of perturbations.
const CONTRAST: f32 = 0.5;

/// The page of an evaluation. Accuracies are in percent.
#[derive(Clone, Debug, Default, Serialize)]
pub struct EvalPage {
    pub title: String,
    /// The result in one sentence.
    pub result: String,
    /// The subject and the settings of the evaluation, and where the result comes from: name and value.
    pub facts: Vec<(String, String)>,
    /// Doubts about the evaluation.
    pub warnings: Vec<String>,
    /// The accuracy left after each attack, clean first.
    pub path: Vec<AttackAccuracy>,
    /// The accuracy under an attack at several radii.
    pub curve: Vec<CurvePoint>,
    /// How the curve was measured, in a sentence.
    pub curve_note: String,
    /// The margins of all images, clean and attacked.
    #[serde(skip)]
    pub margins_before: Vec<f32>,
    #[serde(skip)]
    pub margins_after: Vec<f32>,
    /// The number of images that withstood every attack and come without a perturbed image.
    pub unperturbed: usize,
    #[serde(skip)]
    pub grid: Vec<Example>,
    pub per_class: Vec<ClassAccuracy>,
}

/// The accuracy under an attack.
#[derive(Clone, Debug, Serialize)]
pub struct AttackAccuracy {
    /// `clean`, or the attack.
    pub attack: String,
    /// The same with all parameters that are not the default.
    pub about: String,
    /// The accuracy that tables show, in percent: of a single attack `adv_acc`, in a protocol `robust_acc`.
    pub accuracy: f64,
    /// Images that are right on the attack's images, in percent of all; in a protocol, whose attacks do not
    /// attack every image, there is none.
    pub adv_acc: Option<f64>,
    /// Images that are right when clean and withstand the attack, in a protocol also all attacks before it,
    /// in percent of all.
    pub robust_acc: f64,
    pub seconds: f64,
}

/// The accuracy under an attack of one radius.
#[derive(Clone, Debug, Serialize)]
pub struct CurvePoint {
    pub eps: f64,
    /// The radius as it was written: `8/255`.
    pub label: String,
    pub accuracy: f64,
}

/// An image before and after the attack, `[H,W,C]` in `[0,1]`, with its label and predictions.
#[derive(Clone, Debug, Serialize)]
pub struct Example {
    pub height: usize,
    pub width: usize,
    pub channels: usize,
    #[serde(skip)]
    pub clean: Vec<f32>,
    #[serde(skip)]
    pub adversarial: Vec<f32>,
    pub label: String,
    pub predicted_clean: String,
    pub predicted_adversarial: String,
}

/// The accuracy on the images of a class.
#[derive(Clone, Debug, Serialize)]
pub struct ClassAccuracy {
    pub name: String,
    pub clean: f64,
    pub robust: f64,
    /// The number of its images.
    pub count: usize,
}

impl EvalPage {
    /// The page as HTML that needs no other file, no network and no script.
    ///
    /// Errors: a number that is not finite; an image whose pixels do not fill its shape.
    pub fn to_html(&self) -> Result<String> {
        let factor = amplification(&self.grid);
        let examples = self.grid.iter().map(|example| example.context(factor)).collect::<Result<Vec<_>>>()?;
        let margins = histograms(&[&self.margins_before, &self.margins_after])?;
        let page = context! {
            path_plot => both_layouts(|layout| self.path_plot(layout))?,
            curve_plot => both_layouts(|layout| self.curve_plot(layout))?,
            margin_plot => both_layouts(|layout| draw_margins(layout, &["clean", "attacked"], &margins))?,
            examples,
            factor => factor as u32,
            ..Value::from(Serde(self))
        };
        let html = Environment::new().render_named_str("eval.html", include_str!("eval.html"), page);
        html.map_err(|error| {
            Error::file(Path::new("eval.html"), format!("the page cannot be rendered: {error}"))
        })
    }

    fn path_plot(&self, layout: Layout) -> Result<String> {
        let names: Vec<String> = self.path.iter().map(|stage| stage.attack.clone()).collect();
        let points = (0..).zip(&self.path).map(|(i, stage)| (f64::from(i), stage.accuracy));
        let axes =
            Axes { names: &names, ..Axes::percent("Attack by attack", "after", "robust accuracy (%)") };
        draw_as(layout, &axes, PlotKind::Bars, &[Series::new("robust", points)])
    }

    fn curve_plot(&self, layout: Layout) -> Result<String> {
        let x_labels: Vec<_> = self.curve.iter().map(|point| (point.eps, point.label.clone())).collect();
        let axes =
            Axes { x_labels: &x_labels, ..Axes::percent("Accuracy against eps", "eps", "accuracy (%)") };
        let points = self.curve.iter().map(|point| (point.eps, point.accuracy));
        draw_as(layout, &axes, PlotKind::Lines, &[Series::new("under attack", points)])
    }
}

impl Example {
    fn perturbation(&self) -> impl Iterator<Item = f32> {
        self.adversarial.iter().zip(&self.clean).map(|(adversarial, clean)| adversarial - clean)
    }

    /// Its values in the template.
    fn context(&self, factor: f32) -> Result<Value> {
        let uri = |pixels: &[f32]| {
            Picture { height: self.height, width: self.width, channels: self.channels, pixels }.data_uri()
        };
        let perturbation: Vec<f32> = self.perturbation().map(|d| 0.5 + factor * d).collect();
        Ok(context! {
            clean => uri(&self.clean)?,
            perturbation => uri(&perturbation)?,
            adversarial => uri(&self.adversarial)?,
            ..Value::from(Serde(self))
        })
    }
}

/// The whole number by which the pictures amplify perturbations: the largest becomes clearly visible, none is
/// clipped.
fn amplification(grid: &[Example]) -> f32 {
    let largest = grid.iter().flat_map(Example::perturbation).fold(0.0, |most, d| f32::max(most, d.abs()));
    if largest > 0.0 { (CONTRAST / largest).floor().max(1.0) } else { 1.0 }
}

/// The plot for wide and for narrow screens; the page shows one of them. Inside of a page SVG needs no name
/// space.
fn both_layouts(plot: impl Fn(Layout) -> Result<String>) -> Result<String> {
    let inline = |layout, class: &str| {
        let svg = plot(layout)?.replace(" xmlns=\"http://www.w3.org/2000/svg\"", "");
        Ok(format!("<div class=\"{class}\">{svg}</div>"))
    };
    Ok(inline(Layout::Wide, "wide")? + &inline(Layout::Narrow, "narrow")?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::prelude::{BASE64_STANDARD, Engine};

    /// A page with something in every section.
    fn page() -> EvalPage {
        let stage = |attack: &str, accuracy| AttackAccuracy {
            adv_acc: None,
            robust_acc: accuracy,
            attack: attack.into(),
            about: attack.into(),
            accuracy,
            seconds: 1.25,
        };
        let example = |adversarial: f32, after: &str| Example {
            height: 2,
            width: 2,
            channels: 1,
            clean: vec![0.5; 4],
            adversarial: vec![adversarial; 4],
            label: "seven".into(),
            predicted_clean: "seven".into(),
            predicted_adversarial: after.into(),
        };
        EvalPage {
            title: "A <net> & its attacks".into(),
            result: "48.25 % robust: 193 of 400 images".into(),
            facts: vec![("eps".into(), "8/255".into())],
            warnings: vec!["a gradient of \"zero\"".into()],
            path: vec![stage("clean", 90.0), stage("apgd-ce", 51.5), stage("square", 48.25)],
            curve: [(0, 90.0), (4, 70.0), (8, 51.5)]
                .map(|(k, accuracy)| CurvePoint {
                    eps: f64::from(k) / 255.0,
                    label: format!("{k}/255"),
                    accuracy,
                })
                .into(),
            curve_note: "Under apgd-ce alone.".into(),
            margins_before: vec![1.0, 2.0, -0.5],
            margins_after: vec![-1.0, 0.5, -2.0],
            unperturbed: 0,
            grid: vec![example(0.52, "one"), example(0.46, "seven")],
            per_class: vec![ClassAccuracy { name: "seven".into(), clean: 95.0, robust: 40.125, count: 12 }],
        }
    }

    #[test]
    fn the_page_shows_everything_and_loads_nothing() {
        let html = page().to_html().unwrap();
        for section in ["warnings", "path", "curve", "margins", "examples", "classes"] {
            assert!(html.contains(&format!("<h2 id=\"{section}\">")), "{section}");
        }
        for text in [
            "<h1>A &lt;net&gt; &amp; its attacks</h1>",
            "<th scope=\"row\">eps</th><td>8&#x2f;255</td>",
            "a gradient of &quot;zero&quot;",
            "<td>apgd-ce</td><td class=\"number\">51.50</td><td class=\"number\">1.2</td>",
            "<p class=\"result\">48.25 % robust: 193 of 400 images</p>",
            "<td class=\"number\">4&#x2f;255</td><td class=\"number\">70.00</td>",
            ">\n4/255\n</text>",
            "is that of the image that the last attack left",
            "<td>seven</td><td class=\"number\">95.00</td><td class=\"number\">40.12</td>\
             <td class=\"number\">12</td>",
            "<span class=\"wrong\">one</span>",
            "amplified 12 times",
            "prefers-color-scheme: dark",
        ] {
            assert!(html.contains(text), "{text} is not in:\n{html}");
        }
        for load in ["http:", "https:", "<script", "<link", "@import", "url(", "src=\"/"] {
            assert!(!html.contains(load), "{load}");
        }
        assert_eq!((html.matches("<svg").count(), html.matches("</svg>").count()), (6, 6));
        assert!(!html.contains("left unperturbed"), "every image has a perturbed one");
        let html = EvalPage { unperturbed: 3, ..page() }.to_html().unwrap();
        assert!(html.contains("(3 of them have none and are counted clean)"), "{html}");
    }

    #[test]
    fn the_page_fits_a_phone() {
        let html = page().to_html().unwrap();
        for rule in [
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">",
            "overflow-wrap: anywhere",
            "@media (max-width: 48rem)",
        ] {
            assert!(html.contains(rule), "{rule}");
        }
        assert!(!html.contains(".plot svg { max-width"), "text in a plot keeps its size");
        let narrow = |part: &str| part.starts_with("<svg width=\"330\"");
        assert_eq!(html.split("<div class=\"narrow\">").skip(1).filter(|part| narrow(part)).count(), 3);
    }

    #[test]
    fn images_and_perturbations_are_valid_png() {
        let html = page().to_html().unwrap();
        let greys: Vec<u8> = html
            .split("src=\"data:image/png;base64,")
            .skip(1)
            .map(|rest| {
                let file = BASE64_STANDARD.decode(rest.split('"').next().unwrap()).unwrap();
                let mut reader = png::Decoder::new(std::io::Cursor::new(file)).read_info().unwrap();
                let mut pixels = vec![0; 4];
                let info = reader.next_frame(&mut pixels).unwrap();
                assert_eq!((info.width, info.height, info.color_type), (2, 2, png::ColorType::Grayscale));
                assert!(pixels.iter().all(|pixel| *pixel == pixels[0]));
                pixels[0]
            })
            .collect();
        // Clean, perturbation and perturbed image of both examples; 12 is the largest factor that keeps 0.04
        // within 0.5.
        assert_eq!(greys, [128, 189, 133, 128, 5, 117]);
        assert_eq!(amplification(&[]), 1.0);
    }

    #[test]
    fn what_is_missing_is_left_out_and_what_is_wrong_refused() {
        let html = EvalPage { margins_before: vec![1.0], ..EvalPage::default() }.to_html().unwrap();
        for section in ["warnings", "path", "curve", "examples"] {
            assert!(!html.contains(&format!("<h2 id=\"{section}\">")), "{section}");
        }
        let mut wrong = page();
        wrong.grid[0].clean.pop();
        assert_eq!(wrong.to_html().unwrap_err().to_string(), "picture: 3 numbers for 2x2x1 pixels");
        let wrong = EvalPage { margins_after: vec![f32::NAN], ..page() };
        assert!(wrong.to_html().unwrap_err().to_string().ends_with("logits are not all finite numbers"));
    }
}
