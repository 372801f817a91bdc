//! Vector drawings that become SVG text or an image, from one description.
//!
//! Plots and diagrams are lists of [`Shape`]s. Colours are roles ([`Paint`]), not values: the SVG carries a style for
//! light and one for dark surroundings and needs nothing from outside; the image is the light one. Same drawing, same bytes.
//!
//! Units: px of the drawing, origin at the top left, `y` down. A text's `y` is its baseline.

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

    pub(crate) fn class(self) -> String {
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

    pub(crate) fn all() -> impl Iterator<Item = Paint> {
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
        crate::svg::document(self)
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

/// Width of a text in px, as the light image draws it; browsers' fonts differ by a few per cent.
pub(crate) fn text_width(text: &str, size: f64) -> f64 {
    f64::from(TextStyle::sans(size as f32, [0; 3]).width(text))
}
