//! UCSD Ped1 and Ped2: pedestrian walks, the pixels of anomalies labelled. The paper compares pixel AUC on Ped2
//! (Tab. 2). The reference scores every frame.

use super::{Labels, Metric, Protocol};
use crate::{smoothing::Smoothing, windows::Tail};

pub(super) const PROTOCOL: Protocol = Protocol {
    benchmark: "ucsd-ped",
    labels: Labels::FramesAndPixels,
    tail: Tail::Aligned,
    interval: 1,
    metric: Metric::Exact,
    smoothing: Smoothing::None,
};
