//! Linear layers, `x·W + b`, with a backward of their own.
//!
//! Burn multiplies, and adds the bias in a pass of its own; on a CPU it also copies each product once more. A small model's
//! rows are short, so those passes cost as much as the products. Here a product starts from its bias, ends with its
//! activation where no gradient is asked for, and nothing is copied.
//!
//! Shapes: `N` rows · `I` features in · `O` features out.

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, TensorMetadata, backend_extension};
use burn::tensor::{DType, Shape, Tensor, assert_shape};
use rayon::prelude::*;

use crate::activation::{self, Step, gated};
use crate::fast_math::{values_per_task, with_vectors};
use crate::matrix::{View, positive, product, tensor};
use crate::softmax::contiguous;

/// Linear layers and their gradients for every backend; Flex has kernels for f32.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait LinearOps: Backend {
    /// `x·W` of matrices.
    fn product_of_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        composed_product::<Self>(x, weight)
    }

    /// `x·W + b`, `b` added to each row.
    fn linear_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        composed::<Self>(x, weight, bias)
    }

    /// `x·W + b` and then its activation, where no gradient is asked for.
    fn linear_gated_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        step: Step,
    ) -> FloatTensor<Self> {
        activation::composed::<Self>(Self::linear_rows(x, weight, bias), step)
    }

    /// Gradient of `b`, from the gradient of the result: the sum of its rows.
    fn sum_of_rows(gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        composed_sum::<Self>(gradient)
    }
}

/// `x·W + b`; leading axes are rows of one matrix.
///
/// # Shapes
///
/// - x: `[.., I]`; weight: `[I, O]`; bias: `[O]`
/// - output: `[.., O]`
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let [d_input, d_output] = weight.dims();
    assert_shape!(x, [.., d_input]);
    let mut shape = x.dims();
    let n_rows = shape[..D - 1].iter().product::<usize>();
    let x = x.reshape([n_rows, d_input]);
    let taped = is_taped(&x, &weight, bias.as_ref());
    let (x, weight) = (on_tape(x, taped), on_tape(weight, taped));
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let y = match bias {
        None => Dispatch::product_of_rows(x, weight),
        Some(bias) => {
            assert_shape!(bias, [d_output]);
            Dispatch::linear_rows(x, weight, on_tape(bias, taped).into_dispatch())
        }
    };
    shape[D - 1] = d_output;
    Tensor::<2>::from_dispatch(y).reshape(shape)
}

/// `x·W + b` and then its activation, `y · step(y)`: one pass where no gradient is asked for.
///
/// # Shapes
///
/// - x: `[.., I]`; weight: `[I, O]`; bias: `[O]`
/// - output: `[.., O]`
pub fn linear_gated<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Tensor<1>,
    step: Step,
) -> Tensor<D> {
    if is_taped(&x, &weight, Some(&bias)) {
        return gated(linear(x, weight, Some(bias)), step); // backward needs what goes into the activation
    }
    let [d_input, d_output] = weight.dims();
    assert_shape!(x, [.., d_input]);
    assert_shape!(bias, [d_output]);
    let mut shape = x.dims();
    let x = x.reshape([shape[..D - 1].iter().product(), d_input]);
    let (x, weight) = (x.into_dispatch(), weight.into_dispatch());
    let y = Dispatch::linear_gated_rows(x, weight, bias.into_dispatch(), step);
    shape[D - 1] = d_output;
    Tensor::<2>::from_dispatch(y).reshape(shape)
}

fn is_taped<const D: usize>(x: &Tensor<D>, weight: &Tensor<2>, bias: Option<&Tensor<1>>) -> bool {
    x.is_autodiff() || weight.is_autodiff() || bias.is_some_and(|bias| bias.is_autodiff())
}

/// On a tape where the others are.
fn on_tape<const D: usize>(tensor: Tensor<D>, taped: bool) -> Tensor<D> {
    if taped && !tensor.is_autodiff() {
        tensor.autodiff()
    } else {
        tensor
    }
}

fn composed_product<B: Backend>(x: FloatTensor<B>, weight: FloatTensor<B>) -> FloatTensor<B> {
    B::float_matmul(x, weight)
}

