//! Pixel masks as COCO run-length encoding.
//!
//! A mask is the list of its run lengths, background first, walking down the columns, packed into
//! COCO's text alphabet: what `pycocotools.mask` reads and writes. Masks stay packed from the
//! source dataset to the batch; only areas, unions and rasters look inside.

use vernier_mask::Rle;

use crate::frame::MAX_PIXELS;
use crate::{Error, Result};

/// A mask of `height × width` px in COCO's compressed run-length encoding (column-major runs).
///
/// Masks from a constructor or a shard are checked: the runs cover exactly `height · width` px.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RleMask {
    /// px
    pub height: u32,
    /// px
    pub width: u32,
    /// COCO's compressed `counts` string.
    pub counts: String,
}

impl RleMask {
    /// A mask without a pixel set.
    pub fn empty(height: u32, width: u32) -> Self {
        let runs = match height as usize * width as usize {
            0 => Vec::new(),
            n => vec![n as u32],
        };
        Self::pack(&Rle::from_counts(height, width, runs))
    }

    /// From a row-major raster of `height · width` bytes; every byte but 0 is set.
    pub fn from_raster(raster: &[u8], height: u32, width: u32) -> Self {
        assert_eq!(
            raster.len(),
            height as usize * width as usize,
            "a raster of {height} x {width} px"
        );
        let rle = Rle::from_row_major_raster_bytes(raster, height, width)
            .expect("the raster has the size it claims");
        Self::pack(&rle)
    }

    /// From COCO's uncompressed runs, background first.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the runs do not cover `height · width` px, or that is more than [`MAX_PIXELS`].
    pub fn from_counts(counts: &[u32], height: u32, width: u32) -> Result<Self> {
        let rle = Rle::from_counts(height, width, counts.to_vec());
        check_cover(&rle)?;
        Ok(Self::pack(&rle))
    }

    /// From COCO's compressed `counts` text, kept as it is.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when the text is not such runs or they do not cover `height · width` px, or that is more than
    /// [`MAX_PIXELS`].
    pub fn from_coco(counts: &str, height: u32, width: u32) -> Result<Self> {
        Self {
            height,
            width,
            counts: counts.to_string(),
        }
        .checked()
    }

    /// The same mask, known to be one.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when `counts` is not the runs of `height · width` px.
    pub fn checked(self) -> Result<Self> {
        self.unpack()?;
        Ok(self)
    }

    /// The union of closed polygons `[x0, y0, x1, y1, …]` in px, rasterised as COCO does.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a polygon of fewer than three points, an odd number of coordinates, one that is not
    /// finite, edges longer than [`MAX_POLYGON_PX`] together, or a picture of more than [`MAX_PIXELS`].
    pub fn from_polygons(polygons: &[Vec<f64>], height: u32, width: u32) -> Result<Self> {
        check_size(height, width)?;
        // Rasterising walks along each edge, five steps a pixel and inside the picture or not: an edge of 10⁹ px would
        // take gigabytes and minutes.
        let length = polygons.iter().map(|polygon| n_steps(polygon)).sum::<f64>();
        if length > MAX_POLYGON_PX {
            return Err(Error::invalid(
                "polygon",
                format!("edges of at most {MAX_POLYGON_PX} px together"),
                format!("{length} px"),
            ));
        }
        let rle = Rle::from_polygons(polygons, height, width).map_err(|error| {
            Error::invalid("polygon", "points x, y of at least three corners", error)
        })?;
        Ok(Self::pack(&rle))
    }

    /// Row-major raster of `height · width` bytes, 0 or 1.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when `counts` was set to something that is not a mask of this size.
    pub fn to_raster(&self) -> Result<Vec<u8>> {
        Ok(self.unpack()?.to_row_major_raster_bytes())
    }

    /// Pixels set.
    pub fn area(&self) -> u64 {
        vernier_mask::decode_area(self.counts.as_bytes())
            .expect("masks are checked where they are made and read")
    }

