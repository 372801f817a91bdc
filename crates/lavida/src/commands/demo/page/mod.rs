//! The page `lavida demo` writes: what was trained on what, how it went, and how well it finds what it was never shown.
//!
//! [`DemoReport`] is plain values; [`demo_report`] says them in an order a person can follow. A figure that was not measured
//! has no column.

mod training;

use indicatif::HumanBytes;
use lavida_report::{
    canvas::Image,
    drawing::Drawing,
    html::{Block, Card, ChipKind, Page, Section, Strip, Table},
    overlay::MaskStyle,
    plot::{LinePlot, ScorePlot},
    sheet::masked_frame,
};

use training::{data_section, training_section};

use crate::draw::DrawPicture;

/// Everything the page shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DemoReport {
    /// Headline.
    pub title: String,
    /// One sentence under it.
    pub subtitle: String,
    /// The figures to see first: name, value with unit, note.
    pub facts: Vec<(String, String, String)>,
    /// The data flow; see [`super::flow`].
    pub flow: Option<Drawing>,
    /// Settings worth knowing: name, value.
    pub settings: Vec<(String, String)>,
    /// Wall time of each part.
    pub timings: Vec<Timing>,
    /// Every dataset that was built.
    pub datasets: Vec<DatasetSummary>,
    /// Categories that occur in training.
    pub categories_trained: Vec<String>,
    /// Categories of the evaluation, held out of every training clip and prompt.
    pub categories_held_out: Vec<String>,
    /// A few training draws.
    pub draws: Vec<DrawPicture>,
    /// Loss curves, several series each, stage boundaries as marks.
    pub losses: Vec<LinePlot>,
    /// Zero-shot figures.
    pub result: Option<SeedResult>,
    /// Scores and pictures of evaluation videos.
    pub videos: Vec<VideoResult>,
    /// What to keep in mind; say here what fell short.
    pub notes: Vec<String>,
    /// Files of the export.
    pub exports: Vec<ExportFile>,
    /// Commands that repeat or continue this run.
    pub commands: Vec<String>,
}

/// Wall time of one part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Timing {
    /// For example `training, grounding stage`.
    pub part: String,
    /// Wall time.
    pub seconds: f64,
    /// For example `620 steps, 24 clips a second`; may be empty.
    pub note: String,
}

/// One built dataset.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DatasetSummary {
    /// Name and split.
    pub name: String,
    /// `training` or `evaluation`.
    pub purpose: String,
    /// Rows.
    pub samples: u64,
    /// Frames of all rows.
    pub frames: u64,
    /// Segmented objects of all rows.
    pub objects: u64,
    /// Shards.
    pub shards: u64,
    /// Size of all shards.
    pub bytes: u64,
    /// What was left out, by reason.
    pub skipped: Vec<(String, u64)>,
}

/// Zero-shot figures of one seed; `None` where it was not measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SeedResult {
    /// Root seed of the run.
    pub seed: u64,
    /// Area under the ROC curve over all frames.
    pub frame_auc: Option<f64>,
    /// Average precision over all frames.
    pub frame_ap: Option<f64>,
    /// Area under the ROC curve over all pixels.
    pub pixel_auc: Option<f64>,
    /// Frame AUC with the true category swapped for an absent one; 0.5 when the text steers.
    pub swap_auc: Option<f64>,
    /// Pixel AUC of the target against the other objects.
    pub target_vs_others: Option<f64>,
}

/// One evaluation video.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VideoResult {
    /// Name in the benchmark.
    pub name: String,
    /// Categories asked for; true where one is this video's anomaly.
    pub categories: Vec<(String, bool)>,
    /// Frame AUC of this video alone, when it has both kinds of frames.
    pub frame_auc: Option<f64>,
    /// Scores over time.
    pub plot: ScorePlot,
    /// A few frames.
    pub frames: Vec<StripFrame>,
}

/// One frame with its masks.
#[derive(Clone, Debug, PartialEq)]
pub struct StripFrame {
    /// Number in the video.
    pub frame_idx: u64,
    /// The frame.
    pub image: Image,
    /// Ground truth, row-major of the frame's size; `None` where the frame has none.
    pub truth: Option<Vec<bool>>,
    /// Prediction, likewise.
    pub prediction: Option<Vec<bool>>,
    /// The model's score of the frame.
    pub score: f32,
}

