//! Files in COCO's form: `images`, `annotations`, `categories`. Read leniently: an odd row is left out and counted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

use lavida_store::{Error, Result};
use serde::Deserialize;

use crate::read::coco_masks::Segmentation;
use crate::read::files::{self, InputDigest};
use crate::read::lenient::{self, Id, Maybe};
use crate::read::names::is_name;
use crate::skip::{Reason, Skip};

/// A row of `images`.
#[derive(Clone, Debug, Deserialize)]
pub struct ImageRow {
    /// Unique among images.
    pub id: Id,
    file_name: Option<String>,
    /// LVIS names its pictures by it alone.
    coco_url: Option<String>,
    /// px, where the file says.
    #[serde(default, deserialize_with = "lenient::size_px")]
    pub width: Option<u32>,
    /// px, where the file says.
    #[serde(default, deserialize_with = "lenient::size_px")]
    pub height: Option<u32>,
}

impl ImageRow {
    /// Its name below the folder of images: `file_name`, or folder and name of `coco_url`.
    pub fn name(&self) -> &str {
        let of_url = || {
            let url = self.coco_url.as_deref()?;
            // With a slash before it: a path of another machine, whose last part is what counts.
            let begin = url.rmatch_indices('/').nth(1).map_or(0, |(at, _)| at);
            Some(&url[begin..])
        };
        let given = self.file_name.as_deref().filter(|name| !name.is_empty());
        given.or_else(of_url).unwrap_or_default()
    }
}

/// A row of `annotations`.
#[derive(Clone, Debug, Deserialize)]
pub struct Annotation {
    /// Unique among annotations, where there is one.
    pub id: Option<Id>,
    /// The image it is of.
    pub image_id: Option<Id>,
    /// What it shows.
    pub category_id: Option<Id>,
    /// Its mask.
    #[serde(default)]
    pub segmentation: Option<Segmentation>,
    /// `[x, y, width, height]` in px.
    #[serde(default)]
    pub bbox: Option<Maybe<[f64; 4]>>,
    /// A region of many objects.
    #[serde(default, deserialize_with = "lenient::flag")]
    pub iscrowd: bool,
    /// A sentence on the whole image, in files of captions.
    #[serde(default)]
    pub caption: Option<serde::de::IgnoredAny>,
}

impl Annotation {
    /// The annotation's own id, or its place among its image's annotations when it has none.
    pub fn name(&self, row: usize) -> String {
        match (&self.id, &self.image_id) {
            (Some(id), _) => id.to_string(),
            (None, Some(image)) => format!("{image}-{row}"),
            (None, None) => format!("row {row}"),
        }
    }
}

/// A row of `categories`.
#[derive(Clone, Debug, Deserialize)]
pub struct Category {
    /// Unique among categories.
    pub id: Id,
    /// What prompts say; blank or null is none.
    pub name: Option<String>,
    /// The group it belongs to.
    pub supercategory: Option<String>,
}

/// What a file in COCO's form holds, its rows grouped by image.
#[derive(Debug, Default)]
pub struct CocoFile {
    /// Images with their annotations, in the file's order.
    pub images: Vec<(ImageRow, Vec<Annotation>)>,
    /// Names by id; `None` for a blank one.
    pub category_names: HashMap<Id, Option<String>>,
    /// Names that prompts may hold: those of the categories, without groups that nothing is labelled as.
    pub vocabulary: BTreeSet<String>,
    /// What was left out.
    pub skips: Vec<Skip>,
}

#[derive(Deserialize)]
struct Rows {
    images: Vec<Maybe<ImageRow>>,
    annotations: Vec<Maybe<Annotation>>,
    categories: Vec<Maybe<Category>>,
}

/// What a file says it is by its keys, to tell people who took another one.
#[derive(Deserialize)]
#[serde(untagged)]
enum Keys {
    Object(BTreeMap<String, serde::de::IgnoredAny>),
    List(
        #[expect(dead_code, reason = "that it is a list is all that is asked")]
        Vec<serde::de::IgnoredAny>,
    ),
    Other(serde::de::IgnoredAny),
}

impl CocoFile {
    /// Reads a file; `form` says what it should be.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a missing file, JSON of another form, and two names of one category; [`Error::Corrupt`] for cut
    /// JSON.
    pub fn read(path: &Path, form: &str, digest: &mut InputDigest) -> Result<Self> {
        let bytes = files::read_annotations(path).map_err(|error| {
            let found = format!("{} ({error})", files::describe(path));
            Error::invalid(path.display(), form, found)
        })?;
        digest.add(&bytes);
        let rows: Rows = files::parse_json(&bytes, path, form).map_err(|error| match error {
            Error::Invalid {
                what,
                expected,
                found,
            } => {
                let found = what_else(&bytes, path).unwrap_or(found);
                Error::Invalid {
                    what,
                    expected,
                    found,
                }
            }
            other => other,
        })?;
        drop(bytes);
        Self::grouped(rows, path)
    }

