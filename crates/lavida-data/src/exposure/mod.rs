//! Anomaly Exposure: segmented objects become pseudo-anomalies (LAVIDA, arXiv 2602.19248).
//!
//! In: a clip with its objects. Out: the categories a prompt names (true ones shuffled among distractors), and which frames and
//! pixels are anomalous for that prompt. With probability p the clip is shown as anomalous (Eq. 2); otherwise the prompt names
//! distractors alone. How many distractors is uniform, so K_E is too (Eq. 1). A draw depends on (clip, seed, epoch) and
//! nothing else, so it can be replayed.
//! Paper: section 3.3, Eq. 1 and 2. Reference: `select_anomalies`; what differs is in `docs/deviations.md`: masks are OR-ed, a
//! distractor is never a text of the clip's own video, and no clip is replaced by another.
//!
//! Shapes: `T` frames of the clip, `K` categories of the prompt.

pub(crate) mod pool;
pub mod settings;
pub(crate) mod words;

use std::collections::{BTreeMap, BTreeSet};

use crate::clips::clip::Clip;
use crate::clips::mask::RleMask;
use crate::exposure::pool::{DatasetPool, Others};
pub use crate::exposure::settings::{Exclusion, ExposureSettings, MaxCategories};
use crate::seed::StageRng;
use crate::shards::catalog::Catalog;
use crate::shards::manifest::{CategorySource, Positives};
use crate::text::prompt::{ANSWER_TEMPLATES, USER_TEMPLATES};
use crate::{Error, Result};

/// One draw for one clip: what the prompt names and what is true of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Exposure {
    /// `[K]` categories in prompt order: the true pseudo-anomalies shuffled among distractors.
    pub categories: Vec<String>,
    /// `[K]` true where the category names an object of the clip.
    pub is_true: Vec<bool>,
    /// Whether the clip is shown as anomalous (Eq. 2, probability `anomaly_ratio`).
    pub is_anomaly: bool,
    /// `[T]` the OR of the chosen objects' masks, `None` where empty. All `None` for a normal draw.
    pub pixel_masks: Vec<Option<RleMask>>,
    /// `[T]` y^f: `frame_labels[t] = any(pixel_masks[t])`.
    pub frame_labels: Vec<bool>,
    /// Index into the user templates.
    pub user_template: usize,
    /// Index into the answer templates.
    pub answer_template: usize,
}

/// Draws exposures; shared by all workers, because it holds no state.
#[derive(Debug)]
pub struct AnomalyExposureSampler {
    settings: ExposureSettings,
    pools: BTreeMap<String, DatasetPool>,
}

impl AnomalyExposureSampler {
    /// A sampler for the clips of `catalog`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a ratio outside [0, 1], for a dataset whose prompts name fewer than 2 categories (a true one and
    /// a distractor), and for two datasets of one name that draw by different rules.
    pub fn new(settings: ExposureSettings, catalog: &Catalog) -> Result<Self> {
        if !(0.0..=1.0).contains(&settings.anomaly_ratio) {
            return Err(Error::invalid(
                "sampler.anomaly_ratio",
                "a share in [0, 1]",
                settings.anomaly_ratio,
            ));
        }
        let mut pools: BTreeMap<String, DatasetPool> = BTreeMap::new();
        for dataset in catalog.datasets() {
            let header = &dataset.header;
            let own = dataset.source.max_categories;
            let max_categories = own
                .or(settings.max_categories)
                .map_or(header.max_categories, MaxCategories::get);
            let exclusion = dataset.source.exclusion.unwrap_or(settings.exclusion);
            if max_categories < 2 {
                return Err(Error::invalid(
                    format!("dataset {}, max_categories", header.dataset),
                    "at least 2 (one true category and one distractor)",
                    max_categories,
                ));
            }
            let pool = DatasetPool::new(
                header,
                max_categories,
                exclusion,
                &catalog.entries()[dataset.samples.clone()],
            );
            match pools.entry(header.dataset.clone()) {
                std::collections::btree_map::Entry::Vacant(place) => {
                    place.insert(pool);
                }
                std::collections::btree_map::Entry::Occupied(mut known) => {
                    known.get_mut().merge(pool, &header.dataset)?
                }
            }
        }
        Ok(Self { settings, pools })
    }

