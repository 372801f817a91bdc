//! Text in pictures with a font that travels inside the program.
//!
//! Ubuntu Light, which alone is thin, so its strokes are widened by drawing a line several times, a fraction of a pixel
//! apart: twice for plain text, three times for bold. It has no table of kerning pairs.

use std::sync::LazyLock;

use ab_glyph_rasterizer::{Point, Rasterizer, point};
use skrifa::{
    FontRef, GlyphId, MetadataProvider as _, OutlineGlyphCollection,
    charmap::Charmap,
    instance::{LocationRef, Size},
    metrics::{GlyphMetrics, Metrics},
    outline::{DrawSettings, OutlinePen},
};

use crate::canvas::{Image, Rgb};

/// How a line of text looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextStyle {
    /// Height of the em square in px.
    pub size_px: f32,
    /// Colour of the strokes.
    pub color: Rgb,
    /// Wider strokes.
    pub bold: bool,
}

impl TextStyle {
    /// Ubuntu: the plain choice.
    pub fn sans(size_px: f32, color: Rgb) -> Self {
        Self {
            size_px,
            color,
            bold: false,
        }
    }

    /// The same with wider strokes.
    pub fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    /// Distance from one line to the next in px.
    pub fn line_height(&self) -> f32 {
        (self.size_px * 1.35).round()
    }

    /// Distance from the top of a line box to the baseline in px.
    pub fn baseline(&self) -> f32 {
        let metrics = SANS.metrics(self.size_px);
        (self.line_height() - metrics.ascent + metrics.descent) / 2.0 + metrics.ascent
    }

    /// Width of one line in px.
    pub fn width(&self, line: &str) -> f32 {
        self.glyphs(line).last().map_or(0.0, |last| last.end)
    }

    /// Breaks a text at spaces into lines of at most `max_width` px; a word that is wider alone is cut.
    pub fn wrap(&self, text: &str, max_width: f32) -> Vec<String> {
        let mut lines = Vec::new();
        for paragraph in text.split('\n') {
            let mut line = String::new();
            for word in paragraph.split_whitespace() {
                let longer = if line.is_empty() {
                    word.to_string()
                } else {
                    format!("{line} {word}")
                };
                if self.width(&longer) <= max_width {
                    line = longer;
                    continue;
                }
                if !line.is_empty() {
                    lines.push(std::mem::take(&mut line));
                }
                line = self.cut_word(word, max_width, &mut lines);
            }
            lines.push(line);
        }
        lines
    }

    /// The text, shortened with an ellipsis until it is at most `max_width` px wide.
    pub fn shortened(&self, text: &str, max_width: f32) -> String {
        if self.width(text) <= max_width {
            return text.to_string();
        }
        let mut kept: String = text.to_string();
        while kept.pop().is_some() {
            let candidate = format!("{}…", kept.trim_end());
            if self.width(&candidate) <= max_width {
                return candidate;
            }
        }
        String::new()
    }

    /// Pushes full lines of a word that fits on none; returns what is left of it.
    fn cut_word(&self, word: &str, max_width: f32, lines: &mut Vec<String>) -> String {
        let mut line = String::new();
        for character in word.chars() {
            line.push(character);
            if self.width(&line) > max_width && line.chars().count() > 1 {
                line.pop();
                lines.push(std::mem::take(&mut line));
                line.push(character);
            }
        }
        line
    }

    /// The glyphs of a line and where they stand, in px from its start.
    fn glyphs<'a>(&self, line: &'a str) -> impl Iterator<Item = PlacedGlyph> + use<'a> {
        let face = &*SANS;
        let advances = face.advances(self.size_px);
        let mut end = 0.0;
        line.chars().map(move |character| {
            let id = face.charmap.map(character).unwrap_or(GlyphId::NOTDEF);
            let start = end;
            end += advances.advance_width(id).unwrap_or_default();
            PlacedGlyph { id, start, end }
        })
    }
}

