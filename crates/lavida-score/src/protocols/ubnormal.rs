//! UBnormal: rendered scenes, the pixels of anomalies labelled. The paper compares frame AUC (Tab. 1). The reference
//! scores every 4th frame (`--interval 4`) and by default the abnormal videos alone.

use super::{Labels, Metric, Protocol};
use crate::{smoothing::Smoothing, windows::Tail};

pub(super) const PROTOCOL: Protocol = Protocol {
    benchmark: "ubnormal",
    labels: Labels::FramesAndPixels,
    tail: Tail::Aligned,
    interval: 1,
    metric: Metric::Exact,
    smoothing: Smoothing::None,
};
