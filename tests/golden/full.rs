//! The whole model: one video and one image through a training step (six losses, every gradient), LoRA, evaluation.
//! Against `LavidaForCausalLM.forward`.

use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use lavida_model::lavida::ModelInput;
use lavida_model::policy::{TrainPolicies, TrainPolicy};
use lavida_model::projector::ClipLayout;
use lavida_model::qwen2_vl::MllmInput;
use lavida_model::recompute::Recompute;
use lavida_model::weights::{self, Tensors};

use crate::gradients::assert_gradients;
use crate::loss::assert_scalar;
use crate::support::{
    Fixture, FixtureTensors, TOLERANCE, assert_close, assert_close_values, device,
};
use crate::whole_model::{
    Losses, adamw, adapters, batch, evaluation, lora_policies, losses, model, our_name, training,
};

/// What gets gradients in the reference: the compression cuts off everything before it.
fn reference_policies(also: &[(&str, TrainPolicy)]) -> TrainPolicies {
    let frozen = [
        ("visual", TrainPolicy::Frozen),
        ("model.embed_tokens", TrainPolicy::Frozen),
    ];
    let all = frozen.iter().chain(also);
    TrainPolicies::new(all.map(|(prefix, policy)| (prefix.to_string(), *policy)))
}

/// One clip of a batch.
fn clip(batch: &ModelInput, clip: usize) -> ModelInput {
    let before = |counts: &[usize]| counts[..clip].iter().sum::<usize>();
    let of = |counts: &[usize]| before(counts)..before(counts) + counts[clip];
    let n_patches: Vec<usize> = batch
        .mllm
        .grids
        .iter()
        .map(|grid| grid.iter().product())
        .collect();
    ModelInput {
        mllm: MllmInput {
            patches: batch.mllm.patches.clone().slice([of(&n_patches)]),
            grids: vec![batch.mllm.grids[clip]],
            input_ids: vec![batch.mllm.input_ids[clip].clone()],
            attention_mask: vec![batch.mllm.attention_mask[clip].clone()],
            labels: vec![batch.mllm.labels[clip].clone()],
        },
        frames: batch.frames.clone().slice([of(&batch.layout.n_frames)]),
        is_video: vec![batch.is_video[clip]],
        layout: ClipLayout {
            n_frames: vec![batch.layout.n_frames[clip]],
            n_categories: vec![batch.layout.n_categories[clip]],
        },
        category_ids: batch.category_ids[of(&batch.layout.n_categories)].to_vec(),
    }
}

/// Every `step`-th row and column.
fn strided(masks: Tensor<4>, step: usize) -> Tensor<4> {
    let [n_frames, n_masks, height, width] = masks.dims();
    masks
        .reshape([n_frames * n_masks, height / step, step, width])
        .narrow(2, 0, 1)
        .reshape([n_frames, n_masks, height / step, width / step, step])
        .narrow(4, 0, 1)
        .squeeze_dim::<4>(4)
}

/// Frame by frame: the masks of a frame without an object are all -1024, which would hide the others' differences.
#[track_caller]
fn assert_close_masks(expected: &FixtureTensors, name: &str, found: Tensor<4>) {
    let expected = Tensor::<4>::from_data(expected.data(name).clone(), &device());
    for (frame, (expected, found)) in expected.iter_dim(0).zip(found.iter_dim(0)).enumerate() {
        assert_close(
            &format!("{name} of frame {frame}"),
            found.into_data(),
            &expected.into_data(),
        );
    }
}

