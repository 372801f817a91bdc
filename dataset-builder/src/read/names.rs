//! Names of categories: which can stand in a prompt, and which a benchmark asks for.

use lavida_store::{Error, Result};

/// Whether a category's name can stand in a prompt; a blank one is treated as none.
pub fn is_name(name: &str) -> bool {
    !name.trim().is_empty()
}

/// A name as people write it: `giant_panda` and `car-shadow` become words.
pub fn readable(name: &str) -> String {
    name.split(['_', '-', ' '])
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Stuff names of COCO without the marks of its merging: `sky-other-merged` is "sky", `wall-brick` "wall brick".
pub fn without_stuff_marks(name: &str) -> String {
    let bare = name.trim_end_matches("-merged").trim_end_matches("-other");
    bare.trim_end_matches("-stuff").replace('-', " ")
}

/// The categories to ask for: those of the command line, else of the dataset's own file, else the reference's.
///
/// # Errors
///
/// [`Error::Invalid`] for an empty list.
pub fn category_list(
    told: Option<&str>,
    of_dataset: Option<Vec<String>>,
    reference: &[&str],
) -> Result<Vec<String>> {
    let names: Vec<String> = match (told, of_dataset) {
        (Some(list), _) => list.split(',').map(str::to_owned).collect(),
        (None, Some(names)) => names,
        (None, None) => reference.iter().map(|name| (*name).to_owned()).collect(),
    };
    let names: Vec<String> = names
        .iter()
        .map(|name| name.trim().to_owned())
        .filter(|name| is_name(name))
        .collect();
    if names.is_empty() {
        let expected = "at least one category to ask for";
        return Err(Error::invalid("categories", expected, "an empty list"));
    }
    Ok(names)
}