    /// The exposure of `clip` in `epoch`: the same for the same arguments, whoever asks.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a clip of a dataset that is not in the catalog, and for a dataset that has no text to draw as a
    /// distractor.
    pub fn draw(&self, clip: &Clip, seed: u64, epoch: u64) -> Result<Exposure> {
        let pool = self.pool(clip)?;
        let rng = &mut StageRng::new(seed, "exposure", &[&clip.dataset, &clip.id, &epoch]);
        let most_positives = pool.max_categories - 1;
        let positives = draw_positives(clip, pool, most_positives, rng);
        let masks = masks_of(clip, &pool.source, &positives)?;
        let wants_anomaly = rng.unit() < self.settings.anomaly_ratio;
        let is_anomaly = wants_anomaly && masks.iter().any(Option::is_some);

        // A clip without an object leaves room for one all the same, so that K_E keeps its range.
        let slots = pool.max_categories - positives.len().max(1);
        let others = self.others(clip, pool, &positives, rng)?;
        let n_distractors = 1 + rng.below(slots.min(others.len()));
        let distractors = others.draw(n_distractors, rng);

        let mut named: Vec<(String, bool)> =
            distractors.into_iter().map(|text| (text, false)).collect();
        if is_anomaly {
            named.extend(positives.into_iter().map(|text| (text, true)));
        }
        rng.shuffle(&mut named);
        let (categories, is_true) = named.into_iter().unzip();
        let pixel_masks = if is_anomaly {
            masks
        } else {
            vec![None; clip.frames.len()]
        };
        Ok(Exposure {
            categories,
            is_true,
            is_anomaly,
            frame_labels: pixel_masks.iter().map(Option::is_some).collect(),
            pixel_masks,
            user_template: rng.below(USER_TEMPLATES.len()),
            answer_template: rng.below(ANSWER_TEMPLATES.len()),
        })
    }

    /// What may stand beside a clip's own texts: texts of its dataset or, where the clip shows all of them, of another one of the
    /// mix, each as likely.
    fn others<'a>(
        &'a self,
        clip: &Clip,
        own: &'a DatasetPool,
        positives: &[String],
        rng: &mut StageRng,
    ) -> Result<Others<'a>> {
        let of = |pool: &'a DatasetPool| pool.others(clip, positives, own.exclusion);
        let others = of(own);
        if others.len() > 0 {
            return Ok(others);
        }
        let elsewhere = self.pools.iter().filter(|(name, _)| **name != clip.dataset);
        let mut elsewhere: Vec<Others<'a>> = elsewhere
            .map(|(_, pool)| of(pool))
            .filter(|others| others.len() > 0)
            .collect();
        if elsewhere.is_empty() {
            return Err(Error::invalid(
                format!("dataset {}, distractors for clip {}", clip.dataset, clip.id),
                "a category that the clip does not show, of its dataset or of another one of the run (a second --data brings some)",
                format!("none among {} texts", own.texts().len()),
            ));
        }
        let chosen = rng.below(elsewhere.len());
        Ok(elsewhere.swap_remove(chosen))
    }

    pub(crate) fn pool(&self, clip: &Clip) -> Result<&DatasetPool> {
        self.pools.get(&clip.dataset).ok_or_else(|| {
            Error::invalid(
                format!("clip {}", clip.id),
                format!(
                    "a dataset of the catalog ({})",
                    self.pools.keys().cloned().collect::<Vec<_>>().join(", ")
                ),
                &clip.dataset,
            )
        })
    }
}

impl Exposure {
    /// `n_frames` frames of which nothing is known, under fixed categories.
    pub fn unlabelled(n_frames: usize, categories: &[String]) -> Self {
        Self {
            categories: categories.to_vec(),
            is_true: vec![false; categories.len()],
            is_anomaly: false,
            pixel_masks: vec![None; n_frames],
            frame_labels: vec![false; n_frames],
            user_template: 0,
            answer_template: 0,
        }
    }
}

