//! Names for the grounding stage: what the projector's attention should find, and what it should find nowhere.
//!
//! From random weights the paper's losses cannot learn what words look like, so a small configuration first learns to attend to
//! what a name names. A name is a whole text of the training data or a single word of one; words are never combined anew, so a
//! combination held out of the data stays unseen here too. A name's objects are those of which one text holds all its words:
//! `circle` names a `red circle`. Words of motion are left out of that, because attention reads one frame at a time.
//!
//! Shapes: `K` names.

use crate::Result;
use crate::clips::clip::Clip;
use crate::exposure::AnomalyExposureSampler;
use crate::exposure::words::visible_words;
use crate::seed::StageRng;

/// Names of one draw and where they are true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroundingDraw {
    /// `[K]` different names, in no order.
    pub names: Vec<String>,
    /// `[K]` indices into the clip's objects; empty for an absent name.
    pub objects_of_name: Vec<Vec<usize>>,
}

impl AnomalyExposureSampler {
    /// Names for `clip` in `epoch`, at most `max_names`: in equal parts, as far as there are any, texts of the clip's objects,
    /// texts of the dataset that no object bears, and single words. A pure function of its arguments.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`](crate::Error::Invalid) for a clip of a dataset that is not in the catalog.
    pub fn draw_names(
        &self,
        clip: &Clip,
        seed: u64,
        epoch: u64,
        max_names: usize,
    ) -> Result<GroundingDraw> {
        let pool = self.pool(clip)?;
        let rng = &mut StageRng::new(seed, "grounding", &[&clip.dataset, &clip.id, &epoch]);
        let named = NamedObjects::of(clip);

        let mut present: Vec<&str> = named.texts.iter().map(|(_, text)| *text).collect();
        present.sort_unstable();
        present.dedup();
        rng.shuffle(&mut present);
        let mut words: Vec<&str> = pool.words().iter().map(String::as_str).collect();
        rng.shuffle(&mut words);
        let mut all: Vec<&str> = pool.texts().iter().map(String::as_str).collect();
        let is_present = |text: &str| {
            clip.present_categories
                .iter()
                .any(|category| category == text)
        };
        rng.shuffle(&mut all);
        let mut absent = all.into_iter().filter(|text| {
            !is_present(text)
                && named
                    .objects(text)
                    .is_some_and(|objects| objects.is_empty())
        });

        let (mut present, mut words) = (present.into_iter(), words.into_iter());
        let mut draw = GroundingDraw {
            names: Vec::new(),
            objects_of_name: Vec::new(),
        };
        let mut exhausted = 0;
        for kind in [0, 1, 2].into_iter().cycle() {
            if draw.names.len() >= max_names || exhausted == 3 {
                break;
            }
            let next = match kind {
                0 => present.next(),
                1 => absent.next(),
                _ => words.next(),
            };
            let Some(name) = next else {
                exhausted += 1;
                continue;
            };
            exhausted = 0;
            // A text of one word is also a word; a text of motion alone names nothing that a frame shows.
            let is_new = draw.names.iter().all(|known| known != name);
            if let Some(objects) = named.objects(name).filter(|_| is_new) {
                draw.names.push(name.to_owned());
                draw.objects_of_name.push(objects);
            }
        }
        Ok(draw)
    }
}

/// Every text of a clip's objects with its words.
struct NamedObjects<'a> {
    texts: Vec<(usize, &'a str)>,
    words: Vec<std::collections::BTreeSet<String>>,
}

impl<'a> NamedObjects<'a> {
    fn of(clip: &'a Clip) -> Self {
        let texts: Vec<(usize, &str)> = clip
            .objects
            .iter()
            .enumerate()
            .flat_map(|(i, object)| {
                let texts = object.category.iter().chain(&object.descriptions);
                texts.map(move |text| (i, text.as_str()))
            })
            .collect();
        let words = texts.iter().map(|(_, text)| visible_words(text)).collect();
        Self { texts, words }
    }

    /// Objects of which one text holds all words of `name`; `None` when `name` says nothing that a frame shows.
    fn objects(&self, name: &str) -> Option<Vec<usize>> {
        let name = visible_words(name);
        if name.is_empty() {
            return None;
        }
        let holds = self
            .texts
            .iter()
            .zip(&self.words)
            .filter(|(_, words)| name.is_subset(words));
        let mut objects: Vec<usize> = holds.map(|((i, _), _)| *i).collect();
        objects.dedup();
        Some(objects)
    }
}
