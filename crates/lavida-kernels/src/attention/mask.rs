//! Which keys a query may read: a rule, and no tensor of a value for each query and key.

use std::ops::Range;
use std::sync::Arc;

/// Which keys a query may read; all of them unless something is said.
///
/// Padding is a range of keys that count, on the host: whoever pads a batch knows it there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttentionMask {
    is_causal: bool,
    keys: Option<Arc<[Range<usize>]>>,
}

impl AttentionMask {
    /// A query reads its own position and those before.
    pub fn causal() -> Self {
        Self {
            is_causal: true,
            keys: None,
        }
    }

    /// Of each batch entry only the keys of its range are read: `[B]` ranges.
    pub fn with_keys(self, ranges: impl IntoIterator<Item = Range<usize>>) -> Self {
        Self {
            keys: Some(ranges.into_iter().collect()),
            ..self
        }
    }

    /// Whether a query reads nothing behind its own position.
    pub fn is_causal(&self) -> bool {
        self.is_causal
    }

    /// The range of each batch entry, where some keys are not read.
    #[cfg(feature = "cube")]
    pub(super) fn key_ranges(&self) -> Option<&[Range<usize>]> {
        self.keys.as_deref()
    }

    /// Whether every query reads every key.
    pub(super) fn reads_all(&self) -> bool {
        !self.is_causal && self.keys.is_none()
    }

    /// The keys that the query at a position of a batch entry reads; may be empty.
    pub(super) fn readable(&self, entry: usize, position: usize, n_keys: usize) -> Range<usize> {
        let end = if self.is_causal {
            n_keys.min(position + 1)
        } else {
            n_keys
        };
        match &self.keys {
            Some(ranges) => {
                let range = &ranges[entry];
                range.start.min(end)..range.end.min(end)
            }
            None => 0..end,
        }
    }

    /// The same without ranges that leave out nothing.
    ///
    /// # Panics
    ///
    /// Panics if it is not of this many batch entries, queries and keys.
    pub(super) fn checked(&self, batch: usize, n_queries: usize, n_keys: usize) -> Self {
        assert!(
            !self.is_causal || n_queries == n_keys,
            "a causal mask is of as many queries as keys, not {n_queries} and {n_keys}"
        );
        let ranges = self.keys.iter().flat_map(|ranges| ranges.iter());
        for range in ranges {
            assert!(
                range.start <= range.end && range.end <= n_keys,
                "keys {range:?} of {n_keys}"
            );
        }
        let n_ranges = self.keys.as_ref().map_or(batch, |ranges| ranges.len());
        assert_eq!(n_ranges, batch, "a range of keys for each batch entry");
        let leaves_out =
            |ranges: &&Arc<[Range<usize>]>| ranges.iter().any(|range| *range != (0..n_keys));
        Self {
            is_causal: self.is_causal,
            keys: self.keys.as_ref().filter(leaves_out).cloned(),
        }
    }

    /// The rule for some of the batch entries.
    #[cfg(feature = "cube")]
    pub(super) fn of_entries(&self, entries: Range<usize>) -> Self {
        Self {
            is_causal: self.is_causal,
            keys: self.keys.as_ref().map(|ranges| ranges[entries].into()),
        }
    }
}
