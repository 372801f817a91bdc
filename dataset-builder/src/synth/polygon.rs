//! Outlines of masks as COCO polygons.
//!
//! The outline runs along the edges between pixels, so that rasterising it as COCO does gives the mask
//! back. A polygon cannot have a hole: a mask with one has no polygons and is kept as run lengths.

use std::collections::BTreeMap;

/// The outer outlines of a `[side, side]` 0/1 mask, each `[x0, y0, x1, y1, …]` px; `None` when the mask has a
/// hole or no pixel.
pub fn outlines(mask: &[u8], side: usize) -> Option<Vec<Vec<f64>>> {
    let mut edges = boundary_edges(mask, side);
    let mut outlines = Vec::new();
    while let Some((&start, _)) = edges.iter().next() {
        let outline = follow(&mut edges, start);
        if doubled_area(&outline) < 0 {
            return None; // the edge of a hole runs the other way round
        }
        outlines.push(
            corners(&outline)
                .iter()
                .flat_map(|&(x, y)| [x as f64, y as f64])
                .collect(),
        );
    }
    (!outlines.is_empty()).then_some(outlines)
}

/// A point where four pixels meet: `(x, y)` px.
type Corner = (i64, i64);

/// From each corner, where the boundary goes on: clockwise on the screen, with the mask on its right.
fn boundary_edges(mask: &[u8], side: usize) -> BTreeMap<Corner, Vec<Corner>> {
    let side = side as i64;
    let inside = |x: i64, y: i64| {
        (0..side).contains(&x) && (0..side).contains(&y) && mask[(y * side + x) as usize] > 0
    };
    let mut edges: BTreeMap<Corner, Vec<Corner>> = BTreeMap::new();
    for y in 0..side {
        for x in (0..side).filter(|&x| inside(x, y)) {
            let sides = [
                (inside(x, y - 1), (x, y), (x + 1, y)),
                (inside(x + 1, y), (x + 1, y), (x + 1, y + 1)),
                (inside(x, y + 1), (x + 1, y + 1), (x, y + 1)),
                (inside(x - 1, y), (x, y + 1), (x, y)),
            ];
            for (_, from, to) in sides.into_iter().filter(|(neighbour, ..)| !neighbour) {
                edges.entry(from).or_default().push(to);
            }
        }
    }
    edges
}

/// Walks the boundary from `start` until it is back, taking the edges it uses.
fn follow(edges: &mut BTreeMap<Corner, Vec<Corner>>, start: Corner) -> Vec<Corner> {
    let mut outline = vec![start];
    let mut heading = (0, 0);
    loop {
        let here = outline[outline.len() - 1];
        let onward = edges
            .get_mut(&here)
            .expect("every corner that is entered is also left");
        // Where two pixels touch at a corner only, turn right: they are two outlines.
        let right = (here.0 - heading.1, here.1 + heading.0);
        let choice = onward.iter().position(|&to| to == right).unwrap_or(0);
        let next = onward.swap_remove(choice);
        if onward.is_empty() {
            edges.remove(&here);
        }
        if next == start {
            return outline;
        }
        heading = (next.0 - here.0, next.1 - here.1);
        outline.push(next);
    }
}

/// Twice the enclosed area, positive when clockwise on the screen.
fn doubled_area(outline: &[Corner]) -> i64 {
    let next = outline.iter().cycle().skip(1);
    outline
        .iter()
        .zip(next)
        .map(|(a, b)| a.0 * b.1 - b.0 * a.1)
        .sum()
}

/// Without the points that lie on a straight run.
fn corners(outline: &[Corner]) -> Vec<Corner> {
    let n = outline.len();
    (0..n)
        .filter(|&i| {
            let (before, here, after) =
                (outline[(i + n - 1) % n], outline[i], outline[(i + 1) % n]);
            (here.0 - before.0, here.1 - before.1) != (after.0 - here.0, after.1 - here.1)
        })
        .map(|i| outline[i])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use vernier_mask::Rle;

    fn check(picture: &[&str], expected: Option<Vec<Vec<f64>>>) {
        let mask: Vec<u8> = picture
            .iter()
            .flat_map(|row| row.bytes().map(|b| u8::from(b == b'#')))
            .collect();
        assert_eq!(outlines(&mask, picture.len()), expected);
    }

    #[test]
    fn a_rectangle_has_four_corners() {
        check(
            &["....", ".##.", ".##.", "...."],
            Some(vec![vec![1.0, 1.0, 3.0, 1.0, 3.0, 3.0, 1.0, 3.0]]),
        );
    }

    #[test]
    fn pixels_that_touch_at_a_corner_are_two_outlines() {
        check(
            &["#..", ".#.", "..."],
            Some(vec![
                vec![0.0, 0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0],
                vec![1.0, 1.0, 2.0, 1.0, 2.0, 2.0, 1.0, 2.0],
            ]),
        );
    }

    #[test]
    fn a_mask_with_a_hole_or_without_a_pixel_has_no_polygons() {
        check(&["###", "#.#", "###"], None);
        check(&["...", "...", "..."], None);
    }

    proptest! {
        #[test]
        fn rasterised_outlines_are_the_mask_again(mask in prop::collection::vec(0u8..2, 36)) {
            if let Some(outlines) = outlines(&mask, 6) {
                let raster = Rle::from_polygons(&outlines, 6, 6).unwrap().to_row_major_raster_bytes();
                let both = raster.iter().zip(&mask).filter(|(a, b)| **a > 0 && **b > 0).count();
                let any = raster.iter().zip(&mask).filter(|(a, b)| **a > 0 || **b > 0).count();
                prop_assert!(both as f64 / any as f64 > 0.9, "{both} of {any}");
            }
        }
    }
}
