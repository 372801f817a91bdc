//! The refer family: pictures whose objects people referred to in words (refCLEF, refCOCO, refCOCO+, refCOCOg, gRefCOCO).
//!
//! `refs(…).p` is a pickle that Python 2 wrote, or JSON of the same rows; `instances.json` has the masks. A pickle is read as
//! plain values: nothing in it is looked up or run. An object carries all sentences that name it. The reference gives one
//! random sentence of a random object of an image, so an image is a row.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use lavida_data::clip::ObjectTrack;
use lavida_data::manifest::{CategorySource, DatasetHeader, Positives};
use lavida_store::{Error, Result};
use serde::Deserialize;
use serde_pickle::{HashableValue, Value};

use crate::read::coco_file::{Annotation, CocoFile};
use crate::read::coco_masks::segmentation_mask;
use crate::read::files::{self, InputDigest};
use crate::read::finder::Finder;
use crate::read::header::training_header;
use crate::read::lenient::{Id, Maybe, latin1_text};
use crate::read::pictures::{IMAGE_ENDINGS, load_picture_of};
use crate::read::rows::{Naming, SourceUnit, image_clip};
use crate::skip::{Reason, Skip};
use crate::sources::Source;

/// Where a set of the family lies, and how it is published.
pub struct ReferSet<'a> {
    /// The source's name.
    pub source: &'static str,
    /// The file of references.
    pub refs: PathBuf,
    /// The file of masks.
    pub instances: PathBuf,
    /// Folder of the pictures.
    pub images: PathBuf,
    /// Which references: `train`, `val`, `test`, `testA`, …
    pub split: &'a str,
}

/// The file of masks beside the references, or COCO's own.
pub fn instances_file(root: &Path, set: &str) -> PathBuf {
    let beside = root.join(set).join("instances.json");
    let of_coco = [
        "annotations/instances_train2014.json",
        "images/mscoco/annotations/instances_train2014.json",
    ];
    let found = of_coco
        .map(|name| root.join(name))
        .into_iter()
        .find(|file| !lavida_files::is_there(&beside) && lavida_files::is_there(file));
    found.unwrap_or(beside)
}

/// Where the sets expect COCO's pictures.
pub fn coco_images(root: &Path) -> PathBuf {
    let places = [
        "images/mscoco/images/train2014",
        "images/train2014",
        "train2014",
    ]
    .map(|name| root.join(name));
    places
        .iter()
        .find(|dir| dir.is_dir())
        .unwrap_or(&places[0])
        .clone()
}

#[derive(Deserialize)]
struct Reference {
    image_id: Id,
    ann_id: OneOrMany,
    #[serde(default)]
    split: String,
    sentences: Vec<Sentence>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(Id),
    Many(Vec<Id>),
}

#[derive(Deserialize)]
struct Sentence {
    sent: Option<String>,
    raw: Option<String>,
}

const FORM: &str = "a list of references `{image_id, ann_id, split, sentences: [{sent}]}`";
const INSTANCES: &str =
    "the masks of the set, `instances.json`, with `images`, `annotations` and `categories`";

/// An image with what people said of it.
struct ReferredImage {
    id: Id,
    name: String,
    size: Option<(u32, u32)>,
    /// Annotations with their sentences, in the order in which they are first referred to.
    objects: Vec<(Annotation, Vec<String>)>,
}

/// A set of the family, its files read.
pub struct ReferImages {
    naming: Naming,
    source: &'static str,
    instances: PathBuf,
    finder: Finder,
    /// Of refCLEF, whose pictures lie in numbered folders: their places by name.
    places: HashMap<String, PathBuf>,
    images: Vec<ReferredImage>,
    planned_skips: Vec<Skip>,
    digest: InputDigest,
}

