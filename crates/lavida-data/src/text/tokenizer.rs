//! The two vocabularies: Qwen2-VL's for the prompt, CLIP's for the categories.
//!
//! In: two `tokenizer.json` files as Hugging Face writes them, the published ones or the tiny configuration's. Out: ids. `<SEG>` is
//! added to the first where it is missing, with the next free id (151657 on the published file).

use std::fmt;

use tokenizers::{AddedToken, Tokenizer};

use crate::caught::caught;
use crate::{Error, Result};

/// More than a tokenizer.json has: Qwen2-VL's has 7 MiB.
pub const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

/// The token whose hidden state the projector reads.
pub const SEG_TOKEN: &str = "<SEG>";

const TINY_QWEN: &[u8] = include_bytes!("../../../../configs/tiny/qwen2_vl/tokenizer.json");
const TINY_CLIP: &[u8] = include_bytes!("../../../../configs/tiny/clip/tokenizer.json");

/// Ids with a meaning of their own, looked up once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpecialIds {
    /// `<SEG>`
    pub seg: i64,
    /// `<|image_pad|>`: one for each merged visual token of an image.
    pub image_pad: i64,
    /// `<|video_pad|>`: one for each merged visual token of a video.
    pub video_pad: i64,
    /// `<|vision_start|>`
    pub vision_start: i64,
    /// `<|vision_end|>`
    pub vision_end: i64,
    /// `<|im_start|>`: a turn of the chat begins.
    pub im_start: i64,
    /// `<|im_end|>`: a turn of the chat ends.
    pub im_end: i64,
    /// `<|endoftext|>`: pads prompts on the left.
    pub pad: i64,
    /// CLIP's `<|startoftext|>`
    pub clip_start: i64,
    /// CLIP's `<|endoftext|>`: ends a text and pads it; the highest id, because CLIP pools at the largest.
    pub clip_end: i64,
}

/// Both vocabularies.
pub struct Tokenizers {
    qwen: Tokenizer,
    clip: Tokenizer,
    special: SpecialIds,
    /// Contents of every special token of `qwen`; none may occur in a category.
    reserved: Vec<String>,
    /// Highest id of the prompt's file and one, before `<SEG>` was added.
    n_prompt_file_ids: usize,
    /// `<|im_start|>assistant\n`
    answer_start: Vec<i64>,
    /// `<|im_end|>\n`
    answer_end: Vec<i64>,
}

/// Highest id of each vocabulary, and one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdCounts {
    /// The prompt's vocabulary as its file has it.
    pub prompt_file: usize,
    /// The prompt's vocabulary with `<SEG>`.
    pub prompt: usize,
    /// The categories' vocabulary.
    pub category: usize,
}

/// CLIP ids of some texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CategoryIds {
    /// Per text: start, words, end. Not padded.
    pub ids: Vec<Vec<i64>>,
    /// Texts that were longer than CLIP's positions and lost their last words.
    pub n_truncated: usize,
}

impl Tokenizers {
    /// Reads two `tokenizer.json` files.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when a file is not a tokenizer, or lacks a token that the chat layout or CLIP's pooler needs.
    pub fn load(qwen_json: &[u8], clip_json: &[u8]) -> Result<Self> {
        const QWEN: &str = "prompt tokenizer.json";
        const CLIP: &str = "category tokenizer.json";
        let mut qwen = parse(QWEN, qwen_json)?;
        let clip = parse(CLIP, clip_json)?;
        let n_prompt_file_ids = n_ids(&qwen);
        qwen.add_tokens([AddedToken::from(SEG_TOKEN, true)])
            .map_err(|e| Error::invalid(QWEN, "a vocabulary that takes <SEG>", e))?;
        let special = SpecialIds {
            seg: id_of(QWEN, &qwen, SEG_TOKEN)?,
            image_pad: id_of(QWEN, &qwen, "<|image_pad|>")?,
            video_pad: id_of(QWEN, &qwen, "<|video_pad|>")?,
            vision_start: id_of(QWEN, &qwen, "<|vision_start|>")?,
            vision_end: id_of(QWEN, &qwen, "<|vision_end|>")?,
            im_start: id_of(QWEN, &qwen, "<|im_start|>")?,
            im_end: id_of(QWEN, &qwen, "<|im_end|>")?,
            pad: id_of(QWEN, &qwen, "<|endoftext|>")?,
            clip_start: id_of(CLIP, &clip, "<|startoftext|>")?,
            clip_end: id_of(CLIP, &clip, "<|endoftext|>")?,
        };
        let n_clip_ids = n_ids(&clip) as i64;
        if n_clip_ids - 1 != special.clip_end {
            return Err(Error::invalid(
                CLIP,
                "<|endoftext|> as the highest id, where CLIP pools",
                format!("id {} of {}", special.clip_end, n_clip_ids - 1),
            ));
        }
        let reserved = qwen
            .get_added_tokens_decoder()
            .into_values()
            .map(|token| token.content)
            .collect();
        Ok(Self {
            answer_start: encode(&qwen, "<|im_start|>assistant\n")?,
            answer_end: encode(&qwen, "<|im_end|>\n")?,
            qwen,
            clip,
            special,
            reserved,
            n_prompt_file_ids,
        })
    }

