//! Line plots over steps, and scores over time against the true intervals (the paper's Fig. 4).
//!
//! A plot is data with names; [`LinePlot::drawing`] and [`ScorePlot::drawing`] lay it out, and the drawing becomes SVG or an
//! image. Values that are not finite are left out of the line.

mod axes;

use crate::drawing::{Drawing, Paint};

use axes::{Axes, padded, range};

/// One named line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Series {
    /// As the legend shows it.
    pub name: String,
    /// (x, y), x rising.
    pub points: Vec<(f64, f64)>,
}

/// A place on the x axis with a name, such as the start of a training stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// In units of the x axis.
    pub x: f64,
    /// Shown at the top of the plot, to the right of the place.
    pub label: String,
}

/// Several series over one x axis, for losses.
#[derive(Clone, Debug, PartialEq)]
pub struct LinePlot {
    /// Above the plot.
    pub title: String,
    /// With its unit.
    pub x_label: String,
    /// With its unit.
    pub y_label: String,
    /// At most six stay distinguishable.
    pub series: Vec<Series>,
    /// Vertical dashed lines.
    pub marks: Vec<Mark>,
    /// Points averaged into the bold line; the raw one stays behind it, pale. 0 or 1: only the raw line.
    pub smooth_points: usize,
    /// Logarithmic y axis; values ≤ 0 are left out.
    pub log_y: bool,
    /// px
    pub width: f64,
    /// px
    pub height: f64,
}

impl Default for LinePlot {
    fn default() -> Self {
        Self {
            title: String::new(),
            x_label: "step".into(),
            y_label: String::new(),
            series: Vec::new(),
            marks: Vec::new(),
            smooth_points: 0,
            log_y: false,
            width: 640.0,
            height: 300.0,
        }
    }
}

/// Scores of one video, one a frame, with the true intervals behind them.
#[derive(Clone, Debug, PartialEq)]
pub struct ScorePlot {
    /// Above the plot, usually the video's name.
    pub title: String,
    /// One a frame, any range.
    pub scores: Vec<f32>,
    /// True where the benchmark calls the frame anomalous; empty when nobody knows.
    pub truth: Vec<bool>,
    /// A second line for comparison: its name and one score a frame. For example the swapped prompt.
    pub control: Option<(String, Vec<f32>)>,
    /// Number of the first frame.
    pub first_frame: u64,
    /// Frames a second, when known: the x axis is then in seconds.
    pub fps: Option<f64>,
    /// What a score is, for example `object score (logit)`.
    pub y_label: String,
    /// px
    pub width: f64,
    /// px
    pub height: f64,
}

impl Default for ScorePlot {
    fn default() -> Self {
        Self {
            title: String::new(),
            scores: Vec::new(),
            truth: Vec::new(),
            control: None,
            first_frame: 0,
            fps: None,
            y_label: "anomaly score".into(),
            width: 640.0,
            height: 220.0,
        }
    }
}

impl LinePlot {
    /// Lays the plot out.
    pub fn drawing(&self) -> Drawing {
        let transform = |y: f64| if self.log_y { y.log10() } else { y };
        let series: Vec<Series> = self
            .series
            .iter()
            .map(|series| series.transformed(transform))
            .collect();
        let all = || {
            series
                .iter()
                .flat_map(|series| series.points.iter().copied())
        };
        let x_range = range(
            all()
                .map(|point| point.0)
                .chain(self.marks.iter().map(|mark| mark.x)),
        );
        let y_range = range(all().map(|point| point.1));
        let names: Vec<(String, Paint)> = series
            .iter()
            .enumerate()
            .map(|(index, series)| (series.name.clone(), Paint::Series(index)))
            .collect();
        let mut axes = Axes::new(
            (self.width, self.height),
            [&self.title, &self.x_label, &self.y_label],
            x_range,
            padded(y_range),
            &names,
        );
        axes.draw_frame(self.log_y);
        for mark in &self.marks {
            axes.draw_mark(mark);
        }
        for (index, series) in series.iter().enumerate() {
            let smooth = self.smooth_points > 1 && series.points.len() > 2 * self.smooth_points;
            let raw_opacity = if smooth { 0.28 } else { 1.0 };
            axes.draw_series(
                &thinned(&series.points, 700),
                Paint::Series(index),
                raw_opacity,
                None,
            );
            if smooth {
                let averaged = moving_average(&series.points, self.smooth_points);
                axes.draw_series(&thinned(&averaged, 350), Paint::Series(index), 1.0, None);
            }
        }
        axes.drawing
    }
}

