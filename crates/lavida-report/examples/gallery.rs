//! Renders every kind of picture from made-up values, to look at while working on layout:
//! `cargo run -p lavida-report --example gallery -- DIR`.

use std::path::PathBuf;

use lavida_report::canvas::Image;
use lavida_report::html::{Bar, Block, Card, ChipKind, Page, Picture, Section, Strip, Table};
use lavida_report::overlay::{MaskStyle, overlay_mask};
use lavida_report::plot::{LinePlot, Mark, ScorePlot, Series};
use lavida_report::sheet::{ContactSheet, Tile, masked_frame};

const SIDE: i64 = 64;

fn main() -> std::io::Result<()> {
    let dir = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "gallery".into()));
    std::fs::create_dir_all(&dir)?;
    let write = |name: &str, bytes: &[u8]| std::fs::write(dir.join(name), bytes);

    write("index.html", made_up_page().html().as_bytes())?;
    write("losses.png", &made_up_losses().drawing().image(1.0).png())?;
    write(
        "scores.png",
        &made_up_scores(0, 180).drawing().image(1.5).png(),
    )?;
    write(
        "scores.svg",
        made_up_scores(0, 180).drawing().svg().as_bytes(),
    )?;
    write("sheet.png", &made_up_sheet().image().png())?;
    let (frame, mask) = scene(3, 5);
    let styles = [(mask.as_slice(), MaskStyle::prediction())];
    write(
        "overlay.png",
        &masked_frame(&frame, &styles, 512, 512).png(),
    )?;
    let mut large = Image::new(640, 480, [96, 104, 110]);
    let ring: Vec<bool> = (0..640 * 480)
        .map(|at| {
            let (x, y) = (f64::from(at % 640) - 300.0, f64::from(at / 640) - 240.0);
            (60.0..150.0).contains(&x.hypot(y))
        })
        .collect();
    overlay_mask(
        &mut large,
        &ring,
        &MaskStyle {
            contour_px: 3,
            ..MaskStyle::prediction()
        },
    );
    write("contour.png", &large.png())?;
    Ok(())
}

/// A cheap repeatable value in [0, 1).
fn noise(at: u64) -> f64 {
    let mixed = (at ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((mixed ^ (mixed >> 32)) >> 11) as f64 / (1u64 << 53) as f64
}

/// A textured frame with a red square (masked) and a blue disc.
fn scene(seed: u64, time: i64) -> (Image, Vec<bool>) {
    let mut pixels = Vec::new();
    let mut mask = Vec::new();
    let square = (
        10 + time * 3 + (seed as i64 * 5) % 11,
        20 + (seed as i64 * 7) % 17,
    );
    let disc = (50 - time * 2, 44 - (seed as i64 * 3) % 20);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let texture = 90.0
                + 26.0 * ((x / 8 + y / 8) % 2) as f64
                + 20.0 * (noise(seed * 977 + (x * SIDE + y + time * 4099) as u64) - 0.5);
            let in_square = (x - square.0).abs() <= 8 && (y - square.1).abs() <= 8;
            let in_disc = (x - disc.0).pow(2) + (y - disc.1).pow(2) <= 64;
            let color = if in_square {
                [200.0, 48.0, 40.0]
            } else if in_disc {
                [40.0, 90.0, 210.0]
            } else {
                [texture, texture * 1.02, texture * 0.96]
            };
            pixels.extend(color.map(|value: f64| value.clamp(0.0, 255.0) as u8));
            mask.push(in_square);
        }
    }
    (Image::from_rgb(SIDE as u32, SIDE as u32, pixels), mask)
}

fn made_up_losses() -> LinePlot {
    let names = ["mask focal", "dice", "object", "language"];
    let series = names.iter().enumerate().map(|(index, name)| {
        let height = [1.2, 0.9, 0.65, 2.1][index];
        let points = (0..900).map(|step| {
            let fall = 0.25 + 0.75 * (-f64::from(step) / 260.0).exp();
            let rough = 1.0 + 0.35 * (noise(step as u64 * 13 + index as u64) - 0.5);
            (f64::from(step), height * fall * rough)
        });
        Series {
            name: (*name).into(),
            points: points.collect(),
        }
    });
    LinePlot {
        title: "Losses of the paper's training".into(),
        x_label: "step".into(),
        y_label: "loss, unweighted".into(),
        series: series.collect(),
        marks: vec![Mark {
            x: 540.0,
            label: "towers frozen".into(),
        }],
        smooth_points: 25,
        width: 1040.0,
        height: 320.0,
        ..LinePlot::default()
    }
}

