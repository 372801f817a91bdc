//! One exposure draw replayed as a picture: frames with masks, then what the prompt says.

use lavida_report::{
    canvas::{Image, Rgb},
    drawing::{Paint, Shape},
    overlay::{MaskStyle, TRUTH},
    sheet::{BACKGROUND, ContactSheet, GAP, INK, MARGIN, MUTED, Tile, masked_frame},
    text::TextStyle,
};

const RULE: Rgb = [222, 226, 231];

/// One exposure draw: what the sampler made of a clip.
#[derive(Clone, Debug, PartialEq)]
pub struct DrawPicture {
    /// Clip id.
    pub title: String,
    /// For example `coco-synth · seed 7 · epoch 2`.
    pub subtitle: String,
    /// The whole prompt as the model reads it.
    pub prompt: String,
    /// The answer it is trained on.
    pub answer: String,
    /// In prompt order; true where the category is really there and is the pseudo-anomaly.
    pub categories: Vec<(String, bool)>,
    /// Whether the clip is shown as anomalous.
    pub is_anomaly: bool,
    /// `[T]` frames.
    pub frames: Vec<Image>,
    /// `[T]` row-major masks of the frames' size, `None` where nothing is anomalous.
    pub masks: Vec<Option<Vec<bool>>>,
    /// `[T]` y^f.
    pub frame_labels: Vec<bool>,
}

impl DrawPicture {
    /// Draws the picture: frames in a row, masks in magenta, labels under them, then the prompt and its categories.
    pub fn image(&self) -> Image {
        let (tile_width, tile_height) = self.tile_size();
        let n_frames = self.frames.len().max(1) as u32;
        let n_rows = n_frames.div_ceil((1030 / (tile_width + GAP)).max(1));
        let columns = n_frames.div_ceil(n_rows);
        let width = (2 * MARGIN + columns * (tile_width + GAP) - GAP).max(760);
        let tiles = self
            .frames
            .iter()
            .enumerate()
            .map(|(frame_idx, frame)| self.tile(frame_idx, frame, tile_width, tile_height))
            .collect();
        let strip = ContactSheet {
            title: self.title.clone(),
            subtitle: self.subtitle.clone(),
            columns: columns as usize,
            tile_width,
            tile_height,
            tiles,
        }
        .image();

        let text_width = (width - 2 * MARGIN) as f32;
        let mut blocks = Blocks::new(text_width);
        let verdict = if self.is_anomaly {
            "shown as anomalous: the highlighted categories are really in the clip"
        } else {
            "shown as normal: no named category is in the clip"
        };
        blocks.heading(verdict);
        blocks.chips(&self.categories);
        blocks.labelled("prompt", &self.prompt);
        blocks.labelled("answer", &self.answer);

        let height = strip.height() + blocks.height() + MARGIN;
        let mut picture = Image::new(width, height, BACKGROUND);
        picture.paste(&strip, 0, 0);
        blocks.draw(&mut picture, MARGIN as f32, strip.height() as f32);
        picture
    }

    fn tile_size(&self) -> (u32, u32) {
        let Some(frame) = self.frames.first() else {
            return (240, 180);
        };
        let wanted = if self.frames.len() <= 2 { 420 } else { 240 };
        let height = (f64::from(wanted) * f64::from(frame.height()) / f64::from(frame.width()))
            .round() as u32;
        (wanted, height.clamp(40, 480))
    }

    fn tile(&self, frame_idx: usize, frame: &Image, tile_width: u32, tile_height: u32) -> Tile {
        let mask = self.masks.get(frame_idx).and_then(Option::as_deref);
        let masks: Vec<(&[bool], MaskStyle)> = mask
            .map(|mask| (mask, MaskStyle::truth()))
            .into_iter()
            .collect();
        let is_anomalous = self.frame_labels.get(frame_idx).copied().unwrap_or(false);
        Tile {
            image: masked_frame(frame, &masks, tile_width, tile_height),
            caption: format!(
                "{frame_idx}  {}",
                if is_anomalous { "anomalous" } else { "normal" }
            ),
            text: String::new(),
            border: is_anomalous.then_some(TRUTH),
        }
    }
}

/// Text under a strip: headings, rows of chips and labelled paragraphs, stacked.
struct Blocks {
    width: f32,
    rows: Vec<Row>,
}

enum Row {
    Rule,
    Line {
        text: String,
        style: TextStyle,
        indent: f32,
        label: Option<&'static str>,
    },
    Chips(Vec<(f32, String, bool)>),
}

impl Blocks {
    const LABEL_WIDTH: f32 = 72.0;
    const CHIP_PADDING: f32 = 10.0;

