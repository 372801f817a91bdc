//! A segment of a computation that keeps only its inputs: backward runs it again.
//!
//! The segment runs without a tape. Its outputs are put on the tape afterwards, tied to its inputs through a marker, a
//! tensor of one value that stands for the segment: an output hands its gradient to the marker, and when all outputs have
//! done so the segment is run again from its inputs, this time with a tape of its own, and the inputs get their gradients.
//! Autodiff knows operations of one output and of a number of inputs known at compile time; the marker is what lets a
//! segment have any number of both. Reference: gradient checkpointing (Chen et al., arXiv 1604.06174),
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

/// What a segment's second run gives: the gradient of each input, in order; none where nothing flows.
type InputGradients = Vec<Option<DispatchTensor>>;
/// A segment's second run, from the gradient of each output, in order; none where nobody read it.
type SecondRun = Box<dyn FnOnce(Vec<Option<DispatchTensor>>) -> InputGradients + Send>;

/// A segment of the computation, waiting for backward.
#[derive(Clone)]
pub struct Segment(Arc<Mutex<SegmentState>>);

struct SegmentState {
    output_gradients: Vec<Option<DispatchTensor>>,
    second_run: Option<SecondRun>,
    input_gradients: InputGradients,
}

impl Segment {
    fn state(&self) -> MutexGuard<'_, SegmentState> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The gradient of an input; the first call runs the segment again.
    fn take_input_gradient(&self, index: usize) -> Option<DispatchTensor> {
        let mut state = self.state();
        if let Some(second_run) = state.second_run.take() {
            let gradients = std::mem::take(&mut state.output_gradients);
            state.input_gradients = second_run(gradients);
        }
        state.input_gradients[index].take()
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Segment")
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

/// Ties between a segment's inputs, its marker and its outputs; only a tape sees them.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait RecomputeOps: Backend {
    /// The marker, tied to one more input.
    fn tie_input(
        marker: FloatTensor<Self>,
        _input: FloatTensor<Self>,
        _index: usize,
        _segment: Segment,
    ) -> FloatTensor<Self> {
        marker
    }

    /// An output, tied to the marker.
    fn tie_output(
        output: FloatTensor<Self>,
        _marker: FloatTensor<Self>,
        _index: usize,
        _segment: Segment,
    ) -> FloatTensor<Self> {
        output
    }
}

impl RecomputeOps for Flex {}

#[cfg(feature = "cube")]
impl RecomputeOps for burn_cubecl::CubeBackend {}

/// Puts the outputs of a segment that ran without a tape onto the tape of its inputs.
///
/// `second_run` is called at most once, in backward, from the gradients of the outputs to the gradients of the inputs, both in
/// order. It makes a tape of its own: the tensors it holds must not be on the inputs' tape.
pub fn tie<const O: usize, const D: usize>(
    outputs: [Tensor<D>; O],
    inputs: Vec<DispatchTensor>,
    second_run: impl FnOnce([Option<Tensor<D>>; O]) -> InputGradients + Send + 'static,
) -> [Tensor<D>; O] {
    let segment = Segment(Arc::new(Mutex::new(SegmentState {
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
    let marker = Tensor::<1>::zeros([1], &device).into_dispatch();
    // The input tied last is the first to get its gradient.
    let marker = inputs
        .into_iter()
        .enumerate()
        .fold(marker, |marker, (index, input)| {
            Dispatch::tie_input(marker, input, index, segment.clone())
        });
    let mut index = 0;
    outputs.map(|output| {
        let tied = Dispatch::tie_output(
            output.into_dispatch(),
            marker.clone(),
            index,
            segment.clone(),
        );
        index += 1;
        Tensor::from_dispatch(tied)
    })
}

#[derive(Debug)]
struct TieInput;

impl<B: FrontEnd> Backward<B, 2> for TieInput {
    type State = (usize, Segment);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let signal = grads.consume::<B>(&ops.node);
        let [marker, input] = ops.parents;
        let (index, segment) = ops.state;
        let gradient = segment.take_input_gradient(index);
        if let (Some(input), Some(gradient)) = (input, gradient) {
            grads.register::<B>(input.id, B::lower(gradient));
        }
        if let Some(marker) = marker {
            grads.register::<B>(marker.id, signal);
        }
    }
}

#[derive(Debug)]
struct TieOutput;

impl<B: FrontEnd> Backward<B, 1> for TieOutput {
    /// What the marker gets for a gradient is never read: it only has to be there.
    type State = (usize, Segment, FloatTensor<B>);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let (index, segment, signal) = ops.state;
        segment.state().output_gradients[index] = Some(B::lift(gradient));
        let [marker] = ops.parents;
        if let Some(marker) = marker {
            grads.register::<B>(marker.id, signal);
        }
    }
}

impl<B: FrontEnd + RecomputeOps, C: CheckpointStrategy> RecomputeOps for Autodiff<B, C> {
    fn tie_input(
        marker: FloatTensor<Self>,
        input: FloatTensor<Self>,
        index: usize,
        segment: Segment,
    ) -> FloatTensor<Self> {
        let nodes = [marker.node(), input.node()];
        let prepared = TieInput.prepare::<C>(nodes).compute_bound().stateful();
        let marker = marker.into_primitive();
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish((index, segment), marker),
            OpsKind::UnTracked(prepared) => prepared.finish(marker),
        }
    }

    fn tie_output(
        output: FloatTensor<Self>,
        marker: FloatTensor<Self>,
        index: usize,
        segment: Segment,
    ) -> FloatTensor<Self> {
        let nodes = [marker.node()];
        let prepared = TieOutput.prepare::<C>(nodes).compute_bound().stateful();
        let output = output.into_primitive();
        match prepared {
            OpsKind::Tracked(prepared) => {
                prepared.finish((index, segment, marker.into_primitive()), output)
            }
            OpsKind::UnTracked(prepared) => prepared.finish(output),
        }
    }
}
