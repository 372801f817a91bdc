//! What distractors are drawn from: the categories of a dataset (Eq. 1 of LAVIDA).
//!
//! Class datasets draw from their vocabulary, minus the categories present in the clip, each as likely. Text datasets draw from
//! the texts of other samples, minus those of the clip's own video. There a text is as likely as it is to be a *true* one (a
//! sample, then one of its objects, then one of its texts, each uniform): were rare texts drawn as often as common ones, the
//! prompt alone would betray which is true. Draws are without replacement.

use std::collections::{BTreeMap, BTreeSet};

use crate::clips::clip::Clip;
use crate::exposure::settings::Exclusion;
use crate::exposure::words::{content_words, visible_words};
use crate::seed::StageRng;
use crate::shards::catalog::SampleEntry;
use crate::shards::manifest::{CategorySource, DatasetHeader, Positives};
use crate::{Error, Result};

/// What the sampler knows of one dataset.
#[derive(Clone, Debug)]
pub(crate) struct DatasetPool {
    pub max_categories: usize,
    pub exclusion: Exclusion,
    pub positives: Positives,
    pub source: CategorySource,
    texts: WeightedTexts,
    /// Single words of the texts that say something of a frame, in order.
    words: Vec<String>,
    /// Texts of each video (text datasets), as indices.
    texts_of_video: BTreeMap<String, BTreeSet<usize>>,
}

/// Different texts in order, each with a weight.
#[derive(Clone, Debug)]
struct WeightedTexts {
    texts: Vec<String>,
    /// Running sum of the weights.
    cumulative: Vec<f64>,
}

/// The texts that may be distractors of one draw.
pub(crate) struct Others<'a> {
    texts: &'a WeightedTexts,
    excluded: BTreeSet<usize>,
}

impl DatasetPool {
    pub fn new(
        header: &DatasetHeader,
        max_categories: usize,
        exclusion: Exclusion,
        entries: &[SampleEntry],
    ) -> Self {
        let mut weights: BTreeMap<&str, f64> = BTreeMap::new();
        match &header.category_source {
            CategorySource::Vocabulary(names) => {
                weights.extend(names.iter().map(|name| (name.as_str(), 1.0)));
            }
            CategorySource::Descriptions => {
                for entry in entries {
                    for object in &entry.objects {
                        let share = 1.0 / (entry.objects.len() * object.descriptions.len()) as f64;
                        for text in &object.descriptions {
                            *weights.entry(text).or_default() += share;
                        }
                    }
                }
            }
        }
        let texts = WeightedTexts::new(
            weights
                .into_iter()
                .map(|(text, weight)| (text.to_owned(), weight)),
        );
        let mut texts_of_video: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        if header.category_source == CategorySource::Descriptions {
            for entry in entries {
                let known = entry
                    .descriptions
                    .iter()
                    .filter_map(|text| texts.index(text));
                texts_of_video
                    .entry(entry.video.clone())
                    .or_default()
                    .extend(known);
            }
        }
        Self {
            max_categories,
            exclusion,
            positives: header.positives,
            source: header.category_source.clone(),
            words: texts.words(),
            texts,
            texts_of_video,
        }
    }

    /// Adds another part of the same dataset.
    pub fn merge(&mut self, other: Self, name: &str) -> Result<()> {
        let rules = |pool: &Self| {
            (
                pool.max_categories,
                pool.exclusion,
                pool.positives,
                pool.source.clone(),
            )
        };
        if rules(self) != rules(&other) {
            return Err(Error::invalid(
                format!("dataset {name}"),
                "one rule for all its parts",
                "parts that draw categories by different rules",
            ));
        }
        if self.source != CategorySource::Descriptions {
            return Ok(());
        }
        let mut weights: BTreeMap<String, f64> = self.texts.weights().collect();
        for (text, weight) in other.texts.weights() {
            *weights.entry(text).or_default() += weight;
        }
        let texts = WeightedTexts::new(weights.into_iter());
        let mut texts_of_video: BTreeMap<String, BTreeSet<usize>> = BTreeMap::new();
        for part in [&*self, &other] {
            for (video, known) in &part.texts_of_video {
                let known = known
                    .iter()
                    .filter_map(|&i| texts.index(&part.texts.texts[i]));
                texts_of_video
                    .entry(video.clone())
                    .or_default()
                    .extend(known);
            }
        }
        self.words = texts.words();
        (self.texts, self.texts_of_video) = (texts, texts_of_video);
        Ok(())
    }