/// One character of a line.
struct PlacedGlyph {
    id: GlyphId,
    /// px
    start: f32,
    /// Where the next one starts, px.
    end: f32,
}

/// Draws one line with the top of its line box at `y`; returns its width in px.
pub(crate) fn draw(image: &mut Image, x: f32, y: f32, line: &str, style: &TextStyle) -> f32 {
    let face = &*SANS;
    let baseline = y + style.baseline();
    let n_strokes = 2 + u8::from(style.bold);
    let mut width = 0.0;
    for glyph in style.glyphs(line) {
        width = glyph.end;
        for stroke in 0..n_strokes {
            let shift = f32::from(stroke) * style.size_px * 0.03;
            let origin = point(x + glyph.start + shift, baseline);
            let outline = face.outline(glyph.id, style.size_px, origin);
            outline.draw(|column, row, coverage| {
                image.blend(column, row, style.color, coverage.clamp(0.0, 1.0));
            });
        }
    }
    width
}

/// A font file, read.
struct Face {
    font: FontRef<'static>,
    charmap: Charmap<'static>,
    outlines: OutlineGlyphCollection<'static>,
}

impl Face {
    fn parsed(bytes: &'static [u8]) -> Self {
        let font = FontRef::new(bytes).expect("the font files are compiled in and parse");
        Self {
            charmap: font.charmap(),
            outlines: font.outline_glyphs(),
            font,
        }
    }

    fn metrics(&self, size_px: f32) -> Metrics {
        self.font
            .metrics(Size::new(size_px), LocationRef::default())
    }

    fn advances(&self, size_px: f32) -> GlyphMetrics<'static> {
        self.font
            .glyph_metrics(Size::new(size_px), LocationRef::default())
    }

    /// A glyph's outline with its origin at `origin`, in px of the picture.
    fn outline(&self, glyph: GlyphId, size_px: f32, origin: Point) -> Outline {
        let mut outline = Outline {
            origin,
            start: origin,
            last: origin,
            curves: Vec::new(),
        };
        if let Some(found) = self.outlines.get(glyph) {
            let settings = DrawSettings::unhinted(Size::new(size_px), LocationRef::default());
            found
                .draw(settings, &mut outline)
                .expect("the outlines of the compiled-in fonts are whole");
        }
        outline
    }
}

/// Lines and curves of a glyph in px of the picture, `y` downwards.
struct Outline {
    origin: Point,
    /// Where the contour began.
    start: Point,
    /// Where the pen is.
    last: Point,
    curves: Vec<Curve>,
}

enum Curve {
    Line([Point; 2]),
    Quadratic([Point; 3]),
    Cubic([Point; 4]),
}

impl Curve {
    fn points(&self) -> &[Point] {
        match self {
            Self::Line(points) => points,
            Self::Quadratic(points) => points,
            Self::Cubic(points) => points,
        }
    }
}

impl Outline {
    fn at(&self, x: f32, y: f32) -> Point {
        point(self.origin.x + x, self.origin.y - y)
    }

    /// Calls `pixel` with column, row and coverage for every pixel of the glyph's box.
    fn draw(&self, mut pixel: impl FnMut(i64, i64, f32)) {
        let points = || self.curves.iter().flat_map(Curve::points);
        let bound =
            |of: fn(&Point) -> f32, pick: fn(f32, f32) -> f32| points().map(of).reduce(pick);
        let (Some(left), Some(top), Some(right), Some(bottom)) = (
            bound(|p| p.x, f32::min),
            bound(|p| p.y, f32::min),
            bound(|p| p.x, f32::max),
            bound(|p| p.y, f32::max),
        ) else {
            return; // a space
        };
        let (left, top) = (left.floor(), top.floor());
        let (width, height) = (right.ceil() - left, bottom.ceil() - top);
        let mut raster = Rasterizer::new(width as usize, height as usize);
        let inside = |p: Point| point(p.x - left, p.y - top);
        for curve in &self.curves {
            match *curve {
                Curve::Line([a, b]) => raster.draw_line(inside(a), inside(b)),
                Curve::Quadratic([a, b, c]) => raster.draw_quad(inside(a), inside(b), inside(c)),
                Curve::Cubic([a, b, c, d]) => {
                    raster.draw_cubic(inside(a), inside(b), inside(c), inside(d));
                }
            }
        }
        raster.for_each_pixel_2d(|column, row, coverage| {
            pixel(
                left as i64 + i64::from(column),
                top as i64 + i64::from(row),
                coverage,
            );
        });
    }
}

