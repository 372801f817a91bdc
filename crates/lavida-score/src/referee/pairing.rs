//! Scores and labels brought together, video by video.

use std::collections::BTreeMap;

use lavida_data::{Error, Result};

use super::values::{FrameValues, VideoValues, video_name};

/// A video with its scores and labels, one of each a frame.
#[derive(Clone, Debug, PartialEq)]
pub struct PairedVideo {
    /// Its name, as the truth has it.
    pub name: String,
    /// Finite.
    pub scores: Vec<f64>,
    /// Whether the frame is anomalous.
    pub labels: Vec<bool>,
}

/// How scores are brought to the frames of the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PairingOptions {
    /// Frames that a score stands for; at least 1.
    pub repeat: usize,
    /// Videos that only the truth has are left out instead of refused.
    pub skips_missing: bool,
}

/// Videos with scores and labels, and what a reader has to know of how they came together.
#[derive(Clone, Debug, PartialEq)]
pub struct Pairing {
    /// In the order of the truth.
    pub videos: Vec<PairedVideo>,
    /// Sentences.
    pub notes: Vec<String>,
}

/// Pairs scores with labels by the names of videos. Where one side is a single list and the other knows its videos, the list is
/// cut in that order.
///
/// # Errors
///
/// [`Error::Invalid`] for numbers of frames that differ and for videos that only one side has.
pub fn pair(scores: FrameValues, labels: FrameValues, options: PairingOptions) -> Result<Pairing> {
    let mut notes = Vec::new();
    let scores = repeated(scores, options.repeat, &labels, &mut notes);
    let (scores, labels) = match (scores, labels) {
        (FrameValues::Videos(scores), FrameValues::Videos(labels)) => (scores, labels),
        (FrameValues::OneList(scores), FrameValues::OneList(labels)) => {
            notes.push(
                "one list of frames: where a video begins is not known, so macro AUC, min-max and smoothing take all for one \
                 video, and there are no intervals"
                    .to_owned(),
            );
            let scores = VideoValues {
                name: labels.name.clone(),
                ..scores
            };
            (vec![scores], vec![labels])
        }
        (FrameValues::OneList(list), FrameValues::Videos(labels)) => {
            notes.push(format!(
                "the scores of {} are one list, cut in the order of the truth's videos",
                list.name
            ));
            (cut("scores", list, &labels)?, labels)
        }
        (FrameValues::Videos(scores), FrameValues::OneList(list)) => {
            notes.push(format!(
                "the labels of {} are one list, cut in the order of the scores' videos",
                list.name
            ));
            let labels = cut("labels", list, &scores)?;
            (scores, labels)
        }
    };
    let videos = by_name(scores, labels, options, &mut notes)?;
    Ok(Pairing { videos, notes })
}

/// Each score as often as it stands for a frame; the last one is cut, or held, to the video's end by less than one repetition.
fn repeated(
    scores: FrameValues,
    repeat: usize,
    labels: &FrameValues,
    notes: &mut Vec<String>,
) -> FrameValues {
    if repeat <= 1 {
        return scores;
    }
    let lengths: BTreeMap<&str, usize> = match labels {
        FrameValues::Videos(videos) => videos
            .iter()
            .map(|v| (video_name(&v.name), v.values.len()))
            .collect(),
        FrameValues::OneList(list) => [(video_name(&list.name), list.values.len())].into(),
    };
    let mut n_fitted = 0;
    let mut stretch = |video: VideoValues, n_frames: Option<usize>| {
        let mut values: Vec<f64> = video
            .values
            .iter()
            .flat_map(|value| std::iter::repeat_n(*value, repeat))
            .collect();
        if let (Some(n_frames), Some(last)) = (n_frames, values.last().copied())
            && values.len() != n_frames
            && values.len().abs_diff(n_frames) < repeat
        {
            values.resize(n_frames, last);
            n_fitted += 1;
        }
        VideoValues { values, ..video }
    };
    let scores = match scores {
        FrameValues::OneList(list) => {
            let n_frames = lengths.values().sum();
            FrameValues::OneList(stretch(list, Some(n_frames)))
        }
        FrameValues::Videos(videos) => FrameValues::Videos(
            videos
                .into_iter()
                .map(|video| {
                    let n_frames = lengths.get(video_name(&video.name)).copied();
                    stretch(video, n_frames)
                })
                .collect(),
        ),
    };
    notes.push(format!(
        "each score stands for {repeat} frames; in {n_fitted} videos the last one was cut or held to the end of the video"
    ));
    scores
}

/// One list cut into the lengths of these videos.
fn cut(what: &str, list: VideoValues, videos: &[VideoValues]) -> Result<Vec<VideoValues>> {
    let n_frames: usize = videos.iter().map(|video| video.values.len()).sum();
    if list.values.len() != n_frames {
        let expected = format!("one number a frame, {n_frames} of {} videos", videos.len());
        let what = format!("{what} of {}", list.name);
        return Err(Error::invalid(what, expected, list.values.len()));
    }
    let mut rest = &list.values[..];
    let cut = videos.iter().map(|video| {
        let (values, after) = rest.split_at(video.values.len());
        rest = after;
        VideoValues {
            name: video.name.clone(),
            values: values.to_vec(),
        }
    });
    Ok(cut.collect())
}