    /// Every text, in order.
    pub fn texts(&self) -> &[String] {
        &self.texts.texts
    }

    /// Every word that says something of a frame, in order.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// What may be a distractor for `clip` under these positives.
    pub fn others(&self, clip: &Clip, positives: &[String], exclusion: Exclusion) -> Others<'_> {
        let mut own: BTreeSet<&str> = positives.iter().map(String::as_str).collect();
        own.extend(clip.present_categories.iter().map(String::as_str));
        for object in &clip.objects {
            own.extend(object.category.as_deref());
            own.extend(object.descriptions.iter().map(String::as_str));
        }
        let of_video = self.texts_of_video.get(&clip.video);
        let mut excluded = of_video.cloned().unwrap_or_default();
        excluded.extend(own.iter().filter_map(|text| self.texts.index(text)));
        if exclusion == Exclusion::Words {
            let of_video = of_video
                .into_iter()
                .flatten()
                .map(|&i| self.texts.texts[i].as_str());
            let own: Vec<BTreeSet<String>> = own
                .iter()
                .copied()
                .chain(of_video)
                .map(content_words)
                .collect();
            excluded.extend((0..self.texts.texts.len()).filter(|&i| {
                let words = content_words(&self.texts.texts[i]);
                !words.is_empty() && own.iter().any(|text| words.is_subset(text))
            }));
        }
        Others {
            texts: &self.texts,
            excluded,
        }
    }
}

impl Others<'_> {
    pub fn len(&self) -> usize {
        self.texts.texts.len() - self.excluded.len()
    }

    /// `n` (at most [`Self::len`]) different texts, one after the other by weight among those left.
    pub fn draw(mut self, n: usize, rng: &mut StageRng) -> Vec<String> {
        debug_assert!(n <= self.len());
        let mut drawn = Vec::with_capacity(n);
        // Drawing again until the text is new is the same as drawing among those left, and costs no pass over a large pool.
        let mut attempts = 16 * n;
        while drawn.len() < n && attempts > 0 {
            attempts -= 1;
            let text = self.texts.draw(rng);
            if self.excluded.insert(text) {
                drawn.push(self.texts.texts[text].clone());
            }
        }
        while drawn.len() < n {
            let left = (0..self.texts.texts.len()).filter(|i| !self.excluded.contains(i));
            let left = WeightedTexts::new(
                left.map(|i| (self.texts.texts[i].clone(), self.texts.weight(i))),
            );
            let text = left.texts[left.draw(rng)].clone();
            self.excluded.extend(self.texts.index(&text));
            drawn.push(text);
        }
        drawn
    }
}

impl WeightedTexts {
    /// From different texts in ascending order, with positive weights.
    fn new(weights: impl Iterator<Item = (String, f64)>) -> Self {
        let mut weights: Vec<(String, f64)> = weights.collect();
        weights.sort_by(|a, b| a.0.cmp(&b.0));
        let mut total = 0.0;
        let (texts, cumulative) = weights
            .into_iter()
            .map(|(text, weight)| {
                total += weight;
                (text, total)
            })
            .unzip();
        Self { texts, cumulative }
    }

    fn words(&self) -> Vec<String> {
        let words: BTreeSet<String> = self
            .texts
            .iter()
            .flat_map(|text| visible_words(text))
            .collect();
        words.into_iter().collect()
    }

    fn index(&self, text: &str) -> Option<usize> {
        self.texts
            .binary_search_by(|known| known.as_str().cmp(text))
            .ok()
    }

    fn weight(&self, i: usize) -> f64 {
        self.cumulative[i]
            - i.checked_sub(1)
                .map_or(0.0, |before| self.cumulative[before])
    }

    fn weights(&self) -> impl Iterator<Item = (String, f64)> {
        (0..self.texts.len()).map(|i| (self.texts[i].clone(), self.weight(i)))
    }

    fn draw(&self, rng: &mut StageRng) -> usize {
        let total = self.cumulative.last().copied().unwrap_or(0.0);
        let point = rng.unit() * total;
        let i = self.cumulative.partition_point(|&sum| sum <= point);
        i.min(self.texts.len() - 1)
    }
}
