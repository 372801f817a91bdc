//! `serving.json`: what a program that never saw this one must know to ask the model and to read its answer.
//!
//! What is said of pixels and prompts is taken from the code that makes them.

use lavida_data::{
    exposure::MaxCategories,
    preprocess::{CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD},
    prompt::Prompt,
    tokenizer::SEG_TOKEN,
};
use lavida_model::{lavida::UNUSED_TENSORS, precision::Precision, weights::Tensors};
use lavida_score::model::ModelInfo;
use serde_json::{Value, json};

use super::{Format, Packing};

/// Names in a prompt of the training sets at most, where neither settings nor dataset say.
const MAX_CATEGORIES: usize = 30;
/// Masks of a frame whose object score is not positive.
const GATED: f32 = -1024.0;

/// The whole document.
pub fn document(
    model: &ModelInfo,
    carried: &Tensors,
    packing: Packing,
    weights: &[String],
) -> anyhow::Result<Value> {
    let settings = &model.settings;
    let (m, s) = (&settings.model, &settings.sampler);
    let special = model.tokenizers.special();
    let side = m.sam2.image_size;
    let (format, names) = match packing.format {
        Format::Safetensors => (
            "safetensors",
            "the reference's parameter names, Linear weights [out, in] as in PyTorch",
        ),
        Format::Burnpack => (
            "burnpack",
            "paths of the Burn module lavida_model::lavida::Lavida, Linear weights [in, out]",
        ),
    };
    let dtype = match packing.precision {
        Precision::F32 => "f32",
        Precision::Bf16 => "bf16",
    };
    let patch_values = 3 * m.vision.temporal_patch_size * m.vision.patch_size.pow(2);
    Ok(json!({
        "format": "lavida/serving",
        "version": 1,
        "weights": { "files": weights, "format": format, "dtype": dtype, "names": names },
        "carried": {
            "n_tensors": carried.len(),
            "prefixes": UNUSED_TENSORS,
            "is": "SAM2's memory, which no output depends on: among the weights in safetensors, in carried.safetensors beside burnpack; in the number format it came in",
        },
        "step": model.step,
        "axes": {
            "B": "clips of a batch", "N": "frames of all clips", "P": "patches of all clips", "W": "ids of the longest chat",
            "C": "categories of all clips", "L": "ids of the longest category",
        },
        "inputs": {
            "frames": { "shape": ["N", 3, side, side], "dtype": "f32", "is": "frame_view of every frame" },
            "patches": { "shape": ["P", patch_values], "dtype": "f32", "is": "language_view of every clip, in Qwen2-VL's patch order" },
            "grids": { "shape": ["B", 3], "dtype": "i64", "is": "patches of each clip in time, height and width" },
            "input_ids": { "shape": ["B", "W"], "dtype": "i64", "is": "chat with its answer, padded on the left with pad_id" },
            "attention_mask": { "shape": ["B", "W"], "dtype": "i64", "is": "1 at ids of the chat, 0 at padding" },
            "category_ids": { "shape": ["C", "L"], "dtype": "i64", "is": "start_id, words, end_id; padded on the right with end_id" },
            "n_frames": { "shape": ["B"], "dtype": "i64", "is": "frames of each clip" },
            "n_categories": { "shape": ["B"], "dtype": "i64", "is": "categories of each clip" },
            "is_video": { "shape": ["B"], "dtype": "bool", "is": "false for a clip that is one image" },
        },
        "clip": {
            "n_frames": s.n_frames,
            "rule": "windows of n_frames in order; the last one is aligned to the end of the video",
        },
        "preprocessing": {
            "frame_view": {
                "size": [side, side],
                "resize": "bilinear, antialiased, aspect not kept, rounded to 0..255 once (half to even)",
                "scale": 1.0 / 255.0, "mean": IMAGENET_MEAN, "std": IMAGENET_STD, "channels": "RGB",
            },
            "language_view": {
                "multiple_of": m.vision.patch_size * m.vision.spatial_merge_size,
                "video_pixels": s.evaluation_pixels,
                "image_pixels": s.image_pixels,
                "resize": "bicubic, antialiased, in integers as torchvision does on u8; aspect kept (Qwen2-VL's smart_resize within the bounds of pixels)",
                "scale": 1.0 / 255.0, "mean": CLIP_MEAN, "std": CLIP_STD, "channels": "RGB",
                "patch_size": m.vision.patch_size,
                "temporal_patch_size": m.vision.temporal_patch_size,
                "spatial_merge_size": m.vision.spatial_merge_size,
                "rule": "the last frame is repeated until patches in time are whole; an image counts as two frames",
            },
        },
        "prompt": {
            "tokenizer": "tokenizer.json",
            "video": chat(true)?,
            "image": chat(false)?,
            "category_separator": ", ",
            "rule": "{categories} are joined by category_separator; {visual} is the pad id, once for each merged visual token (patches over spatial_merge_size squared); nothing is generated, the answer stands in the chat",
            "seg_token": SEG_TOKEN,
            "seg_id": special.seg,
            "image_pad_id": special.image_pad,
            "video_pad_id": special.video_pad,
            "pad_id": special.pad,
        },
        "categories": {
            "tokenizer": "clip_tokenizer.json",
            "start_id": special.clip_start,
            "end_id": special.clip_end,
            "min": 1,
            "max_in_training": s.max_categories.map_or(MAX_CATEGORIES, MaxCategories::get),
            "max_ids": m.clip_text.max_position_embeddings,
            "rule": "raw text without a template; not blank, no special token of tokenizer.json in it; one longer than max_ids keeps its first words and end_id. More than max_in_training are accepted, but were never seen together",
        },
        "outputs": {
            "object_logits": {
                "shape": ["N"], "dtype": "f32",
                "is": "score of each frame: above 0 where one of the categories is seen; its sigmoid is a probability",
            },
            "mask_logits": {
                "shape": ["N", 1, side, side], "dtype": "f32",
                "is": "score of each pixel of frame_view: above 0 where it is seen; resize to the frame (nearest)",
                "gated": GATED,
                "rule": "gated everywhere in a frame whose object logit is not above 0",
            },
        },
        "compression": settings.compression,
    }))
}

/// The chat with `{categories}` and `{visual}` where they go.
fn chat(is_video: bool) -> anyhow::Result<String> {
    let prompt = Prompt::new(&["{categories}".to_owned()], is_video, 0, 0)?;
    let pad = if is_video {
        "<|video_pad|>"
    } else {
        "<|image_pad|>"
    };
    Ok(prompt.chat(1).replace(pad, "{visual}"))
}