impl ReferImages {
    /// Reads references and masks.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a missing file or folder, one of another form, or a split without a reference;
    /// [`Error::Corrupt`] for a cut file.
    pub fn open(set: ReferSet<'_>, dataset: &str) -> Result<Self> {
        let mut digest = InputDigest::default();
        files::require_dir(&set.images, "the folder of the set's pictures")?;
        let references = read_references(&set.refs, &mut digest)?;
        let file = CocoFile::read(&set.instances, INSTANCES, &mut digest)?;
        let mut planned_skips = file.skips;
        let image_of_id: HashMap<&Id, usize> = file
            .images
            .iter()
            .enumerate()
            .map(|(i, (image, _))| (&image.id, i))
            .collect();
        // Sentences by image, then by annotation.
        let mut said: BTreeMap<usize, Vec<(Id, Vec<String>)>> = BTreeMap::new();
        let mut splits: BTreeMap<String, usize> = BTreeMap::new();
        for (row, reference) in references.into_iter().enumerate() {
            let what = format!("{}: row {row}", set.refs.display());
            let reference = match reference {
                Maybe::Is(reference) => reference,
                Maybe::Not(value) => {
                    let found: String = value.to_string().chars().take(60).collect();
                    planned_skips.push(Skip::new(Reason::RowInvalid, what, FORM, found));
                    continue;
                }
            };
            *splits.entry(reference.split.clone()).or_default() += 1;
            if !is_of_split(&reference.split, set.split) {
                continue;
            }
            let Some(image_idx) = image_of_id.get(&reference.image_id) else {
                let expected = "an `image_id` of instances.json";
                planned_skips.push(Skip::new(
                    Reason::UnknownImage,
                    what,
                    expected,
                    &reference.image_id,
                ));
                continue;
            };
            let sentences = reference
                .sentences
                .iter()
                .filter_map(|sentence| sentence.sent.as_ref().or(sentence.raw.as_ref()));
            let texts: Vec<String> = sentences
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
                .collect();
            if texts.is_empty() {
                planned_skips.push(Skip::new(
                    Reason::MissingDescription,
                    what,
                    "a sentence",
                    "none",
                ));
                continue;
            }
            let targets = match reference.ann_id {
                OneOrMany::One(id) => vec![id],
                OneOrMany::Many(ids) => ids,
            };
            let is_target = |id: &&Id| **id != Id::Number(-1);
            if !targets.iter().any(|id| is_target(&id)) {
                planned_skips.push(Skip::new(
                    Reason::NoTarget,
                    what,
                    "an object",
                    format!("`{}` names none", texts[0]),
                ));
                continue;
            }
            let objects = said.entry(*image_idx).or_default();
            for id in targets.iter().filter(is_target) {
                let entry = match objects.iter_mut().find(|(known, _)| known == id) {
                    Some((_, texts)) => texts,
                    None => {
                        objects.push((id.clone(), Vec::new()));
                        &mut objects.last_mut().expect("pushed the line before").1
                    }
                };
                for text in &texts {
                    if !entry.contains(text) {
                        entry.push(text.clone());
                    }
                }
            }
        }
        if said.is_empty() {
            let splits: Vec<String> = splits
                .iter()
                .map(|(split, n)| format!("{split} ({n})"))
                .collect();
            let found = format!(
                "references of {}",
                if splits.is_empty() {
                    "none".to_owned()
                } else {
                    splits.join(", ")
                }
            );
            return Err(Error::invalid(
                set.refs.display(),
                format!("references of split {}", set.split),
                found,
            ));
        }
        let mut images = Vec::new();
        for (image_idx, (image, annotations)) in file.images.iter().enumerate() {
            let Some(objects) = said.remove(&image_idx) else {
                continue;
            };
            let mut referred = ReferredImage {
                id: image.id.clone(),
                name: image.name().to_owned(),
                size: image.width.zip(image.height),
                objects: Vec::new(),
            };
            for (id, texts) in objects {
                match annotations
                    .iter()
                    .find(|annotation| annotation.id.as_ref() == Some(&id))
                {
                    Some(annotation) => referred.objects.push((annotation.clone(), texts)),
                    None => planned_skips.push(Skip::new(
                        Reason::MissingMask,
                        format!("{}: annotation {id}", set.instances.display()),
                        format!(
                            "an annotation of image {}, of which {} speaks",
                            image.id,
                            files::name(&set.refs)
                        ),
                        "none",
                    )),
                }
            }
            images.push(referred);
        }
        let finder = Finder::new(&set.images, images.iter().map(|image| image.name.as_str()));
        let in_folders = images
            .iter()
            .take(32)
            .all(|image| !finder.find(&image.name).is_file());
        Ok(Self {
            naming: Naming::new(dataset, set.split),
            source: set.source,
            instances: set.instances,
            places: if in_folders {
                places_below(&set.images)?
            } else {
                HashMap::new()
            },
            finder,
            images,
            planned_skips,
            digest,
        })
    }

