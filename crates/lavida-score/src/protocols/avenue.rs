//! CUHK Avenue: one camera, the pixels of anomalies labelled. Neither paper nor reference has it.

use super::{Labels, Metric, Protocol};
use crate::{smoothing::Smoothing, windows::Tail};

pub(super) const PROTOCOL: Protocol = Protocol {
    benchmark: "avenue",
    labels: Labels::FramesAndPixels,
    tail: Tail::Aligned,
    interval: 1,
    metric: Metric::Exact,
    smoothing: Smoothing::None,
};
