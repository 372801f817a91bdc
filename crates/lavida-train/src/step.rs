//! What one optimizer update reports; a line of `metrics.jsonl`.

use std::{sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};

/// Time since some fixed moment, which never goes back. Given by whoever runs the step: nothing here reads a clock.
pub type Now = Arc<dyn Fn() -> Duration + Send + Sync>;

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

    /// Number of terms.
    pub const N_TERMS: usize = 9;

    /// Sum of each term over microbatches, and how many have it: what means are made of.
    pub fn sums(terms: &[Self]) -> [(f32, f32); Self::N_TERMS] {
        let sum = |pick: fn(&Self) -> Option<f32>| {
            let values: Vec<f32> = terms.iter().filter_map(pick).collect();
            (values.iter().sum::<f32>(), values.len() as f32)
        };
        [
            sum(|t| Some(t.loss)),
            sum(|t| t.language_loss),
            sum(|t| t.mask_focal_loss),
            sum(|t| t.dice_loss),
            sum(|t| t.iou_loss),
            sum(|t| t.object_loss),
            sum(|t| t.grounding_present_loss),
            sum(|t| t.grounding_absent_loss),
            sum(|t| t.grounding_scale_loss),
        ]
    }

    /// The means, from [`LossTerms::sums`]; a term counts over the microbatches that have it.
    pub fn from_sums(sums: impl IntoIterator<Item = (f32, f32)>) -> Self {
        let mut means = sums
            .into_iter()
            .map(|(sum, count)| (count > 0.0).then(|| sum / count));
        let mut next = || means.next().flatten();
        Self {
            loss: next().unwrap_or_default(),
            language_loss: next(),
            mask_focal_loss: next(),
            dice_loss: next(),
            iou_loss: next(),
            object_loss: next(),
            grounding_present_loss: next(),
            grounding_absent_loss: next(),
            grounding_scale_loss: next(),
        }
    }
}

/// One optimizer update.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Updates made, this one included.
    pub step: u64,
    /// Pass over the data that the last sample belongs to which the logging worker learned in this step: with several
    /// workers the last of the first part of the batch.
    pub epoch: u64,
    /// Loss terms, means over the global batch.
    #[serde(flatten)]
    pub losses: LossTerms,
    /// Learning rate of the step.
    pub lr: f64,
    /// Global norm of the gradient before clipping.
    pub grad_norm: f64,
    /// [`SampleDigest`] of the global batch.
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
    /// What it was spent on, by the worker that writes this.
    #[serde(flatten)]
    pub times: StepTimes,
    /// Time from the last snapshot until its checkpoint counted, beside training; in the step during which it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_save_seconds: Option<f64>,
}

/// What the time of one worker's step was spent on, seconds. What is left of the whole is spent between jobs: messages, and
/// waiting for a lease.
///
/// A phase ends when its results are on the host, so on a CPU each is what it says. A GPU works on behind: forward is
/// measured up to the losses' readback and so is true to the kernel, while backward only queues its kernels and the rest of
/// it is waited for by whatever reads next: the next microbatch's losses, the sums over workers, or the gradient's norm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StepTimes {
    /// Waiting for microbatches, the device being idle.
    pub data_seconds: f64,
    /// From a microbatch on the host to its losses.
    pub forward_seconds: f64,
    /// From its losses to its gradients.
    pub backward_seconds: f64,
    /// Sums over all workers: waiting for the slowest, and the exchange.
    pub reduce_seconds: f64,
    /// Clipping and the update.
    pub optimizer_seconds: f64,
    /// Standing still for the checkpoint before this step: its copy, and an earlier one's upload where that was not done.
    pub checkpoint_seconds: f64,
}

impl StepTimes {
    /// The phases with their names, for logs.
    pub fn named(&self) -> [(&'static str, f64); 6] {
        [
            ("data", self.data_seconds),
            ("forward", self.forward_seconds),
            ("backward", self.backward_seconds),
            ("reduce", self.reduce_seconds),
            ("optimizer", self.optimizer_seconds),
            ("checkpoint", self.checkpoint_seconds),
        ]
    }

    /// Adds microbatches that were computed side by side and took `whole` together, each so long forward and backward:
    /// they share the time as they would have alone.
    pub fn add_microbatches(&mut self, whole: Duration, each: &[[Duration; 2]]) {
        let [forward, backward] =
            [0, 1].map(|i| each.iter().map(|times| times[i]).sum::<Duration>());
        let both = (forward + backward).as_secs_f64();
        if both > 0.0 {
            self.forward_seconds += whole.as_secs_f64() * forward.as_secs_f64() / both;
            self.backward_seconds += whole.as_secs_f64() * backward.as_secs_f64() / both;
        }
    }
}

/// What a step learned from: equal digests mean equal samples at equal positions of the run's order.
///
/// A sum over samples, so it does not know in which slices or in which order they were learned, and a sample that is
/// missing or seen twice changes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SampleDigest([u16; SampleDigest::N_WORDS]);

impl SampleDigest {
    const N_WORDS: usize = 4;
    /// Numbers that are summed over workers: a byte each, so that the sums of 65,793 workers are exact in f32.
    pub const N_LANES: usize = 2 * Self::N_WORDS;

