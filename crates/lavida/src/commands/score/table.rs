//! The document of `lavida score` as a table for people.

use lavida_score::referee::{CONVENTIONS, Estimate, Variant, truth::reference_grid};

use super::Document;

/// What marks a figure that the footnotes explain.
const MARK: char = '*';
const NONE: &str = "–";
const TITLE_WIDTH: usize = 26;
const COLUMN_WIDTH: usize = 27;

pub(super) fn of(document: &Document) -> String {
    let report = &document.report;
    let share = 100.0 * report.anomalous_frames as f64 / report.frames.max(1) as f64;
    let mut text = format!(
        "{} frames of {} videos, {} anomalous ({share:.1} %); {} videos normal throughout, {} anomalous throughout; scores from \
         {} to {}\n",
        report.frames,
        report.videos,
        report.anomalous_frames,
        report.normal_videos,
        report.anomalous_videos,
        report.score_range[0],
        report.score_range[1],
    );
    for note in &document.notes {
        text += &format!("note: {note}\n");
    }
    let mut footnotes: Vec<String> = Vec::new();
    for min_max in [false, true] {
        let variants: Vec<&Variant> = report
            .variants
            .iter()
            .filter(|v| v.min_max == min_max)
            .collect();
        let title = if min_max {
            "each video min-max"
        } else {
            "scores as they are"
        };
        text += &format!("\n{title:<TITLE_WIDTH$}");
        for variant in &variants {
            let heading = match variant.smoothing_sigma_frames {
                0.0 => "not smoothed".to_owned(),
                sigma => format!("smoothed, σ {sigma} frames"),
            };
            text += &format!("  {heading:<COLUMN_WIDTH$}");
        }
        text = text.trim_end().to_owned() + "\n";
        for (row, convention) in CONVENTIONS.iter().enumerate() {
            let mut line = format!("  {:<1$}", convention.title, TITLE_WIDTH - 2);
            for variant in &variants {
                let estimate = variant.figures.in_order()[row];
                let best_at = (convention.name == "f1_best")
                    .then_some(variant.figures.f1_best_threshold)
                    .flatten();
                line += &format!("  {:<COLUMN_WIDTH$}", cell(estimate, best_at));
                footnotes.extend(footnote(convention.title, estimate));
            }
            text += &format!("{}\n", line.trim_end());
        }
    }
    text += &pixels_and_regions(document);
    footnotes.dedup();
    for footnote in footnotes {
        text += &format!("\n{footnote}");
    }
    text += "\n\nHow, and whose:\n";
    for convention in &CONVENTIONS {
        text += &format!(
            "  {}: {}. {}.\n",
            convention.title, convention.meaning, convention.used_by
        );
    }
    text += "  each video min-max: a video's scores stretched to [0, 1] by its own least and greatest, which an alarm does not know \
             yet; ShanghaiTech and Avenue papers.\n  smoothed: SciPy's gaussian_filter1d over each video, after min-max.";
    if report.n_resamples > 0 {
        text += &format!(
            "\n  [low, high]: 95 % of {} resamples of the videos, seed {}.",
            report.n_resamples, report.seed
        );
    }
    text
}

fn cell(estimate: &Estimate, best_at: Option<f64>) -> String {
    let Some(value) = estimate.value else {
        return NONE.to_owned();
    };
    let mut text = format!("{value:.4}");
    if estimate.artefact.is_some() {
        text.push(MARK);
    }
    if let Some([low, high]) = estimate.interval {
        text += &format!(" [{low:.4}, {high:.4}]");
    }
    if let Some(threshold) = best_at {
        text += &format!(" from {threshold:.4} on");
    }
    text
}

fn footnote(title: &str, estimate: &Estimate) -> Option<String> {
    let artefact = estimate.artefact.as_ref()?;
    Some(format!("{MARK} {title}: {artefact}"))
}

fn pixels_and_regions(document: &Document) -> String {
    let figure = |value: Option<f64>, bound: Option<f64>| match (value, bound) {
        (Some(value), Some(bound)) if bound > 0.0 => format!("{value:.4} ± {bound:.1e}"),
        (Some(value), _) => format!("{value:.4}"),
        (None, _) => NONE.to_owned(),
    };
    let mut text = String::new();
    if let Some(pixels) = &document.pixels {
        text += &format!(
            "\npixels of {} videos, {} in all\n",
            pixels.videos, pixels.pixels
        );
        let own = figure(pixels.pixel_auc, pixels.pixel_auc_bound);
        let reference = figure(
            pixels.reference_grid_pixel_auc,
            pixels.reference_grid_pixel_auc_bound,
        );
        let title = format!("on {}", reference_grid());
        text += &format!(
            "  {:<24}  {own}\n  {title:<24}  {reference}  LAVIDA's reference\n",
            "on the grid of the maps"
        );
    }
    if let Some(regions) = &document.regions {
        text += &format!(
            "\n{} detections, {} boxes of {} tracks (α = β = 0.1, AED's compute_tbdc_rbdc.py)\n  {:<24}  {:.4}\n  {:<24}  {:.4}\n",
            regions.detections,
            regions.regions,
            regions.tracks,
            "RBDC",
            regions.rbdc,
            "TBDC",
            regions.tbdc
        );
        if regions.reaches < 1.0 {
            text += &format!(
                "  the detections reach {:.4} false ones a frame; beyond, the curve is level\n",
                regions.reaches
            );
        }
    }
    text
}
