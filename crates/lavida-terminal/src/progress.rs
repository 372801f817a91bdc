//! How far long work is: a bar with percent, rate and time left on a terminal, lines elsewhere.
//!
//! A bar is one line, whatever the terminal's width: what is least needed goes first ([`Shown::fitted`]). Where nothing can
//! be redrawn there is a line when the work begins to move, one every ten seconds, and one at the end.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use indicatif::{HumanBytes, ProgressBar, ProgressStyle};

use crate::{screen, units::minutes};

/// Time between lines where nothing is redrawn.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Time between pictures of a bar: faster than anybody reads.
const REDRAW_INTERVAL: Duration = Duration::from_millis(100);
/// Time over which the rate is a mean, so that the time left follows work that slows down and not every hiccup.
const RATE_MEMORY: Duration = Duration::from_secs(20);
/// Less time than this makes no rate.
const LEAST: Duration = Duration::from_millis(50);
/// Columns of the bar itself.
const BAR_COLUMNS: std::ops::RangeInclusive<usize> = 6..=30;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things of this name, in the singular.
    Each(&'static str),
    /// Bytes.
    Bytes,
}

/// A source of time: since some fixed moment, never going back.
type Now = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Progress of work of a known length. It is gone from the screen when it is dropped.
pub struct Progress(Mutex<State>);

struct State {
    shown: Shown,
    /// What is counted a second, by another name: its plural and how many there are of it in a unit.
    rate_of: Option<(&'static str, f64)>,
    rate: Rate,
    now: Now,
    begun: Duration,
    is_brief: bool,
    display: Display,
}

enum Display {
    Bar {
        bar: ProgressBar,
        drawn: Option<Duration>,
    },
    Lines {
        /// When the last one was written, and what it said was done.
        last: Option<(Duration, u64)>,
    },
    None,
}

/// What is shown, before it is cut to a width.
#[derive(Clone, Debug)]
struct Shown {
    label: String,
    unit: Unit,
    done: u64,
    total: u64,
    rate: Option<String>,
    left: Option<Duration>,
    message: String,
}

impl Progress {
    /// Progress of `total` units, none of which is done.
    pub fn new(label: &str, unit: Unit, total: u64) -> Self {
        Self::with(label, unit, total, machine_clock(), true)
    }

    /// As [`Self::new`] for work that is mostly over at once: without a terminal, nothing is said of it for ten seconds.
    pub fn brief(label: &str, unit: Unit, total: u64) -> Self {
        let this = Self::new(label, unit, total);
        this.state().is_brief = true;
        this
    }

    /// Shows nothing: another does.
    pub fn silent() -> Self {
        Self::with("", Unit::Bytes, 0, machine_clock(), false)
    }

    /// As [`Self::new`], on a clock of the caller's.
    pub fn on_clock(
        label: &str,
        unit: Unit,
        total: u64,
        now: impl Fn() -> Duration + Send + Sync + 'static,
    ) -> Self {
        Self::with(label, unit, total, Arc::new(now), true)
    }

    fn with(label: &str, unit: Unit, total: u64, now: Now, is_shown: bool) -> Self {
        let display = match (is_shown, screen::is_redrawn()) {
            (false, _) => Display::None,
            (true, false) => Display::Lines { last: None },
            (true, true) => Display::Bar {
                bar: screen::view().add(one_line()),
                drawn: None,
            },
        };
        let begun = now();
        Self(Mutex::new(State {
            shown: Shown {
                label: label.to_owned(),
                unit,
                done: 0,
                total,
                rate: None,
                left: None,
                message: String::new(),
            },
            rate_of: None,
            rate: Rate::from(begun, 0),
            now,
            begun,
            is_brief: false,
            display,
        }))
    }

    /// The same of work whose first `done` units were done before: they count, and say nothing about its speed.
    #[must_use]
    pub fn going_on_from(self, done: u64) -> Self {
        let mut state = self.state();
        state.shown.done = done;
        state.rate = Rate::from(state.begun, done);
        drop(state);
        self
    }

    /// The same with its rate in other units, `each` of which are in one of those that are counted.
    #[must_use]
    pub fn with_rate_of(self, plural: &'static str, each: f64) -> Self {
        self.state().rate_of = Some((plural, each));
        self
    }

    /// So many units are done.
    pub fn set(&self, done: u64) {
        self.state().set(done);
    }

    /// So many more units are done.
    pub fn add(&self, n: u64) {
        let mut state = self.state();
        let done = state.shown.done + n;
        state.set(done);
    }

