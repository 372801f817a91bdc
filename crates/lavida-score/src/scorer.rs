//! A trained model that scores the frames of a batch.
//!
//! Shapes: `N` frames of the batch's clips, `S` side of the model's masks in px.

use burn::tensor::{Device, FloatDType};
use lavida_checkpoint::contents;
use lavida_data::{Error, Result, batch::HostBatch, tokenizer::Tokenizers};
use lavida_model::{
    compression::Compression,
    lavida::{ForwardOptions, Lavida},
    precision::Precision,
    weights::{self, Tensors, WeightError},
};
use lavida_train::{
    assembly::Phase,
    model_input::model_input,
    settings::Settings,
    trainer::{model_error, special_tokens},
};

/// A model without tape, adapters merged.
pub struct Scorer {
    model: Lavida,
    device: Device,
    options: ForwardOptions,
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
    /// The model with these weights under the reference's names, adapters merged, in any float formats. It computes in
    /// `precision`.
    ///
    /// # Errors
    ///
    /// [`Error::Corrupt`] when the weights do not fit the settings.
    pub fn new(
        settings: &Settings,
        tokenizers: &Tokenizers,
        weights: Tensors,
        precision: Precision,
        device: &Device,
    ) -> Result<Self> {
        let model = uninitialised(settings, tokenizers, device);
        let format = |name: &str| precision.dtype_of(name);
        let model = weights::load_as(model, weights, format).map_err(unfit)?;
        Ok(Self {
            model: burn::module::Module::valid(&model),
            device: device.clone(),
            options: settings.forward_options(Phase::Evaluation),
            side: settings.model.sam2.image_size,
        })
    }

    /// The model, adapters merged.
    pub fn model(&self) -> &Lavida {
        &self.model
    }

    /// Scores with another compression from now on: the same weights at another keep ratio.
    pub fn set_compression(&mut self, compression: Compression) {
        self.options.compression = compression;
    }

    /// Scores the frames of a batch.
    ///
    /// # Errors
    ///
    /// A prompt that does not fit its clip; scores that are not numbers.
    pub fn score(&self, batch: &HostBatch) -> Result<ScoredBatch> {
        let input = model_input(batch, &self.device);
        let output = self.model.forward(&input, self.options);
        let output = output.map_err(model_error)?;
        let values =
            |data: burn::tensor::TensorData| data.try_into_vec::<f32>().expect("cast to f32");
        let object_logits = values(output.object_logits.cast(FloatDType::F32).into_data());
        if let Some(frame) = object_logits.iter().position(|s| !s.is_finite()) {
            return Err(Error::Internal(format!(
                "frame {frame} of clips {} scores {}",
                batch.clip_ids.join(", "),
                object_logits[frame]
            )));
        }
        let masks = values(output.mask_logits.cast(FloatDType::F32).into_data());
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
    let special = special_tokens(tokenizers);
    Lavida::uninitialised(&settings.model.config(), special, device)
}

pub(crate) fn unfit(error: WeightError) -> Error {
    Error::corrupt(contents::WEIGHTS, "weights that fit the model", error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use lavida_data::{exposure::Exposure, frame::RgbFrame};

    use super::*;
    use lavida_train::settings::embedded;

    fn settings(keep_ratio: f64) -> Settings {
        let set = [format!("compression.keep_ratio={keep_ratio}")];
        Settings::parse("tiny", embedded("tiny").unwrap(), &set).unwrap()
    }

    /// A video in which something bright moves.
    fn batch(settings: &Settings, tokenizers: &Arc<Tokenizers>) -> HostBatch {
        const SIDE_PX: u32 = 64;
        let frame = |at: u32| RgbFrame {
            width: SIDE_PX,
            height: SIDE_PX,
            pixels: (0..3 * SIDE_PX * SIDE_PX)
                .map(|i| {
                    if (i / 600) % 8 == at {
                        200
                    } else {
                        (i % 40) as u8
                    }
                })
                .collect(),
        };
        let frames: Vec<RgbFrame> = (0..settings.sampler.n_frames as u32).map(frame).collect();
        let categories = ["red square", "blue circle"].map(str::to_owned);
        let exposure = Exposure::unlabelled(frames.len(), &categories);
        let batcher = settings
            .batcher(tokenizers.clone(), Phase::Evaluation)
            .unwrap();
        let sample = batcher.unlabelled("a clip", true, &frames, &exposure);
        batcher.collate(vec![sample.unwrap()]).unwrap()
    }

    #[test]
    fn one_loaded_model_scores_at_two_keep_ratios_as_two_models_loaded_for_them() {
        let (all, quarter) = (settings(1.0), settings(0.25));
        let tokenizers = Arc::new(Tokenizers::tiny());
        let device = Device::flex();
        let special = special_tokens(&tokenizers);
        let model = Lavida::init(&all.model.config(), special, &device, all.seed);
        let weights = weights::export(&model);
        let load = |settings: &Settings| {
            let weights = weights.clone();
            Scorer::new(settings, &tokenizers, weights, Precision::F32, &device).unwrap()
        };
        let batch = batch(&all, &tokenizers);
        let expected = [&all, &quarter].map(|settings| load(settings).score(&batch).unwrap());
        assert_ne!(expected[0], expected[1], "the ratio reaches the scores");

        let mut scorer = load(&all);
        let found = [&all, &quarter].map(|settings| {
            scorer.set_compression(settings.compression);
            scorer.score(&batch).unwrap()
        });
        assert_eq!(found, expected);
    }
}
