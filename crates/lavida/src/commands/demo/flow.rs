//! The picture of the whole: data above, the model below.
//!
//! Also `docs/flow.svg` of the repository; a test holds the two equal.

use lavida_report::drawing::{Anchor, Drawing, Paint, Shape};

/// How a part of the model trains in the paper.
const FROZEN: Paint = Paint::Series(5);
const LORA: Paint = Paint::Series(1);
const TRAINED: Paint = Paint::Series(0);

/// Source datasets → shards → exposure → model → scores.
pub(super) fn flow() -> Drawing {
    let mut drawing = Drawing::new(
        1080.0,
        492.0,
        "Source datasets become shards; the exposure sampler draws pseudo-anomalies; Qwen2-VL with token compression, CLIP's text \
         encoder and SAM2's frame encoder meet in the semantic projector; SAM2's mask decoder gives frame and pixel scores",
    );
    draw_model(&mut drawing);
    draw_data_row(&mut drawing);
    draw_outputs(&mut drawing);
    draw_legend(&mut drawing);
    drawing
}

fn draw_data_row(drawing: &mut Drawing) {
    let row = |x: f64, width: f64| Frame {
        x,
        y: 16.0,
        width,
        height: 92.0,
    };
    let (sources, shards, exposure) = (row(20.0, 196.0), row(262.0, 196.0), row(504.0, 236.0));
    sources.draw(
        drawing,
        Paint::Grid,
        "Source datasets",
        &["COCO · ADE20K · MeViS", "YouTube-VOS · DAVIS · …"],
    );
    shards.draw(
        drawing,
        Paint::Grid,
        "Shards + manifest",
        &[
            "Parquet: frames as they came,",
            "masks as RLE; object store",
        ],
    );
    exposure.draw(
        drawing,
        Paint::Truth,
        "Anomaly Exposure Sampler",
        &["a segmented object becomes", "a pseudo-anomaly (Eq. 1, 2)"],
    );
    arrow(drawing, &[sources.right(), shards.left()], Paint::Muted);
    arrow(drawing, &[shards.right(), exposure.left()], Paint::Muted);
    draw_example(drawing);
    let below = (
        exposure.x + exposure.width / 2.0,
        exposure.y + exposure.height,
    );
    arrow(
        drawing,
        &[below, (below.0, 134.0), (72.0, 134.0), (72.0, 182.0)],
        Paint::Muted,
    );
}

/// One draw: what the prompt names, and which frames show it.
fn draw_example(drawing: &mut Drawing) {
    let (left, top) = (784.0, 24.0);
    drawing.text(
        (left, top + 4.0),
        "a prompt names categories, one is there:",
        12.0,
        Paint::Muted,
        Anchor::Start,
    );
    let chips = [
        ("red square", 84.0, true),
        ("blue star", 76.0, false),
        ("bicycle", 68.0, false),
    ];
    let mut x = left;
    for (name, width, is_true) in chips {
        drawing.shapes.push(Shape::Rect {
            x,
            y: top + 14.0,
            width,
            height: 24.0,
            radius: 12.0,
            fill: Some(if is_true {
                (Paint::Truth, 0.22)
            } else {
                (Paint::Panel, 1.0)
            }),
            stroke: Some((if is_true { Paint::Truth } else { Paint::Grid }, 1.0)),
        });
        drawing.text(
            (x + width / 2.0, top + 30.5),
            name,
            12.0,
            Paint::Ink,
            Anchor::Middle,
        );
        x += width + 8.0;
    }
    for frame in 0..4 {
        let x = left + f64::from(frame) * 63.0;
        let is_anomalous = frame == 1 || frame == 2;
        drawing.shapes.push(Shape::Rect {
            x,
            y: top + 46.0,
            width: 56.0,
            height: 38.0,
            radius: 4.0,
            fill: Some((Paint::Panel, 1.0)),
            stroke: Some((
                if is_anomalous {
                    Paint::Truth
                } else {
                    Paint::Grid
                },
                1.2,
            )),
        });
        drawing.shapes.push(Shape::Rect {
            x: x + 10.0 + f64::from(frame) * 6.0,
            y: top + 66.0,
            width: 8.0,
            height: 8.0,
            radius: 4.0,
            fill: Some((Paint::Series(0), 1.0)),
            stroke: None,
        });
        if is_anomalous {
            drawing.shapes.push(Shape::Rect {
                x: x + 34.0 - f64::from(frame) * 8.0,
                y: top + 51.0,
                width: 12.0,
                height: 12.0,
                radius: 1.0,
                fill: Some((Paint::Truth, 1.0)),
                stroke: None,
            });
        }
    }
}

