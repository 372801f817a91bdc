//! ShanghaiTech Campus: 13 cameras, the pixels of anomalies labelled. The paper compares frame AUC (Tab. 1). The reference
//! scores every 2nd frame (`--interval 2`).

use super::{Labels, Metric, Protocol};
use crate::{smoothing::Smoothing, windows::Tail};

pub(super) const PROTOCOL: Protocol = Protocol {
    benchmark: "shanghaitech",
    labels: Labels::FramesAndPixels,
    tail: Tail::Aligned,
    interval: 1,
    metric: Metric::Exact,
    smoothing: Smoothing::None,
};
