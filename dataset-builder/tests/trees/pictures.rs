//! Small pictures and masks in the file formats of the source datasets.

use lavida_data::mask::RleMask;
use serde_json::{Value, json};

/// px of every picture here
pub const WIDTH: u32 = 32;
/// px of every picture here
pub const HEIGHT: u32 = 24;

/// A gray ramp, different for every `shade`.
pub fn jpeg(shade: u8) -> Vec<u8> {
    let pixels: Vec<u8> = (0..WIDTH * HEIGHT * 3)
        .map(|i| shade.wrapping_add((i % 97) as u8))
        .collect();
    let mut bytes = Vec::new();
    jpeg_encoder::Encoder::new(&mut bytes, 90)
        .encode(
            &pixels,
            WIDTH as u16,
            HEIGHT as u16,
            jpeg_encoder::ColorType::Rgb,
        )
        .expect("jpeg");
    bytes
}

pub fn tiff(shade: u8) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    tiff::encoder::TiffEncoder::new(&mut bytes)
        .expect("tiff")
        .write_image::<tiff::encoder::colortype::Gray8>(
            WIDTH,
            HEIGHT,
            &vec![shade; (WIDTH * HEIGHT) as usize],
        )
        .expect("tiff");
    bytes.into_inner()
}

/// Indices of a rectangle: `index` inside `x0..x1 × y0..y1`, 0 elsewhere.
pub fn rectangle(index: u8, [x0, x1, y0, y1]: [u32; 4]) -> Vec<u8> {
    let inside = |i: u32| (x0..x1).contains(&(i % WIDTH)) && (y0..y1).contains(&(i / WIDTH));
    (0..WIDTH * HEIGHT)
        .map(|i| if inside(i) { index } else { 0 })
        .collect()
}

fn png_of(indices: &[u8], (width, height): (u32, u32), color: png::ColorType) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    if color == png::ColorType::Indexed {
        encoder.set_palette(
            (0..=255u8)
                .flat_map(|i| [i.wrapping_mul(67), i.wrapping_mul(29), i])
                .collect::<Vec<u8>>(),
        );
    }
    encoder
        .write_header()
        .expect("png")
        .write_image_data(indices)
        .expect("png");
    bytes
}

pub fn palette_png(indices: &[u8]) -> Vec<u8> {
    png_of(indices, (WIDTH, HEIGHT), png::ColorType::Indexed)
}

pub fn gray_png(indices: &[u8]) -> Vec<u8> {
    png_of(indices, (WIDTH, HEIGHT), png::ColorType::Grayscale)
}

/// `color` where the index is not 0, black elsewhere.
pub fn rgb_png(indices: &[u8], color: [u8; 3]) -> Vec<u8> {
    let pixel = |index: &u8| if *index == 0 { [0; 3] } else { color };
    let pixels: Vec<u8> = indices.iter().flat_map(pixel).collect();
    png_of(&pixels, (WIDTH, HEIGHT), png::ColorType::Rgb)
}

/// `[HEIGHT, WIDTH, 3]` as a PNG.
pub fn rgb_pixels_png(pixels: &[u8]) -> Vec<u8> {
    png_of(pixels, (WIDTH, HEIGHT), png::ColorType::Rgb)
}

pub fn gray_png_of_size(width: u32, height: u32) -> Vec<u8> {
    png_of(
        &vec![1; (width * height) as usize],
        (width, height),
        png::ColorType::Grayscale,
    )
}

/// 255 inside the rectangle.
pub fn bmp(rectangle_px: Option<[u32; 4]>) -> Vec<u8> {
    let indices = rectangle_px.map_or(vec![0; (WIDTH * HEIGHT) as usize], |at| rectangle(255, at));
    let image = image::GrayImage::from_raw(WIDTH, HEIGHT, indices).expect("bmp");
    let mut bytes = std::io::Cursor::new(Vec::new());
    image::DynamicImage::ImageLuma8(image)
        .write_to(&mut bytes, image::ImageFormat::Bmp)
        .expect("bmp");
    bytes.into_inner()
}

/// COCO run lengths of a rectangle.
pub fn rle(rectangle_px: [u32; 4]) -> Value {
    let mask = RleMask::from_raster(&rectangle(1, rectangle_px), HEIGHT, WIDTH);
    json!({ "size": [HEIGHT, WIDTH], "counts": mask.counts })
}

/// A polygon of 8 × 8 px.
pub const SQUARE: [f64; 8] = [4.0, 4.0, 12.0, 4.0, 12.0, 12.0, 4.0, 12.0];
