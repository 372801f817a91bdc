//! The different texts among the categories of a batch.
//!
//! Clips of a batch ask for much the same categories, so the text tower reads each text once.
//!
//! Shapes: `C` categories of all clips · `U` different texts · `L` tokens of the longest.

use std::collections::HashMap;

use burn::tensor::TensorData;

use crate::error::{Error, Result};

/// The different texts among the categories of a batch.
pub(super) struct DistinctTexts {
    /// `[U, L]` cut behind the longest text's end, shorter ones padded with the end-of-text id.
    pub(super) ids: TensorData,
    /// `[C]` which of them each category is.
    pub(super) row_of_category: Vec<i64>,
}

impl DistinctTexts {
    pub(super) fn of(category_ids: &[Vec<i64>]) -> Result<Self> {
        let mut rows: HashMap<&[i64], i64> = HashMap::new();
        let mut texts: Vec<&[i64]> = Vec::new();
        let mut row_of_category = Vec::with_capacity(category_ids.len());
        for (category, ids) in category_ids.iter().enumerate() {
            // CLIP's end-of-text id is the largest of its vocabulary; the tower reads its first occurrence.
            let end_id = *ids.iter().max().ok_or_else(|| Error::Invalid {
                what: format!("category {category} of the batch"),
                expected: "CLIP ids with an end of text".to_owned(),
                found: "none".to_owned(),
            })?;
            let n_ids = ids.iter().take_while(|id| **id != end_id).count() + 1;
            let text = &ids[..n_ids];
            row_of_category.push(*rows.entry(text).or_insert_with(|| {
                texts.push(text);
                texts.len() as i64 - 1
            }));
        }
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        let mut ids = Vec::with_capacity(texts.len() * longest);
        for text in &texts {
            ids.extend_from_slice(text);
            ids.resize(ids.len() + longest - text.len(), text[text.len() - 1]);
        }
        Ok(Self {
            ids: TensorData::new(ids, [texts.len(), longest]),
            row_of_category,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_are_read_once() {
        let categories = [
            vec![8, 3, 9, 9, 9],
            vec![8, 9, 0],
            vec![8, 3, 9],
            vec![8, 1, 2, 9],
        ];
        let texts = DistinctTexts::of(&categories).unwrap();
        assert_eq!(texts.row_of_category, [0, 1, 0, 2]);
        let expected = TensorData::new(vec![8i64, 3, 9, 9, 8, 9, 9, 9, 8, 1, 2, 9], [3, 4]);
        assert_eq!(texts.ids, expected);
        assert!(DistinctTexts::of(&[vec![]]).is_err());
    }
}
