//! Prompts: what the language model is asked and the answer it is trained to give.
//!
//! A prompt names the categories and stands in Qwen2-VL's chat layout with the default system turn; the answer, `<SEG>`
//! included, is already there, in training and at evaluation, and a second assistant turn is opened after it, as the reference
//! does. The language loss sees the answer alone, up to `<|im_end|>` and its line break.
//! Paper: section 3.3. Reference: `messages_template.py`, whose misspellings and trailing blanks stay, because trained
//! weights have read them. `golden/prompt` holds its ids.

use crate::text::tokenizer::Tokenizers;
use crate::{Error, Result};

/// Questions; `{type}` is `image` or `video`, `{classes}` the categories joined by `, `.
pub const USER_TEMPLATES: [&str; 5] = [
    "Can you segment the anomalies in this {type}? Anomalies include {classes}. ",
    "Please segment the anomalies in this {type}. Abnormal cases contain {classes}. ",
    "Detect anomalies in this {type}. Target types: {classes}. ",
    "Monitor anomalies in this sceen. Anomalies include {classes}. ",
    "Segment abnormal events in this sceen. Abnormal events include {classes}. ",
];

/// Answers.
pub const ANSWER_TEMPLATES: [&str; 5] = [
    "It is <SEG>.",
    "Sure, <SEG>.",
    "Sure, it is <SEG>.",
    "Sure, the segmentation result is <SEG>.",
    "<SEG>.",
];

/// Target id of the language loss where there is nothing to predict.
pub const NO_TARGET: i64 = -100;

/// One question and its answer, as text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The user's turn without its picture.
    pub question: String,
    /// The assistant's turn.
    pub answer: &'static str,
    /// Whether the picture is a video.
    pub is_video: bool,
}

/// A chat as ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedChat {
    /// `[W]`
    pub ids: Vec<i64>,
    /// `[W]` the answer's ids in their places, [`NO_TARGET`] elsewhere.
    pub labels: Vec<i64>,
}

impl Prompt {
    /// The prompt that names `categories`. Evaluation uses templates 0 and 0.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for an index past the templates.
    pub fn new(
        categories: &[String],
        is_video: bool,
        user_template: usize,
        answer_template: usize,
    ) -> Result<Self> {
        let template = pick("user template", &USER_TEMPLATES, user_template)?;
        let kind = if is_video { "video" } else { "image" };
        Ok(Self {
            // The kind first: a category may contain braces.
            question: template
                .replace("{type}", kind)
                .replace("{classes}", &categories.join(", ")),
            answer: pick("answer template", &ANSWER_TEMPLATES, answer_template)?,
            is_video,
        })
    }

    /// The whole chat, with `n_visual` pads where the visual tokens go.
    pub fn chat(&self, n_visual: usize) -> String {
        let pad = if self.is_video {
            "<|video_pad|>"
        } else {
            "<|image_pad|>"
        };
        format!(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>{}<|vision_end|>{}\
             <|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n<|im_start|>assistant\n",
            pad.repeat(n_visual),
            self.question,
            self.answer
        )
    }

    /// The chat as ids and targets, with `n_visual` pads.
    pub fn encode(&self, tokenizers: &Tokenizers, n_visual: usize) -> Result<EncodedChat> {
        let special = tokenizers.special();
        let pad = if self.is_video {
            special.video_pad
        } else {
            special.image_pad
        };
        let mut ids = tokenizers.encode_prompt(&self.chat(1))?;
        let at = ids
            .iter()
            .position(|&id| id == pad)
            .ok_or_else(|| Error::Internal("the chat lost its visual token".into()))?;
        ids.splice(at..=at, std::iter::repeat_n(pad, n_visual));
        let n_seg = ids.iter().filter(|&&id| id == special.seg).count();
        if n_seg != 1 {
            return Err(Error::Internal(format!("a chat with {n_seg} <SEG> tokens")));
        }
        let labels = answer_labels(tokenizers, &ids);
        Ok(EncodedChat { ids, labels })
    }
}

/// Targets of the language loss: each answer up to `<|im_end|>` and its line break, [`NO_TARGET`] elsewhere. An assistant turn
/// that is opened and not closed has no target.
pub fn answer_labels(tokenizers: &Tokenizers, ids: &[i64]) -> Vec<i64> {
    labels_between(ids, tokenizers.answer_start(), tokenizers.answer_end())
}

