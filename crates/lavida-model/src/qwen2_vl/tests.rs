//! Whole forward passes of a model of two layers each.

use super::*;
use burn::tensor::{Distribution, Tolerance};

/// A device whose draws repeat.
fn seeded() -> Device {
    let device = Device::flex();
    device.seed(1);
    device
}

const SPECIAL: SpecialTokens = SpecialTokens {
    seg: 30,
    image_pad: 31,
    video_pad: 32,
    pad: 33,
};

/// Sizes of a model of two layers each.
pub(super) fn sizes(positions: Positions) -> (VisionConfig, LanguageConfig) {
    let vision = VisionConfig {
        depth: 2,
        embed_dim: 16,
        num_heads: 2,
        mlp_ratio: 2,
        patch_size: 2,
        temporal_patch_size: 2,
        spatial_merge_size: 2,
    };
    let language = LanguageConfig {
        hidden_size: 16,
        intermediate_size: 24,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        num_key_value_heads: 1,
        vocab_size: 34,
        mrope_section: [1, 1, 2],
        rope_theta: 1e6,
        rms_norm_eps: 1e-6,
        tie_word_embeddings: false,
        positions,
    };
    (vision, language)
}

fn model(positions: Positions, device: &Device) -> Qwen2Vl {
    let (vision, language) = sizes(positions);
    Qwen2Vl::init(&vision, &language, SPECIAL, device)
}

fn keeping(ratio: f64) -> Compression {
    Compression {
        keep_ratio: KeepRatio::new(ratio).unwrap(),
        ..Compression::default()
    }
}

/// One clip of this grid between two words, answered with `<SEG>` and a word.
fn sample(grid: [usize; 3], device: &Device) -> MllmInput {
    let n_patches = grid.iter().product();
    let mut ids = vec![1, 2];
    ids.extend(vec![SPECIAL.video_pad; n_patches / 4]);
    ids.extend([3, 4, SPECIAL.seg, 5]);
    let mut labels = vec![sequence::IGNORED_LABEL; ids.len()];
    labels[ids.len() - 2..].copy_from_slice(&[SPECIAL.seg, 5]);
    MllmInput {
        patches: Tensor::random([n_patches, 24], Distribution::Normal(0.0, 1.0), device),
        grids: vec![grid],
        attention_mask: vec![vec![1; ids.len()]],
        input_ids: vec![ids],
        labels: vec![labels],
    }
}

/// Two samples in one batch, the shorter one padded on the left.
fn batch(first: &MllmInput, second: &MllmInput) -> MllmInput {
    let width = first.input_ids[0].len().max(second.input_ids[0].len());
    let rows = |of: fn(&MllmInput) -> &Vec<i64>, fill: i64| {
        [first, second].map(|sample| {
            let row = of(sample);
            [vec![fill; width - row.len()], row.clone()].concat()
        })
    };
    MllmInput {
        patches: Tensor::cat(vec![first.patches.clone(), second.patches.clone()], 0),
        grids: [first.grids.clone(), second.grids.clone()].concat(),
        input_ids: rows(|s| &s.input_ids[0], SPECIAL.pad).to_vec(),
        attention_mask: rows(|s| &s.attention_mask[0], 0).to_vec(),
        labels: rows(|s| &s.labels[0], sequence::IGNORED_LABEL).to_vec(),
    }
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let device = seeded();
    for positions in [Positions::Counts, Positions::Grid] {
        let model = model(positions, &device);
        let (first, second) = (sample([2, 4, 8], &device), sample([1, 4, 4], &device));
        let together = model
            .forward(&batch(&first, &second), &keeping(0.5))
            .unwrap();
        let apart = [first, second].map(|sample| {
            let found = model.forward(&sample, &keeping(0.5)).unwrap();
            (found.semantic_feature, found.answer.unwrap().logits)
        });
        let [(first, first_logits), (second, second_logits)] = apart;
        let features = Tensor::cat(vec![first, second], 0);
        let logits = Tensor::cat(vec![first_logits, second_logits], 0);
        let tolerance = Tolerance::absolute(1e-5);
        together
            .semantic_feature
            .into_data()
            .assert_approx_eq::<f32>(&features.into_data(), tolerance);
        let together = together.answer.unwrap().logits.into_data();
        together.assert_approx_eq::<f32>(&logits.into_data(), tolerance);
    }
}

#[test]
fn compression_keeps_as_many_tokens_as_asked() {
    let device = seeded();
    let model = model(Positions::Counts, &device);
    let clip = sample([2, 4, 8], &device); // 16 visual tokens
    for (keep_ratio, n_kept) in [(1.0, 16), (0.5, 8), (0.2, 3), (0.01, 1)] {
        let layout = model.embed(&clip, &keeping(keep_ratio)).unwrap().layout;
        let pads = layout.input_ids[0]
            .iter()
            .filter(|id| **id == SPECIAL.video_pad);
        assert_eq!(pads.count(), n_kept);
    }
}

#[test]
fn words_and_tower_learn_through_compression() {
    let device = seeded().autodiff();
    let model = model(Positions::Counts, &device);
    let clip = sample([2, 4, 4], &device);
    let found = model.forward(&clip, &keeping(0.5)).unwrap();
    let loss = found.answer.unwrap().loss() + found.semantic_feature.square().mean();
    let gradients = loss.backward();
    let embedding = model
        .model
        .embed_tokens
        .weight
        .val()
        .grad(&gradients)
        .unwrap();
    let moved: Vec<f32> = embedding.abs().sum_dim(1).into_data().iter().collect();
    for (id, moved) in moved.into_iter().enumerate() {
        let is_read = [1, 2, 3, 4, SPECIAL.seg].contains(&(id as i64));
        // The last word is only predicted; pads of visual tokens are replaced.
        assert_eq!(moved > 0.0, is_read, "row {id} moved by {moved}");
    }
    let kernel = model.visual.patch_embed.proj.weight.val();
    let moved: f32 = kernel.grad(&gradients).unwrap().abs().sum().into_scalar();
    assert!(moved > 0.0, "the tower learns through the merged tokens");
}

#[test]
fn without_labels_nothing_is_predicted() {
    let device = seeded();
    let model = model(Positions::Counts, &device);
    let mut clip = sample([1, 4, 4], &device);
    clip.labels[0].fill(sequence::IGNORED_LABEL);
    assert!(
        model
            .forward(&clip, &keeping(0.5))
            .unwrap()
            .answer
            .is_none()
    );
}

#[test]
fn a_bad_patch_is_an_error_with_its_sample() {
    let device = seeded();
    let model = model(Positions::Counts, &device);
    let first = sample([1, 4, 4], &device);
    let mut second = sample([1, 4, 4], &device);
    second.patches = second.patches.full_like(f32::NAN);
    let error = model
        .forward(&batch(&first, &second), &keeping(0.5))
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("visual tokens of sample 1: expected finite values"),
        "{error}"
    );
}