impl OutlinePen for Outline {
    fn move_to(&mut self, x: f32, y: f32) {
        self.start = self.at(x, y);
        self.last = self.start;
    }

    fn line_to(&mut self, x: f32, y: f32) {
        let end = self.at(x, y);
        self.curves.push(Curve::Line([self.last, end]));
        self.last = end;
    }

    fn quad_to(&mut self, cx0: f32, cy0: f32, x: f32, y: f32) {
        let (control, end) = (self.at(cx0, cy0), self.at(x, y));
        self.curves
            .push(Curve::Quadratic([self.last, control, end]));
        self.last = end;
    }

    fn curve_to(&mut self, cx0: f32, cy0: f32, cx1: f32, cy1: f32, x: f32, y: f32) {
        let (first, second, end) = (self.at(cx0, cy0), self.at(cx1, cy1), self.at(x, y));
        self.curves
            .push(Curve::Cubic([self.last, first, second, end]));
        self.last = end;
    }

    fn close(&mut self) {
        if self.last != self.start {
            self.curves.push(Curve::Line([self.last, self.start]));
            self.last = self.start;
        }
    }
}

static SANS: LazyLock<Face> = LazyLock::new(|| Face::parsed(epaint_default_fonts::UBUNTU_LIGHT));

#[cfg(test)]
mod tests {
    use super::*;

    fn style() -> TextStyle {
        TextStyle::sans(16.0, [0, 0, 0])
    }

    #[test]
    fn wrapped_lines_fit_and_keep_every_word() {
        let text = "Are there any anomalies in this video, such as red square moving left, blue star or a bicycle?";
        let lines = style().wrap(text, 150.0);
        assert!(lines.len() > 3);
        for line in &lines {
            assert!(style().width(line) <= 150.0, "{line:?} is too wide");
        }
        assert_eq!(lines.join(" "), text);
    }

    #[test]
    fn a_word_wider_than_the_box_is_cut_and_nothing_is_lost() {
        let word = "pneumonoultramicroscopicsilicovolcanoconiosis";
        let lines = style().wrap(word, 60.0);
        assert!(lines.len() > 2);
        assert_eq!(lines.concat(), word);
    }

    #[test]
    fn line_breaks_of_the_text_stay() {
        assert_eq!(style().wrap("one\n\ntwo", 500.0), ["one", "", "two"]);
    }

    #[test]
    fn shortening_stops_at_the_width() {
        let short = style().shortened("a rather long description of an object", 90.0);
        assert!(
            short.ends_with('…') && style().width(&short) <= 90.0,
            "{short:?}"
        );
        assert_eq!(style().shortened("short", 90.0), "short");
        assert_eq!(style().shortened("anything", 0.0), "");
    }

    #[test]
    fn drawn_text_marks_pixels_inside_its_line_box_only() {
        let mut image = Image::new(120, 60, [255, 255, 255]);
        let width = image.text(10.0, 20.0, "Agjy|", &style());
        let dark: Vec<(i64, i64)> = (0..60)
            .flat_map(|y| (0..120).map(move |x| (x, y)))
            .filter(|&(x, y)| image.pixel(x, y).unwrap()[0] < 200)
            .collect();
        assert!(dark.len() > 40, "text leaves marks");
        let line_height = style().line_height() as i64;
        for (x, y) in dark {
            assert!((9..=11 + width as i64).contains(&x) && (20..=20 + line_height).contains(&y));
        }
    }
}
