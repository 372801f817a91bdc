//! Protocols: by what rules the videos of a benchmark are scored and its frames ranked. One file a benchmark.
//!
//! A set is scored by the protocol of its name; a set of another name, renamed ones included, by [`DEFAULT`]. Each file says
//! what the paper compares (Tab. 1 and 2) and what the reference sets differently. Every value here is what this program's figures
//! are made by: a comparison with the reference sets what differs by flags of `lavida eval`.

mod avenue;
mod shanghaitech;
mod ubnormal;
mod ucf_crime;
mod ucsd_ped;
mod xd_violence;

use crate::{smoothing::Smoothing, windows::Tail};

/// How a benchmark is scored.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Protocol {
    /// The name of its sets; empty for any other.
    pub benchmark: &'static str,
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
}

/// What of a benchmark is labelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    benchmark: "",
    labels: Labels::FramesAndPixels,
    tail: Tail::Aligned,
    interval: 1,
    metric: Metric::Exact,
    smoothing: Smoothing::None,
};

/// Every protocol that belongs to a benchmark.
pub const ALL: [Protocol; 6] = [
    ucsd_ped::PROTOCOL,
    ubnormal::PROTOCOL,
    shanghaitech::PROTOCOL,
    ucf_crime::PROTOCOL,
    xd_violence::PROTOCOL,
    avenue::PROTOCOL,
];

impl Protocol {
    /// The protocol of a set of this name.
    pub fn of(benchmark: &str) -> Self {
        let named = ALL.into_iter().find(|p| p.benchmark == benchmark);
        named.unwrap_or(DEFAULT)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_protocol_is_found_by_a_name_of_its_own() {
        let names: BTreeSet<_> = ALL.iter().map(|protocol| protocol.benchmark).collect();
        assert_eq!(names.len(), ALL.len());
        for protocol in ALL {
            assert!(!protocol.benchmark.is_empty() && protocol.interval > 0);
            assert_eq!(Protocol::of(protocol.benchmark), protocol);
        }
    }

    #[test]
    fn a_set_of_another_name_is_scored_by_the_default() {
        for name in ["", "mine", "UCF-Crime"] {
            assert_eq!(Protocol::of(name), DEFAULT, "{name}");
        }
    }
}
