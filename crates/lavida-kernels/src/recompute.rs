//! A part of a computation that keeps only its inputs: backward runs it again.
//!
//! The part runs without a tape. Its outputs are put on the tape afterwards, tied to its inputs through a knot, a
//! tensor of one value that stands for the part: an output hands its gradient to the knot, and when all outputs have
//! done so the part is run again from its inputs, this time with a tape of its own, and the inputs get their gradients.
//! Autodiff knows operations of one output and of a number of inputs known at compile time; the knot is what lets a
//! part have any number of both. Reference: gradient checkpointing (Chen et al., arXiv 1604.06174),
//! `torch.utils.checkpoint`.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::tensor::{DispatchTensor, Tensor};

/// What a part's second run gives: the gradient of each input, in order; none where nothing flows.
type InputGradients = Vec<Option<DispatchTensor>>;
/// A part's second run, from the gradient of each output, in order; none where nobody read it.
type SecondRun = Box<dyn FnOnce(Vec<Option<DispatchTensor>>) -> InputGradients + Send>;

/// A part of the computation, waiting for backward.
#[derive(Clone)]
pub struct Part(Arc<Mutex<PartState>>);

struct PartState {
    output_gradients: Vec<Option<DispatchTensor>>,
    second_run: Option<SecondRun>,
    input_gradients: InputGradients,
}

impl Part {
    fn state(&self) -> MutexGuard<'_, PartState> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The gradient of an input; the first call runs the part again.
    fn take_input_gradient(&self, index: usize) -> Option<DispatchTensor> {
        let mut state = self.state();
        if let Some(second_run) = state.second_run.take() {
            let gradients = std::mem::take(&mut state.output_gradients);
            state.input_gradients = second_run(gradients);
        }
        state.input_gradients[index].take()
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Part")
    }
}

/// A backend whose tensors can leave the backward of an operation and come back.
pub trait FrontEnd: Backend {
    /// The tensor as the front end knows it, without a tape.
    fn lift(tensor: FloatTensor<Self>) -> DispatchTensor;
    /// The backend's own tensor.
    fn lower(tensor: DispatchTensor) -> FloatTensor<Self>;
}

impl FrontEnd for Flex {
    fn lift(tensor: FloatTensor<Self>) -> DispatchTensor {
        Tensor::<1>::from_primitive::<Flex>(tensor).into_dispatch() // the rank is the type's alone
    }

    fn lower(tensor: DispatchTensor) -> FloatTensor<Self> {
        Tensor::<1>::from_dispatch(tensor)
            .try_into_primitive::<Flex>()
            .expect("a gradient lies where its tensor does")
    }
}

#[cfg(feature = "cube")]
impl FrontEnd for burn_cubecl::CubeBackend {
    fn lift(tensor: FloatTensor<Self>) -> DispatchTensor {
        Tensor::<1>::from_primitive::<Self>(tensor).into_dispatch()
    }

    fn lower(tensor: DispatchTensor) -> FloatTensor<Self> {
        Tensor::<1>::from_dispatch(tensor)
            .try_into_primitive::<Self>()
            .expect("a gradient lies where its tensor does")
    }
}

/// Ties between a part's inputs, its knot and its outputs; only a tape sees them.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait RecomputeOps: Backend {
    /// The knot, tied to one more input.
    fn tie_input(
        knot: FloatTensor<Self>,
        _input: FloatTensor<Self>,
        _index: usize,
        _part: Part,
    ) -> FloatTensor<Self> {
        knot
    }

    /// An output, tied to the knot.
    fn tie_output(
        output: FloatTensor<Self>,
        _knot: FloatTensor<Self>,
        _index: usize,
        _part: Part,
    ) -> FloatTensor<Self> {
        output
    }
}

impl RecomputeOps for Flex {}

#[cfg(feature = "cube")]
impl RecomputeOps for burn_cubecl::CubeBackend {}

/// Puts the outputs of a part that ran without a tape onto the tape of its inputs.
///
/// `second_run` is called at most once, in backward, from the gradients of the outputs to the gradients of the inputs, both in
/// order. It makes a tape of its own: the tensors it holds must not be on the inputs' tape.
pub fn tie<const O: usize, const D: usize>(
    outputs: [Tensor<D>; O],
    inputs: Vec<DispatchTensor>,
    second_run: impl FnOnce([Option<Tensor<D>>; O]) -> InputGradients + Send + 'static,
) -> [Tensor<D>; O] {
    let part = Part(Arc::new(Mutex::new(PartState {
        output_gradients: vec![None; O],
        second_run: Some(Box::new(move |gradients| {
            let mut gradients = gradients.into_iter();
            second_run(std::array::from_fn(|_| {
                gradients.next().flatten().map(Tensor::from_dispatch)
            }))
        })),
        input_gradients: Vec::new(),
    })));
    let device = outputs[0].device();
    let knot = Tensor::<1>::zeros([1], &device).into_dispatch();
    // The input tied last is the first to get its gradient.
    let knot = inputs
        .into_iter()
        .enumerate()
        .fold(knot, |knot, (index, input)| {
            Dispatch::tie_input(knot, input, index, part.clone())
        });
    let mut index = 0;
    outputs.map(|output| {
        let tied = Dispatch::tie_output(output.into_dispatch(), knot.clone(), index, part.clone());
        index += 1;
        Tensor::from_dispatch(tied)
    })
}

#[derive(Debug)]
struct TieInput;

impl<B: FrontEnd> Backward<B, 2> for TieInput {
    type State = (usize, Part);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let signal = grads.consume::<B>(&ops.node);
        let [knot, input] = ops.parents;
        let (index, part) = ops.state;
        let gradient = part.take_input_gradient(index);
        if let (Some(input), Some(gradient)) = (input, gradient) {
            grads.register::<B>(input.id, B::lower(gradient));
        }
        if let Some(knot) = knot {
            grads.register::<B>(knot.id, signal);
        }
    }
}

#[derive(Debug)]
struct TieOutput;

impl<B: FrontEnd> Backward<B, 1> for TieOutput {
    /// What the knot gets for a gradient is never read: it only has to be there.
    type State = (usize, Part, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (index, part, signal) = ops.state;
        part.state().output_gradients[index] = Some(B::lift(gradient));
        let [knot] = ops.parents;
        if let Some(knot) = knot {
            grads.register::<B>(knot.id, signal);
        }
    }
}

impl<B: FrontEnd + RecomputeOps, C: CheckpointStrategy> RecomputeOps for Autodiff<B, C> {
    fn tie_input(
        knot: FloatTensor<Self>,
        input: FloatTensor<Self>,
        index: usize,
        part: Part,
    ) -> FloatTensor<Self> {
        let nodes = [knot.node(), input.node()];
        let prepared = TieInput.prepare::<C>(nodes).compute_bound().stateful();
        let knot = knot.into_primitive();
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((index, part), knot),
            OpsKind::UnTracked(prepared) => prepared.finish(knot),
        }
    }

    fn tie_output(
        output: FloatTensor<Self>,
        knot: FloatTensor<Self>,
        index: usize,
        part: Part,
    ) -> FloatTensor<Self> {
        let nodes = [knot.node()];
        let prepared = TieOutput.prepare::<C>(nodes).compute_bound().stateful();
        let output = output.into_primitive();
        match prepared {
            OpsKind::Tracked(prepared) => {
                prepared.finish((index, part, knot.into_primitive()), output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}
