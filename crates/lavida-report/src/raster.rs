//! Draws a [`Shape`] onto an image with smooth edges.
//!
//! Lines and rectangles use the distance of a pixel's centre to the shape: one pixel of ramp at the border. Polygons use 4 × 4
//! samples a pixel.

use crate::canvas::{Image, Rgb};
use crate::drawing::{Anchor, Shape};
use crate::text::TextStyle;

/// Draws one shape, its px multiplied by `scale`, in its light colours.
pub(crate) fn draw(image: &mut Image, shape: &Shape, scale: f64) {
    match shape {
        Shape::Line {
            points,
            paint,
            width,
            opacity,
            dash,
        } => {
            let points = scaled(points, scale);
            let pieces = match dash {
                Some(dash) => dashes(&points, dash * scale),
                None => vec![points],
            };
            draw_lines(image, &pieces, width * scale, paint.light(), *opacity);
        }
        Shape::Polygon {
            points,
            paint,
            opacity,
        } => {
            draw_polygon(image, &scaled(points, scale), paint.light(), *opacity);
        }
        Shape::Rect {
            x,
            y,
            width,
            height,
            radius,
            fill,
            stroke,
        } => {
            let half = (width * scale / 2.0, height * scale / 2.0);
            let center = (x * scale + half.0, y * scale + half.1);
            let radius = (radius * scale).min(half.0).min(half.1);
            let distance = |px: f64, py: f64| {
                rounded_box_distance((px - center.0, py - center.1), half, radius)
            };
            let reach = stroke.map_or(1.0, |(_, thickness)| thickness * scale + 1.0);
            let bounds = (
                (center.0 - half.0 - reach, center.1 - half.1 - reach),
                (center.0 + half.0 + reach, center.1 + half.1 + reach),
            );
            if let Some((paint, opacity)) = fill {
                shade(image, bounds, paint.light(), *opacity, |px, py| {
                    0.5 - distance(px, py)
                });
            }
            if let Some((paint, thickness)) = stroke {
                let half_thickness = thickness * scale / 2.0;
                shade(image, bounds, paint.light(), 1.0, |px, py| {
                    half_thickness + 0.5 - distance(px, py).abs()
                });
            }
        }
        Shape::Text {
            x,
            y,
            text,
            size,
            paint,
            anchor,
            bold,
        } => draw_text(
            image,
            (*x, *y),
            text,
            *size,
            paint.light(),
            *anchor,
            *bold,
            scale,
        ),
    }
}

#[expect(clippy::too_many_arguments, reason = "the fields of Shape::Text")]
fn draw_text(
    image: &mut Image,
    (x, y): (f64, f64),
    text: &str,
    size: f64,
    color: Rgb,
    anchor: Anchor,
    bold: bool,
    scale: f64,
) {
    let style = TextStyle {
        bold,
        ..TextStyle::sans((size * scale) as f32, color)
    };
    let left = x * scale
        - match anchor {
            Anchor::Start => 0.0,
            Anchor::Middle => f64::from(style.width(text)) / 2.0,
            Anchor::End => f64::from(style.width(text)),
        };
    let top = (y * scale) as f32 - style.baseline();
    image.text(left as f32, top, text, &style);
}

fn scaled(points: &[(f64, f64)], scale: f64) -> Vec<(f64, f64)> {
    points.iter().map(|(x, y)| (x * scale, y * scale)).collect()
}

/// Mixes a colour into the pixels of a box; `coverage` gets a pixel's centre and is clamped to [0, 1].
fn shade(
    image: &mut Image,
    ((left, top), (right, bottom)): ((f64, f64), (f64, f64)),
    color: Rgb,
    opacity: f64,
    coverage: impl Fn(f64, f64) -> f64,
) {
    let (width, height) = (f64::from(image.width()), f64::from(image.height()));
    for y in top.floor().max(0.0) as i64..bottom.ceil().min(height) as i64 {
        for x in left.floor().max(0.0) as i64..right.ceil().min(width) as i64 {
            let covered = coverage(x as f64 + 0.5, y as f64 + 0.5).clamp(0.0, 1.0);
            if covered > 0.0 {
                image.blend(x, y, color, (covered * opacity) as f32);
            }
        }
    }
}

