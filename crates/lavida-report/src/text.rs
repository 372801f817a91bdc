//! Text in pictures with fonts that travel inside the program.
//!
//! Ubuntu Light for prose, Hack for numbers and ids. Ubuntu Light alone is thin, so its strokes are widened by drawing a
//! line several times, a fraction of a pixel apart: twice for plain text, three times for bold.

use std::sync::LazyLock;

use ab_glyph::{Font as _, FontRef, PxScale, PxScaleFont, ScaleFont as _, point};

use crate::canvas::{Image, Rgb};

/// The two typefaces there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Font {
    /// Ubuntu Light, proportional.
    Sans,
    /// Hack, every character equally wide.
    Mono,
}

/// How a line of text looks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TextStyle {
    /// Typeface.
    pub font: Font,
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
            font: Font::Sans,
            size_px,
            color,
            bold: false,
        }
    }

    /// The same with wider strokes.
    pub fn bold(self) -> Self {
        Self { bold: true, ..self }
    }

    /// Hack, for numbers and ids.
    pub fn mono(size_px: f32, color: Rgb) -> Self {
        Self {
            font: Font::Mono,
            size_px,
            color,
            bold: false,
        }
    }

    /// Distance from one line to the next in px.
    pub fn line_height(&self) -> f32 {
        (self.size_px * 1.35).round()
    }

    /// Distance from the top of a line box to the baseline in px.
    pub fn baseline(&self) -> f32 {
        let font = self.scaled_font();
        (self.line_height() - font.ascent() + font.descent()) / 2.0 + font.ascent()
    }

    /// Width of one line in px.
    pub fn width(&self, line: &str) -> f32 {
        let font = self.scaled_font();
        let mut width = 0.0;
        let mut last = None;
        for character in line.chars() {
            let glyph = font.glyph_id(character);
            width += last.map_or(0.0, |last| font.kern(last, glyph)) + font.h_advance(glyph);
            last = Some(glyph);
        }
        width
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

    fn scaled_font(&self) -> PxScaleFont<&'static FontRef<'static>> {
        let font = match self.font {
            Font::Sans => &*SANS,
            Font::Mono => &*MONO,
        };
        // `PxScale` counts ascent to descent; sizes here count the em square, as CSS does.
        let px_per_em = font
            .units_per_em()
            .map_or(1.0, |units| font.height_unscaled() / units);
        font.as_scaled(PxScale::from(self.size_px * px_per_em))
    }
}

/// Draws one line with the top of its line box at `y`; returns its width in px.
pub(crate) fn draw(image: &mut Image, x: f32, y: f32, line: &str, style: &TextStyle) -> f32 {
    let font = style.scaled_font();
    let baseline = y + style.baseline();
    let n_strokes = u8::from(style.font == Font::Sans) + u8::from(style.bold) + 1;
    let mut pen = x;
    let mut last = None;
    for character in line.chars() {
        let id = font.glyph_id(character);
        pen += last.map_or(0.0, |last| font.kern(last, id));
        last = Some(id);
        for stroke in 0..n_strokes {
            let shift = f32::from(stroke) * style.size_px * 0.03;
            let glyph = id.with_scale_and_position(font.scale(), point(pen + shift, baseline));
            let Some(outline) = font.outline_glyph(glyph) else {
                continue;
            };
            let bounds = outline.px_bounds();
            let (left, top) = (bounds.min.x as i64, bounds.min.y as i64);
            outline.draw(|column, row, coverage| {
                image.blend(
                    left + i64::from(column),
                    top + i64::from(row),
                    style.color,
                    coverage.clamp(0.0, 1.0),
                );
            });
        }
        pen += font.h_advance(id);
    }
    pen - x
}

static SANS: LazyLock<FontRef<'static>> =
    LazyLock::new(|| parsed(epaint_default_fonts::UBUNTU_LIGHT));
static MONO: LazyLock<FontRef<'static>> =
    LazyLock::new(|| parsed(epaint_default_fonts::HACK_REGULAR));

fn parsed(bytes: &'static [u8]) -> FontRef<'static> {
    FontRef::try_from_slice(bytes).expect("the font files are compiled in and parse")
}

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
