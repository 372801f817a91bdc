//! Contact sheets: many small pictures with captions, and one exposure draw replayed as a picture.
//!
//! Frames and masks keep the size they have; each is enlarged or shrunk here to its tile, the mask drawn after that, so
//! that contours stay thin.

use crate::canvas::{Image, Rgb};
use crate::overlay::{MaskStyle, TRUTH, overlay_mask, scale_mask};
use crate::text::TextStyle;

const BACKGROUND: Rgb = [255, 255, 255];
const INK: Rgb = [31, 36, 43];
const MUTED: Rgb = [101, 109, 118];
const RULE: Rgb = [222, 226, 231];
const MARGIN: u32 = 20;
const GAP: u32 = 12;

/// One picture with lines of text under it.
#[derive(Clone, Debug, PartialEq)]
pub struct Tile {
    /// Fitted into the sheet's tile box.
    pub image: Image,
    /// In bold, one line, shortened when it is too long.
    pub caption: String,
    /// Under the caption, wrapped.
    pub text: String,
    /// Colour of a border around the picture.
    pub border: Option<Rgb>,
}

/// Tiles in rows.
#[derive(Clone, Debug, PartialEq)]
pub struct ContactSheet {
    /// At the top.
    pub title: String,
    /// Under the title, wrapped.
    pub subtitle: String,
    /// Tiles in a row.
    pub columns: usize,
    /// Largest width of a picture in px.
    pub tile_width: u32,
    /// Largest height of a picture in px.
    pub tile_height: u32,
    /// In reading order.
    pub tiles: Vec<Tile>,
}

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

/// A frame fitted into a box, its masks drawn on the fitted picture.
///
/// # Panics
///
/// When a mask is not of the frame's size.
pub fn masked_frame(
    frame: &Image,
    masks: &[(&[bool], MaskStyle)],
    max_width: u32,
    max_height: u32,
) -> Image {
    let mut fitted = frame.fitted(max_width, max_height);
    for (mask, style) in masks {
        let mask = scale_mask(
            mask,
            frame.width(),
            frame.height(),
            fitted.width(),
            fitted.height(),
        );
        let style = MaskStyle {
            contour_px: style
                .contour_px
                .max(1 + fitted.width().min(fitted.height()) / 160),
            ..*style
        };
        overlay_mask(&mut fitted, &mask, &style);
    }
    fitted
}

impl ContactSheet {
    /// Draws the sheet.
    pub fn image(&self) -> Image {
        let columns = self.columns.max(1) as u32;
        let width = 2 * MARGIN + columns * self.tile_width + (columns - 1) * GAP;
        let caption = TextStyle::sans(14.0, INK);
        let small = TextStyle {
            bold: false,
            ..TextStyle::sans(13.0, MUTED)
        };
        let tile_width = self.tile_width as f32;
        let texts: Vec<Vec<String>> = self
            .tiles
            .iter()
            .map(|tile| {
                if tile.text.is_empty() {
                    Vec::new()
                } else {
                    small.wrap(&tile.text, tile_width)
                }
            })
            .collect();
        let row_heights: Vec<u32> = self
            .tiles
            .chunks(columns as usize)
            .zip(texts.chunks(columns as usize))
            .map(|(tiles, texts)| {
                let has_caption = tiles.iter().any(|tile| !tile.caption.is_empty());
                let n_lines = texts.iter().map(Vec::len).max().unwrap_or(0) as f32;
                let caption_height = if has_caption {
                    caption.line_height()
                } else {
                    0.0
                };
                self.tile_height + (caption_height + n_lines * small.line_height()) as u32 + 6
            })
            .collect();
        let header = Header::new(&self.title, &self.subtitle, width);
        let height =
            header.height + row_heights.iter().map(|height| height + GAP).sum::<u32>() + MARGIN
                - GAP.min(MARGIN);
        let mut sheet = Image::new(width, height, BACKGROUND);
        header.draw(&mut sheet);
        let mut top = i64::from(header.height);
        for (row, (tiles, texts)) in self
            .tiles
            .chunks(columns as usize)
            .zip(texts.chunks(columns as usize))
            .enumerate()
        {
            for (column, (tile, lines)) in tiles.iter().zip(texts).enumerate() {
                let left = i64::from(MARGIN) + column as i64 * i64::from(self.tile_width + GAP);
                let fitted = tile.image.fitted(self.tile_width, self.tile_height);
                sheet.paste(&fitted, left, top);
                if let Some(color) = tile.border {
                    sheet.outline_rect(left, top, fitted.width(), fitted.height(), 3, color);
                }
                let mut y = top as f32 + self.tile_height as f32 + 4.0;
                if !tile.caption.is_empty() {
                    sheet.text(
                        left as f32,
                        y,
                        &caption.shortened(&tile.caption, tile_width),
                        &caption,
                    );
                    y += caption.line_height();
                }
                for line in lines {
                    sheet.text(left as f32, y, line, &small);
                    y += small.line_height();
                }
            }
            top += i64::from(row_heights[row] + GAP);
        }
        sheet
    }
}

