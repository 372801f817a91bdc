//! UCF-Crime: long surveillance videos, frames labelled by intervals and pixels not at all. The paper compares frame AUC
//! (Tab. 1). The reference scores every 128th frame (`--interval 128`), and so no video below 1,024 frames.

use super::{Labels, Metric, Protocol};
use crate::{smoothing::Smoothing, windows::Tail};

pub(super) const PROTOCOL: Protocol = Protocol {
    benchmark: "ucf-crime",
    labels: Labels::Frames,
    tail: Tail::Aligned,
    interval: 1,
    metric: Metric::Exact,
    smoothing: Smoothing::None,
};
