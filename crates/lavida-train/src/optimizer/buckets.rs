//! How parameters lie in flat buckets.
//!
//! Shapes: `F` values of a bucket, `O` those of them that this worker owns.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
};

use burn::{module::ParamId, tensor::Tensor};

use super::{BUCKET_VALUES, TrainableParameter};

/// Where one parameter lies in its bucket.
#[derive(Clone, Debug)]
pub(super) struct Slot {
    pub(super) id: ParamId,
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    pub(super) range: Range<usize>,
}

/// Parameters laid end to end, all with or all without weight decay.
#[derive(Clone, Debug)]
pub(super) struct Bucket {
    pub(super) slots: Vec<Slot>,
    pub(super) n_values: usize,
    pub(super) decayed: bool,
    /// Values whose state is kept here.
    pub(super) own: Range<usize>,
}

impl Bucket {
    /// `[F]` values of its parameters, end to end.
    pub(super) fn gather(&self, values: &mut HashMap<ParamId, Tensor<1>>) -> Tensor<1> {
        let parts = self.slots.iter().map(|slot| {
            let missing = "the module has every parameter the optimizer was made for";
            values.remove(&slot.id).expect(missing)
        });
        Tensor::cat(parts.collect(), 0)
    }

    /// `[O]` of `[F]` values.
    pub(super) fn own_part(&self, values: Tensor<1>) -> Tensor<1> {
        part_of(values, self.own.clone())
    }

    /// The new values of parameters that were reached, the old ones of the others; all `[O]`.
    pub(super) fn merged(
        &self,
        new: Tensor<1>,
        old: &Tensor<1>,
        reached: &HashSet<ParamId>,
    ) -> Tensor<1> {
        if self.slots.iter().all(|slot| reached.contains(&slot.id)) {
            return new;
        }
        let own = &self.own;
        let parts = self.slots.iter().filter_map(|slot| {
            let from = if reached.contains(&slot.id) {
                &new
            } else {
                old
            };
            let (start, end) = (slot.range.start.max(own.start), slot.range.end.min(own.end));
            let within = start.saturating_sub(own.start)..end.saturating_sub(own.start);
            (start < end).then(|| from.clone().slice([within]))
        });
        let parts: Vec<_> = parts.collect();
        if parts.is_empty() {
            new
        } else {
            Tensor::cat(parts, 0)
        }
    }
}

/// A range of a flat tensor.
pub(super) fn part_of(values: Tensor<1>, range: Range<usize>) -> Tensor<1> {
    if range == (0..values.dims()[0]) {
        values
    } else {
        values.slice([range])
    }
}

/// Parameters end to end, in their order, in buckets of at most [`BUCKET_VALUES`] unless one alone is larger.
pub(super) fn lay_out(parameters: Vec<TrainableParameter>, decayed: bool) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    for TrainableParameter { id, name, shape } in parameters {
        let size: usize = shape.iter().product();
        let fits = |bucket: &Bucket| bucket.n_values + size <= BUCKET_VALUES;
        if !buckets.last().is_some_and(fits) {
            buckets.push(Bucket {
                slots: Vec::new(),
                n_values: 0,
                decayed,
                own: 0..0,
            });
        }
        let bucket = buckets.last_mut().expect("one was just pushed");
        let range = bucket.n_values..bucket.n_values + size;
        bucket.n_values = range.end;
        bucket.own = 0..range.end;
        bucket.slots.push(Slot {
            id,
            name,
            shape,
            range,
        });
    }
    buckets
}