impl Series {
    fn transformed(&self, transform: impl Fn(f64) -> f64) -> Series {
        let points = self.points.iter().map(|&(x, y)| (x, transform(y)));
        Series {
            name: self.name.clone(),
            points: points
                .filter(|(x, y)| x.is_finite() && y.is_finite())
                .collect(),
        }
    }
}

impl ScorePlot {
    /// Lays the plot out.
    pub fn drawing(&self) -> Drawing {
        let n_frames = self.scores.len();
        let seconds_or_frames = |frame: f64| match self.fps {
            Some(fps) if fps > 0.0 => (self.first_frame as f64 + frame) / fps,
            _ => self.first_frame as f64 + frame,
        };
        let in_seconds = self.fps.is_some_and(|fps| fps > 0.0);
        let points = |scores: &[f32]| -> Vec<(f64, f64)> {
            let points = scores.iter().enumerate();
            points
                .map(|(frame, score)| (seconds_or_frames(frame as f64), f64::from(*score)))
                .filter(|point| point.1.is_finite())
                .collect()
        };
        let scores = points(&self.scores);
        let control = self
            .control
            .as_ref()
            .map(|(_, scores)| points(scores))
            .unwrap_or_default();
        let mut names = vec![("score".to_string(), Paint::Prediction)];
        if let Some((name, _)) = &self.control {
            names.push((name.clone(), Paint::Series(5)));
        }
        if self.truth.contains(&true) {
            names.push(("true interval".to_string(), Paint::Truth));
        }
        let mut axes = Axes::new(
            (self.width, self.height),
            [
                &self.title,
                if in_seconds { "time (s)" } else { "frame" },
                &self.y_label,
            ],
            range([
                seconds_or_frames(0.0),
                seconds_or_frames(n_frames.max(1) as f64 - 1.0),
            ]),
            padded(range(scores.iter().chain(&control).map(|point| point.1))),
            &names,
        );
        axes.leave_room_above(20.0);
        for (from, to) in intervals(&self.truth) {
            axes.draw_interval(
                seconds_or_frames(from as f64 - 0.5),
                seconds_or_frames(to as f64 + 0.5),
            );
        }
        axes.draw_frame(false);
        axes.draw_series(&thinned(&control, 900), Paint::Series(5), 1.0, Some(3.0));
        axes.draw_series(&thinned(&scores, 900), Paint::Prediction, 1.0, None);
        if let Some(frame) = self.highest_frame() {
            let at = (
                seconds_or_frames(frame as f64),
                f64::from(self.scores[frame]),
            );
            let number = self.first_frame + frame as u64;
            axes.draw_peak(at, &format!("highest: frame {number}"));
        }
        axes.drawing
    }

    /// Index into `scores` of the highest finite one; the first of equals.
    pub fn highest_frame(&self) -> Option<usize> {
        let finite = self
            .scores
            .iter()
            .enumerate()
            .filter(|(_, score)| score.is_finite());
        finite
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
            .map(|(frame, _)| frame)
    }
}

/// Runs of `true` as (first, last), both inclusive.
pub fn intervals(labels: &[bool]) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (frame, _) in labels.iter().enumerate().filter(|(_, label)| **label) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == frame => *last = frame,
            _ => runs.push((frame, frame)),
        }
    }
    runs
}

/// Mean over a centred window of `n` points.
fn moving_average(points: &[(f64, f64)], n: usize) -> Vec<(f64, f64)> {
    (0..points.len())
        .map(|at| {
            let window = &points[at.saturating_sub(n / 2)..(at + n.div_ceil(2)).min(points.len())];
            let sum: f64 = window.iter().map(|point| point.1).sum();
            (points[at].0, sum / window.len() as f64)
        })
        .collect()
}

