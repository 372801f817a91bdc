//! A trained model that scores the frames of a batch.
//!
//! Shapes: `N` frames of the batch's clips, `S` side of the model's masks in px.

use burn::tensor::Device;
use lavida_checkpoint::contents;
use lavida_data::{Error, Result, batch::HostBatch, tokenizer::Tokenizers};
use lavida_model::{
    lavida::{Lavida, Mode},
    weights::{self, Tensors, WeightError},
};
use lavida_train::{
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

/// What the model says of a batch's frames.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredBatch {
    /// `[N]` ŷ^f
    pub object_logits: Vec<f32>,
    /// `[N]` times `[S, S]` ŷ^p, row by row.
    pub mask_logits: Vec<Vec<f32>>,
    /// `S`
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
    pub fn score(&self, batch: &HostBatch) -> Result<ScoredBatch> {
        let input = model_input(batch, &self.device);
        let output = self.model.forward(&input, self.mode).map_err(model_error)?;
        let values =
            |data: burn::tensor::TensorData| data.try_into_vec::<f32>().expect("scores are f32");
        let object_logits = values(output.object_logits.into_data());
        if let Some(frame) = object_logits.iter().position(|s| !s.is_finite()) {
            return Err(Error::Internal(format!(
                "frame {frame} of clips {} scores {}",
                batch.clip_ids.join(", "),
                object_logits[frame]
            )));
        }
        let masks = values(output.mask_logits.into_data());
        let area = self.side * self.side;
        Ok(ScoredBatch {
            object_logits,
            mask_logits: masks.chunks_exact(area).map(<[f32]>::to_vec).collect(),
            side: self.side,
        })
    }
}

/// A model of the settings' sizes whose values are not initialised.
pub fn uninitialised(settings: &Settings, tokenizers: &Tokenizers, device: &Device) -> Lavida {
    let compression = settings.compression.config();
    let special = special_tokens(tokenizers);
    Lavida::undrawn(&settings.model.config(), &compression, special, device)
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
    Error::corrupt(contents::WEIGHTS, "weights that fit the model", error)
}
