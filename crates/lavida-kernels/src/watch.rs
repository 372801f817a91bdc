//! Gradients of parameters as backward finds them, not when all of it is over.
//!
//! A tape is walked by depth: every operation of a depth before any of a smaller one. A parameter is a leaf of depth zero, and a
//! view of it of depth one, so its gradient is complete only at the end, wherever in the model it is used. A gate moves
//! the parameter to where it is used: the same values, one deeper than a tensor that goes into that part of the model.
//! Whatever the part does with them is deeper still, so when backward comes to the gate the parameter's gradient of this
//! part is complete, and parts nearer to the inputs have not begun.
//!
//! Gates are put in while a [`Watch`] is on ([`Watch::during`]) and change nothing else. A parameter with several gates is
//! handed on after the last of them, with the sum. Reference: the hooks of PyTorch's `DistributedDataParallel`.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Backend, Dispatch, Flex, backend_extension};
use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::tensor::{DispatchTensor, Tensor};

use crate::recompute::FrontEnd;

/// Who is told of gradients: of which parameter, and its values end to end.
type Sink = Box<dyn FnMut(ParamId, Tensor<1>) + Send>;

/// The gates of one forward pass, and who hears of their gradients.
#[derive(Clone)]
pub struct Watch(Arc<Mutex<Watched>>);

struct Watched {
    parameters: HashMap<ParamId, Gated>,
    sink: Sink,
}

#[derive(Default)]
struct Gated {
    /// Gates whose gradient has not come.
    n_pending: usize,
    sum: Option<Tensor<1>>,
}

