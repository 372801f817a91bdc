//! Vector drawings that become SVG text or an image, from one description.
//!
//! Plots and diagrams are lists of [`Shape`]s. Colours are roles ([`Paint`]), not values: the SVG carries a style for
//! light and one for dark surroundings and needs nothing from outside; the image is the light one. Same drawing, same bytes.
//!
//! Units: px of the drawing, origin at the top left, `y` down. A text's `y` is its baseline.

use std::fmt::Write as _;

use crate::canvas::{Image, Rgb};
use crate::text::TextStyle;

/// What a colour is for. Each has a light and a dark value; series follow Okabe and Ito's colour-blind-safe palette.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    /// Text and axes.
    Ink,
    /// Secondary text.
    Muted,
    /// Grid lines and borders.
    Grid,
    /// The background.
    Surface,
    /// A box on the background.
    Panel,
    /// Data series, by index; the palette repeats after six.
    Series(usize),
    /// Ground truth: pink intervals, magenta masks.
    Truth,
    /// The model's own: green, as in the paper's Fig. 4.
    Prediction,
}

/// Light and dark value of each series.
const SERIES: [(Rgb, Rgb); 6] = [
    ([0, 114, 178], [86, 170, 233]),
    ([213, 94, 0], [240, 140, 70]),
    ([0, 148, 108], [50, 195, 150]),
    ([170, 80, 140], [222, 148, 190]),
    ([190, 130, 0], [236, 178, 60]),
    ([80, 90, 100], [165, 175, 185]),
];

impl Paint {
    /// The colour on a light background.
    pub fn light(self) -> Rgb {
        match self {
            Self::Ink => [31, 36, 43],
            Self::Muted => [101, 109, 118],
            Self::Grid => [222, 226, 231],
            Self::Surface => [255, 255, 255],
            Self::Panel => [244, 246, 249],
            Self::Series(index) => SERIES[index % SERIES.len()].0,
            Self::Truth => [224, 60, 138],
            Self::Prediction => [0, 140, 90],
        }
    }

    /// The colour on a dark background.
    pub fn dark(self) -> Rgb {
        match self {
            Self::Ink => [230, 235, 240],
            Self::Muted => [150, 160, 171],
            Self::Grid => [55, 62, 71],
            Self::Surface => [22, 27, 34],
            Self::Panel => [33, 39, 48],
            Self::Series(index) => SERIES[index % SERIES.len()].1,
            Self::Truth => [255, 105, 175],
            Self::Prediction => [60, 205, 145],
        }
    }

    fn class(self) -> String {
        match self {
            Self::Ink => "ink".into(),
            Self::Muted => "muted".into(),
            Self::Grid => "grid".into(),
            Self::Surface => "surface".into(),
            Self::Panel => "panel".into(),
            Self::Series(index) => format!("series{}", index % SERIES.len()),
            Self::Truth => "truth".into(),
            Self::Prediction => "prediction".into(),
        }
    }

    fn all() -> impl Iterator<Item = Paint> {
        use Paint::{Grid, Ink, Muted, Panel, Prediction, Series, Surface, Truth};
        [Ink, Muted, Grid, Surface, Panel, Truth, Prediction]
            .into_iter()
            .chain((0..SERIES.len()).map(Series))
    }
}

/// Where a text's `x` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// At its left end.
    Start,
    /// At its middle.
    Middle,
    /// At its right end.
    End,
}

/// One thing to draw.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    /// A line through points.
    Line {
        /// At least two.
        points: Vec<(f64, f64)>,
        /// Colour.
        paint: Paint,
        /// Thickness in px.
        width: f64,
        /// In [0, 1].
        opacity: f64,
        /// Length of a dash and of a gap in px.
        dash: Option<f64>,
    },
    /// A filled polygon.
    Polygon {
        /// At least three corners.
        points: Vec<(f64, f64)>,
        /// Colour.
        paint: Paint,
        /// In [0, 1].
        opacity: f64,
    },
    /// A filled rectangle, rounded when `radius` is not 0.
    Rect {
        /// Left.
        x: f64,
        /// Top.
        y: f64,
        /// px
        width: f64,
        /// px
        height: f64,
        /// Of the corners in px.
        radius: f64,
        /// Colour and opacity inside.
        fill: Option<(Paint, f64)>,
        /// Colour and thickness of the border.
        stroke: Option<(Paint, f64)>,
    },
    /// One line of text.
    Text {
        /// See [`Anchor`].
        x: f64,
        /// Baseline.
        y: f64,
        /// The line.
        text: String,
        /// px
        size: f64,
        /// Colour.
        paint: Paint,
        /// What `x` means.
        anchor: Anchor,
        /// Heavier strokes.
        bold: bool,
    },
}