#[test]
fn a_training_step_equals_the_reference() {
    let fixture = Fixture::open("full");
    let untaped = device();
    let device = untaped.clone().autodiff();
    let model = model(&fixture, &reference_policies(&[]), Tensors::new(), &device);
    let output = model
        .forward(&batch(&fixture, &untaped), training(&fixture))
        .unwrap();

    let outputs = fixture.tensors("outputs");
    outputs.assert_close("train.pred_scores", output.object_logits.clone());
    outputs.assert_close("train.pred_ious", output.iou_scores.clone());
    assert_close_masks(
        &outputs,
        "train.pred_masks_every_4th",
        strided(output.mask_logits.clone(), 4),
    );
    let losses = losses(&fixture, &output);
    assert_scalar(&outputs, "train.loss_mask", losses.segmentation.mask_focal);
    assert_scalar(&outputs, "train.loss_dice", losses.segmentation.dice);
    assert_scalar(&outputs, "train.loss_iou", losses.segmentation.iou);
    assert_scalar(&outputs, "train.loss_class", losses.segmentation.object);
    assert_scalar(&outputs, "train.ce_loss", losses.language);
    assert_scalar(&outputs, "train.total_loss", losses.total.clone());

    let gradients = GradientsParams::from_grads(losses.total.backward(), &model);
    let found = weights::export_gradients(&model, &gradients);
    assert_gradients(&fixture, &fixture.tensors("grads"), "", &found);
    assert_norms(&fixture, &found);
}

/// Loss and gradients of the step, by name.
fn step(fixture: &Fixture, recompute: Recompute, policies: &TrainPolicies) -> (f32, Tensors) {
    let untaped = device();
    let device = untaped.clone().autodiff();
    let extra = match policies.of("model") {
        TrainPolicy::Lora { .. } => adapters(fixture, "lora"),
        _ => Tensors::new(),
    };
    let model = model(fixture, policies, extra, &device).with_recompute(recompute);
    let output = model
        .forward(&batch(fixture, &untaped), training(fixture))
        .unwrap();
    let total = losses(fixture, &output).total;
    let gradients = GradientsParams::from_grads(total.clone().backward(), &model);
    let found = weights::export_gradients(&model, &gradients);
    (total.into_scalar(), found)
}

#[test]
fn recomputed_blocks_give_loss_and_gradients_bit_for_bit() {
    let fixture = Fixture::open("full");
    for policies in [
        TrainPolicies::default(), // towers and embedding too
        reference_policies(&[]),
        lora_policies(&fixture, TrainPolicy::Full),
    ] {
        let (loss, gradients) = step(&fixture, Recompute::None, &policies);
        let (again, recomputed) = step(&fixture, Recompute::Blocks, &policies);
        assert_eq!(loss.to_bits(), again.to_bits());
        assert!(gradients.keys().eq(recomputed.keys()));
        for (name, gradient) in &gradients {
            gradient.assert_eq(&recomputed[name], true);
        }
    }
}