    /// What is said beside the figures from now on.
    pub fn say(&self, message: impl Into<String>) {
        self.state().shown.message = message.into();
    }

    /// Another length: the work knows better now.
    pub fn set_total(&self, total: u64) {
        self.state().shown.total = total;
    }

    /// Writes a line about this work.
    pub fn line(&self, text: &str) {
        let state = self.state();
        if !matches!(state.display, Display::None) {
            screen::line(&format!("{}: {text}", state.shown.label));
        }
    }

    /// Leaves on the screen how far the work came, where that is not to be read there already.
    pub fn leave(&self) {
        let mut state = self.state();
        let done = state.shown.done;
        let is_printed = match &mut state.display {
            Display::None => true,
            Display::Lines { last } => last.is_some_and(|(_, printed)| printed == done),
            Display::Bar { bar, .. } => {
                bar.finish_and_clear();
                false
            }
        };
        if !is_printed && done > 0 {
            screen::line(&state.shown.line());
        }
        state.hide();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.state().hide();
    }
}

impl State {
    fn set(&mut self, done: u64) {
        if matches!(self.display, Display::None) {
            return;
        }
        let now = (self.now)();
        self.shown.done = done;
        let rate = self.rate.at(now, done);
        self.shown.rate = rate.map(|rate| self.rate_text(rate));
        self.shown.left = rate.filter(|rate| *rate > 0.0).map(|rate| {
            let seconds = self.shown.total.saturating_sub(done) as f64 / rate;
            Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
        });
        let is_over = done >= self.shown.total;
        match &mut self.display {
            Display::None => {}
            Display::Bar { bar, drawn } => {
                if is_over || drawn.is_none_or(|drawn| now - drawn >= REDRAW_INTERVAL) {
                    *drawn = Some(now);
                    bar.set_message(self.shown.fitted(screen::width()));
                }
            }
            Display::Lines { last } => {
                let is_due = match last {
                    Some((at, _)) => now.saturating_sub(*at) >= LINE_INTERVAL,
                    None => !self.is_brief || now.saturating_sub(self.begun) >= LINE_INTERVAL,
                };
                let is_last = is_over && last.is_some_and(|(_, printed)| printed != done);
                if is_due || is_last {
                    *last = Some((now, done));
                    screen::line(&self.shown.line());
                }
            }
        }
    }

    fn rate_text(&self, rate: f64) -> String {
        let (name, rate) = match (self.rate_of, self.shown.unit) {
            (Some((plural, each)), _) => (plural.to_owned(), rate * each),
            (None, Unit::Each(name)) => (format!("{name}s"), rate),
            (None, Unit::Bytes) => return format!("{}/s", HumanBytes(rate as u64)),
        };
        if rate >= 0.1 {
            format!("{rate:.1} {name}/s")
        } else {
            format!("{:.1} {name}/min", 60.0 * rate)
        }
    }

