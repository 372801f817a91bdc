//! Activations of the form `x · step(x)`: SiLU, quick GELU and GELU, with a backward of their own.
//!
//! Composed of Burn's operations each is several passes over the values and waits for the C library's exponential.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind, unary};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DType, Tensor};
use rayon::prelude::*;

use crate::fast_math::{normal, sigmoid, values_per_task, with_vectors};
use crate::softmax::contiguous;

/// Of quick GELU.
pub const QUICK_GELU: Step = Step::Logistic { slope: 1.702 };

/// A smooth step from 0 to 1 that gates its own argument.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Step {
    /// `σ(slope · x)`: SiLU with slope 1, quick GELU with 1.702.
    Logistic {
        /// How steep it is.
        slope: f32,
    },
    /// `Φ(x)` of the standard normal distribution: GELU.
    Normal,
}

/// `x · σ(x)`, the activation of SwiGLU.
pub fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    gated(x, Step::Logistic { slope: 1.0 })
}

/// `x · σ(1.702·x)`, OpenAI's cheap GELU: CLIP and Qwen2-VL's vision tower.
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    gated(x, QUICK_GELU)
}

/// `x · Φ(x)`, to 3e-7 of x.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    gated(x, Step::Normal)
}

/// `x · step(x)`.
pub fn gated<const D: usize>(x: Tensor<D>, step: Step) -> Tensor<D> {
    Tensor::from_dispatch(Dispatch::gated(x.into_dispatch(), step))
}

/// `x · step(x)` and its gradient for every backend; Flex has kernels for f32.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait GatedOps: Backend {
    /// `x · step(x)`.
    fn gated(x: FloatTensor<Self>, step: Step) -> FloatTensor<Self> {
        composed::<Self>(x, step)
    }

    /// Gradient of `x`: `g · (step(x) + x·step'(x))`, from the gradient `g` of the result.
    fn gated_backward(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        step: Step,
    ) -> FloatTensor<Self> {
        composed_backward::<Self>(x, gradient, step)
    }
}

pub(crate) fn composed<B: Backend>(x: FloatTensor<B>, step: Step) -> FloatTensor<B> {
    match step {
        Step::Normal => B::gelu(x),
        Step::Logistic { slope } => {
            let gate = B::sigmoid(B::float_mul_scalar(x.clone(), slope.into()));
            B::float_mul(x, gate)
        }
    }
}

fn composed_backward<B: Backend>(
    x: FloatTensor<B>,
    gradient: FloatTensor<B>,
    step: Step,
) -> FloatTensor<B> {
    match step {
        // Burn's own is the derivative of another function, the approximation by tanh: 3e-4 off.
        Step::Normal => {
            // Φ(x) + x·φ(x)
            let scaled = B::float_mul_scalar(x.clone(), FRAC_1_SQRT_2.into());
            let squared = B::float_mul(scaled.clone(), scaled.clone());
            let density = B::float_exp(B::float_neg(squared));
            let density =
                B::float_mul_scalar(density, (0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2).into());
            let doubled = B::float_add_scalar(B::float_erf(scaled), 1f32.into());
            let distribution = B::float_mul_scalar(doubled, 0.5f32.into());
            let slope = B::float_add(distribution, B::float_mul(x, density));
            B::float_mul(gradient, slope)
        }
        Step::Logistic { slope } => {
            // gate + slope·x·gate·(1 − gate)
            let gate = B::sigmoid(B::float_mul_scalar(x.clone(), slope.into()));
            let x_gate = B::float_mul_scalar(B::float_mul(x, gate.clone()), slope.into());
            let falling = B::float_add_scalar(B::float_neg(gate.clone()), 1f32.into());
            let slope = B::float_add(gate, B::float_mul(x_gate, falling));
            B::float_mul(gradient, slope)
        }
    }
}

/// As Burn composes it.
#[cfg(feature = "cube")]
impl GatedOps for burn_cubecl::CubeBackend {}

impl GatedOps for Flex {
    fn gated(x: FloatTensor<Self>, step: Step) -> FloatTensor<Self> {
        if x.dtype() != DType::F32 {
            return composed::<Self>(x, step);
        }
        let mut x = contiguous(x);
        gate_all(x.storage_mut::<f32>(), step);
        x
    }

    fn gated_backward(
        x: FloatTensor<Self>,
        gradient: FloatTensor<Self>,
        step: Step,
    ) -> FloatTensor<Self> {
        if x.dtype() != DType::F32 || gradient.dtype() != DType::F32 {
            return composed_backward::<Self>(x, gradient, step);
        }
        let x = contiguous(x);
        let mut gradient = contiguous(gradient);
        let values = gradient.storage_mut::<f32>();
        let per_task = values_per_task(values.len(), 1);
        values
            .par_chunks_mut(per_task)
            .zip(x.storage::<f32>().par_chunks(per_task))
            .for_each(|(gradient, x)| match step {
                Step::Normal => gelu_backward_in_place(gradient, x),
                Step::Logistic { slope } => swish_backward_in_place(gradient, x, slope),
            });
        gradient
    }
}