    /// Adds the sample at `position` of the run's order.
    pub fn add(&mut self, position: u64, id: &str) {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&position.to_le_bytes());
        hasher.update(id.as_bytes());
        let hash = hasher.finalize();
        for (lane, bytes) in self.0.iter_mut().zip(hash.as_bytes().as_chunks::<2>().0) {
            *lane = lane.wrapping_add(u16::from_le_bytes(*bytes));
        }
    }

    /// The numbers, for a sum over workers.
    pub fn lanes(&self) -> impl Iterator<Item = f32> + use<> {
        self.0.into_iter().flat_map(u16::to_le_bytes).map(f32::from)
    }

    /// The digest of what several workers learned from, from the sums of their lanes.
    pub fn from_lanes(sums: &[f32]) -> Self {
        let mut words = [0; Self::N_WORDS];
        for (word, [low, high]) in words.iter_mut().zip(sums.as_chunks::<2>().0) {
            *word = (*low as u32 + 256 * *high as u32) as u16; // modulo 2¹⁶
        }
        Self(words)
    }
}

impl std::fmt::Display for SampleDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|lane| write!(f, "{lane:04x}"))
    }
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
                sample_digest: digest(&[(0, "a"), (1, "b")]).to_string(),
                truncated_categories: 2,
                world_size: 1,
                generation: 0,
                seconds: 0.1,
                times: StepTimes { data_seconds: 0.2, reduce_seconds: lr / 3.0, ..StepTimes::default() },
                checkpoint_save_seconds: (lr > 0.0).then_some(lr),
            };
            let line = serde_json::to_string(&record).unwrap();
            let read: StepRecord = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read.losses.loss.to_bits(), loss.to_bits());
            prop_assert_eq!(read, record);
        }
    }

    #[test]
    fn microbatches_side_by_side_share_the_time_that_passed() {
        let seconds = Duration::from_secs;
        let mut times = StepTimes::default();
        times.add_microbatches(
            seconds(8),
            &[[seconds(2), seconds(5)], [seconds(1), seconds(4)]],
        );
        assert_eq!((times.forward_seconds, times.backward_seconds), (2.0, 6.0));
        times.add_microbatches(seconds(1), &[]);
        times.add_microbatches(seconds(4), &[[seconds(1), seconds(3)]]);
        assert_eq!((times.forward_seconds, times.backward_seconds), (3.0, 9.0));
    }

    #[test]
    fn a_row_from_before_there_were_phases_still_reads() {
        let row = r#"{"step":1,"epoch":0,"loss":1.5,"lr":0.1,"grad_norm":1.0,"sample_digest":"00","world_size":1,
            "generation":0,"seconds":2.0,"data_seconds":0.5}"#;
        let record: StepRecord = serde_json::from_str(row).unwrap();
        assert_eq!(record.times.data_seconds, 0.5);
        assert_eq!(record.times.forward_seconds, 0.0);
    }

    fn digest(samples: &[(u64, &str)]) -> SampleDigest {
        let mut digest = SampleDigest::default();
        for (position, id) in samples {
            digest.add(*position, id);
        }
        digest
    }

    #[test]
    fn a_digest_tells_samples_and_their_positions_apart_but_not_the_order_of_learning() {
        let ab = digest(&[(0, "a"), (1, "b")]);
        assert_eq!(ab, digest(&[(1, "b"), (0, "a")]));
        for other in [
            &[(0, "b"), (1, "a")][..],
            &[(0, "a")],
            &[(0, "a"), (1, "b"), (1, "b")],
            &[(2, "a"), (3, "b")],
        ] {
            assert_ne!(ab, digest(other));
        }
        assert_eq!(ab.to_string().len(), 16);
    }

    #[test]
    fn digests_of_many_workers_add_up_exactly() {
        let all: Vec<(u64, String)> = (0..4096).map(|i| (i, format!("clip {i}"))).collect();
        let borrowed: Vec<(u64, &str)> = all.iter().map(|(i, id)| (*i, id.as_str())).collect();
        let mut sums = [0.0f32; SampleDigest::N_LANES];
        for of_worker in borrowed.chunks(2) {
            for (sum, lane) in sums.iter_mut().zip(digest(of_worker).lanes()) {
                *sum += lane;
            }
        }
        assert_eq!(SampleDigest::from_lanes(&sums), digest(&borrowed));
    }
}