    fn grouped(rows: Rows, path: &Path) -> Result<Self> {
        let what = path.display();
        let mut file = Self::default();
        let categories = file.take_categories(rows.categories, path)?;
        let mut image_of_id: HashMap<Id, Option<usize>> = HashMap::new();
        for (row, image) in rows.images.into_iter().enumerate() {
            let image = match image {
                Maybe::Is(image) if !image.name().is_empty() => image,
                Maybe::Is(image) => {
                    let row = format!("{what}: image {}", image.id);
                    file.skips.push(Skip::new(
                        Reason::MissingImage,
                        row,
                        "a `file_name`",
                        "none",
                    ));
                    continue;
                }
                Maybe::Not(value) => {
                    file.skips.push(odd_row(
                        format!("{what}: images, row {row}"),
                        "an `id` and a `file_name`",
                        &value,
                    ));
                    continue;
                }
            };
            match image_of_id.get(&image.id) {
                None => {
                    image_of_id.insert(image.id.clone(), Some(file.images.len()));
                    file.images.push((image, Vec::new()));
                    continue;
                }
                // Which of the pictures its annotations mean nobody knows.
                Some(Some(first)) if file.images[*first].0.name() != image.name() => {
                    image_of_id.insert(image.id.clone(), None);
                }
                Some(_) => {}
            }
            let row = format!("{what}: image {}", image.id);
            file.skips.push(Skip::new(
                Reason::DuplicateId,
                row,
                "an id of its own",
                image.name(),
            ));
        }
        let mut used: BTreeSet<Id> = BTreeSet::new();
        for (row, annotation) in rows.annotations.into_iter().enumerate() {
            let annotation = match annotation {
                Maybe::Is(annotation) => annotation,
                Maybe::Not(value) => {
                    file.skips.push(odd_row(
                        format!("{what}: annotations, row {row}"),
                        "an annotation",
                        &value,
                    ));
                    continue;
                }
            };
            used.extend(annotation.category_id.clone());
            let image = annotation
                .image_id
                .as_ref()
                .and_then(|id| image_of_id.get(id));
            match image {
                Some(Some(image_idx)) => file.images[*image_idx].1.push(annotation),
                Some(None) => file.skips.push(Skip::new(
                    Reason::DuplicateId,
                    format!("{what}: annotation {}", annotation.name(row)),
                    "an `image_id` that one picture has",
                    annotation
                        .image_id
                        .as_ref()
                        .map_or_else(String::new, Id::to_string),
                )),
                None => file.skips.push(Skip::new(
                    Reason::UnknownImage,
                    format!("{what}: annotation {}", annotation.name(row)),
                    "an `image_id` that `images` lists",
                    annotation
                        .image_id
                        .as_ref()
                        .map_or_else(|| "none".to_owned(), Id::to_string),
                )),
            }
        }
        let ambiguous = |image: &ImageRow| image_of_id.get(&image.id) == Some(&None);
        file.images.retain(|(image, _)| !ambiguous(image));
        file.vocabulary = vocabulary(&categories, &file.category_names, &used);
        Ok(file)
    }

    /// Names as prompts hold them: trimmed, and one spelling for names that differ in case alone.
    fn take_categories(
        &mut self,
        rows: Vec<Maybe<Category>>,
        path: &Path,
    ) -> Result<Vec<Category>> {
        let what = path.display();
        let mut categories = Vec::new();
        let mut spellings: HashMap<String, String> = HashMap::new();
        for (row, category) in rows.into_iter().enumerate() {
            let mut category = match category {
                Maybe::Is(category) => category,
                Maybe::Not(value) => {
                    self.skips.push(odd_row(
                        format!("{what}: categories, row {row}"),
                        "an `id` and a `name`",
                        &value,
                    ));
                    continue;
                }
            };
            let trimmed = category
                .name
                .as_deref()
                .map(|name| name.split_whitespace().collect::<Vec<_>>().join(" "));
            category.name = trimmed.filter(|name| is_name(name));
            if let Some(name) = &mut category.name {
                *name = spellings
                    .entry(name.to_lowercase())
                    .or_insert_with(|| name.clone())
                    .clone();
            }
            let known = self
                .category_names
                .insert(category.id.clone(), category.name.clone());
            if let Some(known) = known.filter(|known| *known != category.name) {
                let name = |name: &Option<String>| name.clone().unwrap_or_default();
                return Err(Error::invalid(
                    format!("{what}: category {}", category.id),
                    "one name for an id",
                    format!("`{}` and `{}`", name(&known), name(&category.name)),
                ));
            }
            categories.push(category);
        }
        Ok(categories)
    }
}

/// Roboflow and others write a root that groups all classes and labels nothing: as a distractor it would always be true.
fn vocabulary(
    categories: &[Category],
    names: &HashMap<Id, Option<String>>,
    used: &BTreeSet<Id>,
) -> BTreeSet<String> {
    let is_group = |category: &Category| {
        let of_it =
            |other: &&Category| other.id != category.id && other.supercategory == category.name;
        !used.contains(&category.id) && categories.iter().any(|other| of_it(&other))
    };
    let kept = categories.iter().filter(|category| !is_group(category));
    kept.filter_map(|category| names.get(&category.id).cloned().flatten())
        .collect()
}

fn odd_row(what: String, expected: &str, value: &serde_json::Value) -> Skip {
    let text: String = value.to_string().chars().take(60).collect();
    Skip::new(Reason::RowInvalid, what, expected, text)
}

/// What such JSON is instead, in words that help.
fn what_else(bytes: &[u8], path: &Path) -> Option<String> {
    match files::parse_json::<Keys>(bytes, path, "JSON").ok()? {
        Keys::List(_) => Some("a list, as a file of results is: it holds predictions, the annotations lie in another file".to_owned()),
        Keys::Other(_) => None,
        Keys::Object(keys) => {
            let names: Vec<&str> = keys.keys().take(8).map(String::as_str).collect();
            let missing: Vec<&str> = ["images", "annotations", "categories"].into_iter().filter(|key| !keys.contains_key(*key)).collect();
            if missing.is_empty() {
                return None;
            }
            let guess = match (keys.contains_key("annotations"), keys.contains_key("categories")) {
                (true, false) => "; captions have no categories: take instances_….json",
                (false, _) => "; a list of images, as of a test set, has no annotations",
                _ => "",
            };
            Some(format!("no {} beside {}{guess}", missing.join(", "), names.join(", ")))
        }
    }
}