/// Shapes on a background, later ones above earlier ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Drawing {
    /// px
    pub width: f64,
    /// px
    pub height: f64,
    /// What it shows, for readers that cannot see it.
    pub description: String,
    /// In drawing order.
    pub shapes: Vec<Shape>,
}

impl Drawing {
    /// An empty drawing.
    pub fn new(width: f64, height: f64, description: impl Into<String>) -> Self {
        Self {
            width,
            height,
            description: description.into(),
            shapes: Vec::new(),
        }
    }

    /// Adds a line.
    pub fn line(&mut self, points: Vec<(f64, f64)>, paint: Paint, width: f64) {
        self.shapes.push(Shape::Line {
            points,
            paint,
            width,
            opacity: 1.0,
            dash: None,
        });
    }

    /// Adds a text.
    pub fn text(
        &mut self,
        (x, y): (f64, f64),
        text: impl Into<String>,
        size: f64,
        paint: Paint,
        anchor: Anchor,
    ) {
        self.push_text((x, y), text.into(), size, paint, anchor, false);
    }

    /// Adds a text with heavier strokes.
    pub fn bold_text(
        &mut self,
        (x, y): (f64, f64),
        text: impl Into<String>,
        size: f64,
        paint: Paint,
        anchor: Anchor,
    ) {
        self.push_text((x, y), text.into(), size, paint, anchor, true);
    }

    fn push_text(
        &mut self,
        (x, y): (f64, f64),
        text: String,
        size: f64,
        paint: Paint,
        anchor: Anchor,
        bold: bool,
    ) {
        self.shapes.push(Shape::Text {
            x,
            y,
            text,
            size,
            paint,
            anchor,
            bold,
        });
    }

    /// A whole SVG document. It follows the reader's light or dark preference and has no background of its own.
    pub fn svg(&self) -> String {
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\" role=\"img\" \
             font-family=\"system-ui, -apple-system, 'Segoe UI', Ubuntu, 'Helvetica Neue', Arial, sans-serif\">\n",
            w = number(self.width),
            h = number(self.height)
        );
        let _ = writeln!(svg, "<title>{}</title>", escape(&self.description));
        let _ = writeln!(svg, "<style>{}</style>", dark_style());
        for shape in &self.shapes {
            push_shape(&mut svg, shape);
        }
        svg.push_str("</svg>\n");
        svg
    }

    /// The light version as an image, `scale` times as large, on its [`Paint::Surface`].
    pub fn image(&self, scale: f64) -> Image {
        let px = |side: f64| (side * scale).round().max(1.0) as u32;
        let mut image = Image::new(px(self.width), px(self.height), Paint::Surface.light());
        for shape in &self.shapes {
            crate::raster::draw(&mut image, shape, scale);
        }
        image
    }
}

/// `&`, `<`, `>` and quotes as entities.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// `#rrggbb`
pub(crate) fn hex(color: Rgb) -> String {
    format!("#{:02x}{:02x}{:02x}", color[0], color[1], color[2])
}

