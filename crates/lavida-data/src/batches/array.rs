//! Values with their sizes, as they go to a device.

/// A row-major array of any rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// `shape.product()` values.
    pub values: Vec<T>,
}

impl<T> Array<T> {
    /// An array of these values.
    ///
    /// # Panics
    ///
    /// When there are not `shape.product()` values.
    pub fn new(shape: Vec<usize>, values: Vec<T>) -> Self {
        assert_eq!(
            shape.iter().product::<usize>(),
            values.len(),
            "values of shape {shape:?}"
        );
        Self { shape, values }
    }
}
