//! The whole model: one video and one image through a training step (six losses, every gradient), LoRA, evaluation.
//! Against `LavidaForCausalLM.forward`.

use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use lavida_model::compression::{CompressionConfig, Density};
use lavida_model::config::{
    ClipTextConfig, LanguageConfig, LavidaConfig, Positions, ProjectorConfig, Sam2Config,
    VisionConfig,
};
use lavida_model::lavida::{Lavida, Mode, ModelInput, ModelOutput, without_unused};
use lavida_model::policy::{TrainPolicies, TrainPolicy};
use lavida_model::projector::ClipLayout;
use lavida_model::qwen2_vl::{MllmInput, SpecialTokens};
use lavida_model::recompute::Recompute;
use lavida_model::weights::{self, Tensors};
use lavida_train::losses::{
    IouSupervision, LossWeights, MaskPrediction, SegmentationLosses, language_loss,
    segmentation_losses,
};
use lavida_train::optimizer::{AdamW, TrainableParameter};
use lavida_train::settings::OptimizerSettings;

use crate::gradients::assert_gradients;
use crate::loss::assert_scalar;
use crate::support::{Fixture, FixtureTensors, TOLERANCE, assert_close, assert_close_values};

/// Heads of the categories' cross attention: the reference's constant.
const CROSS_ATTN_HEADS: usize = 8;
/// PEFT's prefix of every name.
const PEFT_PREFIX: &str = "base_model.model.";

fn config(fixture: &Fixture) -> LavidaConfig {
    let size = |name: &str| fixture.size(&format!("/config/{name}"));
    let global_att_blocks = fixture.setting("/config/sam/global_att_blocks").clone();
    LavidaConfig {
        vision: VisionConfig {
            depth: size("llm/v_depth"),
            embed_dim: size("llm/v_embed"),
            num_heads: size("llm/v_heads"),
            mlp_ratio: size("llm/v_mlp_ratio"),
            patch_size: size("llm/patch"),
            temporal_patch_size: 2,
            spatial_merge_size: 2,
        },
        language: LanguageConfig {
            hidden_size: size("llm/hidden_size"),
            intermediate_size: size("llm/intermediate_size"),
            num_hidden_layers: size("llm/num_hidden_layers"),
            num_attention_heads: size("llm/num_attention_heads"),
            num_key_value_heads: size("llm/num_key_value_heads"),
            vocab_size: size("llm/vocab_size"),
            mrope_section: fixture.sizes("/config/llm/mrope"),
            rope_theta: 1e6,
            rms_norm_eps: 1e-6,
            positions: Positions::Counts,
        },
        clip_text: ClipTextConfig {
            hidden_size: size("clip/hidden_size"),
            intermediate_size: size("clip/intermediate_size"),
            num_hidden_layers: size("clip/num_hidden_layers"),
            num_attention_heads: size("clip/num_attention_heads"),
            vocab_size: size("clip/vocab_size"),
            max_position_embeddings: size("clip/max_position_embeddings"),
            token_embedding_std: 0.02,
        },
        sam2: Sam2Config {
            image_size: size("sam/image_size"),
            patch_stride: 4,
            embed_dim: size("sam/embed_dim"),
            num_heads: size("sam/num_heads"),
            stages: fixture.sizes("/config/sam/stages"),
            global_att_blocks: serde_json::from_value(global_att_blocks).unwrap(),
            window_spec: fixture.sizes("/config/sam/window_spec"),
            window_pos_embed_bkg_spatial_size: fixture.sizes("/config/sam/pos_bkg"),
            d_model: size("sam/d_model"),
            decoder_mlp_dim: size("sam/decoder_mlp"),
            iou_head_hidden_dim: size("sam/iou_hidden"),
        },
        projector: ProjectorConfig {
            adapter_dim: size("projector/hidden"),
            cross_attn_heads: CROSS_ATTN_HEADS,
            n_qformer_layers: size("projector/n_layers"),
            n_qformer_queries: size("projector/n_queries"),
            n_heads: size("projector/n_heads"),
            d_ff: size("projector/d_ff"),
            cross_attn_init_scale: 1.0,
        },
        image_no_mem_embed: false,
    }
}