    /// The tiny configuration's `tokenizer.json` of prompts, which is part of the program.
    pub const TINY_PROMPT: &[u8] = TINY_QWEN;
    /// The same of categories.
    pub const TINY_CATEGORIES: &[u8] = TINY_CLIP;

    /// The tiny configuration's vocabularies, which are part of the program.
    pub fn tiny() -> Self {
        Self::load(TINY_QWEN, TINY_CLIP).expect("the embedded vocabularies are tested")
    }

    /// Ids with a meaning of their own.
    pub fn special(&self) -> SpecialIds {
        self.special
    }

    /// Ids of the prompt vocabulary, `<SEG>` included: the fewest rows its embedding may have.
    pub fn prompt_vocab_size(&self) -> usize {
        self.qwen.get_vocab_size(true)
    }

    /// Ids of the category vocabulary: the fewest rows its embedding may have.
    pub fn category_vocab_size(&self) -> usize {
        self.clip.get_vocab_size(true)
    }

    /// Highest ids and one: rows that embeddings must have.
    pub fn n_ids(&self) -> IdCounts {
        IdCounts {
            prompt_file: self.n_prompt_file_ids,
            prompt: n_ids(&self.qwen),
            category: n_ids(&self.clip),
        }
    }

    /// Ids of a text of the prompt vocabulary; special tokens written in it count as such.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<i64>> {
        encode(&self.qwen, text)
    }

    /// Text of prompt ids, special tokens included.
    pub fn decode_prompt(&self, ids: &[i64]) -> Result<String> {
        let ids: Vec<u32> = ids
            .iter()
            .filter_map(|&id| u32::try_from(id).ok())
            .collect();
        self.qwen
            .decode(&ids, false)
            .map_err(|e| Error::Internal(format!("decoding prompt ids: {e}")))
    }

    /// CLIP ids of every category, the raw text without a template.
    ///
    /// A text of more than `max_positions` tokens keeps its first words and the end token (CLIP's own rule; the reference would
    /// fail on it). That is warned of and counted, because such a category means less than it says.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] as [`Self::check_categories`].
    pub fn encode_categories(
        &self,
        categories: &[String],
        max_positions: usize,
    ) -> Result<CategoryIds> {
        self.check_categories(categories)?;
        let mut n_truncated = 0;
        let ids = categories
            .iter()
            .map(|text| {
                let mut ids = vec![self.special.clip_start];
                ids.extend(encode(&self.clip, text)?);
                if ids.len() >= max_positions {
                    tracing::warn!(
                        category = text,
                        max_positions,
                        "category cut to CLIP's positions"
                    );
                    n_truncated += 1;
                    ids.truncate(max_positions.saturating_sub(1));
                }
                ids.push(self.special.clip_end);
                Ok(ids)
            })
            .collect::<Result<_>>()?;
        Ok(CategoryIds { ids, n_truncated })
    }

    /// Whether a prompt can name these categories.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when there are none, one is blank, or one contains a special token (which would write into the chat
    /// layout).
    pub fn check_categories(&self, categories: &[String]) -> Result<()> {
        if categories.is_empty() {
            return Err(Error::invalid(
                "categories",
                "at least one category",
                "an empty list",
            ));
        }
        for (i, category) in categories.iter().enumerate() {
            if category.trim().is_empty() {
                return Err(Error::invalid(
                    format!("category {}", i + 1),
                    "a text",
                    format!("{category:?}"),
                ));
            }
            if let Some(token) = self.reserved.iter().find(|token| category.contains(*token)) {
                return Err(Error::invalid(
                    format!("category {category:?}"),
                    "a text without special tokens",
                    token,
                ));
            }
        }
        Ok(())
    }

    /// `tokenizer.json` of the prompt vocabulary, `<SEG>` included, for exports and checkpoints.
    pub fn prompt_json(&self) -> Result<String> {
        to_json(&self.qwen)
    }

    /// `tokenizer.json` of the category vocabulary.
    pub fn category_json(&self) -> Result<String> {
        to_json(&self.clip)
    }

    pub(crate) fn answer_start(&self) -> &[i64] {
        &self.answer_start
    }

    pub(crate) fn answer_end(&self) -> &[i64] {
        &self.answer_end
    }
}