/// One exported file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ExportFile {
    /// Relative to the export.
    pub path: String,
    /// Size.
    pub bytes: u64,
    /// Hexadecimal.
    pub sha256: String,
}

/// The whole page as HTML.
///
/// # Panics
///
/// When a mask is not of its frame's size.
pub fn demo_report(report: &DemoReport) -> String {
    let cards = report.facts.iter().map(|(label, value, note)| Card {
        label: label.clone(),
        value: value.clone(),
        note: note.clone(),
    });
    let sections = [
        results_section(report),
        videos_section(report),
        flow_section(report),
        data_section(report),
        training_section(report),
        notes_section(report),
        files_section(report),
    ];
    Page {
        title: report.title.clone(),
        subtitle: report.subtitle.clone(),
        cards: cards.collect(),
        sections: sections
            .into_iter()
            .filter(|section| !section.blocks.is_empty())
            .collect(),
    }
    .html()
}

fn results_section(report: &DemoReport) -> Section {
    let mut blocks = Vec::new();
    if let Some(result) = &report.result {
        blocks.push(Block::Table(result_table(result)));
        blocks.push(Block::List(vec![
            "frame AUC, AP: are frames with the held-out category scored above the others? Chance is 0.5 for AUC.".into(),
            "swapped prompt: the same videos with the true category replaced by an absent one. At 0.5 it is the text that steers the \
             score, not the look of the frame."
                .into(),
            "target vs others: pixel AUC of the target's pixels against those of the other objects. Finding any object is not enough here."
                .into(),
        ]));
    }
    Section {
        title: "Zero-shot results".into(),
        intro: "Scored on videos whose anomaly categories are in no training clip and in no training prompt.".into(),
        blocks,
    }
}

/// One row, of the figures that were measured.
fn result_table(result: &SeedResult) -> Table {
    let figures = [
        ("frame AUC", result.frame_auc),
        ("frame AP", result.frame_ap),
        ("pixel AUC", result.pixel_auc),
        ("swapped prompt", result.swap_auc),
        ("target vs others", result.target_vs_others),
    ];
    let mut head = vec!["seed".to_owned()];
    let mut row = vec![result.seed.to_string()];
    for (name, figure) in figures {
        if let Some(value) = figure {
            head.push(name.to_owned());
            row.push(format!("{value:.3}"));
        }
    }
    Table {
        numeric: (1..head.len()).collect(),
        head,
        rows: vec![row],
        last_row_is_summary: false,
    }
}

fn videos_section(report: &DemoReport) -> Section {
    let boxes: Vec<Vec<Block>> = report.videos.iter().map(video_blocks).collect();
    Section {
        title: "Video by video".into(),
        intro: "Score of every frame; the true intervals are pink, the frame of highest score is marked. Below, ground truth in magenta \
                and the model's mask in green."
            .into(),
        blocks: if boxes.is_empty() { Vec::new() } else { vec![Block::Boxes(boxes)] },
    }
}

fn video_blocks(video: &VideoResult) -> Vec<Block> {
    let auc = video
        .frame_auc
        .map_or(String::new(), |auc| format!(", frame AUC {auc:.3}"));
    let mut blocks = vec![Block::Heading(format!("{}{auc}", video.name))];
    if !video.categories.is_empty() {
        blocks.push(Block::Chips("asked for".into(), chips(&video.categories)));
    }
    blocks.push(Block::Drawing(video.plot.drawing()));
    if !video.frames.is_empty() {
        blocks.push(Block::Strip(video_strip(&video.frames)));
    }
    blocks
}

