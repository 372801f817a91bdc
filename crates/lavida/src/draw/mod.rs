//! One draw of the exposure sampler, replayed: what training sees of a clip in one pass, and the picture of it.

mod picture;

use lavida_data::{
    Error,
    batch::Batcher,
    clip::Clip,
    exposure::{AnomalyExposureSampler, Exposure},
    prompt::{ANSWER_TEMPLATES, Prompt},
};
use lavida_report::canvas::Image;

pub use picture::DrawPicture;

/// One draw with the frames it shows.
pub struct Draw {
    pub clip: Clip,
    pub exposure: Exposure,
    pub prompt: String,
    seed: u64,
    epoch: u64,
}

impl Draw {
    /// What training shows of `clip`, of `n_frames` of its frames.
    pub fn of(
        clip: &Clip,
        sampler: &AnomalyExposureSampler,
        n_frames: usize,
        seed: u64,
        epoch: u64,
    ) -> anyhow::Result<Self> {
        let shown = clip.draw_frames(n_frames, seed, epoch);
        let clip = clip.select_frames(&shown);
        let exposure = sampler.draw(&clip, seed, epoch)?;
        let prompt = Prompt::new(
            &exposure.categories,
            clip.is_video,
            exposure.user_template,
            exposure.answer_template,
        )?;
        Ok(Self {
            prompt: prompt.question,
            clip,
            exposure,
            seed,
            epoch,
        })
    }

    /// The draw as a picture: frames, masks, prompt, labels.
    pub fn picture(&self) -> anyhow::Result<DrawPicture> {
        let frames = Batcher::decode(&self.clip)?;
        let images = frames.into_iter();
        let images = images.map(|f| Image::from_rgb(f.width, f.height, f.pixels));
        let masks = self.exposure.pixel_masks.iter().map(|mask| match mask {
            None => Ok(None),
            Some(mask) => Ok(Some(mask.to_raster()?.iter().map(|v| *v != 0).collect())),
        });
        let categories = self.exposure.categories.iter().cloned();
        Ok(DrawPicture {
            title: self.clip.id.clone(),
            subtitle: format!("seed {}, epoch {}", self.seed, self.epoch),
            prompt: self.prompt.clone(),
            answer: ANSWER_TEMPLATES[self.exposure.answer_template].to_owned(),
            categories: categories
                .zip(self.exposure.is_true.iter().copied())
                .collect(),
            is_anomaly: self.exposure.is_anomaly,
            frames: images.collect(),
            masks: masks.collect::<Result<_, Error>>()?,
            frame_labels: self.exposure.frame_labels.clone(),
        })
    }
}