impl fmt::Debug for Tokenizers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokenizers")
            .field("prompt_vocab_size", &self.prompt_vocab_size())
            .field("category_vocab_size", &self.category_vocab_size())
            .field("special", &self.special)
            .finish()
    }
}

fn parse(name: &str, json: &[u8]) -> Result<Tokenizer> {
    // tokenizers 0.23 panics ("Helper: …") on a decoder that is cut or of another form.
    caught(|| Tokenizer::from_bytes(json).map_err(|e| e.to_string()))
        .flatten()
        .map_err(|e| Error::invalid(name, "a Hugging Face tokenizer.json", e))
}

fn n_ids(tokenizer: &Tokenizer) -> usize {
    let highest = tokenizer.get_vocab(true).into_values().max();
    highest.map_or(0, |id| id as usize + 1)
}

fn id_of(name: &str, tokenizer: &Tokenizer, token: &str) -> Result<i64> {
    tokenizer
        .token_to_id(token)
        .map(i64::from)
        .ok_or_else(|| Error::invalid(name, format!("the token {token}"), "none of that name"))
}

fn encode(tokenizer: &Tokenizer, text: &str) -> Result<Vec<i64>> {
    let encoding = tokenizer.encode_fast(text, false).map_err(|e| {
        Error::invalid(
            format!("text {text:?}"),
            "a text the vocabulary can write",
            e,
        )
    })?;
    Ok(encoding.get_ids().iter().copied().map(i64::from).collect())
}