/// [`answer_labels`] for the ids that open an answer and those that end it, which are targets themselves.
pub fn labels_between(ids: &[i64], start: &[i64], end: &[i64]) -> Vec<i64> {
    let mut labels = vec![NO_TARGET; ids.len()];
    for span in spans_between(ids, start, end) {
        labels[span.clone()].copy_from_slice(&ids[span]);
    }
    labels
}

/// Spans that follow `start` and end with `end`, the end included.
fn spans_between(ids: &[i64], start: &[i64], end: &[i64]) -> Vec<std::ops::Range<usize>> {
    let find = |from: usize, what: &[i64]| {
        ids.get(from..)
            .and_then(|rest| rest.windows(what.len()).position(|w| w == what))
            .map(|i| from + i)
    };
    let mut spans = Vec::new();
    let mut from = 0;
    while let Some(begin) = find(from, start).map(|i| i + start.len()) {
        let Some(stop) = find(begin, end).map(|i| i + end.len()) else {
            break;
        };
        spans.push(begin..stop);
        from = stop;
    }
    spans
}

fn pick(what: &str, templates: &[&'static str], index: usize) -> Result<&'static str> {
    templates
        .get(index)
        .copied()
        .ok_or_else(|| Error::invalid(what, format!("an index below {}", templates.len()), index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|n| n.to_string()).collect()
    }

    #[test]
    fn a_prompt_reads_as_the_reference_writes_it() {
        let check = |prompt: Result<Prompt>, n_visual, expected: &str| {
            assert_eq!(prompt.unwrap().chat(n_visual), expected);
        };
        check(
            Prompt::new(&names(&["red circle", "{type}"]), true, 0, 0),
            2,
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|><|video_pad|><|video_pad|>\
             <|vision_end|>Can you segment the anomalies in this video? Anomalies include red circle, {type}. <|im_end|>\n\
             <|im_start|>assistant\nIt is <SEG>.<|im_end|>\n<|im_start|>assistant\n",
        );
        check(
            Prompt::new(&names(&["red circle"]), false, 3, 4),
            1,
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|><|image_pad|>\
             <|vision_end|>Monitor anomalies in this sceen. Anomalies include red circle. <|im_end|>\n\
             <|im_start|>assistant\n<SEG>.<|im_end|>\n<|im_start|>assistant\n",
        );
    }

    #[test]
    fn targets_are_the_answer_and_its_end() {
        let tokenizers = Tokenizers::tiny();
        for is_video in [false, true] {
            for (user, answer) in (0..5).flat_map(|u| (0..5).map(move |a| (u, a))) {
                let prompt =
                    Prompt::new(&names(&["blue star", "cross"]), is_video, user, answer).unwrap();
                let chat = prompt.encode(&tokenizers, 6).unwrap();
                let targets: Vec<i64> = chat
                    .labels
                    .iter()
                    .copied()
                    .filter(|&l| l != NO_TARGET)
                    .collect();
                assert_eq!(
                    tokenizers.decode_prompt(&targets).unwrap(),
                    format!("{}<|im_end|>\n", ANSWER_TEMPLATES[answer])
                );
                assert_eq!(tokenizers.decode_prompt(&chat.ids).unwrap(), prompt.chat(6));
                let special = tokenizers.special();
                let pad = if is_video {
                    special.video_pad
                } else {
                    special.image_pad
                };
                assert_eq!(chat.ids.iter().filter(|&&id| id == pad).count(), 6);
            }
        }
    }

    #[test]
    fn an_unfinished_answer_has_no_target() {
        let check = |ids: &[i64], expected: &[(usize, usize)]| {
            let spans = spans_between(ids, &[1, 2], &[8, 9]);
            let spans: Vec<_> = spans.iter().map(|span| (span.start, span.end)).collect();
            assert_eq!(spans, expected);
        };
        check(&[], &[]);
        check(&[1, 2, 5, 8], &[]);
        check(&[8, 9, 1, 2, 5, 8, 9, 1, 2], &[(4, 7)]);
        check(&[1, 2, 5, 8, 9, 7, 1, 2, 8, 9], &[(2, 5), (8, 10)]);
    }

    #[test]
    fn a_template_that_does_not_exist_is_refused() {
        let error = Prompt::new(&names(&["a"]), true, 5, 0).unwrap_err();
        assert_eq!(
            error.to_string(),
            "user template: expected an index below 5, found 5"
        );
    }
}
