//! Blocks whose forward runs without a tape and once more in backward, so that of a block only its inputs are kept.
//!
//! A plain backward keeps every intermediate result of every block until the gradient has come back to it. A recomputed
//! block keeps what goes in; its intermediate results exist twice for a moment, never all blocks' at once. One more
//! forward of these blocks is the price. A block has no randomness, so the second run repeats the first bit for bit,
//! and so do the gradients. Reference: `gradient_checkpointing_enable` of transformers; the node itself is
//! [`lavida_kernels::recompute`].

use std::collections::HashSet;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::tensor::{Gradients, Tensor};
use lavida_kernels::recompute::tie;
use lavida_kernels::watch::{Watch, gated};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What backward computes again instead of keeping it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recompute {
    /// Nothing: fastest, every intermediate result of what trains is kept.
    #[default]
    None,
    /// The language model's layers, the projector's Q-Former, the mask decoder's blocks and what follows them.
    Blocks,
}

impl Recompute {
    /// Runs a block: plainly, or keeping only its inputs. `run` must not reach tensors on a tape but through its arguments.
    pub(crate) fn block<M, const I: usize, const O: usize>(
        self,
        module: &M,
        inputs: [Tensor<3>; I],
        run: impl Fn(&M, [Tensor<3>; I]) -> [Tensor<3>; O] + Send + 'static,
    ) -> [Tensor<3>; O]
    where
        M: Module + 'static,
    {
        let mut leaves = TrainedLeaves::default();
        module.visit(&mut leaves);
        let is_tracked = inputs.each_ref().map(Tensor::is_tracked);
        if self == Self::None || (leaves.ids.is_empty() && !is_tracked.contains(&true)) {
            return match inputs.iter().find(|input| input.is_tracked()).cloned() {
                Some(input) => run(&gated(module, &input), inputs),
                None => run(module, inputs),
            };
        }
        let watch = Watch::current();
        if let Some(watch) = &watch {
            leaves.ids.iter().for_each(|id| watch.expect(*id));
        }
        let untaped = module.valid();
        let kept = inputs.clone().map(Tensor::without_autodiff);
        let outputs = run(&untaped, kept.clone());
        let mut tied: Vec<_> = inputs.into_iter().map(Tensor::into_dispatch).collect();
        tied.extend(leaves.tensors);
        let trained: HashSet<ParamId> = leaves.ids.iter().copied().collect();
        tie(outputs, tied, move |output_gradients| {
            let module = untaped.map(&mut OntoTape(trained));
            let mut tracked = is_tracked.into_iter();
            let inputs = kept.map(|input| match tracked.next() {
                Some(true) => input.autodiff().require_grad(),
                _ => input,
            });
            let outputs = run(&module, inputs.clone());
            let mut gradients = backward(outputs, output_gradients);
            let of_inputs = inputs.into_iter().zip(is_tracked).map(|(input, tracked)| {
                let gradient = tracked.then(|| input.grad_remove(&mut gradients)).flatten();
                gradient.map(Tensor::into_dispatch)
            });
            let mut all: Vec<_> = of_inputs.collect();
            module.visit(&mut TakeGradients {
                gradients: &mut gradients,
                taken: &mut all,
                watch: watch.as_ref(),
            });
            all
        })
    }
}

/// Two ends of one tensor: each gathers the gradients of its own readers before both are added. Sums of two do not
/// depend on the order of their terms, so a tensor that several blocks read, or a block and those behind it, gets the
/// same gradient, to the bit, whether blocks are recomputed or not.
pub(crate) fn fork<const D: usize>(tensor: Tensor<D>) -> [Tensor<D>; 2] {
    let shape = tensor.dims();
    [tensor.clone().reshape(shape), tensor.reshape(shape)] // the same values, nothing is copied
}

/// Backward from several outputs with the gradients they got.
fn backward<const O: usize>(
    outputs: [Tensor<3>; O],
    gradients: [Option<Tensor<3>>; O],
) -> Gradients {
    let pairs = outputs.into_iter().zip(gradients);
    let terms = pairs.filter_map(|(output, gradient)| Some((output * gradient?).sum()));
    terms
        .reduce(|a, b| a + b)
        .expect("backward reaches a block only through an output")
        .backward()
}

/// The parameters that ask for a gradient, in the order of the visit.
#[derive(Default)]
struct TrainedLeaves {
    ids: Vec<ParamId>,
    tensors: Vec<burn::tensor::DispatchTensor>,
}

impl ModuleVisitor for TrainedLeaves {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if value.is_require_grad() {
            self.ids.push(param.id);
            self.tensors.push(value.into_dispatch());
        }
    }
}

/// Makes leaves of a tape of its own out of what trains.
struct OntoTape(HashSet<ParamId>);

impl ModuleMapper for OntoTape {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.0.contains(&param.id) {
            param.map(|value| value.autodiff().require_grad())
        } else {
            param
        }
    }
}

struct TakeGradients<'a> {
    gradients: &'a mut Gradients,
    taken: &'a mut Vec<Option<burn::tensor::DispatchTensor>>,
    /// Who gets the gradients in the place of the tape.
    watch: Option<&'a Watch>,
}