    fn path_of(&self, image: &ReferredImage) -> PathBuf {
        let last = image.name.rsplit('/').next().unwrap_or_default();
        self.places
            .get(last)
            .cloned()
            .unwrap_or_else(|| self.finder.find(&image.name))
    }
}

/// Where pictures lie whose names are of use alone: those that occur once.
fn places_below(dir: &Path) -> Result<HashMap<String, PathBuf>> {
    let mut places: HashMap<String, Option<PathBuf>> = HashMap::new();
    for path in files::list_files_below(dir, &IMAGE_ENDINGS)? {
        let place = places.entry(files::name(&path));
        place
            .and_modify(|place| *place = None)
            .or_insert(Some(path));
    }
    Ok(places
        .into_iter()
        .filter_map(|(name, place)| Some((name, place?)))
        .collect())
}

/// Whether a reference of split `own` is one of `asked`: a reference may belong to several tests at once (`testAB`).
fn is_of_split(own: &str, asked: &str) -> bool {
    match (own.strip_prefix("test"), asked.strip_prefix("test")) {
        (Some(own), Some(asked)) => {
            own == asked || asked.is_empty() || asked.len() == 1 && own.contains(asked)
        }
        _ => own == asked,
    }
}

fn read_references(path: &Path, digest: &mut InputDigest) -> Result<Vec<Maybe<Reference>>> {
    let bytes = files::read_annotations(path).map_err(|error| {
        let found = format!("{} ({error})", files::describe(path));
        Error::invalid(path.display(), FORM, found)
    })?;
    digest.add(&bytes);
    if path.extension().is_some_and(|ending| ending == "json") {
        return files::parse_json(&bytes, path, FORM);
    }
    let value = serde_pickle::value_from_slice(&bytes, serde_pickle::DeOptions::new()).map_err(
        |error| {
            use serde_pickle::ErrorCode::{UnresolvedGlobal, Unsupported, UnsupportedGlobal};
            let is_program = matches!(
                &error,
                serde_pickle::Error::Eval(
                    Unsupported(_) | UnresolvedGlobal | UnsupportedGlobal(..),
                    _
                ) | serde_pickle::Error::Syntax(
                    Unsupported(_) | UnresolvedGlobal | UnsupportedGlobal(..)
                )
            );
            if is_program {
                let found = format!("{error}: objects of a program, which are not made here");
                Error::invalid(
                    path.display(),
                    "a pickle of plain lists, dictionaries, text and numbers",
                    found,
                )
            } else {
                Error::corrupt(path.display(), "a whole pickle", error)
            }
        },
    )?;
    serde_json::from_value(to_json(value))
        .map_err(|error| Error::invalid(path.display(), FORM, error))
}

/// A pickled value as JSON; Python 2's text is bytes.
fn to_json(value: Value) -> serde_json::Value {
    match value {
        Value::None | Value::Set(_) | Value::FrozenSet(_) => serde_json::Value::Null,
        Value::Bool(flag) => flag.into(),
        Value::I64(number) => number.into(),
        Value::Int(number) => number.to_string().into(),
        Value::F64(number) => number.into(),
        Value::Bytes(bytes) => latin1_text(&bytes).into(),
        Value::String(text) => text.into(),
        Value::List(values) | Value::Tuple(values) => values.into_iter().map(to_json).collect(),
        Value::Dict(entries) => {
            let entries = entries.into_iter().filter_map(|(key, value)| match key {
                HashableValue::String(key) => Some((key, to_json(value))),
                HashableValue::Bytes(key) => Some((latin1_text(&key).into_owned(), to_json(value))),
                _ => None,
            });
            serde_json::Value::Object(entries.collect())
        }
    }
}

impl Source for ReferImages {
    fn header(&self) -> DatasetHeader {
        training_header(
            &self.naming,
            CategorySource::Descriptions,
            Positives::One,
            serde_json::json!({ "source": self.source }),
        )
    }

