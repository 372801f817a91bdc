//! What every plot has around its data: title, legend, grid, ticks, labels.

use crate::drawing::{Anchor, Drawing, Paint, Shape, text_width};

use super::Mark;

/// Room for browsers whose sans-serif is wider than Ubuntu, such as DejaVu Sans.
const WIDER_FONTS: f64 = 1.16;

/// Title, legend, grid and labels around a rectangle in which data is drawn.
pub(super) struct Axes {
    pub(super) drawing: Drawing,
    x_range: (f64, f64),
    y_range: (f64, f64),
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Axes {
    pub(super) fn new(
        (width, height): (f64, f64),
        [title, x_label, y_label]: [&str; 3],
        x_range: (f64, f64),
        y_range: (f64, f64),
        legend: &[Entry],
    ) -> Self {
        let mut drawing = Drawing::new(width, height, title);
        let mut line = 0.0;
        if !title.is_empty() {
            drawing.bold_text((14.0, 22.0), title, 15.0, Paint::Ink, Anchor::Start);
            line = 22.0;
        }
        let rows = legend_rows(legend, width - 28.0);
        for row in &rows {
            line += 19.0;
            draw_legend(&mut drawing, row, (width - 14.0, line));
        }
        // The label stands left of the legend where there is room, else below it.
        let label_width = text_width(y_label, 12.0) * WIDER_FONTS;
        let last_row = rows
            .last()
            .map(|row| row.iter().map(entry_width).sum::<f64>());
        if last_row.is_none_or(|row| label_width + row > width - 28.0) {
            line += 19.0;
        }
        drawing.text((14.0, line), y_label, 12.0, Paint::Muted, Anchor::Start);
        let top = line + 14.0;
        drawing.text(
            (width - 14.0, height - 9.0),
            x_label,
            12.0,
            Paint::Muted,
            Anchor::End,
        );
        Self {
            drawing,
            x_range,
            y_range,
            left: 52.0,
            right: width - 16.0,
            top,
            bottom: height - 42.0,
        }
    }

    /// Stretches the y range upwards, for a label above the highest point.
    pub(super) fn leave_room_above(&mut self, px: f64) {
        let (from, to) = self.y_range;
        self.y_range.1 = to + (to - from) * px / (self.bottom - self.top - px).max(1.0);
    }

    fn x(&self, value: f64) -> f64 {
        let (from, to) = self.x_range;
        self.left + (value - from) / (to - from) * (self.right - self.left)
    }

    fn y(&self, value: f64) -> f64 {
        let (from, to) = self.y_range;
        self.bottom - (value - from) / (to - from) * (self.bottom - self.top)
    }

    pub(super) fn draw_frame(&mut self, log_y: bool) {
        let n_rows = ((self.bottom - self.top) / 42.0).round().clamp(2.0, 8.0) as usize;
        let rows = ticks(self.y_range, n_rows);
        let step = rows.get(1).map_or(1.0, |second| second - rows[0]);
        for value in rows {
            let y = self.y(value);
            self.drawing
                .line(vec![(self.left, y), (self.right, y)], Paint::Grid, 1.0);
            let label = if log_y {
                let value = 10f64.powf(value);
                if value >= 1.0 {
                    format!("{value:.1}")
                } else {
                    format!("{value:.3}")
                }
            } else {
                tick_label(value, step)
            };
            self.drawing.text(
                (self.left - 8.0, y + 4.0),
                label,
                12.0,
                Paint::Muted,
                Anchor::End,
            );
        }
        let n_columns = ((self.right - self.left) / 80.0).round().clamp(2.0, 12.0) as usize;
        let columns = ticks(self.x_range, n_columns);
        let step = columns.get(1).map_or(1.0, |second| second - columns[0]);
        for value in columns {
            let x = self.x(value);
            self.drawing.line(
                vec![(x, self.bottom), (x, self.bottom + 5.0)],
                Paint::Muted,
                1.0,
            );
            let label = tick_label(value, step);
            self.drawing.text(
                (x, self.bottom + 19.0),
                label,
                12.0,
                Paint::Muted,
                Anchor::Middle,
            );
        }
        self.drawing.line(
            vec![(self.left, self.bottom), (self.right, self.bottom)],
            Paint::Muted,
            1.2,
        );
    }

    pub(super) fn draw_mark(&mut self, mark: &Mark) {
        let x = self.x(mark.x);
        self.drawing.shapes.push(Shape::Line {
            points: vec![(x, self.top), (x, self.bottom)],
            paint: Paint::Muted,
            width: 1.2,
            opacity: 1.0,
            dash: Some(4.0),
        });
        let width = text_width(&mark.label, 12.0) * WIDER_FONTS;
        let (at, anchor) = if x + 6.0 + width > self.right {
            (x - 6.0, Anchor::End)
        } else {
            (x + 6.0, Anchor::Start)
        };
        self.drawing
            .text((at, self.top + 10.0), &mark.label, 12.0, Paint::Ink, anchor);
    }

    pub(super) fn draw_interval(&mut self, from: f64, to: f64) {
        let (from, to) = (self.x(from).max(self.left), self.x(to).min(self.right));
        self.drawing.shapes.push(Shape::Rect {
            x: from,
            y: self.top,
            width: (to - from).max(1.0),
            height: self.bottom - self.top,
            radius: 0.0,
            fill: Some((Paint::Truth, 0.18)),
            stroke: None,
        });
    }

    pub(super) fn draw_series(
        &mut self,
        points: &[(f64, f64)],
        paint: Paint,
        opacity: f64,
        dash: Option<f64>,
    ) {
        let points: Vec<(f64, f64)> = points
            .iter()
            .map(|point| (self.x(point.0), self.y(point.1)))
            .collect();
        match points[..] {
            [] => {}
            [(x, y)] => self.draw_dot((x, y), paint, 3.0),
            _ => self.drawing.shapes.push(Shape::Line {
                points,
                paint,
                width: 1.9,
                opacity,
                dash,
            }),
        }
    }

    pub(super) fn draw_peak(&mut self, at: (f64, f64), label: &str) {
        let (x, y) = (self.x(at.0), self.y(at.1));
        self.draw_dot((x, y), Paint::Surface, 6.0);
        self.draw_dot((x, y), Paint::Prediction, 4.2);
        // Above the dot, inside the plot.
        let half = text_width(label, 12.0) * WIDER_FONTS / 2.0 + 2.0;
        let center = x.clamp(self.left + half, (self.right - half).max(self.left + half));
        self.drawing
            .bold_text((center, y - 11.0), label, 12.0, Paint::Ink, Anchor::Middle);
    }

    fn draw_dot(&mut self, (x, y): (f64, f64), paint: Paint, radius: f64) {
        self.drawing.shapes.push(Shape::Rect {
            x: x - radius,
            y: y - radius,
            width: 2.0 * radius,
            height: 2.0 * radius,
            radius,
            fill: Some((paint, 1.0)),
            stroke: None,
        });
    }
}

/// Name of a series and how it is drawn.
type Entry = (String, Paint);

/// Its swatch, its name, and what keeps it apart from what is left of it.
fn entry_width((name, _): &Entry) -> f64 {
    text_width(name, 12.0) * WIDER_FONTS + SWATCH + 14.0
}

/// A swatch and what keeps it apart from its name.
const SWATCH: f64 = 21.0;

/// Entries that have names, in as many rows as they need.
fn legend_rows(legend: &[Entry], width: f64) -> Vec<Vec<Entry>> {
    let mut rows: Vec<Vec<Entry>> = Vec::new();
    let mut used = f64::INFINITY;
    for entry in legend.iter().filter(|(name, _)| !name.is_empty()) {
        used += entry_width(entry);
        match rows.last_mut() {
            Some(row) if used <= width => row.push(entry.clone()),
            _ => {
                used = entry_width(entry);
                rows.push(vec![entry.clone()]);
            }
        }
    }
    rows
}

/// A row that ends at `right`.
fn draw_legend(drawing: &mut Drawing, row: &[Entry], (right, line): (f64, f64)) {
    let mut x = right;
    for entry in row.iter().rev() {
        let (name, paint) = entry;
        let begin = x - entry_width(entry);
        let at = x - text_width(name, 12.0) * WIDER_FONTS;
        drawing.text((at, line), name, 12.0, Paint::Ink, Anchor::Start);
        let is_interval = *paint == Paint::Truth;
        let swatch_height = if is_interval { 11.0 } else { 3.0 };
        drawing.shapes.push(Shape::Rect {
            x: at - SWATCH,
            y: line - 4.0 - swatch_height / 2.0,
            width: 15.0,
            height: swatch_height,
            radius: if is_interval { 2.0 } else { 1.5 },
            fill: Some((*paint, if is_interval { 0.3 } else { 1.0 })),
            stroke: None,
        });
        x = begin;
    }
}

/// Round numbers inside the range, as near to `n` of them as 1, 2, 5 steps allow.
fn ticks((from, to): (f64, f64), n: usize) -> Vec<f64> {
    let magnitude = 10f64.powf(((to - from) / n.max(1) as f64).log10().floor());
    [0.5, 1.0, 2.0, 5.0, 10.0]
        .map(|factor| {
            let step = factor * magnitude;
            let first = (from / step - 1e-9).ceil() as i64;
            let last = (to / step + 1e-9).floor() as i64;
            (first..=last)
                .map(|tick| tick as f64 * step)
                .collect::<Vec<_>>()
        })
        .into_iter()
        .min_by_key(|ticks| ticks.len().abs_diff(n))
        .unwrap_or_default()
}

/// As few decimals as tell the ticks apart; thousands separated.
fn tick_label(value: f64, step: f64) -> String {
    let decimals = if step >= 1.0 {
        0
    } else {
        (-step.log10()).ceil().min(6.0) as usize
    };
    let text = format!("{value:.decimals$}");
    let text = if text
        .trim_start_matches('-')
        .chars()
        .all(|c| c == '0' || c == '.')
    {
        text.trim_start_matches('-').to_string()
    } else {
        text
    };
    if value.abs() < 10_000.0 {
        return text.replacen('-', "−", 1);
    }
    let digits: Vec<char> = text.chars().rev().collect();
    let groups: Vec<String> = digits
        .chunks(3)
        .map(|group| group.iter().rev().collect())
        .collect();
    groups.into_iter().rev().collect::<Vec<_>>().join(",")
}

/// Smallest and largest; widened when they are equal, (0, 1) when there is nothing.
pub(super) fn range(values: impl IntoIterator<Item = f64>) -> (f64, f64) {
    let (from, to) = values
        .into_iter()
        .filter(|value| value.is_finite())
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(from, to), value| {
            (from.min(value), to.max(value))
        });
    if from > to {
        (0.0, 1.0)
    } else if to - from < 1e-9 * from.abs().max(1e-9) {
        let half = if from == 0.0 { 1.0 } else { from.abs() / 2.0 };
        (from - half, from + half)
    } else {
        (from, to)
    }
}

