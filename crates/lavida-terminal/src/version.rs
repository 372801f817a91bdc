//! What a build says of itself: `--version`. `-V` is the first line alone.

/// The long version. `commit` and `features` (separated by commas) are what the build script found, `devices` the kinds a
/// program can compute on; none for one that computes nothing.
pub fn long(version: &str, commit: &str, features: &str, devices: &[&str]) -> String {
    let features = match features {
        "" => "none",
        features => features,
    };
    let mut text = format!("{version}\ncommit: {commit}\nfeatures: {features}");
    if !devices.is_empty() {
        text += &format!("\ndevices: {}", devices.join(", "));
    }
    text
}
