//! CPU time of the real-size parts, forward without a tape: the sizes of `configs/paper.toml`.
//!
//! `cargo bench -p lavida-model --bench parts -- [hiera|clip_text|projector] [--runs N]` prints one line of JSON per
//! part; `RAYON_NUM_THREADS` sets the threads. `benches/parts_torch.py` runs PyTorch beside it.

#![allow(clippy::print_stdout, reason = "the result is printed")]

mod measure;

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use lavida_model::config::{ClipTextConfig, ProjectorConfig, Sam2Config};
use lavida_model::projector::{ClipLayout, ProjectorInput, ProjectorWidths};
use lavida_model::sam2::Sam2;
use measure::Request;

/// As in `lavida`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let request = Request::from_arguments();
    let device = Device::flex();
    device.seed(1);
    if request.wants("hiera") {
        hiera(&request, &device);
    }
    if request.wants("clip_text") {
        clip_text(&request, &device);
    }
    if request.wants("projector") {
        projector(&request, &device);
    }
}

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

/// Hiera-S, its pyramid and the two finer levels narrowed for the mask decoder, on one picture: SAM2's
/// `forward_image`.
fn hiera(request: &Request, device: &Device) {
    let config = Sam2Config {
        image_size: 1024,
        patch_stride: 4,
        embed_dim: 96,
        num_heads: 1,
        stages: [1, 2, 11, 2],
        global_att_blocks: vec![7, 10, 13],
        window_spec: [8, 4, 14, 7],
        window_pos_embed_bkg_spatial_size: [7, 7],
        d_model: 256,
        decoder_mlp_dim: 2048,
        iou_head_hidden_dim: 256,
    };
    let sam2 = Sam2::init(&config, device);
    let image = random([1, 3, config.image_size, config.image_size], device);
    let (neck, decoder) = (&sam2.image_encoder.neck, &sam2.sam_mask_decoder);
    request.measure("hiera", || {
        let features = sam2.encode(image.clone());
        let finer = decoder.high_res_features(&features, neck.conv(0), neck.conv(1));
        drop((features, finer));
    });
}

/// CLIP ViT-B/32's text tower on ten category names of twelve tokens.
fn clip_text(request: &Request, device: &Device) {
    const N_TEXTS: usize = 10;
    const N_TOKENS: usize = 12;
    let config = ClipTextConfig {
        hidden_size: 512,
        intermediate_size: 2048,
        num_hidden_layers: 12,
        num_attention_heads: 8,
        vocab_size: 49408,
        max_position_embeddings: 77,
        token_embedding_std: 0.02,
    };
    let tower = config.init(device);
    let ids: Vec<i64> = (0..N_TEXTS * N_TOKENS)
        .map(|i| {
            let is_last = i % N_TOKENS == N_TOKENS - 1;
            if is_last { 49407 } else { 320 + 7 * i as i64 }
        })
        .collect();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [N_TEXTS, N_TOKENS]), device);
    request.measure("clip_text", || drop(tower.forward(ids.clone())));
}

/// The projector on one clip: 8 frames of 64 x 64 cells, 10 categories.
fn projector(request: &Request, device: &Device) {
    const N_FRAMES: usize = 8;
    const N_CATEGORIES: usize = 10;
    const N_CELLS: usize = 4096;
    let widths = ProjectorWidths {
        language: 3584,
        text: 512,
        vision: 256,
        prompt: 256,
    };
    let config = ProjectorConfig {
        adapter_dim: 768,
        cross_attn_heads: 8,
        n_qformer_layers: 5,
        n_qformer_queries: 48,
        n_heads: 12,
        d_ff: 2048,
        cross_attn_init_scale: 1.0,
    };
    let projector = config.init(&widths, device);
    let layout = ClipLayout {
        n_frames: vec![N_FRAMES],
        n_categories: vec![N_CATEGORIES],
    };
    let answer = random([1, widths.language], device);
    let categories = random([N_CATEGORIES, widths.text], device);
    let cells = random([N_FRAMES, N_CELLS, widths.vision], device);
    let positions = random([1, N_CELLS, widths.vision], device);
    request.measure("projector", || {
        drop(projector.forward(ProjectorInput {
            semantic_feature: answer.clone(),
            category_features: categories.clone(),
            frame_features: cells.clone(),
            cell_positions: positions.clone(),
            layout: &layout,
        }));
    });
}
