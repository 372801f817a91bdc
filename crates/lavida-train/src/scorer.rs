//! A trained model that scores frames: what evaluation and prediction share.

use burn::tensor::Device;
use lavida_data::{Error, Result, batch::HostBatch, tokenizer::Tokenizers};
use lavida_model::{
    lavida::{Lavida, Mode},
    weights::{self, Tensors, WeightError},
};

use crate::{
    checkpoint,
    model_input::model_input,
    settings::Settings,
    trainer::{model_error, special_tokens},
};

/// A model without tape, adapters merged.
pub struct Scorer {
    model: Lavida,
    device: Device,
    mode: Mode,
    side: usize,
}

/// What the model says of a batch's `N` frames.
#[derive(Clone, Debug, PartialEq)]
pub struct FrameScores {
    /// `[N]` ŷ^f: object-score logits.
    pub frame_scores: Vec<f32>,
    /// `[N]` times `[S, S]` ŷ^p: mask logits, row by row.
    pub pixel_scores: Vec<Vec<f32>>,
    /// `S`, side of the masks in px.
    pub side: usize,
}

impl Scorer {
    /// The model of a checkpoint.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the weights do not fit the settings.
    pub fn new(
        settings: &Settings,
        tokenizers: &Tokenizers,
        weights: &[u8],
        device: &Device,
    ) -> Result<Self> {
        let tensors = weights::read_safetensors(weights).map_err(unfit)?;
        Self::with_tensors(settings, tokenizers, tensors, device)
    }

    /// The model with these weights under the reference's names, of any float format.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the weights do not fit the settings.
    pub fn with_tensors(
        settings: &Settings,
        tokenizers: &Tokenizers,
        tensors: Tensors,
        device: &Device,
    ) -> Result<Self> {
        let model = load_model(settings, tokenizers, tensors, device)?;
        Ok(Self {
            model: model.merge_adapters(),
            device: device.clone(),
            mode: Mode::Eval {
                drop_static_patches: settings.compression.drop_static_patches,
            },
            side: settings.model.sam2.image_size,
        })
    }

    /// The model, adapters merged.
    pub fn model(&self) -> &Lavida {
        &self.model
    }

    /// Scores the frames of a batch.
    ///
    /// # Errors
    ///
    /// A prompt that does not fit its clip; scores that are not numbers.
    pub fn score(&self, batch: &HostBatch) -> Result<FrameScores> {
        let input = model_input(batch, &self.device);
        let output = self.model.forward(&input, self.mode).map_err(model_error)?;
        let values =
            |data: burn::tensor::TensorData| data.try_into_vec::<f32>().expect("scores are f32");
        let frame_scores = values(output.object_logits.into_data());
        if let Some(frame) = frame_scores.iter().position(|s| !s.is_finite()) {
            return Err(Error::Internal(format!(
                "frame {frame} of clips {} scores {}",
                batch.clip_ids.join(", "),
                frame_scores[frame]
            )));
        }
        let masks = values(output.mask_logits.into_data());
        let area = self.side * self.side;
        Ok(FrameScores {
            frame_scores,
            pixel_scores: masks.chunks_exact(area).map(<[f32]>::to_vec).collect(),
            side: self.side,
        })
    }
}

/// A model of the settings' sizes whose values are not drawn.
pub fn uninitialised(settings: &Settings, tokenizers: &Tokenizers, device: &Device) -> Lavida {
    let compression = settings.compression.config();
    let special = special_tokens(tokenizers);
    Lavida::uninitialised(&settings.model.config(), &compression, special, device)
}

/// The model of a checkpoint with the adapters it was trained with, without a tape. Adapters are where the weights have
/// them: what an import makes has none yet, whatever its settings will train.
fn load_model(
    settings: &Settings,
    tokenizers: &Tokenizers,
    tensors: Tensors,
    device: &Device,
) -> Result<Lavida> {
    let model = uninitialised(settings, tokenizers, device);
    let has_adapters = tensors.keys().any(|name| name.contains(".lora_A."));
    let model = if has_adapters {
        model
            .with_policies(&settings.policies(), settings.seed)
            .map_err(model_error)?
    } else {
        model
    };
    let model = weights::load(model, tensors).map_err(unfit)?;
    Ok(burn::module::Module::valid(&model))
}

fn unfit(error: WeightError) -> Error {
    Error::corrupt(checkpoint::WEIGHTS, "weights that fit the model", error)
}
