//! Masks of a picture whose pixels carry labels: palette indices, class numbers, segment ids.

use std::collections::BTreeMap;

use lavida_data::mask::RleMask;

/// The runs of one label so far, down the columns, background first.
#[derive(Default)]
struct Runs {
    counts: Vec<u32>,
    end: u32,
}

/// One mask for each label that occurs, by label. One pass over the picture, however many labels it has.
///
/// # Shapes
///
/// - labels: `[H, W]` row-major
pub fn masks_by_label<L: Copy + Ord>(
    labels: &[L],
    width: u32,
    height: u32,
) -> BTreeMap<L, RleMask> {
    let (n_columns, n_rows) = (width as usize, height as usize);
    assert_eq!(
        labels.len(),
        n_columns * n_rows,
        "a picture of {width} x {height} px"
    );
    let mut runs: BTreeMap<L, Runs> = BTreeMap::new();
    let mut add = |label: L, begin: u32, end: u32| {
        let runs = runs.entry(label).or_default();
        runs.counts.extend([begin - runs.end, end - begin]);
        runs.end = end;
    };
    let (mut at, mut begin, mut current) = (0u32, 0u32, None);
    for x in 0..n_columns {
        for y in 0..n_rows {
            let label = labels[y * n_columns + x];
            if current != Some(label) {
                if let Some(label) = current {
                    add(label, begin, at);
                }
                (current, begin) = (Some(label), at);
            }
            at += 1;
        }
    }
    if let Some(label) = current {
        add(label, begin, at);
    }
    let n_pixels = at;
    let mask = |(label, mut runs): (L, Runs)| {
        if runs.end < n_pixels {
            runs.counts.push(n_pixels - runs.end);
        }
        let mask = RleMask::from_counts(&runs.counts, height, width);
        (label, mask.expect("the runs cover the picture"))
    };
    runs.into_iter().map(mask).collect()
}

/// A mask of every pixel.
pub fn whole_frame(width: u32, height: u32) -> RleMask {
    RleMask::from_counts(&[0, width * height], height, width).expect("one run covers the frame")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_mask_is_that_of_a_raster_of_its_label(labels in proptest::collection::vec(0u8..4, 35)) {
            let masks = masks_by_label(&labels, 7, 5);
            let different: std::collections::BTreeSet<u8> = labels.iter().copied().collect();
            prop_assert_eq!(masks.keys().copied().collect::<Vec<_>>(), different.into_iter().collect::<Vec<_>>());
            for (label, mask) in masks {
                let raster: Vec<u8> = labels.iter().map(|other| u8::from(*other == label)).collect();
                prop_assert_eq!(mask, RleMask::from_raster(&raster, 5, 7));
            }
        }
    }

    #[test]
    fn a_whole_frame_has_every_pixel() {
        assert_eq!(whole_frame(3, 2), RleMask::from_raster(&[1; 6], 2, 3));
    }
}