/// Negative inside.
fn rounded_box_distance((x, y): (f64, f64), half: (f64, f64), radius: f64) -> f64 {
    let (dx, dy) = (x.abs() - half.0 + radius, y.abs() - half.1 + radius);
    dx.max(0.0).hypot(dy.max(0.0)) + dx.max(dy).min(0.0) - radius
}

/// All pieces in one coverage map, so that a line crossing itself is not darker there.
fn draw_lines(image: &mut Image, pieces: &[Vec<(f64, f64)>], width: f64, color: Rgb, opacity: f64) {
    let half = width / 2.0;
    let (n_columns, n_rows) = (i64::from(image.width()), i64::from(image.height()));
    let mut coverage = vec![0f32; (n_columns * n_rows) as usize];
    for (from, to) in pieces
        .iter()
        .flat_map(|piece| piece.iter().zip(piece.iter().skip(1)))
    {
        let reach = half + 1.0;
        let columns = (from.0.min(to.0) - reach).floor().max(0.0) as i64
            ..((from.0.max(to.0) + reach).ceil() as i64).min(n_columns);
        for y in (from.1.min(to.1) - reach).floor().max(0.0) as i64
            ..((from.1.max(to.1) + reach).ceil() as i64).min(n_rows)
        {
            for x in columns.clone() {
                let distance = segment_distance((x as f64 + 0.5, y as f64 + 0.5), *from, *to);
                let covered = (half + 0.5 - distance).clamp(0.0, 1.0) as f32;
                let pixel = &mut coverage[(y * n_columns + x) as usize];
                *pixel = pixel.max(covered);
            }
        }
    }
    for (at, covered) in coverage
        .iter()
        .enumerate()
        .filter(|(_, covered)| **covered > 0.0)
    {
        let (x, y) = (at as i64 % n_columns, at as i64 / n_columns);
        image.blend(x, y, color, covered * opacity as f32);
    }
}

fn segment_distance(point: (f64, f64), from: (f64, f64), to: (f64, f64)) -> f64 {
    let (dx, dy) = (to.0 - from.0, to.1 - from.1);
    let length_squared = dx * dx + dy * dy;
    let along = if length_squared > 0.0 {
        (((point.0 - from.0) * dx + (point.1 - from.1) * dy) / length_squared).clamp(0.0, 1.0)
    } else {
        0.0
    };
    (point.0 - from.0 - along * dx).hypot(point.1 - from.1 - along * dy)
}

/// Cuts a line into dashes with gaps of the same length.
fn dashes(points: &[(f64, f64)], dash: f64) -> Vec<Vec<(f64, f64)>> {
    let mut pieces = Vec::new();
    let mut current = Vec::new();
    let mut in_dash = true;
    let mut left = dash;
    for (from, to) in points.iter().zip(points.iter().skip(1)) {
        let length = (to.0 - from.0).hypot(to.1 - from.1);
        if in_dash && current.is_empty() {
            current.push(*from);
        }
        let mut at = 0.0;
        while length - at > left {
            at += left;
            left = dash;
            let share = at / length;
            current.push((
                from.0 + (to.0 - from.0) * share,
                from.1 + (to.1 - from.1) * share,
            ));
            if in_dash {
                pieces.push(std::mem::take(&mut current));
            }
            in_dash = !in_dash;
        }
        left -= length - at;
        if in_dash {
            current.push(*to);
        }
    }
    if in_dash && current.len() > 1 {
        pieces.push(current);
    }
    pieces
}