    fn new(width: f32) -> Self {
        Self {
            width,
            rows: vec![Row::Rule],
        }
    }

    fn chip_style() -> TextStyle {
        TextStyle::sans(14.0, INK)
    }

    fn heading(&mut self, text: &str) {
        let style = TextStyle::sans(16.0, INK).bold();
        for text in style.wrap(text, self.width) {
            self.rows.push(Row::Line {
                text,
                style,
                indent: 0.0,
                label: None,
            });
        }
    }

    fn chips(&mut self, categories: &[(String, bool)]) {
        let style = Self::chip_style();
        let mut row = Vec::new();
        let mut x = 0.0;
        for (name, is_true) in categories {
            let name = style.shortened(name, self.width - 2.0 * Self::CHIP_PADDING);
            let chip_width = style.width(&name) + 2.0 * Self::CHIP_PADDING;
            if x + chip_width > self.width && !row.is_empty() {
                self.rows.push(Row::Chips(std::mem::take(&mut row)));
                x = 0.0;
            }
            row.push((x, name, *is_true));
            x += chip_width + 8.0;
        }
        if !row.is_empty() {
            self.rows.push(Row::Chips(row));
        }
    }

    fn labelled(&mut self, label: &'static str, text: &str) {
        if text.is_empty() {
            return;
        }
        let style = TextStyle::sans(15.0, INK);
        for (index, text) in style
            .wrap(text, self.width - Self::LABEL_WIDTH)
            .into_iter()
            .enumerate()
        {
            self.rows.push(Row::Line {
                text,
                style,
                indent: Self::LABEL_WIDTH,
                label: (index == 0).then_some(label),
            });
        }
    }

    fn row_height(row: &Row) -> f32 {
        match row {
            Row::Rule => 14.0,
            Row::Line { style, label, .. } => {
                style.line_height() + if label.is_some() { 8.0 } else { 0.0 }
            }
            Row::Chips(_) => Self::chip_style().line_height() + 14.0,
        }
    }

    fn height(&self) -> u32 {
        self.rows.iter().map(Self::row_height).sum::<f32>().ceil() as u32
    }

    fn draw(&self, image: &mut Image, left: f32, top: f32) {
        let mut y = top;
        for row in &self.rows {
            let height = Self::row_height(row);
            match row {
                Row::Rule => image.fill_rect(left as i64, y as i64, self.width as u32, 1, RULE),
                Row::Line {
                    text,
                    style,
                    indent,
                    label,
                } => {
                    let line_top = y + height - style.line_height();
                    if let Some(label) = label {
                        image.text(left, line_top, label, &TextStyle::sans(15.0, MUTED));
                    }
                    image.text(left + indent, line_top, text, style);
                }
                Row::Chips(chips) => {
                    let style = Self::chip_style();
                    for (x, name, is_true) in chips {
                        draw_chip(image, left + x, y + 6.0, name, &style, *is_true);
                    }
                }
            }
            y += height;
        }
    }
}

fn draw_chip(image: &mut Image, left: f32, top: f32, name: &str, style: &TextStyle, is_true: bool) {
    let width = style.width(name) + 2.0 * Blocks::CHIP_PADDING;
    let height = style.line_height() + 6.0;
    let shape = Shape::Rect {
        x: f64::from(left),
        y: f64::from(top),
        width: f64::from(width),
        height: f64::from(height),
        radius: f64::from(height) / 2.0,
        fill: Some(if is_true {
            (Paint::Truth, 1.0)
        } else {
            (Paint::Panel, 1.0)
        }),
        stroke: Some((if is_true { Paint::Truth } else { Paint::Grid }, 1.0)),
    };
    image.shape(&shape);
    let style = TextStyle {
        color: if is_true { [255, 255, 255] } else { INK },
        ..*style
    };
    image.text(left + Blocks::CHIP_PADDING, top + 3.0, name, &style);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_true_category_is_a_filled_chip() {
        let picture = |is_true| {
            DrawPicture {
                title: "clip".into(),
                subtitle: "seed 1".into(),
                prompt: "Is there an anomaly?".into(),
                answer: "It is <SEG>.".into(),
                categories: vec![("red square".into(), is_true), ("blue star".into(), false)],
                is_anomaly: is_true,
                frames: vec![Image::new(32, 32, [80, 80, 80])],
                masks: vec![None],
                frame_labels: vec![false],
            }
            .image()
        };
        let truth = Paint::Truth.light();
        let filled = |image: &Image| {
            image
                .pixels()
                .chunks(3)
                .filter(|pixel| *pixel == truth)
                .count()
        };
        assert!(filled(&picture(true)) > 500);
        assert_eq!(filled(&picture(false)), 0);
    }
}
