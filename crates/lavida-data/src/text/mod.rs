//! What the language model and CLIP read: prompts and their ids.

pub mod prompt;
pub mod tokenizer;
