//! Settings files that are part of the program.

/// Names and texts of the files, as `embedded:NAME` and `lavida settings init NAME` take them.
pub const EMBEDDED: [(&str, &str); 3] = [
    ("tiny", include_str!("../../../../configs/tiny.toml")),
    (
        "tiny-grounding",
        include_str!("../../../../configs/tiny-grounding.toml"),
    ),
    ("paper", include_str!("../../../../configs/paper.toml")),
];

/// What comes before the name of an embedded file.
pub const EMBEDDED_PREFIX: &str = "embedded:";

/// The text of an embedded file.
///
/// # Errors
///
/// The names that there are, when this is none of them.
pub fn embedded(name: &str) -> Result<&'static str, String> {
    let found = EMBEDDED.iter().find(|(known, _)| *known == name);
    let names = || EMBEDDED.map(|(known, _)| format!("{EMBEDDED_PREFIX}{known}"));
    found
        .map(|(_, text)| *text)
        .ok_or_else(|| names().join(" or "))
}