fn composed<B: Backend>(
    x: FloatTensor<B>,
    weight: FloatTensor<B>,
    bias: FloatTensor<B>,
) -> FloatTensor<B> {
    let width = bias.shape().num_elements();
    let bias = B::float_reshape(bias, Shape::new([1, width]));
    B::float_add(composed_product::<B>(x, weight), bias)
}

fn composed_sum<B: Backend>(gradient: FloatTensor<B>) -> FloatTensor<B> {
    let [_, width] = gradient.shape().dims();
    B::float_reshape(B::float_sum_dim(gradient, 0), Shape::new([width]))
}

/// As Burn composes it.
#[cfg(feature = "cube")]
impl LinearOps for burn_cubecl::CubeBackend {}

impl LinearOps for Flex {
    fn product_of_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        if !has_kernel(&[&x, &weight]) {
            return composed_product::<Self>(x, weight);
        }
        multiplied(x, weight, None, None)
    }

    fn linear_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        if !has_kernel(&[&x, &weight, &bias]) {
            return composed::<Self>(x, weight, bias);
        }
        multiplied(x, weight, Some(contiguous(bias)), None)
    }

    fn linear_gated_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
        step: Step,
    ) -> FloatTensor<Self> {
        if !has_kernel(&[&x, &weight, &bias]) {
            return activation::composed::<Self>(composed::<Self>(x, weight, bias), step);
        }
        multiplied(x, weight, Some(contiguous(bias)), Some(step))
    }

    fn sum_of_rows(gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        if !has_kernel(&[&gradient]) {
            return composed_sum::<Self>(gradient);
        }
        let [_, width] = gradient.shape().dims();
        let gradient = contiguous(gradient);
        let values = gradient.storage::<f32>();
        // One sum per task, added up in order: the result does not depend on the number of threads.
        let sums: Vec<Vec<f32>> = values
            .par_chunks(values_per_task(values.len(), width))
            .map(|rows| {
                let mut sums = vec![0f32; width];
                add_rows(&mut sums, rows);
                sums
            })
            .collect();
        let mut total = vec![0f32; width];
        for sums in &sums {
            add_rows(&mut total, sums);
        }
        tensor(total, [width])
    }
}

fn has_kernel(tensors: &[&FlexTensor]) -> bool {
    let mut tensors = tensors.iter();
    tensors.all(|tensor| tensor.dtype() == DType::F32 && tensor.shape().num_elements() > 0)
}

fn multiplied(
    x: FlexTensor,
    weight: FlexTensor,
    bias: Option<FlexTensor>,
    step: Option<Step>,
) -> FlexTensor {
    let (x, weight) = (positive(x), positive(weight));
    let (x, weight) = (View::of(&x), View::of(&weight));
    let bias = bias.as_ref().map(|bias| bias.storage::<f32>());
    let shape = [x.shape[0], weight.shape[1]];
    tensor(product(x, weight, bias, step), shape)
}

with_vectors! {
    /// Adds each row to the sums.
    fn add_rows(sums: &mut [f32], rows: &[f32]) {
        for row in rows.chunks_exact(sums.len()) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += value;
            }
        }
    }
}

/// What backward needs of a product: each side for the gradient of the other, where that is asked for.
type Sides<B> = [Option<FloatTensor<B>>; 2];

/// The gradients of both sides of a product that are asked for.
fn sides_backward<B: Backend + LinearOps>(
    [x, weight]: Sides<B>,
    gradient: FloatTensor<B>,
) -> Sides<B> {
    let of_x = weight.map(|weight| {
        let weight = B::float_swap_dims(weight, 0, 1);
        B::product_of_rows(gradient.clone(), weight)
    });
    let of_weight = x.map(|x| B::product_of_rows(B::float_swap_dims(x, 0, 1), gradient));
    [of_x, of_weight]
}

impl<B: Backend + LinearOps, C: CheckpointStrategy> LinearOps for Autodiff<B, C> {
    fn product_of_rows(x: FloatTensor<Self>, weight: FloatTensor<Self>) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct ProductOfRows;

        impl<B: Backend + LinearOps> Backward<B, 2> for ProductOfRows {
            type State = Sides<B>;