/// Every parameter that has a gradient in the reference has one here, of the same length; no other has one.
fn assert_norms(fixture: &Fixture, found: &Tensors) {
    let norm = |name: &str| {
        let values = found[name].as_slice::<f32>().unwrap();
        values
            .iter()
            .map(|value| f64::from(*value).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let expected = fixture.setting("/grad_norms").as_object().unwrap();
    let n_keys: usize = expected.len();
    let mut largest_error = 0f64;
    for (name, expected) in expected {
        let expected = expected.as_f64().unwrap();
        assert!(found.contains_key(name), "{name}: no gradient");
        // The config rounds to five decimals; a bias of keys has nothing but rounding.
        let allowed = TOLERANCE * expected + 1e-5;
        let error = (norm(name) - expected).abs();
        assert!(
            error <= allowed,
            "{name}: norm {}, expected {expected}",
            norm(name)
        );
        largest_error = largest_error.max(error / expected.max(1e-3));
    }
    println!("{n_keys} gradient norms: {largest_error:.1e}");
    let unexpected: Vec<&String> = found
        .keys()
        .filter(|name| !expected.contains_key(*name) && norm(name) > 1e-6)
        .collect();
    assert!(
        unexpected.is_empty(),
        "gradients the reference has not: {unexpected:?}"
    );
}

#[track_caller]
fn assert_losses_of_step(fixture: &Fixture, step: usize, losses: &Losses) {
    let segmentation = &losses.segmentation;
    for (name, loss) in [
        ("loss_mask", &segmentation.mask_focal),
        ("loss_dice", &segmentation.dice),
        ("loss_iou", &segmentation.iou),
        ("loss_class", &segmentation.object),
        ("ce_loss", &losses.language),
        ("total_loss", &losses.total),
    ] {
        let expected = fixture.number(&format!("/lora_steps/{step}/{name}")) as f32;
        let found = loss.clone().into_data().try_to_vec::<f32>().unwrap();
        assert_close_values(&format!("{name} of step {step}"), &found, &[expected]);
    }
}

#[test]
fn adapters_get_the_references_gradients() {
    let fixture = Fixture::open("full");
    let untaped = device();
    let device = untaped.clone().autodiff();
    let policies = lora_policies(&fixture, TrainPolicy::Full);
    let model = model(&fixture, &policies, adapters(&fixture, "lora"), &device);
    let input = batch(&fixture, &untaped);
    let losses = losses(
        &fixture,
        &model.forward(&input, training(&fixture)).unwrap(),
    );
    assert_losses_of_step(&fixture, 0, &losses);

    let gradients = GradientsParams::from_grads(losses.total.backward(), &model);
    let found = weights::export_gradients(&model, &gradients);
    let expected = fixture.tensors("lora_grads");
    for name in expected.names() {
        assert_close(name, found[&our_name(name)].clone(), expected.data(name));
    }
    // The reference also counts adapters on SAM2's memory attention, which never runs and is not built here.
    let parameters = policies.parameters(&model);
    let trained = parameters
        .iter()
        .filter(|parameter| parameter.trains)
        .count();
    let unused = fixture.size("/lora_on_memory_attention_without_grad");
    assert_eq!(trained + unused, fixture.size("/trainable_tensors"));
}

#[test]
fn three_steps_of_adamw_follow_the_reference() {
    let fixture = Fixture::open("full");
    let untaped = device();
    let device = untaped.clone().autodiff();
    // The reference's embedding is trainable and never gets a gradient, so it stays as it is.
    let policies = lora_policies(&fixture, TrainPolicy::Frozen);
    let mut model = model(&fixture, &policies, adapters(&fixture, "lora"), &device);
    let mut optimizer = adamw(&fixture, &policies, &model);
    let input = batch(&fixture, &untaped);
    let n_steps = fixture.setting("/lora_steps").as_array().unwrap().len();
    for step in 0..n_steps {
        let losses = losses(
            &fixture,
            &model.forward(&input, training(&fixture)).unwrap(),
        );
        assert_losses_of_step(&fixture, step, &losses);
        let mut gradients = losses.total.backward();
        let gradients = optimizer.flatten(&model, &mut gradients);
        (model, _) = optimizer.step(model, gradients, fixture.number("/optimizer/lr"));
        if step == 0 {
            let expected = fixture.tensors("after_step1");
            let found = weights::export(&model);
            for name in expected.names() {
                assert_close(name, found[&our_name(name)].clone(), expected.data(name));
            }
        }
    }
}

#[test]
fn evaluation_of_a_video_equals_the_reference() {
    let fixture = Fixture::open("full");
    let device = device();
    let model = model(&fixture, &TrainPolicies::default(), Tensors::new(), &device);
    let input = clip(&batch(&fixture, &device), 0);
    let output = model.forward(&input, evaluation(&fixture)).unwrap();
    let outputs = fixture.tensors("outputs");
    outputs.assert_close("eval_video.pred_scores", output.object_logits);
    outputs.assert_close("eval_video.pred_ious", output.iou_scores);
    assert_close_masks(
        &outputs,
        "eval_video.pred_masks_every_2nd",
        strided(output.mask_logits, 2),
    );
}