/// At most about `most` points: the lowest and the highest of each bucket, in order, so that no peak is lost.
fn thinned(points: &[(f64, f64)], most: usize) -> Vec<(f64, f64)> {
    if points.len() <= most {
        return points.to_vec();
    }
    let bucket = points.len().div_ceil(most / 2);
    points
        .chunks(bucket)
        .flat_map(|chunk| {
            let by_height = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
            let mut ends: Vec<(f64, f64)> = [
                chunk.iter().min_by(by_height),
                chunk.iter().max_by(by_height),
            ]
            .into_iter()
            .flatten()
            .copied()
            .collect();
            ends.sort_by(|a, b| a.0.total_cmp(&b.0));
            ends.dedup();
            ends
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drawing::Shape;

    #[test]
    fn intervals_are_the_runs_of_true() {
        assert_eq!(
            intervals(&[true, true, false, true, false, false, true]),
            [(0, 1), (3, 3), (6, 6)]
        );
        assert_eq!(intervals(&[false, false]), []);
        assert_eq!(intervals(&[]), []);
    }

    #[test]
    fn thinning_keeps_the_highest_and_the_lowest_point() {
        let mut points: Vec<(f64, f64)> = (0..10_000)
            .map(|x| (f64::from(x), f64::from(x % 7)))
            .collect();
        points[4_321].1 = 99.0;
        points[8_765].1 = -99.0;
        let thin = thinned(&points, 500);
        assert!(thin.len() <= 501, "{}", thin.len());
        assert!(thin.contains(&(4_321.0, 99.0)) && thin.contains(&(8_765.0, -99.0)));
        assert!(
            thin.windows(2).all(|pair| pair[0].0 < pair[1].0),
            "in order"
        );
    }

    #[test]
    fn the_average_of_a_flat_line_is_flat() {
        let points: Vec<(f64, f64)> = (0..50).map(|x| (f64::from(x), 2.5)).collect();
        assert_eq!(moving_average(&points, 9), points);
    }

    #[test]
    fn the_highest_frame_is_the_first_of_equals_and_never_nan() {
        let plot = |scores: &[f32]| ScorePlot {
            scores: scores.to_vec(),
            ..ScorePlot::default()
        };
        assert_eq!(plot(&[0.1, 0.9, 0.9, f32::NAN]).highest_frame(), Some(1));
        assert_eq!(plot(&[f32::NAN]).highest_frame(), None);
        assert_eq!(plot(&[]).highest_frame(), None);
    }

    #[test]
    fn empty_plots_are_drawn_too() {
        for svg in [
            LinePlot::default().drawing().svg(),
            ScorePlot::default().drawing().svg(),
        ] {
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"));
        }
    }

    #[test]
    fn true_intervals_become_pink_rectangles() {
        let plot = ScorePlot {
            scores: (0..20).map(|frame| frame as f32 / 20.0).collect(),
            truth: (0..20)
                .map(|frame| (5..9).contains(&frame) || frame == 15)
                .collect(),
            ..ScorePlot::default()
        };
        let shapes = plot.drawing().shapes;
        let pink = shapes
            .iter()
            .filter(|shape| matches!(shape, Shape::Rect { fill: Some((Paint::Truth, opacity)), .. } if *opacity < 0.2))
            .count();
        assert_eq!(pink, 2);
    }

    #[test]
    fn a_small_score_plot_as_svg() {
        let plot = ScorePlot {
            title: "Test001".into(),
            scores: vec![0.0, 0.25, 1.0, 0.5],
            truth: vec![false, true, true, false],
            control: Some(("swapped".into(), vec![0.1, 0.2, 0.1, 0.2])),
            fps: Some(2.0),
            width: 320.0,
            height: 160.0,
            ..ScorePlot::default()
        };
        let svg = plot.drawing().svg();
        let body: Vec<&str> = svg
            .lines()
            .filter(|line| !line.starts_with("<style>"))
            .collect();
        insta::assert_snapshot!(body.join("\n"));
    }
}
