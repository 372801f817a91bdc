//! The conventions by name: what each figure is, and who publishes it.

/// One way to compute a figure from scores and labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Convention {
    /// Its key in documents.
    pub name: &'static str,
    /// What tables call it.
    pub title: &'static str,
    /// How it is computed.
    pub meaning: &'static str,
    /// Whose published code computes it so.
    pub used_by: &'static str,
}

/// The two points that some scripts add to every ranking: score and label.
pub const PADDING: [(f64, bool); 2] = [(0.0, false), (1.0, true)];

/// Every figure of frames, in the order of the table.
pub const CONVENTIONS: [Convention; 9] = [
    Convention {
        name: "frame_auc",
        title: "micro AUC",
        meaning: "area under the ROC curve over the frames of all videos together",
        used_by: "scikit-learn's roc_auc_score on the concatenation; UBnormal's compute_auc_score.py (\"all data set\"); most papers",
    },
    Convention {
        name: "frame_auc_padded",
        title: "micro AUC, padded",
        meaning: "the same with one frame of score 0 labelled normal and one of score 1 labelled anomalous added to the concatenation",
        used_by: "LAVIDA's reference (VideoResultSummary), on logits",
    },
    Convention {
        name: "video_auc",
        title: "macro AUC",
        meaning: "mean of the areas of the videos that have frames of both labels; the others are left out",
        used_by: "papers that report macro AUC without padding; scikit-learn per video, undefined videos dropped",
    },
    Convention {
        name: "video_auc_padded",
        title: "macro AUC, padded",
        meaning: "mean of the areas of all videos, each with one frame of score 0 labelled normal and one of score 1 labelled anomalous added",
        used_by: "UBnormal's compute_auc_score.py (\"Avg. (on video)\") and those that follow it (AED, SSMTL); LAVIDA's reference",
    },
    Convention {
        name: "frame_ap",
        title: "average precision",
        meaning: "sum of precision times the gain in recall over the distinct scores of all videos together",
        used_by: "scikit-learn's average_precision_score; papers on XD-Violence",
    },
    Convention {
        name: "frame_ap_padded",
        title: "average precision, padded",
        meaning: "the same with the two artificial frames added to the concatenation",
        used_by: "LAVIDA's reference",
    },
    Convention {
        name: "frame_pr_trapezoid",
        title: "PR trapezoid",
        meaning: "trapezoids under the precision-recall curve over the distinct scores, begun at precision 1",
        used_by: "scikit-learn's precision_recall_curve with auc, as RTFM and its followers evaluate XD-Violence",
    },
    Convention {
        name: "f1_fixed",
        title: "F1 at the threshold",
        meaning: "F1 of the frames whose score is at least --threshold",
        used_by: "scikit-learn's f1_score",
    },
    Convention {
        name: "f1_best",
        title: "F1 at its best threshold",
        meaning: "the highest F1 of any threshold, chosen on the same labels: an upper bound, not a result",
        used_by: "papers that choose the threshold on the test set",
    },
];

/// The convention of this name.
///
/// # Panics
///
/// For a name that is none: a bug.
pub fn convention(name: &str) -> &'static Convention {
    let found = CONVENTIONS.iter().find(|known| known.name == name);
    found.unwrap_or_else(|| panic!("no convention {name}"))
}