fn draw_model(drawing: &mut Drawing) {
    drawing.shapes.push(Shape::Rect {
        x: 20.0,
        y: 152.0,
        width: 1040.0,
        height: 300.0,
        radius: 12.0,
        fill: Some((Paint::Panel, 0.75)),
        stroke: Some((Paint::Grid, 1.0)),
    });
    let lanes = [216.0, 296.0, 376.0];
    let part = |x: f64, lane: f64, width: f64| Frame {
        x,
        y: lane - 31.0,
        width,
        height: 62.0,
    };
    for (lane, name) in lanes.iter().zip(["clip, prompt", "categories", "frames"]) {
        drawing.bold_text((34.0, lane + 4.5), name, 12.0, Paint::Ink, Anchor::Start);
    }
    let vision = part(146.0, lanes[0], 124.0);
    let compression = part(294.0, lanes[0], 152.0);
    let language = part(470.0, lanes[0], 124.0);
    let text = part(146.0, lanes[1], 124.0);
    let frames = part(146.0, lanes[2], 124.0);
    let projector = Frame {
        x: 648.0,
        y: 185.0,
        width: 154.0,
        height: 222.0,
    };
    let decoder = Frame {
        x: 826.0,
        y: 251.0,
        width: 104.0,
        height: 90.0,
    };
    vision.draw(drawing, FROZEN, "Qwen2-VL", &["vision tower"]);
    compression.draw(
        drawing,
        Paint::Prediction,
        "Token compression",
        &["reverse attention"],
    );
    language.draw(drawing, LORA, "Qwen2-VL", &["language model"]);
    text.draw(drawing, FROZEN, "CLIP", &["text encoder"]);
    frames.draw(drawing, FROZEN, "SAM2", &["Hiera + FPN"]);
    projector.draw(
        drawing,
        TRAINED,
        "Semantic projector",
        &[
            "categories attend",
            "to each frame,",
            "48 queries read both",
        ],
    );
    decoder.draw(drawing, TRAINED, "SAM2", &["mask decoder"]);

    for (lane, to) in lanes.iter().zip([&vision, &text, &frames]) {
        let from = if *lane == lanes[0] { 124.0 } else { 116.0 };
        arrow(drawing, &[(from, *lane), to.left()], Paint::Muted);
    }
    arrow(drawing, &[vision.right(), compression.left()], Paint::Muted);
    arrow(
        drawing,
        &[compression.right(), language.left()],
        Paint::Muted,
    );
    let into_projector = |lane: f64| (projector.x, lane);
    arrow(
        drawing,
        &[language.right(), into_projector(lanes[0])],
        Paint::Muted,
    );
    arrow(
        drawing,
        &[text.right(), into_projector(lanes[1])],
        Paint::Muted,
    );
    arrow(
        drawing,
        &[frames.right(), into_projector(lanes[2])],
        Paint::Muted,
    );
    for (lane, label) in
        lanes
            .iter()
            .zip(["<SEG>", "one vector a category", "features of each frame"])
    {
        let x = if *lane == lanes[0] { 619.0 } else { 460.0 };
        drawing.text((x, lane - 8.0), label, 12.0, Paint::Muted, Anchor::Middle);
    }
    arrow(drawing, &[projector.right(), decoder.left()], Paint::Muted);
    let below_frames = (frames.x + frames.width / 2.0, frames.y + frames.height);
    let below_decoder = (decoder.x + decoder.width / 2.0, decoder.y + decoder.height);
    arrow(
        drawing,
        &[
            below_frames,
            (below_frames.0, 430.0),
            (below_decoder.0, 430.0),
            below_decoder,
        ],
        Paint::Muted,
    );
    drawing.text(
        (460.0, 424.0),
        "finer levels",
        12.0,
        Paint::Muted,
        Anchor::Middle,
    );
}

fn draw_outputs(drawing: &mut Drawing) {
    let left = 960.0;
    arrow(
        drawing,
        &[
            (930.0, 276.0),
            (943.0, 276.0),
            (943.0, 232.0),
            (left, 232.0),
        ],
        Paint::Muted,
    );
    arrow(
        drawing,
        &[
            (930.0, 316.0),
            (943.0, 316.0),
            (943.0, 352.0),
            (left, 352.0),
        ],
        Paint::Muted,
    );
    for (top, name) in [(200.0, "frame scores"), (320.0, "pixel scores")] {
        drawing.shapes.push(Shape::Rect {
            x: left,
            y: top,
            width: 88.0,
            height: 62.0,
            radius: 4.0,
            fill: Some((Paint::Surface, 1.0)),
            stroke: Some((Paint::Grid, 1.2)),
        });
        drawing.text(
            (left + 44.0, top + 78.0),
            name,
            12.0,
            Paint::Ink,
            Anchor::Middle,
        );
    }
    drawing.shapes.push(Shape::Rect {
        x: left + 34.0,
        y: 201.0,
        width: 28.0,
        height: 60.0,
        radius: 0.0,
        fill: Some((Paint::Truth, 0.2)),
        stroke: None,
    });
    let curve = [
        50.0, 48.0, 51.0, 46.0, 20.0, 12.0, 15.0, 14.0, 42.0, 49.0, 47.0,
    ];
    let points = curve.iter().enumerate();
    let points: Vec<(f64, f64)> = points
        .map(|(at, y)| (left + 6.0 + at as f64 * 7.6, 200.0 + y))
        .collect();
    drawing.line(points, Paint::Prediction, 2.2);
    drawing.shapes.push(Shape::Rect {
        x: left + 46.0,
        y: 334.0,
        width: 22.0,
        height: 22.0,
        radius: 2.0,
        fill: Some((Paint::Prediction, 0.5)),
        stroke: Some((Paint::Prediction, 2.0)),
    });
    drawing.shapes.push(Shape::Rect {
        x: left + 18.0,
        y: 356.0,
        width: 14.0,
        height: 14.0,
        radius: 7.0,
        fill: Some((Paint::Grid, 1.0)),
        stroke: None,
    });
}