thread_local! {
    /// What watches the forward pass that runs on this thread. A model's layers are pure functions of their inputs, so what
    /// concerns backward alone goes past their arguments.
    static CURRENT: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

impl Watch {
    /// Tells `sink` of each gradient on the thread of backward, as soon as it is complete.
    pub fn new(sink: impl FnMut(ParamId, Tensor<1>) + Send + 'static) -> Self {
        Self(Arc::new(Mutex::new(Watched {
            parameters: HashMap::new(),
            sink: Box::new(sink),
        })))
    }

    /// Runs a forward pass whose parameters are watched.
    pub fn during<T>(&self, forward: impl FnOnce() -> T) -> T {
        struct Restore(Option<Watch>);
        impl Drop for Restore {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _restore = Restore(CURRENT.replace(Some(self.clone())));
        forward()
    }

    /// What watches the forward pass of this thread.
    pub fn current() -> Option<Self> {
        CURRENT.with_borrow(Clone::clone)
    }

    /// One gradient more of this parameter is to arrive, from somebody who is no gate.
    pub fn expect(&self, id: ParamId) {
        self.lock().parameters.entry(id).or_default().n_pending += 1;
    }

    /// A gradient of this parameter, end to end, has arrived.
    pub fn arrived(&self, id: ParamId, gradient: Tensor<1>) {
        let mut watched = self.lock();
        let Watched { parameters, sink } = &mut *watched;
        let gated = parameters.entry(id).or_default();
        gated.n_pending = gated.n_pending.saturating_sub(1);
        // In the order in which a tape would add them.
        let sum = match gated.sum.take() {
            None => gradient,
            Some(sum) => gradient + sum,
        };
        match gated.n_pending {
            0 => sink(id, sum),
            _ => gated.sum = Some(sum),
        }
    }

    /// After backward: what came of parameters some of whose gates no gradient reached, since nobody read what they led to.
    pub fn incomplete(&self) -> Vec<(ParamId, Tensor<1>)> {
        let mut watched = self.lock();
        let gated = watched.parameters.drain();
        gated
            .filter_map(|(id, gated)| Some((id, gated.sum?)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Watched> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn gate<const D: usize>(
        &self,
        id: ParamId,
        value: Tensor<D>,
        after: &DispatchTensor,
    ) -> Tensor<D> {
        self.expect(id);
        let gate = Gate {
            watch: self.clone(),
            id,
            flatten: |gradient| Tensor::<D>::from_dispatch(gradient).reshape([-1]),
        };
        Tensor::from_dispatch(Dispatch::gate(value.into_dispatch(), after.clone(), gate))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// The module with gates before its trained parameters, where a watch is on; `input` is what goes into it. Their gradients
/// are complete when backward comes to `input`.
pub fn gated<'a, M: Module, const D: usize>(module: &'a M, input: &Tensor<D>) -> Cow<'a, M> {
    match Watch::current() {
        // Where no gradient comes to, backward is over anyway.
        Some(watch) if input.is_tracked() => {
            let after = input.clone().into_dispatch();
            Cow::Owned(module.clone().map(&mut Gates { watch, after }))
        }
        _ => Cow::Borrowed(module),
    }
}

struct Gates {
    watch: Watch,
    after: DispatchTensor,
}

impl ModuleMapper for Gates {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let id = param.id;
        param.map(|value| {
            if value.is_require_grad() {
                self.watch.gate(id, value, &self.after)
            } else {
                value
            }
        })
    }
}

/// What a gate does when its gradient comes.
#[derive(Clone)]
pub struct Gate {
    watch: Watch,
    id: ParamId,
    flatten: fn(DispatchTensor) -> Tensor<1>,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate of {}", self.id)
    }
}

/// The gate itself; only a tape sees it.
#[backend_extension(Autodiff, Flex, Cube: cfg(feature = "cube"))]
pub trait WatchOps: Backend {
    /// `parameter`, as deep as if `after` had been needed for it.
    fn gate(
        parameter: FloatTensor<Self>,
        _after: FloatTensor<Self>,
        _gate: Gate,
    ) -> FloatTensor<Self> {
        parameter
    }
}

impl WatchOps for Flex {}

#[cfg(feature = "cube")]
impl WatchOps for burn_cubecl::CubeBackend {}

#[derive(Debug)]
struct Pass;

impl<B: FrontEnd> Backward<B, 2> for Pass {
    type State = Gate;

    fn backward(self, ops: Ops<Gate, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let gradient = grads.consume::<B>(&ops.node);
        let Gate { watch, id, flatten } = ops.state;
        watch.arrived(id, flatten(B::lift(gradient)));
    }
}

impl<B: FrontEnd + WatchOps, C: CheckpointStrategy> WatchOps for Autodiff<B, C> {
    fn gate(
        parameter: FloatTensor<Self>,
        after: FloatTensor<Self>,
        gate: Gate,
    ) -> FloatTensor<Self> {
        let nodes = [parameter.node(), after.node()];
        let prepared = Pass.prepare::<C>(nodes).compute_bound().stateful();
        let parameter = parameter.into_primitive();
        match prepared {
            OpsKind::Tracked(prepared) => prepared.finish(gate, parameter),
            OpsKind::UnTracked(prepared) => prepared.finish(parameter),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::{Device, Distribution};

    use super::*;

    fn layers(n: usize) -> Vec<Linear> {
        let device = Device::flex().autodiff();
        (0..n)
            .map(|_| LinearConfig::new(3, 3).init(&device))
            .collect()
    }

    fn input() -> Tensor<2> {
        let device = Device::flex().autodiff();
        Tensor::<2>::random([4, 3], Distribution::Default, &device).require_grad()
    }

    fn forward(layers: &[&Linear], input: Tensor<2>) -> Tensor<1> {
        let run = |hidden: Tensor<2>, layer: &&Linear| {
            let layer = gated(*layer, &hidden);
            layer.forward(hidden).tanh()
        };
        layers.iter().fold(input, run).sum()
    }

    fn gradients(layers: &[Linear], loss: Tensor<1>) -> Vec<Option<Vec<f32>>> {
        let mut gradients = loss.backward();
        let weights = layers.iter().map(|layer| layer.weight.val());
        let weights = weights.map(|weight| weight.grad_remove(&mut gradients));
        weights
            .map(|gradient| Some(gradient?.into_data().try_into_vec::<f32>().unwrap()))
            .collect()
    }

    #[test]
    fn a_watched_gradient_is_the_one_the_tape_would_have() {
        let layers = layers(3);
        let uses: Vec<&Linear> = layers.iter().chain(&layers[..2]).collect();
        let input = input();
        let expected = gradients(&layers, forward(&uses, input.clone()));
        let (send, sent) = mpsc::channel();
        let watch = Watch::new(move |id, gradient| send.send((id, gradient)).unwrap());
        let loss = watch.during(|| forward(&uses, input));
        let left = gradients(&layers, loss);
        assert!(left.iter().all(Option::is_none), "each went to the watch");
        assert!(watch.incomplete().is_empty());
        let found: HashMap<ParamId, Tensor<1>> = sent.try_iter().collect();
        for (layer, expected) in layers.iter().zip(expected) {
            let found = found[&layer.weight.id].clone().into_data();
            assert_eq!(found.try_into_vec::<f32>().ok(), expected);
        }
    }

    #[test]
    fn gradients_come_while_backward_goes_on() {
        let layers = layers(4);
        let uses: Vec<&Linear> = layers.iter().collect();
        let order = Arc::new(Mutex::new(Vec::new()));
        let noted = order.clone();
        let watch = Watch::new(move |id, _| noted.lock().unwrap().push(id));
        let loss = watch.during(|| forward(&uses, input()));
        loss.backward();
        let order = order.lock().unwrap();
        let place = |id: ParamId| order.iter().position(|other| *other == id).unwrap();
        for pair in layers.windows(2) {
            assert!(place(pair[1].weight.id) < place(pair[0].weight.id));
        }
    }

    #[test]
    fn what_nobody_reads_keeps_a_gradient_back_until_backward_is_over() {
        let layers = layers(1);
        let watch = Watch::new(|_, _| panic!("the gradient is not complete"));
        let loss = watch.during(|| {
            let input = input();
            let unread = gated(&layers[0], &input).forward(input.clone());
            drop(unread);
            forward(&[&layers[0]], input)
        });
        loss.backward();
        let incomplete = watch.incomplete();
        let ids: Vec<ParamId> = incomplete.iter().map(|(id, _)| *id).collect();
        assert!(ids.contains(&layers[0].weight.id));
    }

    #[test]
    fn without_a_watch_there_are_no_gates() {
        let layers = layers(1);
        let found = gradients(&layers, forward(&[&layers[0]], input()));
        assert!(found[0].is_some());
    }
}
