//! Settings and tokenizers, and what machines of a cluster say to each other.

use lavida_control::{CoordinatorFrame, MemberFrame, PROTOCOL_VERSION, decode, encode};
use lavida_data::tokenizer::Tokenizers;
use lavida_train::settings::Settings;

use super::must_blame_the_input;

const TINY: &str = include_str!("../../../configs/tiny.toml");
const CLIP: &[u8] = include_bytes!("../../../configs/tiny/clip/tokenizer.json");
const QWEN: &[u8] = include_bytes!("../../../configs/tiny/qwen2_vl/tokenizer.json");

/// Begins a line that is an override.
const SET: &str = "#--set ";

/// A settings file; its lines `#--set KEY=VALUE` are overrides.
pub fn settings(bytes: &[u8]) {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let overrides: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix(SET))
        .map(str::to_owned)
        .collect();
    // With overrides over the tiny configuration, which is whole.
    for text in [text, TINY] {
        match Settings::parse("here", text, &overrides) {
            Ok(settings) => {
                let toml = settings.to_toml();
                let again = Settings::parse("again", &toml, &[]);
                let again = again.expect("settings that exist are valid");
                assert_eq!(again.to_toml(), toml);
                assert!(settings.accumulation() > 0);
            }
            Err(error) => must_blame_the_input(&error),
        }
        if overrides.is_empty() {
            break;
        }
    }
}

/// A `tokenizer.json`, in the place of the prompt's and of the categories'.
pub fn tokenizer(bytes: &[u8]) {
    for (qwen, clip) in [(bytes, CLIP), (QWEN, bytes)] {
        let tokenizers = match Tokenizers::load(qwen, clip) {
            Ok(tokenizers) => tokenizers,
            Err(error) => {
                must_blame_the_input(&error);
                continue;
            }
        };
        let categories = ["a red circle".to_owned(), "ein großer \u{1f697}".to_owned()];
        let encoded = tokenizers.encode_categories(&categories, 77);
        let prompt = tokenizers.encode_prompt("<|im_start|>user\nIs there a \u{1f697}?<SEG>");
        for error in [encoded.err(), prompt.err()].into_iter().flatten() {
            must_blame_the_input(&error);
        }
    }
}

/// A message of the control plane, as it is and behind a right head, as one from a member and one from the coordinator.
pub fn envelope(bytes: &[u8]) {
    for message in [bytes, &framed(bytes)] {
        if let Ok(frame) = decode::<MemberFrame>(message) {
            let again = encode(&frame).expect("what was within bounds can be said");
            assert_eq!(decode::<MemberFrame>(&again), Ok(frame));
        }
        if let Ok(frame) = decode::<CoordinatorFrame>(message) {
            let again = encode(&frame).expect("what was within bounds can be said");
            assert_eq!(decode::<CoordinatorFrame>(&again), Ok(frame));
        }
    }
}

/// The head of a message, and `body`.
pub fn framed(body: &[u8]) -> Vec<u8> {
    [b"LVDC".as_slice(), &PROTOCOL_VERSION.to_be_bytes(), body].concat()
}