fn undrawn(fixture: &Fixture, device: &Device) -> Lavida {
    let compression = CompressionConfig {
        keep_ratio: fixture.number("/config/llm/ratio"),
        density: Density::Reachability,
        n_neighbors: fixture.size("/config/llm/k"),
    };
    let id = |name: &str| fixture.size(&format!("/config/special/{name}")) as i64;
    let special = SpecialTokens {
        seg: id("seg"),
        image_pad: id("image"),
        video_pad: id("video"),
        pad: id("bos"),
    };
    Lavida::undrawn(&config(fixture), &compression, special, device)
}

/// The reference's weights, set up to train what `policies` say; `extra` are adapters.
fn model(fixture: &Fixture, policies: &TrainPolicies, extra: Tensors, device: &Device) -> Lavida {
    let (mut tensors, unused) = without_unused(fixture.tensors("weights").all());
    assert!(
        unused.iter().all(|name| name.starts_with("seg_model.")),
        "{unused:?}"
    );
    tensors.extend(extra);
    let model = undrawn(fixture, device).with_policies(policies, 0).unwrap();
    weights::load(model, tensors).unwrap()
}

/// What gets gradients in the reference: the compression cuts off everything before it.
fn reference_policies(also: &[(&str, TrainPolicy)]) -> TrainPolicies {
    let frozen = [
        ("visual", TrainPolicy::Frozen),
        ("model.embed_tokens", TrainPolicy::Frozen),
    ];
    let all = frozen.iter().chain(also);
    TrainPolicies::new(all.map(|(prefix, policy)| (prefix.to_string(), *policy)))
}

/// Adapters by our names.
fn adapters(fixture: &Fixture, file: &str) -> Tensors {
    let renamed = fixture
        .tensors(file)
        .all()
        .into_iter()
        .filter(|(name, _)| name.contains(".lora_"));
    renamed
        .map(|(name, data)| (our_name(&name), data))
        .collect()
}

fn our_name(peft_name: &str) -> String {
    let name = peft_name.strip_prefix(PEFT_PREFIX).unwrap();
    name.replace(".default.weight", ".weight")
}