impl DrawPicture {
    /// Draws the picture: frames in a row, masks in magenta, labels under them, then the prompt and its categories.
    pub fn image(&self) -> Image {
        let (tile_width, tile_height) = self.tile_size();
        let n_frames = self.frames.len().max(1) as u32;
        let columns = (1000 / (tile_width + GAP)).clamp(1, n_frames);
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

/// Title and subtitle of a sheet.
struct Header {
    title: String,
    lines: Vec<String>,
    height: u32,
}

impl Header {
    const TITLE: f32 = 22.0;
    const SUBTITLE: f32 = 14.0;

    fn new(title: &str, subtitle: &str, width: u32) -> Self {
        let text_width = (width - 2 * MARGIN) as f32;
        let style = TextStyle::sans(Self::SUBTITLE, MUTED);
        let lines = if subtitle.is_empty() {
            Vec::new()
        } else {
            style.wrap(subtitle, text_width)
        };
        let title_style = TextStyle::sans(Self::TITLE, INK);
        let title = title_style.shortened(title, text_width);
        let mut height = MARGIN as f32;
        if !title.is_empty() {
            height += title_style.line_height();
        }
        height += lines.len() as f32 * style.line_height();
        if height > MARGIN as f32 {
            height += 12.0;
        }
        Self {
            title,
            lines,
            height: height as u32,
        }
    }

    fn draw(&self, sheet: &mut Image) {
        let title = TextStyle::sans(Self::TITLE, INK);
        let style = TextStyle::sans(Self::SUBTITLE, MUTED);
        let mut y = MARGIN as f32 - 4.0;
        if !self.title.is_empty() {
            sheet.text(MARGIN as f32, y, &self.title, &title);
            y += title.line_height();
        }
        for line in &self.lines {
            sheet.text(MARGIN as f32, y, line, &style);
            y += style.line_height();
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
        let style = TextStyle::sans(16.0, INK);
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
    let shape = crate::drawing::Shape::Rect {
        x: f64::from(left),
        y: f64::from(top),
        width: f64::from(width),
        height: f64::from(height),
        radius: f64::from(height) / 2.0,
        fill: Some(if is_true {
            (crate::drawing::Paint::Truth, 1.0)
        } else {
            (crate::drawing::Paint::Panel, 1.0)
        }),
        stroke: Some((
            if is_true {
                crate::drawing::Paint::Truth
            } else {
                crate::drawing::Paint::Grid
            },
            1.0,
        )),
    };
    crate::raster::draw(image, &shape, 1.0);
    let style = TextStyle {
        color: if is_true { [255, 255, 255] } else { INK },
        ..*style
    };
    image.text(left + Blocks::CHIP_PADDING, top + 3.0, name, &style);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(color: Rgb) -> Tile {
        Tile {
            image: Image::new(64, 48, color),
            caption: "a caption that is much longer than the tile is wide".into(),
            text: "two objects, red square and blue star".into(),
            border: None,
        }
    }

    #[test]
    fn a_sheet_has_room_for_every_tile() {
        let colors = [
            [200, 0, 0],
            [0, 200, 0],
            [0, 0, 200],
            [200, 200, 0],
            [0, 200, 200],
        ];
        let sheet = ContactSheet {
            title: "five".into(),
            subtitle: String::new(),
            columns: 2,
            tile_width: 128,
            tile_height: 96,
            tiles: colors.map(tile).to_vec(),
        }
        .image();
        for color in colors {
            let n_pixels = sheet
                .pixels()
                .chunks(3)
                .filter(|pixel| *pixel == color)
                .count();
            assert_eq!(n_pixels, 128 * 96, "{color:?} is shown whole");
        }
    }

    #[test]
    fn a_sheet_without_tiles_is_still_an_image() {
        let sheet = ContactSheet {
            title: "nothing".into(),
            subtitle: "no sample matched".into(),
            columns: 4,
            tile_width: 100,
            tile_height: 100,
            tiles: Vec::new(),
        };
        assert!(sheet.image().height() > 40);
    }

    #[test]
    fn a_mask_is_drawn_at_the_fitted_size() {
        let frame = Image::new(10, 10, [0, 0, 0]);
        let mask: Vec<bool> = (0..100).map(|at| at % 10 < 5).collect();
        let fitted = masked_frame(&frame, &[(&mask, MaskStyle::truth())], 100, 100);
        let veiled = fitted
            .pixels()
            .chunks(3)
            .filter(|pixel| pixel[0] > 0)
            .count();
        assert_eq!((fitted.width(), veiled), (100, 5_000));
    }

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
        let truth = crate::drawing::Paint::Truth.light();
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