fn draw_legend(drawing: &mut Drawing) {
    let entries = [
        ("frozen", FROZEN, 76.0),
        ("LoRA", LORA, 68.0),
        ("trained", TRAINED, 82.0),
        ("no parameters", Paint::Prediction, 0.0),
    ];
    let mut x = 36.0;
    drawing.text(
        (x, 476.0),
        "in the paper's training:",
        12.0,
        Paint::Muted,
        Anchor::Start,
    );
    x += 150.0;
    for (name, paint, step) in entries {
        drawing.shapes.push(Shape::Rect {
            x,
            y: 466.0,
            width: 12.0,
            height: 12.0,
            radius: 3.0,
            fill: Some((Paint::Surface, 1.0)),
            stroke: Some((paint, 2.0)),
        });
        drawing.text((x + 18.0, 476.0), name, 12.0, Paint::Ink, Anchor::Start);
        x += step;
    }
}

/// A box with a title and lines under it.
struct Frame {
    x: f64,
    y: f64,
    width: f64,
    height: f64,
}

impl Frame {
    fn left(&self) -> (f64, f64) {
        (self.x, self.y + self.height / 2.0)
    }

    fn right(&self) -> (f64, f64) {
        (self.x + self.width, self.y + self.height / 2.0)
    }

    fn draw(&self, drawing: &mut Drawing, border: Paint, title: &str, lines: &[&str]) {
        drawing.shapes.push(Shape::Rect {
            x: self.x,
            y: self.y,
            width: self.width,
            height: self.height,
            radius: 8.0,
            fill: Some((Paint::Surface, 1.0)),
            stroke: Some((border, 1.8)),
        });
        let center = self.x + self.width / 2.0;
        let text_height = 18.0 + 16.0 * lines.len() as f64;
        let mut y = self.y + (self.height - text_height) / 2.0 + 14.0;
        drawing.bold_text((center, y), title, 13.0, Paint::Ink, Anchor::Middle);
        y += 2.0;
        for line in lines {
            y += 16.0;
            drawing.text((center, y), *line, 11.5, Paint::Muted, Anchor::Middle);
        }
    }
}

/// A line through corners with a head at its end.
fn arrow(drawing: &mut Drawing, corners: &[(f64, f64)], paint: Paint) {
    let [.., before, tip] = corners else { return };
    let length = (tip.0 - before.0).hypot(tip.1 - before.1).max(1e-9);
    let (dx, dy) = ((tip.0 - before.0) / length, (tip.1 - before.1) / length);
    let back = (tip.0 - 9.0 * dx, tip.1 - 9.0 * dy);
    let mut points = corners[..corners.len() - 1].to_vec();
    points.push((tip.0 - 6.0 * dx, tip.1 - 6.0 * dy));
    drawing.line(points, paint, 1.5);
    drawing.shapes.push(Shape::Polygon {
        points: vec![
            *tip,
            (back.0 - 4.5 * dy, back.1 + 4.5 * dx),
            (back.0 + 4.5 * dy, back.1 - 4.5 * dx),
        ],
        paint,
        opacity: 1.0,
    });
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// `LAVIDA_UPDATE_DOCS=1 cargo test -p lavida docs_flow` writes the file anew.
    #[test]
    fn docs_flow_svg_is_this_drawing() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/flow.svg");
        let svg = flow().svg();
        if std::env::var_os("LAVIDA_UPDATE_DOCS").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &svg).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap();
        assert!(
            committed == svg,
            "docs/flow.svg is old: LAVIDA_UPDATE_DOCS=1 cargo test -p lavida docs_flow"
        );
    }

    #[test]
    fn every_shape_is_inside_the_picture() {
        let drawing = flow();
        for shape in &drawing.shapes {
            let (right, bottom) = match shape {
                Shape::Rect {
                    x,
                    y,
                    width,
                    height,
                    ..
                } => (x + width, y + height),
                Shape::Line { points, .. } | Shape::Polygon { points, .. } => {
                    points.iter().fold((0.0, 0.0), |(right, bottom), point| {
                        (point.0.max(right), point.1.max(bottom))
                    })
                }
                Shape::Text { x, y, .. } => (*x, *y),
            };
            assert!(
                right <= drawing.width && bottom <= drawing.height,
                "{shape:?}"
            );
        }
    }
}