/// The texts that are exposed: different ones, at most `most`.
fn draw_positives(clip: &Clip, pool: &DatasetPool, most: usize, rng: &mut StageRng) -> Vec<String> {
    let visible: Vec<usize> = (0..clip.objects.len())
        .filter(|&i| {
            clip.objects[i]
                .masks
                .iter()
                .flatten()
                .any(|mask| !mask.is_empty())
        })
        .collect();
    let chosen: Vec<usize> = match pool.positives {
        Positives::One => draw_objects(clip, pool, &visible, 1, rng),
        Positives::OneOrTwo => {
            let n = 1 + rng.below(2);
            draw_objects(clip, pool, &visible, n, rng)
        }
        Positives::All if visible.is_empty() => Vec::new(),
        Positives::All => objects_of_frames(clip, &visible, rng),
    };
    let mut texts: Vec<String> = Vec::new();
    for object in chosen {
        let object = &clip.objects[object];
        let text = match &pool.source {
            CategorySource::Vocabulary(_) => {
                object.category.as_ref().or(object.descriptions.first())
            }
            CategorySource::Descriptions => rng.choose(&object.descriptions),
        };
        texts.extend(text.filter(|text| !texts.contains(text)).cloned());
    }
    // A dataset whose clips hold more categories than a prompt may name: some stay unnamed, none becomes a distractor.
    rng.draw_front(&mut texts, most).to_vec()
}

/// `n` draws with replacement: in class datasets each class is as likely, in text datasets each object.
fn draw_objects(
    clip: &Clip,
    pool: &DatasetPool,
    visible: &[usize],
    n: usize,
    rng: &mut StageRng,
) -> Vec<usize> {
    let units: Vec<usize> = match pool.source {
        CategorySource::Vocabulary(_) => {
            let mut seen = BTreeSet::new();
            let first_of_class = |i: &&usize| seen.insert(&clip.objects[**i].category);
            visible.iter().filter(first_of_class).copied().collect()
        }
        CategorySource::Descriptions => visible.to_vec(),
    };
    (0..n).filter_map(|_| rng.choose(&units).copied()).collect()
}

/// The objects seen in one or two frames, drawn with replacement among those that show any.
fn objects_of_frames(clip: &Clip, visible: &[usize], rng: &mut StageRng) -> Vec<usize> {
    let shows = |t: usize, i: usize| {
        let mask = clip.objects[i].masks.get(t).and_then(Option::as_ref);
        mask.is_some_and(|mask| !mask.is_empty())
    };
    let frames: Vec<usize> = (0..clip.frames.len())
        .filter(|&t| visible.iter().any(|&i| shows(t, i)))
        .collect();
    let n = 1 + rng.below(2);
    let drawn: Vec<usize> = (0..n)
        .filter_map(|_| rng.choose(&frames).copied())
        .collect();
    let seen = |i: &&usize| drawn.iter().any(|&t| shows(t, **i));
    visible.iter().filter(seen).copied().collect()
}

/// `[T]` the OR of the masks of every object that one of `texts` names.
fn masks_of(
    clip: &Clip,
    source: &CategorySource,
    texts: &[String],
) -> Result<Vec<Option<RleMask>>> {
    let is_named = |text: &String| texts.contains(text);
    (0..clip.frames.len())
        .map(|t| {
            let named = clip.objects.iter().filter(|object| match source {
                CategorySource::Vocabulary(_) => object
                    .category
                    .as_ref()
                    .or(object.descriptions.first())
                    .is_some_and(is_named),
                CategorySource::Descriptions => object.descriptions.iter().any(is_named),
            });
            or(named.filter_map(|object| object.masks.get(t)?.as_ref()))
        })
        .collect()
}

/// The OR of non-empty masks, `None` without one.
fn or<'a>(masks: impl Iterator<Item = &'a RleMask>) -> Result<Option<RleMask>> {
    let masks: Vec<&RleMask> = masks.filter(|mask| !mask.is_empty()).collect();
    if masks.is_empty() {
        return Ok(None);
    }
    RleMask::union(&masks).map(Some)
}