    fn hide(&mut self) {
        if let Display::Bar { bar, .. } = &self.display {
            bar.finish_and_clear();
            screen::view().remove(bar);
        }
        self.display = Display::None;
    }
}

impl Shown {
    /// Everything, for a log.
    fn line(&self) -> String {
        let parts = [
            Some(self.count()),
            self.percent(),
            self.message(),
            self.rate.clone(),
            self.left(),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        format!("{}: {}", self.label, parts.join("  "))
    }

    /// One line of at most `width` columns. Percent and time left stay longest, then label, count and rate; the bar takes what
    /// is left, and a message what the smallest bar leaves.
    fn fitted(&self, width: usize) -> String {
        const BAR: usize = 5; // the bar's rank
        let mut parts = [
            (2, Some(self.label.clone())),
            (0, self.percent().or_else(|| Some(self.count()))),
            (3, self.percent().map(|_| self.count())),
            (4, self.rate.clone()),
            (1, self.left()),
            (6, self.message()),
        ];
        let smallest_bar = GAP.len() + "[]".len() + BAR_COLUMNS.start();
        let (mut taken, mut has_bar) = (0, false);
        for rank in 0..=parts.len() {
            if rank == BAR {
                has_bar = self.total > 0 && taken + smallest_bar <= width;
                taken += if has_bar { smallest_bar } else { 0 };
            }
            let Some((_, part)) = parts.iter_mut().find(|(of, _)| *of == rank) else {
                continue;
            };
            let Some(text) = part else { continue };
            let gap = if taken > 0 { GAP.len() } else { 0 };
            let wanted = gap + console::measure_text_width(text);
            if taken + wanted <= width {
                taken += wanted
            } else {
                *part = None
            }
        }
        let columns = BAR_COLUMNS.start() + width.saturating_sub(taken);
        let mut shown: Vec<String> = Vec::new();
        for (place, (_, part)) in parts.into_iter().enumerate() {
            if place == 1 && has_bar {
                shown.push(self.bar(columns.min(*BAR_COLUMNS.end())));
            }
            shown.extend(part);
        }
        shown.join(GAP)
    }

    fn bar(&self, columns: usize) -> String {
        let full = (self.share() * columns as f64) as usize;
        let head = if full < columns { ">" } else { "" };
        let body = "=".repeat(full);
        format!("[{:<columns$}]", format!("{body}{head}"))
    }

    fn share(&self) -> f64 {
        (self.done as f64 / self.total.max(1) as f64).min(1.0)
    }

    fn percent(&self) -> Option<String> {
        // 100 % is said of what is whole.
        (self.total > 0).then(|| format!("{:.0} %", (100.0 * self.share()).floor()))
    }

    fn count(&self) -> String {
        let (done, total) = (self.done, self.total);
        match self.unit {
            Unit::Each(name) => format!("{name} {done}/{total}"),
            Unit::Bytes => format!("{} of {}", HumanBytes(done), HumanBytes(total)),
        }
    }

    fn left(&self) -> Option<String> {
        let left = self.left.filter(|_| self.done < self.total)?;
        Some(format!("{} left", minutes(left)))
    }

    fn message(&self) -> Option<String> {
        (!self.message.is_empty()).then(|| self.message.clone())
    }
}

/// Between two parts of a line.
const GAP: &str = "  ";

/// Units a second, as a mean whose past fades. What was done first counts until there is more: kernels that are compiled and
/// files that are opened before it say nothing of the rest.
#[derive(Debug)]
struct Rate {
    at: Duration,
    done: u64,
    /// What came first, and with it, and the time until then.
    first: Passed,
    /// When it came.
    moved: Option<Duration>,
    /// What came since, faded.
    since: Passed,
}

#[derive(Debug, Default)]
struct Passed {
    units: f64,
    seconds: f64,
}

impl Passed {
    /// Units a second. A shorter time says nothing yet: the first of many may come at once.
    fn rate(&self) -> Option<f64> {
        (self.seconds >= LEAST.as_secs_f64()).then(|| self.units / self.seconds)
    }
}

impl Rate {
    fn from(at: Duration, done: u64) -> Self {
        Self {
            at,
            done,
            first: Passed::default(),
            moved: None,
            since: Passed::default(),
        }
    }