fn by_name(
    scores: Vec<VideoValues>,
    labels: Vec<VideoValues>,
    options: PairingOptions,
    notes: &mut Vec<String>,
) -> Result<Vec<PairedVideo>> {
    let mut left: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    // The whole name first; where no name is whole on both sides, that without folders and ending.
    let is_exact = labels
        .iter()
        .any(|known| scores.iter().any(|video| video.name == known.name));
    let key = |name: &str| if is_exact { name } else { video_name(name) }.to_owned();
    for video in scores {
        if left.insert(key(&video.name), video.values).is_some() {
            return Err(Error::invalid(
                "scores",
                "each video once",
                format!("{} twice", video.name),
            ));
        }
    }
    let mut videos = Vec::with_capacity(labels.len());
    let (mut missing, mut n_missing_frames) = (Vec::new(), 0);
    for video in labels {
        let Some(scores) = left.remove(&key(&video.name)) else {
            n_missing_frames += video.values.len();
            missing.push(video.name);
            continue;
        };
        if scores.len() != video.values.len() {
            let what = format!("scores of video {}", video.name);
            let expected = format!("one a frame, {} as it has labels", video.values.len());
            let found = format!(
                "{} (where a score stands for N frames, give --repeat N)",
                scores.len()
            );
            return Err(Error::invalid(what, expected, found));
        }
        videos.push(PairedVideo {
            name: video.name,
            scores,
            labels: video.values.iter().map(|value| *value == 1.0).collect(),
        });
    }
    if let Some(unknown) = left.keys().next() {
        let found = format!("{unknown} and {} more", left.len() - 1);
        return Err(Error::invalid("scores", "videos that the truth has", found));
    }
    if let Some(first) = missing.first() {
        let found = format!("none for {first} and {} more", missing.len() - 1);
        if !options.skips_missing || videos.is_empty() {
            let expected =
                "scores of every video of the truth (--skip-missing leaves the others out)";
            return Err(Error::invalid("scores", expected, found));
        }
        notes.push(format!(
            "{} videos of the truth ({n_missing_frames} frames) have no scores and are left out: {first} and {} more",
            missing.len(),
            missing.len() - 1
        ));
    }
    Ok(videos)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: PairingOptions = PairingOptions {
        repeat: 1,
        skips_missing: false,
    };

    fn videos(videos: &[(&str, &[f64])]) -> FrameValues {
        FrameValues::Videos(
            videos
                .iter()
                .map(|(name, values)| value(name, values))
                .collect(),
        )
    }

    fn value(name: &str, values: &[f64]) -> VideoValues {
        VideoValues {
            name: (*name).to_owned(),
            values: values.to_vec(),
        }
    }

    fn list(values: &[f64]) -> FrameValues {
        FrameValues::OneList(value("all", values))
    }

    fn paired(
        scores: FrameValues,
        labels: FrameValues,
        options: PairingOptions,
    ) -> Vec<(String, Vec<f64>)> {
        let pairing = pair(scores, labels, options).unwrap();
        pairing
            .videos
            .into_iter()
            .map(|v| (v.name, v.scores))
            .collect()
    }

    #[track_caller]
    fn refused(scores: FrameValues, labels: FrameValues, words: &[&str]) {
        let error = pair(scores, labels, PLAIN).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        for word in words {
            assert!(error.to_string().contains(word), "{error}: no {word}");
        }
    }

    #[test]
    fn videos_meet_by_name_with_and_without_folder_and_ending() {
        let labels = || videos(&[("Test/b.mp4", &[0.0]), ("Test/a.mp4", &[1.0, 0.0])]);
        let scores = videos(&[("a", &[1.0, 2.0]), ("b", &[3.0])]);
        let expected = [
            ("Test/b.mp4".to_owned(), vec![3.0]),
            ("Test/a.mp4".to_owned(), vec![1.0, 2.0]),
        ];
        assert_eq!(paired(scores, labels(), PLAIN), expected);
        assert_eq!(paired(list(&[3.0, 1.0, 2.0]), labels(), PLAIN), expected);
    }

    #[test]
    fn one_list_of_labels_is_cut_by_the_scores() {
        let scores = videos(&[("a", &[1.0, 2.0]), ("b", &[3.0])]);
        let pairing = pair(scores, list(&[0.0, 1.0, 1.0]), PLAIN).unwrap();
        assert_eq!(pairing.videos[0].labels, [false, true]);
        assert_eq!(pairing.videos[1].labels, [true]);
    }

    #[test]
    fn a_score_may_stand_for_several_frames() {
        let options = PairingOptions { repeat: 2, ..PLAIN };
        let labels = videos(&[("a", &[0.0; 3]), ("b", &[0.0; 5])]);
        let found = paired(
            videos(&[("a", &[1.0, 2.0]), ("b", &[3.0, 4.0])]),
            labels,
            options,
        );
        assert_eq!(found[0].1, [1.0, 1.0, 2.0]);
        assert_eq!(found[1].1, [3.0, 3.0, 4.0, 4.0, 4.0]);
    }

    #[test]
    fn frames_and_videos_that_do_not_meet_are_named() {
        let labels = || videos(&[("a", &[0.0, 1.0]), ("b", &[0.0])]);
        refused(list(&[1.0]), labels(), &["3 of 2 videos", "found 1"]);
        refused(
            videos(&[("a", &[1.0, 1.0])]),
            labels(),
            &["none for b", "--skip-missing"],
        );
        refused(
            videos(&[("a", &[1.0]), ("b", &[1.0])]),
            labels(),
            &["video a", "--repeat"],
        );
        refused(
            videos(&[("a", &[1.0, 1.0]), ("b", &[1.0]), ("c", &[1.0])]),
            labels(),
            &["found c"],
        );
        let options = PairingOptions {
            skips_missing: true,
            ..PLAIN
        };
        let pairing = pair(videos(&[("a", &[1.0, 1.0])]), labels(), options).unwrap();
        assert_eq!(pairing.videos.len(), 1);
        assert!(pairing.notes[0].contains("left out"), "{:?}", pairing.notes);
    }
}