/// The video, then the image.
fn batch(fixture: &Fixture, device: &Device) -> ModelInput {
    let inputs = fixture.tensors("inputs");
    let classes = [
        inputs.int_rows("classes0.input_ids"),
        inputs.int_rows("classes1.input_ids"),
    ];
    let grid = |name: &str| -> [usize; 3] {
        let sides = inputs.int_values(name);
        [sides[0] as usize, sides[1] as usize, sides[2] as usize]
    };
    let frames = inputs.floats::<4>("frames", device);
    let still = inputs.floats::<4>("still", device);
    let patches = [
        inputs.floats::<2>("pixel_values_videos", device),
        inputs.floats("pixel_values", device),
    ];
    ModelInput {
        mllm: MllmInput {
            patches: Tensor::cat(patches.to_vec(), 0),
            grids: vec![grid("video_grid_thw"), grid("image_grid_thw")],
            input_ids: inputs.int_rows("input_ids"),
            attention_mask: inputs.int_rows("attention_mask"),
            labels: inputs.int_rows("labels"),
        },
        layout: ClipLayout {
            n_frames: vec![frames.dims()[0], still.dims()[0]],
            n_categories: classes.iter().map(Vec::len).collect(),
        },
        frames: Tensor::cat(vec![frames, still], 0),
        is_video: vec![true, false],
        category_ids: classes.concat(),
    }
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

/// Losses of a training step, unweighted, and their weighted sum.
struct Losses {
    segmentation: SegmentationLosses,
    language: Tensor<1>,
    total: Tensor<1>,
}

fn losses(fixture: &Fixture, output: &ModelOutput) -> Losses {
    let weight = |name: &str| fixture.number(&format!("/config/weight_dict/{name}"));
    let weights = LossWeights {
        mask_focal: weight("loss_mask"),
        dice: weight("loss_dice"),
        iou: weight("loss_iou"),
        object: weight("loss_class"),
        ..LossWeights::default()
    };
    let prediction = MaskPrediction {
        mask_logits: output.mask_logits.clone(),
        iou_scores: output.iou_scores.clone(),
        object_logits: output.object_logits.clone(),
    };
    let target = fixture
        .tensors("inputs")
        .floats("target_masks", &output.mask_logits.device());
    let segmentation = segmentation_losses(prediction, target, &weights, IouSupervision::Best);
    let answer = output.answer.clone().expect("labels ask for an answer");
    let language = language_loss(answer.logits, answer.targets);
    let total = segmentation.weighted(&weights) + language.clone().mul_scalar(weights.language);
    Losses {
        segmentation,
        language,
        total,
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
    let expected = Tensor::<4>::from_data(expected.data(name).clone(), &Device::flex());
    for (frame, (expected, found)) in expected.iter_dim(0).zip(found.iter_dim(0)).enumerate() {
        assert_close(
            &format!("{name} of frame {frame}"),
            found.into_data(),
            &expected.into_data(),
        );
    }
}

const TRAIN: Mode = Mode::Train { gate_masks: true };

#[test]
fn a_training_step_equals_the_reference() {
    let fixture = Fixture::open("full");
    let device = Device::flex().autodiff();
    let model = model(&fixture, &reference_policies(&[]), Tensors::new(), &device);
    let output = model
        .forward(&batch(&fixture, &Device::flex()), TRAIN)
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
    let device = Device::flex().autodiff();
    let extra = match policies.of("model") {
        TrainPolicy::Lora { .. } => adapters(fixture, "lora"),
        _ => Tensors::new(),
    };
    let model = model(fixture, policies, extra, &device).with_recompute(recompute);
    let output = model
        .forward(&batch(fixture, &Device::flex()), TRAIN)
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

/// LoRA in the language model, both vision towers and CLIP frozen, the rest full.
fn lora_policies(fixture: &Fixture, embed_tokens: TrainPolicy) -> TrainPolicies {
    let lora = TrainPolicy::Lora {
        rank: fixture.size("/optimizer/lora/r"),
        alpha: fixture.number("/optimizer/lora/alpha"),
    };
    let table = [
        ("visual", TrainPolicy::Frozen),
        ("model", lora),
        ("model.embed_tokens", embed_tokens),
        ("assist_clf", TrainPolicy::Frozen),
        ("seg_model.image_encoder", TrainPolicy::Frozen),
        ("seg_model.no_mem_embed", TrainPolicy::Frozen),
    ];
    TrainPolicies::new(table.map(|(prefix, policy)| (prefix.to_owned(), policy)))
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
    let device = Device::flex().autodiff();
    let policies = lora_policies(&fixture, TrainPolicy::Full);
    let model = model(&fixture, &policies, adapters(&fixture, "lora"), &device);
    let input = batch(&fixture, &Device::flex());
    let losses = losses(&fixture, &model.forward(&input, TRAIN).unwrap());
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
    let device = Device::flex().autodiff();
    let [beta1, beta2] = [0, 1].map(|i| fixture.number(&format!("/optimizer/betas/{i}")));
    let settings = OptimizerSettings {
        beta1,
        beta2,
        epsilon: fixture.number("/optimizer/eps"),
        weight_decay: fixture.number("/optimizer/weight_decay"),
        clip_norm: 0.0,
        ..OptimizerSettings::default()
    };
    // The reference's embedding is trainable and never gets a gradient, so it stays as it is.
    let policies = lora_policies(&fixture, TrainPolicy::Frozen);
    let mut model = model(&fixture, &policies, adapters(&fixture, "lora"), &device);
    let trainable = policies
        .parameters(&model)
        .into_iter()
        .filter(|parameter| parameter.trains);
    let trainable = trainable.map(|parameter| TrainableParameter {
        id: parameter.id,
        name: parameter.name,
        shape: parameter.shape,
    });
    let mut optimizer = AdamW::new(settings, trainable.collect(), &Device::flex());
    let input = batch(&fixture, &Device::flex());
    let n_steps = fixture.setting("/lora_steps").as_array().unwrap().len();
    for step in 0..n_steps {
        let losses = losses(&fixture, &model.forward(&input, TRAIN).unwrap());
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
    let device = Device::flex();
    let model = model(&fixture, &TrainPolicies::default(), Tensors::new(), &device);
    let input = clip(&batch(&fixture, &device), 0);
    let output = model
        .forward(
            &input,
            Mode::Eval {
                drop_static_patches: true,
            },
        )
        .unwrap();
    let outputs = fixture.tensors("outputs");
    outputs.assert_close("eval_video.pred_scores", output.object_logits);
    outputs.assert_close("eval_video.pred_ious", output.iou_scores);
    assert_close_masks(
        &outputs,
        "eval_video.pred_masks_every_2nd",
        strided(output.mask_logits, 2),
    );
}