    /// Whether no pixel is set.
    pub fn is_empty(&self) -> bool {
        self.area() == 0
    }

    /// Tight box around the set pixels in px, or `None` for an empty mask.
    pub fn bounding_box(&self) -> Result<Option<BoundingBox>> {
        let [x, y, width, height] = self.unpack()?.bbox();
        Ok((width > 0 && height > 0).then_some(BoundingBox {
            x,
            y,
            width,
            height,
        }))
    }

    /// The OR of masks of one size. Overlapping masks count once, which their sum would not.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] without a mask or with two sizes.
    pub fn union(masks: &[&RleMask]) -> Result<RleMask> {
        let Some(first) = masks.first() else {
            return Err(Error::invalid(
                "union of masks",
                "at least one mask",
                "none",
            ));
        };
        if let Some(other) = masks
            .iter()
            .find(|mask| (mask.height, mask.width) != (first.height, first.width))
        {
            return Err(Error::invalid(
                "union of masks",
                format!("{} x {} px", first.height, first.width),
                format!("{} x {} px", other.height, other.width),
            ));
        }
        if let [only] = masks {
            return Ok((*only).clone());
        }
        let rles = masks
            .iter()
            .map(|mask| mask.unpack())
            .collect::<Result<Vec<_>>>()?;
        let merged = Rle::merge(&rles, false)
            .map_err(|error| Error::Internal(format!("union of masks: {error}")))?;
        Ok(Self::pack(&merged))
    }

    /// Resized without interpolation: pixel `i` of `n` reads pixel `⌊i · old / n⌋`, PyTorch's
    /// `nearest`.
    pub fn resize_nearest(&self, height: u32, width: u32) -> Result<RleMask> {
        if (height, width) == (self.height, self.width) {
            return Ok(self.clone());
        }
        let raster = self.to_raster()?;
        let source = |i: u32, old: u32, new: u32| (i as u64 * old as u64 / new as u64) as usize;
        let columns: Vec<usize> = (0..width).map(|x| source(x, self.width, width)).collect();
        let mut resized = Vec::with_capacity(height as usize * width as usize);
        for y in 0..height {
            let row = source(y, self.height, height) * self.width as usize;
            resized.extend(columns.iter().map(|x| raster[row + x]));
        }
        Ok(Self::from_raster(&resized, height, width))
    }

    fn pack(rle: &Rle) -> Self {
        Self {
            height: rle.h,
            width: rle.w,
            counts: String::from_utf8(rle.to_string_bytes())
                .expect("the alphabet of COCO's counts is ASCII"),
        }
    }

    fn unpack(&self) -> Result<Rle> {
        let rle = Rle::from_string_bytes(self.counts.as_bytes(), self.height, self.width)
            .map_err(|error| Error::invalid("mask", "COCO run lengths", error))?;
        check_cover(&rle)?;
        // Other writers than COCO's have runs of no pixel, at which the union below (and COCO's) stops.
        Ok(if rle.counts.iter().skip(1).any(|n| *n == 0) {
            Rle::from_counts(rle.h, rle.w, joined(&rle.counts))
        } else {
            rle
        })
    }
}

/// The same pixels in runs that are not empty, but for the first.
fn joined(counts: &[u32]) -> Vec<u32> {
    let mut runs: Vec<u32> = Vec::with_capacity(counts.len());
    for (i, n) in counts.iter().enumerate() {
        let n_runs = runs.len();
        match runs.last_mut() {
            Some(_) if *n == 0 => {}
            // Even runs are background.
            Some(last) if (n_runs - 1) % 2 == i % 2 => *last += n,
            _ => runs.push(*n),
        }
    }
    runs
}

/// How long the edges of an object's polygons may be together, in px along the longer axis of each: far more than the
/// most jagged outline of the largest frame.
pub const MAX_POLYGON_PX: f64 = (1 << 21) as f64;

/// A rectangle of whole pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundingBox {
    /// Left column in px.
    pub x: u32,
    /// Top row in px.
    pub y: u32,
    /// px
    pub width: u32,
    /// px
    pub height: u32,
}

