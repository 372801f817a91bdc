//! How large the rendered world is and how hard it is to see.

use serde::{Deserialize, Serialize};

use lavida_data::{Error, Result};

/// Sizes and difficulty of the world; the default is what `lavida demo` trains on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorldSettings {
    /// Side of the square frames, px. Default 64; rendering and training time grow with its square.
    pub frame_px: u32,
    /// Smallest object radius, px. Default 8; below it shapes cannot be told apart under the noise.
    pub min_radius_px: f64,
    /// Largest object radius, px. Default 12; larger objects hide one another.
    pub max_radius_px: f64,
    /// Fewest objects of a training scene. Default 2.
    pub min_objects: usize,
    /// Most objects of a training scene. Default 4; more do not fit without hiding one another.
    pub max_objects: usize,
    /// Standard deviation of the camera noise, as a ratio of full scale. Default 0.08; above it colours blur.
    pub camera_noise: f64,
    /// Probability that a training object has a colour or a shape without a word. Default 0.5; at 0 a
    /// small model memorises combinations instead of learning colour and shape apart.
    pub unknown_attribute: f64,
    /// JPEG quality of the training frames, 90 to 100. Default 92; higher makes larger files.
    pub jpeg_quality: u8,
    /// Images of the COCO set. Default 2400.
    pub coco_images: usize,
    /// Training images of the ADE20K set. Default 800.
    pub ade20k_training_images: usize,
    /// Validation images of the ADE20K set. Default 80.
    pub ade20k_validation_images: usize,
    /// Videos of the MeViS set. Default 1200.
    pub mevis_videos: usize,
    /// Videos of the YouTube-VOS set. Default 1200.
    pub youtube_vos_videos: usize,
    /// Frames of a training video. Default 8, one sampling window.
    pub frames_per_video: usize,
    /// Evaluation videos. Default 40; fewer make the AUC unsteady.
    pub evaluation_videos: usize,
    /// How many of the evaluation videos never show their target. Default 4.
    pub evaluation_normal_videos: usize,
    /// Frames of an evaluation video. Default 32.
    pub evaluation_frames: usize,
    /// Normal videos in the evaluation set's own training part, which nothing here trains on. Default 2.
    pub evaluation_training_videos: usize,
    /// Also render `ucsd-ped-seen`, an evaluation set whose targets are combinations that training shows:
    /// a model that is good there and poor on `ucsd-ped` has memorised. Default false.
    pub seen_evaluation: bool,
}

impl Default for WorldSettings {
    fn default() -> Self {
        Self {
            frame_px: 64,
            min_radius_px: 8.0,
            max_radius_px: 12.0,
            min_objects: 2,
            max_objects: 4,
            camera_noise: 0.08,
            unknown_attribute: 0.5,
            jpeg_quality: 92,
            coco_images: 2400,
            ade20k_training_images: 800,
            ade20k_validation_images: 80,
            mevis_videos: 1200,
            youtube_vos_videos: 1200,
            frames_per_video: 8,
            evaluation_videos: 40,
            evaluation_normal_videos: 4,
            evaluation_frames: 32,
            evaluation_training_videos: 2,
            seen_evaluation: false,
        }
    }
}

impl WorldSettings {
    /// A world of a few scenes a set, for tests of what comes after it.
    pub fn small() -> Self {
        Self {
            coco_images: 12,
            ade20k_training_images: 8,
            ade20k_validation_images: 2,
            mevis_videos: 4,
            youtube_vos_videos: 4,
            evaluation_videos: 6,
            evaluation_normal_videos: 1,
            evaluation_frames: 12,
            evaluation_training_videos: 1,
            ..Self::default()
        }
    }

    /// These settings, when a world can be rendered from them.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the setting, what it may be and what it is.
    pub fn checked(&self) -> Result<&Self> {
        let side = f64::from(self.frame_px);
        check(
            "frame_px",
            self.frame_px,
            "32 to 1024",
            (32..=1024).contains(&self.frame_px),
        )?;
        check(
            "min_radius_px",
            self.min_radius_px,
            "4 to max_radius_px",
            (4.0..=self.max_radius_px).contains(&self.min_radius_px),
        )?;
        check(
            "max_radius_px",
            self.max_radius_px,
            "at most a quarter of frame_px",
            self.max_radius_px <= side / 4.0,
        )?;
        check(
            "min_objects",
            self.min_objects,
            "1 to max_objects",
            (1..=self.max_objects).contains(&self.min_objects),
        )?;
        check(
            "max_objects",
            self.max_objects,
            "at most 8",
            self.max_objects <= 8,
        )?;
        check(
            "camera_noise",
            self.camera_noise,
            "0 to 0.5",
            (0.0..=0.5).contains(&self.camera_noise),
        )?;
        check(
            "unknown_attribute",
            self.unknown_attribute,
            "0 to 1",
            (0.0..=1.0).contains(&self.unknown_attribute),
        )?;
        check(
            "jpeg_quality",
            self.jpeg_quality,
            "90 to 100",
            (90..=100).contains(&self.jpeg_quality),
        )?;
        check(
            "frames_per_video",
            self.frames_per_video,
            "2 to 1000",
            (2..=1000).contains(&self.frames_per_video),
        )?;
        check(
            "evaluation_frames",
            self.evaluation_frames,
            "4 to 999",
            (4..=999).contains(&self.evaluation_frames),
        )?;
        check(
            "evaluation_videos",
            self.evaluation_videos,
            "at most 999",
            self.evaluation_videos <= 999,
        )?;
        check(
            "evaluation_normal_videos",
            self.evaluation_normal_videos,
            "at most evaluation_videos",
            self.evaluation_normal_videos <= self.evaluation_videos,
        )?;
        Ok(self)
    }
}

fn check(name: &str, value: impl ToString, expected: &str, holds: bool) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::invalid(
            format!("world setting {name}"),
            expected,
            value.to_string(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_out_of_range_is_named() {
        let settings = WorldSettings {
            jpeg_quality: 50,
            ..WorldSettings::default()
        };
        let error = settings.checked().expect_err("quality 50");
        assert_eq!(
            error.to_string(),
            "world setting jpeg_quality: expected 90 to 100, found 50"
        );
        assert_eq!(error.exit_code(), 2);
        assert!(WorldSettings::default().checked().is_ok());
        assert!(WorldSettings::small().checked().is_ok());
    }
}