fn video_strip(frames: &[StripFrame]) -> Strip {
    let side = (840 / frames.len().max(1) as u32).clamp(120, 240);
    let cell = |frame: &StripFrame, mask: &Option<Vec<bool>>, style: MaskStyle| {
        let masks: Vec<(&[bool], MaskStyle)> = mask
            .as_deref()
            .map(|mask| (mask, style))
            .into_iter()
            .collect();
        Some(masked_frame(&frame.image, &masks, side, side))
    };
    let mut rows = vec![(
        "input".to_string(),
        frames
            .iter()
            .map(|frame| cell(frame, &None, MaskStyle::truth()))
            .collect(),
    )];
    if frames.iter().any(|frame| frame.truth.is_some()) {
        let row = frames
            .iter()
            .map(|frame| cell(frame, &frame.truth, MaskStyle::truth()));
        rows.push(("truth".to_string(), row.collect()));
    }
    let row = frames
        .iter()
        .map(|frame| cell(frame, &frame.prediction, MaskStyle::prediction()));
    rows.push(("model".to_string(), row.collect()));
    let numbers = frames.iter().map(|frame| frame.frame_idx.to_string());
    let scores = frames
        .iter()
        .map(|frame| format!("{:.2}", frame.score).replacen('-', "−", 1));
    Strip {
        head: vec![
            ("frame".into(), numbers.collect()),
            ("score".into(), scores.collect()),
        ],
        rows,
    }
}

fn chips(categories: &[(String, bool)]) -> Vec<(String, ChipKind)> {
    let kind = |is_true: bool| {
        if is_true {
            ChipKind::Truth
        } else {
            ChipKind::Plain
        }
    };
    categories
        .iter()
        .map(|(name, is_true)| (name.clone(), kind(*is_true)))
        .collect()
}

fn flow_section(report: &DemoReport) -> Section {
    Section {
        title: "How it works".into(),
        intro: "Objects that somebody segmented become pseudo-anomalies: a prompt names some categories, and the model learns to say in which \
                frames and pixels one of them is. A real anomaly is then only another category to ask for."
            .into(),
        blocks: report.flow.clone().map(Block::Drawing).into_iter().collect(),
    }
}

fn notes_section(report: &DemoReport) -> Section {
    Section {
        title: "Read this before quoting a figure".into(),
        intro: String::new(),
        blocks: if report.notes.is_empty() {
            Vec::new()
        } else {
            vec![Block::List(report.notes.clone())]
        },
    }
}

fn files_section(report: &DemoReport) -> Section {
    let mut blocks = Vec::new();
    if !report.exports.is_empty() {
        blocks.push(Block::Table(Table {
            head: vec!["file".into(), "size".into(), "sha256".into()],
            rows: report
                .exports
                .iter()
                .map(|file| {
                    vec![
                        format!("`{}`", file.path),
                        HumanBytes(file.bytes).to_string(),
                        format!("`{}`", file.sha256),
                    ]
                })
                .collect(),
            numeric: vec![1],
            ..Table::default()
        }));
    }
    if !report.commands.is_empty() {
        blocks.push(Block::Heading("Go on from here".into()));
        blocks.push(Block::Code(report.commands.join("\n")));
    }
    Section {
        title: "Files".into(),
        intro: "The export holds the merged weights under the reference's parameter names.".into(),
        blocks,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_that_were_not_measured_have_no_column() {
        let table = result_table(&SeedResult {
            seed: 2,
            frame_auc: Some(0.8),
            swap_auc: Some(0.5),
            ..SeedResult::default()
        });
        assert_eq!(table.head, ["seed", "frame AUC", "swapped prompt"]);
        assert_eq!(table.rows, [["2", "0.800", "0.500"]]);
    }

    #[test]
    fn a_section_without_content_is_left_out() {
        let html = demo_report(&DemoReport {
            title: "nothing yet".into(),
            ..DemoReport::default()
        });
        assert!(!html.contains("<section"));
    }

    #[test]
    fn the_same_report_gives_the_same_bytes() {
        let report = DemoReport {
            title: "t".into(),
            videos: vec![VideoResult {
                name: "Test001".into(),
                frames: vec![StripFrame {
                    frame_idx: 3,
                    image: Image::new(32, 32, [90, 90, 90]),
                    truth: Some(vec![true; 1024]),
                    prediction: None,
                    score: -0.5,
                }],
                ..VideoResult::default()
            }],
            ..DemoReport::default()
        };
        assert_eq!(demo_report(&report), demo_report(&report.clone()));
    }
}