            fn backward(
                self,
                ops: Ops<Self::State, 2>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let gradient = grads.consume::<B>(&ops.node);
                let of_sides = sides_backward::<B>(ops.state, gradient);
                for (node, gradient) in ops.parents.into_iter().zip(of_sides) {
                    if let (Some(node), Some(gradient)) = (node, gradient) {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        let prepared = ProductOfRows.prepare::<C>([x.node(), weight.node()]);
        let (x_trains, weight_trains) = (x.is_tracked(), weight.is_tracked());
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(
                [
                    weight_trains.then(|| x.clone()),
                    x_trains.then(|| weight.clone()),
                ],
                B::product_of_rows(x, weight),
            ),
            OpsKind::UnTracked(prepared) => prepared.finish(B::product_of_rows(x, weight)),
        }
    }

    fn linear_rows(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        #[derive(Debug)]
        struct LinearRows;

        impl<B: Backend + LinearOps> Backward<B, 3> for LinearRows {
            type State = Sides<B>;

            fn backward(
                self,
                ops: Ops<Self::State, 3>,
                grads: &mut Gradients,
                _checkpointer: &mut Checkpointer,
            ) {
                let [node_x, node_weight, node_bias] = ops.parents;
                let gradient = grads.consume::<B>(&ops.node);
                if let Some(node) = node_bias {
                    grads.register::<B>(node.id, B::sum_of_rows(gradient.clone()));
                }
                let of_sides = sides_backward::<B>(ops.state, gradient);
                for (node, gradient) in [node_x, node_weight].into_iter().zip(of_sides) {
                    if let (Some(node), Some(gradient)) = (node, gradient) {
                        grads.register::<B>(node.id, gradient);
                    }
                }
            }
        }

        let prepared = LinearRows.prepare::<C>([x.node(), weight.node(), bias.node()]);
        let (x_trains, weight_trains) = (x.is_tracked(), weight.is_tracked());
        let (x, weight) = (x.into_primitive(), weight.into_primitive());
        let bias = bias.into_primitive();
        match prepared.compute_bound().stateful() {
            OpsKind::Tracked(prepared) => prepared.finish(
                [
                    weight_trains.then(|| x.clone()),
                    x_trains.then(|| weight.clone()),
                ],
                B::linear_rows(x, weight, bias),
            ),
            OpsKind::UnTracked(prepared) => prepared.finish(B::linear_rows(x, weight, bias)),
        }
    }

    fn sum_of_rows(_gradient: FloatTensor<Self>) -> FloatTensor<Self> {
        panic!("the gradient of a gradient is not differentiable")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::uniform;
    use burn::tensor::{FloatDType, TensorData, Tolerance, module};
    use proptest::prelude::*;

    type Layer = fn(Tensor<3>, Tensor<2>, Option<Tensor<1>>) -> Tensor<3>;

    /// Value and all gradients.
    fn results(
        layer: Layer,
        x: Tensor<3>,
        weight: Tensor<2>,
        bias: Option<Tensor<1>>,
    ) -> Vec<TensorData> {
        let x = x.autodiff().require_grad();
        let weight = weight.autodiff().require_grad();
        let bias = bias.map(|bias| bias.autodiff().require_grad());
        let out = layer(x.clone(), weight.clone(), bias.clone());
        let pull = uniform(out.dims(), 9);
        let gradients = (out.clone() * pull.autodiff()).sum().backward();
        let of_bias = bias.map(|bias| bias.grad(&gradients).expect("tracked").into_data());
        let others = [
            out.without_autodiff().into_data(),
            x.grad(&gradients).expect("tracked").into_data(),
            weight.grad(&gradients).expect("tracked").into_data(),
        ];
        others.into_iter().chain(of_bias).collect()
    }

    fn check(x: Tensor<3>, weight: Tensor<2>, bias: Option<Tensor<1>>) {
        let found = results(linear, x.clone(), weight.clone(), bias.clone());
        let expected = results(module::linear, x, weight, bias);
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            let largest = expected.iter::<f32>().fold(1f32, |a, b| a.max(b.abs()));
            found.assert_approx_eq::<f32>(expected, Tolerance::absolute(1e-5 * largest));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_layer_and_its_gradients_equal_burns(
            batch in 1usize..4, rows in 1usize..40, d_input in 1usize..50, d_output in 1usize..50,
            has_bias in any::<bool>(), swapped in any::<[bool; 2]>(),
        ) {
            let x = if swapped[0] {
                uniform([rows, batch, d_input], 1).swap_dims(0, 1)
            } else {
                uniform([batch, rows, d_input], 1)
            };
            let weight = if swapped[1] {
                uniform([d_output, d_input], 2).swap_dims(0, 1)
            } else {
                uniform([d_input, d_output], 2)
            };
            check(x, weight, has_bias.then(|| uniform([d_output], 3)));
        }
    }

    #[test]
    fn more_than_one_threads_worth_equals_burns() {
        check(
            uniform([4, 900, 70], 1),
            uniform([70, 90], 2),
            Some(uniform([90], 3)),
        );
    }

    #[test]
    fn parts_of_wider_tensors_equal_burns() {
        let weight = uniform([12, 30], 2).narrow(1, 10, 10);
        let bias = uniform([30], 3).narrow(0, 10, 10);
        check(uniform([3, 9, 20], 1).narrow(2, 5, 12), weight, Some(bias));
    }

    #[test]
    fn nothing_in_is_nothing_out() {
        let x = Tensor::<2>::zeros([0, 4], &uniform([1], 1).device());
        let found = linear(x, uniform([4, 3], 2), Some(uniform([3], 3)));
        assert_eq!(found.dims(), [0, 3]);
    }

    #[test]
    fn an_activation_in_the_same_pass_is_the_activation_of_the_result() {
        for (rows, d_input, d_output) in [(3, 5, 7), (600, 90, 130)] {
            let x = uniform([2, rows, d_input], 1);
            let (weight, bias) = (uniform([d_input, d_output], 2), uniform([d_output], 3));
            for step in [Step::Normal, Step::Logistic { slope: 1.7 }] {
                let expected = linear(x.clone(), weight.clone(), Some(bias.clone()));
                let expected = gated(expected, step).into_data();
                let found = linear_gated(x.clone(), weight.clone(), bias.clone(), step);
                found.into_data().assert_eq(&expected, true);
                let x = x.clone().autodiff().require_grad();
                let taped = linear_gated(x.clone(), weight.clone(), bias.clone(), step);
                assert!(x.grad(&taped.clone().sum().backward()).is_some());
                taped
                    .without_autodiff()
                    .into_data()
                    .assert_eq(&expected, true);
            }
        }
    }

    #[test]
    fn what_does_not_train_gets_no_gradient() {
        let x = uniform([5, 4], 1).autodiff().require_grad();
        let (weight, bias) = (uniform([4, 3], 2), uniform([3], 3));
        let gradients = linear(x.clone(), weight.clone(), Some(bias.clone()))
            .sum()
            .backward();
        assert!(x.grad(&gradients).is_some());
        let frozen = x.without_autodiff();
        let weight = weight.autodiff().require_grad();
        let gradients = linear(frozen, weight.clone(), Some(bias)).sum().backward();
        assert!(weight.grad(&gradients).is_some());
    }

    #[test]
    fn narrow_numbers_are_composed() {
        let (x, weight, bias) = (uniform([5, 8], 1), uniform([8, 3], 2), uniform([3], 3));
        let expected = linear(x.clone(), weight.clone(), Some(bias.clone()));
        let narrow = FloatDType::BF16;
        let found = linear(x.cast(narrow), weight.cast(narrow), Some(bias.cast(narrow)));
        assert_eq!(found.dtype(), DType::BF16);
        let found = found.cast(FloatDType::F32).into_data();
        found.assert_approx_eq::<f32>(&expected.into_data(), Tolerance::absolute(5e-2));
    }

    #[test]
    fn the_number_of_threads_and_the_tape_change_no_bit() {
        let (x, weight, bias) = (
            uniform([4, 900, 70], 1),
            uniform([70, 130], 2),
            uniform([130], 3),
        );
        let with = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads);
            let pool = pool.build().unwrap();
            pool.install(|| results(linear, x.clone(), weight.clone(), Some(bias.clone())))
        };
        let (one, three) = (with(1), with(3));
        for (one, three) in one.iter().zip(&three) {
            one.assert_eq(three, true);
        }
        let untaped = linear(x, weight, Some(bias)).into_data();
        untaped.assert_eq(&one[0], true);
    }
}