fn draw_polygon(image: &mut Image, points: &[(f64, f64)], color: Rgb, opacity: f64) {
    const SAMPLES: i64 = 4;
    let (n_columns, n_rows) = (i64::from(image.width()), i64::from(image.height()));
    let top = points
        .iter()
        .map(|point| point.1)
        .fold(f64::INFINITY, f64::min);
    let bottom = points
        .iter()
        .map(|point| point.1)
        .fold(f64::NEG_INFINITY, f64::max);
    for y in top.floor().max(0.0) as i64..(bottom.ceil() as i64).min(n_rows) {
        let mut covered = vec![0u8; n_columns as usize];
        for sample in 0..SAMPLES {
            let line = y as f64 + (sample as f64 + 0.5) / SAMPLES as f64;
            let mut crossings: Vec<f64> = edges(points)
                .filter(|(from, to)| (from.1 <= line) != (to.1 <= line))
                .map(|(from, to)| from.0 + (line - from.1) / (to.1 - from.1) * (to.0 - from.0))
                .collect();
            crossings.sort_by(f64::total_cmp);
            for inside in crossings.chunks_exact(2) {
                // Sample s of the row is at (s + 0.5) / SAMPLES px.
                let sample_at = |x: f64| {
                    (x * SAMPLES as f64 + 0.5)
                        .floor()
                        .clamp(0.0, (n_columns * SAMPLES) as f64) as i64
                };
                for s in sample_at(inside[0])..sample_at(inside[1]) {
                    covered[(s / SAMPLES) as usize] += 1;
                }
            }
        }
        for (x, n_samples) in covered.iter().enumerate().filter(|(_, n)| **n > 0) {
            let coverage = f64::from(*n_samples) / (SAMPLES * SAMPLES) as f64;
            image.blend(x as i64, y, color, (coverage * opacity) as f32);
        }
    }
}

fn edges(points: &[(f64, f64)]) -> impl Iterator<Item = (&(f64, f64), &(f64, f64))> {
    points.iter().zip(points.iter().cycle().skip(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::{Drawing, Paint};

    fn darkness(image: &Image) -> f64 {
        let sum: f64 = image
            .pixels()
            .iter()
            .map(|value| 255.0 - f64::from(*value))
            .sum();
        sum / 3.0
    }

    fn full() -> f64 {
        let [r, g, b] = Paint::Ink.light();
        255.0 - (f64::from(r) + f64::from(g) + f64::from(b)) / 3.0
    }

    #[test]
    fn a_polygon_covers_its_area() {
        let mut drawing = Drawing::new(60.0, 60.0, "triangle");
        drawing.shapes.push(Shape::Polygon {
            points: vec![(5.0, 5.0), (55.0, 5.0), (5.0, 55.0)],
            paint: Paint::Ink,
            opacity: 1.0,
        });
        let area = darkness(&drawing.image(1.0)) / full();
        assert!((area - 1250.0).abs() < 15.0, "area {area}");
    }

    #[test]
    fn a_line_covers_length_times_width() {
        let mut drawing = Drawing::new(120.0, 120.0, "line");
        drawing.line(vec![(10.0, 10.0), (106.0, 82.0)], Paint::Ink, 4.0);
        let area = darkness(&drawing.image(1.0)) / full();
        let expected = 120.0 * 4.0 + std::f64::consts::PI * 4.0;
        assert!(
            (area - expected).abs() < 12.0,
            "area {area}, expected {expected}"
        );
    }

    #[test]
    fn half_of_a_dashed_line_is_drawn() {
        let whole = dashes(&[(0.0, 0.0), (37.0, 0.0), (37.0, 63.0)], 5.0);
        let drawn: f64 = whole
            .iter()
            .flat_map(|piece| piece.iter().zip(piece.iter().skip(1)))
            .map(|(from, to)| (to.0 - from.0).hypot(to.1 - from.1))
            .sum();
        assert!((drawn - 50.0).abs() < 0.01, "{drawn}");
        assert_eq!(whole.len(), 10);
    }

    #[test]
    fn a_rounded_rectangle_leaves_its_corners() {
        let mut drawing = Drawing::new(40.0, 40.0, "box");
        drawing.shapes.push(Shape::Rect {
            x: 4.0,
            y: 4.0,
            width: 32.0,
            height: 32.0,
            radius: 10.0,
            fill: Some((Paint::Ink, 1.0)),
            stroke: None,
        });
        let image = drawing.image(1.0);
        assert_eq!(image.pixel(5, 5), Some(Paint::Surface.light()));
        assert_eq!(image.pixel(20, 20), Some(Paint::Ink.light()));
    }
}
