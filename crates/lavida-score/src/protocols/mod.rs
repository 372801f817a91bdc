//! Protocols: by what rules the videos of a benchmark are scored and its frames ranked.
//!
//! A benchmark is a file, `configs/benchmarks/NAME.toml`, with two protocols of one word each: `paper`, by which its table is
//! made, as the reference's code does it, and `fair`, which scores every frame of every video and adds none. A set that is scored
//! without the name of a benchmark is scored by the fair protocol of the file for sets of its name, and a set of a name that no
//! file knows by [`DEFAULT`].

mod file;

use crate::{smoothing::Smoothing, windows::Tail};

pub use file::{BenchmarkFile, EMBEDDED_BENCHMARKS, Rules};

/// How a benchmark is scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protocol {
    /// What of it is labelled.
    pub labels: Labels,
    /// What becomes of frames that fill no window.
    pub tail: Tail,
    /// Every how many frames one is scored; at least 1.
    pub interval: usize,
    /// How frames are ranked.
    pub metric: Metric,
    /// What is done to the object logits of a video before.
    pub smoothing: Smoothing,
    /// Whether videos without an anomalous frame are left out.
    pub abnormal_only: bool,
}

/// What of a benchmark is labelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Labels {
    /// Frames alone: there are no pixel figures, whatever objects a set holds.
    Frames,
    /// Frames, and pixels in the videos whose anomalies all have masks.
    FramesAndPixels,
}

/// How frames are ranked for AUC and average precision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// The frames that were scored, and no others.
    Exact,
    /// With the reference's artificial end points in every ranking ([`padded`](crate::metrics::padded)).
    ReferencePadded,
}

/// How a set is scored that has no protocol of its own.
pub const DEFAULT: Protocol = Protocol {
    labels: Labels::FramesAndPixels,
    tail: Tail::Aligned,
    interval: 1,
    metric: Metric::Exact,
    smoothing: Smoothing::None,
    abnormal_only: false,
};

/// Which of a benchmark's two protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProtocolName {
    /// That of the paper's table.
    Paper,
    /// Every frame of every video, and none added.
    Fair,
}

impl Protocol {
    /// The protocol of a set of this name that is scored as no benchmark.
    pub fn of(set: &str) -> Self {
        let files = BenchmarkFile::all();
        let named = files.iter().find(|file| file.set == set);
        named.map_or(DEFAULT, |file| match &file.videos {
            // Part of a set: what holds for it need not hold for the rest.
            Some(_) => Self {
                labels: file.labels,
                ..DEFAULT
            },
            None => file.protocol(ProtocolName::Fair),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_another_name_is_scored_by_the_default() {
        for name in ["", "mine", "UCF-Crime"] {
            assert_eq!(Protocol::of(name), DEFAULT, "{name}");
        }
    }

    #[test]
    fn a_set_of_a_benchmarks_name_is_scored_by_its_fair_protocol() {
        for file in BenchmarkFile::all() {
            let protocol = Protocol::of(&file.set);
            assert_eq!(protocol.labels, file.labels, "{}", file.name);
            assert_eq!(protocol.tail, Tail::Aligned, "{}", file.name);
            assert_eq!(protocol.metric, Metric::Exact, "{}", file.name);
            assert!(!protocol.abnormal_only, "{}", file.name);
        }
        assert_eq!(Protocol::of("shanghaitech").interval, 2);
    }
}