fn to_json(tokenizer: &Tokenizer) -> Result<String> {
    tokenizer
        .to_string(true)
        .map_err(|e| Error::Internal(format!("writing tokenizer.json: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WORLD: &str = "red green blue yellow purple orange cyan white circle square triangle diamond cross star ring \
        moving standing left right up down still slowly fast a the object that is";

    #[test]
    fn a_damaged_decoder_is_refused_in_words_and_no_panic() {
        let whole = str::from_utf8(TINY_QWEN).unwrap();
        let damaged = whole.replacen("\"decoder\": {", "\"decoder\": {\"type\" 7,", 1);
        assert_ne!(damaged, whole);
        let error = Tokenizers::load(damaged.as_bytes(), TINY_CLIP).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(
            error.to_string().contains("prompt tokenizer.json"),
            "{error}"
        );
    }

    #[test]
    fn every_word_of_the_world_is_one_token() {
        let tokenizers = Tokenizers::tiny();
        for word in WORLD.split_whitespace() {
            let prompt = tokenizers.encode_prompt(&format!(" {word}")).unwrap();
            assert_eq!(prompt.len(), 1, "{word} in a prompt");
            let category = tokenizers
                .encode_categories(&[word.to_owned()], 77)
                .unwrap();
            assert_eq!(category.ids[0].len(), 3, "{word} as a category");
        }
    }

    #[test]
    fn tiny_vocabularies_fit_their_embeddings() {
        let tokenizers = Tokenizers::tiny();
        assert!(tokenizers.prompt_vocab_size() <= 512);
        assert!(tokenizers.category_vocab_size() <= 512);
    }

    #[test]
    fn seg_is_added_where_it_is_missing() {
        let with = Tokenizers::tiny();
        let mut json: serde_json::Value = serde_json::from_slice(TINY_QWEN).unwrap();
        let added = json["added_tokens"].as_array_mut().unwrap();
        added.retain(|token| token["content"] != SEG_TOKEN);
        let without = json.to_string();
        let read = Tokenizers::load(without.as_bytes(), TINY_CLIP).unwrap();
        assert_eq!(read.special(), with.special());
        assert_eq!(read.prompt_vocab_size(), with.prompt_vocab_size());
        let (counts, seg) = (read.n_ids(), read.special().seg as usize);
        assert_eq!((counts.prompt_file, counts.prompt), (seg, seg + 1));
        assert_eq!(with.n_ids().prompt_file, seg + 1);
    }

    #[test]
    fn a_missing_token_is_named() {
        let text = String::from_utf8(TINY_QWEN.to_vec()).unwrap();
        let text = text.replace("<|video_pad|>", "<|film_pad|>");
        let error = Tokenizers::load(text.as_bytes(), TINY_CLIP).unwrap_err();
        assert_eq!(
            error.to_string(),
            "prompt tokenizer.json: expected the token <|video_pad|>, found none of that name"
        );
        let error = Tokenizers::load(b"{", TINY_CLIP).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("prompt tokenizer.json: expected"),
            "{error}"
        );
    }

    #[test]
    fn an_empty_category_list_is_refused() {
        let check = |categories: &[&str], expected: &str| {
            let categories: Vec<String> = categories.iter().map(|c| c.to_string()).collect();
            let error = Tokenizers::tiny()
                .encode_categories(&categories, 77)
                .unwrap_err();
            assert_eq!(
                (error.to_string().as_str(), error.exit_code()),
                (expected, 2)
            );
        };
        check(
            &[],
            "categories: expected at least one category, found an empty list",
        );
        check(&["red", " "], "category 2: expected a text, found \" \"");
        check(
            &["a <SEG> b"],
            "category \"a <SEG> b\": expected a text without special tokens, found <SEG>",
        );
    }

    #[test]
    fn a_category_beyond_the_positions_keeps_its_first_words_and_the_end() {
        let tokenizers = Tokenizers::tiny();
        let long = ["red circle moving left".to_owned(), "red".to_owned()];
        let cut = tokenizers.encode_categories(&long, 4).unwrap();
        let whole = tokenizers.encode_categories(&long, 77).unwrap();
        assert_eq!(cut.n_truncated, 1);
        assert_eq!(cut.ids[0][..3], whole.ids[0][..3]);
        assert_eq!(cut.ids[0][3..], [tokenizers.special().clip_end]);
        assert_eq!(cut.ids[1], whole.ids[1]);
        assert_eq!(whole.n_truncated, 0);
    }

    #[test]
    fn exported_vocabularies_read_back() {
        let tokenizers = Tokenizers::tiny();
        let (qwen, clip) = (
            tokenizers.prompt_json().unwrap(),
            tokenizers.category_json().unwrap(),
        );
        let again = Tokenizers::load(qwen.as_bytes(), clip.as_bytes()).unwrap();
        assert_eq!(again.special(), tokenizers.special());
        let text = "It is <SEG>.<|im_end|>\n";
        assert_eq!(
            again.encode_prompt(text).unwrap(),
            tokenizers.encode_prompt(text).unwrap()
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_text_encodes_and_comes_back(text in "[^\u{300}-\u{36f}<]{0,40}") {
            let tokenizers = Tokenizers::tiny();
            let ids = tokenizers.encode_prompt(&text).unwrap();
            let decoded = tokenizers.decode_prompt(&ids).unwrap();
            // The vocabulary composes accents (NFC); plain text is unchanged.
            if text.is_ascii() {
                prop_assert_eq!(decoded, text);
            } else {
                let lost = char::REPLACEMENT_CHARACTER;
                prop_assert!(text.contains(lost) || !decoded.contains(lost));
            }
        }
    }
}