fn made_up_scores(seed: u64, n_frames: usize) -> ScorePlot {
    let truth: Vec<bool> = (0..n_frames)
        .map(|frame| (52..88).contains(&frame) || (120 + seed as usize..141).contains(&frame))
        .collect();
    let scores = truth.iter().enumerate().map(|(frame, anomalous)| {
        let base = if *anomalous { 2.4 } else { -2.2 };
        (base + 2.4 * (noise(seed * 31 + frame as u64 / 3) - 0.5)) as f32
    });
    let swapped = (0..n_frames)
        .map(|frame| (-2.0 + 1.6 * (noise(seed * 57 + frame as u64 / 4) - 0.5)) as f32);
    ScorePlot {
        title: String::new(),
        scores: scores.collect(),
        control: Some(("swapped prompt".into(), swapped.collect())),
        truth,
        fps: Some(10.0),
        y_label: "object score (logit)".into(),
        width: 520.0,
        height: 200.0,
        ..ScorePlot::default()
    }
}

fn made_up_sheet() -> ContactSheet {
    let tiles = (0..10).map(|seed| {
        let (frame, mask) = scene(seed, (seed % 5) as i64);
        Tile {
            image: masked_frame(&frame, &[(mask.as_slice(), MaskStyle::truth())], 200, 200),
            caption: format!("train/{seed:04}/0"),
            text: "red square moving right; blue disc; the square that crosses the disc".into(),
            border: None,
        }
    });
    ContactSheet {
        title: "coco-synth, train".into(),
        subtitle: "10 of 512 samples, 1,024 objects. Masks as stored, every object of a sample."
            .into(),
        columns: 5,
        tile_width: 200,
        tile_height: 200,
        tiles: tiles.collect(),
    }
}

/// Every kind of block.
fn made_up_page() -> Page {
    let (frame, mask) = scene(1, 2);
    let cell = |style: Option<MaskStyle>| {
        let masks: Vec<(&[bool], MaskStyle)> = style
            .map(|style| (mask.as_slice(), style))
            .into_iter()
            .collect();
        Some(masked_frame(&frame, &masks, 160, 160))
    };
    let text = String::from;
    let blocks = vec![
        Block::Heading(text("A heading")),
        Block::Paragraph(text(
            "Running text with `code` and <markup> that is shown as it is.",
        )),
        Block::Quote(text("What somebody says.")),
        Block::List(vec![text("one"), text("two")]),
        Block::Cards(vec![Card {
            label: text("frame AUC"),
            value: text("0.87"),
            note: text("mean of three seeds"),
        }]),
        Block::Chips(
            text("asked for"),
            vec![
                (text("red square"), ChipKind::Truth),
                (text("bicycle"), ChipKind::Plain),
                (text("found"), ChipKind::Prediction),
            ],
        ),
        Block::Table(Table {
            head: vec![text("seed"), text("AUC")],
            rows: vec![
                vec![text("11"), text("0.84")],
                vec![text("mean"), text("0.84")],
            ],
            numeric: vec![1],
            last_row_is_summary: true,
        }),
        Block::Bars(vec![
            Bar {
                label: text("training"),
                share: 1.0,
                value: text("4 min 50 s"),
                note: text("540 steps"),
            },
            Bar {
                label: text("export"),
                share: 0.1,
                value: text("3.3 s"),
                note: String::new(),
            },
        ]),
        Block::Code(text("lavida eval --checkpoint run --data shards/ped2")),
        Block::Note(text("Smaller and paler.")),
    ];
    let pictures = vec![
        Block::Boxes(vec![
            vec![Block::Drawing(made_up_scores(0, 180).drawing())],
            vec![Block::Drawing(made_up_scores(2, 180).drawing())],
        ]),
        Block::Strip(Strip {
            head: vec![(text("frame"), vec![text("3"), text("7"), text("11")])],
            rows: vec![
                (text("input"), vec![cell(None); 3]),
                (text("truth"), vec![cell(Some(MaskStyle::truth())); 3]),
                (
                    text("model"),
                    vec![cell(Some(MaskStyle::prediction())), None, None],
                ),
            ],
        }),
        Block::Picture(Picture {
            image: made_up_sheet().image(),
            description: text("ten tiles"),
            caption: text("A contact sheet."),
        }),
        Block::Drawing(made_up_losses().drawing()),
    ];
    let section = |title: &str, blocks| Section {
        title: title.to_owned(),
        intro: String::new(),
        blocks,
    };
    Page {
        title: text("Gallery"),
        subtitle: text("Every block that a page can have."),
        cards: vec![Card {
            label: text("blocks"),
            value: text("14"),
            note: String::new(),
        }],
        sections: vec![section("Text", blocks), section("Pictures", pictures)],
    }
}
