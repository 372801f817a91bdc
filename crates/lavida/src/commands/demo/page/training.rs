//! The sections on what was trained on and how training went.

use indicatif::{HumanBytes, HumanCount};
use lavida_report::{
    html::{Bar, Block, ChipKind, Section, Strip, Table},
    overlay::MaskStyle,
    sheet::masked_frame,
};
use lavida_terminal::units::tenths;

use super::{DatasetSummary, DemoReport, Timing, chips};
use crate::draw::DrawPicture;

pub(super) fn data_section(report: &DemoReport) -> Section {
    let mut blocks = Vec::new();
    if !report.datasets.is_empty() {
        blocks.push(Block::Table(datasets_table(&report.datasets)));
    }
    let plain =
        |names: &[String], kind: ChipKind| names.iter().map(|name| (name.clone(), kind)).collect();
    if !report.categories_held_out.is_empty() {
        let chips = plain(&report.categories_held_out, ChipKind::Truth);
        blocks.push(Block::Chips("held out, only in evaluation".into(), chips));
    }
    if !report.categories_trained.is_empty() {
        let chips = plain(&report.categories_trained, ChipKind::Plain);
        blocks.push(Block::Chips("trained on".into(), chips));
    }
    if !report.draws.is_empty() {
        blocks.push(Block::Heading("What the model is shown".into()));
        blocks.push(Block::Boxes(report.draws.iter().map(draw_blocks).collect()));
    }
    Section {
        title: "Data".into(),
        intro: "Source datasets become shards once; what counts as an anomaly is drawn anew in every epoch.".into(),
        blocks,
    }
}

fn datasets_table(datasets: &[DatasetSummary]) -> Table {
    let skipped = |dataset: &DatasetSummary| {
        let reasons: Vec<String> = dataset
            .skipped
            .iter()
            .map(|(reason, n)| format!("{reason}: {n}"))
            .collect();
        if reasons.is_empty() {
            "nothing".into()
        } else {
            reasons.join(", ")
        }
    };
    let columns = [
        "dataset", "for", "samples", "frames", "objects", "shards", "size", "skipped",
    ];
    Table {
        head: columns.map(str::to_string).to_vec(),
        rows: datasets
            .iter()
            .map(|dataset| {
                vec![
                    dataset.name.clone(),
                    dataset.purpose.clone(),
                    HumanCount(dataset.samples).to_string(),
                    HumanCount(dataset.frames).to_string(),
                    HumanCount(dataset.objects).to_string(),
                    HumanCount(dataset.shards).to_string(),
                    HumanBytes(dataset.bytes).to_string(),
                    skipped(dataset),
                ]
            })
            .collect(),
        numeric: vec![2, 3, 4, 5, 6],
        last_row_is_summary: false,
    }
}

fn draw_blocks(draw: &DrawPicture) -> Vec<Block> {
    let side = (840 / draw.frames.len().max(1) as u32).clamp(120, 240);
    let images = draw.frames.iter().enumerate().map(|(frame_idx, frame)| {
        let mask = draw.masks.get(frame_idx).and_then(Option::as_deref);
        let masks: Vec<(&[bool], MaskStyle)> = mask
            .map(|mask| (mask, MaskStyle::truth()))
            .into_iter()
            .collect();
        Some(masked_frame(frame, &masks, side, side))
    });
    let label =
        |is_anomalous: &bool| if *is_anomalous { "anomalous" } else { "normal" }.to_string();
    let mut blocks = vec![
        Block::Heading(draw.title.clone()),
        Block::Strip(Strip {
            head: vec![(String::new(), draw.frame_labels.iter().map(label).collect())],
            rows: vec![(String::new(), images.collect())],
        }),
        Block::Chips(String::new(), chips(&draw.categories)),
        Block::Quote(draw.prompt.clone()),
    ];
    if !draw.subtitle.is_empty() {
        blocks.push(Block::Note(draw.subtitle.clone()));
    }
    blocks
}

pub(super) fn training_section(report: &DemoReport) -> Section {
    let mut blocks: Vec<Block> = report
        .losses
        .iter()
        .map(|plot| Block::Drawing(plot.drawing()))
        .collect();
    if !report.timings.is_empty() {
        blocks.extend(timing_blocks(&report.timings));
    }
    if !report.settings.is_empty() {
        blocks.push(Block::Heading("Settings".into()));
        blocks.push(Block::Table(Table {
            head: vec!["setting".into(), "value".into()],
            rows: report
                .settings
                .iter()
                .map(|(name, value)| vec![format!("`{name}`"), value.clone()])
                .collect(),
            ..Table::default()
        }));
    }
    Section {
        title: "Training".into(),
        intro: String::new(),
        blocks,
    }
}

/// One bar a part, the longest part filling its track, and the sum as a heading.
fn timing_blocks(timings: &[Timing]) -> Vec<Block> {
    let total: f64 = timings.iter().map(|timing| timing.seconds).sum();
    let longest = timings
        .iter()
        .map(|timing| timing.seconds)
        .fold(f64::MIN_POSITIVE, f64::max);
    let bars = timings.iter().map(|timing| Bar {
        label: timing.part.clone(),
        share: timing.seconds / longest,
        value: tenths(timing.seconds),
        note: timing.note.clone(),
    });
    vec![
        Block::Heading(format!("Where the time went: {}", tenths(total))),
        Block::Bars(bars.collect()),
    ]
}
