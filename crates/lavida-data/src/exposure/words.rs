//! The words of a description that tell one thing from another.

use std::collections::BTreeSet;

/// Words that name nothing.
const GLUE: [&str; 24] = [
    "a", "an", "and", "are", "at", "by", "for", "from", "in", "is", "it", "its", "object", "of",
    "on", "one", "or", "that", "the", "their", "this", "to", "which", "with",
];

/// Words that only several frames can show, in a text that says `moving` or `standing`: elsewhere `left` is a place.
const MOTION: [&str; 11] = [
    "moving", "standing", "still", "slowly", "quickly", "fast", "left", "right", "up", "down",
    "away",
];

/// Lower-case words of `text` without glue words.
pub(crate) fn content_words(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !c.is_alphanumeric())
        .map(str::to_lowercase)
        .filter(|word| !word.is_empty() && !GLUE.contains(&word.as_str()))
        .collect()
}

/// Content words without motion: what a single frame can show.
pub(crate) fn visible_words(text: &str) -> BTreeSet<String> {
    let mut words = content_words(text);
    if words.contains("moving") || words.contains("standing") {
        words.retain(|word| !MOTION.contains(&word.as_str()));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn glue_and_motion_say_nothing_of_a_frame() {
        let check = |text: &str, content: &[&str], visible: &[&str]| {
            let words = |words: BTreeSet<String>| words.into_iter().collect::<Vec<_>>();
            assert_eq!(words(content_words(text)), content, "{text}");
            assert_eq!(words(visible_words(text)), visible, "{text}");
        };
        check(
            "the Red circle moving left",
            &["circle", "left", "moving", "red"],
            &["circle", "red"],
        );
        check("the object standing still", &["standing", "still"], &[]);
        check("man on the left", &["left", "man"], &["left", "man"]);
        check(
            "traffic-light",
            &["light", "traffic"],
            &["light", "traffic"],
        );
        check("", &[], &[]);
    }
}