/// Length of a closed polygon in px along the longer axis of each edge: 0 for numbers that are no such polygon, which the
/// rasteriser refuses in its own words.
fn n_steps(polygon: &[f64]) -> f64 {
    let (points, rest) = polygon.as_chunks::<2>();
    if !rest.is_empty() || polygon.iter().any(|value| !value.is_finite()) {
        return 0.0;
    }
    let next = points.iter().cycle().skip(1);
    points
        .iter()
        .zip(next)
        .map(|([x, y], [next_x, next_y])| (next_x - x).abs().max((next_y - y).abs()))
        .sum()
}

/// That a raster of this size may be made.
fn check_size(height: u32, width: u32) -> Result<()> {
    if u64::from(height) * u64::from(width) <= MAX_PIXELS {
        return Ok(());
    }
    Err(Error::invalid(
        "mask",
        format!("at most {MAX_PIXELS} px"),
        format!("{height} x {width} px"),
    ))
}

fn check_cover(rle: &Rle) -> Result<()> {
    check_size(rle.h, rle.w)?;
    let expected = u64::from(rle.h) * u64::from(rle.w);
    let found: u64 = rle.counts.iter().copied().map(u64::from).sum();
    if found == expected {
        return Ok(());
    }
    Err(Error::invalid(
        "mask",
        format!("runs over {} x {} = {expected} px", rle.h, rle.w),
        format!("runs over {found} px"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rasters(n_masks: usize) -> impl Strategy<Value = (u32, u32, Vec<Vec<u8>>)> {
        (1u32..24, 1u32..24).prop_flat_map(move |(height, width)| {
            let raster = prop::collection::vec(0u8..2, (height * width) as usize);
            let masks = prop::collection::vec(raster, n_masks);
            (Just(height), Just(width), masks)
        })
    }

    fn check_refused(result: Result<RleMask>, words: &str) {
        let error = result.unwrap_err();
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }

    proptest! {
        #[test]
        fn a_raster_survives_the_encoding((height, width, masks) in rasters(1)) {
            let mask = RleMask::from_raster(&masks[0], height, width);
            prop_assert_eq!(mask.to_raster().unwrap(), masks[0].clone());
            let set = masks[0].iter().filter(|&&pixel| pixel == 1).count() as u64;
            prop_assert_eq!(mask.area(), set);
            prop_assert_eq!(mask.is_empty(), set == 0);
            let read = RleMask::from_coco(&mask.counts, height, width).unwrap();
            prop_assert_eq!(read, mask);
        }

        #[test]
        fn union_is_or((height, width, rasters) in rasters(3)) {
            let masks: Vec<_> = rasters
                .iter()
                .map(|raster| RleMask::from_raster(raster, height, width))
                .collect();
            let union = RleMask::union(&masks.iter().collect::<Vec<_>>()).unwrap();
            let or: Vec<u8> = (0..rasters[0].len())
                .map(|i| rasters.iter().map(|raster| raster[i]).max().unwrap())
                .collect();
            prop_assert_eq!(union.to_raster().unwrap(), or);
        }

        #[test]
        fn resizing_reads_the_nearest_pixel_above_and_left(
            (height, width, masks) in rasters(1),
            new_height in 1u32..40,
            new_width in 1u32..40,
        ) {
            let mask = RleMask::from_raster(&masks[0], height, width);
            let resized = mask.resize_nearest(new_height, new_width).unwrap();
            let raster = resized.to_raster().unwrap();
            for y in 0..new_height {
                for x in 0..new_width {
                    let from = (y * height / new_height) * width + x * width / new_width;
                    let at = (y * new_width + x) as usize;
                    prop_assert_eq!(raster[at], masks[0][from as usize]);
                }
            }
        }
    }

    #[test]
    fn a_box_and_a_polygon_of_the_same_corners_agree() {
        let polygon = vec![2.0, 1.0, 2.0, 4.0, 5.0, 4.0, 5.0, 1.0];
        let mask = RleMask::from_polygons(&[polygon], 6, 8).unwrap();
        let expected = BoundingBox {
            x: 2,
            y: 1,
            width: 3,
            height: 3,
        };
        assert_eq!(mask.bounding_box().unwrap(), Some(expected));
        assert_eq!(mask.area(), 9);
    }

    #[test]
    fn an_empty_mask_is_empty() {
        let mask = RleMask::empty(3, 5);
        assert!(mask.is_empty());
        assert_eq!(mask.bounding_box().unwrap(), None);
        assert_eq!(mask.to_raster().unwrap(), vec![0; 15]);
        assert_eq!(mask, RleMask::from_raster(&[0; 15], 3, 5));
    }

    #[test]
    fn a_polygon_with_two_points_is_refused() {
        check_refused(
            RleMask::from_polygons(&[vec![0.0, 0.0, 3.0, 3.0]], 8, 8),
            "three corners",
        );
        check_refused(
            RleMask::from_polygons(&[vec![0.0, 0.0, 3.0, f64::NAN, 1.0, 1.0]], 8, 8),
            "not finite",
        );
    }

    #[test]
    fn runs_that_do_not_cover_the_image_are_refused() {
        check_refused(RleMask::from_counts(&[3, 2], 2, 2), "5 px");
        check_refused(RleMask::from_counts(&[3], 2, 2), "3 px");
        check_refused(RleMask::from_coco("\u{7f}", 2, 2), "COCO run lengths");
    }

    #[test]
    fn runs_of_no_pixel_lose_none() {
        // 1 background, 2 object, 5 background, with empty runs of both between them.
        for counts in [
            &[1, 0, 0, 0, 0, 2, 5][..],
            &[1, 1, 0, 1, 5],
            &[1, 2, 2, 0, 3, 0],
        ] {
            let mask = RleMask::from_counts(counts, 2, 4).unwrap();
            assert_eq!(mask.area(), 2);
            assert_eq!(mask.to_raster().unwrap(), [0, 1, 0, 0, 1, 0, 0, 0]);
            let corner = RleMask::from_counts(&[7, 1], 2, 4).unwrap();
            let union = RleMask::union(&[&mask, &corner]).unwrap();
            assert_eq!(union.to_raster().unwrap(), [0, 1, 0, 0, 1, 0, 0, 1]);
            let resized = mask.resize_nearest(4, 8).unwrap();
            assert_eq!(resized.area(), 8);
        }
    }

    #[test]
    fn a_mask_that_no_frame_can_have_is_refused_before_it_is_drawn() {
        let (height, width) = (1 << 16, 1 << 16);
        let counts = [u32::MAX, 1];
        check_refused(RleMask::from_counts(&counts, height, width), "at most");
        let square = vec![0.0, 0.0, 9.0, 0.0, 9.0, 9.0];
        check_refused(RleMask::from_polygons(&[square], height, width), "at most");
    }

    #[test]
    fn a_polygon_far_outside_the_picture_is_refused() {
        let far = vec![0.0, 0.0, 1e9, 0.0, 5.0, 2e9];
        check_refused(RleMask::from_polygons(&[far], 8, 8), "px together");
        let overflowing = vec![-1e308, 0.0, 1e308, 0.0, 5.0, 2.0];
        check_refused(RleMask::from_polygons(&[overflowing], 8, 8), "inf px");
        let beyond = vec![
            -9.0, -9.0, 16_000.0, -9.0, 16_000.0, 16_000.0, -9.0, 16_000.0,
        ];
        let mask = RleMask::from_polygons(&[beyond], 8, 8).unwrap();
        assert_eq!(mask.area(), 64);
    }

    #[test]
    fn masks_of_two_sizes_have_no_union() {
        let (small, large) = (RleMask::empty(2, 2), RleMask::empty(2, 3));
        check_refused(RleMask::union(&[&small, &large]), "2 x 3");
        check_refused(RleMask::union(&[]), "none");
    }
}
