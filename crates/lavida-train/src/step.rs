//! What one optimizer update reports; a line of `metrics.jsonl`.

use serde::{Deserialize, Serialize};

/// Loss terms of a batch, unweighted; terms that the stage does not have are absent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LossTerms {
    /// Weighted sum, what backward starts from.
    pub loss: f32,
    /// Next-token cross-entropy on the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language_loss: Option<f32>,
    /// Focal loss of the best mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_focal_loss: Option<f32>,
    /// Dice loss of the best mask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dice_loss: Option<f32>,
    /// Error of the predicted IoU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iou_loss: Option<f32>,
    /// Binary cross-entropy of the object score.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_loss: Option<f32>,
    /// Grounding stage: attention of present names off their objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounding_present_loss: Option<f32>,
    /// Grounding stage: attention of absent names off the background.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounding_absent_loss: Option<f32>,
    /// Grounding stage: how far the features' scale is from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grounding_scale_loss: Option<f32>,
}

impl LossTerms {
    /// The terms with their names, for logs.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, f32)> + use<> {
        let all = [
            ("loss", Some(self.loss)),
            ("language_loss", self.language_loss),
            ("mask_focal_loss", self.mask_focal_loss),
            ("dice_loss", self.dice_loss),
            ("iou_loss", self.iou_loss),
            ("object_loss", self.object_loss),
            ("grounding_present_loss", self.grounding_present_loss),
            ("grounding_absent_loss", self.grounding_absent_loss),
            ("grounding_scale_loss", self.grounding_scale_loss),
        ];
        all.into_iter()
            .filter_map(|(name, value)| value.map(|value| (name, value)))
    }

    /// The mean over microbatches; a term counts over those that have it.
    pub fn mean(terms: &[Self]) -> Self {
        let mean = |pick: fn(&Self) -> Option<f32>| {
            let values: Vec<f32> = terms.iter().filter_map(pick).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f32>() / values.len() as f32)
        };
        Self {
            loss: mean(|t| Some(t.loss)).unwrap_or_default(),
            language_loss: mean(|t| t.language_loss),
            mask_focal_loss: mean(|t| t.mask_focal_loss),
            dice_loss: mean(|t| t.dice_loss),
            iou_loss: mean(|t| t.iou_loss),
            object_loss: mean(|t| t.object_loss),
            grounding_present_loss: mean(|t| t.grounding_present_loss),
            grounding_absent_loss: mean(|t| t.grounding_absent_loss),
            grounding_scale_loss: mean(|t| t.grounding_scale_loss),
        }
    }
}

/// One optimizer update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Updates made, this one included.
    pub step: u64,
    /// Pass over the data that the step's last sample belongs to.
    pub epoch: u64,
    /// Loss terms, means over the global batch.
    #[serde(flatten)]
    pub losses: LossTerms,
    /// Learning rate of the step.
    pub lr: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Hash of the ids of the global batch, in order.
    pub sample_digest: String,
    /// Categories of the global batch that CLIP's positions did not hold whole.
    #[serde(default)]
    pub truncated_categories: usize,
    /// Workers that took part.
    pub world_size: usize,
    /// Membership generation.
    pub generation: u64,
    /// Time from the end of the last step to the end of this one.
    pub seconds: f64,
    /// Share of it spent waiting for data.
    pub data_seconds: f64,
}

/// Hash of sample ids in order: equal digests mean equal batches.
pub fn sample_digest<'a>(ids: impl IntoIterator<Item = &'a str>) -> String {
    let mut hasher = blake3::Hasher::new();
    for id in ids {
        hasher.update(&(id.len() as u64).to_le_bytes());
        hasher.update(id.as_bytes());
    }
    hasher.finalize().to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_record_reads_back_to_the_same_bits(loss in any::<f32>(), lr in any::<f64>()) {
            prop_assume!(loss.is_finite() && lr.is_finite());
            let record = StepRecord {
                step: 3,
                epoch: 0,
                losses: LossTerms { loss, dice_loss: Some(loss / 3.0), ..LossTerms::default() },
                lr,
                grad_norm: lr / 7.0,
                sample_digest: sample_digest(["a", "b"]),
                truncated_categories: 2,
                world_size: 1,
                generation: 0,
                seconds: 0.1,
                data_seconds: 0.2,
            };
            let line = serde_json::to_string(&record).unwrap();
            let read: StepRecord = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read.losses.loss.to_bits(), loss.to_bits());
            prop_assert_eq!(read, record);
        }
    }

    #[test]
    fn ids_do_not_run_into_one_another() {
        assert_ne!(sample_digest(["ab", "c"]), sample_digest(["a", "bc"]));
        assert_ne!(sample_digest(["a", "b"]), sample_digest(["b", "a"]));
    }
}
