//! Contact sheets: many small pictures with captions.
//!
//! Frames and masks keep the size they have; each is enlarged or shrunk here to its tile, the mask drawn after that, so
//! that contours stay thin.

use crate::canvas::{Image, Rgb};
use crate::overlay::{MaskStyle, overlay_mask, scale_mask};
use crate::text::TextStyle;

/// Behind everything.
pub const BACKGROUND: Rgb = [255, 255, 255];
/// Text.
pub const INK: Rgb = [31, 36, 43];
/// Text that is less needed.
pub const MUTED: Rgb = [101, 109, 118];
/// Around everything, px.
pub const MARGIN: u32 = 20;
/// Between two tiles, px.
pub const GAP: u32 = 12;

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
        let caption = TextStyle::sans(14.0, INK).bold();
        let small = TextStyle::sans(13.0, MUTED);
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
        let title_style = TextStyle::sans(Self::TITLE, INK).bold();
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
        let title = TextStyle::sans(Self::TITLE, INK).bold();
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
}