pub(super) fn padded((from, to): (f64, f64)) -> (f64, f64) {
    let room = (to - from) * 0.06;
    // A loss or a probability starts at 0 when 0 is near anyway.
    let from = if from >= 0.0 && from < 0.35 * to {
        0.0
    } else {
        from - room
    };
    (from, to + room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legend_keeps_clear_of_the_label_and_of_the_edge() {
        let names = [
            "tiny: peak memory",
            "tiny: step time",
            "medium: peak memory",
            "medium: step time",
        ];
        let legend = names.map(|name| (name.to_owned(), Paint::Ink));
        let places = |width: f64, n: usize| -> Vec<(String, f64, f64, f64)> {
            let label = "% of the largest keep ratio's";
            let axes = Axes::new(
                (width, 300.0),
                ["title", "x", label],
                (0.0, 1.0),
                (0.0, 1.0),
                &legend[..n],
            );
            let texts = axes.drawing.shapes.iter().filter_map(|shape| match shape {
                Shape::Text {
                    x,
                    y,
                    text,
                    anchor: Anchor::Start,
                    ..
                } => Some((text.clone(), *x, x + text_width(text, 12.0), *y)),
                _ => None,
            });
            texts.collect()
        };
        for (width, n) in [(900.0, 2), (640.0, 4), (400.0, 4), (300.0, 4)] {
            let places = places(width, n);
            assert!(
                names[..n]
                    .iter()
                    .all(|name| places.iter().any(|place| place.0 == *name))
            );
            for (i, (a, from, to, line)) in places.iter().enumerate() {
                assert!(
                    *from >= 0.0 && *to <= width,
                    "{a} at {from} to {to} of {width}"
                );
                for (b, other_from, other_to, other_line) in &places[i + 1..] {
                    let apart = line != other_line || to < other_from || other_to < from;
                    assert!(apart, "{a} meets {b}, {width} wide");
                }
            }
        }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(
            ticks((0.0, 1.0), 5),
            [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
        );
        assert_eq!(ticks((-3.0, 7.0), 4), [-2.0, 0.0, 2.0, 4.0, 6.0]);
        assert_eq!(
            ticks((0.0, 795.0), 8),
            [0.0, 100.0, 200.0, 300.0, 400.0, 500.0, 600.0, 700.0]
        );
    }

    #[test]
    fn tick_labels_tell_neighbours_apart() {
        let shown = [
            (0.30000000000000004, 0.1),
            (-2.0, 1.0),
            (-0.0, 0.5),
            (12_500.0, 500.0),
            (0.025, 0.025),
        ]
        .map(|(value, step)| tick_label(value, step));
        assert_eq!(shown, ["0.3", "−2", "0.0", "12,500", "0.03"]);
    }
}