/// Each value becomes `x · step(x)`; by as many threads as it is worth.
pub(crate) fn gate_all(values: &mut [f32], step: Step) {
    let per_task = values_per_task(values.len(), 1);
    let tasks = values.par_chunks_mut(per_task);
    tasks.for_each(|values| gate_in_place(values, step));
}

with_vectors! {
    fn gate_in_place(values: &mut [f32], step: Step) {
        gate(values, step);
    }
}

/// Each value becomes `x · step(x)`, by the vectors that the caller is compiled for.
#[inline(always)]
pub(crate) fn gate(values: &mut [f32], step: Step) {
    match step {
        Step::Normal => values
            .iter_mut()
            .for_each(|x| *x *= normal(*x).distribution),
        Step::Logistic { slope } => values.iter_mut().for_each(|x| *x *= sigmoid(slope * *x)),
    }
}

with_vectors! {
    fn swish_backward_in_place(gradients: &mut [f32], values: &[f32], slope: f32) {
        for (gradient, x) in gradients.iter_mut().zip(values) {
            let gate = sigmoid(slope * x);
            *gradient *= gate + slope * x * gate * (1.0 - gate);
        }
    }
}

with_vectors! {
    fn gelu_backward_in_place(gradients: &mut [f32], values: &[f32]) {
        for (gradient, x) in gradients.iter_mut().zip(values) {
            let step = normal(*x);
            *gradient *= step.distribution + x * step.density;
        }
    }
}

impl<B: Backend + GatedOps, C: CheckpointStrategy> GatedOps for Autodiff<B, C> {
    fn gated(x: FloatTensor<Self>, step: Step) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct Gated;

        impl<B: Backend + GatedOps> Backward<B, 1> for Gated {
            type State = (FloatTensor<B>, Step);

            fn backward(
                self,
                ops: Ops<Self::State, 1>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let (x, step) = ops.state;
                unary::<B, _>(ops.parents, ops.node, grads, |gradient| {
                    B::gated_backward(x, gradient, step)
                });
            }
        }

        let node = x.node();
        let x = x.into_primitive();
        match Gated.prepare::<C>([node]).compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish((x.clone(), step), B::gated(x, step)),
            OpsKind::UnTracked(prepared) => prepared.finish(B::gated(x, step)),
        }
    }

    fn gated_backward(
        _x: FloatTensor<Self>,
        _gradient: FloatTensor<Self>,
        _step: Step,
    ) -> FloatTensor<Self> {
        panic!("the gradient of a gradient is not differentiable")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution, Tolerance, activation};

    /// A device whose draws repeat.
    fn seeded() -> Device {
        let device = Device::flex();
        device.seed(1);
        device
    }

    /// Kernel against Burn's composed operations, value and gradient.
    fn check(kernel: fn(Tensor<3>) -> Tensor<3>, composed: fn(Tensor<3>) -> Tensor<3>) {
        let device = seeded();
        for x in [
            Tensor::random([3, 5, 7], Distribution::Uniform(-6.0, 6.0), &device),
            Tensor::random([40, 50, 33], Distribution::Uniform(-6.0, 6.0), &device),
            Tensor::random([3, 5, 7], Distribution::Uniform(-6.0, 6.0), &device).swap_dims(0, 2),
        ] {
            let weights = Tensor::random(x.shape(), Distribution::Normal(0.0, 1.0), &device);
            let run = |activation: fn(Tensor<3>) -> Tensor<3>| {
                let x = x.clone().autodiff().require_grad();
                let result = activation(x.clone());
                let gradients = (result.clone() * weights.clone()).sum().backward();
                (
                    result.without_autodiff().into_data(),
                    x.grad(&gradients).expect("tracked").into_data(),
                )
            };
            let (found, found_gradient) = run(kernel);
            let (expected, expected_gradient) = run(composed);
            let tolerance = Tolerance::absolute(3e-6);
            found.assert_approx_eq::<f32>(&expected, tolerance);
            found_gradient.assert_approx_eq::<f32>(&expected_gradient, tolerance);
        }
    }

    #[test]
    fn silu_equals_the_composed_one() {
        check(silu, activation::silu);
    }

    #[test]
    fn quick_gelu_equals_the_composed_one() {
        check(quick_gelu, |x| x.clone() * activation::sigmoid(x * 1.702));
    }

    #[test]
    fn gelu_equals_the_composed_one() {
        check(gelu, activation::gelu);
    }
}