    fn n_units(&self) -> usize {
        self.images.len()
    }

    fn input_digest(&self) -> String {
        self.digest.hex()
    }

    fn planned_skips(&self) -> &[Skip] {
        &self.planned_skips
    }

    fn load(&self, unit: usize) -> Result<SourceUnit> {
        let image = &self.images[unit];
        let mut unit = SourceUnit::default();
        let path = self.path_of(image);
        let picture = match load_picture_of(&path, image.size, &mut unit.skips) {
            Ok(picture) => picture,
            Err(skip) => return Ok(SourceUnit::skipped(skip)),
        };
        if let Some(said) = image
            .size
            .filter(|said| *said != (picture.width, picture.height))
        {
            unit.skips.push(Skip::new(
                Reason::ImageSizeMismatch,
                path.display(),
                format!(
                    "{}×{} px as {} says",
                    said.0,
                    said.1,
                    files::name(&self.instances)
                ),
                format!("{}×{} px", picture.width, picture.height),
            ));
            return Ok(unit);
        }
        let mut objects = Vec::new();
        for (annotation, descriptions) in &image.objects {
            let id = annotation.name(0);
            let what = format!("{}: annotation {id}", self.instances.display());
            let segmentation = annotation.segmentation.as_ref();
            let mask = segmentation_mask(
                segmentation,
                &what,
                picture.width,
                picture.height,
                &mut unit.skips,
            );
            objects.extend(mask.map(|mask| ObjectTrack {
                id,
                category: None,
                descriptions: descriptions.clone(),
                masks: vec![Some(mask)],
                anomalous: None,
            }));
        }
        if objects.is_empty() {
            let found = format!("{} references, none of use", image.objects.len());
            unit.skips.push(Skip::new(
                Reason::NoObject,
                path.display(),
                "an object",
                found,
            ));
        } else {
            let video = image.id.to_string();
            unit.clips.push(image_clip(
                &self.naming,
                &video,
                picture,
                objects,
                Default::default(),
            ));
        }
        Ok(unit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_may_belong_to_several_tests() {
        for (own, asked, expected) in [
            ("train", "train", true),
            ("testAB", "testA", true),
            ("testAB", "testB", true),
            ("testAB", "testC", false),
            ("testAB", "test", true),
            ("testA", "testAB", false),
            ("val", "train", false),
            ("trainval", "train", false),
        ] {
            assert_eq!(is_of_split(own, asked), expected, "{own} for {asked}");
        }
    }

    #[test]
    fn a_pickle_that_would_run_something_is_refused_and_a_cut_one_is_damage() {
        let refused = |bytes: &[u8]| {
            let file = tempfile::NamedTempFile::with_suffix(".p").expect("tempfile");
            std::fs::write(file.path(), bytes).expect("write");
            let read = read_references(file.path(), &mut InputDigest::default());
            read.err().expect("refused").exit_code()
        };
        // What `pickle.dumps` makes of an object whose `__reduce__` is `(os.system, ("true",))`, by hand.
        assert_eq!(refused(b"cos\nsystem\n(S'true'\ntR."), 2);
        assert_eq!(refused(b"(lp0\n(dp1\nS'split'\n"), 3);
        assert_eq!(refused(b"I5\n."), 2);
    }

    #[test]
    fn what_python_2_wrote_is_read() {
        // `pickle.dump([{…}], f, 0)`: keys and text are byte strings, one of them in Latin-1.
        let pickle = b"(lp0\n(dp1\nS'split'\np2\nS'train'\np3\nsS'ann_id'\np4\nI7\nsS'image_id'\np5\nI1\nsS'sentences'\np6\n(lp7\n\
                       (dp8\nS'sent'\np9\nS'caf\\xe9'\np10\nsasa.";
        let file = tempfile::NamedTempFile::with_suffix(".p").expect("tempfile");
        std::fs::write(file.path(), pickle).expect("write");
        let references =
            read_references(file.path(), &mut InputDigest::default()).expect("references");
        let Maybe::Is(reference) = &references[0] else {
            panic!("an odd row");
        };
        assert_eq!(reference.sentences[0].sent.as_deref(), Some("café"));
        assert!(matches!(reference.ann_id, OneOrMany::One(Id::Number(7))));
    }
}