impl ModuleVisitor for TakeGradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let value = param.val();
        if value.is_require_grad() {
            let mut gradient = value.grad_remove(self.gradients);
            if let Some(watch) = self.watch
                && let Some(gradient) = gradient.take()
            {
                watch.arrived(param.id, gradient.reshape([-1]));
            }
            self.taken.push(gradient.map(Tensor::into_dispatch));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{Device, Distribution, TensorData};

    use crate::linear::{Linear, LinearConfig};
    use crate::weights;
    use burn::optim::GradientsParams;

    fn random(shape: [usize; 3]) -> Tensor<3> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), &Device::flex())
    }

    /// Two outputs, one of which is read twice; the second layer is frozen, the first carries an adapter.
    #[allow(clippy::ptr_arg, reason = "the vector is the module")]
    fn two_outputs(layers: &Vec<Linear>, [x, y]: [Tensor<3>; 2]) -> [Tensor<3>; 2] {
        let hidden = layers[0].forward(x.clone()).tanh();
        [layers[1].forward(hidden.clone() * y), hidden + x]
    }

    fn layers(device: &Device) -> Vec<Linear> {
        let mut layers: Vec<Linear> = (0..3)
            .map(|_| LinearConfig::new(4, 4).init(device))
            .collect();
        layers[0] = layers[0].clone().with_lora(2, 4.0);
        layers[1].weight = layers[1].weight.clone().set_require_grad(false);
        layers
    }

    /// Loss, gradients of parameters by name and of both inputs.
    fn losses_and_gradients(
        recompute: Recompute,
        layers: &Vec<Linear>,
        inputs: &[Tensor<3>; 2],
        reads: impl Fn([Tensor<3>; 2]) -> Tensor<1>,
    ) -> (TensorData, weights::Tensors, [Option<TensorData>; 2]) {
        let [x, y] = inputs.clone().map(|x| x.autodiff().require_grad());
        // The input is not a leaf, and another layer reads the same parameter again.
        let inside = layers[0].forward(x.clone());
        let outputs = recompute.block(layers, [inside, y.clone()], two_outputs);
        let loss = reads(outputs);
        let mut gradients = loss.backward();
        let of_inputs = [x, y].map(|x| x.grad_remove(&mut gradients).map(Tensor::into_data));
        let gradients = GradientsParams::from_grads(gradients, layers);
        let by_name = weights::export_gradients(layers, &gradients);
        (loss.into_data(), by_name, of_inputs)
    }

    #[track_caller]
    fn check(reads: impl Fn([Tensor<3>; 2]) -> Tensor<1>) {
        let layers = layers(&Device::flex().autodiff());
        let inputs = [random([2, 3, 4]), random([2, 3, 4])];
        let plain = losses_and_gradients(Recompute::None, &layers, &inputs, &reads);
        let again = losses_and_gradients(Recompute::Blocks, &layers, &inputs, &reads);
        assert!(!plain.1.is_empty());
        assert_eq!(plain, again);
    }

    #[test]
    fn a_recomputed_block_gives_the_gradients_of_a_kept_one_bit_for_bit() {
        check(|[a, b]| (a * 3.0 + b.clone().exp() + b).sum());
    }

    #[test]
    fn an_output_nobody_reads_gets_no_gradient() {
        check(|[a, _]| a.sum());
        check(|[_, b]| b.sin().sum());
    }

    #[test]
    fn blocks_in_a_row_are_run_again_one_by_one() {
        let layers = layers(&Device::flex().autodiff());
        let inputs = random([2, 3, 4]);
        let run = |recompute: Recompute| {
            let mut hidden = inputs.clone(); // not on a tape: only the parameters train
            for _ in 0..3 {
                [hidden, _] = recompute.block(&layers, [hidden.clone(), hidden], two_outputs);
            }
            let gradients = GradientsParams::from_grads(hidden.sum().backward(), &layers);
            weights::export_gradients(&layers, &gradients)
        };
        assert_eq!(run(Recompute::None), run(Recompute::Blocks));
    }

    #[test]
    fn a_block_in_which_nothing_trains_stays_off_the_tape() {
        let layers = layers(&Device::flex());
        let inputs = [random([1, 2, 4]), random([1, 2, 4])];
        let [plain, _] = two_outputs(&layers, inputs.clone());
        let [again, _] = Recompute::Blocks.block(&layers, inputs, two_outputs);
        assert!(!again.is_tracked());
        plain.into_data().assert_eq(&again.into_data(), true);
    }

    #[test]
    fn blocks_of_several_threads_do_not_wait_for_each_other() {
        let layers = layers(&Device::flex().autodiff());
        let inputs = [random([2, 3, 4]), random([2, 3, 4])];
        let run = |layers: &Vec<Linear>, inputs: &[Tensor<3>; 2]| {
            losses_and_gradients(Recompute::Blocks, layers, inputs, |[a, b]| (a + b).sum())
        };
        let expected = run(&layers, &inputs);
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    // A thread's parameters are leaves of its own: one tape cannot be shared.
                    let trained: HashSet<ParamId> = {
                        let mut leaves = TrainedLeaves::default();
                        layers.visit(&mut leaves);
                        leaves.ids.into_iter().collect()
                    };
                    let own = layers.valid().map(&mut OntoTape(trained));
                    let (inputs, run) = (&inputs, &run);
                    scope.spawn(move || (0..20).map(|_| run(&own, inputs)).collect::<Vec<_>>())
                })
                .collect();
            for thread in threads {
                let found = thread.join().unwrap();
                assert!(found.iter().all(|found| *found == expected));
            }
        });
    }
}