/// At most two decimals, without trailing zeros: the same text on every machine.
pub(crate) fn number(value: f64) -> String {
    let text = format!("{value:.2}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" {
        "0".into()
    } else {
        text.into()
    }
}

/// Width of a text in px, as the light image draws it; browsers' fonts differ by a few per cent.
pub(crate) fn text_width(text: &str, size: f64) -> f64 {
    f64::from(TextStyle::sans(size as f32, [0; 3]).width(text))
}

fn dark_style() -> String {
    let mut style = String::from("@media (prefers-color-scheme: dark) {");
    for paint in Paint::all() {
        let (class, color) = (paint.class(), hex(paint.dark()));
        let _ = write!(
            style,
            ".f-{class}{{fill:{color}}}.s-{class}{{stroke:{color}}}"
        );
    }
    style.push('}');
    style
}

fn push_shape(svg: &mut String, shape: &Shape) {
    let _ = match shape {
        Shape::Line {
            points,
            paint,
            width,
            opacity,
            dash,
        } => {
            let dash = dash.map_or(String::new(), |dash| {
                format!(" stroke-dasharray=\"{} {}\"", number(dash), number(dash))
            });
            let opacity = attribute("stroke-opacity", *opacity);
            writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" class=\"s-{}\" stroke=\"{}\" stroke-width=\"{}\" \
                 stroke-linejoin=\"round\" stroke-linecap=\"round\"{opacity}{dash}/>",
                join_points(points),
                paint.class(),
                hex(paint.light()),
                number(*width)
            )
        }
        Shape::Polygon {
            points,
            paint,
            opacity,
        } => writeln!(
            svg,
            "<polygon points=\"{}\" class=\"f-{}\" fill=\"{}\"{}/>",
            join_points(points),
            paint.class(),
            hex(paint.light()),
            attribute("fill-opacity", *opacity)
        ),
        Shape::Rect {
            x,
            y,
            width,
            height,
            radius,
            fill,
            stroke,
        } => {
            let mut classes = Vec::new();
            let mut paints = String::new();
            match fill {
                Some((paint, opacity)) => {
                    classes.push(format!("f-{}", paint.class()));
                    let _ = write!(
                        paints,
                        " fill=\"{}\"{}",
                        hex(paint.light()),
                        attribute("fill-opacity", *opacity)
                    );
                }
                None => paints.push_str(" fill=\"none\""),
            }
            if let Some((paint, thickness)) = stroke {
                classes.push(format!("s-{}", paint.class()));
                let _ = write!(
                    paints,
                    " stroke=\"{}\" stroke-width=\"{}\"",
                    hex(paint.light()),
                    number(*thickness)
                );
            }
            let radius = if *radius > 0.0 {
                format!(" rx=\"{}\"", number(*radius))
            } else {
                String::new()
            };
            writeln!(
                svg,
                "<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"{radius} class=\"{}\"{paints}/>",
                number(*x),
                number(*y),
                number(*width),
                number(*height),
                classes.join(" ")
            )
        }
        Shape::Text {
            x,
            y,
            text,
            size,
            paint,
            anchor,
            bold,
        } => {
            let anchor = match anchor {
                Anchor::Start => "",
                Anchor::Middle => " text-anchor=\"middle\"",
                Anchor::End => " text-anchor=\"end\"",
            };
            let weight = if *bold { " font-weight=\"600\"" } else { "" };
            writeln!(
                svg,
                "<text x=\"{}\" y=\"{}\" font-size=\"{}\" class=\"f-{}\" fill=\"{}\"{anchor}{weight}>{}</text>",
                number(*x),
                number(*y),
                number(*size),
                paint.class(),
                hex(paint.light()),
                escape(text)
            )
        }
    };
}

fn attribute(name: &str, opacity: f64) -> String {
    if opacity >= 1.0 {
        String::new()
    } else {
        format!(" {name}=\"{}\"", number(opacity))
    }
}

fn join_points(points: &[(f64, f64)]) -> String {
    let points: Vec<String> = points
        .iter()
        .map(|(x, y)| format!("{},{}", number(*x), number(*y)))
        .collect();
    points.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let mut drawing = Drawing::new(40.0, 20.0, "a < b & c");
        drawing.text((1.0, 2.0), "\"<SEG>\"", 10.0, Paint::Ink, Anchor::Start);
        let svg = drawing.svg();
        assert!(svg.contains("<title>a &lt; b &amp; c</title>"));
        assert!(svg.contains("&quot;&lt;SEG&gt;&quot;"));
    }

    #[test]
    fn numbers_are_short_and_never_minus_zero() {
        let shown: Vec<String> = [1.0, 0.5, -0.001, 12.346, 100.0].map(number).into();
        assert_eq!(shown, ["1", "0.5", "0", "12.35", "100"]);
    }

    #[test]
    fn every_paint_of_a_drawing_has_a_dark_rule() {
        let style = dark_style();
        for paint in Paint::all() {
            assert!(
                style.contains(&format!(".f-{}{{", paint.class())),
                "{paint:?}"
            );
        }
    }

    #[test]
    fn a_small_drawing_as_svg() {
        let mut drawing = Drawing::new(100.0, 50.0, "a line under a box");
        drawing.shapes.push(Shape::Rect {
            x: 10.0,
            y: 5.0,
            width: 30.0,
            height: 20.25,
            radius: 4.0,
            fill: Some((Paint::Panel, 1.0)),
            stroke: Some((Paint::Grid, 1.5)),
        });
        drawing.line(vec![(0.0, 40.0), (99.5, 41.125)], Paint::Series(1), 2.0);
        drawing.text((50.0, 20.0), "box", 12.0, Paint::Ink, Anchor::Middle);
        let svg = drawing.svg();
        let body: Vec<&str> = svg
            .lines()
            .filter(|line| !line.starts_with("<style>"))
            .collect();
        insta::assert_snapshot!(body.join("\n"));
    }
}