    fn at(&mut self, now: Duration, done: u64) -> Option<f64> {
        let seconds = now.saturating_sub(self.at).as_secs_f64();
        let units = done.saturating_sub(self.done) as f64;
        (self.at, self.done) = (now, done);
        if self.moved.is_none() && units > 0.0 {
            self.moved = Some(now);
        }
        // What is counted one by one may come many at once.
        let is_first = self
            .moved
            .is_none_or(|moved| now.saturating_sub(moved) < LEAST);
        let passed = if is_first {
            &mut self.first
        } else {
            let kept = (-seconds / RATE_MEMORY.as_secs_f64()).exp();
            self.since.units *= kept;
            self.since.seconds *= kept;
            &mut self.since
        };
        passed.units += units;
        passed.seconds += seconds;
        self.since.rate().or_else(|| self.first.rate())
    }
}

/// Work of which nobody knows how long it takes: a text that shows life on a terminal, a line elsewhere.
pub struct Busy(Option<ProgressBar>);

impl Busy {
    /// Shows `text` until this is dropped.
    pub fn new(text: &str) -> Self {
        if !screen::is_redrawn() {
            screen::line(text);
            return Self(None);
        }
        let style = ProgressStyle::with_template("{spinner} {wide_msg}");
        let style = style.expect("the template is well-formed");
        let bar = screen::view().add(ProgressBar::new_spinner());
        bar.set_style(style.tick_chars("-\\|/ "));
        bar.set_message(text.to_owned());
        bar.enable_steady_tick(REDRAW_INTERVAL);
        Self(Some(bar))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
            screen::view().remove(bar);
        }
    }
}

/// A line that is redrawn with its message, cut to the terminal's width.
pub fn one_line() -> ProgressBar {
    let style = ProgressStyle::with_template("{wide_msg}").expect("the template is well-formed");
    ProgressBar::new_spinner().with_style(style)
}

#[expect(
    clippy::disallowed_methods,
    reason = "what a person is shown goes by the clock on the wall, and nothing else reads it"
)]
fn machine_clock() -> Now {
    let start = std::time::Instant::now();
    Arc::new(move || start.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown() -> Shown {
        Shown {
            label: "eval".into(),
            unit: Unit::Each("frame"),
            done: 123,
            total: 350,
            rate: Some("40.2 frames/s".into()),
            left: Some(Duration::from_secs(65)),
            message: "video 2/12 Test004".into(),
        }
    }

    #[test]
    fn a_bar_is_one_line_of_what_fits_and_keeps_percent_and_time_left_longest() {
        let at = |width: usize| format!("{width:>3}|{}", shown().fitted(width));
        let all = [12, 20, 30, 40, 60, 80, 120].map(at).join("\n");
        insta::assert_snapshot!(all, @r"
         12|eval  35 %
         20|eval  [==>   ]  35 %
         30|eval  35 %  1 min 05 s left
         40|eval  [===>     ]  35 %  1 min 05 s left
         60|eval  35 %  frame 123/350  40.2 frames/s  1 min 05 s left
         80|eval  [======>            ]  35 %  frame 123/350  40.2 frames/s  1 min 05 s left
        120|eval  [==========>                   ]  35 %  frame 123/350  40.2 frames/s  1 min 05 s left  video 2/12 Test004
        ");
    }

    #[test]
    fn no_width_is_overrun() {
        let wide = Shown {
            label: "日本語のデータ".into(),
            ..shown()
        };
        for width in 4..200 {
            for shown in [shown(), wide.clone()] {
                let columns = console::measure_text_width(&shown.fitted(width));
                assert!(columns <= width, "{columns} columns of {width}");
            }
        }
    }

    #[test]
    fn a_log_has_everything_and_the_end_is_said_to_be_whole() {
        let begun = Shown {
            rate: None,
            left: None,
            done: 1,
            message: String::new(),
            ..shown()
        };
        let whole = Shown {
            done: 350,
            left: Some(Duration::ZERO),
            ..shown()
        };
        let bytes = Shown {
            unit: Unit::Bytes,
            done: 3 << 20,
            total: 5 << 30,
            ..shown()
        };
        let almost = Shown {
            done: 349,
            ..begun.clone()
        };
        let lines = [begun, shown(), almost, whole, bytes].map(|shown| shown.line());
        insta::assert_snapshot!(lines.join("\n"), @r"
        eval: frame 1/350  0 %
        eval: frame 123/350  35 %  video 2/12 Test004  40.2 frames/s  1 min 05 s left
        eval: frame 349/350  99 %
        eval: frame 350/350  100 %  video 2/12 Test004  40.2 frames/s
        eval: 3.00 MiB of 5.00 GiB  0 %  video 2/12 Test004  40.2 frames/s  1 min 05 s left
        ");
    }

    #[test]
    fn what_comes_before_the_first_unit_does_not_make_the_rest_slow() {
        let mut rate = Rate::from(Duration::ZERO, 0);
        let mut at = |seconds: f64, done| rate.at(Duration::from_secs_f64(seconds), done);
        assert_eq!(at(30.0, 1), Some(1.0 / 30.0), "nothing else is known");
        assert_eq!(at(30.5, 2), Some(2.0));
        // Four at a time, told one by one.
        let mut rate = Rate::from(Duration::ZERO, 0);
        let mut at = |seconds: f64, done| rate.at(Duration::from_secs_f64(seconds), done);
        for done in 1..=4 {
            at(30.0, done);
        }
        for done in 5..=7 {
            at(32.0, done);
        }
        assert_eq!(at(32.0, 8), Some(2.0));
    }

    #[test]
    fn the_rate_follows_work_that_slows_down_and_nothing_is_made_up_before_it_moves() {
        let seconds = Duration::from_secs;
        let mut rate = Rate::from(seconds(0), 500);
        assert_eq!(rate.at(seconds(0), 500), None, "what was done before");
        for s in 1..=60 {
            rate.at(seconds(s), 500 + 10 * s);
        }
        let fast = rate.at(seconds(60), 1100).expect("moving");
        assert!((fast - 10.0).abs() < 0.01, "{fast}");
        for s in 61..=160 {
            rate.at(seconds(s), 1100 + (s - 60));
        }
        let slow = rate.at(seconds(160), 1200).expect("moving");
        assert!((1.0..1.2).contains(&slow), "{slow}");
    }
}
